"""Whether an ``onnx_ir`` model still is one graph with the interface it had: run between passes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ingot.graph.edit import bodies, shape_of

Shape = tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """Names, types and shapes of a model's inputs and outputs, in order."""

    inputs: tuple[tuple[str, str, Shape], ...]
    outputs: tuple[tuple[str, str, Shape], ...]


def signature_of(model: ir.Model) -> Signature:
    """The interface of ``model``."""

    def row(value: ir.Value) -> tuple[str, str, Shape]:
        return value.name or "", str(value.type), shape_of(value)  # "None": a type that may become known

    return Signature(tuple(map(row, model.graph.inputs)), tuple(map(row, model.graph.outputs)))


def verify(model: ir.Model, signature: Signature) -> None:
    """Raises AssertionError where the graph is broken or its interface is no longer ``signature``."""
    names: set[str] = set()
    _check_graph(model.graph, set(), names)
    seen: set[str] = set()
    for node in model.graph:
        assert node.name, f"a {node.op_type} without a name"
        assert node.name not in seen, f"two nodes are called {node.name!r}"
        seen.add(node.name)
    found = signature_of(model)
    _check_interface("input", signature.inputs, found.inputs)
    _check_interface("output", signature.outputs, found.outputs)


def _check_graph(graph: ir.Graph, defined: set[int], names: set[str]) -> None:
    def define(value: ir.Value) -> None:
        assert value.name not in names, f"two values are called {value.name!r}"
        assert value.name, "a value without a name"
        names.add(value.name)
        defined.add(id(value))

    for value in graph.inputs:
        define(value)
    for name, value in graph.initializers.items():
        assert value.name == name, f"initializer {value.name!r} is listed as {name!r}"
        assert value.const_value is not None, f"initializer {name!r} holds nothing"
        if id(value) not in defined:
            define(value)
    for node in graph:
        assert node.graph is graph, f"node {node.name!r} belongs to another graph"
        for read in node.inputs:
            assert read is None or id(read) in defined, f"{node.name!r} reads {read.name!r} before it is made"
        for attr in node.attributes.values():
            for body in bodies(attr):
                _check_graph(body, defined, names)
        for made in node.outputs:
            assert made.producer() is node, f"{made.name!r} has another producer than {node.name!r}"
            if made.name:
                define(made)
    for value in graph.outputs:
        assert id(value) in defined, f"output {value.name!r} is not made"


def _check_interface(
    what: str, wanted: tuple[tuple[str, str, Shape], ...], found: tuple[tuple[str, str, Shape], ...]
) -> None:
    assert len(wanted) == len(found), f"{len(found)} {what}s instead of {len(wanted)}"
    for (name, kind, shape), (name_now, kind_now, shape_now) in zip(wanted, found, strict=True):
        assert name == name_now, f"{what} {name!r} is now {name_now!r}"
        assert kind in (kind_now, "None"), f"{what} {name!r} was {kind} and is {kind_now}"
        if shape is None or shape_now is None:
            continue
        fits = len(shape) == len(shape_now) and all(
            a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(shape, shape_now, strict=True)
        )
        assert fits, f"{what} {name!r} had shape {shape} and has {shape_now}"
