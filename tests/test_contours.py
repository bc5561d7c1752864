"""Boundary F-score and Boundary IoU of all classes against one binary mask at a time: scipy's distances, OpenCV's erosion."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from small_maps import IGNORE, OPTIONS, pairs, rows

from imptool.metrics.contours import boundary_f, boundary_f_counts, boundary_iou, boundary_iou_counts, pixels


def outfit(seed: int, *, size: tuple[int, int] = (110, 80), num_classes: int = 4, ignored: float = 0.05) -> np.ndarray:
    """A map of large smooth regions with a few small ones, as garments are, and some ignored pixels."""
    rng = np.random.default_rng(seed)
    heights = [ndimage.gaussian_filter(rng.normal(size=size), sigma) * sigma for sigma in np.linspace(9, 3, num_classes)]
    labels = np.argmax(heights, axis=0)
    spots = ndimage.gaussian_filter(rng.random(size), 2)
    labels[spots < np.quantile(spots, ignored)] = IGNORE
    return labels


def outfits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction, shifted and with errors, and its target."""
    rng = np.random.default_rng(seed)
    predicted = np.roll(outfit(seed, ignored=0), (2, -1), axis=(0, 1))
    wrong = ndimage.gaussian_filter(rng.normal(size=predicted.shape), 2) > 0.12
    predicted[wrong] = (predicted[wrong] + 1) % 4
    return predicted, outfit(seed)


def met_by_distance(
    predicted: np.ndarray, target: np.ndarray, *, tolerance: float, num_classes: int, ignore: int
) -> np.ndarray:
    """`boundary_f_counts` of one binary mask after the other, by its definition."""
    counted = target != ignore
    plus = ndimage.generate_binary_structure(2, 1)
    counts = np.zeros((num_classes, 4), np.int64)
    for c in range(num_classes):
        contours = []
        for side in (predicted, target):
            mask, others = counted & (side == c), counted & (side != c)
            contours.append(mask & ndimage.binary_dilation(others, plus))
        for column, (one, other) in enumerate((contours, contours[::-1])):
            far = np.full(one.shape, np.inf)
            distance = ndimage.distance_transform_edt(~other) if other.any() else far
            counts[c, 2 * column : 2 * column + 2] = one.sum(), (one & (distance <= tolerance)).sum()
    return counts


def bands_by_erosion(predicted: np.ndarray, target: np.ndarray, *, width: int, num_classes: int, ignore: int) -> np.ndarray:
    """`boundary_iou_counts` of one binary mask after the other, eroded as the published code does."""
    counted = target != ignore
    square = np.ones((3, 3), np.uint8)
    counts = np.zeros((num_classes, 3), np.int64)
    for c in range(num_classes):
        bands = []
        for side in (predicted, target):
            mask = ((side == c) | ~counted).astype(np.uint8)  # an ignored pixel erodes nothing
            kept = cv2.erode(mask, square, iterations=width, borderType=cv2.BORDER_CONSTANT, borderValue=0)
            bands.append((side == c) & counted & (kept == 0))
        counts[c] = bands[0].sum(), bands[1].sum(), (bands[0] & bands[1]).sum()
    return counts


SQUARE = rows("000000", "000000", "001100", "001100", "000000", "000000")
SHIFTED = rows("000000", "000000", "000110", "000110", "000000", "000000")  # by one px to the right


