# %% [markdown]
"""
Parse a folder of images into garments. Each garment becomes a PNG that is transparent around it; `garments.csv` says its
class, its score and its share of the image.

    python examples/parse_folder.py outfits/images garments
"""

# %%
import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import imptool

parser = argparse.ArgumentParser()
parser.add_argument("images", nargs="?", type=Path, default="outfits/images")
parser.add_argument("out", nargs="?", type=Path, default="garments")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook takes the defaults

# %%
model = imptool.load("ccp-lite")  # or a run folder, or a .safetensors file
options.out.mkdir(parents=True, exist_ok=True)
rows = []
for path in sorted(options.images.iterdir()):
    parsed = model.predict(path)
    for number, garment in enumerate(found for found in parsed.instances if found.score >= 0.5 and found.mask.any()):
        mask, name = garment.mask, f"{path.stem}-{number}.png"
        ys, xs = np.nonzero(mask)
        cut_out = np.dstack([parsed.image, 255 * mask.astype(np.uint8)])[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        Image.fromarray(cut_out).save(options.out / name)
        rows.append([name, garment.class_name, f"{garment.score:.3f}", f"{mask.mean():.5f}"])
with (options.out / "garments.csv").open("w", newline="") as file:
    csv.writer(file).writerows([["file", "class", "score", "share"], *rows])
print(f"{options.out}: {len(rows)} garments")
