"""README and the pages under docs/: command lines run, Python runs, YAML is valid, and links lead somewhere.

Every page is one session in a fresh folder, typed from top to bottom. A block that is not run says why in a comment above it:
`<!-- not run: it needs GPUs -->`. Data are small; trainings and drawn datasets are shortened, by options that are added here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import run_imptool, write_folder
from PIL import Image

from imptool.cli import main
from imptool.data.dataset import DatasetFile
from imptool.files import parse_strict, parse_yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/README.md", ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>.+) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SHORT = {
    "train": [
        *("-o", "input={short_side: 48, long_side: 64}", "-o", "stages={full: {from: ccp-lite, iterations: 1}}"),
        *("-o", "augment={short_sides: [], long_side: null}", "-o", "solver.batch=1", "--device", "cpu", "--workers", "0"),
    ],
    "predict": ["--device", "cpu", "--workers", "0"],
    "eval": ["--device", "cpu", "--workers", "0"],
    "outfits": ["--count", "5", "--size", "96x64", "--workers", "0"],
    "convert-instances": ["--workers", "0"],
    "inspect": ["--workers", "0"],
}


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    text: str
    why_not: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found["kind"], found["text"], found["why"] or "")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages speak of: images, a dataset, predictions of others, runs that have been measured."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("IMPTOOL_DATA", raising=False)
        write_folder(Path("shirts"), 12)
        for place, name in enumerate(["new-images/a.png", "new-images/b.png", "shop/a/front1.jpg", "image.jpg"]):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Image.open(f"shirts/images/{place:03d}.png").save(name)
        shutil.copytree("shirts/labels", "their-label-pngs")
        splits = "random_splits: {seed: 1, sizes: {val: 4}, rest: train}"
        Path("my.yaml").write_text(f"layout: folder\nroot: ./shirts\n{splits}\n")
        (Path("annotations")).mkdir()
        assert run_imptool("convert-instances", "shirts", "--workers", "0").exit_code == 0
        shutil.copy("instances/shirts/all.json", "annotations/val.json")
        shutil.rmtree("instances")
        document = json.loads(Path("annotations/val.json").read_text())
        Path("results.json").write_text(json.dumps([row | {"score": 0.5} for row in document["annotations"]]))
        result = run_imptool("train", "shirts", *SHORT["train"], "--out", "runs/a")
        assert result.exit_code == 0, result.output
        shutil.copytree("runs/a", "runs/b")
        shutil.copytree("runs/a", "runs/ccp_lite/a")
        shutil.rmtree("instances/shirts")
    return folder


@pytest.fixture
def session(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "session")
    monkeypatch.chdir(tmp_path / "session")
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    return tmp_path / "session"


def shortened(words: list[str]) -> list[str]:
    """A command as it stands, with options that make it short; click takes the last of options that are given twice."""
    command, *rest = words
    more = [] if "recipe.yaml" in rest else SHORT.get(command, [])
    return [command, *rest, *more]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_runs_in_a_fresh_folder(page: Path, session: Path) -> None:
    for block in blocks(page):
        if block.kind != "sh" or block.why_not:
            continue
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            assert words[0] == "imptool", f"{block.place}: {line}: say why it is not run"
            result = run_imptool(*shortened(words[1:]))
            assert result.exit_code == 0, f"{block.place}: {line}\n{result.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_piece_of_python_of_a_page_runs(page: Path, session: Path) -> None:
    names = {
        "boxes": torch.tensor([[8.0, 8.0, 60.0, 90.0]]),
        "layers": torch.tensor([3]),
        "scores": torch.tensor([0.9]),
        "masks": torch.rand(1, 28, 28),
        "image_index": torch.tensor([1]),
    }
    for block in blocks(page):
        if block.kind == "python" and not block.why_not:
            exec(compile(block.text, block.place, "exec"), names)
    if "canvas" in names:
        assert names["canvas"].shape == (2, 25, 200, 334)
    if "found" in names:
        assert np.isin(names["found"].semantic_map, list(names["found"].class_names)).all()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_a_page_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "yaml":
            values = parse_yaml(block.text)
            if {"layout", "root"} <= values.keys():
                parse_strict(DatasetFile, values, source=block.place)
        if not block.kind:
            commands = [line for line in block.text.splitlines() if line.split()[:1] and line.split()[0] in ("imptool", "pip")]
            assert not commands, f"{block.place} holds commands: call it sh"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in [anchor(line) for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"], (
                target
            )


def anchor(heading: str) -> str:
    """What GitHub and the site call a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).strip().replace(" ", "-")


def test_readme_is_short_and_no_page_is_long() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 170
    for page in (ROOT / "docs").rglob("*.md"):
        assert len(page.read_text().splitlines()) <= 250, page


def test_every_command_stands_on_some_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in main.commands if not re.search(rf"imptool {name}[\s`]", text)] == []
