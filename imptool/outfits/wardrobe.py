"""The wardrobe: the 25 classes, what is worn together and how often, and of which cloth.

Classes, groups and the order of frequencies are those of Table 7 of the paper (Varied Clothing Dataset).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imptool.data.label_set import ClassInfo
from imptool.outfits import accessories, body, feet, lower, upper
from imptool.outfits.fabrics import HAIR_COLOURS, SKIN_TONES, Fabric, choose_fabric
from imptool.outfits.figure import Figure, pick, pose_figure
from imptool.outfits.paint import Part, Place
from imptool.outfits.tailor import BOTTOM, COAT, FOOT, HOSE, JACKET, KNIT, TOP, TUCKED, VEST, Tailor


@dataclass(frozen=True)
class Row:
    """A row of the paper's Table 7: instances (components) in train and val, side of the square of the mean area in px."""

    name: str
    group: str
    train: int
    val: int
    side: int


TABLE_7 = (
    Row("hair", "body", 7260, 635, 192),
    Row("skin", "body", 34795, 3074, 119),
    Row("top/t-shirt", "g-top", 4364, 424, 221),
    Row("sweater/cardigan", "g-top", 1906, 148, 266),
    Row("jacket/blazer", "g-top", 2360, 183, 261),
    Row("coat", "g-top", 1597, 161, 279),
    Row("shirt/blouse", "g-top", 2650, 244, 229),
    Row("vest", "g-top", 266, 20, 220),
    Row("pants/jeans", "g-bottom", 2763, 217, 261),
    Row("tights/leggings", "g-bottom", 930, 116, 214),
    Row("shorts", "g-bottom", 532, 60, 203),
    Row("socks", "g-bottom", 803, 80, 174),
    Row("skirt", "g-bottom", 1281, 114, 262),
    Row("dress", "g-whole", 2728, 241, 340),
    Row("jumpsuit", "g-whole", 273, 31, 370),
    Row("shoes", "footwear", 6619, 591, 118),
    Row("boots", "footwear", 1801, 109, 142),
    Row("hat/headband", "accessories", 983, 111, 192),
    Row("scarf/tie", "accessories", 909, 88, 274),
    Row("watch/bracelet", "accessories", 2627, 206, 86),
    Row("bag", "accessories", 3284, 263, 186),
    Row("gloves", "accessories", 431, 41, 210),
    Row("necklace", "accessories", 1711, 134, 131),
    Row("glasses", "accessories", 1329, 129, 89),
    Row("belt", "accessories", 1035, 95, 110),
)
CLASSES = (
    ClassInfo(id=0, name="background", thing=False),
    *(ClassInfo(id=number, name=row.name, group=row.group) for number, row in enumerate(TABLE_7, start=1)),
)
_ID = {row.name.split("/")[0]: number for number, row in enumerate(TABLE_7, start=1)}

_GROUP_NAMES = {"g-top": "upper", "g-bottom": "lower", "g-whole": "whole", "footwear": "footwear", "accessories": "accessories"}
_GROUP_OF = {info.id: _GROUP_NAMES.get(info.group, info.name) for info in CLASSES}
_NAMES = list(dict.fromkeys(_GROUP_OF.values()))
GROUPS = tuple(ClassInfo(id=number, name=name, thing=number > 0) for number, name in enumerate(_NAMES))
"""Coarser classes: the groups of Table 7, with hair and skin apart."""
GROUP_OF_CLASS = {number: _NAMES.index(name) for number, name in _GROUP_OF.items()}
"""{class id: id of its group}, as a dataset's remap."""

