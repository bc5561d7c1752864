"""Hats, glasses, necklaces, scarves and ties, watches, gloves and bags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imptool.outfits.figure import HIP, Figure, Limb, Points, disc, ellipse, smooth
from imptool.outfits.paint import Mark, Part
from imptool.outfits.tailor import ARM, BACK_ARM, CROWN, FACE, HEAD, NECKLACE, STRAP, Tailor


def hat(t: Tailor) -> list[Part]:
    """Beanies, caps, hats with a brim, headbands."""
    f = t.figure
    kind = t.pick({"beanie": 0.26, "brim": 0.28, "cap": 0.22, "band": 0.12, "beret": 0.12})

    def place(points: Sequence[tuple[float, float]]) -> Points:
        return on_head(f, np.array(points))

    if kind == "band":
        band = smooth(place([(-0.4, -0.2), (0, -0.36), (0.4, -0.2), (0.4, -0.3), (0, -0.48), (-0.4, -0.3)]))
        return [t.part(CROWN + 3, band, folds=0.1)]
    if kind == "beanie":
        dome = smooth(
            place(
                [
                    (-0.41, -0.12),
                    (-0.41, -0.12),
                    (0, -0.16),
                    (0.41, -0.12),
                    (0.41, -0.12),
                    (0.38, -0.45),
                    (0.16, -0.68),
                    (-0.16, -0.68),
                    (-0.38, -0.45),
                ]
            )
        )
        return [
            t.part(
                CROWN + 3,
                dome,
                marks=[Mark(smooth(place([(-0.41, -0.24), (0, -0.29), (0.41, -0.24)]), closed=False), -0.35, 0.025)],
            )
        ]
    if kind == "cap":
        side = 0.3 * np.sign(f.turn or 1)
        dome = smooth(
            place([(-0.4, -0.16), (-0.4, -0.16), (0, -0.2), (0.4, -0.16), (0.4, -0.16), (0.34, -0.5), (0, -0.6), (-0.34, -0.5)])
        )
        peak = smooth(
            place([(-0.3 + side, -0.2), (0.32 + side, -0.2), (0.36 + side, -0.08), (side, -0.02), (-0.34 + side, -0.08)])
        )
        return [t.part(CROWN + 3, dome, folds=0.1), t.part(CROWN + 4, peak, folds=0.0, bulge=0.6)]
    if kind == "beret":
        disc_ = smooth(
            place([(-0.42, -0.2), (0.0, -0.3), (0.4, -0.24), (0.62, -0.38), (0.4, -0.62), (-0.1, -0.62), (-0.46, -0.42)])
        )
        return [t.part(CROWN + 3, disc_, folds=0.3)]
    wide = t.between(0.62, 0.95)
    brim = smooth(place([(-wide, -0.2), (-0.3, -0.3), (0.3, -0.3), (wide, -0.2), (0.4, -0.12), (-0.4, -0.12)]))
    crown = smooth(
        place(
            [
                (-0.4, -0.26),
                (-0.4, -0.26),
                (0.4, -0.26),
                (0.4, -0.26),
                (0.33, -0.62),
                (0.1, -0.66),
                (0, -0.62),
                (-0.1, -0.66),
                (-0.33, -0.62),
            ]
        )
    )
    ribbon = Mark(smooth(place([(-0.4, -0.3), (0, -0.26), (0.4, -0.3)]), closed=False), -0.55, 0.08)
    return [t.part(CROWN + 3, brim, folds=0.1), t.part(CROWN + 4, crown, folds=0.15, marks=[ribbon])]


def on_head(f: Figure, points: Points) -> Points:
    """Points around the head's centre, turned with it."""
    cos, sin = np.cos(f.nod), np.sin(f.nod)
    return f.head + points @ np.array([[cos, sin], [-sin, cos]])


def glasses(t: Tailor) -> list[Part]:
    """Glasses: two lenses and the bridge; dark ones hide the eyes."""
    f = t.figure
    x, big = 0.1 * f.turn, t.between(0.1, 0.15)
    lenses = [on_head(f, ellipse(np.array([x + s * 0.155, 0.0]), (big, 0.8 * big))) for s in (-1, 1)]
    bridge = on_head(f, np.array([[x - 0.06, -0.035], [x + 0.06, -0.035], [x + 0.06, 0.0], [x - 0.06, 0.0]]))
    arms = [
        on_head(f, np.array([[x + s * 0.22, -0.05], [s * 0.37, -0.07], [s * 0.37, -0.04], [x + s * 0.22, -0.01]]))
        for s in (-1, 1)
    ]
    glint = [Mark(lens[12:15], 0.7, 0.02) for lens in lenses]
    return [
        t.part(FACE + 4, [*lenses, bridge, *arms], folds=0.0, bulge=0.2, opacity=0.92 if t.chance(0.7) else 0.55, marks=glint)
    ]


