"""``ingot surgeon`` as a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from typer.testing import CliRunner, Result

from ingot.cli.main import app
from ingot.zoo import architectures


def ingot(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_it_cuts_a_part_that_runs(tmp_path: Path) -> None:
    network = architectures.build("mobilenet_tiny")
    start, end = network.graph.node[0].output[0], network.graph.node[4].output[0]
    result = ingot("surgeon", "zoo:mobilenet_tiny", "--from", start, "--to", end, "-o", tmp_path / "p.onnx")
    assert result.exit_code == 0, result.output
    assert "nodes" in result.stdout and f"from: {start} float32" in result.stdout
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in declared.shape]
    assert np.isfinite(session.run(None, {start: np.ones(shape, np.float32)})[0]).all()


def test_mistakes(tmp_path: Path) -> None:
    result = ingot("surgeon", "zoo:mobilenet_tiny", "--to", "nothing", "-o", tmp_path / "p.onnx")
    assert result.exit_code == 1 and "no such Value" in result.stderr
    assert "neither end" in ingot("surgeon", "zoo:mobilenet_tiny", "-o", tmp_path / "p.onnx").stderr
    path = architectures.save("mobilenet_tiny", tmp_path / "m.onnx")
    name = architectures.build("mobilenet_tiny").graph.node[0].output[0]
    assert "the model itself" in ingot("surgeon", path, "--to", name, "-o", path).stderr
