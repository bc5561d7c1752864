"""imptool as a library, and the one file of a model."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable
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
from imptool.data.palette import voc_palette

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
    assert "was written by imptool 9.9, and this is 0.1.0: " in says(newer)
    assert "unknown key 'telepathy'" in says(newer)
    fewer = LABELS.to_plain()
    fewer["classes"] = fewer["classes"][:2]
    assert "holds the weights of another model or class list" in says({"labels": fewer})
