"""`imptool inspect`: figures counted by hand, one problem for each seeded fault, a page that a browser shows."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser
from click.testing import Result
from conftest import run_imptool, write_folder
from drawn_layouts import COCO_INSTANCES, COCO_PANOPTIC, FOLDER_OF_COLOURS, LAYOUTS, VOC, Drawn, grid, save, write_dataset
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

Imptool = Callable[..., Result]
Edit = Callable[[dict[str, Any]], object]

# A coat with a hole in which a hat lies, hats of 4 and 3 px, a bag of 6; coats of 19 px (a corner connects) and 12; a hat with
# three holes, a bag of 16, a coat of 20. "#" is ignored. The bag, drawn as 3, gets the id 300.
MAPS = {
    "a": "............ .111111.22.. .1....1.22.. .1222.1..... .1....1..... .111111..333 .........333 ............",
    "b": "111111...... 111111...... 111111...... ......1..... ............ 1111....#### 1111....#### 1111....####",
    "c": "2222222..... 2.2.2.2..... 2222222..... ............ 33333333.... 33333333.... 1111111111.. 1111111111..",
}
YAML = """
layout: folder
root: ./set
classes:
- {id: 0, name: background}
- {id: 1, name: coat, group: garment}
- {id: 2, name: hat}
- {id: 300, name: bag, group: accessory}
- {id: 7, name: shoe}
splits: {train: train.txt, val: val.txt}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def counted(here: Path) -> Path:
    """A dataset whose figures are counted by hand: a and b are train, c is val; there is no shoe."""
    for number, (stem, text) in enumerate(MAPS.items()):
        ids = grid(text).astype(np.uint16)
        save(Path(f"set/images/{stem}.png"), np.random.default_rng(number).integers(0, 255, (*ids.shape, 3), np.uint8))
        save(Path(f"set/labels/{stem}.png"), np.where(ids == 3, 300, ids).astype(np.uint16))
    Path("set/train.txt").write_text("a\nb\n")
    Path("set/val.txt").write_text("c\n")
    Path("set.yaml").write_text(YAML)
    return here


def found(dataset: object, *arguments: object) -> dict[str, Any]:
    """What --json says; the exit code has to fit."""
    result = run_imptool("inspect", dataset, "--json", *arguments)
    assert result.exit_code in (0, 1), result.output
    assert not result.exception or isinstance(result.exception, SystemExit)
    document: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == bool(document["problems"])
    return document


