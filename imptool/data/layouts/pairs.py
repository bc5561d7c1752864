"""What all layouts give: images paired with their labels, how these are read, and what is wrong with a pair."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import Discriminator, Field, Tag, field_validator

from imptool.data.components import Instances
from imptool.data.images import IMAGE_SUFFIXES, find_images, find_pictures, how_to_read, path_under, read_label_map
from imptool.data.label_set import MAX_ID, ClassInfo
from imptool.data.layouts.names import match_names
from imptool.files import FileName, InputError, Strict

BACKGROUND_NAMES = frozenset({"background", "null", "bg", "_background_", "__background__"})
Id = Annotated[int, Field(ge=0, le=MAX_ID)]
Channel = Annotated[int, Field(ge=0, le=255)]
Folders = Annotated[  # one, or {split: its own}
    Annotated[str, Tag("folder")] | Annotated[dict[FileName, str], Field(min_length=1), Tag("splits")],
    Discriminator(lambda value: "splits" if isinstance(value, dict) else "folder"),
]

_DRIVE = re.compile(r"[A-Za-z]:$")
_LABEL_FOLDER = re.compile(
    r"(annotations?|gt|gts|gtfine|gtcoarse|instances?|labels?|masks?|overlays?|panoptic|semantic|segmentation\w*)([-_. 0-9].*)?"
)


@dataclass(frozen=True)
class Item:
    """One image with its labels. `problem` says in one line why the pair cannot be used, "" when it can.

    `read_map(max_pixels)` gives the semantic map [H, W] in the source's ids. Of a source that tells instances of a class
    apart, `read_numbers(max_pixels)` gives the number [H, W] of each pixel's instance, 0 for none; or, where instances may
    cover each other, `read_instances(max_pixels)` gives them outright. Where it has instances without a mask,
    `read_unknown(max_pixels)` gives their regions, as crowds.
    """

    stem: str  # the path under the folder of images, without suffix, with "/"
    image: Path  # where the image is, or would be
    label: Path
    problem: str = ""
    read_map: Callable[[int], np.ndarray] | None = None  # None: `label` is a label map
    read_numbers: Callable[[int], np.ndarray] | None = None
    read_instances: Callable[[int], Instances] | None = None
    read_unknown: Callable[[int], Instances] | None = None
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
        items: the images.
        classes: the source's own class list, or None.
        background: the background's id in that list, or None.
        splits: {split: stems} as the source parts them, or None.
        nothing: the source id of pixels in no instance; it becomes the background, or ignored where there is none.
        void: the source id of pixels without label; it becomes the ignore id.
        notes: what a person should look at, though it costs no image.
        lost: why nothing is left of the labels of a split, in a line; "" where something is.
        remarks: what a person should know, though nothing is wrong.
    """

    items: list[Item]
    classes: list[ClassInfo] | None = None
    background: int | None = None
    splits: Mapping[str, Sequence[str]] | None = None
    nothing: int | None = None
    void: int | None = None
    notes: tuple[str, ...] = ()
    lost: str = ""
    remarks: tuple[str, ...] = ()


class Where(Strict):
    """The part of a dataset YAML that says where things lie under the root; each layout knows some of the keys."""

    photographs: Folders | None = None
    labels: Folders | None = None
    suffixes: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, min_length=2, max_length=2
    )  # of image and label map
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


def folder_of_split(folders: Folders | None, split: str) -> str | None:
    """The folder that a description names for a split, None when it names none."""
    return folders.get(split) if isinstance(folders, dict) else folders


def photo_folder(root: Path, folder: str | None, names: tuple[str, ...] = ("images", "photos")) -> Path:
    """The folder of images that the description names, else the first of `names` that exists, else the first."""
    if folder is not None:
        return under(root, folder)
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def under(root: Path, folder: str) -> Path:
    """A folder that the description names; InputError when there is none."""
    if not (root / folder).is_dir():
        raise InputError(f"{root} has no folder {folder}")
    return root / folder


