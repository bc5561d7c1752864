"""Names as other tools write them, matched to the names on disk."""

from __future__ import annotations

import os
import re
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{1,3}")  # as of pictures; "shirt.2019" has none
_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")


class Matches(NamedTuple):
    """found: {name: name on disk}. unclear: {name: why none was taken}."""

    found: dict[str, str]
    unclear: dict[str, str]


def match_names(wanted: Collection[str], there: Iterable[str], *, suffixes: bool = True, folders: bool = True) -> Matches:
    """Match names to those that are there: the same first, then those that differ in less and less.

    First the same names, then those that differ in Unicode form, in "\\" for "/", a leading "./" or blanks around, then in
    case, then in the escapes of a URL, then in the folders before them, at last in the suffix. Where two fit equally, or one
    fits two names, none is taken.

    Args:
        wanted: paths or stems, as a file states them.
        there: paths or stems, as they are on disk, with "/".
        suffixes: whether the names end in suffixes, which may differ; stems have none.
        folders: whether folders before them may differ.
    """
    free = dict.fromkeys(there)
    matches = Matches({name: name for name in wanted if name in free}, {})
    waiting = {name: None for name in wanted if name not in free}
    for name in matches.found:
        del free[name]

    def settle(fits: Mapping[str, list[str]]) -> None:
        claims = Counter(place for places in fits.values() for place in places)
        for name, places in fits.items():
            del waiting[name]
            if len(places) > 1:
                matches.unclear[name] = f"{places[0]} and {places[1]} fit equally"
            elif claims[places[0]] > 1:
                matches.unclear[name] = f"{places[0]} fits another name as well"
            else:
                matches.found[name] = places[0]
        for place in claims:
            del free[place]

    def settle_by(key: Callable[[str], str]) -> None:
        places = _grouped(free, key) if waiting else {}
        settle({name: places[key(name)] for name in waiting if key(name) in places})

    for key in (_plain, _caseless, _unquoted):
        settle_by(key)
    if folders:
        settle(_deeper(waiting, free))
        settle(_shallower(waiting, free, _caseless))
    if suffixes:
        settle_by(_stem)
    if suffixes and folders:
        settle(_shallower(waiting, free, _stem))
    return matches


def _deeper(wanted: Collection[str], there: Collection[str]) -> dict[str, list[str]]:
    """Files in folders that their names do not have; of the same suffix, as masks of their stems lie beside images."""
    stated = _grouped(wanted, _caseless)
    fits: dict[str, list[str]] = {}
    for place in there if stated else ():
        for tail in _tails(_caseless(place)):
            for name in stated.get(tail, ()):
                fits.setdefault(name, []).append(place)
    return fits


def _shallower(wanted: Collection[str], there: Collection[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Files whose names have folders before them that the disk has not; of several the one with most folders."""
    places = _grouped(there, key) if wanted else {}
    fits = {name: next((places[tail] for tail in _tails(key(name)) if tail in places), []) for name in wanted}
    return {name: found for name, found in fits.items() if found}


def _tails(name: str) -> list[str]:
    """A path without its first folder, without its first two, and so on."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _grouped(names: Collection[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(key(name), []).append(name)
    return grouped


def _plain(name: str) -> str:
    composed = name if name.isascii() else unicodedata.normalize("NFC", name)
    return composed.replace("\\", "/").removeprefix("./").strip()


def _caseless(name: str) -> str:
    return _plain(_plain(name).casefold())  # the case of a composed sign may be decomposed


def _unquoted(name: str) -> str:
    """Without the escapes of a URL, such as "%20"."""
    return _caseless(urllib.parse.unquote(name)) if _ESCAPE.search(name) else _caseless(name)


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(_caseless(name))
    return stem if _SUFFIX.fullmatch(suffix) else stem + suffix
