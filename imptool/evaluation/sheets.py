"""The tables of an evaluation, and of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from imptool.data.label_set import LabelSet
from imptool.evaluation.figures import Measured, Resampled, distance_key, groups_of
from imptool.evaluation.record import Evaluation
from imptool.metrics.bootstrap import ENOUGH, ENOUGH_FOR_MEAN
from imptool.metrics.panoptic import QUALITIES
from imptool.report.overlays import drawable
from imptool.report.page import Cell, Share, Swatch
from imptool.report.tables import Sheet

_Value = TypeVar("_Value")

WORDS = {
    "miou": "mIOU, foreground classes",
    "miou_with_background": "mIOU, with background",
    "miou_things": "mIOU, things",
    "macc": "mAcc, foreground classes",
    "macc_with_background": "mAcc, with background",
    "macc_things": "mAcc, things",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IOU",
    "boundary_f": "boundary F-score, mean over the foreground classes",
    "boundary_iou": "Boundary IoU, mean over the foreground classes",
    "box/AP": "box AP",
    "mask/AP": "mask AP",
    "panoptic/pq": "PQ, foreground classes",
    "panoptic/sq": "SQ, foreground classes",
    "panoptic/rq": "RQ, foreground classes",
    "panoptic/pq_things": "PQ, things",
    "panoptic/pq_stuff": "PQ, stuff",
}
"""The names of figures as tables and plots write them."""

TOO_FEW = f"none where a figure rests on fewer than {ENOUGH}, a mean over classes on fewer than {ENOUGH_FOR_MEAN}"

BY_CLASS = {"iou": "IOU", "accuracy": "acc", "boundary_f": "BF", "boundary_iou": "B-IoU"}


def share(measured: Measured, key: str) -> Share:
    """A figure with its interval."""
    return Share(measured.figures[key], *measured.intervals[key])


def precision_shares(result: Evaluation) -> dict[str, Share]:
    """Every figure of average precision, with its interval where it has one: "box/AP", "mask/class/3/APs"."""
    found = {f"{kind}/{key}": value for kind, each in result.precision.items() for key, value in each.overall.items()}
    for kind, each in result.precision.items():
        for class_id, figures in each.per_class.items():
            found |= {f"{kind}/class/{class_id}/{key}": value for key, value in figures.items()}
    none = (math.nan, math.nan)
    return {key: Share(value, *result.precision_resampled.intervals.get(key, none)) for key, value in found.items()}


def panoptic_shares(result: Evaluation) -> dict[str, Share]:
    """The panoptic figures that are meant, with their intervals: "panoptic/pq", "panoptic/class/3/sq"."""
    if not result.panoptic:
        return {}
    main = next(iter(result.panoptic.values()))
    return {f"panoptic/{key}": Share(value, *main.intervals[key]) for key, value in main.figures.items()}


def panoptic_resampled(result: Evaluation) -> Resampled:
    """The same with those of resampled splits."""
    if not result.panoptic:
        return Resampled({}, {}, {}, {})
    found = next(iter(result.panoptic.values())).resampled
    return Resampled(_prefixed(found.values), _prefixed(found.photographs), _prefixed(found.drawn), _prefixed(found.left_out))


def _prefixed(values: Mapping[str, _Value]) -> dict[str, _Value]:
    return {f"panoptic/{key}": value for key, value in values.items()}


def panoptic_sheet(result: Evaluation) -> Sheet:
    """PQ, SQ and RQ of every class that occurs, and their means; a column of PQ for what stands beside."""
    (first, main), *others = result.panoptic.items()
    labels = result.labels
    columns = [(main, QUALITIES), *((each, ("pq",)) for _, each in others)]

    def row(words: Cell, key: str) -> list[Cell]:
        keys = [(each, key.format(quality)) for each, qualities in columns for quality in qualities]
        return [words, *(Share(each.figures[name], *each.intervals[name]) for each, name in keys)]

    occurs = [(channel, info.id) for channel, info in enumerate(labels.classes) if main.counts[channel, 1:].any()]
    rows = [row(swatch(labels, channel), f"class/{class_id}/{{}}") for channel, class_id in occurs]
    means = {"foreground": "", "things": "_things", "stuff": "_stuff", "with background": "_with_background"}
    rows += [row(f"mean, {words}", f"{{}}{suffix}") for words, suffix in means.items() if f"pq{suffix}" in main.figures]
    truth = {"true": "true instances"}.get(result.panoptic_truth, result.panoptic_truth)
    heads = ["class", f"{first}\nPQ", "\nSQ", "\nRQ", *(f"{kind}\nPQ" for kind, _ in others)]
    return Sheet(f"Panoptic quality (percent); truth: {truth}", heads, rows)


def classes_sheet(
    title: str,
    labels: LabelSet,
    measured: Mapping[str, Measured],
    precision: Mapping[str, Share],
    *,
    pixels: bool = False,
) -> Sheet:
    """A row for each class: IOU and accuracy of every predictor, and AP of every kind.

    Classes without any figure, in no target and never predicted, are counted in the caption.

    Args:
        pixels: also the class's share of the target's pixels.
    """
    columns, cells_of = ["class"], []
    for number, (name, each) in enumerate(measured.items()):
        kinds = [key for key in BY_CLASS if f"class/{labels.ids[0]}/{key}" in each.figures]
        kinds = kinds if number == 0 else kinds[:2]  # of the prior, contours would only take room
        columns += [f"{name}\n{BY_CLASS[key]}" if place == 0 else f"\n{BY_CLASS[key]}" for place, key in enumerate(kinds)]
        cells_of += [(each, key) for key in kinds]
    kinds_of_ap = [kind for kind in ("box", "mask") if f"{kind}/AP" in precision]
    columns += [f"{kind}\nAP" for kind in kinds_of_ap]
    if pixels and measured:
        columns.append("of the target's\npixels")
        counts = next(iter(measured.values())).confusion.sum(axis=1)
        of_pixels = (counts / max(counts.sum(), 1)).tolist()
    rows: list[list[Cell]] = []
    for channel, info in enumerate(labels.classes):
        figures: list[Share | float] = [share(each, f"class/{info.id}/{key}") for each, key in cells_of]
        figures += [precision.get(f"{kind}/class/{info.id}/AP", math.nan) for kind in kinds_of_ap]
        if not all(math.isnan(figure.value if isinstance(figure, Share) else figure) for figure in figures):
            rows.append([swatch(labels, channel), *figures, *([of_pixels[channel]] if pixels and measured else [])])
    absent = len(labels.classes) - len(rows)
    caption = f"{absent} of {len(labels.classes)} classes absent: in no target, never predicted" if absent else ""
    return Sheet(title, columns, rows, caption)


def absent_classes(result: Evaluation) -> list[str]:
    """The names of the classes without a pixel in any target, and without an AP."""
    labels, precision = result.labels, precision_shares(result)
    pixels = [each.confusion.sum(axis=1) for each in result.measured.values()]
    return [
        info.name
        for channel, info in enumerate(labels.classes)
        if not any(counts[channel] for counts in pixels)
        and all(math.isnan(found.value) for key, found in precision.items() if key.endswith(f"/class/{info.id}/AP"))
    ]


def summary_sheet(measured: Mapping[str, Measured]) -> Sheet:
    """The means over the classes, a column for each predictor; and mIOU of every group of classes."""
    first = next(iter(measured.values()))
    same = first.labels.things == first.labels.foreground
    keys = [key for key in WORDS if key in first.figures and not (same and key.endswith("_things"))]
    rows: list[list[Cell]] = [[WORDS[key], *(share(each, key) for each in measured.values())] for key in keys]
    groups = groups_of(first.labels)
    if len(groups) > 1:
        rows += [[f"mIOU, group {name}", *(share(each, f"group/{name}/miou") for each in measured.values())] for name in groups]
    return Sheet("", ["over the split", *measured], rows, f"in brackets: 95 % interval over images; {TOO_FEW}")


def bands_sheet(measured: Mapping[str, Measured], *, rings: bool = False) -> Sheet:
    """mIOU, mAcc and pixel accuracy within each distance of the boundary, or in the rings between them."""
    first = next(iter(measured.values()))
    widths = first.cells.bands
    figures = {"miou": "mIOU", "macc": "mAcc", "pixel_accuracy": "pixel acc"}
    columns = ["from px" if rings else "within px"]
    columns += [f"{name if place == 0 else ''}\n{words}" for name in measured for place, words in enumerate(figures.values())]
    kind = "ring" if rings else "band"
    rows: list[list[Cell]] = [
        [f"{width:g}", *(share(each, distance_key(kind, width, key)) for each in measured.values() for key in figures)]
        for width in ((0.0, *widths) if rings else widths)
    ]
    return Sheet("In rings around the boundary (percent)" if rings else "Near the boundary (percent)", columns, rows)


def band_curves(
    measured: Mapping[str, Measured], widths: Sequence[float]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, np.ndarray]]]:
    """The curves of Figure 5 and their intervals, as `plot_bands` takes them."""
    keys = ("miou", "macc")
    curves = {
        name: {key: [each.figures[distance_key("band", width, key)] for width in widths] for key in keys}
        for name, each in measured.items()
    }
    intervals = {
        name: {key: np.array([each.intervals[distance_key("band", width, key)] for width in widths]) for key in keys}
        for name, each in measured.items()
    }
    return curves, intervals


def for_plots(measured: Mapping[str, Measured]) -> dict[str, Measured]:
    """The same under names that a plot can show: those of runs come from folders, and may hold anything."""
    names = [drawable(name) or "run" for name in measured]
    names = [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, start=1)]
    return dict(zip(names, measured.values(), strict=True))


def swatch(labels: LabelSet, channel: int) -> Swatch:
    info = labels.classes[channel]
    return Swatch(info.name, labels.colours[info.id])
