"""`imptool train`: the stages of a recipe, one after the other, with checkpoints to resume from at any iteration."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import reprlib
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import torch
from rich.console import Console
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.tensorboard import SummaryWriter

from imptool.checkpoint import (
    WEIGHTS,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    parse_about,
    save_checkpoint,
    save_weights,
)
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import read_instances
from imptool.data.samples import Sample, TrainingSamples
from imptool.files import InputError, whole_file
from imptool.models import build_model, find_model
from imptool.models.parser import Parser
from imptool.recipe import Recipe, Solver, Stage, write_recipe
from imptool.report.progress import ProgressBar, say

LOG_EVERY = 10  # iterations


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the checkpoint is written, the run can be resumed."""


@dataclass
class TrainResult:
    """What a run ended with."""

    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)  # photograph -> problem


@dataclass
class _Logged:
    """What came up since the last line of the log."""

    values: dict[str, list[float]] = field(default_factory=dict)
    images: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, values: dict[str, float], *, images: int) -> None:
        self.images += images
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        speed = self.images / (time.monotonic() - self.since)
        return {name: sum(values) / len(values) for name, values in self.values.items()} | {"images_per_second": speed}


def train(
    recipe: Recipe, run: Path, *, device: torch.device, workers: int, console: Console, resume: bool = False
) -> TrainResult:
    """Train a recipe into the folder `run`; with `resume`, go on from its newest checkpoint.

    Raises:
        InputError: the dataset, its instances or a checkpoint cannot be used, or a loss is not finite.
        Interrupted: after Ctrl-C, once the checkpoint is written.
    """
    began = time.monotonic()
    for stage in recipe.stages.values():
        find_model(stage.model)
    dataset = load_dataset(recipe.dataset)
    document = read_instances(dataset, recipe.train_split)
    dataset.split(recipe.val_split)  # a misspelt one should not wait for eval
    checkpoint = _checkpoint_to_resume(run, recipe, dataset) if resume else None
    result = TrainResult(unreadable=checkpoint["unreadable"] if checkpoint else {})
    for line in idle_settings(recipe):
        say(console, f"note: {line}")
    with _stop_signals() as stop:
        passed = list(recipe.stages).index(checkpoint["stage"]) if checkpoint else 0
        for index, (name, stage) in enumerate(recipe.stages.items()):
            if index < passed:
                continue
            seed = recipe.seed + index
            torch.manual_seed(seed)
            samples = TrainingSamples(
                dataset, recipe.train_split, document, size=recipe.input, augment=recipe.augment, seed=seed
            )
            model = _start_model(run, recipe, dataset, stage, console, resumed=checkpoint is not None).to(device)
            write_recipe(run / "recipe.yaml", recipe)  # only now: a model that cannot be built leaves no run behind
            say(
                console,
                f"{run}, stage {name}: {stage.model}, {stage.iterations} iterations of {recipe.solver.batch} "
                f"from {len(samples)} photographs, on {device}",
            )
            job = _StageJob(run, name, stage, recipe, dataset, model, samples, device, workers, console, stop, result)
            job.train(checkpoint)
            checkpoint = None
            last = index == len(recipe.stages) - 1
            save_weights(run / (WEIGHTS if last else f"weights-{name}.safetensors"), model, stage.model, recipe, dataset.labels)
    result.seconds = time.monotonic() - began
    return result


