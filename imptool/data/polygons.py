"""Masks -> COCO polygons that pycocotools decodes to the same pixels, holes and all; and the same with fewer points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Grid = NDArray[np.uint8]

# What a pixel of the grid says: in the mask; cut off from its left neighbour; its left edge was followed.
_INSIDE = 1
_WALL = 2
_SEEN = 4


def rings_of_mask(mask: NDArray[np.uint8] | NDArray[np.bool_], *, offset: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """Outline a mask with closed rings along pixel edges: the `segmentation` of a COCO annotation.

    COCO joins an annotation's rings and cannot subtract one. So a part (pixels connected by edges) with holes is cut into
    parts without: above the top and below the bottom of each hole, upright to the next outline. A part is one ring; a hole
    adds one as a rule, two at most. No ring touches itself, none overlaps another.

    Args:
        mask: [H, W], not 0 in the instance.
        offset: x, y of the mask's first pixel in the image. The time grows with the size of the mask: cut it out by
            its box, and give the box's corner here.
    Returns:
        Rings [x0, y0, x1, y1, ...] of four corners or more, in pixels of the image, clockwise, the first point not
        repeated. In the order of their first pixels, by column, then by row; that pixel's upper left corner comes first.
        A mask without pixels has none.
    Raises:
        ValueError: mask is not [H, W].
    Source:
        Ours. Exact under the rasterisation of the COCO API (rleFrPoly): down the middle of each column, what lies between
        the first and second crossing of a ring is inside, and so on; a crossing at a whole y is the edge above row y.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask must be [H, W], got {mask.shape}")
    height, width = mask.shape
    # Columns lie in a row, as in masks from pycocotools; a border of background spares all checks of range.
    grid = np.zeros((width + 2, height + 2), np.uint8)
    grid[1:-1, 1:-1] = mask.T != 0
    _cut_holes(grid)
    points, ends = _trace(grid)
    points += np.array(offset) - 1
    numbers = points.ravel().tolist()
    return [numbers[2 * start : 2 * end] for start, end in pairwise([0, *ends.tolist()])]


def simplify_rings(rings: list[list[int]], tolerance: float) -> list[list[int]]:
    """Leave out points where the outline hardly moves, each ring for itself: where a part was cut, rings may come apart.

    Args:
        rings: as `rings_of_mask` gives them.
        tolerance: how far an outline may move, in px; 0 leaves all as they are.
    Returns:
        As many rings, in the same order, of three points or more; the points are some of the old ones. No ring touches
        itself; one that would become a line stays as it is.
    Raises:
        ValueError: tolerance is negative or not finite.
    Source:
        Douglas and Peucker (1973), topology preserving as in GEOS.
    """
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be 0 px or more, got {tolerance}")
    return [_simplify_ring(ring, tolerance) for ring in rings] if tolerance > 0 else rings


def _simplify_ring(ring: list[int], tolerance: float) -> list[int]:
    points = np.reshape(ring, (-1, 2))
    far = int(np.square(points - points[0]).sum(1).argmax())
    # As two lines, whose ends stay. From a ring GEOS would take the first point too, after all others: the outline would
    # move by up to twice the tolerance.
    halves = shapely.MultiLineString([points[: far + 1], np.concatenate([points[far:], points[:1]])])
    there, back = (shapely.get_coordinates(half)[:-1] for half in shapely.simplify(halves, tolerance).geoms)
    if len(there) + len(back) < 3:
        return ring  # older GEOS lays one line upon the other
    return np.concatenate([there, back]).astype(np.int64).ravel().tolist()


