"""imptool predict beside a plain loop over torchvision's Mask R-CNN: python benchmarks/predict.py

The loop reads an image, runs the network and lets it paste its masks, as the references of torchvision do; it writes
nothing. imptool does the semantic part as well, and writes label PNGs, overlays, COCO results and the page. Both have the
same detector, of fresh weights, and as many detections in every image as the recipe allows (the score threshold is set
so). With --weights it is a trained model, with what it detects. Images are drawn outfits, saved as JPEG in the sizes
below.

Rates are of the same images in turns, ratios of paired rounds, medians of them. Peak memory is measured in a process of
its own, above what it has when the model is loaded: resident memory on the CPU, allocated memory on CUDA.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from models import machine, usual_threshold
from PIL import Image
from rich.console import Console

from imptool.checkpoint import TrainedModel, load_run, save_weights
from imptool.data.images import fit_image, read_image
from imptool.data.label_set import LabelSet
from imptool.data.samples import image_tensor
from imptool.data.tta import PLAIN
from imptool.files import find_weights
from imptool.models import build_model
from imptool.models.inference import choose_compute
from imptool.outfits import CLASSES, draw_outfit
from imptool.predict import Settings, predict
from imptool.prediction.photographs import find_photographs
from imptool.prediction.results import SAVED
from imptool.recipe import Panoptic, Recipe, load_recipe

SIZES = {"800x1333": (800, 1333), "2000x2000": (2000, 2000)}
SCRIPT = Path(__file__).resolve()
QUIET = Console(quiet=True)


def main() -> None:
    # A process that writes would import this file, and torch with it, a second time.
    vars(sys.modules["__main__"]).pop("__file__", None)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--recipe", default="vcp_r50")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="as of imptool train")
    parser.add_argument(
        "--weights", help="a trained model, such as ccp-lite, in place of fresh weights of the recipe; rates alone"
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="rates alone, unless all")
    parser.add_argument("--images", type=int, default=64 if cuda else 4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4 if cuda else 1)
    parser.add_argument("--workers", type=int, default=4 if cuda else 2)
    parser.add_argument("--no-memory", action="store_true", help="rates alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--measure-memory", nargs=3, metavar=("WHO", "FOLDER", "DETECTIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    overrides = ["backbone.weights=none", "backbone.norm=batch", *arguments.override]
    if arguments.measure_memory:
        who, folder, detections = arguments.measure_memory
        recipe = load_recipe(arguments.recipe, [*overrides, f"detector.detections={detections}"])
        print(json.dumps(memory(who, Path(folder), recipe, device, arguments)))
        return
    weights = find_weights(arguments.weights, missing=arguments.weights) if arguments.weights else None
    recipe = load_run(weights, device=device).recipe if weights else load_recipe(arguments.recipe, overrides)
    figures: dict[str, Any] = {
        "machine": machine(device),
        "weights": weights.name if weights else "fresh",
        "recipe": recipe.to_plain(),
        "photographs": arguments.photographs,
        "batch": arguments.batch,
        "workers": arguments.workers,
        "rates": {},
        "memory": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.sizes:
            folder = draw(Path(temporary, name), SIZES[name], arguments.photographs)
            figures["rates"][name] = rates(folder, weights, recipe, device, arguments)
            report_rates(name, figures["rates"][name])
            write(figures, arguments.out)
        if not (arguments.no_memory or weights or len(arguments.sizes) < len(SIZES)):
            figures["memory"] = memories(Path(temporary), recipe, arguments)
            report_memory(figures["memory"])
            write(figures, arguments.out)


def write(figures: dict[str, Any], out: Path | None) -> None:
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def draw(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Images of one size: a few are drawn, the others are these, mirrored."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_outfit(0, number, size).image for number in range(min(count, 4))]
    for number in range(count):
        image = drawn[number % len(drawn)]
        Image.fromarray(np.ascontiguousarray(image[:, :: 1 if number // 4 % 2 == 0 else -1])).save(
            folder / f"{number:04d}.jpg", quality=90
        )
    return folder


def build(recipe: Recipe, folder: Path, device: torch.device) -> TrainedModel:
    """panoptic-fpn-imp of fresh weights that detects as much as it may in the first image of a folder.

    Three quarters of that image become background, as in real ones: it decides how much there is to write.
    """
    torch.manual_seed(0)
    labels = LabelSet(tuple(CLASSES), 0, 255)
    model = build_model("panoptic-fpn-imp", recipe, labels, pretrained=False).eval().to(device)
    image = read_image(min(folder.glob("*.jpg")))
    first = image_tensor(image).to(device)
    model.detector.roi_heads.score_thresh = usual_threshold(model.detector, ([first], []), recipe.detector.detections)
    resized = fit_image(image, short_side=recipe.input.short_side, long_side=recipe.input.long_side)
    logits = model.infer([image_tensor(resized).to(device)]).logits
    above = (logits[0, 1:].amax(dim=0) - logits[0, 0]).flatten().cpu().numpy()
    with torch.no_grad():
        model.semantic_head.predictor.bias[0] += float(np.quantile(above, 0.75))
    return TrainedModel(model, "panoptic-fpn-imp", recipe, labels, folder / "weights.safetensors")


def theirs(trained: TrainedModel, folder: Path, device: torch.device) -> None:
    """The plain loop; its results stay where they are."""
    with torch.inference_mode():
        for path in sorted(folder.glob("*.jpg")):
            image = torchvision.io.decode_image(str(path), torchvision.io.ImageReadMode.RGB).to(device).float() / 255
            trained.model.detector([image])[0]["masks"]
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ours(trained: TrainedModel, folder: Path, device: torch.device, arguments: argparse.Namespace) -> None:
    settings = Settings("", False, frozenset(SAVED), device, arguments.batch, arguments.workers, 2**31, PLAIN, Panoptic())
    with tempfile.TemporaryDirectory() as out:
        found, _ = find_photographs([str(folder)], Path(out))
        problems = predict(trained, found, Path(out), settings, QUIET)
        if problems:
            raise SystemExit(problems[0])


def rates(
    folder: Path, weights: Path | None, recipe: Recipe, device: torch.device, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Images a second of everyone in every round."""
    trained = load_run(weights, device=device) if weights else build(recipe, folder, device)
    if not weights:
        save_weights(trained.source, trained.model, trained.name, recipe, trained.labels)

    def in_precision(precision: str) -> None:
        choose_compute(trained.model, device, precision)
        ours(trained, folder, device, arguments)

    runs: dict[str, Callable[[], None]] = {
        "torchvision": lambda: theirs(trained, folder, device),
        "imptool": lambda: in_precision("float32"),
    }
    if device.type == "cuda":
        runs["imptool, bfloat16"] = lambda: in_precision("bfloat16")
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 1):
        for name, run in reversed(runs.items()) if number % 2 else runs.items():
            choose_compute(trained.model, device, "float32")
            began = time.perf_counter()
            run()
            if number:  # the first is for warming up
                found[name].append(arguments.photographs / (time.perf_counter() - began))
    return found


