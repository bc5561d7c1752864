"""What the same prediction is called "mIOU" elsewhere: one figure for each of the conventions in use.

Tools differ in three choices: whether a class absent from the target, or from both sides, is left out or counts 0;
whether background is a class; and whether pixels are summed over the split or IOU is averaged over images.
Each was read from the source of the tool named in `DEFINITIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from imptool.metrics.confusion import class_iou, mean_of_present, tally

DEFINITIONS = {
    "imptool": "imptool's mIOU: mean over the foreground classes of the IOU of pixels summed over the split; a class absent "
    "from both sides is left out, one predicted but never present counts 0.",
    "mmseg": "MMSegmentation (IoUMetric): pixels summed over the split, mean over all classes with background as one of "
    "them; a class absent from both sides is left out, one predicted but never present counts 0.",
    "detectron2": "detectron2 (SemSegEvaluator): pixels summed over the split, mean over the classes present in the target, "
    "background included; a class predicted but never present is left out (in older versions it counted 0, as in mmseg).",
    "schp_lip": "LIP evaluation of CE2P and SCHP (utils/miou.py): pixels summed over the split, mean over all classes, "
    "background included, of hits / max(1, union); every absent class counts 0.",
    "torchvision_references": "torchvision's references/segmentation: pixels summed over the split, plain mean over all "
    "classes, background included; a single class absent from both sides makes it not a number.",
    "torchmetrics": "torchmetrics (segmentation.MeanIoU from 1.7.1): mean over all pairs of image and class with the class "
    "on either side of the image, background included, pixels never summed over images; an image with more classes weighs "
    "more.",
    "torchmetrics_1_7_0": "torchmetrics (segmentation.MeanIoU 1.5.2 to 1.7.0, batches of one size): mean over images of the "
    "mean over all classes, background included; every class absent from both sides of an image counts 0 there.",
    "mean_over_images": "torchmetrics (functional mean_iou from 1.7.1, then averaged): mean over images of the mean IOU over "
    "the classes on either side of that image, background included.",
}
"""One sentence for every key. Ignored pixels leave every count, and so do images without a counted pixel."""


def conventions(confusion: np.ndarray, per_image: Iterable[np.ndarray], *, foreground: Sequence[int]) -> dict[str, float]:
    """The mIOU of one prediction under the convention of each tool, 0..1; `DEFINITIONS` says what each is.

    Args:
        confusion: [C, C], summed over the split: rows are the target's classes, columns the predicted ones.
        per_image: the matrices [C, C] it is the sum of, or blocks of them [b, C, C], gone through once.
        foreground: class indices.
    Raises:
        ValueError: the matrices of the images do not sum to `confusion`.
    """
    confusion = np.asarray(confusion)
    tallies = tally(confusion)
    iou, in_target = class_iou(tallies), tallies[..., 2] > 0
    return {
        "imptool": float(mean_of_present(iou[np.asarray(foreground, np.intp)])),
        "mmseg": float(mean_of_present(iou)),
        "detectron2": float(mean_of_present(iou[in_target])),
        "schp_lip": float(np.nan_to_num(iou).mean()),
        "torchvision_references": float(iou.mean()),
        **_over_images(confusion, per_image),
    }


def _over_images(confusion: np.ndarray, per_image: Iterable[np.ndarray]) -> dict[str, float]:
    """The conventions that take IOU image by image."""
    seen = np.zeros_like(confusion)
    images = pairs = 0
    sum_of_iou = sum_of_means = sum_of_means_with_zeros = 0.0
    for matrices in per_image:
        matrices = np.asarray(matrices).reshape(-1, *confusion.shape)
        seen = seen + matrices.sum(0)
        iou = class_iou(tally(matrices[matrices.any(axis=(-2, -1))]))
        present = np.count_nonzero(~np.isnan(iou), axis=-1)
        total = np.nansum(iou, axis=-1)
        images += len(iou)
        pairs += int(present.sum())
        sum_of_iou += float(total.sum())
        sum_of_means += float((total / present).sum())
        sum_of_means_with_zeros += float(total.sum()) / len(confusion)
    if not np.array_equal(seen, confusion):
        raise ValueError(f"per_image must sum to confusion ({confusion.sum()} pixels), got {seen.sum()} pixels")
    return {
        "torchmetrics": sum_of_iou / pairs if pairs else float("nan"),
        "torchmetrics_1_7_0": sum_of_means_with_zeros / images if images else float("nan"),
        "mean_over_images": sum_of_means / images if images else float("nan"),
    }
