"""AP and AR against published figures, cases worked by hand, and pycocotools on datasets with repeated images."""

import contextlib
import copy
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from imptool.metrics.average_precision import DEFINITIONS, RECALLS, Matches, average_precision, resampled_average_precision
from imptool.metrics.bootstrap import draw_weights
from imptool.metrics.confusion import mean_of_present

CATEGORIES = [{"id": 0, "name": "dress"}, {"id": 7, "name": "belt"}]
IMAGES = [{"id": 5, "width": 200, "height": 100}]


def resampled_means(matches: Matches, weights: np.ndarray) -> dict:
    """Means over the categories that a replicate has, as pycocotools takes them."""
    return {key: mean_of_present(values) for key, values in resampled_average_precision(matches, weights).items()}


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
        assert figures.overall[key] == pytest.approx(value, abs=0.0006), key
    of_classes = [row["AP50"] for row in figures.per_class.values() if not math.isnan(row["AP50"])]
    assert np.mean(of_classes) == pytest.approx(0.532, abs=0.0006)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_one_of_two_found(two_dresses, iou_type):
    figures = average_precision(two_dresses, [result(0, 0, 0.9)], iou_type=iou_type)
    assert figures.overall["AP"] == pytest.approx(51 / 101)  # precision 1 at the recalls 0, .01, ..., .50
    assert figures.overall["AR100"] == pytest.approx(1 / 2)
    assert figures.overall["APm"] == pytest.approx(51 / 101)  # 40 x 40 px are medium
    assert math.isnan(figures.overall["APs"])
    assert math.isnan(figures.overall["APl"])
    assert figures.per_class[0] == pytest.approx(figures.overall, nan_ok=True)
    assert figures.per_class[7] == pytest.approx(dict.fromkeys(DEFINITIONS, math.nan), nan_ok=True)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_wrong_detection_with_the_higher_score_halves_the_precision(two_dresses, iou_type):
    results = [result(0, 50, 0.9), result(0, 0, 0.8), result(0, 100, 0.7)]
    figures = average_precision(two_dresses, results, iou_type=iou_type)
    assert figures.overall["AP"] == pytest.approx(2 / 3)  # 1/2 after the second and 2/3 after the third: 2/3 at every recall
    assert figures.overall["AR1"] == 0


@pytest.mark.parametrize(("shift", "found"), [(7, 5), (2, 9)])
def test_an_overlap_counts_at_the_thresholds_it_passes(shift, found):
    ground_truth = truth({"id": 1, "category_id": 0, "segmentation": square(0)})
    figures = average_precision(ground_truth, [result(0, shift, 1)], iou_type="bbox")
    assert figures.overall["AP"] == pytest.approx(found / 10)  # of .50, .55, ..., .95; IOU 33/47 = .702 and 38/42 = .905


def test_the_area_of_a_mask_is_not_that_of_its_box():
    lean = [[0, 0, 100, 0, 100, 5, 0, 5], [0, 5, 5, 5, 5, 100, 0, 100]]  # 975 px (small) in a 100 x 100 box (large)
    ground_truth = truth({"id": 1, "category_id": 0, "segmentation": lean})
    wrong = {**result(0, 0, 0.5), "segmentation": lean, "bbox": [0, 0, 100, 100]}
    stray = {**wrong, "score": 0.9, "segmentation": [[100, 0, 200, 0, 200, 5, 100, 5]]}  # 500 px, small, no match
    figures = average_precision(ground_truth, [wrong, stray], iou_type="segm")
    assert figures.overall["APs"] == pytest.approx(1 / 2)


def test_no_results_score_0_where_there_is_ground_truth(two_dresses):
    figures = average_precision(two_dresses, [], iou_type="segm")
    assert (figures.overall["AP"], figures.overall["AR100"], figures.per_class[0]["AP"]) == (0, 0, 0)
    assert math.isnan(figures.per_class[7]["AP"])
    assert math.isnan(figures.overall["APs"])


def test_no_ground_truth_is_nan():
    figures = average_precision(truth(), [result(0, 0, 0.9)], iou_type="bbox")
    assert all(math.isnan(figures.overall[key]) for key in DEFINITIONS)


