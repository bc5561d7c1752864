"""What backgrounds are drawn with: a stage in shares of the picture's height, colours, and surfaces that repeat.

Lengths are shares of the picture's height in both directions, so that shapes keep their proportions in every format; x runs
from 0 to `wide` = width / height.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np

TILE = 512
Colour = tuple[float, float, float]

# Colours of clothes, skin and leaves are used all over the clutter, so that colour alone does not tell a garment.
CLOTH: tuple[Colour, ...] = (
    *((24, 26, 30), (58, 60, 66), (232, 230, 224), (28, 40, 74), (70, 92, 132), (120, 146, 178), (150, 40, 46)),
    *((112, 28, 44), (196, 90, 60), (214, 178, 66), (196, 164, 120), (140, 104, 70), (92, 64, 46), (84, 98, 62)),
    *((46, 78, 64), (60, 128, 124), (226, 178, 178), (206, 120, 140), (104, 72, 120), (170, 172, 176), (236, 214, 180)),
)
SKIN: tuple[Colour, ...] = ((244, 208, 184), (226, 180, 150), (198, 144, 110), (150, 100, 72), (96, 62, 46))
HAIR: tuple[Colour, ...] = ((28, 22, 22), (60, 40, 30), (110, 72, 44), (176, 136, 84), (150, 148, 146))
LEAF: tuple[Colour, ...] = ((52, 88, 50), (74, 112, 58), (104, 136, 70), (60, 96, 80), (128, 140, 72))
WOOD: tuple[Colour, ...] = ((176, 132, 92), (206, 174, 136), (118, 82, 58), (152, 140, 128), (222, 204, 178), (84, 60, 48))
WALL: tuple[Colour, ...] = (
    *((226, 220, 210), (206, 210, 210), (186, 196, 186), (196, 178, 168), (150, 166, 178), (118, 134, 124)),
    *((218, 196, 176), (92, 104, 122), (238, 232, 222), (202, 168, 160), (176, 170, 190)),
)


class Stage:
    """A picture to draw on in shares of its height.

    Args:
        size: height and width of the picture that it becomes, for the proportions.
        rows: its own height in pixels; the fewer, the softer the picture that it is stretched to.
        colour: RGB of the empty canvas.
    """

    def __init__(self, size: tuple[int, int], rows: int, colour: Colour = (128, 128, 128)) -> None:
        height, width = rows, max(2, round(rows * size[1] / size[0]))
        self.image = np.empty((height, width, 3), np.uint8)
        cv2.rectangle(self.image, (0, 0), (width, height), colour, -1)  # a tenth of numpy's time
        self.unit = height
        self.wide = width / height

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        u = self.unit
        cv2.rectangle(self.image, (int(x0 * u), int(y0 * u)), (int(x1 * u), int(y1 * u)), colour, -1)

    def poly(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        fixed = (np.array(points) * (self.unit * 16)).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, 4)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour, angle: float = 0) -> None:
        u = self.unit * 16
        centre, axes = (int(x * u), int(y * u)), (int(rx * u), int(ry * u))
        cv2.ellipse(self.image, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA, 4)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        u = self.unit * 16
        cv2.circle(self.image, (int(x * u), int(y * u)), int(radius * u), colour, -1, cv2.LINE_8, 4)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, thick: float = 0) -> None:
        u = self.unit
        ends = (int(x0 * u), int(y0 * u)), (int(x1 * u), int(y1 * u))
        cv2.line(self.image, *ends, colour, max(1, round(thick * u)), cv2.LINE_AA)

    def ramp(self, y0: float, y1: float, above: Colour, below: Colour, x0: float = 0, x1: float = 9) -> None:
        """Fill rows with a vertical gradient."""
        u = self.unit
        rows = self.image[max(0, int(y0 * u)) : int(y1 * u) + 1, max(0, int(x0 * u)) : max(0, int(x1 * u))]
        rows[:] = np.linspace(above, below, rows.shape[0])[:, None]

    def stripes(self, x0: float, y0: float, x1: float, y1: float, colours: Sequence[Colour], step: float) -> None:
        """Vertical stripes of the colours in turn."""
        for i in range(math.ceil((x1 - x0) / step)):
            self.rect(x0 + i * step, y0, min(x1, x0 + (i + 1) * step), y1, colours[i % len(colours)])

    def texture(
        self, kind: str, box: Sequence[float], colour: Colour, contrast: float, matrix: np.ndarray, fine: float
    ) -> None:
        """Cover a box with a tile coloured around `colour`.

        `matrix` [3, 3] takes a place of the picture to repeats of the tile; `fine` is the length of the shortest repeat.
        """
        u = self.unit
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = (min(max(0, int(v * u)), limit) for v, limit in zip(box, (width, height) * 2, strict=True))
        if x0 >= x1 or y0 >= y1:
            return
        level = min(5, max(0, int(math.log2(TILE / max(1.0, fine * u)))))
        tile, side = _nine_tiles(kind, level), TILE >> level
        place = np.diag([side, side, 1.0]) @ matrix @ np.array([[1 / u, 0, x0 / u], [0, 1 / u, y0 / u], [0, 0, 1]])
        corners = place @ np.array([[0, x1 - x0, 0, x1 - x0], [0, 0, y1 - y0, y1 - y0], [1, 1, 1, 1]])
        start = (corners[:2] / corners[2]).min(axis=1) // side * side
        place = np.array([[1, 0, -start[0]], [0, 1, -start[1]], [0, 0, 1]]) @ place  # within the nine: wrapping is slow
        warp, rows = (cv2.warpPerspective, 3) if matrix[2, 1] else (cv2.warpAffine, 2)  # the second is 4 times faster
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        grey = warp(tile, place[:rows], (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_WRAP)
        tones = np.linspace(-contrast, contrast, 256)[:, None, None] + 1
        self.image[y0:y1, x0:x1] = cv2.applyColorMap(grey, (tones * colour).clip(0, 255).astype(np.uint8))


def facing(dice: random.Random, repeat: float, angle: float = 0) -> np.ndarray:
    """The matrix of a surface seen from the front; `repeat` is the tile's length in the picture."""
    c, s = math.cos(angle) / repeat, math.sin(angle) / repeat
    return np.array([[c, s, dice.random()], [-s, c, dice.random()], [0, 0, 1]])


