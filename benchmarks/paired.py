"""What the projection gains, in pairs: python benchmarks/paired.py

Outfits are drawn and converted, and a detector is trained. From its weights two models go on for every seed, for as many
iterations on the same batches: one without the canvas and one with it. Each is measured on the val split, on which nothing
was chosen. The figures are printed as they come out; the paper's (Table 1) are of 5493 photographs and 70,000 iterations.
Beside them: what the canvas parses alone (mask-rcnn-imp from the same detector), and, with --true-instances, what the
second model reaches when the canvas shows those of the label maps in place of the detections.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torchvision.models.detection.roi_heads import project_masks_on_boxes

import imptool.evaluation.from_run as from_run
from imptool.checkpoint import WEIGHTS, load_run, load_state, load_weights, parse_about, save_weights
from imptool.convert_instances import convert_instances
from imptool.data.augment import View
from imptool.data.dataset import load_dataset
from imptool.data.export import Export
from imptool.data.images import resized_size
from imptool.data.instances import file_name, read_instances
from imptool.data.layouts import Item
from imptool.data.samples import instance_target
from imptool.evaluate import Request, evaluate_run
from imptool.evaluation.figures import distance_key
from imptool.models import build_model
from imptool.models.detector import Detections
from imptool.models.inference import parse_image
from imptool.models.parser import Parser
from imptool.outfits import write_outfits
from imptool.recipe import load_recipe
from imptool.train import train

CPU = torch.device("cpu")
QUIET = Console(quiet=True)
# A stronger first stage than the demo's, whose few minutes leave a detector of 1 % AP.
DETECTOR = ("detector.rois_per_image=32", "detector.proposals_train=100", "detector.proposals_before_nms_train=200")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["panoptic-p2", "panoptic-p2-imp"], metavar="MODEL")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--photographs", type=int, default=1000)
    parser.add_argument("--detector-iterations", type=int, default=2500)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="of outfits_small")
    parser.add_argument("--true-instances", action="store_true", help="a perfect detector, for a check of the canvas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    out = arguments.out.resolve() if arguments.out else None
    device = torch.device(arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        draw(arguments.photographs)
        detector = train_one("mask-rcnn", 0, arguments.detector_iterations, [*DETECTOR, *arguments.override], device)
        alone = measure(as_mask_rcnn_imp(detector), device)
        print(f"mask-rcnn-imp, without training: mIOU {alone['miou']:.2%}  box AP {alone['box_ap']:.1%}", flush=True)
        if arguments.true_instances:
            show_true_instances()
        for seed in arguments.seeds:
            for model in arguments.pair[arguments.true_instances :]:
                began = time.monotonic()
                start = f"stages.full.from={detector}/weights.safetensors"
                run = train_one(model, seed, arguments.iterations, [*arguments.override, start], device)
                row = {"seed": seed, "model": model, **measure(run, device), "seconds": time.monotonic() - began}
                rows.append(row)
                print(
                    f"seed {seed}  {model:18s}  mIOU {row['miou']:6.2%}  mAcc {row['macc']:6.2%}  "
                    f"within 10 px {row['band_miou']:6.2%}  canvas {row['canvas']:.0%}  box AP {row['box_ap']:.1%}",
                    flush=True,
                )
    for key, name in (
        () if arguments.true_instances else (("miou", "mIOU"), ("macc", "mAcc"), ("band_miou", "mIOU within 10 px"))
    ):
        without, with_canvas = ([row[key] for row in rows if row["model"] == model] for model in arguments.pair)
        gains = [100 * (more - less) for less, more in zip(without, with_canvas, strict=True)]
        shown = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name}: {arguments.pair[1]} - {arguments.pair[0]} = {statistics.mean(gains):+.2f} points ({shown})")
    if out:
        plain = {key: value for key, value in vars(arguments).items() if key != "out"}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"arguments": plain, "torch": torch.__version__, "mask-rcnn-imp": alone, "rows": rows}, indent=1) + "\n"
        )


def draw(count: int) -> None:
    path = write_outfits(
        Path("outfits"), count=count, size=(320, 160), seed=0, groups=True, workers=2, force=False, console=QUIET
    )
    convert_instances(load_dataset(path), export=Export(), out=None, workers=2, force=False, resume=False, console=QUIET)


def train_one(model: str, seed: int, iterations: int, overrides: list[str], device: torch.device) -> Path:
    """Train one stage of the demo's recipe; a detector from scratch, the others from what the overrides name."""
    recipe = load_recipe(
        "outfits_small",
        [
            f"model.name={model}",
            f"seed={seed}",
            "projection.detach=false",  # as the paper
            f"stages.full.iterations={iterations}",
            f"stages.full.steps=[{int(0.8 * iterations)}, {int(0.95 * iterations)}]",
            *([] if any(key.startswith("stages.full.from") for key in overrides) else ["stages.full.from=null"]),
            *overrides,
        ],
    )
    run = Path("runs", f"{model}-{seed}")
    train(recipe, run, device=device, workers=1, console=QUIET)
    return run


