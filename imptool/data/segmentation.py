"""One COCO segmentation, in any of its forms, as one compressed RLE, in memory that the image bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from imptool.data.coco_forms import Row, is_box, is_count, numbers, whole
from imptool.data.components import rle_length
from imptool.data.images import MAX_PIXELS

_OUTLINE = 32  # times height + width, px: of longer outlines pycocotools would take more memory than the image itself does
_NESTED = 4  # lists within lists that a segmentation may be wrapped in


def parse_segmentation(segmentation: Any, size: tuple[int, int]) -> Any:
    """Check what pycocotools would read as noise, or take all memory for.

    Args:
        segmentation: an RLE, plain or compressed, or a list of such; or polygons (lists or arrays x, y, x, y, ...), in any of
            the nestings of `rings_of`. A ring of fewer than three points, which covers nothing, is left out beside others.
        size: (H, W) of the image.
    Returns:
        a list of arrays [2 P] float64, or one RLE.
    Raises:
        ValueError: it has none of these forms, or not the size of the image.
    """
    if not isinstance(segmentation, list):
        return _parse_rle(segmentation, size)
    parts = rings_of(segmentation)
    if parts and all(isinstance(part, dict) for part in parts):
        rles = [compressed_rle(part, size) for part in parts]
        return rles[0] if len(rles) == 1 else coco_mask.merge(rles)
    # The memory of a polygon grows with the length of its outline, so a wild coordinate would fill it.
    parsed = [parse_ring(ring, max(size)) for ring in parts if not is_thin(ring)]
    rings = [ring for ring in parsed if ring is not None]
    if not rings or len(rings) < len(parsed):
        raise ValueError("polygons must be lists x, y, x, y, ... of three points or more, in or near the image")
    if all(map(_is_normalised, rings)) and max(size) > 1:
        raise ValueError("the polygons are shares of the image (0 to 1): multiply x by its width and y by its height")
    return rings


def parse_ring(ring: Any, reach: int) -> NDArray[np.float64] | None:
    """A polygon's coordinates [2 P], P >= 3, none of them farther than `reach` px from the image; None when it is no such."""
    if isinstance(ring, np.ndarray):
        return ring  # parsed before
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return None
    if not all(isinstance(value, int | float) for value in ring):
        ring = numbers(ring)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in ring):
        return None
    low, high = min(ring), max(ring)
    return np.array(ring, np.float64) if -reach <= low and high <= 2 * reach and sum(ring) == sum(ring) else None


def _is_normalised(ring: NDArray[np.float64]) -> bool:
    """Whether a ring lies within 0..1, as tools state shares of the image; one of whole numbers is the first pixel's."""
    return bool(ring.min() >= 0 and ring.max() <= 1 and (ring % 1).any())


def _parse_rle(segmentation: Any, size: tuple[int, int]) -> Row:
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str | bytes | list):
        raise ValueError("segmentation must be a list of polygons or an RLE {size, counts}")
    stated, counts = segmentation.get("size"), segmentation["counts"]
    if not isinstance(stated, list | tuple) or [whole(side) for side in stated] != list(size):
        raise ValueError(f"the RLE has the size {stated}, its image {list(size)}")
    if isinstance(counts, list):
        counts = [whole(count) for count in counts]
    length = _counts_length(counts)
    if length != size[0] * size[1]:
        raise ValueError(f"the RLE covers {length} pixels, its image has {size[0] * size[1]}")
    return {"size": list(size), "counts": counts}


def compressed_rle(segmentation: Any, size: tuple[int, int]) -> Row:
    """A segmentation in any form that `parse_segmentation` takes, as one compressed RLE; ValueError as there."""
    segmentation = parse_segmentation(segmentation, size)
    if isinstance(segmentation, list):
        return _draw_rings(segmentation, size)
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def covers_nothing(parsed: Any, size: tuple[int, int]) -> bool:
    """Whether a segmentation, as `parse_segmentation` gives it, has no pixel; one that spans a pixel is taken to have some."""
    if isinstance(parsed, list):
        return not any(_is_wide(ring, size) for ring in parsed) and int(coco_mask.area(compressed_rle(parsed, size))) == 0
    counts = parsed["counts"]
    return not any(counts[1::2]) if isinstance(counts, list) else int(coco_mask.area(parsed)) == 0


