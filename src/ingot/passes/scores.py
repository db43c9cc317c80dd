"""The scores of an attention, read backwards from its softmax, and the product that follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import Editor, constant_of, is_op, maker, operand, rank_of, readers, scalar_of, sole_reader

_DEPTH = 8
FORBIDDEN = -1e4
"""A mask constant at or below this means "not at all": no score outweighs it."""


@dataclass(frozen=True)
class Choice:
    """A mask written as a choice between score and constant: ``score if keep else low``."""

    keep: ir.Value
    low: ir.Value
    inverted: bool
    """The condition says where the constant is taken."""


@dataclass(frozen=True)
class Scores:
    """softmax(scale * q @ kt + masks)."""

    product: ir.Node
    q: ir.Value
    kt: ir.Value
    scale: float
    masks: tuple[ir.Value | Choice, ...]
    """In the order in which they are applied."""


def following(softmax: ir.Node) -> ir.Node | None:
    """The product of the softmax's result with values; None where something else reads it."""
    value = softmax.outputs[0]
    for _ in range(_DEPTH):
        node = sole_reader(value) or _nan_guard(value)
        if is_op(node, "MatMul") and node is not None:
            return node if node.inputs[0] is value and node.inputs[1] is not value else None
        if node is None or not is_op(node, "Cast", "Where"):
            return None
        value = node.outputs[0]
    return None


def _nan_guard(value: ir.Value) -> ir.Node | None:
    """Where(IsNaN(x), 0, x): exporters write it for rows that attend to nothing; the kernel gives 0 there."""
    nodes = readers(value)
    tests = [node for node in nodes if is_op(node, "IsNaN")]
    choice = next((node for node in nodes if is_op(node, "Where")), None)
    if len(nodes) != 2 or len(tests) != 1 or choice is None or sole_reader(tests[0].outputs[0]) is not choice:
        return None
    right = (
        choice.inputs[0] is tests[0].outputs[0] and scalar_of(operand(choice, 1)) == 0.0 and choice.inputs[2] is value
    )
    return choice if right else None


def scores_before(softmax: ir.Node) -> Scores | No:
    """How the softmax's operand was made, or why it is no attention's scores."""
    name = softmax.name or ""
    value, scale, masks = softmax.inputs[0], 1.0, []  # type: ir.Value | None, float, list[ir.Value | Choice]
    for _ in range(_DEPTH):
        if value is None or sole_reader(value) is None:
            return No("its scores are read by others too", node=name)
        node = value.producer()
        if is_op(node, "MatMul") and node is not None:
            return _from_product(node, scale, masks, name)
        factor, inner = scaled(value)
        if inner is not None:
            scale, value = scale * factor, inner
            continue
        step = _masked(node) if node is not None else None
        if step is None:
            return No(f"its scores come from {node.op_type if node else 'an input'}, not from a product", node=name)
        inner, mask = step
        if mask is not None:
            if scale != 1.0:
                return No("its mask is scaled with the scores", node=name)
            masks.append(mask)
        value = inner
    return No("its scores pass through too many ops", node=name)


def _from_product(product: ir.Node, scale: float, masks: list[ir.Value | Choice], name: str) -> Scores | No:
    q, kt = product.inputs[:2]
    assert q is not None and kt is not None
    if constant_of(kt) is not None or constant_of(q) is not None:
        return No("its scores are a product with constant weights", node=name)
    first, q = unscaled(q)
    second, kt = unscaled(kt)
    return Scores(product, q, kt, scale * first * second, tuple(reversed(masks)))


def scaled(value: ir.Value) -> tuple[float, ir.Value | None]:
    """``value`` as a number times another value; None for the other where it is something else."""
    node = maker(value, "Mul", "Div")
    if node is None:
        return 1.0, None
    for position in (1, 0) if node.op_type == "Mul" else (1,):
        number = scalar_of(operand(node, position))
        rest = operand(node, 1 - position)
        if number and rest is not None and rank_of(rest) is not None and rank_of(rest) == rank_of(value):
            return (number if node.op_type == "Mul" else 1.0 / number), rest
    return 1.0, None


def unscaled(value: ir.Value) -> tuple[float, ir.Value]:
    """Factor and rest of a value that was multiplied by numbers."""
    total = 1.0
    for _ in range(_DEPTH):
        factor, rest = scaled(value)
        if rest is None:
            break
        total, value = total * factor, rest
    return total, value


def _masked(node: ir.Node) -> tuple[ir.Value, ir.Value | Choice | None] | None:
    """One masking step: the scores inside it, and the mask."""
    if is_op(node, "Cast"):
        source, result = node.inputs[0], node.outputs[0]
        floats = source is not None and all(
            v.dtype is not None and v.dtype.is_floating_point() for v in (source, result)
        )
        return (source, None) if source is not None and floats else None
    if is_op(node, "Add"):
        for inner, mask in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            if inner is not None and mask is not None and _reaches_product(inner, _DEPTH):
                return inner, mask
    if is_op(node, "Where"):
        keep, yes, no = node.inputs[:3]
        assert keep is not None and yes is not None and no is not None
        if _forbids(no) and _reaches_product(yes, _DEPTH):
            return yes, Choice(keep, no, inverted=False)
        if _forbids(yes) and _reaches_product(no, _DEPTH):
            return no, Choice(keep, yes, inverted=True)
    return None


def _forbids(value: ir.Value) -> bool:
    number = scalar_of(value)
    return number is not None and number <= FORBIDDEN


def _reaches_product(value: ir.Value, depth: int) -> bool:
    """Whether a product of two computed tensors is behind ``value``, through arithmetic alone."""
    node = value.producer()
    if node is None or depth == 0:
        return False
    if is_op(node, "MatMul"):
        return all(v is not None and constant_of(v) is None for v in node.inputs[:2])
    if not is_op(node, "Add", "Mul", "Div", "Cast", "Where"):
        return False
    return any(v is not None and _reaches_product(v, depth - 1) for v in node.inputs)


def addend(editor: Editor, mask: ir.Value | Choice, before: ir.Node) -> ir.Value:
    """The mask as something to add: a choice becomes 0 where the score stays, and the constant elsewhere.

    Adding a constant of the size that masks have leaves nothing of the score in float32 either.
    """
    if not isinstance(mask, Choice):
        return mask
    zero = editor.constant(np.zeros((), _numpy(mask.low)), f"{mask.keep.name}/zero")
    low = editor.constant(np.asarray(constant_of(mask.low)).reshape(()), f"{mask.keep.name}/low")
    pair = [low, zero] if mask.inverted else [zero, low]
    result = editor.op("Where", [mask.keep, *pair], before=before, like=mask.keep, hint=f"{mask.keep.name}/addend")
    result.type = ir.TensorType(mask.low.dtype or ir.DataType.FLOAT)
    return result


def _numpy(value: ir.Value) -> np.dtype[np.generic]:
    return np.dtype((value.dtype or ir.DataType.FLOAT).numpy())
