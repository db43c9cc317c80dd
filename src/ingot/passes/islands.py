"""Which ops stay on the host though a kernel exists: cheap ones between islands, whose operands would have to cross.

Every turn from device to host and back costs a wait, a launch and the copies. What runs between two islands is
cheaper on the host when its own work takes less than the crossings that it saves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, evaluate, symbols
from ingot.graph.region import PRODUCTS, Kind
from ingot.passes.flatten import FlatGraph
from ingot.passes.partition import Group

_TURN = 25e-6
"""Seconds for the device to finish, the host to notice, and a graph to be launched again."""
_COPY = 6e-6
"""Seconds that a copy takes whatever its size."""
_LINK = 20e9
"""Bytes per second between page-locked memory and the device."""
_LAUNCH = 2e-6
_HOST_OP = 4e-6
"""Seconds that ONNX Runtime takes for a node whatever its size."""
_HOST_BYTES = 6e9
"""Bytes per second that a simple op reads plus writes on the host."""
_HOST_PRODUCTS = 2e10
"""Multiplications and additions per second of a product or convolution on the host."""
_HALVES = frozenset({"float16", "bfloat16"})
_MOST_OPS = 64
"""Longest stretch between islands that is looked at."""


@dataclass(frozen=True)
class _Graph:
    """Who reads and who makes what, by group."""

    flat: FlatGraph
    groups: Sequence[Group]
    maker: Mapping[str, int]
    readers: Mapping[str, frozenset[int]]
    reads: Sequence[frozenset[str]]
    makes: Sequence[frozenset[str]]

    @staticmethod
    def of(flat: FlatGraph, groups: Sequence[Group]) -> _Graph:
        made = [frozenset(n for i in g.ops for n in flat.ops[i].body.outputs if n) for g in groups]
        read = [
            frozenset(n for i in g.ops for n in flat.tensor_inputs(flat.ops[i])) - own
            for g, own in zip(groups, made, strict=True)
        ]
        maker = {name: index for index, names in enumerate(made) for name in names}
        readers: dict[str, set[int]] = {}
        for index, names in enumerate(read):
            for name in names:
                readers.setdefault(name, set()).add(index)
        return _Graph(flat, groups, maker, {n: frozenset(r) for n, r in readers.items()}, read, made)

    def hosted(self, index: int) -> bool:
        return self.groups[index].kind is Kind.HOST

    def before(self, index: int) -> set[int]:
        return {self.maker[n] for n in self.reads[index] if n in self.maker}

    def after(self, index: int) -> set[int]:
        return {r for n in self.makes[index] for r in self.readers.get(n, ())}

    def reached(self, starts: Iterable[int], *, forward: bool) -> set[int]:
        """Everything that depends on ``starts``, or that they depend on."""
        step = self.after if forward else self.before
        found: set[int] = set()
        stack = list(starts)
        while stack:
            fresh = step(stack.pop()) - found
            found |= fresh
            stack.extend(fresh)
        return found


def cheaper_on_host(flat: FlatGraph, groups: Sequence[Group], bindings: Bindings) -> dict[str, No]:
    """Names of nodes that better join the islands around them, with the reason; ``bindings`` are the optimum sizes."""
    graph = _Graph.of(flat, groups)
    hosts = [i for i, group in enumerate(groups) if group.kind is Kind.HOST]
    if not hosts:
        return {}
    between = graph.reached(hosts, forward=True) & graph.reached(hosts, forward=False)
    between = {i for i in between if not graph.hosted(i)}
    found: dict[str, No] = {}
    for stretch in _stretches(graph, between):
        found |= _judged(graph, stretch, bindings)
    return found


def _stretches(graph: _Graph, between: set[int]) -> list[set[int]]:
    """Connected parts of what lies between islands."""
    left, found = set(between), []
    while left:
        stack, part = [min(left)], set[int]()
        while stack:
            index = stack.pop()
            if index in left:
                left.discard(index)
                part.add(index)
                stack.extend((graph.before(index) | graph.after(index)) & left)
        found.append(part)
    return found


def _judged(graph: _Graph, stretch: set[int], bindings: Bindings) -> dict[str, No]:
    ops = [i for index in stretch for i in graph.groups[index].ops]
    if len(ops) > _MOST_OPS or not all(_portable(graph, index) for index in stretch):
        return {}
    device, host = _crossings(graph, stretch, bindings), _on_host(graph, stretch, bindings)
    if host >= device:
        return {}
    times = f"about {host * 1e6:.0f} µs there, {device * 1e6:.0f} µs to the device and back"
    reason = f"cheaper on the host, between two islands: {times}"
    names = (graph.flat.ops[i].name for i in ops)
    return {name: No(reason, node=name, fix="bring the islands around it to the device") for name in names}


def _portable(graph: _Graph, index: int) -> bool:
    """Whether the host can run a group as it is in the model: sizes known, no half precision, no op made up here."""
    flat = graph.flat
    for i in graph.groups[index].ops:
        op = flat.ops[i]
        if op.plugin is not None or op.origin or op.body.domain not in ("", "ai.onnx"):
            return False
        for name in (*op.body.inputs, *op.body.outputs):
            value = flat.values.get(name)
            if value is not None and value.dtype in _HALVES:
                return False
    return True


def _size(graph: _Graph, name: str, bindings: Bindings) -> float:
    value = graph.flat.values.get(name)
    if value is None or symbols(value.elements) - bindings.keys():
        return 0.0
    return float(evaluate(value.elements, bindings) * dtypes.itemsize(value.dtype))


def _copies(graph: _Graph, names: Iterable[str], bindings: Bindings) -> float:
    return sum(_COPY + _size(graph, name, bindings) / _LINK for name in names)


def _crossings(graph: _Graph, stretch: set[int], bindings: Bindings) -> float:
    """What leaving the stretch on the device costs: a turn, values up from islands and down to them, launches."""
    up = {n for i in stretch for n in graph.reads[i] if n in graph.maker and graph.hosted(graph.maker[n])}
    down = {n for i in stretch for n in graph.makes[i] if any(graph.hosted(r) for r in graph.readers.get(n, ()))}
    others = {n for n in up if any(r not in stretch and not graph.hosted(r) for r in graph.readers[n])}
    launches = sum(graph.groups[i].kind is not Kind.VIEW for i in stretch)
    return _TURN + _copies(graph, (up - others) | down, bindings) + _LAUNCH * launches


def _on_host(graph: _Graph, stretch: set[int], bindings: Bindings) -> float:
    """What the stretch costs on the host: its work, and values that it shares with the rest of the device."""
    down = {
        n
        for i in stretch
        for n in graph.reads[i]
        if n in graph.maker and graph.maker[n] not in stretch and not graph.hosted(graph.maker[n])
        if not any(graph.hosted(r) for r in graph.readers[n])
    }
    up = {
        n
        for i in stretch
        for n in graph.makes[i]
        if any(r not in stretch and not graph.hosted(r) for r in graph.readers.get(n, ()))
    }
    work = sum(_op_seconds(graph, i, bindings) for index in stretch for i in graph.groups[index].ops)
    return work + _copies(graph, down | up, bindings)


def _op_seconds(graph: _Graph, index: int, bindings: Bindings) -> float:
    op, flat = graph.flat.ops[index], graph.flat
    names = {n for n in (*flat.tensor_inputs(op), *op.body.outputs) if n}
    seconds = _HOST_OP + sum(_size(graph, n, bindings) for n in names) / _HOST_BYTES
    if op.kind in PRODUCTS:
        result, operand = (_size(graph, n, bindings) for n in (op.body.outputs[0], op.body.inputs[1]))
        # Every element of the result takes no more products than the second operand has elements.
        seconds += result / 4 * operand / 4 / _HOST_PRODUCTS
    return seconds
