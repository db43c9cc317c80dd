"""Unique names for every node and value of a model, nested graphs included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def make_names_unique(model: ir.Model) -> None:
    """Renames, in place, what has no name or one that came before. Inputs and outputs of the model keep theirs.

    An output of a node that is left out (no name, no use) stays without a name.
    """
    kept = {id(v) for v in (*model.graph.inputs, *model.graph.outputs)}
    values = _Names({str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)})
    nodes = _Names(set())
    for node in model.graph.all_nodes():
        node.name = nodes.unique(node.name or node.op_type)
    for value, wish in _values(model):
        if id(value) not in kept and (value.name or value.uses() or value.is_graph_output()):
            name = values.unique(value.name or wish)
            if name != value.name:
                value.name = name


class _Names:
    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._counts: dict[str, int] = {}

    def unique(self, wish: str) -> str:
        """``wish``, with the first number behind it that makes it new."""
        name = wish
        while name in self._taken:
            self._counts[wish] = self._counts.get(wish, 0) + 1
            name = f"{wish}_{self._counts[wish]}"
        self._taken.add(name)
        return name


def _values(model: ir.Model) -> Iterator[tuple[ir.Value, str]]:
    """Every value once, with a name to fall back on."""
    yield from ((value, "weight") for value in tuple(model.graph.initializers.values()))
    for graph in model.graph.subgraphs():
        initializers = tuple(graph.initializers.values())
        yield from ((value, "input") for value in graph.inputs if value.name not in graph.initializers)
        yield from ((value, "weight") for value in initializers)
    for node in model.graph.all_nodes():
        yield from ((value, f"{node.name}_out{index}") for index, value in enumerate(node.outputs))
