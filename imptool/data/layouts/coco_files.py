"""Where COCO's JSON files and the images that they list lie, as tools unzip them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imptool.data.images import IMAGE_SUFFIXES, path_under
from imptool.data.layouts.names import match_names
from imptool.data.layouts.pairs import (
    Item,
    Where,
    folder_of_split,
    is_label_folder,
    is_there,
    join_splits,
    pictures_in,
    safe_path,
    under,
)
from imptool.files import InputError

_RESULTS = ("metrics.json", "problems.json")  # of eval and inspect, beside their plots
_PHOTOGRAPHS = ("images", "data")  # folders of images beside or under that of a split; FiftyOne's is data/
_WORDS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}  # of splits, as they are called as well
_KINDS = ("instances_", "panoptic_", "captions_", "person_keypoints_", "stuff_", "image_info_")  # of COCO's files


def annotation_files(root: Path, where: Where, kind: str) -> dict[str, Path]:
    """{split: JSON}: those of the description, else all in `annotations/`, else all in the root, else one beside images.

    Of what COCO lays together, files of another kind than `kind` ("instances_", "panoptic_") are left out.
    """
    if where.annotations is not None:
        try:
            return {split: safe_path(root, name) for split, name in where.annotations.items()}
        except ValueError as error:
            raise InputError(f"annotations: {error}") from error
    found = find_jsons(root, kind)
    if not found:
        raise InputError(
            f"{root} has no JSON of annotations: put it there, or name it in a dataset YAML (annotations: {{train: a.json}})"
        )
    if not isinstance(where.photographs, dict):
        return found
    named = {
        split: [path for path in found.values() if not {split, Path(folder).name}.isdisjoint(_names_of(path))]
        for split, folder in where.photographs.items()
    }
    unclear = [split for split, paths in named.items() if len(paths) != 1]
    if unclear:
        files = ", ".join(path.relative_to(root).as_posix() for path in found.values())
        raise InputError(
            f"photographs: which of {files} is the JSON of '{unclear[0]}'? Name it (annotations: {{{unclear[0]}: a.json}})"
        )
    return {split: paths[0] for split, paths in named.items()}


def find_jsons(root: Path, kind: str = "instances_") -> dict[str, Path]:
    """{name: JSON} in a folder as tools unzip it; empty where there is none.

    As COCO and CVAT have them in annotations/, or in the folder itself; or as Roboflow has them, one beside the images
    of each split.
    """
    for folder in (root / "annotations", root):
        found = _of_kind(folder, kind)
        if found:
            return {path.stem: path for path in found}
    for base in (root, root / "images"):
        folders = {path.name: path for path in sorted(base.glob("[!.]*/")) if _holds_pictures(path)}
        beside = {name: _of_kind(path, kind) or _of_kind(path / "annotations", kind) for name, path in folders.items()}
        single = {name: paths[0] for name, paths in beside.items() if len(paths) == 1}
        if single:
            return single
    return {}


def _of_kind(folder: Path, kind: str) -> list[Path]:
    found = sorted(path for path in folder.glob("[!.]*.json") if path.name not in _RESULTS)
    others = tuple(other for other in _KINDS if other != kind)
    return [path for path in found if not path.name.startswith(others)] or found


def _holds_pictures(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _PHOTOGRAPHS) or any(
        path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()
    )


def photo_root(
    root: Path, where: Where, split: str, path: Path, rows: Sequence[Any], *, besides: Collection[Path] = ()
) -> Path:
    """The folder that the file names of a JSON are relative to: of those where tools lay images, that with most of them.

    Looked for in images/, photos/ and the root (or in the folder that the description names): in the folder of the split
    there, beside the JSON, and outright.

    Args:
        rows: the JSON's images.
        besides: pictures that are no images.
    """
    named = folder_of_split(where.photographs, split)
    if isinstance(where.photographs, dict) and named is not None:
        return under(root, named)
    bases = [root / "images", root / "photos", root] if named is None else [under(root, named)]
    names_of_split = list(dict.fromkeys([split, *_names_of(path)]))
    parts = [part for name in names_of_split for part in (name, *(f"{name}/{inner}" for inner in _PHOTOGRAPHS))]
    stated = [folder for folder in (base / part for base in bases for part in parts) if folder.is_dir()]
    alike = _called_alike(root, names_of_split) if named is None and not stated else []
    folders = [*stated, *alike, *(base for base in bases if base.is_dir())]
    names = _some_names(rows)
    counts = [sum(is_there(folder / name) for name in names) for folder in folders]
    if any(counts):
        return folders[counts.index(max(counts))]
    fitting = (folder for folder in folders if match_names(names, pictures_in(folder, besides=besides)).found)
    return next(fitting, next(base for base in bases if base.is_dir()))


def _called_alike(root: Path, names: Sequence[str]) -> list[Path]:
    """Folders of images whose names have the word of a split in them, as imgs/train, validation or train_images have."""
    words = {word for name in names for word in _split_words(name)}
    folders = [*sorted(root.glob("[!.]*/")), *sorted(root.glob("[!.]*/[!.]*/"))]
    fitting = [folder for folder in folders if not words.isdisjoint(_split_words(folder.name))]
    return [folder for folder in fitting if not any(map(is_label_folder, folder.relative_to(root).parts))]


def _split_words(name: str) -> set[str]:
    words = {_WORDS.get(word, word) for word in re.split(r"[\W_\d]+", name.lower())}
    return words & {"train", "val", "test"}


def _names_of(path: Path) -> list[str]:
    """What the split of a JSON, and the folder of its images, may be called: train2017 of instances_train2017.json."""
    last = path.stem.rpartition("_")[2]
    beside = [] if is_label_folder(path.parent.name) else [path.parent.name]
    names = [
        *beside,
        path.stem,
        path.stem.removeprefix("instances_").removeprefix("panoptic_"),
        last,
        last.rstrip("0123456789"),
    ]
    return [name for name in dict.fromkeys(names) if name and not is_label_folder(name)]


def _some_names(rows: Sequence[Any]) -> list[str]:
    """Fifty file names of all parts of a list."""
    names = []
    for row in rows[:: max(len(rows) // 50, 1)]:
        try:
            names.append(safe_path(Path(), row.get("file_name") if isinstance(row, dict) else None).as_posix())
        except ValueError:  # told when its row is read
            continue
    return names


def once(item: Item, stems: set[str]) -> Item:
    """An item whose stem was there before has a problem."""
    if item.stem not in stems:
        stems.add(item.stem)
        return item
    return replace(
        item, problem=item.problem or f"{item.label} lists {item.image.name}, whose stem is there twice: keep one of them"
    )


def with_photographs(found: Mapping[str, tuple[Path, Sequence[Item]]]) -> tuple[list[Item], dict[str, list[str]]]:
    """The items of all splits with their images as they are called on disk, and {split: stems}.

    An image that is missing where others are there is a problem; where all are missing the labels stand alone.

    Args:
        found: {split: the folder of its images, its items}.
    Raises:
        InputError: a split has none of its images, though another one has; or all of them are those of another split.
    """
    joined = join_splits({split: (photos, _locate(items, photos)) for split, (photos, items) in found.items()})
    here = {split: any(item.image != item.label and is_there(item.image) for item in items) for split, items in joined.items()}
    stems: set[str] = set()
    whole: list[Item] = []
    for split, items in joined.items():
        if any(here.values()):
            missing = [item.image != item.label and not is_there(item.image) for item in items]
            if not here[split] and any(missing):
                raise InputError(_none_found(items[missing.index(True)], found[split][0]))
            items = [_lost(item) if lost else item for item, lost in zip(items, missing, strict=True)]
        if items and all(item.stem in stems for item in items):
            raise InputError(
                f"{items[0].label} lists the images of another split ({items[0].image.name}): where each split has a "
                f"folder of its own, name them in a YAML (images: {{{split}: folder, ...}}), else keep one of the files"
            )
        whole += [once(item, stems) for item in items]
    return whole, {split: [item.stem for item in items] for split, items in joined.items()}


def _locate(items: Sequence[Item], photos: Path) -> list[Item]:
    """Items whose images are not there by their very names, with the files that fit; another suffix is told."""
    names = [path_under(photos, item.image) if item.image != item.label else None for item in items]
    missing = {name: item.label for name, item in zip(names, items, strict=True) if name and not is_there(item.image)}
    if not missing:
        return list(items)
    taken = {name for name in names if name not in missing}
    there = [name for name in pictures_in(photos, besides={item.label for item in items}) if name not in taken]
    found, unclear = match_names(missing, there)
    located = []
    for name, item in zip(names, items, strict=True):
        if name in found:
            stated, image = item.image, photos / found[name]
            item = replace(item, image=image, stem=stem_under(photos, image))
            if stated.suffix.lower() != image.suffix.lower():  # it may be another picture, such as a mask
                line = f"{item.label}: {stated} is not there; {image}, of another suffix, is taken in its place"
                item = replace(item, left_out=(*item.left_out, line))
        elif name in unclear and not item.problem:
            item = replace(item, problem=f"{item.image} does not exist, though {item.label} lists it: {unclear[name]}")
        located.append(item)
    return located


def stem_under(folder: Path, path: Path) -> str:
    return path_under(folder, path).removesuffix(path.suffix)


def _lost(item: Item) -> Item:
    return item if item.problem else replace(item, problem=f"{item.image} does not exist, though {item.label} lists it")


def _none_found(item: Item, photos: Path) -> str:
    there = pictures_in(photos)
    found = f"there is {photos / there[0]}" if there else f"{photos} holds no image"
    return (
        f"none of the images that {item.label} lists was found: expected {item.image}, {found}; "
        "a dataset YAML names their folder (images: {train: folder, ...}), or the JSON files to read (annotations)"
    )
