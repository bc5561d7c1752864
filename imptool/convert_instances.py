"""`imptool convert-instances`: label maps, polygons and panoptic PNGs to instances, and between their formats."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from imptool.data.dataset import Dataset, find_dataset_here, load_dataset
from imptool.data.export import NUMBERLESS, SMALL, Block, Export, Tally, convert_block, image_ids, lost_block, to_json
from imptool.data.images import IMAGE_SUFFIXES
from imptool.data.instances import INSTANCES, categories, conversion_info, note_origin
from imptool.data.journal import Journal
from imptool.data.layouts import Item
from imptool.data.layouts.pairs import is_there
from imptool.data.output import check_apart, path_from, results_folder
from imptool.files import InputError, dump_yaml, some, whole_file
from imptool.processes import map_ahead
from imptool.report.console import list_failures, plain, write_text
from imptool.report.progress import ProgressBar, count_of, say

_BLOCK = 64  # images that one process converts at a time
_ENOUGH, _ENOUGH_SLOW = (
    3000,
    300,
)  # images: processes take two seconds to start, RLE a millisecond, all else ten times that


@dataclass(frozen=True)
class Target:
    """Where the results of a dataset go: `result` for each split, PNGs in `pictures` for those formats that have any."""

    folder: Path
    results: Mapping[str, Path]
    pictures: Mapping[str, Path]
    description: Path | None = None  # the dataset YAML beside semantic maps

    def existing(self) -> list[Path]:
        folders = [path for path in dict.fromkeys(self.pictures.values()) if path.is_dir() and any(path.iterdir())]
        files = [path for path in (*self.results.values(), self.description) if path is not None and path.exists()]
        return [*files, *folders]


def command(
    *,
    dataset: str | None,
    out: Path | None,
    format_: str,
    segmentation: str,
    simplify: float,
    components: bool,
    connectivity: str,
    min_area: int,
    max_pixels: int,
    workers: int,
    force: bool,
    resume: bool,
    console: Console,
) -> int:
    """`imptool convert-instances`, with its options: convert `dataset`, or the one in the current folder.

    Returns the exit code: 1 where something could not be used, 2 where that is all of a split, 130 after Ctrl-C.
    Raises:
        InputError: two options contradict each other; as `load_dataset` and `convert_instances`.
    """
    if simplify and segmentation != "polygon":
        raise InputError("--simplify is for polygons: add --segmentation polygon")
    if not math.isfinite(simplify):
        raise InputError(f"--simplify {simplify}: write a number of pixels")
    if force and resume:
        raise InputError("--resume goes on with a conversion, --force starts over: choose one")
    found = load_dataset(dataset if dataset is not None else find_dataset_here(Path()), max_pixels=max_pixels)
    say(console, f"{found.name}: {len(found.labels.foreground)} classes, {_background(found)}, from {found.root}")
    export = Export(format_, segmentation, simplify, components, int(connectivity), min_area)
    try:
        tallies = convert_instances(found, export=export, out=out, workers=workers, force=force, resume=resume, console=console)
    except KeyboardInterrupt:
        write_text("stopped; the same command with --resume goes on\n", stderr=True)
        return 130
    lost = any(not tally.photographs for tally in tallies.values())  # of a whole split
    problems = [problem for tally in tallies.values() for problem in (*tally.failed, *tally.flaws)]
    return list_failures(problems, code=2 if lost else 1)


def _background(dataset: Dataset) -> str:
    labels = dataset.labels
    if labels.background is None:
        return "no background"
    return f"background {labels.background} ({labels.classes[0].name}), {labels.ignore} ignored"


def convert_instances(
    dataset: Dataset,
    *,
    export: Export,
    out: Path | None,
    workers: int,
    force: bool,
    resume: bool,
    console: Console,
) -> dict[str, Tally]:
    """Convert every split of a dataset. Finished blocks of images are kept in a journal until all is written.

    Args:
        out: a folder, or for COCO instances of a dataset of one split a file that ends in .json.
        workers: processes.
        resume: go on with the conversion that was stopped in that folder.
    Raises:
        InputError: a result is there already and `force` was not asked for, a stopped conversion is there and neither
            `force` nor `resume` was asked for, a split is empty, or no image of the whole dataset can be used.
    """
    target = _target(dataset, export, out)
    for split in dataset.splits:
        dataset.split(split)  # an empty one is refused before anything is written
    for note in (*dataset.remarks, *dataset.notes):
        say(console, f"note: {note}")
    if not dataset.has_photographs:
        say(console, f"note: {dataset.root} has no images: sizes are those of the labels; train and eval need images")
    journals = target.folder / f".converting-{dataset.name}-{export.format}"
    if resume and not journals.is_dir() and all(path.exists() for path in target.results.values()):
        say(console, f"{target.folder}: complete already, there is nothing to go on with; --force replaces it")
        return {}
    _check_source(dataset, target)
    parts = [journals.name, f"{journals.name}/*", *{path.name for path in target.pictures.values()}]
    check = partial(_check_room, target, journals, force=force, resume=resume)
    with results_folder(target.folder, lambda _: check(), parts=parts):
        if journals.is_dir() and not resume:
            shutil.rmtree(journals)
        gc.freeze()  # the list of images: collecting would go through all of it again and again, for 3 to 7 % of the time
        try:
            tallies = _convert_splits(dataset, export, target, journals, workers=workers, resume=resume, console=console)
        finally:
            gc.unfreeze()
        usable = any(tally.photographs for tally in tallies.values())
        if usable and out is None and export.format == "coco":
            note_origin(dataset)
        shutil.rmtree(journals)
    if not usable:
        failed = [problem for tally in tallies.values() for problem in tally.failed]
        number = _count_photographs(dataset) or len(failed)
        raise InputError(f"{dataset.source}: none of its {number} images can be used; the first: {failed[0]}")
    _print_summary(dataset, export, tallies, target, console)
    return tallies


def _count_photographs(dataset: Dataset) -> int:
    """The images that are there; an item may be a label map alone, or a bad row of a JSON."""
    items = [item for members in dataset.splits.values() for item in members]
    return len({item.image for item in items if item.image.suffix.lower() in IMAGE_SUFFIXES and is_there(item.image)})


def _target(dataset: Dataset, export: Export, out: Path | None) -> Target:
    if out is not None and out.is_file() and out.suffix != ".json":
        raise InputError(
            f"--out {out} is a file: give a folder" + (", or a name that ends in .json" * (export.format == "coco"))
        )
    if out is not None and out.suffix == ".json" and not out.is_dir():
        if export.format != "coco":
            raise InputError(f"--out {out} is one file, {export.format} writes many: give a folder")
        if len(dataset.splits) > 1:
            raise InputError(f"--out {out} is one file, {dataset.name} has {len(dataset.splits)} splits: give a folder")
        return Target(out.parent, dict.fromkeys(dataset.splits, out), {})
    folder = out or Path(INSTANCES if export.format == "coco" else export.format, dataset.name)
    results = {split: folder / f"{split}{'.txt' if export.format == 'semantic' else '.json'}" for split in dataset.splits}
    if export.format == "coco":
        return Target(folder, results, {})
    if export.format == "panoptic":
        return Target(folder, results, {split: folder / split for split in dataset.splits})
    description = folder / f"{folder.resolve().name}.yaml"
    return Target(folder, results, dict.fromkeys(dataset.splits, folder / "labels"), description)


def _check_source(dataset: Dataset, target: Target) -> None:
    """Results are never written over what they are made from, nor among it, whatever is asked."""
    results = [path for path in (*target.results.values(), target.description) if path is not None]
    for folder in {*target.pictures.values(), *(path.parent for path in results)}:
        check_apart(folder, dataset.folders, holds=False)
    names: dict[Path, set[str]] = {dataset.source.parent: {dataset.source.name}}
    for items in dataset.splits.values():
        for item in items:
            for path in (item.image, item.label, *item.more_labels):
                names.setdefault(path.parent, set()).add(path.name)
    sources = {folder.resolve(): found for folder, found in names.items()}
    pictures = {path.resolve() for path in target.pictures.values()}
    over = [path for path in map(Path.resolve, results) if path.name in sources.get(path.parent, ())]
    onto_root = target.pictures and target.folder.resolve() == dataset.root.resolve()  # lists of splits may lie there
    if onto_root or over or any(not pictures.isdisjoint((folder, *folder.parents)) for folder in sources):
        raise InputError(f"{target.folder} holds {dataset.name} itself: choose another --out")


def _check_room(target: Target, journals: Path, *, force: bool, resume: bool) -> None:
    if force:
        return
    if journals.is_dir() and not resume:
        raise InputError(f"{journals} is an unfinished conversion: add --resume to go on with it, or --force to start over")
    existing = target.existing()
    if existing and not (resume and journals.is_dir()):
        raise InputError(f"{existing[0]} exists: add --force to replace it, or choose another --out")


def _convert_splits(
    dataset: Dataset,
    export: Export,
    target: Target,
    journals: Path,
    *,
    workers: int,
    resume: bool,
    console: Console,
) -> dict[str, Tally]:
    """Fill the journal of every split, then write all results."""
    ids = image_ids(dataset)
    opened: dict[str, Journal] = {}
    for split, items in dataset.splits.items():
        header = {
            "export": asdict(export),
            "info": conversion_info(dataset, split, export),
            "labels": dataset.labels.to_plain(),
            "max_pixels": dataset.max_pixels,
            "sources": _fingerprint(items),
        }
        numbered = [(ids[item.stem], item) for item in items]
        blocks = [numbered[start : start + _BLOCK] for start in range(0, len(numbered), _BLOCK)]
        pictures = target.pictures.get(split, target.folder)
        convert = partial(convert_block, replace(dataset, splits={}), export, pictures)
        with Journal(journals / f"{split}.lines", header, pictures, resume=resume) as journal:
            fast = export.format == "coco" and export.segmentation == "rle"
            few = len(items) <= (_ENOUGH if fast else _ENOUGH_SLOW)
            # What stopped an earlier attempt may have been an image that ends the process that reads it.
            several = min(workers, int(journal.taken_up)) if few else workers
            lost = partial(_lost, dataset)
            _fill_journal(journal, convert, lost, blocks, split, workers=several, console=console)
        opened[split] = journal
    usable = [split for split, journal in opened.items() if journal.tally.photographs]
    for split, journal in opened.items():
        if split in usable:
            _write_result(target.results[split], dataset, split, export, journal)
        elif usable:
            target.results[split].unlink(missing_ok=True)  # of an earlier conversion
    if target.description is not None and usable:
        _write_description(target.description, dataset, {split: target.results[split].name for split in usable})
    return {split: journal.tally for split, journal in opened.items()}


def _fill_journal(
    journal: Journal,
    convert: Callable[[Sequence[tuple[int, Item]]], Block],
    lost: Callable[[tuple[int, Item], str], Block],
    blocks: Sequence[Sequence[tuple[int, Item]]],
    split: str,
    *,
    workers: int,
    console: Console,
) -> None:
    """Convert the blocks that the journal does not have yet."""
    waiting, total = blocks[journal.blocks :], sum(map(len, blocks))
    done = total - sum(map(len, waiting))
    if done:
        say(console, f"{split}: going on after {done:,} of {total:,}")
    with (
        ProgressBar(console, split, total=total, start=done) as bar,
        closing(map_ahead(convert, waiting, workers=workers, lost=lost)) as converted,
    ):
        for block, items in zip(converted, waiting, strict=True):
            journal.append(block)
            done += len(items)
            bar.update(done)


def _lost(dataset: Dataset, numbered: tuple[int, Item], why: str) -> Block:
    _, item = numbered
    return lost_block(dataset, item, f"{item.label}: {why}")


def _fingerprint(items: Sequence[Item]) -> str:
    """Of the names, sizes and times of all label files: another one makes other results."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.stem}\0{item.image.name}\0{item.problem}".encode(errors="surrogatepass"))
        for path in (item.label, *item.more_labels):
            try:
                status = path.stat()
                digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
            except OSError:
                digest.update(b"\0missing")
    return digest.hexdigest()


