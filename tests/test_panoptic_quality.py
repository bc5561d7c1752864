"""Panoptic quality against hand counts and COCO's own rules; segments of the truth; fusion of detections and label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import WITH_STUFF
from hypothesis import given, settings
from hypothesis import strategies as st

from imptool.data.components import find_components, label_components
from imptool.data.panoptic import Segments, front_to_back, fuse, panoptic_truth
from imptool.data.prediction import Prediction
from imptool.metrics.panoptic import count_segments, panoptic_quality
from imptool.models.inference import _largest_channel
from imptool.recipe import Panoptic

# Channels: 0 the background, 1 the class that the hand counts call 5, 2 that of 6.
CHANNEL = {9: 0, 5: 1, 6: 2}


def segments(text: str, classes: dict[int, int], crowd: Sequence[int] = ()) -> Segments:
    """A map of one digit a pixel, rows parted by "/"; 0 is void. classes: digit -> class of the hand counts."""
    digits = np.array([[int(digit) for digit in row.strip()] for row in text.split("/")])
    numbers = np.zeros(digits.shape, np.int32)
    for number, digit in enumerate(classes, start=1):
        numbers[digits == digit] = number
    channels = np.array([CHANNEL[class_] for class_ in classes.values()], np.int64)
    return Segments(numbers, channels, np.isin(list(classes), crowd), np.ones(len(classes), np.float32))


def count(predicted: Segments, target: Segments) -> dict[int, list[float]]:
    """IOU, TP, FP, FN of each class of the hand counts."""
    counts = count_segments(predicted, target, num_classes=3).to_array()
    return {class_: counts[channel].tolist() for class_, channel in CHANNEL.items()}


def test_hand_counted_example_of_three_classes() -> None:
    target = segments("111222/111222/999933/999930", {1: 5, 2: 5, 3: 6, 9: 9})
    predicted = segments("111122/111122/999994/999444", {1: 5, 2: 5, 4: 6, 9: 9})
    found = count(predicted, target)
    assert found[5] == pytest.approx([6 / 8 + 4 / 6, 2, 0, 0])
    assert found[9] == pytest.approx([7 / 9, 1, 0, 0])
    assert found[6] == [0, 0, 1, 1]  # 2 / (4 + 3 - 2 - 1) is a half, and not more
    figures = panoptic_quality(count_segments(predicted, target, num_classes=3).to_array(), foreground=[1, 2], things=[1])
    assert figures["pq"] == pytest.approx(17 / 48)
    assert figures["pq_things"] == figures["sq_things"] == pytest.approx(17 / 24)
    assert figures["rq_things"] == 1
    assert figures["pq_stuff"] == figures["sq_stuff"] == 0
    assert figures["pq_with_background"] == pytest.approx((17 / 24 + 7 / 9) / 3)


@pytest.mark.parametrize(
    ("target", "predicted", "expected"),
    [
        # An IOU of a half is no match.
        (segments("1199", {1: 5, 9: 9}), segments("1999", {1: 5, 9: 9}), {5: [0, 0, 1, 1], 9: [2 / 3, 1, 0, 0]}),
        # Void of the target is no part of the union, and a segment that is mostly void is not counted.
        (segments("1110", {1: 5}), segments("1111", {1: 5}), {5: [1, 1, 0, 0]}),
        (segments("0001", {1: 5}), segments("1122", {1: 5, 2: 5}), {5: [1, 1, 0, 0]}),
        # Crowds: no match, no miss, and what lies on them is not false.
        (
            segments("112299", {1: 5, 2: 5, 9: 9}, crowd=[1]),
            segments("334449", {3: 5, 4: 5, 9: 9}),
            {5: [2 / 3, 1, 0, 0], 9: [0, 0, 1, 1]},
        ),
        # Two crowds of a class together (ours: panopticapi remembers one).
        (
            segments("112299", {1: 5, 2: 5, 9: 9}, crowd=[1, 2]),
            segments("333399", {3: 5, 9: 9}),
            {5: [0, 0, 0, 0], 9: [1, 1, 0, 0]},
        ),
        # Nothing predicted, all void.
        (segments("1199", {1: 5, 9: 9}), segments("0000", {}), {5: [0, 0, 0, 1], 9: [0, 0, 0, 1]}),
        (segments("0000", {}), segments("1122", {1: 5, 2: 6}), {5: [0, 0, 0, 0], 6: [0, 0, 0, 0]}),
    ],
)
def test_hand_counted_rules(target: Segments, predicted: Segments, expected: dict[int, list[float]]) -> None:
    found = count(predicted, target)
    for class_, counts in expected.items():
        assert found[class_] == pytest.approx(counts)


def by_the_rules_of_coco(predicted: Segments, target: Segments, classes: int) -> np.ndarray:
    """The rules of panopticapi's evaluation, segment by segment: the slow truth."""
    counts = np.zeros((classes, 4))
    masks = {
        (kind, n + 1): each.numbers == n + 1
        for kind, each in (("p", predicted), ("t", target))
        for n in range(len(each.channels))
    }
    void, matched = target.numbers == 0, set()
    for g in range(1, len(target.channels) + 1):
        for p in range(1, len(predicted.channels) + 1):
            if target.crowd[g - 1] or target.channels[g - 1] != predicted.channels[p - 1]:
                continue
            common = (masks["t", g] & masks["p", p]).sum()
            union = masks["t", g].sum() + masks["p", p].sum() - common - (masks["p", p] & void).sum()
            if union and common / union > 0.5:
                counts[target.channels[g - 1], :2] += common / union, 1
                matched |= {("t", g), ("p", p)}
    for g, channel in enumerate(target.channels, start=1):
        counts[channel, 3] += ("t", g) not in matched and not target.crowd[g - 1]
    for p, channel in enumerate(predicted.channels, start=1):
        same = np.flatnonzero(target.crowd & (target.channels == channel)) + 1
        free = (masks["p", p] & (void | np.isin(target.numbers, same))).sum()
        if ("p", p) not in matched and free / masks["p", p].sum() <= 0.5:
            counts[channel, 2] += 1
    return counts


