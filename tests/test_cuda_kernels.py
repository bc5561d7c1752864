"""The CUDA kernels without a GPU: run under Numba's simulator against the reference, and compiled to PTX.

Each in a process of its own: the simulator is chosen when Numba is imported, and the compiler needs it switched off.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from imp_kernels.reference import project_masks_backward_reference, project_masks_reference

COMPUTE_CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0)]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")


@pytest.mark.parametrize(
    ("check", "simulator"),
    [
        ("simulated_kernels_equal_the_reference", "1"),
        ("kernels_compile_for_each_gpu_without_fused_arithmetic", "0"),
    ],
)
def test_cuda(check: str, simulator: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import test_cuda_kernels; test_cuda_kernels.{check}()"],
        cwd=Path(__file__).parent,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": simulator},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def simulated_kernels_equal_the_reference() -> None:
    from imp_kernels import cuda

    # Each simulated thread is a Python thread, and all compete for one lock with the loop that waits for them.
    cuda.THREADS_PER_BLOCK, cuda.LEAST_BLOCKS = 32, 1
    sys.setswitchinterval(1e-5)
    for seed, dtype in enumerate([np.float32, np.float32, np.float32, np.float64]):
        inputs = tying_instances(seed, dtype)
        canvas, winners = project_masks_reference(**inputs)
        assert (winners >= 0).any()
        check_forward(inputs, canvas, winners)
        check_backward(inputs, winners, seed)
    none = {name: value[:0] if isinstance(value, np.ndarray) else value for name, value in inputs.items()}
    check_forward(none, np.zeros_like(canvas), np.full_like(winners, -1))


def tying_instances(seed: int, dtype: type) -> dict[str, Any]:
    """Boxes of every size, some broken or outside; values that often tie; layers and images also out of range."""
    rng = np.random.default_rng(seed)
    count = 12
    corner = rng.uniform(-3, 8, (count, 2))
    sides = rng.uniform(-0.5, 9, (count, 2)) * rng.choice([0.1, 1, 1], (count, 1))
    boxes = np.concatenate([corner, corner + sides], axis=1)
    boxes[-1, 2] = np.nan
    return {
        "boxes": boxes.astype(np.float32),
        "layers": rng.choice([0, 0, 0, 0, 1, 1, 2, -1], count),
        "scores": rng.choice([0.3, 0.5, 1], count).astype(dtype),
        "masks": rng.choice([np.nan, -1, 0, 0.3, 0.5, 0.7], (count, 4, 5)).astype(dtype),
        "image_index": rng.choice([0, 0, 0, 0, 1, 1, 2, -1], count),
        "num_layers": 2,
        "size": (9, 11),
        "batch": 2,
    }


def check_forward(inputs: dict[str, Any], canvas: np.ndarray, winners: np.ndarray) -> None:
    from imp_kernels import cuda

    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    found, found_winners, alone = np.zeros_like(canvas), np.full_like(winners, -1), np.zeros_like(canvas)
    cuda.project_masks(*arrays, found, found_winners)
    cuda.project_masks(*arrays, alone, None)
    np.testing.assert_array_equal(found, canvas, strict=True)
    np.testing.assert_array_equal(alone, canvas, strict=True)
    np.testing.assert_array_equal(found_winners, winners, strict=True)


def check_backward(inputs: dict[str, Any], winners: np.ndarray, seed: int) -> None:
    from imp_kernels import cuda

    scores, masks = inputs["scores"], inputs["masks"]
    grad_canvas = np.random.default_rng(seed).standard_normal(winners.shape).astype(masks.dtype)
    d_scores, d_masks, products = np.full_like(scores, 7), np.full_like(masks, 7), np.full(masks.shape, 7.0)
    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    cuda.project_masks_backward(*arrays, winners, grad_canvas, d_scores, d_masks, products)
    expected_scores, expected_masks = project_masks_backward_reference(scores, masks, winners, grad_canvas)
    np.testing.assert_array_equal(d_scores, expected_scores, strict=True)
    np.testing.assert_array_equal(d_masks, expected_masks, strict=True)


def kernels_compile_for_each_gpu_without_fused_arithmetic() -> None:
    """A fused multiply-add would move a cell's edge or round a gradient otherwise than the CPU does."""
    import numba.cuda.dispatcher
    from imp_kernels import cuda
    from numba import cuda as numba_cuda

    for cc in COMPUTE_CAPABILITIES:
        # With device functions the compiler asks a GPU, that need not be there, what it is.
        numba.cuda.dispatcher.get_current_device = lambda cc=cc: SimpleNamespace(compute_capability=cc)
        for kernel, signature in signatures("float32" if cc != (8, 0) else "float64"):
            ptx, _ = numba_cuda.compile_ptx(getattr(cuda, kernel).py_func, signature, cc=cc)
            assert f".target sm_{cc[0]}{cc[1]}" in ptx
            assert not re.search(r"\bfma\.", ptx), f"{kernel} is compiled to fused arithmetic for {cc}"


def signatures(dtype: str) -> list[tuple[str, Any]]:
    from numba import float32, float64, int32, int64, uint32, void

    real = {"float32": float32, "float64": float64}[dtype]
    inputs = (float32[:, ::1], int64[::1], real[::1], real[:, :, ::1], int64[::1])
    canvas, winners = real[:, :, :, ::1], int32[:, :, :, ::1]
    return [
        ("raise_canvas", void(*inputs, canvas)),
        ("find_winners", void(*inputs, canvas, uint32[:, :, :, ::1])),
        ("cell_gradients", void(*inputs, winners, canvas, real[:, :, ::1], float64[:, :, ::1])),
        ("score_gradients", void(float64[:, :, ::1], real[::1])),
    ]
