"""The projection operator on CPU threads, and the geometry that the CUDA kernels share.

The geometry stands here and not in a file of its own because Numba's cache on disk notices an edit in this file only.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit, prange


def cell_span(lo: float, hi: float, cell: int, cells: int, length: int) -> tuple[int, int]:
    """First pixel and one past the last pixel, on a side of `length` pixels, of one of the `cells` between lo and hi.

    All in double precision, and in this order: lo + (cell * extent) / cells has no product beside a sum, which a GPU
    would fuse and so move an edge. Equal ends mean that nothing is covered.
    """
    extent = hi - lo
    if not (0.0 < extent < math.inf):  # also where an edge is NaN
        return 0, 0
    left = lo + (cell * extent) / cells
    right = lo + ((cell + 1) * extent) / cells
    # Clamped one pixel outside the canvas: a cast of a huge float to int is undefined, and no answer changes.
    first = math.floor(min(max(left + 0.5, -1.0), length + 1.0))
    stop = math.floor(min(max(right + 0.5, -1.0), length + 1.0))
    if first >= stop:
        first = math.floor(min(max((left + right) / 2.0, -1.0), length + 1.0))
        stop = first + 1
    return min(max(first, 0), length), min(max(stop, 0), length)


_cell_span = njit(cache=True, error_model="numpy")(cell_span)


def project_masks(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    winners: np.ndarray | None,
    *,
    threads: int,
) -> None:
    """Fill the canvas, and the winning cells where they are wanted; all C-contiguous, outputs without initial value.

    Args:
        boxes: [N, 4] float32 or float64; layers, image_index: [N] int64; scores: [N] and masks: [N, h, w], h and w at
            least 1, both float32 or both float64.
        canvas: [B, K, H, W] in the masks' dtype, written.
        winners: [B, K, H, W] int32, written, or None.
        threads: at most so many are used.
    """
    _use_threads(threads)
    if winners is None:
        winners = np.empty((0, 0, 0, 0), np.int32)
    _project(boxes, layers, scores, masks, image_index, canvas, winners)


def project_masks_backward(
    scores: np.ndarray,
    masks: np.ndarray,
    winners: np.ndarray,
    grad_canvas: np.ndarray,
    d_scores: np.ndarray,
    d_masks: np.ndarray,
    *,
    threads: int,
) -> None:
    """Fill d_scores [N] and d_masks [N, h, w] from winners and canvas gradient, both [B, K, H, W]; all C-contiguous."""
    _use_threads(threads)
    _backward(scores, masks, winners, grad_canvas, d_scores, d_masks)


def _use_threads(threads: int) -> None:
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]


@njit(cache=True, error_model="numpy", parallel=True)
def _project(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    winners: np.ndarray,
) -> None:
    """One thread per (image, layer) plane at a time: nobody else writes there, and detections come in order."""
    num_layers = canvas.shape[1]
    order, starts = _sort_by_plane(layers, image_index, canvas.shape[0], num_layers)
    for plane in prange(canvas.shape[0] * num_layers):
        image, layer = plane // num_layers, plane % num_layers
        canvas[image, layer] = 0
        if winners.size:
            winners[image, layer] = -1
        for k in range(starts[plane], starts[plane + 1]):
            n = order[k]
            _project_one(n, boxes[n], scores[n], masks[n], canvas, winners, image, layer)


@njit(cache=True, error_model="numpy")
def _sort_by_plane(layers: np.ndarray, image_index: np.ndarray, batch: int, num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Detections of plane p, in their order: order[starts[p]:starts[p + 1]]. Values out of range are in none."""
    planes = batch * num_layers
    counts = np.zeros(planes + 2, np.int64)
    plane_of = np.full(layers.size, planes, np.int64)
    for n in range(layers.size):
        if 0 <= image_index[n] < batch and 0 <= layers[n] < num_layers:
            plane_of[n] = image_index[n] * num_layers + layers[n]
        counts[plane_of[n] + 1] += 1
    starts = np.cumsum(counts)
    cursor = starts.copy()
    order = np.empty(layers.size, np.int64)
    for n in range(layers.size):
        order[cursor[plane_of[n]]] = n
        cursor[plane_of[n]] += 1
    return order, starts


@njit(cache=True, error_model="numpy")
def _project_one(
    n: int,
    box: np.ndarray,
    score: float,
    mask: np.ndarray,
    canvas: np.ndarray,
    winners: np.ndarray,
    image: int,
    layer: int,
) -> None:
    """Lay out each row of cells once as a line of pixels, then raise every canvas row that it covers to this line."""
    height, width = canvas.shape[2:]
    cell_rows, cell_columns = mask.shape
    x_lo, y_lo, x_hi, y_hi = np.float64(box[0]), np.float64(box[1]), np.float64(box[2]), np.float64(box[3])
    firsts = np.empty(cell_columns, np.int64)
    stops = np.empty(cell_columns, np.int64)
    for j in range(cell_columns):
        firsts[j], stops[j] = _cell_span(x_lo, x_hi, j, cell_columns, width)
    x_first, x_stop = firsts[0], stops[-1]  # spans ascend
    if x_first >= x_stop:
        return
    line = np.empty(x_stop - x_first, mask.dtype)
    line_cell = np.empty(x_stop - x_first, np.int32)
    for i in range(cell_rows):
        y_first, y_stop = _cell_span(y_lo, y_hi, i, cell_rows, height)
        if y_first >= y_stop:
            continue
        line[:] = 0
        for j in range(cell_columns):
            value = score * mask[i, j]
            for x in range(firsts[j] - x_first, stops[j] - x_first):
                if value > line[x]:  # never for NaN; of equal values the first stays
                    line[x] = value
                    line_cell[x] = (n * cell_rows + i) * cell_columns + j
        for y in range(y_first, y_stop):
            row = canvas[image, layer, y, x_first:x_stop]
            if winners.size:
                winner_row = winners[image, layer, y, x_first:x_stop]
                for x in range(line.size):
                    winner_row[x] = line_cell[x] if line[x] > row[x] else winner_row[x]
            for x in range(line.size):
                row[x] = line[x] if line[x] > row[x] else row[x]


@njit(cache=True, error_model="numpy", parallel=True)
def _backward(
    scores: np.ndarray,
    masks: np.ndarray,
    winners: np.ndarray,
    grad_canvas: np.ndarray,
    d_scores: np.ndarray,
    d_masks: np.ndarray,
) -> None:
    """A cell lies in one plane, so one thread sums it, in row-major order; then one thread per detection."""
    batch, num_layers, height, width = winners.shape
    count, cell_rows, cell_columns = masks.shape
    sums = np.zeros(masks.size, np.float64)
    for plane in prange(batch * num_layers):
        image, layer = plane // num_layers, plane % num_layers
        for y in range(height):
            for x in range(width):
                cell = winners[image, layer, y, x]
                if cell >= 0:
                    sums[cell] += grad_canvas[image, layer, y, x]
    for n in prange(count):
        total = 0.0
        for i in range(cell_rows):
            for j in range(cell_columns):
                d_masks[n, i, j] = sums[(n * cell_rows + i) * cell_columns + j]
                cell_sum = d_masks[n, i, j]  # read back: rounded to the masks' dtype
                if cell_sum == 0:
                    d_masks[n, i, j] = 0  # not NaN * 0, and not -0
                    continue
                d_masks[n, i, j] = scores[n] * cell_sum
                total += np.float64(masks[n, i, j]) * np.float64(cell_sum)
        d_scores[n] = total
