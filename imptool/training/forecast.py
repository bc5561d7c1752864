"""What a stage of training will take: parameters, time and memory, from some steps on images of noise."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import torch

from imptool.data.label_set import LabelSet
from imptool.models import build_model
from imptool.recipe import Augment, Input, Recipe, Stage
from imptool.training.solver import build_optimizer

_STEPS, _INSTANCES = 2, 8  # timed after one that warms up; instances of an image
_ASPECT = 1.5


@dataclass(frozen=True)
class Forecast:
    """Of one stage: parameters of its model, seconds of all its iterations, and bytes of memory of the process or the GPU."""

    parameters: int
    seconds: float
    memory: int


def forecast(recipe: Recipe, stage: Stage, labels: LabelSet, device: torch.device) -> Forecast:
    """Build a stage's model, untrained, and train it for three steps on noise of the size that its images have.

    An untrained detector detects as much as the recipe allows, so a stage with a canvas takes somewhat less in truth; reading
    images, where no worker does it meanwhile, and measuring on the val split come on top.
    """
    model = build_model(stage.model or recipe.model.name, recipe, labels, pretrained=False).to(device).train()
    if stage.train is not None:
        model.learn(stage.train)
    optimizer = build_optimizer(model, recipe.solver, lr=1e-6)
    parts = recipe.solver.accumulate
    images, targets = noise(image_size(recipe.input, stage.augment or recipe.augment), recipe.solver.batch // parts, labels)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    taken = []
    for _ in range(1 + _STEPS):
        began = time.monotonic()
        for _ in range(parts):
            losses, _ = model(images, targets)
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.monotonic() - began)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Forecast(parameters, stage.iterations * statistics.median(taken[1:]), _memory(device))


def image_size(size: Input, augment: Augment) -> tuple[int, int]:
    """Height and width in px of a training image, upright and half as high again as it is wide (ours)."""
    if augment.crop is not None:
        return augment.crop[0], augment.crop[1]
    short = round(statistics.mean(augment.short_sides or [size.short_side]))
    return min(round(_ASPECT * short), augment.long_side or size.long_side), short


def noise(size: tuple[int, int], count: int, labels: LabelSet) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images [3, H, W] with targets as training has them: boxes of a quarter of the sides in a row, the classes in turn."""
    height, width = size
    side = torch.tensor([width / 4, height / 4])
    corners = torch.stack([torch.linspace(0, 0.7, _INSTANCES) * width, torch.linspace(0, 0.7, _INSTANCES) * height], 1)
    boxes = torch.cat([corners, corners + side], 1)
    masks = torch.zeros(_INSTANCES, height, width, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    target = {
        "boxes": boxes,
        "labels": torch.arange(_INSTANCES) % max(len(labels.things), 1) + 1,
        "masks": masks,
        "semantic": torch.randint(len(labels.classes), size),
    }
    return [torch.rand(3, height, width) for _ in range(count)], [target] * count


def _memory(device: torch.device) -> int:
    """The most that was held so far, in bytes: of the GPU, or of this process; 0 where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
