"""`imptool compare`: evaluations side by side by figure, class and distance to the boundary; significant differences."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from imptool.data.label_set import LabelSet
from imptool.data.output import check_free, results_folder
from imptool.evaluation.figures import Measured, Resampled, distance_key, groups_of
from imptool.evaluation.record import METRICS, Evaluation, load_record
from imptool.evaluation.sheets import (
    TOO_FEW,
    WORDS,
    band_curves,
    for_plots,
    panoptic_resampled,
    panoptic_shares,
    precision_shares,
    share,
    swatch,
)
from imptool.files import InputError, whole_file
from imptool.metrics.average_precision import DEFINITIONS as AP_DEFINITIONS
from imptool.metrics.bootstrap import is_significant
from imptool.metrics.panoptic import QUALITIES
from imptool.report.console import write_text
from imptool.report.page import Cell, Difference, Share
from imptool.report.progress import say
from imptool.report.tables import Sheet, markdown, terminal_table

_ABSENT = Share(math.nan, math.nan, math.nan)
_STAR = "* significant (95 %)"
_NO_DIFFERENCE = Difference(math.nan, math.nan, math.nan, False)


@dataclass(frozen=True)
class Comparison:
    """Evaluations of the same images by name; differences are from the first one."""

    runs: Mapping[str, Evaluation]

    @property
    def first(self) -> str:
        return next(iter(self.runs))

    @property
    def others(self) -> list[str]:
        return list(self.runs)[1:]

    @property
    def labels(self) -> LabelSet:
        return self.runs[self.first].labels

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """The semantic maps of the runs that have any."""
        return {name: run.measured[run.main] for name, run in self.runs.items() if run.main in run.measured}

    @cached_property
    def bands(self) -> tuple[float, ...]:
        """The widths that all semantic maps were measured at."""
        common = [set(each.cells.bands) for each in self.measured.values()]
        return tuple(sorted(set.intersection(*common))) if common else ()

    @cached_property
    def unlike(self) -> dict[str, str]:
        """Figures that are left out, as they were not measured with one size in all runs: {figure: the sizes}."""
        sizes = {key: {getattr(each.cells, key) for each in self.measured.values()} for key in ("boundary_f", "boundary_iou")}
        return {key: ", ".join(size or "none" for size in sorted(found)) for key, found in sizes.items() if len(found) > 1}

    @cached_property
    def keys(self) -> list[str]:
        """The means that more than one run has, in the order to show."""
        known = [key for key in WORDS if sum(not math.isnan(self.figure(name, key).value) for name in self.runs) > 1]
        if self.labels.things == self.labels.foreground:
            known = [key for key in known if not key.endswith("_things")]
        return [*known, *(distance_key("band", width, "miou") for width in self.bands[:1])]

    def figure(self, name: str, key: str) -> Share:
        """A figure of a run with its interval; nan where it was not measured."""
        return self._figures[name].get(key, _ABSENT)

    def difference(self, name: str, key: str) -> Difference:
        """A run's figure less that of the first, with the interval of the paired bootstrap."""
        return self._differences[name].get(key, _NO_DIFFERENCE)

    @cached_property
    def _figures(self) -> dict[str, dict[str, Share]]:
        found: dict[str, dict[str, Share]] = {}
        for name, run in self.runs.items():
            each = self.measured.get(name)
            found[name] = {key: share(each, key) for key in each.figures if self._is_alike(key)} if each else {}
            found[name] |= precision_shares(run) | panoptic_shares(run)
        return found

    @cached_property
    def _differences(self) -> dict[str, dict[str, Difference]]:
        return {name: self._from_first(name) for name in self.others}

    def _from_first(self, name: str) -> dict[str, Difference]:
        changed = self._resampled(name).less(self._resampled(self.first))
        return {
            key: Difference(changed.values[key], *interval, bool(is_significant(*interval)))
            for key, interval in changed.intervals.items()
            if self._is_alike(key) and not math.isnan(changed.values[key])
        }

    def _resampled(self, name: str) -> Resampled:
        others = self.runs[name].precision_resampled | panoptic_resampled(self.runs[name])
        return self.measured[name].resampled | others if name in self.measured else others

    def _is_alike(self, key: str) -> bool:
        return key.rpartition("/")[2] not in self.unlike


