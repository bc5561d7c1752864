"""Weights that come with imptool, by name; float16 files; and the hash that a file states of its tensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import LABELS, TINY, draw_pair, write_workplace
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import imptool as library
from imptool.checkpoint import load_weights, save_weights
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.files import InputError
from imptool.models import build_model
from imptool.models.transfer import fit_weights, read_start
from imptool.models.weights import read_tensors, sha256
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]
PREDICTOR = "semantic_head.predictor.weight"


def about_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["imptool"])
    return about


@pytest.fixture
def shipped(run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only model: ccp-lite in the folder of weights that come with imptool. There is a folder of one image."""
    folder = tmp_path_factory.mktemp("weights")
    monkeypatch.setattr("imptool.files.SHIPPED", folder)
    (run / "weights.safetensors").rename(folder / "ccp-lite.safetensors")
    shutil.rmtree("runs")
    Path("photos").mkdir()
    Image.fromarray(draw_pair(0)[0]).save("photos/a.png")
    return folder / "ccp-lite.safetensors"


def refusal(result: Result) -> str:
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    return result.stderr


# --- by name ---


def test_predict_without_a_run_takes_the_shipped_weights_and_says_so(shipped: Path, imptool: Imptool) -> None:
    result = imptool("predict", "photos", "--save", "labels")
    assert result.exit_code == 0, result.output
    line = "no trained run under runs/: using the shipped weights ccp-lite; --weights or --run chooses others"
    assert line in result.output.splitlines()
    label = np.asarray(Image.open("predictions/photos/labels/a.png"))
    np.testing.assert_array_equal(library.load("ccp-lite").predict("photos/a.png").semantic_map, label)
    for number, option in enumerate((("--weights", "ccp-lite"), ("--weights", shipped), ("--run", shipped))):
        result = imptool("predict", "photos", "--save", "labels", *option, "--out", number)
        assert result.exit_code == 0, result.output
        assert "shipped" not in result.output
        assert Path(f"{number}/labels/a.png").read_bytes() == Path("predictions/photos/labels/a.png").read_bytes()


def test_predict_takes_a_run_before_the_shipped_weights(shipped: Path, imptool: Imptool) -> None:
    Path("runs/mine").mkdir(parents=True)
    shutil.copy(shipped, "runs/mine/weights.safetensors")
    result = imptool("predict", "photos", "--save", "labels")
    assert result.exit_code == 0, result.output
    assert "from runs/mine/weights.safetensors" in result.output
    assert "shipped" not in result.output


