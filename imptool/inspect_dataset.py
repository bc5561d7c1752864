"""`imptool inspect`: what is in a dataset and what is wrong with it, as tables, files, plots and a page."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from imptool.data.coco import decode_masks
from imptool.data.dataset import Dataset, find_dataset_here, load_dataset
from imptool.data.export import SMALL
from imptool.data.images import read_image
from imptool.data.instances import FEW
from imptool.data.layouts import Item
from imptool.data.output import check_free, results_folder
from imptool.data.survey import (
    KINDS,
    Converted,
    Facts,
    Problem,
    Statistics,
    compare,
    examine,
    item_of,
    read_converted,
    repeated_photographs,
    summarise,
)
from imptool.files import InputError, nearest, some, whole_file, write_json
from imptool.processes import map_ahead
from imptool.report import page
from imptool.report.console import plain, write_text
from imptool.report.overlays import colour_classes, colour_instances, drawable
from imptool.report.progress import ProgressBar, count_of, say

_BLOCK = 16  # images that one process looks at at a time
_ENOUGH = 500  # images; a process takes a second to start
_SHOWN = 5  # problems of a kind on the terminal
_IN_PLOTS = 50  # classes
_ON_PAGE = 25  # problems of a kind on the page
_PAGE_SIDE = 800  # px of a picture on the page
_NAMED = 20  # classes that a line names

Element = TypeVar("Element")
Value = TypeVar("Value")


class Inspection(NamedTuple):
    """What was found: figures, problems and, of every image, the facts."""

    dataset: Dataset
    statistics: Statistics
    problems: list[Problem]
    surveyed: list[Facts]


def command(
    *,
    dataset: str | None,
    out: Path | None,
    page: bool,
    sample: int,
    classes: Sequence[str],
    as_json: bool,
    max_pixels: int,
    workers: int,
    force: bool,
    console: Console,
) -> int:
    """`imptool inspect`, with its options: inspect `dataset`, or the one in the current folder; print and write what is found.

    Returns the exit code: 1 where there are problems.
    Raises:
        InputError: `classes` are none of the dataset's, or there is no page for them; `out` cannot be used; as
            `load_dataset` and `inspect_dataset`.
    """
    if classes and not page:
        raise InputError("--class chooses images for the page: add --page")
    found = load_dataset(dataset if dataset is not None else find_dataset_here(Path()), max_pixels=max_pixels)
    class_ids(found, classes)  # a wrong name should not wait for the work
    folder = out or (Path("inspected", found.name) if page else None)
    if folder is not None and folder.resolve() == found.root.resolve():
        raise InputError(f"--out {folder} is the dataset itself: choose another folder")
    with ExitStack() as held:
        if folder is not None:
            check = partial(check_free, force=force)
            held.enter_context(results_folder(folder, check, sources=found.folders, parts=["pictures"]))
        inspection = inspect_dataset(found, workers=workers, console=console)
        if as_json:
            write_text(json.dumps(to_plain(inspection), indent=1) + "\n")
        else:
            print_inspection(inspection, console)
        for path in write_inspection(inspection, folder) if folder is not None else ():
            say(console, str(path))
        if page and folder is not None:
            say(console, f"{write_inspection_page(inspection, folder, count=sample, classes=classes)}")
    return 1 if inspection.problems else 0


def inspect_dataset(dataset: Dataset, *, workers: int, console: Console) -> Inspection:
    """Read every image and label map of a dataset, and add up what they show.

    Raises:
        InputError: there is no image at all.
    """
    items = [(split, item) for split, members in dataset.splits.items() for item in members]
    if not items:
        raise InputError(f"{dataset.source}: all its splits are empty")
    here = replace(dataset, splits={})
    surveyed = _in_blocks(partial(examine, here), items, _lost, "inspected", workers=workers, console=console)
    problems = [problem for facts in surveyed for problem in facts.problems]
    problems += [Problem("annotation", (), note) for note in dataset.notes]
    problems += [Problem("pair", (), f"the split {split} is empty") for split, found in dataset.splits.items() if not found]
    if not dataset.has_photographs:
        problems.append(Problem("pair", (), f"{dataset.root} has no images: train and eval need them"))
    problems += repeated_photographs(dataset, surveyed)
    converted, unreadable = read_converted(dataset)
    problems += unreadable
    if converted:
        problems += _in_blocks(partial(compare, here), converted, _lost_compared, "compared", workers=workers, console=console)
    order = list(KINDS)
    problems.sort(key=lambda problem: order.index(problem.kind))
    return Inspection(dataset, summarise(dataset, surveyed), problems, surveyed)


def _lost(member: tuple[str, Item], why: str) -> list[Facts]:
    split, item = member
    return [Facts(split, item.stem, [Problem("unreadable", (item.stem,), f"{item.stem}: {why}")])]


def _lost_compared(converted: Converted, why: str) -> list[Problem]:
    return [Problem("contradiction", (converted.item.stem,), f"{converted.path}: {converted.item.stem}: {why}")]


def _in_blocks(
    work: Callable[[list[Element]], list[Value]],
    elements: Sequence[Element],
    lost: Callable[[Element, str], list[Value]],
    title: str,
    *,
    workers: int,
    console: Console,
) -> list[Value]:
    """All that `work` makes of blocks of elements, in order, with progress."""
    blocks = [list(elements[start : start + _BLOCK]) for start in range(0, len(elements), _BLOCK)]
    found: list[Value] = []
    several = workers if len(elements) > _ENOUGH else 0
    with (
        ProgressBar(console, title, total=len(elements)) as bar,
        closing(map_ahead(work, blocks, workers=several, lost=lost)) as made,
    ):
        for done, values in enumerate(made, start=1):
            found += values
            bar.update(min(done * _BLOCK, len(elements)))
    return found


def print_inspection(inspection: Inspection, console: Console) -> None:
    """The statistics as a table, and the problems by kind."""
    dataset, statistics, problems, _ = inspection
    caption = f"side: square root of the mean area of an instance, px; small: instances under {SMALL} px"
    table = Table(title=f"Classes of {plain(dataset.name)}", caption=caption)
    for heading in ("class", "group"):
        table.add_column(heading, overflow="fold")
    for heading in (
        *(f"instances\n{plain(split)}" for split in statistics.photographs),
        "side",
        "small",
        "images",
        "components",
        "holes",
    ):
        table.add_column(heading, justify="right")
    for row in statistics.rows:
        if not any((*row.instances.values(), *row.photographs.values())):  # told in a note, below
            continue
        counts = [f"{count:,}" for count in row.instances.values()]
        small = f"{row.small / sum(row.instances.values()):.1%}" if row.small else ""
        rest = [_side(row.side), small, f"{sum(row.photographs.values()):,}", f"{row.components:,}", f"{row.holes:,}"]
        table.add_row(plain(row.name), plain(row.group), *counts, *rest)
    table.add_section()
    totals = [f"{sum(row.instances[split] for row in statistics.rows):,}" for split in statistics.photographs]
    sums = [sum(row.components for row in statistics.rows), sum(row.holes for row in statistics.rows)]
    photographs = sum(statistics.photographs.values())
    table.add_row("all", "", *totals, "", "", f"{photographs:,}", *(f"{total:,}" for total in sums))
    console.print(table)
    for what, figures in summary(statistics).items():
        say(console, f"{what}: {figures}")
    for remark in (*dataset.remarks, *rare_classes(statistics)):
        say(console, f"note: {remark}")
    print_problems(problems, console, rest="--out writes all of them to problems.json")
    say(console, "")
    say(console, count_of(len(problems), "problem") if problems else "no problems")


def print_problems(problems: Sequence[Problem], console: Console, *, rest: str) -> None:
    """Problems by kind, the first of each; `rest` says where the others are to be had."""
    for kind, count in Counter(problem.kind for problem in problems).items():
        say(console, "")
        say(console, f"{kind}: {count_of(count, 'problem')}")
        of_kind = [problem.line for problem in problems if problem.kind == kind]
        for line in of_kind[:_SHOWN]:
            say(console, f"  {' '.join(line.split())}")
        if count > _SHOWN:
            say(console, f"  and {count - _SHOWN:,} more: {rest}")


def rare_classes(statistics: Statistics) -> list[str]:
    """Lines about the classes that no image shows, that only splits without training show, or that have few instances."""
    absent = [row.name for row in statistics.rows if not any(row.photographs.values())]
    lines = [f"no image shows {some(absent, _NAMED)}"] if absent else []
    if statistics.photographs.get("train"):
        elsewhere: dict[str, list[str]] = {}
        for row in statistics.rows:
            splits = " and ".join(split for split, count in row.photographs.items() if count)
            if splits and not row.photographs["train"]:
                elsewhere.setdefault(splits, []).append(row.name)
        lines += [f"not in train, only in {splits}: {some(names, _NAMED)}" for splits, names in elsewhere.items()]
    totals = {row.name: sum(row.instances.values()) for row in statistics.rows}
    few = [f"{name} ({total})" for name, total in totals.items() if 0 < total < FEW]
    return [*lines, f"fewer than {FEW} instances: {some(few, _NAMED)}"] if few else lines


def summary(statistics: Statistics) -> dict[str, str]:
    """Images, their components, and the classes that are worn together most often: {what: figures}."""
    found = {"images": ", ".join(f"{split} {count:,}" for split, count in statistics.photographs.items())}
    per_photograph = statistics.per_photograph
    if len(per_photograph):
        mean, middle, most = per_photograph.mean(), np.median(per_photograph), per_photograph.max()
        found["components of an image"] = f"{mean:.1f} on average, median {middle:g}, at most {most}"
    names = [row.name for row in statistics.rows]
    upper = np.triu(statistics.together, 1)
    places = [int(place) for place in np.argsort(-upper, axis=None, kind="stable")[:3] if upper.flat[place]]
    if places:
        pairs = [f"{names[place // len(names)]} + {names[place % len(names)]} ({upper.flat[place]:,})" for place in places]
        found["most often together"] = "; ".join(pairs)
    return found


def to_plain(inspection: Inspection) -> dict[str, Any]:
    """Statistics and problems as plain values for JSON."""
    dataset, statistics, problems, _ = inspection
    rows = [
        {**vars(row), "instances": dict(row.instances), "photographs": dict(row.photographs)}
        | {"side": None if math.isnan(row.side) else row.side}
        for row in statistics.rows
    ]
    per_photograph = np.bincount(statistics.per_photograph).tolist()
    return {
        "dataset": dataset.name,
        "photographs": dict(statistics.photographs),
        "classes": rows,
        "together": statistics.together.tolist(),
        "components_of_a_photograph": {str(number): count for number, count in enumerate(per_photograph) if count},
        "problems": [{"kind": problem.kind, "photographs": list(problem.stems), "line": problem.line} for problem in problems],
        "kinds": KINDS,
    }


def write_inspection(inspection: Inspection, out: Path) -> list[Path]:
    """Write `classes.csv`, `together.csv`, `problems.json` and the plots; gives their paths."""
    statistics = inspection.statistics
    write_json(out / "problems.json", to_plain(inspection)["problems"], indent=1)
    _write_classes(out / "classes.csv", statistics)
    names = [row.name for row in statistics.rows]
    together = [[name, *counts] for name, counts in zip(names, statistics.together.tolist(), strict=True)]
    _write_csv(out / "together.csv", [["images with both", *names], *together])
    _write_plots(statistics, out)
    return [out / name for name in ("problems.json", "classes.csv", "together.csv", *PLOTS)]


PLOTS = {
    "instances.png": "Instances of each class.",
    "areas.png": "Square roots of the instances' areas, px. A box holds the middle half, its line the middle 90 %.",
    "components.png": "Connected components of the semantic map of an image.",
    "together.png": "Images that show both classes, as a share of those that show the class of the row.",
}


def _write_plots(statistics: Statistics, out: Path) -> None:
    """The classes that occur, at most `_IN_PLOTS`: no screen shows a thousand bars, and classes.csv has them all."""
    # matplotlib takes half a second to import, and plain statistics draw nothing
    from imptool.report.plots import plot_areas, plot_class_counts, plot_histogram, plot_together

    photographs = np.diag(statistics.together)
    often = np.argsort(-photographs, kind="stable")[:_IN_PLOTS]
    places = np.sort(often[photographs[often] > 0]).tolist()
    rows = [statistics.rows[place] for place in places]
    names = [drawable(row.name) or f"class {row.class_id}" for row in rows]
    plot_class_counts(
        out / "instances.png", names, {split: [row.instances[split] for row in rows] for split in statistics.photographs}
    )
    plot_areas(out / "areas.png", names, [statistics.areas[row.class_id] for row in rows])
    plot_histogram(out / "components.png", statistics.per_photograph, "components of an image", "images")
    plot_together(out / "together.png", names, statistics.together[np.ix_(places, places)])


def _write_classes(path: Path, statistics: Statistics) -> None:
    """The columns of the paper's Table 7, and more."""
    splits = list(statistics.photographs)
    head = ["id", "class", "group", *(f"instances_{split}" for split in splits), "side_px"]
    head += [*(f"photographs_{split}" for split in splits), f"instances_under_{SMALL}_px", "components", "holes"]
    rows: list[list[Any]] = []
    for row in statistics.rows:
        side = "" if math.isnan(row.side) else f"{row.side:.1f}"
        counts = [*row.instances.values(), side, *row.photographs.values(), row.small, row.components, row.holes]
        rows.append([row.class_id, row.name, row.group, *counts])
    _write_csv(path, [head, *rows])


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def class_ids(dataset: Dataset, names: Sequence[str]) -> set[int]:
    """The ids of foreground classes by their names; InputError when one of them is none."""
    known = {dataset.labels.names[channel]: dataset.labels.ids[channel] for channel in dataset.labels.foreground}
    for name in names:
        if name not in known:
            raise InputError(f"--class {name}: {dataset.name} has no such class{nearest(name, known)}")
    return {known[name] for name in names}


