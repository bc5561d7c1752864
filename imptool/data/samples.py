"""Training samples: image, instances and semantic map of one image, varied together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from imptool.data.augment import Target, View, draw_view, jitter, mirror, paste_instances
from imptool.data.coco import decode_masks
from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.images import read_image, resize_image
from imptool.data.instances import instances_to_detect
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.files import InputError
from imptool.recipe import Augment, Input


@dataclass(frozen=True)
class Sample:
    """One image of a batch, as the models take it.

    image: [3, H, W] float32, 0..1.
    target: torchvision's `boxes` [N, 4] xyxy, `labels` [N] 1..K, `masks` [N, H, W] uint8, and `semantic` [H, W] int64 channels;
        empty where no image at all could be read.
    problems: images that could not be read, and why; this one stands in for them, or lacks what they would have given.
    """

    name: str
    image: torch.Tensor
    target: Target
    problems: dict[str, str] = field(default_factory=dict)


def image_tensor(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div_(255)


def read_pair(dataset: Dataset, item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Image [H, W, 3] and target channels [H, W] of an item; InputError when one cannot be read."""
    target = dataset.read_channels(item)
    return read_image(item.image), target


class TrainingSamples(TorchDataset[Sample]):
    """The endless stream of training samples, by position: sample p of a run is always the same.

    Position p falls into epoch p // N; every epoch has its own seeded order, every position its own seeded variation. So a
    run resumes in the middle of an epoch by starting at a position, and does not depend on the number of workers.
    With `augment.repeat_threshold`, images of rare classes come more often (`repeat_factors`, `draw_order`).
    """

    def __init__(
        self, dataset: Dataset, split: str, document: Mapping[str, Any], *, size: Input, augment: Augment, seed: int
    ) -> None:
        items = {file_name(dataset, item): item for item in dataset.split(split)}
        annotations = instances_to_detect(document, dataset.labels)
        shown: dict[int, set[int]] = {image["id"]: set() for image in document["images"]}
        for row in document["annotations"]:
            shown[row["image_id"]].add(row["category_id"])
        self.pairs: list[tuple[Item, list[dict[str, Any]]]] = [
            (items[image["file_name"]], annotations.get(image["id"], [])) for image in document["images"]
        ]
        self.repeats = repeat_factors(list(shown.values()), augment.repeat_threshold)
        self.dataset, self.size, self.augment, self.seed = dataset, size, augment, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> Sample:
        """The sample at a position; of images that cannot be read, the next one of the epoch takes the place."""
        epoch, place = divmod(position, len(self.pairs))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, draw_order(self.repeats, np.random.default_rng((self.seed, 0, epoch)))
        problems: dict[str, str] = {}
        for number in np.roll(self._order, -place):
            item, annotations = self.pairs[number]
            try:
                image, target = self._read(item, annotations, np.random.default_rng((self.seed, 1, position)))
            except InputError as error:
                problems[item.stem] = str(error)
                continue
            image, target = self._paste(image, target, np.random.default_rng((self.seed, 2, position)), problems)
            return Sample(item.stem, image, target, problems)
        return Sample("", torch.empty(3, 0, 0), {}, problems)

    def _paste(
        self, image: torch.Tensor, target: Target, rng: np.random.Generator, problems: dict[str, str]
    ) -> tuple[torch.Tensor, Target]:
        """In a share of the samples, paste a random subset of the instances of another image of the epoch.

        That one is mirrored, cropped and coloured by itself first, so what is pasted keeps the colours that it drew.
        """
        if rng.random() >= self.augment.copy_paste:
            return image, target
        item, annotations = self.pairs[rng.choice(self._order)]
        try:
            other_image, other_target = self._read(item, annotations, rng)
        except InputError as error:
            problems[item.stem] = str(error)
            return image, target
        chosen = torch.from_numpy(rng.random(len(other_target["labels"])) < 0.5)
        return paste_instances(image, target, other_image, other_target, chosen)

    def _read(
        self, item: Item, annotations: Sequence[Mapping[str, Any]], rng: np.random.Generator
    ) -> tuple[torch.Tensor, Target]:
        mirrored = rng.random() < self.augment.flip
        image, ids = read_image(item.image), self.dataset.read_labels(item)
        view = draw_view((ids.shape[0], ids.shape[1]), self.size, self.augment, rng)
        labels = self.dataset.labels
        target = item_target(item, annotations, labels, view, size=(ids.shape[0], ids.shape[1]))
        target["semantic"] = torch.from_numpy(view.sample(labels.to_channels(ids)).astype(np.int64))
        tensor = jitter(image_tensor(view.cut(resize_image(image, view.size))), self.augment, rng)
        return mirror(tensor, target, labels, self.dataset.left_right) if mirrored else (tensor, target)


def repeat_factors(shown: Sequence[Set[int]], threshold: float) -> np.ndarray:
    """How much more often than others each image should come, so that rare classes are seen more.

    A class in the share f of the images has the factor max(1, sqrt(threshold / f)), an image the largest of its classes'.

    Args:
        shown: the classes of each image, things and stuff.
        threshold: 0..1; with 0 every factor is 1.
    Returns:
        [N] float64, at least 1.
    Source:
        Gupta, Dollar, Girshick, LVIS (2019), appendix B.2: repeat factor sampling.
    """
    images = Counter(name for classes in shown for name in classes)
    factors = {name: max(1.0, (threshold * len(shown) / count) ** 0.5) for name, count in images.items()}
    return np.array([max((factors[name] for name in classes), default=1.0) for classes in shown])


def draw_order(repeats: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images of an epoch [N], N of them: image i comes about N * repeats[i] / sum(repeats) times, rounded up or down.

    LVIS rounds each factor by chance, so an epoch there is longer than N and of varying length. Here it keeps its length, so
    that a position gives its epoch; images without rare classes are left out of some epochs instead. Drawn by systematic
    sampling: N equal steps along the summed factors of the shuffled images.
    """
    order = rng.permutation(len(repeats))
    if (repeats == 1).all():
        return order
    ends = np.cumsum(repeats[order])
    steps = (np.arange(len(order)) + rng.random()) * (ends[-1] / len(order))
    return rng.permutation(order[np.searchsorted(ends[:-1], steps, side="right")])


def item_target(
    item: Item, annotations: Sequence[Mapping[str, Any]], labels: LabelSet, view: View, *, size: tuple[int, int]
) -> Target:
    """`instance_target` of an item of a dataset; InputError where its converted instances do not fit its image."""
    try:
        return instance_target(annotations, labels, view, size=size)
    except ValueError as error:
        raise InputError(f"{item.image}: its instances do not fit it ({error}): convert again with --force") from error


def instance_target(annotations: Sequence[Mapping[str, Any]], labels: LabelSet, view: View, *, size: tuple[int, int]) -> Target:
    """Boxes, labels and masks of the things in a view, without instances of which nothing is left there.

    An instance that the view cuts gets the box of what is left of it.

    Args:
        annotations: COCO dicts of things with `category_id` and `segmentation`.
        size: (height, width) of the image.
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
