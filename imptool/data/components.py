"""Semantic map -> connected components, each with class, area, box and COCO RLE, without a mask per component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Each is compiled once; any other integer type is taken as int64.
_COMPILED_TYPES = (np.uint8, np.uint16, np.int32, np.int64)


@dataclass(frozen=True, eq=False)
class Components:
    """The N components of one semantic map, a row each, ordered by class id, then by first pixel in column-major order.

    Attributes:
        class_ids: [N] int64.
        areas: [N] int64, in pixels; holes do not count.
        boxes: [N, 4] int64 xywh, in whole pixels.
        rles: N byte strings, the `counts` of COCO's compressed RLE.
        size: (H, W) of the map.
    """

    class_ids: Ints
    areas: Ints
    boxes: Ints
    rles: list[bytes]
    size: tuple[int, int]


def find_components(semantic_map: NDArray[np.integer], *, skip: Sequence[int] = (), connectivity: int = 8) -> Components:
    """Find the connected regions of equal class id.

    Args:
        semantic_map: [H, W] integers >= 0; H and W may be 0.
        skip: class ids that become no component (background, ignore).
        connectivity: 8 (pixels that share an edge or a corner are connected) or 4 (an edge only).
    Returns:
        Components; equal maps give equal results, byte for byte.
    Raises:
        ValueError: semantic_map is not [H, W], not of integers or holds a negative id; connectivity is not 4 or 8.
    Source:
        RLE: the format of the COCO API (column-major run lengths, 5 bits a character, each but the first three as the
        difference from the one two before). Components as instances: Fu, Berg, Berg, IMP (2019).
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, got {connectivity}")
    array = _as_compiled_type(np.asarray(semantic_map))
    height, width = array.shape

    first_run, starts, ends, run_classes = _column_runs(array, np.asarray(skip, dtype=np.int64))
    component_of_run, count = _connect_runs(first_run, starts, ends, run_classes, height, connectivity == 8)
    class_ids = np.empty(count, np.int64)
    class_ids[component_of_run] = run_classes

    # Components are numbered by their first pixel so far; a stable sort by class keeps that order within a class.
    order = np.argsort(class_ids, kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    component_of_run = rank[component_of_run]

    areas, boxes = _measure(first_run, starts, ends, component_of_run, count, height)
    # A signed number below 2**bits takes bits + 1 bits.
    digits = (array.size.bit_length() + 5) // 5
    text, text_ends = _encode(starts, ends, component_of_run, count, array.size, digits)
    cuts = [0, *text_ends.tolist()]
    rles = [text[a:b].tobytes() for a, b in pairwise(cuts)]
    return Components(class_ids[order], areas, boxes, rles, (height, width))


def rle_length(counts: bytes) -> int:
    """How many pixels a compressed RLE tells of; pycocotools returns unset memory where it is less than H * W.

    Raises:
        ValueError: counts is no compressed RLE.
    """
    return int(_rle_length(np.frombuffer(counts, np.uint8)))


def _as_compiled_type(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """A contiguous, writable copy of a type that is compiled; each other layout would be compiled anew."""
    if array.ndim != 2:
        raise ValueError(f"a semantic map must be [H, W], got {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"a semantic map must hold integers, got {array.dtype}")
    copy = np.array(array, dtype=array.dtype if array.dtype in _COMPILED_TYPES else np.int64, order="C")
    if copy.dtype.kind == "i" and copy.size and copy.min() < 0:
        raise ValueError(f"class ids must be from 0 to 2**63 - 1, got {array.min()} to {array.max()}")
    return copy


@njit(cache=True)
def _column_runs(array: NDArray[np.integer], skip: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """The vertical runs of equal id, column by column: first_run [W + 1] of each column, then starts, ends and ids [R].

    Starts and ends are column-major pixel indices; an end is exclusive. The pixels are read row by row, in the order of
    memory: a counting sort puts the runs into columns, several times faster than walking down the columns.
    """
    height, width = array.shape
    if height == 0:
        empty = np.empty(0, np.int64)
        return np.zeros(width + 1, np.int64), empty, empty, empty
    runs_in_column = np.ones(width, np.int32)
    for y in range(1, height):
        for x in range(width):
            runs_in_column[x] += array[y, x] != array[y - 1, x]
    next_run = np.zeros(width, np.int64)
    total = 0
    for x in range(width):
        next_run[x] = total
        total += runs_in_column[x]
    starts = np.empty(total, np.int64)
    for x in range(width):
        starts[next_run[x]] = x * height
        next_run[x] += 1
    for y in range(1, height):
        for x in range(width):
            if array[y, x] != array[y - 1, x]:
                starts[next_run[x]] = x * height + y
                next_run[x] += 1

    # Each next_run has arrived at the end of its column. The runs of skipped ids are dropped in place.
    first_run = np.zeros(width + 1, np.int64)
    ends = np.empty(total, np.int64)
    classes = np.empty(total, np.int64)
    kept = 0
    run = 0
    for x in range(width):
        while run < next_run[x]:
            start = starts[run]
            class_id = np.int64(array[start - x * height, x])
            if not _contains(skip, class_id):
                starts[kept] = start
                ends[kept] = starts[run + 1] if run + 1 < next_run[x] else (x + 1) * height
                classes[kept] = class_id
                kept += 1
            run += 1
        first_run[x + 1] = kept
    return first_run, starts[:kept], ends[:kept], classes[:kept]


@njit(cache=True)
def _contains(values: Ints, value: np.int64) -> bool:
    for each in values:  # noqa: SIM110 - Numba compiles no generator expression
        if each == value:
            return True
    return False


@njit(cache=True)
def _root(parents: Ints, run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]  # path halving
        run = parents[run]
    return run


@njit(cache=True)
def _connect_runs(first_run: Ints, starts: Ints, ends: Ints, classes: Ints, height: int, corners: bool) -> tuple[Ints, int]:
    """Union-find over neighbouring columns: the component [R] of each run, numbered by first pixel, and their count."""
    parents = np.arange(len(starts))
    reach = 1 if corners else 0
    for x in range(1, len(first_run) - 1):
        left = first_run[x - 1]
        for run in range(first_run[x], first_run[x + 1]):
            # Moved one column to the left, so that it compares with the runs there.
            top = starts[run] - height
            bottom = ends[run] - height
            while left < first_run[x] and ends[left] + reach <= top:
                left += 1
            other = left
            while other < first_run[x] and starts[other] < bottom + reach:
                if classes[other] == classes[run]:
                    a = _root(parents, other)
                    b = _root(parents, run)
                    # The smaller index stays the root: the first run, hence the first pixel, of the component.
                    parents[max(a, b)] = min(a, b)
                other += 1

    component = np.empty(len(starts), np.int64)
    count = 0
    for run in range(len(starts)):
        root = _root(parents, run)
        if root == run:
            component[run] = count
            count += 1
        else:
            component[run] = component[root]
    return component, count


@njit(cache=True)
def _measure(first_run: Ints, starts: Ints, ends: Ints, component: Ints, count: int, height: int) -> tuple[Ints, Ints]:
    """Areas [N] and boxes [N, 4] xywh."""
    areas = np.zeros(count, np.int64)
    boxes = np.zeros((count, 4), np.int64)
    for x in range(len(first_run) - 1):
        for run in range(first_run[x], first_run[x + 1]):
            box = boxes[component[run]]
            top = starts[run] - x * height
            bottom = ends[run] - x * height
            if areas[component[run]] == 0:
                box[0] = x
                box[1] = top
            # The bottom edge for now: the top may still move.
            box[3] = max(box[3], bottom)
            box[1] = min(box[1], top)
            box[2] = x + 1 - box[0]
            areas[component[run]] += ends[run] - starts[run]
    boxes[:, 3] -= boxes[:, 1]
    return areas, boxes


@njit(cache=True)
def _encode(starts: Ints, ends: Ints, component: Ints, count: int, pixels: int, digits: int) -> tuple[NDArray[np.uint8], Ints]:
    """The RLE of all components in one text, and where each ends [N]; a number takes up to `digits` characters."""
    # A linked list per component keeps its runs in column-major order.
    first = np.full(count, -1, np.int64)
    last = np.full(count, -1, np.int64)
    following = np.full(len(starts), -1, np.int64)
    for run in range(len(starts)):
        if first[component[run]] < 0:
            first[component[run]] = run
        else:
            following[last[component[run]]] = run
        last[component[run]] = run

    text = np.empty((2 * len(starts) + count) * digits, np.uint8)
    text_ends = np.empty(count, np.int64)
    at = 0
    for n in range(count):
        run = first[n]
        done = 0  # pixels told so far
        zeros_before = 0
        ones_before = 0
        while run >= 0:
            start = starts[run]
            # A run down to the bottom of a column goes on at the top of the next one.
            while following[run] >= 0 and starts[following[run]] == ends[run]:
                run = following[run]
            zeros = start - done
            ones = ends[run] - start
            # Differences begin with the fourth number, so the second zeros (the third number) have no base.
            at = _write_number(text, at, zeros - zeros_before)
            at = _write_number(text, at, ones - ones_before)
            zeros_before = 0 if done == 0 else zeros
            ones_before = ones
            done = ends[run]
            run = following[run]
        if done < pixels:
            at = _write_number(text, at, pixels - done - zeros_before)
        text_ends[n] = at
    return text, text_ends


@njit(cache=True)
def _write_number(text: NDArray[np.uint8], at: int, number: int) -> int:
    """Write 5 bits a character, lowest first, signed; bit 5 says that more follow. Gives the place behind."""
    more = True
    while more:
        low = number & 31
        number >>= 5
        more = number != (-1 if low & 16 else 0)
        text[at] = 48 + (low | 32 if more else low)
        at += 1
    return at


@njit(cache=True)
def _rle_length(text: NDArray[np.uint8]) -> np.int64:
    total = np.int64(0)
    place = 0
    before = np.int64(0)  # the last number, and the one before it
    base = np.int64(0)
    number = np.int64(0)
    bits = 0
    for character in text:
        value = np.int64(character) - 48
        if value < 0 or value > 63 or bits > 50:
            raise ValueError("counts are no compressed RLE")
        number |= (value & 31) << bits
        bits += 5
        if value & 32:
            continue
        if value & 16:
            number -= 1 << bits
        if place > 2:
            number += base
        if number < 0:
            raise ValueError("counts are no compressed RLE")
        total += number
        base = before
        before = number
        place += 1
        number = np.int64(0)
        bits = 0
    if bits > 0:
        raise ValueError("counts are no compressed RLE")
    return total