CLOTHS: dict[str, dict[str, float]] = {  # what a class is made of, with weights
    "top": {"plain": 5, "heather": 2, "stripes": 2.5, "dots": 0.5, "floral": 0.7, "rib": 1, "blotches": 0.2, "camo": 0.2},
    "sweater": {"knit": 4, "rib": 2, "cable": 1.5, "heather": 2, "stripes": 1.2, "plain": 1.5, "argyle": 0.6, "fleece": 0.7},
    "jacket": {
        "plain": 3,
        "denim": 2,
        "leather": 2,
        "tweed": 1.5,
        "tartan": 0.7,
        "pinstripes": 1,
        "corduroy": 0.8,
        "houndstooth": 0.5,
    },
    "coat": {
        "plain": 4,
        "tweed": 1.5,
        "herringbone": 1,
        "houndstooth": 0.6,
        "tartan": 0.8,
        "heather": 1.5,
        "fleece": 0.7,
        "leather": 0.6,
    },
    "shirt": {"plain": 4, "pinstripes": 1.5, "checks": 1.5, "tartan": 1.2, "denim": 1, "dots": 0.7, "floral": 1, "satin": 0.8},
    "vest": {"plain": 2, "tweed": 1.5, "knit": 2, "pinstripes": 1, "denim": 0.5},
    "pants": {"denim": 5, "plain": 4, "corduroy": 0.7, "leather": 0.5, "pinstripes": 0.5, "tartan": 0.4, "camo": 0.3},
    "tights": {"plain": 6, "rib": 0.6, "heather": 0.8, "blotches": 0.2},
    "shorts": {"denim": 4, "plain": 3, "checks": 0.5, "floral": 0.5},
    "socks": {"plain": 3, "rib": 2, "stripes": 1.5},
    "skirt": {"plain": 3, "denim": 1, "tartan": 1.2, "floral": 1, "leather": 0.8, "satin": 0.8, "dots": 0.6, "stripes": 0.5},
    "dress": {
        "plain": 3.5,
        "floral": 2.5,
        "dots": 1,
        "satin": 1.2,
        "stripes": 1,
        "knit": 0.8,
        "checks": 0.7,
        "blotches": 0.4,
        "denim": 0.4,
    },
    "jumpsuit": {"plain": 3, "denim": 2, "floral": 0.6, "satin": 0.5},
    "shoes": {"leather": 3, "plain": 3, "satin": 0.7},
    "boots": {"leather": 5, "plain": 1.5},
    "hat": {"plain": 3, "knit": 2, "tweed": 1, "heather": 1},
    "scarf": {"knit": 2, "tartan": 2, "plain": 2, "stripes": 1, "dots": 0.5, "floral": 0.5},
    "watch": {"plain": 1, "leather": 2},
    "bag": {"leather": 5, "plain": 2, "blotches": 0.3, "tweed": 0.3},
    "gloves": {"leather": 2, "knit": 2, "plain": 1},
    "necklace": {"plain": 1},
    "glasses": {"plain": 1},
    "belt": {"leather": 3, "plain": 1},
}
_METALS = ((206, 178, 96), (198, 200, 206), (222, 214, 200), (170, 120, 90))
_FRAMES = ((22, 20, 22), (38, 30, 28), (92, 58, 36), (60, 62, 70))


@dataclass(frozen=True)
class Garment:
    """One item: its number, which its parts carry too, and its class id."""

    number: int
    class_id: int
    parts: list[Part]


def dress_person(figure: Figure, rng: np.random.Generator, *, first_item: int) -> list[Garment]:
    """A whole person in an outfit. Items are numbered from `first_item`."""
    rack = _Rack(figure, rng, first_item)
    tone = _plain(SKIN_TONES[int(rng.integers(len(SKIN_TONES)))], rng, 5)
    hair_colour = _plain(HAIR_COLOURS[int(rng.integers(len(HAIR_COLOURS)))], rng, 7)
    rack.hang("skin", tone, lambda t: body.skin(t, hair_colour.colours[0]))
    if rng.random() < 0.96:
        rack.hang("hair", hair_colour, body.hair)
    over = pick(rng, {"jacket": 0.27, "coat": 0.16, "": 0.57})
    rack.under = bool(over)
    _main_clothes(rack, rng)
    _footwear(rack, rng)
    if rng.random() < 0.05:
        rack.hang("vest", None, lambda t: upper.vest(t, VEST))
    rack.under = False
    if over == "jacket":
        rack.hang("jacket", None, lambda t: upper.jacket(t, JACKET))
    elif over == "coat":
        rack.hang("coat", None, lambda t: upper.coat(t, COAT))
    _accessories(rack, rng)
    return rack.garments


