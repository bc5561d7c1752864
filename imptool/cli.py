"""The door: one click group. A command parses, calls one function of its own file, prints.

torch takes seconds to import, so every command imports its file when it runs; `--help` stays quick.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from imptool import __version__
from imptool.completion import complete_override, completed
from imptool.files import DEFAULT_WEIGHTS, InputError, find_shipped_weights, find_weights, nearest, one_line
from imptool.processes import stopped_by_signals, usable_cores
from imptool.report.console import Console, Outputs, plain
from imptool.report.progress import say

if TYPE_CHECKING:
    from imptool.prediction.photographs import Photograph
    from imptool.recipe import Recipe
    from imptool.train_folder import FolderPlan


class _OneLine(click.ClickException):
    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(plain(" ".join(message.split())))


_NO_MEMORY = ("can't allocate memory", "out of memory", "Insufficient memory")  # of torch on CPU and CUDA, and of OpenCV


class _Group(click.Group):
    """Turns a user's mistake into one line on stderr and exit code 2, and Ctrl-C, SIGTERM and SIGHUP into one and 130."""

    def main(self, *args: Any, **options: Any) -> Any:
        if not options.get("standalone_mode", True):  # within another command
            return super().main(*args, **options)
        with Outputs() as outputs:
            try:
                return super().main(*args, **options)
            except SystemExit as end:
                if end.code == 2 or not (reason := outputs.lost()):  # 2: its own line has been told
                    raise
                click.echo(f"Error: standard output cannot be written: {reason}", err=True)
                raise SystemExit(end.code or 2) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the work

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stopped_by_signals():
                return super().invoke(ctx)
        except Exception as error:
            if not (line := _line_of(error)):
                raise
            raise _OneLine(line) from error
        except KeyboardInterrupt:
            click.echo("stopped; what was finished is kept", err=True)
            ctx.exit(130)


_device = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda or cuda:N; auto takes CUDA where there is one."
)
_workers = click.option(
    "--workers",
    type=click.IntRange(0),
    default=min(4, usable_cores()),
    show_default=True,
    help="Processes or threads that read files.",
)
_max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=200_000_000,
    show_default=True,
    help="Refuse larger pictures: they take memory.",
)
_tta = click.option(
    "--tta",
    metavar="SCALE,...",
    help="Average the model's results over views of each image: at these scales of its input, and with flip mirrored "
    "as well, as in flip,0.75,1,1.25. Takes the time of all of them.  [default: off]",
)


def _override(help: str) -> Callable[[Any], Any]:
    return click.option("-o", "--override", multiple=True, metavar="KEY=VALUE", shell_complete=complete_override, help=help)


