"""COCO JSON: written with equal bytes in every run, read with the user's mistakes named, decoded to masks and maps."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pycocotools import mask as coco_mask

from imptool.data.components import Instances, find_components, join, rle_length
from imptool.files import InputError, write_json

Row = dict[str, Any]

# What this program reads of each list; `bbox`, `area`, `iscrowd`, `info` and `licenses` are often left out by others.
_NEEDED_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "segmentation"),
}


def annotations_of(instances: Instances, *, image_id: int, first_id: int) -> list[Row]:
    """One COCO annotation per instance, in the same order, with ids from `first_id` on; ready for JSON."""
    class_ids, areas, boxes = instances.class_ids.tolist(), instances.areas.tolist(), instances.boxes.tolist()
    return [
        {
            "id": first_id + n,
            "image_id": image_id,
            "category_id": class_ids[n],
            "segmentation": {"size": list(instances.size), "counts": rle.decode("ascii")},
            "area": areas[n],
            "bbox": boxes[n],
            "iscrowd": int(instances.crowd[n]),
        }
        for n, rle in enumerate(instances.rles)
    ]


def coco_document(
    *,
    images: list[Row],
    annotations: list[Row],
    categories: list[Row],
    description: str,
    extra_info: Mapping[str, Any] | None = None,
) -> Row:
    """The whole of a COCO file. `info` and `licenses` are always there: readers crash without them.

    Args:
        images: {id, file_name, height, width} each.
        annotations: as `annotations_of` gives them.
        categories: {id, name, supercategory} each.
        description: goes into `info`.
        extra_info: more keys of `info`. No date is added: two runs write equal bytes.
    """
    return {
        "info": {"description": description, **(extra_info or {})},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def write_coco(path: Path, document: Mapping[str, Any]) -> None:
    """Write a COCO document whole, with sorted keys."""
    write_json(path, document)


def read_coco(path: Path) -> Row:
    """Read a COCO file and check all that the rest of the program takes for granted.

    Returns:
        The document as it stands in the file.
    Raises:
        InputError: one line with the file's name, for a file that is missing, no JSON or no COCO object; for a list,
            key or value that is missing or of the wrong kind; for an id given twice; for the id of an image or category
            that the file does not list; for a segmentation that does not fit its image.
    """
    document = read_json(path)
    try:
        _check_document(document)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return document


def read_results(path: Path, document: Mapping[str, Any]) -> list[Row]:
    """Read COCO results (a list of detections) for the images and categories of a COCO document.

    Returns:
        The rows as they stand in the file, each with image_id, category_id, score, and bbox (xywh) or segmentation or both.
    Raises:
        InputError: one line with the file's name and the first row that cannot be used, and why.
    """
    rows = read_json(path)
    try:
        if not isinstance(rows, list):
            raise ValueError(f"holds a {type(rows).__name__}; COCO results are a list of detections")
        sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        category_ids = {category["id"] for category in document["categories"]}
        for place, row in enumerate(rows):
            try:
                _check_result(row, sizes, category_ids)
            except ValueError as error:
                raise ValueError(f"result [{place}] {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return rows


def read_truth(path: Path) -> Row:
    """Read a COCO file to hold results against, with its own boxes and areas where it has them; raises as `read_coco`.

    Images of one name get their ids into their names, by which they are told apart.
    """
    document = read_coco(path)
    often = Counter(image["file_name"] for image in document["images"])
    for image in document["images"]:
        if often[image["file_name"]] > 1:
            image["file_name"] += f" (image {image['id']})"
    for row in document["annotations"]:
        for key in ("bbox", "area"):
            if row.get(key) is None:
                row.pop(key, None)
        if not (_is_box(row.get("bbox", [0, 0, 0, 0])) and _is_finite(row.get("area", 0))):
            raise InputError(f"{path}: annotation {row['id']} has a bbox or area that is no number; correct or remove it")
    return document


def read_json(path: Path) -> Any:
    """What a JSON file holds; InputError when it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a COCO JSON file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give the path of a COCO JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}; give a COCO JSON file, or make this one again") from error


