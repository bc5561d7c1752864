"""`imptool outfits`: write a dataset of generated pictures, and print the same table as the paper's Table 7."""

from __future__ import annotations

import collections.abc
import math
import shlex
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console
from rich.table import Table

from imptool.data.coco import coco_document, write_coco
from imptool.data.components import Instances, find_components
from imptool.data.dataset import Generator
from imptool.data.images import write_label_map
from imptool.data.label_set import ClassInfo
from imptool.data.output import contents, results_folder
from imptool.files import InputError, nearest, read_yaml, whole_file
from imptool.outfits import CLASSES, GROUP_OF_CLASS, GROUPS, TABLE_7, VERSION, draw_outfit
from imptool.processes import map_ahead
from imptool.report.progress import say, track

MOST, SIDES = 1_000_000, (32, 4096)  # pictures; px
_RESULTS = ("images", "labels", "instances.json")


@dataclass(frozen=True)
class Written:
    """What one picture holds: its true instances as COCO rows without ids, and its components."""

    index: int
    annotations: list[dict[str, Any]]
    classes: list[int]  # of each component
    areas: list[int]


def command(*, out: Path, size: str, count: int, console: Console, **options: Any) -> None:
    """`imptool outfits`, with its options: as `write_outfits`, with `size` as text."""
    path = write_outfits(out, count=count, size=_height_and_width(size), console=console, **options)
    say(console, f"{path}: {count:,} outfits; next: imptool convert-instances {shlex.quote(str(path))}")


def _height_and_width(text: str) -> tuple[int, int]:
    height, by, width = text.lower().partition("x")
    if not (by and height.isdecimal() and width.isdecimal()):
        raise InputError(f"--size {text}: write height and width in px, such as 480x320")
    return int(height), int(width)


def write_outfits(
    out: Path,
    *,
    count: int,
    size: tuple[int, int],
    seed: int,
    groups: bool,
    workers: int,
    force: bool,
    console: Console,
    stuff: Sequence[str] = (),
) -> Path:
    """Write `images/`, `labels/`, `instances.json` and `<folder>.yaml` under `out`; give the YAML's path.

    Args:
        groups: describe the pictures with the groups of Table 7 as classes.
        stuff: names of classes that are described as no things: nobody counts their instances.
        size: (height, width). The same seed and size give the same picture at a number, whatever the count.
        force: replace what an earlier call with other numbers wrote; anything else in the folder is never touched.
    Raises:
        InputError: an impossible count, size or seed, no such class, or a folder that holds something else.
    """
    _check(count, size, seed)
    classes = _described(GROUPS if groups else CLASSES, stuff)
    generator = Generator(name="outfits", version=VERSION, seed=seed, size=list(size), count=count)
    path = out / f"{out.resolve().name}.yaml"
    with results_folder(out, partial(_check_room, path=path, generator=generator, force=force), parts=_RESULTS[:2]):
        _remove_earlier(out)
        _write_description(path, generator, classes, groups=groups)
        with closing(_draw_all(out, count=count, size=size, seed=seed, workers=workers)) as rows:
            written = list(track(console, rows, "outfits", total=count))
        _write_instances(out / "instances.json", written, generator)
    drawn = [class_id for row in written for class_id in row.classes]
    areas = [area for row in written for area in row.areas]
    console.print(table_7_twin(np.array(drawn, int), np.array(areas, float), count))
    return path


