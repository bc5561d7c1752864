"""Which trainings a grid consists of: models and other changes of one recipe, times seeds; the first stage is shared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from imptool.checkpoint import WEIGHTS
from imptool.files import RECIPES, FileName, InputError, Strict, find_yaml, nearest, parse_strict, read_yaml
from imptool.models import MODELS, find_model
from imptool.recipe import Losses, Projection, Recipe, load_recipe

ABLATIONS = RECIPES / "ablations"
RUN = "run"  # the training of a job, in its folder

Changes = Annotated[dict[str, Any], Field(max_length=100)]
"""Keys of a recipe, with dots between their parts, and their values: `solver.lr: 0.01`."""


class Ablation(Strict):
    """A grid as its YAML describes it.

    A cell that is called like a model is that model. Its changes come after those of all cells.
    """

    recipe: str  # what all cells have in common
    change: Changes = {}  # of it, in all cells
    shared: FileName = "detector"  # this stage is trained once for each seed, by all cells that want it alike
    seeds: list[Annotated[int, Field(ge=0, lt=2**62)]] = Field(min_length=1, max_length=1000)
    cells: dict[FileName, Changes] = Field(min_length=1, max_length=1000)
    pairs: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []  # [with, without]: their difference is told
    canvas: list[Literal["empty", "true"]] = ["empty", "true"]  # what else is put on the canvas of models that have one
    examples: int = Field(default=6, ge=0, le=100)  # images that the page shows as all cells parse them

    @model_validator(mode="after")
    def _consistent(self) -> Ablation:
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seeds: {twice[0]} is there twice")
        for name in (name for pair in self.pairs for name in pair):
            if name not in self.cells:
                raise ValueError(f"pairs: there is no cell '{name}'{nearest(name, self.cells)}")
        for pair in self.pairs:
            if pair[0] == pair[1]:
                raise ValueError(f"pairs: {pair[0]} is held against itself")
        return self


@dataclass(frozen=True)
class Job:
    """A training of the grid: a cell with one seed, or (without a name) a stage that cells start from.

    Attributes:
        folder: where its run and its figures lie.
        recipe: of the training itself: of a cell without the shared stage, whose weights it starts from.
        start: the job that has to be finished before.
    """

    seed: int
    name: str
    folder: Path
    recipe: Recipe
    start: Job | None = None

    @property
    def title(self) -> str:
        return f"seed {self.seed}, {self.name or self.folder.name}"


def load_ablation(source: str) -> Ablation:
    """Read a grid by path or by the name of one that comes with imptool; InputError as `load_recipe`."""
    path = find_yaml(source, ABLATIONS)
    if path is None:
        raise InputError(f"no ablation {source}{nearest(Path(source).stem, [path.stem for path in ABLATIONS.glob('*.yaml')])}")
    values = read_yaml(path)
    if "cells" not in values:
        raise InputError(f"{path} has no cells: it is no ablation; imptool train takes the recipe of a single training")
    return parse_strict(Ablation, values, source=str(path))


def plan(ablation: Ablation, out: Path) -> list[Job]:
    """All trainings of a grid, seed by seed, each behind the one that it starts from.

    A cell ends up with the very weights that `imptool train` would give for its whole recipe: where it starts from the shared
    stage, its seed is that of the second stage.

    Raises:
        InputError: a change is no change of the recipe, or a cell has nothing but the shared stage.
    """
    jobs: list[Job] = []
    for seed in ablation.seeds:
        shared: dict[Path, Job] = {}
        for name in ablation.cells:
            job = _cell(ablation, name, seed, out / f"seed-{seed}", shared)
            if job.start and job.start not in jobs:
                jobs.append(job.start)
            jobs.append(job)
    return jobs


def cell_recipe(ablation: Ablation, name: str, seed: int) -> Recipe:
    """The whole recipe of a cell, with the shared stage."""
    model = {"model.name": name} if name in MODELS else {}
    changes = [pair for each in (ablation.change, model, ablation.cells[name]) for pair in each.items()]
    try:
        return load_recipe(ablation.recipe, [*changes, ("seed", seed)])
    except InputError as error:
        raise InputError(f"cell {name}: {error}") from error


def _cell(ablation: Ablation, name: str, seed: int, folder: Path, shared: dict[Path, Job]) -> Job:
    recipe = cell_recipe(ablation, name, seed)
    stages = dict(recipe.stages)
    first = stages.pop(ablation.shared, None)
    if first is None and "shared" in ablation.model_fields_set:
        raise InputError(f"cell {name}: shared: its recipe has no stage '{ablation.shared}'{nearest(ablation.shared, stages)}")
    if first is not None and first.start in stages:
        raise InputError(f"cell {name}: shared: {ablation.shared} starts from {first.start}: name one that starts from none")
    if not stages:
        raise InputError(f"cell {name}: its recipe has no stage but {ablation.shared}, which is the one that is shared")
    start = None
    if first is not None and find_model(recipe.model.name).needs_things:
        start = _shared(recipe, ablation.shared, seed, folder)
        start = shared.setdefault(start.folder, start)
        recipe = recipe.model_copy(update={"seed": seed + 1})
    weights = None if start is None else str(start.folder / RUN / WEIGHTS)
    moved = {
        key: stage.model_copy(update={"start": weights}) if stage.start == ablation.shared else stage
        for key, stage in stages.items()
    }
    return Job(seed, name, folder / name, recipe.model_copy(update={"stages": moved}), start)


def _shared(recipe: Recipe, stage: str, seed: int, folder: Path) -> Job:
    """The training of the shared stage alone. Of what the stage does not see, cells may have different values."""
    plain: dict[str, Any] = recipe.to_plain()
    plain["stages"] = {stage: plain["stages"][stage]}
    plain["model"] = {"name": recipe.stages[stage].model or recipe.model.name}
    if plain["model"]["name"] == "mask-rcnn":
        plain["projection"] = Projection().model_dump()
        plain["losses"] |= {key: getattr(Losses(), key) for key in ("semantic", "ohem")}
        plain["evaluate_every"] = None
    alone = Recipe(**plain)
    told = alone.model_dump(by_alias=True, exclude_defaults=True)  # so that a key that is added some day changes no name
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    return Job(seed, "", folder / f"{stage}-{digest}", alone)


def chosen(jobs: Sequence[Job], cells: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Those jobs that some cells and seeds need; all where none is named.

    Raises:
        InputError: there is no such cell or seed.
    """
    for kind, wanted, known in (
        ("cell", cells, {job.name for job in jobs if job.name}),
        ("seed", [str(seed) for seed in seeds], {str(job.seed) for job in jobs}),
    ):
        for each in wanted:
            if each not in known:
                raise InputError(f"the grid has no {kind} {each}{nearest(each, known)}")
    named = [job for job in jobs if job.name and (not cells or job.name in cells) and (not seeds or job.seed in seeds)]
    return [job for job in jobs if job in named or any(job is each.start for each in named)]


def cells_of(jobs: Sequence[Job], name: str) -> Iterator[Job]:
    """The jobs of a cell, one for each seed."""
    return (job for job in jobs if job.name == name)
