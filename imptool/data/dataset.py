"""Dataset descriptions: one YAML, or a plain folder, becomes classes and splits of photographs with label maps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from imptool.data.coco import split_instances
from imptool.data.components import Instances, UnknownIds, find_components, numbered_instances
from imptool.data.images import MAX_PIXELS, check_image
from imptool.data.label_set import MAX_ID, ClassInfo, IdTable, LabelSet
from imptool.data.layouts import LAYOUTS, Found, Item, Where
from imptool.data.layouts.pairs import BACKGROUND_NAMES, Id
from imptool.data.splits import RandomSplits, make_splits, strangers
from imptool.files import RECIPES, FileName, InputError, Strict, find_yaml, nearest, parse_strict, read_yaml

CLASS_LISTS = ("classes.txt", "label_list.txt")


class Generator(Strict):
    """What drew the pictures of a generated dataset; metrics made from it carry this along."""

    name: str
    version: int
    seed: int
    size: list[int] = Field(min_length=2, max_length=2)  # height, width
    count: int


class DatasetFile(Where):
    """A dataset YAML as it is written."""

    layout: str
    root: str
    name: FileName | None = None
    classes: list[ClassInfo] | None = Field(default=None, min_length=1)
    background: int | None = None  # written as null: there is none, whatever the classes are called
    ignore: Id = 255
    remap: dict[Id, Id] = {}
    left_right: list[Annotated[list[Id], Field(min_length=2, max_length=2)]] = []  # ids that change places in a mirror
    splits: dict[FileName, str] | None = Field(default=None, min_length=1)
    random_splits: RandomSplits | None = None
    generator: Generator | None = None

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> DatasetFile:
        if self.splits is not None and self.random_splits is not None:
            raise ValueError("give splits or random_splits, not both")
        if self.layout not in LAYOUTS:
            raise ValueError(f"unknown layout '{self.layout}'{nearest(self.layout, LAYOUTS)}")
        for key in Where.model_fields.keys() - LAYOUTS[self.layout].keys:
            if getattr(self, key) is not None:
                raise ValueError(f"'{key}' means nothing to the layout {self.layout}")
        return self


@dataclass(frozen=True)
class Dataset:
    """What a dataset YAML or folder describes, found on disk: nothing is read yet but names."""

    name: str
    source: Path  # the YAML or the folder
    root: Path
    labels: LabelSet
    remap: Mapping[int, int]
    splits: Mapping[str, tuple[Item, ...]]
    generator: Generator | None = None
    notes: tuple[str, ...] = ()  # what a person should look at, though it is no error
    has_photographs: bool = True  # without any, label maps are converted by themselves
    max_pixels: int = MAX_PIXELS  # of a photograph or label map

    @property
    def left_right(self) -> tuple[tuple[int, int], ...]:
        """Pairs of ids that change places in a mirror."""
        return self.labels.left_right or ()

    @cached_property
    def _id_of_source(self) -> IdTable:
        """Source id -> id after the remap; unknown where the id is in no class list."""
        table = np.full(MAX_ID + 1, -1, np.int64)
        known = [*self.labels.ids, self.labels.ignore]
        table[known] = known
        table[list(self.remap)] = list(self.remap.values())
        return IdTable(table)

    @cached_property
    def _channel_of_source(self) -> IdTable:
        """Source id -> channel; unknown where the id is in no class list."""
        ids = self._id_of_source.table
        channels = self.labels.to_channels(np.maximum(ids, 0).astype(np.uint16)[None])[0]
        return IdTable(np.where(ids < 0, -1, channels.astype(np.int64)))

    def split(self, name: str) -> tuple[Item, ...]:
        """The items of a split; InputError when there is none of that name or it is empty."""
        if name not in self.splits:
            raise InputError(
                f"{self.source} has no split '{name}'{nearest(name, self.splits)}; "
                f"a dataset YAML with 'random_splits' or 'splits' can make one"
            )
        if not self.splits[name]:
            raise InputError(f"{self.source}: the split '{name}' is empty")
        return self.splits[name]

    def read_labels(self, item: Item) -> np.ndarray:
        """Read and remap an item's semantic map: ids [H, W] uint8 or uint16, every one a class or the ignore id.

        Raises:
            InputError: the pair has a problem, a file is broken, sizes differ, or an id is in no class list.
        """
        source_ids = item.read_source_map(self.max_pixels)
        self.check_size(item, source_ids.shape)
        return self.remapped(source_ids, item)

    def read_channels(self, item: Item) -> np.ndarray:
        """Read an item's semantic map as channels [H, W], as `LabelSet.to_channels` has them; raises as `read_labels`."""
        source_ids = item.read_source_map(self.max_pixels)
        self.check_size(item, source_ids.shape)
        return self._looked_up(source_ids, self._channel_of_source, item)

    def read_instances(self, item: Item, *, connectivity: int, components: bool) -> Instances:
        """An item's instances: true ones where the source tells them apart, else the components of each class.

        Args:
            connectivity: 4 or 8, of components.
            components: part true instances into their components, too.
        Raises:
            InputError: as `read_labels`.
        """
        labels = self.labels
        if not item.problem and item.read_instances is not None:
            source = item.read_instances(self.max_pixels)
            self.check_size(item, source.size)
            found = replace(source, class_ids=self.remapped(source.class_ids[None], item)[0].astype(np.int64))
            found = found.rows(~np.isin(found.class_ids, self.no_instance))
            return split_instances(found, connectivity) if components else found
        if item.read_numbers is None:
            return self._read_components(item, connectivity)
        ids = self.read_labels(item)
        numbers = item.read_numbers(self.max_pixels)
        if numbers.shape != ids.shape:
            sizes = f"{_size(numbers.shape)}, {item.label} is {_size(ids.shape)}"
            raise InputError(f"{item.more_labels[0]} is {sizes} (height x width)", kind="size")
        return numbered_instances(
            ids,
            numbers,
            skip=self.no_instance,
            things=[labels.ids[channel] for channel in labels.things],
            connectivity=connectivity,
            components=components,
        )

    def _read_components(self, item: Item, connectivity: int) -> Instances:
        source_ids = item.read_source_map(self.max_pixels)
        self.check_size(item, source_ids.shape)
        try:
            return find_components(
                source_ids, skip=self.no_instance, connectivity=connectivity, new_ids=self._id_of_source.table
            )
        except UnknownIds:
            self.remapped(source_ids, item)  # says which
            raise

    @property
    def no_instance(self) -> list[int]:
        """The ids that become no instance."""
        labels = self.labels
        return [labels.ignore] if labels.background is None else [labels.background, labels.ignore]

    def check_size(self, item: Item, shape: Sequence[int]) -> None:
        """InputError when an item's photograph has another (height, width)."""
        if not self.has_photographs:
            return
        size = check_image(item.image, max_pixels=self.max_pixels)
        if tuple(shape) != size:
            raise InputError(
                f"{item.label} is {_size(shape)}, its photograph {item.image.name} is {_size(size)} "
                "(height x width): make them the same size",
                kind="size",
            )

    def remapped(self, source_ids: np.ndarray, item: Item) -> np.ndarray:
        """The source's ids as the dataset's, uint8 or uint16; InputError when one of them is in no class list."""
        return self._looked_up(source_ids, self._id_of_source, item)

    def _looked_up(self, source_ids: np.ndarray, table: IdTable, item: Item) -> np.ndarray:
        found, unknown = table.look_up(source_ids)
        if unknown:
            names = ", ".join(map(str, unknown[:5]))
            line = f"{item.label} holds id {names}, not in the class list of {self.source}: add or remap it"
            raise InputError(line, kind="ids")
        return found


