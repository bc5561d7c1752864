"""What all garments are cut with: the layers they are worn in, trunk, sleeves, seams, collars.

Parts are painted from back to front, in the order of their layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imptool.outfits.fabrics import Fabric
from imptool.outfits.figure import HIP, WAIST, Choice, Figure, Limb, Points, disc, pick, smooth
from imptool.outfits.paint import Colour, Mark, Part

BEHIND, BACK_ARM, BODY, HOSE, FOOT = 0.0, 10.0, 20.0, 30.0, 40.0
TUCKED, BOTTOM, LOW_BELT, TOP, NECKLACE = 50.0, 60.0, 70.0, 80.0, 90.0
KNIT, VEST, JACKET, COAT, STRAP = 100.0, 110.0, 120.0, 130.0, 140.0
ARM, HEAD, FACE, CROWN = 150.0, 160.0, 170.0, 180.0
_SLEEVE_OF = {TUCKED: 1.0, TOP: 2.0, KNIT: 3.0, VEST: 3.5, JACKET: 4.0, COAT: 5.0}  # above the bare arm
BLACK: Colour = (24, 22, 24)


@dataclass(frozen=True)
class Tailor:
    """What every garment is made from: the figure, chance, the cloth, and the number of the item."""

    figure: Figure
    rng: np.random.Generator
    fabric: Fabric
    item: int
    flat: bool = False  # laid out: there is no body
    under: bool = False  # something is worn over it, which holds it close

    def part(self, layer: float, outlines: Points | Sequence[Points], *, marks: Sequence[Mark] = (), **looks: float) -> Part:
        several = [outlines] if isinstance(outlines, np.ndarray) else list(outlines)
        looks.setdefault("folds", 0.35 + 0.5 * (1 - self.fabric.weight))
        return Part(several, self.item, layer, self.fabric, marks=tuple(marks), **looks)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, weights: Mapping[Choice, float]) -> Choice:
        return pick(self.rng, weights)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


def trunk(
    f: Figure,
    *,
    hem: float,
    neck: float = 0.3,
    depth: float = 0.1,
    vee: bool = False,
    shoulder: float = 0.86,
    bare: bool = False,
    ease: float = 1.06,
    boxy: float = 0.0,
    flare: float = 0.0,
    start: float = 0.04,
) -> Points:
    """The outline of a closed bodice from the neck to the level `hem`.

    neck: half width of the neckline; depth: its level in front; shoulder: share of the shoulder that is covered; bare: the
    armholes are cut out; boxy: heads that it stands off at the waist; flare: heads at the hem.
    """
    levels = [0.25, 0.42, WAIST, 0.72, HIP, *np.linspace(0.92, hem, 4)] if hem > 0.92 else list(np.linspace(0.25, hem, 5))
    v = np.asarray(levels)
    loose = (
        boxy * np.clip(1 - np.abs(v - WAIST) / 0.45, 0, 1) + flare * np.clip((v - WAIST) / max(hem - WAIST, 0.05), 0, 1) ** 1.3
    )
    sides = {}
    for sign in (-1, 1):
        x = sign * f.half_widths[1]
        down = f.side(sign, levels, ease, loose)
        tip = f.at(x * shoulder, 0.06)
        armhole = [f.at(0.8 * x * min(shoulder, 0.95), 0.16)] if bare else []
        sides[sign] = [f.at(sign * neck, start), f.at(sign * neck, start), tip, *armhole, *down, down[-1]]
    bottom = f.at(0.0, hem) + np.array([0.0, 0.06])
    if vee:
        front = [f.at(0, depth), f.at(0, depth)]
    else:
        front = [f.at(-0.72 * neck, depth - 0.03), f.at(0, depth), f.at(0.72 * neck, depth - 0.03)]
    return smooth([*front, *sides[1], bottom, *sides[-1][::-1]])


def panels(
    f: Figure, *, hem: float, close: float, gap: float, neck: float = 0.3, ease: float = 1.1, flare: float = 0.0
) -> list[Points]:
    """The two fronts of an open garment: they meet at the level `close` (none: above the neck) and part by `gap` at the hem."""
    levels = np.array([0.25, 0.42, WAIST, 0.72, HIP, *np.linspace(0.92, hem, 4)] if hem > 0.92 else np.linspace(0.25, hem, 5))
    loose = flare * np.clip((levels - WAIST) / max(hem - WAIST, 0.05), 0, 1) ** 1.3 + 0.03
    fronts = []
    for sign in (-1, 1):
        x = sign * f.half_widths[1]
        down = f.side(sign, levels, ease, loose)
        if close > 0:
            edge = [
                f.at(sign * gap, hem),
                f.at(sign * gap, hem),
                f.at(-0.06 * sign, close + 0.12),
                f.at(-0.06 * sign, close),
                f.at(-0.06 * sign, close),
            ]
        else:
            edge = [f.at(sign * gap, hem), f.at(sign * gap, hem), f.at(sign * (0.55 * gap + 0.12), 0.5)]
        fronts.append(smooth([f.at(sign * neck, 0.03), f.at(sign * neck, 0.03), f.at(0.98 * x, 0.055), *down, down[-1], *edge]))
    return fronts


def back(t: Tailor, layer: float, *, hem: float, ease: float = 1.1, flare: float = 0.0) -> list[Part]:
    """The inside of an open garment's back: behind the body, or under the fronts where it is laid out."""
    inside = trunk(t.figure, hem=hem, neck=0.26, depth=0.02, ease=ease, flare=flare)
    return [t.part(layer - 0.5 if t.flat else BEHIND + 1, inside, bulge=0.3, marks=[Mark(inside, -0.45, 0)])]


