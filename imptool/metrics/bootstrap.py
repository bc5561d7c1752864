"""How far a figure would move with other test images: bootstrap and jackknife over images (Efron 1979), from per-image counts.

A resampled split of N images is a row of weights [N], how often each image takes part: drawn with replacement (bootstrap),
or all but one (jackknife). Figures come from counts summed over the split, so its counts are a weighted sum.

A figure of one class takes the bootstrap. A mean over classes takes the jackknife: a class that one image shows is the same
in every draw that has it, so that percentiles of draws know nothing of its part in the mean, and half of the intervals
miss. `benchmarks/intervals.py` measures both.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike
from scipy.special import stdtrit

REPLICATES = 1000
LEVEL = 0.95

ENOUGH = 10
"""Images: fewer that a figure rests on give no interval."""

ENOUGH_FOR_MEAN = 20
"""The same of a mean over classes, by `effective_images`; 30 images of Clothing Co-Parsing with its 58 tags amount to 23."""

DEFINITIONS = {
    "interval": f"{LEVEL:.0%} interval over the test images. Of a figure of one class, of pixel accuracy and of "
    "frequency-weighted IOU: percentile bootstrap. The images are drawn with replacement, as many as there are, "
    f"{REPLICATES} times with a fixed seed; the figure is computed of each draw, and the interval leaves out as many of them "
    "below as above. Of a mean over classes: jackknife. The mean is computed without each image in turn (without each of "
    f"{REPLICATES} groups, of more images), and the interval is the mean -/+ Student's t times the jackknife's standard error, "
    "longer on one side by the bias that the bootstrap shows. It covers which images happened to be in the test set, as if "
    "they were independent draws. It does not cover another training of the same model (seed, order of the data), errors in "
    "the labels, or images of another kind; with some dozen images it is too narrow.",
    "interval_over_seeds": f"{LEVEL:.0%} interval of the mean over trainings that differ in their seed, all measured on the "
    "same test images. It covers other images and other seeds, each as if they were independent draws. Its variance is that "
    "over the images of the mean over seeds (jackknife of a mean over classes, else bootstrap), plus that between seeds, "
    "s^2 / S. The interval is the mean -/+ Student's t times its root, longer on one side by the bias that the bootstrap "
    "shows, with Satterthwaite's degrees of freedom. What one seed gains on some images alone counts in both parts, so that "
    "the interval is slightly wide. Of one seed it is the interval over the test images.",
    "images": f"How many images a figure rests on. Below {ENOUGH}, or {ENOUGH_FOR_MEAN} of a mean over classes, its interval "
    "is not known, and it has none. Of the IOU of a class: those that show it in target or prediction. Of accuracy (recall) "
    "and AP of a class: those that show it in the target. Of a contour: those with such contour pixels. Of pixel accuracy: "
    "those with counted pixels. Within a band: those of which this is true there. Of a mean over classes: the effective number "
    "(Kish) of the images when every class has the same weight and shares it equally among its images.",
    "paired_difference": f"Difference of two runs with its {LEVEL:.0%} interval, from the same draws for both runs, so that "
    f"what makes an image hard for both cancels. It is called significant ({LEVEL:.0%}) if the interval leaves out 0: other "
    "test images would hardly turn it round. Where either run's figure has no interval, that is not known. Each run is a "
    "single training, and another seed still may turn it round. Nothing is corrected for the number of comparisons: of 20 "
    "differences that are none, one is expected to look significant.",
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


def leave_out_weights(images: int, *, groups: int = REPLICATES) -> np.ndarray:
    """All images but one, each in turn; of more images than groups, all but every groups-th.

    Args:
        images: N.
    Returns:
        [G, N] uint8, with G = min(groups, N): every image is left out in one row.
    """
    groups = min(groups, images)
    return (np.arange(images) % max(groups, 1) != np.arange(groups)[:, None]).astype(np.uint8)


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
    _check_level(level)
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


def mean_interval(
    value: ArrayLike, drawn: ArrayLike, left_out: ArrayLike, images: ArrayLike, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a mean over classes: the jackknife's standard error, and the bootstrap's bias.

    It is value -/+ Student's t times the error, stretched to hold the same of the value without its bias: the AP of few
    images is too high, and that of draws of them too high again.

    Args:
        value: [...], the mean.
        drawn: [B, ...], the mean of each row of `draw_weights`, over the classes that were drawn.
        left_out: [G, ...], the mean of each row of `leave_out_weights`.
        images: [...], how many images it rests on, by `effective_images`: one more than the degrees of freedom.
    Returns:
        low, high: [...], around value, not cut to a range; nan of a single image.
    Raises:
        ValueError: level is not within 0..1.
    """
    _check_level(level)
    freedom = np.maximum(np.asarray(images, np.float64) - 1, 0)
    return _students(value, _jackknife_variance(left_out), freedom, drawn, level)


