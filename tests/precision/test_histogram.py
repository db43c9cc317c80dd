"""Histograms in constant memory: the order and size of batches does not matter, nor does growth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ingot.precision.histogram import BINS, Channels, Histogram


def _histogram(*batches: np.ndarray) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(batch)
    return made


def test_counts_everything_and_keeps_the_range() -> None:
    random = np.random.default_rng(0)
    batches = [random.normal(0, scale, (3, 50)).astype(np.float32) for scale in (0.1, 5.0, 1.0, 40.0)]
    made = _histogram(*batches)
    everything = np.concatenate([b.reshape(-1) for b in batches])
    assert made.counts.sum() == everything.size and made.counts.size == 2 * BINS
    assert made.lowest == everything.min() and made.highest == everything.max()
    assert made.limit >= np.abs(everything).max()


def test_growth_keeps_numbers_in_their_bins() -> None:
    random = np.random.default_rng(1)
    small, large = random.normal(size=2000).astype(np.float32), random.normal(0, 30, 2000).astype(np.float32)
    made = _histogram(small, large)
    centres, counts = made.filled()
    width = made.limit / BINS
    # The mass below every number is what it is, but for the bin that holds it.
    everything = np.concatenate([small, large])
    for mark in np.quantile(everything, [0.05, 0.3, 0.5, 0.7, 0.95]):
        below = counts[centres < mark].sum()
        assert np.sum(everything < mark - 2 * width) <= below <= np.sum(everything < mark + 2 * width)


def test_zeros_before_and_after_numbers() -> None:
    zeros = np.zeros(10, np.float32)
    made = _histogram(zeros, np.float32([0.5, -0.25]), zeros)
    centres, counts = made.filled()
    assert counts[centres == 0].sum() == 20 and counts.sum() == 22
    assert _histogram(zeros).largest == 0


def test_nonfinite_numbers_are_counted_apart() -> None:
    made = _histogram(np.float32([1, np.nan, -2, np.inf]))
    assert made.nonfinite == 2 and made.largest == 2 and made.counts.sum() == 2


def test_moving_average_follows_the_batches() -> None:
    made = _histogram(np.float32([1]), np.float32([2]))
    assert made.average == pytest.approx(0.9 * 1 + 0.1 * 2)


def test_saved_and_restored() -> None:
    made = _histogram(np.random.default_rng(2).normal(size=500).astype(np.float32))
    again = Histogram.restored(json.loads(json.dumps(made.saved())))
    np.testing.assert_array_equal(again.counts, made.counts)
    assert (again.limit, again.lowest, again.average) == (made.limit, made.lowest, made.average)
    with pytest.raises(ValueError):
        Histogram.restored({**made.saved(), "counts": "AAAA"})


def test_channels() -> None:
    random = np.random.default_rng(3)
    batches = [random.normal(size=(n, 4, 5)).astype(np.float32) for n in (2, 3)]
    made = Channels(1)
    for batch in batches:
        made.add(batch)
    whole = np.concatenate(batches)
    np.testing.assert_allclose(made.mean, whole.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(made.largest, np.abs(whole).max(axis=(0, 2)))
    again = Channels.restored(json.loads(json.dumps(made.saved())))
    np.testing.assert_allclose(again.mean, made.mean)