def is_there(path: Path) -> bool:
    """Whether an image is there, be it readable or not: a link to nothing is told when it is read."""
    return os.path.lexists(path) and not path.is_dir()


def pictures_in(folder: Path, *, besides: Collection[Path] = ()) -> list[str]:
    """The pictures under a folder that may be images, as paths under it: none of `besides`, none in folders of labels."""
    if not folder.is_dir():
        return []
    names = [path_under(folder, path) for path in find_images(folder) if path not in besides]
    return [name for name in names if not any(is_label_folder(part) for part in name.split("/")[:-1])]


def is_label_folder(name: str) -> bool:
    """Whether a folder is called as those of label maps, and of pictures of them, are."""
    return _LABEL_FOLDER.fullmatch(name.lower()) is not None


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
    """Pair every image with the label map of its stem, sorted by stem; a part without the other is a problem.

    Stems are those of the images; `match_names` says what may differ. Where there is no image at all the label maps
    stand alone.

    Args:
        photos: the folder of images.
        labels: stem -> label map.
        expected: where a label map is looked for, with "{stem}" in it; for the message about a missing one.
        suffix: what the names of images end in; None: any of the known ones.
        colours: {id: (R, G, B)} of label maps that are colour pictures.
    Raises:
        InputError: there are images, and no label map fits any of them.
    """
    reader = (lambda path: partial(read_coloured, path, colours)) if colours else (lambda path: None)
    images: dict[str, Path] = {}
    items: list[Item] = []
    found, unread = find_pictures(photos) if photos.is_dir() else ([], [])
    unreadable = {path_under(photos, path)[: -len(path.suffix)]: path for path in unread}
    for path in found:
        name = path_under(photos, path)
        if suffix is not None and not name.lower().endswith(suffix.lower()):
            continue
        stem = name[: -len(suffix if suffix is not None else path.suffix)]
        if stem in images:
            problem = f"{path} has the same stem as {images[stem].name}: rename one of them"
            items.append(Item(stem, path, labels.get(stem, path), problem))
        images.setdefault(stem, path)
    matches = match_names(labels, images, suffixes=False)
    if images and not matches.found:
        raise InputError(_nothing_fits(photos, images, labels, expected))
    label_of = {stem: labels[name] for name, stem in matches.found.items()}
    for stem, path in images.items():
        if stem in label_of:
            items.append(Item(stem, path, label_of[stem], read_map=reader(label_of[stem])))
        else:
            items.append(Item(stem, path, path, f"{path} has no label map: expected {expected.replace('{stem}', stem)}"))
    for stem in labels.keys() - matches.found.keys():
        label, image = labels[stem], photos / f"{stem}{suffix or '.jpg'}"
        hint = matches.unclear.get(stem) or f"expected {image if suffix else f'{image} or .png'}"
        problem = f"{label} has no image: {hint}" if images else ""
        if stem in unreadable:
            image = unreadable[stem]
            problem = f"{image}: its format is not read here; {how_to_read([image])}"
        items.append(Item(stem, image, label, problem, read_map=reader(label)))
    return sorted(items, key=lambda item: (item.stem, item.image.name))


def _nothing_fits(photos: Path, images: Mapping[str, Path], labels: Mapping[str, Path], expected: str) -> str:
    """What was looked for, what is there in its place, and how that would be read."""
    stem, image = next(iter(images.items()))
    wanted = expected.replace("{stem}", stem)
    if labels:
        nearest_stem = max(labels, key=partial(_shared_length, stem))
        folder = labels[nearest_stem].parents[nearest_stem.count("/")]
        line = f"none of the {len(labels)} label maps in {folder} fits an image: expected {wanted} for {image}"
        suffixes = _fitting_suffixes(images, labels, stem, nearest_stem)
        hint = _as_folder(photos, folder, f", suffixes: [{', '.join(suffixes)}]") if suffixes else ""
        return f"{line}, there is {labels[nearest_stem]}{hint}"
    folder = Path(expected).parent
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    line = f"{folder} holds no label map: expected {wanted} for {image}, " + (
        f"there is {files[0]}" if files else "it is empty"
    )
    if files and files[0].suffix.lower() in IMAGE_SUFFIXES:
        line += "; JPEG and its like change ids: save label maps as PNG"
    elif files:
        line += "; only PNGs are read there: export label maps as PNG, or instances as COCO JSON"
    others = sorted(folder.parent.glob(f"*/{glob.escape(stem)}.png"))
    other = next((folder.parent / path.relative_to(folder.parent).parts[0] for path in others if path != image), None)
    return line + (_as_folder(photos, other) if other else "")


