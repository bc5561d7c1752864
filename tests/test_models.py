"""The networks: the structure that the paper states, and what flows through them."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WITH_STUFF
from torch import nn

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.files import InputError
from imptool.models import MODELS, build_model
from imptool.models.backbone import build_backbone
from imptool.models.detector import detect
from imptool.models.network import Detections, Network
from imptool.models.parser import Parser, pad_maps, semantic_loss
from imptool.models.semantic_heads import CanvasHead, SemanticFPNHead, SemanticP2Head
from imptool.recipe import Recipe

RECIPE = Recipe.model_validate(
    {
        "dataset": "none",
        "input": {"short_side": 64, "long_side": 96},
        "backbone": {"name": "resnet18", "weights": "none", "norm": "batch"},
        "detector": {"proposals_train": 20, "proposals_test": 20, "score_threshold": 0.0, "detections": 4},
        "stages": {"full": {"model": "panoptic-fpn-imp", "iterations": 1}},
    }
)


def build(name: str, recipe: Recipe = RECIPE) -> Parser:
    torch.manual_seed(0)
    model = build_model(name, recipe, WITH_STUFF, pretrained=False)
    assert isinstance(model, Parser)
    return model


def infer(model: Network, image: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor | None, torch.Tensor | None]:
    """Detections, logits and canvas of one image."""
    found = model.eval().infer([image])
    (detections,) = found.detections
    return detections, found.logits, found.canvas


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two images of different sizes, one with a coat, one without any instance."""
    masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
    masks[0, 10:50, 20:60] = 1
    semantic = masks[0].long()
    coat = {"boxes": torch.tensor([[20.0, 10, 60, 50]]), "labels": torch.tensor([1]), "masks": masks, "semantic": semantic}
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
        "semantic": torch.full((64, 64), 255),
    }
    return [torch.rand(3, 64, 80), torch.rand(3, 64, 64)], [coat, nothing]


@pytest.mark.parametrize(("name", "extra"), [("semantic-fpn", 0), ("panoptic-fpn", 0), ("panoptic-fpn-imp", 2)])
def test_fpn_head_is_that_of_section_3_2(name: str, extra: int) -> None:
    head = build(name).semantic_head
    assert isinstance(head, SemanticFPNHead)
    convs = [layer for layer in head.convs.modules() if isinstance(layer, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size) for conv in convs] == [
        (128 + extra, 128, (3, 3)),
        *[(128, 128, (3, 3))] * 3,
    ]
    assert (head.predictor.in_channels, head.predictor.out_channels, head.predictor.kernel_size) == (128, 4, (1, 1))
    for level, doublings in enumerate((0, 1, 2, 3)):  # P2 is at 1/4 already
        parts = list(head.levels[str(level)].modules())
        assert sum(isinstance(part, nn.Upsample) for part in parts) == doublings
        assert [(part.in_channels, part.out_channels) for part in parts if isinstance(part, nn.Conv2d)] == [
            (256, 128),
            *[(128, 128)] * max(doublings - 1, 0),
        ]
    everywhere = list(head.modules())
    assert sum(isinstance(part, nn.GroupNorm) for part in everywhere) == sum(
        isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) for part in everywhere
    )


@pytest.mark.parametrize(("name", "extra"), [("semantic-p2", 0), ("panoptic-p2", 0), ("panoptic-p2-imp", 2)])
def test_p2_head_sees_p2_alone_and_has_no_norm(name: str, extra: int) -> None:
    head = build(name).semantic_head
    assert isinstance(head, SemanticP2Head)
    convs = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size) for conv in convs] == [
        (256, 128, (3, 3)),
        (128 + extra, 128, (3, 3)),
        *[(128, 128, (3, 3))] * 3,
        (128, 4, (1, 1)),
    ]
    assert {type(layer) for layer in head.modules()} == {SemanticP2Head, nn.Sequential, nn.Conv2d, nn.ReLU}
    canvas = torch.zeros(1, extra, 4, 4) if extra else None
    assert head({"0": torch.zeros(1, 256, 4, 4)}, canvas).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("name", ["semantic-p2", "semantic-fpn"])
def test_semantic_models_have_neither_rpn_nor_box_nor_mask_heads(name: str) -> None:
    model = build(name)
    kinds = {parameter.split(".")[0] + "." + parameter.split(".")[1] for parameter, _ in model.named_parameters()}
    assert kinds >= {"detector.backbone", "semantic_head.predictor"}
    assert not any(kind.startswith(("detector.rpn", "detector.roi_heads")) for kind in kinds)
    found, logits, canvas = infer(model, torch.rand(3, 64, 80))
    assert len(found["boxes"]) == 0
    assert canvas is None
    assert logits is not None
    assert logits.shape == (1, 4, 64, 80)


