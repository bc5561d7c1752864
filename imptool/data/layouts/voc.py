"""`voc`: Pascal VOC as published, with true instances where `SegmentationObject/` has a map.

Everingham et al.: The Pascal Visual Object Classes Challenge (IJCV 2010).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from imptool.data.images import read_label_map
from imptool.data.layouts.pairs import Found, Item, Where, label_maps, pair_by_stem, read_list
from imptool.files import InputError

KEYS: frozenset[str] = frozenset()
BORDER = 255  # around each object; also for pixels that are difficult


def find_items(root: Path, where: Where) -> Found:
    """JPEGImages/*.jpg with SegmentationClass/*.png and, where it is there, SegmentationObject/*.png.

    The splits are those of ImageSets/Segmentation/*.txt, less those that join others (trainval).
    """
    photos, folder = root / "JPEGImages", root / "SegmentationClass"
    if not folder.is_dir():
        raise InputError(f"{root} has no folder {folder.name}/: expected Pascal VOC as published")
    maps = label_maps(folder)
    objects = label_maps(root / "SegmentationObject") if (root / "SegmentationObject").is_dir() else {}
    pairs = pair_by_stem(photos, maps, expected=str(folder / "{stem}.png"))
    # Most of VOC's photographs have boxes only, and are no part of this dataset.
    items = [_with_objects(item, objects.get(item.stem)) for item in pairs if item.stem in maps]
    return Found(items, splits=_splits(root, {item.stem for item in items}))


def _with_objects(item: Item, numbers: Path | None) -> Item:
    return replace(item, read_numbers=partial(_read_numbers, numbers), more_labels=(numbers,)) if numbers else item


def _read_numbers(path: Path, max_pixels: int) -> np.ndarray:
    numbers = read_label_map(path, max_pixels=max_pixels)
    return np.where(numbers == BORDER, 0, numbers)


def _splits(root: Path, stems: set[str]) -> dict[str, list[str]] | None:
    """VOC lists stems that have no map in some releases; they are no part of the split."""
    parts = {}
    for path in sorted((root / "ImageSets" / "Segmentation").glob("[!.]*.txt")):
        members = [stem for stem in read_list(path) if stem in stems]
        if members and path.stem != "trainval":
            parts[path.stem] = members
    return parts or None
