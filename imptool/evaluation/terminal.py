"""An evaluation on the terminal."""

from __future__ import annotations

import math
from dataclasses import replace

from rich.console import Console

from imptool.evaluation.record import CANVASES, Evaluation
from imptool.evaluation.sheets import (
    absent_classes,
    bands_sheet,
    classes_sheet,
    panoptic_sheet,
    precision_shares,
    summary_sheet,
)
from imptool.files import some
from imptool.metrics.bootstrap import REPLICATES
from imptool.report.page import Swatch
from imptool.report.progress import say
from imptool.report.tables import Sheet, cell_text, terminal_table

_MANY = 2000  # images: seconds
_NAMED = 40  # classes in a line


def print_evaluation(result: Evaluation, console: Console) -> None:
    """The tables on the terminal."""
    if len(result.images) >= _MANY:
        say(console, f"intervals from {REPLICATES:,} resampled splits ...")
    precision = precision_shares(result)
    title = f"{result.dataset}, split {result.split}, {len(result.images):,} images (percent)"
    if result.measured or result.precision:
        _print_classes(classes_sheet(title, result.labels, result.measured, precision), result, console)
    else:
        say(console, title.removesuffix(" (percent)"))
    if result.measured:
        console.print(terminal_table(summary_sheet(result.measured)))
        if any(measured.cells.bands for measured in result.measured.values()):
            console.print(terminal_table(bands_sheet(result.measured), intervals=len(result.measured) == 1))
    for kind in result.precision:
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
        figures = {key: precision[f"{kind}/{key}"] for key in keys}
        say(console, f"{kind} " + "  ".join(f"{key} {cell_text(figure)}" for key, figure in figures.items()))
    if result.panoptic:
        console.print(terminal_table(panoptic_sheet(result), intervals=False))
    if not math.isnan(result.canvas_nonempty):
        say(console, f"images with a non-empty canvas: {result.canvas_nonempty:.1%}")
    if result.tta:
        say(console, f"test-time augmentation: {result.tta}")
    if result.swapped:
        say(console, f"on the canvas: {CANVASES[result.canvas]}")
    for note in result.notes:
        say(console, f"note: {note}")


def _print_classes(sheet: Sheet, result: Evaluation, console: Console) -> None:
    """The rows of the classes that occur, and a line for all others: a dataset may have hundreds."""
    absent = absent_classes(result)
    rows = [row for row in sheet.rows if not (isinstance(row[0], Swatch) and row[0].name in absent)]
    console.print(terminal_table(replace(sheet, rows=rows, caption=""), intervals=False))
    if absent:
        what = "1 class does" if len(absent) == 1 else f"{len(absent):,} classes do"
        predicted = [row[0].name for row in sheet.rows if isinstance(row[0], Swatch) and row[0].name in absent]
        also = f"; predicted all the same, which counts as an IOU of 0: {some(predicted, _NAMED)}" if predicted else ""
        say(console, f"{what} not occur in the split: {some(absent, _NAMED)}{also}")
