"""What is on the canvas in place of detections: `--canvas` of eval, and a recipe's `projection.training` and `scale`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import LABELS, TINY
from PIL import Image
from rich.console import Console
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from imptool.checkpoint import load_run, save_weights
from imptool.data.dataset import load_dataset
from imptool.data.instances import read_instances
from imptool.evaluate import Evaluated, Request, evaluate_run
from imptool.evaluation.from_files import Parsed
from imptool.files import InputError
from imptool.models import build_model
from imptool.models.parser import Parser
from imptool.projection import project_masks
from imptool.recipe import load_recipe

Imptool = Callable[..., Result]
CPU = torch.device("cpu")
CANVASES = ("detections", "empty", "true")
SIDE = 128  # px of an image here, which is resized to 64: the canvas has cells of 8 px of it


def label_map(kind: int) -> np.ndarray:
    """[128, 128]: a coat (5) and two hats (9), all with edges on those of the canvas's cells; or, of kind 1, nothing."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    if kind == 0:
        label[48:120, 16:96] = 5
        label[8:40, 24:56] = 9
        label[8:40, 80:112] = 9
    return label


@pytest.fixture
def here(run: Path, imptool: Imptool) -> Path:
    """The run of `run`, for classes that my.yaml has: two images, one of them without instances."""
    for number in (0, 1):
        for kind in ("images", "labels"):
            Path("data", kind).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"data/images/{number}.png")
        Image.fromarray(label_map(number)).save(f"data/labels/{number}.png")
    classes = "[{id: 0, name: background, thing: false}, {id: 5, name: coat}, {id: 9, name: hat}]"
    Path("my.yaml").write_text(f"layout: folder\nroot: ./data\nclasses: {classes}\nbackground: 0\n")
    assert imptool("convert-instances", "my.yaml").exit_code == 0
    return run


def save_model(name: str, *overrides: str, change: Callable[[Parser], object] = lambda _: None) -> Path:
    """Fresh weights of another model, which detects something everywhere."""
    recipe = load_recipe("tiny.yaml", ["detector.score_threshold=0.0", *overrides])
    torch.manual_seed(0)
    model = build_model(name, recipe, LABELS, pretrained=False)
    change(model)
    path = Path(f"{name}.safetensors")
    save_weights(path, model, name, recipe, LABELS)
    return path


def evaluate(weights: Path, canvas: str) -> Evaluated:
    trained = load_run(weights, device=CPU)
    with ExitStack() as held:
        quiet = Console(quiet=True)
        request = Request("all", (), "", "", None, None, workers=0, console=quiet, held=held, canvas=canvas)
        return evaluate_run(trained, request, dataset="my.yaml", device=CPU)


def parsed(evaluated: Evaluated) -> list[Parsed]:
    """What is predicted for both images."""
    dataset, source = load_dataset("my.yaml"), evaluated.source
    assert source is not None
    return [source.parse(source.load(item, dataset.read_channels(item))) for item in dataset.split("all")]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


# --- eval --canvas ---


@pytest.mark.parametrize("limits", [(), ("projection.detections=1", "projection.score_threshold=1.0")])
def test_true_instances_alone_parse_a_map_of_rectangles_and_no_limit_on_detections_holds_them(
    here: Path, limits: tuple[str, ...]
) -> None:
    weights = save_model("mask-rcnn-imp", "projection.threshold=0.5", *limits)
    expected = [load_dataset("my.yaml").labels.to_channels(label_map(kind)) for kind in (0, 1)]
    for found, wanted in zip(parsed(evaluate(weights, "true")), expected, strict=True):
        assert (found.channels == wanted).mean() > 0.98
    assert [np.unique(found.channels).tolist() for found in parsed(evaluate(weights, "empty"))] == [[0], [0]]


def test_own_detections_are_measured_whatever_is_on_the_canvas(here: Path) -> None:
    own, *swapped = [evaluate(here, canvas) for canvas in CANVASES]
    assert all(found.results for found in parsed(own))  # the case is not empty
    for each in swapped:
        assert [found.results for found in parsed(each)] == [found.results for found in parsed(own)]
        assert each.result.precision.keys() == {"box", "mask"}
    assert [each.result.canvas_nonempty for each in (own, *swapped)] == [1, 0, 0.5]  # one image of two has instances