def choose_examples(inspection: Inspection, *, count: int, wanted: set[int]) -> list[Item]:
    """A sample of usable images, of those that show a wanted class if there are any, drawn by a hash of their names."""
    items = item_of(inspection.dataset)
    usable = [facts for facts in inspection.surveyed if facts.usable and (not wanted or wanted & facts.classes)]
    usable.sort(key=lambda facts: hashlib.sha256(facts.stem.encode(errors="replace")).digest())
    return sorted((items[facts.split, facts.stem] for facts in usable[:count]), key=lambda item: item.stem)


def write_inspection_page(inspection: Inspection, out: Path, *, count: int, classes: Sequence[str]) -> Path:
    """Write `index.html` with the figures, the plots, the problems and a sample of images."""
    dataset, statistics, problems, _ = inspection
    chosen = choose_examples(inspection, count=count, wanted=class_ids(dataset, classes))
    examples = [_example(dataset, item, out) for item in chosen]
    shown = f"with {', '.join(classes)}" if classes else "drawn by a hash of their names"
    headline = {"images": f"{sum(statistics.photographs.values()):,}", "classes": f"{len(statistics.rows)}"}
    headline["instances"] = f"{sum(sum(row.instances.values()) for row in statistics.rows):,}"
    headline["problems"] = f"{len(problems):,}"
    sections = {
        "Classes": [
            page.headline_html(headline),
            page.terms_html(summary(statistics)),
            *map(page.text_html, rare_classes(statistics)),
            _class_table(statistics, dataset.labels.colours),
        ],
        "Plots": [
            page.text_html(f"Of the classes that occur, at most the {_IN_PLOTS} most frequent; classes.csv has all."),
            *(page.figure_html(name, about, about) for name, about in PLOTS.items()),
        ],
        "Problems": _problem_parts(problems),
        "Images": [page.text_html(f"{count_of(len(examples), 'image')}, {shown}."), page.gallery_html(examples)],
    }
    definitions = {
        "instance": "what the source tells apart, else a connected component of a class, 8-connected",
        "side": "the square root of the mean area of a class's instances, in px (Table 7 of the paper)",
        "small": f"instances under {SMALL} px",
        "hole": "a region inside a component that belongs to another class or to none",
    }
    definitions |= {problem.kind: KINDS[problem.kind] for problem in problems}
    splits = count_of(len(statistics.photographs), "split")
    intro = (
        f"{dataset.name}, from {dataset.root}: {len(statistics.rows)} classes; {splits}: {', '.join(statistics.photographs)}."
    )
    path = out / "index.html"
    page.write_page(path, f"What is in {dataset.name}", intro, sections, definitions)
    return path


