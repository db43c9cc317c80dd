"""The body of a recurrent Region as ops that ONNX Runtime has: the op itself, whose W is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ingot.errors import No
from ingot.graph.recurrent import BATCH_FIRST, C0, H0, LENGTHS, SWAPPED, W, X, recurrence_of
from ingot.graph.region import BodyOp, Region

_OWN = ("direction", "activations", "activation_alpha", "activation_beta", "clip", "input_forget",
        "linear_before_reset")  # fmt: skip


def recurrent_nodes(
    region: Region, op: BodyOp, inputs: Sequence[str], outputs: Sequence[str], prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from ``inputs`` to ``outputs``, the names of the op's operands and results in the model.

    ONNX Runtime has no batch in front: transposes stand around the op.
    """
    hidden = region.shape(op.inputs[2])[-1]
    assert isinstance(hidden, int), hidden
    form = recurrence_of(op, hidden)
    assert not isinstance(form, No), form
    columns = form.columns
    sizes = {"square": (columns, columns), "whole": (form.directions, form.gates * hidden, columns)}
    initializers = [numpy_helper.from_array(np.array(v, np.int64), f"{prefix}/{k}") for k, v in sizes.items()]
    nodes = [
        helper.make_node("ConstantOfShape", [f"{prefix}/square"], [f"{prefix}/zeros"]),
        helper.make_node("EyeLike", [f"{prefix}/zeros"], [f"{prefix}/eye"]),
        helper.make_node("Reshape", [f"{prefix}/eye", f"{prefix}/whole"], [f"{prefix}/W"]),
    ]
    given, made, after = list(inputs), list(outputs), []
    given[W] = f"{prefix}/W"
    if form.batch_first:
        for position in (X, H0, C0):
            if position < len(given) and given[position]:
                name = f"{prefix}/steps{position}"
                nodes.append(helper.make_node("Transpose", [given[position]], [name], perm=SWAPPED))
                given[position] = name
        for position, name in enumerate(made):
            if name:
                made[position] = f"{prefix}/made{position}"
                perm = SWAPPED if position else BATCH_FIRST
                after.append(helper.make_node("Transpose", [made[position]], [name], perm=perm))
    if len(given) > LENGTHS and not any(given[LENGTHS:]):
        del given[LENGTHS:]
    attrs: dict[str, Any] = {key: value for key, value in op.attrs if key in _OWN}
    attrs["hidden_size"] = hidden
    return [*nodes, helper.make_node(op.op, given, made, **attrs), *after], initializers
