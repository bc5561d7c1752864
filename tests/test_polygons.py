"""Polygons against pycocotools, which must read the same pixels from them, and shapely, for which they must be valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from imptool.data.components import find_components
from imptool.data.polygons import rings_of_mask, simplify_rings

Mask = NDArray[np.uint8]


def drawn(text: str) -> Mask:
    """A mask from rows of # and . with blanks between them."""
    return np.array([[character == "#" for character in row] for row in text.split()], np.uint8)


def noise(seed: int, height: int, width: int, density: float, scale: int) -> Mask:
    """Random squares of `scale` px."""
    squares = np.random.default_rng(seed).random((height, width)) < density
    return np.kron(squares, np.ones((scale, scale), bool)).astype(np.uint8)[:height, :width]


sides = st.integers(1, 40)
small_masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 1))
masks = small_masks | st.builds(noise, st.integers(0, 2**32), sides, sides, st.floats(0, 1), st.integers(1, 4))


def decoded(rings: list[list[int]], size: tuple[int, ...]) -> Mask:
    if not rings:
        return np.zeros(size, np.uint8)  # pycocotools knows no empty list
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, *size)))


def polygons(rings: list[list[int]]) -> list[shapely.Polygon]:
    return [shapely.Polygon(np.reshape(ring, (-1, 2))) for ring in rings]


@settings(deadline=None, max_examples=300)
@given(masks)
def test_pycocotools_reads_the_same_pixels(mask: Mask) -> None:
    np.testing.assert_array_equal(decoded(rings_of_mask(mask), mask.shape), mask)


@settings(deadline=None, max_examples=300)
@given(masks)
def test_no_ring_touches_itself_or_overlaps_another(mask: Mask) -> None:
    found = polygons(rings_of_mask(mask))
    assert all(polygon.is_valid for polygon in found)
    assert sum(polygon.area for polygon in found) == mask.sum() == shapely.union_all(found).area


@settings(deadline=None)
@given(masks)
def test_every_point_of_a_ring_is_a_corner_and_rings_go_clockwise(mask: Mask) -> None:
    for ring in rings_of_mask(mask):
        points = np.reshape(ring, (-1, 2))
        sides = np.roll(points, -1, axis=0) - points
        assert len(points) >= 4
        assert (np.count_nonzero(sides, axis=1) == 1).all()
        assert (np.count_nonzero(sides + np.roll(sides, 1, axis=0), axis=1) == 2).all()
        # With y down, the other way round than shapely has it.
        assert shapely.LinearRing(points).is_ccw


@settings(deadline=None)
@given(masks)
def test_a_part_is_a_ring_and_a_hole_adds_two_at_most(mask: Mask) -> None:
    _, parts = ndimage.label(mask)
    _, backgrounds = ndimage.label(np.pad(mask, 1) == 0)
    assert parts <= len(rings_of_mask(mask)) <= parts + 2 * (backgrounds - 1)


@settings(deadline=None)
@given(masks)
def test_rings_come_by_their_first_pixel_column_by_column(mask: Mask) -> None:
    rings = rings_of_mask(mask)
    corners = [tuple(ring[:2]) for ring in rings]
    assert corners == sorted(corners)
    assert corners == [min(zip(ring[::2], ring[1::2], strict=True)) for ring in rings]