class _Rack:
    """Collects the garments of one person."""

    def __init__(self, figure: Figure, rng: np.random.Generator, first_item: int, *, flat: bool = False) -> None:
        self.figure, self.rng, self.next, self.flat, self.under = figure, rng, first_item, flat, False
        self.garments: list[Garment] = []

    def hang(self, name: str, fabric: Fabric | None, cut: Callable[[Tailor], list[Part]]) -> None:
        """Make a garment of a class and hang it to the others."""
        cloth = fabric or self.cloth(name)
        self.garments.append(
            Garment(self.next, _ID[name], cut(Tailor(self.figure, self.rng, cloth, self.next, self.flat, self.under)))
        )
        self.next += 1

    def cloth(self, name: str) -> Fabric:
        """A cloth that suits a class."""
        if name in ("necklace", "glasses"):
            colours = _METALS if name == "necklace" else _FRAMES
            return _plain(colours[int(self.rng.integers(len(colours)))], self.rng, 8)
        return choose_fabric(self.rng, CLOTHS[name], palette=_PALETTE_OF.get(name))


_PALETTE_OF = {
    "coat": "neutral",
    "jacket": "neutral",
    "pants": "neutral",
    "shorts": "neutral",
    "tights": "dark",
    "shoes": "leather",
    "belt": "leather",
    "vest": "neutral",
}


def _plain(colour: tuple[int, int, int], rng: np.random.Generator, jitter: int) -> Fabric:
    shift = rng.integers(-jitter, jitter + 1, 3)
    red, green, blue = (int(np.clip(value + change, 0, 255)) for value, change in zip(colour, shift, strict=True))
    return Fabric("plain", ((red, green, blue),), 1.0, phase=(rng.random(), rng.random()), contrast=0.0)


def _main_clothes(rack: _Rack, rng: np.random.Generator) -> None:
    """What covers trunk and legs."""
    whole = rng.random()
    if whole < 0.32:
        _hosiery(rack, rng)
        rack.hang("dress", None, lambda t: lower.dress(t, TOP))
        if rng.random() < 0.2:
            rack.hang("belt", None, lambda t: lower.belt(t, TOP + 4))
    elif whole < 0.355:
        rack.hang("top", None, lambda t: upper.top(t, TUCKED))
        rack.hang("jumpsuit", None, lambda t: lower.jumpsuit(t, BOTTOM))
    else:
        _separates(rack, rng)


def _separates(rack: _Rack, rng: np.random.Generator) -> None:
    tucked = rng.random() < 0.42
    above = pick(rng, {"top": 0.46, "shirt": 0.25, "sweater": 0.22, "both": 0.07})
    below = pick(rng, {"pants": 0.6, "skirt": 0.25, "shorts": 0.095, "tights": 0.055})
    # Now and then both are of one cloth, so that only the whole tells them from a dress or jumpsuit.
    same = rack.cloth(pick(rng, {"dress": 1, "skirt": 1})) if rng.random() < 0.16 and above in ("top", "shirt") else None
    if below in ("skirt", "shorts"):
        _hosiery(rack, rng)
    layer = TUCKED if tucked else TOP
    over, rack.under = rack.under, rack.under or above in ("sweater", "both")
    if above in ("shirt", "both"):
        rack.hang("shirt", same, lambda t: upper.shirt(t, layer))
    elif above == "top" or rng.random() < 0.25:
        rack.hang("top", same, lambda t: upper.top(t, layer))
    rack.under = over
    cuts = {"pants": lower.pants, "skirt": lower.skirt, "shorts": lower.shorts, "tights": lower.tights}
    rack.hang(below, same if below in ("pants", "skirt") else None, lambda t: cuts[below](t, BOTTOM))
    if above in ("sweater", "both"):
        rack.hang("sweater", None, lambda t: upper.sweater(t, KNIT))
    if rng.random() < (0.55 if tucked else 0.15):
        rack.hang("belt", None, lower.belt)


