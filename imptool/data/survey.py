"""What is in a dataset, and what is wrong with it: facts of each image, and what they add up to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imptool.data.coco import draw_instances
from imptool.data.components import count_holes, find_components
from imptool.data.dataset import Dataset
from imptool.data.duplicates import Fingerprint, find_duplicates, fingerprint
from imptool.data.export import SMALL, file_name
from imptool.data.images import check_image, check_label_map, read_reduced
from imptool.data.instances import instances_path, read_instances
from imptool.data.layouts import Item
from imptool.data.layouts.coco import contradictions
from imptool.files import InputError

KINDS = {
    "pair": "images without labels, labels without image, two images of one name, empty splits",
    "unreadable": "a file that is no picture, is broken, lacks its end, or is too large",
    "size": "labels of another size than their image",
    "ids": "ids or colours in no class list",
    "empty": "labels that are all background or ignored",
    "duplicate": "one image under two names, whose labels differ",
    "leak": "one image in two splits",
    "tiny": "components of one or two pixels",
    "annotation": "annotations that cannot be used or stand twice, ids that stand twice, names that do not fit",
    "contradiction": "JSON that says other than its masks or label maps",
}
TINY = 2  # px


class Problem(NamedTuple):
    """Something that breaks a training or a number later: its kind, the images it is about, and a line."""

    kind: str
    stems: tuple[str, ...]
    line: str


@dataclass
class Facts:
    """What one image shows. Of one that cannot be read only the problems are known."""

    split: str
    stem: str
    problems: list[Problem] = field(default_factory=list)
    classes: frozenset[int] = frozenset()  # ids that occur, background and ignore left out
    instances: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int64), np.zeros(0, np.int64))  # class ids and areas [N]
    components: tuple[np.ndarray, np.ndarray, np.ndarray] = (np.zeros(0, np.int64),) * 3  # class ids, areas, holes [M]
    fingerprint: Fingerprint | None = None
    usable: bool = False


def examine(dataset: Dataset, items: Sequence[tuple[str, Item]]) -> list[Facts]:
    """The facts of images: (split, item) each. No problem of one costs another."""
    return [_examine(dataset, split, item) for split, item in items]


def _examine(dataset: Dataset, split: str, item: Item) -> Facts:
    facts = Facts(split, item.stem)

    def tell(kind: str, line: str) -> None:
        facts.problems.append(Problem(kind, (item.stem,), line))

    for line in item.left_out:
        tell("annotation", line)
    if item.problem:
        tell(item.problem_kind, item.problem)
        return facts
    try:
        if dataset.has_photographs:
            facts.fingerprint = fingerprint(read_reduced(item.image, 160, max_pixels=dataset.max_pixels))
        ids = dataset.read_labels(item)
        for line in item.contradictions(dataset.max_pixels) if item.contradictions else ():
            tell("contradiction", line)
        instances = dataset.read_instances(item, connectivity=8, components=False)
    except InputError as error:
        tell(error.kind or "unreadable", str(error))
        return facts
    for count, words in (
        (int((instances.areas == 0).sum()), "without a pixel"),
        (len(instances.rles) - len(set(zip(instances.class_ids.tolist(), instances.rles, strict=True))), "that stand twice"),
    ):
        if count:
            tell("annotation", f"{item.stem}: instances {words}: {count}")
    components = find_components(ids, skip=dataset.no_instance)
    facts.components = components.class_ids, components.areas, count_holes(ids, skip=dataset.no_instance)
    facts.instances = instances.class_ids, instances.areas
    facts.classes = frozenset(components.class_ids.tolist())
    facts.usable = True
    if not facts.classes:
        tell("empty", f"{item.stem}: its labels are all background or ignored")
    tiny = components.class_ids[components.areas <= TINY].tolist()
    if tiny:
        names = dict(zip(dataset.labels.ids, dataset.labels.names, strict=True))
        found = ", ".join(f"{count} of {names[class_id]}" for class_id, count in sorted(Counter(tiny).items()))
        tell("tiny", f"{item.stem}: components of one or two pixels: {found}")
    return facts


def glance(dataset: Dataset, items: Sequence[Item], *, seconds: float) -> tuple[list[Problem], int]:
    """What headers, ends and sizes of files show to be unusable, and how many items were looked at in that time.

    A tenth of a millisecond for a pair of JPEG and PNG. Label maps that are no PNG are not looked at; a fault in the middle
    of a file, and ids in no class list, show when it is read.
    """
    problems: list[Problem] = []
    until = time.monotonic() + seconds
    for looked, item in enumerate(items):
        if time.monotonic() > until:
            return problems, looked
        try:
            _glance(dataset, item)
        except InputError as error:
            problems.append(Problem(error.kind or "unreadable", (item.stem,), str(error)))
    return problems, len(items)


def _glance(dataset: Dataset, item: Item) -> None:
    if item.problem:
        raise InputError(item.problem, kind=item.problem_kind)
    if item.label.suffix.lower() == ".png":
        coded = item.read_map is not None
        dataset.check_size(item, check_label_map(item.label, max_pixels=dataset.max_pixels, coded=coded))
    elif dataset.has_photographs:
        check_image(item.image, max_pixels=dataset.max_pixels)


def repeated_photographs(dataset: Dataset, surveyed: Sequence[Facts]) -> list[Problem]:
    """Images that occur twice: in two splits, or with labels that differ.

    Args:
        surveyed: the facts of every image.
    """
    seen = [facts for facts in surveyed if facts.fingerprint is not None]
    items = item_of(dataset)
    problems = []
    for first, second, _ in find_duplicates([facts.fingerprint for facts in seen if facts.fingerprint is not None]):
        one, other = seen[first], seen[second]
        stems = one.stem, other.stem
        if one.split != other.split:
            line = f"{one.stem} ({one.split}) and {other.stem} ({other.split}) are the same image, in two splits"
            problems.append(Problem("leak", stems, line))
        difference = _label_difference(dataset, items[one.split, one.stem], items[other.split, other.stem])
        if difference:
            line = f"{one.stem} and {other.stem} are the same image, labelled twice: {difference}"
            problems.append(Problem("duplicate", stems, line))
    return problems


def item_of(dataset: Dataset) -> dict[tuple[str, str], Item]:
    """(split, stem) -> item; of two images with one stem the first is usable."""
    return {(split, item.stem): item for split, members in dataset.splits.items() for item in reversed(members)}


def _label_difference(dataset: Dataset, one: Item, other: Item) -> str:
    """How the label maps of one image under two names differ; "" when they do not."""
    try:
        first, second = dataset.read_labels(one), dataset.read_labels(other)
    except InputError:
        return "the labels of one of them cannot be read"
    if first.shape != second.shape:
        return f"maps of {first.shape[0]}x{first.shape[1]} and {second.shape[0]}x{second.shape[1]} (height x width)"
    share = float((first != second).mean())
    return f"the maps differ in {share:.1%} of their pixels" if share else ""


@dataclass(frozen=True)
class Converted:
    """The instances of one image as a conversion wrote them.

    Attributes:
        path: the file. image: its row. rows: its annotations.
        complete: whether small instances are there, too. exact: whether polygons keep their outlines.
    """

    item: Item
    path: Path
    image: Mapping[str, Any]
    rows: list[dict[str, Any]]
    complete: bool
    exact: bool


def read_converted(dataset: Dataset) -> tuple[list[Converted], list[Problem]]:
    """What has been converted in the current folder, and why it cannot be read where it cannot."""
    found: list[Converted] = []
    problems = []
    for split in dataset.splits:
        path = instances_path(dataset, split)
        if not path.exists():
            continue
        try:
            document = read_instances(dataset, split)
        except InputError as error:
            problems.append(Problem("contradiction", (), str(error)))
            continue
        info = document["info"] if isinstance(document.get("info"), dict) else {}
        complete, exact = info.get("min_area", 1) == 1, not info.get("simplify", 0)
        items = {file_name(dataset, item): item for item in reversed(dataset.split(split))}
        rows: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
        for row in document["annotations"]:
            rows[row["image_id"]].append(row)
        found += [
            Converted(items[image["file_name"]], path, image, rows[image["id"]], complete, exact)
            for image in document["images"]
        ]
    return found, problems


def compare(dataset: Dataset, converted: Sequence[Converted]) -> list[Problem]:
    """What converted instances say other than their masks, and than the label maps that they were made from."""
    return [Problem("contradiction", (each.item.stem,), line) for each in converted for line in _compare(dataset, each)]


def _compare(dataset: Dataset, converted: Converted) -> list[str]:
    item, size = converted.item, (converted.image["height"], converted.image["width"])
    nothing = dataset.labels.ignore if dataset.labels.background is None else dataset.labels.background
    lines = contradictions(converted.rows, size, converted.path)
    try:
        target = dataset.read_labels(item)
        drawn = draw_instances(converted.rows, size, background=nothing, dtype=np.uint16)
    except InputError:
        return lines  # told with the image itself
    wrong = (drawn != target) & (target != dataset.labels.ignore) if drawn.shape == target.shape else np.ones(1, bool)
    if not converted.complete:
        wrong = wrong & (drawn != nothing)
    if converted.exact and wrong.any():
        name = converted.image["file_name"]
        lines.append(f"{converted.path}: the instances of {name} differ from {item.label} in {int(wrong.sum()):,} pixels")
    return lines


@dataclass(frozen=True)
class ClassRow:
    """One class of the statistics.

    Attributes:
        instances, photographs: {split: number}.
        side: of a square of the mean area of an instance, px (Table 7 of the paper); nan without any.
        small: instances under 16 px.
        components, holes: of the semantic maps.
    """

    class_id: int
    name: str
    group: str
    instances: Mapping[str, int]
    photographs: Mapping[str, int]
    side: float
    small: int
    components: int
    holes: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the usable images of a dataset show.

    Attributes:
        rows: a class each, without the background.
        photographs: {split: usable images}.
        together: [C, C] int64, images that show both classes; on the diagonal those that show one.
        per_photograph: [P] int64, components of each image.
        areas: {class id: areas [N] of its instances, px}.
    """

    rows: list[ClassRow]
    photographs: Mapping[str, int]
    together: np.ndarray
    per_photograph: np.ndarray
    areas: Mapping[int, np.ndarray]


