"""`imptool predict`: images to label PNGs, overlays, COCO results, cut-outs and a page to look through them."""

from __future__ import annotations

import errno
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from imptool import distributed
from imptool.checkpoint import TrainedModel, load_run, named_weights, newest_run
from imptool.data.images import image_size
from imptool.data.output import contents, is_inside, results_folder
from imptool.data.prediction import Prediction
from imptool.data.tta import Tta, parse_tta
from imptool.files import DEFAULT_WEIGHTS, TENSORS_FILE, InputError, find_shipped_weights, nearest, read_ahead, sha256_of
from imptool.models.inference import choose_compute, choose_device, parse_resized
from imptool.prediction.journal import Journal, Record
from imptool.prediction.lists import listed, write_lists
from imptool.prediction.photographs import Photograph, find_photographs, title_of
from imptool.prediction.results import FOLDERS, SAVED, Loaded, are_whole, load, source_of, write_results
from imptool.processes import DeadWorker, NoWorker, ProcessPool
from imptool.recipe import Panoptic, change_panoptic
from imptool.report.console import list_failures, plain
from imptool.report.page import duration
from imptool.report.progress import count_of, say, track

_DISK = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO}  # what the next image would meet as well
_FILES = ("predictions.json", "panoptic.json", "images.json", "index.html")


@dataclass(frozen=True)
class Settings:
    """How images are parsed.

    title: what they are called together. resume: keep what an earlier run has finished, in place of removing it. save: what is
    written, of `results.SAVED`. batch: how many images of one size go through the network together.
    workers: threads that read, and as many that write. max_pixels: larger images are refused. tta: which views of a
    image are averaged. fusion: how panoptic results are made.
    """

    title: str
    resume: bool
    save: frozenset[str]
    device: torch.device
    batch: int
    workers: int
    max_pixels: int
    tta: Tta
    fusion: Panoptic


def command(
    *,
    photographs: Sequence[str],
    run: Path | None,
    weights: str | None,
    out: Path | None,
    save: str,
    resume: bool,
    force: bool,
    precision: Literal["float32", "bfloat16"] | None,
    tta: str | None,
    batch: int | None,
    override: Sequence[str],
    max_pixels: int,
    device: str,
    workers: int,
    console: Console,
) -> int:
    """`imptool predict`, with its options: parse images with the model of `run`, of `weights`, or the newest one.

    Returns the exit code: 1 where an image could not be used.
    Raises:
        InputError: two options contradict each other, or one cannot be used; as `find_photographs`, `load_run` and `predict`.
    """
    if run is not None and weights is not None:
        raise InputError("--run and --weights name different models: give one of them")
    saved = _outputs(save) | ({"panoptic"} if override else set())
    change_panoptic(Panoptic(), override)  # a wrong one should not wait for the weights
    with distributed.process_group(on_cpu=device == "cpu"), ExitStack() as held:
        title = title_of(photographs)
        out = out or Path("predictions", title)
        found: list[Photograph] = []
        if distributed.is_main():  # a wrong folder should not wait for the weights
            held.enter_context(predictions_folder(out, resume=resume, force=force))
            found, notes = find_photographs(photographs, out)
            for note in notes:
                say(console, f"note: {note}")
        place = choose_device(device)
        named = run if weights is None else named_weights(weights)
        trained = load_run(named or _newest_run_or_shipped(console), device=place)
        choose_compute(trained.model, place, precision)
        say(console, f"{trained.name} from {trained.source}, on {place} in {trained.model.compute.precision}")
        if trained.unfinished:
            say(console, f"note: {trained.unfinished}")
        views = parse_tta(tta, trained.labels)
        batch = batch or (4 if place.type == "cuda" else 1)
        fusion = change_panoptic(trained.recipe.panoptic, override)
        settings = Settings(title, resume, saved, place, batch, workers, max_pixels, views, fusion)
        return list_failures(predict(trained, distributed.from_main(found), out, settings, console))


def _outputs(text: str) -> frozenset[str]:
    """What `--save` names."""
    names = frozenset(SAVED) if text == "all" else frozenset(name.strip() for name in text.split(","))
    for name in sorted(names - set(SAVED)):
        raise InputError(f"--save {text}: unknown '{name}'{nearest(name, SAVED)}")
    return names


