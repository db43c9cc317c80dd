"""Latencies as a benchmark prints them: milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np


class Latency(msgspec.Struct, frozen=True):
    """Summary of samples, in milliseconds. Percentiles are interpolated between neighbours."""

    samples: int
    min: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    max: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        """``seconds``: at least one sample."""
        assert len(seconds), "no samples"
        array = 1e3 * np.asarray(seconds, np.float64)
        median, p90, p95, p99 = (float(v) for v in np.percentile(array, (50, 90, 95, 99)))
        return Latency(len(array), float(array.min()), float(array.mean()), median, p90, p95, p99, float(array.max()))

    @property
    def spread(self) -> float:
        """99th percentile over median: 1 is a perfectly even run."""
        return self.p99 / self.median if self.median else 1.0