def test_mask_rcnn_imp_learns_nothing_beside_mask_rcnn_and_gives_its_largest_layer() -> None:
    model, plain = build("mask-rcnn-imp"), build("mask-rcnn")
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    head = model.semantic_head
    assert isinstance(head, CanvasHead)
    # Layers are coat (channel 1) and hat (3); skin (2) is no thing. By hand: nothing, little, coat, hat, a tie.
    canvas = torch.tensor([[[[0.0, 0.25, 0.5, 0.3, 0.6]], [[0.0, 0.1, 0.4, 0.9, 0.6]]]])
    assert head({}, canvas).argmax(dim=1).tolist() == [[[0, 0, 1, 3, 1]]]
    without = CanvasHead([0, 2], num_classes=3, background=None, threshold=0.25)
    assert without({}, canvas).argmax(dim=1).tolist() == [[[0, 0, 0, 2, 0]]]
    found, logits, canvas = infer(model, torch.rand(3, 64, 80))
    assert len(found["boxes"]) > 0
    assert logits is not None
    assert canvas is not None
    assert logits.shape == (1, 4, 64, 80)


@pytest.mark.parametrize(("name", "widths"), [("resnet34", [64, 128, 256, 512]), ("resnext101_32x8d", [256, 512, 1024, 2048])])
def test_backbones_lead_into_an_fpn_of_five_levels(name: str, widths: list[int]) -> None:
    backbone = build_backbone(RECIPE.backbone.model_copy(update={"name": name}))
    assert [block[0].in_channels for block in backbone.fpn.inner_blocks] == widths
    levels = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [(256, side, side) for side in (16, 8, 4, 2, 1)]


def test_prediction_layers_start_as_normal_with_deviation_001() -> None:
    model = build("panoptic-fpn-imp")
    roi_heads = model.detector.roi_heads
    assert model.semantic_head is not None
    for layer in (
        roi_heads.box_predictor.cls_score,
        roi_heads.box_predictor.bbox_pred,
        roi_heads.mask_predictor.mask_fcn_logits,
        model.semantic_head.predictor,
    ):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert layer.bias.abs().max() == 0


def test_losses_are_those_of_the_parts() -> None:
    detector = {"rpn_objectness", "rpn_box", "classifier", "box", "mask"}
    images, targets = batch()
    expected = {"mask-rcnn": detector, "mask-rcnn-imp": detector, "semantic-p2": {"semantic"}, "semantic-fpn": {"semantic"}}
    for name in MODELS:
        losses, canvas = build(name).train()(images, targets)
        assert set(losses) == expected.get(name, detector | {"semantic"})
        if name in ("panoptic-p2-imp", "panoptic-fpn-imp"):
            assert canvas is not None
            assert canvas.shape == (2, 2, 16, 24)  # a quarter of 64x80, padded to 64x96; one layer for each thing
        else:
            assert canvas is None


@pytest.mark.parametrize("detach", [False, True])
def test_semantic_loss_reaches_masks_and_scores_unless_detached(detach: bool) -> None:
    model = build(
        "panoptic-fpn-imp", RECIPE.model_copy(update={"projection": RECIPE.projection.model_copy(update={"detach": detach})})
    )
    losses, canvas = model.train()(*batch())
    assert canvas is not None
    assert canvas.max() > 0  # the case is not empty
    losses["semantic"].backward()
    roi_heads = model.detector.roi_heads
    for layer in (roi_heads.mask_predictor.mask_fcn_logits, roi_heads.box_predictor.cls_score):
        reached = layer.weight.grad is not None and bool(layer.weight.grad.abs().sum() > 0)
        assert reached is not detach


def proposals_of(model: Parser) -> tuple[dict[str, torch.Tensor], list[torch.Tensor], list[tuple[int, int]]]:
    """FPN levels with a graph, and proposals of two images, some of them without an area or beyond the border."""
    torch.manual_seed(1)
    features = {str(level): torch.randn(2, 256, 16 >> level, 24 >> level, requires_grad=True) for level in range(4)}
    corners = torch.rand(2, 40, 2) * torch.tensor([80.0, 60.0])
    boxes = torch.cat([corners, corners + torch.rand(2, 40, 2) * 50 - 2], dim=2)
    return features, [boxes[0], boxes[1, :7]], [(64, 96), (60, 80)]


