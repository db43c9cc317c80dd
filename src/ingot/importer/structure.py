"""Is the graph a graph? Names are defined once and before they are used, nodes are sorted, functions end."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Iterator

import onnx

from ingot.errors import IngotError
from ingot.importer.walk import node_label, subgraphs

_FIX = "export the model again; onnx.checker.check_model shows what is wrong"
_MAX_NODES = 1_000_000
"""Most nodes after inlining: functions that call functions can grow exponentially."""
_FunctionId = tuple[str, str, str]


def check_structure(model: onnx.ModelProto) -> None:
    """Checks names and sorts nodes, in place. Expects nesting to have been checked (``walk.all_graphs``).

    Raises IngotError for undefined or doubly written names, cycles, and functions that never end.
    """
    _check_graph(model.graph, frozenset(), "graph")
    for function in model.functions:
        place = f"function {function.name}"
        _unique(function.input, f"{place} has two inputs")
        _unique(function.output, f"{place} has two outputs")
        _check_nodes(function.node, set(function.input), frozenset(), place)
        _defined(function.output, set(function.input) | _written(function.node), place)
    _check_functions(model)


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], place: str) -> None:
    if graph.name:
        place = f"graph {graph.name!r}"
    inputs = [value.name for value in graph.input]
    _unique(inputs, f"{place} has two inputs")
    _unique([tensor.name for tensor in graph.initializer], f"{place} has two initialisers")
    start = {*inputs, *(t.name for t in graph.initializer), *(s.values.name for s in graph.sparse_initializer)}
    _check_nodes(graph.node, start, outer, place)
    for value in graph.output:
        if value.name in outer and value.name not in start | _written(graph.node):
            fix = "put an Identity node between the value and the output"
            raise IngotError(f"output {value.name!r} is a value from outside the graph", node=place, fix=fix)
    _defined([value.name for value in graph.output], start | _written(graph.node), place)


def _check_nodes(nodes: Iterable[onnx.NodeProto], start: set[str], outer: frozenset[str], place: str) -> None:
    """Checks and sorts the nodes of one graph or function, whose inputs and initialisers are ``start``."""
    ordered = list(nodes)
    writer: dict[str, int] = {}
    for index, node in enumerate(ordered):
        if not node.op_type:
            raise IngotError("a node has no op type", node=node.name or place, fix=_FIX)
        _check_attributes(node)
        for name in node.output:
            if name and (name in writer or name in start):
                other = f"as {node_label(ordered[writer[name]])} does" if name in writer else "which is an input"
                raise IngotError(f"writes {name!r}, {other}", node=node_label(node), fix=_FIX)
            if name:
                writer[name] = index
    visible = outer | start | writer.keys()
    for node in ordered:
        for name in node.input:
            if name and name not in visible:
                raise IngotError(f"reads {name!r}, which nothing defines", node=node_label(node), fix=_FIX)
        for graph in subgraphs(node):
            _check_graph(graph, visible, node_label(node))
    _sort(nodes, ordered, writer)


def _check_attributes(node: onnx.NodeProto) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        known = attribute.type in onnx.AttributeProto.AttributeType.values()
        if not attribute.name or attribute.name in seen or not known or not attribute.type:
            reason = f"attribute {attribute.name!r} has no name or no known type, or is there twice"
            raise IngotError(reason, node=node_label(node), fix=_FIX)
        seen.add(attribute.name)
        for text in (attribute.s, *attribute.strings):
            try:
                text.decode()
            except UnicodeDecodeError:
                reason = f"the text of attribute {attribute.name!r} is not UTF-8"
                raise IngotError(reason, node=node_label(node), fix=_FIX) from None


def _sort(nodes: Iterable[onnx.NodeProto], ordered: list[onnx.NodeProto], writer: dict[str, int]) -> None:
    """Puts the nodes in topological order, as near to the given one as possible."""
    reads = [{writer[n] for n in _read(node) if n in writer} for node in ordered]
    if all(max(read, default=-1) < index for index, read in enumerate(reads)):
        return
    readers: list[list[int]] = [[] for _ in ordered]
    for index, read in enumerate(reads):
        for producer in read:
            readers[producer].append(index)
    missing = [len(read) for read in reads]
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) != len(ordered):
        on_cycle = next(index for index, count in enumerate(missing) if count)
        raise IngotError("its result depends on itself: the graph has a cycle", node=node_label(ordered[on_cycle]))
    copies = [onnx.NodeProto.FromString(ordered[index].SerializeToString()) for index in order]
    del nodes[:]  # type: ignore[attr-defined]  # a repeated protobuf field
    nodes.extend(copies)  # type: ignore[attr-defined]


def _read(node: onnx.NodeProto) -> set[str]:
    """Names the node reads, those that its subgraphs take from outside among them."""
    names = set(node.input)
    for graph in subgraphs(node):
        inner = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inner |= _written(graph.node)
        for child in graph.node:
            names |= _read(child) - inner
        names |= {value.name for value in graph.output} - inner
    return names


def _written(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}


def _unique(names: Iterable[str], complaint: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise IngotError(
                f"{complaint.rpartition(' two')[0]} an input, output or initialiser without a name", fix=_FIX
            )
        if name in seen:
            raise IngotError(f"{complaint} named {name!r}", node=name, fix=_FIX)
        seen.add(name)


def _defined(names: Iterable[str], visible: set[str] | frozenset[str], place: str) -> None:
    for name in names:
        if name not in visible or not name:
            raise IngotError(f"output {name!r} is written by nothing", node=place, fix=_FIX)


def _check_functions(model: onnx.ModelProto) -> None:
    """Refuses functions that call themselves, and calls that inline to too many nodes."""
    bodies: dict[_FunctionId, list[onnx.NodeProto]] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in bodies:
            raise IngotError(f"function {function.name!r} is defined twice", node=function.name, fix=_FIX)
        bodies[key] = list(_nested(function.node))
    calls = {key: [_callee(node) for node in nodes if _callee(node) in bodies] for key, nodes in bodies.items()}
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        path = " -> ".join(name for _, name, _ in error.args[1])
        raise IngotError(f"functions call themselves: {path}", node=error.args[1][0][1], fix=_FIX) from None
    sizes: dict[_FunctionId, int] = {}
    for key in order:
        sizes[key] = sum(sizes.get(_callee(node), 1) for node in bodies[key])
    total = sum(sizes.get(_callee(node), 1) for node in _nested(model.graph.node))
    if total > _MAX_NODES:
        raise IngotError(f"the graph has {total} nodes once functions are inlined; the most is {_MAX_NODES}")


def _callee(node: onnx.NodeProto) -> _FunctionId:
    return (node.domain, node.op_type, node.overload)


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _nested(graph.node)
