"""What PANet's parts cost: python benchmarks/panet.py [RECIPE] [--model NAME] [--rounds N]

Every row of the paper's Table 3 as a model of its own, on images of noise of the recipe's size (by default of
panet_outfits_small, for a CPU). Every round times a training step and an inference of each row once, so a busy machine slows
all alike; printed are medians of the paired ratios to the baseline, parameters, and on a GPU the memory of a step. Nothing has
learned anything: an untrained detector detects as much as the recipe allows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.models import build_model
from imptool.models.network import Network, total_loss
from imptool.recipe import PANet, Recipe, load_recipe
from imptool.training.forecast import image_size, noise

ROWS = {
    "baseline": {},
    "norm": {"norm": "group"},
    "+ path": {"norm": "group", "bottom_up": True},
    "+ pooling": {"norm": "group", "pooling": "max"},
    "path + pooling": {"norm": "group", "bottom_up": True, "pooling": "max"},
    "+ fusion": {"norm": "group", "bottom_up": True, "pooling": "max", "fusion": "sum"},
    "+ heavy head": {"norm": "group", "bottom_up": True, "pooling": "max", "fusion": "sum", "heavy_head": True},
}
LABELS = LabelSet(tuple(ClassInfo(id=n, name=f"class {n}", thing=n > 0) for n in range(8)), 0, 255)


def build(recipe: Recipe, name: str, row: dict[str, object], device: torch.device) -> Network:
    torch.manual_seed(0)
    panet = PANet.model_validate({**row, "fusion_from": min(3, len(recipe.detector.mask_channels))})
    detector = recipe.detector.model_copy(update={"score_threshold": 0.0})
    changed = recipe.model_copy(update={"panet": panet, "detector": detector})
    return build_model(name, changed, LABELS, pretrained=False).to(device)


def seconds_of(
    model: Network, recipe: Recipe, images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
) -> tuple[float, float]:
    """Of a training step without the optimizer, and of parsing one image."""

    def wait() -> float:
        if images[0].is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    model.train().zero_grad(set_to_none=True)
    began = wait()
    total_loss(model(images, targets)[0], recipe.losses).backward()
    step = wait() - began
    model.eval()
    began = wait()
    model.infer(images[:1])
    return step, wait() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="panet_outfits_small")
    parser.add_argument("--model", default="mask-rcnn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    recipe, device = load_recipe(arguments.recipe), torch.device(arguments.device)
    images, targets = noise(image_size(recipe.input, recipe.augment), recipe.solver.batch, LABELS)
    images = [image.to(device) for image in images]
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    models = {name: build(recipe, arguments.model, row, device) for name, row in ROWS.items()}
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    memory = {}
    for round_ in range(1 + arguments.rounds):
        for name, model in models.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = seconds_of(model, recipe, images, targets)
            if round_:
                taken[name].append(seconds)
            if device.type == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 2**20
    size = "x".join(map(str, images[0].shape[1:]))
    print(f"{arguments.model}, {arguments.recipe}, batch {len(images)} of {size} px, {device}, {arguments.rounds} rounds")
    for name, rows in taken.items():
        ratios = [[each[k] / base[k] for each, base in zip(rows, taken["baseline"], strict=True)] for k in (0, 1)]
        step, infer = (statistics.median(each) for each in ratios)
        count = sum(parameter.numel() for parameter in models[name].parameters())
        more = f", {memory[name]:,.0f} MiB" if name in memory else ""
        print(f"{name:15} step {step:5.2f}  inference {infer:5.2f}  parameters {count / 1e6:6.2f} M{more}")


if __name__ == "__main__":
    main()
