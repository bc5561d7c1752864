"""Pictures of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from imptool.files import whole_file

PANELS = {"miou": "mIOU (%)", "macc": "mAcc (%)"}
MARKERS = "os^Dv*PX"


def plot_bands(path: Path, bands: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write a PNG of the accuracy near the boundary: mIOU beside mAcc against the width of the band, a line per run.

    Args:
        path: the PNG.
        bands: B widths of the boundary bands in px.
        curves: {run: {"miou": B values, "macc": B values}}, 0..1; nan leaves a gap.
    Raises:
        ValueError: a curve has another number of values than there are bands.
    Source:
        Fu, Berg, Berg, IMP (2019), Figure 5.
    """
    figure = _figure(11, 4.4)
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for marker, (run, curve) in zip(cycle(MARKERS), curves.items(), strict=False):
            if len(curve[key]) != len(bands):
                raise ValueError(f"{key} of {run} must have one value for each of {len(bands)} bands, got {len(curve[key])}")
            axes.plot(bands, [100 * value for value in curve[key]], marker=marker, markersize=5, label=run)
        axes.set(title=title.split()[0], xlabel="L2 distance to the boundary (px)", ylabel=title)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    _save(figure, path)


def plot_class_counts(path: Path, names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> None:
    """Write a PNG of the instances of each class: a bar for each split; many on a logarithmic scale, as classes differ much."""
    figure = _figure(9, 1.6 + 0.28 * len(names))
    axes = figure.subplots()
    height = 0.8 / max(len(counts), 1)
    for place, (split, numbers) in enumerate(counts.items()):
        axes.barh([row + place * height for row in range(len(names))], numbers, height=height, label=_labels([split])[0])
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], _labels(names))
    axes.invert_yaxis()
    largest = max((number for numbers in counts.values() for number in numbers), default=0)
    if largest > 100:
        axes.set_xscale("symlog", linthresh=10)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0, 1.1 * max(largest, 1))
    axes.set_xlabel("instances")
    if len(counts) > 1:
        axes.legend(frameon=False)
    _finish(axes)
    _save(figure, path)


def plot_areas(path: Path, names: Sequence[str], areas: Sequence[np.ndarray]) -> None:
    """Write a PNG of how large the instances of each class are: areas [N] in px, drawn as sides of squares."""
    there = [place for place, values in enumerate(areas) if len(values)]
    figure = _figure(9, 1.6 + 0.28 * len(there))
    axes = figure.subplots()
    if there:
        shares = [np.percentile(np.sqrt(areas[place]), (5, 25, 50, 75, 95)) for place in there]
        least, low, middle, high, most = np.array(shares).T
        rows = np.arange(len(there))
        axes.hlines(rows, least, most, color="black", linewidth=1)
        axes.barh(rows, high - low, left=low, height=0.6, color="lightgrey", edgecolor="black")
        axes.vlines(middle, rows - 0.3, rows + 0.3, color="tab:orange")
        axes.set_yticks(rows, _labels([names[place] for place in there]))
        axes.invert_yaxis()
    axes.set_xlabel("side of a square of the same area (px)")
    _finish(axes)
    _save(figure, path)


def plot_histogram(path: Path, values: np.ndarray, what: str, of: str) -> None:
    """Write a PNG that counts whole numbers: `what` along the bottom, how many `of` have it upwards."""
    figure = _figure(9, 3.2)
    axes = figure.subplots()
    if len(values):
        step = max(1, -(-int(values.max()) // 60))
        axes.hist(values, bins=[edge - 0.5 for edge in range(0, int(values.max()) + 2 * step, step)])
    axes.set(xlabel=what, ylabel=of)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)
    axes.margins(y=0.05)
    _save(figure, path)


def plot_together(path: Path, names: Sequence[str], together: np.ndarray) -> None:
    """Write a PNG of which classes occur together: [C, C] photographs with both, shown as shares of the row's class."""
    side = 2 + 0.3 * len(names)
    figure = _figure(max(9, side + 1.5), side)
    axes = figure.subplots()
    if names:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = 100 * together / np.diag(together)[:, None]
        picture = axes.imshow(shares, vmin=0, vmax=100, cmap="Greys")
        axes.set_xticks(range(len(names)), _labels(names), rotation=90)
        axes.set_yticks(range(len(names)), _labels(names))
        figure.colorbar(picture, ax=axes, label="%", shrink=0.7)
    axes.set(xlabel="also show", ylabel="photographs with")
    _save(figure, path)


def _labels(names: Sequence[str], most: int = 30) -> list[str]:
    """Names as an axis can hold them: none longer than `most` letters, and no formulas, which matplotlib sees between $."""
    cut = [name if len(name) <= most else name[: most - 1] + "…" for name in names]
    return [name.replace("$", r"\$") for name in cut]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no display is asked for and no global state is touched
    return figure


def _finish(axes: Axes) -> None:
    axes.margins(y=0.01)
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
