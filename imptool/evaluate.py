"""`imptool eval`: a run, or the position prior, on a split: confusion, IOU, accuracy, boundary bands, average precision."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from rich.console import Console

from imptool import __version__, distributed
from imptool.checkpoint import TrainedModel
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import file_name, read_instances
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.data.samples import read_pair
from imptool.files import InputError, read_ahead, write_json
from imptool.metrics import average_precision, boundary, confusion
from imptool.metrics.prior import GRID, count_positions, predict_prior
from imptool.models.inference import Prediction, coco_results, parse_image
from imptool.report.plots import plot_bands
from imptool.report.progress import say, track
from imptool.report.tables import bands_table, classes_table, percent, summary_table

SCHEMA = 1  # of metrics.json
PRIOR = "prior"
_READ = ("image_id", "category_id", "segmentation", "iscrowd")  # boxes and areas are those of the masks, as in training


@dataclass
class Tally:
    """What one predictor's maps sum up to over a split.

    rings: [B + 1, C, C] by distance to the boundary; their sum is the confusion.
    """

    rings: np.ndarray
    bands: tuple[float, ...]
    labels: LabelSet

    def add(self, predicted: np.ndarray, target: np.ndarray) -> None:
        counts = {"num_classes": len(self.labels.classes), "ignore": self.labels.ignore_channel}
        if self.bands:
            self.rings += boundary.ring_confusions(predicted, target, bands=self.bands, **counts)
        else:
            self.rings[0] += confusion.confusion_matrix(predicted, target, **counts)

    @property
    def confusion(self) -> np.ndarray:
        return np.asarray(self.rings.sum(0))

    def summary(self) -> dict[str, float]:
        return confusion.summarize(self.confusion, foreground=self.labels.foreground)

    def band_summaries(self) -> list[dict[str, float]]:
        """The figures of every band, narrowest first."""
        if not self.bands:
            return []
        return [confusion.summarize(band, foreground=self.labels.foreground) for band in boundary.bands_of_rings(self.rings)]

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {**self.summary(), "per_class": self._per_class(self.confusion)}
        plain["confusion"] = self.confusion.tolist()
        if self.bands:
            plain["bands"] = [
                {"width": width, **summary, "per_class": self._per_class(counts), "confusion": counts.tolist()}
                for width, summary, counts in zip(
                    self.bands, self.band_summaries(), boundary.bands_of_rings(self.rings), strict=True
                )
            ]
            starts = (0.0, *self.bands)
            ends = (*self.bands, math.inf)
            plain["rings"] = [
                {"from": start, "to": end, **confusion.summarize(ring, foreground=self.labels.foreground)}
                for start, end, ring in zip(starts, ends, self.rings, strict=True)
            ]
        return plain

    def _per_class(self, counts: np.ndarray) -> list[dict[str, Any]]:
        rows = zip(self.labels.classes, confusion.class_iou(counts), confusion.class_accuracy(counts), strict=True)
        return [{"id": info.id, "name": info.name, "iou": iou, "accuracy": accuracy} for info, iou, accuracy in rows]


@dataclass
class InstanceTally:
    """The model's instances beside the converted ones, as far as the photographs have been gone through."""

    document: dict[str, Any]  # COCO, the whole split
    labels: LabelSet
    results: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)  # image ids

    @cached_property
    def _image_ids(self) -> dict[str, int]:
        return {image["file_name"]: image["id"] for image in self.document["images"]}

    def add(self, file_name: str, prediction: Prediction) -> None:
        """Add what was found in a photograph; one that was left out of the conversion is left out here."""
        image_id = self._image_ids.get(file_name)
        if image_id is not None:
            self.seen.add(image_id)
            self.results += coco_results(prediction, self.labels, image_id=image_id)

    def precision(self) -> dict[str, dict[str, Any]]:
        """Box and mask AP of the things, over the photographs that were added."""
        things = {self.labels.ids[channel] for channel in self.labels.things}
        images, rows = self.document["images"], self.document["annotations"]
        ground_truth = {
            "images": [image for image in images if image["id"] in self.seen],
            "categories": [category for category in self.document["categories"] if category["id"] in things],
            "annotations": [
                {key: row[key] for key in _READ if key in row}
                for row in rows
                if row["image_id"] in self.seen and row["category_id"] in things
            ],
        }
        kinds = {"box": "bbox", "mask": "segm"}
        return {
            kind: average_precision.average_precision(ground_truth, self.results, iou_type=name) for kind, name in kinds.items()
        }


