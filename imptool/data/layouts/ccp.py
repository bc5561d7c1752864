"""`ccp`: Clothing Co-Parsing as published (`.mat` maps), or with its maps as `labels/NNNN.png`, which win where both are.

Yang, Luo, Lin: Clothing Co-Parsing by Joint Image Segmentation and Labeling (CVPR 2014).
"""

from __future__ import annotations

from pathlib import Path

from imptool.data.layouts.pairs import Found, Where, label_maps, pair_by_stem, photo_folder
from imptool.files import InputError

KEYS: frozenset[str] = frozenset()
_MAT_FOLDERS = ("pixel-level", "annotations/pixel-level")
_TAG_FOLDERS = ("image-level", "annotations/image-level")


def find_items(root: Path, where: Where) -> Found:
    """Pair CCP's images with their maps; images that have image tags only are no part of the dataset."""
    photos = photo_folder(root, None, ("photos",))
    maps = {path.stem: path for name in _MAT_FOLDERS for path in sorted((root / name).glob("*.mat"))}
    maps |= label_maps(root / "labels") if (root / "labels").is_dir() else {}
    if not maps:
        raise InputError(f"{root} has no label maps: expected labels/*.png or annotations/pixel-level/*.mat")
    tagged_only = {path.stem for name in _TAG_FOLDERS for path in (root / name).glob("*.mat")} - maps.keys()
    items = pair_by_stem(photos, maps, expected=f"{root}/labels/{{stem}}.png or annotations/pixel-level/{{stem}}.mat")
    return Found([item for item in items if item.stem not in tagged_only])
