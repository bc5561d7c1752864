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
    """How images become network input: the short side, unless the long side would pass its limit."""

    short_side: int = Field(default=800, ge=32, le=8192, description="px that the short side is resized to")
    long_side: int = Field(default=1333, ge=32, le=16384, description="px that the long side has at most")


Side = Annotated[int, Field(ge=32, le=16384)]


class Augment(Strict):
    """How training images vary; inference sees none of it."""

    flip: float = Field(default=0.5, ge=0, le=1, description="share of the images that are mirrored left to right")
    short_sides: list[Side] = Field(default=[], description="px; one of these, by chance, instead of input.short_side")
    short_side_range: list[Side] | None = Field(
        default=None, min_length=2, max_length=2, description="[least, most] in px; any whole short side between, by chance"
    )
    long_side: Side | None = Field(default=None, description="px; instead of input.long_side")
    crop: list[Side] | None = Field(
        default=None, min_length=2, max_length=2, description="[height, width] in px of a window drawn anywhere"
    )
    brightness: float = Field(default=0.0, ge=0, le=1, description="the largest change of brightness, as a share")
    contrast: float = Field(default=0.0, ge=0, le=1, description="the largest change of contrast, as a share")
    saturation: float = Field(default=0.0, ge=0, le=1, description="the largest change of saturation, as a share")
    hue: float = Field(default=0.0, ge=0, le=0.5, description="the largest turn of the hue, as a share of the circle")
    repeat_threshold: float = Field(
        default=0.0, ge=0, le=1, description="images of classes that a smaller share of the images shows come more often"
    )
    copy_paste: float = Field(
        default=0.0, ge=0, le=1, description="share of the images onto which instances of another image are pasted"
    )

    @model_validator(mode="after")
    def _one_way_to_draw_sides(self) -> Augment:
        if self.short_side_range is not None:
            if self.short_sides:
                raise ValueError("short_side_range and short_sides both say which short side is drawn: give one of them")
            if self.short_side_range[0] > self.short_side_range[1]:
                raise ValueError(f"short_side_range: {self.short_side_range} goes from the larger to the smaller side")
        return self


