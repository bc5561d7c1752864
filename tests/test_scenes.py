"""Backgrounds of the generated outfits and the light over the finished picture."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imptool.outfits.scenes import SCENES, Scene, draw_scene, finish


def picture(seed: int, kind: str, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, kind, size)
    return finish(rng, scene.image, scene)


def lit_grey(kind: str = "studio", light: float = 0.0, warmth: float = 0.0) -> np.ndarray:
    """The mean of 20 finished grey pictures, [96, 64, 3]."""
    scene = Scene(np.full((96, 64, 3), 120, np.uint8), kind, 0.8, light, warmth)
    return np.mean([finish(np.random.default_rng(seed), scene.image, scene) for seed in range(20)], axis=0)


@pytest.mark.parametrize("kind", SCENES)
def test_equal_seeds_give_equal_bytes_whatever_was_drawn_before(kind: str) -> None:
    first = [picture(seed, kind, (120, 80)) for seed in range(4)]
    for other in SCENES:
        picture(9, other, (64, 97))
    random.seed(5)  # the global state must not matter
    for seed, image in reversed(list(enumerate(first))):
        np.testing.assert_array_equal(picture(seed, kind, (120, 80)), image)


@pytest.mark.parametrize("kind", SCENES)
def test_differing_seeds_give_differing_pictures(kind: str) -> None:
    scenes = {draw_scene(np.random.default_rng(seed), kind, (60, 40)).image.tobytes() for seed in range(12)}
    assert len(scenes) == 12


@pytest.mark.parametrize("size", [(32, 32), (97, 211), (480, 320), (700, 640), (32, 400), (400, 32)])
@pytest.mark.parametrize("kind", SCENES)
def test_every_size_is_filled(kind: str, size: tuple[int, int]) -> None:
    image = picture(3, kind, size)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 1  # something is drawn


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(SCENES), seed=st.integers(0, 2**32), height=st.integers(32, 200), width=st.integers(32, 200))
def test_a_scene_says_where_floor_and_light_are(kind: str, seed: int, height: int, width: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), kind, (height, width))
    assert scene.image.shape == (height, width, 3)
    assert scene.kind == kind
    assert (scene.floor == 0) == (kind == "layflat")
    assert 0 <= scene.floor < 0.9  # feet find room below it
    assert 0.3 <= abs(scene.light) <= 1
    assert all(0.85 < gain < 1.15 for gain in scene.tint)


def test_the_floor_of_a_room_differs_from_its_wall() -> None:
    changes = []
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), "room", (240, 160))
        rows = scene.image.astype(float)
        line = round(scene.floor * 240)
        changes.append(np.abs(rows[line - 12 : line - 6].mean(axis=0) - rows[line + 6 : line + 12].mean(axis=0)).mean())
    assert np.median(changes) > 15


def test_the_side_of_the_light_is_the_brighter_one() -> None:
    right, left = lit_grey(light=1), lit_grey(light=-1)
    assert right[:, 40:].mean() > right[:, :24].mean() + 2
    assert left[:, :24].mean() > left[:, 40:].mean() + 2


def test_warm_light_reddens_and_cold_light_blues() -> None:
    warm, cold = lit_grey(warmth=1).mean(axis=(0, 1)), lit_grey(warmth=-1).mean(axis=(0, 1))
    assert warm[0] > warm[2] + 10
    assert cold[2] > cold[0] + 10


def test_a_spot_lights_the_middle_of_a_runway() -> None:
    def excess(image: np.ndarray) -> float:
        return image[30:60, 22:42].mean() - image[30:60, :8].mean()

    assert excess(lit_grey("runway")) > excess(lit_grey("studio")) + 10


def test_finish_leaves_its_input_alone() -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(rng, "street", (64, 48))
    before = scene.image.copy()
    assert not np.array_equal(finish(rng, scene.image, scene), before)
    np.testing.assert_array_equal(scene.image, before)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"street, runway, studio, room, layflat, got 'beach'"):
        draw_scene(np.random.default_rng(0), "beach", (64, 64))


def test_a_size_below_32_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 64 x 31"):
        draw_scene(np.random.default_rng(0), "street", (64, 31))