def receding(dice: random.Random, repeat: float, eye: float, wide: float) -> np.ndarray:
    """The matrix of a floor seen from the height `eye`; `repeat` is the tile's length at the lower edge of the picture."""
    side, deep, middle = dice.random(), dice.random(), wide / 2
    a, f = (1 - eye) / repeat, 1.7 * (1 - eye) / repeat  # 1.7: the focal length of a short telephoto lens
    return np.array([[a, side, -a * middle - side * eye], [0, deep, f - deep * eye], [0, 1, -eye]])


def relight(colours: Stage, glow: Stage, size: tuple[int, int]) -> np.ndarray:
    """The colours under the light, [H, W, 3]; a canvas smaller than the picture comes out as soft as a lens blurs it."""
    height, width = colours.image.shape[:2]
    light = cv2.resize(cv2.GaussianBlur(glow.image, (7, 7), 0), (width, height))
    image = cv2.multiply(colours.image, light, scale=1 / 128)
    if (height, width) == size:
        return image
    return cv2.resize(cv2.GaussianBlur(image, (3, 3), 0), (size[1], size[0]))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def tone(colour: Colour, gain: float) -> Colour:
    """The colour lighter or darker."""
    return (min(255, colour[0] * gain), min(255, colour[1] * gain), min(255, colour[2] * gain))


def pick(dice: random.Random, colours: Sequence[Colour]) -> Colour:
    """One of the colours, a little off."""
    gain, warmer = 0.88 + 0.24 * dice.random(), 0.96 + 0.08 * dice.random()
    r, g, b = dice.choice(colours)
    return (min(255.0, r * gain * warmer), min(255.0, g * gain), min(255.0, b * gain / warmer))


