"""Augmentation: pixels, boxes, masks and maps of a sample move together, and instances are cut as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from imptool.data.augment import View, draw_view, jitter, mirror, paste_instances
from imptool.data.images import resized_size
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.data.samples import instance_target
from imptool.recipe import Augment, Input

LABELS = LabelSet(
    (
        ClassInfo(id=0, name="background", thing=False),
        ClassInfo(id=5, name="left_shoe"),
        ClassInfo(id=6, name="coat"),
        ClassInfo(id=7, name="right_shoe"),
        ClassInfo(id=8, name="left_arm", thing=False),
        ClassInfo(id=9, name="right_arm", thing=False),
    ),
    background=0,
    ignore=255,
)
SIZE = (20, 30)


def annotation(category_id: int, *windows: tuple[slice, slice]) -> dict[str, object]:
    """An instance that covers the windows (rows, columns) of a 20x30 image."""
    mask = np.zeros(SIZE, np.uint8)
    for window in windows:
        mask[window] = 1
    return {"category_id": category_id, "segmentation": coco_mask.encode(np.asfortranarray(mask))}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((827, 550), (289, 192)), ((550, 827), (192, 289)), ((1000, 100), (320, 32)), ((1, 5000), (1, 320))],
)
def test_short_side_is_reached_unless_the_long_side_would_pass_its_limit(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(size, short_side=192, long_side=320) == expected


# A crop of rows 5..15 and columns 10..20, at the image's own size.
CROP = View(SIZE, (5, 10, 10, 10))


@pytest.mark.parametrize(
    ("windows", "box"),
    [
        ([np.s_[6:8, 11:14]], [1, 1, 4, 3]),  # inside: moved
        ([np.s_[0:20, 0:30]], [0, 0, 10, 10]),  # larger than the crop: cut on all sides
        ([np.s_[0:6, 12:14]], [2, 0, 4, 1]),  # one row of it is left
        ([np.s_[14:15, 19:20]], [9, 9, 10, 10]),  # the last pixel
        ([np.s_[0:5, 0:30]], None),  # ends where the crop begins
        ([np.s_[15:20, 0:30]], None),  # begins where it ends
        ([np.s_[0:12, 0:5], np.s_[10:12, 0:14]], [0, 5, 4, 7]),  # an L: its upright lies outside, the box is that of its foot
        ([np.s_[0:2, 0:2], np.s_[18:20, 28:30]], None),  # two corners around the crop: its box holds it, its mask does not
    ],
)
def test_instances_are_moved_cut_or_dropped_by_a_crop(windows: list[tuple[slice, slice]], box: list[int] | None) -> None:
    row = annotation(6, *windows)
    target = instance_target([row], LABELS, CROP, size=SIZE)
    if box is None:
        assert (len(target["boxes"]), len(target["labels"]), target["masks"].shape) == (0, 0, (0, 10, 10))
        return
    assert target["boxes"].tolist() == [box]
    assert target["labels"].tolist() == [2]
    whole = torch.from_numpy(coco_mask.decode(row["segmentation"]))
    assert torch.equal(target["masks"][0], whole[5:15, 10:20])


def test_resized_boxes_keep_their_fractions_of_pixels() -> None:
    target = instance_target([annotation(6, np.s_[2:5, 3:7])], LABELS, View((30, 45), (0, 0, 30, 45)), size=SIZE)
    assert target["boxes"].tolist() == [[4.5, 3.0, 10.5, 7.5]]  # times 1.5


def test_instances_of_one_pixel_live_as_long_as_a_pixel_of_them_is_seen() -> None:
    rows = [annotation(6, np.s_[row : row + 1, column : column + 1]) for row in range(20) for column in range(30)]
    half = instance_target(rows, LABELS, View((10, 15), (0, 0, 10, 15)), size=SIZE)
    assert len(half["labels"]) == 150
    assert half["masks"].sum(dim=(1, 2)).tolist() == [1] * 150
    sides = half["boxes"][:, 2:] - half["boxes"][:, :2]
    assert sides.unique().tolist() == [0.5]  # never empty


@settings(deadline=None)
@given(size=st.tuples(st.integers(1, 60), st.integers(1, 60)), short=st.integers(32, 90), seed=st.integers(0, 99))
def test_a_crop_of_a_map_is_the_window_of_the_resized_map(size: tuple[int, int], short: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 9, size)
    view = draw_view(size, Input(short_side=short, long_side=128), Augment(crop=[32, 40]), rng)
    whole = View(view.size, (0, 0, *view.size))
    assert whole.is_whole
    assert view.window[2] <= 32
    assert view.window[3] <= 40
    np.testing.assert_array_equal(view.sample(values), view.cut(whole.sample(values)))
    # Each pixel is the source pixel that holds its centre, counted in fractions here.
    rows = [int((row + 0.5) * size[0] / view.size[0]) for row in range(view.size[0])]
    np.testing.assert_array_equal(whole.sample(values)[:, 0], values[rows][:, int(0.5 * size[1] / view.size[1])])


def test_every_short_side_and_every_place_of_the_crop_is_drawn() -> None:
    rng = np.random.default_rng(0)
    augment = Augment(short_sides=[64, 80], long_side=200, crop=[64, 96])
    views = [draw_view((64, 100), Input(short_side=64, long_side=70), augment, rng) for _ in range(300)]
    assert {view.size for view in views} == {(64, 100), (80, 125)}
    assert {view.window[2:] for view in views} == {(64, 96)}
    assert {view.window[1] for view in views if view.size == (64, 100)} == set(range(5))
    assert {view.window[0] for view in views if view.size == (80, 125)} == set(range(17))


def test_without_augmentation_training_sees_what_inference_sees() -> None:
    view = draw_view((827, 550), Input(short_side=192, long_side=320), Augment(), np.random.default_rng(0))
    assert view == View((289, 192), (0, 0, 289, 192))


def drawn() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A coat and a left shoe in 4x6, a left arm in the map."""
    semantic = torch.tensor([[0, 0, 0, 0, 0, 4], [2, 2, 0, 0, 0, 4], [2, 2, 0, 0, 1, 1], [0, 0, 0, 0, 1, 255]])
    masks = torch.stack([semantic == 2, semantic == 1]).to(torch.uint8)
    boxes = torch.tensor([[0.0, 1, 2, 3], [4.0, 2, 6, 4]])
    target = {"boxes": boxes, "labels": torch.tensor([2, 1]), "masks": masks, "semantic": semantic}
    return torch.arange(72).reshape(3, 4, 6).float(), target


