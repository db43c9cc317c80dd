"""``ingot demo``: the first thing that a newcomer runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.real_models import real_model
from typer.testing import CliRunner

from ingot.cli import demo
from ingot.cli.main import app
from ingot.measure.figures import Budget
from ingot.zoo.fetch import DownloadFailed


@pytest.mark.models
def test_the_demo_reads_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real_model(demo.MODEL)
    monkeypatch.setattr(demo, "_BUDGET", Budget(warmup=0.0, seconds=0.0, iterations=1))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    assert f"{len(demo.LINES)} of {len(demo.LINES)} lines right; scores correct" in result.output
    assert "WRONG" not in result.output


def test_a_failed_download_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Path:
        raise DownloadFailed("cannot download the package: no network", fix="check the network")

    monkeypatch.setattr(demo, "fetch", fail)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "error: cannot download the package: no network Fix: check the network" in result.output
