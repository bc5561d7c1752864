"""One network for all models of the paper: a detector, and where they are wanted a semantic head and a canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN

from imptool.projection import InstanceMaskProjection

STRIDE = 4  # P2, the canvas and the logits have a quarter of the input's height and width
_LOSS_NAMES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "classifier",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}

Detections = list[dict[str, torch.Tensor]]


class Parser(nn.Module):
    """Detector, then semantic head on the FPN levels, with the projected masks as a further feature (Figures 3 and 4).

    Args:
        detector: torchvision's Mask R-CNN, whose parts are called one by one. Without its `rpn` and `roi_heads` (both None)
            nothing is detected: the semantic models, which keep its transform and backbone.
        semantic_head: FPN levels and canvas -> logits; None leaves the detector alone. One without parameters has no loss.
        canvas_layers: number of thing classes; 0 projects nothing.
        proposals: how many of the best proposals of an image the projected detections come from while training, which has
            more of them than inference: the canvas should be the same.
        sampling: how masks are projected, see `projection.project_masks`.
        detach: the semantic loss stops at the canvas.
    """

    def __init__(
        self,
        detector: MaskRCNN,
        semantic_head: nn.Module | None = None,
        *,
        canvas_layers: int = 0,
        proposals: int = 0,
        sampling: str = "cells",
        detach: bool = False,
    ) -> None:
        super().__init__()
        self.detector, self.semantic_head = detector, semantic_head
        self.projection = InstanceMaskProjection(canvas_layers, sampling) if canvas_layers else None
        self.proposals, self.detach = proposals, detach

    @property
    def detects(self) -> bool:
        return self.detector.roi_heads is not None

    def forward(
        self, images: Sequence[torch.Tensor], targets: Sequence[dict[str, torch.Tensor]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Losses of a batch in training.

        Args:
            images: [3, H, W] each, 0..1, already resized.
            targets: boxes, labels, masks, semantic of each image (see `data.samples.Sample`).
        Returns:
            The losses by name, and the canvas [B, K, H/4, W/4] that was projected (None without one).
        """
        instances = [{name: value for name, value in target.items() if name != "semantic"} for target in targets]
        batch, instances = self.detector.transform(list(images), instances)
        features = self.detector.backbone(batch.tensors)
        named, proposals = {}, []
        if self.detects:
            proposals, losses = self.detector.rpn(batch, features, instances)
            _, roi_losses = self.detector.roi_heads(features, proposals, batch.image_sizes, instances)
            named = {_LOSS_NAMES[name]: loss for name, loss in {**losses, **roi_losses}.items()}
        if self.semantic_head is None or not any(True for _ in self.semantic_head.parameters()):
            return named, None
        canvas = None
        if self.projection:
            best = [boxes[: self.proposals] for boxes in proposals]  # the RPN sorts them by score
            canvas = self.project(self._detections(features, best, batch.image_sizes), features["0"])
        logits = upsample(self.semantic_head(features, canvas))
        semantic = pad_maps([target["semantic"] for target in targets], logits.shape[-2:])
        named["semantic"] = semantic_loss(logits, semantic)
        return named, canvas

    @torch.no_grad()
    def infer(self, image: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor | None, torch.Tensor | None]:
        """Parse one resized image [3, H, W]; one image at a time, so that padding depends on nothing but its own size.

        Returns:
            Detections (boxes [N, 4] xyxy in resized pixels, labels [N] 1..K, scores [N], masks [N, 1, 28, 28] probabilities),
            logits [classes, H, W] and canvas [K, H/4, W/4] (padding included), None where the model has none.
        """
        batch, _ = self.detector.transform([image])
        features = self.detector.backbone(batch.tensors)
        detections = [_nothing(features["0"])]
        if self.detects:
            proposals, _ = self.detector.rpn(batch, features)
            detections = self._detections(features, proposals, batch.image_sizes)
        if self.semantic_head is None:
            return detections[0], None, None
        canvas = self.project(detections, features["0"]) if self.projection else None
        height, width = batch.image_sizes[0]
        logits = upsample(self.semantic_head(features, canvas))[0, :, :height, :width]
        return detections[0], logits, None if canvas is None else canvas[0]

    def _detections(
        self, features: dict[str, torch.Tensor], proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> Detections:
        """Detections as at inference, with gradient through masks and scores while training."""
        roi_heads = self.detector.roi_heads
        training, roi_heads.training = (
            roi_heads.training,
            False,
        )  # the flag alone: it selects what comes out, no layer's mode
        try:
            detections, _ = roi_heads(features, proposals, image_sizes)
        finally:
            roi_heads.training = training
        return detections

    def project(self, detections: Detections, p2: torch.Tensor) -> torch.Tensor:
        """Project the detections of a batch, boxes in resized pixels, onto a canvas [B, K, H, W] of P2's size (section 3.1)."""
        assert self.projection is not None
        counts = torch.tensor([len(found["boxes"]) for found in detections], device=p2.device)
        masks = torch.cat([found["masks"][:, 0] for found in detections])
        scores = torch.cat([found["scores"] for found in detections])
        return self.projection(
            torch.cat([found["boxes"] for found in detections]).detach() / STRIDE,
            torch.cat([found["labels"] for found in detections]) - 1,
            scores.detach() if self.detach else scores,
            masks.detach() if self.detach else masks,
            torch.repeat_interleave(torch.arange(len(detections), device=p2.device), counts),
            size=(p2.shape[-2], p2.shape[-1]),
            batch=len(detections),
        )


def _nothing(like: torch.Tensor) -> dict[str, torch.Tensor]:
    """The detections of an image in which there are none."""
    shapes = {"boxes": (0, 4), "labels": (0,), "scores": (0,), "masks": (0, 1, 28, 28)}
    return {name: like.new_zeros(shape, dtype=torch.int64 if name == "labels" else None) for name, shape in shapes.items()}


def upsample(logits: torch.Tensor) -> torch.Tensor:
    """Logits at 1/4 -> logits at the padded input size, bilinear."""
    return F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def pad_maps(maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """Semantic maps [H, W] of several sizes -> one tensor [B, *size], padded right and below with the ignored channel."""
    padded = maps[0].new_full((len(maps), *size), IGNORED)
    for row, one in zip(padded, maps, strict=True):
        row[: one.shape[0], : one.shape[1]] = one
    return padded


IGNORED = -100


def semantic_loss(logits: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
    """Cross entropy over the pixels that are not ignored; 0 when all are."""
    classes = logits.shape[1]
    target = torch.where((semantic >= 0) & (semantic < classes), semantic, IGNORED)
    total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)
