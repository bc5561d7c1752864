"""What each part of the training gives: python benchmarks/training.py data/ccp

One recipe (ccp_lite at 128/192 px, a short budget) is trained plainly, and again with one thing changed, for several seeds.
Everything is trained on 680 of CCP's 780 training images and measured on the other 100: the val split is not looked at.
Rows go to the JSON of --out as they are finished; the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
import yaml
from models import machine
from rich.console import Console

from imptool.checkpoint import WEIGHTS, load_run
from imptool.convert_instances import convert_instances
from imptool.data.dataset import load_dataset
from imptool.data.export import Export
from imptool.evaluate import Request, evaluate_run
from imptool.evaluation.figures import distance_key
from imptool.files import RECIPES, whole_file
from imptool.recipe import Recipe, load_recipe
from imptool.train import train

STAGES = ("detector", "full")
CPU, QUIET = torch.device("cpu"), Console(quiet=True)
COMMON = (
    "dataset=ccp_tune.yaml",
    "train_split=fit",
    "val_split=tune",
    "input={short_side: 128, long_side: 192}",
    "augment={}",
    "detector.anchor_sizes=[8, 16, 32, 64, 128]",
    "detector.rois_per_image=32",
    "losses.hardest=1.0",
    "solver={optimizer: adamw, batch: 4, lr: 0.001, lr_batch: 4, warmup: 50, weight_decay: 0.01, clip_norm: 10.0}",
)
ARMS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "cosine": ("solver.schedule=cosine",),
    "backbone_lr 0.1": ("solver.backbone_lr=0.1",),
    "ema 0.99": ("solver.ema=0.99",),
    "copy_paste 0.5": ("augment.copy_paste=0.5",),
    "repeat_threshold 0.25": ("augment.repeat_threshold=0.25",),
    "hardest 0.15": ("losses.hardest=0.15",),
    "larger late": ("stages.full.augment={short_sides: [128, 144, 160], long_side: 240}",),
    "short_sides 96..160": ("augment.short_sides=[96, 112, 128, 144, 160]", "augment.long_side=240"),
    "fpn_norm none": ("backbone.fpn_norm=none",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ccp", type=Path, help="folder of Clothing Co-Parsing")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, nargs=2, default=[400, 250], metavar=("DETECTOR", "FULL"))
    parser.add_argument("--folder", type=Path, default=Path("training-runs"), help="of the runs; what is unfinished is resumed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training-cpu.json"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    found = json.loads(out.read_text()) if out.is_file() else {"machine": machine(CPU), "rows": []}
    if found.setdefault("iterations", arguments.iterations) != arguments.iterations:
        parser.error(f"{out} holds rows of {found['iterations']} iterations: choose another --out")
    prepare(arguments.ccp.resolve(), arguments.folder)
    with chdir(arguments.folder):
        for seed in arguments.seeds:
            for arm in arguments.arms:
                if any(row["arm"] == arm and row["seed"] == seed for row in found["rows"]):
                    continue
                row = {"arm": arm, "seed": seed, **train_arm(arm, seed, arguments.iterations)}
                add_row(out, found, row)
                print(
                    f"seed {seed}  {arm:22s}  mIOU {row['miou']:6.2%}  box AP {row['box_ap']:6.2%}  {row['minutes']:.1f} min",
                    flush=True,
                )
    print_table(found["rows"])


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


def train_arm(arm: str, seed: int, iterations: list[int]) -> dict[str, Any]:
    recipe = load_recipe(
        "ccp_lite",
        [
            *COMMON,
            f"seed={seed}",
            "stages.full.augment=null",
            *(f"stages.{name}.iterations={count}" for name, count in zip(STAGES, iterations, strict=True)),
            *(f"stages.{name}.steps=[{int(0.8 * count)}]" for name, count in zip(STAGES, iterations, strict=True)),
            f"evaluate_every={max(iterations[1] // 2, 1)}",
            *ARMS[arm],
        ],
    )
    return train_and_measure(recipe, Path("runs", f"{arm.replace(' ', '-')}-{seed}"))


def train_and_measure(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Train, or go on with, a run; its figures on the val split of the recipe, and the mIOU on the way."""
    began = time.monotonic()
    if not (run / WEIGHTS).is_file():
        train(recipe, run, device=CPU, workers=0, console=QUIET, resume=any(run.glob("checkpoint-*.pt")))
    minutes = (time.monotonic() - began) / 60
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    request = Request(None, (10.0,), "", "", None, None, workers=1, console=QUIET)
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


def print_table(rows: list[dict[str, Any]]) -> None:
    """Every arm's means, and its paired differences from the plain one."""
    plain = {row["seed"]: row for row in rows if row["arm"] == "plain"}
    print(f"\n{'':22s}  mIOU   gain of each seed         box AP  gain")
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm and row["seed"] in plain]
        if not own:
            continue
        gains = [100 * (row["miou"] - plain[row["seed"]]["miou"]) for row in own]
        ap = [100 * (row["box_ap"] - plain[row["seed"]]["box_ap"]) for row in own]
        shown = " ".join(f"{gain:+.1f}" for gain in gains)
        mean, box = (100 * statistics.mean(row[key] for row in own) for key in ("miou", "box_ap"))
        print(f"{arm:22s}  {mean:5.1f}  {statistics.mean(gains):+.1f} ({shown:18s})  {box:5.1f}  {statistics.mean(ap):+.1f}")


if __name__ == "__main__":
    main()
