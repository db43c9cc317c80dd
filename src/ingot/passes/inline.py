"""Graphs inside nodes, written out in the main graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ingot.graph.control import copy_ranks
from ingot.graph.edit import Editor, bodies, is_op

Values = dict[ir.Value, ir.Value]


class Inliner:
    """Writes copies of one body into the main graph. Weights inside the body are made once for all copies."""

    def __init__(self, editor: Editor, body: ir.Graph, prefix: str) -> None:
        """``prefix`` begins the names of what is made."""
        self._editor, self._body, self._prefix = editor, body, prefix
        self._weights: Values = {}
        self._made: list[ir.Node] = []

    def undo(self) -> None:
        """Removes all copies, which nobody reads."""
        while self._made:
            discard(self._made.pop())

    def copy(
        self, inputs: Sequence[ir.Value], before: ir.Node, outer: Mapping[ir.Value, ir.Value] | None = None
    ) -> list[ir.Value]:
        """A copy of the body in front of ``before``, fed with ``inputs``; its outputs.

        An output may be one of ``inputs``, or a value of the main graph. New values have types and no shapes.
        ``outer``: what is read in place of values from outside the body.
        """
        known = {**(outer or {}), **self._shared_weights(), **dict(zip(self._body.inputs, inputs, strict=True))}
        for node in self._body:
            self._made.append(self._node(node, known))
            self._editor.graph.insert_before(before, self._made[-1])
        return [known.get(value, value) for value in self._body.outputs]

    def branch(self, inputs: Sequence[ir.Value]) -> ir.Graph:
        """A copy of the body as a branch, which reads ``inputs`` from outside. All of its outputs are made in it."""
        known = {**self._shared_weights(), **dict(zip(self._body.inputs, inputs, strict=True))}
        nodes = [self._node(node, known) for node in self._body]
        made = [known.get(value, value) for value in self._body.outputs]
        name = self._editor.name(f"{self._prefix}/branch")
        return branch_of(self._editor, nodes, made, name)

    def whole(self) -> ir.Graph:
        """A copy of the body as a graph inside another node."""
        return self._graph(self._body, {})

    def _shared_weights(self) -> Values:
        if not self._weights:
            for value in self._body.initializers.values():
                made = self._value(value)
                made.shape, made.const_value = value.shape, value.const_value
                self._editor.graph.register_initializer(made)
                self._weights[value] = made
        return self._weights

    def _value(self, old: ir.Value) -> ir.Value:
        if not old.name:  # an output that the node leaves out
            return ir.Value(name="", type=old.type)
        return ir.Value(name=self._editor.name(f"{self._prefix}/{old.name}"), type=old.type)

    def _node(self, node: ir.Node, known: Values) -> ir.Node:
        inputs = [known.get(value, value) if value is not None else None for value in node.inputs]
        outputs = [self._value(value) for value in node.outputs]
        known.update(zip(node.outputs, outputs, strict=True))
        attributes = [self._attribute(attr, known) for attr in node.attributes.values()]
        if is_op(node, "Scan"):
            body = next(attr.as_graph() for attr in attributes if attr.name == "body")
            copy_ranks(node.attributes["body"].as_graph(), body)
        name = self._editor.name(f"{self._prefix}/{node.name or node.op_type}")
        return ir.Node(
            node.domain,
            node.op_type,
            inputs,
            attributes,
            outputs=outputs,
            name=name,
            overload=node.overload,
            metadata_props=dict(node.metadata_props),
        )

    def _attribute(self, attr: ir.Attr, known: Mapping[ir.Value, ir.Value]) -> ir.Attr:
        if attr.type == ir.AttributeType.GRAPH:
            return ir.AttrGraph(attr.name, self._graph(attr.as_graph(), known))
        if attr.type == ir.AttributeType.GRAPHS:
            return ir.AttrGraphs(attr.name, [self._graph(graph, known) for graph in attr.as_graphs()])
        return attr

    def _graph(self, graph: ir.Graph, outer: Mapping[ir.Value, ir.Value]) -> ir.Graph:
        known = dict(outer)
        for value in (*graph.inputs, *graph.initializers.values()):
            if value not in known:
                made = known[value] = self._value(value)
                made.shape, made.const_value = value.shape, value.const_value
        nodes = [self._node(node, known) for node in graph]
        return ir.Graph(
            inputs=[known[value] for value in graph.inputs],
            outputs=[known.get(value, value) for value in graph.outputs],
            nodes=nodes,
            initializers=[known[value] for value in graph.initializers.values()],
            name=graph.name,
        )


def branch_of(editor: Editor, nodes: Sequence[ir.Node], results: Sequence[ir.Value], name: str) -> ir.Graph:
    """A branch of ``nodes`` that gives ``results``, which may come from outside."""
    last = [
        ir.Node("", "Identity", [value], outputs=[ir.Value(name=editor.name(f"{name}/{i}"), type=value.type)])
        for i, value in enumerate(results)
    ]
    return ir.Graph(inputs=[], outputs=[node.outputs[0] for node in last], nodes=[*nodes, *last], name=name)


def discard(node: ir.Node) -> None:
    """Removes ``node``, whose results nobody reads, with its bodies: they no longer count as readers."""
    assert node.graph is not None
    inner = [one for attr in node.attributes.values() for body in bodies(attr) for one in body.all_nodes()]
    node.graph.remove(node, safe=True)
    for one in inner:
        for position in range(len(one.inputs)):
            one.replace_input_with(position, None)
