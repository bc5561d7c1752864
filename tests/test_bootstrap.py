"""Bootstrap and jackknife over images against sums written out, NumPy's percentiles, SciPy's bootstrap and Student's t."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.stats import bootstrap as scipy_bootstrap

from imptool.metrics.bootstrap import (
    DEFINITIONS,
    ENOUGH,
    LEVEL,
    REPLICATES,
    Resampler,
    draw_weights,
    effective_images,
    interval,
    interval_over_seeds,
    is_significant,
    leave_out_weights,
    mean_interval,
)


@pytest.mark.parametrize("images", [0, 1, 7])
def test_every_replicate_draws_as_many_images_as_there_are(images):
    weights = draw_weights(images)
    assert weights.shape == (REPLICATES, images)
    assert (weights.sum(axis=1) == images).all()


def test_draws_depend_on_seed_and_number_of_the_replicate_alone():
    weights = draw_weights(9, replicates=20, seed=3)
    np.testing.assert_array_equal(draw_weights(9, replicates=5, seed=3), weights[:5])
    assert (draw_weights(9, replicates=20, seed=4) != weights).any(axis=1).all()
    assert len(np.unique(weights, axis=0)) == 20


def test_images_are_drawn_independently_and_alike():
    weights = draw_weights(5, replicates=4000)
    # binomial(5, 1/5): mean 1, variance 4/5; two images: covariance -1/5
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.05)
    np.testing.assert_allclose(np.cov(weights.T), np.where(np.eye(5) > 0, 0.8, -0.2), atol=0.06)


def test_one_image_that_is_drawn_often_is_counted_in_full():
    assert draw_weights(1000, replicates=3).dtype == np.uint8
    assert draw_weights(1, replicates=2).tolist() == [[1], [1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda _: _AlwaysTheFirst())
        assert draw_weights(300, replicates=2)[:, 0].tolist() == [300, 300]


class _AlwaysTheFirst:
    def integers(self, high: int, size: int) -> np.ndarray:
        return np.zeros(size, np.int64)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="got -1 and 1000"):
        draw_weights(-1)


@st.composite
def entries(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    images, cells = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rows = draw(
        st.lists(st.tuples(st.integers(0, images - 1), st.integers(0, cells - 1), st.integers(0, 2**32 - 1)), max_size=20)
    )
    image, cell, count = np.array(rows, np.uint32).reshape(-1, 3).T
    return image, cell, count, images, cells


@settings(deadline=None)
@given(entries(), st.data())
def test_sums_are_those_of_a_dense_matrix(case, data):
    image, cell, count, images, cells = case
    # weights above 255 take the wide way
    weights = data.draw(arrays(np.int64, (3, images), elements=st.one_of(st.integers(0, 5), st.integers(0, 400))))
    dense = np.zeros((images, cells), np.int64)
    np.add.at(dense, (image, cell), count.astype(np.int64))
    sums = Resampler(image, cell, count, images=images, num_cells=cells)(weights)
    np.testing.assert_array_equal(sums, weights @ dense)
    assert sums.dtype == np.int64


def test_sums_are_those_over_the_images_drawn():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, (30, 8)) * rng.integers(0, 10**7, (30, 8))
    image, cell = np.nonzero(counts)
    weights = draw_weights(30, replicates=10, seed=5)
    sums = Resampler(image, cell, counts[image, cell], images=30, num_cells=8)(weights)
    for replicate in range(10):
        total = np.zeros(8, np.int64)
        for drawn in np.random.default_rng((5, replicate)).integers(30, size=30):
            total += counts[drawn]
        np.testing.assert_array_equal(sums[replicate], total)


def test_sums_of_nothing_are_0():
    nothing = np.empty(0, np.uint32)
    resampler = Resampler(nothing, nothing, nothing, images=2, num_cells=3)
    np.testing.assert_array_equal(resampler(np.ones((2, 2), np.int64)), np.zeros((2, 3)))
    assert resampler(np.ones((0, 2), np.int64)).shape == (0, 3)


def test_entries_and_weights_must_fit_the_split():
    for image, cell in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match="index"):
            Resampler([image], [cell], [1], images=2, num_cells=3)
    resampler = Resampler([1], [1], [1], images=2, num_cells=3)
    for weights in (np.ones((1, 3), np.int64), np.ones(2, np.int64), np.ones((1, 2))):
        with pytest.raises(ValueError, match=r"weights must be \[b, 2\] integers, got (int64|float64) \("):
            resampler(weights)
    with pytest.raises(ValueError, match="weights must be >= 0, got -1"):
        resampler(np.array([[3, -1]]))


def test_interval_leaves_out_as_much_below_as_above():
    low, high = interval(np.random.default_rng(0).permutation(1001) / 1000)
    assert (low, high) == (pytest.approx(0.025), pytest.approx(0.975))
    low, high = interval(np.arange(11.0), level=0.8)
    assert (low, high) == (pytest.approx(1), pytest.approx(9))


@settings(deadline=None)
@given(arrays(np.float64, (7, 2, 3), elements=st.one_of(st.just(np.nan), st.floats(-1, 1))))
def test_interval_leaves_out_what_is_not_a_number(values):
    bounds = interval(values)
    for place in np.ndindex(2, 3):
        column = values[(slice(None), *place)]
        column = column[~np.isnan(column)]
        expected = np.percentile(column, [2.5, 97.5]) if len(column) else [np.nan, np.nan]
        np.testing.assert_allclose([bound[place] for bound in bounds], expected, rtol=0, atol=1e-12)


def test_interval_of_no_replicate_is_nan():
    assert np.isnan(interval(np.empty((0, 2)))).all()
    assert np.isnan(interval(np.full(3, np.nan))).all()
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        interval([1.0], level=95)


def ratio(hits: np.ndarray, pixels: np.ndarray, axis: int = -1) -> np.ndarray:
    """What an IOU over a split is: a ratio of sums."""
    return hits.sum(axis=axis) / pixels.sum(axis=axis)


def resampled_ratio(hits: np.ndarray, pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    images = np.arange(len(hits))
    entries = (np.tile(images, 2), np.repeat([0, 1], len(hits)), np.concatenate([hits, pixels]))
    sums = Resampler(*entries, images=len(hits), num_cells=2)(weights)
    return sums[:, 0] / sums[:, 1]


def draw_images(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """(hits, pixels) of images; the ratio of the population is 2/3."""
    pixels = rng.integers(100, 900, images)
    return rng.binomial(pixels, rng.beta(4, 2, images)), pixels


def test_interval_is_that_of_scipy():
    hits, pixels = draw_images(np.random.default_rng(1), 60)
    low, high = interval(resampled_ratio(hits, pixels, draw_weights(60, replicates=4000)))
    theirs = scipy_bootstrap(
        (hits, pixels), ratio, paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_interval_holds_the_true_value_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    weights = draw_weights(100, replicates=300)
    held = 0
    for _ in range(400):
        low, high = interval(resampled_ratio(*draw_images(rng, 100), weights))
        held += low <= 2 / 3 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_equal_runs_do_not_differ():
    hits, pixels = draw_images(np.random.default_rng(4), 20)
    ours, theirs = (resampled_ratio(hits, pixels, draw_weights(20)) for _ in range(2))
    low, high = interval(ours - theirs)
    assert (low, high) == (0, 0)
    assert not is_significant(low, high)


def test_pairing_cancels_what_is_hard_for_both_runs():
    rng = np.random.default_rng(5)
    hits, pixels = draw_images(rng, 80)
    better = np.minimum(hits + rng.integers(0, 12, 80), pixels)
    first = resampled_ratio(hits, pixels, draw_weights(80))
    paired = interval(resampled_ratio(better, pixels, draw_weights(80)) - first)
    unpaired = interval(resampled_ratio(better, pixels, draw_weights(80, seed=1)) - first)
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 10
    assert is_significant(*paired)
    assert not is_significant(*unpaired)


def test_a_difference_is_significant_where_its_interval_leaves_out_0():
    low = np.array([0.1, -0.2, -0.1, 0.0, np.nan])
    high = np.array([0.2, -0.1, 0.1, 0.1, np.nan])
    assert is_significant(low, high).tolist() == [True, True, False, False, False]


def test_every_image_is_left_out_once():
    assert leave_out_weights(3).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert leave_out_weights(5, groups=2).tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]]
    assert leave_out_weights(0).shape == (0, 0)


def test_interval_of_a_mean_without_bias_is_students():
    """Of a plain average the jackknife is exact: its standard error is s / sqrt(n)."""
    values = np.random.default_rng(6).normal(size=(15, 2))
    value = values.mean(axis=0)
    low, high = mean_interval(value, [value], leave_out_weights(15) @ values / 14, 15)
    np.testing.assert_allclose([low, high], stats.t.interval(0.95, 14, value, stats.sem(values)))


def test_interval_of_a_mean_is_stretched_against_its_bias():
    """Draws that are 0.1 too high on average: down by 0.1, and not up."""
    left_out = [0.4, 0.5, 0.6]
    low, high = mean_interval(0.5, [0.55, 0.65], left_out, 3)
    plain_low, plain_high = mean_interval(0.5, [0.5], left_out, 3)
    assert (low, high) == (pytest.approx(plain_low - 0.1), pytest.approx(plain_high))


def test_interval_of_a_mean_on_one_image_is_not_known():
    assert np.isnan(mean_interval(0.5, [0.5], [0.4], [1, 0])).all()
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        mean_interval(0.5, [0.5], [0.4, 0.6], 2, level=95)


def test_interval_of_one_seed_is_that_over_images():
    rng = np.random.default_rng(8)
    value, drawn, left_out = rng.random(3), rng.random((50, 3)), rng.random((20, 3))
    for level in (0.8, 0.95):
        over_seeds = interval_over_seeds([value], drawn, left_out, [20, 4, 1], level=level)
        np.testing.assert_array_equal(over_seeds, mean_interval(value, drawn, left_out, [20, 4, 1], level=level))
        over_seeds = interval_over_seeds([value], drawn, None, [20, 4, 1], level=level)
        np.testing.assert_array_equal(over_seeds, interval(drawn, level=level))


@pytest.mark.parametrize(("of_seeds", "of_images"), [(1, 3), (1, 0.1), (0, 1), (1, 0), (0, 0)])
def test_interval_over_seeds_is_welchs_where_seeds_and_images_only_add_up(of_seeds, of_images):
    """Of a + b a mean over seeds and images is that of a plus that of b: a difference of two samples, a and -b."""
    rng = np.random.default_rng(9)
    seeds, images = of_seeds * rng.normal(size=4), of_images * rng.normal(size=15)
    table = seeds[:, None] + images
    left_out = (leave_out_weights(15) @ table.T / 14).mean(axis=1)
    low, high = interval_over_seeds(table.mean(axis=1), [table.mean()], left_out, 15)
    if of_seeds == of_images == 0:
        assert (low, high) == (0, 0)
        return
    if of_images == 0:  # where one sample is constant, SciPy has another test
        expected = stats.ttest_1samp(seeds, 0).confidence_interval()
    elif of_seeds == 0:
        expected = stats.ttest_1samp(images, 0).confidence_interval()
    else:
        expected = stats.ttest_ind(seeds, -images, equal_var=False).confidence_interval()
    np.testing.assert_allclose([low, high], expected)


def test_interval_over_seeds_of_a_figure_without_jackknife_has_the_variance_of_its_draws():
    rng = np.random.default_rng(10)
    seeds, images = rng.normal(size=4), 10 * rng.normal(size=300)
    drawn = draw_weights(300, replicates=4000) @ images / 300 + seeds.mean()
    bounds = interval_over_seeds(seeds + images.mean(), drawn, None, 300)
    welch = stats.ttest_ind(seeds, -images, equal_var=False).confidence_interval()
    np.testing.assert_allclose(bounds, welch, atol=0.04 * (welch.high - welch.low))


def test_interval_over_seeds_is_stretched_against_its_bias():
    """Draws that are 0.1 too high on average: down by 0.1, and not up."""
    left_out, values = [0.4, 0.5, 0.6], [0.4, 0.6]
    low, high = interval_over_seeds(values, [0.55, 0.65], left_out, 3)
    plain_low, plain_high = interval_over_seeds(values, [0.5], left_out, 3)
    assert (low, high) == (pytest.approx(plain_low - 0.1), pytest.approx(plain_high))


def test_interval_over_seeds_is_not_known_of_one_image_or_without_a_seed():
    known = [[0.5, 0.5, 0.5], [0.6, 0.6, np.nan]]
    low, high = interval_over_seeds(known, np.full((2, 3), 0.5), [[0.4] * 3, [0.6] * 3], [2, 1, 2])
    assert np.isnan([low, high]).tolist() == [[False, True, True]] * 2
    with pytest.raises(ValueError, match="values must be of at least one seed"):
        interval_over_seeds(np.empty((0, 3)), np.empty((2, 3)), None, 10)
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        interval_over_seeds([0.5, 0.6], [0.5], None, 10, level=95)


@pytest.mark.parametrize("spread", [0.1, 1, 10])
def test_interval_over_seeds_holds_the_true_value_at_least_as_often_as_it_says(spread):
    """Of 3 seeds on 40 images that differ by seed, image and both; the seeds as much as the images, ten times less or more."""
    rng = np.random.default_rng(11)
    by_seed, by_image = spread * rng.normal(size=(3, 1, 2000)) / np.sqrt(40 / 3), rng.normal(size=(1, 40, 2000))
    table = by_seed + by_image + rng.normal(size=(3, 40, 2000))
    left_out = (table.sum(axis=1, keepdims=True) - table).mean(axis=0) / 39
    values = table.mean(axis=1)
    low, high = interval_over_seeds(values, [values.mean(axis=0)], left_out, 40)
    assert 0.94 < np.mean((low <= 0) & (high >= 0)) < 0.99


@pytest.mark.parametrize(
    ("shows", "expected"),
    [
        ([[1]] * 7, 7),  # one class: how many images show it
        ([[1, 1]] * 7, 7),
        ([[1, 0]] * 10 + [[0, 1]] * 10, 20),
        # the second class's half lies on one image: its weight 1/2 + 1/18, and 1/18 of eight others, by hand
        ([[1, 1]] + [[1, 0]] * 8, 1 / ((10 / 18) ** 2 + 8 / 18**2)),
        ([[1, 0]] * 12, 12),  # a class that no image shows takes no part
        ([[0, 0]] * 3, 0),
    ],
)
def test_images_of_a_mean_are_counted_by_the_weight_that_they_have(shows, expected):
    shows = np.array(shows)
    assert effective_images(shows.T @ shows) == pytest.approx(expected)


def test_of_models_that_are_alike_few_differ_significantly():
    """Means over 40 classes, of which 30 images show most once or twice, of two models of equal errors."""
    rng = np.random.default_rng(7)
    frequency = 0.9 / np.arange(1, 41)
    stars, known = {"mean": 0, "percentile": 0}, 0
    left_out, drawn = leave_out_weights(30), draw_weights(30, replicates=200)
    for _ in range(300):
        shows = rng.random((30, 40)) < frequency
        difference = rng.beta(2, 1, (30, 40)) * shows - rng.beta(2, 1, (30, 40)) * shows

        def mean(weights: np.ndarray, shows: np.ndarray = shows, difference: np.ndarray = difference) -> np.ndarray:
            counts = weights.astype(int) @ shows
            return (weights @ difference / np.maximum(counts, 1)).sum(axis=1) / (counts > 0).sum(axis=1)

        images = effective_images(shows.T.astype(int) @ shows)
        known += images >= ENOUGH
        value = mean(np.ones((1, 30)))[0]
        stars["mean"] += bool(is_significant(*mean_interval(value, mean(drawn), mean(left_out), images)))
        stars["percentile"] += bool(is_significant(*interval(mean(drawn))))
    assert known == 300
    assert stars["mean"] / 300 < 0.07
    assert stars["percentile"] / 300 > 0.07  # why means do not have it


def test_definitions_name_what_is_done():
    assert DEFINITIONS.keys() == {"interval", "interval_over_seeds", "images", "paired_difference"}
    assert f"{LEVEL:.0%}" in DEFINITIONS["interval"]
    assert f"{REPLICATES} times" in DEFINITIONS["interval"]
    assert f"{LEVEL:.0%}" in DEFINITIONS["interval_over_seeds"]
