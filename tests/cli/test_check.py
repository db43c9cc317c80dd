"""``ingot check`` as a command."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from ingot.cli.main import app


def ingot(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_model_that_runs_on_the_device() -> None:
    result = ingot("check", "zoo:resnet_tiny", "--fp16", "--target", "sm_80")
    assert result.exit_code == 0, result.output
    assert "zoo:resnet_tiny on sm_80, fp16: all" in result.stdout
    for part in ("Conv", "device (conv)", "layers: ", "at least as many kernels", "memory: weights"):
        assert part in result.stdout, part


def test_a_part_on_the_host_is_exit_code_3(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 4, 4]), ("y", ["n"]))]
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"], name="square"), helper.make_node("Det", ["a"], ["y"], name="det")
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    result = ingot("check", path, "--shapes", "x=1x4x4:2x4x4:8x4x4")
    assert result.exit_code == 3, result.output
    assert "1 part stays on the host" in result.stdout and "det: Det has no device kernel" in result.stdout
    found = json.loads(ingot("check", path, "--shapes", "x=2x4x4", "--json").stdout)
    assert found["islands"][0]["reasons"][0]["node"] == "det"


def test_a_wrong_file_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    result = ingot("check", tmp_path / "bad.onnx")
    assert result.exit_code == 1 and result.stderr.startswith("error: ")
