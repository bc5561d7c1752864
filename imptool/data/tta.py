"""Test-time augmentation (TTA): at which scales, and whether mirrored as well, an image goes through the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imptool.data.images import fit_image, resized_size
from imptool.data.label_set import LabelSet
from imptool.files import InputError
from imptool.recipe import Input

LEAST, MOST = 0.25, 4.0  # scales


@dataclass(frozen=True)
class Tta:
    """The views of an image that are parsed, and whose results are averaged: one at each scale, or two with `flip`.

    scales: factors of the recipe's short and long side, ascending.
    channels, labels: what every semantic channel, and every label 0..K of the detector, is in a mirror; () mirrors nothing.
    """

    scales: tuple[float, ...] = (1.0,)
    channels: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def flip(self) -> bool:
        return bool(self.channels)

    @property
    def passes(self) -> int:
        """How often an image goes through the network."""
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        """As `--tta` takes it, in one order: "flip,0.75,1"; "" of the plain view alone, which is no augmentation."""
        if self == PLAIN:
            return ""
        return ",".join([*(["flip"] if self.flip else []), *(str(scale).removesuffix(".0") for scale in self.scales)])

    def sizes(self, size: tuple[int, int], wanted: Input) -> tuple[tuple[int, int], ...]:
        """The (height, width) that an image of `size` has at every scale."""
        return tuple(resized_size(size, **_sides(wanted, scale)) for scale in self.scales)

    def resize(self, image: np.ndarray, wanted: Input) -> list[np.ndarray]:
        """An image [H, W, 3] at every scale, each resized from the image itself; at scale 1 it is what `fit_image` gives."""
        return [fit_image(image, **_sides(wanted, scale)) for scale in self.scales]


PLAIN = Tta()


def _sides(wanted: Input, scale: float) -> dict[str, int]:
    return {"short_side": round(wanted.short_side * scale), "long_side": round(wanted.long_side * scale)}


def parse_tta(text: str | None, labels: LabelSet) -> Tta:
    """What `--tta` asks for: a comma list of scales, and perhaps `flip`, which alone is "flip,1"; None is the plain view.

    Args:
        labels: of the model, which know what a left shoe is in a mirror.
    Raises:
        InputError: a word is neither, a scale is out of bounds, one is there twice, or left and right are not known.
    """
    if text is None:
        return PLAIN
    words = [word.strip() for word in text.split(",")]
    scales = [_scale(word, text) for word in words if word != "flip"] or [1.0]
    if words.count("flip") > 1 or len(set(scales)) < len(scales):
        raise InputError(f"--tta {text}: flip, or a scale, is there twice")
    mirror = labels.mirrored() if "flip" in words else ((), ())
    return Tta(tuple(sorted(scales)), *mirror)


def _scale(word: str, text: str) -> float:
    try:
        scale = float(word)
    except ValueError as error:
        raise InputError(f"--tta {text}: '{word}' is neither flip nor a scale, such as in flip,0.75,1,1.25") from error
    if not LEAST <= scale <= MOST:
        raise InputError(f"--tta {text}: scales must be {LEAST:g} to {MOST:g}")
    return scale
