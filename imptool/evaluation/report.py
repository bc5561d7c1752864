"""What people look at after an evaluation: plots, and a report in one file that opens from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.images import read_image
from imptool.data.layouts import Item
from imptool.evaluation.figures import DEFINITIONS, Measured
from imptool.evaluation.record import CANVASES, Evaluation, versions
from imptool.evaluation.sheets import (
    WORDS,
    band_curves,
    bands_sheet,
    classes_sheet,
    for_plots,
    panoptic_shares,
    panoptic_sheet,
    precision_shares,
    share,
    summary_sheet,
    swatch,
)
from imptool.files import InputError
from imptool.metrics.conventions import DEFINITIONS as CONVENTIONS
from imptool.metrics.panoptic import DEFINITIONS as PQ_DEFINITIONS
from imptool.report import page
from imptool.report.overlays import colour_classes, colour_errors, drawable
from imptool.report.plots import plot_bands, plot_class_bars, plot_confusion
from imptool.report.tables import Sheet, cell_text

REPORT = "report.html"
PLOTS = {
    "classes": "IOU of every class, with its 95 % interval.",
    "bands": DEFINITIONS["band"],
    "confusion": "Of the pixels of each class of the target (a row), the share that is predicted as each class (a column).",
}
_SHOWN = 4  # images of the worst, and of the best
_SIDE = 480  # px of their longer side

Predict = Callable[[Item, np.ndarray], np.ndarray | None]
"""From an item and its target to its predicted channels, both [H, W]."""


def write_plots(result: Evaluation, folder: Path) -> list[Path]:
    """Write the plots of semantic maps, each as PNG and SVG; those of an earlier evaluation go."""
    for name in PLOTS:
        for suffix in (".png", ".svg"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    if not result.measured:
        return []
    names, ids = [drawable(name) or f"class {number}" for number, name in enumerate(result.labels.names)], result.labels.ids
    measured = for_plots(result.measured)
    values = {name: [each.figures[f"class/{number}/iou"] for number in ids] for name, each in measured.items()}
    intervals = {name: np.array([each.intervals[f"class/{number}/iou"] for number in ids]) for name, each in measured.items()}
    first = next(iter(measured.values()))
    paths = [*plot_class_bars(folder / "classes.png", names, values, intervals)]
    if first.cells.bands:
        paths += plot_bands(folder / "bands.png", first.cells.bands, *band_curves(measured, first.cells.bands))
    return [*paths, *plot_confusion(folder / "confusion.png", names, first.confusion)]


def write_report(
    result: Evaluation, folder: Path, examples: Mapping[str, Sequence[page.Example]], curves: Path | None = None
) -> Path:
    """Write `report.html` from the figures, the plots that lie in the folder, examples by heading, and the run's curves."""
    sections: dict[str, list[page.Html]] = {"Figures": [page.headline_html(_headline(result))]}
    if result.measured:
        sections["Figures"].append(_table(summary_sheet(result.measured)))
    if result.measured or result.precision:
        sections["Classes"] = [_table(classes_sheet("", result.labels, result.measured, precision_shares(result), pixels=True))]
    for name, about in PLOTS.items():
        if (folder / f"{name}.svg").is_file():
            heading = {"classes": "Classes", "bands": "Near the boundary", "confusion": "Confusion"}[name]
            plot = page.Embedded((folder / f"{name}.svg").read_bytes(), "image/svg+xml")
            sections.setdefault(heading, []).append(page.figure_html(plot, heading, about))
    if "Near the boundary" in sections:
        sections["Near the boundary"] += [_table(bands_sheet(result.measured, rings=rings)) for rings in (False, True)]
    if result.panoptic:
        sections["Panoptic quality"] = [_table(panoptic_sheet(result))]
    for heading, pictures in examples.items():
        sections[heading] = [page.gallery_html(pictures)]
    if result.measured:
        sections["Other definitions of mIOU"] = [_table(_conventions_sheet(result)), page.terms_html(CONVENTIONS)]
    if curves is not None and curves.is_file():
        plot = page.Embedded(curves.read_bytes(), "image/svg+xml")
        about = "Losses, learning rate and, where it was measured, mIOU on the val split; a grey line parts the stages."
        sections["Training"] = [page.figure_html(plot, "The curves of the training", about)]
    sections["How this was measured"] = [page.terms_html(_made(result))]
    if result.failed or result.notes:
        lines = [["note", line] for line in result.notes] + [["left out", line] for line in result.failed]
        sections["How this was measured"].append(page.table_html(["kind", "what"], lines))
    intro = f"{result.main} on {result.dataset}, split {result.split}: {len(result.images):,} images."
    terms = DEFINITIONS | (PQ_DEFINITIONS if result.panoptic else {})
    page.write_page(folder / REPORT, f"{result.main} on {result.dataset}", intro, sections, terms)
    return folder / REPORT