@dataclass
class _StageJob:
    """One stage: the loop, and all that it touches outside."""

    run: Path
    name: str
    stage: Stage
    recipe: Recipe
    dataset: Dataset
    model: Parser
    samples: TrainingSamples
    device: torch.device
    workers: int
    console: Console
    stop: list[int]
    result: TrainResult

    def train(self, checkpoint: dict[str, Any] | None) -> None:
        solver, start = self.recipe.solver, 0
        base_lr = self.stage.lr or solver.lr
        optimizer = build_optimizer(self.model, solver, lr=base_lr)
        if checkpoint is not None:
            start = self._restore(checkpoint, optimizer)
        self.model.train()
        logged, note = _Logged(), ""
        events = str(self.run / "tensorboard" / self.name)
        progress = ProgressBar(self.console, self.name, total=self.stage.iterations, start=start)
        with SummaryWriter(events, purge_step=start + 1) as board, progress as bar:
            for iteration, batch in enumerate(self._batches(start), start=start + 1):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(iteration, base_lr, solver, self.stage.steps)
                usable = self._usable(batch)
                if usable:
                    logged.add(self._step(iteration, usable, optimizer), images=len(usable))
                if iteration % LOG_EVERY == 0 or iteration == self.stage.iterations:
                    values = {**logged.means(), "lr": optimizer.param_groups[0]["lr"]}
                    self._log(iteration, values, board)
                    logged, note = _Logged(), _note(values)
                bar.update(iteration, note)
                if self.stop or iteration % self.recipe.checkpoint_every == 0 or iteration == self.stage.iterations:
                    path = self._save(iteration, optimizer)
                    if self.stop and iteration < self.stage.iterations:
                        raise Interrupted(f"stopped at iteration {iteration} of stage {self.name}; {path} is written")

    def _usable(self, batch: list[Sample]) -> list[Sample]:
        """The samples that could be read; the others are told at the end of the run."""
        self.result.unreadable |= {sample.name: sample.problem for sample in batch if sample.problem}
        if len(self.result.unreadable) == len(self.samples):
            raise InputError(f"none of the photographs can be read, such as: {batch[0].problem}")
        return [sample for sample in batch if not sample.problem]

    def _step(self, iteration: int, usable: list[Sample], optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Forward, backward and update; the weights stay as they are when a loss or gradient is not finite."""
        images = [sample.image.to(self.device) for sample in usable]
        targets = [{key: value.to(self.device) for key, value in sample.target.items()} for sample in usable]
        losses, canvas = self.model(images, targets)
        weights = self.recipe.losses.model_dump(exclude={"hardest"})
        total = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros((), device=self.device))
        values = {name: loss.item() for name, loss in losses.items()} | {"loss": total.item()}
        names = ", ".join(sample.name for sample in usable)
        self._check_finite(values, iteration, names)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        limit = self.recipe.solver.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)
        self._check_finite({"gradient": norm.item()}, iteration, names)
        optimizer.step()
        if canvas is not None:
            values["canvas_nonempty"] = (canvas.flatten(1).amax(1) > 0).float().mean().item()
        return values

    def _check_finite(self, values: dict[str, float], iteration: int, names: str) -> None:
        wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if wrong is None:
            return
        kept = latest_checkpoint(self.run)
        raise InputError(
            f"{wrong} is {values[wrong]} at iteration {iteration} of stage {self.name}, photographs {names}; "
            f"{f'the last good checkpoint is {kept}' if kept else 'there is no checkpoint yet'}; "
            f"lower solver.lr, or set solver.clip_norm, in a new run"
        )

    def _batches(self, start: int) -> Iterator[list[Sample]]:
        batch = self.recipe.solver.batch
        try:
            yield from DataLoader(
                self.samples,
                batch_size=batch,
                sampler=range(start * batch, self.stage.iterations * batch),
                collate_fn=_share_batch,
                num_workers=self.workers,
                worker_init_fn=_start_worker,
                # Workers draw nothing from it, but the default one would be the model's.
                generator=torch.Generator(),
            )
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the workers, and the exit would wait for these
            lines = [
                line for line in str(error).splitlines() if re.search(r"shared memory|DataLoader worker \(pid|Errno", line)
            ]
            if not self.workers or not lines:
                raise
            raise InputError(
                f"the workers that read photographs have failed ({lines[-1].strip()}): "
                "use --workers 0, or fewer, or enlarge /dev/shm"
            ) from error

    def _restore(self, checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer) -> int:
        load_state(self.model, checkpoint["model"], source=self.run)
        load_optimizer(optimizer, checkpoint["optimizer"], source=self.run)
        try:
            torch.set_rng_state(checkpoint["rng"])
            if self.device.type == "cuda" and checkpoint["cuda_rng"] is not None:
                torch.cuda.set_rng_state(checkpoint["cuda_rng"], self.device)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{self.run}: the random state of its checkpoint is damaged: {error}; train anew") from error
        return int(checkpoint["iteration"])

    def _save(self, iteration: int, optimizer: torch.optim.Optimizer) -> Path:
        return save_checkpoint(
            self.run,
            device=self.device,
            stage=self.name,
            iteration=iteration,
            model=self.model,
            name=self.stage.model,
            optimizer=optimizer,
            recipe=self.recipe,
            labels=self.dataset.labels,
            unreadable=self.result.unreadable,
        )

    def _log(self, iteration: int, values: dict[str, float], board: SummaryWriter) -> None:
        line = {"stage": self.name, "iteration": iteration, **{name: round(value, 6) for name, value in values.items()}}
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            board.add_scalar(f"{self.name}/{name}", value, iteration)


def learning_rate(iteration: int, base: float, solver: Solver, steps: list[int]) -> float:
    """The learning rate of an iteration (from 1): linear warm-up from a thousandth, then `gamma` at each step passed."""
    warmup = min(iteration / solver.warmup, 1.0) if solver.warmup else 1.0
    return base * (0.001 + 0.999 * warmup) * solver.gamma ** sum(iteration > step for step in steps)


def idle_settings(recipe: Recipe) -> list[str]:
    """A line for every part of the learning rate's schedule that no iteration reaches, as after an override."""
    lines = []
    for name, stage in recipe.stages.items():
        late = [step for step in stage.steps if step >= stage.iterations]
        if late:
            lines.append(f"stages.{name}.steps: {late} are not reached in {stage.iterations} iterations")
        if recipe.solver.warmup > stage.iterations:
            lines.append(
                f"solver.warmup: {recipe.solver.warmup} is more than the {stage.iterations} iterations of stage {name}"
            )
    return lines


def build_optimizer(model: torch.nn.Module, solver: Solver, *, lr: float) -> torch.optim.Optimizer:
    """The solver's optimizer; biases and norms are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": solver.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if solver.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(solver.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=solver.momentum, fused=True)


def _start_model(run: Path, recipe: Recipe, dataset: Dataset, stage: Stage, console: Console, *, resumed: bool) -> Parser:
    """Build a stage's model: from the backbone's weights, or from those of the stage that it names."""
    model = build_model(stage.model, recipe, dataset.labels, pretrained=stage.start is None and not resumed)
    if stage.start is not None and not resumed:
        path = run / f"weights-{stage.start}.safetensors"
        new, left = load_state(model, load_weights(path)[0], source=path, strict=False)
        unused = f"; not taken: {_parts(left)}" if left else ""
        say(console, f"{stage.model} starts from {path}; new: {_parts(new) or 'nothing'}{unused}")
    return model


def _parts(names: Sequence[str]) -> str:
    """Tensors by the part of the model that they belong to: "semantic_head (28 tensors), detector.rpn (6 tensors)"."""
    parts = Counter(".".join(name.split(".")[: 2 if name.startswith("detector.") else 1]) for name in names)
    return ", ".join(f"{part} ({count} tensors)" for part, count in parts.items())


def _checkpoint_to_resume(run: Path, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """The newest checkpoint of a run, after a look that it belongs to this recipe and these classes."""
    path = latest_checkpoint(run)
    if path is None:
        raise InputError(f"{run} has no checkpoint to resume from: start anew with imptool train RECIPE")
    checkpoint = load_checkpoint(path)
    _, trained, labels = parse_about(checkpoint["about"], source=path)
    if trained != recipe:
        changed = [name for name in Recipe.model_fields if getattr(trained, name) != getattr(recipe, name)]
        raise InputError(
            f"{path} was trained with another recipe ({', '.join(changed)} differ): resume {run} itself, or train anew"
        )
    difference = labels.difference(dataset.labels)
    if difference:
        raise InputError(f"{path} was trained for other classes than {dataset.source} has: {difference}; train anew")
    stage, iteration = checkpoint["stage"], checkpoint["iteration"]
    if stage not in recipe.stages or not 0 <= iteration <= recipe.stages[stage].iterations:
        raise InputError(f"{path} is damaged: its recipe has no iteration {iteration} of a stage '{stage}'; train anew")
    if (run / WEIGHTS).is_file():
        raise InputError(
            f"{run} is finished: imptool eval {run} measures it; imptool train {run}/recipe.yaml trains its recipe anew"
        )
    _cut_log(run / "log.jsonl", list(recipe.stages), stage, iteration)
    return checkpoint


def _cut_log(path: Path, stages: list[str], stage: str, iteration: int) -> None:
    """Leave out of the log what comes after the checkpoint, as it will be done again."""
    if not path.is_file():
        return
    reached = (stages.index(stage), iteration)
    lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    places = [_place_of(line, stages) for line in lines]
    for line, place in zip(lines[:-1], places, strict=False):  # a crash may have cut the last one
        if place is None:
            raise InputError(
                f"{path} has a line that is none of this run: mend or remove {reprlib.repr(line.decode('latin-1'))}"
            )
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(line + b"\n" for line, place in zip(lines, places, strict=True) if place and place <= reached)


def _place_of(line: bytes, stages: list[str]) -> tuple[int, int] | None:
    """Stage and iteration of a line of the log, None where it is none."""
    try:
        values = json.loads(line.decode())
        return stages.index(values["stage"]), int(values["iteration"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _note(values: dict[str, float]) -> str:
    """The short form of a log line for the progress bar."""
    parts: dict[str, float] = {name: values[name] for name in ("classifier", "box", "mask", "semantic") if name in values}
    parts["rpn"] = values.get("rpn_objectness", 0.0) + values.get("rpn_box", 0.0)
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in parts.items())
    note = f"loss {values.get('loss', math.nan):.2f} ({losses})  {values['images_per_second']:.1f} images/s"
    return note + (f"  canvas {values['canvas_nonempty']:.0%}" if "canvas_nonempty" in values else "")


def _start_worker(_: int) -> None:
    """Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every one of the job: the main one decides."""
    cv2.setNumThreads(0)  # a forked process must not wait for threads that it does not have

    def wait_for_next(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, wait_for_next)  # the next one is the main process's, to a worker that hangs


def _share_batch(batch: list[Sample]) -> list[Sample]:
    """Put a worker's batch into shared memory here, where a failure reaches the main process.

    Left to the queue it is lost with a traceback, and the main process waits for the batch for ever.
    """
    if get_worker_info() is not None:
        for sample in batch:
            for tensor in (sample.image, *sample.target.values()):
                tensor.share_memory_()
    return batch


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, so that the iteration ends and a checkpoint is written; a second one stops at once."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        with contextlib.suppress(OSError):  # print may not be called while it is at work
            os.write(2, b"stopping after this iteration; once more stops at once\n")
        signal.signal(number, previous[signal.Signals(number)])

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}
    try:
        for number in signals:
            signal.signal(number, receive)
        yield received
    finally:
        for number in signals:
            signal.signal(number, previous[number])
