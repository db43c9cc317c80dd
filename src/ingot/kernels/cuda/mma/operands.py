"""How an mma.sync kernel reads a Region's product: rows, columns and depth of both operands, through any strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim, divisible, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper.operands import Filter
from ingot.kernels.cuda.mma.tile import PIECE
from ingot.kernels.triton.gemm import matrices
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis
from ingot.kernels.triton.normal import Normal, normal_conv, normal_gemm

INSTRUCTION = {"float16": "f16", "bfloat16": "bf16", "int8": "s8", "uint8": "u8"}
"""PTX's name of the types that are multiplied."""
_BYTES = ("int8", "uint8")
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Side:
    """Where the elements of one operand lie (strides in elements)."""

    name: str
    spec: TensorSpec
    lines: tuple[tuple[Dim, Dim], ...]
    """(size, stride) of A's rows or B's columns, slowest first."""
    members: tuple[tuple[Dim, Dim], ...]
    """(size, stride) of the batch axes."""
    taps: tuple[Dim, Dim]
    """Strides from tap to tap of a convolution, (height, width)."""
    depth: Dim
    """Stride along the depth (of one tap)."""
    width: int
    """Elements that one access takes: along the depth, or (``across``) along the columns."""
    across: bool = False
    """Whether columns are contiguous and the depth is not."""


@dataclass(frozen=True)
class MmaOperands:
    """A product A[rows, depth] * B[depth, cols] of a Region in normal form."""

    normal: Normal
    rows: Dim
    cols: int
    channels: Dim
    """Depth, of a convolution that of one tap."""
    batch: Dim
    filter: Filter
    gather: bool
    """Whether A's rows are pixels, some of whose taps may lie outside of the image."""
    input: tuple[Dim, Dim]
    """Height and width of a gathered convolution's input."""
    output: tuple[Dim, Dim]
    """Height and width of its output."""
    row_axes: tuple[Axis, ...]
    col_axis: int | None
    batch_axes: tuple[Axis, ...]
    a: Side
    b: Side

    @property
    def region(self) -> Region:
        """The Region in normal form."""
        return self.normal.region

    @property
    def whole(self) -> bool:
        """Whether integers are multiplied, with int32 sums."""
        return self.a.spec.dtype in _BYTES

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return itemsize(self.a.spec.dtype)

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.filter.taps)

    @property
    def depth(self) -> Dim:
        """Elements of the depth, taps and channels together."""
        return mul(self.taps, self.channels)


def operands(region: Region) -> MmaOperands | No:
    """How to read the product of a CONV or GEMM Region, or why an mma.sync kernel cannot."""
    op = region.anchor
    a, b = (region.spec_of[name].dtype if name in region.spec_of else "" for name in op.inputs[:2])
    whole = op.op.endswith("Integer")
    if whole and any(op.inputs[2:]):
        return No("zero points that are not written out")
    if not (a in _BYTES and b in _BYTES if whole else a == b and a in ("float16", "bfloat16")):
        return No(f"{op.op} of {a} and {b}", fix="cast both operands to float16")
    return product_operands(region)


def product_operands(region: Region) -> MmaOperands | No:
    """How to read the product of a CONV or GEMM Region, whatever its types are, or why nobody can in this way."""
    op = region.ops[0]
    if op is not region.anchor:
        return No("something precedes the product in its Region")
    if any(name not in region.inputs for name in op.inputs[:2]):
        return No("an operand of the product is no tensor that the Region reads")
    found = _convolution(region) if region.kind is Kind.CONV else _matrices(region)
    if isinstance(found, MmaOperands) and isinstance(found.rows, int) and found.rows > _INT32:
        return No(f"more than {_INT32} rows")
    return found


def type_refusal(o: MmaOperands, target: Target) -> No | None:
    """What the target's tensor cores cannot multiply; None when they can."""
    if target.cc < 80 and o.a.spec.dtype == "bfloat16":
        return No(f"{target.name} has no bfloat16", fix="build in float16")
    return None