def test_mirroring_moves_pixels_boxes_masks_and_map_together() -> None:
    image, target = drawn()
    mirrored, moved = mirror(image, target, LABELS, ())
    assert torch.equal(mirrored, image.flip(-1))
    assert moved["boxes"].tolist() == [[4.0, 1.0, 6.0, 3.0], [0.0, 2.0, 2.0, 4.0]]
    assert torch.equal(moved["masks"], target["masks"].flip(-1))
    assert torch.equal(moved["semantic"], target["semantic"].flip(-1))
    assert moved["labels"].tolist() == [2, 1]
    assert {type(value) for value in (mirrored, *moved.values())} == {torch.Tensor}


def test_mirroring_makes_right_of_left() -> None:
    image, target = drawn()
    _, moved = mirror(image, target, LABELS, [(5, 7), (8, 9)])
    assert moved["labels"].tolist() == [2, 3]  # the left shoe is a right one now
    assert moved["semantic"].tolist() == [[5, 0, 0, 0, 0, 0], [5, 0, 0, 0, 2, 2], [3, 3, 0, 0, 2, 2], [255, 3, 0, 0, 0, 0]]
    _, again = mirror(image, moved, LABELS, [(5, 7), (8, 9)])
    assert all(torch.equal(again[name], target[name]) for name in target)


def test_colours_change_within_their_limits_and_nothing_changes_without() -> None:
    image = torch.rand(3, 8, 8) * 0.4 + 0.2
    assert torch.equal(jitter(image, Augment(), np.random.default_rng(0)), image)
    brighter = [jitter(image, Augment(brightness=0.4), np.random.default_rng(seed)) for seed in range(50)]
    factors = torch.stack([(one / image).mean() for one in brighter])
    assert 0.6 <= factors.min() < 0.7
    assert 1.3 < factors.max() <= 1.4
    turned = jitter(image, Augment(hue=0.4), np.random.default_rng(1))
    assert not torch.allclose(turned, image, atol=0.01)
    torch.testing.assert_close(turned.amax(0), image.amax(0))  # the hue leaves the value of HSV
    every = jitter(image, Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4), np.random.default_rng(2))
    assert every.shape == image.shape
    assert 0 <= every.min() <= every.max() <= 1


