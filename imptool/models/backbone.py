"""Backbones with a feature pyramid (FPN): torchvision's ResNets, EfficientNet-Lite, and timm's networks with four levels."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from imptool.files import InputError, nearest, one_line
from imptool.models.weights import State, lite_tensors, read_tensors, torchvision_tensors
from imptool.recipe import IMAGENET, Backbone, is_weights_file

_FROZEN_NORMS = {"FrozenBatchNorm2d", "FrozenBatchNormAct2d"}  # torchvision's and timm's
_STRIDES = [4, 8, 16, 32]  # of the levels that the FPN is built on: C2..C5
_NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d, "group": lambda channels: nn.GroupNorm(32, channels)}
Norm = Callable[[int], nn.Module] | None
"""Makes a norm for so many channels; None for convolutions with a bias."""
_LEVELS = ("layer1", "layer2", "layer3", "layer4")
_LITE = ([127 / 255] * 3, [128 / 255] * 3)  # its own normalisation, as in TensorFlow's EfficientNet-Lite
_OTHER_WEIGHTS = "a local file, or none (with norm: batch, from scratch), are other choices"
_PROBE = 64  # px, side of the image that a network's levels are looked at with


@dataclass(frozen=True)
class Body:
    """A network without its classifier.

    module: images [B, 3, H, W] -> {"0": [B, C2, H/4, W/4], ..., "3": [B, C5, H/32, W/32]}.
    channels: C2..C5. mean, std: that images of 0..1 are normalised with, as its weights want it.
    """

    module: nn.Module
    channels: list[int]
    mean: list[float]
    std: list[float]


class PyramidBackbone(nn.Module):
    """A network and the FPN on its levels.

    Args:
        body: the network. channels, norm: of the FPN's levels.
        first_level: the finest level of the FPN, 2 for P2.
        extra_blocks: what adds levels above P5; P6 by default, a max pool of it.
    """

    def __init__(
        self,
        body: Body,
        *,
        channels: int,
        norm: Norm = None,
        first_level: int = 2,
        extra_blocks: ExtraFPNBlock | None = None,
    ) -> None:
        super().__init__()
        self.body, self.mean, self.std = body.module, body.mean, body.std
        self.depthwise = any(
            isinstance(part, nn.Conv2d) and part.groups == part.in_channels > 1 for part in self.body.modules()
        )
        self.out_channels = channels
        self.levels = [str(level - 2) for level in range(first_level, 6)]
        extra = extra_blocks or LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(body.channels[first_level - 2 :], channels, extra, norm_layer=norm)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images [B, 3, H, W] -> P2..P6 as "0".."3" and "pool", `out_channels` each."""
        # The backward of depthwise convolutions is several times slower in bfloat16 on the CPU, where others are twice as fast.
        slower = self.depthwise and torch.is_grad_enabled()
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not slower):
            levels = self.body(images)
        return self.fpn({name: levels[name] for name in self.levels})


