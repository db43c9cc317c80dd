"""Dimensions of the inputs: fixed, or symbolic within bounds, as the user asks."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.graph.lowered import SymbolRange
from ingot.options import Range

Shapes = tuple[tuple[str, tuple[Range, ...]], ...]
_ANY = (1, 1, 65536)
"""Bounds of a dimension that may be anything."""
_RESERVED = frozenset({"floor", "ceil", "ceiling", "max", "min", "mod", "Max", "Min", "Mod", "sqrt"})
"""Words of dimension expressions."""


def settle_dims(graph: ir.Graph, shapes: Shapes, *, any_size: bool) -> tuple[tuple[SymbolRange, ...], list[str]]:
    """Gives every input dimension a number or a symbol with bounds, in place; also notes for the user.

    Raises IngotError where ``shapes`` do not fit the inputs or each other, or where one is missing.
    """
    asked = _asked(graph, shapes)
    symbols = _Symbols(graph)
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([symbols.named(dim, value, axis) for axis, dim in enumerate(value.shape)])
    bounds: dict[str, Range] = {}
    notes: list[str] = []
    for value in graph.inputs:
        if value.name in asked:
            _bind(value, asked[value.name], bounds)
    for value in graph.inputs:
        notes.extend(_default(value, bounds, any_size=any_size))
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([_settled(dim, bounds) for dim in value.shape])
    ranges = tuple(SymbolRange(name, r.min, r.opt, r.max) for name, r in bounds.items() if r.min < r.max)
    return ranges, notes


def _asked(graph: ir.Graph, shapes: Shapes) -> dict[str, tuple[Range, ...]]:
    names = [str(value.name) for value in graph.inputs]
    asked: dict[str, tuple[Range, ...]] = {}
    for name, ranges in shapes:
        if name not in names:
            raise IngotError(f"there is no input {name!r} to give a shape", fix=f"inputs are: {', '.join(names)}")
        if name in asked:
            raise IngotError("its shape is given twice", node=f"input {name!r}", fix="give it once")
        for r in ranges:
            if not 0 <= r.min <= r.opt <= r.max:
                reason = f"bounds {r.min}, {r.opt}, {r.max} are not min <= opt <= max"
                raise IngotError(reason, node=f"input {name!r}", fix="order them, starting from 0 or more")
        asked[name] = ranges
    return asked


class _Symbols:
    """Names for symbolic dimensions: identifiers, the same for the same symbol, unique for unnamed ones."""

    def __init__(self, graph: ir.Graph) -> None:
        declared = [_symbol(dim) for value in graph.inputs for dim in value.shape or ()]
        self._names: dict[str, str] = {}
        self._taken = {name for name in declared if _is_plain(name)}
        for name in dict.fromkeys(declared):
            if name and not _is_plain(name):
                self._names[name] = self._fresh(_identifier(name))

    def named(self, dim: int | ir.SymbolicDim, value: ir.Value, axis: int) -> int | str:
        if isinstance(dim, int) and dim >= 0:
            return dim
        symbol = _symbol(dim)
        return self._names.get(symbol, symbol) if symbol else self._fresh(f"{_identifier(str(value.name))}_dim{axis}")

    def _fresh(self, wish: str) -> str:
        stem = wish if _is_plain(wish) else f"dim_{wish}".rstrip("_")
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name


def _symbol(dim: int | ir.SymbolicDim) -> str:
    """The symbol's name; empty for numbers and for what exporters write for an unnamed dimension."""
    if isinstance(dim, int) or dim.value is None:
        return ""
    return "" if dim.value.strip() in ("", "?", "None", "-1") else dim.value


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")


def _is_plain(name: str) -> bool:
    # Names that start with an underscore are those that shape inference makes up.
    plain = name.isascii() and name.isidentifier() and not name.startswith("_")
    return plain and not keyword.iskeyword(name) and name not in _RESERVED


def _bind(value: ir.Value, ranges: tuple[Range, ...], bounds: dict[str, Range]) -> None:
    """Records what ``ranges`` say about the symbols of one input."""
    place = f"input {value.name!r}"
    if value.shape is None:
        if not isinstance(value.type, ir.TensorType):
            raise IngotError("is not a tensor and has no shape to set", node=place, fix="leave its shape out")
        value.shape = ir.Shape([f"{_identifier(str(value.name))}_dim{axis}" for axis in range(len(ranges))])
    if len(value.shape) != len(ranges):
        reason = f"has {len(value.shape)} dimensions {_text(value.shape)}, but {len(ranges)} are given"
        raise IngotError(reason, node=place, fix=f"give {len(value.shape)} numbers, with x between them")
    for axis, (dim, r) in enumerate(zip(value.shape, ranges, strict=True)):
        if isinstance(dim, int):
            if (r.min, r.max) != (dim, dim):
                reason = f"dimension {axis} is {dim} in the model, but {_range_text(r)} is given"
                raise IngotError(reason, node=place, fix=f"give {dim} there")
        elif bounds.setdefault(str(dim), r) != r:
            reason = f"dimension {axis} ({dim}) is {_range_text(r)}, but {_range_text(bounds[str(dim)])} elsewhere"
            raise IngotError(reason, node=place, fix=f"give {dim} the same value wherever it occurs")


def _default(value: ir.Value, bounds: dict[str, Range], *, any_size: bool) -> Iterable[str]:
    """Bounds for symbols that nobody spoke of; yields notes."""
    if not isinstance(value.type, ir.TensorType):
        yield f"input {value.name!r} is not a tensor"
        return
    if value.shape is None:
        yield f"input {value.name!r} has no known rank"
        return
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int) or str(dim) in bounds:
            continue
        if any_size:
            bounds[str(dim)] = Range(*_ANY)
        elif axis == 0:
            bounds[str(dim)] = Range(1, 1, 1)
            yield f"dimension 0 ({dim}) of input {value.name!r} is taken as 1: no shape is given for it"
        else:
            sizes = [str(d) if isinstance(d, int) else ("224" if i else "1") for i, d in enumerate(value.shape)]
            reason = f"dimension {axis} ({dim}) of {_text(value.shape)} has no size"
            raise IngotError(reason, node=f"input {value.name!r}", fix=f"--shapes {value.name}={'x'.join(sizes)}")


def _settled(dim: int | ir.SymbolicDim, bounds: Mapping[str, Range]) -> int | str:
    if isinstance(dim, int):
        return dim
    r = bounds[str(dim)]
    return r.opt if r.min == r.max else str(dim)


def _text(shape: ir.Shape) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ")"


def _range_text(r: Range) -> str:
    return str(r.min) if r.min == r.max else f"{r.min}:{r.opt}:{r.max}"
