"""The projection operator as its contract says it, pixel by pixel: slow, and what the kernels are compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np


def project_masks_reference(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    *,
    num_layers: int,
    size: tuple[int, int],
    batch: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Collect, for every canvas pixel, the cells that cover it; the largest value wins, of equal ones the lowest index.

    Args:
        boxes: [N, 4] float xyxy in canvas pixels.
        layers: [N] int, 0-based; a detection with a layer or an image out of range writes nothing.
        scores: [N] float, of the masks' dtype.
        masks: [N, h, w] float32 or float64.
        image_index: [N] int, the image of the batch.
        size: (H, W) of the canvas.

    Returns:
        canvas [batch, num_layers, H, W] in the masks' dtype, and the winning cell of every pixel, the same shape,
        int32: the flat index into masks, -1 where the canvas is 0.

    Source:
        Fu, Berg, Berg, IMP (2019), Algorithm 1; rounding and ties: kernels/README.md.
    """
    count, cell_rows, cell_columns = masks.shape
    height, width = size
    candidates: dict[tuple[int, int, int, int], list[tuple[float, int]]] = defaultdict(list)
    for n in range(count):
        image, layer = int(image_index[n]), int(layers[n])
        if not (0 <= image < batch and 0 <= layer < num_layers):
            continue
        x1, y1, x2, y2 = (float(edge) for edge in boxes[n])
        rows = _covered_pixels(y1, y2, cell_rows, height)
        columns = _covered_pixels(x1, x2, cell_columns, width)
        with np.errstate(all="ignore"):  # infinities and NaN are inputs like others
            values = scores[n] * masks[n]
        for i, j in zip(*np.nonzero(values > 0), strict=True):
            cell = (n * cell_rows + int(i)) * cell_columns + int(j)
            for y in rows[i]:
                for x in columns[j]:
                    candidates[image, layer, y, x].append((values[i, j], -cell))

    canvas = np.zeros((batch, num_layers, height, width), masks.dtype)
    winners = np.full(canvas.shape, -1, np.int32)
    for pixel, found in candidates.items():
        value, negative_cell = max(found)
        canvas[pixel] = value
        winners[pixel] = -negative_cell
    return canvas, winners


def project_masks_backward_reference(
    scores: np.ndarray, masks: np.ndarray, winners: np.ndarray, grad_canvas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give every pixel's gradient to the cell that won it.

    Args:
        scores: [N]; masks: [N, h, w]; winners: [B, K, H, W] as the forward gives it; grad_canvas: [B, K, H, W].

    Returns:
        d_scores [N] and d_masks [N, h, w] in the masks' dtype. Sums run in double precision and in row-major order, and
        are rounded once; a cell whose sum is zero gets zero, also where the mask or the score is NaN.
    """
    won: dict[int, float] = defaultdict(float)
    for cell, gradient in zip(winners.ravel().tolist(), grad_canvas.ravel().tolist(), strict=True):
        if cell >= 0:
            won[cell] += gradient
    d_scores, d_masks = np.zeros_like(scores), np.zeros_like(masks)
    with np.errstate(all="ignore"):
        for n in range(len(scores)):
            total = 0.0
            for i, j in np.ndindex(masks.shape[1:]):
                cell_sum = masks.dtype.type(won[int(np.ravel_multi_index((n, i, j), masks.shape))])
                if cell_sum != 0:
                    d_masks[n, i, j] = scores[n] * cell_sum
                    total += float(masks[n, i, j]) * float(cell_sum)
            d_scores[n] = total
    return d_scores, d_masks


def _covered_pixels(lo: float, hi: float, cells: int, length: int) -> list[range]:
    """The canvas pixels of each cell along one side of a box."""
    if not (hi > lo) or math.isinf(hi - lo):
        return [range(0)] * cells
    edges = [lo + (i * (hi - lo)) / cells for i in range(cells + 1)]
    covered = []
    for left, right in pairwise(edges):
        first, stop = math.floor(left + 0.5), math.floor(right + 0.5)
        if first >= stop:
            first = math.floor((left + right) / 2)
            stop = first + 1
        covered.append(range(max(first, 0), min(stop, length)))
    return covered
