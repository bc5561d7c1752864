"""`coco`: instances as polygons or RLE in COCO JSON, one file for each split; the semantic map is drawn from them.

For ModaNet, Fashionpedia, DeepFashion2 and their like: ids may start at 0, `bbox`, `area`, `iscrowd` and `info` may be missing,
boxes and areas are those of the masks. Lin et al.: Microsoft COCO (ECCV 2014).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from imptool.data.coco import draw_instances, instances_of, parse_segmentation, read_json
from imptool.data.components import Instances
from imptool.data.images import check_pixels
from imptool.data.label_set import MAX_ID, ClassInfo
from imptool.data.layouts.pairs import BACKGROUND_NAMES, Found, Item, Where, free_id, photo_folder, safe_path
from imptool.files import InputError

KEYS = frozenset({"photographs", "annotations"})

Row = dict[str, Any]


def find_items(root: Path, where: Where) -> Found:
    """Every image that the JSON files list, with its annotations."""
    classes: list[ClassInfo] = []
    items: list[Item] = []
    splits: dict[str, list[str]] = {}
    notes: list[str] = []
    stems: set[str] = set()
    for split, path in annotation_files(root, where).items():
        document = read_lists(path, ("images", "annotations", "categories"))
        classes = same_classes(classes, read_classes(document["categories"], path), path)
        photos = photo_root(root, where, document["images"])
        found, more_notes = _items_of(document, path, photos, classes)
        items += [once(item, stems) for item in found]
        splits[split] = [item.stem for item in found]
        notes += more_notes
    nothing = free_id({info.id for info in classes})
    background = background_of(classes)
    if background is None:
        background = nothing
        classes = [ClassInfo(id=nothing, name="background", thing=False), *classes]
    return Found(without_photographs(items), classes, background, splits, nothing=nothing, notes=tuple(notes))


def annotation_files(root: Path, where: Where) -> dict[str, Path]:
    """{split: JSON}: those of the description, else all in `annotations/`, else all in the root, named by their stems."""
    if where.annotations is not None:
        try:
            return {split: safe_path(root, name) for split, name in where.annotations.items()}
        except ValueError as error:
            raise InputError(f"annotations: {error}") from error
    for folder in (root / "annotations", root):
        found = sorted(folder.glob("[!.]*.json"))
        if found:
            return {path.stem: path for path in found}
    raise InputError(
        f"{root} has no JSON of annotations: put it there, or name it in a dataset YAML (annotations: {{train: a.json}})"
    )


def read_lists(path: Path, sections: Sequence[str]) -> dict[str, list[Any]]:
    """The lists of a COCO file; a section that is not needed may be missing. InputError when it is no such file."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}; expected an object with {', '.join(sections)}")
    for section in sections:
        if not isinstance(document.get(section), list):
            raise InputError(f"{path}: has no list '{section}'; expected an object with {', '.join(sections)}")
    return {section: document[section] for section in sections}


def read_classes(categories: Sequence[Any], path: Path) -> list[ClassInfo]:
    """The categories as classes: `isthing` where it is stated, else a thing."""
    classes = []
    for place, row in enumerate(categories):
        if not isinstance(row, dict) or not is_id(row.get("id")) or not _is_text(row.get("name")):
            raise InputError(f"{path}: categories[{place}] needs an id from 0 to {MAX_ID} and a name")
        group = row.get("supercategory")
        thing = row.get("isthing", 1) != 0
        classes.append(ClassInfo(id=row["id"], name=row["name"], group=group if _is_text(group) else "", thing=thing))
    return classes


def background_of(classes: Sequence[ClassInfo]) -> int | None:
    """The id of the class that is called so, whatever it is; None when there is none."""
    return next((info.id for info in classes if info.name.lower() in BACKGROUND_NAMES), None)


def same_classes(before: list[ClassInfo], classes: list[ClassInfo], path: Path) -> list[ClassInfo]:
    """InputError when the files of a dataset contradict each other."""
    if before and {info.id: info.name for info in before} != {info.id: info.name for info in classes}:
        raise InputError(
            f"{path}: its categories are others than those of the files before it: give them as datasets of their own"
        )
    return before or classes


