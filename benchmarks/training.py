"""What each part of the training gives: python benchmarks/training.py data/ccp

ccp_lite's network is trained sixteen times at 128/192 px under one short budget, with seven settings on or off: a fractional
factorial design of resolution IV (Box, Hunter, Hunter, Statistics for Experimenters: 2^(7-4) and its fold-over). The effect of
a setting is the mean of the eight runs that have it less that of the eight that have not, with the others on and off alike; it
is not mixed up with what two settings do together. Its interval comes from what the seven effects leave unexplained, with eight
degrees of freedom. Every run has a seed of its own. One change at a time would need three times the runs for as much.

Everything is trained on 680 of CCP's 780 training images and measured on the other 100: the val split is not looked at.
Rows go to the JSON of --out as they are finished; the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from models import machine
from rich.console import Console
from scipy.stats import t as students_t

from imptool.checkpoint import WEIGHTS, load_run
from imptool.convert_instances import convert_instances
from imptool.data.dataset import load_dataset
from imptool.data.export import Export
from imptool.evaluate import Request, evaluate_run
from imptool.evaluation.figures import distance_key
from imptool.files import RECIPES, whole_file
from imptool.recipe import Recipe, load_recipe
from imptool.train import train

CPU, QUIET = torch.device("cpu"), Console(quiet=True)
SETTINGS = ("cosine", "backbone_lr 0.1", "ema 0.99", "copy_paste 0.5", "repeat_threshold 0.25", "ohem 0.15", "larger late")
COMMON = (
    "dataset=ccp_tune.yaml",
    "train_split=fit",
    "val_split=tune",
    "input={short_side: 128, long_side: 192}",
    "detector.anchor_sizes=[8, 16, 32, 64, 128]",
    "detector.rois_per_image=32",
)
SOLVER = {"optimizer": "adamw", "batch": 4, "lr": 0.001, "lr_batch": 4, "warmup": 50, "weight_decay": 0.01, "clip_norm": 10.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ccp", type=Path, help="folder of Clothing Co-Parsing")
    parser.add_argument("--iterations", type=int, nargs=2, default=[300, 150], metavar=("DETECTOR", "FULL"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--folder", type=Path, default=Path("training-runs"), help="of the runs; what is unfinished is resumed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training-cpu.json"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    budget = {"iterations": arguments.iterations, "precision": arguments.precision}
    found = json.loads(out.read_text()) if out.is_file() else {"machine": machine(CPU), **budget, "rows": []}
    if any(found[key] != value for key, value in budget.items()):
        parser.error(f"{out} holds rows of {found['iterations']} iterations in {found['precision']}: choose another --out")
    prepare(arguments.ccp.resolve(), arguments.folder)
    with chdir(arguments.folder):
        for seed, chosen in enumerate(design()):
            if any(row["seed"] == seed for row in found["rows"]):
                continue
            recipe = arm(seed, chosen, arguments.iterations, arguments.precision)
            row = {"seed": seed, "settings": chosen, **train_and_measure(recipe, Path("runs", str(seed)))}
            add_row(out, found, row)
            shown = f"mIOU {row['miou']:6.2%}  box AP {row['box_ap']:6.2%}  {row['minutes']:.1f} min"
            print(f"{seed:2d}  {shown}  {', '.join(chosen)}", flush=True)
    print_effects(found["rows"])


def design() -> list[list[str]]:
    """The settings that are on in each of the sixteen runs; the first half alone is a design of resolution III."""
    signs: list[tuple[int, ...]] = [
        (a, b, c, a * b, a * c, b * c, a * b * c) for a, b, c in itertools.product((1, -1), repeat=3)
    ]
    signs += [tuple(-sign for sign in row) for row in signs]
    return [[name for name, sign in zip(SETTINGS, row, strict=True) if sign > 0] for row in signs]


def arm(seed: int, chosen: list[str], iterations: list[int], precision: str) -> Recipe:
    augment = {
        "copy_paste": 0.5 if "copy_paste 0.5" in chosen else 0.0,
        "repeat_threshold": 0.25 if "repeat_threshold 0.25" in chosen else 0.0,
    }
    solver = {
        **SOLVER,
        "schedule": "cosine" if "cosine" in chosen else "steps",
        "backbone_lr": 0.1 if "backbone_lr 0.1" in chosen else 1.0,
        "ema": 0.99 if "ema 0.99" in chosen else None,
    }
    larger = {"short_sides": [128, 144, 160], "long_side": 240} if "larger late" in chosen else {}
    detector, full = ({"iterations": count, "steps": [int(0.8 * count)]} for count in iterations)
    detector |= {"model": "mask-rcnn"}
    full |= {"from": "detector", "augment": augment | larger}
    return load_recipe(
        "ccp_lite",
        [
            *COMMON,
            f"seed={seed}",
            f"compute.precision={precision}",
            f"augment={json.dumps(augment)}",
            f"solver={json.dumps(solver)}",
            f"losses.ohem={0.15 if 'ohem 0.15' in chosen else 1.0}",
            f"stages={json.dumps({'detector': detector, 'full': full})}",
            f"evaluate_every={max(iterations[1] // 2, 1)}",
        ],
    )


def add_row(out: Path, found: dict[str, Any], row: dict[str, Any]) -> None:
    found["rows"].append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def prepare(ccp: Path, folder: Path) -> None:
    """The dataset with a `tune` split taken from its training images, and its instances."""
    folder.mkdir(parents=True, exist_ok=True)
    description = yaml.safe_load((RECIPES / "datasets" / "ccp.yaml").read_text())
    description["root"] = str(ccp)
    description["random_splits"] |= {"sizes": {"val": 120, "tune": 100}, "rest": "fit"}
    with chdir(folder):
        Path("ccp_tune.yaml").write_text(yaml.safe_dump(description))
        if not Path("instances/ccp_tune/fit.json").is_file():
            dataset = load_dataset("ccp_tune.yaml")
            convert_instances(dataset, export=Export(), out=None, workers=1, force=True, resume=False, console=QUIET)


def train_and_measure(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Train, or go on with, a run; its figures on the val split of the recipe, and the mIOU on the way."""
    began = time.monotonic()
    if not (run / WEIGHTS).is_file():
        train(recipe, run, device=CPU, workers=0, console=QUIET, resume=any(run.glob("checkpoint-*.pt")))
    minutes = (time.monotonic() - began) / 60
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with ExitStack() as held:
        request = Request(None, (10.0,), "", "", None, None, workers=0, console=QUIET, held=held)
        result = evaluate_run(load_run(run, device=CPU), request, dataset=None, device=CPU).result
    figures = result.measured[recipe.model.name].figures
    return {
        "miou": figures["miou"],
        "band_miou": figures[distance_key("band", 10.0, "miou")],
        "pixel_accuracy": figures["pixel_accuracy"],
        "box_ap": result.precision["box"].overall["AP"],
        "curve": {line["iteration"]: line["val_miou"] for line in lines if "val_miou" in line},
        "minutes": minutes,
    }


