"""Means over seeds of an evaluation's figures, against sums by hand and SciPy's Welch test."""

import numpy as np
import pytest
from scipy import stats

from imptool.evaluation.figures import Resampled, over_seeds
from imptool.metrics.bootstrap import draw_weights, leave_out_weights

NAN = float("nan")
IMAGES = 40
RNG = np.random.default_rng(0)
OF_SEEDS = RNG.normal(0, 0.01, 4)
OF_IMAGES = RNG.normal(0, 0.05, IMAGES)


def resampled(of_images: np.ndarray) -> Resampled:
    """A figure that is the mean over images: as a mean over classes, and as that of one class."""
    value, count = float(of_images.mean()), float(len(of_images))
    drawn = draw_weights(len(of_images)) @ of_images / len(of_images)
    left_out = leave_out_weights(len(of_images)) @ of_images / (len(of_images) - 1)
    values, photographs = dict.fromkeys(("miou", "class/1/iou"), value), dict.fromkeys(("miou", "class/1/iou"), count)
    return Resampled(values, photographs, {"miou": drawn, "class/1/iou": drawn}, {"miou": left_out})


def test_a_mean_over_seeds_keeps_the_figure_of_each():
    parts = [
        Resampled({"miou": value}, {"miou": count}, {"miou": np.array(drawn)}, {"miou": np.array(left_out)})
        for value, count, drawn, left_out in ((0.2, 30, [0.1, NAN, NAN], [0.1, 0.4]), (0.6, 20, [0.5, 0.7, NAN], [0.5, 0.6]))
    ]
    mean = over_seeds(parts)
    assert mean.values == {"miou": pytest.approx(0.4)}
    assert mean.photographs == {"miou": 20}
    np.testing.assert_allclose(mean.drawn["miou"], [0.3, 0.7, NAN])
    np.testing.assert_allclose(mean.left_out["miou"], [0.3, 0.5])
    assert mean.by_seed["miou"].tolist() == [0.2, 0.6]


def test_a_difference_over_seeds_has_welchs_interval_even_below_0():
    """The first model is worse by 0.3, more or less by seed and by image, which only add up."""
    level = RNG.uniform(0.4, 0.6, IMAGES)
    changed = [resampled(level - 0.3 + seed + OF_IMAGES).less(resampled(level)) for seed in OF_SEEDS]
    mean = over_seeds(changed)
    assert mean.least == -1
    welch = stats.ttest_ind(OF_SEEDS - 0.3, -OF_IMAGES, equal_var=False).confidence_interval()
    low, high = mean.intervals["miou"]
    bias = mean.drawn["miou"].mean() - mean.values["miou"]  # that of a thousand draws
    assert low == pytest.approx(welch.low - max(bias, 0))
    assert high == pytest.approx(welch.high - min(bias, 0))
    low, high = mean.intervals["class/1/iou"]
    assert (low, high) == (pytest.approx(welch.low, abs=0.002), pytest.approx(welch.high, abs=0.002))


def test_one_seed_has_the_interval_over_photographs():
    part = resampled(0.5 + OF_IMAGES)
    assert over_seeds([part]).intervals == part.intervals


def test_a_figure_that_a_seed_lacks_is_the_mean_of_the_others_without_an_interval():
    whole = [resampled(0.5 + seed + OF_IMAGES) for seed in OF_SEEDS[:3]]
    absent = Resampled(
        {**whole[1].values, "class/1/iou": NAN}, {"miou": IMAGES, "class/1/iou": 0}, whole[1].drawn, whole[1].left_out
    )
    nowhere = Resampled({"miou": 0.5}, {"miou": IMAGES}, {"miou": whole[1].drawn["miou"]}, whole[1].left_out)
    for lacking in (absent, nowhere):
        mean = over_seeds([whole[0], lacking, whole[2]])
        assert mean.values["class/1/iou"] == pytest.approx(0.5 + OF_IMAGES.mean() + OF_SEEDS[[0, 2]].mean())
        assert np.isnan(mean.by_seed["class/1/iou"]).tolist() == [False, True, False]
        assert mean.photographs["class/1/iou"] == 0
        assert np.isnan(mean.intervals["class/1/iou"]).all()
        assert np.isfinite(mean.intervals["miou"]).all()


def test_figures_side_by_side_stay_means_over_seeds():
    mean = over_seeds([resampled(seed + OF_IMAGES).less(resampled(0 * OF_IMAGES)) for seed in OF_SEEDS])
    renamed = Resampled(*({f"box/{key}": value for key, value in of.items()} for of in (mean.values, mean.photographs)), {}, {})
    assert (mean | renamed).intervals["miou"] == mean.intervals["miou"]


def test_means_over_seeds_need_a_seed_and_are_not_subtracted():
    mean = over_seeds([resampled(0.5 + OF_IMAGES)])
    with pytest.raises(ValueError, match="take the differences seed by seed"):
        mean.less(mean)
    with pytest.raises(ValueError, match="parts must be of at least one seed"):
        over_seeds([])
