"""What an engine's precision explains."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import ingot
from ingot.measure.tolerance import tolerance_of


@pytest.mark.parametrize(
    ("dtype", "options", "allowed"),
    [
        (TensorProto.FLOAT, {}, 0.001),
        (TensorProto.FLOAT, {"tf32": True}, 0.005),
        (TensorProto.FLOAT, {"fp16": True}, 0.03),
        (TensorProto.FLOAT16, {}, 0.03),
    ],
)
def test_it_follows_the_options_and_the_models_own_types(dtype: int, options: dict[str, bool], allowed: float) -> None:
    ends = [helper.make_tensor_value_info(name, dtype, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    engine = ingot.build(model, target="sm_90", opt_level=0, **options)  # type: ignore[arg-type]
    assert tolerance_of(engine.file) == allowed
