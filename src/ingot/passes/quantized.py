"""Products of quantized tensors, written out: integers are multiplied, and the scales come after.

``DequantizeLinear -> Conv, MatMul or Gemm`` of 8-bit tensors becomes a product of the tensors as they are
stored, which ONNX calls ConvInteger and MatMulInteger, and arithmetic on its exact int32 sums:

    (x - zx) sx * w sw  =  (x * w - zx * sum of w) (sx sw)

The sums of the weights, with an int32 bias, are a constant; where a window reaches over the border, where zeros of the
real numbers are no zeros of the stored ones, they differ from pixel to pixel. Products of FP8 tensors keep their op:
the same with float32 sums. What of this the kernels fuse is decided later; everything is an ordinary op.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.quantization import along, centred
from ingot.graph.region import BodyOp, Kind
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import spec
from ingot.passes.flatten import FlatGraph, FlatOp, without_dead_ops
from ingot.passes.quantized_values import Array, Quantized, QuantizedValues
from ingot.passes.stem import IMAGE_CHANNELS
from ingot.passes.windows import border_sums

_BYTES = ("int8", "uint8")
_FLOAT8 = "float8_e4m3fn"
_SAME_SCALE = 1e-5
"""Relative difference up to which the scale of an int32 bias is that of the sums."""


@dataclass(frozen=True)
class _Product:
    """One rewrite."""

    op: str
    x: Quantized
    weight: str
    """Name of the second operand: as it is, or a new constant."""
    offset: Array | None
    """int32, added to the sums."""
    scale: Array
    """float32: one, or one for each channel of the result."""
    addend: Array | None
    """float32, added after scaling."""


def write_out_products(flat: FlatGraph, plain: frozenset[str]) -> FlatGraph:
    """``flat`` with its quantized products rewritten and its quantized constants computed.

    Nodes named in ``plain`` are left alone: no kernel took what they became.
    """
    if not any(op.body.op in ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger") for op in flat.ops):
        return flat
    rewriter = _Rewriter(flat)
    ops: list[FlatOp] = []
    notes = dict(flat.notes)
    for op in flat.ops:
        made = None if op.name in plain or op.kind in (Kind.HOST, Kind.PLUGIN) else rewriter.product(op)
        if isinstance(made, No):
            notes[op.name] = f"quantized operands, but in floating point: {made}"
        ops.extend(made if isinstance(made, list) else [op])
    known = rewriter.known
    ops = [op for op in ops if not known.fold(op)]
    done = replace(
        flat, ops=tuple(ops), values=known.values, constants=known.constants, literals=known.literals, notes=notes
    )
    return without_dead_ops(_spread(done, plain))


class _Rewriter:
    def __init__(self, flat: FlatGraph) -> None:
        self.known = QuantizedValues(flat)

    def product(self, op: FlatOp) -> list[FlatOp] | No | None:
        """What the op becomes; None where it is no quantized product, No where it is one without an exact form."""
        body = op.body
        if body.domain or body.op not in ("Conv", "MatMul", "Gemm"):
            return None
        x, w = self.known.quantized(body.inputs[0]), self.known.quantized(body.inputs[1])
        if x is None or w is None:
            return None
        if x.scale.size != 1 or not isinstance(x.zero, int):
            return No("the first operand has several scales")
        if x.name == w.name:
            return No("a product of a tensor with itself")
        found = self._convolution(op, x, w) if body.op == "Conv" else self._matrices(op, x, w)
        return found if isinstance(found, No) else self._written(op, found)

    # -- the two forms

    def _convolution(self, op: FlatOp, x: Quantized, w: Quantized) -> _Product | No:
        weight, y = self.known.constants.get(w.name), self.known.values[op.body.outputs[0]]
        if y.dtype in ("float16", "bfloat16") and self.known.values[x.name].shape[1] in range(1, IMAGE_CHANNELS + 1):
            return No("kernels for images read 16-bit floats")
        if weight is None or (w.scale.size != 1 and w.axis % weight.ndim != 0):
            return No("weights that are computed, or whose scales are not those of the output channels")
        if x.dtype == w.dtype == _FLOAT8:
            return self._finished(op, "Conv", x, w.name, None, w.scale, 1.0)
        whole = _centred(weight, w)
        if isinstance(whole, No) or x.dtype not in _BYTES:
            return whole if isinstance(whole, No) else No(f"a product of {x.dtype} and {w.dtype}")
        offset = None
        if x.zero:
            offset = border_sums(op.body, self.known.values[x.name], y, whole)
            if offset is None:
                return No("a zero point, and an image of unknown or very large size with a border")
            offset = -x.zero * offset
        return self._finished(op, "ConvInteger", x, self._weight(op, whole, weight, w), offset, w.scale, 1.0)

    def _matrices(self, op: FlatOp, x: Quantized, w: Quantized) -> _Product | No:
        body, a, b = op.body, self.known.values[x.name], self.known.values[w.name]
        alpha = float(body.attr("alpha", 1.0) or 0.0) if body.op == "Gemm" else 1.0  # type: ignore[arg-type]
        if a.rank < 2 or b.rank < 2 or body.attr("transA", 0):
            return No("a vector or a transposed first operand")
        turned = bool(body.attr("transB", 0))
        weight = self.known.constants.get(w.name)
        columns = w.axis % b.rank == (b.rank - 2 if turned else b.rank - 1)
        if (w.scale.size != 1 and not columns) or (weight is None and turned):
            return No("scales that are not those of the columns, or a second operand that is computed and transposed")
        if x.dtype == w.dtype == _FLOAT8:
            name = w.name if not turned or weight is None else self._constant(op, "weight", weight.T)
            return self._finished(op, "MatMul", x, name, None, w.scale, alpha)
        if x.dtype not in _BYTES:
            return No(f"a product of {x.dtype} and {w.dtype}")
        if weight is None:
            if w.dtype != "int8" or not isinstance(w.zero, int) or w.zero or x.zero:
                return No("a product of two activations with zero points, or by unsigned numbers")
            return self._finished(op, "MatMulInteger", x, w.name, None, w.scale, alpha)
        whole = _centred(weight, w)
        if isinstance(whole, No):
            return whole
        if turned:
            whole = np.ascontiguousarray(whole.T)
        offset = -x.zero * whole.astype(np.int64).sum(axis=-2) if x.zero else None
        if offset is not None and offset.ndim > 1:
            offset = offset[..., None, :]
        name = self._constant(op, "weight", whole) if turned else self._weight(op, whole, weight, w)
        return self._finished(op, "MatMulInteger", x, name, offset, w.scale, alpha)

    def _finished(
        self, op: FlatOp, kind: str, x: Quantized, weight: str, offset: Array | None, scale: Array, alpha: float
    ) -> _Product | No:
        """With scales and bias brought into the shape of the result's channels."""
        scales = (float(x.scale.reshape(())) * scale.astype(np.float64) * alpha).astype(np.float32)
        added = self._bias(op, scales, whole=kind.endswith("Integer") and alpha == 1.0)
        if added is None:
            return No("a bias that is computed")
        whole, real = added
        spatial = (1,) * (self.known.values[op.body.outputs[0]].rank - 2) if op.body.op == "Conv" else ()

        def shaped(array: Array) -> Array:
            return array.reshape(*array.shape, *spatial) if array.ndim == 1 else array

        if whole is not None and offset is not None:
            offset = shaped(whole) + shaped(offset)
        elif whole is not None:  # one instruction less, and no more rounding than the scaling has
            real = (whole.astype(np.float64) * scales.astype(np.float64)).astype(np.float32)
        offset = None if offset is None else shaped(offset).astype(np.int32)
        return _Product(
            kind,
            x,
            weight,
            offset,
            shaped(scales) if scales.size > 1 else scales,
            None if real is None else shaped(real),
        )

    def _bias(self, op: FlatOp, scales: Array, *, whole: bool) -> tuple[Array | None, Array | None] | None:
        """The bias as (int32 to be added to the sums, float32 to be added after scaling); None where it has no form."""
        body = op.body
        name = body.inputs[2] if body.op != "MatMul" and len(body.inputs) > 2 else ""
        beta = float(body.attr("beta", 1.0) or 0.0) if body.op == "Gemm" else 1.0  # type: ignore[arg-type]
        if not name or beta == 0.0:
            return None, None
        bias = self.known.quantized(name)
        stored = None if bias is None else self.known.constants.get(bias.name)
        if whole and beta == 1.0 and bias is not None and stored is not None and stored.dtype == np.int32:
            close = np.allclose(bias.scale.reshape(-1), scales.reshape(-1), rtol=_SAME_SCALE, atol=0.0)
            if close and not bias.zero and stored.ndim == 1:
                return stored, None
        real = self.known.constant(name)
        return None if real is None else (None, (real.astype(np.float32) * np.float32(beta)))

    # -- writing

    def _weight(self, op: FlatOp, whole: Array, stored: Array, w: Quantized) -> str:
        same = stored.dtype == np.int8 and isinstance(w.zero, int) and w.zero == 0
        return w.name if same else self._constant(op, "weight", whole)

    def _constant(self, op: FlatOp, part: str, array: Array) -> str:
        return self.known.new_constant(f"{op.name}/{part}", array)

    def _written(self, op: FlatOp, p: _Product) -> list[FlatOp]:
        body, known = op.body, self.known
        y = known.values[body.outputs[0]]
        attrs = body.attrs if body.op == "Conv" else ()
        steps: list[tuple[str, tuple[str, ...], str, tuple[tuple[str, int], ...]]] = []
        current = f"{op.name}/sums"
        integers = p.op.endswith("Integer")
        product = BodyOp(p.op, (p.x.name, p.weight), (current,), attrs)
        known.values[current] = spec("int32" if integers else "float32", y.shape)
        if p.offset is not None:
            steps.append(("Add", (current, self._constant(op, "offset", p.offset)), "int32", ()))
        if integers:
            steps.append(("Cast", (current,), "float32", (("to", dtypes.onnx_code("float32")),)))
        if p.scale.size == 1:
            scale = f"{op.name}/scale"
            known.literals[scale] = float(p.scale.reshape(()))
        else:
            scale = self._constant(op, "scale", p.scale)
        steps.append(("Mul", (current, scale), "float32", ()))
        if p.addend is not None:
            steps.append(("Add", (current, self._constant(op, "bias", p.addend)), "float32", ()))
        made = [FlatOp(op.name, product, Kind.CONV if p.op.startswith("Conv") else Kind.GEMM, origin=op.name)]
        for number, (kind, inputs, dtype, extra) in enumerate(steps):
            last = number == len(steps) - 1
            result = body.outputs[0] if last else f"{op.name}/step{number}"
            if not last:
                known.values[result] = spec(dtype, y.shape)
            step = BodyOp(kind, (current, *inputs[1:]), (result,), extra)
            made.append(FlatOp(f"{op.name}/{kind.lower()}{number}", step, Kind.MAP, origin=op.name))
            current = result
        return made


