"""Generated outfits: pictures that depend on nothing but seed, number and size, in which every map agrees with the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from imptool.data.coco import decode_masks, read_coco
from imptool.data.dataset import load_dataset
from imptool.data.images import read_label_map
from imptool.outfits import CLASSES, TABLE_7, VERSION, draw_outfit
from imptool.outfits.paint import Canvas
from imptool.outfits.wardrobe import lay_out

NAMES = {info.id: info.name for info in CLASSES}
SIZE = (160, 112)


def _aspect(mask: np.ndarray) -> float:
    low, high = np.linalg.eigvalsh(np.cov(np.argwhere(mask).T))
    return float(np.sqrt(high / low))


@pytest.fixture(scope="module")
def outfits() -> list:
    return [draw_outfit(5, index, (240, 160)) for index in range(240)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 10**6), height=st.integers(32, 150), width=st.integers(32, 150))
def test_a_picture_depends_on_seed_number_and_size_alone(seed: int, index: int, height: int, width: int) -> None:
    first = draw_outfit(seed, index, (height, width))
    draw_outfit(seed + 1 if seed else 1, index, (64, 64))
    again = draw_outfit(seed, index, (height, width))
    assert first.image.shape == (height, width, 3)
    assert first.image.dtype == np.uint8
    assert first.labels.shape == first.instances.shape == (height, width)
    for name in ("image", "labels", "instances", "class_of_instance"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_other_numbers_and_seeds_give_other_pictures() -> None:
    digests = {hashlib.sha256(draw_outfit(seed, index, SIZE).image).hexdigest() for seed in (0, 1) for index in range(10)}
    assert len(digests) == 20


def test_every_pixel_has_the_class_of_its_garment(outfits: list) -> None:
    for outfit in outfits:
        np.testing.assert_array_equal(outfit.labels, outfit.class_of_instance[outfit.instances])
        assert outfit.class_of_instance[0] == 0
        assert outfit.labels.max() <= len(TABLE_7)


def test_every_class_and_every_scene_occurs(outfits: list) -> None:
    present = {int(value) for outfit in outfits for value in np.unique(outfit.labels)}
    assert present == set(range(26))
    assert {outfit.scene for outfit in outfits} == {"street", "runway", "studio", "room", "layflat"}


def test_layering_cuts_garments_into_components(outfits: list) -> None:
    """A shirt under a jacket shows at neck and cuffs: one instance, several components."""
    cut = dict.fromkeys(("shirt/blouse", "skin", "jacket/blazer", "dress"), 0)
    for outfit in outfits:
        for number in np.unique(outfit.instances)[1:]:
            name = NAMES[int(outfit.class_of_instance[number])]
            if name in cut and ndimage.label(outfit.instances == number, np.ones((3, 3)))[1] > 1:
                cut[name] += 1
    assert all(count >= 5 for count in cut.values()), cut


def test_the_parts_of_a_laid_out_garment_are_painted_with_its_class() -> None:
    """Each garment is painted alone: what shows has its number, and in the whole picture that number has its class."""
    checked = 0
    for index in range(400):
        rng = np.random.default_rng(index)
        groups = lay_out(rng, (160, 112), first_item=1)
        numbers = [item.number for group, _ in groups for item in group]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        for group, place in groups:
            for item in group:
                canvas = Canvas(np.zeros((160, 112, 3), np.uint8), light=0.0)
                for part in item.parts:
                    canvas.paint(part, place, rng)
                assert set(np.unique(canvas.items)) <= {0, item.number}
                checked += 1
    assert checked > 400


def test_laid_out_trousers_are_long_and_sweaters_are_not() -> None:
    """By the spread of their pixels along both main axes, so that a garment with another's class would be seen."""
    longer: dict[str, list[float]] = {"pants/jeans": [], "sweater/cardigan": []}
    for index in range(400):
        outfit = draw_outfit(11, index, (120, 80))
        if outfit.scene != "layflat":
            continue
        for number in np.unique(outfit.instances)[1:]:
            name = NAMES[int(outfit.class_of_instance[number])]
            mask = outfit.instances == number
            if (
                name in longer
                and mask.sum() > 60
                and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
            ):
                longer[name].append(_aspect(mask))
    assert len(longer["pants/jeans"]) >= 8
    assert np.median(longer["pants/jeans"]) > 2.2
    assert np.median(longer["sweater/cardigan"]) < 1.8


