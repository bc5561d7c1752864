"""Accuracy near the boundary, timed side by side in one run: python benchmarks/boundary.py FOLDER_OF_LABEL_PNGS

Every round times all of them on the same maps, so that a busy machine slows all alike; the median of the rounds is
printed in images/s on one thread. Before that, all ways are compared for equal results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from imptool.metrics.boundary import BANDS, band_confusions, boundary_pixels, squared_distance_to_boundary
from imptool.metrics.confusion import confusion_matrix

IGNORE = 255


def distance_by_cv2(target: np.ndarray) -> np.ndarray:
    interior = (~boundary_pixels(target, ignore=IGNORE)).astype(np.uint8)
    return cv2.distanceTransform(interior, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def distance_by_scipy(target: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(~boundary_pixels(target, ignore=IGNORE))


def confusion_by_bincount(predicted: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    pairs = target.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def bands_by_masks(predicted: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """The usual way: a mask and a bincount for every band, on the distance of OpenCV."""
    distance = distance_by_cv2(target)
    inside = [(distance <= width) & (target != IGNORE) for width in BANDS]
    return np.stack([confusion_by_bincount(predicted[mask], target[mask], num_classes) for mask in inside])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    targets = [np.array(Image.open(path)) for path in sorted(arguments.folder.glob("*.png"))[: arguments.images]]
    if not targets:
        parser.error(f"no PNG in {arguments.folder}")
    maps = [(np.roll(target, (3, 3), (0, 1)), target) for target in targets]  # a prediction that is 3 px off
    num_classes = 1 + max(int(target[target != IGNORE].max()) for target in targets)
    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "distance, ours": lambda _, target: squared_distance_to_boundary(target, ignore=IGNORE),
        "distance, cv2": lambda _, target: distance_by_cv2(target),
        "distance, scipy": lambda _, target: distance_by_scipy(target),
        f"{len(BANDS)} bands, ours": lambda predicted, target: band_confusions(
            predicted, target, num_classes=num_classes, ignore=IGNORE
        ),
        f"{len(BANDS)} bands, masks": lambda predicted, target: bands_by_masks(predicted, target, num_classes),
        "confusion, ours": lambda predicted, target: confusion_matrix(
            predicted, target, num_classes=num_classes, ignore=IGNORE
        ),
        "confusion, bincount": lambda predicted, target: confusion_by_bincount(
            predicted[target != IGNORE], target[target != IGNORE], num_classes
        ),
    }
    compare(maps, ways)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            begin = time.perf_counter()
            for predicted, target in maps:
                way(predicted, target)
            seconds[name].append(time.perf_counter() - begin)
    for name, taken in seconds.items():
        print(f"{name:22}{len(maps) / statistics.median(taken):8.0f} images/s")


def compare(maps: list[tuple[np.ndarray, np.ndarray]], ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]) -> None:
    """Say how many maps get the same result from every way of a job; this also compiles what is timed."""
    jobs: dict[str, list[str]] = {}
    for name in ways:
        jobs.setdefault(name.split(",")[0], []).append(name)
    for ours, *others in jobs.values():
        for other in others:
            equal = sum(same(ways[ours](*pair), ways[other](*pair)) for pair in maps)
            print(f"{other:22}equals ours on {equal} of {len(maps)} maps")


def same(ours: np.ndarray, other: np.ndarray) -> bool:
    """Equal numbers; a distance in floating point is squared and rounded to the whole number that ours is."""
    if other.dtype.kind == "f":
        if not np.isfinite(other).all() or other.max() > 1e4:  # no boundary: each library has its own sign for it
            return bool(ours.min() > 1e8)
        other = np.rint(other.astype(np.float64) ** 2).astype(np.int64)
    return np.array_equal(ours, other)


if __name__ == "__main__":
    main()