def command(*, runs: Sequence[str], split: str, format_: str, out: Path | None, force: bool, console: Console) -> None:
    """`imptool compare`, with its options: print the comparison and, with `out`, write it.

    Raises:
        InputError: as `comparison_folder` and `load_runs`.
    """
    with ExitStack() as held:
        if out is not None:
            held.enter_context(comparison_folder(out, force=force))
        compared = compare(load_runs(runs, split=split))
        print_comparison(compared, console, format_)
        for path in write_comparison(compared, out) if out is not None else ():
            write_text(f"{path}\n", stderr=format_ != "table")


def comparison_folder(out: Path, *, force: bool) -> AbstractContextManager[None]:
    """Hold the folder that a comparison goes to; InputError where it is an evaluation's, or not free and no `force`."""

    def check(out: Path) -> None:
        if (out / METRICS).is_file():
            raise InputError(f"--out {out} holds an evaluation: choose another folder")
        check_free(out, force=force)

    return results_folder(out, check)


def load_runs(arguments: Sequence[str], *, split: str) -> dict[str, Evaluation]:
    """The evaluations that are named on the command line, by the names that tables show.

    Args:
        arguments: a run's folder, in which `eval-<split>` is taken; a folder with `metrics.json`; or NAME=FOLDER.
    Raises:
        InputError: there is no evaluation; or one name stands for two.
    """
    loaded, given = [], []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or Path(argument).exists():
            name, path = "", argument
        loaded.append((Path(path), load_record(_evaluation_folder(Path(path), split))))
        given.append(name)
    names = _names(loaded, given)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"two evaluations would be called {twice[0]}: name them, such as a={loaded[0][0]} b={loaded[1][0]}")
    return dict(zip(names, (run for _, run in loaded), strict=True))


def _evaluation_folder(path: Path, split: str) -> Path:
    if path.name == METRICS or (path / METRICS).exists():
        return path
    if (path / f"eval-{split}" / METRICS).exists():
        return path / f"eval-{split}"
    if not path.exists():
        raise InputError(f"{path} does not exist: name runs, or folders that imptool eval wrote")
    if (path / "recipe.yaml").is_file():
        raise InputError(f"{path} has no eval-{split}/{METRICS}: imptool eval {path} --split {split} makes it")
    raise InputError(f"{path} holds no evaluation: name a run, or a folder that imptool eval wrote")


def _names(loaded: Sequence[tuple[Path, Evaluation]], given: Sequence[str]) -> list[str]:
    """What a run is called: as it is asked for, else by its model or predictions; by its path where two would be the same."""
    names = [name or run.main or "prior" for name, (_, run) in zip(given, loaded, strict=True)]
    counts = Counter(names)
    return [
        name if own or counts[name] == 1 else path.as_posix() for own, name, (path, _) in zip(given, names, loaded, strict=True)
    ]


def compare(runs: Mapping[str, Evaluation]) -> Comparison:
    """Hold evaluations against each other; InputError when they are not of the same images, labels and classes."""
    (first_name, first), *others = runs.items()
    for name, run in others:
        if difference := first.labels.difference(run.labels):
            raise InputError(f"{first_name} and {name} have different classes: {difference}")
        if first.images != run.images:
            count = len(set(first.images) ^ set(run.images))
            raise InputError(
                f"{first_name} and {name} were measured on different images ({count} are in one of them alone): "
                "evaluate both on the same split"
            )
        for what, hashes in (
            ("labels", (first.labels_hash, run.labels_hash)),
            ("instances", (first.instances_hash, run.instances_hash)),
        ):
            if all(hashes) and hashes[0] != hashes[1]:
                raise InputError(f"{first_name} and {name} were measured against different {what}: evaluate both again")
        truths = first.panoptic_truth, run.panoptic_truth
        if all(truths) and truths[0] != truths[1]:
            words = " and ".join(f"{name} against {truth}" for name, truth in zip((first_name, name), truths, strict=True))
            raise InputError(f"panoptic quality was measured of {words}: such figures cannot be compared")
    return Comparison(runs)


def sheets_of(compared: Comparison) -> list[Sheet]:
    """The tables, those without content left out."""
    sheets = [_models(compared), _differences(compared), _classes(compared), _things(compared), _bands(compared)]
    return [sheet for sheet in sheets if sheet.rows]


