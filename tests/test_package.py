"""What is installed: the wheel's contents, and that the command line starts without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import write_workplace

from imptool import __version__

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that no build folder appears in the checkout."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    for name in ("imptool", "kernels", "tests"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(copy)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(built.glob("*.whl"))


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_no_other_top_level_names(wheel: Path) -> None:
    """`kernels` or `tests` at the top would overwrite other people's packages."""
    assert {name.split("/")[0] for name in names_in(wheel)} == {"imptool", "imp_kernels", f"imptool-{__version__}.dist-info"}


def test_the_wheel_carries_every_module_recipe_and_weights_file_and_the_type_marker(wheel: Path) -> None:
    sources = [
        (PROJECT, "imptool", "*.py"),
        (PROJECT, "imptool/recipes", "*.yaml"),
        (PROJECT, "imptool/weights", "*.safetensors"),
        (PROJECT, "imptool/report", "page.*"),
        (PROJECT / "kernels", "imp_kernels", "*.py"),
    ]
    expected = {
        path.relative_to(root).as_posix() for root, folder, pattern in sources for path in (root / folder).rglob(pattern)
    }
    assert "imptool/recipes/datasets/ccp.yaml" in expected
    assert (expected | {"imptool/py.typed"}) - set(names_in(wheel)) == set()


def test_the_wheel_finds_its_recipes_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "installed")!r})
import imptool.recipe
print(imptool.recipe.__file__)
imptool.recipe.load_recipe("ccp_lite")
imptool.recipe.load_recipe("recipes/ccp_lite.yaml")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("train", "--help"), ("convert-instances", "--help")])
def test_help_and_version_come_without_torch(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "imptool", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert imported & {"torch", "torchvision", "numba", "cv2", "matplotlib", "scipy"} == set()
    assert "imptool" in done.stdout


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the network's libraries fail when they are imported, in worker processes as well."""
    folder = tmp_path_factory.mktemp("refused")
    for name in ("torch", "torchvision", "timm"):
        (folder / f"{name}.py").write_text(f"raise AssertionError('{name} was imported')")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, without_torch: dict[str, str]) -> Path:
    """A folder with a drawn dataset, and its own maps measured as predictions: `measured/`."""
    folder = tmp_path_factory.mktemp("light")
    write_workplace(folder)
    command = "eval --predictions data/drawn/labels --dataset drawn.yaml --boundary-bands --baseline prior --out measured"
    run_in(folder, without_torch, command)
    return folder


def run_in(folder: Path, environment: dict[str, str], command: str) -> None:
    arguments = [sys.executable, "-m", "imptool", *command.split()]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "outfits outfits --count 2 --size 96x64 --workers 1",
        "convert-instances drawn.yaml --workers 1 --out converted",
        "convert-instances drawn.yaml --workers 1 --format panoptic --out panoptic",
        "inspect drawn.yaml --workers 1 --page",
        "eval --predictions data/drawn/labels --dataset drawn.yaml --workers 1",
        "compare a=measured b=measured --out compared",
    ],
)
def test_a_command_without_a_network_runs_where_torch_cannot_be_imported(
    evaluated: Path, without_torch: dict[str, str], command: str
) -> None:
    run_in(evaluated, without_torch, command)


def test_every_help_comes_where_torch_cannot_be_imported(without_torch: dict[str, str]) -> None:
    code = """
import sys
from imptool.cli import main
for name in main.commands:
    main([name, "--help"], standalone_mode=False)
print("loaded:", {"numba", "cv2", "matplotlib", "scipy", "numpy"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=without_torch, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.count("Usage: ") >= 10
    assert done.stdout.endswith("loaded: set()\n")


def test_the_imptool_command_is_the_click_group(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(f"imptool-{__version__}.dist-info/entry_points.txt").decode()
    assert "imptool = imptool.__main__:main" in entry_points
    done = subprocess.run(
        [sys.executable, "-m", "imptool", "--version"], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"imptool, version {__version__}\n"
