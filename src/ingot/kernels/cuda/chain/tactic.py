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
from ingot.kernels.cuda.chain.tile import MOST_SLOTS, ChainTile, chunks, piece_bytes
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.cuda.source import Source

_LEAST_SLOTS = 3
_STREAMED = (3, 4, 5, 6, 8)
"""Pieces of weights in flight where they do not all stay."""
_AMOUNTS = 2
"""Of them those that are tried, the largest that fit."""
_SHARED_WEIGHTS = 512 << 10
"""Bytes of weights from which blocks may share each piece: fewer reach all of them fast enough."""
_HINTS = (0, 1)


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
        cubin = compile_cuda(source.text, ENTRY, target, options=quick_math(region), specific=True).cubin
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
    every = 2 * chunks(plan)
    amounts = (every, *(n for n in reversed(_STREAMED) if n < every))
    weights = chunks(plan) * sum(piece_bytes(plan))
    found = []
    for units, groups, images in itertools.product((1, 2), (1, 2, 3), (1, 2)):
        least = [ChainTile(units, groups, images, _LEAST_SLOTS, pieces) for pieces in amounts]
        for tile in [t for t in least if t.fits(plan)][:_AMOUNTS]:
            slots = range(_LEAST_SLOTS, MOST_SLOTS + 1)
            roomy = [t for count in slots if (t := replace(tile, slots=count)).fits(plan)][-1]
            shares = weights >= _SHARED_WEIGHTS and plan.narrow % 32 == 0
            for cluster, hints in itertools.product((1, 2) if shares else (1,), _HINTS):
                found.append(replace(roomy, cluster=cluster, hints=hints))
    return found


TACTICS: tuple[ChainTactic | PairTactic, ...] = (ChainTactic(), PairTactic())
