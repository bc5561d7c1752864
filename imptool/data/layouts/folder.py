"""`folder`: `images/` or `photos/`, and `labels/` with PNGs of the same stems; subfolders are followed."""

from __future__ import annotations

from pathlib import Path

from imptool.data.images import find_images
from imptool.data.layouts.pairs import Item, pair_by_stem, photo_folder
from imptool.files import InputError


def find_items(root: Path) -> list[Item]:
    """Pair the photographs of a folder with its label PNGs."""
    photos, labels = photo_folder(root), root / "labels"
    if not labels.is_dir():
        raise InputError(f"{root} has no folder labels/: expected PNGs with the stems of {photos.name}/ in it")
    pngs = [path for path in find_images(labels) if path.suffix.lower() == ".png"]
    maps = {path.relative_to(labels).with_suffix("").as_posix(): path for path in pngs}
    return pair_by_stem(photos, maps, expected=str(labels / "{stem}.png"))
