"""COCO files as other tools write them: forms that can mean one thing only are read, what is not known is not background."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_imptool
from drawn_layouts import (
    LAYOUTS,
    MADE,
    compressed,
    convert,
    grid,
    ids_of,
    panoptic_document,
    read,
    save_json,
    save_photograph,
    write_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

Document = dict[str, Any]
Edit = Callable[[Document], object]

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # 3 x 2 pixels
CORNER = [0, 0, 2, 0, 2, 2, 0, 2]  # 2 x 2
WHOLE = [0, 0, 6, 0, 6, 5, 0, 5]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coco() -> Document:
    """Two images of 5 x 6 pixels, a coat in the first and a hat in the second."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 5, "width": 6} for n in (1, 2)],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 1, "segmentation": [list(SQUARE)], "iscrowd": 1, "bbox": [1, 1, 3, 2]},
            {"id": 20, "image_id": 2, "category_id": 2, "segmentation": [list(CORNER)], "iscrowd": 0, "area": 4},
        ],
        "categories": [{"id": 1, "name": "coat"}, {"id": 2, "name": "hat"}],
    }


def write(document: Document) -> None:
    save_json(Path("set/all.json"), document)
    for n in (1, 2):
        save_photograph(Path(f"set/images/{n}.png"), (5, 6))


def found() -> list[tuple[str, str, int, list[int], int]]:
    """What was converted: image, class, area, box and crowd of each instance."""
    document = read(MADE / "all.json")
    images = {image["id"]: Path(image["file_name"]).name for image in document["images"]}
    names = {row["id"]: row["name"] for row in document["categories"]}
    return [
        (images[row["image_id"]], names[row["category_id"]], row["area"], row["bbox"], row["iscrowd"])
        for row in document["annotations"]
    ]


THE_TWO = [("1.png", "coat", 6, [1, 1, 3, 2], 1), ("2.png", "hat", 4, [0, 0, 2, 2], 0)]


def rewrite(section: str, key: str, change: Callable[[Any], Any]) -> Edit:
    """Write a value of all rows of a section in another way."""

    def edit(document: Document) -> None:
        for row in document[section]:
            if key in row:
                row[key] = change(row[key])

    return edit


def together(*edits: Edit) -> Edit:
    def edit(document: Document) -> None:
        for each in edits:
            each(document)

    return edit


