"""Class lists of annotation tools: which id is called what, which colour is which id, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imptool.data.dataset import Dataset, load_dataset
from imptool.files import InputError, dump_yaml, parse_yaml

IDS = np.array([[0, 1, 2, 3]], np.uint8)
NAMES = {0: "background", 1: "shirt", 2: "pants", 3: "bag"}
COLOURS = np.array([[[0, 0, 0], [10, 20, 30], [128, 128, 128], [255, 0, 1]]], np.uint8)  # of the ids 0 to 3
CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nshirt:10,20,30:arm,hem:\npants:128,128,128::walk\nbag:255,0,1::\n"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder_of(root: Path, ids: np.ndarray = IDS) -> Path:
    """Layout folder, of one pair and without a class list."""
    save(root / "images" / "a.png", np.zeros((*ids.shape[:2], 3), np.uint8))
    save(root / "labels" / "a.png", ids)
    return root


def voc_of(root: Path, ids: np.ndarray = IDS) -> Path:
    """Layout voc, of one pair and without a class list."""
    save(root / "JPEGImages" / "a.jpg", np.zeros((*ids.shape[:2], 3), np.uint8))
    save(root / "SegmentationClass" / "a.png", ids)
    return root


def named(dataset: Dataset) -> dict[int, str]:
    return dict(zip(dataset.labels.ids, dataset.labels.names, strict=True))


def read(dataset: Dataset, item: int = 0) -> list[list[int]]:
    return dataset.read_labels(next(iter(dataset.splits.values()))[item]).tolist()


@pytest.mark.parametrize("make", [folder_of, voc_of])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names.txt", "_background_\nshirt\npants\nbag"),  # labelme2voc
        ("labels.txt", "__ignore__\n_background_\nshirt\npants\nbag\n"),  # labelme: the first has the id -1
        ("labels.txt", "background\nshirt\npants\nbag\n"),
        ("labelmap.txt", CVAT),  # of label maps that hold ids
        ("obj.names", "background\nshirt\npants\nbag\n"),
        ("obj.names", "shirt\npants\nbag\n"),  # YOLO counts without the background
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, shirt\n2, pants\n3, bag\n"),  # Roboflow
        ("Labels.TXT", "background\nshirt\npants\nbag\n"),
    ],
)
def test_the_names_that_annotation_tools_write_are_read(tmp_path: Path, make, name: str, text: str) -> None:  # type: ignore[no-untyped-def]
    (make(tmp_path) / name).write_text(text)
    dataset = load_dataset(tmp_path)
    expected = {0: "_background_", 1: "shirt", 2: "pants", 3: "bag"} if "_background_" in text else NAMES
    assert (named(dataset), dataset.labels.background) == (expected, 0)
    assert read(dataset) == IDS.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "0 background\n1 shirt\n2 pants\n3 bag\n",
        "0: background\n1: shirt\n2: pants\n3: bag\n",
        "\ufeff0,background\r\n1,shirt\r\n\r\n2,pants\r\n3,bag\r\n",
        "0\tbackground\n1\tshirt\n2\tpants\n3\tbag\n",
        "0. background\n1. shirt\n2. pants\n3. bag\n",
        "[0] background\n[1] shirt\n[2] pants\n[3] bag\n",
        "0 -> background\n1 -> shirt\n2 -> pants\n3 -> bag\n",
        "3 bag\n1 shirt\n0 background\n2 pants\n255 void\n-1 __ignore__\n",
        "1 shirt\n2 pants\n3 bag\n",
        "id;name\n0;background\n1;shirt\n2;pants\n3;bag\n",
        "background: 0\nshirt: 1\npants: 2\nbag: 3\n",
        "background 0\nshirt 1\npants 2\nbag 3\n",
        "# my classes\nbackground\nshirt  # all of them\npants\nbag\n\n",
        "// my classes\n; of 2026\nbackground\nshirt\npants\nbag\n",
    ],
)
def test_ids_and_comments_in_a_class_list_are_no_part_of_the_names(tmp_path: Path, text: str) -> None:
    (folder_of(tmp_path) / "classes.txt").write_bytes(text.encode())
    dataset = load_dataset(tmp_path)
    assert {class_id: named(dataset)[class_id] for class_id in sorted(named(dataset))} == NAMES
    assert dataset.labels.background == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("background\n2 piece suit\n3d glasses\n", ["background", "2 piece suit", "3d glasses"]),
        ("background\nplayer #1\nplayer #2\n", ["background", "player #1", "player #2"]),
        ("class 0\nclass 1\nclass 2\n", ["class 0", "class 1", "class 2"]),
        ("background\nscarf, shawl\nbow: tie\n", ["background", "scarf, shawl", "bow: tie"]),
    ],
)
def test_names_with_digits_and_signs_stay_as_they_are(tmp_path: Path, text: str, names: list[str]) -> None:
    (folder_of(tmp_path, np.array([[0, 1, 2]], np.uint8)) / "classes.txt").write_text(text)
    assert load_dataset(tmp_path).labels.names == names


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "0 background\n1 shirt\npants\nbag\n",
            "line 3 ('pants') has no id, others have: write an id before every name or none",
        ),
        ("0,background,stuff\n1,shirt,thing\n", "line 1 ('0,background,stuff') holds more than an id and a name"),
        ("background 0 0 0\nshirt 10 20 30\n", "line 1 ('background 0 0 0') holds a colour"),
        ("0 0 0 background\n10 20 30 shirt\n", "line 1 ('0 0 0 background') holds a colour"),
        ("0,background,#000000\n1,shirt,#0a141e\n", "line 1 ('0,background,#000000') holds a colour"),
        ("background, shirt, pants, bag\n", "is not one name: write one name a line"),
        ('[\n"background",\n"shirt"\n]\n', "is not one name: write one name a line"),
        ("0 background\n70000 shirt\n", "the id 70000 ('shirt') is none"),
        ("a:0,0,0::\nb:0,0,0::\n", "line 2 ('b:0,0,0::') has a colour over 255, or that of another line"),
        ("a:0,0,0::\nb:::\n", "some lines have a colour and some have none"),
        ("0 background\n1 shirt\n1 bag\n", "the id 1 is there twice ('shirt' and 'bag'): give each class its own"),
        ("background\0\nshirt\n", "is not UTF-8 text, as it holds NULs"),
        ("% my classes\nbackground\nshirt\n", "line 2 ('background') has the background, and not as the name of id 0"),
        ("0x0 background\n0x1 shirt\n", "line 1 ('0x0 background') has the background, and not as the name of id 0"),
        ("- background\n- shirt\n", "line 1 ('- background') is not one name"),
        ("# my classes\n", "comments alone: write one name a line"),
    ],
)
def test_a_class_list_that_could_mean_two_things_is_refused_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    (folder_of(tmp_path) / "classes.txt").write_text(text)
    with pytest.raises(InputError) as raised:
        load_dataset(tmp_path)
    assert f"{tmp_path}/classes.txt" in str(raised.value)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [folder_of, voc_of])
@pytest.mark.parametrize("palette", [False, True])
def test_the_colours_of_cvats_labelmap_are_those_of_the_label_maps(tmp_path: Path, make, palette: bool) -> None:  # type: ignore[no-untyped-def]
    (make(tmp_path, COLOURS) / "labelmap.txt").write_text(CVAT)
    if palette:
        (label,) = [path for name in ("labels", "SegmentationClass") for path in (tmp_path / name).glob("*.png")]
        with Image.open(label) as image:
            image.quantize(16, dither=Image.Dither.NONE).save(label)  # another tool shrinks the file: the indices are no ids
    dataset = load_dataset(tmp_path)
    assert named(dataset) == NAMES
    assert read(dataset) == IDS.tolist()


def test_a_labelmap_in_any_order_has_black_for_its_background_and_ignored_for_no_class(tmp_path: Path) -> None:
    colours = np.concatenate([COLOURS, [[[224, 224, 192]]]], axis=1).astype(np.uint8)
    text = "bag:255,0,1::\nignored:224,224,192::\nnothing:0,0,0::\npants:128,128,128::\nshirt:10,20,30::\n"
    (voc_of(tmp_path, colours) / "labelmap.txt").write_text(text)
    dataset = load_dataset(tmp_path)
    assert dataset.labels.names == ["nothing", "bag", "pants", "shirt"]
    assert [dataset.labels.names[channel] for channel in dataset.labels.foreground] == ["bag", "pants", "shirt"]
    found = [named(dataset).get(class_id, "ignored") for class_id in read(dataset)[0]]
    assert found == ["nothing", "shirt", "pants", "bag", "ignored"]


def test_a_labelmap_without_black_has_it_for_the_background(tmp_path: Path) -> None:
    (folder_of(tmp_path, COLOURS) / "labelmap.txt").write_text(CVAT.replace("background:0,0,0::\n", ""))
    dataset = load_dataset(tmp_path)
    assert [named(dataset)[class_id] for class_id in read(dataset)[0]] == ["background", "shirt", "pants", "bag"]
    assert dataset.labels.names[0] == "background"


def test_a_colour_that_labelmap_does_not_state_is_told_with_its_file(tmp_path: Path) -> None:
    (folder_of(tmp_path, COLOURS) / "labelmap.txt").write_text(CVAT.replace("bag:255,0,1::\n", ""))
    with pytest.raises(InputError, match=r"a\.png holds the colour \[255, 0, 1\], which labelmap\.txt does not state"):
        read(load_dataset(tmp_path))


@pytest.mark.parametrize("layout", ["folder", "voc"])
def test_stated_colours_are_read_in_layouts_of_label_maps(tmp_path: Path, layout: str) -> None:
    (folder_of if layout == "folder" else voc_of)(tmp_path / "set", COLOURS)
    classes = ", ".join(f"{{id: {class_id}, name: {name}}}" for class_id, name in NAMES.items())
    colours = ", ".join(f"{class_id}: {COLOURS[0, class_id].tolist()}" for class_id in NAMES)
    text = f"layout: {layout}\nroot: ./set\nclasses: [{classes}]\ncolours: {{{colours}}}\n"
    (tmp_path / "set.yaml").write_text(text)
    assert read(load_dataset(tmp_path / "set.yaml")) == IDS.tolist()


def test_coloured_instances_are_told_apart_by_their_colours(tmp_path: Path) -> None:
    """Two shirts that touch: 3 and 2 pixels, counted by hand. Pure red has the code 255, which is no border here."""
    (voc_of(tmp_path, COLOURS[:, [1, 1, 1, 1, 1, 0]]) / "labelmap.txt").write_text(CVAT)
    red, green, black = (255, 0, 0), (0, 128, 0), (0, 0, 0)
    save(tmp_path / "SegmentationObject" / "a.png", np.array([[red, red, red, green, green, black]], np.uint8))
    dataset = load_dataset(tmp_path)
    found = dataset.read_instances(dataset.split("all")[0], connectivity=8, components=False)
    assert sorted(zip(found.class_ids.tolist(), found.areas.tolist(), strict=True)) == [(1, 2), (1, 3)]
    assert not found.crowd.any()


def test_vocs_names_are_taken_where_there_is_no_other_list_and_that_is_said(tmp_path: Path) -> None:
    dataset = load_dataset(voc_of(tmp_path))
    assert named(dataset)[1] == "aeroplane"
    (remark,) = dataset.remarks
    assert "has no class list" in remark
    assert "the names are those of voc as published (background, aeroplane, bicycle, ...)" in remark
    (tmp_path / "classes.txt").write_text("background\nshirt\npants\nbag\n")
    assert load_dataset(tmp_path).remarks == ()


def test_classes_called_by_their_ids_are_said_to_be(tmp_path: Path) -> None:
    (remark,) = load_dataset(folder_of(tmp_path)).remarks
    assert "has no class list (classes.txt, " in remark


def test_a_list_without_a_background_is_said_to_have_none(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "classes.txt").write_text("shirt\npants\nbag\nbelt\n")
    (remark,) = load_dataset(tmp_path).remarks
    assert "classes.txt does not begin with the background: 'shirt' is id 0" in remark


@pytest.mark.parametrize(
    "name", ["class_dict.csv", "label_map.pbtxt", "categories.json", "data.yaml", "coco.names", "my-labels.txt"]
)
def test_a_file_that_looks_like_a_class_list_and_is_not_read_is_named(tmp_path: Path, name: str) -> None:
    (folder_of(tmp_path) / name).write_text("shirt")
    (tmp_path / "class_weights.txt").write_text("0.5")
    remarks = load_dataset(tmp_path).remarks
    (remark,) = [line for line in remarks if "looks like a class list" in line]
    assert f"not read, though it looks like a class list: {tmp_path}/{name}; save its names as classes.txt" in remark


def test_a_class_list_beside_the_label_maps_is_found(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save(tmp_path / "set" / split / "a.jpg", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / "set" / split / "a_mask.png", IDS)
        (tmp_path / "set" / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, shirt\n2, pants\n3, bag\n"
        )
    text = "layout: folder\nroot: ./set\nphotographs: .\nlabels: .\nsuffixes: [.jpg, _mask.png]\n"
    (tmp_path / "set.yaml").write_text(f"{text}splits: {{train: train/, val: valid/}}\n")
    assert named(load_dataset(tmp_path / "set.yaml")) == NAMES
    (tmp_path / "set" / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, coat\n")
    with pytest.raises(
        InputError, match=r"train/_classes\.csv and .*valid/_classes\.csv contradict each other: id 1 is 'shirt'"
    ):
        load_dataset(tmp_path / "set.yaml")


def test_of_two_lists_that_contradict_each_other_the_description_names_one(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set")
    (root / "classes.txt").write_text("background\nshirt\npants\nbag\n")
    (root / "class_names.txt").write_text("_background_\nshirt\npants\nbag\n")
    assert named(load_dataset(root)) == NAMES  # the background is called this and that
    (root / "class_names.txt").write_text("background\ncoat\npants\nbag\n")
    with pytest.raises(
        InputError, match=r"contradict each other: id 1 is 'shirt' in the first, 'coat' in the second: .*class_list"
    ):
        load_dataset(root)
    (tmp_path / "set.yaml").write_text("layout: folder\nroot: ./set\nclass_list: class_names.txt\n")
    assert named(load_dataset(tmp_path / "set.yaml"))[1] == "coat"
    (tmp_path / "set.yaml").write_text("layout: folder\nroot: ./set\nclass_list: none.txt\n")
    with pytest.raises(InputError, match=r"set\.yaml: class_list: no file .*none\.txt"):
        load_dataset(tmp_path / "set.yaml")


def test_a_name_that_is_there_twice_is_told_with_the_way_to_merge(tmp_path: Path) -> None:
    (folder_of(tmp_path / "set") / "classes.txt").write_text("background\nshirt\npants\nshirt\n")
    with pytest.raises(InputError, match=r"the name shirt is there twice \(ids 1 and 3\).*\(remap: \{3: 1\}\)"):
        load_dataset(tmp_path / "set")
    merged = "classes: [{id: 0, name: background}, {id: 1, name: shirt}, {id: 2, name: pants}]\nremap: {3: 1}\n"
    (tmp_path / "set.yaml").write_text(f"layout: folder\nroot: ./set\n{merged}")  # as the line says
    assert read(load_dataset(tmp_path / "set.yaml")) == [[0, 1, 2, 1]]


@pytest.mark.parametrize(
    ("remap", "expected"),
    [
        ("{default: 255}", [[0, 1, 2, 255, 255]]),
        ("{9: 1, default: 0}", [[0, 1, 2, 0, 1]]),
        ("{1: 2, default: 255}", [[0, 2, 2, 255, 255]]),
    ],
)
def test_a_remap_may_say_what_becomes_of_all_other_ids(tmp_path: Path, remap: str, expected: list[list[int]]) -> None:
    root = folder_of(tmp_path / "set", np.array([[0, 1, 2, 7, 9]], np.uint8))
    (root / "classes.txt").write_text("background\nshirt\npants\n")
    (tmp_path / "set.yaml").write_text(f"layout: folder\nroot: ./set\nremap: {remap}\n")
    dataset = load_dataset(tmp_path / "set.yaml")
    assert read(dataset) == expected
    channels = dataset.read_channels(dataset.split("all")[0]).tolist()
    assert channels == expected  # ids are channels here, and the ignored ones stay 255


def test_without_a_class_list_a_remap_with_a_default_says_which_classes_there_are(tmp_path: Path) -> None:
    folder_of(tmp_path / "set", np.array([[0, 1, 2, 7, 9]], np.uint8))
    (tmp_path / "set.yaml").write_text("layout: folder\nroot: ./set\nremap: {1: 1, 7: 5, default: 255}\n")
    dataset = load_dataset(tmp_path / "set.yaml")
    assert dataset.labels.ids == [0, 1, 5]
    assert read(dataset) == [[0, 1, 255, 5, 255]]


@pytest.mark.parametrize("remap", ["{defualt: 255}", "{default: 7}", "{'1': 2}"])
def test_a_remap_from_no_id_or_to_no_class_is_one_line(tmp_path: Path, remap: str) -> None:
    (folder_of(tmp_path / "set") / "classes.txt").write_text("background\nshirt\npants\nbag\n")
    (tmp_path / "set.yaml").write_text(f"layout: folder\nroot: ./set\nremap: {remap}\n")
    with pytest.raises(InputError, match=r"set\.yaml: remap"):
        load_dataset(tmp_path / "set.yaml")


def test_a_line_that_lists_ids_says_how_many_more_there_are(tmp_path: Path) -> None:
    (folder_of(tmp_path, np.arange(12, dtype=np.uint8)[None]) / "classes.txt").write_text("background\nshirt\n")
    with pytest.raises(InputError, match="holds id 2, 3, 4, 5, 6 and 5 more, not in the class list"):
        read(load_dataset(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        "images/a b.png labels/a b.png",
        "images/a b.png\tlabels/a b.png",
        "images/a b.png, labels/a b.png",
        "./images/a b.png",
        "images\\a b.png labels\\a b.png",
        "a b.png a b.png",
        "labels/a b images/a b",
        "a b",
    ],
)
@pytest.mark.parametrize("layout", ["folder", "voc"])
def test_a_split_list_may_have_the_photograph_and_its_label_map_in_two_columns(tmp_path: Path, line: str, layout: str) -> None:
    photographs, labels = ("images", "labels") if layout == "folder" else ("JPEGImages", "SegmentationClass")
    for stem in ("a b", "c"):
        save(tmp_path / photographs / f"{stem}.png", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / labels / f"{stem}.png", IDS)
    list_path = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    list_path.parent.mkdir(parents=True)
    list_path.write_text(line.replace("images", photographs).replace("labels", labels) + "\n")
    listed = "" if layout == "voc" else "splits: {train: ImageSets/Segmentation/train.txt}\n"
    (tmp_path / "set.yaml").write_text(f"layout: {layout}\nroot: .\n{listed}")
    assert [item.stem for item in load_dataset(tmp_path / "set.yaml").split("train")] == ["a b"]


@pytest.mark.parametrize("line", ["images/a.png labels/c.png", "a 1", "a -1", "a c", "images/b.png labels/b.png"])
def test_two_columns_that_are_no_pair_say_what_is_expected(tmp_path: Path, line: str) -> None:
    for stem in ("a", "c"):
        save(tmp_path / "images" / f"{stem}.png", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / "labels" / f"{stem}.png", IDS)
    (tmp_path / "train.txt").write_text(f"{line}\n")
    (tmp_path / "set.yaml").write_text("layout: folder\nroot: .\nsplits: {train: train.txt}\n")
    with pytest.raises(InputError, match=r"train\.txt: .*: expected one name a line, such as a, or .* in two columns"):
        load_dataset(tmp_path / "set.yaml")


def test_lines_of_vocs_lists_that_name_no_label_map_are_counted(tmp_path: Path) -> None:
    voc_of(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\n")
    assert any("2 of its 3 lines name no label map: b and 1 more" in remark for remark in load_dataset(tmp_path).remarks)


# --- YAML ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("1:30:00", "1:30:00"),
        ("-1:30.5", "-1:30.5"),
        ("010", "010"),  # 8 in YAML 1.1
        ("0016", "0016"),
        ("0o10", "0o10"),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("1_000", 1000),
        ("0xff", 255),
        ("1e-3", 0.001),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("+.0729", 0.0729),
        ("0.25", 0.25),
        ("-.inf", float("-inf")),
        ("1.", 1.0),
        ("no", False),
        ("null", None),
    ],
)
def test_yaml_has_the_numbers_that_people_mean(text: str, value: object) -> None:
    found = parse_yaml(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))
    assert parse_yaml(dump_yaml({"key": text})) == {"key": text}  # as text it is quoted


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ignore: 1:30", "set.yaml: ignore: Input should be a valid integer, found '1:30'"),
        ("ignore: 010", "set.yaml: ignore: Input should be a valid integer, found '010'"),
        ("remap: {1:30: 1}", "set.yaml: remap"),
        ("classes: [{id: 1, name: no}]", "classes.0.name: Input should be a valid string, found False: write it in quotes"),
        ("classes: [{id: 1, name: null}]", "classes.0.name: Input should be a valid string, found None: write it in quotes"),
        ("classes: [{id: 1, name: 1.10}]", "classes.0.name: Input should be a valid string, found 1.1: write it in quotes"),
        ("splits: {on: a.txt}", "Input should be a valid string, found True: write it in quotes"),
    ],
)
def test_a_value_that_yaml_takes_for_something_else_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    folder_of(tmp_path / "set")
    (tmp_path / "set.yaml").write_text(f"layout: folder\nroot: ./set\n{text}\n")
    with pytest.raises(InputError) as raised:
        load_dataset(tmp_path / "set.yaml")
    assert line in str(raised.value)


def test_stems_of_digits_stay_as_they_are_in_a_description(tmp_path: Path) -> None:
    for stem in ("0016", "010", "1:30"):
        save(tmp_path / "images" / f"{stem}.png", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / "labels" / f"{stem}.png", IDS)
    rule = "random_splits: {seed: 1, sizes: {val: 2}, rest: train, together: [[0016, 010]]}\n"
    (tmp_path / "set.yaml").write_text(f"layout: folder\nroot: .\n{rule}")
    assert load_dataset(tmp_path / "set.yaml").notes == ()


def test_an_unknown_layout_names_all_that_are_known(tmp_path: Path) -> None:
    folder_of(tmp_path / "set")
    (tmp_path / "set.yaml").write_text("layout: supervisely\nroot: ./set\n")
    with pytest.raises(
        InputError, match=r"unknown layout 'supervisely'; known: ccp, .*voc \(folder takes images and label maps"
    ):
        load_dataset(tmp_path / "set.yaml")


def test_a_folder_of_no_known_layout_says_what_it_holds_and_how_to_describe_it(tmp_path: Path) -> None:
    save(tmp_path / "imgs" / "a.png", np.zeros((1, 4, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", IDS)
    with pytest.raises(
        InputError, match=r"it holds imgs/, masks/: name the one of the label maps in a dataset YAML \(layout: folder"
    ):
        load_dataset(tmp_path)


def test_quotes_around_numbered_names_are_no_part_of_them(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "classes.txt").write_text("0 'background'\n1 \"shirt\"\n2 'pants'\n3 bag\n")
    labels = load_dataset(tmp_path).labels
    assert (labels.background, sorted(labels.names)) == (0, ["background", "bag", "pants", "shirt"])


@pytest.mark.parametrize("name", ["label_map.pbtxt", "codes.txt", "class_dict_seg.csv", "id2label.json"])
def test_vocs_names_are_not_taken_where_a_list_was_not_read(tmp_path: Path, name: str) -> None:
    (voc_of(tmp_path) / name).write_text("of some other form\n")
    dataset = load_dataset(tmp_path)
    assert "aeroplane" not in dataset.labels.names
    assert any(f"not read, though it looks like a class list: {tmp_path / name}" in line for line in dataset.remarks)
