"""Components of label maps, each with area, box and RLE: imptool beside the usual scripts, interleaved in one run.

    python benchmarks/components.py data/ccp/labels

Decoding the PNGs is left out. Images/s is the median over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.measure import label, regionprops

from imptool.data.components import find_components

Found = set[tuple[int, int, bytes]]
Map = NDArray[np.uint8]


def with_imptool(semantic_map: Map) -> Found:
    """One pass over all classes."""
    found = find_components(semantic_map, skip=[0])
    return set(zip(found.class_ids.tolist(), found.areas.tolist(), found.rles, strict=True))


def with_cv2(semantic_map: Map) -> Found:
    """The usual script: a pass per class, a mask and an encode per component."""
    found = set()
    for class_id in np.unique(semantic_map):
        if class_id == 0:
            continue
        count, numbered = cv2.connectedComponents((semantic_map == class_id).astype(np.uint8), connectivity=8)
        for number in range(1, count):
            found.add(_encoded(int(class_id), numbered == number))
    return found


def with_skimage(semantic_map: Map) -> Found:
    """One labelling over all classes, then a mask and an encode per component."""
    numbered = label(semantic_map, background=0, connectivity=2)
    found = set()
    for region in regionprops(numbered):
        found.add(_encoded(int(semantic_map[tuple(region.coords[0])]), numbered == region.label))
    return found


def _encoded(class_id: int, mask: NDArray[np.bool_]) -> tuple[int, int, bytes]:
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    coco_mask.toBbox(rle)
    return class_id, int(coco_mask.area(rle)), rle["counts"]


METHODS: dict[str, Callable[[Map], Found]] = {
    "imptool": with_imptool,
    "cv2 per class + encode": with_cv2,
    "skimage + encode": with_skimage,
}


@click.command()
@click.argument("labels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=60, show_default=True, help="How many label maps, from the first name on.")
@click.option("--rounds", default=3, show_default=True)
def main(labels: Path, images: int, rounds: int) -> None:
    """Print images/s of each method on the label PNGs in LABELS."""
    paths = sorted(labels.glob("*.png"))[:images]
    if not paths:
        raise click.ClickException(f"{labels}: no .png in it")
    cv2.setNumThreads(1)
    maps = [np.array(Image.open(path)) for path in paths]
    for semantic_map in maps:  # compiles, and checks that all do the same job
        expected = with_imptool(semantic_map)
        for name, method in METHODS.items():
            if method(semantic_map) != expected:
                raise click.ClickException(f"{name} finds other components than imptool")

    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds):
        for name, method in METHODS.items():
            begin = time.perf_counter()
            for semantic_map in maps:
                method(semantic_map)
            seconds[name].append(time.perf_counter() - begin)

    click.echo(f"{len(maps)} maps, {rounds} rounds, one thread")
    ours = statistics.median(seconds["imptool"])
    for name in METHODS:
        median = statistics.median(seconds[name])
        click.echo(f"{name:<24}{len(maps) / median:9.0f} images/s   imptool is {median / ours:5.1f} x as fast")


if __name__ == "__main__":
    main()
