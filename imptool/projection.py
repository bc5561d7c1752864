"""The projection operator as PyTorch sees it: one function and a module, with gradient, on CPU and CUDA."""

# No `from __future__ import annotations`: custom_op reads the operators' schemas from the annotations themselves.

import math
from typing import Any, NoReturn

import numpy as np
import torch
from imp_kernels import cpu
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

SAMPLINGS = ("cells", "bilinear")
_DEVICES, _HALF = ("cpu", "cuda"), (torch.float16, torch.bfloat16)
LARGEST_CELL_COUNT = 2**31 - 1  # winning cells are int32
LARGEST_SIDE = 2**31 - 2  # so are the pixels between which a cell lies


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
    sampling: str = "cells",
    check_values: bool = False,
) -> Tensor:
    """Project every instance's soft mask onto the canvas layer of its class; the largest score * mask stays.

    Deterministic, with gradient to scores and masks (none to boxes). Under autocast it computes in float32. The gradient
    needs the canvas as it was: change it out of place.

    Args:
        boxes: [N, 4] float32 or float64, xyxy in canvas pixels; a box without positive and finite sides covers nothing.
        layers: [N] int64, 0-based.
        scores: [N], of the masks' dtype.
        masks: [N, h, w] float, 0..1; half types are computed in float32.
        image_index: [N] int64, the image of the batch that the instance belongs to.
        num_layers: K, the number of layers.
        size: (H, W) of the canvas.
        batch: B, the number of images.
        sampling: "cells", as in the paper: a pixel has the value of the mask cell over it, the largest of several; or
            "bilinear" (ours): the mask is sampled between its cells' middles at the pixel's centre.
        check_values: on CUDA, too, raise where layers or image_index is out of range. This waits for the GPU; without
            it such an instance is not drawn. The CPU always checks.

    Returns:
        canvas [B, K, H, W] in the masks' dtype: 0 where no mask falls, else the largest score * mask there.

    Raises:
        ValueError: a shape, dtype or device is wrong, or a layer or an image is out of range.

    Source:
        Fu, Berg, Berg, IMP (2019), Algorithm 1; rounding, ties and backward: kernels/README.md.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got '{sampling}'")
    autocast = masks.device.type in _DEVICES and torch.is_autocast_enabled(masks.device.type)
    tensors = (boxes, layers, scores, masks, image_index)
    if autocast or (masks.dtype in _HALF and scores.dtype == masks.dtype):
        tensors = (_widened(boxes) if autocast else boxes, layers, _widened(scores), _widened(masks), image_index)
    with_winners = torch.is_grad_enabled() and (scores.requires_grad or masks.requires_grad)
    height, width = size
    arguments = (*tensors, num_layers, height, width, batch, sampling == "bilinear", with_winners, check_values)
    if not _is_plain(tensors):
        if forward_ad._current_level >= 0 and any(
            forward_ad.unpack_dual(value).tangent is not None for value in (scores, masks)
        ):
            raise NotImplementedError("project_masks has no forward derivative; PyTorch would take it for zero")
        if with_winners and torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
            raise NotImplementedError("project_masks has no torch.func transforms (vmap, grad): use torch.autograd.grad")
        canvas, _ = _project(*arguments)
    elif with_winners:
        canvas, _ = _Direct.apply(*arguments)
    else:
        canvas, _ = _forward(*arguments)
    return canvas if autocast else canvas.to(masks.dtype)


class InstanceMaskProjection(torch.nn.Module):
    """`project_masks` as a module without parameters, for a fixed number of layers.

    Args:
        num_layers: K, the number of classes that have a layer.
        sampling: "cells" or "bilinear", see `project_masks`.
    """

    def __init__(self, num_layers: int, sampling: str = "cells") -> None:
        super().__init__()
        if num_layers < 1 or sampling not in SAMPLINGS:
            raise ValueError(f"need num_layers >= 1 and a sampling of {', '.join(SAMPLINGS)}, got {num_layers}, '{sampling}'")
        self.num_layers, self.sampling = num_layers, sampling

    def forward(
        self,
        boxes: Tensor,
        layers: Tensor,
        scores: Tensor,
        masks: Tensor,
        image_index: Tensor,
        size: tuple[int, int],
        batch: int,
    ) -> Tensor:
        """The canvas [B, K, H, W]; arguments and errors as of `project_masks`."""
        return project_masks(
            boxes,
            layers,
            scores,
            masks,
            image_index,
            num_layers=self.num_layers,
            size=size,
            batch=batch,
            sampling=self.sampling,
        )

    def extra_repr(self) -> str:
        return f"num_layers={self.num_layers}, sampling={self.sampling!r}"


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def kernel_facts(device: torch.device) -> dict[str, str]:
    """How the kernels run on a device where they have run: launch path, or threading layer and threads."""
    if device.type == "cuda":
        from imp_kernels import cuda

        return {"launch path": cuda.launch_path(torch.cuda.current_device() if device.index is None else device.index)}
    return cpu.threading()


def _is_plain(tensors: tuple[Tensor, ...]) -> bool:
    """Whether nothing looks on (a compiler, a transform, a mode), so that PyTorch's dispatcher can be passed by."""
    return (
        tensors[3].device.type in _DEVICES
        and all(type(tensor) is Tensor or type(tensor) is torch.nn.Parameter for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and _python_dispatch._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )


def _forward(
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    num_layers: int,
    height: int,
    width: int,
    batch: int,
    bilinear: bool,
    with_winners: bool,
    check_values: bool,
    all_defined: bool = False,
) -> tuple[Tensor, Tensor]:
    """Canvas and winners; `all_defined`: -1 also for the pixels that nobody won, which the gradient does not read."""
    shape = (batch, num_layers, height, width)
    _check_inputs(boxes, layers, scores, masks, image_index, shape)
    if check_values or not masks.is_cuda:
        _check_values(layers, image_index, num_layers, batch)
    canvas = _empty(shape, masks.dtype, masks.device)
    winners = _empty(shape if with_winners else (0,), torch.int32, masks.device)
    if all_defined:
        winners.fill_(-1)
    _run("project_masks", (boxes, layers, scores, masks, image_index), [canvas, winners], bilinear)
    return canvas, winners


# The operators. Canvas and winners come from one call, so that the gradient knows the winners; their gradient is a second
# operator, so that the compiler sees it as a whole.


@torch.library.custom_op("imptool::project_masks", mutates_args=())
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
    bilinear: bool,
    with_winners: bool,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    sizes = (num_layers, height, width, batch)
    return _forward(boxes, layers, scores, masks, image_index, *sizes, bilinear, with_winners, check_values, True)


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
    bilinear: bool,
    with_winners: bool,
    check_values: bool,
) -> tuple[Tensor, Tensor]:
    shape = (batch, num_layers, height, width)
    _check_inputs(boxes, layers, scores, masks, image_index, shape)
    return masks.new_empty(shape), masks.new_empty(shape if with_winners else (0,), dtype=torch.int32)


