"""Average precision of boxes and masks, as COCO defines and pycocotools computes it; and of resampled splits."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import numba
import numpy as np
import scipy.sparse
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imptool.data.segmentation import compressed_rle
from imptool.files import some
from imptool.metrics.bootstrap import Resampler

DEFINITIONS = {
    "AP": "COCO average precision: mean over the IOU thresholds .50 to .95 in steps of .05 and over the classes with "
    "ground truth, at most 100 detections an image; a class without ground truth: not a number.",
    "AP50": "AP at IOU .50.",
    "AP75": "AP at IOU .75.",
    "APs": "AP of instances smaller than 32^2 px.",
    "APm": "AP of instances from 32^2 to 96^2 px.",
    "APl": "AP of instances larger than 96^2 px.",
    "AR1": "COCO average recall, over the same thresholds and classes, with at most 1 detection an image.",
    "AR10": "Average recall with at most 10 detections an image.",
    "AR100": "Average recall with at most 100 detections an image.",
    "ARs": "AR100 of instances smaller than 32^2 px.",
    "ARm": "AR100 of instances from 32^2 to 96^2 px.",
    "ARl": "AR100 of instances larger than 96^2 px.",
}
"""One sentence for every figure; its keys stand in the order of pycocotools' twelve."""

THRESHOLDS = 10
"""IOU .50 to .95 in steps of .05."""

RECALLS = np.linspace(0, 1, 101)
"""Where precision is read, to the bit as pycocotools has them."""


@dataclass(frozen=True)
class Matches:
    """All that AP is made of: which detections met an instance, at all areas and at most 100 detections an image and class.

    Attributes:
        images: N.
        categories: [K] category ids, increasing.
        image: [D] int32, of each detection the rank of its image.
        category: [D] int32, the rank of its category. Detections stand by category, then by falling score; those of equal
            score in the order of pycocotools, by image id and then as they came.
        score: [D] float64.
        matched: [D] uint16, bit t set: it has an instance, or a crowd, at the t-th threshold.
        ignored: [D] uint16, bit t set: it counts neither as right nor as wrong there (it lies on a crowd).
        instance_image, instance_category, instance_count: [E] int32, how many instances that count (no crowds) an image has
            of a category, where there are any.
    Raises:
        ValueError: the arrays do not fit each other.
    """

    images: int
    categories: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    instance_image: np.ndarray
    instance_category: np.ndarray
    instance_count: np.ndarray

    def __post_init__(self) -> None:
        for names, size in (
            (("image", "category", "score", "matched", "ignored"), len(self.image)),
            (("instance_image", "instance_category", "instance_count"), len(self.instance_image)),
        ):
            shapes = {name: getattr(self, name).shape for name in names}
            if set(shapes.values()) != {(size,)}:
                raise ValueError(f"{', '.join(names)} must be of one length, got {list(shapes.values())}")
        for name, limit in (("image", self.images), ("category", len(self.categories))):
            for ranks in (getattr(self, name), getattr(self, f"instance_{name}")):
                if ranks.min(initial=0) < 0 or ranks.max(initial=-1) >= limit:
                    raise ValueError(f"ranks of {name} must be 0..{limit - 1}, got {ranks.min()}..{ranks.max()}")
        if (np.diff(self.category) < 0).any():
            raise ValueError("the detections must stand by category")

    @property
    def instances(self) -> dict[int, int]:
        """How many instances of each category id count, in all images."""
        counts = np.bincount(self.instance_category, self.instance_count, len(self.categories)).astype(np.int64)
        return dict(zip(self.categories.tolist(), counts.tolist(), strict=True))

    @property
    def together(self) -> np.ndarray:
        """How many images have an instance of both categories: [K, K] int64; of each, on the diagonal."""
        shape = (self.images, len(self.categories))
        ones = np.ones(len(self.instance_image), np.int64)
        has = scipy.sparse.csr_array((ones, (self.instance_image, self.instance_category)), shape=shape)
        return np.asarray((has.T @ has).toarray())

    def renumbered(self, ranks: Sequence[int] | np.ndarray, images: int) -> Matches:
        """The same matches within a larger set of images, of which image i becomes number ranks[i]."""
        table = np.asarray(ranks, np.int32)
        return replace(self, images=images, image=table[self.image], instance_image=table[self.instance_image])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays by name, as `np.savez` takes them."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Matches:
        """What `to_arrays` gave.

        Raises:
            KeyError: an array is missing.
            ValueError: the arrays do not fit each other.
        """
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**{**values, "images": int(values["images"])})