def interval_over_seeds(
    values: ArrayLike, drawn: ArrayLike, left_out: ArrayLike | None, images: ArrayLike, *, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a mean over seeds, if other seeds and other images are as likely: two crossed random factors.

    The variance is that over images of the mean over seeds, plus that between seeds, s^2 / S. The interaction of seeds and
    images is in both, so that the interval is slightly wide. The rest is as in `mean_interval`, with Satterthwaite's degrees
    of freedom. Of one seed it is the interval over images alone: `mean_interval`, or `interval` without left_out.

    Simulated gains of one model over another (`benchmarks/intervals.py --seeds`; mIOU of 58 tags and IOU of one; 3 and 5 seeds
    that spread little to much; 30 and 120 images; 300 splits in each of 24 cases): it held the gain in 93 to 99 % of the splits
    and gave a false star in 0 to 6 %. The interval over images of the mean over seeds: 68 to 98 % and 2 to 35 %; Student's t
    over seeds alone: 84 to 96 % and 4 to 16 %.

    Args:
        values: [S, ...], the figure of each seed, all on the same images; their mean is in the middle.
        drawn: [B, ...], the mean over seeds of each row of `draw_weights`; nan is left out.
        left_out: [G, ...], the mean over seeds of each row of `leave_out_weights`; None of a figure that is no mean over
            classes: the variance of drawn takes its place.
        images: [...], how many images it rests on.
    Returns:
        low, high: [...], not cut to a range; nan of a single image, or where a seed's value is nan.
    Raises:
        ValueError: level is not within 0..1, or there is no seed.
    Source:
        Owen, The pigeonhole bootstrap (2007): of crossed factors both must vary, and no bootstrap is exact; Satterthwaite,
        An approximate distribution of estimates of variance components (1946).
    """
    _check_level(level)
    values = np.asarray(values, np.float64)
    seeds = len(values)
    if not seeds:
        raise ValueError("values must be of at least one seed")
    if seeds == 1:
        if left_out is None:
            return interval(drawn, level=level)
        return mean_interval(values[0], drawn, left_out, images, level=level)
    over_images = np.nanvar(np.asarray(drawn, np.float64), axis=0) if left_out is None else _jackknife_variance(left_out)
    between_seeds = values.var(axis=0, ddof=1) / seeds
    of_images = np.maximum(np.asarray(images, np.float64) - 1, 0)
    variance = over_images + between_seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        satterthwaite = variance**2 / (over_images**2 / of_images + between_seeds**2 / (seeds - 1))
    freedom = np.where(variance == 0, of_images, satterthwaite)  # any would do: equal models do not differ
    return _students(values.mean(axis=0), variance, freedom, drawn, level)


def _jackknife_variance(left_out: ArrayLike) -> np.ndarray:
    """Of figures [G, ...], each without one of G groups of images."""
    left_out = np.asarray(left_out, np.float64)
    return np.asarray((len(left_out) - 1) * left_out.var(axis=0))


def _students(
    value: ArrayLike, variance: np.ndarray, freedom: np.ndarray, drawn: ArrayLike, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Value -/+ Student's t times the error, stretched to hold the same of the value without the bias of drawn [B, ...]."""
    value = np.asarray(value, np.float64)
    margin = stdtrit(np.where(freedom > 0, freedom, np.nan), (1 + level) / 2) * np.sqrt(variance)
    unbiased = 2 * value - np.nanmean(np.asarray(drawn, np.float64), axis=0)
    return np.minimum(value, unbiased) - margin, np.maximum(value, unbiased) + margin


def effective_images(together: ArrayLike) -> float:
    """How many images a mean over classes rests on (Kish's effective number, 1965).

    Every class has the same weight and shares it equally among the images that show it; of images of equal weights it is
    their number, and of a single class how many show it.

    Args:
        together: [C, C], how many images show both classes; a class that no image shows takes no part.
    Returns:
        from 1 to the number of images; 0 where no image shows a class.

    >>> effective_images([[20, 0], [0, 20]])  # 40 images, of which each shows one class
    40.0
    >>> round(effective_images([[100, 1], [1, 1]]), 1)  # the second class has half of the weight, on one image
    3.9
    """
    together = np.asarray(together, np.float64)
    shown = np.diagonal(together)
    present = shown > 0
    if not present.any():
        return 0.0
    shares = together[np.ix_(present, present)] / np.outer(shown[present], shown[present])
    return round(float(np.count_nonzero(present) ** 2 / shares.sum()), 6)  # ten that add up to 9.9999999999 are ten


def is_significant(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Whether the interval of a difference leaves out 0; False where it is nan."""
    return (np.asarray(low) > 0) | (np.asarray(high) < 0)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


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
