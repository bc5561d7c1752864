"""Several processes of one command, as torchrun starts them: one for each GPU. Without torchrun there is one.

torch is imported where it is needed: it takes seconds, and a command that runs no network can do without.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from imptool.files import InputError

if TYPE_CHECKING:
    from torch import nn

Value = TypeVar("Value")
Element = TypeVar("Element")


@contextmanager
def process_group(*, on_cpu: bool = False) -> Iterator[None]:
    """Join the processes that torchrun has started; alone without it, or where they are joined already.

    Raises:
        InputError: there are more processes than GPUs, or another process has ended in the middle.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ or _group():
        yield
        return
    import torch
    import torch.distributed as dist

    gpus = 0 if on_cpu else torch.cuda.device_count()
    if gpus and local_rank() >= gpus:
        raise InputError(f"torchrun has started process {local_rank()} on a machine with {gpus} GPUs: --nproc-per-node {gpus}")
    if gpus:
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"RANK and WORLD_SIZE are set, but the other processes cannot be met ({' '.join(str(error).split())[:120]}): "
            "start it with torchrun, or unset them"
        ) from error
    try:
        yield
    except SystemExit:  # of all processes together
        dist.destroy_process_group()
        raise
    except Exception as error:
        told = _lost_another(error) or error
        if gpus:  # the others may wait in NCCL, and leaving in an orderly way would wait for them
            lines = [f"Error: {told}"] if isinstance(told, InputError) else traceback.format_exception(told)
            print("\n".join(lines), file=sys.stderr, flush=True)
            os._exit(2)
        if told is not error:
            raise told from error
        raise
    dist.destroy_process_group()


def _lost_another(error: Exception) -> InputError | None:
    """What to say where an error means that another process has ended, None where it means something else."""
    words = ("Connection closed", "Connection reset", "Broken pipe", "remote process exited", "ncclRemoteError")
    if not isinstance(error, RuntimeError) or not any(word in str(error) for word in words):
        return None
    return InputError(
        f"process {rank()} stops: another process of this run has ended ({' '.join(str(error).split())[:120]}); "
        "its own message says why; --resume goes on from the last checkpoint"
    )


def rank() -> int:
    return _group().get_rank() if _group() else 0


def world_size() -> int:
    return _group().get_world_size() if _group() else 1


def _group() -> Any:
    """torch.distributed, once the processes have met; None where nobody has imported it yet."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def local_rank() -> int:
    """The place of this process on its machine: the number of its GPU."""
    text = os.environ.get("LOCAL_RANK", "0")
    if not text.isdecimal():
        raise InputError(f"LOCAL_RANK is '{text}', and not a number: start it with torchrun, or unset it")
    return int(text)


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def wait_for_all() -> None:
    if world_size() > 1:
        _group().barrier()


def own_share(elements: Sequence[Element]) -> Sequence[Element]:
    """Those of the elements that this process goes through."""
    return elements[rank() :: world_size()]


def from_main(value: Value) -> Value:
    """The main process's value, for all."""
    if world_size() == 1:
        return value
    values = [value]
    _group().broadcast_object_list(values)
    return values[0]


def gather(value: Value) -> list[Value]:
    """The values of all processes, for all."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _group().all_gather_object(values, value)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(sum_of(np.array([flag], np.int64))[0])


def sum_of(values: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes."""
    if world_size() == 1:
        return values
    import torch

    total = torch.from_numpy(np.ascontiguousarray(values).copy())
    _group().all_reduce(total)
    return total.numpy()


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main one's buffers: each has averaged BatchNorm's over its own images."""
    if world_size() > 1:
        for buffer in model.buffers():
            _group().broadcast(buffer, src=0)
