"""`imptool ablate`: a grid of models times seeds, trained, measured, and told in tables, plots and a page."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from imptool.ablation.cells import check_same, do_job, mark_diverged, read_finished
from imptool.ablation.grid import Ablation, Job, chosen, load_ablation, plan
from imptool.ablation.report import print_report, write_report
from imptool.ablation.results import load_results
from imptool.data.output import check_apart, contents
from imptool.files import Held, InputError
from imptool.models.inference import choose_device
from imptool.recipe import parse_change
from imptool.report.console import speaks, write_text
from imptool.report.progress import count_of, say
from imptool.train import Interrupted

_WAIT = 5.0  # seconds between looks at what other processes are at work on


def command(
    *,
    recipe: str,
    override: Sequence[str],
    cells: Sequence[str],
    seeds: Sequence[int],
    out: Path | None,
    keep_weights: bool,
    report: bool,
    device: str,
    workers: int,
    console: Console,
) -> int:
    """`imptool ablate`, with its options: do what is left of a grid, or with `report` nothing, and tell what is finished.

    Returns the exit code: 1 where a cell has diverged, 130 after Ctrl-C.
    Raises:
        InputError: there is no such grid, cell or seed; `out` holds other things; as `do_jobs`.
    """
    changes = dict(map(parse_change, override))
    for key, instead in (("seed", "--seed chooses among the grid's"), ("model.name", "--cell chooses among the grid's")):
        if key in changes:
            raise InputError(f"-o {key}: each cell has its own; {instead}")
    ablation = load_ablation(recipe)
    ablation = ablation.model_copy(update={"change": ablation.change | changes})
    out = out or Path("ablations", Path(recipe).stem)
    jobs = plan(ablation, out)
    wanted = chosen(jobs, cells, seeds)
    check_folder(out)
    if not report:
        place = choose_device(device)
        try:
            do_jobs(wanted, ablation, device=place, workers=workers, keep_weights=keep_weights, console=console)
        except Interrupted as stop:
            write_text(f"{stop}; the same command goes on\n", stderr=True)
            return 130
    if not speaks():
        return 0
    results = load_results(ablation, jobs)
    print_report(results, console)
    for path in write_report(results, out):
        say(console, str(path))
    return 1 if results.diverged else 0


def check_folder(out: Path) -> None:
    """InputError where a grid may not go to a folder: it holds other things, or lies among images or labels."""
    check_apart(out)
    held = contents(out)
    if held and not any(re.fullmatch(r"seed-\d+", name) for name in held):
        raise InputError(f"{out} holds other things than a grid: choose another --out")


def do_jobs(
    jobs: Sequence[Job],
    ablation: Ablation,
    *,
    device: torch.device,
    workers: int,
    keep_weights: bool,
    console: Console,
) -> None:
    """Do those trainings of a grid that nobody has done yet, and wait for those that others are at work on.

    Processes share a grid by its folder: whoever finds a training free takes it, and goes on with what a process that has
    ended left behind.

    Args:
        keep_weights: of cells that are finished; those that cells start from are kept in any case.
    Raises:
        InputError: the grid has changed since its folder was begun; a cell cannot be trained or measured.
        Interrupted: a signal has come, and the checkpoint is written.
    """
    check_same(jobs)
    told = False
    while left := [job for job in jobs if not _is_done(job)]:
        taken = False
        for job in left:
            if job.start is not None and not _is_done(job.start):
                continue
            try:
                do_job(
                    job,
                    ablation,
                    device=device,
                    workers=workers,
                    keep_weights=keep_weights,
                    console=console,
                    place=f"{len(jobs) - len(left) + 1} of {len(jobs)}",
                )
            except Held:
                continue
            taken = True
            break  # what is free now may be nearer to the start
        if not taken:
            if not told:
                say(console, f"waiting for other processes, which are at work on {count_of(len(left), 'training')}")
            told = True
            time.sleep(_WAIT)


def _is_done(job: Job) -> bool:
    """Whether a training is finished; one whose first stage has diverged is marked."""
    start = read_finished(job.start) if job.start is not None else None
    if start is not None and start.state == "diverged":
        mark_diverged(job, f"its first stage has diverged: {start.why}")
    return read_finished(job) is not None
