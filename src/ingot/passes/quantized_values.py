"""Which values of a FlatGraph are quantized tensors, and what its quantized constants are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ingot.graph import dtypes
from ingot.graph.quantization import dequantized, quantized
from ingot.graph.region import BodyOp, Literal
from ingot.graph.tensor import TensorSpec, spec
from ingot.passes.flatten import FlatGraph, FlatOp

Array = np.ndarray[Any, Any]
_FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Quantized:
    """A tensor of integers or FP8 numbers that stands for ``(x - zero) * scale``."""

    name: str
    """The stored tensor."""
    dtype: str
    scale: Array
    """float32, of one element or one for each index of ``axis``."""
    zero: int | Array
    """0 where there is none, and for FP8; an array only for several zero points that differ."""
    axis: int


class QuantizedValues:
    """Values, constants and literals of a graph under rewriting, and who makes each value."""

    def __init__(self, flat: FlatGraph) -> None:
        self.values: dict[str, TensorSpec] = dict(flat.values)
        self.constants: dict[str, Array] = dict(flat.constants)
        self.literals: dict[str, Literal] = dict(flat.literals)
        self.outputs = frozenset(flat.outputs)
        self.makers = {name: op.body for op in flat.ops if op.plugin is None for name in op.body.outputs}
        for op in flat.ops:
            if op.body.op == "QuantizeLinear" and op.body.inputs[0] in self.constants:
                self.fold(op)

    def quantized(self, name: str) -> Quantized | None:
        """What a float value stands for, where DequantizeLinear (and casts between floats) made it of known scales."""
        op = self.makers.get(name)
        while op is not None and op.op == "Cast" and self._between_floats(op):
            op = self.makers.get(op.inputs[0])
        if op is None or op.op != "DequantizeLinear" or op.domain or op.attr("block_size", 0):
            return None
        stored, scale = op.inputs[0], self.constants.get(op.inputs[1])
        tensor = self.values.get(stored)
        if scale is None or tensor is None or scale.ndim > 1 or scale.dtype.kind != "f":
            return None
        zero = self._zero(op)
        return None if zero is None else Quantized(
            stored, tensor.dtype, scale.astype(np.float32), zero, int(op.attr("axis", 1))  # type: ignore[arg-type]
        )  # fmt: skip

    def _between_floats(self, op: BodyOp) -> bool:
        ends = [self.values.get(name) for name in (op.inputs[0], op.outputs[0])]
        return all(tensor is not None and tensor.dtype in _FLOATS for tensor in ends)

    def _zero(self, op: BodyOp) -> int | Array | None:
        """The zero point, None where it is not known."""
        name = op.inputs[2] if len(op.inputs) > 2 else ""
        if not name:
            return 0
        zero = self.constants.get(name)
        if zero is None:
            return None
        if zero.dtype.kind not in "iu":
            return 0 if not np.any(zero.astype(np.float32)) else None
        return int(zero.reshape(-1)[0]) if zero.size and (zero == zero.reshape(-1)[0]).all() else zero.astype(np.int16)

    def constant(self, name: str) -> Array | None:
        """The array of a value that quantization and casts make of constants."""
        if name in self.constants:
            return self.constants[name]
        op = self.makers.get(name)
        if op is None or op.domain or op.op not in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            return None
        parts = [self.constant(n) if n else None for n in op.inputs]
        if parts[0] is None or (len(parts) > 1 and parts[1] is None) or (len(op.inputs) > 2 and parts[2] is None):
            return None
        return self._computed(op, parts)

    def _computed(self, op: BodyOp, parts: list[Array | None]) -> Array | None:
        x, scale, zero = (*parts, None, None)[:3]
        assert x is not None
        if op.op == "Cast":
            target = self.values.get(op.outputs[0])
            return None if target is None else x.astype(dtypes.numpy_dtype(target.dtype))
        assert scale is not None
        axis, block = (int(op.attr(key, default)) for key, default in (("axis", 1), ("block_size", 0)))  # type: ignore[arg-type]
        if op.op == "DequantizeLinear":
            return dequantized(x, scale, zero, axis, block)
        target = self.values.get(op.outputs[0])
        return None if target is None or block else quantized(x, scale, zero, axis, target.dtype)

    def fold(self, op: FlatOp) -> bool:
        """Makes the result of a quantization, or of a cast of one, a constant where that is what it is."""
        body = op.body
        quantization = body.op in ("QuantizeLinear", "DequantizeLinear", "Cast")
        if not quantization or op.plugin is not None or body.domain or body.outputs[0] in self.outputs:
            return False
        array = self.constant(body.outputs[0])
        if array is None:
            return False
        name = body.outputs[0]
        self.constants[name] = array
        self.values[name] = spec(self.values[name].dtype, array.shape, constant=True)
        if array.size == 1:
            self.literals[name] = float(array.astype(np.float64).reshape(()))
        return True

    def new_constant(self, hint: str, array: Array) -> str:
        """A constant under a name made of ``hint``."""
        name, count = hint, 0
        while name in self.values:
            count += 1
            name = f"{hint}.{count}"
        self.constants[name] = np.ascontiguousarray(array)
        self.values[name] = spec(array.dtype.name, array.shape, constant=True)
        return name
