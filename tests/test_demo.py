"""The demo, with trainings of a few iterations: every command runs, and its page shows what came out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from click.testing import Result
from PIL import Image
from rich.console import Console

import imptool.demo as imptool_demo
from imptool import draw_outfits
from imptool.cli import main
from imptool.demo import COMMANDS, LINKS, demo, headline
from imptool.recipe import load_recipe
from imptool.report.overlays import colour_canvas, colour_instances, side_by_side

FEWER = {  # what is asked of each command, to take seconds in place of minutes
    "--count 600": "--count 15",
    "--count 24": "--count 3",
    "--size 320x160": "--size 96x64",
    "train outfits_lite": "train outfits_lite -o input.short_side=64 -o input.long_side=96 -o solver.batch=2 "
    "-o stages.full.iterations=3",
}


def shortened(command: str) -> str:
    for long, short in FEWER.items():
        command = command.replace(long, short)
    return command


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a demo that was run twice."""
    folder = tmp_path_factory.mktemp("workplace") / "shown"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imptool_demo, "COMMANDS", tuple((shortened(command), about) for command, about in COMMANDS))
        patch.chdir(folder.parent)
        patch.delenv("IMPTOOL_DATA", raising=False)
        for _ in range(2):
            demo(folder, run=lambda words: main.main(list(words), standalone_mode=False), console=Console(quiet=True))
        yield folder


def test_every_shortening_is_of_a_command_of_the_demo() -> None:
    assert all(any(long in command for command, _ in COMMANDS) for long in FEWER)


def test_the_page_opens_in_a_browser_with_every_picture(shown: Path, browser: Browser) -> None:
    tab = browser.open(shown / "index.html")
    widths = browser.ask(tab, "return images.map((image) => image.naturalWidth)")
    assert len(widths) >= 3 * 6 + 1  # six pictures of each of 3 val outfits, and the curve
    assert min(widths) > 0


def test_the_page_tells_every_command_and_what_the_training_started_from(shown: Path) -> None:
    words = (shown / "index.html").read_text()
    assert load_recipe("outfits_lite").stages["full"].start == "ccp-lite"
    assert "from the weights that come with imptool" in words
    assert "from scratch" not in words
    for command, _ in COMMANDS:
        assert all(f"<span>{word}</span>" in words for word in shlex.split(shortened(command)))


def test_the_page_leads_to_report_album_and_run(shown: Path) -> None:
    words = (shown / "index.html").read_text()
    for path in LINKS.values():
        assert f'href="{path}"' in words
        assert (shown / path).is_file()
    assert "None for" not in words


def test_what_the_commands_wrote_is_all_there(shown: Path) -> None:
    metrics = json.loads((shown / "runs/demo/eval-val/metrics.json").read_text())
    assert metrics["dataset"]["generator"]["name"] == "outfits"
    assert len(list((shown / "predictions/images/overlays").iterdir())) == 3
    assert np.asarray(Image.open(shown / "overview.png")).std() > 10
    assert set(headline(metrics)) >= {"mIOU of the position prior", "pictures with a non-empty canvas"}


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "No space left on device", "outfits/images/000000.jpg")])
def test_a_command_that_ends_early_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Callable[..., Result], raised: BaseException
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(draw_outfits, "draw_outfit", stop)
    monkeypatch.setattr(imptool_demo, "COMMANDS", (("imptool outfits outfits --count 2", "Draw"), *COMMANDS[1:]))
    result = imptool("demo", tmp_path / "shown")
    assert result.exit_code == (130 if isinstance(raised, KeyboardInterrupt) else 2)
    assert len(result.stderr.strip().splitlines()) == 1
    assert "[2/6]" not in result.output


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = imptool("demo", tmp_path)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_canvas_shows_the_winning_layer_as_bright_as_the_root_of_its_value() -> None:
    """By hand: ids 1 and 2 are (255, 136, 0) and (221, 85, 255) in the palette of classes, and the root of 1/4 is 1/2."""
    canvas = np.zeros((2, 1, 2), np.float32)
    canvas[0, 0, 0], canvas[1, 0, 0], canvas[1, 0, 1] = 0.5, 1.0, 0.25
    picture = colour_canvas(canvas, [1, 2], size=(2, 4))
    assert picture.tolist() == [[[221, 85, 255]] * 2 + [[110, 42, 128]] * 2] * 2


def test_smaller_instances_lie_over_larger_ones() -> None:
    image, masks = np.full((4, 4, 3), 100, np.uint8), np.zeros((2, 4, 4), np.uint8)
    masks[0, 1, 1], masks[1, :3] = 1, 1
    picture = colour_instances(image, masks)
    colours = {tuple(picture[1, 1].tolist()), tuple(picture[0, 0].tolist()), tuple(picture[3, 3].tolist())}
    assert len(colours) == 3
    assert picture[3, 3].tolist() == [178, 178, 178]  # half way from 100 to 255


def test_side_by_side_leaves_white_between_pictures() -> None:
    sheet = side_by_side([[np.zeros((2, 3, 3), np.uint8)] * 2] * 2, gap=1)
    assert sheet.shape == (5, 7, 3)
    assert (sheet == 255).all(axis=2).sum() == 7 + 2 * 2
