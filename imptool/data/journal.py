"""What a conversion has finished, on disk: its blocks one after another, so that a stopped one goes on and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imptool.data.export import Block, Tally, to_json
from imptool.files import JOURNAL_FILE, open_regular
from imptool.journal import EntryFile, checksum

_ANNOTATION, _IMAGE, _FILES, _TALLY = b"a", b"i", b"f", b"t"


class Journal:
    """The blocks of one split, an entry each: a line for each annotation and image, one for its PNGs, one for the tally.

    What is not whole is made again: a block that a crash or damage has cut, one whose PNGs are not what was written, and all
    blocks behind it.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], pictures: Path, *, resume: bool) -> None:
        """Open a journal: a new one, or with `resume` one that is there, which is `taken_up`.

        Args:
            header: what is being made.
            pictures: the folder of the PNGs.
        Raises:
            InputError: the one that is there is of another conversion.
        """
        self.path = path
        self.blocks, self.tally = 0, Tally()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = EntryFile(path, header)
        self.taken_up = resume and path.exists()
        if self.taken_up:
            self._read_blocks(pictures)
        self.file.append()  # its header: also an attempt that dies in its first block can be told

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def append(self, block: Block) -> None:
        """Add a finished block; after this it outlives a crash of the process."""
        self.file.append(
            *(_line(_ANNOTATION, annotation) for annotation in block.annotations),
            *(_line(_IMAGE, image) for image in block.images),
            _line(_FILES, to_json(block.files)),
            _line(_TALLY, block.tally.to_json()),
        )
        self._count(block.tally)

    def annotations(self) -> Iterator[str]:
        return self._lines(_ANNOTATION)

    def images(self) -> Iterator[str]:
        return self._lines(_IMAGE)

    def _count(self, tally: Tally) -> None:
        self.blocks += 1
        self.tally.add(tally)

    def _lines(self, kind: bytes) -> Iterator[str]:
        with open_regular(self.path, JOURNAL_FILE) as file:
            for line in file:
                if line.startswith(kind):
                    yield line[1:-1].decode("ascii")

    def _read_blocks(self, pictures: Path) -> None:
        other = (
            f"{self.path.parent} is an unfinished conversion with other options, labels or images: add --force to start over"
        )
        for _, lines in self.file.read(other=other):
            try:
                *_, files, tally = (line[1:].decode("ascii") for line in lines)
                written, counted = json.loads(files), Tally.from_json(tally)
                if any(checksum(pictures / name) != sealed for name, sealed in written.items()):
                    return
            except (AttributeError, LookupError, TypeError, ValueError):  # sealed anew, by a hand
                return
            self._count(counted)


def _line(kind: bytes, text: str) -> bytes:
    return kind + text.encode("ascii") + b"\n"
