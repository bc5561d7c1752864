"""Painting: outlines in heads become pixels, with cloth, folds, light, the shadow on what lies below, and the map of items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import cv2
import numpy as np

from imptool.outfits.fabrics import Fabric, fold_tile, texture
from imptool.outfits.figure import Points

Colour = tuple[int, int, int]
_BITS = 4  # of a pixel's fraction in OpenCV's drawing


@dataclass(frozen=True)
class Mark:
    """Something drawn upon a part that is no item of its own: a seam, buttons, an eye, the sole of a shoe.

    tone: -1..1, darker or lighter than the cloth; or a colour. width: heads; 0 fills the outline.
    """

    points: Points
    tone: float | Colour = -0.5
    width: float = 0.02
    closed: bool = False


@dataclass(frozen=True)
class Part:
    """One piece of cloth, skin or leather: outlines [n, 2] in heads that are painted as one.

    item: the number of the garment that it belongs to. layer: what is painted first lies below.
    direction: of the cloth, radians from straight down. bulge: how round it looks. folds: their depth; fold_size: in heads.
    """

    outlines: Sequence[Points]
    item: int
    layer: float
    fabric: Fabric
    direction: float = 0.0
    bulge: float = 1.0
    folds: float = 0.5
    fold_size: float = 2.2
    opacity: float = 1.0
    marks: Sequence[Mark] = field(default=())


@dataclass(frozen=True)
class Place:
    """Where a figure stands in the picture: pixels of a head, turn in radians, the pixel of its origin."""

    unit: float
    angle: float
    origin: tuple[float, float]

    @cached_property
    def _matrix(self) -> Points:
        cos, sin = self.unit * math.cos(self.angle), self.unit * math.sin(self.angle)
        return np.array([[cos, sin], [-sin, cos]])

    @cached_property
    def _fixed(self) -> tuple[Points, Points]:
        # A pixel's centre is a whole number in OpenCV's drawing.
        return self._matrix * (1 << _BITS), (np.asarray(self.origin) - 0.5) * (1 << _BITS)

    def fixed(self, points: Points) -> np.ndarray:
        """Points [n, 2] in heads -> pixels as OpenCV's fixed point numbers."""
        matrix, origin = self._fixed
        return (points @ matrix + origin).round().astype(np.int32)

    def pixels(self, points: Points) -> Points:
        """Points [n, 2] in heads -> pixels (x, y)."""
        return points @ self._matrix + self.origin


