"""Dataset descriptions and layouts: what is found on disk, which ids and splits it becomes, and every mistake in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imptool.data.dataset import Dataset, find_dataset_here, load_dataset
from imptool.data.label_set import LabelSet
from imptool.files import RECIPES, InputError

DRAWN = "layout: folder\nroot: drawn\n"

# Images that were annotated twice, and one pair of neighbouring shots.
CCP_PAIRS = [
    ("0594", "0722"),
    ("0183", "0730"),
    ("0907", "0990"),
    ("0197", "0671"),
    ("0078", "0984"),
    ("0692", "0732"),
    ("0223", "0616"),
]
CCP_VAL_BEGINS = ["0016", "0017", "0020", "0026", "0036", "0043"]


def described(text: str) -> Dataset:
    Path("set.yaml").write_text(text)
    return load_dataset("set.yaml")


def stems(dataset: Dataset, split: str) -> list[str]:
    return [item.stem for item in dataset.split(split)]


def touch_photo(path: Path, size: tuple[int, ...] = (4, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


def save_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def plain_folder(root: Path, ids: np.ndarray | None = None) -> Path:
    """A folder of one pair, without a class list."""
    ids = np.array([[0, 1], [3, 255]], np.uint8) if ids is None else ids
    touch_photo(root / "images" / "a.png", ids.shape[:2])
    save_ids(root / "labels" / "a.png", ids)
    return root


# --- Clothing Co-Parsing ---


@pytest.fixture
def ccp(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("IMPTOOL_DATA", str(shared_data))
    return load_dataset("ccp")


def test_ccp_has_780_photographs_to_train_and_120_to_validate(ccp: Dataset) -> None:
    train, val = set(stems(ccp, "train")), set(stems(ccp, "val"))
    assert (len(train), len(val), len(train & val)) == (780, 120, 0)
    assert train | val == {path.stem for path in (ccp.root / "labels").glob("*.png")}
    assert not [item for items in ccp.splits.values() for item in items if item.problem]


def test_ccp_keeps_photographs_annotated_twice_on_one_side(ccp: Dataset) -> None:
    train = set(stems(ccp, "train"))
    assert [pair for pair in CCP_PAIRS if (pair[0] in train) != (pair[1] in train)] == []


def test_ccps_split_is_the_published_one(ccp: Dataset) -> None:
    """Results are compared across machines and versions: these stems may never change."""
    assert stems(ccp, "val")[:6] == CCP_VAL_BEGINS
    assert stems(load_dataset(RECIPES / "datasets" / "ccp.yaml"), "val") == stems(ccp, "val")


def test_ccps_remap_is_the_published_grouping_row_by_row(ccp: Dataset, shared_data: Path) -> None:
    with (shared_data / "ccp" / "map15.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 59
    assert dict(ccp.remap) == {int(row["id"]): int(row["group_id"]) for row in rows}
    names = dict(zip(ccp.labels.ids, ccp.labels.names, strict=True))
    assert {names.get(int(row["group_id"]), "ignore") == row["group_name"] for row in rows} == {True}


def test_read_labels_gives_the_remapped_map(ccp: Dataset, shared_data: Path) -> None:
    table = np.loadtxt(shared_data / "ccp" / "map15.csv", delimiter=",", skiprows=1, usecols=2, dtype=np.uint16)
    for item in ccp.split("val")[:3]:
        source = np.asarray(Image.open(shared_data / "ccp" / "labels" / f"{item.stem}.png"))
        np.testing.assert_array_equal(ccp.read_labels(item), table[source])


def test_ccp_as_a_plain_folder_takes_its_59_tags_from_label_list(shared_data: Path) -> None:
    dataset = load_dataset(shared_data / "ccp")
    listed = (shared_data / "ccp" / "label_list.txt").read_text().split()
    assert dataset.labels.names == listed
    assert (len(listed), dataset.labels.background, len(dataset.split("all"))) == (59, 0, 900)


def test_ccp_as_published_reads_mats_and_leaves_photographs_with_tags_only_out(tmp_path: Path) -> None:
    ids = np.array([[0, 14, 14], [41, 0, 7]], np.uint8)
    for stem in ("0001", "0002", "0003"):
        touch_photo(tmp_path / "ccp" / "photos" / f"{stem}.jpg", ids.shape)
    for kind, kept in (("pixel-level", ("0001", "0003")), ("image-level", ("0002",))):
        (tmp_path / "ccp" / "annotations" / kind).mkdir(parents=True)
        for stem in kept:
            scipy.io.savemat(tmp_path / "ccp" / "annotations" / kind / f"{stem}.mat", {"groundtruth": ids, "tags": ids})
    (tmp_path / "set.yaml").write_text("layout: ccp\nroot: ./ccp\nremap: {7: 255}\n")
    dataset = load_dataset(tmp_path / "set.yaml")
    assert stems(dataset, "all") == ["0001", "0003"]
    np.testing.assert_array_equal(dataset.read_labels(dataset.split("all")[0]), [[0, 14, 14], [41, 0, 255]])


def test_ccp_without_a_class_list_leaves_maps_of_impossible_ids_to_their_turn(tmp_path: Path) -> None:
    (tmp_path / "pixel-level").mkdir()
    for stem, value in (("1", 3), ("2", 70000), ("3", -5)):
        touch_photo(tmp_path / "photos" / f"{stem}.jpg", (1, 2))
        scipy.io.savemat(tmp_path / "pixel-level" / f"{stem}.mat", {"groundtruth": np.array([[0, value]], np.int32)})
    (tmp_path / "set.yaml").write_text("layout: ccp\nroot: .\n")
    dataset = load_dataset(tmp_path / "set.yaml")
    assert dataset.labels.ids == [0, 3]
    with pytest.raises(InputError, match=r"2\.mat holds ids outside 0\.\.65535"):
        dataset.read_labels(dataset.split("all")[1])


# --- folders ---


def test_a_folder_with_a_class_list_is_a_dataset(workplace: Path) -> None:
    dataset = load_dataset("data/drawn")
    assert (dataset.name, dataset.labels.names, dataset.labels.background) == ("drawn", ["background", "coat", "hat"], 0)
    assert stems(dataset, "all") == ["000", "001", "002", "003", "004", "005"]
    with Image.open("data/drawn/labels/003.png") as truth:
        np.testing.assert_array_equal(dataset.read_labels(dataset.split("all")[3]), np.asarray(truth))


def test_a_folder_without_a_class_list_gets_a_class_for_every_id_that_occurs(tmp_path: Path) -> None:
    dataset = load_dataset(plain_folder(tmp_path))
    assert (dataset.labels.ids, dataset.labels.background, dataset.labels.ignore) == ([0, 1, 3], 0, 255)
    assert dataset.read_labels(dataset.split("all")[0]).tolist() == [[0, 1], [3, 255]]


def test_a_folder_may_call_its_photographs_photos_and_its_classes_label_list(tmp_path: Path) -> None:
    root = plain_folder(tmp_path)
    (root / "images").rename(root / "photos")
    (root / "label_list.txt").write_text("\ufeffnull\r\nshirt\r\nshoe\r\nhat\r\n\r\n", encoding="utf-8")
    dataset = load_dataset(root)
    assert (dataset.labels.names, dataset.labels.background) == (["null", "shirt", "shoe", "hat"], 0)
    assert dataset.split("all")[0].image == root / "photos" / "a.png"


def test_a_class_list_whose_first_class_is_no_background_has_none(tmp_path: Path) -> None:
    (plain_folder(tmp_path) / "classes.txt").write_text("road\nlane\nbus\nsky\n")
    labels = load_dataset(tmp_path).labels
    assert (labels.background, labels.foreground, labels.things) == (None, [0, 1, 2, 3], [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"background\n\ncoat\n", "has an empty line 2"),
        (b"\n", "has an empty line 1"),
        (b"background\nr\xe9d\n", "is not UTF-8 text"),
        (b"coat\ncoat\n", "the name coat is there twice"),
        (b"background\n", "there is no class but the background"),
    ],
)
def test_a_wrong_class_list_is_told_in_one_line(tmp_path: Path, text: bytes, line: str) -> None:
    (plain_folder(tmp_path) / "classes.txt").write_bytes(text)
    with pytest.raises(InputError, match=line):
        load_dataset(tmp_path)


def test_subfolders_are_followed_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for stem in ("a", "dresses/a", "dresses/summer/b.1"):
        touch_photo(tmp_path / "images" / f"{stem}.jpg")
        save_ids(tmp_path / "labels" / f"{stem}.png", np.ones((4, 6), np.uint8))
    save_ids(tmp_path / "labels" / ".thumbs" / "a.png", np.ones((1, 1), np.uint8))
    (tmp_path / "labels" / "dresses" / "a.png").rename(tmp_path / "labels" / "dresses" / "a.PNG")
    items = load_dataset(tmp_path).split("all")
    assert [(item.stem, item.label.name, item.problem) for item in items] == [
        ("a", "a.png", ""),
        ("dresses/a", "a.PNG", ""),
        ("dresses/summer/b.1", "b.1.png", ""),
    ]


def test_what_is_wrong_with_a_pair_is_told_by_both_names(tmp_path: Path) -> None:
    plain_folder(tmp_path)
    touch_photo(tmp_path / "images" / "a.jpg")
    touch_photo(tmp_path / "images" / "alone.jpg")
    save_ids(tmp_path / "labels" / "lost.png", np.ones((4, 6), np.uint8))
    dataset = load_dataset(tmp_path)
    problems = {item.stem: item.problem for item in dataset.split("all") if item.problem}
    assert problems == {
        "a": f"{tmp_path}/images/a.png has the same stem as a.jpg: rename one of them",
        "alone": f"{tmp_path}/images/alone.jpg has no label map: expected {tmp_path}/labels/alone.png",
        "lost": f"{tmp_path}/labels/lost.png has no image: expected {tmp_path}/images/lost.jpg or .png",
    }
    for item in dataset.split("all"):
        if item.problem:
            with pytest.raises(InputError, match=item.stem):
                dataset.read_labels(item)


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        (np.zeros((5, 6), np.uint8), r"a\.png is 5x6, its image a\.png is 4x6 \(height x width\)"),
        (np.full((4, 6), 2, np.uint8), r"a\.png holds id 2, not in the class list of .*: add or remap it"),
        (np.zeros((4, 6, 3), np.uint8), r"a\.png is a colour picture"),
    ],
)
def test_a_label_map_that_does_not_fit_is_told_by_name(tmp_path: Path, ids: np.ndarray, line: str) -> None:
    touch_photo(tmp_path / "images" / "a.png")
    save_ids(tmp_path / "labels" / "a.png", ids)
    (tmp_path / "classes.txt").write_text("background\ncoat\n")
    dataset = load_dataset(tmp_path)
    with pytest.raises(InputError, match=line):
        dataset.read_labels(dataset.split("all")[0])


def test_an_ids_line_names_the_unknown_ones(tmp_path: Path) -> None:
    plain_folder(tmp_path, np.array([[0, 1, 7, 9]], np.uint8))
    (tmp_path / "classes.txt").write_text("background\ncoat\n")
    dataset = load_dataset(tmp_path)
    with pytest.raises(InputError, match="holds id 7, 9, not in"):
        dataset.read_labels(dataset.split("all")[0])


@pytest.mark.parametrize(
    ("made", "line"),
    [
        ((), "has no folder labels/: expected PNGs with the stems of images/ in it"),
        (("images",), "has no folder labels/: expected PNGs with the stems of images/ in it"),
        (("images", "labels"), "has no images"),
    ],
)
def test_a_folder_that_is_no_dataset_says_what_is_missing(tmp_path: Path, made: tuple[str, ...], line: str) -> None:
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=line):
        load_dataset(tmp_path)


def test_a_folder_of_colour_maps_without_a_class_list_says_so(tmp_path: Path) -> None:
    plain_folder(tmp_path, np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"none of the 1 label maps can be used; the first: .*a\.png is a colour picture"):
        load_dataset(tmp_path)


def test_the_dataset_here_is_its_yaml_before_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no dataset in .*name one, such as path/to/dataset"):
        find_dataset_here(tmp_path)
    plain_folder(tmp_path)
    (tmp_path / "other.yaml").write_text("dataset: something else\n")
    assert find_dataset_here(tmp_path) == tmp_path
    (tmp_path / "mine.yml").write_text("layout: folder\nroot: .\n")
    assert find_dataset_here(tmp_path) == tmp_path / "mine.yml"
    (tmp_path / "more.yaml").write_text("layout: folder\nroot: .\n")
    with pytest.raises(InputError, match=r"several dataset YAMLs in .* \(mine\.yml, more\.yaml\): name one"):
        find_dataset_here(tmp_path)


# --- YAMLs ---


def test_a_root_is_under_data_under_imptool_data_or_beside_the_yaml(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert described(DRAWN).root.resolve() == workplace / "data" / "drawn"
    (workplace / "data").rename(workplace / "elsewhere")
    monkeypatch.setenv("IMPTOOL_DATA", str(workplace / "elsewhere"))
    assert described(DRAWN).root == workplace / "elsewhere" / "drawn"
    assert described(f"layout: folder\nroot: {workplace}/elsewhere/drawn\n").root == workplace / "elsewhere" / "drawn"
    (workplace / "elsewhere" / "beside.yaml").write_text("layout: folder\nroot: ./drawn\n")
    assert load_dataset(workplace / "elsewhere" / "beside.yaml").root == workplace / "elsewhere" / "drawn"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (DRAWN + "layot: folder\n", "unknown key 'layot'; did you mean 'layout'?"),
        (DRAWN + "classes: [{id: 0, nam: coat}]\n", "classes.0: unknown key 'nam'; did you mean 'name'?"),
        ("layout: foldr\nroot: drawn\n", "unknown layout 'foldr'; did you mean 'folder'?"),
        ("layout: folder\n", "root: Field required"),
        (DRAWN + "root: drawn\n", "is not valid YAML: line 1: the key 'root' is there twice"),
        ("- layout\n", "must hold 'key: value' lines, found list"),
        (DRAWN + "classes: [\n", "is not valid YAML"),
        (DRAWN + "name: 2026-02-30\n", "is not valid YAML: line 3: '2026-02-30' is not of the type timestamp"),
        ("layout: folder\nroot: drwan\n", "set IMPTOOL_DATA to the folder that holds drwan/, or write ./drwan"),
        ("layout: folder\nroot: /nowhere/drawn\n", "root: no folder /nowhere/drawn"),
        (DRAWN + "classes: [{id: 0, name: no}]\n", "classes.0.name: Input should be a valid string, found False"),
        (DRAWN + "classes: [{id: 1, name: a}, {id: 1, name: b}]\n", "classes: the id 1 is there twice"),
        (DRAWN + "classes: [{id: 1, name: a}, {id: 2, name: a}]\n", "classes: the name a is there twice"),
        (DRAWN + "classes: [{id: 70000, name: a}]\n", "classes.0.id: Input should be less than or equal to 65535"),
        (DRAWN + "ignore: 1\n", "the ignore id 1 is also a class (coat): set another 'ignore'"),
        (DRAWN + "background: 9\n", "background: 9 is not among the class ids"),
        (DRAWN + "remap: {1: 9}\n", "remap: 9 is neither a class id nor the ignore id 255"),
        (DRAWN + "remap: {70000: 1}\n", "remap.70000: Input should be less than or equal to 65535"),
        (DRAWN + "remap: {-1: 1}\n", "remap.-1: Input should be greater than or equal to 0"),
        (DRAWN + "name: ../drawn\n", "'../drawn' becomes part of a file's name"),
        (DRAWN + "splits: {/tmp/x: train.txt}\n", "'/tmp/x' becomes part of a file's name"),
        (DRAWN + 'splits: {train: "no\\0ne.txt"}\n', "cannot be read as a list of stems: embedded null byte"),
        (DRAWN + f"classes: {'[' * 10_000}\n", "is not valid YAML: it is nested too deeply"),
        (DRAWN + "remap: {1: 70000}\n", "remap.1: Input should be less than or equal to 65535"),
        (DRAWN + "splits: {train: none.txt}\n", "none.txt cannot be read as a list of stems: No such file or directory"),
        (DRAWN + "splits: {train: some.txt}\n", "some.txt: no image or label map of the stem 007 and 1 more"),
        (DRAWN + "splits: {}\n", "splits: Dictionary should have at least 1 item"),
        (
            DRAWN + "splits: {a: some.txt}\nrandom_splits: {seed: 1, sizes: {a: 1}, rest: b}\n",
            "give splits or random_splits, not both",
        ),
        (DRAWN + "random_splits: {seed: 1, sizes: {val: 7}, rest: train}\n", "sizes ask for 7 of 6 images"),
        (
            DRAWN + "random_splits: {seed: 1, sizes: {val: 0}, rest: train}\n",
            "random_splits.sizes.val: Input should be greater",
        ),
        (DRAWN + "left_right: [[1, 9]]\n", "left_right: 9 is no class id"),
        (DRAWN + "left_right: [[0, 1]]\n", "left_right: 0 is no class id, or the background's"),
        (DRAWN + "left_right: [[1, 1]]\n", "left_right: 1 is there twice"),
        (DRAWN + "left_right: [[1]]\n", "at least 2 items"),
        (
            DRAWN + "random_splits: {seed: 1, sizes: {val: 2.5}, rest: train}\n",
            "val: 2.5 is neither a whole number of images nor a share below 1",
        ),
        (DRAWN + "random_splits: {seed: 1, sizes: {val: 1}, rest: val}\n", "rest: 'val' has a size already"),
        (
            DRAWN + "random_splits: {seed: 1, sizes: {val: 1}, rest: a, together: [['000', '001'], ['001', '002']]}\n",
            "together: '001' is there twice",
        ),
    ],
)
def test_a_mistake_in_a_yaml_is_one_line_that_names_the_file(workplace: Path, text: str, line: str) -> None:
    (workplace / "data" / "drawn" / "some.txt").write_text("000\n007\n.\n")
    with pytest.raises(InputError) as raised:
        described(text)
    message = str(raised.value)
    assert line in message
    assert "\n" not in message
    assert any(name in message for name in ("set.yaml", "some.txt", "none.txt", "no\0ne.txt"))


def test_an_unknown_dataset_names_the_nearest(workplace: Path) -> None:
    with pytest.raises(InputError, match=r"ccpp is no dataset YAML, folder or known name; did you mean 'ccp'\?"):
        load_dataset("ccpp")


def test_an_unknown_or_empty_split_is_one_line(workplace: Path) -> None:
    (workplace / "data" / "drawn" / "none.txt").write_text("\n")
    dataset = described(DRAWN + "splits: {train: none.txt}\n")
    with pytest.raises(InputError, match=r"set\.yaml: the split 'train' is empty"):
        dataset.split("train")
    with pytest.raises(InputError, match=r"set\.yaml has no split 'trian'; did you mean 'train'\?"):
        dataset.split("trian")


def test_a_list_file_names_stems_with_or_without_suffix(workplace: Path) -> None:
    (workplace / "data" / "drawn" / "train.txt").write_text("\ufeff003.jpg\r\n\r\n001\r\n003\r\n", encoding="utf-8")
    assert stems(described(DRAWN + "splits: {train: train.txt}\n"), "train") == ["001", "003"]


def test_a_background_written_as_null_is_none_whatever_the_classes_are_called(workplace: Path) -> None:
    assert described(DRAWN).labels.background == 0
    labels = described(DRAWN + "background: null\n").labels
    assert (labels.background, labels.names[0], labels.foreground) == (None, "background", [0, 1, 2])


def test_classes_keep_their_order_with_the_background_first(workplace: Path) -> None:
    labels = described(
        DRAWN + "classes: [{id: 2, name: hat}, {id: 7, name: skin, thing: false}, {id: 0, name: floor}, {id: 1, name: coat}]\n"
        "background: 0\nignore: 9\n"
    ).labels
    assert (labels.ids, labels.foreground, labels.things) == ([0, 2, 7, 1], [1, 2, 3], [1, 3])
    assert labels.to_channels(np.array([[0, 1, 2], [7, 9, 9]])).tolist() == [[0, 3, 1], [2, 255, 255]]
    assert labels.to_ids(np.array([0, 1, 2, 3])).tolist() == [0, 2, 7, 1]
    assert LabelSet.from_plain(labels.to_plain()) == labels


def test_a_remap_may_merge_and_ignore_and_leaves_other_ids_alone(workplace: Path) -> None:
    dataset = described(DRAWN + "remap: {1: 2, 2: 255}\n")
    item = dataset.split("all")[0]
    with Image.open(item.label) as image:
        source = np.asarray(image)
    np.testing.assert_array_equal(dataset.read_labels(item), np.array([0, 2, 255])[source])


# --- random splits ---


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_random_splits_part_the_photographs_and_keep_groups_together(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("set")
    names = [f"{n:02d}" for n in range(data.draw(st.integers(2, 9)))]
    for name in names:
        for kind in ("images", "labels"):
            (root / kind).mkdir(exist_ok=True)
            (root / kind / f"{name}.png").touch()  # names are all that is read
    (root / "classes.txt").write_text("background\ncoat\n")
    shuffled = data.draw(st.permutations(names))
    cut = data.draw(st.integers(0, len(names)))
    groups = [list(shuffled[:cut][n : n + 2]) for n in range(0, cut, 2)]
    sizes = {"val": data.draw(st.integers(1, len(names)))}
    rule = f"{{seed: {data.draw(st.integers(0, 99))}, sizes: {sizes}, rest: train, together: {groups}}}"
    (root / "set.yaml").write_text(f"layout: folder\nroot: .\nrandom_splits: {rule}\n")
    dataset = load_dataset(root / "set.yaml")
    val, train = ([item.stem for item in dataset.splits[name]] for name in ("val", "train"))
    assert sorted([*val, *train]) == names
    assert (val, train) == (sorted(val), sorted(train))
    assert len(val) <= sizes["val"]
    assert len(val) >= sizes["val"] - 1  # a pair that does not fit waits
    assert all(len({stem in val for stem in group}) == 1 for group in groups)


def test_stems_that_no_photograph_has_are_noted_where_they_should_stay_together(workplace: Path) -> None:
    rule = "random_splits: {{seed: 1, sizes: {{val: 2}}, rest: train, together: [['000', '{}'], ['001', '{}']]}}\n"
    assert described(DRAWN + rule.format("002", "003")).notes == ()
    note = described(DRAWN + rule.format("02", "0O3")).notes[0]
    assert note == "set.yaml: random_splits: together: no image has the stem 02 and 1 more"


def test_a_file_more_does_not_reshuffle_a_random_split(workplace: Path) -> None:
    text = DRAWN + "random_splits: {seed: 5, sizes: {val: 2}, rest: train}\n"
    before = set(stems(described(text), "val"))
    for kind in ("images", "labels"):
        source = workplace / "data" / "drawn" / kind
        (source / "006.png").write_bytes((source / "005.png").read_bytes())
    assert len(before & set(stems(described(text), "val"))) >= 1


def test_splits_that_share_a_photograph_are_refused(workplace: Path) -> None:
    (workplace / "data" / "drawn" / "a.txt").write_text("000\n001")
    (workplace / "data" / "drawn" / "b.txt").write_text("001\n002")
    (workplace / "both.yaml").write_text("layout: folder\nroot: drawn\nsplits: {train: a.txt, val: b.txt}\n")
    with pytest.raises(InputError, match=r"both\.yaml: splits: 001 is in two of them"):
        load_dataset("both.yaml")


def test_a_folder_with_a_dataset_yaml_is_what_that_describes(tmp_path: Path) -> None:
    plain_folder(tmp_path)
    assert load_dataset(tmp_path).splits.keys() == {"all"}
    (tmp_path / "described.yaml").write_text(
        "layout: folder\nroot: .\nrandom_splits: {seed: 0, sizes: {val: 1}, rest: train}\n"
    )
    assert load_dataset(tmp_path).name == "described"
    assert load_dataset(tmp_path).splits.keys() == {"val", "train"}
    (tmp_path / "more.yaml").write_text("layout: folder\nroot: .\n")
    with pytest.raises(InputError, match="name one"):
        load_dataset(tmp_path)
