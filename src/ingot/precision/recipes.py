"""Alternatives, each measured on a sample before it is taken: equalised channels, methods, corrected biases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from ingot.precision.cache import Calibration, read_cache, write_cache
from ingot.precision.calibrate import Progress, Statistics, Wanted, calibrate, kept
from ingot.precision.data import Data
from ingot.precision.draft import Draft, draft_of
from ingot.precision.equalise import equalise, pairs_of
from ingot.precision.host import HostRuns
from ingot.precision.metrics import Evaluator, decibels
from ingot.precision.placement import place
from ingot.precision.report import Trial
from ingot.precision.settings import Settings

_GAIN = 0.97
"""An alternative must lower the squared error by this factor: below it is noise."""
_RIVALS = ("minmax", "mse")
"""Methods for all tensors that the choice per tensor is measured against."""


@dataclass(frozen=True)
class Prepared:
    """The model that is quantized, maybe with even channels, and what was seen of it."""

    model: ir.Model
    statistics: Statistics
    equalised: tuple[str, ...] = ()
    trials: list[Trial] = field(default_factory=list)


def wanted_of(model: ir.Model, settings: Settings) -> Wanted:
    """All that may be quantized, and the channels of what layers read."""
    placed = place(model, both_branches=settings.both_branches)
    return Wanted(placed.values, {str(layer.x.name): layer.channel_axis for layer in placed.layers})


def cached(model: ir.Model, sha256: str, path: Path, settings: Settings) -> Prepared | None:
    """What the cache ``path`` holds; None where there is no such file.

    Raises IngotError for a cache of another model.
    """
    if not path.exists():
        return None
    found = read_cache(path, sha256)
    names: list[str] = []
    if found.before is not None:
        model, names = equalise(model, found.before.channels)
    statistics = found.statistics if found.statistics.covers(wanted_of(model, settings)) else None
    return None if statistics is None else Prepared(model, statistics, tuple(names))


def calibrated(
    model: ir.Model, sha256: str, data: Data, evaluator: Evaluator, settings: Settings, progress: Progress
) -> Prepared:
    """Statistics over all of ``data``, of ``model`` or of its equalised form, whichever errs less on the sample."""
    before = chosen = None
    trials: list[Trial] = []
    names: list[str] = []
    if settings.recover and pairs_of(model):
        sample = kept(evaluator.batches, data.where)
        before = _seen(model, sample, settings)
        other, names = equalise(model, before.channels)
        errors = [
            _error(draft_of(m, s, settings.form, "auto", both_branches=settings.both_branches), evaluator)
            for m, s in ((model, before), (other, _seen(other, sample, settings)))
        ]
        better = errors[1] < _GAIN * errors[0]
        trials = [Trial("channels as they are", decibels(errors[0]), not better)]
        trials.append(Trial("channels equalised", decibels(errors[1]), better))
        chosen = other if better else None
    found = calibrate(_runs(chosen or model, settings), data, wanted_of(chosen or model, settings), progress)
    if settings.cache is not None:
        write_cache(settings.cache, Calibration(sha256, found, before if chosen is not None else None))
    return Prepared(chosen or model, found, tuple(names) if chosen is not None else (), trials)


def _runs(model: ir.Model, settings: Settings) -> HostRuns:
    return HostRuns(model, wanted_of(model, settings).names)


def _seen(model: ir.Model, sample: Data, settings: Settings) -> Statistics:
    return calibrate(_runs(model, settings), sample, wanted_of(model, settings))


def best_draft(prepared: Prepared, evaluator: Evaluator, settings: Settings) -> tuple[Draft, list[Trial]]:
    """The draft with the least error of the outputs on the sample, and what was tried."""

    def drafted(method: str) -> Draft:
        return draft_of(
            prepared.model, prepared.statistics, settings.form, method, both_branches=settings.both_branches
        )  # fmt: skip

    methods = ("auto", *_RIVALS) if settings.method == "auto" else (settings.method,)
    drafts = [drafted(method) for method in methods]
    errors = [_error(draft, evaluator) for draft in drafts]
    place_of = min(range(len(drafts)), key=lambda i: errors[i] * (_GAIN if i == 0 else 1.0))
    best, least = drafts[place_of], errors[place_of]
    trials = [
        Trial(f"method {name}", decibels(error), draft is best)
        for name, error, draft in zip(methods, errors, drafts, strict=True)
    ]
    if settings.recover:
        corrected = replace(best, corrected=True)
        error = _error(corrected, evaluator)
        better = error < _GAIN * least
        trials.append(Trial("biases corrected", decibels(error), better))
        best = corrected if better else best
    return best, trials


def _error(draft: Draft, evaluator: Evaluator) -> float:
    return evaluator.error(HostRuns(draft.written(())))
