"""``cuda.stem``: first convolutions of a network, with the pooling behind them, from sm_75 on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cost import shared_limit
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.source import Source
from ingot.kernels.cuda.stem.cost import seconds
from ingot.kernels.cuda.stem.plan import StemPlan, plan_stem
from ingot.kernels.cuda.stem.source import ENTRY, generate, options
from ingot.kernels.cuda.stem.tile import PIXELS, Form, StemTile

_LEAST_CC = 75
_LIMIT = 16
_WARPS = (4, 8)
_ROWS = (1, 2, 3, 4, 7, 8, 14)
_MOST_TILES = 64
"""Tiles per block without a pooling: above, blocks are too few and too large to overlap."""


@dataclass(frozen=True)
class StemTactic:
    """An implicit product out of rows of the image in shared memory."""

    name: str = "cuda.stem"
    kinds: frozenset[Kind] = frozenset({Kind.STEM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Few channels, a small window, 16-bit operands, channels-last results."""
        if target.cc < _LEAST_CC:
            return No(f"{target.name} is older than sm_75")
        plan = plan_stem(region)
        if isinstance(plan, No):
            return plan
        if target.cc < 80 and plan.dtype == "bfloat16":
            return No(f"{target.name} has no bfloat16", fix="build in float16")
        return YES if candidates(plan, target) else No("no tile fits in shared memory")

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time."""
        plan = _planned(region)
        batch = evaluate(plan.batch, bindings)
        ranked = sorted(candidates(plan, target), key=lambda t: (seconds(Form(plan, t), target, batch), str(t)))
        return [tile.variant(self.name) for tile in ranked[:_LIMIT]]

    def source(self, region: Region, variant: Variant, target: Target) -> Source:
        """CUDA C++ of a variant."""
        return generate(Form(_planned(region), StemTile.of(variant)), target)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        form = Form(_planned(region), StemTile.of(variant))
        source = generate(form, target)
        cubin = compile_cuda(source.text, ENTRY, target, options=options(form), specific=target.cc == 90).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((
            Kernel(ENTRY, cubin, (source.grid, 1, 1), form.tile.threads, form.shared, source.arguments, pdl),
        ))  # fmt: skip

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        plan = _planned(region)
        return seconds(Form(plan, StemTile.of(variant)), target, evaluate(plan.batch, bindings))


@lru_cache(maxsize=64)
def candidates(plan: StemPlan, target: Target) -> tuple[StemTile, ...]:
    """Every tile that fits and is not larger than the image asks for."""
    height, width = plan.result_size
    tiles = -(-width // PIXELS)
    found = []
    for warps, rows in itertools.product(_WARPS, _ROWS):
        if rows > height and rows > 1:
            continue
        if plan.pool is not None:
            wides = [warps]
        else:
            wides = sorted({w for w in (1, 2, 4, 7, 8, 10, tiles) if w <= min(tiles, 20) and w * rows >= warps // 2})
        found += [StemTile(warps, rows, wide) for wide in wides if rows * wide <= _MOST_TILES]
    return tuple(tile for tile in found if Form(plan, tile).shared <= shared_limit(target))


def _planned(region: Region) -> StemPlan:
    plan = plan_stem(region)
    assert isinstance(plan, StemPlan), plan
    return plan


TACTICS: tuple[StemTactic, ...] = (StemTactic(),)
