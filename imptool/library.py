"""imptool as a library: a trained model takes an image and gives numpy arrays."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imptool.checkpoint import TrainedModel, load_run
from imptool.data.images import read_image
from imptool.data.label_set import LabelSet
from imptool.data.panoptic import fuse
from imptool.data.prediction import Prediction, mask_in_box
from imptool.data.tta import parse_tta
from imptool.files import find_weights, some
from imptool.models.inference import choose_compute, choose_device, parse_resized
from imptool.report.console import plain
from imptool.report.overlays import colour_classes

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Instance:
    """One garment, or one part of the body, that the detector found.

    Attributes:
        class_id, class_name: as in the dataset.
        score: 0..1.
        box: (x0, y0, x1, y1) in px of the image.
    """

    class_id: int
    class_name: str
    score: float
    box: tuple[float, float, float, float]
    _prediction: Prediction
    _index: int

    def __repr__(self) -> str:
        return f"<Instance {_short(self.class_name)}, score {self.score:.2f}, box {tuple(round(side) for side in self.box)}>"

    @property
    def mask(self) -> np.ndarray:
        """[H, W] bool, of the image's size. Each call computes it, because a hundred masks are hundreds of megabytes."""
        full = np.zeros(self._prediction.size, bool)
        mask, (y, x) = mask_in_box(self._prediction, self._index)
        full[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        return full


@dataclass(frozen=True)
class Segment:
    """One part of a panoptic result: an instance of a thing, or all of another class.

    Attributes:
        number: its value in the map. class_id, class_name: as in the dataset. thing: whether it is an instance.
        score: 0..1; 1 of what is no thing. area: in px.
    """

    number: int
    class_id: int
    class_name: str
    thing: bool
    score: float
    area: int


class Segments(Sequence[Segment]):
    """The panoptic result of one image: its segments, in the order of their numbers from 1.

    Attributes:
        numbers: [H, W] int32, the number of the segment at each pixel; 0 where there is none.
    """

    def __init__(self, numbers: np.ndarray, rows: Sequence[Segment]) -> None:
        self.numbers, self._rows = numbers, list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    def __repr__(self) -> str:
        height, width = self.numbers.shape
        return f"<{len(self)} segments of {width} x {height} px>"


@dataclass(frozen=True, eq=False, repr=False)
class Parsing:
    """What a model found in one image of H x W px. A notebook shows it as `plot` does.

    Attributes:
        image: [H, W, 3] uint8, RGB: the array given to `predict`, not a copy of it (unless it was not contiguous). It takes
            3 bytes per pixel beside the map's 1: a program that collects many results should keep only what it needs of them.
        semantic_map: [H, W] class ids of the dataset, uint8 (uint16 with ids over 255); None for a model that only detects.
        class_names: {class id: name} of every class that the model knows.
        instances: the detections, best first.
        probabilities: [C, H, W] float32 if requested, in the order of `class_names`; they add up to 1.
        segments: instances and semantic map joined to a panoptic result, if requested.
    """

    image: np.ndarray
    semantic_map: np.ndarray | None
    class_names: dict[int, str]
    instances: list[Instance]
    probabilities: np.ndarray | None
    _labels: LabelSet
    segments: Segments | None = None

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        background = self.class_names.get(-1 if self._labels.background is None else self._labels.background)
        shares = [f"{_short(name)} {share:.0%}" for name, share in self.shares.items() if name != background]
        found = some(shares, 3) or ("nothing" if self.semantic_map is not None else "no semantic map")
        return f"<Parsing of {width} x {height} px: {found}; {len(self.instances)} instances>"

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows."""
        written = io.BytesIO()
        self.plot().savefig(written, format="png")
        return written.getvalue()

    @property
    def found(self) -> list[str]:
        """The names of the classes in the semantic map, including the background, in the order of `class_names`."""
        shares = self.shares
        return [name for name in self.class_names.values() if name in shares]

    @property
    def shares(self) -> dict[str, float]:
        """{name: share of the image's pixels, 0..1} of the classes in the semantic map, largest first; empty without a map."""
        if self.semantic_map is None:
            return {}
        counts = np.bincount(self.semantic_map.ravel()) / self.semantic_map.size
        return {self.class_names[class_id]: float(counts[class_id]) for class_id in np.argsort(-counts) if counts[class_id]}

    def overlay(self, *, alpha: float = 0.5) -> np.ndarray:
        """Draw the classes over the image.

        Each class has its colour of the pages and an outline; the background stays as it is. For a model that
        only detects, the instances are drawn, those with higher scores on top.

        Args:
            alpha: weight of the colours, 0..1.
        Returns:
            [H, W, 3] uint8, RGB.
        """
        return colour_classes(self.image, self._drawn_map(), ids=self._foreground(), alpha=alpha, colours=self._labels.colours)

    def plot(self) -> Figure:
        """Draw the image, the overlay and a legend of the classes found.

        Returns:
            a matplotlib figure, made without pyplot: `plot().savefig("parsed.png")` writes it.
        """
        from imptool.report.plots import plot_overlay  # matplotlib takes half a second to import

        drawn = set(np.unique(self._drawn_map()).tolist())
        shown = [class_id for class_id in self._foreground() if class_id in drawn]
        colours = {self.class_names[class_id]: self._labels.colours[class_id] for class_id in shown}
        return plot_overlay(self.image, self.overlay(), colours)

    def _foreground(self) -> list[int]:
        return [class_id for class_id in self.class_names if class_id != self._labels.background]

    def _drawn_map(self) -> np.ndarray:
        if self.semantic_map is not None:
            return self.semantic_map
        drawn = np.full(self.image.shape[:2], self._labels.ignore, np.uint16)
        for instance in reversed(self.instances):
            drawn[instance.mask] = instance.class_id
        return drawn


class Model:
    """A trained model. Several threads may call `predict` at once; the network takes one image at a time."""

    def __init__(self, trained: TrainedModel) -> None:
        self.trained = trained
        self._one_at_a_time = threading.Lock()  # the projection's threads and torchvision's anchors cannot serve two at once

    def __repr__(self) -> str:
        source, backbone = str(self.trained.source), self.trained.recipe.backbone.name
        source = source if len(source) <= 30 else "…" + source[-29:]
        network = f"{self.trained.name} on {_short(backbone)}"
        return f"<Model {network}, {len(self.class_names)} classes, {self._device}, from {plain(source)}>"

    @property
    def _device(self) -> torch.device:
        return next(self.trained.model.parameters()).device

    @property
    def labels(self) -> LabelSet:
        """The classes: ids, names, groups, background."""
        return self.trained.labels

    @cached_property
    def class_names(self) -> dict[int, str]:
        return dict(zip(self.labels.ids, self.labels.names, strict=True))

    def predict(
        self,
        image: str | os.PathLike[str] | np.ndarray,
        *,
        probabilities: bool = False,
        tta: str | None = None,
        panoptic: bool = False,
    ) -> Parsing:
        """Parse an image.

        Args:
            image: a path, or the image itself [H, W, 3] uint8, RGB.
            probabilities: also return the probability of every class at every pixel: 4 bytes each.
            tta: test-time augmentation, off by default. It averages several views of the image: "flip,0.75,1,1.25" lists
                scales of the model's own input size; with `flip`, each view is also parsed mirrored.
            panoptic: also join instances and semantic map to a panoptic result, as the recipe's `panoptic` says.
        Raises:
            InputError: the file is missing or broken; `tta` is not such a list; or it has `flip`, and the model's weights do
                not say which classes are left and right.
            ValueError: the array is not an image.
        """
        pixels = np.ascontiguousarray(image) if isinstance(image, np.ndarray) else read_image(Path(image))
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise ValueError(f"image must be a path or [H, W, 3] uint8 RGB, got {pixels.shape} {pixels.dtype}")
        height, width = pixels.shape[:2]
        chosen = parse_tta(tta, self.labels)
        views = chosen.resize(pixels, self.trained.recipe.input)
        with self._one_at_a_time:
            (prediction,) = parse_resized(
                self.trained.model,
                [views],
                [(height, width)],
                device=self._device,
                tta=chosen,
                probabilities=probabilities,
                confidence=panoptic and self.trained.recipe.panoptic.instances == "components",
            )
        return Parsing(
            image=pixels,
            semantic_map=None if prediction.channels is None else self.labels.to_ids(prediction.channels),
            class_names=self.class_names,
            instances=_instances(prediction, self.labels),
            probabilities=prediction.probabilities,
            _labels=self.labels,
            segments=_segments(prediction, self.trained) if panoptic else None,
        )


def load(
    source: str | os.PathLike[str], *, device: str = "auto", precision: Literal["float32", "bfloat16"] | None = None
) -> Model:
    """Load a trained model.

    Args:
        source: a run folder of `imptool train`, a `.safetensors` file of it or of `imptool export`, or the name of weights that
            come with imptool, such as "ccp-lite". Files that hold code are refused.
        device: cpu, cuda or cuda:N; auto takes CUDA if there is a GPU.
        precision: of the network's dense parts; None means bfloat16 on CUDA, else float32.
    Raises:
        InputError: the model is missing or damaged, or there is no such device.
    """
    place = choose_device(device)
    name = os.fspath(source)
    trained = load_run(find_weights(name, missing=f"{name} is no run of imptool train and no file of weights"), device=place)
    choose_compute(trained.model, place, precision)
    return Model(trained)


def _segments(prediction: Prediction, trained: TrainedModel) -> Segments:
    labels = trained.labels
    found = fuse(prediction, labels, trained.recipe.panoptic)
    areas = np.bincount(found.numbers.ravel(), minlength=len(found.channels) + 1).tolist()
    rows = enumerate(zip(found.channels.tolist(), found.scores.tolist(), strict=True), start=1)
    return Segments(
        found.numbers,
        [
            Segment(number, labels.ids[channel], labels.names[channel], channel in labels.things, score, areas[number])
            for number, (channel, score) in rows
        ],
    )


def _instances(prediction: Prediction, labels: LabelSet) -> list[Instance]:
    rows = zip(prediction.labels.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
    classes = [labels.classes[channel] for channel in labels.things]
    return [
        Instance(classes[label - 1].id, classes[label - 1].name, score, tuple(box), prediction, index)
        for index, (label, score, box) in enumerate(rows)
    ]


def _short(name: str) -> str:
    """A name on one line that leaves room for others."""
    return plain(name if len(name) <= 20 else name[:19] + "…")
