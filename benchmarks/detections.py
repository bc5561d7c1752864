"""Detections of a trained model, recorded to be timed: python benchmarks/detections.py ccp-lite --out detections.safetensors

An untrained detector puts its detections into one class and into boxes smaller than a pixel of the canvas, which is the
canvas's worst case. `models.py` and `benchmarks/projection` take those of a trained one by --detections. Recorded are boxes (as
shares of the image's width and height), labels, scores and soft masks, in drawn outfits or in a folder of images. As many
are kept as vcp_r50 keeps: at most 100 an image, of scores above 0.05.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from imptool.checkpoint import TrainedModel
from imptool.data.images import fit_image, read_image
from imptool.data.samples import image_tensor
from imptool.library import load
from imptool.models.parser import Parser
from imptool.outfits import draw_outfit
from imptool.recipe import Detector

Found = dict[str, torch.Tensor]
SUFFIXES = {".jpg", ".jpeg", ".png"}
SIZE = (1333, 800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a name such as ccp-lite, a run, or a .safetensors file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="folder to detect in, in place of drawn outfits")
    parser.add_argument("--count", type=int, default=16, help="of images")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    trained = load(arguments.weights, device=arguments.device, precision="float32").trained
    found = [detect(trained, image) for image in read_images(arguments.photographs, arguments.count)]
    if not any(len(one["scores"]) for one in found):
        raise SystemExit(f"{arguments.weights} detects nothing in {len(found)} images")
    where = str(arguments.photographs.name if arguments.photographs else "drawn outfits")
    save(arguments.out, found, {"weights": Path(arguments.weights).name, "images": where})
    print(json.dumps(describe(arguments.out), indent=1))


def read_images(folder: Path | None, count: int) -> Iterator[np.ndarray]:
    """Drawn outfits, or images evenly from the sorted names of a folder."""
    if folder is None:
        yield from (draw_outfit(1, number, SIZE).image for number in range(count))
        return
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    yield from (read_image(paths[place]) for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))


def detect(trained: TrainedModel, image: np.ndarray) -> Found:
    """The detections in one image, best first, on the CPU: boxes [N, 4], labels [N] 1..K, scores [N], masks [N, 1, 28, 28]."""
    size, heads = trained.recipe.input, trained.model.detector.roi_heads
    heads.detections_per_img = Detector().detections
    resized = fit_image(image, short_side=size.short_side, long_side=size.long_side)
    device = next(trained.model.parameters()).device
    (found,) = trained.model.infer([image_tensor(resized).to(device)]).detections
    found["boxes"] = found["boxes"] / found["boxes"].new_tensor([resized.shape[1], resized.shape[0]] * 2)
    return {name: value.cpu().contiguous() for name, value in found.items()}


def save(path: Path, found: list[Found], about: dict[str, str]) -> None:
    joined = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    joined["masks"] = joined["masks"].half()
    joined["counts"] = torch.tensor([len(one["scores"]) for one in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(joined, path, metadata=about)


def read(path: Path) -> tuple[list[Found], dict[str, str]]:
    """The detections of each image, and what they are of."""
    with safe_open(path, framework="pt") as file:
        joined = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    counts = joined.pop("counts").tolist()
    joined["masks"] = joined["masks"].float()
    parts = zip(*(value.split(counts) for value in joined.values()), strict=True)
    return [dict(zip(joined, part, strict=True)) for part in parts], about


def describe(path: Path) -> dict[str, Any]:
    """How many they are, of how many classes, and how large at 800x1333."""
    found, about = read(path)
    boxes = torch.cat([one["boxes"] for one in found]) * torch.tensor([SIZE[1], SIZE[0]] * 2)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    counts = [len(one["scores"]) for one in found]
    return {
        **about,
        "count": len(found),
        "detections_per_image": sum(counts) / len(counts),
        "most": max(counts),
        "classes_per_image": sum(len(one["labels"].unique()) for one in found) / len(found),
        "sides_px_quartiles": sides.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist(),
    }


class Replay:
    """Gives recorded detections in place of a model's own, which it still makes, as many of them, so that the time is the same.

    Scores and masks keep the path of the gradient. Labels above the model's number of classes begin again at 1.
    """

    def __init__(self, model: Parser, found: list[Found], num_things: int, device: torch.device) -> None:
        self.heads, self.detect = model.detector.roi_heads, model._detections
        found = [{**one, "labels": (one["labels"] - 1) % num_things + 1} for one in found]
        self.found = cycle([{name: value.to(device) for name, value in one.items()} for one in found])

    def __call__(self, levels: Any, proposals: list[torch.Tensor], sizes: list[tuple[int, int]]) -> list[Found]:
        found = [next(self.found) for _ in sizes]
        self.heads.detections_per_img = max(len(one["scores"]) for one in found)
        return [_placed(*row) for row in zip(found, self.detect(levels, proposals, sizes), sizes, strict=True)]


def _placed(found: Found, own: Found, size: tuple[int, int]) -> Found:
    count = min(len(found["scores"]), len(own["scores"]))
    found, own = ({name: value[:count] for name, value in one.items()} for one in (found, own))
    scale = found["boxes"].new_tensor([size[1], size[0]] * 2)
    kept = {name: found[name] + 0 * own[name] for name in ("scores", "masks")}
    return {"boxes": found["boxes"] * scale, "labels": found["labels"], **kept}


if __name__ == "__main__":
    main()
