"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from imptool.report.console import plain

Element = TypeVar("Element")

_SECONDS_BETWEEN_LINES = 15.0
COMPILING_PATIENCE = 2.0  # seconds of compiling that need no word
_BAR, _NOTE = 20, 12  # columns that a bar takes, and that a note takes at least


class ProgressBar:
    """`with ProgressBar(console, "train", total=100) as bar: bar.update(5, "loss 1.2")`."""

    def __init__(self, console: Console, title: str, *, total: int, start: int = 0) -> None:
        self.console, self.title, self.total, self.first = console, title, total, start
        self.done, self.note, self.left = start, "", ""
        self.began = self.last_line = time.monotonic()
        self.live = Live(console=console, get_renderable=self._line) if console.is_interactive else None

    def __enter__(self) -> ProgressBar:
        if self.live:
            self.live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done; on a file or pipe, print a line every quarter of a minute and at the end."""
        now = time.monotonic()
        left = (now - self.began) / max(done - self.first, 1) * (self.total - done)
        self.done, self.note, self.left = done, note, _clock(left)
        if self.live or (done < self.total and now - self.last_line < _SECONDS_BETWEEN_LINES):
            return
        self.last_line = now
        time_left = f"{self.left} left" if done < self.total else f"took {_clock(now - self.began)}"
        say(self.console, "  ".join(part for part in (f"{self.title} {done}/{self.total}", note, time_left) if part))

    def _line(self) -> Text:
        """All in one line of the terminal: where it is narrow, position and time left stay, and the note goes first."""
        position, left = f" {self.done}/{self.total}", f" {self.left or '-:--:--'} left"
        room = self.console.width - len(position + left)
        title = _cut(self.title, room)
        room -= title.cell_len
        taken = f" {_clock(time.monotonic() - self.began)}"
        taken = taken if len(taken) <= room else ""
        room -= len(taken)
        bar = self._bar() if room > _BAR else Text()
        room -= bar.cell_len
        note = _cut(f" {self.note}", room) if self.note and room >= _NOTE else Text()
        return Text.assemble(title, bar, position, note, taken, left)

    def _bar(self) -> Text:
        filled = round(_BAR * self.done / max(self.total, 1))
        line = "-" if self.console.options.ascii_only else "━"
        return Text.assemble(" ", (line * filled, "bar.complete"), (line * (_BAR - filled), "bar.back"))


def _cut(line: str, room: int) -> Text:
    """A line of at most so many columns."""
    if room <= 0:
        return Text()
    text = Text(plain(line))
    text.truncate(room, overflow="ellipsis")
    return text


def say(console: Console, line: str) -> None:
    """Print a line as it is: a path may hold what rich takes for markup."""
    console.print(plain(line), highlight=False, markup=False, emoji=False, soft_wrap=True)


def count_of(number: int, noun: str) -> str:
    """ "1 image", "1,200 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def track(console: Console, elements: Iterable[Element], title: str, *, total: int) -> Iterator[Element]:
    """Go through elements with progress."""
    with ProgressBar(console, title, total=total) as bar:
        for done, element in enumerate(elements, start=1):
            yield element
            bar.update(done)


@cache
def announce_compiling() -> None:
    """From now on, say once on standard error where Numba compiles for long; what is in its cache on disk takes no time."""
    from numba.core import event  # takes a third of a second to import

    class Listener(event.Listener):
        """Adds up the time of compilations, which Numba's lock puts one after the other; those within others count once."""

        depth, spent = 0, 0.0

        def on_start(self, _: event.Event) -> None:
            self.depth += 1
            if self.depth == 1:
                self.began = time.monotonic()
                self.alarm = threading.Timer(max(COMPILING_PATIENCE - self.spent, 0.0), _tell_compiling)
                self.alarm.daemon = True
                self.alarm.start()

        def on_end(self, _: event.Event) -> None:
            self.depth -= 1
            if self.depth == 0:
                self.alarm.cancel()
                self.spent += time.monotonic() - self.began

    event.register("numba:compile", Listener())


@cache
def _tell_compiling() -> None:
    print("compiling kernels for this machine (once, some 10 seconds)", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
