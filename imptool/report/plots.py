"""Pictures of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no display is asked for and no global state is touched
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
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
