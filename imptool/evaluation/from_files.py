"""Predictions of any origin, from files: a folder of label PNGs, a COCO results JSON, or what `imptool predict` left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from imptool.data.coco import read_coco, read_results
from imptool.data.dataset import Dataset
from imptool.data.images import find_images, path_under, read_label_map
from imptool.data.label_set import DEFAULT, MAX_ID, IdTable, LabelSet, Remap
from imptool.data.layouts import Item
from imptool.data.layouts.names import match_names
from imptool.data.panoptic import Segments
from imptool.files import InputError, nearest, read_yaml, some

RESULTS, IMAGES, LABELS, PANOPTIC = "predictions.json", "images.json", "labels", "panoptic.json"  # of `imptool predict`

_ASKED = 100  # items: whether a file is another one is asked of the disk


@dataclass(frozen=True)
class Parsed:
    """What is predicted for one image.

    channels: semantic map [H, W] of channels, or None.
    results: COCO results without `image_id`.
    canvas: whether there is anything on the canvas; None where there is none.
    segments: panoptic results, by what their things are.
    """

    channels: np.ndarray | None
    results: Sequence[dict[str, Any]] = ()
    canvas: bool | None = None
    segments: Mapping[str, Segments] = field(default_factory=dict)


class Predictions(Protocol):
    """Where predictions come from: `load` reads, in threads; `parse` makes a prediction of it, one after another."""

    def load(self, item: Item, target: np.ndarray) -> Any: ...

    def parse(self, loaded: Any) -> Parsed: ...

    def notes(self, items: Sequence[Item]) -> list[str]: ...


@dataclass(frozen=True)
class PredictedMaps:
    """The label PNGs of a split, found in a folder.

    Attributes:
        paths: {stem of the image: PNG}.
        missing: the stems without any; where `background` is not None they are read as maps of this channel alone.
        unclear: {stem: PNGs of its name}, where there are several and none lies at the image's own path.
        additional: PNGs that belong to no image of the split, as paths under the folder.
    """

    folder: Path
    labels: LabelSet
    paths: Mapping[str, Path]
    missing: frozenset[str]
    unclear: Mapping[str, Sequence[str]]
    additional: tuple[str, ...]
    table: IdTable  # id in the files -> channel
    resize: bool
    background: int | None

    def load(self, item: Item, target: np.ndarray) -> Parsed:
        """Read the prediction for an image with this target [H, W]; InputError when it is missing or does not fit."""
        if item.stem in self.unclear:
            places = " and ".join(self.unclear[item.stem][:2])
            raise InputError(f"{self.folder} has {places}: which of them is {item.stem}? Lay it at {item.stem}.png")
        if item.stem in self.missing:
            if self.background is None:
                raise InputError(f"{self.folder} has no {item.stem}.png: predict it, or add --missing-as-background")
            return Parsed(np.full(target.shape, self.background, np.uint8))
        return Parsed(read_predicted(self.paths[item.stem], target, self.labels, self.table, resize=self.resize))

    def parse(self, loaded: Parsed) -> Parsed:
        """There is nothing left to do: a run's predictions are made here."""
        return loaded

    def notes(self, items: Sequence[Item]) -> list[str]:
        """What a person should look at."""
        notes = []
        if any(path.resolve() == item.label.resolve() for item in items[:_ASKED] if (path := self.paths.get(item.stem))):
            notes.append(f"{self.folder} holds the targets themselves: what is measured is how well they predict themselves")
        if self.additional:
            names = ", ".join(self.additional[:3])
            notes.append(f"{len(self.additional):,} PNGs in {self.folder} belong to no image of the split, such as {names}")
        if self.missing and self.background is not None:
            names = ", ".join(sorted(self.missing)[:3])
            notes.append(f"{len(self.missing):,} images without prediction are scored as background, such as {names}")
        return notes


