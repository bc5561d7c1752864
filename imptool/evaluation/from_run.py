"""Predictions of a trained run, photograph by photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imptool.checkpoint import TrainedModel
from imptool.data.dataset import Dataset
from imptool.data.images import read_image
from imptool.data.layouts import Item
from imptool.data.prediction import coco_results
from imptool.data.tta import Tta
from imptool.evaluation.from_files import Parsed
from imptool.models.inference import parse_image


@dataclass(frozen=True)
class RunPredictions:
    """A model that parses photographs; they are read in threads, and parsed one after another, in the views of `tta`."""

    trained: TrainedModel
    dataset: Dataset
    device: torch.device
    tta: Tta

    def load(self, item: Item, target: np.ndarray) -> np.ndarray:
        """The photograph [H, W, 3]; InputError when it cannot be read."""
        return read_image(item.image, max_pixels=self.dataset.max_pixels)

    def notes(self, items: Sequence[Item]) -> list[str]:
        return [self.trained.unfinished] if self.trained.unfinished else []

    def parse(self, image: np.ndarray) -> Parsed:
        trained = self.trained
        prediction = parse_image(trained.model, image, trained.recipe.input, device=self.device, tta=self.tta)
        canvas = None if prediction.canvas is None else bool((prediction.canvas > 0).any())
        results = coco_results(prediction, trained.labels, image_id=0) if trained.model.detects else []
        return Parsed(prediction.channels, results, canvas)
