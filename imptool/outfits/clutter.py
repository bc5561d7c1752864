"""Things that stand and lie about in backgrounds: plants, pictures, furniture, racks of clothes, props of a flat lay."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import cv2
import numpy as np

from imptool.outfits.stage import CLOTH, HAIR, LEAF, SKIN, WALL, WOOD, Colour, Stage, pick, tone


def leaves(canvas: Stage, dice: random.Random, x: float, y: float, rx: float, ry: float, light: float, count: int) -> None:
    """A crown: large dark dots first, then smaller and lighter ones nearer to the light."""
    green = pick(dice, LEAF)
    for i in range(count):
        share, turn, far = i / count, dice.uniform(0, 6.3), dice.random() ** 0.5
        lean = 0.25 * share
        px = x + rx * (far * math.cos(turn) * (1 - lean) + light * lean)
        py = y + ry * (far * math.sin(turn) * (1 - lean) - lean)
        radius = (rx * ry) ** 0.5 * dice.uniform(0.6, 1.4) * (0.05 + 0.28 * (1 - share) ** 3)
        canvas.dot(px, py, radius, tone(green, dice.uniform(0.5, 0.65) + 0.75 * share))


def plant(canvas: Stage, dice: random.Random, x: float, foot: float, tall: float) -> None:
    """A pot with long leaves."""
    green, pot, wide = pick(dice, LEAF), pick(dice, CLOTH + WOOD), 0.17 * tall
    rim = foot - 0.28 * tall
    for i in range(dice.randint(7, 13)):
        turn, reach = dice.uniform(-1.25, 1.25), tall * dice.uniform(0.4, 0.75)
        px, py = x + math.sin(turn) * reach * 0.5, rim - math.cos(turn) * reach * 0.5
        leaf = tone(green, 0.6 + 0.06 * i)
        canvas.line(x, rim, px, py, tone(leaf, 0.8), 0.02 * tall)
        canvas.disc(px, py, reach * 0.42, reach * dice.uniform(0.08, 0.15), leaf, math.degrees(turn) - 90)
    canvas.poly(((x - wide, rim), (x + wide, rim), (x + wide * 0.7, foot), (x - wide * 0.7, foot)), pot)
    canvas.poly(((x + wide * 0.3, rim), (x + wide, rim), (x + wide * 0.7, foot), (x + wide * 0.2, foot)), tone(pot, 0.8))


def picture(canvas: Stage, glow: Stage, dice: random.Random, x: float, y: float, wide: float, tall: float) -> None:
    """A framed picture: a landscape, blocks, or a head."""
    edge, ground = dice.choice((0.006, 0.01, 0.016)), pick(dice, CLOTH + WALL)
    glow.rect(x + 0.01, y + 0.01, x + wide + 0.015, y + tall + 0.02, (96, 96, 96))
    canvas.rect(x, y, x + wide, y + tall, dice.choice(((34, 32, 32), (236, 232, 224), (186, 150, 92), (120, 84, 58))))
    canvas.rect(x + edge, y + edge, x + wide - edge, y + tall - edge, (240, 238, 232))
    edge += 0.15 * min(wide, tall) * dice.random()
    canvas.ramp(y + edge, y + tall - edge, ground, pick(dice, CLOTH), x + edge, x + wide - edge)
    for _ in range(dice.randint(1, 4)):
        px, py, r = x + wide * dice.uniform(0.3, 0.7), y + tall * dice.uniform(0.3, 0.7), 0.22 * min(wide, tall)
        canvas.disc(px, py, r * dice.uniform(0.4, 1), r * dice.uniform(0.3, 1), pick(dice, CLOTH + SKIN), dice.uniform(0, 90))


def sash(canvas: Stage, x0: float, y0: float, x1: float, y1: float, frame: Colour, glass: tuple[Colour, Colour]) -> None:
    """A window with a cross bar; its glass runs from one colour to the other."""
    edge = 0.06 * (x1 - x0)
    canvas.rect(x0 - edge, y0 - edge, x1 + edge, y1 + 2 * edge, frame)
    canvas.ramp(y0, y1, *glass, x0, x1)
    canvas.line((x0 + x1) / 2, y0, (x0 + x1) / 2, y1, frame, edge)
    canvas.line(x0, y0 * 0.6 + y1 * 0.4, x1, y0 * 0.6 + y1 * 0.4, frame, edge)


def _hanging(canvas: Stage, dice: random.Random, x: float, y: float, wide: float, long: float) -> None:
    """A garment on a hanger, seen nearly from its side."""
    cloth = pick(dice, CLOTH)
    canvas.line(x, y - 0.02, x, y, (90, 90, 92), 0.003)
    shape = (
        (x, y),
        (x + wide * 0.5, y + 0.03),
        (x + wide * 0.6, y + long),
        (x - wide * 0.6, y + long),
        (x - wide * 0.5, y + 0.03),
    )
    canvas.poly(shape, cloth)
    if dice.random() < 0.35:
        other = pick(dice, CLOTH)
        for i in range(1, 9):
            canvas.line(x - wide * 0.5, y + long * i / 9, x + wide * 0.5, y + long * i / 9, other, 0.006)
    else:
        for fold in (-0.25, 0.1, 0.35):
            canvas.line(x + fold * wide * 0.6, y + 0.06, x + fold * wide, y + long, tone(cloth, 0.72), 0.005)


def rack(canvas: Stage, glow: Stage, dice: random.Random, x0: float, x1: float, foot: float) -> None:
    """A clothes rack: what a parser must not take for the outfit."""
    rail, metal = foot - dice.uniform(0.52, 0.62), dice.choice(((40, 40, 42), (190, 186, 178), (168, 130, 84)))
    glow.rect(x0, foot - 0.02, x1, foot + 0.015, (92, 92, 92))
    for x in (x0, x1):
        canvas.line(x, rail, x, foot, metal, 0.009)
        canvas.line(x - 0.03, foot, x + 0.03, foot, metal, 0.012)
    canvas.line(x0, rail, x1, rail, metal, 0.009)
    x = x0 + 0.03
    while x < x1 - 0.02:
        _hanging(canvas, dice, x, rail + 0.02, dice.uniform(0.05, 0.11), dice.uniform(0.22, 0.44))
        x += dice.uniform(0.028, 0.06)


def guest(c: Stage, dice: random.Random, x: float, y: float, scale: float, gain: float, towards: int) -> None:
    """A seated spectator; `towards` is the side that the face is turned to."""
    cloth, legs = tone(pick(dice, CLOTH), gain), tone(pick(dice, CLOTH), gain)
    c.disc(x, y, 0.36 * scale, 0.55 * scale, cloth)
    c.disc(x, y + 0.5 * scale, 0.34 * scale, 0.2 * scale, legs)
    c.disc(x, y - 0.68 * scale, 0.19 * scale, 0.25 * scale, tone(pick(dice, HAIR), gain))
    c.disc(x + 0.07 * scale * towards, y - 0.62 * scale, 0.13 * scale, 0.18 * scale, tone(pick(dice, SKIN), gain))


def studio_prop(c: Stage, glow: Stage, dice: random.Random, floor: float, light: float) -> None:
    """A stool, a box, a plant, or a lamp on its stand, beside the figure."""
    x, foot, style = (
        c.wide * dice.choice((dice.uniform(0, 0.2), dice.uniform(0.8, 1))),
        floor + dice.uniform(0, 0.1),
        dice.random(),
    )
    glow.disc(x - 0.06 * light, foot, 0.13, 0.022, (84, 84, 88))
    colour = pick(dice, (*CLOTH, *WOOD))
    if style < 0.3:
        half, tall = dice.uniform(0.06, 0.12), dice.uniform(0.08, 0.25)
        c.poly(((x - half, foot - tall), (x + half, foot - tall), (x + half, foot), (x - half, foot)), colour)
        c.poly(
            (
                (x - half, foot - tall),
                (x - half + 0.02, foot - tall - 0.03),
                (x + half + 0.02, foot - tall - 0.03),
                (x + half, foot - tall),
            ),
            tone(colour, 1.2),
        )
        c.poly(
            ((x + half, foot - tall), (x + half + 0.02, foot - tall - 0.03), (x + half + 0.02, foot - 0.03), (x + half, foot)),
            tone(colour, 0.7),
        )
    elif style < 0.6:
        seat = foot - dice.uniform(0.2, 0.28)
        for lean in (-0.07, 0.05, -0.03, 0.08):
            c.line(x + 0.6 * lean, seat, x + lean, foot, tone(colour, 0.75), 0.012)
        c.line(x - 0.05, seat + 0.12, x + 0.05, seat + 0.12, tone(colour, 0.7), 0.008)
        c.disc(x, seat + 0.012, 0.08, 0.02, tone(colour, 0.7))
        c.disc(x, seat, 0.08, 0.02, colour)
    elif style < 0.85:
        plant(c, dice, x, foot, dice.uniform(0.3, 0.55))
    else:
        for lean in (-0.08, 0, 0.08):
            c.line(x, foot - 0.1, x + lean, foot, (30, 30, 32), 0.008)
        c.line(x, foot - 0.1, x, 0.2, (30, 30, 32), 0.008)
        c.poly(((x - 0.09, 0.08), (x + 0.09, 0.1), (x + 0.07, 0.26), (x - 0.07, 0.24)), (24, 24, 26))
        c.poly(((x - 0.075, 0.095), (x + 0.075, 0.115), (x + 0.055, 0.245), (x - 0.055, 0.225)), (250, 248, 240))
        glow.disc(x, 0.17, 0.2, 0.2, (170, 168, 162))


def _door(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    x -= 0.15
    paint, top = pick(dice, (*WOOD, (240, 238, 232), (240, 238, 232))), floor - dice.uniform(0.66, 0.72)
    c.rect(x - 0.025, top - 0.025, x + 0.325, floor, tone(paint, 1.12))
    c.rect(x, top, x + 0.3, floor, paint)
    for x0 in (x + 0.035, x + 0.165):
        for y0, y1 in ((top + 0.05, top + 0.3), (top + 0.36, floor - 0.06)):
            c.rect(x0, y0, x0 + 0.1, y1, tone(paint, 0.8))
            c.rect(x0 + 0.006, y0 + 0.006, x0 + 0.1, y1, tone(paint, 0.94))
    c.disc(x + 0.275, top + 0.36, 0.012, 0.012, (196, 176, 120))


def _mirror(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    """A tall mirror that leans on the wall and shows the room dimly."""
    wide, top, foot = dice.uniform(0.16, 0.26), floor - dice.uniform(0.5, 0.7), floor + 0.03
    x -= wide / 2
    glow.rect(x - 0.02 - 0.04 * light, top, x + wide + 0.02 - 0.04 * light, foot, (100, 100, 102))
    c.rect(x - 0.015, top - 0.015, x + wide + 0.015, foot + 0.015, pick(dice, (*WOOD, (36, 34, 34), (200, 168, 106))))
    shown = pick(dice, WALL)
    c.ramp(top, foot, tone(shown, 0.95), tone(shown, 0.7), x, x + wide)
    c.rect(x, foot - 0.13, x + wide, foot, tone(pick(dice, WOOD), 0.8))
    for _ in range(3):
        px, cloth = x + wide * dice.uniform(0.05, 0.6), pick(dice, CLOTH)
        c.rect(px, foot - dice.uniform(0.15, 0.4), px + 0.3 * wide, foot - 0.1, tone(cloth, 0.85))
    c.poly(((x, top + 0.3), (x + wide, top + 0.05), (x + wide, top + 0.14), (x, top + 0.42)), tone(shown, 1.2))


def _pictures(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    x -= 0.17
    for _ in range(dice.randint(1, 2)):
        y, wide = dice.uniform(0.05, 0.15), dice.uniform(0.12, 0.22)
        while y < floor - 0.35:
            tall = dice.uniform(0.12, 0.3)
            picture(c, glow, dice, x, y, wide, tall)
            y += tall + dice.choice((0.04, 0.06, 1))
        x += wide + 0.03


def _shelf(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    """Boards with books, boxes and folded clothes."""
    wide, wood = dice.uniform(0.25, 0.4), pick(dice, WOOD)
    x0 = x - wide / 2
    for y in np.arange(dice.uniform(0.15, 0.3), floor - 0.1, dice.uniform(0.15, 0.22)).tolist():
        glow.rect(x0, y + 0.01, x0 + wide, y + 0.04, (96, 96, 98))
        x = x0 + 0.01
        while x < x0 + wide - 0.04:
            tall, thick, cloth = dice.uniform(0.05, 0.11), dice.uniform(0.01, 0.022), pick(dice, CLOTH)
            if dice.random() < 0.15:
                thick = 0.09
                for i in range(4):
                    c.rect(x, y - 0.02 * (i + 1), x + thick, y - 0.02 * i - 0.004, pick(dice, CLOTH))
            elif dice.random() < 0.85:
                c.rect(x, y - tall, x + thick - 0.002, y, cloth)
                c.rect(x, y - 0.8 * tall, x + thick - 0.002, y - 0.7 * tall, tone(cloth, 1.4))
            x += thick + 0.002
        c.rect(x0, y, x0 + wide, y + 0.014, wood)


def _bed(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    """A bed or a sofa with cushions and a striped blanket."""
    half, cloth, foot = dice.uniform(0.28, 0.38), pick(dice, CLOTH), floor + 0.04
    x0, x1 = x - half, x + half
    seat, back = foot - dice.uniform(0.14, 0.18), foot - dice.uniform(0.3, 0.36)
    glow.rect(x0, foot - 0.02, x1, foot + 0.025, (78, 78, 80))
    c.poly(
        ((x0, back + 0.03), (x0 + 0.03, back), (x1 - 0.03, back), (x1, back + 0.03), (x1, foot), (x0, foot)), tone(cloth, 0.82)
    )
    c.poly(((x0 + 0.02, seat), (x1 - 0.02, seat), (x1 - 0.01, foot - 0.02), (x0 + 0.01, foot - 0.02)), cloth)
    c.line(x0, seat + 0.06, x1, seat + 0.06, tone(cloth, 0.7), 0.006)
    for _ in range(dice.randint(1, 4)):
        x, half, cushion = dice.uniform(x0 + 0.06, x1 - 0.06), dice.uniform(0.05, 0.075), pick(dice, CLOTH)
        c.disc(x, seat - 0.8 * half, half, half, tone(cushion, 0.8), dice.uniform(-20, 20))
        c.poly(
            ((x - half, seat - 1.6 * half), (x + half, seat - 1.7 * half), (x + 0.9 * half, seat), (x - 0.9 * half, seat)),
            cushion,
        )
    if dice.random() < 0.5:
        x = dice.uniform(x0 + 0.1, x1 - 0.25)
        c.stripes(x, seat - 0.01, x + 0.16, foot - 0.04, (pick(dice, CLOTH), pick(dice, CLOTH)), dice.uniform(0.012, 0.03))


def _window_light(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    """A window between curtains, and the patch of light that it throws on the floor."""
    wide, top, low = dice.uniform(0.2, 0.32), dice.uniform(0.03, 0.12), floor - dice.uniform(0.2, 0.35)
    x -= wide / 2
    sash(c, x, top, x + wide, low, (240, 238, 234), ((232, 242, 250), (250, 246, 228)))
    before = c.image.copy()
    leaves(c, dice, x + wide / 2, low - 0.1, 0.6 * wide, 0.12, light, 20)
    u = c.unit
    outside = np.ones(c.image.shape[:2], np.uint8)
    outside[int(top * u) : int(low * u), max(0, int(x * u)) : max(0, int((x + wide) * u))] = 0
    c.image[:] = cv2.addWeighted(before, 0.75, c.image, 0.25, 0)
    cv2.copyTo(before, outside, c.image)
    curtain = pick(dice, CLOTH + WALL)
    for x0 in (x - 0.07, x + wide - 0.03):
        c.stripes(x0, 0, x0 + 0.1, floor - 0.02, [tone(curtain, gain) for gain in (0.85, 1.05, 1.15, 0.95)], 0.011)
    glow.disc(x + wide / 2, (top + low) / 2, wide, 0.35, (154, 150, 142))
    shift = -light * 0.25
    glow.poly(
        ((x + shift, floor), (x + wide + shift, floor), (x + wide + 2 * shift, 1), (x + 2 * shift - 0.1, 1)), (176, 168, 148)
    )


def _garments(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    half = dice.uniform(0.15, 0.27)
    rack(c, glow, dice, x - half, x + half, floor + 0.025)


def _greenery(c: Stage, glow: Stage, dice: random.Random, x: float, floor: float, light: float) -> None:
    glow.disc(x - 0.04 * light, floor + 0.03, 0.1, 0.02, (84, 84, 86))
    plant(c, dice, x, floor + 0.03, dice.uniform(0.3, 0.6))


def rug(c: Stage, dice: random.Random, floor: float) -> None:
    half, top, low = dice.uniform(0.25, 0.45), floor + 0.03, dice.uniform(0.96, 1.1)
    middle, first, second = c.wide * dice.uniform(0.35, 0.65), pick(dice, CLOTH), pick(dice, CLOTH)
    for i in range(dice.randint(4, 9)):
        inset = 0.05 * i
        y0, y1 = top + (low - top) * inset, low - (low - top) * inset
        near, far = half * (1.25 - inset), half * (1 - inset)
        c.poly(((middle - far, y0), (middle + far, y0), (middle + near, y1), (middle - near, y1)), (first, second)[i % 3 % 2])


def block(c: Stage, x: float, y: float, wide: float, tall: float, angle: float, colour: Colour) -> None:
    """A rectangle of half sizes, turned by degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    ax, ay, bx, by = wide * cos, wide * sin, -tall * sin, tall * cos
    c.poly(
        ((x - ax - bx, y - ay - by), (x + ax - bx, y + ay - by), (x + ax + bx, y + ay + by), (x - ax + bx, y - ay + by)), colour
    )


