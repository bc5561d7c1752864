"""Files that are no regular ones, are too large, ask for all memory, or hold values that a parser fails on: one line each."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from click.testing import Result
from conftest import LABELS, run_imptool, write_folder
from safetensors.torch import save_file

from imptool.checkpoint import load_checkpoint, load_run, load_weights, save_checkpoint, save_weights
from imptool.data.coco import read_json
from imptool.data.dataset import load_dataset
from imptool.data.images import check_image, image_size, read_image, read_label_map
from imptool.data.layouts.lists import read_list
from imptool.evaluation.from_files import parse_remap
from imptool.evaluation.record import load_record
from imptool.files import InputError, parse_yaml, read_yaml
from imptool.models.transfer import read_start
from imptool.models.weights import read_tensors, torchvision_tensors
from imptool.recipe import load_recipe


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A reader that waits for a pipe fails instead."""

    def fail(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(400)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "YAML": ("x.yaml", read_yaml),
    "recipe": ("x.yaml", lambda path: load_recipe(str(path))),
    "dataset": ("x.yaml", lambda path: load_dataset(str(path))),
    "remap": ("x.yaml", lambda path: parse_remap([str(path)], LABELS)),
    "list": ("x.txt", read_list),
    "JSON": ("x.json", read_json),
    ".mat": ("x.mat", read_label_map),
    "label map": ("x.png", read_label_map),
    "photograph": ("x.jpg", read_image),
    "size": ("x.jpg", image_size),
    "check": ("x.png", check_image),
    "checkpoint": ("x.pt", load_checkpoint),
    "tensors": ("x.pth", lambda path: read_tensors(path, setting="here")),
    "start": ("x.safetensors", lambda path: read_start(str(path), backbone="resnet50")),
    "weights": ("x.safetensors", load_weights),
    "model": ("x.safetensors", lambda path: load_run(path, device=torch.device("cpu"))),
}


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(path.name)


@pytest.mark.parametrize("make", [make_pipe, make_device, make_socket])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file_is_one_line_for_every_reader(here: Path, reader: str, make: Callable[[Path], None]) -> None:
    name, read = READERS[reader]
    make(Path(name))
    with pytest.raises(InputError, match=rf"{name} is no regular file but a (pipe|device|socket)"):
        read(Path(name))


@pytest.mark.parametrize(
    ("reader", "mebibytes"),
    [("YAML", 5), ("list", 300), ("JSON", 9000), (".mat", 1100), ("label map", 5000), ("weights", 70000)],
)
def test_a_file_of_another_size_than_its_kind_has_is_told_with_its_limit(here: Path, reader: str, mebibytes: int) -> None:
    name, read = READERS[reader]
    with open(name, "wb") as file:
        file.truncate(mebibytes * 2**20)  # of which nothing is on the disk
    with pytest.raises(InputError, match=rf"{name} is too large \({mebibytes:,} MiB, and at most [0-9,]+ MiB are read\): "):
        read(Path(name))


# --- YAML ---

TAGS = [
    '!!int ""',
    '!!float ""',
    "!!float x",
    "!!bool maybe",
    "!!timestamp x",
    "!!binary é",
    "!!map 3",
    "!!seq 3",
    "!!omap [1]",
]
TEXTS = ['"\\uD800"', '{"\\uDC00": 1}', '"\\UFFFFFFFF"', '"\\U00110000"', "{[a]: 1}", "{{a: 1}: 1}", "&a [*a]", "[" * 3000]


@pytest.mark.parametrize("value", TAGS + TEXTS)
def test_a_value_that_yaml_cannot_make_is_one_line_with_the_name(here: Path, value: str) -> None:
    Path("x.yaml").write_text(f"layout: folder\nroot: .\nignore: {value}\n")
    for read in (read_yaml, READERS["recipe"][1], READERS["dataset"][1], READERS["remap"][1]):
        with pytest.raises(InputError, match=r"^x\.yaml is not valid YAML: \S") as raised:
            read(Path("x.yaml"))
        assert "\n" not in str(raised.value)


