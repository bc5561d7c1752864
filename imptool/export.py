"""`imptool export`: the model of a run as one file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from imptool.checkpoint import load_run, newest_run, save_weights
from imptool.data.output import is_inside, results_folder
from imptool.files import InputError, find_weights
from imptool.report.progress import say


def command(*, run: str | None, out: Path, half: bool, force: bool, console: Console) -> None:
    """`imptool export`, with its options: write the weights of `run`, or of the newest one, to `out`.

    Raises:
        InputError: `out` is no name of a file of weights, is there already, or is the model itself; as `load_run`.
    """

    def check(_: Path) -> None:
        if out.exists() and not force:
            raise InputError(f"{out} is there already: add --force, or choose another --out")

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: the file's name must end in .safetensors")
    with results_folder(out.parent, check):
        missing = f"{run} is no run of imptool train and no file of weights"
        trained = load_run(newest_run() if run is None else find_weights(run, missing=missing), device=torch.device("cpu"))
        if is_inside(out, trained.source):
            raise InputError(f"--out {out} is the model itself: choose another file")
        save_weights(out, trained.model, trained.name, trained.recipe, trained.labels, half=half)
    size, classes = out.stat().st_size / 2**20, len(trained.labels.classes)
    say(console, f"{out}: {trained.name} from {trained.source}, {classes} classes, {size:.0f} MiB")
    if trained.unfinished:
        say(console, f"note: {trained.unfinished}")
