"""`imptool train FOLDER`: what to train on a dataset when no recipe is named. Every decision is ours, and is said in words."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from imptool.checkpoint import load_weights, parse_about
from imptool.convert_instances import convert_instances
from imptool.data.coco import read_coco
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.export import Export
from imptool.data.instances import check_origin, instances_path, read_instances
from imptool.data.layouts import Item
from imptool.data.output import path_from
from imptool.data.splits import RandomSplits, draw_splits
from imptool.files import DEFAULT_WEIGHTS, InputError, dump_yaml, find_shipped_weights, some
from imptool.recipe import Change, Recipe, load_recipe, parse_change
from imptool.report.console import wrapped
from imptool.report.progress import count_of, say
from imptool.train import DESCRIPTION

BASES = {"cpu": "ccp_lite", "cuda": "ccp_lite_gpu"}
"""The recipe that is taken on each kind of device."""

_SEED = 1  # of the splits


@dataclass(frozen=True)
class FolderPlan:
    """What will be done with a dataset.

    dataset: as the run's own YAML describes it, with the splits of the recipe. description: the text of that YAML.
    decisions: {what about: what was decided}, in words.
    """

    dataset: Dataset
    description: str
    recipe: Recipe
    decisions: dict[str, str]

    def told(self) -> list[str]:
        """The decisions on lines of 80 columns, unless a path is longer."""
        margin = max(map(len, self.decisions)) + 2
        return [
            line for what, decision in self.decisions.items() for line in wrapped(decision, what.ljust(margin), " " * margin)
        ]


def plan_folder(
    source: str, run: Path, *, device: torch.device, changes: Sequence[str | Change] = (), recipe: str | None = None
) -> FolderPlan:
    """Choose recipe, splits and iterations for a dataset.

    The number of iterations grows with the square root of the number of images to train on: 600 for 100 of them, at least 300,
    at most 3,000 (ours: docs/training.md has what fine-tuning gave).

    Args:
        recipe: one that was asked for; its stages stay what they are.
    Raises:
        InputError: as `load_dataset` and `load_recipe`; there are too few images; the splits are others than the
            recipe's; or the instances of this name are those of another dataset.
    """
    found, described = load_dataset(source), run / DESCRIPTION
    check_origin(found)
    base = recipe or BASES[device.type]
    asked = load_recipe(base, [each for each in changes if parse_change(each)[0] in ("train_split", "val_split")])
    splits, rule = _splits(found, asked.train_split, asked.val_split)
    dataset = replace(found, source=described, splits=splits)
    own: list[Change] = [("dataset", str(described))]
    if recipe is None:
        own += [("stages", _single_stage(asked, len(splits[asked.train_split]))), ("evaluate_every", 100)]
    loaded = load_recipe(base, [*own, *changes])
    decisions = {"splits": _told_splits(asked, splits, drawn=rule is not None), "recipe": f"{base}: {_told_stages(loaded)}"}
    if recipe is None:
        decisions["weights"] = f"from {DEFAULT_WEIGHTS}, which knows {_known(dataset)}"
    decisions["run"] = f"{run}, whose {DESCRIPTION} and recipe.yaml hold all of this"
    if recipe is None:
        decisions["otherwise"] = (
            f"imptool train RECIPE --dataset {shlex.quote(source)}; imptool list recipes shows what there is"
        )
    return FolderPlan(dataset, _describe(found, run, rule), loaded, decisions)


def _single_stage(recipe: Recipe, count: int) -> dict[str, Any]:
    """One stage in the place of a recipe's own: from the shipped weights, with the images of its last one."""
    augment = list(recipe.stages.values())[-1].augment
    iterations = min(max(math.ceil(60 * math.sqrt(count) / 100) * 100, 300), 3000)
    stage = {"from": DEFAULT_WEIGHTS, "iterations": iterations, "augment": augment.model_dump() if augment else None}
    return {"full": stage}