def test_a_fault_of_a_value_names_its_line(here: Path) -> None:
    Path("x.yaml").write_text("layout: folder\nroot: .\nignore: !!bool maybe\n")
    with pytest.raises(InputError, match="line 3: 'maybe' is not of the type bool"):
        read_yaml(Path("x.yaml"))


@pytest.mark.parametrize("damage", [b"layout: [", b"layout: \xff", b"a: !!int ''"])
def test_a_description_in_a_folder_that_cannot_be_read_is_told(here: Path, damage: bytes) -> None:
    write_folder(here / "set")
    (here / "set/classes.txt").unlink()
    (here / "set/set.yaml").write_bytes(damage)
    result = run_imptool("convert-instances", "set", "--workers", "0")
    assert result.exit_code == 2
    assert "set/set.yaml is not valid YAML" in result.stderr
    assert "may describe the dataset: mend or remove it" in result.stderr


@pytest.mark.parametrize("side", [10**6, 10**400])
def test_an_image_that_is_stated_larger_than_any_is_refused_at_once(here: Path, side: int) -> None:
    triangle = [[0, 0, 10**6, 0, 10**6, 10**6]]
    image = {"id": 1, "file_name": "a.jpg", "height": side, "width": side}
    truth = {"image_id": 1, "category_id": 1, "segmentation": triangle}
    document = {"images": [image], "categories": [{"id": 1, "name": "coat"}], "annotations": [truth]}
    (here / "truth.json").write_text(json.dumps(document))
    (here / "found.json").write_text(json.dumps([{**truth, "score": 1.0}]))
    result = run_imptool("eval", "--predictions", "found.json", "--dataset", "truth.json")
    assert result.exit_code == 2
    assert "truth.json: image 1 is larger than 4,294,967,295 pixels" in result.stderr


def test_a_recipe_of_many_stages_is_refused_at_once(here: Path) -> None:
    stages = {f"s{number}": {"iterations": 1} for number in range(101)}
    (here / "many.yaml").write_text(json.dumps({"dataset": "ccp", "model": {"name": "panoptic-fpn"}, "stages": stages}))
    with pytest.raises(InputError, match="stages"):
        load_recipe("many.yaml")


@pytest.mark.parametrize("doubled", ["[*{0}, *{0}]", "{{<<: [*{0}, *{0}]}}", "{{a: *{0}, b: *{0}}}"])
def test_aliases_of_aliases_take_neither_time_nor_memory(here: Path, doubled: str) -> None:
    lines = ["x0: &x0 {a: 1}"] + [f"x{n + 1}: &x{n + 1} {doubled.format(f'x{n}')}" for n in range(31)]
    Path("x.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="its aliases stand for more than 1,000,000 values"):
        read_yaml(Path("x.yaml"))


def test_aliases_and_merges_of_a_usual_size_are_read() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}] * 2,
    }


# --- .mat ---

TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")
OTHERS: dict[str, Any] = {"a": "text", "c": np.array([1, "x"], object), "s": {"q": 1}, "z": np.array([1 + 2j])}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_mat_that_scipy_wrote_holds_what_was_written(tmp_path: Path, dtype: str, packed: bool) -> None:
    drawn = np.random.default_rng(0)
    for shape in ((1, 1), (1, 3), (2, 2), (3, 0), (37, 51), (1100, 1000)):  # small elements, pads, several pieces
        ids = drawn.integers(0, 100, shape).astype(dtype)
        scipy.io.savemat(tmp_path / "x.mat", {**OTHERS, "groundtruth": ids}, do_compression=packed)
        np.testing.assert_array_equal(read_label_map(tmp_path / "x.mat"), ids)


def test_a_mat_of_another_byte_order_is_read(tmp_path: Path) -> None:
    """Written by hand, from the format alone."""
    ids = np.array([[1, 2, 300], [4, 5, 6]])

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    parts = ((6, struct.pack(">II", 11, 0)), (5, struct.pack(">ii", 2, 3)), (1, b"map"), (4, ids.T.astype(">u2").tobytes()))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "x.mat").write_bytes(header + element(14, b"".join(element(*part) for part in parts)))
    np.testing.assert_array_equal(read_label_map(tmp_path / "x.mat"), ids)


def mat(**variables: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables)
    return file.getvalue()


