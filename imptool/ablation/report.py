"""What a grid found, for people: tables on the terminal and in Markdown, plots, a page, and all figures as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from imptool.ablation.cells import EXAMPLES, example_items, example_name
from imptool.ablation.results import DETECTIONS, EMPTY, TRUE, Results, difference, share, to_plain
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.images import read_image, read_label_map
from imptool.data.layouts import Item
from imptool.evaluation.figures import DEFINITIONS, distance_key
from imptool.evaluation.sheets import WORDS, swatch
from imptool.files import InputError, whole_file, write_json
from imptool.report import page
from imptool.report.overlays import colour_classes, drawable
from imptool.report.page import Cell, Difference
from imptool.report.plots import plot_bands, plot_class_gains, plot_curves, plot_gain
from imptool.report.progress import say
from imptool.report.tables import Sheet, markdown, terminal_table

RESULTS, TABLES, PAGE = "results.json", "tables.md", "index.html"
_WIDE = 120  # columns that a table with intervals takes
_SIDE = 320  # px of the longer side of an example
_PAPER = {  # mIOU, Table 1: Varied Clothing Parsing, ResNet-50
    "mask-rcnn-imp": 43.9,
    "semantic-p2": 37.0,
    "semantic-fpn": 42.7,
    "panoptic-p2": 37.1,
    "panoptic-p2-imp": 46.6,
    "panoptic-fpn": 45.0,
    "panoptic-fpn-imp": 47.0,
}
_INTERVAL = "in brackets: 95 % interval over seeds and images, with one seed over images alone"
_STAR = "* significant (95 %): the interval excludes 0"


def print_report(results: Results, console: Console) -> None:
    """The tables that matter most."""
    for sheet in (models_sheet(results), pairs_sheet(results), canvas_sheet(results)):
        if sheet.rows:
            console.print(terminal_table(sheet, intervals=console.width >= _WIDE))
    for title, why in results.diverged.items():
        say(console, f"diverged: {title}: {why}")
    if results.missing:
        say(console, f"not finished: {len(results.missing)} of {_count(results)} cells, such as {results.missing[0]}")


def write_report(results: Results, out: Path) -> list[Path]:
    """Write figures, tables, plots and page of what is finished; give the paths, the page first."""
    sheets = [sheet for sheet in _sheets(results) if sheet.rows]
    write_json(out / RESULTS, to_plain(results, [*_keys(results), *_class_keys(results)]), indent=1)
    with whole_file(out / TABLES) as temporary:
        temporary.write_text("\n".join(map(markdown, sheets)), encoding="utf-8", errors="replace")
    plots = _plots(results, out)
    _write_page(results, out, sheets, plots)
    return [out / PAGE, out / TABLES, out / RESULTS, *(path for path, _, _ in plots)]


def models_sheet(results: Results) -> Sheet:
    """A row for each cell, as in the paper's Table 1."""
    keys = [key for key in _keys(results) if key != "pixel_accuracy"]
    paper = any(name in _PAPER for name in results.cells)
    rows: list[list[Cell]] = []
    for name, seeds in results.cells.items():
        if not seeds:
            continue
        of, times = results.mean(name), [each.about.milliseconds for each in seeds.values() if each.about.milliseconds]
        figures: list[Cell] = [share(of, key) for key in keys]
        told = [f"{len(seeds)}", *figures, f"{fmean(times):.0f}" if times else page.ABSENT]
        rows.append([name, *told, *([f"{_PAPER[name]:.1f}" if name in _PAPER else page.ABSENT] if paper else [])])
    first = results.some
    title = f"{first.dataset}, split {first.split}, {len(first.images):,} images (percent)"
    columns = [
        "cell",
        "seeds",
        *(_words(key) for key in keys),
        "ms/image",
        *(["mIOU in the paper\non its own data"] if paper else []),
    ]
    return Sheet(title, columns, rows, _INTERVAL)


def pairs_sheet(results: Results) -> Sheet:
    """The differences of pairs with the same seeds, and so the same first stage and the same batches."""
    keys = [key for key in _keys(results) if key not in ("mask/AP", "pixel_accuracy")]
    rows: list[list[Cell]] = []
    for one, other in results.pairs:
        of, seeds = results.difference(one, other), results.seeds_of(one, other)
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in of.by_seed.get("miou", np.empty(0)).tolist())
        rows.append([f"{one} less {other}", f"{len(seeds)}", *(difference(of, key) for key in keys), by_seed])
    columns = ["pair", "seeds", *(_words(key) for key in keys), "mIOU, each seed"]
    return Sheet("Differences (points)", columns, rows, f"{_STAR}; {_INTERVAL}")


