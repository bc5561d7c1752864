"""The files of one image: label PNG, overlay, cut-outs, and the pictures of the page."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from imptool.data.components import Instances, find_components, mask_in_box
from imptool.data.export import write_segments
from imptool.data.images import read_image, resize_image, write_label_map
from imptool.data.label_set import LabelSet
from imptool.data.panoptic import fuse
from imptool.data.prediction import Prediction, coco_results
from imptool.data.tta import Tta
from imptool.files import InputError, whole_file
from imptool.journal import checksum
from imptool.prediction.journal import Record
from imptool.prediction.photographs import Photograph
from imptool.recipe import Input, Panoptic
from imptool.report.overlays import colour_classes, overlay

SAVED = ("labels", "overlay", "coco", "cutouts", "panoptic", "page")
"""What can be written, in the words of `--save`."""

SPECK = 1 / 5000
"""Share of an image; a smaller component is no garment to cut out, and a class of which no more is seen is not found."""

SURE = 0.5
"""The score from which a detection is counted on the page: most of all detections have low ones."""

PAGE_FOLDERS = {"photograph": "page/photographs", "parsed": "page/parsed", "thumbnail": "page/thumbnails"}
FOLDERS = ("labels", "overlays", "cutouts", "panoptic", "page")

_VIEW_SIDE, _PAGE_SIDE, _THUMBNAIL_SIDE = 2048, 1280, 360  # px of the long side at most: pictures to look at


@dataclass(frozen=True)
class Loaded:
    """What is kept of an image until it is parsed; the writer reads it again, as a large one takes much memory.

    size: (height, width) of the image. network: [h, w, 3] uint8 at every scale, as the network takes them. source:
    `source_of` it, before it was read.
    """

    size: tuple[int, int]
    network: list[np.ndarray]
    source: list[int]


def load(photograph: Photograph, size: Input, max_pixels: int, tta: Tta) -> Loaded:
    """Read an image; InputError when it is broken."""
    source = source_of(photograph) if photograph.path.is_file() else []
    image = read_image(photograph.path, max_pixels=max_pixels)
    return Loaded((image.shape[0], image.shape[1]), tta.resize(image, size), source)


def write_results(
    photograph: Photograph,
    source: list[int],
    prediction: Prediction,
    labels: LabelSet,
    out: Path,
    save: frozenset[str],
    fusion: Panoptic,
) -> tuple[Record, list[Record] | None]:
    """Write the files of one image, each whole or not at all; give what the journal tells of it, and its COCO results.

    Args:
        fusion: how the panoptic result is made, where `save` has it.
    Raises:
        InputError: the image is no longer what was parsed.
    """
    assert prediction.channels is not None
    _check_source(photograph, source)
    ids = labels.to_ids(prediction.channels)
    components = find_components(ids, skip=[] if labels.background is None else [labels.background])
    least = max(SPECK * ids.size, 1)
    areas = Counter[int]()
    for class_id, area in zip(components.class_ids.tolist(), components.areas.tolist(), strict=True):
        areas[class_id] += area
    record: Record = {
        "file_name": photograph.file_name,
        "name": photograph.name,
        "source": source,
        "saved": sorted(save),
        "height": ids.shape[0],
        "width": ids.shape[1],
        "classes": {str(class_id): area for class_id, area in areas.items() if area >= least},
        "instances": _count(prediction, labels, least_score=0),
        "detected": _count(prediction, labels, least_score=SURE),
    }
    files = _names(photograph.name, save)
    if "labels" in save:
        write_label_map(out / "labels" / f"{photograph.name}.png", ids)
    if "panoptic" in save:
        segments = fuse(prediction, labels, fusion)
        _, rows = write_segments(out / "panoptic" / f"{photograph.name}.png", segments, labels)
        scores = segments.scores[np.unique(segments.numbers[segments.numbers > 0]) - 1].tolist()
        record["segments"] = [{**row, "score": round(score, 5)} for row, score in zip(rows, scores, strict=True)]
        record["fusion"] = fusion.model_dump()
    if save & {"overlay", "page", "cutouts"}:
        image = read_image(photograph.path, max_pixels=ids.size)
        _check_source(photograph, source)
        if "cutouts" in save:
            record["cutouts"] = _write_cutouts(photograph.name, image, components, labels, out, least)
        view = _at_most(image, _VIEW_SIDE)
        _write_views(photograph.name, view, _nearest(ids, view), labels, out, save)
    files += [f"cutouts/{photograph.name}/{cutout}" for cutout in record.get("cutouts", [])]
    record["files"] = {name: checksum(out / name) for name in files}
    return record, coco_results(prediction, labels, image_id=None) if "coco" in save else None


def _count(prediction: Prediction, labels: LabelSet, *, least_score: float) -> Counter[str]:
    """Detections of each class id with at least a score."""
    sure = prediction.labels[prediction.scores >= least_score].tolist()
    return Counter(str(labels.ids[labels.things[label - 1]]) for label in sure)


def source_of(photograph: Photograph) -> list[int]:
    """What tells an image from another one of the same name: its bytes and the time of its last change."""
    status = photograph.path.stat()
    return [status.st_size, status.st_mtime_ns]


def _check_source(photograph: Photograph, source: list[int]) -> None:
    try:
        same = source_of(photograph) == source
    except OSError:
        same = False
    if not same:
        raise InputError(f"{photograph.path} has changed while it was parsed: --resume parses it again")


def are_whole(record: Record, out: Path) -> bool:
    """Whether the files that a record tells of are what was written."""
    return all(checksum(out / name) == written for name, written in record["files"].items())


def _names(name: str, save: frozenset[str]) -> list[str]:
    """The files of an image that is called so, but for its cut-outs."""
    files = {
        "labels": [f"labels/{name}.png"],
        "overlay": [f"overlays/{name}.jpg"],
        "panoptic": [f"panoptic/{name}.png"],
        "page": [f"{folder}/{name}.jpg" for folder in PAGE_FOLDERS.values()],
    }
    return [path for what, paths in files.items() if what in save for path in paths]


def _write_views(name: str, view: np.ndarray, ids: np.ndarray, labels: LabelSet, out: Path, save: frozenset[str]) -> None:
    names = dict(zip(labels.ids, labels.names, strict=True))
    if "overlay" in save:
        _write_jpeg(
            out / "overlays" / f"{name}.jpg",
            overlay(view, ids, class_names=names, background=labels.background, colours=labels.colours),
        )
    if "page" in save:
        photograph = _at_most(view, _PAGE_SIDE)
        shown = [class_id for class_id in labels.ids if class_id != labels.background]
        parsed = colour_classes(photograph, _nearest(ids, photograph), ids=shown, alpha=0.6, colours=labels.colours)
        pictures = {"photograph": photograph, "parsed": parsed, "thumbnail": _at_most(parsed, _THUMBNAIL_SIDE)}
        for what, picture in pictures.items():
            _write_jpeg(out / PAGE_FOLDERS[what] / f"{name}.jpg", picture)


def _write_cutouts(name: str, image: np.ndarray, components: Instances, labels: LabelSet, out: Path, least: float) -> list[str]:
    """Cut every component out of the image, transparent around it, the largest of a class first; give the files' names."""
    class_names = dict(zip(labels.ids, labels.names, strict=True))
    written: list[str] = []
    numbers = Counter[str]()
    for row in sorted(np.flatnonzero(components.areas >= least).tolist(), key=lambda row: -components.areas[row]):
        stem = file_stem(class_names[int(components.class_ids[row])])
        numbers[stem] += 1
        x, y, width, height = components.boxes[row].tolist()
        mask = mask_in_box(components, row)
        pixels = np.dstack([image[y : y + height, x : x + width] * mask[..., None], mask * 255])
        written.append(f"{stem}-{numbers[stem]}.png")
        with whole_file(out / "cutouts" / name / written[-1]) as temporary:
            Image.fromarray(pixels).save(temporary, compress_level=1)
    return sorted(written)


def file_stem(class_name: str) -> str:
    """A class name as part of a file's name, on any system: what is no letter, digit, "-" or "_" becomes "_"."""
    return re.sub(r"[^\w-]+", "_", class_name).strip("_")[:80] or "class"


def _nearest(ids: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A map resized to the size of a picture."""
    return cv2.resize(ids, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    """A picture made smaller where its long side is over `side` px."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return image if scale >= 1 else resize_image(image, (max(round(height * scale), 1), max(round(width * scale), 1)))


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=88)
