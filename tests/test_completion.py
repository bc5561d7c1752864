"""Completion by Tab: what the shell offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from imptool.cli import main


def offered(*words: str) -> list[str]:
    """What is offered for the last word, files aside."""
    *before, last = words
    found = ShellComplete(main, {}, "imptool", "_IMPTOOL_COMPLETE").get_completions(before, last)
    return [item.value for item in found if item.type == "plain"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "ccp_"), ["ccp_lite", "ccp_lite_gpu", "ccp_panoptic", "ccp_r50"]),
        (("recipe", "modanet"), ["modanet_r101", "modanet_r50"]),
        (("convert-instances", "ci"), ["cityscapes"]),
        (("train", "ccp_lite", "--dataset", "fash"), ["fashionpedia"]),
        (("predict", "x", "--weights", ""), ["ccp-lite"]),
        (("ablate", "outfits"), ["outfits_cpu", "outfits_gpu"]),
        (("list", "w"), ["weights"]),
        (("train", "ccp_lite", "-o", "solver.l"), ["solver.lr=", "solver.lr_batch="]),
        (("train", "ccp_lite", "-o", "model.name=semantic"), ["model.name=semantic-p2", "model.name=semantic-fpn"]),
    ],
)
def test_names_that_come_with_imptool_are_offered(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_runs_of_the_current_folder_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/ccp_lite/a", "runs/ccp_lite/b", "runs/none"):
        Path(name).mkdir(parents=True)
    for name in ("a", "b"):
        Path("runs/ccp_lite", name, "recipe.yaml").touch()
    for command in (["eval"], ["compare"], ["predict", "x", "--run"], ["export"]):
        assert offered(*command, "runs/") == ["runs/ccp_lite/a", "runs/ccp_lite/b"]


def test_completion_does_not_wait_for_torch() -> None:
    program = (
        "import sys; from click.shell_completion import ShellComplete; from imptool.cli import main;"
        "c = ShellComplete(main, {}, 'imptool', 'C');"
        "[c.get_completions(words, '') for words in (['train'], ['train', 'x', '-o'], ['list'], ['eval'])];"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
