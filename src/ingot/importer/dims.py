"""Dimensions of the inputs: fixed, or symbolic within bounds, as the user asks."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.graph import dims
from ingot.graph.lowered import SymbolRange
from ingot.importer.symbols import is_symbol, name_dims, tensor_inputs
from ingot.options import Range

Shapes = tuple[tuple[str, tuple[Range, ...]], ...]
_ANY = Range(1, 1, 65536)
"""Bounds of a dimension that may be anything."""


def settle_dims(graph: ir.Graph, shapes: Shapes, *, any_size: bool) -> tuple[tuple[SymbolRange, ...], list[str]]:
    """Gives every input dimension a number or a symbol with bounds, in place; also notes for the user.

    Raises IngotError where ``shapes`` do not fit the inputs or each other, or where one is missing.
    """
    asked = _asked(graph, shapes)
    _give_ranks(graph, asked)
    name_dims(graph)
    bounds: dict[str, Range] = {}
    for value in graph.inputs:
        if value.name in asked:
            _bind(value, asked[value.name], bounds)
    notes = list(_odd_inputs(graph))
    for value in tensor_inputs(graph):
        notes.extend(_default(value, bounds, any_size=any_size))
    for value in tensor_inputs(graph):
        if value.name in asked:
            _check_expressions(value, asked[value.name], bounds)
    fixed = {name: r.opt for name, r in bounds.items() if r.min == r.max}
    for value in tensor_inputs(graph):
        assert value.shape is not None
        value.shape = ir.Shape([dim if isinstance(dim, int) else dim.evaluate(fixed) for dim in value.shape])
    ranges = tuple(SymbolRange(name, r.min, r.opt, r.max) for name, r in bounds.items() if r.min < r.max)
    return ranges, notes


def _asked(graph: ir.Graph, shapes: Shapes) -> dict[str | None, tuple[Range, ...]]:
    names = [str(value.name) for value in graph.inputs]
    asked: dict[str | None, tuple[Range, ...]] = {}
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


def _give_ranks(graph: ir.Graph, asked: dict[str | None, tuple[Range, ...]]) -> None:
    """An input of unknown rank has as many dimensions as the user gives."""
    for value in graph.inputs:
        if value.name in asked and value.type is not None and not isinstance(value.type, ir.TensorType):
            raise IngotError("is not a tensor, so it has no shape", node=f"input {value.name!r}", fix="give none")
        if value.name in asked and value.shape is None:
            value.shape = ir.Shape([None] * len(asked[value.name]))


def _bind(value: ir.Value, ranges: tuple[Range, ...], bounds: dict[str, Range]) -> None:
    """Records what ``ranges`` say about the symbols of one input."""
    place, shape = f"input {value.name!r}", value.shape
    assert shape is not None
    if len(shape) != len(ranges):
        fix = f"give {len(shape)} numbers: {_example(value)}" if len(shape) else "give no shape: it is a scalar"
        raise IngotError(
            f"has {len(shape)} dimensions {_text(shape)}, but {len(ranges)} are given", node=place, fix=fix
        )
    for axis, (dim, r) in enumerate(zip(shape, ranges, strict=True)):
        if isinstance(dim, int):
            if (r.min, r.max) != (dim, dim):
                reason = f"dimension {axis} is {dim} in the model, but {_range_text(r)} is given"
                raise IngotError(reason, node=place, fix=f"give {dim} there")
        elif is_symbol(dim) and bounds.setdefault(str(dim), r) != r:
            reason = f"dimension {axis} ({dim}) is {_range_text(r)}, but {_range_text(bounds[str(dim)])} elsewhere"
            raise IngotError(reason, node=place, fix=f"give {dim} the same value wherever it occurs")


def _odd_inputs(graph: ir.Graph) -> Iterator[str]:
    for value in graph.inputs:
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            yield f"input {value.name!r} is not a tensor"
        elif value.shape is None:
            yield f"input {value.name!r} has no known rank"
        elif not len(value.shape):
            yield f"input {value.name!r} is a scalar"


def _default(value: ir.Value, bounds: dict[str, Range], *, any_size: bool) -> Iterator[str]:
    """Bounds for symbols that nobody spoke of; yields notes."""
    assert value.shape is not None
    for axis, dim in enumerate(value.shape):
        if isinstance(dim, int) or not is_symbol(dim) or str(dim) in bounds:
            continue
        if any_size:
            bounds[str(dim)] = _ANY
        elif axis == 0:
            bounds[str(dim)] = Range(1, 1, 1)
            yield f"dimension 0 ({dim}) of input {value.name!r} is taken as 1: no shape is given for it"
        else:
            reason = f"dimension {axis} ({dim}) of {_text(value.shape)} has no size"
            raise IngotError(reason, node=f"input {value.name!r}", fix=_example(value))


def _check_expressions(value: ir.Value, ranges: tuple[Range, ...], bounds: dict[str, Range]) -> None:
    """A dimension that follows from others must be given as what follows."""
    assert value.shape is not None
    for axis, (dim, r) in enumerate(zip(value.shape, ranges, strict=True)):
        if isinstance(dim, int) or is_symbol(dim):
            continue
        ends = [
            dims.evaluate(str(dim), {name: getattr(bounds[name], end) for name in dims.symbols(str(dim))})
            for end in ("min", "opt", "max")
        ]
        if ends != [r.min, r.opt, r.max]:
            reason = f"dimension {axis} ({dim}) is {_range_text(Range(*ends))}, but {_range_text(r)} is given"
            raise IngotError(reason, node=f"input {value.name!r}", fix=f"give {_range_text(Range(*ends))} there")


def _example(value: ir.Value) -> str:
    sizes = [str(d) if isinstance(d, int) else ("224" if i else "1") for i, d in enumerate(value.shape or ())]
    return f"--shapes {value.name}={'x'.join(sizes)}"


def _text(shape: ir.Shape) -> str:
    return "(" + ", ".join(str(dim) for dim in shape) + ")"


def _range_text(r: Range) -> str:
    return str(r.min) if r.min == r.max else f"{r.min}:{r.opt}:{r.max}"
