"""Where results go: every command is alone in its folder, apart from what is read, and follows no link in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from imptool.files import LOCK, alone_in

Imptool = Callable[..., Result]

COMMANDS = {
    "demo": ("demo", "{out}"),
    "outfits": ("outfits", "{out}", "--count", "1"),
    "convert to coco": ("convert-instances", "data/drawn", "--out", "{out}"),
    "convert to a file": ("convert-instances", "data/drawn", "--out", "{out}/all.json"),
    "convert to panoptic": ("convert-instances", "data/drawn", "--format", "panoptic", "--out", "{out}"),
    "convert to semantic": ("convert-instances", "data/drawn", "--format", "semantic", "--out", "{out}"),
    "inspect": ("inspect", "data/drawn", "--out", "{out}"),
    "train": ("train", "tiny.yaml", "--out", "{out}"),
    "eval of predictions": ("eval", "--predictions", "data/drawn/labels", "--dataset", "data/drawn", "--out", "{out}"),
    "eval of the prior": ("eval", "--baseline", "prior", "--dataset", "drawn.yaml", "--split", "val", "--out", "{out}"),
    "compare": ("compare", "a", "b", "--out", "{out}"),
    "predict": ("predict", "data/drawn/images", "--out", "{out}"),
    "export": ("export", "ccp-lite", "--out", "{out}/a.safetensors"),
}


def written_to(imptool: Imptool, command: str, out: str) -> str:
    """What a command says when it is refused to write to a folder."""
    result = imptool(*(word.format(out=out) for word in COMMANDS[command]))
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def files_in(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_writes_is_alone_in_its_folder(workplace: Path, imptool: Imptool, command: str) -> None:
    with alone_in(Path("out")):
        assert "another process is at work in out" in written_to(imptool, command, "out")
        assert os.listdir("out") == [LOCK]


def test_an_evaluation_is_alone_in_a_folder_of_its_own(workplace: Path, imptool: Imptool) -> None:
    shutil.copytree("data/drawn/labels", "theirs")
    with alone_in(Path("evaluations/drawn-val/theirs")):
        result = imptool("eval", "--predictions", "theirs", "--dataset", "drawn.yaml")
        assert "another process is at work in evaluations/drawn-val/theirs" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "out", ["data/drawn/labels", "data/drawn/labels/new", "data/drawn/images/new", "link/new", "up/../labels"]
)
def test_no_command_writes_among_images_or_labels(workplace: Path, imptool: Imptool, command: str, out: str) -> None:
    Path("link").symlink_to("data/drawn/labels")
    Path("up").symlink_to("data/drawn/images")
    before = files_in("data")
    says = written_to(imptool, command, out)
    assert "lies in" in says
    assert "choose another" in says
    assert files_in("data") == before


def test_results_beside_images_and_labels_are_fine(workplace: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("data/drawn")
    for command in (["convert-instances"], ["inspect", "--out", "inspected"]):
        assert imptool(*command).exit_code == 0
    assert Path("instances/drawn/all.json").is_file()


def test_results_around_the_dataset_are_refused(workplace: Path, imptool: Imptool) -> None:
    result = imptool("inspect", "data/drawn", "--out", "data", "--force")
    assert result.exit_code == 2
    assert "data holds data/drawn" in result.stderr


@pytest.mark.parametrize(
    ("command", "name", "option"),
    [
        ("convert to panoptic", "all", "--force"),
        ("convert to semantic", "labels", "--force"),
        ("convert to coco", ".converting-drawn-coco", "--resume"),
        ("convert to coco", ".converting-drawn-coco/train.lines", "--resume"),
        ("convert to coco", ".converting-drawn-coco/train.lines", "--force"),
        ("inspect", "pictures", "--force"),
        ("train", "tensorboard", "--resume"),
        ("train", "log.jsonl", "--resume"),
        ("predict", "labels", "--force"),
        ("predict", "labels", "--resume"),
        ("predict", "page/thumbnails", "--resume"),
        ("predict", ".parsed-0.jsonl", "--resume"),
    ],
)
def test_nothing_is_written_through_a_link_among_results(
    workplace: Path, imptool: Imptool, command: str, name: str, option: str
) -> None:
    Path("precious").mkdir()
    Path("precious/000.png").write_text("precious")
    Path("out", name).parent.mkdir(parents=True)
    Path("out", name).symlink_to(Path("precious/000.png" if name.endswith(("jsonl", "lines")) else "precious").absolute())
    Path("out/.parsed.jsonl").touch()
    before = files_in("precious")
    result = imptool(*(word.format(out="out") for word in COMMANDS[command]), option)
    assert result.exit_code == 2
    assert f"out/{name} is a link" in result.stderr
    assert files_in("precious") == before


def test_a_command_that_fails_leaves_no_empty_folder(workplace: Path, imptool: Imptool) -> None:
    assert imptool("train", "tiny.yaml", "--out", "new/deep/run").exit_code == 2  # there are no instances yet
    assert imptool("compare", "a", "b", "--out", "new/compared").exit_code == 2
    assert not Path("new").exists()


def test_an_exported_model_does_not_replace_itself(run: Path, imptool: Imptool) -> None:
    before = (run / "weights.safetensors").read_bytes()
    result = imptool("export", run / "weights.safetensors", "--half", "--force", "--out", run / "weights.safetensors")
    assert result.exit_code == 2
    assert "is the model itself" in result.stderr
    assert (run / "weights.safetensors").read_bytes() == before
