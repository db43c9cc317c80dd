"""``cuda.excite4``: a squeeze-and-excitation Region as four kernels, one after the other.

Offered beside the one kernel for all, so that measurement decides between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Tactic, Target, Variant
from ingot.kernels.cuda.excite.forms import fits
from ingot.kernels.cuda.excite.plan import plan_excite
from ingot.kernels.cuda.gemv.tactic import GemvTactic
from ingot.kernels.cuda.map import MapTactic
from ingot.kernels.cuda.reduce import REDUCE
from ingot.kernels.cuda.together import combinations, in_turn, part_of, variant_of
from ingot.kernels.triton.conv import ConvTactic

_MARKS = ("mean", "down", "up", "gate")
_OFFERED: dict[Kind, tuple[Tactic, ...]] = {
    Kind.REDUCE: (REDUCE,),
    Kind.CONV: (GemvTactic(), ConvTactic()),
    Kind.MAP: (MapTactic(),),
}
_EACH = (6, 1, 1, 2)
"""Likeliest variants of each part that are combined: those of the mean differ most."""
_LIMIT = 8


@dataclass(frozen=True)
class FourTactic:
    """The mean, both products and the gate's product by the kernels that each has alone."""

    name: str = "cuda.excite4"
    kinds: frozenset[Kind] = frozenset({Kind.EXCITE})

    def accepts(self, region: Region, target: Target) -> Answer:
        """What one kernel takes, too: otherwise the parts are better tuned apart."""
        answer = fits(region, target)
        parts = parts_of(region)
        if isinstance(answer, No):
            return answer
        if isinstance(parts, No):
            return parts
        makers = [_maker(part, target) for part in parts]
        return next((maker for maker in makers if isinstance(maker, No)), YES)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Combinations of the parts' likeliest variants, by predicted time."""
        ranked = []
        for mark, part, most in zip(_MARKS, _read(region), _EACH, strict=True):
            tactic = _tactic(part, target)
            likeliest = tactic.variants(part, target, bindings)[:most]
            ranked.append([(tactic.estimate(part, v, target, bindings), mark, v) for v in likeliest])
        return combinations(self.name, ranked, _LIMIT)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Four kernels, or five where the mean takes two."""
        parts = _read(region)
        programs = []
        for mark, part in zip(_MARKS, parts, strict=True):
            tactic = _tactic(part, target)
            programs.append(tactic.compile(part, variant_of(variant, mark, tactic.name), target))
        return in_turn(region, parts, programs)

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Sum of all."""
        total = 0.0
        for mark, part in zip(_MARKS, _read(region), strict=True):
            tactic = _tactic(part, target)
            total += tactic.estimate(part, variant_of(variant, mark, tactic.name), target, bindings)
        return total


@lru_cache(maxsize=256)
def parts_of(region: Region) -> tuple[Region, ...] | No:
    """The mean, the product down, the product up, and the gate's product, or why the Region is not made of these."""
    plan = plan_excite(region)
    if isinstance(plan, No):
        return plan
    return (
        part_of(region, Kind.REDUCE, (plan.mean, *plan.before)),
        part_of(region, Kind.CONV, (plan.first, *plan.hidden_ops)),
        part_of(region, Kind.CONV, (plan.second, *plan.gate_ops)),
        part_of(region, Kind.MAP, region.ops[-1:]),
    )


def _read(region: Region) -> tuple[Region, ...]:
    parts = parts_of(region)
    assert not isinstance(parts, No), parts
    return parts


@lru_cache(maxsize=1024)
def _maker(part: Region, target: Target) -> Tactic | No:
    """The first tactic that takes a part, or the last one's reason."""
    answer: Answer = No(f"no kernel for {part.kind.value}")
    for tactic in _OFFERED[part.kind]:
        answer = tactic.accepts(part, target)
        if not isinstance(answer, No):
            return tactic
    assert isinstance(answer, No)
    return answer


def _tactic(part: Region, target: Target) -> Tactic:
    tactic = _maker(part, target)
    assert not isinstance(tactic, No), tactic
    return tactic
