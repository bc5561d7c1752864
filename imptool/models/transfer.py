"""Weights from elsewhere: torchvision's, a local file's or another run's, fitted to a model by name, its classes by theirs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from imptool.data.label_set import LabelSet
from imptool.files import InputError, find_shipped_weights, some
from imptool.models.network import Axis, Network
from imptool.models.weights import State, download, read_safetensors, read_tensors
from imptool.recipe import COCO


@dataclass(frozen=True)
class Weights:
    """Tensors by the names that they have in a `Network`, and the classes that the prediction layers are for.

    things, channels: class names in the order of labels 1.. and of semantic channels; None where they are not known.
    canvas_scale: what the canvas was multiplied by beside the features (`projection.scale`).
    """

    state: Mapping[str, torch.Tensor]
    source: str
    things: Sequence[str] | None = None
    channels: Sequence[str] | None = None
    canvas_scale: float = 1.0

    @staticmethod
    def of_run(state: Mapping[str, torch.Tensor], labels: LabelSet, *, source: str, canvas_scale: float = 1.0) -> Weights:
        # Whatever a dataset calls its background ("null", "bg"), it is the same class.
        channels = [
            "background" if id_ == labels.background else info.name
            for id_, info in zip(labels.ids, labels.classes, strict=True)
        ]
        return Weights(state, source, [labels.names[channel] for channel in labels.things], channels, canvas_scale)


@dataclass(frozen=True)
class Fitted:
    """What a model took of weights: names of its tensors, and of classes where the two have others."""

    taken: list[str]
    partly: list[str]  # of those taken, the ones with rows or columns that stay new
    new: list[str]
    left: list[str]  # tensors of the weights
    classes: list[str]
    new_classes: list[str]
    named: bool  # whether the weights say which classes they are for

    def summary(self) -> str:
        """What a user must know, such as "takes 297 of 301 tensors; new classes: rider; new: semantic_head"."""
        parts = [f"takes {len(self.taken):,} of {len(self.taken) + len(self.new):,} tensors"]
        if not self.named:
            parts.append("it does not say for which classes it is")
        elif self.new_classes:
            parts.append(f"new classes: {some(self.new_classes, 20)}")
        if self.new:
            parts.append(f"new: {', '.join(_counted(self.new))}")
        return "; ".join(parts)

    def describe(self) -> str:
        """One long line, such as "taken: detector.backbone (279 tensors); new: semantic_head (28 tensors)"."""
        parts = [f"taken: {_parts(self.taken) or 'nothing'}"]
        if self.partly:
            parts.append(f"in part: {_parts(self.partly)}")
        if not self.named:
            parts.append("it does not say for which classes it is, so that the prediction layers are new")
        elif self.new_classes:
            parts.append(f"by class name: {', '.join(self.classes) or 'none'}; new classes: {', '.join(self.new_classes)}")
        parts.append(f"new: {_parts(self.new) or 'nothing'}")
        if self.left:
            parts.append(f"not taken: {_parts(self.left)}")
        return "; ".join(parts)


def _parts(names: Iterable[str]) -> str:
    """Tensors by the part of the model that they belong to: "semantic_head (28 tensors), detector.rpn (6 tensors)"."""
    return ", ".join(f"{part} ({count} {'tensor' if count == 1 else 'tensors'})" for part, count in _counted(names).items())


def _counted(names: Iterable[str]) -> Counter[str]:
    return Counter(".".join(name.split(".")[: 2 if name.startswith("detector.") else 1]) for name in names)


def fit_weights(model: Network, weights: Weights, labels: LabelSet) -> Fitted:
    """Load what fits into a model; the rows of prediction layers and the canvas's columns go by the names of their classes.

    Where the canvas stands beside the features at another scale, its columns are divided by as much: the head gives the same.

    Tensors are taken by name where their shape is the same; everything else of the model stays as it was initialised (the
    paper, section 4.3: COCO's prediction layers for every class of Cityscapes but Rider).
    """
    axes, ours = model.class_axes(), Weights.of_run(model.state_dict(), labels, source="the model")
    sources = _sources(ours.state, weights.state, model.inherits())
    fitted = {key: _fit(key, weights.state[source], weights, ours, axes.get(key)) for key, source in sources.items()}
    taken = {key: value for key, value in fitted.items() if value is not None}
    used = {sources[key] for key in taken}
    left = [key for key in weights.state if key not in used and not (key.endswith(_COUNTER) and key not in ours.state)]
    missing = model.load_state_dict(taken, strict=False).missing_keys
    names = [*(ours.things or ()), *(ours.channels or () if weights.channels else ())]
    known = {_plain(name) for name in (*(weights.things or ()), *(weights.channels or ()))}
    return Fitted(
        list(taken),
        [key for key in taken if key in axes and _is_partial(key, weights.state[sources[key]], weights, ours, axes[key])],
        [key for key in missing if not key.endswith(_COUNTER)],
        left,
        [name for name in dict.fromkeys(names) if _plain(name) in known],
        [name for name in dict.fromkeys(names) if _plain(name) not in known],
        weights.things is not None,
    )


def _sources(own: Mapping[str, object], theirs: Mapping[str, object], inherits: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Which tensor of the weights a model's own starts as: the one of its name, else the one that it inherits."""
    named = {key: key for key in theirs if key in own}
    for prefix, source in inherits:
        for key in own:
            other = source + key.removeprefix(prefix)
            if key.startswith(prefix) and key not in named and other in theirs:
                named[key] = other
    return named


def _fit(key: str, value: torch.Tensor, weights: Weights, ours: Weights, axis: Axis | None) -> torch.Tensor | None:
    """The tensor for a model's key: as it is, or with the rows of the classes that both have; None where nothing fits."""
    own = ours.state[key]
    if axis is None or value.ndim != own.ndim:
        return value if value.shape == own.shape else None
    dim, places, own_places = axis.dim, _class_places(axis, weights, value), _class_places(axis, ours, own)
    shared = [name for name in own_places if name in places]
    if not shared or [*value.shape[:dim], *value.shape[dim + 1 :]] != [*own.shape[:dim], *own.shape[dim + 1 :]]:
        return None
    to = torch.tensor([index for name in shared for index in own_places[name]])
    where = torch.tensor([index for name in shared for index in places[name]])
    if where.max() >= value.shape[dim]:  # the file says of itself that it has more classes than it has
        return None
    if axis.canvas_scale not in (None, weights.canvas_scale):
        value = value.clone()
        value.narrow(dim, axis.start, value.shape[dim] - axis.start).mul_(weights.canvas_scale / axis.canvas_scale)
    return own.clone().index_copy_(dim, to, value.to(own).index_select(dim, where))


def _is_partial(key: str, source: torch.Tensor, weights: Weights, ours: Weights, axis: Axis) -> bool:
    return bool(_class_places(axis, ours, ours.state[key]).keys() - _class_places(axis, weights, source).keys())


_COUNTER = "num_batches_tracked"  # a frozen BatchNorm has none, and needs none
_BEFORE = "(before the classes)"


def _class_places(axis: Axis, weights: Weights, value: torch.Tensor) -> dict[str, list[int]]:
    """Which indices of a tensor's axis belong to which class, by name, and which come before them; none of unknown classes."""
    names = weights.things if axis.kind == "things" else weights.channels
    if names is None:
        return {}
    before = {_BEFORE: list(range(axis.start * axis.each))} if axis.start else {}
    if axis.start and value.shape[axis.dim] == axis.start * axis.each:
        return before
    places = enumerate(map(_plain, names), start=axis.start)
    return before | {name: list(range(axis.each * place, axis.each * (place + 1))) for place, name in places}


def _plain(name: str) -> str:
    """Names that differ in their spelling alone are one class: "traffic light", "traffic_light", "Traffic-Light"."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def read_start(source: str, *, backbone: str) -> Weights:
    """The weights that a stage starts from: torchvision's COCO weights or imptool's own by name, or a local file.

    Args:
        source: COCO_V1, a name such as ccp-lite, or a .pth, .pt or .safetensors file: imptool's own, torchvision's Mask R-CNN
            or its like.
    Raises:
        InputError: there is no such file, it cannot be downloaded, or holds something else.
    """
    if source == COCO:
        if backbone != "resnet50":
            raise InputError(f"stages: from: {COCO}: torchvision has it for resnet50, not for {backbone}: name a local file")
        state = download(MaskRCNN_ResNet50_FPN_Weights[COCO], source)
        return _of_torchvision(state, source)
    path = find_shipped_weights(source) or Path(source)
    own = _read_own(path, source)
    return own if own is not None else _of_torchvision(read_tensors(path, setting="stages: from"), source)


def _read_own(path: Path, source: str) -> Weights | None:
    """Weights that imptool has written; None for any other file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        state, about = read_safetensors(path)
        scale = about["recipe"]["projection"].get("scale", 1.0)
        return Weights.of_run(state, LabelSet.from_plain(about["labels"]), source=source, canvas_scale=scale)
    except Exception:  # of another program, or damaged: whoever reads it next says so
        return None


_OLD_NAMES = (  # of torchvision before 0.14, in which its COCO weights are still written
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (re.compile(r"mask_head\.mask_fcn(\d)\.(weight|bias)$"), lambda found: f"mask_head.{int(found[1]) - 1}.0.{found[2]}"),
)


def _of_torchvision(state: State, source: str) -> Weights:
    """torchvision's names -> those of a Parser."""
    key = "roi_heads.box_predictor.cls_score.weight"
    for needed in (key, "backbone.body.conv1.weight"):
        if needed not in state:
            raise InputError(
                f"stages: from: {source} is no Mask R-CNN with a feature pyramid (it lacks {needed}); "
                "a backbone alone belongs in backbone.weights"
            )
    if state[key].ndim != 2:
        raise InputError(f"stages: from: {source} is no Mask R-CNN: {key} is {list(state[key].shape)}, not [classes, features]")
    categories = MaskRCNN_ResNet50_FPN_Weights[COCO].meta["categories"][1:]
    names = [f"{name} {place}" if name == "N/A" else name for place, name in enumerate(categories)]
    known = len(state[key]) == 1 + len(names)
    renamed = {f"detector.{_present_name(name)}": value for name, value in state.items()}
    return Weights(renamed, source, things=names if known else None)


def _present_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name