@torch.library.custom_op("imptool::project_masks_backward", mutates_args=())
def _project_backward(
    grad_canvas: Tensor,
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    canvas: Tensor,
    winners: Tensor,
    bilinear: bool,
) -> tuple[Tensor, Tensor]:
    if canvas.ndim != 4 or not grad_canvas.shape == canvas.shape == winners.shape:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (grad_canvas, canvas, winners))
        raise ValueError(f"gradient, canvas and winners must be [B, K, H, W] alike, got {shapes}")
    if (grad_canvas.dtype, canvas.dtype, winners.dtype) != (masks.dtype, masks.dtype, torch.int32):
        raise ValueError(f"gradient and canvas must be {masks.dtype} and winners int32")
    batch, num_layers, height, width = canvas.shape
    _check_inputs(boxes, layers, scores, masks, image_index, (batch, num_layers, height, width))
    d_scores = torch.empty(scores.shape, dtype=scores.dtype, device=masks.device)
    d_masks = torch.empty(masks.shape, dtype=masks.dtype, device=masks.device)
    outputs = [d_scores, d_masks]
    if masks.is_cuda:
        outputs.append(torch.empty(masks.shape, dtype=torch.float64, device=masks.device))  # room to work in
    inputs = (boxes, layers, scores, masks, image_index, canvas, winners, grad_canvas)
    _run("project_masks_backward", inputs, outputs, bilinear)
    return d_scores, d_masks


@_project_backward.register_fake
def _(
    grad_canvas: Tensor,
    boxes: Tensor,
    layers: Tensor,
    scores: Tensor,
    masks: Tensor,
    image_index: Tensor,
    canvas: Tensor,
    winners: Tensor,
    bilinear: bool,
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape), masks.new_empty(masks.shape)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    boxes, layers, scores, masks, image_index, *_, ctx.bilinear, _, _ = inputs
    ctx.set_materialize_grads(False)  # or autograd fills a gradient for the winners with zeros, as large as the canvas
    ctx.save_for_backward(boxes, layers, scores, masks, image_index, *output)


def _gradients(ctx, grad_canvas, grad_winners):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # once: under checkpointing they can be read one time only
    if saved[-1].ndim != 4:
        raise ValueError("imptool::project_masks needs with_winners=True for a gradient")
    d_scores = d_masks = None
    if grad_canvas is not None:
        d_scores, d_masks = _project_backward(grad_canvas, *saved, ctx.bilinear)
    return None, None, d_scores, d_masks, None, None, None, None, None, None, None, None


class _Direct(torch.autograd.Function):
    """The same gradient without PyTorch's dispatcher, which takes longer than all the rest on the host."""

    @staticmethod
    def forward(ctx, *arguments):  # type: ignore[no-untyped-def]
        output = _forward(*arguments)
        _save_for_backward(ctx, arguments, output)  # a `setup_context` of its own would cost another 10 us
        return output

    backward = staticmethod(_gradients)


