"""What all layouts give: photographs paired with their labels, how these are read, and what is wrong with a pair."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator

from imptool.data.components import Instances
from imptool.data.images import find_images, path_under, read_label_map
from imptool.data.label_set import MAX_ID, ClassInfo
from imptool.files import FileName, InputError, Strict

BACKGROUND_NAMES = frozenset({"background", "null", "bg", "_background_", "__background__"})
Id = Annotated[int, Field(ge=0, le=MAX_ID)]
Channel = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Item:
    """One photograph with its labels. `problem` says in one line why the pair cannot be used, "" when it can.

    `read_map(max_pixels)` gives the semantic map [H, W] in the source's ids. Of a source that tells instances of a class
    apart, `read_numbers(max_pixels)` gives the number [H, W] of each pixel's instance, 0 for none; or, where instances may
    cover each other, `read_instances(max_pixels)` gives them outright.
    """

    stem: str  # the path under the folder of photographs, without suffix, with "/"
    image: Path  # where the photograph is, or would be
    label: Path
    problem: str = ""
    read_map: Callable[[int], np.ndarray] | None = None  # None: `label` is a label map
    read_numbers: Callable[[int], np.ndarray] | None = None
    read_instances: Callable[[int], Instances] | None = None
    more_labels: tuple[Path, ...] = ()  # files that the labels are read from, beside `label`
    left_out: tuple[str, ...] = ()  # what is wrong with single annotations, which are left out
    image_id: int | None = None  # the source's own
    problem_kind: str = "pair"  # of `problem`, as `imptool inspect` sorts it
    contradictions: Callable[[int], list[str]] | None = None  # (max_pixels): what the source's JSON says other than its masks

    def read_source_map(self, max_pixels: int) -> np.ndarray:
        """The semantic map [H, W] in the source's ids; InputError when it cannot be read."""
        if self.problem:
            raise InputError(self.problem, kind=self.problem_kind)
        return self.read_map(max_pixels) if self.read_map else read_label_map(self.label, max_pixels=max_pixels)


@dataclass(frozen=True)
class Found:
    """What a layout finds in a dataset's folder.

    Attributes:
        items: the photographs.
        classes: the source's own class list, or None.
        background: the background's id in that list, or None.
        splits: {split: stems} as the source parts them, or None.
        nothing: the source id of pixels in no instance; it becomes the background, or ignored where there is none.
        void: the source id of pixels without label; it becomes the ignore id.
        notes: what a person should look at, though it costs no photograph.
    """

    items: list[Item]
    classes: list[ClassInfo] | None = None
    background: int | None = None
    splits: Mapping[str, Sequence[str]] | None = None
    nothing: int | None = None
    void: int | None = None
    notes: tuple[str, ...] = ()


class Where(Strict):
    """The part of a dataset YAML that says where things lie under the root; each layout knows some of the keys."""

    photographs: str | None = None  # folder
    labels: str | None = None  # folder
    suffixes: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=2, max_length=2
    )  # of photograph and label map
    colours: dict[Id, Annotated[list[Channel], Field(min_length=3, max_length=3)]] | None = None  # id: [R, G, B]
    annotations: dict[FileName, str] | None = Field(default=None, min_length=1)  # {split: JSON}

    @field_validator("colours")
    @classmethod
    def _no_colour_twice(cls, colours: dict[int, list[int]] | None) -> dict[int, list[int]] | None:
        seen: dict[tuple[int, ...], int] = {}
        for class_id, colour in (colours or {}).items():
            if tuple(colour) in seen:
                raise ValueError(f"{colour} is the colour of {seen[tuple(colour)]} and of {class_id}")
            seen[tuple(colour)] = class_id
        return colours


def photo_folder(root: Path, where: Where, names: tuple[str, ...] = ("images", "photos")) -> Path:
    """The folder of photographs that the description names, else the first of `names` that exists, else the first."""
    if where.photographs is not None:
        return under(root, where.photographs)
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def under(root: Path, folder: str) -> Path:
    """A folder that the description names; InputError when there is none."""
    if not (root / folder).is_dir():
        raise InputError(f"{root} has no folder {folder}")
    return root / folder


