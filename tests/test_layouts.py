"""Every layout into every format, against instances counted by hand; round trips; stopped conversions; real samples."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_imptool
from drawn_layouts import (
    LAYOUTS,
    MADE,
    Drawn,
    Ids,
    Region,
    coco_document,
    convert,
    files_in,
    grid,
    ids_of,
    read,
    save,
    save_json,
    save_photograph,
    write_dataset,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from imptool.data.export import segment_codes
from imptool.data.journal import Journal


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def regions(path: Path) -> dict[str, list[Region]]:
    """File name -> sorted instances of a COCO file, as pycocotools sees their masks; what the file says must be the same."""
    coco = COCO(path)
    rows = coco.dataset["annotations"]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    found: dict[int, list[Region]] = {image["id"]: [] for image in coco.dataset["images"]}
    for row in rows:
        rle = coco.annToRLE(row)
        box = coco_mask.toBbox(rle).tolist()
        assert (row["area"], row["bbox"]) == (coco_mask.area(rle), box)
        found[row["image_id"]].append(Region(row["category_id"], row["area"], tuple(box), row["iscrowd"]))
    return {image["file_name"]: sorted(found[image["id"]]) for image in coco.dataset["images"]}


def all_regions(folder: Path) -> dict[str, list[Region]]:
    """Of all splits."""
    return {name: rows for path in sorted(folder.glob("*.json")) for name, rows in regions(path).items()}


def masks(path: Path) -> list[Ids]:
    """The masks of a COCO file, in its order."""
    coco = COCO(path)
    return [coco.annToMask(row) for row in coco.dataset["annotations"]]


def codes_of(path: Path) -> Ids:
    """R + 256 G + 65536 B."""
    return ids_of(path).astype(np.int32) @ [1, 256, 65536]


def panoptic_rows(folder: Path) -> Iterator[tuple[dict[str, Any], Ids]]:
    """Each annotation of all splits of a panoptic result with its PNG's codes."""
    for path in sorted(folder.glob("*.json")):
        for row in read(path)["annotations"]:
            yield row, codes_of(path.with_suffix("") / row["file_name"])


def segments(folder: Path) -> dict[str, list[Region]]:
    """Stem -> sorted segments as the PNGs show them; what the JSON says must be the same."""
    found = {}
    for row, codes in panoptic_rows(folder):
        assert {segment["id"] for segment in row["segments_info"]} == set(np.unique(codes).tolist()) - {0}
        rows = []
        for segment in row["segments_info"]:
            ys, xs = np.nonzero(codes == segment["id"])
            box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
            assert (segment["area"], tuple(segment["bbox"])) == (len(xs), box)
            rows.append(Region(segment["category_id"], len(xs), box, segment["iscrowd"]))
        found[row["file_name"].removesuffix(".png")] = sorted(rows)
    return found


def maps_of_panoptic(folder: Path, *, void: int = 255) -> dict[str, Ids]:
    """Stem -> the class of each pixel."""
    maps = {}
    for row, codes in panoptic_rows(folder):
        ids = np.full(codes.shape, void)
        for segment in row["segments_info"]:
            ids[codes == segment["id"]] = segment["category_id"]
        maps[row["file_name"].removesuffix(".png")] = ids
    return maps


def maps_of_semantic(folder: Path) -> dict[str, Ids]:
    labels = folder / "labels"
    return {path.relative_to(labels).with_suffix("").as_posix(): ids_of(path) for path in sorted(labels.rglob("*.png"))}


def maps_of_coco(folder: Path, *, nothing: int) -> dict[str, Ids]:
    """File name -> the map that instances draw, none of which covers another."""
    maps: dict[str, Ids] = {}
    for path in sorted(folder.glob("*.json")):
        coco = COCO(path)
        for image in coco.dataset["images"]:
            ids = np.full((image["height"], image["width"]), nothing)
            for row in coco.loadAnns(coco.getAnnIds([image["id"]])):
                mask = coco.annToMask(row) == 1
                assert (ids[mask] == nothing).all()
                ids[mask] = row["category_id"]
            maps[image["file_name"]] = ids
    return maps


def assert_maps(found: dict[str, Ids], drawn: Drawn, *, by_photograph: bool = False) -> None:
    """`by_photograph`: the stems are those of the images' names under the set."""
    stems = {Path(drawn.file_names[stem]).with_suffix("").as_posix() if by_photograph else stem: stem for stem in drawn.maps}
    assert found.keys() == stems.keys()
    for name, stem in stems.items():
        np.testing.assert_array_equal(found[name], drawn.maps[stem], err_msg=stem)