@dataclass
class Evaluation:
    """Everything that is known after going through a split."""

    dataset: Dataset
    split: str
    trained: TrainedModel | None
    tallies: dict[str, Tally]  # by predictor: the model's name, "prior"
    precision: dict[str, dict[str, Any]] = field(default_factory=dict)  # "box", "mask" -> average precision
    images: int = 0
    canvas_nonempty: float = math.nan  # share of photographs with anything on the canvas
    failed: list[str] = field(default_factory=list)


def evaluate(
    trained: TrainedModel | None,
    *,
    dataset: str | None,
    split: str | None,
    bands: Sequence[float],
    baseline: str | None,
    device: torch.device,
    workers: int,
    console: Console,
) -> Evaluation:
    """Go through a split once, photograph by photograph; several processes share it, and all get the whole result.

    Args:
        trained: the model, or None for the baseline alone.
        dataset, split: in place of the recipe's.
        bands: widths in px; empty for no boundary bands.
        baseline: "prior", or None.
    Returns:
        The sums over the split; what could not be read is in `failed`.
    Raises:
        InputError: the dataset has other classes than the model, the split is missing, empty or wholly unreadable.
    """
    name = dataset or (trained.recipe.dataset if trained else "")
    source = load_dataset(name)
    labels = source.labels
    if trained is not None and (difference := trained.labels.difference(labels)):
        raise InputError(f"{trained.source} was trained for other classes than {source.source} has: {difference}")
    split = split or (trained.recipe.val_split if trained else "val")
    items = source.split(split)
    detects = trained is not None and trained.model.detects
    instances = InstanceTally(read_instances(source, split), labels) if detects else None

    predictors = ([trained.name] if trained and trained.model.semantic_head else []) + ([PRIOR] if baseline else [])
    shape = (len(bands) + 1 if bands else 1, len(labels.classes), len(labels.classes))
    tallies = {name: Tally(np.zeros(shape, np.int64), tuple(bands), labels) for name in predictors}
    result = Evaluation(source, split, trained, tallies)
    prior = _count_prior(result, trained, workers=workers, console=console) if baseline else None
    canvases: list[bool] = []

    read, own = partial(read_pair, source), distributed.own_share(items)
    for item, pair, problem in track(console, read_ahead(read, own, workers=workers), split, total=len(own)):
        if pair is None:
            result.failed.append(problem)
            continue
        image, target = pair
        result.images += 1
        if prior is not None:
            tallies[PRIOR].add(predict_prior(prior, target.shape), target)
        if trained is None:
            continue
        prediction = parse_image(trained.model, image, trained.recipe.input, device=device)
        if instances is not None:
            instances.add(file_name(source, item), prediction)
        if prediction.channels is not None:
            tallies[trained.name].add(prediction.channels, target)
        if prediction.canvas is not None:
            canvases.append(bool((prediction.canvas > 0).any()))
    _join(result, instances, canvases)
    if not result.images:
        raise InputError(
            f"{source.source}: none of the {len(items)} photographs of split {split} can be used; the first: {result.failed[0]}"
        )
    result.precision = instances.precision() if instances else {}
    result.canvas_nonempty = float(np.mean(canvases)) if canvases else math.nan
    return result


def _join(result: Evaluation, instances: InstanceTally | None, canvases: list[bool]) -> None:
    """Put together what all processes have found, in an order that does not depend on their number."""
    for tally in result.tallies.values():
        tally.rings = distributed.sum_of(tally.rings)
    result.images = sum(distributed.gather(result.images))
    result.failed[:] = sorted({problem for part in distributed.gather(result.failed) for problem in part})
    canvases[:] = [canvas for part in distributed.gather(canvases) for canvas in part]
    if instances is not None:
        instances.seen = set().union(*distributed.gather(instances.seen))
        rows = [row for part in distributed.gather(instances.results) for row in part]
        instances.results = sorted(rows, key=lambda row: row["image_id"])


