"""AP and AR against published figures and cases worked by hand."""

import copy
import json
import math

import pytest

from imptool.metrics.average_precision import DEFINITIONS, average_precision

CATEGORIES = [{"id": 0, "name": "dress"}, {"id": 7, "name": "belt"}]
IMAGES = [{"id": 5, "width": 200, "height": 100}]


def square(left: float, side: float = 40) -> list[list[float]]:
    return [[left, 0, left + side, 0, left + side, side, left, side]]


def truth(*annotations: dict) -> dict:
    return {"images": IMAGES, "categories": CATEGORIES, "annotations": [{"image_id": 5, **a} for a in annotations]}


def result(category_id: int, left: float, score: float) -> dict:
    return {
        "image_id": 5,
        "category_id": category_id,
        "score": score,
        "bbox": [left, 0, 40, 40],
        "segmentation": square(left),
    }


@pytest.fixture
def two_dresses() -> dict:
    """Without bbox, area or iscrowd, and with annotation id 0: all of it occurs in real files."""
    return truth(*({"id": n, "category_id": 0, "segmentation": square(100 * n)} for n in (0, 1)))


def test_equals_the_published_figures_of_the_fashionpedia_sample(shared_data):
    folder = shared_data / "photos" / "fashionpedia_sample"
    ground_truth, results = (json.loads((folder / name).read_text()) for name in ("sample.json", "fake_results.json"))
    figures = average_precision(ground_truth, results, iou_type="segm")
    # From the notebook that comes with the sample.
    published = {"AP": 0.532, "AP50": 0.532, "AP75": 0.532, "APs": 0.505, "APm": 0, "APl": 0.8}
    published |= {"AR1": 0.5, "AR10": 0.562, "AR100": 0.562, "ARs": 0.5, "ARm": 0, "ARl": 0.8}
    assert list(published) == list(DEFINITIONS)
    for key, value in published.items():
        assert figures[key] == pytest.approx(value, abs=0.0006), key


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_one_of_two_found(two_dresses, iou_type):
    figures = average_precision(two_dresses, [result(0, 0, 0.9)], iou_type=iou_type)
    assert figures["AP"] == pytest.approx(51 / 101)  # precision 1 at the recalls 0, .01, ..., .50
    assert figures["AR100"] == pytest.approx(1 / 2)
    assert figures["APm"] == pytest.approx(51 / 101)  # 40 x 40 px are medium
    assert math.isnan(figures["APs"])
    assert math.isnan(figures["APl"])
    assert figures["per_class"] == pytest.approx({0: 51 / 101, 7: math.nan}, nan_ok=True)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_wrong_detection_with_the_higher_score_halves_the_precision(two_dresses, iou_type):
    results = [result(0, 50, 0.9), result(0, 0, 0.8), result(0, 100, 0.7)]
    figures = average_precision(two_dresses, results, iou_type=iou_type)
    assert figures["AP"] == pytest.approx(2 / 3)  # 1/2 after the second and 2/3 after the third: 2/3 at every recall
    assert figures["AR1"] == 0


@pytest.mark.parametrize(("shift", "found"), [(7, 5), (2, 9)])
def test_an_overlap_counts_at_the_thresholds_it_passes(shift, found):
    ground_truth = truth({"id": 1, "category_id": 0, "segmentation": square(0)})
    figures = average_precision(ground_truth, [result(0, shift, 1)], iou_type="bbox")
    assert figures["AP"] == pytest.approx(found / 10)  # of .50, .55, ..., .95; IOU 33/47 = .702 and 38/42 = .905


def test_the_area_of_a_mask_is_not_that_of_its_box():
    lean = [[0, 0, 100, 0, 100, 5, 0, 5], [0, 5, 5, 5, 5, 100, 0, 100]]  # 975 px (small) in a 100 x 100 box (large)
    ground_truth = truth({"id": 1, "category_id": 0, "segmentation": lean})
    wrong = {**result(0, 0, 0.5), "segmentation": lean, "bbox": [0, 0, 100, 100]}
    stray = {**wrong, "score": 0.9, "segmentation": [[100, 0, 200, 0, 200, 5, 100, 5]]}  # 500 px, small, no match
    figures = average_precision(ground_truth, [wrong, stray], iou_type="segm")
    assert figures["APs"] == pytest.approx(1 / 2)


def test_no_results_score_0_where_there_is_ground_truth(two_dresses):
    figures = average_precision(two_dresses, [], iou_type="segm")
    assert (figures["AP"], figures["AR100"], figures["per_class"][0]) == (0, 0, 0)
    assert math.isnan(figures["per_class"][7])
    assert math.isnan(figures["APs"])


def test_no_ground_truth_is_nan():
    figures = average_precision(truth(), [result(0, 0, 0.9)], iou_type="bbox")
    assert all(math.isnan(figures[key]) for key in DEFINITIONS)


def test_prints_nothing_and_leaves_its_inputs_alone(two_dresses, capsys):
    results = [result(0, 0, 0.9)]
    before = copy.deepcopy((two_dresses, results))
    average_precision(two_dresses, results, iou_type="segm")
    assert (two_dresses, results) == before
    assert capsys.readouterr() == ("", "")


def test_says_which_image_or_category_is_unknown(two_dresses):
    with pytest.raises(ValueError, match=r"every category_id .* got \[3\]"):
        average_precision(two_dresses, [result(3, 0, 1)], iou_type="bbox")
    with pytest.raises(ValueError, match=r"every image_id .* got \[6\]"):
        average_precision(two_dresses, [{**result(0, 0, 1), "image_id": 6}], iou_type="bbox")
    with pytest.raises(ValueError, match="'bbox' or 'segm', got 'mask'"):
        average_precision(two_dresses, [], iou_type="mask")