def by_file_name(drawn: Drawn, of_stem: dict[str, list[Region]]) -> dict[str, list[Region]]:
    return {drawn.file_names[stem]: sorted(rows) for stem, rows in of_stem.items()}


# --- every layout into every format ---

every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
def test_coco_instances_are_those_counted_by_hand(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn))
    assert all_regions(MADE) == by_file_name(drawn, dict(drawn.instances))
    assert {path.stem for path in MADE.glob("*.json")} == drawn.splits.keys()
    for split, stems in drawn.splits.items():
        assert [image["file_name"] for image in read(MADE / f"{split}.json")["images"]] == [drawn.file_names[s] for s in stems]


@every_layout
def test_polygons_are_the_same_instances_as_rles(here: Path, layout: str) -> None:
    description = write_dataset(LAYOUTS[layout])
    convert(description)
    convert(description, "--segmentation", "polygon", out=Path("polygons"))
    assert all_regions(Path("polygons")) == all_regions(MADE)
    for path in MADE.glob("*.json"):
        rows = read(Path("polygons") / path.name)["annotations"]
        assert all(isinstance(row["segmentation"], dict if row["iscrowd"] else list) for row in rows)
        np.testing.assert_equal(masks(Path("polygons") / path.name), masks(path))


@every_layout
def test_panoptic_segments_are_those_counted_by_hand(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn), "--format", "panoptic")
    assert segments(MADE) == {stem: sorted(rows) for stem, rows in drawn.segments.items()}
    assert_maps(maps_of_panoptic(MADE), drawn)
    for path in MADE.glob("*.json"):
        named = {image["id"]: image["file_name"] for image in read(path)["images"]}
        for row in read(path)["annotations"]:
            assert named[row["image_id"]] == drawn.file_names[row["file_name"].removesuffix(".png")]


@every_layout
def test_semantic_maps_are_those_drawn_and_their_description_finds_them_again(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn), "--format", "semantic")
    assert_maps(maps_of_semantic(MADE), drawn)
    convert(MADE / "made.yaml", "--format", "semantic", out=Path("again"))
    assert files_in(Path("again", "labels")) == files_in(MADE / "labels")
    for split in drawn.splits:
        assert sorted((MADE / f"{split}.txt").read_text().splitlines()) == sorted(drawn.splits[split])
        assert Path("again", f"{split}.txt").read_text().splitlines() == sorted(drawn.splits[split])


@every_layout
def test_labels_without_any_photograph_stand_alone(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    description = write_dataset(drawn)
    for name in drawn.file_names.values():
        Path("set", name).unlink()
    for path in Path("set").rglob("*.jpg"):  # those without labels
        path.unlink()
    result = convert(description)
    assert "set has no images: sizes are those of the labels" in result.stdout
    found = [rows for _, rows in sorted(all_regions(MADE).items())]
    assert found == [sorted(drawn.instances[stem]) for stem in sorted(drawn.instances)]
    convert(description, "--format", "semantic", out=Path("maps"))
    convert(Path("maps/maps.yaml"), "--format", "semantic", out=Path("again"))
    assert_maps(maps_of_semantic(Path("again")), drawn)


@pytest.mark.parametrize("layout", ["voc", "coco", "cityscapes"])
def test_a_plain_folder_in_a_known_layout_needs_no_description(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    write_dataset(drawn).unlink()
    convert("set")
    assert all_regions(MADE) == by_file_name(drawn, dict(drawn.instances))


@every_layout
def test_two_runs_write_equal_bytes(here: Path, layout: str) -> None:
    description = write_dataset(LAYOUTS[layout])
    for format_ in ("coco", "panoptic", "semantic"):
        convert(description, "--format", format_, out=Path("one", "made"))
        convert(description, "--format", format_, out=Path("two", "made"))
        assert files_in(Path("one")) == files_in(Path("two"))
        for run in ("one", "two"):
            Path(run).rename(f"{run}-{format_}")


# --- round trips ---


@every_layout
def test_a_map_made_semantic_gives_components_that_draw_it_again(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn), "--format", "semantic")
    convert(MADE / "made.yaml", out=Path("instances"))
    nothing = {"coco": 2, "cityscapes": 255, "coco-panoptic": 255}.get(layout, 0)  # of two there is no background
    stems = {Path(file_name).name: stem for stem, file_name in drawn.file_names.items()}
    maps = maps_of_coco(Path("instances"), nothing=nothing)
    assert {Path(name).name for name in maps} == stems.keys()
    for name, ids in maps.items():
        truth = drawn.maps[stems[Path(name).name]]
        np.testing.assert_array_equal(ids, np.where(truth == 255, nothing, truth))


@every_layout
def test_a_map_made_panoptic_is_read_back_as_it_was(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn), "--format", "panoptic")
    Path("back.yaml").write_text("layout: coco-panoptic\nroot: ./made\n")
    convert("back.yaml", "--format", "semantic", out=Path("back"))
    assert_maps(maps_of_semantic(Path("back")), drawn, by_photograph=True)
    convert("back.yaml", "--format", "panoptic", out=Path("twice"))
    assert sorted(segments(Path("twice")).values()) == sorted(segments(MADE).values())


