"""The projection operator in PyTorch: dtypes, gradients, the compiler, autocast, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from imp_kernels.reference import project_masks_backward_reference, project_masks_reference

from imptool.projection import SAMPLINGS, InstanceMaskProjection, project_masks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Hundreds of tiny calls: on a busy machine two threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def instances(count: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 8
    return {
        "boxes": torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 8], dim=1),
        "layers": torch.randint(0, 3, (count,), generator=generator),
        "scores": torch.rand(count, generator=generator).to(dtype),
        "masks": torch.rand(count, 4, 5, generator=generator).to(dtype),
        "image_index": torch.randint(0, 2, (count,), generator=generator),
        "num_layers": 3,
        "size": (10, 12),
        "batch": 2,
    }


def reference(inputs: dict[str, Any], sampling: str = "cells") -> torch.Tensor:
    arrays = {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }
    return torch.from_numpy(project_masks_reference(**arrays, bilinear=sampling == "bilinear")[0])


def as_operator(inputs: dict[str, Any], sampling: str = "cells") -> torch.Tensor:
    """The operator as the compiler calls it, through PyTorch's dispatcher."""
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
    numbers = (inputs["num_layers"], *inputs["size"], inputs["batch"])
    return torch.ops.imptool.project_masks(*tensors, *numbers, sampling == "bilinear", True, False)[0]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_canvas_equals_the_reference_with_and_without_gradient(
    dtype: torch.dtype, with_gradient: bool, sampling: str
) -> None:
    inputs = instances(dtype=dtype)
    expected = reference(inputs, sampling)
    inputs["masks"].requires_grad_(with_gradient)
    canvas = project_masks(**inputs, sampling=sampling)
    assert canvas.dtype == dtype
    assert canvas.requires_grad == with_gradient
    assert expected.any()
    assert torch.equal(canvas.detach(), expected)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("threads", [1, 2])
def test_crowded_canvases_and_their_gradients_equal_the_reference(sampling: str, threads: int) -> None:
    torch.set_num_threads(threads)
    for seed in range(40):
        inputs = instances(count=25, seed=seed, dtype=torch.float64 if seed % 3 else torch.float32)
        inputs["masks"] = (inputs["masks"] * 8).round() / 8  # many ties
        inputs["masks"][seed % 25] = float("nan")
        arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        bilinear = sampling == "bilinear"
        expected, winners = project_masks_reference(**arrays, bilinear=bilinear)
        assert len(np.unique(winners)) > 10
        masks, scores = inputs["masks"].clone().requires_grad_(), inputs["scores"].clone().requires_grad_()
        canvas = project_masks(**(inputs | {"masks": masks, "scores": scores}), sampling=sampling)
        np.testing.assert_array_equal(canvas.detach().numpy(), expected)
        grad = torch.randn(canvas.shape, dtype=canvas.dtype, generator=torch.Generator().manual_seed(seed))
        canvas.backward(grad)
        d_scores, d_masks = project_masks_backward_reference(
            arrays["boxes"], arrays["scores"], arrays["masks"], winners, grad.numpy(), bilinear=bilinear
        )
        np.testing.assert_array_equal(masks.grad.numpy(), d_masks)
        np.testing.assert_array_equal(scores.grad.numpy(), d_scores)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_direct_way_and_the_dispatcher_give_equal_bits(sampling: str) -> None:
    inputs = instances()
    results = []
    for project in (as_operator, lambda inputs, sampling: project_masks(**inputs, sampling=sampling)):
        masks, scores = inputs["masks"].clone().requires_grad_(), inputs["scores"].clone().requires_grad_()
        canvas = project(inputs | {"masks": masks, "scores": scores}, sampling)
        canvas.square().sum().backward()
        results.append((canvas.detach(), masks.grad, scores.grad))
    for found, expected in zip(*results, strict=True):
        assert found.any()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_module_does_what_the_function_does(sampling: str) -> None:
    inputs = instances()
    module = InstanceMaskProjection(3, sampling)
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
    assert torch.equal(module(*tensors, size=inputs["size"], batch=2), project_masks(**inputs, sampling=sampling))
    assert not module.state_dict()
    assert repr(module) == f"InstanceMaskProjection(num_layers=3, sampling='{sampling}')"
    with pytest.raises(ValueError, match="num_layers >= 1"):
        InstanceMaskProjection(0)


def test_inference_mode_gives_the_same_canvas() -> None:
    inputs = instances()
    with torch.inference_mode():
        canvas = project_masks(**inputs)
    assert canvas.is_inference()
    assert torch.equal(canvas, reference(inputs))


def test_strided_inputs_and_gradients_are_read_right() -> None:
    inputs = instances()
    expected = reference(inputs)
    wide = inputs | {
        "boxes": torch.empty(6, 8)[:, ::2].copy_(inputs["boxes"]),
        "masks": inputs["masks"].mT.contiguous().mT.requires_grad_(),
        "scores": inputs["scores"].repeat_interleave(2)[::2],
    }
    canvas = project_masks(**wide)
    assert torch.equal(canvas.detach(), expected)
    (expanded,) = torch.autograd.grad(canvas.sum(), wide["masks"], retain_graph=True)
    (dense,) = torch.autograd.grad(canvas, wide["masks"], torch.ones_like(canvas))
    assert torch.equal(expanded, dense)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    half = instances(dtype=dtype)
    single = half | {"masks": half["masks"].float(), "scores": half["scores"].float()}
    for inputs in (half, single):
        inputs["masks"].requires_grad_()
        inputs["scores"].requires_grad_()
    canvas, expected = project_masks(**half), project_masks(**single)
    assert torch.equal(canvas, expected.to(dtype))
    canvas.backward(torch.full_like(canvas, 0.5))
    expected.backward(torch.full_like(expected, 0.5))
    for name in ("masks", "scores"):
        assert half[name].grad.dtype == dtype
        assert torch.equal(half[name].grad, single[name].grad.to(dtype))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gradients_agree_with_finite_differences(sampling: str) -> None:
    inputs = instances(dtype=torch.float64)
    # Distinct values, further apart than the step of the differences: away from ties.
    values = torch.linspace(0.1, 0.9, inputs["masks"].numel(), dtype=torch.float64)
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(1))
    masks = values[order].reshape(inputs["masks"].shape).requires_grad_()
    scores = inputs["scores"].add(0.5).requires_grad_()

    def project(masks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return project_masks(**(inputs | {"masks": masks, "scores": scores}), sampling=sampling)

    assert torch.autograd.gradcheck(project, (masks, scores), eps=1e-7)


def test_boxes_get_no_gradient() -> None:
    inputs = instances()
    inputs["boxes"].requires_grad_()
    assert not project_masks(**inputs).requires_grad
    inputs["masks"].requires_grad_()
    project_masks(**inputs).sum().backward()
    assert inputs["boxes"].grad is None


def test_no_instance_gives_a_zero_canvas_and_an_empty_gradient() -> None:
    inputs = instances(count=0)
    inputs["masks"].requires_grad_()
    canvas = project_masks(**inputs)
    canvas.sum().backward()
    assert canvas.shape == (2, 3, 10, 12)
    assert not canvas.any()
    assert inputs["masks"].grad.shape == (0, 4, 5)


def test_the_winning_cells_are_computed_only_for_a_gradient() -> None:
    operator = torch.ops.imptool.project_masks.default
    i = instances()
    arguments = (i["boxes"], i["layers"], i["scores"], i["masks"], i["image_index"], 3, 10, 12, 2, False)
    assert operator(*arguments, False, False)[1].numel() == 0
    assert operator(*arguments, True, False)[1].shape == (2, 3, 10, 12)
    i["masks"].requires_grad_()
    with torch.no_grad():
        assert not project_masks(**i).requires_grad


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("count", [0, 5])
def test_the_operator_keeps_the_rules_of_pytorch(count: int, bilinear: bool) -> None:
    i = instances(count=count)
    masks, scores = i["masks"].requires_grad_(), i["scores"].requires_grad_()
    arguments = (i["boxes"], i["layers"], scores, masks, i["image_index"], 3, 10, 12, 2, bilinear, True, False)
    torch.library.opcheck(torch.ops.imptool.project_masks.default, arguments)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_it_compiles_into_one_graph_for_any_number_of_instances(sampling: str) -> None:
    def project(inputs: dict[str, Any]) -> torch.Tensor:
        return project_masks(**inputs, sampling=sampling) * 2

    compiled = torch.compile(project, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (6, 9, 0, 13):
        results = []
        for function in (project, compiled):
            inputs = instances(count=count)
            masks = inputs["masks"].requires_grad_()
            canvas = function(inputs)
            canvas.square().sum().backward()
            results.append((canvas.detach(), masks.grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch.func's own
def test_vmap_and_forward_derivatives_and_second_ones_are_refused() -> None:
    inputs = instances()
    with pytest.raises(NotImplementedError, match="no vmap: give all images in one call"):
        torch.vmap(lambda scores: project_masks(**(inputs | {"scores": scores})))(torch.rand(3, 6))
    with pytest.raises(NotImplementedError, match=r"use torch\.autograd\.grad"):
        torch.func.grad(lambda scores: project_masks(**(inputs | {"scores": scores})).sum())(inputs["scores"])
    scores = inputs["scores"].requires_grad_()
    with pytest.raises(NotImplementedError, match="no forward derivative"):
        torch.func.jvp(lambda scores: project_masks(**(inputs | {"scores": scores})), (scores,), (scores,))
    (gradient,) = torch.autograd.grad(project_masks(**inputs).square().sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_autocast_computes_in_float32_whatever_half_types_come_in() -> None:
    inputs = instances(dtype=torch.bfloat16)
    boxes = inputs["boxes"].bfloat16()  # as torchvision's detector gives them there
    inputs["boxes"] = boxes.float()
    expected = reference(inputs | {"masks": inputs["masks"].float(), "scores": inputs["scores"].float()})
    inputs["scores"] = inputs["scores"].float()  # as softmax gives them under autocast
    inputs["boxes"] = boxes
    masks = inputs["masks"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        canvas = project_masks(**inputs)
    assert canvas.dtype == torch.float32
    assert torch.equal(canvas.detach(), expected)
    canvas.sum().backward()
    assert masks.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": torch.tensor([0, 1, 2, 3, 0, 0])}, r"layers must be within 0\.\.2, got 3"),
        ({"layers": torch.tensor([0, 1, 2, -1, 0, 0])}, r"layers must be within 0\.\.2, got -1"),
        ({"image_index": torch.tensor([0, 1, 2, 0, 0, 0])}, r"image_index must be within 0\.\.1, got 2"),
        ({"masks": torch.rand(6, 1, 4, 5)}, r"masks must be \[N, h, w\].*got \(6, 1, 4, 5\)"),
        ({"masks": torch.rand(6, 0, 5)}, r"masks must be \[N, h, w\].*got \(6, 0, 5\)"),
        ({"masks": torch.ones(6, 4, 5, dtype=torch.int64)}, "floating dtype.*torch.int64"),
        ({"scores": torch.rand(5)}, r"scores must be \[6\] for masks \[6, 4, 5\], got \[5\]"),
        ({"scores": torch.rand(6).double()}, "share a floating dtype, got torch.float64 and torch.float32"),
        ({"boxes": torch.rand(6, 5)}, r"boxes must be \[6, 4\] for masks \[6, 4, 5\], got \[6, 5\]"),
        ({"boxes": torch.rand(6, 4).half()}, "boxes must be float32 or float64, got torch.float16"),
        ({"boxes": torch.rand(6, 4, device="meta")}, "boxes must be on the masks' device cpu, got meta"),
        ({"layers": torch.zeros(6, dtype=torch.int32)}, "layers must be int64, got torch.int32"),
        ({"image_index": torch.zeros(6)}, "image_index must be int64, got torch.float32"),
        ({"masks": torch.rand(6, 4, 5).half()}, "share a floating dtype, got torch.float32 and torch.float16"),
        ({"size": (3, 10, 12)}, "too many values to unpack"),
        ({"size": (2**31, 1)}, "height and width must be at most 2147483646"),
        ({"size": (0, 5)}, r"height and width must be positive, got \(2, 3, 0, 5\)"),
        ({"batch": 0}, r"batch.*must be positive, got \(0, 3, 10, 12\)"),
        ({"sampling": "nearest"}, "sampling must be one of cells, bilinear, got 'nearest'"),
        ({"masks": torch.zeros(1).expand(6, 2**16, 2**16)}, "masks must have at most 2147483647 cells"),
    ],
)
def test_a_wrong_input_is_refused_with_the_rule_and_what_was_found(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project_masks(**(instances() | change))


def test_the_backward_operator_refuses_what_does_not_fit_its_canvas() -> None:
    i = instances()
    tensors = (i["boxes"], i["layers"], i["scores"], i["masks"], i["image_index"])
    canvas, winners = torch.ops.imptool.project_masks(*tensors, 3, 10, 12, 2, False, True, False)
    backward = torch.ops.imptool.project_masks_backward
    with pytest.raises(ValueError, match=r"alike, got \[2, 3, 10, 12\], \[2, 3, 10, 12\], \[0\]"):
        backward(canvas, *tensors, canvas, winners[:0, 0, 0, 0], False)
    with pytest.raises(ValueError, match=r"must be torch\.float32"):
        backward(canvas.double(), *tensors, canvas, winners, False)


def test_a_changed_canvas_is_noticed_before_a_wrong_gradient() -> None:
    inputs = instances()
    inputs["masks"].requires_grad_()
    canvas = project_masks(**inputs)
    loss = canvas.sum()
    canvas.detach().mul_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_checkpointing_and_negated_views_give_the_plain_gradient() -> None:
    def loss(masks: torch.Tensor) -> torch.Tensor:
        return project_masks(**(instances() | {"masks": masks})).square().sum()

    plain, recomputed = (instances()["masks"].requires_grad_() for _ in range(2))
    loss(plain).backward()
    torch.utils.checkpoint.checkpoint(loss, recomputed, use_reentrant=False).backward()
    assert plain.grad is not None
    assert torch.equal(plain.grad, recomputed.grad)
    negative = torch.complex(torch.zeros(6, 4, 5), -instances()["masks"]).conj().imag  # a view whose sign is turned when read
    assert negative.is_neg()
    assert torch.equal(loss(negative), loss(plain.detach()))


def test_a_number_of_instances_that_the_compiler_cannot_know_compiles() -> None:
    inputs = instances()

    def project(keep: torch.Tensor) -> torch.Tensor:
        chosen = torch.nonzero(keep)[:, 0]
        tensors = {name: value[chosen] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        return project_masks(**tensors)

    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for keep in (torch.tensor([1, 1, 0, 1, 0, 1]), torch.zeros(6), torch.ones(6)):
            assert torch.equal(compiled(keep), project(keep))


def test_two_runs_give_equal_bits_on_any_number_of_threads() -> None:
    inputs = instances(count=60, seed=3)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        masks = inputs["masks"].clone().requires_grad_()
        canvas = project_masks(**(inputs | {"masks": masks}))
        canvas.backward(torch.linspace(-1, 1, canvas.numel()).reshape(canvas.shape))
        results.append((canvas.detach().numpy(), masks.grad.numpy()))
    for canvas, gradient in results[1:]:
        np.testing.assert_array_equal(canvas, results[0][0])
        np.testing.assert_array_equal(gradient, results[0][1])


def test_first_call_leaves_the_number_of_threads_of_torch_alone() -> None:
    script = """
import torch
from imptool.projection import SAMPLINGS, InstanceMaskProjection, project_masks
one = torch.ones(1)
where = one.long() * 0
project_masks(torch.tensor([[0.0, 0, 4, 4]]), where, one, torch.ones(1, 2, 2), where, num_layers=1, size=(4, 4), batch=1)
print(torch.get_num_threads())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "4"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["2"]


def test_a_forked_process_projects_after_its_parent_did() -> None:
    """OpenMP's threads do not survive a fork: a child that used them would be killed, as a DataLoader's worker."""
    script = """
import os, sys, torch
from imptool.projection import project_masks
torch.set_num_threads(2)
where = torch.zeros(9, dtype=torch.int64)
boxes = torch.tensor([[0.0, 0, 90, 90]]).repeat(9, 1)
masks = torch.rand(9, 5, 5).requires_grad_()
def project():
    masks.grad = None
    canvas = project_masks(boxes, where, torch.ones(9), masks, where, num_layers=1, size=(99, 99), batch=1)
    canvas.sum().backward()
    return canvas.detach(), masks.grad
expected = project()
child = os.fork()
if not child:
    torch.set_num_threads(2)
    os._exit(0 if all(torch.equal(a, b) for a, b in zip(project(), expected)) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp"}
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_gpu_gives_the_bits_of_the_cpu_without_waiting(sampling: str) -> None:
    inputs = instances(count=300, seed=2)
    results = []
    for device in ("cpu", "cuda"):
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        masks, scores = moved["masks"].clone().requires_grad_(), moved["scores"].clone().requires_grad_()
        torch.cuda.set_sync_debug_mode("error")
        canvas = project_masks(**(moved | {"masks": masks, "scores": scores}), sampling=sampling)
        canvas.backward(torch.ones_like(canvas))
        torch.cuda.set_sync_debug_mode("default")
        results.append((canvas.detach().cpu(), masks.grad.cpu(), scores.grad.cpu()))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@needs_gpu
def test_a_captured_graph_replays_with_new_boxes() -> None:
    inputs = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in instances().items()}
    project_masks(**inputs)  # compiles and loads
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        canvas = project_masks(**inputs)
    inputs["boxes"].add_(0.75)
    graph.replay()
    assert torch.equal(canvas.cpu(), reference(inputs))


@needs_gpu
def test_on_a_gpu_values_out_of_range_raise_on_request_and_else_write_nothing() -> None:
    inputs = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in instances().items()}
    inputs["layers"][:] = 3
    assert not project_masks(**inputs).any()
    with pytest.raises(ValueError, match=r"layers must be within 0\.\.2, got 3"):
        project_masks(**inputs, check_values=True)
