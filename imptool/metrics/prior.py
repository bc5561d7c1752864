"""The position prior: the class that is most frequent at each relative position of the training maps.

It looks at no image, so it is the floor that any model has to pass: in street images the person stands in the
middle, head up and shoes down, and most of the rest is background.
"""

from __future__ import annotations

import numpy as np

GRID = (128, 96)
"""Cells of relative position, height x width. A finer grid scores no better on street images, a coarse one loses
the small classes."""


def count_positions(target: np.ndarray, *, num_classes: int, ignore: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Count the classes of one training map by relative position; sum the counts over the training maps.

    Args:
        target: semantic map [H, W], integers in 0..num_classes-1 or `ignore`.
        num_classes: C, background included.
        ignore: the id of pixels that are not counted.
        grid: (gh, gw) cells; pixel (y, x) counts in the cell (y * gh // H, x * gw // W).
    Returns:
        [C, gh, gw] int64.
    Raises:
        ValueError: target is no integer map [H, W], or an id is out of range.
    """
    if target.ndim != 2 or not np.issubdtype(target.dtype, np.integer):
        raise ValueError(f"target must be an integer map [H, W], got {target.dtype} {target.shape}")
    counted = target != ignore
    classes = target[counted].astype(np.int64)
    if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"target ids must be 0..{num_classes - 1} or {ignore} (ignore), got {classes.min()}..{classes.max()}")
    rows, columns = _cells(target.shape, grid)
    cells = (rows * grid[1] + columns)[counted]
    counts = np.bincount(classes * (grid[0] * grid[1]) + cells, minlength=num_classes * grid[0] * grid[1])
    return counts.reshape(num_classes, *grid)


def predict_prior(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The most frequent class at every relative position, as a semantic map of any size.

    Args:
        counts: [C, gh, gw], the sum of `count_positions` over the training maps.
        size: (H, W) of the map.
    Returns:
        [H, W] int64. A cell without any count takes the class that is most frequent overall; the lower class wins ties.
    """
    most_frequent = counts.argmax(axis=0)
    most_frequent[counts.sum(axis=0) == 0] = counts.sum(axis=(1, 2)).argmax()
    return most_frequent[_cells(size, counts.shape[1:])]


def _cells(size: tuple[int, ...], grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The grid row of every pixel row [H, 1], and the grid column of every pixel column [1, W]."""
    return (
        (np.arange(size[0]) * grid[0] // size[0])[:, None],
        (np.arange(size[1]) * grid[1] // size[1])[None, :],
    )
