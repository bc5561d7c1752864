"""Images -> fingerprints -> pairs that are one image twice: a perceptual hash proposes, aligned pixels confirm."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Each image is compared with the nearest among those after it. So up to 11 copies give all their pairs, and a thousand
# copies, or a thousand frames of a fixed camera, give neither half a million pairs nor as many comparisons.
MOST_PARTNERS = 10

_SIDE = 80  # px of a thumbnail
_HASH_SIGMA, _HASH_PLACES = 6.25, 8  # px; along a side
_HASH_FLAT = 0.25  # grey levels: the noise of a plain background must not set bits
_MOST_BITS = 54  # of 256 may differ
_DETAIL_SIGMA = 1.5  # px: only what is finer is compared; in what is coarser, all street images are alike
_BLOCK = 20  # px
_TEXTURE = 2.0  # grey levels: a block whose detail is weaker in both thumbnails says nothing
_LEAST_BLOCKS = 4  # of 16, with texture
_MOST_SHIFT = 6.0  # px, of a corner: 5 % cut off at each side moves it by 4.4
_LEAST_SIMILARITY = 0.6

_UNMOVED = np.eye(2, 3, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is kept of an image, 6.4 KB.

    Attributes:
        bits: [4] uint64, the perceptual hash.
        thumbnail: [80, 80] uint8, the whole image in grey, squeezed to a square.
        checksum: of sides and pixels.
    """

    bits: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]
    checksum: int


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Keep what `find_duplicates` compares.

    Args:
        image: [H, W, 3] uint8 RGB. A reduced decode serves as well, with sides of 160 px or more.
    Raises:
        ValueError: image is not [H, W, 3] uint8 or has no pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be [H, W, 3] uint8 with at least one pixel, got {image.dtype} {list(image.shape)}")
    image = np.ascontiguousarray(image)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if min(grey.shape) < _SIDE // 2:  # enlarged so far, all have the same detail: only equal pixels are to count
        grey = np.zeros_like(grey)
    thumbnail = np.asarray(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    checksum = zlib.crc32(image.data, zlib.crc32(repr(image.shape).encode()))
    return Fingerprint(_hash(thumbnail), thumbnail, checksum)


def find_duplicates(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """Find the pairs of images that are one image twice.

    Copies with other colours, another size or compression are found, and nearly all from which up to 5 % is cut off at
    each side; mirrored and turned copies are not. A neighbouring shot, in which the person has moved, is another
    image. Of images without texture, only those with equal pixels are the same.

    Returns:
        (i, j, similarity) with i < j, sorted; each image with the MOST_PARTNERS nearest after it at most. The
        similarity is 1 for equal pixels, else the correlation that nine tenths of the textured blocks reach.
    Source:
        Alignment: Evangelidis, Psarakis, Parametric Image Alignment Using Enhanced Correlation Coefficient
        Maximization (2008), by OpenCV.
    """
    if not fingerprints:
        return []
    bits = np.stack([each.bits for each in fingerprints])
    checksums = np.array([each.checksum for each in fingerprints])
    pairs = []
    for i, each in enumerate(fingerprints):
        near, distances = _near(bits, i, _MOST_BITS)
        nearest_first = np.lexsort((distances, checksums[near] != each.checksum))
        for j in sorted(near[nearest_first[:MOST_PARTNERS]].tolist()):
            similarity = _similarity(each, fingerprints[j])
            if similarity >= _LEAST_SIMILARITY:
                pairs.append((i, j, similarity))
    return pairs


def _gaussian_derivatives() -> Floats:
    """[3, 8, 80]: weights along a side that smooth, derive once and derive twice, at each of 8 places."""
    centers = (np.arange(_HASH_PLACES) + 0.5) * _SIDE / _HASH_PLACES
    u = (np.arange(_SIDE) + 0.5 - centers[:, None]) / _HASH_SIGMA
    smooth = np.exp(-u * u / 2)
    smooth /= smooth.sum(axis=1, keepdims=True)
    weights = np.stack([smooth, u * smooth, (u * u - 1) * smooth])
    weights[1:] -= weights[1:].sum(axis=2, keepdims=True) * smooth  # also where the border cuts it, a constant gives 0
    return weights.astype(np.float32)


_DERIVATIVES = _gaussian_derivatives()


def _hash(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Signs of both first and the two mixed third derivatives: large enough to survive a crop, and all but independent."""
    smooth, first, second = _DERIVATIVES
    grey = thumbnail.astype(np.float32)
    pairs = ((smooth, first), (first, smooth), (first, second), (second, first))
    return np.packbits(np.stack([down @ grey @ along.T for down, along in pairs]) > _HASH_FLAT).view(np.uint64)


@njit(cache=True)
def _near(bits: NDArray[np.uint64], i: int, most: int) -> tuple[Ints, Ints]:
    """The rows after i that differ from row i in at most `most` bits, and in how many."""
    rows = np.empty(len(bits) - i - 1, np.int64)
    distances = np.empty(len(bits) - i - 1, np.int64)
    count = 0
    for j in range(i + 1, len(bits)):
        distance = np.int64(0)
        for word in range(bits.shape[1]):
            distance += _count_ones(bits[i, word] ^ bits[j, word])
        if distance <= most:
            rows[count], distances[count] = j, distance
            count += 1
    return rows[:count], distances[:count]


@njit(cache=True)
def _count_ones(word: np.uint64) -> np.int64:
    """In this form the compiler recognizes the count and takes the processor's own instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


def _similarity(one: Fingerprint, other: Fingerprint) -> float:
    if one.checksum == other.checksum:
        return 1.0
    a, b = one.thumbnail.astype(np.float32), other.thumbnail.astype(np.float32)
    # Unmoved as well: most copies are not cropped, and the alignment may go astray.
    return max(_agreement(a, b, warp) for warp in (_UNMOVED, _align(a, b)))


def _align(a: Floats, b: Floats) -> Floats:
    """[2, 3]: where in b each place of a lies; unmoved where that is not found, or too far away."""
    everywhere = np.full(a.shape, 255, np.uint8)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-3)
    try:
        found = cv2.findTransformECC(a, b, _UNMOVED.copy(), cv2.MOTION_AFFINE, stop, everywhere, 3)[1]
    except cv2.error:  # it diverged, or one of the two is constant
        return _UNMOVED
    warp = np.asarray(found, np.float32)
    corners = np.array([(x, y, 1) for x in (0, _SIDE) for y in (0, _SIDE)], np.float32)
    return warp if np.abs(corners @ (warp - _UNMOVED).T).max() <= _MOST_SHIFT else _UNMOVED


def _agreement(a: Floats, b: Floats, warp: Floats) -> float:
    """The correlation of detail that nine tenths of the textured blocks reach; 0 with too few of them."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = np.asarray(cv2.warpAffine(np.full(b.shape, 255, np.uint8), warp, b.shape, flags=flags)) == 255
    a, b = _detail(a) * inside, np.asarray(cv2.warpAffine(_detail(b), warp, b.shape, flags=flags), np.float32) * inside
    aa, bb, ab, pixels = (_block_sums(product) for product in (a * a, b * b, a * b, inside))
    textured = (np.maximum(aa, bb) > _TEXTURE**2 * pixels) & (pixels > _BLOCK**2 / 2)
    if textured.sum() < _LEAST_BLOCKS:
        return 0.0
    correlations = ab[textured] / np.sqrt(np.maximum(aa * bb, 1e-6)[textured])
    return min(float(np.quantile(correlations, 0.1)), 1.0)  # no mean: a background that stays must not outvote the person


def _detail(grey: Floats) -> Floats:
    return grey - cv2.GaussianBlur(grey, (0, 0), _DETAIL_SIGMA)


def _block_sums(image: NDArray[np.float32] | NDArray[np.bool_]) -> Floats:
    count = _SIDE // _BLOCK
    return image.reshape(count, _BLOCK, count, _BLOCK).sum(axis=(1, 3), dtype=np.float32)
