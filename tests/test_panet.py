"""PANet's parts: counts by formula, examples worked by hand, and what must be equal to the plain detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import LABELS, TINY, batch, finish, torchrun
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from imptool.data.augment import draw_view
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.files import InputError
from imptool.models import build_model
from imptool.models.detector import detect
from imptool.models.panet import AdaptiveRoIAlign, BottomUpPath, BoxHead, FusedMaskPredictor, MaskHead
from imptool.models.parser import Parser
from imptool.models.transfer import Weights, fit_weights
from imptool.recipe import Augment, Input, Recipe, load_recipe, parse_change
from imptool.training.stage import StageJob

Imptool = Callable[..., Result]

TABLE_3: dict[str, dict[str, Any]] = {
    "RBL": {},
    "BPA": {"bottom_up": True},
    "AFP": {"pooling": "max"},
    "BPA+AFP": {"bottom_up": True, "pooling": "max"},
    "+FF": {"bottom_up": True, "pooling": "max", "fusion": "sum"},
    "+HHD": {"bottom_up": True, "pooling": "max", "fusion": "sum", "heavy_head": True},
}
ALL: dict[str, Any] = {**TABLE_3["+HHD"], "fusion_from": 2}
EVERYWHERE = "detector.score_threshold=0.0"
MODELS = ["mask-rcnn", "mask-rcnn-imp", "semantic-p2", "semantic-fpn", "panoptic-p2-imp", "panoptic-fpn-imp"]
OTHERS: list[dict[str, Any]] = [{"pooling": "sum"}, {"pooling": "max", "pooled_after": "align"}, {"norm": "group"}]


def classes(count: int) -> LabelSet:
    return LabelSet(tuple(ClassInfo(id=n, name=f"c{n}", thing=n > 0) for n in range(count + 1)), 0, 255)


def parameters(panet: dict[str, Any], count: int, norm: str = "batch") -> tuple[int, int]:
    """Of a mask-rcnn on ResNet-50: all, and those that learn."""
    weights = {"weights": "none"} if norm == "batch" else {}
    plain = {"dataset": "x", "model": {"name": "mask-rcnn"}, "backbone": {"norm": norm, **weights}, "panet": panet}
    recipe = Recipe.model_validate(plain | {"stages": {"full": {"iterations": 1}}})
    with torch.device("meta"):
        model = build_model("mask-rcnn", recipe, classes(count), pretrained=False)
    every = list(model.parameters())
    return sum(each.numel() for each in every), sum(each.numel() for each in every if each.requires_grad)


# By the formulas of the layers: conv a -> b of kernel k has k*k*a*b + b parameters, with a norm k*k*a*b + 2b.
COUNTS = {
    "RBL": (44_400_693, 44_403_765, 44_347_573, 44_104_683, 44_040_099),
    "BPA": (47_941_173, 47_945_781, 47_888_053, 47_645_163, 47_580_579),
    "AFP": (84_709_173, 84_713_013, 84_656_053, 84_413_163, 84_348_579),
    "BPA+AFP": (88_249_653, 88_255_029, 88_196_533, 87_953_643, 87_889_059),
    "+FF": (108_804_549, 108_810_309, 108_751_429, 108_508_539, 108_443_955),
    "+HHD": (73_347_269, 73_354_821, 73_294_149, 73_051_259, 72_986_675),
}


@pytest.mark.parametrize("row", COUNTS)
def test_parameters_of_each_row_of_table_3_are_those_of_the_formulas(row: str) -> None:
    panet = TABLE_3[row]
    found = (
        parameters(panet, 80)[0],
        parameters({**panet, "norm": "group"}, 80)[0],
        parameters(panet, 80, norm="frozen")[0],
        parameters(panet, 25)[0],
        parameters(panet, 13)[0],
    )
    assert found == COUNTS[row]
    assert parameters({**panet, "norm": "sync"}, 80, norm="frozen") == (COUNTS[row][1], COUNTS[row][1])  # nothing is frozen
    every, learning = parameters(panet, 80, norm="frozen")
    assert every - learning == 222_400


def test_path_of_the_example_worked_by_hand() -> None:
    path = BottomUpPath(1, None)
    for conv in (part for part in path.modules() if isinstance(part, nn.Conv2d)):
        nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 1, 1] = 1
    p2 = torch.tensor([[1.0, -2, 3, 4], [5, 6, 7, 8], [-9, 1, 2, 3], [4, 5, 6, 7]])
    levels = [p2, torch.tensor([[-5.0, 1], [2, -3]]), torch.tensor([[2.0]]), torch.tensor([[-1.0]])]
    found, names = path([level[None, None] for level in levels], [], ["0", "1", "2", "3"])
    assert names == ["0", "1", "2", "3", "pool"]
    assert found[0][0, 0].tolist() == p2.tolist()
    assert found[1][0, 0].tolist() == [[0, 4], [2, 0]]
    assert found[2][0, 0].tolist() == [[2]]
    assert found[3][0, 0].tolist() == [[1]]


def constant_levels() -> dict[str, torch.Tensor]:
    return {str(n): torch.full((1, 2, 32 // 2**n, 32 // 2**n), value) for n, value in enumerate((1.0, 4.0, 2.0, 3.0))}


@pytest.mark.parametrize(("fuse", "value"), [("max", 4), ("sum", 10)])
def test_regions_are_pooled_from_all_levels(fuse: str, value: float) -> None:
    boxes = [torch.tensor([[8.0, 8, 40, 40], [0, 0, 128, 128]])]
    fused = AdaptiveRoIAlign(7, fuse)(constant_levels(), boxes, [(128, 128)])
    torch.testing.assert_close(fused, torch.full_like(fused, value))
    levels = AdaptiveRoIAlign(7)(constant_levels(), boxes, [(128, 128)])
    for level, constant in zip(levels, (1, 4, 2, 3), strict=True):
        torch.testing.assert_close(level, torch.full_like(level, constant))


def test_a_level_is_pooled_as_torchvision_pools_it() -> None:
    torch.manual_seed(0)
    features = {str(n): torch.randn(2, 8, 32 // 2**n, 32 // 2**n) for n in range(4)}
    boxes = [torch.tensor([[3.0, 5, 50, 61]]), torch.tensor([[0.0, 0, 9, 9], [20, 30, 120, 128]])]
    for n, level in enumerate(AdaptiveRoIAlign(14)(features, boxes, [(128, 128)] * 2)):
        one = MultiScaleRoIAlign([str(n)], output_size=14, sampling_ratio=2)
        one.scales, one.map_levels = [2.0 ** -(n + 2)], None
        assert torch.equal(level, one(features, boxes, [(128, 128)] * 2))
    far = {name: level if name == "2" else torch.full_like(level, -1e9) for name, level in features.items()}
    fused = AdaptiveRoIAlign(7, "max")(far, boxes, [(128, 128)] * 2)
    assert torch.equal(fused, roi_align(features["2"], boxes, 7, spatial_scale=1 / 16, sampling_ratio=2))


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_equal_first_layers_on_equal_levels_are_the_plain_head(kind: str, heavy: bool) -> None:
    torch.manual_seed(0)

    def build(pooling: str | None) -> nn.Module:
        if kind == "box":
            return BoxHead(8, 12, side=7, heavy=heavy, norm=None, pooling=pooling)
        return MaskHead(8, [6, 6, 6], norm=None, pooling=pooling, fusion_from=None)

    plain, own = build(None), build("max")
    if kind == "box" and not heavy:
        plain.fc6 = nn.Linear(8 * 49, 12)
    state = plain.state_dict()
    for key in own.state_dict():
        source = key
        if key.startswith("first."):
            source = ("fc6." if kind == "box" and not heavy else "0.") + key.split(".", 2)[2]
        own.state_dict()[key].copy_(state[source])
    x = torch.randn(5, 8, 7, 7) if kind == "box" else torch.randn(5, 8, 14, 14)
    expected = plain(plain.fc6(x.flatten(1)).relu()) if kind == "box" and not heavy else plain(x)
    torch.testing.assert_close(own([x] * 4), expected, rtol=1e-5, atol=1e-6)


def test_fused_logits_of_the_example_worked_by_hand() -> None:
    path = torch.arange(784.0).repeat(2, 1)
    predictor = FusedMaskPredictor(4, 4, 3, "sum")
    for parameter in predictor.parameters():
        nn.init.zeros_(parameter)
    logits = predictor((torch.randn(2, 4, 14, 14), path))
    assert logits.shape == (2, 3, 28, 28)
    assert torch.equal(logits, torch.arange(784.0).reshape(28, 28).expand(2, 3, 28, 28))
    pairs = torch.tensor([[0.0, 0.0], [2, -1], [-1, 3]])
    for fusion, expected in (("product", [-1.0986, -1.1698, -1.0659]), ("max", [0, 2, 3])):
        predictor.fusion = fusion
        for (one, other), value in zip(pairs, expected, strict=True):
            nn.init.constant_(predictor.mask_fcn_logits.bias, one.item())
            found = predictor((torch.zeros(1, 4, 14, 14), other.expand(1, 784)))
            assert found.unique().item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("start", [2, 3, 4])
def test_path_to_the_fully_connected_layer_begins_behind_a_convolution_and_is_one_layer(start: int) -> None:
    head = MaskHead(8, [8, 8, 8, 8], norm=None, pooling=None, fusion_from=start)
    seen: list[torch.Tensor] = []
    head.get_submodule(str(start - 1)).register_forward_hook(lambda _, __, output: seen.append(output))
    features, path = head(torch.randn(3, 8, 14, 14))
    assert (features.shape, path.shape) == ((3, 8, 14, 14), (3, 784))
    torch.testing.assert_close(path, head.fc(head.path(seen[0]).flatten(1)))
    assert sum(parameter.numel() for parameter in head.path.parameters()) == (9 * 64 + 8) + (9 * 32 + 4)
    assert sum(parameter.numel() for parameter in head.fc.parameters()) == 4 * 196 * 784 + 784


def recipe_with(tmp_path: Path, panet: dict[str, Any], *more: str) -> Recipe:
    (tmp_path / "tiny.yaml").write_text(TINY)
    changes = [("panet", panet), ("detector.mask_channels", [16, 16, 16]), *map(parse_change, more)]
    return load_recipe(str(tmp_path / "tiny.yaml"), changes)


def build(name: str, recipe: Recipe, seed: int = 0) -> Parser:
    torch.manual_seed(seed)
    model = build_model(name, recipe, LABELS, pretrained=False)
    assert isinstance(model, Parser)
    return model


@pytest.mark.parametrize("norm", ["none", "group", "sync"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_and_infers_with_all_of_it(tmp_path: Path, name: str, norm: str) -> None:
    model = build(name, recipe_with(tmp_path, {**ALL, "norm": norm}, EVERYWHERE))
    losses, _ = model.train()(*batch())
    sum(losses.values()).backward()
    unread = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert unread == []
    found = model.eval().infer([torch.rand(3, 64, 96)])
    assert not model.detects or found.detections[0]["masks"].shape[1:] == (1, 28, 28)


@pytest.mark.parametrize("panet", [*TABLE_3.values(), *OTHERS])
def test_detections_are_those_of_torchvisions_own_way(tmp_path: Path, panet: dict[str, Any]) -> None:
    model = build("mask-rcnn", recipe_with(tmp_path, panet, EVERYWHERE)).eval()
    with torch.no_grad():
        padded, levels = model.encode([torch.rand(3, 64, 96)])
        proposals = [torch.tensor([[10.0, 10, 50, 50], [0, 0, 90, 60], [30, 30, 40, 44]])]
        expected, _ = model.detector.roi_heads(levels, proposals, padded.image_sizes)
        (found,) = detect(model.detector.roi_heads, levels, proposals, padded.image_sizes)
    for key in ("boxes", "labels", "scores", "masks"):
        torch.testing.assert_close(found[key], expected[0][key])


def test_nothing_switched_on_is_the_plain_detector(tmp_path: Path) -> None:
    model = build("panoptic-fpn-imp", recipe_with(tmp_path, {}))
    kinds = {type(part).__module__.partition(".")[0] for part in model.detector.roi_heads.modules()}
    assert kinds == {"torch", "torchvision"}


@pytest.mark.parametrize("heavy", [False, True])
def test_first_layers_of_all_levels_start_as_the_plain_one(tmp_path: Path, heavy: bool) -> None:
    source = build("mask-rcnn", recipe_with(tmp_path, {"heavy_head": heavy}), seed=1)
    model = build("mask-rcnn", recipe_with(tmp_path, {"heavy_head": heavy, "pooling": "max"}))
    fitted = fit_weights(model, Weights.of_run(source.state_dict(), LABELS, source="plain"), LABELS)
    assert (fitted.new, fitted.left) == ([], [])
    theirs, ours = source.detector.roi_heads.state_dict(), model.detector.roi_heads.state_dict()
    own = "box_head.0." if heavy else "box_head.fc6."
    for level in range(4):
        for key in (key for key in theirs if key.startswith((own, "mask_head.0."))):
            prefix = own if key.startswith(own) else "mask_head.0."
            assert torch.equal(ours[f"{key.partition('.')[0]}.first.{level}.{key.removeprefix(prefix)}"], theirs[key])


@pytest.mark.parametrize("detach", [False, True])
def test_semantic_loss_reaches_all_first_layers_and_the_path_through_the_canvas(tmp_path: Path, detach: bool) -> None:
    recipe = recipe_with(tmp_path, ALL, EVERYWHERE, f"projection.detach={str(detach).lower()}")
    model = build("panoptic-fpn-imp", recipe).train()
    losses, _ = model(*batch())
    heads = model.detector.roi_heads
    firsts = [first.get_parameter("0.weight") for first in heads.mask_head.first]
    firsts += [first.get_parameter("0.weight") for first in heads.box_head.first]
    wanted = [heads.mask_head.fc.weight, heads.mask_predictor.mask_fcn_logits.weight, *firsts]
    gradients = torch.autograd.grad(losses["semantic"], wanted, allow_unused=True)
    assert [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients] == [not detach] * len(wanted)


def test_small_and_large_boxes_send_gradient_to_all_levels(tmp_path: Path) -> None:
    features = {str(n): torch.randn(1, 8, 128 // 2**n, 128 // 2**n, requires_grad=True) for n in range(4)}
    for side in (16.0, 500.0):
        pooled = AdaptiveRoIAlign(7, "max")(features, [torch.tensor([[4.0, 4, 4 + side, 4 + side]])], [(512, 512)])
        gradients = torch.autograd.grad(pooled.sum(), list(features.values()))
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
        assert sum(gradient.sum() for gradient in gradients).item() == pytest.approx(pooled.numel(), rel=1e-4)


def test_a_loss_on_the_coarsest_level_reaches_the_finest_through_the_path_alone() -> None:
    levels = [torch.randn(1, 8, 32 // 2**n, 32 // 2**n, requires_grad=True) for n in range(4)]
    torch.manual_seed(0)
    found, _ = BottomUpPath(8, None)(levels, [], ["0", "1", "2", "3"])
    (gradient,) = torch.autograd.grad(found[3].sum(), levels[0])
    assert gradient.abs().sum() > 0


def test_statistics_move_once_in_an_iteration_and_never_at_inference(tmp_path: Path) -> None:
    model = build("panoptic-fpn-imp", recipe_with(tmp_path, {**ALL, "norm": "sync"}, EVERYWHERE))
    norms = [part for part in model.detector.roi_heads.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms
    model.train()(*batch())
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}
    assert all(norm.training for norm in norms)
    model.eval().infer([torch.rand(3, 64, 96)])
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("panet.fusion=sum", "panet.fusion_from=4"), "panet.fusion_from: 4, and detector.mask_channels has 3 convolutions"),
        (("panet.fusion=sum", "detector.mask_channels=[16, 15, 15]"), "panet.fusion halves the 15 channels"),
        (("panet.bottom_upp=true",), "bottom_up"),
        (("augment.short_side_range=[64, 96]", "augment.short_sides=[64]"), "give one of them"),
        (("augment.short_side_range=[96, 64]",), "from the larger to the smaller side"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_a_line(tmp_path: Path, changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as raised:
        recipe_with(tmp_path, {}, *changes)
    assert words in str(raised.value)


def test_short_sides_of_a_range_are_drawn_evenly_with_both_ends_and_without_one_no_draw_more() -> None:
    augment, rng = Augment(short_side_range=[64, 68]), np.random.default_rng(0)
    sides = [min(draw_view((100, 200), Input(short_side=90, long_side=900), augment, rng).size) for _ in range(500)]
    assert np.unique(sides).tolist() == [64, 65, 66, 67, 68]
    assert np.bincount(sides)[64:].min() > 70
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    draw_view((100, 200), Input(short_side=90, long_side=900), Augment(), one)
    for side in draw_view((100, 200), Input(short_side=90, long_side=900), Augment(), np.random.default_rng(2)).size:
        other.integers(0, side - side + 1)
    assert one.integers(1 << 30) == other.integers(1 << 30)


def test_training_with_all_of_it_resumes_to_the_same_bits(
    workplace: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    panet = "panet={norm: group, bottom_up: true, pooling: max, fusion: sum, fusion_from: 2, heavy_head: true}"
    words = ["-o", panet, "-o", "detector.mask_channels=[16, 16]", "-o", "augment.short_side_range=[64, 80]", "--workers", 0]
    assert imptool("train", "tiny.yaml", "--name", "whole", *words).exit_code == 0
    original, steps = StageJob._step, 0

    def interrupt(*arguments: Any) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StageJob, "_step", interrupt)
        assert imptool("train", "tiny.yaml", "--name", "cut", *words).exit_code == 130
    assert imptool("train", "runs/tiny/cut", "--resume", "--workers", 0).exit_code == 0
    one, other = (load_file(f"runs/tiny/{name}/weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_on_the_cpu_have_statistics_of_their_own_and_say_so(workplace: Path, imptool: Imptool) -> None:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    panet = "panet={norm: sync, bottom_up: true, pooling: max, fusion: sum, fusion_from: 2, heavy_head: true}"
    words = ["-o", panet, "-o", "detector.mask_channels=[16, 16]", "-o", "stages.detector.iterations=2"]
    words += ["-o", "stages.full.iterations=2", "--name", "two", "--device", "cpu", "--workers", "0"]
    process = torchrun("train", "tiny.yaml", *words)
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert "note: panet.norm: sync: on the CPU each process has statistics of its own" in output + errors
    assert Path("runs/tiny/two/weights.safetensors").is_file()
