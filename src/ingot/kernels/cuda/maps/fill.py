"""Ops whose elements follow from the index: triangles, one-hot rows, ranges, constants."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.region import BodyOp, Scalar
from ingot.graph.scalar_code import compute_dtype
from ingot.kernels.cuda.maps.algebra import times
from ingot.kernels.cuda.maps.emit import Refused, Val, Varying
from ingot.kernels.cuda.maps.index import Index, add, scaled, shifted
from ingot.kernels.cuda.maps.pull import Puller
from ingot.kernels.cuda.maps.views import axis_of
from ingot.kernels.cuda.rows.text import c_type


def triangle(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Trilu: elements on one side of a diagonal, zeros on the other."""
    offset = (p.dims(op, 1) or (0,))[0]
    beyond = shifted(add(index[-1], scaled(index[-2], -1)), times(-1, offset))
    upper = bool(op.attr("upper", 1))
    condition = p.em.least(beyond, 0) if upper else p.em.below(beyond, 1)
    zero = p.constant(0, p.spec(name).dtype)
    return p.select(name, [(condition, lambda: p.pull(op.inputs[0], index)), ("", lambda: zero)])


def one_hot(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """One of two values, by whether the coordinate along the new axis is the index."""
    axis = axis_of(op, len(index), -1)
    dtype, size = p.spec(name).dtype, p.shape(name)[axis]
    values = p.parameter(op, 2)
    if values is None or len(values) != 2:
        raise Refused("OneHot without two known values")
    place = p.pull(op.inputs[0], (*index[:axis], *index[axis + 1 :]))
    if place.lanes:
        raise Varying
    number, own = p.em.text.number(size), p.em.scalar(index[axis])
    here = p.em.let(f"(index_t){place.computed('')}")
    off, on = (p.constant(v, dtype).code for v in values)
    code = f"({here} < 0 ? {here} + {number} : {here}) == {own} ? {on} : {off}"
    return Val(p.em.let(code, c_type(compute_dtype(dtype)), "v"), dtype)


def range_of(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """``start + i * step`` in the result's type."""
    dtype = p.spec(name).dtype
    start, step = p.parameter(op, 0), p.parameter(op, 2)
    if start is None or step is None:
        raise Refused("Range without a start or a step")
    kind = c_type(compute_dtype(dtype))
    first, by = p.constant(start[0], dtype).code, p.constant(step[0], dtype).code
    return Val(p.em.let(f"({kind})({first} + ({kind}){p.em.scalar(index[0])} * {by})", kind, "v"), dtype)


def filled(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """ConstantOfShape."""
    value = op.attr("value", 0.0)
    if isinstance(value, tuple):
        value = value[0]
    assert isinstance(value, bool | int | float)
    return p.constant(value, p.spec(name).dtype)


def eye_like(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Ones on a diagonal."""
    dtype, row, column = p.spec(name).dtype, p.em.scalar(index[0]), p.em.scalar(index[1])
    one, zero = p.constant(1, dtype).code, p.constant(0, dtype).code
    code = f"{column} - {row} == {int(op.attr('k', 0))} ? {one} : {zero}"  # type: ignore[arg-type]
    return Val(p.em.let(code, c_type(compute_dtype(dtype)), "v"), dtype)


def shape_of(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Shape and Size: numbers that are known when the dimensions are."""
    shape = p.shape(op.inputs[0])
    if op.op == "Size":
        return p.constant(_plain(times(*shape)), "int64")
    rank = len(shape)
    first = min(max(_from_end(op, "start", 0, rank), 0), rank)
    last = min(max(_from_end(op, "end", rank, rank), 0), rank)
    place = p.em.scalar(index[0])
    code = "0"
    for position in reversed(range(first, last)):
        code = f"({place} == {position - first} ? {p.constant(_plain(shape[position]), 'int64').code} : {code})"
    return Val(p.em.let(code, dtypes.TABLE["int64"].cuda, "v"), "int64")


def _from_end(op: BodyOp, name: str, default: int, rank: int) -> int:
    value = int(op.attr(name, default))  # type: ignore[arg-type]
    return value + rank if value < 0 else value


def _plain(dim: int | str) -> Scalar | str:
    return dim
