"""The body under the clothes: skin, face and hair of a figure."""

from __future__ import annotations

import numpy as np

from imptool.outfits.accessories import hand_outline, on_head
from imptool.outfits.feet import foot_outline
from imptool.outfits.figure import Points, disc, ellipse, smooth
from imptool.outfits.paint import Colour, Mark, Part, toned
from imptool.outfits.tailor import ARM, BACK_ARM, BEHIND, BODY, CROWN, HEAD, Tailor


def skin(t: Tailor, hair: Colour) -> list[Part]:
    """Trunk, legs, feet, neck, head with its face, arms and hands."""
    f = t.figure
    trunk = smooth(
        [
            f.at(-0.22, -0.04),
            f.at(-0.24, 0.02),
            f.at(-0.95 * f.half_widths[1], 0.07),
            *f.side(-1, [0.25, 0.42, 0.58, 0.82, 1.0]),
            f.at(0, 1.06),
            *f.side(1, [1.0, 0.82, 0.58, 0.42, 0.25]),
            f.at(0.95 * f.half_widths[1], 0.07),
            f.at(0.24, 0.02),
            f.at(0.22, -0.04),
        ]
    )
    collarbones = [
        Mark(smooth([f.at(s * 0.08, 0.06), f.at(s * 0.3, 0.045), f.at(s * 0.55, 0.05)], closed=False), -0.14, 0.02)
        for s in (-1, 1)
    ]
    parts = [t.part(BODY + 1, trunk, folds=0.0, bulge=0.8, marks=collarbones)]
    for side, leg in enumerate(f.legs):
        knee = Mark(
            smooth([leg.at(1.0) + np.array([-0.1, -0.03]), leg.at(1.05), leg.at(1.0) + np.array([0.1, -0.03])], closed=False),
            -0.08,
            0.02,
        )
        parts.append(t.part(BODY, [*leg.sleeve(0.0, 2.0), foot_outline(f, side)], folds=0.0, marks=[knee]))
    neck = smooth(
        [
            f.at(-0.21, 0.05),
            f.at(-0.21, 0.05),
            f.head + np.array([-0.19, 0.2]),
            f.head + np.array([0.19, 0.2]),
            f.at(0.21, 0.05),
            f.at(0.21, 0.05),
            f.at(0, 0.08),
        ]
    )
    shade = Mark(
        smooth(
            [
                f.head + np.array([-0.2, 0.4]),
                f.head + np.array([0.0, 0.52]),
                f.head + np.array([0.2, 0.4]),
                f.head + np.array([0, 0.36]),
            ]
        ),
        -0.22,
        0,
    )
    parts.append(t.part(BODY + 2, neck, folds=0.0, bulge=0.8, marks=[shade]))
    for arm in f.arms:
        above = BACK_ARM if arm.behind else ARM
        parts.append(t.part(above, [disc(arm.joints[0], arm.radius(0)), *arm.sleeve(0.0, 2.0), hand_outline(arm)], folds=0.0))
    return [*parts, *_head(t, hair)]


def _head(t: Tailor, hair: Colour) -> list[Part]:
    f = t.figure
    jaw = t.between(0.2, 0.27)
    outline = on_head(
        f,
        smooth(
            np.array(
                [
                    (0, -0.47),
                    (0.26, -0.36),
                    (0.345, -0.08),
                    (0.32, 0.16),
                    (jaw, 0.36),
                    (0.09, 0.47),
                    (-0.09, 0.47),
                    (-jaw, 0.36),
                    (-0.32, 0.16),
                    (-0.345, -0.08),
                    (-0.26, -0.36),
                ]
            )
        ),
    )
    ears = [on_head(f, ellipse(np.array([s * 0.35, 0.03]), (0.05, 0.1))) for s in (-1, 1)]
    face = [] if f.back else _face(t, hair)
    return [t.part(HEAD, [*ears, outline], folds=0.0, bulge=0.7, marks=face)]


