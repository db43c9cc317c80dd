"""``cuda.gemv``: products of at most eight rows, such as classifiers and the gates of squeeze-and-excitation.

Tensor cores would multiply mostly nothing: time is that of the weights' way. Each thread multiplies what it has fetched
itself, before it has to wait for A, and sums in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.gemv.source import ENTRY, generate
from ingot.kernels.cuda.gemv.tile import MOST_ROWS, GemvTile, candidates, seconds
from ingot.kernels.cuda.mma.operands import MmaOperands, product_operands
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import check_epilogue
from ingot.kernels.cuda.source import Source

_FLOATS = ("float16", "bfloat16", "float32")
_LIMIT = 8
"""Variants: many are alike, and others deserve a measurement too."""


@dataclass(frozen=True)
class GemvTactic:
    """Multiply-adds of threads that share the depth of few columns each."""

    name: str = "cuda.gemv"
    kinds: frozenset[Kind] = frozenset({Kind.CONV, Kind.GEMM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Floats of one type, at most eight rows; of convolutions 1 x 1 ones. No results of one byte."""
        o = _operands(region)
        return o if isinstance(o, No) else check_epilogue(o)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time."""
        o = _read(region)
        ranked = sorted(candidates(o), key=lambda t: (seconds(o, t, target, bindings), str(t)))
        return [tile.variant(self.name) for tile in ranked[:_LIMIT]]

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return generate(_read(region), GemvTile.of(variant))

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        source = self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((Kernel(ENTRY, cubin, (source.grid, 1, 1), variant["th"], 0, source.arguments, pdl),))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(_read(region), GemvTile.of(variant), target, bindings)


@lru_cache(maxsize=256)
def _operands(region: Region) -> MmaOperands | No:
    """The product, or why it is not for this kernel."""
    a, b = (region.spec_of[name].dtype if name in region.spec_of else "" for name in region.anchor.inputs[:2])
    if a != b or a not in _FLOATS:
        return No(f"{region.anchor.op} of {a} and {b}")
    o = product_operands(region)
    if isinstance(o, No):
        return o
    if o.gather or o.taps > 1:
        return No("a window of several pixels")
    if not isinstance(o.rows, int) or not 0 < o.rows <= MOST_ROWS:
        return No(f"{o.rows} rows, where this kernel is for at most {MOST_ROWS}")
    if any(itemsize(spec.dtype) == 1 for spec in region.output_specs):
        return No("a result of bytes")
    return o


def _read(region: Region) -> MmaOperands:
    o = _operands(region)
    assert isinstance(o, MmaOperands), o
    return o


TACTICS: tuple[GemvTactic, ...] = (GemvTactic(),)
