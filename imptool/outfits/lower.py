"""Garments from the waist down, and in one piece: trousers, tights, skirts, dresses, jumpsuits, belts."""

from __future__ import annotations

import numpy as np

from imptool.outfits.feet import foot_outline
from imptool.outfits.figure import HIP, WAIST, Figure, Points, smooth
from imptool.outfits.paint import Colour, Mark, Part
from imptool.outfits.tailor import (
    BLACK,
    LOW_BELT,
    Tailor,
    back_neck,
    buttons,
    down_line,
    hem_line,
    pocket,
    ring,
    sleeves,
    slope,
    trunk,
)


def pants(t: Tailor, layer: float, *, end: float | None = None, rise: float = WAIST) -> list[Part]:
    """Trousers and jeans; with `end`, shorts."""
    f = t.figure
    short = end is not None
    length = end if end is not None else t.pick({1.98: 0.74, 1.8: 0.2, 1.5: 0.06})
    fit = t.pick({"skinny": 0.3, "straight": 0.42, "wide": 0.18, "flared": 0.1})
    ease = {"skinny": 1.06, "straight": 1.14, "wide": 1.25, "flared": 1.1}[fit]
    hem = {"skinny": 0.015, "straight": 0.09, "wide": 0.24, "flared": 0.2}[fit]
    if short:
        ease, hem = t.between(1.1, 1.25), t.between(0.02, 0.12)
    hips = smooth(
        [
            f.at(-f.half(rise) * 1.04, rise),
            f.at(-f.half(rise) * 1.04, rise),
            f.at(0, rise + 0.03),
            f.at(f.half(rise) * 1.04, rise),
            f.at(f.half(rise) * 1.04, rise),
            *f.side(1, [0.7, HIP, 0.95], 1.05),
            f.at(0.1, 1.09),
            f.at(-0.1, 1.09),
            *f.side(-1, [0.95, HIP, 0.7], 1.05),
        ]
    )
    crease = fit in ("straight", "wide") and t.fabric.kind != "denim" and t.chance(0.5)
    parts = []
    for leg in f.legs:
        tubes = leg.sleeve(0.04, length, ease=ease, loose=(0.02, hem))
        marks = [Mark(ring(leg, length - 0.03, ease, hem), -0.3, 0.018)]
        if crease:
            marks.append(Mark(np.array([leg.at(s) for s in np.linspace(0.3, length - 0.02, 4)]), 0.2, 0.02))
        parts.append(t.part(layer, tubes, direction=slope(leg, 1.0), marks=marks, folds=0.55))
    fly = [
        down_line(f, rise, 1.0, 0.0, -0.3),
        Mark(smooth([f.at(0.12, rise + 0.04), f.at(0.12, 0.9), f.at(0.0, 0.98)], closed=False), -0.22, 0.015),
    ]
    seat = [
        Mark(smooth([f.at(s * 0.3, rise + 0.06), f.at(s * 0.38, 0.72), *f.side(s, [0.76], 1.0)], closed=False), -0.28, 0.018)
        for s in (-1, 1)
    ]
    band = hem_line(f, rise + 0.06, 1.02)
    return [*parts, t.part(layer + 0.1, hips, marks=[*fly, *seat, band], folds=0.3)]


def shorts(t: Tailor, layer: float) -> list[Part]:
    """Shorts, from short to the knee."""
    return pants(t, layer, end=t.between(0.38, 0.92))


def tights(t: Tailor, layer: float) -> list[Part]:
    """Tights and leggings: close to the leg; thin ones let the skin through."""
    f = t.figure
    opacity = t.between(0.68, 0.9) if t.chance(0.35) and not t.flat else 1.0
    end = 2.0 if t.chance(0.75) else 1.75
    foot = [foot_outline(f, side, ease=1.02) for side in (0, 1)] if end == 2.0 else []
    hips = smooth([*f.side(-1, [WAIST, HIP, 0.97], 1.0), f.at(0, 1.08), *f.side(1, [0.97, HIP, WAIST], 1.0)])
    legs = [t.part(layer, leg.sleeve(0.0, end, ease=1.02), folds=0.18, opacity=opacity) for leg in f.legs]
    feet = [t.part(layer - 0.1, outline, folds=0.1, opacity=opacity) for outline in foot]
    return [*feet, *legs, t.part(layer, hips, folds=0.15, opacity=opacity)]


