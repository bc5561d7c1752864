"""Semantic heads: FPN levels (and the canvas) in, logits at 1/4 of the input size out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from imptool.models.detector import init_prediction_layer
from imptool.models.network import Axis

WIDTH = 128


class SemanticHead(nn.Module):
    """What both heads share: features of 128 channels at 1/4 beside the canvas, four conv3x3 and one conv1x1.

    Args:
        conv: makes one conv3x3, with what follows it, of so many channels in and out.
        reader: what `merge` needs, by its name; it comes first among the parameters.
        num_classes: semantic channels, background included.
        canvas_layers: layers of the canvas; 0 for a head without one.
        canvas_scale: what the canvas, 0..1, is multiplied by where it is concatenated, so that it is as large as the features.
    """

    def __init__(
        self,
        conv: Callable[[int, int], nn.Module],
        reader: tuple[str, nn.Module],
        *,
        num_classes: int,
        canvas_layers: int = 0,
        canvas_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.add_module(*reader)
        self.canvas_scale = canvas_scale
        self.convs = nn.Sequential(*(conv(width, WIDTH) for width in (WIDTH + canvas_layers, WIDTH, WIDTH, WIDTH)))
        self.predictor = nn.Conv2d(WIDTH, num_classes, 1)
        init_prediction_layer(self.predictor)

    def forward(self, features: Mapping[str, torch.Tensor], canvas: torch.Tensor | None) -> torch.Tensor:
        """Features "0".."3" (P2..P5) [B, C, H/2^level, W/2^level] and canvas [B, K, H, W] -> logits [B, classes, H, W]."""
        return self.predict(self.merge(features), canvas)

    def merge(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """FPN levels -> [B, 128, H, W] at 1/4."""
        raise NotImplementedError

    def predict(self, merged: torch.Tensor, canvas: torch.Tensor | None) -> torch.Tensor:
        """What `merge` gives, and canvas [B, K, H, W] -> logits [B, classes, H, W]."""
        if canvas is not None:
            merged = torch.cat([merged, (self.canvas_scale * canvas).to(merged.dtype)], dim=1)
        return self.predictor(self.convs(merged))

    def class_axes(self) -> dict[str, Axis]:
        """Which of its tensors go by classes."""
        channels, canvas = Axis("channels"), Axis("things", dim=1, start=WIDTH, canvas_scale=self.canvas_scale)
        return {"predictor.weight": channels, "predictor.bias": channels, "convs.0.0.weight": canvas}


class SemanticFPNHead(SemanticHead):
    """The head of Panoptic-FPN(-IMP), section 3.2: P2..P5 to 128 channels at 1/4, summed; the canvas concatenated; four
    conv3x3 and one conv1x1. Every conv3x3 has GroupNorm. Ours, where the text is silent: the width of the four, and the
    ReLU after P2's convolution and after each of the four.

    Args:
        in_channels: channels of the FPN levels. sizes: as of `SemanticHead`.
    """

    def __init__(self, in_channels: int, **sizes: Any) -> None:
        levels = nn.ModuleDict({str(level): _to_quarter(in_channels, doublings=level) for level in range(4)})
        super().__init__(_conv_norm_relu, ("levels", levels), **sizes)

    def merge(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As of `SemanticHead`; each level must be exactly half the one before: the sides of the input are multiples of 32."""
        levels = cast(nn.ModuleDict, self.levels)
        return cast(torch.Tensor, sum(level(features[name]) for name, level in levels.items()))


class SemanticP2Head(SemanticHead):
    """The head of Panoptic-P2(-IMP), section 3.2 and Figure 3b, c: P2 alone, and no norm. Ours, where the text is silent: as in
    the FPN head, a conv3x3 to 128 channels, the canvas concatenated, four conv3x3 of 128 and one conv1x1, with ReLU.

    Args: as of `SemanticFPNHead`.
    """

    def __init__(self, in_channels: int, **sizes: Any) -> None:
        super().__init__(_conv_relu, ("reduce", _conv_relu(in_channels, WIDTH)), **sizes)

    def merge(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return cast(nn.Module, self.reduce)(features["0"])


class CanvasHead(nn.Module):
    """The "head" of Mask R-CNN-IMP (section 3.2, Figure 3a): the canvas is the result, nothing is learned.

    A pixel gets the thing whose layer is largest there, or the background where none is above the threshold (ours: the paper
    does not say). Other classes that are no things are never given. Without a background the largest layer always wins.

    Args:
        things: the semantic channel of each layer of the canvas.
        num_classes: semantic channels.
        background: its channel, None where the dataset has none.
        threshold: what score * mask must exceed.
    """

    def __init__(self, things: Sequence[int], *, num_classes: int, background: int | None, threshold: float) -> None:
        super().__init__()
        self.things, self.num_classes = list(things), num_classes
        self.background, self.threshold = background, threshold

    def forward(self, features: Mapping[str, torch.Tensor], canvas: torch.Tensor | None) -> torch.Tensor:
        """Canvas [B, K, H, W] -> what stands for logits, [B, classes, H, W]: below every value where a class cannot win."""
        if canvas is None:
            raise ValueError("a CanvasHead needs a canvas")
        logits = canvas.new_full((canvas.shape[0], self.num_classes, *canvas.shape[-2:]), -1.0)
        logits[:, self.things] = canvas
        if self.background is not None:
            logits[:, self.background] = self.threshold
        return logits


def _to_quarter(in_channels: int, *, doublings: int) -> nn.Sequential:
    """conv3x3(128) + GroupNorm + ReLU, then bilinear 2x, as often as the level needs to reach 1/4; P2 needs none."""
    parts: list[nn.Module] = [_conv_norm_relu(in_channels, WIDTH)]
    for step in range(doublings):
        if step:
            parts.append(_conv_norm_relu(WIDTH, WIDTH))
        parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*parts)


def _conv_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.ReLU(inplace=True))


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)  # GroupNorm brings its own bias
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(32, out_channels), nn.ReLU(inplace=True))
