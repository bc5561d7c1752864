"""What an evaluation found, and its files: metrics.json for people, per_image.csv for looking, per_image.npz for comparing."""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from imptool import __version__
from imptool.data.coco import read_json
from imptool.data.label_set import LabelSet
from imptool.evaluation.counts import RECORD, Cells
from imptool.evaluation.figures import DEFINITIONS, Interval, Measured, groups_of, intervals_of
from imptool.files import InputError, whole_file, write_json
from imptool.metrics import bootstrap
from imptool.metrics.average_precision import AveragePrecision, Matches, resampled_average_precision
from imptool.metrics.confusion import SUMMARY
from imptool.metrics.conventions import DEFINITIONS as CONVENTIONS
from imptool.metrics.conventions import conventions

SCHEMA = 2  # of metrics.json
METRICS, PER_IMAGE, COUNTS = "metrics.json", "per_image.csv", "per_image.npz"
_PACKAGES = ("torch", "torchvision", "numpy", "numba", "pycocotools")


@dataclass
class Evaluation:
    """Everything that is known after going through a split.

    Attributes:
        dataset: the dataset's name. `dataset_hash` tells its classes, photographs and labels from any others.
        about: what was measured: model, weights and recipe, or the path of the predictions.
        main: the predictor that is meant, "" where there is none but the prior.
        images: the names of the photographs, sorted.
        measured: by predictor; the main one first.
        precision: "box", "mask" -> average precision of the main one.
        instances: by class id, how many the target has; {} where they are not known.
        canvas_nonempty: share of photographs with anything on the canvas.
        failed: what could not be used, and why. `notes`: what a person should look at.
    """

    dataset: str
    split: str
    labels: LabelSet
    dataset_hash: str
    about: dict[str, Any]
    main: str
    images: list[str]
    measured: dict[str, Measured] = field(default_factory=dict)
    precision: dict[str, AveragePrecision] = field(default_factory=dict)
    canvas_nonempty: float = math.nan
    generator: dict[str, Any] | None = None
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def instances(self) -> dict[int, int]:
        """How many instances of each class id the target has; {} where no AP was measured."""
        return next((precision.matches.instances for precision in self.precision.values()), {})

    @cached_property
    def precision_replicates(self) -> dict[str, np.ndarray]:
        """AP of the resampled splits, each [replicates]: "box/AP", "mask/AP50"."""
        found: dict[str, list[np.ndarray]] = {}
        for weights in bootstrap.weight_blocks(len(self.images)) if self.precision else ():
            for kind, precision in self.precision.items():
                for key, values in resampled_average_precision(precision.matches, weights).items():
                    found.setdefault(f"{kind}/{key}", []).append(values)
        return {key: np.concatenate(blocks) for key, blocks in found.items()}

    @cached_property
    def precision_intervals(self) -> dict[str, Interval]:
        return intervals_of(self.precision_replicates, images=len(self.images))

    def conventions(self, predictor: str) -> dict[str, float]:
        """The mIOU of a predictor as other tools define it."""
        measured = self.measured[predictor]
        per_image = (matrix for block in measured.confusions() for matrix in block)
        return conventions(measured.confusion, per_image, foreground=self.labels.foreground)


def write_record(result: Evaluation, folder: Path) -> list[Path]:
    """Write `metrics.json`, and of semantic maps `per_image.csv`; and `per_image.npz`, which `imptool compare` reads."""
    write_json(folder / METRICS, _plain(to_plain(result)), indent=1)
    _write_counts(result, folder / COUNTS)
    if not result.measured:
        return [folder / METRICS, folder / COUNTS]
    _write_per_image(result, folder / PER_IMAGE)
    return [folder / METRICS, folder / PER_IMAGE, folder / COUNTS]