@dataclass(frozen=True)
class AveragePrecision:
    """The figures of one evaluation, 0..1, nan where there is no ground truth.

    Attributes:
        overall: the keys of `DEFINITIONS`.
        per_class: the same keys of every category id.
        matches: what they come from, for `resampled_average_precision`.
    """

    overall: dict[str, float]
    per_class: dict[int, dict[str, float]]
    matches: Matches


def average_precision(ground_truth: dict[str, Any], results: list[dict[str, Any]], *, iou_type: str) -> AveragePrecision:
    """COCO average precision and recall.

    Args:
        ground_truth: a COCO document. Missing `iscrowd` is 0; a missing `bbox` or `area` is that of the segmentation. Where
            boxes are compared, an annotation may have no segmentation; a missing area is then the box's.
        results: COCO results, each with image_id, category_id, score and, by iou_type, bbox (xywh) or segmentation. Where
            boxes are compared, a result without bbox has the box of its mask, as with pycocotools' loadRes.
        iou_type: "bbox" or "segm".
    Returns:
        the figures, and the matches with images in the order of ground_truth["images"].
    Raises:
        ValueError: another iou_type; a result names an image or a category that the ground truth does not have; a score or
            a box is not finite numbers, or a segmentation not of its image's size.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    _check_ids(ground_truth, results)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = [_instance(item, sizes[item["image_id"]], iou_type) for item in ground_truth["annotations"]]
    detections = []
    for number, result in enumerate(results):
        try:
            detections.append(_detection(result, sizes[result["image_id"]], iou_type))
        except ValueError as error:
            raise ValueError(f"result {number} (image_id {result['image_id']}): {error}") from None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(ground_truth, annotations), _coco(ground_truth, detections), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        accumulated = evaluation.eval
        overall = _figures(evaluation, accumulated, slice(None))
        ids = [int(category_id) for category_id in evaluation.params.catIds]
        per_class = {category_id: _figures(evaluation, accumulated, slice(k, k + 1)) for k, category_id in enumerate(ids)}
    return AveragePrecision(overall, per_class, _matches(evaluation, [image["id"] for image in ground_truth["images"]]))


def resampled_average_precision(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AP of splits in which every image occurs as often as its weight says.

    It is what pycocotools gives of the dataset with its images repeated under new ids: the precision of every class,
    threshold and recall to the bit. Their mean differs by rounding (1e-16), as pycocotools adds the values in another
    order. One thing is left out: where two detections of one class and one image share a score, the copies of the first
    come before those of the second.

    Args:
        weights: [b, N] integers >= 0, as from `draw_weights`.
    Returns:
        "AP" and "AP50" of every category, each [b, K]; nan where a category has no instance in the replicate.
    Raises:
        ValueError: weights is not [b, N] integers >= 0.
    """
    num_classes = len(matches.categories)
    count_instances = Resampler(
        matches.instance_image,
        matches.instance_category,
        matches.instance_count,
        images=matches.images,
        num_cells=num_classes,
    )
    instances = count_instances(weights)  # which checks the weights
    # Of all detections only those with an instance or a crowd need a look: between them there are wrong ones alone.
    bits = (matches.matched | matches.ignored)[None] >> np.arange(THRESHOLDS, dtype=np.uint16)[:, None] & 1
    threshold, detection = np.nonzero(bits)
    is_ignored = matches.ignored[detection] >> threshold.astype(np.uint16) & 1 > 0
    place = threshold * num_classes + matches.category[detection]
    precision = np.full((len(weights), THRESHOLDS, num_classes), np.nan)
    _resample(
        np.ascontiguousarray(weights, np.int64),
        instances,
        np.ascontiguousarray(matches.image, np.int32),
        np.searchsorted(matches.category, np.arange(num_classes + 1)),
        detection,
        is_ignored,
        np.searchsorted(place, np.arange(THRESHOLDS * num_classes + 1)),
        RECALLS,
        precision,
    )
    return {"AP": precision.mean(axis=1), "AP50": precision[:, 0]}


