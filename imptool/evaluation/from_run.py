"""Predictions of a trained run, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from imptool.checkpoint import TrainedModel
from imptool.data.augment import View
from imptool.data.dataset import Dataset
from imptool.data.export import file_name
from imptool.data.images import read_image, resized_size
from imptool.data.layouts import Item
from imptool.data.panoptic import Segments, fuse
from imptool.data.prediction import coco_results
from imptool.data.samples import item_target
from imptool.data.tta import Tta
from imptool.evaluation.from_files import Parsed
from imptool.evaluation.panoptic import COMPONENTS
from imptool.models.detector import as_detection
from imptool.models.inference import parse_image
from imptool.recipe import Panoptic


@dataclass(frozen=True)
class _Loaded:
    """An image [H, W, 3], and what goes onto the canvas in place of its detections."""

    image: np.ndarray
    projected: dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class RunPredictions:
    """A model that parses images; they are read in threads, and parsed one after another, in the views of `tta`.

    Attributes:
        canvas: the annotations that go onto the canvas in place of the model's own detections, by the image's
            `file_name`; an image without any has an empty canvas. None: the detections do.
        panoptic: how a panoptic result is made, where one is wanted.
    """

    trained: TrainedModel
    dataset: Dataset
    device: torch.device
    tta: Tta
    canvas: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    panoptic: Panoptic | None = None

    def load(self, item: Item, target: np.ndarray) -> _Loaded:
        """The image and its canvas; InputError when it cannot be read, or the instances are not of its size."""
        image = read_image(item.image, max_pixels=self.dataset.max_pixels)
        if self.canvas is None:
            return _Loaded(image, None)
        wanted, size = self.trained.recipe.input, (image.shape[0], image.shape[1])
        resized = resized_size(size, short_side=wanted.short_side, long_side=wanted.long_side)
        view = View(resized, (0, 0, *resized))
        shown = item_target(item, self.canvas.get(file_name(self.dataset, item), ()), self.trained.labels, view, size=size)
        return _Loaded(image, as_detection(shown))

    def notes(self, items: Sequence[Item]) -> list[str]:
        return [self.trained.unfinished] if self.trained.unfinished else []

    def parse(self, loaded: _Loaded) -> Parsed:
        trained, size = self.trained, self.trained.recipe.input
        prediction = parse_image(
            trained.model, loaded.image, size, device=self.device, tta=self.tta, projected=loaded.projected
        )
        canvas = None if prediction.canvas is None else bool((prediction.canvas > 0).any())
        results = coco_results(prediction, trained.labels, image_id=0) if trained.model.detects else []
        segments: dict[str, Segments] = {}
        if self.panoptic is not None and (trained.model.detects or self.panoptic.instances == COMPONENTS):
            segments = {self.panoptic.instances: fuse(prediction, trained.labels, self.panoptic)}
        return Parsed(prediction.channels, results, canvas, segments)