def canvas_sheet(results: Results) -> Sheet:
    """What a model with a canvas makes of an empty one, of its own detections and of the true instances."""
    rows: list[list[Cell]] = []
    for name, seeds in results.cells.items():
        canvases = results.canvases(name) if seeds else []
        if len(canvases) > 1:
            figures = [share(results.mean(name, canvas), "miou") for canvas in (EMPTY, DETECTIONS, TRUE)]
            gain = results.difference(name, name, DETECTIONS, EMPTY) if EMPTY in canvases else None
            rows.append([name, *figures, difference(gain, "miou") if gain else page.ABSENT])
    columns = ["mIOU with the canvas", "empty", "of own detections", "of true instances", "own less empty\n(points)"]
    return Sheet("What is on the canvas (percent)", columns, rows, f"{_STAR}; {_INTERVAL}")


def classes_sheet(results: Results) -> Sheet:
    """The gain of every class beside its instances and area, as in the paper's Table 8."""
    labels, instances, pixels = results.some.labels, _instances(results), _pixels(results)
    rows: list[list[Cell]] = []
    for channel in sorted(labels.foreground, key=lambda channel: -instances.get(labels.ids[channel], 0)):
        key = f"class/{labels.ids[channel]}/iou"
        gains: list[Cell] = [difference(results.difference(*pair), key) for pair in results.pairs]
        if not all(isinstance(gain, Difference) and math.isnan(gain.value) for gain in gains):
            rows.append([swatch(labels, channel), *gains, f"{instances.get(labels.ids[channel], 0):,}", f"{pixels[channel]:,}"])
    columns = ["class", *(f"{one}\nless {other}" for one, other in results.pairs), "instances", "area, px"]
    return Sheet("Gain in IOU by class (points)", columns, rows if results.pairs else [], f"{_STAR}; {_INTERVAL}")


def bands_sheet(results: Results) -> Sheet:
    """mIOU near the boundary: every cell, and the difference of every pair, as in the paper's Figure 5."""
    cells = [name for name, seeds in results.cells.items() if seeds]
    rows: list[list[Cell]] = []
    for width in _bands(results):
        key = distance_key("band", width, "miou")
        shares: list[Cell] = [share(results.mean(name), key) for name in cells]
        rows.append([f"{width:g}", *shares, *(difference(results.difference(*pair), key) for pair in results.pairs)])
    columns = ["within px", *(f"{name}\nmIOU" for name in cells), *(f"{one}\nless {other}" for one, other in results.pairs)]
    return Sheet("Near the boundary (percent, points)", columns, rows, f"{_STAR}; {_INTERVAL}")


def curves_sheet(results: Results) -> Sheet:
    """Val mIOU on the way, means over seeds: whether a cell was still improving when its training ended."""
    curves = _curves(results)
    iterations = sorted({iteration for curve in curves.values() for iteration in curve})
    rows: list[list[Cell]] = [
        [name, *(fmean(curve[iteration]) if iteration in curve else math.nan for iteration in iterations)]
        for name, curve in curves.items()
    ]
    return Sheet("Val mIOU while training (percent)", ["after iterations", *map(str, iterations)], rows)


def _sheets(results: Results) -> list[Sheet]:
    return [
        models_sheet(results),
        pairs_sheet(results),
        canvas_sheet(results),
        classes_sheet(results),
        bands_sheet(results),
        curves_sheet(results),
    ]


def _keys(results: Results) -> list[str]:
    """The figures of the tables, in order, as far as any cell has them."""
    wanted = ["box/AP", "mask/AP", "miou", "macc", *(distance_key("band", width, "miou") for width in _bands(results)[:1])]
    known = {key for name, seeds in results.cells.items() if seeds for key in results.mean(name).values}
    return [key for key in (*wanted, "pixel_accuracy") if key in known]


def _class_keys(results: Results) -> list[str]:
    bands = [distance_key("band", width, "miou") for width in _bands(results)[1:]]
    return [*bands, *(f"class/{class_id}/iou" for class_id in results.some.labels.ids)]


