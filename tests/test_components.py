"""Components against scipy.ndimage.label, pycocotools and the counts that come with the real data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from imptool.data.components import Instances, count_holes, find_components, find_regions, mask_in_box, rle_length

IntMap = NDArray[np.integer]

# pycocotools up to 2.0.11 decodes through an array protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

small_maps = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, 2),
)


def masks_by_scipy(semantic_map: IntMap, connectivity: int) -> list[tuple[int, NDArray[np.uint8]]]:
    """Class id and mask of every component, by class, then by first pixel down the columns."""
    structure = ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1)
    found = []
    for class_id in np.unique(semantic_map):
        # Transposed, scipy meets the pixels column by column.
        numbered, count = ndimage.label((semantic_map == class_id).T, structure)
        found += [(int(class_id), (n == numbered.T).astype(np.uint8)) for n in range(1, count + 1)]
    return found


def masks_of(found: Instances) -> list[NDArray[np.uint8]]:
    return [coco_mask.decode({"size": found.size, "counts": counts}) for counts in found.rles]


def assert_rows_match_pycocotools(found: Instances, masks: list[NDArray[np.uint8]]) -> None:
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    assert found.rles == [rle["counts"] for rle in rles]
    assert found.areas.tolist() == [int(coco_mask.area(rle)) for rle in rles]
    assert found.boxes.tolist() == [coco_mask.toBbox(rle).tolist() for rle in rles]


@settings(deadline=None)
@given(small_maps, st.sampled_from([4, 8]))
def test_components_are_those_of_scipy_and_encoded_as_by_pycocotools(semantic_map: IntMap, connectivity: int) -> None:
    found = find_components(semantic_map, connectivity=connectivity)
    expected = masks_by_scipy(semantic_map, connectivity)
    assert found.class_ids.tolist() == [class_id for class_id, _ in expected]
    assert_rows_match_pycocotools(found, [mask for _, mask in expected])
    np.testing.assert_array_equal(masks_of(found), [mask for _, mask in expected])


@settings(deadline=None)
@given(small_maps)
def test_every_pixel_belongs_to_one_component(semantic_map: IntMap) -> None:
    found = find_components(semantic_map)
    drawn = sum(mask * class_id for mask, class_id in zip(masks_of(found), found.class_ids, strict=True))
    np.testing.assert_array_equal(drawn, semantic_map)
    assert found.areas.sum() == semantic_map.size


@settings(deadline=None)
@given(small_maps, st.sets(st.integers(0, 3)))
def test_skipped_ids_give_no_component_and_change_no_other(semantic_map: IntMap, skip: set[int]) -> None:
    every, found = find_components(semantic_map), find_components(semantic_map, skip=sorted(skip))
    kept = ~np.isin(every.class_ids, sorted(skip))
    assert found.class_ids.tolist() == every.class_ids[kept].tolist()
    assert found.rles == [rle for rle, keep in zip(every.rles, kept, strict=True) if keep]


def test_corners_connect_under_8_and_not_under_4() -> None:
    semantic_map = np.eye(4, dtype=np.uint8)
    assert find_components(semantic_map, skip=[0]).areas.tolist() == [4]
    assert find_components(semantic_map, skip=[0], connectivity=4).areas.tolist() == [1, 1, 1, 1]


def test_the_bottom_of_a_column_does_not_touch_the_top_of_the_next() -> None:
    semantic_map = np.array([[0, 1], [0, 0], [1, 0]], np.uint8)
    assert find_components(semantic_map, skip=[0]).areas.tolist() == [1, 1]


def test_a_run_over_the_end_of_a_column_is_one_run_of_the_rle() -> None:
    # Columns 011 and 110: one 0, four 1, one 0.
    found = find_components(np.array([[0, 1], [1, 1], [1, 0]], np.uint8), skip=[0])
    assert found.rles == [b"141"]


def test_a_map_of_one_class_is_one_component() -> None:
    found = find_components(np.full((30, 20), 7, np.uint16))
    assert (found.class_ids.tolist(), found.areas.tolist(), found.boxes.tolist()) == ([7], [600], [[0, 0, 20, 30]])
    assert_rows_match_pycocotools(found, [np.ones((30, 20), np.uint8)])


def test_a_hole_stays_a_hole() -> None:
    semantic_map = np.ones((5, 5), np.uint8)
    semantic_map[1:4, 1:4] = 0
    found = find_components(semantic_map, skip=[0])
    assert found.areas.tolist() == [16]
    np.testing.assert_array_equal(masks_of(found)[0], semantic_map)


def test_a_spiral_is_one_component() -> None:
    # Round and round in an arm one pixel wide: the runs meet only through a long chain.
    size = 81
    spiral = np.zeros((size, size), np.uint8)
    y, x, dy, dx = 0, 0, 0, 1
    for length in [size - 1, *np.repeat(np.arange(size - 1, 1, -2), 2)]:
        for _ in range(length):
            spiral[y, x] = 1
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    for semantic_map in (spiral, spiral.T, spiral[::-1]):
        assert ndimage.label(semantic_map)[1] == 1
        found = find_components(semantic_map, skip=[0], connectivity=4)
        assert_rows_match_pycocotools(found, [semantic_map])


def test_a_large_map_of_noise_has_the_components_that_scipy_counts() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (3000, 2000), dtype=np.uint8)
    found = find_components(noise, skip=[0, 2])
    numbered, count = ndimage.label(noise == 1, np.ones((3, 3)))
    assert len(found.areas) == count
    assert sorted(found.areas.tolist()) == sorted(np.bincount(numbered.ravel())[1:].tolist())
    largest = int(found.areas.argmax())
    mask = numbered == np.bincount(numbered[noise == 1]).argmax()
    assert found.rles[largest] == coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]


def test_two_runs_give_equal_bytes() -> None:
    noise = np.random.default_rng(1).integers(0, 4, (200, 300), dtype=np.uint8)
    first, second = find_components(noise), find_components(noise)
    assert first.rles == second.rles
    assert first.boxes.tobytes() == second.boxes.tobytes()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_map_without_pixels_has_no_component(shape: tuple[int, int]) -> None:
    found = find_components(np.zeros(shape, np.uint8))
    assert (found.class_ids.shape, found.areas.shape, found.boxes.shape) == ((0,), (0,), (0, 4))
    assert (found.rles, found.size) == ([], shape)


def test_layout_byte_order_and_type_of_the_map_do_not_matter() -> None:
    semantic_map = np.random.default_rng(2).integers(0, 3, (17, 23))
    expected = find_components(semantic_map).rles
    read_only = semantic_map.astype(np.uint8)
    read_only.flags.writeable = False
    doubled = np.repeat(np.repeat(semantic_map, 2, 0), 2, 1)
    others: list[IntMap] = [read_only, np.asfortranarray(semantic_map), doubled[::2, ::2], semantic_map.astype(">i4")]
    others += [semantic_map.astype(name) for name in ("int8", "int16", "uint32", "uint64")]
    for other in others:
        assert find_components(other).rles == expected


def test_the_map_is_left_as_it_was() -> None:
    semantic_map = np.random.default_rng(3).integers(0, 3, (9, 9))
    before = semantic_map.copy()
    find_components(semantic_map, skip=[0])
    np.testing.assert_array_equal(semantic_map, before)


def test_large_ids_are_kept() -> None:
    assert find_components(np.array([[2**40, 65535]])).class_ids.tolist() == [65535, 2**40]
    assert find_components(np.array([[2**32 - 1]], np.uint32)).class_ids.tolist() == [2**32 - 1]


@pytest.mark.parametrize(
    ("semantic_map", "rule"),
    [
        (np.zeros((2, 2)), "must hold integers, got float64"),
        (np.zeros((2, 2), bool), "must hold integers, got bool"),
        (np.zeros((2, 2, 3), np.uint8), r"must be \[H, W\], got \(2, 2, 3\)"),
        (np.array([[-1, 3]]), "from 0 to .*, got -1 to 3"),
        (np.array([[2**64 - 1]], np.uint64), "from 0 to"),
    ],
)
def test_what_is_no_semantic_map_is_refused(semantic_map: IntMap, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        find_components(semantic_map)


def test_other_connectivities_are_refused() -> None:
    with pytest.raises(ValueError, match="4 or 8, got 6"):
        find_components(np.zeros((2, 2), np.uint8), connectivity=6)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_the_length_of_an_rle_is_the_size_of_its_image(mask: NDArray[np.uint8]) -> None:
    assert rle_length(coco_mask.encode(np.asfortranarray(mask))["counts"]) == mask.size


@pytest.mark.parametrize("counts", [b"\x00", b"~~", b"P", "é".encode(), b"P" * 20 + b"1"])
def test_what_is_no_rle_has_no_length(counts: bytes) -> None:
    with pytest.raises(ValueError, match="no compressed RLE"):
        rle_length(counts)


def test_real_maps_have_the_components_that_their_table_counts(shared_data: Path) -> None:
    with (shared_data / "ccp" / "components.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 900
    wrong = []
    for row in rows:
        semantic_map = np.array(Image.open(shared_data / "ccp" / "labels" / f"{row['id']}.png"))
        for connectivity in (4, 8):
            found = find_components(semantic_map, skip=[0], connectivity=connectivity)
            if len(found.areas) != int(row[f"n_comp_{connectivity}conn_fg"]):
                wrong.append((row["id"], connectivity))
    assert not wrong


def holes_by_scipy(mask: NDArray[np.uint8], connectivity: int) -> int:
    """Regions of the outside that do not reach the border; where 8 connects the inside, 4 connects the outside."""
    outside = ndimage.generate_binary_structure(2, 1 if connectivity == 8 else 2)
    return ndimage.label(np.pad(mask, 1) == 0, outside)[1] - 1


@settings(deadline=None)
@given(small_maps, st.sampled_from([4, 8]))
def test_holes_are_those_of_scipy(semantic_map: IntMap, connectivity: int) -> None:
    found = find_components(semantic_map, skip=[0], connectivity=connectivity)
    counted = count_holes(semantic_map, skip=[0], connectivity=connectivity)
    assert counted.tolist() == [holes_by_scipy(mask, connectivity) for mask in masks_of(found)]


@settings(deadline=None)
@given(small_maps)
def test_a_region_is_all_that_has_one_number(numbers: IntMap) -> None:
    found = find_regions(numbers, skip=[0])
    expected = [int(number) for number in np.unique(numbers) if number]
    assert found.class_ids.tolist() == expected
    assert_rows_match_pycocotools(found, [(numbers == number).astype(np.uint8) for number in expected])


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_maps_of_any_width_are_read_to_their_last_column(semantic_map: IntMap) -> None:
    assert int(find_components(semantic_map).areas.sum()) == semantic_map.size


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_mask_within_its_box_is_what_pycocotools_decodes_there(semantic_map: np.ndarray) -> None:
    found = find_components(semantic_map, skip=[0])
    for row in range(len(found.rles)):
        x, y, width, height = found.boxes[row].tolist()
        whole = coco_mask.decode({"size": list(found.size), "counts": found.rles[row]})
        np.testing.assert_array_equal(mask_in_box(found, row), whole[y : y + height, x : x + width])
        assert whole.sum() == mask_in_box(found, row).sum()


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 1)),
    st.tuples(*[st.integers(0, 4)] * 4),
)
def test_a_part_of_a_photograph_is_told_in_pixels_of_the_whole(part: np.ndarray, margins: tuple[int, ...]) -> None:
    top, left, bottom, right = margins
    whole = np.pad(part, ((top, bottom), (left, right)))
    placed = find_regions(part, skip=[0], corner=(top, left), size=whole.shape)
    expected = find_regions(whole, skip=[0])
    assert placed.rles == expected.rles
    np.testing.assert_array_equal(placed.boxes, expected.boxes)
    np.testing.assert_array_equal(placed.areas, expected.areas)
    with pytest.raises(ValueError, match="is not inside an image"):
        find_regions(part, corner=(top + 1, left), size=(part.shape[0] + top, whole.shape[1]))