def _newest_run_or_shipped(console: Console) -> Path:
    """What is taken where nothing is named."""
    try:
        return newest_run()
    except InputError:
        path = find_shipped_weights(DEFAULT_WEIGHTS)
        assert path is not None  # a name that is always known
    say(console, f"no trained run under runs/: using the shipped weights {DEFAULT_WEIGHTS}; --weights or --run chooses others")
    return path


def predict(
    trained: TrainedModel,
    photographs: Sequence[Photograph],
    out: Path,
    settings: Settings,
    console: Console,
) -> list[str]:
    """Parse images into `out`, which the caller holds.

    What an earlier run has finished is kept with `settings.resume`, else replaced.

    Returns what is wrong with each image that could not be read, or its results not be written. Under torchrun every
    process parses its share, and the first one writes what is about all of them.

    Writes `labels/<name>.png`, `overlays/<name>.jpg`, `cutouts/<name>/<class>-<n>.png`, `panoptic/<name>.png` with
    `panoptic.json`, `page/` with `index.html`, `predictions.json` (COCO results), and always `images.json` (a COCO document
    without annotations).
    Raises:
        InputError: the model parses nothing or lies among the results, or none of the images can be parsed.
        OSError: the disk takes no more.
    """
    if not trained.model.parses:
        raise InputError(f"{trained.source} is a {trained.name}: it has no semantic head to parse images with")
    if any(is_inside(trained.source, out / name) for name in FOLDERS):
        raise InputError(f"{trained.source} lies among the results in {out}: move it, or choose another --out")
    began = time.monotonic()
    journal, batches = _prepare(trained, photographs, out, settings, console)
    problems: list[str] = []
    try:
        own = distributed.own_share(batches)
        _parse(trained, own, out, settings, journal, problems, console)
    finally:  # whatever ends the loop, what is finished can be used
        journal.close()
        if distributed.world_size() == 1:
            write_lists(trained, photographs, journal, out, title=settings.title)
    problems = [problem for part in distributed.gather(problems) for problem in part]
    if distributed.is_main():
        if distributed.world_size() > 1:
            write_lists(trained, photographs, journal, out, title=settings.title)
        if not listed(photographs, journal):
            if not settings.resume:
                _remove_results(out)
            raise InputError(f"none of {count_of(len(photographs), 'image')} could be parsed: {problems[0]}")
        parsed = sum(len(batch) for batch in batches) - len(problems)
        records = (journal.record(photograph.file_name) for photograph in listed(photographs, journal))
        _print_summary(trained, records, parsed, time.monotonic() - began, out, console)
    return sorted(problems)


def predictions_folder(out: Path, *, resume: bool, force: bool) -> AbstractContextManager[None]:
    """Hold the output folder for `predict`.

    Raises:
        InputError: it is not free, and holds no results of ours that are asked to be kept or replaced; or as `results_folder`.
    """
    if resume and force:
        raise InputError("--resume keeps what is there, --force replaces it: give one of them")
    check = partial(_check_out, resume=resume, force=force)
    return results_folder(out, check, parts=[*FOLDERS, ".parsed*.jsonl"])


def _check_out(out: Path, *, resume: bool, force: bool) -> None:
    if not contents(out):
        return
    if not any(out.glob(".parsed*.jsonl")):
        raise InputError(f"{out} holds no results of imptool predict: remove it, or choose another --out")
    if not (resume or force):
        raise InputError(
            f"{out} already holds results: add --resume to go on, --force to replace them, or choose another --out"
        )