def _bands(results: Results) -> tuple[float, ...]:
    first = results.some
    return first.measured[first.main].cells.bands if first.measured else ()


def _instances(results: Results) -> Mapping[int, int]:
    """How many instances of each class id the split has."""
    evaluations = (each.evaluations[DETECTIONS] for seeds in results.cells.values() for each in seeds.values())
    return next((evaluation.instances for evaluation in evaluations if evaluation.instances), {})


def _pixels(results: Results) -> np.ndarray:
    """How many pixels each class has in the split: [C], 0 where no label map was measured."""
    first = results.some
    return first.measured[first.main].confusion.sum(axis=1) if first.measured else np.zeros(len(first.labels.classes), np.int64)


def _words(key: str) -> str:
    kind, _, rest = key.partition("/")
    if kind == "band":
        return f"mIOU within\n{float(rest.partition('/')[0]):g} px"
    return {"miou": "mIOU", "macc": "mAcc", "pixel_accuracy": "pixel acc"}.get(key, WORDS.get(key, key))


def _count(results: Results) -> int:
    return len(results.ablation.cells) * len(results.ablation.seeds)


def _curves(results: Results) -> dict[str, dict[int, list[float]]]:
    """Of each cell, the val mIOU of its seeds by iteration."""
    curves: dict[str, dict[int, list[float]]] = {}
    for name, seeds in results.cells.items():
        for each in seeds.values():
            for iteration, miou in (each.about.curve or {}).items():
                curves.setdefault(name, {}).setdefault(int(iteration), []).append(miou)
    return curves


Plot = tuple[Path, str, str]
"""Of a plot the PNG (the SVG lies beside it), its heading on the page, and the line beneath."""


def _plots(results: Results, out: Path) -> list[Plot]:
    for path in (path for name in ("bands", "curves", "gain", "classes-*") for path in out.glob(f"{name}.[ps][nv]g")):
        path.unlink()  # of an earlier report
    plots: list[Plot] = []
    cells = [name for name, seeds in results.cells.items() if seeds]
    if widths := _bands(results):
        keys = {kind: [distance_key("band", width, kind) for width in widths] for kind in ("miou", "macc")}
        shares = {name: {kind: [share(results.mean(name), key) for key in keys[kind]] for kind in keys} for name in cells}
        values = {name: {kind: [one.value for one in each] for kind, each in of.items()} for name, of in shares.items()}
        ends = {name: {kind: np.array([one[1:] for one in each]) for kind, each in of.items()} for name, of in shares.items()}
        plot_bands(out / "bands.png", widths, values, ends)
        plots.append((out / "bands.png", "Near the boundary", f"{DEFINITIONS['band']} Bands: {_INTERVAL}."))
    if curves := _curves(results):
        plot_curves(out / "curves.png", curves)
        plots.append((out / "curves.png", "While training", "Val mIOU by iteration: mean over seeds, lowest and highest."))
    if len(points := _gain_points(results)) > 1:
        plot_gain(out / "gain.png", points)
        plots.append((out / "gain.png", "Gain and detector", f"Difference in mIOU against the detector's box AP; {_INTERVAL}."))
    for number, pair in enumerate(results.pairs if results.some.measured else ()):
        path = out / f"classes-{number + 1}.png"
        _plot_classes(results, pair, path)
        plots.append((path, "Classes", f"{pair[0]} less {pair[1]}: gain in IOU, classes of most instances first; {_INTERVAL}."))
    return plots


def _gain_points(results: Results) -> list[tuple[str, float, float, float, float]]:
    """Of pairs with a detector: name, box AP of the first cell, gain in mIOU, its interval; nan for AP: true instances."""
    points = []
    for one, other in results.pairs:
        precision = results.mean(one).values.get("box/AP", math.nan)
        if not math.isnan(precision):
            points.append((one, precision, *share(results.difference(one, other), "miou")))
            if TRUE in results.canvases(one):
                points.append((one, math.nan, *share(results.difference(one, other, TRUE), "miou")))
    return points


