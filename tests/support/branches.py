"""The engine that most device tests run: two products in parallel branches and their sum."""

from __future__ import annotations

import numpy as np
from support import tiny
from support.tiny import TinyPlan, number

from ingot.device.memory import Buffer
from ingot.device.stream import Stream
from ingot.plan.spec import Profile
from ingot.runtime.array import DeviceArray
from ingot.runtime.engine import Engine

N = 1000


def branches(n: int | str = N, profiles: tuple[Profile, ...] = ()) -> Engine:
    """out = 2x + 3x, the products in parallel branches."""
    p = TinyPlan(tiny.target(), profiles)
    p.value("x", [n], "input")
    p.value("a", [n], offset=0, size=1 << 14)
    p.value("b", [n], offset=1 << 14, size=1 << 14)
    p.value("y", [n], "output")
    first = p.kernel("scale", ["x", "a", number(n), number(2)], n, ["a"])
    second = p.kernel("scale", ["x", "b", number(n), number(3)], n, ["b"])
    p.kernel("add", ["a", "b", "y", number(n)], n, ["y"], after=[first, second])
    return p.engine()


def dynamic() -> Engine:
    return branches("n", (Profile("n", 1, 100, 4000),))


def vector(n: int = N) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


def on_gpu(array: np.ndarray, slack: int = 0) -> DeviceArray:
    """A foreign device array: own memory, own stream."""
    buffer = Buffer(array.nbytes + slack)
    buffer.upload(array)
    return DeviceArray(buffer, str(array.dtype), array.shape, 0, Stream())


def middle(backend: str = "onnxruntime") -> Engine:
    """out = (2x)² + x, the square on the host."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N], offset=0)
    p.value("h", [N], offset=4096)
    p.value("y", [N], "output")
    first = p.kernel("scale", ["x", "a", number(N), number(2)], N, ["a"])
    second = p.host(tiny.model("Mul", ["p", "q"], ["r"]), ["a", "a"], ["h"], (["p", "q"], ["r"]), [first], backend)
    p.kernel("add", ["h", "x", "y", number(N)], N, ["y"], after=[second])
    return p.engine()
