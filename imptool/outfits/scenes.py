"""Backgrounds of the generated outfits: where a figure stands or garments lie, and the light over the whole picture.

A scene is drawn on two stages: the colours, and a coarse light (128 leaves a colour as it is, 256 doubles it) that carries
every soft thing: glows, shadows, beams, falloff.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from imptool.outfits.clutter import FLOOR_THINGS, RIM_THINGS, WALL_THINGS, guest, rug, studio_prop
from imptool.outfits.stage import CLOTH, WALL, WOOD, Colour, Painted, Stage, facing, pick, receding, relight, tone
from imptool.outfits.street import paint_street

SCENES = ("street", "runway", "studio", "room", "layflat")
GRAIN = 640  # side of the grain in pixels, larger than most pictures


@dataclass(frozen=True)
class Scene:
    """A background and what those who draw before it must know.

    Attributes:
        image: [H, W, 3] uint8, RGB.
        kind: one of SCENES.
        floor: the line where floor meets wall, as share of the height; feet stand below it. 0 for "layflat": all is floor.
        light: the side the light comes from, -1 (left) to 1 (right).
        warmth: colour of the light, -1 (blue) to 1 (orange).
    """

    image: np.ndarray
    kind: str
    floor: float
    light: float
    warmth: float

    @property
    def tint(self) -> Colour:
        """The ambient light as gains of red, green and blue, around 1."""
        return (1 + 0.1 * self.warmth, 1.0, 1 - 0.12 * self.warmth)


def draw_scene(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> Scene:
    """Draw a background; equal states of `rng` give equal bytes.

    Args:
        kind: one of SCENES.
        size: height and width in pixels, each at least 32.
    Returns:
        The scene; its image [H, W, 3] may be drawn on.
    Raises:
        ValueError: an unknown kind, or a side below 32 pixels.
    """
    if kind not in _PAINTERS:
        raise ValueError(f"kind must be one of {', '.join(SCENES)}, got '{kind}'")
    if min(size) < 32:
        raise ValueError(f"size must be at least 32 x 32 pixels, got {size[0]} x {size[1]}")
    dice = random.Random(int(rng.integers(1 << 62)))  # scalars from it cost a fifth of the Generator's
    light = dice.choice((-1, 1)) * dice.uniform(0.3, 1)
    colours, glow, floor, warmth = _PAINTERS[kind](dice, size, light)
    return Scene(relight(colours, glow, size), kind, floor, light, warmth)


def finish(rng: np.random.Generator, image: np.ndarray, scene: Scene) -> np.ndarray:
    """Light the finished picture as one: exposure, colour of the light, contrast, vignette, a runway's spot, grain.

    Args:
        image: [H, W, 3] uint8, RGB; the scene with everything drawn on it.
    Returns:
        A new image [H, W, 3] uint8.
    """
    dice = random.Random(int(rng.integers(1 << 62)))
    height, width = image.shape[:2]
    y, x = np.ogrid[-1:1:24j, -1:1:18j]
    vignette = 1 - dice.uniform(0, 0.22) * (x * x + y * y) + dice.uniform(0, 0.12) * scene.light * x
    if scene.kind == "runway":
        spot = np.exp(-((x - dice.uniform(-0.15, 0.15)) ** 2) / 0.3 - (y + 0.1) ** 2 / 1.2)
        vignette = vignette * (0.82 + dice.uniform(0.2, 0.45) * spot)
    tint = np.array(scene.tint) * [dice.uniform(0.97, 1.03), 1, dice.uniform(0.97, 1.03)]
    gains = vignette[:, :, None] * (128 * dice.uniform(0.88, 1.1) * tint)
    gains = cv2.resize(gains.clip(0, 255).astype(np.uint8), (width, height))
    top, left = dice.randrange(32), dice.randrange(32)
    out = cv2.LUT(cv2.multiply(image, gains, scale=1 / 128), _contrast(dice.uniform(-0.16, 0.22), dice.uniform(0, 10)))
    for change, noise in zip((cv2.add, cv2.subtract), _grain(dice.choice((1, 2, 2, 3, 5))), strict=True):
        if max(height, width) > GRAIN - 32:
            noise = cv2.copyMakeBorder(noise, 0, height, 0, width, cv2.BORDER_WRAP)
        change(out, noise[top : top + height, left : left + width], dst=out)
    return out


def _contrast(strength: float, lift: float) -> np.ndarray:
    """A lookup table [256] that bends the tones into an S (strength > 0) and lifts the black."""
    tone = np.linspace(0, 1, 256)
    bent = tone + strength * (tone * tone * (3 - 2 * tone) - tone) * 2
    return (lift + bent * (255 - lift)).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _grain(level: int) -> tuple[np.ndarray, np.ndarray]:
    """Film grain, what it adds and what it takes, [GRAIN, GRAIN, 3] uint8: mostly grey, a little coloured."""
    rng = np.random.default_rng(level)
    noise = np.rint(rng.normal(0, level, (GRAIN, GRAIN, 1)) + rng.normal(0, level / 3, (GRAIN, GRAIN, 3)))
    return noise.clip(0, 255).astype(np.uint8), (-noise).clip(0, 255).astype(np.uint8)


# --------------------------------------------------------------------------------------------------------------- runway


def _runway(dice: random.Random, size: tuple[int, int], light: float) -> Painted:
    floor = dice.uniform(0.6, 0.74)
    hall = dice.choice(((30, 30, 38), (44, 34, 48), (20, 22, 30), (40, 48, 66), (206, 206, 208), (150, 142, 140), (96, 30, 40)))
    c, glow = Stage(size, min(size[0], 240), hall), Stage(size, 60)
    bright = sum(hall) > 300
    middle = c.wide / 2 + dice.uniform(-0.08, 0.08)
    c.ramp(0, floor, tone(hall, 0.7), tone(hall, 1.15))
    back = dice.uniform(0.17, 0.3)
    if dice.random() < 0.6:
        _hall(c, glow, dice, hall, floor)
    _backdrop(c, glow, dice, middle, back, floor)
    c.ramp(floor, 1, tone(hall, 0.8), tone(hall, 0.5))
    half = back * dice.uniform(0.6, 0.95)
    strip = (middle, half, half * dice.uniform(1.3, 2.1))
    _catwalk(c, dice, strip, floor)
    _audience(c, dice, strip, floor, 0.85 if bright else 0.55)
    _spotlights(c, glow, dice, middle, floor, bright)
    return c, glow, floor, dice.uniform(-0.5, 0.6)


def _hall(c: Stage, glow: Stage, dice: random.Random, hall: Colour, floor: float) -> None:
    """Curtains or columns of light along the walls."""
    if dice.random() < 0.5:
        folds = [tone(hall, gain) for gain in (0.8, 1.0, 1.25, 1.1)]
        c.stripes(0, 0, c.wide, floor, folds, dice.uniform(0.012, 0.025))
        return
    hue, step = dice.choice(((255, 238, 210), (190, 214, 255), (255, 170, 210), (255, 196, 120))), dice.uniform(0.09, 0.16)
    for x in np.arange(0.03, c.wide, step).tolist():
        c.rect(x, 0.1, x + 0.008, floor - 0.02, hue)
        glow.rect(x - 0.02, 0.08, x + 0.03, floor, tone(hue, 0.65))


# What is cut out of a block to make it look like a letter: left, top, right and lower edge as shares of it.
LETTERS = (
    (0.35, 0.3, 1.1, 0.7),
    (0.35, 0.25, 0.7, 0.75),
    (0.4, 0.35, 0.65, 1.1),
    (0.4, -0.1, 0.65, 0.6),
    (-0.1, 0.3, 0.35, 1.1),
)


def _backdrop(c: Stage, glow: Stage, dice: random.Random, middle: float, half: float, floor: float) -> None:
    """The wall the models come out of: a panel with a name in blocks, a screen, or an arch."""
    wall, top = pick(dice, (*CLOTH, *WALL, *[(240, 240, 240), (18, 18, 20)] * 4)), dice.uniform(0.02, 0.16)
    x0, x1 = middle - half, middle + half
    c.ramp(top, floor, tone(wall, 1.05), tone(wall, 0.75), x0, x1)
    glow.disc(middle, (top + floor) / 2, half * 1.1, 0.3, (158, 156, 152))
    style, ink = dice.random(), (30, 30, 32) if sum(wall) > 330 else (236, 234, 228)
    if style < 0.55:
        step, tall = dice.uniform(0.09, 0.2), dice.uniform(0.012, 0.03)
        for y in np.arange(top + 0.04, floor - 0.05, step).tolist():
            x = x0 + 0.03 + dice.uniform(0, 0.05)
            while x < x1 - 0.04:
                letter, (left, top_, right, low) = dice.uniform(0.5, 0.8) * tall, dice.choice(LETTERS)
                c.rect(x, y, x + letter, y + tall, ink)
                c.rect(x + left * letter, y + top_ * tall, x + right * letter, y + low * tall, wall)
                x += letter + (0.3 * tall if dice.random() < 0.8 else 0.05)
    elif style < 0.75:
        c.stripes(x0, top, x1, floor, (wall, tone(wall, 0.8), pick(dice, CLOTH)), dice.uniform(0.03, 0.08))
    else:
        c.rect(middle - 0.5 * half, top + 0.1, middle + 0.5 * half, floor, tone(wall, 0.3))
        c.disc(middle, top + 0.1, 0.5 * half, 0.07, tone(wall, 0.3))


def _audience(c: Stage, dice: random.Random, strip: tuple[float, float, float], floor: float, gain: float) -> None:
    """Rows of seated guests along both edges of the strip, nearer ones larger; some hold up a lit telephone."""
    middle, half, near = strip
    for row in range(9):
        share = (row / 8) ** 1.6 * 1.25
        edge, scale = half + (near - half) * share, 0.32 * (0.12 + 0.45 * share)
        y = floor + (1.02 - floor) * share - 0.85 * scale
        for seat in (3, 2, 1, 0):
            for side in (-1, 1):
                x = middle + side * (edge + scale * (0.45 + 0.85 * seat + dice.uniform(-0.1, 0.1)))
                if -0.1 < x < c.wide + 0.1:
                    guest(c, dice, x, y - 0.22 * scale * seat, scale, gain * (1 - 0.13 * seat), -side)
                    if dice.random() < 0.12:
                        c.rect(x - 0.1 * scale, y - scale, x + 0.1 * scale, y - 0.7 * scale, (176, 206, 240))


def _catwalk(c: Stage, dice: random.Random, shape: tuple[float, float, float], floor: float) -> None:
    """The strip in perspective; a glossy one mirrors what stands above its far end."""
    colour = pick(dice, ((232, 232, 234), (44, 44, 50), (150, 150, 156), (214, 200, 186), (90, 28, 38), (186, 190, 200)))
    middle, half, near = shape
    u = c.unit
    start = int(floor * u)
    before = c.image.copy()
    strip = ((middle - half, floor), (middle + half, floor), (middle + near, 1.02), (middle - near, 1.02))
    c.poly(strip, colour)
    rows = c.image.shape[0] - start
    mirror = cv2.GaussianBlur(before[max(0, start - rows) : start][::-1], (3, 9), 0)
    rows = mirror.shape[0]
    gloss = dice.choice((0.0, 0.15, 0.3, 0.45))
    seen = cv2.addWeighted(c.image[start : start + rows], 1 - gloss, mirror, gloss, 0)
    inside = np.zeros(c.image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [(np.array(strip) * u).astype(np.int32)], 255)
    cv2.copyTo(seen, inside[start : start + rows], c.image[start : start + rows])
    edge = dice.choice((tone(colour, 0.6), tone(colour, 1.3), (255, 236, 200)))
    for side in (-1, 1):
        c.line(middle + side * half, floor, middle + side * near, 1.02, edge, 0.008)


def _spotlights(c: Stage, glow: Stage, dice: random.Random, middle: float, floor: float, bright: bool) -> None:
    hue = dice.choice(((255, 246, 226), (255, 255, 255), (214, 226, 255), (255, 214, 236)))
    if not bright:
        glow.image[:] = 100
    count = dice.randint(3, 7)
    for i in range(count):
        x = c.wide * (i + 0.5) / count
        foot = middle + (x - middle) * dice.uniform(0.2, 0.6)
        if not bright and dice.random() < 0.6:
            layer = tone(hue, dice.uniform(0.5, 0.62))
            glow.poly(((x - 0.01, 0), (x + 0.01, 0), (foot + 0.08, floor + 0.1), (foot - 0.08, floor + 0.1)), layer)
        c.rect(x - 0.02, 0, x + 0.02, 0.03, (20, 20, 22))
        c.disc(x, 0.035, 0.016, 0.016, hue)
        glow.disc(x, 0.03, 0.05, 0.05, hue)
    c.line(0, 0.008, c.wide, 0.008, (28, 28, 30), 0.01)
    for size, gain in ((0.34, 0.57), (0.25, 0.62), (0.17, 0.68)):
        glow.disc(middle, 0.9, size, 0.5 * size, tone(hue, gain))


# --------------------------------------------------------------------------------------------------------------- studio


def _studio(dice: random.Random, size: tuple[int, int], light: float) -> Painted:
    floor = dice.uniform(0.76, 0.88)
    paper = pick(dice, (*WALL, *CLOTH, (236, 234, 232), (236, 234, 232), (206, 204, 202)))
    c, glow = Stage(size, min(size[0], dice.choice((240, 2000)))), Stage(size, 60)
    c.texture("cloud", (0, 0, 9, 2), paper, dice.choice((0.03, 0.06, 0.12)), facing(dice, 1.4), 0.5)
    if dice.random() < 0.3:
        _mottled(glow, dice)
    if dice.random() < 0.22:
        _paper_roll(c, glow, dice, paper)
    if dice.random() < 0.3:
        _panel(c, glow, dice, floor)
    if dice.random() < 0.25:
        c.texture(
            dice.choice(("planks", "speckle", "wood")),
            (0, floor, 9, 2),
            pick(dice, WOOD),
            0.3,
            receding(dice, 0.7, 0.4, c.wide),
            0.25,
        )
    _sweep(glow, dice, floor, light)
    if dice.random() < 0.2:
        _gels(glow, dice)
    elif dice.random() < 0.2:
        _blinds(glow, dice)
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        studio_prop(c, glow, dice, floor, light)
    return c, glow, floor, dice.uniform(-0.4, 0.5)


def _sweep(glow: Stage, dice: random.Random, floor: float, light: float) -> None:
    """Light on the wall and the bend of the paper, which is darkest where wall turns to floor."""
    falling = dice.uniform(0.1, 0.4)
    y, x = np.ogrid[0 : 1 : glow.image.shape[0] * 1j, -1 : 1 : glow.image.shape[1] * 1j]
    lamp = np.exp(-((x - 0.5 * light) ** 2) / 0.9 - (y - dice.uniform(0.25, 0.5)) ** 2 / dice.uniform(0.1, 0.3))
    bend = np.exp(-(((y - floor) / dice.uniform(0.03, 0.1)) ** 2))
    ground = np.clip((y - floor) / 0.15, 0, 1)
    gain = 1 - falling + falling * 1.5 * lamp - dice.uniform(0, 0.15) * bend + dice.uniform(0, 0.2) * ground * (1 - 0.5 * x * x)
    glow.image[:] = (glow.image * gain[:, :, None]).clip(0, 255)


def _gels(glow: Stage, dice: random.Random) -> None:
    """Two coloured lamps, one from each side."""
    y, x = np.ogrid[0 : 1 : glow.image.shape[0] * 1j, -1 : 1 : glow.image.shape[1] * 1j]
    pair = dice.choice(
        (((1.2, 0.75, 0.95), (0.7, 0.9, 1.3)), ((1.3, 0.9, 0.65), (0.75, 0.8, 1.2)), ((0.8, 1.1, 1.0), (1.15, 0.8, 1.1)))
    )
    share = np.clip(0.5 + 0.5 * (x + 0.3 * (y - 0.5)), 0, 1)[:, :, None]
    glow.image[:] = (glow.image * (np.array(pair[0]) * share + np.array(pair[1]) * (1 - share))).clip(0, 255)


def _blinds(glow: Stage, dice: random.Random) -> None:
    """The light of a window through its blinds, falling aslant."""
    lean, step, y = dice.uniform(-0.35, 0.35), dice.uniform(0.1, 0.17), dice.uniform(-0.3, 0.2)
    glow.image[:] = cv2.convertScaleAbs(glow.image, alpha=0.82)
    left, right = sorted((glow.wide * dice.uniform(-0.1, 0.4), glow.wide * dice.uniform(0.6, 1.1)))
    for _ in range(dice.randint(5, 12)):
        glow.poly(((left, y), (right, y + lean), (right, y + lean + 0.6 * step), (left, y + 0.6 * step)), (158, 150, 134))
        y += step


def _mottled(glow: Stage, dice: random.Random) -> None:
    """The painted canvas of portrait studios."""
    for _ in range(30):
        x, y, gain = glow.wide * dice.random(), dice.random(), dice.uniform(112, 146)
        glow.disc(x, y, dice.uniform(0.04, 0.2), dice.uniform(0.03, 0.12), (gain, gain, gain), dice.uniform(0, 180))


def _paper_roll(c: Stage, glow: Stage, dice: random.Random, paper: Colour) -> None:
    """The edges of the paper and the stands that hold its roll, with the room behind."""
    room, left, right, top = (
        pick(dice, WALL),
        dice.uniform(0.02, 0.1),
        c.wide - dice.uniform(0.02, 0.1),
        dice.uniform(0.02, 0.06),
    )
    c.rect(0, 0, left, 0.9, room)
    c.rect(right, 0, 9, 0.9, room)
    c.rect(0, 0, 9, top, room)
    c.rect(left - 0.01, top, right + 0.01, top + 0.03, tone(paper, 0.8))
    c.line(0, top + 0.015, c.wide, top + 0.015, (60, 60, 62), 0.008)
    for x in (left - 0.015, right + 0.015):
        c.line(x, 0, x, 0.88, (40, 40, 42), 0.012)
        glow.line(x + 0.02, 0, x + 0.02, 0.88, (96, 96, 98), 0.02)


def _panel(c: Stage, glow: Stage, dice: random.Random, floor: float) -> None:
    """A coloured board, disc, arch or frame behind the figure."""
    colour, x, style = pick(dice, CLOTH), c.wide * dice.uniform(0.2, 0.8), dice.random()
    half, top = dice.uniform(0.12, 0.28), dice.uniform(0.08, 0.4)
    if style < 0.35:
        glow.disc(x + 0.02, top + half + 0.02, half, half, (104, 104, 106))
        c.disc(x, top + half, half, half, colour)
    elif style < 0.7:
        glow.rect(x - half + 0.02, top + 0.02, x + half + 0.03, floor, (100, 100, 102))
        c.disc(x, top + half, half, half, colour)
        c.rect(x - half, top + half, x + half, floor + 0.01, colour)
    else:
        c.poly(((x - half, top), (x + half, top + 0.03), (x + half, floor + 0.02), (x - half, floor)), colour)
        c.line(x + half, top + 0.03, x + half, floor + 0.02, tone(colour, 0.7), 0.01)


# ----------------------------------------------------------------------------------------------------------------- room


def _room(dice: random.Random, size: tuple[int, int], light: float) -> Painted:
    floor = dice.uniform(0.74, 0.86)
    c, glow = Stage(size, min(size[0], dice.choice((240, 240, 2000)))), Stage(size, 60)
    wall = pick(dice, WALL)
    _wall(c, dice, wall, floor)
    kind = dice.choice(("planks", "planks", "planks", "carpet", "paving", "marble"))
    ground = pick(dice, WOOD if kind in ("planks",) else WALL)
    c.texture(kind, (0, floor, 9, 2), ground, 0.38, receding(dice, dice.uniform(0.7, 1.2), 0.4, c.wide), 0.3)
    skirting = dice.choice(((238, 236, 230), tone(wall, 0.8), pick(dice, WOOD)))
    c.rect(0, floor - 0.03, 9, floor - 0.004, skirting)
    glow.rect(0, floor - 0.01, glow.wide, floor + 0.02, (96, 96, 98))
    places = max(2, round(c.wide / 0.4))
    # side by side along the wall, then what stands before it
    for things, count in ((WALL_THINGS, places), (FLOOR_THINGS, dice.randint(0, places))):
        order, start = dice.sample(things, len(things)), dice.randrange(places)
        for i in range(count):
            x = c.wide * ((start + i) % places + dice.uniform(0.2, 0.8)) / places
            order[i % len(order)](c, glow, dice, x, floor, light)
    if dice.random() < 0.35:
        rug(c, dice, floor)
    glow.poly(((0, 0), (glow.wide, 0), (glow.wide * 0.5 * (1 - light), 1)), (136, 134, 130))
    return c, glow, floor, dice.uniform(-0.3, 0.9)


def _wall(c: Stage, dice: random.Random, wall: Colour, floor: float) -> None:
    """Plaster, wallpaper, wainscot or painted brick."""
    style = dice.random()
    c.texture(
        "bricks" if style < 0.15 else "cloud", (0, 0, 9, floor), wall, 0.14 if style < 0.15 else 0.05, facing(dice, 0.5), 0.5
    )
    if 0.15 < style < 0.35:
        pale = tone(wall, dice.choice((0.9, 1.08)))
        step = dice.uniform(0.03, 0.08)
        for x in np.arange(0, c.wide, step).tolist():
            c.rect(x, 0, x + step * 0.5, floor, pale)
    elif 0.35 <= style < 0.55:
        for x in np.arange(-dice.random() * 0.3, c.wide, 0.3).tolist():
            for y0, y1 in ((0.06, floor - 0.32), (floor - 0.27, floor - 0.07)):
                for shift, gain in ((0.0, 0.8), (0.006, 1.15)):
                    box = (
                        (x + 0.03 + shift, y0 + shift),
                        (x + 0.27 + shift, y0 + shift),
                        (x + 0.27 + shift, y1 + shift),
                        (x + 0.03 + shift, y1 + shift),
                    )
                    for (ax, ay), (bx, by) in zip(box, (*box[1:], box[0]), strict=True):
                        c.line(ax, ay, bx, by, tone(wall, gain), 0.004)


# -------------------------------------------------------------------------------------------------------------- layflat

SURFACES: tuple[tuple[str, tuple[Colour, ...], float, float], ...] = (
    ("planks", WOOD, 0.36, 1.0),
    ("planks", ((236, 232, 224), (214, 208, 198)), 0.16, 0.8),
    ("marble", ((232, 230, 228), (232, 230, 228), (70, 72, 78), (222, 206, 198)), 0.3, 1.1),
    ("speckle", ((168, 168, 166), (120, 122, 126), (206, 202, 196)), 0.22, 0.8),
    ("linen", ((226, 216, 200), (206, 206, 204), (150, 160, 170), (190, 168, 146)), 0.3, 0.5),
    ("cloud", WALL + CLOTH, 0.04, 0.9),
    ("carpet", WALL + CLOTH, 0.4, 0.5),
)


def _layflat(dice: random.Random, size: tuple[int, int], light: float) -> Painted:
    c, glow = Stage(size, size[0]), Stage(size, 96)
    kind, bases, contrast, repeat = dice.choice(SURFACES)
    angle = dice.choice((0, math.pi / 2)) + dice.choice((0, dice.uniform(-0.1, 0.1), dice.uniform(-1, 1)))
    base = pick(dice, bases)
    c.texture(kind, (0, 0, 9, 2), base, contrast, facing(dice, repeat, angle), repeat)
    if kind == "cloud" and dice.random() < 0.5:
        lean, x = dice.uniform(-0.5, 0.5), c.wide * dice.uniform(0.2, 0.8)
        c.poly(((x, 0), (9, 0), (9, 1.1), (x + lean, 1.1)), pick(dice, bases))
    down, across = np.ogrid[-1 : 1 : glow.image.shape[0] * 1j, -1 : 1 : glow.image.shape[1] * 1j]
    fall = dice.uniform(0.05, 0.3)
    glow.image[:] = (128 * (1 + fall * light * across - dice.uniform(-fall, fall) * down))[:, :, None].clip(60, 190)
    if dice.random() < 0.25:
        _blinds(glow, dice)
    for _ in range(dice.choice((0, 1, 2, 3, 4, 5))):
        _rim_prop(c, glow, dice, light)
    return c, glow, 0.0, dice.uniform(-0.3, 0.5)


def _rim_prop(c: Stage, glow: Stage, dice: random.Random, light: float) -> None:
    """Lay one thing at the rim, partly outside."""
    turn, angle, r = dice.uniform(0, 6.3), dice.uniform(0, 180), dice.uniform(0.06, 0.095)
    reach = dice.uniform(0.9, 1.15) / max(abs(math.cos(turn)), abs(math.sin(turn)))
    x, y = c.wide / 2 * (1 + reach * math.cos(turn)), 0.5 * (1 + reach * math.sin(turn))
    dice.choice(RIM_THINGS)(c, glow, dice, x, y, r, angle, 0.018 * (-1 if light > 0 else 1))


_PAINTERS: dict[str, Callable[[random.Random, tuple[int, int], float], Painted]] = {
    "street": paint_street,
    "runway": _runway,
    "studio": _studio,
    "room": _room,
    "layflat": _layflat,
}
