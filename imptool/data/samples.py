"""Training samples: photograph, instances and semantic map of one image, varied together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from imptool.data.augment import Target, View, draw_view, jitter, mirror
from imptool.data.coco import decode_masks
from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.images import read_image, resize_image
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.files import InputError
from imptool.recipe import Augment, Input


@dataclass(frozen=True)
class Sample:
    """One image of a batch, as the models take it.

    image: [3, H, W] float32, 0..1.
    target: torchvision's `boxes` [N, 4] xyxy, `labels` [N] 1..K, `masks` [N, H, W] uint8, and `semantic` [H, W] int64 channels;
        empty where no photograph at all could be read.
    problems: photographs that could not be read, and why; this one stands in for them.
    """

    name: str
    image: torch.Tensor
    target: Target
    problems: dict[str, str] = field(default_factory=dict)


def image_tensor(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)


def read_pair(dataset: Dataset, item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Photograph [H, W, 3] and target channels [H, W] of an item; InputError when one cannot be read."""
    target = dataset.read_channels(item)
    return read_image(item.image), target


class TrainingSamples(TorchDataset[Sample]):
    """The endless stream of training samples, by position: sample p of a run is always the same.

    Position p falls into epoch p // N; every epoch has its own seeded order, every position its own seeded variation. So a
    run resumes in the middle of an epoch by starting at a position, and does not depend on the number of workers.
    """

    def __init__(
        self, dataset: Dataset, split: str, document: Mapping[str, Any], *, size: Input, augment: Augment, seed: int
    ) -> None:
        items = {file_name(dataset, item): item for item in dataset.split(split)}
        things = {dataset.labels.ids[channel] for channel in dataset.labels.things}
        annotations: dict[int, list[dict[str, Any]]] = {}
        for row in document["annotations"]:
            if row["category_id"] in things and not row.get("iscrowd", 0):  # a crowd is no instance to learn
                kept = {key: row[key] for key in ("category_id", "segmentation")}  # each worker comes to own a copy
                annotations.setdefault(row["image_id"], []).append(kept)
        self.pairs: list[tuple[Item, list[dict[str, Any]]]] = [
            (items[image["file_name"]], annotations.get(image["id"], [])) for image in document["images"]
        ]
        self.dataset, self.size, self.augment, self.seed = dataset, size, augment, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position; of photographs that cannot be read, the next one of the epoch takes the place."""
        epoch, place = divmod(position, len(self.pairs))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.pairs))
        problems: dict[str, str] = {}
        for number in np.roll(self._order, -place):
            item, annotations = self.pairs[number]
            try:
                image, target = self._read(item, annotations, np.random.default_rng((self.seed, 1, position)))
                return Sample(item.stem, image, target, problems)
            except InputError as error:
                problems[item.stem] = str(error)
        return Sample("", torch.empty(3, 0, 0), {}, problems)

    def _read(
        self, item: Item, annotations: Sequence[Mapping[str, Any]], rng: np.random.Generator
    ) -> tuple[torch.Tensor, Target]:
        mirrored = rng.random() < self.augment.flip
        image, ids = read_image(item.image), self.dataset.read_labels(item)
        view = draw_view((ids.shape[0], ids.shape[1]), self.size, self.augment, rng)
        labels = self.dataset.labels
        try:
            target = instance_target(annotations, labels, view, size=(ids.shape[0], ids.shape[1]))
        except ValueError as error:
            raise InputError(f"{item.image}: its instances do not fit it ({error}): convert again with --force") from error
        target["semantic"] = torch.from_numpy(view.sample(labels.to_channels(ids)).astype(np.int64))
        tensor = jitter(image_tensor(view.cut(resize_image(image, view.size))), self.augment, rng)
        return mirror(tensor, target, labels, self.dataset.left_right) if mirrored else (tensor, target)


def instance_target(annotations: Sequence[Mapping[str, Any]], labels: LabelSet, view: View, *, size: tuple[int, int]) -> Target:
    """Boxes, labels and masks of the things in a view, without instances of which nothing is left there.

    An instance that the view cuts gets the box of what is left of it.

    Args:
        annotations: COCO dicts of things with `category_id` and `segmentation`.
        size: (height, width) of the photograph.
    Returns:
        boxes [N, 4] float32 xyxy in resized pixels, labels [N] int64 1..K, masks [N, H, W] uint8.
    Raises:
        ValueError: a segmentation is of no known form, or of another size.
    """
    label_of_id = {labels.ids[channel]: label for label, channel in enumerate(labels.things, start=1)}
    height, width = view.window[2:]
    boxes, kept, masks = [], [], []
    for annotation in annotations:
        mask = decode_masks([annotation], size)[0]
        seen = np.ascontiguousarray(view.sample(mask))
        if not seen.any():
            continue
        box = view.move_box(_box_of(mask), size)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
        boxes.append(box if inside or view.is_whole else _box_of(seen))
        kept.append(label_of_id[annotation["category_id"]])
        masks.append(seen)
    return {
        "boxes": torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4)),
        "labels": torch.tensor(kept, dtype=torch.int64),
        "masks": torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width)),
    }


def _box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """xyxy of a mask's pixels, their far edges included."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height
