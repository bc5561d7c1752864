"""One split of two images under each convention, worked by hand; class 2 is predicted but never present, 3 is on no side."""

import math

import numpy as np
import pytest

from imptool.metrics.conventions import DEFINITIONS, conventions

FIRST = np.array([[6, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # IOU 6/9, 1/4
SECOND = np.array([[4, 0, 1, 0], [0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # IOU 4/5, 5/5, 0/1
SPLIT = np.array([[10, 2, 1, 0], [1, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # IOU 10/14, 6/9, 0/1
NOTHING = np.zeros((4, 4), np.int64)
FOREGROUND = [1, 2, 3]

BY_HAND = {
    "imptool": (6 / 9 + 0) / 2,
    "mmseg": (10 / 14 + 6 / 9 + 0) / 3,
    "detectron2": (10 / 14 + 6 / 9) / 2,
    "schp_lip": (10 / 14 + 6 / 9 + 0 + 0) / 4,
    "torchvision_references": math.nan,
    "torchmetrics": (6 / 9 + 1 / 4 + 4 / 5 + 1 + 0) / 5,
    "torchmetrics_1_7_0": ((6 / 9 + 1 / 4 + 0 + 0) / 4 + (4 / 5 + 1 + 0 + 0) / 4) / 2,
    "mean_over_images": ((6 / 9 + 1 / 4) / 2 + (4 / 5 + 1 + 0) / 3) / 2,
}


@pytest.mark.parametrize("key", BY_HAND)
def test_worked_by_hand(key):
    assert conventions(SPLIT, [FIRST, SECOND], foreground=FOREGROUND)[key] == pytest.approx(BY_HAND[key], nan_ok=True)


def test_every_key_is_defined():
    assert list(conventions(SPLIT, [FIRST, SECOND], foreground=FOREGROUND)) == list(DEFINITIONS) == list(BY_HAND)


def test_torchvision_gives_a_number_when_no_class_is_missing():
    both = np.array([[10, 2, 1], [1, 6, 0], [0, 0, 0]])
    assert conventions(both, [both], foreground=[1, 2])["torchvision_references"] == pytest.approx((10 / 14 + 6 / 9 + 0) / 3)


def test_one_image_with_every_class_is_one_figure_everywhere():
    matrix = np.array([[3, 1], [0, 4]])  # 3/4, 4/5
    figures = conventions(matrix, [matrix], foreground=[0, 1])
    assert figures == pytest.approx(dict.fromkeys(DEFINITIONS, (3 / 4 + 4 / 5) / 2))


def test_goes_through_the_images_once_and_leaves_out_those_without_a_counted_pixel():
    figures = conventions(SPLIT, (matrix for matrix in (FIRST, NOTHING, SECOND)), foreground=FOREGROUND)
    assert figures == pytest.approx(BY_HAND, nan_ok=True)


@pytest.mark.parametrize("per_image", [[], [NOTHING, NOTHING]])
def test_nothing_counted_gives_nan_but_for_schp_which_counts_0(per_image):
    figures = conventions(NOTHING, per_image, foreground=FOREGROUND)
    assert figures.pop("schp_lip") == 0
    assert all(math.isnan(value) for value in figures.values())


def test_refuses_images_that_are_not_those_of_the_split():
    with pytest.raises(ValueError, match=r"must sum to confusion \(20 pixels\), got 10 pixels"):
        conventions(SPLIT, [FIRST], foreground=FOREGROUND)
