"""`imptool eval --panoptic` and `imptool predict --save panoptic`, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from conftest import run_imptool, write_workplace
from PIL import Image

import imptool as library

Imptool = Callable[..., Result]
SETTINGS = ("-o", "panoptic.confidence=0.3", "-o", "panoptic.stuff_area=20")
TRAINED = ("stages.detector.iterations=30", "stages.full.iterations=30", "solver.warmup=5", "detector.score_threshold=0.01")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn dataset and a run that has learned a little of it."""
    folder = tmp_path_factory.mktemp("panoptic")
    write_workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("IMPTOOL_DATA", raising=False)
        assert run_imptool("convert-instances", "drawn.yaml").exit_code == 0
        overrides = [word for override in TRAINED for word in ("-o", override)]
        result = run_imptool("train", "tiny.yaml", "--name", "one", "--workers", 0, *overrides)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    return trained


def evaluate(out: Path, *arguments: object) -> dict[str, Any]:
    result = run_imptool("eval", *arguments, "--out", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    plain: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return plain


def predict_val(out: Path) -> Path:
    """Panoptic predictions of the two val images, in a folder of their own."""
    names = [image["file_name"] for image in json.loads(Path("instances/drawn/val.json").read_text())["images"]]
    arguments = [Path("data/drawn") / name for name in names]
    result = run_imptool("predict", *arguments, "--save", "labels,panoptic", *SETTINGS, "--out", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    return out / "panoptic.json"


def test_files_of_predict_have_the_panoptic_quality_of_the_run(here: Path, tmp_path: Path) -> None:
    of_run = evaluate(tmp_path / "run", "runs/tiny/one", *SETTINGS)
    assert of_run["schema"] == 3
    found = of_run["panoptic"]
    assert (found["truth"], found["things"], list(found["beside"])) == ("components", "detections", ["components"])
    assert found["pq"] > 0  # else nothing below would be a proof
    path = predict_val(tmp_path / "parsed")
    of_files = evaluate(tmp_path / "files", "--predictions", path, "--dataset", "drawn.yaml")
    assert of_files["panoptic"]["things"] == "segments"
    for key in ("pq", "sq", "rq", "pq_things", "pq_with_background", "per_class"):
        assert of_files["panoptic"][key] == found[key]


def test_the_components_that_stand_beside_are_those_of_the_label_maps_alone(here: Path, tmp_path: Path) -> None:
    predict_val(tmp_path / "parsed")
    of_run = evaluate(tmp_path / "run", "runs/tiny/one", *SETTINGS)
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in (tmp_path / "parsed" / "labels").rglob("*.png"):
        path.rename(maps / path.name)
    of_maps = evaluate(tmp_path / "of_maps", "--predictions", maps, "--dataset", "drawn.yaml", "--panoptic", *SETTINGS)
    assert of_maps["panoptic"]["things"] == "components"
    for key in ("pq", "sq", "rq", "per_class"):
        assert of_maps["panoptic"][key] == of_run["panoptic"]["beside"]["components"][key]


def test_predictions_read_as_a_dataset_predict_themselves_wholly(here: Path, tmp_path: Path) -> None:
    path = predict_val(tmp_path / "parsed")
    Path("themselves.yaml").write_text(
        f"layout: coco-panoptic\nroot: {tmp_path / 'parsed'}\nannotations: {{val: panoptic.json}}\nlabels: panoptic\n"
        f"photographs: {here / 'data' / 'drawn' / 'images'}\n"
    )
    assert run_imptool("convert-instances", "themselves.yaml", "--force", "--workers", 0).exit_code == 0
    found = evaluate(tmp_path / "out", "--predictions", path, "--dataset", "themselves.yaml")["panoptic"]
    assert found["truth"] == "true"
    occurs = [row for row in found["per_class"] if row["tp"] + row["fp"] + row["fn"]]
    assert len(occurs) >= 2
    assert {(row["pq"], row["sq"], row["rq"]) for row in occurs} == {(1.0, 1.0, 1.0)}


def test_two_predictions_write_the_same_bytes_and_categories_say_what_things_are(here: Path, tmp_path: Path) -> None:
    one, other = predict_val(tmp_path / "a"), predict_val(tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()
    document = json.loads(one.read_text())
    assert [(row["name"], row["isthing"]) for row in document["categories"]] == [("background", 0), ("coat", 1), ("hat", 1)]
    for row in document["annotations"]:
        pixels = np.array(Image.open(one.parent / "panoptic" / row["file_name"])).astype(int) @ (1, 256, 65536)
        areas = {segment["id"]: segment["area"] for segment in row["segments_info"]}
        assert areas == {code: int((pixels == code).sum()) for code in np.unique(pixels).tolist() if code}


def test_library_gives_the_segments_that_the_files_have(here: Path, tmp_path: Path) -> None:
    path = predict_val(tmp_path / "parsed")
    document = json.loads(path.read_text())
    model = library.load("runs/tiny/one")
    name = document["images"][0]["file_name"]
    found = model.predict(here / "data" / "drawn" / "images" / name, panoptic=True).segments
    assert [segment.area for segment in found] == [int((found.numbers == segment.number).sum()) for segment in found]
    assert model.predict(here / "data" / "drawn" / "images" / name).segments is None
    sure = [segment for segment in document["annotations"][0]["segments_info"] if segment["score"] >= 0.5]
    assert len([segment for segment in found if segment.thing]) == sum(row["category_id"] > 0 for row in sure)


def test_settings_can_be_changed_and_such_an_evaluation_has_a_folder_of_its_own(here: Path) -> None:
    assert run_imptool("eval", "runs/tiny/one", "--workers", 0).exit_code == 0
    plain = Path("runs/tiny/one/eval-val/metrics.json").read_bytes()
    assert "panoptic" not in json.loads(plain)
    result = run_imptool("eval", "runs/tiny/one", "-o", "panoptic.confidence=0.9", "--workers", 0)
    assert result.exit_code == 0, result.output
    assert Path("runs/tiny/one/eval-val/metrics.json").read_bytes() == plain
    changed = json.loads(Path("runs/tiny/one/eval-val-panoptic.confidence-0.9/metrics.json").read_text())
    assert changed["fusion"]["confidence"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "panoptic.confidenc=0.9"), "confidence"),
        (("-o", "solver.lr=1"), "only panoptic can be changed"),
        (("-o", "panoptic.overlap=2"), "overlap"),
    ],
)
def test_changes_that_are_none_are_told_in_a_line(here: Path, arguments: tuple[str, ...], words: str) -> None:
    for command in (("eval", "runs/tiny/one"), ("predict", "data/drawn/images", "--run", "runs/tiny/one", "--out", "never")):
        result = run_imptool(*command, *arguments)
        assert result.exit_code == 2
        assert words in result.stderr.strip().splitlines()[-1]


