"""How far a figure would move with other test images: the bootstrap over images (Efron 1979), from per-image counts.

A replicate of a split of N images is N images drawn from it with replacement. Figures come from counts summed over the
split, so a replicate is a row of weights [N], how often each image was drawn, and its counts are a weighted sum.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

REPLICATES = 1000
LEVEL = 0.95

ENOUGH = 10
"""Images: fewer that a figure rests on give no interval."""

DEFINITIONS = {
    "interval": f"{LEVEL:.0%} percentile bootstrap interval: the test images are drawn with replacement, as many as there "
    f"are, {REPLICATES} times with a fixed seed; the figure is computed of each replicate, and the interval leaves out as many "
    "of them below as above. Means are always over the classes of the whole split: a class that is absent from a replicate "
    f"takes part with its figure of the split. A figure that rests on fewer than {ENOUGH} images, such as that of a class "
    "which fewer show, has no interval. It covers which images happened to be in the test set, as if they were independent "
    "draws. It does not cover another training of the same model (seed, order of the data), errors in the labels, or images "
    "of another kind; with some dozen images it is too narrow.",
    "paired_difference": f"Difference of two runs with its {LEVEL:.0%} interval by the paired bootstrap: every replicate is "
    "the same drawn images for both runs, so that what makes an image hard for both cancels. It is called certain if the "
    "interval leaves out 0: other test images would hardly turn it round. Each run is a single training, and another seed "
    "still may. Nothing is corrected for the number of comparisons: of 20 differences that are none, one is expected to look "
    "certain.",
}
"""What an interval says, and what it does not."""


def draw_weights(images: int, *, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each replicate.

    The weights of a replicate depend on the seed, its number and the number of images alone: two runs on the same images
    are drawn alike, which is what pairs them.

    Args:
        images: N.
    Returns:
        [B, N] uint8, where one is drawn more than 255 times int64: every row sums to N.
    Raises:
        ValueError: images or replicates is negative.
    """
    if images < 0 or replicates < 0:
        raise ValueError(f"images and replicates must be >= 0, got {images} and {replicates}")
    weights = np.empty((replicates, images), np.uint8)
    for replicate in range(replicates):
        drawn = np.random.default_rng((seed, replicate)).integers(images, size=images)
        counts = np.bincount(drawn, minlength=images)
        if counts.max(initial=0) > np.iinfo(weights.dtype).max:
            weights = weights.astype(np.int64)
        weights[replicate] = counts
    return weights


class Resampler:
    """Sums over weighted images of sparse counts, for many blocks of weights.

    Args:
        image, cell, count: [n] integers, what was counted of an image in a cell; in any order, and counts of one place add up.
        images: N.
        num_cells: C.
    Raises:
        ValueError: an image is outside 0..N-1, or a cell outside 0..C-1.
    """

    def __init__(self, image: ArrayLike, cell: ArrayLike, count: ArrayLike, *, images: int, num_cells: int) -> None:
        entries = (np.asarray(count, np.int64), (np.asarray(image, np.int64), np.asarray(cell, np.int64)))
        self._counts = scipy.sparse.csc_array(entries, shape=(images, num_cells))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The counts of resampled splits, exact: [b, C] int64, of weights [b, N] integers >= 0.

        Raises:
            ValueError: weights is not [b, N] integers >= 0.
        """
        images, num_cells = self._counts.shape
        _check_weights(weights, images=images)
        sums = np.zeros((num_cells, len(weights)), np.int64)
        # The images of a cell lie apart, so each costs the cache lines of its weights: 50 are one line as bytes, else seven.
        narrow = np.uint8 if weights.max(initial=0) < 256 else np.int64
        _add_weighted(
            np.ascontiguousarray(weights.T, narrow),
            self._counts.indptr.astype(np.int64, copy=False),
            self._counts.indices.astype(np.int32, copy=False),
            self._counts.data,
            sums,
        )
        return np.ascontiguousarray(sums.T)


def interval(values: ArrayLike, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The bounds between which the middle share `level` of the replicates lies.

    Args:
        values: [B, ...], a figure of each replicate; those that are nan are left out.
        level: 0..1, both excluded.
    Returns:
        low, high: [...], percentiles over the first axis; nan where no replicate is left.
    Raises:
        ValueError: level is not within 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    values = np.asarray(values, np.float64)
    columns = values.reshape(len(values), math.prod(values.shape[1:]))
    absent = np.isnan(columns)
    bounds = np.full((2, columns.shape[1]), np.nan)
    percentiles = 50 * (1 - level), 50 * (1 + level)
    # nanpercentile warns of columns without a number, and goes through the others one by one.
    partial = absent.any(axis=0) & ~absent.all(axis=0)
    bounds[:, partial] = np.nanpercentile(columns[:, partial], percentiles, axis=0)
    if len(columns):
        bounds[:, ~partial] = np.percentile(columns[:, ~partial], percentiles, axis=0)
    low, high = bounds.reshape(2, *values.shape[1:])
    return low[()], high[()]


def is_certain(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Whether the interval of a difference leaves out 0; False where it is nan."""
    return (np.asarray(low) > 0) | (np.asarray(high) < 0)


def _check_weights(weights: np.ndarray, *, images: int) -> None:
    """Raise ValueError unless weights are integers >= 0 for each of the images: [b, N]."""
    if weights.ndim != 2 or weights.shape[1] != images or not np.issubdtype(weights.dtype, np.integer):
        raise ValueError(f"weights must be [b, {images}] integers, got {weights.dtype} {weights.shape}")
    if weights.min(initial=0) < 0:
        raise ValueError(f"weights must be >= 0, got {weights.min()}")


@numba.njit(cache=True, nogil=True)
def _add_weighted(weights: np.ndarray, starts: np.ndarray, images: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
    """Add weights [N, b] * counts [n] to sums [C, b]; the entries of cell c are those from starts[c] to starts[c + 1]."""
    for cell in range(len(starts) - 1):
        for entry in range(starts[cell], starts[cell + 1]):
            image, count = images[entry], counts[entry]
            for replicate in range(weights.shape[1]):
                sums[cell, replicate] += weights[image, replicate] * count
