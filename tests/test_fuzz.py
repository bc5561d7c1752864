"""Every reader of files under thousands of seeded damages: what it reads, or one line; no other error, and no endless work."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from click.testing import Result
from conftest import LABELS
from PIL import Image
from safetensors.torch import save_file

from imptool.checkpoint import load_checkpoint, load_weights, parse_about
from imptool.data.coco import read_coco, read_results
from imptool.data.dataset import load_dataset
from imptool.data.images import read_image, read_label_map
from imptool.data.layouts.lists import read_list
from imptool.evaluation.from_files import parse_remap
from imptool.evaluation.record import load_record
from imptool.files import InputError
from imptool.models.weights import read_tensors
from imptool.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Pillow warns of odd EXIF and sizes
DAMAGES = 300
INTERESTING = (0, 1, 2, 13, 14, 15, 16, 127, 128, 255)


def damaged(whole: bytes, *, seed: int) -> Iterator[bytes]:
    """A file with bytes changed, a part left out, repeated or moved, or its end missing."""
    drawn = np.random.default_rng(seed)
    for _ in range(DAMAGES):
        changed = bytearray(whole)
        kind = drawn.integers(6)
        start, end = sorted(drawn.integers(0, len(whole) + 1, 2).tolist())
        end = min(end, start + 64)
        if kind == 0:
            del changed[start:]
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end] * int(drawn.integers(1, 9))
        else:
            for place in drawn.integers(0, len(whole), drawn.integers(1, 6)).tolist():
                changed[place] = int(drawn.choice(INTERESTING)) if kind < 5 else int(drawn.integers(256))
        yield bytes(changed)


def assert_read_or_told(path: Path, whole: bytes, read: Callable[[Path], object], *, write: Callable[[bytes], object]) -> None:
    """Whatever the damage, `read` gives something or raises InputError in one line; undamaged it gives something."""
    write(whole)
    read(path)
    told = 0
    for changed in damaged(whole, seed=len(whole)):
        write(changed)
        try:
            read(path)
        except InputError as error:
            assert len(str(error)) < 2000  # noqa: PT017
            told += 1
    assert told > DAMAGES // 20


def bytes_of(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


MAP = np.arange(600).reshape(20, 30) % 7
COCO = {
    "images": [{"id": n, "file_name": f"{n}.png", "height": 5, "width": 6} for n in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "bbox": [1, 1, 3, 2], "area": 6},
        {"id": 2, "image_id": 2, "category_id": 2, "segmentation": {"size": [5, 6], "counts": [4, 6, 20]}, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "coat"}, {"id": 2, "name": "hat"}],
}
RESULTS = [
    {"image_id": 1, "category_id": 2, "score": 0.5, "bbox": [0, 0, 2, 2], "segmentation": {"size": [5, 6], "counts": "N"}}
]
RECIPE = "dataset: &a x\nseed: 3\nbackbone: {weights: none, norm: batch}\nstages: {full: {iterations: 4, steps: [1, 2]}}\n"
TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(7)}


def mats(*, packed: bool) -> bytes:
    variables = {"groundtruth": MAP.astype(np.uint8), "tags": np.array(["a", 1], object), "s": {"x": 1.5}}
    return bytes_of(lambda file: scipy.io.savemat(file, variables, do_compression=packed))


def read_any_results(path: Path) -> object:
    return read_results(path, COCO)


FILES: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "recipe": ("x.yaml", RECIPE.encode(), lambda path: load_recipe(str(path))),
    "remap": ("x.yaml", b"remap: {7: 5, 8: 9, 1: 0}\n", lambda path: parse_remap([str(path)], LABELS)),
    "list": ("x.txt", "a\nb c\nü\n".encode() * 9, read_list),
    "COCO JSON": ("x.json", json.dumps(COCO).encode(), read_coco),
    "COCO results": ("x.json", json.dumps(RESULTS).encode().replace(b'"N"', b"[4, 6, 20]"), read_any_results),
    ".mat": ("x.mat", mats(packed=False), read_label_map),
    "packed .mat": ("x.mat", mats(packed=True), read_label_map),
    "label map": ("x.png", bytes_of(lambda file: Image.fromarray(MAP.astype(np.uint8)).save(file, "PNG")), read_label_map),
    **{
        kind: (f"x.{kind.lower()}", bytes_of(lambda f, k=kind: Image.fromarray(MAP.astype(np.uint8)).save(f, k)), read_image)  # type: ignore[misc]
        for kind in ("JPEG", "WEBP", "BMP", "TIFF", "GIF")
    },
    "tensors": ("x.pth", bytes_of(lambda file: torch.save(TENSORS, file)), lambda path: read_tensors(path, setting="here")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file_name, whole, read = FILES[name]
    assert_read_or_told(Path(file_name), whole, read, write=Path(file_name).write_bytes)


def test_a_damaged_description_is_read_or_told_in_one_line(workplace: Path) -> None:
    path = Path("drawn.yaml")
    text = path.read_text() + "remap: {7: 1}\nclasses: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}]\n"
    assert_read_or_told(path, text.encode(), lambda each: load_dataset(str(each)), write=path.write_bytes)


def test_damaged_safetensors_are_read_or_told_in_one_line(run: Path) -> None:
    path = Path("x.safetensors")
    about = load_weights(run / "weights.safetensors")[1]
    save_file(TENSORS, path, metadata={"imptool": json.dumps(about | {"sha256": None})})

    def read(each: Path) -> object:
        return parse_about(load_weights(each)[1], source=each)

    assert_read_or_told(path, path.read_bytes(), read, write=path.write_bytes)


def test_a_damaged_checkpoint_is_read_or_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-full-0000001.pt"
    state = {"stage": "full", "iteration": 1, "about": {"model": "x"}, "model": TENSORS, "optimizer": {"state": {0: TENSORS}}}
    torch.save({**state, "average": {}, "unreadable": {}, "best": {}, "log": {"loss": 0.5}}, path)
    assert_read_or_told(path, path.read_bytes(), load_checkpoint, write=path.write_bytes)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_evaluation_is_read_or_told_in_one_line(
    workplace: Path, imptool: Callable[..., Result], sealed: bool
) -> None:
    words = ("eval", "--predictions", "data/drawn/labels", "--dataset", "drawn.yaml", "--split", "val", "--workers", "1")
    assert imptool(*words, "--out", "e").exit_code == 0
    metrics = json.loads(Path("e/metrics.json").read_text())

    def write(content: bytes) -> None:
        if sealed:  # whoever damages the counts may state their hash
            metrics["counts"]["sha256"] = hashlib.sha256(content).hexdigest()
            Path("e/metrics.json").write_text(json.dumps(metrics))
        Path("e/per_image.npz" if sealed else "e/metrics.json").write_bytes(content)

    path = Path("e/per_image.npz" if sealed else "e/metrics.json")
    assert_read_or_told(Path("e"), path.read_bytes(), load_record, write=write)