def test_compare_shows_panoptic_quality_and_its_difference(here: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    evaluate(one, "runs/tiny/one", *SETTINGS)
    evaluate(other, "runs/tiny/one", "-o", "panoptic.instances=components", "-o", "panoptic.stuff_area=20")
    result = run_imptool("compare", f"a={one}", f"b={other}", "--format", "csv")
    assert result.exit_code == 0, result.output
    rows = [line.split(",") for line in result.stdout.splitlines() if line.startswith("pq,,")]
    values = {row[4]: float(row[5]) for row in rows}
    assert values.keys() == {"a", "b"}
    assert values["a"] == pytest.approx(json.loads((one / "metrics.json").read_text())["panoptic"]["pq"], abs=1e-4)


def test_figures_against_true_instances_and_against_components_are_not_compared(here: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        evaluate(folder, "runs/tiny/one", *SETTINGS)
    plain = json.loads((other / "metrics.json").read_text())
    plain["panoptic"]["truth"] = "true"
    (other / "metrics.json").write_text(json.dumps(plain))
    result = run_imptool("compare", f"a={one}", f"b={other}")
    assert result.exit_code == 2
    assert "a against components and b against true: such figures cannot be compared" in result.stderr


def test_evaluations_of_the_version_before_panoptic_quality_still_compare(here: Path, tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    evaluate(new, "runs/tiny/one", *SETTINGS)
    evaluate(old, "runs/tiny/one")
    plain = json.loads((old / "metrics.json").read_text())
    (old / "metrics.json").write_text(json.dumps(plain | {"schema": 2}))
    result = run_imptool("compare", f"new={new}", f"old={old}")
    assert result.exit_code == 0, result.output


def change_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def first_segment(document: dict[str, Any]) -> dict[str, Any]:
    segment: dict[str, Any] = document["annotations"][0]["segments_info"][0]
    return segment


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda d: first_segment(d).update(id=77), 1, "holds segment"),
        (lambda d: d["annotations"][0]["segments_info"].append({"id": 77, "category_id": 1}), 1, "of which"),
        (lambda d: first_segment(d).update(category_id=55), 2, "category 55 is no class of it"),
        (lambda d: d["categories"][1].update(isthing=0), 2, "is stuff there and a thing here"),
        (lambda d: d["categories"][1].update(name="boat"), 2, "is 'boat' there and 'coat' here"),
        (lambda d: d["annotations"].pop(), 1, "has no segments for"),
        (lambda d: d["annotations"].clear(), 2, "has no annotations: --missing-as-background"),
        (
            lambda d: [image.update(file_name="other.png") for image in d["images"]],
            2,
            "none of its 2 images is one of split val",
        ),
        (lambda d: d["annotations"][0].pop("segments_info"), 2, "annotations[0] has no segments_info"),
        (lambda d: d["annotations"][0].update(file_name="../a.png"), 2, "annotations[0] has no file_name of a PNG"),
        (lambda d: first_segment(d).pop("id"), 2, "a segment without id or category_id"),
        (lambda d: d["annotations"][0]["segments_info"].append(dict(first_segment(d))), 2, "lists a segment twice"),
    ],
)
def test_files_that_do_not_fit_are_told_in_a_line(
    here: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], code: int, words: str
) -> None:
    path = predict_val(tmp_path / "parsed")
    change_document(path, change)
    result = run_imptool("eval", "--predictions", path, "--dataset", "drawn.yaml", "--out", tmp_path / "out", "--workers", 0)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_images_without_prediction_can_count_as_nothing_found(here: Path, tmp_path: Path) -> None:
    path = predict_val(tmp_path / "parsed")
    change_document(path, lambda document: document["annotations"].pop())
    asked = ("--predictions", path, "--dataset", "drawn.yaml", "--missing-as-background")
    found = evaluate(tmp_path / "out", *asked)["panoptic"]
    assert sum(row["fn"] for row in found["per_class"]) >= 3  # background, coat and hat of the image at least


