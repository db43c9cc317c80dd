"""Symbols that have to be equal become one.

Exporters give the batch of every input a name of its own. Shape inference takes the dimensions of operands
that are combined as equal; with one symbol for both, the runtime checks that they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.graph import dims
from ingot.graph.lowered import SymbolRange
from ingot.graph.scalar_ops import is_scalar_op
from ingot.importer.symbols import tensor_inputs

_Dim = int | ir.SymbolicDim
_Pair = tuple[_Dim, _Dim]


def unify(model: ir.Model, ranges: Sequence[SymbolRange]) -> tuple[tuple[SymbolRange, ...], list[str]]:
    """Renames symbols of the inputs, in place, and drops the ranges of those that are gone; with notes.

    Shapes must have been inferred; where there are notes, they have to be inferred again.
    Raises IngotError where two symbols that must be equal have different bounds.
    """
    bounds = {r.symbol: r for r in ranges}
    same: dict[str, str] = {}
    notes = []
    for node in model.graph:
        for a, b in _equal_dims(node):
            if str(a) not in bounds or str(b) not in bounds:
                continue
            first, second = bounds[_root(str(a), same)], bounds[_root(str(b), same)]
            if first == second:
                continue
            if (first.min, first.opt, first.max) != (second.min, second.opt, second.max):
                reason = f"combines dimensions {first.symbol} and {second.symbol}, which have different bounds"
                raise IngotError(reason, node=node.name or node.op_type, fix="give both the same sizes with --shapes")
            same[second.symbol] = first.symbol
            notes.append(f"dimension {second.symbol} is the same as {first.symbol}: {node.name} combines them")
    for value in tensor_inputs(model.graph):
        assert value.shape is not None
        value.shape = ir.Shape([_renamed(dim, same) for dim in value.shape])
    return tuple(r for r in ranges if r.symbol not in same), notes


def _root(symbol: str, same: dict[str, str]) -> str:
    while symbol in same:
        symbol = same[symbol]
    return symbol


def _renamed(dim: _Dim, same: dict[str, str]) -> _Dim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    old = dims.symbols(dim.value)
    text = dim.value
    for symbol in old & same.keys():
        text = re.sub(rf"\b{symbol}\b", _root(symbol, same), text)
    return ir.SymbolicDim(text)


def _equal_dims(node: ir.Node) -> Iterator[_Pair]:
    """Pairs of dimensions of a node's operands that are equal whenever neither is 1."""
    shapes = [value.shape for value in node.inputs if value is not None and value.shape is not None]
    if node.domain != "" or len(shapes) < 2:
        return
    if is_scalar_op(node.op_type) or node.op_type == "Where":
        yield from _aligned([tuple(shape) for shape in shapes])
    elif node.op_type == "MatMul" and min(map(len, shapes)) >= 2:
        yield from _aligned([shape[:-2] for shape in shapes])
        yield shapes[0][-1], shapes[1][-2]
    elif node.op_type == "Gemm" and all(len(shape) == 2 for shape in shapes[:2]):
        flags = [node.attributes[name].as_int() if name in node.attributes else 0 for name in ("transA", "transB")]
        yield shapes[0][0 if flags[0] else 1], shapes[1][1 if flags[1] else 0]
    elif node.op_type == "Concat" and len(shapes[0]) and len({len(shape) for shape in shapes}) == 1:
        axis = node.attributes["axis"].as_int() % len(shapes[0])
        yield from _aligned([[*shape[:axis], 1, *shape[axis + 1 :]] for shape in shapes])


def _aligned(shapes: Sequence[Sequence[_Dim]]) -> Iterator[_Pair]:
    """Neighbours among the dimensions that broadcasting puts over each other, without those that are 1."""
    for axis in range(1, max(map(len, shapes)) + 1):
        over = [shape[-axis] for shape in shapes if len(shape) >= axis and shape[-axis] != 1]
        yield from pairwise(over)
