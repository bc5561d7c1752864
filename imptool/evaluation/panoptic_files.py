"""Anybody's panoptic predictions, from COCO's files: a JSON with `segments_info`, and a PNG for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imptool.data.coco import read_json
from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.images import read_colours
from imptool.data.layouts import Item
from imptool.data.panoptic import Segments, no_segments
from imptool.evaluation.from_files import Parsed, by_ending
from imptool.evaluation.panoptic import FILES
from imptool.files import JSON_FILE, InputError, open_regular, some


@dataclass(frozen=True)
class PredictedSegments:
    """Anybody's panoptic predictions in COCO's format: a JSON with `segments_info`, and a PNG for each image.

    Attributes:
        folder: of the PNGs. rows: {`file_name` of the dataset's image: its annotation}.
        missing_as_nothing: an image without prediction has no segments, instead of being left out.
        merged: takes the names of images in which several segments of one class that is no thing were made one.
    """

    path: Path
    folder: Path
    dataset: Dataset
    rows: Mapping[str, Mapping[str, Any]]
    missing_as_nothing: bool
    merged: set[str] = field(default_factory=set)

    def load(self, item: Item, target: np.ndarray) -> Parsed:
        """Read the segments of an image; InputError when they are missing, or JSON and PNG do not say the same."""
        name = file_name(self.dataset, item)
        row = self.rows.get(name)
        if row is None and not self.missing_as_nothing:
            raise InputError(f"{self.path} has no segments for {name}: predict it, or add --missing-as-background")
        if row is None:
            return Parsed(None, segments={FILES: no_segments((target.shape[0], target.shape[1]))})
        return Parsed(None, segments={FILES: self._read(row, name, target.shape)})

    def parse(self, loaded: Parsed) -> Parsed:
        """There is nothing left to do: a run's predictions are made here."""
        return loaded

    def notes(self, items: Sequence[Item]) -> list[str]:
        """What a person should look at."""
        notes = []
        if self.merged:
            names = some(sorted(self.merged))
            notes.append(
                f"several segments of one class that is no thing were made one in {len(self.merged):,} images: {names}"
            )
        missing = sum(file_name(self.dataset, item) not in self.rows for item in items)
        if missing and self.missing_as_nothing:
            notes.append(f"{missing:,} images without prediction count as images in which nothing was found")
        return notes

    def _read(self, row: Mapping[str, Any], name: str, size: tuple[int, ...]) -> Segments:
        path, labels = self.folder / row["file_name"], self.dataset.labels
        codes = read_colours(path, max_pixels=self.dataset.max_pixels)
        if codes.shape != size:
            sizes = f"{codes.shape[0]}x{codes.shape[1]}, its target {size[0]}x{size[1]}"
            raise InputError(f"{path} is {sizes} (height x width): predict at that size")
        categories = {segment["id"]: segment["category_id"] for segment in row["segments_info"]}
        in_png, place = np.unique(codes, return_inverse=True)
        drawn = set(in_png.tolist()) - {0}
        if unknown := sorted(drawn - categories.keys()):
            raise InputError(f"{path} holds segment {some(unknown)}, which {self.path} does not list for {name}")
        if empty := sorted(categories.keys() - drawn):
            raise InputError(f"{self.path}: {name} lists segment {some(empty)}, of which {path} has no pixel")
        channel_of_id = {class_id: channel for channel, class_id in enumerate(labels.ids)}
        numbers, channels = np.zeros(len(in_png), np.int32), []
        stuff: dict[int, int] = {}
        for where, code in enumerate(in_png.tolist()):
            if code == 0:
                continue
            channel = channel_of_id[categories[code]]
            if channel in stuff:
                self.merged.add(name)
                numbers[where] = stuff[channel]
                continue
            channels.append(channel)
            numbers[where] = len(channels)
            if channel not in labels.things:
                stuff[channel] = len(channels)
        count = len(channels)
        return Segments(
            numbers[place].reshape(codes.shape),
            np.array(channels, np.int64),
            np.zeros(count, np.bool_),
            np.ones(count, np.float32),
        )


def is_panoptic(path: Path) -> bool:
    """Whether a JSON holds panoptic predictions, and not results of detections, which are a list and may be large."""
    with suppress(OSError), open_regular(path, JSON_FILE) as file:  # which is told when it is read as a whole
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return False
    whole = read_json(path)
    if not isinstance(whole, dict) or not isinstance(whole.get("annotations"), list):
        return False
    rows = whole["annotations"]
    return not rows or any(isinstance(row, dict) and "segments_info" in row for row in rows)


def find_segments(path: Path, dataset: Dataset, split: str, *, missing_as_nothing: bool) -> PredictedSegments:
    """The panoptic predictions of a split in a COCO panoptic JSON, joined with its images by their names.

    Raises:
        InputError: the JSON is none of COCO's panoptic ones, its PNGs are not beside it, its categories are not the dataset's,
            or no image of the split is in it.
    """
    whole = read_json(path)
    try:
        rows = [_checked(row, place) for place, row in enumerate(whole["annotations"])]
        _check_categories(whole.get("categories"), rows, dataset)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no COCO panoptic JSON of {dataset.source}: {error}") from error
    if not rows and missing_as_nothing:
        return PredictedSegments(path, path.parent, dataset, {}, missing_as_nothing)
    if not rows:
        raise InputError(f"{path} has no annotations: --missing-as-background counts every image as one without segments")
    folders = [path.with_suffix(""), path.parent]
    folder = next((each for each in folders if any((each / row["file_name"]).is_file() for row in rows[:100])), None)
    if folder is None:
        raise InputError(
            f"{path}: its PNGs, such as {rows[0]['file_name']}, are neither in {' nor in '.join(map(str, folders))}"
        )
    names = _names_of_images(whole, rows)
    wanted = by_ending([{"file_name": file_name(dataset, item)} for item in dataset.split(split)], set(names))
    found = {image["file_name"]: names[name] for name, image in wanted.items()}
    if not found:
        raise InputError(f"{path}: none of its {len(rows)} images is one of split {split} of {dataset.source}")
    return PredictedSegments(path, folder, dataset, found, missing_as_nothing)


def _names_of_images(whole: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """{name of the image: annotation}; of a JSON without `images` the PNG's name with any suffix stands for it."""
    images = {image["id"]: image["file_name"] for image in whole.get("images") or () if isinstance(image, dict)}
    return {str(images.get(row["image_id"], row["file_name"])): row for row in rows}


def _checked(row: Any, place: int) -> dict[str, Any]:
    """An annotation with what is read of it."""
    if not isinstance(row, dict) or not isinstance(row.get("segments_info"), list):
        raise ValueError(f"annotations[{place}] has no segments_info")
    name = row.get("file_name")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"annotations[{place}] has no file_name of a PNG in the folder")
    for segment in row["segments_info"]:
        if not (isinstance(segment, dict) and type(segment.get("id")) is int and type(segment.get("category_id")) is int):
            raise ValueError(f"annotations[{place}] has a segment without id or category_id")
    ids = [segment["id"] for segment in row["segments_info"]]
    if len(set(ids)) < len(ids):
        raise ValueError(f"annotations[{place}] lists a segment twice")
    return {"image_id": row.get("image_id"), "file_name": name, "segments_info": row["segments_info"]}


def _check_categories(categories: Any, rows: Sequence[Mapping[str, Any]], dataset: Dataset) -> None:
    """ValueError where a class is none of the dataset's, has another name, or is thing here and stuff there."""
    labels = dataset.labels
    known = {info.id: (info.name, channel in labels.things) for channel, info in enumerate(labels.classes)}
    used = {segment["category_id"] for row in rows for segment in row["segments_info"]}
    if unknown := sorted(used - known.keys()):
        raise ValueError(f"category {some(unknown)} is no class of it")
    for category in categories or ():
        name, thing = known.get(category["id"], (None, False))
        if category["id"] not in used or name is None:
            continue
        if category.get("name", name) != name:
            raise ValueError(f"category {category['id']} is '{category['name']}' there and '{name}' here")
        if bool(category.get("isthing", thing)) != thing:
            here, there = ("a thing", "stuff") if thing else ("stuff", "a thing")
            raise ValueError(f"category {category['id']} ({name}) is {there} there and {here} here: set thing: in the dataset")
