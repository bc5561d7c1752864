"""`coco`: instances as polygons or RLE in COCO JSON, one file for each split; the semantic map is drawn from them.

For ModaNet, Fashionpedia, DeepFashion2 and their like: ids may start at 0, `bbox`, `area`, `iscrowd` and `info` may be missing,
boxes and areas are those of the masks. Of an annotation without mask or class the pixels are not known: they are ignored.
Lin et al.: Microsoft COCO (ECCV 2014).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from imptool.data.coco import covered_by, crowds_outside, draw_instances, instances_of, read_json
from imptool.data.coco_forms import Row, is_finite, unify
from imptool.data.components import Instances
from imptool.data.images import check_pixels
from imptool.data.label_set import MAX_ID, ClassInfo
from imptool.data.layouts.coco_files import annotation_files, photo_root, stem_under, with_photographs
from imptool.data.layouts.pairs import BACKGROUND_NAMES, Found, Item, Where, free_id, safe_path
from imptool.data.segmentation import box_ring, covers_nothing, is_thin, parse_segmentation, rings_of
from imptool.files import InputError, is_text

KEYS = frozenset({"photographs", "annotations"})


@dataclass
class _Annotations:
    """What one image has: annotations with class and mask; regions of others; and what is wrong with each, in a line."""

    rows: list[Row] = field(default_factory=list)
    unknown: list[Row] = field(default_factory=list)  # without `category_id` where it is no class
    faults: list[str] = field(default_factory=list)
    boxes: int = 0  # annotations that are a box alone


def find_items(root: Path, where: Where) -> Found:
    """Every image that the JSON files list, with its annotations."""
    classes: list[ClassInfo] = []
    found: dict[str, tuple[Path, list[Item]]] = {}
    notes: list[str] = []
    lost = ""
    for split, path in annotation_files(root, where, "instances_").items():
        document = read_lists(path, ("images", "annotations", "categories"))
        classes = same_classes(classes, read_classes(document["categories"], path), path)
        photos = photo_root(root, where, split, path, document["images"])
        items, more_notes, none_is_left = _items_of(document, path, photos, classes)
        found[split] = photos, items
        notes += more_notes
        lost = lost or none_is_left
    items, splits = with_photographs(found)
    nothing, void = _made_up_ids(classes)
    background = background_of(classes)
    if background is None:
        background = nothing
        classes = [ClassInfo(id=nothing, name="background", thing=False), *classes]
    return Found(
        items,
        classes,
        background,
        splits,
        nothing=nothing,
        void=void if any(item.read_unknown for item in items) else None,  # instances made without it stay good
        notes=tuple(notes),
        lost=lost,
    )


def _made_up_ids(classes: Sequence[ClassInfo]) -> tuple[int, int]:
    """The ids, in the semantic map, of pixels in no instance, and of those of which nobody knows what they show."""
    ids = {info.id for info in classes}
    nothing = free_id(ids)
    return nothing, free_id({*ids, nothing})


def read_lists(path: Path, sections: Sequence[str]) -> dict[str, list[Any]]:
    """The lists of a COCO file, in COCO's forms; a section that is not needed may be missing. InputError for no such file."""
    document = read_json(path)
    way_out = (
        f"; expected COCO's object with {', '.join(sections)}: export it so, or name the files to read in a dataset YAML "
        "(annotations: {train: annotations/instances_train.json})"
    )
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}{way_out}")
    for section in sections:
        if not isinstance(document.get(section), list):
            raise InputError(f"{path}: has no list '{section}'{way_out}")
    unify(document)
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
            f"{path}: its categories are others than those of the files before it: give them as datasets of their own, or name "
            "the files to read in a dataset YAML (annotations: {train: annotations/instances_train.json})"
        )
    return before or classes


def image_rows(rows: Sequence[Any], path: Path, photos: Path) -> Iterator[tuple[int | None, tuple[int, int], Item]]:
    """Each image of a list: id, (height, width) and the item; of a bad row only the item, with its problem.

    Of an id that stands for two files nobody knows which of them its annotations belong to: both are bad.
    """
    names = names_by_id(rows, "id")
    seen: set[int] = set()
    for place, row in enumerate(rows):
        name = f"{path}: images[{place}]"
        try:
            if not isinstance(row, dict) or not is_id(row.get("id"), highest=2**63):
                raise ValueError("has no id that is a whole number >= 0")
            if len(names[row["id"]]) > 1:
                files = " and ".join(sorted(names[row["id"]])[:2])
                raise ValueError(f"has the id {row['id']}, which stands for {files}: neither is used; give each its own")
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
        yield row["id"], (height, width), Item(stem_under(photos, image), image, path, image_id=row["id"])


