"""A grid of trainings: what is shared, going on, what goes wrong, and what its tables say."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from rich.console import Console
from safetensors.torch import load_file

from imptool.ablation.grid import ABLATIONS, load_ablation, plan
from imptool.files import alone_in
from imptool.recipe import load_recipe
from imptool.train import Interrupted, train

Imptool = Callable[..., Result]
STAGES = {"detector": {"model": "mask-rcnn", "iterations": 4}, "full": {"from": "detector", "iterations": 4}}
GRID = {
    "recipe": "tiny.yaml",
    "change": {"stages": STAGES, "detector.score_threshold": 0.0, "evaluate_every": 2},
    "seeds": [3, 8],
    "cells": {"panoptic-p2": {}, "panoptic-p2-imp": {}},
    "pairs": [["panoptic-p2-imp", "panoptic-p2"]],
    "examples": 1,
}


@pytest.fixture
def workshop(workplace: Path, imptool: Imptool) -> Path:
    """A current folder with a converted dataset, a tiny recipe and a tiny grid."""
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    write_grid()
    return workplace


def write_grid(**changes: object) -> None:
    Path("grid.yaml").write_text(yaml.safe_dump({**GRID, **changes}))


def ablate(imptool: Imptool, *arguments: object, code: int = 0) -> Result:
    result = imptool("ablate", "grid.yaml", "--device", "cpu", "--workers", "0", *arguments)
    assert result.exit_code == code, result.output
    return result


def metrics(cell: str, seed: int, evaluation: str = "eval") -> dict[str, object]:
    found = json.loads(Path(f"ablations/grid/seed-{seed}/{cell}/{evaluation}/metrics.json").read_text())
    figures: dict[str, object] = found["semantic"][found["main"]]
    return figures


def test_a_cell_is_the_plain_training_of_its_recipe_to_the_bit(workshop: Path, imptool: Imptool) -> None:
    ablate(imptool, "--cell", "panoptic-p2-imp", "--seed", 8, "--keep-weights")
    changes = [*GRID["change"].items(), ("model.name", "panoptic-p2-imp"), ("seed", 8)]  # type: ignore[attr-defined]
    plain = load_recipe("tiny.yaml", changes)
    train(plain, Path("plain"), device=torch.device("cpu"), workers=0, console=Console(quiet=True))
    cell = load_file("ablations/grid/seed-8/panoptic-p2-imp/run/weights.safetensors")
    expected = load_file("plain/weights.safetensors")
    assert cell.keys() == expected.keys()
    assert all(torch.equal(cell[key], expected[key]) for key in cell)


def test_cells_of_a_seed_share_the_first_stage_as_far_as_they_want_it_alike(workshop: Path, imptool: Imptool) -> None:
    cells = {
        "panoptic-p2": {},
        "detached": {"model.name": "panoptic-p2-imp", "projection.detach": True, "losses.ohem": 0.5},
        "strong": {"model.name": "panoptic-p2-imp", "stages.detector.iterations": 6},
        "semantic-p2": {},
    }
    write_grid(cells=cells, pairs=[], seeds=[3], canvas=[])
    ablate(imptool)
    folders = sorted(path.name for path in Path("ablations/grid/seed-3").iterdir())
    first, second = (name for name in folders if name.startswith("detector-"))
    starts = {
        cell: load_recipe(f"ablations/grid/seed-3/{cell}/run/recipe.yaml").stages["full"].start or "nothing" for cell in cells
    }
    assert starts["panoptic-p2"] == starts["detached"] != starts["strong"]
    assert {Path(starts[cell]).parts[3] for cell in ("detached", "strong")} == {first, second}
    assert starts["semantic-p2"] == "nothing"


def test_tables_are_means_over_seeds_of_what_each_evaluation_says(workshop: Path, imptool: Imptool) -> None:
    result = ablate(imptool)
    plain = json.loads(Path("ablations/grid/results.json").read_text())
    with_canvas, without = ([metrics(cell, seed)["miou"] for seed in (3, 8)] for cell in ("panoptic-p2-imp", "panoptic-p2"))
    told = plain["cells"]["panoptic-p2-imp"]["canvas"]["detections"]["miou"]
    assert told["mean"] == pytest.approx(np.mean(with_canvas), abs=1e-5)
    assert told["seeds"] == pytest.approx(with_canvas, abs=1e-5)
    assert plain["pairs"][0]["miou"]["seeds"] == pytest.approx(np.subtract(with_canvas, without), abs=1e-5)
    swapped = [metrics("panoptic-p2-imp", seed, "eval-canvas-empty")["miou"] for seed in (3, 8)]
    assert plain["cells"]["panoptic-p2-imp"]["canvas"]["empty"]["miou"]["seeds"] == pytest.approx(swapped, abs=1e-5)
    assert list(plain["cells"]["panoptic-p2"]["canvas"]) == ["detections"]
    assert list(plain["cells"]["panoptic-p2"]["curve"]["3"]) == ["2", "4"]
    assert f"{100 * np.mean(with_canvas):.1f}" in result.output
    page = Path("ablations/grid/index.html").read_text()
    assert page.count("data:image/jpeg") == 4  # image, target and two cells
    assert {path.name for path in Path("ablations/grid").glob("*.png")} >= {"bands.png", "curves.png", "classes-1.png"}
    assert not list(Path("ablations/grid").rglob("checkpoint-*.pt"))
    assert len(list(Path("ablations/grid").rglob("weights.safetensors"))) == 2  # of the two first stages


def test_detectors_alone_are_told_by_their_precision(workshop: Path, imptool: Imptool) -> None:
    longer = {"model.name": "mask-rcnn", "stages.full.iterations": 6}
    write_grid(cells={"mask-rcnn": {}, "longer": longer}, pairs=[["longer", "mask-rcnn"]], seeds=[3])
    ablate(imptool)
    plain = json.loads(Path("ablations/grid/results.json").read_text())
    told = json.loads(Path("ablations/grid/seed-3/longer/eval/metrics.json").read_text())["average_precision"]["box"]["AP"]
    assert plain["cells"]["longer"]["canvas"]["detections"]["box/AP"]["mean"] == pytest.approx(told, abs=1e-5)
    assert "miou" not in plain["pairs"][0]


def test_a_grid_in_pieces_ends_as_one_in_a_go(workshop: Path, imptool: Imptool) -> None:
    def told(folder: str) -> object:
        plain = json.loads(Path(folder, "results.json").read_text())
        for cell in plain["cells"].values():
            del cell["minutes"], cell["milliseconds"]
        return plain

    ablate(imptool, "--out", "whole")
    result = ablate(imptool, "--cell", "panoptic-p2", "--seed", 3)
    assert "not finished: 3 of 4 cells" in result.output
    broken = Path("ablations/grid/seed-8/panoptic-p2/run")  # as of a process that was killed before its first checkpoint
    broken.mkdir(parents=True)
    (broken / "log.jsonl").write_text('{"stage": "full", "iter')
    ablate(imptool)
    assert told("ablations/grid") == told("whole")
    before = {path: path.stat().st_mtime_ns for path in Path("ablations/grid").rglob("*.npz")}
    ablate(imptool)
    assert before == {path: path.stat().st_mtime_ns for path in Path("ablations/grid").rglob("*.npz")}


def test_a_cell_that_diverges_is_marked_and_the_rest_goes_on(workshop: Path, imptool: Imptool) -> None:
    write_grid(cells={"wild": {"model.name": "panoptic-p2", "solver.lr": 1e30}, "panoptic-p2": {}}, pairs=[], seeds=[3])
    result = ablate(imptool, code=1)
    assert "diverged: seed 3, wild" in result.output
    assert "panoptic-p2" in json.loads(Path("ablations/grid/results.json").read_text())["cells"]
    assert list(json.loads(Path("ablations/grid/results.json").read_text())["diverged"]) == ["seed 3, wild"]


def test_cells_of_a_first_stage_that_diverges_are_marked(workshop: Path, imptool: Imptool) -> None:
    stages = {**STAGES, "detector": {**STAGES["detector"], "lr": 1e30}}
    write_grid(cells={"wild": {"model.name": "panoptic-p2", "stages": stages}, "panoptic-p2": {}}, pairs=[], seeds=[3])
    result = ablate(imptool, code=1)
    assert "diverged: seed 3, wild: its first stage has diverged" in result.output


def test_a_grid_that_is_stopped_says_how_it_goes_on(workshop: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped at iteration 2")

    monkeypatch.setattr("imptool.ablation.cells.train", stopped)
    assert ablate(imptool, code=130).output.endswith("stopped at iteration 2; the same command goes on\n")


def test_processes_share_a_grid_by_its_folder(workshop: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imptool.ablate._WAIT", 0.05)
    held, released = Path("ablations/grid/seed-3/panoptic-p2"), threading.Event()

    def hold() -> None:
        with alone_in(held):
            released.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    while not held.is_dir():
        pass
    done = Path("ablations/grid/seed-8/panoptic-p2-imp/cell.json")

    def release() -> None:
        while not done.is_file():  # all but the one that is held
            pass
        released.set()

    threading.Thread(target=release).start()
    result = ablate(imptool)
    other.join()
    assert "waiting for other processes" in result.output or (held / "cell.json").is_file()
    order = sorted(Path("ablations/grid").glob("*/*/cell.json"), key=lambda path: path.stat().st_mtime_ns)
    assert order[-1].parent == held


def test_a_changed_grid_is_refused(workshop: Path, imptool: Imptool) -> None:
    ablate(imptool, "--cell", "panoptic-p2", "--seed", 3)
    result = ablate(imptool, "-o", "solver.lr=0.02", code=2)
    assert "was trained with another recipe (solver" in result.output
    assert len(result.output.strip().splitlines()) == 1
    write_grid(seeds=[3, 9])  # more seeds or cells change nothing that is there
    ablate(imptool, "--cell", "panoptic-p2")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": [1, 2, 1]}, "seeds: 1 is there twice"),
        ({"seeds": []}, "seeds"),
        ({"cells": {}}, "cells"),
        ({"cells": {"panoptic-p2": {"solver.lrr": 1}}, "pairs": []}, "cell panoptic-p2: "),
        ({"cells": {"a/b": {}}, "pairs": []}, "becomes part of a file's name"),
        ({"pairs": [["panoptic-p2-imp", "panoptic-fpn"]]}, "pairs: there is no cell 'panoptic-fpn'"),
        ({"pairs": [["panoptic-p2", "panoptic-p2"]]}, "held against itself"),
        ({"shared": "full"}, "full starts from detector"),
        ({"shared": "detecter"}, "no stage 'detecter'; did you mean 'detector'?"),
        ({"recipe": "nowhere"}, "no recipe nowhere"),
        ({"change": {"stages": {"detector": {"model": "mask-rcnn", "iterations": 2}}}}, "no stage but detector"),
    ],
)
def test_a_grid_that_cannot_be_is_told_in_one_line(
    workshop: Path, imptool: Imptool, changes: dict[str, object], told: str
) -> None:
    write_grid(**changes)
    result = ablate(imptool, code=2)
    assert told in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not Path("ablations").exists()


def test_a_grid_does_not_go_among_other_things(workshop: Path, imptool: Imptool) -> None:
    Path("mine").mkdir()
    Path("mine/index.html").write_text("mine")
    assert "mine holds other things than a grid" in ablate(imptool, "--out", "mine", code=2).output
    assert Path("mine/index.html").read_text() == "mine"
    assert "are read as images or labels" in ablate(imptool, "--out", "data/drawn/images/grid", code=2).output


@pytest.mark.parametrize("change", ["seed=3", "model.name=mask-rcnn"])
def test_what_each_cell_has_of_its_own_cannot_be_changed_for_all(change: str, workshop: Path, imptool: Imptool) -> None:
    result = imptool("ablate", "grid.yaml", "-o", change)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"-o {change.partition('=')[0]}: each cell has its own" in result.stderr


def test_what_is_no_grid_or_not_in_it_is_told_in_one_line(workshop: Path, imptool: Imptool) -> None:
    assert "it is no ablation" in imptool("ablate", "tiny.yaml").output
    assert "no ablation ccp_cpv" in imptool("ablate", "ccp_cpv").output
    assert "did you mean 'panoptic-p2'" in ablate(imptool, "--cell", "panoptic-p", code=2).output
    assert "the grid has no seed 4" in ablate(imptool, "--seed", 4, code=2).output
    assert "no cell of the grid is finished yet" in ablate(imptool, "--report", code=2).output
    shutil.rmtree("instances")
    assert "convert-instances" in ablate(imptool, code=2).output


@pytest.mark.parametrize("path", sorted(ABLATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_grid_has_cells_that_share_a_first_stage(path: Path) -> None:
    ablation = load_ablation(path.stem)
    jobs = plan(ablation, Path("out"))
    assert len([job for job in jobs if job.name]) == len(ablation.cells) * len(ablation.seeds)
    assert len(ablation.seeds) <= len([job for job in jobs if not job.name]) < len(jobs) / 2
    for one, other in ablation.pairs:  # a pair differs in what it is about alone
        first, second = (next(job for job in jobs if job.name == name) for name in (one, other))
        assert first.start is second.start
        assert first.recipe.dataset == second.recipe.dataset
    for part in ("panoptic-p2", "panoptic-p2-imp"):
        own, common = (plan(load_ablation(name), Path("out")) for name in (path.stem, "ccp_cpu"))
        if path.stem.startswith("ccp_") and path.stem.endswith("_cpu"):  # these go on in each other's folder
            cells = [next(job for job in each if job.name == part) for each in (own, common)]
            assert cells[0] == cells[1]
