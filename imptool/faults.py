"""What to say of an error in one line, where it is not ours to mend: a user's mistake, or a fault of the surroundings."""

from __future__ import annotations

import sys
import traceback

from imptool.files import InputError, one_line

_NO_MEMORY = ("can't allocate memory", "out of memory", "Insufficient memory")  # of torch on CPU and CUDA, and of OpenCV
_NO_OPERATORS = ("operator torchvision::", "custom C++ ops")  # what torchvision says beside a torch that does not fit it


def line_of(error: Exception) -> str:
    """What to say of a user's mistake, or of a fault of the surroundings; "" for any other error, which is ours to mend."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out of memory: take smaller files, fewer --workers or a smaller batch, or free some"
    library = _library_at_fault(error)
    broken = library == "torchvision" and type(error) is not ModuleNotFoundError
    if broken or any(words in str(error) for words in _NO_OPERATORS):
        from imptool.doctor import torchvision_misfit  # which imports torch

        return torchvision_misfit(error)
    if library:
        return f"{library} cannot be imported: look at the environment variables that it reads ({one_line(error)})"
    if isinstance(error, OSError):  # a full disk, a folder without permission
        return f"{error.filename or 'writing'}: {error.strerror or error}"
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        return f"{error.object!r} cannot be the name of a file in this locale: set LC_ALL=C.UTF-8"
    return ""


def _library_at_fault(error: Exception) -> str:
    """The library that fails while it is imported, as it does on an environment variable with nonsense; "" where none does."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    library = str(frames[-1].f_globals["__name__"]).partition(".")[0] if frames else ""
    return "" if library in ("imptool", "imp_kernels") else library
