"""How good a semantic map is near the boundaries of its target: confusion matrices by distance to the boundary.

A boundary pixel has a 4-neighbour of another class in the target, so both sides of an edge are boundary. Background is
a class like any other; an ignored pixel neither is nor makes a boundary, and the image border is none. The distance of
a pixel is exact L2, in pixels at the size of the maps, to the nearest boundary pixel (which itself has distance 0).

Source: Fu, Berg, Berg, IMP (2019), Figure 5, which gives the widths; the definition of the boundary is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from imptool.metrics.confusion import check_maps, stray_id

BANDS = (10.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0)
"""Widths of the boundary bands in px, those of the paper's Figure 5."""

DEFINITIONS = {
    "band": "Pixels whose L2 distance to the nearest boundary pixel is at most the width (cumulative: a band holds the "
    "narrower ones). A boundary pixel has a 4-neighbour of another class in the target; ignored pixels and the image "
    "border make no boundary; an image without boundary enters no band.",
    "ring": "Pixels of a band that are not in the next narrower band; the last ring holds those beyond every band.",
}

NO_BOUNDARY = np.iinfo(np.int64).max
"""The squared distance in an image without boundary: outside every band."""


def boundary_pixels(target: np.ndarray, *, ignore: int) -> np.ndarray:
    """The pixels with a 4-neighbour of another class: [H, W] bool from a semantic map [H, W]."""
    boundary = np.zeros(target.shape, bool)
    counted = target != ignore
    for here, there in (((..., slice(1, None)), (..., slice(None, -1))), (slice(1, None), slice(None, -1))):
        edge = (target[here] != target[there]) & counted[here] & counted[there]
        boundary[here] |= edge
        boundary[there] |= edge
    return boundary


def squared_distance_to_boundary(target: np.ndarray, *, ignore: int) -> np.ndarray:
    """Squared L2 distance of every pixel to the nearest boundary pixel.

    Args:
        target: semantic map [H, W].
        ignore: the id that is no class; its pixels get a distance too.
    Returns:
        [H, W] int64, exact at any size: squares of distances between pixels are whole numbers. `NO_BOUNDARY`
        everywhere in an image without boundary.
    Source:
        Meijster, Roerdink, Hesselink, A general algorithm for computing distance transforms in linear time (2000).
    """
    return _squared_distance(target, *_ignored(target, ignore))


def ring_confusions(
    predicted: np.ndarray, target: np.ndarray, *, bands: Sequence[float] = BANDS, num_classes: int, ignore: int
) -> np.ndarray:
    """One confusion matrix for every ring of distances to the boundary; the rings are disjoint and cover the image.

    Args:
        predicted, target, num_classes, ignore: as in `confusion_matrix`.
        bands: B widths in px, increasing.
    Returns:
        [B + 1, C, C] int64: the pixels up to bands[0], from there up to bands[1], ..., and those beyond the last band.
        The sum over rings is `confusion_matrix` of the same maps. Rings, too, are summed over a split.
    Raises:
        ValueError: as in `confusion_matrix`, or bands are not positive and increasing.
    """
    check_maps(predicted, target, num_classes=num_classes, ignore=ignore)
    limits = np.array([-1, *map(_largest_square, _checked(bands)), NO_BOUNDARY], np.int64)
    counts = np.zeros((len(limits) - 1, num_classes, num_classes), np.int64)
    stray = _count_rings(predicted, target, limits, *_ignored(target, ignore), counts)
    if stray >= 0:
        raise stray_id(predicted, target, stray, num_classes=num_classes, ignore=ignore)
    return counts


def band_confusions(
    predicted: np.ndarray, target: np.ndarray, *, bands: Sequence[float] = BANDS, num_classes: int, ignore: int
) -> np.ndarray:
    """One confusion matrix for every boundary band: [B, C, C] int64, cumulative; the rest as in `ring_confusions`."""
    return bands_of_rings(ring_confusions(predicted, target, bands=bands, num_classes=num_classes, ignore=ignore))


def bands_of_rings(rings: np.ndarray) -> np.ndarray:
    """Cumulative bands [..., B, C, C] from disjoint rings [..., B + 1, C, C], of one image, of many or of a whole split."""
    return np.cumsum(rings[..., :-1, :, :], axis=-3)


def _checked(bands: Sequence[float]) -> list[float]:
    widths = [float(width) for width in bands]
    rising = all(low < high for low, high in zip([0.0, *widths], widths, strict=False))
    if not (widths and rising and math.isfinite(widths[-1])):
        raise ValueError(f"boundary bands must be positive, finite and increasing widths in px, got {list(bands)}")
    return widths


