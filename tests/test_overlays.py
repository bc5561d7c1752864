"""The palette and the pictures of semantic maps over photographs."""

import numpy as np
import pytest
from PIL import Image

from imptool.data.palette import voc_palette
from imptool.report.overlays import colour_classes, overlay

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


def test_a_class_is_blended_outlined_within_and_leaves_the_rest_alone():
    semantic_map = np.zeros((60, 80), np.uint8)
    semantic_map[10:15, 20:25] = 1
    picture = colour_classes(GREY, semantic_map, ids=[1], alpha=0.25)
    np.testing.assert_array_equal(picture[semantic_map == 0], GREY[semantic_map == 0])
    assert picture[12, 22].tolist() == [107, 75, 75]  # 0.75 * 100 + 0.25 * (128, 0, 0)
    edge = np.zeros((5, 5), bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    np.testing.assert_array_equal((picture[10:15, 20:25] == [128, 0, 0]).all(axis=2), edge)


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
    assert (legend == voc_palette()[2]).all(axis=2).any()
    assert not (legend == voc_palette()[1]).all(axis=2).any()  # only classes found are listed


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
    assert picture[0, 0].tolist() == [50, 50, 50]
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


def test_says_what_is_wrong_with_image_or_map():
    with pytest.raises(ValueError, match=r"image must be \[H, W, 3\] uint8, got \(60, 80\) uint8"):
        overlay(GREY[..., 0], np.zeros((60, 80), np.uint8), class_names=NAMES, background=0)
    with pytest.raises(ValueError, match=r"image's size \(60, 80\), got \(80, 60\)"):
        overlay(GREY, np.zeros((80, 60), np.uint8), class_names=NAMES, background=0)
