"""Where images lie and what they are called: datasets as other tools unzip them, and names that differ from the disk's."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_imptool
from drawn_layouts import MADE, convert, grid, read, save, save_codes, save_json, save_photograph

from imptool.data.dataset import find_dataset_here, load_dataset
from imptool.data.images import IMAGE_SUFFIXES
from imptool.data.layouts.names import match_names
from imptool.prediction.photographs import find_photographs

SIZE = (4, 6)
NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_coco(path: Path, names: list[str]) -> None:
    """A JSON of images with a coat of 2 x 2 each."""
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for n, name in enumerate(names, start=1)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "segmentation": square} for n in range(1, len(names) + 1)],
        "categories": [{"id": 1, "name": "coat"}],
    }
    save_json(path, document)


def write_photographs(*paths: str) -> None:
    for path in paths:
        save_photograph(Path(path), SIZE)


def write_labels(*paths: str) -> None:
    for path in paths:
        save(Path(path), grid("...... .11... .11... ......"))


def pairs(source: str = "set") -> dict[str, list[tuple[str, str]]]:
    """{split: stem and image of each item}; all of them can be used."""
    dataset = load_dataset(source)
    assert dataset.has_photographs
    for items in dataset.splits.values():
        for item in items:
            dataset.read_labels(item)
    return {
        split: [(item.stem, item.image.relative_to("set").as_posix()) for item in items]
        for split, items in dataset.splits.items()
    }


def refusal(source: str = "set") -> str:
    """The one line that refuses a dataset, which never says that it has no images."""
    result = convert(source, code=2)
    (line,) = result.stderr.splitlines()
    assert "no images" not in result.output
    return line


# --- a folder for each split ---


def test_coco_as_downloaded_has_photographs_of_each_split_in_its_own_folder_and_captions_beside() -> None:
    write_photographs("set/train2017/1.jpg", "set/val2017/1.jpg")
    for split in ("train2017", "val2017"):
        write_coco(Path(f"set/annotations/instances_{split}.json"), ["1.jpg"])
        save_json(Path(f"set/annotations/captions_{split}.json"), {"images": [], "annotations": []})
        save_json(Path(f"set/annotations/person_keypoints_{split}.json"), {"images": [], "annotations": [], "categories": []})
    assert pairs() == {
        "instances_train2017": [("train2017/1", "train2017/1.jpg")],
        "instances_val2017": [("val2017/1", "val2017/1.jpg")],
    }


def test_roboflows_coco_has_a_json_beside_the_photographs_of_each_split() -> None:
    for split in ("train", "valid", "test"):
        write_coco(Path(f"set/{split}/_annotations.coco.json"), ["a.jpg"])
        write_photographs(f"set/{split}/a.jpg")
    assert pairs() == {split: [(f"{split}/a", f"{split}/a.jpg")] for split in ("test", "train", "valid")}
    assert find_dataset_here(Path("set")) == Path("set")


@pytest.mark.parametrize("subsets", [["default"], ["Train", "my_val"]])
def test_cvats_coco_has_a_folder_for_each_subset_in_images(subsets: list[str]) -> None:
    for subset in subsets:
        write_coco(Path(f"set/annotations/instances_{subset}.json"), ["a.jpg"])
        write_photographs(f"set/images/{subset}/a.jpg")
    stems = ["a"] if subsets == ["default"] else [f"{subset}/a" for subset in subsets]
    assert pairs() == {
        f"instances_{subset}": [(stem, f"images/{subset}/a.jpg")] for subset, stem in zip(subsets, stems, strict=True)
    }


@pytest.mark.parametrize("annotations", ["annotations: {train: a/first.json, val: a/second.json}\n", ""])
def test_a_description_names_a_folder_of_photographs_for_each_split(annotations: str) -> None:
    names = ("a/first.json", "a/second.json") if annotations else ("annotations/x_train.json", "annotations/x_val.json")
    for split, name in zip(("train", "val"), names, strict=True):
        write_coco(Path("set", name), ["same.jpg"])
        write_photographs(f"set/shots/{split}/same.jpg")
    Path("set.yaml").write_text(
        f"layout: coco\nroot: ./set\nphotographs: {{train: shots/train, val: shots/val}}\n{annotations}"
    )
    assert pairs("set.yaml") == {split: [(f"{split}/same", f"shots/{split}/same.jpg")] for split in ("train", "val")}


def test_label_maps_of_each_split_may_lie_in_folders_of_their_own() -> None:
    for split in ("train", "val"):
        write_photographs(f"set/{split}_images/a.jpg")
        write_labels(f"set/{split}_maps/a.png")
    text = "layout: folder\nroot: ./set\nphotographs: {train: train_images, val: val_images}\n"
    Path("set.yaml").write_text(f"{text}labels: {{train: train_maps, val: val_maps}}\n")
    assert pairs("set.yaml") == {split: [(f"{split}_images/a", f"{split}_images/a.jpg")] for split in ("train", "val")}
    Path("set.yaml").write_text(text)
    assert "name both for every split" in refusal("set.yaml")


def test_a_split_without_any_of_its_photographs_is_refused() -> None:
    write_photographs("set/train/a.jpg", "set/val/other.jpg")
    for split in ("train", "val"):
        write_coco(Path(f"set/annotations/{split}.json"), ["a.jpg" if split == "train" else "b.jpg"])
    line = refusal()
    assert "set/annotations/val.json" in line
    assert "b.jpg" in line


def test_a_json_of_another_kind_names_the_way_out() -> None:
    save_json(Path("set/annotations/info.json"), {"images": [], "annotations": []})
    write_coco(Path("set/annotations/instances_a.json"), ["a.jpg"])
    assert "annotations/info.json: has no list 'categories'" in refusal()
    assert "annotations: {train: annotations/instances_train.json}" in refusal()


# --- names that differ from those on disk ---

OTHER_NAMES = {  # as a file states it: as it is on disk
    "case": ("A.JPG", "a.jpg"),
    "composed": (f"{NFC}.jpg", f"{NFD}.jpg"),
    "decomposed": (f"{NFD}.jpg", f"{NFC}.jpg"),
    "backslash": ("more\\a.jpg", "more/a.jpg"),
    "backslash on disk": ("more/a.jpg", "more\\a.jpg"),
    "here": ("./a.jpg", "a.jpg"),
    "folder of another machine": ("data/images/a.jpg", "a.jpg"),
    "folder on disk": ("a.jpg", "more/a.jpg"),
}


@pytest.mark.parametrize("form", OTHER_NAMES)
def test_a_name_in_a_json_that_differs_in_form_is_found(form: str) -> None:
    stated, there = OTHER_NAMES[form]
    write_photographs(f"set/images/{there}", "set/images/other.jpg")
    write_coco(Path("set/all.json"), [stated, "other.jpg"])
    assert [image for _, image in pairs()["all"]] == [f"images/{there}", "images/other.jpg"]
    convert("set")
    assert [image["file_name"] for image in read(MADE / "all.json")["images"]] == [f"images/{there}", "images/other.jpg"]


@pytest.mark.parametrize("form", ["case", "composed", "decomposed", "folder of another machine", "folder on disk"])
@pytest.mark.parametrize("layout", ["folder", "voc"])
def test_a_stem_of_a_label_map_that_differs_in_form_is_paired(layout: str, form: str) -> None:
    photos, labels = ("images", "labels") if layout == "folder" else ("JPEGImages", "SegmentationClass")
    stated, there = OTHER_NAMES[form]
    write_photographs(f"set/{photos}/{there}", f"set/{photos}/other.jpg")
    write_labels(f"set/{labels}/{Path(stated).with_suffix('.png')}", f"set/{labels}/other.png")
    Path("set/classes.txt").write_text("background\ncoat\n")
    (found,) = pairs().values()
    assert sorted(found) == sorted([(there.removesuffix(".jpg"), f"{photos}/{there}"), ("other", f"{photos}/other.jpg")])


@pytest.mark.parametrize("form", OTHER_NAMES)
def test_a_panoptic_png_that_is_called_otherwise_on_disk_is_found(form: str) -> None:
    stated, there = (name.replace("jpg", "png").replace("JPG", "PNG") for name in OTHER_NAMES[form])
    save_codes(Path("set/annotations/val", there), np.full(SIZE, 7, np.int32))
    write_photographs("set/images/p.jpg")
    images = [{"id": 1, "file_name": "p.jpg", "height": SIZE[0], "width": SIZE[1]}]
    rows = [{"image_id": 1, "file_name": stated, "segments_info": [{"id": 7, "category_id": 1}]}]
    save_json(
        Path("set/annotations/val.json"), {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "coat"}]}
    )
    Path("set.yaml").write_text("layout: coco-panoptic\nroot: ./set\n")
    assert pairs("set.yaml") == {"val": [("p", "images/p.jpg")]}


@pytest.mark.parametrize("line", ["a", "A.JPG", "./a.jpg", "images/a", "images\\a.jpg", "/home/me/images/a.jpg"])
def test_a_split_list_may_name_photographs_in_other_forms(line: str) -> None:
    write_photographs("set/images/a.jpg", "set/images/b.jpg")
    write_labels("set/labels/a.png", "set/labels/b.png")
    Path("set/val.txt").write_text(f"{line}\n")
    Path("set.yaml").write_text("layout: folder\nroot: ./set\nsplits: {val: val.txt}\n")
    assert pairs("set.yaml") == {"val": [("a", "images/a.jpg")]}


def test_a_photograph_of_another_suffix_is_taken_and_listed() -> None:
    write_photographs("set/images/a.jpg", "set/images/b.jpg")
    write_coco(Path("set/all.json"), ["a.jpg", "b.png"])
    result = convert("set", code=1)
    assert "images/b.png is not there; set/images/b.jpg, of another suffix, is taken in its place" in result.stderr
    assert len(read(MADE / "all.json")["images"]) == 2


def test_a_name_that_fits_two_files_or_two_names_that_fit_one_are_told_and_not_guessed() -> None:
    write_photographs("set/images/x/a.jpg", "set/images/y/a.jpg", "set/images/c.Jpg", "set/images/ok.jpg")
    write_coco(Path("set/all.json"), ["a.jpg", "c.jpg", "C.JPG", "ok.jpg"])
    lines = convert("set", code=1).stderr.splitlines()[1:]
    assert len(lines) == 3
    assert "x/a.jpg and y/a.jpg fit equally" in lines[0]
    assert "c.Jpg fits another name as well" in lines[1]
    assert [image["file_name"] for image in read(MADE / "all.json")["images"]] == ["images/ok.jpg"]


@pytest.mark.parametrize("name", ["..\\secret.jpg", "C:\\images\\secret.jpg", "\\secret.jpg", "x\\..\\..\\secret.jpg"])
def test_no_backslash_leads_out_of_the_dataset(name: str) -> None:
    write_photographs("secret.jpg", "set/images/ok.jpg")
    write_coco(Path("set/all.json"), [name, "ok.jpg"])
    assert "leads out of the dataset" in convert("set", code=1).stderr


def test_names_are_matched_exactly_before_loosely() -> None:
    there = ["a.jpg", "A.jpg", "b.png", "more/b.jpg", "d/e/f.jpg", "f.jpg"]
    found, unclear = match_names(["A.jpg", "a.jpg", "b.jpg", "x/e/f.jpg", "d\\e\\f.jpg"], there)
    assert found == {
        "A.jpg": "A.jpg",
        "a.jpg": "a.jpg",
        "b.jpg": "more/b.jpg",
        "d\\e\\f.jpg": "d/e/f.jpg",
        "x/e/f.jpg": "f.jpg",
    }
    assert unclear == {}
    assert unicodedata.normalize("NFC", NFD) == NFC


def test_a_mask_deeper_than_its_photograph_is_not_taken_for_it() -> None:
    assert match_names(["a.jpg"], ["masks/a.png"]) == ({}, {})


# --- nothing fits ---


def test_a_coco_json_whose_photographs_are_called_otherwise_shows_what_was_expected_and_what_is_there() -> None:
    write_photographs("set/images/000.jpg")
    write_coco(Path("set/all.json"), ["a.jpg"])
    line = refusal()
    assert "expected set/images/a.jpg, there is set/images/000.jpg" in line


@pytest.mark.parametrize("layout", ["folder", "voc", "ccp"])
def test_label_maps_that_end_otherwise_are_told_with_the_setting_that_reads_them(layout: str) -> None:
    photos = {"folder": "images", "voc": "JPEGImages", "ccp": "photos"}[layout]
    labels = "SegmentationClass" if layout == "voc" else "labels"
    Path("it.yaml").write_text(f"layout: {layout}\nroot: ./set\n")
    write_photographs(f"set/{photos}/a.jpg", f"set/{photos}/b.jpg")
    write_labels(f"set/{labels}/a_mask.png", f"set/{labels}/b_mask.png")
    line = refusal("it.yaml")
    assert f"expected set/{labels}/a.png" in line
    assert f" for set/{photos}/a.jpg, there is set/{labels}/a_mask.png" in line
    advice = line.partition("(")[2].removesuffix(")").replace(", photographs", "\nphotographs")
    advice = advice.replace(", labels", "\nlabels").replace(", suffixes", "\nsuffixes")
    assert advice.splitlines()[-1] == "suffixes: [.jpg, _mask.png]"
    Path("set.yaml").write_text(f"root: ./set\n{advice}\n")
    assert [stem for stem, _ in pairs("set.yaml")["all"]] == ["a", "b"]


@pytest.mark.parametrize("listed", [True, False])
def test_label_maps_are_not_counted_as_photographs_and_photographs_not_as_label_maps(listed: bool) -> None:
    write_photographs("set/images/a.jpg", "set/images/b.jpg", "set/images/c.jpg")
    write_labels("set/labels/x.png")
    Path("set/labels/a.png").write_bytes(b"")
    if listed:
        Path("set/classes.txt").write_text("background\ncoat\n")
    assert ("none of its 3 images can be used" if listed else "none of the 2 label maps can be used") in refusal()


def test_jpeg_label_maps_are_told_to_be_saved_as_png() -> None:
    write_photographs("set/images/a.jpg", "set/labels/a.jpg")
    line = refusal()
    assert "expected set/labels/a.png for set/images/a.jpg, there is set/labels/a.jpg; JPEG and its like change ids" in line


def test_label_maps_in_a_folder_beside_the_one_that_is_read_are_named() -> None:
    write_photographs("set/JPEGImages/a.jpg")
    Path("set/SegmentationClass").mkdir()
    Path("set/SegmentationClass/a.npy").write_bytes(b"")
    write_labels("set/SegmentationClassPNG/a.png")
    line = refusal()
    assert "there is set/SegmentationClass/a.npy" in line
    assert "(layout: folder, photographs: JPEGImages, labels: SegmentationClassPNG)" in line


@pytest.mark.parametrize(
    ("photograph", "text"),
    [
        ("pics/a.jpg", "layout: folder\nroot: ./set\n"),
        ("images/a.jpg", "layout: folder\nroot: ./set\nsuffixes: [_img.jpg, .png]\n"),
    ],
)
def test_photographs_where_nobody_looks_are_told(photograph: str, text: str) -> None:
    write_photographs(f"set/{photograph}")
    write_labels("set/labels/a.png")
    Path("set.yaml").write_text(text)
    line = refusal("set.yaml")
    assert f"there is set/{photograph}" in line
    assert "expected set/images/a" in line


def test_cityscapes_with_photographs_of_another_suffix_shows_one() -> None:
    write_photographs("set/leftImg8bit/train/town/a_leftImg8bit.jpg")
    write_labels("set/gtFine/train/town/a_gtFine_labelTrainIds.png")
    assert "there is set/leftImg8bit/train/town/a_leftImg8bit.jpg" in refusal()


def test_images_that_cannot_be_used_for_their_rows_are_not_called_missing() -> None:
    write_photographs("set/images/a.jpg")
    write_coco(Path("set/all.json"), ["a.jpg"])
    document = read(Path("set/all.json"))
    document["images"][0]["height"] = 0
    document["annotations"] = []
    save_json(Path("set/all.json"), document)
    assert "height and width must be whole numbers above 0" in refusal()


def test_voc_lists_that_name_none_of_the_label_maps_are_refused() -> None:
    write_photographs("set/JPEGImages/a.jpg")
    write_labels("set/SegmentationClass/a.png")
    Path("set/ImageSets/Segmentation").mkdir(parents=True)
    Path("set/ImageSets/Segmentation/train.txt").write_text("x\n")
    assert "train.txt names no image with a label map: expected names such as a, there is x" in refusal()


def test_a_voc_folder_without_label_maps_is_one_line() -> None:
    Path("set/SegmentationClass").mkdir(parents=True)
    Path("set/ImageSets/Segmentation").mkdir(parents=True)
    Path("set/ImageSets/Segmentation/train.txt").write_text("a\n")
    assert "SegmentationClass has no label maps: expected PNGs with the stems of JPEGImages/" in refusal()


def test_a_split_list_of_other_names_shows_a_stem_that_is_there() -> None:
    write_photographs("set/images/a.jpg")
    write_labels("set/labels/a.png")
    Path("set/val.txt").write_text("x\n")
    Path("set.yaml").write_text("layout: folder\nroot: ./set\nsplits: {val: val.txt}\n")
    assert "no image or label map of the stem x: expected one name a line, such as a" in refusal("set.yaml")


# --- predict on a dataset ---


def parsed(*inputs: str) -> tuple[list[str], list[str]]:
    photographs, notes = find_photographs(inputs, Path("out"))
    return [photograph.file_name for photograph in photographs], notes


def test_of_a_dataset_its_photographs_are_parsed_and_its_label_maps_are_told() -> None:
    write_photographs("shop/set/images/a.png", "shop/set/images/b.jpg", "shop/other.png")
    write_labels("shop/set/labels/a.png", "shop/set/labels/b.png")
    names, notes = parsed("shop/set")
    assert names == ["images/a.png", "images/b.jpg"]
    assert notes == ["left out: 2 label maps of a dataset, such as shop/set/labels/a.png"]
    assert parsed("shop")[0] == ["other.png", "set/images/a.png", "set/images/b.jpg"]
    assert parsed("shop/set/**/*.*")[0] == ["images/a.png", "images/b.jpg"]
    assert parsed("shop/set/labels") == (["a.png", "b.png"], [])  # asked for


def test_of_a_described_dataset_the_photographs_are_parsed() -> None:
    write_photographs("set/a.jpg", "set/b.jpg")
    write_labels("set/a_mask.png", "set/b_mask.png")
    Path("set/set.yaml").write_text("layout: folder\nroot: .\nphotographs: .\nlabels: .\nsuffixes: [.jpg, _mask.png]\n")
    assert parsed("set")[0] == ["a.jpg", "b.jpg"]


def test_grey_and_palette_photographs_that_are_no_label_maps_are_parsed() -> None:
    write_labels("mine/labels/lonely.png", "mine/grey.png", "mine/images/more.png")
    assert parsed("mine") == (["grey.png", "images/more.png", "labels/lonely.png"], [])


def test_predict_says_what_it_leaves_out() -> None:
    write_photographs("set/images/a.jpg")
    write_labels("set/labels/a.png")
    result = run_imptool("predict", "set", "--weights", "nowhere")
    assert "note: left out: 1 label maps of a dataset, such as set/labels/a.png" in result.stdout


@pytest.mark.parametrize(
    ("photographs", "jsons"),
    [
        ("set/{}/data/1.jpg", "set/{}/labels.json"),  # FiftyOne
        ("set/{}/images/1.jpg", "set/{}/annotations/instances.json"),
        ("set/imgs/{}/1.jpg", "set/{}.json"),
        ("set/{}_images/1.jpg", "set/annotations/{}_annotations.json"),
    ],
)
def test_photographs_of_each_split_are_found_by_the_name_of_the_split(photographs: str, jsons: str) -> None:
    for split in ("train", "val"):
        write_photographs(photographs.format(split))
        write_coco(Path(jsons.format(split)), ["1.jpg"])
    images = [image for items in pairs().values() for _, image in items]
    assert images == [photographs.format(split).removeprefix("set/") for split in ("train", "val")]


def test_splits_that_list_the_same_names_say_how_to_name_their_folders() -> None:
    write_photographs("set/one/1.jpg", "set/two/1.jpg")
    for split in ("train", "val"):
        write_coco(Path(f"set/annotations/{split}.json"), ["1.jpg"])
    assert "val.json lists the images of another split (1.jpg)" in refusal()


def test_a_photograph_of_a_format_that_is_not_read_is_not_called_missing() -> None:
    write_photographs("set/images/1.jpg")
    Path("set/images/1.jpg").rename("set/images/1.heic")
    write_coco(Path("set/all.json"), ["1.jpg"])
    if ".heic" not in IMAGE_SUFFIXES:
        assert "there is set/images/1.heic, whose format is not read here" in refusal()


@pytest.mark.parametrize("name", ["a%20b.jpg", " a b.jpg", "a b.jpg "])
def test_a_name_with_escapes_or_blanks_around_is_found(name: str) -> None:
    write_photographs("set/images/a b.jpg")
    write_coco(Path("set/all.json"), [name])
    assert pairs() == {"all": [("a b", "images/a b.jpg")]}


def test_an_image_that_cannot_be_used_says_why_where_it_costs_all_annotations() -> None:
    write_photographs("set/images/a.jpg")
    write_coco(Path("set/all.json"), ["/data/upload/a.jpg"])
    assert "the file name '/data/upload/a.jpg' leads out of the dataset" in refusal()
