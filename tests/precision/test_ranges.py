"""Thresholds: each method does what its name says, and the choice per tensor errs least."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ingot.errors import IngotError
from ingot.precision.formats import FP8, INT8, UINT8, Format
from ingot.precision.histogram import Histogram
from ingot.precision.ranges import METHODS, Seen, Weighting, choose, errors, result_error


def _seen(numbers: np.ndarray, weighting: Weighting | None = None) -> Seen:
    histogram = Histogram()
    histogram.add(numbers.astype(np.float32))
    return Seen(histogram, weighting or Weighting())


def _squared(numbers: np.ndarray, threshold: float, form: Format) -> float:
    """The error by its definition."""
    scale = form.scale(threshold)
    if form is INT8:
        made = np.clip(np.rint(numbers / scale), -127, 127) * scale
    else:
        made = np.clip(numbers / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale
    return float(np.mean((made - numbers) ** 2))


NORMAL = np.random.default_rng(0).normal(size=50_000)
OUTLIERS = np.concatenate([NORMAL, [60.0, -55.0]])


@pytest.mark.parametrize("form", [INT8, FP8], ids=lambda f: f.name)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_errors_of_a_histogram_are_those_of_the_numbers(form: Format, share: float) -> None:
    threshold = share * float(np.abs(NORMAL).max())
    found = errors(_seen(NORMAL).histogram, threshold, form)[1]
    assert found == pytest.approx(_squared(NORMAL, threshold, form), rel=0.03)


def test_minmax_and_percentile() -> None:
    seen = _seen(OUTLIERS).histogram
    assert METHODS["minmax"](seen, INT8) == 60
    found = METHODS["percentile"](seen, INT8)
    assert np.quantile(np.abs(OUTLIERS), 0.9997) < found < 6


def test_mse_is_the_best_of_all_thresholds() -> None:
    found = METHODS["mse"](_seen(OUTLIERS).histogram, INT8)
    best = min(_squared(OUTLIERS, t, INT8) for t in np.geomspace(1, 60, 200))
    assert _squared(OUTLIERS, found, INT8) <= 1.05 * best < 0.9 * _squared(OUTLIERS, 60.0, INT8)


def test_entropy_clips_a_long_tail_and_keeps_an_even_spread() -> None:
    tail = np.random.default_rng(1).laplace(size=200_000)
    assert METHODS["entropy"](_seen(tail).histogram, INT8) < 0.9 * np.abs(tail).max()
    even = np.random.default_rng(1).uniform(-1, 1, 200_000)
    assert METHODS["entropy"](_seen(even).histogram, INT8) > 0.9


def test_auto_errs_least_and_says_by_which_method() -> None:
    for numbers in (NORMAL, OUTLIERS, np.maximum(NORMAL, 0)):
        found = choose([_seen(numbers)], INT8, "auto")
        tried = {name: choose([_seen(numbers)], INT8, name).error for name in METHODS}
        assert found.error == min(tried.values()) and tried[found.method] == found.error


def test_clipping_counts_more_where_it_adds_up() -> None:
    """Errors of one sign add up over many inputs: a layer of equal weights wants a wider range."""
    skewed = np.concatenate([NORMAL, np.random.default_rng(2).exponential(3, 50) + 5])
    noise = choose([_seen(skewed, Weighting(1.0, 0.0))], INT8, "mse")
    tensors = [_seen(skewed, Weighting(1.0, 1e5))]
    auto = choose(tensors, INT8, "auto")
    assert auto.value > noise.value
    assert result_error(tensors, auto.value, INT8) < result_error(tensors, noise.value, INT8)


def test_numbers_without_a_sign_have_twice_the_resolution() -> None:
    relu = np.maximum(NORMAL, 0)
    found = [choose([_seen(numbers)], INT8, "minmax") for numbers in (relu, NORMAL)]
    assert [threshold.form for threshold in found] == [UINT8, INT8]
    assert found[0].scale == pytest.approx(relu.max() / 255) and found[1].scale == pytest.approx(
        np.abs(NORMAL).max() / 127
    )
    assert choose([_seen(relu), _seen(NORMAL)], INT8, "mse").form is INT8
    assert choose([_seen(relu)], FP8, "mse").form is FP8


def test_a_shared_threshold_covers_all() -> None:
    both = choose([_seen(NORMAL), _seen(3 * NORMAL)], INT8, "minmax")
    assert both.value == pytest.approx(3 * np.abs(NORMAL).max(), rel=1e-6)


def test_zeros_and_wrong_names() -> None:
    assert choose([_seen(np.zeros(10))], INT8, "auto").value == 0
    assert INT8.scale(0.0) == 1.0
    with pytest.raises(IngotError, match="no calibration method"):
        choose([_seen(NORMAL)], INT8, "kl")
    with pytest.raises(IngotError, match="levels of equal width"):
        choose([_seen(NORMAL)], FP8, "entropy")