class Canvas:
    """A picture in the making: image [H, W, 3] uint8 and items [H, W] uint8 (0: none)."""

    def __init__(self, image: np.ndarray, *, light: float) -> None:
        self.image, self.light = image, light
        self.items: np.ndarray = np.zeros(image.shape[:2], np.uint8)

    def paint(self, part: Part, place: Place, rng: np.random.Generator) -> None:
        """Paint a part over what is there."""
        points = place.fixed(np.concatenate(part.outlines))
        left, top, across, down = (value >> _BITS for value in cv2.boundingRect(points))
        inner = self._crop(left, top, left + across, top + down)
        if inner is None:
            return
        wide = min(across, down)
        reach = round(0.14 * place.unit) if wide > 0.3 * place.unit else 0  # of its shadow; small things lie close
        outer = self._crop(left - reach, top - reach, left + across + reach, top + down + reach) or inner
        mask = np.zeros_like(self.items[outer])
        _fill(mask, points - np.array((outer[1].start << _BITS, outer[0].start << _BITS), np.int32), part.outlines)
        width = int(min(max(0.4 * wide, 3), 0.5 * place.unit)) | 1  # the slope of the blurred mask is taken for roundness
        smooth = cv2.blur(mask, (width, width))
        if reach and self.items[outer].any():
            _cast_shadow(self.image[outer], self.items[outer], smooth)
        within = tuple(slice(new.start - old.start, new.stop - old.start) for new, old in zip(inner, outer, strict=True))
        mask, image = mask[within], self.image[inner]
        corner = (inner[1].start - place.origin[0], inner[0].start - place.origin[1])
        _lay_over(image, self._cloth(part, place, corner, smooth[within], rng), mask, part.opacity)
        covered = cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(np.full_like(mask, part.item), covered, self.items[inner])
        for mark in part.marks:
            _draw_mark(self.image, place, mark, part.fabric.colours[0])

    def _crop(self, left: int, top: int, right: int, bottom: int) -> tuple[slice, slice] | None:
        """What of the picture lies between these pixels, all included, and one more at each side for smooth edges."""
        height, width = self.items.shape
        left, top, right, bottom = max(left - 1, 0), max(top - 1, 0), min(right + 2, width), min(bottom + 2, height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def _cloth(
        self,
        part: Part,
        place: Place,
        corner: tuple[float, float],
        smooth: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The part's cloth [h, w, 3], shaded: darker at its rim, lighter on the side of the light, with folds."""
        direction, shape = part.direction + place.angle, smooth.shape
        rim = 0.3 * part.bulge
        level = 130 - 225 * rim - 46 * part.folds
        folds = _folds(part, place, shape, direction, rng) if part.folds > 0 else smooth
        shade = cv2.addWeighted(smooth, rim, folds, 0.36 * part.folds, level)
        step = max(int(0.05 * place.unit), 1)
        if shape[1] > 2 * step:
            lit = 0.3 * part.bulge * self.light
            right, left = smooth[:, 2 * step :], smooth[:, : -2 * step]
            middle = shade[:, step:-step]
            middle[:] = cv2.addWeighted(cv2.addWeighted(middle, 1.0, left, lit, 0.0), 1.0, right, -lit, 0.0)
        fabric = part.fabric
        if fabric.kind == "plain" and fabric.contrast == 0:  # skin, metal: no weave
            return cv2.merge([cv2.convertScaleAbs(shade, alpha=value / 128) for value in fabric.colours[0]])
        cloth: np.ndarray = texture(fabric, shape, unit=place.unit, origin=corner, angle=direction)
        if fabric.gloss > 0.3:
            shine = cv2.addWeighted(shade, 2.2 * fabric.gloss, shade, 0.0, -265 * fabric.gloss)
            cloth = cv2.add(cloth, cv2.cvtColor(shine, cv2.COLOR_GRAY2RGB))
        return cv2.multiply(cloth, cv2.cvtColor(shade, cv2.COLOR_GRAY2RGB), dst=cloth, scale=1 / 128)


_TILE = 128  # pixels, of a tile of folds


@cache
def _fold_tiles(variant: int) -> np.ndarray:
    """Folds, 128 being level, repeated so that most parts lie inside."""
    return np.tile(cv2.resize(fold_tile(variant), (_TILE, _TILE), interpolation=cv2.INTER_AREA), (5, 5))


def _folds(part: Part, place: Place, shape: tuple[int, int], direction: float, rng: np.random.Generator) -> np.ndarray:
    """Folds [h, w] around 128, along the cloth's direction."""
    variant, x, y = (rng.random(3) * (4, _TILE, _TILE)).tolist()
    step = _TILE / (part.fold_size * place.unit)
    cos, sin = step * math.cos(direction), step * math.sin(direction)
    # Whole tiles away, so that the crop begins inside: OpenCV wraps slowly.
    x += _TILE * math.ceil(max(-cos * shape[1], 0) / _TILE) + _TILE * math.ceil(max(-sin * shape[0], 0) / _TILE)
    y += _TILE * math.ceil(max(sin * shape[1], 0) / _TILE) + _TILE * math.ceil(max(-cos * shape[0], 0) / _TILE)
    matrix = np.array([[cos, sin, x], [-sin, cos, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(_fold_tiles(int(variant)), matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP)


def _fill(mask: np.ndarray, points: np.ndarray, outlines: Sequence[Points]) -> None:
    """Fill outlines, whose points (fixed) follow each other, one by one: where they overlap, both count."""
    start = 0
    for outline in outlines:
        cv2.fillPoly(mask, [points[start : start + len(outline)]], 255, cv2.LINE_AA, _BITS)
        start += len(outline)


def _lay_over(image: np.ndarray, cloth: np.ndarray, mask: np.ndarray, opacity: float) -> None:
    """Mix cloth into the picture by its mask, 255 being all of it. (In bytes: blendLinear's floats take twice as long.)"""
    share = cv2.cvtColor(mask if opacity == 1 else cv2.convertScaleAbs(mask, alpha=opacity), cv2.COLOR_GRAY2RGB)
    rest = cv2.multiply(image, cv2.bitwise_not(share), scale=1 / 255)
    cv2.add(cv2.multiply(cloth, share, scale=1 / 255), rest, dst=image)


def _cast_shadow(image: np.ndarray, items: np.ndarray, smooth: np.ndarray) -> None:
    """Darken what is already dressed around the part."""
    below = (items > 0).view(np.uint8) * np.uint8(255)
    shadow = cv2.addWeighted(cv2.bitwise_and(below, smooth), -0.4, below, 0.0, 255.0)
    cv2.multiply(image, cv2.cvtColor(shadow, cv2.COLOR_GRAY2RGB), dst=image, scale=1 / 255)


def _draw_mark(image: np.ndarray, place: Place, mark: Mark, cloth: Colour) -> None:
    thickness = mark.width * place.unit
    if 0 < thickness < 0.4:  # thinner than that is not seen
        return
    points = [place.fixed(mark.points)]
    colour = mark.tone if isinstance(mark.tone, tuple) else toned(cloth, mark.tone)
    if mark.width == 0:
        cv2.fillPoly(image, points, colour, cv2.LINE_AA, _BITS)
    else:
        cv2.polylines(image, points, mark.closed, colour, max(round(thickness), 1), cv2.LINE_AA, _BITS)


def toned(colour: Colour, tone: float) -> Colour:
    """A darker (to -1) or lighter (to 1) colour."""
    end = 255 if tone > 0 else 0
    red, green, blue = (round(value + abs(tone) * (end - value)) for value in colour)
    return red, green, blue
