"""What training, evaluation, prediction, the library and export ask of any network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.image_list import ImageList

from imptool.files import InputError, nearest
from imptool.recipe import Compute, Losses

Detections = list[dict[str, torch.Tensor]]
"""Of each image: boxes [N, 4] xyxy in resized pixels, labels [N] 1..K, scores [N] (best first), masks [N, 1, 28, 28]."""
Features = dict[str, torch.Tensor]
Targets = Sequence[Mapping[str, torch.Tensor]]

_MULTIPLE = 32  # px that the sides of a padded batch are multiples of: P5 is at 1/32


@dataclass(frozen=True)
class Inferred:
    """What a network finds in the images of a batch.

    detections: of each image; all empty where the network detects nothing.
    logits: [B, classes, H, W] at the resized images' size; None where it does not parse.
    canvas: what was projected, [B, K, H/4, W/4], padding included; None where it does not project.
    """

    detections: Detections
    logits: torch.Tensor | None = None
    canvas: torch.Tensor | None = None


@dataclass(frozen=True)
class Axis:
    """Which axis of a tensor goes by classes, so that weights can be taken by the names of these.

    kind: things (the detector's labels) or channels (of the label map). dim: the axis. start: place of the first class; those
    before it go together, such as the detector's background, or features that the classes stand beside. each: indices of a
    place. canvas_scale: of layers of the canvas, what it is multiplied by.
    """

    kind: Literal["things", "channels"]
    dim: int = 0
    start: int = 0
    each: int = 1
    canvas_scale: float | None = None


class Network(nn.Module, ABC):
    """A model that learns from images and targets, and parses or detects.

    Losses have the names of `recipe.Losses`, their kinds; one of several of a kind has a part behind a dot, as `mask.2`. The
    loss that is minimised is the sum over kinds of the recipe's weight times the mean over its parts.

    Args:
        mean, std: that images of 0..1 are normalised with.
    """

    loss_kinds: Sequence[str] = ()
    """Of the losses that `forward` can give."""

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)
        self.compute = Compute()
        self._frozen: list[nn.Module] = []

    @property
    @abstractmethod
    def detects(self) -> bool:
        """Whether it gives detections."""

    @property
    @abstractmethod
    def parses(self) -> bool:
        """Whether it gives logits of a label map."""

    @property
    def has_probabilities(self) -> bool:
        """Whether the softmax of its logits are probabilities."""
        return self.parses

    @property
    def projects(self) -> bool:
        """Whether it has a canvas, which `infer` can be given the instances of."""
        return False

    @abstractmethod
    def forward(self, images: Sequence[torch.Tensor], targets: Targets) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Losses of a batch in training.

        Args:
            images: [3, H, W] each, 0..1, already resized.
            targets: boxes, labels, masks, semantic of each image (see `data.samples.Sample`).
        Returns:
            The losses by name, and the canvas [B, K, H/4, W/4] that was projected (None without one).
        """

    @abstractmethod
    def encode(self, images: Sequence[torch.Tensor]) -> tuple[ImageList, Features]:
        """The padded batch of resized images [3, H, W] of one size, and its features: the first half of `infer`."""

    @abstractmethod
    def decode(self, batch: ImageList, features: Features, projected: Detections | None = None) -> Inferred:
        """What is found from the features: the second half of `infer`."""

    @torch.no_grad()
    def infer(self, images: Sequence[torch.Tensor], projected: Detections | None = None) -> Inferred:
        """Parse resized images [3, H, W] of one size: padding depends on nothing but that.

        Args:
            projected: what goes onto the canvas of each image in place of its own detections, all of it; in the form of these.
        Raises:
            ValueError: the images have several sizes.
        """
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) != 1:
            raise ValueError(f"images that are parsed together must have one size, got {sorted(sizes)}")
        return self.decode(*self.encode(images), projected)

    @abstractmethod
    def masks(
        self, batch: ImageList, features: Features, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Mask probabilities [N, 1, 28, 28] of given boxes [N, 4] and labels [N] in each image of `encode`."""

    @abstractmethod
    def suppress(self, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """An image's detections without those that a better one of their class overlaps, and no more than it may have."""

    @abstractmethod
    def dense_parts(self) -> list[nn.Module]:
        """The parts that see whole images: their number format and layout are those of `compute`."""

    @abstractmethod
    def fold_norms(self) -> None:
        """Make frozen norms part of the convolutions before them; the model can no longer be trained or saved."""

    def class_axes(self) -> dict[str, Axis]:
        """Which of its tensors go by classes."""
        return {}

    def inherits(self) -> Sequence[tuple[str, str]]:
        """Prefixes of its own tensors, and of those that they start as where weights do not have their own."""
        return ()

    def use(self, compute: Compute) -> None:
        """Take another number format and memory layout."""
        self.compute = compute
        layout: Any = torch.channels_last if compute.channels_last else torch.contiguous_format
        for part in self.dense_parts():
            part.to(memory_format=layout)

    def compile_dense(self) -> None:
        """torch.compile of the dense parts, in place; the heads of a detector break the graph at every turn."""
        for part in self.dense_parts():
            part.compile(dynamic=True)

    def learn(self, names: Sequence[str]) -> None:
        """Let the named parts of the model learn, and freeze the rest: no gradient, and norms as at inference.

        Args:
            names: of modules, such as semantic_head or detector.roi_heads.
        Raises:
            InputError: there is no such part, or nothing in it can learn.
        """
        parts = _parts(self)
        for name in names:
            if name not in parts:
                raise InputError(f"stages: train: the model has no part '{name}'{nearest(name, parts)}")
        learning = {parameter for name in names for parameter in parts[name].parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter in learning)
        for name in names:
            if not learns(parts[name]):
                raise InputError(f"stages: train: all of {name} is frozen in this model: name another part")
        still = [module for module in self.modules() if _has_parameters(module) and not learns(module)]
        self._frozen = [inner for module in still for inner in module.modules()]
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """As of any module; what `learn` has frozen stays as at inference."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def _batch(self, images: Sequence[torch.Tensor]) -> ImageList:
        """Normalise and pad to multiples of 32, right and below. Not resized: they have the size that the recipe wants."""
        mean, std = (images[0].new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (-(-max(sides) // _MULTIPLE) * _MULTIPLE for sides in zip(*sizes, strict=True))
        tensors = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for padded, image in zip(tensors, images, strict=True):
            padded[:, : image.shape[-2], : image.shape[-1]] = (image - mean) / std
        if self.training and tensors[:, 0].numel() <= _MULTIPLE**2:
            tensors = F.pad(tensors, (0, _MULTIPLE))  # BatchNorm wants more than the one value that is left of it at 1/32
        if self.compute.channels_last:
            tensors = tensors.contiguous(memory_format=torch.channels_last)
        return ImageList(tensors, sizes)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.compute.precision == "bfloat16")


def _parts(network: Network) -> dict[str, nn.Module]:
    """The parts that a recipe can name: children and their children, as far as they have parameters."""
    return {
        name: module for name, module in network.named_modules() if name and name.count(".") < 2 and _has_parameters(module)
    }


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def learns(*modules: nn.Module) -> bool:
    """Whether a parameter of some modules has a gradient."""
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())


def with_gradient(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The losses that a part learns from; all of them where gradient is not asked for."""
    return {name: loss for name, loss in losses.items() if loss.requires_grad or not torch.is_grad_enabled()}


def total_loss(losses: Mapping[str, torch.Tensor], weights: Losses) -> torch.Tensor:
    """The sum over kinds of a weight times the mean over the kind's parts: `mask.1` and `mask.2` count half of `mask` each."""
    counts = Counter(map(kind_of, losses))
    return sum(
        (getattr(weights, kind_of(name)) / counts[kind_of(name)] * loss for name, loss in losses.items()),
        torch.zeros((), device=next(iter(losses.values())).device),
    )


def kind_of(loss: str) -> str:
    """`mask.2` is one of the kind `mask`."""
    return loss.partition(".")[0]
