"""mIOU on the val split while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from imptool import distributed
from imptool.data.dataset import Dataset
from imptool.data.layouts import Item
from imptool.data.samples import read_pair
from imptool.files import read_ahead
from imptool.metrics.confusion import confusion_matrix, summarize, tally
from imptool.models.inference import parse_image
from imptool.models.network import Network
from imptool.recipe import Input, Recipe


@dataclass(frozen=True)
class Validation:
    """What a model is measured on while it trains.

    items: images of the val split: all, or as many as the recipe says, evenly spread. whole: how many the split has.
    """

    dataset: Dataset
    items: Sequence[Item]
    whole: int
    size: Input
    device: torch.device
    workers: int

    @staticmethod
    def of(recipe: Recipe, dataset: Dataset, *, device: torch.device, workers: int) -> Validation:
        items, asked = dataset.split(recipe.val_split), recipe.evaluate_images
        chosen: Sequence[Item] = items
        if asked is not None and asked < len(items):
            chosen = [items[place] for place in np.linspace(0, len(items) - 1, asked).round().astype(int)]
        return Validation(dataset, chosen, len(items), recipe.input, device, workers)

    def miou(self, model: Network, *, stop: Sequence[int], unreadable: dict[str, str]) -> float | None:
        """Mean IOU over the foreground classes, 0..1, as `imptool eval` gives it; nan without a pixel, None after a signal.

        Args:
            stop: signals that have come. unreadable: takes image -> problem.
        """
        labels = self.dataset.labels
        total = np.zeros((len(labels.classes),) * 2, np.int64)
        model.eval()
        distributed.share_buffers(model)
        items = distributed.own_share(self.items)
        for item, pair, problem in read_ahead(partial(read_pair, self.dataset), items, workers=max(self.workers, 1)):
            if stop:
                break
            if pair is None:
                unreadable[item.stem] = problem
                continue
            predicted = parse_image(model, pair[0], self.size, device=self.device).channels
            assert predicted is not None  # the model parses
            total += confusion_matrix(predicted, pair[1], num_classes=len(labels.classes), ignore=labels.ignore_channel)
        model.train()
        if distributed.any_of(bool(stop)):
            return None
        return float(summarize(tally(distributed.sum_of(total)), foreground=labels.foreground, things=labels.things)["miou"])
