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
    bilinear: bool = False,
    threads: int = 1,
) -> Projected:
    canvas = np.full((batch, num_layers, *size), 7, masks.dtype)  # what was there before must not matter
    winners = np.full(canvas.shape, 7, np.int32)
    cpu.project_masks(boxes, layers, scores, masks, image_index, canvas, winners, bilinear=bilinear, threads=threads)
    return canvas, np.where(canvas > 0, winners, -1)  # the others are not written


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


def test_bilinear_samples_between_the_middles_of_the_cells_at_the_pixels_centres() -> None:
    # By hand: the middles of the four cells lie at 1, 3, 5, 7, the pixels' centres at 0.5, 1.5 ... 7.5.
    inputs = {
        "boxes": np.array([[0.0, 0, 8, 1]], np.float32),
        "layers": np.zeros(1, np.int64),
        "scores": np.array([0.5], np.float32),
        "masks": np.array([[[0, 1, 0.5, 0.5]]], np.float32),
        "image_index": np.zeros(1, np.int64),
    }
    expected = [0, 0.125, 0.375, 0.4375, 0.3125, 0.25, 0.25, 0.25, 0]
    for projection in PROJECTIONS.values():
        canvas, winners = projection(**inputs, num_layers=1, size=(1, 9), batch=1, bilinear=True)
        assert canvas[0, 0, 0].tolist() == expected
        assert winners[0, 0, 0].tolist() == [-1, 0, 0, 0, 0, 0, 0, 0, -1]


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


EDGES = st.sampled_from([NAN, np.inf, -np.inf, -1e30, 1e30, 1e9, -1e9]) | st.floats(-6, 20, width=32)
NEAR_EDGES = st.integers(-8, 40).map(lambda n: n / 2) | st.floats(-6, 20, width=32)  # on integers, on halves and between


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    """Inside, partly and wholly outside, inverted, without area, smaller than a pixel, huge, broken."""
    x1, y1 = draw(NEAR_EDGES), draw(NEAR_EDGES)
    extent = st.sampled_from([0.0, 0.01, 0.5, 1.0, -1.0]) | st.floats(0, 20, width=32)
    box = [x1, y1, x1 + draw(extent), y1 + draw(extent)]
    for place in draw(st.sets(st.integers(0, 3), max_size=1)) if draw(st.integers(0, 4)) == 0 else ():
        box[place] = draw(EDGES)
    return box


@st.composite
def instances(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that the operator may be given, layers and images out of range too; few values, so that many tie."""
    count = draw(st.integers(0, 7))
    dtype, box_dtype = (draw(st.sampled_from([np.float32, np.float64])) for _ in range(2))
    num_layers, batch = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    values = draw(st.sampled_from([[1], [0], [NAN], [0.5, 1], [NAN, -1, 0, 0.25, 0.5, 0.7, 1]]))
    shape = (count, draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return {
        "boxes": np.array([draw(boxes()) for _ in range(count)]).reshape(count, 4).astype(box_dtype),
        "layers": rng.integers(-(rng.random() < 0.2), num_layers + (rng.random() < 0.2), count),
        "scores": rng.choice([NAN, -1, 0, 0.3, 0.5, 1], count, p=[0.05, 0.05, 0.05, 0.25, 0.3, 0.3]).astype(dtype),
        "masks": rng.choice(values, shape).astype(dtype),
        "image_index": rng.integers(-(rng.random() < 0.2), batch + (rng.random() < 0.2), count),
        "num_layers": num_layers,
        "size": draw(st.sampled_from([(1, 1), (150, 5), (70, 2)]) | st.tuples(st.integers(1, 12), st.integers(1, 12))),
        "batch": batch,
    }


def gradients_on_cpu(
    inputs: dict[str, Any],
    canvas: np.ndarray,
    winners: np.ndarray,
    grad_canvas: np.ndarray,
    *,
    bilinear: bool = False,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    d_scores, d_masks = np.full_like(inputs["scores"], 7), np.full_like(inputs["masks"], 7)
    winners = np.where(canvas > 0, winners, 0)  # what stands where nothing was written must not matter
    cpu.project_masks_backward(*arrays, canvas, winners, grad_canvas, d_scores, d_masks, bilinear=bilinear, threads=threads)
    return d_scores, d_masks


@settings(max_examples=400, deadline=None)
@given(inputs=instances(), bilinear=st.booleans(), threads=st.sampled_from([1, 1, 2]))
def test_canvas_winners_and_gradients_equal_the_reference_bit_for_bit(
    inputs: dict[str, Any], bilinear: bool, threads: int
) -> None:
    canvas, winners = project_masks_reference(**inputs, bilinear=bilinear)
    cpu_canvas, cpu_winners = project_on_cpu(**inputs, bilinear=bilinear, threads=threads)
    np.testing.assert_array_equal(cpu_canvas, canvas, strict=True)
    np.testing.assert_array_equal(cpu_winners, winners, strict=True)
    alone = np.full_like(canvas, 7)
    arrays = [inputs[name] for name in ("boxes", "layers", "scores", "masks", "image_index")]
    cpu.project_masks(*arrays, alone, np.empty(0, np.int32), bilinear=bilinear, threads=threads)
    np.testing.assert_array_equal(alone, canvas, strict=True)

    grad_canvas = np.random.default_rng(0).standard_normal(canvas.shape).astype(canvas.dtype)
    d_scores, d_masks = gradients_on_cpu(inputs, canvas, winners, grad_canvas, bilinear=bilinear, threads=threads)
    expected_scores, expected_masks = project_masks_backward_reference(
        inputs["boxes"], inputs["scores"], inputs["masks"], winners, grad_canvas, bilinear=bilinear
    )
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


def test_a_gradient_goes_to_the_winner_and_never_to_a_nan_that_lost() -> None:
    # By hand: cell 0 won two pixels, cell 1 none, cell 2 (of instance 1, whose other value is NaN) one.
    inputs = {
        "boxes": np.array([[0.0, 0, 2, 1], [2, 0, 4, 1]]),
        "layers": np.zeros(2, np.int64),
        "scores": np.array([0.5, 2.0]),
        "masks": np.array([[[0.5, 0.25]], [[1.0, NAN]]]),
        "image_index": np.zeros(2, np.int64),
    }
    winners = np.array([[[[0, 0, 2, -1]]]], np.int32)
    canvas = np.array([[[[0.25, 0.25, 2.0, 0.0]]]])
    d_scores, d_masks = gradients_on_cpu(inputs, canvas, winners, np.array([[[[1.0, 2.0, 10.0, 100.0]]]]))
    assert d_masks.tolist() == [[[1.5, 0]], [[20, 0]]]
    assert d_scores.tolist() == [1.5, 10]
