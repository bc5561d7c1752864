"""Which photographs are parsed, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imptool.data.images import IMAGE_SUFFIXES, find_images, path_under
from imptool.files import InputError
from imptool.prediction.journal import JOURNAL

_RESULTS = ({"predictions.json", "images.json"}, {"metrics.json", "report.html"}, {"compare.md", "compare.csv"})
_KINDS = "jpg, png, webp, bmp, tiff or gif"


@dataclass(frozen=True)
class Photograph:
    """One photograph to parse.

    Attributes:
        number: its rank among the sorted file names, from 1; the image id of its COCO results.
        file_name: its path under the folder that holds all photographs, with "/".
        name: of its results, without suffix; unlike that of any other.
    """

    number: int
    path: Path
    file_name: str
    name: str


def common_folder(inputs: Sequence[str]) -> Path:
    """The folder that names are relative to: the deepest that holds every input."""
    folders = [os.path.abspath(_base(text)) for text in inputs]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:  # two drives of Windows
        raise InputError(f"{inputs[0]} and {inputs[-1]} have no folder in common: parse them one after the other") from error


def title_of(inputs: Sequence[str]) -> str:
    """What photographs are called together: the name of their folder, or of the only file without its suffix."""
    if len(inputs) == 1 and os.path.isfile(inputs[0]):
        return Path(inputs[0]).stem
    return common_folder(inputs).name or "photographs"


def find_photographs(inputs: Sequence[str], out: Path) -> list[Photograph]:
    """The photographs of files, folders (with all below) and globs, sorted by name, without imptool's own results.

    Raises:
        InputError: an input is not there, or no photograph is left.
    """
    root = common_folder(inputs)
    found: dict[str, Path] = {}  # by absolute path: none twice
    left_out = 0
    for text in inputs:
        paths = _paths_of(text)
        kept = _without_own(paths, Path(text), out) if Path(text).is_dir() else paths
        left_out += len(paths) - len(kept)
        found.update((os.path.abspath(path), path) for path in kept)
    if not found:
        besides = f" beside {left_out} pictures that imptool made" if left_out else ""
        raise InputError(f"{' '.join(inputs)} holds no photographs ({_KINDS}){besides}")
    paths_by_name = sorted((path_under(root, Path(absolute)), path) for absolute, path in found.items())
    names = output_names([Path(file_name) for file_name, _ in paths_by_name])
    return [
        Photograph(number, path, file_name, name)
        for number, ((file_name, path), name) in enumerate(zip(paths_by_name, names, strict=True), start=1)
    ]


def output_names(relative: Sequence[Path]) -> list[str]:
    """A name without suffix for each photograph: its path without suffix, or with it where two would share one.

    A name whose label map or overlay would be called as a folder of others ends in "_".
    """
    names = [os.path.splitext(path.as_posix())[0] for path in relative]
    whole = [path.as_posix() for path in relative]
    folders = {parent.as_posix().lower() for path in relative for parent in path.parents}

    def is_folder(name: str) -> bool:
        return f"{name}.png".lower() in folders or f"{name}.jpg".lower() in folders

    while True:
        counts = Counter(name.lower() for name in names)  # some file systems do not tell case apart
        short = [index for index, name in enumerate(names) if counts[name.lower()] > 1 and len(name) < len(whole[index])]
        blocked = [index for index, name in enumerate(names) if is_folder(name)]
        if not short and not blocked:
            return names
        for index in {*short, *blocked}:
            names[index] = whole[index] if len(names[index]) < len(whole[index]) else f"{names[index]}_"


def _base(text: str) -> str:
    """The folder of an input: itself, or the one that holds the file, or what stands before the first sign of a glob."""
    if os.path.isdir(text):
        return text
    while not os.path.exists(text) and glob.has_magic(text):
        text = os.path.dirname(text)
    return text if os.path.isdir(text) else os.path.dirname(text)


def _paths_of(text: str) -> list[Path]:
    if not text:
        raise InputError("a photograph's name is empty: name files, folders or globs")
    path = Path(text)
    if path.is_dir():
        return find_images(path)
    if os.path.lexists(text):
        return [path]
    if not glob.has_magic(text):
        raise InputError(f"{text}: there is no such file or folder")
    matches = [Path(match) for match in glob.glob(text, recursive=True)]
    return [match for match in matches if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES]


def _without_own(paths: list[Path], folder: Path, out: Path) -> list[Path]:
    """Of the pictures under a folder those that are not results of imptool, and do not lie where the results go to."""
    parents = {parent for path in paths for parent in path.relative_to(folder).parents}
    own = {parent for parent in parents if _is_results(folder / parent) or _is_inside(folder / parent, out)}
    return [path for path in paths if own.isdisjoint(path.relative_to(folder).parents)]


def _is_results(folder: Path) -> bool:
    return (folder / JOURNAL).is_file() or any(all((folder / name).is_file() for name in names) for names in _RESULTS)


def _is_inside(folder: Path, outer: Path) -> bool:
    return folder.resolve().is_relative_to(outer.resolve())
