"""The colours of label files and overlays."""

from __future__ import annotations

import numpy as np


def voc_palette() -> np.ndarray:
    """The colour of each class id 0..255 as the Pascal VOC files have it: [256, 3] uint8, RGB.

    Colour bits are dealt out from the id: bits 0, 1, 2 become the highest bits of red, green and blue, bits 3, 4, 5 the
    next ones, and so on. So neighbouring ids get colours far apart, and id 0 is black.
    """
    ids = np.arange(256, dtype=np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((ids >> bit) & 1) << (7 - bit // 3)
    return palette
