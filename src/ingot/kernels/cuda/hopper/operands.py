"""How a Region's product is read by the copy engine: tensor maps of both operands, sizes, and where results lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import No
from ingot.graph.dims import Dim, Shape, add, ceildiv, divisible, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Input, TensorMap
from ingot.kernels.cuda.hopper.tile import DEALT, HopperTile
from ingot.kernels.triton.gemm import Matrices, matrices
from ingot.kernels.triton.geometry import Geometry, geometry
from ingot.kernels.triton.indexing import Axis, same
from ingot.kernels.triton.normal import Normal, normal_conv, normal_gemm

TYPES = ("float16", "bfloat16")
_BYTES = ("int8", "uint8")
_FLOAT8 = "float8_e4m3fn"
_CORNER = 127
_OFFSET = 255
"""Farthest tap of a map over four axes (PTX, im2col offsets)."""
_STEP = 8
_ALIGN = 16


@dataclass(frozen=True)
class Filter:
    """What of a convolution is fixed: taps, strides, padding before, dilation, each as (height, width)."""

    taps: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    pad_end: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Operands:
    """A product A[rows, depth] * B[depth, cols] of a Region in normal form."""

    normal: Normal
    rows: Dim
    cols: int
    channels: Dim
    """Depth, of a convolution that of one tap."""
    batch: Dim
    filter: Filter
    gather: bool
    """Whether A's rows are pixels that an im2col map finds."""
    columns_inner: bool
    """Whether B's columns are contiguous, not its depth."""
    output: tuple[Dim, Dim]
    """Height and width of a gathered convolution's output."""
    row_axes: tuple[Axis, ...]
    """Axes of the result along the rows, slowest first."""
    col_axis: int | None
    batch_axes: tuple[Axis, ...]
    a_dims: tuple[Shape, Shape]
    """Sizes and strides (elements, of all axes but the innermost) of A's tensor map, innermost first."""
    b_dims: tuple[Shape, Shape]
    batch_a: bool
    """Whether A has one matrix per batch member."""
    batch_b: bool
    beside: Operands | None = None
    """A second product, of 1 x 1 windows as the first, that is added to it."""
    scales: tuple[str, str] | None = None
    """Inputs with the scales of this product and of the one beside, where both are of integers."""

    @property
    def region(self) -> Region:
        """The Region in normal form."""
        return self.normal.region

    @property
    def a(self) -> TensorSpec:
        """Spec of A."""
        return self.region.spec_of[self.region.ops[0].inputs[0]]

    @property
    def b(self) -> TensorSpec:
        """Spec of B."""
        return self.region.spec_of[self.region.ops[0].inputs[1]]

    @property
    def whole(self) -> bool:
        """Whether integers are multiplied, with int32 sums."""
        return self.a.dtype in _BYTES

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return math.prod(self.filter.taps)

    @property
    def halo(self) -> int:
        """Rows beside its own that a tile reads when taps along the width share a load; 0 where they cannot."""
        f = self.filter
        return (f.taps[1] - 1) * f.dilation[1] if self.gather and f.stride == (1, 1) else 0

    def positions(self, tile: HopperTile) -> tuple[Dim, Dim]:
        """Rows, and those of one output line, that the kernel goes over: when sliding also some without a result."""
        height, width = self.output
        if not tile.slide:
            return self.rows, width
        wide = add(width, tile.slide)
        return mul(self.region.shape(self.region.ops[0].outputs[0])[0], height, wide), wide

    def steps(self, tile: HopperTile) -> Dim:
        """Stages that the depth takes, that of a second product included."""
        own = self.own_steps(tile)
        return own if self.beside is None else add(own, self.beside.own_steps(tile))

    def own_steps(self, tile: HopperTile) -> Dim:
        """Stages that the first product's depth takes."""
        if tile.slide:
            return mul(self.filter.taps[0], ceildiv(self.channels, tile.slice))
        return ceildiv(mul(self.taps, ceildiv(self.channels, tile.slice)), tile.slices)

    def maps(self, tile: HopperTile) -> tuple[TensorMap, ...]:
        """Tensor maps of both operands for one tile, and of a second product's."""
        item = itemsize(self.a.dtype)
        swizzle = tile.slice * item if tile.slice * item > _ALIGN else 0
        pixels = (tile.slice, tile.m + tile.slide)
        a = self._map(0, self.a_dims, pixels if self.gather else (*pixels, 1), swizzle, tile.slide)
        b = self._dealt_map(tile, swizzle) if tile.dealt else self._plain_map(tile, swizzle)
        return (a, b) if self.beside is None else (a, b, *self.beside.maps(tile))

    def _plain_map(self, tile: HopperTile, swizzle: int) -> TensorMap:
        """B's columns in their order."""
        if self.columns_inner:
            box: tuple[int, ...] = (64, tile.slice, 1)
        elif self._filtered:
            box = (tile.slice, 1, 1, tile.n // tile.cluster)
        else:
            box = (tile.slice, tile.n // tile.cluster, 1)
        return self._map(1, self.b_dims, box, 128 if self.columns_inner else swizzle)

    def can_deal(self, dealt: int) -> bool:
        """Whether B's columns can be loaded in another order: five axes of the copy engine have to do for all.

        ``dealt``: as of the tile. Lanes have sixteen columns only of results that are bytes.
        """
        if self.columns_inner or self.batch_b or self.cols % (DEALT * dealt):
            return False
        if dealt > 1 and any(itemsize(spec.dtype) > 1 for spec in self.region.output_specs):
            return False
        if self.taps == 1:
            return True
        step, down = self.tap_step, self.b_dims[1][1]
        one = step > 0 and (1 in self.filter.taps or same(down, step * self.filter.taps[1]))
        # Past its own channels a load brings those of the next tap: nothing beside A's zeros if they are no NaN.
        return one and (self.whole or divisible(self.channels, 128 // itemsize(self.a.dtype)))

    @property
    def tap_step(self) -> int:
        """Elements of B from one tap to the next; 0 where there is only one."""
        if self.taps == 1 or not self._filtered:
            return 0
        step = self.b_dims[1][0 if self.filter.taps[1] > 1 else 1]
        return step if isinstance(step, int) else 0

    def _dealt_map(self, tile: HopperTile, swizzle: int) -> TensorMap:
        """B's columns as (pair, lane, eight, so many of them): see ``dealt`` of the tile."""
        chunk = DEALT * tile.dealt
        row = self.b_dims[1][-1] if self._filtered else self.b_dims[1][0]
        depth = add(mul(self.taps - 1, self.tap_step), self.channels)
        sizes = (depth, 2, 4, chunk // 8, self.cols // chunk)
        strides = (row, mul(row, chunk // 4), mul(row, 2), mul(row, chunk))
        return self._map(1, (sizes, strides), (tile.slice, 2, 4, chunk // 8, tile.n // chunk), swizzle)

    @property
    def _filtered(self) -> bool:
        return len(self.b_dims[0]) == 4

    def _map(
        self, operand: int, dims: tuple[Shape, Shape], box: tuple[int, ...], swizzle: int, slide: int = 0
    ) -> TensorMap:
        name = self.region.ops[0].inputs[operand]
        item = itemsize(self.a.dtype)
        index = Input(self.region.inputs.index(name))
        strides = tuple(mul(stride, item) for stride in dims[1])
        if operand or not self.gather:
            return TensorMap(index, self.a.dtype, dims[0], strides, box, swizzle)
        f = self.filter
        lower = tuple(-pad for pad in reversed(f.pad))
        ends = zip(f.pad_end, f.taps, f.dilation, strict=True)
        reach = tuple(pad - (taps - 1) * dilation for pad, taps, dilation in reversed(list(ends)))
        upper = (reach[0] + slide, *reach[1:])
        return TensorMap(index, self.a.dtype, dims[0], strides, box, swizzle, lower, upper, tuple(reversed(f.stride)))


def operands(region: Region) -> Operands | No:
    """How to read the product of a CONV or GEMM Region, or why the copy engine cannot."""
    op = region.ops[0]
    if op is not region.anchor:
        return No("something precedes the product in its Region")
    if any(name not in region.inputs for name in op.inputs[:2]):
        return No("an operand of the product is no tensor that the Region reads")
    a, b = (region.spec_of[name] for name in op.inputs[:2])
    if not multiplied(op, a.dtype, b.dtype):
        return No(f"{op.op} of {a.dtype} and {b.dtype}", fix="cast both operands to float16 or bfloat16")
    if op.op.endswith("Integer") and any(op.inputs[2:]):
        return No("zero points that are not written out")
    if op.inputs[0] == op.inputs[1]:
        return No("a product of a tensor with itself")
    found = _convolution(region) if region.kind is Kind.CONV else _matrices(region)
    if isinstance(found, No):
        return found
    item = itemsize(a.dtype)
    if found.gather and item == 1 and not divisible(found.channels, _ALIGN):
        return No(f"channels that are no multiple of {_ALIGN}, of one byte each")  # the copy engine traps
    for what, tensor, (_, strides) in (("first", found.a, found.a_dims), ("second", found.b, found.b_dims)):
        if tensor.align % _ALIGN or not all(divisible(mul(stride, item), _ALIGN) for stride in strides):
            return No(f"the {what} operand is not aligned to {_ALIGN} bytes")
    return found


def multiplied(op: BodyOp, a: str, b: str) -> bool:
    """Whether the tensor cores multiply elements of these types: 16-bit floats or FP8, and integers of one byte."""
    if op.op.endswith("Integer"):
        return a in _BYTES and b in _BYTES
    return a == b and a in (*TYPES, _FLOAT8)


def _convolution(region: Region) -> Operands | No:
    g = geometry(region)
    if isinstance(g, No):
        return g
    if g.transposed or g.groups != 1 or len(g.kernel) > 2:
        return No("a transposed, grouped or three-dimensional convolution")
    if g.x.strides[1] != 1 or g.w.strides[1] != 1:
        return No("channels that are not innermost")
    bias = region.ops[0].inputs[2:3]
    if bias and bias[0] and any(bias[0] in op.inputs for op in region.ops[1:]):
        return No("the bias is read again by the epilogue")
    y = region.shape(region.ops[0].outputs[0])
    spatial = tuple(range(2, len(y)))
    rows: Dim = mul(y[0], *y[2:])
    row_axes = tuple(Axis(axis, y[axis]) for axis in (0, *spatial))
    f = Filter(*(_pair(v, fill) for v, fill in
                 ((g.kernel, 1), (g.stride, 1), (g.pad, 0), (g.pad_end, 0), (g.dilation, 1))))  # fmt: skip
    (height, width), (x_h, x_w), (w_h, w_w) = _planar(g)
    out_h, out_w = (1, *g.output)[-2:]
    flat = flat_axes([(g.batch, g.x.strides[0]), (height, x_h), (width, x_w)]) if _pointwise(f) else None
    common = dict(
        normal=normal_conv(region), rows=rows, cols=g.out_channels, channels=g.in_channels, batch=1, filter=f,
        columns_inner=False, output=(out_h, out_w), row_axes=row_axes, col_axis=1, batch_axes=(),
        batch_a=False, batch_b=False,
        b_dims=((g.in_channels, f.taps[1], f.taps[0], g.out_channels), (w_w, w_h, g.w.strides[0])),
    )  # fmt: skip
    if flat is not None:
        a_dims: tuple[Shape, Shape] = (g.in_channels, flat[0], 1), (flat[1], _ALIGN)
        return Operands(gather=False, a_dims=a_dims, **common)  # type: ignore[arg-type]
    limits = _limits(f)
    if limits is not None:
        return limits
    a_dims = (g.in_channels, width, height, g.batch), (x_w, x_h, g.x.strides[0])
    return Operands(gather=True, a_dims=a_dims, **common)  # type: ignore[arg-type]


def _planar(g: Geometry) -> tuple[tuple[Dim, Dim], tuple[Dim, Dim], tuple[Dim, Dim]]:
    """(height, width), and the strides of input and weights along them; a missing height is one line."""
    if len(g.kernel) == 2:
        x, w = g.x.strides, g.w.strides
        # The stride of an axis of one element is free; the copy engine asks for one that is aligned.
        w_h = w[2] if g.kernel[0] > 1 else _ALIGN
        w_w = w[3] if g.kernel[1] > 1 else _ALIGN
        return (g.input[0], g.input[1]), (x[2], x[3]), (w_h, w_w)
    w_w = g.w.strides[2] if g.kernel[0] > 1 else _ALIGN
    return (1, g.input[0]), (_ALIGN, g.x.strides[2]), (_ALIGN, w_w)


def _pair(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    first, second = (fill, *values)[-2:]
    return first, second


def _pointwise(f: Filter) -> bool:
    return f.taps == (1, 1) and f.stride == (1, 1) and f.pad == (0, 0) == f.pad_end


def _limits(f: Filter) -> No | None:
    reach = [(taps - 1) * dilation for taps, dilation in zip(f.taps, f.dilation, strict=True)]
    ends = [pad - far for pad, far in zip(f.pad_end, reach, strict=True)]
    if max(f.stride) > _STEP:
        return No(f"a stride above {_STEP}")
    if max(reach) > _OFFSET or max((*f.pad, *ends)) > _CORNER or min(-p for p in f.pad) < -_CORNER:
        return No("a kernel or padding that reaches too far for the copy engine")
    if min(ends) < -_CORNER:
        return No("a kernel that reaches too far for the copy engine")
    return None


def flat_axes(axes: Sequence[tuple[Dim, Dim]]) -> tuple[Dim, Dim] | None:
    """(size, stride) of several axes (slowest first) as one, or None where no single stride describes them."""
    size, stride = None, None
    for n, step in reversed([axis for axis in axes if axis[0] != 1]):
        if size is None or stride is None:
            size, stride = n, step
        elif same(step, mul(size, stride)):
            size = mul(n, size)
        else:
            return None
    return (1, _ALIGN) if size is None or stride is None else (size, stride)


def _matrices(region: Region) -> Operands | No:
    normal = normal_gemm(region)
    m: Matrices = matrices(normal.region)
    if not isinstance(m.n, int):
        return No("a symbolic number of columns")
    if m.stride_ak != 1:
        return No("a first operand whose depth is not contiguous")
    if m.stride_bk != 1 and m.stride_bn != 1:
        return No("a second operand with no contiguous axis")
    rows = flat_axes([(axis.size, stride) for axis, stride in m.rows])
    batch_a = flat_axes([(axis.size, a) for axis, a, _ in m.batch_axes])
    batch_b = flat_axes([(axis.size, b) for axis, _, b in m.batch_axes])
    if rows is None or batch_a is None or batch_b is None:
        return No("rows or batch members without a common stride")
    inner = m.stride_bk != 1
    if inner and itemsize(region.spec_of[region.ops[0].inputs[1]].dtype) == 1:
        return No("a second operand of one-byte elements whose depth is not contiguous")
    a_dims = (m.depth, rows[0], _members(batch_a)), (rows[1], _step(batch_a))
    b_sizes, b_row = ((m.n, m.depth), m.stride_bk) if inner else ((m.depth, m.n), m.stride_bn)
    b_row = _ALIGN if b_sizes[1] == 1 else b_row
    b_dims = (*b_sizes, _members(batch_b)), (b_row, _step(batch_b))
    return Operands(
        normal, mul(*(axis.size for axis, _ in m.rows)), m.n, m.depth, mul(*(axis.size for axis, _, _ in m.batch_axes)),
        Filter(), False, inner, (1, 1), tuple(axis for axis, _ in m.rows), m.space.col,
        tuple(axis for axis, _, _ in m.batch_axes), a_dims, b_dims, _members(batch_a) != 1, _members(batch_b) != 1,
    )  # fmt: skip


def _members(batch: tuple[Dim, Dim]) -> Dim:
    return 1 if batch[1] == 0 else batch[0]


def _step(batch: tuple[Dim, Dim]) -> Dim:
    return _ALIGN if batch[1] == 0 else batch[1]
