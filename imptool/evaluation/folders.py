"""Which folder the results of an evaluation go to, and what may be in it already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from imptool.data.coco import read_json
from imptool.data.dataset import Dataset
from imptool.data.output import check_free, contents, results_folder
from imptool.evaluation.record import COUNTS, METRICS, PER_IMAGE
from imptool.files import InputError


def evaluation_folder(out: Path) -> AbstractContextManager[None]:
    """Hold the folder that an evaluation is asked to go to: a free one, or one that an evaluation has left unfinished."""

    def check(out: Path) -> None:
        if not contents(out) <= {COUNTS, PER_IMAGE}:  # figures are written last
            check_free(out, force=None)

    return results_folder(out, check)


def own_folder(measured: Path, dataset: str, split: str, suffix: str = "") -> Path:
    """Where the results of predictions or weights go that are in no run.

    Args:
        measured: the predictions or weights. dataset: its name.
        suffix: what tells this evaluation of them from others.
    """
    name = measured.resolve().stem if measured.is_file() else measured.resolve().name
    return Path("evaluations", f"{dataset}-{split}", name + suffix)


def check_own(folder: Path, *, measured: Path, source: str) -> None:
    """An evaluation replaces its own results; InputError where there are others.

    Args:
        measured: the predictions or weights. source: where the description of the dataset lies.
    """
    if not contents(folder):
        return
    try:
        plain = read_json(folder / METRICS)
        earlier, earlier_source = plain.get("predictions") or plain["weights"], plain["dataset"]["source"]
        same = Path(earlier).resolve() == measured.resolve() and Path(earlier_source).resolve() == Path(source).resolve()
    except (InputError, KeyError, TypeError, AttributeError):
        earlier, earlier_source, same = "something else", "", False
    if not same:
        of = f"{earlier} on {earlier_source}" if earlier_source else earlier
        raise InputError(f"{folder} already holds results of {of}: choose another --out")


def folder_of_weights(
    weights: Path, dataset: Dataset, split: str, unusual: Sequence[str]
) -> tuple[Path, Callable[[Path], object]]:
    """In their run, or a folder of their own where they are in none; best weights and early stages are told from the last.

    So is what is unusual, such as test-time augmentation: it does not replace an evaluation without. Gives what to ask of
    the folder as well.
    """
    suffix = "".join(f"-{each}" for each in unusual)
    if not (weights.parent / "recipe.yaml").is_file():
        check = partial(check_own, measured=weights, source=str(dataset.source))
        return own_folder(weights, dataset.name, split, suffix), check
    last = weights.name == "weights.safetensors" or weights.suffix == ".pt"
    name = f"eval-{split}{'' if last else '-' + weights.stem.removeprefix('weights-')}{suffix}"
    return weights.parent / name, lambda _: None
