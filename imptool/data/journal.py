"""What a conversion has finished, on disk: its blocks one after another, so that a stopped one goes on and nothing is lost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from imptool.data.export import Block, Tally, to_json
from imptool.files import InputError

_HEAD, _ANNOTATION, _IMAGE, _END = b"h", b"a", b"i", b"."


class Journal:
    """The blocks of one split: a line for each annotation and image, and one with the tally at the end of each block.

    The first line says what is being made. A block without its last line is a crash's, and is made again.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool) -> None:
        """Open a journal: a new one, or with `resume` one that is there.

        Raises:
            InputError: the one that is there is of another conversion.
        """
        self.path, self.header = path, header
        self.blocks, self.tally = 0, Tally()
        path.parent.mkdir(parents=True, exist_ok=True)
        end = self._read_blocks() if resume and path.exists() else 0
        self.file: BinaryIO = path.open("r+b" if end else "wb")
        self.file.truncate(end)
        self.file.seek(end)
        if not end:
            self._write((_HEAD, to_json(header)))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told
            self.file.close()

    def append(self, block: Block) -> None:
        """Add a finished block; after this it outlives a crash of the process."""
        self._write(
            *((_ANNOTATION, annotation) for annotation in block.annotations),
            *((_IMAGE, image) for image in block.images),
            (_END, block.tally.to_json()),
        )
        self._count(block.tally)

    def annotations(self) -> Iterator[str]:
        return self._lines(_ANNOTATION)

    def images(self) -> Iterator[str]:
        return self._lines(_IMAGE)

    def _write(self, *lines: tuple[bytes, str]) -> None:
        try:
            self.file.write(b"".join(kind + line.encode("ascii") + b"\n" for kind, line in lines))
            self.file.flush()
        except OSError as error:  # a full disk is told with the file's name
            error.filename = str(self.path)
            raise

    def _count(self, tally: Tally) -> None:
        self.blocks += 1
        self.tally.add(tally)

    def _lines(self, kind: bytes) -> Iterator[str]:
        with self.path.open("rb") as file:
            for line in file:
                if line.startswith(kind):
                    yield line[1:-1].decode("ascii")

    def _read_blocks(self) -> int:
        """Count what is whole, and give where it ends; a crash, or damage, ends it."""
        end = at = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                at += len(line)
                try:
                    whole = self._read_line(number, line)
                except (ValueError, TypeError, AttributeError):
                    return end
                end = at if whole else end
        return end

    def _read_line(self, number: int, line: bytes) -> bool:
        """Whether all up to this line is whole; ValueError when it is damaged."""
        if not line.endswith(b"\n"):
            raise ValueError("the line has no end")
        text = line[1:].decode("ascii")
        if number == 0:
            if json.loads(text) != json.loads(to_json(self.header)):
                raise InputError(
                    f"{self.path.parent} is an unfinished conversion with other options, labels or photographs: "
                    "add --force to begin anew"
                )
            return True
        if line.startswith(_END):
            self._count(Tally.from_json(text))
            return True
        return False