def _face(t: Tailor, hair: Colour) -> list[Mark]:
    f, tone = t.figure, t.fabric.colours[0]
    x, marks = 0.1 * f.turn, []
    iris: Colour = t.pick({(70, 45, 30): 2, (45, 35, 30): 2, (70, 95, 120): 1, (75, 90, 60): 1})
    brow = toned(hair, -0.25)
    marks.append(Mark(on_head(f, ellipse(np.array([x, 0.1]), (0.05, 0.12))), toned(tone, 0.1), 0))
    blush = mixed(tone, (228, 110, 104), 0.16)
    for s in (-1, 1):
        eye = np.array([x + s * 0.145, 0.0])
        marks.append(Mark(on_head(f, ellipse(eye - np.array((0.0, 0.02)), (0.08, 0.05))), toned(tone, -0.12), 0))
        marks.append(Mark(on_head(f, ellipse(eye, (0.06, 0.034))), (236, 232, 228), 0))
        marks.append(Mark(on_head(f, disc(eye + np.array((0.02 * f.turn, -0.002)), 0.037, 8)), iris, 0))
        marks.append(Mark(on_head(f, disc(eye + np.array((0.02 * f.turn, 0.0)), 0.017, 6)), (18, 14, 14), 0))
        marks.append(
            Mark(
                on_head(f, smooth(eye + np.array([[-0.066, 0.0], [0, -0.04], [0.066, 0.0]]), closed=False)),
                toned(hair, -0.6),
                0.018,
            )
        )
        arch = np.array([[-0.085, -0.075], [-0.02, -0.108], [0.085, -0.085]]) * np.array([s, 1.0])
        marks.append(Mark(on_head(f, smooth(eye + arch, closed=False)), brow, 0.024))
        marks.append(Mark(on_head(f, ellipse(np.array([x + s * 0.19, 0.17]), (0.07, 0.05))), blush, 0))
    marks.append(
        Mark(
            on_head(f, np.array([(x + 0.015, -0.02), (x + 0.045, 0.12), (x - 0.01, 0.15), (x - 0.05, 0.13)])),
            toned(tone, -0.25),
            0.018,
        )
    )
    lips = mixed(tone, (178, 60, 66), 0.4)
    smile = t.between(-0.01, 0.03)
    mouth = smooth(
        np.array([(x - 0.11, 0.26 - smile), (x - 0.03, 0.24), (x + 0.03, 0.24), (x + 0.11, 0.26 - smile), (x, 0.305)])
    )
    marks.append(Mark(on_head(f, mouth), lips, 0))
    marks.append(
        Mark(
            on_head(f, smooth(np.array([(x - 0.1, 0.26 - smile), (x, 0.267), (x + 0.1, 0.26 - smile)]), closed=False)),
            toned(lips, -0.4),
            0.014,
        )
    )
    if t.chance(0.12):  # beard
        beard = smooth(
            np.array(
                [
                    (-0.33, 0.1),
                    (-0.24, 0.36),
                    (0, 0.485),
                    (0.24, 0.36),
                    (0.33, 0.1),
                    (0.2, 0.24),
                    (x + 0.12, 0.21),
                    (x, 0.2),
                    (x - 0.12, 0.21),
                    (-0.2, 0.24),
                ]
            )
        )
        marks.insert(0, Mark(on_head(f, beard), mixed(hair, tone, 0.35), 0))
    return marks


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour with a share of another."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def hair(t: Tailor) -> list[Part]:
    """Short, bobbed, long, curly, tied up; now and then none."""
    f = t.figure
    kind = t.pick({"short": 0.26, "bob": 0.16, "long": 0.27, "curly": 0.09, "bun": 0.12, "tail": 0.1})
    low, part_x = t.between(-0.26, -0.14), t.between(-0.2, 0.2)
    if f.back:
        down = {"short": 0.3, "bob": 0.55, "long": 1.2, "curly": 0.5, "bun": 0.36, "tail": 0.36}[kind]
        cover = smooth(
            np.array(
                [
                    (0, -0.55),
                    (0.36, -0.36),
                    (0.41, 0.0),
                    (0.36, down),
                    (0, down + 0.05),
                    (-0.36, down),
                    (-0.41, 0.0),
                    (-0.36, -0.36),
                ]
            )
        )
        return [t.part(CROWN, on_head(f, cover), folds=0.8, fold_size=0.9, bulge=0.8)]
    crown = [(-0.37, 0.08), (-0.4, -0.16), (-0.3, -0.45), (0, -0.58), (0.3, -0.45), (0.4, -0.16), (0.37, 0.08)]
    line = [
        (0.31, 0.02),
        (0.26, low + 0.06),
        (part_x + 0.06, low - 0.06),
        (part_x - 0.04, low - 0.1),
        (-0.26, low + 0.06),
        (-0.31, 0.02),
    ]
    if t.chance(0.22):  # fringe
        line = [(0.31, 0.02), (0.27, -0.08), (0.1, -0.09), (-0.1, -0.09), (-0.27, -0.08), (-0.31, 0.02)]
    if kind == "curly":
        blobs = [
            on_head(f, disc(np.array([0.34 * np.cos(a), -0.2 + 0.36 * np.sin(a)]), t.between(0.17, 0.23), 12))
            for a in np.linspace(np.pi * 0.95, 2.05 * np.pi, 8)
        ]
        back = on_head(f, ellipse(np.array([0, -0.1]), (0.52, 0.52)))
        return [
            t.part(BEHIND, back, folds=0.8, fold_size=0.9, bulge=0.8),
            t.part(CROWN, blobs, folds=0.8, fold_size=0.5, bulge=0.9),
        ]
    parts = [t.part(CROWN, on_head(f, smooth(np.array(crown + line))), folds=0.8, fold_size=0.9, bulge=0.8)]
    if kind in ("bob", "long"):
        down = 0.5 if kind == "bob" else t.between(0.8, 1.5)
        wide = t.between(0.4, 0.5)
        back = np.array(
            [
                (0, -0.54),
                (0.38, -0.34),
                (wide - 0.04, 0.1),
                (wide, down),
                (0.2, down + 0.08),
                (-0.2, down + 0.08),
                (-wide, down),
                (-wide + 0.04, 0.1),
                (-0.38, -0.34),
            ]
        )
        parts.append(t.part(BEHIND, on_head(f, smooth(back)), folds=0.8, fold_size=0.9, bulge=0.8))
        parts += [
            t.part(CROWN + 1, on_head(f, _lock(s, down if t.chance(0.6) else 0.42, wide)), folds=0.8, fold_size=0.9, bulge=0.8)
            for s in (-1, 1)
        ]
    if kind == "bun":
        parts.append(
            t.part(
                CROWN - 1,
                on_head(f, disc(np.array([0.08 * f.turn, -0.66]), t.between(0.16, 0.24))),
                folds=0.8,
                fold_size=0.9,
                bulge=0.8,
            )
        )
    if kind == "tail":
        s = float(np.sign(f.turn or 1.0))
        parts.append(
            t.part(
                BEHIND,
                on_head(
                    f,
                    smooth(np.array([(-0.1 * s, -0.4), (-0.42 * s, -0.3), (-0.6 * s, 0.2), (-0.5 * s, 0.75), (-0.4 * s, 0.2)])),
                ),
                folds=0.8,
                fold_size=0.9,
                bulge=0.8,
            )
        )
    return parts


def _lock(sign: int, down: float, wide: float) -> Points:
    """Hair that falls over the front of the shoulder."""
    return smooth(
        np.array(
            [
                (sign * 0.2, -0.46),
                (sign * 0.4, -0.2),
                (sign * (wide - 0.02), 0.2),
                (sign * wide, down - 0.06),
                (sign * (wide - 0.16), down),
                (sign * 0.3, 0.3),
                (sign * 0.31, 0.0),
            ]
        )
    )
