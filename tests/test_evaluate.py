"""`imptool eval`: its figures against other libraries and hand counts, its files, its refusals."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import run_imptool, write_workplace
from PIL import Image
from rich.console import Console
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from imptool.data.dataset import load_dataset
from imptool.data.images import read_image, read_label_map
from imptool.data.label_set import ClassInfo, LabelSet
from imptool.evaluation.counts import Cells, Spool
from imptool.evaluation.figures import Measured
from imptool.evaluation.record import Evaluation
from imptool.evaluation.sheets import classes_sheet, precision_shares
from imptool.evaluation.terminal import print_evaluation
from imptool.metrics.average_precision import average_precision
from imptool.report.tables import terminal_table

Imptool = Callable[..., Result]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn dataset and a run trained just long enough to predict something."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("IMPTOOL_DATA", raising=False)
        write_workplace(folder)
        run_imptool("convert-instances", "drawn.yaml")
        run_imptool("train", "tiny.yaml", "--workers", "0", "-o", "stages.full.iterations=12", "-o", "solver.lr=0.02")
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    return trained


def metrics(folder: Path) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / "metrics.json").read_text())


def test_figures_are_those_of_other_libraries_on_the_predicted_maps(here: Path, imptool: Imptool) -> None:
    assert imptool("eval", "--boundary-bands", "--out", "figures").exit_code == 0
    assert imptool("predict", "data/drawn/images", "--out", "parsed").exit_code == 0
    items = load_dataset("drawn.yaml").split("val")
    predicted = np.concatenate([read_label_map(Path(f"parsed/labels/{item.stem}.png")).ravel() for item in items])
    target = np.concatenate([read_label_map(item.label).ravel() for item in items])
    ours = metrics(Path("figures"))["semantic"]["panoptic-fpn-imp"]
    assert ours["confusion"] == confusion_matrix(target, predicted, labels=[0, 1, 2]).tolist()
    assert ours["pixel_accuracy"] == pytest.approx(accuracy_score(target, predicted))
    per_class = jaccard_score(target, predicted, labels=[0, 1, 2], average=None)
    assert [row["iou"] for row in ours["per_class"]] == pytest.approx(per_class)
    assert ours["miou"] == pytest.approx(per_class[1:].mean())
    assert ours["miou_with_background"] == pytest.approx(per_class.mean())


def test_metrics_file_states_definitions_versions_and_recipe(here: Path, imptool: Imptool) -> None:
    result = imptool("eval", "--boundary-bands")
    assert result.exit_code == 0
    (run,) = Path("runs/tiny").iterdir()
    written = metrics(run / "eval-val")
    assert written["schema"] == 3
    assert {"miou", "macc", "band", "AP"} <= written["definitions"].keys()
    assert written["versions"].keys() >= {"imptool", "torch"}
    assert written["recipe"]["stages"]["full"]["iterations"] == 12
    assert written["average_precision"].keys() == {"box", "mask"}
    bands = written["semantic"]["panoptic-fpn-imp"]["bands"]
    assert [band["width"] for band in bands] == [10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400]
    assert bands[-1]["confusion"] == written["semantic"]["panoptic-fpn-imp"]["confusion"]  # all pixels are within 400 px
    with Image.open(run / "eval-val" / "bands.png") as picture:
        assert min(picture.size) > 300
    assert "non-empty canvas" in result.output


def test_prior_needs_no_run_and_is_right_about_maps_that_do_not_change(workplace: Path, imptool: Imptool) -> None:
    for label in Path("data/drawn/labels").glob("*.png"):
        Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 32 * 72).reshape(96, 72)).save(label)
    result = imptool("eval", "--baseline", "prior", "--dataset", "drawn.yaml", "--out", "figures")
    assert result.exit_code == 0, result.output
    prior = metrics(Path("figures"))["semantic"]["prior"]
    assert prior["miou"] == prior["pixel_accuracy"] == 1


def test_evaluation_replaces_its_own_results_and_no_others(here: Path, imptool: Imptool) -> None:
    assert imptool("eval", "--bands", "5").exit_code == 0
    (run,) = Path("runs/tiny").iterdir()
    assert (run / "eval-val" / "bands.png").is_file()
    assert imptool("eval").exit_code == 0
    assert not (run / "eval-val" / "bands.png").exists()
    Path("mine").mkdir()
    Path("mine/metrics.json").write_text("mine")
    refused = imptool("eval", "--out", "mine")
    assert refused.exit_code == 2
    assert "mine already holds results" in refused.output
    assert Path("mine/metrics.json").read_text() == "mine"


def test_weights_are_measured_wherever_they_lie(here: Path, imptool: Imptool) -> None:
    (run,) = Path("runs/tiny").iterdir()
    assert imptool("eval", run, "--out", "of-the-run").exit_code == 0
    shutil.copy(run / "weights.safetensors", "theirs.safetensors")
    assert imptool("eval", "--weights", "theirs.safetensors").exit_code == 0
    assert metrics(Path("evaluations/drawn-val/theirs"))["semantic"] == metrics(Path("of-the-run"))["semantic"]
    for wrong in ("none.safetensors", "tiny.yaml"):
        refused = imptool("eval", "--weights", wrong)
        assert refused.exit_code == 2
        assert f"--weights {wrong}: no such file of weights" in refused.output


def test_what_predict_wrote_scores_as_the_run_does(here: Path, imptool: Imptool) -> None:
    assert imptool("eval", "--bands", "2", "--out", "run-itself").exit_code == 0
    assert imptool("predict", "data/drawn/images", "--out", "written").exit_code == 0
    result = imptool("eval", "--predictions", "written", "--dataset", "drawn.yaml", "--bands", "2", "--out", "from-files")
    assert result.exit_code == 0, result.output
    run, files = metrics(Path("run-itself")), metrics(Path("from-files"))
    assert files["semantic"]["written"] == run["semantic"]["panoptic-fpn-imp"]
    assert files["average_precision"] == run["average_precision"]
    for key in ("labels_hash", "instances_hash"):
        assert files["dataset"][key] == run["dataset"][key] != ""


def test_prior_stands_beside_the_model(here: Path, imptool: Imptool) -> None:
    assert imptool("eval", "--baseline", "prior", "--bands", "1,2.5", "--out", "beside").exit_code == 0
    assert metrics(Path("beside"))["semantic"].keys() == {"panoptic-fpn-imp", "prior"}


def test_broken_photograph_leaves_the_others(here: Path, imptool: Imptool) -> None:
    broken, other = (item.image for item in load_dataset("drawn.yaml").split("val"))
    kept = broken.read_bytes()
    try:
        broken.write_bytes(kept[: len(kept) // 2])
        result = imptool("eval", "--out", "one-left")
        assert result.exit_code == 1
        assert broken.name in result.output
        assert metrics(Path("one-left"))["dataset"]["photographs"] == 1
    finally:
        broken.write_bytes(kept)
    assert read_image(other).shape == (96, 72, 3)


def test_boxes_and_areas_written_by_hand_change_no_figure(here: Path, imptool: Imptool) -> None:
    path = Path("instances/drawn/val.json")
    whole = path.read_text()
    assert imptool("eval", "--out", "by-machine").exit_code == 0
    try:
        document = json.loads(whole)
        for row, (box, area) in zip(document["annotations"], [(None, "x"), (["a"], None), ([1, 2], [])], strict=False):
            row |= {"bbox": box, "area": area}
        path.write_text(json.dumps(document))
        result = imptool("eval", "--out", "by-hand")
        assert result.exit_code == 0, result.output
    finally:
        path.write_text(whole)
    assert metrics(Path("by-hand"))["average_precision"] == metrics(Path("by-machine"))["average_precision"]


def test_classes_without_any_figure_are_counted_and_not_listed() -> None:
    labels = LabelSet(tuple(ClassInfo(id=n, name=name) for n, name in enumerate(["coat", "hat", "shoe"])), None, 255)
    coats, cells = np.zeros((2, 2), np.uint8), Cells(3)
    with Spool() as spool:
        spool.add(0, cells.count(coats, coats, ignore=255))
        measured = Measured(labels, cells, ["a.jpg"], spool.records())
    shoes = average_precision(
        {
            "images": [{"id": 1, "height": 2, "width": 2}],
            "categories": [{"id": 2, "name": "shoe"}],
            "annotations": [{"image_id": 1, "category_id": 2, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}],
        },
        [],
        iou_type="bbox",
    )
    result = Evaluation("drawn", "drawn", "val", labels, {}, "model", ["a.jpg"], precision={"box": shoes})
    console = Console(width=100, file=io.StringIO())
    console.print(terminal_table(classes_sheet("title", labels, {"model": measured}, precision_shares(result))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "coat" in text
    assert "shoe" in text
    assert "hat" not in text
    assert "1 of 3 classes absent" in text


def test_classes_that_do_not_occur_take_one_line_of_the_terminal() -> None:
    names = ["coat", "hat", "shoe", *(f"rare {n}" for n in range(50))]
    labels = LabelSet(tuple(ClassInfo(id=n, name=name) for n, name in enumerate(names)), None, 255)
    target, cells = np.zeros((2, 2), np.uint8), Cells(len(names))
    predicted = np.array([[0, 0], [0, 1]], np.uint8)  # a hat, where there is none
    with Spool() as spool:
        spool.add(0, cells.count(predicted, target, ignore=255))
        measured = Measured(labels, cells, ["a.jpg"], spool.records())
    result = Evaluation("drawn", "drawn", "val", labels, {}, "model", ["a.jpg"], measured={"model": measured})
    console = Console(width=100, file=io.StringIO())
    print_evaluation(result, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    words = [line.split()[1] for line in text.splitlines() if len(line.split()) > 1]
    assert ("coat" in words, {"hat", "shoe", "rare"} & set(words)) == (True, set())
    (line,) = (line for line in text.splitlines() if "not occur" in line)
    assert line.startswith("52 classes do not occur in the split: hat, shoe, rare 0, rare 1, ")
    assert line.endswith(" and 12 more; predicted all the same, which counts as an IOU of 0: hat")


@pytest.mark.parametrize("bands", ["5,2", "0,3", "a", "3,3", "nan"])
def test_bands_that_are_not_increasing_widths_are_refused(here: Path, imptool: Imptool, bands: str) -> None:
    result = imptool("eval", "--bands", bands)
    assert result.exit_code == 2
    assert f"--bands {bands}" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "runs"), "runs is no run of imptool train"),
        (("eval", "--split", "vall"), "did you mean 'val'"),
        (("eval", "--device", "cuda:7"), "--device cuda:7"),
        (("predict", "nowhere"), "nowhere: there is no such file or folder"),
        (("predict", "instances"), "holds no images"),
    ],
)
def test_refusals_are_one_line(here: Path, imptool: Imptool, arguments: tuple[str, ...], words: str) -> None:
    result = imptool(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert result.output.count("\n") <= 2