def test_canvas_is_all_that_changes(here: Path) -> None:
    """With columns of zeros for the canvas, nothing does; with others, what the head says."""
    name = "panoptic-fpn-imp"

    def zero(model: Parser) -> None:
        torch.nn.init.zeros_(model.semantic_head.convs[0][0].weight[:, -2:])

    def loud(model: Parser) -> None:
        model.semantic_head.convs[0][0].weight.data[:, -2:] *= 100

    def confusions() -> dict[str, np.ndarray]:
        return {canvas: evaluate(weights, canvas).result.measured[name].confusion for canvas in CANVASES}

    weights = save_model(name, change=torch.no_grad()(zero))
    blind = confusions()
    assert all(np.array_equal(blind[canvas], blind["detections"]) for canvas in CANVASES)
    weights = save_model(name, change=loud)
    assert len({each.tobytes() for each in confusions().values()}) == 3


def test_an_evaluation_says_what_was_on_the_canvas_and_has_a_folder_of_its_own(here: Path, imptool: Imptool) -> None:
    (here / "recipe.yaml").write_text("stages: {full: {}}")
    folders = [here / name for name in ("eval-all", "eval-all-canvas-empty", "eval-all-canvas-true")]
    words = ["", "on the canvas: nothing, instead of", "on the canvas: the true instances, instead of"]
    for canvas, folder, said in zip(CANVASES, folders, words, strict=True):
        result = imptool("eval", here, "--dataset", "my.yaml", "--split", "all", "--canvas", canvas)
        assert result.exit_code == 0, result.output
        assert metrics(folder)["canvas"] == canvas
        assert said in result.stdout
        assert (">on the canvas<" in (folder / "report.html").read_text()) == bool(said)
    assert "on the canvas" not in imptool("compare", folders[0]).output
    plain = metrics(folders[0])
    del plain["canvas"]  # as earlier versions wrote it
    (folders[0] / "metrics.json").write_text(json.dumps(plain))
    for format_ in ("table", "markdown", "csv"):
        compared = imptool("compare", f"own={folders[0]}", f"swapped={folders[2]}", "--format", format_)
        assert "on the canvas: own detections; swapped true" in " ".join(compared.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "panoptic-p2.safetensors"), "panoptic-p2 has no canvas: --canvas is for models that project masks"),
        (("--weights", "semantic-fpn.safetensors"), "semantic-fpn has no canvas"),
        (("--predictions", "data/labels"), "--canvas true is about what a model projects"),
        (("--baseline", "prior"), "--canvas true is about what a model projects"),
        (("runs/tiny/one", "--tta", "flip"), "--canvas true is measured on one view of each image: leave out --tta"),
        (("runs/tiny/one",), "no instances/my/all.json: make it with imptool convert-instances"),
    ],
)
def test_what_cannot_have_another_canvas_is_refused_in_one_line(
    here: Path, imptool: Imptool, arguments: tuple[str, ...], words: str
) -> None:
    if "--weights" in arguments:
        save_model(Path(arguments[1]).stem)
    Path("instances/my/all.json").unlink()
    result = imptool("eval", *arguments, "--dataset", "my.yaml", "--split", "all", "--canvas", "true")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert not list(Path().rglob("metrics.json"))


def test_instances_that_do_not_fit_their_photograph_leave_it_out(here: Path, imptool: Imptool) -> None:
    document = read_instances(load_dataset("my.yaml"), "all")
    document["images"][0] |= {"height": 8, "width": 8}
    for row in document["annotations"]:
        row["segmentation"] = {"size": [8, 8], "counts": [0, 64]}
    Path("instances/my/all.json").write_text(json.dumps(document))
    result = imptool("eval", here, "--dataset", "my.yaml", "--split", "all", "--canvas", "true")
    assert result.exit_code == 1
    assert "data/images/0.png: its instances do not fit it" in result.output


# --- projection.training ---


@pytest.fixture
def recipes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)


