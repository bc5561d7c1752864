"""Panoptic segments: those of the truth, the order of instances, and the fusion of detections and label map, by hand."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import run_imptool, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from imptool.checkpoint import load_weights, parse_about
from imptool.data.coco import instances_of
from imptool.data.components import find_components, find_regions
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.data.panoptic import Segments, front_to_back, fuse, panoptic_truth
from imptool.data.prediction import Prediction, mask_in_box
from imptool.files import InputError, shipped_weights
from imptool.recipe import Panoptic, load_recipe

# Channels 0 to 3: background (id 9), coat (3), skin (4, stuff), hat (7).
LABELS = LabelSet(
    (
        ClassInfo(id=9, name="background", thing=False),
        ClassInfo(id=3, name="coat"),
        ClassInfo(id=4, name="skin", thing=False),
        ClassInfo(id=7, name="hat"),
    ),
    background=9,
    ignore=255,
)
ALL_STUFF = Panoptic(stuff_area=0)


def digits(*lines: str) -> NDArray[np.int64]:
    return np.array([[int(sign) for sign in line] for line in lines])


def truth_of(ids: NDArray[np.integer], *instances: tuple[int, NDArray[np.integer], int]) -> Segments:
    """The segments of a map and of (class id, mask, iscrowd) each."""
    rows = []
    for class_id, mask, crowd in instances:
        regions = find_regions(mask, skip=[0])
        segmentation = {"size": list(mask.shape), "counts": regions.rles[0].decode()}
        rows.append({"category_id": class_id, "segmentation": segmentation, "iscrowd": crowd})
    return panoptic_truth(ids, instances_of(rows, ids.shape), LABELS)


class TestTruth:
    def test_stuff_comes_first_and_a_smaller_thing_lies_over_a_larger_one(self) -> None:
        ids = np.array([[9, 3, 3, 3], [9, 3, 3, 3], [9, 4, 7, 255]], np.uint8)
        coat = digits("0111", "0111", "0000")
        small = digits("0011", "0000", "0011")  # over the coat; what it has of the hat and of ignored pixels is not its class
        hat = digits("0000", "0000", "0010")
        segments = truth_of(ids, (7, hat, 0), (3, small, 1), (3, coat, 0))
        assert segments.numbers.tolist() == [[1, 5, 4, 4], [1, 5, 5, 5], [1, 2, 3, 0]]
        assert segments.numbers.dtype == np.int32
        assert segments.channels.tolist() == [0, 2, 3, 1, 1]  # things as their instances came
        assert segments.crowd.tolist() == [False, False, False, True, False]
        assert segments.scores.tolist() == [1] * 5

    def test_what_is_hidden_or_absent_has_no_number(self) -> None:
        ids = np.array([[9, 3, 3, 9]], np.uint8)
        hidden, over = digits("0110"), digits("0010")
        segments = truth_of(ids, (7, hidden, 0), (3, over, 0))
        assert segments.numbers.tolist() == [[1, 0, 2, 1]]  # a coat's pixel that no instance has is void; no skin, no hat
        assert segments.channels.tolist() == [0, 1]

    def test_instances_of_stuff_and_of_the_background_are_one_segment_each(self) -> None:
        ids = np.array([[4, 9, 4, 9]], np.uint8)
        segments = panoptic_truth(ids, find_components(ids), LABELS)
        assert segments.numbers.tolist() == [[2, 1, 2, 1]]
        assert segments.channels.tolist() == [0, 2]

    def test_ids_over_255_are_taken(self) -> None:
        labels = LabelSet((ClassInfo(id=300, name="sky", thing=False), ClassInfo(id=1000, name="tree")), None, 65535)
        ids = np.array([[300, 1000, 65535]], np.uint16)
        segments = panoptic_truth(ids, find_components(ids, skip=[65535]), labels)
        assert segments.numbers.tolist() == [[1, 2, 0]]

    def test_arrays_that_do_not_fit_are_refused(self) -> None:
        numbers = np.zeros((2, 3), np.int32)
        one, two = np.zeros(1, np.int64), np.zeros(2, np.float32)
        with pytest.raises(ValueError, match="of one length"):
            Segments(numbers, one, np.zeros(1, bool), two)
        with pytest.raises(ValueError, match="int32"):
            Segments(numbers.astype(np.int64), one, np.zeros(1, bool), two[:1])


def relation(count: int, *pairs: tuple[int, int]) -> NDArray[np.bool_]:
    over = np.zeros((count, count), bool)
    for front, back in pairs:
        over[front, back] = True
    return over


class TestOrder:
    THREE = np.array([0.9, 0.8, 0.7])

    @pytest.mark.parametrize(
        ("pairs", "order"),
        [
            ((), [0, 1, 2]),
            (((2, 0),), [1, 2, 0]),
            (((1, 0), (2, 1)), [2, 1, 0]),
        ],
    )
    def test_of_three_counted_by_hand(self, pairs: tuple[tuple[int, int], ...], order: list[int]) -> None:
        assert front_to_back(self.THREE, relation(3, *pairs)).tolist() == order

    def test_a_circle_breaks_where_its_margin_is_smallest(self) -> None:
        over, margin = relation(3, (0, 1), (1, 2), (2, 0)), np.zeros((3, 3))
        margin[0, 1], margin[1, 2], margin[2, 0] = 0.3, 0.1, 0.2
        assert front_to_back(self.THREE, over, margin).tolist() == [2, 0, 1]
        assert over.sum() == 3  # what was given is left as it was

    def test_of_equal_margins_the_first_pair_falls(self) -> None:
        over = relation(3, (0, 1), (1, 2), (2, 0))  # without 0 over 1: 1, 2, 0
        assert front_to_back(self.THREE, over).tolist() == [1, 2, 0]

    def test_only_pairs_on_a_circle_fall(self) -> None:
        # 2 and 3 go round; 3 over 1 has the smallest margin of all, and stays.
        over, margin = relation(4, (2, 3), (3, 2), (2, 0), (3, 1)), np.full((4, 4), 0.5)
        margin[3, 1], margin[2, 3] = 0.01, 0.4
        order = front_to_back(np.array([0.9, 0.8, 0.7, 0.6]), over, margin)
        assert order.tolist() == [3, 1, 2, 0]

    def test_one_that_is_over_many_does_not_pass_the_one_over_it(self) -> None:
        scores, over = np.array([0.5, 0.6, 0.9, 0.8, 0.7]), relation(5, (0, 1), (1, 2), (1, 3), (1, 4))
        assert front_to_back(scores, over).tolist() == [0, 1, 2, 3, 4]

    def test_equal_scores_stay_in_their_order_and_nothing_has_none(self) -> None:
        assert front_to_back(np.array([0.5, 0.7, 0.5, 0.7]), relation(4)).tolist() == [1, 3, 0, 2]
        assert front_to_back(np.arange(60) % 2, relation(60)).tolist() == [*range(1, 60, 2), *range(0, 60, 2)]
        assert front_to_back(np.zeros(0), relation(0)).tolist() == []

    def test_a_relation_of_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="of 3 scores"):
            front_to_back(self.THREE, relation(2))
        with pytest.raises(ValueError, match="of 3 scores"):
            front_to_back(self.THREE, relation(3), np.zeros((2, 2)))

    @settings(deadline=None)
    @given(st.integers(1, 8), st.randoms(use_true_random=False))
    def test_every_statement_that_lies_on_no_circle_is_kept(self, count: int, random) -> None:  # type: ignore[no-untyped-def]
        over = relation(count, *((i, j) for i in range(count) for j in range(count) if i != j and random.random() < 0.2))
        scores = np.array([random.choice([0.2, 0.5, 0.9]) for _ in range(count)])
        order = front_to_back(scores, over)
        assert sorted(order.tolist()) == list(range(count))
        reaches = over.copy()
        for _ in range(count):  # what follows from statements
            reaches |= reaches @ over
        rank = np.argsort(order)
        for front, back in np.argwhere(over & ~reaches.T):
            assert rank[front] < rank[back]


def square(box: tuple[float, float, float, float], size: tuple[int, int] = (12, 16)) -> NDArray[np.uint8]:
    """The pixels of a detection whose mask fills its box, as they are pasted."""
    found = detections(size, [(box, 1, 0.9)])
    mask, (y, x) = mask_in_box(found, 0)
    canvas = np.zeros(size, np.uint8)
    canvas[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return canvas


def detections(
    size: tuple[int, int],
    rows: list[tuple[tuple[float, float, float, float], int, float]],
    channels: NDArray[np.integer] | None = None,
    confidence: NDArray[np.float32] | None = None,
) -> Prediction:
    """Detections (box, label, score) whose masks fill their boxes."""
    return Prediction(
        size=size,
        channels=channels,
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], np.int64),
        scores=np.array([row[2] for row in rows], np.float32),
        masks=np.ones((len(rows), 28, 28), np.float32),
        confidence=confidence,
    )


# 28 x 28 masks of ones: about a pixel larger than their box on every side. By hand: 4x4 px at columns 3 and 5, rows 4 to 7.
LEFT, RIGHT = (4.0, 5.0, 6.0, 7.0), (6.0, 5.0, 8.0, 7.0)


class TestFusion:
    SIZE = (12, 16)

    def test_two_masks_that_overlap_by_half(self) -> None:
        """The figures of the others here."""
        left, right = square(LEFT), square(RIGHT)
        assert np.argwhere(left)[[0, -1]].tolist() == [[4, 3], [7, 6]]
        assert np.argwhere(right)[[0, -1]].tolist() == [[4, 5], [7, 8]]
        assert (left.sum(), right.sum(), (left & right).sum()) == (16, 16, 8)

    def test_the_better_one_is_in_front_and_a_relation_turns_them_round(self) -> None:
        left, right = square(LEFT) > 0, square(RIGHT) > 0
        found = detections(self.SIZE, [(LEFT, 1, 0.9), (RIGHT, 2, 0.8)])
        segments = fuse(found, LABELS, ALL_STUFF)
        np.testing.assert_array_equal(segments.numbers, np.where(left, 1, np.where(right, 2, 0)))
        assert segments.channels.tolist() == [1, 3]
        np.testing.assert_array_equal(segments.scores, np.float32([0.9, 0.8]))
        assert not segments.crowd.any()
        turned = fuse(found, LABELS, ALL_STUFF, relation(2, (1, 0)), np.zeros((2, 2)))
        np.testing.assert_array_equal(turned.numbers, np.where(right, 1, np.where(left, 2, 0)))
        assert turned.channels.tolist() == [3, 1]

    def test_half_hidden_stays_and_more_than_half_gives_its_pixels_to_stuff(self) -> None:
        left, right = square(LEFT) > 0, square(RIGHT) > 0
        channels = np.full(self.SIZE, 2, np.uint8)
        found = detections(self.SIZE, [(LEFT, 1, 0.9), (RIGHT, 2, 0.8)], channels)
        assert fuse(found, LABELS, ALL_STUFF).channels.tolist() == [1, 3, 2]  # 8 of 16 px are not more than 0.5
        dropped = fuse(found, LABELS, Panoptic(overlap=0.49, stuff_area=0))
        assert dropped.channels.tolist() == [1, 2]
        np.testing.assert_array_equal(dropped.numbers, np.where(left, 1, 2))
        assert right[~left].any()

    def test_what_was_dropped_hides_nothing(self) -> None:
        """The second of three in a row goes, so that the third is seen whole."""
        third = (8.0, 5.0, 10.0, 7.0)
        found = detections(self.SIZE, [(LEFT, 1, 0.9), (RIGHT, 1, 0.8), (third, 1, 0.7)])
        segments = fuse(found, LABELS, Panoptic(overlap=0.4, stuff_area=0))
        np.testing.assert_array_equal(segments.numbers, np.where(square(LEFT) > 0, 1, np.where(square(third) > 0, 2, 0)))

    def test_hidden_wholly_is_dropped_whatever_may_overlap(self) -> None:
        found = detections(self.SIZE, [(LEFT, 1, 0.9), (LEFT, 2, 0.8)])
        segments = fuse(found, LABELS, Panoptic(overlap=1, stuff_area=0))
        assert segments.channels.tolist() == [1]

    def test_a_score_of_just_the_confidence_is_enough(self) -> None:
        found = detections(self.SIZE, [(LEFT, 1, 0.5), ((9.0, 1.0, 13.0, 5.0), 2, 0.49)])
        assert fuse(found, LABELS, ALL_STUFF).channels.tolist() == [1]
        found = detections(self.SIZE, [(LEFT, 1, 0.7)])  # which float32 rounds down
        assert fuse(found, LABELS, Panoptic(confidence=0.7)).channels.tolist() == [1]

    def test_a_relation_is_that_of_all_detections_also_where_some_are_unsure(self) -> None:
        found = detections(self.SIZE, [((0, 0, 2, 2), 1, 0.1), (LEFT, 1, 0.9), (RIGHT, 2, 0.8)])
        segments = fuse(found, LABELS, ALL_STUFF, relation(3, (2, 1), (0, 2)), np.ones((3, 3)))
        assert segments.channels.tolist() == [3, 1]
        with pytest.raises(ValueError, match="of 3 detections"):
            fuse(found, LABELS, ALL_STUFF, relation(2))

    def test_little_stuff_and_things_that_nobody_detected_are_void(self) -> None:
        channels = np.full(self.SIZE, 0, np.uint8)
        channels[:3, :5] = 2  # 15 px of skin
        channels[9:, :] = 1  # a coat
        found = detections(self.SIZE, [(LEFT, 2, 0.9)], channels)
        void = np.zeros(self.SIZE, bool)
        void[9:, :] = True
        kept = fuse(found, LABELS, Panoptic(stuff_area=15))
        np.testing.assert_array_equal(kept.numbers == 0, void)
        assert kept.channels.tolist() == [3, 0, 2]
        void[:3, :5] = True
        dropped = fuse(found, LABELS, Panoptic(stuff_area=16))
        np.testing.assert_array_equal(dropped.numbers == 0, void)
        assert dropped.channels.tolist() == [3, 0]

    def test_stuff_is_measured_where_no_thing_lies(self) -> None:
        channels = np.where(square(LEFT) > 0, 2, 0).astype(np.uint8)
        channels[4, 2] = 2  # the only pixel of skin that the coat does not hide
        found = detections(self.SIZE, [(LEFT, 1, 0.9)], channels)
        assert fuse(found, LABELS, Panoptic(stuff_area=1)).channels.tolist() == [1, 0, 2]
        assert fuse(found, LABELS, Panoptic(stuff_area=2)).channels.tolist() == [1, 0]

    def test_without_a_label_map_there_are_things_alone(self) -> None:
        segments = fuse(detections(self.SIZE, [(LEFT, 1, 0.9)]), LABELS, ALL_STUFF)
        np.testing.assert_array_equal(segments.numbers > 0, square(LEFT) > 0)
        nothing = fuse(detections(self.SIZE, []), LABELS, ALL_STUFF)
        assert (nothing.numbers.max(), len(nothing.channels)) == (0, 0)

    def test_beyond_the_image_nothing_is_pasted(self) -> None:
        found = detections(self.SIZE, [((30.0, 30.0, 40.0, 40.0), 1, 0.9), ((-3.0, -3.0, 1.0, 1.0), 2, 0.8)])
        segments = fuse(found, LABELS, ALL_STUFF)
        assert segments.channels.tolist() == [3]
        assert (segments.numbers[0, 0], segments.numbers[-1, -1]) == (1, 0)

    def test_stuff_has_the_mean_confidence_of_its_pixels(self) -> None:
        channels = np.array([[0, 0, 2, 2]], np.uint8)
        confidence = np.float32([[0.5, 0.75, 1, 0.5]])
        segments = fuse(detections((1, 4), [], channels, confidence), LABELS, ALL_STUFF)
        assert segments.scores.tolist() == [0.625, 0.75]
        assert segments.scores.dtype == np.float32
        unknown = fuse(detections((1, 4), [], channels), LABELS, ALL_STUFF)
        assert unknown.scores.tolist() == [1, 1]

    def test_memory_does_not_grow_with_the_number_of_detections(self) -> None:
        size = (600, 800)
        channels = np.zeros(size, np.uint8)

        def peak(count: int) -> int:
            rows = [((10.0 * n, 5.0 * n, 10.0 * n + 90, 5.0 * n + 90), 1, 0.9) for n in range(count)]
            found = detections(size, rows, channels)
            tracemalloc.start()
            fuse(found, LABELS, ALL_STUFF)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

        peak(1)  # what is compiled
        assert peak(70) < peak(2) + size[0] * size[1]  # less than a mask of the image's size in all


class TestComponents:
    SETTINGS = Panoptic(instances="components", stuff_area=0)

    def test_every_component_of_a_thing_is_an_instance_and_detections_are_left_out(self) -> None:
        channels = digits("11022", "11000", "00133", "20033").astype(np.uint8)
        confidence = np.full((4, 5), 0.5, np.float32)
        confidence[0, :2] = 0.9
        found = detections((4, 5), [((0, 0, 5, 4), 1, 0.9)], channels, confidence)
        segments = fuse(found, LABELS, self.SETTINGS)
        # The coat at (2, 2) touches the other by a corner; 3 is background, 4 both pieces of skin.
        assert segments.numbers.tolist() == [[1, 1, 3, 4, 4], [1, 1, 3, 3, 3], [3, 3, 1, 2, 2], [4, 3, 3, 2, 2]]
        assert segments.channels.tolist() == [1, 3, 0, 2]
        np.testing.assert_allclose(segments.scores, [(2 * 0.9 + 3 * 0.5) / 5, 0.5, 0.5, 0.5], rtol=1e-6)

    def test_little_stuff_is_void_and_small_components_stay(self) -> None:
        channels = digits("10022", "00000").astype(np.uint8)
        segments = fuse(detections((2, 5), [], channels), LABELS, Panoptic(instances="components", stuff_area=3))
        assert segments.numbers.tolist() == [[1, 2, 2, 0, 0], [2, 2, 2, 2, 2]]
        assert segments.scores.tolist() == [1, 1]

    def test_without_a_label_map_there_are_none(self) -> None:
        with pytest.raises(ValueError, match="components are made of a label map"):
            fuse(detections((2, 5), []), LABELS, self.SETTINGS)

    @settings(deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_segments_are_those_of_scipy_and_numbered_without_gaps(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        channels = random.integers(0, 4, random.integers(1, 9, 2)).astype(np.uint8)
        segments = fuse(detections(channels.shape, [], channels), LABELS, self.SETTINGS)
        assert np.unique(segments.numbers).tolist() == list(range(1, 1 + len(segments.channels)))
        np.testing.assert_array_equal(segments.channels[segments.numbers - 1], channels)
        for channel in (1, 3):
            count = ndimage.label(channels == channel, np.ones((3, 3)))[1]
            assert (segments.channels == channel).sum() == count


class TestRecipe:
    def test_defaults_are_those_of_the_heuristic_and_a_recipe_without_the_section_has_them(self, workplace: Path) -> None:
        recipe = load_recipe("tiny.yaml")
        assert recipe.panoptic.model_dump() == {
            "instances": "detections",
            "confidence": 0.5,
            "overlap": 0.5,
            "stuff_area": 4096,
        }

    def test_weights_of_before_the_section_have_its_defaults(self) -> None:
        path = shipped_weights()["ccp-lite"]
        _, about = load_weights(path)
        about["recipe"].pop("panoptic", None)
        assert parse_about(about, source=path)[1].panoptic == Panoptic()

    @pytest.mark.parametrize("change", ["instances=all", "confidence=1.1", "overlap=-0.1", "stuff_area=-1", "stuff=1"])
    def test_values_outside_their_rule_are_refused(self, workplace: Path, change: str) -> None:
        with pytest.raises(InputError, match=r"panoptic\."):
            load_recipe("tiny.yaml", [f"panoptic.{change}"])


def test_an_exported_map_has_the_segments_of_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PNG of `convert-instances --format panoptic`: one code for each segment, in their order."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "set", 1)
    assert run_imptool("convert-instances", "set", "--format", "panoptic", "--out", "made", "--workers", 0).exit_code == 0
    row = json.loads(Path("made/all.json").read_text())["annotations"][0]
    assert [info["category_id"] for info in row["segments_info"]] == [0, 1, 2]
    codes = np.asarray(Image.open("made/all/000.png")).astype(np.int64) @ [1, 256, 65536]
    label = np.asarray(Image.open("set/labels/000.png"))
    np.testing.assert_array_equal(codes, np.array([info["id"] for info in row["segments_info"]])[label])
