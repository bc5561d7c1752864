"""One job of a grid, from training to the figures on disk; whoever finds it free takes it."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from imptool.ablation.grid import RUN, Ablation, Job
from imptool.checkpoint import WEIGHTS, TrainedModel, latest_checkpoint, load_run
from imptool.data.coco import read_json
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.export import file_name
from imptool.data.images import read_image, write_label_map
from imptool.data.layouts import Item
from imptool.data.output import contents
from imptool.evaluate import Request, evaluate_run
from imptool.evaluation.record import METRICS, write_record
from imptool.files import InputError, alone_in, write_json
from imptool.metrics.boundary import BANDS
from imptool.models.inference import parse_image
from imptool.recipe import load_recipe
from imptool.report.progress import say
from imptool.train import train
from imptool.training.log import EVERY, LOG
from imptool.training.stage import Diverged

CELL = "cell.json"  # is written last: a job with it is finished
EXAMPLES = "examples"  # label maps of the images that the page shows
_TIMED = 10  # images whose parsing is timed, twice

Canvas = Literal["detections", "empty", "true"]


@dataclass(frozen=True)
class Finished:
    """What is told of a job beside its evaluations.

    Attributes:
        state: "finished", or "diverged" with the reason in `why`.
        minutes: that the training took, summed over its log.
        curve: val mIOU by iteration, as far as the recipe asks for it.
        milliseconds: median time to parse an image, without reading its file; None of a stage that cells start from.
        parameters: of the network.
        device, threads: what they were measured on.
    """

    state: Literal["finished", "diverged"]
    why: str = ""
    minutes: float = 0.0
    curve: dict[str, float] | None = None
    milliseconds: float | None = None
    parameters: int = 0
    device: str = ""
    threads: int = 0


def evaluation_folder(job: Job, canvas: str) -> Path:
    """Where the evaluation of a cell with something on its canvas lies."""
    return job.folder / ("eval" if canvas == "detections" else f"eval-canvas-{canvas}")


def read_finished(job: Job) -> Finished | None:
    """What is told of a job; None where it is not finished.

    Raises:
        InputError: its file is damaged.
    """
    path = job.folder / CELL
    if not path.exists():
        return None
    try:
        return Finished(**read_json(path))
    except (TypeError, InputError) as error:
        raise InputError(f"{path} is damaged: remove {job.folder} to have it done again") from error


def check_same(jobs: Iterable[Job]) -> None:
    """InputError where the grid has changed since one of its trainings began."""
    for job in jobs:
        path = job.folder / RUN / "recipe.yaml"
        if not path.exists():
            continue
        trained = load_recipe(str(path))
        if trained != job.recipe:
            fields = type(trained).model_fields
            changed = [name for name in fields if getattr(trained, name) != getattr(job.recipe, name)]
            raise InputError(
                f"{job.title} was trained with another recipe ({', '.join(changed)} differ): undo the change, choose another "
                f"--out, or remove {job.folder}"
            )


def do_job(
    job: Job,
    ablation: Ablation,
    *,
    device: torch.device,
    workers: int,
    keep_weights: bool,
    console: Console,
    place: str = "",
) -> None:
    """Train a job and measure it, or go on where another process was stopped; what is finished is left alone.

    Args:
        place: which one of all it is, for the line that tells of it.
    Raises:
        Held: another process is at work on it.
        InputError: as `train` and `evaluate_run`; a training that diverges is no error: it is marked.
        Interrupted: as `train`.
    """
    with alone_in(job.folder):
        if read_finished(job) is not None:
            return
        say(console, f"{f'{place}: ' if place else ''}{job.title}")
        try:
            _train(job, device, workers, console)
        except Diverged as error:
            write_json(job.folder / CELL, asdict(Finished("diverged", str(error))), indent=1)
            return
        found = _measure(job, ablation, device, workers, console) if job.name else {}
        log = _read_log(job.folder / RUN / LOG)
        curve = {str(line["iteration"]): line["val_miou"] for line in log if "val_miou" in line}
        finished = Finished("finished", minutes=_minutes(log, job.recipe.solver.batch), curve=curve, **found)
        write_json(job.folder / CELL, asdict(finished), indent=1)
        _tidy(job, keep_weights=keep_weights)


def mark_diverged(job: Job, why: str) -> None:
    """A cell whose first stage has diverged cannot begin."""
    with alone_in(job.folder):
        if read_finished(job) is None:
            write_json(job.folder / CELL, asdict(Finished("diverged", why)), indent=1)


def _train(job: Job, device: torch.device, workers: int, console: Console) -> None:
    run = job.folder / RUN
    if (run / WEIGHTS).is_file():
        return
    resume = latest_checkpoint(run) is not None
    if not resume and contents(run):  # killed before the first checkpoint
        shutil.rmtree(run)
    result = train(job.recipe, run, device=device, workers=workers, console=console, resume=resume)
    for problem in result.unreadable.values():
        say(console, f"note: {problem}")


def _measure(job: Job, ablation: Ablation, device: torch.device, workers: int, console: Console) -> dict[str, Any]:
    """Evaluate a cell, with each kind of canvas; what is told of the model itself."""
    trained = load_run(job.folder / RUN, device=device)
    canvases: list[str] = ["detections", *(ablation.canvas if trained.model.projection is not None else [])]
    for canvas in canvases:
        folder = evaluation_folder(job, canvas)
        if (folder / METRICS).exists():
            continue
        with ExitStack() as held:
            request = Request(None, BANDS, "", "", None, folder, workers, console, held, canvas=canvas)
            write_record(evaluate_run(trained, request, dataset=None, device=device).result, folder)
    dataset = load_dataset(job.recipe.dataset)
    if job.seed == ablation.seeds[0]:
        for item in example_items(dataset, job.recipe.val_split, ablation.examples):
            _write_example(trained, dataset, item, job.folder / EXAMPLES, device)
    return {
        "milliseconds": _milliseconds(trained, dataset, device),
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "device": _name_of(device),
        "threads": torch.get_num_threads(),
    }


def example_items(dataset: Dataset, split: str, count: int) -> list[Item]:
    """Images to look at: evenly spaced through the split by name, whatever any model makes of them."""
    items = sorted(dataset.split(split), key=lambda item: file_name(dataset, item))
    step = max(len(items) / max(count, 1), 1)
    return [items[int((place + 0.5) * step)] for place in range(min(count, len(items)))]


def _write_example(trained: TrainedModel, dataset: Dataset, item: Item, folder: Path, device: torch.device) -> None:
    """Write the label map that a model gives an image, as a PNG of ids."""
    channels = parse_image(
        trained.model, read_image(item.image, max_pixels=dataset.max_pixels), trained.recipe.input, device=device
    ).channels
    if channels is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_label_map(folder / example_name(item), trained.labels.to_ids(channels))


def example_name(item: Item) -> str:
    """Of an image that the page shows, the file of its label map."""
    return f"{item.stem.replace('/', '-')}.png"


def _milliseconds(trained: TrainedModel, dataset: Dataset, device: torch.device) -> float:
    """Median time that the network takes for an image of the val split, by itself, after two to warm up."""
    items = dataset.split(trained.recipe.val_split)[:_TIMED]
    images = [read_image(item.image, max_pixels=dataset.max_pixels) for item in items]
    seconds = []
    for image in (*images[:2], *images, *images):
        began = time.perf_counter()
        parse_image(trained.model, image, trained.recipe.input, device=device)  # its result is on the CPU: nothing is under way
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds[2:])


def _read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _minutes(log: Sequence[dict[str, Any]], batch: int) -> float:
    """What a training took by its own log, so that a stopped one counts right."""
    minutes, last = 0.0, 0
    for line in log:
        if "images_per_second" in line:
            iterations = line["iteration"] - last if line["iteration"] > last else EVERY
            minutes += iterations * batch / line["images_per_second"] / 60
            last = line["iteration"]
    return round(minutes, 2)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _tidy(job: Job, *, keep_weights: bool) -> None:
    """Keep of a finished run what somebody may ask for: the recipe, the log, and weights where they are wanted."""
    run = job.folder / RUN
    for path in run.glob("checkpoint-*.pt"):
        path.unlink()
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    (run / "best.safetensors").unlink(missing_ok=True)
    if job.name and not keep_weights:
        (run / WEIGHTS).unlink(missing_ok=True)
