"""What is wrong with files is told in one line each, and costs only what cannot be used; nothing is written elsewhere."""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from conftest import run_imptool
from drawn_layouts import (
    LAYOUTS,
    MADE,
    compressed,
    convert,
    files_in,
    grid,
    ids_of,
    panoptic_document,
    read,
    save,
    save_codes,
    save_json,
    save_photograph,
    write_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

Change = Callable[[dict[str, Any]], object]

IDS = grid("..1 1.1 2..")
NAMES = ("good", "bad", "fine")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*arguments: object, code: int, out: Path = MADE) -> list[str]:
    """What a conversion says is wrong, a line each: of files with exit code 1, or 2 where a split has no other; else one."""
    result = run_imptool("convert-instances", *arguments, "--out", out)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    if code == 2 and len(lines) == 1:
        assert lines[0].startswith("Error: ")
        return lines
    assert lines[0] == f"{len(lines) - 1} could not be used:"
    return lines[1:]


def names_in(path: Path = MADE / "all.json") -> list[str]:
    return [image["file_name"] for image in read(path)["images"]]


def write_folder(names: tuple[str, ...] = NAMES) -> None:
    """A dataset `set` of images with equal label maps."""
    for name in names:
        save_photograph(Path("set/images", f"{name}.png"), IDS.shape)
        save(Path("set/labels", f"{name}.png"), IDS)
    Path("set/classes.txt").write_text("background\ncoat\nhat\n")


def assert_rest_is_converted(*arguments: object, line: str) -> None:
    """Of a folder dataset only the image `bad` is lost, in every format, and one line says why."""
    for format_ in ("coco", "panoptic", "semantic"):
        out = Path("made", format_)
        (found,) = told(*arguments, "--format", format_, out=out, code=1)
        assert line in found
        if format_ == "semantic":
            assert sorted(path.name for path in (out / "labels").iterdir()) == ["fine.png", "good.png"]
            assert (out / "all.txt").read_text() == "fine\ngood\n"
        else:
            assert names_in(out / "all.json") == ["images/fine.png", "images/good.png"]
            assert read(out / "all.json")["info"]["left_out"] == ["images/bad.png"]


# --- pictures ---

PARTS = {  # of each layout's dataset, a file that one image needs, and the name of that image
    "voc: label map": ("voc", "SegmentationClass/a.png", "JPEGImages/a.jpg"),
    "voc: object map": ("voc", "SegmentationObject/a.png", "JPEGImages/a.jpg"),
    "voc: image": ("voc", "JPEGImages/b.jpg", "JPEGImages/b.jpg"),
    "cityscapes: train ids": ("cityscapes", "gtFine/{}_gtFine_labelTrainIds.png", "leftImg8bit/{}_leftImg8bit.png"),
    "cityscapes: instance ids": ("cityscapes", "gtFine/{}_gtFine_instanceIds.png", "leftImg8bit/{}_leftImg8bit.png"),
    "cityscapes: image": ("cityscapes", "leftImg8bit/{}_leftImg8bit.png", "leftImg8bit/{}_leftImg8bit.png"),
    "coco: image": ("coco", "images/p.jpg", "images/p.jpg"),
    "coco-panoptic: segments": ("coco-panoptic", "annotations/val/r.png", "images/r.jpg"),
    "coco-panoptic: image": ("coco-panoptic", "images/s.jpg", "images/s.jpg"),
    "folder: label map": ("folder with suffixes", "masks/a_gt.png", "shots/a_img.jpg"),
    "folder: image": ("folder with suffixes", "shots/sub/b_img.jpg", "shots/sub/b_img.jpg"),
    "folder: colours": ("folder of colours", "labels/rgb.png", "images/rgb.png"),
    "ccp: .mat": ("ccp", "annotations/pixel-level/0001.mat", "photos/0001.jpg"),
}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "an error page": lambda path: path.write_text("<html>404</html>"),
    "missing": lambda path: path.unlink(),
}
NOT_NEEDED = {"voc: label map", "voc: object map", "cityscapes: instance ids"}  # the layouts say so


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_a_broken_file_of_any_layout_costs_its_own_photograph_alone(here: Path, part: str, damage: str) -> None:
    if damage == "missing" and part in NOT_NEEDED:
        pytest.skip("an image may be without it")
    layout, broken, lost = (text.format("train/town/town_000000_000019") for text in PARTS[part])
    description = write_dataset(LAYOUTS[layout])
    DAMAGES[damage](Path("set", broken))
    name_of = {name: stem for stem, name in LAYOUTS[layout].file_names.items()}
    alone = any(stems == [name_of[lost]] for stems in LAYOUTS[layout].splits.values())
    (line,) = told(description, code=2 if alone else 1)
    assert Path(broken).name in line
    found = {name for path in MADE.glob("*.json") for name in names_in(path)}
    assert found == set(LAYOUTS[layout].file_names.values()) - {lost}


