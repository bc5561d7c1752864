"""What the projection gains, in pairs: python benchmarks/paired.py

Outfits are drawn and converted, and a detector is trained. From its weights two models go on for every seed, for as many
iterations on the same batches: one without the canvas and one with it. Each is measured on the val split, on which nothing
was chosen. The figures are printed as they come out; the paper's (Table 1) are of 5493 photographs and 70,000 iterations.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from imptool.checkpoint import load_run
from imptool.convert_instances import convert_instances
from imptool.data.dataset import load_dataset
from imptool.evaluate import evaluate
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    out = arguments.out.resolve() if arguments.out else None
    device = torch.device(arguments.device)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        draw(arguments.photographs)
        detector = train_one("mask-rcnn", 0, arguments.detector_iterations, [*DETECTOR, *arguments.override], device)
        for seed in arguments.seeds:
            for model in arguments.pair:
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
    for key, name in (("miou", "mIOU"), ("macc", "mAcc"), ("band_miou", "mIOU within 10 px")):
        without, with_canvas = ([row[key] for row in rows if row["model"] == model] for model in arguments.pair)
        gains = [100 * (more - less) for less, more in zip(without, with_canvas, strict=True)]
        shown = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name}: {arguments.pair[1]} - {arguments.pair[0]} = {statistics.mean(gains):+.2f} points ({shown})")
    if out:
        plain = {key: value for key, value in vars(arguments).items() if key != "out"}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"arguments": plain, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def draw(count: int) -> None:
    path = write_outfits(
        Path("outfits"), count=count, size=(320, 160), seed=0, groups=True, workers=2, overwrite=False, console=QUIET
    )
    convert_instances(load_dataset(path), out=None, connectivity=8, min_area=1, workers=2, overwrite=False, console=QUIET)


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


def measure(run: Path, device: torch.device) -> dict[str, float]:
    trained = load_run(run, device=device)
    result = evaluate(trained, dataset=None, split=None, bands=[10.0], baseline=None, device=device, workers=1, console=QUIET)
    tally = result.tallies[trained.name]
    summary = tally.summary()
    return {
        "miou": summary["miou"],
        "macc": summary["macc"],
        "band_miou": tally.band_summaries()[0]["miou"],
        "canvas": result.canvas_nonempty,
        "box_ap": result.precision["box"]["AP"],
    }


if __name__ == "__main__":
    main()
