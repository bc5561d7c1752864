"""`imptool demo`: the whole way on generated outfits, command by command, and a page that shows what came out."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from imptool.checkpoint import TrainedModel, load_run
from imptool.data.coco import decode_masks
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.images import read_image
from imptool.data.instances import file_name, read_instances
from imptool.data.layouts import Item
from imptool.data.output import contents, results_folder
from imptool.data.palette import class_palette
from imptool.data.prediction import coco_results
from imptool.files import InputError, whole_file
from imptool.models.inference import parse_image
from imptool.report import page
from imptool.report.overlays import colour_canvas, colour_classes, colour_instances, side_by_side
from imptool.report.progress import say

COMMANDS = (
    (
        "imptool outfits outfits --count 600 --size 320x160 --groups",
        "Draw a dataset: pictures, label maps, a YAML that describes them",
    ),
    ("imptool convert-instances outfits", "Make an instance of every connected component of the label maps"),
    ("imptool train outfits_lite --out runs/demo", "Train a parser that starts from the weights that come with imptool"),
    ("imptool eval runs/demo --boundary-bands --baseline prior", "Measure it on pictures that it has not seen"),
    ("imptool outfits new --count 24 --size 320x160 --seed 1", "Draw a few more, as if they were your images"),
    ("imptool predict new/images --run runs/demo", "Parse them"),
)
RUN, METRICS = Path("runs/demo"), Path("runs/demo/eval-val/metrics.json")
LINKS = {
    "The report of the evaluation: every class, plots, the worst and the best images": "runs/demo/eval-val/report.html",
    "The album of the images that were parsed last": "predictions/images/index.html",
    "The curves of the training": "runs/demo/curves.png",
    "The recipe of the run, as it was trained": "runs/demo/recipe.yaml",
}
"""What else the demo has made, for its page."""

_MARK = ".imptool-demo"  # a folder with this file is the demo's own, and is made anew
_EXAMPLES, _FRONT = 12, 4  # val pictures on the page, and those of them in overview.png


@dataclass(frozen=True)
class _Parsed:
    """A val picture with all that the page shows of it."""

    name: str
    pictures: dict[str, np.ndarray]
    classes: list[int]  # ids in target or prediction
    accuracy: float


def command(*, out: Path, run: Callable[[Sequence[str]], None], console: Console) -> None:
    """`imptool demo`, with its option: as `demo`."""
    demo(out, run=run, console=console)


def demo(out: Path, *, run: Callable[[Sequence[str]], None], console: Console) -> Path:
    """Run every command of the demo in the folder `out` and write `index.html` there; give its path.

    Args:
        run: takes the words of a command after "imptool".
    Raises:
        InputError: the folder holds something that the demo did not make.
    """
    steps = []
    with results_folder(out, _check_room), chdir(out):
        _make_room()
        say(console, f"Everything goes to {out}/. The same commands work on your own data.")
        for number, (command, about) in enumerate(COMMANDS, start=1):
            say(console, "")
            say(console, f"[{number}/{len(COMMANDS)}] {about}.")
            say(console, f"      {out}$ {command}")
            began = time.monotonic()
            run(command.split()[1:])
            steps.append(page.Step(command, about, time.monotonic() - began))
        metrics = json.loads(METRICS.read_text(encoding="utf-8"))
        parsed = _parse_examples()
        _write_pictures(parsed)
        _write_page(steps, metrics, parsed)
    _print_summary(metrics, sum(step.seconds for step in steps), out, console)
    return out / "index.html"


def _check_room(out: Path) -> None:
    if contents(out) and not (out / _MARK).is_file():
        raise InputError(f"{out} holds something that the demo did not make: choose an empty or new folder")


def _make_room() -> None:
    """Empty the current folder, but for our lock."""
    for name in contents(Path()):
        path = Path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    Path(_MARK).touch()


def _parse_examples() -> list[_Parsed]:
    """The first pictures of the val split, not the best ones."""
    trained, dataset = load_run(RUN, device=torch.device("cpu")), load_dataset("outfits")
    document = read_instances(dataset, "val")
    ids = {image["file_name"]: image["id"] for image in document["images"]}
    examples = []
    for item in dataset.split("val")[:_EXAMPLES]:
        rows = [row for row in document["annotations"] if row["image_id"] == ids[file_name(dataset, item)]]
        examples.append(_parse_example(trained, dataset, item, rows))
    return examples


def _parse_example(trained: TrainedModel, dataset: Dataset, item: Item, rows: list[dict[str, Any]]) -> _Parsed:
    image, target, labels = read_image(item.image), dataset.read_labels(item), dataset.labels
    prediction = parse_image(trained.model, image, trained.recipe.input, device=torch.device("cpu"))
    assert prediction.channels is not None
    assert prediction.canvas is not None
    predicted = labels.to_ids(prediction.channels)
    shown = [info.id for info in labels.classes if info.id != labels.background]
    detected = decode_masks(coco_results(prediction, labels, image_id=1), target.shape)
    things = [labels.ids[channel] for channel in labels.things]
    pictures = {
        "image": image,
        "target": colour_classes(image, target, ids=shown, alpha=0.75),
        "its instances": colour_instances(image, decode_masks(rows, target.shape)),
        "detected instances": colour_instances(image, detected),
        "canvas": colour_canvas(prediction.canvas, things, size=target.shape),
        "prediction": colour_classes(image, predicted, ids=shown, alpha=0.75),
    }
    present = sorted(set(np.unique(target).tolist() + np.unique(predicted).tolist()) & set(shown))
    return _Parsed(item.stem, pictures, present, float((predicted == target).mean()))


def _picture_path(name: str, what: str) -> Path:
    return Path("pictures") / f"{name}-{what.replace(' ', '-')}.jpg"


def _write_pictures(parsed: Sequence[_Parsed]) -> None:
    for example in parsed:
        for what, picture in example.pictures.items():
            with whole_file(_picture_path(example.name, what)) as temporary:
                Image.fromarray(picture).save(temporary, quality=90)
    front = ("image", "detected instances", "canvas", "prediction")
    pairs = [[example.pictures[what] for what in front] for example in parsed[:_FRONT]]
    overview = side_by_side([[picture for pair in pairs[row : row + 2] for picture in pair] for row in range(0, len(pairs), 2)])
    with whole_file(Path("overview.png")) as temporary:
        Image.fromarray(overview).save(temporary)


def _write_page(steps: Sequence[page.Step], metrics: dict[str, Any], parsed: Sequence[_Parsed]) -> None:
    dataset, palette = load_dataset("outfits"), class_palette()
    names = dict(zip(dataset.labels.ids, dataset.labels.names, strict=True))

    def legend(ids: Sequence[int]) -> list[tuple[str, tuple[int, int, int]]]:
        return [(names[index], tuple(palette[index].tolist())) for index in ids]

    examples = [
        page.Example(
            example.name,
            {what: _picture_path(example.name, what).as_posix() for what in example.pictures},
            legend(example.classes),
            f"{example.accuracy:.0%} of its pixels are right",
            example.pictures["image"].shape[:2],
        )
        for example in parsed
    ]
    sections = {
        "Images": [
            page.text_html(f"The first {len(parsed)} images of the val split, none of them chosen."),
            page.gallery_html(examples),
        ],
        "To look at": [page.links_html({what: path for what, path in LINKS.items() if Path(path).is_file()})],
        "The steps": [page.text_html("In the demo's folder; each works the same on your own data."), page.steps_html(steps)],
        "Results": [page.headline_html(headline(metrics)), _class_table(metrics, palette)],
        "Near the boundary": [
            page.figure_html(
                METRICS.with_name("bands.png").as_posix(),
                "mIOU and mAcc of the model and of the position prior by distance to the boundary",
                metrics["definitions"]["band"],
            )
        ],
        "How this was made": [page.terms_html(_made(steps, metrics))],
    }
    intro = (
        "A network parses clothing: a detector finds instances, their masks are projected onto a canvas with one layer for "
        "each class, and the semantic head sees that canvas. It was trained here, on drawn outfits, from the weights that come "
        "with imptool, which images of people have trained."
    )
    page.write_page(Path("index.html"), "imptool: a first result", intro, sections, metrics["definitions"])


def headline(metrics: dict[str, Any]) -> dict[str, str]:
    """The figures that matter most, as text: {what it is: the figure}."""
    model, prior = metrics["semantic"][metrics["model"]], metrics["semantic"]["prior"]
    return {
        "mIOU, foreground classes": f"{model['miou']:.1%}",
        "mIOU of the position prior": f"{prior['miou']:.1%}",
        "pixel accuracy": f"{model['pixel_accuracy']:.1%}",
        "mask AP": f"{metrics['average_precision']['mask']['AP']:.1%}",
        "pictures with a non-empty canvas": f"{metrics['canvas_nonempty']:.0%}",
    }


def _class_table(metrics: dict[str, Any], palette: np.ndarray) -> page.Html:
    model, prior = metrics["semantic"][metrics["model"]], metrics["semantic"]["prior"]
    pixels = np.array(model["confusion"], float).sum(axis=1)
    rows = [
        [
            page.Swatch(row["name"], tuple(palette[row["id"]].tolist())),
            _share(row["iou"]),
            _share(other["iou"]),
            _share(row["accuracy"]),
            share,
        ]
        for row, other, share in zip(model["per_class"], prior["per_class"], (pixels / pixels.sum()).tolist(), strict=True)
    ]
    columns = ["class", "IOU", "prior's IOU", "accuracy", "share of the target's pixels"]
    return page.table_html(columns, rows, caption="By class, in percent")


def _share(value: float | None) -> float:
    return float("nan") if value is None else value


def _made(steps: Sequence[page.Step], metrics: dict[str, Any]) -> dict[str, str]:
    generator, recipe = metrics["dataset"]["generator"], metrics["recipe"]
    models = [(stage["model"] or recipe["model"]["name"], stage["iterations"]) for stage in recipe["stages"].values()]
    stages = ", then ".join(f"{model} for {iterations} iterations" for model, iterations in models)
    return {
        "pictures": f"{generator['count']} by generator {generator['name']} {generator['version']}, seed {generator['seed']}",
        "training": f"{stages}, batches of {recipe['solver']['batch']}, seed {recipe['seed']}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.system()}",
        "time": page.duration(sum(step.seconds for step in steps)),
        "versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }


def _print_summary(metrics: dict[str, Any], seconds: float, out: Path, console: Console) -> None:
    say(console, "")
    say(console, f"Done in {page.duration(seconds)}.")
    for what, figure in headline(metrics).items():
        say(console, f"  {figure:>6}  {what}")
    say(console, f"Open {out / 'index.html'} in a browser.")
