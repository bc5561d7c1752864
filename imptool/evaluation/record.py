"""What an evaluation found, and its files: metrics.json for people, per_image.csv for looking, per_image.npz for comparing."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from imptool.data.coco import read_json
from imptool.data.label_set import LabelSet
from imptool.evaluation.counts import RECORD, Cells
from imptool.evaluation.figures import DEFINITIONS, Measured, Resampled, distance_key, groups_of
from imptool.evaluation.panoptic import PanopticMeasured, panoptic_plain, read_counts
from imptool.files import COUNTS_FILE, InputError, one_line, open_regular, sha256_of, whole_file, write_json
from imptool.metrics import bootstrap
from imptool.metrics.average_precision import DEFINITIONS as AP_DEFINITIONS
from imptool.metrics.average_precision import AveragePrecision, Matches, resampled_average_precision
from imptool.metrics.confusion import SUMMARY, mean_of_present
from imptool.metrics.conventions import DEFINITIONS as CONVENTIONS
from imptool.metrics.conventions import conventions
from imptool.metrics.panoptic import DEFINITIONS as PQ_DEFINITIONS
from imptool.version import __version__

SCHEMA = 3  # of metrics.json; 2 is the same without panoptic quality
ABOUT = ("model", "weights", "tta", "canvas", "fusion", "recipe", "predictions", "remap", "resize", "missing_as_background")
CANVASES = {
    "detections": "what the model detects",
    "empty": "nothing, instead of what the model detects",
    "true": "the true instances, instead of what the model detects",
}
"""What can be on the canvas of a model that is measured."""
METRICS, PER_IMAGE, COUNTS = "metrics.json", "per_image.csv", "per_image.npz"
RESAMPLED = ("AP", "AP50")  # which have intervals
_DAMAGE = (  # what reading a file raises that was cut, edited or swapped
    *(AttributeError, KeyError, TypeError, ValueError, IndexError, OSError, EOFError, ValidationError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),  # RuntimeError: of zipfile, for what it cannot unpack
)
_PACKAGES = ("torch", "torchvision", "numpy", "numba", "pycocotools")


@dataclass
class Evaluation:
    """Everything that is known after going through a split.

    Attributes:
        dataset: the dataset's name; `source` is where its description lies.
        labels_hash: tells classes, images and label maps from any others; "" where no label map was read.
        instances_hash: the same of the instances that AP is measured against; "" where it is not.
        about: what was measured: model, weights, recipe, test-time augmentation ("" for none) and what was on the canvas, where
            there is one; or the predictions' path.
        main: the predictor that is meant; the others stand beside it.
        images: the names of the images, sorted.
        measured: by predictor; the main one first.
        precision: "box", "mask" -> average precision of the main one.
        canvas_nonempty: share of images with anything on the canvas.
        panoptic: by what the things are; the first is meant, the components of the label map stand beside it. panoptic_truth:
            what the target's things are, "true" instances or "components"; "" where it is not measured.
        failed: what could not be used, and why. `notes`: what a person should look at.
    """

    dataset: str
    source: str
    split: str
    labels: LabelSet
    about: dict[str, Any]
    main: str
    images: list[str]
    labels_hash: str = ""
    instances_hash: str = ""
    measured: dict[str, Measured] = field(default_factory=dict)
    precision: dict[str, AveragePrecision] = field(default_factory=dict)
    canvas_nonempty: float = math.nan
    panoptic: dict[str, PanopticMeasured] = field(default_factory=dict)
    panoptic_truth: str = ""
    generator: dict[str, Any] | None = None
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tta(self) -> str:
        """The test-time augmentation that the figures are with, "" for none."""
        return str(self.about.get("tta") or "")

    @property
    def canvas(self) -> str:
        """What was on the canvas, of `CANVASES`; "" of what has none."""
        own = "" if math.isnan(self.canvas_nonempty) else "detections"  # of evaluations that do not say
        return str(self.about.get("canvas") or own)

    @property
    def swapped(self) -> bool:
        """Whether anything else than the model's own detections was on its canvas."""
        return self.canvas not in ("", "detections")

    @property
    def instances(self) -> dict[int, int]:
        """How many instances of each class id the target has; {} where no AP was measured."""
        return next((precision.matches.instances for precision in self.precision.values()), {})

    @cached_property
    def precision_resampled(self) -> Resampled:
        """AP and AP50 with those of resampled splits: "box/AP", "mask/class/3/AP50"."""
        found = Resampled({}, {}, {}, {})
        for kind, precision in self.precision.items():
            found |= _resampled_precision(kind, precision)
        return found

    def conventions(self, predictor: str) -> dict[str, float]:
        """The mIOU of a predictor as other tools define it."""
        if predictor not in self._conventions:
            measured = self.measured[predictor]
            blocks = measured.confusions()
            self._conventions[predictor] = conventions(measured.confusion, blocks, foreground=self.labels.foreground)
        return self._conventions[predictor]

    @cached_property
    def _conventions(self) -> dict[str, dict[str, float]]:
        return {}