def print_effects(rows: list[dict[str, Any]]) -> None:
    """What each setting adds, in points, with 95 % intervals, and the time it takes: least squares over the runs."""
    if len(rows) <= len(SETTINGS) + 1:
        return
    signs = np.array([[1.0] + [1.0 if name in row["settings"] else -1.0 for name in SETTINGS] for row in rows])
    freedom = len(rows) - signs.shape[1]
    covariance = np.linalg.inv(signs.T @ signs)
    columns = []
    for key in ("miou", "band_miou", "box_ap"):
        values = np.array([100 * row[key] for row in rows])
        halves = covariance @ signs.T @ values
        variance = ((values - signs @ halves) ** 2).sum() / freedom
        width = students_t.ppf(0.975, freedom) * 2 * np.sqrt(variance * np.diag(covariance))
        columns.append(
            [f"{2 * half:+5.1f} ({2 * half - w:+.1f} to {2 * half + w:+.1f})" for half, w in zip(halves, width, strict=True)]
        )
        print(f"{key}: mean {values.mean():.1f}, from {values.min():.1f} to {values.max():.1f}")
    minutes = covariance @ signs.T @ np.log([row["minutes"] for row in rows])
    print(f"{'':22s}  {'mIOU':22s}  {'within 10 px':22s}  {'box AP':22s}  time")
    for index, name in enumerate(SETTINGS, start=1):
        effects = "  ".join(f"{column[index]:22s}" for column in columns)
        print(f"{name:22s}  {effects}  x {np.exp(2 * minutes[index]):.2f}")


if __name__ == "__main__":
    main()
