"""`imptool train --dry-run`: what a training would do and take, without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from imptool.data.dataset import Dataset
from imptool.data.instances import instances_path, read_instances, untaught
from imptool.data.layouts import Item
from imptool.data.survey import Problem, glance
from imptool.files import InputError
from imptool.inspect_dataset import print_problems
from imptool.recipe import Recipe, Stage
from imptool.report.console import plain
from imptool.report.page import duration
from imptool.report.progress import say
from imptool.train import find_checkpoint, plan_stages
from imptool.training.batches import check_batch
from imptool.training.forecast import Forecast, forecast

_LOOK = 20.0  # seconds for the files


def dry_run(
    recipe: Recipe,
    run: Path,
    dataset: Dataset,
    *,
    converts: bool,
    resume: bool,
    device: torch.device,
    console: Console,
) -> bool:
    """Print stages, images, classes with few instances, parameters, time and memory, and what cannot be used of the files.

    Args:
        converts: whether the training would convert the dataset where that has not been done.
        resume: count what is left of the run.
    Returns:
        Whether all files that were looked at seem usable.
    Raises:
        InputError: as `train`, but instances that are not converted yet are no error here.
    """
    stages = plan_stages(recipe, console)
    check_batch(recipe.solver)
    left = {name: stage.iterations for name, stage in stages.items()}
    if resume:
        left = _iterations_left(find_checkpoint(run, recipe, stages, dataset), stages)
    train, val = dataset.split(recipe.train_split), dataset.split(recipe.val_split)
    say(console, f"{dataset.name}: {len(train):,} images to train on, {len(val):,} to measure on, {_classes(dataset)}")
    for line in (*dataset.notes, *_about_instances(dataset, recipe, converts=converts)):
        say(console, f"note: {line}")
    found = {
        name: forecast(recipe, stages[name].model_copy(update={"iterations": count}), dataset.labels, device)
        for name, count in left.items()
    }
    table = Table()
    for column in ("stage", "model", "from", "iterations", "parameters", "about"):
        table.add_column(column, justify="left" if column in ("stage", "model", "from") else "right")
    for name, count in left.items():
        stage = stages[name]
        start = stage.start or {"none": "nothing"}.get(recipe.backbone.weights, recipe.backbone.weights)
        of = f" of {stage.iterations:,}" * (count < stage.iterations)
        cells = (f"{count:,}{of}", f"{found[name].parameters / 1e6:.1f} M", duration(found[name].seconds))
        table.add_row(plain(name), stage.model, plain(start), *cells)
    console.print(table)
    say(console, f"in all about {duration(sum(each.seconds for each in found.values()))} on {device}, {_memory(found, device)}")
    say(console, f"{run}/ would go on" if resume else f"the run would be {run}/")
    problems = _print_unusable(dataset, [*train, *val], console)
    say(console, "nothing was written")
    return not problems


def _iterations_left(checkpoint: Mapping[str, Any], stages: Mapping[str, Stage]) -> dict[str, int]:
    """Of the stage that a checkpoint is of, and of those after it."""
    names = list(stages)
    left = {name: stages[name].iterations for name in names[names.index(checkpoint["stage"]) :]}
    return left | {checkpoint["stage"]: left[checkpoint["stage"]] - checkpoint["iteration"]}


def _print_unusable(dataset: Dataset, items: Sequence[Item], console: Console) -> list[Problem]:
    problems, looked = glance(dataset, items, seconds=_LOOK)
    print_problems(problems, console, rest="imptool inspect lists all")
    if problems:
        say(console, "")
    of = f" of {len(items):,}" * (looked < len(items))
    found = f"{len(problems):,} cannot be used" if problems else "no problem"
    say(console, f"headers of {looked:,}{of} images and their labels: {found}; imptool inspect reads the files whole")
    return problems


def _classes(dataset: Dataset) -> str:
    background = "" if dataset.labels.background is None else " and background"
    return f"{len(dataset.labels.foreground)} classes{background}"


def _about_instances(dataset: Dataset, recipe: Recipe, *, converts: bool) -> list[str]:
    """What the converted instances cannot teach; where there are none that fit, what is to be done."""
    try:
        train, val = (read_instances(dataset, split) for split in (recipe.train_split, recipe.val_split))
    except InputError as error:
        return [f"instances are converted first, to {instances_path(dataset, '').parent}/" if converts else str(error)]
    return untaught(dataset, recipe.train_split, train, recipe.val_split, val)


def _memory(found: dict[str, Forecast], device: torch.device) -> str:
    most = max(each.memory for each in found.values())
    where = "of the GPU's memory" if device.type == "cuda" else "of memory"
    return f"{most / 2**30:.1f} GiB {where}" if most else "memory unknown"
