"""Every Value that an engine makes, read back while it runs step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ingot.device.stream import Stream
from ingot.plan.spec import Plan
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.island import cut
from ingot.runtime.program import Turn

Array = np.ndarray[Any, Any]


def step_values(context: Context, feeds: Mapping[str, Any]) -> Iterator[tuple[int, Array]]:
    """Index into ``Plan.values`` and a copy on the host of each Value, right after the step that completes it.

    Steps that conditions exclude make none. An engine for the CPU gives its outputs only: its host steps do not show
    what is inside. Raises what ``context.run`` raises.
    """
    if isinstance(context, DeviceContext):
        yield from _device_values(context, feeds)
        return
    made = context.run(feeds)
    for binding in context.engine.plan.outputs:
        yield binding.value, np.asarray(made[binding.name])


def _device_values(context: DeviceContext, feeds: Mapping[str, Any]) -> Iterator[tuple[int, Array]]:
    job, plan = context.prepare(feeds), context.engine.plan
    context.put(job)
    left = _steps_by_region(plan)
    for turn in job.program.turns(context.stream):
        for index in turn.program.steps:
            _run(turn, index, context.stream)
            step = plan.steps[index]
            left[step.region] -= 1
            if step.kind != "kernel":
                complete = step.writes
            else:
                complete = plan.regions[step.region].writes if not left[step.region] else []
            for value in complete:
                yield value, _read(turn, value, context.stream)


def _run(turn: Turn, index: int, stream: Stream) -> None:
    if index in turn.program.hosted:
        turn.run_hosted(index, stream)
        return
    builder = turn.program.segment_builder()
    builder.add(index)
    graph = builder.instantiate()
    graph.launch(stream)
    stream.synchronize()  # before the graph goes


def _steps_by_region(plan: Plan) -> dict[int, int]:
    counts: dict[int, int] = {}
    for step in plan.steps:
        counts[step.region] = counts.get(step.region, 0) + 1
    return counts


def _read(turn: Turn, index: int, stream: Stream) -> Array:
    place, address = turn.program.places[index], turn.program.at(index)
    if not address or place is None:
        return np.array(turn.host[index])
    raw = np.empty(max(place.span, 1), np.uint8)
    stream.copy(raw.ctypes.data, address, place.span)
    stream.synchronize()
    return cut(place.view(raw.data), turn.shapes(index)).copy()
