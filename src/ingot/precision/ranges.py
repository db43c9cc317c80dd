"""From histograms to thresholds: the largest number of a tensor that is not clipped.

Every method gives one threshold. ``auto`` takes, for each tensor, the one with the least error in the
results of the layers that read it, as far as a histogram tells: rounding errors of many numbers add up like
noise, clipping errors all have one sign and add up in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.errors import IngotError
from ingot.precision.formats import Array, Format
from ingot.precision.histogram import BINS, Histogram

_PERCENTILE = 99.99
_STEPS = 48
_PER_OCTAVE = 8
"""Thresholds that ``mse`` tries: ``_STEPS`` from the largest number down, so many for each factor of two."""
_COARSE = 2048
_STRIDE = 16


@dataclass(frozen=True)
class Weighting:
    """How errors of a tensor reach the results of the layers that read it, summed over output channels."""

    noise: float = 1.0
    """Sum of the squared weights: what independent errors are multiplied with."""
    drift: float = 1.0
    """Sum over the output channels of the squared sum of weights: what the mean error is multiplied with."""

    def __add__(self, other: Weighting) -> Weighting:
        return Weighting(self.noise + other.noise, self.drift + other.drift)


@dataclass(frozen=True)
class Seen:
    """One tensor: its histogram and what its errors do."""

    histogram: Histogram
    weighting: Weighting


@dataclass(frozen=True)
class Threshold:
    """What was chosen for a tensor, or for several that share one scale."""

    value: float
    method: str
    error: float
    """Estimated squared error of the results, over what errors without clipping (``minmax``) would give."""
    form: Format
    """How numbers are stored."""

    @property
    def scale(self) -> float:
        """The step of the grid."""
        return self.form.scale(self.value)


def choose(tensors: Sequence[Seen], form: Format, method: str) -> Threshold:
    """One threshold for ``tensors``, by ``method``: a key of ``METHODS``, or ``auto``.

    Tensors none of which is ever negative are stored without a sign.

    Raises IngotError for an unknown method, and for ``entropy`` with a format that is not INT8.
    """
    if method != "auto" and method not in METHODS:
        raise IngotError(f"there is no calibration method {method!r}", fix=f"take auto, {', '.join(METHODS)}")
    if method == "entropy" and not form.integer:
        raise IngotError("entropy calibration counts levels of equal width, which FP8 has not", fix="take auto or mse")
    tensors = [t for t in tensors if t.histogram.largest > 0]
    form = form.for_activation(min((t.histogram.lowest for t in tensors), default=0.0))
    if not tensors:
        return Threshold(0.0, "zeros", 1.0, form)
    tried = [m for m in METHODS if m != "entropy" or form.integer] if method == "auto" else [method]
    full = max(t.histogram.largest for t in tensors)
    plain = result_error(tensors, full, form)
    found = []
    for name in tried:
        value = max(METHODS[name](t.histogram, form) for t in tensors)
        value = min(max(value, full / 1024), full)
        error = result_error(tensors, value, form)
        found.append(Threshold(value, name, error / plain if plain else 1.0, form))
    # The first of equals: minmax clips nothing.
    return min(found, key=lambda threshold: threshold.error)


def result_error(tensors: Sequence[Seen], threshold: float, form: Format) -> float:
    """Estimated squared error of all results that read ``tensors``, quantized at ``threshold``."""
    total = 0.0
    for tensor in tensors:
        mean, square = errors(tensor.histogram, threshold, form)
        spread = max(0.0, square - mean * mean)
        total += tensor.weighting.noise * spread + tensor.weighting.drift * mean * mean
    return total


def errors(histogram: Histogram, threshold: float, form: Format) -> tuple[float, float]:
    """Mean error and mean squared error of a tensor's numbers, quantized at ``threshold``."""
    return _errors(*histogram.filled(), threshold, form)


def _errors(centres: Array, counts: Array, threshold: float, form: Format) -> tuple[float, float]:
    scale = form.scale(threshold)
    apart = form.grid(centres / scale) * scale - centres
    total = max(1, int(counts.sum()))
    return float(np.dot(apart, counts)) / total, float(np.dot(apart * apart, counts)) / total


def minmax(histogram: Histogram, form: Format) -> float:
    """The largest magnitude: nothing is clipped."""
    del form
    return histogram.largest


def moving_average(histogram: Histogram, form: Format) -> float:
    """The moving average of the batches' largest magnitudes."""
    del form
    return histogram.average


def percentile(histogram: Histogram, form: Format) -> float:
    """The magnitude that 99.99 % of the numbers do not exceed."""
    del form
    counts = histogram.magnitudes(BINS)
    reached = np.searchsorted(np.cumsum(counts), counts.sum() * (_PERCENTILE / 100))
    return float((reached + 1) * histogram.limit / BINS)


def mse(histogram: Histogram, form: Format) -> float:
    """The threshold with the least mean squared error of the numbers themselves."""
    tried = histogram.largest * 2.0 ** (-np.arange(_STEPS) / _PER_OCTAVE)
    centres, counts = histogram.filled()
    return float(min(tried, key=lambda value: _errors(centres, counts, float(value), form)[1]))


def entropy(histogram: Histogram, form: Format) -> float:
    """The threshold at which the quantized distribution diverges least from the clipped one (Kullback-Leibler).

    The procedure of Migacz, "8-bit inference with TensorRT", GTC 2017: for each candidate the outliers join the last
    bin of the reference, and the numbers within it are spread over the levels of the format. It is known to cost
    accuracy on some networks, so it is only ever used by name or when it has the least error.
    """
    levels = int(form.largest) + 1
    counts = histogram.magnitudes(_COARSE).astype(np.float64)
    # The spike of exact zeros says nothing about where to clip.
    counts[0] = counts[1]
    best, least = _COARSE, np.inf
    for bins in range(levels, _COARSE + 1, _STRIDE):
        found = _divergence(counts, bins, levels)
        if found < least:
            best, least = bins, found
    return float(best * histogram.limit / _COARSE)


def _divergence(counts: Array, bins: int, levels: int) -> float:
    inside = counts[:bins]
    reference = inside.copy()
    reference[-1] += counts[bins:].sum()
    edges = np.linspace(0, bins, levels + 1).astype(int)[:-1]
    filled = (inside > 0).astype(np.float64)
    sums, spread = np.add.reduceat(inside, edges), np.add.reduceat(filled, edges)
    widths = np.diff([*edges, bins])
    level = np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 0)
    approximation = np.repeat(level, widths) * filled
    total, other = reference.sum(), approximation.sum()
    if not total or not other:
        return float("inf")
    p, q = reference / total, approximation / other
    both = (p > 0) & (q > 0)
    lost = float(p[(p > 0) & (q == 0)].sum())
    return float(np.sum(p[both] * np.log(p[both] / q[both]))) + lost


METHODS: dict[str, Callable[[Histogram, Format], float]] = {
    "minmax": minmax,
    "moving_average": moving_average,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
