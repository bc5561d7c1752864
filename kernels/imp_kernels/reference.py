"""The projection operator as its contract says it, pixel by pixel: slow, and what the kernels are compared with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
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
    bilinear: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Collect, for every canvas pixel, the cells that cover it; the largest value wins, of equal ones the lowest index.

    Args:
        boxes: [N, 4] float xyxy in canvas pixels.
        layers: [N] int, 0-based; a detection with a layer or an image out of range writes nothing.
        scores: [N] float, of the masks' dtype.
        masks: [N, h, w] float32 or float64.
        image_index: [N] int, the image of the batch.
        size: (H, W) of the canvas.
        bilinear: sample the masks at the pixels' centres instead.

    Returns:
        canvas [batch, num_layers, H, W] in the masks' dtype, and the winning cell of every pixel (`bilinear`: the winning
        detection), the same shape, int32: the flat index into masks (scores), -1 where the canvas is 0.

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
        if bilinear:
            for y, x, value in _sampled_pixels(boxes[n], scores[n], masks[n], size):
                candidates[image, layer, y, x].append((value, -n))
            continue
        rows = _covered_pixels(y1, y2, cell_rows, height)
        columns = _covered_pixels(x1, x2, cell_columns, width)
        with np.errstate(all="ignore"):  # infinities and NaN are inputs like others
            values = scores[n] * masks[n]
        for i, j in zip(*np.nonzero(values > 0), strict=True):
            cell = (n * cell_rows + int(i)) * cell_columns + int(j)
            for y in rows[i]:
                for x in columns[j]:
                    candidates[image, layer, y, x].append((values[i, j], -cell))
    return _largest(candidates, (batch, num_layers, height, width), masks.dtype)


def _largest(
    candidates: dict[tuple[int, int, int, int], list[tuple[float, int]]], shape: tuple[int, int, int, int], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    canvas = np.zeros(shape, dtype)
    winners = np.full(canvas.shape, -1, np.int32)
    for pixel, found in candidates.items():
        value, negative = max(found)
        canvas[pixel] = value
        winners[pixel] = -negative
    return canvas, winners


def project_masks_backward_reference(
    boxes: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    winners: np.ndarray,
    grad_canvas: np.ndarray,
    *,
    bilinear: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Give every pixel's gradient to the cell that won it.

    Args:
        boxes: [N, 4]; scores: [N]; masks: [N, h, w]; winners: [B, K, H, W] as the forward gives it; grad_canvas: [B, K, H, W].

    Returns:
        d_scores [N] and d_masks [N, h, w] in the masks' dtype. Sums run in double precision: of a cell over its pixels in
        row-major order, of a score over each row of cells and then over the rows; each is rounded once. A cell whose sum
        is zero gets zero, also where the mask or the score is NaN.
    """
    won: dict[int, float] = defaultdict(float)
    for pixel, winner in np.ndenumerate(winners):
        if winner >= 0:
            gradient = float(grad_canvas[pixel])
            for cell, weight in _cells_of_pixel(boxes, masks, int(winner), pixel) if bilinear else [(int(winner), 1.0)]:
                won[cell] += gradient * weight
    d_scores, d_masks = np.zeros_like(scores), np.zeros_like(masks)
    with np.errstate(all="ignore"):
        for n in range(len(scores)):
            total = 0.0
            for i in range(masks.shape[1]):
                row_total = 0.0
                for j in range(masks.shape[2]):
                    cell_sum = masks.dtype.type(won[int(np.ravel_multi_index((n, i, j), masks.shape))])
                    if cell_sum != 0:
                        d_masks[n, i, j] = scores[n] * cell_sum
                        row_total += float(masks[n, i, j]) * float(cell_sum)
                total += row_total
            d_scores[n] = total
    return d_scores, d_masks


def _sampled_pixels(
    box: np.ndarray, score: np.floating, mask: np.ndarray, size: tuple[int, int]
) -> Iterator[tuple[int, int, float]]:
    """(y, x, value) of the pixels whose centres the box covers, or of the one at its middle, where the value is above 0.

    The mask is sampled between the middles of its cells, first down and then across, in its own dtype; beyond the
    outermost middles their values go on.
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    for y in _covered_pixels(y1, y2, 1, size[0])[0]:
        i, below, down = _place_between_cells(y1, y2, y, mask.shape[0], mask.dtype)
        for x in _covered_pixels(x1, x2, 1, size[1])[0]:
            j, after, across = _place_between_cells(x1, x2, x, mask.shape[1], mask.dtype)
            with np.errstate(all="ignore"):
                left = mask[i, j] + down * (mask[below, j] - mask[i, j])
                right = mask[i, after] + down * (mask[below, after] - mask[i, after])
                value = score * (left + across * (right - left))
            if value > 0:
                yield y, x, value


def _cells_of_pixel(boxes: np.ndarray, masks: np.ndarray, n: int, pixel: tuple[int, ...]) -> Iterator[tuple[int, float]]:
    """The four cells around a pixel of detection n (at the rim, some of them twice), and their weights."""
    x1, y1, x2, y2 = (float(edge) for edge in boxes[n])
    i, below, down = _place_between_cells(y1, y2, pixel[2], masks.shape[1], masks.dtype)
    j, after, across = _place_between_cells(x1, x2, pixel[3], masks.shape[2], masks.dtype)
    for row, row_weight in ((i, 1 - float(down)), (below, float(down))):
        for column, column_weight in ((j, 1 - float(across)), (after, float(across))):
            yield int(np.ravel_multi_index((n, row, column), masks.shape)), row_weight * column_weight


def _place_between_cells(lo: float, hi: float, pixel: int, cells: int, dtype: np.dtype) -> tuple[int, int, np.floating]:
    """The cells whose middles lie before and after a pixel's centre, and the share of the way between them."""
    place = ((pixel + 0.5 - lo) * cells) / (hi - lo) - 0.5
    place = min(max(place, 0.0), cells - 1.0)
    cell = math.floor(place)
    return cell, min(cell + 1, cells - 1), dtype.type(place - cell)


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
