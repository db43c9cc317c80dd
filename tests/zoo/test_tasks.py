"""Real networks on real data in 8 bits: what they are for still works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ingot
from ingot.precision.host import HostRuns
from ingot.precision.metrics import cosine
from ingot.zoo.fetch import DownloadFailed
from ingot.zoo.tasks import Task, task

Array = np.ndarray[Any, Any]


def _task(name: str, most: int | None = None) -> Task:
    """The task, or a skipped test where there is no network."""
    try:
        return task(name, most)
    except DownloadFailed as error:
        pytest.skip(str(error))


def _outputs(asked: Task, model: onnx.ModelProto | Path) -> dict[str, Array]:
    runs = HostRuns(onnx.load(model) if isinstance(model, Path) else model)
    cuts = range(0, len(asked.samples), asked.batch)
    parts = [runs.run({asked.input: np.ascontiguousarray(asked.samples[i : i + asked.batch])}) for i in cuts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _loss(asked: Task, made: onnx.ModelProto) -> float:
    assert asked.score is not None
    before, after = _outputs(asked, asked.model), _outputs(asked, made)
    name = asked.output or next(iter(before))
    return asked.score(before[name], before[name]) - asked.score(after[name], before[name])


@pytest.mark.models
def test_faces_are_found_in_int8() -> None:
    asked = _task("rnet")
    before = _outputs(asked, asked.model)["softmax_1"]
    assert asked.score is not None and asked.score(before, before) > 0.92
    made, _, report = ingot.quantize(asked.model, {asked.input: asked.calibration})
    assert report.within_budget and report.quantized >= 4
    assert _loss(asked, made) <= 0.005


@pytest.mark.models
@pytest.mark.nightly
def test_text_is_read_in_int8() -> None:
    asked = _task("ocr_rec", 200)
    made, _, report = ingot.quantize(asked.model, {asked.input: asked.calibration})
    assert report.within_budget and report.quantized >= 20
    lines = len(asked.samples)
    assert lines == 200 and round(_loss(asked, made) * lines) <= 1  # half a point is one line


@pytest.mark.models
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["open_nsfw", "yolov8n"])
def test_outputs_on_photos_stay_alike(name: str) -> None:
    asked = _task(name)
    made, _, report = ingot.quantize(asked.model, {asked.input: asked.calibration})
    before, after = _outputs(asked, asked.model), _outputs(asked, made)
    assert report.within_budget
    assert all(cosine(array, after[key]) > 0.999 for key, array in before.items())
