"""Latencies, differences and rooflines on known numbers."""

from __future__ import annotations

import numpy as np
import pytest

from ingot.engine.describe import Layer
from ingot.graph.region import ANCHORS, CONVOLUTIONS, PRODUCTS, WEIGHTED, Kind
from ingot.kernels.api import Target
from ingot.measure.accuracy import difference, differences
from ingot.measure.latency import Latency
from ingot.measure.roofline import layer_seconds, peak


def test_latency_of_known_samples() -> None:
    found = Latency.of([i / 1000 for i in range(1, 101)])
    assert (found.samples, found.min, found.max) == (100, 1.0, 100.0)
    assert found.mean == found.median == pytest.approx(50.5)
    assert found.p90 == pytest.approx(90.1)
    assert found.p95 == pytest.approx(95.05)
    assert found.p99 == pytest.approx(99.01)
    assert found.spread == pytest.approx(99.01 / 50.5)


def test_latency_of_one_sample() -> None:
    found = Latency.of([0.002])
    assert found.min == found.p99 == found.max == 2.0 and found.spread == 1.0


def test_difference_of_known_arrays() -> None:
    found = difference("y", np.array([3.0, 4.0]), np.array([3.0, 4.5], np.float32))
    assert (found.max_abs, found.mean_abs) == (0.5, 0.25)
    assert found.relative == pytest.approx(0.1)
    assert found.scale == pytest.approx(np.sqrt(12.5))
    assert found.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    assert found.within(0.1) and not found.within(0.09)
    assert (found.dtype, found.shape) == ("float32", [2])


def test_integers_differ_by_their_share() -> None:
    found = difference("y", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9]))
    assert found.relative == 0.25 and found.max_abs == 5
    assert difference("y", np.array([True, False]), np.array([True, False])).within(0)


def test_large_integers_are_told_apart() -> None:
    a = np.array([2**60, 2**60 + 1])
    assert difference("y", a, a + np.array([0, 1])).relative == 0.5


def test_not_finite_in_the_same_places_does_not_count() -> None:
    a = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference("y", a, a.copy()).within(0)
    assert difference("y", a, np.array([np.nan, np.inf, np.inf, 1.0])).nonfinite == 1
    assert not difference("y", a, np.array([0.0, np.inf, -np.inf, 1.0])).within(1)
    only = np.array([np.nan])
    assert difference("y", only, only).within(0)


def test_zeros() -> None:
    zero = np.zeros(3)
    assert difference("y", zero, zero).cosine == 1.0
    found = difference("y", zero, np.array([0.0, 3.0, 4.0]))
    assert found.relative == 5.0 and found.cosine == 0.0


def test_empty_and_other_shapes() -> None:
    assert difference("y", np.zeros((0, 3)), np.zeros((0, 3))).within(0)
    found = difference("y", np.zeros((2, 3)), np.zeros((3, 2)))
    assert "[3, 2]" in found.problem and not found.within(1)


def test_differences_keep_the_order() -> None:
    one, two = np.ones(2), np.zeros(2)
    assert [d.name for d in differences({"a": one, "b": two}, {"b": two, "a": one})] == ["b", "a"]


def layer(kind: str, precision: str, moved: int, flops: int) -> Layer:
    return Layer(0, "l", kind, [], "", 0.0, True, moved, flops, precision, [], [], [0], "none", False, [])


def test_roofline_takes_the_slower_of_bytes_and_operations() -> None:
    target = Target(90, bandwidth=1e12, flops=100e12, flops_fp32=10e12)
    assert layer_seconds(layer("map", "float16", 10**6, 10), target) == pytest.approx(1e-6)
    assert layer_seconds(layer("gemm", "float16 -> float32", 1, 10**9), target) == pytest.approx(1e-5)
    assert layer_seconds(layer("gemm", "float32", 1, 10**9), target) == pytest.approx(1e-4)
    for kind in ("stem", "chain"):  # products too
        assert layer_seconds(layer(kind, "float16 -> float16", 1, 10**9), target) == pytest.approx(1e-5)
    assert layer_seconds(layer("host", "float32", 10**9, 10**9), target) == 0.0


def test_every_kind_says_whether_it_is_a_product() -> None:
    """By its anchors: a new kind is in ANCHORS, or here among those that no op makes."""
    assert set(Kind) - ANCHORS.keys() == {Kind.MAP, Kind.PLUGIN, Kind.VIEW, Kind.HOST}
    convolutions = {Kind.CONV, Kind.STEM, Kind.CHAIN, Kind.SUM, Kind.EXCITE, Kind.INVERTED}
    assert (set(CONVOLUTIONS), set(WEIGHTED)) == (convolutions, {*convolutions, Kind.GEMM})
    assert set(PRODUCTS) == {*convolutions, Kind.GEMM, Kind.ATTENTION}
    target = Target(90, flops=100e12, flops_fp32=10e12)
    for kind in Kind:
        expected = 100e12 if kind in PRODUCTS else 10e12
        assert peak(layer(kind.value, "float16", 0, 0), target) == expected, kind


def test_peaks() -> None:
    target = Target(90, tf32=True, flops=100e12, flops_fp32=10e12)
    assert peak(layer("conv", "float32", 0, 0), target) == 50e12
    assert peak(layer("conv", "float16,float32 -> float16", 0, 0), target) == 100e12
    assert peak(layer("map", "float16", 0, 0), target) == 10e12
