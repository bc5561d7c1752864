# %% [markdown]
"""
Evaluate label maps made by any program against the ground truth of a dataset. The maps are PNGs of the
dataset's class ids, named like its images.

    python examples/evaluate_label_maps.py outfits/labels outfits --split val
"""

# %%
import argparse
import sys
from pathlib import Path

import numpy as np

from imptool.data.dataset import load_dataset
from imptool.data.images import read_label_map
from imptool.metrics.confusion import class_iou, confusion_matrix, summarize, tally

parser = argparse.ArgumentParser()
parser.add_argument("maps", nargs="?", type=Path, default="outfits/labels")
parser.add_argument("dataset", nargs="?", default="outfits", help="a folder or a YAML")
parser.add_argument("--split", default="val")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook takes the defaults

# %%
dataset = load_dataset(options.dataset)
labels, classes = dataset.labels, len(dataset.labels.classes)
confusion = np.zeros((classes, classes), np.int64)
for item in dataset.split(options.split):
    predicted = labels.to_channels(read_label_map(options.maps / f"{item.stem}.png"))
    target = dataset.read_channels(item)
    confusion += confusion_matrix(predicted, target, num_classes=classes, ignore=labels.ignore_channel)
counts = tally(confusion)
for name, iou in zip(labels.names, class_iou(counts), strict=True):
    print(f"{name:20} IOU {iou:7.2%}")
for key, value in summarize(counts, foreground=labels.foreground, things=labels.things).items():
    print(f"{key:20}     {value:7.2%}")