def write_jpeg(path: Path) -> None:
    Image.fromarray(IDS).save(path, format="JPEG")


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "colours": (lambda path: save(path, np.zeros((3, 3, 3), np.uint8)), "is a colour picture (RGB), not a label map"),
    "colours with alpha": (lambda path: save(path, np.zeros((3, 3, 4), np.uint8)), "is a colour picture (RGBA)"),
    "a JPEG": (write_jpeg, "is a JPEG in a file named .png"),
    "another size": (lambda path: save(path, IDS[:2]), "is 2x3, its image bad.png is 3x3 (height x width)"),
    "an unknown id": (lambda path: save(path, IDS + 1), "holds id 3, not in the class list of set"),
    "an unknown id of 16 bits": (lambda path: save(path, IDS.astype(np.uint16) * 20000), "holds id 20000, 40000, not in"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_a_label_map_of_the_wrong_kind_is_told_by_name(here: Path, fault: str) -> None:
    write_folder()
    damage, line = BAD_LABELS[fault]
    damage(Path("set/labels/bad.png"))
    assert_rest_is_converted("set", line=f"set/labels/bad.png {line}")


def test_255_is_an_unknown_id_where_another_id_is_ignored(here: Path) -> None:
    write_folder()
    save(Path("set/labels/bad.png"), grid("..1 1.1 2.#"))
    Path("set.yaml").write_text("layout: folder\nroot: ./set\nignore: 254\n")
    assert_rest_is_converted("set.yaml", line="set/labels/bad.png holds id 255, not in the class list of set.yaml")


def test_255_cannot_be_a_class_and_ignored(here: Path) -> None:
    write_folder()
    classes = "classes: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}, {id: 255, name: void}]\n"
    Path("set.yaml").write_text(f"layout: folder\nroot: ./set\n{classes}")
    (line,) = told("set.yaml", code=2)
    assert "the ignore id 255 is also a class (void): set another 'ignore'" in line


def test_sizes_that_differ_are_told_by_both_names(here: Path) -> None:
    for layout, path in (
        ("voc", "SegmentationObject/a.png"),
        ("cityscapes", "gtFine/train/town/town_000000_000019_gtFine_instanceIds.png"),
    ):
        description = write_dataset(LAYOUTS[layout], name=layout)
        Path(description).write_text(description.read_text().replace("./set", f"./{layout}"))
        ids = ids_of(Path(layout, path))
        save(Path(layout, path), ids[:-1])
        (line,) = told(description, out=Path("made", layout), code=2)
        height, width = ids.shape
        assert f"{layout}/{path} is {height - 1}x{width}, " in line
        assert f"is {height}x{width} (height x width)" in line


@pytest.mark.parametrize("layout", ["coco", "coco-panoptic"])
def test_a_photograph_of_another_size_than_its_annotations_is_told(here: Path, layout: str) -> None:
    description = write_dataset(LAYOUTS[layout])
    stem = next(iter(LAYOUTS[layout].maps))
    save_photograph(Path(f"set/images/{stem}.jpg"), (5, 5))
    (line,) = told(description, code=1)
    assert f"its image {stem}.jpg is 5x5 (height x width): make them the same size" in line


@pytest.mark.parametrize(("layout", "name"), [("folder of colours", "rgb"), ("voc", "a"), ("coco", "p"), ("ccp", "0001")])
def test_of_two_photographs_with_one_stem_one_is_used_and_the_other_told(here: Path, layout: str, name: str) -> None:
    drawn = LAYOUTS[layout]
    description = write_dataset(drawn)
    first = Path("set", drawn.file_names[name])
    second = first.with_suffix(".png" if first.suffix == ".jpg" else ".jpg")
    save_photograph(second, drawn.maps[name].shape)
    if layout == "coco":
        document = read(Path("set/all.json"))
        document["images"].append(document["images"][0] | {"id": 77, "file_name": second.name})
        save_json(Path("set/all.json"), document)
    (line,) = told(description, code=1)
    assert first.name in line or second.name in line
    found = [Path(each).stem for path in MADE.glob("*.json") for each in names_in(path)]
    assert sorted(found) == sorted(drawn.maps)


def test_suffixes_in_capitals_are_the_same(here: Path) -> None:
    save_photograph(Path("set/images/a.JPG"), IDS.shape)
    save_photograph(Path("set/images/b.JPEG"), IDS.shape)
    save_photograph(Path("set/images/c.PNG"), IDS.shape)
    for name in ("a.PNG", "b.png", "c.Png"):
        save(Path("set/labels", name), IDS)
    convert("set")
    assert names_in() == ["images/a.JPG", "images/b.JPEG", "images/c.PNG"]
    save_photograph(Path("other/shots/A_IMG.JPG"), IDS.shape)
    save(Path("other/masks/A_GT.PNG"), IDS)
    stated = "photographs: shots\nlabels: masks\nsuffixes: [_img.jpg, _gt.png]\n"
    Path("other.yaml").write_text(f"layout: folder\nroot: ./other\n{stated}")
    convert("other.yaml", out=Path("more"))
    assert names_in(Path("more/all.json")) == ["shots/A_IMG.JPG"]
    save_photograph(Path("voc/JPEGImages/a.JPG"), IDS.shape)
    save(Path("voc/SegmentationClass/a.PNG"), IDS)
    convert("voc", out=Path("most"))
    assert names_in(Path("most/all.json")) == ["JPEGImages/a.JPG"]


# --- names ---

ODD_NAMES = [
    "two words",
    "it's",
    'say "hi"',
    "für [red]",
    "日本",
    "a%20b",
    "-rf",
    "#1",
    "{stem}",
    "a.jpg",
    "at 9.41\u202fPM",  # as macOS calls pictures of its screen
]


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
def test_odd_names_are_kept_as_they_are(here: Path, format_: str) -> None:
    names = tuple(sorted(ODD_NAMES))
    write_folder(names)
    convert("set", "--format", format_)
    if format_ == "semantic":
        assert sorted(path.stem for path in (MADE / "labels").iterdir()) == sorted(names)
        convert(MADE / "made.yaml", out=Path("back"))
        assert sorted(Path(name).stem for name in names_in(Path("back/all.json"))) == sorted(names)
    else:
        assert sorted(names_in()) == sorted(f"images/{name}.png" for name in names)
    if format_ == "panoptic":
        assert sorted(path.stem for path in (MADE / "all").iterdir()) == sorted(names)


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
@pytest.mark.parametrize("name", ["two\nlines", "two\u2028lines", " blank ", os.fsdecode(b"\xff")])
def test_a_name_that_is_no_line_of_text_does_not_spoil_the_others(here: Path, name: str, format_: str) -> None:
    """It may be converted or refused; the result must be one that can be read."""
    write_folder(("fine", "good", name))
    result = run_imptool("convert-instances", "set", "--format", format_, "--out", MADE)
    assert len(result.stderr.splitlines()) == 2 * result.exit_code
    made: Path = MADE
    if format_ == "semantic":
        convert(MADE / "made.yaml", out=Path("back"))
        made = Path("back")
    found = {Path(name).stem for name in names_in(made / "all.json")}
    assert found == ({"fine", "good", name} if result.exit_code == 0 else {"fine", "good"})


def test_errors_with_a_line_break_in_a_name_are_one_line(here: Path) -> None:
    write_folder(("good", "two\nlines"))
    Path("set/labels/two\nlines.png").write_bytes(b"")
    (line,) = told("set", code=1)
    assert "set/labels/two lines.png is not a readable picture: the file is empty" in line


def test_braces_in_the_name_of_a_folder_are_no_template(here: Path) -> None:
    write_folder()
    Path("set/labels/bad.png").unlink()
    Path("set").rename("{my} set")
    (line,) = told("{my} set", code=1)
    assert "{my} set/images/bad.png has no label map: expected {my} set/labels/bad.png" in line


def test_links_that_lead_in_a_circle_or_nowhere_are_told_or_passed_by(here: Path) -> None:
    write_folder(("good",))
    for kind in ("images", "labels"):
        Path("set", kind, "around").symlink_to("..")
        Path("set", kind, "itself.png").symlink_to("itself.png")
        Path("set", kind, "gone.png").symlink_to("nowhere.png")
    Path("set/images/linked.png").symlink_to("good.png")
    Path("set/labels/linked.png").symlink_to("good.png")
    lines = told("set", code=1)
    assert {"images/good.png", "images/linked.png"} <= set(names_in())
    for name in ("gone", "itself"):
        assert [line for line in lines if f"/{name}.png" in line]


@pytest.mark.parametrize("layout", ["coco", "coco-panoptic"])
def test_a_json_that_is_a_link_to_itself_is_one_line(here: Path, layout: str) -> None:
    Path("set").mkdir()
    Path("set/all.json").symlink_to("all.json")
    Path("set.yaml").write_text(f"layout: {layout}\nroot: ./set\nannotations: {{all: all.json}}\n")
    (line,) = told("set.yaml", code=2)
    assert "set/all.json: cannot be read: Too many levels of symbolic links" in line


# --- pictures that would take all memory ---


def png_of_declared_size(side: int) -> bytes:
    """The start and the end of a grey PNG, and hardly a pixel between."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b"")]
    packed = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def save_mat_of_declared_size(path: Path, side: int) -> None:
    scipy.io.savemat(path, {"groundtruth": np.zeros((3, 5), np.uint8)})
    whole = path.read_bytes()
    assert whole.count(struct.pack("<ii", 3, 5)) == 1
    path.write_bytes(whole.replace(struct.pack("<ii", 3, 5), struct.pack("<ii", side, side)))


def write_large(kind: str) -> Path:
    """A dataset in which one thing says to be of 20,000 x 20,000 pixels; its YAML."""
    layout = {".mat": "ccp", "JSON": "coco", "segments": "coco-panoptic"}.get(kind, "folder of colours")
    description = write_dataset(LAYOUTS[layout])
    if kind == ".mat":
        save_mat_of_declared_size(Path("set/annotations/pixel-level/0001.mat"), 20_000)
    elif kind == "JSON":
        shutil.rmtree("set/images")
        document = read(Path("set/all.json"))
        document["images"][0].update(height=20_000, width=20_000)
        document["annotations"] = []
        save_json(Path("set/all.json"), document)
    else:
        path = {"segments": "annotations/val/r.png", "photograph": "images/rgb.png", "label map": "labels/rgb.png"}[kind]
        Path("set", path).write_bytes(png_of_declared_size(20_000))
    return description


LARGE = ["photograph", "label map", ".mat", "JSON", "segments"]


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
@pytest.mark.parametrize("kind", LARGE)
def test_a_huge_picture_is_refused_by_the_name_of_the_option(here: Path, kind: str, format_: str) -> None:
    (line,) = told(write_large(kind), "--format", format_, code=1)
    assert "is 20000x20000 (height x width), more than 200,000,000 pixels: --max-pixels 400000000 takes it" in line


# What a shell runs in place of imptool: all conversions, and by how many MB the memory grew after the first.
MEASURED = """
import contextlib, resource, sys
from imptool.cli import main

most = []
for description in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        main(["convert-instances", description, "--out", f"made-{len(most)}"])
    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(max(most) - most[0])
"""


def test_a_huge_picture_takes_no_memory(here: Path) -> None:
    descriptions = [str(write_dataset(LAYOUTS["coco-panoptic"]).absolute())]
    for kind in LARGE:
        Path(kind).mkdir()
        os.chdir(kind)
        descriptions.append(str(write_large(kind).absolute()))
        os.chdir(here)
    command = [sys.executable, "-c", MEASURED, *descriptions]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert int(result.stdout.splitlines()[-1]) < 50, result.stdout  # one map takes 400 MB


# --- MATLAB ---


def write_ccp(**variables: Any) -> None:
    for stem in ("good", "bad", "fine"):
        save_photograph(Path(f"set/photos/{stem}.jpg"), IDS.shape)
        Path("set/pixel-level").mkdir(exist_ok=True)
        scipy.io.savemat(Path(f"set/pixel-level/{stem}.mat"), {"groundtruth": IDS} if stem != "bad" else variables)
    Path("set.yaml").write_text(
        "layout: ccp\nroot: ./set\nclasses: [{id: 0, name: background}, {id: 1, name: coat}, {id: 2, name: hat}]\n"
    )


GOOD_MATS = {
    "another name": {"label": IDS},
    "doubles": {"groundtruth": IDS.astype(np.float64)},
    "singles": {"groundtruth": IDS.astype(np.float32)},
    "signed": {"groundtruth": IDS.astype(np.int32)},
    "several, one of them a map": {"tags": ["a", "b"], "depth": np.full((3, 3), 0.5), "map": IDS},
    "several, one of them CCP's": {"groundtruth": IDS, "other": IDS + 1},
}
BAD_MATS: dict[str, tuple[dict[str, Any], str]] = {
    "two maps": ({"a": IDS, "b": IDS}, "which variable is the label map? Expected one of whole numbers [H, W], or 'ground"),
    "fractions": ({"groundtruth": IDS + 0.5}, "found groundtruth (float64 [3, 3])"),
    "not a number": ({"groundtruth": np.full((3, 3), np.nan)}, "found groundtruth (float64 [3, 3])"),
    "infinite": ({"groundtruth": np.full((3, 3), np.inf)}, "holds ids outside 0..65535"),
    "negative": ({"groundtruth": IDS.astype(np.int16) - 1}, "holds ids outside 0..65535: -1 to 1"),
    "unknown": ({"groundtruth": IDS * 2}, "holds id 4, not in the class list"),
    "a cell": ({"groundtruth": np.array([IDS, 1], object)}, "found groundtruth (cell [1, 2])"),
    "a struct": ({"groundtruth": {"map": IDS}}, "which variable is the label map?"),
    "planes": ({"groundtruth": np.zeros((3, 3, 3), np.uint8)}, "found groundtruth (uint8 [3, 3, 3])"),
    "another size": ({"groundtruth": IDS[:2]}, "is 2x3, its image bad.jpg is 3x3"),
    "nothing": ({}, "found none"),
}


@pytest.mark.parametrize("kind", GOOD_MATS)
def test_a_mat_that_says_which_variable_is_the_map_is_read(here: Path, kind: str) -> None:
    write_ccp(**GOOD_MATS[kind])
    convert("set.yaml", "--format", "semantic")
    np.testing.assert_array_equal(ids_of(MADE / "labels" / "bad.png"), IDS)


@pytest.mark.parametrize("kind", BAD_MATS)
def test_a_mat_without_a_map_costs_its_own_photograph_alone(here: Path, kind: str) -> None:
    variables, says = BAD_MATS[kind]
    write_ccp(**variables)
    (line,) = told("set.yaml", code=1)
    assert "set/pixel-level/bad.mat" in line
    assert says in line
    assert names_in() == ["photos/fine.jpg", "photos/good.jpg"]


def test_a_mat_of_matlab_7_3_says_how_to_save_it(here: Path) -> None:
    write_ccp()
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 .".ljust(124)
    hdf5 = (header + b"\x00\x02IM").ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(500)
    Path("set/pixel-level/bad.mat").write_bytes(hdf5)
    (line,) = told("set.yaml", code=1)
    assert "bad.mat is a MATLAB 7.3 file: save it in MATLAB with save(name, variable, '-v7')" in line
    assert names_in() == ["photos/fine.jpg", "photos/good.jpg"]


# --- COCO JSON ---

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # 3 x 2 pixels


def coco() -> dict[str, Any]:
    """Three images of 5 x 6 pixels with one coat each."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 5, "width": 6} for n in (1, 2, 3)],
        "annotations": [{"id": 10 * n, "image_id": n, "category_id": 1, "segmentation": [list(SQUARE)]} for n in (1, 2, 3)],
        "categories": [{"id": 1, "name": "coat"}, {"id": 2, "name": "hat"}],
    }


