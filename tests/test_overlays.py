"""The palettes, and the pictures of semantic maps and instances over images."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.data.palette import class_colour, class_palette, instance_palette, voc_palette
from imptool.report.overlays import colour_canvas, colour_classes, colour_instances, overlay

NAMES = {0: "background", 1: "bag", 2: "belt"}
GREY = np.full((60, 80, 3), 100, np.uint8)


def test_palette_is_the_one_of_pascal_voc():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(colour) for colour in palette[:7].tolist()] == first
    assert palette[[8, 20, 255]].tolist() == [[64, 0, 0], [0, 64, 128], [224, 224, 192]]
    assert len(np.unique(palette, axis=0)) == 256


def test_palette_equals_that_of_published_label_files(shared_data):
    files = sorted((shared_data / "formats" / "schp_palettes").rglob("*.png"))
    assert files
    for path in files:
        with Image.open(path) as image:
            colours = np.array(image.getpalette()).reshape(-1, 3)[: image.getextrema()[1] + 1]
        np.testing.assert_array_equal(colours, voc_palette()[: len(colours)])


# Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), Table 1,
# severity 1.0; for linear RGB.
EYES = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
# The Monk Skin Tone Scale, skintone.google.
MONK = "f6ede4 f3e7db f7ead0 eadaba d7bd96 a07e56 825c43 604134 3a312a 292420"


def seen(colours, eyes):
    """CIELAB [N, 3] of sRGB colours [N, 3] uint8 as these eyes see them."""
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ EYES[eyes].T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def distances(one, other, eyes="normal"):
    """CIEDE2000 of every colour from every other."""
    return deltaE_ciede2000(seen(one, eyes)[:, None], seen(other, eyes)[None])


def closest_two(colours, eyes):
    return distances(colours, colours, eyes)[~np.eye(len(colours), dtype=bool)].min()


@pytest.mark.parametrize("eyes", EYES)
def test_the_first_16_classes_are_told_apart_by_all_eyes_better_than_in_the_palette_of_voc(eyes):
    """VOC's closest two are 4.5 apart, without red cones 0.8, without green ones 1.5."""
    assert closest_two(class_palette()[1:17], eyes) > 11
    assert closest_two(voc_palette()[1:17], eyes) < 5


@pytest.mark.parametrize("eyes", EYES)
def test_instances_are_told_apart_by_all_eyes(eyes):
    assert closest_two(instance_palette(), eyes) > 9


def test_classes_are_light_and_all_different_and_not_of_skin():
    palette = class_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == 256
    assert (rgb2lab(palette[1:] / 255)[:, 0] > 50).all()
    skin = np.array([tuple(bytes.fromhex(tone)) for tone in MONK.split()], np.uint8)
    assert distances(palette[1:], skin).min() > 10


def test_no_instance_has_the_colour_of_a_class():
    assert distances(instance_palette(), class_palette()).min() > 6


def test_ids_beyond_the_palette_begin_again():
    assert class_colour(257) == class_colour(1) == tuple(class_palette()[1].tolist())


