"""Images and label maps as files: read them as a person sees them, write label maps as palette PNGs."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError, features

from imptool.data.label_set import MAX_ID
from imptool.data.mat import list_variables, read_matrix
from imptool.data.palette import voc_palette
from imptool.files import MAT_FILE, PICTURE_FILE, InputError, one_line, open_regular, some, whole_file

try:
    import pillow_heif
except ImportError:  # only for HEIC, as phones write it
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

_HEIF = (".heic", ".heif", ".hif")
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    **({"AVIF": (".avif",)} if features.check("avif") else {}),
    **({"JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c")} if features.check("jpg_2000") else {}),
    **({"HEIF": _HEIF} if pillow_heif else {}),
}
"""What this installation reads. No other formats: Pillow would start Ghostscript for an EPS named .jpg."""

_FORMATS = tuple(_SUFFIXES)
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_UNREAD = (
    frozenset({*_HEIF, ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".jxl", ".jxr", ".psd", ".tga", ".svg", ".exr"})
    | frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".ppm", ".pgm", ".eps"})
) - IMAGE_SUFFIXES

VOC_BORDER = 255  # around each object; also for pixels that are difficult
MAX_PIXELS = 200_000_000  # of a picture, unless a caller allows more: a small file may ask for all memory
Image.MAX_IMAGE_PIXELS = None  # `_opened` has the limit

_ORIENTATION_TAG = 0x0112
_JPEG_END, _EXIF = b"\xff\xd9", 0xE1
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # tables and an extension among them
_SWAPPING_ORIENTATIONS = frozenset({5, 6, 7, 8})  # these turn the picture by a quarter: height and width change places


def find_images(folder: Path) -> list[Path]:
    """Every image under a folder, sorted by its relative path; hidden files and folders are left out.

    Links are followed, but for those that lead back to a folder above them. A link to nothing is given as well: reading it
    tells that it is broken.
    """
    return find_pictures(folder)[0]


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """As `find_images`; and the pictures of formats that are not read here, for which `how_to_read` has advice."""
    found: list[Path] = []
    unread: list[Path] = []
    waiting: list[tuple[Path, tuple[Path, ...]]] = [(folder, ())]
    while waiting:
        here, above = waiting.pop()
        real = here.resolve()
        if real in above:
            continue
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    waiting.append((here / entry.name, (*above, real)))
                    continue
                suffix = os.path.splitext(entry.name)[1].lower()
                names = found if suffix in IMAGE_SUFFIXES else unread if suffix in _UNREAD else None
                if names is not None and (entry.is_symlink() or entry.is_file()):
                    names.append(here / entry.name)
    return sorted(found, key=Path.as_posix), sorted(unread, key=Path.as_posix)  # all begin with the folder


def is_unread(path: Path) -> bool:
    """Whether a file's suffix is that of a picture that this installation does not read."""
    return path.suffix.lower() in _UNREAD


def how_to_read(paths: Iterable[Path]) -> str:
    """What helps with pictures of formats that this installation does not read."""
    suffixes = {path.suffix.lower() for path in paths}
    ways = []
    if found := suffixes.intersection(_HEIF):
        ways.append(f"pip install pillow-heif reads {', '.join(sorted(found))}")
    if ".avif" in suffixes:
        ways.append("pip install --upgrade pillow reads .avif")
    if rest := suffixes - {*_HEIF, ".avif"}:
        ways.append(f"save {', '.join(sorted(rest))} as JPEG or PNG")
    return "; ".join(ways)


