"""The projection operator on CPU threads, and the geometry that the CUDA kernels share.

The geometry stands here and not in a file of its own because Numba's cache on disk notices an edit in this file only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import prange
from numba.np.ufunc import parallel


def compiled(**options: Any) -> Callable[[Any], Any]:
    """Numba's `njit`, with its cache on disk where there is any place for one."""

    def compile_function(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # a read-only installation and a read-only home
            return numba.njit(**options)(function)

    return compile_function


BAND = 64
"""Canvas rows that a thread clears and paints at a time: some 80 KB, which stay in its cache."""


def cell_span(lo: float, hi: float, cell: int, cells: int, length: int) -> tuple[int, int]:
    """First pixel and one past the last pixel, on a side of `length` pixels, of one of the `cells` between lo and hi.

    All in double precision, and in this order: lo + (cell * extent) / cells has no product beside a sum, which a GPU
    would fuse and so move an edge. Equal ends mean that nothing is covered. Firsts and stops ascend with the cell.
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


def sample_place(lo: float, hi: float, pixel: int, cells: int) -> tuple[int, float]:
    """The cell at or before a pixel's centre, and the share 0..1 of the way to the middle of the next cell.

    For `bilinear`: beyond the middle of the first or last cell its value goes on. Double precision; lo < hi.
    """
    place = (((pixel + 0.5) - lo) * cells) / (hi - lo) - 0.5
    place = min(max(place, 0.0), cells - 1.0)
    cell = math.floor(place)
    return cell, place - cell


_cell_span = compiled(error_model="numpy")(cell_span)
_sample_place = compiled(error_model="numpy")(sample_place)


def project_masks(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    winners: np.ndarray,
    *,
    bilinear: bool = False,
    threads: int,
) -> None:
    """Fill the canvas, and the winners where they are wanted; all C-contiguous, outputs without initial value.

    Args:
        boxes: [N, 4] float32 or float64; layers, image_index: [N] int64; scores: [N] and masks: [N, h, w], h and w at
            least 1, both float32 or both float64.
        canvas: [B, K, H, W] in the masks' dtype, written.
        winners: [B, K, H, W] int32, or of no elements: the winning cell, with `bilinear` the winning detection, of each
            pixel whose canvas is above 0; the others are not written.
        threads: at most so many are used.
    """
    shares = _shares(threads)
    run = _project if shares > 1 else _project_alone
    run(boxes, layers, scores, masks, image_index, canvas, winners.reshape(-1), bilinear, shares)


def project_masks_backward(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    winners: np.ndarray,
    grad_canvas: np.ndarray,
    d_scores: np.ndarray,
    d_masks: np.ndarray,
    *,
    bilinear: bool = False,
    threads: int,
) -> None:
    """Fill d_scores [N] and d_masks [N, h, w] from canvas, winners and canvas gradient, [B, K, H, W]; all C-contiguous."""
    shares = _shares(threads)
    inputs = (boxes, layers, scores, masks, image_index, canvas.reshape(-1), winners.reshape(-1), grad_canvas)
    if shares > 1:
        _backward(*inputs, d_scores, d_masks, bilinear, shares)
    else:
        _backward_share(*inputs, d_scores, d_masks, bilinear, 0, 1)


# ------------------------------------------------------------------------------------------------------------- threads

_has_threads = False  # of Numba, in this process
_forked_from_threads = False


def _shares(threads: int) -> int:
    """Into how many shares the work is cut, a thread each. One runs without Numba's threads.

    A process forked from one whose OpenMP threads have started would be killed at its own first call; it works alone.
    """
    global _has_threads
    shares = 1 if _forked_from_threads else max(1, min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if shares > 1:
        _has_threads = True
        numba.set_num_threads(shares)
    return shares


def threading() -> dict[str, str]:
    """Numba's threading layer, and how many threads it has; it is chosen at the first call on more than one thread."""
    layer = numba.threading_layer() if _has_threads else "none started yet"
    return {"threading layer": layer, "threads": str(numba.config.NUMBA_NUM_THREADS)}  # type: ignore[attr-defined]


def _after_fork() -> None:
    global _forked_from_threads
    # Other code's kernels may have started them, too.
    _forked_from_threads = getattr(parallel, "_is_initialized", _has_threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ------------------------------------------------------------------------------------------------------------- forward


@compiled(error_model="numpy", parallel=True)
def _project(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    won: np.ndarray,
    bilinear: bool,
    shares: int,
) -> None:
    order, starts = _sort_by_plane(layers, image_index, canvas.shape[0], canvas.shape[1])
    spans = np.empty((masks.shape[0], masks.shape[1] + masks.shape[2], 2), np.int32)
    for share in prange(shares):
        _measure_share(boxes, masks.shape, canvas.shape, bilinear, spans, share, shares)
    for share in prange(shares):
        _project_share(boxes, scores, masks, canvas, won, bilinear, order, starts, spans, share, shares)


@compiled(error_model="numpy")
def _project_alone(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    canvas: np.ndarray,
    won: np.ndarray,
    bilinear: bool,
    shares: int,
) -> None:
    order, starts = _sort_by_plane(layers, image_index, canvas.shape[0], canvas.shape[1])
    spans = np.empty((masks.shape[0], masks.shape[1] + masks.shape[2], 2), np.int32)
    _measure_share(boxes, masks.shape, canvas.shape, bilinear, spans, 0, 1)
    _project_share(boxes, scores, masks, canvas, won, bilinear, order, starts, spans, 0, 1)


@compiled(error_model="numpy")
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


@compiled(error_model="numpy")
def _measure_share(
    boxes: np.ndarray,
    masks_shape: tuple[int, int, int],
    canvas_shape: tuple[int, int, int, int],
    bilinear: bool,
    spans: np.ndarray,
    share: int,
    shares: int,
) -> None:
    """The pixels of each row of cells and of each column, for every `shares`-th detection: spans [N, h + w, 2].

    With `bilinear` the first row and the first column have those of the whole box, and the others none.
    """
    count, cell_rows, cell_columns = masks_shape
    for n in range(share, count, shares):
        x_lo, y_lo, x_hi, y_hi = (
            np.float64(boxes[n, 0]),
            np.float64(boxes[n, 1]),
            np.float64(boxes[n, 2]),
            np.float64(boxes[n, 3]),
        )
        rows, columns = spans[n, :cell_rows], spans[n, cell_rows:]
        if bilinear:
            rows[0, 0], rows[0, 1] = _cell_span(y_lo, y_hi, 0, 1, canvas_shape[2])
            columns[0, 0], columns[0, 1] = _cell_span(x_lo, x_hi, 0, 1, canvas_shape[3])
            continue
        for i in range(cell_rows):
            rows[i, 0], rows[i, 1] = _cell_span(y_lo, y_hi, i, cell_rows, canvas_shape[2])
        for j in range(cell_columns):
            columns[j, 0], columns[j, 1] = _cell_span(x_lo, x_hi, j, cell_columns, canvas_shape[3])


class _Room(NamedTuple):
    """What a thread works in: a value and its cell for each column of a mask, and the same for each pixel of a line."""

    values: np.ndarray
    cells: np.ndarray
    line: np.ndarray
    line_winner: np.ndarray
    column: np.ndarray  # of each pixel
    share: np.ndarray  # of each pixel, of the way to the next column


@compiled(error_model="numpy")
def _project_share(
    boxes: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    canvas: np.ndarray,
    won: np.ndarray,
    bilinear: bool,
    order: np.ndarray,
    starts: np.ndarray,
    spans: np.ndarray,
    share: int,
    shares: int,
) -> None:
    """Clear and paint every `shares`-th band of rows, so that one full plane is the work of all threads.

    Nobody else writes to a band, and the detections of its plane come in their order.
    """
    batch, num_layers, height, width = canvas.shape
    pixels = canvas.reshape(-1)  # flat, as won is: the rows of a slice are not known to be contiguous
    room = _Room(
        np.empty(masks.shape[2], canvas.dtype),
        np.empty(masks.shape[2], np.int32),
        np.empty(width, canvas.dtype),
        np.empty(width, np.int32),
        np.empty(width, np.uint32),
        np.empty(width, canvas.dtype),
    )
    for plane in range(batch * num_layers):
        for top in range((share + plane) % shares * BAND, height, shares * BAND):
            bottom = min(top + BAND, height)
            start = plane * height * width
            pixels[start + top * width : start + bottom * width] = 0
            for k in range(starts[plane], starts[plane + 1]):
                n = order[k]
                if bilinear:
                    _paint_bilinear(n, boxes[n], scores[n], masks[n], spans[n], top, bottom, width, start, pixels, won, room)
                else:
                    _paint_cells(n, scores[n], masks[n], spans[n], top, bottom, width, start, pixels, won, room)


@compiled(error_model="numpy")
def _paint_cells(
    n: int,
    score: float,
    mask: np.ndarray,
    spans: np.ndarray,
    top: int,
    bottom: int,
    width: int,
    start: int,
    pixels: np.ndarray,
    won: np.ndarray,
    room: _Room,
) -> None:
    """Raise the canvas rows top:bottom to a mask: its rows of cells over each, max pooled, make a line of pixels."""
    cell_rows = mask.shape[0]
    values, cells, line, line_winner, column_of = room.values, room.cells, room.line, room.line_winner, room.column
    rows, columns = spans[:cell_rows], spans[cell_rows:]
    y_first, y_stop = max(np.int64(rows[0, 0]), top), min(np.int64(rows[-1, 1]), bottom)  # spans ascend
    x_first, x_stop = np.int64(columns[0, 0]), np.int64(columns[-1, 1])
    if y_first >= y_stop or x_first >= x_stop:
        return
    apart = _spread_columns(columns, x_first, column_of)
    low, high = -1, -1  # rows of cells in the line
    for y in range(y_first, y_stop):
        first = max(low, 0)
        while rows[first, 1] <= y:
            first += 1
        last = max(high, first)
        while last + 1 < cell_rows and rows[last + 1, 0] <= y:
            last += 1
        if first != low or last != high:
            low, high = first, last
            _pool_rows(n, score, mask, low, high, values, cells)
            _fill_line(columns, x_first, x_stop - x_first, apart, won.size > 0, values, cells, column_of, line, line_winner)
        _raise_row(start + y * width + x_first, x_stop - x_first, pixels, won, line, line_winner)


@compiled(error_model="numpy", inline="always")
def _spread_columns(columns: np.ndarray, x_first: int, column_of: np.ndarray) -> bool:
    """The last column of cells over each pixel from x_first on; whether no pixel lies under two."""
    apart = True
    for j in range(columns.shape[0]):
        apart &= j == 0 or columns[j, 0] >= columns[j - 1, 1]
        for x in range(columns[j, 0] - x_first, columns[j, 1] - x_first):
            column_of[x] = j
    return apart


@compiled(error_model="numpy", inline="always")
def _pool_rows(n: int, score: float, mask: np.ndarray, low: int, high: int, values: np.ndarray, cells: np.ndarray) -> None:
    """The largest value over the rows low..high of each column, at least 0, and its cell: the first of equal ones."""
    cell_rows, cell_columns = mask.shape
    for j in range(cell_columns):
        value = score * mask[low, j]
        values[j] = value if value > 0 else 0  # also for NaN
        cells[j] = (n * cell_rows + low) * cell_columns + j
    for i in range(low + 1, high + 1):
        first_cell = (n * cell_rows + i) * cell_columns
        for j in range(cell_columns):
            value, before, cell = score * mask[i, j], values[j], cells[j]
            values[j] = value if value > before else before
            cells[j] = np.int32(first_cell + j) if value > before else cell


@compiled(error_model="numpy", inline="always")
def _fill_line(
    columns: np.ndarray,
    x_first: int,
    length: int,
    apart: bool,
    with_winners: bool,
    values: np.ndarray,
    cells: np.ndarray,
    column_of: np.ndarray,
    line: np.ndarray,
    line_winner: np.ndarray,
) -> None:
    """Spread the columns' values over the pixels of a line; of several over a pixel the largest, the first of equal ones."""
    if apart:
        for x in range(length):
            line[x] = values[column_of[x]]
        if with_winners:
            for x in range(length):
                line_winner[x] = cells[column_of[x]]
        return
    line[:length] = 0
    for j in range(values.size):
        value, cell = values[j], cells[j]
        for x in range(columns[j, 0] - x_first, columns[j, 1] - x_first):
            if value > line[x] or (value == line[x] and value > 0 and cell < line_winner[x]):
                line[x], line_winner[x] = value, cell


@compiled(error_model="numpy")
def _paint_bilinear(
    n: int,
    box: np.ndarray,
    score: float,
    mask: np.ndarray,
    spans: np.ndarray,
    top: int,
    bottom: int,
    width: int,
    start: int,
    pixels: np.ndarray,
    won: np.ndarray,
    room: _Room,
) -> None:
    """Raise the canvas rows top:bottom to a mask that is sampled at the pixels' centres: first down, then across."""
    cell_rows, cell_columns = mask.shape
    y_first, y_stop = max(np.int64(spans[0, 0]), top), min(np.int64(spans[0, 1]), bottom)
    x_first, x_stop = np.int64(spans[cell_rows, 0]), np.int64(spans[cell_rows, 1])
    if y_first >= y_stop or x_first >= x_stop:
        return
    values, line, line_winner, column, share = room.values, room.line, room.line_winner, room.column, room.share
    for x in range(x_stop - x_first):
        column[x], share[x] = _sample_place(np.float64(box[0]), np.float64(box[2]), x_first + x, cell_columns)
        line_winner[x] = n
    for y in range(y_first, y_stop):
        i, part = _sample_place(np.float64(box[1]), np.float64(box[3]), y, cell_rows)
        below, down = min(i + 1, cell_rows - 1), mask.dtype.type(part)
        for j in range(cell_columns):
            values[j] = mask[i, j] + down * (mask[below, j] - mask[i, j])
        for x in range(x_stop - x_first):
            here, after = values[column[x]], values[min(column[x] + np.uint32(1), np.uint32(cell_columns - 1))]
            line[x] = score * (here + share[x] * (after - here))
        _raise_row(start + y * width + x_first, x_stop - x_first, pixels, won, line, line_winner)


@compiled(error_model="numpy", inline="always")
def _raise_row(start: int, length: int, pixels: np.ndarray, won: np.ndarray, line: np.ndarray, line_winner: np.ndarray) -> None:
    """Raise a row of pixels to the line, where that is strictly greater: never for NaN."""
    at = np.uint64(start)
    if won.size:
        for x in range(np.uint64(length)):  # before the pixels; in one loop both take longer
            winner, before = line_winner[x], won[at + x]
            won[at + x] = winner if line[x] > pixels[at + x] else before
    for x in range(np.uint64(length)):
        value, before = line[x], pixels[at + x]
        pixels[at + x] = value if value > before else before


# ------------------------------------------------------------------------------------------------------------ backward


@compiled(error_model="numpy", parallel=True)
def _backward(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    pixels: np.ndarray,
    won: np.ndarray,
    grad_canvas: np.ndarray,
    d_scores: np.ndarray,
    d_masks: np.ndarray,
    bilinear: bool,
    shares: int,
) -> None:
    for share in prange(shares):
        _backward_share(
            boxes, layers, scores, masks, image_index, pixels, won, grad_canvas, d_scores, d_masks, bilinear, share, shares
        )


@compiled(error_model="numpy")
def _backward_share(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    pixels: np.ndarray,
    won: np.ndarray,
    grad_canvas: np.ndarray,
    d_scores: np.ndarray,
    d_masks: np.ndarray,
    bilinear: bool,
    share: int,
    shares: int,
) -> None:
    """Every `shares`-th detection: the gradient that falls to each of its cells, then both gradients."""
    count, cell_rows, cell_columns = masks.shape
    batch, num_layers, height, width = grad_canvas.shape
    grad = grad_canvas.reshape(-1)
    sums = np.empty((cell_rows, cell_columns), np.float64)
    for n in range(share, count, shares):
        sums[:] = 0.0
        image, layer = image_index[n], layers[n]
        if 0 <= image < batch and 0 <= layer < num_layers:
            start = (image * num_layers + layer) * height * width
            if bilinear:
                _sum_bilinear(n, boxes[n], start, height, width, pixels, won, grad, masks[n], sums)
            else:
                _sum_cells(n, boxes[n], start, height, width, pixels, won, grad, sums)
        d_scores[n] = _gradients(scores[n], masks[n], sums, d_masks[n])


@compiled(error_model="numpy")
def _covered(lo: float, hi: float, cells: int, length: int) -> tuple[int, int]:
    """First pixel and one past the last pixel of all cells between lo and hi."""
    return _cell_span(lo, hi, 0, cells, length)[0], _cell_span(lo, hi, cells - 1, cells, length)[1]


@compiled(error_model="numpy")
def _sum_cells(
    n: int,
    box: np.ndarray,
    start: int,
    height: int,
    width: int,
    pixels: np.ndarray,
    won: np.ndarray,
    grad: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Give the gradient of each pixel that detection n won to its cell, in row-major order of the pixels."""
    y_first, y_stop = _covered(np.float64(box[1]), np.float64(box[3]), sums.shape[0], height)
    x_first, x_stop = _covered(np.float64(box[0]), np.float64(box[2]), sums.shape[1], width)
    flat, first_cell, cells = sums.reshape(-1), np.int32(n * sums.size), np.uint32(sums.size)
    for y in range(y_first, y_stop):
        at = start + y * width
        for pixel in range(np.uint64(at + x_first), np.uint64(at + x_stop)):
            cell = np.uint32(won[pixel] - first_cell)  # those below the first become large
            if cell < cells and pixels[pixel] > 0:
                flat[cell] += np.float64(grad[pixel])


@compiled(error_model="numpy")
def _sum_bilinear(
    n: int,
    box: np.ndarray,
    start: int,
    height: int,
    width: int,
    pixels: np.ndarray,
    won: np.ndarray,
    grad: np.ndarray,
    mask: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Give the gradient of each pixel that detection n won to the cells around it, in row-major order of the pixels."""
    x_lo, y_lo, x_hi, y_hi = np.float64(box[0]), np.float64(box[1]), np.float64(box[2]), np.float64(box[3])
    y_first, y_stop = _covered(y_lo, y_hi, 1, height)
    x_first, x_stop = _covered(x_lo, x_hi, 1, width)
    for y in range(y_first, y_stop):
        i, part = _sample_place(y_lo, y_hi, y, sums.shape[0])
        below, down = min(i + 1, sums.shape[0] - 1), np.float64(mask.dtype.type(part))
        for x in range(x_first, x_stop):
            at = start + y * width + x
            if won[at] != n or not pixels[at] > 0:
                continue
            j, part = _sample_place(x_lo, x_hi, x, sums.shape[1])
            after, across = min(j + 1, sums.shape[1] - 1), np.float64(mask.dtype.type(part))
            value = np.float64(grad[at])
            sums[i, j] += value * ((1 - down) * (1 - across))
            sums[i, after] += value * ((1 - down) * across)
            sums[below, j] += value * (down * (1 - across))
            sums[below, after] += value * (down * across)


@compiled(error_model="numpy")
def _gradients(score: float, mask: np.ndarray, sums: np.ndarray, d_mask: np.ndarray) -> float:
    """Write d mask = score * S, and return d score: the sum of mask * S over each row of cells, then over the rows."""
    total = 0.0
    for i in range(mask.shape[0]):
        row_total = 0.0
        for j in range(mask.shape[1]):
            d_mask[i, j] = sums[i, j]
            cell_sum = d_mask[i, j]  # read back: rounded to the masks' dtype
            if cell_sum == 0:
                d_mask[i, j] = 0  # not NaN * 0, and not -0
                continue
            d_mask[i, j] = score * cell_sum
            row_total += np.float64(mask[i, j]) * np.float64(cell_sum)
        total += row_total
    return total
