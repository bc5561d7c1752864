"""How much of a true mask survives its projection, for both samplings, on the components of real label maps.

    python benchmarks/projection/sampling.py FOLDER-OF-LABEL-MAPS [--background 0] [--count 200]

A component's exact mask, cropped to its box, becomes a 28 x 28 mask by averaging areas, as a perfect mask head would
give it. It is projected onto a canvas of a quarter of the resized image, as the models do, cut at 0.5, and compared with
the component's mask averaged onto the canvas's pixels, cut at 0.5. Components that vanish there are left out. Printed is the
mean over components of the intersection over union, for each short side. `floor/ceil` grows every cell to whole pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as rle

from imptool.data.components import find_components
from imptool.data.images import read_label_map
from imptool.projection import SAMPLINGS, project_masks

MASK_SIDE, STRIDE = 28, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--background", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="maps, evenly from the sorted names")
    parser.add_argument("--short-sides", type=int, nargs="+", default=[800, 256, 128])
    arguments = parser.parse_args()
    paths = sorted(arguments.folder.glob("*.png"))
    paths = [paths[n] for n in np.linspace(0, len(paths) - 1, min(arguments.count, len(paths))).astype(int)]
    rules = [*SAMPLINGS, "floor/ceil"]
    print(f"{len(paths)} maps of {arguments.folder}\nshort side  components  " + "  ".join(f"{rule:>10}" for rule in rules))
    for side in arguments.short_sides:
        found = np.concatenate([overlaps(read_label_map(path), side, arguments.background, rules) for path in paths])
        print(f"{side:10}  {len(found):10}  " + "  ".join(f"{mean:10.3f}" for mean in found.mean(axis=0)))


def overlaps(label_map: np.ndarray, side: int, background: int, rules: list[str]) -> np.ndarray:
    """Intersection over union [components, rules] of one label map."""
    height, width = label_map.shape
    scale = side / min(height, width)
    size = (round(height * scale / STRIDE), round(width * scale / STRIDE))
    steps = np.array([size[1] / width, size[0] / height] * 2)
    components = find_components(label_map, skip=[background])
    rows = []
    for (x, y, w, h), counts in zip(components.boxes.tolist(), components.rles, strict=True):
        exact = rle.decode({"size": [height, width], "counts": counts}).astype(np.float32)
        true = cv2.resize(exact, size[::-1], interpolation=cv2.INTER_AREA) >= 0.5
        if not true.any():
            continue
        soft = _average(exact[y : y + h, x : x + w])
        box = np.array([x, y, x + w, y + h]) * steps
        projected = [project(box, soft, size, rule) >= 0.5 for rule in rules]
        rows.append([(mine & true).sum() / (mine | true).sum() for mine in projected])
    return np.array(rows).reshape(-1, len(rules))


def _average(crop: np.ndarray) -> np.ndarray:
    """A crop as MASK_SIDE x MASK_SIDE means over areas, exact also where it is smaller than that."""
    height, width = crop.shape
    fine = np.repeat(np.repeat(crop, MASK_SIDE, axis=0), MASK_SIDE, axis=1)
    return fine.reshape(MASK_SIDE, height, MASK_SIDE, width).mean(axis=(1, 3))


def project(box: np.ndarray, mask: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    if rule == "floor/ceil":
        return _grown_cells(box, mask, size)
    zero = torch.zeros(1, dtype=torch.int64)
    boxes, masks = torch.from_numpy(box)[None], torch.from_numpy(mask)[None]
    scores = torch.ones(1, dtype=masks.dtype)
    return project_masks(boxes, zero, scores, masks, zero, num_layers=1, size=size, batch=1, sampling=rule)[0, 0].numpy()


def _grown_cells(box: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the paper's Algorithm 1 gives where a cell covers the pixels from floor to ceil of its edges."""
    columns, rows = (np.linspace(box[n], box[n + 2], MASK_SIDE + 1) for n in (0, 1))
    canvas = np.zeros(size)
    for i in range(MASK_SIDE):
        for j in range(MASK_SIDE):
            top, bottom = int(np.floor(rows[i])), int(np.ceil(rows[i + 1]))
            left, right = int(np.floor(columns[j])), int(np.ceil(columns[j + 1]))
            place = canvas[max(top, 0) : bottom, max(left, 0) : right]
            np.maximum(place, mask[i, j], out=place)
    return canvas


if __name__ == "__main__":
    main()
