"""The recipes that come with imptool: each builds its model and trains a step on drawn data of its own classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from PIL import Image
from rich.console import Console

from imptool.convert_instances import convert_instances
from imptool.data.dataset import Dataset, load_dataset
from imptool.data.export import Export
from imptool.data.instances import read_instances
from imptool.data.samples import TrainingSamples
from imptool.files import RECIPES
from imptool.models import build_model
from imptool.outfits import CLASSES
from imptool.recipe import load_recipe
from imptool.train import plan_stages
from imptool.training.solver import build_optimizer

SMALL = (
    "backbone.weights=none",
    "backbone.norm=batch",
    "input.short_side=64",
    "input.long_side=128",
    "detector.rois_per_image=16",
)


def draw_dataset(name: str, root: Path, *, count: int = 4) -> Dataset:
    """Images of 96x160 in the layout of a shipped description, each with squares of six of its classes."""
    described = yaml.safe_load((RECIPES / "datasets" / f"{name}.yaml").read_text())
    layout = described["layout"]
    photos, labels = FOLDERS[layout]
    photos, labels = described.get("photographs", photos), described.get("labels", labels)
    suffixes = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png") if layout == "cityscapes" else (".png", ".png")
    in_folders = any(where.endswith("/") for where in described.get("splits", {}).values())
    stems = [f"{'val' if number == 0 else 'train'}/x/{number}" if in_folders else str(number) for number in range(count)]
    background = described.get("background")
    foreground = [row["id"] for row in described["classes"] if row["id"] != background]
    maps = {}
    for number, stem in enumerate(stems):
        rng = np.random.default_rng(number)
        label = np.full((96, 160), 0 if background is None else background, np.uint8)
        for place, chosen in enumerate(rng.permutation(foreground)[:6]):
            label[10 + 45 * (place // 3) :, 5 + 50 * (place % 3) :][:40, :45] = chosen
        maps[f"{stem}{suffixes[0]}"] = label
        for folder, suffix, pixels in zip(
            (photos, labels), suffixes, (rng.integers(0, 255, (96, 160, 3), np.uint8), label), strict=True
        ):
            path = root / folder / f"{stem}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    for split, members in (("train", stems[1:]), ("val", stems[:1])):
        (root / f"{split}.txt").write_text("\n".join(members))
    if layout == "coco":
        shutil.rmtree(root / labels)
        for annotations, split in zip(described["annotations"].values(), (slice(1, None), slice(1)), strict=False):
            chosen = dict(list(maps.items())[split if len(described["annotations"]) > 1 else slice(None)])
            (root / annotations).parent.mkdir(exist_ok=True)
            (root / annotations).write_text(json.dumps(as_coco(chosen, described["classes"], background)))
    return load_dataset(name)


FOLDERS = {
    "folder": ("images", "labels"),
    "ccp": ("photos", "labels"),
    "coco": ("images", "labels"),
    "cityscapes": ("leftImg8bit", "gtFine"),
    "voc": ("JPEGImages", "SegmentationClass"),
}


def as_coco(maps: dict[str, np.ndarray], classes: list[dict[str, Any]], background: int) -> dict[str, Any]:
    """One polygon, the box, for each square of a class."""
    annotations = []
    for image_id, label in enumerate(maps.values(), start=1):
        for class_id in set(np.unique(label).tolist()) - {background}:
            y, x = np.nonzero(label == class_id)
            left, top, right, bottom = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
            ring = [left, top, right, top, right, bottom, left, bottom]
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id, "segmentation": [ring]}
            annotations.append(row)
    return {
        "images": [
            {"id": image_id, "file_name": name, "height": 96, "width": 160} for image_id, name in enumerate(maps, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": row["id"], "name": row["name"]} for row in classes if row["id"] != background],
    }


@pytest.mark.parametrize("path", sorted((RECIPES / "datasets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_description_reads_its_layout_as_it_was_drawn(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPTOOL_DATA", str(tmp_path / "data"))
    root = yaml.safe_load(path.read_text())["root"]
    dataset = draw_dataset(path.stem, tmp_path / "data" / root, count=124 if path.stem.startswith("ccp") else 4)
    assert path.stem.startswith("ccp") or dataset.notes == ()  # CCP's pairs are not among the drawn ones
    for items in dataset.splits.values():
        for item in items:
            counts = np.unique(dataset.read_labels(item), return_counts=True)
            squares = [count for class_id, count in zip(*counts, strict=True) if class_id not in dataset.no_instance]
            # Of CCP's tags some are ignored and some merged.
            assert path.stem.startswith("ccp") or sum(squares) == 6 * 40 * 45 or dataset.labels.background is None


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_builds_its_model_and_trains_a_step(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPTOOL_DATA", str(tmp_path / "data"))
    recipe = load_recipe(str(path))
    small = [*SMALL, f"augment.crop={[64, 96] if recipe.augment.crop else 'null'}"]
    small += [f"augment.short_sides={[64, 96] if recipe.augment.short_sides else '[]'}", "augment.long_side=null"]
    small += [f"augment.short_side_range={[64, 96] if recipe.augment.short_side_range else 'null'}"]
    recipe = load_recipe(str(path), small)
    name = "vcp" if recipe.dataset == "outfits" else recipe.dataset  # the outfits have its classes
    dataset = draw_dataset(name, tmp_path / "data" / name, count=124 if name == "ccp" else 4)  # 120 are its val split
    quiet = Console(quiet=True)
    convert_instances(dataset, export=Export(), out=None, workers=1, force=False, resume=False, console=quiet)
    stages = plan_stages(recipe, Console(quiet=True))
    samples = TrainingSamples(
        dataset, "train", read_instances(dataset, "train"), size=recipe.input, augment=recipe.augment, seed=0
    )
    torch.manual_seed(0)
    model = build_model(list(stages.values())[-1].model or "", recipe, dataset.labels, pretrained=False).train()
    optimizer = build_optimizer(model, recipe.solver, lr=0.001)
    losses, _ = model(*zip(*[(sample.image, sample.target) for sample in (samples[0], samples[1])], strict=True))
    total = sum(losses.values())
    assert isinstance(total, torch.Tensor)
    total.backward()
    optimizer.step()
    expected = {"rpn_objectness", "rpn_box", "classifier", "box", "mask", *(["semantic"] if model.parses else [])}
    assert losses.keys() == expected
    assert total.isfinite()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_descriptions_of_vcp_and_outfits_have_the_classes_of_table_7(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPTOOL_DATA", str(tmp_path / "data"))
    assert draw_dataset("vcp", tmp_path / "data" / "vcp").labels.classes == CLASSES


def test_cityscapes_has_its_19_classes_8_things_and_its_own_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPTOOL_DATA", str(tmp_path / "data"))
    dataset = draw_dataset("cityscapes", tmp_path / "data" / "cityscapes")
    labels = dataset.labels
    assert (labels.ids, labels.background, labels.ignore) == (list(range(19)), None, 255)
    assert [labels.names[channel] for channel in labels.things] == [
        *("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ]
    assert [item.stem for item in dataset.split("val")] == ["val/x/0"]
    assert [item.stem for item in dataset.split("train")] == ["train/x/1", "train/x/2", "train/x/3"]
    (tmp_path / "data" / "cityscapes" / "gtFine" / "train" / "x" / "2_gtFine_labelTrainIds.png").unlink()
    item = load_dataset("cityscapes").split("train")[1]
    assert "train/x/2_gtFine_labelTrainIds.png, which cityscapesScripts make" in item.problem


def test_schedules_are_those_of_the_paper() -> None:
    """Sections 4.1, 4.2 and 4.3."""
    rows = {}
    for name in ("vcp_r50", "modanet_r50", "modanet_r101", "cityscapes_r50", "cityscapes_r101", "cityscapes_x101"):
        recipe = load_recipe(name)
        stage = recipe.stages["full"]
        rows[name] = (recipe.solver.batch, recipe.solver.lr, stage.iterations, stage.steps, recipe.backbone.name)
        assert recipe.solver.lr_batch == recipe.solver.batch
        assert (recipe.model.name, stage.model, recipe.backbone.norm) == ("panoptic-fpn-imp", None, "frozen")
    assert rows == {
        "vcp_r50": (8, 0.01, 70000, [40000, 60000], "resnet50"),
        "modanet_r50": (8, 0.01, 90000, [60000, 80000], "resnet50"),
        "modanet_r101": (8, 0.01, 90000, [60000, 80000], "resnet101"),
        "cityscapes_r50": (16, 0.005, 130000, [80000, 110000], "resnet50"),
        "cityscapes_r101": (16, 0.005, 130000, [80000, 110000], "resnet101"),
        "cityscapes_x101": (16, 0.005, 130000, [80000, 110000], "resnext101_32x8d"),
    }
    streets = load_recipe("cityscapes_r50")
    assert list(plan_stages(streets, Console(quiet=True))) == ["full"]  # from COCO's weights, without a first stage
    assert (streets.augment.short_sides, streets.augment.crop) == ([512, 724, 1024, 1448, 2048], [512, 1024])
    assert load_recipe("modanet_r50").augment.short_sides == [400, 500, 600, 700, 800]


def test_vcp_recipe_starts_on_outfits_in_its_place_and_tells_the_time_left(
    tmp_path: Path, imptool: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPTOOL_DATA", raising=False)
    monkeypatch.setattr("imptool.report.progress._SECONDS_BETWEEN_LINES", 0.0)
    assert imptool("outfits", "data/vcp", "--count", "12", "--size", "96x64", "--workers", "0").exit_code == 0
    assert imptool("convert-instances", "vcp", "--workers", "1").exit_code == 0
    shorter = [part for stage in ("detector", "full") for part in ("-o", f"stages.{stage}.iterations=2")]
    small = [part for value in SMALL for part in ("-o", value)]
    result = imptool(
        "train", "recipes/vcp_r50.yaml", *shorter, *small, "-o", "solver.batch=2", "--workers", "0", "--out", "run"
    )
    assert result.exit_code == 0, result.output
    assert "0.01 -> 0.0025 by the linear scaling rule" in result.output
    assert "detector 1/2  0:00:" in result.output
    assert "left" in result.output
    lines = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if "loss" in line] == ["detector", "full"]


@pytest.mark.parametrize(
    ("model", "stages"),
    [("panoptic-p2-imp", ["detector", "full"]), ("mask-rcnn-imp", ["full"]), ("semantic-fpn", ["full"])],
)
def test_every_row_of_table_1_is_an_override_of_one_recipe(model: str, stages: list[str]) -> None:
    planned = plan_stages(load_recipe("vcp_r50", [f"model.name={model}"]), Console(quiet=True))
    assert list(planned) == stages
    assert planned["full"].model == model
    assert planned["full"].start == ("detector" if len(stages) == 2 else None)
