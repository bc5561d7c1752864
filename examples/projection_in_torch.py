# %% [markdown]
"""
Use Instance Mask Projection in a torch model of your own. `project_masks` draws each instance's soft mask on the canvas layer
of its class, and gradients reach the masks and scores: here it teaches two masks to cover a target.

    python examples/projection_in_torch.py --steps 100
"""

# %%
import argparse
import sys

import torch

from imptool.projection import project_masks

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
options = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook takes the defaults

# %%
torch.manual_seed(0)
boxes = torch.tensor([[2.0, 2.0, 18.0, 14.0], [10.0, 16.0, 30.0, 30.0]])  # xyxy in pixels of the canvas
layers, image_index = torch.tensor([0, 1]), torch.tensor([0, 0])  # each instance's class, and its image in the batch
scores = torch.tensor([0.9, 0.8])
mask_logits = torch.randn(2, 28, 28, requires_grad=True)
target = torch.zeros(1, 2, 32, 32)
target[0, 0, 4:12, 4:16], target[0, 1, 18:28, 12:28] = 0.9, 0.8

# %%
optimizer = torch.optim.Adam([mask_logits], lr=0.2)
for step in range(options.steps + 1):
    canvas = project_masks(boxes, layers, scores, mask_logits.sigmoid(), image_index, num_layers=2, size=(32, 32), batch=1)
    loss = (canvas - target).square().mean()
    if step in (0, options.steps):
        print(f"step {step}: loss {loss.item():.5f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