def draw_examples(result: Evaluation, dataset: Dataset, predict: Predict) -> dict[str, list[page.Example]]:
    """The images with the lowest and the highest mIOU, with target, prediction and difference."""
    if result.main not in result.measured:
        return {}
    figures = result.measured[result.main].of_images["miou"]
    order = [place for place in np.argsort(figures, kind="stable").tolist() if not math.isnan(figures[place])]
    items = {file_name(dataset, item): item for item in dataset.split(result.split)}
    count = min(_SHOWN, (len(order) + 1) // 2)
    places = {"The worst images": order[:count], "The best images": order[::-1][: min(count, len(order) - count)]}
    examples = {}
    for heading, chosen in places.items():
        drawn = [_example(dataset, items[result.images[place]], predict, float(figures[place])) for place in chosen]
        if found := [example for example in drawn if example is not None]:
            examples[heading] = found
    return examples


def _example(dataset: Dataset, item: Item, predict: Predict, miou: float) -> page.Example | None:
    labels = dataset.labels
    try:
        target = dataset.read_channels(item)
        predicted = predict(item, target)
        image = read_image(item.image, max_pixels=dataset.max_pixels) if dataset.has_photographs else None
    except InputError:  # gone since it was measured
        return None
    if predicted is None:
        return None
    step = max(1, math.ceil(max(target.shape) / _SIDE))
    target, predicted = target[::step, ::step], predicted[::step, ::step]
    size = (target.shape[0], target.shape[1])
    small = np.full((*size, 3), 255, np.uint8) if image is None else cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    shown = [labels.ids[channel] for channel in labels.foreground]
    ignored = target == labels.ignore_channel
    ids = np.where(ignored, labels.ignore, labels.to_ids(np.where(ignored, 0, target)))
    pictures = {
        "image": small,
        "target": colour_classes(small, ids, ids=shown, alpha=0.75, colours=labels.colours),
        "predicted": colour_classes(small, labels.to_ids(predicted), ids=shown, alpha=0.75, colours=labels.colours),
        "difference: wrong in red, ignored in blue": colour_errors(small, (predicted != target) & ~ignored, ignored),
    }
    if image is None:
        del pictures["image"]
    present = sorted(set(np.unique(target[~ignored]).tolist() + np.unique(predicted).tolist()) & set(labels.foreground))
    return page.Example(
        item.stem or item.label.name,
        {what: page.Embedded(_jpeg(picture), "image/jpeg") for what, picture in pictures.items()},
        [swatch(labels, channel) for channel in present],
        f"mIOU {miou:.1%}",
        size,
    )


def _jpeg(picture: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return file.getvalue()


def _table(sheet: Sheet) -> page.Html:
    """A heading whose first line is empty on the terminal is of the one before it; here columns are read alone."""
    headings, first = [], ""
    for column in sheet.columns:
        above, line, below = column.partition("\n")
        first = (above or first) if line else ""
        headings.append(f"{first} {below}" if line else above)
    return page.table_html(headings, sheet.rows, caption=sheet.title or sheet.caption)


def _headline(result: Evaluation) -> dict[str, str]:
    """The figures that matter most, with their intervals in words."""
    found = {}
    measured = result.measured.get(result.main) or next(iter(result.measured.values()), None)
    keys = ("miou", "macc", "pixel_accuracy") if measured else ()
    shares = {WORDS[key]: share(measured, key) for key in keys if measured}
    shares |= {
        WORDS[key]: precision_shares(result)[key] for key in ("box/AP", "mask/AP") if key[: key.index("/")] in result.precision
    }
    shares |= {WORDS[key]: figure for key, figure in panoptic_shares(result).items() if key == "panoptic/pq"}
    for words, figure in shares.items():
        interval = "" if math.isnan(figure.low) else f"; 95 %: {100 * figure.low:.1f}-{100 * figure.high:.1f}"
        found[words + interval] = cell_text(figure.value)
    return found | {"images": f"{len(result.images):,}"}


def _conventions_sheet(result: Evaluation) -> Sheet:
    columns = {name: result.conventions(name) for name in result.measured}
    rows: list[list[page.Cell]] = [[key, *(values[key] for values in columns.values())] for key in CONVENTIONS]
    return Sheet("What the same predictions score where mIOU means something else", ["mIOU of", *columns], rows)


def _made(result: Evaluation) -> dict[str, str]:
    found = {"dataset": f"{result.dataset}, split {result.split}, hash {result.labels_hash or result.instances_hash}"}
    found |= {key: str(result.about[key]) for key in ("model", "weights", "predictions") if result.about.get(key)}
    if result.tta:
        found["test-time augmentation"] = result.tta
    if result.swapped:
        found["on the canvas"] = CANVASES[result.canvas]
    counted: Measured | None = next(iter(result.measured.values()), None)
    if counted is not None and counted.cells.boundary_f:
        found["tolerance of the boundary F-score"] = _with_unit(counted.cells.boundary_f)
    if counted is not None and counted.cells.boundary_iou:
        found["width of Boundary IoU"] = _with_unit(counted.cells.boundary_iou)
    if result.panoptic:
        kind, settings = next(iter(result.panoptic)), result.about.get("fusion") or {}
        told = [f"{key} {value}" for key, value in settings.items() if key != "instances"]
        found["panoptic result"] = ", ".join([f"things: {kind}", *told])
    if not math.isnan(result.canvas_nonempty):
        found["images with a non-empty canvas"] = f"{result.canvas_nonempty:.1%}"
    return found | {"versions": ", ".join(f"{name} {number}" for name, number in versions().items())}


def _with_unit(size: str) -> str:
    return f"{size.rstrip('%')} % of the diagonal" if size.endswith("%") else f"{size} px"