@njit(cache=True, nogil=True)
def _cut_holes(grid: Grid) -> None:
    """Put two walls at each hole: up from its top and down from its bottom, to the next outline.

    A hole is an enclosed region of background pixels that are connected by edges, even if its corner touches another hole
    or the outside. The outline where a wall ends reaches higher (or lower) than the hole. So from each hole one chain of
    walls and outlines leads up to the outer outline and another one down, and no point, taken away, would break both: none
    is held to the rest by a single point, which is when a ring would come by a point twice.
    """
    for start_x in range(1, grid.shape[0] - 1):
        for start_y in range(1, grid.shape[1] - 1):
            if not grid[start_x, start_y] & _INSIDE or grid[start_x, start_y] & _SEEN or grid[start_x - 1, start_y] & _INSIDE:
                continue
            # Walk along pixel edges, the mask to the right hand; first up the left edge of this pixel.
            x, y, dx, dy = start_x, start_y + 1, 0, -1
            top_x, top_y = 0, grid.shape[1]
            bottom_x, bottom_y = 0, 0
            while True:
                if dy < 0:
                    if grid[x, y - 1] & _SEEN:
                        break
                    grid[x, y - 1] |= _SEEN
                x, y = x + dx, y + dy
                if y < top_y:
                    top_x, top_y = x, y
                if y > bottom_y:
                    bottom_x, bottom_y = x, y
                # Ahead to the left hand; then to the right hand.
                if grid[x + (dx + dy - 1) // 2, y + (dy - dx - 1) // 2] & _INSIDE:
                    dx, dy = dy, -dx
                elif not grid[x + (dx - dy - 1) // 2, y + (dy + dx - 1) // 2] & _INSIDE:
                    dx, dy = -dy, dx
            # If this was the outside of a part, there is nothing above its top and below its bottom, and no wall.
            _build_wall(grid, top_x, top_y - 1, -1)
            _build_wall(grid, bottom_x, bottom_y, 1)


@njit(cache=True, nogil=True)
def _build_wall(grid: Grid, x: int, y: int, step: int) -> None:
    while grid[x, y] & grid[x - 1, y] & _INSIDE:
        grid[x, y] |= _WALL
        y += step


@njit(cache=True, nogil=True)
def _trace(grid: Grid) -> tuple[Ints, Ints]:
    """Corners [N, 2] x, y of all rings, and where each ring ends [R]; `grid` as `_cut_holes` leaves it."""
    left_edges = 0
    for x in range(1, grid.shape[0] - 1):
        for y in range(1, grid.shape[1] - 1):
            grid[x, y] &= _INSIDE | _WALL
            left_edges += grid[x, y] & _INSIDE and not _joined(grid, x - 1, y, x, y)
    # As many right edges; each is one upright side at most, and every other side is upright.
    points = np.empty((4 * left_edges, 2), np.int64)
    ends = np.empty(left_edges, np.int64)
    corners = 0
    rings = 0
    for start_x in range(1, grid.shape[0] - 1):
        for start_y in range(1, grid.shape[1] - 1):
            pixel = grid[start_x, start_y]
            if not pixel & _INSIDE or pixel & _SEEN or _joined(grid, start_x - 1, start_y, start_x, start_y):
                continue
            x, y, dx, dy = start_x, start_y + 1, 0, -1
            while True:
                if dy < 0:
                    if grid[x, y - 1] & _SEEN:
                        break
                    grid[x, y - 1] |= _SEEN
                x, y = x + dx, y + dy
                ahead_x, ahead_y = x + (dx - dy - 1) // 2, y + (dy + dx - 1) // 2  # to the right hand
                left_x, left_y = x + (dx + dy - 1) // 2, y + (dy - dx - 1) // 2
                if not _joined(grid, ahead_x - dx, ahead_y - dy, ahead_x, ahead_y):
                    dx, dy = -dy, dx
                elif _joined(grid, ahead_x, ahead_y, left_x, left_y):
                    dx, dy = dy, -dx
                else:
                    continue
                points[corners, 0] = x
                points[corners, 1] = y
                corners += 1
            ends[rings] = corners
            rings += 1
    return points[:corners], ends[:rings]


@njit(cache=True, nogil=True)
def _joined(grid: Grid, x: int, y: int, other_x: int, other_y: int) -> bool:
    """Whether two pixels that share an edge are in one part."""
    if not grid[x, y] & grid[other_x, other_y] & _INSIDE:
        return False
    return x == other_x or not grid[max(x, other_x), y] & _WALL