def load_dataset(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> Dataset:
    """Find a dataset by YAML path, folder path, or the name of a description that comes with imptool.

    A folder that holds one dataset YAML is what that describes.

    Raises:
        InputError: there is none of that name; its YAML has an unknown key or a value outside its rule; its root, photographs
            or class list are missing; a split lists an unknown stem or asks for more photographs than there are.
    """
    path = _described_here(Path(source)) if Path(source).is_dir() else find_yaml(str(source), RECIPES / "datasets")
    if path is not None:
        described = parse_strict(DatasetFile, read_yaml(path), source=str(path))
        return _described_dataset(described, described.name or path.stem, path, _find_root(path, described.root), max_pixels)
    if Path(source).is_dir():
        return _folder_dataset(Path(source), max_pixels)
    known = [known.stem for known in (RECIPES / "datasets").glob("*.yaml")]
    raise InputError(f"{source} is no dataset YAML, folder or known name{nearest(Path(source).stem, known)}")


def find_dataset_here(folder: Path) -> Path:
    """The dataset a folder holds: the one dataset YAML in it, else the folder itself; InputError says what was looked for."""
    example = "name one, such as path/to/dataset"
    described = _described_here(folder)
    if described:
        return described
    photographs = any((folder / name).is_dir() for name in ("images", "photos"))
    layout = _guess_layout(folder)
    if layout in ("voc", "cityscapes") or (photographs and (layout == "coco" or (folder / "labels").is_dir())):
        return folder
    raise InputError(
        f"no dataset in {folder.resolve()}: looked for images/ or photos/ beside labels/ or a COCO JSON, for VOC's and "
        f"Cityscapes' folders, and for a dataset YAML; {example}"
    )


def _described_here(folder: Path) -> Path | None:
    """The one dataset YAML in a folder, None when there is none; InputError when there are several."""
    found = [path for path in sorted(folder.glob("*.y*ml")) if _looks_like_dataset(path)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"several dataset YAMLs in {folder.resolve()} ({names}): name one, such as {found[0]}")
    return found[0] if found else None


def _looks_like_dataset(path: Path) -> bool:
    try:
        return {"layout", "root"} <= read_yaml(path).keys()
    except InputError:
        return False


def _guess_layout(folder: Path) -> str:
    """The layout of a folder without a YAML, from the names that are peculiar to it."""
    for layout, mark in (("voc", "SegmentationClass"), ("cityscapes", "gtFine"), ("folder", "labels")):
        if (folder / mark).is_dir():
            return layout
    return "coco" if any(folder.glob("annotations/[!.]*.json")) or any(folder.glob("[!.]*.json")) else "folder"


def _folder_dataset(folder: Path, max_pixels: int) -> Dataset:
    """A folder without a YAML; one as VOC or Cityscapes are published has their classes, unless it has a list of its own."""
    layout = _guess_layout(folder)
    described = DatasetFile(layout=layout, root=str(folder))
    shipped = RECIPES / "datasets" / f"{layout}.yaml"
    if layout in ("voc", "cityscapes") and not any((folder / name).is_file() for name in CLASS_LISTS):
        published = parse_strict(DatasetFile, read_yaml(shipped), source=str(shipped))
        described = described.model_copy(update={"classes": published.classes, "background": published.background})
        described.model_fields_set.add("background")
    return _described_dataset(described, folder.resolve().name, folder, folder, max_pixels)


def _described_dataset(described: DatasetFile, name: str, source: Path, root: Path, max_pixels: int) -> Dataset:
    found = LAYOUTS[described.layout].find_items(root, described)
    if not found.items:
        raise InputError(f"{root} has no photographs (layout {described.layout} of {source})")
    classes = (
        described.classes
        or found.classes
        or _read_class_list(root)
        or _scan_classes(found.items, described.remap, ignore=described.ignore, max_pixels=max_pixels)
    )
    own = found.background if classes is found.classes else None
    background = own if own is not None else _named_background(classes)
    if "background" in described.model_fields_set:
        background = described.background
    labels = _label_set(classes, background=background, ignore=described.ignore, source=str(source))
    for target in described.remap.values():
        if target not in (*labels.ids, labels.ignore):
            raise InputError(f"{source}: remap: {target} is neither a class id nor the ignore id {labels.ignore}")
    has_photographs = any(item.image.is_file() and item.image != item.label for item in found.items)
    return Dataset(
        name,
        source,
        root,
        replace(labels, left_right=_check_left_right(described.left_right, labels, source)),
        _made_up_ids(found, labels) | described.remap,
        make_splits(found, root, source, listed=described.splits, drawn=described.random_splits),
        described.generator,
        tuple(_notes(described, found, source)),
        has_photographs,
        max_pixels,
    )


def _made_up_ids(found: Found, labels: LabelSet) -> dict[int, int]:
    """Source id -> id, for the ids that stand for no instance and for no label."""
    made_up = (
        {} if found.nothing is None else {found.nothing: labels.ignore if labels.background is None else labels.background}
    )
    return made_up | ({} if found.void is None else {found.void: labels.ignore})


def _notes(described: DatasetFile, found: Found, source: Path) -> list[str]:
    """What a person should look at, though it is no error."""
    notes = [*found.notes, *strangers(described.random_splits, found.items, source)]
    if described.classes and found.classes:
        names = {info.id: info.name for info in described.classes}
        other = [
            info for info in found.classes if info.id not in described.remap and names.get(info.id, info.name) != info.name
        ]
        if other:
            notes.append(f"{source} calls class {other[0].id} '{names[other[0].id]}', the annotations '{other[0].name}'")
    return notes


def _check_left_right(pairs: Sequence[Sequence[int]], labels: LabelSet, source: Path) -> tuple[tuple[int, int], ...]:
    """Pairs of ids that are classes, no class in two of them, both things or both stuff."""
    for left, right in pairs:
        for given in (left, right):
            if given not in labels.ids or given == labels.background:
                raise InputError(f"{source}: left_right: {given} is no class id, or the background's")
            if sum(pair.count(given) for pair in pairs) > 1:
                raise InputError(f"{source}: left_right: {given} is there twice")
        left_info, right_info = (labels.classes[labels.ids.index(given)] for given in (left, right))
        if left_info.thing != right_info.thing:
            raise InputError(f"{source}: left_right: {left_info.name} and {right_info.name} are not both things, or both stuff")
    return tuple((left, right) for left, right in pairs)


def _find_root(path: Path, root: str) -> Path:
    """A root with a leading dot lies beside the YAML; any other relative root under $IMPTOOL_DATA."""
    data = Path(os.environ.get("IMPTOOL_DATA", "data"))
    beside = root.startswith(".")
    found = path.parent / root if beside else data / root
    if found.is_dir():
        return found
    if beside or Path(root).is_absolute():
        raise InputError(f"{path}: root: no folder {found}")
    raise InputError(
        f"{path}: root: no folder {found}; set IMPTOOL_DATA to the folder that holds {root}/, "
        f"or write ./{root} for a folder beside the YAML"
    )


def _label_set(classes: Sequence[ClassInfo], *, background: int | None, ignore: int, source: str) -> LabelSet:
    ids, names = [info.id for info in classes], [info.name for info in classes]
    for kind, values in (("id", [str(value) for value in ids]), ("name", names)):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InputError(f"{source}: classes: the {kind} {twice[0]} is there twice")
    if ignore in ids:
        raise InputError(f"{source}: the ignore id {ignore} is also a class ({names[ids.index(ignore)]}): set another 'ignore'")
    if background is not None and background not in ids:
        raise InputError(f"{source}: background: {background} is not among the class ids")
    ordered = sorted(classes, key=lambda info: info.id != background)
    if all(info.id == background for info in ordered):
        raise InputError(f"{source}: there is no class but the background (id {ignore} is ignored)")
    return LabelSet(tuple(ordered), background, ignore)


def _named_background(classes: Sequence[ClassInfo]) -> int | None:
    """A class list says by its name that id 0 is the background."""
    return next((info.id for info in classes if info.id == 0 and info.name.lower() in BACKGROUND_NAMES), None)


def _read_class_list(root: Path) -> list[ClassInfo] | None:
    """Read `classes.txt` or `label_list.txt`: the first line is id 0. None where there is no such file."""
    path = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    if not names or "" in names:
        raise InputError(f"{path} has an empty line {names.index('') + 1 if names else 1}: every line is the name of a class")
    if len(names) > MAX_ID + 1:
        raise InputError(f"{path} has {len(names)} lines: label maps hold ids up to {MAX_ID}")
    return [ClassInfo(id=index, name=name) for index, name in enumerate(names)]


def _scan_classes(items: Sequence[Item], remap: Mapping[int, int], *, ignore: int, max_pixels: int) -> list[ClassInfo]:
    """Without a class list: the ids that occur, after the remap; 0 is the background, by custom."""
    found: set[int] = set()
    problems: list[str] = []  # told when the item's turn comes, if one of the others is good
    for item in items:
        try:
            found |= {int(value) for value in np.unique(item.read_source_map(max_pixels))}
        except InputError as error:
            problems.append(str(error))
    if len(problems) == len(items):
        raise InputError(f"none of the {len(items)} label maps can be used; the first: {problems[0]}")
    named = {remap.get(value, value) for value in found} - {ignore, 0}
    background = [] if ignore == 0 else [ClassInfo(id=0, name="background")]
    return background + [ClassInfo(id=value, name=f"class {value}") for value in sorted(named)]


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