def change(section: str, **values: Any) -> Change:
    """Set values of the first row of a section."""
    return lambda document: document[section][0].update(values)


def lose(section: str, key: str) -> Change:
    return lambda document: document[section][0].pop(key)


def write_coco(change_it: Change, *, photographs: bool) -> None:
    document = coco()
    change_it(document)
    save_json(Path("set/all.json"), document)
    for n in (1, 2, 3) if photographs else ():
        save_photograph(Path(f"set/images/{n}.png"), (5, 6))


FAR = "in or near the image"
BAD_SEGMENTATIONS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "must be a list of polygons or an RLE"),
    "a text": ("x", "must be a list of polygons or an RLE"),
    "a number": (7, "must be a list of polygons or an RLE"),
    "true": (True, "must be a list of polygons or an RLE"),
    "no polygon": ([], "has no polygon"),
    "an empty polygon": ([[]], "fewer than three points"),
    "two points": ([[1, 1, 4, 4]], "fewer than three points"),
    "half a point": ([[1, 1, 4, 1, 4, 3, 1]], FAR),
    "NaN": ([[*SQUARE[:-1], float("nan")]], FAR),
    "infinity": ([[*SQUARE[:-1], float("inf")]], FAR),
    "texts": ([[f"{value} px" for value in SQUARE]], FAR),
    "booleans": ([[True, True, *SQUARE[2:]]], FAR),
    "null": ([[None, *SQUARE[1:]]], FAR),
    "points": ([[{"x": 1, "y": 2}] * 6], FAR),
    "far away": ([[1, 1, 1e9, 1, 1e9, 1e9, 1, 1e9]], FAR),
    "a number without end": ([[10**400, *SQUARE[1:]]], FAR),
    "an RLE without counts": ({"size": [5, 6]}, "must be a list of polygons or an RLE"),
    "an RLE without size": ({"counts": [30]}, "the RLE has the size None, its image [5, 6]"),
    "an RLE of width x height": ({"size": [6, 5], "counts": [30]}, "the RLE has the size [6, 5], its image [5, 6]"),
    "an RLE too short": ({"size": [5, 6], "counts": [4, 9]}, "the RLE covers 13 pixels, its image has 30"),
    "an RLE too long": ({"size": [5, 6], "counts": [4, 27]}, "the RLE covers 31 pixels, its image has 30"),
    "negative counts": ({"size": [5, 6], "counts": [-1, 31]}, "the counts of an RLE must be whole numbers >= 0"),
    "counts of text": ({"size": [5, 6], "counts": ["3 px", "27"]}, "the counts of an RLE must be whole numbers >= 0"),
    "fractions of counts": ({"size": [5, 6], "counts": [14.5, 15.5]}, "the counts of an RLE must be whole numbers >= 0"),
    "garbage": ({"size": [5, 6], "counts": "~~~~"}, "no compressed RLE"),
    "garbage of other signs": ({"size": [5, 6], "counts": "日本"}, "no compressed RLE"),
    "a cut RLE": ({"size": [5, 6], "counts": compressed("...... .111.. .111.. ...... ......")["counts"][:-1]}, "RLE"),
    "an RLE of nothing": ({"size": [5, 6], "counts": ""}, "the RLE covers 0 pixels, its image has 30"),
}
BAD_ANNOTATIONS: dict[str, tuple[Change, str]] = {
    "no segmentation": (lose("annotations", "segmentation"), "must be a list of polygons or an RLE"),
    "no category": (lose("annotations", "category_id"), "category_id None, which 'categories' does not list"),
    "an unknown category": (change("annotations", category_id=3), "category_id 3, which 'categories' does not list"),
    "a category in words": (change("annotations", category_id="coat"), "category_id 'coat', which"),
    "a list of categories": (change("annotations", category_id=[1]), "category_id [1], which"),
    "true for a category": (change("annotations", category_id=True), "category_id True, which"),
    **{name: (change("annotations", segmentation=value), says) for name, (value, says) in BAD_SEGMENTATIONS.items()},
}


