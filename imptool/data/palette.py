"""The colours of label files (Pascal VOC's), and those of pages, overlays and legends (for people)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

# Colours are compared by CIEDE2000, as everyone and as people without red or green cones see them (Machado, Oliveira and
# Fernandes 2009, severity 1.0); the least of the three counts. Candidates are a grid of sRGB with lightness 50..93 and chroma
# above 34, at least 10 from each of the ten tones of the Monk skin tone scale, so that clothes are told from skin. The first 16
# are the best of 60 local searches for the largest distance of the closest two; each further one is as far as can be from those
# before it.
_CLASSES = """
ff8800 dd55ff 88ffdd bb5588 dd88bb 55aa77 eeee55 ee2200 ff99aa 66eeee 338866 aabbff 33cc66 88ffaa ee11bb 338833
11ccaa ee3355 0088bb 33bbcc dd6699 cc11ff 55ddcc ffbb00 009999 009955 99eebb ff4444 ccdd77 cc5577 cc88ee 66cc88
ff9955 ee99dd ee44aa ff5577 77ffee 00eeff 1199cc ee0088 88ddbb ee7722 66bb88 aadd99 338855 88bb44 55aa88 1177dd
dd77aa eecc55 bb77dd 887700 bb6633 dd5566 33bb99 eeee88 aa9955 00bbbb ff3311 bb44dd 11aa99 55ccbb eeaa77 33cc99
00ccdd 996699 7788ff eeaadd 449966 339944 eedd00 55eedd 00ddee dd11aa 77ffff 77eecc dd99cc 99ddaa bb55bb aa77aa
99ffcc aadd88 ff9988 aaaaff 88ffbb ff0033 cc77cc 88eeaa 338844 ee3344 ff8866 99aa66 ee99bb 55dd11 dd3399 cc66cc
99bb22 cccc66 bb6688 558822 ff2266 009977 22cc77 cc99ee dd8899 aa99ff bb99dd 9955ee 55ddff aaee99 dd7788 99aa33
ffaaee ffaacc 6666ff 8866cc 66ff33 eedd66 66bb55 aaff99 ee9999 dd66ee eebb44 0099dd dd88aa ee3377 55ccee ff88aa
ffbbff ee55aa 999944 cccc77 ee55dd eeaa66 ee5577 cc33cc cc5544 11aabb ee55bb ee22aa ee0066 4477cc 669911 77ff77
8888ee bbcc88 dd88cc 99ee88 bb6622 dd7766 ee1177 ee9944 ff88cc dd66ff 00bb00 11cc55 dd4499 889933 cc7755 cc00ee
ff7788 cc6688 ff77aa 99ff88 dd55ee ff0088 aa55cc 66ee55 ffaa99 ff6677 33dddd 33dd99 11dd88 ff0022 11ddaa 118877
dd3366 ff3388 bb6655 5599ff ff5588 dd77dd 779955 ddee77 aa77cc ff5555 cc9933 ddeeaa 44ff66 ddee33 ff4477 ff8888
00cccc ee1155 dd9911 bbcc55 99ff55 ff4499 ff3333 ee44bb ee1144 bbbb77 ff0077 009933 ff6688 aa44ff 55aa66 dd44dd
887733 bb9944 11ddbb ff9999 ddbbff dd00ee dd2299 ff5511 eecc44 99aaee ff99bb dd99ff ff9900 5577bb aacc44 8899dd
dd4433 ddaaff 00ffcc ee8877 bb6600 33eebb 1199bb bbbb55 998844 44bbaa cc9955 77ee77 ddbb00 ff6600 ff5566 00bb77
aaff66 bbdd22 cc7733 cccc00 ee5599 00ffdd bbff11 ee8899 99ee11 ee5544 99cc66 668844 22aaaa 00ffee ee7766
"""
# The best 16 of lightness 12..44 and chroma above 20, found likewise: darker than every colour of a class.
_INSTANCES = """
5511ff 446600 441144 441111 885577 334499 773333 000088 336655 552233 cc0055 770000 663366 4466aa cc1122 0000cc
"""


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


@cache
def class_palette() -> np.ndarray:
    """The colour of each class id 0..255 for people: [256, 3] uint8, RGB; the first 16 classes are told apart best.

    Light colours, even in perception, also for people who do not tell red from green. Id 0 is grey.
    """
    return _read_only([(160, 160, 160), *_parse(_CLASSES)])


@cache
def instance_palette() -> np.ndarray:
    """Colours of instances, [16, 3] uint8, RGB: dark ones, none of which is that of a class."""
    return _read_only(_parse(_INSTANCES))


def class_colour(class_id: int) -> tuple[int, int, int]:
    """The colour of a class id in pages, overlays and legends, RGB 0..255; ids from 256 on begin again."""
    red, green, blue = class_palette()[class_id % 256].tolist()
    return red, green, blue


def _parse(text: str) -> list[tuple[int, ...]]:
    return [tuple(bytes.fromhex(colour)) for colour in text.split()]


def _read_only(colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    palette = np.array(colours, np.uint8)
    palette.setflags(write=False)  # all callers share it
    return palette