def build(*overrides: str, name: str = "panoptic-fpn-imp") -> Parser:
    """A fresh model, which detects something everywhere."""
    torch.manual_seed(0)
    recipe = load_recipe("tiny.yaml", ["detector.score_threshold=0.0", *overrides])
    return build_model(name, recipe, LABELS, pretrained=False)


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A coat and a hat of 40 x 40 and 12 x 8 px, and an image of another size with a hat."""
    first, second = torch.zeros(2, 64, 80, dtype=torch.uint8), torch.zeros(1, 64, 64, dtype=torch.uint8)
    first[0, 8:48, 20:60] = 1
    first[1, 52:60, 4:16] = 1
    second[0, 16:40, 8:28] = 1
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, *masks.shape[1:], generator=generator) for masks in (first, second)]
    boxes = [torch.tensor([[20.0, 8, 60, 48], [4, 52, 16, 60]]), torch.tensor([[8.0, 16, 28, 40]])]
    labels = [torch.tensor([1, 2]), torch.tensor([2])]
    targets = [
        {"boxes": box, "labels": label, "masks": masks, "semantic": (masks * label[:, None, None]).sum(0)}
        for box, label, masks in zip(boxes, labels, (first, second), strict=True)
    ]
    return images, targets


def canvas_of(model: Parser, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    canvas = model.train()(*batch())[1]
    assert canvas is not None
    return canvas.detach()


@pytest.mark.usefixtures("recipes_here")
@pytest.mark.parametrize("limits", [(), ("projection.detections=1", "projection.score_threshold=1.0")])
def test_training_on_true_instances_projects_the_masks_of_the_target(limits: tuple[str, ...]) -> None:
    canvas = canvas_of(build("projection.training=true", *limits))
    by_hand = torch.zeros(2, 2, 16, 24)  # a quarter of 64 x 80 and 64 x 64, padded to 64 x 96
    by_hand[0, 0, 2:12, 5:15] = 1
    by_hand[0, 1, 13:15, 1:4] = 1
    by_hand[1, 1, 4:10, 2:7] = 1
    assert torch.equal(canvas > 0, by_hand > 0)
    torch.testing.assert_close(canvas[0, 0, 3:11, 6:14], torch.ones(8, 8))  # within the coat; its edge is soft
    _, targets = batch()
    every = [torch.arange(len(target["boxes"])) for target in targets]
    masks = [project_masks_on_boxes(one["masks"], one["boxes"], own, 28) for one, own in zip(targets, every, strict=True)]
    expected = project_masks(
        torch.cat([target["boxes"] for target in targets]) / 4,
        torch.cat([target["labels"] for target in targets]) - 1,
        torch.ones(3),
        torch.cat(masks),
        torch.tensor([0, 0, 1]),
        num_layers=2,
        size=(16, 24),
        batch=2,
    )
    torch.testing.assert_close(canvas, expected, rtol=0, atol=0)


@pytest.mark.usefixtures("recipes_here")
def test_an_image_without_instances_has_an_empty_canvas_and_no_gradient_reaches_the_detector() -> None:
    model = build("projection.training=true").train()
    images, targets = batch()
    targets[1] |= {key: targets[1][key][:0] for key in ("boxes", "labels", "masks")}
    losses, canvas = model(images, targets)
    assert canvas is not None
    assert [bool(each.any()) for each in canvas] == [True, False]
    losses["semantic"].backward()
    heads = model.detector.roi_heads
    assert all(parameter.grad is None for parameter in heads.parameters())


@pytest.mark.usefixtures("recipes_here")
def test_mixed_takes_either_for_each_image_and_the_same_for_the_same_seed() -> None:
    true, detected = (canvas_of(build(f"projection.training={what}")) for what in ("true", "detections"))
    model = build("projection.training=mixed")
    found = [canvas_of(model, seed) for seed in range(10)]
    drawn = set()
    for canvas in found:
        is_true = [torch.equal(one, other) for one, other in zip(canvas, true, strict=True)]
        wanted = [one if chosen else other for one, other, chosen in zip(true, detected, is_true, strict=True)]
        torch.testing.assert_close(canvas, torch.stack(wanted), rtol=0, atol=0)
        drawn.add(tuple(is_true))
    assert drawn == {(True, True), (True, False), (False, True), (False, False)}
    assert all(torch.equal(canvas_of(model, seed), found[seed]) for seed in (0, 1))


@pytest.mark.usefixtures("recipes_here")
def test_true_is_a_word_whatever_yaml_makes_of_it() -> None:
    for written in ("true", "'true'", "True"):
        assert load_recipe("tiny.yaml", [f"projection.training={written}"]).projection.training == "true"
    with pytest.raises(InputError, match="should be 'detections', 'true' or 'mixed', found False"):
        load_recipe("tiny.yaml", ["projection.training=false"])


# --- projection.scale ---


@pytest.mark.usefixtures("recipes_here")
@pytest.mark.parametrize("name", ["panoptic-fpn-imp", "panoptic-p2-imp"])
def test_a_canvas_of_twice_the_size_with_half_the_weights_is_the_same(name: str) -> None:
    plain, scaled = (build(f"projection.scale={scale}", name=name).eval() for scale in (1, 2))
    (image, _), _ = batch()
    expected = plain.infer([image]).logits
    assert expected is not None
    assert not torch.equal(scaled.infer([image]).logits, expected)  # type: ignore[arg-type]
    with torch.no_grad():
        scaled.semantic_head.convs[0][0].weight[:, -2:] /= 2  # type: ignore[index, union-attr]
    torch.testing.assert_close(scaled.infer([image]).logits, expected, rtol=1e-6, atol=1e-6)
