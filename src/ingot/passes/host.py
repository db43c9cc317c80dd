"""Host islands: some nodes of the graph as an ONNX model of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.graph.control import copy_ranks
from ingot.graph.edit import bodies
from ingot.graph.region import Region


def host_model(
    model: ir.Model,
    nodes: Sequence[ir.Node],
    region: Region,
    constants: Mapping[str, np.ndarray[Any, Any]],
    copies: Mapping[str, str],
) -> bytes:
    """``nodes`` as a serialised model: inputs and outputs in the Region's order, weights inside.

    ``constants`` are the graph's known values; ``copies`` names the original of every value that the
    Region reads in another layout.
    """
    known = {str(v.name): v for v in _visible(model.graph)}
    mapping: dict[ir.Value | None, ir.Value | None] = {}
    # At known sizes, shape inference looks into branches that never run and refuses what it finds there.
    branches = any(bodies(attr) for node in nodes for attr in node.attributes.values())
    inputs, weights = [], []
    for name in region.inputs:
        old = known[copies.get(name, name)]
        if name in constants:
            tensor = _tensor(constants[name], name)
            new = ir.Value(name=name, type=old.type, shape=ir.Shape(constants[name].shape), const_value=tensor)
            weights.append(new)
        else:
            shape = old.shape if old.shape is None or not branches else ir.Shape([None] * len(old.shape))
            new = ir.Value(name=name, type=old.type, shape=shape)
            inputs.append(new)
        mapping[old] = new
    cloned = [_clone(node, mapping) for node in nodes]
    island = ir.Graph(
        inputs=inputs,
        outputs=[mapping[known[name]] for name in region.outputs],  # type: ignore[misc]
        nodes=cloned,
        initializers=weights,
        opset_imports=dict(model.opset_imports),
        name=region.name,
    )
    return bytes(ir.to_proto(ir.Model(island, ir_version=model.ir_version)).SerializeToString(deterministic=True))


def _tensor(array: np.ndarray[Any, Any], name: str) -> ir.TensorProtocol:
    if array.dtype.kind not in "OSU":
        return ir.tensor(np.asarray(array, order="C"), name=name)
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return ir.StringTensor(texts, shape=ir.Shape(array.shape), name=name)


def _visible(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]


def _clone(node: ir.Node, mapping: dict[ir.Value | None, ir.Value | None]) -> ir.Node:
    # Without shapes: what was inferred at fixed sizes, or declared wrongly, is not to bind the host's runtime.
    outputs = [ir.Value(name=v.name, type=v.type) for v in node.outputs]
    inputs = [mapping.get(v, v) if v is not None else None for v in node.inputs]
    mapping.update(zip(node.outputs, outputs, strict=True))
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        _attributes(node, mapping),
        outputs=outputs,
        name=node.name,
        overload=node.overload,
    )


def _attributes(node: ir.Node, mapping: dict[ir.Value | None, ir.Value | None]) -> list[ir.Attr]:
    """Attributes with subgraphs cloned, so that captured values point into the island."""
    attrs = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            body = _clone_graph(attr.as_graph(), mapping)
            if node.op_type == "Loop":
                _relax_loop(body, mapping.get(node.inputs[1]))
            elif node.op_type == "Scan":
                copy_ranks(attr.as_graph(), body)
            attrs.append(ir.AttrGraph(attr.name, body))
        elif attr.type == ir.AttributeType.GRAPHS:
            attrs.append(ir.AttrGraphs(attr.name, [_clone_graph(g, mapping) for g in attr.as_graphs()]))
        else:
            attrs.append(attr)
    return attrs


def _relax_loop(body: ir.Graph, condition: ir.Value | None) -> None:
    """Takes back what a loop's body declares of its state, which exporters get wrong; the trip count stays."""
    if condition is not None and condition.const_value is not None:
        body.inputs[1].shape = ir.Shape(condition.const_value.numpy().shape)
    for value in body.inputs[2:]:
        value.shape = None


def _clone_graph(graph: ir.Graph, outer: dict[ir.Value | None, ir.Value | None]) -> ir.Graph:
    mapping = dict(outer)
    for value in (*graph.inputs, *graph.initializers.values()):
        mapping[value] = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
    nodes = [_clone(node, mapping) for node in graph]
    return ir.Graph(
        inputs=[mapping[v] for v in graph.inputs],  # type: ignore[misc]
        outputs=[mapping.get(v, v) for v in graph.outputs],  # type: ignore[misc]
        nodes=nodes,
        initializers=[mapping[v] for v in graph.initializers.values()],  # type: ignore[misc]
        name=graph.name,
    )
