"""Every figure of semantic maps, from their counts: of a split, of each photograph, of each resampled split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from imptool.data.label_set import LabelSet
from imptool.evaluation.counts import Cells, blocks_of_images, dense_confusions
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
_CELLS = 2**22  # of resampled splits at a time


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
        for _, _, part in blocks_of_images(self.records):
            np.add.at(total, part["cell"], part["count"].astype(np.int64))
        return total

    @cached_property
    def tally(self) -> np.ndarray:
        """What the figures of the split come from: [tally_size] int64."""
        return self.cells.tally(self.counts)

    @property
    def confusion(self) -> np.ndarray:
        """[C, C] int64."""
        return np.asarray(self.cells.rings(self.counts).sum(0))

    @cached_property
    def figures(self) -> dict[str, float]:
        """By name, as `figures_of` gives them."""
        return {key: float(value) for key, value in figures_of(self.tally, self.cells, self.labels).items()}

    def confusions(self) -> Iterator[np.ndarray]:
        """The confusion matrices of the photographs, in blocks of them: [b, C, C] int64."""
        return dense_confusions(self.records, self.cells, images=len(self.images))

    @cached_property
    def of_images(self) -> dict[str, np.ndarray]:
        """The figures of every photograph by itself, without distances and contours: each [N] float32."""
        blocks = [_figures(tallies, self.labels, held=tallies) for tallies in map(confusion.tally, self.confusions())]
        return {
            key: np.concatenate([block[key] for block in blocks]).astype(np.float32) for key in (blocks[0] if blocks else ())
        }

    @cached_property
    def replicates(self) -> dict[str, np.ndarray]:
        """The figures of the resampled splits, each [replicates]; of equal photographs they are drawn alike.

        Of too few photographs for any interval there is one of nan.
        """
        if len(self.images) < bootstrap.ENOUGH:
            return {key: np.full(1, np.nan) for key in self.figures}
        weights = bootstrap.draw_weights(len(self.images))
        step = max(_CELLS // self.cells.tally_size, 1)
        blocks = [
            figures_of(self._resampled(weights[start : start + step]), self.cells, self.labels, held=self.tally)
            for start in range(0, len(weights), step)
        ]
        return {key: np.concatenate([block[key] for block in blocks]) for key in self.figures}

    def _resampled(self, weights: np.ndarray) -> np.ndarray:
        """The tallies of resampled splits [b, tally_size], of weights [b, N]; some photographs at a time."""
        sums = np.zeros((len(weights), self.cells.tally_size), np.int64)
        for first, last, records in blocks_of_images(self.records):
            image, cell, count = self.cells.tally_records(records)
            images, num_cells = last - first, self.cells.tally_size
            sums += bootstrap.Resampler(image - first, cell, count, images=images, num_cells=num_cells)(weights[:, first:last])
        return sums

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of every figure; nan for those that rest on few photographs."""
        return intervals_of(self.replicates, {key: self._photographs(key) for key in self.replicates})

    @cached_property
    def _shown(self) -> dict[int, int]:
        """In how many photographs each class is, in target or prediction, by its id."""
        counts = np.zeros(self.cells.num_classes, np.int64)
        for matrices in self.confusions():
            counts += ((matrices.sum(-1) > 0) | (matrices.sum(-2) > 0)).sum(0)
        return dict(zip(self.labels.ids, counts.tolist(), strict=True))

    def _photographs(self, key: str) -> int:
        """How many photographs a figure rests on."""
        _, of_class, rest = f"/{key}".rpartition("/class/")
        if of_class:
            return self._shown[int(rest.partition("/")[0])]
        _, of_group, rest = f"/{key}".rpartition("/group/")
        if of_group:
            channels = groups_of(self.labels)[rest.rpartition("/")[0]]
            return max(self._shown[self.labels.ids[channel]] for channel in channels)
        return len(self.images)


