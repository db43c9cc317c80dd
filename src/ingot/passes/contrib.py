"""Ops that ONNX Runtime's optimiser writes (domain ``com.microsoft``) as standard ops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Attribute, Editor, is_read, kept, operand, rank_of, shape_of
from ingot.passes import contrib_attention, contrib_weights
from ingot.passes.rules import Rule, apply_rules

_MICROSOFT = "com.microsoft"
_ACTIVATIONS = {"Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}


def standardise(model: ir.Model) -> list[str]:
    """Replaces the ops of the table; gives how many of each, and why others stay."""
    return apply_rules(model, _rule_of, "as standard ops")


def _rule_of(node: ir.Node) -> Rule | None:
    return (_RULES if node.domain == _MICROSOFT else _ANY_DOMAIN).get(node.op_type)


def _read(node: ir.Node, position: int) -> bool:
    """Whether anybody uses output ``position``."""
    return position < len(node.outputs) and is_read(node.outputs[position])


def _inputs(node: ir.Node, count: int) -> list[ir.Value | None]:
    return [operand(node, i) for i in range(count)]


def _one(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _gelu(editor: Editor, node: ir.Node) -> Answer:
    """Gelu, BiasGelu (exact) and FastGelu (tanh), the latter two with an addend."""
    x, bias = _inputs(node, 2)
    y = node.outputs[0]
    value = _one(node) if bias is None else editor.op("Add", [x, bias], before=node, like=y)
    attributes: dict[str, Attribute] = {"approximate": "tanh"} if node.op_type == "FastGelu" else {}
    editor.substitute(node, editor.op("Gelu", [value], attributes, before=node, like=y))
    return YES


def _quick_gelu(editor: Editor, node: ir.Node) -> Answer:
    x, y = _one(node), node.outputs[0]
    alpha = node.attributes.get_float("alpha", 1.702)
    dtype = np.dtype((x.dtype or ir.DataType.FLOAT).numpy())
    factor = editor.constant(np.asarray(alpha, dtype), f"{node.name}/alpha")
    gate = editor.op("Sigmoid", [editor.op("Mul", [x, factor], before=node, like=y)], before=node, like=y)
    editor.substitute(node, editor.op("Mul", [x, gate], before=node, like=y))
    return YES


def _rms(editor: Editor, node: ir.Node) -> Answer:
    """SimplifiedLayerNormalization, which exporters also write in the default domain."""
    if _read(node, 1):
        return No("its deviation is read", node=node.name or "")
    attributes: dict[str, Attribute] = {
        "axis": node.attributes.get_int("axis", -1),
        "epsilon": node.attributes.get_float("epsilon", 1e-5),
    }
    editor.needs_opset(23)
    y = editor.op("RMSNormalization", _inputs(node, 2), attributes, before=node, like=node.outputs[0])
    editor.substitute(node, y)
    return YES


def _skip_norm(editor: Editor, node: ir.Node) -> Answer:
    """SkipLayerNormalization(x, skip, gamma, beta, bias), and the simplified form without beta."""
    if _read(node, 1) or _read(node, 2):
        return No("its mean or deviation is read", node=node.name or "")
    simple = node.op_type.startswith("SkipSimplified")
    x, skip, gamma, *rest = _inputs(node, 5)
    beta, bias = (None, rest[0]) if simple else (rest[0], rest[1])
    if shape_of(x) != shape_of(skip):
        return No("its operands have different shapes", node=node.name or "")
    y = node.outputs[0]
    total = editor.op("Add", [x, skip], before=node, like=y)
    if bias is not None:
        total = editor.op("Add", [total, bias], before=node, like=y)
    attributes: dict[str, Attribute] = {"axis": -1, "epsilon": node.attributes.get_float("epsilon", 1e-12)}
    if simple:
        editor.needs_opset(23)
        normal = editor.op("RMSNormalization", [total, gamma], attributes, before=node, like=y)
    else:
        inputs = [total, gamma, *([] if beta is None else [beta])]
        normal = editor.op("LayerNormalization", inputs, attributes, before=node, like=y)
    if _read(node, 3):
        editor.replace(node.outputs[3], total)
    editor.substitute(node, normal)
    return YES


def _fused_matmul(editor: Editor, node: ir.Node) -> Answer:
    """alpha * (A or its transpose) @ (B or its transpose)."""
    attributes = node.attributes
    if attributes.get_int("transBatchA", 0) or attributes.get_int("transBatchB", 0):
        return No("its batch axes are transposed", node=node.name or "")
    operands: list[ir.Value] = []
    for value, name in zip(_inputs(node, 2), ("transA", "transB"), strict=True):
        rank = rank_of(value)
        if value is None or (attributes.get_int(name, 0) != 0 and (rank is None or rank < 2)):
            return No("the rank of an operand is unknown", node=node.name or "")
        if attributes.get_int(name, 0):
            shape = shape_of(value)
            assert shape is not None and rank is not None
            turned = editor.value(f"{value.name}/turned", value.dtype, (*shape[:-2], shape[-1], shape[-2]))
            perm = [*range(rank - 2), rank - 1, rank - 2]
            editor.ops("Transpose", [value], {"perm": perm}, [turned], before=node)
            value = turned
        operands.append(value)
    y = node.outputs[0]
    result = editor.op("MatMul", operands, before=node, like=y)
    alpha = attributes.get_float("alpha", 1.0)
    if alpha != 1.0:
        dtype = np.dtype((y.dtype or operands[0].dtype or ir.DataType.FLOAT).numpy())
        result = editor.op(
            "Mul", [result, editor.constant(np.asarray(alpha, dtype), f"{node.name}/alpha")], before=node, like=y
        )
    editor.substitute(node, result)
    return YES


def _fused_conv(editor: Editor, node: ir.Node) -> Answer:
    """Conv, then the sum with a fourth operand, then an activation."""
    return _with_activation(editor, node, "Conv", node.attributes.get_floats("activation_params", ()))


def _fused_gemm(editor: Editor, node: ir.Node) -> Answer:
    params = [
        node.attributes.get_float(f"activation_{name}", 0.0)
        for name in _ACTIVATIONS.get(node.attributes.get_string("activation", ""), ())
    ]
    return _with_activation(editor, node, "Gemm", params)


def _with_activation(editor: Editor, node: ir.Node, op_type: str, params: Sequence[float]) -> Answer:
    activation = node.attributes.get_string("activation", "")
    known = activation in _ACTIVATIONS or (activation == "Clip" and len(params) == 2)
    if (activation and not known) or (op_type == "Gemm" and activation == "Clip"):
        return No(f"activation {activation} is not known", node=node.name or "")
    y = node.outputs[0]
    others = kept(node, *(name for name in node.attributes if name.startswith("activation")))
    value = editor.op(op_type, node.inputs[:3], others, before=node, like=y)
    addend = operand(node, 3)
    if addend is not None:
        value = editor.op("Add", [value, addend], before=node, like=y)
    if activation == "Clip":
        dtype = np.dtype((y.dtype or ir.DataType.FLOAT).numpy())
        limits = [editor.constant(np.asarray(p, dtype), f"{node.name}/limit") for p in params]
        value = editor.op("Clip", [value, *limits], before=node, like=y)
    elif activation:
        names = dict(zip(_ACTIVATIONS[activation], params, strict=False))
        value = editor.op(activation, [value], names, before=node, like=y)
    editor.substitute(node, value)
    return YES


_ANY_DOMAIN: dict[str, Rule] = {"SimplifiedLayerNormalization": _rms}
_RULES: dict[str, Rule] = {
    "SimplifiedLayerNormalization": _rms,
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "Gelu": _gelu,
    "FastGelu": _gelu,
    "BiasGelu": _gelu,
    "QuickGelu": _quick_gelu,
    "FusedMatMul": _fused_matmul,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "GroupQueryAttention": contrib_attention.grouped,
    "MatMulNBits": contrib_weights.matmul_nbits,
    "MultiHeadAttention": contrib_attention.multi_head,
    "RotaryEmbedding": contrib_attention.rotary,
}
