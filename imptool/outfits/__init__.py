"""Generated outfits: pictures of drawn figures in clothes of the 25 classes of the paper's Table 7, with their label maps.

They stand in for data that cannot be had (the paper's Varied Clothing Dataset) in demo, tests and benchmarks. Ours.
"""

from imptool.outfits.picture import VERSION, Outfit, draw_outfit
from imptool.outfits.wardrobe import CLASSES, GROUP_OF_CLASS, GROUPS, TABLE_7

__all__ = ["CLASSES", "GROUPS", "GROUP_OF_CLASS", "TABLE_7", "VERSION", "Outfit", "draw_outfit"]
