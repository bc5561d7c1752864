"""Images and label maps as files; the truth is what was written, byte by byte or by Pillow and SciPy."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from imptool.data.images import check_image, find_images, image_size, read_image, read_label_map, write_label_map
from imptool.files import InputError

GREY, PALETTE = 0, 3  # colour types of the PNG standard
ORIENTATION = 0x0112


def png_of(ids: np.ndarray, *, bits: int, colour: int = GREY) -> bytes:
    """A PNG made by hand, from the standard alone: `bits` per pixel, no filter, no interlace."""
    height, width = ids.shape
    planes = (ids[..., None] >> np.arange(bits)[::-1]) & 1  # the highest bit first
    rows = np.packbits(planes.reshape(height, width * bits).astype(np.uint8), axis=1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    if colour == PALETTE:
        chunks.append((b"PLTE", bytes(3 * 2**bits)))
    chunks += [(b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def picture(size: tuple[int, int] = (24, 40), seed: int = 0) -> np.ndarray:
    """An image [H, W, 3] without symmetry."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)


# --- label maps ---


@pytest.mark.parametrize(
    ("bits", "colour"), [(1, GREY), (2, GREY), (4, GREY), (8, GREY), (16, GREY), (1, PALETTE), (2, PALETTE), (4, PALETTE)]
)
def test_label_pngs_of_every_depth_give_the_ids_that_were_written(tmp_path: Path, bits: int, colour: int) -> None:
    ids = np.linspace(0, 2**bits - 1, 7 * 9).round().astype(np.int64).reshape(7, 9)  # 9 wide: rows end within a byte
    (tmp_path / "map.png").write_bytes(png_of(ids, bits=bits, colour=colour))
    np.testing.assert_array_equal(read_label_map(tmp_path / "map.png"), ids)


def test_a_palette_png_gives_indices_and_not_colours(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(ids)
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / "map.png", transparency=0)
    np.testing.assert_array_equal(read_label_map(tmp_path / "map.png"), ids)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_label_png_of_colours_is_refused_by_name(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "map.png")
    with pytest.raises(InputError, match=rf"map\.png is a colour picture \({mode}\), not a label map: save one class id"):
        read_label_map(tmp_path / "map.png")


def test_a_label_png_cut_off_anywhere_in_its_pixels_is_refused_by_name(tmp_path: Path) -> None:
    whole = png_of(np.random.default_rng(0).integers(0, 256, (16, 16)), bits=8)
    path = tmp_path / "map.png"
    for length in (0, 1, 20, 40, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"map\.png is not a readable picture"):
            read_label_map(path)


def test_a_missing_label_map_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"map\.png does not exist"):
        read_label_map(tmp_path / "map.png")


def test_mat_and_png_hold_the_same_ids_in_ccp(shared_data: Path) -> None:
    mats = sorted((shared_data / "ccp" / "pixel-level").glob("*.mat"))
    assert len(mats) == 60
    for mat in mats:
        png = shared_data / "ccp" / "labels" / f"{mat.stem}.png"
        truth = np.asarray(Image.open(png))
        np.testing.assert_array_equal(read_label_map(mat), truth)
        np.testing.assert_array_equal(read_label_map(png), truth)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"a": np.zeros((2, 2), np.uint8), "b": np.zeros((2, 2), np.uint8)}, r"found a \(uint8 \[2, 2\]\), b \(uint8"),
        ({"groundtruth": np.full((2, 2), 0.5)}, r"whole numbers \[H, W\].*found groundtruth \(float64 \[2, 2\]\)"),
        ({"groundtruth": np.zeros((2, 2, 3), np.uint8)}, r"found groundtruth \(uint8 \[2, 2, 3\]\)"),
        ({}, "found none"),
    ],
)
def test_a_mat_without_a_map_is_refused(tmp_path: Path, variables: dict[str, np.ndarray], line: str) -> None:
    scipy.io.savemat(tmp_path / "map.mat", variables)
    with pytest.raises(InputError, match=rf"map\.mat.*{line}"):
        read_label_map(tmp_path / "map.mat")


