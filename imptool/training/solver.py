"""The optimizer, and the learning rate as a function of the iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from imptool.recipe import Recipe, Solver, Stage


def build_optimizer(model: torch.nn.Module, solver: Solver, *, lr: float) -> torch.optim.Optimizer:
    """The solver's optimizer; biases and norms are not decayed.

    maskrcnn-benchmark, on which the paper builds, decays norms, trains biases twice as fast and warms up from a third of
    the rate; here is one rate for all, and a warm-up from a thousandth (ours).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": solver.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if solver.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(solver.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=solver.momentum, fused=True)


def base_rate(solver: Solver, stage: Stage) -> float:
    """A stage's learning rate after warm-up, by the linear scaling rule in proportion to the batch."""
    return (stage.lr or solver.lr) * solver.batch / (solver.lr_batch or solver.batch)


def learning_rate(iteration: int, base: float, solver: Solver, steps: Sequence[int]) -> float:
    """The learning rate of an iteration (from 1): linear warm-up from a thousandth, then `gamma` at each step passed."""
    warmup = min(iteration / solver.warmup, 1.0) if solver.warmup else 1.0
    return base * (0.001 + 0.999 * warmup) * solver.gamma ** sum(iteration > step for step in steps)


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
        if solver.warmup > stage.iterations:
            lines.append(f"solver.warmup: {solver.warmup} is more than the {stage.iterations} iterations of stage {name}")
    return lines
