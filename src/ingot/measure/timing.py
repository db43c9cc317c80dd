"""Measuring an engine, alone or in turns with others."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ingot.device.memory import allocations
from ingot.device.stream import Event
from ingot.measure.figures import Budget, Figures
from ingot.measure.latency import Latency
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.timing import measure

Array = np.ndarray[Any, Any]
_BURST = 32
"""Launches submitted before waiting: enough to hide the wait, few enough for any driver's queue."""
_MOST_EVENTS = 300
_ROUNDS = 12
_SETTLE = 3
"""Runs at the start of a turn that do not count: the threads of the one before still spin."""


def measure_device(context: DeviceContext, feeds: Mapping[str, Array], budget: Budget, load_ms: float) -> Figures:
    """Everything of an engine on the GPU. Raises what ``context.run`` raises."""
    context.run(feeds)
    context.synchronize(spin=True)
    before = allocations()
    with quiet():
        context.bind(inputs=feeds)
        runs, enqueues = _inside(context, budget)
        spins, _ = _inside(context, budget, spin=True)
        throughput = _burst_rate(context, budget)
        compute = queued_seconds(context, min(len(runs), _MOST_EVENTS))
        whole = None
        if budget.transfers:
            limits = {"warmup": budget.warmup, "seconds": budget.seconds / 2, "iterations": budget.iterations}
            whole = measure(context, feeds, **limits)  # type: ignore[arg-type]
    return Figures(
        run=Latency.of(runs),
        throughput=throughput,
        load_ms=load_ms,
        allocations=allocations() - before,
        latency=Latency.of(whole.latency) if whole else None,
        spin=Latency.of(spins),
        enqueue=Latency.of(enqueues),
        h2d=_latency(whole.h2d if whole else []),
        compute=Latency.of(compute),
        d2h=_latency(whole.d2h if whole else []),
    )


def _inside(context: DeviceContext, budget: Budget, *, spin: bool = False) -> tuple[list[float], list[float]]:
    """Seconds of whole runs on what is bound, and of submitting them."""
    clock, enqueues = time.perf_counter, list[float]()

    def once() -> None:
        start = clock()
        context.enqueue()
        enqueues.append(clock() - start)
        context.synchronize(spin=spin)

    _until(once, budget.warmup, 1)
    enqueues.clear()
    return _until(once, budget.seconds, budget.iterations), enqueues


def queued_seconds(context: DeviceContext, runs: int) -> list[float]:
    """Seconds between events around a launch that is queued behind another, so that the host's pace does not count."""
    start, end, samples = Event(), Event(), list[float]()
    for _ in range(runs):
        context.enqueue()
        start.record(context.stream)
        context.enqueue()
        end.record(context.stream)
        context.synchronize()
        samples.append(end.since(start))
    return samples


def measure_host(samples: list[float], load_ms: float) -> Figures:
    """The figures of an engine on the CPU from seconds of single runs."""
    return Figures(run=Latency.of(samples), throughput=len(samples) / sum(samples), load_ms=load_ms, allocations=0)


def repeated(run: Callable[[], object], budget: Budget) -> list[float]:
    """Seconds of each run, warmed up."""
    with quiet():
        _until(run, budget.warmup, 1)
        return _until(run, budget.seconds, budget.iterations)


def interleaved(runs: Mapping[str, Callable[[], object]], budget: Budget) -> dict[str, list[float]]:
    """Seconds of each run of several functions that take turns, so that a slow spell hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with quiet():
        for run in runs.values():
            _until(run, budget.warmup, 1)
        for number in range(_ROUNDS):
            turn = list(runs.items())
            for name, run in turn[:: -1 if number % 2 else 1]:  # there and back, against a steady drift
                _until(run, 0.0, _SETTLE)
                times[name] += _until(run, budget.seconds / _ROUNDS, -(-budget.iterations // _ROUNDS))
    return times


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_time(make: Callable[[], Context], feeds: Mapping[str, Array]) -> tuple[Context, float]:
    """A Context that has run once, and the milliseconds that took."""
    start = time.perf_counter()
    context = make()
    context.run(feeds)
    return context, 1e3 * (time.perf_counter() - start)


def _until(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    clock, samples = time.perf_counter, list[float]()
    start = before = clock()
    while len(samples) < least or before < start + seconds:
        run()
        now = clock()
        samples.append(now - before)
        before = now
    return samples


def _burst_rate(context: DeviceContext, budget: Budget) -> float:
    """Runs per second, submitted in bursts."""

    def burst() -> None:
        for _ in range(_BURST):
            context.enqueue()
        context.synchronize()

    _until(burst, 0.0, 1)
    samples = _until(burst, budget.seconds / 3, 2)
    return _BURST * len(samples) / sum(samples)


def _latency(samples: list[float]) -> Latency | None:
    return Latency.of(samples) if samples else None