_TOLD = 5  # images that cannot be used, before a training; all are listed at its end
_force = click.option("--force", is_flag=True, help="Replace results that are there already.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="imptool")
def main() -> None:
    """Clothing parsing with Instance Mask Projection.

    \b
    imptool demo                                          all of it on drawn outfits, and a page to look at
    imptool predict new-images/                           label PNGs, overlays, COCO results, a page
    imptool train shirts/                                 a parser of your own, from a folder of images and label maps

    \b
    imptool inspect shirts/ --page                        statistics, problems, a page
    imptool convert-instances shirts/                     label maps -> instances (COCO JSON)
    imptool train ccp_lite                                train a recipe's stages
    imptool eval --boundary-bands                         IOU, accuracy and AP of the newest run, or of any predictions
    imptool compare runs/a runs/b                         evaluations side by side, and which differences are significant
    imptool ablate ccp_cpu                                a grid of models and seeds, with intervals over both

    \b
    imptool list                                          the recipes, datasets, models and weights that come with it
    """
    try:
        os.getcwd()
    except OSError as error:
        raise InputError("the current folder does not exist any more: change to another one") from error
    warnings.filterwarnings("ignore", module="PIL")  # odd EXIF blocks and large pictures warn; neither is the user's concern


@main.command("demo")
@click.argument("out", type=click.Path(path_type=Path), default="demo")
def demo_command(out: Path) -> None:
    """See the whole way on drawn outfits. Draws, converts, trains, measures and parses, in some minutes.

    Everything goes to OUT (default: demo), with a page to look at: OUT/index.html. Each command is shown before it
    runs. Running it again replaces it.

    \b
    imptool demo
    imptool demo shown/
    """
    from imptool.demo import demo

    def run(words: Sequence[str]) -> None:
        code = main.main(list(words), prog_name="imptool", standalone_mode=False)
        if code:  # Ctrl-C in a command ends the demo too
            sys.exit(code)

    demo(out, run=run, console=_console())


@main.command("outfits")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--count", type=int, default=200, show_default=True, help="Pictures; one in five goes to the val split.")
@click.option("--size", default="480x320", show_default=True, metavar="HEIGHTxWIDTH", help="In pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other pictures.")
@click.option("--groups", is_flag=True, help="The groups of Table 7 (upper, lower, whole, ...) as classes, instead of all 25.")
@_workers
@_force
def outfits_command(out: Path, count: int, size: str, seed: int, groups: bool, workers: int, force: bool) -> None:
    """Draw a dataset of outfits: pictures, label PNGs, true instances, a dataset YAML.

    The 25 classes are those of the paper's own dataset, which cannot be had. The same seed gives the same pictures.

    \b
    imptool outfits my-outfits
    imptool outfits my-outfits --count 5000 --size 800x600 --seed 7
    """
    from imptool.outfits import write_outfits

    console = _console()
    path = write_outfits(
        out,
        count=count,
        size=_height_and_width(size),
        seed=seed,
        groups=groups,
        workers=workers,
        force=force,
        console=console,
    )
    say(console, f"{path}: {count:,} outfits; next: imptool convert-instances {path}")


@main.command("convert-instances")
@click.argument("dataset", required=False, shell_complete=completed("datasets"))
@click.option("--out", type=click.Path(path_type=Path), help="Folder, or .json for one split.  [default: instances/<dataset>/]")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["coco", "panoptic", "semantic"]),
    default="coco",
    show_default=True,
    help="COCO instances (what train reads), COCO panoptic PNGs and JSON, or palette PNGs with a dataset YAML.",
)
@click.option(
    "--segmentation",
    type=click.Choice(["rle", "polygon"]),
    default="rle",
    show_default=True,
    help="Of COCO instances. Both are exact, holes and all.",
)
@click.option(
    "--simplify", type=click.FloatRange(0), default=0.0, metavar="PX", help="Let polygons leave their outline by so much."
)
@click.option("--components", is_flag=True, help="Split the true instances of a source that has them into components.")
@click.option("--connectivity", type=click.Choice(["4", "8"]), default="8", show_default=True, help="Which pixels touch.")
@click.option(
    "--min-area", type=click.IntRange(1), default=1, show_default=True, help="Drop instances of fewer pixels, and count them."
)
@_max_pixels
@_workers
@_force
@click.option("--resume", is_flag=True, help="Go on with a conversion that was stopped; the result has the same bytes.")
def convert_instances_command(
    dataset: str | None,
    out: Path | None,
    format_: str,
    segmentation: str,
    simplify: float,
    components: bool,
    connectivity: str,
    min_area: int,
    max_pixels: int,
    workers: int,
    force: bool,
    resume: bool,
) -> None:
    """Turn label maps into instances. Every connected component of a class is one, true instances are kept.

    DATASET is a dataset YAML, the name of one that comes with imptool, or a folder: images/ (or photos/) and labels/, VOC,
    Cityscapes, or COCO JSON; without it, the one in the current folder. docs/layouts.md has them all.

    \b
    imptool convert-instances recipes/datasets/ccp.yaml
    imptool convert-instances my-images/ --min-area 16
    imptool convert-instances my.yaml --segmentation polygon --out polygons/
    imptool convert-instances my.yaml --format panoptic
    """
    from imptool.convert_instances import convert_instances
    from imptool.data.dataset import find_dataset_here, load_dataset
    from imptool.data.export import Export

    if simplify and segmentation != "polygon":
        raise InputError("--simplify is for polygons: add --segmentation polygon")
    if not math.isfinite(simplify):
        raise InputError(f"--simplify {simplify}: write a number of pixels")
    if force and resume:
        raise InputError("--resume goes on with a conversion, --force starts over: choose one")
    found = load_dataset(dataset if dataset is not None else find_dataset_here(Path()), max_pixels=max_pixels)
    console = _console()
    say(console, f"{found.name}: {len(found.labels.foreground)} classes, {_background(found)}, from {found.root}")
    export = Export(format_, segmentation, simplify, components, int(connectivity), min_area)
    try:
        tallies = convert_instances(found, export=export, out=out, workers=workers, force=force, resume=resume, console=console)
    except KeyboardInterrupt:
        click.echo("stopped; the same command with --resume goes on", err=True)
        sys.exit(130)
    lost = any(not tally.photographs for tally in tallies.values())  # of a whole split
    problems = [problem for tally in tallies.values() for problem in (*tally.failed, *tally.flaws)]
    _exit_with_failures(problems, code=2 if lost else 1)


