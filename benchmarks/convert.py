"""`imptool convert-instances` and the usual ways, side by side in one run: python benchmarks/convert.py data/ccp

The folder has photos/ or images/, and labels/ with PNGs; without one, outfits are drawn. Three tables: components with area,
box and RLE, of maps in memory; map -> COCO -> map, with what each way loses; and the whole command beside a loop that merely
decodes the same label PNGs with imptool's own reader, which is the floor: no command can be faster.

Methods take turns in every round; medians of the rounds are printed, ratios as medians of the paired rounds. The command
converts links to the images of the folder, over and over, so that files come from memory and not from a disk. What it
takes for one image (start-up, reading of compiled code) is subtracted, of the loop likewise; starting workers counts.
Left out of the first two tables: reading PNGs, writing JSON. Left out as peers: converters that bring their own versions of
everything (supervision, datumaro, ultralytics), and cc3d where it is missing: pip install connected-components-3d

Linux only: memory is told in its units.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from models import machine
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes
from skimage.measure import label, regionprops

from imptool.data.coco import annotations_of
from imptool.data.components import find_components
from imptool.data.dataset import CLASS_LISTS
from imptool.data.images import read_label_map, write_label_map
from imptool.data.polygons import rings_of_mask
from imptool.outfits import CLASSES, draw_outfit
from imptool.processes import usable_cores

try:
    import cc3d  # type: ignore[import-not-found]
except ImportError:
    cc3d = None

Map = NDArray[np.integer]
Row = dict[str, Any]
Component = tuple[int, int, tuple[int, ...], bytes]  # class id, area, box, RLE
Rounds = dict[str, list[float]]  # seconds of each method in each round
PACKAGES = ("numpy", "numba", "pillow", "opencv-python-headless", "pycocotools", "scikit-image", "connected-components-3d")
DRAWN = 60
CONVERTED = "converted.json"
OURS, USUAL, CC3D = "imptool", "cv2 per class + encode", "cc3d + encode"
DECODE = """
import sys
from pathlib import Path
from imptool.data.images import read_label_map
for path in sorted(Path(sys.argv[1]).iterdir()):
    read_label_map(path)
"""
# A process takes over the peak of the one that starts it, so a small one stands between.
LAUNCH = """
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="photos/ or images/, and labels/")
    parser.add_argument("--maps", type=int, default=60, help="label maps of the first two tables, from the first name on")
    parser.add_argument("--count", type=int, default=10_000, help="images that the command converts; a thousand at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, help="one more run of the command, on so many images (ModaNet has 55,000)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        source = arguments.folder.resolve() if arguments.folder else draw_source(Path(temporary, "drawn"))
        maps = [read_label_map(path) for path in sorted((source / "labels").glob("*.png"))[: arguments.maps]]
        versions = {each.name: each.version for each in importlib.metadata.distributions() if each.name in PACKAGES}
        about = {**machine(torch.device("cpu")), "threads": 1, "versions": versions}
        figures: dict[str, Any] = {"machine": about, "source": source.name}
        figures["components"] = time_components(maps, arguments.rounds)
        figures["round_trip"] = time_round_trips(maps, arguments.rounds)
        figures["command"] = time_command(source, Path(temporary), arguments.count, arguments.rounds)
        if arguments.large:
            figures["large"] = convert_once(source, Path(temporary), arguments.large)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def draw_source(folder: Path) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(DRAWN):
        outfit = draw_outfit(0, index, (820, 550))
        Image.fromarray(outfit.image).save(folder / "images" / f"{index:04}.jpg")
        write_label_map(folder / "labels" / f"{index:04}.png", outfit.labels)
    (folder / CLASS_LISTS[0]).write_text("".join(f"{info.name}\n" for info in CLASSES), encoding="utf-8")
    return folder


def interleave(methods: Mapping[str, Callable[[Map], object]], maps: Sequence[Map], rounds: int) -> Rounds:
    seconds: Rounds = {name: [] for name in methods}
    for number in range(rounds):
        order = list(methods)
        for name in order if number % 2 else reversed(order):
            began = time.perf_counter()
            for semantic_map in maps:
                methods[name](semantic_map)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Rounds, name: str, to: str) -> float:
    """How many times as long as another a method takes: the median of the paired rounds."""
    return statistics.median(one / other for one, other in zip(seconds[name], seconds[to], strict=True))


