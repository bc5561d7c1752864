"""The projection operator as PyTorch sees it: one function, with gradient, on CPU and CUDA."""

# No `from __future__ import annotations`: custom_op reads the operators' schemas from the annotations themselves.

from collections.abc import Callable
from typing import Any

import torch
from imp_kernels import cpu
from torch import Tensor

LARGEST_CELL_COUNT = 2**31 - 1  # winning cells are int32


def project_masks(
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    *,
    num_layers: int,
    size: tuple[int, int],
    batch: int,
    check_values: bool = False,
) -> Tensor:
    """Project every instance's soft mask onto the canvas layer of its class; the largest score * mask stays.

    Deterministic, with gradient to scores and masks (none to boxes). Under autocast it computes in float32.

    Args:
        boxes: [N, 4] float32 or float64, xyxy in canvas pixels; a box without positive and finite sides covers nothing.
        layers: [N] int64, 0-based.
        scores: [N], of the masks' dtype.
        masks: [N, h, w] float, 0..1; half types are computed in float32.
        image_index: [N] int64, the image of the batch that the instance belongs to.
        num_layers: K, the number of layers.
        size: (H, W) of the canvas.
        batch: B, the number of images.
        check_values: on CUDA, too, raise where layers or image_index is out of range. This waits for the GPU; without
            it such an instance is not drawn. The CPU always checks.

    Returns:
        canvas [B, K, H, W] in the masks' dtype: 0 where no mask falls, else the largest score * mask there.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a layer or an image is out of range.

    Source:
        Fu, Berg, Berg, IMP (2019), Algorithm 1; rounding, ties and backward: kernels/README.md.
    """
    height, width = size
    with_winners = torch.is_grad_enabled() and (scores.requires_grad or masks.requires_grad)
    canvas, _ = _project(
        boxes.detach(), layers, scores, masks, image_index, num_layers, height, width, batch, with_winners, check_values
    )
    return canvas


