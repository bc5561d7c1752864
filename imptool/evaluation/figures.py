"""Every figure of semantic maps, from their counts: of a split, of each image, of each resampled split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from imptool.data.label_set import LabelSet
from imptool.evaluation.counts import Cells, blocks_of_images, dense_confusions, dense_tallies
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

OF_PIXELS = {"pixel_accuracy": confusion.pixel_accuracy, "frequency_weighted_iou": confusion.frequency_weighted_iou}
"""The figures of a confusion matrix that are neither of a class nor a mean over classes."""

Interval = tuple[float, float]
_CELLS = 2**22  # of resampled splits at a time


@dataclass(frozen=True)
class Resampled:
    """Figures by name, and what their intervals come from.

    Attributes:
        values: shares 0..1, or differences of them.
        photographs: how many each figure rests on.
        drawn: the figures of drawn splits, each [B]; {} where there are too few images for any interval.
        left_out: the means over classes of splits without some images, each [G]; {} as well.
        least: the smallest possible value.
        by_seed: of means over trainings (`over_seeds`), the figures of each, each [S]; {} of a single training.
    """

    values: Mapping[str, float]
    photographs: Mapping[str, float]
    drawn: Mapping[str, np.ndarray]
    left_out: Mapping[str, np.ndarray]
    least: float = 0
    by_seed: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of every figure; nan for those that rest on too few images."""
        means = [key for key in self.left_out if self.photographs[key] >= bootstrap.ENOUGH_FOR_MEAN]
        others = [key for key in self.drawn if key not in self.left_out and self.photographs[key] >= bootstrap.ENOUGH]
        found = dict.fromkeys(self.values, (math.nan, math.nan))
        if others:
            found |= self._over_seeds(others, None)
        if means:
            found |= self._over_seeds(means, _columns(self.left_out, means))
        return found

    def less(self, other: Resampled) -> Resampled:
        """The differences of the figures that both have; each rests on the fewer images of the two.

        Raises:
            ValueError: one is a mean over seeds: that of differences has their interval.
        """
        if self.by_seed or other.by_seed:
            raise ValueError("take the differences seed by seed, then their mean: over_seeds([a.less(b), ...])")
        keys = [key for key in self.values if key in other.values]
        return Resampled(
            {key: self.values[key] - other.values[key] for key in keys},
            {key: min(self.photographs[key], other.photographs[key]) for key in keys},
            {key: self.drawn[key] - other.drawn[key] for key in keys if key in self.drawn},
            {key: self.left_out[key] - other.left_out[key] for key in keys if key in self.left_out},
            least=-1,
        )

    def __or__(self, other: Resampled) -> Resampled:
        """The figures of both."""
        return Resampled(
            {**self.values, **other.values},
            {**self.photographs, **other.photographs},
            {**self.drawn, **other.drawn},
            {**self.left_out, **other.left_out},
            min(self.least, other.least),
            {**self.by_seed, **other.by_seed},
        )

    def _over_seeds(self, keys: Sequence[str], left_out: np.ndarray | None) -> dict[str, Interval]:
        """The intervals of means over classes, with their left_out [G, n]; of other figures, with None."""
        seeds = np.stack([np.atleast_1d(self.by_seed.get(key, self.values[key])) for key in keys], axis=1)
        images = [self.photographs[key] for key in keys]
        low_high = bootstrap.interval_over_seeds(seeds, _columns(self.drawn, keys), left_out, images)
        ends = (end.clip(self.least, 1).tolist() for end in low_high)
        return dict(zip(keys, zip(*ends, strict=True), strict=True))


def over_seeds(parts: Sequence[Resampled]) -> Resampled:
    """The means over trainings with several seeds, measured on the same images; their intervals hold for other seeds, too.

    The difference of two models with the same seeds is `over_seeds([a.less(b) for a, b in zip(ours, theirs)])`.

    Args:
        parts: S, one of each seed.
    Returns:
        values: the means over the seeds that have a figure; images: the fewest of a seed. A figure that a seed lacks
        is nan there in by_seed, rests on 0 images and so has no interval.
    Raises:
        ValueError: there is no part.
    """
    if not parts:
        raise ValueError("parts must be of at least one seed")
    keys = list(dict.fromkeys(key for part in parts for key in part.values))
    by_seed = {key: np.array([part.values.get(key, math.nan) for part in parts]) for key in keys}
    return Resampled(
        {key: float(confusion.mean_of_present(seeds)) for key, seeds in by_seed.items()},
        {key: min(part.photographs.get(key, 0) for part in parts) for key in keys},
        _means_over_seeds([part.drawn for part in parts]),
        _means_over_seeds([part.left_out for part in parts]),
        min(part.least for part in parts),
        by_seed,
    )