@numba.njit(cache=True, nogil=True)
def _resample(
    weights: np.ndarray,
    instances: np.ndarray,
    images: np.ndarray,
    class_starts: np.ndarray,
    events: np.ndarray,
    is_ignored: np.ndarray,
    event_starts: np.ndarray,
    recalls: np.ndarray,
    precision: np.ndarray,
) -> None:
    """Fill precision [b, T, K], the mean over the recalls, where a class has instances.

    Args:
        weights: [b, N]. instances: [b, K], how many the replicate has.
        images: [D]. class_starts: [K + 1], where the detections of each class begin.
        events: [M] detections that are matched or ignored, by threshold and class. event_starts: [T * K + 1].
    """
    num_replicates, num_thresholds, num_classes = precision.shape
    drawn = np.empty(len(images), np.int64)  # detections of the class so far, weighted
    hits, heights = np.empty(len(images), np.int64), np.empty(len(images))
    for replicate in range(num_replicates):
        for k in range(num_classes):
            total = instances[replicate, k]
            if total == 0:
                continue
            so_far = 0
            for detection in range(class_starts[k], class_starts[k + 1]):
                so_far += weights[replicate, images[detection]]
                drawn[detection] = so_far
            for threshold in range(num_thresholds):
                start, end = event_starts[threshold * num_classes + k], event_starts[threshold * num_classes + k + 1]
                found = ignored = count = 0
                for event in range(start, end):
                    detection = events[event]
                    weight = weights[replicate, images[detection]]
                    if is_ignored[event]:
                        ignored += weight
                        continue
                    found += weight
                    hits[count] = found
                    # np.spacing(1), as pycocotools has it
                    heights[count] = found / ((drawn[detection] - ignored) + 2.0**-52)
                    count += 1
                # Precision is the highest at this recall or a higher one. It is highest at a hit, and of the copies of a
                # hit at the last. Each recall reads it at the first hit that reaches it.
                highest = area = 0.0
                recall = len(recalls) - 1
                while recall >= 0 and (count == 0 or recalls[recall] > hits[count - 1] / total):
                    recall -= 1
                for hit in range(count - 1, -1, -1):
                    highest = max(highest, heights[hit])
                    while recall >= 0 and (hit == 0 or recalls[recall] > hits[hit - 1] / total):
                        area += highest
                        recall -= 1
                precision[replicate, threshold, k] = area / len(recalls)


def _figures(evaluation: COCOeval, accumulated: Mapping[str, Any], classes: slice) -> dict[str, float]:
    """pycocotools' twelve figures over some of the classes."""
    # precision is [threshold, recall, class, area, max detections], and recall the same without its recall
    evaluation.eval = {key: accumulated[key][..., classes, :, :] for key in ("precision", "recall")}
    evaluation.summarize()
    return dict(zip(DEFINITIONS, map(float, _absent_as_nan(evaluation.stats)), strict=True))


def _matches(evaluation: COCOeval, image_ids: Sequence[int]) -> Matches:
    """What pycocotools found at all areas, class by class."""
    rank = {image_id: number for number, image_id in enumerate(image_ids)}
    params = evaluation.params
    step = len(params.imgIds)
    parts = []
    for k in range(len(params.catIds)):
        first = k * len(params.areaRng) * step  # by class, area, image; area 0 is all
        found = [entry for entry in evaluation.evalImgs[first : first + step] if entry is not None]
        parts.append(_matches_of_class(found, k, [rank[entry["image_id"]] for entry in found]))
    columns = [np.concatenate(column) for column in zip(_matches_of_class([], 0, []), *parts, strict=True)]
    return Matches(len(image_ids), np.array(params.catIds, np.int64), *columns)


