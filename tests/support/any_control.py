"""If, Loop and Scan in random graphs. Conditions are computed from exact values only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from support.any_graphs import TYPES, AnyGraph, Made, Shape, Value

_DEEPEST = 2
_STEPS = 4
"""Ops of a body at most."""
_TURNS = 4


def _number(g: AnyGraph) -> Value | None:
    """A scalar that data decides: an element of an exact value, or its largest one."""
    v = g.value("int64", "float32", exact=True)
    if v is None:
        return None
    if g.choose(2) or not v.shape:
        made = g.like("ReduceMax", [v], v, (), keepdims=0)
    else:
        flat = g.like("Reshape", [v, g.ints(-1)], v, (math.prod(v.shape),))
        made = g.like("Gather", [*flat, g.constant(np.int64(g.choose(math.prod(v.shape))))], v, ()) if flat else []
    return made[0] if made else None


def _limit(g: AnyGraph, dtype: str) -> str:
    return g.constant(np.asarray(g.choose(9) - 4, dtype))


def _condition(g: AnyGraph) -> Value | None:
    """A bool that data decides."""
    number = _number(g)
    if number is None:
        return None
    op = g.pick(("Greater", "Less", "Equal"))
    return g.add(op, [number, _limit(g, number.dtype)], ("bool", (), True, 1.0))[0]


def _result(body: AnyGraph, dtype: str, shape: Shape, taken: Sequence[Value] = ()) -> Value:
    """A Value that a node of ``body`` makes, of that type and shape; none of ``taken``.

    ONNX Runtime mixes results up where a graph has one twice.
    """
    fit = [v for v in body.values if v.dtype == dtype and v.shape == shape]
    if not fit:
        source = body.value(dtype) if dtype != "bool" else None
        if source is None:
            name = body.constant(np.zeros((), dtype))
            source = Value(name, dtype, (), True, 0.0)
        else:
            source = body.like("ReduceMax", [source], source, (), keepdims=0)[0]
        fit = body.like("Expand", [source, body.ints(*shape)], source, shape)
    v = body.pick(fit)
    made = v not in taken and any(v.name in node.output for node in body.nodes)
    return v if made else body.like("Identity", [v], v, shape)[0]


def _info(v: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(v.name, TYPES[v.dtype], v.shape)


def _graph(g: AnyGraph, body: AnyGraph, inputs: Sequence[Value], outputs: Sequence[Value]) -> onnx.GraphProto:
    """``body`` as an attribute of a node of ``g``."""
    read = {name for node in body.nodes for name in node.input} | body.used | {v.name for v in outputs}
    g.used |= read
    return helper.make_graph(
        body.nodes, f"{body.prefix}body", [_info(v) for v in inputs], [_info(v) for v in outputs], body.weights
    )


def looked_up(g: AnyGraph) -> Value | None:
    """A slice at a place that data decides: an op that must not run in vain, as the place may be anything there."""
    v, told = g.value("float32", "int64", least=1), g.value(exact=True, least=1)
    if v is None or told is None:
        return None
    axis = g.choose(len(v.shape))
    fit = [i for i, size in enumerate(told.shape) if size <= v.shape[axis]]
    if not fit:
        return None
    at, rest = g.pick(fit), math.prod(told.shape)
    place = g.add("ArgMax", [told], ("int64", tuple(s for i, s in enumerate(told.shape) if i != at), True, 8.0),
                  axis=at, keepdims=0)  # fmt: skip
    first = g.like("Reshape", [*place, g.ints(-1)], place[0], (rest // told.shape[at],)) if place else []
    one = g.like("Gather", [*first, g.constant(np.int64(0))], first[0], ()) if first else []
    shape = (*v.shape[:axis], *v.shape[axis + 1 :])
    return g.like("Gather", [v, *one], v, shape, axis=axis)[0] if one else None


def look_up(g: AnyGraph) -> None:
    """See :func:`looked_up`."""
    looked_up(g)


def _join(a: Value, b: Value) -> Made:
    return a.dtype, a.shape, a.exact and b.exact, max(a.bound, b.bound)


def if_(g: AnyGraph) -> None:
    """Both branches make results of one type; of one shape where the condition is data."""
    if g.depth >= _DEEPEST or not g.small():
        return
    known = g.choose(3) == 0
    which = g.choose(2)
    condition = g.constant(np.asarray(bool(which))) if known else _condition(g)
    if condition is None:
        return
    if isinstance(condition, Value) and g.choose(4) == 0:
        (condition,) = g.like("Unsqueeze", [condition, g.ints(0)], condition, (1,))
    bodies = [g.body([], 1 + g.choose(_STEPS)) for _ in range(2)]
    rows: list[tuple[Value, Value]] = []
    for _ in range(1 + g.choose(2)):
        found = looked_up(bodies[0]) if not known and g.choose(2) else None
        first = found or g.pick(bodies[0].values)
        one = found or _result(bodies[0], first.dtype, first.shape, [row[0] for row in rows])
        shape = (2, *first.shape[-1:]) if known and g.choose(2) else first.shape
        rows.append((one, _result(bodies[1], first.dtype, shape, [row[1] for row in rows])))
    graphs = [_graph(g, body, [], [row[i] for row in rows]) for i, body in enumerate(bodies)]
    made = [_join(*row) for row in rows]
    if known:
        made = [(v.dtype, v.shape, v.exact, v.bound) for v in (row[1 - which] for row in rows)]
    g.add("If", [condition], *made, then_branch=graphs[0], else_branch=graphs[1])


def _states(g: AnyGraph, most: int) -> list[Value]:
    """What a loop carries: floats are inexact and up to 8 above what they begin with."""
    found = [v for v in (g.value("float32", "float32", "int64") for _ in range(1 + g.choose(most))) if v is not None]
    return [v for v in found if v.bound <= 64 and v in g.small()]


def _carried(states: Sequence[Value]) -> list[Value]:
    """The states as the body sees them."""
    return [Value(f"s{i}", v.dtype, v.shape, v.exact and v.dtype == "int64", v.bound + 8) for i, v in enumerate(states)]


def _next(body: AnyGraph, state: Value) -> Value:
    """The state after a turn, no larger than before."""
    v = _result(body, state.dtype, state.shape)
    if v.bound <= state.bound:
        return body.like("Identity", [v], v, v.shape)[0]
    ends = [body.constant(np.asarray(end, state.dtype)) for end in (-state.bound, state.bound)]
    return body.add("Clip", [v, *ends], (v.dtype, v.shape, v.exact, state.bound))[0]


def _piled(body: AnyGraph, count: int) -> list[Value]:
    """What a turn adds to the scan outputs."""
    found = [body.pick(body.values) for _ in range(count)]
    return [body.like("Identity", [v], v, v.shape)[0] for v in found if math.prod(v.shape) <= 256]


def loop(g: AnyGraph) -> None:
    """A known number of turns, or as many as data says: by its number, by its condition, or by what its body says."""
    if g.depth >= _DEEPEST or not (states := _states(g, 2)):
        return
    turns, limit = g.choose(_TURNS + 1), _count(g) if g.choose(6) == 0 else None
    stop = _number(g) if g.choose(2) else None
    begins = _condition(g) if stop is not None and g.choose(3) == 0 else None
    number, going = Value("i", "int64", (), True, float(_TURNS)), Value("c", "bool", (), True, 1.0)
    body = g.body([number, going, *_carried(states)], 1 + g.choose(_STEPS))
    own = body.values[: 2 + len(states)]
    goes = _goes_on(body, own, stop)
    after = [_next(body, state) for state in own[2:]]
    known = stop is None and limit is None
    piles = _piled(body, g.choose(3)) if turns and limit is None and begins is None else []
    piles = [v for v in piles if known or v.dtype != "bool"]
    graph = _graph(g, body, own, [goes, *after, *piles])
    made = [(v.dtype, v.shape, v.exact and s.exact, s.bound) for s, v in zip(own[2:], after, strict=True)]
    made += [(v.dtype, (turns, *v.shape), v.exact, v.bound) for v in piles]
    start = begins or ("" if g.choose(2) else g.constant(np.asarray(True)))
    found = g.add("Loop", [limit or g.constant(np.int64(turns)), start, *states], *made, body=graph)
    if not known:
        _sum_up(g, found[len(states) :], turns)


def _count(g: AnyGraph) -> Value | None:
    """A number of turns that data decides."""
    number = _number(g)
    if number is None:
        return None
    whole = Value("", "int64", (), True, float(_TURNS))
    cast = g.like("Cast", [number], whole, (), to=TYPES["int64"])
    return g.like("Clip", [*cast, g.constant(np.int64(0)), g.constant(np.int64(_TURNS))], whole, ())[0]


def _goes_on(body: AnyGraph, own: Sequence[Value], stop: Value | None) -> Value:
    """Whether another turn follows: as before, or by the number of this one."""
    if stop is None:
        return body.like("Identity", [own[1]], own[1], ())[0]
    count = body.like("Cast", [own[0]], Value("", stop.dtype, (), True, float(_TURNS)), (), to=TYPES[stop.dtype])
    return body.add(body.pick(("Less", "LessOrEqual", "Greater")), [*count, stop], ("bool", (), True, 1.0))[0]


def _sum_up(g: AnyGraph, piles: Sequence[Value], turns: int) -> None:
    """The sums of scan outputs of as many turns as there were, in place of themselves."""
    g.values = [v for v in g.values if v not in piles]
    for v in piles:
        g.add("ReduceSum", [v, g.ints(0)], (v.dtype, v.shape[1:], v.dtype == "int64", v.bound * turns), keepdims=0)


def scan(g: AnyGraph) -> None:
    """Over an axis of one value, or of two that have one size there; forwards or backwards."""
    first = g.value(least=1)
    if g.depth >= _DEEPEST or first is None or not g.small():
        return
    states = _states(g, 2) if g.choose(3) else []
    tensors, axes = [first], [g.choose(len(first.shape))]
    turns = first.shape[axes[0]]
    second = g.value("float32", "int64", least=1)
    if second is not None and g.choose(2) and turns in second.shape:
        tensors.append(second)
        axes.append(second.shape.index(turns))
    slices = [
        Value(f"t{i}", v.dtype, v.shape[:axis] + v.shape[axis + 1 :], v.exact, v.bound)
        for i, (v, axis) in enumerate(zip(tensors, axes, strict=True))
    ]
    carried = _carried(states)
    body = g.body([*carried, *slices], 1 + g.choose(_STEPS))
    own = body.values[: len(carried) + len(slices)]
    after = [_next(body, state) for state in own[: len(carried)]]
    piles = _piled(body, 1 + g.choose(2))
    if not after and not piles:
        return
    places = [g.choose(len(v.shape) + 1) for v in piles]
    made = [(v.dtype, v.shape, v.exact and s.exact, s.bound) for s, v in zip(own, after, strict=False)]
    made += [
        (v.dtype, (*v.shape[:at], turns, *v.shape[at:]), v.exact, v.bound) for v, at in zip(piles, places, strict=True)
    ]
    g.add(
        "Scan", [*states, *tensors], *made, body=_graph(g, body, own, [*after, *piles]),
        num_scan_inputs=len(tensors), scan_input_axes=axes,
        scan_input_directions=[g.choose(2) for _ in tensors], scan_output_axes=places or None,
        scan_output_directions=[g.choose(2) for _ in piles] or None,
    )  # fmt: skip
