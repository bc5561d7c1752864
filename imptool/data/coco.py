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

from imptool.data.coco_forms import Row, is_box, is_count, is_finite, number, numbers, refer, text_ids, unify
from imptool.data.components import Instances, find_components, join
from imptool.data.segmentation import compressed_rle, covers_nothing, is_thin, parse_segmentation, rings_of
from imptool.files import JSON_FILE, InputError, read_bytes, write_json

MOST_PIXELS = 2**32 - 1  # of an image, as an RLE counts them

# What this program reads of each list; `bbox`, `area`, `iscrowd`, `info` and `licenses` are often left out by others.
_NEEDED_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "segmentation"),
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
        The document as it stands in the file, with its ids, sizes and flags in COCO's forms (`unify`).
    Raises:
        InputError: one line with the file's name, for a file that is missing, no JSON or no COCO object; for a list,
            key or value that is missing or of the wrong kind; for the id of an image or a category given twice; for one
            that the file does not list; for a segmentation that does not fit its image.
    """
    return _read_checked(path, boxes_alone=False)


def read_results(path: Path, document: Mapping[str, Any]) -> list[Row]:
    """Read COCO results (a list of detections) for the images and categories of a COCO document.

    Returns:
        The rows, each with image_id, category_id, score, and bbox (xywh) or segmentation or both; ids as in the document.
    Raises:
        InputError: one line with the file's name and the first row that cannot be used, and why.
    """
    rows = read_json(path)
    try:
        if not isinstance(rows, list):
            raise ValueError(f"holds a {type(rows).__name__}; COCO results are a list of detections")
        sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        category_ids = {category["id"] for category in document["categories"]}
        texts = {"image_id": text_ids(document["images"]), "category_id": text_ids(document["categories"])}
        for place, row in enumerate(rows):
            try:
                _unify_result(row, texts)
                _check_result(row, sizes, category_ids)
            except ValueError as error:
                raise ValueError(f"result [{place}] {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return rows


def read_truth(path: Path) -> Row:
    """Read a COCO file to hold results against, with its own boxes and areas where it has them; raises as `read_coco`.

    An annotation may have a box alone: it has no `segmentation` then. Images of one name get their ids into their names, by
    which they are told apart.
    """
    document = _read_checked(path, boxes_alone=True)
    often = Counter(image["file_name"] for image in document["images"])
    for image in document["images"]:
        if often[image["file_name"]] > 1:
            image["file_name"] += f" (image {image['id']})"
    for row in document["annotations"]:
        for key in ("bbox", "area"):
            if row.get(key) is None:
                row.pop(key, None)
        if not (is_box(row.get("bbox", [0, 0, 0, 0])) and is_finite(row.get("area", 0))):
            raise InputError(f"{path}: annotation {row['id']} has a bbox or area that is no number; correct or remove it")
    return document


def _read_checked(path: Path, *, boxes_alone: bool) -> Row:
    document = read_json(path)
    try:
        if isinstance(document, dict):
            unify(document)
        _check_document(document, boxes_alone=boxes_alone)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return document


def read_json(path: Path) -> Any:
    """What a JSON file holds; InputError when it cannot be read."""
    try:
        return json.loads(read_bytes(path, JSON_FILE))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a COCO JSON file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give the path of a COCO JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}; give a COCO JSON file, or make this one again") from error


def decode_masks(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The masks of one image's annotations.

    Args:
        annotations: COCO dicts with `segmentation`, as `parse_segmentation` takes it.
        size: (H, W) of the image.
    Returns:
        [N, H, W] uint8, 1 in the instance.
    Raises:
        ValueError: a segmentation has none of COCO's forms, or not the size of the image.
    """
    masks = np.zeros((len(annotations), *size), np.uint8)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[:] = coco_mask.decode(compressed_rle(annotation["segmentation"], size))
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
    rles = [compressed_rle(annotation["segmentation"], size) for annotation in annotations]
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
    """Every instance split into its connected components; none of them is a crowd."""
    parts = []
    for class_id, rle in zip(instances.class_ids, instances.rles, strict=True):
        mask = coco_mask.decode({"size": instances.size, "counts": rle})
        found = find_components(mask, skip=[0], connectivity=connectivity)
        parts.append(replace(found, class_ids=np.full(len(found.rles), class_id)))
    return join(parts, instances.size)


