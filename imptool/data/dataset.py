"""Dataset descriptions: one YAML, or a plain folder, becomes classes and splits of photographs with label maps."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from imptool.data.images import check_image, read_label_map
from imptool.data.label_set import MAX_ID, ClassInfo, LabelSet
from imptool.data.layouts import LAYOUTS, Item
from imptool.files import RECIPES, FileName, InputError, Strict, find_yaml, nearest, parse_strict, read_yaml

CLASS_LISTS = ("classes.txt", "label_list.txt")
BACKGROUND_NAMES = frozenset({"background", "null", "bg", "_background_", "__background__"})


Id = Annotated[int, Field(ge=0, le=MAX_ID)]


class RandomSplits(Strict):
    """Splits drawn by a seed: `sizes` names splits with counts, or shares below 1, `rest` the one that takes what is left.

    The order comes from a hash of seed and stem, so it does not change with the Python version. Added files take their place
    in it, which moves the cut between the splits: list the stems in files (`splits`) where old splits must stay as they are.
    """

    seed: int
    sizes: dict[FileName, Annotated[int | float, Field(gt=0)]]
    rest: FileName
    together: list[list[str]] = []  # stems that must not be torn apart, such as one photograph annotated twice

    @model_validator(mode="after")
    def _nothing_twice(self) -> RandomSplits:
        for split, size in self.sizes.items():
            if isinstance(size, float) and size >= 1:
                raise ValueError(f"sizes: {split}: {size} is neither a whole number of photographs nor a share below 1")
        if self.rest in self.sizes:
            raise ValueError(f"rest: '{self.rest}' has a size already: give it another name, or leave it out of sizes")
        twice = [stem for stem, count in Counter(stem for group in self.together for stem in group).items() if count > 1]
        if twice:
            raise ValueError(f"together: '{twice[0]}' is there twice: write all that belongs together in one list")
        return self


class Generator(Strict):
    """What drew the pictures of a generated dataset; metrics made from it carry this along."""

    name: str
    version: int
    seed: int
    size: list[int] = Field(min_length=2, max_length=2)  # height, width
    count: int


class DatasetFile(Strict):
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
    left_right: tuple[tuple[int, int], ...] = ()  # ids that change places in a mirror, such as left and right shoe
    note: str = ""  # what a person should look at, though it is no error

    @cached_property
    def _id_of_source(self) -> np.ndarray:
        """Source id -> id after the remap; -1 where the id is in no class list."""
        table = np.full(MAX_ID + 1, -1, np.int32)
        known = [*self.labels.ids, self.labels.ignore]
        table[known] = known
        table[list(self.remap)] = list(self.remap.values())
        return table

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
        """Read and remap an item's label map: ids [H, W] uint16, every one a class or the ignore id.

        Raises:
            InputError: the pair has a problem, a file is broken, sizes differ, or an id is in no class list.
        """
        if item.problem:
            raise InputError(item.problem)
        source_ids = read_label_map(item.label)
        size = check_image(item.image)
        if source_ids.shape != size:
            raise InputError(
                f"{item.label} is {_size(source_ids.shape)}, its photograph {item.image.name} is {_size(size)} "
                "(height x width): make them the same size"
            )
        ids = self._id_of_source[source_ids]
        if ids.min(initial=0) < 0:
            unknown = ", ".join(str(value) for value in np.unique(source_ids[ids < 0])[:5])
            raise InputError(f"{item.label} holds id {unknown}, not in the class list of {self.source}: add or remap it")
        return ids.astype(np.uint16)


def load_dataset(source: str | Path) -> Dataset:
    """Find a dataset by YAML path, folder path, or the name of a description that comes with imptool.

    A folder that holds one dataset YAML is what that describes.

    Raises:
        InputError: there is none of that name; its YAML has an unknown key or a value outside its rule; its root, photographs
            or class list are missing; a split lists an unknown stem or asks for more photographs than there are.
    """
    shipped = RECIPES / "datasets"
    if Path(source).is_dir():
        described = _described_here(Path(source))
        return _yaml_dataset(described) if described else _folder_dataset(Path(source))
    path = find_yaml(str(source), shipped)
    if path is None:
        known = [known.stem for known in shipped.glob("*.yaml")]
        raise InputError(f"{source} is no dataset YAML, folder or known name{nearest(Path(source).stem, known)}")
    return _yaml_dataset(path)


def find_dataset_here(folder: Path) -> Path:
    """The dataset a folder holds: the one dataset YAML in it, else the folder itself; InputError says what was looked for."""
    example = "for example: imptool convert-instances path/to/dataset"
    described = _described_here(folder)
    if described:
        return described
    if (folder / "labels").is_dir() and any((folder / name).is_dir() for name in ("images", "photos")):
        return folder
    raise InputError(
        f"no dataset in {folder.resolve()}: looked for images/ or photos/ beside labels/, and for a dataset YAML; {example}"
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


def _folder_dataset(folder: Path) -> Dataset:
    items = LAYOUTS["folder"](folder)
    if not items:
        raise InputError(f"{folder} has no photographs")
    classes = _read_class_list(folder) or _scan_classes(items, {}, ignore=255)
    labels = _label_set(classes, background=_named_background(classes), ignore=255, source=str(folder))
    return Dataset(folder.resolve().name, folder, folder, labels, {}, {"all": tuple(items)})


def _yaml_dataset(path: Path) -> Dataset:
    described = parse_strict(DatasetFile, read_yaml(path), source=str(path))
    root = _find_root(path, described.root)
    items = LAYOUTS[described.layout](root)
    if not items:
        raise InputError(f"{root} has no photographs (layout {described.layout} of {path})")
    classes = described.classes or _read_class_list(root) or _scan_classes(items, described.remap, ignore=described.ignore)
    background = described.background if "background" in described.model_fields_set else _named_background(classes)
    labels = _label_set(classes, background=background, ignore=described.ignore, source=str(path))
    for target in described.remap.values():
        if target not in (*labels.ids, labels.ignore):
            raise InputError(f"{path}: remap: {target} is neither a class id nor the ignore id {labels.ignore}")
    splits = _make_splits(described, items, root, path)
    note = _strangers(described.random_splits, items, path)
    return Dataset(
        described.name or path.stem,
        path,
        root,
        labels,
        described.remap,
        splits,
        described.generator,
        _check_left_right(described.left_right, labels, path),
        note,
    )


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


def _scan_classes(items: Sequence[Item], remap: Mapping[int, int], *, ignore: int) -> list[ClassInfo]:
    """Without a class list: the ids that occur, after the remap; 0 is the background, by custom."""
    found: set[int] = set()
    problems: list[str] = []  # told when the item's turn comes, if one of the others is good
    for item in items:
        try:
            if item.problem:
                raise InputError(item.problem)
            found |= {int(value) for value in np.unique(read_label_map(item.label))}
        except InputError as error:
            problems.append(str(error))
    if len(problems) == len(items):
        raise InputError(f"none of the {len(items)} label maps can be used; the first: {problems[0]}")
    named = {remap.get(value, value) for value in found} - {ignore, 0}
    background = [] if ignore == 0 else [ClassInfo(id=0, name="background")]
    return background + [ClassInfo(id=value, name=f"class {value}") for value in sorted(named)]


def _make_splits(described: DatasetFile, items: list[Item], root: Path, source: Path) -> dict[str, tuple[Item, ...]]:
    if described.splits is not None:
        splits = {
            name: _folder_split(items, listed) if listed.endswith("/") else _listed_split(items, root / listed)
            for name, listed in described.splits.items()
        }
        counts = Counter(item.stem for members in splits.values() for item in members)
        shared = [stem for stem, count in counts.items() if count > 1]
        if shared:
            raise InputError(f"{source}: splits: {shared[0]} is in two of them ({len(shared)} such): keep each in one")
        return splits
    if described.random_splits is not None:
        return _random_splits(described.random_splits, items, source)
    return {"all": tuple(items)}


def _folder_split(items: list[Item], folder: str) -> tuple[Item, ...]:
    """A split of all photographs in a folder ("train/") under that of the photographs."""
    return tuple(item for item in items if item.stem.startswith(folder))


def _listed_split(items: list[Item], path: Path) -> tuple[Item, ...]:
    """A split from a list of stems, one a line, with or without the suffix of the file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as a list of stems: it is not UTF-8 text") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read as a list of stems: {reason}") from error
    by_stem = {item.stem: item for item in reversed(items)}  # of two photographs with one stem the first is usable
    names = {line: line if line in by_stem else os.path.splitext(line)[0] for line in lines}
    missing = [line for line, stem in names.items() if stem not in by_stem]
    if missing:
        raise InputError(
            f"{path}: no photograph or label map of the stem {missing[0]}"
            + (f" and {len(missing) - 1} more" if missing[1:] else "")
        )
    return tuple(by_stem[stem] for stem in sorted(set(names.values())))