def test_prints_nothing_and_leaves_its_inputs_alone(two_dresses, capsys):
    results = [result(0, 0, 0.9)]
    before = copy.deepcopy((two_dresses, results))
    average_precision(two_dresses, results, iou_type="segm")
    assert (two_dresses, results) == before
    assert capsys.readouterr() == ("", "")


def test_says_which_image_or_category_is_unknown(two_dresses):
    with pytest.raises(ValueError, match=r"every category_id .* got 3"):
        average_precision(two_dresses, [result(3, 0, 1)], iou_type="bbox")
    with pytest.raises(ValueError, match=r"every image_id .* got 6"):
        average_precision(two_dresses, [{**result(0, 0, 1), "image_id": 6}], iou_type="bbox")
    with pytest.raises(ValueError, match="'bbox' or 'segm', got 'mask'"):
        average_precision(two_dresses, [], iou_type="mask")


def random_dataset(seed: int, *, images: int = 6) -> tuple[dict, list[dict]]:
    """Boxes of three classes, an eighth of them crowds, and detections near and far; the images stand out of order."""
    rng = np.random.default_rng(seed)
    categories = [{"id": i, "name": str(i)} for i in (4, 2, 9)]
    annotations, results = [], []
    numbers = rng.permutation(images) + 10
    for image_id in numbers.tolist():
        for category_id in (2, 4, 9):
            for _ in range(rng.integers(0, 4)):
                box = [*rng.uniform(0, 300, 2).tolist(), *rng.choice([25, 70, 150], 2).astype(float).tolist()]
                place = {"image_id": image_id, "category_id": category_id}
                annotations.append({**place, "bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 1 / 8)})
                for _ in range(rng.integers(0, 4)):
                    near = [x + rng.normal(0, side / 12) for x, side in zip(box, [*box[2:], *box[2:]], strict=True)]
                    results.append({**place, "bbox": near, "score": rng.random()})
            for _ in range(rng.integers(0, 2)):
                stray = [*rng.uniform(0, 300, 2).tolist(), 60.0, 60.0]
                results.append({"image_id": image_id, "category_id": category_id, "bbox": stray, "score": rng.random()})
    rng.shuffle(results)
    listed = [{"id": image_id, "width": 500, "height": 500} for image_id in numbers.tolist()]
    annotations = [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)]
    return {"images": listed, "categories": categories, "annotations": annotations}, results


def published_evaluation(ground_truth: dict, results: list[dict], **params: Any) -> np.ndarray:
    """pycocotools' twelve figures of boxes, used as its own example does; -1 is absent."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy({"info": {}, **ground_truth})
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def repeat_images(ground_truth: dict, results: list[dict], weights: np.ndarray) -> tuple[dict, list[dict]]:
    """The dataset in which every image stands as often as its weight says, under new ids."""
    repeated: dict[str, list] = {"images": [], "annotations": [], "results": []}
    for image, weight in zip(ground_truth["images"], weights.tolist(), strict=True):
        for _ in range(weight):
            new = len(repeated["images"]) + 1
            repeated["images"].append({**image, "id": new})
            for key, rows in (("annotations", ground_truth["annotations"]), ("results", results)):
                repeated[key] += [{**row, "image_id": new} for row in rows if row["image_id"] == image["id"]]
    annotations = [{**row, "id": number} for number, row in enumerate(repeated["annotations"], start=1)]
    return {**ground_truth, "images": repeated["images"], "annotations": annotations}, repeated["results"]


@pytest.mark.parametrize("seed", range(4))
def test_overall_and_each_class_are_what_pycocotools_gives(seed):
    ground_truth, results = random_dataset(seed)
    figures = average_precision(ground_truth, results, iou_type="bbox")
    expected = published_evaluation(ground_truth, results)
    np.testing.assert_array_equal(list(figures.overall.values()), np.where(expected == -1, np.nan, expected))
    assert list(figures.per_class) == [2, 4, 9]
    for category_id, row in figures.per_class.items():
        expected = published_evaluation(ground_truth, results, catIds=[category_id])
        assert list(row) == list(DEFINITIONS)
        np.testing.assert_allclose(list(row.values()), np.where(expected == -1, np.nan, expected), rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_a_resampled_split_is_one_with_its_images_repeated(seed):
    ground_truth, results = random_dataset(seed)
    assert any(row["iscrowd"] for row in ground_truth["annotations"])
    matches = average_precision(ground_truth, results, iou_type="bbox").matches
    weights = draw_weights(6, replicates=4, seed=seed)
    weights = np.concatenate([weights, [[0, 0, 3, 0, 0, 0]]])
    resampled = resampled_means(matches, weights)
    for replicate, row in enumerate(weights):
        expected = published_evaluation(*repeat_images(ground_truth, results, row))
        expected = np.where(expected == -1, np.nan, expected)
        np.testing.assert_allclose([resampled[key][replicate] for key in ("AP", "AP50")], expected[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_weights_of_1_give_the_split_itself_ties_of_scores_included(seed):
    ground_truth, results = random_dataset(seed, images=12)
    results = [{**row, "score": round(row["score"], 1)} for row in results]
    figures = average_precision(ground_truth, results, iou_type="bbox")
    resampled = resampled_means(figures.matches, np.ones((1, 12), np.int64))
    for key in ("AP", "AP50"):
        assert resampled[key] == pytest.approx([figures.overall[key]], rel=0, abs=1e-12)


def test_weights_of_1_give_the_published_figures(shared_data):
    folder = shared_data / "photos" / "fashionpedia_sample"
    ground_truth, results = (json.loads((folder / name).read_text()) for name in ("sample.json", "fake_results.json"))
    figures = average_precision(ground_truth, results, iou_type="segm")
    resampled = resampled_means(figures.matches, np.ones((1, len(ground_truth["images"])), np.int64))
    assert resampled == {key: pytest.approx([figures.overall[key]], rel=0, abs=1e-12) for key in ("AP", "AP50")}


def test_recalls_are_pycocotools_own():
    np.testing.assert_array_equal(RECALLS, COCOeval(iouType="bbox").params.recThrs)


def test_matches_by_hand(two_dresses):
    crowd = {"id": 9, "image_id": 5, "category_id": 7, "iscrowd": 1, "segmentation": square(0)}
    two_dresses["annotations"].append(crowd)
    results = [result(0, 60, 0.2), result(7, 0, 0.9), result(0, 7, 0.4)]
    matches = average_precision(two_dresses, results, iou_type="bbox").matches
    assert (matches.images, matches.categories.tolist(), matches.instances) == (1, [0, 7], {0: 2, 7: 0})
    assert (matches.category.tolist(), matches.score.tolist()) == ([0, 0, 1], [0.4, 0.2, 0.9])
    assert matches.matched.tolist() == [0b11111, 0, 0b1111111111]  # IOU .702, 0 and, with the crowd, 1
    assert matches.ignored.tolist() == [0, 0, 0b1111111111]
    assert (matches.instance_category.tolist(), matches.instance_count.tolist()) == ([0], [2])


def test_no_class_has_instances_in_a_replicate_without_them(two_dresses):
    two_dresses = {**two_dresses, "images": [*IMAGES, {"id": 2, "width": 200, "height": 100}]}
    matches = average_precision(two_dresses, [result(0, 0, 0.9)], iou_type="bbox").matches
    resampled = resampled_means(matches, np.array([[0, 2], [1, 1]]))
    np.testing.assert_allclose(resampled["AP"], [np.nan, 51 / 101])
    empty = average_precision(truth(), [], iou_type="bbox").matches
    assert np.isnan(resampled_means(empty, np.ones((2, 1), np.int64))["AP50"]).all()


def test_without_results_every_replicate_scores_0(two_dresses):
    matches = average_precision(two_dresses, [], iou_type="segm").matches
    assert resampled_means(matches, np.array([[1], [3]]))["AP"].tolist() == [0, 0]


def test_matches_go_through_a_file_without_pickle(tmp_path):
    ground_truth, results = random_dataset(0)
    matches = average_precision(ground_truth, results, iou_type="bbox").matches
    np.savez_compressed(tmp_path / "matches.npz", **matches.to_arrays())
    with np.load(tmp_path / "matches.npz", allow_pickle=False) as arrays:
        loaded = Matches.from_arrays(arrays)
    assert loaded.images == 6
    assert isinstance(loaded.images, int)
    for name, array in matches.to_arrays().items():
        np.testing.assert_array_equal(loaded.to_arrays()[name], array)
        assert loaded.to_arrays()[name].dtype == array.dtype


def test_matches_that_do_not_fit_are_refused():
    ground_truth, results = random_dataset(0)
    arrays = average_precision(ground_truth, results, iou_type="bbox").matches.to_arrays()
    for name, wrong, words in (
        ("score", arrays["score"][1:], "must be of one length"),
        ("images", np.array(3), r"ranks of image must be 0\.\.2"),
        ("instance_category", arrays["instance_category"] + 1, r"ranks of category must be 0\.\.2, got 1\.\.3"),
        ("category", arrays["category"][::-1], "must stand by category"),
    ):
        with pytest.raises(ValueError, match=words):
            Matches.from_arrays({**arrays, name: wrong})
    with pytest.raises(ValueError, match=r"weights must be \[b, 6\]"):
        resampled_means(Matches.from_arrays(arrays), np.ones((1, 5), np.int64))


def test_matches_within_a_larger_set_of_images():
    ground_truth, results = random_dataset(0)
    matches = average_precision(ground_truth, results, iou_type="bbox").matches
    ranks = [7, 2, 3, 0, 5, 1]
    weights = draw_weights(8, replicates=5)
    larger = resampled_means(matches.renumbered(ranks, 8), weights)
    np.testing.assert_array_equal(larger["AP"], resampled_means(matches, weights[:, ranks])["AP"])


def test_a_crowd_is_no_instance_and_what_lies_on_it_is_not_wrong(two_dresses):
    two_dresses["annotations"][1]["iscrowd"] = 1
    figures = average_precision(two_dresses, [result(0, 100, 0.9), result(0, 0, 0.8)], iou_type="segm")
    assert figures.overall["AP"] == pytest.approx(1)
    assert figures.matches.instances == {0: 1, 7: 0}


def test_a_result_without_bbox_has_the_box_of_its_mask(two_dresses):
    results = [result(0, 3, 0.9), result(0, 100, 0.8)]
    expected = average_precision(two_dresses, results, iou_type="bbox").overall
    without = [{key: value for key, value in row.items() if key != "bbox"} for row in results]
    assert average_precision(two_dresses, without, iou_type="bbox").overall == pytest.approx(expected, nan_ok=True)
    assert 0 < expected["AP"] < 1


@pytest.mark.parametrize("score", [math.nan, math.inf, "0.9", None, True])
def test_a_score_must_be_a_number(two_dresses, score):
    results = [result(0, 0, 0.9), {**result(0, 0, 0.5), "score": score}, result(0, 0, math.nan)]
    with pytest.raises(ValueError, match=rf"result 1 \(image_id 5\): score must be a finite number, got {score!r}"):
        average_precision(two_dresses, results, iou_type="segm")


@pytest.mark.parametrize("box", [[0, 0, 40], [0, 0, -1, 40], [0, math.nan, 40, 40], [0, 0, 40, "40"], None, []])
def test_a_box_must_be_four_numbers(two_dresses, box):
    results = [result(0, 0, 0.9), {**result(0, 0, 0.5), "bbox": box}]
    with pytest.raises(ValueError, match=r"result 1 \(image_id 5\): bbox must be four finite numbers"):
        average_precision(two_dresses, results, iou_type="bbox")
    average_precision(two_dresses, results, iou_type="segm")  # where masks are compared, boxes are not read


def test_a_mask_must_have_the_size_of_its_image(two_dresses):
    mask = coco_mask.encode(np.ones((100, 200), np.uint8, order="F"))
    average_precision(two_dresses, [{**result(0, 0, 0.9), "segmentation": mask}], iou_type="segm")
    for wrong, words in (
        ({**mask, "size": [200, 100]}, r"size \[200, 100\], its image \[100, 200\]"),
        ({**mask, "counts": coco_mask.encode(np.eye(50, dtype=np.uint8, order="F"))["counts"]}, "RLE covers 2500 pixels"),
        ({"size": [100, 200], "counts": [0, 30]}, "RLE covers 30 pixels, its image has 20000"),
        ([[0, 0, math.nan, 5, 5, 5]], "polygons must be"),
        (None, "segmentation must be"),
    ):
        results = [result(0, 0, 0.9), {**result(0, 0, 0.9), "segmentation": wrong}]
        with pytest.raises(ValueError, match=rf"result 1 \(image_id 5\): .*{words}"):
            average_precision(two_dresses, results, iou_type="segm")
