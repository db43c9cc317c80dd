"""A Loop without a condition gets one that is true: one form for all that follows, shape inference among it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_NAME = "ingot/goes_on"


def complete_loops(model: ir.Model) -> None:
    """Gives each Loop in ``model`` a condition, in place.

    What the body then says about going on counts, as in ONNX Runtime and ONNX's evaluator.
    """
    loops = [node for node in model.graph.all_nodes() if node.op_type == "Loop" and node.domain == ""]
    bare = [node for node in loops if len(node.inputs) < 2 or node.inputs[1] is None]
    if not bare:
        return
    tensor = ir.tensor(np.asarray(True), name=_free(model))
    value = ir.Value(name=tensor.name, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape(()), const_value=tensor)
    model.graph.register_initializer(value)
    for node in bare:
        if len(node.inputs) < 2:
            node.resize_inputs(2)
        node.replace_input_with(1, value)


def _free(model: ir.Model) -> str:
    """A name that no value of ``model`` has."""
    graphs = [model.graph, *model.graph.subgraphs()]
    taken = {value.name for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {value.name for node in model.graph.all_nodes() for value in node.outputs}
    name = _NAME
    while name in taken:
        name += "_"
    return name
