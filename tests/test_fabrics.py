"""Fabrics: what is chosen, and the textures made of it; truth is a much larger rendering, averaged, or counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imptool.outfits.fabrics import KINDS, PALETTES, Fabric, choose_fabric, fold_tile, texture


def chosen(kind: str, seed: int = 0) -> Fabric:
    return choose_fabric(np.random.default_rng([seed, KINDS.index(kind)]), [kind])


def averaged(fabric: Fabric, shape: tuple[int, int], times: int, *, unit: float, angle: float) -> np.ndarray:
    """The slow reference: a texture that many times larger, averaged down to `shape`."""
    height, width = shape
    large = texture(fabric, (height * times, width * times), unit=unit * times, origin=(0, 0), angle=angle)
    return large.reshape(height, times, width, times, 3).astype(float).mean(axis=(1, 3))


def test_the_same_generator_state_gives_the_same_fabric() -> None:
    first, second = ([choose_fabric(rng, KINDS) for _ in range(40)] for rng in (np.random.default_rng(5) for _ in "ab"))
    assert first == second
    assert len(set(first)) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_texture_is_a_pure_function(kind: str) -> None:
    fabric = chosen(kind)
    first, second = (texture(fabric, (30, 20), unit=48, origin=(-3.5, 8), angle=0.2) for _ in range(2))
    first_again = first.copy()
    first[:] = 0  # what a caller does to its texture reaches no other
    np.testing.assert_array_equal(second, first_again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1.0, 12.0, 400.0, 5000.0])
def test_every_kind_has_a_texture_at_every_size(kind: str, unit: float) -> None:
    for shape in ((1, 1), (3, 50), (40, 7)):
        pixels = texture(chosen(kind, 1), shape, unit=unit, origin=(-1e5, 33.3), angle=-2.0)
        assert pixels.shape == (*shape, 3)
        assert pixels.dtype == np.uint8


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.floats(12, 200),
    st.floats(-4, 4),
    st.tuples(st.integers(-300, 300), st.integers(-300, 300)),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_the_pattern_stays_on_the_garment_when_the_crop_moves(
    kind: str, unit: float, angle: float, origin: tuple[int, int], move: tuple[int, int]
) -> None:
    fabric = chosen(kind)
    whole = texture(fabric, (60, 50), unit=unit, origin=origin, angle=angle)
    part = texture(fabric, (40, 30), unit=unit, origin=(origin[0] + move[0], origin[1] + move[1]), angle=angle)
    there = whole[move[1] : move[1] + 40, move[0] : move[0] + 30]
    # OpenCV samples at 1/32 of a pixel, so a sharp edge of black and white may move by 255/32 and its rounding.
    difference = np.abs(part.astype(int) - there)
    assert np.quantile(difference, 0.99) <= 16
    assert difference.mean() < 3


def test_a_quarter_turn_clockwise_carries_the_top_of_the_crop_to_its_right() -> None:
    fabric = dataclasses.replace(chosen("print"), angle=0.0, phase=(0.3, 0.6))
    upright = texture(fabric, (200, 200), unit=30, origin=(-100, -100), angle=0.0)
    turned = texture(fabric, (200, 200), unit=30, origin=(-100, -100), angle=np.pi / 2)
    assert upright.std() > 5
    difference = np.abs(np.rot90(upright, -1).astype(int) - turned)
    assert difference.mean() < 1


@pytest.mark.parametrize("kind", ["stripes", "pinstripes"])
def test_stripes_are_counted_by_hand(kind: str) -> None:
    # A repeat of half a head at 40 pixels a head: 20 pixels, of them black the middle 8 (two fifths).
    third = {"stripes": (255, 255, 255), "pinstripes": (0, 0, 0)}[kind]
    fabric = Fabric(kind, ((255, 255, 255), (0, 0, 0), third), 0.5, contrast=0.0)
    pixels = texture(fabric, (100, 100), unit=40, origin=(0, 0), angle=0.0)[..., 0]
    across = pixels[:, 7] if kind == "stripes" else pixels[7]
    black = [place for place in range(100) if 6 <= place % 20 < 14]
    np.testing.assert_array_equal(np.flatnonzero(across < 128), black)
    np.testing.assert_array_equal(across[5::20], across[14::20])  # a half pixel off would tell the two edges apart


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [14.0, 31.0, 60.0])
def test_no_moire(kind: str, unit: float) -> None:
    fabric = dataclasses.replace(chosen(kind, 3), contrast=0.3)
    size, block = 96, 16
    got = texture(fabric, (size, size), unit=unit, origin=(0, 0), angle=0.3).astype(float)
    wanted = averaged(fabric, (size, size), 8, unit=unit, angle=0.3)
    # Moire is what is there in means over many pixels and not in the averaged large picture.
    means = [x.reshape(size // block, block, size // block, block, 3).mean(axis=(1, 3)) for x in (got, wanted)]
    assert np.abs(means[0] - means[1]).max() < 5


@pytest.mark.parametrize("kind", ["plain", "knit", "satin", "leather", "rib"])
@pytest.mark.parametrize("colour", [(128, 60, 90), (40, 44, 60), (200, 180, 140)])
def test_cloth_of_one_colour_has_that_colour_on_average(kind: str, colour: tuple[int, int, int]) -> None:
    pixels = texture(Fabric(kind, (colour,), 0.5), (256, 256), unit=128, origin=(0, 0), angle=0.0)
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), colour, atol=2)


def test_kinds_are_drawn_by_weight() -> None:
    rng = np.random.default_rng(0)
    drawn = [choose_fabric(rng, {"plain": 3, "tweed": 0, "denim": 1}).kind for _ in range(800)]
    assert set(drawn) == {"plain", "denim"}
    assert abs(drawn.count("plain") / 800 - 0.75) < 0.06  # 4 standard deviations


@pytest.mark.parametrize("palette", sorted(PALETTES))
def test_the_ground_comes_from_the_palette(palette: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        ground = np.array(choose_fabric(rng, ["plain"], palette=palette).colours[0])
        assert np.abs(np.array(PALETTES[palette]) - ground).max(axis=1).min() <= 40


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_with_every_palette(kind: str) -> None:
    rng = np.random.default_rng(2)
    for palette in sorted(PALETTES) * 10:
        fabric = choose_fabric(rng, [kind], palette=palette)
        assert all(0 <= part <= 255 for colour in fabric.colours for part in colour)
        assert 0 <= fabric.gloss <= 1
        assert 0 <= fabric.weight <= 1


def test_what_is_unknown_or_empty_is_told() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown kind of fabric 'denims'; did you mean 'denim'"):
        choose_fabric(rng, ["denims"])
    with pytest.raises(ValueError, match="unknown kind of fabric 'foil'"):
        Fabric("foil", ((0, 0, 0),), 1.0)
    with pytest.raises(ValueError, match="unknown palette 'lights'; did you mean 'light'"):
        choose_fabric(rng, KINDS, palette="lights")
    with pytest.raises(ValueError, match="kinds need weights"):
        choose_fabric(rng, [])
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="kinds need weights"):
            choose_fabric(rng, {"plain": weight, "denim": 0.0})
    with pytest.raises(ValueError, match="kinds need weights"):
        choose_fabric(rng, {"plain": 2.0, "denim": -1.0})
    with pytest.raises(ValueError, match="1 to 4 colours, got 5"):
        Fabric("plain", ((0, 0, 0),) * 5, 1.0)
    with pytest.raises(ValueError, match="scale must be above 0, got 0"):
        Fabric("plain", ((0, 0, 0),), 0.0)
    for shape, unit in (((0, 5), 48.0), ((5, 5), 0.0), ((5, 5), float("nan"))):
        with pytest.raises(ValueError, match="at least 1 x 1 and a unit above 0"):
            texture(chosen("plain"), shape, unit=unit, origin=(0, 0), angle=0.0)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_folds_are_level_on_average_and_repeat_without_a_seam(variant: int) -> None:
    pixels = fold_tile(variant).astype(int)
    assert pixels.shape == (256, 256)
    assert abs(pixels.mean() - 128) < 2
    for axis in (0, 1):
        steps = np.abs(np.diff(pixels, axis=axis, append=np.take(pixels, [0], axis)))
        assert np.take(steps, -1, axis).mean() < 2 * steps.mean() + 1
    assert not np.array_equal(pixels, fold_tile(variant + 1))


def test_folds_run_down_the_cloth() -> None:
    for variant in range(4):
        pixels = fold_tile(variant).astype(int)
        assert np.abs(np.diff(pixels, axis=1)).mean() > 2 * np.abs(np.diff(pixels, axis=0)).mean()
