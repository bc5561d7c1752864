"""Panoptic quality of a split: what is counted of each image, and the figures with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from imptool import distributed
from imptool.data.coco import instances_of
from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.data.panoptic import Segments, fuse, panoptic_truth
from imptool.data.prediction import only_channels
from imptool.evaluation.counts import renumbered
from imptool.evaluation.figures import Resampled
from imptool.evaluation.from_files import Parsed
from imptool.files import InputError
from imptool.metrics import bootstrap
from imptool.metrics.panoptic import COUNTS, QUALITIES, class_means, count_segments, panoptic_quality
from imptool.recipe import Panoptic

RECORD = np.dtype([("image", "<u4"), ("channel", "<u2"), *((name, "<f8" if name == "iou" else "<u2") for name in COUNTS)])
"""The counts of one class of one image."""
DETECTIONS, COMPONENTS, FILES = "detections", "components", "segments"
"""What the things of a prediction are: a model's detections, components of its label map, or what files say."""
_STEP = 4096  # images at a time


@dataclass
class PanopticTally:
    """Counts so far, and the truth that predictions are held against.

    Attributes:
        document: converted instances of the split, as `read_instances` gives them.
        settings: how results are made of detections and label maps.
        records: by what the things are, a list of `RECORD` for each image.
    """

    dataset: Dataset
    document: Mapping[str, Any]
    settings: Panoptic
    records: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @cached_property
    def annotations(self) -> dict[str, list[dict[str, Any]]]:
        """Of each image, by its `file_name`."""
        found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.document["images"]}
        for row in self.document["annotations"]:
            found[row["image_id"]].append(row)
        return {image["file_name"]: found[image["id"]] for image in self.document["images"]}

    @property
    def truth(self) -> str:
        """What the target's things are: "true" instances, or "components" of its label map."""
        return truth_of(self.dataset, self.document)

    def target(self, item: Item) -> Segments:
        """The segments of an item's truth; InputError where it was not converted, or in another size."""
        name, ids = file_name(self.dataset, item), self.dataset.read_labels(item)
        if name not in self.annotations:
            raise InputError(f"{name} was left out when instances were converted: convert again with --force")
        try:
            instances = instances_of(self.annotations[name], (ids.shape[0], ids.shape[1]))
        except ValueError as error:
            raise InputError(f"the instances of {name} do not fit it: {error}; convert again with --force") from error
        return panoptic_truth(ids, instances, self.dataset.labels)

    def add(self, number: int, parsed: Parsed, target: Segments) -> None:
        """Count what was predicted of an image, and beside it the components of the predicted label map."""
        labels, found = self.dataset.labels, dict(parsed.segments)
        if parsed.channels is not None and COMPONENTS not in found:
            settings = self.settings.model_copy(update={"instances": COMPONENTS})
            found[COMPONENTS] = fuse(only_channels(parsed.channels), labels, settings)
        for kind, segments in found.items():
            counts = count_segments(segments, target, num_classes=len(labels.classes)).to_array()
            channels = np.flatnonzero(counts[:, 1:].any(axis=1))
            rows = np.zeros(len(channels), RECORD)
            rows["image"], rows["channel"] = number, channels
            for place, name in enumerate(COUNTS):
                rows[name] = counts[channels, place]
            self.records.setdefault(kind, []).append(rows)

    def measured(self, numbers: Sequence[int]) -> dict[str, PanopticMeasured]:
        """The counts of all processes, of the images with these numbers, by what the things are."""
        parts = distributed.gather(self.records)
        kinds = dict.fromkeys(kind for part in parts for kind in part)
        found = {}
        for kind in kinds:
            joined = np.concatenate([np.zeros(0, RECORD), *(rows for part in parts for rows in part.get(kind, ()))])
            ordered = joined[np.argsort(joined["image"], kind="stable")]
            found[kind] = PanopticMeasured(self.dataset.labels, len(numbers), renumbered(ordered, numbers))
        return found


def truth_of(dataset: Dataset, document: Mapping[str, Any]) -> str:
    """What the things of converted instances are: "true" ones, or "components" of the label maps."""
    info = document.get("info")
    split = isinstance(info, dict) and bool(info.get("components"))
    own = any(item.read_instances or item.read_numbers for items in dataset.splits.values() for item in items)
    return "true" if own and not split else COMPONENTS


