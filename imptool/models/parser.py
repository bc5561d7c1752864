"""One network for all models of the paper: a detector, and where they are wanted a semantic head and a canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from imptool.models.backbone import without_frozen_norms
from imptool.models.detector import as_detection, detect, detector_axes, mask_loss, mask_probabilities, roi_losses
from imptool.models.network import Axis, Detections, Features, Inferred, Network, Targets, learns, with_gradient
from imptool.models.panet import LEVELS
from imptool.models.semantic_heads import CanvasHead, SemanticHead
from imptool.projection import InstanceMaskProjection
from imptool.recipe import Compute, Projection

STRIDE = 4  # P2, the canvas and the logits have a quarter of the input's height and width


class Parser(Network):
    """Detector, then semantic head on the FPN levels, with the projected masks as a further feature (Figures 3 and 4).

    Args:
        detector: torchvision's Mask R-CNN, whose parts are called one by one. Without its `rpn` and `roi_heads` (both None)
            nothing is detected: the semantic models, which keep its transform and backbone.
        semantic_head: FPN levels and canvas -> logits; None leaves the detector alone. A `CanvasHead` has no loss.
        canvas_layers: number of thing classes; 0 projects nothing.
        projection: what is projected, how, and whether the semantic loss reaches it.
        proposals: how many of the best proposals of an image the projected detections come from while training, which has
            more of them than inference: the canvas should be the same.
        ohem: share of an image's pixels, those of the largest loss, that make the semantic loss.
        compute: number format and memory layout of backbone and semantic head; the detector's heads stay in float32.
    """

    loss_kinds = ("rpn_objectness", "rpn_box", "classifier", "box", "mask", "semantic")

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
        super().__init__(mean=detector.transform.image_mean, std=detector.transform.image_std)
        self.detector, self.semantic_head = detector, semantic_head
        self.settings = projection or Projection()
        self.projection = InstanceMaskProjection(canvas_layers, self.settings.sampling) if canvas_layers else None
        self.proposals, self.ohem = proposals, ohem
        self.use(compute or Compute())

    @property
    def detects(self) -> bool:
        return self.detector.roi_heads is not None

    @property
    def parses(self) -> bool:
        return self.semantic_head is not None

    @property
    def has_probabilities(self) -> bool:
        return self.parses and not isinstance(self.semantic_head, CanvasHead)

    @property
    def projects(self) -> bool:
        return self.projection is not None

    def dense_parts(self) -> list[nn.Module]:
        return [part for part in (self.detector.backbone, self.semantic_head) if part is not None]

    def fold_norms(self) -> None:
        self.detector.backbone.body = without_frozen_norms(self.detector.backbone.body)

    def class_axes(self) -> dict[str, Axis]:
        axes = {f"detector.{key}": axis for key, axis in detector_axes().items()} if self.detects else {}
        head = self.semantic_head.class_axes() if isinstance(self.semantic_head, SemanticHead) else {}
        return axes | {f"semantic_head.{key}": axis for key, axis in head.items()}

    def inherits(self) -> list[tuple[str, str]]:
        """Of PANet's heads, which have a first layer for every level, each starts as the plain head's."""
        heads = "detector.roi_heads."
        box = [
            (f"{heads}box_head.first.{level}.", f"{heads}box_head.{own}.") for level in range(LEVELS) for own in ("fc6", "0")
        ]
        return [*box, *((f"{heads}mask_head.first.{level}.", f"{heads}mask_head.0.") for level in range(LEVELS))]

    def train(self, mode: bool = True) -> Parser:
        super().train(mode)
        if self.detects:  # frozen or not: by this mode torchvision chooses how many proposals there are
            self.detector.rpn.training = self.detector.roi_heads.training = mode
        return self

    def forward(self, images: Sequence[torch.Tensor], targets: Targets) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        batch = self._batch(images)
        features = self._features(batch)
        levels = _float32(features)
        losses: dict[str, torch.Tensor] = {}
        canvas = None
        if self.detects:
            losses, proposals = self._detector_losses(batch, levels, targets)
        if self.semantic_head is None or isinstance(self.semantic_head, CanvasHead):
            return with_gradient(losses), None
        if self.projection:
            best = [boxes[: self.proposals] for boxes in proposals]  # the RPN sorts them by score
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.settings.detach):
                canvas = self._training_canvas(levels, best, batch.image_sizes, targets)
        logits = self._logits(features, canvas)
        semantic = pad_maps([target["semantic"] for target in targets], logits.shape[-2:])
        losses["semantic"] = semantic_loss(logits, semantic, ohem=self.ohem)
        return with_gradient(losses), canvas

    @torch.no_grad()
    def encode(self, images: Sequence[torch.Tensor]) -> tuple[ImageList, Features]:
        batch = self._batch(images)
        return batch, self._features(batch)

    @torch.no_grad()
    def decode(self, batch: ImageList, features: Features, projected: Detections | None = None) -> Inferred:
        detections = [_nothing(features["0"]) for _ in batch.image_sizes]
        if self.detects:
            levels = _float32(features)
            proposals, _ = self.detector.rpn(batch, levels)
            detections = self._detections(levels, proposals, batch.image_sizes)
        if self.semantic_head is None:
            return Inferred(detections)
        canvas = None
        if self.projection:
            p2 = features["0"]
            canvas = self.project(detections, p2) if projected is None else self._project_all(projected, p2)
        height, width = batch.image_sizes[0]
        return Inferred(detections, self._logits(features, canvas)[..., :height, :width], canvas)

    @torch.no_grad()
    def masks(
        self, batch: ImageList, features: Features, boxes: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        return mask_probabilities(self.detector.roi_heads, _float32(features), boxes, labels, batch.image_sizes)

    def suppress(self, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        heads = self.detector.roi_heads
        kept = batched_nms(found["boxes"], found["scores"], found["labels"], heads.nms_thresh)[: heads.detections_per_img]
        return {name: values[kept] for name, values in found.items()}

    def _features(self, batch: ImageList) -> Features:
        with self._autocast(batch.tensors.device):
            return self.detector.backbone(batch.tensors)

    def _detector_losses(
        self, batch: ImageList, levels: Features, targets: Targets
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """The losses of Mask R-CNN, without those that nothing learns from, and the proposals of every image, best first."""
        instances = [{name: target[name] for name in ("boxes", "labels", "masks")} for target in targets]
        rpn, heads = self.detector.rpn, self.detector.roi_heads
        proposals, found = rpn(batch, levels, instances)
        losses = {_RPN_LOSSES[name]: loss for name, loss in found.items()}
        if learns(self.detector.backbone, heads):
            box_losses, positives = roi_losses(heads, levels, proposals, batch.image_sizes, instances)
            losses |= box_losses | {"mask": mask_loss(heads, levels, positives, batch.image_sizes, instances)}
        return losses, proposals

    def _detections(self, levels: Features, proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]) -> Detections:
        return detect(self.detector.roi_heads, levels, proposals, image_sizes)

    def _training_canvas(
        self,
        levels: Features,
        proposals: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
        targets: Targets,
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


_RPN_LOSSES = {"loss_objectness": "rpn_objectness", "loss_rpn_box_reg": "rpn_box"}  # torchvision's names


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
