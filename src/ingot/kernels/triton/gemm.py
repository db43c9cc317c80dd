"""Matrix products: MatMul and Gemm of any rank, strides and transposition, with generated epilogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings, Dim, Shape, ceildiv, divisible, evaluate, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cost import ProductShape, product_seconds, without_tensor_cores
from ingot.kernels.triton import product
from ingot.kernels.triton.builder import KernelBuilder
from ingot.kernels.triton.conv_operands import PREFETCH, prefetched_steps
from ingot.kernels.triton.epilogue import check_epilogue
from ingot.kernels.triton.indexing import Axis, Space, fits_int32, flat_offset, times
from ingot.kernels.triton.normal import Normal, normal_gemm
from ingot.kernels.triton.space import shortlist
from ingot.kernels.triton.tile import Tile

FLOAT8 = "float8_e4m3fn"
PRODUCT_TYPES = ("float16", "bfloat16", "float32", FLOAT8)
_INT32 = 2**31 - 1
_LINE = 128
"""Bytes of a cache line."""
_PREFETCH_LINES = 1024


@dataclass(frozen=True)
class Matrices:
    """Strides of one product: A [batch, M, K] times B [batch, K, N], and where its result lies."""

    rows: tuple[tuple[Axis, Dim], ...]
    """Row axes with A's strides, slowest first."""
    batch_axes: tuple[tuple[Axis, Dim, Dim], ...]
    """Batch axes with A's and B's strides."""
    n: Dim
    depth: Dim
    stride_ak: Dim
    stride_bk: Dim
    stride_bn: Dim
    space: Space


def matrices(region: Region) -> Matrices:
    """Reads the geometry of a normal MatMul or Gemm."""
    op = region.ops[0]
    a, b, y = region.spec_of[op.inputs[0]], region.spec_of[op.inputs[1]], region.spec_of[op.outputs[0]]
    a_shape, a_strides = _matrix(a, first=True, transposed=bool(op.attr("transA", 0)))
    b_shape, b_strides = _matrix(b, first=False, transposed=bool(op.attr("transB", 0)))
    has_m, has_n = a.rank > 1, b.rank > 1
    batch_rank = y.rank - has_m - has_n
    a_batch = _batch_strides(a_shape[:-2], a_strides[:-2], batch_rank)
    b_batch = _batch_strides(b_shape[:-2], b_strides[:-2], batch_rank)
    batch = [Axis(i, y.shape[i]) for i in range(batch_rank)]
    m_rows = [(Axis(batch_rank, a_shape[-2]), a_strides[-2])] if has_m else []
    if all(stride == 0 for stride in b_batch):
        rows = [*zip(batch, a_batch, strict=True), *m_rows]
        members: list[tuple[Axis, Dim, Dim]] = []
    else:
        rows = m_rows
        members = list(zip(batch, a_batch, b_batch, strict=True))
    col = batch_rank + has_m if has_n else None
    space = Space(
        y.shape, tuple(axis for axis, _ in rows), col, tuple(axis for axis, _, _ in members), col_code="n_local"
    )
    return Matrices(
        tuple(rows), tuple(members), b_shape[-1], a_shape[-1], a_strides[-1], b_strides[-2], b_strides[-1], space
    )


def _matrix(spec: TensorSpec, *, first: bool, transposed: bool) -> tuple[Shape, Shape]:
    shape, strides = spec.shape, spec.strides
    if spec.rank == 1:
        return ((1, *shape), (0, *strides)) if first else ((*shape, 1), (*strides, 0))
    if transposed:
        return (*shape[:-2], shape[-1], shape[-2]), (*strides[:-2], strides[-1], strides[-2])
    return shape, strides


def _batch_strides(shape: Shape, strides: Shape, rank: int) -> list[Dim]:
    missing = rank - len(shape)
    return [0] * missing + [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]


