"""Per-channel scale and shift taken into the weights of the product before them.

Sums are formed in float64 and stored in the type of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Array, Editor, constant_of, is_op, operand, rank_of

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = x * scale + shift over output channels; both of shape (channels,)."""

    scale: Doubles
    shift: Doubles


def channel_axis(product: ir.Node) -> int:
    """Where the channels of a product's result are: axis 1 of a convolution, the last of a matrix product."""
    return 1 if is_op(product, "Conv", "ConvTranspose") else -1


def channels_of(product: ir.Node) -> int | None:
    """Number of output channels of a product with constant weights of its own."""
    weight = constant_of(operand(product, 1))
    if weight is None or weight.dtype.kind != "f" or weight.ndim < 2:
        return None
    last = int(weight.shape[-1]) if weight.ndim == 2 else None
    if is_op(product, "Conv"):
        return int(weight.shape[0])
    if is_op(product, "ConvTranspose"):
        return int(weight.shape[1]) * product.attributes.get_int("group", 1)
    return int(weight.shape[0]) if is_op(product, "Gemm") and product.attributes.get_int("transB", 0) != 0 else last


def per_channel(array: Array, product: ir.Node, channels: int) -> Doubles | None:
    """A constant operand of the product's result as one number per channel; None when it varies otherwise."""
    rank = rank_of(product.outputs[0])
    if array.size == 1 and (array.ndim == 0 or (rank is not None and array.ndim <= rank)):
        return np.full(channels, float(array.reshape(()).item()))
    if rank is None or array.ndim > rank or array.size != channels:
        return None
    axis = channel_axis(product) % rank - (rank - array.ndim)
    if axis < 0 or array.shape[axis] != channels:
        return None
    return array.astype(np.float64).reshape(-1)


def absorb(editor: Editor, product: ir.Node, affine: Affine) -> Answer:
    """Makes ``product`` give scale * result + shift; No where its form does not allow it."""
    make = _convolution if is_op(product, "Conv", "ConvTranspose") else _gemm if is_op(product, "Gemm") else _matmul
    weight = constant_of(operand(product, 1))
    assert weight is not None
    with np.errstate(over="ignore"):
        return make(editor, product, weight, affine)


def _convolution(editor: Editor, product: ir.Node, weight: Array, affine: Affine) -> Answer:
    bias = operand(product, 2)
    old = constant_of(bias)
    if bias is not None and old is None:
        return No("its bias is not constant", node=product.name or "")
    channels = affine.scale.size
    if is_op(product, "Conv"):
        scaled = _scaled(weight, affine.scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    else:
        group = product.attributes.get_int("group", 1)
        split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        scaled = _scaled(split, affine.scale.reshape(group, 1, channels // group, *(1,) * (weight.ndim - 2)))
        scaled = scaled.reshape(weight.shape)
    shift = affine.shift + affine.scale * (0.0 if old is None else old.astype(np.float64))
    return _store(editor, product, weight, scaled, shift)


def _gemm(editor: Editor, product: ir.Node, weight: Array, affine: Affine) -> Answer:
    addend = operand(product, 2)
    old = constant_of(addend)
    channels = affine.scale.size
    if addend is not None and (
        old is None or (old.size not in (1, channels) or old.shape[-1:] not in ((), (1,), (channels,)))
    ):
        return No("its addend is not one constant per column", node=product.name or "")
    beta = product.attributes.get_float("beta", 1.0)
    base = np.zeros(channels) if old is None else np.broadcast_to(old.astype(np.float64).reshape(-1), channels) * beta
    along = (-1, 1) if product.attributes.get_int("transB", 0) else (1, -1)
    scaled = _scaled(weight, affine.scale.reshape(along))
    answer = _store(editor, product, weight, scaled, base * affine.scale + affine.shift)
    if answer:
        product.attributes.pop("beta", None)
    return answer


def _matmul(editor: Editor, product: ir.Node, weight: Array, affine: Affine) -> Answer:
    if np.any(affine.shift):
        return No("a MatMul has no bias to take a shift", node=product.name or "")
    return _store(editor, product, weight, _scaled(weight, affine.scale), None)


def _scaled(weight: Array, scale: Doubles) -> Array:
    """The product in float64, rounded once to the weight's type; a weight's size in float64 is never in memory."""
    out: Array = np.empty(weight.shape, weight.dtype)
    np.multiply(weight, scale, out=out, dtype=np.float64, casting="unsafe")
    return out


def _store(editor: Editor, product: ir.Node, weight: Array, scaled: Array, shift: Doubles | None) -> Answer:
    arrays = [scaled] + ([] if shift is None else [shift.astype(weight.dtype)])
    if not all(np.isfinite(a).all() for a in arrays):
        return No(f"its weights would leave the range of {weight.dtype}", node=product.name or "")
    name = operand(product, 1)
    product.replace_input_with(1, editor.constant(arrays[0], f"{name.name if name else product.name}/scaled"))
    if len(arrays) > 1:
        if len(product.inputs) < 3:
            product.resize_inputs(3)
        product.replace_input_with(2, editor.constant(arrays[1], f"{product.name}/bias"))
    return YES
