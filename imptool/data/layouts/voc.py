"""`voc`: Pascal VOC as published, with true instances where `SegmentationObject/` has a map.

Everingham et al.: The Pascal Visual Object Classes Challenge (IJCV 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from imptool.data.images import read_instance_numbers
from imptool.data.layouts.lists import match_lines, read_list
from imptool.data.layouts.names import match_names
from imptool.data.layouts.pairs import Found, Item, Where, label_maps, pair_by_stem
from imptool.files import InputError, some

KEYS = frozenset({"colours"})


def find_items(root: Path, where: Where) -> Found:
    """JPEGImages/*.jpg with SegmentationClass/*.png and, where it is there, SegmentationObject/*.png.

    The splits are those of ImageSets/Segmentation/*.txt, less those that join others (trainval).
    """
    photos, folder = root / "JPEGImages", root / "SegmentationClass"
    if not folder.is_dir():
        raise InputError(f"{root} has no folder {folder.name}/: expected Pascal VOC as published")
    maps = label_maps(folder)
    objects = label_maps(root / "SegmentationObject") if (root / "SegmentationObject").is_dir() else {}
    pairs = pair_by_stem(photos, maps, expected=str(folder / "{stem}.png"), colours=where.colours)
    # Most of VOC's images have boxes only, and are no part of this dataset.
    items = [item for item in pairs if item.label != item.image]
    if not items:
        raise InputError(f"{folder} has no label maps: expected PNGs with the stems of {photos.name}/")
    stems = [item.stem for item in items]
    numbers = {stem: objects[name] for name, stem in match_names(objects, stems, suffixes=False).found.items()}
    splits, remarks = _splits(root, items)
    return Found([_with_objects(item, numbers.get(item.stem)) for item in items], splits=splits, remarks=tuple(remarks))


def _with_objects(item: Item, numbers: Path | None) -> Item:
    return replace(item, read_numbers=partial(_read_numbers, numbers), more_labels=(numbers,)) if numbers else item


def _read_numbers(path: Path, max_pixels: int) -> np.ndarray:
    return read_instance_numbers(path, max_pixels=max_pixels)


def _splits(root: Path, items: Sequence[Item]) -> tuple[dict[str, list[str]] | None, list[str]]:
    """VOC lists stems that have no map in some releases; they are no part of the split, which a remark says."""
    parts: dict[str, list[str]] = {}
    remarks = []
    lost = ""
    for path in sorted((root / "ImageSets" / "Segmentation").glob("[!.]*.txt")):
        lines = read_list(path)
        found = match_lines(lines, items, root).found
        missing = [line for line in lines if line not in found]
        if missing:
            remarks.append(f"{path}: {len(missing):,} of its {len(lines):,} lines name no label map: {some(missing, 1)}")
        members = [found[line].stem for line in lines if line in found]
        if members and path.stem != "trainval":
            parts[path.stem] = members
        elif lines and not members:
            expected = f"expected names such as {items[0].stem}, there is {lines[0]}"
            lost = lost or f"{path} names no image with a label map: {expected}"
    if lost and not parts:
        raise InputError(lost)
    return parts or None, remarks
