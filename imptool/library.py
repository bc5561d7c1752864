"""imptool as a library: a trained model that takes a photograph and gives numpy arrays."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from imptool.checkpoint import TrainedModel, load_run
from imptool.data.images import read_image
from imptool.data.label_set import LabelSet
from imptool.data.prediction import Prediction, mask_in_box
from imptool.data.tta import parse_tta
from imptool.files import find_weights
from imptool.models.inference import choose_compute, choose_device, parse_resized


@dataclass(frozen=True, eq=False)
class Instance:
    """One garment, or part of a person, that the detector found.

    Attributes:
        class_id, class_name: as in the dataset.
        score: 0..1.
        box: (x0, y0, x1, y1) in px of the photograph.
    """

    class_id: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    _prediction: Prediction = field(repr=False)
    _place: int = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """[H, W] bool, of the photograph's size; made anew each time, as a hundred of them are hundreds of megabytes."""
        full = np.zeros(self._prediction.size, bool)
        mask, (y, x) = mask_in_box(self._prediction, self._place)
        full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        return full


@dataclass(frozen=True, eq=False)
class Parsing:
    """What a model found in one photograph of H x W px.

    Attributes:
        semantic_map: [H, W] class ids of the dataset, uint8 (uint16 with ids over 255); None of a model that only detects.
        class_names: {class id: name} of every class that the model knows.
        instances: the detections, best first.
        probabilities: [C, H, W] float32 where they were asked for, in the order of `class_names`; they add up to 1.
    """

    semantic_map: np.ndarray | None
    class_names: dict[int, str]
    instances: list[Instance]
    probabilities: np.ndarray | None

    @property
    def found(self) -> list[str]:
        """The names of the classes in the semantic map, background included, in the order of `class_names`."""
        ids = set() if self.semantic_map is None else set(np.unique(self.semantic_map).tolist())
        return [name for class_id, name in self.class_names.items() if class_id in ids]


class Model:
    """A trained model. Several threads may call `predict` at once; one photograph after another goes through the network."""

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self._one_at_a_time = threading.Lock()  # the projection's threads, and torchvision's anchors, are not for two at once

    @property
    def labels(self) -> LabelSet:
        """The classes: ids, names, groups, background."""
        return self.trained.labels

    @cached_property
    def class_names(self) -> dict[int, str]:
        return dict(zip(self.labels.ids, self.labels.names, strict=True))

    def predict(
        self, image: str | os.PathLike[str] | np.ndarray, *, probabilities: bool = False, tta: str | None = None
    ) -> Parsing:
        """Parse a photograph.

        Args:
            image: a path, or the photograph itself [H, W, 3] uint8, RGB.
            probabilities: also give those of every class at every pixel: 4 bytes each.
            tta: test-time augmentation, off by default: average several views of the photograph, such as "flip,0.75,1,1.25".
                Numbers are scales of the input that the model was trained for; with `flip` each is also parsed mirrored.
        Raises:
            InputError: the file is missing or broken; `tta` is no such list, or the model's weights do not say what is left
                and what right.
            ValueError: the array is no photograph.
        """
        photograph = image if isinstance(image, np.ndarray) else read_image(Path(image))
        if photograph.ndim != 3 or photograph.shape[2] != 3 or photograph.dtype != np.uint8 or 0 in photograph.shape:
            raise ValueError(f"image must be a path or [H, W, 3] uint8 RGB, got {photograph.shape} {photograph.dtype}")
        height, width = photograph.shape[:2]
        chosen = parse_tta(tta, self.labels)
        views = chosen.resize(np.ascontiguousarray(photograph), self.trained.recipe.input)
        device = next(self.trained.model.parameters()).device
        with self._one_at_a_time:
            (prediction,) = parse_resized(
                self.trained.model, [views], [(height, width)], device=device, tta=chosen, probabilities=probabilities
            )
        return Parsing(
            semantic_map=None if prediction.channels is None else self.labels.to_ids(prediction.channels),
            class_names=self.class_names,
            instances=_instances(prediction, self.labels),
            probabilities=prediction.probabilities,
        )


def load(
    source: str | os.PathLike[str], *, device: str = "auto", precision: Literal["float32", "bfloat16"] | None = None
) -> Model:
    """Load a trained model.

    Args:
        source: a run folder of `imptool train`, a `.safetensors` file of it or of `imptool export`, or the name of weights that
            come with imptool, such as "ccp-lite". Only tensors load.
        device: cpu, cuda or cuda:N; auto takes CUDA where there is one.
        precision: of the network's dense parts; None is bfloat16 on CUDA, else float32.
    Raises:
        InputError: there is no model, or it is damaged; or no such device.
    """
    place = choose_device(device)
    name = os.fspath(source)
    trained = load_run(find_weights(name, missing=f"{name} is no run of imptool train and no file of weights"), device=place)
    choose_compute(trained.model, place, precision)
    return Model(trained)


def _instances(prediction: Prediction, labels: LabelSet) -> list[Instance]:
    rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
    classes = [labels.classes[channel] for channel in labels.things]
    return [
        Instance(classes[label - 1].id, classes[label - 1].name, score, tuple(box), prediction, place)
        for place, (label, score, box) in enumerate(rows)
    ]