def names_by_id(rows: Sequence[Any], key: str) -> dict[int, set[str]]:
    """{id: the file names that it stands for}, of all rows with an id under this key."""
    names: dict[int, set[str]] = {}
    for row in rows:
        if isinstance(row, dict) and is_id(row.get(key), highest=2**63):
            names.setdefault(row[key], set()).add(str(row.get("file_name")))
    return names


def _items_of(
    document: dict[str, list[Any]], path: Path, photos: Path, classes: Sequence[ClassInfo]
) -> tuple[list[Item], list[str], str]:
    """The items of a file, what is wrong with annotations that belong to none of them, and why none at all is left, if so."""
    images = list(image_rows(document["images"], path, photos))
    known = {info.id for info in classes}
    sizes = {image_id: size for image_id, size, _ in images if image_id is not None}
    found = {image_id: _Annotations() for image_id in sizes}
    listed = names_by_id(document["images"], "id")
    strangers: dict[str, list[str]] = {}
    unusable = [item.problem for image_id, _, item in images if image_id is None]
    for place, row in enumerate(document["annotations"]):
        image_id = row.get("image_id") if isinstance(row, dict) else None
        if is_id(image_id, highest=2**63) and image_id in sizes:
            _add_annotation(found[image_id], row, known, sizes[image_id], place, path)
            continue
        of = "that cannot be used" if is_id(image_id, highest=2**63) and image_id in listed else "that it does not list"
        strangers.setdefault(of, []).append(_name(row, place))
    notes = [
        f"{path}: {len(names)} annotations of an image {of}, such as {names[0]}: left out" for of, names in strangers.items()
    ]
    twice = [key for key, count in Counter(row["id"] for each in found.values() for row in each.rows).items() if count > 1]
    if twice:
        notes.append(
            f"{path}: annotation ids that stand twice: {len(twice)}, such as {twice[0]}; instances get ids of their own"
        )
    boxes = [each.boxes for each in found.values() if each.boxes]
    if boxes:
        notes.append(
            f"{path}: annotations with a box and no mask: {sum(boxes)}, in {len(boxes)} of {len(found)} images; "
            "the pixels of their boxes are ignored where no mask lies"
        )
    items = [
        item if image_id is None else _with_rows(item, found[image_id], size, _made_up_ids(classes))
        for image_id, size, item in images
    ]
    return items, notes, _none_is_left(document, list(found.values()), strangers, unusable, path)


def _none_is_left(
    document: dict[str, list[Any]],
    found: Sequence[_Annotations],
    strangers: dict[str, list[str]],
    unusable: Sequence[str],
    path: Path,
) -> str:
    """A line when a file has annotations and none of them can be used, else "": its images would be all background."""
    if not document["annotations"] or any(each.rows for each in found):
        return ""
    faults = [fault for each in found for fault in each.faults]
    of, names = next(iter(strangers.items()), ("", [""]))
    if faults:
        first = faults[0].removeprefix(f"{path}: ")
    else:
        why = unusable[0].removeprefix(f"{path}: ") if unusable else ""
        row = document["annotations"][0]  # all are of such images
        image_id = repr(row.get("image_id") if isinstance(row, dict) else None)[:60]
        first = f"{names[0]} is of an image {of} (image_id {image_id})" + (f"; {why}" if why else "")
    return f"{path}: none of its {len(document['annotations'])} annotations can be used; the first: {first}"


def _with_rows(item: Item, found: _Annotations, size: tuple[int, int], made_up: tuple[int, int]) -> Item:
    rows = sorted(found.rows, key=lambda row: row["id"])
    return replace(
        item,
        read_map=partial(_draw_map, rows, found.unknown, size, made_up, item.label),
        read_instances=partial(_read_instances, rows, size, item.label),
        read_unknown=partial(_read_unknown, rows, found.unknown, size, item.label) if found.unknown else None,
        left_out=tuple(found.faults),
        contradictions=partial(_contradictions, rows, size, item.label),
    )


