"""`imptool eval --predictions`: anybody's label PNGs and COCO results, counted by hand and by other libraries, and refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from click.testing import Result
from conftest import CLASSES
from PIL import Image
from scipy.stats import t as student
from sklearn.metrics import confusion_matrix, jaccard_score

Imptool = Callable[..., Result]
NAMES = ("a", "b", "c")


def save(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


def drawn(seed: int, size: tuple[int, int] = (40, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A target of three classes with an ignored corner, and a prediction that is off by some pixels and one wrong class."""
    target = np.zeros(size, np.uint8)
    target[5 + seed : 30, 6:24] = 1
    target[2 : 5 + seed, 10:18] = 2
    predicted = np.roll(target, (1, seed), (0, 1))
    predicted[:4] = np.where(predicted[:4] == 0, seed % 3, predicted[:4])
    target[-4:, -4:] = 255
    return target, predicted


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """target/ (labels alone, no images) and theirs/, three maps each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    for seed, name in enumerate(NAMES):
        target, predicted = drawn(seed)
        save(Path("target/labels", f"{name}.png"), target)
        save(Path("theirs", f"{name}.png"), predicted)
    Path("target/classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def evaluate(
    imptool: Imptool, *options: object, code: int = 0, predictions: str = "theirs", out: str = "out"
) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    result = imptool("eval", "--predictions", predictions, "--dataset", "target", "--out", out, *options)
    assert result.exit_code == code, result.output
    return json.loads(Path(out, "metrics.json").read_text())


def refused(imptool: Imptool, *arguments: object) -> str:
    result = imptool("eval", *arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def flat(counted: bool = True) -> tuple[np.ndarray, np.ndarray]:
    pairs = [drawn(seed) for seed in range(len(NAMES))]
    target, predicted = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return (target[target != 255], predicted[target != 255]) if counted else (target, predicted)


def test_figures_are_scikit_learns(maps: Path, imptool: Imptool) -> None:
    semantic = evaluate(imptool)["semantic"]["theirs"]
    target, predicted = flat()
    assert semantic["confusion"] == confusion_matrix(target, predicted, labels=[0, 1, 2]).tolist()
    iou = jaccard_score(target, predicted, labels=[0, 1, 2], average=None)
    assert semantic["miou_with_background"] == pytest.approx(iou.mean())
    assert semantic["miou"] == pytest.approx(iou[1:].mean())
    assert semantic["pixel_accuracy"] == pytest.approx((target == predicted).mean())
    assert semantic["conventions"]["imptool"]["miou"] == pytest.approx(iou[1:].mean())
    assert semantic["conventions"]["mmseg"]["miou"] == pytest.approx(iou.mean())


def test_photographs_by_themselves_are_scikit_learns_the_worst_first(maps: Path, imptool: Imptool) -> None:
    evaluate(imptool)
    with Path("out/per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {}
    for seed, name in enumerate(NAMES):
        target, predicted = drawn(seed)
        counted = target != 255
        expected[name] = jaccard_score(target[counted], predicted[counted], labels=[1, 2], average=None).mean()
    assert [Path(row["photograph"]).stem for row in rows] == sorted(expected, key=expected.__getitem__)
    for row in rows:
        assert float(row["miou"]) == pytest.approx(expected[Path(row["photograph"]).stem], abs=1e-4)


def test_intervals_are_those_of_resampled_photographs(maps: Path, imptool: Imptool) -> None:
    """Ten images, of which one is wrong in half of its pixels: a draw has it k times, k binomial(10, 1/10), by hand."""
    for number in range(10):
        save(Path("target/labels", f"{number}.png"), np.repeat([[1, 0]], 4, axis=0))
        save(Path("theirs", f"{number}.png"), np.repeat([[1, 1 if number == 3 else 0]], 4, axis=0))
    for name in NAMES:
        Path("target/labels", f"{name}.png").unlink()
    semantic = evaluate(imptool)["semantic"]["theirs"]
    # P(k <= 3) = 0.987, P(k <= 2) = 0.930, P(k = 0) = 0.349: 95 % lie between 0 and 3 times
    assert semantic["intervals"]["pixel_accuracy"] == pytest.approx([1 - 3 * 0.05, 1])
    assert semantic["per_class"][1]["iou_interval"] == pytest.approx([40 / (40 + 3 * 4), 1])


def test_what_rests_on_few_photographs_has_no_interval(maps: Path, imptool: Imptool) -> None:
    semantic = evaluate(imptool)["semantic"]["theirs"]
    assert semantic["intervals"]["miou"] == [None, None]
    for number in range(10):  # a hat in three of thirteen
        for folder in ("target/labels", "theirs"):
            save(Path(folder, f"{number}.png"), np.eye(20))
    semantic = evaluate(imptool)["semantic"]["theirs"]
    assert None not in semantic["intervals"]["pixel_accuracy"]
    assert None not in semantic["per_class"][1]["iou_interval"]
    assert semantic["per_class"][2]["iou_interval"] == [None, None]


def measured_on(imptool: Imptool, pairs: list[tuple[list[str], list[str]]], *arguments: object) -> dict[str, Any]:
    """The figures of small maps (target, predicted), drawn as rows of ids with a dot for what is ignored."""
    for folder in ("target/labels", "theirs"):
        for path in Path(folder).iterdir():
            path.unlink()
    for number, pair in enumerate(pairs):
        for folder, lines in zip(("target/labels", "theirs"), pair, strict=True):
            ids = [[255 if sign == "." else int(sign) for sign in line] for line in lines]
            save(Path(folder, f"{number:02}.png"), np.array(ids))
    found: dict[str, Any] = evaluate(imptool, *arguments)["semantic"]["theirs"]
    return found


def has_interval(figures: dict[str, Any], key: str) -> bool:
    low, high = figures["intervals"][key]
    least = 10 if key in ("pixel_accuracy", "frequency_weighted_iou") else 20
    assert (low is None) == (high is None) == (figures["photographs"][key] < least)
    return low is not None


EMPTY, COAT = (["0000", "0000"], ["0000", "0000"]), (["0110", "0000"], ["0110", "0000"])
BOTH, LOST = (["0110", "0022"], ["0111", "0022"]), (["0110", "0022"], ["0110", "0000"])


def test_a_mean_whose_only_class_is_in_one_photograph_has_no_interval(maps: Path, imptool: Imptool) -> None:
    figures = measured_on(imptool, [EMPTY] * 20 + [(["0110", "0000"], ["0100", "0000"])])
    assert (figures["miou"], figures["photographs"]["miou"]) == (0.5, 1)
    assert not any(has_interval(figures, key) for key in ("miou", "macc"))
    assert has_interval(figures, "pixel_accuracy")


def test_a_mean_that_rests_by_half_on_one_photograph_has_no_interval(maps: Path, imptool: Imptool) -> None:
    """A coat in 40, a hat in one of them that is never found: its weights are 1/2 + 1/80 and 39 times 1/80."""
    figures = measured_on(imptool, [COAT] * 39 + [LOST])
    assert figures["miou"] == 0.5
    assert figures["photographs"]["miou"] == pytest.approx(1 / ((41 / 80) ** 2 + 39 / 80**2), abs=0.01)
    assert not has_interval(figures, "miou")
    assert has_interval(figures, "miou_things") == has_interval(figures, "miou")


def test_a_mean_over_classes_has_an_interval_from_twenty_photographs_on(maps: Path, imptool: Imptool) -> None:
    for count in (19, 20):
        figures = measured_on(imptool, [COAT] * count)
        assert figures["photographs"]["miou"] == count
        assert figures["per_class"][1]["iou_interval"] == [1, 1]
        assert has_interval(figures, "miou") == (count == 20)


def test_recall_rests_on_the_photographs_of_the_target(maps: Path, imptool: Imptool) -> None:
    """A hat in nine images, predicted in ten: its IOU has an interval, its recall has none."""
    figures = measured_on(imptool, [BOTH] * 9 + [(["0110", "0000"], ["0110", "0002"])])
    hat = figures["per_class"][2]
    assert (hat["iou_photographs"], hat["accuracy_photographs"]) == (10, 9)
    assert hat["iou_interval"] != [None, None]
    assert hat["accuracy_interval"] == [None, None]
    assert figures["photographs"]["miou"] == 10
    assert figures["photographs"]["macc"] == pytest.approx(4 / (1 / 10 + 1 / 9 + 2 * 9 / 90), abs=0.01)


def test_pixel_accuracy_rests_on_photographs_with_counted_pixels(maps: Path, imptool: Imptool) -> None:
    figures = measured_on(imptool, [COAT] * 9 + [(["....", "...."], ["0000", "0000"])] * 6)
    assert figures["photographs"]["pixel_accuracy"] == figures["photographs"]["frequency_weighted_iou"] == 9
    assert not has_interval(figures, "pixel_accuracy")


def test_figures_near_the_boundary_rest_on_photographs_with_one(maps: Path, imptool: Imptool) -> None:
    """All coat in 15 images, which have no boundary, and a coat with an edge in nine."""
    whole = (["1111", "1111"], ["1111", "1111"])
    figures = measured_on(imptool, [whole] * 15 + [COAT] * 9, "--bands", "1,2", "--boundary-f", "1", "--boundary-iou", "1")
    assert figures["per_class"][1]["iou_photographs"] == 24
    assert figures["photographs"]["pixel_accuracy"] == figures["photographs"]["miou"] == 24
    (band, _), ring = figures["bands"], figures["rings"][0]
    for level in (band, ring):
        assert level["per_class"][1]["iou_photographs"] == level["per_class"][1]["accuracy_photographs"] == 9
        assert level["per_class"][1]["iou_interval"] == [None, None]
        assert not any(has_interval(level, key) for key in ("miou", "macc", "pixel_accuracy", "frequency_weighted_iou"))
    assert figures["per_class"][1]["boundary_f_photographs"] == 9
    assert not has_interval(figures, "boundary_f")
    assert has_interval(figures, "boundary_iou")  # for which the image border is a contour


def test_the_interval_of_a_mean_is_students_over_photographs_left_out(maps: Path, imptool: Imptool) -> None:
    """Against scikit-learn's Jaccard scores with each image left out, and SciPy's t."""
    rng = np.random.default_rng(5)
    pairs = []
    for _ in range(24):
        target = rng.choice(3, (4, 5), p=[0.6, 0.3, 0.1])
        predicted = np.where(rng.random((4, 5)) < 0.2, rng.integers(0, 3, (4, 5)), target)
        pairs.append(tuple(["".join(map(str, row)) for row in side] for side in (target, predicted)))
    figures = measured_on(imptool, pairs)  # type: ignore[arg-type]

    def miou(chosen: list[Any]) -> float:
        target, predicted = (np.array([list("".join(pair[side])) for pair in chosen]).ravel() for side in (0, 1))
        return float(jaccard_score(target, predicted, labels=["1", "2"], average=None).mean())

    left_out = [miou(pairs[:number] + pairs[number + 1 :]) for number in range(24)]
    error = np.sqrt(23 / 24 * np.sum((left_out - np.mean(left_out)) ** 2))
    shows = np.array([[any(str(c) in line for side in pair for line in side) for c in (1, 2)] for pair in pairs])
    weights = (shows / shows.sum(axis=0)).mean(axis=1)
    images = 1 / np.sum(weights**2)
    assert figures["photographs"]["miou"] == pytest.approx(images, abs=0.01)
    low, high = student.interval(0.95, images - 1, miou(pairs), error)
    # its bias, from draws of one's own: a thousand tell it to some thousandths
    bias = np.mean([miou([pairs[n] for n in rng.integers(24, size=24)]) for _ in range(300)]) - miou(pairs)
    found_low, found_high = figures["intervals"]["miou"]
    assert found_low == pytest.approx(low - max(bias, 0), abs=0.01)
    assert found_high == pytest.approx(high - min(bias, 0), abs=0.01)
    assert min(abs(found_low - low), abs(found_high - high)) == pytest.approx(0, abs=1e-9)  # one end has no bias


@pytest.mark.parametrize(
    ("target", "predicted", "miou", "accuracy"),
    [
        (["0000", "0110", "0110"], ["0000", "0011", "0011"], 2 / 6, 8 / 12),  # a square, off by one pixel
        (["0000", "0110"], ["0000", "0000"], 0, 6 / 8),  # never predicted
        (["0000", "0000"], ["0000", "0220"], 0, 6 / 8),  # predicted, never there
        (["1111", "1111"], ["1111", "1111"], 1, 1),  # one class only
        (["0100", "0100"], ["0100", "0110"], 2 / 3, 7 / 8),  # one pixel wide
        (["1100", "1100"], ["1000", "1100"], 3 / 4, 7 / 8),  # touches the border
        (["1.00", "1.00"], ["1200", "1200"], 1, 1),  # what is ignored may be anything
    ],
)
def test_cases_counted_by_hand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    imptool: Imptool,
    target: list[str],
    predicted: list[str],
    miou: float,
    accuracy: float,
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, lines in (("target/labels/a.png", target), ("theirs/a.png", predicted)):
        save(Path(path), np.array([[255 if c == "." else int(c) for c in line] for line in lines]))
    Path("target/classes.txt").write_text("\n".join(CLASSES))
    figures = evaluate(imptool, "--bands", "1,2")["semantic"]["theirs"]
    assert figures["miou"] == pytest.approx(miou)
    assert figures["pixel_accuracy"] == pytest.approx(accuracy)


def test_everything_ignored_has_no_figure_and_no_crash(maps: Path, imptool: Imptool) -> None:
    for name in NAMES:
        save(Path("target/labels", f"{name}.png"), np.full((40, 30), 255))
    figures = evaluate(imptool, "--bands", "3", "--boundary-f", "1", "--boundary-iou", "2%")["semantic"]["theirs"]
    assert figures["miou"] is None
    assert figures["intervals"]["miou"] == [None, None]
    assert np.sum(figures["confusion"]) == 0


def test_predictions_of_background_alone_are_told(maps: Path, imptool: Imptool) -> None:
    assert evaluate(imptool)["dataset"]["notes"] == []
    for name in NAMES:
        save(Path("theirs", f"{name}.png"), np.zeros((40, 30)))
    assert evaluate(imptool)["dataset"]["notes"] == ["no class is found in any of 3 label maps"]


def test_bands_are_counted_by_hand(maps: Path, imptool: Imptool) -> None:
    """A vertical edge in the middle of 10 x 20 px: columns 9 and 10 are boundary, a band of 2 px has 6 columns."""
    for name in NAMES:
        target = np.repeat([[0] * 10 + [1] * 10], 10, axis=0)
        save(Path("target/labels", f"{name}.png"), target)
        save(Path("theirs", f"{name}.png"), np.roll(target, 1, axis=1))  # columns 10 and 0 are wrong
    figures = evaluate(imptool, "--bands", "1,2")["semantic"]["theirs"]
    near, wider = figures["bands"]
    assert (np.sum(near["confusion"]), np.sum(wider["confusion"])) == (3 * 40, 3 * 60)
    assert near["per_class"][1]["iou"] == pytest.approx(10 / 20)  # of 2 columns of class 1 in the band, 1 is found
    assert wider["per_class"][1]["iou"] == pytest.approx(20 / 30)
    assert [ring["from"] for ring in figures["rings"]] == [0, 1, 2]
    assert np.sum([ring["confusion"] for ring in figures["rings"]], axis=0).tolist() == figures["confusion"]


def test_contours_of_the_classes_are_told(maps: Path, imptool: Imptool) -> None:
    figures = evaluate(imptool, "--boundary-f", "1", "--boundary-iou", "2")["semantic"]["theirs"]
    assert 0 < figures["boundary_iou"] < figures["boundary_f"] < 1
    assert {"boundary_f", "boundary_iou"} <= figures["per_class"][1].keys()
    same = evaluate(imptool, "--boundary-f", "1", "--boundary-iou", "2", predictions="target/labels")["semantic"]["labels"]
    assert same["boundary_iou"] == same["boundary_f"] == same["miou"] == 1


def test_neither_workers_nor_the_order_of_photographs_change_a_byte(maps: Path, imptool: Imptool) -> None:
    Path("target.yaml").write_text("layout: folder\nroot: ./target\nsplits: {val: target/list.txt}\n")
    written = []
    for order, workers in (("abc", 0), ("cab", 1), ("bca", 3)):
        Path("target/list.txt").write_text("\n".join(order))
        Path("target.yaml").write_text("layout: folder\nroot: ./target\nsplits: {val: list.txt}\n")
        result = imptool(
            *("eval", "--predictions", "theirs", "--dataset", "target.yaml", "--out", f"out{workers}"),
            *("--workers", workers, "--bands", "1,2,5", "--boundary-f", "1"),
        )
        assert result.exit_code == 0, result.output
        written.append(
            [Path(f"out{workers}", name).read_bytes() for name in ("metrics.json", "per_image.csv", "per_image.npz")]
        )
    assert written[0] == written[1] == written[2]


def test_ids_mean_what_remap_says(maps: Path, imptool: Imptool) -> None:
    expected = evaluate(imptool)["semantic"]["theirs"]["confusion"]
    for name in NAMES:
        ids = np.asarray(Image.open(f"theirs/{name}.png"))
        save(Path("other", f"{name}.png"), np.array([70, 7, 9])[ids])
    Path("ids.yaml").write_text("7: 1\n9: 2\n")
    for options in (("--remap", "70=0,7=1,9=2"), ("--remap", "ids.yaml", "--remap", "70=0"), ("--remap", "7=1,9=2,default=0")):
        assert evaluate(imptool, *options, predictions="other")["semantic"]["other"]["confusion"] == expected
    result = imptool("eval", "--predictions", "other", "--dataset", "target", "--remap", "7=1", "--out", "none")
    assert result.exit_code == 2
    assert "other/a.png holds id 9, 70, not in the class list: say what it is, such as --remap 9=0" in result.stderr
    assert "8 is no class id" in refused(imptool, "--predictions", "other", "--dataset", "target", "--remap", "7=8")
    assert "write ids such as" in refused(imptool, "--predictions", "other", "--dataset", "target", "--remap", "a=b")
    assert "255 is no class id" in refused(imptool, "--predictions", "other", "--dataset", "target", "--remap", "7=255")
    for text in ("7: 1.9", "7: true", "1.5: 1", "7: .inf", "remap: [1]"):
        Path("odd.yaml").write_text(text)
        assert "from id to id" in refused(imptool, "--predictions", "other", "--dataset", "target", "--remap", "odd.yaml")


def test_maps_of_another_size_are_refused_or_resized_on_request(maps: Path, imptool: Imptool) -> None:
    target = np.asarray(Image.open("target/labels/a.png"))
    save(Path("theirs/a.png"), np.asarray(Image.fromarray(drawn(0)[1]).resize((60, 80), Image.Resampling.NEAREST)))
    result = imptool("eval", "--predictions", "theirs", "--dataset", "target", "--out", "none")
    assert result.exit_code == 1
    assert "theirs/a.png is 80x60, its target 40x30 (height x width): predict at that size, or add --resize" in result.stderr
    figures = evaluate(imptool, "--resize")
    assert figures["dataset"]["photographs"] == 3
    assert figures["semantic"]["theirs"]["confusion"] == confusion_matrix(*flat(), labels=[0, 1, 2]).tolist()  # twice as large
    assert target.shape == (40, 30)


def test_missing_predictions_are_listed_and_background_only_on_request(maps: Path, imptool: Imptool) -> None:
    Path("theirs/b.png").unlink()
    save(Path("theirs/more/stranger.png"), np.zeros((4, 4)))
    result = imptool("eval", "--predictions", "theirs", "--dataset", "target", "--out", "skipped")
    assert result.exit_code == 1
    assert "theirs has no b.png: predict it, or add --missing-as-background" in result.stderr
    assert "1 PNGs in theirs belong to no image of the split, such as more/stranger.png" in result.stdout
    skipped = json.loads(Path("skipped/metrics.json").read_text())
    assert skipped["dataset"]["photographs"] == 2
    scored = evaluate(imptool, "--missing-as-background")
    assert scored["dataset"]["photographs"] == 3
    target = drawn(1)[0]
    added = np.bincount(target[target != 255], minlength=3)
    difference = np.subtract(scored["semantic"]["theirs"]["confusion"], skipped["semantic"]["theirs"]["confusion"])
    assert difference[:, 0].tolist() == added.tolist()
    assert not difference[:, 1:].any()


def test_targets_as_predictions_are_told(maps: Path, imptool: Imptool) -> None:
    result = imptool("eval", "--predictions", "target/labels", "--dataset", "target")
    assert result.exit_code == 0
    assert "target/labels holds the targets themselves" in result.stdout


def test_predictions_in_folders_are_found_by_path_or_by_a_name_that_is_unique(maps: Path, imptool: Imptool) -> None:
    for name in NAMES:
        Path("theirs/deep").mkdir(exist_ok=True)
        Path("theirs", f"{name}.png").rename(Path("theirs/deep", f"{name}.png"))
    assert evaluate(imptool)["dataset"]["photographs"] == 3
    save(Path("theirs/twice/a.png"), drawn(1)[1])
    result = imptool("eval", "--predictions", "theirs", "--dataset", "target", "--missing-as-background")
    assert result.exit_code == 1
    assert "theirs has deep/a.png and twice/a.png: which of them is a? Lay it at a.png" in result.stderr


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: Image.new("RGB", (30, 40), "red").save(path), "is a colour picture (RGB), not a label map"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "is not a readable picture"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: save(path, np.full((40, 30), 77)), "holds id 77, not in the class list"),
        (lambda path: save(path, np.full((40, 30), 255)), "holds id 255, not in the class list"),
        (lambda path: Image.new("L", (30, 40)).save(path, "JPEG"), "is a JPEG in a file named .png"),
    ],
)
def test_one_bad_prediction_is_listed_and_costs_nothing_else(
    maps: Path, imptool: Imptool, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(Path("theirs/b.png"))
    result = imptool("eval", "--predictions", "theirs", "--dataset", "target", "--out", "out")
    assert result.exit_code == 1
    assert "theirs/b.png" in result.stderr
    assert words in result.stderr
    assert json.loads(Path("out/metrics.json").read_text())["dataset"]["photographs"] == 2


def test_refusals_are_one_line(maps: Path, imptool: Imptool) -> None:
    assert "add --dataset" in refused(imptool, "--predictions", "theirs")
    assert "nowhere is no folder" in refused(imptool, "--predictions", "nowhere", "--dataset", "target")
    assert "give one of them" in refused(imptool, "runs", "--predictions", "theirs", "--dataset", "target")
    assert "add --predictions" in refused(imptool, "--resize")
    assert "no split 'test'" in refused(imptool, "--predictions", "theirs", "--dataset", "target", "--split", "test")
    assert "--boundary-f x" in refused(imptool, "--predictions", "theirs", "--dataset", "target", "--boundary-f", "x")
    for option, size in (("--boundary-f", "0"), ("--boundary-iou", "2.5"), ("--boundary-iou", "0%"), ("--boundary-iou", "nan")):
        assert f"{option} {size}" in refused(imptool, "--predictions", "theirs", "--dataset", "target", option, size)
    twice = ("--remap", "9=1,9=2")
    assert "9 cannot be both 1 and 2" in refused(imptool, "--predictions", "theirs", "--dataset", "target", *twice)
    shutil.copytree("theirs", "prior")
    refusal = refused(imptool, "--predictions", "prior", "--dataset", "target", "--baseline", "prior")
    assert "rename the folder" in refusal
    Path("empty").mkdir()
    assert "none of its 0 PNGs" in refused(imptool, "--predictions", "empty", "--dataset", "target")
    Path("target/none.txt").write_text("")
    Path("target.yaml").write_text("layout: folder\nroot: ./target\nsplits: {val: none.txt}\n")
    assert "is empty" in refused(imptool, "--predictions", "theirs", "--dataset", "target.yaml")
    Path("theirs.txt").write_text("no folder")
    assert "theirs.txt is no folder" in refused(imptool, "--predictions", "theirs.txt", "--dataset", "target")


def test_results_do_not_go_among_label_maps(maps: Path, imptool: Imptool) -> None:
    for out in ("target/labels/out", "theirs"):
        line = refused(imptool, "--predictions", "theirs", "--dataset", "target", "--out", out)
        assert "choose another" in line
    assert {path.name for path in Path("target/labels").iterdir()} == {f"{name}.png" for name in NAMES}


def test_images_of_one_name_are_told_apart(maps: Path, imptool: Imptool) -> None:
    annotation = coco()["annotations"][0]
    images = [{**coco()["images"][0], "id": number} for number in (7, 8)]
    annotations = [{**annotation, "id": number, "image_id": number} for number in (7, 8)]
    truth = write("truth.json", coco(images=images, annotations=annotations))
    results = write("results.json", [detection(), detection(image_id=8)])
    assert imptool("eval", "--predictions", results, "--dataset", truth, "--out", "out").exit_code == 0
    with np.load("out/per_image.npz") as arrays:
        assert arrays["box/image"].tolist() == [0, 1]


def test_own_results_are_replaced_and_those_of_others_are_not(maps: Path, imptool: Imptool) -> None:
    options = ("--dataset", "target")
    assert imptool("eval", "--predictions", "theirs", *options, "--bands", "2").exit_code == 0
    assert Path("evaluations/target-all/theirs/bands.svg").is_file()
    assert imptool("eval", "--predictions", "theirs", *options).exit_code == 0
    assert not Path("evaluations/target-all/theirs/bands.svg").exists()
    shutil.copytree("theirs", "more/theirs")
    assert "already holds results of theirs on target" in refused(imptool, "--predictions", "more/theirs", *options)
    assert imptool("eval", "--predictions", Path("theirs").resolve(), *options).exit_code == 0  # the same folder
    shutil.copytree("target", "more/target")
    assert "already holds" in refused(imptool, "--predictions", "theirs", "--dataset", "more/target")


def coco(**changes: Any) -> dict[str, Any]:
    """A ground truth as people write it: no info, no licenses, no iscrowd."""
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 30}],
        "categories": [{"id": 3, "name": "coat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": square}],
    } | changes


def detection(**changes: Any) -> dict[str, Any]:
    return {"image_id": 7, "category_id": 3, "score": 0.9, "segmentation": coco()["annotations"][0]["segmentation"]} | changes


def write(path: str, value: object) -> str:
    Path(path).write_text(json.dumps(value))
    return path


def test_coco_results_against_a_coco_file(maps: Path, imptool: Imptool) -> None:
    truth, results = write("truth.json", coco()), write("results.json", [detection()])
    assert imptool("eval", "--predictions", results, "--dataset", truth, "--out", "out").exit_code == 0
    precision = json.loads(Path("out/metrics.json").read_text())["average_precision"]
    assert precision["mask"]["AP"] == precision["box"]["AP"] == pytest.approx(1)
    assert precision["mask"]["per_class"]["3"]["APs"] == pytest.approx(1)  # 100 px are small
    assert precision["mask"]["instances"] == {"3": 1}


def test_boxes_and_areas_of_a_coco_file_are_its_own(maps: Path, imptool: Imptool) -> None:
    """A box that is looser than its mask: IOU 100/144 = .69 with the detection's, right at four of ten thresholds."""
    annotation = {**coco()["annotations"][0], "bbox": [2, 2, 12, 12], "area": 9999}
    truth = write("truth.json", coco(annotations=[annotation]))
    results = write("results.json", [detection(bbox=[2, 2, 10, 10])])
    assert imptool("eval", "--predictions", results, "--dataset", truth, "--out", "out").exit_code == 0
    precision = json.loads(Path("out/metrics.json").read_text())["average_precision"]
    assert precision["box"]["AP"] == pytest.approx(0.4)
    assert precision["mask"]["APl"] == pytest.approx(1)  # by the area that the file states
    annotation["area"] = "large"
    assert "annotation 1 has a bbox or area" in refused(
        imptool, "--predictions", results, "--dataset", write("t.json", coco(annotations=[annotation]))
    )


