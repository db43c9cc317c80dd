"""The report of a quantization: every layer, measured where there is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import onnx_ir as ir

from ingot.graph.edit import is_op
from ingot.precision.data import Batch
from ingot.precision.draft import Draft
from ingot.precision.host import HostRuns
from ingot.precision.layers import PRODUCTS
from ingot.precision.metrics import cosine, decibels, noise_ratio
from ingot.precision.placement import Placement
from ingot.precision.ranges import Threshold
from ingot.precision.report import LayerReport
from ingot.precision.search import Outcome

_SAMPLES = 16
"""Samples on which every layer's result is compared: all results of a batch are in memory at once."""


def layer_reports(draft: Draft, outcome: Outcome, made: ir.Model, sample: Sequence[Batch] | None) -> list[LayerReport]:
    """A line per product and residual add of the model, in its order."""
    placed = draft.placed(outcome.keep)
    shared = draft.shared(placed)
    measured = _measured(draft.model, made, sample) if sample else {}
    layers = {layer.name: layer for layer in placed.layers}
    adds = {name for name, _ in placed.adds}
    lines = []
    for node in draft.model.graph:
        name = str(node.name)
        quantized = name in layers or name in adds
        if not quantized and not is_op(node, *PRODUCTS) and name not in outcome.keep:
            continue
        error, angle = measured.get(str(node.outputs[0].name), (None, None))
        line = LayerReport(
            name=name,
            op=layers[name].op if name in layers else node.op_type,
            precision=draft.form.name if quantized else "float",
            why=_why(name, quantized, placed, outcome),
            sqnr_db=None if error is None else decibels(error),
            cosine=angle,
            alone_db=decibels(outcome.alone[name]) if name in outcome.alone else None,
        )
        lines.append(_ranged(line, draft, placed, shared) if quantized else line)
    return lines


def _why(name: str, quantized: bool, placed: Placement, outcome: Outcome) -> str:
    if quantized:
        return "within the budget" if outcome.loss is not None else "by rule"
    if name in outcome.keep:
        return outcome.keep[name]
    return placed.refused[name].reason if name in placed.refused else "not quantized"


def _ranged(line: LayerReport, draft: Draft, placed: Placement, shared: Mapping[str, Threshold]) -> LayerReport:
    value = next(v for (node, _), v in placed.edges.items() if node == line.name)
    threshold = shared[placed.group(value)]
    return msgspec.structs.replace(
        line,
        method=threshold.method,
        threshold=threshold.value,
        largest=draft.statistics.histograms[value].largest,
        scale=threshold.scale,
        stored=threshold.form.name,
    )


def _measured(original: ir.Model, made: ir.Model, sample: Sequence[Batch]) -> dict[str, tuple[float, float]]:
    """Noise ratio and cosine of what each product and residual add makes, by the name of the value."""
    nodes = [n for n in original.graph if is_op(n, *PRODUCTS, "Add") and n.outputs[0].dtype == ir.DataType.FLOAT]
    names = [str(node.outputs[0].name) for node in nodes]
    runs = [HostRuns(model, names, inner=True) for model in (original, made)]
    total: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    used = 0
    for batch in sample:
        wanted, found = (run.run(batch.feeds) for run in runs)
        for name in names:
            total[name].append((noise_ratio(wanted[name], found[name]), cosine(wanted[name], found[name])))
        used += batch.samples
        if used >= _SAMPLES:
            break
    return {
        name: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for name, pairs in total.items()
    }