def path_under(folder: Path, path: Path) -> str:
    """The part of a path behind that of a folder, with "/"; `relative_to` takes ten times as long, for every image."""
    prefix = f"{folder.as_posix()}/"
    text = path.as_posix()
    return text[len(prefix) :] if text.startswith(prefix) else path.relative_to(folder).as_posix()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as a person sees it, [H, W, 3] uint8 RGB; InputError when it is broken.

    It is turned as its EXIF orientation says; what is transparent lies on white; 16-bit grey keeps its upper 8 bits; CMYK
    with a colour profile goes through it; of an animation the first frame is taken.
    """
    with _opened(path, max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)  # a copy of a large image is a second one in memory
        return np.asarray(_as_seen(image))


def resized_size(size: tuple[int, int], *, short_side: int, long_side: int) -> tuple[int, int]:
    """The (height, width) after the short side becomes `short_side`; where the long side would pass its limit, that wins."""
    scale = min(short_side / min(size), long_side / max(size))
    height, width = (max(round(side * scale), 1) for side in size)
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize [H, W, 3] to (height, width); areas are averaged when it shrinks, so that fine patterns do not alias."""
    shrinks = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def fit_image(image: np.ndarray, *, short_side: int, long_side: int) -> np.ndarray:
    """An image [H, W, 3] as a network takes it: [h, w, 3], its size that of `resized_size`."""
    return resize_image(image, resized_size((image.shape[0], image.shape[1]), short_side=short_side, long_side=long_side))


def image_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) that `read_image` gives, from the file's header alone; InputError when there is none."""
    size = _size_of_plain_jpeg(path)
    if size is not None:
        check_pixels(path, size, max_pixels)
        return size
    with _opened(path, max_pixels) as image:
        # Pillow tells a TIFF's size as it is turned.
        swapped = image.format != "TIFF" and image.getexif().get(_ORIENTATION_TAG) in _SWAPPING_ORIENTATIONS
        return image.size if swapped else (image.height, image.width)


