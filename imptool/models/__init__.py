"""The networks of the IMP paper, by name. Each row is a composition of the same parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision.models.detection import MaskRCNN

from imptool.data.label_set import LabelSet
from imptool.files import InputError, nearest
from imptool.models.detector import build_detector
from imptool.models.network import Network
from imptool.models.parser import Parser
from imptool.models.semantic_heads import CanvasHead, SemanticFPNHead, SemanticP2Head
from imptool.recipe import Losses, Recipe


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
    for block in (*detector.backbone.fpn.layer_blocks[1:], detector.backbone.fpn.extra_blocks):  # P3..P5, which nothing reads
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


@dataclass(frozen=True)
class Row:
    """A model.

    build: makes it. needs_things: it detects, so that some class must be a thing. one_stage: what another stage has trained
    would not help it on. drawn: it is in the figure of the models. sections: of the recipe, which no other model knows.
    """

    build: Callable[[Recipe, LabelSet], Network]
    needs_things: bool = True
    one_stage: bool = False
    drawn: bool = True
    sections: tuple[str, ...] = ()


MODELS: dict[str, Row] = {
    "mask-rcnn": Row(build_mask_rcnn, one_stage=True),
    "mask-rcnn-imp": Row(build_mask_rcnn_imp, one_stage=True),
    "semantic-p2": Row(build_semantic_p2, needs_things=False, one_stage=True),
    "semantic-fpn": Row(build_semantic_fpn, needs_things=False, one_stage=True),
    "panoptic-p2": Row(build_panoptic_p2),
    "panoptic-p2-imp": Row(build_panoptic_p2_imp),
    "panoptic-fpn": Row(build_panoptic_fpn),
    "panoptic-fpn-imp": Row(build_panoptic_fpn_imp),
}


def find_model(name: str) -> Row:
    """A model by its name in the paper; InputError names the nearest known one."""
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'{nearest(name, MODELS)}")
    return MODELS[name]


def build_model(name: str, recipe: Recipe, labels: LabelSet, *, pretrained: bool) -> Network:
    """Build a model for the classes of a dataset; without `pretrained` the backbone's weights are left to the caller.

    Raises:
        InputError: there is no such model, no class that it needs, or the recipe has a section that it knows nothing of.
    """
    row = find_model(name)
    if row.needs_things and not labels.things:
        raise InputError(f"{name} detects things, and no class is one: set thing: true, or train semantic-fpn")
    for section in {section for other in MODELS.values() for section in other.sections} - set(row.sections):
        if getattr(recipe, section) != Recipe.model_fields[section].default:
            raise InputError(f"{section}: {name} knows nothing of it: {_models_with(section)}")
    if not pretrained:
        recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"weights": "none"})})
    network = row.build(recipe, labels)
    unknown = set(network.loss_kinds) - Losses.model_fields.keys()
    assert not unknown, f"losses without a weight in the recipe: {unknown}"
    return network


def _models_with(section: str) -> str:
    return f"it is for {', '.join(name for name, row in MODELS.items() if section in row.sections)}"


def _detector(recipe: Recipe, labels: LabelSet) -> MaskRCNN:
    return build_detector(recipe.backbone, recipe.detector, recipe.input, num_things=len(labels.things), panet=recipe.panet)


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
