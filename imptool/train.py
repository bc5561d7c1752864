"""`imptool train`: the stages of a recipe, one after the other, with checkpoints to resume from at any iteration."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from imptool import distributed
from imptool.checkpoint import WEIGHTS, checkpoints, latest_checkpoint, load_checkpoint, load_weights, parse_about
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.instances import read_instances, untaught
from imptool.data.label_set import LabelSet
from imptool.data.output import check_apart, check_free, results_folder
from imptool.data.samples import TrainingSamples
from imptool.files import InputError, whole_file
from imptool.models import build_model, find_model
from imptool.models.network import Network
from imptool.models.transfer import Weights, fit_weights, read_start
from imptool.processes import STOPPING
from imptool.recipe import Recipe, Stage, load_recipe, write_recipe
from imptool.report.progress import say
from imptool.training.batches import check_batch
from imptool.training.keeping import Keeping
from imptool.training.learner import Learner, share_statistics
from imptool.training.log import LOG, cut_log, write_curves
from imptool.training.solver import base_rate, notes
from imptool.training.stage import Interrupted, StageJob
from imptool.training.validation import Validation

__all__ = ["DESCRIPTION", "Interrupted", "TrainResult", "find_checkpoint", "on_dataset_of", "plan_stages", "train"]

STARTS = "start-{}.txt"
"""In a run: what the model of a stage took of the weights that it starts from, part by part."""

DESCRIPTION = "dataset.yaml"
"""In a run that was begun from a dataset alone: the dataset with its classes and splits."""


@dataclass
class TrainResult:
    """What a run ended with."""

    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)  # image -> problem
    best: dict[str, float] = field(default_factory=dict)  # mIOU on the val split and its iteration, where it was measured


def train(
    recipe: Recipe,
    run: Path,
    *,
    device: torch.device,
    workers: int,
    console: Console,
    resume: bool = False,
    description: str = "",
) -> TrainResult:
    """Train a recipe into the folder `run`; with `resume`, go on from its newest checkpoint.

    Args:
        description: text of the dataset YAML that the recipe names, where that is to be written into the run first.
    Raises:
        InputError: the dataset, its instances or a checkpoint cannot be used, or a loss is not finite.
        Interrupted: after Ctrl-C, once the checkpoint is written.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        if distributed.is_main():
            held.enter_context(_run_folder(run, resume=resume))
            if description:
                with whole_file(run / DESCRIPTION) as temporary:
                    temporary.write_text(description, encoding="utf-8")
        distributed.wait_for_all()
        stages = plan_stages(recipe, console)
        check_batch(recipe.solver)
        dataset = load_dataset(recipe.dataset)
        _check_parts(recipe, stages, dataset.labels)
        if distributed.is_main():
            check_apart(run, dataset.folders, holds=False)
        document = read_instances(dataset, recipe.train_split)
        dataset.split(recipe.val_split)  # a misspelt one should not wait for eval
        checkpoint = find_checkpoint(run, recipe, stages, dataset) if resume else None
        if checkpoint is not None and distributed.is_main():
            cut_log(run, list(stages), checkpoint["stage"], checkpoint["iteration"], written=checkpoint["log_checksum"])
        result = TrainResult(unreadable=checkpoint["unreadable"] if checkpoint else {})
        told = [*dataset.notes, *_untaught(dataset, recipe, document)] if distributed.is_main() else []
        for line in (*told, *notes(recipe, stages)):
            say(console, f"note: {line}")
        stop = held.enter_context(_stop_signals())
        passed = list(stages).index(checkpoint["stage"]) if checkpoint else 0
        for index, (name, stage) in enumerate(stages.items()):
            if index < passed:
                continue
            seed = recipe.seed + index
            torch.manual_seed(seed)
            samples = TrainingSamples(
                dataset, recipe.train_split, document, size=recipe.input, augment=stage.augment or recipe.augment, seed=seed
            )
            model = _start_model(run, recipe, dataset, name, stages, console, resumed=checkpoint is not None).to(device)
            if recipe.panet.norm == "sync":
                model = share_statistics(model, device, console)
            job = StageJob(
                keeping=Keeping(run, name, stage.model or recipe.model.name, recipe, dataset.labels),
                stage=stage,
                learner=Learner(
                    model, recipe.solver, recipe.losses, seed=seed, rate=base_rate(recipe.solver, stage), device=device
                ),
                samples=samples,
                validation=Validation.of(recipe, dataset, device=device, workers=workers) if model.parses else None,
                workers=workers,
                console=console,
                stop=stop,
                unreadable=result.unreadable,
            )
            if distributed.is_main():
                write_recipe(run / "recipe.yaml", recipe)
            _check_shared(run)
            say(console, _begin(job, checkpoint))
            job.train(checkpoint)
            checkpoint, result.best = None, job.best
            path = run / (WEIGHTS if index == len(stages) - 1 else f"weights-{name}.safetensors")
            job.keeping.save_weights(path, job.learner)
            distributed.wait_for_all()
        if distributed.is_main():
            write_curves(run)
    result.seconds = time.monotonic() - began
    return result


