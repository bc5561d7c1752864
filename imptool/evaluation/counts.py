"""What is counted of an image, as one flat vector of cells; and the sparse vectors of many images."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from imptool.metrics import boundary, confusion, contours

RECORD = np.dtype([("image", np.uint32), ("cell", np.uint32), ("count", np.uint32)])
"""One cell that is not 0 of one image. An image has some hundred, so 12 bytes each are compact."""

_DENSE = 2**22  # cells of dense vectors at a time


@dataclass(frozen=True)
class Cells:
    """Which counts make up the vector of an image, one behind the other.

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
    def size(self) -> int:
        return self.num_rings * self.num_classes**2 + sum(self._contours)

    @property
    def tally_size(self) -> int:
        """Of the vector that figures come from: what is right, predicted and in the target in place of each matrix."""
        return self.num_rings * self.num_classes * 3 + sum(self._contours)

    @property
    def num_rings(self) -> int:
        return len(self.bands) + 1 if self.bands else 1

    @property
    def _contours(self) -> tuple[int, int]:
        """How many cells the boundary F-score and Boundary IoU take."""
        return 4 * self.num_classes if self.boundary_f else 0, 3 * self.num_classes if self.boundary_iou else 0

    def count(self, predicted: np.ndarray, target: np.ndarray, *, ignore: int) -> np.ndarray:
        """The vector [size] int64 of one image from its maps of channels [H, W].

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
        """Confusion matrices [R, C, C] of counts [size]; their sum over R is the confusion."""
        shape = (self.num_rings, self.num_classes, self.num_classes)
        return counts[: int(np.prod(shape))].reshape(shape)

    def tally(self, counts: np.ndarray) -> np.ndarray:
        """What figures come from, [tally_size], of counts [size]."""
        rings = self.rings(counts)
        return np.concatenate([confusion.tally(rings).ravel(), counts[rings.size :]])

    def tally_records(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of records: (image, cell, count), where equal places add up."""
        classes, matrices = self.num_classes, self.num_rings * self.num_classes**2
        is_pair = records["cell"] < matrices
        pairs, rest = records[is_pair], records[~is_pair]
        row, predicted = np.divmod(pairs["cell"].astype(np.int64), classes)  # row: ring and target
        column = row // classes * classes + predicted
        right = row == column
        cells = [
            3 * row[right],
            3 * column + 1,
            3 * row + 2,
            rest["cell"].astype(np.int64) - matrices + 3 * self.num_rings * classes,
        ]
        sources = [pairs[right], pairs, pairs, rest]
        image, count = (np.concatenate([source[key] for source in sources]) for key in ("image", "count"))
        return image, np.concatenate(cells), count

    def parts(self, tallies: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of tallies [..., tally_size] those of matrices [..., R, C, 3], F-scores [..., C, 4], Boundary IoU [..., C, 3]."""
        ends = np.cumsum([self.num_rings * self.num_classes * 3, *self._contours])
        rings, f, iou = np.split(tallies, ends[:2], axis=-1)
        before = tallies.shape[:-1]
        return (
            rings.reshape(*before, self.num_rings, self.num_classes, 3),
            f.reshape(*before, -1, 4),
            iou.reshape(*before, -1, 3),
        )


class Spool(AbstractContextManager["Spool"]):
    """Records on their way: in a file without a name, so that memory does not grow with the number of images."""

    def __init__(self) -> None:
        self.used = False
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it is closed with this object

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, image: int, counts: np.ndarray) -> None:
        """Add the counts [size] of the image of a number."""
        self.used = True
        cells = np.flatnonzero(counts != 0)  # of booleans it is five times as fast
        records = np.empty(len(cells), RECORD)
        records["image"], records["cell"], records["count"] = image, cells, counts[cells]
        self._file.write(records.tobytes())

    def records(self) -> np.ndarray:
        """All that was added: [n] `RECORD`, mapped from the file, and there also when this is closed."""
        self._file.flush()
        return np.memmap(self._file, RECORD, "r") if self._file.tell() else np.empty(0, RECORD)


def renumbered(records: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Records of images of which number n becomes the rank of n in `numbers`, sorted: some could not be used."""
    if list(numbers) == list(range(len(numbers))):
        return records
    rank = np.zeros(max(numbers) + 1, np.uint32)
    rank[list(numbers)] = np.arange(len(numbers))
    changed = np.array(records)
    changed["image"] = rank[records["image"]]
    return changed


def blocks_of_images(records: np.ndarray, most: int = 2**18) -> Iterator[tuple[int, int, np.ndarray]]:
    """Records in parts of whole images, some `most` records each: (first image, the one behind the last, records)."""
    start = 0
    while start < len(records):
        end = min(start + most, len(records))
        if end < len(records):
            end = int(np.searchsorted(records["image"], records["image"][end - 1], side="right"))
        yield int(records["image"][start]), int(records["image"][end - 1]) + 1, records[start:end]
        release(records)
        start = end


def dense_confusions(records: np.ndarray, cells: Cells, *, images: int) -> Iterator[np.ndarray]:
    """The confusion matrices of all images, whatever their rings, in blocks [b, C, C] int64, in order."""
    classes = cells.num_classes

    def without_rings(part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = part[part["cell"] < cells.num_rings * classes**2]
        return part["image"], part["cell"] % classes**2, part["count"]

    for block in _dense(records, without_rings, classes**2, images=images):
        yield block.reshape(-1, classes, classes)


def dense_tallies(records: np.ndarray, cells: Cells, *, images: int) -> Iterator[np.ndarray]:
    """What the figures of all images come from, in blocks [b, tally_size] int64, in order."""
    return _dense(records, cells.tally_records, cells.tally_size, images=images)


def _dense(
    records: np.ndarray,
    select: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    num_cells: int,
    *,
    images: int,
) -> Iterator[np.ndarray]:
    """Sums over records, of which `select` gives image, cell and count: blocks of images [b, num_cells] int64, in order."""
    step = max(_DENSE // num_cells, 1)
    starts = np.searchsorted(records["image"], range(0, images + step, step))
    for block, first in enumerate(range(0, images, step)):
        image, cell, count = select(records[starts[block] : starts[block + 1]])
        shape = (min(step, images - first), num_cells)
        place = (image.astype(np.int64) - first) * num_cells + cell
        yield np.bincount(place, count, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)
        release(records)


def release(records: np.ndarray) -> None:
    """Give back the memory of records that are mapped from a file, and were read: they can be read again."""
    mapped = getattr(records, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
