"""`cityscapes`: as published, with the maps of train ids that cityscapesScripts make; true instances from `instanceIds`.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding (CVPR 2016).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from imptool.data.images import read_label_map
from imptool.data.layouts.pairs import Found, Item, Where
from imptool.files import InputError

KEYS: frozenset[str] = frozenset()
_IMAGE, _LABEL, _NUMBERS = "_leftImg8bit.png", "_gtFine_labelTrainIds.png", "_gtFine_instanceIds.png"


def find_items(root: Path, where: Where) -> Found:
    """Pair leftImg8bit/<split>/<city>/*_leftImg8bit.png with its maps under gtFine/; stems are <split>/<city>/<name>."""
    images, labels = root / "leftImg8bit", root / "gtFine"
    if not labels.is_dir():
        raise InputError(f"{root} has no folder {labels.name}/: expected Cityscapes as published")
    stems = {path.relative_to(images).as_posix().removesuffix(_IMAGE) for path in images.glob(f"*/*/[!.]*{_IMAGE}")}
    labelled = {path.relative_to(labels).as_posix().removesuffix(_LABEL) for path in labels.glob(f"*/*/[!.]*{_LABEL}")}
    items = []
    for stem in sorted(stems | labelled):
        image, label, numbers = images / f"{stem}{_IMAGE}", labels / f"{stem}{_LABEL}", labels / f"{stem}{_NUMBERS}"
        problem = ""
        if stem not in labelled:
            problem = f"{image} has no label map: expected {label}, which cityscapesScripts make"
        elif stems and stem not in stems:
            problem = f"{label} has no photograph: expected {image}"
        told_apart = numbers.is_file()
        items.append(
            Item(
                stem,
                image,
                image if stem not in labelled else label,
                problem,
                read_numbers=partial(_read_numbers, numbers) if told_apart else None,
                more_labels=(numbers,) if told_apart else (),
            )
        )
    folders: dict[str, list[str]] = {}
    for item in items:
        folders.setdefault(item.stem.partition("/")[0], []).append(item.stem)
    return Found(items, splits=folders)


def _read_numbers(path: Path, max_pixels: int) -> np.ndarray:
    """class id * 1000 + number for each instance; a bare class id marks stuff, and groups that nobody told apart."""
    numbers = read_label_map(path, max_pixels=max_pixels)
    return np.where(numbers >= 1000, numbers, 0)
