"""Parsing one image at its own resolution: what eval and predict share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from imptool import distributed
from imptool.data.prediction import Prediction
from imptool.data.tta import PLAIN, Tta
from imptool.files import InputError
from imptool.models.network import Network
from imptool.models.views import infer_views
from imptool.recipe import Input


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.local_rank():  # the first process may as well take the current device
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: use cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: the projection runs on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def choose_compute(model: Network, device: torch.device, precision: Literal["float32", "bfloat16"] | None = None) -> None:
    """Make a model ready for many images: without frozen norms, and in `precision`.

    None is bfloat16 on CUDA, else float32: few CPUs are faster in another. The model can no longer be trained or saved.
    """
    model.fold_norms()
    cuda = device.type == "cuda"
    chosen = precision or ("bfloat16" if cuda else "float32")
    model.use(model.compute.model_copy(update={"precision": chosen, "channels_last": cuda or model.compute.channels_last}))


def parse_image(
    model: Network,
    image: np.ndarray,
    size: Input,
    *,
    device: torch.device,
    tta: Tta = PLAIN,
    projected: Mapping[str, torch.Tensor] | None = None,
    confidence: bool = False,
) -> Prediction:
    """Parse an image [H, W, 3] uint8 RGB with a model in eval mode; the logits are resized bilinearly to its resolution.

    Args:
        projected, confidence: as of `parse_resized`, of this image.
    """
    views, full = tta.resize(image, size), (image.shape[0], image.shape[1])
    shown = None if projected is None else [projected]
    return parse_resized(model, [views], [full], device=device, tta=tta, projected=shown, confidence=confidence)[0]


def parse_resized(
    model: Network,
    resized: Sequence[Sequence[np.ndarray]],
    sizes: Sequence[tuple[int, int]],
    *,
    device: torch.device,
    tta: Tta = PLAIN,
    probabilities: bool = False,
    confidence: bool = False,
    projected: Sequence[Mapping[str, torch.Tensor]] | None = None,
) -> list[Prediction]:
    """Parse images that are resized already, together.

    Args:
        resized: the views [h, w, 3] uint8 RGB of each image, as `Tta.resize` gives them, of the same sizes for all.
        sizes: (height, width) of each image, which the results have.
        tta: what the views are; a single one is parsed as it is.
        probabilities: also give those of every class at every pixel.
        confidence: also give the probability of the class of every pixel, where the model has probabilities.
        projected: what goes onto the canvas of each in place of its own detections, which are given all the same: boxes in
            resized pixels, labels, scores and masks, as `Network.infer` takes them.
    Raises:
        ValueError: there is something to project onto several views.
    """
    if projected is not None and tta.passes > 1:
        raise ValueError(f"boxes to project have the size of one view, got {tta.passes} views")
    scaled = [[_to_device(image, device) for image in images] for images in zip(*resized, strict=True)]
    shown = None if projected is None else [{name: value.to(device) for name, value in each.items()} for each in projected]
    found = model.infer(scaled[0], shown) if tta.passes == 1 else infer_views(model, scaled, tta)
    return [
        _prediction(
            found.detections[place],
            None if found.logits is None else found.logits[place].float(),
            None if found.canvas is None else found.canvas[place],
            (resized[place][-1].shape[0], resized[place][-1].shape[1]),
            size,
            probabilities,
            confidence and model.has_probabilities,
        )
        for place, size in enumerate(sizes)
    ]


def _to_device(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """[H, W, 3] uint8 -> [3, H, W] float32, 0..1; bytes travel, floats are made on the device."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1).float().div_(255)


def _prediction(
    found: dict[str, torch.Tensor],
    logits: torch.Tensor | None,
    canvas: torch.Tensor | None,
    resized: tuple[int, int],
    size: tuple[int, int],
    probabilities: bool,
    confidence: bool,
) -> Prediction:
    height, width = size
    channels, sure = (None, None) if logits is None else _largest_channel(logits, size, confidence=confidence)
    scale = torch.tensor([width / resized[1], height / resized[0]] * 2, device=found["boxes"].device)
    return Prediction(
        size=size,
        channels=None if channels is None else channels.cpu().numpy(),
        boxes=(found["boxes"] * scale).cpu().numpy(),
        labels=found["labels"].cpu().numpy(),
        scores=found["scores"].float().cpu().numpy(),
        masks=found["masks"][:, 0].float().cpu().numpy(),
        canvas=None if canvas is None else canvas.cpu().numpy(),
        probabilities=_probabilities(logits, size) if probabilities and logits is not None else None,
        confidence=None if sure is None else sure.cpu().numpy(),
    )


def _probabilities(logits: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    full = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return full.softmax(dim=0).cpu().numpy()


def _largest_channel(
    logits: torch.Tensor, size: tuple[int, int], *, confidence: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The channel of the largest of the logits [C, h, w] after bilinear resizing: [H, W]; of equal ones the first.

    With `confidence` also its probability: 1 / sum of exp(logit - largest), which is brought up to date where the largest
    changes. Channel by channel, so that memory does not grow with their number: 24 megapixels of 59 classes are 5.7 GB.
    """
    largest = torch.full(size, -torch.inf, device=logits.device, dtype=logits.dtype)
    channels = torch.zeros(size, dtype=torch.uint8 if len(logits) <= 255 else torch.int32, device=logits.device)
    total = torch.zeros_like(largest) if confidence else None
    for channel, small in enumerate(logits):
        full = F.interpolate(small[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        channels.masked_fill_(full > largest, channel)
        if total is not None:
            above = torch.maximum(largest, full)
            total.mul_((largest - above).exp_()).add_((full - above).exp_())
        torch.maximum(largest, full, out=largest)
    return channels, None if total is None else total.reciprocal_()
