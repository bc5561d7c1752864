"""How training images vary: size, crop, mirroring, colours and copy-paste, on image, map, boxes and masks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as F

from imptool.data.images import resized_size
from imptool.data.label_set import LabelSet
from imptool.recipe import Augment, Input

Target = dict[str, torch.Tensor]


@dataclass(frozen=True)
class View:
    """What of an image a sample shows: a window of it, after it was resized.

    The window is cut while maps and masks are resized, not afterwards: a street scene of 2048x4096 has dozens of masks, and
    a crop shows a sixteenth of each.

    size: (height, width) of the whole image after resizing.
    window: (top, left, height, width) in pixels of that.
    """

    size: tuple[int, int]
    window: tuple[int, int, int, int]

    @property
    def is_whole(self) -> bool:
        return self.window == (0, 0, *self.size)

    def cut(self, resized: np.ndarray) -> np.ndarray:
        """The window of an image [H, W, ...] that has been resized."""
        top, left, height, width = self.window
        return resized[top : top + height, left : left + width]

    def sample(self, values: np.ndarray) -> np.ndarray:
        """The window of a map [h, w] of the image's size: of every pixel the one nearest to its centre."""
        top, left, height, width = self.window
        rows = _nearest(top, height, values.shape[0], self.size[0])
        columns = _nearest(left, width, values.shape[1], self.size[1])
        return values[rows][:, columns]

    def move_box(self, box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
        """A box (xyxy) in an image of `size` -> the box in the window; what lies outside keeps its place outside."""
        top, left = self.window[:2]
        scale = np.array([self.size[1] / size[1], self.size[0] / size[0]] * 2)
        return np.asarray(box) * scale - np.array([left, top] * 2)


def _nearest(start: int, count: int, source: int, resized: int) -> np.ndarray:
    """The source index of `count` resized ones from `start`: the pixel that holds the centre, in whole numbers."""
    return ((2 * np.arange(start, start + count) + 1) * source) // (2 * resized)


def draw_view(size: tuple[int, int], resize: Input, augment: Augment, rng: np.random.Generator) -> View:
    """Draw a short side and a crop for an image of `size`; without those of `augment` it is what inference sees."""
    short_side = resize.short_side
    if augment.short_sides:
        short_side = int(rng.choice(augment.short_sides))
    elif augment.short_side_range is not None:
        short_side = int(rng.integers(augment.short_side_range[0], augment.short_side_range[1] + 1))
    resized = resized_size(size, short_side=short_side, long_side=augment.long_side or resize.long_side)
    wanted = augment.crop or resized
    height, width = (min(side, most) for side, most in zip(wanted, resized, strict=True))
    top, left = (int(rng.integers(0, side - cut + 1)) for side, cut in zip(resized, (height, width), strict=True))
    return View(resized, (top, left, height, width))


def mirror(
    image: torch.Tensor, target: Target, labels: LabelSet, left_right: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, Target]:
    """Mirror a sample left to right; what was a left shoe becomes a right one.

    Args:
        image: [3, H, W]. target: as of `samples.Sample`.
        left_right: pairs of ids that change places.
    """
    size = (image.shape[-2], image.shape[-1])
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
    mirrored = {
        "boxes": F.horizontal_flip(boxes).as_subclass(torch.Tensor),
        "labels": target["labels"],
        "masks": F.horizontal_flip(target["masks"]),
        "semantic": F.horizontal_flip(target["semantic"]),
    }
    for left, right in left_right:
        channels = labels.ids.index(left), labels.ids.index(right)
        mirrored["semantic"] = _swap(mirrored["semantic"], *channels)
        if set(channels) <= set(labels.things):
            mirrored["labels"] = _swap(mirrored["labels"], *(labels.things.index(channel) + 1 for channel in channels))
    return F.horizontal_flip(image), mirrored


def _swap(values: torch.Tensor, one: int, other: int) -> torch.Tensor:
    return torch.where(values == one, other, torch.where(values == other, one, values))


def jitter(image: torch.Tensor, augment: Augment, rng: np.random.Generator) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue of an image [3, H, W] by drawn amounts, in a drawn order."""
    changes = [
        (F.adjust_brightness, augment.brightness, 1.0),
        (F.adjust_contrast, augment.contrast, 1.0),
        (F.adjust_saturation, augment.saturation, 1.0),
        (F.adjust_hue, augment.hue, 0.0),
    ]
    for place in rng.permutation(len(changes)):
        change, most, unchanged = changes[place]
        amount = rng.uniform(unchanged - most, unchanged + most)
        if most > 0:
            image = change(image, amount)
    return image


def paste_instances(
    image: torch.Tensor, target: Target, other_image: torch.Tensor, other_target: Target, chosen: torch.Tensor
) -> tuple[torch.Tensor, Target]:
    """Paste instances of another sample onto this one, each at its place: pixels and semantic channels, mask by mask.

    The top left corners of both fall together; what lies outside this one is cut off. Instances of this one lose the pixels
    that are covered. One that loses some gets the box of what is left of it, one that loses all is dropped. The pasted
    instances come last. Edges are not blended: in the paper it makes no difference.

    Args:
        image: [3, H, W]. other_image: [3, h, w]. Their targets: as of `samples.Sample`.
        chosen: [n] bool, which instances of the other sample are pasted.
    Source:
        Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation (CVPR 2021).
    """
    size = image.shape[1:]
    overlap = (..., slice(min(size[0], other_image.shape[1])), slice(min(size[1], other_image.shape[2])))
    others = {name: other_target[name][chosen] for name in ("boxes", "labels", "masks")}
    pasted = others["masks"].new_zeros(len(others["masks"]), *size)
    pasted[overlap] = others["masks"][overlap]
    covered = (pasted > 0).any(dim=0)
    both = [_left_of(target, target["masks"] * ~covered), _left_of(others, pasted)]
    result = {name: torch.cat([part[name] for part in both]) for name in ("boxes", "labels", "masks")}
    result["semantic"] = target["semantic"].clone()
    image = image.clone()
    for values, other in ((image, other_image), (result["semantic"], other_target["semantic"])):
        values[overlap] = torch.where(covered[overlap], other[overlap], values[overlap])
    return image, result


def _left_of(target: Target, masks: torch.Tensor) -> Target:
    """The instances of which `masks`, theirs less some pixels, still shows any."""
    areas = masks.sum(dim=(1, 2))
    kept, cut = areas > 0, areas < target["masks"].sum(dim=(1, 2))
    boxes = target["boxes"].clone()
    boxes[kept & cut] = masks_to_boxes(masks[kept & cut]) + torch.tensor([0.0, 0, 1, 1])  # far edges included
    return {"boxes": boxes[kept], "labels": target["labels"][kept], "masks": masks[kept]}
