"""Images -> lines of an export: instances as COCO JSON, panoptic PNGs or semantic PNGs, a block of images at a time.

A block is what one process converts and what a stopped conversion keeps. Its lines are JSON rows as they will stand in the
result, so that nothing is parsed again and memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from imptool.data.coco import annotations_of
from imptool.data.components import Instances, find_regions
from imptool.data.dataset import Dataset
from imptool.data.images import write_colours, write_label_map
from imptool.data.label_set import LabelSet
from imptool.data.layouts import Item
from imptool.data.panoptic import Segments, panoptic_truth
from imptool.data.polygons import rings_of_mask, simplify_rings
from imptool.files import JSON_FILE, PICTURE_FILE, InputError, sha256_of
from imptool.journal import checksum

SMALL = 16  # px: what a component under it may be a slip of the annotator's
NUMBERLESS = '"id":0,'  # stands in an instance's annotation until all before it are counted

Row = dict[str, Any]


@dataclass(frozen=True)
class Export:
    """What is made of each image."""

    format: str = "coco"
    segmentation: str = "rle"  # or polygon
    simplify: float = 0.0  # px that a polygon's outline may move
    components: bool = False  # part true instances, too
    connectivity: int = 8
    min_area: int = 1


@dataclass
class Tally:
    """What a person should know about converted images; adds up over blocks."""

    photographs: int = 0
    instances: Counter[str] = field(default_factory=Counter)  # by class id, as text: JSON has no other keys
    area: Counter[str] = field(default_factory=Counter)  # px, by class id
    small: Counter[str] = field(default_factory=Counter)  # instances under `SMALL` px, by class id
    dropped: int = 0  # instances under the smallest area
    hidden: int = 0  # instances of which nothing is seen under others
    crowds: int = 0
    unknown: int = 0  # instances without a mask, of which crowds are written
    wrong_pixels: int = 0  # that simplified polygons lose or add
    failed: list[str] = field(default_factory=list)  # what is wrong with each image that could not be used
    flaws: list[str] = field(default_factory=list)  # what is wrong with annotations of images that could
    left_out: list[str] = field(default_factory=list)  # the images that could not be used
    empty: list[str] = field(default_factory=list)  # stems of images without any instance

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> str:
        return to_json(vars(self))

    @staticmethod
    def from_json(text: str) -> Tally:
        """Raises ValueError when the text is not what `to_json` gave."""
        tally, plain = Tally(), json.loads(text)
        if not isinstance(plain, dict) or plain.keys() != vars(tally).keys():
            raise ValueError("it is no tally")
        for name, value in plain.items():
            value = Counter(value) if isinstance(value, dict) else value
            if type(value) is not type(getattr(tally, name)):
                raise ValueError(f"its {name} is of the type {type(value).__name__}")
            setattr(tally, name, value)
        return tally


@dataclass
class Block:
    """The lines of some images, in order: one for the annotations of each that has any, one for each image."""

    annotations: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # PNG -> checksum
    tally: Tally = field(default_factory=Tally)

    def __add__(self, other: Block) -> Block:
        tally = Tally()
        tally.add(self.tally)
        tally.add(other.tally)
        files = self.files | other.files
        return Block(self.annotations + other.annotations, self.images + other.images, files, tally)


def lost_block(dataset: Dataset, item: Item, why: str) -> Block:
    """What stands for an image that could not be used."""
    return Block(tally=Tally(failed=[why], left_out=[file_name(dataset, item)]))


def convert_block(dataset: Dataset, export: Export, folder: Path, items: Sequence[tuple[int, Item]]) -> Block:
    """Convert images; one that cannot be used is told in the block's tally.

    Args:
        folder: where PNGs are written, for the formats that have any.
        items: (image id, item) each.
    """
    block = Block()
    for image_id, item in items:
        try:
            _convert_item(block, dataset, export, folder, image_id, item)
            if export.format != "coco":
                block.files[f"{item.stem}.png"] = checksum(folder / f"{item.stem}.png")
        except InputError as error:
            block += lost_block(dataset, item, str(error))
    return block


def _convert_item(block: Block, dataset: Dataset, export: Export, folder: Path, image_id: int, item: Item) -> None:
    tally = block.tally
    if export.format == "semantic":
        if not _fits_a_list(item.stem):
            raise InputError(f"{item.image}: a list of stems cannot hold this name: rename it")
        ids = dataset.read_labels(item)
        write_label_map(folder / f"{item.stem}.png", ids)
        block.images.append(to_json(item.stem))
        _count(tally, item, None)
        return
    found = dataset.read_instances(item, connectivity=export.connectivity, components=export.components)
    large = found.areas >= export.min_area
    tally.dropped += int((~large).sum())
    kept = found if large.all() else found.rows(large)
    if export.format == "panoptic":
        kept, hidden, row = _write_panoptic(dataset, kept, folder, item, image_id)
        block.annotations.append(to_json(row))
        tally.hidden += hidden
    else:
        lines, wrong_pixels = _annotation_lines(kept, image_id, export)
        unknown = dataset.read_unknown(item, found.size)
        block.annotations += lines + _unknown_lines(unknown, image_id)
        tally.unknown += len(unknown.rles)
        tally.wrong_pixels += wrong_pixels
    height, width = found.size
    name = file_name(dataset, item)
    image = {"id": image_id, "file_name": name, "height": height, "width": width, "label_hash": label_hash(item)}
    block.images.append(to_json(image))
    _count(tally, item, kept)
    if not found.rles:
        tally.empty.append(item.stem)


def _fits_a_list(stem: str) -> bool:
    """Whether a line of UTF-8 text is read back as the same name."""
    try:
        stem.encode()
    except UnicodeEncodeError:
        return False
    return stem == stem.strip() and len(f"{stem}.".splitlines()) == 1


def _annotation_lines(instances: Instances, image_id: int, export: Export) -> tuple[list[str], int]:
    """A line with the annotations of an image, if it has any, and the wrong pixels of their polygons."""
    if not instances.rles:
        return [], 0
    if export.segmentation == "rle":
        return [_rle_line(instances, image_id)], 0
    rows = [{**row, "id": 0} for row in annotations_of(instances, image_id=image_id, first_id=0)]
    outlined = [row for row in rows if not row["iscrowd"]]  # a crowd is RLE in all of COCO
    wrong_pixels = sum(_make_polygon(row, export.simplify) for row in outlined)
    return [to_json(rows)[1:-1]], wrong_pixels


def _rle_line(instances: Instances, image_id: int) -> str:
    """What `to_json` makes of `annotations_of`, but for the ids; written out, as half the time beside decoding went there."""
    height, width = instances.size
    columns = instances.areas.tolist(), instances.boxes.tolist(), instances.class_ids.tolist(), instances.crowd.tolist()
    lines = []
    for rle, area, (x, y, w, h), class_id, crowd in zip(instances.rles, *columns, strict=True):
        counts = rle.decode("ascii").replace("\\", "\\\\")  # the only character of RLEs that JSON escapes
        lines.append(
            f'{{"area":{area},"bbox":[{x},{y},{w},{h}],"category_id":{class_id},{NUMBERLESS}"image_id":{image_id},'
            f'"iscrowd":{crowd:d},"segmentation":{{"counts":"{counts}","size":[{height},{width}]}}}}'
        )
    return ",".join(lines)


def _unknown_lines(unknown: Instances, image_id: int) -> list[str]:
    """A line with the crowds of an image that stand for instances without a mask, marked by `ignore`."""
    rows = [{**row, "id": 0, "ignore": 1} for row in annotations_of(unknown, image_id=image_id, first_id=0)]
    return [to_json(rows)[1:-1]] if rows else []


def _count(tally: Tally, item: Item, kept: Instances | None) -> None:
    tally.photographs += 1
    tally.flaws += item.left_out
    if kept is None:
        return
    tally.crowds += int(kept.crowd.sum())
    for class_id, area in zip(kept.class_ids.tolist(), kept.areas.tolist(), strict=True):
        key = str(class_id)
        tally.instances[key] += 1
        tally.area[key] += area
        if area < SMALL:
            tally.small[key] += 1


def _make_polygon(row: Row, tolerance: float) -> int:
    """Put polygons in place of an annotation's RLE; area and box become theirs. Gives the number of wrong pixels."""
    mask = coco_mask.decode(row["segmentation"])
    x, y, width, height = row["bbox"]
    exact = rings_of_mask(mask[y : y + height, x : x + width], offset=(x, y))
    rings = simplify_rings(exact, tolerance)
    row["segmentation"] = rings
    if tolerance == 0:
        return 0
    drawn = coco_mask.merge(coco_mask.frPyObjects(rings, *mask.shape))
    if not coco_mask.area(drawn):  # a sliver that simplifying would lose
        row["segmentation"] = exact
        return 0
    row["area"], row["bbox"] = int(coco_mask.area(drawn)), [int(side) for side in coco_mask.toBbox(drawn)]
    return int((coco_mask.decode(drawn) != mask).sum())


