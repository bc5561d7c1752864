"""`imptool eval`: what a run, files of predictions, or the position prior are worth on a split; tables, files, a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from imptool import distributed
from imptool.data.coco import read_truth
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import instances_to_detect, read_instances
from imptool.data.label_set import MAX_ID, ClassInfo, LabelSet
from imptool.data.layouts import Item
from imptool.data.output import check_apart, refuse_link, results_folder
from imptool.data.tta import parse_tta
from imptool.evaluation.counts import Cells
from imptool.evaluation.folders import check_own, evaluation_folder, folder_of_weights, own_folder
from imptool.evaluation.from_files import PANOPTIC, RESULTS, Predictions, find_maps, parse_remap, predicted_results
from imptool.evaluation.instances import OF_MASKS, OWN_BOXES, InstanceTally
from imptool.evaluation.measure import PRIOR, add_precision, measure
from imptool.evaluation.panoptic import COMPONENTS, PanopticTally
from imptool.evaluation.panoptic_files import find_segments, is_panoptic
from imptool.evaluation.record import CANVASES, Evaluation, write_record
from imptool.evaluation.report import draw_examples, write_plots, write_report
from imptool.evaluation.terminal import print_evaluation
from imptool.files import InputError
from imptool.metrics.boundary import BANDS
from imptool.metrics.contours import pixels
from imptool.recipe import Panoptic, change_panoptic
from imptool.report.console import list_failures
from imptool.report.progress import say

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
        panoptic: whether panoptic quality is measured. override: changes of the recipe's section `panoptic`, KEY=VALUE.
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
    panoptic: bool = False
    override: Sequence[str] = ()

    def cells(self, labels: LabelSet) -> Cells:
        return Cells(len(labels.classes), self.bands, self.boundary_f, self.boundary_iou)

    def fusion(self, own: Panoptic | None = None) -> Panoptic:
        """How panoptic results are made: as a recipe says, with the changes that are asked for."""
        return change_panoptic(own or Panoptic(), self.override)

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


def command(
    *,
    run: Path | None = None,
    weights: str | None = None,
    predictions: Path | None = None,
    boundary_bands: bool = False,
    bands: str | None = None,
    boundary_f: str | None = None,
    boundary_iou: str | None = None,
    baseline: str | None = None,
    split: str | None = None,
    dataset: str | None = None,
    remap: Sequence[str] = (),
    resize: bool = False,
    missing_as_background: bool = False,
    out: Path | None = None,
    tta: str | None = None,
    canvas: str = "detections",
    panoptic: bool = False,
    override: Sequence[str] = (),
    device: str = "auto",
    workers: int,
    console: Console,
) -> int:
    """`imptool eval`, with its options: measure `run`, `weights`, `predictions` or the prior, else the newest run.

    Returns the exit code: 1 where an image could not be used.
    Raises:
        InputError: two options contradict each other, or one cannot be used; as `evaluate_run`, `evaluate_predictions` and
            `evaluate_prior`.
    """
    if sum(given is not None for given in (run, weights, predictions)) > 1:
        raise InputError("RUN, --weights and --predictions name different things to measure: give one of them")
    if predictions is None and (remap or resize or missing_as_background):
        raise InputError("--remap, --resize and --missing-as-background are about label PNGs: add --predictions")
    if predictions is not None and dataset is None:
        raise InputError("--predictions says what was predicted, not for what: add --dataset")
    of_prior = run is None and weights is None and dataset is not None and baseline is not None
    if tta is not None and (predictions is not None or of_prior):
        raise InputError("--tta is about the views that a model parses: measure a run or --weights, or leave it out")
    if canvas != "detections" and (predictions is not None or of_prior):
        raise InputError(f"--canvas {canvas} is about what a model projects: measure a run or --weights, or leave it out")
    if of_prior and (panoptic or override):
        raise InputError("--panoptic measures segments, and the prior has none: measure a run, --weights or --predictions")
    change_panoptic(Panoptic(), override)  # a wrong one should not wait for the weights
    widths = _band_widths(bands) if bands is not None else BANDS if boundary_bands else ()
    _check_size("--boundary-f", boundary_f, whole=False)
    _check_size("--boundary-iou", boundary_iou, whole=True)
    with distributed.process_group(on_cpu=device == "cpu"), ExitStack() as held:
        sizes = (widths, boundary_f or "", boundary_iou or "")
        measures_pq = panoptic or bool(override)
        request = Request(split, *sizes, baseline, out, workers, console, held, tta, canvas, measures_pq, override)
        if out is not None and distributed.is_main():
            held.enter_context(evaluation_folder(out))
        if predictions is not None and dataset is not None:
            about_maps: dict[str, Any] = {"resize": resize, "missing_as_background": missing_as_background}
            evaluated = evaluate_predictions(predictions, request, dataset=dataset, remap=remap, **about_maps)
        elif of_prior and dataset is not None:
            evaluated = evaluate_prior(request, dataset=dataset)
        else:
            from imptool.checkpoint import load_run, named_weights, newest_run  # torch takes seconds
            from imptool.models.inference import choose_device

            place = choose_device(device)
            trained = load_run(named_weights(weights) if weights is not None else run or newest_run(), device=place)
            say(console, f"{trained.name} from {trained.source}, on {place}")
            evaluated = evaluate_run(trained, request, dataset=dataset, device=place)
        if distributed.is_main():
            print_evaluation(evaluated.result, console)
            for path in write_evaluation(evaluated, evaluated.out) if evaluated.out else ():
                say(console, str(path))
            if evaluated.out is None:
                say(console, "nothing was written: --out FOLDER writes figures, plots and report")
        return list_failures(evaluated.result.failed)


def _check_size(option: str, text: str | None, *, whole: bool) -> None:
    if text is None:
        return
    try:
        size = pixels(text, (1, 1))
    except ValueError as error:
        raise InputError(f"{option} {text}: {error}") from error
    if size == 0 or (whole and "%" not in text and size != int(size)):
        raise InputError(f"{option} {text}: write {'whole ' if whole else ''}px above 0, or a share of the diagonal such as 2%")


def _band_widths(text: str) -> tuple[float, ...]:
    try:
        widths = tuple(float(width) for width in text.split(","))
    except ValueError as error:
        raise InputError(f"--bands {text}: write widths in px, such as 1,2,5,10") from error
    if not all(0 < width < float("inf") for width in widths) or list(widths) != sorted(set(widths)):
        raise InputError(f"--bands {text}: widths must be positive and increasing")
    return widths


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
    own, check = folder_of_weights(trained.source, found, split, _unusual(str(tta), request))
    out = request.claim(own, found.folders, check=check)
    wanted = trained.model.detects or request.panoptic
    document = read_instances(found, split) if wanted else None
    fusion = request.fusion(recipe.panoptic) if request.panoptic else None
    source = RunPredictions(trained, found, device, tta, _on_canvas(canvas, document, found.labels), fusion)
    result = measure(
        source,
        main=trained.name,
        about={
            "model": trained.name,
            "weights": str(trained.source),
            "tta": str(tta),
            **({"canvas": canvas} if trained.model.projects else {}),
            **({"fusion": fusion.model_dump()} if fusion else {}),
            "recipe": recipe.to_plain(),
        },
        dataset=found,
        split=split,
        cells=request.cells(found.labels),
        instances=_tally(document, found.labels) if document is not None and trained.model.detects else None,
        prior_from=recipe.train_split if request.baseline else None,
        workers=request.workers,
        console=request.console,
        panoptic=PanopticTally(found, document, fusion) if fusion and document is not None else None,
    )
    return Evaluated(result, out, found, source, trained.source.with_name(CURVES).with_suffix(".svg"))


def _check_canvas(request: Request, trained: TrainedModel) -> None:
    """InputError where the canvas that is asked for cannot be that of this model, or of several views."""
    if request.canvas not in CANVASES:
        raise InputError(f"--canvas {request.canvas}: choose one of {', '.join(CANVASES)}")
    if request.canvas == "detections":
        return
    if not trained.model.projects:
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


def _unusual(tta: str, request: Request) -> list[str]:
    """What tells an evaluation of a run from the usual one, as parts of a folder's name."""
    found = [f"tta-{tta.replace(',', '-')}"] if tta else []
    found += [f"canvas-{request.canvas}"] if request.canvas != "detections" else []
    return found + [re.sub(r"[^\w.]+", "-", change) for change in request.override]


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
        if is_panoptic(path):
            return _evaluate_segments(path, request, dataset, remap=remap, resize=resize, missing=missing_as_background)
        if request.panoptic:
            raise InputError(f"--predictions {path} are detections, which are no segments: leave out --panoptic")
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
        check=partial(check_own, measured=path, source=str(found.source)),
    )
    if request.panoptic and (path / PANOPTIC).is_file():
        raise InputError(f"--predictions {path} has {PANOPTIC}: measure it with --predictions {path / PANOPTIC}")
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
            **({"fusion": _of_maps(request).model_dump()} if request.panoptic else {}),
        },
        dataset=found,
        split=split,
        cells=request.cells(labels),
        instances=tally,
        prior_from="train" if request.baseline else None,
        workers=request.workers,
        console=request.console,
        panoptic=PanopticTally(found, read_instances(found, split), _of_maps(request)) if request.panoptic else None,
    )
    result.notes += notes
    return Evaluated(result, out, found, source)


