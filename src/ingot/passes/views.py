"""Ops that move nothing: the output as strides and an offset on the input's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape, add, mul
from ingot.graph.op_table import WINDOW, WINDOW_DOMAIN
from ingot.graph.region import BodyOp
from ingot.graph.tensor import TensorSpec, row_major, strides_of
from ingot.passes.flatten import FlatGraph

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class View:
    """One output of a view op: its spec, and the offset of its first element in the input's elements."""

    spec: TensorSpec
    offset: Dim = 0


def view_of(op: BodyOp, source: TensorSpec, flat: FlatGraph) -> tuple[View, ...] | None:
    """The outputs of ``op`` as windows on ``source``, or None when elements must move."""
    shapes = [flat.values[name].shape for name in op.outputs]
    if op.op in RESHAPES:
        strides = _reshape(source, shapes[0])
        return None if strides is None else (_view(source, shapes[0], strides, 0),)
    if (op.domain, op.op) == (WINDOW_DOMAIN, WINDOW):
        batch, _, row, pixel = source.strides
        return (_view(source, shapes[0], (batch, 1, row, mul(pixel, int(op.attr("step", 1)))), 0),)  # type: ignore[arg-type]
    if op.op == "Transpose":
        perm = op.ints("perm", tuple(reversed(range(source.rank))))
        return (_view(source, shapes[0], tuple(source.strides[axis] for axis in perm), 0),)
    if op.op == "Expand":
        return (_view(source, shapes[0], _expand(source, shapes[0]), 0),)
    if op.op == "Split":
        return _split(op, source, shapes)
    if op.op == "Slice":
        return _slice(op, source, shapes[0], flat)
    return None


def _view(source: TensorSpec, shape: Shape, strides: Shape, offset: Dim) -> View:
    size = dtypes.itemsize(source.dtype)
    align = math.gcd(source.align, offset * size) if isinstance(offset, int) else size
    return View(TensorSpec(source.dtype, shape, strides, max(align, size), source.constant), offset)


def _reshape(source: TensorSpec, shape: Shape) -> Shape | None:
    """Strides after a reshape, None when the elements of a new dimension are not evenly spaced."""
    if source.dense():
        return strides_of(shape, row_major(len(shape)))
    old = [(size, stride) for size, stride in zip(source.shape, source.strides, strict=True) if size != 1]
    new = [size for size in shape if size != 1]
    strides: list[Dim] = []
    while old and new:
        size, stride = old.pop()
        target = new.pop()
        tail: list[Dim] = []
        if size == target:
            tail = [stride]
        else:
            if not isinstance(size, int) or not isinstance(target, int):
                return None
            targets = [target]
            while size != math.prod(targets):
                if size < math.prod(targets):
                    if not old or not isinstance(old[-1][0], int) or old[-1][1] != mul(stride, size):
                        return None
                    size *= int(old.pop()[0])
                else:
                    if not new or not isinstance(new[-1], int):
                        return None
                    targets.append(new.pop())  # type: ignore[arg-type]
            step = stride
            for part in targets:
                tail.append(step)
                step = mul(step, part)
        strides.extend(tail)
    if old or new:
        return None
    strides.reverse()
    found = iter(strides)
    return tuple(1 if size == 1 else next(found) for size in shape)


def _expand(source: TensorSpec, shape: Shape) -> Shape:
    lead = len(shape) - source.rank
    return tuple(
        0 if axis < lead or (source.shape[axis - lead] == 1 and size != 1) else source.strides[axis - lead]
        for axis, size in enumerate(shape)
    )


def _split(op: BodyOp, source: TensorSpec, shapes: Sequence[Shape]) -> tuple[View, ...]:
    axis = int(op.attr("axis", 0)) % source.rank  # type: ignore[arg-type]
    views: list[View] = []
    start: Dim = 0
    for shape in shapes:
        views.append(_view(source, shape, source.strides, mul(start, source.strides[axis])))
        start = add(start, shape[axis])
    return tuple(views)


def _slice(op: BodyOp, source: TensorSpec, shape: Shape, flat: FlatGraph) -> tuple[View, ...] | None:
    def parameter(position: int, default: tuple[int, ...]) -> tuple[int, ...] | None:
        if position >= len(op.inputs) or not op.inputs[position]:
            return default
        value = flat.literals.get(op.inputs[position])
        if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
            return None
        return tuple(int(v) for v in value)

    starts = parameter(1, ())
    axes = parameter(3, tuple(range(len(starts or ()))))
    steps = parameter(4, (1,) * len(starts or ()))
    if starts is None or axes is None or steps is None:
        return None
    strides: list[Dim] = list(source.strides)
    offset: Dim = 0
    for start, axis, step in zip(starts, axes, steps, strict=True):
        size = source.shape[axis]
        if step <= 0 or (not isinstance(size, int) and start < 0):
            return None
        if isinstance(size, int):
            start = min(max(start + size if start < 0 else start, 0), size)
        offset = add(offset, mul(start, source.strides[axis]))
        strides[axis] = mul(step, source.strides[axis])
    return (_view(source, shape, tuple(strides), offset),)