class TimmBody(nn.Module):
    """A network of timm's whose levels have the names that torchvision's FPN wants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """[B, 3, H, W] -> "0".."3" at 1/4, 1/8, 1/16, 1/32."""
        return OrderedDict((str(place), level) for place, level in enumerate(self.network(images)))


def build_backbone(
    backbone: Backbone, *, norm: Norm = None, first_level: int = 2, extra_blocks: ExtraFPNBlock | None = None
) -> PyramidBackbone:
    """The recipe's backbone with FPN levels P2..P6, or others; as of `build_body` and `PyramidBackbone`.

    Args:
        norm: of the pyramid, in place of the recipe's.
    """
    return PyramidBackbone(
        build_body(backbone),
        channels=backbone.fpn_channels,
        norm=norm or (_NORMS["group"] if backbone.fpn_norm == "group" else None),
        first_level=first_level,
        extra_blocks=extra_blocks,
    )


def build_body(backbone: Backbone) -> Body:
    """The recipe's network, with its weights.

    With norm `frozen`, BatchNorm keeps statistics and scale of its weights, and stem and first level (all that C2 is made of)
    do not train, as in maskrcnn-benchmark.

    Raises:
        InputError: no such network, one without levels at 1/4..1/32, or weights that are missing or of another network.
    """
    if backbone.name.startswith(("timm/", "efficientnet_lite")):
        return _build_timm(backbone)
    body = getattr(torchvision.models, backbone.name)(weights=None, norm_layer=_NORMS[backbone.norm])
    load_backbone_weights(body, backbone)
    if backbone.norm == "frozen":
        for part in (body.conv1, body.bn1, body.layer1):
            part.requires_grad_(False)
    channels = [body.inplanes // 8 * 2**place for place in range(4)]
    levels = IntermediateLayerGetter(body, {level: str(place) for place, level in enumerate(_LEVELS)})
    return Body(levels, channels, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def load_backbone_weights(body: nn.Module, backbone: Backbone) -> None:
    """Load a ResNet's weights by torchvision's name (downloaded once), from a local file, or none."""
    name = backbone.weights
    if name == "none":
        return
    if is_weights_file(name):
        state = read_tensors(name, setting="backbone.weights")
    else:
        state = torchvision_tensors(backbone.name, "IMAGENET1K_V1" if name == IMAGENET else name)
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


def _build_timm(backbone: Backbone) -> Body:
    """A network of timm's (EfficientNet-Lite is one, too), cut into its levels."""
    from timm.layers import freeze_batch_norm_2d  # timm takes a second to import, which no ResNet needs

    lite = backbone.name.startswith("efficientnet_lite")
    network = _create_timm(backbone, "tf_" + backbone.name if lite else backbone.name.removeprefix("timm/"))
    if backbone.norm == "frozen":
        network = freeze_batch_norm_2d(network)
    body, info = TimmBody(network), network.feature_info
    if info.reduction() != _STRIDES:
        raise InputError(
            f"backbone.name: {backbone.name} has levels at strides {info.reduction()}, and the FPN wants {_STRIDES}"
        )
    first = _look_at_levels(body, info.channels(), backbone.name)
    if backbone.norm == "frozen":
        for parameter in first:
            parameter.requires_grad_(False)
    mean, std = _LITE if lite else (list(network.default_cfg["mean"]), list(network.default_cfg["std"]))
    return Body(body, info.channels(), mean, std)


def _create_timm(backbone: Backbone, name: str) -> Any:
    """timm's network with the weights that the recipe names: timm's own, a local file's, a package's, or none."""
    import timm

    weights, state = backbone.weights, None
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise InputError(f"backbone.name: timm has no network '{name}'{nearest(name.split('.')[0], known)}")
    if weights not in ("none", IMAGENET) and not is_weights_file(weights):
        raise InputError(f"backbone.weights: '{weights}' is neither {IMAGENET}, a file (.pth, .safetensors) nor none")
    if weights == IMAGENET and backbone.name.startswith("efficientnet_lite"):
        state = _in_timm_order(lite_tensors(backbone.name), timm.create_model(name))
    elif is_weights_file(weights):
        state = read_tensors(weights, setting="backbone.weights")
    overlay = {"state_dict": state} if state is not None else None
    try:
        with _quiet("timm.models._builder"):  # about the classifier, which is left out
            network = timm.create_model(
                name,
                pretrained=weights != "none",
                pretrained_cfg_overlay=overlay,
                features_only=True,
                out_indices=(-4, -3, -2, -1),
            )
    except (RuntimeError, ValueError, AssertionError, TypeError, KeyError) as error:
        what = f"{weights} does not fit: " if state is not None else ""
        raise InputError(f"backbone: {backbone.name}: {what}{one_line(error)}; backbone.weights: {_OTHER_WEIGHTS}") from error
    except Exception as error:  # of the network: huggingface_hub has a dozen kinds
        raise InputError(
            f"{backbone.name}: its weights could not be downloaded ({one_line(error)}); backbone.weights: {_OTHER_WEIGHTS}; "
            "remove what is damaged in huggingface_hub's cache"
        ) from error
    if state is not None:
        _check_taken(network, state, backbone)
    return network


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Without the warnings of a logger."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        found.setLevel(level)


