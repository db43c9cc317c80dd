"""Every Value that an engine makes, read back while it runs step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ingot.device.graph import Graph
from ingot.device.stream import Stream
from ingot.plan.spec import Plan
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.open_program import stepwise
from ingot.runtime.program import Program

Array = np.ndarray[Any, Any]


def step_values(context: Context, feeds: Mapping[str, Any]) -> Iterator[tuple[int, Array]]:
    """Index into ``Plan.values`` and a copy on the host of each Value, right after the step that completes it.

    An engine for the CPU gives its outputs only: its host steps do not show what is inside. Raises what
    ``context.run`` raises.
    """
    if isinstance(context, DeviceContext):
        yield from _device_values(context, feeds)
        return
    made = context.run(feeds)
    for binding in context.engine.plan.outputs:
        yield binding.value, np.asarray(made[binding.name])


def _device_values(context: DeviceContext, feeds: Mapping[str, Any]) -> Iterator[tuple[int, Array]]:
    job = context.prepare(feeds)
    program, plan = stepwise(job.program), context.engine.plan
    turns = iter(part for part in program.parts if not isinstance(part, Graph))
    context.put(job)
    left = _steps_by_region(plan)
    for stage in context.engine.schedule:
        for index in stage.steps:
            step = plan.steps[index]
            if stage.host:
                next(turns).run(context.stream, program.host)
            else:
                builder = program.segment_builder()
                builder.add(index)
                graph = builder.instantiate()
                graph.launch(context.stream)
                context.stream.synchronize()  # before the graph goes
            left[step.region] -= 1
            if step.kind != "kernel":
                complete = step.writes
            else:
                complete = plan.regions[step.region].writes if not left[step.region] else []
            for value in complete:
                yield value, _read(program, value, context.stream)


def _steps_by_region(plan: Plan) -> dict[int, int]:
    counts: dict[int, int] = {}
    for step in plan.steps:
        counts[step.region] = counts.get(step.region, 0) + 1
    return counts


def _read(program: Program, index: int, stream: Stream) -> Array:
    place, address = program.places[index], program.at(index)
    if not address or place is None:
        return np.array(program.host[index])
    raw = np.empty(max(place.span, 1), np.uint8)
    stream.copy(raw.ctypes.data, address, place.span)
    stream.synchronize()
    return place.view(raw.data).copy()
