"""`imptool convert-instances`, as a person meets it: files, lines and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from imptool.data.coco import draw_instances
from imptool.data.dataset import load_dataset
from imptool.data.samples import TrainingSamples
from imptool.recipe import Augment, Input

Run = Callable[..., Result]

DRAWN = "layout: folder\nroot: drawn\n"
LABELS = Path("data/drawn/labels")
IMAGES = Path("data/drawn/images")


def read(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def drawn_back(document: dict[str, Any], *, background: int) -> dict[str, np.ndarray]:
    """File name -> the semantic map that the instances of its image draw."""
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for annotation in document["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    return {
        image["file_name"]: draw_instances(of_image[image["id"]], (image["height"], image["width"]), background=background)
        for image in document["images"]
    }


def ids_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def write_ids(name: str, ids: np.ndarray) -> None:
    """Replace a pair of the drawn dataset by a map and an image of its size."""
    Image.fromarray(ids).save(LABELS / f"{name}.png")
    Image.fromarray(np.zeros((*ids.shape[:2], 3), np.uint8)).save(IMAGES / f"{name}.png")


def unfinished() -> list[str]:
    return [str(path) for path in Path().rglob(".unfinished-*")]


# --- the result ---


def test_every_split_becomes_a_file_that_draws_back_to_its_maps(workplace: Path, imptool: Run) -> None:
    result = imptool("convert-instances", "drawn.yaml")
    assert result.exit_code == 0, result.output
    documents = {split: read(f"instances/drawn/{split}.json") for split in ("train", "val")}
    assert [len(documents[split]["images"]) for split in ("train", "val")] == [4, 2]
    seen: set[str] = set()
    for document in documents.values():
        for name, ids in drawn_back(document, background=0).items():
            np.testing.assert_array_equal(ids, ids_of(LABELS / Path(name).name))
            seen.add(name)
    assert seen == {f"images/{n:03d}.png" for n in range(6)}
    assert len({image["id"] for document in documents.values() for image in document["images"]}) == 6
    assert "instances/drawn/train.json: 4 images, 8 instances" in result.stdout


def test_pycocotools_reads_what_is_written(workplace: Path, imptool: Run) -> None:
    imptool("convert-instances", "drawn.yaml")
    coco = COCO("instances/drawn/val.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["coat", "hat"]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert annotation["area"] == mask.sum() == rle.area(annotation["segmentation"])
        assert annotation["bbox"] == rle.toBbox(annotation["segmentation"]).tolist()
        assert annotation["iscrowd"] == 0


def test_ccps_validation_maps_are_drawn_back_exactly(
    workplace: Path, imptool: Run, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPTOOL_DATA", str(shared_data))
    result = imptool("convert-instances", "ccp")
    assert result.exit_code == 0, result.output
    table = np.loadtxt(shared_data / "ccp" / "map15.csv", delimiter=",", skiprows=1, usecols=2, dtype=np.uint8)
    maps = drawn_back(read("instances/ccp/val.json"), background=0)
    assert len(maps) == 120
    for name, ids in maps.items():
        truth = table[ids_of(shared_data / "ccp" / "labels" / f"{Path(name).stem}.png")]
        np.testing.assert_array_equal(ids, np.where(truth == 255, 0, truth))
    assert "1 without any instance (all background or ignored): 0536" in result.stdout


def test_a_dataset_without_background_makes_instances_of_every_class(workplace: Path, imptool: Run) -> None:
    Path("data/drawn/classes.txt").write_text("road\ncar\nbus\n")
    assert imptool("convert-instances", "data/drawn").exit_code == 0
    document = read("instances/drawn/all.json")
    assert [category["name"] for category in document["categories"]] == ["road", "car", "bus"]
    for name, ids in drawn_back(document, background=255).items():
        np.testing.assert_array_equal(ids, ids_of(LABELS / Path(name).name))


def test_two_runs_write_equal_bytes(workplace: Path, imptool: Run) -> None:
    imptool("convert-instances", "drawn.yaml", "--workers", 1)
    imptool("convert-instances", "drawn.yaml", "--workers", 4, "--out", "again")
    for split in ("train", "val"):
        assert Path(f"instances/drawn/{split}.json").read_bytes() == Path(f"again/{split}.json").read_bytes()


@pytest.mark.parametrize(("connectivity", "count"), [("4", 3), ("8", 1)])
def test_connectivity_decides_whether_a_diagonal_is_one_instance(
    workplace: Path, imptool: Run, connectivity: str, count: int
) -> None:
    for path in [*IMAGES.iterdir(), *LABELS.iterdir()]:
        path.unlink()
    write_ids("diagonal", np.eye(3, dtype=np.uint8))
    assert imptool("convert-instances", "data/drawn", "--connectivity", connectivity).exit_code == 0
    assert len(read("instances/drawn/all.json")["annotations"]) == count


def test_min_area_drops_smaller_components_and_says_how_many(workplace: Path, imptool: Run) -> None:
    write_ids("000", np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 2, 2]], np.uint8))  # areas 3, 1 and 2
    result = imptool("convert-instances", "data/drawn", "--min-area", 2)
    document = read("instances/drawn/all.json")
    assert sorted(row["area"] for row in document["annotations"] if row["image_id"] == 1) == [2, 3]
    assert [row["id"] for row in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    assert "; 1 under --min-area dropped" in result.stdout


def test_a_map_of_background_alone_is_named_and_no_error(workplace: Path, imptool: Run) -> None:
    write_ids("003", np.zeros((5, 4), np.uint8))
    result = imptool("convert-instances", "data/drawn")
    assert result.exit_code == 0
    assert "1 without any instance (all background or ignored): 003" in result.stdout
    assert len(read("instances/drawn/all.json")["images"]) == 6


# --- where it comes from and goes to ---


def test_without_an_argument_the_folder_itself_is_the_dataset(
    workplace: Path, imptool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("data/drawn")
    result = imptool("convert-instances")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("drawn: 2 classes, background 0 (background), 255 ignored, from .")
    assert len(read("instances/drawn/all.json")["images"]) == 6


def test_without_an_argument_the_one_dataset_yaml_is_taken(workplace: Path, imptool: Run) -> None:
    assert imptool("convert-instances").exit_code == 0  # tiny.yaml beside it is a recipe
    assert len(read("instances/drawn/val.json")["images"]) == 2


def test_without_a_dataset_one_line_says_what_to_write(workplace: Path, imptool: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("data")
    result = imptool("convert-instances")
    assert result.exit_code == 2
    assert "name one, such as path/to/dataset" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("argument", ["nowhere", "nowhere.yaml", "data", "tiny.yaml"])
def test_what_is_no_dataset_is_one_line(workplace: Path, imptool: Run, argument: str) -> None:
    result = imptool("convert-instances", argument)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert argument in result.stderr
    assert not Path("instances").exists()


def test_a_result_is_replaced_only_when_asked(workplace: Path, imptool: Run) -> None:
    path = Path("instances/drawn/val.json")
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    refused = imptool("convert-instances", "drawn.yaml")
    assert refused.exit_code == 2
    assert f"{path} exists: add --force to replace it" in refused.stderr
    assert path.read_text() == "precious"
    assert [entry.name for entry in path.parent.iterdir()] == ["val.json"]
    assert imptool("convert-instances", "drawn.yaml", "--force").exit_code == 0
    assert len(read(path)["images"]) == 2


def test_out_may_be_a_folder_or_a_file_for_one_split(workplace: Path, imptool: Run) -> None:
    assert imptool("convert-instances", "drawn.yaml", "--out", "made/here").exit_code == 0
    assert sorted(path.name for path in Path("made/here").iterdir()) == ["train.json", "val.json"]
    assert imptool("convert-instances", "data/drawn", "--out", "made/all.json").exit_code == 0
    assert len(read("made/all.json")["images"]) == 6
    assert not Path("instances").exists()


@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("one.json", "one.json is one file, drawn has 2 splits: give a folder"),
        ("tiny.yaml", "tiny.yaml is a file: give a folder"),
    ],
)
def test_an_out_that_cannot_hold_the_result_is_told_before_the_work(workplace: Path, imptool: Run, out: str, line: str) -> None:
    result = imptool("convert-instances", "drawn.yaml", "--out", out)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert line in result.stderr


# --- bad files ---


def colour_map() -> None:
    Image.new("RGB", (72, 96)).save(LABELS / "002.png")


def cut(path: Path, part: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


def cut_jpeg() -> None:
    with Image.open(IMAGES / "002.png") as image:
        image.save(IMAGES / "002.jpg")
    (IMAGES / "002.png").unlink()
    cut(IMAGES / "002.jpg", 0.5)


DAMAGES: dict[str, tuple[Callable[[], object], str]] = {
    "a missing label map": ((LABELS / "002.png").unlink, "images/002.png has no label map: expected data/drawn/labels/002.png"),
    "a missing image": ((IMAGES / "002.png").unlink, "labels/002.png has no image"),
    "another size": (
        lambda: Image.new("L", (72, 95)).save(LABELS / "002.png"),
        "labels/002.png is 95x72, its image 002.png is 96x72",
    ),
    "an unknown id": (
        lambda: Image.new("L", (72, 96), 3).save(LABELS / "002.png"),
        "labels/002.png holds id 3, not in the class list of data/drawn",
    ),
    "a colour map": (colour_map, "labels/002.png is a colour picture (RGB)"),
    "a cut PNG": (lambda: cut(LABELS / "002.png", 0.6), "labels/002.png is not a readable picture"),
    "an empty PNG": (lambda: cut(LABELS / "002.png", 0), "labels/002.png is not a readable picture"),
    "a cut JPEG": (cut_jpeg, "images/002.jpg is not a readable picture"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_bad_file_is_listed_and_the_others_are_converted(workplace: Path, imptool: Run, damage: str) -> None:
    make_it, line = DAMAGES[damage]
    make_it()
    result = imptool("convert-instances", "data/drawn")
    assert result.exit_code == 1
    listed = result.stderr.splitlines()
    assert listed[0] == "1 could not be used:"
    assert len(listed) == 2
    assert line in listed[1]
    names = [image["file_name"] for image in read("instances/drawn/all.json")["images"]]
    assert names == [f"images/{n:03d}.png" for n in (0, 1, 3, 4, 5)]
    assert unfinished() == []


def test_two_photographs_of_one_stem_are_told_and_one_is_used(workplace: Path, imptool: Run) -> None:
    Image.new("RGB", (72, 96)).save(IMAGES / "002.jpg")
    result = imptool("convert-instances", "data/drawn")
    assert result.exit_code == 1
    assert "images/002.png has the same stem as 002.jpg: rename one of them" in result.stderr
    document = read("instances/drawn/all.json")
    assert len(document["images"]) == len({image["id"] for image in document["images"]}) == 6


def test_classes_without_an_instance_take_one_line(workplace: Path, imptool: Run) -> None:
    with Path("data/drawn/classes.txt").open("a") as file:
        file.write("\nscarf\nglove")
    lines = imptool("convert-instances", "drawn.yaml").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│ ")] == ["coat", "hat", "all"]
    assert "2 classes have no instance: scarf, glove" in lines


def test_a_split_of_bad_files_alone_does_not_stop_the_others(workplace: Path, imptool: Run) -> None:
    for n, name in ((0, "one"), (1, "two"), (2, "two")):
        with Path(f"data/drawn/{name}.txt").open("a") as file:
            file.write(f"{n:03d}\n")
    Path("set.yaml").write_text(DRAWN + "splits: {one: one.txt, two: two.txt}\n")
    cut(LABELS / "000.png", 0.5)
    cut(LABELS / "002.png", 0.5)
    result = imptool("convert-instances", "set.yaml")
    assert result.exit_code == 2  # a split is lost
    assert "instances/set/one.json: not written, no image of this split can be used" in result.stdout
    assert [path.name for path in Path("instances/set").glob("[!.]*")] == ["two.json"]
    assert len(result.stderr.splitlines()) == 3
    assert "000.png" in result.stderr
    assert "002.png" in result.stderr


def test_overwriting_removes_the_file_of_a_split_that_is_bad_now(workplace: Path, imptool: Run) -> None:
    for n, name in ((0, "one"), (1, "two")):
        Path(f"data/drawn/{name}.txt").write_text(f"{n:03d}\n")
    Path("set.yaml").write_text(DRAWN + "splits: {one: one.txt, two: two.txt}\n")
    assert imptool("convert-instances", "set.yaml").exit_code == 0
    cut(LABELS / "000.png", 0.5)
    assert imptool("convert-instances", "set.yaml", "--force").exit_code == 2
    assert [path.name for path in Path("instances/set").glob("[!.]*")] == ["two.json"]
    before = Path("instances/set/two.json").read_bytes()
    cut(LABELS / "001.png", 0.5)
    assert imptool("convert-instances", "set.yaml", "--force").exit_code == 2
    assert Path("instances/set/two.json").read_bytes() == before  # nothing to put in its place


def test_a_misspelt_stem_in_together_is_noted(workplace: Path, imptool: Run) -> None:
    rule = "random_splits: {seed: 1, sizes: {val: 2}, rest: train, together: [['000', '00l']]}\n"
    Path("set.yaml").write_text(DRAWN + rule)
    result = imptool("convert-instances", "set.yaml")
    assert result.exit_code == 0
    assert "note: set.yaml: random_splits: together: no image has the stem 00l" in result.stdout


def test_a_dataset_of_bad_files_alone_is_one_line_and_writes_nothing(workplace: Path, imptool: Run) -> None:
    for path in LABELS.iterdir():
        path.write_bytes(b"")
    result = imptool("convert-instances", "data/drawn")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "none of its 6 images can be used; the first: data/drawn/labels/000.png is not a readable" in result.stderr
    assert not Path("instances").exists()


def test_an_empty_split_is_refused_before_anything_is_written(workplace: Path, imptool: Run) -> None:
    Path("data/drawn/some.txt").write_text("000\n")
    Path("data/drawn/none.txt").write_text("")
    Path("set.yaml").write_text(DRAWN + "splits: {train: some.txt, val: none.txt}\n")
    result = imptool("convert-instances", "set.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: set.yaml: the split 'val' is empty: ")
    assert not Path("instances").exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_result(workplace: Path, imptool: Run) -> None:
    imptool("convert-instances", "data/drawn")
    before = Path("instances/drawn/all.json").read_bytes()
    full = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from imptool.cli import main; main(['convert-instances', 'data/drawn', '--force'])"
    )
    result = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        "Error: instances/drawn/.converting-drawn-coco/all.lines: File too large\n",
    )
    assert Path("instances/drawn/all.json").read_bytes() == before
    assert unfinished() == []


def test_file_names_that_are_no_text_are_converted_and_printed(workplace: Path) -> None:
    folder = workplace / "data" / "drawn"
    name = os.fsdecode(b"\xff.png")
    for kind, pixels in (("images", np.zeros((9, 9, 3), np.uint8)), ("labels", np.zeros((9, 9), np.uint8))):
        Image.fromarray(pixels).save(folder / kind / name)
    command = [sys.executable, "-m", "imptool", "convert-instances", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert r"(all background or ignored): \udcff" in result.stdout


# --- what train makes of it ---


def test_train_reads_semantic_maps_that_were_written(workplace: Path, imptool: Run) -> None:
    assert imptool("convert-instances", "drawn.yaml", "--format", "semantic").exit_code == 0
    prepared = "semantic/drawn/drawn.yaml"
    for options in ((), ("--out", "twice")):  # train looks in instances/<dataset>/
        assert imptool("convert-instances", prepared, *options).exit_code == 0
    assert imptool("convert-instances", "drawn.yaml", "--out", "once").exit_code == 0
    for split in ("train", "val"):
        once, twice = read(f"once/{split}.json"), read(f"twice/{split}.json")
        assert once["annotations"] == twice["annotations"]
    result = imptool("train", "tiny.yaml", "--dataset", prepared, "--device", "cpu", "--workers", 0)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_crowd_is_no_example_for_training(workplace: Path, imptool: Run) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    dataset = load_dataset("drawn.yaml")
    document = read("instances/drawn/train.json")
    size, augment = Input(short_side=64, long_side=96), Augment(flip=0.0)
    counts = []
    for crowd in (0, 1):
        for row in document["annotations"]:
            row["iscrowd"] = int(crowd and row["category_id"] == 1)
        sample = TrainingSamples(dataset, "train", document, size=size, augment=augment, seed=0)[0]
        counts.append(sample.target["labels"].tolist())
    assert counts == [[1, 2], [2]]
