"""Converted instances: where training looks for them, and whether they still fit their dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imptool.data.coco import read_coco
from imptool.data.dataset import Dataset
from imptool.data.export import Export, file_name, label_hash
from imptool.data.label_set import LabelSet
from imptool.data.output import path_from
from imptool.files import InputError, some, whole_file

INSTANCES = Path("instances")
_ORIGIN = ".made-from"
FEW = 10  # instances of a class, under which little can be learned of it or said about it
_NAMED = 10  # classes in a line


def instances_path(dataset: Dataset, split: str) -> Path:
    """Where `convert-instances` writes the instances of a split, and train and eval look for them."""
    return INSTANCES / dataset.name / f"{split}.json"


def note_origin(dataset: Dataset) -> None:
    """Write beside the instances where their dataset lies. Not into them: they have the same bytes on every machine."""
    folder = INSTANCES / dataset.name
    with whole_file(folder / _ORIGIN) as temporary:
        temporary.write_text(f"{path_from(folder, dataset.root)}\n", encoding="utf-8", errors="surrogateescape")


def check_origin(dataset: Dataset) -> None:
    """InputError where the instances of this name were made from a dataset that lies elsewhere."""
    folder = INSTANCES / dataset.name
    path = folder / _ORIGIN
    if not path.is_file():  # nothing was converted
        return
    origin = folder / path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    if origin.is_dir() and origin.resolve() != dataset.root.resolve():  # what is gone may have been moved here
        raise InputError(
            f"{folder}/ was made from {os.path.relpath(origin)}, another dataset called {dataset.name}: give this one a name "
            "of its own (name: ... in a dataset YAML), or train in another folder"
        )


def read_instances(dataset: Dataset, split: str) -> dict[str, Any]:
    """Read the converted instances of a split.

    Raises:
        InputError: there is no such split, it was not converted, or converted for other classes, ids, images or label
            maps. (An image that the conversion could not use is told when its turn comes.)
    """
    items = dataset.split(split)
    path = instances_path(dataset, split)
    if not path.exists():
        raise InputError(f"no {path}: make it with imptool convert-instances {dataset.source}")
    document = read_coco(path)
    found = {category["id"]: category["name"] for category in document["categories"]}
    if found != {row["id"]: row["name"] for row in categories(dataset)}:
        raise InputError(f"{path} was made for another class list than {dataset.source}: convert again with --force")
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    if info.get("ids", _ids(dataset)) != _ids(dataset):
        raise InputError(
            f"{path} was made with another background, ignore or remap than {dataset.source} has: convert again with --force"
        )
    left_out = info.get("left_out")
    converted = {image["file_name"] for image in document["images"]}
    converted |= {name for name in left_out if isinstance(name, str)} if isinstance(left_out, list) else set()
    wanted = {file_name(dataset, item) for item in items}
    if converted != wanted:
        raise InputError(
            f"{path} was made for other images than split {split} of {dataset.source} has "
            f"({len(wanted - converted)} new, {len(converted - wanted)} gone): convert again with --force"
        )
    hashes = {image["file_name"]: image.get("label_hash", "") for image in document["images"]}  # by hand: there is none
    changed = [item.label for item in items if hashes.get(file_name(dataset, item), "") not in ("", label_hash(item))]
    if changed:
        raise InputError(
            f"{path} was made from other label maps: {len(changed)} have changed, such as {changed[0]}: "
            "convert again with --force"
        )
    return document


def instances_to_detect(document: Mapping[str, Any], labels: LabelSet) -> dict[int, list[dict[str, Any]]]:
    """What there is to detect in the images that show anything, by their ids: things that are no crowds.

    Args:
        document: as `read_instances` gives it.
    Returns:
        `category_id` and `segmentation` of each instance; nothing else is kept, as every process that reads owns a copy.
    """
    things = {labels.ids[channel] for channel in labels.things}
    found: dict[int, list[dict[str, Any]]] = {}
    for row in document["annotations"]:
        if row["category_id"] in things and not row.get("iscrowd", 0):  # a crowd is no instance to learn
            found.setdefault(row["image_id"], []).append({key: row[key] for key in ("category_id", "segmentation")})
    return found


def untaught(dataset: Dataset, split: str, document: Mapping[str, Any], val: str, val_document: Mapping[str, Any]) -> list[str]:
    """What training on a split cannot teach, a line each: it shows no instance, none of a class that val shows, or few."""
    shown, asked = _instances_shown(document), _instances_shown(val_document)
    lines = [
        f"split {name} of {dataset.name} has no instance at all: nothing but background can be learned or measured there"
        for name, found in {split: shown, val: asked}.items()
        if not found
    ]
    missing = [info.name for info in dataset.labels.classes if info.id in asked.keys() - shown.keys()]
    if missing and shown:
        names = some(missing, _NAMED)
        lines.append(f"split {val} of {dataset.name} has classes that split {split} never shows, so none learns them: {names}")
    few = [f"{info.name} ({shown[info.id]})" for info in dataset.labels.classes if 0 < shown[info.id] < FEW]
    if few:
        lines.append(f"split {split} of {dataset.name} has fewer than {FEW} instances of: {some(few, _NAMED)}")
    return lines


def _instances_shown(document: Mapping[str, Any]) -> Counter[int]:
    """Instances by class id. Of what has no mask nothing is learned."""
    return Counter(row["category_id"] for row in document["annotations"] if not row.get("ignore"))


def categories(dataset: Dataset, *, panoptic: bool = False) -> list[dict[str, Any]]:
    """COCO categories with the dataset's ids: every class but the background; of panoptic ones this too, and `isthing`."""
    channels = range(len(dataset.labels.classes)) if panoptic else dataset.labels.foreground
    rows = []
    for channel in channels:
        info = dataset.labels.classes[channel]
        row = {"id": info.id, "name": info.name, "supercategory": info.group}
        rows.append(row | {"isthing": int(info.thing and info.id != dataset.labels.background)} if panoptic else row)
    return rows


def conversion_info(dataset: Dataset, split: str, export: Export) -> dict[str, Any]:
    """`info` of a converted split: what was made from what. No date: two runs write equal bytes."""
    what = "instances" if export.format == "coco" else "panoptic segments"
    options = {key: value for key, value in asdict(export).items() if key != "format"}
    return {
        "description": f"{what} of {dataset.name}, split {split}",
        "dataset": dataset.name,
        "split": split,
        "ids": _ids(dataset),
        **options,
    }


def _ids(dataset: Dataset) -> dict[str, Any]:
    """What of a description, beside its classes, decides the instances of a label map; as JSON gives it back."""
    remap = {str(source): target for source, target in dataset.remap.items()}
    return {"background": dataset.labels.background, "ignore": dataset.labels.ignore, "remap": remap}
