"""The detector that all models share: torchvision's Mask R-CNN on a backbone with FPN, built from a recipe's sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss, project_masks_on_boxes
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.poolers import initLevelMapper

from imptool.models.backbone import build_backbone
from imptool.models.network import Axis, Detections, Features, Targets
from imptool.models.panet import NORMS, AdaptiveRoIAlign, BottomUpPath, BoxHead, FusedMaskPredictor, MaskHead
from imptool.recipe import Backbone, Detector, Input, PANet

_FPN_LEVELS = (2, 3, 4, 5)  # that regions are pooled from: P2..P5, 1/4 .. 1/32 of the input
_SMALLEST_SIDE = 0.01  # px; torchvision drops boxes with a smaller one
_MASK_SIDE, _BOX_SIDE = 28, 7  # cells of a detection's mask, and of what the box head sees

Positives = tuple[list[torch.Tensor], list[torch.Tensor]]
"""Of each image: boxes [P, 4] that masks are learned from, and the number of the true instance of each [P]."""


def build_detector(
    backbone: Backbone, detector: Detector, size: Input, *, num_things: int, panet: PANet | None = None
) -> MaskRCNN:
    """Build Mask R-CNN for `num_things` classes (labels 1..num_things; 0 is the detector's background).

    Prediction layers start as normal(0, 0.01) (section 4.1 of the paper).
    """
    panet = panet or PANet()
    norm = NORMS[panet.norm]
    if panet.norm == "sync":  # nothing is frozen (PANet, section 4.2)
        backbone = backbone.model_copy(update={"norm": "batch"})
    path = BottomUpPath(backbone.fpn_channels, norm) if panet.bottom_up else None
    pyramid = build_backbone(backbone, norm=norm, extra_blocks=path)
    pools = {name: _pooler(side) for name, side in (("box_roi_pool", _BOX_SIDE), ("mask_roi_pool", _MASK_SIDE // 2))}
    model = MaskRCNN(
        pyramid,
        image_mean=pyramid.mean,
        image_std=pyramid.std,
        min_size=size.short_side,
        max_size=size.long_side,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in detector.anchor_sizes), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=detector.proposals_before_nms_train,
        rpn_pre_nms_top_n_test=detector.proposals_before_nms_test,
        rpn_post_nms_top_n_train=detector.proposals_train,
        rpn_post_nms_top_n_test=detector.proposals_test,
        box_batch_size_per_image=detector.rois_per_image,
        box_score_thresh=detector.score_threshold,
        box_nms_thresh=detector.nms_threshold,
        box_detections_per_img=detector.detections,
        **pools,
        **box_parts(detector, panet, backbone.fpn_channels, num_things),
        **mask_parts(detector, panet, backbone.fpn_channels, num_things),
    )
    if panet.pooling is not None:  # torchvision's constructor takes none but its own
        at_once = panet.pooling if panet.pooled_after == "align" else None
        model.roi_heads.box_roi_pool = AdaptiveRoIAlign(_BOX_SIDE, at_once)
        model.roi_heads.mask_roi_pool = AdaptiveRoIAlign(_MASK_SIDE // 2, at_once)
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        init_prediction_layer(layer)
    init_prediction_layer(model.roi_heads.mask_predictor.mask_fcn_logits)
    return model


def box_parts(detector: Detector, panet: PANet, channels: int, num_things: int) -> dict[str, nn.Module]:
    """The parts of `MaskRCNN` that give classes and boxes, by its names for them; `channels` are those of a level."""
    width, pooling = detector.box_features, _pooling_in_heads(panet)
    head: nn.Module = (
        TwoMLPHead(channels * _BOX_SIDE**2, width)
        if pooling is None and not panet.heavy_head
        else BoxHead(channels, width, side=_BOX_SIDE, heavy=panet.heavy_head, norm=NORMS[panet.norm], pooling=pooling)
    )
    return {"box_head": head, "box_predictor": FastRCNNPredictor(width, num_things + 1)}


def mask_parts(detector: Detector, panet: PANet, channels: int, num_things: int) -> dict[str, nn.Module]:
    """The parts of `MaskRCNN` that give masks, by its names for them; `channels` are those of a level."""
    widths, pooling = detector.mask_channels, _pooling_in_heads(panet)
    last, classes = widths[-1], num_things + 1
    if pooling is None and panet.fusion is None and panet.norm == "none":
        head: nn.Module = MaskRCNNHeads(channels, widths, dilation=1)
    else:
        start = panet.fusion_from if panet.fusion is not None else None
        head = MaskHead(channels, widths, norm=NORMS[panet.norm], pooling=pooling, fusion_from=start)
    if panet.fusion is None:
        return {"mask_head": head, "mask_predictor": MaskRCNNPredictor(last, last, classes)}
    return {"mask_head": head, "mask_predictor": FusedMaskPredictor(last, last, classes, panet.fusion)}


def _pooling_in_heads(panet: PANet) -> str | None:
    """How the heads fuse levels; None where they get one tensor."""
    return panet.pooling if panet.pooled_after == "first" else None


def _pooler(side: int) -> MultiScaleRoIAlign:
    """[N, C, side, side] of boxes, each from the level that fits its size."""
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=side, sampling_ratio=2)
    # Else torchvision guesses them from the first image that comes, wrongly from a strip that is padded to twice its width.
    pooler.scales = [2.0**-level for level in _FPN_LEVELS]
    pooler.map_levels = initLevelMapper(_FPN_LEVELS[0], _FPN_LEVELS[-1])
    return pooler


def detector_axes() -> dict[str, Axis]:
    """Which tensors of a detector go by its classes, the background first."""
    one, box = Axis("things", start=1), Axis("things", start=1, each=4)
    layers = {"box_predictor.cls_score": one, "box_predictor.bbox_pred": box, "mask_predictor.mask_fcn_logits": one}
    return {f"roi_heads.{layer}.{kind}": axis for layer, axis in layers.items() for kind in ("weight", "bias")}


def init_prediction_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Normal(0, 0.01) weights and zero bias (section 4.1 of the paper)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def roi_losses(
    roi_heads: RoIHeads,
    features: Features,
    proposals: Sequence[torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
    targets: Targets,
) -> tuple[dict[str, torch.Tensor], Positives]:
    """What the box head learns from a batch: torchvision's losses, to the bit.

    Args:
        features: FPN levels, float32. proposals: [P, 4] of each image. image_sizes: (height, width) without padding.
        targets: boxes [N, 4] and labels [N] 1..K of each image.
    Returns:
        `classifier` and `box`, and the positives among the proposals that were sampled, which masks are learned from.
    """
    sampled, matched, labels, deltas = roi_heads.select_training_samples(list(proposals), targets)
    classifier, box = fastrcnn_loss(*_classify(roi_heads, features, sampled, image_sizes), labels, deltas)
    positive = [torch.where(each > 0)[0] for each in labels]
    boxes = [each[rows] for each, rows in zip(sampled, positive, strict=True)]
    instances = [each[rows] for each, rows in zip(matched, positive, strict=True)]
    return {"classifier": classifier, "box": box}, (boxes, instances)


def mask_loss(
    roi_heads: RoIHeads,
    features: Features,
    positives: Positives,
    image_sizes: Sequence[tuple[int, int]],
    targets: Targets,
) -> torch.Tensor:
    """What the mask head learns from the positives that `roi_losses` gives: torchvision's loss, to the bit."""
    boxes, instances = positives
    logits = roi_heads.mask_predictor(roi_heads.mask_head(roi_heads.mask_roi_pool(features, boxes, image_sizes)))
    masks, labels = [target["masks"] for target in targets], [target["labels"] for target in targets]
    loss: torch.Tensor = maskrcnn_loss(logits, boxes, masks, labels, instances)
    return loss


def detect(
    roi_heads: RoIHeads, features: Features, proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
) -> Detections:
    """What `roi_heads` detects at inference, with gradient to scores and masks where gradient is enabled.

    Args:
        features: FPN levels, float32.
        proposals: [P, 4] of each image, xyxy in resized pixels.
        image_sizes: (height, width) of each image, without padding.
    """
    with still_statistics(roi_heads):
        detections = detect_boxes(roi_heads, features, proposals, image_sizes)
        boxes, labels = ([found[name] for found in detections] for name in ("boxes", "labels"))
        masks = mask_probabilities(roi_heads, features, boxes, labels, image_sizes)
    return [{**found, "masks": own} for found, own in zip(detections, masks, strict=True)]


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm as at inference: what is detected while training is what inference detects, and moves no statistics."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def detect_boxes(
    roi_heads: RoIHeads, features: Features, proposals: list[torch.Tensor], image_sizes: list[tuple[int, int]]
) -> Detections:
    """As `detect`, without masks; boxes have no gradient.

    torchvision's own way through all proposals keeps a graph for every one of them, and its backward goes through all. Only
    the few that become detections have a gradient, so they alone go through the box head once more to be differentiated.
    """
    with torch.no_grad():
        logits, deltas = _classify(roi_heads, features, proposals, image_sizes)
        counts = [len(boxes) for boxes in proposals]
        boxes = roi_heads.box_coder.decode(deltas, proposals).reshape(*logits.shape, 4).split(counts)
        scores = F.softmax(logits, dim=-1).split(counts)
        kept = [select_detections(roi_heads, *image) for image in zip(boxes, scores, image_sizes, strict=True)]
        detections = [
            {"boxes": clip_boxes_to_image(all_boxes[rows, labels], size), "labels": labels, "scores": all_scores[rows, labels]}
            for (rows, labels), all_boxes, all_scores, size in zip(kept, boxes, scores, image_sizes, strict=True)
        ]
    if torch.is_grad_enabled():
        chosen = [boxes[rows] for (rows, _), boxes in zip(kept, proposals, strict=True)]
        again = F.softmax(_classify(roi_heads, features, chosen, image_sizes)[0], dim=-1)
        for found, all_scores in zip(detections, again.split([len(boxes) for boxes in chosen]), strict=True):
            found["scores"] = all_scores.gather(1, found["labels"][:, None])[:, 0]
    return detections


