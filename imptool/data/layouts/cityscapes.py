"""`cityscapes`: as published, with the maps of train ids that cityscapesScripts make.

Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding (CVPR 2016).
"""

from __future__ import annotations

from pathlib import Path

from imptool.data.layouts.pairs import Item
from imptool.files import InputError

_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelTrainIds.png"


def find_items(root: Path) -> list[Item]:
    """Pair leftImg8bit/<split>/<city>/*_leftImg8bit.png with its map under gtFine/; stems are <split>/<city>/<name>."""
    images, labels = root / "leftImg8bit", root / "gtFine"
    for folder in (images, labels):
        if not folder.is_dir():
            raise InputError(f"{root} has no folder {folder.name}/: expected Cityscapes as published")
    items = []
    for image in sorted(images.glob(f"*/*/[!.]*{_IMAGE}")):
        stem = image.relative_to(images).as_posix().removesuffix(_IMAGE)
        label = labels / f"{stem}{_LABEL}"
        problem = "" if label.is_file() else f"{image} has no label map: expected {label}, which cityscapesScripts make"
        items.append(Item(stem, image, label if label.is_file() else image, problem))
    return items
