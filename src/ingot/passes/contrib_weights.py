"""Products with weights of few bits (``com.microsoft`` MatMulNBits) as products with the numbers they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.errors import YES, Answer, No
from ingot.graph.edit import Editor, constant_of, operand
from ingot.passes.writer import Writer, float_type

Array = np.ndarray[Any, Any]


def matmul_nbits(editor: Editor, node: ir.Node) -> Answer:
    """A @ B of constant B: ``(b - zero) * scale`` per block of a column, computed when the engine is built.

    The weights take the memory of A's type again; only their rounding stays.
    """
    a, name = node.inputs[0], node.name or ""
    packed, scales, zeros = (constant_of(operand(node, i)) for i in (1, 2, 3))
    rows, columns = node.attributes.get_int("K", 0), node.attributes.get_int("N", 0)
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 0)
    dtype = float_type(a)
    if packed is None or scales is None or dtype is None or (operand(node, 3) is not None and zeros is None):
        return No("its weights are not constant", node=name)
    if operand(node, 4) is not None or bits not in (2, 4, 8) or block <= 0:
        return No(f"{bits} bits, or blocks in an order of their own", node=name)
    blocks = -(-rows // block)
    numbers = _unpacked(packed.reshape(columns, -1), bits)[:, : blocks * block].reshape(columns, blocks, block)
    factors = scales.astype(np.float64).reshape(columns, blocks, 1)
    if zeros is None:
        shift: Array = np.full((columns, blocks, 1), 1 << (bits - 1), np.float64)
    elif zeros.dtype == np.uint8:
        shift = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks].astype(np.float64)[..., None]
    else:
        shift = zeros.astype(np.float64).reshape(columns, blocks, 1)
    dense = ((numbers - shift) * factors).reshape(columns, blocks * block)[:, :rows].T
    w = Writer(editor, node)
    made = w("MatMul", a, w.const(np.ascontiguousarray(dense), dtype))
    bias = operand(node, 5)
    w.done(w.typed(made if bias is None else w("Add", made, bias)))
    return YES


def _unpacked(packed: Array, bits: int) -> Array:
    """The numbers of each row of bytes, those in the low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    found: Array = ((packed[..., None] >> shifts) & mask).reshape(packed.shape[0], -1)
    return found
