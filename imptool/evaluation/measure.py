"""Going through a split once, image by image: what every evaluation of predictions does."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from imptool import distributed
from imptool.data.dataset import Dataset
from imptool.data.export import file_name, label_hash
from imptool.data.layouts import Item
from imptool.data.panoptic import Segments
from imptool.evaluation.counts import Cells, Spool, renumbered
from imptool.evaluation.figures import Measured
from imptool.evaluation.from_files import Parsed, Predictions
from imptool.evaluation.instances import InstanceTally
from imptool.evaluation.panoptic import PanopticTally
from imptool.evaluation.record import Evaluation
from imptool.files import InputError, read_ahead
from imptool.metrics.prior import GRID, count_positions, predict_prior
from imptool.report.progress import count_of, say, track

PRIOR = "prior"
_MANY = 5000  # detections: a second


@dataclass(frozen=True)
class _Read:
    """What a thread has read of one image."""

    target: np.ndarray
    loaded: Any  # what the source gives: `Parsed`, or what it parses
    counts: dict[str, np.ndarray]  # by predictor, as far as they are there
    digest: str
    segments: Segments | None  # of the target, where panoptic quality is measured


def measure(
    source: Predictions | None,
    *,
    main: str,
    about: dict[str, Any],
    dataset: Dataset,
    split: str,
    cells: Cells,
    instances: InstanceTally | None,
    prior_from: str | None,
    workers: int,
    console: Console,
    panoptic: PanopticTally | None = None,
) -> Evaluation:
    """Go through a split once, image by image; several processes share it, and all get the whole result.

    Args:
        source: where predictions come from; None for the prior alone.
        main: the name of their predictor; about: what the files shall say of it.
        cells: what is counted of each image.
        instances: what detections are held against; None where there are none.
        prior_from: the split that the position prior is counted on; None for no prior.
        panoptic: what segments are held against; None where panoptic quality is not measured.
    Returns:
        The counts over the split; what could not be used is in `failed`.
    Raises:
        InputError: the split is missing, empty or wholly unusable.
    """
    # By name, whatever the order of the split: images are numbered alike in every evaluation of them.
    items = sorted(dataset.split(split), key=partial(file_name, dataset))
    labels = dataset.labels
    failed: list[str] = []
    prior = _count_prior(dataset, prior_from, failed, workers=workers, console=console) if prior_from else None
    read = partial(_read, source, main, dataset, items, cells, prior, panoptic)
    own = distributed.own_share(range(len(items)))
    digests: dict[int, str] = {}
    canvases: list[bool] = []
    with ExitStack() as stack:
        spools = {name: stack.enter_context(Spool()) for name in (main, PRIOR)}
        for number, found, problem in track(console, read_ahead(read, own, workers=workers), split, total=len(own)):
            if found is None:
                failed.append(problem)
                continue
            digests[number] = found.digest
            counts = found.counts
            if source is not None:
                parsed = source.parse(found.loaded)
                if main not in counts and parsed.channels is not None:
                    counts = {main: cells.count(parsed.channels, found.target, ignore=labels.ignore_channel), **counts}
                if instances is not None:
                    instances.add(file_name(dataset, items[number]), parsed.results, found.target.shape)
                if panoptic is not None and found.segments is not None:
                    panoptic.add(number, parsed, found.segments)
                if parsed.canvas is not None:
                    canvases.append(parsed.canvas)
            for predictor, vector in counts.items():
                spools[predictor].add(number, vector)
        records = {name: spool.records() for name, spool in spools.items() if spool.used}

    failed = sorted({problem for part in distributed.gather(failed) for problem in part})
    digests = {number: digest for part in distributed.gather(digests) for number, digest in part.items()}
    canvases = [canvas for part in distributed.gather(canvases) for canvas in part]
    if not digests:
        raise InputError(
            f"{dataset.source}: none of the {len(items)} images of split {split} can be used; the first: {failed[0]}"
        )
    images = [file_name(dataset, items[number]) for number in sorted(digests)]
    measured = {
        name: Measured(labels, cells, images, renumbered(each, sorted(digests))) for name, each in _joined(records).items()
    }
    result = Evaluation(
        dataset=dataset.name,
        source=str(dataset.source),
        split=split,
        labels=labels,
        about=about,
        main=main,
        images=images,
        labels_hash=_hash_of_labels(
            dataset, {name: digests[number] for name, number in zip(images, sorted(digests), strict=True)}
        ),
        measured=dict(sorted(measured.items(), key=lambda pair: pair[0] != main)),
        canvas_nonempty=float(np.mean(canvases)) if canvases else math.nan,
        generator=dataset.generator.model_dump() if dataset.generator else None,
        failed=failed,
        notes=[*dataset.remarks, *(source.notes(items) if source is not None else [])],
    )
    confusion = result.measured[main].confusion if main in result.measured else np.zeros((0, 0))
    if confusion.any() and not confusion[:, labels.foreground].any():
        result.notes.append(f"no class is found in any of {count_of(len(images), 'label map')}")
    if panoptic is not None:
        result.panoptic, result.panoptic_truth = panoptic.measured(sorted(digests)), panoptic.truth
    if instances is not None:
        add_precision(result, _joined_instances(instances), console)
    return result


def add_precision(result: Evaluation, instances: InstanceTally, console: Console) -> None:
    """Measure box and mask AP; of many results it takes minutes, all of them pycocotools' own."""
    if len(instances.results) > _MANY:
        say(console, f"box and mask AP of {len(instances.results):,} detections ...")
    result.precision, result.instances_hash, notes = instances.precision(result.images)
    result.notes += notes
    if not instances.results:
        result.notes.append(f"nothing is detected in any of {count_of(len(result.images), 'image')}")


