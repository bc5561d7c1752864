"""Detected instances beside the target's: box and mask AP over the photographs that were gone through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from imptool.metrics.average_precision import AveragePrecision, average_precision

KINDS = {"box": "bbox", "mask": "segm"}
_READ = ("image_id", "category_id", "segmentation", "iscrowd")  # boxes and areas are those of the masks, as in training


@dataclass
class InstanceTally:
    """Results so far, and the COCO document of the whole split that they are held against.

    Attributes:
        things: the category ids that count.
        seen: ids of the images that have been gone through.
    """

    document: Mapping[str, Any]
    things: frozenset[int]
    results: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @cached_property
    def image_ids(self) -> dict[str, int]:
        return {image["file_name"]: image["id"] for image in self.document["images"]}

    def add(self, name: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Add what was found in a photograph; one that was left out of the conversion is left out here."""
        image_id = self.image_ids.get(name)
        if image_id is not None:
            self.seen.add(image_id)
            self.results += [{**row, "image_id": image_id} for row in results]

    def add_all(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add results that name their image; of images that are not gone through they leave no trace."""
        self.results += [dict(row) for row in results]

    def precision(self, images: Sequence[str]) -> dict[str, AveragePrecision]:
        """AP by kind over the photographs that were added; results without masks have box AP alone.

        Args:
            images: the names of all photographs, in the order by which the matches shall number them.
        """
        names = {image["id"]: image["file_name"] for image in self.document["images"]}
        rank = {name: number for number, name in enumerate(images)}
        chosen = sorted(
            (image for image in self.document["images"] if image["id"] in self.seen), key=lambda image: rank[names[image["id"]]]
        )
        ground_truth = {
            "images": chosen,
            "categories": [category for category in self.document["categories"] if category["id"] in self.things],
            "annotations": [
                {key: row[key] for key in _READ if key in row}
                for row in self.document["annotations"]
                if row["image_id"] in self.seen and row["category_id"] in self.things
            ],
        }
        results = [row for row in self.results if row["category_id"] in self.things and row["image_id"] in self.seen]
        places = np.array([rank[names[image["id"]]] for image in chosen], np.int64)
        found = {}
        for kind, iou_type in KINDS.items():
            if iou_type == "bbox" or all("segmentation" in row for row in results):
                precision = average_precision(ground_truth, results, iou_type=iou_type)
                found[kind] = replace(precision, matches=precision.matches.renumbered(places, len(images)))
        return found