def skirt(t: Tailor, layer: float, *, rise: float = WAIST) -> list[Part]:
    """Skirts: narrow, A-line, pleated, long."""
    f = t.figure
    hem = t.pick({t.between(1.3, 1.7): 0.45, t.between(1.8, 2.3): 0.38, t.between(2.4, 2.9): 0.17})
    kind = t.pick({"narrow": 0.3, "a-line": 0.42, "pleated": 0.28})
    flare = {"narrow": 0.0, "a-line": 0.32, "pleated": 0.5}[kind] * (0.6 + 0.35 * (hem - 1))
    outline, marks = _skirt_outline(f, rise, hem, flare, 1.05), [hem_line(f, rise + 0.05, 1.04)]
    if kind == "pleated":
        marks += _pleats(f, rise + 0.06, hem, flare, int(t.rng.integers(7, 12)))
    elif t.chance(0.3):
        marks += [down_line(f, rise, hem, t.between(-0.2, 0.2)), *buttons(f, rise + 0.08, hem - 0.1, 6, BLACK)]
    return [t.part(layer, outline, marks=marks, folds=0.75 if flare else 0.4)]


def _skirt_outline(f: Figure, rise: float, hem: float, flare: float, ease: float) -> Points:
    levels = [rise, (rise + HIP) / 2, HIP, 1.0, *np.linspace(1.0, hem, 4)[1:]]
    loose = flare * np.clip((np.asarray(levels) - rise) / (hem - rise), 0, 1) ** 1.2
    # Legs that part leave no gap in a skirt, and narrow ankles do not draw a narrow hem.
    left, right = (f.side(sign, levels, ease, loose, least=0.86 * f.half(HIP)) for sign in (-1, 1))
    bottom = f.at(0.0, hem) + np.array([0.0, 0.1])
    return smooth(
        [left[0], left[0], f.at(0.0, rise) + np.array([0.0, 0.04]), right[0], *right, right[-1], bottom, left[-1], *left[::-1]]
    )


def _pleats(f: Figure, rise: float, hem: float, flare: float, count: int) -> list[Mark]:
    spread = [0.95 * f.half(rise), f.half(HIP) + 0.4 * flare, 0.95 * f.half(hem) + flare]
    levels = (rise, HIP, hem)
    shares = np.linspace(-0.85, 0.85, count)
    return [Mark(np.array([f.at(share * x, v) for x, v in zip(spread, levels, strict=True)]), -0.28, 0.022) for share in shares]


def dress(t: Tailor, layer: float) -> list[Part]:
    """Dresses: one piece from the shoulders to the hem."""
    f = t.figure
    hem = t.pick({t.between(1.4, 1.8): 0.42, t.between(1.85, 2.3): 0.36, t.between(2.4, 2.95): 0.22})
    flare = t.pick({0.02: 0.35, 0.3: 0.4, 0.55: 0.25}) * (0.6 + 0.35 * (hem - 1))
    arms = t.pick({"none": 0.42, "short": 0.26, "long": 0.32})
    vee = t.chance(0.42)
    neck, depth = t.between(0.26, 0.4), t.between(0.08, 0.16) + (0.16 if vee else 0.0)
    shoulder = t.between(0.45, 0.85) if arms == "none" else 0.86
    neck = min(neck, shoulder * f.half_widths[1] - 0.08)
    belted = t.chance(0.6)
    body = trunk(
        f, hem=0.74, neck=neck, depth=depth, vee=vee, shoulder=shoulder, bare=arms == "none", boxy=0.0 if belted else 0.1
    )
    lower = _skirt_outline(f, WAIST, hem, flare, 1.05 if belted else 1.08)
    marks = [hem_line(f, WAIST, 1.05)] if belted else []
    if flare > 0.25 and t.chance(0.4):
        marks += _pleats(f, WAIST + 0.03, hem, flare, 9)
    if t.chance(0.2):
        marks += [down_line(f, depth, hem, 0.03), *buttons(f, depth + 0.06, hem - 0.1, 9, -0.5)]
    parts = [*back_neck(t, layer, neck), t.part(layer, [body, lower], marks=marks, folds=0.6)]
    if arms != "none":
        parts += sleeves(
            t,
            layer,
            0.55 if arms == "short" else 1.95,
            ease=t.between(1.15, 1.5),
            cuff=0.03,
            puff=0.08 if t.chance(0.25) else 0.0,
        )
    return parts


