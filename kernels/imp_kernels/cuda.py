"""The projection operator on an NVIDIA GPU: gathering kernels for use, and Algorithm 1 of the paper as it is written there.

The functions take contiguous arrays of one device (tensors with `data_ptr`; under Numba's simulator NumPy arrays), allocate
nothing, never wait for the GPU, and launch on the given stream. No launch depends on what the arrays hold.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba import cuda, types

from imp_kernels.cpu import cell_span, sample_place
from imp_kernels.launch import THREADS_PER_BLOCK, Kernel, launch_by_numba

TILE = THREADS_PER_BLOCK // 2
"""Side of the square of pixels that a block gathers: while it prepares, a thread has one row or one column of them."""
GROUP = 8
"""Detections that are prepared at a time, in shared memory."""
SCAN = 512
"""Detections that a block looks through at a time for those over its tile."""

SIDES, FOUND = 2 * TILE, 2 * SCAN  # sizes in shared memory must be names or literals

_cell_span = cuda.jit(device=True)(cell_span)  # in floats: there `math.floor` gives one
_sample_place = cuda.jit(device=True)(sample_place)


def project_masks(
    boxes: Any,
    layers: Any,
    scores: Any,
    masks: Any,
    image_index: Any,
    canvas: Any,
    winners: Any,
    *,
    bilinear: bool = False,
    device: int = 0,
    stream: int = 0,
) -> None:
    """Fill the canvas, and the winners where they are wanted; outputs need no initial value.

    Args:
        boxes: [N, 4] float32 or float64; layers, image_index: [N] int64; scores: [N] and masks: [N, h, w], both float32
            or both float64.
        canvas: [B, K, H, W] in the masks' dtype.
        winners: [B, K, H, W] int32, or of no elements: the winning cell, with `bilinear` the winning detection, of each
            pixel whose canvas is above 0; the others are not written.
    """
    batch, num_layers, height, width = canvas.shape
    tiles = batch * num_layers * -(-height // TILE) * -(-width // TILE)
    kernel = _kernel("gather_bilinear" if bilinear else "gather_cells", _is_double(boxes), _is_double(masks))
    with_winners = int(winners.shape[0] > 0)
    arrays = (boxes, layers, scores, masks, image_index, canvas, winners)
    kernel(device, stream, tiles * THREADS_PER_BLOCK, *arrays, *masks.shape, *canvas.shape, with_winners)


def project_masks_backward(
    boxes: Any,
    layers: Any,
    scores: Any,
    masks: Any,
    image_index: Any,
    canvas: Any,
    winners: Any,
    grad_canvas: Any,
    d_scores: Any,
    d_masks: Any,
    products: Any,
    *,
    bilinear: bool = False,
    device: int = 0,
    stream: int = 0,
) -> None:
    """Write d_scores [N] and d_masks [N, h, w] from the canvas, its winners and its gradient, each [B, K, H, W].

    `products` [N, h, w] float64 is room to work in; no array needs an initial value.
    """
    count, cell_rows, cell_columns = masks.shape
    double = _is_double(masks)
    kernel = _kernel("bilinear_gradients" if bilinear else "cell_gradients", _is_double(boxes), double)
    arrays = (boxes, layers, scores, masks, image_index, canvas, winners, grad_canvas, d_masks, products)
    kernel(device, stream, count * cell_rows * cell_columns, *arrays, *masks.shape, *canvas.shape)
    _kernel("score_gradients", False, double)(device, stream, count * LANES, products, d_scores, *masks.shape)


def launch_path(device: int) -> str:
    """Which way launches go on a device: "cuda-bindings" or "numba"."""
    return _kernel("gather_cells", False, False).path(device)


def _is_double(array: Any) -> bool:
    return bool(array.dtype.itemsize == 8)


@cache
def _kernel(name: str, double_boxes: bool, double: bool) -> Kernel:
    return Kernel(*kernel_source(name, double_boxes, double))


def kernel_source(name: str, double_boxes: bool, double: bool) -> tuple[Any, Any]:
    """A kernel's Python function, and the types of its arguments: pointers, then 64-bit integers."""
    function = KERNELS[name](np.float64 if double else np.float32) if "bilinear" in name else KERNELS[name]
    box, real = (types.float64 if is_double else types.float32 for is_double in (double_boxes, double))
    elements = {
        "boxes": box,
        "layers": types.int64,
        "image_index": types.int64,
        "winners": types.int32,
        "products": types.float64,
    }
    elements |= dict.fromkeys(("scores", "masks", "canvas", "grad_canvas", "d_scores", "d_masks"), real)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return function, types.void(*(types.CPointer(elements[name]) if name in elements else types.int64 for name in names))


