"""An observer over a small engine: on a GPU, and on the stand-in driver with the statistics' kernels emulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support import tiny
from support.gpu import device_target
from support.tallies import Emulated, assert_same

from ingot.builder.device_observer import DeviceObserver, DeviceRuns, Gpu
from ingot.builder.statistics_kernels import statistics_cubin
from ingot.builder.tally import Machine, Tally
from ingot.device.device import Device
from ingot.device.stream import Stream
from ingot.options import Range
from ingot.plan.spec import Profile
from ingot.precision.inputs import Array
from ingot.precision.observer import HostObserver, Wanted
from ingot.runtime.engine import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]

SHAPES = (("x", (Range(1, 8, 8), Range(6, 6, 6))),)


class _Products:
    """What the engines compute, on the host; counts how often."""

    runs = 0

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        self.runs += 1
        return {"y": 3 * feeds["x"], "z": -2 * feeds["x"]}


def _engine(factors: Mapping[str, int]) -> Engine:
    """x times each of ``factors``, by the name of the result."""
    plan = tiny.TinyPlan(tiny.target(), [Profile("N", 1, 8, 8)])
    plan.value("x", ["N", 6], "input")
    for name, factor in factors.items():
        plan.value(name, ["N", 6], "output")
        plan.kernel("scale", ["x", name, tiny.number("6*N"), tiny.number(factor)], "6*N", [name])
    return plan.engine()


def _machine(stream: Stream) -> Machine:
    if tiny.FAKE:
        return Emulated()
    target = device_target()
    assert target is not None
    return Gpu(stream, statistics_cubin(target), target.sms)


@pytest.mark.parametrize("parts", [[{"y": 3, "z": -2}], [{"y": 3}, {"z": -2}]], ids=["whole", "parts"])
def test_full_batches_fewer_samples_and_other_sizes(parts: list[dict[str, int]]) -> None:
    runs = DeviceRuns([_engine(part) for part in parts], Device.open())
    wanted, host = Wanted(("x", "y", "z"), {"z": 1}), _Products()

    def on_host() -> Any:
        return host

    observer = DeviceObserver(runs, Tally(wanted, _machine(runs.stream)), SHAPES, on_host)
    random = np.random.default_rng(0)
    batches = [random.standard_normal((rows, 6)).astype(np.float32) for rows in (8, 3, 11, 8)]
    batches[3] *= 100
    reference = HostObserver(_Products(), wanted)
    for batch in batches:
        observer.see({"x": batch})
        reference.see({"x": batch})
    assert_same(observer.seen(), reference.seen())
    assert host.runs == 1 and observer.where == Device.open().info.name


def test_memory_starts_as_zeros() -> None:
    stream = Stream()
    machine = _machine(stream)
    memory = machine.memory(64, "a test")
    machine.fill(memory.pointer, 0xFF, 8)
    assert memory.read(np.uint32, (4,)).tolist() == [0xFFFFFFFF, 0xFFFFFFFF, 0, 0]