def _resampled_precision(kind: str, precision: AveragePrecision) -> Resampled:
    matches, together = precision.matches, precision.matches.together
    few = matches.images < bootstrap.ENOUGH
    drawn, left_out = (
        {} if few else _of_resampled(matches, weights(matches.images))
        for weights in (bootstrap.draw_weights, bootstrap.leave_out_weights)
    )
    found = Resampled({}, {}, {}, {})
    for key in RESAMPLED:
        mean, of_classes = f"{kind}/{key}", [f"{kind}/class/{class_id}/{key}" for class_id in precision.per_class]
        per_class = [figures[key] for figures in precision.per_class.values()]
        found |= Resampled(
            {mean: precision.overall[key], **dict(zip(of_classes, per_class, strict=True))},
            {
                mean: bootstrap.effective_images(together),
                **dict(zip(of_classes, together.diagonal().tolist(), strict=True)),
            },
            {} if few else {mean: mean_of_present(drawn[key]), **dict(zip(of_classes, drawn[key].T, strict=True))},
            {} if few else {mean: mean_of_present(left_out[key])},
        )
    return found


def _of_resampled(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AP and AP50 of every class of resampled splits, each [b, K], of weights [b, N]; some splits at a time."""
    parts = [resampled_average_precision(matches, weights[start : start + 50]) for start in range(0, len(weights), 50)]
    return {key: np.concatenate([part[key] for part in parts]) for key in RESAMPLED}


def write_record(result: Evaluation, folder: Path) -> list[Path]:
    """Write `metrics.json`, and of semantic maps `per_image.csv`; and `per_image.npz`, which `imptool compare` reads."""
    for name in (METRICS, PER_IMAGE):
        (folder / name).unlink(missing_ok=True)  # of an earlier evaluation: half of each would be worse than none
    _write_counts(result, folder / COUNTS)
    if result.measured:
        _write_per_image(result, folder / PER_IMAGE)
    plain = to_plain(result) | {"counts": {"file": COUNTS, "sha256": sha256_of(folder / COUNTS, COUNTS_FILE)}}
    write_json(folder / METRICS, _plain(plain), indent=1)
    return [folder / name for name in (METRICS, PER_IMAGE, COUNTS) if (folder / name).is_file()]


def to_plain(result: Evaluation) -> dict[str, Any]:
    """All figures with their definitions, as plain values; shares are 0..1, nan where there is nothing to divide by."""
    return {
        "schema": SCHEMA,
        "versions": versions(),
        "definitions": DEFINITIONS,
        "units": "IOU, accuracy, AP and AR are shares, 0..1; null: not a number. Confusion matrices count pixels at the "
        "images' resolution: rows are target classes, columns predicted classes, in the order of per_class. "
        "Intervals are [low, high]; `photographs` says how many images each figure rests on.",
        "dataset": {
            "name": result.dataset,
            "source": result.source,
            "split": result.split,
            "labels_hash": result.labels_hash,
            "instances_hash": result.instances_hash,
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
        **({"panoptic": _panoptic(result)} if result.panoptic else {}),
    }


def _panoptic(result: Evaluation) -> dict[str, Any]:
    """The figures of the panoptic result that is meant, what it was held against, and those of the components beside it."""
    (first, main), *others = result.panoptic.items()
    beside = {kind: panoptic_plain(each) for kind, each in others}
    return {
        "truth": result.panoptic_truth,
        "things": first,
        **panoptic_plain(main),
        "beside": beside,
        "definitions": PQ_DEFINITIONS,
    }


def _semantic(result: Evaluation, name: str) -> dict[str, Any]:
    measured = result.measured[name]
    cells = measured.cells
    plain = _level(measured, "")
    plain["confusion"] = measured.confusion.tolist()
    plain["conventions"] = {key: {"miou": value, "means": CONVENTIONS[key]} for key, value in result.conventions(name).items()}
    plain["counted"] = {"bands": list(cells.bands), "boundary_f": cells.boundary_f, "boundary_iou": cells.boundary_iou}
    for key, counts in zip(("boundary_f", "boundary_iou"), cells.parts(measured.tally)[1:], strict=True):
        if key in measured.figures:
            plain |= {key: measured.figures[key], f"{key}_counts": counts.tolist()}
            plain["intervals"][key] = measured.intervals[key]
            plain["photographs"][key] = _count(measured.photographs[key])
    if cells.bands:
        rings = cells.rings(measured.counts)
        sums = np.cumsum(rings[:-1], axis=0)
        plain["bands"] = [
            {"width": width, **_level(measured, distance_key("band", width, "")), "confusion": matrix.tolist()}
            for width, matrix in zip(cells.bands, sums, strict=True)
        ]
        starts, ends = (0.0, *cells.bands), (*cells.bands, math.inf)
        plain["rings"] = [
            {"from": start, "to": end, **_level(measured, distance_key("ring", start, "")), "confusion": matrix.tolist()}
            for start, end, matrix in zip(starts, ends, rings, strict=True)
        ]
    return plain


def _level(measured: Measured, prefix: str) -> dict[str, Any]:
    """The figures of one confusion matrix: means, groups, classes, with their intervals and what these rest on."""
    figures, intervals, photographs = measured.figures, measured.intervals, measured.photographs

    def group(keys: Mapping[str, str]) -> dict[str, Any]:
        return {
            **{key: figures[full] for key, full in keys.items()},
            "intervals": {key: intervals[full] for key, full in keys.items()},
            "photographs": {key: _count(photographs[full]) for key, full in keys.items()},
        }

    plain = group({key: prefix + key for key in SUMMARY})
    plain["groups"] = {
        name: group({key: f"{prefix}group/{name}/{key}" for key in ("miou", "macc")}) for name in groups_of(measured.labels)
    }
    rows = []
    for info in measured.labels.classes:
        row: dict[str, Any] = {"id": info.id, "name": info.name}
        for key in ("iou", "accuracy", "boundary_f", "boundary_iou"):
            full = f"{prefix}class/{info.id}/{key}"
            if full in figures:
                row |= {
                    key: figures[full],
                    f"{key}_interval": intervals[full],
                    f"{key}_photographs": _count(photographs[full]),
                }
        rows.append(row)
    return plain | {"per_class": rows}


def _average_precision(result: Evaluation) -> dict[str, Any]:
    intervals, photographs = result.precision_resampled.intervals, result.precision_resampled.photographs

    def about(start: str) -> dict[str, Any]:
        return {
            "intervals": {key: intervals[start + key] for key in RESAMPLED},
            "photographs": {key: _count(photographs[start + key]) for key in RESAMPLED},
        }

    found = {}
    for kind, precision in result.precision.items():
        rows = {
            str(class_id): {**figures, **about(f"{kind}/class/{class_id}/")}
            for class_id, figures in precision.per_class.items()
        }
        instances = precision.matches.instances
        found[kind] = {**precision.overall, **about(f"{kind}/"), "per_class": rows, "instances": instances}
    return found


def _count(photographs: float) -> float:
    """A number of images as it is written: whole, or an effective number of two digits."""
    return int(photographs) if photographs == int(photographs) else round(photographs, 2)


def versions() -> dict[str, str]:
    """Of what takes part; asked of the packages' metadata, as importing torch takes seconds."""
    found = {"imptool": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _write_counts(result: Evaluation, path: Path) -> None:
    arrays: dict[str, Any] = {"images": np.frombuffer(json.dumps(result.images).encode(), np.uint8)}
    arrays |= {f"semantic/{number}": result.measured[name].records for number, name in enumerate(_in_file(result.measured))}
    arrays |= {f"panoptic/{kind}": each.records for kind, each in result.panoptic.items()}
    for kind, precision in result.precision.items():
        arrays |= {f"{kind}/{name}": array for name, array in precision.matches.to_arrays().items()}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _write_per_image(result: Evaluation, path: Path) -> None:
    """A row for each image of each predictor, the lowest mIOU first."""
    of_images = next(iter(result.panoptic.values())).of_images if result.panoptic else []
    pq = {name: "" if math.isnan(value) else f"{value:.4f}" for name, value in zip(result.images, of_images, strict=False)}
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        heads = ["predictor", "photograph", *SUMMARY, *(["pq"] if result.panoptic else [])]
        writer.writerow([*heads, *(f"iou {name}" for name in result.labels.names)])
        for name, measured in result.measured.items():
            columns = [*SUMMARY, *(f"class/{class_id}/iou" for class_id in result.labels.ids)]
            figures = np.stack([measured.of_images[key] for key in columns], axis=1)
            for place in np.argsort(figures[:, 0], kind="stable").tolist():  # nan comes last
                shown = ["" if math.isnan(value) else f"{value:.4f}" for value in figures[place].tolist()]
                if result.panoptic:
                    shown.insert(len(SUMMARY), pq[result.images[place]] if name == result.main else "")
                writer.writerow([name, result.images[place], *shown])


def load_record(path: Path) -> Evaluation:
    """Read what `write_record` wrote, so that every figure and its interval can be made again.

    Args:
        path: the folder, or its metrics.json.
    Raises:
        InputError: a file is missing, damaged, or of another version.
    """
    folder = path.parent if path.name == METRICS else path
    if not (folder / METRICS).exists():
        raise InputError(f"{path} holds no {METRICS}: imptool eval writes it")
    try:
        plain = read_json(folder / METRICS)
    except InputError:
        plain = None
    if not isinstance(plain, dict) or plain.get("schema") not in (2, SCHEMA):
        raise InputError(f"{folder / METRICS} is damaged, of another version, or not of imptool eval: evaluate again")
    try:
        if plain["counts"]["sha256"] != sha256_of(folder / COUNTS, COUNTS_FILE):
            raise ValueError(f"{COUNTS} was not written along with {METRICS}")
        return _loaded(plain, folder)
    except _DAMAGE as error:
        raise InputError(f"{folder} does not hold a whole evaluation ({one_line(error)}): evaluate again") from error


def _loaded(plain: Mapping[str, Any], folder: Path) -> Evaluation:
    about = plain["dataset"]
    labels = LabelSet.from_plain(about)
    with open_regular(folder / COUNTS, COUNTS_FILE) as file:
        _check_sizes(file)
        arrays = np.load(file, allow_pickle=False)
        images = json.loads(arrays["images"].tobytes())
        measured = {}
        for number, name in enumerate(_in_file(plain["semantic"].keys())):
            counted = plain["semantic"][name]["counted"]
            sizes = [counted[key] for key in ("boundary_f", "boundary_iou")]
            if not all(isinstance(size, str) for size in (*sizes, plain["main"])):
                raise TypeError("its sizes or names are no text")
            cells = Cells(len(labels.classes), tuple(map(float, counted["bands"])), *sizes)
            measured[name] = Measured(labels, cells, images, _checked(arrays[f"semantic/{number}"], cells, images))
        precision = {
            kind: AveragePrecision(
                {key: _number(figures[key]) for key in AP_DEFINITIONS},
                dict(sorted((int(key), _numbers(row)) for key, row in figures["per_class"].items())),
                Matches.from_arrays(
                    {name.removeprefix(f"{kind}/"): arrays[name] for name in arrays.files if name.startswith(f"{kind}/")}
                ),
            )
            for kind, figures in plain["average_precision"].items()
        }
        kinds = [plain["panoptic"]["things"], *plain["panoptic"]["beside"]] if "panoptic" in plain else []
        panoptic = {kind: read_counts(arrays[f"panoptic/{kind}"], labels, len(images)) for kind in kinds}
    if any(each.matches.images != len(images) for each in precision.values()):
        raise ValueError("its matches are of other images")
    if any(list(each.per_class) != each.matches.categories.tolist() for each in precision.values()):
        raise ValueError("its matches are of other classes")
    return Evaluation(
        dataset=about["name"],
        source=about["source"],
        split=about["split"],
        labels=labels,
        about={key: plain[key] for key in ABOUT if key in plain},
        main=plain["main"],
        images=images,
        labels_hash=about["labels_hash"],
        instances_hash=about["instances_hash"],
        measured=dict(sorted(measured.items(), key=lambda pair: pair[0] != plain["main"])),
        precision=precision,
        canvas_nonempty=_number(plain["canvas_nonempty"]),
        panoptic=panoptic,
        panoptic_truth=str(plain["panoptic"]["truth"]) if panoptic else "",
        generator=about["generator"],
        failed=about["left_out"],
        notes=about["notes"],
    )


_MOST_UNPACKED = 100  # times the size of the file, and 64 MiB; counts and names are packed to a third or a tenth


def _check_sizes(file: BinaryIO) -> None:
    """ValueError when the arrays of a file would take far more memory than it, or another amount than they say."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > 2**26 + _MOST_UNPACKED * size:
            raise ValueError(f"{COUNTS} would unpack to more than {_MOST_UNPACKED} times its size")
        for member in members:
            with archive.open(member) as packed:
                if np.lib.format.read_magic(packed) != (1, 0):
                    raise ValueError(f"{member.filename} has another version of its header")
                shape, _, dtype = np.lib.format.read_array_header_1_0(packed)
                if packed.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{member.filename} has another size than its shape {list(shape)} needs")
    file.seek(0)


def _in_file(predictors: Iterable[str]) -> list[str]:
    """The order of the predictors' counts: names need not be names of arrays."""
    return sorted(predictors)


def _checked(records: np.ndarray, cells: Cells, images: Sequence[str]) -> np.ndarray:
    if records.dtype != RECORD or records.ndim != 1:
        raise ValueError("its counts are no records")
    if len(records) and (records["cell"].max() >= cells.size or records["image"].max() >= len(images)):
        raise ValueError("its counts are of other classes or images")
    return records


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(row[name]) for name in AP_DEFINITIONS}


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