def mask_probabilities(
    roi_heads: RoIHeads,
    features: Features,
    boxes: Sequence[torch.Tensor],
    labels: Sequence[torch.Tensor],
    image_sizes: Sequence[tuple[int, int]],
) -> tuple[torch.Tensor, ...]:
    """Mask probabilities [N, 1, 28, 28] of the boxes [N, 4] of each image, each of its own label [N]."""
    masks = roi_heads.mask_predictor(roi_heads.mask_head(roi_heads.mask_roi_pool(features, boxes, image_sizes)))
    own = masks[torch.arange(len(masks), device=masks.device), torch.cat(list(labels))].sigmoid()
    split: tuple[torch.Tensor, ...] = own[:, None].split([len(each) for each in boxes])
    return split


def as_detection(target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The true instances of an image as a perfect detector would give them: a score of 1, and the mask that training asks for.

    Args:
        target: boxes [N, 4] xyxy in resized pixels, labels [N] 1..K, masks [N, H, W] 0 or 1.
    Returns:
        boxes [N, 4], labels [N], scores [N] and masks [N, 1, 28, 28], as `detect` gives those of an image.
    """
    boxes, labels = target["boxes"], target["labels"]
    own = torch.arange(len(boxes), device=boxes.device)
    masks = project_masks_on_boxes(target["masks"], boxes, own, _MASK_SIDE)[:, None]
    return {"boxes": boxes, "labels": labels, "scores": torch.ones_like(boxes[:, 0]), "masks": masks}


def _classify(
    roi_heads: RoIHeads, features: Features, boxes: list[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits [P, K + 1] and box deltas [P, 4 (K + 1)] of the boxes of all images."""
    logits, deltas = roi_heads.box_predictor(roi_heads.box_head(roi_heads.box_roi_pool(features, boxes, image_sizes)))
    return logits, deltas


def select_detections(
    roi_heads: RoIHeads, boxes: torch.Tensor, scores: torch.Tensor, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which (proposal, label) pairs of an image are detections, as torchvision chooses them, best first.

    Args:
        boxes: [P, K + 1, 4] decoded for every class. scores: [P, K + 1]; label 0 is the detector's background.
    Returns:
        Rows [N] of the proposals and labels [N] 1..K.
    """
    rows, labels = torch.where(scores[:, 1:] > roi_heads.score_thresh)
    labels = labels + 1
    candidates = clip_boxes_to_image(boxes[rows, labels], image_size)
    large = remove_small_boxes(candidates, min_size=_SMALLEST_SIDE)
    rows, labels, candidates = rows[large], labels[large], candidates[large]
    kept = batched_nms(candidates, scores[rows, labels], labels, roi_heads.nms_thresh)[: roi_heads.detections_per_img]
    return rows[kept], labels[kept]