@pytest.mark.parametrize(("threshold", "detections"), [(0.0, 100), (0.3, 100), (0.3, 3), (0.99, 100)])
def test_detections_are_those_of_torchvision_and_so_is_their_gradient(threshold: float, detections: int) -> None:
    model = build("panoptic-fpn-imp")
    roi_heads = model.detector.roi_heads.eval()
    roi_heads.score_thresh, roi_heads.detections_per_img = threshold, detections
    nn.init.normal_(roi_heads.box_predictor.cls_score.weight, std=0.3)  # scores that differ
    features, proposals, sizes = proposals_of(model)
    expected, _ = roi_heads(features, proposals, sizes)
    found = detect(roi_heads, features, proposals, sizes)
    assert sum(len(one["boxes"]) for one in expected) == {(0.3, 3): 6, (0.99, 100): 0}.get(
        (threshold, detections), sum(len(one["boxes"]) for one in found)
    )

    def gradients(detections: Detections) -> list[torch.Tensor]:
        """Of a loss on every score and mask that is not the same anywhere."""
        values = torch.cat([torch.cat([one["scores"], one["masks"].flatten()]) for one in detections])
        loss = (values * torch.linspace(1, 2, len(values))).sum()
        wanted = [*features.values(), *roi_heads.parameters()]
        return [
            torch.zeros(()) if gradient is None else gradient
            for gradient in torch.autograd.grad(loss, wanted, allow_unused=True)
        ]

    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(one[name], other[name])
    if found[0]["boxes"].numel():
        for gradient, other in zip(gradients(found), gradients(expected), strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-4)
    assert not any(one["boxes"].requires_grad for one in found)


def test_no_proposal_anywhere_gives_no_detection() -> None:
    """As where weights have diverged; torchvision's box coder gives another shape then."""
    model = build("panoptic-fpn-imp")
    features, _, sizes = proposals_of(model)
    found = detect(model.detector.roi_heads.eval(), features, [torch.zeros(0, 4)] * 2, sizes)
    assert [tuple(one["masks"].shape) for one in found] == [(0, 1, 28, 28)] * 2


def test_model_that_detects_wants_things() -> None:
    stuff = LabelSet((ClassInfo(id=0, name="background", thing=False), ClassInfo(id=1, name="sky", thing=False)), 0, 255)
    with pytest.raises(InputError, match="detects things, and no class is one"):
        build_model("panoptic-fpn-imp", RECIPE, stuff, pretrained=False)
    assert build_model("semantic-fpn", RECIPE, stuff, pretrained=False).semantic_head is not None


def with_section(name: str, **values: object) -> Recipe:
    return RECIPE.model_copy(update={name: getattr(RECIPE, name).model_copy(update=values)})


def test_recipe_says_which_detections_are_projected() -> None:
    full = torch.ones(3, 1, 28, 28)
    boxes = torch.tensor([[0.0, 0, 32, 32], [32.0, 0, 64, 32], [64.0, 0, 96, 32]])
    scores = torch.tensor([0.75, 0.5, 0.25])
    found = {"boxes": boxes, "labels": torch.tensor([1, 1, 1]), "scores": scores, "masks": full}
    for values, expected in (
        ({}, [0.75, 0.5, 0.25]),
        ({"score_threshold": 0.25}, [0.75, 0.5, 0.0]),
        ({"detections": 1}, [0.75, 0.0, 0.0]),
        ({"score_threshold": 0.9}, [0.0, 0.0, 0.0]),
    ):
        canvas = build("panoptic-fpn-imp", with_section("projection", **values)).project([found], torch.zeros(1, 256, 16, 24))
        assert canvas[0, 0, 4, ::8].tolist() == expected


def test_ohem_counts_the_pixels_of_the_largest_loss_of_each_photograph() -> None:
    # Two classes, logits 0 and x where the target is class 0: the loss is log(1 + e^x), larger with x.
    logits = torch.zeros(2, 2, 1, 4)
    logits[0, 1, 0] = torch.tensor([3.0, 1.0, 2.0, 0.0])
    logits[1, 1, 0] = torch.tensor([9.0, 4.0, 8.0, 7.0])
    semantic = torch.tensor([[[0, 0, 0, 0]], [[255, 0, 255, 0]]])
    loss = [math.log(1 + math.exp(x)) for x in (3.0, 2.0, 7.0)]  # two of four pixels there, one of two here
    assert semantic_loss(logits, semantic, ohem=0.5).item() == pytest.approx(sum(loss) / 3, rel=1e-6)
    torch.testing.assert_close(semantic_loss(logits, semantic, ohem=0.9999), semantic_loss(logits, semantic))
    assert semantic_loss(logits, torch.full_like(semantic, 255), ohem=0.1) == 0


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        ({"channels_last": True}, 1e-3),
        ({"precision": "bfloat16"}, 0.1),
        ({"precision": "bfloat16", "channels_last": True}, 0.1),
    ],
)
def test_switches_for_speed_change_the_last_bits_only(values: dict[str, object], tolerance: float) -> None:
    plain, switched = (build("panoptic-fpn-imp", recipe).train() for recipe in (RECIPE, with_section("compute", **values)))
    assert {name: value.dtype for name, value in switched.state_dict().items()} == {
        name: value.dtype for name, value in plain.state_dict().items()
    }
    losses = []
    for model in (plain, switched):
        torch.manual_seed(2)
        losses.append(model(*batch())[0])
        sum(losses[-1].values()).backward()  # type: ignore[union-attr]
    for name, loss in losses[0].items():
        assert losses[1][name].dtype == torch.float32
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=tolerance, abs=tolerance)
    assert all(parameter.grad.dtype == torch.float32 for parameter in switched.parameters() if parameter.grad is not None)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # by torch's own compiler, of its own tensors
