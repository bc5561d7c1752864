"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

Element = TypeVar("Element")

_SECONDS_BETWEEN_LINES = 15.0
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), 127), "�")  # in a file's name they would steer the terminal


class ProgressBar:
    """`with ProgressBar(console, "train", total=100) as bar: bar.update(5, "loss 1.2")`."""

    def __init__(self, console: Console, title: str, *, total: int, start: int = 0) -> None:
        self.console, self.title, self.total, self.first = console, title, total, start
        self.began = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total, completed=start, note="")

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done; on a file or pipe, print a line every quarter of a minute and at the end."""
        if self.console.is_terminal:
            self.bar.update(self.task, completed=done, note=note)
            return
        now = time.monotonic()
        if done < self.total and now - self.last_line < _SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        left = (now - self.began) / max(done - self.first, 1) * (self.total - done)
        parts = [
            f"{self.title} {done}/{self.total}",
            note,
            f"{_clock(left)} left" if done < self.total else f"took {_clock(now - self.began)}",
        ]
        say(self.console, "  ".join(part for part in parts if part))


def say(console: Console, line: str) -> None:
    """Print a line as it is: a path may hold what rich takes for markup."""
    console.print(plain(line), highlight=False, markup=False, emoji=False, soft_wrap=True)


def plain(line: str) -> str:
    """A line without what would steer a terminal."""
    return line.translate(_CONTROLS)


def count_of(number: int, noun: str) -> str:
    """ "1 photograph", "1,200 photographs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def track(console: Console, elements: Iterable[Element], title: str, *, total: int) -> Iterator[Element]:
    """Go through elements with progress."""
    with ProgressBar(console, title, total=total) as bar:
        for done, element in enumerate(elements, start=1):
            yield element
            bar.update(done)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