def _refuse_vmap(info, in_dims, *arguments) -> NoReturn:  # type: ignore[no-untyped-def]
    raise NotImplementedError("project_masks has no vmap: give all images in one call, by image_index and batch")


_project.register_autograd(_gradients, setup_context=_save_for_backward)
for _operator in (_project, _project_backward):
    _operator.register_vmap(_refuse_vmap)
for _device_type in ("cpu", "cuda"):
    _project.register_autocast(_device_type, torch.float32)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for an output; on the CPU NumPy's, which asks for huge pages: getting the memory takes longer than filling it.

    Not for very large outputs: the system may search for many huge pages longer than small ones would have taken.
    """
    if device.type == "cpu" and math.prod(shape) <= 2**25:
        return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
    return torch.empty(shape, dtype=dtype, device=device)


def _run(kernel: str, inputs: tuple[Tensor, ...], outputs: list[Tensor], bilinear: bool) -> None:
    """Run a kernel of the tensors' device: on CUDA on PyTorch's current stream, on the CPU on as many threads as torch's."""
    tensors = [tensor.detach().resolve_neg().contiguous() for tensor in inputs] + outputs
    device = tensors[-1].device
    if device.type == "cuda":
        from imp_kernels import cuda  # here: numba-cuda does not exist on every platform

        with torch.cuda.device(device):
            # Read at every call: a graph capture of a remembered stream stays empty.
            stream = torch.cuda.current_stream(device).cuda_stream
            getattr(cuda, kernel)(*tensors, bilinear=bilinear, device=device.index, stream=stream)
        return
    # Numba's OpenMP layer sets the number of threads for the whole process when it starts: torch would then split its sums
    # otherwise than before, and a resumed run would not end with the same bits.
    threads = torch.get_num_threads()
    getattr(cpu, kernel)(*(tensor.numpy() for tensor in tensors), bilinear=bilinear, threads=threads)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _check_inputs(
    boxes: Tensor, layers: Tensor, scores: Tensor, masks: Tensor, image_index: Tensor, shape: tuple[int, int, int, int]
) -> None:
    if min(shape) < 1:
        raise ValueError(f"batch, num_layers, height and width must be positive, got {tuple(shape)}")
    if max(shape[2:]) > LARGEST_SIDE:
        raise ValueError(f"height and width must be at most {LARGEST_SIDE}, got {tuple(shape[2:])}")
    if masks.ndim != 3 or masks.shape[1] < 1 or masks.shape[2] < 1:
        raise ValueError(f"masks must be [N, h, w] with h and w at least 1, got {tuple(masks.shape)}")
    if _surely(masks.numel() > LARGEST_CELL_COUNT):
        raise ValueError(f"masks must have at most {LARGEST_CELL_COUNT} cells, got {tuple(masks.shape)}")
    count, device = masks.shape[0], masks.device
    if boxes.shape != (count, 4):
        _refuse("boxes", boxes, masks, [count, 4])
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"the projection runs on cpu and cuda, got {device}")
    for name, tensor in (("layers", layers), ("scores", scores), ("image_index", image_index)):
        if tensor.shape != (count,):
            _refuse(name, tensor, masks, [count])
    for name, tensor in (("boxes", boxes), ("layers", layers), ("scores", scores), ("image_index", image_index)):
        if tensor.device != device:
            raise ValueError(f"{name} must be on the masks' device {device}, got {tensor.device}")
    if masks.dtype not in (torch.float32, torch.float64) or scores.dtype != masks.dtype:
        raise ValueError(f"scores and masks must share a floating dtype, got {scores.dtype} and {masks.dtype}")
    if boxes.dtype != torch.float32 and boxes.dtype != torch.float64:
        raise ValueError(f"boxes must be float32 or float64, got {boxes.dtype}")
    for name, tensor in (("layers", layers), ("image_index", image_index)):
        if tensor.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, got {tensor.dtype}")


def _surely(condition: Any) -> bool:
    """Whether a condition holds; of a number that the compiler cannot know (of detections, say) it is taken not to."""
    if isinstance(condition, bool):
        return condition
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return bool(guard_or_false(condition))


def _refuse(name: str, tensor: Tensor, masks: Tensor, wanted: list[Any]) -> NoReturn:
    raise ValueError(f"{name} must be {wanted} for masks {list(masks.shape)}, got {list(tensor.shape)}")


def _check_values(layers: Tensor, image_index: Tensor, num_layers: int, batch: int) -> None:
    for name, tensor, limit in (("layers", layers, num_layers), ("image_index", image_index, batch)):
        if tensor.numel() == 0:
            continue
        lowest, highest = (int(value) for value in torch.aminmax(tensor))
        if lowest < 0 or highest >= limit:
            raise ValueError(f"{name} must be within 0..{limit - 1}, got {lowest if lowest < 0 else highest}")
