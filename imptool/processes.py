"""Work in other processes: one that dies costs what it was at, and a signal to all of them is for the first one to answer."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from multiprocessing import connection, get_context, parent_process, resource_tracker
from operator import add
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from imptool.files import InputError

Element = TypeVar("Element")
Value = TypeVar("Value")

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a scheduler's or system's request, a terminal that is closed: all mean that the command should end."""

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # of a container: "quota period" in microseconds, or "max period"
_PATIENCE = 5  # seconds in which a worker that is asked to end does so


def usable_cores() -> int:
    """How many cores this process may use, at least 1.

    Under taskset or a batch system, or with a container's quota, these are fewer than the machine has. A part of a core counts.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_MAX.read_text().split()
        return min(cores, max(math.ceil(int(quota) / int(period)), 1))
    except (OSError, ValueError):  # no container with cgroups of version 2, or one without a quota
        return cores


class DeadWorker(InputError):
    """The process that did the work has ended in the middle of it."""


class NoWorker(InputError):
    """Processes cannot be started, or end as they start: the work is not at fault."""


class ProcessPool(Executor):
    """Processes for work that is pickled, each behind a pipe of its own: where one dies, the others and their work go on.

    `submit` gives a future, which raises DeadWorker when the process died; the next work gets a new one. Spawned, not forked:
    a fork of a process with threads (OpenCV, torch) may hang. A thread for each process hands it work and waits.
    """

    def __init__(self, workers: int) -> None:
        # A process inherits which signals are blocked from the thread that starts it. Threads that block Ctrl-C start
        # processes that are never hit by it, not even in the second in which they import. The tracker unblocks it where it
        # is started, so it must be there before.
        resource_tracker.ensure_running()
        self.threads = ThreadPoolExecutor(workers, initializer=_block_answered)
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Callable[..., Value], /, *args: Any, **kwargs: Any) -> Future[Value]:
        return self.threads.submit(self.call, partial(work, *args, **kwargs))

    def call(self, work: Callable[..., Value], *args: Any) -> Value:
        """Work in one of the processes and wait for it; for the pool's threads.

        Raises:
            DeadWorker: the process has ended.
            NoWorker: none can be started.
        """
        worker = self._take()
        try:
            done, value = worker.ask((work, args))
        except DeadWorker:
            self._alive.discard(worker)
            raise
        self._idle.append(worker)
        if not done:
            raise value
        return value

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, at once where `cancel_futures`; what they write is removed as after any error."""
        if not cancel_futures:
            self.threads.shutdown(wait=True)
        with deferred_signals():  # a second Ctrl-C would leave processes behind
            with self._lock:
                self._closed = True
            self.threads.shutdown(wait=False, cancel_futures=True)
            alive = list(self._alive)
            for worker in alive:
                worker.process.terminate()
            running = {worker.process.sentinel: worker for worker in alive}
            while running and (ended := connection.wait(list(running), _PATIENCE)):
                for sentinel in ended:
                    del running[sentinel]  # type: ignore[arg-type]
            for worker in running.values():  # in a library's code, which hears no signal
                worker.process.kill()
            self.threads.shutdown(wait=True)
            for worker in alive:
                worker.close()

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)

    def _take(self) -> _Worker:
        """An idle process, else a new one, once it can work. That one of them dies as it starts may be chance, two are not."""
        for attempt in range(2):
            with self._lock:
                if self._closed:
                    raise DeadWorker("the processes have been ended")
                if self._idle:
                    return self._idle.pop()
                try:
                    worker = _Worker()
                except OSError as error:
                    raise NoWorker(f"no worker process can be started ({error}): --workers 0 does without") from error
                self._alive.add(worker)
            try:
                worker.wait_until_ready()
                return worker
            except DeadWorker as error:
                self._alive.discard(worker)
                if attempt:
                    raise NoWorker(f"worker processes end as they start ({error}): --workers 0 does without") from error
        raise AssertionError("unreachable")


