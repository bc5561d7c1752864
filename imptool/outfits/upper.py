"""Garments of the upper body: tops, shirts, sweaters, vests, jackets, coats. Each function gives the parts of one garment."""

from __future__ import annotations

import numpy as np

from imptool.outfits.figure import WAIST, smooth
from imptool.outfits.paint import Mark, Part
from imptool.outfits.tailor import (
    BLACK,
    TOP,
    TUCKED,
    Tailor,
    back,
    back_neck,
    buttons,
    collar_leaves,
    down_line,
    hem_line,
    panels,
    pocket,
    sleeves,
    trunk,
)


def top(t: Tailor, layer: float) -> list[Part]:
    """T-shirts, tank tops, long-sleeved tops, crop tops."""
    f = t.figure
    hem = WAIST - 0.04 if layer == TOP and t.chance(0.08) else (0.72 if layer == TUCKED else t.between(0.76, 0.98))
    kind = t.pick({0: 0.55, 1: 0.2, 2: 0.2, 3: 0.05})
    vee = t.chance(0.25)
    neck, depth = t.between(0.26, 0.4), t.between(0.09, 0.2) + 0.06 * vee
    boxy = 0.0 if t.under else t.between(0.0, 0.16)
    if kind == 1:  # tank top
        straps = t.between(0.5, 0.8)
        body = trunk(
            f,
            hem=hem,
            neck=min(neck + 0.08, straps * f.half_widths[1] - 0.12),
            depth=depth + 0.05,
            vee=vee,
            shoulder=straps,
            bare=True,
            boxy=boxy,
        )
        return [*back_neck(t, layer, neck), t.part(layer, body, marks=[hem_line(f, hem - 0.02, 1.05)])]
    if kind == 3:  # strapless
        body = smooth(
            [
                f.at(-0.6, 0.24),
                f.at(0, 0.21),
                f.at(0.6, 0.24),
                *f.side(1, [0.27, 0.42, hem], 1.05),
                *f.side(-1, [hem, 0.42, 0.27], 1.05),
            ]
        )
        return [t.part(layer, body)]
    body = trunk(f, hem=hem, neck=neck, depth=depth, vee=vee, boxy=boxy)
    marks = [hem_line(f, hem - 0.02, 1.05)]
    if not t.flat or t.chance(0.5):
        marks += (
            []
            if vee
            else [Mark(smooth([f.at(-neck, 0.045), f.at(0, depth + 0.015), f.at(neck, 0.045)], closed=False), -0.2, 0.03)]
        )
    end = t.between(0.42, 0.75) if kind == 0 else 1.96
    return [
        *back_neck(t, layer, neck),
        t.part(layer, body, marks=marks),
        *sleeves(t, layer, end, ease=t.between(1.12, 1.4), cuff=t.between(0.01, 0.06)),
    ]


def shirt(t: Tailor, layer: float) -> list[Part]:
    """Shirts and blouses: collar, placket, buttons, cuffs."""
    f = t.figure
    hem = 0.72 if layer == TUCKED else t.between(0.86, 1.06)
    opened = t.between(0.09, 0.2)
    light = 0.75 if sum(t.fabric.colours[0]) < 330 else -0.45
    marks = [down_line(f, opened, hem, 0.03), *buttons(f, opened + 0.06, hem - 0.06, 6, light)]
    if t.chance(0.5):
        marks.append(pocket(f, 0.36, 0.26))
    body = trunk(f, hem=hem, neck=0.26, depth=opened, vee=True, boxy=0.0 if t.under else t.between(0.0, 0.16), ease=1.06)
    end = t.pick({0.7: 0.15, 1.25: 0.2, 1.98: 0.65})
    arms = sleeves(t, layer, float(end), ease=t.between(1.15, 1.4), cuff=0.035)
    return [*back_neck(t, layer, 0.26), t.part(layer, body, marks=marks), *collar_leaves(t, layer + 0.6), *arms]


