"""`imptool compare`: differences by hand, which of them are significant, and what cannot be compared."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

Imptool = Callable[..., Result]
CLASSES = ("background", "coat", "hat")


def save(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Imptool) -> Path:
    """evaluations/ of 20 maps: `better` finds all of the coat, `worse` one column less, `mixed` is better in half of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    for number in range(20):
        target = np.zeros((20, 20), np.uint8)
        target[4:16, 4 : 14 + number % 3] = 1
        target[:2, :4] = 2
        less = np.where(np.arange(20) == 4, 0, target)
        more = np.where(np.arange(20) == 3, np.maximum(target, 1), target)
        name = f"{number:02}.png"
        save(Path("target/labels", name), target)
        save(Path("better", name), target)
        save(Path("worse", name), less)
        save(Path("mixed", name), less if number % 2 else more)
    Path("target/classes.txt").write_text("\n".join(CLASSES))
    for name in ("better", "worse", "mixed"):
        assert imptool("eval", "--predictions", name, "--dataset", "target", "--bands", "1,3").exit_code == 0
    return tmp_path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def row(found: list[dict[str, str]], run: str, figure: str, class_name: str = "", within: str = "") -> dict[str, str]:
    (one,) = [
        each
        for each in found
        if (each["run"], each["figure"], each["class"], each["within_px"]) == (run, figure, class_name, within)
    ]
    return one


def evaluations(*names: str) -> list[str]:
    return [f"evaluations/target-all/{name}" for name in names]


def test_differences_are_counted_by_hand(measured: Path, imptool: Imptool) -> None:
    result = imptool("compare", *evaluations("worse", "better"), "--format", "csv")
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    areas = [12 * (10 + number % 3) for number in range(20)]
    worse = (sum(areas) - 20 * 12) / sum(areas)  # one column of 12 px less in each
    coat = row(found, "better", "iou", "coat")
    assert float(coat["value"]) == 1
    assert float(coat["difference"]) == pytest.approx(1 - worse, abs=1e-6)
    assert coat["significant"] == "yes"
    assert float(coat["difference_low"]) <= 1 - worse <= float(coat["difference_high"])
    hat = row(found, "better", "iou", "hat")
    assert (float(hat["difference"]), hat["significant"]) == (0, "no")
    assert row(found, "worse", "iou", "coat")["difference"] == ""
    within = row(found, "better", "miou", within="1")
    assert float(within["difference"]) > float(row(found, "better", "miou")["difference"])  # the errors are near the edge


def test_a_run_is_not_significantly_better_than_itself(measured: Path, imptool: Imptool) -> None:
    result = imptool("compare", "a=evaluations/target-all/better", "b=evaluations/target-all/better", "--format", "csv")
    differences = [each for each in rows(result.stdout) if each["run"] == "b"]
    assert differences
    assert {each["difference"] for each in differences} == {"0.000000"}
    assert {each["significant"] for each in differences} == {"no"}


def test_the_paired_interval_is_narrower_than_those_of_the_runs(measured: Path, imptool: Imptool) -> None:
    found = rows(imptool("compare", *evaluations("worse", "better"), "--format", "csv").stdout)
    own = row(found, "worse", "iou", "coat")
    paired = row(found, "better", "iou", "coat")
    assert float(paired["difference_high"]) - float(paired["difference_low"]) <= float(own["high"]) - float(own["low"]) + 1e-9


def test_terminal_markdown_and_files_hold_the_same_tables(measured: Path, imptool: Imptool) -> None:
    result = imptool("compare", *evaluations("worse", "mixed", "better"), "--out", "compared")
    assert result.exit_code == 0, result.output
    for words in ("Difference from worse", "Classes", "Near the boundary", "coat", "mixed"):
        assert words in result.stdout
    text = Path("compared/compare.md").read_text()
    assert imptool("compare", *evaluations("worse", "mixed", "better"), "--format", "markdown").stdout == text
    assert "| better | 100.0 (100.0-100.0) |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in table)
    with Image.open("compared/bands.png") as picture:
        assert min(picture.size) > 300
    assert Path("compared/bands.svg").read_text().lstrip().startswith("<?xml")
    assert "--force" in imptool("compare", *evaluations("worse", "better"), "--out", "compared").stderr