# ------------------------------------------------------------------------------------------------------------- forward


@cuda.jit(device=True)
def _tile(num_layers, height, width):
    """Image, layer, and the left and top pixel of the block's tile."""
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    block = np.int64(cuda.blockIdx.x)
    plane, tile = block // (across * down), block % (across * down)
    return plane // num_layers, plane % num_layers, tile % across * TILE, tile // across * TILE


@cuda.jit(device=True)
def _find_detections(boxes, layers, image_index, count, start, image, layer, left, top, found, found_count):
    """Collect the detections of a plane, from `start` on, whose boxes may touch the tile, up to 2 * SCAN; where to go on."""
    cuda.syncthreads()  # nobody reads the earlier ones any more
    if cuda.threadIdx.x == 0:
        found_count[0] = 0
    cuda.syncthreads()
    so_far = 0
    while start < count and so_far <= SCAN:
        for n in range(start + cuda.threadIdx.x, min(start + SCAN, count), THREADS_PER_BLOCK):
            if image_index[n] == image and layers[n] == layer:
                near_x = _may_touch(np.float64(boxes[4 * n]), np.float64(boxes[4 * n + 2]), left)
                if near_x and _may_touch(np.float64(boxes[4 * n + 1]), np.float64(boxes[4 * n + 3]), top):
                    found[cuda.atomic.add(found_count, 0, 1)] = n
        start += SCAN
        cuda.syncthreads()
        so_far = found_count[0]
        cuda.syncthreads()
    return start


@cuda.jit(device=True)
def _may_touch(lo, hi, start):
    """Whether a box may reach the tile's pixels from `start` on; never for NaN. Its rounded last edge may lie beyond `hi`."""
    return lo < start + TILE + 1 and hi + (hi - lo) * 1e-15 > start - 1


@cuda.jit(device=True)
def _side(boxes, n, left, top, cell_columns, cell_rows, width, height):
    """What a thread prepares of a box: across a column, or down a row of the tile. Edges, pixel, cells, canvas length."""
    thread, box = cuda.threadIdx.x, 4 * np.int64(n)
    if thread < TILE:
        return np.float64(boxes[box]), np.float64(boxes[box + 2]), left + thread, cell_columns, width
    return np.float64(boxes[box + 1]), np.float64(boxes[box + 3]), top + thread - TILE, cell_rows, height


@cuda.jit(device=True)
def _rows_of_thread(x, top, width, height, plane, any_work):
    """A thread has every second row of its column of the tile: the first, where to stop, and the first row's pixel."""
    row, stop = cuda.threadIdx.x // TILE, 0
    if x < width and any_work:
        stop = min(TILE, height - top)
    return row, stop, plane + (top + row) * width + x


@cuda.jit(device=True)
def _cells_over(lo, hi, pixel, cells, length):
    """The first and the last cell over a pixel; where there is none, the last is -1."""
    extent = hi - lo
    if not (0.0 < extent < math.inf):
        return 0, -1
    first = int(min(max(((pixel + 0.5 - lo) * cells) / extent, 0.0), cells - 1.0))  # a guess
    while first > 0 and _cell_span(lo, hi, first - 1, cells, length)[1] > pixel:
        first -= 1
    while first < cells and _cell_span(lo, hi, first, cells, length)[1] <= pixel:
        first += 1
    if first == cells or _cell_span(lo, hi, first, cells, length)[0] > pixel:
        return 0, -1
    last = first
    while last + 1 < cells and _cell_span(lo, hi, last + 1, cells, length)[0] <= pixel:
        last += 1
    return first, last


