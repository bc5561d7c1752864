"""The projection operator on an NVIDIA GPU: Algorithm 1 of the paper, one thread per mask cell, and its backward.

Both public functions take C-contiguous arrays on the current device (anything with `__cuda_array_interface__`; under
Numba's simulator NumPy arrays), allocate nothing, never wait for the GPU, and launch on the given stream handle (None: the
default stream).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from imp_kernels.cpu import cell_span

THREADS_PER_BLOCK = 128
LEAST_BLOCKS = 128  # Numba warns at every launch of fewer, and an idle block costs next to nothing

_cell_span = cuda.jit(device=True)(cell_span)


def project_masks(
    boxes: Any,
    layers: Any,
    scores: Any,
    masks: Any,
    image_index: Any,
    canvas: Any,
    winners: Any | None,
    *,
    stream: int | None = None,
) -> None:
    """Raise the canvas to the masks, and write the winning cells where they are wanted.

    Args:
        boxes: [N, 4] float32 or float64; layers, image_index: [N] int64; scores: [N] and masks: [N, h, w], both float32
            or both float64.
        canvas: [B, K, H, W] in the masks' dtype: all 0 at the start.
        winners: [B, K, H, W] int32: all -1 at the start; or None.
    """
    cells = _size(masks)
    if not cells:
        return
    launch = _launch(cells, stream)
    inputs = [_on_device(array) for array in (boxes, layers, scores, masks, image_index, canvas)]
    raise_canvas[launch](*inputs)
    if winners is not None:
        # As unsigned numbers "none" (-1) is the largest, so that a minimum finds the lowest cell and keeps "none".
        find_winners[launch](*inputs, _on_device(winners).view(np.uint32))


def project_masks_backward(
    boxes: Any,
    layers: Any,
    scores: Any,
    masks: Any,
    image_index: Any,
    winners: Any,
    grad_canvas: Any,
    d_scores: Any,
    d_masks: Any,
    products: Any,
    *,
    stream: int | None = None,
) -> None:
    """Write d_scores [N] and d_masks [N, h, w] from the winners and the canvas gradient, both [B, K, H, W].

    `products` [N, h, w] float64 is room to work in; no array needs an initial value.
    """
    cells = _size(masks)
    if not cells:
        return
    inputs = [_on_device(array) for array in (boxes, layers, scores, masks, image_index, winners, grad_canvas)]
    shared = _on_device(products)
    cell_gradients[_launch(cells, stream)](*inputs, _on_device(d_masks), shared)
    score_gradients[_launch(d_scores.shape[0], stream)](shared, _on_device(d_scores))


def _launch(threads: int, stream: int | None) -> tuple[int, int, Any]:
    blocks = max((threads + THREADS_PER_BLOCK - 1) // THREADS_PER_BLOCK, LEAST_BLOCKS)
    return blocks, THREADS_PER_BLOCK, 0 if stream is None else cuda.external_stream(stream)


def _on_device(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else cuda.as_cuda_array(array, sync=False)


def _size(masks: Any) -> int:
    count, cell_rows, cell_columns = masks.shape
    return int(count * cell_rows * cell_columns)


@cuda.jit(device=True)
def _thread():  # type: ignore[no-untyped-def]
    """The number of this thread in the whole launch, 64 bits."""
    return cuda.grid(1)  # type: ignore[call-arg]


@cuda.jit(device=True)
def _thread_cell(masks):  # type: ignore[no-untyped-def]
    """The thread's flat cell index, and the same as (n, i, j)."""
    cell = _thread()
    _, cell_rows, cell_columns = masks.shape
    return cell, cell // cell_columns // cell_rows, cell // cell_columns % cell_rows, cell % cell_columns


@cuda.jit(device=True)
def _cell_region(  # type: ignore[no-untyped-def]
    n, i, j, boxes, layers, masks, image_index, canvas
):
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
def raise_canvas(boxes, layers, scores, masks, image_index, canvas):  # type: ignore[no-untyped-def]
    """A thread is one mask cell: it raises each pixel that it covers to its value, atomically."""
    cell, n, i, j = _thread_cell(masks)
    if cell >= masks.size:
        return
    value = scores[n] * masks[n, i, j]
    if not value > 0:  # also NaN
        return
    image, layer, y_first, y_stop, x_first, x_stop = _cell_region(n, i, j, boxes, layers, masks, image_index, canvas)
    for y in range(y_first, y_stop):
        for x in range(x_first, x_stop):
            cuda.atomic.max(canvas, (image, layer, y, x), value)  # type: ignore[call-arg]


@cuda.jit
def find_winners(boxes, layers, scores, masks, image_index, canvas, winners):  # type: ignore[no-untyped-def]
    """A thread is one mask cell: of the cells whose value stayed on a pixel, the lowest index wins it.

    A launch of its own, after `raise_canvas` has ended: only then are the values of the canvas final.
    """
    cell, n, i, j = _thread_cell(masks)
    if cell >= masks.size:
        return
    value = scores[n] * masks[n, i, j]
    if not value > 0:
        return
    image, layer, y_first, y_stop, x_first, x_stop = _cell_region(n, i, j, boxes, layers, masks, image_index, canvas)
    for y in range(y_first, y_stop):
        for x in range(x_first, x_stop):
            if canvas[image, layer, y, x] == value:
                cuda.atomic.min(winners, (image, layer, y, x), np.uint32(cell))  # type: ignore[call-arg]


@cuda.jit
def cell_gradients(  # type: ignore[no-untyped-def]
    boxes, layers, scores, masks, image_index, winners, grad_canvas, d_masks, products
):
    """A thread is one mask cell: it sums the gradient of the pixels that it won, in row-major order."""
    cell, n, i, j = _thread_cell(masks)
    if cell >= masks.size:
        return
    image, layer, y_first, y_stop, x_first, x_stop = _cell_region(n, i, j, boxes, layers, masks, image_index, winners)
    total = 0.0
    for y in range(y_first, y_stop):
        for x in range(x_first, x_stop):
            if winners[image, layer, y, x] == cell:
                total += np.float64(grad_canvas[image, layer, y, x])
    d_masks[n, i, j] = total
    cell_sum = d_masks[n, i, j]  # read back: rounded to the masks' dtype
    if cell_sum == 0:
        d_masks[n, i, j] = 0  # not NaN * 0, and not -0
        products[n, i, j] = 0
        return
    d_masks[n, i, j] = scores[n] * cell_sum
    # Kept in memory and summed by the next kernel: a product beside its sum would be fused and round differently.
    products[n, i, j] = np.float64(masks[n, i, j]) * np.float64(cell_sum)


@cuda.jit
def score_gradients(products, d_scores):  # type: ignore[no-untyped-def]
    """A thread is one detection: it sums its cells in row-major order."""
    n = _thread()
    if n >= d_scores.size:
        return
    total = 0.0
    for i in range(products.shape[1]):
        for j in range(products.shape[2]):
            total += products[n, i, j]
    d_scores[n] = total
