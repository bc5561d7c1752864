"""Detected instances beside the target's: box and mask AP over the images that were gone through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from imptool.data.segmentation import box_ring
from imptool.files import InputError
from imptool.metrics.average_precision import AveragePrecision, average_precision

KINDS = {"box": "bbox", "mask": "segm"}
OF_MASKS = ("image_id", "category_id", "segmentation", "iscrowd")  # boxes and areas are those of the masks, as in training
OWN_BOXES = (*OF_MASKS, "bbox", "area")


@dataclass
class InstanceTally:
    """Results so far, and the COCO document of the whole split that they are held against.

    Attributes:
        things: the category ids that count.
        read: what is read of its annotations.
        seen: ids of the images that have been gone through.
    """

    document: Mapping[str, Any]
    things: frozenset[int]
    read: tuple[str, ...] = OF_MASKS
    results: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @cached_property
    def image_ids(self) -> dict[str, int]:
        return {image["file_name"]: image["id"] for image in self.document["images"]}

    @cached_property
    def sizes(self) -> dict[int, tuple[int, int]]:
        return {image["id"]: (image["height"], image["width"]) for image in self.document["images"]}

    def add(self, name: str, results: Sequence[Mapping[str, Any]], size: tuple[int, ...]) -> None:
        """Add what was found in an image of this (height, width); one that was left out of the conversion is left out here.

        Raises:
            InputError: the instances are of another size.
        """
        image_id = self.image_ids.get(name)
        if image_id is not None:
            if (stated := self.sizes[image_id]) != size:
                raise InputError(
                    f"the instances of {name} are of an image of {stated[0]} x {stated[1]} px (height x width), it has "
                    f"{size[0]} x {size[1]}: convert again with --force"
                )
            self.seen.add(image_id)
            self.results += [{**row, "image_id": image_id} for row in results]

    def add_all(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add results that name their image; of images that are not gone through they leave no trace."""
        self.results += [dict(row) for row in results]

    def ground_truth(self, images: Sequence[str]) -> dict[str, Any]:
        """What results are held against, of the images that were gone through, in the order of their names."""
        rank = {name: number for number, name in enumerate(images)}
        chosen = [image for image in self.document["images"] if image["id"] in self.seen]
        return {
            "images": sorted(chosen, key=lambda image: (rank[image["file_name"]], image["id"])),
            "categories": [category for category in self.document["categories"] if category["id"] in self.things],
            "annotations": [
                {key: row[key] for key in self.read if key in row}
                for row in self.document["annotations"]
                if row["image_id"] in self.seen and row["category_id"] in self.things
            ],
        }

    def precision(self, images: Sequence[str]) -> tuple[dict[str, AveragePrecision], str, list[str]]:
        """AP by kind over the images that were added, the hash of its ground truth, and notes.

        Args:
            images: the names of all images, in the order by which the matches shall number them.
        """
        rank = {name: number for number, name in enumerate(images)}
        ground_truth = self.ground_truth(images)
        results = [row for row in self.results if row["category_id"] in self.things and row["image_id"] in self.seen]
        places = np.array([rank[image["file_name"]] for image in ground_truth["images"]], np.int64)
        boxes_alone = sum("segmentation" not in row for row in results)
        unmasked = sum("segmentation" not in row for row in ground_truth["annotations"])
        annotations = len(ground_truth["annotations"])
        no_masks = boxes_alone > 0 or unmasked == annotations > 0
        found = {}
        for kind, iou_type in KINDS.items():
            if kind == "mask" and no_masks:
                continue
            held = with_crowds(ground_truth) if kind == "mask" else ground_truth
            precision = average_precision(held, results, iou_type=iou_type)
            found[kind] = replace(precision, matches=precision.matches.renumbered(places, len(images)))
        notes = [f"{boxes_alone:,} of {len(results):,} results have no mask: box AP alone"] if boxes_alone else []
        if unmasked:
            meaning = "box AP alone" if no_masks else "crowds of their boxes in mask AP"
            notes.append(f"{unmasked:,} of {annotations:,} annotations of the ground truth have no mask: {meaning}")
        return found, hash_of_instances(ground_truth), notes


def with_crowds(ground_truth: dict[str, Any]) -> dict[str, Any]:
    """A ground truth in which every annotation without a mask is a crowd of its box: what is found there is not judged."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = []
    for row in ground_truth["annotations"]:
        ring = [] if "segmentation" in row else box_ring(row["bbox"], sizes[row["image_id"]])
        if ring is not None:
            annotations.append({**row, "segmentation": [ring], "iscrowd": 1} if ring else row)
    return {**ground_truth, "annotations": annotations}


def hash_of_instances(ground_truth: Mapping[str, Any]) -> str:
    """Tells a ground truth from others, whatever its images and annotations are numbered by."""
    names = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    sizes = sorted((image["file_name"], image["height"], image["width"]) for image in ground_truth["images"])
    rows = sorted(
        json.dumps([names[row["image_id"]], {**row, "image_id": 0}], sort_keys=True) for row in ground_truth["annotations"]
    )
    categories = sorted((category["id"], category["name"]) for category in ground_truth["categories"])
    return hashlib.sha256(json.dumps([sizes, categories, rows]).encode()).hexdigest()[:16]