def gather_cells(
    boxes, layers, scores, masks, image_index, canvas, winners,
    count, cell_rows, cell_columns, batch, num_layers, height, width, with_winners,
):  # fmt: skip
    """A block is a tile of one plane: it collects the detections over it, and its threads look up the cells over each pixel.

    For a group of detections the first and last cell over each column and each row of the tile stand in shared memory.
    Detections come in any order: of equal values the lowest cell wins.
    """
    found = cuda.shared.array(FOUND, np.int32)
    found_count = cuda.shared.array(1, np.int32)
    first = cuda.shared.array((GROUP, SIDES), np.int32)
    last = cuda.shared.array((GROUP, SIDES), np.int32)
    image, layer, left, top = _tile(num_layers, height, width)
    if image >= batch:  # a block too many, as Numba's own launch may have
        return
    plane = (image * num_layers + layer) * height * width
    thread = cuda.threadIdx.x
    column = thread % TILE
    start, is_new = 0, True
    while start < count or is_new:
        start = _find_detections(boxes, layers, image_index, count, start, image, layer, left, top, found, found_count)
        for group in range(0, max(found_count[0], 1), GROUP):
            members = min(found_count[0] - group, GROUP)
            for member in range(members):
                lo, hi, pixel, cells, length = _side(
                    boxes, found[group + member], left, top, cell_columns, cell_rows, width, height
                )
                first[member, thread], last[member, thread] = _cells_over(lo, hi, pixel, cells, length)
            cuda.syncthreads()
            row, stop, pixel = _rows_of_thread(left + column, top, width, height, plane, members > 0 or is_new)
            if members <= 0:  # nothing lies over the tile: a loop of stores alone
                while row < stop:
                    canvas[pixel] = 0.0
                    row, pixel = row + 2, pixel + 2 * width
            while row < stop:
                value, winner = 0.0, -1
                if not is_new:
                    value = np.float64(canvas[pixel])
                    if with_winners and value > 0:
                        winner = np.int64(winners[pixel])
                for member in range(members):
                    i, last_row = np.int64(first[member, TILE + row]), last[member, TILE + row]
                    while i <= last_row:  # `range` would count its steps first, which takes longer than they do
                        j, last_column = np.int64(first[member, column]), last[member, column]
                        n = np.int64(found[group + member])
                        cell = (n * cell_rows + i) * cell_columns + j
                        while j <= last_column:
                            here = np.float64(scores[n] * masks[cell])
                            if here > value or (here == value and here > 0 and cell < winner):
                                value, winner = here, cell
                            j, cell = j + 1, cell + 1
                        i += 1
                canvas[pixel] = value
                if with_winners and winner >= 0:
                    winners[pixel] = winner
                row, pixel = row + 2, pixel + 2 * width
            is_new = False
            cuda.syncthreads()


