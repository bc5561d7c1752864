"""The background of street images: houses, shops, walls and parks, with what passes by, out of focus."""

from __future__ import annotations

import itertools
import random

import cv2
import numpy as np

from imptool.outfits.clutter import leaves, picture, sash
from imptool.outfits.stage import CLOTH, HAIR, SKIN, WALL, Colour, Painted, Stage, facing, mix, pick, receding, tone

FACADE: tuple[Colour, ...] = (
    *((176, 112, 92), (206, 180, 148), (150, 150, 152), (222, 210, 190), (122, 92, 84), (190, 150, 104)),
    *((152, 168, 176), (214, 188, 182), (96, 102, 112), (188, 194, 178)),
)
# name: sky above, sky below, warmth, share of lit windows
SKIES: tuple[tuple[Colour, Colour, float, float], ...] = (
    ((112, 160, 210), (216, 230, 238), 0.0, 0.0),
    ((184, 192, 202), (224, 226, 226), -0.3, 0.1),
    ((150, 178, 206), (252, 226, 180), 0.6, 0.1),
    ((92, 104, 152), (246, 182, 132), 0.9, 0.4),
    ((34, 42, 80), (140, 106, 126), -0.5, 0.7),
)


def paint_street(dice: random.Random, size: tuple[int, int], light: float) -> Painted:
    floor = dice.uniform(0.68, 0.82)
    colours, glow = Stage(size, min(size[0], dice.choice((240, 240, 160)))), Stage(size, 60)
    above, below, warmth, lit = dice.choice(SKIES)
    colours.ramp(0, floor, above, below)
    behind = dice.choice((_houses, _houses, _park, _brick_wall, _shop))
    behind(colours, glow, dice, floor, light, below, lit)
    _pavement(colours, glow, dice, floor)
    _traffic(colours, glow, dice, floor, light, lit)
    if lit > 0.3:
        glow.image[:] = cv2.convertScaleAbs(glow.image, alpha=0.8)
    elif dice.random() < 0.6:
        _sunbeam(glow, dice, light, floor)
    return colours, glow, floor, warmth


def _houses(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float, haze: Colour, lit: float) -> None:
    x = -dice.uniform(0, 0.2)
    while x < c.wide:  # far away, in the haze
        wide = dice.uniform(0.08, 0.2)
        c.rect(x, dice.uniform(0.1, 0.5), x + wide, floor, mix(pick(dice, FACADE), haze, dice.uniform(0.55, 0.75)))
        x += wide
    x = -dice.uniform(0, 0.3)
    while x < c.wide:
        wide = dice.uniform(0.2, 0.42)
        if dice.random() < 0.8:
            _house(c, dice, x, dice.uniform(-0.3, 0.3), x + wide, floor, lit)
        else:
            _tree(c, dice, x + wide / 2, floor, light)
        x += wide


def _park(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float, haze: Colour, lit: float) -> None:
    for i in range(7):
        x, crown = c.wide * dice.uniform(-0.1, 1.1), dice.uniform(0.15, 0.3)
        y = floor - dice.uniform(0.25, 0.45) + 0.03 * i
        leaves(c, dice, x, y, crown, crown, light, 80)
        c.line(x, y + 0.5 * crown, x, floor, (72, 58, 50), 0.02)
        if i < 4:
            before = np.full_like(c.image, haze)
            c.image[:] = cv2.addWeighted(c.image, 0.86, before, 0.14, 0)
    c.ramp(floor - 0.12, floor, (92, 116, 66), (124, 146, 84))
    for x in np.arange(0, c.wide, 0.05).tolist():
        leaves(c, dice, x, floor - 0.1, 0.07, 0.06, light, 14)


