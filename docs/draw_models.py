"""Draw docs/models.png, the README's figure of the models, from the networks that `imptool.models` builds.

    python docs/draw_models.py              # writes docs/models.png and prints what was found
    python docs/draw_models.py other.png

Each model is built and its semantic head run once; the figure shows what was found on the way. Columns are detector and canvas,
rows are semantic heads, so a new row of MODELS finds its own place.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from PIL import Image
from torch import Tensor, nn

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.models import MODELS, build_model
from imptool.models.parser import STRIDE
from imptool.recipe import Recipe

GARMENTS = tuple(ClassInfo(id=number, name=f"garment {number}") for number in range(1, 26))
LABELS = LabelSet((ClassInfo(id=0, name="background", thing=False), *GARMENTS), background=0, ignore=255)
BACKBONE = {"name": "resnet18", "weights": "none", "norm": "batch"}
RECIPE = Recipe.model_validate({"dataset": "none", "backbone": BACKBONE, "stages": {"full": {"iterations": 1}}})
SIDE = 128  # px of the picture that goes through the FPN

INK, QUIET, RULE, LEVEL = "#1b1e21", "#5b6268", "#c4c9cd", "#d5d9dd"
CONV, NORM, DETECTOR, CANVAS = "#93b6d2", "#2f5d80", "#e8dcbd", "#d55e00"
WIDTH, HEIGHT, GAP = 286, 210, 16  # of a panel, in pixels of a figure about 900 wide; it is drawn at twice that
ROW, PITCH, FLOOR = 142, 22, 13  # y of the finest level, from a level to the next, y of the detector
SUM, JOIN, LOGITS = 123, 160, 239  # x of the sum, of the canvas, of the logits
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Layer:
    """A convolution of a semantic head, or an upsampling (kernel 0)."""

    kernel: int
    given: torch.Size  # [B, C, H, W] of its input
    gives: torch.Size
    norm: str  # what normalizes its output, "" for nothing
    reads: tuple[str, ...]  # the FPN levels, and "canvas", that its output depends on


@dataclass(frozen=True)
class Structure:
    """What was found in a model."""

    name: str
    levels: list[str]  # of the FPN, finest first
    detector: list[str]  # its parts behind the FPN
    canvas: int  # its layers
    parameters: int | None = None  # of the semantic head, if there is one
    layers: tuple[Layer, ...] = ()  # of the semantic head, in the order of their calls
    reads: tuple[str, ...] = ()  # what reaches the logits

    @property
    def branches(self) -> dict[str, list[Layer]]:
        """The layers that bring each level to the shape that the prediction reads."""
        unlike = [layer for layer in self.layers if layer.given != self.layers[-1].given]
        return {level: [layer for layer in unlike if layer.reads == (level,)] for level in self.levels if level in self.reads}

    @property
    def bringing(self) -> list[Layer]:
        return [layer for branch in self.branches.values() for layer in branch]

    @property
    def trunk(self) -> list[Layer]:
        return [layer for layer in self.layers if layer not in self.bringing]

    @property
    def join(self) -> int | None:
        """Which layer of the trunk is the first to see the canvas."""
        return next((index for index, layer in enumerate(self.trunk) if "canvas" in layer.reads), None)

    @property
    def cell(self) -> tuple[tuple[int, str], tuple[bool, bool]]:
        """Row and column in the figure; heads that differ in the canvas alone share a row."""
        layers = [(layer.kernel, layer.gives, layer.norm) for layer in self.layers]
        return (len(self.branches), str(layers)), (bool(self.detector), bool(self.canvas))

    def __str__(self) -> str:
        norms = {layer.norm or "no norm" for layer in self.layers if layer.kernel > 1}
        layers = "; ".join(filter(None, [in_words(self.bringing, ", "), in_words(self.trunk, ", "), *norms]))
        texts = ("+".join(self.detector), " ".join(self.reads), self.canvas, self.parameters, layers)
        return "{:17} {:13} {:19} {:6} {:>11}  {}".format(self.name, *("-" if text in ("", None) else text for text in texts))


HEADER = (
    "model             detector      head reads          canvas  parameters  layers before the sum; after it; norm of conv3x3"
)


def find_structure(name: str) -> Structure:
    """Build a model and see what it is made of."""
    parser = build_model(name, RECIPE, LABELS, pretrained=False).eval()
    features = parser.detector.backbone(torch.rand(1, 3, SIDE, SIDE))
    names = {key: f"P{(SIDE // level.shape[-1]).bit_length() - 1}" for key, level in features.items()}
    heads = parser.detector.roi_heads
    parts = {"RPN": parser.detector.rpn, "box": getattr(heads, "box_head", None), "mask": getattr(heads, "mask_head", None)}
    detector = [part for part, module in parts.items() if module is not None]
    canvas = parser.projection.num_layers if parser.projection else 0
    head = parser.semantic_head
    if head is None:
        return Structure(name, list(names.values()), detector, canvas)
    inputs = {names[key]: torch.rand_like(level, requires_grad=True) for key, level in features.items()}
    levels = {key: inputs[names[key]] for key in features}
    if canvas:
        inputs["canvas"] = torch.rand(1, canvas, SIDE // STRIDE, SIDE // STRIDE, requires_grad=True)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    return Structure(name, list(names.values()), detector, canvas, parameters, *run_head(head, levels, inputs))


def run_head(
    head: nn.Module, levels: dict[str, Tensor], inputs: dict[str, Tensor]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers of a semantic head in the order of their calls, and the inputs that reach its logits."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    for module in head.modules():
        module.register_forward_hook(lambda module, given, gives: calls.append((module, given[0], gives)))
    logits = head(levels, inputs.get("canvas"))
    norms = {id(given): type(module).__name__ for module, given, _ in calls if "Norm" in type(module).__name__}
    layers = []
    for module, given, gives in calls:
        if isinstance(module, nn.Conv2d | nn.Upsample):
            kernel = module.kernel_size[0] if isinstance(module, nn.Conv2d) else 0
            layers.append(Layer(kernel, given.shape, gives.shape, norms.get(id(gives), ""), depends_on(gives, inputs)))
    return tuple(layers), depends_on(logits, inputs)


def depends_on(output: Tensor, inputs: dict[str, Tensor]) -> tuple[str, ...]:
    """The inputs that get a gradient from an output."""
    gradients = torch.autograd.grad(output.sum(), list(inputs.values()), retain_graph=True, allow_unused=True)
    return tuple(name for name, gradient in zip(inputs, gradients, strict=True) if gradient is not None)


def in_words(layers: Iterable[Layer], between: str = "\n") -> str:
    """How many convolutions of which kernel and width."""
    kinds = Counter((layer.kernel, layer.gives[1]) for layer in layers if layer.kernel)
    return between.join(f"{count} conv{kernel}{TIMES}{kernel} of {width}" for (kernel, width), count in kinds.items())


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, **{"fontsize": 8, "ha": "center", "va": "center_baseline", "color": INK, **style})


def box(axes: Axes, left: float, y: float, width: float, height: float, colour: str, label: str = "", **style: Any) -> None:
    """A box centred on y; `right` is its height at the right, if another."""
    half, right = height / 2, style.pop("right", height) / 2
    corners = [(left, y - half), (left, y + half), (left + width, y + right), (left + width, y - right)]
    axes.add_patch(Polygon(corners, **{"facecolor": colour, "linewidth": 0, **style}))
    write(axes, left + width / 2, y, label)


def node(axes: Axes, x: float, y: float, sign: str, colour: str) -> None:
    axes.add_patch(Circle((x, y), 6.5, facecolor="white", edgecolor=colour, linewidth=1.1, zorder=2))
    write(axes, x, y, sign, color=colour)


def wire(axes: Axes, *points: tuple[float, float], colour: str = QUIET, arrow: str = "-|>") -> None:
    """A line through points, with an arrow at its end."""
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.1, solid_joinstyle="miter", zorder=0)
    if arrow:
        style = f"{arrow},head_width=0.2,head_length=0.4"
        axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": style, "color": colour, "lw": 0, "shrinkB": 0})


def draw_layer(axes: Axes, left: float, y: float, layer: Layer) -> float:
    """A bar with its norm at the right, or a wedge that grows; finer is taller. Returns where it ends."""
    height, grown = (4 * (size[-1] * 64 // SIDE).bit_length() for size in (layer.given, layer.gives))
    width = {0: 7, 1: 4}.get(layer.kernel, 9)
    box(axes, left, y, width, height, CONV if layer.kernel else LEVEL, right=grown)
    if layer.norm:
        box(axes, left + width - 3, y, 3, height, NORM)
    return left + width


def draw_head(axes: Axes, found: Structure, ends: dict[str, tuple[float, float]]) -> None:
    """The semantic head, from the levels that it reads to the logits."""
    for level, branch in found.branches.items():
        wire(axes, ends[level], (SUM, ends[level][1]), arrow="")
        x = 46.0
        for layer in branch:
            x = draw_layer(axes, x + (5 if layer.kernel else 2), ends[level][1], layer)
    if found.branches:
        wire(axes, (SUM, ROW), (LOGITS, ROW))
    if len(found.branches) > 1:
        wire(axes, (SUM, min(ends[level][1] for level in found.branches)), (SUM, ROW - 6))
        node(axes, SUM, ROW, "+", QUIET)
    for index, layer in enumerate(found.trunk):
        draw_layer(axes, JOIN + 12 * (index + (not found.join or index >= found.join)), ROW, layer)
    box(axes, LOGITS, ROW, 46, 24, "white", "logits", edgecolor=INK, linewidth=1)
    write(axes, 86, ROW + 17, in_words(found.bringing), va="baseline")
    write(axes, 200, ROW + 17, in_words(found.trunk) if found.parameters else "no parameters", va="baseline")


def draw_detector(axes: Axes, found: Structure) -> None:
    """The detector's parts in their order, from the whole FPN to the instances."""
    wire(axes, (16, ROW - PITCH * len(found.levels) + 13), (16, FLOOR + 12))
    for index, part in enumerate(found.detector):
        box(axes, 35 * index, FLOOR, 33, 24, DETECTOR, part)
    wire(axes, (35 * len(found.detector) - 2, FLOOR), (JOIN - 31, FLOOR))
    box(axes, JOIN - 31, FLOOR, 62, 24, "white", "instances", edgecolor=INK, linewidth=1)


