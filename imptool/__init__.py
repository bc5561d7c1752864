"""imptool: clothing parsing with Instance Mask Projection.

As a library: `imptool.load("runs/...").predict("image.jpg")`; see `imptool.library`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imptool.version import __version__ as __version__

if TYPE_CHECKING:
    from imptool.files import InputError
    from imptool.library import Instance, Model, Parsing, load

__all__ = ["InputError", "Instance", "Model", "Parsing", "load"]


def __getattr__(name: str) -> Any:
    """The names above, when they are asked for: torch takes seconds to import, and the command line should not wait for it."""
    if name not in __all__:
        raise AttributeError(f"module 'imptool' has no attribute '{name}'")
    return getattr(import_module("imptool.files" if name == "InputError" else "imptool.library"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _find_room_for_compiled_code() -> None:
    """numba keeps what it compiles beside the source or in the user's cache, and fails where it may write to neither.

    It gets a folder of this process then, and of those that it starts; code in one that others write to might be theirs.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    there = next((folder for folder in (cache, *cache.parents) if folder.exists()), cache)
    if "NUMBA_CACHE_DIR" in os.environ or any(os.access(folder, os.W_OK) for folder in (Path(__file__).parent, there)):
        return
    with suppress(OSError):
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="imptool-")
        atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)


_find_room_for_compiled_code()