def test_laid_out_garments_have_no_body(outfits: list) -> None:
    skin = next(index for index, name in NAMES.items() if name == "skin")
    laid = [outfit for outfit in outfits if outfit.scene == "layflat"]
    assert len(laid) >= 10
    assert not any((outfit.labels == skin).any() for outfit in laid)
    worn = [(outfit.labels == skin).any() for outfit in outfits if outfit.scene != "layflat"]
    assert np.mean(worn) > 0.97


def test_frequencies_follow_table_7(outfits: list) -> None:
    """Components of a class, as a share of all: within a factor of three of the paper's for every class, on 240 pictures."""
    counts = np.zeros(26)
    for outfit in outfits:
        for index in np.unique(outfit.labels)[1:]:
            counts[index] += ndimage.label(outfit.labels == index, np.ones((3, 3)))[1]
    share = counts[1:] / counts.sum()
    paper = np.array([row.train + row.val for row in TABLE_7], float)
    ratio = share / (paper / paper.sum())
    assert ratio.min() > 1 / 3, [(row.name, round(float(r), 2)) for row, r in zip(TABLE_7, ratio, strict=True) if r < 1 / 3]
    assert ratio.max() < 4, [(row.name, round(float(r), 2)) for row, r in zip(TABLE_7, ratio, strict=True) if r > 4]


def test_table_7_is_the_papers() -> None:
    """Its columns add up to 85,237 instances in train and 7,515 in val."""
    assert len(TABLE_7) == 25
    assert sum(row.train for row in TABLE_7) == 85_237
    assert sum(row.val for row in TABLE_7) == 7_515


