"""The detector that all models share: torchvision's Mask R-CNN on a ResNet with FPN, built from a recipe's sizes."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from imptool.files import InputError
from imptool.recipe import Backbone, Detector, Input

_NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": lambda channels: nn.GroupNorm(32, channels)}
_LEVELS = ("layer1", "layer2", "layer3", "layer4")


def build_detector(backbone: Backbone, detector: Detector, size: Input, *, num_things: int) -> MaskRCNN:
    """Build Mask R-CNN for `num_things` classes (labels 1..num_things; 0 is the detector's background).

    Prediction layers start as normal(0, 0.01) (section 4.1 of the paper).
    """
    channels = backbone.fpn_channels
    mask_channels = detector.mask_channels
    model = MaskRCNN(
        build_backbone(backbone),
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
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        init_prediction_layer(layer)
    init_prediction_layer(model.roi_heads.mask_predictor.mask_fcn_logits)
    return model


def build_backbone(backbone: Backbone) -> BackboneWithFPN:
    """A ResNet with FPN levels P2..P6; the stem and first block are frozen with frozen BatchNorm, as in maskrcnn-benchmark."""
    body = getattr(torchvision.models, backbone.name)(weights=None, norm_layer=_NORMS[backbone.norm])
    load_backbone_weights(body, backbone)
    if backbone.norm == "frozen":
        for part in (body.conv1, body.bn1, body.layer1):
            part.requires_grad_(False)
    width = body.inplanes // 8
    return BackboneWithFPN(
        body,
        return_layers={level: str(index) for index, level in enumerate(_LEVELS)},
        in_channels_list=[width * 2**index for index in range(4)],
        out_channels=backbone.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
    )


def load_backbone_weights(body: nn.Module, backbone: Backbone) -> None:
    """Load weights by torchvision's name (downloaded once), from a local file, or none."""
    name = backbone.weights
    if name == "none":
        return
    is_file = name.endswith((".pth", ".pt", ".safetensors"))
    state = _read_weights(Path(name)) if is_file else _named_weights(backbone)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        missing, unexpected = body.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"backbone.weights: {name} holds weights of another network than {backbone.name}") from error
    missing = [key for key in missing if not key.startswith("fc.") and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in unexpected if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        wrong = f"lacks {missing[0]}" if missing else f"has an extra {unexpected[0]}"
        raise InputError(f"backbone.weights: {name} does not fit {backbone.name} with norm {backbone.norm}: it {wrong}")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"backbone.weights: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own kinds of error for a broken file
        raise InputError(f"backbone.weights: {path} is no file of tensors: {' '.join(str(error).split())[:200]}") from error
    return state


def _named_weights(backbone: Backbone) -> dict[str, torch.Tensor]:
    try:
        weights = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    except KeyError as error:
        known = ", ".join(weight.name for weight in torchvision.models.get_model_weights(backbone.name))
        raise InputError(f"backbone.weights: '{backbone.weights}' is neither a file nor one of {known}, none") from error
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise InputError(
            f"backbone.weights: {backbone.weights} could not be downloaded ({error}): "
            "name a local file, or -o backbone.weights=none -o backbone.norm=batch to train from scratch"
        ) from error
    return state


def init_prediction_layer(layer: nn.Linear | nn.Conv2d) -> None:
    """Normal(0, 0.01) weights and zero bias (section 4.1 of the paper)."""
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
