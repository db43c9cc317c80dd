"""Batch normalisation and per-channel arithmetic go into the weights before them, or become Mul and Add."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.errors import Answer, No
from ingot.graph.edit import Editor, constant_of, is_op, is_read, maker, operand, rank_of, sole_reader
from ingot.passes.affine import Affine, Doubles, absorb, channels_of, per_channel

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def fold_batch_norm(model: ir.Model) -> list[str]:
    """Rewrites every inference BatchNormalization, and what scales or shifts channels after a product."""
    editor = Editor(model)
    counts = {"weights": 0, "arithmetic": 0}
    for node in list(model.graph):
        if node.graph is not model.graph:
            continue
        if is_op(node, "BatchNormalization"):
            refusal = _trains(node)
            if refusal is not None:
                editor.note(str(refusal))
                continue
            folded = bool(_into_weights(editor, node, _statistics(node)))
            if not folded:
                _decompose(editor, node)
            counts["weights" if folded else "arithmetic"] += 1
        elif is_op(node, "Mul", "Div", "Add", "Sub"):
            _absorb_arithmetic(editor, node)
    if sum(counts.values()):
        text = f"batch normalisations: {counts['weights']} folded into weights, {counts['arithmetic']} as arithmetic"
        editor.notes.insert(0, text)
    return editor.notes


def _trains(node: ir.Node) -> No | None:
    if node.attributes.get_int("training_mode", 0):
        return No("BatchNormalization in training mode", node=node.name or "")
    if any(is_read(v) for v in node.outputs[1:]):
        return No("the running statistics of a BatchNormalization are read", node=node.name or "")
    return None


def _statistics(node: ir.Node) -> Affine | None:
    """The normalisation as scale and shift, in float64; None where its parameters are computed."""
    arrays = [constant_of(operand(node, i)) for i in range(1, 5)]
    if any(a is None for a in arrays):
        return None
    scale, bias, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return Affine(factor, bias - mean * factor)


def _product_before(value: ir.Value | None) -> ir.Node | None:
    """The product with constant weights that makes ``value`` for one reader alone."""
    product = maker(value, *_PRODUCTS)
    if product is None or value is None or sole_reader(value) is None or channels_of(product) is None:
        return None
    return product


def _into_weights(editor: Editor, node: ir.Node, affine: Affine | None) -> Answer:
    product = _product_before(operand(node, 0))
    if affine is None or product is None:
        return No("no product with constant weights before it", node=node.name or "")
    rank = rank_of(product.outputs[0])
    if channels_of(product) != affine.scale.size or (not is_op(product, "Conv", "ConvTranspose") and rank != 2):
        return No("its channels are not those of the product before it", node=node.name or "")
    answer = absorb(editor, product, affine)
    if answer:
        _take_over(editor, node, product)
    return answer


def _take_over(editor: Editor, node: ir.Node, product: ir.Node) -> None:
    """The product now makes the node's result, so that bears the node's name: ``ingot compare`` goes by names."""
    made, name, at_end = product.outputs[0], node.outputs[0].name, node.outputs[0].is_graph_output()
    editor.substitute(node, made)
    if not at_end:
        made.name = name


def _decompose(editor: Editor, node: ir.Node) -> None:
    """x * scale + shift as Mul and Add, with constants where the statistics are constant."""
    x, y = node.inputs[0], node.outputs[0]
    rank = rank_of(x) or rank_of(y)
    if x is None or rank is None:
        editor.note(str(No("the rank of a BatchNormalization's input is unknown", node=node.name or "")))
        return
    affine = _statistics(node)
    channels = (-1, *(1,) * (rank - 2)) if rank > 1 else (1,)
    if affine is None:
        scale, shift = _computed(editor, node, channels)
    else:
        dtype = np.float32 if x.dtype is None else x.dtype.numpy()
        scale, shift = (
            editor.constant(a.astype(dtype).reshape(channels), f"{node.name}/{hint}")
            for a, hint in ((affine.scale, "scale"), (affine.shift, "shift"))
        )
    scaled = editor.op("Mul", [x, scale], before=node, like=y)
    editor.substitute(node, editor.op("Add", [scaled, shift], before=node, like=y))


def _computed(editor: Editor, node: ir.Node, channels: tuple[int, ...]) -> tuple[ir.Value, ir.Value]:
    """Scale and shift of a normalisation whose parameters are not constant."""
    gamma, beta, mean, variance = (v for v in node.inputs[1:5] if v is not None)
    dtype = np.float32 if variance.dtype is None else variance.dtype.numpy()
    epsilon = editor.constant(np.asarray(node.attributes.get_float("epsilon", 1e-5), dtype), f"{node.name}/epsilon")
    shape = editor.constant(np.asarray(channels, np.int64), f"{node.name}/channels")
    shifted = editor.op("Add", [variance, epsilon], before=node, like=variance)
    deviation = editor.op("Sqrt", [shifted], before=node, like=variance)
    factor = editor.op("Div", [gamma, deviation], before=node, like=variance)
    moved = editor.op("Mul", [mean, factor], before=node, like=variance)
    shift = editor.op("Sub", [beta, moved], before=node, like=variance)
    results = []
    for value in (factor, shift):
        flat = editor.value(f"{value.name}/channels", value.dtype, None)
        editor.ops("Reshape", [value, shape], None, [flat], before=node)
        results.append(flat)
    return results[0], results[1]


def _absorb_arithmetic(editor: Editor, node: ir.Node) -> None:
    """Mul, Div, Add or Sub of a product's result with one constant per channel."""
    for position in (0, 1):
        product = _product_before(operand(node, position))
        constant = constant_of(operand(node, 1 - position))
        if product is None or constant is None or constant.dtype.kind != "f":
            continue
        if is_op(product, "MatMul") and is_op(node, "Add", "Sub"):
            return  # the epilogue adds the bias
        channels = channels_of(product)
        numbers = per_channel(constant, product, channels) if channels else None
        affine = None if numbers is None else _affine(node, position, numbers)
        if affine is not None and absorb(editor, product, affine):
            _take_over(editor, node, product)
        return


def _affine(node: ir.Node, position: int, numbers: Doubles) -> Affine | None:
    """The node as scale and shift of its input ``position``."""
    ones, zeros = np.ones_like(numbers), np.zeros_like(numbers)
    match node.op_type, position:
        case "Mul", _:
            return Affine(numbers, zeros)
        case "Div", 0:
            return Affine(1.0 / numbers, zeros) if np.all(numbers) else None
        case "Add", _:
            return Affine(ones, numbers)
        case "Sub", 0:
            return Affine(ones, -numbers)
        case "Sub", _:
            return Affine(-ones, numbers)
    return None