# Components of a map: class, area, box and RLE of each.


def with_imptool(semantic_map: Map) -> list[Component]:
    """One pass over all classes."""
    found = find_components(semantic_map, skip=[0])
    boxes = map(tuple, found.boxes.tolist())
    return list(zip(found.class_ids.tolist(), found.areas.tolist(), boxes, found.rles, strict=True))


def with_cv2(semantic_map: Map) -> list[Component]:
    """The usual script: a pass per class, a mask and an encode per component."""
    found = []
    for class_id in np.unique(semantic_map):
        if class_id == 0:
            continue
        count, numbered = cv2.connectedComponents((semantic_map == class_id).astype(np.uint8), connectivity=8)
        found += [encoded(int(class_id), numbered == number) for number in range(1, count)]
    return found


def with_skimage(semantic_map: Map) -> list[Component]:
    """One labelling over all classes, then a mask and an encode per component."""
    numbered = label(semantic_map, background=0, connectivity=2)
    regions = regionprops(numbered)
    return [encoded(int(semantic_map[tuple(region.coords[0])]), numbered == region.label) for region in regions]


def with_cc3d(semantic_map: Map) -> list[Component]:
    """One labelling over all classes; by columns, as `encode` wants its masks, which makes it twice as fast."""
    by_column = np.asfortranarray(semantic_map)
    numbered, count = cc3d.connected_components(by_column, connectivity=8, return_N=True)
    masks = (numbered == number for number in range(1, count + 1))
    return [encoded(int(by_column.ravel("K")[mask.ravel("K").argmax()]), mask) for mask in masks]


def encoded(class_id: int, mask: NDArray[np.bool_]) -> Component:
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return class_id, int(coco_mask.area(rle)), tuple(coco_mask.toBbox(rle).astype(int).tolist()), rle["counts"]


def time_components(maps: Sequence[Map], rounds: int) -> dict[str, Any]:
    methods = {OURS: with_imptool, USUAL: with_cv2, "skimage + encode": with_skimage, CC3D: with_cc3d}
    if cc3d is None:
        print("cc3d is not installed, and left out: pip install connected-components-3d")
        del methods[CC3D]
    for semantic_map in maps:  # compiles, and checks that all do the same job
        expected = sorted(with_imptool(semantic_map))
        for name, method in methods.items():
            if sorted(method(semantic_map)) != expected:
                sys.exit(f"{name} finds other components than imptool")
    seconds = interleave(methods, maps, rounds)
    print(f"\ncomponents of {len(maps)} maps in memory, one thread, {rounds} rounds{'':12s}images/s  imptool is x as fast")
    for name in methods:
        print(f"{name:60s}{len(maps) / statistics.median(seconds[name]):10.0f}{ratio(seconds, name, OURS):12.1f}")
    for name, wanted in ((USUAL, 20), (CC3D, 5)):
        if name in methods:
            print(f"imptool / {name} = {ratio(seconds, name, OURS):.1f} (wanted: at least {wanted})")
    return {"maps": len(maps), "components": sum(len(with_imptool(each)) for each in maps), "seconds": seconds}


# Map -> COCO annotations -> map.


def our_rles(semantic_map: Map) -> list[Row]:
    return annotations_of(find_components(semantic_map, skip=[0]), image_id=1, first_id=1)


def our_polygons(semantic_map: Map) -> list[Row]:
    rows = our_rles(semantic_map)
    for row in rows:
        x, y, width, height = row["bbox"]
        mask = coco_mask.decode(row["segmentation"])
        row["segmentation"] = rings_of_mask(mask[y : y + height, x : x + width], offset=(x, y))
    return rows