def draw_canvas(axes: Axes, found: Structure) -> None:
    """The canvas above the instances; it meets the features before the first layer that sees it, or becomes the logits."""
    wire(axes, (JOIN, FLOOR + 12), (JOIN, 54), colour=CANVAS)
    write(axes, JOIN + 7, 39, "project", ha="left", color=CANVAS)
    for shift in (8, 4, 0):
        box(axes, JOIN - 26 + shift, 71 + shift, 44, 34, CANVAS, edgecolor="white", linewidth=1)
    write(axes, JOIN + 32, 75, f"canvas\n{found.canvas} layers", ha="left", va="center", color=CANVAS)
    if found.join is None:
        wire(axes, (JOIN, 96), (JOIN, ROW), (LOGITS, ROW), colour=CANVAS)
    else:
        x, channels = JOIN + 12 * found.join, found.trunk[found.join].given[1]
        wire(axes, (JOIN, 96), (JOIN, 108), (x, 108), (x, ROW - 6), colour=CANVAS)
        node(axes, x, ROW, "c", CANVAS)
        write(axes, x + 8, 118, f"{channels - found.canvas} + {found.canvas}", ha="left", color=CANVAS)


def draw_model(axes: Axes, found: Structure) -> None:
    write(axes, 0, HEIGHT - 8, found.name, ha="left", fontsize=10, weight="bold")
    wire(axes, (0, HEIGHT - 20), (WIDTH, HEIGHT - 20), colour=RULE, arrow="")
    write(axes, 0, ROW + 17, "FPN", ha="left", va="baseline")
    ends = {level: (44.0 - 4 * index, float(ROW - PITCH * index)) for index, level in enumerate(found.levels)}
    for level, (right, y) in ends.items():
        box(axes, 0, y, right, 17, LEVEL, level)
    if found.parameters is not None:
        draw_head(axes, found, ends)
    if found.detector:
        draw_detector(axes, found)
    if found.canvas:
        draw_canvas(axes, found)


