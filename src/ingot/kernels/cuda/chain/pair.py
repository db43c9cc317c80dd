"""``cuda.pair``: a CHAIN or SUM Region as two kernels of the Hopper family, one after the other.

Offered beside the one kernel for both, so that measurement decides between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Target, Variant
from ingot.kernels.cuda.chain.plan import Halves, halves, plan_chain
from ingot.kernels.cuda.hopper.sums import sum_operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic
from ingot.kernels.cuda.together import combinations, in_turn, variant_of

_MARKS = ("a", "b")
_EACH = 6
"""Likeliest variants of each half that are combined."""
_LIMIT = 20
_HOPPER = HopperTactic()


@dataclass(frozen=True)
class PairTactic:
    """Both convolutions by ``cuda.hopper``; the tensor between them goes through memory."""

    name: str = "cuda.pair"
    kinds: frozenset[Kind] = frozenset({Kind.CHAIN, Kind.SUM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """What one kernel takes, too: other convolutions are better tuned apart."""
        whole = sum_operands(region) if region.kind is Kind.SUM else plan_chain(region)
        parts = halves(region)
        if isinstance(whole, No):
            return whole
        if isinstance(parts, No):
            return parts
        return _HOPPER.accepts(parts.first, target) and _HOPPER.accepts(parts.second, target)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Combinations of the halves' likeliest variants, by predicted time."""
        parts = _read(region)
        ranked = []
        for mark, half in zip(_MARKS, (parts.first, parts.second), strict=True):
            likeliest = _HOPPER.variants(half, target, bindings)[:_EACH]
            ranked.append([(_HOPPER.estimate(half, v, target, bindings), mark, v) for v in likeliest])
        return combinations(self.name, ranked, _LIMIT)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Two kernels; the tensor between them is a workspace where nobody else reads it."""
        parts = _read(region)
        halves_of = (parts.first, parts.second)
        chosen = _apart(variant)
        return in_turn(
            region, halves_of, [_HOPPER.compile(h, v, target) for h, v in zip(halves_of, chosen, strict=True)]
        )

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Sum of both."""
        parts, (first, second) = _read(region), _apart(variant)
        return _HOPPER.estimate(parts.first, first, target, bindings) + _HOPPER.estimate(
            parts.second, second, target, bindings
        )


@lru_cache(maxsize=256)
def _read(region: Region) -> Halves:
    parts = halves(region)
    assert isinstance(parts, Halves), parts
    return parts


def _apart(variant: Variant) -> tuple[Variant, Variant]:
    first, second = (variant_of(variant, mark, _HOPPER.name) for mark in _MARKS)
    return first, second