class MatrixOperands:
    """:class:`~ingot.kernels.triton.product.Operands` of a MatMul or Gemm."""

    def __init__(self, region: Region, tile: Tile) -> None:
        self.region, self.tile = region, tile
        self.m = matrices(region)
        self.space, self.cols, self.row_mask = self.m.space, self.m.n, ""
        self.steps_code = ""
        self.rows: Dim = mul(*(axis.size for axis, _ in self.m.rows))
        self.batch: Dim = mul(*(axis.size for axis, _, _ in self.m.batch_axes))
        self.steps: Dim = ceildiv(self.m.depth, tile.k)

    def setup(self, k: KernelBuilder) -> None:
        """Pointers of the first A and B tile."""
        a_name, b_name = self.region.ops[0].inputs[:2]
        m = self.m
        wide_a, wide_b = (not fits_int32(self.region.spec_of[n]) for n in (a_name, b_name))
        # Along its contiguous axis a tile is masked, not clamped, so that loads stay vectors.
        self.mask_a = bool(m.rows) and m.rows[-1][1] == 1 and not divisible(self.rows, self.tile.m)
        self.mask_b = m.stride_bn == 1 and not divisible(self.cols, self.tile.n)
        row = "row" if self.mask_a else "m_index"
        a_rows = flat_offset(k, row, [(axis.size, stride) for axis, stride in m.rows], wide=wide_a)
        a_base = flat_offset(k, "z", [(axis.size, a) for axis, a, _ in m.batch_axes], wide=wide_a)
        b_base = flat_offset(k, "z", [(axis.size, b) for axis, _, b in m.batch_axes], wide=wide_b)
        columns = times("n_local" if self.mask_b else "n_index", k.dim(m.stride_bn)) or "n_index * 0"
        a_k = times("rk", k.dim(m.stride_ak)) or "rk * 0"
        b_k = times("rk", k.dim(m.stride_bk)) or "rk * 0"
        a, b = k.input(a_name), k.input(b_name)
        k.line(
            f"a_ptr = {a}{' + ' + a_base if a_base else ''} + ({a_rows or 'm_index * 0'})[:, None] + ({a_k})[None, :]"
        )
        k.line(f"b_ptr = {b}{' + ' + b_base if b_base else ''} + ({b_k})[:, None] + ({columns})[None, :]")

    def load(self, k: KernelBuilder) -> None:
        """One tile of each."""
        m, tile = self.m, self.tile
        tail = not divisible(m.depth, tile.k)
        if tail:
            k.line(f"k_left = {k.dim(m.depth)} - step * {tile.k}")
        masks_a = (["(rk < k_left)[None, :]"] if tail else []) + (
            [f"(row < {k.dim(self.rows)})[:, None]"] if self.mask_a else []
        )
        masks_b = (["(rk < k_left)[:, None]"] if tail else []) + (
            [f"(n_local < {k.dim(self.cols)})[None, :]"] if self.mask_b else []
        )
        for name, stride, masks in (("a", m.stride_ak, masks_a), ("b", m.stride_bk, masks_b)):
            guard = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
            step = times(f"step * {tile.k}", k.dim(stride)) or "0"
            k.line(f"{name} = tl.load({name}_ptr + {step}{guard})")

    def prefetch(self, k: KernelBuilder) -> None:
        """Brings this block's share of a weight B into the L2 cache while earlier kernels still run."""
        m, b = self.m, self.region.spec_of[self.region.ops[0].inputs[1]]
        if not b.constant or m.batch_axes or not isinstance(self.steps, int) or not isinstance(m.stride_bk, int):
            return
        tile, b_name = self.tile, k.input(self.region.ops[0].inputs[1])
        if m.stride_bk == 1 and prefetched_steps(k, self.steps, tile):
            k.line(f"line = {b_name} + (ahead * {tile.k})[:, None] + (n_index * {k.dim(m.stride_bn)})[None, :]")
            k.line(PREFETCH)
        elif m.stride_bn == 1 and tile.n * itemsize(b.dtype) <= _LINE:
            share = -(-self.steps // tile.split) * tile.k
            many = min(1 << max(share - 1, 0).bit_length(), _PREFETCH_LINES)
            begin = f"part * {share}" if tile.split > 1 else "0"
            k.line(f"ahead = tl.minimum({begin} + tl.arange(0, {many}), {k.dim(m.depth)} - 1)")
            k.line(f"line = {b_name} + ahead * {m.stride_bk} + pid_n * {tile.n}")
            k.line(PREFETCH)


class GemmTactic:
    """Triton matrix product with split-K and a generated epilogue."""

    name = "triton.gemm"
    kinds = frozenset({Kind.GEMM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Products of two tensors of one floating-point type up to 32 bits, or of 8-bit integers."""
        for refused in (target_refusal(region, target), product_refusal(region, target)):
            if refused is not None:
                return refused
        if region.ops[0] is not region.anchor:
            return No("something precedes the product in its Region")
        answer = check_operands(region)
        if not answer:
            return answer
        normal = normal_gemm(region)
        return check_epilogue(normal.region, 2)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time."""
        normal = normal_gemm(region)
        shape = gemm_shape(normal.region, bindings)
        return [tile.variant(self.name) for tile in shortlist(shape, without_tensor_cores(target))]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of one tile."""
        k, operands, tile = self.generate(region, variant, target)
        return product.program(k, tile, operands)

    def generate(self, region: Region, variant: Variant, target: Target) -> tuple[KernelBuilder, MatrixOperands, Tile]:
        """Source of one tile."""
        normal: Normal = normal_gemm(region)
        tile = Tile.of(variant)
        operands = MatrixOperands(normal.region, tile)
        result = normal.product.outputs[0]
        k = product.generate(normal.region, target, tile, operands, normal.epilogue, result, normal.scale)
        return k, operands, tile

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        shape = gemm_shape(normal_gemm(region).region, bindings)
        return product_seconds(shape, Tile.of(variant), without_tensor_cores(target))


def target_refusal(region: Region, target: Target) -> No | None:
    """What the target's architecture lacks."""
    if target.cc < 75:
        return No(f"{target.name} is older than sm_75")
    if target.cc < 89 and any(value.dtype == FLOAT8 for _, value in region.values):
        return No(f"{target.name} has no FP8")
    return None


def product_refusal(region: Region, target: Target) -> No | None:
    """What Triton cannot multiply on the target: before sm_80 it uses no tensor cores, and then floats alone."""
    if target.cc < 80 and region.anchor.op.endswith("Integer"):
        return No(f"Triton has no products of integers for {target.name}")
    return None


def _multiplied(op: BodyOp, a: str, b: str) -> Answer:
    """Whether there is a product of these types: floats of one type, or 8-bit integers by signed ones."""
    if op.op.endswith("Integer"):
        if any(op.inputs[2:]):
            return No("zero points that are not written out")
        return YES if a in ("int8", "uint8") and b == "int8" else No(f"{op.op} of {a} and {b}")
    if a == b and a in PRODUCT_TYPES:
        return YES
    return No(f"{op.op} of {a} and {b}", fix="cast both operands to one of " + ", ".join(PRODUCT_TYPES[:3]))


def check_operands(region: Region) -> Answer:
    """Whether both operands are tensors of one supported type, and single matrices fit 32-bit offsets."""
    op = region.ops[0]
    if any(name not in region.inputs for name in op.inputs[:2]):
        return No("an operand of the product is no tensor that the Region reads")
    a, b = (region.spec_of[name] for name in op.inputs[:2])
    answer = _multiplied(op, a.dtype, b.dtype)
    if not answer:
        return answer
    for spec in (a, b):
        for size, stride in zip(spec.shape[-2:], spec.strides[-2:], strict=True):
            if isinstance(size, int) and isinstance(stride, int) and size * abs(stride) > _INT32:
                return No(f"a matrix of more than {_INT32} elements")
    return YES


def gemm_shape(region: Region, bindings: Bindings) -> ProductShape:
    """Sizes of a normal product at ``bindings``, for the cost model."""
    m = matrices(region)
    op = region.ops[0]
    rows = evaluate(mul(*(axis.size for axis, _ in m.rows)), bindings)
    batch = evaluate(mul(*(axis.size for axis, _, _ in m.batch_axes)), bindings)
    size = itemsize(region.spec_of[op.inputs[0]].dtype)
    n, depth = evaluate(m.n, bindings), evaluate(m.depth, bindings)
    extra = sum(
        evaluate(s.elements, bindings) * itemsize(s.dtype)
        for name, s in ((v, region.spec_of[v]) for v in (*region.inputs, *region.outputs))
        if name not in op.inputs[:2]
    )
    return ProductShape(
        rows, n, depth, batch, size, a_bytes=batch * rows * depth * size, extra_bytes=extra, chunk=depth
    )
