"""Splits: images split by lists, folders or a seed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from imptool.data.layouts import Found, Item
from imptool.data.layouts.lists import match_lines, read_list
from imptool.files import FileName, InputError, Strict, some


class RandomSplits(Strict):
    """Splits drawn by a seed: `sizes` names splits with counts, or shares below 1, `rest` the one that takes what is left.

    The order comes from a hash of seed and stem, so it does not change with the Python version. Added files take their place
    in it, which moves the cut between the splits: list the stems in files (`splits`) where old splits must stay as they are.
    """

    seed: int
    sizes: dict[FileName, Annotated[int | float, Field(gt=0)]]
    rest: FileName
    together: list[list[str]] = []  # stems that must not be torn apart, such as one image annotated twice

    @model_validator(mode="after")
    def _nothing_twice(self) -> RandomSplits:
        for split, size in self.sizes.items():
            if isinstance(size, float) and size >= 1:
                raise ValueError(f"sizes: {split}: {size} is neither a whole number of images nor a share below 1")
        if self.rest in self.sizes:
            raise ValueError(f"rest: '{self.rest}' has a size already: give it another name, or leave it out of sizes")
        twice = [stem for stem, count in Counter(stem for group in self.together for stem in group).items() if count > 1]
        if twice:
            raise ValueError(f"together: '{twice[0]}' is there twice: write all that belongs together in one list")
        return self


def make_splits(
    found: Found, root: Path, source: Path, *, listed: Mapping[str, str] | None, drawn: RandomSplits | None
) -> dict[str, tuple[Item, ...]]:
    """Part the items as the description says, else as their layout does, else into one split `all`.

    Args:
        listed: {split: a list of stems under root, or a folder ("train/") of images}.
        drawn: the rule of a split by chance.
    Raises:
        InputError: a list cannot be read or names what is not there, two splits share an image, or they ask for too many.
    """
    items = found.items
    if listed is not None:
        splits = {
            name: _folder_split(items, where) if where.endswith("/") else _listed_split(items, root, root / where)
            for name, where in listed.items()
        }
        counts = Counter(item.stem for members in splits.values() for item in members)
        shared = [stem for stem, count in counts.items() if count > 1]
        if shared:
            raise InputError(f"{source}: splits: {shared[0]} is in two of them ({len(shared)} such): keep each in one")
        return splits
    if drawn is not None:
        return draw_splits(drawn, items, source)
    if found.splits is not None:
        split_of_stem = {stem: split for split, stems in found.splits.items() for stem in stems}
        return {split: tuple(item for item in items if split_of_stem.get(item.stem) == split) for split in found.splits}
    return {"all": tuple(items)}


def _folder_split(items: list[Item], folder: str) -> tuple[Item, ...]:
    """A split of all images in a folder ("train/") under that of the images."""
    return tuple(item for item in items if item.stem.startswith(folder))


def _listed_split(items: list[Item], root: Path, path: Path) -> tuple[Item, ...]:
    """A split from a list, each line of which names an image."""
    lines = read_list(path)
    found, unclear = match_lines(lines, items, root)
    missing = [line for line in lines if line not in found]
    if missing:
        why = unclear.get(
            missing[0],
            f"expected one name a line, such as {items[0].stem}, or an image and its own label map in two columns",
        )
        raise InputError(f"{path}: no image or label map of the stem {some(missing, 1)}: {why}")
    by_stem = {item.stem: item for item in found.values()}
    return tuple(by_stem[stem] for stem in sorted(by_stem))


def draw_splits(rule: RandomSplits, items: Sequence[Item], source: Path) -> dict[str, tuple[Item, ...]]:
    """The splits of a rule; InputError where it asks for more images than there are."""
    sizes = {split: size if isinstance(size, int) else max(round(size * len(items)), 1) for split, size in rule.sizes.items()}
    if sum(sizes.values()) > len(items):
        raise InputError(f"{source}: random_splits: sizes ask for {sum(sizes.values())} of {len(items)} images")
    leader = {stem: group[0] for group in rule.together for stem in group}
    units: dict[str, list[Item]] = {}
    for item in items:
        units.setdefault(leader.get(item.stem, item.stem), []).append(item)
    waiting = sorted(units, key=lambda name: hashlib.sha256(os.fsencode(f"{rule.seed}:{name}")).digest())
    splits: dict[str, list[Item]] = {}
    for split, size in sizes.items():
        taken: list[Item] = []
        for name in list(waiting):
            if len(taken) + len(units[name]) <= size:  # a pair that no longer fits waits for the next split
                taken += units[name]
                waiting.remove(name)
        splits[split] = taken
    splits[rule.rest] = [item for name in waiting for item in units[name]]
    return {split: tuple(sorted(members, key=lambda item: item.stem)) for split, members in splits.items()}


def strangers(rule: RandomSplits | None, items: Sequence[Item], source: Path) -> list[str]:
    """Stems in `together` that no image has: a misspelt one would tear its pair apart in silence."""
    unknown = {stem for group in (rule.together if rule else ()) for stem in group} - {item.stem for item in items}
    if not unknown:
        return []
    return [f"{source}: random_splits: together: no image has the stem {some(sorted(unknown), 1)}"]
