# %% [markdown]
"""
Fine-tune the shipped weights on a dataset of your own, a folder or a YAML, and parse one of its images with the result.

    python examples/finetune_on_folder.py outfits --iterations 200
"""

# %%
import argparse
import subprocess
import sys
from pathlib import Path

import imptool

parser = argparse.ArgumentParser()
parser.add_argument("dataset", nargs="?", default="outfits")
parser.add_argument("--iterations", type=int, default=200)
parser.add_argument("--out", type=Path, default="runs/finetuned", help="the folder of the run")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook takes the defaults

# %% [markdown]
"""
The command splits the images where the dataset has no splits, converts the label maps, trains and measures.
"""

# %%
command = [sys.executable, "-m", "imptool", "train", options.dataset, "--out", str(options.out)]
subprocess.run([*command, "-o", f"stages.full.iterations={options.iterations}"], check=True)

# %%
model = imptool.load(options.out)
image = next(path for path in sorted(Path(options.dataset, "images").rglob("*")) if path.is_file())
print(model.predict(image))
