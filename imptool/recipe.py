"""Recipes: one YAML per experiment, read strictly; `extends` inherits, `-o key=value` overrides."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from imptool.files import (
    RECIPES,
    FileName,
    InputError,
    Strict,
    dump_yaml,
    find_yaml,
    nearest,
    parse_strict,
    parse_yaml,
    read_yaml,
    shipped_weights,
    whole_file,
)


class Input(Strict):
    """How photographs become network input: the short side, unless the long side would pass its limit."""

    short_side: int = Field(default=800, ge=32, le=8192)
    long_side: int = Field(default=1333, ge=32, le=16384)


Side = Annotated[int, Field(ge=32, le=16384)]


class Augment(Strict):
    """How training photographs vary; inference sees none of it."""

    flip: float = Field(default=0.5, ge=0, le=1)  # share of them that are mirrored left to right
    short_sides: list[Side] = []  # one of these in place of input.short_side
    long_side: Side | None = None  # in place of input.long_side
    crop: list[Side] | None = Field(default=None, min_length=2, max_length=2)  # height, width of a window drawn anywhere
    brightness: float = Field(default=0.0, ge=0, le=1)  # the largest change, as a share
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)  # the largest turn, as a share of the circle
    repeat_threshold: float = Field(default=0.0, ge=0, le=1)  # images of classes that a smaller share shows come more often
    copy_paste: float = Field(default=0.0, ge=0, le=1)  # share of the images onto which instances of another are pasted


IMAGENET = "imagenet"
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x8d")
_BACKBONES = (*_RESNETS, "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


class Backbone(Strict):
    """The network that gives features, with its feature pyramid (FPN)."""

    name: str = "resnet50"  # a ResNet, efficientnet_lite0..2, or any of timm's with levels at 1/4..1/32: timm/convnext_tiny
    weights: str = IMAGENET  # of torchvision, the imagenet extra or timm; or one of torchvision's names, a local file, none
    norm: Literal["frozen", "batch", "group"] = "frozen"  # frozen: BatchNorm, stem and first level stay as they are
    fpn_channels: int = Field(default=256, ge=32, le=4096)
    fpn_norm: Literal["none", "group"] = "none"

    @model_validator(mode="after")
    def _known_name(self) -> Backbone:
        if not self.name.startswith("timm/") and self.name not in _BACKBONES:
            raise ValueError(f"name: unknown backbone '{self.name}'{nearest(self.name, _BACKBONES)}; timm/NAME takes timm's")
        if self.norm == "group" and self.name not in _RESNETS:
            raise ValueError(f"norm: group is for the ResNets; {self.name} takes frozen or batch")
        return self

    @model_validator(mode="after")
    def _frozen_norm_needs_weights(self) -> Backbone:
        if self.norm == "frozen" and self.weights == "none":
            raise ValueError("norm: frozen needs pretrained weights; train from scratch with norm: batch or group")
        return self


class Detector(Strict):
    """Mask R-CNN's sizes; the defaults are those of maskrcnn-benchmark, on which the paper builds.

    The upper bounds are far above any use: they catch the zeros too many that would ask for terabytes of memory.
    """

    anchor_sizes: list[Annotated[int, Field(gt=0, le=16384)]] = Field(
        default=[32, 64, 128, 256, 512], min_length=5, max_length=5
    )  # px, P2..P6
    proposals_train: int = Field(default=2000, ge=1, le=100_000)
    proposals_test: int = Field(default=1000, ge=1, le=100_000)
    proposals_before_nms_train: int = Field(default=2000, ge=1, le=100_000)
    proposals_before_nms_test: int = Field(default=1000, ge=1, le=100_000)
    rois_per_image: int = Field(default=512, ge=1, le=100_000)
    box_features: int = Field(default=1024, ge=1, le=16384)
    mask_channels: list[Annotated[int, Field(gt=0, le=4096)]] = Field(default=[256, 256, 256, 256], min_length=1, max_length=32)
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_threshold: float = Field(default=0.5, gt=0, le=1)
    detections: int = Field(default=100, ge=1, le=10_000)


class Projection(Strict):
    """What reaches the canvas, in training and at inference: by default every detection, with gradient, as in the paper."""

    score_threshold: float = Field(default=0.0, ge=0, le=1)  # only detections with a larger score
    detections: int | None = Field(default=None, ge=1)  # only so many of the best of an image
    sampling: Literal["cells", "bilinear"] = "cells"  # cells is the paper's; see kernels/README.md
    threshold: float = Field(default=0.25, ge=0, le=1)  # of mask-rcnn-imp: background where no layer is above it
    detach: bool = False  # stop the semantic loss at the canvas instead of letting it reach masks and scores
    training: Literal["detections", "true", "mixed"] = "detections"  # mixed: in half the images the true instances, by chance
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # of the canvas, 0..1, where it stands beside the features

    @field_validator("training", mode="before")
    @classmethod
    def _word_true(cls, value: object) -> object:
        return "true" if value is True else value  # as YAML reads the word


class Compute(Strict):
    """Switches for speed, on any device. Results change: by the last bits, with bfloat16 by the third digit.

    The heads of the detector stay in float32.
    """

    precision: Literal["float32", "bfloat16"] = "float32"  # of backbone and semantic head, by autocast
    channels_last: bool = False  # memory layout of backbone and semantic head
    compile: bool = False  # torch.compile of backbone and semantic head while training


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Losses(Strict):
    """Weights of the losses."""

    rpn_objectness: Weight = 1.0
    rpn_box: Weight = 1.0
    classifier: Weight = 1.0
    box: Weight = 1.0
    mask: Weight = 1.0
    semantic: Weight = 1.0
    hardest: float = Field(default=1.0, gt=0, le=1)  # share of the pixels, those of the largest semantic loss (bootstrapping)


class Solver(Strict):
    """The optimizer.

    `lr` is for `lr_batch` images an iteration; where `batch` is another number, it changes in proportion (the linear scaling
    rule of Goyal et al. 2017, section 3.3 of the paper). `batch` counts the images of all processes together.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"  # sgd is the paper's
    batch: int = Field(default=8, ge=1, le=4096)
    accumulate: int = Field(default=1, ge=1, le=4096)  # parts of a batch that go through the network one after the other
    lr: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    lr_batch: int | None = Field(default=None, ge=1)  # batch, where it is not given
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0001, ge=0, allow_inf_nan=False)
    warmup: int = Field(default=500, ge=0)  # iterations in which lr grows linearly from a thousandth
    schedule: Literal["steps", "cosine"] = "steps"  # the paper's steps, or half a cosine down to 0 at each stage's end
    gamma: float = Field(default=0.1, gt=0, le=1)  # steps: the learning rate is multiplied by this at each of a stage's `steps`
    backbone_lr: float = Field(default=1.0, gt=0, le=1)  # share of the learning rate that the backbone's own weights have
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of a moving average of the weights, which is measured and saved
    clip_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)