def _class_table(statistics: Statistics, colours: Mapping[int, tuple[int, int, int]]) -> page.Html:
    photographs = max(sum(statistics.photographs.values()), 1)
    rows: list[list[str | float | page.Swatch]] = []
    for row in statistics.rows:
        total, shown = sum(row.instances.values()), sum(row.photographs.values())
        rows.append(
            [
                page.Swatch(row.name, colours[row.class_id]),
                row.group,
                *(f"{number:,}" for number in row.instances.values()),
                shown / photographs,
                _side(row.side),
                f"{row.small / total:.1%}" if row.small else "",
                f"{row.components:,}",
                f"{row.holes:,}",
            ]
        )
    splits = [f"instances, {split}" for split in statistics.photographs]
    columns = ["class", "group", *splits, "of the images", "side", "small", "components", "holes"]
    return page.table_html(columns, rows, caption="By class")


def _problem_parts(problems: Sequence[Problem]) -> list[page.Html]:
    if not problems:
        return [page.text_html("No problem was found.")]
    lines: dict[str, list[str]] = {}
    for problem in problems:
        lines.setdefault(problem.kind, []).append(problem.line)
    rows = []
    for kind, found in lines.items():
        rows += [[kind, line] for line in found[:_ON_PAGE]]
        if len(found) > _ON_PAGE:
            rows.append([kind, f"and {len(found) - _ON_PAGE:,} more: problems.json has all of them"])
    table = page.table_html(["kind", "what was found"], rows, caption=count_of(len(problems), "problem"))
    return [table]


