"""Ops that rename elements: reshape, transpose, slice, split, expand."""

from __future__ import annotations

from ingot.graph.dims import Dim, maximum
from ingot.graph.region import BodyOp
from ingot.kernels.cuda.maps.algebra import canonical, plus, times
from ingot.kernels.cuda.maps.emit import Refused, Val
from ingot.kernels.cuda.maps.index import (
    Coord,
    Index,
    Name,
    coord,
    linear,
    row_major_strides,
    scaled,
    shifted,
    split,
)
from ingot.kernels.cuda.maps.pull import Puller


def axis_of(op: BodyOp, rank: int, default: int) -> int:
    """The attribute ``axis`` as a number from 0."""
    axis = int(op.attr("axis", default))  # type: ignore[arg-type]
    if not -rank <= axis < max(rank, 1):
        raise Refused(f"axis {axis} of {op.op} on rank {rank}")
    return axis % rank if rank else 0


def divided(p: Puller, c: Coord, by: Dim) -> tuple[Coord, Coord]:
    """Quotient and remainder of a coordinate >= 0, with a division where there is no other way."""
    found = split(c, by)
    if found is not None:
        return found
    code, size = p.em.scalar(c), p.em.text.number(by)
    return coord(Name(p.em.let(f"{code} / {size}"))), coord(Name(p.em.let(f"{code} % {size}"), by))


def reshape(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Reshape, Squeeze, Unsqueeze, Flatten: the same row-major position."""
    source = op.inputs[0]
    have, out = p.shape(source), p.shape(name)
    if source in p.region.inputs and p.spec(source).dense():
        return p.load(source, linear(index, row_major_strides(out)))
    head = 0
    while head < min(len(have), len(out)) and have[head] == out[head]:
        head += 1
    tail = 0
    while tail < min(len(have), len(out)) - head and have[-1 - tail] == out[-1 - tail]:
        tail += 1
    middle = out[head : len(out) - tail]
    position = linear(index[head : len(out) - tail], row_major_strides(middle))
    found: list[Coord] = []
    for size in reversed(have[head : len(have) - tail]):
        position, rest = divided(p, position, size)
        found.append(rest)
    return p.pull(source, (*index[:head], *reversed(found), *index[len(out) - tail :]))


def transpose(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Dimension i of the result is dimension ``perm[i]`` of the input."""
    perm = op.ints("perm", tuple(reversed(range(len(index)))))
    found = list(index)
    for position, axis in enumerate(perm):
        found[axis] = index[position]
    return p.pull(op.inputs[0], tuple(found))


def expand(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Broadcast to a shape."""
    return p.pull(op.inputs[0], p.broadcast(op.inputs[0], p.shape(name), index))


def slice_of(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Slice with any step; bounds may be dimension expressions."""
    shape = p.shape(op.inputs[0])
    starts = p.dims(op, 1)
    if starts is None:
        raise Refused("Slice with its bounds in attributes (opset 1)")
    axes, steps = p.dims(op, 3) or tuple(range(len(starts))), p.dims(op, 4) or (1,) * len(starts)
    found = list(index)
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if isinstance(axis, str) or isinstance(step, str) or step == 0:
            raise Refused("Slice with a step or an axis that is not known")
        first = _first(start, shape[axis % len(shape)], forward=step > 0)
        found[axis % len(shape)] = shifted(scaled(index[axis % len(shape)], step), first)
    return p.pull(op.inputs[0], tuple(found))


def _first(start: Dim, size: Dim, *, forward: bool) -> Dim:
    """Position of a slice's first element, for every binding under which the slice has one."""
    if isinstance(start, str):
        # A start below 0 counts from the end: the bracket is 1 exactly then.
        start = plus(start, times(size, canonical(f"1 - min(1, max(0, ({start}) + 1))")))
    elif start < 0:
        start = plus(start, size)
    elif forward:
        return start
    if forward:
        return canonical(maximum(start, 0))
    if isinstance(start, int) and isinstance(size, int):
        return min(start, size - 1)
    return canonical(f"min({start}, ({size}) - 1)")


def split_part(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """One output of Split: a slice that starts where the outputs before it end."""
    shape = p.shape(op.inputs[0])
    axis = axis_of(op, len(shape), 0)
    position = op.outputs.index(name)
    start = plus(*_part_sizes(p, op, shape[axis], axis)[:position])
    found = (*index[:axis], shifted(index[axis], start), *index[axis + 1 :])
    return p.pull(op.inputs[0], found)


def _part_sizes(p: Puller, op: BodyOp, size: Dim, axis: int) -> list[Dim]:
    given = p.dims(op, 1)
    if given is not None:
        return list(given)
    if all(n in p.region.spec_of for n in op.outputs):
        return [p.spec(n).shape[axis] for n in op.outputs]
    parts = len(op.outputs)
    if not isinstance(size, int):
        raise Refused("Split of a symbolic dimension into unnamed parts")
    most = -(-size // parts)
    return [max(0, min(most, size - most * i)) for i in range(parts)]
