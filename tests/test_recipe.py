"""Recipes: inheritance, overrides, and every mistake in one line that names the nearest right word."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from click.testing import Result
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from imptool.files import RECIPES, InputError, Strict
from imptool.recipe import Recipe, Stage, load_recipe, read_about, recipe_names, write_recipe
from imptool.show_recipe import describe, show_recipe

BASE = """
dataset: ccp
solver: {batch: 4, lr: 0.02, clip_norm: 10}
stages:
  detector: {model: mask-rcnn, iterations: 10}
  full: {model: panoptic-fpn-imp, from: detector, iterations: 20, steps: [15]}
"""


@pytest.fixture(autouse=True)
def _recipes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)


def written(text: str, *overrides: str) -> Recipe:
    Path("mine.yaml").write_text(text)
    return load_recipe("mine.yaml", overrides)


# --- what comes with imptool ---


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_comes_with_imptool_loads_and_its_dataset_does_too(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert load_recipe(path.stem) == load_recipe(f"recipes/{path.name}") == recipe
    if recipe.dataset != "outfits":  # which `imptool outfits outfits` makes
        assert (RECIPES / "datasets" / f"{recipe.dataset}.yaml").is_file()


def test_the_defaults_are_those_of_maskrcnn_benchmark() -> None:
    recipe = load_recipe("base.yaml")
    assert (recipe.input.short_side, recipe.input.long_side, recipe.solver.momentum) == (800, 1333, 0.9)
    assert (recipe.solver.weight_decay, recipe.solver.warmup, recipe.solver.gamma) == (0.0001, 500, 0.1)
    assert (recipe.detector.score_threshold, recipe.detector.nms_threshold, recipe.detector.detections) == (0.05, 0.5, 100)
    assert set(recipe.losses.model_dump().values()) == {1.0}


# --- extends ---


def test_extends_merges_sections_key_by_key() -> None:
    recipe = written("extends: base.yaml\nsolver: {lr: 0.5}\nseed: 3\n")
    assert (recipe.solver.lr, recipe.solver.batch, recipe.solver.clip_norm, recipe.seed) == (0.5, 4, 10.0, 3)
    assert list(recipe.stages) == ["detector", "full"]


def test_stages_are_given_whole() -> None:
    recipe = written("extends: base.yaml\nstages: {full: {model: panoptic-fpn, iterations: 7}}\n")
    assert list(recipe.stages) == ["full"]
    assert (recipe.stages["full"].start, recipe.stages["full"].steps) == (None, [])


def test_a_recipe_of_an_older_version_may_say_hardest_for_ohem() -> None:
    Path("old.yaml").write_text(Path("base.yaml").read_text() + "\nlosses: {hardest: 0.5}\n")
    assert load_recipe("old.yaml").losses.ohem == 0.5
    with pytest.raises(InputError, match="losses: hardest is called ohem now"):
        load_recipe("old.yaml", ["losses.ohem=0.25"])


def test_extends_follows_a_chain_through_folders() -> None:
    Path("deep").mkdir()
    Path("deep/middle.yaml").write_text("extends: ../base.yaml\nsolver: {lr: 0.5}\n")
    recipe = written("extends: deep/middle.yaml\nsolver: {batch: 1}\n")
    assert (recipe.solver.lr, recipe.solver.batch, recipe.dataset) == (0.5, 1, "ccp")


def test_extends_finds_a_recipe_that_comes_with_imptool() -> None:
    shipped = load_recipe("ccp_lite")
    assert written("extends: ccp_lite\nseed: 5\n") == shipped.model_copy(update={"seed": 5})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: bse.yaml\n", "mine.yaml: extends: no file bse.yaml"),
        ("extends: cpp_lite\n", "mine.yaml: extends: no file cpp_lite; did you mean 'ccp_lite'?"),
        ("extends: mine.yaml\n", "mine.yaml: extends leads back to itself"),
        ("extends: other.yaml\n", "extends leads back to itself"),
    ],
)
def test_a_base_that_is_missing_or_extends_its_heir_is_one_line(text: str, line: str) -> None:
    Path("other.yaml").write_text("extends: mine.yaml\n")
    with pytest.raises(InputError) as raised:
        written(text)
    assert line in str(raised.value)


# --- overrides ---


def test_overrides_win_over_the_file_and_in_their_order() -> None:
    overrides = ("solver.lr=1e-3", "stages.full.iterations=5", "backbone.name=resnet18", "solver.lr=2E-3", "solver.clip_norm=")
    recipe = written("extends: base.yaml\nsolver: {lr: 1}\n", *overrides)
    assert (recipe.solver.lr, recipe.solver.batch, recipe.solver.clip_norm) == (0.002, 4, None)
    assert (recipe.stages["full"].iterations, recipe.stages["full"].start) == (5, "detector")
    assert recipe.backbone.name == "resnet18"


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", "+1e-3", "0.001", "1.0e-3"])
def test_a_number_may_be_written_with_an_exponent(number: str) -> None:
    assert load_recipe("base.yaml", [f"solver.lr={number}"]).solver.lr == 0.001
    assert written(f"extends: base.yaml\nsolver: {{lr: {number}}}\n").solver.lr == 0.001


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("slover.lr=1", "base.yaml -o slover.lr=1: unknown key 'slover'; did you mean 'solver'?"),
        ("solver.rl=1", "base.yaml -o solver.rl=1: solver: unknown key 'rl'"),
        ("stages.full.iteration=1", "stages.full: unknown key 'iteration'; did you mean 'iterations'?"),
        ("solver.lr", "-o solver.lr: write key=value, such as -o solver.lr=0.01"),
        ("=3", "-o =3: write key=value"),
        ("dataset.name=x", "-o dataset.name=x: dataset is a value, not a section"),
        ("stages={", "-o stages={: '{' is not a YAML value"),
        ("dataset=2026-02-30", "-o dataset=2026-02-30: '2026-02-30' is not a YAML value"),
        ("solver.lr=fast", "solver.lr: Input should be a valid number, found 'fast'"),
    ],
)
def test_a_mistake_in_an_override_is_one_line_that_shows_it(override: str, line: str) -> None:
    with pytest.raises(InputError) as raised:
        load_recipe("base.yaml", [override])
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


# --- mistakes ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: base.yaml\nsolvr: {}\n", "mine.yaml: unknown key 'solvr'; did you mean 'solver'?"),
        ("extends: base.yaml\nsolver: {moment: 1}\n", "mine.yaml: solver: unknown key 'moment'; did you mean 'momentum'?"),
        ("extends: base.yaml\nsolver: 5\n", "solver: Input should be a valid dictionary or instance of Solver, found 5"),
        ("extends: base.yaml\nsolver: {batch: 2.5}\n", "solver.batch: Input should be a valid integer, found 2.5"),
        ("extends: base.yaml\nsolver: {lr: '0.1'}\n", "solver.lr: Input should be a valid number, found '0.1'"),
        ("extends: base.yaml\nsolver: {lr: 0}\n", "solver.lr: Input should be greater than 0, found 0"),
        ("extends: base.yaml\nbackbone: {name: resnet9}\n", "unknown backbone 'resnet9'; did you mean 'resnet"),
        ("extends: base.yaml\nbackbone: {weights: none}\n", "backbone: norm: frozen needs pretrained weights"),
        ("extends: base.yaml\ndetector: {anchor_sizes: [8, 16]}\n", "at least 5 items after validation, not 2"),
        ("extends: base.yaml\nseed: 1\nseed: 2\n", "line 1: the key 'seed' is there twice"),
        (f"extends: {'[' * 10_000}\n", "mine.yaml is not valid YAML: it is nested too deeply"),
        ("extends: base.yaml\nstages: {}\n", "stages: Dictionary should have at least 1 item"),
        ("stages: {full: {model: panoptic-fpn, iterations: 1}}\n", "mine.yaml: dataset: Field required"),
        (
            "dataset: ccp\nstages: {full: {model: a, iterations: 1, from: detector}}\n",
            "stages.full.from: 'detector' is no earlier stage",
        ),
        (
            "dataset: ccp\nstages: {detector: {model: a, iterations: 1}, full: {model: a, iterations: 1, from: detectr}}\n",
            "stages.full.from: 'detectr' is no earlier stage; did you mean 'detector'?",
        ),
        ("dataset: ccp\nstages: {full: {iterations: 9, steps: [5, 3]}}\n", "stages.full: steps: [5, 3] do not increase"),
        ("extends: base.yaml\naugment: {crop: [64]}\n", "at least 2 items after validation, not 1"),
        ("extends: base.yaml\nlosses: {ohem: 0}\n", "losses.ohem: Input should be greater than 0, found 0"),
        ("extends: base.yaml\ncompute: {precision: float16}\n", "found 'float16'"),
        (
            "dataset: ccp\nstages: {full: {model: a, iterations: 1, start: detector}}\n",
            "stages.full: unknown key 'start'",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(text: str, line: str) -> None:
    with pytest.raises(InputError) as raised:
        written(text)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no recipe cpp_lite\.yaml; did you mean 'ccp_lite'\?"):
        load_recipe("cpp_lite.yaml")


# --- round trip ---


@pytest.mark.parametrize("text", ["0E0", "1e5", "-2e-3", "1e3.0"])
def test_a_text_that_looks_like_a_number_stays_text(text: str) -> None:
    recipe = load_recipe("base.yaml", [f"dataset='{text}'"])
    write_recipe(Path("again.yaml"), recipe)
    assert load_recipe("again.yaml").dataset == text


def test_plain_values_make_the_recipe_again() -> None:
    recipe = load_recipe("ccp_lite")
    assert Recipe.model_validate(recipe.to_plain()) == recipe
    assert recipe.to_plain()["stages"]["full"]["from"] == "detector"


@settings(deadline=None, max_examples=40)
@given(
    lr=st.floats(1e-12, 1e12),
    clip=st.none() | st.floats(1e-6, 1e6),
    text=st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()),
    steps=st.lists(st.integers(1, 99), max_size=3, unique=True).map(sorted),
)
def test_a_written_recipe_is_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, lr: float, clip: float | None, text: str, steps: list[int]
) -> None:
    values = yaml.safe_load(BASE)
    values["dataset"] = text
    values["solver"] |= {"lr": lr, "clip_norm": clip}
    values["stages"]["full"]["steps"] = steps
    recipe = Recipe.model_validate(values)
    path = tmp_path_factory.mktemp("run") / "recipe.yaml"
    write_recipe(path, recipe)
    assert load_recipe(str(path)) == recipe
    path.write_text(show_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_file_name_of_a_shipped_recipe_works_as_a_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: ccp_lite.yaml\nsolver: {lr: 0.005}\n")
    recipe, base = load_recipe(str(tmp_path / "mine.yaml")), load_recipe("ccp_lite")
    assert recipe.solver.lr == 0.005
    assert recipe.stages == base.stages


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.ful.iterations=3", "there is no stage 'ful'; did you mean 'full'?"),
        ("seed=-1", "greater than or equal to 0"),
        ("solver.momentum=-1", "greater than or equal to 0"),
        ("solver.lr=.inf", "finite"),
        ("detector.rois_per_image=0", "greater than or equal to 1"),
        ("seed=9223372036854775807", "less than 9223372036854774808"),
        ("detector.anchor_sizes=[0,24,48,96,160]", "detector.anchor_sizes.0: Input should be greater than 0"),
        ("detector.mask_channels=[64,-64]", "detector.mask_channels.1: Input should be greater than 0"),
        ("input.short_side=80000", "input.short_side: Input should be less than or equal to 8192"),
        ("detector.box_features=1000000000", "detector.box_features: Input should be less than or equal to 16384"),
        ("solver.batch=1000000", "solver.batch: Input should be less than or equal to 4096"),
        ("losses.mask=.nan", "losses.mask: Input should be"),
        ("losses.mask=-1", "losses.mask: Input should be greater than or equal to 0"),
        (f"solver.lr={'[' * 10_000}", "is not a YAML value"),
    ],
)
def test_values_outside_their_rule_are_refused(override: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        load_recipe("ccp_lite", [override])


def test_stage_names_that_are_no_file_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: ccp_lite\nstages: {a/b: {model: mask-rcnn, iterations: 1}}\n")
    with pytest.raises(InputError, match="'a/b' becomes part of a file's name"):
        load_recipe(str(tmp_path / "mine.yaml"))


# --- about ---


ABOUT = "about: {what: ours, minutes: 2, machine: two cores, result: 9 %}\n"


def test_about_is_no_part_of_the_experiment() -> None:
    recipe = written(ABOUT + BASE)
    assert recipe == load_recipe("base.yaml")
    write_recipe(Path("run.yaml"), recipe)
    assert "about" not in yaml.safe_load(Path("run.yaml").read_text())
    with pytest.raises(InputError, match="unknown key 'about'"):
        load_recipe("mine.yaml", ["about.what=theirs"])


def test_every_recipe_that_comes_with_imptool_tells_what_it_is_and_inherits_nothing_of_that() -> None:
    told = [read_about(name) for name in recipe_names()]
    assert all(told)
    assert len({about.what for about in told if about}) == len(told)


def test_what_a_base_tells_of_itself_is_checked_and_not_inherited() -> None:
    Path("middle.yaml").write_text(ABOUT + "extends: base.yaml\n")
    assert written("extends: middle.yaml\n") == load_recipe("base.yaml")
    Path("middle.yaml").write_text("about: {what: 3}\nextends: base.yaml\n")
    with pytest.raises(InputError, match=r"middle\.yaml: about: what: Input should be a valid string"):
        written("extends: middle.yaml\n")


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ("{what: ours, machines: two}", "mine.yaml: about: unknown key 'machines'; did you mean 'machine'?"),
        ("{machine: two cores}", "mine.yaml: about: what: Field required"),
        ("{what: ours, minutes: 3}", "mine.yaml: about: minutes: say on which machine"),
        ("{what: ours, minutes: 0, machine: two cores}", "minutes: Input should be greater than 0"),
        ("", "mine.yaml: about: Input should be a valid dictionary"),
    ],
)
def test_a_mistake_in_about_is_one_line(about: str, line: str) -> None:
    with pytest.raises(InputError) as raised:
        written(f"about: {about}\n{BASE}")
    assert line in str(raised.value)


# --- imptool recipe ---


def keys_of(section: Any) -> list[str]:
    """All keys of a mapping and of those in it, in order."""
    return [each for key, value in section.items() for each in (key, *(keys_of(value) if isinstance(value, dict) else ()))]


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_printed_is_the_same_recipe_with_all_its_keys_on_short_lines(name: str, imptool: Callable[..., Result]) -> None:
    text = imptool("recipe", name).output
    Path("mine.yaml").write_text(text)
    assert load_recipe("mine.yaml") == load_recipe(name)
    assert keys_of(yaml.safe_load(text)) == keys_of(load_recipe(name).to_plain())
    assert max(map(len, text.splitlines())) <= 100


def test_overrides_are_printed_as_they_are_trained(imptool: Callable[..., Result]) -> None:
    Path("mine.yaml").write_text("extends: base.yaml\nseed: 3\n")
    text = imptool("recipe", "mine.yaml", "-o", "solver.lr=1e-3", "-o", "augment.crop=[64, 96]").output
    Path("printed.yaml").write_text(text)
    assert load_recipe("printed.yaml") == load_recipe("mine.yaml", ["solver.lr=0.001", "augment.crop=[64,96]"])


def test_the_comment_of_a_key_stands_behind_it_or_above_a_long_one() -> None:
    lines = show_recipe(load_recipe("base.yaml", ["dataset=a-folder-whose-name-is-longer-than-most"])).splitlines()
    place = lines.index("dataset: a-folder-whose-name-is-longer-than-most")
    assert lines[place - 1] == "# YAML, folder, or a name that imptool list datasets shows"
    assert "  crop: null                            # [height, width] in px of a window drawn anywhere" in lines
    assert "    from: detector                      # weights to start with: an earlier stage's, COCO_V1, a" in lines


def test_without_a_name_the_list_of_recipes_is_named_and_a_wrong_one_names_the_nearest(imptool: Callable[..., Result]) -> None:
    result = imptool("recipe")
    assert result.exit_code == 2
    assert "imptool list recipes" in result.output
    result = imptool("recipe", "cpp_lite")
    assert (result.exit_code, result.output) == (2, "Error: no recipe cpp_lite; did you mean 'ccp_lite'?\n")


SECTIONS = [type(value) for _, value in load_recipe("ccp_lite") if isinstance(value, Strict)]


@pytest.mark.parametrize("section", [Recipe, Stage, *SECTIONS])
def test_every_key_is_described_with_all_its_choices(section: Any) -> None:
    for name, field in section.model_fields.items():
        assert describe(field), name
        for choice in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
            assert re.search(rf"\b{choice}\b", describe(field)), (name, choice)


def test_page_of_all_keys_is_what_its_script_gives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROJECT / "docs" / "write_recipe_page.py", tmp_path / "recipe.md"], check=True)
    assert (tmp_path / "recipe.md").read_text() == (PROJECT / "docs" / "recipe.md").read_text()