def random_segments(rng: np.random.Generator, numbers: np.ndarray, *, crowds: bool) -> Segments:
    """Dense numbers with random classes, a quarter of them void, and with crowds."""
    numbers = np.where(np.isin(numbers, rng.integers(0, 12, 3)), 0, numbers + 1)
    kept, dense = np.unique(numbers, return_inverse=True)
    dense = dense.reshape(numbers.shape) + (0 if kept[0] == 0 else 1)
    size = int(dense.max())
    crowd = rng.random(size) < 0.2 if crowds else np.zeros(size, np.bool_)
    return Segments(dense.astype(np.int32), rng.integers(0, 4, size), crowd, np.ones(size, np.float32))


def test_counts_are_those_of_the_rules_on_200_random_maps() -> None:
    rng = np.random.default_rng(0)
    matches = 0
    for _ in range(200):
        coarse = rng.integers(0, 12, (4, 5)).repeat(4, 0).repeat(4, 1)
        moved = np.where(
            rng.random(coarse.shape) < 0.15, rng.integers(0, 12, coarse.shape), np.roll(coarse, rng.integers(0, 3), 1)
        )
        target, predicted = random_segments(rng, coarse, crowds=True), random_segments(rng, moved, crowds=False)
        found = count_segments(predicted, target, num_classes=4).to_array()
        np.testing.assert_allclose(found, by_the_rules_of_coco(predicted, target, 4), rtol=0, atol=1e-12)
        matches += found[:, 1].sum()
    assert matches > 100