def gather_bilinear(real):
    """The kernel for masks of a NumPy type."""

    def gather_bilinear(
        boxes, layers, scores, masks, image_index, canvas, winners,
        count, cell_rows, cell_columns, batch, num_layers, height, width, with_winners,
    ):  # fmt: skip
        """As `gather_cells`, but in shared memory stand the cell before each pixel's centre and the share of the way on."""
        found = cuda.shared.array(FOUND, np.int32)
        found_count = cuda.shared.array(1, np.int32)
        first = cuda.shared.array((GROUP, SIDES), np.int32)
        share = cuda.shared.array((GROUP, SIDES), real)
        image, layer, left, top = _tile(num_layers, height, width)
        if image >= batch:
            return
        plane = (image * num_layers + layer) * height * width
        thread = cuda.threadIdx.x
        column = thread % TILE
        start, is_new = 0, True
        while start < count or is_new:
            start = _find_detections(boxes, layers, image_index, count, start, image, layer, left, top, found, found_count)
            for group in range(0, max(found_count[0], 1), GROUP):
                members = min(found_count[0] - group, GROUP)
                for member in range(members):
                    lo, hi, pixel, cells, length = _side(
                        boxes, found[group + member], left, top, cell_columns, cell_rows, width, height
                    )
                    low, stop = _cell_span(lo, hi, 0, 1, length)
                    first[member, thread] = -1
                    if low <= pixel < stop:
                        cell, part = _sample_place(lo, hi, pixel, cells)
                        first[member, thread], share[member, thread] = cell, part
                cuda.syncthreads()
                row, stop, pixel = _rows_of_thread(left + column, top, width, height, plane, members > 0 or is_new)
                if members <= 0:
                    while row < stop:
                        canvas[pixel] = 0.0
                        row, pixel = row + 2, pixel + 2 * width
                while row < stop:
                    value, winner = 0.0, -1
                    if not is_new:
                        value = np.float64(canvas[pixel])
                        if with_winners and value > 0:
                            winner = np.int64(winners[pixel])
                    for member in range(members):
                        i, j, n = first[member, TILE + row], first[member, column], found[group + member]
                        if i >= 0 and j >= 0:
                            after, below = min(j + 1, cell_columns - 1), min(i + 1, cell_rows - 1)
                            here_row = (np.int64(n) * cell_rows + i) * cell_columns
                            below_row = (np.int64(n) * cell_rows + below) * cell_columns
                            down, across = share[member, TILE + row], share[member, column]
                            at_left = masks[here_row + j] + down * (masks[below_row + j] - masks[here_row + j])
                            at_right = masks[here_row + after] + down * (masks[below_row + after] - masks[here_row + after])
                            here = np.float64(scores[n] * (at_left + across * (at_right - at_left)))
                            if here > value or (here == value and here > 0 and n < winner):
                                value, winner = here, np.int64(n)
                    canvas[pixel] = value
                    if with_winners and winner >= 0:
                        winners[pixel] = winner
                    row, pixel = row + 2, pixel + 2 * width
                is_new = False
                cuda.syncthreads()

    return gather_bilinear


# ------------------------------------------------------------------------------------------------------------ backward

LANES = 32  # threads that sum the rows of one detection


@cuda.jit(device=True)
def _thread_cell(cell_rows, cell_columns):
    """The thread's flat cell index, and the same as (n, i, j), 64 bits."""
    cell = cuda.grid(1)
    return cell, cell // cell_columns // cell_rows, cell // cell_columns % cell_rows, cell % cell_columns


def cell_gradients(
    boxes, layers, scores, masks, image_index, canvas, winners, grad_canvas, d_masks, products,
    count, cell_rows, cell_columns, batch, num_layers, height, width,
):  # fmt: skip
    """A thread is one mask cell: it sums the gradient of the pixels that it won, in row-major order."""
    cell, n, i, j = _thread_cell(cell_rows, cell_columns)
    if n >= count:
        return
    total = 0.0
    image, layer = image_index[n], layers[n]
    if 0 <= image < batch and 0 <= layer < num_layers:
        x_first, x_stop = _cell_span(np.float64(boxes[4 * n]), np.float64(boxes[4 * n + 2]), j, cell_columns, width)
        y_first, y_stop = _cell_span(np.float64(boxes[4 * n + 1]), np.float64(boxes[4 * n + 3]), i, cell_rows, height)
        # A `range` of floats would count in 32 bits, and a canvas may have more pixels.
        for y in range(np.int64(y_first), np.int64(y_stop)):
            row = ((image * num_layers + layer) * height + y) * width
            for pixel in range(row + np.int64(x_first), row + np.int64(x_stop)):
                if canvas[pixel] > 0 and winners[pixel] == cell:
                    total += np.float64(grad_canvas[pixel])
    _write_gradients(cell, n, total, scores, masks, d_masks, products)


