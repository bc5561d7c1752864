"""Where text leaves the program: nothing in it steers a terminal, and an output that nobody can read ends no work."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

WIDTH = 80  # columns that every terminal has

# C0 (but tabs), DEL, C1, line and paragraph separators, and what changes the direction of the text around it.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def plain(line: str) -> str:
    """One line, without what would steer a terminal: names from files hold anything."""
    return _CONTROLS.sub("�", line)


def plain_lines(text: str) -> str:
    """The same of a text whose line breaks are our own."""
    return "\n".join(map(plain, text.split("\n")))


def wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    """A text in lines of 80 columns that begin with `first` and `others`; a path stays whole, so that it can be copied."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


class Console(rich.console.Console):
    """rich's console for text that is no markup, on standard output or error; rich's own colours and cursor pass."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        super().__init__(
            file=cast(TextIO, stream.unfiltered) if isinstance(stream, _Output) else stream,
            width=None if stream is not None and stream.isatty() else 120,  # a pipe or file has none: enough for every table
            quiet=quiet,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain_lines(text), **options)  # before it is measured

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain_lines(segment.text), segment.style)


def speaks() -> bool:
    """Whether this process prints. Under torchrun the first one does; a RANK by itself is something else's."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def write_text(text: str, *, stderr: bool = False) -> None:
    """Write text as it is, without a console's width and colours: what another program reads, or a line on standard error."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(text)
    stream.flush()


def list_failures(problems: Sequence[str], code: int = 1) -> int:
    """List what a long job could not use; give its exit code: `code`, or 0 where that is nothing or another process tells."""
    if not problems or not speaks():
        return 0
    lines = [f"{len(problems)} could not be used:", *(f"  {plain(' '.join(problem.split()))}" for problem in problems)]
    write_text("".join(f"{line}\n" for line in lines), stderr=True)
    return code


class _Lasting(io.TextIOBase):
    """A standard stream that can always be written to: what nobody can read goes nowhere, and `lost` says why."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lost = stream, ""
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text that the terminal can show

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        with self._lasting():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self.stream.flush()

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EPIPE:  # as of `| head`, which has seen enough
                self.lost = error.strerror or str(error)
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


class _Output(_Lasting):
    """A standard stream that takes nothing but plain text, from whatever library."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.unfiltered = _Lasting(stream)

    def write(self, text: str) -> int:
        return super().write(plain_lines(text))


class Outputs:
    """`with Outputs() as outputs:` standard output and error are plain and lasting; `outputs.lost()` says what was not."""

    def __enter__(self) -> Outputs:
        _hold_closed_descriptors()
        self.before = sys.stdout, sys.stderr
        self.out, self.err = (_Output(stream or open(os.devnull, "w")) for stream in self.before)  # noqa: SIM115
        sys.stdout, sys.stderr = self.out, self.err
        return self

    def lost(self) -> str:
        """Why standard output could not be written, as a full disk; "" where it could, or nobody reads it."""
        self.out.flush()
        return self.out.lost or self.out.unfiltered.lost

    def __exit__(self, *_: object) -> None:
        for stream in (self.out, self.err):
            stream.flush()
        sys.stdout, sys.stderr = self.before


def _hold_closed_descriptors() -> None:
    """A file that is opened later would get the number of a closed stream, and what libraries print would go into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest free number
