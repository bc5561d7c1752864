"""`imptool train`, from its options to a run: which run and recipe it is, and what comes before and after the training."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from imptool import evaluate
from imptool.checkpoint import newest_run
from imptool.data.dataset import is_dataset, load_dataset
from imptool.distributed import from_main, is_main, process_group, wait_for_all
from imptool.dry_run import dry_run as print_dry_run
from imptool.files import RECIPES, InputError, check_file_name, find_yaml, nearest
from imptool.models.inference import choose_device
from imptool.recipe import Recipe, load_recipe, recipe_names
from imptool.report.console import list_failures, write_text
from imptool.report.progress import say
from imptool.train import DESCRIPTION, Interrupted, TrainResult, on_dataset_of, train
from imptool.train_folder import BASES, FolderPlan, convert, plan_folder

_TOLD = 5  # images that cannot be used, before a training; all are listed at its end


def command(
    *,
    recipe: str,
    override: tuple[str, ...],
    dataset: str | None,
    name: str | None,
    out: Path | None,
    resume: bool,
    dry_run: bool,
    seed: int | None,
    device: str,
    workers: int,
    console: Console,
) -> int:
    """`imptool train`, with its options: train a recipe, or the dataset that is named in its place, and measure that.

    Returns the exit code: 1 where an image could not be used, 130 after Ctrl-C.
    Raises:
        InputError: two options contradict each other; as `plan_folder`, `convert` and `train`.
    """
    if seed is not None:
        override += (f"seed={seed}",)
    problems: list[str] = []
    with process_group(on_cpu=device == "cpu"):
        place = choose_device(device)
        run, loaded, plan = _what_to_train(recipe, override, dataset, name, out, resume, place)
        run = from_main(run)
        for line in plan.told() if plan is not None else ():
            say(console, line)
        if dry_run:
            found = plan.dataset if plan is not None else load_dataset(loaded.dataset)
            converts = plan is not None
            usable = print_dry_run(loaded, run, found, converts=converts, resume=resume, device=place, console=console)
            return 0 if usable else 1
        if plan is not None and is_main():
            problems += convert(plan, workers=workers, console=console)
            for problem in problems[:_TOLD]:
                say(console, f"note: left out: {problem}")
        wait_for_all()
        description = plan.description if plan is not None else ""
        try:
            result = train(loaded, run, device=place, workers=workers, console=console, resume=resume, description=description)
        except Interrupted as stop:
            if is_main():
                write_text(f"{stop}; go on with: imptool train {shlex.quote(str(run))} --resume\n", stderr=True)
            return 130
        measured = (run / DESCRIPTION).is_file()
        _print_result(result, run, console, measured=measured)
        if measured:
            code = evaluate.command(run=run, boundary_bands=True, device=device, workers=workers, console=console)
            if code:
                return code
            say(console, f"next: imptool predict new-images/ --run {shlex.quote(str(run))}")
    return list_failures([*problems, *result.unreadable.values()])


def _print_result(result: TrainResult, run: Path, console: Console, *, measured: bool) -> None:
    then = f"; next: imptool eval {shlex.quote(str(run))} --boundary-bands" * (not measured)
    say(console, f"trained in {_minutes(result.seconds)}: {run}/weights.safetensors{then}")
    if result.best and (run / "best.safetensors").is_file():
        best = f"best val mIOU {result.best['miou']:.2%} at iteration {result.best['iteration']:.0f}"
        say(console, f"{best}: {run}/best.safetensors")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _what_to_train(
    recipe: str,
    override: tuple[str, ...],
    dataset: str | None,
    name: str | None,
    out: Path | None,
    resume: bool,
    place: torch.device,
) -> tuple[Path, Recipe, FolderPlan | None]:
    """The run, its recipe, and, where a dataset was named instead of a recipe, what was decided for it."""
    if Path(recipe, "recipe.yaml").is_file():
        _check_run_to_resume(recipe, out or name, resume=resume)
        return Path(recipe), load_recipe(str(Path(recipe, "recipe.yaml")), _on(override, dataset)), None
    known = None if Path(recipe).is_dir() else find_yaml(recipe, RECIPES)  # a folder may be called as a recipe is
    if is_dataset(recipe if known is None else str(known)):
        if dataset is not None:
            raise InputError(f"{recipe} is a dataset, and so is --dataset {dataset}: name a recipe, or leave out --dataset")
        stem = f"{BASES[place.type]}-{load_dataset(recipe).name}"
        if not resume:
            run = from_main(_new_run(stem, name, out))  # the time is in it
            plan = plan_folder(recipe, run, device=place, changes=override)
            return run, plan.recipe, plan
        run = out or (Path("runs", stem, name) if name else newest_run(stem, unfinished=True))
        return run, load_recipe(str(run / "recipe.yaml"), override), None
    if Path(recipe).is_dir():
        raise InputError(f"{recipe} is neither a dataset (images/ and labels/, or a YAML in it) nor a run (recipe.yaml in it)")
    if known is None:
        close = nearest(Path(recipe).stem, recipe_names())
        raise InputError(f"there is no folder or file {recipe}, and no recipe of that name{close}")
    loaded = load_recipe(recipe, _on(override, dataset))
    stem = Path(recipe).stem
    found = load_dataset(dataset) if dataset is not None else None
    of_dataset = stem if found is None else f"{stem}-{found.name}"
    if not resume:
        run = from_main(_new_run(of_dataset, name, out))
        if dataset is None or found is None or {loaded.train_split, loaded.val_split} <= found.splits.keys():
            return run, loaded, None
        plan = plan_folder(dataset, run, device=place, changes=override, recipe=recipe)
        return run, plan.recipe, plan
    also = f"{stem}-*" if dataset is None else stem
    run = out or (Path("runs", of_dataset, name) if name else newest_run(of_dataset, also, unfinished=True))
    return run, loaded if dataset is not None else on_dataset_of(run, loaded), None


def _check_run_to_resume(run: str, elsewhere: object, *, resume: bool) -> None:
    if not resume:
        raise InputError(
            f"{run} is a run: imptool train {run} --resume goes on with it, "
            f"imptool train {run}/recipe.yaml trains its recipe again"
        )
    if elsewhere is not None:
        raise InputError(f"--resume goes on in {run} itself: leave out --out and --name")


def _on(override: tuple[str, ...], dataset: str | None) -> tuple[str, ...]:
    return override if dataset is None else (*override, f"dataset={_quoted(dataset)}")


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _new_run(stem: str, name: str | None, out: Path | None) -> Path:
    """The folder of a new run."""
    if name is None:
        return out or Path("runs", stem, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if out is not None:
        raise InputError("--name and --out both say where the run is to be: give one of them")
    try:
        return Path("runs", stem, check_file_name(name))
    except ValueError as error:
        raise InputError(f"--name: {error}") from error
