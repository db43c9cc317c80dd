"""Which inputs and outputs of an op may be float16, by the type variables of its ONNX schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
import onnx_ir as ir

from ingot.graph.op_table import PARAMETERS

_VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic
_VALUES = 2
"""Attention's operand V, whose type ONNX leaves open."""
_TYPED_BY_ATTRIBUTE = frozenset({"Cast", "ConstantOfShape"})
"""Ops whose result type is an attribute that autocast rewrites."""


@dataclass(frozen=True)
class HalfForm:
    """Positions by what becomes of them when the op computes in float16."""

    inputs: frozenset[int]
    """Must be float16: they share a type with other operands or with the result."""
    free: frozenset[int]
    """May be float16 or float32, whatever the rest is."""
    outputs: frozenset[int]
    """Become float16."""


def half_form(node: ir.Node, opset: int) -> HalfForm | None:
    """The float16 form of a node of the default domain; None when the op has none."""
    return _form(node.op_type, opset, len(node.inputs), len(node.outputs))


@lru_cache(maxsize=4096)
def _form(op_type: str, opset: int, inputs: int, outputs: int) -> HalfForm | None:
    if op_type == "BitCast":
        return None  # its bits are another number in float16
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    given = [_formal(schema.inputs, i) for i in range(inputs)]
    made = [_formal(schema.outputs, i) for i in range(outputs)]

    def floats(variable: str) -> bool:
        return {"tensor(float)", "tensor(float16)"} <= allowed.get(variable, set())

    parameters = PARAMETERS.get(op_type, ())
    data = {v for i, v in enumerate(given) if i not in parameters} | set(made)
    spread = {v: [*given, *made].count(v) for v in data}
    read = set(given)
    wanted = frozenset(i for i, v in enumerate(given) if floats(v) and v in data and spread[v] > 1)
    free = frozenset(i for i, v in enumerate(given) if floats(v) and v in data and spread[v] == 1)
    if op_type == "Attention":  # kernels want values in the type of queries and keys
        wanted, free = wanted | (free & {_VALUES}), free - {_VALUES}
    results = frozenset(i for i, v in enumerate(made) if floats(v) and (v in read or op_type in _TYPED_BY_ATTRIBUTE))
    return HalfForm(wanted, free, results) if wanted or free or results else None


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], position: int) -> str:
    if position < len(formals):
        return str(formals[position].type_str)
    last = formals[-1] if formals else None
    return str(last.type_str) if last is not None and last.option == _VARIADIC else ""