def test_boxes_without_masks_have_box_ap_alone(maps: Path, imptool: Imptool) -> None:
    truth = write("truth.json", coco())
    results = write("results.json", [{"image_id": 7, "category_id": 3, "score": 1, "bbox": [2, 2, 10, 10]}])
    result = imptool("eval", "--predictions", results, "--dataset", truth, "--out", "out")
    assert result.exit_code == 0
    assert "1 of 1 results have no mask: box AP alone" in result.stdout
    assert json.loads(Path("out/metrics.json").read_text())["average_precision"].keys() == {"box"}


def test_options_about_label_maps_are_refused_for_detections(maps: Path, imptool: Imptool) -> None:
    files = ("--predictions", write("results.json", []), "--dataset", write("truth.json", coco()))
    for option in (("--bands", "1"), ("--boundary-f", "3"), ("--remap", "1=2"), ("--baseline", "prior"), ("--resize",)):
        assert "are about label maps" in refused(imptool, *files, *option)
    assert "has no splits" in refused(imptool, *files, "--split", "val")


def test_no_results_are_an_ap_of_0(maps: Path, imptool: Imptool) -> None:
    truth, results = write("truth.json", coco()), write("results.json", [])
    assert imptool("eval", "--predictions", results, "--dataset", truth, "--out", "out").exit_code == 0
    precision = json.loads(Path("out/metrics.json").read_text())["average_precision"]
    assert precision["mask"]["AP"] == precision["box"]["AP"] == 0


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([detection(score=float("nan"))], "has the score nan"),
        ([detection(score="high")], "has the score 'high'"),
        ([detection(score=10**400)], "has the score 1000"),
        ([detection(), detection(image_id=8)], "result [1] has the image_id 8"),
        ([detection(category_id=[3])], "has the category_id [3]"),
        ([detection(segmentation={"size": [4, 4], "counts": [16]})], "the RLE has the size [4, 4]"),
        ([detection(bbox=[1, 2, -3, 4])], "has the bbox"),
        ([{"image_id": 7, "category_id": 3, "score": 1}], "has neither bbox nor segmentation"),
        ([{"image_id": 7}], "is no detection with image_id, category_id and score"),
        (coco(), "holds a dict; COCO results are a list"),
        (["x"], "is no detection"),
    ],
)
def test_bad_results_are_one_line(maps: Path, imptool: Imptool, results: Any, words: str) -> None:
    truth = write("truth.json", coco())
    line = refused(imptool, "--predictions", write("results.json", results), "--dataset", truth)
    assert "results.json" in line
    assert words in line


