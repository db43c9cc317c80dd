"""Mistakes at the command line: one line that names the fix, exit code 1; 2 for wrong usage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ingot.cli.main import app
from ingot.zoo import architectures


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("e") / "e.ingot"
    words = ["build", "zoo:resnet_tiny", "-o", str(path), "--target", "cpu", "--opt-level", "0"]
    assert CliRunner().invoke(app, words).exit_code == 0
    return path


def refused(words: list[object], *parts: str) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.output
    for part in parts:
        assert part in errors[0], errors[0]


def test_models_that_are_not_there(tmp_path: Path) -> None:
    refused(["build", tmp_path / "no.onnx"], "no such file", "zoo:NAME")
    refused(["build", "zoo:resnet51"], "zoo has no 'resnet51'", "resnet50")
    refused(["zoo", "fetch", "nothing"], "there is no model 'nothing'")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x00garbage" * 50)
    refused(["build", path, "-o", tmp_path / "o.ingot", "--target", "cpu"], "x.onnx")
    assert not (tmp_path / "o.ingot").exists()


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    refused(["build", "zoo:resnet_tiny", "-o", tmp_path / "none" / "o.ingot"], "folder does not exist")
    refused(["build", "zoo:resnet_tiny", "-o", tmp_path], "this is a folder")


def test_wrong_options(tmp_path: Path) -> None:
    path = ["-o", tmp_path / "o.ingot"]
    refused(["build", "zoo:resnet_tiny", *path, "--target", "sm_1"], "no target 'sm_1'", "sm_90")
    refused(["build", "zoo:resnet_tiny", *path, "--shapes", "input=1xx3"], "not a shape of positive numbers")
    words = ["build", "zoo:resnet_tiny", *path, "--target", "sm_90", "--opt-level", 0, "--dump-dir", tmp_path]
    refused([*words, "--dump-after", "nothing"], "no pass called nothing")


def test_damaged_engines(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.ingot"
    path.write_bytes(engine.read_bytes()[:-100])
    for words in (["inspect", path], ["run", path], ["bench", path], ["simulate", path]):
        refused(words, "truncated")
    model = tmp_path / "m.onnx"
    architectures.save("resnet_tiny", model)
    refused(["inspect", model], "not an Ingot engine")


def test_wrong_inputs(engine: Path, tmp_path: Path) -> None:
    x = np.zeros((1, 3, 32, 32), np.float32)
    cases = (
        ({"imput": x}, "imput"),
        ({"input": x.astype(np.float64)}, "float64"),
        ({"input": x[:, :, 1:]}, "input"),
    )
    for arrays, part in cases:
        np.savez(tmp_path / "in.npz", **arrays)
        refused(["run", engine, "--input", tmp_path / "in.npz"], part)
    refused(["run", engine, "--input", tmp_path / "none.npz"], "cannot read arrays")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    refused(["run", engine, "--input", tmp_path / "bad.npz"], "cannot read arrays")
    refused(["run", engine, "--shapes", "input=1x3x32x31"], "input")
    refused(["run", engine, "--shapes", "inputs=1x3x32x32"], "no input called inputs")


def test_pickled_inputs_are_never_loaded(engine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", input=np.array([{"a": 1}], object))
    refused(["run", engine, "--input", tmp_path / "in.npz"], "cannot read arrays")


def test_wrong_peers_and_suites(engine: Path) -> None:
    refused(["bench", engine, "--against", "tensorrt"], "no peer called tensorrt", "onnxruntime")
    refused(["bench", "--suite", "none"], "no suite 'none'")
    refused(["bench", "zoo:resnet_tiny", "--model", "x.onnx"], "--model goes with an engine")
    refused(["bench", engine, "--save", "x.ingot"], "engine already")


def test_library_is_for_gpus() -> None:
    refused(["library", "build", "--arch", "cpu"], "kernels for GPUs")
    refused(["library", "build", "--arch", "sm_90", "--all", "--per-layer", "2"], "contradict each other")


@pytest.mark.parametrize(
    "words",
    [
        ["build"],
        ["build", "a.onnx", "--opt-level", "9"],
        ["nothing"],
        ["bench"],
        ["bench", "a.onnx", "--suite", "h200"],
        ["compare", "x", "y", "--values", "some"],
        ["inspect", "/nowhere/e.ingot"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


def test_the_command_starts_without_the_compiler() -> None:
    import subprocess
    import sys

    check = (
        "import sys, ingot.cli.main; print([m for m in ('onnx', 'triton', 'numpy', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