def necklace(t: Tailor) -> list[Part]:
    """Chains with a pendant, strings of beads."""
    f = t.figure
    drop, width = t.between(0.12, 0.36), t.between(0.022, 0.045)
    line = smooth(
        [
            f.at(-0.24, 0.02),
            f.at(-0.2, 0.02 + 0.6 * drop),
            f.at(0, 0.02 + drop),
            f.at(0.2, 0.02 + 0.6 * drop),
            f.at(0.24, 0.02),
        ],
        closed=False,
    )
    step = np.gradient(line, axis=0)
    across = np.stack([-step[:, 1], step[:, 0]], axis=-1) / (np.hypot(step[:, 0], step[:, 1])[:, None] + 1e-9)
    chain = np.concatenate([line + width * across, (line - width * across)[::-1]])
    if t.chance(0.3):
        return [t.part(NECKLACE, [disc(point, 1.9 * width, 8) for point in line[::2]], folds=0.0, bulge=0.8)]
    pendant = disc(line[len(line) // 2] + np.array([0, 0.05]), t.between(0.05, 0.1), 10)
    return [t.part(NECKLACE, [chain, pendant], folds=0.0, bulge=0.5)]


def scarf(t: Tailor) -> list[Part]:
    """Scarves round the neck with hanging ends; one in four is a tie."""
    f = t.figure
    if t.chance(0.28):
        low = t.between(0.5, 0.62)
        knot = np.array([f.at(-0.09, 0.06), f.at(0.09, 0.06), f.at(0.06, 0.13), f.at(-0.06, 0.13)])
        blade = np.array([f.at(-0.05, 0.13), f.at(0.05, 0.13), f.at(0.14, low - 0.04), f.at(0.0, low), f.at(-0.14, low - 0.04)])
        return [
            t.part(
                NECKLACE + 5,
                [knot, blade],
                folds=0.15,
                marks=[Mark(np.array([f.at(-0.07, 0.13), f.at(0.07, 0.13)]), -0.4, 0.02)],
            )
        ]
    wrap = smooth(
        [
            f.at(-0.4, 0.04),
            f.at(-0.34, -0.09),
            f.at(0, -0.06),
            f.at(0.34, -0.09),
            f.at(0.42, 0.05),
            f.at(0.2, 0.15),
            f.at(-0.2, 0.15),
        ]
    )
    ends = []
    for sign in (-1, 1) if t.chance(0.6) else (t.pick({-1: 1, 1: 1}),):
        x, low, wide = sign * t.between(0.12, 0.26), t.between(0.4, 0.95), t.between(0.12, 0.2)
        ends.append(
            smooth(
                [
                    f.at(x - wide, 0.08),
                    f.at(x + wide, 0.08),
                    f.at(x + wide, low),
                    f.at(x + wide, low),
                    f.at(x - wide, low),
                    f.at(x - wide, low),
                ]
            )
        )
    twist = Mark(smooth([f.at(-0.36, 0.0), f.at(0, 0.07), f.at(0.36, 0.0)], closed=False), -0.3, 0.03)
    return [
        *(t.part(HEAD - 3, end, folds=0.7, fold_size=1.2) for end in ends),
        t.part(HEAD + 5, wrap, folds=0.8, fold_size=1.0, marks=[twist]),
    ]


def wristband(t: Tailor) -> list[Part]:
    """A watch or bracelet."""
    arm = t.figure.arms[int(t.rng.integers(2))]
    low, wide = t.between(1.8, 1.9), t.between(0.06, 0.12)
    band = arm.sleeve(low, low + wide, ease=1.14, loose=(0.01, 0.01))
    dial = disc(arm.at(low + wide / 2), t.between(0.07, 0.11), 12)
    watch = t.chance(0.6)
    marks = [Mark(dial, (228, 228, 220), 0), Mark(dial, -0.4, 0.02, closed=True)] if watch else []
    return [t.part((BACK_ARM if arm.behind else ARM) + 7, [*band, dial] if watch else band, folds=0.0, marks=marks)]


def glove(t: Tailor, side: int) -> list[Part]:
    """One glove."""
    arm = t.figure.arms[side]
    above = (BACK_ARM if arm.behind else ARM) + 6
    return [t.part(above, [*arm.sleeve(1.75, 2.0, ease=1.25, loose=(0.03, 0.0)), hand_outline(arm, 1.14)], folds=0.2)]


_HAND = smooth(  # along the forearm from the wrist, across towards the thumb
    np.array(
        [
            (-0.06, -0.09),
            (0.16, -0.115),
            (0.3, -0.125),
            (0.42, -0.1),
            (0.4, -0.06),
            (0.26, -0.045),
            (0.47, -0.055),
            (0.5, -0.02),
            (0.28, -0.01),
            (0.51, -0.005),
            (0.51, 0.035),
            (0.28, 0.03),
            (0.46, 0.05),
            (0.44, 0.085),
            (0.26, 0.085),
            (0.2, 0.115),
            (0.28, 0.17),
            (0.27, 0.205),
            (0.14, 0.16),
            (0.02, 0.1),
            (-0.06, 0.09),
        ]
    )
)


def hand_outline(arm: Limb, ease: float = 1.0) -> Points:
    """The hand at the end of an arm, its thumb towards the body."""
    wrist, down = arm.at(2.0), arm.direction(2.0)
    across = np.array([-down[1], down[0]]) * (1.0 if arm.joints[1, 0] > arm.joints[0, 0] else -1.0)
    return wrist + ease * (_HAND[:, :1] * down + _HAND[:, 1:] * across)


def bag(t: Tailor) -> list[Part]:
    """Handbags, shoulder bags, cross-body bags, backpacks' straps, clutches."""
    f = t.figure
    kind = t.pick({"hand": 0.36, "shoulder": 0.3, "cross": 0.22, "clutch": 0.12})
    side = int(t.rng.integers(2))
    sign, arm = (-1, 1)[side], f.arms[side]
    width, height = t.between(0.36, 0.68), t.between(0.3, 0.56)
    if kind in ("hand", "clutch"):
        grip = arm.at(2.0) + 0.26 * arm.direction(2.0)
        drop = 0.34 if kind == "hand" else -0.1
        box = _bag_box(grip + np.array([0.0, drop]), width, height)
        hoop = smooth(
            [
                grip + np.array([-0.26 * width / 0.5, drop + 0.03]),
                grip + np.array([-0.1, 0.02]),
                grip + np.array([0.1, 0.02]),
                grip + np.array([0.26 * width / 0.5, drop + 0.03]),
            ],
            closed=False,
        )
        handles = [Mark(hoop, t.fabric.colours[0], 0.035)] if kind == "hand" else []
        return [t.part(ARM - 2 if kind == "hand" else ARM + 8, box, folds=0.15, bulge=0.8, marks=[*handles, *_bag_marks(box)])]
    shoulder = f.at((sign if kind == "shoulder" else -sign) * 0.72 * f.half_widths[1], 0.03)
    middle = f.side(sign, [HIP - 0.02], 1.18)[0] + np.array([0.06 * sign, 0.1])
    box = _bag_box(middle, width, height)
    top_edge = middle + np.array([0.0, 0.03])
    step = top_edge - shoulder
    across = np.array([-step[1], step[0]]) / (np.hypot(*step) + 1e-9) * t.between(0.03, 0.055)
    strap = np.array([shoulder - across, shoulder + across, top_edge + across, top_edge - across])
    layer = STRAP if kind == "cross" else ARM + 8
    return [
        t.part(layer, strap, folds=0.0, bulge=0.4),
        t.part(layer + 0.5 if kind == "cross" else ARM + 8.5, box, folds=0.15, bulge=0.8, marks=_bag_marks(box)),
    ]


def _bag_box(top_middle: Points, width: float, height: float) -> Points:
    half = width / 2
    corners = [
        (-0.88 * half, 0),
        (-0.88 * half, 0),
        (0.88 * half, 0),
        (0.88 * half, 0),
        (half, 0.9 * height),
        (0.8 * half, height),
        (-0.8 * half, height),
        (-half, 0.9 * height),
    ]
    return smooth(top_middle + np.array(corners))


def _bag_marks(box: Points) -> list[Mark]:
    low, high = box.min(axis=0), box.max(axis=0)
    middle = (low + high) / 2
    flap = np.array(
        [
            [low[0] + 0.02, low[1] + 0.45 * (high[1] - low[1])],
            middle + np.array((0.0, 0.04)),
            [high[0] - 0.02, low[1] + 0.45 * (high[1] - low[1])],
        ]
    )
    return [Mark(smooth(flap, closed=False), -0.4, 0.02), Mark(disc(middle + np.array([0, 0.03]), 0.03, 8), (205, 180, 110), 0)]