def without_photographs(items: list[Item]) -> list[Item]:
    """A photograph that is missing where others are there is a problem; where all are missing the labels stand alone."""
    there = [item.image != item.label and item.image.is_file() for item in items]
    if not any(there):
        return items
    return [
        item if here or item.problem else replace(item, problem=f"{item.image} does not exist, though {item.label} lists it")
        for item, here in zip(items, there, strict=True)
    ]


def image_rows(rows: Sequence[Any], path: Path, photos: Path) -> Iterator[tuple[int | None, tuple[int, int], Item]]:
    """Each image of a list: id, (height, width) and the item; of a bad row only the item, with its problem."""
    seen: set[int] = set()
    for place, row in enumerate(rows):
        name = f"{path}: images[{place}]"
        try:
            if not isinstance(row, dict) or not is_id(row.get("id"), highest=2**63):
                raise ValueError("has no id that is a whole number >= 0")
            if row["id"] in seen:
                raise ValueError(f"has the id {row['id']}, as one before it: give each its own")
            image = safe_path(photos, row.get("file_name"))
            height, width = row.get("height"), row.get("width")
            if not (is_id(height, highest=2**31) and is_id(width, highest=2**31) and height and width):
                raise ValueError(f"is {height!r} x {width!r}: height and width must be whole numbers above 0")
        except ValueError as error:
            yield (
                None,
                (0, 0),
                Item(f"images[{place}] of {path.name}", path, path, f"{name} {error}", problem_kind="annotation"),
            )
            continue
        seen.add(row["id"])
        stem = image.relative_to(photos).with_suffix("").as_posix()
        yield row["id"], (height, width), Item(stem, image, path, image_id=row["id"])


def photo_root(root: Path, where: Where, rows: Sequence[Any]) -> Path:
    """The folder that file names are relative to: images/ or photos/ where they have one of the first, else the root."""
    if where.photographs is not None:
        return photo_folder(root, where)
    names = [row.get("file_name") for row in rows[:50] if isinstance(row, dict)]
    candidates = [root / "images", root / "photos", root]
    return next((folder for folder in candidates if any(_is_there(folder, name) for name in names)), root)


def _is_there(folder: Path, name: Any) -> bool:
    try:
        return safe_path(folder, name).is_file()
    except ValueError:
        return False


def once(item: Item, stems: set[str]) -> Item:
    """An item whose stem was there before has a problem."""
    if item.stem not in stems:
        stems.add(item.stem)
        return item
    return replace(
        item, problem=item.problem or f"{item.label} lists {item.image.name}, whose stem is there twice: keep one of them"
    )


def _items_of(
    document: dict[str, list[Any]], path: Path, photos: Path, classes: Sequence[ClassInfo]
) -> tuple[list[Item], list[str]]:
    """The items of a file, and what is wrong with annotations that belong to none of them."""
    images = list(image_rows(document["images"], path, photos))
    known = {info.id for info in classes}
    sizes = {image_id: size for image_id, size, _ in images if image_id is not None}
    rows: dict[int, list[Row]] = {image_id: [] for image_id in sizes}
    faults: dict[int, list[str]] = {image_id: [] for image_id in sizes}
    strangers = []
    for place, row in enumerate(document["annotations"]):
        name = _name(row, place)
        image_id = row.get("image_id") if isinstance(row, dict) else None
        if not is_id(image_id, highest=2**63) or image_id not in sizes:
            strangers.append(name)
            continue
        parsed, fault = _parse_annotation(row, known, sizes[image_id], place)
        if parsed is not None:
            rows[image_id].append(parsed)
        if fault:
            faults[image_id].append(f"{path}: {name} {fault}")
    notes = []
    if strangers:
        notes.append(
            f"{path}: {len(strangers)} annotations of an image that it does not list, such as {strangers[0]}: left out"
        )
    twice = [key for key, count in Counter(row["id"] for list_ in rows.values() for row in list_).items() if count > 1]
    if twice:
        notes.append(
            f"{path}: annotation ids that stand twice: {len(twice)}, such as {twice[0]}; instances get ids of their own"
        )
    nothing = free_id(known)
    items = [
        item
        if image_id is None
        else _with_rows(item, sorted(rows[image_id], key=lambda row: row["id"]), size, nothing, tuple(faults[image_id]))
        for image_id, size, item in images
    ]
    return items, notes


