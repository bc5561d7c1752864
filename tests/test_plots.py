"""The band plot: what it draws is read back from its lines."""

import subprocess
import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from imptool.report.plots import plot_bands


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def test_two_panels_in_percent_with_a_line_for_each_run(tmp_path, drawn):
    curves = {
        "panoptic-fpn": {"miou": [0.25, 0.5], "macc": [0.5, 0.75]},
        "panoptic-fpn-imp": {"miou": [float("nan"), 0.625], "macc": [0.75, 1.0]},
    }
    plot_bands(tmp_path / "bands.png", [10, 400], curves)
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