@every_layout
def test_every_segment_but_the_background_is_an_instance_again(here: Path, layout: str) -> None:
    drawn = LAYOUTS[layout]
    convert(write_dataset(drawn), "--format", "panoptic")
    Path("back.yaml").write_text("layout: coco-panoptic\nroot: ./made\n")
    convert("back.yaml", out=Path("back"))
    background = {"coco": 2, "cityscapes": None, "coco-panoptic": None}.get(layout, 0)
    visible = {stem: [row for row in rows if row.category != background] for stem, rows in drawn.segments.items()}
    assert all_regions(Path("back")) == by_file_name(drawn, visible)


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
def test_file_names_outlive_a_round_trip(here: Path, format_: str) -> None:
    """A result moved anywhere is a dataset whose images are named as before."""
    drawn = LAYOUTS["voc"]
    convert(write_dataset(drawn), "--format", format_)
    description = MADE / "made.yaml"
    if format_ != "semantic":
        description = Path("back.yaml")
        description.write_text(f"layout: {'coco' if format_ == 'coco' else 'coco-panoptic'}\nroot: ./made\n")
    convert(description, out=Path("back"))
    names = set(all_regions(Path("back")))
    assert names == set(drawn.file_names.values()) or (format_ == "semantic" and names == {"a.jpg", "b.jpg"})


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
        elements=st.sampled_from([0, 0, 1, 1, 2, 255]),
    )
)
def test_any_map_comes_back_from_every_format(tmp_path_factory: pytest.TempPathFactory, ids: Ids) -> None:
    root = tmp_path_factory.mktemp("map")
    save(root / "set" / "labels" / "a.png", ids)
    (root / "set" / "classes.txt").write_text("background\ncoat\nhat\n")
    convert(root / "set", "--segmentation", "polygon", out=root / "coco")
    (drawn_back,) = maps_of_coco(root / "coco", nothing=0).values()
    np.testing.assert_array_equal(drawn_back, np.where(ids == 255, 0, ids))
    assert {row["iscrowd"] for row in read(root / "coco" / "all.json")["annotations"]} <= {0}
    convert(root / "set", "--format", "panoptic", out=root / "panoptic")
    (root / "back.yaml").write_text("layout: coco-panoptic\nroot: ./panoptic\n")
    convert(root / "back.yaml", "--format", "semantic", out=root / "semantic")
    np.testing.assert_array_equal(maps_of_semantic(root / "semantic").popitem()[1], ids)
    convert(root / "semantic", out=root / "again")
    assert regions(root / "again" / "all.json").popitem()[1] == regions(root / "coco" / "all.json").popitem()[1]


def test_a_panoptic_map_of_void_alone_is_read_back(here: Path) -> None:
    save(Path("set/labels/a.png"), grid("## ##"))
    save(Path("set/labels/b.png"), grid("1. .#"))
    Path("set/classes.txt").write_text("background\ncoat\n")
    convert("set", "--format", "panoptic")
    Path("back.yaml").write_text("layout: coco-panoptic\nroot: ./made\n")
    convert("back.yaml", "--format", "semantic", out=Path("back"))
    np.testing.assert_equal(list(maps_of_semantic(Path("back")).values()), [grid("## ##"), grid("1. .#")])


# --- options ---


def test_components_part_true_instances_and_crowds(here: Path) -> None:
    convert(write_dataset(LAYOUTS["voc"]), "--components")
    assert regions(MADE / "train.json")["JPEGImages/a.jpg"] == [
        Region(1, 1, (7, 5, 1, 1)),
        Region(1, 6, (1, 1, 2, 3)),
        Region(1, 6, (3, 1, 2, 3)),
        Region(2, 1, (0, 5, 1, 1)),
        Region(2, 4, (7, 1, 2, 2)),
    ]