@pytest.mark.parametrize("fault", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_told_and_costs_itself_alone(here: Path, fault: str) -> None:
    change_it, says = BAD_ANNOTATIONS[fault]
    write_coco(change_it, photographs=True)
    (line,) = told("set", code=1)
    assert "set/all.json: annotation 10 " in line
    assert says in line
    assert names_in() == ["images/1.png", "images/2.png", "images/3.png"]
    assert [row["image_id"] for row in read(MADE / "all.json")["annotations"]] == [2, 3]


@pytest.mark.parametrize("format_", ["panoptic", "semantic"])
def test_a_bad_annotation_is_told_in_every_format(here: Path, format_: str) -> None:
    write_coco(change("annotations", segmentation="x"), photographs=False)
    (line,) = told("set", "--format", format_, code=1)
    assert "set/all.json: annotation 10 is left out" in line


POLYGONS = {  # what pycocotools makes of them is what is kept
    "partly outside": [[-2, -1, 3, -1, 3, 2, -2, 2]],
    "larger than the image": [[-3, -3, 8, -3, 8, 8, -3, 8]],
    "fractions": [[0.2, 0.4, 4.7, 0.6, 3.3, 4.9]],
    "that cross themselves": [[0, 0, 5, 4, 5, 0, 0, 4]],
    "that overlap": [[0, 0, 3, 0, 3, 3, 0, 3], [2, 2, 5, 2, 5, 4, 2, 4]],
    "with a point twice": [[*SQUARE, 1, 1, 1, 1]],
}


@pytest.mark.parametrize("kind", POLYGONS)
def test_polygons_are_what_pycocotools_makes_of_them(here: Path, kind: str) -> None:
    write_coco(change("annotations", segmentation=POLYGONS[kind]), photographs=False)
    convert("set")
    row = next(row for row in read(MADE / "all.json")["annotations"] if row["image_id"] == 1)
    truth = coco_mask.merge(coco_mask.frPyObjects([list(map(float, ring)) for ring in POLYGONS[kind]], 5, 6))
    np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]), coco_mask.decode(truth))
    assert (row["area"], row["bbox"]) == (coco_mask.area(truth), coco_mask.toBbox(truth).tolist())