FORMS: dict[str, Edit] = {
    "ids of images as text in the annotations": rewrite("annotations", "image_id", str),
    "ids of images as text in the list": rewrite("images", "id", str),
    "ids of images as fractions": rewrite("annotations", "image_id", float),
    "ids of images as text with a point": rewrite("annotations", "image_id", lambda value: f"{value}.0"),
    "ids of images with zeros in front": rewrite("images", "id", lambda value: f"{value:012d}"),
    "ids of categories as text": rewrite("annotations", "category_id", str),
    "ids of categories as text in the list": rewrite("categories", "id", str),
    "ids of categories as fractions": rewrite("categories", "id", float),
    "ids of annotations as text": rewrite("annotations", "id", str),
    "one id for all annotations": rewrite("annotations", "id", lambda _: 7),
    "sizes as text": together(rewrite("images", "height", str), rewrite("images", "width", str)),
    "sizes as fractions": rewrite("images", "height", float),
    "crowds as text": rewrite("annotations", "iscrowd", str),
    "crowds as true and false": rewrite("annotations", "iscrowd", bool),
    "crowds as words": rewrite("annotations", "iscrowd", lambda value: str(bool(value))),
    "ids of images that are no numbers": together(
        rewrite("images", "id", lambda value: f"{value}f0c-9d"),
        rewrite("annotations", "image_id", lambda value: f"{value}f0c-9d"),
    ),
    "ids of categories that are no numbers": together(
        rewrite("categories", "id", "{:x>9}".format), rewrite("annotations", "category_id", "{:x>9}".format)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_can_mean_one_thing_only_is_read(here: Path, form: str) -> None:
    document = coco()
    FORMS[form](document)
    write(document)
    convert("set")
    assert found() == THE_TWO


PAIRS = [[1, 1], [4, 1], [4, 3], [1, 3]]
RLE = compressed("...... .111.. .111.. ...... ......")
SEGMENTATIONS: dict[str, Any] = {
    "flat": SQUARE,
    "in a list too many": [[SQUARE]],
    "in two lists too many": [[[SQUARE]]],
    "pairs": PAIRS,
    "pairs in a list": [PAIRS],
    "pairs in two lists": [[PAIRS]],
    "numbers as text": [[str(value) for value in SQUARE]],
    "an RLE in a list": [RLE],
    "RLEs that part it": [compressed("...... .1.... .1.... ...... ......"), compressed("...... ..11.. ..11.. ...... ......")],
    "an RLE with its size as text": {**RLE, "size": ["5", "6"]},
    "counts as text": {"size": [5, 6], "counts": ["6", "2", "3", "2", "3", "2", "12"]},
}


@pytest.mark.parametrize("form", SEGMENTATIONS)
def test_a_segmentation_is_read_however_it_is_nested(here: Path, form: str) -> None:
    document = coco()
    document["annotations"][0]["segmentation"] = SEGMENTATIONS[form]
    write(document)
    convert("set")
    assert found() == THE_TWO


def test_polygons_that_are_shares_of_the_image_are_not_taken_for_pixels(here: Path) -> None:
    document = coco()
    document["annotations"][0]["segmentation"] = [[0.2, 0.2, 0.7, 0.2, 0.7, 0.6, 0.2, 0.6]]
    write(document)
    result = convert("set", code=1)
    assert "annotation 10 is left out: the polygons are shares of the image (0 to 1)" in result.stderr


def test_panoptic_ids_and_flags_may_be_text(here: Path) -> None:
    description = write_dataset(LAYOUTS["coco-panoptic"])
    convert(description, out=Path("plain"))
    document = panoptic_document()
    rewrite("images", "id", str)(document)
    rewrite("categories", "isthing", str)(document)
    for row in document["annotations"]:
        for segment in row["segments_info"]:
            segment |= {key: str(value) for key, value in segment.items()}
    save_json(Path("set/annotations/val.json"), document)
    convert(description)
    assert read(MADE / "val.json")["annotations"] == read(Path("plain/val.json"))["annotations"]
    assert [row["thing"] for row in thing_rows(description)] == [True, True, False]


def thing_rows(description: Path) -> list[dict[str, Any]]:
    convert(description, "--format", "semantic", out=Path("maps"))
    lines = [line for line in Path("maps/maps.yaml").read_text().splitlines() if "thing" in line]
    return [{"thing": "true" in line.partition("thing")[2]} for line in lines]


# --- all is lost, or belongs to two ---


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            rewrite("annotations", "image_id", lambda value: f"img-{value}"),
            "annotation 10 is of an image that it does not list",
        ),
        (rewrite("annotations", "category_id", lambda value: value + 70), "annotation 10 has the category_id 71"),
        (rewrite("annotations", "segmentation", lambda _: []), "annotation 10 has no polygon"),
        (rewrite("annotations", "segmentation", lambda _: "x"), "annotation 10 is left out: segmentation must be"),
    ],
)
@pytest.mark.parametrize("command", ["convert-instances", "inspect"])
def test_a_file_whose_annotations_are_all_lost_is_refused(here: Path, edit: Edit, says: str, command: str) -> None:
    document = coco()
    edit(document)
    write(document)
    result = run_imptool(command, "set")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"set/all.json: none of its 2 annotations can be used; the first: {says}" in result.stderr


def test_a_file_without_annotations_has_lost_none(here: Path) -> None:
    write(coco() | {"annotations": []})
    convert("set")
    assert found() == []


def test_of_two_files_with_one_id_neither_is_used(here: Path) -> None:
    document = coco()
    document["images"].append(document["images"][0] | {"file_name": "3.png"})
    write(document)
    save_photograph(Path("set/images/3.png"), (5, 6))
    result = convert("set", code=1)
    assert found() == THE_TWO[1:]
    assert [Path(image["file_name"]).name for image in read(MADE / "all.json")["images"]] == ["2.png"]
    lines = result.stderr.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["images[0]", "images[2]"]
    assert all("has the id 1, which stands for 1.png and 3.png: neither is used" in line for line in lines)
    assert "1 annotations of an image that cannot be used, such as annotation 10" in result.stdout