def test_several_segments_of_what_is_no_thing_are_made_one_with_a_note(here: Path, tmp_path: Path) -> None:
    path = predict_val(tmp_path / "parsed")
    before = evaluate(tmp_path / "before", "--predictions", path, "--dataset", "drawn.yaml")
    document = json.loads(path.read_text())
    row = document["annotations"][0]
    background = next(segment for segment in row["segments_info"] if segment["category_id"] == 0)
    png = path.parent / "panoptic" / row["file_name"]
    pixels = np.array(Image.open(png))
    mine = (pixels.astype(int) @ (1, 256, 65536)) == background["id"]
    mine[:, ::2] = False
    pixels[mine] = (7, 0, 0)
    Image.fromarray(pixels).save(png)
    row["segments_info"].append({"id": 7, "category_id": 0})
    path.write_text(json.dumps(document))
    after = evaluate(tmp_path / "after", "--predictions", path, "--dataset", "drawn.yaml")
    assert after["panoptic"]["per_class"] == before["panoptic"]["per_class"]
    assert any("were made one in 1 images" in note for note in after["dataset"]["notes"])


def test_of_an_image_that_is_wholly_void_nothing_counts(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    Image.fromarray(np.zeros((96, 72, 3), np.uint8)).save(folder / "images" / "void.png")
    Image.fromarray(np.full((96, 72), 255, np.uint8)).save(folder / "labels" / "void.png")
    (folder / "classes.txt").write_text("background\ncoat\nhat\n")
    (folder / "val.txt").write_text("void\n")
    Path("void.yaml").write_text(f"layout: folder\nroot: {folder}\nsplits: {{val: val.txt}}\nignore: 255\n")
    assert run_imptool("convert-instances", "void.yaml", "--force").exit_code == 0
    result = run_imptool(
        "eval", "runs/tiny/one", "--dataset", "void.yaml", *SETTINGS, "--out", tmp_path / "out", "--workers", 0
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["panoptic"]
    assert found["pq"] is None
    assert {row["pq"] for row in found["per_class"]} == {None}
