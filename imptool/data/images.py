"""Photographs and label maps as files: read them as a person sees them, write label maps as palette PNGs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image, ImageOps

from imptool.data.label_set import MAX_ID
from imptool.data.palette import voc_palette
from imptool.files import InputError, whole_file

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})

_ORIENTATION_TAG = 0x0112
_SWAPPING_ORIENTATIONS = frozenset({5, 6, 7, 8})  # these turn the picture by a quarter: height and width change places


def find_images(folder: Path) -> list[Path]:
    """Every photograph under a folder, sorted by its relative path; hidden files and folders are left out.

    Links are followed, but for those that lead back to a folder above them. A link to nothing is given as well: reading it
    tells that it is broken.
    """
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(folder, ())]
    while waiting:
        here, above = waiting.pop()
        real = here.resolve()
        if real in above:
            continue
        for path in here.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                waiting.append((path, (*above, real)))
            elif path.suffix.lower() in IMAGE_SUFFIXES and (path.is_file() or not path.exists()):
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_image(path: Path) -> np.ndarray:
    """Read a photograph as [H, W, 3] uint8 RGB, turned as its EXIF orientation says; InputError when it is broken."""
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
            upright = Image.fromarray((np.asarray(upright, np.uint32) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB"))


def check_image(path: Path) -> tuple[int, int]:
    """Decode a photograph as cheaply as its format allows and give its (height, width) after EXIF orientation."""
    with _opened(path) as image:
        width, height = image.size
        image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))  # JPEG: an eighth of the work, truncation still shows
        image.load()
        swapped = image.getexif().get(_ORIENTATION_TAG) in _SWAPPING_ORIENTATIONS  # after load, which turns TIFFs itself
    return (width, height) if swapped else (height, width)


def read_label_map(path: Path) -> np.ndarray:
    """Read a label map [H, W] of class ids: an 8 or 16 bit PNG (grey or palette), or CCP's `.mat` ("groundtruth").

    Raises:
        InputError: the file is missing, broken, or holds colours or ids over 65535.
    """
    return _read_mat(path) if path.suffix == ".mat" else _read_label_png(path)


def write_label_map(path: Path, ids: np.ndarray) -> None:
    """Write ids [H, W] as a palette PNG with the VOC colours, or as 16-bit grey when an id is over 255."""
    if ids.size and ids.max() > 255:
        image = Image.fromarray(ids.astype(np.uint16))
    else:
        image = Image.fromarray(ids.astype(np.uint8))
        image.putpalette(voc_palette().tobytes())
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


def _read_label_png(path: Path) -> np.ndarray:
    with _opened(path) as image:
        if image.format != "PNG":
            raise InputError(f"{path} is a {image.format} in a file named .png: save the label map as a real, lossless PNG")
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise InputError(
                f"{path} is a colour picture ({image.mode}), not a label map: save one class id per pixel "
                "as an 8 or 16 bit grey or palette PNG"
            )
        step = _grey_step(image)
        ids = np.asarray(image)
    return ids.astype(np.uint8) // step if ids.dtype == bool or step > 1 else ids


def _grey_step(image: Image.Image) -> int:
    """2 and 4 bit grey PNGs: Pillow stretches the values to 0..255; the step between two of them, else 1."""
    tiles = getattr(image, "tile", [])  # (decoder, region, offset, raw mode), as the PNG reader leaves it
    return {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1) if tiles else 1


def _read_mat(path: Path) -> np.ndarray:
    try:
        ids = scipy.io.loadmat(path)["groundtruth"]
    except KeyError as error:
        raise InputError(f"{path} has no variable 'groundtruth': is it a pixel-level CCP map?") from error
    except Exception as error:  # scipy raises half a dozen kinds for a broken file
        raise InputError(f"{path} is not a readable .mat file: {_one_line(error)}") from error
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{path}: 'groundtruth' must be whole numbers [H, W], found {ids.dtype} {list(ids.shape)}")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= MAX_ID:
        raise InputError(f"{path} holds ids outside 0..{MAX_ID}: {ids.min()} to {ids.max()}")
    return ids


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open with Pillow; whatever a missing, truncated, empty or oversized file raises becomes one InputError."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and not _png_has_end(path):
                raise OSError("its end is missing")  # Pillow takes a file whose last bytes are gone for whole
            yield image
    except FileNotFoundError as error:
        what = f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "does not exist"
        raise InputError(f"{path} {what}") from error
    except InputError:
        raise
    except Exception as error:  # for a broken file Pillow's decoders raise a dozen kinds, struct.error and MemoryError too
        raise InputError(f"{path} is not a readable picture: {_one_line(error)}; replace or remove the file") from error


def _png_has_end(path: Path) -> bool:
    """Whether the last chunk, IEND, is there: within the last 4 KiB, as some programs append a few bytes."""
    with path.open("rb") as file:
        file.seek(-min(4096, path.stat().st_size), os.SEEK_END)
        return b"IEND\xaeB`\x82" in file.read()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