def kinds(document: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [(problem["kind"], problem["photographs"]) for problem in document["problems"]]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- figures ---


def test_every_figure_is_that_counted_by_hand(counted: Path) -> None:
    assert found("set.yaml", "--out", "out")["problems"] == []
    head, *rows = rows_of(Path("out/classes.csv"))
    assert head[:6] == ["id", "class", "group", "instances_train", "instances_val", "side_px"]
    assert head[6:] == ["photographs_train", "photographs_val", "instances_under_16_px", "components", "holes"]
    assert rows == [
        ["1", "coat", "garment", "3", "1", "4.2", "2", "1", "1", "4", "1"],  # (18 + 19 + 12 + 20) / 4 = 17.25
        ["2", "hat", "", "2", "1", "2.9", "1", "1", "2", "3", "3"],  # (4 + 3 + 18) / 3 = 8.33
        ["300", "bag", "accessory", "1", "1", "3.3", "1", "1", "1", "2", "0"],  # (6 + 16) / 2 = 11
        ["7", "shoe", "", "0", "0", "", "0", "0", "0", "0", "0"],
    ]
    assert rows_of(Path("out/together.csv")) == [
        ["images with both", "coat", "hat", "bag", "shoe"],
        ["coat", "3", "2", "2", "0"],
        ["hat", "2", "2", "2", "0"],
        ["bag", "2", "2", "2", "0"],
        ["shoe", "0", "0", "0", "0"],
    ]
    assert json.loads(Path("out/problems.json").read_text()) == []


def test_json_has_the_same_figures(counted: Path) -> None:
    document = found("set.yaml")
    assert document["photographs"] == {"train": 2, "val": 1}
    assert document["components_of_a_photograph"] == {"2": 1, "3": 1, "4": 1}
    assert document["together"] == [[3, 2, 2, 0], [2, 2, 2, 0], [2, 2, 2, 0], [0, 0, 0, 0]]
    coat, _, bag, shoe = document["classes"]
    assert coat.pop("side") == pytest.approx(math.sqrt(69 / 4))
    assert coat == {
        "class_id": 1,
        "name": "coat",
        "group": "garment",
        "instances": {"train": 3, "val": 1},
        "photographs": {"train": 2, "val": 1},
        "small": 1,
        "components": 4,
        "holes": 1,
    }
    assert bag["side"] == pytest.approx(math.sqrt(11))
    assert shoe["side"] is None


def test_the_terminal_has_the_same_figures(counted: Path, imptool: Imptool) -> None:
    text = imptool("inspect", "set.yaml").stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [
        ["coat", "garment", "3", "1", "4", "25.0%", "3", "4", "1"],
        ["hat", "", "2", "1", "3", "66.7%", "2", "3", "3"],
        ["bag", "accessory", "1", "1", "3", "50.0%", "2", "2", "0"],
        ["all", "", "6", "3", "", "", "3", "9", "4"],
    ]
    assert "components of an image: 3.0 on average, median 3, at most 4" in text
    assert text.endswith("\nno problems\n")


def test_classes_that_are_absent_or_rare_or_not_in_train_are_notes(counted: Path, imptool: Imptool) -> None:
    """b shows coats alone, so that with b as train the rest is elsewhere; the instances are those counted above."""
    text = imptool("inspect", "set.yaml").stdout
    assert [line for line in text.splitlines() if line.startswith("note: ")] == [
        "note: no image shows shoe",
        "note: fewer than 10 instances: coat (4), hat (3), bag (2)",
    ]
    Path("set.yaml").write_text(YAML.replace("train: train.txt, val: val.txt", "train: b.txt, val: train.txt, test: val.txt"))
    Path("set/b.txt").write_text("b\n")
    Path("set/train.txt").write_text("a\n")
    notes = imptool("inspect", "set.yaml").stdout
    assert "note: not in train, only in val and test: hat, bag\n" in notes
    Path("set.yaml").write_text(YAML.replace("train: train.txt, val: val.txt", "train: b.txt, val: train.txt"))
    assert "note: not in train, only in val: hat, bag\n" in imptool("inspect", "set.yaml", "--page").stdout
    assert "<p>not in train, only in val: hat, bag</p>" in Path("inspected/set/index.html").read_text()


def test_ten_instances_are_enough_and_without_a_train_split_nothing_is_said_of_it(here: Path, imptool: Imptool) -> None:
    ids = np.zeros((40, 200), np.uint8)
    ids[5:15, 5::20] = 1  # ten columns
    ids[20:30, 5:-20:20] = 2  # nine
    save(Path("set/labels/a.png"), ids)
    save(Path("set/images/a.png"), np.zeros((*ids.shape, 3), np.uint8))
    Path("set/classes.txt").write_text("background\ncoat\nhat")
    text = imptool("inspect", "set").stdout
    assert [line for line in text.splitlines() if line.startswith("note: ")] == ["note: fewer than 10 instances: hat (9)"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_true_instances_are_counted_as_such_and_components_are_those_of_scipy(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    document = found(write_dataset(drawn))
    regions = {stem: found_there for stem, found_there in drawn.instances.items() if stem in drawn.maps}
    for row in document["classes"]:
        category = row["class_id"]
        areas = [region.area for found_there in regions.values() for region in found_there if region.category == category]
        assert sum(row["instances"].values()) == len(areas)
        assert row["side"] == pytest.approx(math.sqrt(sum(areas) / len(areas)))
        assert row["small"] == sum(area < 16 for area in areas)
        shown = {stem for stem, ids in drawn.maps.items() if (ids == category).any()}
        assert row["photographs"] == {split: len(shown & set(stems)) for split, stems in drawn.splits.items()}
        assert row["components"] == sum(ndimage.label(ids == category, np.ones((3, 3)))[1] for ids in drawn.maps.values())


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save_figure = Figure.savefig

    def note_and_save(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save_figure(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", note_and_save)
    return figures


def axes_of(plots: list[Figure], xlabel: str) -> Any:
    [axes] = [axes for figure in plots for axes in figure.axes if axes.get_xlabel().startswith(xlabel)]
    return axes


def test_plots_draw_the_figures(counted: Path, plots: list[Figure]) -> None:
    found("set.yaml", "--out", "out")
    bars = axes_of(plots, "instances")
    assert [list(container.datavalues) for container in bars.containers] == [[3, 2, 1], [1, 1, 1]]  # there is no shoe
    assert [text.get_text() for text in bars.get_yticklabels()] == ["coat", "hat", "bag"]
    written = [text.get_text() for text in bars.get_xticklabels()]
    assert len(written) == len(set(written)) > 2
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["train", "val"]
    boxes = axes_of(plots, "side")
    assert [text.get_text() for text in boxes.get_yticklabels()] == ["coat", "hat", "bag"]
    middles = [line[0][0] for line in boxes.collections[-1].get_segments()]
    assert middles == pytest.approx([(math.sqrt(18) + math.sqrt(19)) / 2, 2, (math.sqrt(6) + 4) / 2])
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes_of(plots, "components").patches}
    assert {place: height for place, height in heights.items() if height} == {2: 1, 3: 1, 4: 1}
    shares = axes_of(plots, "also show").images[0].get_array()
    assert shares.tolist() == [[100, 200 / 3, 200 / 3], [100, 100, 100], [100, 100, 100]]


def test_no_names_overlap_in_the_plots_of_200_classes(here: Path, plots: list[Figure]) -> None:
    ids = np.kron(np.arange(1, 201).reshape(10, 20), np.ones((3, 3))).astype(np.uint8)
    save(Path("set/labels/a.png"), ids)
    save(Path("set/images/a.png"), np.zeros((*ids.shape, 3), np.uint8))
    Path("set/classes.txt").write_text("\n".join(["background", *(f"garment number {n}" for n in range(1, 201))]))
    assert found("set", "--out", "out")["problems"] == []
    for xlabel in ("instances", "side", "also show"):
        axes = axes_of(plots, xlabel)
        boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
        assert len(boxes) >= 20
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    for name in ("instances", "areas", "together"):
        with Image.open(f"out/{name}.png") as picture:
            assert max(picture.size) < 4000


# --- problems ---

IMAGES, LABELS = Path("data/drawn/images"), Path("data/drawn/labels")


def repaint(stem: str, place: Any, value: int) -> None:
    with Image.open(LABELS / f"{stem}.png") as image:
        ids = np.array(image)
    ids[place] = value
    save(LABELS / f"{stem}.png", ids)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def break_in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20] = bytes(20)
    path.write_bytes(data)


def mistake_a_photograph_for_labels() -> None:
    shutil.copy(IMAGES / "002.png", LABELS / "002.png")


FAULTS: dict[str, tuple[str, int, Callable[[], object]]] = {  # kind, images that can still be used, what is done
    "no labels": ("pair", 5, lambda: (LABELS / "002.png").unlink()),
    "no image": ("pair", 5, lambda: (IMAGES / "002.png").unlink()),
    "two images of one stem": ("pair", 6, lambda: Image.open(IMAGES / "002.png").save(IMAGES / "002.jpg")),
    "an image cut short": ("unreadable", 5, lambda: cut(IMAGES / "002.png")),
    "an image with a broken middle": ("unreadable", 5, lambda: break_in_the_middle(IMAGES / "002.png")),
    "an empty image": ("unreadable", 5, lambda: (IMAGES / "002.png").write_bytes(b"")),
    "labels cut short": ("unreadable", 5, lambda: cut(LABELS / "002.png")),
    "labels that are text": ("unreadable", 5, lambda: (LABELS / "002.png").write_text("labels")),
    "labels that are an image": ("ids", 5, mistake_a_photograph_for_labels),
    "labels of another size": ("size", 5, lambda: save(LABELS / "002.png", np.ones((72, 96), np.uint8))),
    "an unknown id": ("ids", 5, lambda: repaint("002", (0, 0), 3)),
    "only background": ("empty", 6, lambda: repaint("002", ..., 0)),
    "only ignored": ("empty", 6, lambda: repaint("002", ..., 255)),
    "a pixel": ("tiny", 6, lambda: repaint("002", (0, 0), 1)),
    "two pixels that touch at a corner": ("tiny", 6, lambda: repaint("002", ([0, 1], [0, 1]), 2)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_problem_of_its_kind_and_costs_no_other_photograph(workplace: Path, fault: str) -> None:
    kind, usable, damage = FAULTS[fault]
    damage()
    document = found("drawn.yaml", "--page")
    assert kinds(document) == [(kind, ["002"])]
    assert sum(document["photographs"].values()) == usable
    assert "002" in document["problems"][0]["line"]
    assert json.loads(Path("inspected/drawn/problems.json").read_text()) == document["problems"]


def test_what_is_no_fault_is_no_problem(workplace: Path) -> None:
    repaint("002", (0, slice(3)), 1)  # a component of three pixels
    repaint("003", slice(0, 9), 255)
    shutil.copy(IMAGES / "000.png", IMAGES / "900.png")  # the same image with the same labels, in one split
    shutil.copy(LABELS / "000.png", LABELS / "900.png")
    assert found("data/drawn")["problems"] == []


@pytest.mark.parametrize(
    ("val", "change", "expected"),
    [
        ("900", False, {"leak"}),
        ("900", True, {"leak", "duplicate"}),
        ("001", True, {"duplicate"}),
        ("001", False, set()),
    ],
)
def test_one_photograph_twice_is_a_leak_in_two_splits_and_a_duplicate_with_other_labels(
    workplace: Path, val: str, change: bool, expected: set[str]
) -> None:
    shutil.copy(IMAGES / "000.png", IMAGES / "900.png")
    shutil.copy(LABELS / "000.png", LABELS / "900.png")
    if change:
        repaint("900", (slice(4), slice(18)), 2)  # 72 of 96 * 72 pixels
    Path("data/drawn/val.txt").write_text(val)
    Path("data/drawn/train.txt").write_text("\n".join({"000", "001", "002", "900"} - {val}))
    Path("drawn.yaml").write_text("layout: folder\nroot: drawn\nsplits: {train: train.txt, val: val.txt}")
    problems = found("drawn.yaml")["problems"]
    assert sorted(problem["kind"] for problem in problems) == sorted(expected)
    assert all(sorted(problem["photographs"]) == ["000", "900"] for problem in problems)
    assert all("differ in 1.0% of their pixels" in problem["line"] for problem in problems if problem["kind"] == "duplicate")


def test_unknown_colours_are_unknown_ids(here: Path) -> None:
    dataset = write_dataset(FOLDER_OF_COLOURS)
    save(Path("set/labels/rgb.png"), np.full((2, 3, 3), 9, np.uint8))
    assert ("ids", ["rgb"]) in kinds(found(dataset))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.write_bytes(b""), "unreadable"),
        (lambda path: save(path, np.zeros((3, 3), np.uint8)), "size"),
    ],
)
def test_a_fault_of_the_instance_numbers_has_its_own_kind(here: Path, damage: Callable[[Path], object], kind: str) -> None:
    dataset = write_dataset(VOC)
    damage(Path("set/SegmentationObject/a.png"))
    assert (kind, ["a"]) in kinds(found(dataset))


def edited(drawn: Drawn, path: str, edit: Edit) -> tuple[list[tuple[str, list[str]]], dict[str, Any]]:
    """The problems that an edit of the JSON adds."""
    dataset = write_dataset(drawn)
    before = [problem["line"] for problem in found(dataset)["problems"]]
    document = json.loads(Path(path).read_text())
    edit(document)
    Path(path).write_text(json.dumps(document))
    after = found(dataset)
    added = [problem for problem in after["problems"] if problem["line"] not in before]
    return [(problem["kind"], problem["photographs"]) for problem in added], after


# Annotation 0 is a coat of 16 px at (1, 1), 4 x 4; 2 is the crowd of bags, as RLE, of 6 px.
COCO_FAULTS: dict[str, tuple[str, list[str], Edit]] = {
    "area": ("contradiction", ["p"], lambda d: d["annotations"][0].update(area=99)),
    "bbox": ("contradiction", ["p"], lambda d: d["annotations"][0].update(bbox=[4, 1, 4, 4])),
    "bbox as corners": ("contradiction", ["p"], lambda d: d["annotations"][2].update(bbox=[5, 1, 8, 3])),
    "id twice": ("annotation", [], lambda d: d["annotations"][1].update(id=0)),
    "unknown category": ("annotation", ["p"], lambda d: d["annotations"][1].update(category_id=99)),
    "unknown image": ("annotation", [], lambda d: d["annotations"][1].update(image_id=99)),
    "two points": ("annotation", ["p"], lambda d: d["annotations"][0].update(segmentation=[[1, 1, 2, 2]])),
    "no pixel": ("annotation", ["p"], lambda d: d["annotations"][0].update(segmentation=[[-5, 1, -3, 1, -3, 3]])),
    "instance twice": ("annotation", ["p"], lambda d: d["annotations"].append(d["annotations"][0] | {"id": 77})),
    "RLE of another size": ("annotation", ["p"], lambda d: d["annotations"][1]["segmentation"].update(size=[8, 6])),
    "height": ("size", ["nothing"], lambda d: d["images"][2].update(height=3)),
    "missing image": ("pair", ["zz"], lambda d: d["images"][1].update(file_name="zz.jpg")),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_coco_annotations_are_held_against_their_masks(here: Path, fault: str) -> None:
    kind, stems, edit = COCO_FAULTS[fault]
    assert edited(COCO_INSTANCES, "set/all.json", edit)[0] == [(kind, stems)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["annotations"][0].update(area=16, bbox=[1, 1, 4, 4]),
        lambda d: d["annotations"][0].update(area=12.5, bbox=[0.6, 0.6, 4.4, 4.4]),  # outlines between pixels
        lambda d: d["annotations"][0].update(area=None, bbox=None),
    ],
)
def test_true_areas_and_boxes_and_those_left_out_are_no_problem(here: Path, edit: Edit) -> None:
    assert edited(COCO_INSTANCES, "set/all.json", edit)[0] == []


# Segment 70000 of r has 5 px, (0, 0), 3 x 4.
PANOPTIC_FAULTS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], object]]] = {
    "area": ("contradiction", lambda segments: segments[0].update(area=9)),
    "bbox": ("contradiction", lambda segments: segments[0].update(bbox=[0, 0, 3, 3])),
    "segment that the PNG does not have": ("contradiction", lambda segments: segments.append({"id": 77, "category_id": 1})),
    "segment that the JSON does not have": ("contradiction", lambda segments: segments.pop(0)),
}


