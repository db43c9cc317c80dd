"""Engines that differ in a few kernels, run in turns: the part of ``judge`` that uses the device."""

from __future__ import annotations

import mmap
import os
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from ingot.device.stream import Event
from ingot.engine.bounds import corner
from ingot.engine.file import EngineFile
from ingot.graph import dtypes
from ingot.plan.spec import Plan
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine
from ingot.runtime.shapes import shape_at
from ingot.tune.setting import Timing

_ROUNDS = 24
_BLOCK_SECONDS = 2e-3
"""Aim for the device time of one engine's turn."""
_MOST_RUNS = 16
_SEED = 0


def race(weights: str, parts: Sequence[tuple[Plan, bytes]], ordinal: int) -> list[Timing]:
    """Time of one run of each engine (a plan and its machine code) at the optimum shapes, in turns.

    ``weights`` is a file with what the engines have in common. Raises what opening and running them raises.
    """
    held = _mapped(weights)
    return _turns([DeviceContext(Engine(EngineFile(plan, held, cubins)), ordinal) for plan, cubins in parts])


def race_files(paths: Sequence[str], ordinal: int) -> list[Timing]:
    """As :func:`race` for engine files, which have the same inputs."""
    return _turns([DeviceContext(Engine(EngineFile.read(path)), ordinal) for path in paths])


def _turns(contexts: Sequence[DeviceContext]) -> list[Timing]:
    feeds = random_feeds(contexts[0].engine.plan)
    for context in contexts:
        context.bind(inputs=feeds)
    events = Event(), Event()
    runs = _runs(contexts[0], events)
    samples: list[list[float]] = [[] for _ in contexts]
    for turn in range(_ROUNDS + 1):
        order = list(zip(contexts, samples, strict=True))
        for context, times in order[:: -1 if turn % 2 else 1]:  # there and back, against a steady drift
            seconds = _block(context, runs, events)
            if turn:  # the first one also uploads the graph
                times.append(seconds)
    return [_timing(times) for times in samples]


def random_feeds(plan: Plan) -> dict[str, np.ndarray[Any, Any]]:
    """Normal numbers for float inputs, since zeros would draw less power; zeros for what may be an index."""
    generator, bindings = np.random.default_rng(_SEED), corner(plan, "opt")
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for binding in plan.inputs:
        shape, kind = shape_at(binding, bindings), dtypes.numpy_dtype(binding.dtype)
        floating = dtypes.is_float(binding.dtype)
        feeds[binding.name] = generator.standard_normal(shape).astype(kind) if floating else np.zeros(shape, kind)
    return feeds


def _mapped(path: str) -> bytes | memoryview:
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _runs(context: DeviceContext, events: tuple[Event, Event]) -> int:
    _block(context, 2, events)
    return max(2, min(_MOST_RUNS, round(_BLOCK_SECONDS / max(_block(context, 2, events), 1e-7))))


def _block(context: DeviceContext, runs: int, events: tuple[Event, Event]) -> float:
    """Seconds of one of ``runs`` runs, queued behind another one so that the host's pace does not count."""
    start, end = events
    context.enqueue()
    start.record(context.stream)
    for _ in range(runs):
        context.enqueue()
    end.record(context.stream)
    context.synchronize()
    return end.since(start) / runs


def _timing(samples: Sequence[float]) -> Timing:
    """Median, and as noise the standard error of a median of such samples (1.25 / root of n of their spread)."""
    middle = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4)
    spread = (high - low) / 1.349  # of normal samples: their standard deviation
    return Timing(middle, 1.25 * spread / (len(samples) ** 0.5 * middle) if middle else 0.0)
