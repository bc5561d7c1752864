"""Semantic maps and instances over their images, for people to look at."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imptool.data.label_set import MAX_ID, IdTable
from imptool.data.palette import class_colour, instance_palette

Colour = tuple[int, int, int]


def overlay(
    image: np.ndarray,
    semantic_map: np.ndarray,
    *,
    class_names: Mapping[int, str],
    background: int | None,
    alpha: float = 0.5,
    colours: Mapping[int, Colour] | None = None,
) -> np.ndarray:
    """The image with coloured, outlined classes, their names where they fit, and beside it a legend of all found.

    Args:
        image: [H, W, 3] uint8, RGB.
        semantic_map: [H, W] class ids. Background and ids without a name (the ignore id) stay the plain image.
        class_names: {id: name}; a name of any length and script. What the font cannot draw is left out, and a name of
            which nothing is left becomes "class <id>".
        background: the id of the background, or None if every class gets a colour.
        alpha: weight of the colour, 0..1.
        colours: {id: (R, G, B)}; the palette's for those without one.
    Returns:
        [H, W + legend, 3] uint8. Without any class there is no legend; an image lower than one line of text is
        extended in white.
    Raises:
        ValueError: image is not [H, W, 3] uint8, or the map has another size.
    """
    shown = {index: name for index, name in class_names.items() if index != background}
    coloured = colour_classes(image, semantic_map, ids=list(shown), alpha=alpha, colours=colours)
    found = sorted(set(np.unique(semantic_map).tolist()) & set(shown))
    if not found:
        return coloured
    labels = {index: drawable(shown[index]) or f"class {index}" for index in found}
    # In px of the image: as legible in a large one as in a small one.
    font = ImageFont.truetype(_font_path(), max(12, round(max(semantic_map.shape) / 48)))
    legend = _legend(labels, font, _colours_of(found, colours), least_height=image.shape[0])
    picture = Image.new("RGB", (image.shape[1] + legend.width, legend.height), "white")
    picture.paste(_with_names(coloured, semantic_map, labels, font), (0, 0))
    picture.paste(legend, (image.shape[1], 0))
    return np.asarray(picture)


def colour_classes(
    image: np.ndarray,
    semantic_map: np.ndarray,
    *,
    ids: Sequence[int],
    alpha: float = 0.5,
    colours: Mapping[int, Colour] | None = None,
) -> np.ndarray:
    """The image with the given classes blended in their colours and outlined: [H, W, 3] uint8.

    The outline lies inside each class and grows with the image, so that it stays thin but visible. `colours` is
    {id: (R, G, B)}; classes without one have the palette's.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
    if semantic_map.shape != image.shape[:2]:
        raise ValueError(f"the map must have the image's size {image.shape[:2]}, got {semantic_map.shape}")
    table = np.zeros(MAX_ID + 1, np.int64)  # number of a class, 0 for what stays plain
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return _colour_numbers(image, IdTable(table).look_up(semantic_map)[0], _colours_of(ids, colours), alpha)


def _colours_of(ids: Sequence[int], colours: Mapping[int, Colour] | None) -> np.ndarray:
    """The colours of classes, [N, 3] uint8."""
    known = colours or {}
    return np.array([known.get(class_id) or class_colour(class_id) for class_id in ids], np.uint8).reshape(-1, 3)


def _colour_numbers(image: np.ndarray, numbers: np.ndarray, colours: np.ndarray, alpha: float) -> np.ndarray:
    """The image with number n of [H, W] blended in colours[n - 1] and outlined; 0 stays plain."""
    painted = _look_up_colours(numbers, np.concatenate([np.zeros((1, 3), np.uint8), colours]))
    result = cv2.addWeighted(image, 1 - alpha, painted, alpha, 0)
    cv2.copyTo(painted, _outlines(numbers), result)
    return cv2.copyTo(image, (numbers == 0).astype(np.uint8), result)