Painted = tuple[Stage, Stage, float, float]
"""A painted scene: its colours, its light, the line of the floor and the warmth of the light."""


@lru_cache(maxsize=64)
def _tile(kind: str, level: int) -> np.ndarray:
    """A grey tile that repeats without a seam, [TILE, TILE] uint8 around 128, halved `level` times."""
    if level:
        return cv2.resize(_tile(kind, level - 1), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return (128 + 127 * _TILES[kind]()).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _nine_tiles(kind: str, level: int) -> np.ndarray:
    """Three by three of a tile."""
    return np.tile(_tile(kind, level), (3, 3))


def _fractal(seed: int, slope: float, along: float = 1, across: float = 1) -> np.ndarray:
    """Cloudy noise of deviation 1 whose frequencies fade by `slope`, stretched in x and y."""
    down, right = np.fft.fftfreq(TILE, 1 / TILE)[:, None] * across, np.fft.rfftfreq(TILE, 1 / TILE) * along
    waves = np.fft.rfft2(np.random.default_rng(seed).normal(size=(TILE, TILE)))
    noise = np.fft.irfft2(waves * (1 + np.hypot(down, right)) ** -slope)
    noise -= noise.mean()
    return noise / noise.std()


def _blocks(seed: int, rows: int, columns: int, stagger: float, seam: int) -> tuple[np.ndarray, np.ndarray]:
    """Masonry: the tone of every block (-1..1) and where its seam is (bool), both [TILE, TILE]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:TILE, :TILE]
    row = y * rows // TILE
    moved = x + (row % 2 * stagger * TILE / columns).astype(int)
    tone = rng.uniform(-1, 1, (rows, columns))[row, moved * columns // TILE % columns]
    return tone, (y * rows % TILE < seam * rows) | (moved * columns % TILE < seam * columns)


def _masonry(seed: int, rows: int, columns: int, stagger: float, seam: int, mortar: float) -> np.ndarray:
    tone, seams = _blocks(seed, rows, columns, stagger, seam)
    return np.where(seams, mortar, 0.25 * tone) + 0.14 * _fractal(seed, 0.7)


def _planks() -> np.ndarray:
    tone, seams = _blocks(5, 8, 1, 0.37, 4)
    shifted = np.concatenate([np.roll(strip, 97 * i, 1) for i, strip in enumerate(np.split(_grained(), 8))])
    return np.where(seams, -0.8, 0.3 * tone + shifted)


def _grained() -> np.ndarray:
    return 0.22 * _fractal(6, 1.1, 6, 0.35) + 0.1 * np.sin(9 * _fractal(7, 2.2, 5, 1))


def _marble() -> np.ndarray:
    veins = np.exp(-np.abs(_fractal(8, 1.7)) * 14) + 0.6 * np.exp(-np.abs(_fractal(9, 1.5)) * 22)
    return 0.3 - 0.8 * veins * np.clip(0.5 + _fractal(10, 2), 0, 1) + 0.1 * _fractal(11, 1.6)


def _linen() -> np.ndarray:
    thread = np.sin(np.arange(TILE) * (2 * np.pi * 64 / TILE))
    warp, weft = _fractal(12, 0.8, 0.1, 6), _fractal(13, 0.8, 6, 0.1)
    return 0.2 * (thread[:, None] + thread) * 0.5 + 0.16 * (warp + weft) + 0.12 * _fractal(14, 2)


_TILES: dict[str, Callable[[], np.ndarray]] = {
    "cloud": lambda: 0.3 * _fractal(1, 2),
    "speckle": lambda: 0.2 * _fractal(2, 0.4) + 0.15 * _fractal(3, 1.6),
    "carpet": lambda: 0.35 * _fractal(4, 0.6),
    "bricks": lambda: _masonry(15, 16, 6, 0.5, 4, 0.45),
    "paving": lambda: _masonry(16, 4, 4, 0.0, 6, -0.7),
    "slabs": lambda: _masonry(17, 4, 2, 0.5, 5, -0.6),
    "planks": _planks,
    "wood": _grained,
    "marble": _marble,
    "linen": _linen,
}
