"""Whether the state of an LSTM, GRU or RNN stays in the range of float16."""

from __future__ import annotations

import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import operand, plain_attribute, shape_of
from ingot.graph.recurrent import R, recurrence_of
from ingot.graph.region import BodyOp

_BOUNDED = frozenset({"HardSigmoid", "ScaledTanh", "Sigmoid", "Softsign", "Tanh"})


def unbounded_state(node: ir.Node) -> str:
    """Why it may not, or why the op has no kernel; empty where nothing speaks against float16.

    The cell of an LSTM may grow by one with each step; what comes of it is bounded.
    """
    shape = shape_of(operand(node, R))
    hidden = shape[-1] if shape else None
    if not isinstance(hidden, int):
        return f"the size of its state is not known, so {node.op_type} runs on the host"
    plain = {name: plain_attribute(attr) for name, attr in node.attributes.items()}
    attrs = tuple((name, value) for name, value in plain.items() if value is not None)
    form = recurrence_of(BodyOp(node.op_type, (), (), attrs), hidden)
    if isinstance(form, No):
        return f"{node.op_type} runs on the host: {form.reason}"
    free = [f.name for functions in form.activations for f in functions if f.name not in _BOUNDED]
    return f"with {free[0]} its state can exceed the range of float16" if free else ""
