"""The fastest precision of every layer with which the loss stays within the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import onnx_ir as ir

from ingot.precision.calibrate import first
from ingot.precision.data import Data
from ingot.precision.draft import Draft
from ingot.precision.metrics import Evaluator, metric_of
from ingot.precision.mixed import FLOAT, Mixed, written
from ingot.precision.observer import Opens
from ingot.precision.quantizer import SAMPLE, Origin, Result, expect_layers, full_evaluator, reported
from ingot.precision.recipes import best_draft, prepared_for
from ingot.precision.report import Trial
from ingot.precision.search import Outcome
from ingot.precision.settings import Settings
from ingot.precision.switches import sensitivities
from ingot.progress import Progress, silent

Numbers = Mapping[str, Mapping[str, float]]
"""By layer, then by precision: ``float``, ``int8`` or ``fp8``."""
Precisions = dict[str, str]
"""Precision of each layer."""
Timed = Callable[[ir.Model, Mapping[str, ir.Model]], Numbers]
"""(a model, Q/DQ forms of it with all layers in one precision, by its name) to microseconds of each layer."""


_ALIKE = 1.02
"""Times that differ by no more than this factor are one."""


class Candidate(NamedTuple):
    """One way to build the model within the budget."""

    name: str
    """The one precision that all layers have: ``int8``, ``fp8`` or ``float``; ``int8 and float`` or ``fp8 and float``
    where some give back; ``mixed``."""
    result: Result


def quantize_best(
    model: ir.Model,
    sha256: str,
    data: Data,
    settings: Settings,
    precisions: Sequence[str],
    timed: Timed,
    progress: Progress = silent,
    elsewhere: Opens | None = None,
) -> list[Candidate]:
    """Models that lose no more than the budget: the mix that should be fastest, and single precisions that fit.

    ``settings.precision`` does not count: ``precisions`` are what the target has. Ranges are calibrated once, on the
    CPU or ``elsewhere``, and the drafts of all precisions are of one model. The last one is the model with all layers
    in floating point. Raises what :func:`ingot.precision.quantizer.quantize_model` raises.
    """
    expect_layers(model, settings)
    sample = first(data, SAMPLE)
    evaluator = Evaluator(model, sample, metric_of("cosine"))
    prepared = prepared_for(model, sha256, data, evaluator, settings, progress, elsewhere)
    drafts: dict[str, Draft] = {}
    trials: list[Trial] = []
    for name in precisions:
        drafts[name], tried = best_draft(prepared, evaluator, replace(settings, precision=name), data, progress)
        trials += [msgspec.structs.replace(trial, what=f"{name}: {trial.what}") for trial in tried]
    mixed = Mixed(drafts)
    full = full_evaluator(model, data, settings)
    times = timed(prepared.model, {name: draft.written(settings.keep) for name, draft in drafts.items()})
    errors = {p: sensitivities(d, d.placed(settings.keep), evaluator, progress) for p, d in drafts.items()}
    origin = Origin(prepared, settings, sample, evaluator, full, trials)
    found = _found(mixed, times, _by_layer(mixed, errors), _Loss(mixed, full, progress), settings)
    return [_candidate(name, chosen, loss, mixed, times, errors, origin) for name, chosen, loss in found]


def _by_layer(mixed: Mixed, errors: Mapping[str, Mapping[str, float]]) -> Numbers:
    names = [layer.name for layer in mixed.layers]
    return {name: {FLOAT: 0.0} | {p: alone.get(name, 0.0) for p, alone in errors.items()} for name in names}


# -- the order in which layers give back


class Step(NamedTuple):
    """A layer that takes another precision."""

    layer: str
    precision: str


def fastest(times: Numbers, errors: Numbers) -> Precisions:
    """The precision with the least time of each layer; of those that take as long, the one with the least error."""
    found = {}
    for name, micros in times.items():
        bound = _ALIKE * min(micros.values())
        found[name] = min((p for p in micros if micros[p] <= bound), key=lambda p: (errors[name][p], micros[p]))
    return found


def steps_back(start: Mapping[str, str], times: Numbers, errors: Numbers) -> list[Step]:
    """From ``start`` to all layers in floating point, first what takes most error of the outputs away for its time."""
    now, steps = dict(start), list[Step]()

    def price(step: Step) -> tuple[float, float]:
        here = now[step.layer]
        less = errors[step.layer][here] - errors[step.layer][step.precision]
        more = times[step.layer][step.precision] - times[step.layer][here]
        return (more / less if less > 0 else float("inf")), -less

    while any(precision != FLOAT for precision in now.values()):
        ways = [
            Step(name, other)
            for name, here in now.items()
            if here != FLOAT
            for other in times[name]
            if other == FLOAT or errors[name][other] < errors[name][here]
        ]
        steps.append(min(ways, key=price))
        now[steps[-1].layer] = steps[-1].precision
    return steps


class _Loss:
    """What a choice of precisions loses."""

    def __init__(self, mixed: Mixed, full: Evaluator | None, progress: Progress) -> None:
        self._mixed, self._full, self._progress, self._tried = mixed, full, progress, 0

    def __call__(self, chosen: Mapping[str, str]) -> float:
        assert self._full is not None
        self._tried += 1
        self._progress("evaluate", self._tried, 0)
        return self._full.loss(written(self._mixed.parts(chosen)))


def _found(
    mixed: Mixed, times: Numbers, errors: Numbers, loss: _Loss, settings: Settings
) -> Iterator[tuple[str, Precisions, float | None]]:
    """Names, precisions and losses of the candidates: each precision beside float, the mix, float alone."""
    kept = {layer.name: FLOAT for layer in mixed.layers if layer.name in settings.keep}
    open_times = {layer.name: times[layer.name] for layer in mixed.layers if layer.name not in kept}
    ways: dict[str, tuple[Precisions, Numbers]] = {}
    for precision in mixed.drafts:
        two = {name: {p: micros[p] for p in (FLOAT, precision)} for name, micros in open_times.items()}
        ways[precision] = (dict.fromkeys(open_times, precision), two)
    ways["mixed"] = (fastest(open_times, errors), open_times)
    seen: list[Precisions] = []
    for name, (start, allowed) in ways.items():
        chosen, value = kept | start, None
        if settings.budget is not None:
            chosen, value = _within(kept, start, steps_back(start, allowed, errors), loss, settings.budget)
        if chosen not in seen and any(precision != FLOAT for precision in chosen.values()):
            seen.append(chosen)
            given_back = any(chosen[layer] == FLOAT for layer in open_times)
            yield name if name == "mixed" or not given_back else f"{name} and float", chosen, value
    yield FLOAT, {layer.name: FLOAT for layer in mixed.layers}, None if settings.budget is None else 0.0


def _within(
    kept: Precisions, start: Precisions, steps: Sequence[Step], loss: _Loss, budget: float
) -> tuple[Precisions, float]:
    """The fewest steps, by bisection, with which the loss is within ``budget``; after all of them it is."""

    def after(count: int) -> Precisions:
        return kept | start | {step.layer: step.precision for step in steps[:count]}

    few, many, found = -1, len(steps), 0.0
    tried = 0  # most models lose little: the fastest is tried first
    while many - few > 1:
        value = loss(after(tried))
        if value <= budget:
            many, found = tried, value
        else:
            few = tried
        tried = (few + many) // 2
    return after(many), found


# -- what there is to say


def _candidate(
    name: str,
    chosen: Precisions,
    loss: float | None,
    mixed: Mixed,
    times: Numbers,
    errors: Mapping[str, Mapping[str, float]],
    origin: Origin,
) -> Candidate:
    parts = mixed.parts(chosen)
    keep = {
        layer: "asked for" if layer in origin.settings.keep else _why(times[layer], layer, errors)
        for layer, precision in chosen.items()
        if precision == FLOAT
    }
    alone = {layer: errors[precision][layer] for layer, precision in chosen.items() if precision != FLOAT}
    outcome = Outcome(keep, loss, alone, times=times)
    return Candidate(name, reported("best", parts, written(parts), outcome, origin))


def _why(times: Mapping[str, float], layer: str, errors: Mapping[str, Mapping[str, float]]) -> str:
    """Why a layer is in floating point."""
    fast = min(times, key=lambda precision: times[precision])
    if fast == FLOAT:
        return "8 bits are not faster here"
    saved = times[FLOAT] - times[fast]
    return f"in {fast} alone it makes an error of {errors[fast][layer]:.2e} of the outputs, and saves {saved:.1f} µs"
