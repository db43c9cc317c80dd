"""What builds without a GPU lose: by layers' times, and engines made in a process that sees no GPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from support.snippets import ROOT

from ingot.builder.api import lower_model
from ingot.builder.targets import gpu_target
from ingot.engine.file import EngineFile
from ingot.errors import No
from ingot.graph.region import Kind
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates
from ingot.tune.database import Database, Entry, Key
from ingot.zoo import standard
from ingot.zoo.standard import Setup

SETUP = Setup("mobilenet_tiny", 2)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(name)


def _times() -> Database:
    """Of each layer the likeliest variant takes 12 µs, the least likely 10, where there are several."""
    target, times = gpu_target("sm_90"), Database()
    model, shapes = standard.model_of(SETUP)
    lowered = lower_model(model, target, standard.options_of(SETUP, "sm_90", shapes, 2))
    assert not isinstance(lowered, No)
    for region in lowered.regions:
        if region.kind not in (Kind.VIEW, Kind.HOST):
            ranked = candidates(region.canonical, target, lowered.bindings(), TACTICS).ranked
            key = Key.of(region, target, lowered.bindings(), "H", "c")
            times.add(Entry(key, region.kind.value, {ranked[0].text: 12.0} | {ranked[-1].text: 10.0}))
    return times


def test_losses_are_summed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cross_build = script("cross_build", monkeypatch)
    truth = _times()
    (row,) = cross_build.rows(truth, truth, "sm_90", (SETUP,))
    assert row["network"] == "mobilenet_tiny-b2-fp16" and row["shipped"]["untimed"] == 0
    assert row["shipped"]["ratio"] == 1.0 and row["shipped"]["wrong"] == [] and row["shipped"]["recorded"] > 5
    assert 1.1 < row["model"]["ratio"] <= 1.2 and row["model"]["recorded"] == 0 == row["model"]["unknown"]
    assert 5 < len(row["model"]["wrong"]) <= 8 and all("12.00 us, " in text for text in row["model"]["wrong"])


@pytest.mark.nightly
def test_engines_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "INGOT_JOBS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "cache"))
    cross_engines = script("cross_engines", monkeypatch)
    times = tmp_path / "times.json"
    _times().save(times)
    assert cross_engines.cross("mobilenet_tiny", 2, "sm_90", tmp_path, 2, times).keys() == {"shipped", "model", "tuned"}
    model, tuned = (EngineFile.read(tmp_path / f"mobilenet_tiny-2-{way}.ingot") for way in ("model", "tuned"))
    others = cross_engines._others(model, tuned)
    assert len(others) > 5 and cross_engines._others(tuned, tuned) == []
