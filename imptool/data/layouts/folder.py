"""`folder`: `images/` or `photos/`, and `labels/` with PNGs of the same stems; subfolders are followed."""

from __future__ import annotations

from pathlib import Path

from imptool.data.layouts.pairs import Item, pair_by_stem, photo_folder
from imptool.files import InputError


def find_items(root: Path) -> list[Item]:
    """Pair the photographs of a folder with its label PNGs."""
    photos, labels = photo_folder(root), root / "labels"
    if not labels.is_dir():
        raise InputError(f"{root} has no folder labels/: expected PNGs with the stems of {photos.name}/ in it")
    maps = {path.relative_to(labels).with_suffix("").as_posix(): path for path in sorted(labels.rglob("[!.]*.png"))}
    return pair_by_stem(photos, maps, expected=str(labels / "{stem}.png"))