def _largest_square(width: float) -> int:
    """The largest squared distance whose root is within the width: whole numbers compare exactly."""
    if width > 2**31:  # wider than any map; the square may not fit
        return NO_BOUNDARY - 1
    square = int(width * width)
    return square + 1 if math.sqrt(square + 1) <= width else square


def _ignored(target: np.ndarray, ignore: int) -> tuple[bool, Any]:
    """Whether the map can hold the ignore id, and the id in the map's dtype: so that many pixels are compared at once."""
    fits = np.iinfo(target.dtype).min <= ignore <= np.iinfo(target.dtype).max
    return fits, target.dtype.type(ignore if fits else 0)


# Compiled code is cached, and the cache notices edits in this file only: what it calls has to stand here too. Indices in
# its inner loops are unsigned, as Numba asks of each signed one whether it counts from the end.


@numba.njit(cache=True, nogil=True)
def _count_rings(
    predicted: np.ndarray, target: np.ndarray, limits: np.ndarray, ignores: bool, ignore: int, counts: np.ndarray
) -> int:
    """Add every counted pixel to the counts of its ring; give the flat index of the first stray id, or -1.

    limits [B + 2]: ring r holds the squared distances above limits[r], up to limits[r + 1].
    """
    height, width = target.shape
    down = _distance_down(target, ignores, ignore)
    nearest, columns = _columns(down)
    centre, height_at = np.empty(columns.size, np.int64), np.empty(columns.size, np.int64)
    ends, rings = np.full(width, width), np.full(width, limits.size - 2)  # all beyond every band
    runs = 1
    for y in range(height):
        if columns.size:
            _approach(nearest, down[y])
            size = _lower_hull(nearest, columns, centre, height_at)
            runs = _ring_runs(centre[:size], height_at[:size], limits, ends, rings)
        stray = _count_row(predicted[y], target[y], ends[:runs], rings, ignores, ignore, counts)
        if stray >= 0:
            return y * width + stray
    return -1


@numba.njit(cache=True, nogil=True)
def _squared_distance(target: np.ndarray, ignores: bool, ignore: int) -> np.ndarray:
    """Meijster's two passes over a map [H, W], with his envelope of a row as a convex hull."""
    squared = np.full(target.shape, NO_BOUNDARY)
    down = _distance_down(target, ignores, ignore)
    nearest, columns = _columns(down)
    centre, height_at = np.empty(columns.size, np.int64), np.empty(columns.size, np.int64)
    for y in range(target.shape[0] if columns.size else 0):
        _approach(nearest, down[y])
        size = _lower_hull(nearest, columns, centre, height_at)
        begin = 0
        for k in range(size):
            end = _end_of_corner(centre[:size], height_at[:size], k, begin, target.shape[1])
            part = squared[y, begin:end]
            first, rest = begin - centre[k], height_at[k] - centre[k] * centre[k]
            for i in range(part.size):
                part[i] = (first + i) * (first + i) + rest
            begin = end
    return squared


@numba.njit(cache=True, nogil=True)
def _distance_down(target: np.ndarray, ignores: bool, ignore: int) -> np.ndarray:
    """Distance [H, W] of every pixel to the boundary pixel below it or at its place; H + W and more where there is none."""
    height, width = target.shape
    down = np.empty((height, width), np.int32)
    nearest = np.full(width, np.int32(height + width))
    boundary = np.empty(width, np.bool_)
    for y in range(height - 1, -1, -1):
        _mark_row(target[max(y - 1, 0)], target[y], target[min(y + 1, height - 1)], ignores, ignore, boundary)
        row = down[y]
        for x in range(width):
            nearest[x] = np.int32(nearest[x] + 1) * np.int32(not boundary[x])  # a product, as choices are not vectorised
        row[:] = nearest
    return down


@numba.njit(cache=True, nogil=True)
def _mark_row(above: np.ndarray, row: np.ndarray, below: np.ndarray, ignores: bool, ignore: int, boundary: np.ndarray) -> None:
    """The boundary pixels [W] of a row, from it and the rows next to it; the row itself stands for one that is not there."""
    for x in range(row.size):
        edge = ((above[x] != row[x]) & (not ignores or above[x] != ignore)) | (
            (below[x] != row[x]) & (not ignores or below[x] != ignore)
        )
        boundary[x] = edge & (not ignores or row[x] != ignore)
    for x in range(row.size - 1):
        edge = (row[x] != row[x + 1]) & (not ignores or (row[x] != ignore) & (row[x + 1] != ignore))
        boundary[x] |= edge
    for x in range(1, row.size):
        edge = (row[x] != row[x - 1]) & (not ignores or (row[x] != ignore) & (row[x - 1] != ignore))
        boundary[x] |= edge


