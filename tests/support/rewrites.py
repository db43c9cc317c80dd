"""Small ONNX models for rewrite tests, and their results before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Arrays = dict[str, np.ndarray]
Shape = Sequence[int | str]
_ELEMENT = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class Net:
    """A model under construction: nodes in order, weights from arrays."""

    def __init__(self, opset: int = 21) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.domains: set[str] = set()
        self.random = np.random.default_rng(0)

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """A graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, _ELEMENT[dtype], list(shape)))
        return name

    def const(self, value: Any, dtype: str = "float32") -> str:
        """An initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """Gaussian weights."""
        return self.const(self.random.standard_normal(shape) * scale)

    def op(self, op_type: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or of all when there are several."""
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op_type, list(inputs), names, domain=domain, name=f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        self.domains.add(domain)
        return names[0] if outputs == 1 else names

    def output(self, *values: str, dtype: str = "float32") -> Net:
        """Makes values graph outputs, of unknown shape, under their own names."""
        for value in values:
            self.outputs.append(helper.make_tensor_value_info(value, _ELEMENT[dtype], None))
        return self

    def proto(self) -> onnx.ModelProto:
        """The model."""
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.weights)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(self.domains - {""})]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def model(self) -> ir.Model:
        """The model as ``onnx_ir``."""
        return ir.from_proto(self.proto())


def runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with attention masks spread over the queries, which ONNX Runtime wants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Attention" and len(node.input) > 3 and node.input[3]:
            rank3 = any(attribute.name == "q_num_heads" for attribute in node.attribute)
            names = [f"spread{index}_{i}" for i in range(6)]
            axis = 1 if rank3 else 2
            one = numpy_helper.from_array(np.asarray([1]), names[0])
            copy.graph.initializer.append(one)
            nodes += [
                helper.make_node("Shape", [node.input[0]], [names[1]], start=axis, end=axis + 1),
                helper.make_node("Concat", [names[1], names[0]], [names[2]], axis=0),
                helper.make_node("ConstantOfShape", [names[2]], [names[3]]),
                helper.make_node("CastLike", [names[3], node.input[3]], [names[4]]),
                helper.make_node("Add", [node.input[3], names[4]], [names[5]]),
            ]
            spread = onnx.NodeProto()
            spread.CopyFrom(node)
            spread.input[3] = names[5]
            node = spread
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def run_ort(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """Results of ONNX Runtime on the CPU, without its own rewrites."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = runnable(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """Results of the ONNX reference evaluator, for ops that ONNX Runtime has no kernel for."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, dict(feeds)), strict=True))


def run_any(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> Arrays:
    """ONNX Runtime where it has every kernel, else the reference evaluator."""
    try:
        return run_ort(model, feeds)
    except Exception as error:
        unknown = ("NOT_IMPLEMENTED", "is not a registered function/op")
        if not any(text in str(error) for text in unknown) and "NotImplemented" not in type(error).__name__:
            raise
        return run_reference(model, feeds)


def feeds_of(model: onnx.ModelProto, seed: int = 0, **sizes: int) -> Arrays:
    """Gaussian floats, small non-negative integers, random booleans; ``sizes`` bind symbolic dimensions."""
    random = np.random.default_rng(seed)
    feeds: Arrays = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = tuple(sizes.get(d.dim_param, 2) if d.dim_param else d.dim_value for d in tensor.shape.dim)
        kind = tensor.elem_type
        if kind == TensorProto.FLOAT:
            feeds[value.name] = random.standard_normal(shape).astype(np.float32)
        elif kind == TensorProto.BOOL:
            feeds[value.name] = np.asarray(random.random(shape) < 0.7)
        else:
            feeds[value.name] = random.integers(0, 4, shape).astype(helper.tensor_dtype_to_np_dtype(kind))
    return feeds


def kinds(model: ir.Model) -> Counter[str]:
    """How often each op occurs in the main graph."""
    return Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph)


def assert_same(before: Arrays, after: Arrays, rtol: float = 1e-4) -> None:
    """Compares results, with errors relative to the largest element of each output."""
    assert before.keys() == after.keys()
    for name, wanted in before.items():
        found = after[name]
        assert found.shape == wanted.shape and found.dtype == wanted.dtype, name
        if wanted.dtype.kind == "f":
            scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-6)
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(found, wanted, err_msg=name)


def rewritten(
    net: Net, run: Callable[[ir.Model], list[str]], rtol: float = 1e-5, **sizes: int
) -> tuple[ir.Model, list[str]]:
    """The net after the pass ``run``, whose results have been compared, and the pass's notes."""
    from ingot.graph.verify import signature_of, verify
    from ingot.passes.fold import tidy

    proto = net.proto()
    model = ir.from_proto(proto)
    tidy(model)
    signature = signature_of(model)
    notes = run(model)
    tidy(model)
    verify(model, signature)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    feeds = feeds_of(proto, **sizes)
    assert_same(run_any(proto, feeds), run_any(after, feeds), rtol)
    return model, notes
