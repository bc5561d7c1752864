"""Feet, and what is worn on them: shoes, boots, socks. Each function gives the parts of one."""

from __future__ import annotations

import numpy as np

from imptool.outfits.figure import Figure, Points, smooth
from imptool.outfits.paint import Mark, Part
from imptool.outfits.tailor import FOOT, HOSE, Tailor, ring


def foot_frame(f: Figure, side: int) -> tuple[Points, Points, Points]:
    """Ankle, the way the toes point, and the way across, of a foot."""
    sign = (-1, 1)[side]
    leg = f.legs[side]
    down = leg.direction(2.0)
    along = down + np.array([0.32 * sign + 0.45 * f.turn, 0.15])
    along = along / np.hypot(*along)
    return leg.at(2.0), along, np.array([-along[1], along[0]])


def foot_outline(
    f: Figure, side: int, *, ease: float = 1.0, start: float = -0.12, length: float = 0.5, point: float = 0.1
) -> Points:
    """A foot from above the ankle to the toes; `point`: half the width of the tip."""
    ankle, along, across = foot_frame(f, side)
    levels = np.array([start, 0.1, 0.3, length - 0.06, length])
    widths = np.array([0.13, 0.145, 0.165, 0.14, point]) * ease
    left, right = (ankle + levels[:, None] * along + s * widths[:, None] * across for s in (-1, 1))
    return smooth([*left, *right[::-1]])


def shoe(t: Tailor, side: int) -> list[Part]:
    """One shoe: sneaker, flat, loafer, pump or sandal. The kind comes from the cloth, which a pair shares."""
    f = t.figure
    ankle, along, across = foot_frame(f, side)
    kind = int(5 * t.fabric.phase[0])

    def place(a: float, b: float) -> Points:
        return ankle + a * along + b * across

    if kind == 0:  # sneaker
        sole = foot_outline(f, side, ease=1.2, start=0.0, length=0.56, point=0.12)
        upper = foot_outline(f, side, ease=1.08, start=-0.05, length=0.52)
        laces = [Mark(np.array([place(a, -0.08), place(a + 0.02, 0.08)]), (236, 236, 232), 0.025) for a in (0.1, 0.17, 0.24)]
        return [
            t.part(
                FOOT + 2, [sole], folds=0.0, marks=[Mark(sole, (232, 230, 224), 0), Mark(upper, t.fabric.colours[0], 0), *laces]
            )
        ]
    if kind == 1:  # sandal: straps, the foot shows between them
        straps = [
            np.array([place(a, -0.17), place(a + 0.05, 0.17), place(a + 0.11, 0.17), place(a + 0.06, -0.17)])
            for a in (0.02, 0.2, 0.34)
        ]
        tip = smooth([place(0.46, -0.12), place(0.5, 0.0), place(0.46, 0.12), place(0.55, 0.1), place(0.56, -0.1)])
        return [t.part(FOOT + 2, [*straps, tip], folds=0.0, bulge=0.4)]
    if kind in (2, 3):  # pump or flat: only toes and rim are covered
        toe = smooth(
            [
                place(0.22, -0.17),
                place(0.16, -0.19),
                place(0.35, -0.17),
                place(0.53, -0.05),
                place(0.53, 0.05),
                place(0.35, 0.17),
                place(0.16, 0.19),
                place(0.22, 0.17),
                place(0.27, 0.0),
            ]
        )
        heel = [np.array([place(-0.02, 0.1), place(0.02, 0.16), place(0.36, 0.12), place(0.36, 0.08)])] if kind == 3 else []
        return [t.part(FOOT + 2, [toe, *heel], folds=0.0)]
    upper = foot_outline(f, side, ease=1.1, start=-0.02, length=0.55, point=0.11)
    tongue = Mark(smooth([place(0.2, -0.1), place(0.14, 0.0), place(0.2, 0.1), place(0.26, 0.0)]), -0.4, 0.02, closed=True)
    return [t.part(FOOT + 2, upper, folds=0.0, marks=[tongue])]


def boot(t: Tailor, side: int, layer: float = FOOT + 3) -> list[Part]:
    """One boot, from the ankle to the knee."""
    f = t.figure
    leg = f.legs[side]
    start = (1.78, 1.6, 1.2)[int(3 * t.fabric.phase[0])]
    shaft = leg.sleeve(start, 2.0, ease=1.16, loose=(0.05, 0.03))
    foot = foot_outline(f, side, ease=1.16, start=-0.14, length=0.55, point=0.11)
    sole = Mark(foot[4:14], -0.6, 0.05)
    return [t.part(layer, [*shaft, foot], folds=0.35, marks=[sole, Mark(ring(leg, start + 0.03, 1.16, 0.04), -0.35, 0.02)])]


def sock(t: Tailor, side: int) -> list[Part]:
    """One sock."""
    leg = t.figure.legs[side]
    start = (1.8, 1.55, 1.15)[int(3 * t.fabric.phase[0])]
    foot = foot_outline(t.figure, side, ease=1.03)
    rib = [Mark(ring(leg, start + d, 1.06, 0.0), -0.25, 0.016) for d in (0.03, 0.07)]
    return [t.part(HOSE + 1, [*leg.sleeve(start, 2.0, ease=1.06), foot], folds=0.25, marks=rib)]
