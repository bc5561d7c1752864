"""`imptool predict`: every photograph under a folder to a label PNG, an overlay with class names and COCO results."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from imptool.checkpoint import TrainedModel
from imptool.data.coco import coco_document
from imptool.data.images import find_images, read_image, write_label_map
from imptool.data.label_set import LabelSet
from imptool.files import InputError, read_ahead, whole_file, write_json
from imptool.models.inference import Prediction, coco_results, parse_image
from imptool.report.overlays import overlay
from imptool.report.progress import say, track

_DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO}  # what the next photograph would meet as well
_WIDEST_JPEG = 65_500  # px, either way
_RESULTS = (  # of predict, eval, compare
    {"predictions.json", "images.json"},
    {"metrics.json", "report.html"},
    {"compare.md", "compare.csv"},
)


def predict(
    trained: TrainedModel, folder: Path, out: Path, *, device: torch.device, workers: int, console: Console
) -> list[str]:
    """Parse the photographs under `folder` into `out`, replacing results that an earlier run left there.

    Returns what is wrong with each photograph that could not be read, or its results not be written.

    Writes `labels/<name>.png`, `overlays/<name>.jpg`, `predictions.json` (COCO results) and `images.json` (a COCO document
    without annotations: image id = rank among the sorted relative paths, from 1, and the categories).
    Raises:
        InputError: no such folder, no photographs in it, or none that can be parsed.
        OSError: the disk takes no more.
    """
    if trained.model.semantic_head is None:
        raise InputError(f"{trained.source} is a {trained.name}: it has no semantic head to parse photographs with")
    paths = find_photographs(folder, out)
    say(console, f"{folder}: {len(paths):,} photographs")
    names = output_names([path.relative_to(folder) for path in paths])
    ids = {path: rank for rank, path in enumerate(paths, start=1)}
    labels = trained.labels
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    problems: list[str] = []
    found: Counter[str] = Counter()
    instances: Counter[str] = Counter()
    try:
        reading = read_ahead(read_image, paths, workers=workers)
        for path, image, problem in track(console, reading, "predict", total=len(paths)):
            if image is None:
                problems.append(problem)
                continue
            prediction = parse_image(trained.model, image, trained.recipe.input, device=device)
            if not images:
                _remove_results(out)  # only now that there is something to put in their place
                _write_results(trained, out, [], [])  # by which what a killed run leaves is known as its own
            try:
                found.update(_write_maps(image, prediction, labels, out, names[ids[path] - 1]))
            except OSError as error:
                if error.errno in _DISK:
                    raise
                problems.append(f"{path}: its results cannot be written: {error}")
                continue
            instances.update(labels.names[labels.things[label - 1]] for label in prediction.labels.tolist())
            results += coco_results(prediction, labels, image_id=ids[path])
            height, width = prediction.size
            file_name = path.relative_to(folder).as_posix()
            images.append({"id": ids[path], "file_name": file_name, "height": height, "width": width})
        if not images:
            raise InputError(f"{folder}: none of {len(paths)} photographs could be parsed: {problems[0]}")
    finally:  # whatever ends the loop, what is finished can be used
        if images:
            _write_results(trained, out, results, images)
    _print_summary(labels, found, instances, len(images), out, console)
    return problems


def output_names(relative: Sequence[Path]) -> list[str]:
    """A name without suffix for each photograph: its path without suffix, or with it where two would share one.

    A name whose label map or overlay would be called as a folder of others ends in "_".
    """
    names = [path.with_suffix("").as_posix() for path in relative]
    whole = [path.as_posix() for path in relative]
    folders = {parent.as_posix().lower() for path in relative for parent in path.parents}

    def is_folder(name: str) -> bool:
        return f"{name}.png".lower() in folders or f"{name}.jpg".lower() in folders

    while True:
        counts = Counter(name.lower() for name in names)  # some file systems do not tell case apart
        short = [index for index, name in enumerate(names) if counts[name.lower()] > 1 and len(name) < len(whole[index])]
        blocked = [index for index, name in enumerate(names) if is_folder(name)]
        if not short and not blocked:
            return names
        for index in {*short, *blocked}:
            names[index] = whole[index] if len(names[index]) < len(whole[index]) else f"{names[index]}_"


def find_photographs(folder: Path, out: Path) -> list[Path]:
    """The photographs under a folder, without imptool's own results; InputError when none are left or `out` is not free."""
    if out.is_dir() and any(out.iterdir()) and not (out / "predictions.json").is_file():
        raise InputError(f"{out} holds no results of imptool predict: remove it, or choose another --out")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the folder that holds the photographs")
    found = find_images(folder)
    parents = {parent for path in found for parent in path.relative_to(folder).parents}
    own = {parent for parent in parents if _is_results(folder / parent) or _is_inside(folder / parent, out)}
    paths = [path for path in found if own.isdisjoint(path.relative_to(folder).parents)]
    if not paths:
        besides = f" beside {len(found)} pictures that imptool made" if found else ""
        raise InputError(f"{folder} holds no photographs (jpg, png, webp, bmp or tiff){besides}")
    return paths


def _is_results(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _RESULTS)


def _is_inside(folder: Path, outer: Path) -> bool:
    return folder.resolve().is_relative_to(outer.resolve())


def _remove_results(out: Path) -> None:
    """Remove an earlier run's results: its maps would be mixed with the new ones."""
    for name in ("labels", "overlays"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("predictions.json", "images.json"):
        (out / name).unlink(missing_ok=True)


def _write_results(trained: TrainedModel, out: Path, results: list[dict[str, Any]], images: list[dict[str, Any]]) -> None:
    """Write predictions.json and images.json."""
    write_json(out / "predictions.json", results)
    categories = [{"id": info.id, "name": info.name, "supercategory": info.group} for info in trained.labels.classes]
    about = f"photographs parsed by {trained.name}"
    document = coco_document(images=images, annotations=[], categories=categories, description=about)
    write_json(out / "images.json", document, indent=1)


def _write_maps(image: np.ndarray, prediction: Prediction, labels: LabelSet, out: Path, name: str) -> list[str]:
    """Write overlay and label PNG; give the names of the classes that were found."""
    assert prediction.channels is not None
    ids = labels.to_ids(prediction.channels)
    names = dict(zip(labels.ids, labels.names, strict=True))
    picture = Image.fromarray(overlay(image, ids, class_names=names, background=labels.background))
    picture.thumbnail((_WIDEST_JPEG, _WIDEST_JPEG))  # larger ones alone are changed
    with whole_file(out / "overlays" / f"{name}.jpg") as temporary:
        picture.save(temporary, quality=90)
    write_label_map(out / "labels" / f"{name}.png", ids)
    return [names[index] for index in np.unique(ids).tolist() if index != labels.background]


def _print_summary(
    labels: LabelSet, found: Counter[str], instances: Counter[str], images: int, out: Path, console: Console
) -> None:
    table = Table("class", title="What was found")
    table.add_column("photographs", justify="right")
    table.add_column("instances", justify="right")
    for channel in labels.foreground:
        name = labels.names[channel]
        table.add_row(escape(name), str(found[name]), str(instances[name]))
    console.print(table)
    line = f"{images:,} photographs: {out}/labels, {out}/overlays, {out}/predictions.json, {out}/images.json"
    say(console, line)