def _plot_classes(results: Results, pair: tuple[str, str], path: Path) -> None:
    labels, of = results.some.labels, results.difference(*pair)
    pixels, instances = _pixels(results), _instances(results)
    gains = {channel: share(of, f"class/{labels.ids[channel]}/iou") for channel in labels.foreground}
    known = [channel for channel, gain in gains.items() if not math.isnan(gain.value)]
    counts = [instances.get(labels.ids[channel], 0) for channel in known]
    plot_class_gains(
        path,
        [drawable(labels.names[channel]) or f"class {labels.ids[channel]}" for channel in known],
        np.array([gains[channel] for channel in known]).reshape(-1, 3),
        counts,
        [pixels[channel] / count if count else math.nan for channel, count in zip(known, counts, strict=True)],
    )


def _write_page(results: Results, out: Path, sheets: Sequence[Sheet], plots: Sequence[Plot]) -> None:
    headings = ("Models", "Differences", "On the canvas", "Classes", "Near the boundary", "While training")
    titles = [sheet.title for sheet in _sheets(results)]
    sections: dict[str, list[page.Html]] = {}
    for sheet in sheets:
        heading = headings[titles.index(sheet.title)]
        sections.setdefault(heading, []).append(_table(sheet))
    for path, heading, about in plots:
        picture = page.Embedded(path.with_suffix(".svg").read_bytes(), "image/svg+xml")
        sections.setdefault(heading, []).append(page.figure_html(picture, heading, about))
    if examples := _examples(results):
        sections["The same images"] = [page.gallery_html(examples)]
    lines: list[list[Cell]] = [["diverged", f"{title}: {why}"] for title, why in results.diverged.items()]
    lines += [["not finished", title] for title in results.missing]
    if lines:
        sections["Not there"] = [page.table_html(["what", "cell"], lines)]
    seeds = ", ".join(map(str, results.ablation.seeds))
    intro = f"{len(results.cells)} cells on {results.some.dataset}, from {results.ablation.recipe}; seeds {seeds}."
    definitions = {key: text for key, text in DEFINITIONS.items() if key != "paired_difference"}  # of two single trainings
    page.write_page(out / PAGE, f"Ablation {out.resolve().name}", intro, sections, definitions)


def _table(sheet: Sheet) -> page.Html:
    rows = [[cell.replace("\n", " ") if isinstance(cell, str) else cell for cell in row] for row in sheet.rows]
    return page.table_html([column.replace("\n", " ") for column in sheet.columns], rows, caption=sheet.title)


def _examples(results: Results) -> list[page.Example]:
    """The same images as all cells of the first seed parse them, as in the paper's Figures 2 and 6."""
    seed = results.ablation.seeds[0]
    cells = {name: seeds[seed] for name, seeds in results.cells.items() if seed in seeds}
    if not cells:
        return []
    recipe = next(iter(cells.values())).job.recipe
    try:
        dataset = load_dataset(recipe.dataset)
        items = example_items(dataset, recipe.val_split, results.ablation.examples)
        folders = {name: each.job.folder / EXAMPLES for name, each in cells.items()}
        return [_example(dataset, item, folders) for item in items]
    except InputError:  # the images have gone since
        return []


def _example(dataset: Dataset, item: Item, folders: Mapping[str, Path]) -> page.Example:
    labels = dataset.labels
    image, target = read_image(item.image, max_pixels=dataset.max_pixels), dataset.read_channels(item)
    step = max(1, math.ceil(max(target.shape) / _SIDE))
    size = (-(-target.shape[0] // step), -(-target.shape[1] // step))
    small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    ignored = target == labels.ignore_channel
    maps = {"target": np.where(ignored, labels.ignore, labels.to_ids(np.where(ignored, 0, target)))}
    for name, folder in folders.items():
        if (folder / example_name(item)).is_file():
            maps[name] = read_label_map(folder / example_name(item))
    shown = [labels.ids[channel] for channel in labels.foreground]
    pictures = {"image": small} | {
        what: colour_classes(small, ids[::step, ::step], ids=shown, alpha=0.75, colours=labels.colours)
        for what, ids in maps.items()
    }
    present = {int(number) for ids in maps.values() for number in np.unique(ids)}
    return page.Example(
        item.stem,
        {what: page.Embedded(_jpeg(picture), "image/jpeg") for what, picture in pictures.items()},
        [swatch(labels, channel) for channel in labels.foreground if labels.ids[channel] in present],
        size=size,
    )


def _jpeg(picture: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return file.getvalue()