def intervals_of(replicates: Mapping[str, np.ndarray], photographs: Mapping[str, int]) -> dict[str, Interval]:
    """The 95 % interval of figures from their values [replicates]; nan for those that rest on few photographs."""
    if not replicates:
        return {}
    bounds = bootstrap.interval(np.stack(list(replicates.values()), axis=1))
    few = [photographs[key] < bootstrap.ENOUGH for key in replicates]
    low, high = (np.where(few, math.nan, bound).tolist() for bound in bounds)
    return dict(zip(replicates, zip(low, high, strict=True), strict=True))


def figures_of(tallies: np.ndarray, cells: Cells, labels: LabelSet, *, held: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every figure of tallies [..., tally_size], each [...]: shares 0..1, nan where there is nothing to divide by.

    Args:
        held: the tally [tally_size] of the split that these were drawn from: a class that was not drawn takes part in means
            with its figure there, so that all means are over the same classes.
    Returns:
        The keys of `summarize`; "group/<name>/miou" and "/macc"; "class/<id>/iou" and "/accuracy". The same behind
        "band/<width>/" and "ring/<start>/". Where they were counted, "boundary_f" and "boundary_iou", means over the
        foreground classes, and "class/<id>/boundary_f" and "/boundary_iou".
    """
    (rings, *contour_counts), (held_rings, *held_counts) = (
        cells.parts(each) for each in (tallies, tallies if held is None else held)
    )
    figures = _figures(rings.sum(-3), labels, held=held_rings.sum(-3))
    for kind, starts, parts, held_parts in (
        ("band", cells.bands, boundary.bands_of_rings(rings), boundary.bands_of_rings(held_rings)),
        ("ring", (0.0, *cells.bands), rings, held_rings),
    ):
        if cells.bands:
            of_all = _figures(parts, labels, held=held_parts)
            for place, start in enumerate(starts):
                figures |= {distance_key(kind, start, key): value[..., place] for key, value in of_all.items()}
    measures = {"boundary_f": contours.boundary_f, "boundary_iou": contours.boundary_iou}
    for (key, measure), counts, held_ones in zip(measures.items(), contour_counts, held_counts, strict=True):
        if counts.size:
            values = confusion.or_held(measure(counts), measure(held_ones))
            figures[key] = confusion.mean_of_present(values[..., labels.foreground])
            figures |= {f"class/{class_id}/{key}": values[..., channel] for channel, class_id in enumerate(labels.ids)}
    return figures


def distance_key(kind: str, width: float, key: str) -> str:
    """The name of a figure within a band of a width, or in the ring that begins there."""
    return f"{kind}/{width!r}/{key}"


def groups_of(labels: LabelSet) -> dict[str, list[int]]:
    """The channels of every group of foreground classes, in the order of the class list."""
    groups: dict[str, list[int]] = {}
    for channel in labels.foreground:
        if labels.classes[channel].group:
            groups.setdefault(labels.classes[channel].group, []).append(channel)
    return groups


def _figures(tallies: np.ndarray, labels: LabelSet, *, held: np.ndarray) -> dict[str, np.ndarray]:
    """The figures of tallies [..., C, 3], each [...]."""
    figures = confusion.summarize(tallies, foreground=labels.foreground, things=labels.things, held=held)
    iou = confusion.or_held(confusion.class_iou(tallies), confusion.class_iou(held))
    accuracy = confusion.or_held(confusion.class_accuracy(tallies), confusion.class_accuracy(held))
    for name, channels in groups_of(labels).items():
        figures[f"group/{name}/miou"] = confusion.mean_of_present(iou[..., channels])
        figures[f"group/{name}/macc"] = confusion.mean_of_present(accuracy[..., channels])
    for channel, class_id in enumerate(labels.ids):
        figures[f"class/{class_id}/iou"], figures[f"class/{class_id}/accuracy"] = iou[..., channel], accuracy[..., channel]
    return figures
