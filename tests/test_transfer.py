"""Weights from elsewhere: what is taken, what goes by the names of the classes, and that nothing is skipped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from imptool.checkpoint import save_weights
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.files import RECIPES, InputError
from imptool.models import build_model
from imptool.models.transfer import Weights, fit_weights, read_start
from imptool.recipe import Recipe

TORCHVISION = ("roi_heads.box_predictor.cls_score.weight", "backbone.body.conv1.weight")
CLASSIFIER = "detector.roi_heads.box_predictor.cls_score.weight"
BOXES = "detector.roi_heads.box_predictor.bbox_pred.weight"
MASKS = "detector.roi_heads.mask_predictor.mask_fcn_logits.weight"


def recipe(backbone: str = "resnet18", **detector: object) -> Recipe:
    return Recipe.model_validate(
        {
            "dataset": "none",
            "backbone": {"name": backbone, "weights": "none", "norm": "batch" if backbone == "resnet18" else "frozen"}
            if backbone == "resnet18"
            else {"name": backbone, "weights": "IMAGENET1K_V1"},
            "detector": detector,
            "stages": {"full": {"iterations": 1}},
        }
    )


def classes(*names: str) -> LabelSet:
    infos = [ClassInfo(id=0, name="background", thing=False)]
    infos += [ClassInfo(id=number, name=name, thing=not name.startswith("~")) for number, name in enumerate(names, start=1)]
    return LabelSet(tuple(infos), background=0, ignore=255)


def cityscapes() -> LabelSet:
    text = (RECIPES / "datasets" / "cityscapes.yaml").read_text()
    infos = []
    for line in text.splitlines():
        if "{id:" in line:
            name = line.split("name: ")[1].split(",")[0]
            infos.append(ClassInfo(id=len(infos), name=name, thing="thing: false" not in line))
    return LabelSet(tuple(infos), background=None, ignore=255)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's COCO_V1 is: 91 classes, and its names of 2020."""
    torch.manual_seed(3)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {}
    for name, value in model.state_dict().items():
        for level in range(4):
            for kind in ("inner", "layer"):
                name = name.replace(f"fpn.{kind}_blocks.{level}.0.", f"fpn.{kind}_blocks.{level}.")
            name = name.replace(f"mask_head.{level}.0.", f"mask_head.mask_fcn{level + 1}.")
        state[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    check = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    check.load_state_dict(state)  # torchvision itself takes these names for its own
    path = tmp_path_factory.mktemp("coco") / "coco.pth"
    torch.save(state, path)
    return path


def test_coco_to_cityscapes_keeps_every_class_but_rider(coco: Path) -> None:
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    labels = cityscapes()
    torch.manual_seed(0)
    model = build_model("panoptic-fpn-imp", recipe("resnet50"), labels, pretrained=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fitted = fit_weights(model, read_start(str(coco), backbone="resnet50"), labels)
    assert fitted.classes == ["person", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert fitted.new_classes == ["rider"]
    assert all(name.startswith("semantic_head") for name in fitted.new)
    assert fitted.left == []
    given = torch.load(coco, weights_only=True)
    after = model.state_dict()
    for label, name in enumerate(["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"], start=1):
        row = names.index(name) if name in names else None
        boxes = None if row is None else slice(4 * row, 4 * row + 4)
        for key, own, theirs in (
            (CLASSIFIER, label, row),
            (MASKS, label, row),
            (BOXES, slice(4 * label, 4 * label + 4), boxes),
        ):
            source = before[key][own] if theirs is None else given[key.removeprefix("detector.")][theirs]
            assert torch.equal(after[key][own], source), (name, key)
    assert torch.equal(after[CLASSIFIER][0], given[CLASSIFIER.removeprefix("detector.")][0])  # the detector's background
    # Old names: FPN, RPN and mask head are taken as well.
    assert torch.equal(after["detector.backbone.fpn.layer_blocks.2.0.weight"], given["backbone.fpn.layer_blocks.2.weight"])
    assert torch.equal(after["detector.rpn.head.conv.0.0.bias"], given["rpn.head.conv.bias"])
    assert torch.equal(after["detector.roi_heads.mask_head.3.0.weight"], given["roi_heads.mask_head.mask_fcn4.weight"])
    line = fitted.describe()
    assert "by class name: person, car, truck, bus, train, motorcycle, bicycle; new classes: rider" in line
    assert "in part: detector.roi_heads (6 tensors)" in line
    assert "; new classes: rider" in fitted.summary()


def test_a_detector_of_unknown_classes_gives_all_but_its_prediction_layers(tmp_path: Path) -> None:
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5).state_dict()
    torch.save({"model": state}, tmp_path / "other.pth")
    labels = classes("coat", "hat", "bag", "shoe")
    model = build_model("mask-rcnn", recipe("resnet50"), labels, pretrained=False)
    fitted = fit_weights(model, read_start(str(tmp_path / "other.pth"), backbone="resnet50"), labels)
    assert {name.rpartition(".")[0].removeprefix("detector.roi_heads.") for name in fitted.new} == {
        "box_predictor.cls_score",
        "box_predictor.bbox_pred",
        "mask_predictor.mask_fcn_logits",
    }
    assert sorted(fitted.left) == sorted(fitted.new)
    assert "it does not say for which classes it is, so that the prediction layers are new" in fitted.describe()


def test_classes_move_with_their_names_between_our_own_models(tmp_path: Path) -> None:
    old, new = classes("coat", "~skin", "hat", "scarf_tie"), classes("Scarf Tie", "coat", "~skin", "glove")
    torch.manual_seed(0)
    source = build_model("panoptic-fpn-imp", recipe(), old, pretrained=False)
    torch.manual_seed(1)
    model = build_model("panoptic-fpn-imp", recipe(), new, pretrained=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_weights(tmp_path / "a.safetensors", source, "panoptic-fpn-imp", recipe(), old)
    fitted = fit_weights(model, read_start(str(tmp_path / "a.safetensors"), backbone="resnet18"), new)
    given, after = source.state_dict(), model.state_dict()
    assert (fitted.new, fitted.left, fitted.new_classes) == ([], [], ["glove"])
    # Labels: coat 1, hat 2, scarf 3 -> scarf 1, coat 2, glove 3.
    for ours, theirs in ((0, 0), (1, 3), (2, 1)):
        assert torch.equal(after[CLASSIFIER][ours], given[CLASSIFIER][theirs])
    assert torch.equal(after[CLASSIFIER][3], before[CLASSIFIER][3])
    head = "semantic_head.predictor.weight"  # channels: coat 1, skin 2, hat 3, scarf 4 -> scarf 1, coat 2, skin 3, glove 4
    for ours, theirs in ((0, 0), (1, 4), (2, 1), (3, 2)):
        assert torch.equal(after[head][ours], given[head][theirs])
    assert torch.equal(after[head][4], before[head][4])
    canvas = "semantic_head.convs.0.0.weight"  # 128 features, then the layers of the canvas
    assert torch.equal(after[canvas][:, :128], given[canvas][:, :128])
    for ours, theirs in ((0, 2), (1, 0)):
        assert torch.equal(after[canvas][:, 128 + ours], given[canvas][:, 128 + theirs])
    assert torch.equal(after[canvas][:, 130], before[canvas][:, 130])


def test_a_head_without_a_canvas_gives_its_features_to_one_with() -> None:
    labels = classes("coat", "hat")
    plain = build_model("panoptic-fpn", recipe(), labels, pretrained=False)
    model = build_model("panoptic-fpn-imp", recipe(), labels, pretrained=False)
    fitted = fit_weights(model, Weights.of_run(plain.state_dict(), labels, source="plain"), labels)
    key = "semantic_head.convs.0.0.weight"
    assert (fitted.partly, fitted.new, fitted.left) == ([key], [], [])
    assert torch.equal(model.state_dict()[key][:, :128], plain.state_dict()[key])
    back = build_model("panoptic-fpn", recipe(), labels, pretrained=False)
    assert fit_weights(back, Weights.of_run(model.state_dict(), labels, source="imp"), labels).left == []
    assert torch.equal(back.state_dict()[key], plain.state_dict()[key])


def test_a_head_gives_the_same_where_its_canvas_stands_at_another_scale(tmp_path: Path) -> None:
    labels, plain = classes("coat", "hat"), recipe()
    larger = plain.model_copy(update={"projection": plain.projection.model_copy(update={"scale": 4.0})})
    torch.manual_seed(0)
    one, other = (build_model("panoptic-fpn-imp", each, labels, pretrained=False).eval() for each in (plain, larger))
    save_weights(tmp_path / "one.safetensors", one, "panoptic-fpn-imp", plain, labels)
    fit_weights(other, read_start(str(tmp_path / "one.safetensors"), backbone="resnet18"), labels)
    features = {str(level): torch.randn(1, 256, 32 >> level, 32 >> level) for level in range(4)}
    canvas = torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other.semantic_head(features, canvas), one.semantic_head(features, canvas))


def test_the_background_is_one_class_whatever_it_is_called() -> None:
    ours, theirs = classes("coat"), classes("coat")
    called = LabelSet((ours.classes[0].model_copy(update={"name": "null"}), *ours.classes[1:]), background=0, ignore=255)
    torch.manual_seed(0)
    one, other = (build_model("panoptic-fpn", recipe(), each, pretrained=False) for each in (theirs, called))
    fitted = fit_weights(other, Weights.of_run(one.state_dict(), theirs, source="theirs"), called)
    assert fitted.new_classes == []
    torch.testing.assert_close(other.semantic_head.predictor.weight, one.semantic_head.predictor.weight)


def test_a_narrower_model_is_told_tensor_by_tensor() -> None:
    labels = classes("coat", "hat")
    wide, narrow = (build_model("mask-rcnn", recipe(box_features=width), labels, pretrained=False) for width in (64, 32))
    fitted = fit_weights(narrow, Weights.of_run(wide.state_dict(), labels, source="wide"), labels)
    parts = {name.split(".")[2] for name in fitted.left}
    assert parts == {"box_head", "box_predictor"}
    assert sorted(fitted.new) == sorted(fitted.left)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone.pth", None, "stages: from: no file gone.pth"),
        ("text.pth", b"hello", "text.pth is no file of tensors"),
        ("text.safetensors", b"hello", "text.safetensors is no file of tensors"),
        ("backbone.pth", {"conv1.weight": torch.zeros(1)}, "a backbone alone belongs in backbone.weights"),
        ("numbers.pth", {"a": 1}, "holds other things than tensors"),
        ("places.pth", {1: torch.zeros(1)}, "holds other things than tensors"),
        ("scalar.pth", dict.fromkeys(TORCHVISION, torch.zeros(())), "is no Mask R-CNN"),
        ("code.pth", b"cposix\nsystem\n(S'touch hacked'\ntR.", "it holds other things than tensors and plain values"),
        ("list.pth", [torch.zeros(1)], "list.pth is no file of tensors"),
    ],
)
def test_files_that_hold_something_else_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    with pytest.raises(InputError) as raised:
        read_start(name, backbone="resnet50")
    assert words in str(raised.value)


def test_coco_by_name_is_for_resnet50_alone() -> None:
    with pytest.raises(InputError, match="torchvision has it for resnet50, not for resnet101: name a local file"):
        read_start("COCO_V1", backbone="resnet101")


def test_names_that_cannot_be_downloaded_say_what_else_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"COCO_V1 could not be downloaded \(no network\): name a local file \(https://"):
        read_start("COCO_V1", backbone="resnet50")


def test_file_that_lies_about_its_classes_gives_what_it_has() -> None:
    labels = classes("coat", "hat")
    model = build_model("mask-rcnn", recipe(), labels, pretrained=False)
    state = dict(model.state_dict())
    claims = Weights(state, "liar", things=["hat", "a", "b", "coat"], channels=["hat"])
    fitted = fit_weights(model, claims, labels)
    assert {CLASSIFIER, BOXES, MASKS} <= set(fitted.left)
    state[CLASSIFIER] = torch.zeros(())
    assert CLASSIFIER in fit_weights(model, claims, labels).left
