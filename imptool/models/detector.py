"""The detector that all models share: torchvision's Mask R-CNN on a backbone with FPN, built from a recipe's sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.poolers import initLevelMapper

from imptool.models.backbone import build_backbone
from imptool.recipe import Backbone, Detector, Input

_FPN_LEVELS = (2, 3, 4, 5)  # that regions are pooled from: P2..P5, 1/4 .. 1/32 of the input
_SMALLEST_SIDE = 0.01  # px; torchvision drops boxes with a smaller one
_MASK_SIDE = 28  # cells of a detection's mask

Detections = list[dict[str, torch.Tensor]]


def build_detector(backbone: Backbone, detector: Detector, size: Input, *, num_things: int) -> MaskRCNN:
    """Build Mask R-CNN for `num_things` classes (labels 1..num_things; 0 is the detector's background).

    Prediction layers start as normal(0, 0.01) (section 4.1 of the paper).
    """
    channels = backbone.fpn_channels
    mask_channels = detector.mask_channels
    pyramid = build_backbone(backbone)
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
        box_head=TwoMLPHead(channels * 7 * 7, detector.box_features),
        box_predictor=FastRCNNPredictor(detector.box_features, num_things + 1),
        mask_head=MaskRCNNHeads(channels, mask_channels, dilation=1),
        mask_predictor=MaskRCNNPredictor(mask_channels[-1], mask_channels[-1], num_things + 1),
    )
    for pooler in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
        # Else torchvision guesses them from the first image that comes, wrongly from a strip that is padded to twice its width.
        pooler.scales = [2.0**-level for level in _FPN_LEVELS]
        pooler.map_levels = initLevelMapper(_FPN_LEVELS[0], _FPN_LEVELS[-1])
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        init_prediction_layer(layer)
    init_prediction_layer(model.roi_heads.mask_predictor.mask_fcn_logits)
    return model


def init_prediction_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Normal(0, 0.01) weights and zero bias (section 4.1 of the paper)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def detect(
    roi_heads: RoIHeads,
    features: dict[str, torch.Tensor],
    proposals: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
) -> Detections:
    """What `roi_heads` detects at inference, with gradient to scores and masks where gradient is enabled.

    torchvision's own way through all proposals keeps a graph for every one of them, and its backward goes through all. Only
    the few that become detections have a gradient, so they alone go through the box head once more to be differentiated.

    Args:
        features: FPN levels, float32.
        proposals: [P, 4] of each image, xyxy in resized pixels.
        image_sizes: (height, width) of each image, without padding.
    Returns:
        boxes [N, 4], labels [N] 1..K, scores [N] (best first) and masks [N, 1, 28, 28] of each image; boxes have no gradient.
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
    found_boxes = [found["boxes"] for found in detections]
    masks = masks_in_boxes(roi_heads, features, found_boxes, [found["labels"] for found in detections], image_sizes)
    for found, probabilities in zip(detections, masks, strict=True):
        found["masks"] = probabilities
    return detections


def masks_in_boxes(
    roi_heads: RoIHeads,
    features: dict[str, torch.Tensor],
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
    roi_heads: RoIHeads, features: dict[str, torch.Tensor], boxes: list[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
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
