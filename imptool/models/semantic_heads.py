"""Semantic heads: FPN levels (and the canvas) in, logits at 1/4 of the input size out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from imptool.models.detector import init_prediction_layer

WIDTH = 128


class SemanticFPNHead(nn.Module):
    """The head of Panoptic-FPN(-IMP), section 3.2: P2..P5 to 128 channels at 1/4, summed; the canvas concatenated; four
    conv3x3 and one conv1x1. Every conv3x3 has GroupNorm. Ours, where the text is silent: the width of the four, and the
    ReLU after P2's convolution and after each of the four.

    Args:
        in_channels: channels of the FPN levels.
        num_classes: semantic channels, background included.
        canvas_layers: layers of the canvas; 0 for a head without one.
    """

    def __init__(self, in_channels: int, *, num_classes: int, canvas_layers: int = 0) -> None:
        super().__init__()
        self.levels = nn.ModuleDict({str(level): _to_quarter(in_channels, doublings=level) for level in range(4)})
        widths = [WIDTH + canvas_layers, WIDTH, WIDTH, WIDTH]
        self.convs = nn.Sequential(*(_conv_norm_relu(width, WIDTH) for width in widths))
        self.predictor = nn.Conv2d(WIDTH, num_classes, 1)
        init_prediction_layer(self.predictor)

    def forward(self, features: Mapping[str, torch.Tensor], canvas: torch.Tensor | None) -> torch.Tensor:
        """Features "0".."3" (P2..P5) [B, C, H/2^level, W/2^level] and canvas [B, K, H, W] -> logits [B, classes, H, W].

        Each level must be exactly half the one before: the sides of the input are multiples of 32 (the transform pads).
        """
        merged = sum(level(features[name]) for name, level in self.levels.items())
        if canvas is not None:
            merged = torch.cat([merged, canvas.to(merged.dtype)], dim=1)
        return self.predictor(self.convs(merged))


def _to_quarter(in_channels: int, *, doublings: int) -> nn.Sequential:
    """conv3x3(128) + GroupNorm + ReLU, then bilinear 2x, as often as the level needs to reach 1/4; P2 needs none."""
    parts: list[nn.Module] = [_conv_norm_relu(in_channels, WIDTH)]
    for step in range(doublings):
        if step:
            parts.append(_conv_norm_relu(WIDTH, WIDTH))
        parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*parts)


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)  # GroupNorm brings its own bias
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.GroupNorm(32, out_channels), nn.ReLU(inplace=True))