def test_a_broken_mat_is_refused_by_name(tmp_path: Path) -> None:
    whole = io.BytesIO()
    scipy.io.savemat(whole, {"groundtruth": np.arange(4000, dtype=np.uint16).reshape(50, 80)}, do_compression=True)
    for length in (0, 60, 130, len(whole.getvalue()) // 2):
        (tmp_path / "map.mat").write_bytes(whole.getvalue()[:length])
        with pytest.raises(InputError, match=r"map\.mat (is not a readable \.mat file|has no variable)"):
            read_label_map(tmp_path / "map.mat")


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([255, 65535]).flatmap(
        lambda top: hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, top))
    )
)
@example(np.array([[256]], np.uint16))
def test_a_written_label_map_is_read_back(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("map") / "map.png"
    write_label_map(path, ids)
    np.testing.assert_array_equal(read_label_map(path), ids)
    with Image.open(path) as image:
        assert image.mode == ("P" if ids.max() <= 255 else "I;16")


def test_written_label_maps_carry_the_colours_of_pascal_voc(tmp_path: Path) -> None:
    write_label_map(tmp_path / "map.png", np.zeros((1, 1), np.uint8))
    with Image.open(tmp_path / "map.png") as image:
        palette = np.array(image.getpalette()).reshape(-1, 3)
    published = {  # the colour table of VOC 2012's segmentation classes: background, aeroplane, ..., person, ..., border
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(palette[index].tolist()) for index in published} == published


def test_a_write_that_fails_leaves_the_old_map_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    write_label_map(path, np.full((2, 2), 7, np.uint8))

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_label_map(path, np.zeros((2, 2), np.uint8))
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.png"]
    assert read_label_map(path).tolist() == [[7, 7], [7, 7]]


# --- images ---

# What a viewer does for each EXIF orientation, as the standard words it: "the 0th row is the visual ..., the 0th column ...".
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_as_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    path, pixels = tmp_path / f"photo{suffix}", picture()
    save_turned(path, pixels, orientation)
    truth = UPRIGHT[orientation](pixels)
    np.testing.assert_array_equal(read_image(path), truth)
    assert check_image(path) == truth.shape[:2]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_check_image_gives_the_size_that_read_image_gives(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    save_turned(path, picture((123, 77)), orientation)
    assert check_image(path) == read_image(path).shape[:2] == ((77, 123) if orientation == 6 else (123, 77))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused_by_both_readers(tmp_path: Path, progressive: bool) -> None:
    whole = io.BytesIO()
    Image.fromarray(picture((160, 120))).save(whole, "JPEG", progressive=progressive)
    path = tmp_path / "photo.jpg"
    for part in (0.0, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole.getvalue()[: int(part * len(whole.getvalue()))])
        for reader in (read_image, check_image):
            with pytest.raises(InputError, match=r"photo\.jpg is not a readable picture.*replace or remove the file"):
                reader(path)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png"])
def test_a_file_that_is_no_picture_is_refused_by_both_readers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<html>404</html>")
    for reader in (read_image, check_image):
        with pytest.raises(InputError, match=name):
            reader(tmp_path / name)


def test_16_bit_grey_photographs_keep_their_brightness(tmp_path: Path) -> None:
    grey = np.array([[0, 255, 256, 65535], [32768, 51200, 1, 65280]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "photo.png")
    image = read_image(tmp_path / "photo.png")
    np.testing.assert_array_equal(image, np.repeat([[[0], [0], [1], [255]], [[128], [200], [0], [255]]], 3, axis=2))
    assert image.dtype == np.uint8
    assert check_image(tmp_path / "photo.png") == (2, 4)


@pytest.mark.parametrize(
    ("mode", "colour", "truth", "name"),
    [
        ("L", 77, (77, 77, 77), "photo.png"),
        ("1", 1, (255, 255, 255), "photo.png"),
        ("RGBA", (10, 20, 30, 128), (132, 137, 142), "photo.png"),  # half over white: 255 - 245 x 128 / 255, ...
        ("RGBA", (10, 20, 30, 0), (255, 255, 255), "photo.webp"),  # nothing but what lies behind it
        ("LA", (10, 255), (10, 10, 10), "photo.png"),
        ("F", 0.5, (127, 127, 127), "photo.tif"),
        ("P", 0, (0, 0, 0), "photo.gif"),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), "photo.tif"),
    ],
)
def test_photographs_of_every_colour_mode_become_rgb(
    tmp_path: Path, mode: str, colour: object, truth: tuple[int, ...], name: str
) -> None:
    Image.new(mode, (3, 2), colour).save(tmp_path / name)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_image(tmp_path / name), np.full((2, 3, 3), truth))
    assert check_image(tmp_path / name) == (2, 3)