def _run_folder(run: Path, *, resume: bool) -> contextlib.AbstractContextManager[None]:
    """Hold the folder of a run: a free one, or one to go on in."""

    def check(run: Path) -> None:
        if not resume:
            check_free(run, force=None)

    return results_folder(run, check, parts=[LOG, "tensorboard"])


def plan_stages(recipe: Recipe, console: Console) -> dict[str, Stage]:
    """The stages to train, each with its model: the recipe's, where it names none.

    A model that is trained in one stage starts from the backbone's weights: the pure semantic ones of the paper's Table 1, and
    Mask R-CNN-IMP, which learns nothing beside Mask R-CNN. And an earlier stage that nothing starts from is left out, as where
    COCO's weights take the place of the first. Both are told.
    """
    find_model(recipe.model.name)
    named = [stage.model for stage in recipe.stages.values() if stage.model]
    if len(named) == len(recipe.stages) and recipe.model.name not in named:
        say(console, f"note: model.name {recipe.model.name} is of no effect: every stage names its own model")
    planned: dict[str, Stage] = {}
    for name, stage in reversed(recipe.stages.items()):
        model, start = stage.model or recipe.model.name, stage.start
        row = find_model(model)
        if planned and not any(later.start == name for later in planned.values()):
            say(console, f"note: stage {name} is left out, as no later one starts from it")
            continue
        if row.one_stage and start in recipe.stages:
            say(
                console, f"note: {model} is trained in one stage: it starts from the backbone's weights, not from stage {start}"
            )
            start = None
        planned[name] = stage.model_copy(update={"model": model, "start": start})
    return dict(reversed(planned.items()))


def _check_parts(recipe: Recipe, stages: Mapping[str, Stage], labels: LabelSet) -> None:
    """InputError where a stage's `train` names no part of its model: a late stage would say so after hours."""
    for stage in stages.values():
        if stage.train is not None:
            with torch.device("meta"):  # shapes without values
                build_model(stage.model or recipe.model.name, recipe, labels, pretrained=False).learn(stage.train)


def on_dataset_of(run: Path, recipe: Recipe) -> Recipe:
    """The recipe on the dataset of a run that it goes on with, which `--dataset` may have named then."""
    path = run / "recipe.yaml"
    return recipe.model_copy(update={"dataset": load_recipe(str(path)).dataset}) if path.is_file() else recipe


def _untaught(dataset: Dataset, recipe: Recipe, document: Mapping[str, Any]) -> list[str]:
    """As `untaught`, of the val split as far as it was converted: eval says what is wrong with it."""
    try:
        return untaught(dataset, recipe.train_split, document, recipe.val_split, read_instances(dataset, recipe.val_split))
    except InputError:
        return untaught(dataset, recipe.train_split, document, recipe.train_split, document)


def _check_shared(run: Path) -> None:
    """InputError where a process does not see what the main one writes, as on another machine."""
    distributed.wait_for_all()
    if distributed.any_of(not (run / "recipe.yaml").is_file()):
        raise InputError(f"{run} is not seen by every process: machines that train together need a folder that they share")


def _begin(job: StageJob, checkpoint: Mapping[str, Any] | None) -> str:
    processes = distributed.world_size()
    shared = f", shared by {processes} processes" if processes > 1 else ""
    parts = f" in {job.recipe.solver.accumulate} parts" if job.recipe.solver.accumulate > 1 else ""
    again = f", going on after iteration {checkpoint['iteration']}" if checkpoint else ""
    return (
        f"{job.run}, stage {job.name}: {job.keeping.model_name}, {job.stage.iterations} iterations of "
        f"{job.recipe.solver.batch}{parts} from {len(job.samples)} images, on {job.learner.device}{shared}{again}"
    )


