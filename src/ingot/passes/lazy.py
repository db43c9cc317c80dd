"""Which of two branches runs: where an If has become a Where over both, ops that only one of them needs.

An op belongs to a side of a Where when its results reach nothing but that operand. That is read off the data flow, so
it holds whatever rewrites have made of the branches. Cheap sides run both. Else the host looks at the condition, and
steps of the other side are left out: their results are junk that the Where does not choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.control import is_choice
from ingot.graph.dims import Bindings
from ingot.graph.edit import constant_of, fixed_shape, is_op, operand, reads
from ingot.graph.lowered import Guard, SymbolRange
from ingot.graph.op_table import kind_of
from ingot.graph.region import PRODUCTS, Kind
from ingot.passes.data_sizes import sizes_at
from ingot.passes.flatten import FlatGraph

Side = frozenset[tuple[ir.Value, int]]
"""Conditions of Wheres, and positions of the operands that alone need an op."""
NO_SIDE: Side = frozenset()
_READ_BACK = 40e-6
"""Seconds that it costs to wait for the device, to look at the condition and to launch the rest."""
_ON_HOST = 8e-6
"""As above, where the condition follows from what the host has anyway."""
_LAUNCH = 2e-6
_BYTES = 1e12
_PRODUCT_FLOPS = 1e13
"""Bytes and products per second of a kernel that is too small to fill a GPU."""
_SMALL = 64
"""Elements of an input from which a condition may be computed on the host."""
_FEW = 16
"""Ops of such a computation."""
_INDEXED = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1}
"""Ops that may only run with indices that are in bounds, and where these are read."""


@dataclass(frozen=True)
class Laziness:
    """What the host must know before the rest can run."""

    conditions: frozenset[str] = frozenset()
    """Names of values that host ops make for it."""
    host: Mapping[str, No] = field(default_factory=dict)
    """Nodes that run on the host for it, with the reason."""


def only_by(roots: Iterable[int], sources: Callable[[int], Sequence[tuple[int, bool]]]) -> frozenset[int]:
    """The ops that ``roots`` need through marked operands alone.

    ``sources(op)`` gives, for each operand, the op that makes it and whether the operand is marked.
    """
    start = list(roots)

    def needed(marked: bool) -> set[int]:
        found, stack = set(start), list(start)
        while stack:
            for source, is_marked in sources(stack.pop()):
                if source not in found and (marked or not is_marked):
                    found.add(source)
                    stack.append(source)
        return found

    return frozenset(needed(True) - needed(False))


def side_of_nodes(model: ir.Model) -> dict[ir.Node, Side]:
    """The nodes that belong to sides of Wheres. Work of two sides is not to be made one: one of them may not run."""
    nodes = list(model.graph)
    found: dict[ir.Node, list[tuple[ir.Value, int]]] = {}
    for condition, choices in _conditions(model.graph).items():
        for position in (1, 2):
            for node in _side(model.graph, nodes, choices, position):
                found.setdefault(node, []).append((condition, position))
    return {node: frozenset(rows) for node, rows in found.items()}


def _conditions(graph: ir.Graph) -> dict[ir.Value, list[ir.Node]]:
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if is_choice(node) and node.inputs[0] is not None and constant_of(node.inputs[0]) is None:
            found.setdefault(node.inputs[0], []).append(node)
    return found


def _side(graph: ir.Graph, nodes: Sequence[ir.Node], choices: Sequence[ir.Node], position: int) -> list[ir.Node]:
    """The nodes that only operand ``position`` of ``choices`` needs."""
    place = {node: i for i, node in enumerate(nodes)}
    cut = set(choices)

    def sources(index: int) -> list[tuple[int, bool]]:
        node = nodes[index]
        chosen = node in cut
        makers = [None if value is None else value.producer() for value in (node.inputs if chosen else reads(node))]
        return [(place[m], chosen and at == position) for at, m in enumerate(makers) if m is not None and m in place]

    roots = {place[m] for value in graph.outputs if (m := value.producer()) is not None and m in place}
    return [nodes[i] for i in sorted(only_by(roots, sources))]


def guards(flat: FlatGraph, conditions: Iterable[str]) -> dict[str, Guard]:
    """By the name of an op that runs under conditions: which, and what they must be."""
    producer = {name: i for i, op in enumerate(flat.ops) for name in op.body.outputs if name}
    roots = {producer[name] for name in flat.outputs if name in producer}
    found: dict[int, list[tuple[str, bool]]] = {}
    for condition in sorted(conditions):
        for position, wanted in ((1, True), (2, False)):

            def sources(index: int, condition: str = condition, position: int = position) -> list[tuple[int, bool]]:
                op = flat.ops[index]
                if op.body.op != "Where" or op.body.inputs[0] != condition:
                    return [(producer[name], False) for name in flat.tensor_inputs(op) if name in producer]
                names = enumerate(op.body.inputs)
                return [(producer[name], at == position) for at, name in names if name in producer]

            for index in only_by(roots, sources):
                found.setdefault(index, []).append((condition, wanted))
    return {flat.ops[index].name: tuple(rows) for index, rows in found.items()}


def decide(model: ir.Model, ranges: Sequence[SymbolRange]) -> Laziness:
    """Which conditions the host looks at. Puts a node into ``model`` for each, whose result is the host's."""
    bindings = {r.symbol: r.opt for r in ranges}
    told: list[str] = []
    host: dict[str, No] = {}
    nodes = list(model.graph)
    for condition, choices in _conditions(model.graph).items():
        branches = [_side(model.graph, nodes, choices, position) for position in (1, 2)]
        before = _from_small_inputs(condition)
        cost = _READ_BACK if before is None else _ON_HOST
        must = any(_careful(node) for side in branches for node in side)
        if not must and max(sum(_seconds(n, bindings) for n in side) for side in branches) <= cost:
            continue
        name = f"{condition.name}/told"
        look = ir.node("Identity", [condition], name=f"{name}/node")
        look.outputs[0].name, look.outputs[0].type, look.outputs[0].shape = name, condition.type, condition.shape
        maker = condition.producer()
        if maker is not None:
            model.graph.insert_after(maker, look)
        else:
            model.graph.insert_before(nodes[0], look)
        for choice in choices:
            choice.replace_input_with(0, look.outputs[0])
        told.append(name)
        which = choices[0].name
        host[str(look.name)] = No(f"the host looks which branch runs before {which}", node=str(look.name))
        for node in before or ():
            host[str(node.name)] = No(f"it decides which branch runs before {which}", node=str(node.name))
    return Laziness(frozenset(told), host)