@numba.njit(cache=True, nogil=True)
def _columns(down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertical distances [W] above the first row, and the columns with a boundary pixel: others have no part in any row."""
    height, width = down.shape
    far = height + width  # more than any distance in the map
    return np.full(width, np.int32(far)), np.flatnonzero(down[0] < far) if height else np.zeros(0, np.int64)


@numba.njit(cache=True, nogil=True)
def _approach(nearest: np.ndarray, down: np.ndarray) -> None:
    """Go down by a row: `nearest` [W] becomes the distance to the nearest boundary pixel of the column, above or below."""
    for x in range(nearest.size):
        nearest[x] = min(np.int32(nearest[x] + 1), down[x])


@numba.njit(cache=True, nogil=True)
def _lower_hull(nearest: np.ndarray, columns: np.ndarray, centre: np.ndarray, height: np.ndarray) -> int:
    """The columns that may be nearest to a pixel of a row, left to right, into centre and height; give their number.

    Column c offers pixel x the value (x - c)^2 + nearest[c]^2 = x^2 - 2xc + (c^2 + nearest[c]^2), the lowest wins: for
    some real x those are the corners of the lower convex hull of the points (c, c^2 + nearest[c]^2). So no crossing is
    divided out for a column that leaves again. Products stay below 2^51 up to 65,535 px a side.
    """
    size = 0
    for column in columns:
        at = column * column + np.int64(nearest[column]) * np.int64(nearest[column])
        while size >= 2:
            last, before = np.uint64(size - 1), np.uint64(size - 2)
            rise, step = height[last] - height[before], centre[last] - centre[before]
            if (at - height[last]) * step > rise * (column - centre[last]):
                break
            size -= 1
        centre[np.uint64(size)], height[np.uint64(size)] = column, at
        size += 1
    return size


@numba.njit(cache=True, nogil=True)
def _end_of_corner(centre: np.ndarray, height: np.ndarray, k: int, begin: int, width: int) -> int:
    """The pixel behind the last that corner k of a row's hull wins: there it crosses the next one."""
    if k + 1 == centre.size:
        return width
    crossing = (height[k + 1] - height[k]) // (2 * (centre[k + 1] - centre[k]))
    return max(begin, min(crossing + 1, width))


@numba.njit(cache=True, nogil=True)
def _ring_runs(centre: np.ndarray, height: np.ndarray, limits: np.ndarray, ends: np.ndarray, rings: np.ndarray) -> int:
    """The runs of pixels of a row that are in one ring, into ends (the pixel behind each) and rings; give their number.

    Most corners win pixels of one ring alone: of a parabola that is seen from its two ends and its lowest pixel.
    """
    size = ring = begin = 0
    for k in range(centre.size):
        stop = _end_of_corner(centre, height, k, begin, ends.size)
        middle, rest = centre[k], height[k] - centre[k] * centre[k]
        while begin < stop:
            here = (begin - middle) * (begin - middle) + rest
            while here <= limits[ring]:  # neighbours are mostly in one ring, so each search starts from the last one
                ring -= 1
            while here > limits[ring + 1]:
                ring += 1
            low, high = limits[ring], limits[ring + 1]
            lowest, last = min(max(middle, begin), stop - 1) - middle, stop - 1 - middle
            end = stop
            if lowest * lowest + rest <= low or last * last + rest > high:
                end = begin + 1
                while low < (end - middle) * (end - middle) + rest <= high:  # ends before stop: one pixel there is outside
                    end += 1
            if size and rings[size - 1] == ring:
                ends[size - 1] = end
            else:
                ends[size], rings[size] = end, ring
                size += 1
            begin = end
    return size


@numba.njit(cache=True, nogil=True)
def _count_row(
    predicted: np.ndarray,
    target: np.ndarray,
    ends: np.ndarray,
    rings: np.ndarray,
    ignores: bool,
    ignore: int,
    counts: np.ndarray,
) -> int | np.int64:
    """Add the pixels of a row to the counts of their rings; give the first with a stray id, or -1."""
    num_classes = counts.shape[1]
    start = np.uint64(0)
    for k in range(ends.size):
        stop, ring = np.uint64(ends[k]), rings[k]
        while start < stop:
            first, second = target[start], predicted[start]
            ignored = ignores and first == ignore
            if not 0 <= second < num_classes or (not ignored and not 0 <= first < num_classes):
                return np.int64(start)
            end = start + np.uint64(1)
            while end < stop and target[end] == first and predicted[end] == second:  # runs of equal pixels: one addition each
                end += np.uint64(1)
            if not ignored:
                counts[ring, first, second] += np.int64(end - start)
            start = end
    return -1
