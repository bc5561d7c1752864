"""The bootstrap over images against sums written out, NumPy's percentiles and SciPy's bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap as scipy_bootstrap

from imptool.metrics.bootstrap import DEFINITIONS, LEVEL, REPLICATES, Resampler, draw_weights, interval, is_certain


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
    assert not is_certain(low, high)


def test_pairing_cancels_what_is_hard_for_both_runs():
    rng = np.random.default_rng(5)
    hits, pixels = draw_images(rng, 80)
    better = np.minimum(hits + rng.integers(0, 12, 80), pixels)
    first = resampled_ratio(hits, pixels, draw_weights(80))
    paired = interval(resampled_ratio(better, pixels, draw_weights(80)) - first)
    unpaired = interval(resampled_ratio(better, pixels, draw_weights(80, seed=1)) - first)
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 10
    assert is_certain(*paired)
    assert not is_certain(*unpaired)


def test_a_difference_is_certain_where_its_interval_leaves_out_0():
    low = np.array([0.1, -0.2, -0.1, 0.0, np.nan])
    high = np.array([0.2, -0.1, 0.1, 0.1, np.nan])
    assert is_certain(low, high).tolist() == [True, True, False, False, False]


def test_definitions_name_what_is_done():
    assert DEFINITIONS.keys() == {"interval", "paired_difference"}
    assert f"{LEVEL:.0%}" in DEFINITIONS["interval"]
    assert f"{REPLICATES} times" in DEFINITIONS["interval"]
