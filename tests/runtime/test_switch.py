"""What a switch of shapes costs the host. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from support import tiny
from support.branches import vector
from support.tiny import TinyPlan, number

from ingot.device.memory import allocations
from ingot.engine.file import EngineFile
from ingot.engine.join import join
from ingot.plan.spec import Profile
from ingot.runtime.context import Context
from ingot.runtime.engine import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]
KERNELS = 300


def chain(least: int, most: int) -> Engine:
    """y = -x, the sign changed by every kernel of a long chain; sizes are written as a model's are."""
    p = TinyPlan(tiny.target(), (Profile("n", least, most, most),))
    p.value("x", ["n"], "input")
    p.value("y", ["n"], "output")
    same, last, name = "2*(floor(n/2 - 1/2) + 1) - mod(n, 2)", -1, "x"
    for i in range(KERNELS - 1):
        p.value(f"t{i}", [same], offset=(i % 2) << 14, size=1 << 14)
    for i in range(KERNELS):
        to = "y" if i == KERNELS - 1 else f"t{i}"
        factor = number(-1 if i == 0 else 1)
        last = p.kernel("scale", [name, to, number(same), factor], same, [to], after=[last] if last >= 0 else [])
        name = to
    return p.engine()


def seconds(work: Callable[[], object]) -> float:
    """Processor time, so that others on the machine do not count."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def switch(context: Context) -> tuple[float, float]:
    """Median seconds of binding new and seen shapes."""
    context.bind({"x": (99,)})
    new = [seconds(lambda n=n: context.bind({"x": (n,)})) for n in range(100, 113)]
    seen = [seconds(lambda: [context.bind({"x": (n,)}) for n in range(105, 113)]) / 8 for _ in range(20)]
    return statistics.median(new), statistics.median(seen)


def test_new_and_seen_shapes_cost_little() -> None:
    """2 ms and 20 µs are what is aimed at; the bounds are for a slow machine."""
    context = chain(1, 4000).context()
    x = vector(2001)
    assert np.array_equal(context.run({"x": x})["y"], -x)
    before = allocations()
    new, seen = switch(context)
    assert new < 0.015 and seen < 0.0005, (new, seen)
    assert allocations() == before, "a switch allocated memory"


def test_profiles_add_little() -> None:
    parts = [("small", chain(1, 50).file), ("large", chain(51, 4000).file)]
    context = Engine(EngineFile.from_bytes(join(parts, {}).to_bytes())).context()
    new, seen = switch(context)
    assert new < 0.015 and seen < 0.0005, (new, seen)
    for n in (40, 60):
        assert np.array_equal(context.run({"x": vector(n)})["y"], -vector(n))