def _of_maps(request: Request) -> Panoptic:
    """How panoptic results are made of label maps: their components are the things."""
    return request.fusion().model_copy(update={"instances": COMPONENTS})


def _evaluate_segments(
    path: Path, request: Request, dataset: str, *, remap: Sequence[str], resize: bool, missing: bool
) -> Evaluated:
    """Panoptic quality of a COCO panoptic JSON."""
    if any((remap, resize, request.baseline, request.bands, request.boundary_f, request.boundary_iou, request.override)):
        raise InputError(f"--predictions {path} are segments: bands, --baseline, --remap and so on are about label maps")
    found = load_dataset(dataset)
    split = _split(request, found)
    source = find_segments(path, found, split, missing_as_nothing=missing)
    check = partial(check_own, measured=path, source=str(found.source))
    out = request.claim(own_folder(path, found.name, split), {source.folder, *found.folders}, check=check)
    result = measure(
        source,
        main=path.stem,
        about={"predictions": str(path), "missing_as_background": missing},
        dataset=found,
        split=split,
        cells=request.cells(found.labels),
        instances=None,
        prior_from=None,
        workers=request.workers,
        console=request.console,
        panoptic=PanopticTally(found, read_instances(found, split), Panoptic()),
    )
    return Evaluated(result, out, found)


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
    out = request.claim(own_folder(path, name, split), check=partial(check_own, measured=path, source=source))
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


def _split(request: Request, dataset: Dataset) -> str:
    if request.split is not None:
        return request.split
    return next(iter(dataset.splits)) if len(dataset.splits) == 1 else "val"


def _tally(document: Mapping[str, Any], labels: LabelSet, read: tuple[str, ...] = OF_MASKS) -> InstanceTally:
    return InstanceTally(document, frozenset(labels.ids[channel] for channel in labels.things), read)
