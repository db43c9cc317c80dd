"""What a Region costs at least: floating-point operations and bytes through device memory.

Products (convolution, matrix product, attention) are exact, a multiplication and an addition counting
two. Scalar ops count one per element of their result; moves count nothing. The figures are
dimension expressions, so a bound Context can turn them into a share of the roofline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ingot.graph import dtypes
from ingot.graph.dims import Dim, Shape, add, floordiv, mul
from ingot.graph.region import ANCHORS, BodyOp, Kind, Region
from ingot.graph.scalar_ops import is_scalar_op
from ingot.graph.tensor import TensorSpec

_PER_ELEMENT: Final[Mapping[str, int]] = {
    "Softmax": 4,
    "LogSoftmax": 4,
    "LayerNormalization": 8,
    "RMSNormalization": 6,
    "InstanceNormalization": 6,
    "GroupNormalization": 6,
    "BatchNormalization": 2,
    "LRN": 4,
    "LpNormalization": 4,
}
"""Operations per element of the input for ops that are several scalar ops in one."""
_SELECTING: Final = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Ops that read no more of their first input than they give out."""
_UNCOUNTED: Final = frozenset({"Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"})


def flops(region: Region) -> Dim:
    """Operations of the Region; 0 for views and islands."""
    if region.kind in (Kind.VIEW, Kind.HOST):
        return 0
    return add(*(_op_flops(op, region) for op in region.ops))


def fewest_bytes(region: Region) -> Dim:
    """Inputs once plus outputs once; 0 for views."""
    if region.kind is Kind.VIEW:
        return 0
    ends = (*region.inputs, *region.outputs)
    return add(*(_tensor_bytes(name, region) for name in ends if name in region.spec_of))


def _tensor_bytes(name: str, region: Region) -> Dim:
    spec = region.spec_of[name]
    readers = [op for op in region.ops if name in op.inputs]
    elements = _distinct(spec)
    selecting = bool(readers) and all(op.op in _SELECTING and op.inputs.index(name) == 0 for op in readers)
    if name in region.inputs and selecting and all(op.outputs[0] in region.spec_of for op in readers):
        given = add(*(region.spec_of[op.outputs[0]].elements for op in readers))
        if isinstance(elements, int) and isinstance(given, int):
            elements = min(elements, given)
        else:
            elements = f"min({elements}, {given})"
    return mul(elements, dtypes.itemsize(spec.dtype))


def _distinct(spec: TensorSpec) -> Dim:
    """Elements that differ in address: a broadcast dimension counts once."""
    return mul(*(size for size, stride in zip(spec.shape, spec.strides, strict=True) if stride != 0))


def _op_flops(op: BodyOp, region: Region) -> Dim:
    count = _PRODUCTS.get(op.op)
    if count is not None:
        return count(op, region)
    if op.op in _UNCOUNTED:
        return 0
    if is_scalar_op(op.op):
        return mul(*region.shape(op.outputs[0]))
    if op.op.startswith(("Reduce", "Arg", "Global")):
        return mul(*region.shape(op.inputs[0]))
    if op.op in _PER_ELEMENT:
        return mul(_PER_ELEMENT[op.op], *region.shape(op.inputs[0]))
    if op.op.endswith("Pool"):
        return mul(*region.shape(op.outputs[0]), *op.ints("kernel_shape", (1,)))
    return 0


def _conv(op: BodyOp, region: Region) -> Dim:
    weight = region.shape(op.inputs[1])
    return add(mul(2, *region.shape(op.outputs[0]), *weight[1:]), _bias(op, region))


def _conv_transpose(op: BodyOp, region: Region) -> Dim:
    weight = region.shape(op.inputs[1])
    return add(mul(2, *region.shape(op.inputs[0]), *weight[1:]), _bias(op, region))


def _bias(op: BodyOp, region: Region) -> Dim:
    return mul(*region.shape(op.outputs[0])) if len(op.inputs) > 2 and op.inputs[2] else 0


def _matmul(op: BodyOp, region: Region) -> Dim:
    return mul(2, *region.shape(op.outputs[0]), region.shape(op.inputs[0])[-1])


def _gemm(op: BodyOp, region: Region) -> Dim:
    a = region.shape(op.inputs[0])
    inner = a[0] if op.attr("transA", 0) else a[1]
    return add(mul(2, *region.shape(op.outputs[0]), inner), _bias(op, region))


def _attention(op: BodyOp, region: Region) -> Dim:
    """Both products, and four operations per score for the softmax."""
    q, k, v = (region.shape(name) for name in op.inputs[:3])
    if len(q) == 4:
        scores = mul(*q[:3], k[2])
        return add(mul(2, scores, q[3]), mul(2, scores, v[3]), mul(4, scores))
    heads, kv_heads = int(op.attr("q_num_heads", 1)), int(op.attr("kv_num_heads", 1))  # type: ignore[arg-type]
    pairs: Shape = (q[0], q[1], k[1])
    value_width = mul(heads, floordiv(v[2], kv_heads))
    return add(mul(2, *pairs, q[2]), mul(2, *pairs, value_width), mul(4, heads, *pairs))


def _recurrent(op: BodyOp, region: Region) -> Dim:
    """Every gate of every step by a row of R, and some ten operations on it."""
    gates = mul(*region.shape(op.inputs[0]))
    return add(mul(2, gates, region.shape(op.inputs[2])[-1]), mul(10, gates))


_PRODUCTS: Final[Mapping[str, Callable[[BodyOp, Region], Dim]]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Attention": _attention,
    **dict.fromkeys(ANCHORS[Kind.RECURRENT], _recurrent),
}
