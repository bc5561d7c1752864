"""`imptool list`: everything that comes with imptool is in it, on lines that fit a terminal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from imptool.ablation.grid import ABLATIONS, load_ablation
from imptool.data.layouts import LAYOUTS
from imptool.files import RECIPES, shipped_weights
from imptool.models import MODELS
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]

NAMES = {
    "recipes": [path.stem for path in sorted(RECIPES.glob("*.yaml"))],
    "datasets": [path.stem for path in sorted((RECIPES / "datasets").glob("*.yaml"))],
    "models": list(MODELS),
    "weights": list(shipped_weights()),
    "layouts": list(LAYOUTS),
    "ablations": [path.stem for path in sorted(ABLATIONS.glob("*.yaml"))],
}


def entries(output: str) -> dict[str, str]:
    """The text of each thing in a list of one kind: a line that is not indented, and those below it that are."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        if line[:1] != " ":
            name = line.split()[0]
            found[name] = ""
        found[name] = " ".join([*found[name].split(), *line.split()])
    return found


@pytest.fixture(autouse=True)
def _short_folder_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)


def test_the_list_of_everything_has_one_line_for_each_thing_under_its_kind(imptool: Imptool) -> None:
    blocks = imptool("list").output.split("\n\n")
    listed = {block.partition(":")[0]: [line.split()[0] for line in block.splitlines()[1:]] for block in blocks[:-1]}
    assert listed == NAMES
    assert all(line.split()[1:] for block in blocks for line in block.splitlines())  # and says something of it


@pytest.mark.parametrize("kind", NAMES)
def test_the_list_of_a_kind_has_all_of_it(kind: str, imptool: Imptool) -> None:
    assert [name for name in entries(imptool("list", kind).output) if name != kind] == NAMES[kind]


@pytest.mark.parametrize("kind", [None, *NAMES])
def test_lines_fit_80_columns(kind: str | None, imptool: Imptool) -> None:
    assert max(map(len, imptool("list", *filter(None, [kind])).output.splitlines())) <= 80


def test_recipes_show_data_model_size_time_and_what_they_have_reached(imptool: Imptool) -> None:
    found = entries(imptool("list", "recipes").output)
    assert found["ccp_lite"].startswith("ccp_lite ccp panoptic-p2-imp 256/384 ")
    assert "; 270 minutes on one core of an AMD EPYC" in found["ccp_lite"]
    assert "48.2 % mIOU on CCP val" in found["ccp_lite"]
    assert found["modanet_r101"].startswith("modanet_r101 modanet panoptic-fpn-imp 600/1000 Table 2 of the paper")
    for name in NAMES["recipes"]:
        assert load_recipe(name).dataset in found[name]


def test_datasets_show_where_they_are_looked_for_and_whether_they_are_there(
    imptool: Imptool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPTOOL_DATA", str(tmp_path))
    (tmp_path / "ccp").mkdir()
    found = entries(imptool("list", "datasets").output)
    assert found["ccp"].startswith("ccp 15 + background ccp yes ")
    assert found["ccp"].endswith(f"looked for in {tmp_path / 'ccp'}")
    assert found["cityscapes"].startswith("cityscapes 19 cityscapes no ")
    assert found["fashionpedia"].startswith("fashionpedia 46 + background coco no ")


def test_models_are_told_by_the_docstrings_of_their_builders(imptool: Imptool) -> None:
    found = entries(imptool("list", "models").output)
    for name, row in MODELS.items():
        assert found[name] == f"{name} {(row.build.__doc__ or '').splitlines()[0]}"


def test_weights_show_their_classes_size_version_and_the_recipe_they_were_trained_by(imptool: Imptool) -> None:
    found = entries(imptool("list", "weights").output)
    size = shipped_weights()["ccp-lite"].stat().st_size / 1e6
    expected = f"ccp-lite 15 + background {size:.1f} 0.3.0.dev0 panoptic-p2-imp on ccp, trained by the recipe ccp_lite"
    assert found["ccp-lite"] == expected


def test_ablations_show_their_recipe_cells_and_seeds(imptool: Imptool) -> None:
    found = entries(imptool("list", "ablations").output)
    for name in NAMES["ablations"]:
        grid = load_ablation(name)
        assert found[name].startswith(f"{name} {grid.recipe} {len(grid.cells)} {len(grid.seeds)} ")


def test_an_unknown_kind_is_one_line_with_the_nearest(imptool: Imptool) -> None:
    result = imptool("list", "recipe")
    assert (result.exit_code, result.output) == (2, "Error: list recipe: no such kind of things; did you mean 'recipes'?\n")


def test_nothing_is_listed_by_importing_torch() -> None:
    code = "import sys; from imptool.list_things import KINDS, list_things; [list_things(kind) for kind in (None, *KINDS)]"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)