@pytest.mark.parametrize("fault", PANOPTIC_FAULTS)
def test_panoptic_segments_are_held_against_their_png(here: Path, fault: str) -> None:
    kind, edit = PANOPTIC_FAULTS[fault]
    added, _ = edited(COCO_PANOPTIC, "set/annotations/val.json", lambda d: edit(d["annotations"][0]["segments_info"]))
    assert added == [(kind, ["r"])]


def test_another_size_of_a_panoptic_image_is_a_contradiction(here: Path) -> None:
    added, _ = edited(COCO_PANOPTIC, "set/annotations/val.json", lambda d: d["images"][0].update(height=99))
    assert added == [("contradiction", ["r"])]


def test_a_segment_that_stands_twice_is_a_problem_of_the_annotations(here: Path) -> None:
    def repeat(document: dict[str, Any]) -> None:
        segments = document["annotations"][0]["segments_info"]
        segments.append(segments[0])

    added, document = edited(COCO_PANOPTIC, "set/annotations/val.json", repeat)
    assert {kind for kind, _ in added} == {"annotation"}
    assert document["photographs"] == {"val": 1}


def test_true_areas_and_boxes_of_segments_are_no_problem(here: Path) -> None:
    truth = {"area": 5, "bbox": [0, 0, 3, 4]}
    added, _ = edited(
        COCO_PANOPTIC, "set/annotations/val.json", lambda d: d["annotations"][0]["segments_info"][0].update(truth)
    )
    assert added == []