def test_eval_and_export_take_a_shipped_name(shipped: Path, imptool: Imptool) -> None:
    write_workplace(Path())
    Path("drawn.yaml").write_text(
        Path("drawn.yaml").read_text()
        + "classes: [{id: 0, name: background, thing: false}, {id: 5, name: coat}, {id: 9, name: hat}]\nremap: {1: 5, 2: 9}\n"
    )
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    result = imptool("eval", "--weights", "ccp-lite", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert Path("evaluations/drawn-val/ccp-lite/metrics.json").is_file()
    assert imptool("export", "ccp-lite").exit_code == 0
    assert load_file("weights.safetensors").keys() == load_file(shipped).keys()
    assert "ccp-lite names weights that come with imptool" in refusal(imptool("eval"))


def test_a_path_that_exists_wins_over_a_shipped_name(shipped: Path, imptool: Imptool) -> None:
    Path("ccp-lite").mkdir()
    with pytest.raises(InputError, match=r"ccp-lite is no run of imptool train: no recipe\.yaml"):
        library.load("ccp-lite")
    words = "--weights ccp-lite: no such file of weights (.safetensors), but a folder"
    assert words in refusal(imptool("predict", "photos", "--weights", "ccp-lite"))
    shutil.copy(shipped, "ccp-lite/weights.safetensors")
    assert library.load("ccp-lite").trained.source == Path("ccp-lite/weights.safetensors")
    assert imptool("predict", "photos", "--save", "labels").exit_code == 0  # names no path


def test_an_unknown_name_is_one_line_with_the_nearest(shipped: Path, imptool: Imptool) -> None:
    nearest = "and no weights of that name come with imptool; did you mean 'ccp-lite'?"
    for command in (
        ("predict", "photos", "--weights", "ccp-light"),
        ("eval", "--weights", "ccp-lite.safetensors"),
        ("export", "cpp-lite"),
    ):
        assert nearest in refusal(imptool(*command))
    with pytest.raises(InputError, match=nearest.replace("?", r"\?")):
        library.load("ccp_lite")


def test_a_shipped_file_that_is_missing_is_a_damaged_installation(shipped: Path, imptool: Imptool) -> None:
    shipped.unlink()
    words = "ccp-lite.safetensors is missing: this installation of imptool is damaged, install it again"
    assert words in refusal(imptool("predict", "photos"))
    assert words in refusal(imptool("predict", "photos", "--weights", "ccp-lite"))
    for load in (library.load, lambda name: read_start(name, backbone="resnet18")):
        with pytest.raises(InputError, match=words):
            load("ccp-lite")


# --- in recipes ---


def starting_from(name: str, *earlier: str) -> str:
    stages = "".join(f"{stage}: {{model: mask-rcnn, iterations: 1}}, " for stage in earlier)
    return TINY.split("stages:")[0] + f"stages: {{{stages}full: {{from: {name}, iterations: 1}}}}\n"


def test_a_stage_starts_from_a_shipped_name_and_classes_go_by_theirs(shipped: Path, imptool: Imptool) -> None:
    write_workplace(Path())
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    Path("mine.yaml").write_text(starting_from("ccp-lite"))
    result = imptool("train", "mine.yaml", "--out", "run", "--workers", "0")
    assert result.exit_code == 0, result.output
    count = len(load_file("run/weights.safetensors"))
    assert f"\npanoptic-fpn-imp starts from ccp-lite: takes {count} of {count} tensors\n" in result.output
    written = Path("run/start-full.txt").read_text()
    assert written.startswith("panoptic-fpn-imp starts from ccp-lite: taken: detector.backbone (")
    assert "new: nothing" in written
    labels = LabelSet(
        tuple(ClassInfo(id=n, name=name, thing=n > 0) for n, name in enumerate(("background", "Hat", "glove", "coat"))), 0, 255
    )
    model = build_model("panoptic-fpn-imp", load_recipe("mine.yaml"), labels, pretrained=False)
    fitted = fit_weights(model, read_start("ccp-lite", backbone="resnet18"), labels)
    assert (fitted.new_classes, fitted.new, fitted.left) == (["glove"], [], [])
    given = load_file(shipped)[PREDICTOR]  # background, coat, hat
    for ours, theirs in ((0, 0), (1, 2), (3, 1)):
        assert torch.equal(model.state_dict()[PREDICTOR][ours], given[theirs])


def test_an_earlier_stage_wins_over_a_shipped_name(shipped: Path, imptool: Imptool) -> None:
    write_workplace(Path())
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    Path("mine.yaml").write_text(starting_from("ccp-lite", "ccp-lite"))
    result = imptool("train", "mine.yaml", "--out", "run", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert "panoptic-fpn-imp starts from run/weights-ccp-lite.safetensors" in result.output


def test_a_misspelt_start_is_one_line_with_the_nearest(shipped: Path) -> None:
    Path("mine.yaml").write_text(starting_from("ccp-light"))
    with pytest.raises(InputError, match=r"stages\.full\.from: 'ccp-light' is no earlier stage; did you mean 'ccp-lite'"):
        load_recipe("mine.yaml")


# --- half precision ---


def test_half_files_are_half_as_large_and_load_as_float32_everywhere(run: Path, imptool: Imptool) -> None:
    assert imptool("export", "--out", "whole.safetensors").exit_code == 0
    assert imptool("export", "--half", "--out", "half.safetensors").exit_code == 0
    whole, stored = load_file("whole.safetensors"), load_file("half.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16, torch.int64}  # batches that BatchNorm has seen
    assert Path("half.safetensors").stat().st_size < 0.51 * Path("whole.safetensors").stat().st_size
    for state in (
        load_weights(Path("half.safetensors"))[0],
        read_start("half.safetensors", backbone="resnet18").state,
        read_tensors(Path("half.safetensors"), setting="here"),
        library.load("half.safetensors").trained.model.state_dict(),
    ):
        assert state.keys() == whole.keys()
        for key, value in whole.items():
            rounded = value.numpy().astype(np.float16).astype(np.float32) if value.is_floating_point() else value.numpy()
            np.testing.assert_array_equal(state[key].numpy(), rounded)
            assert state[key].dtype == value.dtype


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_halves_of_other_programs_are_read_as_float32(tmp_path: Path, suffix: str) -> None:
    halves = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float16), "c": torch.tensor(7)}
    path = tmp_path / f"theirs{suffix}"
    save_file(halves, path) if suffix == ".safetensors" else torch.save(halves, path)
    found = read_tensors(path, setting="here")
    assert [(key, value.dtype) for key, value in found.items()] == [
        ("a", torch.float32),
        ("b", torch.float32),
        ("c", torch.int64),
    ]


def test_values_too_large_for_float16_are_refused(run: Path, imptool: Imptool) -> None:
    model = library.load(run).trained
    model.model.state_dict()[PREDICTOR][0, 0] = 65520  # the least that rounds to infinity
    save_weights(run / "weights.safetensors", model.model, model.name, model.recipe, LABELS)
    words = f"{PREDICTOR} holds values that are too large for float16: export without --half"
    assert words in refusal(imptool("export", "--half"))
    assert not Path("weights.safetensors").exists()
    model.model.state_dict()[PREDICTOR][0, 0] = 65519
    save_weights(run / "weights.safetensors", model.model, model.name, model.recipe, LABELS)
    assert imptool("export", "--half").exit_code == 0


# --- the hash of the tensors ---


def test_the_stated_hash_is_of_names_types_shapes_and_bytes() -> None:
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3), "none": torch.zeros(0, 2), "half": torch.ones(1).bfloat16()}
    others = [
        {**state, "b": torch.tensor([1.0, 2.5])},
        {**state, "b": torch.tensor([[1.0, 2.0]])},
        {**state, "b": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {("c" if key == "b" else key): value for key, value in state.items()},
        {key: value for key, value in state.items() if key != "none"},
    ]
    assert sha256(dict(reversed(state.items()))) == sha256(state)
    assert len({sha256(each) for each in (state, *others)}) == 6


def test_changed_tensors_are_told_in_one_line_and_old_files_load(run: Path, imptool: Imptool) -> None:
    path = run / "weights.safetensors"
    state, about = load_file(path), about_of(path)
    assert about["sha256"] == sha256(state)
    state[PREDICTOR][0, 0] += 1
    save_file(state, path, metadata={"imptool": json.dumps(about)})
    words = f"{path} is damaged: its tensors do not have the sha256 {about['sha256']} that it states"
    assert words in refusal(imptool("export", path))
    for read in (library.load, lambda source: read_start(str(source), backbone="resnet18")):
        with pytest.raises(InputError, match=f"^{words}"):
            read(path)
    del about["sha256"]
    save_file(state, path, metadata={"imptool": json.dumps(about)})
    assert library.load(path).trained.model.state_dict()[PREDICTOR][0, 0] == state[PREDICTOR][0, 0]


def test_a_file_without_metadata_is_told_in_one_line(run: Path, imptool: Imptool) -> None:
    save_file(load_file(run / "weights.safetensors"), "bare.safetensors")
    result = imptool("export", "bare.safetensors", "--out", "out.safetensors")
    assert "bare.safetensors is no weights file of imptool, or is damaged: it has no metadata of imptool" in refusal(result)
