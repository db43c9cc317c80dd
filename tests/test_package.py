"""What ``import ingot`` gives, and what running an engine needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import ingot

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = """
import sys
sys.path.insert(0, sys.argv[2])
blocked = ["onnx", "onnx_ir", "onnxscript", "onnx_shape_inference", "triton", "torch", "typer", "rich", "PIL"]
sys.modules.update(dict.fromkeys(blocked + sys.argv[3:]))  # an import of one of them now fails
"""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run_without_compiler(code: str, path: Path, *blocked: str) -> str:
    """What ``code`` prints in a process that has only what running an engine needs."""
    command = [sys.executable, "-c", _BLOCK + code, str(path), str(_ROOT / "src"), *blocked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_names_exist() -> None:
    assert set(ingot.__all__) <= set(dir(ingot))
    for name in ingot.__all__:
        assert getattr(ingot, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ingot.nothing


def test_a_cpu_engine_runs_without_onnx_and_triton(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    ingot.build(model, target="cpu", opt_level=1).save(path)
    code = """
import numpy as np, ingot
x = np.float32([-1, 0, 1, 2])
engine = ingot.load(sys.argv[1])
print(engine.context().run({"x": x})["y"].tolist(), ingot.InferenceSession(sys.argv[1]).run(None, {"x": x})[0].tolist())
"""
    assert run_without_compiler(code, path) == "[0.0, 0.0, 1.0, 2.0] [0.0, 0.0, 1.0, 2.0]"


def test_a_gpu_engine_needs_nothing_but_the_driver(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.ingot"
    ingot.build(model, target="sm_90", opt_level=0).save(path)
    code = """
import ingot
engine = ingot.load(sys.argv[1])
print(engine.target, [step.kind for step in engine.plan.steps], [i.name for i in engine.inputs])
try:
    engine.context()
except ingot.IngotError as error:
    print("no context:", bool(error.fix), file=sys.stderr)
"""
    found = run_without_compiler(code, path, "onnxruntime", "openvino", "ml_dtypes")
    assert found == "sm_90 ['kernel'] ['x']"


def test_building_needs_what_the_build_extra_names(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    code = """
import ingot
try:
    ingot.build(sys.argv[1], target="cpu")
except ingot.IngotError as error:
    print(error)
"""
    found = run_without_compiler(code, path)
    assert found.startswith("building needs onnx") and "its extra `build`" in found
