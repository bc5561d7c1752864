"""Tensors from files and from torchvision, by name; nothing in a file is run."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import safe_open

from imptool.files import InputError
from imptool.recipe import is_weights_file

State = dict[str, torch.Tensor]


def read_tensors(path: Path, *, setting: str) -> State:
    """Tensors from a .pth, .pt or .safetensors file, also from under "model" or "state_dict"."""
    if not path.is_file():
        raise InputError(f"{setting}: no file {path}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles, which are refused just after
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("model", "state_dict"):
            state = state.get(wrapper, state)
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise TypeError("it holds other things than tensors")
    except Exception as error:  # each format has its own kinds of error for a broken file
        raise InputError(f"{setting}: {path} is no file of tensors: {why_unreadable(error)}") from error
    return dict(state)


def why_unreadable(error: Exception) -> str:
    """Why a file of tensors could not be read, in one line; without torch's advice to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds other things than tensors and plain values, and those are not run"
    return " ".join(str(error).split())[:200] or type(error).__name__


def backbone_tensors(name: str, weights: str) -> State:
    """A backbone's weights by torchvision's name (downloaded once), or from a local file, without its classifier."""
    if is_weights_file(weights):
        state = read_tensors(Path(weights), setting="backbone.weights")
    else:
        try:
            known = torchvision.models.get_model_weights(name)
            chosen = known[weights]
        except KeyError as error:
            names = ", ".join(weight.name for weight in known)
            raise InputError(f"backbone.weights: '{weights}' is neither a file nor one of {names}, none") from error
        state = download(chosen, weights)
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def download(weights: Any, name: str) -> State:
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what came differs
        raise InputError(
            f"{name} could not be downloaded ({error}): name a local file ({weights.url}), "
            "or -o backbone.weights=none -o backbone.norm=batch to train from scratch"
        ) from error
