"""Parsing one photograph at its own resolution: what train's check, eval and predict share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torchvision.models.detection.roi_heads import paste_masks_in_image

from imptool.data.dataset import LabelSet
from imptool.data.samples import image_tensor, resize_image, resized_size
from imptool.files import InputError
from imptool.models.parser import Parser
from imptool.recipe import Input

_PASTED_AT_ONCE = 8  # pasted masks are float maps of the photograph's size: a few at a time keeps memory flat


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
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: use cpu, cuda or cuda:N") from error
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
        full = F.interpolate(logits[None].float(), size=(height, width), mode="bilinear", align_corners=False)[0]
        channels = full.argmax(0).to(torch.uint8 if len(full) <= 255 else torch.int32).cpu().numpy()
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
    for start in range(0, len(prediction.boxes), _PASTED_AT_ONCE):
        chunk = slice(start, start + _PASTED_AT_ONCE)
        pasted = paste_masks_in_image(prediction.masks[chunk], prediction.boxes[chunk], prediction.size)[:, 0] > 0.5
        for encoded in rle.encode(np.asfortranarray(pasted.numpy().transpose(1, 2, 0).astype(np.uint8))):
            rles.append({"size": list(prediction.size), "counts": encoded["counts"].decode("ascii")})
    return rles