def print_evaluation(result: Evaluation, console: Console) -> None:
    """The tables on the terminal."""
    tallies = result.tallies
    title = f"{result.dataset.name}, split {result.split}, {result.images} photographs (percent)"
    iou = {name: confusion.class_iou(tally.confusion) for name, tally in tallies.items()}
    accuracy = {name: confusion.class_accuracy(tally.confusion) for name, tally in tallies.items()}
    per_class_ap = {kind: figures["per_class"] for kind, figures in result.precision.items()}
    console.print(classes_table(title, result.dataset.labels, iou, accuracy, per_class_ap))
    if tallies:
        console.print(summary_table({name: tally.summary() for name, tally in tallies.items()}))
        if any(tally.bands for tally in tallies.values()):
            console.print(bands_table({name: (tally.bands, tally.band_summaries()) for name, tally in tallies.items()}))
    for kind, figures in result.precision.items():
        line = "  ".join(f"{key} {percent(figures[key])}" for key in ("AP", "AP50", "AP75", "APs", "APm", "APl"))
        say(console, f"{kind} {line}")
    if not math.isnan(result.canvas_nonempty):
        say(console, f"photographs with a non-empty canvas: {result.canvas_nonempty:.1%}")


def write_evaluation(result: Evaluation, folder: Path) -> list[Path]:
    """Write `metrics.json` and, with bands, `bands.png`; give the paths."""
    trained = result.trained
    plain = {
        "schema": SCHEMA,
        "versions": {
            "imptool": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "definitions": {**confusion.DEFINITIONS, **boundary.DEFINITIONS, **average_precision.DEFINITIONS},
        "units": "IOU, accuracy, AP and AR are shares, 0..1; null: not a number. Confusion matrices count pixels at the "
        "photographs' resolution: rows are target classes, columns predicted classes, in the order of per_class.",
        "dataset": {
            "name": result.dataset.name,
            "split": result.split,
            "photographs": result.images,
            "left_out": result.failed,
            "generator": result.dataset.generator.model_dump() if result.dataset.generator else None,
            **result.dataset.labels.to_plain(),
        },
        "model": trained.name if trained else None,
        "weights": str(trained.source) if trained else None,
        "recipe": trained.recipe.to_plain() if trained else None,
        "semantic": {name: tally.to_plain() for name, tally in result.tallies.items()},
        "average_precision": result.precision,
        "canvas_nonempty": result.canvas_nonempty,
    }
    paths = [folder / "metrics.json"]
    write_json(paths[0], _without_nan(plain), indent=1)
    curves = {
        name: {key: [band[key] for band in tally.band_summaries()] for key in ("miou", "macc")}
        for name, tally in result.tallies.items()
        if tally.bands
    }
    (folder / "bands.png").unlink(missing_ok=True)  # of an earlier evaluation with bands
    if curves:
        paths.append(folder / "bands.png")
        plot_bands(paths[1], next(iter(result.tallies.values())).bands, curves)
    return paths


def _count_prior(result: Evaluation, trained: TrainedModel | None, *, workers: int, console: Console) -> np.ndarray:
    """Count the classes by relative position over the training split: [C, gh, gw]."""
    dataset = result.dataset
    items = dataset.split(trained.recipe.train_split if trained else "train")
    labels = dataset.labels

    def count(item: Item) -> np.ndarray:
        target = labels.to_channels(dataset.read_labels(item))
        return count_positions(target, num_classes=len(labels.classes), ignore=labels.ignore_channel)

    total, own = np.zeros((len(labels.classes), *GRID), np.int64), distributed.own_share(items)
    for _, counts, problem in track(console, read_ahead(count, own, workers=workers), "position prior", total=len(own)):
        if counts is None:
            result.failed.append(problem)
        else:
            total += counts
    total = distributed.sum_of(total)
    if not total.any():
        raise InputError(f"{dataset.source}: the position prior has nothing to count in {len(items)} training photographs")
    return total


def _without_nan(value: Any) -> Any:
    """Plain values for JSON, which has neither nan nor infinity: null stands for both."""
    if isinstance(value, dict):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