@main.command("inspect")
@click.argument("dataset", required=False, shell_complete=completed("datasets"))
@click.option("--out", type=click.Path(path_type=Path), help="Also write CSV, problems.json and plots to this folder.")
@click.option("--page", is_flag=True, help="Also write a page to look at.  [folder: --out, or inspected/<dataset>]")
@click.option("--sample", type=click.IntRange(1), default=12, show_default=True, help="Images on the page.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="On the page, images that show this class.")
@click.option("--json", "as_json", is_flag=True, help="Print statistics and problems as JSON and nothing else.")
@_max_pixels
@_workers
@_force
def inspect_command(
    dataset: str | None,
    out: Path | None,
    page: bool,
    sample: int,
    classes: tuple[str, ...],
    as_json: bool,
    max_pixels: int,
    workers: int,
    force: bool,
) -> None:
    """Know a dataset before training on it. Statistics, problems, and a page; exit code 1 if there are problems.

    DATASET is what convert-instances takes. Where that has been run in this folder, its results are compared too.

    \b
    imptool inspect my-images/
    imptool inspect recipes/datasets/ccp.yaml --page --class bag --class belt
    imptool inspect my.yaml --json > found.json
    """
    import json

    from imptool.data.dataset import find_dataset_here, load_dataset
    from imptool.data.output import check_free, results_folder
    from imptool.inspect_dataset import (
        class_ids,
        inspect_dataset,
        print_inspection,
        to_plain,
        write_inspection,
        write_inspection_page,
    )

    if classes and not page:
        raise InputError("--class chooses images for the page: add --page")
    found = load_dataset(dataset if dataset is not None else find_dataset_here(Path()), max_pixels=max_pixels)
    class_ids(found, classes)  # a wrong name should not wait for the work
    folder = out or (Path("inspected", found.name) if page else None)
    if folder is not None and folder.resolve() == found.root.resolve():
        raise InputError(f"--out {folder} is the dataset itself: choose another folder")
    with ExitStack() as held:
        if folder is not None:
            check = partial(check_free, force=force)
            held.enter_context(results_folder(folder, check, sources=found.folders, parts=["pictures"]))
        console = _console(stderr=as_json)
        inspection = inspect_dataset(found, workers=workers, console=console)
        if as_json:
            click.echo(json.dumps(to_plain(inspection), indent=1))
        else:
            print_inspection(inspection, console)
        for path in write_inspection(inspection, folder) if folder is not None else ():
            say(console, str(path))
        if page and folder is not None:
            say(console, f"{write_inspection_page(inspection, folder, count=sample, classes=classes)}")
    if inspection.problems:
        sys.exit(1)


@main.command("train")
@click.argument("recipe", shell_complete=completed("recipes", "datasets", "runs"))
@_override("Change a recipe's value: -o solver.lr=0.01")
@click.option(
    "--dataset", shell_complete=completed("datasets"), help="Train on another dataset (YAML or folder), with its classes."
)
@click.option("--name", help="Name of the run, instead of the time: runs/<recipe>/<name>.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/<recipe>[-<dataset>]/<time>]")
@click.option(
    "--resume", is_flag=True, help="Go on with RECIPE's newest unfinished run, or with the run folder given as RECIPE."
)
@click.option("--dry-run", is_flag=True, help="Say what would be trained, how long it takes and what it needs; write nothing.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@_device
@_workers
def train_command(
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
) -> None:
    """Train a model. Ctrl-C leaves a checkpoint, --resume goes on from it.

    RECIPE is a dataset (a folder of images and label maps, or a YAML): imptool chooses a recipe, splits it, converts it, starts
    from the weights that come with it, and measures the result. Or a recipe: a YAML, or the name of one that comes with
    imptool, whose stages are trained. torchrun shares its batches among GPUs.

    \b
    imptool train shirts/
    imptool train ccp_lite --dry-run
    imptool train ccp_lite --dataset my.yaml -o solver.lr=0.01 --name slower
    imptool train ccp_lite --resume
    torchrun --nproc-per-node 4 -m imptool train vcp_r50 -o model.name=panoptic-p2-imp
    """
    from imptool.data.dataset import load_dataset
    from imptool.distributed import from_main, is_main, process_group, wait_for_all
    from imptool.dry_run import dry_run as print_dry_run
    from imptool.models.inference import choose_device
    from imptool.train import DESCRIPTION, Interrupted, train
    from imptool.train_folder import convert

    if seed is not None:
        override += (f"seed={seed}",)
    problems: list[str] = []
    with process_group(on_cpu=device == "cpu"):
        place, console = choose_device(device), _console()
        run, loaded, plan = _what_to_train(recipe, override, dataset, name, out, resume, place)
        run = from_main(run)
        if plan is not None:
            for line in plan.told():
                say(console, line)
        if dry_run:
            found = plan.dataset if plan is not None else load_dataset(loaded.dataset)
            print_dry_run(loaded, run, found, converts=plan is not None, device=place, console=console)
            return
        if plan is not None and is_main():
            problems += convert(plan, workers=workers, console=console)
            for problem in problems[:_TOLD]:
                say(console, f"note: left out: {problem}")
        wait_for_all()
        try:
            result = train(
                loaded,
                run,
                device=place,
                workers=workers,
                console=console,
                resume=resume,
                description=plan.description if plan else "",
            )
        except Interrupted as stop:
            if is_main():
                click.echo(f"{stop}; go on with: imptool train {run} --resume", err=True)
            sys.exit(130)
        measured = (run / DESCRIPTION).is_file()
        then = f"; next: imptool eval {run} --boundary-bands" * (not measured)
        say(console, f"trained in {_minutes(result.seconds)}: {run}/weights.safetensors{then}")
        if result.best and (run / "best.safetensors").is_file():
            say(
                console,
                f"best val mIOU {result.best['miou']:.2%} at iteration {result.best['iteration']:.0f}: {run}/best.safetensors",
            )
        if measured:
            click.get_current_context().invoke(eval_command, run=run, boundary_bands=True, device=device, workers=workers)
            say(console, f"next: imptool predict new-images/ --run {shlex.quote(str(run))}")
    _exit_with_failures([*problems, *result.unreadable.values()])


def _what_to_train(
    recipe: str, override: tuple[str, ...], dataset: str | None, name: str | None, out: Path | None, resume: bool, place: Any
) -> tuple[Path, Recipe, FolderPlan | None]:
    """The run, its recipe, and, where a dataset was named instead of a recipe, what was decided for it."""
    from imptool.checkpoint import newest_run
    from imptool.data.dataset import is_dataset, load_dataset
    from imptool.distributed import from_main
    from imptool.files import RECIPES, find_yaml
    from imptool.recipe import load_recipe
    from imptool.train import on_dataset_of
    from imptool.train_folder import BASES, plan_folder

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


def _new_run(stem: str, name: str | None, out: Path | None) -> Path:
    """The folder of a new run."""
    from imptool.files import check_file_name

    if name is None:
        return out or Path("runs", stem, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if out is not None:
        raise InputError("--name and --out both say where the run is to be: give one of them")
    try:
        return Path("runs", stem, check_file_name(name))
    except ValueError as error:
        raise InputError(f"--name: {error}") from error


@main.command("eval")
@click.argument("run", required=False, type=click.Path(path_type=Path), shell_complete=completed("runs"))
@click.option(
    "--weights",
    shell_complete=completed("weights"),
    metavar="FILE|NAME",
    help="Instead of RUN: a file of weights, or the name of some that come with imptool: ccp-lite.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Instead of RUN: a folder of label PNGs, of imptool predict, or a JSON of COCO results; with --dataset.",
)
@click.option("--boundary-bands", is_flag=True, help="Also all of it by distance to the boundary (Figure 5 of the paper).")
@click.option(
    "--bands", metavar="PX,PX,...", help="Other widths than 10,20,30,40,50,75,100,150,200,300,400; implies --boundary-bands."
)
@click.option("--boundary-f", metavar="PX|N%", help="Also each class's boundary F-score at this tolerance; % of the diagonal.")
@click.option("--boundary-iou", metavar="PX|N%", help="Also each class's Boundary IoU at this width; usual is 2%.")
@click.option(
    "--baseline", type=click.Choice(["prior"]), help="Beside it: the class most frequent at each position in training."
)
@click.option("--split", help="Instead of the recipe's val split.")
@click.option(
    "--dataset",
    shell_complete=completed("datasets"),
    help="Instead of the recipe's: a YAML, a folder, or, for COCO results, the COCO JSON of the truth.",
)
@click.option(
    "--remap",
    multiple=True,
    metavar="ID=ID,...|YAML",
    help="What ids in --predictions mean: 7=1,8=0,default=0, or a YAML of such pairs.",
)
@click.option("--resize", is_flag=True, help="Take --predictions of other sizes, by the nearest pixel.")
@click.option("--missing-as-background", is_flag=True, help="Score images without prediction as background.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default, replaced: <run>/eval-<split>, or evaluations/<dataset>-<split>/<predictions>]",
)
@_tta
@click.option(
    "--canvas",
    type=click.Choice(["detections", "empty", "true"]),
    default="detections",
    show_default=True,
    help="What the canvas of a model that projects shows: what it detects, nothing, or the true instances.",
)
@_device
@_workers
def eval_command(
    run: Path | None,
    weights: str | None,
    predictions: Path | None,
    boundary_bands: bool,
    bands: str | None,
    boundary_f: str | None,
    boundary_iou: str | None,
    baseline: str | None,
    split: str | None,
    dataset: str | None,
    remap: tuple[str, ...],
    resize: bool,
    missing_as_background: bool,
    out: Path | None,
    tta: str | None,
    canvas: str,
    device: str,
    workers: int,
) -> None:
    """Measure a run, or anybody's predictions. IOU, accuracy, box and mask AP, with 95 % intervals.

    RUN is a run folder, or a weights file in one; without it, the newest under runs/. Writes metrics.json, report.html,
    plots, and a CSV of all images. docs/metrics.md says what the figures mean.

    \b
    imptool eval --boundary-bands
    imptool eval runs/ccp_lite/2026-01-31_12-00-00 --bands 1,2,5,10 --boundary-f 3 --boundary-iou 2%
    imptool eval --weights best.safetensors --split test
    imptool eval --predictions their-label-pngs/ --dataset my.yaml
    imptool eval --predictions results.json --dataset annotations/val.json
    imptool eval --baseline prior --dataset my.yaml
    """
    from imptool.distributed import is_main, process_group
    from imptool.evaluate import (
        Request,
        evaluate_predictions,
        evaluate_prior,
        evaluate_run,
        evaluation_folder,
        print_evaluation,
        write_evaluation,
    )
    from imptool.metrics.boundary import BANDS

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
    widths = _band_widths(bands) if bands is not None else BANDS if boundary_bands else ()
    for option, size in (("--boundary-f", boundary_f), ("--boundary-iou", boundary_iou)):
        _check_size(option, size, whole=option == "--boundary-iou")
    with process_group(on_cpu=device == "cpu"), ExitStack() as held:
        console = _console()
        sizes = (widths, boundary_f or "", boundary_iou or "")
        request = Request(split, *sizes, baseline, out, workers, console, held, tta, canvas)
        if out is not None and is_main():
            held.enter_context(evaluation_folder(out))
        if predictions is not None and dataset is not None:
            evaluated = evaluate_predictions(
                predictions,
                request,
                dataset=dataset,
                remap=remap,
                resize=resize,
                missing_as_background=missing_as_background,
            )
        elif of_prior and dataset is not None:
            evaluated = evaluate_prior(request, dataset=dataset)
        else:
            from imptool.checkpoint import load_run, newest_run
            from imptool.models.inference import choose_device

            place = choose_device(device)
            trained = load_run(_weights_file(weights) if weights is not None else run or newest_run(), device=place)
            say(console, f"{trained.name} from {trained.source}, on {place}")
            evaluated = evaluate_run(trained, request, dataset=dataset, device=place)
        if is_main():
            print_evaluation(evaluated.result, console)
            for path in write_evaluation(evaluated, evaluated.out) if evaluated.out else ():
                say(console, str(path))
            if evaluated.out is None:
                say(console, "nothing was written: --out FOLDER writes figures, plots and report")
        _exit_with_failures(evaluated.result.failed)


@main.command("ablate")
@click.argument("recipe", shell_complete=completed("ablations"))
@_override("Change the recipe of all cells: -o solver.lr=0.01")
@click.option("--cell", "cells", multiple=True, metavar="NAME", help="Do these cells alone.")
@click.option("--seed", "seeds", multiple=True, type=int, metavar="N", help="Do these seeds alone.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the grid.  [default: ablations/<recipe>]")
@click.option("--keep-weights", is_flag=True, help="Keep the weights of every cell, some 10 MB each.")
@click.option("--report", is_flag=True, help="Train nothing: make tables, plots and page from what is finished.")
@_device
@_workers
def ablate_command(
    recipe: str,
    override: tuple[str, ...],
    cells: tuple[str, ...],
    seeds: tuple[int, ...],
    out: Path | None,
    keep_weights: bool,
    report: bool,
    device: str,
    workers: int,
) -> None:
    """Train and measure a grid: models times seeds. Tables with intervals over seeds and images, plots, and a page.

    RECIPE is a grid YAML or the name of one that comes with imptool: a recipe, its changes by cell, and seeds. The first stage
    is trained once for each seed. The same command goes on where it was stopped; started again in another terminal, or on
    another machine that shares the folder, it takes cells that are free. torchrun starts one process for each GPU.

    \b
    imptool ablate ccp_cpu
    imptool ablate ccp_cpu --cell panoptic-p2 --cell panoptic-p2-imp --seed 0
    imptool ablate ccp_cpu --report
    torchrun --nproc-per-node 2 -m imptool ablate ccp_cpu --device cpu
    """
    from imptool.ablate import check_folder, do_jobs
    from imptool.ablation.grid import chosen, load_ablation, plan
    from imptool.ablation.report import print_report, write_report
    from imptool.ablation.results import load_results
    from imptool.models.inference import choose_device
    from imptool.recipe import parse_change
    from imptool.train import Interrupted

    changes = dict(map(parse_change, override))
    for key, instead in (("seed", "--seed chooses among the grid's"), ("model.name", "--cell chooses among the grid's")):
        if key in changes:
            raise InputError(f"-o {key}: each cell has its own; {instead}")
    ablation = load_ablation(recipe)
    ablation = ablation.model_copy(update={"change": ablation.change | changes})
    out = out or Path("ablations", Path(recipe).stem)
    jobs, console = plan(ablation, out), _console()
    wanted = chosen(jobs, cells, seeds)
    check_folder(out)
    if not report:
        place = choose_device(device)
        try:
            do_jobs(wanted, ablation, device=place, workers=workers, keep_weights=keep_weights, console=console)
        except Interrupted as stop:
            click.echo(f"{stop}; the same command goes on", err=True)
            sys.exit(130)
    if _speaks():
        results = load_results(ablation, jobs)
        print_report(results, console)
        for path in write_report(results, out):
            say(console, str(path))
        if results.diverged:
            sys.exit(1)


@main.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", shell_complete=completed("runs"))
@click.option("--split", default="val", show_default=True, help="Which of a run's evaluations.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "markdown", "csv"]),
    default="table",
    show_default=True,
    help="What is printed.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write compare.md, compare.csv and bands.png/.svg there.")
@_force
def compare_command(runs: tuple[str, ...], split: str, format_: str, out: Path | None, force: bool) -> None:
    """Set evaluations side by side. Figures, classes, distance to the boundary, and which differences are significant.

    RUN is a run that imptool eval has measured, or a folder that it wrote; NAME=RUN gives it a name. Differences are from the
    first one; a star marks those that are significant (95 %): the interval of the paired difference leaves out 0.

    \b
    imptool compare runs/panoptic-fpn/a runs/panoptic-fpn-imp/b
    imptool compare without=runs/a with=runs/b theirs=evaluations/my-val/their-label-pngs --out compared/
    imptool compare runs/a runs/b --format markdown > table.md
    """
    from imptool.compare import compare, comparison_folder, load_runs, print_comparison, write_comparison

    with ExitStack() as held:
        if out is not None:
            held.enter_context(comparison_folder(out, force=force))
        compared = compare(load_runs(runs, split=split))
        print_comparison(compared, _console(), format_)
        for path in write_comparison(compared, out) if out is not None else ():
            click.echo(path, err=format_ != "table")


@main.command("predict")
@click.argument("photographs", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    shell_complete=completed("runs"),
    help="Run folder.  [default: the newest under runs/, else --weights ccp-lite]",
)
@click.option(
    "--weights",
    shell_complete=completed("weights"),
    metavar="FILE|NAME",
    help="Instead of --run: a file of weights, as of imptool export, or the name of some that come with imptool: ccp-lite.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: predictions/<folder>]")
@click.option(
    "--save",
    default="labels,overlay,coco,page",
    show_default=True,
    metavar="WHAT,...",
    help="What is written, of labels, overlay, coco, cutouts, page; or all.",
)
@click.option("--resume", is_flag=True, help="Keep what an earlier run has finished, and go on.")
@_force
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the network's dense parts.  [default: bfloat16 on CUDA, else float32]",
)
@_tta
@click.option("--batch", type=click.IntRange(1), help="Images of one size at a time.  [default: 4 on CUDA, else 1]")
@_max_pixels
@_device
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=min(8, usable_cores()),
    show_default=True,
    help="Threads that read images, and as many that write results: with a GPU, processes.",
)
def predict_command(
    photographs: tuple[str, ...],
    run: Path | None,
    weights: str | None,
    out: Path | None,
    save: str,
    resume: bool,
    force: bool,
    precision: Literal["float32", "bfloat16"] | None,
    tta: str | None,
    batch: int | None,
    max_pixels: int,
    device: str,
    workers: int,
) -> None:
    """Parse images: files, folders with all below, or globs. Writes label PNGs, overlays, COCO results and a page.

    Cut-outs (--save all) are PNGs of every garment, transparent around it. Several GPUs share the images under torchrun,
    which takes --run for an option of its own, unless -- stands before predict.

    \b
    imptool predict my-images/
    imptool predict "shop/*/front*.jpg" --weights weights.safetensors --save cutouts --out garments/
    imptool predict my-images/ --resume
    torchrun --nproc-per-node 4 -m imptool -- predict my-images/ --run runs/a
    """
    from imptool.checkpoint import load_run
    from imptool.data.tta import parse_tta
    from imptool.distributed import from_main, is_main, process_group
    from imptool.models.inference import choose_compute, choose_device
    from imptool.predict import Settings, predict, predictions_folder
    from imptool.prediction.photographs import find_photographs, title_of

    if run is not None and weights is not None:
        raise InputError("--run and --weights name different models: give one of them")
    saved = _outputs(save)
    with process_group(on_cpu=device == "cpu"), ExitStack() as held:
        title, console = title_of(photographs), _console()
        out = out or Path("predictions", title)
        found: list[Photograph] = []
        if is_main():  # a wrong folder should not wait for the weights
            held.enter_context(predictions_folder(out, resume=resume, force=force))
            found, notes = find_photographs(photographs, out)
            for note in notes:
                say(console, f"note: {note}")
        place = choose_device(device)
        named = run if weights is None else _weights_file(weights)
        trained = load_run(named or _newest_run_or_shipped(console), device=place)
        choose_compute(trained.model, place, precision)
        say(console, f"{trained.name} from {trained.source}, on {place} in {trained.model.compute.precision}")
        if trained.unfinished:
            say(console, f"note: {trained.unfinished}")
        views = parse_tta(tta, trained.labels)
        batch = batch or (4 if place.type == "cuda" else 1)
        settings = Settings(title, resume, saved, place, batch, workers, max_pixels, views)
        problems = predict(trained, from_main(found), out, settings, console)
        _exit_with_failures(problems)


@main.command("export")
@click.argument("run", required=False, shell_complete=completed("runs", "weights"))
@click.option(
    "--out", type=click.Path(path_type=Path), default="weights.safetensors", show_default=True, help="The file to write."
)
@click.option("--half", is_flag=True, help="Store the weights in float16, in half the space; they load as float32.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
def export_command(run: str | None, out: Path, half: bool, force: bool) -> None:
    """Write the model of a run as one file. Weights, classes, colours and recipe; predict and eval take it as --weights.

    RUN is a run folder, a file of weights, or the name of weights that come with imptool; by default the newest under runs/.

    \b
    imptool export runs/ccp_lite/2026-01-31_12-00-00
    imptool export --half --out small.safetensors
    imptool predict my-images/ --weights weights.safetensors
    """
    import torch

    from imptool.checkpoint import load_run, newest_run, save_weights
    from imptool.data.output import is_inside, results_folder

    def check(_: Path) -> None:
        if out.exists() and not force:
            raise InputError(f"{out} is there already: add --force, or choose another --out")

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: the file's name must end in .safetensors")
    with results_folder(out.parent, check):
        missing = f"{run} is no run of imptool train and no file of weights"
        trained = load_run(newest_run() if run is None else find_weights(run, missing=missing), device=torch.device("cpu"))
        if is_inside(out, trained.source):
            raise InputError(f"--out {out} is the model itself: choose another file")
        save_weights(out, trained.model, trained.name, trained.recipe, trained.labels, half=half)
    size, classes = out.stat().st_size / 2**20, len(trained.labels.classes)
    console = _console()
    say(console, f"{out}: {trained.name} from {trained.source}, {classes} classes, {size:.0f} MiB")
    if trained.unfinished:
        say(console, f"note: {trained.unfinished}")


def _outputs(text: str) -> frozenset[str]:
    """What `--save` names."""
    from imptool.prediction.results import SAVED

    names = frozenset(SAVED) if text == "all" else frozenset(name.strip() for name in text.split(","))
    for name in sorted(names - set(SAVED)):
        raise InputError(f"--save {text}: unknown '{name}'{nearest(name, SAVED)}")
    return names


def _weights_file(source: str) -> Path:
    """What `--weights` names."""
    missing = f"--weights {source}: no such file of weights (.safetensors)"
    path = find_weights(source, missing=missing)
    if path.is_dir() or path.suffix != ".safetensors":
        raise InputError(missing + ", but a folder" * path.is_dir())
    return path


def _newest_run_or_shipped(console: Console) -> Path:
    """What predict takes where nothing is named."""
    from imptool.checkpoint import newest_run

    try:
        return newest_run()
    except InputError:
        path = find_shipped_weights(DEFAULT_WEIGHTS)
        assert path is not None  # a name that is always known
    say(console, f"no trained run under runs/: using the shipped weights {DEFAULT_WEIGHTS}; --weights or --run chooses others")
    return path


def _check_size(option: str, text: str | None, *, whole: bool) -> None:
    from imptool.metrics.contours import pixels

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


def _height_and_width(text: str) -> tuple[int, int]:
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal()):
        raise InputError(f"--size {text}: write height and width in px, such as 480x320")
    return int(height), int(width)


@main.command("doctor")
def doctor_command() -> None:
    """Say what this machine has: versions, GPUs, how the projection runs here, and whether it is right.

    Exit code 1 where it is not. Send this along with a bug report.

    \b
    imptool doctor
    """
    from imptool.doctor import examine

    if not examine(_console()):
        sys.exit(1)


@main.command("list")
@click.argument("kind", required=False, shell_complete=completed("kinds"))
def list_command(kind: str | None) -> None:
    """List what comes with imptool: recipes, datasets, models, weights, layouts, ablations.

    KIND is one of these words, and tells more of each; without it, there is a line for everything.

    \b
    imptool list
    imptool list recipes
    """
    from imptool.list_things import list_things

    console = _console()
    for line in list_things(kind):
        say(console, line)


@main.command("recipe")
@click.argument("name", required=False, shell_complete=completed("recipes"))
@_override("Change a recipe's value: -o solver.lr=0.01")
def recipe_command(name: str | None, override: tuple[str, ...]) -> None:
    """Print a recipe with all its keys, defaults included, and what each of them is. The output is itself a recipe.

    NAME is a recipe YAML or the name of one that comes with imptool; imptool list recipes shows those. docs/recipe.md has the
    same keys with their defaults.

    \b
    imptool recipe ccp_lite
    imptool recipe ccp_lite -o solver.lr=0.01 > mine.yaml
    """
    from imptool.recipe import load_recipe
    from imptool.show_recipe import show_recipe

    if name is None:
        raise InputError("imptool recipe NAME: say which one; imptool list recipes shows those that come with imptool")
    if _speaks():
        click.echo(show_recipe(load_recipe(name, override)), nl=False)


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, quiet=not _speaks())


