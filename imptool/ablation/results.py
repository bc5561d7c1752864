"""What the finished cells of a grid say: figures of every cell and differences of pairs, over seeds and images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from imptool.ablation.cells import Finished, evaluation_folder, read_finished
from imptool.ablation.grid import Ablation, Job, cells_of
from imptool.evaluation.figures import Resampled, over_seeds
from imptool.evaluation.record import METRICS, Evaluation, load_record, versions
from imptool.files import InputError
from imptool.metrics.bootstrap import is_significant
from imptool.report.page import Difference, Share

DETECTIONS, EMPTY, TRUE = "detections", "empty", "true"


@dataclass(frozen=True)
class Trained:
    """A finished cell of one seed, with its evaluations by what was on the canvas."""

    job: Job
    about: Finished
    evaluations: Mapping[str, Evaluation]

    @cached_property
    def resampled(self) -> dict[str, Resampled]:
        """Figures of label maps for each canvas, and with those of the detector for its own detections."""
        found = {canvas: each.measured[each.main].resampled for canvas, each in self.evaluations.items() if each.measured}
        own = self.evaluations[DETECTIONS]
        nothing = Resampled({}, {}, {}, {})
        return found | {DETECTIONS: found.get(DETECTIONS, nothing) | own.precision_resampled}


@dataclass(frozen=True)
class Results:
    """The finished part of a grid.

    Attributes:
        cells: name -> seed -> what was found; in the order of the grid.
        diverged: title -> why. missing: titles of cells that are not finished.
    """

    ablation: Ablation
    cells: Mapping[str, Mapping[int, Trained]]
    diverged: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()

    @cached_property
    def some(self) -> Evaluation:
        """An evaluation, of label maps where there are any: all are of the same images and classes."""
        found = [each.evaluations[DETECTIONS] for seeds in self.cells.values() for each in seeds.values()]
        return next((each for each in found if each.measured), found[0])

    def mean(self, cell: str, canvas: str = DETECTIONS) -> Resampled:
        """The figures of a cell, means over its seeds."""
        seeds = self.cells[cell].values()
        return self._means[cell, canvas] if (cell, canvas) in self._means else self._keep((cell, canvas), _of(seeds, canvas))

    def difference(self, one: str, other: str, canvas: str = DETECTIONS, canvas_of_other: str = DETECTIONS) -> Resampled:
        """The figures of a cell less those of another, seed by seed, then the mean over the seeds that both have."""
        key = (one, other, canvas, canvas_of_other)
        if key in self._means:
            return self._means[key]
        ours, theirs = self.cells[one], self.cells[other]
        parts = [
            ours[seed].resampled[canvas].less(theirs[seed].resampled[canvas_of_other])
            for seed in ours
            if seed in theirs and canvas in ours[seed].resampled and canvas_of_other in theirs[seed].resampled
        ]
        return self._keep(key, over_seeds(parts) if parts else Resampled({}, {}, {}, {}))

    def seeds_of(self, *cells: str) -> list[int]:
        """The seeds that all of some cells have."""
        return [seed for seed in self.cells[cells[0]] if all(seed in self.cells[cell] for cell in cells)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Those pairs that a seed has of both."""
        return [(one, other) for one, other in self.ablation.pairs if self.cells[one] and self.seeds_of(one, other)]

    def canvases(self, cell: str) -> list[str]:
        """What a cell was measured with on its canvas."""
        found = {canvas for each in self.cells[cell].values() for canvas in each.evaluations}
        return [canvas for canvas in (EMPTY, DETECTIONS, TRUE) if canvas in found]

    @cached_property
    def _means(self) -> dict[tuple[str, ...], Resampled]:
        return {}

    def _keep(self, key: tuple[str, ...], value: Resampled) -> Resampled:
        self._means[key] = value
        return value


def _of(seeds: Iterable[Trained], canvas: str) -> Resampled:
    parts = [each.resampled[canvas] for each in seeds if canvas in each.resampled]
    return over_seeds(parts) if parts else Resampled({}, {}, {}, {})


def load_results(ablation: Ablation, jobs: Sequence[Job]) -> Results:
    """Read what is finished of a grid.

    Raises:
        InputError: nothing is finished, a file is damaged, or cells were measured on different images.
    """
    cells: dict[str, dict[int, Trained]] = {}
    diverged: dict[str, str] = {}
    missing: list[str] = []
    for name in ablation.cells:
        cells[name] = {}
        for job in cells_of(jobs, name):
            about = read_finished(job)
            if about is None:
                missing.append(job.title)
            elif about.state == "diverged":
                diverged[job.title] = about.why
            else:
                cells[name][job.seed] = Trained(job, about, _evaluations(job))
    found = [each for seeds in cells.values() for each in seeds.values()]
    if not found:
        raise InputError(f"no cell of the grid is finished yet: {len(missing)} are not trained, {len(diverged)} diverged")
    _check_alike(found)
    return Results(ablation, cells, diverged, missing)


def _evaluations(job: Job) -> dict[str, Evaluation]:
    folders = {canvas: evaluation_folder(job, canvas) for canvas in (DETECTIONS, EMPTY, TRUE)}
    return {
        canvas: load_record(folder) for canvas, folder in folders.items() if canvas == DETECTIONS or (folder / METRICS).exists()
    }


def _check_alike(found: Sequence[Trained]) -> None:
    first = found[0].evaluations[DETECTIONS]
    for each in found:
        for evaluation in each.evaluations.values():
            if evaluation.images != first.images or evaluation.labels_hash != first.labels_hash:
                raise InputError(
                    f"{each.job.title} was measured on other images or label maps than {found[0].job.title}: remove its "
                    f"{each.job.folder} and let it be done again"
                )


def share(of: Resampled, key: str) -> Share:
    """A figure and its interval; nan where there is none."""
    if key not in of.values:
        return Share(math.nan, math.nan, math.nan)
    return Share(of.values[key], *of.intervals[key])


def difference(of: Resampled, key: str) -> Difference:
    """A difference, its interval, and whether that leaves out 0."""
    value, low, high = share(of, key)
    return Difference(value, low, high, bool(is_significant(low, high)))


def to_plain(results: Results, keys: Sequence[str]) -> dict[str, Any]:
    """The figures of some keys as plain values for JSON: means, intervals, and each seed's; None where there is none."""

    def figures(of: Resampled) -> dict[str, Any]:
        return {
            key: {
                "mean": _number(of.values[key]),
                "interval": [_number(end) for end in of.intervals[key]],
                "seeds": [_number(value) for value in of.by_seed.get(key, ())],
            }
            for key in keys
            if key in of.values
        }

    return {
        "versions": versions(),
        "ablation": results.ablation.model_dump(),
        "images": len(results.some.images),
        "labels_hash": results.some.labels_hash,
        "cells": {
            name: {
                "seeds": list(seeds),
                "canvas": {canvas: figures(results.mean(name, canvas)) for canvas in results.canvases(name)},
                "minutes": [each.about.minutes for each in seeds.values()],
                "milliseconds": [_rounded(each.about.milliseconds) for each in seeds.values()],
                "parameters": next((each.about.parameters for each in seeds.values()), 0),
                "device": sorted({f"{each.about.device}, {each.about.threads} threads" for each in seeds.values()}),
                "curve": {str(seed): each.about.curve for seed, each in seeds.items()},
            }
            for name, seeds in results.cells.items()
            if seeds
        },
        "pairs": [
            {"cells": [one, other], "seeds": results.seeds_of(one, other), **figures(results.difference(one, other))}
            for one, other in results.pairs
        ],
        "diverged": dict(results.diverged),
        "missing": list(results.missing),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