def _as_seen(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # 0..1
        return Image.fromarray((np.clip(np.nan_to_num(np.asarray(image)), 0, 1) * 255).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return _through_profile(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, "white")
        behind.alpha_composite(image.convert("RGBA"))
        return behind.convert("RGB")
    return image.convert("RGB")


def _through_profile(image: Image.Image) -> Image.Image:
    """CMYK to sRGB by the file's own profile; without one of any use by Pillow's simple rule."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        seen = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        seen = None
    return seen or image.convert("RGB")


def read_reduced(path: Path, side: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as [h, w, 3] uint8 RGB, a JPEG reduced while it is decoded but not under `side` px; not turned."""
    with _opened(path, max_pixels) as image:
        image.draft("RGB", (side, side))
        return np.asarray(image.convert("RGB"))


def check_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) of an image after EXIF orientation; InputError when it is no picture or its end is missing.

    The pixels of JPEG and PNG are not decoded: a fault in the middle of them shows when the image is read.
    """
    size = _size_of_plain_jpeg(path)
    if size is not None:
        check_pixels(path, size, max_pixels)
        return size
    with _opened(path, max_pixels) as image:
        width, height = image.size
        if image.format != "PNG" and not (image.format == "JPEG" and _has_end(image, _JPEG_END)):
            image.load()
        swapped = image.getexif().get(_ORIENTATION_TAG) in _SWAPPING_ORIENTATIONS  # after load, which turns TIFFs itself
    return (width, height) if swapped else (height, width)


def _size_of_plain_jpeg(path: Path) -> tuple[int, int] | None:
    """(height, width) from the frame header of a JPEG that has its end; None where Pillow must look: EXIF, anything unusual.

    Pillow takes five times as long to read a header, a tenth of a conversion.

    Source:
        ITU-T T.81, Annex B: segments of a marker and a length; a frame header has precision, lines, samples per line.
    """
    try:
        with open_regular(path, PICTURE_FILE) as file:
            head = file.read(4096)
            file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
            tail = file.read()
    except OSError:
        return None
    if not head.startswith(b"\xff\xd8") or _JPEG_END not in tail:
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF and head[at + 1] != _EXIF:
        if head[at + 1] in _FRAME_HEADERS:
            height, width = int.from_bytes(head[at + 5 : at + 7]), int.from_bytes(head[at + 7 : at + 9])
            return (height, width) if height and width else None
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return None


def read_label_map(
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    colours: Mapping[int, Sequence[int]] | None = None,
    stated_in: str = "'colours'",
) -> np.ndarray:
    """Read a label map [H, W] of class ids: an 8 or 16 bit PNG (grey, grey with alpha, palette), or a `.mat` such as CCP's.

    Args:
        colours: {id: (R, G, B)} where the pixels are colours and not ids.
        stated_in: where these come from, for the message about another colour.
    Raises:
        InputError: the file is missing, broken or over `max_pixels`, or holds colours that are not stated or ids over 65535.
    """
    if path.suffix.lower() == ".mat":
        return _read_mat(path, max_pixels)
    with _opened(path, max_pixels) as image:
        _check_png(image, path)
        return _ids_of_colours(image, colours, path, stated_in) if colours else _ids_of_png(image, path)


def check_label_map(path: Path, *, max_pixels: int = MAX_PIXELS, coded: bool = False) -> tuple[int, int]:
    """The (height, width) of a label PNG; InputError where its header or end shows that `read_label_map` cannot read it.

    Args:
        coded: it may hold colours, which somebody knows the meaning of.
    """
    with _opened(path, max_pixels) as image:
        _check_png(image, path)
        if not coded:
            _check_no_colours(image, path)
        return image.height, image.width


def has_colours(path: Path) -> bool:
    """Whether a PNG stores colours, of its own or in a palette, by its header; False for grey, and for what is no picture."""
    try:
        with _opened(path) as image:
            return image.mode in ("RGB", "RGBA", "P")
    except InputError:
        return False


def read_instance_numbers(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a PNG whose values tell instances apart: [H, W] grey or palette values, or what `read_colours` gives of colours.

    Black is 0, no instance; so is the grey or palette value 255, VOC's border around each object.
    """
    with _opened(path, max_pixels) as image:
        coloured = image.mode in ("RGB", "RGBA")
    if coloured:
        return read_colours(path, max_pixels=max_pixels)
    numbers = read_label_map(path, max_pixels=max_pixels)
    return np.where(numbers == VOC_BORDER, 0, numbers)


def read_colours(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a PNG of coded colours as R + 256 G + 65536 B: [H, W] int32; InputError when it is broken."""
    with _opened(path, max_pixels) as image:
        if image.format != "PNG" or image.mode not in ("RGB", "RGBA"):
            raise InputError(f"{path} is a {image.format} of mode {image.mode}: expected an RGB PNG")
        return _codes(image)


def write_label_map(path: Path, ids: np.ndarray) -> None:
    """Write ids [H, W] as a palette PNG with the VOC colours, or as 16-bit grey when an id is over 255."""
    if ids.size and ids.max() > 255:
        image = Image.fromarray(ids.astype(np.uint16))
    else:
        image = Image.fromarray(ids.astype(np.uint8))
        image.putpalette(voc_palette().tobytes())
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


def write_colours(path: Path, codes: np.ndarray) -> None:
    """Write R + 256 G + 65536 B [H, W] as an RGB PNG; `read_colours` reads it back."""
    pixels = np.ascontiguousarray(codes, "<i4").view(np.uint8).reshape(*codes.shape, 4)[..., :3]
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=3)


def _check_png(image: Image.Image, path: Path) -> None:
    if image.format != "PNG":
        raise InputError(f"{path} is a {image.format} in a file named .png: save the label map as a real, lossless PNG")


def _check_no_colours(image: Image.Image, path: Path) -> None:
    if image.mode in ("1", "L", "P") or image.mode.startswith("I") or _is_grey_with_alpha(image):
        return
    raise InputError(
        f"{path} is a colour picture ({image.mode}), not a label map: save one class id per pixel as an 8 or 16 bit grey "
        "or palette PNG, or state the id of each colour in a dataset YAML (colours: {1: [255, 0, 0], ...})",
        kind="ids",
    )


def _is_grey_with_alpha(image: Image.Image) -> bool:
    return image.mode == "LA" and "16" not in _raw_mode(image)


def _ids_of_png(image: Image.Image, path: Path) -> np.ndarray:
    _check_no_colours(image, path)
    if _is_grey_with_alpha(image):
        return np.asarray(image)[..., 0]
    step = _grey_step(image)
    ids = np.asarray(image)
    return ids.astype(np.uint8) // step if ids.dtype == bool or step > 1 else ids


def _ids_of_colours(image: Image.Image, colours: Mapping[int, Sequence[int]], path: Path, stated_in: str) -> np.ndarray:
    codes = _codes(image)
    ids = np.full(codes.shape, -1, np.int32)
    for class_id, (red, green, blue) in colours.items():
        ids[codes == red + 256 * green + 65536 * blue] = class_id
    if ids.min(initial=0) < 0:
        unknown = [[code & 255, code >> 8 & 255, code >> 16] for code in np.unique(codes[ids < 0]).tolist()]
        raise InputError(f"{path} holds the colour {some(unknown, 3)}, which {stated_in} does not state", kind="ids")
    return ids.astype(np.uint8 if max(colours) <= 255 else np.uint16)


def _codes(image: Image.Image) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0).astype(np.int32)
    return red + 256 * green + 65536 * blue


def _grey_step(image: Image.Image) -> int:
    """2 and 4 bit grey PNGs: Pillow stretches the values to 0..255; the step between two of them, else 1."""
    return {"L;2": 85, "L;4": 17}.get(_raw_mode(image), 1)


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, as the PNG reader leaves it until they are loaded."""
    tiles = getattr(image, "tile", [])  # (decoder, region, offset, raw mode)
    return str(tiles[0][3]) if tiles else ""


def _read_mat(path: Path, max_pixels: int) -> np.ndarray:
    """CCP's variable "groundtruth", or the only one that is a map."""
    try:
        with open_regular(path, MAT_FILE) as file:
            variables = list_variables(file)
            matrices = [variable for variable in variables if variable.is_matrix]
            chosen = [variable for variable in matrices if variable.name == "groundtruth"] or matrices
            for variable in chosen:
                check_pixels(path, variable.shape, max_pixels)
            maps = list(islice((found for each in chosen if (found := read_matrix(file, each)).whole), 2))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except NotImplementedError as error:
        raise InputError(f"{path} is a MATLAB 7.3 file: save it in MATLAB with save(name, variable, '-v7')") from error
    except (ValueError, zlib.error, struct.error) as error:
        raise InputError(
            f"{path} is not a readable .mat file: {one_line(error)}; save it in MATLAB with save(name, variable, '-v7')"
        ) from error
    if len(maps) != 1:
        raise InputError(
            f"{path}: which variable is the label map? Expected one of whole numbers [H, W], or 'groundtruth'; "
            f"found {', '.join(map(str, variables)) or 'none'}"
        )
    if not 0 <= maps[0].low <= maps[0].high <= MAX_ID:
        raise InputError(f"{path} holds ids outside 0..{MAX_ID}: {maps[0].low:g} to {maps[0].high:g}")
    return maps[0].ids


@contextmanager
def _opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """Open with Pillow; whatever a missing, truncated, empty or oversized file raises becomes one InputError."""
    try:
        with open_regular(path, PICTURE_FILE) as file, Image.open(file, formats=_FORMATS) as image:
            check_pixels(path, (image.height, image.width), max_pixels)
            if image.format == "PNG" and not _has_end(image, b"IEND\xaeB`\x82"):
                raise OSError("its end is missing")  # Pillow takes a file whose last bytes are gone for whole
            yield image
    except FileNotFoundError as error:
        what = f"is a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "does not exist"
        raise InputError(f"{path} {what}") from error
    except InputError:
        raise
    except Exception as error:  # for a broken file Pillow's decoders raise a dozen kinds, struct.error and MemoryError too
        empty = path.is_file() and path.stat().st_size == 0
        if empty:
            reason = "the file is empty"
        elif is_unread(path):
            reason = f"its format is not read here; {how_to_read([path])}"
        else:
            reason = "it has none of the known formats" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise InputError(f"{path} is not a readable picture: {reason}; replace or remove the file") from error


def check_pixels(path: Path, size: Sequence[int], max_pixels: int) -> None:
    """InputError when a picture of (height, width) is larger than allowed; asked before memory is taken for it."""
    height, width = size
    if height * width > max_pixels:
        raise InputError(
            f"{path} is {height}x{width} (height x width), more than {max_pixels:,} pixels: "
            f"--max-pixels {height * width} takes it, where a command has that option"
        )


def _has_end(image: ImageFile.ImageFile, mark: bytes) -> bool:
    """Whether a file's end mark is within its last 4 KiB, as some programs append a few bytes."""
    file = image.fp
    assert file is not None  # until the pixels are loaded
    at = file.tell()
    file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
    found = mark in file.read()
    file.seek(at)  # Pillow reads on from there
    return found
