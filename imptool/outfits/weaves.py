"""Weaves: the tile of every kind of cloth, and tiles of folds; they repeat without a seam and come from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Channels = tuple[Field | float, Field | float, Field | float]

SIZE = 256  # of a tile, in pixels
FINE = 2 * SIZE  # tiles are made at this size and averaged down


# ---- fields [512, 512] that repeat without a seam


def grid(size: int = FINE) -> tuple[Field, Field]:
    """x and y of every pixel's centre, 0..1."""
    place = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(place, (size, size)), np.broadcast_to(place[:, None], (size, size))


@cache
def _noise(seed: int, across: float, down: float, size: int = FINE) -> Field:
    """White noise under a wrap-around Gaussian of these sigmas, in tiles; mean 0, deviation 1."""
    fx, fy = np.fft.rfftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size)[:, None]
    gaussian = np.exp(-2 * np.pi**2 * ((across * fx) ** 2 + (down * fy) ** 2))
    white = np.random.default_rng(seed).standard_normal((size, size), np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(white) * gaussian, (size, size))
    smooth -= smooth.mean()
    return (smooth / smooth.std()).astype(np.float32)


def _band(place: Field, start: float, end: float, edge: float = 0.02) -> Field:
    """1 where the fraction of `place` lies in start..end, with an edge that wide on both sides."""
    inside = (end - start) / 2 - np.abs((place - (start + end) / 2 + 0.5) % 1 - 0.5)
    return np.clip(inside / edge + 0.5, 0, 1)


def _arch(place: Field, power: float = 0.6) -> Field:
    """A row of rounded ribs, 0..1, sharp between them."""
    return np.abs(np.sin(np.pi * place)) ** power


def _wave(place: Field) -> Field:
    return np.sin(2 * np.pi * place)


def _step(field: Field, level: float, edge: float) -> Field:
    return np.clip((field - level) / edge + 0.5, 0, 1)


def _relief(height: Field, depth: float) -> Field:
    """Any height as a relief channel: level (0.5) at its mean."""
    return 0.5 + depth * (height - height.mean())


def _cells(seed: int, side: int) -> Field:
    """The distance to the nearest of side x side points, each somewhere in its own square, in squares."""
    squares = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    jitter = np.random.default_rng(seed).uniform(0.1, 0.9, squares.shape)
    points = ((squares + jitter) * (FINE / side)).astype(int)
    free = np.full((FINE, FINE), 255, np.uint8)
    free[points[:, 1], points[:, 0]] = 0
    distance = cv2.distanceTransform(np.tile(free, (3, 3)), cv2.DIST_L2, 5)[FINE : 2 * FINE, FINE : 2 * FINE]
    return distance * (side / FINE)


def _weave(depth: float = 0.05) -> Field:
    return 0.5 + depth * (_noise(1, 0.004, 0.0008) + _noise(2, 0.0008, 0.004))


def _streaks() -> Field:
    return _noise(3, 0.02, 0.0025)


def _yarn() -> Field:
    return _noise(5, 0.0015, 0.03) + 0.6 * _noise(6, 0.03, 0.0015)


# ---- the tile of every kind: its three channels from x and y


def _stripes(place: Field, core: tuple[float, float], whole: tuple[float, float], relief: Field) -> Channels:
    """Bands of the second colour, between flanks of the third."""
    inner = _band(place, *core)
    return inner, _band(place, *whole) - inner, relief


def _checks(x: Field, y: Field) -> Channels:
    across, down = _band(4 * x, 0.25, 0.75), _band(4 * y, 0.25, 0.75)
    twill = 0.08 * _wave(48 * (x + y)) * np.abs(across - down)
    return np.clip((across + down) / 2 + twill, 0, 1), 0, _weave()


def _tartan(x: Field, y: Field) -> Channels:
    twill = 0.5 + 0.22 * _wave(48 * (x + y))

    def woven(*bands: tuple[float, float]) -> Field:
        return twill * sum(_band(x, *band) for band in bands) + (1 - twill) * sum(_band(y, *band) for band in bands)

    lines = ((0.44, 0.47), (0.53, 0.56))
    return woven((0.28, 0.44), (0.47, 0.53), (0.56, 0.72)), woven((0.17, 0.22), (0.78, 0.83), *lines), woven((-0.015, 0.015))


def _dots(x: Field, y: Field) -> Channels:
    first, second = (np.hypot((4 * x + shift) % 1 - 0.5, (4 * y + shift) % 1 - 0.5) for shift in (0, 0.5))
    return 1 - _step(first, 0.22, 0.02), 1 - _step(second, 0.22, 0.02), _weave()


def _denim(x: Field, y: Field) -> Channels:
    weft = 0.2 + 0.16 * _wave(32 * (x + y)) + 0.16 * _yarn() + 0.05 * _noise(7, 0.08, 0.08)
    return np.clip(weft, 0, 1), 0, 0.5 + 0.07 * _yarn()


