"""Source layouts: how images and their labels lie on disk. A new layout is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from imptool.data.layouts import ccp, cityscapes, coco, coco_panoptic, folder, voc
from imptool.data.layouts.pairs import Found, Item, Where


class Layout(NamedTuple):
    """How a layout finds its items, and which keys of `Where` mean anything to it."""

    find_items: Callable[[Path, Where], Found]
    keys: frozenset[str]


LAYOUTS: dict[str, Layout] = {
    "folder": Layout(folder.find_items, folder.KEYS),
    "ccp": Layout(ccp.find_items, ccp.KEYS),
    "coco": Layout(coco.find_items, coco.KEYS),
    "voc": Layout(voc.find_items, voc.KEYS),
    "cityscapes": Layout(cityscapes.find_items, cityscapes.KEYS),
    "coco-panoptic": Layout(coco_panoptic.find_items, coco_panoptic.KEYS),
}

__all__ = ["LAYOUTS", "Found", "Item", "Where"]