def as_mask_rcnn_imp(detector: Path) -> Path:
    """The run of a detector as one of Mask R-CNN-IMP, which has the same weights."""
    state, about = load_weights(detector / WEIGHTS)
    _, recipe, labels = parse_about(about, source=detector)
    model = build_model("mask-rcnn-imp", recipe, labels, pretrained=False)
    load_state(model, state, source=detector)
    run = Path("runs", "mask-rcnn-imp")
    run.mkdir()
    save_weights(run / WEIGHTS, model, "mask-rcnn-imp", recipe, labels)
    return run


def show_true_instances() -> None:
    """Give every Parser the instances of the label maps for its detections, with a score of 1."""
    shown: list[dict[str, torch.Tensor]] = []

    def detections(parser: Parser, *_: object) -> Detections:
        found = []
        for target in shown:
            own = torch.arange(len(target["boxes"]))
            masks = project_masks_on_boxes(target["masks"], target["boxes"], own, 28)[:, None]
            found.append({"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(len(own)), "masks": masks})
        return found

    def forward(parser: Parser, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> Any:
        shown[:] = targets
        return plain_forward(parser, images, targets)

    def load_with_instances(source: from_run.RunPredictions, item: Item, target: np.ndarray) -> np.ndarray:
        image = plain_load(source, item, target)
        size = (image.shape[0], image.shape[1])
        rows = annotations[file_name(source.dataset, item)]
        short, long = recipe.input.short_side, recipe.input.long_side
        resized = resized_size(size, short_side=short, long_side=long)
        instances[image.tobytes()] = instance_target(rows, source.dataset.labels, View(resized, (0, 0, *resized)), size=size)
        return image

    def parse(model: Parser, image: np.ndarray, *arguments: Any, **named: Any) -> Any:
        shown[:] = [instances.pop(image.tobytes())]
        return parse_image(model, image, *arguments, **named)

    recipe, dataset = load_recipe("outfits_small"), load_dataset("outfits")
    document = read_instances(dataset, "val")
    names = {image["id"]: image["file_name"] for image in document["images"]}
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for row in document["annotations"]:
        annotations[names[row["image_id"]]].append(row)
    instances: dict[bytes, dict[str, torch.Tensor]] = {}
    plain_forward, plain_load = Parser.forward, from_run.RunPredictions.load
    for owner, name, value in (
        (Parser, "_detections", detections),
        (Parser, "forward", forward),
        (from_run.RunPredictions, "load", load_with_instances),
        (from_run, "parse_image", parse),
    ):
        setattr(owner, name, value)


def measure(run: Path, device: torch.device) -> dict[str, float]:
    trained = load_run(run, device=device)
    with contextlib.ExitStack() as held:
        request = Request(None, (10.0,), "", "", None, None, workers=0, console=QUIET, held=held)
        result = evaluate_run(trained, request, dataset=None, device=device).result
    figures = result.measured[trained.name].figures
    return {
        "miou": figures["miou"],
        "macc": figures["macc"],
        "band_miou": figures[distance_key("band", 10.0, "miou")],
        "canvas": result.canvas_nonempty,
        "box_ap": result.precision["box"].overall["AP"],
    }


if __name__ == "__main__":
    main()