def decode_masks(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The masks of one image's annotations.

    Args:
        annotations: COCO dicts with `segmentation`: compressed or plain RLE, or polygons.
        size: (H, W) of the image.
    Returns:
        [N, H, W] uint8, 1 in the instance.
    Raises:
        ValueError: a segmentation has none of COCO's forms, or not the size of the image.
    """
    masks = np.zeros((len(annotations), *size), np.uint8)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = coco_mask.decode(_compressed_rle(annotation["segmentation"], size))
    return masks


def draw_instances(
    annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], *, background: int, dtype: DTypeLike = np.uint8
) -> NDArray[Any]:
    """Draw one image's instances to a semantic map, larger area first, so that the smaller stay visible.

    Of two equal areas the one with the lower id comes first.

    Args:
        annotations: COCO dicts with `id`, `category_id` and `segmentation`; the area is counted, not read.
        size: (H, W) of the image.
        background: the id of pixels without an instance.
    Returns:
        semantic map [H, W] of `dtype`.
    Raises:
        ValueError: an id does not fit `dtype`, or as `decode_masks`.
    """
    found = instances_of(annotations, size)
    ids = [background, *found.class_ids.tolist()]
    limits = np.iinfo(dtype)
    if min(ids) < limits.min or max(ids) > limits.max:
        raise ValueError(f"class ids must fit {np.dtype(dtype)}, got {min(ids)} to {max(ids)}")
    semantic_map = np.full(size, background, dtype)
    for n in sorted(range(len(found.rles)), key=lambda n: (-found.areas[n], annotations[n]["id"])):
        semantic_map[coco_mask.decode({"size": size, "counts": found.rles[n]}) == 1] = found.class_ids[n]
    return semantic_map


def instances_of(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Instances:
    """One image's annotations as instances, in the same order; areas and boxes are those of the masks.

    Args:
        annotations: COCO dicts with `category_id`, `segmentation` and, where it is one, `iscrowd`.
        size: (H, W) of the image.
    Raises:
        ValueError: as `decode_masks`.
    """
    rles = [_compressed_rle(annotation["segmentation"], size) for annotation in annotations]
    counts = [rle["counts"] if isinstance(rle["counts"], bytes) else rle["counts"].encode() for rle in rles]
    return Instances(
        class_ids=np.array([annotation["category_id"] for annotation in annotations], np.int64),
        areas=coco_mask.area(rles).astype(np.int64) if rles else np.zeros(0, np.int64),
        boxes=coco_mask.toBbox(rles).astype(np.int64) if rles else np.zeros((0, 4), np.int64),
        rles=counts,
        size=size,
        crowd=np.array([annotation.get("iscrowd", 0) == 1 for annotation in annotations], np.bool_),
    )


def split_instances(instances: Instances, connectivity: int) -> Instances:
    """Every instance parted into its connected components; none of them is a crowd."""
    parts = []
    for class_id, rle in zip(instances.class_ids, instances.rles, strict=True):
        mask = coco_mask.decode({"size": instances.size, "counts": rle})
        found = find_components(mask, skip=[0], connectivity=connectivity)
        parts.append(replace(found, class_ids=np.full(len(found.rles), class_id)))
    return join(parts, instances.size)


def parse_segmentation(segmentation: Any, size: tuple[int, int]) -> Any:
    """Check what pycocotools would read as noise, or take all memory for.

    Args:
        segmentation: polygons (lists or arrays x, y, x, y, ...) or an RLE, plain or compressed.
        size: (H, W) of the image.
    Returns:
        a list of arrays [2 P] float64, or the RLE as it is.
    Raises:
        ValueError: it has none of COCO's forms, or not the size of the image.
    """
    if isinstance(segmentation, list):
        # The memory of a polygon grows with the length of its outline, so a wild coordinate would fill it.
        rings = [parse_ring(ring, max(size)) for ring in segmentation]
        if not rings or any(ring is None for ring in rings):
            raise ValueError("polygons must be lists x, y, x, y, ... of three points or more, in or near the image")
        return rings
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str | bytes | list):
        raise ValueError("segmentation must be a list of polygons or an RLE {size, counts}")
    if segmentation.get("size") not in (list(size), tuple(size)):
        raise ValueError(f"the RLE has the size {segmentation.get('size')}, its image {list(size)}")
    length = _counts_length(segmentation["counts"])
    if length != size[0] * size[1]:
        raise ValueError(f"the RLE covers {length} pixels, its image has {size[0] * size[1]}")
    return segmentation


def parse_ring(ring: Any, reach: int) -> NDArray[np.float64] | None:
    """A polygon's coordinates [2 P], P >= 3, none of them farther than `reach` px from the image; None when it is no such."""
    if isinstance(ring, np.ndarray):
        return ring  # parsed before
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in ring):
        return None
    low, high = min(ring), max(ring)
    return np.array(ring, np.float64) if -reach <= low and high <= 2 * reach and sum(ring) == sum(ring) else None