def test_names_from_files_do_not_break_a_table(measured: Path, imptool: Imptool) -> None:
    Path("target/classes.txt").write_text("background\ncoat | [red]\nhat")
    assert imptool("eval", "--predictions", "worse", "--dataset", "target").exit_code == 0
    result = imptool("compare", "x|y=evaluations/target-all/worse", "--format", "markdown")
    assert result.exit_code == 0, result.output
    assert "coat \\| [red]" in result.stdout
    assert "x\\|y" in result.stdout
    assert "coat | [red]" in imptool("compare", "evaluations/target-all/worse").stdout


def test_what_cannot_be_compared_is_one_line(measured: Path, imptool: Imptool) -> None:
    def refused(*arguments: str) -> str:
        result = imptool("compare", *arguments)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    better, worse = evaluations("better", "worse")
    assert "nowhere does not exist" in refused(better, "nowhere")
    assert "target holds no evaluation" in refused(better, "target")
    assert "two evaluations would be called x" in refused(f"x={better}", f"x={worse}")
    Path("fewer").mkdir()
    for path in list(Path("worse").iterdir())[:-1]:
        path.rename(Path("fewer", path.name))
    assert imptool("eval", "--predictions", "fewer", "--dataset", "target").exit_code == 1
    assert "different images (1 are in one of them alone)" in refused(better, "evaluations/target-all/fewer")
    save(Path("target/labels/00.png"), np.ones((20, 20)))
    assert imptool("eval", "--predictions", "mixed", "--dataset", "target").exit_code == 0
    assert "against different labels" in refused(better, "evaluations/target-all/mixed")
    Path("target/classes.txt").write_text("background\ncoat\ncap")
    assert imptool("eval", "--predictions", "mixed", "--dataset", "target").exit_code == 0
    assert "have different classes: 2 'hat' (thing), not 2 'cap' (thing)" in refused(better, "evaluations/target-all/mixed")
    written = Path(better, "metrics.json")
    plain = json.loads(written.read_text())
    written.write_text(json.dumps(plain | {"schema": 1}))
    assert "of another version" in refused(better)
    written.write_text(json.dumps({key: value for key, value in plain.items() if key != "semantic"}))
    assert "does not hold a whole evaluation" in refused(better)
    written.write_text("[")
    assert "is damaged" in refused(better)
    written.write_text(json.dumps(plain))
    Path(better, "per_image.npz").write_bytes(b"PK")
    assert "was not written along" in refused(better)


def test_evaluations_of_results_alone_are_compared(measured: Path, imptool: Imptool) -> None:
    """Two images, one class; `half` finds one of two: AP 51/101 (precision 1 at the recalls 0, .01, ..., .50), by hand."""
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 20, "width": 20} for n in (1, 2)],
        "categories": [{"id": 3, "name": "coat"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 3, "segmentation": square} for n in (1, 2)],
    }
    Path("truth.json").write_text(json.dumps(truth))
    found = [{"image_id": n, "category_id": 3, "score": 0.9, "segmentation": square} for n in (1, 2)]
    for name, results in (("half", found[:1]), ("all", found)):
        Path(f"{name}.json").write_text(json.dumps(results))
        assert imptool("eval", "--predictions", f"{name}.json", "--dataset", "truth.json").exit_code == 0
    result = imptool("compare", "evaluations/truth-all/half", "evaluations/truth-all/all", "--format", "csv")
    assert result.exit_code == 0, result.output
    mask = row(rows(result.stdout), "all", "mask AP")
    assert float(mask["difference"]) == pytest.approx(1 - 51 / 101, abs=1e-6)


def test_contours_of_different_sizes_are_not_compared(measured: Path, imptool: Imptool) -> None:
    for tolerance, name in ((1, "worse"), (5, "better")):
        arguments = ("--predictions", name, "--dataset", "target", "--boundary-f", tolerance)
        assert imptool("eval", *arguments).exit_code == 0
    result = imptool("compare", *evaluations("worse", "better"), "--format", "csv")
    assert "left out: boundary F-score" in result.stderr
    assert "different sizes (1, 5)" in result.stderr
    assert not [each for each in rows(result.stdout) if each["figure"] == "boundary_f"]


def test_counts_of_another_evaluation_are_refused(measured: Path, imptool: Imptool) -> None:
    better, worse = evaluations("better", "worse")
    Path(better, "per_image.npz").write_bytes(Path(worse, "per_image.npz").read_bytes())
    result = imptool("compare", better, worse)
    assert result.exit_code == 2
    assert "per_image.npz was not written along with metrics.json" in result.stderr


