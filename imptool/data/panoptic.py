"""Panoptic segments of one image: those of the truth, and those that detections and a label map are fused into.

A thing is a class with `thing: true` that is not the background: each of its instances is a segment. Stuff is every other
class, and the background: one segment for the whole image. Pixels without a segment are void.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from imptool.data.components import Instances, label_components
from imptool.data.components import mask_in_box as mask_of_instance
from imptool.data.label_set import LabelSet
from imptool.data.prediction import Prediction
from imptool.data.prediction import mask_in_box as mask_of_detection
from imptool.recipe import Panoptic

Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Segments:
    """The S segments of one image; none overlaps another.

    Attributes:
        numbers: [H, W] int32, the segment of each pixel, from 1 to S, and 0 for void. Every segment has pixels.
        channels: [S] int64, the semantic channel of segment s + 1.
        crowd: [S] bool, True for a group of things that nobody told apart; only the truth has any.
        scores: [S] float32, 0..1; 1 in the truth.
    Raises:
        ValueError: numbers is not [H, W] int32, or the others are not of one length.
    """

    numbers: Numbers
    channels: Ints
    crowd: NDArray[np.bool_]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.numbers.ndim != 2 or self.numbers.dtype != np.int32:
            raise ValueError(f"numbers must be [H, W] int32, got {self.numbers.shape} {self.numbers.dtype}")
        lengths = [np.shape(values) for values in (self.channels, self.crowd, self.scores)]
        if len(set(lengths)) > 1 or len(lengths[0]) != 1:
            raise ValueError(f"channels, crowd and scores must be of one length, got {lengths}")


def no_segments(size: tuple[int, int]) -> Segments:
    """An image of (height, width) in which nothing was found."""
    none = np.zeros(0, np.int64)
    return Segments(np.zeros(size, np.int32), none, none.astype(np.bool_), none.astype(np.float32))


def panoptic_truth(ids: NDArray[np.integer], instances: Instances, labels: LabelSet) -> Segments:
    """The segments of a target: stuff in the order of the classes, then things in the order of their instances.

    A thing is a segment where the semantic map shows its class and no smaller thing of that class lies above. What is wholly
    hidden, and stuff that does not occur, has none. Ignored pixels, and those of things without an instance, are void.

    Args:
        ids: [H, W] class ids of the dataset, as `Dataset.read_labels` gives them.
        instances: of the same image; those of stuff are left out.
    """
    stuff = _stuff(labels)
    things = instances.rows(~np.isin(instances.class_ids, [labels.ids[channel] for channel in stuff]))
    numbers, first = np.zeros(ids.shape, np.int32), 1 + len(stuff)
    _fill_void(_flat(numbers), _flat(labels.to_channels(ids)), _number_of_channel(stuff, 1, labels.ignore_channel + 1))
    for row in np.argsort(-things.areas, kind="stable").tolist():
        x, y, width, height = things.boxes[row].tolist()
        box = np.s_[y : y + height, x : x + width]
        mask = mask_of_instance(things, row) == 1
        numbers[box][mask & (ids[box] == things.class_ids[row])] = first + row
    channels = np.array([*stuff, *map(labels.ids.index, things.class_ids.tolist())], np.int64)
    crowd = np.concatenate([np.zeros(len(stuff), np.bool_), things.crowd])
    areas, _ = _measure(numbers, None, len(channels))
    return _kept(Segments(numbers, channels, crowd, np.ones(len(channels), np.float32)), areas > 0)


def fuse(
    prediction: Prediction,
    labels: LabelSet,
    settings: Panoptic,
    over: NDArray[np.bool_] | None = None,
    margin: NDArray[np.floating] | None = None,
) -> Segments:
    """Fuse the instances of an image and its label map into segments: things front to back, then stuff in what is left.

    Detections are pasted one at a time, each in its own box, so that memory does not grow with their number. One of which a
    larger share than `settings.overlap` is covered already gives no segment, and its pixels stay free. Where the label map
    shows a thing that nobody detected, or less stuff than `settings.stuff_area`, the result is void. A model without a label
    map gives things alone.

    Args:
        over, margin: [N, N], which detections lie in front of which, as `front_to_back` takes them; None: in the order of
            their scores. They say nothing of components.
    Returns:
        Segments: things from front to back (components by first pixel), then stuff by channel. The score of a detection is
        its own; that of a component and of stuff is the mean confidence of its pixels, or 1 where no confidence is known.
    Raises:
        ValueError: the instances are to be components, and there is no label map; or over does not fit the detections.
    Source:
        Kirillov et al., Panoptic Segmentation (2019), section 7: the heuristic. Components as instances, and an order that is
        not that of the scores: ours.
    """
    if settings.instances == "components":
        things = _thing_components(prediction, labels)
    else:
        things = _paste_detections(prediction, labels, settings, over, margin)
    if prediction.channels is None:
        return things
    stuff, count = _stuff(labels), len(things.channels)
    table = _number_of_channel(stuff, 1 + count, len(labels.classes))
    _fill_void(_flat(things.numbers), _flat(prediction.channels), table)
    areas, confidence = _measure(things.numbers, prediction.confidence, count + len(stuff))
    means = np.ones(len(areas)) if confidence is None else confidence / np.maximum(areas, 1)
    by_pixels = settings.instances == "components"
    scores = np.concatenate([means[:count] if by_pixels else things.scores, means[count:]]).astype(np.float32)
    least = np.repeat([1, max(settings.stuff_area, 1)], [count, len(stuff)])
    channels = np.concatenate([things.channels, np.array(stuff, np.int64)])
    return _kept(Segments(things.numbers, channels, np.zeros(len(channels), np.bool_), scores), areas >= least)


def front_to_back(
    scores: NDArray[np.floating], over: NDArray[np.bool_], margin: NDArray[np.floating] | None = None
) -> NDArray[np.intp]:
    """The order of instances that keeps what is said of pairs: the best instance that none of the others lies over comes next.

    Where statements contradict each other in a circle, those with the smallest margin on it are dropped until one is free.

    Args:
        scores: [N]; of equal ones the first is better.
        over: [N, N] bool, over[i, j]: i lies in front of j.
        margin: [N, N] >= 0, how sure each statement is; of equal ones (None: all are) the first in rows falls.
    Returns:
        [N] indices, the front first.
    Raises:
        ValueError: over or margin is not [N, N].
    Source:
        Ours: counting votes may put an instance in front of one that lies over it.

    >>> over = np.zeros((3, 3), bool)
    >>> over[2, 0] = True
    >>> front_to_back(np.array([0.9, 0.8, 0.7]), over).tolist()
    [1, 2, 0]
    """
    count = len(scores)
    margin = np.zeros((count, count)) if margin is None else margin
    if over.shape != (count, count) or margin.shape != (count, count):
        raise ValueError(f"over and margin must be [N, N] of {count} scores, got {over.shape} and {margin.shape}")
    over = over.astype(np.bool_)
    best_first = np.argsort(-np.asarray(scores), kind="stable")
    blockers = over.sum(axis=0)
    order: list[int] = []
    while len(order) < count:
        free = best_first[blockers[best_first] == 0]
        if not len(free):
            front, back = _weakest_in_a_circle(over, margin)
            over[front, back] = False
            blockers[back] -= 1
            continue
        order.append(int(free[0]))
        blockers -= over[free[0]]
        over[free[0]] = False
        best_first = best_first[best_first != free[0]]
    return np.array(order, np.intp)


def _weakest_in_a_circle(over: NDArray[np.bool_], margin: NDArray[np.floating]) -> tuple[int, int]:
    """Of the statements that lie on a circle, the one with the smallest margin; of equal ones the first in rows."""
    _, group = connected_components(scipy.sparse.csr_array(over), directed=True, connection="strong")
    front, back = np.nonzero(over)
    circular = np.flatnonzero(group[front] == group[back])
    weakest = circular[np.argmin(margin[front[circular], back[circular]])]
    return int(front[weakest]), int(back[weakest])


def _paste_detections(
    prediction: Prediction,
    labels: LabelSet,
    settings: Panoptic,
    over: NDArray[np.bool_] | None,
    margin: NDArray[np.floating] | None,
) -> Segments:
    numbers = np.zeros(prediction.size, np.int32)
    pasted: list[int] = []
    for place in _pasting_order(prediction.scores, settings.confidence, over, margin).tolist():
        mask, (y, x) = mask_of_detection(prediction, place)
        beneath = numbers[y : y + mask.shape[0], x : x + mask.shape[1]]
        area, free = np.count_nonzero(mask), mask.astype(np.bool_) & (beneath == 0)
        left = np.count_nonzero(free)
        if not left or (area - left) / area > settings.overlap:
            continue
        pasted.append(place)
        beneath[free] = len(pasted)
    channels = np.array(labels.things, np.int64)[prediction.labels[pasted] - 1]
    return Segments(numbers, channels, np.zeros(len(pasted), np.bool_), prediction.scores[pasted].astype(np.float32))


def _pasting_order(
    scores: NDArray[np.floating],
    least: float,
    over: NDArray[np.bool_] | None,
    margin: NDArray[np.floating] | None,
) -> NDArray[np.intp]:
    """The detections that are sure enough, front to back."""
    if over is None:
        return np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= least)]
    if over.shape != (len(scores), len(scores)):
        raise ValueError(f"over must be [N, N] of {len(scores)} detections, got {over.shape}")
    sure = np.flatnonzero(scores >= least)
    pairs = np.ix_(sure, sure)
    return sure[front_to_back(scores[sure], over[pairs], None if margin is None else margin[pairs])]


def _thing_components(prediction: Prediction, labels: LabelSet) -> Segments:
    """The components of the label map's things, as segments without scores."""
    if prediction.channels is None:
        raise ValueError("components are made of a label map, and this model gives none")
    numbers, count = label_components(prediction.channels, skip=_stuff(labels))
    channels = np.zeros(count + 1, np.int64)
    _note_channels(_flat(numbers), _flat(prediction.channels), channels)
    return Segments(numbers, channels[1:], np.zeros(count, np.bool_), np.ones(count, np.float32))