def _random_splits(rule: RandomSplits, items: list[Item], source: Path) -> dict[str, tuple[Item, ...]]:
    sizes = {split: size if isinstance(size, int) else max(round(size * len(items)), 1) for split, size in rule.sizes.items()}
    if sum(sizes.values()) > len(items):
        raise InputError(f"{source}: random_splits: sizes ask for {sum(sizes.values())} of {len(items)} photographs")
    leader = {stem: group[0] for group in rule.together for stem in group}
    units: dict[str, list[Item]] = {}
    for item in items:
        units.setdefault(leader.get(item.stem, item.stem), []).append(item)
    waiting = sorted(units, key=lambda name: hashlib.sha256(os.fsencode(f"{rule.seed}:{name}")).digest())
    splits: dict[str, list[Item]] = {}
    for split, size in sizes.items():
        taken: list[Item] = []
        for name in list(waiting):
            if len(taken) + len(units[name]) <= size:  # a pair that no longer fits waits for the next split
                taken += units[name]
                waiting.remove(name)
        splits[split] = taken
    splits[rule.rest] = [item for name in waiting for item in units[name]]
    return {split: tuple(sorted(members, key=lambda item: item.stem)) for split, members in splits.items()}


def _strangers(rule: RandomSplits | None, items: Sequence[Item], source: Path) -> str:
    """A line about stems in `together` that no photograph has: a misspelt one would tear its pair apart in silence."""
    strangers = {stem for group in (rule.together if rule else ()) for stem in group} - {item.stem for item in items}
    if not strangers:
        return ""
    more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
    return f"{source}: random_splits: together: no photograph has the stem {min(strangers)}{more}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
