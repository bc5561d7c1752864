"""`imptool eval`: what a run, files of predictions, or the position prior are worth on a split; tables, files, a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from imptool import distributed
from imptool.data.coco import read_json, read_truth
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import instances_to_detect, read_instances
from imptool.data.label_set import MAX_ID, ClassInfo, LabelSet
from imptool.data.layouts import Item
from imptool.data.output import check_apart, check_free, contents, refuse_link, results_folder
from imptool.data.tta import parse_tta
from imptool.evaluation.counts import Cells
from imptool.evaluation.from_files import RESULTS, Predictions, find_maps, parse_remap, predicted_results
from imptool.evaluation.instances import OF_MASKS, OWN_BOXES, InstanceTally
from imptool.evaluation.measure import PRIOR, add_precision, measure
from imptool.evaluation.record import CANVASES, COUNTS, METRICS, PER_IMAGE, Evaluation, write_record
from imptool.evaluation.report import draw_examples, write_plots, write_report
from imptool.evaluation.sheets import bands_sheet, classes_sheet, precision_shares, summary_sheet
from imptool.files import InputError
from imptool.metrics.bootstrap import REPLICATES
from imptool.report.progress import say
from imptool.report.tables import cell_text, terminal_table

if TYPE_CHECKING:
    import torch

    from imptool.checkpoint import TrainedModel

_MANY = 2000  # images: seconds


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation, whatever is measured.

    Attributes:
        split: None for the one that is meant: the recipe's, "val", or the only one.
        bands, boundary_f, boundary_iou: as in `Cells`.
        baseline: "prior" or None.
        out: None for a folder of its own; else the caller holds it.
        held: keeps hold of the folder of its own until all is written.
        tta: test-time augmentation of a run, as `parse_tta` takes it.
        canvas: what is on the canvas of a run, of `CANVASES`.
    """

    split: str | None
    bands: tuple[float, ...]
    boundary_f: str
    boundary_iou: str
    baseline: str | None
    out: Path | None
    workers: int
    console: Console
    held: ExitStack
    tta: str | None = None
    canvas: str = "detections"

    def cells(self, labels: LabelSet) -> Cells:
        return Cells(len(labels.classes), self.bands, self.boundary_f, self.boundary_iou)

    def claim(self, own: Path, sources: Iterable[Path] = (), *, check: Callable[[Path], object] = lambda _: None) -> Path:
        """The folder of the results, held: `out`, else its own, where `check` has nothing against it.

        Raises:
            InputError: it lies among the sources, as in `check_apart`; or as `results_folder`.
        """
        out = own if self.out is None else self.out
        if distributed.is_main():
            check_apart(out, sources, holds=False)
            if self.out is None:
                refuse_link(own)
                self.held.enter_context(results_folder(own, check))
        return out


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, the folder for it (None: nothing is written), and what its examples are drawn with, if anything.

    curves: how the run learned, an SVG, where there is one.
    """

    result: Evaluation
    out: Path | None
    dataset: Dataset | None = None
    source: Predictions | None = None
    curves: Path | None = None

    def predicted(self, item: Item, target: np.ndarray) -> np.ndarray | None:
        """The predicted channels [H, W] of an item, once more."""
        if self.source is None:
            return None
        return self.source.parse(self.source.load(item, target)).channels


def evaluate_run(trained: TrainedModel, request: Request, *, dataset: str | None, device: torch.device) -> Evaluated:
    """Measure a trained run on a split of its dataset, or of another with the same classes.

    Raises:
        InputError: the dataset has other classes than the model; the model has no canvas that something else could be on; as
            `parse_tta` and `measure`.
    """
    from imptool.checkpoint import CURVES  # torch takes seconds
    from imptool.evaluation.from_run import RunPredictions

    recipe, canvas = trained.recipe, request.canvas
    _check_canvas(request, trained)
    found = load_dataset(dataset or recipe.dataset)
    if difference := trained.labels.difference(found.labels):
        raise InputError(f"{trained.source} was trained for other classes than {found.source} has: {difference}")
    split = recipe.val_split if request.split is None else request.split
    labels = trained.labels  # of older weights, the dataset says what is left and what right
    tta = parse_tta(request.tta, labels if labels.left_right is not None else replace(labels, left_right=found.left_right))
    own, check = _folder_of_weights(trained.source, found, split, str(tta), canvas)
    out = request.claim(own, found.folders, check=check)
    document = read_instances(found, split) if trained.model.detects else None
    source = RunPredictions(trained, found, device, tta, _on_canvas(canvas, document, found.labels))
    result = measure(
        source,
        main=trained.name,
        about={
            "model": trained.name,
            "weights": str(trained.source),
            "tta": str(tta),
            **({"canvas": canvas} if trained.model.projection else {}),
            "recipe": recipe.to_plain(),
        },
        dataset=found,
        split=split,
        cells=request.cells(found.labels),
        instances=None if document is None else _tally(document, found.labels),
        prior_from=recipe.train_split if request.baseline else None,
        workers=request.workers,
        console=request.console,
    )
    return Evaluated(result, out, found, source, trained.source.with_name(CURVES).with_suffix(".svg"))


def _check_canvas(request: Request, trained: TrainedModel) -> None:
    """InputError where the canvas that is asked for cannot be that of this model, or of several views."""
    if request.canvas not in CANVASES:
        raise InputError(f"--canvas {request.canvas}: choose one of {', '.join(CANVASES)}")
    if request.canvas == "detections":
        return
    if trained.model.projection is None:
        from imptool.models import MODELS  # torch takes seconds

        projecting = ", ".join(name for name in MODELS if name.endswith("-imp"))
        raise InputError(f"{trained.name} has no canvas: --canvas is for models that project masks: {projecting}")
    if request.tta is not None:
        raise InputError(f"--canvas {request.canvas} is measured on one view of each image: leave out --tta")


def _on_canvas(canvas: str, document: Mapping[str, Any] | None, labels: LabelSet) -> dict[str, list[dict[str, Any]]] | None:
    """The annotations that go onto the canvas of each image, by its `file_name`; None where detections do."""
    if canvas == "detections" or document is None:
        return None
    instances = instances_to_detect(document, labels) if canvas == "true" else {}
    return {image["file_name"]: instances.get(image["id"], []) for image in document["images"]}


def evaluate_prior(request: Request, *, dataset: str) -> Evaluated:
    """Measure the position prior alone, counted on the split `train`."""
    found = load_dataset(dataset)
    if request.out is not None:
        check_apart(request.out, found.folders, holds=False)
    result = measure(
        None,
        main=PRIOR,
        about={},
        dataset=found,
        split=_split(request, found),
        cells=request.cells(found.labels),
        instances=None,
        prior_from="train",
        workers=request.workers,
        console=request.console,
    )
    return Evaluated(result, request.out, found)


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
    if path.suffix.lower() == ".json" and not path.is_dir():
        if not path.exists():
            raise InputError(f"--predictions {path}: no such file")
        about_maps = (remap, resize, missing_as_background, request.baseline)
        if any((*about_maps, request.bands, request.boundary_f, request.boundary_iou)):
            raise InputError(f"--predictions {path} are detections: bands, --baseline, --remap and so on are about label maps")
        return _evaluate_results(path, request, dataset)
    if Path(dataset).suffix.lower() == ".json":
        raise InputError(f"--dataset {dataset} is a COCO JSON, which has no label maps: give a dataset YAML or folder")
    found = load_dataset(dataset)
    split, labels, main = _split(request, found), found.labels, path.resolve().name
    if main == PRIOR and request.baseline:
        raise InputError(f"--predictions {path} and --baseline prior would be told by one name: rename the folder")
    pairs = parse_remap(remap, labels)
    source = find_maps(path, found, split, remap=pairs, resize=resize, missing_as_background=missing_as_background)
    out = request.claim(
        own_folder(path, found.name, split),
        {source.folder, *found.folders},
        check=partial(_check_own, measured=path, source=str(found.source)),
    )
    tally, notes = None, []
    if (results := path / RESULTS).is_file():
        try:
            document = read_instances(found, split)
            tally = _tally(document, labels)
            tally.add_all(predicted_results(results, document))
        except InputError as error:  # label maps are there all the same
            tally, notes = None, [f"no AP of {results}: {error}"]
    result = measure(
        source,
        main=main,
        about={
            "predictions": str(path),
            "remap": {str(number): class_id for number, class_id in pairs.items()},
            "resize": resize,
            "missing_as_background": missing_as_background,
        },
        dataset=found,
        split=split,
        cells=request.cells(labels),
        instances=tally,
        prior_from="train" if request.baseline else None,
        workers=request.workers,
        console=request.console,
    )
    result.notes += notes
    return Evaluated(result, out, found, source)


def _evaluate_results(path: Path, request: Request, dataset: str) -> Evaluated:
    """Box and mask AP of COCO results, for which no image is read."""
    if Path(dataset).suffix.lower() == ".json":
        if request.split is not None:
            raise InputError(f"--split {request.split}: {dataset} is one COCO JSON, and has no splits")
        name, split, source, document = Path(dataset).stem, "all", dataset, read_truth(Path(dataset))
        labels = labels_of_document(document, Path(dataset))
        tally = _tally(document, labels, OWN_BOXES)
    else:
        found = load_dataset(dataset)
        name, split, source, labels = found.name, _split(request, found), str(found.source), found.labels
        document = read_instances(found, split)
        tally = _tally(document, labels)
    images = sorted(image["file_name"] for image in document["images"])
    if not images:
        raise InputError(f"{dataset}: split {split} has no images")
    tally.add_all(predicted_results(path, document))
    tally.seen = {image["id"] for image in document["images"]}
    out = request.claim(own_folder(path, name, split), check=partial(_check_own, measured=path, source=source))
    result = Evaluation(name, source, split, labels, {"predictions": str(path)}, path.stem, images)
    add_precision(result, tally, request.console)
    return Evaluated(result, out)


def labels_of_document(document: Mapping[str, Any], source: Path) -> LabelSet:
    """The categories of a COCO document as a class list of things, without background."""
    if not document["categories"]:
        raise InputError(f"{source} has no categories")
    try:
        classes = [ClassInfo(id=row["id"], name=row["name"] or f"class {row['id']}") for row in document["categories"]]
    except ValidationError as error:
        raise InputError(f"{source}: categories: ids must be 0..{MAX_ID}, and names text") from error
    return LabelSet(tuple(sorted(classes, key=lambda info: info.id)), None, -1)


def write_evaluation(evaluated: Evaluated, folder: Path) -> list[Path]:
    """Write figures, plots and report; give their paths."""
    result = evaluated.result
    paths = write_record(result, folder) + write_plots(result, folder)
    examples = draw_examples(result, evaluated.dataset, evaluated.predicted) if evaluated.dataset and evaluated.source else {}
    return [*paths, write_report(result, folder, examples, evaluated.curves)]


def evaluation_folder(out: Path) -> AbstractContextManager[None]:
    """Hold the folder that an evaluation is asked to go to: a free one, or one that an evaluation has left unfinished."""

    def check(out: Path) -> None:
        if not contents(out) <= {COUNTS, PER_IMAGE}:  # figures are written last
            check_free(out, force=None)

    return results_folder(out, check)


def own_folder(measured: Path, dataset: str, split: str, suffix: str = "") -> Path:
    """Where the results of predictions or weights go that are in no run.

    Args:
        measured: the predictions or weights. dataset: its name.
        suffix: what tells this evaluation of them from others.
    """
    name = measured.resolve().stem if measured.is_file() else measured.resolve().name
    return Path("evaluations", f"{dataset}-{split}", name + suffix)


def _check_own(folder: Path, *, measured: Path, source: str) -> None:
    """An evaluation replaces its own results; InputError where there are others.

    Args:
        measured: the predictions or weights. source: where the description of the dataset lies.
    """
    if not contents(folder):
        return
    try:
        plain = read_json(folder / METRICS)
        earlier, earlier_source = plain.get("predictions") or plain["weights"], plain["dataset"]["source"]
        same = Path(earlier).resolve() == measured.resolve() and Path(earlier_source).resolve() == Path(source).resolve()
    except (InputError, KeyError, TypeError, AttributeError):
        earlier, earlier_source, same = "something else", "", False
    if not same:
        of = f"{earlier} on {earlier_source}" if earlier_source else earlier
        raise InputError(f"{folder} already holds results of {of}: choose another --out")


def _folder_of_weights(
    weights: Path, dataset: Dataset, split: str, tta: str, canvas: str
) -> tuple[Path, Callable[[Path], object]]:
    """In their run, or a folder of their own where they are in none; best weights and early stages are told from the last.

    So are test-time augmentation and another canvas: they do not replace an evaluation without. Gives what to ask of the
    folder as well.
    """
    suffix = f"-tta-{tta.replace(',', '-')}" if tta else "" if canvas == "detections" else f"-canvas-{canvas}"
    if not (weights.parent / "recipe.yaml").is_file():
        check = partial(_check_own, measured=weights, source=str(dataset.source))
        return own_folder(weights, dataset.name, split, suffix), check
    last = weights.name == "weights.safetensors" or weights.suffix == ".pt"
    name = f"eval-{split}{'' if last else '-' + weights.stem.removeprefix('weights-')}{suffix}"
    return weights.parent / name, lambda _: None


def _split(request: Request, dataset: Dataset) -> str:
    if request.split is not None:
        return request.split
    return next(iter(dataset.splits)) if len(dataset.splits) == 1 else "val"


def _tally(document: Mapping[str, Any], labels: LabelSet, read: tuple[str, ...] = OF_MASKS) -> InstanceTally:
    return InstanceTally(document, frozenset(labels.ids[channel] for channel in labels.things), read)


def print_evaluation(result: Evaluation, console: Console) -> None:
    """The tables on the terminal."""
    if len(result.images) >= _MANY:
        say(console, f"intervals from {REPLICATES:,} resampled splits ...")
    precision = precision_shares(result)
    title = f"{result.dataset}, split {result.split}, {len(result.images):,} images (percent)"
    console.print(terminal_table(classes_sheet(title, result.labels, result.measured, precision), intervals=False))
    if result.measured:
        console.print(terminal_table(summary_sheet(result.measured)))
        if any(measured.cells.bands for measured in result.measured.values()):
            console.print(terminal_table(bands_sheet(result.measured), intervals=len(result.measured) == 1))
    for kind in result.precision:
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
        figures = {key: precision[f"{kind}/{key}"] for key in keys}
        say(console, f"{kind} " + "  ".join(f"{key} {cell_text(figure)}" for key, figure in figures.items()))
    if not math.isnan(result.canvas_nonempty):
        say(console, f"images with a non-empty canvas: {result.canvas_nonempty:.1%}")
    if result.tta:
        say(console, f"test-time augmentation: {result.tta}")
    if result.swapped:
        say(console, f"on the canvas: {CANVASES[result.canvas]}")
    for note in result.notes:
        say(console, f"note: {note}")
