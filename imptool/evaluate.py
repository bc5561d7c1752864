"""`imptool eval`: what a run, files of predictions, or the position prior are worth on a split; tables, files, a report."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from imptool.data.coco import read_coco, read_json
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import read_instances
from imptool.data.label_set import MAX_ID, ClassInfo, LabelSet
from imptool.data.layouts import Item
from imptool.evaluation.counts import Cells
from imptool.evaluation.from_files import (
    Predictions,
    find_maps,
    parse_remap,
    predicted_results,
    results_file,
)
from imptool.evaluation.instances import InstanceTally
from imptool.evaluation.measure import measure
from imptool.evaluation.record import METRICS, Evaluation, write_record
from imptool.evaluation.report import draw_examples, write_plots, write_report
from imptool.evaluation.sheets import bands_sheet, classes_sheet, precision_share, summary_sheet
from imptool.files import InputError
from imptool.report.progress import say
from imptool.report.tables import cell_text, terminal_table

if TYPE_CHECKING:
    import torch

    from imptool.checkpoint import TrainedModel


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation, whatever is measured.

    Attributes:
        split: None for the one that is meant: the recipe's, "val", or the only one.
        bands, boundary_f, boundary_iou: as in `Cells`.
        baseline: "prior" or None.
    """

    split: str | None
    bands: tuple[float, ...]
    boundary_f: str
    boundary_iou: str
    baseline: str | None
    workers: int
    console: Console

    def cells(self, labels: LabelSet) -> Cells:
        return Cells(len(labels.classes), self.bands, self.boundary_f, self.boundary_iou)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what its examples are drawn with: None, where no photographs were gone through."""

    result: Evaluation
    dataset: Dataset | None = None
    source: Predictions | None = None

    def predicted(self, item: Item, target: np.ndarray) -> np.ndarray | None:
        """The predicted channels [H, W] of an item, once more."""
        if self.source is None:
            return None
        return self.source.parse(self.source.load(item, target)).channels


def evaluate_run(trained: TrainedModel, request: Request, *, dataset: str | None, device: torch.device) -> Evaluated:
    """Measure a trained run on a split of its dataset, or of another with the same classes.

    Raises:
        InputError: the dataset has other classes than the model; as `measure`.
    """
    from imptool.evaluation.from_run import RunPredictions  # torch takes seconds

    recipe = trained.recipe
    found = load_dataset(dataset or recipe.dataset)
    if difference := trained.labels.difference(found.labels):
        raise InputError(f"{trained.source} was trained for other classes than {found.source} has: {difference}")
    split = request.split or recipe.val_split
    detects = trained.model.detects
    source = RunPredictions(trained, found, device)
    result = measure(
        source,
        main=trained.name,
        about={"model": trained.name, "weights": str(trained.source), "recipe": recipe.to_plain()},
        dataset=found,
        split=split,
        cells=request.cells(found.labels),
        instances=_tally(read_instances(found, split), found.labels) if detects else None,
        prior_from=recipe.train_split if request.baseline else None,
        workers=request.workers,
        console=request.console,
    )
    return Evaluated(result, found, source)


def evaluate_prior(request: Request, *, dataset: str) -> Evaluated:
    """Measure the position prior alone, counted on the split `train`."""
    found = load_dataset(dataset)
    result = measure(
        None,
        main="",
        about={},
        dataset=found,
        split=_split(request, found),
        cells=request.cells(found.labels),
        instances=None,
        prior_from="train",
        workers=request.workers,
        console=request.console,
    )
    return Evaluated(result, found)


def evaluate_predictions(
    path: Path, request: Request, *, dataset: str, remap: Sequence[str], resize: bool, missing_as_background: bool
) -> Evaluated:
    """Measure predictions of any origin: label PNGs in a folder, COCO results, or both as `imptool predict` writes them.

    Args:
        path: the folder, or the JSON.
        dataset: as `load_dataset` takes it; for results also a COCO JSON, whose categories and images they are.
        remap, resize, missing_as_background: as in `find_maps`.
    Raises:
        InputError: as `find_maps`, `predicted_results` and `measure`.
    """
    about = {"predictions": str(path)}
    results = results_file(path)
    if path.suffix.lower() == ".json" and not path.is_file():
        raise InputError(f"--predictions {path}: no such file")
    if Path(dataset).suffix.lower() == ".json":
        if results is None:
            raise InputError(f"--dataset {dataset} is a COCO JSON, which has no label maps: give a dataset YAML or folder")
        document = read_coco(Path(dataset))
        rows, labels = predicted_results(results, document), labels_of_document(document, Path(dataset))
        name = Path(dataset).stem
        return Evaluated(
            evaluate_results(rows, document, labels=labels, dataset=name, split=request.split or "all", about=about)
        )
    found = load_dataset(dataset)
    split, labels = _split(request, found), found.labels
    if path == results:
        document = read_instances(found, split)
        rows = predicted_results(path, document)
        return Evaluated(evaluate_results(rows, document, labels=labels, dataset=found.name, split=split, about=about))
    pairs = {source: target for text in remap for source, target in parse_remap(text, labels).items()}
    source = find_maps(path, found, split, remap=pairs, resize=resize, missing_as_background=missing_as_background)
    tally, notes = None, []
    if results is not None:
        try:
            document = read_instances(found, split)
            tally = _tally(document, labels)
            tally.add_all(predicted_results(results, document))
        except InputError as error:  # label maps are there all the same
            tally, notes = None, [f"no AP of {results}: {error}"]
    result = measure(
        source,
        main=path.resolve().name,
        about=about,
        dataset=found,
        split=split,
        cells=request.cells(labels),
        instances=tally,
        prior_from="train" if request.baseline else None,
        workers=request.workers,
        console=request.console,
    )
    result.notes += notes
    return Evaluated(result, found, source)


def write_evaluation(evaluated: Evaluated, folder: Path) -> list[Path]:
    """Write figures, plots and report; give their paths."""
    result = evaluated.result
    paths = write_record(result, folder) + write_plots(result, folder)
    examples = draw_examples(result, evaluated.dataset, evaluated.predicted) if evaluated.dataset and evaluated.source else {}
    return [*paths, write_report(result, folder, examples)]


def own_folder(measured: Path, split: str) -> Path:
    """Where the results of predictions or weights go that are in no run: an evaluation replaces its own.

    Raises:
        InputError: there are those of others.
    """
    name = measured.resolve().stem if measured.is_file() else measured.resolve().name
    folder = Path("evaluations", f"{name}-{split}")
    if not folder.exists() or not any(folder.iterdir()):
        return folder
    written = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    earlier = (written.get("predictions") or written.get("weights")) if isinstance(written, dict) else None
    if earlier != str(measured):
        raise InputError(f"{folder} already holds results of {earlier or 'something else'}: choose another --out")
    return folder


def _split(request: Request, dataset: Dataset) -> str:
    if request.split is not None or "val" in dataset.splits or len(dataset.splits) != 1:
        return request.split or "val"
    return next(iter(dataset.splits))


def _tally(document: Mapping[str, Any], labels: LabelSet) -> InstanceTally:
    return InstanceTally(document, frozenset(labels.ids[channel] for channel in labels.things))


def evaluate_results(
    results: Sequence[Mapping[str, Any]],
    document: Mapping[str, Any],
    *,
    labels: LabelSet,
    dataset: str,
    split: str,
    about: dict[str, Any],
) -> Evaluation:
    """Box and mask AP of COCO results against a COCO document, for which no photograph is read."""
    images = sorted(image["file_name"] for image in document["images"])
    if not images:
        raise InputError(f"{dataset}: split {split} has no images")
    tally = _tally(document, labels)
    tally.add_all(results)
    tally.seen = {image["id"] for image in document["images"]}
    digest = hashlib.sha256(
        json.dumps([labels.to_plain(), document["images"], document["annotations"]], sort_keys=True).encode()
    )
    return Evaluation(
        dataset,
        split,
        labels,
        digest.hexdigest()[:16],
        about,
        Path(about["predictions"]).stem,
        images,
        precision=tally.precision(images),
    )


def labels_of_document(document: Mapping[str, Any], source: Path) -> LabelSet:
    """The categories of a COCO document as a class list of things, without background."""
    if not document["categories"]:
        raise InputError(f"{source} has no categories")
    try:
        classes = [ClassInfo(id=row["id"], name=row["name"] or f"class {row['id']}") for row in document["categories"]]
    except ValidationError as error:
        raise InputError(f"{source}: categories: ids must be 0..{MAX_ID}") from error
    return LabelSet(tuple(sorted(classes, key=lambda info: info.id)), None, -1)


def print_evaluation(result: Evaluation, console: Console) -> None:
    """The tables on the terminal."""
    title = f"{result.dataset}, split {result.split}, {len(result.images):,} photographs (percent)"
    console.print(terminal_table(classes_sheet(title, result.labels, result.measured, result.precision), intervals=False))
    if result.measured:
        console.print(terminal_table(summary_sheet(result.measured)))
        if any(measured.cells.bands for measured in result.measured.values()):
            console.print(terminal_table(bands_sheet(result.measured), intervals=len(result.measured) == 1))
    for kind in result.precision:
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
        figures = {key: precision_share(result, f"{kind}/{key}") for key in keys}
        say(console, f"{kind} " + "  ".join(f"{key} {cell_text(figure)}" for key, figure in figures.items()))
    if not math.isnan(result.canvas_nonempty):
        say(console, f"photographs with a non-empty canvas: {result.canvas_nonempty:.1%}")
    for note in result.notes:
        say(console, f"note: {note}")
