"""The networks of the IMP paper, by name. Each row is a composition of the same parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.detection import MaskRCNN

from imptool.data.label_set import LabelSet
from imptool.files import InputError, nearest
from imptool.models.detector import build_detector
from imptool.models.parser import Parser
from imptool.models.semantic_heads import CanvasHead, SemanticFPNHead, SemanticP2Head
from imptool.recipe import Recipe


def build_mask_rcnn(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN alone: stage 1 of all models (section 3.3)."""
    return _parser(recipe, _detector(recipe, labels))


def build_mask_rcnn_imp(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN whose projected masks are the parsing (Figure 3a); nothing more is learned than by Mask R-CNN."""
    threshold = recipe.projection.threshold
    background = 0 if labels.background is not None else None
    head = CanvasHead(labels.things, num_classes=len(labels.classes), background=background, threshold=threshold)
    return _projecting(recipe, labels, head)


def build_semantic_p2(recipe: Recipe, labels: LabelSet) -> Parser:
    """The semantic head on P2 alone (section 3.2): neither RPN nor box nor mask heads."""
    detector = _without_heads(_detector(recipe, labels))
    for block in detector.backbone.fpn.layer_blocks[1:]:  # P3..P5, which nothing reads
        block.requires_grad_(False)
    return _parser(recipe, detector, _p2_head(recipe, labels))


def build_semantic_fpn(recipe: Recipe, labels: LabelSet) -> Parser:
    """The semantic head on P2..P5 alone (section 3.2)."""
    return _parser(recipe, _without_heads(_detector(recipe, labels)), _fpn_head(recipe, labels))


def build_panoptic_p2(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN with a semantic head on P2 (Figure 3b)."""
    return _parser(recipe, _detector(recipe, labels), _p2_head(recipe, labels))


def build_panoptic_p2_imp(recipe: Recipe, labels: LabelSet) -> Parser:
    """Panoptic-P2 whose semantic head also sees the canvas (Figure 3c)."""
    return _projecting(recipe, labels, _p2_head(recipe, labels, canvas_layers=len(labels.things)))


def build_panoptic_fpn(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN with a semantic head on P2..P5 (Figure 3d)."""
    return _parser(recipe, _detector(recipe, labels), _fpn_head(recipe, labels))


def build_panoptic_fpn_imp(recipe: Recipe, labels: LabelSet) -> Parser:
    """Panoptic-FPN whose semantic head also sees the canvas (Figure 4)."""
    return _projecting(recipe, labels, _fpn_head(recipe, labels, canvas_layers=len(labels.things)))


MODELS: dict[str, Callable[[Recipe, LabelSet], Parser]] = {
    "mask-rcnn": build_mask_rcnn,
    "mask-rcnn-imp": build_mask_rcnn_imp,
    "semantic-p2": build_semantic_p2,
    "semantic-fpn": build_semantic_fpn,
    "panoptic-p2": build_panoptic_p2,
    "panoptic-p2-imp": build_panoptic_p2_imp,
    "panoptic-fpn": build_panoptic_fpn,
    "panoptic-fpn-imp": build_panoptic_fpn_imp,
}
WITHOUT_DETECTOR = frozenset({"semantic-p2", "semantic-fpn"})
# With nothing but a detector, or without one: what another stage has trained would not help them on.
ONE_STAGE = frozenset({"mask-rcnn", "mask-rcnn-imp"}) | WITHOUT_DETECTOR


def find_model(name: str) -> Callable[[Recipe, LabelSet], Parser]:
    """The builder of a model by its name in the paper; InputError names the nearest known one."""
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'{nearest(name, MODELS)}")
    return MODELS[name]


def build_model(name: str, recipe: Recipe, labels: LabelSet, *, pretrained: bool) -> Parser:
    """Build a model for the classes of a dataset; without `pretrained` the backbone's weights are left to the caller."""
    if not labels.things and not name.startswith("semantic"):
        raise InputError(f"{name} detects things, and no class is one: set thing: true, or train semantic-fpn")
    if not pretrained:
        recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"weights": "none"})})
    return find_model(name)(recipe, labels)


def _detector(recipe: Recipe, labels: LabelSet) -> MaskRCNN:
    return build_detector(recipe.backbone, recipe.detector, recipe.input, num_things=len(labels.things))


def _without_heads(detector: MaskRCNN) -> MaskRCNN:
    detector.rpn = detector.roi_heads = None
    return detector


def _p2_head(recipe: Recipe, labels: LabelSet, *, canvas_layers: int = 0) -> SemanticP2Head:
    return SemanticP2Head(
        recipe.backbone.fpn_channels,
        num_classes=len(labels.classes),
        canvas_layers=canvas_layers,
        canvas_scale=recipe.projection.scale,
    )


def _fpn_head(recipe: Recipe, labels: LabelSet, *, canvas_layers: int = 0) -> SemanticFPNHead:
    return SemanticFPNHead(
        recipe.backbone.fpn_channels,
        num_classes=len(labels.classes),
        canvas_layers=canvas_layers,
        canvas_scale=recipe.projection.scale,
    )


def _projecting(recipe: Recipe, labels: LabelSet, head: nn.Module) -> Parser:
    return _parser(
        recipe,
        _detector(recipe, labels),
        head,
        canvas_layers=len(labels.things),
        projection=recipe.projection,
        proposals=recipe.detector.proposals_test,
    )


def _parser(recipe: Recipe, detector: MaskRCNN, head: nn.Module | None = None, **projecting: Any) -> Parser:
    return Parser(detector, head, ohem=recipe.losses.ohem, compute=recipe.compute, **projecting)
