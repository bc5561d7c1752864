"""Class lists: the names of ids, and sometimes their colours, as annotation tools write them beside label maps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from imptool.data.label_set import MAX_ID, ClassInfo
from imptool.data.layouts import Item
from imptool.data.layouts.pairs import BACKGROUND_NAMES
from imptool.files import TEXT_FILE, InputError, read_text, some

DARKNET = "obj.names"
CLASS_LISTS = ("classes.txt", "label_list.txt", "class_names.txt", "labels.txt", "labelmap.txt", "_classes.csv", DARKNET)

# How files with class names are called that are in some other form; data.yaml is YOLO's, meta.json Supervisely's, codes.txt
# CamVid's, id2label.json Hugging Face's.
_SUFFIXES = (".txt", ".csv", ".tsv", ".names", ".json", ".yaml", ".yml", ".pbtxt", ".xml")
_WORD = r"class(es)?|labels?|categor(y|ies)|names?|colou?rs?|palette"
_LOOKS_LIKE_LIST = re.compile(
    r"data\.ya?ml|(dataset_)?meta\.json|.+\.names|object_?info\d*\..+|codes?\.\w+|(id2label|label2id)\.\w+"
    r"|(?!(train|val|valid|test|image|img|photo)s?[\W_])([a-z]\w*?[\W_]+|_)?"
    rf"({_WORD}|legend)([\W_]*({_WORD}|list|map|mapping|dict|info|index|ids?|seg|definitions?))*\.\w+"
)

_BEHIND = re.compile(r"\s+#\s.*")  # a comment behind a name
_CVAT = re.compile(r"(?P<name>.+?)\s*:\s*(?P<colour>\d+\s*,\s*\d+\s*,\s*\d+)?\s*(?P<rest>:[^:]*:[^:]*)?")
_ID_FIRST = re.compile(r"[\[(]?(?P<id>-?\d+)[\])]?(\s*(?P<between>->|=>|[,;:=|.)\t-])\s*|\s+)(?P<name>\S.*)")
_ID_LAST = re.compile(r"(?P<name>\S.*?)(\s*(?P<between>[,;:=|\t])\s*|\s+)(?P<id>-?\d+)")
_COLOUR = re.compile(r"(?<!\d)\d{1,3}([\s,;]+\d{1,3}){2}(?!\d)|#[0-9a-fA-F]{6}\b")
_QUOTED = re.compile(r"""(['"]).*\1,?|.*,|[\[\]{}()].*|[-*•+]\s.*""")  # a list of some language
_AROUND = re.compile(r"""(['"])(?P<name>.+)\1""")  # quotes around a name
_HEADER = re.compile(r"id|index|idx|(pixel)?value|pixel|(class|label|category)?(id|index|value|name)|class|label|category")
_IGNORED_NAMES = frozenset({"__ignore__", "_ignore_", "ignore", "ignored", "void", "unlabeled", "unlabelled"})
_MENTIONS = re.compile(r"(?<![^\W_])(background|_background_|__background__)(?![^\W_])", re.IGNORECASE)
_LONGEST_NAME = 1000  # patterns take the square of it
_DESCRIBE = "state 'classes' in a dataset YAML"


@dataclass(frozen=True)
class ClassList:
    """What a file says of the ids in label maps.

    Attributes:
        background: the background's id, or None.
        colours: {id: (R, G, B)} where label maps are colour pictures.
        remarks: what was taken for want of a statement, a line each.
    """

    path: Path
    classes: list[ClassInfo]
    background: int | None
    colours: Mapping[int, Sequence[int]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class _Line(NamedTuple):
    number: int
    text: str


def find_class_list(root: Path, items: Sequence[Item], *, ignore: int) -> tuple[ClassList | None, list[str]]:
    """The class list of a dataset without names of its own, in its root or in a folder from there to its label maps.

    Returns:
        the list, or None; and what a person should know: what was taken for granted, and at last files that were not read.
    Raises:
        InputError: a list cannot be read as one, or two of them contradict each other.
    """
    paths, unread = _list_files(_folders(root, items))
    lists = [read_class_list(path, ignore=ignore) for path in paths]
    for other in lists[1:]:
        _check_same(lists[0], other)
    way_out = f"save its names as classes.txt, one a line, or {_DESCRIBE}"
    remarks = [f"not read, though it looks like a class list: {some(unread, 3)}; {way_out}"] if unread else []
    best = next((each for each in lists if each.colours), lists[0] if lists else None)
    return best, [*(best.remarks if best else ()), *remarks]


def read_class_list(path: Path, *, ignore: int) -> ClassList:
    """Read a class list: one name a line, the first of id 0; or an id beside each; or CVAT's `name:R,G,B:parts:actions`.

    Lines that begin with #, // or ; are comments. `__ignore__`, which labelme gives the id -1, is no class.

    Raises:
        InputError: the file is no text, or not of these forms: what a line means would be a guess.
    """
    lines = _lines(path)
    forms = [_CVAT.fullmatch(line.text) for line in lines if line.text]
    if all(forms) and any(form and (form["colour"] or form["rest"]) for form in forms):
        return _read_cvat(path, [line for line in lines if line.text], ignore)
    coloured = next((line for line in lines if _COLOUR.search(line.text)), None)
    if coloured:
        raise _not_a_list(path, coloured, "holds a colour", "state 'classes' and 'colours' in a dataset YAML")
    numbered = _read_numbered(path, [line for line in lines if line.text])
    return _with_ids(path, numbered, ignore) if numbered else _in_order(path, lines)


def _folders(root: Path, items: Iterable[Item]) -> list[Path]:
    """The root, and the folders from there to the label maps; of label maps elsewhere their own folder alone."""
    found = {root: None}
    for folder in dict.fromkeys(item.label.parent for item in items):
        above = [folder, *folder.parents]
        found |= dict.fromkeys(above[: above.index(root)] if root in above else [folder])
    return list(found)


def _list_files(folders: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Class lists by their names, in the order of `CLASS_LISTS`; and files that look like one."""
    found: list[Path] = []
    unread: list[Path] = []
    for folder in folders:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.lower().endswith(_SUFFIXES) and not entry.is_dir()]
            names = [name for name in names if not name.startswith(".")]
        for name in sorted(names):
            if name.lower() in CLASS_LISTS:
                found.append(folder / name)
            elif _LOOKS_LIKE_LIST.fullmatch(name.lower()):
                unread.append(folder / name)
    return sorted(found, key=lambda path: CLASS_LISTS.index(path.name.lower())), unread


def _check_same(first: ClassList, other: ClassList) -> None:
    names, others = ({info.id: _comparable(info.name) for info in each.classes} for each in (first, other))
    for class_id in sorted(names.keys() | others.keys()):
        if names.get(class_id) != others.get(class_id):
            ours, theirs = (repr(each[class_id]) if class_id in each else "missing" for each in (names, others))
            raise InputError(
                f"{first.path} and {other.path} contradict each other: id {class_id} is {ours} in the first, {theirs} in the "
                f"second: remove one of them, or name the right one in a dataset YAML (class_list: {first.path.name})"
            )


def _comparable(name: str) -> str:
    """A name to compare with another list's: backgrounds are one, whatever they are called."""
    return "background" if name.lower() in BACKGROUND_NAMES else name


def _lines(path: Path) -> list[_Line]:
    """The lines of a file without comments, and without empty ones at the end."""
    try:
        text = read_text(path, TEXT_FILE)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is not UTF-8 text, as it holds NULs: save it as UTF-8")
    numbered = [_Line(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [_Line(number, _BEHIND.sub("", text)) for number, text in numbered if not text.startswith(("#", "//", ";"))]
    while lines and not lines[-1].text:
        lines.pop()
    if not lines:
        raise InputError(f"{path} has an empty line 1, or comments alone: write one name a line, the first of id 0")
    if len(lines) > MAX_ID + 1:
        raise InputError(f"{path} has {len(lines)} lines: label maps hold ids up to {MAX_ID}")
    long = next((line for line in lines if len(line.text) > _LONGEST_NAME), None)
    if long:
        raise _not_a_list(path, long, f"has more than {_LONGEST_NAME} characters", "write one name a line")
    return lines


def _not_a_list(path: Path, line: _Line, what: str, way_out: str) -> InputError:
    return InputError(f"{path}: line {line.number} ('{line.text[:60]}') {what}: {way_out}")


def _read_numbered(path: Path, lines: Sequence[_Line]) -> list[tuple[int, str]]:
    """[(id, name)] where an id stands in each line, [] where in none; a first line of column names is left out."""
    body = lines[1:] if _is_header(lines[0].text) else lines
    for pattern in (_ID_FIRST, _ID_LAST):
        forms = [pattern.fullmatch(line.text) for line in body]
        found = [form for form in forms if form]
        if found and len(found) == len(body) and (pattern is _ID_FIRST or not _are_names(found)):
            columns = next((line for line, form in zip(body, found, strict=True) if _has_more_columns(form)), None)
            if columns:
                raise _not_a_list(path, columns, "holds more than an id and a name", f"write '0 name' a line, or {_DESCRIBE}")
            return [(int(form["id"]), _unquoted(form["name"].strip())) for form in found]
        if pattern is _ID_FIRST and found and (forms[0] or len(found) > len(body) / 2):
            bare = next(line for line, form in zip(body, forms, strict=True) if not form)
            raise _not_a_list(path, bare, "has no id, others have", f"write an id before every name or none, or {_DESCRIBE}")
    return []


def _unquoted(name: str) -> str:
    quoted = _AROUND.fullmatch(name)
    return quoted["name"] if quoted else name


def _are_names(forms: Sequence[re.Match[str]]) -> bool:
    """Whether numbers behind a blank belong to the names, as in "class 1": ids count from 0 or 1 behind names that differ."""
    if all(form["between"] for form in forms):
        return False
    ids, names = [int(form["id"]) for form in forms], {form["name"] for form in forms}
    return len(names) < len(ids) or ids not in (list(range(len(ids))), list(range(1, len(ids) + 1)))


def _is_header(text: str) -> bool:
    cells = [re.sub(r"[\s_-]", "", cell).lower() for cell in re.split(r"[,;:|\t]", text)]
    cells = cells if len(cells) > 1 else text.lower().split()
    return len(cells) > 1 and all(_HEADER.fullmatch(cell) for cell in cells)


def _has_more_columns(form: re.Match[str]) -> bool:
    return form["between"] is not None and form["between"] in ",;|\t" and form["between"] in form["name"]


def _with_ids(path: Path, numbered: Sequence[tuple[int, str]], ignore: int) -> ClassList:
    """Classes with the ids that the file states; the ignore id, and labelme's -1, are no classes."""
    kept = [pair for pair in numbered if not (pair[0] in (-1, ignore) and pair[1].lower() in _IGNORED_NAMES)]
    outside = next((pair for pair in kept if not 0 <= pair[0] <= MAX_ID), None)
    if outside:
        raise InputError(f"{path}: the id {outside[0]} ('{outside[1]}') is none: label maps hold ids from 0 to {MAX_ID}")
    classes = [ClassInfo(id=class_id, name=name) for class_id, name in kept]
    background = next((info.id for info in classes if info.name.lower() in BACKGROUND_NAMES), None)
    zero = next((info for info in classes if info.id == 0), None)
    if background is not None or ignore == 0:
        return ClassList(path, classes, background)
    if zero:
        remark = f"{path} names no background: id 0 is '{zero.name}', and no class is the background"
        return ClassList(path, classes, None, remarks=(remark,))
    remark = f"{path} has no name for id 0: it is taken for the background"
    return ClassList(path, [ClassInfo(id=0, name="background"), *classes], 0, remarks=(remark,))


def _in_order(path: Path, lines: Sequence[_Line]) -> ClassList:
    """Classes whose ids are their places: from 0, but for YOLO's, which do not count the background."""
    names = [line.text for line in lines]
    if names[0].lower() == "__ignore__":  # labelme counts from -1
        names, lines = names[1:], lines[1:]
    empty = next((line for line in lines if not line.text), None)
    if empty or not names:
        raise InputError(f"{path} has an empty line {empty.number if empty else 2}: every line is the name of a class")
    one_row = len(names) == 1 and re.search(r"[,;]", names[0])
    if path.suffix.lower() == ".csv" or one_row or all(map(_QUOTED.fullmatch, names)) or "\t" in "".join(names):
        raise _not_a_list(path, lines[0], "is not one name", f"write one name a line, the first of id 0, or {_DESCRIBE}")
    if names[0].lower() in BACKGROUND_NAMES:
        return ClassList(path, _numbered(names), 0)
    shifted = next((line for line in lines if _MENTIONS.search(line.text)), None)
    if shifted:  # a title above the names, or something before each
        raise _not_a_list(
            path, shifted, "has the background, and not as the name of id 0", f"write '0 name' a line, or {_DESCRIBE}"
        )
    if path.name.lower() == DARKNET:
        remark = f"{path} names no background: 0 is taken for it, and its names for ids from 1 ('{names[0]}') to {len(names)}"
        return ClassList(path, _numbered(["background", *names]), 0, remarks=(remark,))
    remark = f"{path} does not begin with the background: '{names[0]}' is id 0, and no class is the background"
    return ClassList(path, _numbered(names), None, remarks=(remark,))


def _numbered(names: Sequence[str]) -> list[ClassInfo]:
    return [ClassInfo(id=class_id, name=name) for class_id, name in enumerate(names)]


def _read_cvat(path: Path, lines: Sequence[_Line], ignore: int) -> ClassList:
    """Names with the colours of the label maps. Ids are places, as CVAT counts them; black is the background."""
    classes: list[ClassInfo] = []
    colours: dict[int, tuple[int, ...]] = {}
    for line in lines:
        form = _CVAT.fullmatch(line.text)
        name, colour = (form["name"], form["colour"]) if form else ("", None)
        class_id = ignore if name.lower() == "ignored" else len(classes)  # Datumaro's name of VOC's 255
        if class_id != ignore:
            classes.append(ClassInfo(id=class_id, name=name))
        if colour is None:
            continue
        rgb = tuple(int(value) for value in colour.split(","))
        if max(rgb) > 255 or rgb in colours.values():
            raise _not_a_list(path, line, "has a colour over 255, or that of another line", "give each class its own")
        colours[class_id] = rgb
    if colours and len(colours) < len(lines):
        raise InputError(f"{path}: some lines have a colour and some have none: give each class its own")
    background = next((info.id for info in classes if info.name.lower() in BACKGROUND_NAMES), None)
    if background is None:
        background = next((class_id for class_id, rgb in colours.items() if not any(rgb) and class_id != ignore), None)
    if background is None and colours:
        background = len(classes)
        classes.append(ClassInfo(id=background, name="background"))
        colours[background] = (0, 0, 0)
    return ClassList(path, classes, background, colours)