@torch.library.custom_op("imptool::project_masks", mutates_args=(), device_types="cpu")
def _project(
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    num_layers: int,
    height: int,
    width: int,
    batch: int,
    with_winners: bool,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    _check_inputs(boxes, layers, scores, masks, image_index, (batch, num_layers, height, width))
    _check_values(layers, image_index, num_layers, batch)
    dtype = _computing_dtype(masks)
    canvas, winners = _empty_outputs(masks, (batch, num_layers, height, width), with_winners, dtype)
    _run_on_cpu(
        cpu.project_masks,
        _array(boxes),
        _array(layers),
        _array(scores.to(dtype)),
        _array(masks.to(dtype)),
        _array(image_index),
        _array(canvas),
        _array(winners) if with_winners else None,
    )
    return canvas.to(masks.dtype), winners


@_project.register_kernel("cuda")
def _(
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    num_layers: int,
    height: int,
    width: int,
    batch: int,
    with_winners: bool,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    from imp_kernels import cuda  # here: numba-cuda does not exist on every platform

    _check_inputs(boxes, layers, scores, masks, image_index, (batch, num_layers, height, width))
    if check_values:
        _check_values(layers, image_index, num_layers, batch)
    dtype = _computing_dtype(masks)
    canvas = masks.new_zeros((batch, num_layers, height, width), dtype=dtype)
    winners = masks.new_full(canvas.shape if with_winners else (0,), -1, dtype=torch.int32)
    with torch.cuda.device(masks.device):
        cuda.project_masks(
            _flat(boxes),
            _flat(layers),
            _flat(scores.to(dtype)),
            _flat(masks.to(dtype)),
            _flat(image_index),
            canvas,
            winners if with_winners else None,
            stream=torch.cuda.current_stream().cuda_stream,  # read at every call, or a graph capture stays empty
        )
    return canvas.to(masks.dtype), winners


@_project.register_fake
def _(
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    num_layers: int,
    height: int,
    width: int,
    batch: int,
    with_winners: bool,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    _check_inputs(boxes, layers, scores, masks, image_index, (batch, num_layers, height, width))
    return _empty_outputs(masks, (batch, num_layers, height, width), with_winners, masks.dtype)


@torch.library.custom_op("imptool::project_masks_backward", mutates_args=(), device_types="cpu")
def _project_backward(
    grad_canvas: Tensor,
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    winners: Tensor,
) -> tuple[Tensor, Tensor]:
    dtype = _computing_dtype(masks)
    d_scores, d_masks = scores.new_empty(scores.shape, dtype=dtype), masks.new_empty(masks.shape, dtype=dtype)
    _run_on_cpu(
        cpu.project_masks_backward,
        _array(scores.to(dtype)),
        _array(masks.to(dtype)),
        _array(winners),
        _array(grad_canvas.to(dtype)),
        _array(d_scores),
        _array(d_masks),
    )
    return d_scores.to(scores.dtype), d_masks.to(masks.dtype)


@_project_backward.register_kernel("cuda")
def _(
    grad_canvas: Tensor,
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    winners: Tensor,
) -> tuple[Tensor, Tensor]:
    from imp_kernels import cuda

    dtype = _computing_dtype(masks)
    d_scores, d_masks = scores.new_empty(scores.shape, dtype=dtype), masks.new_empty(masks.shape, dtype=dtype)
    with torch.cuda.device(masks.device):
        cuda.project_masks_backward(
            _flat(boxes),
            _flat(layers),
            _flat(scores.to(dtype)),
            _flat(masks.to(dtype)),
            _flat(image_index),
            _flat(winners),
            _flat(grad_canvas.to(dtype)),
            d_scores,
            d_masks,
            masks.new_empty(masks.shape, dtype=torch.float64),
            stream=torch.cuda.current_stream().cuda_stream,
        )
    return d_scores.to(scores.dtype), d_masks.to(masks.dtype)


@_project_backward.register_fake
def _(
    grad_canvas: Tensor,
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    winners: Tensor,
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), masks.new_empty(masks.shape)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    boxes, layers, scores, masks, image_index, *_ = inputs
    ctx.save_for_backward(boxes, layers, scores, masks, image_index, output[1])


def _gradients(ctx, grad_canvas, grad_winners):  # type: ignore[no-untyped-def]
    if ctx.saved_tensors[-1].ndim != 4:
        raise ValueError("imptool::project_masks needs with_winners=True for a gradient")
    d_scores, d_masks = _project_backward(grad_canvas, *ctx.saved_tensors)
    return None, None, d_scores, d_masks, None, None, None, None, None, None, None


_project.register_autograd(_gradients, setup_context=_save_for_backward)
for _device_type in ("cpu", "cuda"):
    _project.register_autocast(_device_type, torch.float32)


def _computing_dtype(masks: Tensor) -> torch.dtype:
    return masks.dtype if masks.dtype == torch.float64 else torch.float32


def _empty_outputs(
    masks: Tensor, shape: tuple[int, int, int, int], with_winners: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    winners = masks.new_empty(shape if with_winners else (0,), dtype=torch.int32)
    return masks.new_empty(shape, dtype=dtype), winners


def _run_on_cpu(kernel: Callable[..., None], *arrays: Any) -> None:
    """Run a kernel on as many threads as torch may use, and leave torch's number as it was.

    Numba's OpenMP layer sets the number for the whole process when it starts: torch would then split its sums otherwise
    than before, and a resumed run would not end with the same bits.
    """
    threads = torch.get_num_threads()
    kernel(*arrays, threads=threads)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()


def _array(tensor: Tensor):  # type: ignore[no-untyped-def]
    return _flat(tensor).numpy()


def _check_inputs(
    boxes: Tensor, layers: Tensor, scores: Tensor, masks: Tensor, image_index: Tensor, shape: tuple[int, int, int, int]
) -> None:
    if min(shape) < 1:
        raise ValueError(f"batch, num_layers, height and width must be positive, got {tuple(shape)}")
    if masks.ndim != 3 or masks.shape[1] < 1 or masks.shape[2] < 1:
        raise ValueError(f"masks must be [N, h, w] with h and w at least 1, got {tuple(masks.shape)}")
    if masks.numel() > LARGEST_CELL_COUNT:
        raise ValueError(f"masks must have at most {LARGEST_CELL_COUNT} cells, got {tuple(masks.shape)}")
    count = masks.shape[0]
    inputs = {"boxes": boxes, "layers": layers, "scores": scores, "image_index": image_index}
    for name, tensor in inputs.items():
        wanted = (count, 4) if name == "boxes" else (count,)
        if tuple(tensor.shape) != wanted:
            raise ValueError(f"{name} must be {list(wanted)} for masks {list(masks.shape)}, got {list(tensor.shape)}")
        if tensor.device != masks.device:
            raise ValueError(f"{name} must be on the masks' device {masks.device}, got {tensor.device}")
    if not masks.is_floating_point() or scores.dtype != masks.dtype:
        raise ValueError(f"scores and masks must share a floating dtype, got {scores.dtype} and {masks.dtype}")
    if boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"boxes must be float32 or float64, got {boxes.dtype}")
    for name in ("layers", "image_index"):
        if inputs[name].dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {inputs[name].dtype}")


def _check_values(layers: Tensor, image_index: Tensor, num_layers: int, batch: int) -> None:
    for name, tensor, limit in (("layers", layers, num_layers), ("image_index", image_index, batch)):
        if tensor.numel() == 0:
            continue
        lowest, highest = (int(value) for value in torch.aminmax(tensor))
        if lowest < 0 or highest >= limit:
            raise ValueError(f"{name} must be within 0..{limit - 1}, got {lowest if lowest < 0 else highest}")
