"""Semantic map -> instances, each with class, area, box and COCO RLE, without a mask per instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Each is compiled once; any other integer type is taken as int64.
_COMPILED_TYPES = (np.uint8, np.uint16, np.int32, np.int64)
_BLOCK = 4  # words of 8 bytes that are compared at once
_1, _2, _3 = np.uint64(1), np.uint64(2), np.uint64(3)


@dataclass(frozen=True, eq=False)
class Instances:
    """The N instances of one image, a row each.

    Attributes:
        class_ids: [N] int64.
        areas: [N] int64, in pixels; holes do not count.
        boxes: [N, 4] int64 xywh, in whole pixels.
        rles: N byte strings, the `counts` of COCO's compressed RLE.
        size: (H, W) of the image.
        crowd: [N] bool, True for a group that nobody told apart (COCO's `iscrowd`); never so for a component.
    """

    class_ids: Ints
    areas: Ints
    boxes: Ints
    rles: list[bytes]
    size: tuple[int, int]
    crowd: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.bool_] | Ints) -> Instances:
        """The instances of a mask [N] or of row numbers, in that order."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        rles = [self.rles[number] for number in numbers.tolist()]
        return Instances(
            self.class_ids[numbers], self.areas[numbers], self.boxes[numbers], rles, self.size, self.crowd[numbers]
        )


class UnknownIds(ValueError):
    """A map holds an id that `new_ids` gives no class."""


def find_components(
    semantic_map: NDArray[np.integer], *, skip: Sequence[int] = (), connectivity: int = 8, new_ids: Ints | None = None
) -> Instances:
    """Find the connected regions of equal class id.

    Args:
        semantic_map: [H, W] integers >= 0; H and W may be 0.
        skip: class ids that become no component (background, ignore).
        connectivity: 8 (pixels that share an edge or a corner are connected) or 4 (an edge only).
        new_ids: [I] int64, the class id of each id of the map, -1 for none; it is looked up once for each run of pixels.
            `skip` and the result are of class ids.
    Returns:
        Instances, ordered by class id, then by first pixel in column-major order; equal maps give equal results, byte for byte.
    Raises:
        ValueError: semantic_map is not [H, W], not of integers or holds a negative id; connectivity is not 4 or 8.
        UnknownIds: the map holds an id without a class.
    Source:
        RLE: the format of the COCO API (column-major run lengths, 5 bits a character, each but the first three as the
        difference from the one two before). Components as instances: Fu, Berg, Berg, IMP (2019).
    """
    runs, components, _ = _find(semantic_map, skip, connectivity, new_ids)
    return _instances(runs, components)


def label_components(
    semantic_map: NDArray[np.integer], *, skip: Sequence[int] = (), connectivity: int = 8
) -> tuple[NDArray[np.int32], int]:
    """Which component each pixel is of.

    Args: as of `find_components`.
    Returns:
        Numbers [H, W] int32 from 1, in the order of `find_components`, 0 where `skip` has the class; and how many there are.
    Raises:
        ValueError: as `find_components`.
    """
    runs, components, _ = _find(semantic_map, skip, connectivity)
    ordered = _by_class(runs, components)
    height, width = runs.size
    numbers = np.zeros((width, height), np.int32)  # as the runs go
    _fill_runs(runs.starts, runs.ends, ordered.of_run, numbers.reshape(-1))
    # OpenCV transposes in blocks, several times as fast.
    return (np.asarray(cv2.transpose(numbers), np.int32) if numbers.size else numbers.T), ordered.total


def find_regions(
    numbers: NDArray[np.integer],
    *,
    skip: Sequence[int] = (),
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> Instances:
    """One instance for each number of a map [H, W], however many parts it has; `class_ids` are the numbers.

    Args:
        corner: (y, x) of the map within an image of `size` (height, width), of which it is a part: what is found is told
            in pixels of that image, and no larger map is made. Without `size` the map is all.
    Raises:
        ValueError: as `find_components`; or the map is not inside the image.
    """
    runs = _find_runs(numbers, skip)
    if size is not None:
        runs = _placed(runs, corner, size)
    _, region_of_run = np.unique(runs.classes, return_inverse=True)
    count = int(region_of_run.max(initial=-1)) + 1
    return _instances(runs, _Grouping(region_of_run.astype(np.int64), count))


def numbered_instances(
    semantic_map: NDArray[np.integer],
    numbers: NDArray[np.integer],
    *,
    skip: Sequence[int],
    things: Sequence[int],
    connectivity: int,
    components: bool,
) -> Instances:
    """The instances of a map whose source tells those of a class apart.

    Pixels of things that have no number are a group that nobody told apart: one crowd for each class. Those of other classes
    become components.

    Args:
        semantic_map: [H, W] class ids.
        numbers: [H, W] the number of the instance at each pixel, 0 for none; of one class or of several.
        skip: class ids that become no instance.
        things: class ids whose instances are numbered.
        components: part every instance, and crowd, into its connected components.
    Returns:
        Instances, ordered by class id, those with a number first.
    """
    kept = ~np.isin(semantic_map, skip)
    told_apart = np.where(kept & (numbers > 0), semantic_map.astype(np.int64) << 32 | numbers, 0)
    crowd = kept & (numbers == 0) & np.isin(semantic_map, things)
    # Ids are moved by one, so that 0 is free for what is not asked for.
    crowds, stuff = (
        np.where(chosen, semantic_map.astype(np.int64) + 1, 0) for chosen in (crowd, kept & (numbers == 0) & ~crowd)
    )
    parts = partial(find_components, connectivity=connectivity) if components else find_regions
    found = parts(told_apart, skip=[0]), parts(crowds, skip=[0]), find_components(stuff, skip=[0], connectivity=connectivity)
    ids = found[0].class_ids >> 32, found[1].class_ids - 1, found[2].class_ids - 1
    joined = join([replace(each, class_ids=id_) for each, id_ in zip(found, ids, strict=True)], found[0].size)
    is_crowd = np.zeros(len(joined.rles), np.bool_)
    is_crowd[len(found[0].rles) :][: len(found[1].rles)] = not components
    return replace(joined, crowd=is_crowd).rows(np.argsort(joined.class_ids, kind="stable"))


def join(parts: Sequence[Instances], size: tuple[int, int]) -> Instances:
    """All instances of several lists of one image, in order."""
    return Instances(
        class_ids=np.concatenate([np.zeros(0, np.int64), *(part.class_ids for part in parts)]),
        areas=np.concatenate([np.zeros(0, np.int64), *(part.areas for part in parts)]),
        boxes=np.concatenate([np.zeros((0, 4), np.int64), *(part.boxes for part in parts)]),
        rles=[rle for part in parts for rle in part.rles],
        size=size,
        crowd=np.concatenate([np.zeros(0, np.bool_), *(part.crowd for part in parts)]),
    )


def count_holes(semantic_map: NDArray[np.integer], *, skip: Sequence[int] = (), connectivity: int = 8) -> Ints:
    """The number of holes in each component: [N] int64, in the order of `find_components`.

    Source:
        Ours, from Euler's formula: runs of neighbouring columns that touch form a graph with one cycle around each hole, so a
        component has 1 - runs + touches holes.
    """
    runs, components, touches = _find(semantic_map, skip, connectivity)
    ordered = _by_class(runs, components)
    runs_of_component = np.bincount(ordered.of_run, minlength=ordered.total)
    return 1 - runs_of_component + np.bincount(ordered.of_run, weights=touches, minlength=ordered.total).astype(np.int64)


class _Runs(NamedTuple):
    """The vertical runs of equal id, column by column; starts and ends are column-major pixel indices, an end is exclusive."""

    first: Ints  # [W + 1] the first run of each column
    starts: Ints  # [R]
    ends: Ints  # [R]
    classes: Ints  # [R]
    size: tuple[int, int]


class _Grouping(NamedTuple):
    of_run: Ints  # [R] the group of each run
    total: int


def _find(
    semantic_map: NDArray[np.integer], skip: Sequence[int], connectivity: int, new_ids: Ints | None = None
) -> tuple[_Runs, _Grouping, Ints]:
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity must be 4 or 8, got {connectivity}")
    runs = _find_runs(semantic_map, skip, new_ids)
    of_run, count, touches = _connect_runs(runs.first, runs.starts, runs.ends, runs.classes, runs.size[0], connectivity == 8)
    return runs, _Grouping(of_run, count), touches


def _find_runs(semantic_map: NDArray[np.integer], skip: Sequence[int], new_ids: Ints | None = None) -> _Runs:
    semantic_map = np.asarray(semantic_map)
    pixels, none = _flat(semantic_map), np.zeros(0, np.int64)
    height, width = semantic_map.shape
    if pixels.size == 0:
        return _Runs(np.zeros(width + 1, np.int64), none, none, none, (height, width))
    words = (height - 1) * width * pixels.itemsize // 8
    changes, in_column = _find_changes(pixels, _words(pixels, 0, words), _words(pixels, width, words), height, width)
    table = none if new_ids is None else new_ids
    skipped = np.asarray(skip, dtype=np.int64)
    runs = _Runs(*_column_runs(pixels, changes, in_column, table, skipped), (height, width))
    if new_ids is not None and runs.classes.min(initial=0) < 0:
        raise UnknownIds("the map holds ids that become no class")
    return runs


def _placed(runs: _Runs, corner: tuple[int, int], size: tuple[int, int]) -> _Runs:
    """The runs of a part of an image as those of the image."""
    (height, width), (y, x) = runs.size, corner
    if min(corner) < 0 or y + height > size[0] or x + width > size[1]:
        raise ValueError(f"a part of {height}x{width} at {corner} is not inside an image of {size[0]}x{size[1]}")
    columns = np.repeat(np.arange(width), np.diff(runs.first))
    moved = (columns + x) * size[0] + y - columns * height
    first = np.concatenate([np.zeros(x, np.int64), runs.first, np.full(size[1] - x - width, runs.first[-1])])
    return _Runs(first, runs.starts + moved, runs.ends + moved, runs.classes, size)


def _by_class(runs: _Runs, groups: _Grouping) -> _Grouping:
    """Groups, which are numbered by their first pixel, numbered by class id first."""
    rank = np.empty(groups.total, np.int64)
    rank[np.argsort(_class_of_group(runs, groups), kind="stable")] = np.arange(groups.total)
    return _Grouping(rank[groups.of_run], groups.total)


def _class_of_group(runs: _Runs, groups: _Grouping) -> Ints:
    class_ids = np.empty(groups.total, np.int64)
    class_ids[groups.of_run] = runs.classes
    return class_ids


def _instances(runs: _Runs, groups: _Grouping) -> Instances:
    height, width = runs.size
    pixels = height * width
    ordered = _by_class(runs, groups)
    areas, boxes = _measure(runs.first, runs.starts, runs.ends, ordered.of_run, ordered.total, height)
    # A signed number below 2**bits takes bits + 1 bits.
    digits = (pixels.bit_length() + 5) // 5
    text, text_ends = _encode(runs.starts, runs.ends, ordered.of_run, ordered.total, pixels, digits)
    everything, cuts = text[: text_ends[-1] if ordered.total else 0].tobytes(), [0, *text_ends.tolist()]
    rles = [everything[a:b] for a, b in pairwise(cuts)]
    return Instances(_class_of_group(runs, ordered), areas, boxes, rles, runs.size, np.zeros(ordered.total, np.bool_))


@njit(cache=True, nogil=True)
def _fill_runs(starts: Ints, ends: Ints, of_run: Ints, numbers: NDArray[np.int32]) -> None:
    for run in range(len(starts)):
        numbers[starts[run] : ends[run]] = of_run[run] + 1


def mask_in_box(instances: Instances, row: int) -> NDArray[np.uint8]:
    """The mask [h, w] of one instance within its box, 1 in it: what a map of the image's size would be cut to."""
    x, y, width, height = instances.boxes[row].tolist()
    mask = np.zeros((height, width), np.uint8)
    _fill_box(_run_lengths(np.frombuffer(instances.rles[row], np.uint8)), mask, instances.size[0], y, x)
    return mask


def rle_length(counts: bytes) -> int:
    """How many pixels a compressed RLE tells of; pycocotools returns unset memory where it is less than H * W.

    Raises:
        ValueError: counts is no compressed RLE.
    """
    return int(_run_lengths(np.frombuffer(counts, np.uint8)).sum())


def _flat(array: NDArray[np.integer]) -> NDArray[np.integer]:
    """The pixels of a map row by row, of a type that is compiled, not writable: each other kind would be compiled anew."""
    if array.ndim != 2:
        raise ValueError(f"a semantic map must be [H, W], got {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"a semantic map must hold integers, got {array.dtype}")
    dtype = array.dtype if array.dtype in _COMPILED_TYPES else np.dtype(np.int64)
    pixels = np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(-1)
    if pixels.dtype.kind == "i" and pixels.size and pixels.min() < 0:
        raise ValueError(f"class ids must be from 0 to 2**63 - 1, got {array.min()} to {array.max()}")
    pixels = pixels.view()
    pixels.flags.writeable = False
    return pixels


def _words(pixels: NDArray[np.integer], start: int, count: int) -> NDArray[np.uint64]:
    """Words of 8 bytes from a pixel on, wherever they lie in memory."""
    words = np.frombuffer(pixels.view(np.uint8), np.uint64, count, start * pixels.itemsize)
    words.setflags(align=False)  # always, so that one kind is compiled
    return words


@njit(cache=True, nogil=True)
def _find_changes(
    pixels: NDArray[np.integer], above: NDArray[np.uint64], here: NDArray[np.uint64], height: int, width: int
) -> tuple[Ints, Ints]:
    """Where a pixel differs from the one above: column-major indices [F] in row order, and how many in each column [W].

    The pixels are compared in the order of memory, `_BLOCK` words of 8 bytes at a time, as few differ. Unsigned indices spare
    Numba's look at negative ones.

    Args:
        pixels: all of a map, row by row.
        above, here: the same memory in words, from its start and from its second row on.
    """
    changes = np.empty(height * width, np.int64)  # the system gives memory for what is written only
    in_column = np.zeros(width, np.int64)
    found = 0
    in_word = 8 // pixels.itemsize
    blocks = len(here) // _BLOCK
    for block in range(blocks + 1):
        a = np.uint64(block * _BLOCK)
        if block < blocks:
            differ = (above[a] ^ here[a]) | (above[a + _1] ^ here[a + _1])
            differ |= (above[a + _2] ^ here[a + _2]) | (above[a + _3] ^ here[a + _3])
            if differ == 0:
                continue
        # The last block ends with the map, in the middle of a word perhaps.
        start = width + block * _BLOCK * in_word
        stop = start + _BLOCK * in_word if block < blocks else len(pixels)
        for place in range(start, stop):
            if pixels[place] != pixels[place - width]:
                y = place // width
                x = place - y * width
                changes[found] = x * height + y
                in_column[x] += 1
                found += 1
    return changes[:found], in_column


@njit(cache=True, nogil=True)
def _column_runs(
    pixels: NDArray[np.integer], changes: Ints, in_column: Ints, new_ids: Ints, skip: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """The runs of a map, as `_Runs` has them: a counting sort puts the changes into columns.

    Args:
        new_ids: [I] what each id becomes, or empty; runs of ids that become one are joined.
    """
    width = len(in_column)
    height = len(pixels) // width
    # The first run of each column starts at its top.
    next_run = np.zeros(width + 1, np.int64)
    for x in range(width):
        next_run[x + 1] = next_run[x] + in_column[x] + 1
    starts = np.empty(len(changes) + width, np.int64)
    for x in range(width):
        starts[next_run[x]] = x * height
        next_run[x] += 1
    for change in changes:
        x = change // height
        starts[next_run[x]] = change
        next_run[x] += 1

    # Each next_run has arrived at the end of its column. The runs of skipped ids are dropped in place.
    first_run = np.zeros(width + 1, np.int64)
    ends = np.empty(len(starts), np.int64)
    classes = np.empty(len(starts), np.int64)
    kept = 0
    run = 0
    for x in range(width):
        while run < next_run[x]:
            start = starts[run]
            end = starts[run + 1] if run + 1 < next_run[x] else (x + 1) * height
            class_id = np.int64(pixels[(start - x * height) * width + x])
            if len(new_ids) > 0:
                class_id = new_ids[class_id] if class_id < len(new_ids) else np.int64(-1)
            run += 1
            if _contains(skip, class_id):
                continue
            if kept > first_run[x] and classes[kept - 1] == class_id and ends[kept - 1] == start:
                ends[kept - 1] = end
                continue
            starts[kept] = start
            ends[kept] = end
            classes[kept] = class_id
            kept += 1
        first_run[x + 1] = kept
    return first_run, starts[:kept], ends[:kept], classes[:kept]


@njit(cache=True, nogil=True)
def _contains(values: Ints, value: np.int64) -> bool:
    for each in values:  # noqa: SIM110 - Numba compiles no generator expression
        if each == value:
            return True
    return False


@njit(cache=True, nogil=True)
def _root(parents: Ints, run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]  # path halving
        run = parents[run]
    return run


@njit(cache=True, nogil=True)
def _connect_runs(
    first_run: Ints, starts: Ints, ends: Ints, classes: Ints, height: int, corners: bool
) -> tuple[Ints, int, Ints]:
    """Union-find over neighbouring columns.

    Returns:
        the component [R] of each run, numbered by first pixel; their count; how many runs of its own component a run touches
        in the column to the left [R].
    """
    parents = np.arange(len(starts))
    touches = np.zeros(len(starts), np.int64)
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
                    touches[run] += 1
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
    return component, count, touches


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _run_lengths(text: NDArray[np.uint8]) -> Ints:
    """The numbers of a compressed RLE: zeros, ones, zeros, ...; ValueError when it is none."""
    lengths = np.empty(len(text), np.int64)
    place = 0
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
            number += lengths[place - 2]
        if number < 0:
            raise ValueError("counts are no compressed RLE")
        lengths[place] = number
        place += 1
        number = np.int64(0)
        bits = 0
    if bits > 0:
        raise ValueError("counts are no compressed RLE")
    return lengths[:place]


@njit(cache=True, nogil=True)
def _fill_box(lengths: Ints, mask: NDArray[np.uint8], height: int, top: int, left: int) -> None:
    """Fill the runs of an image of `height` into the part of it that has its first pixel at (top, left)."""
    start = np.int64(0)
    for place in range(len(lengths)):
        end = start + lengths[place]
        if place % 2 == 1:
            for pixel in range(start, end):
                mask[pixel % height - top, pixel // height - left] = 1
        start = end