def to_plain(result: Evaluation) -> dict[str, Any]:
    """All figures with their definitions, as plain values; shares are 0..1, nan where there is nothing to divide by."""
    return {
        "schema": SCHEMA,
        "versions": {"imptool": __version__, "python": platform.python_version(), **_versions()},
        "definitions": DEFINITIONS,
        "units": "IOU, accuracy, AP and AR are shares, 0..1; null: not a number. Confusion matrices count pixels at the "
        "photographs' resolution: rows are target classes, columns predicted classes, in the order of per_class. "
        "Intervals are [low, high].",
        "dataset": {
            "name": result.dataset,
            "split": result.split,
            "hash": result.dataset_hash,
            "photographs": len(result.images),
            "left_out": result.failed,
            "notes": result.notes,
            "generator": result.generator,
            **result.labels.to_plain(),
        },
        "main": result.main,
        **result.about,
        "semantic": {name: _semantic(result, name) for name in result.measured},
        "average_precision": _average_precision(result),
        "canvas_nonempty": result.canvas_nonempty,
    }


def _semantic(result: Evaluation, name: str) -> dict[str, Any]:
    measured = result.measured[name]
    cells = measured.cells
    plain = _level(measured, "")
    plain["confusion"] = measured.confusion.tolist()
    plain["conventions"] = {key: {"miou": value, "means": CONVENTIONS[key]} for key, value in result.conventions(name).items()}
    plain["counted"] = {"bands": list(cells.bands), "boundary_f": cells.boundary_f, "boundary_iou": cells.boundary_iou}
    for key in ("boundary_f", "boundary_iou"):
        if key in measured.figures:
            plain |= {key: measured.figures[key]}
            plain["intervals"][key] = measured.intervals[key]
    if cells.bands:
        rings = cells.rings(measured.counts)
        sums = np.cumsum(rings[:-1], axis=0)
        plain["bands"] = [
            {"width": width, **_level(measured, f"band/{width:g}/"), "confusion": matrix.tolist()}
            for width, matrix in zip(cells.bands, sums, strict=True)
        ]
        starts, ends = (0.0, *cells.bands), (*cells.bands, math.inf)
        plain["rings"] = [
            {"from": start, "to": end, **_level(measured, f"ring/{start:g}/"), "confusion": matrix.tolist()}
            for start, end, matrix in zip(starts, ends, rings, strict=True)
        ]
    return plain


def _level(measured: Measured, prefix: str) -> dict[str, Any]:
    """The figures of one confusion matrix: means, groups, classes, and the intervals of the means."""
    figures, intervals = measured.figures, measured.intervals
    plain: dict[str, Any] = {key: figures[prefix + key] for key in SUMMARY}
    plain["intervals"] = {key: intervals[prefix + key] for key in SUMMARY}
    plain["groups"] = {
        name: {key: figures[f"{prefix}group/{name}/{key}"] for key in ("miou", "macc")} for name in groups_of(measured.labels)
    }
    rows = []
    for info in measured.labels.classes:
        start = f"{prefix}class/{info.id}/"
        row: dict[str, Any] = {"id": info.id, "name": info.name}
        for key in ("iou", "accuracy", "boundary_f", "boundary_iou"):
            if start + key in figures:
                row |= {key: figures[start + key], f"{key}_interval": intervals[start + key]}
        rows.append(row)
    return plain | {"per_class": rows}


def _average_precision(result: Evaluation) -> dict[str, Any]:
    return {
        kind: {
            **precision.overall,
            "per_class": {str(class_id): figures for class_id, figures in precision.per_class.items()},
            "intervals": {
                key.removeprefix(f"{kind}/"): interval
                for key, interval in result.precision_intervals.items()
                if key.startswith(f"{kind}/")
            },
            "instances": precision.matches.instances,
        }
        for kind, precision in result.precision.items()
    }