def test_a_polygon_wholly_outside_is_no_instance_and_is_counted(here: Path) -> None:
    write_coco(change("annotations", segmentation=[[7, 1, 9, 1, 9, 3, 7, 3]]), photographs=False)
    result = convert("set")
    assert [row["image_id"] for row in read(MADE / "all.json")["annotations"]] == [2, 3]
    assert "; 1 under --min-area dropped" in result.stdout


def test_a_polygon_of_two_points_beside_a_good_one_is_left_out_alone(here: Path) -> None:
    write_coco(change("annotations", segmentation=[[1, 1, 4, 4], SQUARE]), photographs=False)
    (line,) = told("set", code=1)
    assert "annotation 10 has a polygon of fewer than three points" in line
    assert [row["area"] for row in read(MADE / "all.json")["annotations"]] == [6, 6, 6]


def test_numbers_written_with_a_point_are_numbers(here: Path) -> None:
    """Some programs write every number of a JSON as a fraction."""
    mask = compressed("...... .111.. .111.. ...... ......")
    write_coco(change("annotations", segmentation={"size": [5.0, 6.0], "counts": mask["counts"]}), photographs=False)
    convert("set")
    assert [row["area"] for row in read(MADE / "all.json")["annotations"]] == [6, 6, 6]


LONG = "a" * 300 + ".png"
BAD_IMAGES: dict[str, Change] = {
    "no file name": lose("images", "file_name"),
    "no height": lose("images", "height"),
    "no width": lose("images", "width"),
    "no id": lose("images", "id"),
    "an id in words": change("images", id="one"),
    "a negative id": change("images", id=-1),
    "true for an id": change("images", id=True),
    "a list for an id": change("images", id=[1]),
    "no height in words": change("images", height="five"),
    "height 0": change("images", height=0),
    "a negative width": change("images", width=-6),
    "null": lambda document: document["images"].__setitem__(0, None),
    "a number": lambda document: document["images"].__setitem__(0, 3),
    "a number for a name": change("images", file_name=7),
    "a list for a name": change("images", file_name=["1.png"]),
    "an empty name": change("images", file_name=""),
    "a dot for a name": change("images", file_name="."),
    "a name with NUL": change("images", file_name="1\0.png"),
    "half a character": change("images", file_name="\ud800.png"),
    "a name too long": change("images", file_name=LONG),
    "a name of a folder too long": change("images", file_name=f"{LONG}/1.png"),
    "a way out": change("images", file_name="../1.png"),
    "a way out and in": change("images", file_name="../images/1.png"),
    "a way out within": change("images", file_name="a/../../1.png"),
    "an absolute name": change("images", file_name="/etc/passwd"),
    "a name from Windows": change("images", file_name="C:\\photos\\1.png"),
    "a row twice": lambda document: document["images"].insert(2, document["images"][1]),
    "a name twice": lambda document: document["images"].append(document["images"][1] | {"id": 4}),
}


@pytest.mark.parametrize("photographs", [True, False])
@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_a_bad_image_is_told_and_costs_itself_alone(here: Path, fault: str, photographs: bool) -> None:
    write_coco(BAD_IMAGES[fault], photographs=photographs)
    (line,) = told("set", code=1)
    assert line.startswith("  set/all.json")
    kept = [1, 2, 3] if fault.endswith("twice") else [2, 3]
    document = read(MADE / "all.json")
    assert [Path(name).name for name in names_in()] == [f"{n}.png" for n in kept]
    of_image = {image["id"]: int(Path(image["file_name"]).stem) for image in document["images"]}
    assert [of_image[row["image_id"]] for row in document["annotations"]] == kept


NOTES: dict[str, tuple[Change, str]] = {
    "an unknown image": (
        change("annotations", image_id=9),
        "1 annotations of an image that it does not list, such as annotation 10",
    ),
    "no image": (lose("annotations", "image_id"), "1 annotations of an image that it does not list, such as annotation 10"),
    "no row": (lambda document: document["annotations"].append(None), "such as annotations[3]"),
    "an id twice": (
        change("annotations", id=20),
        "annotation ids that stand twice: 1, such as 20; instances get ids of their own",
    ),
}