def _cup(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    glow.disc(x + fall, y + 0.018, r * 1.05, r * 1.05, (76, 76, 80))
    china, drink = (
        pick(dice, ((240, 238, 232), (240, 238, 232), *CLOTH)),
        dice.choice(((84, 52, 34), (196, 152, 108), (120, 140, 70))),
    )
    c.disc(x, y, r, r, china)
    c.disc(x, y, 0.85 * r, 0.85 * r, tone(china, 0.93))
    block(
        c,
        x + 0.7 * r * math.cos(math.radians(angle)),
        y + 0.7 * r * math.sin(math.radians(angle)),
        0.2 * r,
        0.08 * r,
        angle,
        china,
    )
    c.disc(x, y, 0.62 * r, 0.62 * r, tone(china, 1.06))
    c.disc(x, y, 0.53 * r, 0.53 * r, drink)
    c.disc(x - 0.1 * r, y - 0.1 * r, 0.3 * r, 0.26 * r, tone(drink, 1.35), angle)


def _magazine(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    cover, ink = pick(dice, CLOTH + WALL), pick(dice, CLOTH)
    angle = (angle - 90) * 0.3
    block(glow, x + fall, y + 0.015, 1.5 * r, 2 * r, angle, (80, 80, 84))
    block(c, x, y, 1.5 * r, 2 * r, angle, (240, 238, 234))
    block(c, x, y, 1.46 * r, 1.97 * r, angle, cover)
    c.disc(x, y + 0.4 * r, 0.7 * r, 1.1 * r, ink, angle)
    c.disc(x, y - 0.5 * r, 0.35 * r, 0.45 * r, pick(dice, SKIN), angle)
    slope = math.radians(angle)
    block(c, x + 1.5 * r * math.sin(slope), y - 1.5 * r * math.cos(slope), 1.1 * r, 0.22 * r, angle, tone(ink, 1.6))


def _phone(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    block(glow, x + fall, y + 0.012, 0.7 * r, 1.4 * r, angle, (78, 78, 82))
    block(c, x, y, 0.68 * r, 1.4 * r, angle, dice.choice(((24, 24, 26), (226, 226, 228), (214, 180, 170))))
    block(c, x, y, 0.61 * r, 1.32 * r, angle, dice.choice(((16, 18, 22), (40, 60, 92), (190, 206, 220))))
    block(c, x, y, 0.4 * r, 0.3 * r, angle, pick(dice, CLOTH))


def _camera(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    block(glow, x + fall, y + 0.022, 1.4 * r, 0.9 * r, angle, (72, 72, 76))
    body = pick(dice, ((34, 34, 36), (34, 34, 36), (120, 80, 54), (190, 188, 184)))
    block(c, x, y, 1.35 * r, 0.85 * r, angle, (176, 174, 170))
    block(c, x, y, 1.35 * r, 0.55 * r, angle, body)
    for size, colour in ((0.68, (18, 18, 20)), (0.56, (60, 60, 64)), (0.46, (14, 16, 24)), (0.24, (50, 44, 88))):
        c.disc(x, y, size * r, size * r, colour)
    c.disc(x - 0.15 * r, y - 0.15 * r, 0.1 * r, 0.07 * r, (210, 220, 240))


def _twig(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    """A stem with leaves in pairs."""
    cos, sin, green, long = math.cos(math.radians(angle)), math.sin(math.radians(angle)), pick(dice, LEAF), dice.uniform(0.6, 1)
    c.line(x - 2.4 * r * cos, y - 2.4 * r * sin, x + 2.4 * r * cos, y + 2.4 * r * sin, tone(green, 0.6), 0.005)
    for i in range(9):
        for side in (-1, 1):
            lean, t = math.radians(angle + side * 50), (i - 4) * 0.55 * r
            px, py = x + t * cos + long * r * 0.6 * math.cos(lean), y + t * sin + long * r * 0.6 * math.sin(lean)
            glow.disc(px + fall * 0.7, py + 0.012, long * r * 0.6, 0.22 * r, (88, 88, 92), math.degrees(lean))
            leaf = tone(green, dice.uniform(0.8, 1.2))
            c.disc(px, py, long * r * 0.62, 0.22 * r, leaf, math.degrees(lean))
            c.line(px - 0.4 * r * math.cos(lean), py - 0.4 * r * math.sin(lean), px, py, tone(leaf, 1.25))


def _flower(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    for _ in range(dice.randint(2, 5)):
        px, py, petal = x + dice.uniform(-2, 2) * r, y + dice.uniform(-2, 2) * r, pick(dice, CLOTH[-6:])
        size = r * dice.uniform(0.5, 0.9)
        glow.disc(px + fall, py + 0.015, size, size, (84, 84, 88))
        c.line(px, py, px + dice.uniform(-2, 2) * r, py + 2.5 * r, pick(dice, LEAF), 0.006)
        for ring, count in ((0.62, 9), (0.36, 6)):
            for i in range(count):
                turn = 6.283 * i / count + ring
                place = px + ring * size * math.cos(turn), py + ring * size * math.sin(turn)
                c.disc(*place, 0.42 * size, 0.24 * size, tone(petal, 1.35 - 0.6 * ring + 0.1 * (i % 2)), math.degrees(turn))
        c.disc(px, py, 0.2 * size, 0.2 * size, (216, 170, 70))


def _towel(c: Stage, glow: Stage, dice: random.Random, x: float, y: float, r: float, angle: float, fall: float) -> None:
    """A folded cloth with stripes: fabric that is no garment."""
    first, second, angle = pick(dice, CLOTH), pick(dice, CLOTH), (angle - 90) * 0.5
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    block(glow, x + fall, y + 0.02, 1.9 * r, 1.5 * r, angle, (76, 76, 80))
    block(c, x, y, 1.9 * r, 1.5 * r, angle, first)
    for i in range(-4, 5):
        block(c, x - 0.33 * i * r * sin, y + 0.33 * i * r * cos, 1.9 * r, dice.choice((0.03, 0.08)) * r, angle, second)
    block(c, x + 0.6 * r * cos, y + 0.6 * r * sin, 0.03 * r, 1.5 * r, angle, tone(first, 0.65))


Thing = Callable[[Stage, Stage, random.Random, float, float, float], None]
WALL_THINGS: tuple[Thing, ...] = (_door, _mirror, _pictures, _pictures, _shelf, _window_light)
"""What a room's wall carries, drawn around x."""
FLOOR_THINGS: tuple[Thing, ...] = (_bed, _garments, _garments, _greenery, _greenery)
"""What stands before a room's wall, drawn around x."""
RIM_THINGS = (_cup, _cup, _magazine, _phone, _camera, _twig, _twig, _flower, _towel)
"""What lies at the rim of a flat lay."""
