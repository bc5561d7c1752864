"""Duplicates against altered copies, drawn outfits that all differ, and the pairs known among real images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_pair
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imptool.data.duplicates import MOST_PARTNERS, Fingerprint, find_duplicates, fingerprint
from imptool.data.images import find_images, read_image
from imptool.outfits import Outfit, draw_outfit

Image = NDArray[np.uint8]

# By hand, from the notes that come with the data.
SAME_PHOTOGRAPHS = {
    ("0078", "0984"),
    ("0183", "0730"),
    ("0197", "0671"),
    ("0594", "0722"),
    ("0692", "0732"),
    ("0907", "0990"),
}


def scaled(image: Image, gain: float | tuple[float, float, float], offset: float = 0.0) -> Image:
    return (image * np.float64(gain) + offset).round().clip(0, 255).astype(np.uint8)


def cut(image: Image, left: float, top: float, right: float, bottom: float) -> Image:
    height, width = image.shape[:2]
    return image[round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)]


def recompressed(image: Image, quality: int) -> Image:
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR), np.uint8
    )


def resized(image: Image, factor: float) -> Image:
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


COPIES: dict[str, Callable[[Image], Image]] = {
    "compressed": lambda image: recompressed(image, 30),
    "brighter": lambda image: scaled(image, 1.2),
    "darker": lambda image: scaled(image, 0.8),
    "more contrast": lambda image: scaled(image, 1.2, -0.2 * 128),
    "less contrast": lambda image: scaled(image, 0.8, 0.2 * 128),
    "gamma 1.2": lambda image: scaled((image / 255) ** 1.2, 255),
    "gamma 0.8": lambda image: scaled((image / 255) ** 0.8, 255),
    "warm": lambda image: scaled(image, (1.2, 1, 0.8)),
    "cold": lambda image: scaled(image, (0.8, 1, 1.2)),
    "grey": lambda image: np.repeat(scaled(image.mean(axis=2, keepdims=True), 1), 3, axis=2),
    "cut off at a side": lambda image: cut(image, 0.05, 0, 0, 0),
    "cut off above and below": lambda image: cut(image, 0, 0.05, 0, 0.05),
    "cut off unevenly": lambda image: cut(image, 0.04, 0.01, 0.0, 0.05),
    "half the size": lambda image: resized(image, 0.5),
    "larger": lambda image: resized(image, 1.5),
    "all at once": lambda image: recompressed(resized(scaled(cut(image, 0.02, 0.03, 0.04, 0.01), (1.1, 1, 0.9)), 0.5), 50),
}


@lru_cache
def drawn(count: int = 40) -> list[Outfit]:
    return [draw_outfit(3, index, (480, 320)) for index in range(count)]


@lru_cache
def drawn_fingerprints() -> list[Fingerprint]:
    return [fingerprint(outfit.image) for outfit in drawn()]


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> dict[str, Image]:
    """All real images by name, decoded at half their size: 900 and 149 in the street, 40 of single garments."""
    photos = shared_data / "photos"
    folders = (shared_data / "ccp" / "photos", photos / "ccp_image_level" / "photos", photos / "clothing_cc0")
    paths = [path for folder in folders for path in find_images(folder)]
    return {path.stem: cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2), cv2.COLOR_BGR2RGB) for path in paths}


def pairs(fingerprints: list[Fingerprint]) -> set[tuple[int, int]]:
    found = [(i, j) for i, j, _ in find_duplicates(fingerprints)]
    assert found == sorted(set(found))
    assert all(i < j for i, j in found)
    return set(found)


def plain(*color: int, size: tuple[int, int] = (60, 40)) -> Image:
    return np.full((*size, 3), color, np.uint8)


def test_among_real_photographs_exactly_those_known_to_be_the_same_are_found(photographs: dict[str, Image]) -> None:
    names = list(photographs)
    found = find_duplicates([fingerprint(image) for image in photographs.values()])
    # Not 0223 and 0616: neighbouring shots.
    assert {(names[i], names[j]) for i, j, _ in found} == SAME_PHOTOGRAPHS


@pytest.mark.parametrize("copy", COPIES)
def test_altered_copies_of_real_photographs_are_found(photographs: dict[str, Image], copy: str) -> None:
    originals = [image for name, image in photographs.items() if name not in np.ravel(list(SAME_PHOTOGRAPHS))][::40]
    prints = [fingerprint(image) for image in originals + [COPIES[copy](image) for image in originals]]
    assert pairs(prints) == {(i, i + len(originals)) for i in range(len(originals))}


@pytest.mark.parametrize("copy", COPIES)
def test_altered_copies_of_drawn_pictures_are_found(copy: str) -> None:
    originals = drawn_fingerprints()
    copies = [fingerprint(COPIES[copy](outfit.image)) for outfit in drawn()]
    found = pairs(originals + copies)
    assert found <= {(i, i + len(originals)) for i in range(len(originals))}
    # Stripes, or shadows that follow the frame, can lead the alignment of a cropped picture astray.
    assert len(found) >= 0.95 * len(originals)


def test_different_outfits_on_a_white_background_are_no_copies() -> None:
    cut_out = [np.where(outfit.labels[..., None] > 0, outfit.image, 255).astype(np.uint8) for outfit in drawn()]
    assert pairs([fingerprint(image) for image in cut_out]) == set()


def test_the_noise_of_a_plain_background_does_not_hide_a_copy() -> None:
    rng = np.random.default_rng(0)
    shots = []
    for outfit in drawn()[:20]:
        small = resized(np.where(outfit.labels[..., None] > 0, outfit.image, 190).astype(np.uint8), 0.7)
        framed = np.pad(small, ((72, 72), (48, 48), (0, 0)), constant_values=190)
        shots.append([fingerprint(scaled(framed + rng.normal(0, 4, framed.shape), 1)) for _ in range(2)])
    first, second = map(list, zip(*shots, strict=True))
    assert pairs(first + second) == {(i, i + 20) for i in range(20)}


def test_a_shape_of_another_size_is_no_copy() -> None:
    discs = [
        cv2.circle(plain(255, 255, 255, size=(300, 200)), (100, 150), radius, (0, 0, 0), -1) for radius in (40, 50, 62, 78)
    ]
    assert pairs([fingerprint(disc) for disc in discs]) == set()


def test_a_background_that_stays_does_not_outvote_a_person_who_changed() -> None:
    wall = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    wall = np.asarray(cv2.resize(wall, (320, 480), interpolation=cv2.INTER_CUBIC), np.uint8)
    shots = []
    for outfit in drawn():
        person = outfit.labels[..., None] > 0
        if person.mean() > 0.15:
            shots.append(np.where(person, outfit.image, wall))
    assert len(shots) > 10
    assert pairs([fingerprint(image) for image in shots]) == set()


@pytest.mark.parametrize("part", [2, 4])
def test_a_reduced_decode_serves_as_well(shared_data: Path, part: int) -> None:
    reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}[part]
    paths = find_images(shared_data / "ccp" / "photos")[::45]
    images = [read_image(path) for path in paths]
    images += [cv2.cvtColor(cv2.imread(str(path), reduced), cv2.COLOR_BGR2RGB) for path in paths]
    assert images[20].shape[1] == -(-images[0].shape[1] // part)
    assert pairs([fingerprint(image) for image in images]) == {(i, i + 20) for i in range(20)}


def test_mirrored_and_turned_copies_are_other_photographs() -> None:
    image = drawn()[0].image
    assert pairs([fingerprint(one) for one in (image, image[:, ::-1], image[::-1], np.rot90(image))]) == set()


def test_equal_photographs_have_similarity_1() -> None:
    one, other = drawn_fingerprints()[:2]
    assert find_duplicates([one, other, fingerprint(drawn()[0].image.copy())]) == [(0, 2, 1.0)]


def hashes_that_differ_in(counts: list[int], seed: int) -> NDArray[np.uint8]:
    """[N, 256] of 0 and 1: a random row with so many places changed, chosen at random for each."""
    rng = np.random.default_rng(seed)
    rows = np.tile(rng.integers(0, 2, 256, dtype=np.uint8), (len(counts), 1))
    for row, count in zip(rows, counts, strict=True):
        row[rng.choice(256, count, replace=False)] ^= 1
    return rows


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=MOST_PARTNERS + 1), st.integers(0, 2**32))
@example([0, 54, 55, 256], 0)
def test_photographs_are_compared_when_their_hashes_differ_in_at_most_54_bits(counts: list[int], seed: int) -> None:
    rows = hashes_that_differ_in(counts, seed)
    # Equal checksums: whatever is compared is a pair.
    prints = [Fingerprint(np.packbits(row).view(np.uint64), np.zeros((80, 80), np.uint8), checksum=0) for row in rows]
    assert pairs(prints) == {(i, j) for i, j in combinations(range(len(rows)), 2) if (rows[i] != rows[j]).sum() <= 54}


def test_the_nearest_hashes_are_compared_first() -> None:
    # 30 others, 20 bits away, lie between a picture and its copy, which is 5 bits away.
    rows = hashes_that_differ_in([0, *[20] * 30, 5], seed=0)
    images = [outfit.image for outfit in drawn()[:31]]
    prints = [fingerprint(image) for image in [*images, recompressed(images[0], 50)]]
    placed = [
        Fingerprint(np.packbits(row).view(np.uint64), each.thumbnail, each.checksum)
        for row, each in zip(rows, prints, strict=True)
    ]
    assert pairs(placed) == {(0, 31)}


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(30)))
def test_the_order_of_photographs_does_not_matter(order: list[int]) -> None:
    originals = drawn_fingerprints()[:24]
    altered = [fingerprint(COPIES["all at once"](outfit.image)) for outfit in drawn()[:6]]
    everything = originals + altered
    found = {frozenset((order[i], order[j])) for i, j in pairs([everything[k] for k in order])}
    assert found == {frozenset((i, i + 24)) for i in range(6)}


def test_plain_photographs_are_copies_only_when_their_pixels_are_equal() -> None:
    # Red and the darker green have the same grey.
    images = [plain(255, 0, 0), plain(0, 130, 0), plain(255, 255, 255), plain(254, 255, 255), plain(0, 0, 0), plain(255, 0, 0)]
    assert len({int(fingerprint(image).thumbnail[0, 0]) for image in images[:2]}) == 1
    assert find_duplicates([fingerprint(image) for image in images]) == [(0, 5, 1.0)]


def test_a_copy_is_found_behind_many_others_with_the_same_hash() -> None:
    others = [plain(level, level, level) for level in range(3 * MOST_PARTNERS)]
    assert find_duplicates([fingerprint(image) for image in [*others, others[0]]]) == [(0, len(others), 1.0)]


def test_plain_photographs_of_other_sides_are_no_copies() -> None:
    assert pairs([fingerprint(plain(9, 9, 9, size=size)) for size in ((60, 40), (40, 60), (30, 80))]) == set()


@pytest.mark.parametrize("noise", [1, 3, 30])
def test_grain_is_not_compared_with_other_grain(noise: int) -> None:
    rng = np.random.default_rng(0)
    images = [scaled(rng.normal(128, noise, (120, 90, 3)), 1) for _ in range(50)]
    assert pairs([fingerprint(image) for image in images]) == set()


@pytest.mark.parametrize("size", [(96, 72), (200, 150)])
def test_equal_shapes_in_different_grain_are_no_copies(size: tuple[int, int]) -> None:
    assert pairs([fingerprint(draw_pair(seed, size)[0]) for seed in range(15)]) == set()


def test_shaded_backgrounds_are_no_copies() -> None:
    y, x = np.mgrid[:120, :90]
    ramps = [scaled(np.repeat((np.cos(a) * x + np.sin(a) * y)[..., None], 3, axis=2), 1, 100) for a in np.linspace(0, 6, 30)]
    assert pairs([fingerprint(image) for image in ramps]) == set()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)), max_size=8))
@example([(2, 1, seed) for seed in range(8)])
def test_tiny_photographs_are_copies_only_when_their_pixels_are_equal(made: list[tuple[int, int, int]]) -> None:
    images = [np.random.default_rng(seed).integers(0, 2, (h, w, 3), dtype=np.uint8) * 255 for h, w, seed in made]
    equal = {(i, j) for i, j in combinations(range(len(images)), 2) if np.array_equal(images[i], images[j])}
    assert pairs([fingerprint(image) for image in images]) == equal


@pytest.mark.parametrize("altered", [False, True])
def test_up_to_11_copies_give_all_their_pairs(altered: bool) -> None:
    image = drawn()[0].image
    copies = [fingerprint(recompressed(image, 40 + 5 * i) if altered else image) for i in range(MOST_PARTNERS + 1)]
    others = drawn_fingerprints()[1:]
    assert pairs(others + copies) == set(combinations(range(len(others), len(others) + len(copies)), 2))


@pytest.mark.parametrize("image", [drawn(1)[0].image, plain(7, 7, 7)])
def test_a_thousand_copies_give_few_pairs_that_still_connect_them_all(image: Image) -> None:
    found = pairs([fingerprint(image)] * 1000)
    assert len(found) <= 1000 * MOST_PARTNERS
    assert {(i, i + 1) for i in range(999)} <= found


def test_no_photograph_and_one_photograph_have_no_pairs() -> None:
    assert find_duplicates([]) == []
    assert find_duplicates(drawn_fingerprints()[:1]) == []


def test_layout_in_memory_does_not_matter_and_the_photograph_is_left_as_it_was() -> None:
    image = drawn()[0].image.copy()
    image.flags.writeable = False
    doubled = np.repeat(np.repeat(image, 2, 0), 2, 1)
    prints = [fingerprint(one) for one in (image, np.asfortranarray(image), doubled[::2, ::2], image[:, ::-1][:, ::-1])]
    assert find_duplicates(prints) == [(i, j, 1.0) for i, j in combinations(range(4), 2)]
    np.testing.assert_array_equal(image, drawn()[0].image)


def test_55000_fingerprints_fit_in_memory() -> None:
    kept = drawn_fingerprints()[0]
    assert (kept.bits.nbytes + kept.thumbnail.nbytes) * 55_000 < 400e6
    assert kept.thumbnail.base is None  # no view that keeps the image alive


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_photograph_is_refused(image: Image) -> None:
    with pytest.raises(ValueError, match=r"must be \[H, W, 3\] uint8 with at least one pixel, got"):
        fingerprint(image)
