"""A model that learns: one step of the optimizer for a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from imptool import distributed
from imptool.data.samples import Sample
from imptool.models.network import Network, total_loss
from imptool.recipe import Losses, Solver
from imptool.report.progress import say
from imptool.training.solver import build_optimizer, moving_average


class NotFinite(Exception):
    """A loss or the gradient is not finite: `name` and `value` say which, `images` of which images."""

    def __init__(self, name: str, value: float, images: str) -> None:
        super().__init__(f"{name} is {value}, images {images}")
        self.name, self.value, self.images = name, value, images


class OutOfMemory(Exception):
    """A step needs more memory than there is; the text names its images."""


class Learner:
    """A model with its optimizer and, where the solver has one, the moving average of its weights.

    Args:
        losses: weights of the losses. seed: of what the model draws. rate: the learning rate, before `set_rate`.
    """

    def __init__(self, model: Network, solver: Solver, losses: Losses, *, seed: int, rate: float, device: torch.device) -> None:
        self.model, self.solver, self.losses, self.seed, self.device = model, solver, losses, seed, device
        self.optimizer = build_optimizer(model, solver, lr=rate)
        self.average: AveragedModel | None = moving_average(model, solver.ema) if solver.ema is not None else None
        self._network: torch.nn.Module = model

    @property
    def trained(self) -> Network:
        """The model that is measured and saved."""
        return self.model if self.average is None else cast(Network, self.average.module)

    def share(self) -> None:
        """Share the gradient with the other processes, where there are some."""
        if distributed.world_size() > 1:
            devices = [self.device.index or 0] if self.device.type == "cuda" else None
            self._network = DistributedDataParallel(self.model, device_ids=devices)

    def step(self, iteration: int, parts: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """Forward, backward and update with the parts of a batch; give the losses.

        Raises:
            NotFinite: the weights stay as they are.
            OutOfMemory: the same.
        """
        torch.manual_seed(iteration_seed(self.seed, iteration, distributed.rank()))
        names = ", ".join(sample.name for part in parts for sample in part)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            rows = [self._backward(part, place, len(parts)) for place, part in enumerate(parts, start=1)]
            norm = self._clip_gradient()
            means = torch.stack([torch.stack([row[name] for row in rows]).mean() for name in rows[0]])
            *values, gradient = torch.cat([means, norm.to(means)[None]]).tolist()
            found = dict(zip(rows[0], values, strict=True))
            _check_finite({**found, "gradient": gradient}, names)
            self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            raise OutOfMemory(f"images {names}") from error
        if self.average is not None:
            self.average.update_parameters(self.model)
        return found

    def _backward(self, part: Sequence[Sample], place: int, count: int) -> dict[str, torch.Tensor]:
        """Add the gradient of a part of the batch; give its losses."""
        network = self._network
        waits = isinstance(network, DistributedDataParallel) and place < count
        with cast(Any, network).no_sync() if waits else nullcontext():
            images = [sample.image.to(self.device) for sample in part]
            targets = [{key: value.to(self.device) for key, value in sample.target.items()} for sample in part]
            losses, canvas = network(images, targets)
            total = total_loss(losses, self.losses)
            (total / count).backward()
        values = {name: loss.detach() for name, loss in losses.items()} | {"loss": total.detach()}
        if canvas is not None:
            values["canvas_nonempty"] = (canvas.detach().flatten(1).amax(1) > 0).float().mean()
        return values

    def _clip_gradient(self) -> torch.Tensor:
        """The norm of the whole gradient, which is made no longer than the solver allows."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.solver.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.solver.clip_norm, norm)
        return norm


def share_statistics(model: Network, device: torch.device, console: Console) -> Network:
    """BatchNorm over the batches of all processes, where there are several with GPUs; names and tensors stay."""
    if distributed.world_size() == 1:
        return model
    if device.type != "cuda":
        say(console, "note: panet.norm: sync: on the CPU each process has statistics of its own")
        return model
    return cast(Network, torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))


def iteration_seed(seed: int, iteration: int, rank: int) -> int:
    """The seed of what the model draws in an iteration (which proposals make a loss), so that no state needs to be kept."""
    return int(np.random.SeedSequence((seed, iteration, rank)).generate_state(1, np.uint64)[0])


def _check_finite(values: Mapping[str, float], names: str) -> None:
    wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if wrong == "gradient":  # which all processes share: any one's images may be at fault
        names = ", ".join(distributed.gather(names))
    if wrong is not None:
        raise NotFinite(wrong, values[wrong], names)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