@pytest.mark.parametrize("section", ["images", "annotations"])
def test_of_two_panoptic_files_with_one_id_neither_is_used(here: Path, section: str) -> None:
    description = write_dataset(LAYOUTS["coco-panoptic"])
    document = panoptic_document()
    document[section][1]["id" if section == "images" else "image_id"] = 0
    document["images"].append({"id": 7, "file_name": "t.jpg", "height": 2, "width": 2})
    document["annotations"].append({**document["annotations"][1], "image_id": 7, "file_name": "t.png"})
    save_json(Path("set/annotations/val.json"), document)
    png = Path("set/annotations/val/s.png").read_bytes()
    Path("set/annotations/val/t.png").write_bytes(png)
    save_photograph(Path("set/images/t.jpg"), (2, 2))
    result = convert(description, code=1)
    kept = [image["file_name"] for image in read(MADE / "val.json")["images"]]
    assert "images/r.jpg" not in kept
    assert "images/t.jpg" in kept
    assert "which stands for " in result.stderr


# --- a box and no mask ---


def write_box_alone(**changes: Any) -> None:
    """A hat over whose box half a coat lies: the pixels of the box that are no coat are not known."""
    document = coco()
    document["annotations"].append(
        {"id": 30, "image_id": 1, "category_id": 2, "segmentation": [], "bbox": [2.5, 2, 2.2, 2], "area": 4} | changes
    )
    write(document)


UNKNOWN = grid("...... .111.. .111#. ..###. ......")


@pytest.mark.parametrize(
    "empty",
    [[], None, [[]], [[2, 2, 5, 4]], "x", {"size": [5, 6], "counts": [30]}, [[2, 2, 4, 2, 3, 2]], [[9, 2, 9, 4, 11, 4]]],
)
def test_pixels_of_a_box_without_a_mask_are_ignored(here: Path, empty: Any) -> None:
    write_box_alone(segmentation=empty)
    result = convert("set", "--format", "semantic", code=1)
    np.testing.assert_array_equal(ids_of(MADE / "labels" / "1.png"), UNKNOWN)
    assert "annotation 30 " in result.stderr
    assert "the pixels of its box are ignored" in result.stderr
    assert "annotations with a box and no mask: 1, in 1 of 2 images" in result.stdout


def test_a_box_without_a_mask_is_an_instance_that_is_not_judged(here: Path) -> None:
    write_box_alone()
    result = convert("set", code=1)
    assert found() == [THE_TWO[0], ("1.png", "hat", 4, [2, 2, 3, 2], 1), THE_TWO[1]]
    assert "2 images, 2 instances, 1 of them marked as crowds; 1 without a mask" in result.stdout
    convert("set", "--components", out=Path("parts"), code=1)
    assert [row["iscrowd"] for row in read(Path("parts/all.json"))["annotations"]] == [0, 1, 0]


def test_converted_boxes_without_masks_are_ignored_when_they_are_read_again(here: Path) -> None:
    write_box_alone()
    convert("set", code=1)
    Path("back.yaml").write_text("layout: coco\nroot: ./made\nannotations: {all: all.json}\nphotographs: ../set\n")
    convert("back.yaml", "--format", "semantic", out=Path("back"))
    np.testing.assert_array_equal(ids_of(Path("back/labels/images/1.png")), UNKNOWN)


def test_inspect_counts_boxes_without_masks_and_finds_their_conversion_right(here: Path) -> None:
    write_box_alone()
    assert run_imptool("convert-instances", "set").exit_code == 1
    problems = json.loads(run_imptool("inspect", "set", "--json").stdout)["problems"]
    assert "contradiction" not in {problem["kind"] for problem in problems}
    assert any("annotations with a box and no mask: 1" in problem["line"] for problem in problems)


def test_a_mask_of_no_known_class_is_ignored(here: Path) -> None:
    write_box_alone(category_id=9, segmentation=[CORNER])
    result = convert("set", "--format", "semantic", code=1)
    np.testing.assert_array_equal(ids_of(MADE / "labels" / "1.png"), grid("##.... #111.. .111.. ...... ......"))
    assert "the pixels of its mask are ignored" in result.stderr


@pytest.mark.parametrize("box", [None, [2, 2, 0, 0], [9, 9, 3, 3], [2, 2, 3], "x", [float("nan"), 2, 3, 2]])
def test_an_annotation_with_neither_mask_nor_box_is_said_to_count_as_background(here: Path, box: Any) -> None:
    write_box_alone(bbox=box)
    result = convert("set", "--format", "semantic", code=1)
    np.testing.assert_array_equal(ids_of(MADE / "labels" / "1.png"), np.where(UNKNOWN == 255, 0, UNKNOWN))
    assert "its pixels count as background" in result.stderr


