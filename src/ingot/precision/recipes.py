"""Alternatives, each measured on a sample before it is taken: equalised channels, methods, corrected biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from ingot.errors import No
from ingot.precision.cache import Calibration, read_cache, write_cache
from ingot.precision.calibrate import Statistics, calibrate, kept, limited
from ingot.precision.data import Data
from ingot.precision.draft import Draft, draft_of
from ingot.precision.equalise import equalise, pairs_of
from ingot.precision.host import HostRuns
from ingot.precision.layers import FIRST, first_and_last
from ingot.precision.metrics import Evaluator, decibels
from ingot.precision.mixed import Mixture, alone, with_others
from ingot.precision.observer import HostObserver, Opens, Wanted
from ingot.precision.placement import place
from ingot.precision.report import Trial
from ingot.precision.rounding import SAMPLES, adaptive_flips
from ingot.precision.settings import Settings
from ingot.progress import Progress

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
    placed = place(model, both_branches=settings.host)
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
        model, names = equalise(model, found.before.channels, scaled=found.scaled)
    statistics = found.statistics if found.statistics.covers(wanted_of(model, settings)) else None
    return None if statistics is None else Prepared(model, statistics, tuple(names))


def prepared_for(
    model: ir.Model,
    sha256: str,
    data: Data,
    evaluator: Evaluator,
    settings: Settings,
    progress: Progress,
    elsewhere: Opens | None = None,
) -> Prepared:
    """What the cache holds, where there is one, else what calibration finds.

    That is statistics over all of ``data``, of ``model`` or of the equalised form that errs least on the sample.
    ``elsewhere``: what may look at the data in place of the CPU.
    """
    held = None if settings.cache is None else cached(model, sha256, settings.cache, settings)
    if held is not None:
        return held
    tried = _Tried("channels as they are", model)
    trials: list[Trial] = []
    before = None
    if settings.recover and pairs_of(model, scaled=True):
        progress("equalise", 0, 1)
        sample = kept(evaluator.batches, data.where)
        before = _seen(model, sample, settings)
        forms = [tried, *_forms(model, before)]
        seen = [before, *(_seen(form.model, sample, settings) for form in forms[1:])]
        errors = [_error(drafted(f.model, s, "auto", settings), evaluator) for f, s in zip(forms, seen, strict=True)]
        best = min(range(len(forms)), key=lambda i: errors[i] * (_GAIN if i == 0 else 1.0))
        tried = forms[best]
        trials = [Trial(f.what, decibels(e), f is tried) for f, e in zip(forms, errors, strict=True)]
        progress("equalise", 1, 1)
    wanted = wanted_of(tried.model, settings)
    opened = None if elsewhere is None else elsewhere(tried.model, wanted, evaluator.batches[0], data.samples, progress)
    notes = (f"calibrated on the CPU: {opened}",) if isinstance(opened, No) else ()
    observer = _on_host(tried.model, wanted) if opened is None or isinstance(opened, No) else opened
    found = calibrate(observer, data, progress)
    found = replace(found, notes=(*notes, *found.notes))
    if settings.cache is not None:
        made = Calibration(sha256, found, before if tried.names else None, tried.scaled)
        write_cache(settings.cache, made)
    return Prepared(tried.model, found, tried.names, trials)


@dataclass(frozen=True)
class _Tried:
    """A form of the model with other channels."""

    what: str
    model: ir.Model
    names: tuple[str, ...] = ()
    scaled: bool = False


def _forms(model: ir.Model, before: Statistics) -> list[_Tried]:
    """The equalised forms of ``model`` that differ."""
    found = []
    for scaled in (False, True):
        count = len(pairs_of(model, scaled=scaled))
        if count > (len(pairs_of(model)) if scaled else 0):
            made, names = equalise(model, before.channels, scaled=scaled)
            what = "channels equalised" + (", those of depthwise layers by factors" if scaled else "")
            found.append(_Tried(what, made, tuple(names), scaled))
    return found


def drafted(model: ir.Model, statistics: Statistics, method: str, settings: Settings) -> Draft:
    """The draft by ``method``, in the form and the placement that ``settings`` ask for."""
    return draft_of(model, statistics, settings.form, method, both_branches=settings.host)


def _on_host(model: ir.Model, wanted: Wanted) -> HostObserver:
    return HostObserver(HostRuns(model, wanted.names), wanted)


def _seen(model: ir.Model, sample: Data, settings: Settings) -> Statistics:
    return calibrate(_on_host(model, wanted_of(model, settings)), sample)


def best_draft(
    prepared: Prepared, evaluator: Evaluator, settings: Settings, data: Data, progress: Progress
) -> tuple[Draft, list[Trial]]:
    """The draft with the least error of the outputs on the sample, and what was tried.

    ``data``: what adaptive rounding learns from, where it is asked for; the sample itself is left out if there is more.
    """
    progress("alternatives", 0, 1)
    methods = ("auto", *_RIVALS) if settings.method == "auto" else (settings.method,)
    drafts = [drafted(prepared.model, prepared.statistics, method, settings) for method in methods]
    errors = [_error(draft, evaluator) for draft in drafts]
    place_of = min(range(len(drafts)), key=lambda i: errors[i] * (_GAIN if i == 0 else 1.0))
    best, least = drafts[place_of], errors[place_of]
    trials = [
        Trial(f"method {name}", decibels(error), draft is best)
        for name, error, draft in zip(methods, errors, drafts, strict=True)
    ]
    rivals: list[tuple[str, Callable[[Draft], Draft]]] = []
    if settings.rounding == "adaround":
        rivals.append(("weights rounded adaptively", lambda draft: _rounded(draft, evaluator, data, progress)))
    if settings.recover:
        rivals.append(("biases corrected", lambda draft: replace(draft, corrected=True)))
    for what, changed in rivals:
        rival = changed(best)
        error = _error(rival, evaluator)
        better = error < _GAIN * least
        trials.append(Trial(what, decibels(error), better))
        best, least = (rival, error) if better else (best, least)
    progress("alternatives", 1, 1)
    return best, trials


def _rounded(draft: Draft, evaluator: Evaluator, data: Data, progress: Progress) -> Draft:
    held = list(limited(data, evaluator.samples + SAMPLES))
    return replace(draft, flips=adaptive_flips(draft, held[len(evaluator.batches) :] or held, progress))


def mixture(draft: Draft, prepared: Prepared, evaluator: Evaluator, settings: Settings) -> tuple[Mixture, list[Trial]]:
    """``draft``, for FP8 with the first layers in INT8 where that lowers the error of the outputs.

    What a model is given, such as pixels, is often spaced evenly, and differences between neighbours count: there the
    even steps of INT8 are the finer ones.
    """
    plain = alone(draft)
    edges = first_and_last(draft.model.graph)
    firsts = [name for name, why in edges.items() if why == FIRST]
    if settings.precision != "fp8" or not settings.recover or not firsts:
        return plain, []
    even = replace(settings, precision="int8")
    other = drafted(prepared.model, prepared.statistics, settings.method, even)
    rival = with_others(draft, replace(other, corrected=draft.corrected), firsts)
    error = evaluator.error(rival.written(()))
    better = error < _GAIN * _error(draft, evaluator)
    return (rival if better else plain), [Trial("first layers in INT8", decibels(error), better)]


def _error(draft: Draft, evaluator: Evaluator) -> float:
    return evaluator.error(draft.written(()))
