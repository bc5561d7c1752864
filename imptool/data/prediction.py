"""What a model found in one image, as arrays; its instances as masks and as COCO results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from imptool.data.components import find_regions
from imptool.data.label_set import LabelSet


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model found in one image of `size` (height, width).

    channels: [H, W] arg max of the semantic head, None where the model has none.
    boxes [N, 4] xyxy in image pixels, labels [N] 1..K, scores [N], masks [N, h, w] probabilities within the boxes.
    canvas: [K, H/4, W/4] of the resized image, None where the model projects nothing.
    probabilities: [C, H, W] float32 of every channel, where they were asked for.
    confidence: [H, W] float32, the probability of the channel in `channels`, where it was asked for.
    """

    size: tuple[int, int]
    channels: np.ndarray | None
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    canvas: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    confidence: np.ndarray | None = None


def only_channels(channels: np.ndarray) -> Prediction:
    """A label map [H, W] of channels as a prediction without instances."""
    none = np.zeros(0, np.float32)
    size = (channels.shape[0], channels.shape[1])
    return Prediction(size, channels, none.reshape(0, 4), none.astype(np.int64), none, none.reshape(0, 1, 1))


def mask_in_box(prediction: Prediction, place: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask of one instance (probability over 0.5) in whole pixels of the image, and its corner (y, x) there.

    The pixels of torchvision's `paste_masks_in_image` (but for the rounding of a probability of 0.5), which makes a map of the
    image's size for each instance: 3 GiB for a hundred in 2000x2000.

    Returns:
        [h, w] uint8, 1 in the instance; what lies beyond the image is cut off, and of an instance wholly beyond it
        nothing is left.
    """
    height, width = prediction.size
    mask = np.pad(prediction.masks[place], 1)
    x0, y0, x1, y1 = _grown(prediction.boxes[place], mask.shape[0] / (mask.shape[0] - 2))
    full = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    top, left = min(max(-y0, 0), full[0]), min(max(-x0, 0), full[1])
    bottom, right = max(min(full[0], height - y0), top), max(min(full[1], width - x0), left)
    pasted = cv2.resize(mask, full[::-1], interpolation=cv2.INTER_LINEAR)[top:bottom, left:right]
    return (pasted > 0.5).view(np.uint8), (y0 + top, x0 + left)


def _grown(box: np.ndarray, scale: float) -> list[int]:
    """A box about its centre, in whole px, in torchvision's float32 and order."""
    half, scale32 = np.float32(0.5), np.float32(scale)
    centre, reach = (box[:2] + box[2:]) * half, (box[2:] - box[:2]) * half * scale32
    grown: list[int] = np.concatenate([centre - reach, centre + reach]).astype(np.int64).tolist()
    return grown


def coco_results(prediction: Prediction, labels: LabelSet, *, image_id: int | None) -> list[dict[str, Any]]:
    """A prediction's instances as COCO results: ids of the dataset, xywh boxes, RLE masks (probability over 0.5).

    Without an image id they have none.
    """
    image = {} if image_id is None else {"image_id": image_id}
    rows = zip(prediction.boxes.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True)
    return [
        {
            **image,
            "category_id": labels.ids[labels.things[label - 1]],
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(score, 5),
            "segmentation": {"size": list(prediction.size), "counts": _counts(prediction, place)},
        }
        for place, ((x0, y0, x1, y1), label, score) in enumerate(rows)
    ]


def _counts(prediction: Prediction, place: int) -> str:
    """The compressed RLE of an instance's mask."""
    size = prediction.size
    mask, corner = mask_in_box(prediction, place)
    found = find_regions(mask, skip=[0], corner=corner, size=size).rles if mask.any() else []
    nothing = {"size": list(size), "counts": [size[0] * size[1]]}
    counts: bytes = found[0] if found else rle.frPyObjects(nothing, *size)["counts"]
    return counts.decode("ascii")