def _read(
    source: Predictions | None,
    main: str,
    dataset: Dataset,
    items: Sequence[Item],
    cells: Cells,
    prior: np.ndarray | None,
    panoptic: PanopticTally | None,
    number: int,
) -> _Read:
    """Read an image's labels and what its prediction is made of; count what is there already."""
    item, labels = items[number], dataset.labels
    target = dataset.read_channels(item)
    loaded = source.load(item, target) if source is not None else None
    predicted = {main: loaded.channels} if isinstance(loaded, Parsed) and loaded.channels is not None else {}
    if prior is not None:
        predicted[PRIOR] = predict_prior(prior, (target.shape[0], target.shape[1]))
    counts = {name: cells.count(channels, target, ignore=labels.ignore_channel) for name, channels in predicted.items()}
    segments = panoptic.target(item) if panoptic is not None else None
    return _Read(target, loaded, counts, label_hash(item), segments)


def _joined(records: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The records of all processes, by predictor, in the order of the images."""
    parts = distributed.gather(records)
    if len(parts) == 1:
        return parts[0]  # in order, and mapped from a file: not to be copied
    names = dict.fromkeys(name for part in parts for name in part)
    joined = {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
    return {name: each[np.argsort(each["image"], kind="stable")] for name, each in joined.items()}


def _hash_of_labels(dataset: Dataset, digests: Mapping[str, str]) -> str:
    """Tells classes, remap, and the labels of these images from any others."""
    unmeasured = {"left_right", "colours"}
    labels = {key: value for key, value in dataset.labels.to_plain().items() if key not in unmeasured}
    told = [labels, sorted(dataset.remap.items(), key=_default_last), sorted(digests.items())]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _default_last(pair: tuple[int | str, int]) -> tuple[bool, int]:
    """The order of a remap's pairs."""
    return (False, pair[0]) if isinstance(pair[0], int) else (True, 0)


def _joined_instances(tally: InstanceTally) -> InstanceTally:
    """What all processes have found, in an order that does not depend on their number."""
    tally.seen = set().union(*distributed.gather(tally.seen))
    rows = [row for part in distributed.gather(tally.results) for row in part]
    tally.results = sorted(rows, key=lambda row: row["image_id"])
    return tally


def _count_prior(dataset: Dataset, split: str, failed: list[str], *, workers: int, console: Console) -> np.ndarray:
    """Count the classes by relative position over the training split: [C, gh, gw]."""
    items, labels = dataset.split(split), dataset.labels

    def count(item: Item) -> np.ndarray:
        target = dataset.read_channels(item)
        return count_positions(target, num_classes=len(labels.classes), ignore=labels.ignore_channel)

    total, own = np.zeros((len(labels.classes), *GRID), np.int64), distributed.own_share(items)
    for _, counts, problem in track(console, read_ahead(count, own, workers=workers), "position prior", total=len(own)):
        if counts is None:
            failed.append(problem)
        else:
            total += counts
    total = distributed.sum_of(total)
    if not total.any():
        raise InputError(f"{dataset.source}: the position prior has nothing to count in {len(items)} training images")
    return total