def test_a_palette_photograph_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 250, 120, 60])
    image.save(tmp_path / "photo.png")
    assert read_image(tmp_path / "photo.png").tolist() == [[[1, 2, 3], [250, 120, 60]]]


def test_a_transparent_colour_of_a_palette_lies_on_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 250, 120, 60])
    image.save(tmp_path / "photo.png", transparency=0)
    assert read_image(tmp_path / "photo.png").tolist() == [[[255, 255, 255], [250, 120, 60]]]


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("white", "black")]
    for name in ("photo.gif", "photo.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(tmp_path / name).min() == 255


def test_cmyk_with_a_profile_of_no_use_is_read_without_it(tmp_path: Path) -> None:
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "photo.jpg", icc_profile=b"none", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "photo.jpg")[0, 0], [255, 0, 0], atol=1)


def test_size_from_the_header_is_that_of_the_picture_as_it_is_read(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for suffix in ("jpg", "png", "webp", "tif", "bmp", "gif"):
        for name, exif in (("plain", None), ("turned", turned if suffix not in ("bmp", "gif") else None)):
            path = tmp_path / f"{name}.{suffix}"
            Image.new("RGB", (5, 3)).save(path, **({"exif": exif} if exif else {}))
            assert image_size(path) == read_image(path).shape[:2]


def test_other_formats_in_a_file_named_jpg_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "photo.eps")
    (tmp_path / "photo.eps").rename(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="is not a readable picture"):
        read_image(tmp_path / "photo.jpg")


def test_find_images_goes_into_subfolders_sorted_and_leaves_hidden_files_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", ".hidden.png", ".thumbs/3.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.webp", "b/1.png", "b/2.JPG"]


def test_lossy_picture_named_png_is_no_label_map(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(InputError, match=r"a\.png is a JPEG in a file named \.png"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("lost", [1, 12, 20])
def test_png_without_its_last_bytes_is_refused(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    for read in (read_label_map, read_image, check_image):
        with pytest.raises(InputError, match=r"a\.png is not a readable picture"):
            read(path)
    path.write_bytes(whole + b"appended")
    assert read_label_map(path).shape == (8, 8)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bytes_that_were_changed_give_a_picture_or_one_clear_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    picture = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP"]))
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(picture, format=kind)
    broken = bytearray(picture.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("broken") / "a.png"
    path.write_bytes(broken)
    for read in (read_image, check_image, read_label_map):
        with contextlib.suppress(InputError):
            read(path)


def test_find_images_follows_links_once_around_and_gives_links_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("photos/a.png", "other/b.png"):
        (tmp_path / name).touch()
    links = {
        "linked": "../other",
        "again": "../other",
        "sub/up": "..",
        "c.png": "a.png",
        "gone.png": "nowhere.png",
        "d.jpg": "d.jpg",
    }
    for name, target in links.items():
        (tmp_path / "photos" / name).symlink_to(target)
    (tmp_path / "other" / "back").symlink_to("../photos")
    found = [path.relative_to(tmp_path / "photos").as_posix() for path in find_images(tmp_path / "photos")]
    assert found == ["a.png", "again/b.png", "c.png", "d.jpg", "gone.png", "linked/b.png"]
    with pytest.raises(InputError, match=r"gone\.png is a link to nowhere\.png, which does not exist"):
        read_image(tmp_path / "photos" / "gone.png")
    with pytest.raises(InputError, match=r"d\.jpg is not a readable picture"):
        read_image(tmp_path / "photos" / "d.jpg")


@pytest.mark.parametrize("value", [-1, 65536])
def test_a_mat_of_ids_that_no_class_can_have_is_refused(tmp_path: Path, value: int) -> None:
    scipy.io.savemat(tmp_path / "map.mat", {"groundtruth": np.array([[0, value]], np.int32)})
    with pytest.raises(InputError, match=rf"map\.mat holds ids outside 0\.\.65535: .*{value}"):
        read_label_map(tmp_path / "map.mat")