def _brick_wall(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float, haze: Colour, lit: float) -> None:
    """A wall up close, with a shutter or a door, paint stripes and posters."""
    kind, repeat = dice.choice((("bricks", 0.45), ("bricks", 0.3), ("cloud", 0.8), ("slabs", 0.8)))
    wall = pick(dice, FACADE)
    c.texture(kind, (0, 0, 9, floor), wall, 0.4, facing(dice, repeat), repeat)
    for _ in range(dice.randint(0, 5)):  # paint
        x, y, paint = c.wide * dice.random(), floor * dice.uniform(0.3, 0.95), pick(dice, CLOTH)
        points = [(x + 0.05 * i, y + dice.uniform(-0.08, 0.08)) for i in range(dice.randint(3, 7))]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            c.line(x0, y0, x1, y1, paint, 0.018)
    if dice.random() < 0.6:
        x, wide, y = c.wide * dice.uniform(-0.1, 0.7), dice.uniform(0.25, 0.5), floor - dice.uniform(0.5, 0.6)
        metal = pick(dice, CLOTH)
        c.rect(x - 0.02, y - 0.03, x + wide + 0.02, floor, tone(wall, 0.6))
        c.rect(x, y, x + wide, floor, metal)
        for i in range(int((floor - y) / 0.02)):
            c.line(x, y + 0.02 * i, x + wide, y + 0.02 * i, tone(metal, 0.78), 0.006)
    for _ in range(dice.randint(0, 3)):
        picture(c, glow, dice, c.wide * dice.uniform(-0.1, 0.9), floor * dice.uniform(0.2, 0.5), 0.14, 0.2)
    glow.rect(0, floor - 0.06, glow.wide, floor, (100, 100, 104))


def _shop(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float, haze: Colour, lit: float) -> None:
    x = -dice.uniform(0, 0.4)
    while x < c.wide:
        wide = dice.uniform(0.4, 0.7)
        _house(c, dice, x, -0.4, x + wide, floor - 0.36, lit)
        _shop_front(c, dice, x, floor - dice.uniform(0.5, 0.56), x + wide, floor, lit)
        x += wide


def _pavement(c: Stage, glow: Stage, dice: random.Random, floor: float) -> None:
    eye, grey = dice.uniform(0.4, 0.5), mix(pick(dice, WALL), (150, 148, 146), 0.7)
    kind, repeat = dice.choice((("paving", 0.7), ("slabs", 0.8), ("speckle", 0.5), ("bricks", 0.5)))
    c.texture(kind, (0, floor, 9, 2), tone(grey, 0.9), 0.28, receding(dice, repeat, eye, c.wide), repeat / 3)
    glow.rect(0, floor - 0.01, glow.wide, floor + 0.025, (88, 88, 92))
    if dice.random() < 0.5:  # a road between the house and the figure
        far, near = floor + 0.02, floor + dice.uniform(0.06, 0.12)
        c.texture("speckle", (0, far, 9, near), (92, 92, 98), 0.2, receding(dice, 0.4, eye, c.wide), 0.2)
        if dice.random() < 0.5:
            for x in np.arange(-0.2, c.wide + 0.2, 0.16).tolist():
                lean = 0.3 * (x - c.wide / 2)
                c.poly(((x, far), (x + 0.08, far), (x + 0.1 + lean * 0.3, near), (x + lean * 0.3, near)), (214, 212, 206))
        c.rect(0, near, 9, near + 0.012, tone(grey, 1.2))
        c.rect(0, near + 0.012, 9, near + 0.02, tone(grey, 0.6))


def _traffic(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float, lit: float) -> None:
    """What stands and walks between the houses and the figure, and the lights out of focus."""
    if dice.random() < 0.4:
        x = c.wide * dice.choice((dice.uniform(-0.2, 0.15), dice.uniform(0.85, 1.2)))
        glow.disc(x, floor + 0.045, 0.5, 0.02, (64, 64, 70))
        _car(c, dice, x, floor + 0.04, dice.uniform(0.3, 0.38))
    for _ in range(dice.choice((0, 0, 1, 2, 3))):
        x, feet = c.wide * dice.uniform(0, 1), floor + dice.uniform(0.01, 0.06)
        glow.disc(x - 0.05 * light, feet, 0.08, 0.012, (84, 84, 90))
        _person(c, dice, x, feet, (feet - 0.5) * 1.4)
    if dice.random() < 0.5:
        _tree(c, dice, c.wide * dice.choice((0.08, 0.92)), floor + 0.03, light)
    if dice.random() < 0.3:
        x, top, side = c.wide * dice.uniform(0.05, 0.95), dice.uniform(0.02, 0.15), dice.choice((-0.07, 0.07))
        c.line(x, floor + 0.03, x, top, (46, 48, 52), 0.012)
        c.line(x, top, x + side, top - 0.01, (46, 48, 52), 0.01)
        c.disc(x + side, top, 0.025, 0.012, (255, 236, 190))
        if lit > 0.3:
            for radius, gain in ((0.2, 0.62), (0.13, 0.8), (0.07, 1)):
                glow.disc(x + side, top, radius, radius, tone((245, 215, 168), gain))
    before = c.image.copy()
    for _ in range(int(lit * dice.uniform(5, 25))):
        hue = dice.choice(((255, 220, 150), (255, 170, 90), (255, 110, 90), (200, 220, 255)))
        c.dot(c.wide * dice.random(), dice.uniform(0, floor), dice.uniform(0.012, 0.04), hue)
    c.image[:] = cv2.addWeighted(before, 0.5, c.image, 0.5, 0)


