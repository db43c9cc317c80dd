"""Which layers stay as they are: the fewest with which the loss is within the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingot.precision.layers import first_and_last
from ingot.precision.metrics import Evaluator
from ingot.precision.mixed import Mixture
from ingot.precision.settings import Settings
from ingot.precision.switches import sensitivities
from ingot.progress import Progress

_EDGES = 0.5
"""Share of the budget that may be lost with the first and the last layers in 8 bits: they matter most, and cost little
time."""


@dataclass
class Outcome:
    """Layers that stay as they are, with the reason, and what the rest loses."""

    keep: dict[str, str]
    loss: float | None = None
    alone: Mapping[str, float] = field(default_factory=dict)
    """Squared error of the outputs, over their own square, with one layer alone quantized; where it was measured."""
    notes: list[str] = field(default_factory=list)
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Microseconds of a layer by precision; where they decided."""


def asked(settings: Settings) -> dict[str, str]:
    """What the user wants to stay as it is."""
    return dict.fromkeys(settings.keep, "asked for")


def without_budget(draft: Mixture, settings: Settings) -> Outcome:
    """First and last layers stay as they are, unmeasured."""
    return Outcome({**first_and_last(draft.model.graph), **asked(settings)})


def search(draft: Mixture, sample: Evaluator, full: Evaluator, settings: Settings, progress: Progress) -> Outcome:
    """The fewest layers given back with which the loss on ``full`` is within the budget.

    All layers are tried first, and must stay within half of the budget; then all but the first and the last ones, then
    without those whose quantization alone changes the outputs of ``sample`` most: how many of them, by bisection.
    """
    assert settings.budget is not None
    budget, tried = settings.budget, 0

    def loss(keep: Mapping[str, str]) -> float:
        nonlocal tried
        tried += 1
        progress("evaluate", tried, 0)
        return full.loss(draft.written(keep))

    mine = asked(settings)
    made = Outcome(mine, loss(mine))
    assert made.loss is not None
    if made.loss <= _EDGES * budget:
        return made
    edges = {**first_and_last(draft.model.graph), **mine}
    found = loss(edges)
    if found <= budget:
        return Outcome(edges, found)
    if made.loss <= budget:
        return made
    alone: dict[str, float] = {}
    for part in draft.parts(mine):
        alone |= sensitivities(part.draft, part.placed, sample, progress)
    ranked = sorted((name for name in alone if name not in edges), key=lambda name: -alone[name])
    few, many, best = 0, len(ranked), found
    while many - few > 1:
        half = (few + many) // 2
        value = loss(_with(edges, ranked[:half], alone))
        few, many, best = (few, half, value) if value <= budget else (half, many, best)
    keep = _with(edges, ranked[:many], alone)
    if many == len(ranked):
        best = loss(keep)
    notes = [] if best <= budget else [f"the loss of {best:.4f} is beyond the budget even without 8-bit layers"]
    return Outcome(keep, best, alone, notes)


def _with(edges: Mapping[str, str], names: list[str], alone: Mapping[str, float]) -> dict[str, str]:
    given = {name: f"alone it makes an error of {alone[name]:.2e} of the outputs" for name in names}
    return {**given, **edges}
