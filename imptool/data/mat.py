"""Label maps in MATLAB's files of version 5 (MATLAB 5 to 7.2), read strictly and with little memory, whatever the bytes say.

scipy's reader takes the bytes for right: one that is changed can end the process.

Source:
    The MathWorks: MAT-File Format, chapter "Level 5 MAT-File Format".
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

_COMPRESSED, _MATRIX = 15, 14
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # of stored values
_NUMBERS = ("float64", "float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_CLASSES = ("", "cell", "struct", "object", "char", "sparse", *_NUMBERS, "function", "opaque", "object")  # of variables
_OPAQUE = 17  # has no dimensions
_COMPLEX = 0x0800  # among a variable's flags
_LONGEST = 4096  # bytes of a name, or of dimensions
_PIECE = 2**20  # values that are looked at together


class _Source(Protocol):
    def read(self, count: int, /) -> bytes: ...


@dataclass(frozen=True)
class Variable:
    """A variable of a MAT-file, of which only the header is read.

    Attributes:
        name: as MATLAB has it.
        kind: its class: float64, uint8, cell, ...
        shape: its size.
        is_matrix: whether it is real numbers [H, W].
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    is_matrix: bool
    _start: int  # of its element in the file
    _order: str  # < or >

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {list(self.shape)})"


@dataclass(frozen=True)
class Matrix:
    """The values of a variable as ids.

    Attributes:
        ids: [H, W] uint8 or uint16; means nothing unless all values are whole and lie within 0..65535.
        whole: whether all values are whole numbers.
        low, high: the smallest and the largest value; 0 where there is none.
    """

    ids: np.ndarray
    whole: bool
    low: float
    high: float


def list_variables(file: BinaryIO) -> list[Variable]:
    """The variables of a MAT-file.

    Raises:
        ValueError: it is damaged, or no such file.
        NotImplementedError: it is of MATLAB 7.3: HDF5.
    """
    head = file.read(128)
    if len(head) == 128 and head[126:] in (b"IM", b"MI"):
        order = "<" if head[126:] == b"IM" else ">"
        version = struct.unpack(f"{order}H", head[124:126])[0] >> 8
    else:
        raise ValueError("it does not begin as one of MATLAB 5 to 7.2 does")
    if version != 1:
        raise NotImplementedError("it is one of MATLAB 7.3")
    variables = []
    end = file.seek(0, io.SEEK_END)
    start = 128
    while start < end:
        file.seek(start)
        kind, size, _ = _tag(file, order)
        if start + 8 + size > end:
            raise ValueError("its end is missing")
        _, variable = _begin(file, start, order)
        if variable.name:  # one without is MATLAB's own
            variables.append(variable)
        start += 8 + size + (-size % 8 if kind == _MATRIX else 0)
    if start != end:
        raise ValueError("its end is missing")
    return variables


def read_matrix(file: BinaryIO, variable: Variable) -> Matrix:
    """The values of a variable that `is_matrix`; ValueError when they are damaged.

    They pass in pieces, so that no more memory is taken than the ids need.
    """
    source, found = _begin(file, variable._start, variable._order)
    kind, size, small = _tag(source, variable._order)
    height, width = found.shape
    if kind not in _DTYPES:
        raise ValueError(f"{variable.name} holds values of the unknown type {kind}")
    dtype = np.dtype(variable._order + _DTYPES[kind])
    if size != height * width * dtype.itemsize:
        raise ValueError(f"{variable.name} has {size} bytes of values, {list(found.shape)} of {dtype.name} need another number")
    ids = np.empty(height * width, np.uint8 if dtype == np.uint8 else np.uint16)
    low, high = math.inf, -math.inf
    values = io.BytesIO(small) if small is not None else source
    for at in range(0, len(ids), _PIECE):
        piece = np.frombuffer(_exactly(values, min(_PIECE, len(ids) - at) * dtype.itemsize), dtype)
        low, high = min(low, piece.min()), max(high, piece.max())
        if piece.dtype.kind == "f" and not np.array_equal(piece, np.floor(piece)):  # nan equals nothing
            return Matrix(ids, False, math.nan, math.nan)
        with np.errstate(invalid="ignore"):  # out of range: low and high tell
            ids[at : at + len(piece)] = piece.astype(ids.dtype)
    if isinstance(source, _Inflated):
        source.finish()
    if not len(ids):
        low = high = 0
    return Matrix(ids.reshape((height, width), order="F"), True, float(low), float(high))


class _Inflated:
    """What a zlib stream unpacks to, never more of it than is asked for."""

    def __init__(self, packed: bytes) -> None:
        self._packed = io.BytesIO(packed)
        self._zlib = zlib.decompressobj()

    def read(self, count: int, /) -> bytes:
        parts = bytearray()
        while len(parts) < count and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._packed.read(2**16)
            piece = self._zlib.decompress(packed, count - len(parts))
            if not packed and not piece:
                break
            parts += piece
        return bytes(parts)

    def finish(self) -> None:
        """Read what pads the last values, and with it the checksum; ValueError when there is more."""
        if len(self.read(16)) > 8 or not self._zlib.eof:
            raise ValueError("it holds more than it says, or its end is missing")


def _begin(file: BinaryIO, start: int, order: str) -> tuple[_Source, Variable]:
    """A variable by where its element starts, and where its values are read from."""
    file.seek(start)
    kind, size, small = _tag(file, order)
    if small is not None or kind not in (_COMPRESSED, _MATRIX):
        raise ValueError(f"at byte {start} there is no variable")
    source: _Source = file
    if kind == _COMPRESSED:
        source = _Inflated(_exactly(file, size))
        kind, size, small = _tag(source, order)
        if small is not None or kind != _MATRIX:
            raise ValueError(f"at byte {start} there is no variable")
    flags, _ = struct.unpack(f"{order}II", _element(source, order, types=(6,)))
    kind = flags & 0xFF
    if not 0 < kind < len(_CLASSES):
        raise ValueError(f"at byte {start} there is a variable of the unknown class {kind}")
    if kind == _OPAQUE:
        return source, Variable(_name(source, order), _CLASSES[kind], (), False, start, order)
    dims = _element(source, order, types=(5,))
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims[: len(dims) // 4 * 4])
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"at byte {start} there is a variable of the size {list(shape)}")
    is_matrix = _CLASSES[kind] in _NUMBERS and len(shape) == 2 and not flags & _COMPLEX
    return source, Variable(_name(source, order), _CLASSES[kind], shape, is_matrix, start, order)


def _name(source: _Source, order: str) -> str:
    return _element(source, order, types=(1, 2, 16)).decode("utf-8", "replace")


def _element(source: _Source, order: str, *, types: tuple[int, ...]) -> bytes:
    """The bytes of a short element with what pads it to 8; ValueError when it has none of these types."""
    kind, size, small = _tag(source, order)
    if kind not in types or size > _LONGEST:
        raise ValueError("the header of a variable is damaged")
    return small if small is not None else _exactly(source, size + -size % 8)[:size]


def _tag(source: _Source, order: str) -> tuple[int, int, bytes | None]:
    """An element's type and size; and, where up to 4 bytes stand in the tag itself, these."""
    head = _exactly(source, 8)
    first, size = struct.unpack(f"{order}II", head)
    if first >> 16:
        if first >> 16 > 4:
            raise ValueError("the header of a variable is damaged")
        return first & 0xFFFF, first >> 16, head[4 : 4 + (first >> 16)]
    return first, size, None


def _exactly(source: _Source, count: int) -> bytes:
    found = source.read(count)
    if len(found) < count:
        raise ValueError("its end is missing")
    return found