def test_bad_ground_truth_is_one_line(maps: Path, imptool: Imptool) -> None:
    results = write("results.json", [])
    assert "no images" in refused(
        imptool, "--predictions", results, "--dataset", write("t.json", coco(images=[], annotations=[]))
    )
    assert "no categories" in refused(
        imptool, "--predictions", results, "--dataset", write("t.json", coco(categories=[], annotations=[]))
    )
    assert "65535" in refused(
        imptool,
        "--predictions",
        results,
        "--dataset",
        write("t.json", coco(categories=[{"id": 99999, "name": "x"}], annotations=[])),
    )
    assert "which has no label maps" in refused(imptool, "--predictions", "theirs", "--dataset", write("t.json", coco()))
    assert "no such file" in refused(imptool, "--predictions", "none.json", "--dataset", "target")


def test_published_ap_of_the_fashionpedia_sample(shared_data: Path, tmp_path: Path, imptool: Imptool) -> None:
    folder = shared_data / "photos" / "fashionpedia_sample"
    files = ("--predictions", folder / "fake_results.json", "--dataset", folder / "sample.json", "--out", tmp_path / "out")
    result = imptool("eval", *files)
    assert result.exit_code == 0, result.output
    mask = json.loads((tmp_path / "out/metrics.json").read_text())["average_precision"]["mask"]
    assert (round(mask["AP"], 3), round(mask["APs"], 3), round(mask["AR100"], 3)) == (0.532, 0.505, 0.562)


