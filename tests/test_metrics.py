"""Confusion, boundary bands and the position prior against hand counts, scikit-learn and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score
from small_maps import IGNORE, OPTIONS, classes, pairs, rows, sizes

from imptool.metrics.boundary import (
    NO_BOUNDARY,
    band_confusions,
    bands_of_rings,
    boundary_pixels,
    ring_confusions,
    squared_distance_to_boundary,
)
from imptool.metrics.confusion import (
    DEFINITIONS,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    pixel_accuracy,
    summarize,
    tally,
)
from imptool.metrics.prior import count_positions, predict_prior

targets = sizes.flatmap(lambda size: arrays(np.uint8, size, elements=st.one_of(classes, st.just(IGNORE))))
long_sizes = st.one_of(st.tuples(st.integers(1, 5), st.integers(1, 40)), st.tuples(st.integers(1, 40), st.integers(1, 5)))
few_edges = long_sizes.flatmap(lambda size: arrays(np.uint8, size, elements=st.sampled_from([0] * 30 + [1, IGNORE])))


class TestConfusion:
    @settings(deadline=None)
    @given(pairs)
    def test_equals_scikit_learn(self, pair):
        predicted, target = pair
        counted = target != IGNORE
        expected = np.zeros((4, 4), int)
        if counted.any():
            expected = sklearn_confusion(target[counted], predicted[counted], labels=range(4))
        np.testing.assert_array_equal(confusion_matrix(predicted, target, **OPTIONS), expected)

    @settings(deadline=None)
    @given(pairs)
    def test_class_iou_equals_scikit_learn(self, pair):
        predicted, target = pair
        counted = target != IGNORE
        iou = class_iou(tally(confusion_matrix(predicted, target, **OPTIONS)))
        present = ~np.isnan(iou)
        assert set(np.flatnonzero(present)) == set(target[counted]) | set(predicted[counted])
        if present.any():
            expected = jaccard_score(target[counted], predicted[counted], labels=np.flatnonzero(present), average=None)
            np.testing.assert_allclose(iou[present], expected)

    def test_of_a_square_shifted_by_one_pixel(self):
        target = rows("00000", "01100", "01100", "00000")
        predicted = rows("00000", "00110", "00110", "00000")
        confusion = confusion_matrix(predicted, target, num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(confusion, [[14, 2], [2, 2]])
        np.testing.assert_allclose(class_iou(tally(confusion)), [14 / 18, 2 / 6])
        np.testing.assert_allclose(class_accuracy(tally(confusion)), [14 / 16, 2 / 4])

    def test_absent_is_nan_and_predicted_but_never_present_is_0(self):
        confusion = confusion_matrix(rows("0013"), rows("0011"), **OPTIONS)  # 2 on no side, 3 only predicted
        np.testing.assert_allclose(class_iou(tally(confusion)), [1, 1 / 2, np.nan, 0])
        np.testing.assert_allclose(class_accuracy(tally(confusion)), [1, 1 / 2, np.nan, np.nan])

    def test_summary_counted_by_hand(self):
        confusion = np.array([[6, 2, 0], [1, 1, 0], [0, 0, 0]])  # IOU 6/9, 1/4, nan; recall 6/8, 1/2, nan
        figures = summarize(tally(confusion), foreground=[1, 2], things=[1])
        assert figures == pytest.approx(
            {
                "miou": 1 / 4,
                "miou_with_background": (6 / 9 + 1 / 4) / 2,
                "miou_things": 1 / 4,
                "macc": 1 / 2,
                "macc_with_background": (6 / 8 + 1 / 2) / 2,
                "macc_things": 1 / 2,
                "pixel_accuracy": 7 / 10,
                "frequency_weighted_iou": 0.8 * 6 / 9 + 0.2 * 1 / 4,
            }
        )
        assert set(figures) <= set(DEFINITIONS)

    def test_everything_ignored_gives_nan_without_a_warning(self):
        confusion = confusion_matrix(rows("01", "23"), rows("..", ".."), **OPTIONS)
        assert confusion.sum() == 0
        assert all(math.isnan(value) for value in summarize(tally(confusion), foreground=[1, 2, 3], things=[1]).values())
        assert math.isnan(pixel_accuracy(tally(confusion)))
        assert math.isnan(frequency_weighted_iou(tally(confusion)))

    def test_no_foreground_class_gives_nan_for_the_foreground_only(self):
        figures = summarize(tally(np.array([[3]])), foreground=[], things=[])
        assert math.isnan(figures["miou"])
        assert figures["miou_with_background"] == 1

    @pytest.mark.parametrize(
        ("predicted", "target", "message"),
        [
            (rows("01"), rows("012"), r"one size, got \(1, 2\) and \(1, 3\)"),
            (np.zeros(3, int), np.zeros(3, int), r"\[H, W\]"),
            (np.zeros((1, 2)), rows("01"), "integers, got float64 and uint8"),
            (rows("04"), rows("01"), "got predicted 4 and target 1 at row 0, column 1"),
            (rows("4"), rows("."), "got predicted 4"),  # also where the target is ignored
            (np.array([[0, -1]]), rows("01"), "got predicted -1"),
            (rows("00", "01"), rows("00", "14"), "target 4 at row 1, column 1"),
        ],
    )
    @pytest.mark.parametrize("metric", [confusion_matrix, ring_confusions])
    def test_says_what_is_wrong_with_the_maps(self, metric, predicted, target, message):
        with pytest.raises(ValueError, match=message):
            metric(predicted, target, **OPTIONS)

    def test_refuses_an_ignore_id_that_is_a_class(self):
        with pytest.raises(ValueError, match=r"ignore must be outside 0\.\.3, got 3"):
            confusion_matrix(rows("0"), rows("0"), num_classes=4, ignore=3)


def bands_by_masks(predicted: np.ndarray, target: np.ndarray, widths) -> list[np.ndarray]:
    """The slow twin of `band_confusions`: scipy's distance, and a mask for every band."""
    edges = boundary_pixels(target, ignore=IGNORE)
    distance = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(target.shape, np.inf)
    return [confusion_matrix(predicted, np.where(distance <= width, target, IGNORE), **OPTIONS) for width in widths]