def _is_wide(ring: NDArray[np.float64], size: tuple[int, int]) -> bool:
    """Whether a ring spans a pixel or more of the image in both directions."""
    return all(min(side.max(), end) - max(side.min(), 0) >= 1 for side, end in ((ring[1::2], size[0]), (ring[0::2], size[1])))


def _draw_rings(rings: Sequence[NDArray[np.float64]], size: tuple[int, int]) -> Row:
    """Rings, joined, as pycocotools draws them. It takes some 80 bytes a pixel of outline: longer ones are drawn in parts."""
    longest = _OUTLINE * sum(size)
    edges = [_edge_lengths(ring) for ring in rings]
    if sum(lengths.sum() for lengths in edges) <= longest:
        return coco_mask.merge(coco_mask.frPyObjects(rings, *size))
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"its polygons go to and fro in an image of {size[0]}x{size[1]}: simplify them")
    mask = np.zeros(size, np.uint8, order="F")
    for ring, lengths in zip(rings, edges, strict=True):
        mask |= _draw_in_parts(ring, lengths, size, longest)
    return coco_mask.encode(mask)


def _draw_in_parts(
    ring: NDArray[np.float64], lengths: NDArray[np.float64], size: tuple[int, int], longest: int
) -> NDArray[np.uint8]:
    """The mask [H, W] of a ring: what an odd number of its parts covers.

    Inside is where an odd number of edges lies above. A part goes from the first point to some of the others and back: the way
    there is the way back of the part before, so only the ring's own edges count.
    """
    points = ring.reshape(-1, 2)
    mask = np.zeros(size, np.uint8, order="F")
    part_of_edge = np.floor(np.cumsum(lengths[1:-1]) / longest)  # of those that do not meet the first point
    starts = 1 + np.flatnonzero(np.diff(part_of_edge, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(points) - 1], strict=True):
        part = np.concatenate([points[:1], points[start : end + 1]])
        (rle,) = coco_mask.frPyObjects([part.ravel()], *size)
        mask ^= coco_mask.decode(rle)
    return mask


def _edge_lengths(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """The steps in px that each edge takes, the last one back to the first point."""
    points = ring.reshape(-1, 2)
    return np.abs(np.roll(points, -1, axis=0) - points).max(axis=1)


def rings_of(segmentation: list[Any], nested: int = _NESTED) -> list[Any]:
    """The rings x, y, x, y, ... or RLEs of a segmentation, which may be flat, in more lists than needed, or of pairs [x, y]."""
    if segmentation and all(isinstance(part, int | float | str) for part in segmentation):
        return [segmentation]
    if len(segmentation) >= 3 and all(map(_is_pair, segmentation)):
        return [[value for pair in segmentation for value in pair]]
    if not nested or not any(map(_is_wrapped, segmentation)):
        return segmentation
    return [ring for part in segmentation for ring in (rings_of(part, nested - 1) if _is_wrapped(part) else [part])]


def is_thin(ring: Any) -> bool:
    """Whether a ring has fewer than three points, and covers nothing."""
    return isinstance(ring, list) and len(ring) in (0, 2, 4)


def box_ring(box: Any, size: tuple[int, int]) -> list[float] | None:
    """The pixels that a box xywh touches, as a ring x, y, ...; None where it is no box, or touches no pixel of the image."""
    box = numbers(box)
    if not (is_box(box) and min(box[2:]) > 0):
        return None
    (x, y, width, height), (rows, columns) = box, size
    left, top = max(math.floor(x), 0), max(math.floor(y), 0)
    right, bottom = min(math.ceil(x + width), columns), min(math.ceil(y + height), rows)
    return [left, top, right, top, right, bottom, left, bottom] if left < right and top < bottom else None


def _is_pair(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and not isinstance(part[0], list)


def _is_wrapped(part: Any) -> bool:
    if not isinstance(part, list) or not part:
        return False
    return isinstance(part[0], list) or (isinstance(part[0], dict) and "counts" in part[0])


def _counts_length(counts: str | bytes | list[Any]) -> int:
    if isinstance(counts, list):
        if not all(is_count(number) and number < 2**32 for number in counts):
            raise ValueError("the counts of an RLE must be whole numbers >= 0, below 2^32")
        return sum(counts)
    return rle_length(counts.encode() if isinstance(counts, str) else counts)