# --- eval ---


def judge(truth: Document, results: list[dict[str, Any]]) -> tuple[dict[str, float], str]:
    """AP by kind of results against a COCO file, in percent, and what was printed."""
    save_json(Path("truth.json"), truth)
    save_json(Path("results.json"), results)
    result = run_imptool("eval", "--predictions", "results.json", "--dataset", "truth.json", "--out", "out")
    assert result.exit_code == 0, result.output
    precision = read(Path("out/metrics.json"))["average_precision"]
    return {kind: round(100 * figures["AP"]) for kind, figures in precision.items()}, result.stdout


def right_results(**changes: Any) -> list[dict[str, Any]]:
    rows = [
        {"image_id": 1, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 2, "category_id": 2, "segmentation": [CORNER]},
    ]
    return [{**row, "score": 0.9, **changes} for row in rows]


def truth_without_crowds() -> Document:
    truth = copy.deepcopy(coco())
    rewrite("annotations", "iscrowd", lambda _: 0)(truth)
    return truth


@pytest.mark.parametrize("form", [name for name in FORMS if "crowds" not in name])
def test_eval_reads_a_truth_in_every_form_that_convert_instances_reads(here: Path, form: str) -> None:
    truth = truth_without_crowds()
    FORMS[form](truth)
    results = right_results()
    if "no numbers" in form:
        FORMS[form]({"images": [], "categories": [], "annotations": results})
    assert judge(truth, results)[0] == {"box": 100, "mask": 100}


def test_eval_reads_results_in_every_form(here: Path) -> None:
    results = right_results(score="0.9")
    rewrite("annotations", "image_id", str)({"annotations": results})
    results[0] |= {"segmentation": SQUARE, "bbox": ["1", "1", "3", "2"]}
    results[1] |= {"segmentation": [[CORNER]], "category_id": 2.0}
    assert judge(truth_without_crowds(), results)[0] == {"box": 100, "mask": 100}


def test_a_truth_of_boxes_alone_is_evaluated_for_boxes(here: Path) -> None:
    truth = truth_without_crowds()
    for row, box in zip(truth["annotations"], ([1, 1, 3, 2], [0, 0, 2, 2]), strict=True):
        row |= {"bbox": box, "segmentation": []}
    del truth["annotations"][1]["segmentation"]
    figures, printed = judge(truth, right_results())
    assert figures == {"box": 100}
    assert "2 of 2 annotations of the ground truth have no mask: box AP alone" in printed


def test_where_some_masks_are_missing_what_is_found_there_is_not_judged(here: Path) -> None:
    """A second coat has a box alone. Found as a mask it is neither right nor wrong, as a box it is right."""
    truth = truth_without_crowds()
    truth["annotations"].append({"id": 30, "image_id": 1, "category_id": 1, "bbox": [4, 3, 2, 2]})
    coat = {"image_id": 1, "category_id": 1, "segmentation": [[4, 3, 6, 3, 6, 5, 4, 5]], "score": 0.95}
    figures, printed = judge(truth, [coat, *right_results()])
    assert figures == {"box": 100, "mask": 100}
    assert "1 of 3 annotations of the ground truth have no mask: crowds of their boxes in mask AP" in printed


# --- polygons that go to and fro ---


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 1, 3]))
def test_a_long_outline_is_drawn_as_pycocotools_draws_it(seed: int, height: int, width: int, decimals: int) -> None:
    """Long enough to be drawn in parts: some hundred points, up to an image's side outside of it."""
    from imptool.data.segmentation import compressed_rle

    rng, reach = np.random.default_rng(seed), max(height, width)
    rings = [np.round(rng.uniform(-reach, 2 * reach, 2 * rng.integers(200, 600)), decimals).tolist() for _ in range(2)]
    truth = coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
    np.testing.assert_array_equal(coco_mask.decode(compressed_rle(rings, (height, width))), coco_mask.decode(truth))


def test_a_zigzag_takes_the_memory_of_its_image(here: Path) -> None:
    """Drawn at once, 1,500 lines across a million pixels take over 150 MB."""
    program = """
import resource
from imptool.data.coco import decode_masks
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
zigzag = [x for n in range(1500) for x in ((0, n % 7) if n % 2 else (999, 999 - n % 5))]
decode_masks([{"segmentation": [zigzag]}], (1000, 1000))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40  # MiB
