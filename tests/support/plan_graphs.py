"""Lowered Graphs that exercise the plan: branches, concat in place, views, in-place epilogues, islands."""

from __future__ import annotations

import numpy as np
from support.plans import NHWC, GraphBuilder, op

from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Kind


def chain(length: int = 6) -> Lowered:
    """Convolutions one after another, each followed by a pointwise Region that can run in place."""
    rng = np.random.default_rng(1)
    g = GraphBuilder()
    g.input("x", (1, 8, 6, 6))
    last = "x"
    for i in range(length):
        g.constant(f"w{i}", rng.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8, (0, 2, 3, 1))
        g.value(f"c{i}", (1, 8, 6, 6), NHWC)
        g.step(Kind.CONV, "Conv", [last, f"w{i}"], f"c{i}", pads=(1, 1, 1, 1))
        final = i == length - 1
        g.value(f"y{i}", (1, 8, 6, 6), None if final else NHWC)
        g.step(Kind.MAP, "Relu", [f"c{i}"], f"y{i}")
        last = f"y{i}"
    return g.lowered([last])


def residual_branches() -> Lowered:
    """A residual block with a projection: two branches that meet."""
    rng = np.random.default_rng(2)
    g = GraphBuilder()
    g.input("x", (2, 8, 8, 8))
    for name in ("w1", "w2", "wp"):
        kernel = 1 if name == "wp" else 3
        g.constant(name, rng.standard_normal((8, 8, kernel, kernel)).astype(np.float32) / 8, (0, 2, 3, 1))
    for name in ("s", "a", "b", "p", "sum"):
        g.value(name, (2, 8, 8, 8), NHWC)
    g.value("y", (2, 8, 8, 8))
    g.step(Kind.MAP, "Sigmoid", ["x"], "s")
    g.step(Kind.CONV, "Conv", ["s", "w1"], "a", pads=(1, 1, 1, 1))
    g.step(Kind.CONV, "Conv", ["s", "wp"], "p")
    g.step(Kind.CONV, "Conv", ["a", "w2"], "b", pads=(1, 1, 1, 1))
    g.step(Kind.MAP, "Add", ["b", "p"], "sum")
    g.step(Kind.MAP, "Tanh", ["sum"], "y")
    return g.lowered(["y"])


def inception(branches: int = 4) -> Lowered:
    """Parallel branches whose results are written into one concat, channels-last."""
    rng = np.random.default_rng(3)
    g = GraphBuilder()
    g.input("x", (1, 4, 5, 5))
    g.value("s", (1, 4, 5, 5), NHWC)
    g.step(Kind.MAP, "Relu", ["x"], "s")
    total = 4 * branches
    g.value("cat", (1, total, 5, 5), NHWC)
    strides = g.values["cat"].strides
    for i in range(branches):
        g.constant(f"w{i}", rng.standard_normal((4, 4, 1, 1)).astype(np.float32), (0, 2, 3, 1))
        g.value(f"m{i}", (1, 4, 5, 5), NHWC)
        g.step(Kind.CONV, "Conv", ["s", f"w{i}"], f"m{i}")
        g.window(f"p{i}", "cat", (1, 4, 5, 5), strides, 4 * i)
        g.step(Kind.MAP, "Tanh", [f"m{i}"], f"p{i}")
    parts = [f"p{i}" for i in range(branches)]
    g.region(Kind.VIEW, [op("Concat", parts, ["cat"], axis=1)], ["cat"])
    g.value("y", (1, total, 5, 5))
    g.step(Kind.MAP, "Neg", ["cat"], "y")
    return g.lowered(["y"])


def split_views() -> Lowered:
    """Split and transpose as windows, a chain of windows, and an output written through a reshape."""
    g = GraphBuilder()
    g.input("x", (2, 6))
    g.value("e", (2, 6))
    g.step(Kind.MAP, "Exp", ["x"], "e")
    g.window("l", "e", (2, 2), (6, 1), 0)
    g.window("r", "e", (2, 4), (6, 1), 2)
    g.region(Kind.VIEW, [op("Split", ["e", "sizes"], ["l", "r"], axis=1)], ["l", "r"], literals={"sizes": (2, 4)})
    g.window("t", "r", (4, 2), (1, 6))
    g.region(Kind.VIEW, [op("Transpose", ["r"], ["t"], perm=(1, 0))], ["t"])
    g.value("y", (8,))
    g.window("prod", "y", (4, 2), (2, 1))
    g.step(Kind.GEMM, "MatMul", ["t", "l"], "prod")
    g.region(Kind.VIEW, [op("Reshape", ["prod", "shape"], ["y"])], ["y"], literals={"shape": (-1,)})
    return g.lowered(["y"])


def symbolic() -> Lowered:
    """A batch and a length that are known only at run time."""
    rng = np.random.default_rng(4)
    g = GraphBuilder()
    g.ranges = [SymbolRange("n", 1, 2, 4), SymbolRange("t", 2, 3, 5)]
    g.input("x", ("n", "t", 8))
    g.constant("w", rng.standard_normal((8, 8)).astype(np.float32))
    g.value("a", ("n", "t", 8))
    g.value("b", ("n", "t", 8))
    g.value("y", ("n", "2*t", 8))
    g.step(Kind.GEMM, "MatMul", ["x", "w"], "a")
    g.step(Kind.MAP, "Relu", ["a"], "b")
    g.step(Kind.MAP, "Concat", ["b", "x"], "y", axis=1)
    return g.lowered(["y"])


def with_island() -> Lowered:
    """Device, host, device."""
    g = GraphBuilder()
    g.input("x", (3, 4))
    for name in ("a", "b"):
        g.value(name, (3, 4))
    g.value("y", (3, 4))
    g.step(Kind.MAP, "Exp", ["x"], "a")
    g.host("Erf", ["a"], "b")
    g.step(Kind.MAP, "Neg", ["b"], "y")
    return g.lowered(["y"])


def on_cpu() -> Lowered:
    """Nothing but islands, one handing over to the next."""
    g = GraphBuilder()
    g.input("x", (3, 4))
    g.value("a", (3, 4))
    g.value("y", (3, 4))
    g.host("Exp", ["x"], "a")
    g.host("Erf", ["a"], "y")
    return g.lowered(["y"])


ALL = {
    "chain": chain,
    "residual": residual_branches,
    "inception": inception,
    "split_views": split_views,
    "with_island": with_island,
}
"""Graphs with fixed shapes for the device."""
