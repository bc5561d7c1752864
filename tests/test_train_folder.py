"""`imptool train FOLDER`, `--dry-run` and the names of runs: what is decided for a dataset, said, and kept in the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import finish, torchrun, write_folder
from drawn_layouts import LAYOUTS, Drawn, files_in
from PIL import Image

from imptool.data.dataset import load_dataset
from imptool.data.instances import read_instances
from imptool.files import read_yaml
from imptool.recipe import load_recipe
from imptool.train_folder import plan_folder

Imptool = Callable[..., Result]
SMALL = (
    *("-o", "input={short_side: 48, long_side: 64}", "-o", "stages.full.augment=null"),
    *("-o", "augment={short_sides: [], long_side: null}", "-o", "stages.full.iterations=2"),
    *("-o", "solver.batch=1", "-o", "solver.warmup=0", "-o", "checkpoint_every=1", "-o", "keep_checkpoints=2"),
    *("--workers", "0", "--device", "cpu"),
)
CPU = torch.device("cpu")


@pytest.fixture
def coats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 12 images without splits, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    return write_folder(Path("coats"), 12)


def test_a_folder_is_split_converted_trained_and_measured_in_one_command(coats: Path, imptool: Imptool) -> None:
    result = imptool("train", "coats/", *SMALL, "--name", "a")
    assert result.exit_code == 0, result.output
    run = Path("runs/ccp_lite-coats/a")
    recipe = load_recipe(str(run / "recipe.yaml"))
    dataset = load_dataset(recipe.dataset)
    stems = {name: {item.stem for item in items} for name, items in dataset.splits.items()}
    assert (len(stems["train"]), len(stems["val"])) == (7, 5)  # a fifth of 12 would be 2, and 5 is the least
    assert stems["train"] | stems["val"] == {path.stem for path in Path("coats/images").iterdir()}
    assert recipe.stages["full"].start == "ccp-lite"
    assert len((run / "eval-val/per_image.csv").read_text().splitlines()) == 1 + 5
    assert "drawn with seed 1" in result.stdout
    assert f"imptool predict new-images/ --run {run}" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(("name", "close"), [("cpp_lite", "; did you mean 'ccp_lite'?"), ("coat/", "; known: ccp_lite, ")])
def test_a_name_that_is_neither_a_folder_nor_a_recipe_is_told_as_both(
    coats: Path, imptool: Imptool, name: str, close: str
) -> None:
    result = imptool("train", name)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"Error: there is no folder or file {name}, and no recipe of that name{close}")


def test_a_stopped_run_of_a_folder_goes_on_and_is_measured(coats: Path, imptool: Imptool) -> None:
    run = Path("runs/ccp_lite-coats/a")
    assert imptool("train", "coats/", *SMALL, "--name", "a").exit_code == 0
    whole = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").unlink()
    (run / "checkpoint-full-0000002.pt").unlink()
    (run / "eval-val/metrics.json").unlink()
    result = imptool("train", "coats/", "--resume", "--workers", "0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (run / "weights.safetensors").read_bytes() == whole
    assert (run / "eval-val/metrics.json").is_file()


def test_images_that_cannot_be_used_are_told_before_the_training_and_at_its_end(coats: Path, imptool: Imptool) -> None:
    (coats / "labels/003.png").unlink()
    result = imptool("train", "coats/", *SMALL, "--name", "a")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    (told,) = (place for place, line in enumerate(lines) if line.startswith("note: left out: ") and "003.png" in line)
    assert told < next(place for place, line in enumerate(lines) if line.startswith("trained in"))
    assert "1 could not be used:" in result.stderr
    assert Path("runs/ccp_lite-coats/a/eval-val/metrics.json").is_file()


def test_two_processes_share_the_run_of_a_folder(coats: Path) -> None:
    process = torchrun("train", "coats", *SMALL, "-o", "solver.batch=2")
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    (run,) = Path("runs/ccp_lite-coats").iterdir()
    assert (run / "eval-val/metrics.json").is_file()
    assert f"imptool predict new-images/ --run {run}" in stdout


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_description_in_a_run_is_the_dataset_itself(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn: Drawn = LAYOUTS[layout]
    drawn.write(Path("set"))
    Path("set.yaml").write_text(drawn.description)
    found = load_dataset("set.yaml")
    names = list(found.splits)
    asked = [f"train_split={names[0]}", f"val_split={names[-1]}"] if len(names) > 1 else []
    if not asked and len(found.split(names[0])) < 2:
        pytest.skip("a single image cannot be split")
    plan = plan_folder("set.yaml", Path("runs/a"), device=CPU, changes=asked)
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/dataset.yaml").write_text(plan.description)
    again = load_dataset(plan.recipe.dataset)
    assert (again.name, again.labels, again.root.resolve()) == (found.name, found.labels, found.root.resolve())
    for name, items in plan.dataset.splits.items():
        assert [item.stem for item in again.split(name)] == [item.stem for item in items]
        for item, same in zip(items, again.split(name), strict=True):
            if not item.problem and item.label.suffix != ".json":
                np.testing.assert_array_equal(again.read_labels(same), found.read_labels(item))


@pytest.mark.parametrize(("images", "val", "iterations"), [(2, 1, 300), (10, 5, 300), (30, 6, 300), (100, 20, 600)])
def test_splits_and_iterations_follow_the_number_of_images(
    images: int, val: int, iterations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_folder(str(write_folder(Path("coats"), images)), Path("run"), device=CPU)
    assert (len(plan.dataset.split("val")), plan.recipe.stages["full"].iterations) == (val, iterations)


def test_splits_of_the_dataset_are_kept(workplace: Path, imptool: Imptool) -> None:
    plan = plan_folder("drawn.yaml", Path("run"), device=CPU)
    assert plan.dataset.splits == load_dataset("drawn.yaml").splits
    assert "(the dataset has them)" in plan.decisions["splits"]


def test_a_folder_that_is_called_as_a_recipe_is_the_dataset(tmp_path: Path, imptool: Imptool, coats: Path) -> None:
    coats.rename("outfits")
    result = imptool("train", "outfits", "--dry-run", "--device", "cpu", *SMALL)
    assert result.exit_code == 0, result.output
    assert "7 images in train, 5 images in val" in result.stdout


def test_a_recipe_that_is_named_trains_on_a_folder_without_splits(workplace: Path, imptool: Imptool) -> None:
    write_folder(Path("coats"), 12)
    result = imptool("train", "tiny.yaml", "--dataset", "coats", "--name", "a", "--workers", "0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    recipe = load_recipe("runs/tiny-coats/a/recipe.yaml")
    assert list(recipe.stages) == ["detector", "full"]
    assert len(load_dataset(recipe.dataset).split("val")) == 5
    assert Path("runs/tiny-coats/a/eval-val/metrics.json").is_file()


def test_images_that_are_added_are_converted_for_the_next_run(coats: Path, imptool: Imptool) -> None:
    assert imptool("train", "coats", *SMALL, "--name", "a").exit_code == 0
    write_folder(Path("coats"), 14)
    result = imptool("train", "coats", *SMALL, "--name", "b")
    assert result.exit_code == 0, result.output
    assert "converted again" in result.stdout
    dataset = load_dataset("runs/ccp_lite-coats/b/dataset.yaml")
    assert sum(len(read_instances(dataset, split)["images"]) for split in ("train", "val")) == 14


def test_a_second_dataset_of_the_same_name_is_refused_until_it_has_its_own(coats: Path, imptool: Imptool) -> None:
    write_folder(Path("other/coats"), 14)
    assert imptool("train", "coats", *SMALL, "--name", "a").exit_code == 0
    made = files_in(Path("instances"))
    for words in (SMALL, (*SMALL, "--dry-run")):
        refused = imptool("train", "other/coats", *words, "--name", "b")
        assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1), refused.output
        assert "instances/coats/ was made from coats, another dataset called coats" in refused.stderr
    assert files_in(Path("instances")) == made
    Path("other.yaml").write_text("layout: folder\nroot: ./other/coats\nname: jackets\n")
    assert imptool("train", "other.yaml", *SMALL, "--name", "b").exit_code == 0
    assert files_in(Path("instances")).items() >= made.items()
    Path("coats").rename("moved")
    Path("other/coats").rename("coats")  # what was made from coats is gone from there
    Path("coats").rename("jackets")
    Path("moved").rename("other/coats")
    assert imptool("train", "other/coats", *SMALL, "--dry-run").exit_code == 0


def test_instances_that_imptool_has_not_made_are_not_replaced(coats: Path, imptool: Imptool) -> None:
    path = Path("instances/coats/train.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    before = path.read_bytes()
    result = imptool("train", "coats", *SMALL)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert str(path) in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(("words", "stages"), [(("coats", *SMALL), ["full"]), (("tiny.yaml",), ["detector", "full"])])
def test_a_dry_run_says_what_would_happen_and_writes_nothing(
    words: tuple[str, ...], stages: list[str], workplace: Path, imptool: Imptool
) -> None:
    write_folder(Path("coats"), 12)
    before = files_in(Path())
    result = imptool("train", *words, "--dry-run", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert files_in(Path()) == before
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("│")] == stages
    assert "nothing was written" in result.stdout


def test_a_dry_run_counts_the_parameters_that_the_model_has(workplace: Path, imptool: Imptool) -> None:
    from imptool.models import build_model

    recipe, labels = load_recipe("tiny.yaml"), load_dataset("drawn.yaml").labels
    model = build_model("panoptic-fpn-imp", recipe, labels, pretrained=False)
    count = sum(tensor.numel() for tensor in model.parameters())
    result = imptool("train", "tiny.yaml", "--dry-run", "--device", "cpu")
    row = next(line for line in result.stdout.splitlines() if "panoptic-fpn-imp" in line)
    assert f"{count / 1e6:.1f} M" in row


def test_a_dry_run_lists_what_cannot_be_used_of_both_splits(coats: Path, imptool: Imptool) -> None:
    assert imptool("train", "coats", *SMALL, "--dry-run").exit_code == 0
    whole = (coats / "images/000.png").read_bytes()
    (coats / "images/000.png").write_bytes(whole[: len(whole) // 2])
    (coats / "labels/001.png").write_bytes(b"")
    (coats / "labels/002.png").unlink()
    Image.new("L", (9, 7)).save(coats / "labels/003.png")
    Image.new("RGB", (72, 96)).save(coats / "labels/004.png")
    before = files_in(Path())
    result = imptool("train", "coats", *SMALL, "--dry-run")
    assert result.exit_code == 1, result.output
    assert files_in(Path()) == before
    lines = [line.strip() for line in result.stdout.splitlines()]
    for start in (
        "coats/images/000.png is not a readable picture: its end is missing",
        "coats/labels/001.png is not a readable picture: the file is empty",
        "coats/images/002.png has no label map",
        "coats/labels/003.png is 7x9, its image 003.png is 96x72",
        "coats/labels/004.png is a colour picture (RGB)",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, result.stdout)
    assert any("12 images and their labels: 5 cannot be used" in line for line in lines)
    refused = imptool("inspect", "coats").stdout  # which reads all of them
    assert all(f"{kind}: " in result.stdout and f"{kind}: " in refused for kind in ("pair", "unreadable", "size", "ids"))


def test_a_dry_run_looks_at_files_for_a_bounded_time(coats: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imptool.dry_run._LOOK", -1.0)
    result = imptool("train", "coats", *SMALL, "--dry-run")
    assert "headers of 0 of 12 images and their labels" in result.stdout


def test_a_dry_run_of_a_stopped_run_counts_what_is_left(workplace: Path, imptool: Imptool) -> None:
    words = ("train", "tiny.yaml", "--device", "cpu", "--workers", "0", "--name", "a", "-o", "keep_checkpoints=4")
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    assert imptool(*words).exit_code == 0
    run = Path("runs/tiny/a")
    (run / "weights.safetensors").unlink()
    for gone, stages, left in (
        ("full-0000004", ["full"], ["2 of 4"]),
        ("full-0000002", ["detector", "full"], ["0 of 4", "4"]),
        ("detector-0000004", ["detector", "full"], ["2 of 4", "4"]),
    ):
        (run / f"checkpoint-{gone}.pt").unlink()
        before = files_in(Path())
        result = imptool(*words, "--resume", "--dry-run")
        assert result.exit_code == 0, result.output
        assert files_in(Path()) == before
        rows = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
        assert ([row[1].strip() for row in rows], [row[4].strip() for row in rows]) == (stages, left)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("coats", "--dataset", "coats"), "is a dataset, and so is --dataset"),
        (("coats", "--name", "a", "--out", "b"), "--name and --out both say where the run is to be"),
        (("coats", "--name", "../a"), "becomes part of a file's name"),
        (("one",), "one has one image: it takes one to learn from and another to measure on"),
        (("parted.yaml",), "parted.yaml has the splits a, b: say which to train and to measure on"),
        (("coats/images",), "coats/images is neither a dataset"),
        (("coats", "--resume"), "no run to resume under runs/ccp_lite-coats"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_one_line(
    words: tuple[str, ...], line: str, coats: Path, imptool: Imptool
) -> None:
    write_folder(Path("one"), 1)
    for name, stem in (("a", "000"), ("b", "001")):
        Path("coats", f"{name}.txt").write_text(stem)
    Path("parted.yaml").write_text("layout: folder\nroot: ./coats\nsplits: {a: a.txt, b: b.txt}\n")
    result = imptool("train", *words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert line in result.stderr
    assert not Path("runs").exists()


def test_a_run_on_another_dataset_carries_its_name(workplace: Path, imptool: Imptool) -> None:
    Path("other.yaml").write_text(Path("drawn.yaml").read_text())
    assert imptool("convert-instances", "other.yaml").exit_code == 0
    short = ("-o", "stages.detector.iterations=1", "-o", "stages.full.iterations=1", "--workers", "0", "--name", "a")
    assert imptool("train", "tiny.yaml", "--dataset", "other.yaml", *short).exit_code == 0
    assert read_yaml(Path("runs/tiny-other/a/recipe.yaml"))["dataset"] == "other.yaml"
