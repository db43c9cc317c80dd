"""Walks over the graphs, nodes and tensors of a protobuf model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]

from ingot.errors import IngotError

_MAX_DEPTH = 64
"""Deepest nesting of graphs that is accepted: far more than any real model, far less than Python's stack."""


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every nested one, those in functions too. Raises IngotError when nested too deep."""
    stack = [(model.graph, 1)]
    stack.extend((graph, 2) for function in model.functions for node in function.node for graph in subgraphs(node))
    while stack:
        graph, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise IngotError(f"graphs are nested more than {_MAX_DEPTH} deep", fix="flatten the control flow")
        yield graph
        stack.extend((inner, depth + 1) for node in graph.node for inner in subgraphs(node))


def fed(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those that no initialiser fills."""
    inside = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in inside]


def nodes_within(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of ``graph``, each followed by those of its own graphs."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from nodes_within(inner)


def check_text(model: onnx.ModelProto) -> None:
    """Raises IngotError for a name or other text that is not UTF-8: protobuf hands such out as bytes."""
    stack: list[Message] = [model]
    while stack:
        message = stack.pop()
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack.extend(value if field.is_repeated else [value])
            elif field.type == FieldDescriptor.TYPE_STRING:
                for text in value if field.is_repeated else [value]:
                    if not isinstance(text, str):
                        fix = "export the model again, or copy the file again"
                        raise IngotError(f"a {field.name} is not UTF-8 text: {text[:40]!r}", fix=fix)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, in no particular order."""
    for graph in all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor with the place to name in a message: initialisers and attributes."""
    for graph in all_graphs(model):
        for tensor in graph.initializer:
            yield f"initialiser {tensor.name!r}", tensor
        for sparse in graph.sparse_initializer:
            yield f"sparse initialiser {sparse.values.name!r}", sparse.values
            yield f"indices of sparse initialiser {sparse.values.name!r}", sparse.indices
    for node in all_nodes(model):
        yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterable[tuple[str, onnx.TensorProto]]:
    for attribute in node.attribute:
        place = f"attribute {attribute.name!r} of {node_label(node)}"
        if attribute.HasField("t"):
            yield place, attribute.t
        yield from ((place, tensor) for tensor in attribute.tensors)
        sparse = [
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ]
        for one in sparse:
            yield from ((place, tensor) for tensor in (one.values, one.indices))


def node_label(node: onnx.NodeProto) -> str:
    """How messages call a node."""
    if node.name:
        return f"{node.name} ({node.op_type})"
    return f"{node.op_type} that writes {next(iter(node.output), '')!r}"