@pytest.mark.slow  # compiling takes half a minute
def test_compiled_backbone_and_head_give_the_same_losses_and_the_same_names() -> None:
    plain, compiled = (build("panoptic-fpn-imp").train() for _ in range(2))
    compiled.compile_dense()
    losses = []
    for model in (plain, compiled):
        torch.manual_seed(2)
        losses.append(model(*batch())[0])
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=1e-3, abs=1e-3)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_canvas_holds_the_largest_score_in_the_layer_of_the_class() -> None:
    model = build("panoptic-fpn-imp")
    full = torch.ones(1, 1, 28, 28)
    found = [
        {"boxes": torch.tensor([[0.0, 0, 32, 32]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.75]), "masks": full},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0).long(),
            "scores": torch.zeros(0),
            "masks": torch.zeros(0, 1, 28, 28),
        },
    ]
    canvas = model.project(found, torch.zeros(2, 256, 16, 24))
    expected = torch.zeros(2, 2, 16, 24)
    expected[0, 1, :8, :8] = 0.75  # label 2 is layer 1; a box of 32 px covers 8 canvas pixels
    torch.testing.assert_close(canvas, expected, rtol=0, atol=0)


def test_no_detection_gives_an_empty_canvas_and_a_map() -> None:
    strict = RECIPE.model_copy(update={"detector": RECIPE.detector.model_copy(update={"score_threshold": 1.0})})
    found, logits, canvas = infer(build("panoptic-fpn-imp", strict), torch.rand(3, 64, 80))
    assert len(found["boxes"]) == 0
    assert logits is not None
    assert logits.shape == (1, 4, 64, 80)
    assert canvas is not None
    assert canvas.abs().sum() == 0


def test_what_was_parsed_before_changes_nothing() -> None:
    image, strip = torch.rand(3, 64, 80), torch.rand(3, 38, 96)  # torchvision takes the pyramid's scales from the first image
    fresh, used = build("panoptic-fpn-imp").eval(), build("panoptic-fpn-imp").eval()
    used.load_state_dict(fresh.state_dict())
    used.infer([strip])
    expected, logits, _ = infer(fresh, image)
    found, again, _ = infer(used, image)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    torch.testing.assert_close(again, logits, rtol=0, atol=0)


def test_semantic_loss_leaves_out_ignored_pixels_and_padding() -> None:
    logits = torch.randn(1, 4, 8, 8)
    semantic = torch.randint(0, 4, (6, 5))
    padded = pad_maps([semantic], (8, 8))
    expected = nn.functional.cross_entropy(logits[:, :, :6, :5], semantic[None])
    torch.testing.assert_close(semantic_loss(logits, padded), expected)
    assert semantic_loss(logits, torch.full((1, 8, 8), 255)) == 0


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"panoptic-fpn-inp.*did you mean 'panoptic-fpn-imp'"):
        build("panoptic-fpn-inp")


def test_figure_of_the_models_shows_what_the_code_builds(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "docs" / "draw_models.py"
    drawn = subprocess.run([sys.executable, script, tmp_path / "models.png"], capture_output=True, text=True, check=True)
    rows = {line.split()[0]: " ".join(line.split()) for line in drawn.stdout.splitlines() if line.split()}
    assert rows.keys() >= MODELS.keys()
    assert "P2 P3 P4 P5 canvas 25 " in rows["panoptic-fpn-imp"]
    assert "P2 canvas 25 " in rows["panoptic-p2-imp"]
    assert rows["semantic-p2"].startswith("semantic-p2 - P2 0 ")
    assert (tmp_path / "models.png").stat().st_size > 10_000