# --- what convert-instances has made in this folder ---

CONVERTED = Path("instances/drawn/train.json")


def edit_converted(edit: Edit) -> None:
    document = json.loads(CONVERTED.read_text())
    edit(document)
    CONVERTED.write_text(json.dumps(document))


CONTRADICTIONS: dict[str, tuple[list[str], Callable[[], object]]] = {
    "category": (["000"], lambda: edit_converted(lambda d: d["annotations"][0].update(category_id=2))),
    "mask": (
        ["000"],
        lambda: edit_converted(lambda d: d["annotations"][0].update(segmentation=d["annotations"][1]["segmentation"])),
    ),
    "instance gone": (["000"], lambda: edit_converted(lambda d: d["annotations"].pop(0))),
    "area": (["000"], lambda: edit_converted(lambda d: d["annotations"][0].update(area=999))),  # 35 * 45 pixels
    "bbox": (["000"], lambda: edit_converted(lambda d: d["annotations"][0].update(bbox=[19, 40, 35, 45]))),
    "id twice": ([], lambda: edit_converted(lambda d: d["images"][1].update(id=d["images"][0]["id"]))),
    "image gone": ([], lambda: edit_converted(lambda d: d["images"].pop())),
    "another label map since": ([], lambda: repaint("000", slice(0, 5), 1)),
    "not JSON": ([], lambda: CONVERTED.write_text("[")),
}


