"""A whole picture: scene, camera, persons or garments laid out, light; and the maps that say what is where."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imptool.outfits import scenes, wardrobe
from imptool.outfits.figure import Figure, pick, pose_figure
from imptool.outfits.paint import Canvas, Part, Place

VERSION = 2
"""Changes whenever a seed gives other pictures than before."""

_SCENES = {"street": 0.37, "studio": 0.27, "runway": 0.12, "room": 0.12, "layflat": 0.12}
# The heads of a figure that the picture shows, top and bottom, and how often.
_FULL = (-0.5, 8.3)
_FRAMES = {_FULL: 0.62, (-0.4, 6.3): 0.14, (-0.35, 4.6): 0.1, (-0.3, 3.0): 0.06, (2.6, 8.3): 0.05, (0.9, 4.6): 0.03}


@dataclass(frozen=True)
class Outfit:
    """A generated picture.

    Attributes:
        image: [H, W, 3] uint8, RGB.
        labels: [H, W] uint8 class ids, 0 is the background.
        instances: [H, W] uint8, the number of the garment that shows at each pixel, 0 for none; a garment cut into
            several components is one.
        class_of_instance: [N + 1] uint8 class id of each number; garments of which nothing shows are left in.
        scene: its name in `scenes.SCENES`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    class_of_instance: NDArray[np.uint8]
    scene: str


def draw_outfit(seed: int, index: int, size: tuple[int, int]) -> Outfit:
    """Draw picture `index` of a seed: always the same, whatever was drawn before.

    Args:
        size: (H, W) in pixels.
    """
    rng = np.random.default_rng((seed, index))
    kind = pick(rng, _SCENES)
    scene = scenes.draw_scene(rng, kind, size)
    canvas = Canvas(scene.image, light=scene.light)
    class_ids = {0: 0}  # of each number
    if kind == "layflat":
        _lay_out(canvas, rng, class_ids)
    else:
        _place_persons(canvas, rng, class_ids, walking=kind in ("runway", "street"), several=kind in ("street", "room"))
    image = scenes.finish(rng, canvas.image, scene)
    instances, table = canvas.items, np.array([class_ids[number] for number in range(len(class_ids))], np.uint8)
    if rng.random() < 0.5:  # a mirrored picture
        image, instances = cv2.flip(image, 1), cv2.flip(instances, 1)
    labels: np.ndarray = cv2.LUT(instances, np.pad(table, (0, 256 - len(table))))
    return Outfit(image, labels, instances, table, kind)


def _place_persons(
    canvas: Canvas, rng: np.random.Generator, class_ids: dict[int, int], *, walking: bool, several: bool
) -> None:
    height, width = canvas.items.shape
    wide = width / height
    count = (
        1
        + int(rng.random() < (0.16 if several else 0.03) + 0.35 * max(wide - 0.8, 0))
        + int(several and rng.random() < 0.3 * max(wide - 0.6, 0))
    )
    frame = pick(rng, _FRAMES) if count == 1 else _FULL
    top, bottom = frame[0] + rng.normal(0, 0.08), frame[1] + rng.normal(0, 0.1)
    unit = height / (bottom - top) * rng.uniform(0.85, 1.0)
    for n in range(count):
        smaller = rng.uniform(0.72, 0.96) if n + 1 < count else 1.0  # those behind come first
        figure = pose_figure(rng, "walk" if walking and rng.random() < 0.6 else "stand")
        x = width * (np.clip(rng.normal(0.5, 0.1), 0.25, 0.75) if count == 1 else (n + 0.5 + rng.uniform(-0.15, 0.15)) / count)
        rest = height - unit * (bottom - top)
        y = (
            height - rest * rng.uniform(0.2, 0.8) - unit * bottom
            if n + 1 == count
            else height - smaller * unit * 8.1 - rng.uniform(0.02, 0.12) * height
        )
        place = Place(unit * smaller, rng.normal(0, 0.02), (x, y))
        _ground_shadow(canvas, figure, place)
        _wear(canvas, rng, place, wardrobe.dress_person(figure, rng, first_item=len(class_ids)), class_ids)


def _ground_shadow(canvas: Canvas, figure: Figure, place: Place) -> None:
    feet = place.pixels(np.array([leg.at(2.0) for leg in figure.legs]))
    centre, unit = feet.mean(axis=0) + place.unit * np.array((0.3 * canvas.light, 0.35)), place.unit
    height, width = canvas.items.shape
    top, bottom = int(max(centre[1] - 0.6 * unit, 0)), int(min(centre[1] + 0.6 * unit, height))
    left, right = int(max(centre[0] - 1.8 * unit, 0)), int(min(centre[0] + 1.8 * unit, width))
    if top >= bottom or left >= right:
        return
    y, x = np.ogrid[top:bottom, left:right]
    distance = ((x - centre[0]) / (1.5 * unit)) ** 2 + ((y - centre[1]) / (0.42 * unit)) ** 2
    shade = (255 * (1 - 0.5 * np.clip(1 - distance, 0, 1))).astype(np.uint8)
    crop = canvas.image[top:bottom, left:right]
    cv2.multiply(crop, cv2.cvtColor(shade, cv2.COLOR_GRAY2RGB), dst=crop, scale=1 / 255)


def _wear(
    canvas: Canvas, rng: np.random.Generator, place: Place, items: list[wardrobe.Garment], class_ids: dict[int, int]
) -> None:
    parts: list[Part] = [part for item in items for part in item.parts]
    class_ids |= {item.number: item.class_id for item in items}
    for part in sorted(parts, key=lambda part: part.layer):
        canvas.paint(part, place, rng)


def _lay_out(canvas: Canvas, rng: np.random.Generator, class_ids: dict[int, int]) -> None:
    """Garments without a body, seen from above."""
    for group, place in wardrobe.lay_out(rng, canvas.items.shape, first_item=len(class_ids)):
        _wear(canvas, rng, place, group, class_ids)