def test_a_class_is_blended_outlined_within_and_leaves_the_rest_alone():
    semantic_map = np.zeros((60, 80), np.uint8)
    semantic_map[10:15, 20:25] = 1
    picture = colour_classes(GREY, semantic_map, ids=[1], alpha=0.25)
    np.testing.assert_array_equal(picture[semantic_map == 0], GREY[semantic_map == 0])
    assert class_palette()[1].tolist() == [255, 136, 0]
    assert picture[12, 22].tolist() == [139, 109, 75]  # 0.75 * 100 + 0.25 * (255, 136, 0)
    edge = np.zeros((5, 5), bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    np.testing.assert_array_equal((picture[10:15, 20:25] == [255, 136, 0]).all(axis=2), edge)


def test_stated_colours_stay_and_the_others_are_those_of_the_palette():
    semantic_map = np.zeros((60, 80), np.uint8)
    semantic_map[:5, :9], semantic_map[9:20, :9] = 1, 2
    picture = overlay(GREY, semantic_map, class_names=NAMES, background=0, colours={2: (1, 2, 3)})
    image, legend = picture[:, :80], picture[:, 80:]
    assert image[9, 0].tolist() == [1, 2, 3]  # the outline
    assert image[4, 0].tolist() == list(class_colour(1))
    for colour in ((1, 2, 3), class_colour(1)):
        assert (legend == colour).all(axis=2).any()
    assert not (legend == class_colour(2)).all(axis=2).any()


def test_weights_keep_the_colours_that_their_dataset_states():
    labels = LabelSet((ClassInfo(id=0, name="background"), ClassInfo(id=1, name="coat")), 0, 255, (), ((1, (9, 8, 7)),))
    read = LabelSet.from_plain(json.loads(json.dumps(labels.to_plain())))
    assert read == labels
    assert read.colours == {0: (160, 160, 160), 1: (9, 8, 7)}


@pytest.mark.parametrize("size", [(60, 80), (600, 400)])
def test_the_photograph_keeps_its_place_beside_the_legend(size):
    semantic_map = np.zeros(size, np.uint8)
    semantic_map[:10, :10] = 2  # too narrow for its name
    image = np.full((*size, 3), 90, np.uint8)
    picture = overlay(image, semantic_map, class_names=NAMES, background=0)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == size[0]
    np.testing.assert_array_equal(picture[:, : size[1]], colour_classes(image, semantic_map, ids=[1, 2]))
    legend = picture[:, size[1] :]
    assert (legend == class_palette()[2]).all(axis=2).any()
    assert not (legend == class_palette()[1]).all(axis=2).any()  # only classes found are listed


def test_a_wide_class_carries_its_name():
    semantic_map = np.ones((60, 80), np.uint8)
    picture = overlay(GREY, semantic_map, class_names=NAMES, background=0)[:, :80]
    plain = colour_classes(GREY, semantic_map, ids=[1])
    written = (picture != plain).any(axis=2)
    assert written.any()
    assert not written[:15].any()
    assert not written[-15:].any()


def test_without_a_class_the_picture_is_the_photograph():
    semantic_map = np.full((60, 80), 255, np.uint8)  # no name: ignored
    semantic_map[:30] = 0
    np.testing.assert_array_equal(overlay(GREY, semantic_map, class_names=NAMES, background=0), GREY)


def test_id_0_is_a_class_like_any_other_without_a_background():
    picture = overlay(GREY, np.zeros((60, 80), np.uint8), class_names=NAMES, background=None)
    assert picture[0, 0].tolist() == [130, 130, 130]  # 0.5 * 100 + 0.5 * 160
    assert picture.shape[1] > 80


@pytest.mark.parametrize("name", ["", "x" * 500, "連衣裙", "Größe é сумка", "two\nlines\tand more", "\u0301\u200b"])
def test_any_name_is_drawn_in_a_legend_of_bounded_width(name):
    picture = overlay(GREY, np.ones((60, 80), np.uint8), class_names={1: name}, background=None)
    assert picture.shape[0] == 60
    assert 80 + 3 * 12 < picture.shape[1] <= 80 + 19 * 12


def test_a_name_that_the_font_cannot_draw_becomes_the_id():
    semantic_map = np.full((60, 80), 12, np.uint8)
    foreign = overlay(GREY, semantic_map, class_names={12: "連衣裙"}, background=None)
    np.testing.assert_array_equal(foreign, overlay(GREY, semantic_map, class_names={12: "class 12"}, background=None))


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5)])
def test_more_classes_than_lines_go_into_more_columns(size):
    semantic_map = np.resize(np.arange(300), size)  # ids beyond the 256 colours
    names = {index: f"class {index}" for index in range(300)}
    picture = overlay(np.zeros((*size, 3), np.uint8), semantic_map, class_names=names, background=None)
    assert picture.shape[0] >= max(size[0], 12)  # one line of text at least
    assert picture.shape[1] > size[1]


def test_neighbouring_instances_differ_even_where_there_are_more_than_colours():
    """A chessboard of 10 x 10 fields: every field touches up to eight others."""
    fields = np.kron(np.arange(100).reshape(10, 10), np.ones((9, 9), int))
    masks = (fields == np.arange(100)[:, None, None]).astype(np.uint8)
    picture = colour_instances(np.full((90, 90, 3), 100, np.uint8), masks)
    middles = picture[4::9, 4::9].astype(int)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = middles[: 10 - down, max(-right, 0) : 10 - max(right, 0)]
        there = middles[down:, max(right, 0) : 10 + min(right, 0)]
        assert (np.abs(here - there).max(axis=2) > 0).all()


def test_as_many_instances_as_colours_have_one_each():
    masks = np.zeros((16, 20, 160), np.uint8)
    for index in range(16):
        masks[index, 5:15, 10 * index + 2 : 10 * index + 8] = 1
    picture = colour_instances(np.full((20, 160, 3), 100, np.uint8), masks)
    assert len(np.unique(picture[10, 5::10], axis=0)) == 16


def test_says_what_is_wrong_with_image_or_map():
    with pytest.raises(ValueError, match=r"image must be \[H, W, 3\] uint8, got \(60, 80\) uint8"):
        overlay(GREY[..., 0], np.zeros((60, 80), np.uint8), class_names=NAMES, background=0)
    with pytest.raises(ValueError, match=r"image's size \(60, 80\), got \(80, 60\)"):
        overlay(GREY, np.zeros((80, 60), np.uint8), class_names=NAMES, background=0)


def test_a_canvas_is_as_bright_as_its_largest_value_allows() -> None:
    canvas = np.zeros((2, 2, 2), np.float32)
    canvas[0, 0, 0], canvas[1, 1, 1] = 1.0, 0.25
    strong, faint = (colour_canvas(scale * canvas, [1, 2], size=(2, 2)) for scale in (1.0, 0.1))
    np.testing.assert_array_equal(strong, faint)
    np.testing.assert_array_equal(strong[0, 0], class_palette()[1])
    np.testing.assert_allclose(strong[1, 1], class_palette()[2] / 2, atol=1)  # the root of a quarter
    assert strong[0, 1].max() == 0
    assert colour_canvas(0 * canvas, [1, 2], size=(2, 2)).max() == 0
