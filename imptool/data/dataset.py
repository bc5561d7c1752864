"""Dataset descriptions: one YAML, or a plain folder, becomes classes and splits of images with label maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticKnownError

from imptool.data.class_list import CLASS_LISTS, ClassList, find_class_list, read_class_list
from imptool.data.coco import split_instances
from imptool.data.components import Instances, UnknownIds, find_components, join, numbered_instances
from imptool.data.images import MAX_PIXELS, check_image, find_pictures, has_colours, how_to_read
from imptool.data.label_set import DEFAULT, MAX_ID, ClassInfo, IdTable, LabelSet, Remap, remap_table
from imptool.data.layouts import LAYOUTS, Found, Item, Where
from imptool.data.layouts.coco_files import find_jsons
from imptool.data.layouts.pairs import BACKGROUND_NAMES, Id, is_there, pictures_in, read_coloured
from imptool.data.splits import RandomSplits, make_splits, strangers
from imptool.files import (
    RECIPES,
    FileName,
    InputError,
    Strict,
    find_yaml,
    nearest,
    parse_strict,
    read_any_yaml,
    read_yaml,
    some,
)

_ASKED = 10  # label maps: whether they are grey


class Generator(Strict):
    """What drew the pictures of a generated dataset; metrics made from it carry this along."""

    name: str
    version: int
    seed: int
    size: list[int] = Field(min_length=2, max_length=2)  # height, width
    count: int


def _check_source_id(value: Any) -> Any:
    if value == DEFAULT:
        return value
    if type(value) is not int:
        raise ValueError(f"{value!r} is neither an id nor '{DEFAULT}', which is all other ids")
    if value < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0})
    if value > MAX_ID:
        raise PydanticKnownError("less_than_equal", {"le": MAX_ID})
    return value


SourceId = Annotated[int | str, BeforeValidator(_check_source_id)]


class DatasetFile(Where):
    """A dataset YAML as it is written."""

    layout: str
    root: str
    name: FileName | None = None
    classes: list[ClassInfo] | None = Field(default=None, min_length=1)
    class_list: str | None = None  # a file under the root, where another than the usual ones has the names
    background: int | None = None  # written as null: there is none, whatever the classes are called
    ignore: Id = 255
    remap: dict[SourceId, Id] = {}
    left_right: list[Annotated[list[Id], Field(min_length=2, max_length=2)]] = []  # ids that change places in a mirror
    splits: dict[FileName, str] | None = Field(default=None, min_length=1)
    random_splits: RandomSplits | None = None
    generator: Generator | None = None

    @model_validator(mode="after")
    def _no_contradictions(self) -> DatasetFile:
        if self.splits is not None and self.random_splits is not None:
            raise ValueError("give splits or random_splits, not both")
        if self.classes is not None and self.class_list is not None:
            raise ValueError("give classes or class_list, not both")
        if self.layout not in LAYOUTS:
            any_names = "folder takes images and label maps under any names: images, labels, suffixes"
            raise ValueError(f"unknown layout '{self.layout}'{nearest(self.layout, LAYOUTS)} ({any_names})")
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
    remap: Remap
    splits: Mapping[str, tuple[Item, ...]]
    generator: Generator | None = None
    notes: tuple[str, ...] = ()  # what a person should look at, though it is no error
    remarks: tuple[str, ...] = ()  # what a person should know, though nothing is wrong: what was taken for want of a statement
    has_photographs: bool = True  # without any, label maps are converted by themselves
    max_pixels: int = MAX_PIXELS  # of an image or label map
    description: DatasetFile | None = None  # what a YAML would say of it: of a folder without one, what was found

    @property
    def left_right(self) -> tuple[tuple[int, int], ...]:
        """Pairs of ids that change places in a mirror."""
        return self.labels.left_right or ()

    @cached_property
    def _id_of_source(self) -> IdTable:
        """Source id -> id after the remap; unknown where the id is in no class list."""
        return remap_table({number: number for number in (*self.labels.ids, self.labels.ignore)}, self.remap)

    @cached_property
    def _channel_of_source(self) -> IdTable:
        """Source id -> channel; unknown where the id is in no class list."""
        ids = self._id_of_source.table
        channels = self.labels.to_channels(np.maximum(ids, 0).astype(np.uint16)[None])[0]
        return IdTable(np.where(ids < 0, -1, channels.astype(np.int64)))

    @cached_property
    def folders(self) -> set[Path]:
        """The folders of its images and of its labels, without the root, where results have folders of their own."""
        items = [item for members in self.splits.values() for item in members]
        files = ((path, item.stem) for item in items for path in (item.image, item.label, *item.more_labels))
        return set(map(Path, {_counted_from(path, stem) for path, stem in files})) - {self.root}

    def split(self, name: str) -> tuple[Item, ...]:
        """The items of a split; InputError when there is none of that name or it is empty."""
        if name not in self.splits:
            raise InputError(
                f"{self.source} has no split '{name}'{nearest(name, self.splits)}; "
                f"a dataset YAML with 'random_splits' or 'splits' can make one"
            )
        if not self.splits[name]:
            raise InputError(
                f"{self.source}: the split '{name}' is empty: name the others in a dataset YAML ('annotations' or 'splits')"
            )
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
            components: split true instances into their components.
        Raises:
            InputError: as `read_labels`.
        """
        labels = self.labels
        if not item.problem and item.read_instances is not None:
            source = item.read_instances(self.max_pixels)
            self.check_size(item, source.size)
            found = self._remapped_instances(source, item)
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

    def read_unknown(self, item: Item, size: tuple[int, int]) -> Instances:
        """Where an item of this (height, width) has instances without a mask: crowds, on pixels that its map ignores."""
        if item.read_unknown is None:
            return join([], size)
        return self._remapped_instances(item.read_unknown(self.max_pixels), item)

    def _remapped_instances(self, source: Instances, item: Item) -> Instances:
        found = replace(source, class_ids=self.remapped(source.class_ids[None], item)[0].astype(np.int64))
        return found.rows(~np.isin(found.class_ids, self.no_instance))

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
        """InputError when an item's image has another (height, width)."""
        if not self.has_photographs:
            return
        size = check_image(item.image, max_pixels=self.max_pixels)
        if tuple(shape) != size:
            raise InputError(
                f"{item.label} is {_size(shape)}, its image {item.image.name} is {_size(size)} "
                "(height x width): make them the same size",
                kind="size",
            )

    def remapped(self, source_ids: np.ndarray, item: Item) -> np.ndarray:
        """The source's ids as the dataset's, uint8 or uint16; InputError when one of them is in no class list."""
        return self._looked_up(source_ids, self._id_of_source, item)

    def _looked_up(self, source_ids: np.ndarray, table: IdTable, item: Item) -> np.ndarray:
        found, unknown = table.look_up(source_ids)
        if unknown:
            line = f"{item.label} holds id {some(unknown)}, not in the class list of {self.source}: add or remap it"
            raise InputError(f"{line} (remap: {{{unknown[0]}: {self.labels.ignore}}}, or {DEFAULT}: for all)", kind="ids")
        return found


