"""How fast outfits are drawn, on one core: `python benchmarks/outfits.py [count]`.

Beside it what no generator that writes files can leave out: encoding the same pictures as JPEG and their maps as PNG.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from imptool.outfits import draw_outfit

SIZE = (480, 320)


def milliseconds(work: Callable[[int], object], count: int) -> np.ndarray:
    """The processor time of each call, so that a busy machine counts less."""
    times = []
    for index in range(count):
        began = time.process_time()
        work(index)
        times.append(1e3 * (time.process_time() - began))
    return np.array(times)


def main(count: int) -> None:
    cv2.setNumThreads(1)
    for index in range(60):  # the tiles of cloth and ground are made on first use
        draw_outfit(1, index, SIZE)
    drawn = milliseconds(lambda index: draw_outfit(0, index, SIZE), count)
    outfit = draw_outfit(0, 0, SIZE)
    picture, labels = Image.fromarray(outfit.image), Image.fromarray(outfit.labels)
    jpeg = milliseconds(lambda _: picture.save(io.BytesIO(), "JPEG", quality=93), 50)
    png = milliseconds(lambda _: labels.save(io.BytesIO(), "PNG"), 50)
    encoded = float(np.median(jpeg) + np.median(png))
    print(f"{count} outfits of {SIZE[0]}x{SIZE[1]} on one core")
    print(f"draw    mean {drawn.mean():5.1f} ms, median {np.median(drawn):5.1f} ms: {1e3 / drawn.mean():.0f} a second")
    print(f"encode  {encoded:5.1f} ms, as JPEG and PNG; drawing takes {drawn.mean() / encoded:.1f} times as long")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