class TestBoundary:
    def test_both_sides_of_an_edge_are_boundary_and_the_image_border_is_not(self):
        target = rows("0000", "0110", "0110")
        expected = rows("0110", "1111", "1111") == 1
        np.testing.assert_array_equal(boundary_pixels(target, ignore=IGNORE), expected)

    def test_diagonal_neighbours_make_no_boundary(self):
        np.testing.assert_array_equal(boundary_pixels(rows("0.", ".1"), ignore=IGNORE), np.zeros((2, 2), bool))

    def test_an_ignored_pixel_neither_is_nor_makes_a_boundary(self):
        np.testing.assert_array_equal(boundary_pixels(rows("00.11", "00011"), ignore=IGNORE), rows("00000", "00110") == 1)

    @settings(deadline=None)
    @given(st.one_of(targets, few_edges))
    def test_squared_distance_equals_scipy(self, target):
        edges = boundary_pixels(target, ignore=IGNORE)
        squared = squared_distance_to_boundary(target, ignore=IGNORE)
        if edges.any():
            np.testing.assert_array_equal(squared, np.rint(ndimage.distance_transform_edt(~edges) ** 2))
        else:
            assert (squared == NO_BOUNDARY).all()

    @pytest.mark.parametrize("size", [(1, 3000), (2900, 7), (300, 400)])
    def test_squared_distance_equals_scipy_at_large_sizes(self, size):
        target = (np.random.default_rng(0).random(size) < 2e-3).astype(np.uint8)
        edges = boundary_pixels(target, ignore=IGNORE)
        np.testing.assert_array_equal(
            squared_distance_to_boundary(target, ignore=IGNORE), np.rint(ndimage.distance_transform_edt(~edges) ** 2)
        )

    @pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1), (2, 65_535), (65_535, 2)])
    def test_squared_distance_is_exact_where_it_passes_32_bits(self, size):
        target = np.zeros(size, np.uint8)
        target[-1, -1] = 1  # from the first pixel to the boundary pixel before it
        far, other = 65_533, min(size) - 1
        assert squared_distance_to_boundary(target, ignore=IGNORE)[0, 0] == far**2 + other**2

    def test_rings_of_a_row_counted_by_hand(self):
        target = rows("0000011111")  # distances 4 3 2 1 0 0 1 2 3 4
        predicted = rows("0100010111")
        rings = ring_confusions(predicted, target, bands=[1, 3], num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(rings, [[[2, 0], [1, 1]], [[1, 1], [0, 2]], [[1, 0], [0, 1]]])
        bands = band_confusions(predicted, target, bands=[1, 3], num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(bands, [[[2, 0], [1, 1]], [[3, 1], [1, 3]]])

    @pytest.mark.parametrize(("down", "right"), [(1, 1), (1, 2), (1, 3), (2, 3), (3, 4)])
    def test_a_pixel_at_exactly_the_width_is_in_the_band(self, down, right):
        target = np.zeros((down + 1, right + 2), np.uint8)
        target[-1, -1] = 1  # the boundary pixel nearest to (0, 0) is the one to its left
        without = target.copy()
        without[0, 0] = IGNORE
        width = math.sqrt(down**2 + right**2)  # the squares of these roots miss the whole number on both sides
        for band, inside in ((width, 1), (math.nextafter(width, 0), 0)):
            counts = [band_confusions(target, side, bands=[band], **OPTIONS).sum() for side in (target, without)]
            assert counts[0] - counts[1] == inside

    @settings(deadline=None)
    @given(pairs, st.lists(st.floats(0.5, 15), min_size=1, max_size=4, unique=True).map(sorted))
    def test_bands_are_masks_by_distance_and_rings_cover_the_image(self, pair, widths):
        predicted, target = pair
        bands = band_confusions(predicted, target, bands=widths, **OPTIONS)
        np.testing.assert_array_equal(bands, bands_by_masks(predicted, target, widths))
        rings = ring_confusions(predicted, target, bands=widths, **OPTIONS)
        np.testing.assert_array_equal(rings.sum(axis=0), confusion_matrix(predicted, target, **OPTIONS))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
    @pytest.mark.parametrize("view", [np.asarray, np.transpose, lambda layout: layout[::-2, ::3]])
    def test_bands_are_masks_for_any_integers_in_any_order_of_memory(self, dtype, view):
        random = np.random.default_rng(0)
        target = np.kron(random.choice([0, 1, 2, 3, IGNORE], (5, 4)), np.ones((12, 15), int)).astype(dtype)
        predicted = view(random.integers(0, 4, target.shape).astype(dtype))
        widths = np.arange(1, 301) / 20  # more rings than 8 bits hold, most of them empty
        bands = band_confusions(predicted, view(target), bands=widths, **OPTIONS)
        np.testing.assert_array_equal(bands, bands_by_masks(predicted, view(target), widths))

    @pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, -1), (np.uint8, 511), (np.int8, 255)])
    def test_an_ignore_id_outside_the_dtype_ignores_nothing(self, dtype, ignore):
        target = np.array([[127, 0, 0, 0]], dtype)
        rings = ring_confusions(target, target, bands=[1], num_classes=200, ignore=ignore)
        assert (rings[0, 127, 127], rings[0, 0, 0], rings[1, 0, 0]) == (1, 2, 1)  # distances 0 0 1 2

    def test_every_pixel_of_a_chessboard_is_boundary(self):
        target = (np.indices((7, 9)).sum(axis=0) % 2).astype(np.uint8)
        rings = ring_confusions(target, target, bands=[0.5], num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(rings, [[[32, 0], [0, 31]], [[0, 0], [0, 0]]])  # 63 pixels, one more is 0

    def test_bands_add_up_over_the_rings_of_each_of_many_photographs(self):
        rings = np.arange(12).reshape(2, 3, 2, 1)  # 2 images, 3 rings
        np.testing.assert_array_equal(bands_of_rings(rings), [[[[0], [1]], [[2], [4]]], [[[6], [7]], [[14], [16]]]])

    @pytest.mark.parametrize("size", [(0, 3), (3, 0), (0, 0)])
    def test_an_empty_map_counts_nothing(self, size):
        empty = np.zeros(size, np.uint8)
        assert ring_confusions(empty, empty, bands=[1], **OPTIONS).sum() == 0

    @pytest.mark.parametrize("target", [rows("11", "11"), rows("1.", ".1"), rows("..", "..")])
    def test_an_image_without_boundary_enters_no_band(self, target):
        rings = ring_confusions(rows("11", "11"), target, bands=[1, 1e300], **OPTIONS)
        assert rings[:2].sum() == 0
        assert rings[2, 1, 1] == (target == 1).sum()

    @pytest.mark.parametrize("widths", [[], [0, 1], [-1], [2, 2], [3, 1], [1, math.inf], [math.nan]])
    def test_refuses_widths_that_are_not_positive_and_increasing(self, widths):
        with pytest.raises(ValueError, match="positive, finite and increasing"):
            band_confusions(rows("01"), rows("01"), bands=widths, **OPTIONS)


class TestPrior:
    def test_a_map_of_the_grids_size_comes_back(self):
        target = rows("012", "330")
        counts = count_positions(target, grid=(2, 3), **OPTIONS)
        assert counts.shape == (4, 2, 3)
        np.testing.assert_array_equal(predict_prior(counts, (2, 3)), target)

    def test_a_prediction_is_the_most_frequent_class_at_the_relative_position(self):
        small, large = rows("01"), rows("1122", "1122")  # left cell: 1 x 0, 4 x 1; right cell: 1 x 1, 4 x 2
        counts = sum(count_positions(target, grid=(1, 2), **OPTIONS) for target in (small, large))
        np.testing.assert_array_equal(counts[:, 0], [[1, 0], [4, 1], [0, 4], [0, 0]])
        np.testing.assert_array_equal(predict_prior(counts, (1, 6)), rows("111222"))

    def test_ignored_pixels_leave_the_counts_and_an_empty_cell_takes_the_most_frequent_class(self):
        counts = count_positions(rows("0.22"), grid=(1, 4), **OPTIONS)
        assert counts.sum() == 3
        np.testing.assert_array_equal(predict_prior(counts, (1, 4)), rows("0222"))

    @pytest.mark.parametrize("target", [rows("04"), np.array([[-1]]), np.zeros((1, 1)), np.zeros(1, int)])
    def test_refuses_what_is_no_semantic_map(self, target):
        with pytest.raises(ValueError, match="target"):
            count_positions(target, **OPTIONS)
