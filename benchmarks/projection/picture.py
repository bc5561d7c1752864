"""Draws kernels/cells.png, what Algorithm 1 does to a large and to a small box: `python benchmarks/projection/picture.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from imptool.projection import project_masks

SIZE = (9, 11)
INK, BOX = "#333333", "#d1495b"


def main() -> None:
    mask = torch.tensor([[0.1, 0.5, 0.9, 0.3], [0.3, 0.9, 0.7, 0.1], [0.1, 0.7, 1.0, 0.5], [0.0, 0.3, 0.5, 0.1]])
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6), layout="constrained")
    for row, (name, box) in zip(axes, (("large", [0.6, 0.4, 10.3, 8.2]), ("small", [3.2, 3.3, 5.9, 5.4])), strict=True):
        _show_mask(row[0], mask.numpy(), "4 x 4 cells of a mask")
        for axis, sampling in zip(row[1:], ("cells", "bilinear"), strict=True):
            how = {
                ("large", "cells"): "each cell fills its pixels",
                ("small", "cells"): "the largest cell over a pixel",
                ("large", "bilinear"): "between the cells' middles",
                ("small", "bilinear"): "at the pixels' centres only",
            }[name, sampling]
            _show_canvas(axis, box, mask, sampling, f"{name} box, {sampling}: {how}")
    figure.savefig(Path(__file__).parents[2] / "kernels/cells.png", dpi=110)


def _show_mask(axis: Axes, mask: np.ndarray, title: str) -> None:
    _show(axis, mask, title)
    for (i, j), value in np.ndenumerate(mask):
        axis.text(
            j + 0.5, i + 0.5, f"{value:.1f}", ha="center", va="center", color=INK if value > 0.55 else "white", fontsize=9
        )


def _show_canvas(axis: Axes, box: list[float], mask: torch.Tensor, sampling: str, title: str) -> None:
    zero, one = torch.zeros(1, dtype=torch.int64), torch.ones(1)
    boxes = torch.tensor([box])
    canvas = project_masks(boxes, zero, one, mask[None], zero, num_layers=1, size=SIZE, batch=1, sampling=sampling)
    _show(axis, canvas[0, 0].numpy(), title)
    x1, y1, x2, y2 = box
    if x2 - x1 < 4:  # closer
        axis.set(xlim=(2, 7.5), ylim=(6.5, 2))
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=BOX, linewidth=2))
    for edge in range(1, 4):
        axis.plot([x1 + edge * (x2 - x1) / 4] * 2, [y1, y2], color=BOX, linewidth=0.8)
        axis.plot([x1, x2], [y1 + edge * (y2 - y1) / 4] * 2, color=BOX, linewidth=0.8)


def _show(axis: Axes, values: np.ndarray, title: str) -> None:
    height, width = values.shape
    axis.imshow(values, extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks(range(width + 1), [])
    axis.set_yticks(range(height + 1), [])
    axis.grid(color="#777777", linewidth=0.5)
    axis.tick_params(length=0)
    axis.set_title(title, fontsize=10, color=INK)


if __name__ == "__main__":
    main()