@pytest.mark.parametrize("fault", NOTES)
def test_an_annotation_of_no_photograph_costs_none_and_is_noted(here: Path, fault: str) -> None:
    change_it, says = NOTES[fault]
    write_coco(change_it, photographs=False)
    result = convert("set")
    assert says in result.stdout
    rows = read(MADE / "all.json")["annotations"]
    assert [row["image_id"] for row in rows] == ([2, 3] if "image" in fault else [1, 2, 3])
    assert len({row["id"] for row in rows}) == len(rows)


def test_what_nobody_needs_may_be_wrong_or_missing(here: Path) -> None:
    nonsense = {"id": "x", "area": "large", "bbox": [1, 2], "iscrowd": None, "extra": [None]}
    write_coco(change("annotations", **nonsense), photographs=False)
    convert("set")
    rows = read(MADE / "all.json")["annotations"]
    assert [(row["area"], row["bbox"], row["iscrowd"]) for row in rows] == [(6, [1, 1, 3, 2], 0)] * 3


BAD_DOCUMENTS = {
    "an empty file": "",
    "a list": "[]",
    "a number": "3",
    "a text": '"coco"',
    "nothing": "null",
    "an empty object": "{}",
    "images alone": '{"images": []}',
    "no categories": '{"images": [], "annotations": []}',
    "no annotations": '{"images": [], "categories": []}',
    "an object for a list": '{"images": {}, "annotations": [], "categories": []}',
    "half of it": '{"images": [], "annot',
    "nested too deeply": "[" * 100_000,
    "objects nested too deeply": '{"a":' * 100_000,
    "a number without end": '{"images": 1' + "0" * 5000 + "}",
    "another encoding": '{"images": "\xe9"}',
    "no category": '{"images": [{"id": 1}], "annotations": [], "categories": []}',
    "a category without name": '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
    "a category without id": '{"images": [], "annotations": [], "categories": [{"name": "coat"}]}',
    "a category that is none": '{"images": [], "annotations": [], "categories": ["coat"]}',
    "half a character": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "\\ud800"}]}',
    "a category id too large": '{"images": [], "annotations": [], "categories": [{"id": 65536, "name": "coat"}]}',
    "no image": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "coat"}]}',
}


@pytest.mark.parametrize("layout", ["coco", "coco-panoptic"])
@pytest.mark.parametrize("fault", BAD_DOCUMENTS)
def test_a_json_that_is_no_such_file_is_one_line_and_writes_nothing(here: Path, fault: str, layout: str) -> None:
    Path("set").mkdir()
    Path("set/all.json").write_text(BAD_DOCUMENTS[fault], encoding="latin-1")
    Path("set.yaml").write_text(f"layout: {layout}\nroot: ./set\nannotations: {{all: all.json}}\n")
    (line,) = told("set.yaml", code=2)
    assert "set" in line
    assert len(line) < 400
    assert not MADE.exists()


@pytest.mark.parametrize(
    ("change_it", "says"),
    [
        (change("categories", id=2), "classes: the id 2 is there twice"),
        (change("categories", name="hat"), "classes: the name hat is there twice"),
        (change("categories", id=255), "the ignore id 255 is also a class (coat): set another 'ignore'"),
    ],
)
def test_a_class_that_is_there_twice_is_one_line(here: Path, change_it: Change, says: str) -> None:
    write_coco(change_it, photographs=False)
    (line,) = told("set", code=2)
    assert says in line


@pytest.mark.parametrize("class_id", [0, 1, 5])
@pytest.mark.parametrize("name", ["background", "Background", "null"])
def test_a_category_called_background_is_no_error(here: Path, class_id: int, name: str) -> None:
    write_coco(lambda document: document["categories"].append({"id": 9, "name": "x"}), photographs=False)
    document = read(Path("set/all.json"))
    document["categories"] = [
        {"id": class_id, "name": name},
        *(row for row in document["categories"] if row["id"] not in (class_id, 1)),
        *([{"id": 7, "name": "coat"}]),
    ]
    for row in document["annotations"]:
        row["category_id"] = 7
    save_json(Path("set/all.json"), document)
    convert("set")
    assert [row["category_id"] for row in read(MADE / "all.json")["annotations"]] == [7, 7, 7]


# --- COCO panoptic JSON ---


def segment(**values: Any) -> Change:
    return lambda document: document["annotations"][0]["segments_info"][0].update(values)


def twice_in(section: str) -> Change:
    return lambda document: document[section].append(document[section][0])


BAD_PANOPTIC: dict[str, tuple[Change, str]] = {
    "no file name": (lose("annotations", "file_name"), "annotations[0] the file name None is none"),
    "a dot for a name": (change("annotations", file_name="."), "annotations[0] the file name '.' is none"),
    "a way out": (change("annotations", file_name="../r.png"), "annotations[0] the file name '../r.png' leads out"),
    "an absolute name": (change("annotations", file_name="/r.png"), "annotations[0] the file name '/r.png' leads out"),
    "half a character": (change("annotations", file_name="\ud800.png"), "annotations[0] the file name"),
    "a name too long": (change("annotations", file_name=LONG), "annotations[0] the file name"),
    "a missing PNG": (change("annotations", file_name="lost.png"), "annotations/val/lost.png does not exist"),
    "no segments": (lose("annotations", "segments_info"), "annotations[0] has no list 'segments_info'"),
    "an object for segments": (change("annotations", segments_info={}), "annotations[0] has no list 'segments_info'"),
    "a segment that is none": (change("annotations", segments_info=[3]), "annotations[0] has a segment without an id"),
    "a segment without id": (segment(id=None), "annotations[0] has a segment without an id from 1 to 16777215"),
    "segment 0": (segment(id=0), "annotations[0] has a segment without an id from 1 to 16777215"),
    "a segment of 25 bits": (segment(id=2**24), "annotations[0] has a segment without an id from 1 to 16777215"),
    "a segment twice": (segment(id=300), "annotations[0] lists the segment 300 twice"),
    "a segment not listed": (change("annotations", segments_info=[]), "val/r.png holds the segment "),
    "an unknown category": (segment(category_id=77), "annotations[0] has a segment of category 77, which 'categories' does"),
    "a list of categories": (segment(category_id=[1]), "annotations[0] has a segment of category [1]"),
    "null": (lambda document: document["annotations"].__setitem__(0, None), "annotations[0] the file name None is none"),
    "an annotation twice": (twice_in("annotations"), "whose stem is there twice"),
}