def test_a_class_without_segments_has_no_figure_and_leaves_the_means() -> None:
    counts = np.array([[0, 0, 0, 0.0], [1.5, 2, 1, 1], [0, 0, 2, 0]])
    figures = panoptic_quality(counts, foreground=[1, 2], things=[1, 2])
    assert figures["pq"] == pytest.approx(0.25)
    assert figures["sq"] == pytest.approx(0.375)  # 0.75, and 0 of the class without a match
    assert np.isnan(figures["pq_stuff"])
    assert np.isnan(figures["class_sq"][2])
    assert np.isnan(panoptic_quality(counts[:1], foreground=[0], things=[0])["pq"])


def test_maps_of_two_sizes_and_numbers_of_no_segment_are_refused() -> None:
    one, other = segments("11", {1: 5}), segments("11/11", {1: 5})
    with pytest.raises(ValueError, match="one size"):
        count_segments(one, other, num_classes=3)
    with pytest.raises(ValueError, match="numbers must be"):
        count_segments(Segments(one.numbers, one.channels[:0], one.crowd[:0], one.scores[:0]), one, num_classes=3)


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_numbers_of_components_are_those_of_the_instances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_map = rng.integers(0, 3, (int(rng.integers(0, 9)), int(rng.integers(0, 9)))).astype(np.uint8)
    numbers, total = label_components(label_map, skip=[0])
    found = find_components(label_map, skip=[0])
    assert total == len(found.rles)
    assert np.bincount(numbers.ravel(), minlength=total + 1)[1:].tolist() == found.areas.tolist()
    assert all((label_map[numbers == row + 1] == class_id).all() for row, class_id in enumerate(found.class_ids))
    assert ((numbers == 0) == (label_map == 0)).all()


def test_segments_of_the_truth_are_the_things_that_show_and_one_for_every_other_class() -> None:
    ids = np.array([[9, 3, 3, 7], [9, 4, 3, 255], [4, 4, 9, 3]], np.uint8)
    found = panoptic_truth(ids, find_components(ids, skip=[9, 255], connectivity=4), WITH_STUFF)
    assert found.channels.tolist() == [0, 2, 1, 1, 3]
    assert found.numbers.tolist() == [[1, 3, 3, 5], [1, 2, 3, 0], [2, 2, 1, 4]]


def predicted(
    boxes: list[list[float]], labels: list[int], scores: list[float], channels: np.ndarray | None = None
) -> Prediction:
    size = (16, 16)
    masks = np.ones((len(boxes), 28, 28), np.float32)
    shown = np.zeros(size, np.uint8) if channels is None else channels
    return Prediction(
        size, shown, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels), np.array(scores, np.float32), masks
    )


def areas_by_channel(found: Segments) -> list[tuple[int, int]]:
    return [(int(channel), int((found.numbers == number).sum())) for number, channel in enumerate(found.channels, start=1)]


def test_detections_are_laid_by_score_before_the_stuff_of_the_label_map() -> None:
    channels = np.zeros((16, 16), np.uint8)
    channels[:, 12:] = 2
    # Masks fill their boxes, and a pixel around them: columns 0..8, 5..13.
    found = fuse(predicted([[1, 1, 8, 15], [6, 1, 13, 15]], [1, 2], [0.9, 0.6], channels), WITH_STUFF, Panoptic(stuff_area=1))
    (first, a), (second, b), *stuff = areas_by_channel(found)
    assert (first, second) == (1, 3)
    assert a > b > 0
    assert [channel for channel, _ in stuff] == [0, 2]
    assert sum(area for _, area in areas_by_channel(found)) == 256
    swapped = fuse(predicted([[1, 1, 8, 15], [6, 1, 13, 15]], [1, 2], [0.6, 0.9], channels), WITH_STUFF, Panoptic(stuff_area=1))
    assert [channel for channel, _ in areas_by_channel(swapped)][:2] == [3, 1]
    over = np.array([[False, False], [True, False]])
    turned = fuse(
        predicted([[1, 1, 8, 15], [6, 1, 13, 15]], [1, 2], [0.9, 0.6], channels), WITH_STUFF, Panoptic(stuff_area=1), over
    )
    assert areas_by_channel(turned) == areas_by_channel(swapped)


