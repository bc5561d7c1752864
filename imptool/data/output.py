"""Where results go: a folder that is held, free, apart from what is read, and without links that lead elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from imptool.files import LOCK, InputError, alone_in, is_unfinished

_PARTS = (
    ("labels", "images", "photos"),
    ("annotations", "images", "photos"),
    ("SegmentationClass", "SegmentationObject", "JPEGImages"),
    ("gtFine", "leftImg8bit"),
)
"""What a dataset in a known layout holds: labels first, then what lies beside them."""


@contextmanager
def results_folder(
    out: Path, check: Callable[[Path], object], *, sources: Iterable[Path] = (), parts: Sequence[str] = ()
) -> Iterator[None]:
    """Hold the folder that results go to, from before it is looked at until the last of them is written.

    Another process may finish there while a model is loaded, so nothing that was seen of a folder before it is held counts.
    What a killed process left unfinished is removed.

    Args:
        check: InputError where results may not go there.
        sources: as in `check_apart`, as far as they are known by now.
        parts: globs of what is written in place: the folders in it that files are put into, and files that grow. No link is
            followed there. All other files are written whole, which replaces a link.
    Raises:
        InputError: as `check_apart`, `alone_in` and `check`; or a part is a link.
    """
    check_apart(out, sources)
    with alone_in(out):
        check(out)
        for path in (path for part in parts for path in out.glob(part)):
            refuse_link(path)
            for folder, folders, names in os.walk(path):
                for name in folders:
                    refuse_link(Path(folder, name))
                _remove_unfinished(folder, names)
        _remove_unfinished(out, os.listdir(out))
        yield


def refuse_link(path: Path) -> None:
    """InputError where results would be written through a link: what it leads to may be anything."""
    if path.is_symlink():
        raise InputError(f"{path} is a link, and results are not written through links: remove it, or choose another --out")


def _remove_unfinished(folder: str | Path, names: Iterable[str]) -> None:
    for name in filter(is_unfinished, names):
        os.unlink(os.path.join(folder, name))


def contents(folder: Path) -> set[str]:
    """The names in a folder, without our lock and what a killed process left unfinished; none where there is no folder."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {name for name in names if name != LOCK and not is_unfinished(name)}


def check_free(out: Path, *, force: bool | None) -> None:
    """InputError when an output folder holds results and `force` was not asked for; None: there is no such switch."""
    if contents(out) and not force:
        way_out = "choose another --out" if force is None else "add --force, or choose another --out"
        raise InputError(f"{out} already holds results: {way_out}")


def check_apart(out: Path, sources: Iterable[Path] = (), *, holds: bool = True) -> None:
    """InputError where results would lie among images or labels, which would take them for their own.

    Args:
        sources: folders that are read. Those of a dataset around the output folder count as well, whether it is read or not.
        holds: also where the output folder holds a source.
    """
    above = _identities(out)
    for source in (*sources, *_folders_of_datasets_around(out)):
        if _identity(source) in above:
            raise InputError(f"{out} lies in {source}, whose files are read as images or labels: choose another folder")
    own = _identity(out)
    for source in sources if holds and own else ():
        if own in _identities(source):
            raise InputError(f"{out} holds {source}, which is read: choose another folder")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder, or lies in it: by links and by what it is called."""
    own = _identity(folder)
    return own is not None and own in {*_identities(path), *_identities(Path(os.path.abspath(path)).parent)}


def path_from(folder: Path, path: Path) -> str:
    """A path as a file in a folder may state it: from there where both lie in the current folder, so that all of it can be
    moved; else the whole path."""
    here, there = Path.cwd(), path.resolve()
    if folder.resolve().is_relative_to(here) and there.is_relative_to(here):
        return os.path.relpath(there, folder.resolve())
    return str(there)


def _identities(path: Path) -> set[tuple[int, int]]:
    """Of a path and of every folder above it, as far as they are there."""
    real = path.resolve()
    return {identity for each in (real, *real.parents) if (identity := _identity(each))}


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, by whatever name: links, "..", and capitals where the system takes them for small."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _folders_of_datasets_around(out: Path) -> Iterator[Path]:
    for folder in out.resolve().parents:
        for labels, *beside in _PARTS:
            others = [folder / name for name in beside if (folder / name).is_dir()]
            if others and (folder / labels).is_dir():
                yield from (folder / labels, *others)