def _counted_from(path: Path, stem: str) -> str:
    """The folder under which a file is called by its stem; of a file that is called otherwise, the one that holds it."""
    folder, found, rest = path.as_posix().rpartition(f"/{stem}")
    return folder or "/" if found and "/" not in rest else path.parent.as_posix()


def load_dataset(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> Dataset:
    """Find a dataset by YAML path, folder path, or the name of a description that comes with imptool.

    A folder that holds one dataset YAML is what that describes.

    Raises:
        InputError: there is none of that name; its YAML has an unknown key or a value outside its rule; its root, images
            or class list are missing; a split lists an unknown stem or asks for more images than there are.
    """
    path = _described_here(Path(source)) if Path(source).is_dir() else find_yaml(str(source), RECIPES / "datasets")
    if path is not None:
        values = read_yaml(path)
        if "stages" in values or "extends" in values:
            raise InputError(f"{path} is a recipe, not a dataset: name the dataset that it trains on")
        described = parse_strict(DatasetFile, values, source=str(path))
        return _described_dataset(described, described.name or path.stem, path, _find_root(path, described.root), max_pixels)
    if Path(source).is_dir():
        return _folder_dataset(Path(source), max_pixels)
    known = [known.stem for known in (RECIPES / "datasets").glob("*.yaml")]
    raise InputError(f"{source} is no dataset YAML, folder or known name{nearest(Path(source).stem, known)}")


def is_dataset(source: str) -> bool:
    """Whether a name means a dataset, be it a good one: a YAML with a layout, a folder that holds one, or a known name."""
    if Path(source).is_dir():
        try:
            return find_dataset_here(Path(source)).exists()
        except InputError:
            return False
    path = find_yaml(source, RECIPES / "datasets")
    return path is not None and "layout" in read_yaml(path)


def find_dataset_here(folder: Path) -> Path:
    """The dataset a folder holds: the one dataset YAML in it, else the folder itself; InputError says what was looked for."""
    example = "name one, such as path/to/dataset"
    described = _described_here(folder)
    if described:
        return described
    photographs = any((folder / name).is_dir() for name in ("images", "photos"))
    photographs |= any(path.parent != folder for path in find_jsons(folder).values())  # of each split in a folder of its own
    layout = _guess_layout(folder)
    if layout in ("voc", "cityscapes") or (photographs and (layout == "coco" or (folder / "labels").is_dir())):
        return folder
    raise InputError(
        f"no dataset in {folder.resolve()}: looked for images/ or photos/ beside labels/ or a COCO JSON, for VOC's and "
        f"Cityscapes' folders, and for a dataset YAML; {example}"
    )


def label_files(folder: Path) -> set[Path]:
    """The label maps of the dataset that a folder holds whose images are there, as absolute paths; {} for no dataset."""
    try:
        path = _described_here(folder)
        if path is not None:
            described = parse_strict(DatasetFile, read_yaml(path), source=str(path))
            root = _find_root(path, described.root)
        else:
            described, root = DatasetFile(layout=_guess_layout(folder), root=str(folder)), folder
        if described.layout == "coco":  # has none, and its JSON may be large
            return set()
        items = LAYOUTS[described.layout].find_items(root, described).items
    except InputError:
        return set()
    paired = [item for item in items if item.image != item.label and is_there(item.image)]
    return {Path(os.path.abspath(path)) for item in paired for path in (item.label, *item.more_labels)}


def _described_here(folder: Path) -> Path | None:
    """The one dataset YAML in a folder, None when there is none.

    Raises:
        InputError: there are several; or none, and one cannot be read, which may be the description.
    """
    found: list[Path] = []
    unreadable: list[InputError] = []
    for path in sorted(filter(Path.is_file, folder.glob("*.y*ml"))):  # a pipe or folder describes nothing
        try:
            value = read_any_yaml(path)
        except InputError as error:
            unreadable.append(error)
        else:
            if isinstance(value, dict) and {"layout", "root"} <= value.keys():
                found.append(path)
    if len(found) > 1:
        names = some(path.name for path in found)
        raise InputError(f"several dataset YAMLs in {folder.resolve()} ({names}): name one, such as {found[0]}")
    if unreadable and not found:
        raise InputError(f"{unreadable[0]}; it may describe the dataset: mend or remove it")
    return found[0] if found else None


def _guess_layout(folder: Path) -> str:
    """The layout of a folder without a YAML, from the names that are peculiar to it."""
    for layout, mark in (("voc", "SegmentationClass"), ("cityscapes", "gtFine"), ("folder", "labels")):
        if (folder / mark).is_dir():
            return layout
    return "coco" if find_jsons(folder) else "folder"


def _folder_dataset(folder: Path, max_pixels: int) -> Dataset:
    """A folder without a YAML; one as VOC or Cityscapes are published has their classes, unless it has a list of its own."""
    layout = _guess_layout(folder)
    described = DatasetFile(layout=layout, root=str(folder))
    return _described_dataset(described, folder.resolve().name, folder, folder, max_pixels, published=_published(layout))


def _published(layout: str) -> DatasetFile | None:
    """The description of the dataset that a layout is named after, whose classes a folder of that layout may have."""
    path = RECIPES / "datasets" / f"{layout}.yaml"
    return parse_strict(DatasetFile, read_yaml(path), source=str(path)) if layout in ("voc", "cityscapes") else None


def _described_dataset(
    described: DatasetFile, name: str, source: Path, root: Path, max_pixels: int, *, published: DatasetFile | None = None
) -> Dataset:
    found = LAYOUTS[described.layout].find_items(root, described)
    if not found.items:
        raise InputError(f"{root} has no images with labels (layout {described.layout} of {source})")
    named = _named_classes(described, found, source, root, published, max_pixels)
    if named.colours and described.colours is None:
        found = replace(found, items=_coloured(found.items, named))
    background = described.background if "background" in described.model_fields_set else named.background
    _check_once(named.classes, named.path)
    labels = _label_set(named.classes, background=background, ignore=described.ignore, source=str(source))
    if found.lost:
        raise InputError(found.lost)
    for target in described.remap.values():
        if target not in (*labels.ids, labels.ignore):
            raise InputError(f"{source}: remap: {target} is neither a class id nor the ignore id {labels.ignore}")
    has_photographs = _has_photographs(found.items, root, described)
    return Dataset(
        name,
        source,
        root,
        replace(
            labels,
            left_right=_check_left_right(described.left_right, labels, source),
            stated_colours=_stated_colours(described.colours or named.colours, labels),
        ),
        _made_up_ids(found, labels) | described.remap,
        make_splits(found, root, source, listed=described.splits, drawn=described.random_splits),
        described.generator,
        tuple(_notes(described, found, source)),
        (*named.remarks, *found.remarks),
        has_photographs,
        max_pixels,
        described if named.colours else _with_classes(described, labels),
    )


def _with_classes(described: DatasetFile, labels: LabelSet) -> DatasetFile:
    """A description with its classes written out; those of a list with colours stay there, as maps are read by it."""
    stated = {"classes": list(labels.classes), "background": labels.background, "class_list": None}
    return described.model_copy(update=stated)


def _named_classes(
    described: DatasetFile, found: Found, source: Path, root: Path, published: DatasetFile | None, max_pixels: int
) -> ClassList:
    """The classes as the description has them, else the source's JSON, else a class list, else those that are published so.

    Where there is none of these, they are called by their ids.
    """
    if described.classes:
        return ClassList(source, described.classes, _named_background(described.classes))
    if described.class_list is not None:
        path = root / described.class_list
        if not path.is_file():
            raise InputError(f"{source}: class_list: no file {path}")
        return read_class_list(path, ignore=described.ignore)
    if found.classes:
        background = _named_background(found.classes) if found.background is None else found.background
        return ClassList(source, found.classes, background)
    listed, remarks = find_class_list(root, found.items, ignore=described.ignore)
    if listed:
        return replace(listed, remarks=tuple(remarks))
    looked_for = f"{root} has no class list ({', '.join(CLASS_LISTS)})"
    if published and published.classes and not remarks:  # a list that was not read has other names
        names = ", ".join(info.name for info in published.classes[:3])
        remark = f"{looked_for}: the names are those of {published.layout} as published ({names}, ...)"
        return ClassList(source, published.classes, published.background, remarks=(remark, *remarks))
    classes = _scan_classes(found.items, described.remap, ignore=described.ignore, max_pixels=max_pixels)
    remark = f"{looked_for}: classes are called by the ids that occur"
    return ClassList(source, classes, _named_background(classes), remarks=(remark, *remarks))


def _coloured(items: Sequence[Item], named: ClassList) -> list[Item]:
    """Items whose label maps are read by the colours of the class list; where the first maps are grey, they hold ids."""
    if not any(has_colours(item.label) for item in items[:_ASKED]):
        return list(items)
    return [
        replace(
            item,
            read_map=partial(read_coloured, item.label, named.colours, stated_in=named.path.name),
            more_labels=(*item.more_labels, named.path),
        )
        if item.read_map is None
        else item
        for item in items
    ]


def _has_photographs(items: Sequence[Item], root: Path, where: DatasetFile) -> bool:
    """Whether there are images, so that labels do not stand alone; InputError when some are there that fit no label."""
    if any(is_there(item.image) and item.image != item.label for item in items):
        return True
    alone = next((item for item in items if not item.problem), None)
    if alone is None:  # nothing can be used, for reasons of its own
        return True
    labels = {path for item in items for path in (item.label, *item.more_labels)}
    keys = [key for key in ("photographs", "suffixes") if key in LAYOUTS[where.layout].keys]
    stated = f"a dataset YAML says where they lie and what they are called ({', '.join(keys)})" if keys else ""
    folders = where.photographs.values() if isinstance(where.photographs, dict) else [where.photographs or "."]
    for folder in dict.fromkeys([*(root / name for name in folders), root]):
        for name in pictures_in(folder, besides=labels):
            there = folder / name
            if there.suffix.lower() != ".png" or all(there.parent != label.parent for label in labels):  # else another map
                raise InputError(
                    f"no image fits the labels in {alone.label}: expected {alone.image}, there is {there}; "
                    f"{stated or 'lay them there'}; labels alone want a root of their own"
                )
        unread = find_pictures(folder)[1] if folder.is_dir() else []
        if unread:
            line = f"no image fits the labels in {alone.label}: expected {alone.image}, there is {unread[0]}"
            raise InputError(f"{line}, whose format is not read here; {how_to_read(unread)}")
    return False


def _made_up_ids(found: Found, labels: LabelSet) -> dict[int | str, int]:
    """Source id -> id, for the ids that stand for no instance and for no label."""
    made_up: dict[int | str, int] = {}
    if found.nothing is not None:
        made_up[found.nothing] = labels.ignore if labels.background is None else labels.background
    if found.void is not None:
        made_up[found.void] = labels.ignore
    return made_up


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


def _stated_colours(colours: Mapping[int, Sequence[int]], labels: LabelSet) -> tuple[tuple[int, tuple[int, int, int]], ...]:
    """The colours that label maps are read by, of the classes: pages show them in the same ones."""
    return tuple((class_id, (red, green, blue)) for class_id, (red, green, blue) in colours.items() if class_id in labels.ids)


def root_of(path: Path, root: str) -> Path:
    """Where a YAML's root is looked for: with a leading dot beside the YAML, any other relative one under $IMPTOOL_DATA."""
    data = Path(os.environ.get("IMPTOOL_DATA", "data"))
    return path.parent / root if root.startswith(".") else data / root


def _find_root(path: Path, root: str) -> Path:
    """`root_of`; InputError where there is no such folder."""
    found = root_of(path, root)
    if found.is_dir():
        return found
    if root.startswith(".") or Path(root).is_absolute():
        raise InputError(f"{path}: root: no folder {found}")
    raise InputError(
        f"{path}: root: no folder {found}; set IMPTOOL_DATA to the folder that holds {root}/, "
        f"or write ./{root} for a folder beside the YAML"
    )


def _label_set(classes: Sequence[ClassInfo], *, background: int | None, ignore: int, source: str) -> LabelSet:
    ids, names = [info.id for info in classes], [info.name for info in classes]
    if ignore in ids:
        raise InputError(f"{source}: the ignore id {ignore} is also a class ({names[ids.index(ignore)]}): set another 'ignore'")
    if background is not None and background not in ids:
        raise InputError(f"{source}: background: {background} is not among the class ids")
    ordered = sorted(classes, key=lambda info: info.id != background)
    if all(info.id == background for info in ordered):
        raise InputError(f"{source}: there is no class but the background (id {ignore} is ignored)")
    return LabelSet(tuple(ordered), background, ignore)


def _check_once(classes: Sequence[ClassInfo], source: Path) -> None:
    """InputError when two classes share an id or a name."""
    of_id: dict[int, str] = {}
    of_name: dict[str, int] = {}
    for info in classes:
        if info.id in of_id:
            line = f"the id {info.id} is there twice ('{of_id[info.id]}' and '{info.name}'): give each class its own"
            raise InputError(f"{source}: classes: {line}")
        if info.name in of_name:
            first = of_name[info.name]
            raise InputError(
                f"{source}: classes: the name {info.name} is there twice (ids {first} and {info.id}): give each its own; to "
                f"merge them, list one under 'classes' in a dataset YAML and remap the other (remap: {{{info.id}: {first}}})"
            )
        of_id[info.id], of_name[info.name] = info.name, info.id


def _named_background(classes: Sequence[ClassInfo]) -> int | None:
    """A class list says by its name that id 0 is the background."""
    return next((info.id for info in classes if info.id == 0 and info.name.lower() in BACKGROUND_NAMES), None)


def _scan_classes(items: Sequence[Item], remap: Remap, *, ignore: int, max_pixels: int) -> list[ClassInfo]:
    """Without a class list: the ids that occur, after the remap; 0 is the background, by custom."""
    found: set[int] = set()
    problems: list[str] = []  # told when the item's turn comes, if one of the others is good
    for item in items:
        try:
            found |= {int(value) for value in np.unique(item.read_source_map(max_pixels))}
        except InputError as error:
            problems.append(str(error))
    if len(problems) == len(items):
        maps = {item.label for item in items if item.label != item.image}  # an image without any is no label map
        raise InputError(f"none of the {len(maps)} label maps can be used; the first: {problems[0]}")
    known = {0: 0} if DEFAULT in remap else {value: value for value in found}
    named = set(remap_table(known, remap).table[sorted(found)].tolist()) - {ignore, 0}
    background = [] if ignore == 0 else [ClassInfo(id=0, name="background")]
    return background + [ClassInfo(id=value, name=f"class {value}") for value in sorted(named)]


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