class _Worker:
    """A process, and this end of its pipe."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def wait_until_ready(self) -> None:
        self._receive()

    def ask(self, question: Any) -> tuple[bool, Any]:
        """(True, value) or (False, exception)."""
        try:
            self.connection.send(question)
        except OSError:
            raise self._death() from None
        answer: tuple[bool, Any] = self._receive()
        return answer

    def close(self) -> None:
        self.process.join()
        self.connection.close()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # also in the middle of an answer
            raise self._death() from None

    def _death(self) -> DeadWorker:
        self.close()
        code = self.process.exitcode or 0
        if code >= 0:
            return DeadWorker(f"its process ended with exit code {code}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return DeadWorker(f"its process was ended by {name}{', perhaps for want of memory' * (name == 'SIGKILL')}")


def _serve(pipe: connection.Connection) -> None:
    """What a process of the pool does: answer until it is told to end."""
    for number in _ANSWERED_BY_PARENT:
        signal.signal(number, signal.SIG_IGN)  # where the system has no mask that it could inherit
    signal.signal(signal.SIGTERM, _leave)  # as an error would: half a file is removed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import cv2

    cv2.setNumThreads(1)  # a process for every core is enough
    with contextlib.suppress(EOFError, OSError):  # the pipe ends with the parent
        pipe.send("ready")
        while True:
            answer = _answer(pipe.recv_bytes())
            try:
                pipe.send(answer)
            except MemoryError as error:
                pipe.send((False, error))
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                pipe.send((False, RuntimeError(f"{answer[1]!r} cannot be sent to the main process: {error}")))


def _answer(question: bytes) -> tuple[bool, Any]:
    try:
        work, args = pickle.loads(question)
        return True, work(*args)
    except Exception as error:
        error.add_note(traceback.format_exc())  # the parent's traceback would not show where it was
        return False, error


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()  # killed, it cannot end its workers itself
        os._exit(1)


def map_ahead(
    work: Callable[[Any], Value],
    blocks: Sequence[Sequence[Element]],
    *,
    workers: int,
    lost: Callable[[Element, str], Value] | None = None,
) -> Generator[Value, None, None]:
    """Work on blocks in processes, a few ahead and in order; without workers, in this one.

    A block whose process dies is tried again, element by element. What ends its process then as well is not tried any more.
    To be closed (`contextlib.closing`), so that an error in the loop over it ends the processes.

    Args:
        work: gives a value of a block; it is pickled, and a process takes a second to start. The values of a block's elements
            add up to its own.
        lost: what stands for an element that ends its process, and why.
    Raises:
        InputError: there is no `lost`, or every element of a block ends its process.
    """
    if not workers:
        yield from map(work, blocks)
        return
    with ProcessPool(min(workers, max(len(blocks), 1))) as pool:
        waiting: deque[Future[Value]] = deque()
        for block in blocks:
            waiting.append(pool.threads.submit(_work_on, pool, work, block, lost))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _work_on(
    pool: ProcessPool,
    work: Callable[[Any], Value],
    block: Sequence[Element],
    lost: Callable[[Element, str], Value] | None,
) -> Value:
    try:
        return pool.call(work, block)
    except (DeadWorker, MemoryError):
        pass
    values: list[Any] = []
    deaths: list[str] = []
    for element in block:
        try:
            values.append(pool.call(work, [element]))
        except (DeadWorker, MemoryError) as error:
            deaths.append(str(error) or "memory does not suffice")
            if lost is None or len(deaths) == len(block) > 1:
                raise InputError(
                    f"the workers fail ({deaths[-1]}): fewer --workers take less memory, 0 does without; --resume, where "
                    "there is one, goes on"
                ) from error
            values.append(lost(element, deaths[-1]))
    result: Value = reduce(add, values)
    return result


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end a command as Ctrl-C does, by KeyboardInterrupt; one that is ignored (nohup) stays so."""
    mine = threading.current_thread() is threading.main_thread()  # no other may ask for signals
    asked = [number for number in STOPPING if mine and signal.getsignal(number) == signal.SIG_DFL]
    for number in asked:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in asked:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Let signals that stop a command wait until the block is done. A process that is forked in it never answers them."""
    if threading.current_thread() is not threading.main_thread():  # which is where they arrive
        yield
        return
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in received:
            if before[signal.Signals(number)] != signal.SIG_IGN:
                signal.raise_signal(number)


def _block_answered() -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, _ANSWERED_BY_PARENT)


_ANSWERED_BY_PARENT = [number for number in STOPPING if number != signal.SIGTERM]  # which is how it ends its workers
