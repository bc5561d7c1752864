"""The counting of `imptool eval` and the usual ways, side by side in one run: python benchmarks/evaluate.py data/ccp

The folder has labels/ with PNGs; without one, outfits are drawn. Each map is a target; its prediction is the map 3 px off to
the right and below, with a quarter of its classes taken for one another. Three jobs, each on one thread and in memory: the
confusion matrix; the exact distance of every pixel to the nearest boundary pixel; and a confusion matrix for each of the 11
boundary bands, distance included. Finding the boundary pixels counts everywhere, and is imptool's everywhere.

Before anything is timed, the results of all ways are compared. Methods take turns in every round; medians of the rounds are
printed, ratios as medians of the paired rounds. Left out where it is missing: edt (pip install edt).

Then the whole command, `imptool eval --predictions` with and without bands, in one process, beside a loop that merely decodes
the same two label PNGs of every image with imptool's own reader: the floor. Images, targets and predictions are
links, over and over, so that files come from memory. What one image takes (start-up, plots, report, resampling) is
subtracted, of the loop likewise.

Linux only: memory is told in its units.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sklearn.metrics
import torch
from convert import draw_source, interleave, link_photographs, ratio, run
from models import machine
from numpy.typing import NDArray
from scipy import ndimage

from imptool.data.images import read_label_map, write_label_map
from imptool.metrics.boundary import BANDS, NO_BOUNDARY, band_confusions, boundary_pixels, squared_distance_to_boundary
from imptool.metrics.confusion import confusion_matrix
from imptool.metrics.conventions import conventions

try:
    import edt  # type: ignore[import-not-found]
except ImportError:
    edt = None

Array = NDArray[Any]
Pair = NDArray[np.integer]  # [2, H, W]: predicted, target
PACKAGES = ("numpy", "numba", "opencv-python-headless", "scipy", "scikit-learn", "edt")
IGNORE = 255
OURS, BINCOUNT, SKLEARN = "imptool", "np.bincount, as detectron2", "scikit-learn"
CV2, SCIPY, EDT = "cv2 DIST_MASK_PRECISE", "scipy distance_transform_edt", "edt"
MASKS = "cv2 distance + mask and bincount per band"

DECODE = """
import sys
from pathlib import Path
from imptool.data.images import read_label_map
for path in sorted(Path(sys.argv[1]).iterdir()):
    read_label_map(path)
    read_label_map(Path(sys.argv[2], path.name))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="a folder with labels/")
    parser.add_argument("--maps", type=int, default=60, help="label maps that are counted, from the first name on")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=5000, help="images that the command measures, in a third of the rounds")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        source = arguments.folder.resolve() if arguments.folder else draw_source(Path(temporary, "drawn"))
        targets = [read_label_map(path) for path in sorted((source / "labels").glob("*.png"))[: arguments.maps]]
        if not targets:
            parser.error(f"no PNG in {source / 'labels'}")
        num_classes = 1 + max(int(np.max(target, where=target != IGNORE, initial=0)) for target in targets)
        random = np.random.default_rng(0)
        pairs = [pair_of(target, num_classes, random) for target in targets]
        versions = {each.name: each.version for each in importlib.metadata.distributions() if each.name in PACKAGES}
        about = {**machine(torch.device("cpu")), "threads": 1, "versions": versions}
        figures: dict[str, Any] = {"machine": about, "source": source.name, "maps": len(pairs), "classes": num_classes}
        figures["confusion"] = time_confusion(pairs, num_classes, arguments.rounds)
        figures["distance"] = time_distance(pairs, arguments.rounds)
        figures["bands"] = time_bands(pairs, num_classes, arguments.rounds)
        figures["conventions"] = show_conventions(pairs[:10], num_classes)
        figures["command"] = time_command(source, Path(temporary), arguments.count, max(arguments.rounds // 3, 1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def pair_of(target: Pair, num_classes: int, random: np.random.Generator) -> Pair:
    present = np.setdiff1d(target, [IGNORE])
    swapped = random.choice(present, max(len(present) // 4, min(2, len(present))), replace=False)
    became = np.arange(max(num_classes, IGNORE + 1), dtype=target.dtype)
    became[IGNORE] = 0  # no prediction
    became[swapped] = np.roll(swapped, 1)
    return np.stack([became[np.roll(target, (3, 3), (0, 1))], target])


def compare(
    methods: Mapping[str, Callable[[Pair], Array]], pairs: Sequence[Pair], same: Callable[[str, Array, Array], bool]
) -> dict[str, int]:
    """How many maps get the result of imptool from each other method; this also compiles what is timed."""
    equal = dict.fromkeys(methods, 0)
    for pair in pairs:
        ours = methods[OURS](pair)
        for name, method in methods.items():
            equal[name] += same(name, ours, method(pair))
    return equal


def time_methods(
    title: str,
    methods: Mapping[str, Callable[[Pair], Array]],
    pairs: Sequence[Pair],
    rounds: int,
    same: Callable[[str, Array, Array], bool] = lambda _, ours, other: np.array_equal(ours, other),
) -> dict[str, Any]:
    equal = compare(methods, pairs, same)
    seconds = interleave(methods, pairs, rounds)
    print(f"\n{title:46s}maps as imptool   images/s   imptool is x as fast")
    for name in methods:
        agree = f"{equal[name]} of {len(pairs)}"
        print(f"{name:46s}{agree:>15s}{len(pairs) / statistics.median(seconds[name]):11.0f}{ratio(seconds, name, OURS):23.2f}")
    return {"equal": equal, "seconds": seconds}


# The confusion matrix.


def our_confusion(pair: Pair, *, num_classes: int) -> Array:
    return confusion_matrix(*pair, num_classes=num_classes, ignore=IGNORE)


def bincount_confusion(pair: Pair, *, num_classes: int) -> Array:
    """What is ignored becomes one class more, which is cut off in the end."""
    predicted, target = pair.astype(np.int64)
    target[target == IGNORE] = num_classes
    side = num_classes + 1
    counts = np.bincount(side * target.ravel() + predicted.ravel(), minlength=side**2)
    return counts.reshape(side, side)[:-1, :-1]


def sklearn_confusion(pair: Pair, *, num_classes: int) -> Array:
    predicted, target = pair
    counted = target != IGNORE
    return sklearn.metrics.confusion_matrix(target[counted], predicted[counted], labels=range(num_classes))


def time_confusion(pairs: Sequence[Pair], num_classes: int, rounds: int) -> dict[str, Any]:
    ways = {OURS: our_confusion, BINCOUNT: bincount_confusion, SKLEARN: sklearn_confusion}
    methods = {name: partial(way, num_classes=num_classes) for name, way in ways.items()}
    return time_methods("confusion matrix", methods, pairs, rounds)


# The exact distance to the boundary. Everyone else measures to the nearest zero of an image.


def interior(pair: Pair) -> Array:
    return ~boundary_pixels(pair[1], ignore=IGNORE)


def our_distance(pair: Pair) -> Array:
    return squared_distance_to_boundary(pair[1], ignore=IGNORE)


def cv2_distance(pair: Pair) -> Array:
    return cv2.distanceTransform(interior(pair).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def scipy_distance(pair: Pair) -> Array:
    return ndimage.distance_transform_edt(interior(pair))


def edt_distance(pair: Pair) -> Array:
    return edt.edtsq(interior(pair), parallel=1)


def same_distance(name: str, ours: Array, other: Array) -> bool:
    """Squares of distances are whole numbers; without boundary, each library gives what it likes."""
    if name not in (OURS, EDT):
        other = other.astype(np.float64) ** 2
    return bool((ours == NO_BOUNDARY).all()) or np.array_equal(ours, np.rint(other))


def time_distance(pairs: Sequence[Pair], rounds: int) -> dict[str, Any]:
    methods = {OURS: our_distance, CV2: cv2_distance, SCIPY: scipy_distance, EDT: edt_distance}
    if edt is None:
        print("\nedt is not installed, and left out: pip install edt")
        del methods[EDT]
    return time_methods("exact distance to the boundary", methods, pairs, rounds, same_distance)


# A confusion matrix for every band.


def our_bands(pair: Pair, *, num_classes: int) -> Array:
    return band_confusions(*pair, num_classes=num_classes, ignore=IGNORE)


def masked_bands(pair: Pair, *, num_classes: int) -> Array:
    """The usual script: the distance once, then a mask and a bincount for every band."""
    predicted, target = pair
    distance, counted = cv2_distance(pair), target != IGNORE
    found = []
    for width in BANDS:
        inside = (distance <= width) & counted
        cells = target[inside].astype(np.int64) * num_classes + predicted[inside]
        counts = np.bincount(cells, minlength=num_classes**2)
        found.append(counts.reshape(num_classes, num_classes))
    return np.stack(found)


def time_bands(pairs: Sequence[Pair], num_classes: int, rounds: int) -> dict[str, Any]:
    methods = {name: partial(way, num_classes=num_classes) for name, way in {OURS: our_bands, MASKS: masked_bands}.items()}
    figures = time_methods(f"{len(BANDS)} boundary bands, distance included", methods, pairs, rounds)
    print(f"imptool / {MASKS} = {ratio(figures['seconds'], MASKS, OURS):.1f} (wanted: at least 4)")
    return figures


# What the same predictions are called.


def show_conventions(pairs: Sequence[Pair], num_classes: int) -> dict[str, float | None]:
    """The mIOU of the first predictions as tools define it; few maps of many classes, as classes are absent then."""
    per_image = [our_confusion(pair, num_classes=num_classes) for pair in pairs]
    found = conventions(np.sum(per_image, axis=0), per_image, foreground=range(1, num_classes))
    print(f"\nmIOU of {len(pairs)} predictions, {num_classes} classes of which many are absent, in percent, as defined by")
    for name, value in found.items():
        print(f"{name:46s}{100 * value:15.1f}")
    return {name: None if math.isnan(value) else value for name, value in found.items()}


# The whole command.


def link_predictions(source: Path, temporary: Path, folder: Path) -> Path:
    """A prediction for each label map of a folder of links, which are links to those of the maps of `source`."""
    made = temporary / "predicted"
    if not made.is_dir():
        made.mkdir()
        maps = {path: read_label_map(path) for path in sorted((source / "labels").glob("*.png"))}
        random = np.random.default_rng(0)
        for path, target in maps.items():
            num_classes = 1 + int(np.max(target, where=target != IGNORE, initial=0))
            write_label_map(made / path.name, pair_of(target, num_classes, random)[0])
    (folder / "predictions").mkdir()
    for label_map in (folder / "labels").iterdir():
        (folder / "predictions" / label_map.name).symlink_to(made / label_map.readlink().name)
    return folder


def evaluate(folder: Path, *options: str) -> tuple[float, float]:
    out = folder.with_name("evaluated")
    shutil.rmtree(out, ignore_errors=True)
    where = ("--predictions", folder / "predictions", "--dataset", folder, "--out", out, "--workers", "0")
    return run("-m", "imptool", "eval", *where, *options)


def decode(folder: Path) -> tuple[float, float]:
    return run("-c", DECODE, folder / "labels", folder / "predictions")


def time_command(source: Path, temporary: Path, count: int, rounds: int) -> dict[str, Any]:
    """`imptool eval --predictions` beside merely decoding both PNGs of every image."""
    folders = [link_photographs(source, temporary / str(number), number) for number in (1, count // 10, count)]
    one, tenth, many = (link_predictions(source, temporary, folder) for folder in folders)
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "decode": decode,
        "eval": evaluate,
        "eval --boundary-bands": _with_bands,
    }
    for way in ways.values():
        way(one)  # compiles, where that was not done before
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = {count // 10: _with_bands(tenth)[1], count: 0.0}
    for _ in range(rounds):
        for name, way in ways.items():
            took, peak = way(many)
            seconds[name].append(took - way(one)[0])
            if name == "eval --boundary-bands":
                memory[count] = max(memory[count], peak)
    print(f"\nthe whole command on {count:,} images, {rounds} rounds{'':8s}images/s   to decoding")
    for name in ways:
        share = statistics.median(floor / took for floor, took in zip(seconds["decode"], seconds[name], strict=True))
        print(f"{name:52s}{(count - 1) / statistics.median(seconds[name]):14.0f}{share:14.2f}")
    print("wanted: at least 0.7 without bands, 0.35 with them")
    print("peak memory with bands: " + ", ".join(f"{peak:.0f} MiB at {number:,}" for number, peak in memory.items()))
    return {"count": count, "seconds": seconds, "peak_mib": memory}


def _with_bands(folder: Path) -> tuple[float, float]:
    return evaluate(folder, "--boundary-bands")


if __name__ == "__main__":
    main()
