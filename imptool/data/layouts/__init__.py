"""Source layouts: how photographs and their label maps lie on disk. A new layout is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imptool.data.layouts import ccp, cityscapes, folder
from imptool.data.layouts.pairs import Item

LAYOUTS: dict[str, Callable[[Path], list[Item]]] = {
    "folder": folder.find_items,
    "ccp": ccp.find_items,
    "cityscapes": cityscapes.find_items,
}

__all__ = ["LAYOUTS", "Item"]