@dataclass(frozen=True)
class PanopticMeasured:
    """What was counted of one prediction over a split.

    Attributes:
        images: how many.
        records: [n] `RECORD`, in the order of the images.
    """

    labels: LabelSet
    images: int
    records: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """Summed over the split, image by image: [C, 4] float64, the columns of `COUNTS`."""
        total = np.zeros((len(self.labels.classes), len(COUNTS)))
        for place, name in enumerate(COUNTS):
            np.add.at(total[:, place], self.records["channel"], self.records[name].astype(np.float64))
        return total

    @cached_property
    def figures(self) -> dict[str, float]:
        """By name: the means of `panoptic_quality`, "class/<id>/pq", "/sq" and "/rq"."""
        return {key: float(value) for key, value in self._figures_of(self.counts).items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of every figure; nan for those that rest on few images."""
        return self.resampled.intervals

    @cached_property
    def resampled(self) -> Resampled:
        """The figures with those of resampled splits."""
        if self.images < bootstrap.ENOUGH:
            return Resampled(self.figures, self.photographs, {}, {})
        drawn, left_out = (
            self._resampled(weights(self.images)) for weights in (bootstrap.draw_weights, bootstrap.leave_out_weights)
        )
        return Resampled(self.figures, self.photographs, drawn, {key: left_out[key] for key in self._means})

    @cached_property
    def photographs(self) -> dict[str, float]:
        """How many images every figure rests on; of a mean over classes the effective number."""
        classes = len(self.labels.classes)
        together = np.zeros((classes, classes))
        for _, _, counts in self._blocks():
            has = np.asarray(counts[..., 1:].any(axis=-1), np.float64)
            together += has.T @ has
        of_means = {
            key: bootstrap.effective_images(together[channels][:, channels]) for key, (_, channels) in self._means.items()
        }
        counted = {
            f"class/{class_id}/{key}": float(together[channel, channel])
            for key in QUALITIES
            for channel, class_id in enumerate(self.labels.ids)
        }
        return of_means | counted

    @property
    def of_images(self) -> list[float]:
        """PQ over the foreground classes of every image by itself."""
        foreground, things = self.labels.foreground, self.labels.things
        blocks = (panoptic_quality(counts, foreground=foreground, things=things)["pq"] for _, _, counts in self._blocks())
        return [float(value) for block in blocks for value in block]

    @property
    def _means(self) -> Mapping[str, tuple[str, Any]]:
        labels = self.labels
        means = class_means(foreground=labels.foreground, things=labels.things)
        return {key: (of, part) for key, (of, part) in means.items() if isinstance(part, slice) or len(part)}

    def _figures_of(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Of counts [..., C, 4], each [...]."""
        figures = panoptic_quality(counts, foreground=self.labels.foreground, things=self.labels.things)
        by_class = {key: figures.pop(f"class_{key}") for key in QUALITIES}
        return {key: figures[key] for key in self._means} | {
            f"class/{class_id}/{key}": by_class[key][..., channel]
            for key in QUALITIES
            for channel, class_id in enumerate(self.labels.ids)
        }

    def _resampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The figures of resampled splits, each [B], of weights [B, N]; some images at a time."""
        sums = np.zeros((len(weights), len(self.labels.classes) * len(COUNTS)))
        for first, last, counts in self._blocks():
            sums += weights[:, first:last].astype(np.float64) @ counts.reshape(last - first, -1)
        return self._figures_of(sums.reshape(len(weights), -1, len(COUNTS)))

    def _blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The counts [n, C, 4] of some images at a time: the first, the one behind the last."""
        for first in range(0, self.images, _STEP):
            last = min(first + _STEP, self.images)
            start, end = np.searchsorted(self.records["image"], [first, last])
            part = self.records[start:end]
            dense = np.zeros((last - first, len(self.labels.classes), len(COUNTS)))
            for place, name in enumerate(COUNTS):
                dense[part["image"] - first, part["channel"], place] = part[name]
            yield first, last, dense


def read_counts(records: np.ndarray, labels: LabelSet, images: int) -> PanopticMeasured:
    """Counts as a file holds them; ValueError where they cannot be those of these images and classes."""
    if records.dtype != RECORD or records.ndim != 1:
        raise ValueError("its panoptic counts are no records")
    if len(records) and (records["image"].max() >= images or records["channel"].max() >= len(labels.classes)):
        raise ValueError("its panoptic counts are of other images or classes")
    if (np.diff(records["image"].astype(np.int64)) < 0).any() or not np.isfinite(records["iou"]).all():
        raise ValueError("its panoptic counts are out of order, or no numbers")
    return PanopticMeasured(labels, images, records)


def panoptic_plain(measured: PanopticMeasured) -> dict[str, Any]:
    """Figures with their intervals, and how many images they rest on, as plain values."""
    figures, intervals, photographs = measured.figures, measured.intervals, measured.photographs
    means = [key for key in figures if not key.startswith("class/")]
    rows = []
    for channel, info in enumerate(measured.labels.classes):
        row: dict[str, Any] = {"id": info.id, "name": info.name, "thing": channel in measured.labels.things}
        full = {key: f"class/{info.id}/{key}" for key in QUALITIES}
        row |= {key: figures[name] for key, name in full.items()}
        row |= dict(zip(COUNTS[1:], map(int, measured.counts[channel, 1:]), strict=True))
        row |= {"pq_interval": intervals[full["pq"]], "images": int(photographs[full["pq"]])}
        rows.append(row)
    return {
        **{key: figures[key] for key in means},
        "intervals": {key: intervals[key] for key in means},
        "images": {key: round(photographs[key], 2) for key in means},
        "per_class": rows,
    }
