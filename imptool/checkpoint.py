"""Runs on disk: checkpoints to resume from, weights to use, and which run is the newest."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from imptool.data.label_set import LabelSet
from imptool.data.palette import voc_palette
from imptool.files import DEFAULT_WEIGHTS, RUNS, InputError, find_weights, one_line, parse_strict, read_yaml, whole_file
from imptool.models import build_model
from imptool.models.network import Network
from imptool.models.weights import check_stored, load_pickle, read_safetensors, sha256, why_unreadable
from imptool.recipe import Recipe
from imptool.version import __version__

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
CURVES = "curves.png"  # and .svg

_CHECKPOINT = {
    "stage": str,
    "iteration": int,
    "about": dict,
    "model": dict,
    "optimizer": dict,
    "average": dict,
    "unreadable": dict,
    "best": dict,
    "log": dict,
    "log_checksum": str,
}


@dataclass(frozen=True)
class TrainedModel:
    """A model ready for inference, and what it was trained for.

    `unfinished` says how far its training has come, "" where that has ended.
    """

    model: Network
    name: str
    recipe: Recipe
    labels: LabelSet
    source: Path
    unfinished: str = ""


def save_checkpoint(
    run: Path,
    *,
    stage: str,
    iteration: int,
    model: Network,
    name: str,
    optimizer: torch.optim.Optimizer,
    average: torch.nn.Module | None,
    recipe: Recipe,
    labels: LabelSet,
    unreadable: dict[str, str],
    best: dict[str, float],
    log: dict[str, float],
    log_checksum: str,
) -> Path:
    """Write a checkpoint that a run resumes to the same bits from, then remove the older ones that the recipe does not keep."""
    path = run / f"checkpoint-{stage}-{iteration:07d}.pt"
    state = {
        "stage": stage,
        "iteration": iteration,
        "about": _about(name, recipe, labels),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else {},
        "unreadable": unreadable,
        "best": best,
        "log": log,
        "log_checksum": log_checksum,
    }
    # Given a path, torch writes its name into the file: the temporary one, which is another in every run.
    with _whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)
    for older in checkpoints(run)[: -recipe.keep_checkpoints]:
        older.unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only; InputError when it is broken."""
    try:
        state: dict[str, Any] = load_pickle(path)
        with zipfile.ZipFile(path) as archive:  # torch does not look at its checksums
            if (part := archive.testzip()) is not None:
                raise ValueError(f"{part} has changed")
        state.setdefault("average", {})  # of the weights; older versions had none
        state.setdefault("log_checksum", "")  # so had they
        for key, kind in _CHECKPOINT.items():
            if not isinstance(state[key], kind):
                raise TypeError(f"its {key} is of the type {type(state[key]).__name__}")
        if not all(isinstance(part, str) for pair in state["unreadable"].items() for part in pair):
            raise TypeError("its unreadable images are no text")
        for part in ("best", "log"):
            if not all(isinstance(key, str) and isinstance(value, float) for key, value in state[part].items()):
                raise TypeError(f"its {part} holds other things than numbers")
        if state["best"] and state["best"].keys() != {"miou", "iteration"}:
            raise TypeError("its best is no result")
        check_stored(_tensors_in(state))
    except InputError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a broken or foreign file
        raise InputError(f"{path} is no checkpoint of imptool, or is damaged: {why_unreadable(error)}") from error
    return state


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a checkpoint's dictionaries, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors_in(part)


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The moving average of the weights in a checkpoint, by the model's names; none where the solver has none."""
    named = checkpoint["average"].items()
    return {key.removeprefix("module."): value for key, value in named if key.startswith("module.")}


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run in the order of stages and iterations: a copied file may have any time."""
    try:
        stages = list(read_yaml(run / "recipe.yaml")["stages"])
    except (InputError, KeyError, TypeError):
        stages = []

    def place(path: Path) -> tuple[int, int]:
        stage, iteration = _stage_and_iteration(path)
        return (stages.index(stage) if stage in stages else -1, iteration)

    return sorted(run.glob(f"checkpoint-*-{'[0-9]' * 7}*.pt"), key=place)


def _stage_and_iteration(path: Path) -> tuple[str, int]:
    stage, _, iteration = path.stem.removeprefix("checkpoint-").rpartition("-")
    return stage, int(iteration) if iteration.isdecimal() else -1


def latest_checkpoint(run: Path, stage: str | None = None) -> Path | None:
    """The last checkpoint of a run, of any stage or of one."""
    found = [path for path in checkpoints(run) if stage is None or _stage_and_iteration(path)[0] == stage]
    return found[-1] if found else None


def save_weights(path: Path, model: Network, name: str, recipe: Recipe, labels: LabelSet, *, half: bool = False) -> None:
    """Write a model's weights with its name, recipe, classes, version and the tensors' sha256 in the metadata.

    Args:
        half: store them in float16, in half the space; they are read as float32.
    Raises:
        InputError: a value is too large for float16.
    """
    state = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
    if half:
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        large = next((key for key, value in state.items() if value.isinf().any()), None)
        if large is not None:
            raise InputError(f"{large} holds values that are too large for float16: export without --half")
    about = _about(name, recipe, labels) | {"sha256": sha256(state)}
    with _whole_file(path) as temporary:
        # `save_file` would write to a file of its own beside it, which others may not read, and which a kill would leave.
        temporary.write_bytes(save(state, metadata={"imptool": json.dumps(about)}))


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read weights, as float32, and what they are about (model, recipe, labels, version)."""
    try:
        state, about = read_safetensors(path)
        if about is None:
            raise ValueError("it has no metadata of imptool")
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no weights file of imptool, or is damaged: {one_line(error)}") from error
    return state, about


