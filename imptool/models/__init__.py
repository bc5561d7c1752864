"""The networks of the IMP paper, by name. Each row is a composition of the same parts."""

from __future__ import annotations

from collections.abc import Callable

from torchvision.models.detection import MaskRCNN

from imptool.data.label_set import LabelSet
from imptool.files import InputError, nearest
from imptool.models.detector import build_detector
from imptool.models.parser import Parser
from imptool.models.semantic_heads import SemanticFPNHead
from imptool.recipe import Recipe


def build_mask_rcnn(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN alone: stage 1 of all models (section 3.3)."""
    return Parser(_detector(recipe, labels))


def build_panoptic_fpn(recipe: Recipe, labels: LabelSet) -> Parser:
    """Mask R-CNN with a semantic head on P2..P5 (Figure 3d)."""
    head = SemanticFPNHead(recipe.backbone.fpn_channels, num_classes=len(labels.classes))
    return Parser(_detector(recipe, labels), head)


def build_panoptic_fpn_imp(recipe: Recipe, labels: LabelSet) -> Parser:
    """Panoptic-FPN whose semantic head also sees the canvas of projected instance masks (Figure 4)."""
    layers = len(labels.things)
    head = SemanticFPNHead(recipe.backbone.fpn_channels, num_classes=len(labels.classes), canvas_layers=layers)
    return Parser(
        _detector(recipe, labels),
        head,
        canvas_layers=layers,
        proposals=recipe.detector.proposals_test,
        sampling=recipe.projection.sampling,
        detach=recipe.projection.detach,
    )


MODELS: dict[str, Callable[[Recipe, LabelSet], Parser]] = {
    "mask-rcnn": build_mask_rcnn,
    "panoptic-fpn": build_panoptic_fpn,
    "panoptic-fpn-imp": build_panoptic_fpn_imp,
}


def find_model(name: str) -> Callable[[Recipe, LabelSet], Parser]:
    """The builder of a model by its name in the paper; InputError names the nearest known one."""
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'{nearest(name, MODELS)}")
    return MODELS[name]


def build_model(name: str, recipe: Recipe, labels: LabelSet, *, pretrained: bool) -> Parser:
    """Build a model for the classes of a dataset; without `pretrained` the backbone's weights are left to the caller."""
    if not pretrained:
        recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"weights": "none"})})
    return find_model(name)(recipe, labels)


def _detector(recipe: Recipe, labels: LabelSet) -> MaskRCNN:
    return build_detector(recipe.backbone, recipe.detector, recipe.input, num_things=len(labels.things))