def find_maps(
    folder: Path, dataset: Dataset, split: str, *, remap: Remap, resize: bool, missing_as_background: bool
) -> PredictedMaps:
    """Find the label PNG of every image of a split, by the image's path, or by its name where that is unique.

    Args:
        folder: with `<stem>.png`, beneath it or in its `labels/`.
        remap: id in the files -> id of the dataset; other ids are the dataset's own.
        resize: take maps of other sizes, by the nearest pixel.
        missing_as_background: score images without prediction as background.
    Raises:
        InputError: no such folder, or no PNG in it that belongs to the split; a remap to no class; no background.
    """
    labels = dataset.labels
    _check_remap(remap, labels, dataset)
    if missing_as_background and labels.background is None:
        raise InputError(f"--missing-as-background: {dataset.source} has no background")
    if not folder.is_dir():
        raise InputError(f"--predictions {folder} is no folder of label PNGs and no JSON of COCO results")
    under = folder / LABELS if (folder / LABELS).is_dir() else folder
    pngs = {path_under(under, path): path for path in find_images(under) if path.suffix.lower() == ".png"}
    items = dataset.split(split)
    found, unclear = _match(items, pngs)
    if not found and not unclear:
        example = f"such as {items[0].stem}.png"
        raise InputError(f"{under}: none of its {len(pngs)} PNGs is named after an image of split {split}, {example}")
    used = {*found.values(), *(pngs[name] for names in unclear.values() for name in names)}
    return PredictedMaps(
        under,
        labels,
        found,
        frozenset(item.stem for item in items if item.stem not in found and item.stem not in unclear),
        unclear,
        tuple(name for name, path in pngs.items() if path not in used),
        labels.channel_table(remap),
        resize,
        0 if missing_as_background else None,
    )