def _hosiery(rack: _Rack, rng: np.random.Generator) -> None:
    if rng.random() < 0.28:
        rack.hang("tights", None, lambda t: lower.tights(t, HOSE))


def _footwear(rack: _Rack, rng: np.random.Generator) -> None:
    chance = rng.random()
    if chance < 0.06:
        return
    if rng.random() < 0.17:
        cloth = rack.cloth("socks")
        for side in (0, 1):
            rack.hang("socks", cloth, lambda t, side=side: feet.sock(t, side))  # type: ignore[misc]
    name = "boots" if chance < 0.3 else "shoes"
    cloth = rack.cloth(name)
    over = BOTTOM + 4 if rng.random() < 0.35 else FOOT + 3
    for side in (0, 1):
        if name == "boots":
            rack.hang(name, cloth, lambda t, side=side: feet.boot(t, side, over))  # type: ignore[misc]
        else:
            rack.hang(name, cloth, lambda t, side=side: feet.shoe(t, side))  # type: ignore[misc]


def _accessories(rack: _Rack, rng: np.random.Generator) -> None:
    if rng.random() < 0.3:
        rack.hang("necklace", None, accessories.necklace)
    if rng.random() < 0.12:
        rack.hang("scarf", None, accessories.scarf)
    if rng.random() < 0.6:
        rack.hang("bag", None, accessories.bag)
    for _ in range(pick(rng, {0: 0.5, 1: 0.35, 2: 0.15})):
        rack.hang(
            "watch", _plain(_METALS[int(rng.integers(4))], rng, 10) if rng.random() < 0.5 else None, accessories.wristband
        )
    if rng.random() < 0.045:
        cloth = rack.cloth("gloves")
        for side in (0, 1):
            rack.hang("gloves", cloth, lambda t, side=side: accessories.glove(t, side))  # type: ignore[misc]
    if not rack.figure.back and rng.random() < 0.3:
        rack.hang("glasses", None, accessories.glasses)
    if rng.random() < 0.15:
        rack.hang("hat", None, accessories.hat)


_PIECES: dict[str, tuple[float, Callable[[Tailor], list[Part]]]] = {  # laid out: how often, and how it is cut
    "top": (3.0, lambda t: upper.top(t, TOP)),
    "shirt": (1.6, lambda t: upper.shirt(t, TOP)),
    "sweater": (1.6, lambda t: upper.sweater(t, KNIT)),
    "vest": (0.6, lambda t: upper.vest(t, VEST)),
    "jacket": (1.4, lambda t: upper.jacket(t, JACKET)),
    "coat": (1.0, lambda t: upper.coat(t, COAT)),
    "pants": (2.4, lambda t: lower.pants(t, BOTTOM)),
    "tights": (0.5, lambda t: lower.tights(t, BOTTOM)),
    "shorts": (0.8, lambda t: lower.shorts(t, BOTTOM)),
    "skirt": (1.2, lambda t: lower.skirt(t, BOTTOM)),
    "dress": (1.6, lambda t: lower.dress(t, TOP)),
    "jumpsuit": (0.3, lambda t: lower.jumpsuit(t, BOTTOM)),
    "bag": (2.2, accessories.bag),
    "hat": (1.4, accessories.hat),
    "scarf": (1.6, accessories.scarf),
    "belt": (0.8, lower.belt),
    "glasses": (1.0, accessories.glasses),
    "necklace": (0.8, accessories.necklace),
    "watch": (0.8, accessories.wristband),
}
_PAIRS: dict[str, tuple[float, Callable[[Tailor, int], list[Part]]]] = {
    "shoes": (2.6, feet.shoe),
    "boots": (0.8, feet.boot),
    "socks": (0.9, feet.sock),
    "gloves": (1.2, accessories.glove),
}
_LARGE = ("top", "shirt", "sweater", "vest", "jacket", "coat", "pants", "tights", "shorts", "skirt", "dress", "jumpsuit")


