"""Test-time augmentation: one parsing of an image from several views of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from imptool.data.tta import Tta
from imptool.models.network import Inferred, Network

_MASK = (28, 28)  # cells of a mask, as torchvision's heads give them
_LEAST = 1e-30  # whose logarithm is finite


@torch.no_grad()
def infer_views(model: Network, scaled: Sequence[Sequence[torch.Tensor]], tta: Tta) -> Inferred:
    """Parse all views of some images, and merge what is found.

    Class probabilities are averaged at the size of the largest view, to which those of the others are resized bilinearly: it
    is where the network has seen most. Their sum is all that is kept, whatever the number of views. Given is the logarithm of
    the mean, so that what follows need not know: averaging equal views changes no pixel.

    Detections are merged as by detectron2's `GeneralizedRCNNWithTTA`: non-maximum suppression by class over those of all
    views, with the detector's own threshold and number; then every view is asked for the masks of the boxes that are left,
    and these are averaged. For this the FPN levels of all views are kept. A view's canvas is that of its own detections.

    Args:
        scaled: at every scale of `tta` the images [3, h, w], those of a scale of one size; they are mirrored here.
    Returns:
        As `Network.infer`, at the size of the largest view, whose canvas it is; what was found in mirrored views is mirrored
        back, left and right classes with it.
    """
    size = _size(scaled[-1][0])
    total = canvas = None
    seen, found = [], []
    for images in scaled:
        for mirrored in (False, True) if tta.flip else (False,):
            encoded = model.encode([image.flip(-1) for image in images] if mirrored else images)
            view = model.decode(*encoded)
            canvas = canvas if mirrored else view.canvas
            if view.logits is not None:
                total = view.logits.new_zeros(*view.logits.shape[:2], *size) if total is None else total
                _add_probabilities(total, view.logits, tta.channels if mirrored else ())
            if model.detects:
                seen.append((encoded, mirrored))
                labels = tta.labels if mirrored else ()
                found.append([_placed(each, _size(images[0]), size, labels) for each in view.detections])
    mean = None if total is None else total.div_(tta.passes).clamp_(min=_LEAST).log_()
    if not model.detects:
        return Inferred(view.detections, mean, canvas)
    merged = [
        model.suppress({name: torch.cat([each[name] for each in of_image]) for name in of_image[0]})
        for of_image in zip(*found, strict=True)
    ]
    masks = [each["boxes"].new_zeros(len(each["boxes"]), 1, *_MASK) for each in merged]
    for (batch, features), mirrored in seen:
        views = [_placed(each, size, batch.image_sizes[0], tta.labels if mirrored else ()) for each in merged]
        own = model.masks(batch, features, [each["boxes"] for each in views], [each["labels"] for each in views])
        for mask, added in zip(masks, own, strict=True):
            mask += (added.flip(-1) if mirrored else added) / tta.passes
    return Inferred([{**each, "masks": mask} for each, mask in zip(merged, masks, strict=True)], mean, canvas)


def _size(image: torch.Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _add_probabilities(total: torch.Tensor, logits: torch.Tensor, mirror: Sequence[int]) -> None:
    """Add the probabilities of a view to `total` [B, C, H, W], channel by channel: nothing else of its size is made."""
    probabilities = logits.softmax(dim=1)
    for channel, sums in enumerate(total.split(1, dim=1)):
        one = probabilities[:, mirror[channel], None].flip(-1) if mirror else probabilities[:, channel, None]
        sums += F.interpolate(one, size=_size(total), mode="bilinear", align_corners=False)


def _placed(
    found: dict[str, torch.Tensor], from_size: tuple[int, int], to_size: tuple[int, int], mirror: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Boxes, labels and scores in a view of another (height, width), mirrored where `mirror` says what each label is then."""
    scale = found["boxes"].new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]] * 2)
    boxes, labels = found["boxes"] * scale, found["labels"]
    if mirror:
        boxes = torch.stack([to_size[1] - boxes[:, 2], boxes[:, 1], to_size[1] - boxes[:, 0], boxes[:, 3]], dim=1)
        labels = labels.new_tensor(mirror)[labels]
    return {"boxes": boxes, "labels": labels, "scores": found["scores"]}
