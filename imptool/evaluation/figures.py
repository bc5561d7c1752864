"""Every figure of semantic maps, from their counts: of a split, of each photograph, of each resampled split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from imptool.data.label_set import LabelSet
from imptool.evaluation.counts import Cells, dense_confusions
from imptool.metrics import average_precision, bootstrap, boundary, confusion, contours

DEFINITIONS = {
    **confusion.DEFINITIONS,
    "group": "Means of IOU and accuracy over the classes of one group of the class list.",
    **boundary.DEFINITIONS,
    **contours.DEFINITIONS,
    **average_precision.DEFINITIONS,
    **bootstrap.DEFINITIONS,
}
"""One sentence for every figure."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What was counted of one predictor over a split.

    Attributes:
        images: the names of the photographs, sorted.
        records: [n] `RECORD`, in the order of the photographs.
    """

    labels: LabelSet
    cells: Cells
    images: list[str]
    records: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """Summed over the split: [size] int64."""
        total = np.zeros(self.cells.size, np.int64)
        for start in range(0, len(self.records), 2**20):
            part = self.records[start : start + 2**20]
            np.add.at(total, part["cell"], part["count"].astype(np.int64))
        return total

    @property
    def confusion(self) -> np.ndarray:
        """[C, C] int64."""
        return np.asarray(self.cells.rings(self.counts).sum(0))

    @cached_property
    def figures(self) -> dict[str, float]:
        """By name, as `figures_of` gives them."""
        return {key: float(value) for key, value in figures_of(self.counts, self.cells, self.labels).items()}

    def confusions(self) -> Iterator[np.ndarray]:
        """The confusion matrices of the photographs, in blocks of them: [b, C, C] int64."""
        return dense_confusions(self.records, self.cells, images=len(self.images))

    @cached_property
    def of_images(self) -> dict[str, np.ndarray]:
        """The figures of every photograph by itself, without distances and contours: each [N] float32."""
        blocks = [_figures(matrices, self.labels) for matrices in self.confusions()]
        return {
            key: np.concatenate([block[key] for block in blocks]).astype(np.float32) for key in (blocks[0] if blocks else ())
        }

    @cached_property
    def replicates(self) -> dict[str, np.ndarray]:
        """The figures of the resampled splits, each [replicates]; of equal photographs they are drawn alike."""
        blocks = []
        sums = bootstrap.Resampler(
            self.records["image"],
            self.records["cell"],
            self.records["count"],
            images=len(self.images),
            num_cells=self.cells.size,
        )
        for weights in bootstrap.weight_blocks(len(self.images)):
            blocks.append(figures_of(sums(weights), self.cells, self.labels))
        return {key: np.concatenate([block[key] for block in blocks]) for key in self.figures}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        return intervals_of(self.replicates, images=len(self.images))


def intervals_of(replicates: Mapping[str, np.ndarray], *, images: int) -> dict[str, Interval]:
    """The 95 % interval of every figure, from its values [replicates]; nan where there are not two images to draw from."""
    if images < 2 or not replicates:
        return dict.fromkeys(replicates, (math.nan, math.nan))
    low, high = bootstrap.interval(np.stack(list(replicates.values()), axis=1))
    return dict(zip(replicates, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def figures_of(counts: np.ndarray, cells: Cells, labels: LabelSet) -> dict[str, np.ndarray]:
    """Every figure of counts [..., size], each [...]: shares 0..1, nan where there is nothing to divide by.

    Returns:
        The keys of `summarize`; "group/<name>/miou" and "/macc"; "class/<id>/iou" and "/accuracy". The same behind
        "band/<width>/" and "ring/<start>/". Where they were counted, "boundary_f" and "boundary_iou", means over the
        foreground classes, and "class/<id>/boundary_f" and "/boundary_iou".
    """
    rings = cells.rings(counts)
    figures = _figures(rings.sum(-3), labels)
    for kind, starts, matrices in (
        ("band", cells.bands, boundary.bands_of_rings(rings)),
        ("ring", (0.0, *cells.bands), rings),
    ):
        if cells.bands:
            of_all = _figures(matrices, labels)
            for place, start in enumerate(starts):
                figures |= {f"{kind}/{start:g}/{key}": value[..., place] for key, value in of_all.items()}
    if cells.boundary_f:
        figures |= _by_class("boundary_f", contours.boundary_f(cells.boundary_f_counts(counts)), labels)
    if cells.boundary_iou:
        figures |= _by_class("boundary_iou", contours.boundary_iou(cells.boundary_iou_counts(counts)), labels)
    return figures


def groups_of(labels: LabelSet) -> dict[str, list[int]]:
    """The channels of every group of foreground classes, in the order of the class list."""
    groups: dict[str, list[int]] = {}
    for channel in labels.foreground:
        if labels.classes[channel].group:
            groups.setdefault(labels.classes[channel].group, []).append(channel)
    return groups


def _figures(matrices: np.ndarray, labels: LabelSet) -> dict[str, np.ndarray]:
    """The figures of confusion matrices [..., C, C], each [...]."""
    figures = confusion.summarize(matrices, foreground=labels.foreground, things=labels.things)
    iou, accuracy = confusion.class_iou(matrices), confusion.class_accuracy(matrices)
    for name, channels in groups_of(labels).items():
        figures[f"group/{name}/miou"] = confusion.mean_of_present(iou[..., channels])
        figures[f"group/{name}/macc"] = confusion.mean_of_present(accuracy[..., channels])
    for channel, class_id in enumerate(labels.ids):
        figures[f"class/{class_id}/iou"], figures[f"class/{class_id}/accuracy"] = iou[..., channel], accuracy[..., channel]
    return figures


def _by_class(key: str, values: np.ndarray, labels: LabelSet) -> dict[str, np.ndarray]:
    """A figure of every class [..., C], and its mean over the foreground."""
    of_classes = {f"class/{class_id}/{key}": values[..., channel] for channel, class_id in enumerate(labels.ids)}
    return {key: confusion.mean_of_present(values[..., labels.foreground]), **of_classes}
