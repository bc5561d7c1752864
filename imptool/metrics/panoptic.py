"""Panoptic quality (PQ): which segments are found, and how well, as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from imptool.data.panoptic import Segments
from imptool.metrics.confusion import mean_of_present

DEFINITIONS = {
    "pq": "Panoptic quality: SQ x RQ of each class, that is the IOUs of its matched segments, summed, divided by TP + FP/2 + "
    "FN/2; mean over the foreground classes, leaving out the classes without any segment that counts. A predicted and a "
    "target segment of one class match where their IOU is above 0.5.",
    "sq": "Segmentation quality: the mean IOU of the matched segments of each class; mean over the foreground classes. A class "
    "that occurs and has no match is 0 in the mean, and has no number of its own.",
    "rq": "Recognition quality: TP / (TP + FP/2 + FN/2) of each class; mean over the foreground classes.",
}
"""One sentence for every figure; with `_things`, `_stuff` or `_with_background` it is the mean over the things, over the stuff
but the background, or over all classes. All of them: counts summed over the split, void of the target left out of unions."""

QUALITIES = ("pq", "sq", "rq")
COUNTS = ("iou", "tp", "fp", "fn")
"""The attributes of `PanopticCounts`, in their order."""

_FOUND = 0.5  # above which an IOU is a match; there can be only one for a segment
_CELLS = 1 << 16  # pairs that are always counted in a table
_STEP = 16  # pixels


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """What panoptic quality is made of, by class; counts are summed over a split.

    iou: [C] float64, the sum of the IOUs of matched segments.
    tp, fp, fn: [C] int64, matched segments; predicted ones without a match; target ones without.
    """

    iou: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]

    def to_array(self) -> NDArray[np.float64]:
        """[C, 4] in the order of the attributes, as `panoptic_quality` takes them."""
        return np.stack([self.iou, self.tp, self.fp, self.fn], axis=-1).astype(np.float64)


def count_segments(predicted: Segments, target: Segments, *, num_classes: int) -> PanopticCounts:
    """Match the segments of one image.

    IOU = common pixels / (both areas - common pixels - pixels of the predicted segment on void of the target). A target's crowd
    neither matches nor is missed. A predicted segment without a match does not count if more than half of it lies on void and
    on crowds of its class.

    Args:
        num_classes: C; channels are 0..C-1.
    Raises:
        ValueError: the maps differ in size, a channel is no class, or numbers are not 1..S, each with pixels.
    Source:
        Kirillov et al., Panoptic Segmentation (2019), section 4; COCO's panopticapi, which of several crowds of a class knows
        the last one alone.
    """
    if predicted.numbers.shape != target.numbers.shape:
        raise ValueError(f"the maps must be of one size, got {predicted.numbers.shape} and {target.numbers.shape}")
    of_target, of_predicted, common = _common_pixels(predicted, target)
    target_area = _sum(of_target, common, len(target.channels) + 1)
    predicted_area = _sum(of_predicted, common, len(predicted.channels) + 1)
    for segments, area in ((predicted, predicted_area), (target, target_area)):
        if segments.channels.min(initial=0) < 0 or segments.channels.max(initial=0) >= num_classes:
            raise ValueError(f"channels must be 0..{num_classes - 1}, got {segments.channels}")
        if not area[1:].all():
            raise ValueError(f"every segment must have pixels, and {1 + np.flatnonzero(area[1:] == 0)} have none")

    target_channel, predicted_channel = (np.concatenate([[-1], each.channels]) for each in (target, predicted))
    is_crowd = np.concatenate([[False], target.crowd])
    of_one_class = target_channel[of_target] == predicted_channel[of_predicted]
    on_void = _sum(of_predicted, np.where(of_target == 0, common, 0), len(predicted_area))
    union = target_area[of_target] + predicted_area[of_predicted] - common - on_void[of_predicted]
    both = (of_target > 0) & (of_predicted > 0)
    matching = np.flatnonzero(both & of_one_class & ~is_crowd[of_target])
    iou = common[matching] / union[matching]
    matching, iou = matching[iou > _FOUND], iou[iou > _FOUND]

    missed, wrong = ~is_crowd, np.ones(len(predicted_area), np.bool_)
    missed[0] = wrong[0] = False
    missed[of_target[matching]] = wrong[of_predicted[matching]] = False
    on_crowd = _sum(of_predicted, np.where(is_crowd[of_target] & of_one_class, common, 0), len(predicted_area))
    wrong &= (on_void + on_crowd) / np.maximum(predicted_area, 1) <= 0.5
    found = target_channel[of_target[matching]]
    return PanopticCounts(
        iou=np.bincount(found, iou, num_classes).astype(np.float64),  # NumPy gives integers of no pair
        tp=np.bincount(found, minlength=num_classes),
        fp=np.bincount(predicted_channel[wrong], minlength=num_classes),
        fn=np.bincount(target_channel[missed], minlength=num_classes),
    )


def class_quality(counts: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """`pq`, `sq` and `rq` of each class [..., C] of counts [..., C, 4].

    They are nan for a class without a segment that counts; SQ is so for one without a match, too.
    """
    iou, tp, fp, fn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    weight = tp + fp / 2 + fn / 2
    return {"pq": _ratio(iou, weight), "sq": _ratio(iou, tp), "rq": _ratio(tp, weight)}


def class_means(*, foreground: Sequence[int], things: Sequence[int]) -> dict[str, tuple[str, Any]]:
    """Of every mean over classes: the figure that it is the mean of, and the class indices, which a slice may stand for."""
    parts: dict[str, Any] = {
        "": np.asarray(foreground, np.intp),
        "_things": np.asarray(things, np.intp),
        "_stuff": np.setdiff1d(foreground, things).astype(np.intp),
        "_with_background": slice(None),
    }
    return {key + name: (key, part) for key in QUALITIES for name, part in parts.items()}


def panoptic_quality(
    counts: NDArray[np.floating], *, foreground: Sequence[int], things: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """The figures of counts that were summed over a split; leading axes are splits, such as resampled ones.

    Args:
        counts: [..., C, 4], as of `PanopticCounts.to_array`.
        foreground, things: class indices.
    Returns:
        `pq`, `sq`, `rq`, each also with `_things`, `_stuff` and `_with_background`: [...], 0..1, nan where no class of
        them occurs; `DEFINITIONS` says what each is. `class_pq`, `class_sq`, `class_rq`: [..., C], as of `class_quality`.
    """
    by_class = class_quality(counts)
    occurs = ~np.isnan(by_class["pq"])
    in_means = by_class | {"sq": np.where(occurs, np.nan_to_num(by_class["sq"]), np.nan)}
    means = class_means(foreground=foreground, things=things)
    return {
        **{key: mean_of_present(in_means[of][..., part]) for key, (of, part) in means.items()},
        **{f"class_{key}": values for key, values in by_class.items()},
    }


def _common_pixels(predicted: Segments, target: Segments) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of a target and a predicted number that share pixels, and how many [n] each; 0 is void."""
    first, second = (np.ascontiguousarray(each.numbers).reshape(-1) for each in (target, predicted))
    rows, columns = len(target.channels) + 1, len(predicted.channels) + 1
    in_table = rows * columns <= max(_CELLS, first.size)  # of thousands of components by thousands it would not fit
    table = np.zeros((rows, columns) if in_table else (0, 0), np.int64)
    if not (_count_pairs(first, second, table) if in_table else _in_range(first, rows) and _in_range(second, columns)):
        raise ValueError(f"numbers must be 0..{rows - 1} in the target and 0..{columns - 1} in the prediction")
    if in_table:
        of_target, of_predicted = np.nonzero(table)
        return of_target, of_predicted, table[of_target, of_predicted]
    codes, common = np.unique(first.astype(np.int64) * columns + second, return_counts=True)
    return codes // columns, codes % columns, common


def _in_range(numbers: NDArray[np.int32], limit: int) -> bool:
    return bool(numbers.min(initial=0) >= 0 and numbers.max(initial=0) < limit)


def _sum(groups: NDArray[np.int64], counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """The counts [n] of each group, summed: [total]; exact, as pixels are far below 2**53."""
    return np.bincount(groups, counts, total).astype(np.int64)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and nan where whole is 0."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


@numba.njit(cache=True, nogil=True)
def _count_pairs(first: NDArray[np.int32], second: NDArray[np.int32], table: NDArray[np.int64]) -> bool:
    """Add every pixel to the cell of its two numbers; False where one has none.

    Maps are runs of equal pairs, of which each is one addition; its end is looked for in steps of vectors, then singly.
    Indices are unsigned, as Numba asks of each signed one whether it counts from the end.
    """
    rows, columns = table.shape
    start, size, one, step = np.uint64(0), np.uint64(first.size), np.uint64(1), np.uint64(_STEP)
    while start < size:
        row, column = first[start], second[start]
        if not (0 <= row < rows and 0 <= column < columns):
            return False
        end, equal = start + one, True
        while equal and end + step <= size:
            for k in range(_STEP):
                equal &= (first[end + np.uint64(k)] == row) & (second[end + np.uint64(k)] == column)
            if equal:
                end += step
        while end < size and first[end] == row and second[end] == column:
            end += one
        table[row, column] += np.int64(end - start)
        start = end
    return True
