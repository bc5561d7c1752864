"""How well each class's own contour is met: boundary F-score (BF) and Boundary IoU, all classes in one pass.

Both are defined on binary masks, one class against the rest, and are computed here from a pair of label maps. Where the
target is ignored, the prediction is ignored too. To erode the label map itself and subtract, as detectron2's evaluator
does, is another figure: the smallest id of each window wins, so of two neighbours the higher has the whole contour, under
the difference of the ids as its class, and all else is class 0.

Sources: Csurka, Larlus, Perronnin, What is a good evaluation measure for semantic segmentation? (BMVC 2013);
Cheng, Girshick, Dollar, Berg, Kirillov, Boundary IoU (CVPR 2021) and its published code.
"""

from __future__ import annotations

import math

import cv2
import numba
import numpy as np

from imptool.metrics.boundary import boundary_pixels
from imptool.metrics.confusion import check_maps, stray_id

DEFINITIONS = {
    "boundary_f": "2PR / (P + R) of a class, where P is the share of its predicted contour pixels within the tolerance "
    "(L2) of one of its target contour pixels, and R the share the other way round, both from counts summed over the "
    "split (Csurka et al. 2013 and MATLAB's bfscore average over images instead). A contour pixel has a 4-neighbour of "
    "another class; ignored pixels and the image border make no contour. No contour on either side: not a number; on one "
    "side only: 0.",
    "boundary_iou": "IOU of a class over the pixels within the width of the contour of its mask, each side's own, from "
    "counts summed over the split: the mask pixels that erosion by a 3x3 square, as often as the width has px, removes. "
    "Outside the image is not the mask, so the image border is contour; ignored pixels neither erode nor count. Absent "
    "from both sides: not a number.",
}

NONE = -1
"""In a map of labels: the pixel is not counted, or is no contour, or is in no band."""


def boundary_f_counts(
    predicted: np.ndarray, target: np.ndarray, *, tolerance: float, num_classes: int, ignore: int
) -> np.ndarray:
    """Count the contour pixels of each class on both sides, and those that the other side has too; sum over a split.

    Args:
        predicted, target, num_classes, ignore: as in `confusion_matrix`.
        tolerance: px, from 0. The time of a pixel that nothing meets grows with its square.
    Returns:
        [C, 4] int64: predicted contour pixels, those within the tolerance of a target contour pixel of the same class,
        target contour pixels, those within the tolerance of a predicted contour pixel of the same class.
    Raises:
        ValueError: as in `confusion_matrix`, or the tolerance is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be px from 0 up, got {tolerance}")
    sides = _counted_labels(predicted, target, num_classes=num_classes, ignore=ignore)
    offsets = _disc(tolerance, target.shape)
    frame = offsets.max(axis=0)  # as wide as the disc, so that no search leaves the map
    contours = [_framed_contours(side, frame) for side in sides]
    steps = offsets @ [contours[0].shape[1], 1]
    counts = np.zeros((num_classes, 4), np.int64)
    _count_met(contours[0].ravel(), contours[1].ravel(), steps, counts[:, :2])
    _count_met(contours[1].ravel(), contours[0].ravel(), steps, counts[:, 2:])
    return counts


def boundary_f(counts: np.ndarray) -> np.ndarray:
    """BF of each class [..., C], 0..1, from counts [..., C, 4]: nan without contour on either side, 0 with one side only."""
    all_predicted, met_predicted, all_target, met_target = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    precision = met_predicted / np.maximum(all_predicted, 1)
    recall = met_target / np.maximum(all_target, 1)
    both = precision + recall
    score = 2 * precision * recall / np.where(both > 0, both, 1)
    return np.where(all_predicted + all_target > 0, score, np.nan)


def boundary_iou_counts(predicted: np.ndarray, target: np.ndarray, *, width: int, num_classes: int, ignore: int) -> np.ndarray:
    """Count the pixels of each class within the width of the contour of their mask; sum over a split.

    Args:
        predicted, target, num_classes, ignore: as in `confusion_matrix`.
        width: px, whole, from 1; the published default is 2 % of the image diagonal, rounded, at least 1.
    Returns:
        [C, 3] int64: pixels in the predicted band, in the target band, in both.
    Raises:
        ValueError: as in `confusion_matrix`, or the width is not whole or below 1.
    """
    if not (width >= 1 and float(width).is_integer()):
        raise ValueError(f"width must be whole px from 1 up, got {width}")
    sides = _counted_labels(predicted, target, num_classes=num_classes, ignore=ignore)
    bands = [_band_labels(side, width=int(width), num_classes=num_classes) for side in sides]
    counts = np.zeros((num_classes, 3), np.int64)
    _count_bands(bands[0].ravel(), bands[1].ravel(), counts)
    return counts


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Boundary IoU of each class [..., C], 0..1, from counts [..., C, 3]: nan for a class absent from both sides."""
    predicted, target, both = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    union = predicted + target - both
    return np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)


