"""Bodies of If, Loop, Scan and SequenceMap: do they fit their nodes? Loops without a condition get one that is true."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ingot.errors import IngotError

_NAME = "ingot/goes_on"
_FIX = "export the model again; onnx.checker.check_model with full_check shows what is wrong"
_SCAN = 9
"""The opset from which a Scan has no batch of its own."""


def check_bodies(model: ir.Model) -> None:
    """Checks how many values go into bodies and come out of them. Expects nodes to have been checked.

    Raises IngotError naming the node whose body does not fit it.
    """
    for node in model.graph.all_nodes():
        check = _CHECKS.get(node.op_type) if node.domain == "" else None
        if check is None or (node.op_type == "Scan" and model.opset_imports.get("", 1) < _SCAN):
            continue
        reason = check(node)
        if reason:
            raise IngotError(reason, node=node.name or node.op_type, fix=_FIX)


def _if(node: ir.Node) -> str:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    return next((why for graph in branches if (why := _unlike(graph, 0, len(node.outputs)))), "")


def _loop(node: ir.Node) -> str:
    carried = max(len(node.inputs) - 2, 0)
    if len(node.outputs) < carried:
        return f"it carries {carried} values and has {len(node.outputs)} results"
    return _unlike(node.attributes["body"].as_graph(), carried + 2, len(node.outputs) + 1)


def _scan(node: ir.Node) -> str:
    read = node.attributes["num_scan_inputs"].as_int()
    states = len(node.inputs) - read
    if not 1 <= read <= len(node.inputs) or len(node.outputs) < states:
        made = len(node.outputs)
        return f"{len(node.inputs)} inputs, of which it reads {read} slice by slice, do not make {made} results"
    piled = len(node.outputs) - states
    for side, count in (("input", read), ("output", piled)):
        for name in (f"scan_{side}_axes", f"scan_{side}_directions"):
            numbers = node.attributes.get_ints(name, [0] * count)
            if len(numbers) != count:
                return f"{name} has {len(numbers)} numbers instead of {count}"
            if name.endswith("directions") and not {0, 1}.issuperset(numbers):
                return f"{name} has other numbers than 0 (forwards) and 1 (backwards)"
    return _unlike(node.attributes["body"].as_graph(), len(node.inputs), len(node.outputs))


def _map(node: ir.Node) -> str:
    return _unlike(node.attributes["body"].as_graph(), len(node.inputs), len(node.outputs))


def _unlike(graph: ir.Graph, inputs: int, outputs: int) -> str:
    """What is wrong with the number of a body's inputs and outputs; empty where nothing is."""
    have = len(graph.inputs), len(graph.outputs)
    if have == (inputs, outputs):
        return ""
    return f"a graph in it has {have[0]} inputs and {have[1]} outputs, where it needs {inputs} and {outputs}"


_CHECKS: dict[str, Callable[[ir.Node], str]] = {"If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _map}


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
