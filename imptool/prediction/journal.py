"""What a prediction has finished, on disk: a line for each photograph, so that a stopped one goes on and nothing is lost.

Results of thousands of photographs do not fit into memory, and a process may end at any moment. So each process appends a
line to a file of its own once a photograph's files are written, and the lines are joined when all is done.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from imptool import distributed
from imptool.files import InputError, whole_file

_STEM = ".parsed"
JOURNAL = f"{_STEM}.jsonl"

Record = dict[str, Any]
_KEYS = {
    "file_name": str,
    "name": str,
    "source": list,
    "saved": list,
    "classes": dict,
    "instances": dict,
    "height": int,
    "width": int,
}


class _Place(NamedTuple):
    """Where a photograph's record is, and how long the line of its results behind it: 0 without one."""

    path: Path
    start: int
    length: int
    results: int


class Journal:
    """The finished photographs of an output folder.

    Args:
        out: the output folder.
        header: what all of them have in common; those of another header are not taken for finished.
    Raises:
        InputError: the folder holds photographs finished with another header.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self.out, self.header = out, dict(header)
        self._file: BinaryIO | None = None
        self._places: dict[str, _Place] = {}
        for path in self._paths():
            self._find(path)

    def __contains__(self, file_name: object) -> bool:
        return file_name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def record(self, file_name: str) -> Record:
        """What was told of a photograph."""
        place = self._places[file_name]
        record: Record = json.loads(_read(place.path, place.start, place.length))
        return record

    def results(self, file_name: str) -> list[Record]:
        """Its COCO results, without image id."""
        place = self._places[file_name]
        rows: list[Record] = json.loads(_read(place.path, place.start + place.length, place.results) or b"[]")
        return rows

    def append(self, record: Record, results: Sequence[Mapping[str, Any]] | None) -> None:
        """Tell of a photograph whose files are written; after this it outlives a crash of the process.

        The record says whether results follow (`has_results`), which are read by themselves: they are the most of it.
        """
        path = self.out / f"{_STEM}-{distributed.rank()}.jsonl"
        lines = [_line({**record, "has_results": results is not None}), b"" if results is None else _line(results)]
        try:
            if self._file is None:
                self._file = path.open("wb")
                self._file.write(_line(self.header))
            start = self._file.tell()
            self._file.write(b"".join(lines))
            self._file.flush()
        except OSError as error:  # a full disk is told with the file's name
            error.filename = str(path)
            raise
        self._places[record["file_name"]] = _Place(path, start, len(lines[0]), len(lines[1]))

    def discard(self, file_name: str) -> None:
        """Forget a photograph, before `join`."""
        self._places.pop(file_name, None)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written has been told
                self._file.close()
            self._file = None

    def join(self, file_names: Sequence[str]) -> None:
        """Make one file of all that any process has finished, these photographs first and in this order."""
        self.close()
        for path in self._paths():
            if path.name != JOURNAL:
                self._find(path)
        with whole_file(self.out / JOURNAL) as temporary, temporary.open("wb") as file:
            file.write(_line(self.header))
            for name in dict.fromkeys([*file_names, *self._places]):
                if name in self._places:
                    place = self._places[name]
                    file.write(_read(place.path, place.start, place.length + place.results))
        for path in self._paths():
            if path.name != JOURNAL:
                path.unlink()
        self._places.clear()
        self._find(self.out / JOURNAL)

    def _paths(self) -> list[Path]:
        """The joined file first: what a process has told since comes after it."""
        return sorted(self.out.glob(f"{_STEM}*.jsonl"), key=lambda path: (path.name != JOURNAL, path))

    def _find(self, path: Path) -> None:
        """Find the photographs of a file; a crash, or damage, ends it."""
        at = 0
        with path.open("rb") as file:
            if not self._check_header(header := file.readline()):
                return
            at += len(header)
            while (line := file.readline()).endswith(b"\n"):
                try:
                    record = json.loads(line)
                    results = file.readline() if record["has_results"] else b""
                    name, whole = record["file_name"], _is_record(record)
                except (ValueError, TypeError, KeyError, RecursionError):
                    return
                if not whole or (record["has_results"] and not (results.startswith(b"[") and results.endswith(b"]\n"))):
                    return
                self._places[name] = _Place(path, at, len(line), len(results))
                at += len(line) + len(results)

    def _check_header(self, line: bytes) -> bool:
        """Whether a file's first line is whole; InputError when it is of another prediction."""
        try:
            header = json.loads(line if line.endswith(b"\n") else b"")
        except (ValueError, RecursionError):
            return False
        if not isinstance(header, dict) or header.keys() != self.header.keys():
            return False
        if header != json.loads(_line(self.header)):
            raise InputError(
                f"{self.out} holds results of other weights, or of another precision or --tta: add --force to replace them, "
                "or choose another --out"
            )
        return True


def _is_record(record: Record) -> bool:
    """Whether a line has all that is asked of it, and names no file beyond the output folder: resuming may remove them."""
    paths = [record["name"], *record.get("cutouts", [])]
    return all(isinstance(record[key], kind) for key, kind in _KEYS.items()) and not any(
        Path(path).is_absolute() or ".." in Path(path).parts for path in paths
    )


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
