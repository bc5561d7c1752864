"""PANet's parts: bottom-up path, pooling from all levels, heavier box head, and a fully connected path to the masks.

Liu, Qi, Qin, Shi, Jia: Path Aggregation Network for Instance Segmentation (CVPR 2018); sections in brackets are the paper's.
Layers that torchvision's heads have as well keep its names, so that weights of a plain detector load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import roi_align
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from imptool.models.backbone import Norm
from imptool.models.network import Features

LEVELS = 4  # N2..N5, that regions are pooled from
_MASK_SIDE = 28

NORMS: dict[str, Norm] = {
    "none": None,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
    "sync": nn.BatchNorm2d,
}


def conv_block(in_channels: int, out_channels: int, norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """conv3x3, norm, ReLU; Kaiming normal (fan out), as torchvision's heads."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=norm is None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norms = [norm(out_channels)] if norm is not None else []
    return nn.Sequential(conv, *norms, nn.ReLU())


class BottomUpPath(ExtraFPNBlock):
    """N2..N5 of P2..P5 (section 3.1), and N6 as a max pool of N5.

    N2 is P2; N(i+1) = out(down(N(i)) + P(i+1)), where `down` has stride 2 and each convolution its ReLU. Convolutions start as
    those of torchvision's FPN (ours).
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.down = nn.ModuleList(conv_block(channels, channels, norm, stride=2) for _ in range(LEVELS - 1))
        self.out = nn.ModuleList(conv_block(channels, channels, norm) for _ in range(LEVELS - 1))
        for block in (*self.down, *self.out):
            nn.init.kaiming_uniform_(cast(nn.Conv2d, cast(nn.Sequential, block)[0]).weight, a=1)

    def forward(
        self, results: list[torch.Tensor], x: list[torch.Tensor], names: list[str]
    ) -> tuple[list[torch.Tensor], list[str]]:
        levels = results[:1]
        for down, out, level in zip(self.down, self.out, results[1:], strict=True):
            levels.append(out(down(levels[-1]) + level))
        return [*levels, F.max_pool2d(levels[-1], 1, stride=2)], [*names, "pool"]


class AdaptiveRoIAlign(nn.Module):
    """Pools every region from all levels (section 3.2), each as torchvision's `MultiScaleRoIAlign` does from one.

    Args:
        side: of what is pooled, in cells. fuse: "max" or "sum" over the levels directly; None leaves them to the head.
    """

    def __init__(self, side: int, fuse: str | None = None) -> None:
        super().__init__()
        self.side, self.fuse = side, fuse

    def forward(
        self, features: Features, boxes: list[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[torch.Tensor] | torch.Tensor:
        """Levels "0".."3" [B, C, H/4, W/4] .., boxes [N, 4] of each image -> [R, C, side, side] of each level, or fused."""
        pooled = [
            roi_align(features[str(level)], boxes, self.side, spatial_scale=2.0 ** -(level + 2), sampling_ratio=2)
            for level in range(LEVELS)
        ]
        return pooled if self.fuse is None else fuse_levels(pooled, self.fuse)


def fuse_levels(levels: Sequence[torch.Tensor], how: str) -> torch.Tensor:
    """The elementwise "max" or "sum" of all levels."""
    stacked = torch.stack(list(levels))
    return stacked.amax(0) if how == "max" else stacked.sum(0)


class BoxHead(nn.Module):
    """The box head on what all levels give, each of which has a first layer of its own; or the heavier one (section 4.2).

    Plain: fc and fc. Heavy: four conv3x3 and, ours, one fc. Without `pooling` the input is one tensor, and the head is
    torchvision's.

    Args:
        side: of the pooled regions. features: width of the fully connected layers. pooling: "max", "sum" or None.
    """

    def __init__(self, channels: int, features: int, *, side: int, heavy: bool, norm: Norm, pooling: str | None) -> None:
        super().__init__()
        cells, self.pooling, self.heavy = channels * side * side, pooling, heavy
        if pooling is not None:
            first: list[nn.Module] = [
                conv_block(channels, channels, norm) if heavy else nn.Linear(cells, features) for _ in range(LEVELS)
            ]
            self.first = nn.ModuleList(first)
        if heavy:  # the names of torchvision's FastRCNNConvFCHead
            for place in range(0 if pooling is None else 1, 4):
                self.add_module(str(place), conv_block(channels, channels, norm))
            self.add_module("5", nn.Linear(cells, features))
        else:
            self.fc7 = nn.Linear(features, features)

    def forward(self, pooled: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """[R, C, side, side], of every level with pooling -> [R, features]."""
        if self.pooling is not None:
            inputs = pooled if self.heavy else [level.flatten(1) for level in pooled]
            own = [layer(level).relu() for layer, level in zip(self.first, inputs, strict=True)]
            x = fuse_levels(own, self.pooling)
        else:
            x = cast(torch.Tensor, pooled)
        if not self.heavy:
            return F.relu(self.fc7(x))
        for name, layer in self.named_children():
            if name in "0123":
                x = layer(x)
        return F.relu(self.get_submodule("5")(x.flatten(1)))


class MaskHead(nn.Module):
    """The mask head: conv3x3 one after the other, the first one for each level with pooling; and the path to a fully
    connected layer beside them (section 3.3).

    Args:
        channels: of each convolution. fusion_from: behind which of them, counted from 1, the path begins; None: no path.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], *, norm: Norm, pooling: str | None, fusion_from: int | None
    ) -> None:
        super().__init__()
        self.pooling, self.fusion_from = pooling, fusion_from
        if pooling is not None:
            self.first = nn.ModuleList(conv_block(in_channels, channels[0], norm) for _ in range(LEVELS))
        widths = [in_channels, *channels]
        for place in range(0 if pooling is None else 1, len(channels)):  # the names of torchvision's MaskRCNNHeads
            self.add_module(str(place), conv_block(widths[place], widths[place + 1], norm))
        self.count = len(channels)
        if fusion_from is not None:
            width = channels[fusion_from - 1]
            self.path = nn.Sequential(conv_block(width, width, norm), conv_block(width, width // 2, norm))
            self.fc = nn.Linear(width // 2 * (_MASK_SIDE // 2) ** 2, _MASK_SIDE**2)
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, pooled: list[torch.Tensor] | torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """[R, C, 14, 14], of every level with pooling -> [R, channels, 14, 14]; with the path also its logits [R, 784]."""
        x, path = cast(torch.Tensor, pooled), None
        for place in range(self.count):
            if place == 0 and self.pooling is not None:
                x = fuse_levels([layer(level) for layer, level in zip(self.first, pooled, strict=True)], self.pooling)
            else:
                x = self.get_submodule(str(place))(x)
            if place + 1 == self.fusion_from:
                path = self.fc(self.path(x).flatten(1))
        return x if path is None else (x, path)


class FusedMaskPredictor(MaskRCNNPredictor):
    """Mask logits of the convolutions, with those of the fully connected layer, which are for all classes (section 3.3).

    Args: as of torchvision's `MaskRCNNPredictor`, whose names its parameters have.
        fusion: "sum" or "max" of the logits, or "product" of the probabilities, given back as a logit.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int, fusion: str) -> None:
        super().__init__(in_channels, dim_reduced, num_classes)
        self.fusion = fusion

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """[R, C, 14, 14] and [R, 784] -> logits [R, classes, 28, 28]."""
        features, path = pair
        own = super().forward(features)
        other = path.reshape(-1, 1, _MASK_SIDE, _MASK_SIDE)
        if self.fusion == "sum":
            return own + other
        if self.fusion == "max":
            return torch.maximum(own, other)
        both = F.logsigmoid(own) + F.logsigmoid(other)
        return both - torch.log(-torch.expm1(both))
