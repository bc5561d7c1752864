"""The door: one click group. A command parses, and hands its options to the function `command` of its own file.

torch takes seconds to import, so every command imports its file when it runs; `--help` stays quick.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from imptool.completion import complete_names, complete_override
from imptool.faults import line_of
from imptool.files import InputError
from imptool.processes import stopped_by_signals, usable_cores
from imptool.report.console import Console, Outputs, plain, speaks
from imptool.report.progress import announce_compiling
from imptool.version import __version__


class _OneLine(click.ClickException):
    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(plain(" ".join(message.split())))


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
            if not (line := line_of(error)):
                raise
            raise _OneLine(line) from error
        except KeyboardInterrupt:
            click.echo("stopped; what was finished is kept", err=True)
            ctx.exit(130)


def _completed(*kinds: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """A `shell_complete` that offers the names of these kinds, and files where none of them fits."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file"), *map(CompletionItem, complete_names(kinds, incomplete))]

    return complete


def _complete_override(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return list(map(CompletionItem, complete_override(incomplete)))


def _run(file: str, options: Mapping[str, Any], *, stderr: bool = False) -> None:
    """Import a command's file, call its function `command` with the options and a console, and exit with the code it gives."""
    command = import_module(f"imptool.{file}").command
    if speaks() and "numba" in sys.modules:  # the command has imported by now what it runs
        announce_compiling()
    if code := command(**options, console=Console(stderr=stderr, quiet=not speaks())):
        sys.exit(code)


_PATH = click.Path(path_type=Path)
_shown = partial(click.option, show_default=True)
_device = _shown("--device", default="auto", help="cpu, cuda or cuda:N; auto takes CUDA if there is a GPU.")
_COUNT, _FROM_0 = click.IntRange(1), click.IntRange(0)
_workers = _shown("--workers", type=_FROM_0, default=min(4, usable_cores()), help="Processes or threads that read files.")
_max_pixels = _shown("--max-pixels", type=_COUNT, default=200_000_000, help="Refuse larger pictures: they take memory.")
_tta = click.option(
    "--tta",
    metavar="SCALE,...",
    help="Average the model's results over views of each image: at these scales of its input, and with flip mirrored "
    "as well, as in flip,0.75,1,1.25. Takes the time of all of them.  [default: off]",
)


def _override(help: str) -> Callable[[Any], Any]:
    return click.option("-o", "--override", multiple=True, metavar="KEY=VALUE", shell_complete=_complete_override, help=help)


def _weights(help: str) -> Callable[[Any], Any]:
    return click.option("--weights", shell_complete=_completed("weights"), metavar="FILE|NAME", help=help)


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
@click.argument("out", type=_PATH, default="demo")
def demo_command(out: Path) -> None:
    """Show the whole workflow on drawn outfits. Draws, converts, trains, measures and parses, in some minutes.

    Everything goes to OUT (default: demo), with a page to look at: OUT/index.html. Each command is shown before it
    runs. Running it again replaces it.

    \b
    imptool demo
    imptool demo shown/
    """

    def run(words: Sequence[str]) -> None:
        code = main.main(list(words), prog_name="imptool", standalone_mode=False)
        if code:  # Ctrl-C in a command ends the demo too
            sys.exit(code)

    _run("demo", {"out": out, "run": run})


@main.command("outfits")
@click.argument("out", type=_PATH)
@_shown("--count", type=int, default=200, help="Pictures; one in five goes to the val split.")
@_shown("--size", default="480x320", metavar="HEIGHTxWIDTH", help="In pixels.")
@_shown("--seed", type=int, default=0, help="Another seed gives other pictures.")
@click.option("--groups", is_flag=True, help="The groups of Table 7 (upper, lower, whole, ...) as classes, instead of all 25.")
@click.option("--stuff", multiple=True, metavar="CLASS", help="A class that is described as no thing, such as skin.")
@_workers
@_force
def outfits_command(**options: Any) -> None:
    """Draw a dataset of outfits: pictures, label PNGs, true instances, a dataset YAML.

    The 25 classes are those of the paper's own dataset, which was never published. The same seed gives the same pictures.

    \b
    imptool outfits my-outfits
    imptool outfits my-outfits --count 5000 --size 800x600 --seed 7
    """
    _run("draw_outfits", options)


@main.command("convert-instances")
@click.argument("dataset", required=False, shell_complete=_completed("datasets"))
@click.option("--out", type=_PATH, help="Folder, or .json for one split.  [default: instances/<dataset>/]")
@_shown(
    "--format",
    "format_",
    type=click.Choice(["coco", "panoptic", "semantic"]),
    default="coco",
    help="COCO instances (what train reads), COCO panoptic PNGs and JSON, or palette PNGs with a dataset YAML.",
)
@_shown("--segmentation", type=click.Choice(["rle", "polygon"]), default="rle", help="Of COCO instances. Both are exact.")
@click.option("--simplify", type=click.FloatRange(0), default=0.0, metavar="PX", help="Let polygons leave their outline by PX.")
@click.option("--components", is_flag=True, help="Split the true instances of a source that has them into components.")
@_shown("--connectivity", type=click.Choice(["4", "8"]), default="8", help="Neighbours of a pixel that touch it.")
@_shown("--min-area", type=_COUNT, default=1, help="Drop instances of fewer pixels, and count them.")
@_max_pixels
@_workers
@_force
@click.option("--resume", is_flag=True, help="Go on with a conversion that was stopped; the result has the same bytes.")
def convert_instances_command(**options: Any) -> None:
    """Turn label maps into instances. Every connected component of a class is one, true instances are kept.

    DATASET is a dataset YAML, the name of one that comes with imptool, or a folder: images/ (or photos/) and labels/, VOC,
    Cityscapes, or COCO JSON; without it, the one in the current folder. docs/layouts.md has them all.

    \b
    imptool convert-instances recipes/datasets/ccp.yaml
    imptool convert-instances my-images/ --min-area 16
    imptool convert-instances my.yaml --segmentation polygon --out polygons/
    imptool convert-instances my.yaml --format panoptic
    """
    _run("convert_instances", options)


@main.command("inspect")
@click.argument("dataset", required=False, shell_complete=_completed("datasets"))
@click.option("--out", type=_PATH, help="Also write CSV, problems.json and plots to this folder.")
@click.option("--page", is_flag=True, help="Also write a page to look at.  [folder: --out, or inspected/<dataset>]")
@_shown("--sample", type=_COUNT, default=12, help="Images on the page.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="On the page, images that show this class.")
@click.option("--json", "as_json", is_flag=True, help="Print statistics and problems as JSON and nothing else.")
@_max_pixels
@_workers
@_force
def inspect_command(**options: Any) -> None:
    """Know a dataset before training on it. Statistics, problems, and a page; exit code 1 if there are problems.

    DATASET is what convert-instances takes. Where that has been run in this folder, its results are compared too.

    \b
    imptool inspect my-images/
    imptool inspect recipes/datasets/ccp.yaml --page --class bag --class belt
    imptool inspect my.yaml --json > found.json
    """
    _run("inspect_dataset", options, stderr=options["as_json"])


@main.command("train")
@click.argument("recipe", shell_complete=_completed("recipes", "datasets", "runs"))
@_override("Change a recipe's value: -o solver.lr=0.01")
@click.option("--dataset", shell_complete=_completed("datasets"), help="Another dataset (YAML or folder), with its classes.")
@click.option("--name", help="Name of the run, instead of the time: runs/<recipe>/<name>.")
@click.option("--out", type=_PATH, help="Folder of the run.  [default: runs/<recipe>[-<dataset>]/<time>]")
@click.option("--resume", is_flag=True, help="Go on with RECIPE's newest unfinished run, or the run given as RECIPE.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained, how long it takes, which files are bad.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@_device
@_workers
def train_command(**options: Any) -> None:
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
    _run("train_run", options)


@main.command("eval")
@click.argument("run", required=False, type=_PATH, shell_complete=_completed("runs"))
@_weights("Instead of RUN: a file of weights, or the name of some that come with imptool: ccp-lite.")
@click.option(
    "--predictions",
    type=_PATH,
    help="Instead of RUN: a folder of label PNGs, of imptool predict, or a JSON of COCO results or segments; with --dataset.",
)
@click.option("--boundary-bands", is_flag=True, help="Also all figures by distance to the boundary (Figure 5 of the paper).")
@click.option(
    "--bands", metavar="PX,...", help="Other widths than 10,20,30,40,50,75,100,150,200,300,400; implies --boundary-bands."
)
@click.option("--boundary-f", metavar="PX|N%", help="Also each class's boundary F-score at this tolerance; % of the diagonal.")
@click.option("--boundary-iou", metavar="PX|N%", help="Also each class's Boundary IoU at this width; usual is 2%.")
@click.option("--baseline", type=click.Choice(["prior"]), help="Also the class most frequent at each position.")
@click.option("--panoptic", is_flag=True, help="Also panoptic quality (PQ) of detections and label map together.")
@_override("Change how a panoptic result is made: -o panoptic.confidence=0.3; implies --panoptic.")
@click.option("--split", help="Instead of the recipe's val split.")
@click.option(
    "--dataset",
    shell_complete=_completed("datasets"),
    help="Instead of the recipe's: a YAML, a folder, or, for COCO results, the COCO JSON of the truth.",
)
@click.option(
    "--remap",
    multiple=True,
    metavar="ID=ID,...|YAML",
    help="What ids in --predictions mean: 7=1,8=0,default=0, or a YAML of such pairs.",
)
@click.option("--resize", is_flag=True, help="Resize --predictions of other sizes, by the nearest pixel.")
@click.option("--missing-as-background", is_flag=True, help="Score images without prediction as background.")
@click.option(
    "--out",
    type=_PATH,
    help="Folder of the results.  [default, replaced: <run>/eval-<split>, or evaluations/<dataset>-<split>/<predictions>]",
)
@_tta
@_shown(
    "--canvas",
    type=click.Choice(["detections", "empty", "true"]),
    default="detections",
    help="What the canvas of a model that projects shows: what it detects, nothing, or the true instances.",
)
@_device
@_workers
def eval_command(**options: Any) -> None:
    """Measure a run, or anybody's predictions. IOU, accuracy, box and mask AP, with 95 % intervals.

    RUN is a run folder, or a weights file in one; without it, the newest under runs/. Writes metrics.json, report.html,
    plots, and a CSV of all images. docs/metrics.md says what the figures mean.

    \b
    imptool eval --boundary-bands
    imptool eval runs/ccp_lite/2026-01-31_12-00-00 --bands 1,2,5,10 --boundary-f 3 --boundary-iou 2%
    imptool eval --weights best.safetensors --split test
    imptool eval --predictions their-label-pngs/ --dataset my.yaml
    imptool eval --predictions results.json --dataset annotations/val.json
    imptool eval --panoptic
    imptool eval --predictions panoptic.json --dataset my.yaml
    imptool eval --baseline prior --dataset my.yaml
    """
    _run("evaluate", options)


@main.command("ablate")
@click.argument("recipe", shell_complete=_completed("ablations"))
@_override("Change the recipe of all cells: -o solver.lr=0.01")
@click.option("--cell", "cells", multiple=True, metavar="NAME", help="Do only this cell; may be given several times.")
@click.option("--seed", "seeds", multiple=True, type=int, metavar="N", help="Do only this seed; may be given several times.")
@click.option("--out", type=_PATH, help="Folder of the grid.  [default: ablations/<recipe>]")
@click.option("--keep-weights", is_flag=True, help="Keep the weights of every cell, some 10 MB each.")
@click.option("--report", is_flag=True, help="Train nothing: make tables, plots and page from what is finished.")
@_device
@_workers
def ablate_command(**options: Any) -> None:
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
    _run("ablate", options)


@main.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...", shell_complete=_completed("runs"))
@_shown("--split", default="val", help="Which of a run's evaluations.")
@_shown("--format", "format_", type=click.Choice(["table", "markdown", "csv"]), default="table", help="What is printed.")
@click.option("--out", type=_PATH, help="Also write compare.md, compare.csv and bands.png/.svg there.")
@_force
def compare_command(**options: Any) -> None:
    """Set evaluations side by side. Figures, classes, distance to the boundary, and which differences are significant.

    RUN is a run that imptool eval has measured, or a folder that it wrote; NAME=RUN gives it a name. Differences are from the
    first one; a star marks those that are significant (95 %): the interval of the paired difference excludes 0.

    \b
    imptool compare runs/panoptic-fpn/a runs/panoptic-fpn-imp/b
    imptool compare without=runs/a with=runs/b theirs=evaluations/my-val/their-label-pngs --out compared/
    imptool compare runs/a runs/b --format markdown > table.md
    """
    _run("compare", options)


@main.command("predict")
@click.argument("photographs", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--run",
    type=_PATH,
    shell_complete=_completed("runs"),
    help="Run folder.  [default: the newest under runs/, else --weights ccp-lite]",
)
@_weights("Instead of --run: a file of weights, as of imptool export, or the name of some that come with imptool: ccp-lite.")
@click.option("--out", type=_PATH, help="Folder of the results.  [default: predictions/<folder>]")
@_shown(
    "--save",
    default="labels,overlay,coco,page",
    metavar="WHAT,...",
    help="What is written, of labels, overlay, coco, cutouts, panoptic, page; or all.",
)
@click.option("--resume", is_flag=True, help="Keep what an earlier run has finished, and go on.")
@_force
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the network's dense parts.  [default: bfloat16 on CUDA, else float32]",
)
@_tta
@click.option("--batch", type=_COUNT, help="Images of one size at a time.  [default: 4 on CUDA, else 1]")
@_override("Change how a panoptic result is made: -o panoptic.confidence=0.3; implies --save panoptic.")
@_max_pixels
@_device
@_shown(
    "--workers",
    type=_FROM_0,
    default=min(8, usable_cores()),
    help="Threads that read images, and as many that write results: with a GPU, processes.",
)
def predict_command(**options: Any) -> None:
    """Parse images: files, globs, or folders with everything below them. Writes label PNGs, overlays, COCO results and a page.

    Cut-outs (--save all) are PNGs of every garment, transparent around it. Several GPUs share the images under torchrun,
    which takes --run for an option of its own, unless -- stands before predict.

    \b
    imptool predict my-images/
    imptool predict "shop/*/front*.jpg" --weights weights.safetensors --save cutouts --out garments/
    imptool predict my-images/ --resume
    torchrun --nproc-per-node 4 -m imptool -- predict my-images/ --run runs/a
    """
    _run("predict", options)


@main.command("export")
@click.argument("run", required=False, shell_complete=_completed("runs", "weights"))
@_shown("--out", type=_PATH, default="weights.safetensors", help="The file to write.")
@click.option("--half", is_flag=True, help="Store the weights in float16, in half the space; they load as float32.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
def export_command(**options: Any) -> None:
    """Write the model of a run as one file. Weights, classes, colours and recipe; predict and eval take it as --weights.

    RUN is a run folder, a file of weights, or the name of weights that come with imptool; by default the newest under runs/.

    \b
    imptool export runs/ccp_lite/2026-01-31_12-00-00
    imptool export --half --out small.safetensors
    imptool predict my-images/ --weights weights.safetensors
    """
    _run("export", options)


@main.command("doctor")
def doctor_command() -> None:
    """Say what this machine has: versions, GPUs, how the projection runs here, and whether it is right.

    Exit code 1 where it is not. Send this along with a bug report.

    \b
    imptool doctor
    """
    _run("doctor", {})


@main.command("list")
@click.argument("kind", required=False, shell_complete=_completed("kinds"))
def list_command(**options: Any) -> None:
    """List what comes with imptool: recipes, datasets, models, weights, layouts, ablations.

    KIND is one of these words, and tells more of each; without it, there is a line for everything.

    \b
    imptool list
    imptool list recipes
    """
    _run("list_things", options)


@main.command("recipe")
@click.argument("name", required=False, shell_complete=_completed("recipes"))
@_override("Change a recipe's value: -o solver.lr=0.01")
def recipe_command(**options: Any) -> None:
    """Print a recipe with all its keys, defaults included, and what each of them is. The output is itself a recipe.

    NAME is a recipe YAML or the name of one that comes with imptool; imptool list recipes shows those. docs/recipe.md has the
    same keys with their defaults.

    \b
    imptool recipe ccp_lite
    imptool recipe ccp_lite -o solver.lr=0.01 > mine.yaml
    """
    _run("show_recipe", options)