def _write_result(path: Path, dataset: Dataset, split: str, export: Export, journal: Journal) -> None:
    """Write a split's file from its journal, a line at a time: its size is not bounded by memory."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
        if export.format == "semantic":
            file.writelines(f"{json.loads(line)}\n" for line in journal.images())
        else:
            _write_document(file, dataset, split, export, journal)
        file.flush()
        os.fsync(file.fileno())  # the journal is removed next: a power cut must not take both


def _write_document(file: TextIO, dataset: Dataset, split: str, export: Export, journal: Journal) -> None:
    file.write('{"annotations":[')
    ids = count(1)
    for number, line in enumerate(journal.annotations()):
        own = re.sub(NUMBERLESS, lambda _: f'"id":{next(ids)},', line) if export.format == "coco" else line
        file.write(f"{',' if number else ''}{own}")
    file.write(f'],"categories":{to_json(categories(dataset, panoptic=export.format == "panoptic"))},"images":[')
    for number, line in enumerate(journal.images()):
        file.write(f"{',' if number else ''}{line}")
    info = conversion_info(dataset, split, export) | {"left_out": journal.tally.left_out}
    file.write(f'],"info":{to_json(info)},"licenses":[]}}\n')


def _write_description(path: Path, dataset: Dataset, splits: Mapping[str, str]) -> None:
    """A dataset YAML that takes the images from where they are and the label maps from here."""
    items = [item for split in splits for item in dataset.splits[split]]
    described: dict[str, Any] = {"layout": "folder", "root": "."}
    if dataset.has_photographs:
        photographs, suffix = _photo_folder(items)
        described["photographs"] = path_from(path.parent, photographs)
        if suffix:
            described["suffixes"] = [suffix, ".png"]
    labels = dataset.labels
    described |= {
        "background": labels.background,
        "ignore": labels.ignore,
        "left_right": [list(pair) for pair in dataset.left_right],
        "splits": dict(splits),
        "classes": [info.model_dump() for info in labels.classes],
    }
    with whole_file(path) as temporary:
        head = f"# {dataset.name} as semantic maps, written by imptool convert-instances --format semantic\n"
        temporary.write_text(head + dump_yaml(described), encoding="utf-8")


def _photo_folder(items: Sequence[Item]) -> tuple[Path, str]:
    """The folder that stems are relative to, and what names end in after them where that is more than a suffix."""
    item = next(item for item in items if not item.problem)
    folder = item.image.parents[item.stem.count("/")].resolve()
    ending = item.image.name.removeprefix(item.stem.rpartition("/")[2])
    return folder, "" if ending == item.image.suffix else ending


def _print_summary(dataset: Dataset, export: Export, tallies: Mapping[str, Tally], target: Target, console: Console) -> None:
    if export.format != "semantic":
        console.print(_class_table(dataset, tallies))
        if absent := _absent(dataset, tallies):
            what = "1 class has" if len(absent) == 1 else f"{len(absent):,} classes have"
            say(console, f"{what} no instance: {some(absent, 40)}")
    for split, tally in tallies.items():
        what = count_of(tally.photographs, "image")
        if export.format != "semantic":
            what += f", {count_of(tally.instances.total(), 'segment' if export.format == 'panoptic' else 'instance')}"
        line = f"{target.results[split]}: {what}"
        if not tally.photographs:
            line = f"{target.results[split]}: not written, no image of this split can be used"
        if tally.crowds:
            line += f", {tally.crowds:,} of them marked as crowds"
        if tally.unknown:
            line += f"; {tally.unknown:,} without a mask, as crowds where no mask lies"
        if tally.dropped:
            line += f"; {tally.dropped:,} under --min-area dropped"
        if tally.hidden:
            line += f"; {tally.hidden:,} hidden under others"
        say(console, line)
        if export.simplify:
            share = tally.wrong_pixels / max(tally.area.total(), 1)
            changed = f"{tally.wrong_pixels:,} pixels lost or added, {share:.2%} of the instances"
            say(console, f"  --simplify {export.simplify:g} px: {changed}")
        if tally.empty:
            say(console, f"  {len(tally.empty)} without any instance (all background or ignored): {some(tally.empty, 20)}")


def _absent(dataset: Dataset, tallies: Mapping[str, Tally]) -> list[str]:
    rows = categories(dataset)
    return [row["name"] for row in rows if not any(tally.instances[str(row["id"])] for tally in tallies.values())]


def _class_table(dataset: Dataset, tallies: Mapping[str, Tally]) -> Table:
    table = Table(title=f"Instances of {plain(dataset.name)}", caption="side: square root of the mean area, px")
    for heading in ("class", "group"):
        table.add_column(heading, overflow="fold")
    for heading in (*tallies, "side", f"under {SMALL} px"):
        table.add_column(plain(heading), justify="right")
    for row in categories(dataset):
        key = str(row["id"])
        counts = [tally.instances[key] for tally in tallies.values()]
        if not any(counts):
            continue
        area = sum(tally.area[key] for tally in tallies.values())
        side = f"{math.sqrt(area / sum(counts)):.0f}"
        small = sum(tally.small[key] for tally in tallies.values())
        table.add_row(plain(row["name"]), plain(row["supercategory"]), *(f"{count:,}" for count in counts), side, f"{small:,}")
    table.add_section()
    table.add_row("all", "", *(f"{tally.instances.total():,}" for tally in tallies.values()), "", "")
    return table