def _check_taken(network: nn.Module, state: State, backbone: Backbone) -> None:
    """InputError unless all of a network comes from a file: timm takes what fits, renames it, and leaves the rest as drawn."""

    def mark(key: str, tensor: torch.Tensor) -> tuple[str, int, float, float]:
        values, kind = tensor.float().flatten(), key.rpartition(".")[2]
        return (kind if kind.startswith("running") else "", len(values), float(values[0]), float(values[-1]))

    marks = {mark(key, tensor) for key, tensor in state.items() if tensor.numel()}
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked") and mark(key, value) not in marks:
            raise InputError(f"backbone.weights: {backbone.weights} does not fit {backbone.name}: it lacks {key}")


def _in_timm_order(state: State, network: nn.Module) -> State:
    """EfficientNet-Lite's tensors under timm's names: both list the same tensors in the same order."""
    return dict(zip(network.state_dict(), state.values(), strict=True))


def _look_at_levels(body: TimmBody, channels: list[int], name: str) -> list[nn.Parameter]:
    """The parameters that the first level (1/4) is made of; InputError where the levels are not what the FPN is built on."""
    body.eval()
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    wanted = [(1, width, _PROBE // stride, _PROBE // stride) for width, stride in zip(channels, _STRIDES, strict=True)]
    try:
        with torch.enable_grad():
            levels = list(body(torch.zeros(1, 3, _PROBE, _PROBE)).values())
            gradients = torch.autograd.grad(levels[0].sum(), trained, allow_unused=True)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(f"backbone.name: {name} does not take images of any size: {one_line(error)}") from error
    found = [tuple(level.shape) for level in levels]
    if found != wanted:
        raise InputError(f"backbone.name: {name} gives levels {found} for an image of {_PROBE} px, not {wanted}")
    body.train()
    return [parameter for parameter, gradient in zip(trained, gradients, strict=True) if gradient is not None]


def without_frozen_norms(body: nn.Module) -> nn.Module:
    """A body whose frozen BatchNorms are part of the convolutions before them: for inference, in a fifth less time on the CPU.

    Results are the same but for rounding. Where they are not, as where something else reads a convolution's output, too, the
    body is given as it was.
    """
    folded = copy.deepcopy(body)
    image = torch.linspace(-2, 2, 3 * _PROBE**2, device=next(body.parameters()).device).reshape(1, 3, _PROBE, _PROBE)
    with torch.no_grad():
        for name, conv in _frozen_norms(folded, image).items():
            norm: Any = folded.get_submodule(name)
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            conv.bias = nn.Parameter(shift if conv.bias is None else shift + conv.bias * scale, requires_grad=False)
            conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
            folded.set_submodule(name, getattr(norm, "act", nn.Identity()))
        pairs = zip(body(image).values(), folded(image).values(), strict=True)
        same = all((one - other).abs().max() <= 0.01 * one.abs().max() for one, other in pairs)
    return folded if same else body


def _frozen_norms(body: nn.Module, image: torch.Tensor) -> dict[str, nn.Conv2d]:
    """The name of each frozen BatchNorm that reads what a convolution gives, and this convolution."""
    made_by: dict[int, nn.Conv2d] = {}
    pairs: dict[str, nn.Conv2d] = {}
    kept: list[torch.Tensor] = []  # so that no two outputs have one id

    def remember(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        kept.append(output)
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = module
        elif id(inputs[0]) in made_by:
            pairs[names[module]] = made_by[id(inputs[0])]

    names = {module: name for name, module in body.named_modules()}
    watched = [module for module in names if isinstance(module, nn.Conv2d) or type(module).__name__ in _FROZEN_NORMS]
    hooks = [module.register_forward_hook(remember) for module in watched]
    body(image)
    for hook in hooks:
        hook.remove()
    return pairs
