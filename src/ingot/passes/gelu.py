"""Activations written out in arithmetic become the op they are.

Only where the op is cheaper, or where an intermediate would outgrow float16: ``x * Sigmoid(x)`` stays,
since arithmetic is fused anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Attribute, Editor, constant_of, is_op, rank_of, readers, same_shape
from ingot.passes.curves import GRID, Curve, curve, erf, is_arithmetic, same_curve

_CORES = ("Erf", "Tanh", "Clip", "HardSigmoid", "Log", "Min")
"""The op in the middle of each activation, from which it is looked for."""
_DOWN, _UP = 6, 5


def _candidates() -> tuple[tuple[str, dict[str, Attribute], Curve], ...]:
    x = GRID
    softplus = np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0.0)
    inner = np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)
    return (
        ("Gelu", {}, 0.5 * x * (1.0 + erf(x * np.sqrt(0.5)))),
        ("Gelu", {"approximate": "tanh"}, 0.5 * x * (1.0 + np.tanh(inner))),
        ("HardSwish", {}, x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
        ("HardSigmoid", {"alpha": 1.0 / 6.0, "beta": 0.5}, np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
        ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}, np.clip(x * 0.2 + 0.5, 0.0, 1.0)),
        ("Mish", {}, x * np.tanh(softplus)),
        ("Softplus", {}, softplus),
    )


_TABLE = _candidates()


def fuse_activations(model: ir.Model) -> list[str]:
    """Replaces every written-out activation; gives how many of each."""
    editor = Editor(model)
    counts: dict[str, int] = {}
    for core in list(model.graph):
        if core.graph is not model.graph or not is_op(core, *_CORES):
            continue
        found = _activation(core)
        if found is None:
            continue
        op_type, attributes, start, end = found
        node = end.producer()
        assert node is not None
        editor.substitute(node, editor.op(op_type, [start], attributes, before=node, like=end))
        counts[op_type] = counts.get(op_type, 0) + 1
    return [f"{count} {op_type} recognised" for op_type, count in sorted(counts.items())]


def _activation(core: ir.Node) -> tuple[str, dict[str, Attribute], ir.Value, ir.Value] | None:
    """The largest activation around ``core``: op, attributes, operand and result."""
    ends = list(_results(core.outputs[0], _UP))
    for end in reversed(ends):
        for start in _operands(core, _DOWN):
            shape = curve(end, start) if same_shape(start, end) and rank_of(start) is not None else None
            if shape is None:
                continue
            for op_type, attributes, wanted in _TABLE:
                if same_curve(shape, wanted) and not (is_op(end.producer(), op_type) and end is core.outputs[0]):
                    return op_type, attributes, start, end
    return None


def _results(value: ir.Value, depth: int) -> Iterator[ir.Value]:
    """``value`` and what arithmetic makes of it, nearest first."""
    level = [value]
    seen: set[ir.Value] = set()
    for _ in range(depth):
        following: list[ir.Value] = []
        for made in level:
            if made not in seen:
                seen.add(made)
                yield made
                following.extend(
                    node.outputs[0]
                    for node in readers(made)
                    if is_op(node, "Add", "Mul", "Div", "Clip", "Min", "Max", "Relu", "Sub")
                    and node.graph is value.graph
                )
        level = following


def _operands(core: ir.Node, depth: int) -> Iterator[ir.Value]:
    """Computed values below ``core``, nearest first."""
    level = [v for v in core.inputs if v is not None and constant_of(v) is None]
    seen: set[ir.Value] = set()
    for _ in range(depth):
        following: list[ir.Value] = []
        for value in level:
            if value not in seen:
                seen.add(value)
                yield value
                node = value.producer()
                if node is not None and is_arithmetic(node):
                    following.extend(v for v in node.inputs if v is not None and constant_of(v) is None)
        level = following
