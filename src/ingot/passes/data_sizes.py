"""Sizes that depend on data but have an upper bound: what follows on the device can be planned for the largest.

The op that makes such a size runs on the host; what reads its results may run on the device, bound to the real
size once it is known. That costs a graph for each new size, so it is done only where something heavy follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import onnx_ir as ir

from ingot.errors import YES, Answer, IngotError, No
from ingot.graph.dims import Bindings, Dim, evaluate, evaluate_shape, symbols
from ingot.graph.edit import scalar_of
from ingot.graph.lowered import DataSize, SymbolRange
from ingot.graph.op_table import kind_of
from ingot.graph.region import PRODUCTS, Kind, Region

_SHARE = 4
"""The size that kernels are chosen for is the largest over this."""


def data_sizes(model: ir.Model, ranges: tuple[SymbolRange, ...]) -> tuple[SymbolRange, ...]:
    """Ranges of the symbols that shape inference gave to bounded sizes, where heavy ops read values of such a size."""
    known = {r.symbol: r.max for r in ranges}
    found: list[SymbolRange] = []
    for node in model.graph:
        bound = _BOUNDS[node.op_type](node, known) if node.op_type in _BOUNDS and node.domain == "" else 0
        if not 1 <= bound < 1 << 31:
            continue
        for symbol in _new_symbols(node, known):
            known[symbol] = bound
            found.append(SymbolRange(symbol, 1, max(1, bound // _SHARE), bound))
    heavy = _heavy_symbols(model)
    return tuple(r for r in found if r.symbol in heavy)


def decides_sizes(node: ir.Node) -> bool:
    """Whether the data that ``node`` reads decides the size of what it makes."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _BOUNDS:
        return False
    return node.op_type != "TopK" or scalar_of(node.inputs[1]) is None


def _new_symbols(node: ir.Node, known: dict[str, int]) -> list[str]:
    names = [str(dim) for value in node.outputs for dim in value.shape or () if not isinstance(dim, int)]
    return list(dict.fromkeys(name for name in names if name.isidentifier() and name not in known))


def _heavy_symbols(model: ir.Model) -> frozenset[str]:
    dims = (
        str(dim)
        for node in model.graph
        if kind_of(node.op_type, node.domain) in PRODUCTS
        for value in node.inputs
        if value is not None
        for dim in value.shape or ()
        if not isinstance(dim, int) and str(dim) != "None"
    )
    return frozenset(symbol for dim in dims for symbol in symbols(dim))


def sources(regions: tuple[Region, ...], symbols_: tuple[str, ...]) -> tuple[DataSize, ...] | str:
    """Where each symbol's value is found: in the shape of what a host Region makes. Else the symbol that nowhere is."""
    found = []
    for symbol in symbols_:
        places = (
            DataSize(symbol, name, axis)
            for region in regions
            if region.kind is Kind.HOST
            for name in region.outputs
            for axis, dim in enumerate(region.spec_of[name].shape)
            if dim == symbol
        )
        first = next(places, None)
        if first is None:
            return symbol
        found.append(first)
    return tuple(found)


def accepts_sizes(region: Region, data: frozenset[str], known: frozenset[str]) -> Answer:
    """Whether a Region of such sizes can be on the device: it makes nothing where there is nothing, and waits for
    the size because it reads a value of that size."""
    inside = list(region.spec_of.values())
    used = {s for spec in inside for dim in (*spec.shape, *spec.strides) for s in symbols(dim)} & data
    used |= {s for _, literal in region.literals for dim in _dims(literal) for s in symbols(dim)} & data
    for symbol in sorted(used):
        if not any(symbol in symbols(dim) for spec in region.input_specs for dim in spec.shape):
            return No("its size depends on data that it does not read", node=region.name)
        none = dict.fromkeys(known, 1) | {symbol: 0}
        try:
            empty = all(0 in evaluate_shape(spec.shape, none) for spec in region.output_specs)
        except IngotError:
            empty = False
        if not empty:
            return No("it makes something even where the data selects nothing", node=region.name)
    return YES


def _dims(literal: object) -> list[Dim]:
    rows = literal if isinstance(literal, tuple) else (literal,)
    return [row for row in rows if isinstance(row, str)]


def sizes_at(value: ir.Value | None, known: Bindings) -> list[int] | None:
    """The sizes of a value where symbols are as in ``known``; None where one depends on others."""
    if value is None or value.shape is None:
        return None
    try:
        return [dim if isinstance(dim, int) else evaluate(str(dim), known) for dim in value.shape]
    except IngotError:
        return None


def _elements(node: ir.Node, known: dict[str, int]) -> int:
    sizes = sizes_at(node.inputs[0], known)
    return 0 if sizes is None else math.prod(sizes)


def _along(node: ir.Node, known: dict[str, int], default: int | None = None) -> int:
    """At most the size of the axis; of all elements where there is none."""
    axis = node.attributes.get_int("axis", default)
    sizes = sizes_at(node.inputs[0], known)
    if axis is None or sizes is None:
        return _elements(node, known)
    return sizes[axis] if -len(sizes) <= axis < len(sizes) else 0


def _boxes(node: ir.Node, known: dict[str, int]) -> int:
    """For each image and class no more than there are boxes, or than are asked for."""
    scores = sizes_at(node.inputs[1], known) if len(node.inputs) > 1 else None
    if scores is None or len(scores) != 3:
        return 0
    wanted = node.inputs[2] if len(node.inputs) > 2 else None
    number = scalar_of(wanted) if wanted is not None else None
    return scores[0] * scores[1] * (scores[2] if number is None else min(scores[2], max(int(number), 0)))


_BOUNDS: dict[str, Callable[[ir.Node, dict[str, int]], int]] = {
    "NonZero": _elements,
    "Compress": _along,
    "Unique": _along,
    "TopK": partial(_along, default=-1),
    "NonMaxSuppression": _boxes,
}
"""The largest size, 0 for none, of the dimensions that an op's data decides."""
