"""``cuda.mma``: convolutions and matrix products by mma.sync, for tensor cores that Triton does not use (sm_75).

Operands are 16-bit floats or 8-bit integers, in any strides. The same template has the wider instructions and the
asynchronous copies of sm_80 and later.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, mul
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant, Workspace
from ingot.kernels.cost import ProductShape, shared_limit
from ingot.kernels.cuda.mma.cost import product_shape, seconds
from ingot.kernels.cuda.mma.operands import MmaOperands, operands, type_refusal
from ingot.kernels.cuda.mma.source import ENTRY, generate
from ingot.kernels.cuda.mma.tile import MmaTile, stages_of
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue, quick_math
from ingot.kernels.cuda.source import Source

_LEAST_CC = 75
_TRITON_CC = 80
"""First architecture whose tensor cores Triton uses."""
_LIMIT = 24
_PER_BLOCK = 4
"""Most variants of one tile size."""
_FORMS = (
    # rows, columns, warps along the rows and the columns
    (256, 64, 4, 2), (128, 128, 2, 4), (128, 128, 2, 2), (128, 64, 2, 2), (64, 128, 2, 2), (64, 64, 2, 2),
    (128, 32, 4, 1), (32, 128, 1, 4), (64, 32, 2, 2), (32, 64, 2, 2), (32, 32, 2, 2), (64, 16, 4, 1), (16, 64, 1, 4),
)  # fmt: skip
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class MmaTactic:
    """Implicit product by mma.sync with a generated epilogue and, where tiles are few, a shared depth."""

    name: str = "cuda.mma"
    kinds: frozenset[Kind] = frozenset({Kind.CONV, Kind.GEMM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Products that :func:`read` can read, on sm_75: later tensor cores have kernels that suit them better."""
        if target.cc < _LEAST_CC:
            return No(f"{target.name} is older than sm_75")
        if target.cc >= _TRITON_CC:
            return No(f"{target.name} has better kernels (mma.sync by hand is for sm_75)")
        o = read(region, target)
        return o if isinstance(o, No) else check_epilogue(o)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time, few of each size."""
        o = _read(region)
        tiles = candidates(product_shape(o, bindings), target)
        ranked = sorted(tiles, key=lambda t: (seconds(o, t, target, bindings), str(t)))
        seen: Counter[tuple[int, int]] = Counter()
        head = []
        for tile in ranked:
            seen[tile.m, tile.n] += 1
            if seen[tile.m, tile.n] <= _PER_BLOCK:
                head.append(tile)
        return [tile.variant(self.name) for tile in head[:_LIMIT]]

    def source(self, region: Region, variant: Variant, target: Target) -> Source:
        """CUDA C++ of a variant."""
        return generate(_read(region), MmaTile.of(variant), target)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        cubin = compile_cuda(self.source(region, variant, target).text, ENTRY, target, options=quick_math(region)).cubin
        return self.program(region, variant, target, cubin)

    def program(self, region: Region, variant: Variant, target: Target, cubin: bytes) -> Program:
        """The launch of a variant's machine code, and the memory it needs."""
        tile, source = MmaTile.of(variant), self.source(region, variant, target)
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        grid = (source.grid, tile.split, 1)
        kernel = Kernel(ENTRY, cubin, grid, tile.threads, tile.shared, source.arguments, pdl)
        if tile.split == 1:
            return Program((kernel,))
        partial = Workspace(mul(source.grid, tile.split * tile.m * tile.n * 4))
        return Program((kernel,), (partial, Workspace(mul(source.grid, 4), zeroed=True)))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(_read(region), MmaTile.of(variant), target, bindings)


def read(region: Region, target: Target) -> MmaOperands | No:
    """How the product is read, or why it is not."""
    o = operands(region)
    refused = type_refusal(o, target) if isinstance(o, MmaOperands) else None
    return o if refused is None else refused


@lru_cache(maxsize=256)
def _read(region: Region) -> MmaOperands:
    o = operands(region)
    assert isinstance(o, MmaOperands), o
    return o


@lru_cache(maxsize=256)
def candidates(shape: ProductShape, target: Target) -> tuple[MmaTile, ...]:
    """Every tile that fits and is not larger than the product asks for."""
    found = []
    for (m, n, warps_m, warps_n), depth, stages in itertools.product(_FORMS, (64, 128), stages_of(target)):
        if (m > 16 and m >= 2 * max(shape.rows, 16)) or (n > 16 and n >= 2 * max(shape.cols, 16)):
            continue
        if depth > 64 and depth >= 2 * shape.depth * shape.itemsize:
            continue
        tiles = math.ceil(shape.rows / m) * math.ceil(shape.cols / n) * shape.batch
        steps = math.ceil(shape.depth * shape.itemsize / depth)
        for split in _SPLITS if shape.splittable else (1,):
            each = math.ceil(steps / split)
            if split > 1 and (split > steps // 2 or tiles * split > 4 * target.sms or math.ceil(steps / each) != split):
                continue
            tile = MmaTile(m, n, depth, warps_m, warps_n, stages, split)
            if tile.shared <= shared_limit(target):
                found.append(tile)
    return tuple(found)


TACTICS: tuple[MmaTactic, ...] = (MmaTactic(),)