def _start_model(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    stage_name: str,
    stages: Mapping[str, Stage],
    console: Console,
    *,
    resumed: bool,
) -> Network:
    """Build a stage's model: from the backbone's weights, or from those that the stage names; with what is to learn of it."""
    stage = stages[stage_name]
    name, start = stage.model or recipe.model.name, stage.start
    model = build_model(name, recipe, dataset.labels, pretrained=start is None and not resumed)
    if stage.train is not None:
        model.learn(stage.train)
    if start is None or resumed:
        return model
    if start in stages:
        path = run / f"weights-{start}.safetensors"
        state = load_weights(path)[0]
        weights = Weights.of_run(state, dataset.labels, source=str(path), canvas_scale=recipe.projection.scale)
    else:
        weights = read_start(start, backbone=recipe.backbone.name)
    _check_fpn_norm(weights, recipe, start)
    fitted = fit_weights(model, weights, dataset.labels)
    say(console, f"{name} starts from {weights.source}: {fitted.summary()}")
    if distributed.is_main():
        with whole_file(run / STARTS.format(stage_name)) as temporary:
            temporary.write_text(f"{name} starts from {weights.source}: {fitted.describe()}\n", encoding="utf-8")
    lacking = [key for key in fitted.new if key.startswith("detector.backbone.body")]
    if lacking and recipe.backbone.norm == "frozen":
        raise InputError(
            f"stages: from: {start} lacks {len(lacking)} tensors of a {recipe.backbone.name}, such as {lacking[0]}, which "
            "backbone.norm=frozen would leave as they are drawn: name weights of the same backbone"
        )
    return model


def _check_fpn_norm(weights: Weights, recipe: Recipe, start: str) -> None:
    """InputError where a recipe's FPN has a norm and that of the weights has none, or the other way round.

    A norm that `panet` asks for stands on convolutions of any weights: its own start new.
    """
    if recipe.panet.norm != "none":
        return
    norm = "detector.backbone.fpn.inner_blocks.0.1"
    if f"{norm}.running_mean" in weights.state:
        raise InputError(f"stages: from: {start} has BatchNorm in its FPN, and backbone.fpn_norm is none or group")
    theirs = "group" if f"{norm}.weight" in weights.state else "none"
    if theirs != recipe.backbone.fpn_norm and any(key.startswith("detector.backbone.fpn.") for key in weights.state):
        raise InputError(
            f"stages: from: {start} has backbone.fpn_norm: {theirs}, the recipe has {recipe.backbone.fpn_norm}: use the same"
        )


def find_checkpoint(run: Path, recipe: Recipe, stages: Mapping[str, Stage], dataset: Dataset) -> dict[str, Any]:
    """The newest checkpoint of a run; InputError where there is none, or one of another recipe or of other classes."""
    path = latest_checkpoint(run)
    if path is None:
        raise InputError(f"{run} has no checkpoint to resume from: start over with imptool train RECIPE")
    try:
        checkpoint = load_checkpoint(path)
    except InputError as error:
        older = [other for other in checkpoints(run) if other != path]
        raise InputError(f"{error}; remove it to go on from {older[-1]}" if older else f"{error}; train again") from error
    _, trained, labels = parse_about(checkpoint["about"], source=path)
    if trained != recipe:
        changed = [name for name in Recipe.model_fields if getattr(trained, name) != getattr(recipe, name)]
        raise InputError(
            f"{path} was trained with another recipe ({', '.join(changed)} differ): resume {run} itself; or train again"
        )
    difference = labels.difference(dataset.labels)
    if difference:
        raise InputError(f"{path} was trained for other classes than {dataset.source} has: {difference}; train again")
    stage, iteration = checkpoint["stage"], checkpoint["iteration"]
    if stage not in stages or not 0 <= iteration <= stages[stage].iterations:
        raise InputError(f"{path} is damaged: its recipe has no iteration {iteration} of a stage '{stage}'; train again")
    if (run / WEIGHTS).is_file():
        raise InputError(
            f"{run} is finished: imptool eval {run} measures it; imptool train {run}/recipe.yaml trains its recipe again"
        )
    return checkpoint


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and SIGHUP, so that the iteration ends with a checkpoint; a second one stops at once."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)
        with contextlib.suppress(OSError):  # print may not be called while it is at work
            os.write(2, b"stopping after this iteration; once more stops at once\n")
        signal.signal(number, previous[signal.Signals(number)])

    hung_up = getattr(signal, "SIGHUP", None)
    previous = {number: signal.getsignal(number) for number in STOPPING}
    if previous.get(hung_up) == signal.SIG_IGN:  # started with nohup
        del previous[hung_up]
    try:
        for number in previous:
            signal.signal(number, receive)
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
