"""The whole of quantization: calibrate, choose, recover, measure, give back, write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.precision.calibrate import first, limited
from ingot.precision.data import ADVISED, Batch, Data
from ingot.precision.draft import Draft
from ingot.precision.host import HostRuns
from ingot.precision.metrics import Evaluator, decibels, metric_of
from ingot.precision.placement import place
from ingot.precision.recipes import Prepared, best_draft, cached, calibrated, drafted
from ingot.precision.report import Report, Trial
from ingot.precision.search import Outcome, search, without_budget
from ingot.precision.settings import Settings
from ingot.precision.summary import layer_reports
from ingot.progress import Progress, silent

_SAMPLE = 16
"""Samples that alternatives are tried on."""


class Result(NamedTuple):
    """A standard Q/DQ model, and how it came about."""

    model: ir.Model
    report: Report


def quantize_model(
    model: ir.Model, sha256: str, data: Data | None, settings: Settings, progress: Progress = silent
) -> Result:
    """``model`` in 8 bits, as far as the budget allows.

    ``model`` is prepared (batch normalisations folded, nodes named) and ``sha256`` that of its origin. ``data`` may be
    None where ``settings.cache`` holds a calibration; then nothing is measured. Raises IngotError for data or a
    cache that does not fit, and for a model without anything to quantize.
    """
    _expect_layers(model, settings)
    prepared = None if settings.cache is None else cached(model, sha256, settings.cache, settings)
    if data is None:
        if prepared is None:
            raise IngotError("there is neither calibration data nor a calibration cache", fix="give --calibration")
        draft = drafted(prepared.model, prepared.statistics, settings.method, settings)
        return _result(draft, without_budget(draft, settings), prepared, settings)
    sample = first(data, _SAMPLE)
    evaluator = Evaluator(HostRuns(model), sample, metric_of("cosine"))
    if prepared is None:
        prepared = calibrated(model, sha256, data, evaluator, settings, progress)
    draft, trials = best_draft(prepared, evaluator, settings)
    full = None
    if settings.budget is None:
        outcome = without_budget(draft, settings)
    else:
        batches = list(limited(data, settings.evaluate))
        full = Evaluator(HostRuns(model), batches, metric_of(settings.metric))
        outcome = search(draft, evaluator, full, settings, progress)
    return _result(draft, outcome, prepared, settings, sample, evaluator, full, trials)


def _expect_layers(model: ir.Model, settings: Settings) -> None:
    placed = place(model)
    names = {str(node.name) for node in model.graph}
    unknown = [name for name in settings.keep if name not in names]
    if unknown:
        raise IngotError(
            "the model has no such node", node=unknown[0], fix="names are in the report of a run without it"
        )
    if not placed.layers:
        why = "; ".join(f"{name}: {no.reason}" for name, no in list(placed.refused.items())[:3])
        raise IngotError(f"nothing of this model can be quantized{': ' + why if why else ''}", fix="build with --fp16")


def _result(
    draft: Draft,
    outcome: Outcome,
    prepared: Prepared,
    settings: Settings,
    sample: Sequence[Batch] | None = None,
    evaluator: Evaluator | None = None,
    full: Evaluator | None = None,
    trials: Sequence[Trial] = (),
) -> Result:
    made = draft.written(outcome.keep)
    layers = layer_reports(draft, outcome, made, sample)
    notes = [*prepared.statistics.notes, *draft.placed(outcome.keep).notes, *outcome.notes]
    if prepared.statistics.samples < ADVISED and not any("samples" in note for note in notes):
        notes.append(f"calibrated with {prepared.statistics.samples} samples: {ADVISED} or more are advised")
    report = Report(
        precision=settings.precision,
        samples=prepared.statistics.samples,
        method=draft.method,
        equalised=len(prepared.equalised),
        bias_corrected=draft.corrected,
        metric=settings.metric,
        budget=settings.budget,
        score=None if full is None else full.best,
        loss=outcome.loss,
        evaluated=0 if full is None else full.samples,
        output_sqnr_db=None if evaluator is None else decibels(evaluator.error(HostRuns(made))),
        quantized=sum(layer.precision != "float" for layer in layers),
        given_back=sum(name in outcome.keep for name in (layer.name for layer in layers)),
        layers=layers,
        trials=[*prepared.trials, *trials],
        notes=notes,
    )
    return Result(made, report)
