"""What all layouts give: photographs paired with label maps of the same stem, and what is wrong with a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imptool.data.images import find_images
from imptool.files import InputError


@dataclass(frozen=True)
class Item:
    """One photograph with its label map. `problem` says in one line why the pair cannot be used, "" when it can."""

    stem: str  # the path under the folder of photographs, without suffix, with "/"
    image: Path
    label: Path
    problem: str = ""


def photo_folder(root: Path, names: tuple[str, ...] = ("images", "photos")) -> Path:
    """The first of the folders `names` that exists under root; InputError when none does."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root} has no folder of photographs: expected {' or '.join(f'{name}/' for name in names)} in it")


def pair_by_stem(photos: Path, labels: Mapping[str, Path], *, expected: str) -> list[Item]:
    """Pair every photograph with the label map of its stem, sorted by stem; a part without the other is a problem.

    Args:
        photos: the folder of photographs.
        labels: stem -> label map.
        expected: where a label map is looked for, with "{stem}" in it; for the message about a missing one.
    """
    images: dict[str, Path] = {}
    items: list[Item] = []
    for path in find_images(photos):
        stem = path.relative_to(photos).with_suffix("").as_posix()
        label = labels.get(stem)
        if stem in images:
            other = images[stem].name
            items.append(Item(stem, path, label or path, f"{path} has the same stem as {other}: rename one of them"))
        elif label is None:
            wanted = expected.format(stem=stem)
            items.append(Item(stem, path, path, f"{path} has no label map: expected {wanted}"))
        else:
            items.append(Item(stem, path, label))
        images.setdefault(stem, path)
    for stem in labels.keys() - images.keys():
        label = labels[stem]
        items.append(Item(stem, label, label, f"{label} has no photograph: expected {photos / stem}.jpg or .png"))
    return sorted(items, key=lambda item: (item.stem, item.image.name))