@every_layout
def test_no_component_is_a_crowd_and_each_is_connected(here: Path, layout: str) -> None:
    convert(write_dataset(LAYOUTS[layout]), "--components", "--connectivity", 4)
    for path in MADE.glob("*.json"):
        assert {row["iscrowd"] for row in read(path)["annotations"]} <= {0}
        assert {ndimage.label(mask)[1] for mask in masks(path)} <= {1}


def test_ids_that_a_remap_makes_one_class_are_one_component(here: Path) -> None:
    save(Path("set/labels/a.png"), grid("123 123 ..."))
    description = Path("set.yaml")
    description.write_text(
        "layout: folder\nroot: ./set\nremap: {2: 1, 3: 255}\nclasses: [{id: 0, name: background}, {id: 1, name: coat}]\n"
    )
    convert(description)
    assert regions(MADE / "all.json") == {"images/a.jpg": [Region(1, 4, (0, 0, 2, 2))]}


def test_simplify_tells_the_pixels_that_really_differ(here: Path) -> None:
    y, x = np.mgrid[:60, :80]
    ids = np.where((x - 30) ** 2 + (y - 30) ** 2 < 400, 1, 0) + np.where((x - 65) ** 2 / 3 + (y - 20) ** 2 < 60, 2, 0)
    save(Path("set/labels/round.png"), ids.astype(np.uint8))
    save(Path("set/labels/small.png"), grid("1.2 111 2.1"))
    Path("set/classes.txt").write_text("background\ncoat\nhat\n")
    convert("set")
    exact = masks(MADE / "all.json")
    told = []
    for tolerance in (0.5, 1, 3):
        out = Path(f"simple-{tolerance}")
        result = convert("set", "--segmentation", "polygon", "--simplify", tolerance, out=out)
        simple = masks(out / "all.json")
        regions(out / "all.json")  # areas and boxes are those of the polygons
        wrong = sum(int((a != b).sum()) for a, b in zip(exact, simple, strict=True))
        share = wrong / sum(int(mask.sum()) for mask in exact)
        assert f"--simplify {tolerance:g} px: {wrong:,} pixels lost or added, {share:.2%} of the instances" in result.stdout
        told.append(wrong)
    assert told[0] < told[1] < told[2]


def test_max_pixels_is_the_largest_size_that_is_taken(here: Path) -> None:
    save(Path("set/labels/a.png"), grid("11 .."))
    save(Path("set/labels/b.png"), grid("111 ..."))
    for listed in (True, False):
        out = Path(f"made-{listed}")
        result = convert("set", "--max-pixels", 5, out=out, code=1)
        assert "b.png is 2x3 (height x width), more than 5 pixels: --max-pixels 6 takes it" in result.stderr
        assert len(read(out / "all.json")["images"]) == 1
        convert("set", "--max-pixels", 6, "--force", out=out)
        assert len(read(out / "all.json")["images"]) == 2
        Path("set/classes.txt").write_text("background\ncoat\n")


def test_an_instance_hidden_under_others_is_no_segment_and_is_counted(here: Path) -> None:
    box = [[0, 0, 2, 0, 2, 2, 0, 2]]
    rows = [{"id": n, "image_id": 1, "category_id": 1, "segmentation": box} for n in (1, 2)]
    image = {"id": 1, "file_name": "a.jpg", "height": 3, "width": 3}
    save_json(Path("set/all.json"), {"images": [image], "annotations": rows, "categories": [{"id": 1, "name": "coat"}]})
    result = convert("set", "--format", "panoptic")
    assert segments(MADE) == {"a": [Region(0, 5, (0, 0, 3, 3)), Region(1, 4, (0, 0, 2, 2))]}
    assert "; 1 hidden under others" in result.stdout


def test_what_is_smaller_lies_above_in_semantic_and_panoptic_maps(here: Path) -> None:
    """A coat on a coat, and a print on it, which is no thing."""
    squares = [(1, 3), (1, 8), (2, 2)]  # category and side
    rows = [
        {"id": n, "image_id": 1, "category_id": category, "segmentation": [[0, 0, side, 0, side, side, 0, side]]}
        for n, (category, side) in enumerate(squares)
    ]
    categories = [{"id": 1, "name": "coat"}, {"id": 2, "name": "print", "isthing": 0}]
    image = {"id": 1, "file_name": "a.jpg", "height": 8, "width": 9}
    save_json(Path("set/all.json"), {"images": [image], "annotations": rows, "categories": categories})
    convert("set", "--format", "panoptic")
    assert segments(MADE) == {
        "a": [Region(0, 8, (8, 0, 1, 8)), Region(1, 5, (0, 0, 3, 3)), Region(1, 55, (0, 0, 8, 8)), Region(2, 4, (0, 0, 2, 2))]
    }
    convert("set", "--format", "semantic", out=Path("maps"))
    np.testing.assert_equal(maps_of_semantic(Path("maps")), maps_of_panoptic(MADE))