def _match(items: Sequence[Item], pngs: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """{stem: PNG}: `stem.png` (Unicode form and case may differ), `name of the image.png` where two share a stem, or a PNG
    of that name anywhere.

    And {stem: PNGs} where several have its name.
    """
    names = Counter(Path(item.stem).name for item in items)
    anywhere: dict[str, list[str]] = {}
    for relative in pngs:
        anywhere.setdefault(Path(relative).stem, []).append(relative)
    found, unclear = {}, {}
    named = match_names([f"{item.stem}.png" for item in items], pngs, suffixes=False, folders=False).found
    for item in items:
        name = Path(item.stem).name
        beside = item.stem[: len(item.stem) - len(name)]
        path = pngs.get(named.get(f"{item.stem}.png", "")) or pngs.get(f"{beside}{item.image.name}.png")
        of_name = anywhere.get(name, []) if names[name] == 1 else []
        if path or len(of_name) == 1:
            found[item.stem] = path or pngs[of_name[0]]
        elif of_name:
            unclear[item.stem] = of_name
    return found, unclear


def read_predicted(path: Path, target: np.ndarray, labels: LabelSet, table: IdTable, *, resize: bool) -> np.ndarray:
    """Read a predicted label map as channels [H, W]; InputError when it is broken, of another size, or holds unknown ids.

    Pixels that the target ignores may hold the ignore id.
    """
    try:
        ids = read_label_map(path)
    except InputError as error:  # colours are stated for targets alone
        raise InputError(str(error).partition(", or state")[0], kind=error.kind) from error
    if ids.shape != target.shape:
        sizes = f"{ids.shape[0]}x{ids.shape[1]}, its target {target.shape[0]}x{target.shape[1]}"
        if not resize:
            raise InputError(f"{path} is {sizes} (height x width): predict at that size, or add --resize")
        ids = cv2.resize(ids.astype(np.uint16), target.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    channels, unknown = table.look_up(ids)
    if labels.ignore in unknown:
        free = (ids == labels.ignore) & (target == labels.ignore_channel)
        channels = np.where(free, 0, channels)
        unknown = [number for number in unknown if number != labels.ignore or (ids[~free] == number).any()]
    if unknown:
        example = f"--remap {unknown[0]}={labels.ids[0]}"
        raise InputError(f"{path} holds id {some(unknown)}, not in the class list: say what it is, such as {example}")
    return channels


def parse_remap(texts: Sequence[str], labels: LabelSet) -> dict[int | str, int]:
    """What --remap says, each `7=1,8=0,default=0` or a YAML that maps ids (of its own, or under the key `remap`).

    Raises:
        InputError: it is none of these, or says two things of one id.
    """
    remap: dict[int | str, int] = {}
    for text in texts:
        for source, target in _remap_pairs(text, labels):
            if remap.setdefault(source, target) != target:
                raise InputError(f"--remap {text}: {source} cannot be both {remap[source]} and {target}")
    return remap


def _remap_pairs(text: str, labels: LabelSet) -> list[tuple[int | str, int]]:
    if Path(text).suffix not in (".yaml", ".yml"):
        try:
            parts = [part.partition("=") for part in text.split(",")]
            return [(source if source == DEFAULT else int(source), int(target)) for source, _, target in parts]
        except ValueError as error:
            raise InputError(f"--remap {text}: write ids such as 7=1,8=0, or the path of a YAML") from error
    whole = read_yaml(Path(text))
    pairs = whole.get("remap", whole)
    if not isinstance(pairs, dict) or not all(map(_is_pair, pairs.items())):
        raise InputError(f"--remap {text}: write lines such as 7: 1, from id to id")
    # A dataset's own remap drops ids to its ignore id: no prediction is ignored, so these stay unknown.
    return [(source, target) for source, target in pairs.items() if whole is pairs or target != labels.ignore]


def _is_pair(pair: tuple[Any, Any]) -> bool:
    return (pair[0] == DEFAULT or type(pair[0]) is int) and type(pair[1]) is int


def _check_remap(remap: Remap, labels: LabelSet, dataset: Dataset) -> None:
    for source, target in remap.items():
        if target not in labels.ids:
            known = nearest(str(target), map(str, labels.ids))
            raise InputError(f"--remap {source}={target}: {target} is no class id of {dataset.source}{known}")
        if isinstance(source, int) and not 0 <= source <= MAX_ID:
            raise InputError(f"--remap {source}={target}: label maps hold ids 0..{MAX_ID}")


def predicted_results(path: Path, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read COCO results for the images of a COCO document.

    Beside results of `imptool predict` lies `images.json`: their image ids are put in the place of the document's by
    the images' names; results for other images are left out.

    Raises:
        InputError: as `read_results`; or no image of that name is in the document.
    """
    if path.name != RESULTS or not (path.parent / IMAGES).is_file():
        return read_results(path, document)
    own = read_coco(path.parent / IMAGES)
    results = read_results(path, own | {"categories": document["categories"]})
    wanted = by_ending(document["images"], {image["file_name"] for image in own["images"]})
    found = {}
    for image in own["images"]:
        same = wanted.get(image["file_name"])
        if same is not None and (same["height"], same["width"]) != (image["height"], image["width"]):
            sizes = f"{image['height']}x{image['width']}, its target {same['height']}x{same['width']}"
            raise InputError(f"{path}: {image['file_name']} was {sizes} (height x width): predict at that size")
        if same is not None:
            found[image["id"]] = same["id"]
    if not found:
        raise InputError(f"{path}: none of its {len(own['images'])} images is one of the split")
    return [{**row, "image_id": found[row["image_id"]]} for row in results if row["image_id"] in found]


def by_ending(images: Sequence[Mapping[str, Any]], names: set[str]) -> dict[str, Mapping[str, Any]]:
    """{name: image}: `predict` names images by their path under its folder, the document by that under the root.

    A name that could be of two images is of none: which of them would be a guess.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for image in images:
        parts = image["file_name"].split("/")
        name = next((ending for start in range(len(parts)) if (ending := "/".join(parts[start:])) in names), None)
        if name is not None:
            found.setdefault(name, []).append(image)
    return {name: same[0] for name, same in found.items() if len(same) == 1}