def label_maps(folder: Path, suffix: str = ".png") -> dict[str, Path]:
    """Stem -> label map, for every PNG under a folder whose name ends so, in small letters or capitals."""
    paths = [path for path in find_images(folder) if path.name.lower().endswith(suffix.lower())]
    return {path_under(folder, path)[: -len(suffix)]: path for path in paths}


def pair_by_stem(
    photos: Path,
    labels: Mapping[str, Path],
    *,
    expected: str,
    suffix: str | None = None,
    colours: Mapping[int, Sequence[int]] | None = None,
) -> list[Item]:
    """Pair every photograph with the label map of its stem, sorted by stem; a part without the other is a problem.

    Where there is no photograph at all the label maps stand alone.

    Args:
        photos: the folder of photographs.
        labels: stem -> label map.
        expected: where a label map is looked for, with "{stem}" in it; for the message about a missing one.
        suffix: what the names of photographs end in; None: any of the known ones.
        colours: {id: (R, G, B)} of label maps that are colour pictures.
    """
    reader = (lambda path: partial(read_coloured, path, colours)) if colours else (lambda path: None)
    images: dict[str, Path] = {}
    items: list[Item] = []
    for path in find_images(photos) if photos.is_dir() else ():
        name = path_under(photos, path)
        if suffix is not None and not name.lower().endswith(suffix.lower()):
            continue
        stem = name[: -len(suffix if suffix is not None else path.suffix)]
        label = labels.get(stem)
        if stem in images:
            other = images[stem].name
            items.append(Item(stem, path, label or path, f"{path} has the same stem as {other}: rename one of them"))
        elif label is None:
            wanted = expected.replace("{stem}", stem)
            items.append(Item(stem, path, path, f"{path} has no label map: expected {wanted}"))
        else:
            items.append(Item(stem, path, label, read_map=reader(label)))
        images.setdefault(stem, path)
    for stem in labels.keys() - images.keys():
        label, image = labels[stem], photos / f"{stem}{suffix or '.jpg'}"
        hint = image if suffix else f"{image} or .png"
        problem = f"{label} has no photograph: expected {hint}" if images else ""
        items.append(Item(stem, image, label, problem, read_map=reader(label)))
    return sorted(items, key=lambda item: (item.stem, item.image.name))


def read_coloured(path: Path, colours: Mapping[int, Sequence[int]], max_pixels: int) -> np.ndarray:
    """Read a label map whose pixels are colours."""
    return read_label_map(path, max_pixels=max_pixels, colours=colours)


def read_list(path: Path) -> list[str]:
    """The lines of a list of stems, without empty ones; InputError when it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as a list of stems: it is not UTF-8 text") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read as a list of stems: {reason}") from error


def free_id(used: Collection[int]) -> int:
    """The lowest id that is neither used nor 255, which is ignored by custom."""
    return next(number for number in range(MAX_ID + 1) if number not in used and number != 255)


def safe_path(folder: Path, name: object) -> Path:
    """A file in a folder by its name from a JSON; ValueError when it is none, or would lead out of the folder."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if not path.parts or not _is_file_name(str(name)):
        raise ValueError(f"the file name {name!r} is none: write a path under {folder.name}/")
    drive = os.name == "nt" and ":" in path.parts[0]
    if path.is_absolute() or ".." in path.parts or drive:
        raise ValueError(f"the file name {name!r} leads out of the dataset: write a path under {folder.name}/")
    return folder / path


def _is_file_name(name: str) -> bool:
    """Whether file systems take the name: without NUL, backslash and lone surrogates, no part longer than 255 bytes."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return "\0" not in name and "\\" not in name and max(map(len, parts)) <= 255 and len(name) < 2048