@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_converted_instances_that_contradict_the_maps_are_a_problem(workplace: Path, imptool: Imptool, change: str) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    assert found("drawn.yaml")["problems"] == []
    stems, make = CONTRADICTIONS[change]
    make()
    document = found("drawn.yaml")
    told = kinds(document)
    assert told == [("contradiction", stems)] * len(told) != []
    assert len(told) == 1 or change == "mask"  # whose area and box are wrong too
    assert all(str(CONVERTED) in problem["line"] for problem in document["problems"])


@pytest.mark.parametrize(
    "arguments", [["--min-area", "3000"], ["--segmentation", "polygon"], ["--segmentation", "polygon", "--simplify", "3"]]
)
def test_what_the_conversion_was_told_to_change_is_no_problem(workplace: Path, imptool: Imptool, arguments: list[str]) -> None:
    y, x = np.ogrid[:96, :72]
    for path in LABELS.iterdir():
        save(path, ((y - 50) ** 2 + (x - 36) ** 2 < 700).astype(np.uint8))  # 2,209 pixels
        repaint(path.stem, slice(0, 9), 255)
    assert imptool("convert-instances", "drawn.yaml", *arguments).exit_code == 0
    assert found("drawn.yaml")["problems"] == []


def test_converted_instances_need_no_info(workplace: Path, imptool: Imptool) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    edit_converted(lambda document: document.pop("info"))
    assert found("drawn.yaml")["problems"] == []


# --- odd datasets ---


def only_coats() -> None:
    for path in LABELS.iterdir():
        repaint(path.stem, slice(0, 39), 0)
    Path("data/drawn/classes.txt").write_text("background\ncoat")


def one_photograph() -> None:
    shutil.rmtree("data/drawn")
    write_folder(Path("data/drawn"), 1)


def paint_all(value: int) -> None:
    for path in LABELS.iterdir():
        repaint(path.stem, ..., value)


def break_all() -> None:
    for path in LABELS.iterdir():
        path.write_bytes(b"")


