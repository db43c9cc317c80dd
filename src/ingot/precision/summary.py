"""The report of a quantization: every layer, measured where there is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import onnx_ir as ir

from ingot.errors import No
from ingot.graph.edit import is_op
from ingot.precision.data import Batch
from ingot.precision.host import HostRuns
from ingot.precision.layers import PRODUCTS
from ingot.precision.metrics import decibels, likeness
from ingot.precision.mixed import Part
from ingot.precision.report import LayerReport
from ingot.precision.search import Outcome

_SAMPLES = 16
"""Samples on which every layer's result is compared: all results of a batch are in memory at once."""


def layer_reports(
    parts: Sequence[Part], outcome: Outcome, made: ir.Model, sample: Sequence[Batch] | None
) -> list[LayerReport]:
    """A line per product and residual add of the model, in its order. ``parts`` are of one model."""
    model = parts[0].draft.model
    measured = _measured(model, made, sample) if sample else {}
    told = [_Told(part) for part in parts]
    refused = parts[0].placed.refused
    lines = []
    for node in model.graph:
        name = str(node.name)
        part = next((part for part in told if name in part.ops), None)
        if part is None and not is_op(node, *PRODUCTS) and name not in outcome.keep:
            continue
        error, angle = measured.get(str(node.outputs[0].name), (None, None))
        line = LayerReport(
            name=name,
            op=node.op_type if part is None else part.ops[name],
            precision="float" if part is None else part.draft.form.name,
            why=_why(name, part is not None, refused, outcome),
            sqnr_db=None if error is None else decibels(error),
            cosine=angle,
            alone_db=decibels(outcome.alone[name]) if name in outcome.alone else None,
            micros=dict(outcome.times.get(name, {})),
        )
        lines.append(line if part is None else part.ranged(line))
    return lines


def _why(name: str, quantized: bool, refused: Mapping[str, No], outcome: Outcome) -> str:
    if quantized:
        return "within the budget" if outcome.loss is not None else "by rule"
    if name in outcome.keep:
        return outcome.keep[name]
    return refused[name].reason if name in refused else "not quantized"


class _Told:
    """What the lines of one format's layers say."""

    def __init__(self, part: Part) -> None:
        self.draft, self.placed = part
        self.shared = self.draft.shared(self.placed)
        self.ops = {name: "Add" for name, _ in self.placed.adds} | {
            layer.name: layer.op for layer in self.placed.layers
        }

    def ranged(self, line: LayerReport) -> LayerReport:
        """``line`` with the range of what the layer reads."""
        value = next(v for (node, _), v in self.placed.edges.items() if node == line.name)
        threshold = self.shared[self.placed.group(value)]
        return msgspec.structs.replace(
            line,
            method=threshold.method,
            threshold=threshold.value,
            largest=self.draft.statistics.histograms[value].largest,
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
            total[name].append(likeness(wanted[name], found[name]))
        used += batch.samples
        if used >= _SAMPLES:
            break
    return {
        name: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for name, pairs in total.items()
    }