def _as_folder(photos: Path, labels: Path, more: str = "") -> str:
    """The advice to describe images and label maps in the layout `folder`."""
    root = os.path.commonpath([os.path.abspath(photos), os.path.abspath(labels)])
    names = [Path(os.path.relpath(folder, root)).as_posix() for folder in (photos, labels)]
    return f"; a dataset YAML reads them (layout: folder, photographs: {names[0]}, labels: {names[1]}{more})"


def _fitting_suffixes(images: Mapping[str, Path], labels: Mapping[str, Path], image_stem: str, label_stem: str) -> list[str]:
    """The `suffixes` that would pair images and label maps as these two, if they would pair half of them."""
    shared = _shared_length(image_stem, label_stem)
    ends = image_stem[shared:], label_stem[shared:]
    paired = sum(stem.endswith(ends[0]) and stem.removesuffix(ends[0]) + ends[1] in labels for stem in images)
    if not shared or 2 * paired < len(images) or labels[label_stem].suffix.lower() != ".png":
        return []
    return [
        end + path.name.removeprefix(stem.rpartition("/")[2])
        for end, stem, path in zip(ends, (image_stem, label_stem), (images[image_stem], labels[label_stem]), strict=True)
    ]


def _shared_length(one: str, other: str) -> int:
    """How many characters two names begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def join_splits(found: Mapping[str, tuple[Path, Sequence[Item]]]) -> dict[str, list[Item]]:
    """The items of splits, with stems under the folder that holds all images, since names may stand in several splits.

    Args:
        found: {split: the folder of its images, its items with stems under that}.
    """
    folders = {split: os.path.abspath(folder) for split, (folder, _) in found.items()}
    common = os.path.commonpath(folders.values())
    joined = {}
    for split, (_, items) in found.items():
        before = Path(os.path.relpath(folders[split], common)).as_posix()
        joined[split] = [item if before == "." else replace(item, stem=f"{before}/{item.stem}") for item in items]
    return joined


def read_coloured(
    path: Path, colours: Mapping[int, Sequence[int]], max_pixels: int, *, stated_in: str = "'colours'"
) -> np.ndarray:
    """Read a label map whose pixels are colours."""
    return read_label_map(path, max_pixels=max_pixels, colours=colours, stated_in=stated_in)


def free_id(used: Collection[int]) -> int:
    """The lowest id that is neither used nor 255, which is ignored by custom."""
    return next(number for number in range(MAX_ID + 1) if number not in used and number != 255)


def safe_path(folder: Path, name: object) -> Path:
    """A file in a folder by its name from a JSON, in which "\\" parts folders as "/" does.

    Raises:
        ValueError: it is none, or would lead out of the folder.
    """
    path = PurePosixPath(name.replace("\\", "/")) if isinstance(name, str) else PurePosixPath()
    if not path.parts or not _is_file_name(path.as_posix()):
        raise ValueError(f"the file name {name!r} is none: write a path under {folder.name}/")
    drive = ":" in path.parts[0] if os.name == "nt" else _DRIVE.match(path.parts[0])
    if path.is_absolute() or ".." in path.parts or drive:
        raise ValueError(f"the file name {name!r} leads out of the dataset: write a path under {folder.name}/")
    return folder / path


def _is_file_name(name: str) -> bool:
    """Whether file systems take the name: without NUL and lone surrogates, no part longer than 255 bytes."""
    try:
        parts = name.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return "\0" not in name and max(map(len, parts)) <= 255 and len(name) < 2048
