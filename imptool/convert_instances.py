"""`imptool convert-instances`: label maps to connected-component instances, one COCO JSON for each split."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from imptool.data.coco import write_coco
from imptool.data.dataset import Dataset
from imptool.data.instances import ConvertedSplit, class_statistics, convert_split, instances_path
from imptool.files import InputError
from imptool.report.progress import say, track


def convert_instances(
    dataset: Dataset, *, out: Path | None, connectivity: int, min_area: int, workers: int, overwrite: bool, console: Console
) -> dict[str, ConvertedSplit]:
    """Convert every split of a dataset and write `instances/<dataset>/<split>.json`, or under `out`.

    Args:
        out: a folder, or for a dataset of one split a file that ends in .json.
    Raises:
        InputError: a result is there already and `overwrite` was not asked for, a split is empty, or no photograph of the
            whole dataset can be used.
    """
    paths = _output_paths(dataset, out)
    existing = [path for path in paths.values() if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{existing[0]} exists: add --overwrite to replace it, or choose another --out")
    for split in dataset.splits:
        dataset.split(split)  # an empty one is refused before anything is written
    if dataset.note:
        say(console, f"note: {dataset.note}")
    results: dict[str, ConvertedSplit] = {}
    for split, items in dataset.splits.items():
        progress = partial(track, console, title=split, total=len(items))
        result = convert_split(dataset, split, connectivity=connectivity, min_area=min_area, workers=workers, track=progress)
        if result.document["images"]:
            write_coco(paths[split], result.document)
        results[split] = result
    failed = [problem for result in results.values() for problem in result.failed]
    if not any(result.document["images"] for result in results.values()):
        raise InputError(f"{dataset.source}: none of its {len(failed)} photographs can be used; the first: {failed[0]}")
    for split, result in results.items():
        if not result.document["images"]:
            paths[split].unlink(missing_ok=True)  # of an earlier conversion
    _print_summary(dataset, results, paths, console)
    return results


def _output_paths(dataset: Dataset, out: Path | None) -> dict[str, Path]:
    if out is None:
        return {split: instances_path(dataset, split) for split in dataset.splits}
    if out.is_file() and out.suffix != ".json":
        raise InputError(f"--out {out} is a file: give a folder, or a name that ends in .json")
    if out.suffix == ".json" and not out.is_dir():
        if len(dataset.splits) > 1:
            raise InputError(f"--out {out} is one file, {dataset.name} has {len(dataset.splits)} splits: give a folder")
        return dict.fromkeys(dataset.splits, out)
    return {split: out / f"{split}.json" for split in dataset.splits}


def _print_summary(dataset: Dataset, results: dict[str, ConvertedSplit], paths: dict[str, Path], console: Console) -> None:
    table = Table(title=f"Instances of {escape(dataset.name)}", caption="side: of a square of the mean area, px")
    for heading in ("class", "group"):
        table.add_column(heading)
    for heading in (*results, "side", "under 16 px"):
        table.add_column(escape(heading), justify="right")
    for row in class_statistics({split: result.document for split, result in results.items()}, dataset):
        side = "" if math.isnan(row["side"]) else f"{row['side']:.0f}"
        counts = [f"{row['instances'][split]:,}" for split in results]
        table.add_row(escape(row["name"]), escape(row["group"]), *counts, side, f"{row['small']:,}")
    table.add_section()
    totals = [f"{len(result.document['annotations']):,}" for result in results.values()]
    table.add_row("all", "", *totals, "", "")
    console.print(table)
    for split, result in results.items():
        images, instances = len(result.document["images"]), len(result.document["annotations"])
        line = f"{paths[split]}: {images:,} photographs, {instances:,} instances"
        if not images:
            line = f"{paths[split]}: not written, no photograph of this split can be used"
        if result.dropped:
            line += f"; {result.dropped:,} components under --min-area dropped"
        say(console, line)
        if result.empty:
            line = f"  {len(result.empty)} without any instance (all background or ignored): {_some(result.empty)}"
            say(console, line)


def _some(names: list[str], most: int = 20) -> str:
    """Names in one line, at most so many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
