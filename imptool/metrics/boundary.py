"""How good a semantic map is near the boundaries of its target: confusion matrices by distance to the boundary.

A boundary pixel has a 4-neighbour of another class in the target, so both sides of an edge are boundary. Background is
a class like any other; an ignored pixel neither is nor makes a boundary, and the image border is none. The distance of
a pixel is exact L2, in pixels at the size of the maps, to the nearest boundary pixel (which itself has distance 0).

Source: Fu, Berg, Berg, IMP (2019), Figure 5, which gives the widths; the definition of the boundary is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    boundary = boundary_pixels(target, ignore=ignore)
    if not boundary.any():
        return np.full(target.shape, NO_BOUNDARY, np.int64)
    return _squared_distance(boundary)


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
    limits = np.array([_largest_square(width) for width in _checked(bands)], np.int64)
    squared = squared_distance_to_boundary(target, ignore=ignore)
    counts = np.zeros((len(limits) + 1, num_classes, num_classes), np.int64)
    stray = _count_rings(predicted.ravel(), target.ravel(), squared.ravel(), limits, ignore, counts)
    if stray >= 0:
        raise stray_id(predicted, target, stray, num_classes=num_classes, ignore=ignore)
    return counts


def band_confusions(
    predicted: np.ndarray, target: np.ndarray, *, bands: Sequence[float] = BANDS, num_classes: int, ignore: int
) -> np.ndarray:
    """One confusion matrix for every boundary band: [B, C, C] int64, cumulative; the rest as in `ring_confusions`."""
    return bands_of_rings(ring_confusions(predicted, target, bands=bands, num_classes=num_classes, ignore=ignore))


def bands_of_rings(rings: np.ndarray) -> np.ndarray:
    """Cumulative bands [B, C, C] from disjoint rings [B + 1, C, C] of one image or of a whole split."""
    return np.cumsum(rings[:-1], axis=0)


def _checked(bands: Sequence[float]) -> list[float]:
    widths = [float(width) for width in bands]
    rising = all(low < high for low, high in zip([0.0, *widths], widths, strict=False))
    if not (widths and rising and math.isfinite(widths[-1])):
        raise ValueError(f"boundary bands must be positive, finite and increasing widths in px, got {list(bands)}")
    return widths


def _largest_square(width: float) -> int:
    """The largest squared distance whose root is within the width: whole numbers compare exactly."""
    square = int(width * width)
    return square + 1 if math.sqrt(square + 1) <= width else square


@numba.njit(nogil=True)
def _squared_distance(boundary: np.ndarray) -> np.ndarray:
    """Meijster's two passes over a [H, W] bool map that has a boundary pixel."""
    height, width = boundary.shape
    squared = np.empty((height, width), np.int64)
    vertical = np.empty((height, width), np.int32)  # distance to the nearest boundary pixel of the same column
    far = height + width  # of a column without boundary; its square is more than any distance in the map
    for x in range(width):
        vertical[0, x] = 0 if boundary[0, x] else far
    for y in range(1, height):
        for x in range(width):
            vertical[y, x] = 0 if boundary[y, x] else min(vertical[y - 1, x] + 1, far)
    for y in range(height - 2, -1, -1):
        for x in range(width):
            vertical[y, x] = min(vertical[y, x], vertical[y + 1, x] + 1)

    # Within a row, column c offers pixel x the value (x - c)^2 + offset[c]; the lowest of these parabolas wins.
    offset = np.empty(width, np.int64)
    centre = np.empty(width, np.int64)  # the columns of the lower envelope, left to right,
    begin = np.empty(width, np.int64)  # and the first x that each of them wins
    for y in range(height):
        for x in range(width):
            offset[x] = np.int64(vertical[y, x]) ** 2
        last = 0
        centre[0] = begin[0] = 0
        for c in range(1, width):
            while last >= 0 and _parabola(begin[last], centre[last], offset) > _parabola(begin[last], c, offset):
                last -= 1
            if last < 0:
                last = 0
                centre[0], begin[0] = c, 0
                continue
            other = centre[last]
            crossing = (c * c - other * other + offset[c] - offset[other]) // (2 * (c - other))
            if crossing < width - 1:
                last += 1
                centre[last], begin[last] = c, crossing + 1
        for x in range(width - 1, -1, -1):
            squared[y, x] = _parabola(x, centre[last], offset)
            if x == begin[last]:
                last -= 1
    return squared


@numba.njit(nogil=True)
def _parabola(x: int, column: int, offset: np.ndarray) -> int:
    return (x - column) ** 2 + offset[column]


@numba.njit(nogil=True)
def _count_rings(
    predicted: np.ndarray, target: np.ndarray, squared: np.ndarray, limits: np.ndarray, ignore: int, counts: np.ndarray
) -> int:
    """Add every counted pixel to the counts of its ring; give the flat index of the first stray id, or -1."""
    num_classes = counts.shape[1]
    ring = 0  # neighbours are mostly in one ring, so each search starts from the last one
    for i in range(target.size):
        if not 0 <= predicted[i] < num_classes or (target[i] != ignore and not 0 <= target[i] < num_classes):
            return i
        if target[i] == ignore:
            continue
        while ring > 0 and squared[i] <= limits[ring - 1]:
            ring -= 1
        while ring < limits.size and squared[i] > limits[ring]:
            ring += 1
        counts[ring, target[i], predicted[i]] += 1
    return -1
