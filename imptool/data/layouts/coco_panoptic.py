"""`coco-panoptic`: PNGs of segment ids beside COCO's panoptic JSON; every segment is an instance, crowds as such.

Kirillov et al.: Panoptic Segmentation (CVPR 2019). A pixel's segment is R + 256 G + 65536 B, 0 is void and becomes ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from imptool.data.coco import read_json
from imptool.data.coco_forms import Row
from imptool.data.components import Instances, find_regions
from imptool.data.images import path_under, read_colours
from imptool.data.label_set import ClassInfo
from imptool.data.layouts.coco import background_of, image_rows, is_id, names_by_id, read_classes, read_lists, same_classes
from imptool.data.layouts.coco_files import annotation_files, photo_root, stem_under, with_photographs
from imptool.data.layouts.names import match_names
from imptool.data.layouts.pairs import Found, Item, Where, folder_of_split, free_id, label_maps, safe_path
from imptool.files import InputError

KEYS = frozenset({"photographs", "labels", "annotations"})


def find_items(root: Path, where: Where) -> Found:
    """Every annotation of the JSON files; `images` and `categories` may be missing, as in converted Cityscapes."""
    classes: list[ClassInfo] = []
    found: dict[str, tuple[Path, list[Item]]] = {}
    notes: list[str] = []
    for split, path in annotation_files(root, where, "panoptic_").items():
        whole = read_json(path)
        sections = [name for name in ("images", "categories") if isinstance(whole, dict) and name in whole]
        document: dict[str, list[Any]] = {"images": [], "categories": []} | read_lists(path, ["annotations", *sections])
        given = document["categories"] or _categories_that_occur(document["annotations"])
        classes = same_classes(classes, read_classes(given, path), path)
        folder = _png_folder(path, root, folder_of_split(where.labels, split))
        pngs = _find_pngs(document["annotations"], path, folder)
        photos = photo_root(root, where, split, path, document["images"], besides=set(pngs.values()))
        items = _items_of(document, path, photos, folder, pngs, classes)
        found[split] = photos, items
        notes += _bare_images(document["images"], items, path)
    void = free_id({info.id for info in classes})
    items, splits = with_photographs(found)
    return Found(items, classes, background_of(classes), splits, void=void, notes=tuple(notes))


def _bare_images(rows: Sequence[Any], found: Sequence[Item], path: Path) -> list[str]:
    shown = {item.image_id for item in found}
    ids = [row["id"] for row in rows if isinstance(row, dict) and is_id(row.get("id"), 2**63)]
    bare = [image_id for image_id in ids if image_id not in shown]
    return [f"{path}: images without a usable annotation: {len(bare)}, such as {bare[0]}; left out"] if bare else []


def _categories_that_occur(annotations: Sequence[Any]) -> list[Row]:
    rows = [row for row in annotations if isinstance(row, dict) and isinstance(row.get("segments_info"), list)]
    segments = [segment for row in rows for segment in row["segments_info"] if isinstance(segment, dict)]
    ids = {segment["category_id"] for segment in segments if is_id(segment.get("category_id"))}
    return [{"id": number, "name": f"class {number}"} for number in sorted(ids)]


def _items_of(
    document: dict[str, list[Any]],
    path: Path,
    photos: Path,
    folder: Path,
    pngs: dict[Path, Path],
    classes: Sequence[ClassInfo],
) -> list[Item]:
    rows = list(image_rows(document["images"], path, photos))
    images = {image_id: (size, item) for image_id, size, item in rows if image_id is not None}
    void = free_id({info.id for info in classes})
    listed, drawn = names_by_id(document["images"], "id"), names_by_id(document["annotations"], "image_id")
    items = [item for image_id, _, item in rows if image_id is None]  # bad rows, each with its problem
    for place, row in enumerate(document["annotations"]):
        name = f"{path}: annotations[{place}]"
        image_id = row.get("image_id") if isinstance(row, dict) else None
        try:
            stated = safe_path(folder, row.get("file_name") if isinstance(row, dict) else None)
            segments = _check_segments(row, {info.id for info in classes})
            for names in (listed.get(image_id, ()), drawn.get(image_id, ())) if is_id(image_id, highest=2**63) else ():
                if len(names) > 1:
                    files = " and ".join(sorted(names)[:2])
                    raise ValueError(f"has the image_id {image_id}, which stands for {files}: neither is used")
        except ValueError as error:
            items.append(Item(f"annotations[{place}] of {path.name}", path, path, f"{name} {error}", problem_kind="annotation"))
            continue
        label, stem = pngs[stated], stem_under(folder, stated)
        unknown = None, Item(stem, photos / f"{stem}.jpg", label)
        size, item = images.get(image_id, unknown) if is_id(image_id, highest=2**63) else unknown
        problem = item.problem or ("" if label.is_file() else f"{name}: {label} does not exist")
        items.append(
            replace(
                item,
                label=label,
                problem=problem,
                read_map=partial(_read_map, label, path, segments, void),
                read_instances=partial(_read_instances, label, path, segments),
                more_labels=(path,),
                contradictions=partial(_contradictions, label, path, size, row["segments_info"]),
            )
        )
    return items


def _png_folder(path: Path, root: Path, named: str | None) -> Path:
    """The folder of the PNGs: as the description says, else that of the JSON's own name beside it, else the JSON's."""
    if named is not None:
        return root / named
    return path.with_suffix("") if path.with_suffix("").is_dir() else path.parent


def _find_pngs(rows: Sequence[Any], path: Path, folder: Path) -> dict[Path, Path]:
    """{PNG as the JSON states it: PNG on disk}, the same where there is none; InputError when none of them is there."""
    pngs: dict[Path, Path] = {}
    for row in rows:
        try:
            stated = safe_path(folder, row.get("file_name") if isinstance(row, dict) else None)
        except ValueError:  # told when its row is read
            continue
        pngs[stated] = stated
    missing = {path_under(folder, png): png for png in pngs if not png.is_file()}
    if not missing:
        return pngs
    there = [png for png in (label_maps(folder).values() if folder.is_dir() else ()) if png not in pngs]
    found = match_names(missing, [path_under(folder, png) for png in there]).found
    if len(missing) == len(pngs) and not found:
        instead = f"there is {there[0]}" if there else f"{folder} holds no PNG"
        raise InputError(
            f"none of the label PNGs that {path} lists was found: expected {next(iter(pngs))}, {instead}; "
            "a dataset YAML names their folder (labels: folder)"
        )
    return pngs | {missing[name]: folder / place for name, place in found.items()}


def _check_segments(row: Row, known: set[int]) -> dict[int, tuple[int, bool]]:
    """Segment id -> (class id, crowd); ValueError when one of them is none."""
    rows = row.get("segments_info")
    if not isinstance(rows, list):
        raise ValueError("has no list 'segments_info'")
    segments = {}
    for segment in rows:
        if not isinstance(segment, dict) or not is_id(segment.get("id"), highest=2**24 - 1) or segment["id"] == 0:
            raise ValueError("has a segment without an id from 1 to 16777215")
        if segment["id"] in segments:
            raise ValueError(f"lists the segment {segment['id']} twice")
        if not is_id(segment.get("category_id")) or segment["category_id"] not in known:
            raise ValueError(f"has a segment of category {segment.get('category_id')!r}, which 'categories' does not list")
        segments[segment["id"]] = (segment["category_id"], segment.get("iscrowd") in (1, True))
    return segments


def _read_map(label: Path, path: Path, segments: dict[int, tuple[int, bool]], void: int, max_pixels: int) -> np.ndarray:
    codes = read_colours(label, max_pixels=max_pixels)
    ids = np.array([0, *sorted(segments)], np.int32)
    place = np.minimum(np.searchsorted(ids, codes), len(ids) - 1)
    strange = ids[place] != codes
    if strange.any():
        raise InputError(
            f"{label} holds the segment {int(codes[strange][0])}, which {path} does not list", kind="contradiction"
        )
    classes = np.array([void, *(segments[number][0] for number in sorted(segments))])
    return classes.astype(np.uint8 if classes.max() <= 255 else np.uint16)[place]


def _read_instances(label: Path, path: Path, segments: dict[int, tuple[int, bool]], max_pixels: int) -> Instances:
    """A segment each, of things and of other classes."""
    found = find_regions(read_colours(label, max_pixels=max_pixels), skip=[0])
    numbers = found.class_ids.tolist()
    strange = [number for number in numbers if number not in segments]
    if strange:
        raise InputError(f"{label} holds the segment {strange[0]}, which {path} does not list", kind="contradiction")
    class_ids = np.array([segments[number][0] for number in numbers], np.int64)
    return replace(found, class_ids=class_ids, crowd=np.array([segments[number][1] for number in numbers], np.bool_))


def _contradictions(label: Path, path: Path, size: tuple[int, int] | None, rows: Sequence[Row], max_pixels: int) -> list[str]:
    """Segments that the PNG does not have, or has with another area or box; and another (height, width) of the image."""
    found = find_regions(read_colours(label, max_pixels=max_pixels), skip=[0])
    place = {number: row for row, number in enumerate(found.class_ids.tolist())}
    lines = []
    if size not in (None, found.size):
        lines.append(f"{path}: the image is {size} by its row, {found.size} in {label} (height, width)")
    for segment in rows:
        name = f"{path}: segment {segment['id']}"
        if segment["id"] not in place:
            lines.append(f"{name} has no pixel in {label}")
            continue
        area, box = int(found.areas[place[segment["id"]]]), found.boxes[place[segment["id"]]].tolist()
        if segment.get("area") not in (None, area):
            lines.append(f"{name} says area {segment['area']}, {label} has {area} pixels of it")
        if segment.get("bbox") not in (None, box):
            lines.append(f"{name} says bbox {segment['bbox']}, in {label} it is {box}")
    return lines
