"""The examples run on drawn outfits and do what they say; the notebooks are the same code, without outputs."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import numpy as np
import pytest
from conftest import ENVIRONMENT, run_imptool
from PIL import Image

import imptool

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture(scope="module")
def outfits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "outfits"
    result = run_imptool("outfits", folder, "--count", 5, "--size", "240x160", "--workers", 0)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def place(tmp_path: Path, outfits: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh current folder with the drawn dataset `outfits` in it, which the examples take by default."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(outfits, "outfits")
    return tmp_path


def run_example(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parse_folder_cuts_out_garments_and_lists_class_and_share(place: Path) -> None:
    run_example("parse_folder.py")
    with open("garments/garments.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    classes = imptool.load("ccp-lite", device="cpu").class_names.values()
    assert {path.name for path in Path("garments").glob("*.png")} == {row["file"] for row in rows}
    for row in rows:
        pixels = np.asarray(Image.open(Path("garments", row["file"])))
        assert float(row["share"]) == pytest.approx((pixels[..., 3] > 0).sum() / (240 * 160), abs=1e-5)
        assert row["class"] in classes


def test_evaluate_label_maps_gives_100_to_the_truth_and_0_to_a_class_left_out(place: Path) -> None:
    assert re.search(r"^miou +100\.00%", run_example("evaluate_label_maps.py"), re.MULTILINE)
    shutil.copytree("outfits/labels", "theirs")
    for path in Path("theirs").glob("*.png"):
        ids = np.array(Image.open(path))
        ids[ids == 2] = 0  # skin, which every picture shows
        Image.fromarray(ids).save(path)
    lines = run_example("evaluate_label_maps.py", "theirs", "outfits", "--split", "train").splitlines()
    iou = {line.split(" IOU ")[0].strip(): line.split()[-1] for line in lines if " IOU " in line}
    assert iou["skin"] == "0.00%"
    assert iou["hair"] == "100.00%"
    assert iou["background"] != "100.00%"


def test_projection_in_torch_lets_the_gradient_lower_the_loss() -> None:
    first, last = re.findall(r"loss ([\d.]+)", run_example("projection_in_torch.py", "--steps", 30))
    assert float(last) < float(first) / 4


def test_convert_and_look_draws_image_classes_and_instances(place: Path) -> None:
    told = run_example("convert_and_look.py", "outfits", "--split", "train", "--count", 2)
    counts = [int(count) for count in re.findall(r": (\d+) instances", told)]
    assert run_imptool("convert-instances", "outfits", "--workers", 0).exit_code == 0
    document = json.loads(Path("instances/outfits/train.json").read_text())
    of_image = [sum(row["image_id"] == image["id"] for row in document["annotations"]) for image in document["images"]]
    assert counts == of_image[:2]
    for path in Path("pictures").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (3 * 160 + 12, 240)
    assert len(list(Path("pictures").glob("*.png"))) == 2


def test_finetune_on_folder_leaves_weights_and_their_figures(place: Path) -> None:
    run_example("finetune_on_folder.py", "outfits", "--iterations", 1)
    assert Path("runs/finetuned/weights.safetensors").is_file()
    assert "miou" in Path("runs/finetuned/eval-val/metrics.json").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_notebook_is_the_script_without_outputs(name: str) -> None:
    script = jupytext.read(EXAMPLES / name)
    notebook = jupytext.read(EXAMPLES / "notebooks" / f"{Path(name).stem}.ipynb")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_the_table_lists_every_script_and_each_is_short() -> None:
    table = (EXAMPLES / "README.md").read_text()
    assert sorted(re.findall(r"\]\((\w+\.py)\)", table)) == SCRIPTS
    for name in SCRIPTS:
        assert len((EXAMPLES / name).read_text().splitlines()) < 40
