"""Figures: joints, limbs and trunk of a posed body, in heads; outlines of what is worn are made from them.

A figure is about 7.7 heads tall; y points down, the neck's base is near (0, 1.25). Proportions and poses are ours, after the
eight-head figure of drawing books.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Choice = TypeVar("Choice")

# The level v of a place on the trunk: 0 neck base, 1 crotch; below it the legs go on: 2 knees, 3 ankles.
WAIST, HIP, CROTCH, KNEE, ANKLE = 0.58, 0.82, 1.0, 2.0, 3.0
_LEVELS = np.array([0.0, 0.075, 0.25, 0.42, WAIST, HIP, CROTCH])
_HALF_WIDTHS = {  # at these levels, in heads: neck, shoulder, chest, ribs, waist, hips, top of the legs
    "slim": np.array([0.24, 0.76, 0.64, 0.58, 0.47, 0.66, 0.66]),
    "broad": np.array([0.27, 0.95, 0.78, 0.70, 0.62, 0.66, 0.65]),
}
_TRUNK, _UPPER_ARM, _FOREARM, _THIGH, _SHANK = 2.75, 1.28, 1.12, 1.72, 1.72
_ARM_RADII = np.array([0.19, 0.185, 0.165, 0.15, 0.14, 0.145, 0.13, 0.11, 0.09])
_LEG_RADII = np.array([0.37, 0.35, 0.31, 0.27, 0.225, 0.225, 0.225, 0.18, 0.125])
_ARMS = {"hanging": 0.46, "on hip": 0.16, "before": 0.16, "raised": 0.06, "behind": 0.08, "a little out": 0.08}
_WALKING_ARMS = {"hanging": 0.75, "on hip": 0.05, "before": 0.1, "a little out": 0.1}
_LIMB_STEPS = np.linspace(0.0, 2.0, 9)
_FIFTHS = np.linspace(0.0, 1.0, 5)
_STEPS = 40  # of a level, in the table of a body's course


@dataclass(frozen=True)
class Limb:
    """An arm (shoulder, elbow, wrist) or a leg (hip, knee, ankle): place t runs from 0 over 1 at the joint to 2."""

    joints: Points  # [3, 2]
    radii: Points  # [9], at t = 0, 0.25, ... 2
    behind: bool = False  # the trunk hides it

    def at(self, t: float) -> Points:
        """The point [2] of the centre line at t."""
        first = min(int(t), 1)
        return self.joints[first] + (t - first) * (self.joints[first + 1] - self.joints[first])

    def direction(self, t: float) -> Points:
        """The unit vector [2] down the limb at t."""
        first = min(int(t), 1)
        step = self.joints[first + 1] - self.joints[first]
        return step / (math.hypot(*step) + 1e-9)

    def radius(self, t: float) -> float:
        return float(np.interp(t, _LIMB_STEPS, self.radii))

    def sleeve(self, start: float, end: float, *, ease: float = 1.0, loose: Sequence[float] = (0.0, 0.0)) -> list[Points]:
        """Outlines of what covers the limb from `start` to `end`: straight tubes, with a disc over the bent joint.

        Args:
            ease: factor on the limb's radius.
            loose: what is added to the radius at both ends, in heads; linear between them.
        """
        cuts = [start, *([1.0] if start < 1.0 < end else []), end]
        outlines = []
        for low, high in pairwise(cuts):
            t = low + (high - low) * _FIFTHS
            widths = self._widths(t, start, end, ease, loose)[:, None]
            first = min(int(low), 1)
            down = self.direction(low)
            across = widths * np.array([-down[1], down[0]])
            centre = self.joints[first] + (t - first)[:, None] * (self.joints[first + 1] - self.joints[first])
            outlines.append(np.concatenate([centre + across, (centre - across)[::-1]]))
        if len(cuts) == 3:
            outlines.append(disc(self.joints[1], float(self._widths(np.ones(1), start, end, ease, loose)[0])))
        return outlines

    def _widths(self, t: Points, start: float, end: float, ease: float, loose: Sequence[float]) -> Points:
        """Half widths [n] at t; the ease grows over the first half of the upper limb: garments fit at shoulder and hip."""
        fitted = 1.04 + (ease - 1.04) * np.minimum(2 * t, 1.0)
        added = loose[0] + (t - start) / max(end - start, 1e-6) * (loose[1] - loose[0])
        return np.interp(t, _LIMB_STEPS, self.radii) * fitted + added


@dataclass(frozen=True)
class Figure:
    """A posed body."""

    spine: Points  # [5, 2] neck base to crotch
    half_widths: Points  # [7], at _LEVELS
    tilt: tuple[float, float]  # slope of shoulders and hips
    arms: tuple[Limb, Limb]  # picture left, picture right
    legs: tuple[Limb, Limb]
    head: Points  # [2], its centre
    nod: float  # the head's tilt, radians
    turn: float  # -1..1: where the face looks
    back: bool = False  # seen from behind

    @cached_property
    def _course(self) -> Points:
        """Down the body in steps of 1 / _STEPS of a level: middle x and y, half width, slope [n, 4]."""
        v = np.arange(0.0, ANKLE * _STEPS + 2) / _STEPS
        places = np.linspace(0.0, 1.0, len(self.spine))
        x, y = (np.interp(v, places, self.spine[:, axis]) for axis in (0, 1))
        half = np.interp(v, _LEVELS, self.half_widths)
        below = v > 1.0
        x[below], y[below], half[below] = self._between_legs(v[below])
        return np.stack([x, y, half, np.interp(v, (0.0, WAIST, 1.0), (self.tilt[0], 0.0, self.tilt[1]))], axis=-1)

    def _between_legs(self, v: Points) -> tuple[Points, Points, Points]:
        t = np.clip(v - 1.0, 0.0, 2.0)
        low, high, heights = np.full(len(v), np.inf), np.full(len(v), -np.inf), np.clip(1.3 - v, 0.0, 0.3)
        for leg in self.legs:  # heights begin a little lower: the crotch lies below the hip joints
            x, y = (np.interp(t, (0, 1, 2), leg.joints[:, axis]) for axis in (0, 1))
            radius = np.interp(t, _LIMB_STEPS, leg.radii)
            low, high, heights = np.minimum(low, x - radius), np.maximum(high, x + radius), heights + y / 2
        return (low + high) / 2, heights, np.maximum((high - low) / 2, 0.2)

    def _rows(self, levels: Points | Sequence[float]) -> Points:
        place = np.asarray(levels, float) * _STEPS
        first = place.astype(int)
        course = self._course[first]
        return course + (place - first)[:, None] * (self._course[first + 1] - course)

    def half(self, level: float) -> float:
        """Half the width of the body at a level; below the crotch, of both legs together."""
        first = int(level * _STEPS)
        here, after = self._course[first, 2], self._course[first + 1, 2]
        return float(here + (level * _STEPS - first) * (after - here))

    def at(self, x: float, level: float) -> Points:
        """The point [2] at x heads to the picture's right of the body's middle, at a level."""
        place = max(level, 0.0) * _STEPS
        first = int(place)
        share = place - first
        here, after = self._course_rows[first], self._course_rows[first + 1]
        middle, height, slope = ((1 - share) * here[n] + share * after[n] for n in (0, 1, 3))
        if level < 0:  # up the neck
            height += level * (self.spine[-1, 1] - self.spine[0, 1])
        return np.array((middle + x, height + x * slope))

    @cached_property
    def _course_rows(self) -> list[list[float]]:
        return self._course.tolist()

    def side(
        self,
        sign: int,
        levels: Points | Sequence[float],
        ease: float | Points = 1.0,
        loose: float | Points = 0.0,
        least: float = 0.0,
    ) -> Points:
        """Points [n, 2] down one side (sign -1 left, 1 right) of the body.

        They lie at the body's half width times `ease` plus `loose`; below the crotch it is taken for `least` at least.
        """
        rows = self._rows(levels)
        half = np.where(np.asarray(levels) > 1.0, np.maximum(rows[:, 2], least), rows[:, 2])
        x = sign * (half * ease + loose)
        return np.stack([rows[:, 0] + x, rows[:, 1] + x * rows[:, 3]], axis=-1)


@cache
def _circle(count: int) -> Points:
    phi = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(phi), np.sin(phi)], axis=-1)


def disc(centre: Points, radius: float, count: int = 14) -> Points:
    """A circle's outline [count, 2]."""
    return ellipse(centre, (radius, radius), 0.0, count)