def _with_rows(item: Item, rows: list[Row], size: tuple[int, int], nothing: int, faults: tuple[str, ...]) -> Item:
    return replace(
        item,
        read_map=partial(_draw_map, rows, size, nothing, item.label),
        read_instances=partial(_read_instances, rows, size, item.label),
        left_out=faults,
        contradictions=partial(_contradictions, rows, size, item.label),
    )


def _draw_map(rows: Sequence[Row], size: tuple[int, int], nothing: int, path: Path, max_pixels: int) -> np.ndarray:
    check_pixels(path, size, max_pixels)
    largest = max(nothing, *(row["category_id"] for row in rows), 0)
    return draw_instances(rows, size, background=nothing, dtype=np.uint8 if largest <= 255 else np.uint16)


def _read_instances(rows: Sequence[Row], size: tuple[int, int], path: Path, max_pixels: int) -> Instances:
    check_pixels(path, size, max_pixels)
    return instances_of(rows, size)


def _contradictions(rows: Sequence[Row], size: tuple[int, int], path: Path, max_pixels: int) -> list[str]:
    check_pixels(path, size, max_pixels)
    return contradictions(rows, size, path)


def contradictions(rows: Sequence[Row], size: tuple[int, int], path: Path) -> list[str]:
    """Areas and boxes that are not those of the masks, by more than an outline between pixels explains: a line for each.

    Args:
        rows: annotations of one image of (height, width), as in a COCO file or as this layout keeps them.
        path: the file, to name it.
    """
    found = instances_of(rows, size)
    lines = []
    for row, area, box in zip(rows, found.areas.tolist(), found.boxes.tolist(), strict=True):
        outline = 2 * (box[2] + box[3]) if isinstance(row["segmentation"], list) else 0
        stated_area, stated_box = row.get("area"), row.get("bbox")
        if is_number(stated_area) and abs(stated_area - area) > outline:
            lines.append(f"{path}: annotation {row['id']} says area {stated_area:g}, its mask has {area} pixels")
        if is_box(stated_box) and area and max(abs(a - b) for a, b in zip(stated_box, box, strict=True)) > 2:
            lines.append(f"{path}: annotation {row['id']} says bbox {stated_box}, its mask has {box}")
    return lines


def is_box(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _name(row: Any, place: int) -> str:
    return (
        f"annotation {row['id']}" if isinstance(row, dict) and is_id(row.get("id"), highest=2**63) else f"annotations[{place}]"
    )


def _parse_annotation(row: Row, known: set[int], size: tuple[int, int], place: int) -> tuple[Row | None, str]:
    """The annotation with what is used of it, or None; and what is wrong with it."""
    category_id = row.get("category_id")
    if not is_id(category_id) or category_id not in known:
        return None, f"has the category_id {category_id!r}, which 'categories' does not list: it is left out"
    segmentation, fault = row.get("segmentation"), ""
    if isinstance(segmentation, list):
        whole = [ring for ring in segmentation if not (isinstance(ring, list) and len(ring) in (0, 2, 4))]
        if len(whole) < len(segmentation):
            fault = "has a polygon of fewer than three points, which covers nothing"
        if not whole:
            return None, f"{fault or 'has no polygon'}: it is left out"
        segmentation = whole
    try:
        parsed = parse_segmentation(segmentation, size)
    except ValueError as error:
        return None, f"is left out: {error}"
    return {
        "id": row["id"] if is_id(row.get("id"), highest=2**63) else place,
        "category_id": category_id,
        "segmentation": parsed,
        "iscrowd": int(row.get("iscrowd") in (1, True)),
        "area": row.get("area"),
        "bbox": row.get("bbox"),
    }, fault


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a JSON is a number that can be; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value from a JSON is a text with something in it; a lone surrogate is none."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= character <= "\udfff" for character in value)


def is_id(value: Any, highest: int = MAX_ID) -> TypeGuard[int]:
    """Whether a value from a JSON is a whole number from 0 to `highest`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest
