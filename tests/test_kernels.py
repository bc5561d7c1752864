"""The projection on plain arrays: reference and CPU kernels against canvases written by hand and each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imp_kernels import cpu
from imp_kernels.reference import project_masks_backward_reference, project_masks_reference

NAN = float("nan")
Projected = tuple[np.ndarray, np.ndarray]


def project_on_cpu(
    boxes: np.ndarray,
    layers: np.ndarray,
    scores: np.ndarray,
    masks: np.ndarray,
    image_index: np.ndarray,
    *,
    num_layers: int,
    size: tuple[int, int],
    batch: int,
) -> Projected:
    canvas = np.full((batch, num_layers, *size), 7, masks.dtype)  # what was there before must not matter
    winners = np.full(canvas.shape, 7, np.int32)
    cpu.project_masks(boxes, layers, scores, masks, image_index, canvas, winners, threads=1)
    return canvas, winners


PROJECTIONS = {"reference": project_masks_reference, "cpu": project_on_cpu}


@pytest.fixture(params=PROJECTIONS)
def project(request: pytest.FixtureRequest) -> Any:
    """One image and one layer: boxes and masks in, canvas [H, W] and winners [H, W] out."""

    def run(boxes: list, masks: list, size: tuple[int, int], scores: list | None = None) -> Projected:
        count = len(boxes)
        canvas, winners = PROJECTIONS[request.param](
            np.array(boxes, np.float32).reshape(count, 4),
            np.zeros(count, np.int64),
            np.array(scores or [1] * count, np.float32),
            np.array(masks, np.float32),
            np.zeros(count, np.int64),
            num_layers=1,
            size=size,
            batch=1,
        )
        return canvas[0, 0], winners[0, 0]

    return run


QUADRANTS = [[0.1, 0.2], [0.3, 0.4]]


def test_a_large_box_is_upsampled_to_the_nearest_cell(project: Any) -> None:
    canvas, winners = project([[1, 0, 5, 2]], [QUADRANTS], (3, 6))
    expected = np.array([[0, 0.1, 0.1, 0.2, 0.2, 0], [0, 0.3, 0.3, 0.4, 0.4, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(canvas, expected)
    np.testing.assert_array_equal(winners, [[-1, 0, 0, 1, 1, -1], [-1, 2, 2, 3, 3, -1], [-1] * 6])


def test_edges_are_rounded_half_up(project: Any) -> None:
    # Edges 0.5, 1.5, 2.5: the cells cover [1, 2) and [2, 3).
    canvas, _ = project([[0.5, 0, 2.5, 1]], [[[0.25, 0.5]]], (1, 4))
    assert canvas.tolist() == [[0, 0.25, 0.5, 0]]


def test_edges_are_computed_in_double_precision(project: Any) -> None:
    # The far edge is exactly 1.5. The width needs 26 bits: in single precision it shrinks to 1.5, and the edge to below 1.5.
    canvas, _ = project([[-(2.0**-25), 0, 1.5, 1]], [[[0.5]]], (1, 3))
    assert canvas.tolist() == [[0.5, 0.5, 0]]


def test_an_edge_is_multiplied_before_it_is_divided(project: Any) -> None:
    # The middle edge, (7 * 61) / 14, is exactly 30.5; 7 * (61 / 14) would be just below it, and one pixel less.
    canvas, _ = project([[0, 0, 61, 1]], [[[0.25] * 7 + [0.5] * 7]], (1, 61))
    assert canvas.tolist() == [[0.25] * 31 + [0.5] * 30]


def test_the_score_scales_the_mask(project: Any) -> None:
    canvas, _ = project([[0, 0, 1, 1]], [[[0.5]]], (1, 1), scores=[0.25])
    assert canvas.tolist() == [[0.125]]


def test_a_box_smaller_than_its_mask_is_max_pooled_without_losing_a_cell(project: Any) -> None:
    # Four cells on two pixels, edges 0, .5, 1, 1.5, 2. Rounded half up, cell 0 is [0, 1) and cell 2 is [1, 2); cells 1
    # ([1, 1)) and 3 ([2, 2)) are empty and go to the pixel of their middle, 0 and 1.
    canvas, winners = project([[0, 0, 2, 1]], [[[0.25, 0.75, 0.5, 0.125]]], (1, 3))
    assert canvas.tolist() == [[0.75, 0.5, 0]]
    assert winners.tolist() == [[1, 2, -1]]


def test_a_box_within_one_pixel_keeps_its_largest_cell(project: Any) -> None:
    canvas, winners = project([[2.1, 0.2, 2.4, 0.3]], [[[0.1, 0.2], [0.9, 0.3]]], (2, 4))
    assert canvas.tolist() == [[0, 0, np.float32(0.9), 0], [0] * 4]
    assert winners[0, 2] == 2


def test_a_box_half_outside_is_clipped_and_not_shifted(project: Any) -> None:
    canvas, _ = project([[-2, 0, 2, 2], [3, 1, 7, 3]], [QUADRANTS, QUADRANTS], (2, 5))
    expected = np.array([[0.2, 0.2, 0, 0, 0], [0.4, 0.4, 0, 0.1, 0.1]], np.float32)
    np.testing.assert_array_equal(canvas, expected)


@pytest.mark.parametrize(
    "box",
    [
        [1, 0, 1, 3],
        [0, 2, 3, 2],
        [2, 0, 1, 3],
        [NAN, 0, 2, 2],
        [0, 0, 2, NAN],
        [0, -np.inf, 2, 2],
        [0, 0, np.inf, 2],
        [9, 9, 12, 12],
        [-1e30, 0, -1e29, 3],
        [1e29, 0, 1e30, 3],
    ],
)
def test_an_empty_or_broken_or_far_box_covers_nothing(project: Any, box: list) -> None:
    canvas, winners = project([box], [QUADRANTS], (3, 3))
    assert not canvas.any()
    assert (winners == -1).all()


def test_a_huge_box_covers_the_whole_canvas(project: Any) -> None:
    canvas, _ = project([[-1e30, -1e30, 3e30, 3e30]], [[[0.5] * 4] * 4], (2, 3))
    assert (canvas == 0.5).all()


def test_the_larger_value_stays_whatever_the_order(project: Any) -> None:
    boxes = [[0, 0, 2, 1], [1, 0, 3, 1]]
    canvas, winners = project(boxes, [[[0.5]], [[0.75]]], (1, 3))
    assert canvas.tolist() == [[0.5, 0.75, 0.75]]
    assert winners.tolist() == [[0, 1, 1]]
    canvas, winners = project(boxes, [[[0.75]], [[0.5]]], (1, 3))
    assert canvas.tolist() == [[0.75, 0.75, 0.5]]
    assert winners.tolist() == [[0, 0, 1]]


def test_a_tie_goes_to_the_lowest_cell(project: Any) -> None:
    canvas, winners = project([[0, 0, 0.5, 0.5], [0, 0, 1, 1]], [[[0.25, 0.5], [0.5, 0.5]], [[0.5] * 2] * 2], (1, 1))
    assert canvas.tolist() == [[0.5]]
    assert winners.tolist() == [[1]]


def test_nan_and_values_up_to_zero_never_write(project: Any) -> None:
    canvas, winners = project(
        [[0, 0, 4, 1], [0, 0, 4, 1], [0, 0, 4, 1]],
        [[[NAN, -1, 0, 0.5]], [[1, 1, 1, 1]], [[-1, -1, -1, NAN]]],
        (1, 4),
        scores=[1, NAN, -0.25],
    )
    assert canvas.tolist() == [[0.25, 0.25, 0.25, 0.5]]  # -0.25 * -1 is a value like others
    assert winners.tolist() == [[8, 9, 10, 3]]


@pytest.mark.parametrize("projection", PROJECTIONS.values(), ids=PROJECTIONS)
def test_a_layer_or_an_image_out_of_range_writes_nothing(projection: Any) -> None:
    canvas, winners = projection(
        np.array([[0, 0, 2, 2]] * 5, np.float32),
        np.array([1, -1, 2, 0, 0]),
        np.ones(5, np.float32),
        np.ones((5, 2, 2), np.float32),
        np.array([1, 0, 0, -1, 2]),
        num_layers=2,
        size=(2, 2),
        batch=2,
    )
    assert canvas.sum(axis=(2, 3)).tolist() == [[0, 0], [0, 4]]
    assert winners[1, 1].tolist() == [[0, 1], [2, 3]]


def test_no_instance_gives_a_zero_canvas(project: Any) -> None:
    canvas, winners = project([], np.zeros((0, 2, 2)), (2, 3))
    assert canvas.tolist() == [[0] * 3] * 2
    assert winners.tolist() == [[-1] * 3] * 2


def random_inputs(seed: int, count: int, size: tuple[int, int], dtype: type) -> dict[str, Any]:
    """Instances of every kind: small, large, outside, empty; values that often tie, with negative ones and NaN."""
    rng = np.random.default_rng(seed)
    height, width = size
    center = rng.uniform(-0.1, 1.1, (count, 2)) * [width, height]
    half = rng.choice([0, 0.01, 0.1, 0.5, 1], (count, 1)) * rng.uniform(0, 1, (count, 2)) * [width, height]
    boxes = np.concatenate([center - half, center + half], axis=1)
    boxes = np.where(rng.random((count, 1)) < 0.5, np.round(boxes * 2) / 2, boxes)  # edges at .0 and .5
    boxes[rng.random((count, 4)) < 0.02] = NAN
    masks = rng.choice([NAN, -1, 0, 0.25, 0.5, 0.7, 1], (count, rng.integers(1, 6), rng.integers(1, 6)))
    return {
        "boxes": boxes.astype(rng.choice([np.float32, np.float64])),
        "layers": rng.integers(-1, 3, count),
        "scores": rng.choice([NAN, 0, 0.3, 0.5, 1], count, p=[0.05, 0.05, 0.3, 0.3, 0.3]).astype(dtype),
        "masks": masks.astype(dtype),
        "image_index": rng.integers(0, 3, count),
        "num_layers": 2,
        "size": size,
        "batch": 2,
    }


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 8),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_canvas_winners_and_gradients_equal_the_reference_bit_for_bit(
    seed: int, count: int, height: int, width: int, dtype: type
) -> None:
    inputs = random_inputs(seed, count, (height, width), dtype)
    canvas, winners = project_masks_reference(**inputs)
    cpu_canvas, cpu_winners = project_on_cpu(**inputs)
    np.testing.assert_array_equal(cpu_canvas, canvas, strict=True)
    np.testing.assert_array_equal(cpu_winners, winners, strict=True)

    grad_canvas = np.random.default_rng(seed).standard_normal(canvas.shape).astype(dtype)
    scores, masks = inputs["scores"], inputs["masks"]
    d_scores, d_masks = np.full_like(scores, 7), np.full_like(masks, 7)
    cpu.project_masks_backward(scores, masks, winners, grad_canvas, d_scores, d_masks, threads=1)
    expected_scores, expected_masks = project_masks_backward_reference(scores, masks, winners, grad_canvas)
    np.testing.assert_array_equal(d_scores, expected_scores, strict=True)
    np.testing.assert_array_equal(d_masks, expected_masks, strict=True)


@settings(max_examples=500, deadline=None)
@given(
    lo=st.floats(-50, 50) | st.floats(-1e30, 1e30),
    extent=st.floats(0, 100),
    cells=st.integers(1, 30),
    length=st.integers(1, 40),
)
def test_spans_ascend_and_cover_every_cell(lo: float, extent: float, cells: int, length: int) -> None:
    spans = [cpu.cell_span(lo, lo + extent, cell, cells, length) for cell in range(cells)]
    assert all(0 <= first <= length and 0 <= stop <= length for first, stop in spans)
    assert spans == sorted(spans)
    assert [stop for _, stop in spans] == sorted(stop for _, stop in spans)
    if extent > 0 and lo >= 0 and lo + extent <= length and lo + extent > lo:
        assert all(stop > first for first, stop in spans)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_winners_the_canvas_is_the_same(dtype: type) -> None:
    inputs = random_inputs(5, 30, (20, 30), dtype)
    canvas, _ = project_on_cpu(**inputs)
    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    alone = np.full_like(canvas, 7)
    cpu.project_masks(*arrays, alone, None, threads=1)
    assert canvas.any()
    np.testing.assert_array_equal(alone, canvas)


def test_a_gradient_goes_to_the_winner_and_never_to_a_nan_that_lost() -> None:
    # By hand: cell 0 won two pixels, cell 1 none, cell 2 (of instance 1, whose other value is NaN) one.
    scores, masks = np.array([0.5, 2.0]), np.array([[[0.5, 0.25]], [[1.0, NAN]]])
    winners = np.array([[[[0, 0, 2, -1]]]], np.int32)
    grad_canvas = np.array([[[[1.0, 2.0, 10.0, 100.0]]]])
    d_scores, d_masks = np.empty(2), np.empty((2, 1, 2))
    cpu.project_masks_backward(scores, masks, winners, grad_canvas, d_scores, d_masks, threads=1)
    assert d_masks.tolist() == [[[1.5, 0]], [[20, 0]]]
    assert d_scores.tolist() == [1.5, 10]