def test_report_is_one_page_that_opens_from_disk(maps: Path, imptool: Imptool, browser: Browser) -> None:
    Path("target/classes.txt").write_text("background\n<img src=x onerror=alert(1)>\nhat $x^2$")
    evaluate(imptool, "--boundary-bands", "--boundary-f", "1")
    Path("alone").mkdir()
    page = Path(shutil.move("out/report.html", "alone/report.html"))
    tab = browser.open(page.resolve())
    found = browser.ask(
        tab,
        """return {
          pictures: [...document.images]
            .filter((image) => image.hasAttribute("src"))
            .map((image) => [image.src.slice(0, 11), image.naturalWidth > 0]),
          loaded: performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length,
          headings: [...document.querySelectorAll("h2")].map((heading) => heading.textContent),
          headline: document.querySelector(".headline").textContent,
          names: document.querySelector("table th[scope=row]") !== null && document.body.textContent.includes("onerror"),
        };""",
    )
    assert found["pictures"]
    assert all(kind == "data:image/" and shown for kind, shown in found["pictures"])
    assert found["loaded"] == 0
    assert found["names"]
    assert {"Figures", "Classes", "Near the boundary", "Confusion", "The worst images", "Definitions"} <= set(found["headings"])
    assert "pixel accuracy86.4" in found["headline"]
