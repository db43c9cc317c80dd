"""A Context over several profiles on the device. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiny
from support.branches import branches, on_gpu, vector

from ingot.engine.file import EngineFile
from ingot.engine.join import join
from ingot.errors import IngotError
from ingot.plan.spec import Profile
from ingot.runtime.engine import Engine
from ingot.runtime.profiled_context import ProfiledContext

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


def engine() -> Engine:
    parts = [
        ("fixed", branches(64).file),
        ("small", branches("n", (Profile("n", 1, 50, 100),)).file),
        ("large", branches("n", (Profile("n", 90, 1000, 4000),)).file),
    ]
    return Engine(EngineFile.from_bytes(join(parts, {}).to_bytes()))


def test_each_shape_runs_by_its_profile() -> None:
    context = engine().context()
    assert isinstance(context, ProfiledContext)
    for n, name in ((64, "fixed"), (65, "small"), (100, "small"), (101, "large"), (4000, "large"), (64, "fixed")):
        x = vector(n)
        assert np.array_equal(context.run({"x": x})["y"], 2 * x + 3 * x)
        assert context.at({"x": (n,)}).engine.plan.name == name
    with pytest.raises(IngotError, match="no profile takes x \\[4001\\]"):
        context.run({"x": vector(4001)})
    with pytest.raises(IngotError, match="no value for input"):
        context.run({})


def test_a_named_profile_is_the_only_one() -> None:
    made = engine()
    large = made.context(profile="large")
    x = vector(100)
    assert np.array_equal(large.run({"x": x})["y"], 2 * x + 3 * x)
    with pytest.raises(IngotError, match="the engine was built for 90 to 4000"):
        large.run({"x": vector(64)})
    small = made.context(profile="small")
    assert np.array_equal(small.run({"x": x})["y"], 2 * x + 3 * x)


def test_binding_switches_profiles_on_one_arena() -> None:
    context = engine().context()
    assert isinstance(context, ProfiledContext)
    for n, name in ((64, "fixed"), (2000, "large"), (64, "fixed"), (80, "small")):
        x = vector(n)
        context.bind(inputs={"x": on_gpu(x)})
        assert context.profile == name
        context.enqueue()
        context.synchronize()
        assert np.array_equal(context.output("y").numpy(), 2 * x + 3 * x)
    context.bind()  # the first profile's best shape
    assert context.profile == "fixed" and context.input("x").shape == (64,)