IMAGENET = "imagenet"
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101_32x8d")
_BACKBONES = (*_RESNETS, "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


class Backbone(Strict):
    """The network that gives features, with its feature pyramid (FPN)."""

    name: str = Field(
        default="resnet50",
        description="resnet18, 34, 50 or 101, resnext101_32x8d, efficientnet_lite0, 1 or 2, or any network of timm's with "
        "levels at 1/4 to 1/32, such as timm/convnext_tiny",
    )
    weights: str = Field(
        default=IMAGENET,
        description="imagenet (of torchvision, the imagenet extra or timm), one of torchvision's names, a local file, or none",
    )
    norm: Literal["frozen", "batch", "group"] = Field(
        default="frozen",
        description="frozen: BatchNorm, stem and first level stay as they are; batch: BatchNorm that trains; group: GroupNorm",
    )
    fpn_channels: int = Field(default=256, ge=32, le=4096, description="channels of every level of the pyramid")
    fpn_norm: Literal["none", "group"] = Field(
        default="none", description="group: GroupNorm behind every convolution of the pyramid; none, as in the paper"
    )

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
    """Mask R-CNN's sizes; the defaults are those of maskrcnn-benchmark, on which the paper builds."""

    # The upper bounds are far above any use: they catch the zeros too many that would ask for terabytes of memory.

    anchor_sizes: list[Annotated[int, Field(gt=0, le=16384)]] = Field(
        default=[32, 64, 128, 256, 512], min_length=5, max_length=5, description="px of the resized image, for P2 to P6"
    )
    proposals_train: int = Field(
        default=2000, ge=1, le=100_000, description="proposals of an image that are kept while training"
    )
    proposals_test: int = Field(
        default=1000, ge=1, le=100_000, description="at inference, and for what is projected while training"
    )
    proposals_before_nms_train: int = Field(
        default=2000, ge=1, le=100_000, description="proposals of each level before non-maximum suppression, while training"
    )
    proposals_before_nms_test: int = Field(default=1000, ge=1, le=100_000, description="the same at inference")
    rois_per_image: int = Field(
        default=512, ge=1, le=100_000, description="proposals of an image that box and mask heads learn from"
    )
    box_features: int = Field(default=1024, ge=1, le=16384, description="width of the two layers of the box head")
    mask_channels: list[Annotated[int, Field(gt=0, le=4096)]] = Field(
        default=[256, 256, 256, 256], min_length=1, max_length=32, description="channels of each convolution of the mask head"
    )
    score_threshold: float = Field(default=0.05, ge=0, le=1, description="only detections with a larger score are kept")
    nms_threshold: float = Field(
        default=0.5, gt=0, le=1, description="of two detections of a class whose boxes have a larger IOU, the better stays"
    )
    detections: int = Field(default=100, ge=1, le=10_000, description="of an image at most, the best ones")


class PANet(Strict):
    """PANet's parts (Liu et al. 2018) under any model with a detector or an FPN; all off by default."""

    norm: Literal["none", "group", "sync"] = Field(
        default="none",
        description="of FPN, bottom-up path, box and mask head: none, group, or sync (BatchNorm over all GPUs, in the backbone "
        "too, where nothing is frozen then)",
    )
    bottom_up: bool = Field(default=False, description="the bottom-up path N2 to N5 behind the FPN")
    pooling: Literal["max", "sum"] | None = Field(
        default=None, description="regions are pooled from all levels, which are fused by max or sum; null: from one level"
    )
    pooled_after: Literal["first", "align"] = Field(
        default="first",
        description="where levels are fused: first (after a first layer for each) or align (directly after RoIAlign)",
    )
    fusion: Literal["sum", "product", "max"] | None = Field(
        default=None,
        description="how a fully connected path is joined to the mask logits: sum, product or max; null: no such path",
    )
    fusion_from: int = Field(default=3, ge=2, le=4, description="behind which convolution of the mask head that path begins")
    heavy_head: bool = Field(default=False, description="four convolutions and one layer as box head, in place of two layers")


class Projection(Strict):
    """What reaches the canvas, in training and at inference: by default every detection, with gradient, as in the paper."""

    score_threshold: float = Field(default=0.0, ge=0, le=1, description="only detections with a larger score")
    detections: int | None = Field(default=None, ge=1, description="only so many of the best of an image; null: all")
    sampling: Literal["cells", "bilinear"] = Field(
        default="cells", description="how a mask is read: cells (the paper's) or bilinear; see kernels/README.md"
    )
    threshold: float = Field(
        default=0.25, ge=0, le=1, description="of mask-rcnn-imp alone: background where no layer of the canvas is above it"
    )
    detach: bool = Field(
        default=False, description="stop the semantic loss at the canvas instead of letting it reach masks and scores"
    )
    training: Literal["detections", "true", "mixed"] = Field(
        default="detections",
        description="what is projected while training: detections, true (the true instances), or mixed (in half the images "
        "the true instances, by chance)",
    )
    scale: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="factor of the canvas, 0 to 1, beside the features"
    )

    @field_validator("training", mode="before")
    @classmethod
    def _word_true(cls, value: object) -> object:
        return "true" if value is True else value  # as YAML reads the word