def test_every_changed_byte_of_a_mat_is_a_map_or_one_line(tmp_path: Path) -> None:
    whole, path = mat(groundtruth=np.ones((3, 4), np.uint8), c=np.array([1, "x"], object)), tmp_path / "x.mat"
    for place in range(124, len(whole)):
        for value in (0, 1, 14, 127, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                assert read_label_map(path).ndim == 2
            except InputError as error:
                assert str(path) in str(error)  # noqa: PT017


# --- what unpacks to far more than its size ---

# What a shell runs in place of imptool: by how many MiB the memory grows from the first command to the second.
MEASURED = """
import contextlib, json, resource, sys
from imptool.cli import main

most = []
for words in map(json.loads, sys.argv[1:]):
    with contextlib.suppress(SystemExit):
        main(words)
    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(most[1] - most[0])
"""


def memory_beyond(usual: list[str], hostile: list[str]) -> tuple[int, str]:
    """MiB that the second command takes above the first, and what the two told."""
    command = [sys.executable, "-c", MEASURED, json.dumps(usual), json.dumps(hostile)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(result.stdout.splitlines()[-1]), result.stderr


def write_packed_zeros(source: Path, target: Path, name: str, mebibytes: int) -> None:
    """An npz like another one, in which the array `name` holds zeros; equal counts of bytes take a thousandth."""
    header = io.BytesIO()
    shape = (mebibytes * 2**20,)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
        with new.open(name, "w") as file:
            file.write(header.getvalue())
            for _ in range(mebibytes):
                file.write(bytes(2**20))


@pytest.mark.parametrize("name", ["images.npy", "semantic/0.npy", "another.npy"])
def test_counts_that_unpack_to_gigabytes_are_refused_by_their_sizes(
    workplace: Path, imptool: Callable[..., Result], name: str
) -> None:
    words = ("eval", "--predictions", "data/drawn/labels", "--dataset", "drawn.yaml", "--split", "val", "--workers", "1")
    assert imptool(*words, "--out", "e").exit_code == 0
    write_packed_zeros(Path("e/per_image.npz"), Path("packed"), name, 500)
    Path("e").rename("good")
    Path("e").mkdir()
    Path("packed").rename("e/per_image.npz")
    metrics = json.loads(Path("good/metrics.json").read_text())
    metrics["counts"]["sha256"] = hashlib.sha256(Path("e/per_image.npz").read_bytes()).hexdigest()
    Path("e/metrics.json").write_text(json.dumps(metrics))
    grown, told = memory_beyond(["compare", "a=good", "b=good"], ["compare", "a=good", "b=e"])
    assert "e does not hold a whole evaluation (per_image.npz would unpack to more than 100 times its size)" in told
    assert grown < 100


def test_an_array_that_says_another_size_than_it_has_is_refused(workplace: Path, imptool: Callable[..., Result]) -> None:
    words = ("eval", "--predictions", "data/drawn/labels", "--dataset", "drawn.yaml", "--split", "val", "--workers", "1")
    assert imptool(*words, "--out", "e").exit_code == 0
    arrays = dict(np.load("e/per_image.npz"))
    with zipfile.ZipFile("e/per_image.npz", "w") as file:
        for name, array in arrays.items():
            header = io.BytesIO()
            shape = (10**12,) if name == "images" else array.shape
            descr = np.lib.format.dtype_to_descr(array.dtype)
            np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
            file.writestr(f"{name}.npy", header.getvalue() + array.tobytes())
    metrics = json.loads(Path("e/metrics.json").read_text())
    metrics["counts"]["sha256"] = hashlib.sha256(Path("e/per_image.npz").read_bytes()).hexdigest()
    Path("e/metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"images\.npy has another size than its shape \[1000000000000\] needs"):
        load_record(Path("e"))


@pytest.mark.parametrize("empty", [True, False])
def test_weights_whose_recipe_asks_for_a_larger_model_are_refused_before_it_is_built(run: Path, empty: bool) -> None:
    path = run / "weights.safetensors"
    model = load_run(path, device=torch.device("cpu"))
    recipe = load_recipe(
        "tiny.yaml",
        ["backbone.fpn_channels=4096", "detector.box_features=16384", "detector.mask_channels=[4096, 4096, 4096, 4096]"],
    )
    save_weights(Path("large.safetensors"), model.model, model.name, recipe, LABELS)
    if empty:
        about = {"imptool": json.dumps(load_weights(Path("large.safetensors"))[1] | {"sha256": None})}
        save_file({}, "large.safetensors", metadata=about)
    grown, told = memory_beyond(["export", str(path), "--out", "a.safetensors"], ["export", "large.safetensors"])
    assert "large.safetensors holds the weights of another model or class list: detector.backbone." in told  # 15 GB
    assert grown < 100


def checkpoint_of(run: Path) -> Path:
    trained = load_run(run / "weights.safetensors", device=torch.device("cpu"))
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(trained.model.parameters(), lr=0.1, momentum=0.9)
    return save_checkpoint(
        run,
        stage="full",
        iteration=3,
        model=trained.model,
        name=trained.name,
        optimizer=optimizer,
        average=None,
        recipe=trained.recipe,
        labels=trained.labels,
        unreadable={},
        best={},
        log={},
        log_checksum="",
    )


def test_two_runs_write_checkpoints_and_weights_of_equal_bytes(run: Path) -> None:
    written = []
    for _ in range(2):
        path = checkpoint_of(run)
        written.append((path.read_bytes(), (run / "weights.safetensors").read_bytes()))
        path.unlink()
        trained = load_run(run, device=torch.device("cpu"))
        save_weights(run / "weights.safetensors", trained.model, trained.name, trained.recipe, trained.labels)
    assert written[0] == written[1]


def test_tensors_that_are_packed_or_show_few_bytes_many_times_are_refused(here: Path) -> None:
    torch.save({"a": torch.zeros(10**7)}, "stored.pth")
    with zipfile.ZipFile("stored.pth") as old, zipfile.ZipFile("packed.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    torch.save({"a": torch.zeros(1).expand(10**9)}, "shown.pth")
    torch.save({"a": torch.zeros(3, 3).to_sparse()}, "sparse.pth")
    for name, words in (
        ("packed.pth", "it would unpack to more than it has bytes"),
        ("shown.pth", "it holds a tensor of 4000000000 bytes, of which it stores fewer"),
        ("sparse.pth", "it holds a tensor that is not stored as plain values"),
    ):
        with pytest.raises(InputError, match=words):
            read_tensors(name, setting="here")
        with pytest.raises(InputError, match=f"{name} is no checkpoint of imptool"):
            load_checkpoint(Path(name))


def test_all_memory_taken_is_one_line(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    def fill(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("imptool.inspect_dataset.load_dataset", fill)
    result = run_imptool("inspect", ".")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "out of memory" in result.stderr


# --- the cache of downloaded weights ---


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was_run",)


def cached(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(here / "home"))
    path = here / "home/hub/checkpoints" / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name
    path.parent.mkdir(parents=True)
    return path


def right_hash(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The address ends in the hash of what lies there; the file moves along."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", f"https://download.pytorch.org/models/resnet18-{found}.pth")
    return path.rename(path.with_name(f"resnet18-{found}.pth"))


@pytest.mark.parametrize("kind", ["pickle", "pickle of the right hash", "empty", "other bytes", "another file", "a pipe"])
def test_what_lies_in_the_cache_is_not_trusted(here: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = cached(here, monkeypatch)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "another file":
        torch.save({"conv1.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes({"empty": b"", "other bytes": os.urandom(5000)}.get(kind, pickle.dumps(_Runs())))
    if kind == "pickle of the right hash":
        path = right_hash(path, monkeypatch)
    with pytest.raises(InputError, match=f"^{path} is ") as raised:
        torchvision_tensors("resnet18", "IMAGENET1K_V1")
    assert "remove it to download it again" in str(raised.value)
    assert not Path("was_run").exists()


def test_cached_weights_of_the_right_hash_are_read_without_a_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached(here, monkeypatch)
    torch.save({"conv1.weight": torch.arange(3.0)}, path)
    right_hash(path, monkeypatch)
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    assert torchvision_tensors("resnet18", "IMAGENET1K_V1")["conv1.weight"].tolist() == [0, 1, 2]
