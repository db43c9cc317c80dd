"""The expressions of a Plan, evaluated at one binding of the symbolic dimensions and checked.

Offsets are fixed when the engine is built, sizes and grids follow the shapes: so what holds at the
profile's corners is checked again for every shape that a Context binds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.dims import Bindings, Dim, evaluate, symbols
from ingot.plan.spec import Plan, Step, TensorMapDecl, ValueDecl

MAX_BYTES = 1 << 44
GRID = ((1 << 31) - 1, 65535, 65535)
"""Most blocks along x, y and z (CUDA, every compute capability since 3.0)."""
_FIX = "build the engine again, or keep the shapes within its profile"


def known_symbols(plan: Plan) -> frozenset[str]:
    """The symbolic dimensions that a Context binds: from inputs, and while it runs from what host steps make."""
    return frozenset(p.symbol for p in plan.profiles) | frozenset(d.symbol for d in plan.data)


def corner(plan: Plan, which: str) -> dict[str, int]:
    """Values of all symbols at ``min``, ``opt`` or ``max``. The least size that data decides is taken as 1."""
    inputs = {p.symbol: int(getattr(p, which)) for p in plan.profiles}
    return inputs | {d.symbol: 1 if which == "min" else int(getattr(d, which)) for d in plan.data}


def memories(plan: Plan) -> dict[tuple[str, str], int]:
    """Bytes of every memory but inputs and outputs."""
    return {
        ("arena", ""): plan.arena_bytes,
        ("persistent", ""): plan.persistent_bytes,
        ("weights", ""): plan.weights_bytes,
        ("host", ""): MAX_BYTES,
    }


def data_dependent(value: ValueDecl, known: frozenset[str]) -> bool:
    """Whether a Value's shape is known only when a host step has made it, or it is no tensor at all."""
    return dtypes.nested(value.dtype) is not None or any(symbols_of(dim, value.name) - known for dim in value.shape)


def check_at(plan: Plan, bindings: Bindings, known: frozenset[str] | None = None) -> None:
    """Raises IngotError unless every size, grid and number of ``plan`` is within bounds at ``bindings``."""
    known = known_symbols(plan) if known is None else known
    capacity = memories(plan)
    loose = frozenset(i for i, value in enumerate(plan.values) if data_dependent(value, known))
    for space, rows in (("input", plan.inputs), ("output", plan.outputs)):
        for b in rows:
            sizes = [] if b.value in loose else _numbers(b.shape, bindings, b.name)
            capacity[space, b.name] = math.prod(sizes) * dtypes.itemsize(b.dtype)
            if b.value not in loose:
                _check_dense(plan.values[b.value], bindings)
    for index, value in enumerate(plan.values):
        if index not in loose:
            _check_value(value, bindings, capacity[value.memory.space, value.memory.binding])
        elif value.memory.space not in ("host", "output") and dtypes.nested(value.dtype) is None:
            raise _refuse("its shape depends on something that is no input dimension", value.name)
    for region in plan.regions:
        if not loose.intersection((*region.reads, *region.writes)):
            _non_negative((region.bytes, region.flops), bindings, region.name)
    for index, step in enumerate(plan.steps):
        if step.kind != "host":
            _check_launch(step, index, bindings, loose)
            for argument in step.arguments:
                if argument.kind == "map" and argument.map is not None:
                    value = plan.values[argument.index]
                    _check_map(argument.map, value, bindings, f"steps[{index}] {step.name}")


def _refuse(what: str, where: str) -> IngotError:
    return IngotError(f"invalid engine: {what}", node=where[:200], fix=_FIX)


def symbols_of(dim: Dim, where: str) -> frozenset[str]:
    """The symbols of an expression that may come from anywhere. Raises IngotError for a malformed one."""
    try:
        return symbols(dim)
    except IngotError as error:
        raise _refuse(error.reason, where) from None
    except (RecursionError, ValueError, MemoryError):
        raise _refuse("malformed dimension expression", where) from None


def _number(dim: Dim, bindings: Bindings, where: str) -> int:
    if isinstance(dim, int):
        return dim
    try:
        return evaluate(dim, bindings)
    except IngotError as error:
        raise _refuse(error.reason, where) from None
    except (RecursionError, TypeError, ValueError, OverflowError, MemoryError):
        raise _refuse("malformed dimension expression", where) from None


def _numbers(dims: Sequence[Dim], bindings: Bindings, where: str) -> list[int]:
    return [_number(dim, bindings, where) for dim in dims]


def _non_negative(dims: Sequence[Dim], bindings: Bindings, where: str) -> None:
    if any(number < 0 for number in _numbers(dims, bindings, where)):
        raise _refuse("a negative number of bytes or operations", where)


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last element of a strided array, both included; 0 for an empty one."""
    if 0 in shape:
        return 0
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


def dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements lie in rows without gaps."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _check_value(value: ValueDecl, bindings: Bindings, capacity: int) -> None:
    memory, item = value.memory, dtypes.itemsize(value.dtype)
    shape = _numbers(value.shape, bindings, value.name)
    strides = _numbers(value.strides, bindings, value.name)
    offset, size = _numbers((memory.offset, memory.bytes), bindings, value.name)
    if min((0, *shape, *strides, offset, size)) < 0:
        raise _refuse("a negative size, stride or offset", value.name)
    if extent(shape, strides) * item > size or size > MAX_BYTES:
        raise _refuse(f"its elements do not fit in its {size} bytes", value.name)
    if offset % item:
        raise _refuse(f"offset {offset} is not a multiple of the element size", value.name)
    if offset + size > capacity:
        raise _refuse(f"bytes {offset} to {offset + size} lie outside {memory.space} of {capacity} bytes", value.name)


def _check_dense(value: ValueDecl, bindings: Bindings) -> None:
    if not dense(_numbers(value.shape, bindings, value.name), _numbers(value.strides, bindings, value.name)):
        raise _refuse("an input or output is not dense and row-major", value.name)


def _check_map(m: TensorMapDecl, value: ValueDecl, bindings: Bindings, where: str) -> None:
    """A tensor map must not reach past its Value."""
    dims, strides = _numbers(m.dims, bindings, where), _numbers(m.strides, bindings, where)
    offset, size = _numbers((value.memory.offset, value.memory.bytes), bindings, where)
    if min(dims) < 1 or min((0, *strides)) < 0 or any(stride % 16 for stride in strides) or offset % 16:
        raise _refuse("a tensor map with an empty axis, or one that is not aligned to 16 bytes", where)
    if extent(dims[1:], strides) - 1 + dims[0] * dtypes.itemsize(m.dtype) > size:
        raise _refuse(f"a tensor map reaches past {value.name[:80]!r}", where)


def _check_launch(step: Step, index: int, bindings: Bindings, loose: frozenset[int]) -> None:
    where = f"steps[{index}] {step.name}"
    if loose.intersection((*step.reads, *step.writes)):
        raise _refuse("device work on a value whose shape depends on data", where)
    for blocks, most in zip(_numbers(step.grid, bindings, where), GRID, strict=False):
        if not 1 <= blocks <= most:
            raise _refuse(f"grid of {blocks} blocks; 1 to {most} are allowed", where)
    if step.grid and _number(step.grid[0], bindings, where) % step.cluster:
        raise _refuse(f"grid is not a multiple of its cluster of {step.cluster} blocks", where)
    for argument in step.arguments:
        if argument.kind == "dim":
            number = _number(argument.dim, bindings, where)
            if not -(1 << (8 * argument.bytes - 1)) <= number < 1 << (8 * argument.bytes - 1):
                raise _refuse(f"argument {number} does not fit in {argument.bytes} bytes", where)
