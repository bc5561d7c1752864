"""What is written about all images together: images.json, predictions.json and the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imptool.checkpoint import TrainedModel
from imptool.data.coco import coco_document
from imptool.files import whole_file, write_json
from imptool.prediction.journal import Journal, Record
from imptool.prediction.photographs import Photograph
from imptool.prediction.results import PAGE_FOLDERS, SAVED, SURE
from imptool.report.album import LEAST_SHARE, Picture, write_album
from imptool.report.page import Swatch
from imptool.report.progress import count_of


def listed(photographs: Sequence[Photograph], journal: Journal) -> list[Photograph]:
    """Those that are finished."""
    return [photograph for photograph in photographs if photograph.file_name in journal]


def write_lists(trained: TrainedModel, photographs: Sequence[Photograph], journal: Journal, out: Path, *, title: str) -> None:
    """Write what is about all images, going through the journal: it may not fit into memory."""
    journal.join([photograph.file_name for photograph in photographs])
    numbers = {photograph.file_name: photograph.number for photograph in listed(photographs, journal)}
    if not numbers:
        return
    saved = set(SAVED)
    images = []
    for row in map(journal.record, numbers):
        saved &= set(row["saved"])
        name = row["file_name"]
        images.append({"id": numbers[name], "file_name": name, "height": row["height"], "width": row["width"]})
    # What some of the images have not would be wrong of all of them.
    for what, file in (("coco", "predictions.json"), ("panoptic", "panoptic.json"), ("page", "index.html")):
        if what not in saved:
            (out / file).unlink(missing_ok=True)
    categories = [{"id": info.id, "name": info.name, "supercategory": info.group} for info in trained.labels.classes]
    about = f"images parsed by {trained.name}"
    write_json(
        out / "images.json",
        coco_document(images=images, annotations=[], categories=categories, description=about),
        indent=1,
    )
    if "coco" in saved:
        _write_coco(out / "predictions.json", journal, numbers)
    if "panoptic" in saved:
        _write_panoptic(out / "panoptic.json", trained, images, journal, about)
    if "page" in saved:
        classes = [
            Swatch(info.name, trained.labels.colours[info.id])
            for info in trained.labels.classes
            if info.id != trained.labels.background
        ]
        intro = (
            f"{count_of(len(numbers), 'image')}, parsed by {trained.name}. Choose classes to see the images whose parsed map "
            f"shows all of them. A class counts from {100 * LEAST_SHARE:g} % of an image on (1/{1 / LEAST_SHARE:.0f}), "
            "unless you choose another share. Open an image to compare it with the result."
        )
        if trained.model.detects:
            intro += f" Detected instances are counted apart: those with a score of at least {SURE:g}."
        write_album(out / "index.html", title, intro, classes, _pictures(trained, map(journal.record, numbers)))


def _write_coco(path: Path, journal: Journal, numbers: dict[str, int]) -> None:
    """The results of all images as one JSON list."""
    with whole_file(path) as temporary, temporary.open("w", encoding="ascii") as file:
        separator = "["
        for name, number in numbers.items():
            for row in journal.results(name):
                file.write(separator + json.dumps({**row, "image_id": number}, sort_keys=True, separators=(",", ":")))
                separator = ","
        file.write("[]\n" if separator == "[" else "]\n")


def _write_panoptic(path: Path, trained: TrainedModel, images: Sequence[Record], journal: Journal, about: str) -> None:
    """The segments of all images as COCO's panoptic JSON, image by image."""
    labels = trained.labels
    categories = [
        {"id": info.id, "name": info.name, "supercategory": info.group, "isthing": int(channel in labels.things)}
        for channel, info in enumerate(labels.classes)
    ]
    whole = coco_document(images=list(images), annotations=[], categories=categories, description=f"{about}, segments")
    del whole["annotations"]
    with whole_file(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write(json.dumps(whole, sort_keys=True, separators=(",", ":")).removesuffix("}") + ',"annotations":')
        separator = "["
        for image in images:
            record = journal.record(image["file_name"])
            row = {"image_id": image["id"], "file_name": f"{record['name']}.png", "segments_info": record["segments"]}
            file.write(separator + json.dumps(row, sort_keys=True, separators=(",", ":")))
            separator = ","
        file.write("]}\n")


def _pictures(trained: TrainedModel, records: Iterable[Record]) -> Iterator[Picture]:
    labels = trained.labels
    indices = {labels.ids[channel]: index for index, channel in enumerate(labels.foreground)}
    for record in records:
        name, pixels, save = record["name"], record["height"] * record["width"], record["saved"]
        found = sorted(record["classes"].items(), key=lambda pair: -pair[1])
        detected = record.get("detected") if trained.model.detects else None  # records of earlier versions do not tell
        files = {"labels": f"labels/{name}.png"} if "labels" in save else {}
        if "panoptic" in save:
            files["segments"] = f"panoptic/{name}.png"
        if "overlay" in save:
            files["overlay"] = f"overlays/{name}.jpg"
        if record.get("cutouts"):
            files[count_of(len(record["cutouts"]), "cut-out")] = f"cutouts/{name}/"
        yield Picture(
            name=record["file_name"],
            **{what: f"{folder}/{name}.jpg" for what, folder in PAGE_FOLDERS.items()},
            size=(record["height"], record["width"]),
            shares={indices[int(class_id)]: area / pixels for class_id, area in found},
            files=files,
            detections=None if detected is None else {indices[int(class_id)]: count for class_id, count in detected.items()},
        )