COCO = "COCO_V1"


def is_weights_file(name: str) -> bool:
    return name.endswith((".pth", ".pt", ".safetensors"))


class Model(Strict):
    """The network that the recipe is about, by its name in the paper."""

    name: str = "panoptic-fpn-imp"


class Stage(Strict):
    """One training stage: of the recipe's model, if it names no other.

    `from` says which weights it starts with: those of an earlier stage, torchvision's COCO_V1, a file's (.pth, .pt,
    .safetensors), or those that come with imptool (ccp-lite). Without it, those of the backbone.
    """

    model: str | None = None
    start: str | None = Field(default=None, alias="from")
    iterations: int = Field(ge=1, le=1_000_000_000)
    steps: list[Annotated[int, Field(ge=1)]] = []
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # in place of the solver's
    augment: Augment | None = None  # in place of the recipe's

    @model_validator(mode="after")
    def _steps_increase(self) -> Stage:
        if self.steps != sorted(set(self.steps)):
            raise ValueError(f"steps: {self.steps} do not increase")
        return self


class Recipe(Strict):
    """An experiment: data, network and training, complete."""

    dataset: str
    model: Model = Model()
    train_split: str = "train"
    val_split: str = "val"
    input: Input = Input()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    detector: Detector = Detector()
    projection: Projection = Projection()
    compute: Compute = Compute()
    losses: Losses = Losses()
    solver: Solver = Solver()
    stages: dict[FileName, Stage] = Field(min_length=1, max_length=100)
    checkpoint_every: int = Field(default=1000, ge=1)  # iterations
    keep_checkpoints: int = Field(default=1, ge=1)  # of the newest
    evaluate_every: int | None = Field(default=None, ge=1)  # iterations; mIOU on the val split, the best weights are kept
    seed: int = Field(default=0, ge=0, lt=2**63 - 1000)  # each stage has its own: seed + its place

    @model_validator(mode="after")
    def _stages_start_from_earlier_ones(self) -> Recipe:
        earlier: list[str] = []
        for name, stage in self.stages.items():
            start = stage.start
            known = (*earlier, COCO, *shipped_weights())
            if start is not None and start not in known and not is_weights_file(start):
                raise ValueError(
                    f"stages.{name}.from: '{start}' is no earlier stage{nearest(start, known)}; "
                    "files (.pth, .pt, .safetensors) are taken, too"
                )
            earlier.append(name)
        return self

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as `recipe.yaml` of a run holds them."""
        return self.model_dump(by_alias=True)


Change = tuple[str, Any]
"""A key of a recipe, with dots between its parts, and its new value."""


def load_recipe(source: str, changes: Sequence[str | Change] = ()) -> Recipe:
    """Read a recipe by path or by the name of one that comes with imptool, with `extends` and changes: `key=value` or pairs.

    Raises:
        InputError: no such recipe, an unknown key (with the nearest known one) or a value outside its rule.
    """
    path = find_yaml(source, RECIPES)
    if path is None:
        raise InputError(f"no recipe {source}{_shipped_recipes(source)}")
    values, pairs = _read_extended(path, ()), [parse_change(change) for change in changes]
    for key, value in pairs:
        _change(values, key, value)
    told = [f"{key}={value}" for key, value in pairs]
    return parse_strict(Recipe, values, source=" -o ".join([str(path), *told]))


def parse_change(change: str | Change) -> Change:
    """The pair that `key=value` stands for, its value as YAML; a pair is given back."""
    if not isinstance(change, str):
        return change
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise InputError(f"-o {change}: write key=value, such as -o solver.lr=0.01")
    try:
        return key, parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"-o {change}: '{text}' is not a YAML value") from error


def write_recipe(path: Path, recipe: Recipe) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(dump_yaml(recipe.to_plain()), encoding="utf-8")


def _shipped_recipes(misspelt: str) -> str:
    return nearest(Path(misspelt).stem, [path.stem for path in RECIPES.glob("*.yaml")])


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise InputError(f"{path}: extends leads back to itself")
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.parent / str(base)
    base_path = beside if beside.is_file() else find_yaml(str(base), RECIPES)
    if base_path is None:
        raise InputError(f"{path}: extends: no file {beside}{_shipped_recipes(str(base))}")
    return _merge(_read_extended(base_path, (*seen, path.resolve())), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes win; mappings merge key by key, but for `stages`, which a recipe gives whole."""
    merged = copy.copy(base)
    for key, value in changes.items():
        both_mappings = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both_mappings and key != "stages" else value
    return merged


def _change(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        if depth == 1 and parents[0] == "stages" and parent not in values:
            raise InputError(f"-o {key}={value}: there is no stage '{parent}'{nearest(parent, values)}")
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"-o {key}={value}: {parent} is a value, not a section")
    values[last] = copy.deepcopy(value)
