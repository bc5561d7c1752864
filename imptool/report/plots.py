"""Pictures of numbers: those of a dataset as PNG, those of an evaluation as SVG as well, for a page or a paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from imptool.files import whole_file

PANELS = {"miou": "mIOU (%)", "macc": "mAcc (%)"}
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#7a5c1e")
"""A colour for each run, the same in every plot: six of Okabe and Ito, which colour-blind readers tell apart, and two more."""
MARKERS = "os^Dv*PX"
LETTER = 0.0088  # inches that a letter takes on average for each point of its font's size; a digit takes as much


def plot_bands(
    path: Path,
    bands: Sequence[float],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    intervals: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[Path]:
    """Draw the accuracy near the boundary: mIOU beside mAcc against the width of the band, a line per run.

    Args:
        path: the PNG; the SVG stands beside it.
        bands: B widths of the boundary bands in px.
        curves: {run: {"miou": B values, "macc": B values}}, 0..1; nan leaves a gap.
        intervals: {run: {"miou": [B, 2], "macc": [B, 2]}}, the low and the high end of each value's interval, 0..1, drawn as
            a light band around the line; nan leaves a gap. A run without intervals is a line alone.
    Returns:
        the paths of the PNG and the SVG.
    Raises:
        ValueError: a curve or its interval has another number of values than there are bands.
    Source:
        Fu, Berg, Berg, IMP (2019), Figure 5.
    """
    figure = _figure(11, 4.4)
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for marker, colour, (run, curve) in zip(cycle(MARKERS), cycle(COLOURS), curves.items(), strict=False):
            if len(curve[key]) != len(bands):
                raise ValueError(f"{key} of {run} must have one value for each of {len(bands)} bands, got {len(curve[key])}")
            axes.plot(bands, 100 * np.asarray(curve[key], float), marker=marker, markersize=5, color=colour)
            if intervals and run in intervals:
                low, high = _ends(intervals[run][key], len(bands), f"{key} of {run}")
                # The edge keeps an interval between two gaps in sight.
                axes.fill_between(bands, low, high, color=colour, alpha=0.16, linewidth=1)
        axes.set(title=title.split()[0], xlabel="L2 distance to the boundary (px)", ylabel=title)
        _tick_widths(axes, bands, inches=4.5)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, figure.axes[0].lines, curves)
    return _save_both(figure, path)


def plot_class_bars(
    path: Path,
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, np.ndarray] | None = None,
    *,
    label: str = "IOU (%)",
) -> list[Path]:
    """Draw a figure of each class as a horizontal bar for each run.

    Args:
        path: the PNG; the SVG stands beside it.
        names: of C classes. More than 50 stand in two columns.
        values: {run: C values}, 0..1; nan is an absent class: a dash in place of its bar, a word where no run has one.
        intervals: {run: [C, 2]}, the low and the high end of each value's interval, 0..1, drawn as a thin line; nan: none.
            A run may be missing.
        label: what the values are, in percent.
    Returns:
        the paths of the PNG and the SVG.
    Raises:
        ValueError: a run has another number of values or intervals than there are classes.
    """
    shares = {run: 100 * np.asarray(value, float) for run, value in values.items()}
    for run, share in shares.items():
        if share.shape != (len(names),):
            raise ValueError(f"{run} must have one value for each of {len(names)} classes, got {len(share)}")
    ends = {run: _ends(interval, len(names), run) for run, interval in (intervals or {}).items() if run in shares}
    columns = 1 if len(names) <= 50 else 2
    tallest = -(-len(names) // columns)
    thick = max(0.075, 0.19 / max(len(shares), 1))  # inches of one bar
    around = 1.3 if len(shares) > 1 else 0.8  # inches for the scale and the legend
    figure = _figure(9 if columns == 1 else 11, around + (thick * max(len(shares), 1) + 0.1) * max(tallest, 1))
    height = thick / (thick * max(len(shares), 1) + 0.1)  # of one bar, where a class takes 1
    nowhere = np.isnan(np.array([*shares.values()]).reshape(-1, len(names))).all(axis=0)
    known = np.concatenate([[0.0], *shares.values(), *(high for _, high in ends.values())])
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = slice(column * tallest, (column + 1) * tallest)
        centres = np.arange(len(names[part]))
        for place, (colour, (run, share)) in enumerate(zip(cycle(COLOURS), shares.items(), strict=False)):
            rows = centres + (place - (len(shares) - 1) / 2) * height
            axes.barh(rows, share[part], height=0.9 * height, color=colour)
            if run in ends:
                low, high = (end[part] for end in ends[run])
                axes.hlines(rows, low, high, color="black", linewidth=0.9)
            absent = np.isnan(share[part]) & ~nowhere[part]
            axes.plot(np.full(absent.sum(), 0.008), rows[absent], "_", color="0.4", transform=axes.get_yaxis_transform())
        for row in centres[nowhere[part]]:
            axes.text(0.005, row, "absent", color="0.4", fontsize=8, va="center", transform=axes.get_yaxis_transform())
        axes.set_yticks(centres, _labels(names[part]))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(max(tallest, 1) - 0.4, -0.6)
        axes.set_xlim(0, min(100, 1.05 * np.nanmax(known)) or 100)
        axes.set_xlabel(label)
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
    if len(shares) > 1:
        _legend_below(figure, figure.axes[0].containers, shares)
    return _save_both(figure, path)


def plot_confusion(path: Path, names: Sequence[str], confusion: np.ndarray) -> list[Path]:
    """Draw which classes are taken for which: the rows are target classes, each 100 %, the columns predicted ones.

    Shades follow the square root of a share, so that the rare mistakes show as well. The row of an absent class is hatched.

    Args:
        path: the PNG; the SVG stands beside it.
        names: of C classes. Up to 25, each cell of at least half a percent has its number.
        confusion: [C, C] pixels.
    Returns:
        the paths of the PNG and the SVG.
    Raises:
        ValueError: confusion is not [C, C].
    """
    confusion, count = np.asarray(confusion, float), len(names)
    if confusion.shape != (count, count):
        raise ValueError(f"confusion must be [{count}, {count}] for {count} classes, got {list(confusion.shape)}")
    pixels = confusion.sum(axis=1)
    absent = np.flatnonzero(pixels == 0)
    with np.errstate(invalid="ignore"):
        shares = 100 * confusion / pixels[:, None]
    cell = float(np.clip(7 / max(count, 1), 0.15, 1))  # inches
    font = min(10, 0.72 * 72 * cell)
    columns = _labels(names)
    rows = [f"{name} (absent)" if place in absent else name for place, name in enumerate(columns)]
    longest = [LETTER * font * max(map(len, texts), default=0) for texts in (rows, columns)]
    upright = longest[1] > 0.9 * cell
    side = max(cell * count, 1.6)
    figure = _figure(side + longest[0] + 1.6, side + (longest[1] if upright else 0.2) + 0.6)
    figure.set_layout_engine("compressed")  # keeps the bar of shades as tall as the squares
    axes = figure.subplots()
    # At the resolution of the figure, as not every viewer of SVG keeps the pixels of a small picture apart.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    axes.barh(absent, count, left=-0.5, height=1, color="0.93", edgecolor="0.7", hatch="////", linewidth=0)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), xlabel="predicted", ylabel="target")
    axes.set_xticks(range(count), columns, rotation=90 if upright else 0, fontsize=font)
    axes.set_yticks(range(count), rows, fontsize=font)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in np.argwhere(shares >= 0.5) if count <= 25 else ():
        share, small = shares[row, column], min(font, 30 * cell)
        shade = "white" if share > 51 else "black"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=shade, fontsize=small)
    figure.colorbar(picture, ax=axes, label="% of the target's pixels", ticks=[0, 1, 5, 10, 25, 50, 100], format="%d")
    return _save_both(figure, path)


def plot_curves(path: Path, curves: Mapping[str, Mapping[int, Sequence[float]]]) -> list[Path]:
    """Draw how models learn: mIOU on the val split against iterations, a line per model, the mean over its seeds.

    Args:
        path: the PNG; the SVG stands beside it.
        curves: {model: {iteration: mIOU of each seed, 0..1}}; nan is left out, and without any value the line has a gap. A
            light band reaches from the lowest to the highest seed.
    Returns:
        the paths of the PNG and the SVG.
    """
    figure = _figure(9, 4.8)
    axes = figure.subplots()
    for marker, colour, curve in zip(cycle(MARKERS), cycle(COLOURS), curves.values(), strict=False):
        iterations = sorted(curve)
        seeds = [100 * np.asarray(curve[iteration], float) for iteration in iterations]
        known = [values[~np.isnan(values)] for values in seeds]
        low, mean, high = (
            np.array([(values.min(), values.mean(), values.max()) if len(values) else (np.nan,) * 3 for values in known])
            .reshape(-1, 3)
            .T
        )
        axes.plot(iterations, mean, marker=marker, markersize=5, color=colour)
        # The edge keeps a band between two gaps in sight.
        axes.fill_between(iterations, low, high, where=high > low, color=colour, alpha=0.16, linewidth=1)
    axes.set(xlabel="iterations", ylabel="mIOU on the val split (%)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, axes.lines, curves)
    return _save_both(figure, path)


def plot_training(path: Path, stages: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> list[Path]:
    """Draw how a run learned: its losses, its learning rate and, where it was measured, mIOU on the val split.

    Args:
        path: the PNG; the SVG stands beside it.
        stages: {stage: {name: (iteration of the stage, value) in their order}}, one stage after the other, which a line parts.
            `lr` and `val_miou` (0..1) have panels of their own, all other names are losses.
    Returns:
        the paths of the PNG and the SVG.
    """
    apart = {"lr": "learning rate", "val_miou": "mIOU on the val split (%)"}
    names = list(dict.fromkeys(name for curves in stages.values() for name in curves))
    panels = [("loss", [name for name in names if name not in apart])]
    panels += [(apart[name], [name]) for name in apart if name in names]
    figure = _figure(5.2 * len(panels), 4.2)
    for axes, (title, shown) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        first = 0
        for place, curves in enumerate(stages.values()):
            if place:
                axes.axvline(first, color="#bbbbbb", linewidth=1)
            for colour, name in zip(cycle(COLOURS), shown, strict=False):
                points = np.array(curves.get(name, ()), float).reshape(-1, 2) * (1, 100 if name == "val_miou" else 1)
                width, marker = (2, "o") if name in ("loss", "val_miou") else (1, "")
                label = None if place else name.replace("_", " ")
                axes.plot(
                    first + points[:, 0], points[:, 1], color=colour, linewidth=width, marker=marker, markersize=3, label=label
                )
            first += max((points[-1][0] for points in curves.values() if points), default=0)
        axes.set(xlabel="iterations", ylabel=title, xlim=(0, None), ylim=(0, None))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(shown) > 1:
            axes.legend(frameon=False, fontsize=8)
    return _save_both(figure, path)


def plot_gain(
    path: Path, points: Sequence[tuple[str, float, float, float, float]], *, label: str = "gain in mIOU (points)"
) -> list[Path]:
    """Draw what the canvas gains against how good the detector is.

    Args:
        path: the PNG; the SVG stands beside it.
        points: (name, box AP 0..1, gain -1..1, low and high end of its interval), a point with its name and error bar each; nan
            ends have no bar, a nan gain has no point. A nan AP stands for the true instances on the canvas: a place of its own
            to the right.
        label: what the gain is, in points of a percent.
    Returns:
        the paths of the PNG and the SVG.
    """
    figure = _figure(9, 5)
    detected = [not np.isnan(ap) for _, ap, *_ in points]
    longest = max(map(len, _labels([name for name, ap, *_ in points if np.isnan(ap)])), default=0)
    inches = [7.0 if any(detected) else 0, 0 if all(detected) else LETTER * 9 * longest + 0.4 * detected.count(False) + 0.4]
    panels = [panel for panel, width in enumerate(inches) if width] or [0]
    widths = [inches[panel] or 1 for panel in panels]
    rows = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
    by_panel = dict(zip(panels, rows, strict=True))
    drawn, beside = [], 0
    for marker, colour, found, (name, ap, *gain) in zip(cycle(MARKERS), cycle(COLOURS), detected, points, strict=False):
        axes = by_panel[0 if found else 1]
        value, low, high = 100 * np.asarray(gain, float)
        place = 100 * ap if found else float(beside)
        beside += not found
        axes.vlines(place, low, high, color=colour, linewidth=1.3)
        axes.plot(place, value, marker, color=colour, markersize=7)
        if not np.isnan(value):
            drawn.append((axes, name, place, (value, low, high)))
    for panel, axes in by_panel.items():
        axes.axhline(0, color="0.3", linewidth=1, zorder=0)
        axes.margins(x=0.12, y=0.12)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if panel == 0:
            axes.set_xlabel("box AP of the detector (%)")
        else:
            end = inches[1] / 0.4 - 1  # 0.4 inches from point to point, and the last one's name
            axes.set_xlim(-1, end)
            axes.set_xticks([(end - 1) / 2], ["true\ninstances"])
            axes.tick_params(axis="x", length=0)
            axes.grid(visible=False, axis="x")
            if len(panels) > 1:
                axes.spines["left"].set(linestyle=":", color="0.6")
                axes.tick_params(axis="y", length=0)
    rows[0].set_ylabel(label)
    _name_points(figure, drawn)
    return _save_both(figure, path)


def plot_class_gains(
    path: Path,
    names: Sequence[str],
    gains: np.ndarray,
    instances: Sequence[int],
    areas: Sequence[float],
    *,
    label: str = "gain in IOU (points)",
) -> list[Path]:
    """Draw the gain of each class as a bar with its interval, the classes with most instances first.

    Args:
        path: the PNG; the SVG stands beside it.
        names: of C classes. Behind each stand the number of its instances and their mean side.
        gains: [C, 3], the gain and the low and the high end of its interval, -1..1; nan: an absent class, or no interval.
        instances: of each class in the target.
        areas: mean area of an instance in px; nan: not known.
        label: what the gains are, in points of a percent.
    Returns:
        the paths of the PNG and the SVG.
    Raises:
        ValueError: gains, instances or areas are not of as many classes as there are names.
    """
    count, gains = len(names), 100 * np.asarray(gains, float)
    if gains.shape != (count, 3) or len(instances) != count or len(areas) != count:
        raise ValueError(
            f"gains must be [{count}, 3], instances and areas [{count}], "
            f"got {list(gains.shape)}, [{len(instances)}] and [{len(areas)}]"
        )
    order = np.argsort(-np.asarray(instances), kind="stable")
    sides = ["" if np.isnan(area) else f", {area**0.5:.0f} px" for area in areas]
    labels = [f"{name} ({number:,}{side})" for name, number, side in zip(_labels(names), instances, sides, strict=True)]
    figure = _figure(9, 1 + 0.28 * max(count, 1))
    axes = figure.subplots()
    rows, (value, low, high) = np.arange(count), gains[order].T
    axes.barh(rows, value, height=0.6, color=COLOURS[0])
    axes.hlines(rows, low, high, color="black", linewidth=0.9)
    axes.axvline(0, color="0.3", linewidth=1)
    for row in rows[np.isnan(value)]:
        axes.annotate("absent", (0, row), (4, 0), textcoords="offset points", color="0.4", fontsize=8, va="center")
    axes.set_yticks(rows, [labels[place] for place in order])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(count, 1) - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="class (instances, mean side)")
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return _save_both(figure, path)


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
    axes.set_xlabel("side (square root of the area, px)")
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
    """Write a PNG of which classes occur together: [C, C] images with both, shown as shares of the row's class."""
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
    axes.set(xlabel="also show", ylabel="images with")
    _save(figure, path)


