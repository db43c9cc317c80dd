"""A squeeze-and-excitation Region taken apart: tensors, sizes, and the scalar ops between its products."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, divisible
from ingot.graph.region import BodyOp, Kind, Region, Scalar
from ingot.graph.tensor import TensorSpec
from ingot.kernels.cuda.rows.text import arithmetic_types, number_of, refusal

_FLOATS = ("float16", "bfloat16", "float32")
_VECTOR = 16
"""Bytes of one access."""
_INDEX_LIMIT = 1 << 31


@dataclass(frozen=True)
class ExcitePlan:
    """What a kernel needs to know."""

    region: Region
    mean: BodyOp
    first: BodyOp
    """The convolution to the hidden channels."""
    second: BodyOp
    """And back."""
    before: tuple[BodyOp, ...]
    """Scalar ops on the mean."""
    hidden_ops: tuple[BodyOp, ...]
    """Scalar ops between the convolutions."""
    gate_ops: tuple[BodyOp, ...]
    """Scalar ops behind the second one."""
    gate: str
    """What is multiplied with the input."""
    batch: Dim
    channels: int
    hidden: int
    pixels: int
    vector: int
    """Channels of one access."""
    kinds: dict[str, str] = field(compare=False)
    """Arithmetic type by value."""
    literals: dict[str, Scalar] = field(compare=False)

    @property
    def x(self) -> TensorSpec:
        """The input's spec."""
        return self.region.spec_of[self.mean.inputs[0]]

    @property
    def y(self) -> TensorSpec:
        """The result's spec."""
        return self.region.output_specs[0]

    @property
    def columns(self) -> int:
        """Vectors of one pixel."""
        return self.channels // self.vector


@lru_cache(maxsize=256)
def plan_excite(region: Region) -> ExcitePlan | No:
    """The Region as a squeeze-and-excitation block, or why it is not one."""
    convs = [op for op in region.ops if op.op == "Conv"]
    if region.kind is not Kind.EXCITE or len(convs) != 2 or len(region.outputs) != 1:
        return No("not a mean, two convolutions and one result")
    mean, first, second = region.ops[0], convs[0], convs[1]
    x, y = region.spec_of[mean.inputs[0]], region.output_specs[0]
    unfit = _unfit(region, x, y, convs)
    if unfit is not None:
        return unfit
    positions = [region.ops.index(op) for op in convs]
    last = region.ops[-1]
    gate = next((name for name in last.inputs if name != mean.inputs[0]), "")
    if last.op != "Mul" or mean.inputs[0] not in last.inputs or gate not in region.producer:
        return No("the last op is not the product with the gate")
    before, middle, after = (
        region.ops[1 : positions[0]], region.ops[positions[0] + 1 : positions[1]], region.ops[positions[1] + 1 : -1]
    )  # fmt: skip
    literals = {name: n for name, value in region.literals if (n := number_of(value)) is not None}
    kinds = arithmetic_types(region)
    scalar = (*before, *middle, *after)
    stages = ((before, mean), (middle, first), (after, second))
    wrong = next((no for ops, maker in stages if (no := _foreign(ops, maker, literals)) is not None), None)
    if wrong is not None:
        return wrong
    unwritten = refusal(scalar, kinds, literals)
    if unwritten is not None:
        return unwritten
    if any(kinds[op.outputs[0]] != "float32" for op in scalar):
        return No("arithmetic in another type than float32")
    pixels = int(x.shape[2]) * int(x.shape[3])
    return ExcitePlan(
        region, mean, first, second, before, middle, after, gate, x.shape[0], int(x.shape[1]),
        int(region.shape(first.inputs[1])[0]), pixels, _VECTOR // dtypes.itemsize(x.dtype), kinds, literals,
    )  # fmt: skip


def _foreign(ops: tuple[BodyOp, ...], maker: BodyOp, literals: dict[str, Scalar]) -> No | None:
    """A refusal where one of ``ops`` reads something else than what ``maker`` and these ops make, and numbers."""
    known = {*maker.outputs, *literals, ""}
    for op in ops:
        if len(op.outputs) != 1 or not set(op.inputs) <= known:
            return No("a scalar op between the products reads another tensor")
        known |= set(op.outputs)
    return None


def _unfit(region: Region, x: TensorSpec, y: TensorSpec, convs: list[BodyOp]) -> No | None:
    """What the kernel cannot do of tensors and weights."""
    if x.dtype not in _FLOATS or y.dtype != x.dtype:
        return No(f"{x.dtype} into {y.dtype}")
    if not all(isinstance(d, int) for d in x.shape[1:]):
        return No("symbolic channels or image size")
    lanes = _VECTOR // dtypes.itemsize(x.dtype)
    for spec in (x, y):
        _, channel, row, column = spec.strides
        if channel != 1 or not isinstance(column, int) or row != column * int(spec.shape[3]):
            return No("channels that are not innermost, or rows of pixels with gaps")
        if column % lanes or not divisible(spec.strides[0], lanes) or spec.align % _VECTOR or int(x.shape[1]) % lanes:
            return No("pixels that do not start at 16 bytes")
        if not isinstance(spec.strides[0], int) or int(spec.shape[2]) * row >= _INDEX_LIMIT:
            return No("too large an image, or images at symbolic distances")
    for op in convs:
        weight = region.spec_of[op.inputs[1]]
        if weight.dtype != x.dtype or not weight.constant or weight.strides[:2] != (weight.shape[1], 1):
            return No("weights of another type or layout")
        if weight.align % _VECTOR:
            return No("weights that do not start at 16 bytes")
        bias = region.spec_of[op.inputs[2]] if len(op.inputs) > 2 and op.inputs[2] else weight
        if bias.dtype != x.dtype or not bias.constant:
            return No("a bias of another type, or one that is not constant")
    return None