def test_all_segments_of_a_photograph_have_codes_of_their_own() -> None:
    codes = segment_codes(300_000)
    assert len(np.unique(codes)) == 300_000
    assert (codes.min() > 0, codes.max() < 2**24) == (True, True)


def test_source_ids_of_photographs_and_categories_are_kept(here: Path) -> None:
    convert(write_dataset(LAYOUTS["coco"]))
    document = read(MADE / "all.json")
    assert [image["id"] for image in document["images"]] == [0, 5, 9]
    assert [(row["id"], row["name"], row["supercategory"]) for row in document["categories"]] == [
        (0, "coat", ""),
        (1, "hat", "head"),
        (7, "bag", ""),
    ]


def test_photographs_elsewhere_are_named_under_their_own_folder(here: Path) -> None:
    save_photograph(Path("elsewhere/sub/a.png"), (2, 2))
    save(Path("set/labels/sub/a.png"), grid("11 .."))
    for place in (here / "elsewhere", "../elsewhere"):
        Path("set.yaml").write_text(f"layout: folder\nroot: ./set\nphotographs: {place}\n")
        convert("set.yaml", "--force")
        assert regions(MADE / "all.json") == {"sub/a.png": [Region(1, 2, (0, 0, 2, 1))]}


def test_photographs_whose_ids_two_files_share_get_their_own(here: Path) -> None:
    document = coco_document()
    for split in ("train", "val"):
        for image in document["images"]:
            image["file_name"] = f"{split}/{Path(image['file_name']).name}"
        save_json(Path(f"set/annotations/{split}.json"), document)
    convert("set")
    ids = [image["id"] for split in ("train", "val") for image in read(MADE / f"{split}.json")["images"]]
    assert sorted(ids) == [1, 2, 3, 4, 5, 6]


# --- stopped and taken up again ---


def write_many(root: Path, count: int) -> None:
    """A folder of `count` small images; their maps are of a dozen kinds, as few bytes are quick to copy."""
    rng = np.random.default_rng(0)
    save_photograph(root / "kind.png", (8, 9))
    photograph = (root / "kind.png").read_bytes()
    kinds = []
    for _ in range(12):
        save(root / "kind.png", rng.choice(np.array([0, 0, 1, 2, 255], np.uint8), (8, 9)))
        kinds.append((root / "kind.png").read_bytes())
    (root / "kind.png").unlink()
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(count):
        (root / "images" / f"{number:04d}.png").write_bytes(photograph)
        (root / "labels" / f"{number:04d}.png").write_bytes(kinds[number * 7 % 12])
    (root / "labels" / "0003.png").write_bytes(b"")  # what cannot be used is told by the run that goes on, too
    (root / "classes.txt").write_text("background\ncoat\nhat\n")


# What a shell runs in place of imptool: it is stopped while it keeps its third block of images.
STOPPED = """
import os, signal, sys
from imptool.cli import main
from imptool.data.export import segment_codes
from imptool.data.journal import Journal

keep = Journal.append

def stop(journal, block):
    if journal.blocks == 2:
        os.kill(os.getpid(), signal.{signal})
    keep(journal, block)

Journal.append = stop
main(sys.argv[1:])
"""