def test_outfits_writes_a_dataset_that_the_other_commands_read(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    out = tmp_path / "drawn"
    result = imptool("outfits", out, "--count", 10, "--size", "160x112", "--seed", 3, "--workers", 2)
    assert result.exit_code == 0, result.output
    dataset = load_dataset(out)
    assert dataset.name == "drawn"
    assert {name: len(items) for name, items in dataset.splits.items()} == {"val": 2, "train": 8}
    assert dataset.generator is not None
    assert dataset.generator.model_dump() == {"name": "outfits", "version": VERSION, "seed": 3, "size": [160, 112], "count": 10}
    for index in range(10):
        expected = draw_outfit(3, index, (160, 112))
        np.testing.assert_array_equal(read_label_map(out / "labels" / f"{index:06d}.png"), expected.labels)
        picture = np.asarray(Image.open(out / "images" / f"{index:06d}.jpg")).astype(int)
        assert np.abs(picture - expected.image).mean() < 6  # JPEG


def test_true_instances_are_the_garments(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    imptool("outfits", tmp_path / "drawn", "--count", 6, "--size", "160x112", "--workers", 1)
    document = read_coco(tmp_path / "drawn" / "instances.json")
    for index in range(6):
        outfit = draw_outfit(0, index, (160, 112))
        rows = [row for row in document["annotations"] if row["image_id"] == index + 1]
        masks = decode_masks(rows, (160, 112))
        numbers = np.unique(outfit.instances)[1:]
        assert len(rows) == len(numbers)
        for row, mask, number in zip(rows, masks, numbers, strict=True):
            np.testing.assert_array_equal(mask > 0, outfit.instances == number)
            assert row["category_id"] == outfit.class_of_instance[number]
            assert row["area"] == mask.sum()
            y, x = np.nonzero(mask)
            assert row["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]


def test_two_runs_write_equal_bytes_with_any_number_of_workers(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        imptool("outfits", tmp_path / name / "drawn", "--count", 60, "--size", "64x48", "--workers", workers)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 122
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_a_count_of_one_makes_one_split(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    assert imptool("outfits", tmp_path / "one", "--count", 1, "--size", "64x48").exit_code == 0
    assert list(load_dataset(tmp_path / "one").splits) == ["all"]


def test_groups_describe_the_same_pictures_with_fewer_classes(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    """Table 7: hair and skin are of the group Body, which is kept apart; the other 23 classes fall into five groups."""
    few = ("outfits", tmp_path / "drawn", "--count", 4, "--size", "96x64")
    assert imptool(*few).exit_code == 0
    item = load_dataset(tmp_path / "drawn").split("train")[0]
    plain = read_label_map(item.label)
    assert imptool(*few, "--groups").exit_code == 0
    dataset = load_dataset(tmp_path / "drawn")
    assert dataset.labels.names == ["background", "hair", "skin", "upper", "lower", "whole", "footwear", "accessories"]
    grouped = dataset.read_labels(item)
    sizes = {"upper": range(3, 9), "lower": range(9, 14), "whole": (14, 15), "footwear": (16, 17), "accessories": range(18, 26)}
    for index, name in enumerate(dataset.labels.names):
        members = sizes.get(name, (index,))
        np.testing.assert_array_equal(grouped == index, np.isin(plain, list(members)))


def test_the_distribution_is_printed_beside_table_7(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    result = imptool("outfits", tmp_path / "drawn", "--count", 4, "--size", "96x64")
    assert "compare Table 7 of the paper" in result.output
    line = next(line for line in result.output.splitlines() if "jumpsuit" in line)
    assert "0.3%" in line  # (273 + 31) of 92,751


def test_own_pictures_are_drawn_again_and_others_only_on_request(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    out = tmp_path / "drawn"
    few = ("outfits", out, "--size", "64x48", "--count")
    assert imptool(*few, 6).exit_code == 0
    (out / "images" / "000003.jpg").unlink()
    assert imptool(*few, 6).exit_code == 0  # the same pictures: nothing is lost
    assert len(list((out / "images").iterdir())) == 6
    refused = imptool(*few, 4)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert len(list((out / "images").iterdir())) == 6
    assert imptool(*few, 4, "--force").exit_code == 0
    assert len(list((out / "images").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--count", 0), "--count 0"),
        (("--count", 10**9), "--count 1000000000"),
        (("--size", "480"), "--size 480"),
        (("--size", "0x320"), "--size 0x320"),
        (("--size", "480x99999"), "--size 480x99999"),
        (("--size", "-480x320"), "--size -480x320"),
        (("--seed", -1), "--seed -1"),
    ],
)
def test_an_impossible_request_is_one_line(
    tmp_path: Path, imptool: Callable[..., Result], arguments: tuple[object, ...], words: str
) -> None:
    result = imptool("outfits", tmp_path / "drawn", *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr
    assert not (tmp_path / "drawn").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, imptool: Callable[..., Result]) -> None:
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "images" / "holiday.jpg").write_text("mine")
    for force in ((), ("--force",)):
        result = imptool("outfits", tmp_path / "mine", "--count", 2, *force)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
    assert (tmp_path / "mine" / "images" / "holiday.jpg").read_text() == "mine"


def test_metrics_made_from_outfits_name_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    imptool("outfits", "drawn", "--count", 5, "--size", "64x48", "--seed", 9)
    result = imptool("eval", "--baseline", "prior", "--dataset", "drawn", "--split", "val", "--out", "measured")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert metrics["dataset"]["generator"] == {"name": "outfits", "version": VERSION, "seed": 9, "size": [64, 48], "count": 5}


@pytest.mark.parametrize("groups", [(), ("--groups",)])
def test_classes_can_be_described_as_no_things(tmp_path: Path, imptool: Callable[..., Result], groups: tuple[str, ...]) -> None:
    few = ("outfits", tmp_path / "drawn", "--count", 2, "--size", "64x48", *groups)
    assert imptool(*few, "--stuff", "hair", "--stuff", "skin").exit_code == 0
    described = yaml.safe_load((tmp_path / "drawn" / "drawn.yaml").read_text())["classes"]
    assert [row["name"] for row in described if not row["thing"]] == ["background", "hair", "skin"]
    result = imptool(*few, "--force", "--stuff", "skim")
    assert result.exit_code == 2
    assert "--stuff skim: no class of the outfits is called so; did you mean 'skin'?" in result.stderr
