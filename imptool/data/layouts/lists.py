"""Lists of the images of a split, as text files name them, one a line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from imptool.data.layouts.names import match_names
from imptool.data.layouts.pairs import Item
from imptool.files import TEXT_FILE, InputError, read_text

_GAP = re.compile(r"\s*[,;\t]\s*|\s+")  # between columns
_LONGEST_LINE, _MOST_GAPS = 4096, 64  # where columns are looked for


class Listed(NamedTuple):
    """found: {line: its item}. unclear: {line: why it names none}, where more can be said than that there is none."""

    found: dict[str, Item]
    unclear: dict[str, str]


def read_list(path: Path) -> list[str]:
    """The lines of a list of stems, without empty ones; InputError when it cannot be read."""
    try:
        return [line.strip() for line in read_text(path, TEXT_FILE).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as a list of stems: it is not UTF-8 text") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read as a list of stems: {reason}") from error


def match_lines(lines: Sequence[str], items: Sequence[Item], root: Path) -> Listed:
    """The items that the lines of a list name.

    A line is a stem, or the path of an image or label map in its folder or under the root, with or without suffix; or
    both of these in two columns. Names may differ from those on disk as `match_names` says.
    """
    find = _finder(items, root)
    found = {line: item for line in lines if (item := find(line)) is not None}
    unclear: dict[str, str] = {}
    by_stem = {item.stem: item for item in reversed(items)}  # of two images with one stem the first is usable
    for key, folders in ((str, True), (_without_suffix, True), (str, False), (_without_suffix, False)):
        # The end of a line of two columns would pass for a name behind folders.
        keys = {line: key(line) for line in lines if line not in found and not (folders and _GAP.search(line))}
        matches = match_names(set(keys.values()), by_stem, suffixes=False, folders=folders)
        found |= {line: by_stem[matches.found[name]] for line, name in keys.items() if name in matches.found}
        unclear |= {line: matches.unclear[name] for line, name in keys.items() if name in matches.unclear}
    return Listed(found, unclear)


def _without_suffix(name: str) -> str:
    return os.path.splitext(name)[0]


def _finder(items: Sequence[Item], root: Path) -> Callable[[str], Item | None]:
    """A function that gives the item which a line names exactly, None where there is none."""
    by_name: dict[str, Item] = {}
    for item in reversed(items):
        by_name |= dict.fromkeys(_names(item, root), item)
    by_name |= {item.stem: item for item in reversed(items)}

    def named(text: str) -> Item | None:
        name = text.replace("\\", "/").removeprefix("./").removeprefix("/")
        return by_name.get(name) or by_name.get(_without_suffix(name))

    def find(line: str) -> Item | None:
        whole = named(line)
        gaps = () if whole else islice(_GAP.finditer(line[:_LONGEST_LINE]), _MOST_GAPS)
        columns = ((named(line[: gap.start()]), named(line[gap.end() :])) for gap in gaps)
        return whole or next((item for item, other in columns if item is not None and item is other), None)

    return find


def _names(item: Item, root: Path) -> Iterator[str]:
    """How a list may call an item, beside by its stem: by its files, as paths in their folders and under the root."""
    folder, _, last = item.stem.rpartition("/")
    under_root = f"{root.as_posix()}/"
    for path in (item.image, item.label):
        whole = path.as_posix()
        if path.name.startswith(last):
            yield f"{folder}/{path.name}" if folder else path.name
        if whole.startswith(under_root):
            yield whole.removeprefix(under_root)
            yield _without_suffix(whole.removeprefix(under_root))
