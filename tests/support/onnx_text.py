"""Small ONNX models, from text or of one node, and ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, parser

from ingot.options import Range

Arrays = dict[str, np.ndarray[Any, Any]]


def model(text: str, *, opset: int = 21, ir_version: int = 10, extra: str = "") -> onnx.ModelProto:
    """A model whose graph (and functions after it) is ``text``; ``extra`` are further opset imports."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{extra}]>'
    return parser.parse_model(f"{head}\n{text}")


def one_node(
    op: str,
    opset: int,
    inputs: Sequence[np.ndarray[Any, Any]],
    attributes: Mapping[str, Any],
    constants: Mapping[int, np.ndarray[Any, Any] | None],
    outputs: int = 1,
) -> tuple[onnx.ModelProto, Arrays]:
    """A model of one node, and its feed. ``constants`` are inputs by position; None leaves one out."""
    rest = list(inputs)
    names, declared, weights, feeds = [], [], [], {}
    for position in range(len(inputs) + len(constants)):
        if position in constants:
            array = constants[position]
            names.append("" if array is None else f"c{position}")
            if array is not None:
                weights.append(onnx.numpy_helper.from_array(array, f"c{position}"))
        else:
            array = rest.pop(0)
            names.append(f"x{position}")
            feeds[f"x{position}"] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            declared.append(helper.make_tensor_value_info(f"x{position}", kind, array.shape))
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, name="the_node", **attributes)
    graph = helper.make_graph([node], "g", declared, [onnx.ValueInfoProto(name=name) for name in results], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds


def run(model: onnx.ModelProto | bytes, feeds: Arrays, *, optimise: bool = True) -> list[Any]:
    """What ONNX Runtime computes; without ``optimise`` node by node, as the model is written."""
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def fixed(*sizes: int) -> tuple[Range, ...]:
    """Ranges that fix every dimension."""
    return tuple(Range(size, size, size) for size in sizes)
