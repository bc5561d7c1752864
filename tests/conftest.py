"""The outside world, as fixtures: the shared images where they are present, small drawn datasets everywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser
from click.testing import CliRunner, Result
from PIL import Image

from imptool.checkpoint import save_weights
from imptool.cli import main
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.models import build_model
from imptool.recipe import load_recipe
from imptool.report import progress

progress.COMPILING_PATIENCE = 3600.0  # what a command says must not depend on what an earlier one has compiled

__all__ = ["browser"]  # a fixture

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and label maps (`ccp/`, `photos/`); tests that need them skip where they are absent."""
    folder = Path(os.environ.get("IMPTOOL_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "ccp" / "labels").is_dir():
        pytest.skip(f"real data not at {folder} (set IMPTOOL_TEST_DATA)")
    return folder


CLASSES = ("background", "coat", "hat")


def draw_pair(seed: int, size: tuple[int, int] = (96, 72)) -> tuple[np.ndarray, np.ndarray]:
    """An image [H, W, 3] and its label map [H, W]: a coat (1) in blue with a hat (2) in red above it."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (*size, 3), dtype=np.uint8)
    label = np.zeros(size, np.uint8)
    top, left = 40 + seed % 7, 10 + seed % 11
    label[top : top + 45, left : left + 35] = 1
    label[top - 25 : top - 8, left + 5 : left + 25] = 2
    image[label == 1] = (40, 40, 220)
    image[label == 2] = (220, 40, 40)
    return image, label


def write_folder(folder: Path, count: int = 6) -> Path:
    """A dataset in the layout `folder`: images/, labels/, classes.txt."""
    for seed in range(count):
        image, label = draw_pair(seed)
        for kind, pixels in (("images", image), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{seed:03d}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


TINY = """
dataset: drawn.yaml
input: {short_side: 64, long_side: 96}
backbone: {name: resnet18, weights: none, norm: batch, fpn_channels: 32}
detector:
  anchor_sizes: [8, 16, 24, 32, 48]
  proposals_train: 50
  proposals_test: 50
  proposals_before_nms_train: 50
  proposals_before_nms_test: 50
  rois_per_image: 16
  box_features: 32
  mask_channels: [16]
  detections: 5
solver: {batch: 2, lr: 0.01, warmup: 2, clip_norm: 5.0}
stages:
  detector: {model: mask-rcnn, iterations: 4}
  full: {model: panoptic-fpn-imp, from: detector, iterations: 4}
checkpoint_every: 2
"""


def write_workplace(folder: Path) -> None:
    """A drawn dataset (data/drawn, drawn.yaml: 4 train, 2 val) and a tiny recipe (tiny.yaml)."""
    write_folder(folder / "data" / "drawn")
    splits = "random_splits: {seed: 1, sizes: {val: 2}, rest: train}"
    (folder / "drawn.yaml").write_text(f"layout: folder\nroot: drawn\n{splits}\n")
    (folder / "tiny.yaml").write_text(TINY)


def run_imptool(*arguments: object) -> Result:
    """The command line: `run_imptool("eval", "--boundary-bands")` gives click's result."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a drawn dataset and a tiny recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    write_workplace(tmp_path)
    return tmp_path


@pytest.fixture
def imptool() -> Callable[..., Result]:
    return run_imptool


LABELS = LabelSet(
    (ClassInfo(id=0, name="background", thing=False), ClassInfo(id=5, name="coat"), ClassInfo(id=9, name="hat")), 0, 255
)


# Two things and a stuff class around the background, whose id is not 0.
WITH_STUFF = LabelSet(
    (
        ClassInfo(id=9, name="background", thing=False),
        ClassInfo(id=3, name="coat"),
        ClassInfo(id=4, name="skin", thing=False),
        ClassInfo(id=7, name="hat"),
    ),
    background=9,
    ignore=255,
)


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """An image with a coat and a hat, and one with nothing."""
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    masks[0, 20:60, 20:60], masks[1, 4:20, 30:50] = 1, 1
    boxes = torch.tensor([[20.0, 20, 60, 60], [30, 4, 50, 20]])
    semantic = (masks[0] + 2 * masks[1]).long()
    clothed = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks, "semantic": semantic}
    bare = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0], "semantic": 0 * semantic}
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=generator) for _ in range(2)], [clothed, bare]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with fresh weights that finds something everywhere, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    recipe = load_recipe("tiny.yaml", ["detector.score_threshold=0.0"])
    torch.manual_seed(0)
    folder = Path("runs/tiny/one")
    save_weights(
        folder / "weights.safetensors",
        build_model("panoptic-fpn-imp", recipe, LABELS, pretrained=False),
        "panoptic-fpn-imp",
        recipe,
        LABELS,
    )
    return folder


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "imptool"]
    return subprocess.Popen(
        [*command, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], *, seconds: int = 120) -> tuple[str, str]:
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
