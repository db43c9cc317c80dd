"""What the device's kernels see of tensors is what the host sees: emulated here, and run where there is a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from support.gpu import device_target
from support.host_cuda import needs_compiler
from support.tallies import ENTRIES, Emulated, Held, assert_same

from ingot.builder.device_observer import Gpu
from ingot.builder.statistics_kernels import statistics_cubin
from ingot.builder.tally import Machine, Tally, Tensor
from ingot.builder.targets import TARGETS
from ingot.device.memory import Buffer
from ingot.device.stream import Stream
from ingot.precision.histogram import BINS
from ingot.precision.inputs import Array
from ingot.precision.observer import HostObserver, Observed, Wanted

WANTED = Wanted(("a", "b"), {"b": 1, "c": -1})


class _Kept:
    """Runs that give back what they are told."""

    def __init__(self, batches: Sequence[Mapping[str, Array]]) -> None:
        self._left = list(batches)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._left.pop(0)


def _on_host(batches: Sequence[Mapping[str, Array]]) -> Observed:
    observer = HostObserver(_Kept(batches), WANTED)
    for _ in batches:
        observer.see({})
    return observer.seen()


def _emulated(batches: Sequence[Mapping[str, Array]]) -> Observed:
    tally = Tally(WANTED, Emulated())
    for batch in batches:
        held = {name: Held(array.reshape(-1).copy()) for name, array in batch.items()}
        tally.add({name: Tensor(held[name].pointer, array.shape) for name, array in batch.items()})
        for memory in held.values():
            memory.guarded.check()
    return tally.seen()


def _on_device(batches: Sequence[Mapping[str, Array]]) -> Observed:
    target = device_target()
    assert target is not None
    stream = Stream()
    machine: Machine = Gpu(stream, statistics_cubin(target), target.sms)
    tally = Tally(WANTED, machine)
    for batch in batches:
        held = {name: Buffer(array.nbytes) for name, array in batch.items()}
        for name, array in batch.items():
            dense = np.ascontiguousarray(array)
            stream.copy(held[name].pointer, dense.ctypes.data, dense.nbytes)
            stream.synchronize()
        tally.add({name: Tensor(held[name].pointer, array.shape) for name, array in batch.items()})
        stream.synchronize()
    return tally.seen()


def _batch(random: np.random.Generator, scale: float, odd: int) -> dict[str, Array]:
    """Odd sizes; zeros, as behind a ReLU; for ``odd`` also NaN and infinity."""
    a = (scale * random.standard_normal((2, 3, odd, 7))).astype(np.float32)
    b = np.maximum(scale * random.standard_normal((3, 5, odd)), 0).astype(np.float32)
    c = (random.standard_normal((odd, 33)) - 0.5).astype(np.float32)
    return {"a": a, "b": b, "c": c}


def _usual() -> list[dict[str, Array]]:
    random = np.random.default_rng(0)
    return [_batch(random, scale, odd) for scale, odd in ((0.1, 11), (4.0, 401), (1.0, 1), (300.0, 37))]


def _hard() -> list[dict[str, Array]]:
    """No finite number, none at all, zeros before and after others, denormal ones, and a range that bursts."""
    batches = [_batch(np.random.default_rng(1), 1.0, 9) for _ in range(7)]
    batches[0]["a"][:] = np.nan
    batches[1]["a"] = np.zeros((0, 4), np.float32)
    batches[1]["b"] = np.zeros((0, 5, 3), np.float32)
    batches[2]["a"][:] = 0
    batches[3]["a"] *= np.float32(1e-39)
    batches[4]["a"].reshape(-1)[::5] = [np.inf, -np.inf, np.nan] * 25 + [np.inf]
    batches[5]["a"].reshape(-1)[3] = -3.4e38
    batches[6]["a"] = -np.abs(batches[6]["a"])
    return batches


@needs_compiler
@pytest.mark.parametrize("make", [_usual, _hard])
def test_emulated_kernels_see_what_the_host_sees(make: Any) -> None:
    batches = make()
    wanted = _on_host(batches)
    assert wanted.histograms["a"].counts.sum() and wanted.histograms["b"].counts[BINS] > 100
    assert_same(_emulated(batches), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [_usual, _hard])
def test_the_device_sees_what_the_host_sees(make: Any) -> None:
    batches = make()
    assert_same(_on_device(batches), _on_host(batches))


@pytest.mark.gpu
def test_many_blocks() -> None:
    random = np.random.default_rng(3)
    batches = [
        {
            "a": random.standard_normal((8, 64, 112, 113)).astype(np.float32),
            "b": np.maximum(random.standard_normal((8, 70, 56, 55)), 0).astype(np.float32),
            "c": random.standard_normal((2049, 700)).astype(np.float32),
        }
        for _ in range(2)
    ]
    assert_same(_on_device(batches), _on_host(batches))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_compiles(target: Any) -> None:
    cubin = statistics_cubin(target)
    assert all(entry.encode() in cubin for entry in ENTRIES)


def test_channels_of_nan_are_nan() -> None:
    batch = {"a": np.ones((1, 2), np.float32), "b": np.float32([[[1], [np.nan], [-np.inf]]]), "c": np.ones((1, 1))}
    found = _on_host([batch]).channels["b"].largest
    assert found[0] == 1 and np.isnan(found[1]) and found[2] == np.inf
