"""The model that ships: its file, what it finds without any training, and the figures of its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import yaml
from click.testing import Result
from PIL import Image
from safetensors import safe_open

import imptool as library
from imptool.data.dataset import load_dataset
from imptool.files import RECIPES, shipped_weights
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]
CARD_MIOU, CARD_BOX_AP = 46.6, 23.1  # percent
FILE = shipped_weights()["ccp-lite"]


def test_file_is_small_and_says_what_it_is() -> None:
    assert FILE.stat().st_size < 25e6
    with safe_open(FILE, framework="pt") as file:
        about = json.loads(file.metadata()["imptool"])
        kinds = {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118
    assert kinds == {"torch.float16"}
    assert about["recipe"]["compute"]["precision"] == "float32"
    assert [row["name"] for row in about["labels"]["classes"]][:3] == ["background", "bag", "belt"]
    assert {"sha256", "palette", "version"} <= about.keys()


def test_recipe_that_comes_with_imptool_is_the_one_it_was_trained_by() -> None:
    recipe = load_recipe("ccp_lite")
    trained = library.load("ccp-lite", device="cpu").trained
    assert trained.recipe.trains_like(recipe)
    assert not trained.recipe.trains_like(recipe.model_copy(update={"seed": 1}))
    assert trained.name == recipe.model.name


def test_predict_without_a_run_finds_what_the_tags_of_photographs_say(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Imptool
) -> None:
    """CCP's images with nothing but tags, on which nothing was trained: most tags are found, and little else."""
    monkeypatch.chdir(tmp_path)
    folder = shared_data / "photos" / "ccp_image_level"
    photographs = sorted((folder / "photos").glob("*.jpg"))[:12]
    result = imptool("predict", *photographs, "--out", "out", "--save", "labels", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "no trained run under runs/: using the shipped weights ccp-lite" in result.output
    class_of_tag = yaml.safe_load((RECIPES / "datasets" / "ccp.yaml").read_text())["remap"]
    pairs = []
    for photograph in photographs:
        tags = scipy.io.loadmat(folder / "image-level" / f"{photograph.stem}.mat")["tags"].ravel().tolist()
        ids, areas = np.unique(np.asarray(Image.open(f"out/labels/{photograph.stem}.png")), return_counts=True)
        found = set(ids[areas > 200].tolist()) - {0}
        pairs.append(({class_of_tag[tag] for tag in tags} - {0, 255}, found))
    both = sum(len(tagged & found) for tagged, found in pairs)
    assert both >= 0.75 * sum(len(tagged) for tagged, _ in pairs)
    assert both >= 0.65 * sum(len(found) for _, found in pairs)


@pytest.mark.slow  # minutes: 120 images, with AP and bands
def test_figures_of_the_card_are_those_of_the_val_split(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Imptool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPTOOL_DATA", str(shared_data))
    for arguments in (("convert-instances", "ccp"), ("eval", "--weights", "ccp-lite", "--out", "figures", "--device", "cpu")):
        result = imptool(*arguments)
        assert result.exit_code == 0, result.output
    metrics = json.loads(Path("figures/metrics.json").read_text())
    figures = metrics["semantic"]["panoptic-p2-imp"]
    assert len(load_dataset("ccp").split("val")) == 120
    assert 100 * figures["miou"] == pytest.approx(CARD_MIOU, abs=0.3)
    assert 100 * metrics["average_precision"]["box"]["AP"] == pytest.approx(CARD_BOX_AP, abs=0.3)
    assert all(row["iou"] > 0 for row in figures["per_class"])
