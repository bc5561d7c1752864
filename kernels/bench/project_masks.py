"""Time the projection against the usual ways of doing the same, side by side in one run: medians and ratios.

    python kernels/bench/project_masks.py [--repetitions 9] [--device cpu]

The peers sample bilinearly and only ours keeps the rules of kernels/README.md, so that their canvases differ a little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from imptool.projection import project_masks

BATCH, DETECTIONS, LAYERS, SIZE, MASK_SIDE = 2, 100, 25, (200, 334), 28


class Instances(NamedTuple):
    boxes: Tensor
    layers: Tensor
    scores: Tensor
    masks: Tensor
    image_index: Tensor


def ours(instances: Instances) -> Tensor:
    return project_masks(*instances, num_layers=LAYERS, size=SIZE, batch=BATCH)


def interpolate_and_maximum(instances: Instances) -> Tensor:
    """Per detection: resize the mask to its box, then an in-place maximum with that part of the canvas."""
    canvas = instances.masks.new_zeros(BATCH, LAYERS, *SIZE)
    rounded = instances.boxes.round().long().tolist()
    for n, (x1, y1, x2, y2) in enumerate(rounded):
        size = (max(y2 - y1, 1), max(x2 - x1, 1))
        mask = F.interpolate(instances.masks[n, None, None], size=size, mode="bilinear")[0, 0] * instances.scores[n]
        place = canvas[instances.image_index[n], instances.layers[n], y1 : y1 + size[0], x1 : x1 + size[1]]
        before = place.clone() if mask.requires_grad else place  # autograd needs the values that are written over
        place.copy_(torch.maximum(before, mask[: place.shape[0], : place.shape[1]]))
    return canvas


def paste_and_amax(instances: Instances) -> Tensor:
    """Per image: torchvision pastes every mask into a full image, then a maximum per layer."""
    canvas = []
    for image in range(BATCH):
        boxes, layers, scores, masks, _ = of_image(instances, image)
        pasted = paste_masks_in_image(masks[:, None], boxes, SIZE)[:, 0] * scores[:, None, None]
        for layer in range(LAYERS):
            of_layer = pasted[layers == layer]
            canvas.append(of_layer.amax(dim=0) if len(of_layer) else masks.new_zeros(SIZE))
    return torch.stack(canvas).reshape(BATCH, LAYERS, *SIZE)


def grid_sample_and_scatter(instances: Instances) -> Tensor:
    """Per image: sample all masks at all canvas pixels at once, then scatter the maximum to the layers."""
    height, width = SIZE
    canvas = instances.masks.new_zeros(BATCH, LAYERS, *SIZE)
    x = torch.arange(width, device=canvas.device) + 0.5
    y = torch.arange(height, device=canvas.device) + 0.5
    images = []
    for image in range(BATCH):
        boxes, layers, scores, masks, _ = of_image(instances, image)
        x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
        grid_x = ((x - x1) / (x2 - x1) * 2 - 1)[:, None, :].expand(-1, height, -1)
        grid_y = ((y - y1) / (y2 - y1) * 2 - 1)[:, :, None].expand(-1, -1, width)
        grid = torch.stack([grid_x, grid_y], dim=-1)
        sampled = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] * scores[:, None, None]
        index = layers[:, None, None].expand_as(sampled)
        images.append(canvas[image].scatter_reduce(0, index, sampled, "amax"))
    return torch.stack(images)


FORMS = {
    "imptool project_masks": ours,
    "per detection: interpolate + in-place maximum": interpolate_and_maximum,
    "torchvision paste_masks_in_image + amax": paste_and_amax,
    "grid_sample + scatter_reduce(amax)": grid_sample_and_scatter,
}


def of_image(instances: Instances, image: int) -> Instances:
    chosen = instances.image_index == image
    return Instances(*(tensor[chosen] for tensor in instances))


def random_instances(device: str) -> Instances:
    """Boxes of log-normal sides around 33 pixels, clipped to the canvas, as a detector gives them."""
    generator = torch.Generator().manual_seed(0)
    count, size = BATCH * DETECTIONS, torch.tensor([SIZE[1], SIZE[0]])
    center = torch.rand(count, 2, generator=generator) * size
    half = torch.exp(torch.randn(count, 2, generator=generator) * 0.8 + 3.5) / 2
    boxes = torch.cat([(center - half).clamp(min=0), torch.minimum(center + half, size)], dim=1)
    instances = Instances(
        boxes,
        torch.randint(LAYERS, (count,), generator=generator),
        torch.rand(count, generator=generator),
        torch.rand(count, MASK_SIDE, MASK_SIDE, generator=generator),
        torch.arange(count) // DETECTIONS,
    )
    return Instances(*(tensor.to(device) for tensor in instances))


def milliseconds(form: Callable[[Instances], Tensor], instances: Instances, grad_canvas: Tensor | None) -> float:
    """One forward, or one forward and backward where a canvas gradient is given."""
    if grad_canvas is not None:
        instances = instances._replace(
            scores=instances.scores.clone().requires_grad_(), masks=instances.masks.clone().requires_grad_()
        )
    synchronize(instances)
    start = time.perf_counter()
    canvas = form(instances)
    if grad_canvas is not None:
        canvas.backward(grad_canvas)
    synchronize(instances)
    return (time.perf_counter() - start) * 1000


def synchronize(instances: Instances) -> None:
    if instances.masks.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    instances = random_instances(arguments.device)
    grad_canvas = torch.rand(BATCH, LAYERS, *SIZE, device=arguments.device)
    print(f"B={BATCH}, {DETECTIONS} detections each, {LAYERS} layers, canvas {SIZE}, {torch.get_num_threads()} threads")
    for title, gradient in (("forward", None), ("forward + backward", grad_canvas)):
        times: dict[str, list[float]] = {name: [] for name in FORMS}
        for repetition in range(arguments.repetitions + 1):
            for name, form in FORMS.items():
                elapsed = milliseconds(form, instances, gradient)
                if repetition:  # the first one warms up and compiles
                    times[name].append(elapsed)
        base = statistics.median(times["imptool project_masks"])
        print(f"\n{title:46} median ms     min   ratio of medians")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"{name:46} {median:9.2f} {min(values):7.2f} {median / base:10.1f}")


if __name__ == "__main__":
    main()