def bilinear_gradients(real):
    """The kernel for masks of a NumPy type."""

    def bilinear_gradients(
        boxes, layers, scores, masks, image_index, canvas, winners, grad_canvas, d_masks, products,
        count, cell_rows, cell_columns, batch, num_layers, height, width,
    ):  # fmt: skip
        """A thread is one mask cell: it sums its share of the gradient of the pixels that its detection won around it."""
        cell, n, i, j = _thread_cell(cell_rows, cell_columns)
        if n >= count:
            return
        total = 0.0
        image, layer = image_index[n], layers[n]
        if 0 <= image < batch and 0 <= layer < num_layers:
            x_lo, x_hi = np.float64(boxes[4 * n]), np.float64(boxes[4 * n + 2])
            y_lo, y_hi = np.float64(boxes[4 * n + 1]), np.float64(boxes[4 * n + 3])
            x_first, x_stop = _pixels_around(x_lo, x_hi, j, cell_columns, width)
            y_first, y_stop = _pixels_around(y_lo, y_hi, i, cell_rows, height)
            for y in range(y_first, y_stop):
                above, part = _sample_place(y_lo, y_hi, y, cell_rows)
                down = np.float64(real(part))
                row = ((image * num_layers + layer) * height + y) * width
                for x in range(x_first, x_stop):
                    if canvas[row + x] > 0 and winners[row + x] == n:
                        before, part = _sample_place(x_lo, x_hi, x, cell_columns)
                        across = np.float64(real(part))
                        value = np.float64(grad_canvas[row + x])
                        # At the rim both rows, or both columns, may be this cell's.
                        if above == i and before == j:
                            total += value * ((1.0 - down) * (1.0 - across))
                        if above == i and min(before + 1, cell_columns - 1) == j:
                            total += value * ((1.0 - down) * across)
                        if min(above + 1, cell_rows - 1) == i and before == j:
                            total += value * (down * (1.0 - across))
                        if min(above + 1, cell_rows - 1) == i and min(before + 1, cell_columns - 1) == j:
                            total += value * (down * across)
        _write_gradients(cell, n, total, scores, masks, d_masks, products)

    return bilinear_gradients


@cuda.jit(device=True)
def _pixels_around(lo, hi, cell, cells, length):
    """Pixels of the box among which are all that a cell has a share in; those of the outermost cells go to the box's edge."""
    first, stop = _cell_span(lo, hi, 0, 1, length)
    if first >= stop:  # also where an edge is NaN
        return first, stop
    step = (hi - lo) / cells
    if cell > 0:
        first = max(first, int(min(max(lo + (cell - 1) * step - 1.0, -1.0), length + 1.0)))
    if cell < cells - 1:
        stop = min(stop, int(min(max(lo + (cell + 2) * step + 2.0, -1.0), length + 1.0)))
    return first, stop


@cuda.jit(device=True)
def _write_gradients(cell, n, total, scores, masks, d_masks, products):
    """d mask = score * S, and mask * S, which `score_gradients` sums."""
    d_masks[cell] = total
    cell_sum = d_masks[cell]  # read back: rounded to the masks' dtype
    if cell_sum == 0:
        d_masks[cell] = 0.0  # not NaN * 0, and not -0
        products[cell] = 0.0
    else:
        d_masks[cell] = scores[n] * cell_sum
        products[cell] = np.float64(masks[cell]) * np.float64(cell_sum)


def score_gradients(products, d_scores, count, cell_rows, cell_columns):
    """LANES threads are one detection: each sums rows of its cells, and the first of them sums the rows."""
    thread = cuda.grid(1)
    n, lane = thread // LANES, thread % LANES
    if n < count:
        for i in range(lane, cell_rows, LANES):
            row, total = (n * cell_rows + i) * cell_columns, 0.0
            for cell in range(row, row + cell_columns):
                total += products[cell]
            products[row] = total
    cuda.syncthreads()
    if n < count and lane == 0:
        total = 0.0
        for i in range(cell_rows):
            total += products[(n * cell_rows + i) * cell_columns]
        d_scores[n] = total