def sweater(t: Tailor, layer: float) -> list[Part]:
    """Sweaters, and one in three a cardigan."""
    f = t.figure
    hem = t.between(0.82, 1.02)
    arms = sleeves(t, layer, t.between(1.85, 2.05), ease=t.between(1.25, 1.55), cuff=0.03)
    if t.chance(0.35):
        fronts = panels(f, hem=hem + t.between(0, 0.3), close=t.pick({0.0: 1, 0.34: 1}), gap=t.between(0.1, 0.3), ease=1.12)
        trim = [Mark(front[-9:], -0.22, 0.05) for front in fronts]
        return [
            *back(t, layer, hem=hem),
            *(t.part(layer, front, folds=0.4, marks=[line]) for front, line in zip(fronts, trim, strict=True)),
            *arms,
        ]
    roll = t.chance(0.3)
    neck, vee = t.between(0.26, 0.34), not roll and t.chance(0.25)
    depth = 0.17 if vee else t.between(0.06, 0.1)
    body = trunk(f, hem=hem, neck=neck, depth=depth, vee=vee, boxy=0.02 if t.under else t.between(0.08, 0.24), ease=1.1)
    marks = [hem_line(f, hem - 0.06, 1.1, 0.02), hem_line(f, hem - 0.03, 1.1, 0.02)]
    parts = [*back_neck(t, layer, neck), t.part(layer, body, folds=0.45, marks=marks), *arms]
    if roll:
        collar = smooth([f.at(-0.27, 0.06), f.at(-0.25, -0.11), f.at(0.25, -0.11), f.at(0.27, 0.06), f.at(0, 0.085)])
        parts.append(
            t.part(
                layer + 0.5,
                collar,
                folds=0.2,
                marks=[Mark(smooth([f.at(-0.25, -0.05), f.at(0, -0.02), f.at(0.25, -0.05)], closed=False), -0.25, 0.02)],
            )
        )
    return parts


def vest(t: Tailor, layer: float) -> list[Part]:
    """Waistcoats, knitted vests, gilets."""
    f = t.figure
    if t.chance(0.35):
        body = trunk(
            f,
            hem=t.between(0.76, 0.9),
            neck=0.3,
            depth=0.2,
            vee=True,
            bare=True,
            shoulder=0.78,
            boxy=0.02 if t.under else 0.1,
            ease=1.1,
        )
        return [*back_neck(t, layer, 0.3), t.part(layer, body, marks=[hem_line(f, 0.74, 1.1)])]
    hem = t.between(0.72, 0.84)
    body = trunk(f, hem=hem, neck=0.3, depth=t.between(0.24, 0.34), vee=True, bare=True, shoulder=0.76, ease=1.05)
    tip = [f.at(s * 0.16, hem + 0.05) for s in (-1, 1)]
    marks = [
        down_line(f, 0.3, hem, 0.0),
        *buttons(f, 0.36, hem - 0.04, 5, BLACK),
        Mark(np.array([tip[0], f.at(0, hem - 0.03), tip[1]]), -0.4, 0.02),
    ]
    return [
        *back_neck(t, layer, 0.3),
        t.part(layer, body, folds=0.2, marks=marks + [pocket(f, s * 0.32, 0.56, 0.24, 0.05) for s in (-1, 1)]),
    ]


def jacket(t: Tailor, layer: float) -> list[Part]:
    """Blazers, denim jackets, bikers, bombers, quilted jackets."""
    f = t.figure
    kind = t.pick({"blazer": 0.55, "short": 0.33, "quilted": 0.12})
    if kind == "blazer":
        return _tailored(t, layer, hem=t.between(0.9, 1.08), flare=0.05)
    hem = t.between(0.66, 0.84)
    opened = t.chance(0.62)
    parts = []
    fronts = panels(
        f, hem=hem, close=0.0 if opened else 0.12, gap=t.between(0.12, 0.3) if opened else 0.0, ease=1.16, neck=0.28
    )
    for sign, front in zip((-1, 1), fronts, strict=True):
        if kind == "quilted":
            marks = [
                Mark(np.array([f.at(sign * 0.05, v), f.side(sign, [v + 0.02], 1.1)[0]]), -0.3, 0.035)
                for v in np.arange(0.18, hem, 0.11)
            ]
        else:
            marks = [
                pocket(f, sign * 0.42, 0.3, 0.32, 0.26),
                Mark(np.array([f.at(sign * 0.2, hem - 0.05), f.side(sign, [hem - 0.05], 1.1)[0]]), -0.3, 0.022),
            ]
            marks.append(Mark(np.array([f.at(sign * 0.25, 0.25), f.side(sign, [0.24], 1.05)[0]]), -0.25, 0.018))
        parts.append(t.part(layer, front, folds=0.3, marks=marks))
    zip_line = [] if opened else [down_line(f, 0.12, hem, 0.03, tone=(150, 150, 152), width=0.03)]
    collar = collar_leaves(t, layer + 0.6, spread=0.36, drop=0.17)
    parts[-1:] = [t.part(layer, fronts[1], folds=0.3, marks=[*parts[-1].marks, *zip_line])]
    arms = sleeves(t, layer, t.between(1.85, 2.02), ease=t.between(1.25, 1.5), cuff=0.04)
    return [*back(t, layer, hem=hem - 0.03), *parts, *collar, *arms]