def lay_out(rng: np.random.Generator, shape: tuple[int, ...], *, first_item: int) -> list[tuple[list[Garment], Place]]:
    """Garments laid out on a surface of shape (H, W): each group in a place of its own, somewhat turned."""
    count = pick(rng, {1: 0.14, 2: 0.12, 3: 0.18, 4: 0.22, 5: 0.2, 6: 0.14})
    groups = []
    for name in _choose_pieces(rng, count):
        rack = _Rack(pose_figure(rng, "flat"), rng, first_item, flat=True)
        if name in _PAIRS:
            cloth, cut = rack.cloth(name), _PAIRS[name][1]
            for side in (0, 1):
                rack.hang(name, cloth, lambda t, cut=cut, side=side: cut(t, side))  # type: ignore[misc]
        else:
            rack.hang(name, None, _PIECES[name][1])
        first_item = rack.next
        groups.append(rack.garments)
    groups.sort(key=lambda group: -_extent(group)[2])
    boxes = sorted(_split_box(rng, shape[0], shape[1], count), key=lambda box: -box[2] * box[3])
    return [(group, _fit(rng, group, box)) for group, box in zip(groups, boxes, strict=True)]


def _choose_pieces(rng: np.random.Generator, count: int) -> list[str]:
    names = {**_PIECES, **_PAIRS}
    chosen: list[str] = []
    for n in range(count):
        large = 2.0 if n < 2 else 0.4
        chosen.append(pick(rng, {name: entry[0] * (large if name in _LARGE else 1.0) for name, entry in names.items()}))
    return chosen


def _extent(group: list[Garment]) -> tuple[np.ndarray, np.ndarray, float]:
    """Low and high corner of a group in heads, and its area."""
    outlines = np.concatenate([outline for item in group for part in item.parts for outline in part.outlines])
    low, high = outlines.min(axis=0), outlines.max(axis=0)
    return low, high, float(np.prod(high - low))


def _split_box(rng: np.random.Generator, height: float, width: float, count: int) -> list[tuple[float, float, float, float]]:
    """Cut a picture into `count` boxes (y, x, h, w), always the largest one across its longer side."""
    boxes = [(0.02 * height, 0.02 * width, 0.96 * height, 0.96 * width)]
    while len(boxes) < count:
        boxes.sort(key=lambda box: box[2] * box[3])
        y, x, h, w = boxes.pop()
        share = rng.uniform(0.38, 0.62)
        boxes += (
            [(y, x, share * h, w), (y + share * h, x, (1 - share) * h, w)]
            if h > w
            else [(y, x, h, share * w), (y, x + share * w, h, (1 - share) * w)]
        )
    return boxes


def _fit(rng: np.random.Generator, group: list[Garment], box: tuple[float, float, float, float]) -> Place:
    """Where a group fills its box, somewhat turned."""
    low, high, _ = _extent(group)
    y, x, h, w = box
    angle = float(rng.normal(0, 0.16) + (np.pi / 2 * pick(rng, {-1: 1, 1: 1}) if rng.random() < 0.12 else 0.0))
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    across, down = high - low
    unit = min(w / (across * cos + down * sin), h / (across * sin + down * cos)) * rng.uniform(0.8, 1.04)
    turned = Place(unit, angle, (0.0, 0.0)).pixels((low + high)[None] / 2)[0]
    return Place(unit, angle, (x + w / 2 - turned[0], y + h / 2 - turned[1]))
