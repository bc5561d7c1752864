"""Which images are parsed, and what their results are called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imptool.data.dataset import label_files
from imptool.data.images import IMAGE_SUFFIXES, find_pictures, how_to_read, is_unread, path_under
from imptool.data.output import is_inside
from imptool.files import InputError
from imptool.prediction.journal import JOURNAL

_RESULTS = (
    {JOURNAL},
    {"predictions.json", "images.json"},
    {"metrics.json", "report.html"},
    {"compare.md", "compare.csv"},
    {"problems.json", "together.csv"},
    {".imptool-demo"},
)
"""What tells a folder of each command's results."""

_KINDS = "jpg, png, webp, avif, jp2, bmp, tiff or gif"


@dataclass(frozen=True)
class Photograph:
    """One image to parse.

    Attributes:
        number: its rank among the sorted file names, from 1; the image id of its COCO results.
        file_name: its path under the folder that holds all images, with "/".
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
    """What images are called together: the name of their folder, or of the only file without its suffix."""
    if len(inputs) == 1 and os.path.isfile(inputs[0]):
        return Path(inputs[0]).stem
    return common_folder(inputs).name or "photographs"


def find_photographs(inputs: Sequence[str], out: Path) -> tuple[list[Photograph], list[str]]:
    """The images of files, folders (with all below) and globs, sorted by name, without imptool's own results.

    Of a dataset, its images.

    Returns:
        the images, and lines about what folders and globs hold beside them.
    Raises:
        InputError: an input is not there, no image is left, or one that is named lies where the results go to.
    """
    root = common_folder(inputs)
    found: dict[str, Path] = {}  # by absolute path: none twice
    own: dict[str, Path] = {}
    unread: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for text in inputs:
        paths, others = _paths_of(text)
        named = paths == [Path(text)]
        made = set[Path]() if named else _results_among([*paths, *others], Path(_base(text)), out)
        maps = set[Path]() if named else _labels_among([path for path in paths if path not in made], Path(_base(text)))
        for path in paths:
            if (named or path.is_symlink()) and is_inside(path, out):  # where it would be replaced, or removed
                raise InputError(f"{path} lies in {out}, where results go to: move it, or choose another --out")
            (own if path in made else labels if path in maps else found)[os.path.abspath(path)] = path
        unread |= {os.path.abspath(path): path for path in others if path not in made}
    notes = []
    if unread:
        counts = Counter(path.suffix.lower() for path in unread.values())
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
        notes.append(f"left out: {kinds}, whose format is not read here; {how_to_read(unread.values())}")
    for what, paths_left in (("pictures that imptool made", own), ("label maps of a dataset", labels)):
        if paths_left:
            notes.append(f"left out: {len(paths_left):,} {what}, such as {next(iter(paths_left.values()))}")
    if not found:
        raise InputError("; ".join([f"{' '.join(inputs)} holds no images ({_KINDS})", *notes]))
    paths_by_name = sorted((path_under(root, Path(absolute)), path) for absolute, path in found.items())
    names = output_names([Path(file_name) for file_name, _ in paths_by_name])
    photographs = [
        Photograph(number, path, file_name, name)
        for number, ((file_name, path), name) in enumerate(zip(paths_by_name, names, strict=True), start=1)
    ]
    return photographs, notes


def output_names(relative: Sequence[Path]) -> list[str]:
    """A name without suffix for each image: its path without suffix, or with it where two would share one.

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


def _paths_of(text: str) -> tuple[list[Path], list[Path]]:
    """The file that is named, or what a folder or glob holds; and of these the pictures of formats that are not read here."""
    if not text:
        raise InputError("an image's name is empty: name files, folders or globs")
    path = Path(text)
    if path.is_dir():
        return find_pictures(path)
    if os.path.lexists(text):
        return [path], []
    if not glob.has_magic(text):
        raise InputError(f"{text}: there is no such file or folder")
    matches = [path for match in glob.glob(text, recursive=True) if (path := Path(match)).is_file()]
    return [path for path in matches if path.suffix.lower() in IMAGE_SUFFIXES], list(filter(is_unread, matches))


def _results_among(paths: list[Path], folder: Path, out: Path) -> set[Path]:
    """Of the pictures under a folder those that are results of imptool, or lie where the results go to."""
    parents = {parent for path in paths for parent in path.relative_to(folder).parents}
    own = {parent for parent in parents if _is_results(folder / parent) or is_inside(folder / parent, out)}
    return {path for path in paths if not own.isdisjoint(path.relative_to(folder).parents)}


def _labels_among(paths: list[Path], folder: Path) -> set[Path]:
    """Of the pictures under a folder those that are label maps of a dataset there, whose images lie beside them."""
    parents = {parent for path in paths for parent in path.relative_to(folder).parents}
    labels = {label for parent in parents for label in label_files(folder / parent)}
    return {path for path in paths if Path(os.path.abspath(path)) in labels} if labels else set()


def _is_results(folder: Path) -> bool:
    return any(all((folder / name).is_file() for name in names) for names in _RESULTS)