def plot_overlay(image: np.ndarray, overlay: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> Figure:
    """Draw an image, the same with classes drawn over it, and a legend below.

    Args:
        image, overlay: [H, W, 3] uint8, RGB.
        colours: {class name: (R, G, B)}.
    """
    height, width = image.shape[:2]
    figure = _figure(9, min(max(4.5 * height / width, 1.5), 9) + 0.3 * -(-len(colours) // 4))
    for axes, picture in zip(figure.subplots(1, 2), (image, overlay), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
    _legend_below(figure, [Patch(facecolor=tuple(np.array(colour) / 255)) for colour in colours.values()], colours)
    return figure


def _labels(names: Sequence[str], most: int = 30) -> list[str]:
    """Names as an axis can hold them: none longer than `most` letters, and no formulas, which matplotlib sees between $."""
    cut = [name if len(name) <= most else name[: most - 1] + "…" for name in names]
    return [name.replace("$", r"\$") for name in cut]


def _ends(interval: np.ndarray, count: int, what: str) -> np.ndarray:
    """The low and the high ends [2, count] in percent of intervals [count, 2]."""
    ends = 100 * np.asarray(interval, float)
    if ends.shape != (count, 2):
        raise ValueError(f"the intervals of {what} must be [{count}, 2], got {list(ends.shape)}")
    return ends.T


def _tick_widths(axes: Axes, bands: Sequence[float], *, inches: float) -> None:
    """Name the widths along the bottom as far as they have room, the ends and round ones first; the others have a mark."""
    end = 1.05 * max(bands, default=1)
    numbers = {width: f"{width:g}" for width in bands}

    def ease(width: float) -> tuple[bool, int, bool, float]:
        digits = numbers[width].replace(".", "").strip("0")
        return width not in (min(bands), max(bands)), len(digits), not digits.endswith("5"), -width

    named: list[float] = []
    for width in sorted(bands, key=ease):
        room = {other: LETTER * 10 * (len(numbers[width]) + len(numbers[other]) + 1) / 2 for other in named}
        if all(abs(width - other) * inches / end > least for other, least in room.items()):
            named.append(width)
    axes.set_xticks(named, [numbers[width] for width in named])
    axes.set_xticks([width for width in bands if width not in named], minor=True)
    axes.set_xlim(0, end)


def _name_points(figure: Figure, points: Sequence[tuple[Axes, str, float, Sequence[float]]]) -> None:
    """Write the name of each point (axes, name, x, heights of it and its bar) where it covers nothing, if there is room."""
    figure.draw_without_rendering()  # from here on it is known where everything lies
    inside = Bbox.union([axes.get_window_extent() for axes in figure.axes])
    bars = [Bbox(a.transData.transform([(x, np.nanmin(ends)), (x, np.nanmax(ends))])).padded(4) for a, _, x, ends in points]
    taken = [*bars, *(line.get_window_extent().padded(1) for axes in figure.axes for line in axes.lines)]
    for (axes, name, x, heights), bar in zip(points, bars, strict=True):
        text = axes.annotate(_labels([name])[0], (x, heights[0]), (0, 0), textcoords="offset points", fontsize=9, va="center")
        text.set_in_layout(False)  # or it would move the others
        panel = axes.get_window_extent()

        def covered(place: tuple[float, float, str], text: Annotation = text, panel: Bbox = panel) -> tuple[float, float]:
            text.set(position=place[:2], horizontalalignment=place[2])
            box = text.get_window_extent()
            area = box.width * box.height
            return area - _shared(box, inside) + sum(_shared(box, other) for other in taken), area - _shared(box, panel)

        point = axes.transData.transform((x, heights[0]))[1]
        covered(min(_name_places(*((end - point) * 72 / figure.dpi for end in (bar.y1, bar.y0))), key=covered))
        taken.append(text.get_window_extent())


def _name_places(high: float, low: float) -> list[tuple[float, float, str]]:
    """Where the name of a point may be, the best first: pt to its right, pt above it, and which end of the name is there.

    Beside the point, or beyond the ends of its bar, high and low pt above the point.
    """
    beside = [(8 * side, up, align) for up in (0.0, 9, -9, 18, -18) for side, align in ((1.0, "left"), (-1, "right"))]
    beyond = [up for off in range(6, 60, 11) for up in (high + off, low - off)]
    return beside + [(0, up, align) for up in beyond for align in ("center", "left", "right")]


def _shared(one: Bbox, other: Bbox) -> float:
    """The area that both boxes cover."""
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0


def _legend_below(figure: Figure, handles: Iterable[Any], runs: Iterable[str]) -> None:
    """Name the runs beneath the figure, as many in a line as fit."""
    labels = _labels(list(runs))
    if labels:
        fit = int(figure.get_figwidth() / (LETTER * 10 * max(map(len, labels)) + 0.6))
        figure.legend(list(handles), labels, loc="outside lower center", ncols=min(len(labels), max(fit, 1)), frameon=False)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no display is asked for and no global state is touched
    return figure


def _finish(axes: Axes) -> None:
    axes.margins(y=0.01)
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)


def _save_both(figure: Figure, path: Path) -> list[Path]:
    """Write the PNG and the SVG."""
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    for each in paths:
        _save(figure, each)
    return paths


def _save(figure: Figure, path: Path) -> None:
    """Write a picture in the format that its name ends with; equal figures give equal bytes."""
    # Letters as outlines need no font where the SVG is seen; dates and random ids would differ each time.
    fixed: dict[Any, Any] = {"svg.fonttype": "path", "svg.hashsalt": "imptool"}
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context(fixed), whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata=metadata)
