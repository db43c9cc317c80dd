"""Which variants could run a Region, and which of them deserve a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import YES, Answer, No
from ingot.graph.dims import Bindings
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Tactic, Target, Variant

SHORTLIST = {3: 12, 4: 30}
"""Variants measured per Region at each optimisation level; level 5 measures all."""
_KNOWN = 3
"""Variants measured because a database has them among a Region's fastest."""


@dataclass(frozen=True)
class Candidate:
    """One variant of one accepting tactic, with its predicted time."""

    tactic: Tactic
    variant: Variant
    seconds: float

    @property
    def text(self) -> str:
        """The variant's text: the key in databases and the breaker of ties."""
        return str(self.variant)


@dataclass(frozen=True)
class Candidates:
    """Every variant for one Region."""

    offered: tuple[Candidate, ...]
    """In the tactics' own order: by tactic, each one's likeliest first."""
    refusals: tuple[No, ...]
    """Why the other tactics cannot."""

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """Best predicted first; equal predictions in order of the variant's text."""
        return tuple(sorted(self.offered, key=lambda c: (c.seconds, c.text)))

    def shortlist(self, level: int, known: Sequence[str] = ()) -> tuple[Candidate, ...]:
        """What to measure: the best predicted, each tactic's own best, and the ``known`` good ones."""
        ranked = self.ranked
        size = SHORTLIST.get(level, len(ranked))
        best_of: dict[str, str] = {}
        for candidate in ranked:
            best_of.setdefault(candidate.tactic.name, candidate.text)
        keep = {c.text for c in ranked[:size]} | set(best_of.values()) | set(known)
        return tuple(c for c in ranked if c.text in keep)


def best_known(micros: Mapping[str, float]) -> list[str]:
    """The fastest of the variants with these times: the ``known`` of a shortlist."""
    return sorted(micros, key=lambda text: (micros[text], text))[:_KNOWN]


def candidates(region: Region, target: Target, bindings: Bindings, tactics: Sequence[Tactic]) -> Candidates:
    """Ask every tactic of the Region's kind for its variants at the shape ``bindings``."""
    offered: dict[str, Candidate] = {}
    refusals: list[No] = []
    for tactic in tactics:
        answer = _answer(tactic, region, target)
        if answer is None:
            continue
        if isinstance(answer, No):
            refusals.append(answer)
            continue
        for variant in tactic.variants(region, target, bindings):
            seconds = tactic.estimate(region, variant, target, bindings)
            offered.setdefault(str(variant), Candidate(tactic, variant, seconds))
    return Candidates(tuple(offered.values()), tuple(refusals))


def first_acceptance(region: Region, target: Target, tactics: Sequence[Tactic]) -> Answer:
    """Yes if any tactic can run ``region``; otherwise a No that holds every tactic's reason.

    Lowering asks this to send a Region to the host, with the reason, before anything is tuned.
    """
    if region.kind is Kind.VIEW:
        return YES
    reasons: list[str] = []
    for tactic in tactics:
        answer = _answer(tactic, region.canonical, target)
        if answer is None:
            continue
        if not isinstance(answer, No):
            return YES
        reasons.append(f"{tactic.name}: {answer.reason}")
    return No("; ".join(reasons) or f"no device kernel for kind {region.kind.value}", node=region.name)


def _answer(tactic: Tactic, region: Region, target: Target) -> Answer | None:
    """The tactic's answer, or None when the kind is none of its business."""
    return tactic.accepts(region, target) if region.kind in tactic.kinds else None
