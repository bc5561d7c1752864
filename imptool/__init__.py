"""imptool: clothing parsing with Instance Mask Projection.

As a library: `imptool.load("runs/...").predict("photograph.jpg")`; see `imptool.library`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imptool.files import InputError
    from imptool.library import Instance, Model, Parsing, load

__all__ = ["InputError", "Instance", "Model", "Parsing", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The names above, when they are asked for: torch takes seconds to import, and the command line should not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module 'imptool' has no attribute '{name}'")
    return getattr(import_module("imptool.files" if name == "InputError" else "imptool.library"), name)
