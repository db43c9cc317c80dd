"""What one inference takes: the figures of a benchmark, sample by sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ingot.device.stream import Event
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.job import Job

_MOST_SPLIT = 200
"""Runs with events in between: enough for the shares, which vary little."""


class Measurement(msgspec.Struct, frozen=True):
    """Samples in seconds. An engine for the CPU has only ``latency``."""

    latency: list[float]
    """Host time of one synchronous inference: with ``transfers`` from and to host arrays, else device to device."""
    wall: float
    """Host time of all the inferences in ``latency``."""
    enqueue: list[float] = []
    """Host time of submitting the work, without copies."""
    h2d: list[float] = []
    compute: list[float] = []
    """Time between events on the device in front of and behind the work; host steps included."""
    d2h: list[float] = []

    @property
    def throughput(self) -> float:
        """Inferences per second, one at a time."""
        return len(self.latency) / self.wall


def measure(
    context: Context,
    feeds: Mapping[str, Any],
    *,
    transfers: bool = True,
    warmup: float = 0.2,
    seconds: float = 3.0,
    iterations: int = 10,
) -> Measurement:
    """Run ``feeds`` (host arrays) again and again for ``seconds``, and at least ``iterations`` times.

    ``warmup``: seconds of runs that are not counted. Raises what ``context.run`` raises.
    """
    if not isinstance(context, DeviceContext):
        return _loop(lambda: context.run(feeds), warmup, seconds, iterations)
    job = context.prepare(feeds)
    context.put(job)
    context.launch(job)
    context.get(job)  # everything is allocated and the inputs are on the device
    enqueue: list[float] = []
    latency = _loop(_whole(context, job, enqueue, transfers), warmup, seconds, iterations)
    runs = len(latency.latency)
    split = _split(context, job, min(max(runs, 1), _MOST_SPLIT), transfers)
    return Measurement(latency.latency, latency.wall, enqueue[-runs:], *split)


def _loop(once: Callable[[], object], warmup: float, seconds: float, iterations: int) -> Measurement:
    clock = time.perf_counter
    once()
    end = clock() + warmup
    while clock() < end:
        once()
    samples: list[float] = []
    start = before = clock()
    while len(samples) < iterations or before < start + seconds:
        once()
        now = clock()
        samples.append(now - before)
        before = now
    return Measurement(samples, before - start)


def _whole(context: DeviceContext, job: Job, enqueue: list[float], transfers: bool) -> Callable[[], object]:
    clock = time.perf_counter

    def once() -> None:
        if transfers:
            context.put(job)
        before = clock()
        context.launch(job)
        enqueue.append(clock() - before)
        if transfers:
            context.get(job)
        else:
            context.stream.synchronize()

    return once


def _split(
    context: DeviceContext, job: Job, runs: int, transfers: bool
) -> tuple[list[float], list[float], list[float]]:
    marks = [Event() for _ in range(4)]
    shares: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(runs):
        marks[0].record(context.stream)
        if transfers:
            context.put(job)
        marks[1].record(context.stream)
        context.launch(job)
        marks[2].record(context.stream)
        if transfers:
            context.download(job)
        marks[3].record(context.stream)
        context.stream.synchronize()
        for samples, start, end in zip(shares, marks, marks[1:], strict=False):
            samples.append(end.since(start))
    return shares if transfers else ([], shares[1], [])
