"""imptool as a library, and the one file of a model."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import LABELS, draw_pair
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torchvision.models.detection.roi_heads import paste_masks_in_image

import imptool as library
from imptool.data.palette import class_palette, voc_palette

Imptool = Callable[..., Result]


@pytest.fixture
def model(run: Path) -> Any:
    return library.load(run)


def test_a_photograph_gives_map_instances_and_names_as_predict_writes_them(run: Path, model: Any, imptool: Imptool) -> None:
    image = draw_pair(0)[0]
    Path("photos").mkdir()
    Image.fromarray(image).save("photos/a.png")
    assert imptool("predict", "photos").exit_code == 0
    found = model.predict("photos/a.png")
    label = np.asarray(Image.open("predictions/photos/labels/a.png"))
    np.testing.assert_array_equal(found.semantic_map, label)
    assert found.semantic_map.dtype == np.uint8
    assert found.class_names == {0: "background", 5: "coat", 9: "hat"}
    assert found.found == [name for class_id, name in found.class_names.items() if (label == class_id).any()]
    rows = json.loads(Path("predictions/photos/predictions.json").read_text())
    assert [(one.class_id, round(one.score, 5)) for one in found.instances] == [
        (row["category_id"], row["score"]) for row in rows
    ]
    assert found.instances[0].class_name == found.class_names[found.instances[0].class_id]
    np.testing.assert_array_equal(model.predict(image).semantic_map, label)
    np.testing.assert_array_equal(model.predict(Path("photos/a.png")).semantic_map, label)


def test_masks_of_instances_are_those_that_torchvision_pastes(model: Any) -> None:
    found = model.predict(draw_pair(1)[0])
    assert found.instances
    prediction = found.instances[0]._prediction
    masks, boxes = torch.from_numpy(prediction.masks[:, None]), torch.from_numpy(prediction.boxes)
    pasted = paste_masks_in_image(masks, boxes, prediction.size)[:, 0] > 0.5
    for one, mask in zip(found.instances, pasted.numpy(), strict=True):
        assert one.mask.dtype == bool
        np.testing.assert_array_equal(one.mask, mask)


def test_probabilities_are_given_on_request_and_agree_with_the_map(model: Any) -> None:
    image = draw_pair(0)[0]
    assert model.predict(image).probabilities is None
    found = model.predict(image, probabilities=True)
    assert found.probabilities.shape == (3, *image.shape[:2])
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-5)
    largest = np.array(list(found.class_names))[found.probabilities.argmax(axis=0)]
    np.testing.assert_array_equal(largest, found.semantic_map)


def with_coat_and_hat(model: Any, coat: int = 1200, hat: int = 300) -> Any:
    """A result on 120 x 100 px whose map is known: so many pixels of a coat (5), a hat (9) below, the rest background."""
    image = np.full((120, 100, 3), 100, np.uint8)
    ids = np.zeros(120 * 100, np.uint8)
    ids[:coat], ids[6000 : 6000 + hat] = 5, 9
    return replace(model.predict(image), image=image, semantic_map=ids.reshape(120, 100))


def test_load_is_listed_by_dir() -> None:
    assert {"load", "Model", "Parsing", "Instance", "InputError", "__version__"} <= set(dir(library))


def test_a_repr_is_one_line_that_shows_what_matters(model: Any) -> None:
    found = with_coat_and_hat(model)
    found.instances[:] = found.instances[:2]
    assert repr(model) == "<Model panoptic-fpn-imp on resnet18, 3 classes, cpu, from …/tiny/one/weights.safetensors>"
    assert repr(found) == "<Parsing of 100 x 120 px: coat 10%, hat 2%; 2 instances>"
    one = replace(found.instances[0], class_name="coat", score=0.876, box=(1.4, 2.6, 30.0, 40.5))
    assert repr(one) == "<Instance coat, score 0.88, box (1, 3, 30, 40)>"
    assert repr(replace(found, semantic_map=None)) == "<Parsing of 100 x 120 px: no semantic map; 2 instances>"
    assert repr(replace(found, semantic_map=np.zeros((120, 100), np.uint8))).endswith("px: nothing; 2 instances>")
    odd = {0: "background", 5: "x" * 400, 9: "new\nline"}
    assert len(repr(replace(found, class_names=odd))) < 100
    assert "\n" not in repr(replace(found, class_names=odd))


def test_shares_are_of_all_pixels_and_largest_first(model: Any) -> None:
    found = with_coat_and_hat(model)
    assert list(found.shares.items()) == [("background", 0.875), ("coat", 0.1), ("hat", 0.025)]
    assert replace(found, semantic_map=None).shares == {}


def test_overlay_blends_each_class_with_its_colour_and_leaves_the_background(model: Any) -> None:
    found = with_coat_and_hat(model)
    drawn = found.overlay()
    assert (drawn.shape, drawn.dtype) == ((120, 100, 3), np.uint8)
    assert (drawn[found.semantic_map == 0] == 100).all()
    for class_id, row in ((5, 5), (9, 61)):  # rows inside of the coat and the hat
        np.testing.assert_allclose(drawn[row, 50], (100 + class_palette()[class_id].astype(int)) / 2, atol=1)
    np.testing.assert_array_equal(found.overlay(alpha=1)[5, 50], class_palette()[5])


def test_the_overlay_of_detections_alone_has_the_better_instance_on_top(model: Any) -> None:
    found = replace(model.predict(draw_pair(0)[0]), semantic_map=None)
    expected = np.zeros((96, 72), int)
    for one in found.instances[::-1]:
        expected[one.mask] = one.class_id
    drawn = found.overlay(alpha=1)
    np.testing.assert_array_equal(drawn[expected > 0], class_palette()[expected[expected > 0]])
    np.testing.assert_array_equal(drawn[expected == 0], found.image[expected == 0])


def test_a_plot_has_image_overlay_and_legend_and_a_notebook_gets_it_as_png(model: Any) -> None:
    found = with_coat_and_hat(model, hat=0)
    figure = found.plot()
    for axes, picture in zip(figure.axes, (found.image, found.overlay()), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), picture)
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["coat"]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [tuple(class_palette()[5] / 255)]
    with Image.open(io.BytesIO(found._repr_png_())) as picture:
        assert picture.format == "PNG"
        assert max(picture.size) < 2000
    assert replace(found, semantic_map=np.zeros((120, 100), np.uint8)).plot().axes


def test_a_result_holds_the_given_array_and_no_copy(model: Any) -> None:
    image = draw_pair(0)[0]
    assert model.predict(image).image is image
    turned = image[:, ::-1]
    np.testing.assert_array_equal(model.predict(turned).image, turned)
    assert model.predict(turned).overlay().shape == image.shape


def test_threads_get_what_one_after_another_gets(model: Any) -> None:
    images = [draw_pair(number, size=(96 + number, 72))[0] for number in range(8)]
    alone = [model.predict(image) for image in images]
    together: dict[int, Any] = {}

    def work(number: int) -> None:
        together[number] = model.predict(images[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, one in enumerate(alone):
        np.testing.assert_array_equal(together[number].semantic_map, one.semantic_map)
        assert [each.score for each in together[number].instances] == [each.score for each in one.instances]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)]
)
def test_an_array_that_is_no_photograph_is_refused_with_what_was_given(model: Any, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image must be a path or \[H, W, 3\] uint8 RGB, got \("):
        model.predict(image)


def test_a_missing_photograph_or_model_is_an_input_error(model: Any) -> None:
    with pytest.raises(library.InputError, match=r"nowhere\.jpg does not exist"):
        model.predict("nowhere.jpg")
    with pytest.raises(library.InputError, match="nowhere is no run of imptool train"):
        library.load("nowhere")
    with pytest.raises(AttributeError, match="no attribute 'parse'"):
        library.parse  # noqa: B018


def test_export_is_one_file_that_predict_eval_and_load_take(run: Path, imptool: Imptool) -> None:
    result = imptool("export")
    assert result.exit_code == 0, result.output
    assert "weights.safetensors: panoptic-fpn-imp from runs/tiny/one/weights.safetensors, 3 classes" in result.stdout
    with safe_open("weights.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["imptool"])
    assert about["model"] == "panoptic-fpn-imp"
    assert about["version"] == library.__version__
    assert [info["name"] for info in about["labels"]["classes"]] == ["background", "coat", "hat"]
    assert about["palette"] == voc_palette()[[0, 5, 9]].tolist()
    assert about["recipe"]["input"]["short_side"] == 64
    run.rename("elsewhere")
    Path("tiny.yaml").unlink()
    Path("photos").mkdir()
    image, label = draw_pair(0)
    Image.fromarray(image).save("photos/a.png")
    assert imptool("predict", "photos", "--weights", "weights.safetensors").exit_code == 0
    assert library.load("weights.safetensors").predict(image).found
    for kind, pixels in (("images", image), ("labels", label * 5)):
        Path("data", kind).mkdir(parents=True)
        Image.fromarray(pixels).save(f"data/{kind}/a.png")
    classes = "[{id: 0, name: background, thing: false}, {id: 5, name: coat}, {id: 9, name: hat}]"
    Path("my.yaml").write_text(f"layout: folder\nroot: ./data\nclasses: {classes}\nremap: {{10: 9}}\nbackground: 0\n")
    assert imptool("convert-instances", "my.yaml").exit_code == 0
    result = imptool("eval", "--weights", "weights.safetensors", "--dataset", "my.yaml", "--split", "all", "--out", "measured")
    assert result.exit_code == 0, result.output
    refused = imptool("export", "elsewhere")
    assert refused.exit_code == 2
    assert "weights.safetensors is there already: add --force" in refused.stderr
    assert imptool("export", "elsewhere", "--force").exit_code == 0
    assert "must end in .safetensors" in imptool("export", "elsewhere", "--out", "model.pt").stderr


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint-full-0000004.pt"])
def test_a_model_that_holds_code_is_refused_and_not_run(run: Path, imptool: Imptool, name: str) -> None:
    Path("photos").mkdir()
    Image.fromarray(draw_pair(0)[0]).save("photos/a.png")
    (run / "weights.safetensors").unlink()
    (run / "recipe.yaml").write_text("stages: {full: {}}")
    if name.endswith(".pt"):
        torch.save({"stage": Harm()}, run / name)
    else:
        (run / name).write_bytes(pickle.dumps(Harm()))
    result = imptool("predict", "photos", "--run", run)
    assert result.exit_code == 2
    assert f"{name} is no " in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("harmed").exists()


def test_weights_of_another_version_or_class_list_are_told_in_one_line(run: Path, imptool: Imptool) -> None:
    Path("photos").mkdir()
    Image.fromarray(draw_pair(0)[0]).save("photos/a.png")
    path = run / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["imptool"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def says(change: dict[str, Any]) -> str:
        save_file(state, path, metadata={"imptool": json.dumps({**about, **change})})
        result = imptool("predict", "photos", "--run", path)
        assert result.exit_code == 2
        assert result.stderr.count("\n") == 1
        return result.stderr

    newer = {"version": "9.9", "recipe": {**about["recipe"], "telepathy": True}}
    assert f"was written by imptool 9.9, and this is {library.__version__}: " in says(newer)
    assert "unknown key 'telepathy'" in says(newer)
    fewer = LABELS.to_plain()
    fewer["classes"] = fewer["classes"][:2]
    assert "holds the weights of another model or class list" in says({"labels": fewer})
