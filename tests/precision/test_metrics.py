"""Likeness of large arrays is what noise ratio and cosine say, whatever is in them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ingot.precision.metrics import cosine, likeness, noise_ratio


@pytest.mark.parametrize("size", [0, 1, 1000, 300_001])
def test_likeness_of_two_arrays(size: int) -> None:
    random = np.random.default_rng(size)
    a = random.standard_normal(size).astype(np.float32)
    b = a + np.float32(0.1) * random.standard_normal(size).astype(np.float32)
    assert likeness(a, b) == pytest.approx((noise_ratio(a, b), cosine(a, b)), rel=1e-5)


def test_likeness_of_zeros_and_of_what_is_not_finite() -> None:
    zeros, ones = np.zeros(5, np.float32), np.ones(5, np.float32)
    odd = np.float32([1, np.inf, 1, np.nan, 1])
    assert likeness(zeros, zeros) == (0.0, 1.0)
    assert likeness(zeros, ones) == likeness(ones, zeros) == (1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert likeness(odd, ones)[0] == noise_ratio(odd, ones) == pytest.approx(0.4)
    assert likeness(ones, np.ones(6, np.float32)) == (1.0, 0.0)
