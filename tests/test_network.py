"""What is asked of any network: losses by kind, parts that learn, weights by class and prefix, sections of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from conftest import LABELS, TINY, batch
from safetensors.torch import load_file
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from imptool.files import InputError
from imptool.models import MODELS, build_model
from imptool.models.backbone import build_backbone
from imptool.models.detector import mask_loss, roi_losses
from imptool.models.network import total_loss
from imptool.models.parser import Parser
from imptool.models.transfer import Weights, fit_weights
from imptool.recipe import Backbone, Losses, Recipe, load_recipe
from imptool.training.log import short_form

Imptool = Callable[..., Result]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return load_recipe(str(tmp_path / "tiny.yaml"))


def build(name: str, recipe: Recipe, seed: int = 0) -> Parser:
    torch.manual_seed(seed)
    model = build_model(name, recipe, LABELS, pretrained=False)
    assert isinstance(model, Parser)
    return model


def test_a_kind_of_loss_counts_by_its_weight_and_the_mean_of_its_parts() -> None:
    losses = {"mask.1": torch.tensor(2.0), "mask.2": torch.tensor(4.0), "semantic": torch.tensor(1.0)}
    assert total_loss(losses, Losses(mask=0.5, semantic=3.0)).item() == 0.5 * 3 + 3 * 1


def test_progress_shows_the_mean_of_a_kind_and_kinds_that_other_models_lack() -> None:
    values = {
        "rpn_objectness": 0.1,
        "rpn_box": 0.2,
        "mask.1": 1.0,
        "mask.2": 3.0,
        "loss": 9.0,
        "images_per_second": 2.0,
        "lr": 1.0,
    }
    assert short_form(values) == "loss 9.00 (mask 2.00, rpn 0.30)  2.0 images/s"


def test_losses_of_box_and_mask_head_are_those_of_torchvision_to_the_bit(recipe: Recipe) -> None:
    model = build("mask-rcnn", recipe).train()
    images, targets = batch()
    padded, levels = model.encode(images)
    heads, sizes = model.detector.roi_heads, padded.image_sizes
    proposals = [torch.tensor([[18.0, 18, 62, 58], [1, 1, 30, 30], [28, 2, 52, 22]])] * 2
    torch.manual_seed(3)
    _, expected = heads(levels, [each.clone() for each in proposals], sizes, targets)
    torch.manual_seed(3)
    losses, positives = roi_losses(heads, levels, [each.clone() for each in proposals], sizes, targets)
    assert torch.equal(losses["classifier"], expected["loss_classifier"])
    assert torch.equal(losses["box"], expected["loss_box_reg"])
    assert torch.equal(mask_loss(heads, levels, positives, sizes, targets), expected["loss_mask"])
    assert [len(boxes) for boxes in positives[0]] == [4, 0]  # two of the three proposals, and the true boxes


@pytest.mark.parametrize(
    ("parts", "losses"),
    [
        (["semantic_head"], {"semantic"}),
        (["detector.rpn"], {"rpn_objectness", "rpn_box"}),
        (["detector.roi_heads"], {"classifier", "box", "mask", "semantic"}),  # by way of the canvas
        (["semantic_head.predictor", "detector.rpn"], {"semantic", "rpn_objectness", "rpn_box"}),
        (["detector", "semantic_head"], {"rpn_objectness", "rpn_box", "classifier", "box", "mask", "semantic"}),
    ],
)
def test_losses_are_those_that_a_part_learns_from(recipe: Recipe, parts: list[str], losses: set[str]) -> None:
    model = build(
        "panoptic-fpn-imp", recipe.model_copy(update={"detector": recipe.detector.model_copy(update={"score_threshold": 0.0})})
    )
    model.learn(parts)
    found, _ = model.train()(*batch())
    assert found.keys() == losses
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        inside = any(f"{name}.".startswith(f"{part}.") for part in parts)
        assert parameter.requires_grad == inside
        assert inside or parameter.grad is None


def test_what_is_frozen_keeps_its_bits_and_its_statistics_and_the_rest_learns_and_resumes(
    workplace: Path, imptool: Imptool
) -> None:
    recipe = (
        Path("tiny.yaml")
        .read_text()
        .replace("iterations: 4}\ncheck", "iterations: 4}\n  head: {from: full, iterations: 4, train: [semantic_head]}\ncheck")
    )
    Path("staged.yaml").write_text(recipe)
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    assert imptool("train", "staged.yaml", "--name", "whole", "--workers", 0).exit_code == 0
    run = Path("runs/staged/whole")
    before, after = load_file(run / "weights-full.safetensors"), load_file(run / "weights.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.startswith("semantic_head.")}
    assert any(key.endswith("running_mean") for key in before)  # which a norm in training would have moved
    last = run / "checkpoint-head-0000004.pt"
    assert last.is_file()
    assert imptool("train", "staged.yaml", "--name", "again", "-o", "checkpoint_every=3", "--workers", 0).exit_code == 0
    assert all(torch.equal(value, load_file("runs/staged/again/weights.safetensors")[key]) for key, value in after.items())


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("semantic_heads", "the model has no part 'semantic_heads'; did you mean 'semantic_head'?"),
        ("transform", "no part 'transform'"),
    ],
)
def test_a_part_that_is_none_is_refused_with_the_nearest(recipe: Recipe, part: str, words: str) -> None:
    with pytest.raises(InputError, match="stages: train") as raised:
        build("panoptic-fpn", recipe).learn([part])
    assert words in str(raised.value)


def test_a_part_of_a_late_stage_is_looked_for_before_the_first_is_trained(workplace: Path, imptool: Imptool) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    result = imptool("train", "tiny.yaml", "-o", "stages.full.train=[detector.roi_head]", "--name", "wrong", "--workers", 0)
    assert result.exit_code == 2
    assert "no part 'detector.roi_head'; did you mean 'detector.roi_heads'?" in result.stderr
    assert not list(Path("runs").rglob("*.safetensors"))


def test_weights_without_a_part_give_it_what_it_inherits_from(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    source = build("mask-rcnn", recipe, seed=1)
    state = {key: value for key, value in source.state_dict().items() if ".mask_head." not in key}
    state |= {
        key.replace("mask_head.", "mask_heads.3."): value for key, value in source.state_dict().items() if ".mask_head." in key
    }
    monkeypatch.setattr(Parser, "inherits", lambda _: [("detector.roi_heads.mask_head.", "detector.roi_heads.mask_heads.3.")])
    model = build("mask-rcnn", recipe)
    fitted = fit_weights(model, Weights.of_run(state, LABELS, source="other"), LABELS)
    assert (fitted.new, fitted.left) == ([], [])
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_section_of_the_recipe_is_refused_by_models_that_know_nothing_of_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "panoptic-fpn-imp", replace(MODELS["panoptic-fpn-imp"], sections=("projection",)))
    given = recipe.model_copy(update={"projection": recipe.projection.model_copy(update={"detach": True})})
    build("panoptic-fpn-imp", given)
    build("panoptic-fpn", recipe)
    with pytest.raises(InputError, match="projection: panoptic-fpn knows nothing of it: it is for panoptic-fpn-imp"):
        build("panoptic-fpn", given)


def test_a_pyramid_can_have_other_levels() -> None:
    backbone = Backbone(name="resnet18", weights="none", norm="batch", fpn_channels=32)
    pyramid = build_backbone(backbone, first_level=3, extra_blocks=LastLevelP6P7(32, 32)).eval()
    levels = pyramid(torch.zeros(1, 3, 128, 128))
    assert {name: level.shape[-1] for name, level in levels.items()} == {"1": 16, "2": 8, "3": 4, "p6": 2, "p7": 1}
