"""The models of the paper and torchvision's Mask R-CNN, side by side in one run: python benchmarks/models.py

Outfits are drawn, converted and read as training reads them. Every round times every model once on the same batch, so that
a busy machine slows all alike; medians of the rounds are printed, and ratios as medians of the paired rounds. Nothing here
has learned anything, so the score threshold is set to where `detections` x 5 candidates of the first image pass it:
every image has as many detections as the recipe allows, which is the dearest case for what projects them.

With --detections (of `detections.py`) those of a trained model are projected in their place, as many of them.

`torchvision` is its own Mask R-CNN of the same sizes in the plain loop of its reference scripts. The shares of the parts are
measured in rounds of their own, as waiting for the GPU after each part takes time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from detections import Found, Replay, describe, read
from rich.console import Console
from torchvision.models.detection import MaskRCNN

from imptool.convert_instances import convert_instances
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.export import Export
from imptool.data.instances import read_instances
from imptool.data.samples import Sample, TrainingSamples
from imptool.draw_outfits import write_outfits
from imptool.models import MODELS, build_model
from imptool.models.detector import build_detector
from imptool.models.parser import Parser
from imptool.recipe import Recipe, load_recipe
from imptool.training.solver import build_optimizer

PEER = "torchvision"
DETACHED, BFLOAT16 = " (detach)", " (bfloat16)"
RESULTS = Path(__file__).parent / "results"
Batch = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]
Step = Callable[[Batch], None]


@dataclass
class Parts:
    """Seconds in the forward of each part of a model, counted while `watched`."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    watched: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--recipe", default="vcp_r50" if cuda else "ccp_lite", help="sizes of network, images and batch")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="KEY=VALUE", help="as of imptool train")
    parser.add_argument("--models", nargs="+", default=[], help="all of them, when none are named")
    parser.add_argument("--bfloat16", action="store_true", help="our models once more in bfloat16 and channels_last")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="of detections.py: what is projected")
    parser.add_argument("--only", choices=["training", "inference"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    names = arguments.models or [
        PEER,
        *MODELS,
        *(name + DETACHED for name in MODELS if name.startswith("panoptic") and name.endswith("imp")),
    ]
    if arguments.bfloat16:
        names += [name + BFLOAT16 for name in names if name != PEER]
    found = read(arguments.detections)[0] if arguments.detections else []
    about = describe(arguments.detections) if arguments.detections else "as many as the recipe allows, of an untrained detector"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        overrides = ["backbone.weights=none", "backbone.norm=batch", *arguments.override]
        recipe = load_recipe(arguments.recipe, overrides)
        dataset = draw_dataset(recipe, count=4 * recipe.solver.batch)
        samples = TrainingSamples(
            dataset, "train", read_instances(dataset, "train"), size=recipe.input, augment=recipe.augment, seed=0
        )
        began = time.perf_counter()
        batches = [
            to_device([samples[place * recipe.solver.batch + row] for row in range(recipe.solver.batch)], device)
            for place in range(2)
        ]
        data_ms = (time.perf_counter() - began) / (2 * recipe.solver.batch) * 1000
    figures: dict[str, Any] = {
        "machine": machine(device),
        "recipe": recipe.to_plain(),
        "detections": about,
        "data_ms_per_image": data_ms,
    }
    if arguments.only != "inference":
        figures["training"] = training(names, recipe, dataset, batches, found, device, arguments.rounds)
    if arguments.only != "training":
        names = [name for name in names if DETACHED not in name]
        figures["inference"] = inference(names, recipe, dataset, batches, found, device, arguments.rounds)
    report(figures, recipe)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def draw_dataset(recipe: Recipe, *, count: int) -> Dataset:
    """Outfits at the size that the recipe resizes to, so that drawing and reading cost no more than they must."""
    height, width = recipe.input.long_side, recipe.input.short_side
    console = Console(quiet=True)
    path = write_outfits(
        Path("outfits"),
        count=count + count // 4,
        size=(height, width),
        seed=0,
        groups=False,
        workers=2,
        force=True,
        console=console,
    )
    dataset = load_dataset(path)
    convert_instances(dataset, export=Export(), out=None, workers=2, force=True, resume=False, console=console)
    return dataset


def to_device(samples: list[Sample], device: torch.device) -> Batch:
    images = [sample.image.to(device) for sample in samples]
    return images, [{name: value.to(device) for name, value in sample.target.items()} for sample in samples]


def build(
    name: str, recipe: Recipe, dataset: Dataset, batch: Batch, found: list[Found], device: torch.device
) -> torch.nn.Module:
    """A model by its name, or the peer, with the score threshold of the docstring above, or with given detections."""
    torch.manual_seed(0)
    changed: dict[str, Any] = {"projection": recipe.projection.model_copy(update={"detach": DETACHED in name})}
    if BFLOAT16 in name:
        changed["compute"] = recipe.compute.model_copy(update={"precision": "bfloat16", "channels_last": True})
    recipe, name = recipe.model_copy(update=changed), name.replace(DETACHED, "").replace(BFLOAT16, "")
    things = len(dataset.labels.things)
    if name == PEER:
        model = build_detector(recipe.backbone, recipe.detector, recipe.input, num_things=things)
        detector = model
    else:
        model = build_model(name, recipe, dataset.labels, pretrained=False)
        detector = model.detector
    model = model.to(device)
    if detector.roi_heads is None:
        return model
    counts = [len(one["scores"]) for one in found]
    most = max(counts) if counts else recipe.detector.detections
    detector.roi_heads.score_thresh = usual_threshold(detector, batch, most)
    if counts and name == PEER:
        detector.roi_heads.detections_per_img = round(statistics.mean(counts))
    elif counts:
        model._detections = Replay(model, found, things, device)
    return model


@torch.no_grad()
def usual_threshold(detector: MaskRCNN, batch: Batch, detections: int) -> float:
    """The score that five candidates for each wanted detection of the first image pass."""
    detector.eval()
    images, _ = detector.transform([batch[0][0]])
    features = detector.backbone(images.tensors)
    proposals, _ = detector.rpn(images, features)
    heads = detector.roi_heads
    logits, _ = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, images.image_sizes)))
    scores = F.softmax(logits, -1)[:, 1:].flatten()
    return scores.topk(min(5 * detections, len(scores))).values[-1].item()


