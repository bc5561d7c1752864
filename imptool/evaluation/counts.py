"""What is counted of a photograph, as one flat vector of cells; and the sparse vectors of many photographs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from imptool.metrics import boundary, confusion, contours

RECORD = np.dtype([("image", np.uint32), ("cell", np.uint32), ("count", np.uint32)])
"""One cell that is not 0 of one photograph. A photograph has some hundred, so 12 bytes each are compact."""

_DENSE = 2**22  # cells of dense vectors at a time


@dataclass(frozen=True)
class Cells:
    """Which counts make up the vector of a photograph, one behind the other.

    Confusion matrices [R, C, C] by ring of distance to the boundary, a single one without bands; then, where asked for,
    [C, 4] of the boundary F-score and [C, 3] of Boundary IoU.

    Attributes:
        bands: widths in px, increasing; empty for none.
        boundary_f, boundary_iou: tolerance and width, in px ("3") or of the diagonal ("0.75%"); "" for none.
    """

    num_classes: int
    bands: tuple[float, ...] = ()
    boundary_f: str = ""
    boundary_iou: str = ""

    @property
    def _parts(self) -> list[tuple[int, ...]]:
        classes = self.num_classes
        rings = len(self.bands) + 1 if self.bands else 1
        return [
            (rings, classes, classes),
            (classes, 4) if self.boundary_f else (0,),
            (classes, 3) if self.boundary_iou else (0,),
        ]

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self._parts)

    @property
    def rings_size(self) -> int:
        """How many cells the confusion matrices take; they come first."""
        return int(np.prod(self._parts[0]))

    def count(self, predicted: np.ndarray, target: np.ndarray, *, ignore: int) -> np.ndarray:
        """The vector [size] int64 of one photograph from its maps of channels [H, W].

        Raises:
            ValueError: as `confusion_matrix`.
        """
        about: dict[str, Any] = {"num_classes": self.num_classes, "ignore": ignore}
        if self.bands:
            parts = [boundary.ring_confusions(predicted, target, bands=self.bands, **about)]
        else:
            parts = [confusion.confusion_matrix(predicted, target, **about)]
        if self.boundary_f:
            tolerance = contours.pixels(self.boundary_f, target.shape)
            parts.append(contours.boundary_f_counts(predicted, target, tolerance=tolerance, **about))
        if self.boundary_iou:
            width = max(round(contours.pixels(self.boundary_iou, target.shape)), 1)
            parts.append(contours.boundary_iou_counts(predicted, target, width=width, **about))
        return np.concatenate([part.ravel() for part in parts]) if len(parts) > 1 else parts[0].ravel()

    def rings(self, counts: np.ndarray) -> np.ndarray:
        """Confusion matrices [..., R, C, C] of counts [..., size]; their sum over R is the confusion."""
        return self._part(counts, 0)

    def boundary_f_counts(self, counts: np.ndarray) -> np.ndarray:
        return self._part(counts, 1)

    def boundary_iou_counts(self, counts: np.ndarray) -> np.ndarray:
        return self._part(counts, 2)

    def _part(self, counts: np.ndarray, number: int) -> np.ndarray:
        sizes = [int(np.prod(shape)) for shape in self._parts]
        start = sum(sizes[:number])
        return counts[..., start : start + sizes[number]].reshape(*counts.shape[:-1], *self._parts[number])


class Spool(AbstractContextManager["Spool"]):
    """Records on their way: in a file without a name, so that memory does not grow with the number of photographs."""

    def __init__(self) -> None:
        self.used = False
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it is closed with this object

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, image: int, counts: np.ndarray) -> None:
        """Add the counts [size] of the photograph of a number."""
        self.used = True
        cells = np.flatnonzero(counts)
        records = np.empty(len(cells), RECORD)
        records["image"], records["cell"], records["count"] = image, cells, counts[cells]
        self._file.write(records.tobytes())

    def records(self) -> np.ndarray:
        """All that was added: [n] `RECORD`, mapped from the file, and there also when this is closed."""
        self._file.flush()
        return np.memmap(self._file, RECORD, "r") if self._file.tell() else np.empty(0, RECORD)


def renumbered(records: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Records of photographs of which number n becomes the rank of n in `numbers`, sorted: some could not be used."""
    if list(numbers) == list(range(len(numbers))):
        return records
    rank = np.zeros(max(numbers) + 1, np.uint32)
    rank[list(numbers)] = np.arange(len(numbers))
    changed = np.array(records)
    changed["image"] = rank[records["image"]]
    return changed


def blocks_of_images(records: np.ndarray, most: int = 2**20) -> Iterator[tuple[int, int, np.ndarray]]:
    """Records in parts of whole photographs, some `most` records each: (first photograph, the one behind the last, records)."""
    start = 0
    while start < len(records):
        end = min(start + most, len(records))
        if end < len(records):
            end = int(np.searchsorted(records["image"], records["image"][end - 1], side="right"))
        yield int(records["image"][start]), int(records["image"][end - 1]) + 1, records[start:end]
        start = end


def dense_confusions(records: np.ndarray, cells: Cells, *, images: int) -> Iterator[np.ndarray]:
    """The confusion matrices of all photographs, whatever their rings, in blocks [b, C, C] int64, in order."""
    classes = cells.num_classes
    step = max(_DENSE // classes**2, 1)
    starts = np.searchsorted(records["image"], range(0, images + step, step))
    for block, first in enumerate(range(0, images, step)):
        part = records[starts[block] : starts[block + 1]]
        part = part[part["cell"] < cells.rings_size]
        place = (part["image"].astype(np.int64) - first) * classes**2 + part["cell"] % classes**2
        shape = (min(step, images - first), classes, classes)
        yield np.bincount(place, part["count"], minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)