@pytest.mark.parametrize("fault", BAD_PANOPTIC)
def test_a_bad_panoptic_annotation_is_told_and_costs_its_own_photograph_alone(here: Path, fault: str) -> None:
    change_it, says = BAD_PANOPTIC[fault]
    description = write_dataset(LAYOUTS["coco-panoptic"])
    document = panoptic_document()
    change_it(document)
    save_json(Path("set/annotations/val.json"), document)
    (line,) = told(description, code=1)
    assert says in line
    kept = ["images/r.jpg", "images/s.jpg"]
    assert names_in(MADE / "val.json") == (kept if fault == "an annotation twice" else kept[1:])


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_panoptic_png_without_colours_is_told(here: Path, mode: str) -> None:
    description = write_dataset(LAYOUTS["coco-panoptic"])
    Image.new(mode, (6, 4)).save("set/annotations/val/r.png")
    (line,) = told(description, code=1)
    assert f"set/annotations/val/r.png is a PNG of mode {mode}: expected an RGB PNG" in line


@pytest.mark.parametrize(("section", "key"), [("images", None), ("categories", None), ("categories", "isthing")])
def test_a_panoptic_json_may_do_without_images_and_categories(here: Path, section: str, key: str | None) -> None:
    description = write_dataset(LAYOUTS["coco-panoptic"])
    document = panoptic_document()
    if key is None:
        del document[section]
    else:
        for row in document[section]:
            del row[key]
    save_json(Path("set/annotations/val.json"), document)
    convert(description, "--format", "semantic")
    np.testing.assert_array_equal(ids_of(MADE / "labels" / "r.png"), LAYOUTS["coco-panoptic"].maps["r"])


# --- any JSON ---

JUNK = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, float("nan"), float("inf")),
        *("", "x", ".", "..", "\ud800", "\0"),
        *([], {}, [[]], [None], [1, 2, 3, 4, 5, 6], {"id": 1}, {"size": [5, 6], "counts": [30]}),
    ]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, each in inner for place in places(each, (*path, key))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_json_holds_there_is_no_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("any")
    layout = data.draw(st.sampled_from(["coco", "coco-panoptic"]))
    document = coco() if layout == "coco" else panoptic_document()
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(document)))
        inner = document
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = copy.deepcopy(data.draw(JUNK))
        else:
            del inner[last]
        if not document:
            break
    (root / "set").mkdir()
    (root / "set" / "all.json").write_text(json.dumps(document))
    codes = np.array([[70000, 300], [5, 0]], np.int32)
    for stem in ("r", "s"):
        save_codes(root / "set" / "all" / f"{stem}.png", codes)
    (root / "set.yaml").write_text(f"layout: {layout}\nroot: ./set\nannotations: {{all: all.json}}\n")
    format_ = data.draw(st.sampled_from(["coco", "panoptic", "semantic"]))
    result = run_imptool("convert-instances", root / "set.yaml", "--format", format_, "--out", root / "made" / "here")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == {0: 0, 1: len(lines), 2: 1}[result.exit_code]
    assert {path.name for path in root.iterdir()} <= {"set", "set.yaml", "made"}


# --- options, descriptions, lists ---


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "far"])
def test_a_tolerance_that_is_no_distance_is_refused(here: Path, value: str) -> None:
    write_folder()
    result = run_imptool("convert-instances", "set", "--segmentation", "polygon", "--simplify", value, "--out", MADE)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert "simplify" in result.stderr
    assert not MADE.exists()


@pytest.mark.parametrize("suffixes", ["['', .png]", "[.jpg, '']", "[.jpg]", "[.jpg, .png, .gif]", "[1, 2]", ".jpg"])
def test_suffixes_that_are_none_are_a_mistake_in_the_description(here: Path, suffixes: str) -> None:
    write_folder()
    Path("set.yaml").write_text(f"layout: folder\nroot: ./set\nsuffixes: {suffixes}\n")
    (line,) = told("set.yaml", code=2)
    assert "set.yaml: suffixes" in line


@pytest.mark.parametrize(
    "colours", ["{1: red}", "{1: [255, 0]}", "{1: [256, 0, 0]}", "{-1: [1, 2, 3]}", "{65536: [1, 2, 3]}", "[[1, 2, 3]]"]
)
def test_colours_that_are_none_are_a_mistake_in_the_description(here: Path, colours: str) -> None:
    write_folder()
    Path("set.yaml").write_text(f"layout: folder\nroot: ./set\ncolours: {colours}\n")
    (line,) = told("set.yaml", code=2)
    assert "set.yaml: colours" in line


def test_a_colour_that_is_not_stated_costs_its_own_photograph_alone(here: Path) -> None:
    description = write_dataset(LAYOUTS["folder of colours"])
    save(Path("set/labels/rgb.png"), np.full((2, 3, 3), (1, 2, 3), np.uint8))
    (line,) = told(description, code=1)
    assert "set/labels/rgb.png holds the colour [1, 2, 3], which 'colours' does not state" in line
    assert names_in() == ["images/palette.png", "images/rgba.png"]


@pytest.mark.parametrize(("key", "value"), [("suffixes", "[.jpg, .png]"), ("annotations", "{a: a.json}"), ("labels", "masks")])
def test_a_key_that_means_nothing_to_a_layout_is_told(here: Path, key: str, value: str) -> None:
    description = write_dataset(LAYOUTS["voc"])
    description.write_text(f"{description.read_text()}{key}: {value}\n")
    (line,) = told(description, code=2)
    assert f"'{key}' means nothing to the layout voc" in line


def test_a_list_of_another_encoding_is_one_line(here: Path) -> None:
    write_dataset(LAYOUTS["voc"])
    Path("set/ImageSets/Segmentation/train.txt").write_bytes(b"a\n\xe9t\xe9\n")
    (line,) = told("set.yaml", code=2)
    assert "set/ImageSets/Segmentation/train.txt" in line
    assert "not UTF-8" in line


def test_stems_with_blanks_stay_in_their_split_of_voc(here: Path) -> None:
    write_dataset(LAYOUTS["voc"])
    for path in (*Path("set").rglob("a.*"),):
        path.rename(path.with_stem("a b"))
    Path("set/ImageSets/Segmentation/train.txt").write_text("a b\n")
    convert("set.yaml")
    assert names_in(MADE / "train.json") == ["JPEGImages/a b.jpg"]