class Compute(Strict):
    """Switches for speed, on any device. Results change: by the last bits, with bfloat16 by the third digit.

    The heads of the detector stay in float32.
    """

    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of backbone and semantic head: float32 or bfloat16"
    )
    channels_last: bool = Field(default=False, description="channels last as the layout of backbone and semantic head")
    compile: bool = Field(default=False, description="torch.compile of backbone and semantic head while training")


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Losses(Strict):
    """Weights of the losses."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_older_versions(cls, values: Any) -> Any:
        if isinstance(values, dict) and "hardest" in values:
            if "ohem" in values:
                raise ValueError("hardest is called ohem now")
            return {("ohem" if key == "hardest" else key): value for key, value in values.items()}
        return values

    rpn_objectness: Weight = Field(default=1.0, description="is there an instance at an anchor?")
    rpn_box: Weight = Field(default=1.0, description="boxes of the proposals")
    classifier: Weight = Field(default=1.0, description="classes of the detections")
    box: Weight = Field(default=1.0, description="boxes of the detections")
    mask: Weight = Field(default=1.0, description="masks of the detections")
    semantic: Weight = Field(default=1.0, description="class of every pixel")
    ohem: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of an image's pixels, those of the largest semantic loss, that count (online hard example mining)",
    )


class Panoptic(Strict):
    """How a panoptic result is made of detections and label map, in eval and predict."""

    instances: Literal["detections", "components"] = Field(
        default="detections",
        description="what the things are: detections, or components (every component of a thing's class in the label map)",
    )
    confidence: float = Field(default=0.5, ge=0, le=1, description="only detections with this score at least")
    overlap: float = Field(
        default=0.5, ge=0, le=1, description="a detection of which others in front cover a larger share is left out"
    )
    stuff_area: int = Field(default=4096, ge=0, description="px of the image; of a class that is no thing, fewer are void")


class Solver(Strict):
    """The optimizer.

    `lr` is for `lr_batch` images an iteration; where `batch` is another number, it changes in proportion (the linear scaling
    rule of Goyal et al. 2017, section 3.3 of the paper). `batch` counts the images of all processes together.
    """

    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd (the paper's) or adamw")
    batch: int = Field(default=8, ge=1, le=4096, description="images of an iteration, of all processes together")
    accumulate: int = Field(default=1, ge=1, le=4096, description="parts of a batch, one after the other, to save memory")
    lr: float = Field(default=0.01, gt=0, allow_inf_nan=False, description="learning rate, for lr_batch images an iteration")
    lr_batch: int | None = Field(
        default=None, ge=1, description="with another batch the learning rate changes in proportion; null: it does not"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd; of adamw beta 1")
    weight_decay: float = Field(default=0.0001, ge=0, allow_inf_nan=False, description="of all weights but biases and norms")
    warmup: int = Field(default=500, ge=0, description="iterations in which lr grows linearly from a thousandth")
    schedule: Literal["steps", "cosine"] = Field(
        default="steps", description="steps (the paper's), or cosine: half a cosine down to 0 at each stage's end"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor of lr at each of a stage's steps (schedule: steps)")
    backbone_lr: float = Field(default=1.0, gt=0, le=1, description="share of lr that the backbone's own weights have")
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which is measured and saved; null: none",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="longer gradients are shortened to this norm; null: none"
    )


def change_panoptic(settings: Panoptic, changes: Sequence[str]) -> Panoptic:
    """Settings with changes such as panoptic.confidence=0.3.

    Raises:
        InputError: a change is of another section, or none of its keys has that name or value.
    """
    plain = {"panoptic": settings.model_dump()}
    for change in changes:
        key, value = parse_change(change)
        if not key.startswith("panoptic."):
            raise InputError(f"-o {change}: of a model that is trained, only panoptic can be changed: panoptic.confidence=0.3")
        _change(plain, key, value)
    return parse_strict(Panoptic, plain["panoptic"], source="-o panoptic")


COCO = "COCO_V1"


def is_weights_file(name: str) -> bool:
    return name.endswith((".pth", ".pt", ".safetensors"))


class Model(Strict):
    """The network that the recipe is about."""

    name: str = Field(default="panoptic-fpn-imp", description="its name in the paper; imptool list models has them")


class Stage(Strict):
    """One training stage: of the recipe's model, if it names no other.

    `from` says which weights it starts with: those of an earlier stage, torchvision's COCO_V1, a file's (.pth, .pt,
    .safetensors), or those that come with imptool (ccp-lite). Without it, those of the backbone.
    """

    model: str | None = Field(default=None, description="instead of the recipe's model.name")
    start: str | None = Field(
        default=None,
        alias="from",
        description="weights to start with: an earlier stage's, COCO_V1, a file's, or ccp-lite; null: the backbone's",
    )
    iterations: int = Field(ge=1, le=1_000_000_000, description="batches that it trains on")
    steps: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="iterations at which lr is multiplied by solver.gamma"
    )
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="instead of solver.lr")
    augment: Augment | None = Field(default=None, description="instead of the recipe's augment, as a whole")
    train: list[str] | None = Field(
        default=None,
        min_length=1,
        description="the parts of the model that learn, such as semantic_head or detector.roi_heads; all else is frozen, norms "
        "included; null: all",
    )

    @model_validator(mode="after")
    def _steps_increase(self) -> Stage:
        if self.steps != sorted(set(self.steps)):
            raise ValueError(f"steps: {self.steps} do not increase")
        return self


class Recipe(Strict):
    """An experiment: data, network and training, complete."""

    dataset: str = Field(description="YAML, folder, or a name that imptool list datasets shows")
    model: Model = Model()
    train_split: str = Field(default="train", description="split to train on")
    val_split: str = Field(default="val", description="split to measure on")
    input: Input = Input()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    detector: Detector = Detector()
    panet: PANet = PANet()
    projection: Projection = Projection()
    compute: Compute = Compute()
    losses: Losses = Losses()
    panoptic: Panoptic = Panoptic()
    solver: Solver = Solver()
    stages: dict[FileName, Stage] = Field(
        min_length=1, max_length=100, description="the stages of the training by name, one after the other"
    )
    checkpoint_every: int = Field(default=1000, ge=1, description="iterations from one checkpoint to the next")
    keep_checkpoints: int = Field(default=1, ge=1, description="checkpoints that are kept, the newest ones")
    evaluate_every: int | None = Field(
        default=None, ge=1, description="iterations; measures mIOU on the val split and keeps the best weights; null: never"
    )
    evaluate_images: int | None = Field(
        default=None, ge=1, description="images of the val split, evenly spread, that evaluate_every measures; null: all"
    )
    seed: int = Field(default=0, ge=0, lt=2**63 - 1000, description="of the first stage; each further one has the next number")

    @model_validator(mode="after")
    def _fusion_fits_the_mask_head(self) -> Recipe:
        channels, start = self.detector.mask_channels, self.panet.fusion_from
        if self.panet.fusion is None:
            return self
        if start > len(channels):
            raise ValueError(f"panet.fusion_from: {start}, and detector.mask_channels has {len(channels)} convolutions")
        if channels[start - 1] % 2:
            raise ValueError(
                f"panet.fusion halves the {channels[start - 1]} channels of detector.mask_channels: choose an even number"
            )
        return self

    @model_validator(mode="after")
    def _stages_start_from_earlier_ones(self) -> Recipe:
        earlier: list[str] = []
        for name, stage in self.stages.items():
            start = stage.start
            known = (*earlier, COCO, *shipped_weights())
            if start is not None and start not in known and not is_weights_file(start):
                raise ValueError(
                    f"stages.{name}.from: '{start}' is no earlier stage{nearest(start, known)}; "
                    "files (.pth, .pt, .safetensors) are taken as well"
                )
            earlier.append(name)
        return self

    def trains_like(self, other: Recipe) -> bool:
        """Whether both give the same weights: what is kept and measured on the way makes no difference to them."""
        aside = {"checkpoint_every": 1, "keep_checkpoints": 1, "evaluate_every": None, "evaluate_images": None}
        return self.model_copy(update=aside) == other.model_copy(update=aside)

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as `recipe.yaml` of a run holds them."""
        return self.model_dump(by_alias=True)


