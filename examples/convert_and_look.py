# %% [markdown]
"""
Convert the label maps of a dataset folder to instances and draw some of them: image, classes and instances side by side.

    python examples/convert_and_look.py outfits --out pictures
"""

# %%
import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from imptool.data.coco import annotations_of, decode_masks
from imptool.data.dataset import load_dataset
from imptool.data.images import read_image
from imptool.report.overlays import colour_classes, colour_instances, side_by_side

parser = argparse.ArgumentParser()
parser.add_argument("dataset", nargs="?", default="outfits", help="a folder or a YAML")
parser.add_argument("--split", default="val")
parser.add_argument("--out", type=Path, default="pictures")
parser.add_argument("--count", type=int, default=4)
options = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook takes the defaults

# %%
dataset = load_dataset(options.dataset)
foreground = [dataset.labels.ids[channel] for channel in dataset.labels.foreground]
options.out.mkdir(parents=True, exist_ok=True)
for item in dataset.split(options.split)[: options.count]:
    image, ids = read_image(item.image), dataset.read_labels(item)
    instances = dataset.read_instances(item, connectivity=8, components=False)
    masks = decode_masks(annotations_of(instances, image_id=1, first_id=1), ids.shape)
    pictures = [image, colour_classes(image, ids, ids=foreground), colour_instances(image, masks)]
    Image.fromarray(side_by_side([pictures])).save(options.out / f"{Path(item.stem).name}.png")
    print(f"{item.stem}: {len(masks)} instances of {len(np.unique(instances.class_ids))} classes")