def _sunbeam(glow: Stage, dice: random.Random, light: float, floor: float) -> None:
    """A slanting patch of sun, broken by a crown out of sight."""
    x, wide = glow.wide * dice.uniform(0, 0.6), dice.uniform(0.2, 0.6)
    lean = -light * dice.uniform(0.2, 0.6)
    glow.poly(((x, 0), (x + wide, 0), (x + wide + lean, floor), (x + wide + 2 * lean, 1), (x + 2 * lean, 1)), (172, 164, 148))
    for _ in range(dice.choice((0, 12, 25))):
        glow.disc(glow.wide * dice.random(), dice.random(), dice.uniform(0.02, 0.07), dice.uniform(0.01, 0.05), (104, 106, 112))


def _house(c: Stage, dice: random.Random, x0: float, y0: float, x1: float, floor: float, lit: float) -> None:
    wall = mix(pick(dice, FACADE), (150, 150, 160), 0.2)
    c.rect(x0, y0, x1, floor, wall)
    c.rect(x0, y0, x1, y0 + 0.02, tone(wall, 1.15))
    c.rect(x1 - 0.008, y0, x1, floor, tone(wall, 0.75))
    shop = floor - dice.uniform(0.14, 0.2)
    columns, row = dice.randint(2, 4), dice.uniform(0.1, 0.15)
    wide, frame = (x1 - x0) / columns, tone(wall, dice.choice((0.7, 1.25)))
    dark, sky = (52, 62, 76), (132, 154, 172)
    y = y0 + 0.05
    while y < shop - row:
        for i in range(columns):
            glass = ((255, 214, 140), (240, 176, 96)) if dice.random() < lit else (sky, dark)
            if y + row > 0:
                sash(c, x0 + wide * (i + 0.28), y, x0 + wide * (i + 0.72), y + row * 0.62, frame, glass)
        y += row
    _shop_front(c, dice, x0 + 0.01, shop, x1 - 0.01, floor, lit)


def _shop_front(c: Stage, dice: random.Random, x0: float, y0: float, x1: float, floor: float, lit: float) -> None:
    """Glass with goods and mannequins behind it, a sign, and now and then a striped awning."""
    frame, tall, inside = tone(pick(dice, CLOTH), 0.7), floor - y0, (236, 206, 150) if lit else (92, 98, 104)
    c.rect(x0, y0, x1, floor, frame)
    c.ramp(y0 + 0.18 * tall, floor - 0.12 * tall, inside, tone(inside, 0.6), x0 + 0.015, x1 - 0.015)
    for _ in range(int((x1 - x0) / 0.07)):
        x, cloth = dice.uniform(x0 + 0.03, x1 - 0.03), pick(dice, CLOTH)
        top = floor - dice.uniform(0.3, 0.62) * tall
        c.poly(((x - 0.016, top), (x + 0.016, top), (x + 0.024, floor - 0.13 * tall), (x - 0.024, floor - 0.13 * tall)), cloth)
    c.rect(x0, y0 + 0.04 * tall, x1, y0 + 0.16 * tall, frame)
    for x in np.arange(x0 + 0.05, x1 - 0.06, 0.028).tolist():
        c.rect(x, y0 + 0.07 * tall, x + dice.uniform(0.01, 0.02), y0 + 0.12 * tall, tone(frame, 2.6))
    if dice.random() < 0.5:
        c.stripes(x0, y0 + 0.16 * tall, x1, y0 + 0.34 * tall, (pick(dice, CLOTH), (236, 230, 220)), 0.024)
    else:
        door = dice.uniform(x0, x1 - 0.1)
        c.rect(door, y0 + 0.25 * tall, door + 0.09, floor, tone(frame, 1.4))
        c.rect(door + 0.015, y0 + 0.32 * tall, door + 0.075, floor - 0.12 * tall, tone(inside, 0.8))