KERNELS: dict[str, Any] = {
    kernel.__name__: kernel for kernel in (gather_cells, gather_bilinear, cell_gradients, bilinear_gradients, score_gradients)
}


# --------------------------------------------------------------------------------------------------------- Algorithm 1


def project_masks_as_published(
    boxes: Any, layers: Any, scores: Any, masks: Any, image_index: Any, canvas: Any, winners: Any, *, stream: int = 0
) -> None:
    """Algorithm 1 of the paper: a thread for each mask cell. For comparison; the canvas must be all 0, the winners all -1."""
    if not masks.shape[0]:
        return
    cells = math.prod(masks.shape)
    launch_by_numba(raise_canvas, stream, cells, boxes, layers, scores, masks, image_index, canvas)
    if winners.shape[0]:
        unsigned = (winners if isinstance(winners, np.ndarray) else cuda.as_cuda_array(winners, sync=False)).view(np.uint32)
        launch_by_numba(find_winners, stream, cells, boxes, layers, scores, masks, image_index, canvas, unsigned)


@cuda.jit(device=True)
def _cell_region(n, i, j, boxes, layers, masks, image_index, canvas):
    """Image, layer and the pixels y_first:y_stop, x_first:x_stop of cell (n, i, j); no pixels if out of range."""
    image, layer = image_index[n], layers[n]
    if image < 0 or image >= canvas.shape[0] or layer < 0 or layer >= canvas.shape[1]:
        return image, layer, 0, 0, 0, 0
    x_lo, x_hi = np.float64(boxes[n, 0]), np.float64(boxes[n, 2])
    y_lo, y_hi = np.float64(boxes[n, 1]), np.float64(boxes[n, 3])
    x_first, x_stop = _cell_span(x_lo, x_hi, j, masks.shape[2], canvas.shape[3])
    y_first, y_stop = _cell_span(y_lo, y_hi, i, masks.shape[1], canvas.shape[2])
    return image, layer, y_first, y_stop, x_first, x_stop


@cuda.jit
def raise_canvas(boxes, layers, scores, masks, image_index, canvas):
    """A thread is one mask cell: it raises each pixel that it covers to its value, atomically."""
    _, n, i, j = _thread_cell(masks.shape[1], masks.shape[2])
    if n >= masks.shape[0]:
        return
    value = scores[n] * masks[n, i, j]
    if not value > 0:  # also NaN
        return
    image, layer, y_first, y_stop, x_first, x_stop = _cell_region(n, i, j, boxes, layers, masks, image_index, canvas)
    for y in range(y_first, y_stop):
        for x in range(x_first, x_stop):
            cuda.atomic.max(canvas, (image, layer, y, x), value)


@cuda.jit
def find_winners(boxes, layers, scores, masks, image_index, canvas, winners):
    """A thread is one mask cell: of the cells whose value stayed on a pixel, the lowest index wins it.

    A launch of its own, after `raise_canvas` has ended: only then are the values of the canvas final. Of unsigned numbers
    "none" (-1) is the largest, so that a minimum finds the lowest cell and keeps "none".
    """
    cell, n, i, j = _thread_cell(masks.shape[1], masks.shape[2])
    if n >= masks.shape[0]:
        return
    value = scores[n] * masks[n, i, j]
    if not value > 0:
        return
    image, layer, y_first, y_stop, x_first, x_stop = _cell_region(n, i, j, boxes, layers, masks, image_index, canvas)
    for y in range(y_first, y_stop):
        for x in range(x_first, x_stop):
            if canvas[image, layer, y, x] == value:
                cuda.atomic.min(winners, (image, layer, y, x), np.uint32(cell))
