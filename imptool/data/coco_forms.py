"""COCO's forms, from what other tools write in their place: ids, sizes, flags and boxes as text.

What can mean one thing only is put into the form that the rest of the program reads. Anything else stays as it is, and its
reader says what is wrong with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Row = dict[str, Any]

_WHOLE = re.compile(r"\s*(\d{1,18})(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_FLAGS = {"true": 1, "false": 0}


def whole(value: Any) -> Any:
    """7 for "7", 7.0 and "7.0"; anything else as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    found = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else value


def number(value: Any) -> Any:
    """7.5 for "7.5"; anything else as it is."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def numbers(values: Any) -> Any:
    """A list with its texts as numbers, where they are such; anything else as it is."""
    return [number(value) for value in values] if isinstance(values, list) else values


def flag(value: Any) -> Any:
    """1 for "1", 1.0, true and "true", 0 for their opposites and for null; anything else as it is."""
    if value is None or isinstance(value, bool):
        return int(bool(value))
    return _FLAGS.get(value.strip().lower(), whole(value)) if isinstance(value, str) else whole(value)


def unify(document: Mapping[str, Any]) -> None:
    """Put the ids, sizes, flags, areas and boxes of a COCO document into COCO's forms, in place.

    Where the ids of all images, or of all categories, are text and no number (UUIDs, names), they become numbers from 1 on, in
    the order of the texts, so that files with the same ones agree; `id_text` keeps the text.
    """
    image_ids, category_ids = (_number_ids(list(_rows(document.get(section)))) for section in ("images", "categories"))
    for row in _rows(document.get("images")):
        _change(row, "height", whole)
        _change(row, "width", whole)
    for row in _rows(document.get("categories")):
        _change(row, "isthing", lambda value: 1 if value is None else flag(value))
    for row in _rows(document.get("annotations")):
        refer(row, "image_id", image_ids)
        for each in (row, *_rows(row.get("segments_info"))):
            _change(each, "id", whole)
            refer(each, "category_id", category_ids)
            _change(each, "iscrowd", flag)
            _change(each, "ignore", flag)
            _change(each, "area", number)
            _change(each, "bbox", numbers)


def text_ids(rows: list[Row]) -> dict[str, int]:
    """{text: number} of the ids that `unify` has put a number in the place of."""
    return {row["id_text"]: row["id"] for row in rows if isinstance(row.get("id_text"), str)}


def refer(row: Row, key: str, ids: Mapping[str, int]) -> None:
    """Put the id that a row refers to into the form that the id itself has got."""
    value = whole(row.get(key))
    if key in row:
        row[key] = ids.get(value, value) if isinstance(value, str) else value


def is_count(value: Any) -> bool:
    """Whether a value is a whole number >= 0; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_box(value: Any) -> bool:
    """Whether a value is x, y, width >= 0, height >= 0, all finite."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_finite, value)) and min(value[2:]) >= 0


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _rows(section: Any) -> Iterator[Row]:
    return (row for row in section if isinstance(row, dict)) if isinstance(section, list) else iter(())


def _change(row: Row, key: str, change: Callable[[Any], Any]) -> None:
    if key in row:
        row[key] = change(row[key])


def _number_ids(rows: list[Row]) -> dict[str, int]:
    """{text: number} where all ids of a list are text and no number."""
    for row in rows:
        _change(row, "id", whole)
    texts = [row["id"] for row in rows if isinstance(row.get("id"), str) and row["id"].strip()]
    if len(texts) < len(rows):
        return {}
    numbered = {text: place for place, text in enumerate(sorted(set(texts)), start=1)}
    for row in rows:
        row["id_text"], row["id"] = row["id"], numbered[row["id"]]
    return numbered
