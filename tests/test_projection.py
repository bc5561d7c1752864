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
from imp_kernels.reference import project_masks_reference

from imptool.projection import project_masks


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


def reference(inputs: dict[str, Any]) -> torch.Tensor:
    arrays = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    return torch.from_numpy(project_masks_reference(**arrays)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_canvas_equals_the_reference_with_and_without_gradient(dtype: torch.dtype, with_gradient: bool) -> None:
    inputs = instances(dtype=dtype)
    expected = reference(inputs)
    inputs["masks"].requires_grad_(with_gradient)
    canvas = project_masks(**inputs)
    assert canvas.dtype == dtype
    assert canvas.requires_grad == with_gradient
    assert expected.any()
    assert torch.equal(canvas.detach(), expected)


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


def test_gradients_agree_with_finite_differences() -> None:
    inputs = instances(dtype=torch.float64)
    # Distinct values, further apart than the step of the differences: away from ties.
    values = torch.linspace(0.1, 0.9, inputs["masks"].numel(), dtype=torch.float64)
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(1))
    masks = values[order].reshape(inputs["masks"].shape).requires_grad_()
    scores = inputs["scores"].add(0.5).requires_grad_()

    def project(masks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return project_masks(**(inputs | {"masks": masks, "scores": scores}))

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
    arguments = (i["boxes"], i["layers"], i["scores"], i["masks"], i["image_index"], 3, 10, 12, 2)
    assert operator(*arguments, False, False)[1].numel() == 0
    assert operator(*arguments, True, False)[1].shape == (2, 3, 10, 12)
    i["masks"].requires_grad_()
    with torch.no_grad():
        assert not project_masks(**i).requires_grad


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("count", [0, 5])
def test_the_operator_keeps_the_rules_of_pytorch(count: int) -> None:
    i = instances(count=count)
    masks, scores = i["masks"].requires_grad_(), i["scores"].requires_grad_()
    arguments = (i["boxes"], i["layers"], scores, masks, i["image_index"], 3, 10, 12, 2, True, False)
    torch.library.opcheck(torch.ops.imptool.project_masks.default, arguments)


def test_it_compiles_into_one_graph() -> None:
    inputs = instances()
    compiled = torch.compile(lambda **tensors: project_masks(**tensors) * 2, fullgraph=True, backend="aot_eager")
    gradients = []
    for function in (lambda **tensors: project_masks(**tensors) * 2, compiled):
        masks = inputs["masks"].clone().requires_grad_()
        canvas = function(**(inputs | {"masks": masks}))
        canvas.square().sum().backward()
        gradients.append((canvas.detach(), masks.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_autocast_computes_in_float32_whatever_half_types_come_in() -> None:
    inputs = instances(dtype=torch.bfloat16)
    expected = reference(inputs | {"masks": inputs["masks"].float(), "scores": inputs["scores"].float()})
    inputs["scores"] = inputs["scores"].float()  # as softmax gives them under autocast
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
        ({"size": (0, 5)}, r"height and width must be positive, got \(2, 3, 0, 5\)"),
        ({"batch": 0}, r"batch.*must be positive, got \(0, 3, 10, 12\)"),
    ],
)
def test_a_wrong_input_is_refused_with_the_rule_and_what_was_found(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project_masks(**(instances() | change))


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
from imptool.projection import project_masks
one = torch.ones(1)
where = one.long() * 0
project_masks(torch.tensor([[0.0, 0, 4, 4]]), where, one, torch.ones(1, 2, 2), where, num_layers=1, size=(4, 4), batch=1)
print(torch.get_num_threads())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1"]
