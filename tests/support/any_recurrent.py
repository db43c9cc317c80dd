"""LSTM, GRU and RNN in random graphs."""

from __future__ import annotations

import math

import numpy as np
from support.any_graphs import AnyGraph, Made, Value

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(g: AnyGraph) -> None:
    """A layer over a value of steps, batch and features; some of its operands and results are absent."""
    v = g.value(least=2)
    if v is not None and len(v.shape) != 3:
        shape = (v.shape[0], math.prod(v.shape[1:-1]), v.shape[-1])
        v = next(iter(g.like("Reshape", [v, g.ints(*shape)], v, shape)), None)
    if v is None or v.bound * v.shape[-1] > 512 or v.shape[0] > 8:
        return
    op = g.pick(tuple(_GATES))
    hidden, direction = g.pick((1, 2, 4, 8)), g.pick(("forward", "forward", "reverse", "bidirectional"))
    both, (steps, batch, features), gates = 1 + (direction == "bidirectional"), v.shape, _GATES[op]
    bias = g.weight(both, 2 * gates * hidden) if g.choose(2) else ""
    lengths = ""
    if g.choose(3) == 0:
        lengths = g.constant(np.array([1 + g.choose(steps) for _ in range(batch)], np.int32))
    state = (both, batch, hidden)
    operands: list[Value | str] = [v, g.weight(both, gates * hidden, features), g.weight(both, gates * hidden, hidden)]
    operands += [bias, lengths, _state(g, state)]
    if op == "LSTM":
        operands.append(_state(g, state))
        if g.choose(4) == 0:
            operands.append(g.weight(both, 3 * hidden))
    made: list[Made | None] = [("float32", (steps, both, batch, hidden), False, 16.0), ("float32", state, False, 16.0)]
    if op == "LSTM":
        made.append(("float32", state, False, 16.0))
    absent = g.choose(3)
    if absent == 1:
        made[0] = None
    elif absent == 2:
        del made[1:]
    g.add(
        op, operands, *made, hidden_size=hidden, direction=direction,
        linear_before_reset=g.choose(2) if op == "GRU" else None,
        clip=1.5 if g.choose(6) == 0 else None,
    )  # fmt: skip


def _state(g: AnyGraph, shape: tuple[int, ...]) -> Value | str:
    """An initial state: absent, constant, or a value of the graph that happens to fit."""
    kind = g.choose(3)
    fit = [v for v in g.values if v.dtype == "float32" and v.shape == shape and v.bound <= 16]
    if kind == 2 and fit:
        return g.pick(fit)
    return g.weight(*shape) if kind else ""
