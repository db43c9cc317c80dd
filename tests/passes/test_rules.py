"""Tables of rewrites: an op that a plugin has taken over reaches the plugin as it was written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.errors import YES
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.importer.load import import_model
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plugins.api import Attribute, AttrType, Kernels, Plugin, TensorInfo, Work
from ingot.plugins.registry import using

_EIGHT = ["a", "s", "z", "b", "s", "z", "s", "z"]
NODES = {
    "QLinearMatMul": helper.make_node("QLinearMatMul", _EIGHT, ["y"]),
    "QLinearAdd": helper.make_node("QLinearAdd", _EIGHT, ["y"], domain="com.microsoft"),
    "Einsum": helper.make_node("Einsum", ["a", "b"], ["y"], equation="ij,jk->ik"),
    "BiasGelu": helper.make_node("BiasGelu", ["a", "b"], ["y"], domain="com.microsoft"),
    "ReverseSequence": helper.make_node("ReverseSequence", ["a", "n"], ["y"]),
}


def _model(node: onnx.NodeProto) -> onnx.ModelProto:
    kind = TensorProto.UINT8 if node.op_type.startswith("QLinear") else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [4, 4]) for name in ("a", "b", "y")]
    arrays = {"s": np.asarray(0.1, np.float32), "z": np.asarray(3, np.uint8), "n": np.asarray([1, 4, 2, 3])}
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in node.input]
    graph = helper.make_graph([node], "g", ends[:2], ends[2:], stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _plugin(node: onnx.NodeProto) -> Plugin:
    """The op of ``node`` with kernels that nobody compiles here."""
    return Plugin(
        domain=node.domain,
        name=node.op_type,
        version="1",
        shapes=lambda node: [TensorInfo(node.input(0).dtype, node.input(0).shape)],
        reference=lambda attrs, inputs: [inputs[0]],
        implementations=(Kernels("cuda", lambda node, tactic: Work(())),),
        attributes={attribute.name: Attribute(AttrType.STRING, "") for attribute in node.attribute},
        inputs=(1, 8),
        dtypes=frozenset({"float32", "uint8", "int64"}),
    )


def _ops(model: ir.Model) -> list[tuple[str, str]]:
    return [(node.domain, node.op_type) for node in model.graph]


@pytest.mark.parametrize("name", NODES)
def test_a_plugin_takes_over(name: str) -> None:
    node = NODES[name]
    op = (node.domain, node.op_type)
    assert op not in _ops(canonicalise(import_model(_model(node)).model, fp16=False).model)
    with using([_plugin(node)]):
        imported = import_model(_model(node))
        model = canonicalise(imported.model, fp16=False).model
        assert _ops(model) == [op]
        lowered = lower(model, imported.ranges, lambda region: YES)
    assert isinstance(lowered, Lowered) and [region.kind for region in lowered.regions] == [Kind.PLUGIN]