def rle_script(semantic_map: Map) -> list[Row]:
    size = list(semantic_map.shape)
    return [
        {"category_id": class_id, "area": area, "bbox": box, "iscrowd": 0, "segmentation": {"size": size, "counts": rle}}
        for class_id, area, box, rle in with_cv2(semantic_map)
    ]


def contours_script(semantic_map: Map) -> list[Row]:
    """A polygon for each outer contour of a class; COCO has none of less than three points."""
    rows = []
    for class_id in np.unique(semantic_map):
        mask = (semantic_map == class_id).astype(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0] if class_id else ()
        for contour in contours:
            if contour.size >= 6:
                row = {"category_id": int(class_id), "area": cv2.contourArea(contour), "bbox": cv2.boundingRect(contour)}
                rows.append(row | {"iscrowd": 0, "segmentation": [contour.ravel().tolist()]})
    return rows


def masks_of(rows: Sequence[Row], size: tuple[int, ...]) -> list[NDArray[np.uint8]]:
    """As pycocotools reads annotations."""
    rles = [
        coco_mask.merge(coco_mask.frPyObjects(row["segmentation"], *size))
        if isinstance(row["segmentation"], list)
        else row["segmentation"]
        for row in rows
    ]
    return [coco_mask.decode(rle) for rle in rles]


def paint(rows: Sequence[Row], size: tuple[int, ...]) -> Map:
    """The annotations in their order; a later one covers an earlier one."""
    semantic_map = np.zeros(size, np.uint16)
    for row, mask in zip(rows, masks_of(rows, size), strict=True):
        semantic_map[mask == 1] = row["category_id"]
    return semantic_map


def there_and_back(annotate: Callable[[Map], list[Row]], semantic_map: Map) -> Map:
    return paint(annotate(semantic_map), semantic_map.shape)


def losses(semantic_map: Map, rows: Sequence[Row]) -> Counter[str]:
    """What annotations lose of a map. Each component is looked for in the annotation of its class that shows most of it:
    lost, where none does; merged, where that annotation is taken already. A hole is lost where all of it is filled."""
    masks = masks_of(rows, semantic_map.shape)
    numbered = label(semantic_map, background=0, connectivity=2)
    regions = regionprops(numbered)
    shown = np.zeros((len(rows) + 1, len(regions) + 1), np.int64)  # px of each component; the last row stays 0
    for n, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        shown[n] = np.bincount(numbered[(mask == 1) & (semantic_map == row["category_id"])], minlength=len(regions) + 1)
    best = {region.label: int(shown[:, region.label].argmax()) for region in regions if shown[:, region.label].any()}
    found = Counter(foreground=int((numbered > 0).sum()), components=len(regions), lost=len(regions) - len(best))
    for region in regions:
        holes = label(binary_fill_holes(region.image) & ~region.image, connectivity=1)
        found["holes"] += int(holes.max())
        if region.label in best:
            mask = masks[best[region.label]][region.slice]
            found["holes_lost"] += sum(bool(mask[holes == number].all()) for number in range(1, int(holes.max()) + 1))
    found["merged"] = len(best) - len(set(best.values()))
    found["wrong_pixels"] = int((paint(rows, semantic_map.shape) != semantic_map).sum())
    found["crowds"] = sum(row["iscrowd"] for row in rows)
    return found


def time_round_trips(maps: Sequence[Map], rounds: int) -> dict[str, Any]:
    methods = {
        "imptool, RLE": our_rles,
        "imptool, polygons": our_polygons,
        "script, RLE": rle_script,
        "script, contours to polygons": contours_script,
    }
    seconds = interleave({name: partial(there_and_back, method) for name, method in methods.items()}, maps, rounds)
    print(f"\nmap -> COCO -> map{'':12s}wrong px, % of foreground   lost / merged   holes lost   crowds   images/s   command")
    table: dict[str, Row] = {}
    for name, method in methods.items():
        found: Counter[str] = Counter()
        for semantic_map in maps:
            found.update(losses(semantic_map, method(semantic_map)))
        wrong = 100 * found["wrong_pixels"] / found["foreground"]
        command = "yes" if name.startswith(OURS) else "no"
        print(
            f"{name:30s}{wrong:25.2f}{found['lost']:9d} / {found['merged']:<5d}{found['holes_lost']:7d} of {found['holes']:<4d}"
            f"{found['crowds']:7d}{len(maps) / statistics.median(seconds[name]):11.0f}   {command}"
        )
        table[name] = {**found, "wrong_percent": wrong, "command": command, "seconds": seconds[name]}
    return {"maps": len(maps), "methods": table}


