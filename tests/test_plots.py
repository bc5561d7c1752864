"""The plots of an evaluation: what they draw is read back from their lines, bars, squares and numbers."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from imptool.report.plots import (
    plot_bands,
    plot_class_bars,
    plot_class_gains,
    plot_confusion,
    plot_curves,
    plot_gain,
    plot_training,
)

NAN = float("nan")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, each as a PNG and as an SVG."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def test_two_panels_in_percent_with_a_line_for_each_run(tmp_path, drawn):
    curves = {
        "panoptic-fpn": {"miou": [0.25, 0.5], "macc": [0.5, 0.75]},
        "panoptic-fpn-imp": {"miou": [float("nan"), 0.625], "macc": [0.75, 1.0]},
    }
    assert plot_bands(tmp_path / "bands.png", [10, 400], curves) == [tmp_path / "bands.png", tmp_path / "bands.svg"]
    with Image.open(tmp_path / "bands.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 400
    miou, macc = drawn[0].axes
    assert [list(line.get_xdata()) for line in miou.lines] == [[10, 400]] * 2
    assert list(miou.lines[0].get_ydata()) == [25, 50]
    assert miou.lines[1].get_ydata()[1] == 62.5
    assert [list(line.get_ydata()) for line in macc.lines] == [[50, 75], [75, 100]]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(curves)
    assert len({line.get_marker() for line in miou.lines}) == 2


@pytest.mark.parametrize("curves", [{}, {"run": {"miou": [float("nan")] * 2, "macc": [float("nan")] * 2}}])
def test_nothing_to_draw_is_still_a_picture(tmp_path, curves):
    plot_bands(tmp_path / "bands.png", [10, 20], curves)
    assert (tmp_path / "bands.png").stat().st_size > 0


def test_an_interval_is_a_light_band_with_gaps(tmp_path, drawn):
    curves = {run: {"miou": [0.2, 0.3, 0.4, 0.5], "macc": [0.5] * 4} for run in ("a", "b")}
    ends = np.array([[0.1, 0.3], [NAN, NAN], [0.35, 0.45], [0.4, 0.6]])
    plot_bands(tmp_path / "bands.png", [1, 2, 3, 5], curves, {"b": {"miou": ends, "macc": ends}})
    [band] = drawn[0].axes[0].collections  # none for the run without intervals
    corners = [{(round(x, 6), round(y, 6)) for x, y in path.vertices} for path in band.get_paths()]
    assert corners == [{(1, 10), (1, 30)}, {(3, 35), (3, 45), (5, 40), (5, 60)}]


@pytest.mark.parametrize(
    ("bands", "named"),
    [
        ([1, 2, 3, 5, 10, 20], ["1", "2", "3", "5", "10", "20"]),
        ([10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400], ["10", "50", "75", "100", "150", "200", "300", "400"]),
        (range(10, 401, 10), ["10", "50", "100", "150", "200", "250", "300", "350", "400"]),
        ([0.5, 1, 400], ["0.5", "400"]),
        ([7], ["7"]),
    ],
)
def test_widths_are_named_where_they_have_room_and_marked_elsewhere(tmp_path, drawn, bands, named):
    values = np.linspace(0.1, 0.2, len(bands))
    plot_bands(tmp_path / "bands.png", bands, {"run": {"miou": values, "macc": values}})
    for axes in drawn[0].axes:
        labels = sorted(axes.get_xticklabels(), key=lambda label: label.get_position()[0])
        assert [label.get_text() for label in labels] == named
        boxes = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        marked = [*axes.get_xticks(), *axes.get_xticks(minor=True)]
        assert sorted(marked) == list(bands)


def bar_plot(path: Path) -> Sequence[Path]:
    values = {"$a$ run": [0.5, NAN, 0.25], "_b": [0.75, NAN, NAN]}
    return plot_class_bars(path, ["coat", "$hat$", "bag"], values, {"_b": np.array([[0.7, 0.8], [NAN, NAN], [NAN, NAN]])})


def test_a_bar_for_each_class_and_run_with_its_interval(tmp_path, drawn):
    bar_plot(tmp_path / "bars.png")
    [axes] = drawn[0].axes
    first, second = axes.containers
    assert [bar.get_width() for bar in (*first, *second)] == pytest.approx([50, NAN, 25, 75, NAN, NAN], nan_ok=True)
    assert len({bar.get_facecolor() for bar in (first[0], second[0])}) == 2
    assert [text.get_text() for text in axes.get_yticklabels()] == ["coat", r"\$hat\$", "bag"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [r"\$a\$ run", "_b"]
    [whiskers] = axes.collections
    whisker = whiskers.get_segments()[0]
    assert whisker[:, 0] == pytest.approx([70, 80])
    middle = second[0].get_y() + second[0].get_height() / 2
    assert whisker[:, 1] == pytest.approx([middle, middle])
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("absent", 1)]  # for both runs
    dashes = [list(line.get_ydata()) for line in axes.lines]
    assert dashes == [[], [pytest.approx(second[2].get_y() + second[2].get_height() / 2)]]


@pytest.mark.parametrize(("classes", "runs"), [(1, 1), (16, 8), (50, 1), (51, 2), (200, 3)])
def test_no_names_overlap_beside_the_bars(tmp_path, drawn, classes, runs):
    names = [f"garment number {place} of those" for place in range(classes)]
    plot_class_bars(tmp_path / "bars.png", names, {f"run {run}": np.linspace(0, 1, classes) for run in range(runs)})
    assert len(drawn[0].axes) == (1 if classes <= 50 else 2)
    labels = [axes.get_yticklabels() for axes in drawn[0].axes]
    assert [label.get_text() for column in labels for label in column] == names
    for column in labels:
        boxes = [label.get_window_extent() for label in column]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    ends = [axes.get_window_extent() for axes in drawn[0].axes]
    assert all(left.x1 < min(label.get_window_extent().x0 for label in labels[1]) for left in ends[:-1])
    assert {axes.get_xlim() for axes in drawn[0].axes} == {(0, 100)}
    bars = [bar for axes in drawn[0].axes for bars in axes.containers for bar in bars]
    assert min(bar.get_window_extent().height for bar in bars) > 5  # of 100 px per inch


def confusion_plot(path: Path) -> Sequence[Path]:
    return plot_confusion(path, ["coat", "$hat$", "bag"], np.array([[3, 1, 0], [0, 0, 0], [1, 2, 997]]))


def test_a_confusion_has_each_row_in_percent_and_an_absent_row_hatched(tmp_path, drawn):
    confusion_plot(tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    shares = axes.images[0].get_array()
    assert shares[[0, 2]].tolist() == [[75, 25, 0], [0.1, 0.2, 99.7]]
    assert shares.mask.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "75", (1, 0): "25", (2, 2): "100"}  # (column, row), from half a percent
    [absent] = axes.patches
    assert (absent.get_y(), absent.get_height(), absent.get_hatch()) == (0.5, 1, "////")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["coat", r"\$hat\$ (absent)", "bag"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["coat", r"\$hat\$", "bag"]


@pytest.mark.parametrize("classes", [1, 2, 5, 25, 60])
def test_a_confusion_of_few_and_many_classes_is_readable(tmp_path, drawn, classes):
    names = [f"garment {place}" for place in range(classes)]
    plot_confusion(tmp_path / "confusion.png", names, 7 * np.eye(classes))
    axes = drawn[0].axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == classes
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        assert all(label.get_fontsize() >= 7 for label in labels)
    assert len(axes.texts) == (classes if classes <= 25 else 0)
    cell = axes.transData.transform((1, 0))[0] - axes.transData.transform((0, 0))[0]
    assert all(text.get_window_extent().width < cell for text in axes.texts)


def test_shades_and_numbers_differ_in_grey_as_well(tmp_path, drawn):
    """The luminance falls from each tick of the scale to the next; a number stands out from its square (WCAG: 4.5 to 1)."""
    names = [str(share) for share in range(1, 21)]
    confusion = np.zeros((20, 20), int)
    confusion[:, 0] = 5 * np.arange(1, 21)
    confusion[:, 1] = 100 - confusion[:, 0]
    plot_confusion(tmp_path / "confusion.png", names, confusion)
    axes = drawn[0].axes[0]
    picture = axes.images[0]

    def luminance(colour: Sequence[float]) -> float:
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    greys = [luminance(picture.to_rgba(share)) for share in (0, 1, 5, 10, 25, 50, 100)]
    assert all(lighter > 1.04 * darker for lighter, darker in pairwise(greys))
    for text in axes.texts:
        column, row = text.get_position()
        behind, letter = luminance(picture.to_rgba(picture.get_array()[row, column])), float(text.get_color() == "white")
        assert (max(behind, letter) + 0.05) / (min(behind, letter) + 0.05) >= 4.5, text.get_text()


def curve_plot(path: Path) -> Sequence[Path]:
    return plot_curves(path, {"$a$ run": {200: [0.2, 0.3, 0.7], 100: [0.1, 0.2, NAN]}, "_b": {100: [0.5], 200: [NAN]}})


def test_a_curve_is_the_mean_of_the_seeds_in_a_band_from_the_lowest_to_the_highest(tmp_path, drawn):
    curve_plot(tmp_path / "curves.png")
    [axes] = drawn[0].axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[100, 200]] * 2
    assert list(axes.lines[0].get_ydata()) == pytest.approx([15, 40])
    assert list(axes.lines[1].get_ydata()) == pytest.approx([50, NAN], nan_ok=True)
    [band], nothing = (part.get_paths() for part in axes.collections)
    assert {(round(x), round(y)) for x, y in band.vertices} == {(100, 10), (100, 20), (200, 20), (200, 70)}
    assert nothing == []  # a single seed is a line alone
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [r"\$a\$ run", "_b"]


def gain_plot(path: Path) -> Sequence[Path]:
    points = [("$a$", 0.2, 0.02, 0.01, 0.04), ("b", 0.3, -0.01, NAN, NAN), ("of the labels", NAN, 0.1, 0.08, 0.12)]
    return plot_gain(path, points)


def test_a_gain_stands_at_its_ap_and_that_of_true_instances_apart(tmp_path, drawn):
    gain_plot(tmp_path / "gain.png")
    detected, true = drawn[0].axes
    zero = {tuple(axes.lines[-1].get_ydata()) for axes in (detected, true)}
    assert zero == {(0, 0)}
    points = [[float(value[0]) for value in line.get_data()] for line in detected.lines[:-1]]
    assert points == [pytest.approx([20, 2]), pytest.approx([30, -1])]
    assert list(true.lines[0].get_ydata()) == [pytest.approx(10)]
    assert detected.collections[0].get_segments()[0].tolist() == [pytest.approx([20, 1]), pytest.approx([20, 4])]
    assert [label.get_text() for label in true.get_xticklabels()] == ["true\ninstances"]
    assert detected.get_ylim() == true.get_ylim()
    assert [text.get_text() for axes in (detected, true) for text in axes.texts] == [r"\$a\$", "b", "of the labels"]


@pytest.mark.parametrize("true", [0, 1, 3])
@pytest.mark.parametrize("near", [0, 1, 8])
def test_no_names_of_gains_overlap(tmp_path, drawn, near, true):
    points = [(f"model number {place}", 0.2 + 0.02 * place, 0.01, 0.0, 0.02) for place in range(near)]
    points += [(f"model {place} on true instances", NAN, 0.01 * place, 0.0, 0.02) for place in range(true)]
    plot_gain(tmp_path / "gain.png", points)
    boxes = [text.get_window_extent() for axes in drawn[0].axes for text in axes.texts]
    assert len(boxes) == near + true
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    bars = [Bbox(axes.transData.transform(bar.get_segments()[0])) for axes in drawn[0].axes for bar in axes.collections]
    markers = [line.get_window_extent() for axes in drawn[0].axes for line in axes.lines]
    assert not any(box.overlaps(other) for box in boxes for other in [*bars, *markers])
    whole = drawn[0].bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in boxes)


def class_gain_plot(path: Path) -> Sequence[Path]:
    gains = np.array([[0.02, -0.01, 0.05], [NAN] * 3, [-0.03, NAN, NAN]])
    return plot_class_gains(path, ["coat", "$hat$", "bag"], gains, [30, 0, 1200], [400, NAN, 81])


def test_gains_of_classes_are_sorted_by_their_instances(tmp_path, drawn):
    class_gain_plot(tmp_path / "classes.png")
    [axes] = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bag (1,200, 9 px)", "coat (30, 20 px)", r"\$hat\$ (0)"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert [bar.get_width() for bar in axes.containers[0]] == pytest.approx([-3, 2, NAN], nan_ok=True)
    [whiskers] = axes.collections
    assert whiskers.get_segments()[1].tolist() == [pytest.approx([-1, 1]), pytest.approx([5, 1])]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("absent", (0, 2))]


@pytest.mark.parametrize("classes", [0, 1, 60])
def test_no_names_overlap_beside_the_gains(tmp_path, drawn, classes):
    names = [f"garment number {place} of those" for place in range(classes)]
    plot_class_gains(tmp_path / "classes.png", names, np.zeros((classes, 3)), [9] * classes, [100.0] * classes)
    labels = drawn[0].axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [f"{name} (9, 10 px)" for name in names]
    assert not any(one.get_window_extent().overlaps(other.get_window_extent()) for one, other in pairwise(labels))


def band_plot(path: Path) -> Sequence[Path]:
    ends = np.array([[0.1, 0.3], [0.2, 0.4]])
    curves = {"$a$ run": {"miou": [0.2, 0.3], "macc": [0.2, 0.3]}}
    return plot_bands(path, [1, 5], curves, {"$a$ run": {"miou": ends, "macc": ends}})


@pytest.mark.parametrize("plot", [band_plot, bar_plot, confusion_plot, curve_plot, gain_plot, class_gain_plot])
def test_equal_values_write_equal_bytes_and_an_svg_brings_its_letters(tmp_path, plot: Callable[[Path], Sequence[Path]]):
    first, second = plot(tmp_path / "a" / "plot.png"), plot(tmp_path / "b" / "plot.png")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[1].read_text(encoding="utf-8")
    assert "<text" not in svg  # outlines: no font is asked for
    assert "<dc:date>" not in svg


@pytest.mark.parametrize(
    ("draw", "rule"),
    [
        (
            lambda path: plot_class_bars(path, ["a", "b"], {"run": [0.5]}),
            r"run must have one value for each of 2 classes, got 1",
        ),
        (
            lambda path: plot_class_bars(path, ["a"], {"run": [0.5]}, {"run": np.zeros((2, 2))}),
            r"the intervals of run must be \[1, 2\], got \[2, 2\]",
        ),
        (
            lambda path: plot_bands(
                path, [1], {"run": {"miou": [0.5], "macc": [0.5]}}, {"run": {"miou": np.zeros(2), "macc": np.zeros(2)}}
            ),
            r"the intervals of miou of run must be \[1, 2\], got \[2\]",
        ),
        (
            lambda path: plot_class_gains(path, ["a"], np.zeros((1, 2)), [1], []),
            r"gains must be \[1, 3\], instances and areas \[1\], got \[1, 2\], \[1\] and \[0\]",
        ),
        (lambda path: plot_confusion(path, ["a"], np.zeros((2, 2))), r"confusion must be \[1, 1\] for 1 classes, got \[2, 2\]"),
    ],
)
def test_values_of_another_shape_are_refused_and_nothing_is_written(tmp_path, draw, rule):
    with pytest.raises(ValueError, match=rule):
        draw(tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_a_curve_of_another_length_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"miou of a run must have one value for each of 2 bands, got 1"):
        plot_bands(tmp_path / "bands.png", [10, 20], {"a run": {"miou": [0.5], "macc": [0.5, 0.5]}})
    assert list(tmp_path.iterdir()) == []


def test_metrics_and_pictures_load_neither_pyplot_nor_torch():
    names = ["metrics.confusion", "metrics.boundary", "metrics.average_precision", "metrics.prior"]
    names += ["report.plots", "report.overlays"]
    program = f"import sys, {', '.join('imptool.' + name for name in names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "matplotlib.figure" in loaded
    assert not {"torch", "matplotlib.pyplot"} & set(loaded)


def test_stages_of_a_training_follow_each_other_in_panels_for_losses_rate_and_miou(tmp_path, drawn):
    detector = {"mask": [(10, 2.0), (20, 1.0)], "lr": [(10, 0.1), (20, 0.2)]}
    full = {"mask": [(10, 0.5)], "semantic": [(10, 3.0)], "lr": [(10, 0.1)], "val_miou": [(10, 0.25)]}
    paths = plot_training(tmp_path / "curves.png", {"detector": detector, "full": full})
    assert [path.name for path in paths] == ["curves.png", "curves.svg"]
    losses, rate, miou = drawn[0].axes
    points = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in losses.lines]
    assert [(10, 2), (20, 1)] in points
    assert [(30, 0.5)] in points
    assert [(30, 3)] in points
    assert [20, 20] in [list(line.get_xdata()) for line in losses.lines]  # between the stages
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["mask", "semantic"]
    assert rate.get_ylabel() == "learning rate"
    assert [(30, 25)] in [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in miou.lines]