def test_an_evaluation_is_not_written_over(measured: Path, imptool: Imptool) -> None:
    better, worse = evaluations("better", "worse")
    assert "holds an evaluation" in imptool("compare", better, worse, "--out", better, "--force").stderr


def keep_hats(count: int, imptool: Imptool) -> None:
    """Of 20 images so many keep their hats; `better` finds all of them, `mixed` none."""
    for number in range(20):
        path = Path("target/labels", f"{number:02}.png")
        target = np.array(Image.open(path))
        save(path, np.where(target == 2, 2 if number < count else 0, target))
        save(Path("better", path.name), np.array(Image.open(path)))
        save(Path("mixed", path.name), np.where(target == 2, 0, target))
    for name in ("better", "mixed"):
        assert imptool("eval", "--predictions", name, "--dataset", "target").exit_code == 0


def test_a_difference_that_rests_on_few_photographs_has_no_star(measured: Path, imptool: Imptool) -> None:
    """Hats are in nine of 20 images: `mixed`, which finds none, is worse by all of them."""
    keep_hats(9, imptool)
    result = imptool("compare", *evaluations("better", "mixed"), "--format", "csv")
    hat = row(rows(result.stdout), "mixed", "iou", "hat")
    assert (hat["difference"], hat["difference_low"], hat["significant"]) == ("-1.000000", "", "")
    coat = row(rows(result.stdout), "mixed", "iou", "coat")
    assert (coat["difference"], coat["significant"]) == ("0.000000", "no")
    table = imptool("compare", *evaluations("better", "mixed"), "--format", "markdown").stdout
    assert "| hat | 100.0 | 0.0 | -100.0 |" in table
    assert "significant (95 %)" in table
    assert "fewer than 10" in table


def test_a_mean_over_classes_that_rests_on_few_photographs_has_no_star(measured: Path, imptool: Imptool) -> None:
    """Coats are in all of 20 images, hats in ten: half of the mean rests on these."""
    keep_hats(10, imptool)
    found = rows(imptool("compare", *evaluations("better", "mixed"), "--format", "csv").stdout)
    assert row(found, "mixed", "iou", "hat")["significant"] == "yes"
    mean = row(found, "mixed", "miou")
    assert (mean["difference"], mean["difference_low"], mean["significant"]) == ("-0.500000", "", "")


def test_evaluations_that_do_not_count_photographs_are_compared(measured: Path, imptool: Imptool) -> None:
    """As they were written before: the counts are made again."""
    before = imptool("compare", *evaluations("worse", "better"), "--format", "csv").stdout
    for folder in evaluations("worse", "better"):
        path = Path(folder, "metrics.json")
        plain = json.loads(path.read_text())
        for level in (plain["semantic"][Path(folder).name], *plain["semantic"][Path(folder).name]["bands"]):
            del level["photographs"]
            for each in level["per_class"]:
                del each["iou_photographs"], each["accuracy_photographs"]
        path.write_text(json.dumps(plain))
    assert imptool("compare", *evaluations("worse", "better"), "--format", "csv").stdout == before


def test_a_rank_by_itself_silences_nothing(measured: Path, imptool: Imptool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert "Difference from worse" in imptool("compare", *evaluations("worse", "better")).stdout


def test_runs_on_few_photographs_are_compared_without_intervals(workplace: Path, imptool: Imptool) -> None:
    """Label maps and detections of the two val images: one found as it is, one not at all."""
    assert imptool("convert-instances", "drawn.yaml").exit_code == 0
    truth = json.loads(Path("instances/drawn/val.json").read_text())
    for name, count in (("all", None), ("none", 0)):
        keys = ("image_id", "category_id", "segmentation", "bbox")
        results = [{"score": 1, **{key: found[key] for key in keys}} for found in truth["annotations"]]
        shutil.copytree("data/drawn/labels", name)
        Path(name, "images.json").write_text(json.dumps(truth))
        Path(name, "predictions.json").write_text(json.dumps(results[:count]))
        assert imptool("eval", "--predictions", name, "--dataset", "drawn.yaml").exit_code == 0
    result = imptool("compare", "evaluations/drawn-val/none", "evaluations/drawn-val/all", "--format", "csv")
    assert result.exit_code == 0, result.output
    mask = row(rows(result.stdout), "all", "mask AP")
    assert (mask["difference"], mask["difference_low"], mask["significant"]) == ("1.000000", "", "")
    assert row(rows(result.stdout), "all", "miou")["difference"] == "0.000000"
