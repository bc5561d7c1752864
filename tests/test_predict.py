"""`imptool predict`: what it writes for images of all kinds, and what it leaves alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import LABELS, draw_pair, finish, torchrun
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torchvision.models.detection.roi_heads import paste_masks_in_image

import imptool.prediction.results as results_module
from imptool.checkpoint import load_run, load_weights, parse_about, save_weights
from imptool.data.images import write_label_map
from imptool.data.prediction import Prediction, coco_results
from imptool.files import LOCK, InputError, alone_in
from imptool.models import build_model
from imptool.models.inference import _largest_channel
from imptool.prediction.photographs import Photograph, output_names
from imptool.processes import ProcessPool
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]


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
    Path("photos/notes.txt").write_text("no image")
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
    assert torch.equal(_largest_channel(logits, (50, 31), confidence=False)[0].long(), torch.from_numpy(full.numpy().argmax(0)))


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
    prediction = Prediction((80, 60), None, boxes.numpy(), np.array([1, 2, 1] * 4), np.ones(12), masks[:, 0].numpy())
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
    """A writer of label maps that fails for one image."""

    def write(path: Path, ids: np.ndarray) -> None:
        if path.stem == stem:
            raise OSError(number, os.strerror(number), str(path))
        write_label_map(path, ids)

    return write


def test_photograph_whose_results_cannot_be_written_is_listed_and_costs_nothing_else(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"))
    monkeypatch.setattr(results_module, "write_label_map", fail_for("grey", errno.ENAMETOOLONG))
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
    monkeypatch.setattr(results_module, "write_label_map", fail_for("grey", number))
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
        assert overlay.width < 4096  # with its legend: a picture to look at
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
    assert "photos: 6 images" in result.stdout
    assert len(json.loads(Path("again/images.json").read_text())["images"]) == 6
    within = imptool("predict", "photos/parsed/overlays", "--out", "photos/parsed", "--force")
    assert within.exit_code == 2
    assert "photos/parsed/overlays holds no images" in within.stderr
    refused = imptool("predict", "photos/parsed", "--out", "more")
    assert refused.exit_code == 2
    assert "photos/parsed holds no images" in refused.stderr
    assert "left out: 30 pictures that imptool made" in refused.stderr


def test_what_a_killed_run_leaves_can_be_overwritten(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    code = "import os, imptool.prediction.results as results; results.write_label_map = lambda *_: os._exit(9); "
    command = [sys.executable, "-c", f"{code}from imptool.cli import main; main()", "predict", "photos"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 9
    assert [path.name for path in Path("predictions/photos").glob(".parsed*")] == [".parsed.jsonl"]
    assert imptool("predict", "photos").exit_code == 2
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert len(json.loads(Path("predictions/photos/images.json").read_text())["images"]) == 6


def test_wrong_folder_is_told_before_the_weights_are_loaded(run: Path, imptool: Imptool) -> None:
    (run / "weights.safetensors").write_bytes(b"broken")
    result = imptool("predict", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "Error: nowhere: there is no such file or folder\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_folders_and_globs_are_named_from_the_folder_that_holds_all(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("shop/photos"))
    Path("shop/photos/deep/er/notes.txt").write_text("no image")
    (Path("shop") / "front.jpg").write_bytes(Path("shop/photos/a.jpg").read_bytes())
    inputs = ("shop/front.jpg", "shop/photos/*.png", "shop/photos/deep/**", "shop/photos/a.png")
    result = imptool("predict", *inputs, "--save", "labels", "--out", "out")
    assert result.exit_code == 0, result.output
    document = json.loads(Path("out/images.json").read_text())
    names = [image["file_name"] for image in document["images"]]
    assert names == ["front.jpg", "photos/a.png", "photos/deep/er/b.JPG", "photos/grey.png"]
    assert sorted(path.name for path in Path("out").iterdir()) == [".parsed.jsonl", "images.json", "labels"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (["photos/nowhere.jpg"], "photos/nowhere.jpg: there is no such file or folder"),
        (["photos/*.tiff"], "photos/*.tiff holds no images (jpg, png, webp, avif, jp2, bmp, tiff or gif)"),
        (["photos/deep/../empty"], "holds no images"),
        (["photos", "--save", "labels,overlays"], "--save labels,overlays: unknown 'overlays'; did you mean 'overlay'?"),
        (["photos", "--weights", "nothing.safetensors"], "--weights nothing.safetensors: no such file of weights"),
        (["photos", "--weights", "w", "--run", "r"], "--run and --weights name different models"),
        (["photos", "--run", "photos"], "photos is no run of imptool train"),
        (["photos", "--resume", "--force"], "--resume keeps what is there, --force replaces it"),
        (["photos", "--out", "photos/a.jpg"], "photos/a.jpg is a file, not a folder"),
        (["photos", "--out", "photos"], "photos holds no results of imptool predict"),
        (["photos", "--out", "photos/a.jpg/x"], "photos/a.jpg/x: Not a directory"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, imptool: Imptool, inputs: list[str], says: str) -> None:
    write_photographs(Path("photos"))
    Path("photos/empty").mkdir()
    result = imptool("predict", *inputs)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_cutouts_are_the_garments_of_the_label_map_on_nothing(run: Path, imptool: Imptool) -> None:
    image = draw_pair(0)[0]
    Path("photos").mkdir()
    Image.fromarray(image).save("photos/a.png")
    assert imptool("predict", "photos", "--save", "all").exit_code == 0
    label = np.asarray(Image.open("predictions/photos/labels/a.png"))
    cut = {5: np.zeros(label.shape, int), 9: np.zeros(label.shape, int)}
    names = {"coat": 5, "hat": 9}
    paths = list(Path("predictions/photos/cutouts/a").iterdir())
    assert paths
    for path in paths:
        garment = np.asarray(Image.open(path))
        height, width = garment.shape[:2]
        places = [
            (y, x)
            for y in range(label.shape[0] - height + 1)
            for x in range(label.shape[1] - width + 1)
            if (image[y : y + height, x : x + width] * (garment[..., 3:] == 255) == garment[..., :3]).all()
        ]
        assert len(places) == 1  # the image's own pixels, and black where it is transparent
        (y, x) = places[0]
        cut[names[path.stem.rpartition("-")[0]]][y : y + height, x : x + width] += garment[..., 3] // 255
    for class_id, pixels in cut.items():
        specks = (label == class_id).sum() - pixels.sum()
        assert pixels.max(initial=0) <= 1
        assert not (pixels[label != class_id]).any()
        assert 0 <= specks < label.size / 5000 * 50


def test_class_names_cannot_lead_a_cutout_elsewhere() -> None:
    assert results_module.file_stem("../../top / T-shirt: *") == "top_T-shirt"
    assert results_module.file_stem("連衣裙") == "連衣裙"
    assert results_module.file_stem("...") == "class"


def test_a_single_photograph_has_a_folder_of_its_own(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos/grey.png").exit_code == 0
    assert Path("predictions/grey/labels/grey.png").is_file()
    result = imptool("predict", "photos/one.bmp", "--out", "predictions/grey", "--resume")
    assert result.exit_code == 0
    assert "1 image of an earlier run left out: files stay, lists are of these images" in result.stdout
    assert [one["file_name"] for one in json.loads(Path("predictions/grey/images.json").read_text())["images"]] == ["one.bmp"]
    assert Path("predictions/grey/labels/grey.png").is_file()


def test_resume_parses_what_is_new_or_changed_or_gone_and_nothing_else(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos").exit_code == 0
    Image.new("RGB", (30, 40), "red").save("photos/grey.png")
    Image.new("RGB", (30, 40), "red").save("photos/new.png")
    Path("predictions/photos/labels/one.png").unlink()
    parsed = []
    load = results_module.load

    def noted(photograph: Any, **rest: Any) -> Any:
        parsed.append(photograph.name)
        return load(photograph, **rest)

    monkeypatch.setattr("imptool.predict.load", noted)
    result = imptool("predict", "photos", "--resume")
    assert result.exit_code == 0, result.output
    assert sorted(parsed) == ["grey", "new", "one"]
    assert "photos: 7 images, 4 of them done already" in result.stdout
    resumed = contents(Path("predictions/photos"))
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert contents(Path("predictions/photos")) == resumed


def test_what_is_saved_more_of_is_made_by_resume(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos", "--save", "labels").exit_code == 0
    assert imptool("predict", "photos", "--save", "all", "--resume").exit_code == 0
    resumed = contents(Path("predictions/photos"))
    assert imptool("predict", "photos", "--save", "all", "--force").exit_code == 0
    assert contents(Path("predictions/photos")) == resumed


def test_a_killed_run_goes_on_to_the_same_files(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    code = (
        "import os, imptool.prediction.results as results; write = results.write_label_map; "
        "results.write_label_map = lambda path, ids: os._exit(9) if path.stem == 'grey' else write(path, ids); "
    )
    command = [sys.executable, "-c", f"{code}from imptool.cli import main; main()", "predict", "photos", "--workers", "0"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 9
    assert Path("predictions/photos/labels/a.jpg.png").is_file()
    refused = imptool("predict", "photos")
    assert "predictions/photos already holds results: add --resume to go on" in refused.stderr
    result = imptool("predict", "photos", "--resume")
    assert result.exit_code == 0, result.output
    assert "of them done already" in result.stdout
    resumed = contents(Path("predictions/photos"))
    assert not any(".unfinished" in name or ".parsed-" in name for name in resumed)
    assert imptool("predict", "photos", "--force").exit_code == 0
    assert contents(Path("predictions/photos")) == resumed


def test_ctrl_c_leaves_whole_files_and_what_was_finished(run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(Path("photos"))
    load = results_module.load

    def interrupted(photograph: Any, **rest: Any) -> Any:
        if photograph.name == "grey":
            raise KeyboardInterrupt
        return load(photograph, **rest)

    with monkeypatch.context() as patched:
        patched.setattr("imptool.predict.load", interrupted)
        result = imptool("predict", "photos", "--workers", "0")
    assert result.exit_code == 130
    assert [image["id"] for image in json.loads(Path("predictions/photos/images.json").read_text())["images"]] == [1, 2, 3, 4]
    for path in Path("predictions/photos").rglob("*.[jp][pn]g"):
        Image.open(path).load()
    assert imptool("predict", "photos", "--resume").exit_code == 0
    assert len(json.loads(Path("predictions/photos/images.json").read_text())["images"]) == 6


def test_results_of_other_weights_are_not_mixed(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos").exit_code == 0
    torch.manual_seed(1)
    weights = run / "weights.safetensors"
    _, about = load_weights(weights)
    name, recipe, labels = parse_about(about, source=weights)
    model = build_model(name, recipe, labels, pretrained=False)
    save_weights(weights, model, name, recipe, labels)
    refused = imptool("predict", "photos", "--resume")
    assert refused.exit_code == 2
    assert "predictions/photos holds results of other weights, or of another precision or --tta" in refused.stderr


def test_two_processes_write_the_files_of_one(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    Path("photos/broken.jpg").write_bytes(Path("photos/a.jpg").read_bytes()[:300])
    options = ("--batch", "2", "--save", "all", "--device", "cpu")
    assert imptool("predict", "photos", "--out", "one", *options).exit_code == 1
    process = torchrun("predict", "photos", "--out", "two", *options)
    output, errors = finish(process)
    assert process.returncode == 1, errors
    assert "1 could not be used:" in errors
    assert output.count("photos: 7 images") == 1
    one, two = contents(Path("one")), contents(Path("two"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_processes_write_what_threads_write(run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos", "--save", "all", "--out", "threads").exit_code == 0
    monkeypatch.setattr("imptool.predict.ThreadPoolExecutor", ProcessPool)  # as it is with a GPU
    result = imptool("predict", "photos", "--save", "all", "--out", "processes", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert contents(Path("processes")) == contents(Path("threads"))


def write_or_die(photograph: Photograph, *rest: Any) -> Any:
    if photograph.name == "grey":
        os.kill(os.getpid(), signal.SIGKILL)
    return results_module.write_results(photograph, *rest)


def test_a_writer_that_is_killed_costs_its_photograph_and_resume_parses_it(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"))
    with monkeypatch.context() as patched:
        patched.setattr("imptool.predict.ThreadPoolExecutor", ProcessPool)  # as it is with a GPU
        patched.setattr("imptool.predict.write_results", write_or_die)
        result = imptool("predict", "photos", "--save", "labels", "--workers", "2")
    assert result.exit_code == 1
    told = "photos/grey.png: its results are not written: its process was ended by SIGKILL, perhaps for want of memory"
    assert result.stderr.startswith(f"1 could not be used:\n  {told}; --resume tries again")
    assert "photos: 6 images, 5 of them done already" in imptool("predict", "photos", "--save", "labels", "--resume").stdout
    assert Path("predictions/photos/labels/grey.png").is_file()


def test_photographs_of_one_size_together_are_parsed_as_by_themselves(run: Path, imptool: Imptool) -> None:
    for number in range(5):
        Path("photos").mkdir(exist_ok=True)
        Image.fromarray(draw_pair(number)[0]).save(f"photos/{number}.png")
    assert imptool("predict", "photos", "--out", "single").exit_code == 0
    assert imptool("predict", "photos", "--out", "together", "--batch", "3").exit_code == 0
    for number in range(5):
        maps = [np.asarray(Image.open(f"{out}/labels/{number}.png")) for out in ("single", "together")]
        assert (maps[0] == maps[1]).mean() > 0.999  # the last bits of a convolution may depend on the batch


def test_files_that_are_no_photographs_are_each_told_in_a_line(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    Path("photos/text.jpg").write_text("just words")
    Path("photos/empty.png").touch()
    Path("photos/link.png").symlink_to("nowhere.png")
    Image.new("RGB", (200, 100)).save("photos/bomb.png")
    result = imptool("predict", "photos", "--max-pixels", "10000")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "4 could not be used:"
    assert [line.partition(" is ")[0].strip() for line in lines[1:]] == [
        f"photos/{name}" for name in ("bomb.png", "empty.png", "link.png", "text.jpg")
    ]
    assert "more than 10,000 pixels: --max-pixels 20000 takes it" in lines[1]


def test_a_folder_of_broken_photographs_is_one_line_and_leaves_nothing(run: Path, imptool: Imptool) -> None:
    Path("photos").mkdir()
    Path("photos/a.jpg").write_text("just words")
    result = imptool("predict", "photos")
    assert result.exit_code == 2
    assert "none of 1 image could be parsed: photos/a.jpg is not a readable picture" in result.stderr
    assert not Path("predictions").exists()


def test_memory_of_masks_does_not_grow_with_the_photograph(run: Path) -> None:
    torch.manual_seed(0)
    boxes = torch.rand(200, 4) * 100 + torch.tensor([0.0, 0, 100, 100])
    masks = torch.rand(200, 1, 28, 28)
    ones = np.ones(200, np.int64)
    prediction = Prediction((12_000, 9_000), None, boxes.numpy(), ones, ones / 2, masks[:, 0].numpy())
    tracemalloc.start()
    coco_results(prediction, LABELS, image_id=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000 * 9_000 / 10  # one mask of the image's size would be 108 MB of bytes


def test_a_resume_that_can_parse_nothing_keeps_what_is_there(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    Path("photos/broken.jpg").write_text("just words")
    assert imptool("predict", "photos", "--out", "out", "--save", "labels").exit_code == 1
    maps = contents(Path("out/labels"))
    assert imptool("predict", "photos/broken.jpg", "--out", "out", "--save", "labels", "--resume").exit_code == 2
    assert contents(Path("out/labels")) == maps
    result = imptool("predict", "photos", "--out", "out", "--save", "labels", "--resume")
    assert "photos: 7 images, 6 of them done already" in result.stdout


@pytest.mark.parametrize("option", ["--force", "--resume"])
def test_a_folder_with_somebody_elses_predictions_is_left_alone(run: Path, imptool: Imptool, option: str) -> None:
    write_photographs(Path("photos"))
    for name in ("predictions.json", "images.json", "labels/mine.png"):
        Path("theirs", name).parent.mkdir(parents=True, exist_ok=True)
        Path("theirs", name).write_text("[]")
    before = contents(Path("theirs"))
    result = imptool("predict", "photos", "--out", "theirs", option)
    assert (result.exit_code, "theirs holds no results of imptool predict" in result.stderr) == (2, True)
    assert contents(Path("theirs")) == before


def test_nothing_stays_of_a_photograph_that_was_replaced(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos", "--save", "all").exit_code == 0
    Image.new("RGB", (64, 64), "red").save("photos/grey.png")
    assert imptool("predict", "photos", "--save", "labels", "--resume").exit_code == 0
    out = Path("predictions/photos")
    assert not (out / "overlays/grey.jpg").exists()
    assert not list((out / "cutouts").glob("grey/*"))
    assert not (out / "predictions.json").exists()  # it would lack one of the images
    assert not (out / "index.html").exists()
    assert imptool("predict", "photos", "--save", "all", "--resume").exit_code == 0
    resumed = contents(out)
    assert imptool("predict", "photos", "--save", "all", "--force").exit_code == 0
    assert contents(out) == resumed


def test_a_photograph_that_changes_while_it_is_parsed_is_told(
    run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(Path("photos"))
    load = results_module.load

    def replaced(photograph: Any, **rest: Any) -> Any:
        loaded = load(photograph, **rest)
        if photograph.name == "grey":
            Image.new("RGB", (72, 96), "red").save("photos/grey.png")
        return loaded

    monkeypatch.setattr("imptool.predict.load", replaced)
    result = imptool("predict", "photos", "--save", "labels")
    assert result.exit_code == 1
    assert "photos/grey.png has changed while it was parsed: --resume parses it again" in result.stderr


@pytest.mark.parametrize(
    "line", ["[" * 200_000, '{"file_name":[],"has_results":false}', '{"file_name":"a.jpg","has_results":false}', "null", "{"]
)
@pytest.mark.parametrize("first", [False, True])
def test_a_damaged_journal_is_parsed_anew(run: Path, imptool: Imptool, line: str, first: bool) -> None:
    Path("photos").mkdir()
    Image.fromarray(draw_pair(0)[0]).save("photos/a.png")
    assert imptool("predict", "photos").exit_code == 0
    whole = contents(Path("predictions/photos"))
    journal = Path("predictions/photos/.parsed.jsonl")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([line, *lines] if first else [lines[0], line, *lines[1:]]) + "\n")
    result = imptool("predict", "photos", "--resume")
    assert result.exit_code == 0, result.output
    assert contents(Path("predictions/photos")) == whole


@pytest.mark.parametrize("name", ["../../../precious", "/precious", "a/../../../../precious"])
def test_a_journal_cannot_have_files_elsewhere_removed(run: Path, imptool: Imptool, name: str) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos", "--save", "labels").exit_code == 0
    Path("precious.png").write_text("mine")
    journal = Path("predictions/photos/.parsed.jsonl")
    told = str(Path("precious").absolute()) if name.startswith("/") else name
    crc, lines = 0, []
    for line in journal.read_bytes().splitlines(keepends=True):  # sealed anew, so that nothing else refuses it
        changed = line.replace(b'"labels/grey.png"', f'"{told}.png"'.encode()).replace(b'"source":[', b'"source":[1')
        lines.append(b'"crc32:%08x"\n' % crc if line.startswith(b'"crc32:') else changed)
        crc = zlib.crc32(lines[-1], crc)
    journal.write_bytes(b"".join(lines))
    assert imptool("predict", "photos", "--save", "labels", "--resume").exit_code == 0
    assert Path("precious.png").read_text() == "mine"


def test_a_pipe_is_no_photograph(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    os.mkfifo("photos/.pipe")
    Path("photos/pipe.jpg").symlink_to(".pipe")
    result = imptool("predict", "photos", "--save", "labels")
    assert result.exit_code == 1
    assert "photos/pipe.jpg is no regular file" in result.stderr


def photographs_in(out: str) -> list[str]:
    return [row["file_name"] for row in json.loads(Path(out, "images.json").read_text())["images"]]


def test_own_results_are_no_photographs_whatever_finds_them(run: Path, imptool: Imptool) -> None:
    for name in ("a.jpg", "deep/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(draw_pair(0)[0]).save(name)
    for command in (("**/*.jpg", "--out", "res"), ("**/*.jpg", "--out", "res", "--resume"), (".", "--out", "other")):
        result = imptool("predict", *command)
        assert result.exit_code == 0, result.output
        assert photographs_in(command[2]) == ["a.jpg", "deep/b.jpg"]
    assert sum("10 pictures that imptool made, such as res/" in line for line in result.output.splitlines()) == 1


@pytest.mark.parametrize("option", ["--force", "--resume"])
@pytest.mark.parametrize("photograph", ["out/page/photographs/mine.jpg", "linked/mine.jpg", "photos/link.jpg"])
def test_a_photograph_among_the_results_is_refused_and_stays(run: Path, imptool: Imptool, photograph: str, option: str) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos/a.jpg", "--out", "out").exit_code == 0
    mine = Path("out/page/photographs/mine.jpg")
    Image.fromarray(draw_pair(1)[0]).save(mine)
    Path("linked").symlink_to("out/page/photographs")
    Path("photos/link.jpg").symlink_to(mine.absolute())
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    result = imptool("predict", photograph, "--out", "out", option)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {photograph} lies in out")
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_weights_among_the_results_are_refused_and_stay(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    assert imptool("predict", "photos/a.jpg", "--out", "out").exit_code == 0
    weights = shutil.copy(run / "weights.safetensors", "out/labels")
    result = imptool("predict", "photos/a.jpg", "--weights", weights, "--out", "out", "--force")
    assert result.exit_code == 2
    assert Path(weights).is_file()


def test_the_folder_is_held_while_the_weights_are_loaded(run: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_meanwhile(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(InputError, match="another process is at work"), alone_in(Path("out")):
            pass
        return load_run(*arguments, **options)

    monkeypatch.setattr("imptool.checkpoint.load_run", load_meanwhile)
    write_photographs(Path("photos"))
    assert imptool("predict", "photos/a.jpg", "--out", "out").exit_code == 0
    assert not Path("out", LOCK).exists()


def test_pictures_of_other_formats_are_read_or_counted_by_suffix(run: Path, imptool: Imptool) -> None:
    photograph = Image.fromarray(draw_pair(0)[0])
    Path("photos").mkdir()
    kinds = {"a.jfif": "JPEG", "b.JPE": "JPEG", "c.mpo": "MPO", "d.jp2": "JPEG2000", "e.avif": "AVIF"}
    for name, kind in kinds.items():
        photograph.save(Path("photos", name), kind)
    for name in ("x.heic", "y.HEIC", "z.jxl", "notes.txt"):
        Path("photos", name).write_bytes(b"unread")
    result = imptool("predict", "photos", "--save", "labels", "--out", "out")
    assert result.exit_code == 0, result.output
    assert photographs_in("out") == sorted(kinds)
    line = next(line for line in result.output.splitlines() if "left out" in line)
    assert "2 .heic, 1 .jxl" in line
    assert "pip install pillow-heif" in line
    assert "pip install pillow-heif" in imptool("predict", "photos/x.heic").output


def test_a_dataset_whose_photograph_is_not_read_here_says_what_helps(workplace: Path, imptool: Imptool) -> None:
    Path("data/drawn/images/000.png").rename("data/drawn/images/000.heic")
    result = imptool("convert-instances", "data/drawn")
    assert result.exit_code == 1
    assert "data/drawn/images/000.heic: its format is not read here; pip install pillow-heif" in result.output


def test_summary_tells_label_maps_from_detections_and_says_where_nothing_is_found(run: Path, imptool: Imptool) -> None:
    write_photographs(Path("photos"))
    found = imptool("predict", "photos", "--save", "labels").output
    assert "images whose label" in found
    assert "detections with a" in found
    assert "score above 0 " in found  # the recipe's threshold
    assert "note: " not in found

    recipe = load_recipe("tiny.yaml", ["detector.score_threshold=1.0"])
    torch.manual_seed(0)
    blind = build_model("panoptic-fpn-imp", recipe, LABELS, pretrained=False)
    blind.semantic_head.predictor.bias.data[0] = 1000.0  # background everywhere
    save_weights(Path("blind.safetensors"), blind, "panoptic-fpn-imp", recipe, LABELS)
    nothing = imptool("predict", "photos", "--weights", "blind.safetensors", "--out", "out").output
    assert "note: no class is found in any of 6 label maps\n" in nothing
    assert "note: nothing is detected in any of 6 images\n" in nothing
