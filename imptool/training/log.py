"""The log of a run: `log.jsonl` and TensorBoard's events, a line for some iterations."""

from __future__ import annotations

import json
import math
import os
import reprlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from imptool import distributed
from imptool.checkpoint import CURVES
from imptool.files import JOURNAL_FILE, InputError, read_bytes, whole_file
from imptool.journal import checksum
from imptool.models.network import kind_of
from imptool.recipe import Losses

LOG = "log.jsonl"
EVERY = 10  # iterations
_ADDED = "added"  # how many iterations, of all processes, are in the sums


class StageLog:
    """`with StageLog(run, "full", start=0, sums={}) as log: log.add({"loss": 1.0}, images=8); log.write_means(10, {})`.

    All processes add and take part in the means; the main one writes. `sums` is what a checkpoint has kept of the values
    that came up since the last line before it.
    """

    def __init__(self, run: Path, stage: str, *, start: int, sums: Mapping[str, float]) -> None:
        self.path, self.stage = run / LOG, stage
        events = str(run / "tensorboard" / stage)
        self.board = SummaryWriter(events, purge_step=start + 1) if distributed.is_main() else None
        self.sums = dict(sums) if distributed.is_main() else {}
        self.images, self.since = 0, time.monotonic()

    def __enter__(self) -> StageLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.board is not None:
            self.board.close()

    def add(self, values: Mapping[str, float], *, images: int) -> None:
        """Add an iteration's values, of as many images in this process; every iteration has the same names."""
        for name, value in {**values, _ADDED: 1.0}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.images += images

    def joined_sums(self, names: Sequence[str]) -> dict[str, float]:
        """The sums since the last line over all processes, for a checkpoint; after a line there are none."""
        own = np.array([self.sums.get(name, 0.0) for name in (*names, _ADDED)])
        sums = dict(zip((*names, _ADDED), distributed.sum_of(own).tolist(), strict=True))
        return sums if sums[_ADDED] else {}

    def write_means(self, iteration: int, extra: Mapping[str, float]) -> dict[str, float]:
        """Write the means of what came up since the last line, over all processes; give them."""
        sums = self.joined_sums([name for name in self.sums if name != _ADDED])
        images = float(distributed.sum_of(np.array([float(self.images)]))[0])
        count = sums.pop(_ADDED)
        values = {name: value / count for name, value in sums.items()}
        values |= {"images_per_second": images / max(time.monotonic() - self.since, 1e-9), **extra}
        self.write(iteration, values)
        self.sums, self.images, self.since = {}, 0, time.monotonic()
        return values

    def checksum(self) -> str:
        """Of the file, all of it on the disk: what a checkpoint says that a resumed run goes on from; "" without a line."""
        if not self.path.is_file():
            return ""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return checksum(self.path)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write a line as it is."""
        if self.board is None:
            return
        line = {"stage": self.stage, "iteration": iteration, **{name: round(value, 6) for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{self.stage}/{name}", value, iteration)


def short_form(values: Mapping[str, float]) -> str:
    """A line of the log as the progress bar shows it: of several losses of a kind the mean."""
    kinds: dict[str, list[float]] = {}
    for name, value in values.items():
        if kind_of(name) in Losses.model_fields:
            kinds.setdefault(kind_of(name), []).append(value)
    parts = {kind: sum(found) / len(found) for kind, found in kinds.items()}
    rpn = [parts.pop(kind) for kind in ("rpn_objectness", "rpn_box") if kind in parts]
    if rpn:
        parts["rpn"] = sum(rpn)
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in parts.items())
    note = f"loss {values.get('loss', math.nan):.2f} ({losses})  {values['images_per_second']:.1f} images/s"
    return note + (f"  canvas {values['canvas_nonempty']:.0%}" if "canvas_nonempty" in values else "")


def cut_log(run: Path, stages: Sequence[str], stage: str, iteration: int, *, written: str) -> None:
    """Leave out of the log what comes after a checkpoint, as it will be done again.

    Args:
        written: the checksum of the log when the checkpoint was saved, "" where it is not known.
    Raises:
        InputError: a line that is none of this run's, but for a last one that a crash has cut, or one that has changed.
    """
    path = run / LOG
    if not path.exists():
        return
    reached = (stages.index(stage), iteration)
    lines = [line for line in read_bytes(path, JOURNAL_FILE).splitlines() if line.strip()]
    places = [_place_of(line, stages) for line in lines]
    for line, place in zip(lines[:-1], places, strict=False):
        if place is None:
            raise InputError(
                f"{path} has a line that is none of this run: mend or remove {reprlib.repr(line.decode('latin-1'))}"
            )
    kept = [
        line
        for line, place in zip(lines, places, strict=True)
        # What is measured after an iteration is measured again.
        if place and (place < reached or (place == reached and b'"val_miou"' not in line))
    ]
    with whole_file(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        if written and checksum(temporary) != written:
            raise InputError(
                f"{path} is not what this run wrote up to its checkpoint: restore it, or remove it to go on without"
            )


def write_curves(run: Path) -> list[Path]:
    """Draw the log of a run as PNG and SVG; give their paths."""
    from imptool.report.plots import plot_training  # matplotlib takes a second

    stages: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in read_bytes(run / LOG, JOURNAL_FILE).splitlines():
        values = json.loads(line)
        curves = stages.setdefault(values.pop("stage"), {})
        iteration = values.pop("iteration")
        for name, value in values.items():
            if name not in ("images_per_second", "canvas_nonempty"):
                curves.setdefault(name, []).append((iteration, value))
    return plot_training(run / CURVES, stages)


def _place_of(line: bytes, stages: Sequence[str]) -> tuple[int, int] | None:
    """Stage and iteration of a line of the log, None where it is none."""
    try:
        values = json.loads(line.decode())
        return stages.index(values["stage"]), int(values["iteration"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
