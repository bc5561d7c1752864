"""The optimizer, the learning rate as a function of the iteration, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.optim.swa_utils import AveragedModel

from imptool.recipe import Recipe, Solver, Stage

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def build_optimizer(model: torch.nn.Module, solver: Solver, *, lr: float) -> torch.optim.Optimizer:
    """The solver's optimizer; biases and norms are not decayed, the backbone's own have `backbone_lr` of the rate.

    maskrcnn-benchmark, on which the paper builds, decays norms, trains biases twice as fast and warms up from a third of
    the rate; here is one rate for all, and a warm-up from a thousandth (ours).
    """
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = solver.backbone_lr if name.startswith("detector.backbone.body.") else 1.0
            groups.setdefault((share, parameter.ndim > 1), []).append(parameter)
    rows = [
        {"params": groups[share, decays], "lr_share": share, "weight_decay": solver.weight_decay if decays else 0.0}
        for share, decays in sorted(groups, reverse=True)
    ]
    if solver.optimizer == "adamw":
        return torch.optim.AdamW(rows, lr=lr, betas=(solver.momentum, 0.999), fused=True)
    return torch.optim.SGD(rows, lr=lr, momentum=solver.momentum, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_share"]


def base_rate(solver: Solver, stage: Stage) -> float:
    """A stage's learning rate after warm-up, by the linear scaling rule in proportion to the batch."""
    return (stage.lr or solver.lr) * solver.batch / (solver.lr_batch or solver.batch)


def learning_rate(iteration: int, base: float, solver: Solver, stage: Stage) -> float:
    """The learning rate of an iteration (from 1): linear warm-up from a thousandth, then by the solver's schedule.

    `steps` multiplies by `gamma` at each of the stage's steps passed (the paper's). `cosine` falls to 0 at the stage's end
    along half a cosine (Loshchilov and Hutter 2017, without restarts).
    """
    warmup = min(iteration / solver.warmup, 1.0) if solver.warmup else 1.0
    rate = base * (0.001 + 0.999 * warmup)
    if solver.schedule == "cosine":
        passed = max(iteration - 1 - solver.warmup, 0) / max(stage.iterations - solver.warmup, 1)
        return rate * 0.5 * (1 + math.cos(math.pi * min(passed, 1.0)))
    return rate * solver.gamma ** sum(iteration > step for step in stage.steps)


def moving_average(model: torch.nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights (EMA), which `update_parameters(model)` brings up to date.

    Of the first iterations it takes more, as early weights would stay in it for long: the decay of update n is at most
    (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage. Statistics of BatchNorm are taken as they are.
    """

    def join(averages: Tensors, weights: Tensors, updates: torch.Tensor | int) -> None:
        count = float(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + count) / (10 + count)))

    return AveragedModel(model, multi_avg_fn=join)


def notes(recipe: Recipe, stages: Mapping[str, Stage]) -> list[str]:
    """What a person should know of the schedule: a scaled learning rate, and every part that no iteration reaches."""
    solver, lines = recipe.solver, []
    if solver.lr_batch not in (None, solver.batch):
        rates = {f"{stage.lr or solver.lr:g} -> {base_rate(solver, stage):g}": None for stage in stages.values()}
        lines.append(
            f"solver.batch is {solver.batch}, the learning rate is for {solver.lr_batch}: {', '.join(rates)} by the linear "
            "scaling rule; the iterations stay as they are"
        )
    for name, stage in stages.items():
        late = [step for step in stage.steps if step >= stage.iterations]
        if late:
            lines.append(f"stages.{name}.steps: {late} are not reached in {stage.iterations} iterations")
        if stage.steps and solver.schedule == "cosine":
            lines.append(f"stages.{name}.steps: {stage.steps} are of no effect with solver.schedule: cosine")
        if solver.warmup > stage.iterations:
            lines.append(f"solver.warmup: {solver.warmup} is more than the {stage.iterations} iterations of stage {name}")
    return lines