def parse_about(about: Any, *, source: Path) -> tuple[str, Recipe, LabelSet]:
    """The model's name, recipe and classes from what a checkpoint or weights file says of itself; InputError when damaged."""
    try:
        name, plain, labels = about["model"], about["recipe"], LabelSet.from_plain(about["labels"])
        if not isinstance(name, str) or not labels.classes or labels.background not in (None, *labels.ids):
            raise ValueError("model or classes are none")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source} does not say what it was trained for, or is damaged: {one_line(error)}") from error
    try:
        return name, parse_strict(Recipe, plain, source=f"{source} (recipe)"), labels
    except InputError as error:
        version = about.get("version")
        if version == __version__:
            raise
        raise InputError(f"{source} was written by imptool {version}, and this is {__version__}: {error}") from error


def load_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor], *, source: Path) -> None:
    """Load weights into the model that they were saved from; InputError when it is another model or class list."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"{source} holds the weights of another model or class list: {one_line(error)}") from error
    wrong = next((key for key, value in state.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise InputError(f"{source} holds weights that are no numbers ({wrong}): its training has diverged")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, source: Path) -> None:
    """Load the optimizer's averages of the gradients; everything else of it comes from the recipe.

    Raises:
        InputError: the averages are those of another model or optimizer.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averages = ("exp_avg", "exp_avg_sq") if isinstance(optimizer, torch.optim.AdamW) else ("momentum_buffer",)
    try:
        for index, values in state["state"].items():
            for name in averages:
                average, wanted = values[name], trained[index].shape
                if average is not None and average.shape != wanted:
                    raise ValueError(f"{name} {index} is {list(average.shape)}, not {list(wanted)}")
        optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source} holds the state of another optimizer or model: {one_line(error)}; train again") from error


def load_run(run: Path, *, device: torch.device) -> TrainedModel:
    """Load the model of a run: its weights if it has finished, else the newest checkpoint of its last stage.

    Args:
        run: its folder, or one of the weights files in it, such as `best.safetensors`.
    """
    named = run.suffix == ".safetensors" and run.exists() and not run.is_dir()
    path = run if named else _usable_file(run)
    if path is None:
        raise InputError(
            f"{run} has no {WEIGHTS} and no checkpoint of its last stage: imptool train {run} --resume goes on with it"
            if (run / "recipe.yaml").is_file()
            else f"{run} is no run of imptool train: no recipe.yaml and no {WEIGHTS} in it"
        )
    checkpoint: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        state, about = load_weights(path)
    else:
        checkpoint = load_checkpoint(path)
        state, about = averaged_weights(checkpoint) or checkpoint["model"], checkpoint["about"]
    name, recipe, labels = parse_about(about, source=path)
    _check_shapes(name, recipe, labels, state, source=path)
    model = build_model(name, recipe, labels, pretrained=False)
    load_state(model, state, source=path)
    return TrainedModel(model.eval().to(device), name, recipe, labels, path, _how_far(checkpoint, recipe, path))