def _convolution(region: Region) -> MmaOperands | No:
    g = geometry(region)
    if isinstance(g, No):
        return g
    if g.transposed or g.groups != 1 or len(g.kernel) > 2:
        return No("a transposed, grouped or three-dimensional convolution")
    bias = region.ops[0].inputs[2:3]
    if bias and bias[0] and any(bias[0] in op.inputs for op in region.ops[1:]):
        return No("the bias is read again by the epilogue")
    normal = normal_conv(region)
    y = region.shape(region.ops[0].outputs[0])
    spatial = tuple(range(2, len(y)))
    pairs = ((g.kernel, 1), (g.stride, 1), (g.pad, 0), (g.pad_end, 0), (g.dilation, 1))
    f = Filter(*(_pair(values, fill) for values, fill in pairs))
    plain = f.stride == (1, 1) and not any(g.bounded(i) for i in range(len(g.kernel)))
    a, b = _conv_sides(region, g)
    return MmaOperands(
        normal, mul(y[0], *y[2:]), g.out_channels, g.in_channels, 1, f, not (plain and f.taps == (1, 1)),
        _pair_of(g.input), _pair_of(g.output), tuple(Axis(axis, y[axis]) for axis in (0, *spatial)), 1, (), a, b,
    )  # fmt: skip


def _conv_sides(region: Region, g: Geometry) -> tuple[Side, Side]:
    x, w = g.x.strides, g.w.strides
    dilated = [mul(stride, step) for stride, step in zip(x[2:], g.dilation, strict=True)]
    lines = ((g.batch, x[0]), *zip(g.output, x[2:], strict=True))
    x_name, w_name = region.ops[0].inputs[:2]
    width_a = _width(g.x, x[1], g.in_channels, [x[0], *x[2:]])
    a = Side(x_name, g.x, lines, (), _strides_of(dilated), x[1], width_a)
    width_b = _width(g.w, w[1], g.in_channels, [w[0], *w[2:]])
    taps = _strides_of(list(w[2:]))
    if width_b == 1 and itemsize(g.w.dtype) >= 2:
        across = _width(g.w, w[0], g.out_channels, [w[1], *w[2:]])
        if across == PIECE // itemsize(g.w.dtype):
            return a, Side(w_name, g.w, ((g.out_channels, w[0]),), (), taps, w[1], across, across=True)
    return a, Side(w_name, g.w, ((g.out_channels, w[0]),), (), taps, w[1], width_b)


def _width(spec: TensorSpec, inner: Dim, count: Dim, steps: Sequence[Dim]) -> int:
    """Elements that one access may take of ``count`` with stride ``inner``, where ``steps`` lead to the next ones."""
    item = itemsize(spec.dtype)
    if inner != 1:
        return 1
    for width in (PIECE // item, PIECE // item // 2, PIECE // item // 4, PIECE // item // 8):
        aligned = width > 1 and spec.align % (width * item) == 0 and divisible(count, width)
        if aligned and all(divisible(step, width) for step in steps):
            return width
    return 1


def _pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    first, second = (fill, *values)[-2:]
    return first, second


def _pair_of(values: tuple[Dim, ...]) -> tuple[Dim, Dim]:
    first, second = (1, *values)[-2:]
    return first, second


def _strides_of(values: Sequence[Dim]) -> tuple[Dim, Dim]:
    first, second = (0, *values)[-2:]
    return first, second


def _matrices(region: Region) -> MmaOperands | No:
    normal = normal_gemm(region)
    m = matrices(normal.region)
    if not isinstance(m.n, int):
        return No("a symbolic number of columns")
    a_name, b_name = normal.product.inputs[:2]
    a_spec, b_spec = (normal.region.spec_of[name] for name in (a_name, b_name))
    rows = tuple((axis.size, stride) for axis, stride in m.rows)
    a_members = tuple((axis.size, a) for axis, a, _ in m.batch_axes)
    b_members = tuple((axis.size, b) for axis, _, b in m.batch_axes)
    steps = [stride for _, stride in (*rows, *a_members)]
    a = Side(a_name, a_spec, rows, a_members, (0, 0), m.stride_ak, _width(a_spec, m.stride_ak, m.depth, steps))
    beside = [stride for _, stride in b_members]
    width = _width(b_spec, m.stride_bk, m.depth, [m.stride_bn, *beside])
    across = width == 1 and itemsize(b_spec.dtype) >= 2 and m.stride_bn == 1
    if across:
        width = _width(b_spec, m.stride_bn, m.n, [m.stride_bk, *beside])
    b = Side(b_name, b_spec, ((m.n, m.stride_bn),), b_members, (0, 0), m.stride_bk, width, across)
    return MmaOperands(
        normal, mul(*(axis.size for axis, _ in m.rows)), m.n, m.depth, mul(*(axis.size for axis, _, _ in m.batch_axes)),
        Filter(), False, (1, 1), (1, 1), tuple(axis for axis, _ in m.rows), m.space.col,
        tuple(axis for axis, _, _ in m.batch_axes), a, b,
    )  # fmt: skip