class TestBoundaryF:
    @settings(deadline=None)
    @given(pairs, st.sampled_from([0, 0.5, 1, math.sqrt(2), 1.9, 2, math.sqrt(5), 3, 100]))
    def test_equals_scipy_class_by_class(self, pair, tolerance):
        found, expected = (f(*pair, tolerance=tolerance, **OPTIONS) for f in (boundary_f_counts, met_by_distance))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("tolerance", [0.75, 2, 7.3])
    @pytest.mark.parametrize("seed", range(4))
    def test_equals_scipy_on_regions_like_garments(self, seed, tolerance):
        pair = outfits(seed)
        found, expected = (f(*pair, tolerance=tolerance, **OPTIONS) for f in (boundary_f_counts, met_by_distance))
        assert (expected > 0).all()
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize(
        ("tolerance", "counts", "scores"),
        [
            # All 4 pixels of a square are its contour, and 2 are in both squares. The background has 8 around each, and
            # only the one above and the one below the column of the overlap are in both.
            (0.5, [[8, 2, 8, 2], [4, 2, 4, 2]], [1 / 4, 1 / 2]),
            (1, [[8, 8, 8, 8], [4, 4, 4, 4]], [1, 1]),
        ],
    )
    def test_of_a_square_shifted_by_one_pixel(self, tolerance, counts, scores):
        found = boundary_f_counts(SHIFTED, SQUARE, tolerance=tolerance, num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(found, counts)
        np.testing.assert_allclose(boundary_f(found), scores)

    @pytest.mark.parametrize(("down", "right"), [(1, 1), (1, 2), (1, 3), (2, 3), (3, 4), (0, 4)])
    def test_a_pixel_at_exactly_the_tolerance_is_met(self, down, right):
        predicted, target = np.zeros((9, 10), int), np.zeros((9, 10), int)
        predicted[2, 2] = target[2 + down, 2 + right] = 1
        tolerance = math.sqrt(down**2 + right**2)
        for limit, met in ((tolerance, 1), (math.nextafter(tolerance, 0), 0)):
            counts = boundary_f_counts(predicted, target, tolerance=limit, num_classes=2, ignore=IGNORE)
            np.testing.assert_array_equal(counts[1], [1, met, 1, met])

    def test_the_image_border_and_ignored_pixels_make_no_contour(self):
        counts = boundary_f_counts(rows("1120", "1110"), rows("11.0", "11.0"), tolerance=1, **OPTIONS)
        assert counts.sum() == 0

    def test_nan_without_contour_and_0_with_one_on_one_side_only(self):
        # 0 and 1 meet on both sides, 2 only in the prediction, 3 only in the target.
        counts = boundary_f_counts(rows("01222"), rows("01333"), tolerance=1, num_classes=5, ignore=IGNORE)
        np.testing.assert_array_equal(counts, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
        np.testing.assert_allclose(boundary_f(counts), [1, 1, 0, 0, np.nan])

    def test_contours_of_a_class_that_never_meet_score_0(self):
        assert boundary_f(np.array([5, 0, 7, 0])) == 0

    def test_of_a_line_one_px_wide(self):
        target = rows("00100", "00100", "00100")
        predicted = rows("00010", "00010", "00010")
        found = boundary_f_counts(predicted, target, tolerance=0, num_classes=2, ignore=IGNORE)
        # Background beside the lines: columns 2 and 4 against 1 and 3.
        np.testing.assert_array_equal(found, [[6, 0, 6, 0], [3, 0, 3, 0]])


class TestBoundaryIou:
    @settings(deadline=None)
    @given(pairs, st.integers(1, 15))
    def test_equals_opencv_class_by_class(self, pair, width):
        found, expected = (f(*pair, width=width, **OPTIONS) for f in (boundary_iou_counts, bands_by_erosion))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("width", [1, 3, 20, 60])
    @pytest.mark.parametrize("seed", range(4))
    def test_equals_opencv_on_regions_like_garments(self, seed, width):
        pair = outfits(seed)
        found, expected = (f(*pair, width=width, **OPTIONS) for f in (boundary_iou_counts, bands_by_erosion))
        assert (expected > 0).all()
        np.testing.assert_array_equal(found, expected)

    def test_of_a_square_shifted_by_one_pixel(self):
        # A square is all band. The background: the 20 pixels at the image border, and around the square the 12 of its
        # ring; of the target's none is at the border, of the prediction's 4 are, and 6 (rows 1 and 4) are in both rings.
        found = boundary_iou_counts(SHIFTED, SQUARE, width=1, num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(found, [[20 + 8, 20 + 12, 20 + 6], [4, 4, 2]])
        np.testing.assert_allclose(boundary_iou(found), [26 / 34, 2 / 6])

    def test_the_image_border_is_contour(self):
        target = rows("111", "111", "111")
        counts = boundary_iou_counts(target, target, width=1, num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(counts, [[0, 0, 0], [8, 8, 8]])
        np.testing.assert_allclose(boundary_iou(counts), [np.nan, 1])

    def test_of_a_line_one_px_wide(self):
        target = rows("0000000", "0111110", "0000000")
        counts = boundary_iou_counts(np.roll(target, 1, axis=1), target, width=1, num_classes=2, ignore=IGNORE)
        np.testing.assert_array_equal(counts[1], [5, 5, 4])
        assert boundary_iou(counts)[1] == 4 / 6

    def test_classes_meet_across_an_ignored_pixel(self):
        target = rows(*["00000.11111"] * 5)
        predicted = np.where(target == IGNORE, 0, target)
        counts = boundary_iou_counts(predicted, target, width=2, num_classes=2, ignore=IGNORE)
        # Only the middle row is 2 px from the image border: of its pixels 2, 3, 4 in each half, 4 alone sees across.
        np.testing.assert_array_equal(counts, [[23, 23, 23], [23, 23, 23]])

    def test_nan_on_no_side_and_0_on_one_side_only(self):
        counts = boundary_iou_counts(rows("01222"), rows("01333"), width=1, num_classes=5, ignore=IGNORE)
        np.testing.assert_allclose(boundary_iou(counts), [1, 1, 0, 0, np.nan])


BOTH = [(boundary_f_counts, boundary_f, {"tolerance": 2}), (boundary_iou_counts, boundary_iou, {"width": 2})]


@pytest.mark.parametrize(("count", "score", "size"), BOTH)
class TestBoth:
    def test_a_prediction_right_on_all_counted_pixels_gets_1(self, count, score, size):
        target = outfit(3)
        predicted = np.where(target == IGNORE, 2, target)
        np.testing.assert_array_equal(score(count(predicted, target, **size, **OPTIONS)), np.ones(4))

    def test_everything_ignored(self, count, score, size):
        counts = count(rows("01", "23"), rows("..", ".."), **size, **OPTIONS)
        assert counts.sum() == 0
        assert np.isnan(score(counts)).all()

    def test_a_map_without_pixels(self, count, score, size):
        assert count(np.zeros((0, 5), int), np.zeros((0, 5), int), **size, **OPTIONS).sum() == 0

    def test_counts_of_images_may_be_stacked(self, count, score, size):
        counts = np.stack([count(*outfits(seed), **size, **OPTIONS) for seed in (0, 1)])
        np.testing.assert_array_equal(score(counts), [score(counts[0]), score(counts[1])])

    @pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("uint16", "int64"), ("int64", "uint16"), ("uint64", "int8")])
    def test_any_integers(self, count, score, size, kinds):
        predicted, target = outfits(2)
        expected = count(predicted, target, **size, **OPTIONS)
        ignore = IGNORE if kinds[1] != "int8" else -1
        changed = np.where(target == IGNORE, ignore, target)
        found = count(predicted.astype(kinds[0]), changed.astype(kinds[1]), **size, num_classes=4, ignore=ignore)
        np.testing.assert_array_equal(found, expected)

    def test_a_view_of_a_larger_map(self, count, score, size):
        predicted, target = outfits(2)
        found = count(predicted[::2, 10:50].T, target[::2, 10:50].T, **size, **OPTIONS)
        copies = (np.ascontiguousarray(side[::2, 10:50].T) for side in (predicted, target))
        np.testing.assert_array_equal(found, count(*copies, **size, **OPTIONS))

    @pytest.mark.parametrize("num_classes", [255, 256, 300, 2**16 - 1, 2**16, 70_000])
    def test_many_classes(self, count, score, size, num_classes):
        names = np.array([0, 1, num_classes - 2, num_classes - 1])
        predicted, target = outfits(2)
        expected = count(predicted, target, **size, **OPTIONS)
        changed = np.where(target == IGNORE, num_classes, names[np.minimum(target, 3)])
        found = count(names[predicted], changed, **size, num_classes=num_classes, ignore=num_classes)
        np.testing.assert_array_equal(found[names], expected)
        assert found.sum() == expected.sum()

    @pytest.mark.parametrize(
        ("predicted", "target", "message"),
        [
            (rows("01"), rows("012"), r"one size, got \(1, 2\) and \(1, 3\)"),
            (np.zeros((1, 2)), rows("01"), "integers, got float64 and uint8"),
            (rows("04"), rows("01"), "got predicted 4 and target 1 at row 0, column 1"),
            (rows("4"), rows("."), "got predicted 4"),  # also where the target is ignored
            (np.array([[0, -1]]), rows("01"), "got predicted -1"),
            (np.array([[2**40, 0]]), rows("01"), f"got predicted {2**40}"),
            (rows("00", "01"), rows("00", "14"), "target 4 at row 1, column 1"),
        ],
    )
    def test_says_what_is_wrong_with_the_maps(self, count, score, size, predicted, target, message):
        with pytest.raises(ValueError, match=message):
            count(predicted, target, **size, **OPTIONS)


def test_counts_of_two_images_are_summed_before_the_scores():
    images = [(SHIFTED, SQUARE), (SQUARE, SQUARE)]
    met = sum(boundary_f_counts(*image, tolerance=0.5, num_classes=2, ignore=IGNORE) for image in images)
    np.testing.assert_array_equal(met[1], [4 + 4, 2 + 4, 4 + 4, 2 + 4])
    assert boundary_f(met)[1] == 6 / 8
    bands = sum(boundary_iou_counts(*image, width=1, num_classes=2, ignore=IGNORE) for image in images)
    np.testing.assert_array_equal(bands[1], [4 + 4, 4 + 4, 2 + 4])
    assert boundary_iou(bands)[1] == 6 / 10


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
def test_refuses_a_tolerance_that_is_no_length(tolerance):
    with pytest.raises(ValueError, match="tolerance must be px from 0 up, got"):
        boundary_f_counts(SQUARE, SQUARE, tolerance=tolerance, **OPTIONS)


@pytest.mark.parametrize("width", [0, -1, 1.5, math.nan, math.inf])
def test_refuses_a_width_that_is_not_whole(width):
    with pytest.raises(ValueError, match="width must be whole px from 1 up, got"):
        boundary_iou_counts(SQUARE, SQUARE, width=width, **OPTIONS)


def test_sizes_in_px_and_in_percent_of_the_diagonal():
    assert pixels("3", (30, 40)) == 3
    assert pixels(" 2.5 ", (30, 40)) == 2.5
    assert pixels("2%", (30, 40)) == pytest.approx(1)  # the diagonal is 50 px
    assert pixels("0.75 %", (300, 400)) == pytest.approx(3.75)


@pytest.mark.parametrize("size", ["", "%", "wide", "-1", "-1%", "1%%", "1%2", "nan", "inf%", "3px"])
def test_refuses_what_is_no_size(size):
    with pytest.raises(ValueError, match=r"a size must be px or a percentage .* such as 3 or 0.75%, got"):
        pixels(size, (30, 40))