def _models(compared: Comparison) -> Sheet:
    """A row for each run, as in the paper's Table 1."""
    keys = {"box/AP": "box AP", "mask/AP": "mask AP", "miou": "mIOU", "macc": "mAcc", "pixel_accuracy": "pixel acc"}
    keys["panoptic/pq"] = "PQ"
    keys = {
        key: words
        for key, words in keys.items()
        if any(not math.isnan(compared.figure(name, key).value) for name in compared.runs)
    }
    first = compared.runs[compared.first]
    title = f"{first.dataset}, split {first.split}, {len(first.images):,} images (percent)"
    rows: list[list[Cell]] = [[name, *(compared.figure(name, key) for key in keys)] for name in compared.runs]
    captions = [f"in brackets: 95 % interval over images; {TOO_FEW}", *_conditions(compared)]
    return Sheet(title, ["run", *keys.values()], rows, "; ".join(captions))


def _conditions(compared: Comparison) -> list[str]:
    """What the runs were measured with, a line each: test-time augmentation and canvas, where they are not the usual in all."""
    runs, lines = compared.runs, []
    if any(run.tta for run in runs.values()):
        lines.append("test-time augmentation: " + "; ".join(f"{name} {run.tta or 'none'}" for name, run in runs.items()))
    if any(run.swapped for run in runs.values()):
        lines.append("on the canvas: " + "; ".join(f"{name} {run.canvas or 'none'}" for name, run in runs.items()))
    fused = {name: run.about.get("fusion") for name, run in runs.items() if run.panoptic}
    if any(each != next(iter(fused.values())) for each in fused.values()):
        told = {
            name: ", ".join(f"{key} {value}" for key, value in (each or {}).items()) or "files" for name, each in fused.items()
        }
        lines.append("panoptic results: " + "; ".join(f"{name} {words}" for name, words in told.items()))
    return lines


def _differences(compared: Comparison) -> Sheet:
    rows: list[list[Cell]] = [
        [_words(key), *(compared.difference(name, key) for name in compared.others)] for key in compared.keys if compared.others
    ]
    caption = f"{_STAR}: the interval of the paired difference excludes 0; {TOO_FEW}"
    return Sheet(f"Difference from {compared.first} (points)", ["", *compared.others], rows, caption)


def _classes(compared: Comparison) -> Sheet:
    """IOU by class, as in the paper's Tables 2 and 4, and the means of things and stuff where there are both."""
    labels = compared.labels
    names = list(compared.measured)
    others = [name for name in names if name in compared.others and compared.first in compared.measured]

    def row(words: Cell, key: str) -> list[Cell]:
        return [words, *(compared.figure(name, key) for name in names), *(compared.difference(name, key) for name in others)]

    rows = [row(swatch(labels, channel), f"class/{info.id}/iou") for channel, info in enumerate(labels.classes)]
    rows = [cells for cells in rows if any(isinstance(cell, Share) and not math.isnan(cell.value) for cell in cells)]
    if rows:
        rows.append(row("mean, foreground", "miou"))
        if labels.things != labels.foreground:
            rows.append(row("mean, things", "miou_things"))
    columns = ["IOU by class", *names, *(f"{name}\nless {compared.first}" for name in others)]
    return Sheet("Classes (percent, points)", columns, rows, _STAR if others else "")


def _things(compared: Comparison) -> Sheet:
    """How much the things gain, beside how many and how large they are: the paper's Table 8."""
    labels = compared.labels
    instances = next((run.instances for run in compared.runs.values() if run.instances), {})
    others = [name for name in compared.others if name in compared.measured and compared.first in compared.measured]
    if not (instances and others):
        return Sheet("", [], [])
    pixels = compared.measured[compared.first].confusion.sum(axis=1)
    rows: list[list[Cell]] = []
    for channel in labels.things:
        class_id = labels.ids[channel]
        gains = [compared.difference(name, f"class/{class_id}/iou") for name in others]
        rows.append([swatch(labels, channel), *gains, f"{instances.get(class_id, 0):,}", f"{pixels[channel]:,}"])
    rows.append(["average", *(compared.difference(name, "miou_things") for name in others), "", ""])
    columns = ["thing", *(f"{name}\nless {compared.first}" for name in others), "instances", "area, px"]
    return Sheet("Things: gain in IOU, and how many there are (points)", columns, rows, _STAR)


def _bands(compared: Comparison) -> Sheet:
    names = list(compared.measured)
    others = [name for name in compared.others if name in names and compared.first in names]
    rows: list[list[Cell]] = []
    for width in compared.bands:
        key = distance_key("band", width, "miou")
        rows.append(
            [
                f"{width:g}",
                *(compared.figure(name, key) for name in names),
                *(compared.difference(name, key) for name in others),
            ]
        )
    columns = ["within px", *(f"{name}\nmIOU" for name in names), *(f"{name}\nless {compared.first}" for name in others)]
    return Sheet("Near the boundary (percent, points)", columns, rows, _STAR if others else "")