def _stitches(x: Field, y: Field, columns: int, rows: int) -> Field:
    side = np.abs(2 * (columns * x % 1) - 1)
    return _arch(rows * y + 0.75 * side, 0.7) * _arch(side, 0.5)


def _cable(x: Field, y: Field) -> Channels:
    u, turn = 2 * x % 1, 4 * np.pi * y
    height = 0.35 * _arch(24 * x) * (np.abs(u - 0.5) > 0.36)
    for way in (1, -1):
        away = np.abs(u - 0.5 - way * 0.16 * np.cos(turn)) / 0.17
        height = np.maximum(height, np.sqrt(np.clip(1 - away**2, 0, 1)) * (0.8 + 0.2 * way * np.sin(turn)))
    return 0, 0, _relief(height, 0.8) + 0.18 * (_stitches(x, y, 24, 32) - 0.5)


def _quilted(x: Field, y: Field) -> Channels:
    pucker = _noise(8, 0.012, 0.05) * (1 - _arch(3 * y, 0.8))
    return 0, 0, _relief(_arch(3 * y, 0.55), 0.7) + 0.07 * pucker + 0.03 * _noise(9, 0.03, 0.03)


def _leather(x: Field, y: Field) -> Channels:
    """Grain: the zero lines of noise are a net of fine cracks."""
    cracks = np.exp(-((_noise(12, 0.008, 0.008) / 0.3) ** 2)) + 0.6 * np.exp(-((_noise(13, 0.005, 0.005) / 0.3) ** 2))
    return 0, 0, _relief(cracks, -0.16) + 0.03 * _noise(9, 0.03, 0.03)


def _tweed(x: Field, y: Field) -> Channels:
    basket = _wave(32 * (x + y)) * _wave(32 * (x - y)) + 0.5 * (_streaks() + _yarn())
    return _step(basket, 0.3, 2.5), _step(_noise(16, 0.006, 0.004), 1.9, 0.6), _weave(0.08)


def _houndstooth(x: Field, y: Field) -> Channels:
    """Four dark threads, four light ones, both ways, in a 2/2 twill."""
    across, down = (32 * x).astype(int), (32 * y).astype(int)
    thread = np.where((across - down) % 4 < 2, across, down)
    return (thread % 8 < 4).astype(np.float32), 0, _weave()


def _argyle(x: Field, y: Field) -> Channels:
    u, v = 3 * x + 2 * y, 3 * x - 2 * y
    line = np.maximum(_band(u, 0.225, 0.275), _band(v, 0.225, 0.275))
    return _band(u, 0, 0.5) * _band(v, 0, 0.5) * (1 - line), _band(u, 0.5, 1) * _band(v, 0.5, 1) * (1 - line), line


def _fill(layers: NDArray[np.uint8], chosen: int, outline: NDArray[np.float64]) -> None:
    """An outline [n, 2], 0..1 of a tile, over what lies there; repeated at the nine places of a 3 x 3 tiling."""
    shifts = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])[:, None]
    places = np.rint((outline + shifts) * (FINE * 16)).astype(np.int32)
    for layer, pixels in enumerate(layers):
        cv2.fillPoly(pixels, list(places), 255 * (layer == chosen), cv2.LINE_AA, 4)


def _flower(
    centre: Sequence[float] | Field, radius: float, turn: float, petals: int, depth: float = 0.55
) -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    reach = radius * (1 - depth + depth * np.abs(np.cos(petals * t / 2)) ** 0.6)
    return np.stack([np.cos(t + turn), np.sin(t + turn)], 1) * reach[:, None] + centre


def _floral(x: Field, y: Field) -> Channels:
    rng = np.random.default_rng(17)
    layers = np.zeros((3, FINE, FINE), np.uint8)
    for place in rng.permutation(36):
        centre = (np.array(divmod(int(place), 6)) + 0.5 + rng.uniform(-0.35, 0.35, 2)) / 6
        radius, turn = rng.uniform(0.04, 0.085), rng.uniform(0, 2 * np.pi)
        _fill(layers, 2, _flower(centre, radius * 1.3, turn, 3, 0.8))
        if rng.random() < 0.8:
            _fill(layers, 0, _flower(centre, radius, turn, 5))
            _fill(layers, 1, _flower(centre, radius * 0.32, turn, 8))
    first, second, third = layers.astype(np.float32) / 255
    return first, second, third


