"""Optimiser steps (domain ``ai.onnx.preview.training``) as arithmetic: formulas of their ONNX definitions."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor
from ingot.passes.writer import Writer, float_type

_Step = Callable[["_Optimiser", list[ir.Value]], list[ir.Value]]


class _Optimiser:
    """The rate and the step number of one node, and its attributes as constants."""

    def __init__(self, editor: Editor, node: ir.Node, dtype: ir.DataType) -> None:
        self.w, self.node, self.dtype = Writer(editor, node), node, dtype
        rate, step = node.inputs[:2]
        assert rate is not None and step is not None
        self.rate = self.w("Cast", rate, to=dtype)
        self.step = self.w("Cast", step, to=dtype)

    def attribute(self, name: str) -> float:
        return self.node.attributes.get_float(name, 1e-6 if name == "epsilon" else 0.0)

    def number(self, value: float) -> ir.Value:
        return self.w.const(value, self.dtype.numpy())

    def scaled(self, value: ir.Value, factor: float) -> ir.Value:
        return self.w("Mul", value, self.number(factor))

    def regular(self, x: ir.Value, gradient: ir.Value) -> ir.Value:
        """The gradient with the penalty for large weights."""
        return self.w("Add", self.scaled(x, self.attribute("norm_coefficient")), gradient)

    def later(self, value: ir.Value, first: ir.Value) -> ir.Value:
        """``value`` after the first step (number 0), ``first`` in it."""
        return self.w("Where", self.w("Greater", self.step, self.number(0.0)), value, first)


def optimiser(editor: Editor, node: ir.Node) -> Answer:
    """Adagrad, Adam and Momentum: any number of tensors, each with its gradient and its state."""
    step, count = _STEPS[node.op_type]
    tensors = list(node.inputs[2:])
    if len(tensors) % count or any(float_type(v) is None for v in tensors):
        return No("its inputs are not floats, or not as many as it takes", node=node.name or "")
    first = tensors[0]
    assert first is not None and first.dtype is not None
    made = _Optimiser(editor, node, first.dtype)
    groups = len(tensors) // count
    rows = [step(made, [v for v in tensors[i::groups] if v is not None]) for i in range(groups)]
    made.w.done(*(row[position] for position in range(count - 1) for row in rows))
    return YES


def _adagrad(o: _Optimiser, values: list[ir.Value]) -> list[ir.Value]:
    """x - r / (1 + t * decay) * g / (sqrt(h) + epsilon), where h adds up the squares of g."""
    (x, gradient, squares), w = values, o.w
    rate = w("Div", o.rate, w("Add", o.scaled(o.step, o.attribute("decay_factor")), o.number(1.0)))
    g = o.regular(x, gradient)
    h = w("Add", squares, w("Mul", g, g))
    step = w("Div", w("Mul", rate, g), w("Add", w("Sqrt", h), o.number(o.attribute("epsilon"))))
    return [w("Sub", x, step), h]


def _adam(o: _Optimiser, values: list[ir.Value]) -> list[ir.Value]:
    """x - r * v / (sqrt(h) + epsilon), with running means of g and of its square, and r corrected for their start."""
    (x, gradient, mean, squares), w = values, o.w
    alpha = o.node.attributes.get_float("alpha", 0.9)
    beta = o.node.attributes.get_float("beta", 0.999)
    g = o.regular(x, gradient)
    v = w("Add", o.scaled(mean, alpha), o.scaled(g, 1 - alpha))
    h = w("Add", o.scaled(squares, beta), o.scaled(w("Mul", g, g), 1 - beta))
    powers = [w("Sub", o.number(1.0), w("Pow", o.number(base), o.step)) for base in (alpha, beta)]
    rate = o.later(w("Div", w("Mul", o.rate, w("Sqrt", powers[1])), powers[0]), o.rate)
    step = w("Div", w("Mul", rate, v), w("Add", w("Sqrt", h), o.number(o.attribute("epsilon"))))
    return [o.scaled(w("Sub", x, step), 1 - o.attribute("norm_coefficient_post")), v, h]


def _momentum(o: _Optimiser, values: list[ir.Value]) -> list[ir.Value]:
    """x - r * v, where v = alpha * v + beta * g; Nesterov's form looks one step ahead."""
    (x, gradient, velocity), w = values, o.w
    alpha, beta = o.attribute("alpha"), o.attribute("beta")
    g = o.regular(x, gradient)
    v = w("Add", o.scaled(velocity, alpha), w("Mul", o.later(o.number(beta), o.number(1.0)), g))
    nesterov = o.node.attributes.get_string("mode", "standard") == "nesterov"
    step = w("Add", g, o.scaled(v, alpha)) if nesterov else v
    return [w("Sub", x, w("Mul", o.rate, step)), v]


_STEPS: dict[str, tuple[_Step, int]] = {"Adagrad": (_adagrad, 3), "Adam": (_adam, 4), "Momentum": (_momentum, 3)}
"""By op: one tensor's step, and how many inputs a tensor has; all but its gradient come out anew."""