def _tree(canvas: Stage, dice: random.Random, x: float, foot: float, light: float) -> None:
    top, crown = foot - dice.uniform(0.45, 0.75), dice.uniform(0.1, 0.2)
    canvas.line(x, foot, x + dice.uniform(-0.03, 0.03), top, (74, 58, 48), dice.uniform(0.012, 0.03))
    leaves(canvas, dice, x, top, crown, crown * dice.uniform(0.8, 1.3), light, 90)


def _car(canvas: Stage, dice: random.Random, x: float, road: float, tall: float) -> None:
    """A parked car from the side; `x` is its middle."""
    paint, half = pick(dice, CLOTH), 1.35 * tall
    belt, roof, sill = road - 0.6 * tall, road - tall, road - 0.14 * tall
    canvas.poly(((x - 0.75 * half, belt), (x - 0.4 * half, roof), (x + 0.35 * half, roof), (x + 0.65 * half, belt)), paint)
    for x0, x1, slope in ((-0.62, -0.06, 0.24), (0.0, 0.52, -0.2)):
        tops = sorted((x0 + max(slope, 0), x1 + min(slope, 0)))
        glass = [(x0, belt), (tops[0], roof + 0.07 * tall), (tops[1], roof + 0.07 * tall), (x1, belt)]
        canvas.poly([(x + px * half, py) for px, py in glass], (66, 80, 94))
    body = ((-1, sill), (-0.98, belt + 0.1 * tall), (-0.7, belt), (0.7, belt), (0.99, belt + 0.16 * tall), (1, sill))
    canvas.poly([(x + px * half, py) for px, py in body], paint)
    canvas.line(x - 0.9 * half, belt + 0.12 * tall, x + 0.92 * half, belt + 0.14 * tall, tone(paint, 1.35), 0.03 * tall)
    for wheel in (-0.62, 0.62):
        canvas.dot(x + wheel * half, road - 0.17 * tall, 0.2 * tall, (26, 26, 28))
        canvas.dot(x + wheel * half, road - 0.17 * tall, 0.11 * tall, (150, 152, 156))


def _person(canvas: Stage, dice: random.Random, x: float, feet: float, tall: float) -> None:
    """A passer-by: legs, coat, arms, head and hair, made to be seen out of focus."""
    coat, trousers, hair = pick(dice, CLOTH), pick(dice, CLOTH), pick(dice, HAIR)
    hip, neck, stride = feet - 0.47 * tall, feet - 0.84 * tall, dice.uniform(0.03, 0.1) * tall
    hem = hip + dice.choice((0, 0.05, 0.2)) * tall
    canvas.line(x - 0.03 * tall, hip, x - stride, feet, trousers, 0.075 * tall)
    canvas.line(x + 0.03 * tall, hip, x + stride, feet, tone(trousers, 0.8), 0.075 * tall)
    canvas.poly(((x - 0.1 * tall, neck), (x + 0.1 * tall, neck), (x + 0.1 * tall, hem), (x - 0.09 * tall, hem)), coat)
    canvas.line(x - 0.11 * tall, neck + 0.03 * tall, x - 0.13 * tall, hip, tone(coat, 0.85), 0.05 * tall)
    canvas.line(x + 0.11 * tall, neck + 0.03 * tall, x + 0.13 * tall, hip, tone(coat, 0.75), 0.05 * tall)
    canvas.disc(x, feet - 0.93 * tall, 0.055 * tall, 0.07 * tall, hair)
    canvas.disc(x, feet - 0.915 * tall, 0.042 * tall, 0.055 * tall, pick(dice, SKIN))