def sleeves(
    t: Tailor, layer: float, end: float, *, ease: float = 1.25, cuff: float = 0.02, puff: float = 0.0, marks: bool = True
) -> list[Part]:
    """Both sleeves, to the place `end` of the arm: 0.5 short, 2 at the wrist."""
    rank = _SLEEVE_OF.get(layer, 2.0)
    ease = min(ease, 1.14) if t.under else ease
    stand_off = 0.012 * (1 + rank) + puff  # at the shoulder, so that nothing that lies under it looks out
    parts = []
    for arm in t.figure.arms:
        cap = disc(arm.joints[0], arm.radius(0) * 1.04 + stand_off)
        lines = [Mark(ring(arm, end - 0.05, ease, cuff), -0.35, 0.02)] if marks else []
        tubes = arm.sleeve(0.0, end, ease=ease, loose=(stand_off, min(cuff, 0.02) if t.under else max(cuff, stand_off)))
        parts.append(t.part((BACK_ARM if arm.behind else ARM) + rank, [cap, *tubes], direction=slope(arm, end), marks=lines))
    return parts


def ring(limb: Limb, place: float, ease: float, loose: float) -> Points:
    """A line across a limb."""
    down = limb.direction(place)
    across = np.array([-down[1], down[0]]) * (limb.radius(place) * ease + loose)
    centre = limb.at(place)
    return np.array([centre - across, centre + 0.03 * down, centre + across])


def slope(limb: Limb, place: float) -> float:
    down = limb.direction(min(place, 0.99) / 2)
    return float(-np.arctan2(down[0], down[1]))


def hem_line(f: Figure, level: float, ease: float, loose: float = 0.0, tone: float = -0.3) -> Mark:
    left, right = f.side(-1, [level], ease, loose)[0], f.side(1, [level], ease, loose)[0]
    return Mark(smooth([left, f.at(0.0, level) + np.array([0.0, 0.05]), right], closed=False), tone, 0.018)


def down_line(f: Figure, top: float, bottom: float, x: float = 0.0, tone: float | Colour = -0.35, width: float = 0.02) -> Mark:
    return Mark(np.array([f.at(x, v) for v in np.linspace(top, bottom, 5)]), tone, width)


def buttons(
    f: Figure, top: float, bottom: float, count: int, tone: float | Colour, x: float = 0.0, size: float = 0.028
) -> list[Mark]:
    return [Mark(disc(f.at(x, v), size, 8), tone, 0) for v in np.linspace(top, bottom, count)]


def pocket(f: Figure, x: float, level: float, width: float = 0.3, height: float = 0.34, tone: float = -0.28) -> Mark:
    corner = f.at(x, level)
    box = np.array([[-width / 2, 0], [width / 2, 0], [width / 2, height * 0.8], [0, height], [-width / 2, height * 0.8]])
    return Mark(corner + box, tone, 0.018, closed=True)


def back_neck(t: Tailor, layer: float, neck: float) -> list[Part]:
    """Of a garment that is laid out, the inside of the back shows at the neck."""
    if not t.flat:
        return []
    f = t.figure
    inside = smooth([f.at(-neck, 0.03), f.at(0, 0.005), f.at(neck, 0.03), f.at(0.7 * neck, 0.16), f.at(-0.7 * neck, 0.16)])
    return [t.part(layer - 0.5, inside, bulge=0.2, marks=[Mark(inside, -0.35, 0)])]


def collar_leaves(t: Tailor, layer: float, spread: float = 0.24, drop: float = 0.14) -> list[Part]:
    """A shirt's collar: two leaves."""
    f = t.figure
    leaves = [
        np.array(
            [f.at(s * 0.3, -0.015), f.at(s * 0.2, -0.03), f.at(s * 0.03, 0.075), f.at(s * spread, drop), f.at(s * 0.36, 0.04)]
        )
        for s in (-1, 1)
    ]
    return [t.part(layer, [leaf], bulge=0.5, folds=0.1, marks=[Mark(leaf, -0.25, 0.016, closed=True)]) for leaf in leaves]
