"""The main job on real photographs. It takes 25 minutes of training, so `make test-all` runs it and `make test` does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


@pytest.mark.slow
def test_ccp_small_beats_the_position_prior(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imptool: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPTOOL_DATA", str(shared_data))
    for arguments in (
        ("convert-instances", "recipes/datasets/ccp.yaml"),
        ("train", "recipes/ccp_small.yaml"),
        ("eval", "--boundary-bands", "--baseline", "prior", "--out", "figures"),
    ):
        result = imptool(*arguments)
        assert result.exit_code == 0, result.output
    metrics = json.loads(Path("figures/metrics.json").read_text())
    ours, prior = metrics["semantic"]["panoptic-fpn-imp"], metrics["semantic"]["prior"]
    assert ours["miou"] >= 1.5 * prior["miou"]
    assert ours["pixel_accuracy"] > prior["pixel_accuracy"]
    assert metrics["canvas_nonempty"] > 0.5
    for band, floor in zip(ours["bands"], prior["bands"], strict=True):
        assert band["pixel_accuracy"] > floor["pixel_accuracy"]