def training(
    names: list[str],
    recipe: Recipe,
    dataset: Dataset,
    batches: list[Batch],
    found: list[Found],
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    steps: dict[str, Step] = {}
    parts: dict[str, Parts] = {}
    for name in names:
        model = build(name, recipe, dataset, batches[0], found, device).train()
        parts[name] = Parts()
        steps[name] = peer_step(model, recipe) if name == PEER else our_step(model, recipe)
        time_parts(model, parts[name], device)
    return interleave(steps, parts, batches, device, rounds, images=recipe.solver.batch)


def our_step(model: Parser, recipe: Recipe) -> Step:
    optimizer = build_optimizer(model, recipe.solver, lr=1e-6)  # so small that the detections stay as many

    def step(batch: Batch) -> None:
        losses, _ = model(*batch)
        if not losses:
            return
        total = sum(losses.values(), torch.zeros((), device=batch[0][0].device))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.solver.clip_norm or float("inf"))
        optimizer.step()

    return step


def peer_step(model: MaskRCNN, recipe: Recipe) -> Step:
    """torchvision's references/detection/engine.py, without its logging."""
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-6, momentum=0.9, weight_decay=1e-4
    )

    def step(batch: Batch) -> None:
        images, targets = batch
        instances = [{name: target[name] for name in ("boxes", "labels", "masks")} for target in targets]
        losses = sum(model(images, instances).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    return step


def inference(
    names: list[str],
    recipe: Recipe,
    dataset: Dataset,
    batches: list[Batch],
    found: list[Found],
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    steps: dict[str, Step] = {}
    parts: dict[str, Parts] = {}
    for name in names:
        model = build(name, recipe, dataset, batches[0], found, device).eval()
        parts[name] = Parts()
        steps[name] = one_image(model)
        time_parts(model, parts[name], device)
    with torch.no_grad():
        return interleave(steps, parts, batches, device, rounds, images=1)


def one_image(model: torch.nn.Module) -> Step:
    def step(batch: Batch) -> None:
        if isinstance(model, Parser):
            model.infer(batch[0][:1])
        else:  # without pasting its masks, as ours are not pasted either
            images, _ = model.transform([batch[0][0]])
            features = model.backbone(images.tensors)
            proposals, _ = model.rpn(images, features)
            model.roi_heads(features, proposals, images.image_sizes)

    return step


def time_parts(model: torch.nn.Module, parts: Parts, device: torch.device) -> None:
    """Let a model count the time of the forward of each part. What follows (backward, update) is the rest of a step."""

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if not parts.watched:
                return function(*arguments, **named)
            began = now(device)
            result = function(*arguments, **named)
            parts.seconds[part] += now(device) - began
            return result

        return run

    if not isinstance(model, Parser):
        return
    for method, part in {
        "_features": "backbone",
        "_detector_losses": "detector",
        "_detections": "detections",
        "project": "projection",
        "_logits": "semantic head",
    }.items():
        setattr(model, method, timed(part, getattr(model, method)))
    if model.detector.rpn is not None and not model.training:
        model.detector.rpn.forward = timed("detector", model.detector.rpn.forward)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def interleave(
    steps: dict[str, Step],
    parts: dict[str, Parts],
    batches: list[Batch],
    device: torch.device,
    rounds: int,
    *,
    images: int,
) -> dict[str, Any]:
    """Milliseconds an image of every step in every round, and the share of each part."""
    for step in steps.values():
        for batch in batches:
            step(batch)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        order = list(steps) if number % 2 else list(reversed(steps))
        for name in order:
            began = now(device)
            steps[name](batches[number % len(batches)])
            times[name].append((now(device) - began) / images * 1000)
    return {name: {"ms_per_image": times[name], "parts": shares(steps[name], parts[name], batches, device)} for name in steps}


def shares(step: Step, parts: Parts, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """The share of each part in the time of a step, from one round over the batches."""
    parts.watched, began = True, now(device)
    for batch in batches:
        step(batch)
    whole, parts.watched = now(device) - began, False
    return {part: seconds / whole for part, seconds in parts.seconds.items()}


def ratio(figures: dict[str, Any], name: str, to: str) -> float:
    """The median of the paired ratios."""
    pairs = zip(figures[name]["ms_per_image"], figures[to]["ms_per_image"], strict=True)
    return statistics.median(one / other for one, other in pairs)


def machine(device: torch.device) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
    }


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(figures: dict[str, Any], recipe: Recipe) -> None:
    size = f"{recipe.input.short_side}/{recipe.input.long_side} px, {recipe.backbone.name}"
    print(
        f"{figures['machine']['device']}, {size}; "
        f"reading and augmenting: {figures['data_ms_per_image']:.1f} ms an image on one core"
    )
    for kind, title in (("training", f"training step, batch {recipe.solver.batch}"), ("inference", "inference, one image")):
        rows = figures.get(kind, {})
        if not rows:
            continue
        base = next((name for name in (PEER, "mask-rcnn") if name in rows), next(iter(rows)))
        print(f"\n{title:36s}{'ms/image':>9s}{'images/s':>9s}{'to ' + base:>15s}  share of the forward parts")
        for name, row in rows.items():
            median = statistics.median(row["ms_per_image"])
            shares = ", ".join(f"{part} {share:.0%}" for part, share in row["parts"].items())
            print(f"{name:36s}{median:9.1f}{1000 / median:9.2f}{ratio(rows, name, base):15.2f}  {shares}")
    print()
    for line in targets(figures):
        print(line)


def targets(figures: dict[str, Any]) -> Iterator[str]:
    """The ratios that the design sets limits for."""
    wanted = [
        ("training", "mask-rcnn", PEER, 1.05),
        *(("training", f"panoptic-{kind}-imp{DETACHED}", f"panoptic-{kind}", 1.25) for kind in ("p2", "fpn")),
        *(("training", f"panoptic-{kind}-imp", f"panoptic-{kind}", 2.0) for kind in ("p2", "fpn")),
        *(("inference", f"panoptic-{kind}-imp", f"panoptic-{kind}", 1.02) for kind in ("p2", "fpn")),
        ("inference", "panoptic-fpn-imp", "mask-rcnn", 1.3),
    ]
    for kind, name, to, limit in wanted:
        for precision in ("", BFLOAT16):
            one, other = name + precision, to + precision
            if {one, other} <= figures.get(kind, {}).keys():
                yield f"{kind}: {one} / {other} = {ratio(figures[kind], one, other):.3f} (wanted: at most {limit})"
    for kind in ("training", "inference"):
        for name in figures.get(kind, {}):
            if BFLOAT16 in name:
                yield f"{kind}: {name} / float32 = {ratio(figures[kind], name, name.replace(BFLOAT16, '')):.3f}"


if __name__ == "__main__":
    main()