def other() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A right shoe and a coat in 3x8, beside a right arm; unlike `drawn` it is lower and wider."""
    semantic = torch.tensor([[5, 3, 3, 255, 0, 0, 0, 0], [5, 3, 3, 0, 2, 2, 2, 2], [5, 0, 0, 0, 2, 2, 2, 2]])
    masks = torch.stack([semantic == 3, semantic == 2]).to(torch.uint8)
    boxes = torch.tensor([[1.0, 0, 3, 2.4], [4.0, 0.7, 8, 3]])  # fractions, as of a resized image
    return -torch.ones(3, 3, 8), {"boxes": boxes, "labels": torch.tensor([3, 2]), "masks": masks, "semantic": semantic}


def test_pasted_instances_cover_pixels_map_and_masks_and_come_last() -> None:
    image, target = drawn()
    pasted, found = paste_instances(image, target, *other(), torch.tensor([True, False]))
    # The shoe takes one of the coat's four pixels, (1, 1); neither the arm nor the ignored pixel comes along.
    assert found["semantic"].tolist() == [[0, 3, 3, 0, 0, 4], [2, 3, 3, 0, 0, 4], [2, 2, 0, 0, 1, 1], [0, 0, 0, 0, 1, 255]]
    assert found["labels"].tolist() == [2, 1, 3]
    assert found["masks"].sum(dim=(1, 2)).tolist() == [3, 3, 4]
    for mask, channel in zip(found["masks"], (2, 1, 3), strict=True):
        assert torch.equal(mask == 1, found["semantic"] == channel)
    assert found["boxes"].tolist() == [[0, 1, 2, 3], [4, 2, 6, 4], [1, 0, 3, pytest.approx(2.4)]]
    assert torch.equal(pasted == -1, (found["semantic"] == 3).expand(3, 4, 6))
    assert torch.equal(pasted[pasted != -1], image[pasted != -1])


def test_pasted_instances_are_cut_at_the_edge_and_instances_below_are_cut_or_dropped() -> None:
    image, target = drawn()
    target["masks"][1] = 0
    target["masks"][1, 2, 4:] = 1  # the left shoe has only its upper row, which the coat will cover
    _, found = paste_instances(image, target, *other(), torch.tensor([False, True]))
    assert found["labels"].tolist() == [2, 2]
    assert found["boxes"].tolist() == [[0, 1, 2, 3], [4, 1, 6, 3]]  # of four columns two are left, and the box is theirs
    _, target = drawn()
    _, found = paste_instances(image, target, *other(), torch.tensor([False, True]))
    assert found["labels"].tolist() == [2, 1, 2]
    assert found["boxes"].tolist()[1] == [4, 3, 5, 4]  # the one pixel of the shoe that is left


def test_instance_outside_the_image_is_not_pasted() -> None:
    image, target = drawn()
    other_image, other_target = other()
    narrow = {**target, "masks": target["masks"][:, :, :4], "semantic": target["semantic"][:, :4]}
    pasted, found = paste_instances(image[:, :, :4], narrow, other_image, other_target, torch.tensor([False, True]))
    assert torch.equal(pasted, image[:, :, :4])
    assert found["labels"].tolist() == [2]
    assert torch.equal(found["semantic"], narrow["semantic"])


def test_pasting_leaves_its_inputs_alone_and_nothing_chosen_changes_nothing() -> None:
    (image, target), (other_image, other_target) = drawn(), other()
    for chosen in (torch.tensor([True, True]), torch.tensor([False, False])):
        pasted, found = paste_instances(image, target, other_image, other_target, chosen)
        assert torch.equal(image, drawn()[0])
        assert torch.equal(other_image, other()[0])
        assert all(torch.equal(target[name], drawn()[1][name]) for name in target)
        assert all(torch.equal(other_target[name], other()[1][name]) for name in other_target)
    assert torch.equal(pasted, image)
    assert all(torch.equal(found[name], target[name]) for name in target)
    assert {name: found[name].dtype for name in found} == {name: target[name].dtype for name in target}


def things_of(semantic: np.ndarray) -> dict[str, torch.Tensor]:
    """A target in which each of the channels 1..3 is one instance, with its exact box."""
    channels = [channel for channel in (1, 2, 3) if (semantic == channel).any()]
    masks = np.array([semantic == channel for channel in channels], np.uint8).reshape(-1, *semantic.shape)
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (np.nonzero(mask) for mask in masks)]
    return {
        "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        "labels": torch.tensor(channels, dtype=torch.int64),
        "masks": torch.from_numpy(masks),
        "semantic": torch.from_numpy(semantic),
    }


SIDES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None)
@given(size=SIDES, other_size=SIDES, seed=st.integers(0, 10_000))
def test_masks_boxes_map_and_pixels_agree_after_pasting(size: tuple[int, int], other_size: tuple[int, int], seed: int) -> None:
    """Pixel by pixel: what is pasted is the other's where a chosen mask lies on both, all else is as it was."""
    rng = np.random.default_rng(seed)
    here, there = (rng.integers(0, 5, sides) for sides in (size, other_size))
    target, others = things_of(here), things_of(there)
    chosen = rng.random(len(others["labels"])) < 0.5
    image, other_image = torch.from_numpy(here).expand(3, *size), torch.from_numpy(there).expand(3, *other_size)
    pasted, found = paste_instances(image, target, other_image, others, torch.from_numpy(chosen))
    taken = set(others["labels"][torch.from_numpy(chosen)].tolist())
    expected, from_other = here.copy(), np.zeros(size, bool)
    for row in range(min(size[0], other_size[0])):
        for column in range(min(size[1], other_size[1])):
            if there[row, column] in taken:
                expected[row, column], from_other[row, column] = there[row, column], True
    np.testing.assert_array_equal(found["semantic"], expected)
    np.testing.assert_array_equal(pasted, np.broadcast_to(expected, (3, *size)))
    kept, added = things_of(np.where(from_other, 0, expected)), things_of(np.where(from_other, expected, 0))
    for name in ("boxes", "labels", "masks"):
        assert torch.equal(found[name], torch.cat([kept[name], added[name]])), name
