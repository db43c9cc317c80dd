"""Values that follow from constants alone, without rewriting the graph: counters and conditions of loops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from ingot.graph.control import is_control
from ingot.graph.edit import Array, bodies, constant_of
from ingot.graph.op_table import RANDOM

_LARGEST = 64
"""Elements of the values that are looked at."""
_DEEPEST = 200
"""Longest chain of nodes."""


class Known:
    """Looks values up, and remembers them."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self._found: dict[ir.Value, Array | None] = {}

    def __call__(self, value: ir.Value | None) -> Array | None:
        """The elements of ``value``; None where they depend on data, or are many."""
        return None if value is None else self._look(value, _DEEPEST)

    def _look(self, value: ir.Value, deeper: int) -> Array | None:
        if value not in self._found:
            self._found[value] = self._evaluate(value, deeper)
        return self._found[value]

    def _evaluate(self, value: ir.Value, deeper: int) -> Array | None:
        constant = constant_of(value)
        node = value.producer()
        if constant is not None or node is None or not deeper:
            return constant if constant is not None and constant.size <= _LARGEST else None
        if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM or is_control(node) or len(node.outputs) != 1:
            return None
        if any(bodies(attr) for attr in node.attributes.values()):
            return None
        inputs = {v: self._look(v, deeper - 1) for v in node.inputs if v is not None}
        if any(array is None for array in inputs.values()):
            return None
        made = _run(node, {str(v.name): array for v, array in inputs.items() if array is not None}, self._opset)
        return made if made is not None and made.size <= _LARGEST else None


def _run(node: ir.Node, feeds: dict[str, Array], opset: int) -> Array | None:
    proto = ir.to_proto(node)
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_empty_tensor_value_info(name) for name in feeds],
        [helper.make_empty_tensor_value_info(proto.output[0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        found = np.asarray(next(iter(ReferenceEvaluator(model).run(None, feeds))))
    except Exception:  # the evaluator lacks ops, and raises what it likes
        return None
    return found if found.dtype.kind != "O" else None