def draw_legend(axes: Axes, structures: list[Structure]) -> None:
    """A level, the kinds of layers that were found, and the signs."""
    kinds = {(layer.kernel, layer.norm): layer for found in structures for layer in found.layers}
    lines = iter(range(HEIGHT - 26, 0, -24))
    box(axes, 0, y := next(lines), 26, 17, LEVEL, structures[0].levels[0])
    write(axes, 34, y, f"FPN level, 1/{STRIDE} of the picture", ha="left")
    for (kernel, norm), layer in sorted(kinds.items(), reverse=True):
        draw_layer(axes, 8, y := next(lines), layer)
        conv, factor = f"conv{kernel}{TIMES}{kernel}, {norm or 'no norm'}", layer.gives[-1] // layer.given[-1]
        write(axes, 34, y, conv if kernel else f"upsampling, {factor}{TIMES}", ha="left")
    for sign, colour, text in (("+", QUIET, "sum"), ("c", CANVAS, "concatenation")):
        node(axes, 12, y := next(lines), sign, colour)
        write(axes, 34, y, text, ha="left")
    write(axes, 0, next(lines), f"{len(LABELS.things)} thing classes and a background", ha="left")


def draw(structures: list[Structure]) -> Image.Image:
    """All models on one page, the legend in the first cell that is free."""
    cells: dict[Any, Structure] = {}
    for found in structures:
        row, column = found.cell
        cells[(*row, sum(other.cell == found.cell for other in cells.values())), column] = found
    rows, columns = sorted({row for row, _ in cells}), sorted({column for _, column in cells})
    if len(cells) == len(rows) * len(columns):
        rows.append((len(rows), "legend", 0))
    figure = Figure(figsize=((WIDTH + GAP) * len(columns) / 100, (HEIGHT + GAP) * len(rows) / 100), dpi=200)
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    limits = {"xlim": (-GAP / 2, WIDTH + GAP / 2), "ylim": (-GAP / 2, HEIGHT + GAP / 2)}
    panels = figure.subplots(len(rows), len(columns), squeeze=False, subplot_kw=limits).flat
    free = []
    for axes, place in zip(panels, product(rows, columns), strict=True):
        axes.set_axis_off()
        if place in cells:
            draw_model(axes, cells[place])
        else:
            free.append(axes)
    draw_legend(free[0], structures)
    drawn = BytesIO()
    figure.savefig(drawn)
    return Image.open(drawn).convert("RGB").quantize(256)


if __name__ == "__main__":
    every = [find_structure(name) for name, row in MODELS.items() if row.drawn]
    print(HEADER, *every, sep="\n")
    draw(every).save(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("models.png"), optimize=True)
