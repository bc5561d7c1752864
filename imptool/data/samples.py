"""Training samples: photograph, instances and semantic map of one image, resized and mirrored together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from imptool.data.coco import decode_masks
from imptool.data.dataset import Dataset
from imptool.data.images import read_image
from imptool.data.instances import file_name
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.files import InputError
from imptool.recipe import Input


@dataclass(frozen=True)
class Sample:
    """One image of a batch, as the models take it.

    image: [3, H, W] float32, 0..1.
    target: torchvision's `boxes` [N, 4] xyxy, `labels` [N] 1..K, `masks` [N, H, W] uint8, and `semantic` [H, W] int64 channels.
    problem: why the image could not be read, "" when it could; the tensors are empty then.
    """

    name: str
    image: torch.Tensor
    target: dict[str, torch.Tensor]
    problem: str = ""


def resized_size(size: tuple[int, int], *, short_side: int, long_side: int) -> tuple[int, int]:
    """The (height, width) after the short side becomes `short_side`; where the long side would pass its limit, that wins."""
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(round(side * scale), 1) for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [H, W, 3] to (height, width); areas are averaged when it shrinks, so that fine patterns do not alias."""
    shrinks = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def image_tensor(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)


class TrainingSamples(TorchDataset[Sample]):
    """The endless stream of training samples, by position: sample p of a run is always the same.

    Position p falls into epoch p // N; every epoch has its own seeded order, every position its own seeded mirroring. So a
    run resumes in the middle of an epoch by starting at a position, and does not depend on the number of workers.
    """

    def __init__(self, dataset: Dataset, split: str, document: Mapping[str, Any], *, size: Input, seed: int) -> None:
        items = {file_name(dataset, item): item for item in dataset.split(split)}
        annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in document["annotations"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
        self.pairs: list[tuple[Item, list[dict[str, Any]]]] = [
            (items[image["file_name"]], annotations.get(image["id"], [])) for image in document["images"]
        ]
        self.dataset, self.size, self.seed = dataset, size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, len(self.pairs))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.pairs))
        item, annotations = self.pairs[self._order[place]]
        mirrored = np.random.default_rng((self.seed, 1, position)).random() < self.size.flip
        try:
            return self._read(item, annotations, mirrored=bool(mirrored))
        except InputError as error:
            return Sample(item.stem, torch.empty(3, 0, 0), {}, str(error))

    def _read(self, item: Item, annotations: Sequence[Mapping[str, Any]], *, mirrored: bool) -> Sample:
        image, ids = read_image(item.image), self.dataset.read_labels(item)
        size = resized_size(ids.shape, short_side=self.size.short_side, long_side=self.size.long_side)
        labels = self.dataset.labels
        semantic = cv2.resize(labels.to_channels(ids), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int64)
        try:
            masks = decode_masks(annotations, ids.shape)
        except ValueError as error:
            raise InputError(f"{item.image}: its instances do not fit it ({error}): convert again with --overwrite") from error
        target = instance_target(masks, [row["category_id"] for row in annotations], labels, to_size=size)
        target["semantic"] = torch.from_numpy(semantic)
        tensor = image_tensor(resize_image(image, size))
        return Sample(item.stem, *(mirror(tensor, target) if mirrored else (tensor, target)))


def instance_target(
    masks: np.ndarray, category_ids: Sequence[int], labels: LabelSet, *, to_size: tuple[int, int]
) -> dict[str, torch.Tensor]:
    """Boxes, labels and masks of the things at the resized size, without instances that vanish there.

    Args:
        masks: [N, h, w] uint8 at the photograph's size; category_ids: their N class ids.
        to_size: (H, W) of the network's input.
    Returns:
        boxes [M, 4] float32 xyxy in resized pixels, labels [M] int64 1..K, masks [M, H, W] uint8.
    """
    label_of_id = {labels.ids[channel]: label for label, channel in enumerate(labels.things, start=1)}
    scale = np.array([to_size[1] / masks.shape[2], to_size[0] / masks.shape[1]] * 2)
    boxes, kept, resized = [], [], []
    for mask, category_id in zip(masks, category_ids, strict=True):
        if category_id not in label_of_id:
            continue
        small = cv2.resize(mask, to_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if small.any():
            x, y, width, height = cv2.boundingRect(mask)
            boxes.append(np.array([x, y, x + width, y + height]) * scale)
            kept.append(label_of_id[category_id])
            resized.append(small)
    return {
        "boxes": torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4)),
        "labels": torch.tensor(kept, dtype=torch.int64),
        "masks": torch.from_numpy(np.array(resized, np.uint8).reshape(-1, *to_size)),
    }


def mirror(image: torch.Tensor, target: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mirror an image and its target left to right."""
    width = image.shape[-1]
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return image.flip(-1), {
        "boxes": boxes,
        "labels": target["labels"],
        "masks": target["masks"].flip(-1),
        "semantic": target["semantic"].flip(-1),
    }