@pytest.mark.parametrize("kept", [True, False])
def test_a_detection_of_which_more_is_covered_is_left_out_and_its_pixels_are_free(kept: bool) -> None:
    one = predicted([[1, 1, 7, 15], [1, 1, 15, 15]], [1, 2], [0.9, 0.5])
    first, second = (
        fuse(predicted([box], [1], [0.9]), WITH_STUFF, Panoptic(stuff_area=1)).numbers == 1 for box in one.boxes.tolist()
    )
    share = (first & second).sum() / second.sum()
    assert 0 < share < 1
    found = fuse(one, WITH_STUFF, Panoptic(stuff_area=1, overlap=share if kept else share - 1e-6))
    assert [channel for channel, _ in areas_by_channel(found)] == ([1, 3, 0] if kept else [1, 0])
    assert (found.numbers > 0).all()


def test_small_stuff_and_unsure_detections_are_void() -> None:
    channels = np.zeros((16, 16), np.uint8)
    channels[0, :5] = 2
    channels[4, :] = 1  # a thing of the label map, which nothing detects
    found = fuse(predicted([[1, 8, 8, 15]], [1], [0.49], channels), WITH_STUFF, Panoptic(stuff_area=6))
    assert areas_by_channel(found) == [(0, 256 - 5 - 16)]
    exactly = fuse(predicted([[1, 8, 8, 15]], [1], [0.5], channels), WITH_STUFF, Panoptic(stuff_area=5))
    assert [channel for channel, _ in areas_by_channel(exactly)] == [1, 0, 2]


def test_components_of_the_label_map_can_stand_for_detections() -> None:
    channels = np.zeros((16, 16), np.uint8)
    channels[2:4, 2:4], channels[8:11, 8:11], channels[0, 15], channels[15] = 1, 1, 3, 2
    found = fuse(predicted([[0, 0, 15, 15]], [1], [1.0], channels), WITH_STUFF, Panoptic(instances="components", stuff_area=1))
    assert sorted(areas_by_channel(found)) == [(0, 256 - 4 - 9 - 1 - 16), (1, 4), (1, 9), (2, 16), (3, 1)]


def pairs(*edges: tuple[int, int, float], count: int) -> tuple[np.ndarray, np.ndarray]:
    over, margin = np.zeros((count, count), np.bool_), np.zeros((count, count))
    for front, back, value in edges:
        over[front, back], margin[front, back] = True, value
    return over, margin


@pytest.mark.parametrize(
    ("scores", "edges", "order"),
    [
        ([0.9, 0.8, 0.7], [], [0, 1, 2]),
        ([0.9, 0.8, 0.7], [(2, 0, 1)], [1, 2, 0]),
        ([0.9, 0.8, 0.7], [(1, 0, 1), (2, 1, 1)], [2, 1, 0]),
        ([0.9, 0.8, 0.7], [(0, 1, 0.3), (1, 2, 0.1), (2, 0, 0.2)], [2, 0, 1]),
        ([0.5, 0.6, 0.9, 0.8, 0.7], [(0, 1, 1), (1, 2, 1), (1, 3, 1), (1, 4, 1)], [0, 1, 2, 3, 4]),
    ],
)
def test_hand_worked_orders(scores: list[float], edges: list[tuple[int, int, float]], order: list[int]) -> None:
    assert front_to_back(np.array(scores), *pairs(*edges, count=len(scores))).tolist() == order


def test_confidence_is_the_softmax_of_the_channel_that_wins() -> None:
    logits = 4 * torch.randn(7, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[3] -= 900  # whose share is 0
    channels, confidence = _largest_channel(logits, (11, 9), confidence=True)
    full = F.interpolate(logits[None], size=(11, 9), mode="bilinear", align_corners=False)[0].softmax(dim=0).max(dim=0)
    assert torch.equal(channels.long(), full.indices)
    assert confidence is not None
    torch.testing.assert_close(confidence, full.values, rtol=0, atol=4.5e-16)
    assert _largest_channel(logits, (11, 9), confidence=False)[1] is None
