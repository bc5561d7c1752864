"""Batches for a process: which samples, read by workers while the device computes."""

from __future__ import annotations

import re
import signal
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import FrameType

import cv2
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

from imptool import distributed
from imptool.data.samples import Sample, TrainingSamples
from imptool.files import InputError
from imptool.processes import STOPPING, deferred_signals
from imptool.recipe import Solver


@dataclass(frozen=True)
class Positions(Sampler[int]):
    """The positions in the stream of samples that a process takes: its share of every batch from iteration `start` on."""

    start: int
    iterations: int
    batch: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return (self.iterations - self.start) * self.batch // self.world_size

    def __iter__(self) -> Iterator[int]:
        share = self.batch // self.world_size
        for iteration in range(self.start, self.iterations):
            first = iteration * self.batch + self.rank * share
            yield from range(first, first + share)


def check_batch(solver: Solver) -> None:
    """InputError where a batch cannot be divided."""
    parts = distributed.world_size() * solver.accumulate
    if solver.batch % parts:
        raise InputError(
            f"solver.batch is {solver.batch}, which {distributed.world_size()} processes with solver.accumulate "
            f"{solver.accumulate} cannot share evenly: make it a multiple of {parts}"
        )


def load_batches(
    samples: TrainingSamples, solver: Solver, *, start: int, iterations: int, workers: int
) -> Generator[list[list[Sample]], None, None]:
    """This process's share of the batches of iterations `start` + 1 on, each in `solver.accumulate` parts.

    Raises:
        InputError: the workers have failed, as where shared memory is full.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    # Who asks for more workers than there are cores knows it; torch says so in five lines.
    warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
    try:
        yield from _grouped(
            DataLoader(
                samples,
                batch_size=solver.batch // world_size // solver.accumulate,
                sampler=Positions(start, iterations, solver.batch, rank, world_size),
                collate_fn=_share_batch,
                num_workers=workers,
                worker_init_fn=_start_worker,
                # Workers draw nothing from it, but the default one would be the model's.
                generator=torch.Generator(),
            ),
            solver.accumulate,
        )
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the workers, and the exit would wait for these
        lines = [line for line in str(error).splitlines() if re.search(r"shared memory|DataLoader worker \(pid|Errno", line)]
        if not workers or not lines:
            raise
        raise InputError(
            f"the workers that read images have failed ({lines[-1].strip()}): "
            "use --workers 0, or fewer, or enlarge /dev/shm; --resume goes on from the last checkpoint"
        ) from error


def _grouped(loader: Iterable[list[Sample]], count: int) -> Iterator[list[list[Sample]]]:
    with deferred_signals():
        parts = iter(loader)
    while batch := list(islice(parts, count)):
        yield batch


def _share_batch(batch: list[Sample]) -> list[Sample]:
    """Put a worker's batch into shared memory here, where a failure reaches the main process.

    Left to the queue it is lost with a traceback, and the main process waits for the batch for ever.
    """
    if get_worker_info() is not None:
        for sample in batch:
            for tensor in (sample.image, *sample.target.values()):
                tensor.share_memory_()
    return batch


def _start_worker(_: int) -> None:
    """Ctrl-C reaches every process of the terminal, a scheduler's SIGTERM every one of the job: the main one decides."""
    cv2.setNumThreads(0)  # a forked process must not wait for threads that it does not have

    def wait_for_next(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for kind in STOPPING:
        signal.signal(kind, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, wait_for_next)  # the next one is the main process's, to a worker that hangs
