"""`folder`: `images/` or `photos/`, and `labels/` with PNGs of the same stems; subfolders are followed.

Other folder names (`photographs`, `labels`), endings (`suffixes: [_img.jpg, _gt.png]`) and colours in place of ids (`colours`)
are stated in a dataset YAML. Without photographs the label maps stand alone.
"""

from __future__ import annotations

from pathlib import Path

from imptool.data.layouts.pairs import Found, Where, label_maps, pair_by_stem, photo_folder, under
from imptool.files import InputError

KEYS = frozenset({"photographs", "labels", "suffixes", "colours"})


def find_items(root: Path, where: Where) -> Found:
    """Pair the photographs of a folder with its label PNGs."""
    photos, labels = photo_folder(root, where), root / "labels"
    if where.labels is not None:
        labels = under(root, where.labels)
    if not labels.is_dir():
        raise InputError(f"{root} has no folder labels/: expected PNGs with the stems of {photos.name}/ in it")
    image_suffix, label_suffix = where.suffixes or (None, ".png")
    maps = label_maps(labels, label_suffix)
    expected = str(labels / "{stem}") + label_suffix
    return Found(pair_by_stem(photos, maps, expected=expected, suffix=image_suffix, colours=where.colours))