def _from_small_inputs(condition: ir.Value) -> list[ir.Node] | None:
    """The nodes that compute a condition from small inputs alone; None where other values are needed, too."""
    found: dict[ir.Node, None] = {}
    stack = [condition]
    while stack:
        value = stack.pop()
        node = value.producer()
        if constant_of(value) is not None:
            continue
        if node is None:
            shape = fixed_shape(value)
            if shape is None or len(shape) > 1 or (shape and shape[0] > _SMALL):
                return None
        elif node not in found:
            found[node] = None
            stack.extend(reads(node))
        if len(found) > _FEW:
            return None
    return list(found)


def _careful(node: ir.Node) -> bool:
    """Whether a node may fail, or takes the host's time, so that it must not run in vain."""
    if kind_of(node.op_type, node.domain) is Kind.HOST:
        return True
    at = _INDEXED.get(node.op_type)
    return at is not None and constant_of(operand(node, at)) is None


def _seconds(node: ir.Node, bindings: Bindings) -> float:
    """About the time of a node's kernel."""
    if kind_of(node.op_type, node.domain) is Kind.VIEW or is_op(node, "Shape", "Size"):
        return 0.0
    sizes = [_bytes(value, bindings) for value in (*node.inputs, *node.outputs) if value is not None]
    seconds = _LAUNCH + sum(sizes) / _BYTES
    if kind_of(node.op_type, node.domain) in PRODUCTS:
        result, operand_ = (_bytes(value, bindings) for value in (node.outputs[0], node.inputs[1]))
        columns_last = kind_of(node.op_type, node.domain) is Kind.GEMM and not node.attributes.get_int("transB", 0)
        channels = (fixed_shape(node.inputs[1]) or (1,))[-1 if columns_last else 0]
        seconds += result / 4 * operand_ / 4 / max(channels, 1) / _PRODUCT_FLOPS
    return seconds


def _bytes(value: ir.Value | None, bindings: Bindings) -> float:
    sizes = sizes_at(value, bindings)
    if value is None or sizes is None or value.dtype is None:
        return 0.0
    name = dtypes.any_from_onnx(int(value.dtype))
    return float(math.prod(sizes) * dtypes.itemsize(name)) if name is not None and dtypes.on_device(name) else 0.0