def _matches_of_class(found: list[dict[str, Any]], k: int, images: list[int]) -> list[np.ndarray]:
    """The arrays of `Matches`, from `image` on, of the entries of one class."""
    score = np.concatenate([np.empty(0), *(entry["dtScores"] for entry in found)])
    order = np.argsort(-score, kind="stable")
    ranks = np.array(images, np.int32)
    image = np.repeat(ranks, [len(entry["dtScores"]) for entry in found])
    bits = 2 ** np.arange(THRESHOLDS, dtype=np.uint16)
    flags = []
    for key in ("dtMatches", "dtIgnore"):
        of_thresholds = np.concatenate([np.empty((THRESHOLDS, 0)), *(entry[key] for entry in found)], axis=1)
        flags.append((bits @ (of_thresholds != 0)).astype(np.uint16))
    counts = np.array([np.count_nonzero(entry["gtIgnore"] == 0) for entry in found], np.int32)
    has = counts > 0
    return [
        image[order],
        np.full(len(order), k, np.int32),
        score[order],
        *(flag[order] for flag in flags),
        ranks[has],
        np.full(np.count_nonzero(has), k, np.int32),
        counts[has],
    ]


def _check_ids(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for key, known in (("image_id", ground_truth["images"]), ("category_id", ground_truth["categories"])):
        strays = {item[key] for item in results} - {entry["id"] for entry in known}
        if strays:
            raise ValueError(f"every {key} of the results must be in the ground truth, got {some(sorted(strays))}")


def _instance(annotation: dict[str, Any], size: tuple[int, int], iou_type: str) -> dict[str, Any]:
    """A ground truth annotation with all that pycocotools reads; the caller's is left as it is."""
    instance = {"iscrowd": 0, **annotation}
    if iou_type == "bbox" and "segmentation" not in instance:
        return {"area": instance["bbox"][2] * instance["bbox"][3], **instance}
    if iou_type == "segm" or "bbox" not in instance or "area" not in instance:
        mask = instance["segmentation"] = compressed_rle(instance["segmentation"], size)
        instance.setdefault("bbox", rle.toBbox(mask).tolist())
        instance.setdefault("area", float(rle.area(mask)))
    return instance


def _detection(result: dict[str, Any], size: tuple[int, int], iou_type: str) -> dict[str, Any]:
    """A result with the area of what is compared: pycocotools would size a mask by its box where both are given.

    It would also take scores that are nan, and loop for ever on an RLE that is shorter than its image.
    """
    if not _is_finite(result.get("score")):
        raise ValueError(f"score must be a finite number, got {result.get('score')!r}")
    detection = {**result, "iscrowd": 0}
    if iou_type == "segm" or "bbox" not in result:
        detection["segmentation"] = compressed_rle(result.get("segmentation"), size)
    if iou_type == "segm":
        detection["area"] = float(rle.area(detection["segmentation"]))
        return detection
    box = result["bbox"] if "bbox" in result else rle.toBbox(detection["segmentation"])
    is_row = isinstance(box, list | tuple | np.ndarray) and len(box) == 4
    if not is_row or not all(map(_is_finite, box)) or min(box[2:]) < 0:
        raise ValueError(f"bbox must be four finite numbers x, y, width >= 0, height >= 0, got {box}")
    return {**detection, "bbox": list(box), "area": box[2] * box[3]}


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _coco(ground_truth: dict[str, Any], annotations: Iterable[dict[str, Any]]) -> COCO:
    """An index of annotations. They are numbered from 1: pycocotools takes a match with id 0 for none."""
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def _absent_as_nan(values: np.ndarray) -> np.ndarray:
    """pycocotools writes -1 where there is no ground truth."""
    return np.where(values == -1, np.nan, values)