def ellipse(centre: Points, radii: tuple[float, float], angle: float = 0.0, count: int = 20) -> Points:
    """An ellipse's outline [count, 2], turned by `angle`."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[radii[0] * cos, radii[0] * sin], [-radii[1] * sin, radii[1] * cos]])
    return np.asarray(centre) + _circle(count) @ turn


_U = np.linspace(0.0, 1.0, 5)[:-1]
_HERMITE = np.stack([1 - 3 * _U**2 + 2 * _U**3, 3 * _U**2 - 2 * _U**3, _U - 2 * _U**2 + _U**3, _U**3 - _U**2], axis=-1)


def smooth(points: Points | Sequence[Points], *, closed: bool = True) -> Points:
    """A Catmull-Rom curve through points [n, 2], four steps a span; a point given twice is a corner."""
    p = np.asarray(points, float)
    spans = np.empty((len(p), 4, 2))  # both ends of each, then the tangents there
    spans[:, 0], spans[:-1, 1], spans[-1, 1] = p, p[1:], p[0] if closed else p[-1]
    tangents = spans[:, 2]
    tangents[1:], tangents[0] = p[:-1], p[-1] if closed else p[0]
    np.subtract(spans[:, 1], tangents, out=tangents)
    tangents *= 0.5
    corner = (p == spans[:, 1]).all(axis=1)
    corner[1:] |= corner[:-1].copy()
    tangents[corner] = 0.0
    spans[:-1, 3], spans[-1, 3] = tangents[1:], tangents[0]
    curve = (_HERMITE @ spans).reshape(-1, 2)
    return curve if closed else np.concatenate([curve[: 4 * (len(p) - 1)], p[-1:]])


def pick(rng: np.random.Generator, weights: Mapping[Choice, float]) -> Choice:
    """One of the keys, each as likely as its weight says. (numpy's own takes twenty times as long.)"""
    left = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    return key  # rounding left a little over


def pose_figure(rng: np.random.Generator, pose: str) -> Figure:
    """A body of random build in a random pose of a kind: "stand", "walk" or "flat" (garments laid out: no body is drawn)."""
    slim = rng.random()
    widths = slim * _HALF_WIDTHS["slim"] + (1 - slim) * _HALF_WIDTHS["broad"]
    widths = widths * np.array([1.0, 1.0, *[rng.uniform(0.94, 1.16)] * 5])
    if pose == "flat":
        return _flat_figure(rng, widths)
    turn = float(np.clip(rng.normal(0, 0.45), -1, 1))
    widths = widths * np.array([1.0, *[1 - 0.22 * abs(turn)] * 6])
    sway, lean, tilt = rng.normal(0, 0.07), rng.normal(0, 0.06), rng.normal(0, 0.045)
    x = np.array([lean, 0.75 * lean + 0.3 * sway, 0.4 * lean + 0.9 * sway, sway, 0.6 * sway])
    spine = np.stack([x, 1.25 + _TRUNK * np.linspace(0, 1, 5)], axis=-1)
    legs = _legs(rng, spine[-1], widths[-1], rng.uniform(0.92, 1.18), walking=pose == "walk", sway=sway, tilt=-tilt)
    arms = _arms(rng, spine, widths, tilt, rng.uniform(0.92, 1.15), walking=pose == "walk")
    nod = rng.normal(0, 0.06)
    head = spine[0] + np.array([0.12 * turn + 0.66 * np.sin(nod), -0.68])
    return Figure(spine, widths, (tilt, -tilt), arms, legs, head, nod, turn, back=bool(rng.random() < 0.06))


def _legs(
    rng: np.random.Generator, crotch: Points, hips: float, stout: float, *, walking: bool, sway: float, tilt: float
) -> tuple[Limb, Limb]:
    spread = rng.uniform(0.0, 0.12) if not walking else rng.uniform(-0.08, 0.02)
    wide = rng.random() < 0.12
    limbs = []
    forward = rng.integers(2)
    for side, sign in enumerate((-1, 1)):
        hip = crotch + np.array([sign * (hips - 0.35 * stout) * 0.98, -0.3 + sign * hips * tilt])
        free = np.sign(sway) == sign  # contrapposto: the hip leans over the standing leg, the other is bent
        out = sign * (spread + (0.16 if wide else 0.0)) + (rng.uniform(0.02, 0.14) * sign if free else 0.0)
        shank = _SHANK * (rng.uniform(0.72, 0.9) if walking and side != forward else 1.0)
        knee = hip + _THIGH * np.array([np.sin(out - 0.06 * sign), np.cos(out)])
        ankle = knee + shank * np.array([np.sin(0.4 * out - 0.03 * sign), np.cos(0.4 * out)])
        limbs.append(Limb(np.array([hip, knee, ankle]), _LEG_RADII * stout))
    return limbs[0], limbs[1]


def _arms(
    rng: np.random.Generator, spine: Points, widths: Points, tilt: float, stout: float, *, walking: bool
) -> tuple[Limb, Limb]:
    limbs = []
    for sign in (-1, 1):
        x = sign * (widths[1] - 0.19)
        shoulder = spine[0] + np.array([x, 0.39 + x * tilt])
        upper, fore, length, behind = _arm_pose(rng, walking=walking)
        elbow = shoulder + _UPPER_ARM * np.array([sign * np.sin(upper), np.cos(upper)])
        wrist = elbow + length * _FOREARM * np.array([sign * np.sin(fore), np.cos(fore)])
        limbs.append(Limb(np.array([shoulder, elbow, wrist]), _ARM_RADII * stout, behind))
    return limbs[0], limbs[1]


def _arm_pose(rng: np.random.Generator, *, walking: bool) -> tuple[float, float, float, bool]:
    """Angle of upper arm and forearm from straight down (outwards positive), the forearm's foreshortening, hidden or not."""
    kind = pick(rng, _WALKING_ARMS if walking else _ARMS)
    wobble = rng.uniform(-0.08, 0.08)
    if kind == "hanging":
        return 0.16 + wobble, 0.1 + 1.5 * wobble, rng.uniform(0.85, 1.0), False
    if kind == "on hip":
        return 0.72 + wobble, -0.85 + wobble, 0.9, False
    if kind == "before":
        return 0.2 + wobble, rng.uniform(-1.9, -0.9), rng.uniform(0.75, 0.95), False
    if kind == "raised":
        return rng.uniform(1.7, 2.5), rng.uniform(2.4, 3.6), 0.95, False
    if kind == "behind":
        return 0.3 + wobble, -0.6 + wobble, 0.8, True
    return 0.24 + wobble, rng.uniform(0.3, 0.8), rng.uniform(0.7, 0.95), False


def _flat_figure(rng: np.random.Generator, widths: Points) -> Figure:
    spine = np.stack([np.zeros(5), 1.25 + _TRUNK * np.linspace(0, 1, 5)], axis=-1)
    spread, fold = rng.uniform(0.3, 0.75), rng.uniform(-0.35, 0.1)
    arms, legs = [], []
    for sign in (-1, 1):
        shoulder = spine[0] + np.array([sign * (widths[1] - 0.19), 0.39])
        elbow = shoulder + _UPPER_ARM * np.array([sign * np.sin(spread), np.cos(spread)])
        wrist = elbow + _FOREARM * np.array([sign * np.sin(spread + fold), np.cos(spread + fold)])
        arms.append(Limb(np.array([shoulder, elbow, wrist]), _ARM_RADII * 1.15))
        hip = spine[-1] + np.array([sign * (widths[-1] - 0.43), -0.3])
        knee = hip + np.array([sign * rng.uniform(0.02, 0.2), _THIGH])
        legs.append(Limb(np.array([hip, knee, knee + np.array([sign * 0.06, _SHANK])]), _LEG_RADII * 1.15))
    return Figure(
        spine, widths, (0.0, 0.0), (arms[0], arms[1]), (legs[0], legs[1]), spine[0] + np.array([0.0, -0.68]), 0.0, 0.0
    )
