"""The usual ways of getting a canvas from instance masks, each by one function of instances and a canvas shape.

They sample bilinearly and round otherwise than kernels/README.md says, so that their canvases differ a little from ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

Shape = tuple[int, int, int, int]  # B, K, H, W


class Instances(NamedTuple):
    boxes: Tensor
    layers: Tensor
    scores: Tensor
    masks: Tensor
    image_index: Tensor


def interpolate_in_place(instances: Instances, shape: Shape) -> Tensor:
    """Per detection: resize the mask to its box, then an in-place maximum with that part of the canvas."""
    canvas = instances.masks.new_zeros(shape)
    for n, x1, y1, mask in _resized(instances, shape):
        place = canvas[instances.image_index[n], instances.layers[n], y1 : y1 + mask.shape[0], x1 : x1 + mask.shape[1]]
        before = place.clone() if mask.requires_grad else place  # autograd needs the values that are written over
        place.copy_(torch.maximum(before, mask))
    return canvas


def interpolate_and_pad(instances: Instances, shape: Shape) -> Tensor:
    """Per detection: resize the mask to its box, pad it to the canvas, and a maximum with the others of its layer."""
    batch, num_layers, height, width = shape
    planes: dict[tuple[int, int], Tensor] = {}
    image_index, layers = instances.image_index.tolist(), instances.layers.tolist()
    for n, x1, y1, mask in _resized(instances, shape):
        padded = F.pad(mask, (x1, width - x1 - mask.shape[1], y1, height - y1 - mask.shape[0]))
        at = image_index[n], layers[n]
        planes[at] = torch.maximum(planes[at], padded) if at in planes else padded
    empty = instances.masks.new_zeros(height, width)
    of_all = [planes.get((image, layer), empty) for image in range(batch) for layer in range(num_layers)]
    return torch.stack(of_all).reshape(shape)


def _resized(instances: Instances, shape: Shape) -> list[tuple[int, int, int, Tensor]]:
    """Number, left and top pixel, and score times resized mask of each detection, inside the canvas."""
    found = []
    for n, (x1, y1, x2, y2) in enumerate(instances.boxes.round().long().tolist()):
        size = (max(y2 - y1, 1), max(x2 - x1, 1))
        mask = F.interpolate(instances.masks[n, None, None], size=size, mode="bilinear")[0, 0] * instances.scores[n]
        x1, y1 = min(x1, shape[3] - 1), min(y1, shape[2] - 1)
        found.append((n, x1, y1, mask[: shape[2] - y1, : shape[3] - x1]))
    return found


def paste_and_amax(instances: Instances, shape: Shape) -> Tensor:
    """Per image: torchvision pastes every mask into a full image, then a maximum per layer."""
    batch, num_layers, height, width = shape
    canvas = []
    for image in range(batch):
        boxes, layers, scores, masks, _ = _of_image(instances, image)
        pasted = paste_masks_in_image(masks[:, None], boxes, (height, width))[:, 0] * scores[:, None, None]
        for layer in range(num_layers):
            of_layer = pasted[layers == layer]
            canvas.append(of_layer.amax(dim=0) if len(of_layer) else masks.new_zeros(height, width))
    return torch.stack(canvas).reshape(shape)


def grid_sample_and_scatter(instances: Instances, shape: Shape) -> Tensor:
    """Per image: sample all masks at all canvas pixels at once, then scatter the maximum to the layers."""
    batch, _, height, width = shape
    canvas = instances.masks.new_zeros(shape)
    x = torch.arange(width, device=canvas.device) + 0.5
    y = torch.arange(height, device=canvas.device) + 0.5
    images = []
    for image in range(batch):
        boxes, layers, scores, masks, _ = _of_image(instances, image)
        x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
        grid_x = ((x - x1) / (x2 - x1) * 2 - 1)[:, None, :].expand(-1, height, -1)
        grid_y = ((y - y1) / (y2 - y1) * 2 - 1)[:, :, None].expand(-1, -1, width)
        grid = torch.stack([grid_x, grid_y], dim=-1)
        sampled = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] * scores[:, None, None]
        images.append(canvas[image].scatter_reduce(0, layers[:, None, None].expand_as(sampled), sampled, "amax"))
    return torch.stack(images)


PEERS = {
    "interpolate + maximum in place": interpolate_in_place,
    "interpolate + pad + maximum": interpolate_and_pad,
    "torchvision paste + amax": paste_and_amax,
    "grid_sample + scatter amax": grid_sample_and_scatter,
}


def _of_image(instances: Instances, image: int) -> Instances:
    chosen = instances.image_index == image
    return Instances(*(tensor[chosen] for tensor in instances))