def _tailored(t: Tailor, layer: float, *, hem: float, flare: float) -> list[Part]:
    """A jacket or coat with lapels, buttoned or open."""
    f = t.figure
    buttoned = t.chance(0.45)
    close = t.between(0.4, 0.56)
    gap = t.between(0.0, 0.12) if buttoned else t.between(0.14, 0.42)
    fronts = panels(
        f, hem=hem, close=close if buttoned else 0.0, gap=gap, ease=1.15 if hem < 1.2 else 1.18, flare=flare, neck=0.27
    )
    parts = []
    for sign, front in zip((-1, 1), fronts, strict=True):
        marks = [pocket(f, sign * 0.48, 0.68, 0.34, 0.07)]
        if sign > 0:
            marks += [Mark(np.array([f.at(0.28, 0.32), f.at(0.5, 0.31)]), -0.3, 0.025)]
            marks += buttons(f, close + 0.02, close + 0.26, int(t.rng.integers(1, 4)), BLACK, x=0.0 if buttoned else gap + 0.12)
        parts.append(t.part(layer, front, folds=0.35, marks=marks))
    low = close - 0.02 if buttoned else 0.5
    inner = 0.03 if buttoned else 0.55 * gap + 0.1
    width = t.between(0.36, 0.5)
    for sign in (-1, 1):
        lapel = np.array(
            [
                f.at(sign * 0.26, -0.02),
                f.at(sign * 0.38, 0.05),
                f.at(sign * (width - 0.02), 0.13),
                f.at(sign * (width - 0.1), 0.15),
                f.at(sign * width, 0.18),
                f.at(sign * inner, low),
                f.at(sign * max(inner - 0.06, 0.0), low),
            ]
        )
        parts.append(t.part(layer + 0.6, lapel, folds=0.1, bulge=0.7, marks=[Mark(lapel, -0.3, 0.02, closed=True)]))
    return [
        *back(t, layer, hem=hem - 0.03, flare=flare),
        *parts,
        *sleeves(t, layer, t.between(1.85, 1.98), ease=t.between(1.25, 1.45), cuff=0.03),
    ]


def coat(t: Tailor, layer: float) -> list[Part]:
    """Overcoats, trench coats with a tied belt of their own cloth, parkas, long quilted coats."""
    f = t.figure
    hem = t.between(1.35, 2.35)
    flare = t.between(0.05, 0.35)
    kind = t.pick({"tailored": 0.55, "trench": 0.22, "parka": 0.23})
    if kind == "tailored":
        return _tailored(t, layer, hem=hem, flare=flare)
    if kind == "trench":
        parts = _tailored(t, layer, hem=hem, flare=flare)
        band = np.concatenate(
            [
                f.side(-1, [WAIST - 0.03], 1.14, 0.05),
                f.side(1, [WAIST - 0.03], 1.14, 0.05),
                f.side(1, [WAIST + 0.03], 1.14, 0.05),
                f.side(-1, [WAIST + 0.03], 1.14, 0.05),
            ]
        )
        return [*parts, t.part(layer + 0.7, band, folds=0.1, marks=[Mark(band, -0.35, 0.02, closed=True)])]
    opened = t.chance(0.5)
    fronts = panels(
        f, hem=min(hem, 1.7), close=0.0 if opened else 0.1, gap=t.between(0.15, 0.35) if opened else 0.0, ease=1.22, flare=flare
    )
    quilts = t.chance(0.4)
    parts = []
    for sign, front in zip((-1, 1), fronts, strict=True):
        lines = np.arange(0.16, min(hem, 1.7), 0.12 if quilts else 9.0)
        marks = [Mark(np.array([f.at(sign * 0.08, v), f.side(sign, [v + 0.02], 1.15)[0]]), -0.3, 0.035) for v in lines]
        parts.append(
            t.part(
                layer,
                front,
                folds=0.35,
                marks=[*marks, pocket(f, sign * 0.45, 0.72, 0.36, 0.4), down_line(f, 0.1, hem, 0.05 * sign)],
            )
        )
    hood = [
        smooth([f.at(s * 0.2, -0.1), f.at(s * 0.52, -0.06), f.at(s * 0.56, 0.08), f.at(s * 0.2, 0.16), f.at(s * 0.12, 0.1)])
        for s in (-1, 1)
    ]
    lining = back(t, layer, hem=min(hem, 1.7) - 0.03, ease=1.2, flare=flare)
    return [
        *lining,
        *parts,
        t.part(layer + 0.6, hood, folds=0.3),
        *sleeves(t, layer, 1.95, ease=t.between(1.4, 1.7), cuff=0.04),
    ]