SHAPES = {
    "one pixel": "#",
    "full": "#### #### ####",
    "checkerboard": "#.#.# .#.#. #.#.# .#.#.",
    "diagonal of one pixel": "#... .#.. ..#. ...#",
    "the other diagonal": "..# .#. #..",
    "frame": "##### #...# #...# #####",
    "nested frames": "####### #.....# #.###.# #.#.#.# #.###.# #.....# #######",
    "island in a hole": "##### #...# #.#.# #...# #####",
    "island that touches its hole's corner": "##### #..## #.#.# #...# #####",
    "hole that touches the outside": "### #.# ##.",
    "holes that touch": "##### #.### ##.## ###.# #####",
    "diamond round a pixel": ".#. #.# .#.",
    "holes side by side": "####### #.#.#.# #######",
    "holes in a stack": "### #.# ### #.# ### #.# ###",
    "hole like a U round a hole": "####### #.###.# #.#.#.# #.###.# #.....# #######",
    "holes that interlock": "####### #...### #.#.#.# ###...# #######",
    "spiral": "####### ......# #####.# #...#.# #.###.# #.....# #######",
    "cross that touches all borders": "..#.. ..#.. ##### ..#.. ..#..",
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_with_a_catch_are_read_back(name: str) -> None:
    mask = drawn(SHAPES[name])
    for turn in range(4):
        for turned in (np.rot90(mask, turn), np.rot90(mask, turn)[:, ::-1], np.pad(np.rot90(mask, turn), 2)):
            rings = rings_of_mask(turned)
            np.testing.assert_array_equal(decoded(rings, turned.shape), turned)
            assert all(polygon.is_valid for polygon in polygons(rings))


def test_a_ring_names_the_corners_of_its_part() -> None:
    assert rings_of_mask(drawn("#... ###. ....")) == [[0, 0, 1, 0, 1, 1, 3, 1, 3, 2, 0, 2]]


def test_parts_that_share_a_corner_are_rings_of_their_own() -> None:
    assert rings_of_mask(drawn(".# #.")) == [[0, 1, 1, 1, 1, 2, 0, 2], [1, 0, 2, 0, 2, 1, 1, 1]]


def test_a_hole_is_cut_open_above_and_below() -> None:
    # A cut may lie at either side of the hole: 3, 4 or 5 of the frame's 8 pixels are left of both.
    areas = [polygon.area for polygon in polygons(rings_of_mask(drawn("### #.# ###")))]
    assert areas in ([3, 5], [4, 4], [5, 3])


def test_holes_apart_from_each_other_add_one_ring_each() -> None:
    # Every hole has its own columns, so no cut serves two.
    mask = np.ones((12, 22), np.uint8)
    mask[[1, 8, 4, 10, 6, 1, 3], [1, 4, 7, 10, 13, 16, 19]] = 0
    assert len(rings_of_mask(mask)) == 1 + 7


def test_a_mask_cut_out_by_its_box_has_the_rings_of_the_whole() -> None:
    mask = np.zeros((30, 20), np.uint8)
    mask[4:25, 7:18] = noise(0, 21, 11, 0.6, 2)
    assert rings_of_mask(mask[4:25, 7:18], offset=(7, 4)) == rings_of_mask(mask)


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_a_mask_without_pixels_has_no_ring(shape: tuple[int, int]) -> None:
    assert rings_of_mask(np.zeros(shape, np.uint8)) == []


def test_layout_and_type_of_the_mask_do_not_matter_and_it_is_left_as_it_was() -> None:
    mask = noise(1, 17, 23, 0.6, 1)
    mask.flags.writeable = False
    expected = rings_of_mask(mask)
    doubled = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    for other in (np.asfortranarray(mask), mask.astype(bool), mask * np.uint8(2), doubled[::2, ::2]):
        assert rings_of_mask(other) == expected


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[H, W\], got \(1, 2, 3\)"):
        rings_of_mask(np.zeros((1, 2, 3), np.uint8))


def test_components_of_real_maps_are_read_back(shared_data: Path) -> None:
    paths = sorted((shared_data / "ccp" / "labels").glob("*.png"))[::45]
    assert len(paths) == 20
    several = 0
    for path in paths:
        found = find_components(np.array(Image.open(path)), skip=[0])
        for rle, (x, y, width, height) in zip(found.rles, found.boxes.tolist(), strict=True):
            mask = coco_mask.decode({"size": found.size, "counts": rle})
            rings = rings_of_mask(mask[y : y + height, x : x + width], offset=(x, y))
            assert coco_mask.merge(coco_mask.frPyObjects(rings, *found.size))["counts"] == rle
            several += len(rings) > 1
    assert several > 0


tolerances = st.sampled_from([0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 20])


@settings(deadline=None, max_examples=200)
@given(masks, tolerances)
def test_a_simplified_outline_moves_no_further_than_the_tolerance(mask: Mask, tolerance: float) -> None:
    rings = rings_of_mask(mask)
    simple = simplify_rings(rings, tolerance)
    for old, new in zip(polygons(rings), polygons(simple), strict=True):
        assert shapely.hausdorff_distance(old.exterior, new.exterior, densify=0.1) <= tolerance + 1e-9


@settings(deadline=None, max_examples=200)
@given(masks, tolerances)
def test_simplified_rings_stay_valid_and_keep_points_of_the_old(mask: Mask, tolerance: float) -> None:
    rings = rings_of_mask(mask)
    for old, new in zip(rings, simplify_rings(rings, tolerance), strict=True):
        (polygon,) = polygons([new])
        assert polygon.is_valid
        assert polygon.area > 0
        points = iter(zip(old[::2], old[1::2], strict=True))
        # Each is found behind the one before it: the same points in the same order.
        assert all(point in points for point in zip(new[::2], new[1::2], strict=True))


def test_a_staircase_becomes_a_slope() -> None:
    # The slope from the first corner to the last: the other corners lie on it or 1/sqrt(2) px beside it.
    rings = rings_of_mask(np.tri(6, dtype=np.uint8))
    assert simplify_rings(rings, 0.8) == [[0, 0, 6, 6, 0, 6]]
    # Under that, one of the latter stays; all others lie 5/sqrt(61) px or less from the slopes through it.
    assert simplify_rings(rings, 0.7) == [[0, 0, 1, 0, 6, 6, 0, 6]]


def test_tolerance_0_leaves_all_as_they_are() -> None:
    rings = rings_of_mask(noise(2, 20, 20, 0.6, 1))
    assert simplify_rings(rings, 0) == rings
    assert simplify_rings([], 1) == []


def test_a_tolerance_beyond_the_size_of_a_ring_leaves_an_area() -> None:
    for mask in (np.ones((1, 1), np.uint8), np.ones((1, 9), np.uint8), np.tri(6, dtype=np.uint8)):
        (polygon,) = polygons(simplify_rings(rings_of_mask(mask), 100))
        assert polygon.is_valid
        assert polygon.area > 0


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance must be 0 px or more"):
        simplify_rings([[0, 0, 1, 0, 1, 1, 0, 1]], tolerance)
