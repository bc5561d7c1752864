"""One stage of training: the loop over iterations, and all that it touches outside."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from imptool import distributed
from imptool.checkpoint import (
    BEST,
    latest_checkpoint,
    load_optimizer,
    load_state,
    save_checkpoint,
    save_weights,
)
from imptool.data.dataset import Dataset
from imptool.data.layouts import Item
from imptool.data.samples import Sample, TrainingSamples, read_pair
from imptool.files import InputError, read_ahead
from imptool.metrics.confusion import confusion_matrix, summarize, tally
from imptool.models.inference import parse_image
from imptool.models.parser import Parser
from imptool.recipe import Recipe, Stage
from imptool.report.progress import ProgressBar, say
from imptool.training.batches import load_batches
from imptool.training.log import EVERY, StageLog, short_form
from imptool.training.solver import base_rate, build_optimizer, learning_rate, moving_average, set_rate


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the checkpoint is written, the run can be resumed."""


class Diverged(InputError):
    """A loss or gradient is not finite."""


@dataclass
class StageJob:
    """A stage that is being trained.

    stop: signals that have come. unreadable: image -> problem. best: the best mIOU on the val split so far, and where.
    average: the moving average of the weights, where the solver has one: it is what is measured and saved.
    """

    run: Path
    name: str
    stage: Stage
    recipe: Recipe
    dataset: Dataset
    model: Parser
    samples: TrainingSamples
    seed: int
    device: torch.device
    workers: int
    console: Console
    stop: list[int]
    unreadable: dict[str, str]
    best: dict[str, float] = field(default_factory=dict)
    average: AveragedModel | None = None

    @property
    def trained(self) -> Parser:
        """The model that is measured and saved."""
        return self.model if self.average is None else cast(Parser, self.average.module)

    @property
    def model_name(self) -> str:
        return self.stage.model or self.recipe.model.name

    def train(self, checkpoint: dict[str, Any] | None) -> None:
        """Go through the iterations, from those of a checkpoint on.

        Raises:
            Diverged: a loss or gradient is not finite.
            InputError: memory does not suffice, or no image can be read.
            Interrupted: a signal has come, and the checkpoint is written.
        """
        solver, start, total = self.recipe.solver, 0, self.stage.iterations
        rate = base_rate(solver, self.stage)
        optimizer = build_optimizer(self.model, solver, lr=rate)
        if solver.ema is not None:
            self.average = moving_average(self.model, solver.ema)
        if checkpoint is not None:
            start = self._restore(checkpoint, optimizer)
        if self.recipe.compute.compile:
            self.model.compile_dense()
        self.model.train()
        network = self._parallel()
        batches = load_batches(self.samples, solver, start=start, iterations=total, workers=self.workers)
        note, sums = "", checkpoint["log"] if checkpoint else {}
        # Closed, so that an error in the loop ends the workers: the exit of the process would wait for them for ever.
        with closing(batches), StageLog(self.run, self.name, start=start, sums=sums) as log, self._progress(start) as bar:
            if not self._evaluate_if_due(start, log):  # where a resumed run was stopped before it could
                raise Interrupted(f"stopped at iteration {start} of stage {self.name}; its checkpoint is kept")
            for iteration, parts in enumerate(batches, start=start + 1):
                self._take_problems(parts)
                current = learning_rate(iteration, rate, solver, self.stage)
                set_rate(optimizer, current)
                values = self._step(network, iteration, parts, optimizer)
                if self.average is not None:
                    self.average.update_parameters(self.model)
                log.add(values, images=sum(len(part) for part in parts))
                if iteration % EVERY == 0 or iteration == total:
                    note = short_form(log.write_means(iteration, {"lr": current}))
                bar.update(iteration, note)
                stopped, due = distributed.any_of(bool(self.stop)), self._is_due(iteration)
                if stopped or due or iteration % self.recipe.checkpoint_every == 0 or iteration == total:
                    path = self._save(iteration, optimizer, log, log.joined_sums(list(values)))
                    stopped = stopped or not self._evaluate_if_due(iteration, log)
                    if stopped and (due or iteration < total):
                        raise Interrupted(f"stopped at iteration {iteration} of stage {self.name}; {path} is written")

    def _progress(self, start: int) -> ProgressBar:
        return ProgressBar(self.console, self.name, total=self.stage.iterations, start=start)

    def _parallel(self) -> torch.nn.Module:
        """The model, or what shares its gradient with the other processes."""
        if distributed.world_size() == 1:
            return self.model
        devices = [self.device.index or 0] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=devices)

    def _take_problems(self, parts: Sequence[Sequence[Sample]]) -> None:
        """Remember images that could not be read and that others stand in for; they are told at the end of the run."""
        for sample in (sample for part in parts for sample in part):
            self.unreadable |= sample.problems
            if not sample.target:
                raise InputError(f"none of the images can be read, such as: {next(iter(sample.problems.values()))}")

    def _step(
        self, network: torch.nn.Module, iteration: int, parts: Sequence[Sequence[Sample]], optimizer: torch.optim.Optimizer
    ) -> dict[str, float]:
        """Forward, backward and update; the weights stay as they are when a loss or gradient is not finite."""
        torch.manual_seed(iteration_seed(self.seed, iteration, distributed.rank()))
        names = ", ".join(sample.name for part in parts for sample in part)
        optimizer.zero_grad(set_to_none=True)
        try:
            rows = [self._backward(network, part, place, len(parts)) for place, part in enumerate(parts, start=1)]
            norm = self._clip_gradient()
            means = torch.stack([torch.stack([row[name] for row in rows]).mean() for name in rows[0]])
            *values, gradient = torch.cat([means, norm.to(means)[None]]).tolist()
            found = dict(zip(rows[0], values, strict=True))
            self._check_finite(found, gradient, iteration, names)
            optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory at iteration {iteration} of stage {self.name}, images {names}: lower solver.batch or "
                "raise solver.accumulate, or lower input.short_side, detector.proposals_train or detector.rois_per_image; "
                "compute.precision=bfloat16 takes less too"
            ) from error
        return found

    def _clip_gradient(self) -> torch.Tensor:
        """The norm of the whole gradient, which is made no longer than the solver allows."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.recipe.solver.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.recipe.solver.clip_norm, norm)
        return norm

    def _backward(self, network: torch.nn.Module, part: Sequence[Sample], place: int, count: int) -> dict[str, torch.Tensor]:
        """Add the gradient of a part of the batch; give its losses."""
        waits = isinstance(network, DistributedDataParallel) and place < count
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            images = [sample.image.to(self.device) for sample in part]
            targets = [{key: value.to(self.device) for key, value in sample.target.items()} for sample in part]
            losses, canvas = network(images, targets)
            weights = self.recipe.losses.model_dump(exclude={"ohem"})
            total = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros((), device=self.device))
            (total / count).backward()
        values = {name: loss.detach() for name, loss in losses.items()} | {"loss": total.detach()}
        if canvas is not None:
            values["canvas_nonempty"] = (canvas.detach().flatten(1).amax(1) > 0).float().mean()
        return values

    def _check_finite(self, losses: dict[str, float], gradient: float, iteration: int, names: str) -> None:
        values = losses | {"gradient": gradient}
        wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if wrong is None:
            return
        if wrong == "gradient":  # which all processes share: any one's images may be at fault
            names = ", ".join(distributed.gather(names))
        kept = latest_checkpoint(self.run)
        raise Diverged(
            f"{wrong} is {values[wrong]} at iteration {iteration} of stage {self.name}, images {names}; "
            f"{f'the last checkpoint is {kept}' if kept else 'there is no checkpoint yet'}; "
            f"lower solver.lr, or set solver.clip_norm, in a new run"
        )

    def _is_due(self, iteration: int) -> bool:
        """Whether mIOU is measured after an iteration."""
        every = self.recipe.evaluate_every
        if every is None or self.model.semantic_head is None or iteration == 0:
            return False
        return iteration % every == 0 or iteration == self.stage.iterations

    def _evaluate_if_due(self, iteration: int, log: StageLog) -> bool:
        """Measure mIOU on the val split where it is due, and keep the best weights; False where a signal has come."""
        if not self._is_due(iteration):
            return True
        began = time.monotonic()
        miou = self._val_miou()
        log.since += time.monotonic() - began  # images_per_second is that of training
        if miou is None:
            return False
        if math.isnan(miou):
            say(self.console, f"{self.name} {iteration}: nothing in split {self.recipe.val_split} to measure mIOU on")
            return True
        log.write(iteration, {"val_miou": miou})
        better = miou > self.best.get("miou", -1.0)
        measured, all_ = len(self._val_items()), len(self.dataset.split(self.recipe.val_split))
        of = f" on {measured} of {all_:,} images" if measured < all_ else ""
        say(self.console, f"{self.name} {iteration}: val mIOU {miou:.2%}{of}" + (", the best so far" if better else ""))
        if better:
            self.best = {"miou": miou, "iteration": float(iteration)}
            if distributed.is_main():
                save_weights(self.run / BEST, self.trained, self.model_name, self.recipe, self.dataset.labels)
        return True

    def _val_items(self) -> Sequence[Item]:
        """The images that mIOU is measured on while training: of the val split all, or as many as the recipe says."""
        items, asked = self.dataset.split(self.recipe.val_split), self.recipe.evaluate_images
        if asked is None or asked >= len(items):
            return items
        return [items[place] for place in np.linspace(0, len(items) - 1, asked).round().astype(int)]

    def _val_miou(self) -> float | None:
        """Mean IOU over the foreground classes of those images, as `imptool eval` gives it of all; None after a signal."""
        labels, items = self.dataset.labels, distributed.own_share(self._val_items())
        total = np.zeros((len(labels.classes),) * 2, np.int64)
        model = self.trained.eval()
        distributed.share_buffers(model)
        for item, pair, problem in read_ahead(partial(read_pair, self.dataset), items, workers=max(self.workers, 1)):
            if self.stop:
                break
            if pair is None:
                self.unreadable[item.stem] = problem
                continue
            predicted = parse_image(model, pair[0], self.recipe.input, device=self.device).channels
            assert predicted is not None  # there is a semantic head
            total += confusion_matrix(predicted, pair[1], num_classes=len(labels.classes), ignore=labels.ignore_channel)
        model.train()
        if distributed.any_of(bool(self.stop)):
            return None
        return float(summarize(tally(distributed.sum_of(total)), foreground=labels.foreground, things=labels.things)["miou"])

    def _restore(self, checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer) -> int:
        load_state(self.model, checkpoint.pop("model"), source=self.run)
        load_optimizer(optimizer, checkpoint.pop("optimizer"), source=self.run)  # popped, as they are as large as the model
        if self.average is not None:
            load_state(self.average, checkpoint.pop("average"), source=self.run)
        self.best = checkpoint["best"]
        return int(checkpoint["iteration"])

    def _save(self, iteration: int, optimizer: torch.optim.Optimizer, log: StageLog, sums: dict[str, float]) -> Path | None:
        for found in distributed.gather(self.unreadable):
            self.unreadable |= found
        path = None
        if distributed.is_main():
            path = save_checkpoint(
                self.run,
                stage=self.name,
                iteration=iteration,
                model=self.model,
                name=self.model_name,
                optimizer=optimizer,
                average=self.average,
                recipe=self.recipe,
                labels=self.dataset.labels,
                unreadable=self.unreadable,
                best=self.best,
                log=sums,
                log_checksum=log.checksum(),
            )
        distributed.wait_for_all()
        return path


def iteration_seed(seed: int, iteration: int, rank: int) -> int:
    """The seed of what the model draws in an iteration (which proposals make a loss), so that no state needs to be kept."""
    return int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0])


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
