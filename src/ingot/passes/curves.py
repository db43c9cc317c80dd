"""Functions of one number that a graph writes out in arithmetic, recognised by their values.

Exporters spell one activation in many ways. Instead of a pattern for each, the expression between
two values is evaluated on a grid and compared with the ops it may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ingot.graph.edit import constant_of, is_op, operand, scalar_of

Curve = npt.NDArray[np.float64]
_Function = Callable[..., Curve]
_DEPTH = 10
GRID: Curve = np.concatenate([np.linspace(-9.0, 9.0, 61), [-0.001, 0.001, 0.37, -0.62]])
"""Where expressions are compared: wide enough for every activation's flat parts."""
_SAME = 2e-6

erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Curve) -> Curve:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


_OPS: Mapping[str, _Function] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Abs": np.abs,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Erf": erf,
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Relu": lambda x: np.maximum(x, 0.0),
    "Max": lambda *xs: np.max(np.broadcast_arrays(*xs), axis=0),
    "Min": lambda *xs: np.min(np.broadcast_arrays(*xs), axis=0),
    "Identity": lambda x: x,
}


def curve(end: ir.Value, start: ir.Value) -> Curve | None:
    """``end`` as a function of ``start`` on the grid; None where it depends on anything else."""
    known: dict[ir.Value, Curve] = {start: GRID}
    with np.errstate(all="ignore"):
        return _evaluate(end, known, _DEPTH)


def is_arithmetic(node: ir.Node) -> bool:
    """Whether expressions are followed through ``node``."""
    return is_op(node, "Clip", "HardSigmoid", *_OPS)


def _evaluate(value: ir.Value, known: dict[ir.Value, Curve], depth: int) -> Curve | None:
    if value in known:
        return known[value]
    number = scalar_of(value)
    node = value.producer()
    if number is not None:
        result = np.full_like(GRID, number)
    elif node is None or node.domain or depth == 0 or constant_of(value) is not None:
        return None
    else:
        operands: list[Curve] = []
        for read in node.inputs:
            part = None if read is None else _evaluate(read, known, depth - 1)
            if part is None and not (read is None and is_op(node, "Clip")):
                return None
            operands.append(np.full_like(GRID, np.nan) if part is None else part)
        found = _apply(node, operands)
        if found is None:
            return None
        result = found
    known[value] = result
    return result


def _apply(node: ir.Node, operands: list[Curve]) -> Curve | None:
    if is_op(node, "Clip"):
        low, high = ((operands[i] if operand(node, i) is not None else None) for i in (1, 2))
        result = operands[0] if low is None else np.maximum(operands[0], low)
        return result if high is None else np.minimum(result, high)
    if is_op(node, "HardSigmoid"):
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        return np.clip(alpha * operands[0] + beta, 0.0, 1.0)
    function = _OPS.get(node.op_type)
    return None if function is None or not operands else np.asarray(function(*operands), np.float64)


def same_curve(a: Curve, b: Curve) -> bool:
    """Whether two curves agree to about float32 precision."""
    return bool(np.all(np.abs(a - b) <= _SAME * np.maximum(1.0, np.abs(b))))