def _example(dataset: Dataset, item: Item, out: Path) -> page.Example:
    """Image, map and instances of one item, written as pictures beneath the page."""
    ids = dataset.read_labels(item)
    instances = dataset.read_instances(item, connectivity=8, components=False)
    image = (
        read_image(item.image, max_pixels=dataset.max_pixels)
        if dataset.has_photographs
        else np.full((*ids.shape, 3), 255, np.uint8)
    )
    step = max(1, math.ceil(max(ids.shape) / _PAGE_SIDE))
    masks = [_mask(rle, instances.size)[::step, ::step].copy() for rle in instances.rles]  # one at a time: they are large
    small, small_ids = np.ascontiguousarray(image[::step, ::step]), np.ascontiguousarray(ids[::step, ::step])
    shown = [info.id for info in dataset.labels.classes if info.id != dataset.labels.background]
    pictures = {
        "image": small,
        "semantic map": colour_classes(small, small_ids, ids=shown, alpha=0.75, colours=dataset.labels.colours),
        "instances, in colours that no class has": colour_instances(
            small, np.array(masks, np.uint8).reshape(-1, *small_ids.shape)
        ),
    }
    if not dataset.has_photographs:
        del pictures["image"]
    name = hashlib.sha256(item.stem.encode(errors="replace")).hexdigest()[:12]
    paths = {}
    for what, picture in pictures.items():
        path = Path("pictures") / f"{name}-{what.partition(',')[0].replace(' ', '-')}.jpg"
        with whole_file(out / path) as temporary:
            Image.fromarray(picture).save(temporary, quality=88)
        paths[what] = path.as_posix()
    names = dict(zip(dataset.labels.ids, dataset.labels.names, strict=True))
    present = [class_id for class_id in np.unique(ids).tolist() if class_id in shown]
    legend = [(names[class_id], dataset.labels.colours[class_id]) for class_id in present]
    return page.Example(item.stem or item.label.name, paths, legend, count_of(len(masks), "instance"), small_ids.shape)


def _mask(rle: bytes, size: tuple[int, int]) -> np.ndarray:
    return decode_masks([{"segmentation": {"size": list(size), "counts": rle}}], size)[0]


def _side(side: float) -> str:
    return "" if math.isnan(side) else f"{side:.0f}"
