"""Moves of quantized tensors are made on what is stored: dequantization goes below them, quantization above.

A move (transpose, slice, concat, ...) or a largest-of commutes with a scale that is one for the whole tensor, so
``Dequantize -> move`` is ``move -> Dequantize``, and ``move -> Quantize`` is ``Quantize -> move``. Where the two then
meet with equal scales they undo each other, exactly. The moves run on a quarter of the bytes, and what is left of
quantization stands beside arithmetic, whose kernels do it for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.graph.edit import Attribute, Editor, constant_of, is_op, kept, maker, operand, scalar_of, shape_of
from ingot.passes.rules import repeat
from ingot.passes.stem import IMAGE_CHANNELS

_MOVES = frozenset({
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Expand", "Tile", "Gather", "Concat",
    "DepthToSpace", "SpaceToDepth", "MaxPool", "Resize", "Pad",
})  # fmt: skip
_BYTES = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_FLOAT8 = ir.DataType.FLOAT8E4M3FN
_ORDERING = frozenset({"MaxPool", "Resize", "Pad"})
"""Moves that ONNX defines for bytes, but not for FP8."""
_ROUNDS = 64


@dataclass(frozen=True)
class Step:
    """One scale for a whole tensor: what a QuantizeLinear divides by, and a DequantizeLinear multiplies with."""

    scale: float
    zero: float
    dtype: ir.DataType
    """Of the stored tensor."""


def move_quantized(model: ir.Model) -> list[str]:
    """Makes moves on stored tensors and removes round trips; gives how many of each."""
    editor = Editor(model)
    gone, sunk, raised = repeat(editor, (_cancel, _sink, _raise), _ROUNDS)
    moved = sunk + raised
    notes = [f"{gone} round trips through floats removed"] if gone else []
    return notes + ([f"{moved} moves made on stored tensors"] if moved else [])


def step_of(node: ir.Node | None) -> Step | None:
    """The scale of a QuantizeLinear or DequantizeLinear over a whole tensor; None where it has no or no known one."""
    if node is None or not is_op(node, "QuantizeLinear", "DequantizeLinear"):
        return None
    scale, stored = constant_of(operand(node, 1)), node.outputs[0] if is_op(node, "QuantizeLinear") else node.inputs[0]
    if scale is None or scale.size != 1 or stored is None or stored.dtype is None:
        return None
    zero = constant_of(operand(node, 2)) if operand(node, 2) is not None else np.zeros(())
    if zero is None or zero.size != 1 or scale.dtype != np.float32:
        return None
    return Step(float(scale.reshape(())), float(zero.astype(np.float32).reshape(())), stored.dtype)


def _carries(node: ir.Node, dtype: ir.DataType) -> bool:
    """Whether the node moves elements of a stored type as they are."""
    if node.domain or node.op_type not in _MOVES or (dtype not in _BYTES and dtype != _FLOAT8):
        return False
    if node.op_type in _ORDERING and dtype == _FLOAT8:
        return False
    if is_op(node, "MaxPool"):
        return len(node.outputs) == 1
    if is_op(node, "Pad"):
        return operand(node, 2) is None or scalar_of(operand(node, 2)) == 0.0
    return not is_op(node, "Resize") or node.attributes.get_string("mode", "nearest") == "nearest"


def _data(node: ir.Node) -> list[int]:
    """Positions of the operands that are moved."""
    return list(range(len(node.inputs))) if is_op(node, "Concat") else [0]


def _fill(editor: Editor, node: ir.Node, inputs: list[ir.Value | None], step: Step) -> None:
    """The zero that a Pad writes becomes the one of stored numbers."""
    if is_op(node, "Pad") and node.attributes.get_string("mode", "constant") == "constant":
        zero = editor.constant(np.asarray(step.zero, step.dtype.numpy()), f"{node.name}/fill")
        inputs[2:3] = [zero]


def _cancel(editor: Editor, node: ir.Node) -> bool:
    """Quantization of what was dequantized by the same scale."""
    inner = maker(operand(node, 0), "DequantizeLinear") if is_op(node, "QuantizeLinear") else None
    step = step_of(inner)
    if inner is None or step is None or step != step_of(node) or inner.inputs[0] is None:
        return False
    editor.substitute(node, inner.inputs[0])
    return True


def _sink(editor: Editor, node: ir.Node) -> bool:
    """A move of dequantized tensors becomes a dequantized move."""
    makers = [maker(operand(node, i), "DequantizeLinear") for i in _data(node)] if node.op_type in _MOVES else []
    first = makers[0] if makers else None
    if first is None or any(y.shape is None for y in node.outputs):
        return False
    if constant_of(first.inputs[0]) is not None:
        return _turn_weight(editor, node, first)
    step = step_of(first)
    if is_op(node, "MaxPool") and _pool_first(editor, node, first):
        return True
    if step is None or not _carries(node, step.dtype) or any(step_of(m) != step for m in makers):
        return False
    inputs = list(node.inputs)
    for position, made in zip(_data(node), makers, strict=True):
        assert made is not None
        inputs[position] = made.inputs[0]
    _fill(editor, node, inputs, step)
    _rewrite(editor, node, inputs, step.dtype, first)
    return True


def _pool_first(editor: Editor, pool: ir.Node, dequantize: ir.Node) -> bool:
    """Quantization between a convolution of an image and a pooling goes below the pooling: one kernel does both."""
    quantize = maker(dequantize.inputs[0], "QuantizeLinear")
    x = operand(quantize, 0) if quantize is not None else None
    if quantize is None or x is None or len(pool.outputs) != 1 or step_of(quantize) is None:
        return False
    if step_of(quantize) != step_of(dequantize) or any(len(v.uses()) != 1 for v in (x, *quantize.outputs)):
        return False
    convolution = x.producer()
    while convolution is not None and is_op(convolution, "Relu", "Clip", "LeakyRelu"):
        convolution = None if convolution.inputs[0] is None else convolution.inputs[0].producer()
    weight = shape_of(operand(convolution, 1)) if convolution is not None and is_op(convolution, "Conv") else None
    if weight is None or weight[1] not in range(1, IMAGE_CHANNELS + 1) or len(dequantize.outputs[0].uses()) != 1:
        return False
    y = pool.outputs[0]
    pooled = editor.op("MaxPool", [x], kept(pool), before=pool, like=y)
    stored = editor.value(f"{y.name}/stored", quantize.outputs[0].dtype, shape_of(y))
    editor.ops("QuantizeLinear", [pooled, *quantize.inputs[1:]], kept(quantize), [stored], before=pool)
    editor.substitute(
        pool,
        editor.op("DequantizeLinear", [stored, *dequantize.inputs[1:]], kept(dequantize), before=pool, like=y),
    )
    return True


def _rewrite(
    editor: Editor, node: ir.Node, inputs: list[ir.Value | None], dtype: ir.DataType, dequantize: ir.Node
) -> None:
    """The move on stored tensors, and a dequantization behind each of its outputs."""
    attributes = kept(node)
    stored = [editor.value(f"{y.name}/stored", dtype, shape_of(y)) for y in node.outputs]
    editor.ops(node.op_type, inputs, attributes, stored, before=node)
    for old, new in zip(node.outputs, stored, strict=True):
        real = editor.op("DequantizeLinear", [new, *dequantize.inputs[1:]], before=node, like=old)
        editor.replace(old, real)
    editor.sweep([node])


def _turn_weight(editor: Editor, node: ir.Node, dequantize: ir.Node) -> bool:
    """A transposed weight is stored transposed."""
    array, scale = constant_of(dequantize.inputs[0]), constant_of(operand(dequantize, 1))
    if not is_op(node, "Transpose") or array is None or scale is None or "block_size" in dequantize.attributes:
        return False
    perm = [int(p) for p in node.attributes.get_ints("perm", range(array.ndim)[::-1])]
    axis = dequantize.attributes.get_int("axis", 1)
    attributes: dict[str, Attribute] = {} if scale.size == 1 else {"axis": perm.index(axis % array.ndim)}
    turned = editor.constant(array.transpose(perm), f"{node.outputs[0].name}/stored")
    inputs = [turned, *dequantize.inputs[1:]]
    editor.substitute(node, editor.op("DequantizeLinear", inputs, attributes, before=node, like=node.outputs[0]))
    return True


def _raise(editor: Editor, node: ir.Node) -> bool:
    """Quantization of a moved tensor becomes a move of quantized ones."""
    step = step_of(node) if is_op(node, "QuantizeLinear") else None
    source = operand(node, 0)
    move = None if source is None else source.producer()
    if step is None or move is None or not _carries(move, step.dtype) or len(move.outputs) != 1 or source is None:
        return False
    if _leaves_attention(source):
        return False  # whose kernel quantizes nothing, and whose result is moved for nothing
    if is_op(move, "MaxPool"):
        return False  # a pooling quantizes its results for nothing, and a stem's kernel pools floats
    if source.is_graph_output() or len(source.uses()) != 1 or source.shape is None:
        return False
    inputs = list(move.inputs)
    for position in _data(move):
        value = inputs[position]
        if value is None or value.shape is None:
            return False
    for position in _data(move):
        value = inputs[position]
        assert value is not None
        stored = editor.value(f"{value.name}/quantized", step.dtype, shape_of(value))
        editor.ops("QuantizeLinear", [value, *node.inputs[1:]], kept(node), [stored], before=move)
        inputs[position] = stored
    _fill(editor, move, inputs, step)
    result = editor.op(move.op_type, inputs, kept(move), before=node, like=node.outputs[0])
    editor.substitute(node, result)
    return True


def _leaves_attention(value: ir.Value | None) -> bool:
    """Whether moves lead from a product with the result of a softmax to ``value``."""
    node = None if value is None else value.producer()
    while node is not None and not node.domain and node.op_type in _MOVES:
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if is_op(node, "Attention"):
        return True
    return node is not None and is_op(node, "MatMul") and maker(operand(node, 0), "Softmax") is not None
