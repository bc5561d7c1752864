"""Counting and fusing segments: ratios to the usual way, and what a large image takes.

    python benchmarks/panoptic.py

`count_segments` stands beside the way of COCO's panopticapi: `np.unique` of the pairs of numbers, then a dictionary of them
(written anew here; both give the same counts, which is checked). `fuse` joins detections with a label map, with 10 and with 100
detections, at 800 x 1333 px and at 24 megapixels. Medians of rounds that take turns; one thread.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.data.panoptic import Segments, fuse
from imptool.data.prediction import Prediction
from imptool.metrics.panoptic import count_segments
from imptool.recipe import Panoptic

ROUNDS, CLASSES = 9, 16
LABELS = LabelSet(tuple(ClassInfo(id=n, name=f"class {n}", thing=n > 1) for n in range(CLASSES)), 0, 255)


def blobs(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """Numbers 0..count [H, W] int32 of ellipses over each other, as garments lie."""
    numbers = np.zeros(size, np.int32)
    for number in range(1, count + 1):
        centre = rng.integers(0, size[1]), rng.integers(0, size[0])
        axes = rng.integers(size[1] // 40, size[1] // 6), rng.integers(size[0] // 40, size[0] // 6)
        cv2.ellipse(numbers, tuple(map(int, centre)), tuple(map(int, axes)), float(rng.uniform(0, 180)), 0, 360, number, -1)
    return numbers


def dense(numbers: np.ndarray, rng: np.random.Generator) -> Segments:
    kept, numbers_ = np.unique(numbers, return_inverse=True)
    found = numbers_.reshape(numbers.shape).astype(np.int32) + (kept[0] > 0)
    size = int(found.max())
    return Segments(found, rng.integers(0, CLASSES, size), np.zeros(size, np.bool_), np.ones(size, np.float32))


def usual_way(predicted: Segments, target: Segments) -> np.ndarray:
    """COCO's evaluation of one image: unique pairs of numbers, a dictionary of their areas, loops over segments."""
    pairs, areas = np.unique(target.numbers.astype(np.uint64) * 256**3 + predicted.numbers, return_counts=True)
    common = {(int(pair) // 256**3, int(pair) % 256**3): int(area) for pair, area in zip(pairs, areas, strict=True)}
    sizes = [
        {int(n): int(area) for n, area in zip(*np.unique(each.numbers, return_counts=True), strict=True)}
        for each in (target, predicted)
    ]
    counts, found, used = np.zeros((CLASSES, 4)), set(), set()
    for (g, p), area in common.items():
        if g == 0 or p == 0 or target.channels[g - 1] != predicted.channels[p - 1]:
            continue
        iou = area / (sizes[0][g] + sizes[1][p] - area - common.get((0, p), 0))
        if iou > 0.5:
            counts[target.channels[g - 1], :2] += iou, 1
            found.add(g)
            used.add(p)
    for g in range(1, len(target.channels) + 1):
        counts[target.channels[g - 1], 3] += g not in found
    for p in range(1, len(predicted.channels) + 1):
        if p not in used and common.get((0, p), 0) / sizes[1][p] <= 0.5:
            counts[predicted.channels[p - 1], 2] += 1
    return counts


def median_seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Of each, over rounds in which all take their turn, after one that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(1 + ROUNDS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if round_:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in taken.items()}


def compare_counting() -> None:
    rng = np.random.default_rng(0)
    for size, count in (((800, 1333), 20), ((800, 1333), 100), ((4000, 6000), 30)):
        numbers = blobs(rng, size, count)
        target, predicted = dense(numbers, rng), dense(np.roll(numbers, 7, axis=1), rng)
        predicted = Segments(predicted.numbers, target.channels, predicted.crowd, predicted.scores)
        np.testing.assert_allclose(
            count_segments(predicted, target, num_classes=CLASSES).to_array(), usual_way(predicted, target), atol=1e-9
        )
        seconds = median_seconds(
            {
                "ours": lambda t=target, p=predicted: count_segments(p, t, num_classes=CLASSES),
                "usual": lambda t=target, p=predicted: usual_way(p, t),
                "floor": lambda t=target, p=predicted: (t.numbers.sum(), p.numbers.sum()),
            }
        )
        print(
            f"count {size[0]}x{size[1]}, {count:3} segments: {1000 * seconds['ours']:7.2f} ms, the usual way takes "
            f"{seconds['usual'] / seconds['ours']:5.1f} times as long; ours {seconds['ours'] / seconds['floor']:.1f} times as "
            "long as reading both maps"
        )


def measure_fusion() -> None:
    rng = np.random.default_rng(0)
    for size in ((800, 1333), (4000, 6000)):
        for count in (10, 100):
            corners = rng.uniform(0, 0.8, (count, 2)) * size[::-1]
            sides = rng.uniform(0.05, 0.2, (count, 2)) * size[::-1]
            prediction = Prediction(
                size,
                rng.integers(0, 4, (size[0] // 50, size[1] // 50)).repeat(50, 0).repeat(50, 1).astype(np.uint8),
                np.concatenate([corners, corners + sides], 1).astype(np.float32),
                rng.integers(1, len(LABELS.things) + 1, count),
                np.sort(rng.uniform(0.5, 1, count))[::-1].astype(np.float32),
                np.ones((count, 28, 28), np.float32),
            )
            shown = np.zeros(size, np.uint8)
            shown[: prediction.channels.shape[0], : prediction.channels.shape[1]] = prediction.channels
            prediction = Prediction(size, shown, *(getattr(prediction, key) for key in ("boxes", "labels", "scores", "masks")))
            seconds = median_seconds({"fuse": lambda p=prediction: fuse(p, LABELS, Panoptic())})["fuse"]
            tracemalloc.start()
            fuse(prediction, LABELS, Panoptic())
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print(
                f"fuse {size[0]}x{size[1]}, {count:3} detections: {1000 * seconds:7.1f} ms, at most {peak / 2**20:.0f} MiB, "
                f"{peak / (size[0] * size[1]):.1f} bytes a pixel"
            )


if __name__ == "__main__":
    cv2.setNumThreads(1)
    compare_counting()
    measure_fusion()
