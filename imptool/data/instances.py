"""Component instances of a dataset: made from its label maps, kept where training looks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imptool.data.coco import annotations_of, coco_document, read_coco
from imptool.data.components import Components, find_components
from imptool.data.dataset import Dataset
from imptool.data.layouts import Item
from imptool.files import InputError, read_ahead

INSTANCES = Path("instances")

Track = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass
class ConvertedSplit:
    """The instances of a split as COCO JSON, and what a person should know about them."""

    document: dict[str, Any]
    failed: list[str] = field(default_factory=list)  # what is wrong with each photograph that could not be used
    empty: list[str] = field(default_factory=list)  # stems of maps without any instance
    dropped: int = 0  # components under the smallest area


def instances_path(dataset: Dataset, split: str) -> Path:
    """Where `convert-instances` writes the instances of a split, and train and eval look for them."""
    return INSTANCES / dataset.name / f"{split}.json"


def read_instances(dataset: Dataset, split: str) -> dict[str, Any]:
    """Read the converted instances of a split.

    Raises:
        InputError: there is no such split, it was not converted, or converted for other classes, ids, photographs or label
            maps. (A photograph that the conversion could not use is told when its turn comes.)
    """
    items = dataset.split(split)
    path = instances_path(dataset, split)
    if not path.is_file():
        raise InputError(f"no {path}: make it with imptool convert-instances {dataset.source}")
    document = read_coco(path)
    found = {category["id"]: category["name"] for category in document["categories"]}
    if found != {row["id"]: row["name"] for row in categories(dataset)}:
        raise InputError(f"{path} was made for another class list than {dataset.source}: convert again with --overwrite")
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    if info.get("ids", _ids(dataset)) != _ids(dataset):
        raise InputError(
            f"{path} was made with another background, ignore or remap than {dataset.source} has: "
            "convert again with --overwrite"
        )
    left_out = info.get("left_out")
    converted = {image["file_name"] for image in document["images"]}
    converted |= {name for name in left_out if isinstance(name, str)} if isinstance(left_out, list) else set()
    wanted = {file_name(dataset, item) for item in items}
    if converted != wanted:
        raise InputError(
            f"{path} was made for other photographs than split {split} of {dataset.source} has "
            f"({len(wanted - converted)} new, {len(converted - wanted)} gone): convert again with --overwrite"
        )
    hashes = info.get("label_hashes")
    known = hashes if isinstance(hashes, dict) else {}  # instances made by hand have none
    changed = [item.label for item in items if known.get(file_name(dataset, item), "") not in ("", _hash(item.label))]
    if changed:
        raise InputError(
            f"{path} was made from other label maps: {len(changed)} have changed, such as {changed[0]}: "
            "convert again with --overwrite"
        )
    return document


def file_name(dataset: Dataset, item: Item) -> str:
    """A photograph's name in COCO JSON: its path under the dataset's root, with "/"."""
    return item.image.relative_to(dataset.root).as_posix()


def categories(dataset: Dataset) -> list[dict[str, Any]]:
    """COCO categories: every class but the background, with the dataset's ids."""
    infos = [dataset.labels.classes[channel] for channel in dataset.labels.foreground]
    return [{"id": info.id, "name": info.name, "supercategory": info.group} for info in infos]


def image_ids(dataset: Dataset) -> dict[str, int]:
    """An id for every photograph: its rank from 1 among the sorted stems of the whole dataset, so that splits can be joined."""
    stems = sorted({item.stem for items in dataset.splits.values() for item in items})
    return {stem: rank for rank, stem in enumerate(stems, start=1)}


def convert_split(
    dataset: Dataset, split: str, *, connectivity: int, min_area: int, workers: int, track: Track
) -> ConvertedSplit:
    """Turn the label maps of a split into component instances (section 4.1 of the paper: each component is an instance).

    Args:
        connectivity: 4 or 8.
        min_area: components with fewer pixels are dropped, and counted.
        workers: threads that read and label maps.
        track: goes through the converted photographs, with progress.
    """
    labels = dataset.labels
    skip = [labels.ignore] if labels.background is None else [labels.background, labels.ignore]

    def convert(item: Item) -> Components:
        return find_components(dataset.read_labels(item), skip=skip, connectivity=connectivity)

    ids = image_ids(dataset)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out: list[str] = []
    document = coco_document(
        images=images,
        annotations=annotations,
        categories=categories(dataset),
        description=f"connected-component instances of {dataset.name}, split {split}",
        extra_info={
            "dataset": dataset.name,
            "split": split,
            "connectivity": connectivity,
            "min_area": min_area,
            "left_out": left_out,
            "ids": _ids(dataset),
            "label_hashes": {file_name(dataset, item): _hash(item.label) for item in dataset.split(split)},
        },
    )
    result = ConvertedSplit(document)
    for item, components, problem in track(read_ahead(convert, dataset.split(split), workers=workers)):
        if components is None:
            result.failed.append(problem)
            left_out.append(file_name(dataset, item))
            continue
        height, width = components.size
        images.append({"id": ids[item.stem], "file_name": file_name(dataset, item), "height": height, "width": width})
        found = annotations_of(components, image_id=ids[item.stem], first_id=1)
        kept = [annotation for annotation in found if annotation["area"] >= min_area]
        for number, annotation in enumerate(kept, start=len(annotations) + 1):
            annotation["id"] = number
        annotations += kept
        result.dropped += len(found) - len(kept)
        if not found:
            result.empty.append(item.stem)
    return result


def _ids(dataset: Dataset) -> dict[str, Any]:
    """What of a description, beside its classes, decides the instances of a label map; as JSON gives it back."""
    remap = {str(source): target for source, target in dataset.remap.items()}
    return {"background": dataset.labels.background, "ignore": dataset.labels.ignore, "remap": remap}


def _hash(path: Path) -> str:
    """Tells one label map from another: by its bytes, as a copy of a dataset has other times; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return ""


def class_statistics(documents: Mapping[str, Mapping[str, Any]], dataset: Dataset) -> Sequence[dict[str, Any]]:
    """Instances of each class: their number in every split, their mean area in px, and how many are under 16 px."""
    areas: dict[int, list[int]] = {row["id"]: [] for row in categories(dataset)}
    counts: dict[int, dict[str, int]] = {row["id"]: dict.fromkeys(documents, 0) for row in categories(dataset)}
    for split, document in documents.items():
        for annotation in document["annotations"]:
            counts[annotation["category_id"]][split] += 1
            areas[annotation["category_id"]].append(annotation["area"])
    return [
        {
            "name": row["name"],
            "group": row["supercategory"],
            "instances": counts[row["id"]],
            "side": float(np.sqrt(np.mean(areas[row["id"]]))) if areas[row["id"]] else float("nan"),
            "small": sum(area < 16 for area in areas[row["id"]]),
        }
        for row in categories(dataset)
    ]
