"""``cuda.in_turn``: an inverted residual block as the kernels that its convolutions have alone, in turn.

Offered beside the one kernel for all, so that measurement decides between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Program, Tactic, Target, Variant
from ingot.kernels.cuda.depthwise.floats import FloatTactic
from ingot.kernels.cuda.hopper.tactic import HopperTactic
from ingot.kernels.cuda.inverted.cost import accepts
from ingot.kernels.cuda.inverted.plan import parts_of
from ingot.kernels.cuda.together import combinations, in_turn, variant_of
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic

_MARKS = ("a", "b", "c")
_POINTWISE: tuple[Tactic, ...] = (HopperTactic(), ConvTactic())
_OFFERED: tuple[tuple[Tactic, ...], ...] = (_POINTWISE, (FloatTactic(), DepthwiseTactic()), _POINTWISE)
"""Tactics of each part, the last parts last."""
_EACH = 2
"""Likeliest variants of each part and tactic that are combined."""
_LIMIT = 24


@dataclass(frozen=True)
class InTurnTactic:
    """Two or three kernels; what is between them goes through memory."""

    name: str = "cuda.in_turn"
    kinds: frozenset[Kind] = frozenset({Kind.INVERTED})

    def accepts(self, region: Region, target: Target) -> Answer:
        """What one kernel takes, too: otherwise the parts are better tuned apart."""
        answer = accepts(region, target)
        if isinstance(answer, No):
            return answer
        for _, part, offered in _each(region):
            answers = [tactic.accepts(part, target) for tactic in offered]
            if not any(answers):
                return answers[-1]
        return YES

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Combinations of the parts' likeliest variants, by predicted time."""
        ranked = []
        for mark, part, offered in _each(region):
            found = []
            for number, tactic in enumerate(offered):
                if not tactic.accepts(part, target):
                    continue
                for variant in tactic.variants(part, target, bindings)[:_EACH]:
                    found.append((tactic.estimate(part, variant, target, bindings), f"{mark}{number}", variant))
            ranked.append(found)
        return combinations(self.name, ranked, _LIMIT)

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """A kernel for each part."""
        parts = _read(region)
        chosen = zip(parts, _apart(region, variant), strict=True)
        return in_turn(region, parts, [tactic.compile(part, own, target) for part, (tactic, own) in chosen])

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Sum of all."""
        chosen = zip(_read(region), _apart(region, variant), strict=True)
        return sum(tactic.estimate(part, own, target, bindings) for part, (tactic, own) in chosen)


def _read(region: Region) -> tuple[Region, ...]:
    parts = parts_of(region)
    assert not isinstance(parts, No), parts
    return parts


def _each(region: Region) -> list[tuple[str, Region, tuple[Tactic, ...]]]:
    """Letter, Region and tactics of each part."""
    parts = _read(region)
    first = len(_MARKS) - len(parts)
    return list(zip(_MARKS[first:], parts, _OFFERED[first:], strict=True))


def _apart(region: Region, variant: Variant) -> list[tuple[Tactic, Variant]]:
    """Tactic and variant of each part: behind a part's letter is its tactic's number."""
    marks = {key.partition(".")[0] for key, _ in variant.params}
    found = []
    for letter, _, offered in _each(region):
        mark = next(mark for mark in sorted(marks) if mark[0] == letter)
        tactic = offered[int(mark[1:])]
        found.append((tactic, variant_of(variant, mark, tactic.name)))
    return found
