"""Two processes under torchrun, on the CPU: the gradient, eval, and what happens when one of them ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from conftest import finish, torchrun
from rich.console import Console
from safetensors.torch import load_file

from imptool.data.dataset import load_dataset
from imptool.data.instances import read_instances
from imptool.data.samples import TrainingSamples
from imptool.models import build_model
from imptool.recipe import load_recipe
from imptool.train import train
from imptool.training.learner import iteration_seed

Imptool = Callable[..., Result]


@pytest.fixture
def converted(workplace: Path, imptool: Imptool) -> Path:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    return workplace


# Plain gradient descent at a rate of 1: the weights move by the gradient.
ONE_STEP = ("solver.lr=1.0", "solver.warmup=0", "solver.momentum=0", "solver.weight_decay=0", "solver.clip_norm=null")


def test_gradient_of_two_processes_is_the_mean_of_their_own(converted: Path) -> None:
    overrides = [*ONE_STEP, "stages.detector.iterations=1", "stages.full.iterations=1", "solver.batch=4"]
    process = torchrun(
        "train", "tiny.yaml", *[word for value in overrides for word in ("-o", value)], "--out", "run", "--workers", 0
    )
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert "iterations of 4 from 4 images, on cpu, shared by 2 processes" in output
    assert output.count("stage detector") == 1  # one process speaks

    recipe, dataset = load_recipe("tiny.yaml", overrides), load_dataset("drawn.yaml")
    samples = TrainingSamples(
        dataset, "train", read_instances(dataset, "train"), size=recipe.input, augment=recipe.augment, seed=0
    )
    torch.set_num_threads(1)
    gradients = []
    for rank in range(2):
        torch.manual_seed(0)
        model = build_model("mask-rcnn", recipe, dataset.labels, pretrained=True).train()
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        own = [samples[position] for position in (2 * rank, 2 * rank + 1)]
        torch.manual_seed(iteration_seed(0, 1, rank))
        losses, _ = model([sample.image for sample in own], [sample.target for sample in own])
        sum(losses.values()).backward()  # type: ignore[union-attr]
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    after = load_file("run/weights-detector.safetensors")
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 60
    for name in gradients[0]:
        mean = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(after[name], before[name] - mean, rtol=1e-6, atol=1e-6)
    assert any(not torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_eval_of_two_processes_is_that_of_one_to_the_bit(converted: Path, imptool: Imptool) -> None:
    train(load_recipe("tiny.yaml"), Path("run"), device=torch.device("cpu"), workers=0, console=Console(quiet=True))
    options = ("--boundary-bands", "--baseline", "prior", "--split", "train", "--workers", "1")
    torch.set_num_threads(1)  # as in the two
    assert imptool("eval", "run", *options, "--out", "one").exit_code == 0
    process = torchrun("eval", "run", *options, "--out", "two")
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert output.count("images (percent)") == 1
    one, two = (Path(folder, "metrics.json").read_text() for folder in ("one", "two"))
    assert one == two
    assert json.loads(one)["dataset"]["photographs"] == 4


def test_eval_of_predictions_by_two_processes_is_that_of_one_to_the_byte(converted: Path, imptool: Imptool) -> None:
    shutil.copytree("data/drawn/labels", "theirs")
    Path("theirs/003.png").unlink()
    options = ("--predictions", "theirs", "--dataset", "drawn.yaml", "--split", "train", "--bands", "1,5", "--boundary-f", "2")
    assert imptool("eval", *options, "--out", "one").exit_code in (0, 1)
    process = torchrun("eval", *options, "--out", "two")
    _, errors = finish(process)
    for name in ("metrics.json", "per_image.csv", "per_image.npz"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), errors


@pytest.mark.parametrize("ema", ["null", "0.5"])
def test_run_of_two_processes_measures_accumulates_and_resumes(converted: Path, imptool: Imptool, ema: str) -> None:
    options = (
        "-o",
        f"solver.ema={ema}",
        "-o",
        "solver.batch=4",
        "-o",
        "solver.accumulate=2",
        "-o",
        "evaluate_every=2",
        "--out",
        "run",
        "--workers",
        "1",
    )
    process = torchrun("train", "tiny.yaml", *options)
    _, errors = finish(process)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    measured = [(line["iteration"], line["val_miou"]) for line in lines if "val_miou" in line]
    assert [iteration for iteration, _ in measured] == [2, 4]
    assert imptool("eval", "run/best.safetensors").exit_code == 0  # in one process: all had the saved statistics of BatchNorm
    (figures,) = json.loads(Path("run/eval-val-best/metrics.json").read_text())["semantic"].values()
    assert figures["miou"] == pytest.approx(max(miou for _, miou in measured), abs=1e-6)
    Path("run/weights.safetensors").unlink()
    process = torchrun("train", "run", "--resume", "--workers", "0")
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert f"best val mIOU {max(miou for _, miou in measured):.2%}" in output


def wait_for(path: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not list(Path().glob(path)):
        assert time.monotonic() < deadline, "no checkpoint"
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)


def test_killed_process_ends_the_other_with_a_message_and_resume_goes_on(converted: Path) -> None:
    long = ("-o", "stages.detector.iterations=100000", "--out", "run", "--workers", "0")
    process = torchrun("train", "tiny.yaml", *long)
    wait_for("run/checkpoint-*.pt", process)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    second = next(
        pid for pid in workers if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes().replace(b"LOCAL_RANK", b"")
    )
    os.kill(second, signal.SIGKILL)
    _, errors = finish(process)
    assert process.returncode != 0
    assert re.search(r"another process of this run has ended .* --resume goes on", errors), errors
    assert not Path("run/weights.safetensors").exists()
    process = torchrun("train", "run", "--resume", "--workers", "0")
    reached = sorted(Path("run").glob("checkpoint-*.pt"))[-1].name
    deadline = time.monotonic() + 90
    while sorted(Path("run").glob("checkpoint-*.pt"))[-1].name <= reached:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)  # both stop at the same iteration
    _, errors = finish(process)
    assert "go on with: imptool train run --resume" in errors
    assert "imptool/train.py" not in errors, errors  # torchrun shows a traceback of its own


def test_batch_that_cannot_be_shared_is_told(converted: Path) -> None:
    process = torchrun("train", "tiny.yaml", "-o", "solver.batch=3", "--out", "run", "--workers", "0")
    _, errors = finish(process)
    assert process.returncode != 0
    assert (
        "solver.batch is 3, which 2 processes with solver.accumulate 1 cannot share evenly: make it a multiple of 2" in errors
    )
