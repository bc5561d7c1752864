"""What `--resume` trusts: entries on disk that are taken only as they were written, and checksums of the files they tell of."""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from imptool.files import JOURNAL_FILE, PICTURE_FILE, InputError, open_regular

FORMAT = 2  # of journals; the first had no seals
_SYNC_EVERY = 5.0  # seconds of work that a power cut may cost; waiting for the disk each time would take longer than the work
_SEAL = b'"crc32:'
_LONGEST = 2**28  # bytes of a line, above that of any image: a file without line ends is not read into memory


class EntryFile:
    """A file of entries: lines of ASCII, then a seal with the CRC-32 of all that is before it. The first entry is a header.

    So what was changed, cut, doubled or moved, by a crash, a disk or a hand, and what belongs to another file, ends what is
    read; the next entry takes its place.

    Args:
        header: what makes the entries usable: those of another header are of something else.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._header = json.dumps({"journal": FORMAT, **header}, sort_keys=True).encode("ascii") + b"\n"
        self._end = self._crc = 0  # of what is read or written
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()

    def read(self, *, other: str) -> Iterator[tuple[int, list[bytes]]]:
        """(place in the file, lines) of each entry. One at which the loop is left is cut off, with all that follow.

        Raises:
            InputError: with the line `other`, where the header is whole and another one.
        """
        self._end = self._crc = 0
        if not self.path.exists():
            return
        lines: list[bytes] = []
        crc = 0
        with open_regular(self.path, JOURNAL_FILE) as file:
            while line := file.readline(_LONGEST):
                if len(line) == _LONGEST:
                    return
                if not line.startswith(_SEAL):
                    lines.append(line)
                    crc = zlib.crc32(line, crc)
                    continue
                if line != _seal(crc):
                    return
                if self._end:
                    yield self._end, lines
                elif lines != [self._header]:
                    raise InputError(other)
                self._end += sum(map(len, lines)) + len(line)
                self._crc = crc = zlib.crc32(line, crc)
                lines = []

    def append(self, *lines: bytes) -> int:
        """Write an entry behind the last one, and give its place; it outlives the process, and soon a power cut.

        Without lines, only the header of a new file.
        """
        before = self._end, self._crc
        try:
            if self._file is None:
                self._file = self.path.open("r+b" if self._end else "wb")
                self._file.truncate(self._end)
                self._file.seek(self._end)
            if not self._end:
                self._write([self._header])
            place = self._end
            if lines:
                self._write(lines)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:  # a full disk is told with the file's name
            self._forget()
            self._end, self._crc = before  # half an entry may be there: the next one is written over it
            error.filename = str(self.path)
            raise
        return place

    def close(self) -> None:
        """Close the file, all of it on the disk."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written has been told
                self._file.flush()
                os.fsync(self._file.fileno())
            self._forget()

    def _write(self, lines: Iterable[bytes]) -> None:
        assert self._file is not None
        data = b"".join(lines)
        data += _seal(zlib.crc32(data, self._crc))
        self._file.write(data)
        self._end += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None


def _seal(crc: int) -> bytes:
    return _SEAL + b'%08x"\n' % crc


def checksum(path: Path) -> str:
    """The CRC-32 of a file; "" where it cannot be read, is empty, a link or no regular file: no result of ours is."""
    crc = 0
    try:
        if path.is_symlink():
            return ""
        with open_regular(path, PICTURE_FILE) as file:
            while part := file.read(1 << 20):
                crc = zlib.crc32(part, crc)
    except (InputError, OSError):
        return ""
    return f"{crc:08x}" if crc else ""
