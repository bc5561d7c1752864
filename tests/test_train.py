"""Training: stages, resuming to the same bits, stopping, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import write_folder
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from imptool.checkpoint import latest_checkpoint, load_run, load_state, newest_run
from imptool.data.dataset import load_dataset
from imptool.data.instances import read_instances
from imptool.data.samples import TrainingSamples
from imptool.files import InputError
from imptool.models import MODELS, build_model
from imptool.models.parser import Parser
from imptool.recipe import Solver, Stage, load_recipe
from imptool.train import train
from imptool.training.solver import build_optimizer, learning_rate, moving_average, notes, set_rate
from imptool.training.stage import StageJob

Imptool = Callable[..., Result]
CPU = torch.device("cpu")


@pytest.fixture
def converted(workplace: Path, imptool: Imptool) -> Path:
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    return workplace


def train_tiny(run: str, *overrides: str, resume: bool = False) -> Path:
    train(load_recipe("tiny.yaml", overrides), Path(run), device=CPU, workers=0, console=Console(quiet=True), resume=resume)
    return Path(run)


def test_stages_run_in_order_and_leave_the_files_of_a_run(converted: Path, imptool: Imptool) -> None:
    result = imptool("train", "tiny.yaml", "--out", "run", "--workers", "0", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "new: semantic_head" in result.output
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["detector", "full"]
    assert lines[1].keys() >= {"iteration", "loss", "rpn_box", "mask", "semantic", "lr", "images_per_second", "canvas_nonempty"}
    assert 0 <= lines[1]["canvas_nonempty"] <= 1
    assert load_recipe("run/recipe.yaml").seed == 3
    assert list(Path("run").rglob("events.out.tfevents*"))
    assert {path.name for path in Path("run").glob("curves.*")} == {"curves.png", "curves.svg"}
    detector, full = (load_file(Path("run") / name) for name in ("weights-detector.safetensors", "weights.safetensors"))
    assert {key for key in full if key not in detector} == {key for key in full if key.startswith("semantic_head")}
    with pytest.raises(InputError, match="no trained run under runs"):
        newest_run()


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("mask-rcnn", "panoptic-fpn-imp")])
def test_every_model_of_the_paper_trains_from_stage_1_and_is_evaluated_and_parses(
    converted: Path, imptool: Imptool, model: str
) -> None:
    result = imptool("train", "tiny.yaml", "-o", f"stages.full.model={model}", "--out", "runs/run", "--workers", "0")
    assert result.exit_code == 0, result.output
    semantic, alone = model.startswith("semantic"), not model.startswith("panoptic")
    assert ("starts from the backbone's weights, not from stage detector" in result.output) == alone
    assert ("starts from runs/run/weights-detector.safetensors: takes " in result.output) != alone
    if not alone:
        told = next(line for line in result.output.splitlines() if "starts from runs" in line)
        assert told.endswith("; new: semantic_head")  # a detector has none
        assert len(told) <= 120
        assert "taken: detector.backbone (" in Path("runs/run/start-full.txt").read_text()
    result = imptool("eval", "--workers", "0")
    assert result.exit_code == 0, result.output
    metrics = json.loads(Path("runs/run/eval-val/metrics.json").read_text())
    assert metrics["model"] == model
    assert 0 <= metrics["semantic"][model]["pixel_accuracy"] <= 1
    assert set(metrics["average_precision"]) == (set() if semantic else {"box", "mask"})
    assert (metrics["canvas_nonempty"] is None) == (not model.endswith("imp"))
    result = imptool("predict", "data/drawn/images", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert len(list(Path("predictions/images/labels").glob("*.png"))) == 6


OTHER_SOLVER = ("solver.optimizer=adamw", "solver.lr=0.001")


# Inside stage 1, at its end, inside stage 2.
@pytest.mark.parametrize(("stopped_at", "overrides"), [(2, ()), (4, ()), (6, ()), (6, OTHER_SOLVER)])
def test_resumed_run_ends_with_the_same_bits(
    converted: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int, overrides: tuple[str, ...]
) -> None:
    whole = train_tiny("whole", *overrides)
    steps = 0
    original = StageJob._step

    def interrupt(*arguments):  # type: ignore[no-untyped-def]
        nonlocal steps
        if steps == stopped_at:
            raise RuntimeError("the power fails")
        steps += 1
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StageJob, "_step", interrupt)
        with pytest.raises(RuntimeError, match="power"):
            train_tiny("cut", *overrides)
    train_tiny("cut", *overrides, resume=True)
    expected, got = load_file(whole / "weights.safetensors"), load_file(Path("cut/weights.safetensors"))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    log = [(line["stage"], line["iteration"]) for line in map(json.loads, Path("cut/log.jsonl").read_text().splitlines())]
    assert log == [("detector", 4), ("full", 4)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_a_checkpoint_and_say_how_to_go_on(converted: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "imptool", "train", "tiny.yaml", "-o", "stages.detector.iterations=100000", "--out", "run"]
    with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list(Path("run").glob("checkpoint-*.pt")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, number)  # as a terminal or a scheduler does: to the workers too
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "imptool train run --resume" in errors
    assert "Traceback" not in errors
    assert latest_checkpoint(Path("run")) is not None
    assert not list(Path("run").glob(".unfinished-*"))


def test_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    converted: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Parser.forward
    calls = 0

    def poisoned(model, images, targets):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        losses, canvas = original(model, images, targets)
        return ({**losses, "mask": losses["mask"] * float("nan")} if calls == 4 else losses), canvas

    monkeypatch.setattr(Parser, "forward", poisoned)
    result = imptool("train", "tiny.yaml", "--out", "run", "--workers", "0")
    assert result.exit_code == 2
    assert "mask is nan at iteration 4 of stage detector, images 00" in result.output
    assert "checkpoint-detector-0000002.pt" in result.output
    kept = latest_checkpoint(Path("run"))
    assert kept is not None
    state = torch.load(kept, weights_only=True)
    assert state["iteration"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_photograph_that_cannot_be_read_is_left_out_and_listed(converted: Path, imptool: Imptool) -> None:
    broken = load_dataset("drawn.yaml").split("train")[0].image
    broken.write_bytes(broken.read_bytes()[:200])
    result = imptool("train", "tiny.yaml", "--out", "run", "--workers", "0")
    assert result.exit_code == 1
    assert broken.name in result.output
    assert Path("run/weights.safetensors").is_file()


def test_samples_cover_every_photograph_once_an_epoch_and_do_not_depend_on_history(converted: Path) -> None:
    dataset, recipe = load_dataset("drawn.yaml"), load_recipe("tiny.yaml")
    document = read_instances(dataset, "train")

    def samples() -> TrainingSamples:
        return TrainingSamples(dataset, "train", document, size=recipe.input, augment=recipe.augment, seed=5)

    stems = sorted(item.stem for item in dataset.split("train"))
    forward, backward = samples(), samples()
    names = [forward[position].name for position in range(8)]
    assert sorted(names[:4]) == sorted(names[4:]) == stems
    for position in reversed(range(8)):
        one, other = forward[position], backward[position]
        assert one.name == names[position]
        assert torch.equal(one.image, other.image)
        assert all(torch.equal(one.target[key], other.target[key]) for key in one.target)


def test_sample_holds_what_was_drawn(converted: Path) -> None:
    dataset = load_dataset("drawn.yaml")
    recipe = load_recipe("tiny.yaml", ["augment.flip=0", "input.short_side=72", "input.long_side=96"])  # the drawn size
    sample = TrainingSamples(
        dataset, "train", read_instances(dataset, "train"), size=recipe.input, augment=recipe.augment, seed=0
    )[0]
    label = torch.from_numpy(np.array(Image.open(f"data/drawn/labels/{sample.name}.png")))
    assert torch.equal(sample.target["semantic"], label.long())
    assert sample.target["labels"].tolist() == [1, 2]
    for box, mask, value in zip(sample.target["boxes"], sample.target["masks"], (1, 2), strict=True):
        assert torch.equal(mask.bool(), label == value)
        ys, xs = torch.nonzero(label == value, as_tuple=True)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_learning_rate_warms_up_and_steps_down() -> None:
    solver = Solver(warmup=10, gamma=0.1)
    rates = [learning_rate(iteration, 1.0, solver, Stage(iterations=40, steps=[20, 30])) for iteration in (5, 10, 20, 21, 31)]
    assert rates == pytest.approx([0.5005, 1.0, 1.0, 0.1, 0.01])


def test_cosine_falls_from_the_warm_up_to_zero_along_half_a_cosine() -> None:
    solver, stage = Solver(warmup=2, schedule="cosine"), Stage(iterations=6)
    rates = [learning_rate(iteration, 2.0, solver, stage) for iteration in range(1, 7)]
    half = 2 * 0.5005  # the first of two iterations of warm-up
    assert rates == pytest.approx([half, 2.0, 2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5])


def test_backbone_has_its_share_of_the_learning_rate(converted: Path) -> None:
    recipe = load_recipe("tiny.yaml", ["solver.backbone_lr=0.1"])
    model = build_model("panoptic-fpn-imp", recipe, load_dataset("drawn.yaml").labels, pretrained=False)
    optimizer = build_optimizer(model, recipe.solver, lr=1.0)
    set_rate(optimizer, 0.5)
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.05 if ".backbone.body." in name else 0.5), name


def test_moving_average_takes_more_of_the_first_weights_and_then_its_decay() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = moving_average(model, 0.25)
    for value in (1.0, 3.0, 5.0):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    second = 1 + (1 - 2 / 11) * (3 - 1)  # the first is taken as it is; then (1 + 1) / (10 + 1) < 0.25
    third = second + (1 - 3 / 12) * (5 - second)
    assert average.module.weight.item() == pytest.approx(third)


def test_weight_decay_leaves_norms_and_biases_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    decayed, plain = build_optimizer(model, Solver(weight_decay=0.5), lr=0.1).param_groups
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 3, 1, 1)]
    assert decayed["weight_decay"] == 0.5
    assert len(plain["params"]) == 3
    assert plain["weight_decay"] == 0


def test_output_that_holds_a_run_is_refused(converted: Path, imptool: Imptool) -> None:
    Path("run").mkdir()
    Path("run/log.jsonl").write_text("mine")
    result = imptool("train", "tiny.yaml", "--out", "run")
    assert result.exit_code == 2
    assert "run already holds results" in result.output
    assert Path("run/log.jsonl").read_text() == "mine"


def test_missing_instances_say_how_to_make_them(workplace: Path, imptool: Imptool) -> None:
    result = imptool("train", "tiny.yaml")
    assert result.exit_code == 2
    assert "imptool convert-instances drawn.yaml" in result.output
    assert not Path("runs").exists()


def test_photographs_that_were_not_converted_are_refused_before_training(converted: Path, imptool: Imptool) -> None:
    write_folder(converted / "data" / "drawn", count=8)
    result = imptool("train", "tiny.yaml")
    assert result.exit_code == 2
    assert "made for other images than split train" in result.output
    assert "convert again with --force" in result.output


@pytest.mark.parametrize(
    ("key", "value"), [("bbox", None), ("bbox", ["a", 2, 3, 4]), ("segmentation", [[11, 41, 40, 41, 40, 80]]), ("area", "x")]
)
def test_instances_made_by_hand_train_by_their_masks_alone(converted: Path, key: str, value: object) -> None:
    path = Path("instances/drawn/train.json")
    document = json.loads(path.read_text())
    document["annotations"][0][key] = value
    del document["info"]
    path.write_text(json.dumps(document))
    dataset, recipe = load_dataset("drawn.yaml"), load_recipe("tiny.yaml")
    samples = TrainingSamples(
        dataset, "train", read_instances(dataset, "train"), size=recipe.input, augment=recipe.augment, seed=0
    )
    for position in range(4):
        assert samples[position].target["boxes"].shape == (2, 4)


def test_checkpoint_that_would_run_code_is_refused(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    (run / "weights.safetensors").unlink()
    kept = latest_checkpoint(run)
    assert kept is not None
    kept.write_bytes(b"cposix\nsystem\n(S'touch hacked'\ntR.")  # a pickle that calls system()
    for arguments in (("eval", "run"), ("train", "run", "--resume")):
        result = imptool(*arguments)
        assert result.exit_code == 2
        assert f"{kept} is no checkpoint of imptool" in result.output
    assert not Path("hacked").exists()


def test_split_that_does_not_exist_is_refused_before_training(converted: Path, imptool: Imptool) -> None:
    for override in ("train_split=trian", "val_split=vall"):
        result = imptool("train", "tiny.yaml", "-o", override)
        assert result.exit_code == 2
        assert "has no split" in result.output
        assert "did you mean" in result.output
    assert not Path("runs").exists()


def test_checkpoint_of_another_recipe_model_or_class_list_is_refused(converted: Path, imptool: Imptool) -> None:
    train_tiny("run")
    changed = imptool("train", "tiny.yaml", "-o", "solver.lr=0.5", "--resume", "--out", "run")
    assert changed.exit_code == 2
    assert "another recipe (solver" in changed.output
    classes = Path("data/drawn/classes.txt")
    classes.write_text(classes.read_text() + "\nshoe")
    for arguments in (("eval", "run"), ("train", "run", "--resume")):
        result = imptool(*arguments)
        assert result.exit_code == 2, result.output
        assert "class" in result.output
        assert len(result.output.strip().splitlines()) <= 2
    model = build_model("mask-rcnn", load_recipe("tiny.yaml"), load_run(Path("run"), device=CPU).labels, pretrained=False)
    with pytest.raises(InputError, match="weights of another model or class list"):
        load_state(model, load_file("run/weights.safetensors"), source=Path("run/weights.safetensors"))


def test_recipe_trains_on_another_dataset_with_its_classes(workplace: Path, imptool: Imptool) -> None:
    write_folder(workplace / "data" / "other")
    (workplace / "data" / "other" / "classes.txt").write_text("background\nparka\ncap\nglove")
    (workplace / "other.yaml").write_text(
        "layout: folder\nroot: ./data/other\nrandom_splits: {seed: 2, sizes: {val: 2}, rest: train}\n"
    )
    assert imptool("convert-instances", "other.yaml").exit_code == 0
    result = imptool(
        "train",
        "tiny.yaml",
        "--dataset",
        "other.yaml",
        "--workers",
        "0",
        "-o",
        "stages.detector.iterations=1",
        "-o",
        "stages.full.iterations=1",
    )
    assert result.exit_code == 0, result.output
    assert load_run(newest_run(), device=CPU).labels.names == ["background", "parka", "cap", "glove"]


def test_newest_run_is_the_newest_with_a_usable_model(converted: Path) -> None:
    finished = train_tiny("runs/tiny/a")
    for name, stage in (("b", "detector"), ("c", None)):
        unfinished = Path("runs/tiny") / name
        unfinished.mkdir()
        (unfinished / "recipe.yaml").write_text((finished / "recipe.yaml").read_text())
        if stage:
            (unfinished / f"checkpoint-{stage}-0000002.pt").write_bytes(b"")
    assert newest_run() == finished
    assert newest_run("tiny", unfinished=True) == Path("runs/tiny/b")


def test_damaged_weights_are_told_in_one_line(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = imptool("eval", "run")
    assert result.exit_code == 2
    assert "run/weights.safetensors is no weights file of imptool, or is damaged" in result.output


def run_patched(patch: str) -> subprocess.Popen[str]:
    """`imptool train` of its own process group, after a line that patches `training/batches.py`."""
    code = f"import time, imptool.training.batches as batches; {patch}; from imptool.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "tiny.yaml", "--out", "run", "--workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="workers must inherit the patch by fork")
def test_full_shared_memory_ends_in_one_line_and_leaves_no_process(converted: Path) -> None:
    full = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
    process = run_patched(f"batches.torch.Tensor.share_memory_ = lambda _: exec('raise RuntimeError(\"{full}\")')")
    with process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert len(errors.splitlines()) == 1
    assert "No space left on device (28)): use --workers 0, or fewer, or enlarge /dev/shm" in errors


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="workers must inherit the patch by fork")
def test_a_reader_that_is_killed_ends_training_in_one_line(converted: Path) -> None:
    with run_patched("import os; batches.TrainingSamples.__getitem__ = lambda *_: os.kill(os.getpid(), 9)") as process:
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, len(errors.splitlines())) == (2, 1), errors
    assert "the workers that read images have failed (DataLoader worker (pid" in errors
    assert "use --workers 0, or fewer, or enlarge /dev/shm; --resume goes on from the last checkpoint" in errors


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or sys.version_info >= (3, 14), reason="workers must inherit the patch by fork")
def test_second_ctrl_c_ends_a_run_whose_worker_hangs(converted: Path) -> None:
    with run_patched("batches.TrainingSamples.__getitem__ = lambda *_: time.sleep(1000)") as process:
        deadline = time.monotonic() + 60
        while not Path("run/tensorboard/detector").is_dir():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(1)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "once more stops at once" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe", b"[1, 2]", b'{"stage": "fll", "iteration": 1}', b'{"stage": "full"}', b"[" * 100_000, b"null", b"my note"],
)
def test_log_with_a_strange_line_is_told_and_one_cut_at_its_end_is_mended(
    converted: Path, imptool: Imptool, line: bytes
) -> None:
    run = train_tiny("run")
    (run / "weights.safetensors").unlink()
    log = run / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(line + b"\n" + whole)
    refused = imptool("train", run, "--resume")
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "run/log.jsonl has a line that is none of this run: mend or remove" in refused.stderr
    assert log.read_bytes() == line + b"\n" + whole
    log.write_bytes(whole + line)
    assert imptool("train", run, "--resume", "--workers", "0").exit_code == 0
    assert log.read_bytes() == whole


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.pop(key)


def changed(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.__setitem__(key, value)


def shrink_momentum(state: dict[str, Any]) -> None:
    values = state["optimizer"]["state"]
    values[next(iter(values))]["momentum_buffer"] = torch.zeros(1)


def test_a_checkpoint_or_log_of_which_a_byte_has_changed_is_told_in_one_line(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    (run / "weights.safetensors").unlink()
    path, log = latest_checkpoint(run), run / "log.jsonl"
    assert path is not None
    whole, lines = path.read_bytes(), log.read_text()
    weight = torch.load(path, weights_only=True)["model"]["detector.backbone.body.conv1.weight"].numpy().tobytes()
    place = whole.index(weight)
    for name, data in (
        (path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]),
        (log, lines.replace("0.", "1.", 1)),
    ):
        before = name.read_bytes()
        name.write_bytes(data if isinstance(data, bytes) else data.encode())
        result = imptool("train", run, "--resume", "--workers", "0")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
        assert str(name) in result.stderr
        name.write_bytes(before)
    assert imptool("train", run, "--resume", "--workers", "0").exit_code == 0


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no optimizer": without("optimizer"),
    "no best result": without("best"),
    "a best result that is text": changed("best", {"miou": "much"}),
    "a stage that is a list": changed("stage", ["full"]),
    "another stage": changed("stage", "fll"),
    "an iteration that never comes": changed("iteration", 5),
    "a negative iteration": changed("iteration", -1),
    "about that is text": changed("about", "panoptic"),
    "an unknown model": lambda state: state["about"].update(model=["a"]),
    "no recipe": lambda state: state["about"].pop("recipe"),
    "classes without names": lambda state: state["about"].update(labels={"classes": [{"id": 1}]}),
    "a background that is no class": lambda state: state["about"]["labels"].update(background=7),
    "weights that are text": lambda state: state["model"].update(dict.fromkeys(state["model"], "x")),
    "weights by number": changed("model", {1: torch.zeros(1)}),
    "no momenta": changed("optimizer", {}),
    "Adam's state": changed("optimizer", {"state": {0: {"exp_avg": torch.zeros(1)}}, "param_groups": []}),
    "momenta of another model": shrink_momentum,
    "momenta of more parameters": lambda state: state["optimizer"]["state"].update({9999: {"momentum_buffer": None}}),
    "unreadable images by number": changed("unreadable", {1: 2}),
}


def test_damaged_checkpoint_is_told_in_one_line(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    (run / "weights.safetensors").unlink()
    path = latest_checkpoint(run)
    assert path is not None
    whole = path.read_bytes()
    for name, damage in DAMAGES.items():
        path.write_bytes(whole)
        state = torch.load(path, weights_only=True)
        damage(state)
        torch.save(state, path)
        result = imptool("train", run, "--resume", "--workers", "0")
        assert result.exit_code == 2, (name, result.output, result.exception)
        assert len(result.stderr.splitlines()) == 1, (name, result.stderr)
        assert str(run) in result.stderr
    path.write_bytes(whole)
    assert imptool("train", run, "--resume", "--workers", "0").exit_code == 0


@pytest.mark.parametrize("about", ["[1]", '"x"', "[" * 100_000, "{}", '{"model": "a", "recipe": 1, "labels": []}', "nan"])
def test_weights_whose_description_is_damaged_are_told_in_one_line(converted: Path, imptool: Imptool, about: str) -> None:
    save_file({"a": torch.zeros(1)}, "weights.safetensors", metadata={"imptool": about})
    result = imptool("eval", ".")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "weights.safetensors" in result.stderr


def test_run_may_be_named_like_markup(converted: Path, imptool: Imptool) -> None:
    result = imptool("train", "tiny.yaml", "--workers", "0", "--out", "x[/red]")
    assert result.exit_code == 0, result.output
    assert "x[/red], stage detector" in result.output
    assert Path("x[/red]/weights.safetensors").is_file()


def test_schedule_that_no_iteration_reaches_is_noted(workplace: Path) -> None:
    whole = load_recipe("outfits_small")
    assert notes(whole, whole.stages) == []
    short = load_recipe("outfits_small", ["stages.full.iterations=900", "stages.detector.iterations=20"])
    assert notes(short, short.stages) == [
        "stages.detector.steps: [80] are not reached in 20 iterations",
        "solver.warmup: 30 is more than the 20 iterations of stage detector",
        "stages.full.steps: [950] are not reached in 900 iterations",
    ]
    cosine = load_recipe("outfits_small", ["solver.schedule=cosine", "stages.detector.steps=[]"])
    assert notes(cosine, cosine.stages) == ["stages.full.steps: [800, 950] are of no effect with solver.schedule: cosine"]


@pytest.mark.parametrize(("norm", "other"), [("group", "none"), ("none", "group")])
def test_weights_whose_pyramid_has_another_norm_are_refused_in_one_line(
    converted: Path, imptool: Imptool, norm: str, other: str
) -> None:
    train_tiny("run", f"backbone.fpn_norm={other}", "stages.full.iterations=1")
    start = ["-o", "stages={full: {from: run/weights.safetensors, iterations: 1}}", "-o", f"backbone.fpn_norm={norm}"]
    result = imptool("train", "tiny.yaml", *start, "--workers", "0")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"run/weights.safetensors has backbone.fpn_norm: {other}, the recipe has {norm}: use the same" in result.stderr


def test_run_folder_is_no_recipe_and_a_finished_run_is_not_resumed(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    refused = imptool("train", run)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "run is a run: imptool train run --resume goes on with it" in refused.stderr
    weights = (run / "weights.safetensors").stat().st_mtime_ns
    finished = imptool("train", run, "--resume")
    assert (finished.exit_code, len(finished.stderr.splitlines())) == (2, 1)
    assert "run is finished: imptool eval run measures it" in finished.stderr
    assert (run / "weights.safetensors").stat().st_mtime_ns == weights


STALE: dict[str, Callable[[], object]] = {
    "other label maps: 1 have changed": lambda: Image.new("L", (72, 96), 1).save(
        load_dataset("drawn.yaml").split("train")[0].label
    ),
    "another background, ignore or remap": lambda: Path("drawn.yaml").write_text(
        Path("drawn.yaml").read_text() + "remap: {2: 255}\n"
    ),
    "another class list": lambda: Path("drawn.yaml").write_text(Path("drawn.yaml").read_text() + "background: null\n"),
}


@pytest.mark.parametrize("words", STALE)
def test_instances_made_from_what_has_changed_are_refused(converted: Path, imptool: Imptool, words: str) -> None:
    STALE[words]()
    result = imptool("train", "tiny.yaml")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert words in result.stderr
    assert "convert again with --force" in result.stderr
    assert imptool("convert-instances", "drawn.yaml", "--force").exit_code == 0
    read_instances(load_dataset("drawn.yaml"), "train")


def test_instances_of_an_image_of_another_size_end_eval_in_one_line(converted: Path, imptool: Imptool) -> None:
    run = train_tiny("run")
    path = Path("instances/drawn/val.json")
    document = json.loads(path.read_text())
    document["images"][0]["height"] -= 1
    for row in document["annotations"]:
        row["segmentation"] = [[1, 1, 9, 1, 9, 9, 1, 9]]
    path.write_text(json.dumps(document))
    result = imptool("eval", run, "--workers", "0")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "are of an image of 95 x 72 px (height x width), it has 96 x 72: convert again with --force" in result.stderr


def test_instances_of_a_copied_dataset_stay_good(converted: Path) -> None:
    for path in Path("data/drawn").rglob("*.png"):
        os.utime(path, (1, 1))
    Path("data").rename("elsewhere")
    Path("drawn.yaml").write_text(Path("drawn.yaml").read_text().replace("root: drawn", "root: ./elsewhere/drawn"))
    read_instances(load_dataset("drawn.yaml"), "train")


def cut_short(run: Path) -> Path:
    """A run as it is when it was stopped in the middle of its last stage."""
    (run / "checkpoint-full-0000004.pt").unlink()
    (run / "weights.safetensors").unlink()
    return run


def test_training_that_has_not_ended_is_told_by_all_that_use_its_checkpoint(converted: Path, imptool: Imptool) -> None:
    run = cut_short(train_tiny("run", "keep_checkpoints=2"))
    line = "training has not ended: run/checkpoint-full-0000002.pt is of iteration 2 of 4 of stage full"
    uses = (("predict", "data/drawn/images", "--run", run, "--save", "labels"), ("eval", run), ("export", run))
    for words in uses:
        result = imptool(*words)
        assert result.exit_code == 0, result.output
        assert sum(f"note: {line}" in each for each in result.output.splitlines()) == 1
    assert line in json.loads((run / "eval-val/metrics.json").read_text())["dataset"]["notes"][0]
    assert imptool("train", run, "--resume", "--workers", "0").exit_code == 0
    assert not any(
        "has not ended" in imptool(*words, *more).output for words, more in zip(uses[1:], ((), ["--force"]), strict=True)
    )


def test_resumed_recipe_goes_on_with_the_dataset_of_its_run(converted: Path, imptool: Imptool) -> None:
    Path("other.yaml").write_text(Path("drawn.yaml").read_text())
    assert imptool("convert-instances", "other.yaml").exit_code == 0
    cut_short(train_tiny("runs/tiny/a", "keep_checkpoints=2", "dataset=other.yaml"))
    result = imptool("train", "tiny.yaml", "-o", "keep_checkpoints=2", "--resume", "--workers", "0")
    assert result.exit_code == 0, result.output
    assert load_recipe("runs/tiny/a/recipe.yaml").dataset == "other.yaml"
    (Path("runs/tiny/a") / "weights.safetensors").unlink()
    named = imptool("train", "tiny.yaml", "-o", "keep_checkpoints=2", "--resume", "--dataset", "drawn.yaml")
    assert "another recipe (dataset differ)" in named.stderr  # what is asked for is not passed over


def test_recipe_in_the_place_of_a_dataset_is_told(workplace: Path, imptool: Imptool) -> None:
    for words in (("convert-instances", "tiny.yaml"), ("train", "tiny.yaml", "--dataset", "recipes/ccp_lite.yaml")):
        result = imptool(*words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert f"{words[-1].rpartition('/')[2]} is a recipe, not a dataset" in result.stderr


def test_classes_that_val_shows_and_train_does_not_are_noted(converted: Path, imptool: Imptool) -> None:
    path = Path("instances/drawn/train.json")
    document = json.loads(path.read_text())
    names = {row["id"]: row["name"] for row in document["categories"]}
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] != 2]
    path.write_text(json.dumps(document))
    result = imptool("train", "tiny.yaml", "--device", "cpu", "--workers", 0, "--out", "run")
    line = f"split val of drawn has classes that split train never shows, so none learns them: {names[2]}"
    assert line in result.stdout


def test_a_split_without_any_instance_is_noted(converted: Path, imptool: Imptool) -> None:
    for split in ("train", "val"):
        path = Path(f"instances/drawn/{split}.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    result = imptool("train", "tiny.yaml", "--device", "cpu", "--workers", 0, "--out", "run")
    for split in ("train", "val"):
        assert f"split {split} of drawn has no instance at all" in result.stdout