def _told_splits(recipe: Recipe, splits: Mapping[str, Sequence[Item]], *, drawn: bool) -> str:
    counts = ", ".join(f"{count_of(len(splits[name]), 'image')} in {name}" for name in (recipe.train_split, recipe.val_split))
    return f"{counts} ({f'drawn with seed {_SEED}' if drawn else 'the dataset has them'})"


def _told_stages(recipe: Recipe) -> str:
    stages = [f"{name} {stage.iterations} iterations" for name, stage in recipe.stages.items()]
    return f"{', '.join(stages)} of {recipe.solver.batch} images"


def convert(plan: FolderPlan, *, workers: int, console: Console) -> list[str]:
    """Convert both splits where there are no instances that fit; what could not be used is given back.

    Raises:
        InputError: there are instances that imptool has not made and that do not fit; or as `convert_instances`.
    """
    dataset = plan.dataset
    try:
        for split in dataset.splits:
            read_instances(dataset, split)
    except InputError as misfit:
        made = [path for split in dataset.splits if (path := instances_path(dataset, split)).exists()]
        if foreign := [path for path in made if not _is_of(dataset, path)]:
            raise InputError(f"{foreign[0]} was not made from {dataset.name} by imptool: move it, to have it made") from misfit
        if made:
            say(console, f"note: converted again: {misfit}")
        tallies = convert_instances(
            dataset, export=Export(), out=None, workers=workers, force=bool(made), resume=not made, console=console
        )
        return [problem for tally in tallies.values() for problem in (*tally.failed, *tally.flaws)]
    say(console, f"{instances_path(dataset, plan.recipe.train_split).parent}: instances of both splits are there")
    return []


def _splits(found: Dataset, train: str, val: str) -> tuple[dict[str, tuple[Item, ...]], RandomSplits | None]:
    """The two splits of a recipe: the dataset's own where it has them, else drawn by a rule, which is given too."""
    if {train, val} <= found.splits.keys():
        return {name: found.split(name) for name in (train, val)}, None
    if len(found.splits) > 1:
        raise InputError(
            f"{found.source} has the splits {', '.join(found.splits)}: say which to train and to measure on, with "
            "-o train_split=NAME -o val_split=NAME"
        )
    items = found.split(next(iter(found.splits)))
    if len(items) < 2:
        raise InputError(f"{found.source} has one image: it takes one to learn from and another to measure on")
    rule = RandomSplits(seed=_SEED, sizes={val: _val_size(len(items))}, rest=train)
    return draw_splits(rule, items, found.source), rule


def _val_size(count: int) -> int:
    """A fifth of the images: at least 5, at most 200, and never more than half of them."""
    return min(max(round(count / 5), 5), 200, count // 2)


def _describe(found: Dataset, run: Path, rule: RandomSplits | None) -> str:
    """The YAML of a dataset as the run keeps it: with its name, where it lies from there, and the splits that were drawn."""
    assert found.description is not None
    values = found.description.model_dump(exclude_unset=True)
    values |= {"name": found.name, "root": path_from(run, found.root)}
    if rule is not None:
        values.pop("splits", None)
        values["random_splits"] = rule.model_dump()
    return dump_yaml(values)


def _known(dataset: Dataset) -> str:
    """Which of a dataset's classes the shipped weights know, by their names."""
    path = find_shipped_weights(DEFAULT_WEIGHTS)
    assert path is not None  # a name that is always known
    _, _, labels = parse_about(load_weights(path)[1], source=path)
    names = [dataset.labels.names[channel] for channel in dataset.labels.foreground]
    known = [name for name in names if name in labels.names]
    return f"{len(known)} of its {len(names)} classes by name" + (f" ({some(known, 8)})" if known else "")


def _is_of(dataset: Dataset, path: Path) -> bool:
    """Whether imptool has made a file of instances from a dataset of this name."""
    info = read_coco(path).get("info")
    return isinstance(info, dict) and info.get("dataset") == dataset.name