def _line_of(error: Exception) -> str:
    """What to say of a user's mistake, or of a fault of the surroundings; "" for any other error, which is ours to mend."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out of memory: take smaller files, fewer --workers or a smaller batch, or free some"
    if library := _library_at_fault(error):
        return f"{library} cannot be imported: look at the environment variables that it reads ({one_line(error)})"
    if isinstance(error, OSError):  # a full disk, a folder without permission
        return f"{error.filename or 'writing'}: {error.strerror or error}"
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return f"{error.object!r} cannot be the name of a file in this locale: set LC_ALL=C.UTF-8"
    return ""


def _library_at_fault(error: Exception) -> str:
    """The library that fails while it is imported, as it does on an environment variable with nonsense; "" where none does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    library = str(frames[-1].f_globals["__name__"]).partition(".")[0] if frames else ""
    return "" if library in ("imptool", "imp_kernels") else library


def _speaks() -> bool:
    """Under torchrun the first process does; a RANK by itself is something else's."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _background(dataset: Any) -> str:
    labels = dataset.labels
    if labels.background is None:
        return "no background"
    return f"background {labels.background} ({labels.classes[0].name}), {labels.ignore} ignored"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _exit_with_failures(problems: Sequence[str], code: int = 1) -> None:
    """A long job finishes the good files, lists the bad ones and exits with 1, or with 2 where a split has no good one."""
    if not problems:
        return
    if not _speaks():
        sys.exit(0)
    click.echo(f"{len(problems)} could not be used:", err=True)
    for problem in problems:
        click.echo(f"  {plain(' '.join(problem.split()))}", err=True)
    sys.exit(code)
