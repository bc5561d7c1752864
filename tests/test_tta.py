"""Test-time augmentation: `--tta` of eval and predict, `tta=` of the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import Result
from conftest import LABELS, draw_pair
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision.ops import batched_nms

import imptool as library
from imptool.checkpoint import save_weights
from imptool.data.dataset import load_dataset
from imptool.data.images import resize_image
from imptool.models import build_model

Imptool = Callable[..., Result]
IMAGE = draw_pair(4, size=(96, 64))[0]  # what the network of `run` takes without resizing
MIRRORED = np.ascontiguousarray(IMAGE[:, ::-1])
COAT, HAT = 1, 2  # channels


@pytest.fixture
def model(run: Path) -> Any:
    return library.load(run)


@pytest.fixture
def handed(run: Path) -> Any:
    """A model in whose mirror a coat (5) is a hat (9)."""
    trained = library.load(run).trained
    save_weights(Path("handed.safetensors"), trained.model, trained.name, trained.recipe, replace(LABELS, left_right=((5, 9),)))
    return library.load("handed.safetensors")


def change_about(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["imptool"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(about)
    save_file(state, path, metadata={"imptool": json.dumps(about)})


def write_dataset(rest: str = "") -> str:
    """A dataset with the classes of `run`: data/, my.yaml."""
    for seed in range(2):
        image, label = draw_pair(seed)
        for kind, pixels in (("images", image), ("labels", label * 5)):
            Path("data", kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(f"data/{kind}/{seed}.png")
    classes = "[{id: 0, name: background, thing: false}, {id: 5, name: coat}, {id: 9, name: hat}]"
    Path("my.yaml").write_text(f"layout: folder\nroot: ./data\nclasses: {classes}\nremap: {{10: 9}}\nbackground: 0\n{rest}")
    return "my.yaml"


def boxes_of(found: Any) -> np.ndarray:
    return np.array([one.box for one in found.instances])


def test_scale_1_alone_gives_the_bits_of_no_augmentation(model: Any) -> None:
    plain = model.trained.model.infer([torch.from_numpy(IMAGE).permute(2, 0, 1) / 255])
    (expected,), logits = plain.detections, plain.logits
    for tta in (None, "1"):
        found = model.predict(IMAGE, probabilities=True, tta=tta)
        np.testing.assert_array_equal(found.probabilities, logits[0].softmax(dim=0).numpy())
        np.testing.assert_array_equal(boxes_of(found), expected["boxes"].numpy())
        np.testing.assert_array_equal([one.score for one in found.instances], expected["scores"].numpy())


def test_probabilities_are_the_mean_of_those_of_image_and_mirror_image_with_left_and_right_put_back(handed: Any) -> None:
    plain, mirrored = (handed.predict(image, probabilities=True).probabilities for image in (IMAGE, MIRRORED))
    found = handed.predict(IMAGE, probabilities=True, tta="flip").probabilities
    np.testing.assert_allclose(found, (plain + mirrored[[0, HAT, COAT], :, ::-1]) / 2, atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


def test_probabilities_of_other_scales_are_averaged_at_the_largest(model: Any) -> None:
    small = resize_image(IMAGE, (48, 32))
    total = torch.zeros(1, 3, 96, 64)
    for image in (IMAGE, small):
        tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
        total += F.interpolate(model.trained.model.infer([tensor]).logits.softmax(dim=1), (96, 64), mode="bilinear") / 2
    found = model.predict(IMAGE, probabilities=True, tta="0.5,1")
    np.testing.assert_allclose(found.probabilities, total[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.semantic_map, np.array([0, 5, 9])[found.probabilities.argmax(axis=0)])


@pytest.mark.parametrize("tta", ["flip", "flip,0.5,1,1.5"])
def test_a_mirror_image_gives_the_mirror_image_of_the_result(handed: Any, tta: str) -> None:
    found, other = (handed.predict(image, probabilities=True, tta=tta) for image in (IMAGE, MIRRORED))
    np.testing.assert_allclose(other.probabilities, found.probabilities[[0, HAT, COAT], :, ::-1], atol=1e-5)
    assert found.instances
    assert [one.class_id for one in other.instances] == [{5: 9, 9: 5}[one.class_id] for one in found.instances]
    np.testing.assert_allclose(boxes_of(other), (64, 0, 64, 0) + boxes_of(found)[:, [2, 1, 0, 3]] * (-1, 1, -1, 1), atol=1e-3)
    masks, others = (each.instances[0]._prediction.masks for each in (found, other))
    np.testing.assert_allclose(others, masks[:, :, ::-1], atol=1e-4)


def test_instances_are_the_best_of_all_views_without_those_that_overlap(model: Any) -> None:
    plain, mirrored = (model.predict(image).instances for image in (IMAGE, MIRRORED))
    found = model.predict(IMAGE, tta="flip").instances
    seen = [*plain, *(replace(one, box=(64 - one.box[2], one.box[1], 64 - one.box[0], one.box[3])) for one in mirrored)]
    values = [torch.tensor([getattr(one, name) for one in seen]) for name in ("box", "score", "class_id")]
    heads = model.trained.model.detector.roi_heads
    kept = batched_nms(*values, heads.nms_thresh)[: heads.detections_per_img].tolist()
    assert [(one.class_id, one.score) for one in found] == [(seen[row].class_id, seen[row].score) for row in kept]
    np.testing.assert_allclose([one.box for one in found], [seen[row].box for row in kept], atol=1e-3)
    assert {row >= len(plain) for row in kept} == {True, False}  # some of each view


def test_masks_are_the_mean_over_views_of_the_masks_in_the_same_boxes(model: Any) -> None:
    prediction = model.predict(IMAGE, tta="flip").instances[0]._prediction
    boxes, labels = torch.from_numpy(prediction.boxes), torch.from_numpy(prediction.labels)
    heads, parser = model.trained.model.detector.roi_heads, model.trained.model
    masks = []
    for image, placed in ((IMAGE, boxes), (MIRRORED, boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]))):
        placed = placed + torch.tensor([64, 0, 64, 0]) * (image is MIRRORED)
        _, levels = parser.encode([torch.from_numpy(image).permute(2, 0, 1) / 255])
        with torch.no_grad():
            pooled = heads.mask_roi_pool(levels, [placed], [(96, 64)])
            logits = heads.mask_predictor(heads.mask_head(pooled))
        masks.append(logits[torch.arange(len(labels)), labels].sigmoid())
    np.testing.assert_allclose(prediction.masks, (masks[0] + masks[1].flip(-1)).numpy() / 2, atol=1e-5)


@pytest.mark.parametrize("name", ["mask-rcnn", "semantic-fpn", "mask-rcnn-imp"])
def test_every_kind_of_model_takes_it(run: Path, model: Any, name: str) -> None:
    trained = model.trained
    torch.manual_seed(0)
    save_weights(
        Path("other.safetensors"), build_model(name, trained.recipe, LABELS, pretrained=False), name, trained.recipe, LABELS
    )
    found = library.load("other.safetensors").predict(draw_pair(0)[0], tta="flip,0.5,1")
    assert (found.semantic_map is None) == (name == "mask-rcnn")
    assert bool(found.instances) == (name != "semantic-fpn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "--tta 0: scales must be 0.25 to 4"),
        ("flop", "--tta flop: 'flop' is neither flip nor a scale, such as in flip,0.75,1,1.25"),
        ("0.1,100", "--tta 0.1,100: scales must be 0.25 to 4"),
        ("nan", "--tta nan: scales must be 0.25 to 4"),
        ("1,1.0", "--tta 1,1.0: flip, or a scale, is there twice"),
        ("flip,flip", "--tta flip,flip: flip, or a scale, is there twice"),
        ("", "--tta : '' is neither flip nor a scale"),
    ],
)
def test_a_bad_list_is_one_line(run: Path, imptool: Imptool, text: str, message: str) -> None:
    dataset = write_dataset()
    for arguments in (("predict", "data/images"), ("eval", "--dataset", dataset, "--split", "all")):
        result = imptool(*arguments, "--tta", text)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not Path("predictions").exists()


def test_it_is_refused_where_no_model_parses(run: Path, imptool: Imptool) -> None:
    for arguments in (("--predictions", "data/labels"), ("--baseline", "prior")):
        result = imptool("eval", "--dataset", write_dataset(), *arguments, "--tta", "flip")
        assert result.exit_code == 2
        assert "--tta is about the views that a model parses" in result.stderr


def test_weights_that_do_not_say_what_is_left_and_right_are_not_mirrored(run: Path, imptool: Imptool) -> None:
    change_about(run / "weights.safetensors", lambda about: about["labels"].pop("left_right"))
    dataset = write_dataset("left_right: [[5, 9]]\n")
    refused = imptool("predict", "data/images", "--tta", "flip")
    assert refused.exit_code == 2
    assert "these weights do not say which classes change places in a mirror: leave out flip" in refused.stderr
    with pytest.raises(library.InputError, match="do not say which classes"):
        library.load(run).predict(IMAGE, tta="flip")
    assert imptool("predict", "data/images", "--tta", "0.5,1").exit_code == 0
    assert imptool("convert-instances", dataset).exit_code == 0
    assert imptool("eval", "--dataset", dataset, "--split", "all", "--tta", "flip").exit_code == 0  # the dataset says it


@pytest.mark.parametrize("pairs", [[[5, 7]], [5, 9], "ab", [[5]]])
def test_weights_with_damaged_pairs_are_told_in_one_line(run: Path, imptool: Imptool, pairs: Any) -> None:
    write_dataset()
    change_about(run / "weights.safetensors", lambda about: about["labels"].update(left_right=pairs))
    result = imptool("predict", "data/images")
    assert result.exit_code == 2
    assert "does not say what it was trained for, or is damaged" in result.stderr


def test_weights_keep_the_left_and_right_of_their_dataset(model: Any) -> None:
    labels = load_dataset(write_dataset("left_right: [[5, 9]]\n")).labels
    save_weights(Path("other.safetensors"), model.trained.model, model.trained.name, model.trained.recipe, labels)
    assert library.load("other.safetensors").labels.left_right == ((5, 9),)


def test_an_evaluation_says_which_and_leaves_the_one_without_alone(run: Path, imptool: Imptool) -> None:
    dataset = write_dataset()
    (run / "recipe.yaml").write_text("stages: {full: {}}")
    assert imptool("convert-instances", dataset).exit_code == 0
    for tta in ((), ("--tta", "1,flip,0.50")):
        result = imptool("eval", run, "--dataset", dataset, "--split", "all", *tta)
        assert result.exit_code == 0, result.output
    plain, augmented = run / "eval-all", run / "eval-all-tta-flip-0.5-1"
    assert [json.loads((each / "metrics.json").read_text())["tta"] for each in (plain, augmented)] == ["", "flip,0.5,1"]
    assert "test-time augmentation: flip,0.5,1" in result.stdout
    assert "test-time augmentation" in (augmented / "report.html").read_text()
    assert "test-time augmentation" not in (plain / "report.html").read_text()
    for format_ in ("table", "markdown", "csv"):
        compared = imptool("compare", f"with={augmented}", f"without={plain}", "--format", format_)
        assert "test-time augmentation: with flip,0.5,1; without none" in " ".join(compared.output.split())
    assert "test-time augmentation" not in imptool("compare", plain).output


def test_resuming_with_another_list_does_not_mix_results(run: Path, imptool: Imptool) -> None:
    write_dataset()
    assert imptool("predict", "data/images", "--tta", "flip,0.5,1").exit_code == 0
    for tta in ((), ("--tta", "flip")):
        refused = imptool("predict", "data/images", "--resume", *tta)
        assert refused.exit_code == 2
        assert "holds results of other weights, or of another precision or --tta" in refused.stderr
    resumed = imptool("predict", "data/images", "--resume", "--tta", "1,0.5,flip")
    assert resumed.exit_code == 0
    assert "2 of them done already" in resumed.stdout


def test_photographs_of_one_size_are_parsed_together_as_alone(run: Path, model: Any, imptool: Imptool) -> None:
    sizes = {"a": (96, 72), "b": (96, 72), "c": (960, 717), "d": (480, 359)}  # c and d have one size at scale 1, two at 1.5
    Path("photos").mkdir()
    for name, size in sizes.items():
        Image.fromarray(draw_pair(0, size=(96, 72))[0]).resize(size[::-1]).save(f"photos/{name}.png")
    tta = "flip,0.5,1,1.5"
    result = imptool("predict", "photos", "--tta", tta, "--batch", "4")
    assert result.exit_code == 0, result.output
    for name in sizes:
        together = np.asarray(Image.open(f"predictions/photos/labels/{name}.png"))
        assert (together == model.predict(f"photos/{name}.png", tta=tta).semantic_map).mean() > 0.999
