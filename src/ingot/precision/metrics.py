"""How good a model's outputs are, beside those of the model it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ingot.errors import IngotError
from ingot.precision.data import Batch, function_of
from ingot.precision.host import HostRuns, Runs
from ingot.precision.inputs import Array
from ingot.precision.judged import JudgedRuns

_CHUNK = 1 << 17
"""Numbers that are compared at once: they stay in the processor's cache."""
Outputs = Mapping[str, Array]
Score = Callable[[Sequence[Outputs], Sequence[Array | None], Sequence[Outputs]], float]
"""(outputs by batch, labels by batch, the original's outputs by batch) to a number; more is better."""


@dataclass(frozen=True)
class Metric:
    """A score, and what it is called."""

    name: str
    score: Score
    of_scores: bool = False
    """Whether class probabilities are judged by the scores that they are made of."""


def metric_of(name: str) -> Metric:
    """``cosine``, ``top1``, or ``module:function``. Raises IngotError for anything else.

    ``cosine`` is that of the outputs, of class probabilities that of the scores behind them.

    A function gets the outputs of all batches (a list of dicts of arrays) and their labels (a list of arrays or
    None), and gives a number that is larger for a better model.
    """
    if name == "cosine":
        return Metric(name, _cosine, of_scores=True)
    if name == "top1":
        return Metric(name, _top1)
    if ":" not in name:
        raise IngotError(f"there is no metric {name!r}", fix="take cosine, top1 or module:function")
    function = function_of(name)

    def score(made: Sequence[Outputs], labels: Sequence[Array | None], original: Sequence[Outputs]) -> float:
        del original
        found: Any = function(list(made), list(labels))
        try:
            return float(found)
        except (TypeError, ValueError):
            raise IngotError(f"it gave {found!r}, which is no number", node=name) from None

    return Metric(name, score)


class Evaluator:
    """Compares models with the original on a few batches, which are kept in memory."""

    def __init__(self, original: ir.Model, batches: Sequence[Batch], metric: Metric) -> None:
        self.batches, self.metric = batches, metric
        runs = self.runs(original)
        self.original = [dict(runs.run(batch.feeds)) for batch in batches]
        self.labels = [batch.labels for batch in batches]
        self.best = metric.score(self.original, self.labels, self.original)
        """Score of the original."""

    @property
    def samples(self) -> int:
        """Samples that are compared."""
        return sum(batch.samples for batch in self.batches)

    def runs(self, model: ir.Model, *, inner: bool = False) -> Runs:
        """What gives the arrays of ``model`` that are compared; ``inner``: with nothing fused."""
        return JudgedRuns(model, inner=inner) if self.metric.of_scores else HostRuns(model, inner=inner)

    def loss(self, model: ir.Model) -> float:
        """What ``model`` loses of the score."""
        runs = self.runs(model)
        made = [runs.run(batch.feeds) for batch in self.batches]
        return self.best - self.metric.score(made, self.labels, self.original)

    def error(self, model: ir.Model) -> float:
        """Squared error of the outputs over their own square, the mean over outputs."""
        return self.error_of(self.runs(model))

    def error_of(self, runs: Runs, extra: Mapping[str, Array] | None = None, most: int | None = None) -> float:
        """The error of what ``runs`` gives on the first ``most`` batches; ``extra`` joins the feeds."""
        total, count = 0.0, 0
        for batch, wanted in list(zip(self.batches, self.original, strict=True))[:most]:
            made = runs.run({**batch.feeds, **(extra or {})})
            for name, array in wanted.items():
                if array.dtype.kind == "f" and array.size:
                    total += noise_ratio(array, made[name])
                    count += 1
        return total / max(1, count)


def noise_ratio(wanted: Array, made: Array) -> float:
    """Squared error over squared reference; 0 for equal arrays, 1 where the reference is zero or not finite."""
    if wanted.shape != made.shape:
        return 1.0
    a, b = _flat(wanted), _flat(made)
    lost = 0.0
    error, signal = float(np.dot(b - a, b - a)), float(np.dot(a, a))
    if not (np.isfinite(error) and np.isfinite(signal)):
        both = np.isfinite(a) & np.isfinite(b)
        a, b = a[both].astype(np.float64), b[both].astype(np.float64)
        error, signal, lost = float(np.dot(b - a, b - a)), float(np.dot(a, a)), 1.0 - float(both.mean())
    return (error / signal if signal else float(error > 0)) + lost


def likeness(wanted: Array, made: Array) -> tuple[float, float]:
    """:func:`noise_ratio` and :func:`cosine` of two large arrays, which are read once."""
    if wanted.shape != made.shape or not wanted.size:
        return noise_ratio(wanted, made), cosine(wanted, made) if wanted.shape == made.shape else 0.0
    a, b = _flat(wanted), _flat(made)
    sums = np.zeros(4)
    for start in range(0, a.size, _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        apart = y - x
        sums += np.dot(apart, apart), np.dot(x, x), np.dot(y, y), np.dot(x, y)
    error, signal, other, product = map(float, sums)
    if not np.isfinite(sums).all() or not (signal and other):
        return noise_ratio(wanted, made), cosine(wanted, made)
    return error / signal, product / float(np.sqrt(signal) * np.sqrt(other))


def _flat(array: Array) -> Array:
    """One axis; float32, whose sums are exact enough for what is compared, and quick."""
    return np.ascontiguousarray(array, np.float32).reshape(-1)


def decibels(ratio: float) -> float:
    """A noise ratio as signal over noise in dB; at most 200."""
    return min(200.0, -10 * float(np.log10(ratio))) if ratio > 0 else 200.0


def cosine(wanted: Array, made: Array) -> float:
    """Cosine of the angle between two arrays; 1 for two of zeros."""
    a, b = _flat(wanted), _flat(made)
    norms = float(np.sqrt(np.dot(a, a), dtype=np.float64) * np.sqrt(np.dot(b, b), dtype=np.float64))
    if not norms:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return float(np.dot(a, b)) / norms


def _cosine(made: Sequence[Outputs], labels: Sequence[Array | None], original: Sequence[Outputs]) -> float:
    """Mean cosine over batches and outputs of floating-point numbers."""
    del labels
    found = [
        cosine(array, outputs[name])
        for outputs, wanted in zip(made, original, strict=True)
        for name, array in wanted.items()
        if array.dtype.kind == "f" and array.shape == outputs[name].shape
    ]
    if not found:
        raise IngotError("the model has no output whose shape stays, so there is no cosine", fix="give a --metric")
    return float(np.mean(found))


def _top1(made: Sequence[Outputs], labels: Sequence[Array | None], original: Sequence[Outputs]) -> float:
    """Share of right classes by the first output; without labels, of classes that the original finds too."""
    right = total = 0
    for outputs, known, wanted in zip(made, labels, original, strict=True):
        scores, reference = next(iter(outputs.values())), next(iter(wanted.values()))
        if scores.ndim < 2:
            raise IngotError(
                "top1 needs an output of scores per class, [samples, ..., classes]", fix="take another metric"
            )
        found = scores.argmax(axis=-1)
        truth = reference.argmax(axis=-1) if known is None else np.asarray(known).reshape(-1)
        if truth.shape != found.shape:
            raise IngotError(f"{truth.size} labels do not fit {found.size} answers", fix="give one label per sample")
        right += int(np.count_nonzero(found == truth))
        total += found.size
    return right / max(1, total)