def _compressed_rle(segmentation: Any, size: tuple[int, int]) -> Row:
    """Any of COCO's three forms as compressed RLE."""
    segmentation = parse_segmentation(segmentation, size)
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def _counts_length(counts: str | bytes | list[Any]) -> int:
    if isinstance(counts, list):
        if not all(_is_count(number) and number < 2**32 for number in counts):
            raise ValueError("the counts of an RLE must be whole numbers >= 0, below 2^32")
        return sum(counts)
    return rle_length(counts.encode() if isinstance(counts, str) else counts)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_result(row: Any, sizes: Mapping[int, tuple[int, int]], category_ids: Collection[int]) -> None:
    if not isinstance(row, dict) or not {"image_id", "category_id", "score"} <= row.keys():
        raise ValueError("is no detection with image_id, category_id and score")
    for key, known in (("image_id", sizes), ("category_id", category_ids)):
        if not _is_count(row[key]) or row[key] not in known:
            raise ValueError(f"has the {key} {row[key]!r}, which the ground truth does not have")
    if not _is_finite(row["score"]):
        raise ValueError(f"has the score {row['score']!r}: write a finite number")
    if "bbox" not in row and "segmentation" not in row:
        raise ValueError("has neither bbox nor segmentation")
    if not _is_box(row.get("bbox", [0, 0, 0, 0])):
        raise ValueError(f"has the bbox {row['bbox']!r}: write x, y, width, height")
    if "segmentation" in row:
        parse_segmentation(row["segmentation"], sizes[row["image_id"]])


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value)) and min(value[2:]) >= 0


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _check_document(document: Any) -> None:
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise ValueError(f"holds a {kind}; a COCO file is an object with {', '.join(_NEEDED_KEYS)}")
    for section, keys in _NEEDED_KEYS.items():
        if not isinstance(document.get(section), list):
            raise ValueError(f"has no list '{section}'; a COCO file is an object with {', '.join(_NEEDED_KEYS)}")
        _check_rows(section, document[section], keys)

    for section, key in (("images", "file_name"), ("categories", "name")):
        for row in document[section]:
            if not isinstance(row[key], str):
                raise ValueError(f"{section}: {row['id']} has the {key} {row[key]!r}; write it as text")
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for image_id, size in sizes.items():
        if not all(_is_count(side) and side > 0 for side in size):
            raise ValueError(f"image {image_id} is {size[0]} x {size[1]}; height and width must be whole numbers above 0")
    category_ids = {category["id"] for category in document["categories"]}
    for annotation in document["annotations"]:
        name = f"annotation {annotation['id']}"
        for key, known, section in (("image_id", sizes, "images"), ("category_id", category_ids, "categories")):
            # The type first: a list or null would break the look-up, and true equals 1.
            if not _is_count(annotation[key]) or annotation[key] not in known:
                raise ValueError(
                    f"{name} has the {key} {annotation[key]!r}, which '{section}' does not list; add or correct it"
                )
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise ValueError(f"{name} has the iscrowd {annotation['iscrowd']!r}; write 0 or 1, or leave it out")
        try:
            parse_segmentation(annotation["segmentation"], sizes[annotation["image_id"]])
        except ValueError as error:
            raise ValueError(f"{name}: {error}; correct or remove it") from error


def _check_rows(section: str, rows: list[Any], keys: tuple[str, ...]) -> None:
    seen = set()
    for place, row in enumerate(rows):
        missing = [key for key in keys if key not in row] if isinstance(row, dict) else list(keys)
        if missing:
            raise ValueError(f"{section}[{place}] has no {', '.join(missing)}; add what is missing")
        if not _is_count(row["id"]):
            raise ValueError(f"{section}[{place}] has the id {row['id']!r}; ids must be whole numbers >= 0")
        if row["id"] in seen:
            raise ValueError(f"the id {row['id']} stands twice in '{section}'; give each its own")
        seen.add(row["id"])
