"""Average precision of boxes and masks, as COCO defines and pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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


def average_precision(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], *, iou_type: str
) -> dict[str, float | dict[int, float]]:
    """COCO average precision and recall, 0..1.

    Args:
        ground_truth: a COCO document. Missing `iscrowd` is 0; a missing `bbox` or `area` is that of the segmentation.
        results: COCO results, each with image_id, category_id, score and, by iou_type, bbox (xywh) or segmentation.
        iou_type: "bbox" or "segm".
    Returns:
        The keys of `DEFINITIONS`, and "per_class": AP of each category id. nan where there is no ground truth.
    Raises:
        ValueError: another iou_type, or a result names an image or a category that the ground truth does not have.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    _check_ids(ground_truth, results)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = [_instance(item, sizes[item["image_id"]]) for item in ground_truth["annotations"]]
    detections = [_detection(item, sizes[item["image_id"]], iou_type) for item in results]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(ground_truth, annotations), _coco(ground_truth, detections), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures: dict[str, float | dict[int, float]] = dict(
        zip(DEFINITIONS, map(float, _absent_as_nan(evaluation.stats)), strict=True)
    )
    # precision is [threshold, recall, class, area, max detections]; area 0 is all, the last maximum is 100
    per_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    figures["per_class"] = dict(zip(map(int, evaluation.params.catIds), map(float, _absent_as_nan(per_class)), strict=True))
    return figures


def _check_ids(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for key, known in (("image_id", ground_truth["images"]), ("category_id", ground_truth["categories"])):
        strays = {item[key] for item in results} - {entry["id"] for entry in known}
        if strays:
            raise ValueError(f"every {key} of the results must be in the ground truth, got {sorted(strays)[:5]}")


def _instance(annotation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A ground truth annotation with all that pycocotools reads; the caller's is left as it is."""
    instance = {"iscrowd": 0, **annotation}
    if "bbox" not in instance or "area" not in instance:
        mask = _encoded(instance["segmentation"], size)
        instance.setdefault("bbox", rle.toBbox(mask).tolist())
        instance.setdefault("area", float(rle.area(mask)))
    return instance


def _detection(result: dict[str, Any], size: tuple[int, int], iou_type: str) -> dict[str, Any]:
    """A result with the area of what is compared: pycocotools would size a mask by its box where both are given."""
    detection = {**result, "iscrowd": 0}
    if iou_type == "bbox":
        detection["area"] = result["bbox"][2] * result["bbox"][3]
    else:
        detection["segmentation"] = _encoded(result["segmentation"], size)
        detection["area"] = float(rle.area(detection["segmentation"]))
    return detection


def _encoded(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons or RLE of any kind as one compressed RLE."""
    if isinstance(segmentation, list):
        return rle.merge(rle.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, *size)
    return segmentation


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