def _draw_map(
    rows: Sequence[Row], unknown: Sequence[Row], size: tuple[int, int], made_up: tuple[int, int], path: Path, max_pixels: int
) -> np.ndarray:
    check_pixels(path, size, max_pixels)
    nothing, void = made_up
    largest = max(nothing, void, *(row["category_id"] for row in rows))
    drawn = draw_instances(rows, size, background=nothing, dtype=np.uint8 if largest <= 255 else np.uint16)
    if unknown:
        drawn[(drawn == nothing) & covered_by(unknown, size)] = void
    return drawn


def _read_instances(rows: Sequence[Row], size: tuple[int, int], path: Path, max_pixels: int) -> Instances:
    check_pixels(path, size, max_pixels)
    return instances_of(rows, size)


def _read_unknown(rows: Sequence[Row], unknown: Sequence[Row], size: tuple[int, int], path: Path, max_pixels: int) -> Instances:
    check_pixels(path, size, max_pixels)
    return crowds_outside([row for row in unknown if "category_id" in row], rows, size)


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
        if is_finite(stated_area) and abs(stated_area - area) > outline:
            lines.append(f"{path}: annotation {row['id']} says area {stated_area:g}, its mask has {area} pixels")
        if _are_four_numbers(stated_box) and area and max(abs(a - b) for a, b in zip(stated_box, box, strict=True)) > 2:
            lines.append(f"{path}: annotation {row['id']} says bbox {stated_box}, its mask has {box}")
    return lines


def _are_four_numbers(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value))


def _name(row: Any, place: int) -> str:
    return (
        f"annotation {row['id']}" if isinstance(row, dict) and is_id(row.get("id"), highest=2**63) else f"annotations[{place}]"
    )


def _add_annotation(found: _Annotations, row: Row, known: set[int], size: tuple[int, int], place: int, path: Path) -> None:
    """Take an annotation for one to use, or for the region of one that is left out; and say what is wrong with it."""
    mask, fault = _parse_mask(row, size)
    category_id, crowd = row.get("category_id"), row.get("iscrowd", 0)
    parsed = {
        "id": row["id"] if is_id(row.get("id"), highest=2**63) else place,
        "segmentation": mask,
        "iscrowd": int(crowd == 1),
        "area": row.get("area"),
        "bbox": row.get("bbox"),
    }
    is_class = is_id(category_id) and category_id in known
    if is_class:
        parsed["category_id"] = category_id
    else:
        fault = f"has the category_id {category_id!r}, which 'categories' does not list: it is left out"
    if mask is None:
        fault += f"; {_add_box(found, parsed, size)}"
    elif not is_class:
        found.unknown.append(parsed)
        fault += "; the pixels of its mask are ignored"
    elif crowd == 1 and row.get("ignore") == 1:  # a box alone, as we write it
        found.unknown.append(parsed)
        found.boxes += 1
    else:
        found.rows.append(parsed)
        if crowd not in (0, 1):
            fault = f"has the iscrowd {crowd!r}, which is taken for 0"
    if fault:
        found.faults.append(f"{path}: {_name(row, place)} {fault}")


def _add_box(found: _Annotations, parsed: Row, size: tuple[int, int]) -> str:
    """Take the box of an annotation without a mask for its region; gives what becomes of its pixels."""
    ring = box_ring(parsed["bbox"], size)
    if ring is None:
        return "its pixels count as background"
    found.unknown.append(parsed | {"segmentation": parse_segmentation([ring], size)})
    found.boxes += 1
    return "the pixels of its box are ignored"


def _parse_mask(row: Row, size: tuple[int, int]) -> tuple[Any, str]:
    """An annotation's segmentation as `parse_segmentation` gives it, or None; and what is wrong with it."""
    segmentation, fault = row.get("segmentation"), ""
    if isinstance(segmentation, list):
        thin = [is_thin(ring) for ring in rings_of(segmentation)]
        if any(thin):
            fault = "has a polygon of fewer than three points, which covers nothing"
        if all(thin):
            return None, f"{fault or 'has no polygon'}: it is left out"
    try:
        mask = parse_segmentation(segmentation, size)
    except ValueError as error:
        return None, f"is left out: {error}"
    if box_ring(row.get("bbox"), size) is not None and covers_nothing(mask, size):
        return None, "has a mask without a pixel: it is left out"
    return mask, fault


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value from a JSON is a text with something in it; a lone surrogate is none."""
    return is_text(value) and bool(value)


def is_id(value: Any, highest: int = MAX_ID) -> TypeGuard[int]:
    """Whether a value from a JSON is a whole number from 0 to `highest`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest
