"""Confusion matrices of semantic maps, and the figures that come from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

DEFINITIONS = {
    "iou": "Pixels that are class c on both sides, divided by the pixels that are class c on either side; absent from "
    "both sides: not a number; predicted but never present: 0.",
    "accuracy": "Pixels of class c that are predicted as c, divided by the pixels of class c (recall); class absent "
    "from the target: not a number.",
    "miou": "Mean IOU over the foreground classes, leaving out the classes absent from both sides.",
    "miou_with_background": "Mean IOU over all classes, background included, leaving out the classes absent from both sides.",
    "miou_things": "Mean IOU over the thing classes, leaving out the classes absent from both sides.",
    "macc": "Mean accuracy (recall) over the foreground classes, leaving out the classes absent from the target.",
    "macc_with_background": "Mean accuracy (recall) over all classes, background included, leaving out the classes "
    "absent from the target.",
    "macc_things": "Mean accuracy (recall) over the thing classes, leaving out the classes absent from the target.",
    "pixel_accuracy": "Pixels predicted as their class, divided by all counted pixels, background included.",
    "frequency_weighted_iou": "Mean IOU over all classes, background included, each weighted by its pixels in the target.",
}
"""One sentence for every figure. All of them: one confusion matrix summed over the split, without the pixels whose
target is the ignore id."""

SUMMARY = (
    "miou",
    "miou_with_background",
    "miou_things",
    "macc",
    "macc_with_background",
    "macc_things",
    "pixel_accuracy",
    "frequency_weighted_iou",
)
"""What `summarize` gives, in the order to show."""

_STEP = 32  # pixels


def confusion_matrix(predicted: np.ndarray, target: np.ndarray, *, num_classes: int, ignore: int) -> np.ndarray:
    """Count the pixels of each pair (target class, predicted class) in one image; sum the matrices over a split.

    Args:
        predicted: semantic map [H, W], integers in 0..num_classes-1.
        target: semantic map [H, W], integers in 0..num_classes-1 or `ignore`.
        num_classes: C.
        ignore: the id of target pixels that are not counted; outside 0..C-1.
    Returns:
        [C, C] int64: rows are the target's classes, columns the predicted ones.
    Raises:
        ValueError: the maps are not two integer maps of one size, or an id is out of range.
    """
    check_maps(predicted, target, num_classes=num_classes, ignore=ignore)
    counts = np.zeros((num_classes, num_classes), np.int64)
    stray = _count_pairs(predicted.ravel(), target.ravel(), ignore, counts)
    if stray >= 0:
        raise stray_id(predicted, target, int(stray), num_classes=num_classes, ignore=ignore)
    return counts


def tally(confusion: np.ndarray) -> np.ndarray:
    """What the figures need of confusion matrices [..., C, C]: the pixels of each class that are right, predicted, and in
    the target, [..., C, 3]. Tallies are summed over a split as confusion matrices are."""
    return np.stack([np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)], axis=-1)


def class_iou(tallies: np.ndarray) -> np.ndarray:
    """IOU per class [..., C] of tallies [..., C, 3]: nan for a class absent from both sides, 0 for one never present."""
    hits, predicted, target = np.moveaxis(tallies, -1, 0)
    return _ratio(hits, predicted + target - hits)


def class_accuracy(tallies: np.ndarray) -> np.ndarray:
    """Accuracy (recall) per class [..., C]: nan for a class absent from the target."""
    return _ratio(tallies[..., 0], tallies[..., 2])


def pixel_accuracy(tallies: np.ndarray) -> np.ndarray:
    """The share of counted pixels that are predicted right, 0..1 [...]; nan if nothing was counted."""
    return _ratio(tallies[..., 0].sum(-1), tallies[..., 2].sum(-1))


def frequency_weighted_iou(tallies: np.ndarray) -> np.ndarray:
    """IOU weighted by the pixels of each class in the target, 0..1 [...]; nan if nothing was counted."""
    target = tallies[..., 2]
    return _ratio(np.nansum(class_iou(tallies) * target, -1), target.sum(-1))


def class_means(*, foreground: Sequence[int], things: Sequence[int]) -> dict[str, tuple[str, Any]]:
    """Of every mean over classes: the figure that it is the mean of, and the class indices, which a slice may stand for."""
    parts: dict[str, Any] = {
        "": np.asarray(foreground, np.intp),
        "_with_background": slice(None),
        "_things": np.asarray(things, np.intp),
    }
    return {mean + name: (of, part) for mean, of in (("miou", "iou"), ("macc", "accuracy")) for name, part in parts.items()}


def summarize(tallies: np.ndarray, *, foreground: Sequence[int], things: Sequence[int]) -> dict[str, np.ndarray]:
    """The figures of tallies [..., C, 3], each [...], 0..1; `DEFINITIONS` says what each is.

    Args:
        foreground, things: class indices.
    """
    by_class = {"iou": class_iou(tallies), "accuracy": class_accuracy(tallies)}
    means = class_means(foreground=foreground, things=things)
    return {
        **{key: mean_of_present(by_class[of][..., part]) for key, (of, part) in means.items()},
        "pixel_accuracy": pixel_accuracy(tallies),
        "frequency_weighted_iou": frequency_weighted_iou(tallies),
    }


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without the nan values; nan if nothing is left."""
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0).sum(-1), present.sum(-1))


def check_maps(predicted: np.ndarray, target: np.ndarray, *, num_classes: int, ignore: int) -> None:
    """Raise ValueError unless both are integer maps [H, W] of one size and ignore is no class; ids are not read."""
    if predicted.ndim != 2 or predicted.shape != target.shape:
        raise ValueError(f"predicted and target must be [H, W] of one size, got {predicted.shape} and {target.shape}")
    if not (np.issubdtype(predicted.dtype, np.integer) and np.issubdtype(target.dtype, np.integer)):
        raise ValueError(f"predicted and target must hold integers, got {predicted.dtype} and {target.dtype}")
    if 0 <= ignore < num_classes:
        raise ValueError(f"ignore must be outside 0..{num_classes - 1}, got {ignore}")


def stray_id(predicted: np.ndarray, target: np.ndarray, pixel: int, *, num_classes: int, ignore: int) -> ValueError:
    """The error for the flat index of a pixel whose predicted or target id is out of range."""
    row, column = np.unravel_index(pixel, target.shape)
    return ValueError(
        f"predicted ids must be 0..{num_classes - 1} and target ids too or {ignore} (ignore), "
        f"got predicted {predicted[row, column]} and target {target[row, column]} at row {row}, column {column}"
    )


@numba.njit(cache=True, nogil=True)
def _count_pairs(predicted: np.ndarray, target: np.ndarray, ignore: int, counts: np.ndarray) -> int | np.int64:
    """Add every counted pixel to counts; give the flat index of the first stray id, or -1.

    Maps are runs of equal pairs, of which each is one addition; its end is looked for in steps of vectors, then singly.
    Indices are unsigned, as Numba asks of each signed one whether it counts from the end.
    """
    num_classes = counts.shape[0]
    start, size, one, step = np.uint64(0), np.uint64(target.size), np.uint64(1), np.uint64(_STEP)
    while start < size:
        first, second = target[start], predicted[start]
        if not 0 <= second < num_classes or (first != ignore and not 0 <= first < num_classes):
            return np.int64(start)
        end, equal = start + one, True
        while equal and end + step <= size:
            for k in range(_STEP):
                equal &= (target[end + np.uint64(k)] == first) & (predicted[end + np.uint64(k)] == second)
            if equal:
                end += step
        while end < size and target[end] == first and predicted[end] == second:
            end += one
        if first != ignore:
            counts[first, second] += np.int64(end - start)
        start = end
    return -1


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and nan where whole is 0; a number of NumPy's where both are."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)[()]