class About(Strict):
    """What `imptool list recipes` tells of a recipe: it stands under `about` in its YAML, and is no part of the experiment.

    So `extends` does not inherit it, and a run's recipe.yaml does not have it.
    """

    what: str = Field(description="what the recipe is, in a few words")
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="how long it trains on the machine")
    machine: str | None = Field(default=None, description="what it is trained on, or meant for")
    result: str | None = Field(default=None, description="a figure that it has reached, and on which data")

    @model_validator(mode="after")
    def _minutes_on_a_machine(self) -> About:
        if self.minutes is not None and self.machine is None:
            raise ValueError("minutes: say on which machine")
        return self


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


def recipe_names() -> list[str]:
    """The recipes that come with imptool, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_about(name: str) -> About | None:
    """What a recipe that comes with imptool says of itself; None where it says nothing."""
    return _split(RECIPES / f"{name}.yaml")[1]


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
    return nearest(Path(misspelt).stem, recipe_names())


def _split(path: Path) -> tuple[dict[str, Any], About | None]:
    """What a recipe's YAML holds of the experiment, and what it says of itself."""
    values = read_yaml(path)
    if "about" not in values:
        return values, None
    return values, parse_strict(About, values.pop("about"), source=f"{path}: about")


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise InputError(f"{path}: extends leads back to itself")
    values, _ = _split(path)
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