def _words(key: str) -> str:
    kind, _, rest = key.partition("/")
    return f"mIOU within {float(rest.partition('/')[0]):g} px of a boundary" if kind == "band" else WORDS[key]


def print_comparison(compared: Comparison, console: Console, format_: str) -> None:
    """The tables as rich's, as Markdown, or every figure as CSV, on standard output."""
    if format_ == "csv":
        write_text(to_csv(compared))
    elif format_ == "markdown":
        write_text("\n".join(map(markdown, sheets_of(compared))))
    else:
        for place, sheet in enumerate(sheets_of(compared)):
            console.print(terminal_table(sheet, intervals=place < 2))
        if not compared.others:
            say(console, "one run has no differences: name a second one")
    for line in _conditions(compared) if format_ == "csv" else ():
        write_text(f"{line}\n", stderr=True)
    for key, sizes in compared.unlike.items():
        write_text(f"left out: {WORDS[key]}, which was measured with different sizes ({sizes})\n", stderr=True)


def to_csv(compared: Comparison) -> str:
    """A line for each figure of the split, of its groups and classes, within each band, of AP and of PQ, of every run.

    Its value and interval, its difference from the first run, the interval of that, and whether it is significant (95 %):
    empty where that is not known. Shares are 0..1.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["figure", "class", "group", "within_px", "run", "value", "low", "high"]
    writer.writerow([*head, "difference", "difference_low", "difference_high", "significant"])
    for key, *named in _rows(compared):
        for name in compared.runs:
            value = compared.figure(name, key)
            change = compared.difference(name, key) if name in compared.others else _NO_DIFFERENCE
            if not math.isnan(value.value):
                significant = "" if math.isnan(change.low) else "yes" if change.significant else "no"
                numbers = [_number(number) for number in (*value[:3], *change[:3])]
                writer.writerow([*named, name, *numbers, significant])
    return text.getvalue()


def _rows(compared: Comparison) -> Iterator[tuple[str, str, str, str, str]]:
    """The key of every figure, with what it is, its class, its group and the width of its band."""
    labels = compared.labels
    of_class = ("iou", "accuracy", "boundary_f", "boundary_iou")
    means = [key for key in WORDS if "/" not in key]
    for prefix, within in (("", ""), *((distance_key("band", width, ""), f"{width:g}") for width in compared.bands)):
        yield from ((prefix + key, key, "", "", within) for key in means)
        for group in groups_of(labels):
            yield from ((f"{prefix}group/{group}/{key}", key, "", group, within) for key in ("miou", "macc"))
        for info in labels.classes:
            yield from ((f"{prefix}class/{info.id}/{key}", key, info.name, "", within) for key in of_class)
    for kind in ("box", "mask"):
        yield from ((f"{kind}/{key}", f"{kind} {key}", "", "", "") for key in AP_DEFINITIONS)
        for info in labels.classes:
            yield from ((f"{kind}/class/{info.id}/{key}", f"{kind} {key}", info.name, "", "") for key in AP_DEFINITIONS)
    means = [f"{key}{suffix}" for suffix in ("", "_things", "_stuff", "_with_background") for key in QUALITIES]
    yield from ((f"panoptic/{key}", key, "", "", "") for key in means)
    for info in labels.classes:
        yield from ((f"panoptic/class/{info.id}/{key}", key, info.name, "", "") for key in QUALITIES)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def write_comparison(compared: Comparison, out: Path) -> list[Path]:
    """Write `compare.md`, `compare.csv` and, of runs with common bands, the curves of Figure 5; give the paths."""
    texts = {"compare.md": "\n".join(map(markdown, sheets_of(compared))), "compare.csv": to_csv(compared)}
    for name, text in texts.items():
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    for suffix in (".png", ".svg"):
        (out / f"bands{suffix}").unlink(missing_ok=True)
    paths = [out / name for name in texts]
    if compared.bands:
        from imptool.report.plots import plot_bands  # matplotlib takes half a second to import, and a table needs none

        paths += plot_bands(out / "bands.png", compared.bands, *band_curves(for_plots(compared.measured), compared.bands))
    return paths