# --- where results go ---


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
@pytest.mark.parametrize("photographs", [True, False])
def test_no_name_in_a_json_leads_out_of_the_dataset_or_the_result(here: Path, format_: str, photographs: bool) -> None:
    names = ["../secret.png", str(here / "secret.png"), "x/../../secret.png", "../made/../secret.png", "ok.png"]
    save_photograph(Path("secret.png"), (5, 6))
    document = coco()
    document["images"] = [{"id": n, "file_name": name, "height": 5, "width": 6} for n, name in enumerate(names)]
    document["annotations"] = [row | {"image_id": 4} for row in document["annotations"]]
    save_json(Path("coco/all.json"), document)
    document = panoptic_document()
    document["annotations"] = [document["annotations"][0] | {"file_name": name, "image_id": n} for n, name in enumerate(names)]
    LAYOUTS["coco-panoptic"].write(Path("panoptic"))
    save_json(Path("panoptic/annotations/val.json"), document)
    Path("panoptic/annotations/val/r.png").rename("panoptic/annotations/val/ok.png")
    for path in Path("panoptic/images").iterdir():
        path.unlink()
    if photographs:
        save_photograph(Path("coco/images/ok.png"), (5, 6))
        save_photograph(Path("panoptic/images/ok.jpg"), (4, 6))
    for layout in ("coco", "panoptic"):
        Path(f"{layout}.yaml").write_text(f"layout: {layout.replace('panoptic', 'coco-panoptic')}\nroot: ./{layout}\n")
    before = files_in(here)
    for layout in ("coco", "panoptic"):
        lines = told(f"{layout}.yaml", "--format", format_, out=Path("made", layout), code=1)
        assert [line.count("leads out of the dataset") for line in lines if "secret" in line] == [1] * 4
    assert {name: each for name, each in files_in(here).items() if not name.startswith("made/")} == before
    made = files_in(Path("made"))
    assert not [name for name in made if "secret" in name]


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", ".."])
def test_the_name_of_a_split_is_no_path(here: Path, name: str) -> None:
    write_coco(lambda document: None, photographs=False)
    Path("set.yaml").write_text(f"layout: coco\nroot: ./set\nannotations: {{'{name}': all.json}}\n")
    (line,) = told("set.yaml", code=2)
    assert "becomes part of a file's name" in line


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
def test_a_result_is_never_replaced_unless_asked(here: Path, format_: str) -> None:
    description = write_dataset(LAYOUTS["voc"])
    convert(description, "--format", format_)
    before = files_in(here)
    for name in before:
        if name.startswith("made/"):
            Path(name).write_bytes(b"precious")
            kept = files_in(here)
            (line,) = told(description, "--format", format_, code=2)
            assert "exists: add --force to replace it, or choose another --out" in line
            assert files_in(here) == kept
    convert(description, "--format", format_, "--force")
    assert files_in(here) == before


def test_one_file_that_is_there_is_enough_to_refuse(here: Path) -> None:
    description = write_dataset(LAYOUTS["voc"])
    for format_, name in (
        ("coco", "val.json"),
        ("panoptic", "train/x.png"),
        ("semantic", "made.yaml"),
        ("semantic", "labels/x"),
    ):
        path = MADE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
        (line,) = told(description, "--format", format_, code=2)
        assert "exists: add --force" in line
        assert files_in(MADE) == {name: b"precious"}
        path.unlink()
        if path.parent != MADE:
            path.parent.rmdir()


@pytest.mark.parametrize(
    ("layout", "format_", "out"),
    [
        ("coco", "coco", "set"),
        ("coco-panoptic", "coco", "set/annotations"),
        ("coco-panoptic", "panoptic", "set/annotations"),
        ("folder of colours", "semantic", "set"),
        ("folder with suffixes", "semantic", "set"),
    ],
)
def test_the_source_is_never_replaced_even_when_asked(here: Path, layout: str, format_: str, out: str) -> None:
    description = write_dataset(LAYOUTS[layout])
    before = files_in(here)
    (line,) = told(description, "--format", format_, "--force", out=Path(out), code=2)
    assert out in line
    assert files_in(here) == before


def test_photographs_are_never_replaced_even_when_asked(here: Path) -> None:
    write_folder()
    Path("shots").mkdir()
    Path("set/images").rename("shots/all")  # where --out shots puts the segments of the split `all`
    Path("set.yaml").write_text("layout: folder\nroot: ./set\nphotographs: ../shots/all\n")
    before = files_in(here)
    (line,) = told("set.yaml", "--format", "panoptic", "--force", out=Path("shots"), code=2)
    assert "shots" in line
    assert files_in(here) == before


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_an_out_that_is_a_file_is_one_line(here: Path, format_: str, out: str) -> None:
    description = write_dataset(LAYOUTS["voc"])
    Path("taken").write_text("precious")
    before = files_in(here)
    (line,) = told(description, "--format", format_, out=Path(out), code=2)
    assert "taken" in line
    assert files_in(here) == before


# What a shell runs in place of imptool on a disk that takes no file over 1000 bytes.
FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from imptool.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("format_", ["panoptic", "semantic"])
def test_a_full_disk_is_one_line_and_the_conversion_can_go_on(here: Path, format_: str) -> None:
    write_folder(("good", "fine"))
    noise = np.random.default_rng(0).integers(0, 3, (99, 99), dtype=np.uint8)  # of more than 1000 bytes as a PNG
    save_photograph(Path("set/images/noise.png"), noise.shape)
    save(Path("set/labels/noise.png"), noise)
    convert("set", "--format", format_, out=Path("whole/made"))
    command = [sys.executable, "-c", FULL_DISK, "convert-instances", "set", "--format", format_, "--out", "full/made"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    folder = "labels" if format_ == "semantic" else "all"
    assert (result.returncode, result.stderr) == (2, f"Error: full/made/{folder}/noise.png: File too large\n")
    assert not [name for name in files_in(Path("full")) if "unfinished" in name]
    convert("set", "--format", format_, "--resume", out=Path("full/made"))
    assert files_in(Path("full")) == files_in(Path("whole"))


def test_a_folder_without_permission_is_one_line(here: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    description = write_dataset(LAYOUTS["voc"])
    MADE.mkdir(mode=0o500)
    (line,) = told(description, code=2)
    assert "made" in line
    assert "Permission denied" in line