def _prepare(
    trained: TrainedModel,
    photographs: Sequence[Photograph],
    out: Path,
    settings: Settings,
    console: Console,
) -> tuple[Journal, list[list[Photograph]]]:
    """The journal, and the batches that are still to be parsed: the same for all processes."""
    header = {
        "weights": sha256_of(trained.source, TENSORS_FILE),
        "precision": trained.model.compute.precision,
        "tta": str(settings.tta),
    }
    batches: list[list[Photograph]] = []
    if distributed.is_main():
        if not settings.resume:
            _remove_results(out)
        journal = Journal(out, header)
        names = [photograph.file_name for photograph in photographs]
        journal.join(names)
        others = len(set(journal) - set(names))
        if others:
            say(
                console,
                f"{count_of(others, 'image')} of an earlier run left out: files stay, lists are of these images",
            )
        for photograph in photographs:
            _forget_if_other(photograph, journal, out)
        journal.join(names)
        planned = _batches(photographs, trained, settings)
        done = {photograph.file_name for photograph in photographs if _is_done(photograph, journal, out, settings)}
        # A batch is parsed as a whole: with other images beside it, the last bits of a result may be others.
        batches = [batch for batch in planned if any(photograph.file_name not in done for photograph in batch)]
        kept = len(photographs) - sum(map(len, batches))
        say(
            console,
            f"{settings.title}: {count_of(len(photographs), 'image')}" + (f", {kept:,} of them done already" if kept else ""),
        )
    batches = distributed.from_main(batches)
    return (journal if distributed.is_main() else Journal(out, header)), batches


def _batches(photographs: Sequence[Photograph], trained: TrainedModel, settings: Settings) -> list[list[Photograph]]:
    """Images that the network sees at one size, together: the same ones in every run over the same images."""
    if settings.batch == 1:
        return [[photograph] for photograph in photographs]
    waiting: dict[tuple[tuple[int, int], ...], list[Photograph]] = {}
    batches = []
    for photograph in photographs:
        try:
            resized = settings.tta.sizes(image_size(photograph.path), trained.recipe.input)
        except InputError:  # told when it is read
            resized = ()
        batch = waiting.setdefault(resized, [])
        batch.append(photograph)
        if len(batch) == settings.batch:
            batches.append(waiting.pop(resized))
    return batches + list(waiting.values())


def _is_done(photograph: Photograph, journal: Journal, out: Path, settings: Settings) -> bool:
    """Whether an image's results are there, made as they are wanted, and are those of the very file."""
    if photograph.file_name not in journal:
        return False
    record = journal.record(photograph.file_name)
    if "panoptic" in settings.save and record.get("fusion") != settings.fusion.model_dump():
        return False
    return settings.save <= set(record["saved"]) and are_whole(record, out)


def _forget_if_other(photograph: Photograph, journal: Journal, out: Path) -> None:
    """Remove what an earlier run has made of another image of this name, or under another name."""
    if photograph.file_name not in journal:
        return
    record = journal.record(photograph.file_name)
    try:
        if record["name"] == photograph.name and record["source"] == source_of(photograph):
            return
    except OSError:  # it cannot be read now
        return
    for name in record["files"]:
        (out / name).unlink(missing_ok=True)
    journal.discard(photograph.file_name)


def _parse(
    trained: TrainedModel,
    batches: Sequence[Sequence[Photograph]],
    out: Path,
    settings: Settings,
    journal: Journal,
    problems: list[str],
    console: Console,
) -> None:
    """Read ahead, parse and write at the same time; a few images are on their way, never all."""
    photographs = [photograph for batch in batches for photograph in batch]
    last = {batch[-1].number for batch in batches}
    read = partial(load, size=trained.recipe.input, max_pixels=settings.max_pixels, tta=settings.tta)
    together: list[tuple[Photograph, Loaded]] = []
    with _Writers(settings, journal, problems) as writers:
        reading = read_ahead(read, photographs, workers=settings.workers)
        for photograph, loaded, problem in track(console, reading, "predict", total=len(photographs)):
            if loaded is None:
                problems.append(problem)
            else:
                together.append((photograph, loaded))
            if photograph.number not in last:
                continue
            for row, prediction in _predictions(trained, together, settings, problems):
                writers.submit(row[0], row[1].source, prediction, trained.labels, out, settings.save, settings.fusion)
            together = []


def _predictions(
    trained: TrainedModel, together: Sequence[tuple[Photograph, Loaded]], settings: Settings, problems: list[str]
) -> Iterator[tuple[tuple[Photograph, Loaded], Prediction]]:
    """Parse images together as far as they have one size; one by one where the GPU's memory is too small for them."""
    for _, group in groupby(together, key=lambda each: [view.shape for view in each[1].network]):
        rows = list(group)
        try:
            predictions = parse_resized(
                trained.model,
                [row[1].network for row in rows],
                [row[1].size for row in rows],
                device=settings.device,
                tta=settings.tta,
                confidence="panoptic" in settings.save and settings.fusion.instances == "components",
            )
        except torch.OutOfMemoryError:
            predictions = []
        if predictions:
            yield from zip(rows, predictions, strict=True)
            continue
        torch.cuda.empty_cache()
        if len(rows) == 1:
            problems.append(f"{rows[0][0].path}: the GPU's memory is too small for it: --device cpu takes it")
            continue
        for row in rows:
            yield from _predictions(trained, [row], settings, problems)


