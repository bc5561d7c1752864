"""Parsing one photograph at its own resolution: what eval and predict share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torchvision.models.detection.roi_heads import paste_masks_in_image

from imptool import distributed
from imptool.data.augment import resized_size
from imptool.data.label_set import LabelSet
from imptool.data.samples import image_tensor, resize_image
from imptool.files import InputError
from imptool.models.parser import Parser
from imptool.recipe import Input

_PASTED_PIXELS = 2**23  # pasted masks are float maps of the photograph's size: a few at a time keeps memory flat


@dataclass(frozen=True)
class Prediction:
    """What a model found in one photograph of `size` (height, width).

    channels: [H, W] arg max of the semantic head, None where the model has none.
    boxes [N, 4] xyxy in photograph pixels, labels [N] 1..K, scores [N], masks [N, 1, h, w] probabilities within the boxes.
    canvas: [K, H/4, W/4] of the resized photograph, None where the model projects nothing.
    """

    size: tuple[int, int]
    channels: np.ndarray | None
    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor
    canvas: torch.Tensor | None


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.world_size() > 1:
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: the projection runs on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def parse_image(model: Parser, image: np.ndarray, size: Input, *, device: torch.device) -> Prediction:
    """Parse a photograph [H, W, 3] uint8 RGB with a model in eval mode; the logits are resized bilinearly to its resolution."""
    height, width = image.shape[:2]
    resized = resized_size((height, width), short_side=size.short_side, long_side=size.long_side)
    found, logits, canvas = model.infer(image_tensor(resize_image(image, resized)).to(device))
    channels = None
    if logits is not None:
        channels = _largest_channel(logits.float(), (height, width)).cpu().numpy()
    scale = torch.tensor([width / resized[1], height / resized[0]] * 2, device=found["boxes"].device)
    return Prediction(
        size=(height, width),
        channels=channels,
        boxes=(found["boxes"] * scale).cpu(),
        labels=found["labels"].cpu(),
        scores=found["scores"].float().cpu(),
        masks=found["masks"].float().cpu(),
        canvas=None if canvas is None else canvas.cpu(),
    )


def _largest_channel(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The channel of the largest of the logits [C, h, w] after bilinear resizing: [H, W]; of equal ones the first.

    Channel by channel, so that memory does not grow with the number of classes: 24 megapixels of 59 classes are 5.7 GB.
    """
    largest = torch.full(size, -torch.inf, device=logits.device)
    channels = torch.zeros(size, dtype=torch.uint8 if len(logits) <= 255 else torch.int32, device=logits.device)
    for channel, small in enumerate(logits):
        full = F.interpolate(small[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        channels.masked_fill_(full > largest, channel)
        torch.maximum(largest, full, out=largest)
    return channels


def coco_results(prediction: Prediction, labels: LabelSet, *, image_id: int) -> list[dict[str, Any]]:
    """A prediction's instances as COCO results: ids of the dataset, xywh boxes, RLE masks (probability over 0.5)."""
    return [
        {
            "image_id": image_id,
            "category_id": labels.ids[labels.things[label - 1]],
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 5),
            "segmentation": segmentation,
        }
        for (x0, y0, x1, y1), label, score, segmentation in zip(
            prediction.boxes.tolist(),
            prediction.labels.tolist(),
            prediction.scores.tolist(),
            _mask_rles(prediction),
            strict=True,
        )
    ]


def _mask_rles(prediction: Prediction) -> Sequence[dict[str, Any]]:
    rles: list[dict[str, Any]] = []
    step = max(_PASTED_PIXELS // (prediction.size[0] * prediction.size[1]), 1)
    for start in range(0, len(prediction.boxes), step):
        chunk = slice(start, start + step)
        pasted = paste_masks_in_image(prediction.masks[chunk], prediction.boxes[chunk], prediction.size)[:, 0] > 0.5
        for encoded in rle.encode(np.asfortranarray(pasted.numpy().transpose(1, 2, 0).astype(np.uint8))):
            rles.append({"size": list(prediction.size), "counts": encoded["counts"].decode("ascii")})
    return rles