def jumpsuit(t: Tailor, layer: float) -> list[Part]:
    """Jumpsuits, and dungarees over another top."""
    f = t.figure
    legs = pants(t, layer, end=t.pick({1.97: 0.7, 1.8: 0.15, 0.7: 0.15}))
    if t.chance(0.3):
        bib = smooth(
            [p for v, x in ((0.26, 0.36), (0.26, 0.36)) for p in (f.at(-x, v),)]
            + [f.at(0.36, 0.26), f.at(0.36, 0.26), *f.side(1, [0.5, 0.64], 1.04), *f.side(-1, [0.64, 0.5], 1.04)]
        )
        straps = [
            np.array([f.at(s * 0.3, 0.28), f.at(s * 0.38, 0.28), f.at(s * 0.46, 0.03), f.at(s * 0.36, 0.02)]) for s in (-1, 1)
        ]
        return [
            *legs,
            t.part(
                layer + 0.3,
                [bib, *straps],
                folds=0.3,
                marks=[
                    pocket(f, 0.0, 0.36, 0.36, 0.26),
                    *buttons(f, 0.29, 0.29, 1, (190, 170, 90), -0.33),
                    *buttons(f, 0.29, 0.29, 1, (190, 170, 90), 0.33),
                ],
            ),
        ]
    long, vee = t.chance(0.5), t.chance(0.6)
    shoulder = 0.86 if long else t.between(0.55, 0.86)
    depth = 0.2 if vee else 0.12
    body = trunk(
        f, hem=0.72, neck=min(0.3, shoulder * f.half_widths[1] - 0.1), depth=depth, vee=vee, shoulder=shoulder, bare=not long
    )
    marks = [hem_line(f, WAIST, 1.03), down_line(f, depth, 0.72, 0.0)]
    arms = sleeves(t, layer, t.between(0.5, 1.95), ease=1.3, cuff=0.03) if long else []
    return [*back_neck(t, layer, 0.3), *legs, t.part(layer + 0.3, body, marks=marks), *arms]


def belt(t: Tailor, layer: float = LOW_BELT) -> list[Part]:
    """A belt at the waist, with its buckle."""
    f = t.figure
    level, width = WAIST + t.between(-0.01, 0.06), t.between(0.055, 0.11)
    if t.flat:  # a strap, laid straight
        left, right = np.array([0.0, 2.0]), np.array([t.between(2.6, 3.8), 2.0])
        middle = left
    else:
        left, right = f.side(-1, [level], 1.09)[0], f.side(1, [level], 1.09)[0]
        middle = f.at(t.between(-0.05, 0.05), level) + np.array([0.0, 0.03])
    sag = (left + right) / 2 + np.array([0.0, 0.05])
    band = smooth(
        [
            left - np.array((0.0, width)),
            left - np.array((0.0, width)),
            sag - np.array((0.0, width)),
            right - np.array((0.0, width)),
            right - np.array((0.0, width)),
            right + np.array((0.0, width)),
            right + np.array((0.0, width)),
            sag + np.array((0.0, width)),
            left + np.array((0.0, width)),
            left + np.array((0.0, width)),
        ]
    )
    metal: Colour = (206, 178, 96) if t.chance(0.5) else (196, 198, 204)
    buckle = middle + np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * np.array([width + 0.03, width + 0.015])
    return [
        t.part(layer, [band, buckle] if t.flat else band, folds=0.0, bulge=0.6, marks=[Mark(buckle, metal, 0.035, closed=True)])
    ]