def _stuff(labels: LabelSet) -> list[int]:
    """The channels of all classes that are no things, the background among them."""
    return sorted(set(range(len(labels.classes))) - set(labels.things))


def _number_of_channel(stuff: list[int], first: int, channels: int) -> Numbers:
    """The segment number of each channel [channels]: from `first` on for stuff, 0 for the others."""
    table = np.zeros(channels, np.int32)
    table[stuff] = np.arange(first, first + len(stuff))
    return table


def _kept(segments: Segments, kept: NDArray[np.bool_]) -> Segments:
    """The chosen segments alone [S], numbered anew in their order, in place; the others become void."""
    table = np.zeros(len(kept) + 1, np.int32)
    table[1:][kept] = np.arange(1, 1 + np.count_nonzero(kept))
    _renumber(_flat(segments.numbers), table)
    return Segments(segments.numbers, segments.channels[kept], segments.crowd[kept], segments.scores[kept])


def _measure(numbers: Numbers, values: NDArray[np.floating] | None, count: int) -> tuple[Ints, NDArray[np.float64] | None]:
    """The pixels [S] of each segment, and the sum [S] of a map over it."""
    areas, sums = np.zeros(count + 1, np.int64), np.zeros(count + 1)
    _add_up(_flat(numbers), np.zeros(0, np.float32) if values is None else _flat(values), areas, sums)
    return areas[1:], None if values is None else sums[1:]


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """The pixels of a map in rows: its own memory where they lie so, as all maps do that are made here."""
    return np.ascontiguousarray(array).reshape(-1)


# Loops over pixels: indexing with a whole map would first make one of 8 bytes a pixel.


@njit(cache=True, nogil=True)
def _fill_void(numbers: Numbers, channels: NDArray[np.integer], table: Numbers) -> None:
    for place in range(len(numbers)):
        if numbers[place] == 0:
            numbers[place] = table[channels[place]]


@njit(cache=True, nogil=True)
def _note_channels(numbers: Numbers, channels: NDArray[np.integer], channel_of_number: Ints) -> None:
    for place in range(len(numbers)):
        channel_of_number[numbers[place]] = channels[place]


@njit(cache=True, nogil=True)
def _renumber(numbers: Numbers, table: Numbers) -> None:
    for place in range(len(numbers)):
        numbers[place] = table[numbers[place]]


@njit(cache=True, nogil=True)
def _add_up(numbers: Numbers, values: NDArray[np.floating], areas: Ints, sums: NDArray[np.float64]) -> None:
    for place in range(len(numbers)):
        areas[numbers[place]] += 1
    for place in range(len(values)):
        sums[numbers[place]] += values[place]