def pixels(size: str, shape: tuple[int, int]) -> float:
    """A size in px of an image [H, W], from px ("3") or from a percentage of the image diagonal ("0.75%")."""
    number, percent, rest = size.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if rest or not 0 <= value < math.inf:
        raise ValueError(f"a size must be px or a percentage of the image diagonal, such as 3 or 0.75%, got {size!r}")
    return value / 100 * math.hypot(*shape) if percent else value


def _counted_labels(
    predicted: np.ndarray, target: np.ndarray, *, num_classes: int, ignore: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both maps [H, W] as int32 with NONE where the target is ignored, once maps and ids are found in order."""
    check_maps(predicted, target, num_classes=num_classes, ignore=ignore)
    labels = np.empty((2, *target.shape), np.int32)
    stray = _mask(predicted.ravel(), target.ravel(), ignore, num_classes, labels.reshape(2, -1))
    if stray >= 0:
        raise stray_id(predicted, target, stray, num_classes=num_classes, ignore=ignore)
    return labels[0], labels[1]


def _framed_contours(labels: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The labels at the contour pixels of their own class, NONE elsewhere and in a frame of (rows, columns) around."""
    (rows, columns), (height, width) = frame, labels.shape
    framed = np.full((height + 2 * rows, width + 2 * columns), NONE, np.int32)
    inside = framed[rows : rows + height, columns : columns + width]
    np.copyto(inside, labels, where=boundary_pixels(labels, ignore=NONE))
    return framed


def _band_labels(labels: np.ndarray, *, width: int, num_classes: int) -> np.ndarray:
    """The labels whose square window of `width` px to each side holds another class or leaves the image; NONE elsewhere."""
    height_px, width_px = labels.shape
    inside = np.s_[width : height_px - width, width : width_px - width]
    if labels[inside].size == 0:
        return labels
    kind = np.uint8 if num_classes < 2**8 else np.uint16 if num_classes < 2**16 else np.float64
    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # Ignored pixels hold what loses: the highest value where the lowest is sought, the lowest where the highest is.
    lowest = cv2.erode(np.where(labels == NONE, num_classes, labels).astype(kind), window)
    highest = cv2.dilate(np.maximum(labels, 0).astype(kind), window)
    band = labels.copy()
    band[inside][lowest[inside] == highest[inside]] = NONE
    return band


def _disc(tolerance: float, shape: tuple[int, ...]) -> np.ndarray:
    """The offsets [N, 2] (down, right) of at most the tolerance that an image of this shape has room for, nearest first."""
    reach_down, reach_right = (min(int(tolerance), max(side - 1, 0)) for side in shape)
    down, right = np.mgrid[-reach_down : reach_down + 1, -reach_right : reach_right + 1]
    squared = down**2 + right**2
    # The root of a whole number is rounded as the tolerance is: sqrt(2) holds a diagonal neighbour.
    within = np.sqrt(squared) <= tolerance
    nearest_first = np.argsort(squared[within], kind="stable")
    return np.stack([down[within], right[within]], axis=1)[nearest_first]


@numba.njit(cache=True, nogil=True)
def _mask(predicted: np.ndarray, target: np.ndarray, ignore: int, num_classes: int, labels: np.ndarray) -> int:
    """Write both sides to labels [2, H * W]; give the flat index of the first stray id, or -1."""
    for i in range(target.size):
        counted = target[i] != ignore
        if not 0 <= predicted[i] < num_classes or (counted and not 0 <= target[i] < num_classes):
            return i
        labels[0, i] = predicted[i] if counted else NONE
        labels[1, i] = target[i] if counted else NONE
    return -1


@numba.njit(cache=True, nogil=True)
def _count_met(contours: np.ndarray, others: np.ndarray, steps: np.ndarray, counts: np.ndarray) -> None:
    """Add the contour pixels of each class, and those with one of its others within the steps, to counts [C, 2]."""
    for i in range(contours.size):
        label = contours[i]
        if label == NONE:
            continue
        counts[label, 0] += 1
        for step in steps:
            if others[i + step] == label:
                counts[label, 1] += 1
                break


@numba.njit(cache=True, nogil=True)
def _count_bands(predicted: np.ndarray, target: np.ndarray, counts: np.ndarray) -> None:
    """Add the pixels of each class in the predicted band, the target band and both to counts [C, 3]."""
    for i in range(target.size):
        if predicted[i] != NONE:
            counts[predicted[i], 0] += 1
        if target[i] != NONE:
            counts[target[i], 1] += 1
            if predicted[i] == target[i]:
                counts[target[i], 2] += 1