def _versions() -> dict[str, str]:
    """Of packages that take part; asked of their metadata, as importing torch takes seconds."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_counts(result: Evaluation, path: Path) -> None:
    arrays: dict[str, Any] = {"images": np.frombuffer(json.dumps(result.images).encode(), np.uint8)}
    arrays |= {f"semantic/{number}": result.measured[name].records for number, name in enumerate(_in_file(result.measured))}
    for kind, precision in result.precision.items():
        arrays |= {f"{kind}/{name}": array for name, array in precision.matches.to_arrays().items()}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _write_per_image(result: Evaluation, path: Path) -> None:
    """A row for each photograph of each predictor, the lowest mIOU first."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        heads = ["predictor", "photograph", *SUMMARY]
        writer.writerow([*heads, *(f"iou {name}" for name in result.labels.names)])
        for name, measured in result.measured.items():
            columns = [*SUMMARY, *(f"class/{class_id}/iou" for class_id in result.labels.ids)]
            figures = np.stack([measured.of_images[key] for key in columns], axis=1)
            for place in worst_first(figures[:, 0]):
                shown = ["" if math.isnan(value) else f"{value:.4f}" for value in figures[place].tolist()]
                writer.writerow([name, result.images[place], *shown])


def worst_first(figures: np.ndarray) -> list[int]:
    """The places of figures [N] from the lowest on, without those that are nan: these photographs show nothing to measure."""
    return [int(place) for place in np.argsort(figures, kind="stable") if not math.isnan(figures[place])]


def load_record(path: Path) -> Evaluation:
    """Read what `write_record` wrote, so that every figure and its interval can be made again.

    Args:
        path: the folder, or its metrics.json.
    Raises:
        InputError: a file is missing, damaged, or of another version.
    """
    folder = path.parent if path.name == METRICS else path
    if not (folder / METRICS).is_file():
        raise InputError(f"{path} holds no {METRICS}: imptool eval writes it")
    plain = read_json(folder / METRICS)
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise InputError(f"{folder / METRICS} is of another version of imptool eval, or none of its files: evaluate again")
    try:
        return _loaded(plain, folder)
    except (KeyError, TypeError, ValueError, IndexError, OSError, EOFError, ValidationError) as error:
        words = " ".join(str(error).split())[:120]
        raise InputError(f"{folder} does not hold a whole evaluation ({words}): evaluate again") from error


def _loaded(plain: Mapping[str, Any], folder: Path) -> Evaluation:
    about = plain["dataset"]
    labels = LabelSet.from_plain(about)
    with np.load(folder / COUNTS, allow_pickle=False) as arrays:
        images = json.loads(arrays["images"].tobytes())
        measured = {}
        for number, name in enumerate(_in_file(plain["semantic"])):
            counted = plain["semantic"][name]["counted"]
            cells = Cells(len(labels.classes), tuple(counted["bands"]), counted["boundary_f"], counted["boundary_iou"])
            measured[name] = Measured(labels, cells, images, _checked(arrays[f"semantic/{number}"], cells, images))
        precision = {
            kind: AveragePrecision(
                {key: _number(value) for key, value in figures.items() if not isinstance(value, dict)},
                {int(key): {name: _number(value) for name, value in row.items()} for key, row in figures["per_class"].items()},
                Matches.from_arrays(
                    {name.removeprefix(f"{kind}/"): arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}
                ),
            )
            for kind, figures in plain["average_precision"].items()
        }
    return Evaluation(
        about["name"],
        about["split"],
        labels,
        about["hash"],
        {key: plain[key] for key in ("model", "weights", "recipe", "predictions") if key in plain},
        plain["main"],
        images,
        dict(sorted(measured.items(), key=lambda pair: pair[0] != plain["main"])),
        precision,
        _number(plain["canvas_nonempty"]),
        about["generator"],
        about["left_out"],
        about["notes"],
    )


def _in_file(predictors: Iterable[str]) -> list[str]:
    """The order of the predictors' counts: names need not be names of arrays."""
    return sorted(predictors)


def _checked(records: np.ndarray, cells: Cells, images: Sequence[str]) -> np.ndarray:
    if records.dtype != RECORD or records.ndim != 1:
        raise ValueError("its counts are no records")
    if len(records) and (records["cell"].max() >= cells.size or records["image"].max() >= len(images)):
        raise ValueError("its counts are of other classes or photographs")
    return records


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    """Plain values for JSON, which has neither nan nor infinity: null stands for both."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
