"""COCO files: what is written is read back, by pycocotools too; what is broken is refused with the file's name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from imptool.data.coco import (
    annotations_of,
    coco_document,
    decode_masks,
    draw_instances,
    read_coco,
    write_coco,
)
from imptool.data.components import find_components
from imptool.files import InputError

# pycocotools up to 2.0.11 decodes through an array protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# Two tops (3 and 1 pixels) and a skirt with a hole (8).
OUTFIT = np.array(
    [
        [1, 1, 0, 1],
        [1, 0, 0, 0],
        [0, 2, 2, 2],
        [0, 2, 0, 2],
        [0, 2, 2, 2],
    ],
    np.uint8,
)


@pytest.fixture
def document() -> dict[str, Any]:
    return coco_document(
        images=[{"id": 1, "file_name": "a.jpg", "height": 5, "width": 4}],
        annotations=annotations_of(find_components(OUTFIT, skip=[0]), image_id=1, first_id=10),
        categories=[{"id": n, "name": name, "supercategory": "wear"} for n, name in [(1, "top"), (2, "skirt")]],
        description="three garments",
        extra_info={"connectivity": 8},
    )


def test_annotations_hold_what_coco_asks_for() -> None:
    first, second, skirt = annotations_of(find_components(OUTFIT, skip=[0]), image_id=7, first_id=10)
    assert first == {
        "id": 10,
        "image_id": 7,
        "category_id": 1,
        "segmentation": {"size": [5, 4], "counts": "023O;"},  # 0, 2, 3, 1 - 2, 14 - 3
        "area": 3,
        "bbox": [0, 0, 2, 2],
        "iscrowd": 0,
    }
    assert (second["id"], second["area"], second["bbox"]) == (11, 1, [3, 0, 1, 1])
    assert (skirt["id"], skirt["category_id"], skirt["area"], skirt["bbox"]) == (12, 2, 8, [1, 2, 3, 3])


def test_info_and_licenses_are_always_there() -> None:
    document = coco_document(images=[], annotations=[], categories=[], description="nothing")
    assert document["info"] == {"description": "nothing"}
    assert document["licenses"] == []


def test_a_document_is_read_back_as_written(tmp_path: Path, document: dict[str, Any]) -> None:
    write_coco(tmp_path / "a.json", document)
    assert read_coco(tmp_path / "a.json") == document


def test_two_runs_write_equal_bytes(tmp_path: Path, document: dict[str, Any]) -> None:
    write_coco(tmp_path / "a.json", document)
    write_coco(tmp_path / "b.json", dict(reversed(document.items())))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_pycocotools_reads_the_file(tmp_path: Path, document: dict[str, Any]) -> None:
    write_coco(tmp_path / "a.json", document)
    coco = COCO(str(tmp_path / "a.json"))
    coco.info()
    assert coco.getAnnIds(imgIds=[1], catIds=[1]) == [10, 11]
    np.testing.assert_array_equal(coco.annToMask(coco.anns[12]), OUTFIT == 2)


def test_masks_are_those_of_the_map(document: dict[str, Any]) -> None:
    masks = decode_masks(document["annotations"], (5, 4))
    assert (masks.dtype, masks.shape) == (np.uint8, (3, 5, 4))
    np.testing.assert_array_equal(masks[0] + masks[1], OUTFIT == 1)
    np.testing.assert_array_equal(masks[2], OUTFIT == 2)
    assert decode_masks([], (5, 4)).shape == (0, 5, 4)


def test_plain_counts_and_polygons_are_decoded_as_well() -> None:
    plain = {"segmentation": {"size": [3, 4], "counts": [4, 2, 1, 1, 4]}}
    polygon = {"segmentation": [[1, 0, 3, 0, 3, 2, 1, 2]]}
    of_counts, of_polygon = decode_masks([plain, polygon], (3, 4)).tolist()
    assert of_counts == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]
    assert of_polygon == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_masks_of_another_size_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the RLE has the size \[5, 4\], its image \[4, 5\]"):
        decode_masks(document["annotations"], (4, 5))


@settings(deadline=None)
@given(hnp.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 3, 400])))
def test_a_map_drawn_from_its_components_is_the_map(semantic_map: NDArray[np.uint16]) -> None:
    for skip, background in (([], 9), ([0], 0)):
        annotations = annotations_of(find_components(semantic_map, skip=skip), image_id=1, first_id=1)
        drawn = draw_instances(annotations, semantic_map.shape, background=background, dtype=np.uint16)
        assert drawn.dtype == np.uint16
        np.testing.assert_array_equal(drawn, semantic_map)


def test_the_smaller_instance_is_drawn_over_the_larger() -> None:
    large = {"id": 2, "category_id": 5, "segmentation": {"size": [2, 2], "counts": [0, 4]}}
    small = {"id": 1, "category_id": 6, "segmentation": {"size": [2, 2], "counts": [1, 2, 1]}}
    for rows in ([large, small], [small, large]):
        assert draw_instances(rows, (2, 2), background=0).tolist() == [[5, 6], [6, 5]]


def test_of_equal_areas_the_higher_id_is_drawn_last() -> None:
    first = {"id": 1, "category_id": 5, "segmentation": {"size": [1, 3], "counts": [0, 2, 1]}}
    second = {"id": 2, "category_id": 6, "segmentation": {"size": [1, 3], "counts": [1, 2]}}
    for rows in ([first, second], [second, first]):
        assert draw_instances(rows, (1, 3), background=0).tolist() == [[5, 6, 6]]


def test_ids_that_do_not_fit_the_type_are_refused() -> None:
    wide = {"id": 1, "category_id": 300, "segmentation": {"size": [1, 3], "counts": [0, 2, 1]}}
    with pytest.raises(ValueError, match="must fit uint8, got 0 to 300"):
        draw_instances([wide], (1, 3), background=0)


def test_real_maps_come_back_from_their_annotations(shared_data: Path) -> None:
    for path in sorted((shared_data / "ccp" / "labels").glob("*.png"))[:20]:
        semantic_map = np.array(Image.open(path))
        annotations = annotations_of(find_components(semantic_map, skip=[0]), image_id=1, first_id=1)
        np.testing.assert_array_equal(draw_instances(annotations, semantic_map.shape, background=0), semantic_map)


def test_polygons_without_boxes_are_read(shared_data: Path) -> None:
    document = read_coco(shared_data / "photos" / "fashionpedia_sample" / "sample.json")
    assert (len(document["images"]), len(document["annotations"]), len(document["categories"])) == (2, 12, 48)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ('{"images": [', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "holds a list"),
        ("{}", "has no list 'images'"),
        ('{"images": {}, "annotations": [], "categories": []}', "has no list 'images'"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\] has no id, file_name"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    assert_refused(tmp_path / "bad.json", says)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "missing.json", "no such file")
    with pytest.raises(InputError, match=rf"^{tmp_path} is no regular file but a folder: name a file$"):
        read_coco(tmp_path)
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    assert_refused(tmp_path / "picture.json", "not JSON")


def assert_refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_coco(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def change(section: str, place: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[section][place].update(values)


def remove(section: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document[section][0].pop(key)


NEAR = "in or near the image"
FAULTS = {
    "image id twice": (
        lambda document: document["images"].append(document["images"][0]),
        "the id 1 stands twice in 'im",
    ),
    "category id twice": (change("categories", 1, id=1), "the id 1 stands twice in 'categories'"),
    "unknown image": (
        change("annotations", 0, image_id=2),
        "annotation 10 has the image_id 2, which 'images' does not",
    ),
    "unknown category": (change("annotations", 2, category_id=0), "12 has the category_id 0, which 'categories' does"),
    "id that is a text": (change("images", 0, id=""), "has the id ''; ids must be whole numbers"),
    "id that is a list": (change("annotations", 0, category_id=[1]), "category_id \\[1\\]"),
    "id that is true": (change("annotations", 0, category_id=True), "category_id True"),
    "no segmentation": (remove("annotations", "segmentation"), r"annotations\[0\] has no segmentation"),
    "no image_id": (remove("annotations", "image_id"), r"annotations\[0\] has no image_id"),
    "no category name": (remove("categories", "name"), r"categories\[0\] has no name"),
    "no height": (remove("images", "height"), r"images\[0\] has no height"),
    "size that is none": (change("images", 0, height=0), "image 1 is 0 x 4"),
    "size of another image": (change("images", 0, height=4), r"the RLE has the size \[5, 4\], its image \[4, 4\]"),
    "segmentation null": (change("annotations", 0, segmentation=None), "must be a list of polygons or an RLE"),
    "no polygon": (change("annotations", 0, segmentation=[]), NEAR),
    "two points": (change("annotations", 0, segmentation=[[0, 0, 1, 1]]), NEAR),
    "half a point": (change("annotations", 0, segmentation=[[0, 0, 1, 1, 2, 2, 3]]), NEAR),
    "nan": (change("annotations", 0, segmentation=[[0, 0, 1, 1, 2, float("nan")]]), NEAR),
    "far away": (change("annotations", 0, segmentation=[[0, 0, 1, 1, 2, 1e12]]), NEAR),
    "short RLE": (change("annotations", 0, segmentation={"size": [5, 4], "counts": "6"}), "covers 6 pixels, .* 20"),
    "short counts": (
        change("annotations", 0, segmentation={"size": [5, 4], "counts": [3, 4]}),
        "covers 7 pixels, .* 20",
    ),
    "negative": (change("annotations", 0, segmentation={"size": [5, 4], "counts": [-1, 21]}), "whole numbers >= 0"),
    "no RLE": (change("annotations", 0, segmentation={"size": [5, 4], "counts": "~"}), "no compressed RLE"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_file_is_named(tmp_path: Path, document: dict[str, Any], name: str) -> None:
    break_it, says = FAULTS[name]
    broken = copy.deepcopy(document)
    break_it(broken)
    (tmp_path / "bad.json").write_text(json.dumps(broken))
    assert_refused(tmp_path / "bad.json", says)


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("images", "file_name", 7, "images: 1 has the file_name 7; write it as text"),
        ("images", "file_name", ["a.jpg"], r"images: 1 has the file_name \['a.jpg'\]; write it as text"),
        ("categories", "name", None, "categories: 1 has the name None; write it as text"),
        ("annotations", "iscrowd", "x", "annotation 10 has the iscrowd 'x'; write 0 or 1, or leave it out"),
        ("annotations", "iscrowd", 2, "annotation 10 has the iscrowd 2; write 0 or 1, or leave it out"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(
    tmp_path: Path, document: dict[str, Any], section: str, key: str, value: object, line: str
) -> None:
    document[section][0][key] = value
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=line):
        read_coco(tmp_path / "a.json")
