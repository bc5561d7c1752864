"""One network for all models of the paper: a detector, and where they are wanted a semantic head and a canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList

from imptool.models.detector import Detections, as_detection, detect, masks_in_boxes
from imptool.projection import InstanceMaskProjection
from imptool.recipe import Compute, Projection

STRIDE = 4  # P2, the canvas and the logits have a quarter of the input's height and width
_LOSS_NAMES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "classifier",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}

Features = dict[str, torch.Tensor]


class Parser(nn.Module):
    """Detector, then semantic head on the FPN levels, with the projected masks as a further feature (Figures 3 and 4).

    Args:
        detector: torchvision's Mask R-CNN, whose parts are called one by one. Without its `rpn` and `roi_heads` (both None)
            nothing is detected: the semantic models, which keep its transform and backbone.
        semantic_head: FPN levels and canvas -> logits; None leaves the detector alone. One without parameters has no loss.
        canvas_layers: number of thing classes; 0 projects nothing.
        projection: what is projected, how, and whether the semantic loss reaches it.
        proposals: how many of the best proposals of an image the projected detections come from while training, which has
            more of them than inference: the canvas should be the same.
        ohem: share of an image's pixels, those of the largest loss, that make the semantic loss.
        compute: number format and memory layout of backbone and semantic head; the detector's heads stay in float32.
    """

    def __init__(
        self,
        detector: MaskRCNN,
        semantic_head: nn.Module | None = None,
        *,
        canvas_layers: int = 0,
        projection: Projection | None = None,
        proposals: int = 0,
        ohem: float = 1.0,
        compute: Compute | None = None,
    ) -> None:
        super().__init__()
        self.detector, self.semantic_head = detector, semantic_head
        self.settings = projection or Projection()
        self.projection = InstanceMaskProjection(canvas_layers, self.settings.sampling) if canvas_layers else None
        self.proposals, self.ohem = proposals, ohem
        self.use(compute or Compute())

    @property
    def detects(self) -> bool:
        return self.detector.roi_heads is not None

    def use(self, compute: Compute) -> None:
        """Take another number format and memory layout."""
        self.compute = compute
        layout = torch.channels_last if compute.channels_last else torch.contiguous_format
        for part in self._dense_parts():
            part.to(memory_format=layout)

    def compile_dense(self) -> None:
        """torch.compile of backbone and semantic head, in place; the heads of the detector break the graph at every turn."""
        for part in self._dense_parts():
            part.compile(dynamic=True)

    def _dense_parts(self) -> list[nn.Module]:
        return [part for part in (self.detector.backbone, self.semantic_head) if part is not None]

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
        batch = self._batch(images)
        features = self._features(batch)
        levels = _float32(features)
        losses: dict[str, torch.Tensor] = {}
        canvas = None
        if self.detects:
            losses, proposals = self._detector_losses(batch, levels, targets)
        if self.semantic_head is None or not any(True for _ in self.semantic_head.parameters()):
            return losses, None
        if self.projection:
            best = [boxes[: self.proposals] for boxes in proposals]  # the RPN sorts them by score
            with torch.set_grad_enabled(not self.settings.detach):
                canvas = self._training_canvas(levels, best, batch.image_sizes, targets)
        logits = self._logits(features, canvas)
        semantic = pad_maps([target["semantic"] for target in targets], logits.shape[-2:])
        losses["semantic"] = semantic_loss(logits, semantic, ohem=self.ohem)
        return losses, canvas

    @torch.no_grad()
    def infer(
        self, images: Sequence[torch.Tensor], projected: Detections | None = None
    ) -> tuple[Detections, torch.Tensor | None, torch.Tensor | None]:
        """Parse resized images [3, H, W] of one size: padding depends on nothing but that.

        Args:
            projected: what goes onto the canvas of each image in place of its own detections, all of it; in the form of these.
        Returns:
            Detections of each (boxes [N, 4] xyxy in resized pixels, labels [N] 1..K, scores [N], masks [N, 1, 28, 28]
            probabilities), logits [B, classes, H, W] and canvas [B, K, H/4, W/4] (padding included), None where there is none.
        Raises:
            ValueError: the images have several sizes.
        """
        return self.decode(*self.encode(images), projected)

    @torch.no_grad()
    def encode(self, images: Sequence[torch.Tensor]) -> tuple[ImageList, Features]:
        """The padded batch and its FPN levels: the first half of `infer`."""
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) != 1:
            raise ValueError(f"images that are parsed together must have one size, got {sorted(sizes)}")
        batch = self._batch(images)
        return batch, self._features(batch)

    @torch.no_grad()
    def decode(
        self, batch: ImageList, features: Features, projected: Detections | None = None
    ) -> tuple[Detections, torch.Tensor | None, torch.Tensor | None]:
        """What is found from FPN levels: the second half of `infer`."""
        detections = [_nothing(features["0"]) for _ in batch.image_sizes]
        if self.detects:
            levels = _float32(features)
            proposals, _ = self.detector.rpn(batch, levels)
            detections = self._detections(levels, proposals, batch.image_sizes)
        if self.semantic_head is None:
            return detections, None, None
        canvas = None
        if self.projection:
            p2 = features["0"]
            canvas = self.project(detections, p2) if projected is None else self._project_all(projected, p2)
        height, width = batch.image_sizes[0]
        return detections, self._logits(features, canvas)[..., :height, :width], canvas

    @torch.no_grad()
    def masks(
        self, batch: ImageList, features: Features, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Mask probabilities [N, 1, 28, 28] of given boxes [N, 4] and labels [N] in each image of `encode`."""
        return masks_in_boxes(self.detector.roi_heads, _float32(features), boxes, labels, batch.image_sizes)

    def _batch(self, images: Sequence[torch.Tensor]) -> ImageList:
        """Normalize and pad to multiples of 32, right and below. Not resized: they have the size that the recipe wants."""
        transform = self.detector.transform
        tensors = transform.batch_images([transform.normalize(image) for image in images], size_divisible=32)
        if self.training and tensors[:, 0].numel() <= 32 * 32:
            tensors = F.pad(tensors, (0, 32))  # BatchNorm wants more than the one value that is left of it at 1/32
        if self.compute.channels_last:
            tensors = tensors.contiguous(memory_format=torch.channels_last)
        return ImageList(tensors, [(image.shape[-2], image.shape[-1]) for image in images])

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.compute.precision == "bfloat16")

    def _features(self, batch: ImageList) -> Features:
        with self._autocast(batch.tensors.device):
            return self.detector.backbone(batch.tensors)

    def _detector_losses(
        self, batch: ImageList, levels: Features, targets: Sequence[dict[str, torch.Tensor]]
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """The five losses of Mask R-CNN, and the proposals of every image, best first."""
        instances = [{name: target[name] for name in ("boxes", "labels", "masks")} for target in targets]
        proposals, losses = self.detector.rpn(batch, levels, instances)
        _, roi_losses = self.detector.roi_heads(levels, proposals, batch.image_sizes, instances)
        return {_LOSS_NAMES[name]: loss for name, loss in {**losses, **roi_losses}.items()}, proposals

    def _detections(self, levels: Features, proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]) -> Detections:
        return detect(self.detector.roi_heads, levels, proposals, image_sizes)

    def _training_canvas(
        self,
        levels: Features,
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
        targets: Sequence[dict[str, torch.Tensor]],
    ) -> torch.Tensor:
        """The canvas of what the recipe projects while training: detections, the target's instances, or either by chance."""
        if self.settings.training == "true":
            return self._project_all([as_detection(target) for target in targets], levels["0"])
        detections = self._detections(levels, proposals, image_sizes)
        if self.settings.training == "detections":
            return self.project(detections, levels["0"])
        drawn = (torch.rand(len(targets)) < 0.5).tolist()  # on the CPU, so that every device draws the same
        shown = zip(drawn, targets, detections, strict=True)
        return self._project_all(
            [as_detection(target) if true else self._chosen(found) for true, target, found in shown], levels["0"]
        )

    def _logits(self, features: Features, canvas: torch.Tensor | None) -> torch.Tensor:
        """Logits [B, classes, H, W] at the padded input's size, float32."""
        assert self.semantic_head is not None
        with self._autocast(features["0"].device):
            logits = self.semantic_head(features, canvas)
        return upsample(logits.float())

    def project(self, detections: Detections, p2: torch.Tensor) -> torch.Tensor:
        """Project those detections of a batch that the recipe chooses, as `_project_all`."""
        return self._project_all([self._chosen(found) for found in detections], p2)

    def _project_all(self, instances: Detections, p2: torch.Tensor) -> torch.Tensor:
        """Project the instances of a batch, boxes in resized pixels, onto a canvas [B, K, H, W] of P2's size (section 3.1)."""
        assert self.projection is not None
        image_index = [torch.full_like(found["labels"], place) for place, found in enumerate(instances)]
        return self.projection(
            torch.cat([found["boxes"] for found in instances]) / STRIDE,
            torch.cat([found["labels"] for found in instances]) - 1,
            torch.cat([found["scores"] for found in instances]),
            torch.cat([found["masks"][:, 0] for found in instances]),
            torch.cat(image_index),
            size=(p2.shape[-2], p2.shape[-1]),
            batch=len(instances),
        )

    def _chosen(self, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Those of an image's detections, best first, that the recipe projects."""
        if self.settings.score_threshold > 0:
            above = found["scores"] > self.settings.score_threshold
            found = {name: value[above] for name, value in found.items()}
        return {name: value[: self.settings.detections] for name, value in found.items()}


def _float32(features: Features) -> Features:
    """The levels as the detector's heads take them; RoIAlign would make one contiguous at every call."""
    return {name: level.float().contiguous() for name, level in features.items()}


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


def semantic_loss(logits: torch.Tensor, semantic: torch.Tensor, *, ohem: float = 1.0) -> torch.Tensor:
    """Cross entropy over the pixels that are not ignored, or over those of the largest loss; 0 when all are ignored.

    Args:
        logits: [B, C, H, W].
        semantic: [B, H, W] channels; every other value is ignored.
        ohem: share of each image's pixels that count, those of the largest loss (hard bootstrapping, section 4.3). By
            image is ours.
    """
    target = torch.where((semantic >= 0) & (semantic < logits.shape[1]), semantic, IGNORED)
    if ohem >= 1:
        total = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)
    losses = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none").flatten(1)
    counts = (ohem * (target != IGNORED).flatten(1).sum(1)).ceil().long()
    ordered = losses.sort(dim=1, descending=True).values  # ignored pixels have 0 and come last
    counted = torch.arange(ordered.shape[1], device=ordered.device) < counts[:, None]
    return (ordered * counted).sum() / counts.sum().clamp(min=1)