def _how_far(checkpoint: Mapping[str, Any], recipe: Recipe, path: Path) -> str:
    """Where a checkpoint stands, if that is before its stage's end."""
    stage = recipe.stages.get(checkpoint["stage"]) if checkpoint else None
    if stage is None or checkpoint["iteration"] >= stage.iterations:
        return ""
    return (
        f"training has not ended: {path} is of iteration {checkpoint['iteration']:,} of {stage.iterations:,} "
        f"of stage {checkpoint['stage']}; imptool train {path.parent} --resume goes on"
    )


def _check_shapes(name: str, recipe: Recipe, labels: LabelSet, state: Mapping[str, torch.Tensor], *, source: Path) -> None:
    """InputError where a file's tensors are not those that its recipe builds: a recipe can ask for all memory."""
    with torch.device("meta"):  # shapes without values
        wanted = build_model(name, recipe, labels, pretrained=False).state_dict()
    for key, value in wanted.items():
        found = list(state[key].shape) if key in state else "missing"
        if found != list(value.shape):
            raise InputError(
                f"{source} holds the weights of another model or class list: {key} is {found}, and its recipe needs "
                f"{list(value.shape)}"
            )


def named_weights(source: str) -> Path:
    """The file that `--weights` names: a path, or the name of weights that come with imptool; InputError where it is none."""
    missing = f"--weights {source}: no such file of weights (.safetensors)"
    path = find_weights(source, missing=missing)
    if path.is_dir() or path.suffix != ".safetensors":
        raise InputError(missing + ", but a folder" * path.is_dir())
    return path


def newest_run(*names: str, unfinished: bool = False) -> Path:
    """The newest run under runs/: one with a usable model, or (`unfinished`) one that can be resumed.

    Args:
        names: patterns of the folder that holds it, `ccp_lite` or `ccp_lite-*`; none for any.
    """
    found = []
    folders = {path.parent for pattern in (WEIGHTS, "checkpoint-*.pt") for path in RUNS.rglob(pattern)}
    for folder in folders:
        if names and not any(fnmatchcase(folder.parent.name, name) for name in names):
            continue
        path = _resumable_file(folder) if unfinished else _usable_file(folder)
        if path is not None:
            found.append((path.stat().st_mtime_ns, folder))
    if not found:
        kind = "run to resume" if unfinished else "trained run"
        shipped = "" if unfinished else f"; {DEFAULT_WEIGHTS} names weights that come with imptool"
        raise InputError(f"no {kind} under {RUNS}/{names[0] if names else ''}: imptool train RECIPE makes one{shipped}")
    return max(found)[1]


def _usable_file(run: Path) -> Path | None:
    if (run / WEIGHTS).is_file():
        return run / WEIGHTS
    try:
        last_stage = list(read_yaml(run / "recipe.yaml")["stages"])[-1]
    except (InputError, KeyError, TypeError, IndexError):
        return None
    return latest_checkpoint(run, last_stage)


def _resumable_file(run: Path) -> Path | None:
    return None if (run / WEIGHTS).is_file() else latest_checkpoint(run)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """`whole_file`, where a full disk is an OSError also from the writers of tensors."""
    with whole_file(path) as temporary:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # older checkpoints are removed next: a power cut must not take both
        except (RuntimeError, SafetensorError) as error:
            if "unexpected pos" in str(error) or "PytorchStreamWriter" in str(error):
                raise OSError(errno.ENOSPC, "the disk takes no more: make room, then --resume", str(path)) from error
            raise OSError(errno.EIO, one_line(error), str(path)) from error


def _about(name: str, recipe: Recipe, labels: LabelSet) -> dict[str, Any]:
    palette = voc_palette()[np.array(labels.ids) % 256].tolist()  # of each class, as label maps show it
    return {
        "model": name,
        "recipe": recipe.to_plain(),
        "labels": labels.to_plain(),
        "palette": palette,
        "version": __version__,
    }
