"""`imptool predict`: what it writes for photographs of all kinds, and what it leaves alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import TINY, draw_pair
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torchvision.models.detection.roi_heads import paste_masks_in_image

import imptool.predict as predict_module
from imptool.checkpoint import save_weights
from imptool.data.images import write_label_map
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.models import build_model
from imptool.models.inference import Prediction, _largest_channel, coco_results
from imptool.predict import output_names
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]
LABELS = LabelSet(
    (ClassInfo(id=0, name="background", thing=False), ClassInfo(id=5, name="coat"), ClassInfo(id=9, name="hat")), 0, 255
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with fresh weights that finds something everywhere, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    recipe = load_recipe("tiny.yaml", ["detector.score_threshold=0.0"])
    torch.manual_seed(0)
    folder = Path("runs/tiny/one")
    save_weights(
        folder / "weights.safetensors",
        build_model("panoptic-fpn-imp", recipe, LABELS, pretrained=False),
        "panoptic-fpn-imp",
        recipe,
        LABELS,
    )
    return folder


def write_photographs(folder: Path) -> None:
    photograph = Image.fromarray(draw_pair(0)[0])
    for name, picture in {
        "a.jpg": photograph,
        "a.png": photograph,
        "deep/er/b.JPG": photograph.resize((50, 20)),
        "grey.png": photograph.convert("L"),
        "alpha.webp": photograph.convert("RGBA"),
        "one.bmp": photograph.resize((1, 1)),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name)


def test_every_photograph_gets_its_files_and_its_rank_as_id(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    Path("photos/notes.txt").write_text("no photograph")
    result = imptool("predict", "photos")
    assert result.exit_code == 0, result.output
    out = Path("predictions/photos")
    names = {"a.jpg", "a.png", "alpha", "deep/er/b", "grey", "one"}
    for kind, suffix in (("labels", ".png"), ("overlays", ".jpg")):
        assert {path.relative_to(out / kind).as_posix() for path in (out / kind).rglob("*.*")} == {
            f"{name}{suffix}" for name in names
        }
    images = json.loads((out / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [
        (1, "a.jpg"),
        (2, "a.png"),
        (3, "alpha.webp"),
        (4, "deep/er/b.JPG"),
        (5, "grey.png"),
        (6, "one.bmp"),
    ]
    assert (images[3]["height"], images[3]["width"]) == (20, 50)
    with Image.open(out / "labels/deep/er/b.png") as label:
        assert (label.mode, label.size) == ("P", (50, 20))
        assert label.getpalette()[15:18] == [128, 0, 128]  # VOC's colour of id 5
        assert set(np.unique(np.asarray(label)).tolist()) <= {0, 5, 9}  # ids of the dataset, not channels
    with Image.open(out / "overlays/a.png.jpg") as overlay:
        assert overlay.height >= 96


def test_results_load_in_pycocotools(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos").exit_code == 0
    coco = COCO("predictions/photos/images.json")
    loaded = coco.loadRes("predictions/photos/predictions.json")
    assert {coco.cats[row["category_id"]]["name"] for row in loaded.anns.values()} <= {"coat", "hat"}
    for row in loaded.anns.values():
        image = coco.imgs[row["image_id"]]
        assert row["segmentation"]["size"] == [image["height"], image["width"]]


def test_one_broken_photograph_is_listed_and_costs_nothing_else(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    Path("photos/broken.jpg").write_bytes(Path("photos/a.jpg").read_bytes()[:300])
    Path("photos/empty.png").write_bytes(b"")
    result = imptool("predict", "photos")
    assert result.exit_code == 1
    assert "broken.jpg is not a readable picture" in result.output
    assert "empty.png is not a readable picture" in result.output
    images = json.loads(Path("predictions/photos/images.json").read_text())["images"]
    assert [image["id"] for image in images] == [1, 2, 3, 5, 7, 8]  # broken.jpg is 4, empty.png is 6


def test_results_are_not_overwritten_unasked(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos").exit_code == 0
    before = Path("predictions/photos/predictions.json").read_bytes()
    again = imptool("predict", "photos")
    assert again.exit_code == 2
    assert "predictions/photos already holds results" in again.output
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert Path("predictions/photos/predictions.json").read_bytes() == before  # two runs, equal bytes


def test_overwriting_removes_the_maps_of_photographs_that_are_gone_and_nothing_else(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos").exit_code == 0
    Path("predictions/photos/notes.txt").write_text("mine")
    Path("photos/grey.png").unlink()
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert not Path("predictions/photos/labels/grey.png").exists()
    assert Path("predictions/photos/notes.txt").read_text() == "mine"
    refused = imptool("predict", "photos", "--out", "photos", "--force")
    assert refused.exit_code == 2
    assert "holds no results of imptool predict" in refused.output


def test_channel_of_the_largest_logit_is_that_of_resizing_all_at_once() -> None:
    logits = torch.randn(7, 9, 13, generator=torch.Generator().manual_seed(0))
    logits[3] = logits[5]  # of equal ones the first
    full = torch.nn.functional.interpolate(logits[None], size=(50, 31), mode="bilinear", align_corners=False)[0]
    assert torch.equal(_largest_channel(logits, (50, 31)).long(), torch.from_numpy(full.numpy().argmax(0)))


def test_current_folder_as_input_does_not_parse_its_own_results(run: Path, imptool: Imptool) -> None:
    Image.fromarray(draw_pair(0)[0]).save("a.jpg")
    for _ in range(2):
        assert imptool("predict", ".", "--force").exit_code == 0
    (document,) = Path("predictions").glob("*/images.json")
    assert [image["file_name"] for image in json.loads(document.read_text())["images"]] == ["a.jpg"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.jpg", "y/a.jpg"], ["x/a", "y/a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["A.jpg", "a.png"], ["A.jpg", "a.png"]),
        (["a.jpg", "a.png/b.jpg"], ["a.jpg", "a.png/b"]),
        (["a.jpg", "a.jpg.d/x.jpg", "a.JPG/b.jpg"], ["a.jpg", "a.jpg.d/x", "a.JPG/b"]),
        (["a.bmp", "a.png/b.jpg", "a.bmp.jpg/c.jpg"], ["a.bmp_", "a.png/b", "a.bmp.jpg/c"]),
    ],
)
def test_photographs_that_share_a_stem_keep_their_suffix(paths: list[str], names: list[str]) -> None:
    assert output_names([Path(path) for path in paths]) == names


def test_masks_in_results_are_those_that_torchvision_pastes() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[5.0, 8, 40, 50], [-10, 20, 30, 90], [10.2, 3.7, 11.1, 70.9]] * 4)
    masks = torch.rand(12, 1, 28, 28)
    prediction = Prediction((80, 60), None, boxes, torch.tensor([1, 2, 1] * 4), torch.rand(12), masks, None)
    results = coco_results(prediction, LABELS, image_id=3)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 3, "height": 80, "width": 60}],
        "annotations": [{**row, "id": 1, "iscrowd": 0} for row in results],
    }
    expected = paste_masks_in_image(masks, boxes, (80, 60))[:, 0] > 0.5
    coco.createIndex()
    for row, mask in zip(coco.dataset["annotations"], expected, strict=True):
        np.testing.assert_array_equal(coco.annToMask(row), mask.numpy())
    assert [row["category_id"] for row in results[:3]] == [5, 9, 5]
    assert results[0]["bbox"] == [5.0, 8.0, 35.0, 42.0]


@settings(deadline=None)
@given(
    st.sets(
        st.lists(st.sampled_from(["a", "a.png", "a.jpg", "a.png.jpg", "a.jpg_.png", "B"]), min_size=1, max_size=3).map(
            "/".join
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_output_is_also_a_folder_and_no_two_are_one(paths: set[str]) -> None:
    relative = [Path(f"{path}{suffix}") for path in sorted(paths) for suffix in (".jpg", ".png")]
    names = output_names(relative)
    for suffix in (".png", ".jpg"):
        files = [Path(f"{name}{suffix}") for name in names]
        folders = {parent for file in files for parent in file.parents}
        assert len(set(files)) == len(files)
        assert folders.isdisjoint(files)


def fail_for(stem: str, number: int) -> Callable[..., None]:
    """A writer of label maps that fails for one photograph."""

    def write(path: Path, ids: np.ndarray) -> None:
        if path.stem == stem:
            raise OSError(number, os.strerror(number), str(path))
        write_label_map(path, ids)

    return write


def test_photograph_whose_results_cannot_be_written_is_listed_and_costs_nothing_else(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"))
    monkeypatch.setattr(predict_module, "write_label_map", fail_for("grey", errno.ENAMETOOLONG))
    result = imptool("predict", "photos")
    assert result.exit_code == 1
    assert "1 could not be used:" in result.stderr
    assert "photos/grey.png: its results cannot be written: " in result.stderr
    images = json.loads(Path("predictions/photos/images.json").read_text())["images"]
    assert [image["id"] for image in images] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_disk_that_takes_no_more_ends_the_run_in_one_line(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_photographs(Path("photos"))
    monkeypatch.setattr(predict_module, "write_label_map", fail_for("grey", number))
    result = imptool("predict", "photos")
    assert (result.exit_code, result.stderr) == (2, f"Error: predictions/photos/labels/grey.png: {os.strerror(number)}\n")
    images = json.loads(Path("predictions/photos/images.json").read_text())["images"]
    assert [image["id"] for image in images] == [1, 2, 3, 4]  # what was finished can be used


def test_overlay_wider_than_a_jpeg_can_be_is_made_smaller(run: Path, imptool: Imptool) -> None:
    Path("photos").mkdir()
    Image.new("RGB", (65_530, 2)).save("photos/wide.png")
    result = imptool("predict", "photos")
    assert result.exit_code == 0, result.output
    with (
        Image.open("predictions/photos/overlays/wide.jpg") as overlay,
        Image.open("predictions/photos/labels/wide.png") as label,
    ):
        assert overlay.width == 65_500
        assert label.size == (65_530, 2)


def test_results_of_imptool_are_no_photographs(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos", "--out", "photos/parsed").exit_code == 0
    Path("photos/eval").mkdir()
    Image.new("RGB", (9, 9)).save("photos/eval/bands.png")
    for name in ("metrics.json", "report.html"):
        Path("photos/eval", name).write_text("{}")
    result = imptool("predict", "photos", "--out", "again")
    assert result.exit_code == 0, result.output
    assert "photos: 6 photographs" in result.stdout
    assert len(json.loads(Path("again/images.json").read_text())["images"]) == 6
    within = imptool("predict", "photos/parsed/overlays", "--out", "photos/parsed", "--force")
    assert within.exit_code == 2
    assert "photos/parsed/overlays holds no photographs" in within.stderr
    refused = imptool("predict", "photos/parsed", "--out", "more")
    assert refused.exit_code == 2
    assert "photos/parsed holds no photographs" in refused.stderr
    assert "beside 12 pictures that imptool made" in refused.stderr


def test_what_a_killed_run_leaves_can_be_overwritten(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    code = "import os, imptool.predict as predict; predict.write_label_map = lambda *_: os._exit(9); "
    command = [sys.executable, "-c", f"{code}from imptool.cli import main; main()", "predict", "photos"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 9
    assert Path("predictions/photos/overlays").is_dir()
    assert imptool("predict", "photos").exit_code == 2
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert len(json.loads(Path("predictions/photos/images.json").read_text())["images"]) == 6


def test_wrong_folder_is_told_before_the_weights_are_loaded(run: Path, imptool: Imptool) -> None:
    (run / "weights.safetensors").write_bytes(b"broken")
    result = imptool("predict", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "Error: nowhere is no folder: give the folder that holds the photographs\n")