def summarise(dataset: Dataset, surveyed: Sequence[Facts]) -> Statistics:
    """Add up the facts of all images."""
    usable = [facts for facts in surveyed if facts.usable]
    infos = [dataset.labels.classes[channel] for channel in dataset.labels.foreground]
    place = {info.id: number for number, info in enumerate(infos)}
    together = np.zeros((len(infos), len(infos)), np.int64)
    photographs = {split: np.zeros(len(infos), np.int64) for split in dataset.splits}
    for facts in usable:  # a matrix of images by classes would be large, and slow to multiply
        shown = [place[class_id] for class_id in facts.classes]
        together[np.ix_(shown, shown)] += 1
        photographs[facts.split][shown] += 1
    class_ids, areas = (np.concatenate([np.zeros(0, np.int64), *(facts.instances[n] for facts in usable)]) for n in (0, 1))
    split_of = np.repeat([facts.split for facts in usable] or [""], [len(facts.instances[0]) for facts in usable] or [0])
    comp_ids, holes = (np.concatenate([np.zeros(0, np.int64), *(facts.components[n] for facts in usable)]) for n in (0, 2))
    rows, areas_of = [], {}
    for info in infos:
        mine = class_ids == info.id
        areas_of[info.id] = areas[mine]
        rows.append(
            ClassRow(
                info.id,
                info.name,
                info.group,
                {split: int((mine & (split_of == split)).sum()) for split in dataset.splits},
                {split: int(counts[place[info.id]]) for split, counts in photographs.items()},
                float(np.sqrt(areas[mine].mean())) if mine.any() else float("nan"),
                int((areas[mine] < SMALL).sum()),
                int((comp_ids == info.id).sum()),
                int(holes[comp_ids == info.id].sum()),
            )
        )
    in_split = Counter(facts.split for facts in usable)
    counts = {split: in_split[split] for split in dataset.splits}
    per_photograph = np.array([len(facts.components[0]) for facts in usable], np.int64)
    return Statistics(rows, counts, together, per_photograph, areas_of)
