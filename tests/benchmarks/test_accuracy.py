"""The page of accuracies: what it says of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.eight_bit import pictures, residual_net
from support.rewrites import run_ort

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import accuracy

from ingot.measure.environment import environment
from ingot.zoo.tasks import Task


@pytest.fixture(scope="module")
def rows() -> list[accuracy.Row]:
    net = residual_net(1).proto()
    samples = pictures(20, seed=1)
    truth = next(iter(run_ort(net, {"x": samples}).values())).argmax(axis=1)

    def score(made: np.ndarray, original: np.ndarray) -> float:
        del original
        return float(np.mean(made.argmax(axis=1) == truth))

    labelled = Task("labelled", net, "x", pictures(16), samples, "top-1", score, 10)
    plain = Task("plain", net, "x", pictures(16), samples, "", None, 10)
    return [accuracy.measure(labelled), accuracy.measure(plain)]


def test_every_precision_is_measured(rows: list[accuracy.Row]) -> None:
    for row in rows:
        assert list(row.forms) == ["fp32", "fp16", "int8", "fp8"]
        noise = [row.forms[name].sqnr_db for name in row.forms]
        assert noise[0] == 200 and noise[0] > noise[1] > noise[2] > noise[3] > 10
    assert rows[0].forms["fp32"].score == 1.0 and rows[1].forms["fp32"].score is None


def test_the_page(rows: list[accuracy.Row]) -> None:
    page = accuracy.page(accuracy.Results(environment(None), rows))
    assert "{" not in page
    labelled, plain = (
        next(line for line in page.splitlines() if line.startswith(f"| {n} ")) for n in ("labelled", "plain")
    )
    assert "| 100.00 % |" in labelled and "| 4 of 4" in labelled and "16 samples" in labelled
    assert "cosine (SQNR)" in plain and plain.count("dB") == 3