def crowds_outside(
    regions: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> Instances:
    """What regions cover of an image where no annotation does, each as a crowd; one of which nothing is left is left out."""
    covered, free = covered_by(annotations, size), []
    for region in regions:
        mask = coco_mask.decode(compressed_rle(region["segmentation"], size))
        mask[covered] = 0
        if mask.any():
            free.append({**region, "segmentation": coco_mask.encode(mask), "iscrowd": 1})
    return instances_of(free, size)


def covered_by(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[H, W], True where one of the annotations is."""
    rles = [compressed_rle(annotation["segmentation"], size) for annotation in annotations]
    return coco_mask.decode(coco_mask.merge(rles)) == 1 if rles else np.zeros(size, np.bool_)


def _unify_result(row: Any, texts: Mapping[str, Mapping[str, int]]) -> None:
    """Put a result into COCO's forms, in place; a box or mask that is null, or a mask of nothing beside a box, is left out."""
    if not isinstance(row, dict):
        return
    for key, ids in texts.items():
        refer(row, key, ids)
    for key, change in (("score", number), ("bbox", numbers)):
        if key in row:
            row[key] = change(row[key])
    for key in ("bbox", "segmentation"):
        if row.get(key) is None:
            row.pop(key, None)
    if has_box_alone(row):
        row.pop("segmentation", None)


def _check_result(row: Any, sizes: Mapping[int, tuple[int, int]], category_ids: Collection[int]) -> None:
    if not isinstance(row, dict) or not {"image_id", "category_id", "score"} <= row.keys():
        raise ValueError("is no detection with image_id, category_id and score")
    for key, known in (("image_id", sizes), ("category_id", category_ids)):
        if not is_count(row[key]) or row[key] not in known:
            raise ValueError(f"has the {key} {row[key]!r}, which the ground truth does not have")
    if not is_finite(row["score"]):
        raise ValueError(f"has the score {row['score']!r}: write a finite number")
    if "bbox" not in row and "segmentation" not in row:
        raise ValueError("has neither bbox nor segmentation")
    if not is_box(row.get("bbox", [0, 0, 0, 0])):
        raise ValueError(f"has the bbox {row['bbox']!r}: write x, y, width, height")
    if "segmentation" in row:
        parse_segmentation(row["segmentation"], sizes[row["image_id"]])


def _check_document(document: Any, *, boxes_alone: bool) -> None:
    if not isinstance(document, dict):
        kind = type(document).__name__
        raise ValueError(f"holds a {kind}; a COCO file is an object with {', '.join(_NEEDED_KEYS)}")
    for section, keys in _NEEDED_KEYS.items():
        if not isinstance(document.get(section), list):
            raise ValueError(f"has no list '{section}'; a COCO file is an object with {', '.join(_NEEDED_KEYS)}")
        needed = tuple(key for key in keys if not (boxes_alone and key == "segmentation"))
        _check_rows(section, document[section], needed)

    for section, key in (("images", "file_name"), ("categories", "name")):
        for row in document[section]:
            if not isinstance(row[key], str):
                raise ValueError(f"{section}: {row['id']} has the {key} {row[key]!r}; write it as text")
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for image_id, size in sizes.items():
        if not all(is_count(side) and side > 0 for side in size):
            raise ValueError(
                f"image {image_id} is {size[0]!r:.20} x {size[1]!r:.20}; height and width must be whole numbers above 0"
            )
        if max(size) > MOST_PIXELS or math.prod(size) > MOST_PIXELS:
            raise ValueError(f"image {image_id} is larger than {MOST_PIXELS:,} pixels; correct its height and width")
    category_ids = {category["id"] for category in document["categories"]}
    for place, annotation in enumerate(document["annotations"]):
        if not is_count(annotation.get("id")):
            annotation["id"] = place
        name = f"annotation {annotation['id']}"
        for key, known, section in (("image_id", sizes, "images"), ("category_id", category_ids, "categories")):
            # The type first: a list or null would break the look-up, and true equals 1.
            if not is_count(annotation[key]) or annotation[key] not in known:
                raise ValueError(
                    f"{name} has the {key} {annotation[key]!r}, which '{section}' does not list; add or correct it"
                )
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise ValueError(f"{name} has the iscrowd {annotation['iscrowd']!r}; write 0 or 1, or leave it out")
        if boxes_alone and has_box_alone(annotation):
            annotation.pop("segmentation", None)
            continue
        size = sizes[annotation["image_id"]]
        try:
            parsed = parse_segmentation(annotation.get("segmentation"), size)
            if boxes_alone and is_box(annotation.get("bbox")) and covers_nothing(parsed, size):
                del annotation["segmentation"]
        except ValueError as error:
            raise ValueError(f"{name}: {error}; correct or remove it") from error


def has_box_alone(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation has a box and nothing that could be a mask: no segmentation, null, or rings without an inside."""
    segmentation = annotation.get("segmentation")
    empty = segmentation is None or (isinstance(segmentation, list) and all(map(is_thin, rings_of(segmentation))))
    return empty and is_box(annotation.get("bbox"))


def _check_rows(section: str, rows: list[Any], keys: tuple[str, ...]) -> None:
    seen = set()
    for place, row in enumerate(rows):
        missing = [key for key in keys if key not in row] if isinstance(row, dict) else list(keys)
        if missing:
            raise ValueError(f"{section}[{place}] has no {', '.join(missing)}; add what is missing")
        if section == "annotations":
            continue  # other files number these as they like, and nothing rests on it
        if not is_count(row["id"]):
            raise ValueError(f"{section}[{place}] has the id {row['id']!r}; ids must be whole numbers >= 0")
        if row["id"] in seen:
            raise ValueError(f"the id {row['id']} stands twice in '{section}'; give each its own")
        seen.add(row["id"])
