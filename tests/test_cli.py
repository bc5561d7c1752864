"""The door: help, exit codes, and that nothing is undocumented."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch.distributed.run import get_args_parser

import imptool.convert_instances as imptool_convert
from imptool.cli import main

Imptool = Callable[..., Result]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name: str, imptool: Imptool) -> None:
    text = imptool(name, "--help").output
    assert re.search(rf"  imptool {name}\s", text)
    assert all(parameter.help for parameter in main.commands[name].params if isinstance(parameter, click.Option))


def test_options_reach_a_command_under_torchrun_or_the_way_round_is_told(imptool: Imptool) -> None:
    parser = get_args_parser()
    taken = set()
    for name, command in main.commands.items():
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("-")):
            words = [name, "x", option, "y"]
            assert parser.parse_args(["-m", "imptool", "--", *words]).training_script_args[-4:] == words
            try:
                assert parser.parse_args(["-m", "imptool", *words]).training_script_args == words
            except SystemExit:
                taken.add((name, option))
    assert taken == {("predict", "--run")}
    assert "-m imptool -- predict" in imptool("predict", "--help").output
    assert imptool("--", "predict", "--help").output == imptool("predict", "--help").output


def test_doctor_names_versions_threads_and_devices_and_ends_well_where_the_operator_works(imptool: Imptool) -> None:
    result = imptool("doctor")
    assert result.exit_code == 0
    lines = {line[:12].strip(): line[12:] for line in result.output.splitlines()}
    assert f"torch {torch.__version__.partition('+')[0]}" in lines["packages"]
    on_cpu, *on_gpus = re.findall(r"^  operator  (.*)", result.output, re.M)
    assert on_cpu.startswith("works; threading layer ")
    assert all(found.startswith("works; launch path ") for found in on_gpus)
    if not torch.cuda.is_available():
        assert lines["cuda"].startswith("none: ")


def test_doctor_ends_with_1_where_the_operator_is_wrong_or_fails(imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imptool.doctor.project_masks", lambda *_, **__: torch.zeros(1, 1, 1, 4, requires_grad=True) * 1)
    result = imptool("doctor")
    assert result.exit_code == 1
    assert "operator  FAILS" in result.output or "operator  WRONG" in result.output


@pytest.mark.parametrize("words", ["doctor", "predict images", "train ccp_lite"])
def test_a_torchvision_that_does_not_fit_its_torch_is_told_with_both_versions(tmp_path: Path, words: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    (tmp_path / "torchvision/__init__.py").write_text("import torch\ntorch.library.register_fake('torchvision::nms', int)\n")
    result = subprocess.run(
        [sys.executable, "-c", "from imptool.cli import main; main()", *words.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = (line for line in (result.stdout + result.stderr).splitlines() if "do not fit each other" in line)
    assert f"torch {version('torch')} and torchvision {version('torchvision')}" in line
    assert "operator torchvision::nms does not exist" in line
    assert "pip install --force-reinstall torch torchvision" in line
    assert (result.returncode, result.stderr == "") == ((1, True) if words == "doctor" else (2, False))


def test_help_lists_the_commands_in_the_order_of_the_work(imptool: Imptool) -> None:
    text = imptool("--help").output
    listed = text[text.index("Commands:") :]
    names = ("demo", "outfits", "convert-instances", "inspect", "train", "eval", "predict")
    places = [listed.index(f"  {name} ") for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "instances/drawn/val.json"), 2, "instances/drawn/val.json: No space"),
        (KeyboardInterrupt(), 130, "stopped; the same command with --resume goes on"),
    ],
)
def test_full_disk_and_ctrl_c_end_in_one_line(
    workplace: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, words: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(imptool_convert, "_write_result", fail)
    result = imptool("convert-instances", "drawn.yaml")
    assert result.exit_code == code
    assert words in result.output
    assert "Traceback" not in result.output