def _write_panoptic(
    dataset: Dataset, instances: Instances, folder: Path, item: Item, image_id: int
) -> tuple[Instances, int, Row]:
    """Write a PNG of segments; what is seen of each, how many things are hidden, and COCO's row.

    A thing is a segment, where the semantic map shows its class and no smaller thing of that class lies above. Each other
    class, and the background, is one segment for the whole image; ignored pixels are void.
    """
    labels = dataset.labels
    truth = panoptic_truth(dataset.read_labels(item), instances, labels)
    found, segments = write_segments(folder / f"{item.stem}.png", truth, labels)
    things = [labels.ids[channel] for channel in labels.things]
    hidden = int(np.isin(instances.class_ids, things).sum()) - int(np.isin(found.class_ids, things).sum())
    return found, hidden, {"image_id": image_id, "file_name": f"{item.stem}.png", "segments_info": segments}


def write_segments(path: Path, segments: Segments, labels: LabelSet) -> tuple[Instances, list[Row]]:
    """Write an image's segments as a PNG of COCO's panoptic format; give them as instances, and their `segments_info`.

    Both are in the order of the segments' numbers.
    """
    seen = find_regions(segments.numbers, skip=[0])
    codes, place = segment_codes(len(seen.rles)), seen.class_ids - 1
    code_of_number = np.zeros(len(segments.channels) + 1, np.int32)
    code_of_number[seen.class_ids] = codes
    write_colours(path, code_of_number[segments.numbers])
    class_ids = np.array(labels.ids, np.int64)[segments.channels[place]]
    found = replace(seen, class_ids=class_ids, crowd=segments.crowd[place])
    rows = annotations_of(found, image_id=0, first_id=0)
    keys = ("category_id", "area", "bbox", "iscrowd")
    return found, [{"id": code} | {key: row[key] for key in keys} for code, row in zip(codes.tolist(), rows, strict=True)]


