"""Time of every step of an engine, on the device it runs on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ingot.device.graph import Graph
from ingot.device.stream import Event
from ingot.plan.spec import Step
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.host_context import HostContext
from ingot.runtime.places import Places
from ingot.runtime.program import Program, Turn

_REPEATS = 10
_ROUNDS = 7


class StepTime(msgspec.Struct, frozen=True):
    """Median time of one step alone, its data as warm in the caches as the step itself leaves it."""

    step: int
    """Index into Plan.steps."""
    name: str
    kind: str
    micros: float
    ran: bool = True
    """Whether it ran at all: not where a condition excludes it."""


def profile(context: Context, feeds: Mapping[str, Any]) -> list[StepTime]:
    """Time every step on the data of ``feeds``, in the plan's order of stages.

    The steps run one by one and each several times in a row, so parallel branches and
    programmatic edges do not show: the sum is more than the engine's own time. Sizes and branches that data
    decides are those of ``feeds``.
    Raises what ``context.run`` raises.
    """
    if isinstance(context, DeviceContext):
        return _profile_device(context, feeds)
    assert isinstance(context, HostContext)
    times: list[list[float]] = []
    for _ in range(_ROUNDS):
        times.append(context.step_times(feeds))
    plan, order = context.engine.plan, [i for stage in context.engine.schedule for i in stage.steps]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return [StepTime(i, plan.steps[i].name, "host", 1e6 * t) for i, t in zip(order, medians, strict=True)]


@dataclass
class _Probe:
    """One device step: run once, and run several times more, where that leaves the same data."""

    index: int
    once: Graph
    often: Graph | None
    single: list[float]
    extra: list[float]


def _profile_device(context: DeviceContext, feeds: Mapping[str, Any]) -> list[StepTime]:
    job, steps = context.prepare(feeds), context.engine.plan.steps
    probes: dict[int, _Probe] = {}
    hosted: dict[int, list[float]] = {}
    for _ in range(_ROUNDS):
        context.put(job)
        for turn in job.program.turns(context.stream):
            for index in turn.program.steps:
                if index in turn.program.hosted:
                    hosted.setdefault(index, []).append(_host_seconds(context, turn, index))
                else:
                    if index not in probes:
                        probes[index] = _probe(turn.program, index)
                    _run_probe(context, probes[index])
    overhead = _launch_overhead(list(probes.values()))
    seconds = {i: statistics.median(times) for i, times in hosted.items()}
    seconds |= {i: _step_seconds(probe, overhead) for i, probe in probes.items()}
    order = [i for stage in context.engine.schedule for i in stage.steps]
    return [StepTime(i, steps[i].name, steps[i].kind, 1e6 * seconds.get(i, 0.0), i in seconds) for i in order]


def _host_seconds(context: DeviceContext, turn: Turn, index: int) -> float:
    start = time.perf_counter()
    turn.run_hosted(index, context.stream)
    context.stream.synchronize()
    return time.perf_counter() - start


def _probe(program: Program, index: int) -> _Probe:
    def graph(times: int) -> Graph:
        builder = program.segment_builder()
        builder.repeat(index, times)
        return builder.instantiate()

    again = not _in_place(program.plan.steps[index], program.places)
    return _Probe(index, graph(1), graph(1 + _REPEATS) if again else None, [], [])


def _run_probe(context: DeviceContext, probe: _Probe) -> None:
    marks = [Event() for _ in range(3)]
    marks[0].record(context.stream)
    probe.once.launch(context.stream)
    marks[1].record(context.stream)
    if probe.often is not None:
        probe.often.launch(context.stream)
        marks[2].record(context.stream)
    context.stream.synchronize()
    probe.single.append(marks[1].since(marks[0]))
    if probe.often is not None:
        probe.extra.append((marks[2].since(marks[1]) - probe.single[-1]) / _REPEATS)


def _launch_overhead(probes: Sequence[_Probe]) -> float:
    """What a graph launch adds to a step's time, from the steps that could be repeated."""
    found = [statistics.median(p.single) - statistics.median(p.extra) for p in probes if p.extra]
    return max(statistics.median(found), 0.0) if found else 0.0


def _step_seconds(probe: _Probe, overhead: float) -> float:
    return max(statistics.median(probe.extra) if probe.extra else statistics.median(probe.single) - overhead, 0.0)


def _in_place(step: Step, found: Places) -> bool:
    """Whether the step overwrites what it reads, so that a second run would see other data.

    A Value that is both read and written is a workspace: kernels leave it as they found it, or
    write it before they read it.
    """
    pairs = ((found[a], found[b]) for a in step.reads for b in step.writes if a != b)
    return any(
        a.base == b.base and a.offset < b.offset + b.span and b.offset < a.offset + a.span
        for a, b in pairs
        if a is not None and b is not None
    )
