"""What a prediction has finished, on disk: an entry for each image, so that a stopped one goes on and nothing is lost.

Results of thousands of images do not fit into memory, and a process may end at any moment. So each process appends an
entry to a file of its own once an image's files are written, and the entries are joined when all is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from imptool import distributed
from imptool.files import JOURNAL_FILE, open_regular, whole_file
from imptool.journal import EntryFile

_STEM = ".parsed"
JOURNAL = f"{_STEM}.jsonl"

Record = dict[str, Any]


class _Place(NamedTuple):
    """Where an image's record is, and how long it and the line of its results behind it are: 0 without one."""

    path: Path
    start: int
    length: int
    results: int


class Journal:
    """The finished images of an output folder.

    Args:
        out: the output folder.
        header: what all of them have in common; those of another header are not taken for finished.
    Raises:
        InputError: the folder holds images finished with another header.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self.out, self.header = out, dict(header)
        self._own: EntryFile | None = None
        self._places: dict[str, _Place] = {}
        for path in self._paths():
            self._find(path)

    def __contains__(self, file_name: object) -> bool:
        return file_name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def record(self, file_name: str) -> Record:
        """What was told of an image."""
        place = self._places[file_name]
        record: Record = json.loads(_read(place.path, place.start, place.length))
        return record

    def results(self, file_name: str) -> list[Record]:
        """Its COCO results, without image id."""
        place = self._places[file_name]
        rows: list[Record] = json.loads(_read(place.path, place.start + place.length, place.results) or b"[]")
        return rows

    def append(self, record: Record, results: Sequence[Mapping[str, Any]] | None) -> None:
        """Tell of an image whose files are written; after this it outlives a crash of the process.

        The record says whether results follow (`has_results`), which are read by themselves: they are the most of it.
        """
        if self._own is None:
            self._own = EntryFile(self.out / f"{_STEM}-{distributed.rank()}.jsonl", self.header)
        lines = [_line({**record, "has_results": results is not None}), b"" if results is None else _line(results)]
        start = self._own.append(*lines)
        self._places[record["file_name"]] = _Place(self._own.path, start, *map(len, lines))

    def discard(self, file_name: str) -> None:
        """Forget an image, before `join`."""
        self._places.pop(file_name, None)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def join(self, file_names: Sequence[str]) -> None:
        """Make one file of all that any process has finished, these images first and in this order."""
        self.close()
        for path in self._paths():
            if path.name != JOURNAL:
                self._find(path)
        with whole_file(self.out / JOURNAL) as temporary:
            joined = EntryFile(temporary, self.header)
            joined.append()
            for name in dict.fromkeys([*file_names, *self._places]):
                if name in self._places:
                    place = self._places[name]
                    joined.append(_read(place.path, place.start, place.length + place.results))
            joined.close()
        for path in self._paths():
            if path.name != JOURNAL:
                path.unlink()
        self._places.clear()
        self._find(self.out / JOURNAL)

    def _paths(self) -> list[Path]:
        """The joined file first: what a process has told since comes after it."""
        return sorted(self.out.glob(f"{_STEM}*.jsonl"), key=lambda path: (path.name != JOURNAL, path))

    def _find(self, path: Path) -> None:
        """Find the images of a file."""
        other = (
            f"{self.out} holds results of other weights, or of another precision or --tta, or of another version of imptool: "
            "add --force to replace them, or choose another --out"
        )
        for start, lines in EntryFile(path, self.header).read(other=other):
            try:
                record = json.loads(lines[0])
            except ValueError:
                return
            if not _is_record(record):
                return
            self._places[record["file_name"]] = _Place(path, start, len(lines[0]), sum(map(len, lines[1:])))


_KINDS = {
    "file_name": str,
    "name": str,
    "source": list,
    "saved": list,
    "height": int,
    "width": int,
    "classes": dict,
    "instances": dict,
    "files": dict,
    "has_results": bool,
}


def _is_record(record: Any) -> bool:
    """Whether an entry is one of ours. Resuming removes files: none beyond the output folder."""
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in _KINDS.items()):
        return False
    return not any(Path(name).is_absolute() or ".." in Path(name).parts for name in (record["name"], *record["files"]))


def _read(path: Path, start: int, length: int) -> bytes:
    with open_regular(path, JOURNAL_FILE) as file:
        file.seek(start)
        return file.read(length)


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
