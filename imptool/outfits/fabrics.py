"""Fabrics: the choice of a cloth and its flat texture; folds, light and seams are painted over it.

A kind of cloth is one tile that repeats without a seam. Its three channels say how much of the second, the third and the fourth
colour lies over the first; where a cloth has no fourth colour the last channel is relief. A texture is that tile, warped into
place at a size that does not alias, times a matrix of colours.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from imptool.files import nearest
from imptool.outfits.weaves import FINE, SIZE, TILES, fold_tile, grid

__all__ = ["HAIR_COLOURS", "KINDS", "PALETTES", "SKIN_TONES", "Fabric", "choose_fabric", "fold_tile", "texture"]

Colour = tuple[int, int, int]

_SHRINK = 1.5  # the most tile pixels that one picture pixel may step over; beyond it linear sampling shows moire


def _colours(line: str) -> tuple[Colour, ...]:
    return tuple((value >> 16, value >> 8 & 255, value & 255) for value in (int(code, 16) for code in line.split()))


SKIN_TONES = _colours("f7decc f1d0b7 eac0a1 e2b290 d5a27e c4906c af7a56 966444 7c5036 633f2b 4c3022")
HAIR_COLOURS = _colours("181413 261c18 3a281e 523826 6c4a30 86603e a88054 cca874 e2c89c 763820 9e522c 807c7a c6c2be")
_DARK = _colours("18181b 242428 3a3b3f 1c2238 262e48 302622 2c342c 461a24")
_LIGHT = _colours("f6f5f1 eee9de e4dbc9 dadcde e2e6ea f0e2d6")
_EARTH = _colours("bc9262 a07850 7a583c 5c4230 cebc9e 6c6848 54563a 925032 702c2e aaa08a")
_NEUTRAL = (*_DARK, *_DARK[:4], *_LIGHT[:3], *_EARTH[:5], *_colours("626468 8a8b8d b0b0ae 68242e"))
_BRIGHT = _colours("c4262c de5230 ec942e f0c640 408a54 1c706c 2c8eac 285cb0 343c94 703e8c b2306c e26084 e87460")
_PASTEL = _colours("f2ced0 f6debe f8eec4 cee2cc c4dee2 bed2ec d4cae8 ecbaac a4bcac")
_JEWEL = _colours("145448 1a326e 581e58 861634 104860 96641e 3c2860")
PALETTES: dict[str, tuple[Colour, ...]] = {
    "dark": _DARK,
    "light": _LIGHT,
    "neutral": _NEUTRAL,
    "earth": _EARTH,
    "bright": _BRIGHT,
    "pastel": _PASTEL,
    "jewel": _JEWEL,
    "denim": _colours("1c2438 222a42 2a3654 2e3e62 3a4c74 425880 5c7a9e 8aa2be 28292d a8b8c6"),
    "leather": _colours("1a1818 1a1818 221d1b 3a261c 58361f 7a4c2c 9e683e 5c2022 c4b8a6 8a5a36"),
    "fur": _colours("d8b080 c89858 e2c8a0 e8dcc8 b8a890 d0ccc6 f0ece4 a87040"),
    "army": _colours("6c6848 54563a 5c6650 7a7458 8c8468 4a5044 707478 aaa08a 9a845c"),
    "any": (*_NEUTRAL, *_LIGHT, *_BRIGHT, *_PASTEL, *_JEWEL),
}
"""The colours that `choose_fabric` starts from, RGB; a colour that stands twice is chosen twice as often."""


@dataclass(frozen=True)
class Fabric:
    """A cloth, chosen.

    Attributes:
        kind: one of KINDS.
        colours: 1 to 4 RGB; the first is the ground.
        scale: the size of one repeat, in heads.
        angle: of the weave against the garment, in radians.
        phase: where in the tile the garment's anchor lies, (x, y) in tiles.
        contrast: of the relief: 0 flat, 1 as strong as a thick knit.
        gloss: 0 dull, 1 satin.
        weight: 0 thin jersey, 1 a stiff coat.

    Raises:
        ValueError: an unknown kind, a scale that is not above 0, or not 1 to 4 colours.
    """

    kind: str
    colours: tuple[Colour, ...]
    scale: float
    angle: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)
    contrast: float = 0.3
    gloss: float = 0.0
    weight: float = 0.3

    def __post_init__(self) -> None:
        _check_kind(self.kind)
        if not 1 <= len(self.colours) <= 4:
            raise ValueError(f"a fabric has 1 to 4 colours, got {len(self.colours)}")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"a fabric's scale must be above 0, got {self.scale}")


# ---- the colours of a kind, from its ground


def _luma(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _shift(colour: Sequence[int], hue: float = 0.0, saturation: float = 1.0, value: float = 0.0) -> Colour:
    """The colour with its hue turned, its saturation multiplied and its value raised, in HSV of 0..1."""
    h, s, v = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    r, g, b = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1.0), min(max(v + value, 0.07), 0.97))
    return round(r * 255), round(g * 255), round(b * 255)


def _pick(rng: np.random.Generator, options: Sequence[Colour]) -> Colour:
    return options[int(rng.random() * len(options))]


def _partner(rng: np.random.Generator, colour: Colour, contrast: float = 70.0) -> Colour:
    """A colour that goes with this one and stands off it in lightness: a neutral, a neighbour or a quiet opposite."""
    options = [*_DARK[:2], *_DARK[3:5], *_LIGHT[:3], _EARTH[0]]
    for value, saturation in ((-0.35, 1.0), (0.35, 0.45)):
        options += [_shift(colour, hue, saturation, value) for hue in (-0.06, 0.0, 0.06)]
        options.append(_shift(colour, 0.5, 0.6 * saturation, value))
    return _pick(rng, [option for option in options if abs(_luma(option) - _luma(colour)) >= contrast])


def _tone(colour: Colour, step: float) -> Colour:
    """The same colour, lighter where it is dark and darker where it is light."""
    return _shift(colour, saturation=0.85, value=step if _luma(colour) < 150 else -step)


def _tonal(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _tone(colour, rng.uniform(0.10, 0.20)), _tone(colour, -0.08)


def _denims(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _shift(colour, saturation=0.4, value=0.35)


def _tweeds(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _tone(colour, rng.uniform(0.18, 0.32)), _partner(rng, colour)


def _two(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    other = _partner(rng, colour)
    return colour, other, other if rng.random() < 0.7 else _partner(rng, colour)


def _on_white(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return _pick(rng, _LIGHT[:2]), colour if _luma(colour) < 190 else _shift(colour, saturation=1.8, value=-0.35)


def _banded(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    """Stripes: narrow, wide, or narrow with an edge; half of them on white."""
    ground, stripe = _on_white(rng, colour) if rng.random() < 0.5 else (colour, _partner(rng, colour))
    flank = (ground, ground, stripe, _partner(rng, ground))[int(rng.random() * 4)]
    return (ground, stripe, flank) if rng.random() < 0.75 else (stripe, ground, flank)


def _lined(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _tone(colour, rng.uniform(0.25, 0.55)), colour if rng.random() < 0.8 else _tone(colour, 0.15)


def _four(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _partner(rng, colour, 45.0), _partner(rng, colour), _partner(rng, colour, 90.0)


def _garden(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    petals = [option for option in (*_BRIGHT, *_PASTEL, *_LIGHT) if abs(_luma(option) - _luma(colour)) > 45]
    leaf = _shift(_pick(rng, _colours("4a6842 6e8454 34524a 807a48")), value=rng.uniform(-0.08, 0.08))
    return colour, _pick(rng, petals), _pick(rng, (*_BRIGHT[2:4], *_LIGHT[:2], _DARK[0])), leaf


def _spotted(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, (38, 28, 24), _shift(colour, -0.01, 1.25, -0.22)


def _army(rng: np.random.Generator, colour: Colour) -> tuple[Colour, ...]:
    return colour, _shift(colour, 0.03, 1.1, -0.18), _shift(colour, -0.03, 0.9, -0.3), _shift(colour, 0.02, 0.7, 0.18)


Range = tuple[float, float]


@dataclass(frozen=True)
class _Kind:
    """How one kind is chosen: its repeats in the tile, then ranges of scale (in heads), colours, contrast and feel."""

    repeats: int
    scale: Range
    colours: Callable[[np.random.Generator, Colour], tuple[Colour, ...]] = lambda rng, colour: (colour,)
    palette: str = "any"
    contrast: Range = (0.2, 0.4)
    gloss: Range = (0.0, 0.1)
    weight: Range = (0.1, 0.4)


_KINDS: dict[str, _Kind] = {
    "plain": _Kind(1, (0.7, 1.0), gloss=(0.0, 0.25), weight=(0.1, 0.6)),
    "heather": _Kind(1, (0.6, 1.0), _tonal),
    "stripes": _Kind(4, (0.10, 0.32), _banded),
    "pinstripes": _Kind(4, (0.06, 0.16), _lined, "neutral", weight=(0.3, 0.7)),
    "checks": _Kind(4, (0.07, 0.22), _on_white),
    "tartan": _Kind(1, (0.35, 0.9), _four, weight=(0.3, 0.8)),
    "dots": _Kind(4, (0.10, 0.30), _two),
    "denim": _Kind(32, (0.016, 0.028), _denims, "denim", contrast=(0.4, 0.7), weight=(0.6, 0.8)),
    "knit": _Kind(12, (0.03, 0.10), contrast=(0.6, 1.0), weight=(0.4, 0.7)),
    "rib": _Kind(16, (0.025, 0.08), contrast=(0.5, 0.9), weight=(0.2, 0.5)),
    "cable": _Kind(2, (0.25, 0.45), palette="neutral", contrast=(0.7, 1.0), weight=(0.5, 0.8)),
    "corduroy": _Kind(20, (0.025, 0.06), palette="earth", contrast=(0.5, 0.8), weight=(0.5, 0.8)),
    "quilted": _Kind(3, (0.20, 0.45), contrast=(0.5, 0.8), gloss=(0.3, 0.6), weight=(0.7, 1.0)),
    "fleece": _Kind(1, (0.7, 1.1), palette="neutral", contrast=(0.5, 0.9), weight=(0.7, 1.0)),
    "leather": _Kind(1, (0.5, 0.8), palette="leather", contrast=(0.4, 0.7), gloss=(0.5, 0.85), weight=(0.6, 0.9)),
    "satin": _Kind(1, (1.0, 1.6), contrast=(0.3, 0.6), gloss=(0.8, 1.0), weight=(0.0, 0.2)),
    "floral": _Kind(1, (0.8, 1.8), _garden),
    "print": _Kind(2, (2.6, 3.4), _four),
    "blotches": _Kind(1, (1.4, 2.4), _spotted, "fur"),
    "camo": _Kind(1, (2.0, 3.0), _army, "army", weight=(0.4, 0.7)),
    "tweed": _Kind(1, (0.6, 0.9), _tweeds, "neutral", weight=(0.7, 1.0)),
    "herringbone": _Kind(4, (0.16, 0.40), _tweeds, "neutral", weight=(0.7, 1.0)),
    "houndstooth": _Kind(4, (0.08, 0.22), _two, "neutral", weight=(0.5, 0.9)),
    "argyle": _Kind(2, (0.40, 0.60), _four, weight=(0.3, 0.6)),
}
KINDS: tuple[str, ...] = tuple(_KINDS)
"""The kinds of cloth there are."""


def _check_kind(kind: str) -> None:
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of fabric '{kind}'{nearest(kind, _KINDS)}")


def _draw_kind(rng: np.random.Generator, kinds: Sequence[str] | Mapping[str, float]) -> str:
    weights = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    for kind in weights:
        _check_kind(kind)
    if not 0 < sum(weights.values()) < math.inf or min(weights.values()) < 0:
        raise ValueError(f"kinds need weights of 0 or more, one of them above 0, got {weights}")
    ends = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]


def choose_fabric(rng: np.random.Generator, kinds: Sequence[str] | Mapping[str, float], palette: str | None = None) -> Fabric:
    """A fabric of one of these kinds, its colours, scale and feel drawn from what is usual for the kind.

    Args:
        rng: the same state gives the same fabric.
        kinds: equally likely, or each with its weight.
        palette: one of PALETTES for the first colour; by default the kind's own.

    Raises:
        ValueError: an unknown kind or palette, no kind, or weights that are negative or all 0.
    """
    if palette is not None and palette not in PALETTES:
        raise ValueError(f"unknown palette '{palette}'{nearest(palette, PALETTES)}")
    name = _draw_kind(rng, kinds)
    kind = _KINDS[name]
    hue, saturation, value, *drawn = rng.random(10).tolist()
    ground = _pick(rng, PALETTES[palette or kind.palette])
    ground = _shift(ground, 0.024 * (hue - 0.5), 0.85 + 0.3 * saturation, 0.08 * (value - 0.5))
    scale, contrast, gloss, weight = (
        low + (high - low) * t
        for (low, high), t in zip((kind.scale, kind.contrast, kind.gloss, kind.weight), drawn, strict=False)
    )
    phase = (drawn[5], drawn[6])
    if name == "print":
        # A motif on the chest: two heads below the anchor, where figures have it.
        quarter = 0.25 if drawn[5] < 0.5 else 0.75
        phase = (quarter, quarter - 2.05 / (kind.repeats * scale))
    return Fabric(name, kind.colours(rng, ground), scale, 0.06 * (drawn[4] - 0.5), phase, contrast, gloss, weight)


# ---- texture


@cache
def _tile(kind: str) -> NDArray[np.uint8]:
    """[256, 256, 4]; the fourth channel is unused: four are warped faster than three."""
    fine = np.zeros((FINE, FINE, 4), np.float32)
    for channel, field in enumerate(TILES[kind](*grid())):
        fine[..., channel] = field
    return np.rint(cv2.resize(np.clip(fine, 0, 1) * 255, (SIZE, SIZE), interpolation=cv2.INTER_AREA)).astype(np.uint8)


@cache
def _level(kind: str, level: int) -> tuple[NDArray[np.uint8], int]:
    """The tile, halved `level` times and repeated so that most crops lie inside, and its period in pixels."""
    period = SIZE >> level
    small = cv2.resize(_tile(kind), (period, period), interpolation=cv2.INTER_AREA)
    times = -(-384 // period)
    return np.tile(small, (times, times, 1)), period


@lru_cache(maxsize=64)
def _blend(fabric: Fabric) -> NDArray[np.float64]:
    """[3, 4]: from a pixel of the tile to RGB."""
    colours = np.array(fabric.colours, np.float64)
    matrix = np.zeros((3, 4))
    matrix[:, 3] = colours[0]
    matrix[:, : len(colours) - 1] = (colours[1:] - colours[0]).T / 255
    if len(colours) < 4:
        # Black cloth has relief too: its threads shine.
        light = fabric.contrast * (0.75 * colours[0] + 24)
        matrix[:, 2], matrix[:, 3] = light / 255, colours[0] - light * (128 / 255)
    return matrix


def texture(
    fabric: Fabric, shape: tuple[int, int], *, unit: float, origin: tuple[float, float], angle: float
) -> NDArray[np.uint8]:
    """The flat cloth in a crop of the picture; it moves and turns with the garment.

    Args:
        shape: (height, width) of the crop.
        unit: pixels of one head.
        origin: (x, y) of the crop's upper left corner, seen from the garment's anchor, in pixels.
        angle: of the garment, in radians: 0 where it hangs down, above 0 turned clockwise on the screen.

    Returns:
        [h, w, 3] uint8 RGB.

    Raises:
        ValueError: an empty shape, or a unit that is not above 0.
    """
    height, width = shape
    if height < 1 or width < 1 or not 0 < unit < math.inf:
        raise ValueError(f"a texture needs a shape of at least 1 x 1 and a unit above 0, got {tuple(shape)} and {unit}")
    step = SIZE / (_KINDS[fabric.kind].repeats * fabric.scale * unit)
    level = min(max(math.ceil(math.log2(step / _SHRINK)), 0), SIZE.bit_length() - 1)
    tile, period = _level(fabric.kind, level)
    step *= period / SIZE
    turned = angle + fabric.angle
    across, down = step * math.cos(turned), step * math.sin(turned)
    # + 0.5 - 0.5: pixel centres, in the crop and in the tile.
    x, y = origin[0] + 0.5, origin[1] + 0.5
    left = across * x + down * y + fabric.phase[0] * period - 0.5
    top = across * y - down * x + fabric.phase[1] * period - 0.5
    # Whole periods away, so that the crop's box begins at the tile's own corner: OpenCV wraps slowly and counts in 16 bits.
    left -= math.floor((left + min(across * width, 0) + min(down * height, 0)) / period) * period
    top -= math.floor((top + min(-down * width, 0) + min(across * height, 0)) / period) * period
    place = np.array([[across, down, left], [-down, across, top]])
    warped = cv2.warpAffine(
        tile, place, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP
    )
    return np.asarray(cv2.transform(cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR), _blend(fabric)))