def _look_up_colours(numbers: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The colours [H, W, 3] of numbers [H, W]; OpenCV goes through bytes some ten times as fast as indexing does."""
    if numbers.dtype != np.uint8:
        return palette[numbers]
    table = np.zeros((256, 3), np.uint8)
    table[: min(len(palette), 256)] = palette[:256]
    return cv2.merge([cv2.LUT(numbers, np.ascontiguousarray(channel)) for channel in table.T])


def colour_instances(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Instances over the pale grey image, larger ones first, in colours that no class has: [H, W, 3] uint8.

    Every instance has a colour of its own as far as there are colours; then they begin again, but never beside themselves.

    Args:
        image: [H, W, 3] uint8, RGB.
        masks: [N, H, W] uint8, 1 in the instance.
    """
    colours = instance_palette()
    numbers, uses = np.zeros(image.shape[:2], np.uint8), [0] * len(colours)
    for index in np.argsort(-masks.sum(axis=(1, 2), dtype=np.int64), kind="stable").tolist():
        near = np.unique(numbers[cv2.dilate(masks[index], np.ones((3, 3), np.uint8)) > 0]).tolist()
        # Free of its neighbours first, then rarely used; with more neighbours than colours there is no better one.
        colour = min(range(len(colours)), key=lambda colour: (colour + 1 in near, uses[colour]))
        uses[colour] += 1
        numbers[masks[index] > 0] = 1 + colour
    return _colour_numbers(_pale(image), numbers, colours, alpha=0.8)


def colour_errors(image: np.ndarray, wrong: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Wrong pixels in red and ignored ones in blue over the pale grey image: [H, W, 3] uint8.

    Args:
        image: [H, W, 3] uint8, RGB.
        wrong, ignored: [H, W] bool.
    """
    pale = _pale(image)
    for where, colour in ((wrong, (213, 0, 0)), (ignored, (120, 160, 220))):
        pale[where] = (0.25 * pale[where] + 0.75 * np.array(colour)).astype(np.uint8)
    return pale


def _pale(image: np.ndarray) -> np.ndarray:
    """The image in grey, half way to white, so that dark colours stand out."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(grey, 0.5, np.full_like(image, 255), 0.5, 0)


def colour_canvas(canvas: np.ndarray, ids: Sequence[int], *, size: tuple[int, int]) -> np.ndarray:
    """A canvas as a picture [H, W, 3] uint8: the largest value over its layers, in the colour of the layer that has it.

    The brightness is the square root of the value's share of the largest one: an unsure detector's canvas is seen as well.

    Args:
        canvas: [K, h, w] 0..1.
        ids: the class id of each layer.
        size: (H, W) of the picture; its cells are shown as they are.
    """
    colours = _colours_of(ids, None)[canvas.argmax(axis=0)]
    strongest = np.clip(canvas.max(axis=0), 0, 1)
    picture = np.rint(colours * np.sqrt(strongest / max(strongest.max(initial=0), 1e-6))[..., None]).astype(np.uint8)
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_NEAREST)


def side_by_side(rows: Sequence[Sequence[np.ndarray]], *, gap: int = 6) -> np.ndarray:
    """Pictures of one size as a sheet on white, [rows, columns] -> [H, W, 3] uint8."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet[y * (height + gap) :, x * (width + gap) :][:height, :width] = picture
    return sheet


def _outlines(numbers: np.ndarray) -> np.ndarray:
    """The pixels within about 1/600 of the long side of another number: [H, W] uint8, 255 for those."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge = cv2.compare(cv2.dilate(numbers, cross), cv2.erode(numbers, cross), cv2.CMP_NE)
    thickness = max(1, round(max(numbers.shape) / 600))
    return cv2.dilate(edge, np.ones((2 * thickness - 1,) * 2, np.uint8))


def _with_names(
    coloured: np.ndarray, semantic_map: np.ndarray, labels: Mapping[int, str], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Write each name at the widest place of its class, if it is wide enough: small garments stay uncovered."""
    picture = Image.fromarray(coloured)
    draw = ImageDraw.Draw(picture)
    for index, label in labels.items():
        inside = (semantic_map == index).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(inside)
        inside = np.pad(inside[top : top + height, left : left + width], 1)  # the image border ends a class too
        _, depth, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(inside, cv2.DIST_L2, 3))
        x, y = left + x - 1, top + y - 1
        if font.getlength(label) <= 2.5 * depth:
            stroke = max(1, round(font.size / 10))
            draw.text((x, y), label, "white", font, anchor="mm", stroke_width=stroke, stroke_fill="black")
    return picture


def _legend(labels: Mapping[int, str], font: ImageFont.FreeTypeFont, colours: np.ndarray, *, least_height: int) -> Image.Image:
    """Swatches and names, in as many columns as the height asks for."""
    size = round(font.size)
    row = round(1.6 * size)
    names = {index: _shortened(label, font, 16 * size) for index, label in labels.items()}
    column = round(max(font.getlength(name) for name in names.values())) + 3 * size
    rows = max(1, least_height // row)
    strip = Image.new("RGB", (column * -(-len(names) // rows), max(least_height, row)), "white")
    draw = ImageDraw.Draw(strip)
    for place, name in enumerate(names.values()):
        left, middle = place // rows * column + size // 2, place % rows * row + row // 2
        swatch = (left, middle - size // 2, left + size, middle - size // 2 + size)
        draw.rectangle(swatch, fill=tuple(colours[place].tolist()), outline="grey")
        draw.text((left + 3 * size // 2, middle), name, fill="black", font=font, anchor="lm")
    return strip


def _shortened(label: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The label itself if it fits the width in px, else its beginning with an ellipsis."""
    if font.getlength(label) <= width:
        return label
    while font.getlength(label + "…") > width:
        label = label[:-1]
    return label.rstrip() + "…"


def drawable(name: str) -> str:
    """The name on one line without what the font cannot draw; empty if no letter or digit is left."""
    kept = "".join(c if ord(c) in _drawable_characters() else " " for c in unicodedata.normalize("NFC", name))
    return " ".join(kept.split()) if any(c.isalnum() for c in kept) else ""


@cache
def _drawable_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_font_path()).get_charmap())


def _font_path() -> str:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has hardly more than ASCII."""
    import matplotlib  # takes time to import, and many commands draw nothing

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