def segment_codes(count: int) -> np.ndarray:
    """Ids of the segments of one image, 1 to 2**24 - 1: [count] int32, all different and far apart as colours.

    Source:
        Ours: multiples of an odd number modulo 2**24, which do not repeat before 0.
    """
    return (np.arange(1, count + 1) * 0x9E3779 % 2**24).astype(np.int32)


def file_name(dataset: Dataset, item: Item) -> str:
    """An image's name in COCO JSON: its path under the dataset's root, with "/"; of one elsewhere, as it ends."""
    root, path = f"{dataset.root.as_posix()}/", item.image.as_posix()
    inside = path[len(root) :] if path.startswith(root) else path if root == "./" else ""
    if not inside or inside.startswith(("/", "../")) or "/../" in inside:
        return "/".join(item.image.parts[-1 - item.stem.count("/") :])
    return inside


def image_ids(dataset: Dataset) -> dict[str, int]:
    """An id for every image, no two alike in all splits: the source's, else the rank of its stem from 1."""
    items = [item for members in dataset.splits.values() for item in members]
    own = {item.stem: item.image_id for item in items if item.image_id is not None}
    if len(own) == len(items) == len(set(own.values())):
        return own
    return {stem: rank for rank, stem in enumerate(sorted({item.stem for item in items}), start=1)}


def label_hash(item: Item) -> str:
    """Tells the labels of an image from others: by their bytes, as a copy has other times; "" where they cannot be read."""
    try:
        digests = [_digest(path) for path in (item.label, *item.more_labels)]
    except (OSError, InputError):
        return ""
    return digests[0] if len(digests) == 1 else _hash("".join(digests).encode())


def _digest(path: Path) -> str:
    if path.suffix == ".json":  # of many images
        return _digest_json(path, path.stat().st_mtime_ns)
    return sha256_of(path, PICTURE_FILE)[:16]


@lru_cache(maxsize=16)
def _digest_json(path: Path, changed: int) -> str:
    return sha256_of(path, JSON_FILE)[:16]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


_encoder = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))


def to_json(value: Any) -> str:
    """JSON as it stands in results: keys sorted, no blanks; ValueError for NaN, which JSON has not."""
    return _encoder.encode(value)