def _means_over_seeds(replicates: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Of the figures that all seeds have, the mean of each replicate over the seeds that have it there."""
    return {
        key: confusion.mean_of_present(np.stack([seed[key] for seed in replicates], axis=-1))
        for key in replicates[0]
        if all(key in seed for seed in replicates)
    }


@dataclass(frozen=True)
class Measured:
    """What was counted of one predictor over a split.

    Attributes:
        images: the names of the images, sorted.
        records: [n] `RECORD`, in the order of the images.
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
        """The confusion matrices of the images, in blocks of them: [b, C, C] int64."""
        return dense_confusions(self.records, self.cells, images=len(self.images))

    @cached_property
    def of_images(self) -> dict[str, np.ndarray]:
        """The figures of every image by itself, without distances and contours: each [N] float32."""
        cells = Cells(self.cells.num_classes)
        tallies = (confusion.tally(matrices).reshape(-1, cells.tally_size) for matrices in self.confusions())
        blocks = [figures_of(block, cells, self.labels) for block in tallies]
        return {
            key: np.concatenate([block[key] for block in blocks]).astype(np.float32) for key in (blocks[0] if blocks else ())
        }

    @cached_property
    def resampled(self) -> Resampled:
        """The figures with those of resampled splits; of equal images all are resampled alike."""
        if len(self.images) < bootstrap.ENOUGH:
            return Resampled(self.figures, self.photographs, {}, {})
        drawn, left_out = (
            self._figures_of(weights(len(self.images))) for weights in (bootstrap.draw_weights, bootstrap.leave_out_weights)
        )
        means = {key: left_out[key] for key in means_of(self.labels, self.cells)}
        return Resampled(self.figures, self.photographs, drawn, means)

    def _figures_of(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The figures of resampled splits, each [b], of weights [b, N]."""
        step = max(_CELLS // self.cells.tally_size, 1)
        blocks = [
            figures_of(self._resampled(weights[start : start + step]), self.cells, self.labels)
            for start in range(0, len(weights), step)
        ]
        return {key: np.concatenate([block[key] for block in blocks]) for key in self.figures}

    def _resampled(self, weights: np.ndarray) -> np.ndarray:
        """The tallies of resampled splits [b, tally_size], of weights [b, N]; some images at a time."""
        sums = np.zeros((len(weights), self.cells.tally_size), np.int64)
        for first, last, records in blocks_of_images(self.records):
            image, cell, count = self.cells.tally_records(records)
            images, num_cells = last - first, self.cells.tally_size
            sums += bootstrap.Resampler(image - first, cell, count, images=images, num_cells=num_cells)(weights[:, first:last])
        return sums

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of every figure; nan for those that rest on few images."""
        return self.resampled.intervals

    @cached_property
    def photographs(self) -> dict[str, float]:
        """How many images every figure rests on; of a mean over classes the effective number.

        An image counts for a figure of a class that it has by itself, and for the others where any of its pixels counts.
        """
        classes = self.cells.num_classes
        together = {key: np.zeros((classes, classes)) for key in class_figures(self.tally, self.cells)}
        pixels = dict.fromkeys(_prefixes(self.cells), 0)
        for tallies in dense_tallies(self.records, self.cells, images=len(self.images)):
            for key, values in class_figures(tallies, self.cells).items():
                has = (~np.isnan(values)).astype(np.float64)
                together[key] += has.T @ has
            for prefix, level in _levels(tallies, self.cells).items():
                pixels[prefix] += int(level[..., 2].any(axis=-1).sum())
        of_means = {
            key: bootstrap.effective_images(together[of][channels][:, channels])
            for key, (of, channels) in means_of(self.labels, self.cells).items()
        }
        of_pixels = {prefix + key: float(count) for prefix, count in pixels.items() for key in OF_PIXELS}
        of_classes = _by_class({key: np.diagonal(counts) for key, counts in together.items()}, self.labels)
        return {**of_means, **of_pixels, **{key: float(count) for key, count in of_classes.items()}}


def figures_of(tallies: np.ndarray, cells: Cells, labels: LabelSet) -> dict[str, np.ndarray]:
    """Every figure of tallies [..., tally_size], each [...]: shares 0..1, nan where there is nothing to divide by.

    Returns:
        The keys of `summarize`; "group/<name>/miou" and "/macc"; "class/<id>/iou" and "/accuracy". The same behind
        "band/<width>/" and "ring/<start>/". Where they were counted, "boundary_f" and "boundary_iou", means over the
        foreground classes, and "class/<id>/boundary_f" and "/boundary_iou".
    """
    by_class = class_figures(tallies, cells)
    figures = {
        key: confusion.mean_of_present(by_class[of][..., channels]) for key, (of, channels) in means_of(labels, cells).items()
    }
    for prefix, level in _levels(tallies, cells).items():
        figures |= {prefix + key: measure(level) for key, measure in OF_PIXELS.items()}
    return figures | _by_class(by_class, labels)


def class_figures(tallies: np.ndarray, cells: Cells) -> dict[str, np.ndarray]:
    """The figures of all classes, each [..., C], of tallies [..., tally_size]: "iou", "band/<width>/accuracy", "boundary_f"."""
    figures: dict[str, np.ndarray] = {}
    for prefix, level in _levels(tallies, cells).items():
        figures |= {f"{prefix}iou": confusion.class_iou(level), f"{prefix}accuracy": confusion.class_accuracy(level)}
    _, *contour_counts = cells.parts(tallies)
    measures = {"boundary_f": contours.boundary_f, "boundary_iou": contours.boundary_iou}
    for (key, measure), counts in zip(measures.items(), contour_counts, strict=True):
        if counts.size:
            figures[key] = measure(counts)
    return figures


def means_of(labels: LabelSet, cells: Cells) -> dict[str, tuple[str, Any]]:
    """Of every mean over classes: the figure of classes that it is the mean of, and the channels of these."""
    of_level = confusion.class_means(foreground=labels.foreground, things=labels.things)
    for name, channels in groups_of(labels).items():
        of_level |= {f"group/{name}/miou": ("iou", channels), f"group/{name}/macc": ("accuracy", channels)}
    means = {prefix + key: (prefix + of, channels) for prefix in _prefixes(cells) for key, (of, channels) in of_level.items()}
    return means | {key: (key, labels.foreground) for key in ("boundary_f", "boundary_iou") if getattr(cells, key)}


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


def _columns(replicates: Mapping[str, np.ndarray], keys: Sequence[str]) -> np.ndarray:
    """Of some figures their replicates: [B, n]."""
    return np.stack([replicates[key] for key in keys], axis=1)


def _prefixes(cells: Cells) -> list[str]:
    """What stands before the figures of the whole split, of each band, and of each ring."""
    if not cells.bands:
        return [""]
    bands = [distance_key("band", width, "") for width in cells.bands]
    return ["", *bands, *(distance_key("ring", start, "") for start in (0.0, *cells.bands))]


def _levels(tallies: np.ndarray, cells: Cells) -> dict[str, np.ndarray]:
    """By prefix, the tallies of matrices [..., C, 3] of tallies [..., tally_size]."""
    rings, _, _ = cells.parts(tallies)
    levels = [rings.sum(-3)]
    if cells.bands:
        levels += [*np.moveaxis(boundary.bands_of_rings(rings), -3, 0), *np.moveaxis(rings, -3, 0)]
    return dict(zip(_prefixes(cells), levels, strict=True))


def _by_class(figures: Mapping[str, np.ndarray], labels: LabelSet) -> dict[str, np.ndarray]:
    """Figures of all classes [..., C] as one [...] of each class: "band/<width>/iou" as "band/<width>/class/<id>/iou"."""
    found: dict[str, np.ndarray] = {}
    for key, values in figures.items():
        level, slash, name = key.rpartition("/")
        found |= {f"{level}{slash}class/{number}/{name}": values[..., channel] for channel, number in enumerate(labels.ids)}
    return found
