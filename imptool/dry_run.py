"""`imptool train --dry-run`: what a training would do and take, without writing anything."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from imptool.data.dataset import Dataset
from imptool.data.instances import instances_path, read_instances, untaught
from imptool.files import InputError
from imptool.recipe import Recipe
from imptool.report.console import plain
from imptool.report.page import duration
from imptool.report.progress import say
from imptool.train import plan_stages
from imptool.training.batches import check_batch
from imptool.training.forecast import Forecast, forecast


def dry_run(recipe: Recipe, run: Path, dataset: Dataset, *, converts: bool, device: torch.device, console: Console) -> None:
    """Print stages, images, classes with few instances, parameters, time and memory, and the files of the run.

    Args:
        converts: whether the training would convert the dataset where that has not been done.
    Raises:
        InputError: as `train`, but instances that are not converted yet are no error here.
    """
    stages = plan_stages(recipe, console)
    check_batch(recipe.solver)
    train, val = dataset.split(recipe.train_split), dataset.split(recipe.val_split)
    say(console, f"{dataset.name}: {len(train):,} images to train on, {len(val):,} to measure on, {_classes(dataset)}")
    for line in (*dataset.notes, *_about_instances(dataset, recipe, converts=converts)):
        say(console, f"note: {line}")
    found = {name: forecast(recipe, stage, dataset.labels, device) for name, stage in stages.items()}
    table = Table()
    for column in ("stage", "model", "from", "iterations", "parameters", "about"):
        table.add_column(column, justify="left" if column in ("stage", "model", "from") else "right")
    for name, stage in stages.items():
        start = stage.start or {"none": "nothing"}.get(recipe.backbone.weights, recipe.backbone.weights)
        cells = (f"{stage.iterations:,}", f"{found[name].parameters / 1e6:.1f} M", duration(found[name].seconds))
        table.add_row(plain(name), stage.model, plain(start), *cells)
    console.print(table)
    say(console, f"in all about {duration(sum(each.seconds for each in found.values()))} on {device}, {_memory(found, device)}")
    say(console, f"the run would be {run}/; nothing was written")


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
