"""Worker processes that die, and signals that come at any moment: the rest of the work is done, or one line says what to do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result

from imptool import processes
from imptool.data.dataset import Dataset
from imptool.data.export import Block, Export, convert_block
from imptool.data.layouts import Item
from imptool.data.survey import Facts, examine
from imptool.files import InputError
from imptool.processes import DeadWorker, NoWorker, ProcessPool, map_ahead, usable_cores

BLOCKS = [[1, 2], [3, 4], [5, 6], [7, 8]]


def square(numbers: Sequence[int], *, deadly: int = 0, once: Path | None = None) -> list[int]:
    """Squares; the process is killed at a deadly number, or only the first time, which a file remembers."""
    for number in numbers:
        if number == deadly and (once is None or not once.exists()):
            if once is not None:
                once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return [number**2 for number in numbers]


def mapped(**options: object) -> list[list[int]]:
    with closing(
        map_ahead(partial(square, **options), BLOCKS, workers=2, lost=lambda number, why: [f"{number}: {why}"])
    ) as made:  # type: ignore[arg-type, list-item, misc]
        return list(made)


def test_a_worker_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    assert mapped(deadly=4, once=tmp_path / "killed") == [[1, 4], [9, 16], [25, 36], [49, 64]]


def test_what_kills_its_worker_every_time_is_told_and_everything_else_is_there() -> None:
    told = "3: its process was ended by SIGKILL, perhaps for want of memory"
    assert mapped(deadly=3) == [[1, 4], [told, 16], [25, 36], [49, 64]]


def test_a_death_that_nothing_can_stand_for_is_one_line() -> None:
    with (
        closing(map_ahead(partial(square, deadly=5), BLOCKS, workers=1)) as made,
        pytest.raises(InputError, match=r"\(its process was ended by SIGKILL.*\): fewer --workers take less memory"),
    ):
        list(made)


def beep(number: int) -> int:
    if number == 2:
        os._exit(3)
    if number == 3:
        raise EOFError("of a file")
    return number


def test_a_death_is_of_its_own_work_only_and_an_error_is_none() -> None:
    with ProcessPool(2) as pool:
        futures = [pool.submit(beep, number) for number in range(5)]
        assert [future.result() for future in (futures[0], futures[1], futures[4])] == [0, 1, 4]
        with pytest.raises(DeadWorker, match="ended with exit code 3"):
            futures[2].result()
        with pytest.raises(EOFError, match="of a file"):
            futures[3].result()


def end_at_once(*_: object) -> None:
    os._exit(9)


def test_workers_that_cannot_start_are_told_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_serve", end_at_once)
    with (
        ProcessPool(1) as pool,
        pytest.raises(NoWorker, match=r"worker processes end as they start .*--workers 0 does without"),
    ):
        pool.submit(beep, 1).result()


# --- how many workers there are by default ---


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_the_default_of_workers_counts_the_cores_that_the_process_may_use() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{one}}}); from imptool.cli import main; main(['train', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "[default: 1; x>=0]" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("900000 100000", 4), ("max 100000", 4), (None, 4)],
)
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs sched_getaffinity")
def test_the_quota_of_a_container_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(processes, "_CPU_MAX", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores() == cores


# --- commands whose image ends the process that reads it ---


def kill_at_003(items: Sequence[tuple[object, Item]]) -> None:
    if any(item.stem == "003" for _, item in items):
        os.kill(os.getpid(), signal.SIGSEGV)


def convert_or_die(dataset: Dataset, export: Export, folder: Path, items: Sequence[tuple[int, Item]]) -> Block:
    kill_at_003(items)
    return convert_block(dataset, export, folder, items)


def examine_or_die(dataset: Dataset, items: Sequence[tuple[str, Item]]) -> list[Facts]:
    kill_at_003(items)
    return examine(dataset, items)


TOLD = "its process was ended by SIGSEGV"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_a_photograph_that_ends_its_process_is_listed_and_the_rest_converted_also_by_resume(
    workplace: Path, imptool: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, imptool.convert_instances as convert; convert.convert_block = lambda *_: os.kill(os.getpid(), 11); "
    command = [sys.executable, "-c", f"{code}from imptool.cli import main; main()", "convert-instances", "data/drawn", "--out"]
    assert subprocess.run([*command, "resumed"], capture_output=True).returncode == -signal.SIGSEGV  # few: in this process
    monkeypatch.setattr("imptool.convert_instances.convert_block", convert_or_die)
    resumed = imptool("convert-instances", "data/drawn", "--out", "resumed", "--resume")
    monkeypatch.setattr("imptool.convert_instances._ENOUGH", 0)
    result = imptool("convert-instances", "data/drawn", "--out", "out", "--workers", 1)
    for done, folder in ((resumed, "resumed"), (result, "out")):
        assert (done.exit_code, done.stderr) == (1, f"1 could not be used:\n  data/drawn/labels/003.png: {TOLD}\n")
        document = json.loads(Path(folder, "all.json").read_text())
        names = [image["file_name"] for image in document["images"]]
        assert names == [f"images/00{number}.png" for number in (0, 1, 2, 4, 5)]
        assert document["info"]["left_out"] == ["images/003.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_inspect_tells_of_a_photograph_that_ends_its_process(
    workplace: Path, imptool: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imptool.inspect_dataset.examine", examine_or_die)
    monkeypatch.setattr("imptool.inspect_dataset._ENOUGH", 0)
    result = imptool("inspect", "data/drawn", "--json", "--workers", 1)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["photographs"]) == (1, {"all": 5})
    assert [(each["kind"], each["line"]) for each in found["problems"]] == [("unreadable", f"003: {TOLD}")]


# --- signals ---


def children(process: subprocess.Popen[str]) -> list[str]:
    """Of all its threads: the kernel lists them by the one that has started them."""
    listed = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [pid for path in listed for pid in path.read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, 0.0), (signal.SIGINT, 0.5), (signal.SIGTERM, 0.1), (signal.SIGHUP, 0.3)],
)
def test_a_signal_while_workers_start_is_one_line(tmp_path: Path, number: signal.Signals, delay: float) -> None:
    command = [sys.executable, "-m", "imptool", "outfits", str(tmp_path / "drawn"), "--count", "5000", "--workers", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and len(children(process)) < 2:  # the tracker of multiprocessing is the first
            time.sleep(0.01)
        workers = children(process)
        time.sleep(delay)
        os.killpg(process.pid, number)  # as a terminal or a scheduler does
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped; what was finished is kept\n")
    deadline = time.monotonic() + 20  # multiprocessing's tracker follows a moment later
    while any(Path("/proc", pid).exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(tmp_path.rglob(".unfinished-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_while_the_command_line_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")  # imported in its place
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "imptool", "--help"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
