"""`folder`: `images/` or `photos/`, and `labels/` with PNGs of the same stems; subfolders are followed.

Other folder names (`photographs`, `labels`; or one for each split), endings (`suffixes: [_img.jpg, _gt.png]`) and colours in
place of ids (`colours`) are stated in a dataset YAML. Without images the label maps stand alone.
"""

from __future__ import annotations

from pathlib import Path

from imptool.data.layouts.pairs import Found, Where, join_splits, label_maps, pair_by_stem, photo_folder, under
from imptool.files import InputError, some

KEYS = frozenset({"photographs", "labels", "suffixes", "colours"})


def find_items(root: Path, where: Where) -> Found:
    """Pair the images of a folder, or of a folder for each split, with its label PNGs."""
    photographs, labels = where.photographs, where.labels
    if not isinstance(photographs, dict) and not isinstance(labels, dict):
        return _find(root, photographs, labels, where)
    if not isinstance(photographs, dict) or not isinstance(labels, dict) or photographs.keys() != labels.keys():
        raise InputError(
            "images and labels: where each split has a folder of its own, name both for every split, such as "
            "photographs: {train: train/images}, labels: {train: train/labels}"
        )
    found = {split: _find(root, photographs[split], labels[split], where) for split in photographs}
    joined = join_splits({split: (root / photographs[split], part.items) for split, part in found.items()})
    splits = {split: [item.stem for item in items] for split, items in joined.items()}
    return Found([item for items in joined.values() for item in items], splits=splits)


def _hint(root: Path) -> str:
    """What else may be meant: a COCO JSON somewhere below."""
    found = next((path for path in sorted(root.glob("[!.]*/**/[!.]*.json")) if path.is_file()), None)
    where = found.relative_to(root).as_posix() if found else ""
    return f"; if {where} is COCO's, name that (layout: coco, annotations: {{train: {where}}})" if found else ""


def _find(root: Path, photographs: str | None, labels_named: str | None, where: Where) -> Found:
    photos = photo_folder(root, photographs)
    labels = root / "labels" if labels_named is None else under(root, labels_named)
    if not labels.is_dir():
        there = some(sorted(f"{path.name}/" for path in root.glob("[!.]*/")))
        raise InputError(
            f"{root} has no folder labels/: expected PNGs with the stems of {photos.name}/ in it; it holds "
            f"{there or 'no folders'}: name the one of the label maps in a dataset YAML (layout: folder, labels: ...)"
            f"{_hint(root)}"
        )
    image_suffix, label_suffix = where.suffixes or (None, ".png")
    maps = label_maps(labels, label_suffix)
    expected = str(labels / "{stem}") + label_suffix
    return Found(pair_by_stem(photos, maps, expected=expected, suffix=image_suffix, colours=where.colours))