def memories(folder: Path, recipe: Recipe, arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Peak memory, each in a process of its own; of ours also with other numbers of detections and images."""
    most, count = recipe.detector.detections, arguments.photographs
    more = Path(folder, "more")
    draw(more, SIZES["2000x2000"], 4 * count)
    cases: dict[str, tuple[str, Path, int]] = {}
    for who in ("torchvision", "imptool"):
        for name in SIZES:
            cases[f"{who}, {name}, {most} detections"] = (who, folder / name, most)
    cases["imptool, 2000x2000, 10 detections"] = ("imptool", folder / "2000x2000", 10)
    cases[f"imptool, 2000x2000, {most} detections, four times the images"] = ("imptool", more, most)
    return {name: measured(*case, arguments) for name, case in cases.items()}


def measured(who: str, folder: Path, detections: int, arguments: argparse.Namespace) -> dict[str, int]:
    command = [sys.executable, str(SCRIPT), "--device", arguments.device, "--recipe", arguments.recipe]
    command += [part for override in arguments.override for part in ("-o", override)]
    command += ["--batch", str(arguments.batch), "--workers", str(arguments.workers)]
    command += ["--measure-memory", who, str(folder), str(detections)]
    result: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def memory(who: str, folder: Path, recipe: Recipe, device: torch.device, arguments: argparse.Namespace) -> dict[str, int]:
    """MiB at most above what the process has when the model is loaded."""
    trained = build(recipe, folder, device)
    save_weights(trained.source, trained.model, trained.name, recipe, trained.labels)
    choose_compute(trained.model, device, "float32")
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    allocated = torch.cuda.memory_allocated(device) if cuda else 0
    host = reset_peak()
    theirs(trained, folder, device) if who == "torchvision" else ours(trained, folder, device, arguments)
    result = {"host_mib": peak() - host}
    if cuda:
        result["cuda_mib"] = (torch.cuda.max_memory_allocated(device) - allocated) // 2**20
    return result


def reset_peak() -> int:
    """Resident memory now, in MiB; Linux counts its peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    return status("VmHWM")


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) // 1024


def report_rates(size: str, found: dict[str, list[float]]) -> None:
    print(f"\n{size}: images a second, median of {len(found['torchvision'])} rounds")
    for name, values in found.items():
        ratios = [one / other for one, other in zip(values, found["torchvision"], strict=True)]
        print(f"  {name:<20}{statistics.median(values):8.2f}   {statistics.median(ratios):.2f} of torchvision's")


def report_memory(found: dict[str, dict[str, int]]) -> None:
    print("\npeak memory above the loaded model's, MiB")
    for name, values in found.items():
        print(f"  {name:<66}" + "  ".join(f"{kind.removesuffix('_mib')} {value:,}" for kind, value in values.items()))


if __name__ == "__main__":
    main()