def _write_instances(path: Path, rows: Sequence[Written], generator: Generator) -> None:
    """The true instances as one COCO document."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    height, width = generator.size
    for row in rows:
        images.append({"id": row.index + 1, "file_name": f"images/{_name(row.index)}.jpg", "height": height, "width": width})
        for annotation in row.annotations:
            annotations.append({"id": len(annotations) + 1, "image_id": row.index + 1, **annotation})
    document = coco_document(
        images=images,
        annotations=annotations,
        categories=[{"id": info.id, "name": info.name, "supercategory": info.group} for info in CLASSES[1:]],
        description="true instances of generated outfits: one for every garment, also where it shows in several components",
        extra_info={"generator": generator.model_dump()},
    )
    write_coco(path, document)


def _check(count: int, size: tuple[int, int], seed: int) -> None:
    if not 1 <= count <= MOST:
        raise InputError(f"--count {count}: from 1 to {MOST:,} pictures")
    if not all(SIDES[0] <= side <= SIDES[1] for side in size):
        raise InputError(f"--size {size[0]}x{size[1]}: height and width from {SIDES[0]} to {SIDES[1]} px")
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}: from 0 to 2^63 - 1")


def _check_room(out: Path, path: Path, generator: Generator, *, force: bool) -> None:
    """InputError where the folder holds anything else than earlier pictures, or, unasked, other pictures."""
    there = contents(out)
    if not there:
        return
    if not there <= {path.name, *_RESULTS} or not path.is_file():
        raise InputError(f"{out} holds something else than generated outfits: choose an empty or new folder")
    earlier = read_yaml(path).get("generator")
    if earlier != generator.model_dump() and not force:
        raise InputError(f"{out} holds other outfits already ({path.name} says which): add --force, or choose another OUT")


def _remove_earlier(out: Path) -> None:
    for name in ("images", "labels"):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    (out / "instances.json").unlink(missing_ok=True)


def _described(classes: Sequence[ClassInfo], stuff: Sequence[str]) -> list[ClassInfo]:
    """The classes, some of them as no things."""
    known = [info.name for info in classes if info.thing]
    for name in stuff:
        if name not in known:
            raise InputError(f"--stuff {name}: no class of the outfits is called so{nearest(name, known)}")
    return [info.model_copy(update={"thing": info.thing and info.name not in stuff}) for info in classes]


def _write_description(path: Path, generator: Generator, classes: Sequence[ClassInfo], *, groups: bool) -> None:
    described: dict[str, Any] = {"layout": "folder", "root": ".", "generator": generator.model_dump()}
    if generator.count > 1:
        described["random_splits"] = {"seed": 0, "sizes": {"val": max(generator.count // 5, 1)}, "rest": "train"}
    described |= {"background": 0, "ignore": 255, "classes": [info.model_dump() for info in classes]}
    if groups:
        described["remap"] = GROUP_OF_CLASS
    with whole_file(path) as temporary:
        text = yaml.safe_dump(described, sort_keys=False, default_flow_style=None, width=120)
        temporary.write_text(
            f"# Generated outfits, of the {'groups' if groups else 'classes'} of Table 7 of the paper.\n" + text,
            encoding="utf-8",
        )


def _draw_all(
    out: Path, *, count: int, size: tuple[int, int], seed: int, workers: int
) -> collections.abc.Generator[Written, None, None]:
    """Draw and write the pictures in order; with workers, in processes that stay a little ahead."""
    draw = partial(_draw_one, out, size, seed)
    step = 8
    blocks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    several = workers if count >= 50 else 0
    with closing(map_ahead(partial(_draw_some, draw), blocks, workers=several)) as drawn:
        for written in drawn:
            yield from written


def _draw_some(draw: partial[Written], indices: Sequence[int]) -> list[Written]:
    return [draw(index) for index in indices]


def _draw_one(out: Path, size: tuple[int, int], seed: int, index: int) -> Written:
    outfit = draw_outfit(seed, index, size)
    with whole_file(out / "images" / f"{_name(index)}.jpg") as temporary:
        Image.fromarray(outfit.image).save(temporary, quality=93)
    write_label_map(out / "labels" / f"{_name(index)}.png", outfit.labels)
    garments = find_components(outfit.instances, skip=[0])
    parts = find_components(outfit.labels, skip=[0])
    annotations = [_joined(garments, number, outfit.class_of_instance) for number in np.unique(garments.class_ids).tolist()]
    return Written(index, annotations, parts.class_ids.tolist(), parts.areas.tolist())


def _joined(components: Instances, number: int, class_of_instance: np.ndarray) -> dict[str, Any]:
    """The COCO row of a garment: its components as one mask."""
    rows = np.flatnonzero(components.class_ids == number)
    masks: list[Any] = [{"size": list(components.size), "counts": components.rles[row]} for row in rows]
    merged: Any = masks[0] if len(masks) == 1 else coco_mask.merge(masks)
    x, y, width, height = components.boxes[rows].T
    left, top = int(x.min()), int(y.min())
    return {
        "category_id": int(class_of_instance[number]),
        "segmentation": {"size": list(components.size), "counts": merged["counts"].decode("ascii")},
        "area": int(components.areas[rows].sum()),
        "bbox": [left, top, int((x + width).max()) - left, int((y + height).max()) - top],
        "iscrowd": 0,
    }


def _name(index: int) -> str:
    return f"{index:06d}"


def table_7_twin(classes: np.ndarray, areas: np.ndarray, count: int) -> Table:
    """The columns of the paper's Table 7 beside its own figures: components of each class, and their mean size.

    Args:
        classes, areas: [N] class id and area in px of every component of `count` pictures.
    The paper's pictures are larger: its sides are scaled by one factor, the geometric mean over the classes that occur.
    """
    found = np.bincount(classes, minlength=len(TABLE_7) + 1)[1:]
    sides = np.sqrt(np.bincount(classes, weights=areas, minlength=len(TABLE_7) + 1)[1:] / np.maximum(found, 1))
    paper_count, paper_side = np.array([row.train + row.val for row in TABLE_7]), np.array([row.side for row in TABLE_7], float)
    there = found > 0
    scale = math.exp(np.log(sides[there] / paper_side[there]).mean()) if there.any() else 1.0
    table = Table("class", "group", title="Distribution of instances and areas (compare Table 7 of the paper)")
    for heading in ("instances", "share", "Table 7", "side px", f"Table 7 x {scale:.2f}"):
        table.add_column(heading, justify="right")
    for n, row in enumerate(TABLE_7):
        shares = f"{found[n] / max(found.sum(), 1):.1%}", f"{paper_count[n] / paper_count.sum():.1%}"
        side = f"{sides[n]:.0f}" if there[n] else "-"
        table.add_row(row.name, row.group, f"{found[n]:,}", *shares, side, f"{paper_side[n] * scale:.0f}")
    table.add_section()
    table.add_row(
        "all", "", f"{found.sum():,}", f"{found.sum() / count:.1f} a picture", f"{paper_count.sum() / 6000:.1f}", "", ""
    )
    table.caption = "share: of all instances; Table 7: train and val, about 6,000 pictures; side: square root of the mean area"
    return table
