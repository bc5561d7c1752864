"""The classes of a dataset: their ids in files, their semantic channels, and which of them are things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from imptool.data.palette import class_colour
from imptool.files import InputError, Strict

MAX_ID = 65535  # 16-bit PNGs
DEFAULT = "default"  # in a remap: every id that is neither a class nor in the remap
Remap = Mapping[int | str, int]


class ClassInfo(Strict):
    """One class: its id in files, its name, the group it belongs to, and whether it is a thing (trains the detector)."""

    id: int = Field(ge=0, le=MAX_ID)
    name: str = Field(min_length=1)
    group: str = ""
    thing: bool = True


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset in the order of the semantic channels: background first if there is one.

    Things, in this order, are the detector's labels 1..K and the canvas's layers 0..K-1. Files carry `ids`.

    left_right: pairs of ids that change places in a mirror, such as left and right shoe; None where a file does not say.
    stated_colours: (id, (R, G, B)) of the classes whose colour the dataset states; the others have those of the palette.
    """

    classes: tuple[ClassInfo, ...]
    background: int | None
    ignore: int
    left_right: tuple[tuple[int, int], ...] | None = ()
    stated_colours: tuple[tuple[int, tuple[int, int, int]], ...] = ()

    @property
    def ids(self) -> list[int]:
        return [info.id for info in self.classes]

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.classes]

    @property
    def foreground(self) -> list[int]:
        """Channels of all classes but the background."""
        return [channel for channel, info in enumerate(self.classes) if info.id != self.background]

    @property
    def things(self) -> list[int]:
        """Channels of the thing classes: thing k (label k + 1, canvas layer k) is channel things[k]."""
        return [channel for channel in self.foreground if self.classes[channel].thing]

    @cached_property
    def colours(self) -> dict[int, tuple[int, int, int]]:
        """The colour of every class in pages and overlays, by its id."""
        return {class_id: class_colour(class_id) for class_id in self.ids} | dict(self.stated_colours)

    @cached_property
    def _channel_of_id(self) -> IdTable:
        table = np.full(MAX_ID + 1, self.ignore_channel, np.int64)
        table[self.ids] = np.arange(len(self.classes))
        return IdTable(table)

    @cached_property
    def _id_of_channel(self) -> IdTable:
        table = np.zeros(MAX_ID + 1, np.int64)
        table[: len(self.classes)] = self.ids
        return IdTable(table)

    @property
    def ignore_channel(self) -> int:
        """The value of ignored pixels in a map of channels."""
        return 255 if len(self.classes) <= 255 else MAX_ID

    def to_channels(self, ids: np.ndarray) -> np.ndarray:
        """Ids [H, W] -> channels [H, W] uint8, of more than 255 classes uint16; the ignore id becomes `ignore_channel`."""
        return self._channel_of_id.look_up(ids)[0]

    def channel_table(self, remap: Remap) -> IdTable:
        """Id in a file -> channel; unknown is what is neither a class nor remapped to one."""
        channels = {class_id: channel for channel, class_id in enumerate(self.ids)}
        return remap_table(channels, {source: channels[class_id] for source, class_id in remap.items()})

    def to_ids(self, channels: np.ndarray) -> np.ndarray:
        """Channels [H, W] -> ids [H, W] uint8, with an id over 255 uint16."""
        return self._id_of_channel.look_up(channels)[0]

    def difference(self, other: LabelSet) -> str:
        """The first channel that is another class in `other`, in words; "" when all are the same and the same are things."""
        for ours, theirs in zip_longest(self.classes, other.classes):
            if ours is None or theirs is None:
                return f"{len(self.classes)} classes, not {len(other.classes)}"
            if (ours.id, ours.name, ours.thing) != (theirs.id, theirs.name, theirs.thing):
                kinds = [f"{info.id} '{info.name}' ({'thing' if info.thing else 'stuff'})" for info in (ours, theirs)]
                return f"{kinds[0]}, not {kinds[1]}"
        return "" if self.background == other.background else f"background {self.background}, not {other.background}"

    def mirrored(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What every channel, and every label 0..K of the detector, is in a mirror: a left shoe is a right one.

        Raises:
            InputError: it is not known which classes change places.
        """
        if self.left_right is None:
            raise InputError("--tta flip: these weights do not say which classes change places in a mirror: leave out flip")
        channels = list(range(len(self.classes)))
        for left, right in self.left_right:
            one, other = self.ids.index(left), self.ids.index(right)
            channels[one], channels[other] = other, one
        return tuple(channels), (0, *(self.things.index(channels[channel]) + 1 for channel in self.things))

    def to_plain(self) -> dict[str, Any]:
        """Plain values for checkpoints and JSON; `from_plain` reads them back."""
        stated = {"colours": [[class_id, list(colour)] for class_id, colour in self.stated_colours]}
        return {
            "classes": [info.model_dump() for info in self.classes],
            "background": self.background,
            "ignore": self.ignore,
            "left_right": None if self.left_right is None else [list(pair) for pair in self.left_right],
            **(stated if self.stated_colours else {}),
        }

    @staticmethod
    def from_plain(value: Mapping[str, Any]) -> LabelSet:
        classes = tuple(ClassInfo.model_validate(info) for info in value["classes"])
        pairs = value.get("left_right")  # weights of before test-time augmentation do not say
        left_right = None if pairs is None else tuple((left, right) for left, right in pairs)
        colours = tuple((class_id, (red, green, blue)) for class_id, (red, green, blue) in value.get("colours", ()))
        labels = LabelSet(classes, value["background"], value["ignore"], left_right, colours)
        if left_right:
            labels.mirrored()  # ValueError where they are no classes
        return labels


def remap_table(known: Mapping[int, int], remap: Remap) -> IdTable:
    """What becomes of every id in a file: as `remap` says, else as `known`, else the remap's default, else it is unknown."""
    table = np.full(MAX_ID + 1, remap.get(DEFAULT, -1), np.int64)
    stated = dict(known) | {source: target for source, target in remap.items() if isinstance(source, int)}
    table[list(stated)] = list(stated.values())
    return IdTable(table)


class IdTable:
    """What stands in the place of every id: prepared once, and looked up in many maps.

    Args:
        table: [65536] int64, -1 for what is unknown.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        bytes_alone = table[:256]
        self._narrow = bool(bytes_alone.max() <= 255)
        known = np.where(bytes_alone < 0, np.arange(256), bytes_alone)
        self._bytes = None if (known == np.arange(256)).all() else known.astype(np.uint8)  # None: every id as it is
        self._unknown = _runs(np.flatnonzero(bytes_alone < 0))

    def look_up(self, ids: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Look up ids [H, W] uint8 or uint16.

        Returns:
            [H, W] uint8 where the values fit, else uint16, with any value for the unknown ids, perhaps `ids` itself; and the
            unknown ids, sorted.
        """
        if ids.dtype == np.uint8 and ids.size and self._narrow:
            # OpenCV goes through bytes some ten times as fast as indexing does.
            unknown = [number for first, last in self._unknown for number in _within(ids, first, last)]
            return ids if self._bytes is None else cv2.LUT(ids, self._bytes), unknown
        wide = self.table[ids]
        unknown = np.unique(ids[wide < 0]).tolist() if wide.min(initial=0) < 0 else []
        return wide.astype(np.uint8 if self.table.max() <= 255 else np.uint16), unknown


def _runs(numbers: np.ndarray) -> list[tuple[int, int]]:
    """The first and last of each run of whole numbers, of sorted ones."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts if len(part)]


def _within(ids: np.ndarray, first: int, last: int) -> list[int]:
    """The ids that occur of those from the first to the last."""
    found = cv2.inRange(ids, first, last)
    return np.unique(ids[found > 0]).tolist() if cv2.countNonZero(found) else []
