"""Tables of rewrites: an op that a plugin has taken over reaches the plugin as it was written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.quantized_models import QuantizedNet

from ingot.errors import YES
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.importer.load import import_model
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.plugins.api import Attribute, AttrType, Kernels, Node, Plugin, TensorInfo, Work
from ingot.plugins.registry import using

_EIGHT = ["a", "s", "z", "b", "s", "z", "s", "z"]
NODES = {
    "QLinearMatMul": helper.make_node("QLinearMatMul", _EIGHT, ["y"]),
    "QLinearAdd": helper.make_node("QLinearAdd", _EIGHT, ["y"], domain="com.microsoft"),
    "Einsum": helper.make_node("Einsum", ["a", "b"], ["y"], equation="ij,jk->ik"),
    "BiasGelu": helper.make_node("BiasGelu", ["a", "b"], ["y"], domain="com.microsoft"),
    "BatchNormalization": helper.make_node("BatchNormalization", ["a", "w", "w", "w", "v"], ["y"]),
    "Hardmax": helper.make_node("Hardmax", ["a"], ["y"]),
    "Identity": helper.make_node("Identity", ["a"], ["y"]),
    "ReverseSequence": helper.make_node("ReverseSequence", ["a", "n"], ["y"]),
}


def _model(node: onnx.NodeProto) -> onnx.ModelProto:
    kind = TensorProto.UINT8 if node.op_type.startswith("QLinear") else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, [4, 4]) for name in ("a", "b", "y")]
    ones = np.ones(4, np.float32)
    arrays = {"w": ones, "v": 2 * ones}
    arrays |= {"s": np.asarray(0.1, np.float32), "z": np.asarray(3, np.uint8), "n": np.asarray([1, 4, 2, 3])}
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
    if node.op_type != "Identity":
        assert op not in _ops(canonicalise(import_model(_model(node)).model, fp16=False).model)
    with using([_plugin(node)]):
        imported = import_model(_model(node))
        model = canonicalise(imported.model, fp16=False).model
        assert _ops(model) == [op]
        lowered = lower(model, imported.ranges, lambda region: YES)
    assert isinstance(lowered, Lowered) and [region.kind for region in lowered.regions] == [Kind.PLUGIN]


@pytest.mark.parametrize("taken", ["Conv", "BatchNormalization", "Relu"])
@pytest.mark.parametrize("fp16", [False, True])
def test_nothing_is_moved_into_or_out_of_what_a_plugin_takes(taken: str, fp16: bool) -> None:
    """Each is asked about in its turn, and the stages in between name it as the file does."""
    ones = np.ones(4, np.float32)
    stored = {"k": np.ones((4, 4, 1, 1), np.float32), "w": ones, "v": 2 * ones}
    nodes = [
        helper.make_node("Conv", ["a", "k"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "w", "w", "w", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("a", "y")]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(array, name) for name, array in stored.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    stages: list[list[tuple[str, str]]] = []
    with using([_plugin(next(node for node in nodes if node.op_type == taken))]):
        imported = import_model(model)
        made = canonicalise(imported.model, fp16=fp16, dump=lambda name, stage: stages.append(_ops(stage)))
        lowered = lower(made.model, imported.ranges, lambda region: YES)
    assert all(("", taken) in stage for stage in stages) and set(made.model.opset_imports) == {""}
    assert isinstance(lowered, Lowered)
    (region,) = [region for region in lowered.regions if region.kind is Kind.PLUGIN]
    written = next(node for node in nodes if node.op_type == taken)
    assert (region.ops[0].domain, region.ops[0].op) == ("", taken)
    assert len(region.ops[0].inputs) == len(written.input)


@pytest.mark.parametrize("taken", ["Conv", "DequantizeLinear", "QuantizeLinear", "MaxPool"])
def test_quantized_products_leave_what_a_plugin_takes(taken: str) -> None:
    net = QuantizedNet()
    first = net.quantized(net.node("Relu", net.conv(net.quantized("x", 0.03), (16, 8, 3, 3))), 0.02)
    pooled = net.quantized(net.node("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 0.02)
    model = net.model({"x": [1, 8, 8, 8]}, net.conv(pooled, (8, 16, 3, 3)))
    nodes = [node for node in model.graph.node if node.op_type == taken]
    real = dict.fromkeys(("pads", "kernel_shape", "strides"), Attribute(AttrType.INTS, ()))

    def shapes(node: Node) -> list[TensorInfo]:
        made = {"Conv": ("float32", (1, 16, 8, 8)), "MaxPool": ("float32", (1, 16, 4, 4))}
        other = ("float32" if taken == "DequantizeLinear" else "int8", node.input(0).shape)
        return [TensorInfo(*made.get(taken, other))]

    plugin = replace(_plugin(nodes[0]), shapes=shapes, attributes={**real, "axis": Attribute(AttrType.INT, 1)},
                     dtypes=frozenset({"float32", "int8", "int32"}))  # fmt: skip
    with using([plugin]):
        imported = import_model(model)
        made = canonicalise(imported.model, fp16=False).model
        lowered = lower(made, imported.ranges, lambda region: YES)
    assert isinstance(lowered, Lowered)
    count = sum(region.kind is Kind.PLUGIN for region in lowered.regions)
    assert count == sum(node.op_type == taken for node in made.graph) > 0
    assert not any(op.op == taken for region in lowered.regions if region.kind is not Kind.PLUGIN for op in region.ops)
