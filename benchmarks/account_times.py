"""Times of an engine for ``account.py``: whole runs, their parts on the host, and each step inside the graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from ingot.device.graph import Graph
from ingot.device.stream import Event
from ingot.engine.file import EngineFile
from ingot.measure.latency import Latency
from ingot.measure.timing import queued_seconds, quiet
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine
from ingot.runtime.program import Program

Array = np.ndarray[Any, Any]
_WARM_S = 0.3
_QUEUED = 300
"""Runs between events that are queued behind another."""
_PREFIX_ROUNDS = (15, 100)
"""Times that each beginning of the graph runs, at least and at most."""
_MEDIAN_ERROR = 1.25
"""Standard error of the median of normal samples, relative to that of their mean."""


class Slow(msgspec.Struct, frozen=True):
    """The slowest hundredth of the runs: by how many microseconds their means exceed the medians of all runs."""

    runs: int
    run: float
    enqueue: float
    wait: float


class Host(msgspec.Struct, frozen=True):
    """Runs as the host sees them, in milliseconds; each of the three is of the same runs."""

    run: Latency
    """``enqueue`` and the wait for it."""
    enqueue: Latency
    wait: Latency
    slow: Slow


class Whole(msgspec.Struct, frozen=True):
    """Times of whole runs in milliseconds, inputs and outputs on the device."""

    host: Host
    spin: Host
    """The wait watches for the end: ``synchronize(spin=True)``."""
    device: Latency
    """Between events around a run on a GPU that has nothing else to do."""
    queued: Latency
    """Between events around a run that is queued behind another: the host's pace does not count."""
    ordinary: Latency | None
    """As ``queued``, of the same steps without programmatic edges; None where the engine has none."""


def whole(file: EngineFile, context: DeviceContext, feeds: Mapping[str, Array], runs: int, seconds: float) -> Whole:
    """Times of ``context`` on ``feeds``: ``runs`` of each kind, as far as ``seconds`` suffice."""
    with quiet():
        context.bind(inputs=feeds)
        host = _host(context, runs, seconds, spin=False)
        spin = _host(context, runs, seconds, spin=True)
        device = _alone(context, host.run.samples, seconds)
        queued = queued_seconds(context, _QUEUED)
        ordinary = _ordinary(file, feeds)
    return Whole(host, spin, Latency.of(device), Latency.of(queued), Latency.of(ordinary) if ordinary else None)


def _host(context: DeviceContext, runs: int, seconds: float, *, spin: bool) -> Host:
    enqueue, wait = _split(context, runs, seconds, spin=spin)
    total = [a + b for a, b in zip(enqueue, wait, strict=True)]
    return Host(Latency.of(total), Latency.of(enqueue), Latency.of(wait), slow(enqueue, wait))


def slow(enqueue: Sequence[float], wait: Sequence[float]) -> Slow:
    """Which part makes slow runs slow; arguments in seconds, run by run."""
    parts = np.array([enqueue, wait])
    total = parts.sum(axis=0)
    chosen = np.argsort(total)[-max(len(total) // 100, 1) :]
    over = 1e6 * (parts[:, chosen].mean(axis=1) - np.median(parts, axis=1))
    whole = 1e6 * (total[chosen].mean() - np.median(total))
    return Slow(len(chosen), float(whole), float(over[0]), float(over[1]))


def _split(context: DeviceContext, runs: int, seconds: float, *, spin: bool) -> tuple[list[float], list[float]]:
    clock, enqueue, wait = time.perf_counter, list[float](), list[float]()

    def once() -> None:
        start = clock()
        context.enqueue()
        middle = clock()
        context.synchronize(spin=spin)
        end = clock()
        enqueue.append(middle - start)
        wait.append(end - middle)

    _for(once, 1 << 30, _WARM_S)
    enqueue.clear()
    wait.clear()
    _for(once, runs, seconds)
    return enqueue, wait


def _alone(context: DeviceContext, runs: int, seconds: float) -> list[float]:
    start, end, samples = Event(), Event(), list[float]()

    def once() -> None:
        start.record(context.stream)
        context.enqueue()
        end.record(context.stream)
        context.synchronize()
        samples.append(end.since(start))

    _for(once, runs, seconds)
    return samples


def _for(run: Callable[[], object], runs: int, seconds: float) -> None:
    """Runs it once at least."""
    until = time.perf_counter() + seconds
    for _ in range(runs):
        run()
        if time.perf_counter() > until:
            return


def _ordinary(file: EngineFile, feeds: Mapping[str, Array]) -> list[float]:
    plan = without_programmatic(file)
    if plan is None:
        return []
    context = Engine(plan).context()
    assert isinstance(context, DeviceContext)
    context.bind(inputs=feeds)
    queued_seconds(context, _QUEUED)  # to get warm
    return queued_seconds(context, _QUEUED)


def without_programmatic(file: EngineFile) -> EngineFile | None:
    """The same steps, each after the end of those before it; None where that is so already."""
    plan = file.plan
    if not any(step.programmatic for step in plan.steps):
        return None
    steps = [msgspec.structs.replace(step, programmatic=[]) for step in plan.steps]
    return replace(file, plan=msgspec.structs.replace(plan, steps=steps))


class Inside(msgspec.Struct, frozen=True):
    """What steps cost in the graph, in microseconds."""

    steps: dict[int, float]
    """By how much each makes the graph longer, by its index."""
    error: float
    """Standard error of one of them, the median over all. Where the clock gives way it is as large as a step."""


def inside(context: DeviceContext, seconds: float) -> Inside:
    """By how much each step makes the graph longer; what is bound runs.

    The graph's beginnings, of the first step, the first two and so on, are timed between events, each behind a run of
    the whole graph, which leaves the caches as a run finds them. The first step has the start of a graph on top. No
    steps where the engine is not one graph. ``seconds``: roughly what it may take.
    """
    program = context.bound
    if not isinstance(program, Program) or not program.on_device:
        return Inside({}, 0.0)
    order = program.steps
    graphs = [_beginning(program, order[: count + 1]) for count in range(len(order))]
    once = statistics.median(queued_seconds(context, _QUEUED))
    least, most = _PREFIX_ROUNDS
    rounds = min(max(round(seconds / (1.5 * once * len(graphs))), least), most)
    samples = 1e6 * np.array(_behind_whole(context, [None, *graphs], rounds))
    steps = np.diff(np.median(samples, axis=1))
    errors = _MEDIAN_ERROR * samples.std(axis=1) / rounds**0.5
    error = float(np.median(np.hypot(errors[1:], errors[:-1])))
    return Inside({index: float(step) for index, step in zip(order, steps, strict=True)}, error)


def _beginning(program: Program, steps: Sequence[int]) -> Graph:
    builder = program.segment_builder()
    for index in steps:
        builder.add(index)
    return builder.instantiate()


def _behind_whole(context: DeviceContext, graphs: Sequence[Graph | None], rounds: int) -> list[list[float]]:
    """Seconds of each graph (of nothing for None), in turns."""
    start, end = Event(), Event()
    samples: list[list[float]] = [[] for _ in graphs]
    for _ in range(rounds):
        for graph, found in zip(graphs, samples, strict=True):
            context.enqueue()
            start.record(context.stream)
            if graph is not None:
                graph.launch(context.stream)
            end.record(context.stream)
            context.synchronize()
            found.append(end.since(start))
    return samples