ODD: dict[str, tuple[Callable[[], object], int, list[str]]] = {  # what is done, usable images, kinds
    "one image": (one_photograph, 1, []),
    "one class": (only_coats, 6, []),
    "all empty": (lambda: paint_all(0), 6, ["empty"] * 6),
    "none usable": (break_all, 0, ["unreadable"] * 6),
    "no images": (lambda: shutil.rmtree(IMAGES), 6, ["pair"]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_datasets_have_figures_and_a_page_too(workplace: Path, case: str) -> None:
    change, usable, expected = ODD[case]
    change()
    document = found("data/drawn", "--page")
    assert [problem["kind"] for problem in document["problems"]] == expected
    assert document["photographs"] == {"all": usable}
    assert len(rows_of(Path("inspected/drawn/classes.csv"))) == 1 + len(document["classes"])
    page = Path("inspected/drawn/index.html").read_text()
    assert len(re.findall("<article>", page)) == usable
    assert ("<figcaption>image<" in page) == (usable > 0 and IMAGES.is_dir())


def test_nothing_to_look_at_is_one_line(workplace: Path, imptool: Imptool) -> None:
    shutil.rmtree(IMAGES)
    shutil.rmtree(LABELS)
    LABELS.mkdir()
    result = imptool("inspect", "data/drawn")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


# --- the command ---


def test_without_out_and_page_nothing_is_written(workplace: Path, imptool: Imptool) -> None:
    before = sorted(workplace.rglob("*"))
    assert imptool("inspect", "drawn.yaml").exit_code == 0
    assert sorted(workplace.rglob("*")) == before


def test_results_are_replaced_only_with_force(workplace: Path, imptool: Imptool) -> None:
    assert imptool("inspect", "drawn.yaml", "--page", "--out", "out").exit_code == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    repaint("002", slice(0, 5), 1)
    result = imptool("inspect", "drawn.yaml", "--page", "--out", "out")
    assert result.exit_code == 2
    assert result.output == "Error: out already holds results: add --force, or choose another --out\n"
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    assert imptool("inspect", "drawn.yaml", "--page", "--out", "out", "--force").exit_code == 0
    assert Path("out/classes.csv").read_bytes() != before[Path("out/classes.csv")]
    assert Path("out/index.html").read_bytes() != before[Path("out/index.html")]


def test_the_dataset_itself_is_no_place_for_results(workplace: Path, imptool: Imptool) -> None:
    before = sorted(workplace.rglob("*"))
    result = imptool("inspect", "drawn.yaml", "--out", "data/drawn", "--force")
    assert result.exit_code == 2
    assert result.output == "Error: --out data/drawn is the dataset itself: choose another folder\n"
    assert sorted(workplace.rglob("*")) == before


def test_two_runs_write_equal_bytes(workplace: Path, imptool: Imptool) -> None:
    for out in ("one", "other"):
        assert imptool("inspect", "drawn.yaml", "--page", "--out", out).exit_code == 0
    one, other = (
        {path.relative_to(out): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
        for out in ("one", "other")
    )
    assert one == other


@pytest.mark.parametrize("name", ["cot", "background"])
def test_a_class_that_cannot_be_chosen_is_one_line_before_the_work(workplace: Path, imptool: Imptool, name: str) -> None:
    result = imptool("inspect", "drawn.yaml", "--page", "--class", name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert f"--class {name}: drawn has no such class" in result.stderr
    assert not Path("inspected").exists()


def test_a_class_without_a_page_is_refused(workplace: Path, imptool: Imptool) -> None:
    result = imptool("inspect", "drawn.yaml", "--class", "coat")
    assert (result.exit_code, result.output) == (2, "Error: --class chooses images for the page: add --page\n")


def shown_on(page: Path) -> list[str]:
    return re.findall("<h3>(.*?)</h3>", page.read_text())


def test_the_page_shows_as_many_photographs_as_asked_for_and_those_of_a_class(counted: Path) -> None:
    for arguments, stems in (
        (["--class", "coat"], ["a", "b", "c"]),
        (["--class", "bag"], ["a", "c"]),
        (["--class", "bag", "--class", "shoe"], ["a", "c"]),
        (["--class", "shoe"], []),
        ([], ["a", "b", "c"]),
    ):
        found("set.yaml", "--page", "--force", *arguments)
        assert shown_on(Path("inspected/set/index.html")) == stems
    found("set.yaml", "--page", "--force", "--sample", 2)
    assert len(shown_on(Path("inspected/set/index.html"))) == 2


def test_problems_of_one_kind_are_counted_and_the_first_are_shown(workplace: Path, imptool: Imptool) -> None:
    paint_all(0)
    text = imptool("inspect", "data/drawn").stdout
    assert "\nempty: 6 problems\n" in text
    assert "pair" not in text
    assert "  000: its labels" in text
    assert "005: its labels" not in text
    assert "and 1 more: --out writes all of them to problems.json" in text
    assert text.endswith("\n6 problems\n")


# --- names ---

HARMFUL = ["""<b>"bold" & 'x'</b>""", "[red]外套[/red]\\", ":cat: $\\foo$", "long " * 60]
HARMFUL_STEM = "<img src=x onerror=alert(1)>#50%[bold]:cat:é"


@pytest.fixture
def harmful(here: Path) -> Path:
    """A dataset whose names hold markup; one of its images has a pixel too many."""
    ids = np.kron(np.array([[0, 1, 2], [3, 4, 0]]), np.ones((8, 8))).astype(np.uint8)
    ids[20:] = 0
    save(Path(f"set/images/{HARMFUL_STEM}.png"), np.full((*ids.shape, 3), 90, np.uint8))
    ids[0, 0] = 1
    ids[0, 1:8] = 255
    ids[0, 8:10] = 0
    save(Path(f"set/labels/{HARMFUL_STEM}.png"), ids)
    Path("set/classes.txt").write_text("\n".join(["background", *HARMFUL]), encoding="utf-8")
    return here


def test_names_stand_on_the_terminal_as_they_are(harmful: Path, imptool: Imptool) -> None:
    text = imptool("inspect", "set").stdout
    first, second, third, _ = HARMFUL
    assert all(f"│ {name} " in text for name in (first, second, third))
    assert f"{HARMFUL_STEM}: components of one or two pixels: 1 of {first}" in text
    assert f"{first} + {second} (1)" in text


def test_a_name_does_not_steer_the_terminal(workplace: Path, imptool: Imptool) -> None:
    save(IMAGES / "a\nb\x1b[31m.png", np.zeros((4, 4, 3), np.uint8))
    save(LABELS / "a\nb\x1b[31m.png", np.zeros((4, 4), np.uint8))
    text = imptool("inspect", "data/drawn").stdout
    assert "\n  a b\ufffd[31m: its labels are all background or ignored\n" in text
    assert "\x1b" not in text


def test_names_stand_in_the_files_as_they_are(harmful: Path) -> None:
    document = found("set", "--out", "out")
    names = [name.strip() for name in HARMFUL]
    assert [row["name"] for row in document["classes"]] == names
    assert document["problems"][0]["photographs"] == [HARMFUL_STEM]
    assert [row[1] for row in rows_of(Path("out/classes.csv"))[1:]] == names
    assert rows_of(Path("out/together.csv"))[0][1:] == names


def test_names_do_no_harm_on_the_page(harmful: Path, browser: Browser) -> None:
    found("set", "--page")
    answer = browser.ask(
        browser.open(Path("inspected/set/index.html").absolute()),
        """return {broken: images.filter((image) => !image.naturalWidth).length, images: images.length, bold:
                   document.querySelectorAll("b").length, scripts: document.scripts.length,
                   names: [...document.querySelectorAll("h3")].map((h) => h.textContent),
                   classes: [...document.querySelectorAll("table tbody th .swatch")].map((h) => h.textContent)}""",
    )
    names = [name.strip() for name in HARMFUL]
    expected = {"broken": 0, "images": 7, "bold": 0, "scripts": 1, "names": [HARMFUL_STEM], "classes": names}
    assert answer == expected


# --- the page ---


def test_every_picture_of_the_page_exists(workplace: Path) -> None:
    found("drawn.yaml", "--page")
    page = Path("inspected/drawn/index.html")
    sources = [unquote(source) for source in re.findall('src="([^"]+)"', page.read_text())]
    assert len(sources) == len(set(sources)) == 4 + 6 * 3
    assert all((page.parent / source).is_file() for source in sources)


def test_instances_of_one_class_have_one_colour_in_the_map_and_two_in_the_picture_of_instances(workplace: Path) -> None:
    one_photograph()
    repaint("000", (slice(4, 12), slice(40, 66)), 1)  # a second coat
    found("data/drawn", "--page")
    colours = {}
    for path in Path("inspected/drawn/pictures").iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image).astype(int)
        assert pixels.shape == (96, 72, 3)
        colours[path.stem.partition("-")[2]] = [pixels[rows, columns].mean((0, 1)) for rows, columns in BOTH_COATS]
    one, other = colours["semantic-map"]
    assert all(colour[0] > colour[1] + 40 for colour in (one, other))  # the colour of class 1 is (255, 136, 0)
    one, other = colours["instances"]
    assert np.abs(one - other).max() > 60
    one, other = colours["image"]
    assert one[2] > 200  # drawn in blue
    assert 90 <= other[2] <= 130


def test_a_dataset_that_states_its_colours_is_shown_in_them(here: Path) -> None:
    """Class 1 is (255, 0, 0) in the label maps, 2 is (0, 0, 255)."""
    found(write_dataset(FOLDER_OF_COLOURS), "--page")
    [page] = Path("inspected").rglob("index.html")
    colours = re.findall(r"--colour: rgb\((\d+ \d+ \d+)\)", page.read_text())
    assert set(colours) == {"255 0 0", "0 0 255"}


BOTH_COATS = [(slice(50, 70), slice(20, 40)), (slice(6, 10), slice(45, 60))]


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_the_page_without_errors_and_without_scrolling_sideways(
    workplace: Path, browser: Browser, dark: bool
) -> None:
    repaint("002", (0, 0), 1)
    found("drawn.yaml", "--page")
    tab = browser.open(Path("inspected/drawn/index.html").absolute(), width=380 if dark else 1200, dark=dark)
    answer = browser.ask(
        tab,
        """const page = document.documentElement;
           return {broken: images.filter((image) => !image.naturalWidth).length, images: images.length,
                   sideways: page.scrollWidth - page.clientWidth,
                   headings: [...document.querySelectorAll("h2")].map((h) => h.textContent),
                   headline: [...document.querySelectorAll(".headline dd")].map((d) => d.textContent),
                   problems: [...document.querySelectorAll("table")[1].querySelectorAll("td")].map((d) => d.textContent)}""",
    )
    assert answer == {
        "broken": 0,
        "images": 22,
        "sideways": 0,
        "headings": ["Classes", "Plots", "Problems", "Images", "Definitions"],
        "headline": ["6", "2", "13", "1"],
        "problems": ["002: components of one or two pixels: 1 of coat"],
    }


def test_a_click_sorts_counts_by_their_value_and_the_next_one_backwards(here: Path, browser: Browser) -> None:
    ids = np.zeros((80, 80), np.uint8)
    ids[:40:2, ::2] = 1  # single pixels: 20 * 40 = 800
    ids[50:70:2, 1:7:2] = 2  # 10 * 3 = 30
    ids[72, ::4] = 3  # 20
    wide = np.hstack([ids, ids])
    save(Path("set/labels/a.png"), wide)
    save(Path("set/images/a.png"), np.zeros((*wide.shape, 3), np.uint8))
    Path("set/classes.txt").write_text("background\nbag\ncoat\nhat")
    found("set", "--page")
    orders = browser.ask(
        browser.open(Path("inspected/set/index.html").absolute()),
        """const row = ({ cells }) => `${cells[0].textContent} ${cells[2].textContent}`;
           const rows = () => [...document.querySelector("table").tBodies[0].rows].map(row);
           const click = () => { document.querySelectorAll("thead button")[2].click(); return rows(); };
           return [click(), click()]""",
    )
    assert orders == [["bag 1,600", "coat 60", "hat 40"], ["hat 40", "coat 60", "bag 1,600"]]


# --- real images ---


@pytest.fixture(scope="module")
def ccp(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("ccp"))
        patch.setenv("IMPTOOL_DATA", str(shared_data))
        yield found("ccp")


def test_clothing_co_parsing_has_one_empty_map_and_six_photographs_twice(ccp: dict[str, Any]) -> None:
    pairs = "0594/0722 0183/0730 0907/0990 0197/0671 0078/0984 0692/0732"
    expected = [("empty", ["0536"]), *(("duplicate", sorted(pair.split("/"))) for pair in pairs.split())]
    assert sorted((kind, sorted(stems)) for kind, stems in kinds(ccp)) == sorted(expected)


def test_components_of_clothing_co_parsing_are_those_that_come_with_it(shared_data: Path, ccp: dict[str, Any]) -> None:
    with (shared_data / "ccp" / "components.csv").open(newline="") as file:
        counts = Counter(row["n_comp8_after_map15"] for row in csv.DictReader(file))
    assert ccp["components_of_a_photograph"] == counts
    assert ccp["photographs"] == {"val": 120, "train": 780}


def test_figures_of_its_own_tags_are_those_that_come_with_it(shared_data: Path, here: Path) -> None:
    with (shared_data / "ccp" / "components.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    Path("set").symlink_to(shared_data / "ccp")
    names = (shared_data / "ccp" / "label_list.txt").read_text().split("\n")
    lines = [f"- {{id: {number}, name: '{name}'}}" for number, name in enumerate(names) if name]
    (here / "first.txt").write_text("\n".join(row["id"] for row in rows))
    Path("set.yaml").write_text(
        "\n".join([f"layout: folder\nroot: ./set\nsplits: {{first: {here}/first.txt}}\nclasses:", *lines])
    )
    document = found("set.yaml")
    classes = document["classes"]
    assert sum(row["components"] for row in classes) == sum(int(row["n_comp_8conn_fg"]) for row in rows)
    assert sum(row["instances"]["first"] for row in classes) == sum(int(row["n_comp_8conn_fg"]) for row in rows)
    assert sum(row["small"] for row in classes) == sum(int(row["n_comp8_area_lt16"]) for row in rows)
    assert sum(row["photographs"]["first"] for row in classes) == sum(int(row["n_classes_fg"]) for row in rows)
    assert document["components_of_a_photograph"] == Counter(row["n_comp_8conn_fg"] for row in rows)
