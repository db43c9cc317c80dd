"""``cuda.inverted``: an inverted residual block in one kernel, by mma.sync (sm_80 and later)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import Answer
from ingot.graph.dims import Bindings, evaluate
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.inverted.apart import InTurnTactic
from ingot.kernels.cuda.inverted.cost import accepts, seconds, tiles
from ingot.kernels.cuda.inverted.plan import InvertedPlan, plan_inverted
from ingot.kernels.cuda.inverted.source import ENTRY, generate
from ingot.kernels.cuda.inverted.tile import InvertedTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.cuda.source import Source

_PER_AREA = 4
"""Most variants of one area and number of blocks."""
_LIMIT = 48


@dataclass(frozen=True)
class InvertedTactic:
    """All convolutions of a tile in one launch; the hidden channels never leave shared memory."""

    name: str = "cuda.inverted"
    kinds: frozenset[Kind] = frozenset({Kind.INVERTED})

    def accepts(self, region: Region, target: Target) -> Answer:
        """16-bit floats, channels innermost in multiples of 8, weights that fit in the shared memory of a cluster."""
        return accepts(region, target)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Tiles by predicted time, a few of each area."""
        plan = _planned(region)
        batch = evaluate(plan.batch, bindings)
        ranked = sorted(
            (seconds(tile, target, batch), str(tile.variant(self.name)), tile) for tile in tiles(plan, target)
        )
        seen: Counter[tuple[int, int, int]] = Counter()
        head = []
        for _, _, tile in ranked:
            key = tile.height, tile.width, tile.cluster
            seen[key] += 1
            if seen[key] <= _PER_AREA:
                head.append(tile.variant(self.name))
        return head[:_LIMIT]

    def source(self, region: Region, variant: Variant) -> Source:
        """CUDA C++ of a variant."""
        return generate(InvertedTile.of(_planned(region), variant))

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Machine code of a variant."""
        tile, source = InvertedTile.of(_planned(region), variant), self.source(region, variant)
        cubin = compile_cuda(source.text, ENTRY, target, options=quick_math(region)).cubin
        pdl = Pdl.TRIGGERS if target.pdl else Pdl.NONE
        return Program((
            Kernel(ENTRY, cubin, (source.grid, 1, 1), tile.threads, tile.shared, source.arguments, pdl, tile.cluster),
        ))  # fmt: skip

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Predicted seconds."""
        plan = _planned(region)
        return seconds(InvertedTile.of(plan, variant), target, evaluate(plan.batch, bindings))


def _planned(region: Region) -> InvertedPlan:
    plan = plan_inverted(region)
    assert isinstance(plan, InvertedPlan), plan
    return plan


TACTICS: tuple[InvertedTactic | InTurnTactic, ...] = (InvertedTactic(), InTurnTactic())
