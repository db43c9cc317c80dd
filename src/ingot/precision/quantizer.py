"""The whole of quantization: calibrate, choose, recover, measure, give back, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from ingot.errors import IngotError
from ingot.precision.calibrate import first, limited
from ingot.precision.data import ADVISED, Batch, Data
from ingot.precision.metrics import Evaluator, decibels, metric_of
from ingot.precision.mixed import Mixture, Part, alone, written
from ingot.precision.observer import Opens
from ingot.precision.placement import place
from ingot.precision.recipes import Prepared, best_draft, cached, drafted, mixture, prepared_for
from ingot.precision.report import Report, Trial
from ingot.precision.search import Outcome, search, without_budget
from ingot.precision.settings import Settings
from ingot.precision.summary import layer_reports
from ingot.progress import Progress, silent

SAMPLE = 16
"""Samples that alternatives are tried on."""


class Result(NamedTuple):
    """A standard Q/DQ model, and how it came about."""

    model: ir.Model
    report: Report


def quantize_model(
    model: ir.Model,
    sha256: str,
    data: Data | None,
    settings: Settings,
    progress: Progress = silent,
    elsewhere: Opens | None = None,
) -> Result:
    """``model`` in 8 bits, as far as the budget allows.

    ``model`` is prepared (batch normalisations folded, nodes named) and ``sha256`` that of its origin. ``data`` may be
    None where ``settings.cache`` holds a calibration; then nothing is measured. ``elsewhere``: what may calibrate in
    place of the CPU. Raises IngotError for data or a cache that does not fit, and for a model without anything to
    quantize.
    """
    expect_layers(model, settings)
    if data is None:
        prepared = None if settings.cache is None else cached(model, sha256, settings.cache, settings)
        if prepared is None:
            raise IngotError("there is neither calibration data nor a calibration cache", fix="give --calibration")
        if settings.rounding != "nearest":
            raise IngotError("adaptive rounding learns from data, and there is only a cache", fix="give --calibration")
        draft = alone(drafted(prepared.model, prepared.statistics, settings.method, settings))
        return _result(draft, without_budget(draft, settings), Origin(prepared, settings))
    progress("original", 0, 1)
    sample = first(data, SAMPLE)
    evaluator = Evaluator(model, sample, metric_of("cosine"))
    progress("original", 1, 1)
    prepared = prepared_for(model, sha256, data, evaluator, settings, progress, elsewhere)
    single, trials = best_draft(prepared, evaluator, settings, data, progress)
    draft, more = mixture(single, prepared, evaluator, settings)
    trials += more
    progress("evaluate", 0, 0)
    full = full_evaluator(model, data, settings)
    outcome = without_budget(draft, settings) if full is None else search(draft, evaluator, full, settings, progress)
    progress("report", 0, 1)
    made = _result(draft, outcome, Origin(prepared, settings, sample, evaluator, full, trials))
    progress("report", 1, 1)
    return made


def full_evaluator(model: ir.Model, data: Data, settings: Settings) -> Evaluator | None:
    """What measures the loss that counts; None where there is no budget for it."""
    if settings.budget is None:
        return None
    return Evaluator(model, list(limited(data, settings.evaluate)), metric_of(settings.metric))


def expect_layers(model: ir.Model, settings: Settings) -> None:
    """Raises IngotError for a model without layers, and for nodes to keep that it does not have."""
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


@dataclass(frozen=True)
class Origin:
    """What a quantized model came from, for its report."""

    prepared: Prepared
    settings: Settings
    sample: Sequence[Batch] | None = None
    evaluator: Evaluator | None = None
    full: Evaluator | None = None
    """What the loss was measured with."""
    trials: Sequence[Trial] = ()


def _result(draft: Mixture, outcome: Outcome, origin: Origin) -> Result:
    parts = draft.parts(outcome.keep)
    return reported(origin.settings.precision, parts, written(parts), outcome, origin)


def reported(precision: str, parts: Sequence[Part], made: ir.Model, outcome: Outcome, origin: Origin) -> Result:
    """``made``, which was written from ``parts``, with everything there is to say about it."""
    prepared, settings, full = origin.prepared, origin.settings, origin.full
    layers = layer_reports(parts, outcome, made, origin.sample)
    notes = [*prepared.statistics.notes, *(note for part in parts for note in part.placed.notes), *outcome.notes]
    if prepared.statistics.samples < ADVISED and not any("samples" in note for note in notes):
        notes.append(f"calibrated with {prepared.statistics.samples} samples: {ADVISED} or more are advised")
    report = Report(
        precision=precision,
        samples=prepared.statistics.samples,
        method=", ".join(dict.fromkeys(part.draft.method for part in parts)),
        equalised=len(prepared.equalised),
        bias_corrected=any(part.draft.corrected for part in parts),
        metric=settings.metric,
        budget=settings.budget,
        score=None if full is None else full.best,
        loss=outcome.loss,
        evaluated=0 if full is None else full.samples,
        output_sqnr_db=None if origin.evaluator is None else decibels(origin.evaluator.error(made)),
        quantized=sum(layer.precision != "float" for layer in layers),
        given_back=sum(name in outcome.keep for name in (layer.name for layer in layers)),
        layers=layers,
        trials=[*prepared.trials, *origin.trials],
        notes=notes,
        calibrated_on=prepared.statistics.where,
    )
    return Result(made, report)