# The whole command.


def link_photographs(source: Path, folder: Path, count: int) -> Path:
    """A folder of `count` pairs, which are links to those of `source`, over and over."""
    photographs = next(source / name for name in ("photos", "images") if (source / name).is_dir())
    suffixes = {path.stem: path.suffix for path in photographs.iterdir()}
    labels = sorted((source / "labels").glob("*.png"))
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        label_map = labels[number % len(labels)]
        photograph = photographs / (label_map.stem + suffixes[label_map.stem])
        (folder / "images" / f"{number:06}{photograph.suffix}").symlink_to(photograph)
        (folder / "labels" / f"{number:06}.png").symlink_to(label_map)
    for name in CLASS_LISTS:
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    return folder


def run(*command: str | Path) -> tuple[float, float]:
    """Seconds of a Python command, and the peak memory of the largest of its processes in MiB."""
    words = [sys.executable, "-c", LAUNCH, sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


def convert(folder: Path, *, workers: int) -> tuple[float, float]:
    out = folder.with_name(CONVERTED)
    out.unlink(missing_ok=True)
    return run("-m", "imptool", "convert-instances", folder, "--out", out, "--workers", str(workers if workers > 1 else 0))


def decode(folder: Path) -> tuple[float, float]:
    return run("-c", DECODE, folder / "labels")


def time_command(source: Path, temporary: Path, count: int, rounds: int) -> dict[str, Any]:
    one, tenth, many = (link_photographs(source, temporary / str(number), number) for number in (1, count // 10, count))
    cores = usable_cores()
    workers = sorted({*(2**power for power in range(cores.bit_length())), cores})
    convert(one, workers=1)  # compiles, where that was not done before
    seconds: Rounds = {"decode": [], **{f"{number} workers": [] for number in workers}}
    memory = {count // 10: convert(tenth, workers=1)[1], count: 0.0}
    if len(json.loads((temporary / CONVERTED).read_bytes())["images"]) != count // 10:
        sys.exit(f"some images of {source} cannot be converted: see imptool convert-instances {source}")
    for _ in range(rounds):
        seconds["decode"].append(decode(many)[0] - decode(one)[0])
        for number in workers:
            took, peak = convert(many, workers=number)
            seconds[f"{number} workers"].append(took - convert(one, workers=number)[0])
            if number == 1:
                memory[count] = max(memory[count], peak)
    print(f"\nthe whole command on {count:,} images, {rounds} rounds{'':12s}images/s   to 1 worker")
    for name in seconds:
        print(f"{name:56s}{(count - 1) / statistics.median(seconds[name]):10.0f}{ratio(seconds, '1 workers', name):14.2f}")
    print(f"imptool with 1 worker / decoding = {ratio(seconds, 'decode', '1 workers'):.2f} (wanted: at least 0.7)")
    print("peak memory, 1 worker: " + ", ".join(f"{peak:.0f} MiB at {number:,}" for number, peak in memory.items()))
    return {"count": count, "seconds": seconds, "peak_mib": memory}


def convert_once(source: Path, temporary: Path, count: int) -> dict[str, Any]:
    workers = usable_cores()
    seconds, memory = convert(link_photographs(source, temporary / "large", count), workers=workers)
    size = (temporary / CONVERTED).stat().st_size
    print(
        f"\n{count:,} images, {workers} workers: {seconds:.0f} s, start-up and all; "
        f"{memory:.0f} MiB in the largest process; {size / 1e6:.0f} MB of JSON"
    )
    return {"count": count, "workers": workers, "seconds": seconds, "peak_mib": memory, "bytes": size}


if __name__ == "__main__":
    main()
