"""Tables of figures for the terminal; shares are printed in percent, and absent ones as a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from imptool.data.label_set import LabelSet

SUMMARY = {
    "miou": "mIOU, foreground classes",
    "miou_with_background": "mIOU, with background",
    "macc": "mAcc, foreground classes",
    "macc_with_background": "mAcc, with background",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IOU",
}


def classes_table(
    title: str,
    labels: LabelSet,
    iou: Mapping[str, np.ndarray],
    accuracy: Mapping[str, np.ndarray],
    precision: Mapping[str, Mapping[int, float]],
) -> Table:
    """A row for each class: IOU and accuracy [C] of every predictor, and AP by class id of every kind (box, mask).

    Classes without any figure, in no target and never predicted, are counted in the caption.
    """
    table = Table("class", title=escape(title))
    for name in iou:
        table.add_column(f"{escape(name)}\nIOU", justify="right")
        table.add_column("\nacc", justify="right")
    for kind in precision:
        table.add_column(f"{escape(kind)}\nAP", justify="right")
    absent = 0
    for channel, info in enumerate(labels.classes):
        figures = [share for name in iou for share in (iou[name][channel], accuracy[name][channel])]
        figures += [by_id.get(info.id, math.nan) for by_id in precision.values()]
        if all(map(math.isnan, figures)):
            absent += 1
        else:
            table.add_row(escape(info.name), *map(percent, figures))
    if absent:
        table.caption = f"{absent} of {len(labels.classes)} classes absent: in no target, never predicted"
    return table


def summary_table(summaries: Mapping[str, Mapping[str, float]]) -> Table:
    """The figures of a confusion matrix, a column for each predictor."""
    table = Table("over the split")
    for name in summaries:
        table.add_column(escape(name), justify="right")
    for key, words in SUMMARY.items():
        table.add_row(words, *(percent(summary[key]) for summary in summaries.values()))
    return table


def bands_table(bands: Mapping[str, tuple[Sequence[float], Sequence[Mapping[str, float]]]]) -> Table:
    """mIOU, mAcc and pixel accuracy within each distance of the boundary, for each predictor."""
    table = Table("within px", title="Near the boundary (percent)")
    for name in bands:
        for figure in ("mIOU", "mAcc", "pixel acc"):
            table.add_column(f"{escape(name)}\n{figure}" if figure == "mIOU" else f"\n{figure}", justify="right")
    widths = next(iter(bands.values()))[0]
    for row, width in enumerate(widths):
        summaries = [summary[row] for _, summary in bands.values()]
        figures = [summary[key] for summary in summaries for key in ("miou", "macc", "pixel_accuracy")]
        table.add_row(f"{width:g}", *map(percent, figures))
    return table


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
