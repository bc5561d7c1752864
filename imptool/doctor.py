"""`imptool doctor`: what this machine has, how the kernels run on it, and whether they are right here."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console

from imptool.files import one_line
from imptool.processes import usable_cores
from imptool.projection import SAMPLINGS, kernel_facts, project_masks
from imptool.report.progress import say

_PACKAGES = ("imptool", "numpy", "numba", "torch", "torchvision", "opencv-python-headless", "pycocotools", "shapely", "pillow")
_CUDA_PACKAGES = ("numba-cuda", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink")


def command(*, console: Console) -> int:
    """`imptool doctor`. Returns the exit code: 1 where the operator is wrong."""
    return 0 if examine(console) else 1


def examine(console: Console) -> bool:
    """Print versions, devices and how the kernels run; whether the operator works on every device here."""
    _line(console, "system", f"{platform.platform()}, Python {platform.python_version()}")
    _line(console, "packages", _versions(_PACKAGES))
    _line(console, "compiler", _versions(_CUDA_PACKAGES))
    cores = f"{os.cpu_count()} cores, {usable_cores()} usable by this process"
    _line(console, "cpu", f"{cores}; torch uses {torch.get_num_threads()} threads")
    works = _try_torchvision(console) & _try_operator(console, torch.device("cpu"))
    if not torch.cuda.is_available():
        _line(console, "cuda", f"none: torch {torch.__version__} finds no usable GPU" + _driver(", though there is driver "))
        return works
    for number in range(torch.cuda.device_count()):
        name, (major, minor) = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        cuda = f"compute capability {major}.{minor}, {memory:.0f} GiB, CUDA {torch.version.cuda}" + _driver(", driver ")
        _line(console, f"cuda:{number}", f"{name}, {cuda}")
        works &= _try_operator(console, torch.device("cuda", number))
    return works


def torchvision_misfit(error: Exception) -> str:
    """What to say where torchvision fails with this error, as it does beside a torch that it was not built for."""
    versions = " and ".join(_versions((package,)) for package in ("torch", "torchvision"))
    mend = "pip install --force-reinstall torch torchvision"
    return f"{versions} do not fit each other ({one_line(error)}): {mend} takes two that do"


def _try_torchvision(console: Console) -> bool:
    try:
        from torchvision.ops import nms  # its compiled code is what a torch of another version breaks

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        _line(console, "torchvision", f"FAILS: {torchvision_misfit(error)}")
        return False
    return True


def _line(console: Console, name: str, text: str) -> None:
    say(console, f"{name:<12}{text}")


def _versions(packages: tuple[str, ...]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} is not installed")
    return ", ".join(found)


def _driver(before: str) -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        versions = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return before + versions[0] if versions else ""


def _try_operator(console: Console, device: torch.device) -> bool:
    """Project masks whose canvas and gradient are known by hand, and say how that went."""
    try:
        for sampling in SAMPLINGS:
            # A box of 4 pixels, and 2 cells whose middles lie at 1 and 3: the pixels' centres at 0.5, 1.5, 2.5, 3.5.
            masks = torch.tensor([[[0.25, 0.75]]], device=device, requires_grad=True)
            zero = torch.zeros(1, dtype=torch.int64, device=device)
            boxes, scores = torch.tensor([[0.0, 0, 4, 1]], device=device), torch.ones(1, device=device)
            canvas = project_masks(boxes, zero, scores, masks, zero, num_layers=1, size=(1, 4), batch=1, sampling=sampling)
            (gradient,) = torch.autograd.grad(canvas.sum(), masks)
            expected = [0.25, 0.25, 0.75, 0.75] if sampling == "cells" else [0.25, 0.375, 0.625, 0.75]
            if canvas.flatten().tolist() != expected or gradient.flatten().tolist() != [2.0, 2.0]:
                _line(console, "  operator", f"WRONG with sampling {sampling}: {canvas.tolist()}, gradient {gradient.tolist()}")
                return False
        facts = ", ".join(f"{name} {value}" for name, value in kernel_facts(device).items())
    except Exception as error:  # whatever a driver or compiler says: the line is what this command is for
        _line(console, "  operator", f"FAILS: {' '.join(str(error).split())[:500]}")
        return False
    _line(console, "  operator", f"works; {facts}")
    return True
