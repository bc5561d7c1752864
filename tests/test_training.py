"""Training that meets what it must survive: SIGKILL, too little memory, images with nothing or too much in them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import CLASSES, ENVIRONMENT, draw_pair, run_imptool, write_workplace
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from imptool.checkpoint import checkpoints, latest_checkpoint, load_run
from imptool.data.dataset import load_dataset
from imptool.data.instances import read_instances
from imptool.data.samples import TrainingSamples, draw_order, repeat_factors
from imptool.files import alone_in
from imptool.models.parser import Parser
from imptool.recipe import Augment, Input, Recipe, Solver, Stage, load_recipe
from imptool.train import plan_stages, train
from imptool.training.batches import Positions
from imptool.training.learner import iteration_seed
from imptool.training.solver import base_rate, notes

Imptool = Callable[..., Result]


@pytest.fixture
def converted(workplace: Path, imptool: Imptool) -> Path:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    return workplace


def train_here(run: str, *overrides: str) -> Path:
    recipe = load_recipe("tiny.yaml", overrides)
    train(recipe, Path(run), device=torch.device("cpu"), workers=0, console=Console(quiet=True))
    return Path(run)


def log_of(run: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


LONGER = (
    "stages.detector.iterations=12",
    "stages.full.iterations=12",
    "checkpoint_every=3",
    "evaluate_every=4",
    "solver.ema=0.9",
)
# What a process does before it trains: it is killed in its n-th iteration, or when half of its n-th checkpoint is written.
KILLED = {
    "between two checkpoints": (5, "stage.StageJob, '_step'"),
    "in the second stage": (18, "stage.StageJob, '_step'"),
    "while a checkpoint is being written": (3, "checkpoint.torch, 'save'"),
    "while the first is being written": (1, "checkpoint.torch, 'save'"),
    "while the best weights are being written": (2, "pathlib.Path, 'write_bytes'"),
}
CODE = """
import os, pathlib, signal, sys
import imptool.checkpoint as checkpoint, imptool.training.stage as stage
from imptool.cli import main
owner, name = {target}
original, calls = getattr(owner, name), 0
def killing(*arguments, **named):
    global calls
    calls += 1
    if calls == {count}:
        if name == 'save':
            arguments[1].write(b'half')
            arguments[1].flush()
        elif name == 'write_bytes':
            open(arguments[0], 'wb').write(b'half')
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(owner, name, killing)
main()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write_workplace(folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("IMPTOOL_DATA", raising=False)
        assert run_imptool("convert-instances", "drawn.yaml").exit_code == 0
        return folder / train_here("run", *LONGER)


@pytest.mark.parametrize("moment", KILLED)
def test_run_that_was_killed_is_resumed_to_the_same_bits_and_log(
    converted: Path, imptool: Imptool, whole: Path, moment: str
) -> None:
    count, target = KILLED[moment]
    overrides = [word for value in LONGER for word in ("-o", value)]
    arguments = ["train", "tiny.yaml", *overrides, "--out", "cut", "--workers", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = CODE.format(target=target, count=count)
    killed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = imptool("train", "cut", "--resume", "--workers", "0")
    if moment == "while the first is being written":
        assert "has no checkpoint to resume from" in resumed.output
        assert not list(Path("cut").glob("checkpoint-*"))
        return
    assert resumed.exit_code == 0, resumed.output
    for name in ("weights.safetensors", "best.safetensors"):
        expected, got = (load_file(run / name) for run in (whole, Path("cut")))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name
    assert log_of(Path("cut")) == log_of(whole)
    assert not list(Path("cut").glob(".unfinished-*"))


def test_best_weights_are_those_of_the_best_iteration_and_eval_gives_their_miou(converted: Path, imptool: Imptool) -> None:
    result = imptool("train", "tiny.yaml", "-o", "evaluate_every=1", "--out", "run", "--workers", "0")
    assert result.exit_code == 0, result.output
    measured = {line["iteration"]: line["val_miou"] for line in log_of(Path("run")) if "val_miou" in line}
    assert list(measured) == [1, 2, 3, 4]
    best = max(measured, key=lambda iteration: measured[iteration])  # the first of equal ones
    assert f"best val mIOU {measured[best]:.2%} at iteration {best}: run/best.safetensors" in result.output
    result = imptool("eval", "run/best.safetensors", "--workers", "1")
    assert result.exit_code == 0, result.output
    metrics = json.loads(Path("run/eval-val-best/metrics.json").read_text())
    assert metrics["semantic"]["panoptic-fpn-imp"]["miou"] == pytest.approx(measured[best], abs=1e-6)
    assert load_run(Path("run/best.safetensors"), device=torch.device("cpu")).name == "panoptic-fpn-imp"


def test_miou_while_training_may_be_that_of_some_of_the_images_and_says_so(converted: Path, imptool: Imptool) -> None:
    changes = ("-o", "evaluate_every=4", "-o", "evaluate_images=1")
    result = imptool("train", "tiny.yaml", *changes, "--out", "run", "--workers", "0")
    assert "full 4: val mIOU" in result.output
    assert "on 1 of 2 images" in result.output
    (measured,) = (line["val_miou"] for line in log_of(Path("run")) if "val_miou" in line)
    assert imptool("eval", "run", "--workers", "1").exit_code == 0
    with Path("run/eval-val/per_image.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["miou"]) == pytest.approx(measured, abs=1e-4)


def test_last_checkpoints_are_kept(converted: Path) -> None:
    run = train_here("run", "checkpoint_every=1", "keep_checkpoints=3", "stages.full.iterations=2")
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [
        "checkpoint-detector-0000004.pt",
        "checkpoint-full-0000001.pt",
        "checkpoint-full-0000002.pt",
    ]


def test_average_of_the_weights_is_what_is_saved_and_measured(converted: Path, imptool: Imptool) -> None:
    run = train_here("run", "solver.ema=0.5", "evaluate_every=4")
    checkpoint = torch.load(run / "checkpoint-full-0000004.pt", weights_only=True)
    saved, best = (load_file(run / name) for name in ("weights.safetensors", "best.safetensors"))
    key = "semantic_head.predictor.weight"
    assert not torch.equal(checkpoint["model"][key], checkpoint["average"][f"module.{key}"])
    for state in (saved, best):
        assert torch.equal(state[key], checkpoint["average"][f"module.{key}"])
    assert imptool("eval", "run/best.safetensors", "--workers", "1").exit_code == 0
    metrics = json.loads(Path("run/eval-val-best/metrics.json").read_text())
    (measured,) = (line["val_miou"] for line in log_of(run) if "val_miou" in line)
    assert metrics["semantic"]["panoptic-fpn-imp"]["miou"] == pytest.approx(measured, abs=1e-6)
    (run / "weights.safetensors").unlink()  # as where the run is not finished
    unfinished = load_run(run, device=torch.device("cpu"))
    assert torch.equal(unfinished.model.state_dict()[key], saved[key])


def test_stage_varies_images_in_its_own_way(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def remember(*arguments: Any, augment: Augment, **named: Any) -> TrainingSamples:
        taken.append(augment)
        return TrainingSamples(*arguments, augment=augment, **named)

    monkeypatch.setattr("imptool.train.TrainingSamples", remember)
    train_here("run", "augment.flip=0.25", "stages.full.augment={flip: 0.75, short_sides: [32]}")
    assert [(one.flip, one.short_sides) for one in taken] == [(0.25, []), (0.75, [32])]


def test_parts_of_a_batch_sum_up_to_its_gradient(converted: Path) -> None:
    """Without the losses of the detector, whose choice of proposals is drawn for a batch, and with a norm without memory."""
    plain = ("stages.full.model=semantic-fpn", "backbone.norm=group", "stages.full.iterations=1", "solver.batch=4")
    whole, parts = train_here("whole", *plain), train_here("parts", *plain, "solver.accumulate=4")
    expected, got = (load_file(run / "weights.safetensors") for run in (whole, parts))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)


def test_learning_rate_follows_the_batch_and_says_so() -> None:
    recipe = Recipe.model_validate(
        {
            "dataset": "none",
            "solver": {"batch": 2, "lr": 0.01, "lr_batch": 8, "warmup": 1},
            "stages": {"a": {"iterations": 4}, "b": {"iterations": 4, "lr": 0.004, "from": "a"}},
        }
    )
    assert base_rate(recipe.solver, recipe.stages["a"]) == pytest.approx(0.0025)
    assert base_rate(recipe.solver, recipe.stages["b"]) == pytest.approx(0.001)
    (line,) = notes(recipe, recipe.stages)
    assert "solver.batch is 2, the learning rate is for 8: 0.01 -> 0.0025, 0.004 -> 0.001 by the linear scaling rule" in line
    assert base_rate(Solver(batch=2, lr=0.01), Stage(iterations=1)) == 0.01


def test_processes_take_every_position_of_the_stream_once() -> None:
    whole = list(Positions(3, 6, 8))
    assert whole == list(range(24, 48))
    shares = [list(Positions(3, 6, 8, rank, 4)) for rank in range(4)]
    assert sorted(position for share in shares for position in share) == whole
    assert shares[1] == [26, 27, 34, 35, 42, 43]
    assert [len(Positions(3, 6, 8, rank, 4)) for rank in range(4)] == [6] * 4
    assert len({iteration_seed(0, iteration, rank) for iteration in range(50) for rank in range(4)}) == 200


def test_images_of_rare_classes_have_larger_repeat_factors() -> None:
    # Class 1 is in 8 of 16 images, 2 in 4, 3 in 1; with the threshold 1/4 only 3 is rare: sqrt((1/4) / (1/16)) = 2.
    shown = [{1}] * 4 + [{1, 2}] * 3 + [{1, 2, 3}] + [set()] * 8
    assert repeat_factors(shown, 0.25).tolist() == [1] * 7 + [2] + [1] * 8
    # With the threshold 1: sqrt(2), sqrt(4) and sqrt(16), each image by its rarest class.
    assert repeat_factors(shown, 1.0) == pytest.approx([2**0.5] * 4 + [2] * 3 + [4] + [1] * 8)
    assert repeat_factors(shown, 0.0).tolist() == [1] * 16


@settings(deadline=None)
@given(repeats=st.lists(st.floats(1, 30), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_epoch_has_each_image_as_often_as_its_factor_says(repeats: list[float], seed: int) -> None:
    order = draw_order(np.array(repeats), np.random.default_rng(seed))
    assert len(order) == len(repeats)
    expected = np.array(repeats) * len(repeats) / sum(repeats)
    assert (abs(np.bincount(order, minlength=len(repeats)) - expected) < 1 + 1e-9).all()


def test_epochs_together_have_each_image_in_proportion_to_its_factor() -> None:
    orders = [draw_order(np.array([1.0, 1.0, 2.0]), np.random.default_rng(seed)) for seed in range(3000)]
    assert np.bincount(np.concatenate(orders)) / 3000 == pytest.approx([3 / 4, 3 / 4, 3 / 2], abs=0.03)


def test_copies_of_an_image_are_spread_over_the_epoch() -> None:
    orders = [draw_order(np.array([7.0] + [1.0] * 7), np.random.default_rng(seed)) for seed in range(20)]
    places = [np.flatnonzero(order == 0) for order in orders]
    assert {len(place) for place in places} == {4}  # 8 * 7 / 14
    assert sum(place[-1] - place[0] == 3 for place in places) < 6  # side by side in one epoch of 14


def test_stream_without_a_threshold_is_a_seeded_permutation_an_epoch() -> None:
    for seed in range(5):
        permutation = np.random.default_rng(seed).permutation(50)
        assert draw_order(np.ones(50), np.random.default_rng(seed)).tolist() == permutation.tolist()


def test_stream_repeats_the_image_of_a_rare_class_at_the_same_positions_in_any_order(converted: Path) -> None:
    """One of the four training images shows a hat: with the threshold 1 it comes 4/5 * 2 times an epoch, others 4/5 times."""
    dataset = load_dataset("drawn.yaml")
    document = read_instances(dataset, "train")
    rows = [row for row in document["annotations"] if row["category_id"] == 1 or row["image_id"] == document["images"][2]["id"]]
    document = {**document, "annotations": rows}

    def stream(threshold: float) -> TrainingSamples:
        size = Input(short_side=32, long_side=64)
        return TrainingSamples(dataset, "train", document, size=size, augment=Augment(repeat_threshold=threshold), seed=1)

    samples = stream(1.0)
    assert samples.repeats.tolist() == [1, 1, 2, 1]
    names = [samples[position].name for position in range(160)]
    rare = samples.pairs[2][0].stem
    assert 160 * 0.4 - 16 < names.count(rare) < 160 * 0.4 + 16
    again = stream(1.0)
    assert [again[position].name for position in reversed(range(160))] == names[::-1]
    plain = stream(0.0)
    assert all(len({plain[4 * epoch + place].name for place in range(4)}) == 4 for epoch in range(10))


def pasting(share: float) -> TrainingSamples:
    """The drawn training images at their own size."""
    dataset = load_dataset("drawn.yaml")
    augment = Augment(flip=0, copy_paste=share)
    size = Input(short_side=72, long_side=96)
    return TrainingSamples(dataset, "train", read_instances(dataset, "train"), size=size, augment=augment, seed=3)


def test_share_of_the_samples_has_instances_of_another_image_and_the_rest_is_as_without(converted: Path) -> None:
    plain, some, all_of_them = pasting(0), pasting(0.5), pasting(1)
    changed = []
    for position in range(120):
        before, after, always = plain[position], some[position], all_of_them[position]
        assert before.name == after.name == always.name
        assert torch.equal(after.image, before.image) or torch.equal(after.image, always.image)
        changed.append([not torch.equal(before.image, sample.image) for sample in (after, always)])
    # Nothing is pasted where of coat and hat neither is chosen (1/4); pasting onto itself (1/4) shows no change.
    shares = np.mean(changed, axis=0)
    assert 0.15 < shares[0] < 0.42  # 9/32
    assert 0.42 < shares[1] < 0.70  # 9/16
    again = pasting(0.5)
    assert all(torch.equal(again[position].image, some[position].image) for position in (100, 3, 50))


def test_pasted_sample_shows_both_images_and_its_map_follows_its_colours(converted: Path) -> None:
    samples = pasting(1)
    counts = set()
    for position in range(40):
        sample = samples[position]
        blue, red = sample.image[2] > 0.8, sample.image[0] > 0.8  # coat and hat
        assert torch.equal(sample.target["semantic"], blue * 1 + red * 2)
        masks, labels = sample.target["masks"], sample.target["labels"]
        assert all((sample.target["semantic"][mask == 1] == label).all() for mask, label in zip(masks, labels, strict=True))
        assert torch.equal(masks.sum(0) == 1, blue | red)
        assert len(sample.target["boxes"]) == len(labels) == len(masks)
        counts.add(len(labels))
    assert max(counts) == 4


def test_other_image_that_cannot_be_read_is_told_and_nothing_is_pasted(converted: Path) -> None:
    samples, plain = pasting(1), pasting(0)
    broken = samples.pairs[1][0]
    broken.image.write_bytes(b"no image")
    told = 0
    for position in range(40):
        sample, before = samples[position], plain[position]
        if broken.stem in sample.problems and broken.stem not in before.problems:
            told += 1
            assert torch.equal(sample.image, before.image)
            assert torch.equal(sample.target["masks"], before.target["masks"])
    assert told > 3  # of 40, a quarter of those that are not its own


def test_stage_that_nothing_starts_from_is_left_out() -> None:
    recipe = load_recipe("vcp_r50", ["stages.full.from=COCO_V1"])
    assert list(plan_stages(recipe, Console(quiet=True))) == ["full"]


@pytest.mark.parametrize("error", ["gpu", "cpu"])
def test_too_little_memory_says_what_to_lower(
    converted: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    def exhaust(*_: object) -> None:
        if error == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        torch.empty(2**46)

    monkeypatch.setattr(Parser, "forward", exhaust)
    result = imptool("train", "tiny.yaml", "--out", "run", "--workers", "0")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "out of memory at iteration 1 of stage detector, images 00" in result.stderr
    assert "lower solver.batch or raise solver.accumulate, or lower input.short_side" in result.stderr


def hard_dataset(folder: Path) -> None:
    """Images that are odd in one way each; the class `glove` never occurs, the val split has no hat."""
    image, label = draw_pair(0)
    nothing = np.zeros_like(label)
    points = nothing.copy()
    points[::7, ::9] = 2
    many = nothing.copy()
    many[::4, ::6] = 1
    many[1::4, 1::6] = 1
    corner = nothing.copy()
    corner[95, 71] = 1
    edge = nothing.copy()
    edge[:, 0] = 2
    ignored = np.full_like(label, 255)
    grey = np.full_like(image, 128)
    pairs = {
        "a_nothing": (image, nothing),
        "b_one_colour": (grey, label),
        "c_points": (image, points),
        "d_many": (image, many),
        "e_corner": (image, corner),
        "f_edge": (image, edge),
        "g_ignored": (image, ignored),
        "h_tall": (np.zeros((400, 8, 3), np.uint8), np.ones((400, 8), np.uint8)),
        "i_one_pixel": (image[:1, :1], label[:1, :1]),
        "v_val": (image, np.where(label == 2, 0, label).astype(np.uint8)),
    }
    for name, (pixels, ids) in pairs.items():
        for kind, values in (("images", pixels), ("labels", ids)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / kind / f"{name}.png")
    (folder / "classes.txt").write_text("\n".join([*CLASSES, "glove"]))
    (folder / "train.txt").write_text("\n".join(name for name in pairs if name != "v_val"))
    (folder / "val.txt").write_text("v_val")


@pytest.mark.parametrize("model", ["panoptic-fpn-imp", "panoptic-p2-imp"])
def test_odd_photographs_are_trained_on_one_by_one_and_measured(workplace: Path, imptool: Imptool, model: str) -> None:
    hard_dataset(workplace / "data" / "hard")
    Path("hard.yaml").write_text("layout: folder\nroot: hard\nsplits: {train: train.txt, val: val.txt}\n")
    assert imptool("convert-instances", "hard.yaml").exit_code == 0
    document = json.loads(Path("instances/hard/train.json").read_text())
    counts = [sum(row["image_id"] == image["id"] for row in document["annotations"]) for image in document["images"]]
    assert max(counts) >= 200
    assert min(counts) == 0
    overrides = [
        f"model.name={model}",
        "stages.full.model=null",
        "solver.batch=1",
        "stages.detector.iterations=18",
        "stages.full.iterations=18",
        "detector.score_threshold=0.0",
        "augment.short_sides=[32,64]",
        "augment.crop=[40,64]",
        "losses.ohem=0.25",
        "evaluate_every=9",
    ]
    words = [word for value in overrides for word in ("-o", value)]
    result = imptool("train", "tiny.yaml", "--dataset", "hard.yaml", *words, "--out", "run", "--workers", "0")
    assert result.exit_code == 0, result.output
    for line in log_of(Path("run")):
        assert all(np.isfinite(value) for value in line.values() if isinstance(value, float))
    result = imptool("eval", "run", "--workers", "1")
    assert result.exit_code == 0, result.output
    rows = json.loads(Path("run/eval-val/metrics.json").read_text())["semantic"][model]["per_class"]
    assert {row["name"]: row["accuracy"] for row in rows}["glove"] is None  # it is nowhere


def test_photographs_without_any_instance_train_all_the_same(workplace: Path, imptool: Imptool) -> None:
    for path in Path("data/drawn/labels").glob("*.png"):
        Image.new("L", (72, 96), 0).save(path)
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    result = imptool("train", "tiny.yaml", "--out", "run", "--workers", "0")
    assert result.exit_code == 0, result.output
    lines = log_of(Path("run"))
    assert [line["mask"] for line in lines] == [0, 0]
    assert all(np.isfinite(value) for line in lines for value in line.values() if isinstance(value, float))


WATCHED = """
from pathlib import Path
from imptool.cli import main
from imptool.report.progress import ProgressBar

original = ProgressBar.update

def update(bar, done, note=""):
    print("pages", Path("/proc/self/statm").read_text().split()[1])
    original(bar, done, note)

ProgressBar.update = update
changes = "-o stages.detector.iterations=1 -o stages.full.iterations=200 -o checkpoint_every=50"
main(["train", "tiny.yaml", "--out", "run", "--device", "cpu", "--workers", "0", *changes.split()])
"""


def test_memory_stays_flat_over_a_run(converted: Path) -> None:
    """In a process of its own, as what other tests have left is given back and taken at any time."""
    done = subprocess.run([sys.executable, "-c", WATCHED], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    pages = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("pages ")]
    megabytes = np.array(pages) * resource.getpagesize() / 2**20
    assert len(megabytes) == 201
    grown = np.median(megabytes[170:]) - np.median(megabytes[70:100])
    assert grown < 10, f"{grown:.1f} MB in 100 iterations"  # a batch that is kept in each would be over 20


def run_apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which must end by itself."""
    command = [sys.executable, "-m", "imptool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_error_while_workers_are_at_work_ends_the_process(converted: Path) -> None:
    endless = ("-o", "stages.detector.iterations=20000", "-o", "solver.lr=1000", "-o", "solver.warmup=0")
    result = run_apart("train", "tiny.yaml", *endless, "-o", "solver.clip_norm=null", "--out", "run", "--workers", "2")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "at iteration" in result.stderr


def test_second_run_in_a_folder_is_refused_while_the_first_is_at_work(converted: Path, imptool: Imptool) -> None:
    train_here("run")
    with alone_in(Path("run")):
        result = imptool("train", "run", "--resume", "--workers", "0")
        assert "another process is at work in run" in result.stderr
    assert not Path("run/.imptool.lock").exists()


def test_order_of_checkpoints_is_that_of_their_names(converted: Path) -> None:
    run = train_here("run", "keep_checkpoints=9")
    names = [path.name for path in checkpoints(run)]
    assert names == [f"checkpoint-{stage}-000000{number}.pt" for stage in ("detector", "full") for number in (2, 4)]
    for age, path in enumerate(checkpoints(run)):
        os.utime(path, (1000 - age, 1000 - age))  # as after a copy
    assert [path.name for path in checkpoints(run)] == names
    last = latest_checkpoint(run, "detector")
    assert last is not None
    assert last.name == "checkpoint-detector-0000004.pt"


def test_damaged_last_checkpoint_names_the_one_before(converted: Path, imptool: Imptool) -> None:
    run = train_here("run", "keep_checkpoints=2")
    (run / "weights.safetensors").unlink()
    (run / "checkpoint-full-0000004.pt").write_bytes(b"")
    refused = imptool("train", "run", "--resume")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "remove it to go on from run/checkpoint-full-0000002.pt" in refused.stderr
    (run / "checkpoint-full-0000004.pt").unlink()
    result = imptool("train", "run", "--resume", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert "going on after iteration 2" in result.output


def test_diverged_weights_are_no_model(converted: Path, imptool: Imptool) -> None:
    run = train_here("run")
    state = load_file(run / "weights.safetensors")
    state["semantic_head.predictor.bias"][0] = float("nan")
    with safe_open(run / "weights.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["imptool"])
    del about["sha256"]  # of the weights before
    save_file(state, run / "weights.safetensors", metadata={"imptool": json.dumps(about)})
    result = imptool("eval", "run")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "weights that are no numbers (semantic_head.predictor.bias): its training has diverged" in result.stderr


def test_results_of_an_early_stage_do_not_replace_those_of_the_last(converted: Path, imptool: Imptool) -> None:
    train_here("run")
    assert imptool("eval", "run/weights-detector.safetensors", "--workers", "1").exit_code == 0
    assert Path("run/eval-val-detector/metrics.json").is_file()
    assert not Path("run/eval-val").exists()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE are set, but the other processes cannot be met"),
        ({"RANK": "0", "WORLD_SIZE": "x"}, "start it with torchrun, or unset them"),
    ],
)
def test_variables_of_torchrun_without_it_are_told(
    converted: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = imptool("train", "tiny.yaml", "--out", "run")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert words in result.stderr
