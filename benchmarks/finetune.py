"""How many images does a parser of one's own need? python benchmarks/finetune.py data/ccp

CCP's classes are merged into seven groups, of which three (footwear, skin, hair) are classes of ccp-lite by name and four are
new. A parser is trained on 30, 100 and 300 images, from ccp-lite and from ImageNet weights alone, for as many iterations,
and measured on the val split. The images are among those that ccp-lite was trained on, under its own classes: its start is
better here than it will be on images of another kind. Rows go to the JSON of --out; the same command adds what is missing.
"""

from __future__ import annotations

import argparse
import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml
from models import machine
from training import CPU, QUIET, add_row, train_and_measure

from imptool.convert_instances import convert_instances
from imptool.data.dataset import load_dataset
from imptool.data.export import Export
from imptool.files import RECIPES
from imptool.recipe import load_recipe

GROUPS = {
    "upper": ("outer", "top"),
    "lower": ("pants", "shorts", "skirt"),
    "whole": ("dress",),
    "footwear": ("boots", "footwear"),
    "accessories": ("bag", "belt", "sunglasses", "headwear", "scarf_tie"),
    "skin": ("skin",),
    "hair": ("hair",),
}
STARTS = {"ccp-lite": "stages={full: {from: ccp-lite, iterations: %d}}", "imagenet": "stages={full: {iterations: %d}}"}
SMALLER = (  # than ccp_lite, to take minutes
    "input={short_side: 128, long_side: 192}",
    "augment={short_sides: [96, 112, 128, 144, 160], long_side: 240, brightness: 0.2, contrast: 0.2, saturation: 0.2}",
    "detector.rois_per_image=32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ccp", type=Path, help="folder of Clothing Co-Parsing")
    parser.add_argument("--images", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), metavar="START")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path("finetune-runs"), help="of the runs; what is unfinished is resumed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/finetune-cpu.json"))
    arguments = parser.parse_args()
    out, ccp = arguments.out.resolve(), arguments.ccp.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with chdir(arguments.folder):
        for seed in arguments.seeds:
            for start in arguments.starts:
                for images in arguments.images:
                    key = {"start": start, "images": images, "seed": seed, "iterations": arguments.iterations}
                    found = json.loads(out.read_text()) if out.is_file() else {"machine": machine(CPU), "rows": []}
                    if any(key.items() <= row.items() for row in found["rows"]):
                        continue
                    dataset = write_dataset(ccp, images)
                    overrides = [f"dataset={dataset}", "train_split=few", f"seed={seed}", *SMALLER]
                    recipe = load_recipe("ccp_lite", [*overrides, STARTS[start] % arguments.iterations])
                    row = key | train_and_measure(recipe, Path("runs", f"{start}-{images}-{seed}"))
                    add_row(out, found, row)
                    print(f"{start:9s} {images:4d} images  mIOU {row['miou']:6.2%}  box AP {row['box_ap']:6.2%}", flush=True)


def write_dataset(ccp: Path, images: int) -> str:
    """CCP in seven groups, with so many images to train (those of a smaller number are among them), and its instances."""
    described: dict[str, Any] = yaml.safe_load((RECIPES / "datasets" / "ccp.yaml").read_text())
    group_of = {
        row["id"]: number for row in described["classes"] for number, group in _numbered() if row["name"] in GROUPS[group]
    }
    described["classes"] = [
        {"id": 0, "name": "background", "thing": False},
        *({"id": i, "name": name} for i, name in _numbered()),
    ]
    described["remap"] = {tag: group_of.get(place, place) for tag, place in described["remap"].items()}
    described["root"] = str(ccp)
    described["random_splits"] |= {"sizes": {"val": 120, "few": images}, "rest": "others"}
    name = f"ccp_groups_{images}.yaml"
    Path(name).write_text(yaml.safe_dump(described))
    if not Path("instances", Path(name).stem, "few.json").is_file():
        convert_instances(load_dataset(name), export=Export(), out=None, workers=1, force=True, resume=False, console=QUIET)
    return name


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(GROUPS, start=1))


if __name__ == "__main__":
    main()
