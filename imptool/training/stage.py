"""One stage of training: the loop over iterations, with its log, checkpoints and measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from imptool import distributed
from imptool.checkpoint import BEST, latest_checkpoint
from imptool.data.samples import Sample, TrainingSamples
from imptool.files import InputError
from imptool.recipe import Recipe, Stage
from imptool.report.progress import ProgressBar, say
from imptool.training.batches import load_batches
from imptool.training.keeping import Keeping
from imptool.training.learner import Learner, NotFinite, OutOfMemory
from imptool.training.log import EVERY, StageLog, short_form
from imptool.training.solver import base_rate, learning_rate, set_rate
from imptool.training.validation import Validation


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the checkpoint is written, the run can be resumed."""


class Diverged(InputError):
    """A loss or gradient is not finite."""


@dataclass
class StageJob:
    """A stage that is being trained.

    keeping: its files. samples: what it learns from. validation: what it is measured on, None where it is not. stop: signals
    that have come. unreadable: image -> problem. best: the best mIOU on the val split so far, and where.
    """

    keeping: Keeping
    stage: Stage
    learner: Learner
    samples: TrainingSamples
    validation: Validation | None
    workers: int
    console: Console
    stop: list[int]
    unreadable: dict[str, str]
    best: dict[str, float] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.keeping.run

    @property
    def name(self) -> str:
        return self.keeping.name

    @property
    def recipe(self) -> Recipe:
        return self.keeping.recipe

    def train(self, checkpoint: dict[str, Any] | None) -> None:
        """Go through the iterations, from those of a checkpoint on.

        Raises:
            Diverged: a loss or gradient is not finite.
            InputError: memory does not suffice, or no image can be read.
            Interrupted: a signal has come, and the checkpoint is written.
        """
        solver, start, total = self.recipe.solver, 0, self.stage.iterations
        rate, learner = base_rate(solver, self.stage), self.learner
        if checkpoint is not None:
            start = self._restore(checkpoint)
        if self.recipe.compute.compile:
            learner.model.compile_dense()
        learner.model.train()
        learner.share()
        batches = load_batches(self.samples, solver, start=start, iterations=total, workers=self.workers)
        note, sums = "", checkpoint["log"] if checkpoint else {}
        # Closed, so that an error in the loop ends the workers: the exit of the process would wait for them for ever.
        with closing(batches), StageLog(self.run, self.name, start=start, sums=sums) as log, self._progress(start) as bar:
            if not self._evaluate_if_due(start, log):  # where a resumed run was stopped before it could
                raise Interrupted(f"stopped at iteration {start} of stage {self.name}; its checkpoint is kept")
            for iteration, parts in enumerate(batches, start=start + 1):
                self._take_problems(parts)
                current = learning_rate(iteration, rate, solver, self.stage)
                set_rate(learner.optimizer, current)
                values = self._step(iteration, parts)
                log.add(values, images=sum(len(part) for part in parts))
                if iteration % EVERY == 0 or iteration == total:
                    note = short_form(log.write_means(iteration, {"lr": current}))
                bar.update(iteration, note)
                stopped, due = distributed.any_of(bool(self.stop)), self._is_due(iteration)
                if stopped or due or iteration % self.recipe.checkpoint_every == 0 or iteration == total:
                    path = self._save(iteration, log, log.joined_sums(list(values)))
                    stopped = stopped or not self._evaluate_if_due(iteration, log)
                    if stopped and (due or iteration < total):
                        raise Interrupted(f"stopped at iteration {iteration} of stage {self.name}; {path} is written")

    def _progress(self, start: int) -> ProgressBar:
        return ProgressBar(self.console, self.name, total=self.stage.iterations, start=start)

    def _take_problems(self, parts: Sequence[Sequence[Sample]]) -> None:
        """Remember images that could not be read and that others stand in for; they are told at the end of the run."""
        for sample in (sample for part in parts for sample in part):
            self.unreadable |= sample.problems
            if not sample.target:
                raise InputError(f"none of the images can be read, such as: {next(iter(sample.problems.values()))}")

    def _step(self, iteration: int, parts: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """A step of the learner, whose troubles are told in a person's words."""
        try:
            return self.learner.step(iteration, parts)
        except OutOfMemory as error:
            raise InputError(
                f"out of memory at iteration {iteration} of stage {self.name}, {error}: lower solver.batch or "
                "raise solver.accumulate, or lower input.short_side, detector.proposals_train or detector.rois_per_image; "
                "compute.precision=bfloat16 takes less too"
            ) from error
        except NotFinite as found:
            kept = latest_checkpoint(self.run)
            raise Diverged(
                f"{found.name} is {found.value} at iteration {iteration} of stage {self.name}, images {found.images}; "
                f"{f'the last checkpoint is {kept}' if kept else 'there is no checkpoint yet'}; "
                f"lower solver.lr, or set solver.clip_norm, in a new run"
            ) from found

    def _is_due(self, iteration: int) -> bool:
        """Whether mIOU is measured after an iteration."""
        every = self.recipe.evaluate_every
        if every is None or self.validation is None or iteration == 0:
            return False
        return iteration % every == 0 or iteration == self.stage.iterations

    def _evaluate_if_due(self, iteration: int, log: StageLog) -> bool:
        """Measure mIOU on the val split where it is due, and keep the best weights; False where a signal has come."""
        if self.validation is None or not self._is_due(iteration):
            return True
        began = time.monotonic()
        miou = self.validation.miou(self.learner.trained, stop=self.stop, unreadable=self.unreadable)
        log.since += time.monotonic() - began  # images_per_second is that of training
        if miou is None:
            return False
        if math.isnan(miou):
            say(self.console, f"{self.name} {iteration}: nothing in split {self.recipe.val_split} to measure mIOU on")
            return True
        log.write(iteration, {"val_miou": miou})
        better = miou > self.best.get("miou", -1.0)
        measured, all_ = len(self.validation.items), self.validation.whole
        of = f" on {measured} of {all_:,} images" if measured < all_ else ""
        say(self.console, f"{self.name} {iteration}: val mIOU {miou:.2%}{of}" + (", the best so far" if better else ""))
        if better:
            self.best = {"miou": miou, "iteration": float(iteration)}
            self.keeping.save_weights(self.run / BEST, self.learner)
        return True

    def _restore(self, checkpoint: dict[str, Any]) -> int:
        self.keeping.restore(checkpoint, self.learner)
        self.best = checkpoint["best"]
        return int(checkpoint["iteration"])

    def _save(self, iteration: int, log: StageLog, sums: dict[str, float]) -> Path | None:
        for found in distributed.gather(self.unreadable):
            self.unreadable |= found
        kept = {"unreadable": self.unreadable, "best": self.best, "log": sums, "log_checksum": log.checksum()}
        return self.keeping.save_checkpoint(iteration, self.learner, **kept)
