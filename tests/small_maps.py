"""Small semantic maps for the tests of metrics: written out, or drawn by hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

IGNORE = 255
OPTIONS = {"num_classes": 4, "ignore": IGNORE}

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
classes = st.sampled_from([0, 1, 2, 3])
pairs = sizes.flatmap(
    lambda size: st.tuples(
        arrays(np.int64, size, elements=classes),
        arrays(np.uint8, size, elements=st.one_of(classes, st.just(IGNORE))),
    )
)
"""A prediction and a target of one size."""


def rows(*lines: str) -> np.ndarray:
    """A semantic map from lines of digits; a dot is the ignore id."""
    return np.array([[IGNORE if c == "." else int(c) for c in line] for line in lines], np.uint8)