def _print(x: Field, y: Field) -> Channels:
    """Two motifs, a sun and three lines of blocks, in opposite quarters: so far apart that a shirt shows one."""
    layers = np.zeros((3, FINE, FINE), np.uint8)

    def bar(left: float, right: float, top: float, bottom: float, chosen: int) -> None:
        _fill(layers, chosen, np.array([(left, top), (right, top), (right, bottom), (left, bottom)]))

    _fill(layers, 0, _flower((0.25, 0.25), 0.075, 0, 1, 0.0))
    for row in range(4):
        bar(0.17, 0.33, 0.258 + 0.018 * row, 0.262 + 0.02 * row, -1)
    bar(0.18, 0.32, 0.34, 0.354, 1)
    for row, widths in enumerate(((22, 10, 26), (14, 30, 12), (28, 16))):
        left = 0.756 - 0.001 * sum(widths) - 0.006 * len(widths)
        for width in widths:
            bar(left, left + 0.002 * width, 0.69 + 0.036 * row, 0.716 + 0.036 * row, row % 2)
            left += 0.002 * width + 0.012
    first, second, third = layers.astype(np.float32) / 255
    return first, second, third


def _blotches(x: Field, y: Field) -> Channels:
    """A leopard's: broken rings around a darker heart."""
    away = _cells(18, 11) + 0.07 * _noise(8, 0.012, 0.05)
    spot, heart = 1 - _step(away, 0.40, 0.06), 1 - _step(away, 0.22, 0.06)
    return (spot - heart) * _step(_noise(19, 0.014, 0.014), -0.5, 0.3), heart, _weave()


def _camo(x: Field, y: Field) -> Channels:
    ragged = 0.35 * _noise(21, 0.014, 0.01)
    first, second, third = (
        _step(_noise(seed, 0.05, 0.033) + ragged, level, 0.08) for seed, level in ((20, 0.35), (22, 0.5), (24, 0.95))
    )
    return first * (1 - second) * (1 - third), second * (1 - third), third


TILES: dict[str, Callable[[Field, Field], Channels]] = {
    "plain": lambda x, y: (0, 0, _weave(0.06)),
    "heather": lambda x, y: (_step(_streaks() + _weave(0.4), 0.9, 2.5), _step(-_streaks(), 1.0, 1.5), _weave()),
    "stripes": lambda x, y: _stripes(4 * y, (0.3, 0.7), (0.2, 0.8), _weave()),
    "pinstripes": lambda x, y: _stripes(4 * x, (0.44, 0.56), (0.3, 0.7), 0.5 + 0.1 * _wave(32 * (x - y))),
    "checks": _checks,
    "tartan": _tartan,
    "dots": _dots,
    "denim": _denim,
    "knit": lambda x, y: (0, 0, _relief(_stitches(x, y, 12, 16), 0.8) + 0.06 * _streaks()),
    "rib": lambda x, y: (0, 0, _relief(_arch(16 * x, 0.8), 0.75) + 0.25 * (_stitches(x, y, 32, 44) - 0.5) * _arch(16 * x)),
    "cable": _cable,
    "corduroy": lambda x, y: (0, 0, _relief(_arch(20 * x, 0.7), 0.8) + 0.05 * _noise(1, 0.001, 0.006)),
    "quilted": _quilted,
    "fleece": lambda x, y: (0, 0, _relief(np.abs(_noise(10, 0.014, 0.014)) ** 0.6, 0.3) + 0.06 * _noise(11, 0.003, 0.003)),
    "leather": _leather,
    "satin": lambda x, y: (0, 0, 0.5 + 0.1 * _noise(14, 0.05, 0.22) + 0.02 * _noise(15, 0.001, 0.01)),
    "floral": _floral,
    "print": _print,
    "blotches": _blotches,
    "camo": _camo,
    "tweed": _tweed,
    "herringbone": lambda x, y: (_band(24 * y + 3 * np.abs(2 * (4 * x % 1) - 1), 0.2, 0.7, 0.3), 0, _weave(0.07)),
    "houndstooth": _houndstooth,
    "argyle": _argyle,
}
"""For every kind: the shares 0..1 of its second, third and fourth colour (or relief, 0.5 level) from x and y of the tile."""


# ---- folds, over any fabric


def _around_128(field: Field) -> NDArray[np.uint8]:
    """The field about its mean; only its outermost hundredth is clipped."""
    field = field - field.mean()
    pixels = np.rint(128 + np.clip(field * (127 / np.quantile(np.abs(field), 0.99)), -127, 127)).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


@cache
def fold_tile(variant: int = 0) -> NDArray[np.uint8]:
    """Soft folds that run along y: round ridges, sharper valleys. Repeats without a seam.

    Returns:
        [256, 256] uint8: 128 level, 255 the highest ridge, 1 the deepest valley; shared and read-only. Every variant, a whole
        number of 0 or more, is another piece of cloth.
    """
    seed = 1000 + 10 * variant
    long = _noise(seed, 0.055, 0.26, SIZE) + 0.18 * _noise(seed + 1, 0.035, 0.14, SIZE)
    short = _noise(seed + 2, 0.035, 0.10, SIZE)
    return _around_128((long**2 + 0.02) ** 0.3 + 0.3 * (short**2 + 0.15) ** 0.4 + 0.12 * long)
