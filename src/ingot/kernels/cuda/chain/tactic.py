"""``cuda.chain`` and ``cuda.pair``: two pointwise convolutions in one kernel on sm_90, and in two for comparison."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.chain.cost import seconds
from ingot.kernels.cuda.chain.pair import PairTactic
from ingot.kernels.cuda.chain.plan import ChainPlan, plan_chain
from ingot.kernels.cuda.chain.source import ENTRY, generate
from ingot.kernels.cuda.chain.tile import MOST_SLOTS, ChainTile, chunks
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.source import Source

_LEAST_SLOTS = 3
_STREAMED = (2, 3, 4)
"""Chunks of weights in flight where they do not all stay."""


@dataclass(frozen=True)
class ChainTactic:
    """Both products of a tile of rows by one block, the tensor between them in shared memory."""

    name: str = "cuda.chain"
    kinds: frozenset[Kind] = frozenset({Kind.CHAIN})

    def accepts(self, region: Region, target: Target) -> Answer:
        """Two 1 x 1 convolutions in 16-bit floats on sm_90, the second of at most 256 output channels."""
        if target.cc != 90:
            return No(f"{target.name} is not sm_90")
        plan = plan_chain(region)
        return plan if isinstance(plan, No) else YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time."""
        plan = _read(region)
        tiles = sorted(candidates(plan), key=lambda t: (seconds(plan, t, target, bindings), str(t)))
        return [tile.variant(self.name) for tile in tiles]

    def source(self, region: Region, variant: Variant, target: Target) -> Source:
        """CUDA C++ of a variant."""
        return generate(_read(region), ChainTile.of(variant), target)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        plan, tile = _read(region), ChainTile.of(variant)
        source = generate(plan, tile, target)
        cubin = compile_cuda(source.text, ENTRY, target, options=("--prec-div=false",), specific=True).cubin
        grid = (source.grid, 1, 1)
        kernel = Kernel(
            ENTRY, cubin, grid, tile.threads, tile.shared(plan), source.arguments, Pdl.TRIGGERS, tile.cluster
        )
        return Program((kernel,))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        return seconds(_read(region), ChainTile.of(variant), target, bindings)


@lru_cache(maxsize=256)
def _read(region: Region) -> ChainPlan:
    plan = plan_chain(region)
    assert isinstance(plan, ChainPlan), plan
    return plan


def candidates(plan: ChainPlan) -> list[ChainTile]:
    """Every tile that fits, each with as many slots as there is room for."""
    found = []
    every = chunks(plan)
    stages = dict.fromkeys((every, *(s for s in _STREAMED if s < every)))
    for units, groups, images, stage in itertools.product((1, 2), (1, 2, 3), (1, 2), stages):
        for cluster in (1, 2) if stage < every else (1,):
            tile = ChainTile(units, groups, images, _LEAST_SLOTS, stage, cluster)
            if plan.narrow % (16 * cluster) or not tile.fits(plan):
                continue
            roomy = [t for slots in range(_LEAST_SLOTS, MOST_SLOTS + 1) if (t := replace(tile, slots=slots)).fits(plan)]
            found += [replace(roomy[-1], hints=hints) for hints in (0, 1)]
    return found


TACTICS: tuple[ChainTactic | PairTactic, ...] = (ChainTactic(), PairTactic())
