"""Random graphs: ops whose result's size depends on data. What follows sums over it, so that shapes are known again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from support.any_graphs import TYPES, AnyGraph, Shape, Value


def data_sized(g: AnyGraph) -> None:
    """A part of a value, as large as data says, perhaps worked on, and its sum."""
    start = len(g.values)
    found = g.pick((_compressed, _compressed, _nonzero, _unique, _top, _range))(g)
    if found is not None:
        v, axis = found
        for _ in range(g.choose(4)):
            v = _worked_on(g, v, axis)
        shape = (*v.shape[:axis], *v.shape[axis + 1 :])
        bound = v.bound * max(v.shape[axis], 1)
        if bound <= 4096:
            (total,) = g.add("ReduceSum", [v, g.ints(axis)], (v.dtype, shape, v.dtype == "int64", bound), keepdims=0)
            g.values[start:] = [total]
            return
    del g.values[start:]  # of no use to others: their real shapes are not known


Found = tuple[Value, int] | None
"""A value at its largest shape, and the axis whose size data decides."""


def _flat(g: AnyGraph, most: int, *dtypes: str) -> Value | None:
    """An exact value of ``most`` elements at most, as a vector."""
    fit = [v for v in g.values if v.exact and v.dtype in dtypes and 0 < math.prod(v.shape) <= most]
    if not fit:
        return None
    v = g.pick(fit)
    return next(iter(g.like("Reshape", [v, g.ints(-1)], v, (math.prod(v.shape),))), None)


def _mask(g: AnyGraph, v: Value) -> Value:
    limit = g.constant(np.asarray(g.choose(5) - 2, v.dtype))
    return g.add(g.pick(("Greater", "Less", "Equal")), [v, limit], ("bool", v.shape, True, 1.0))[0]


def _compressed(g: AnyGraph) -> Found:
    v = g.value("float32", "float32", "int64", least=1)
    if v is None:
        return None
    axis = g.choose(len(v.shape))
    told = _flat(g, v.shape[axis], "float32", "int64")
    if told is None:
        return None
    shape = (*v.shape[:axis], told.shape[0], *v.shape[axis + 1 :])
    return g.like("Compress", [v, _mask(g, told)], v, shape, axis=axis)[0], axis


def _nonzero(g: AnyGraph) -> Found:
    v = g.value("float32", "int64", "bool", least=1, exact=True)
    if v is None:
        return None
    total = math.prod(v.shape)
    places = g.add("NonZero", [v], ("int64", (len(v.shape), total), True, float(max(v.shape))))
    if not places:
        return None
    if g.choose(2) or v.dtype == "bool":
        return places[0], 1
    turned = g.like("Transpose", places, places[0], (total, len(v.shape)), perm=[1, 0])
    return g.like("GatherND", [v, *turned], v, (total,))[0], 0


def _unique(g: AnyGraph) -> Found:
    told = _flat(g, 64, "float32", "int64")
    return None if told is None else (g.like("Unique", [told], told, told.shape)[0], 0)


def _count(g: AnyGraph, most: int) -> Value | None:
    """A number from 0 to ``most``, as a vector of one."""
    told = _flat(g, 64, "int64")
    if told is None:
        return None
    largest = g.like("ReduceMax", [told], told, (1,), keepdims=1)
    ends = [g.constant(np.int64(0)), g.constant(np.int64(most))]
    return g.like("Clip", [*largest, *ends], Value("", "int64", (), True, float(most)), (1,))[0]


def _top(g: AnyGraph) -> Found:
    v = g.value(least=1)
    if v is None:
        return None
    axis = g.choose(len(v.shape))
    count = _count(g, v.shape[axis])
    if count is None:
        return None
    made: Sequence[tuple[str, Shape, bool, float]] = [
        ("float32", v.shape, v.exact, v.bound),
        ("int64", v.shape, False, float(max(v.shape))),
    ]
    found = g.add("TopK", [v, count], *made, axis=axis, largest=g.choose(2))
    return (found[0], axis) if found else None


def _range(g: AnyGraph) -> Found:
    count = _count(g, 8)
    if count is None:
        return None
    end = g.like("Squeeze", [count], count, ())
    numbers = g.constant(np.int64(0)), *end, g.constant(np.int64(1))
    whole = Value("", "int64", (), True, 8.0)
    made = g.like("Range", numbers, whole, (8,))
    return g.like("Cast", made, Value("", "float32", (), True, 8.0), (8,), to=TYPES["float32"])[0], 0


def _worked_on(g: AnyGraph, v: Value, axis: int) -> Value:
    """``v`` after an op that keeps its axes."""
    if v.dtype != "float32":
        return v
    last = len(v.shape) - 1
    if last > axis and v.bound * v.shape[-1] <= 256 and g.choose(4):
        columns = g.pick((1, 4, 8))
        made = ("float32", (*v.shape[:-1], columns), False, v.bound * v.shape[-1] / 2 + 1)
        return next(iter(g.add("MatMul", [v, g.weight(v.shape[-1], columns)], made)), v)
    op = g.pick(("Relu", "Tanh", "Sigmoid", "Neg"))
    return g.add(op, [v], ("float32", v.shape, False, v.bound + 1))[0]
