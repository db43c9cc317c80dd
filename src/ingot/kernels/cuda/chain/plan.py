"""What a CHAIN Region asks of a kernel: its two convolutions apart, and where what is between and around them lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ingot.errors import No
from ingot.graph.dims import Dim, add, divisible
from ingot.graph.dtypes import itemsize
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.cuda.hopper.operands import TYPES, Operands, flat_axes, operands
from ingot.kernels.cuda.hopper.sums import sum_operands, terms
from ingot.kernels.cuda.rows.text import arithmetic_types, refusal, scalar_literals

_WIDEST = 256
"""Most columns of the second product: those of one wgmma."""
_HEAVIEST = 768 << 10
"""Most bytes of weights: all of them pass through shared memory for every tile, and with 1 MB (256, 1024 and 256
channels) two kernels were faster."""
_DEEPEST = 512
"""Most input channels of the first product: a tile of them stays in shared memory."""


@dataclass(frozen=True)
class ChainPlan:
    """A Region that the chain kernel can run."""

    region: Region
    first: Operands
    second: Operands
    middle: str
    """The first half's result, which the second reads."""
    residual: str
    """The tensor of the middle's own shape that the first half's epilogue reads; empty when there is none."""

    @property
    def stored(self) -> bool:
        """Whether the middle is also written to memory."""
        return self.middle in self.region.outputs

    @property
    def depths(self) -> tuple[int, ...]:
        """Input channels of the first product, and of one that is added to it."""
        parts = (self.first,) if self.first.beside is None else (self.first, self.first.beside)
        assert all(isinstance(o.channels, int) for o in parts)
        return tuple(int(o.channels) for o in parts)

    @property
    def depth(self) -> int:
        """Elements of the depth that are multiplied: of two parts, each one's slices of 64 as a whole."""
        return self.depths[0] if len(self.depths) == 1 else sum(-(-d // 64) * 64 for d in self.depths)

    @property
    def wide(self) -> int:
        """Columns of the first product."""
        return self.first.cols

    @property
    def narrow(self) -> int:
        """Columns of the second product, those beyond its own zero: a multiple of 16."""
        return -(-self.second.cols // 16) * 16

    @property
    def rows(self) -> Dim:
        """Pixels."""
        return self.first.rows


@dataclass(frozen=True)
class Halves:
    """A CHAIN or SUM Region as two Regions, of kind CONV or the first of kind SUM, that run one after the other."""

    first: Region
    second: Region
    middle: str


def halves(region: Region) -> Halves | No:
    """The convolutions of the Region with what follows each, or why it is no chain and no sum of two.

    The first part of a chain may be a sum.
    """
    if region.kind is Kind.SUM:
        found = terms(region)
        if isinstance(found, No):
            return found
        if found.finished:
            return No("a sum of integers: between two kernels it would be wider than its parts")
        return _halves(region, [found.beside], found.rest, found.beside.outputs[0])
    convolutions = [op for op in region.ops if op.op == "Conv"]
    if len(convolutions) not in (2, 3):
        return No(f"{len(convolutions)} convolutions instead of two or three")
    last = convolutions[-1]
    made = set(last.outputs)
    later = [last]
    for op in region.ops:
        if op is not last and made & set(op.inputs):
            later.append(op)
            made |= set(op.outputs)
    earlier = [op for op in region.ops if not any(op is other for other in later)]
    middle = last.inputs[0]
    own = {name for op in earlier for name in op.outputs}
    crossing = {name for op in later for name in op.inputs if name in own}
    if crossing != {middle}:
        return No("the last convolution does not read the result of those before alone")
    return _halves(region, earlier, later, middle)


def _halves(region: Region, earlier: Sequence[BodyOp], later: Sequence[BodyOp], middle: str) -> Halves:
    known = region.spec_of[middle]
    dense = known if middle in region.outputs else spec(known.dtype, known.shape, channels_last(known.rank))
    return Halves(_half(region, earlier, middle, dense), _half(region, later, middle, dense), middle)


def _half(region: Region, ops: Sequence[BodyOp], middle: str, dense: TensorSpec) -> Region:
    made = {name for op in ops for name in op.outputs}
    read = {name for op in ops for name in op.inputs if name}
    names = (*region.inputs, middle) if middle not in made else region.inputs
    inputs = tuple(name for name in names if name in read and name not in made)
    outputs = tuple(dict.fromkeys(n for n in (*region.outputs, middle) if n in made))
    used = made | read
    values = tuple((name, dense if name == middle else value) for name, value in region.values if name in used)
    literals = tuple((name, value) for name, value in region.literals if name in used)
    kind = Kind.SUM if sum(op.op == "Conv" for op in ops) == 2 else Kind.CONV
    return replace(region, kind=kind, inputs=inputs, outputs=outputs, ops=tuple(ops), values=values, literals=literals)


def plan_chain(region: Region) -> ChainPlan | No:
    """How the chain kernel reads the Region, or why it cannot."""
    parts = halves(region)
    if isinstance(parts, No):
        return parts
    first = sum_operands(parts.first) if parts.first.kind is Kind.SUM else operands(parts.first)
    second = operands(parts.second)
    for o in (first, second):
        if isinstance(o, No):
            return o
    assert isinstance(first, Operands) and isinstance(second, Operands)
    if first.a.dtype not in TYPES or second.a.dtype != first.a.dtype:
        return No(f"operands of types {first.a.dtype} and {second.a.dtype}")
    for o in (first, second, *([first.beside] if first.beside is not None else [])):
        if o.gather or not o.b.constant or not isinstance(o.channels, int):
            return No("a convolution that is not 1 x 1 with stride 1 and constant weights")
    depth = first.channels if first.beside is None else add(first.channels, first.beside.channels)
    if second.cols > _WIDEST or not isinstance(depth, int) or depth > _DEEPEST:
        return No(f"more than {_DEEPEST} input channels, or more than {_WIDEST} output channels")
    if (depth + second.cols) * first.cols * itemsize(first.a.dtype) > _HEAVIEST:
        return No(f"more than {_HEAVIEST >> 10} KB of weights")
    residual = _residual(first, second)
    if isinstance(residual, No):
        return residual
    plan = ChainPlan(region, first, second, parts.middle, residual)
    written = _written(plan)
    return plan if written is None else written


def _residual(first: Operands, second: Operands) -> str | No:
    """The one tensor that is no constant for each column; empty when there is none."""
    found: list[str] = []
    for o in (first, second):
        literals = scalar_literals(o.region)
        if isinstance(literals, No):
            return literals
        refused = refusal(o.normal.epilogue, arithmetic_types(o.region), literals)
        if refused is not None:
            return refused
        result = o.region.spec_of[o.region.ops[0].outputs[0]]
        made = {name for op in o.region.ops for name in op.outputs}
        read = dict.fromkeys(n for op in o.normal.epilogue for n in op.inputs if n)
        for name in (n for n in read if n not in literals and n not in made):
            value = o.region.spec_of[name]
            if value.shape == result.shape:
                found.append(name)
            elif not _by_column(value, o.cols):
                return No(f"{name!r} of shape {value.shape} is no constant for each column")
    if len(found) > 1 or (found and found[0] not in first.region.inputs):
        return No("an epilogue that reads more than one tensor of the first result's shape")
    if found and first.region.spec_of[found[0]].dtype != first.a.dtype:
        return No(f"{found[0]!r} of type {first.region.spec_of[found[0]].dtype}")
    return found[0] if found else ""


def _by_column(value: TensorSpec, cols: int) -> bool:
    """Whether it has one element for each column, side by side, or one for all."""
    if value.elements == 1:
        return True
    axis = value.rank - 3
    return value.elements == cols and axis >= 0 and value.shape[axis] == cols and value.strides[axis] == 1


def _written(plan: ChainPlan) -> No | None:
    """Why the results, or the residual, do not lie as rows that the copy engine takes; None when they do."""
    region, last = plan.region, plan.second.region.outputs
    others = [name for name in region.outputs if name != plan.middle]
    if len(others) != 1 or last != (others[0],):
        return No("further results are written")
    if any(name != plan.middle for name in plan.first.region.outputs):
        return No("a result of the first half that the second does not read")
    for name in (others[0], *([plan.middle] if plan.stored else []), *([plan.residual] if plan.residual else [])):
        value = region.spec_of[name]
        if value.dtype != plan.first.a.dtype:
            return No(f"{name!r} of type {value.dtype}")
        stride = row_stride(value)
        aligned = value.align % 16 == 0 and stride is not None and divisible(stride, 16 // itemsize(value.dtype))
        if value.strides[1] != 1 or not aligned:
            return No(f"{name!r} does not lie as rows of channels, aligned to 16 bytes")
    return None


def row_stride(value: TensorSpec) -> Dim | None:
    """Elements from one pixel to the next of a channels-last tensor; None where no single number tells."""
    axes = [(value.shape[i], value.strides[i]) for i in (0, *range(2, value.rank))]
    found = flat_axes(axes)
    return None if found is None else found[1]
