"""The CUDA kernels without a GPU: run under Numba's simulator against the reference, and compiled to PTX.

Each in a process of its own: the simulator is chosen when Numba is imported, and the compiler needs it switched off.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imp_kernels.reference import project_masks_backward_reference, project_masks_reference
from test_kernels import instances

MOST_REGISTERS = 100  # 128 threads a block: at least 5 blocks on each multiprocessor
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
    from imp_kernels import launch
    from numba.cuda.simulator import kernelapi

    # Each simulated thread is a Python thread, and all compete for one lock with the loop that waits for them.
    launch.THREADS_PER_BLOCK, launch.LEAST_BLOCKS = 32, 6  # at times more blocks than tiles
    sys.setswitchinterval(1e-5)
    kernelapi.FakeCUDAShared.array = one_array_for_all_threads
    from imp_kernels import cuda

    cuda.GROUP, cuda.SCAN = 3, 4  # so that a tile needs several of each

    for seed, dtype in enumerate([np.float32, np.float64]):
        for bilinear in (False, True):
            check(tying_instances(seed, dtype), bilinear)
            check(a_box_whose_last_edge_is_rounded_beyond_it(dtype), bilinear)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(inputs=instances(), bilinear=st.booleans())
    def check_any(inputs: dict[str, Any], bilinear: bool) -> None:
        check(inputs, bilinear)

    check_any()


_allocating = threading.Lock()


def one_array_for_all_threads(self: Any, shape: Any, dtype: Any, alignment: Any = None) -> np.ndarray:
    """Shared memory as the simulator gives it, by the line that asks for it, but never two arrays to two threads at once."""
    frame = sys._getframe(1)
    key = (frame.f_code.co_filename, frame.f_lineno)
    with _allocating:
        if key not in self._allocations:
            self._allocations[key] = np.empty(shape, dtype)
        return self._allocations[key]


def check(inputs: dict[str, Any], bilinear: bool) -> None:
    canvas, winners = project_masks_reference(**inputs, bilinear=bilinear)
    check_forward(inputs, canvas, winners, bilinear)
    check_backward(inputs, canvas, winners, bilinear)


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


def a_box_whose_last_edge_is_rounded_beyond_it(dtype: type) -> dict[str, Any]:
    """Its right edge is 47, but -4e17 + (47 + 4e17) is 64: more than a tile further."""
    return {
        "boxes": np.array([[-4e17, 0, 47, 2]]),
        "layers": np.zeros(1, np.int64),
        "scores": np.ones(1, dtype),
        "masks": np.full((1, 2, 2), 0.5, dtype),
        "image_index": np.zeros(1, np.int64),
        "num_layers": 1,
        "size": (2, 70),
        "batch": 1,
    }


def check_forward(inputs: dict[str, Any], canvas: np.ndarray, winners: np.ndarray, bilinear: bool) -> None:
    from imp_kernels import cuda

    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    nothing = np.empty(0, np.int32)
    found, found_winners, alone = np.full_like(canvas, 7), np.full_like(winners, 7), np.full_like(canvas, 7)
    cuda.project_masks(*arrays, found, found_winners, bilinear=bilinear)
    cuda.project_masks(*arrays, alone, nothing, bilinear=bilinear)
    np.testing.assert_array_equal(found, canvas, strict=True)
    np.testing.assert_array_equal(alone, canvas, strict=True)
    np.testing.assert_array_equal(np.where(canvas > 0, found_winners, -1), winners)
    if not bilinear:
        published, published_winners = np.zeros_like(canvas), np.full_like(winners, -1)
        cuda.project_masks_as_published(*arrays, published, published_winners)
        np.testing.assert_array_equal(published, canvas, strict=True)
        np.testing.assert_array_equal(published_winners, winners, strict=True)


def check_backward(inputs: dict[str, Any], canvas: np.ndarray, winners: np.ndarray, bilinear: bool) -> None:
    from imp_kernels import cuda

    boxes, scores, masks = inputs["boxes"], inputs["scores"], inputs["masks"]
    grad_canvas = np.random.default_rng(0).standard_normal(winners.shape).astype(masks.dtype)
    d_scores, d_masks, products = np.full_like(scores, 7), np.full_like(masks, 7), np.full(masks.shape, 7.0)
    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    written = np.where(canvas > 0, winners, 0)  # what stands where nothing was written must not matter
    cuda.project_masks_backward(*arrays, canvas, written, grad_canvas, d_scores, d_masks, products, bilinear=bilinear)
    expected_scores, expected_masks = project_masks_backward_reference(
        boxes, scores, masks, winners, grad_canvas, bilinear=bilinear
    )
    np.testing.assert_array_equal(d_scores, expected_scores, strict=True)
    np.testing.assert_array_equal(d_masks, expected_masks, strict=True)


def kernels_compile_for_each_gpu_without_fused_arithmetic() -> None:
    """A fused multiply-add would move a cell's edge or round a gradient otherwise than the CPU does."""
    import numba.cuda.dispatcher
    from imp_kernels import cuda, launch

    for cc in COMPUTE_CAPABILITIES:
        # With device functions the compiler asks a GPU, that need not be there, what it is.
        numba.cuda.dispatcher.get_current_device = lambda cc=cc: SimpleNamespace(compute_capability=cc)
        for name in cuda.KERNELS:
            double = cc == (8, 0)
            compiled = launch.compile_cubin(*cuda.kernel_source(name, double, double), cc)
            assert f".target sm_{cc[0]}{cc[1]}" in compiled.ptx
            assert not re.search(r"\bfma\.", compiled.ptx), f"{name} is compiled to fused arithmetic for {cc}"
            if name == "cell_gradients":
                addresses = re.search(r"mul\.wide\.s32\s+%rd\d+, %r\d+, [48];", compiled.ptx)
                assert not addresses, "a canvas may have more pixels than 32 bits count"
            assert compiled.cubin.startswith(b"\x7fELF")
            resources = launch.resources(compiled.log)
            assert resources.registers <= MOST_REGISTERS, f"{name} for {cc}: {resources}"
            assert resources.local_bytes == 0, f"{name} for {cc}: {resources}"
