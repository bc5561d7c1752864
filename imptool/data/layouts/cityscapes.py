"""`cityscapes`: as published, with the maps of train ids that cityscapesScripts make; true instances from `instanceIds`.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding (CVPR 2016).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from imptool.data.images import read_label_map
from imptool.data.layouts.pairs import Found, Item, Where, label_maps, pair_by_stem
from imptool.files import InputError

KEYS: frozenset[str] = frozenset()
_IMAGE, _LABEL, _NUMBERS = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_instanceIds.png"


def find_items(root: Path, where: Where) -> Found:
    """Pair leftImg8bit/<split>/<city>/*_leftImg8bit.png with its maps under gtFine/; stems are <split>/<city>/<name>."""
    images, labels = root / "leftImg8bit", root / "gtFine"
    if not labels.is_dir():
        raise InputError(f"{root} has no folder {labels.name}/: expected Cityscapes as published")
    expected = f"{labels}/{{stem}}{_LABEL}, which cityscapesScripts make"
    pairs = pair_by_stem(images, label_maps(labels, _LABEL), expected=expected, suffix=_IMAGE)
    items = [_with_numbers(item) for item in pairs]
    folders: dict[str, list[str]] = {}
    for item in items:
        folders.setdefault(item.stem.partition("/")[0], []).append(item.stem)
    return Found(items, splits=folders)


def _with_numbers(item: Item) -> Item:
    numbers = item.label.with_name(item.label.name[: -len(_LABEL)] + _NUMBERS)
    if item.label == item.image or not numbers.is_file():
        return item
    return replace(item, read_numbers=partial(_read_numbers, numbers), more_labels=(numbers,))


def _read_numbers(path: Path, max_pixels: int) -> np.ndarray:
    """class id * 1000 + number for each instance; a bare class id marks stuff, and groups that nobody told apart."""
    numbers = read_label_map(path, max_pixels=max_pixels)
    return np.where(numbers >= 1000, numbers, 0)