class _Writers:
    """Whatever writes results, a few images behind; leaving it, by whatever way, finishes those few.

    With a GPU these are processes: beside it the writing takes longest, and threads would wait for each other's Python.
    """

    def __init__(self, settings: Settings, journal: Journal, problems: list[str]) -> None:
        workers = max(settings.workers, 1)
        self.journal, self.problems, self.most = journal, problems, 2 * workers
        self.pool: Executor = (
            ProcessPool(workers) if settings.device.type == "cuda" and workers > 1 else ThreadPoolExecutor(workers)
        )
        self.pending: deque[tuple[Path, Future[tuple[Record, list[Record] | None]]]] = deque()

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self.pending:
                self._finish_first()
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, photograph: Photograph, *rest: Any) -> None:
        self.pending.append((photograph.path, self.pool.submit(write_results, photograph, *rest)))
        while len(self.pending) > self.most:
            self._finish_first()

    def _finish_first(self) -> None:
        path, future = self.pending.popleft()
        try:
            self.journal.append(*_with_earlier(*future.result(), self.journal))
        except NoWorker:
            raise
        except DeadWorker as error:
            self.problems.append(f"{path}: its results are not written: {error}; --resume tries again, --workers takes fewer")
        except InputError as error:
            self.problems.append(str(error))
        except OSError as error:
            if error.errno in _DISK:
                raise
            self.problems.append(f"{path}: its results cannot be written: {error}")


def _with_earlier(record: Record, results: list[Record] | None, journal: Journal) -> tuple[Record, list[Record] | None]:
    """What was saved of an image now, and what an earlier run has saved of it beside."""
    name = record["file_name"]
    if name not in journal:
        return record, results
    earlier = journal.record(name)
    merged = {**earlier, **record, "saved": sorted({*earlier["saved"], *record["saved"]})}
    merged["files"] = {**earlier["files"], **record["files"]}
    return merged, journal.results(name) if results is None and earlier["has_results"] else results


def _remove_results(out: Path) -> None:
    """Remove an earlier run's results: its files would be mixed with the new ones."""
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in (*(out / name for name in _FILES), *out.glob(".parsed*.jsonl")):
        path.unlink(missing_ok=True)


def _print_summary(
    trained: TrainedModel, records: Iterable[Record], parsed: int, seconds: float, out: Path, console: Console
) -> None:
    labels, images = trained.labels, 0
    shown, detections = Counter[str](), Counter[str]()
    for record in records:
        images += 1
        shown.update(record["classes"].keys())
        detections.update(record["instances"])
    columns = {"images whose label\nmap shows it": shown}
    if trained.model.detects:  # far more than the label maps show: most have low scores
        columns[f"detections with a\nscore above {trained.recipe.detector.score_threshold:g}"] = detections
    table = Table("class", title="What was found")
    for heading in columns:
        table.add_column(heading, justify="right")
    names = {str(labels.ids[channel]): labels.names[channel] for channel in labels.foreground}
    for key, name in names.items():
        table.add_row(plain(name), *(f"{counts[key]:,}" for counts in columns.values()))
    console.print(table)
    if not any(shown[key] for key in names):
        say(console, f"note: no class is found in any of {count_of(images, 'label map')}")
    if trained.model.detects and not detections.total():
        say(console, f"note: nothing is detected in any of {count_of(images, 'image')}")
    if parsed:
        say(console, f"{count_of(parsed, 'image')} in {duration(seconds)}, {parsed / max(seconds, 1e-9):.1f} a second")
    written = [f"{name}/" for name in FOLDERS if (out / name).is_dir()] + [name for name in _FILES if (out / name).is_file()]
    say(console, f"{out}/: {', '.join(written)}")
    if (out / "index.html").is_file():
        say(console, f"Open {out / 'index.html'} in a browser.")