def _centred(weight: Array, w: Quantized) -> Array | No:
    """Weights minus their zero points as int8."""
    if w.dtype not in _BYTES:
        return No(f"weights of {w.dtype}")
    zero = np.asarray(w.zero) if isinstance(w.zero, int) else along(w.zero, weight.shape, w.axis)
    whole = centred(weight, zero)
    return No("weights less their zero points are no bytes") if whole is None else whole


# -- dequantization where it is read


def _spread(flat: FlatGraph, plain: frozenset[str]) -> FlatGraph:
    """A DequantizeLinear of its own right before each op that can take it into its kernel.

    A residual is then read as the integers it is, instead of being written out as floats by its maker.
    """
    makers = {name: op for op in flat.ops for name in op.body.outputs}
    values = dict(flat.values)
    ops: list[FlatOp] = []
    for op in flat.ops:
        body = op.body
        for position, name in enumerate(body.inputs):
            source = _dequantizing(makers, name)
            if source is None or source.name in plain or not _takes_in(op, position):
                continue
            own = f"{name}/for/{op.name}"
            if own not in values:
                values[own] = flat.values[name]
                clone = replace(source.body, outputs=(own,))
                ops.append(FlatOp(f"{source.name}/for/{op.name}/{position}", clone, Kind.MAP, origin=source.name))
            body = replace(body, inputs=tuple(own if n == name else n for n in body.inputs))
        ops.append(replace(op, body=body))
    return replace(flat, ops=tuple(ops), values=values)


def _dequantizing(makers: dict[str, FlatOp], name: str) -> FlatOp | None:
    """The DequantizeLinear that makes a value, perhaps through a cast to another float."""
    op = makers.get(name)
    if op is not None and op.body.op == "Cast" and op.kind is Kind.MAP:
        op = makers.get(op.body.inputs[0])
    return op if op is not None and op.body.op == "DequantizeLinear" and op.kind is Kind.MAP else None


def _takes_in(op: FlatOp, position: int) -> bool:
    """Whether the kernel of ``op`` also computes what makes its operand."""
    if op.kind in (Kind.ROWWISE, Kind.REDUCE, Kind.POOL):
        return position == 0
    return op.kind is Kind.MAP and op.body.op != "Cast" and is_scalar_op(op.body.op)
