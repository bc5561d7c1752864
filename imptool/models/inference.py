"""Parsing one photograph at its own resolution: what eval and predict share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from imptool import distributed
from imptool.data.augment import resized_size
from imptool.data.components import find_regions
from imptool.data.label_set import LabelSet
from imptool.data.samples import resize_image
from imptool.files import InputError
from imptool.models.parser import Parser
from imptool.recipe import Input


@dataclass(frozen=True)
class Prediction:
    """What a model found in one photograph of `size` (height, width).

    channels: [H, W] arg max of the semantic head, None where the model has none.
    boxes [N, 4] xyxy in photograph pixels, labels [N] 1..K, scores [N], masks [N, 1, h, w] probabilities within the boxes.
    canvas: [K, H/4, W/4] of the resized photograph, None where the model projects nothing.
    probabilities: [C, H, W] float32 of every channel, where they were asked for.
    """

    size: tuple[int, int]
    channels: np.ndarray | None
    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor
    canvas: torch.Tensor | None
    probabilities: np.ndarray | None = None


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


def choose_compute(model: Parser, device: torch.device, precision: Literal["float32", "bfloat16"] | None = None) -> None:
    """Let a model compute in `precision`; None is bfloat16 on CUDA, else what it was trained in."""
    cuda = device.type == "cuda"
    chosen = precision or ("bfloat16" if cuda else model.compute.precision)
    model.use(model.compute.model_copy(update={"precision": chosen, "channels_last": cuda or model.compute.channels_last}))


def parse_image(model: Parser, image: np.ndarray, size: Input, *, device: torch.device) -> Prediction:
    """Parse a photograph [H, W, 3] uint8 RGB with a model in eval mode; the logits are resized bilinearly to its resolution."""
    height, width = image.shape[:2]
    resized = resized_size((height, width), short_side=size.short_side, long_side=size.long_side)
    return parse_resized(model, [resize_image(image, resized)], [(height, width)], device=device)[0]


def parse_resized(
    model: Parser,
    resized: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int]],
    *,
    device: torch.device,
    probabilities: bool = False,
) -> list[Prediction]:
    """Parse photographs that are resized already, together.

    Args:
        resized: [h, w, 3] uint8 RGB each, all of one size, as `parse_image` resizes them.
        sizes: (height, width) of each photograph, which the results have.
        probabilities: also give those of every class at every pixel.
    """
    found, logits, canvas = model.infer([_to_device(image, device) for image in resized])
    return [
        _prediction(
            found[place],
            None if logits is None else logits[place].float(),
            None if canvas is None else canvas[place],
            (resized[place].shape[0], resized[place].shape[1]),
            size,
            probabilities,
        )
        for place, size in enumerate(sizes)
    ]


def _to_device(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, 0..1; bytes travel, floats are made on the device."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1).float().div_(255)


def _prediction(
    found: dict[str, torch.Tensor],
    logits: torch.Tensor | None,
    canvas: torch.Tensor | None,
    resized: tuple[int, int],
    size: tuple[int, int],
    probabilities: bool,
) -> Prediction:
    height, width = size
    scale = torch.tensor([width / resized[1], height / resized[0]] * 2, device=found["boxes"].device)
    return Prediction(
        size=size,
        channels=None if logits is None else _largest_channel(logits, size).cpu().numpy(),
        boxes=(found["boxes"] * scale).cpu(),
        labels=found["labels"].cpu(),
        scores=found["scores"].float().cpu(),
        masks=found["masks"].float().cpu(),
        canvas=None if canvas is None else canvas.cpu(),
        probabilities=_probabilities(logits, size) if probabilities and logits is not None else None,
    )


def _probabilities(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    full = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return full.softmax(dim=0).cpu().numpy()


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


def coco_results(prediction: Prediction, labels: LabelSet, *, image_id: int | None) -> list[dict[str, Any]]:
    """A prediction's instances as COCO results: ids of the dataset, xywh boxes, RLE masks (probability over 0.5).

    Without an image id they have none.
    """
    image = {} if image_id is None else {"image_id": image_id}
    return [
        {
            **image,
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
    rles = []
    for place in range(len(prediction.boxes)):
        mask, corner = mask_in_box(prediction, place)
        found = find_regions(mask, skip=[0], corner=corner, size=prediction.size).rles if mask.any() else []
        nothing = {"size": list(prediction.size), "counts": [prediction.size[0] * prediction.size[1]]}
        counts = found[0] if found else rle.frPyObjects(nothing, *prediction.size)["counts"]
        rles.append({"size": list(prediction.size), "counts": counts.decode("ascii")})
    return rles


def mask_in_box(prediction: Prediction, place: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of one instance (probability over 0.5) in whole pixels of the photograph, and its corner (y, x) there.

    Equal to torchvision's `paste_masks_in_image`, which makes a map of the photograph's size for each instance: 3 GiB for a
    hundred in 2000x2000.

    Returns:
        [h, w] uint8, 1 in the instance; what lies beyond the photograph is cut off, and of an instance wholly beyond it
        nothing is left.
    """
    height, width = prediction.size
    mask, scale = expand_masks(prediction.masks[place : place + 1], padding=1)
    x0, y0, x1, y1 = expand_boxes(prediction.boxes[place : place + 1], scale).to(torch.int64)[0].tolist()
    full = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    top, left = min(max(-y0, 0), full[0]), min(max(-x0, 0), full[1])
    bottom, right = max(min(full[0], height - y0), top), max(min(full[1], width - x0), left)
    pasted = F.interpolate(mask, size=full, mode="bilinear", align_corners=False)[0, 0, top:bottom, left:right] > 0.5
    return pasted.numpy().astype(np.uint8), (y0 + top, x0 + left)
