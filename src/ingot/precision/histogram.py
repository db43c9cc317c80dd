"""What calibration keeps of a tensor: a histogram that grows with the range, in constant memory."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
BINS = 8192
"""Bins on each side of zero. At a threshold of a 32nd of the largest number two bins are left per step of INT8."""
_MOMENTUM = 0.9
"""Weight of the past in the moving average."""
_CHUNK = 1 << 17
"""Numbers that are counted at once: what is made of them stays in the processor's cache."""
_MERGES = 14
"""After so many merges of pairs all numbers are in the two bins beside zero, and stay there."""


class Histogram:
    """Numbers of one tensor, batch after batch. Bins reach from ``-limit`` to ``limit``.

    When a larger number comes, pairs of bins are merged until it fits: one pass is enough, and the order of the
    batches matters little.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * BINS, np.int64)
        self.limit = 0.0
        self.lowest, self.highest = 0.0, 0.0
        self.average = 0.0
        """Moving average of the largest magnitude of each batch."""
        self.batches = 0
        self.nonfinite = 0
        """NaN and infinite numbers, which are left out of everything else."""

    @property
    def largest(self) -> float:
        """Largest magnitude seen."""
        return max(-self.lowest, self.highest)

    def add(self, array: Array) -> None:
        """Counts the numbers of ``array``, of any shape."""
        flat = np.asarray(array, np.float32).reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.nonfinite += flat.size - finite.size
            if finite.size:
                self.add(finite)
            return
        self._merge(self.widen(low, high))
        self.counts += _counted(flat, self.factor)

    def widen(self, low: float, high: float) -> int:
        """Takes in the range of a batch's finite numbers; how often its counts' pairs have to be merged before theirs.

        Whoever calls it counts the numbers, here or on a device, at ``factor`` as it is afterwards.
        """
        most = max(-low, high)
        self.average = most if not self.batches else _MOMENTUM * self.average + (1 - _MOMENTUM) * most
        self.batches += 1
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        if not self.limit:
            self.limit = most  # zeros, if there were any, are where they belong
        times = 0
        while most > self.limit:
            self.limit *= 2
            times += 1
        return min(times, _MERGES)

    @property
    def factor(self) -> np.float32:
        """What a number is multiplied with to find its bin, beside the middle; finite for ranges near 0 too."""
        if not self.limit:
            return np.float32(0)
        return np.float32(min(BINS / self.limit, float(np.finfo(np.float32).max)))

    def _merge(self, times: int) -> None:
        """Makes the bins twice as wide, so many times."""
        for _ in range(times):
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs

    def filled(self) -> tuple[Array, Array]:
        """Centres (float64) and counts of the bins that are not empty."""
        places = np.flatnonzero(self.counts)
        centres = (places + 0.5 - BINS) * (self.limit / BINS)
        # The first bin holds the exact zeros of a ReLU before all.
        centres[places == BINS] = 0.0
        return centres, self.counts[places]

    def magnitudes(self, bins: int) -> Array:
        """Counts of magnitudes in ``bins`` bins from 0 to ``limit``; ``bins`` divides ``BINS``."""
        folded = self.counts[BINS:] + self.counts[:BINS][::-1]
        return np.asarray(folded.reshape(bins, -1).sum(axis=1))

    def saved(self) -> dict[str, Any]:
        """All of it as JSON values."""
        packed = zlib.compress(self.counts.astype("<i8").tobytes(), 6)
        return {
            "limit": self.limit, "lowest": self.lowest, "highest": self.highest, "average": self.average,
            "batches": self.batches, "nonfinite": self.nonfinite, "counts": base64.b64encode(packed).decode("ascii"),
        }  # fmt: skip

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Histogram:
        """What :meth:`saved` gave. Raises KeyError, TypeError or ValueError for anything else."""
        made = cls()
        try:
            counts = np.frombuffer(zlib.decompress(base64.b64decode(saved["counts"], validate=True)), "<i8")
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if counts.shape != made.counts.shape or counts.min() < 0:
            raise ValueError("a histogram of another size")
        made.counts = counts.astype(np.int64)
        made.limit, made.average = float(saved["limit"]), float(saved["average"])
        made.lowest, made.highest = float(saved["lowest"]), float(saved["highest"])
        made.batches, made.nonfinite = int(saved["batches"]), int(saved["nonfinite"])
        return made


def _counted(flat: Array, factor: np.float32) -> Array:
    """Counts of finite float32 numbers by bin, int64 [2 * BINS]."""
    counts = np.zeros(2 * BINS, np.int64)
    scaled, places = (np.empty(min(flat.size, _CHUNK), kind) for kind in (np.float32, np.intp))
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        here, there = scaled[: part.size], places[: part.size]
        np.multiply(part, factor, out=here)
        np.add(here, np.float32(BINS), out=here)
        np.clip(here, 0, 2 * BINS - 1, out=here)
        np.copyto(there, here, casting="unsafe")  # towards zero
        counts += np.bincount(there, minlength=2 * BINS)
    return counts


class Channels:
    """Mean and largest magnitude of each channel of one tensor, batch after batch."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: Array = np.zeros(0)
        self.largest: Array = np.zeros(0)
        self.count = 0
        """Numbers per channel."""

    def add(self, array: Array) -> None:
        """Takes in ``array``, whose axis ``axis`` counts channels, always as many."""
        moved = np.moveaxis(np.asarray(array, np.float32), self.axis, 0)
        rows = moved.reshape(moved.shape[0], -1)
        if not rows.shape[1]:
            return
        if not self.count:
            self.total, self.largest = np.zeros(len(rows)), np.zeros(len(rows))
        self.total += rows.sum(axis=1, dtype=np.float64)
        np.maximum(self.largest, np.maximum(rows.max(axis=1), -rows.min(axis=1)), out=self.largest)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Array:
        """Mean of each channel."""
        return self.total / max(1, self.count)

    def saved(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "axis": self.axis, "total": self.total.tolist(), "largest": self.largest.tolist(), "count": self.count
        }  # fmt: skip

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Channels:
        """What :meth:`saved` gave. Raises KeyError, TypeError or ValueError for anything else."""
        made = cls(int(saved["axis"]))
        made.total, made.largest = np.asarray(saved["total"], np.float64), np.asarray(saved["largest"], np.float64)
        made.count = int(saved["count"])
        return made
