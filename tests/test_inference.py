"""Confidence per pixel: the probability of the channel that wins, without the probabilities of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, TINY, draw_pair
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imptool.data.tta import Tta
from imptool.files import parse_yaml
from imptool.models import build_model
from imptool.models.inference import _largest_channel, parse_image, parse_resized
from imptool.models.parser import Parser
from imptool.recipe import Recipe

CPU = torch.device("cpu")


def drawn_logits(channels: int, scale: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return scale * torch.randn(channels, 9, 13, generator=torch.Generator().manual_seed(channels), dtype=dtype)


@pytest.mark.parametrize("size", [(36, 52), (50, 31), (9, 13), (4, 6)])
@pytest.mark.parametrize("channels", [1, 2, 16, 133, 300])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_confidence_is_the_softmax_of_the_resized_logits(channels: int, size: tuple[int, int], scale: float) -> None:
    logits = drawn_logits(channels, scale)
    before = logits.clone()
    # Singly, as another number of channels resizes in another order of sums: 1e-14 of a logit of 100.
    full = torch.cat([F.interpolate(one[None, None], size=size, mode="bilinear", align_corners=False)[0] for one in logits])
    expected, winner = full.softmax(dim=0).max(dim=0)
    found, confidence = _largest_channel(logits, size, confidence=True)
    assert confidence is not None
    torch.testing.assert_close(confidence, expected, rtol=0, atol=4e-16 if channels <= 133 else 1e-15)  # sums round
    assert torch.equal(found.long(), winner)
    assert torch.equal(_largest_channel(logits, size)[0], found)
    assert torch.equal(logits, before)


def test_large_and_equal_logits_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([3e38, 3e38, -3e38, 0]).view(4, 1, 1)
    channels, confidence = _largest_channel(logits, (2, 2), confidence=True)
    assert confidence is not None
    assert confidence.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert channels.tolist() == [[0, 0], [0, 0]]


class LargestTensor(TorchDispatchMode):
    """The numbers in the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return result


def test_no_tensor_of_all_classes_is_made_at_full_size() -> None:
    logits = drawn_logits(59, 3.0, torch.float32)
    with LargestTensor() as mode:
        _largest_channel(logits, (90, 130), confidence=True)
    assert mode.numbers == max(90 * 130, logits.numel())


def model(name: str) -> tuple[Parser, Recipe]:
    recipe = Recipe.model_validate(parse_yaml(TINY) | {"model": {"name": name}})
    torch.manual_seed(0)
    return build_model(name, recipe, LABELS, pretrained=False).eval(), recipe


@pytest.mark.parametrize("tta", [Tta(), Tta((0.5, 1.0), channels=(0, 1, 2), labels=(0, 1, 2))])
@pytest.mark.parametrize("name", ["semantic-fpn", "panoptic-p2-imp"])
def test_confidence_of_a_model_is_its_largest_probability_and_comes_only_when_asked_for(name: str, tta: Tta) -> None:
    parser, recipe = model(name)
    image, _ = draw_pair(0)
    (whole,) = parse_resized(
        parser, [tta.resize(image, recipe.input)], [(96, 72)], device=CPU, tta=tta, probabilities=True, confidence=True
    )
    assert whole.probabilities is not None
    assert whole.confidence is not None
    assert (whole.confidence.shape, whole.confidence.dtype) == ((96, 72), np.float32)
    np.testing.assert_allclose(whole.confidence, whole.probabilities.max(axis=0), rtol=1e-6)
    alone = parse_image(parser, image, recipe.input, device=CPU, tta=tta, confidence=True)
    np.testing.assert_array_equal(alone.confidence, whole.confidence)
    plain = parse_image(parser, image, recipe.input, device=CPU, tta=tta)
    assert plain.confidence is None
    np.testing.assert_array_equal(plain.channels, alone.channels)


@pytest.mark.parametrize("name", ["mask-rcnn", "mask-rcnn-imp"])
def test_a_model_without_probabilities_of_classes_has_no_confidence(name: str) -> None:
    parser, recipe = model(name)
    prediction = parse_image(parser, draw_pair(0)[0], recipe.input, device=CPU, confidence=True)
    assert prediction.confidence is None
    assert (prediction.channels is None) == (name == "mask-rcnn")