def run_stopped(how: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STOPPED.replace("{signal}", how), "convert-instances", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def stop_after(blocks: int, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Ctrl-C in a run, while it keeps a block of images."""
    keep = Journal.append

    def stop(journal: Journal, block: Any) -> None:
        if journal.blocks == blocks:
            raise KeyboardInterrupt
        keep(journal, block)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", stop)
        result = run_imptool("convert-instances", *arguments)
    assert (result.exit_code, result.stderr) == (130, "stopped; the same command with --resume goes on\n")


@pytest.mark.parametrize("format_", ["coco", "panoptic"])
def test_a_killed_conversion_goes_on_to_the_same_bytes(here: Path, format_: str) -> None:
    write_many(Path("set"), 300)
    whole = convert("set", "--format", format_, out=Path("whole"), code=1)
    killed = run_stopped("SIGKILL", "set", "--format", format_, "--out", "made")
    assert killed.returncode == -signal.SIGKILL
    assert not (MADE / "all.json").exists()
    refused = convert("set", "--format", format_, code=2)
    assert "is an unfinished conversion: add --resume to go on with it, or --force to start over" in refused.stderr
    resumed = convert("set", "--format", format_, "--resume", code=1)
    assert "all: going on after 128 of 300" in resumed.stdout
    assert files_in(MADE) == files_in(Path("whole"))
    assert resumed.stderr == whole.stderr
    assert resumed.stdout.replace("made", "whole").endswith(whole.stdout[whole.stdout.index("Instances of") :])


def test_ctrl_c_is_one_line_and_the_conversion_goes_on_to_the_same_bytes(here: Path) -> None:
    write_many(Path("set"), 300)
    convert("set", out=Path("whole"), code=1)
    stopped = run_stopped("SIGINT", "set", "--out", "made")
    assert (stopped.returncode, stopped.stderr) == (130, "stopped; the same command with --resume goes on\n")
    convert("set", "--resume", code=1)
    assert files_in(MADE) == files_in(Path("whole"))


@pytest.mark.parametrize("format_", ["coco", "panoptic", "semantic"])
def test_a_journal_cut_anywhere_gives_the_same_bytes(here: Path, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    write_many(Path("set"), 150)
    arguments = ("set", "--format", format_)
    whole, made = Path("whole/made"), Path("stopped/made")
    convert(*arguments, out=whole, code=1)
    stop_after(2, monkeypatch, *arguments, "--out", made)
    (journal,) = made.glob(".converting-*/*.lines")
    kept = journal.read_bytes()
    header, first = kept.index(b"\n") + 1, kept.index(b"\nt") + 2
    lengths = {
        0,
        1,
        header - 1,
        header,
        header + 1,
        first,
        kept.index(b"\n", first),
        kept.index(b"\n", first) + 1,
        len(kept) - 1,
    }
    rng = np.random.default_rng(0)
    for length in sorted({*lengths, *rng.integers(0, len(kept), 3).tolist()} if format_ == "coco" else {header, first}):
        journal.parent.mkdir(exist_ok=True)
        for path in made.glob("*.*"):
            if path.is_file():
                path.unlink()
        journal.write_bytes(kept[:length])
        convert(*arguments, "--resume", out=made, code=1)
        assert files_in(made) == files_in(whole), f"cut at {length} of {len(kept)}"


@pytest.mark.parametrize("change", ["a label", "an option", "the class list"])
def test_a_stopped_conversion_of_something_else_is_not_taken_up(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write_many(Path("set"), 150)
    stop_after(1, monkeypatch, "set", "--out", "made")
    options: tuple[object, ...] = ()
    if change == "a label":
        save(Path("set/labels/0000.png"), grid("111111111"))
    elif change == "an option":
        options = ("--min-area", 2)
    else:
        Path("set/classes.txt").write_text("background\ncoat\nskirt\n")
    result = convert("set", *options, "--resume", code=2)
    assert "is an unfinished conversion with other options, labels or images: add --force to start over" in result.stderr
    convert("set", *options, "--force", code=1)
    assert len(read(MADE / "all.json")["images"]) == (148 if change == "a label" else 149)


@pytest.mark.parametrize(
    "damage", [b"no header\n", b"h\n", b"h\xff\n", b"\0" * 4096, b"{kept}.no tally\n", b"{kept}.3\n", b"{kept}\0\0\n"]
)
def test_a_damaged_journal_is_begun_anew_or_told(here: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    write_many(Path("set"), 70)
    convert("set", out=Path("whole"), code=1)
    stop_after(1, monkeypatch, "set", "--out", "made")
    (journal,) = MADE.glob(".converting-*/*.lines")
    journal.write_bytes(damage.replace(b"{kept}", journal.read_bytes()))
    result = run_imptool("convert-instances", "set", "--resume", "--out", MADE)
    assert isinstance(result.exception, SystemExit), result.exception
    assert len(result.stderr.splitlines()) == (2 if result.exit_code == 1 else 1)
    if result.exit_code == 1:
        assert files_in(MADE) == files_in(Path("whole"))


def test_resume_after_the_end_does_nothing_and_resume_of_nothing_begins(here: Path) -> None:
    description = write_dataset(LAYOUTS["voc"])
    convert(description, "--resume")
    before = files_in(MADE)
    result = convert(description, "--resume")
    assert "made: complete already, there is nothing to go on with; --force replaces it" in result.stdout
    assert files_in(MADE) == before


def test_two_processes_write_the_bytes_of_one(here: Path) -> None:
    write_many(Path("set"), 1100)
    convert("set", "--workers", 1, code=1)
    convert("set", "--workers", 2, out=Path("two"), code=1)
    assert files_in(Path("two")) == files_in(MADE)


# --- real samples ---


@pytest.fixture
def samples(shared_data: Path, here: Path) -> Path:
    folder = shared_data / "formats"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def describe(root: Path, text: str) -> Path:
    Path("set.yaml").write_text(f"root: {root}\n{text}")
    return Path("set.yaml")


def test_cocos_panoptic_sample_keeps_every_segment(samples: Path) -> None:
    root = samples / "coco_panoptic" / "sample_data"
    description = describe(root, "layout: coco-panoptic\nannotations: {val: panoptic_examples.json}\n")
    convert(description, "--format", "panoptic")
    source = read(root / "panoptic_examples.json")
    truth = {
        row["file_name"].removesuffix(".png"): sorted(
            Region(segment["category_id"], segment["area"], tuple(segment["bbox"]), segment["iscrowd"])
            for segment in row["segments_info"]
        )
        for row in source["annotations"]
    }
    assert segments(MADE) == truth
    assert sorted(map(len, truth.values())) == [18, 32]
    convert(description, "--format", "semantic", out=Path("maps"))
    maps = maps_of_semantic(Path("maps"))
    voids = sorted(int((ids == 255).sum()) for ids in maps.values())
    assert voids == [2712, 7189]
    for stem, ids in maps.items():  # the same in another form: R is the category
        category = ids_of(root / "panoptic_examples_2ch_format" / f"{stem}.png")[..., 0]
        np.testing.assert_array_equal(ids, np.where(category == 0, 255, category))


def test_the_things_of_cocos_panoptic_sample_are_those_of_its_detection_file(samples: Path) -> None:
    root = samples / "coco_panoptic" / "sample_data"
    convert(describe(root, "layout: coco-panoptic\nannotations: {val: panoptic_examples.json}\n"))
    detection, ours = read(root / "panoptic_coco_detection_format.json"), read(MADE / "val.json")
    things = {row["id"] for row in read(root / "panoptic_examples.json")["categories"] if row["isthing"]}

    def rows(document: dict[str, Any]) -> Counter[tuple[Any, ...]]:
        keys = ("image_id", "category_id", "area", "iscrowd")
        return Counter(
            (*(row[key] for key in keys), row["segmentation"]["counts"])
            for row in document["annotations"]
            if row["category_id"] in things
        )

    assert rows(ours) == rows(detection)
    assert {image["id"] for image in ours["images"]} == {142238, 439180}


def test_deeplabs_panoptic_cityscapes_needs_neither_images_nor_categories(samples: Path) -> None:
    root = samples / "deeplab2" / "data" / "testdata" / "gtFine"
    name = "cityscapes_panoptic_dummy_trainId"
    convert(describe(root, f"layout: coco-panoptic\nannotations: {{val: {name}.json}}\n"), "--format", "panoptic")
    (row,) = read(root / f"{name}.json")["annotations"]
    (found,) = segments(MADE).values()
    assert [(region.category, region.area, region.crowd) for region in found] == sorted(
        (segment["category_id"], segment["area"], segment["iscrowd"]) for segment in row["segments_info"]
    )
    assert (len(found), sum(region.area for region in found)) == (10, 639429)


def test_deeplabs_grey_maps_with_alpha_give_the_ids_of_its_readme(samples: Path) -> None:
    root = samples / "deeplab2" / "evaluation" / "testdata"
    Path("bird/labels").mkdir(parents=True)
    Path("bird/labels/bird.png").symlink_to(root / "bird_gt.png")
    classes = "classes: [{id: 3, name: tree}, {id: 4, name: bird}, {id: 5, name: sky}]\n"
    text = f"layout: folder\nremap: {{92: 5, 176: 3, 255: 4}}\n{classes}"
    convert(describe(Path("bird").absolute(), text), "--format", "semantic")
    grey = ids_of(root / "bird_gt.png")[..., 0]
    truth = np.select([grey == 92, grey == 176, grey == 255], [5, 3, 4])
    np.testing.assert_array_equal(maps_of_semantic(MADE)["bird"], truth)


def test_deeplabs_coloured_maps_give_the_classes_of_its_readme(samples: Path) -> None:
    root = samples / "deeplab2" / "evaluation" / "testdata"
    colours = {
        0: (0, 0, 0),
        1: (0, 0, 255),
        2: (255, 0, 0),
        3: (0, 255, 0),
        4: (255, 0, 255),
        5: (0, 255, 255),
        6: (255, 255, 0),
    }
    stated = ", ".join(f"{class_id}: {list(colour)}" for class_id, colour in colours.items())
    classes = ", ".join(f"{{id: {class_id}, name: class {class_id}}}" for class_id in colours)
    text = f"layout: folder\nlabels: .\nsuffixes: [_input.jpg, _pred_class.png]\ncolours: {{{stated}}}\nclasses: [{classes}]\n"
    convert(describe(root, text), "--format", "semantic")
    maps = maps_of_semantic(MADE)
    assert maps.keys() == {"bird", "cat", "team"}
    for stem, ids in maps.items():
        pixels = ids_of(root / f"{stem}_pred_class.png")[..., :3]
        np.testing.assert_array_equal(np.array(list(colours.values()))[ids], pixels)
    assert {stem: set(np.unique(ids).tolist()) for stem, ids in maps.items()} == {
        "bird": {0, 3, 4, 5},
        "cat": {0, 6},
        "team": {0, 1, 2},
    }


def test_mmsegs_sample_is_paired_by_suffixes_and_split_by_its_lists(samples: Path) -> None:
    root = samples / "mmseg_pseudo" / "tests" / "data" / "pseudo_dataset"
    text = (
        "layout: folder\nphotographs: imgs\nlabels: gts\nsuffixes: [_img.jpg, _gt.png]\nbackground: null\n"
        "splits: {train: splits/train.txt, val: splits/val.txt}\n"
    )
    description = describe(root, text)
    result = convert(description)
    assert "train.json: 4 images" in result.stdout
    assert [image["file_name"] for image in read(MADE / "val.json")["images"]] == ["imgs/00004_img.jpg"]
    for name, ids in maps_of_coco(MADE, nothing=255).items():
        np.testing.assert_array_equal(ids, ids_of(root / "gts" / f"{Path(name).name.removesuffix('_img.jpg')}_gt.png"))


def test_ades_sample_has_15_classes_and_no_photographs(samples: Path) -> None:
    root = samples / "ade_sceneparsing" / "sampleData"
    result = convert(describe(root, "layout: folder\nlabels: annotations\n"))
    assert "15 classes, background 0" in result.stdout
    for name, ids in maps_of_coco(MADE, nothing=0).items():
        np.testing.assert_array_equal(ids, ids_of(root / "annotations" / f"{Path(name).stem}.png"))


def test_palette_maps_of_human_parsing_keep_their_ids(samples: Path) -> None:
    root = samples / "schp_palettes" / "mhp_extension"
    convert(describe(root, "layout: folder\nlabels: demo\n"), "--format", "semantic")
    maps = maps_of_semantic(MADE)
    assert len(maps) == 3
    for stem, ids in maps.items():
        np.testing.assert_array_equal(ids, ids_of(root / "demo" / f"{stem}.png"))
    assert set(np.unique(maps["demo_instance_human_mask"]).tolist()) == set(range(5))


def test_fashionpedias_sample_keeps_ids_categories_and_masks(shared_data: Path, here: Path) -> None:
    path = shared_data / "photos" / "fashionpedia_sample" / "sample.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    convert(describe(path.parent, f"layout: coco\nannotations: {{all: {path.name}}}\n"))
    source, ours = COCO(path), COCO(MADE / "all.json")
    assert [(row["id"], row["name"]) for row in ours.dataset["categories"]] == [
        (row["id"], row["name"]) for row in source.dataset["categories"]
    ]
    assert len(ours.dataset["annotations"]) == len(source.dataset["annotations"]) == 12
    for image in source.dataset["images"]:
        theirs = [(row["category_id"], source.annToMask(row)) for row in source.loadAnns(source.getAnnIds([image["id"]]))]
        found = [(row["category_id"], ours.annToMask(row)) for row in ours.loadAnns(ours.getAnnIds([image["id"]]))]
        assert [category for category, _ in found] == [category for category, _ in theirs]
        np.testing.assert_equal([mask for _, mask in found], [mask for _, mask in theirs])
