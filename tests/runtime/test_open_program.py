"""Sizes that data decides, bound while an engine runs. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import tiny
from support.branches import on_gpu
from support.tiny import TinyPlan, number

from ingot.errors import IngotError
from ingot.plan.spec import DataSize, Profile
from ingot.runtime.engine import Engine
from ingot.runtime.profile import profile
from ingot.runtime.values import step_values

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]
MOST = 500


def positive() -> bytes:
    """The elements of p that are above zero."""
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Greater", ["p", "zero"], ["m"]),
        helper.make_node("Compress", ["p", "m"], ["r"], axis=0),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("p", "r")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def engine(most: int = MOST) -> Engine:
    """a = 2x; h = the positive ones of a (host); b = 3h; y = h + b; s = the sum of b (host)."""
    p = TinyPlan(tiny.target(), (Profile("n", 1, 100, MOST),))
    p.value("x", ["n"], "input")
    p.value("a", ["n"], offset=0)
    p.value("h", ["d"], offset=4096)
    p.value("b", ["d"], offset=8192)
    p.value("y", ["d"], "output")
    p.value("s", [1], "output")
    first = p.kernel("scale", ["x", "a", number("n"), number(2)], "n", ["a"])
    second = p.host(positive(), ["a"], ["h"], (["p"], ["r"]), [first])
    third = p.kernel("scale", ["h", "b", number("d"), number(3)], "d", ["b"], after=[second])
    p.kernel("add", ["h", "b", "y", number("d")], "d", ["y"], after=[third])
    p.host(tiny.model("ReduceSum", ["q"], ["t"]), ["b"], ["s"], (["q"], ["t"]), [third])
    p.data = [DataSize("d", 10, most, p.names["h"], 0)]
    return p.engine()


def vector(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, n).astype(np.float32)


def check(made: dict, x: np.ndarray) -> None:
    chosen = 2 * x[x > 0]
    assert np.array_equal(np.asarray(made["y"]), 4 * chosen)
    assert float(np.asarray(made["s"])[0]) == 3 * chosen.sum()


def test_every_run_has_its_own_size() -> None:
    context = engine().context()
    for seed, n in enumerate((100, 100, 7, 500, 100, 1)):
        x = vector(n, seed)
        made = context.run({"x": x})
        assert made["y"].shape == (int((x > 0).sum()),)
        check(made, x)


def test_nothing_chosen_is_an_empty_result() -> None:
    context = engine().context()
    x = vector(50, 1)
    for _ in range(2):
        check(context.run({"x": x}), x)
        made = context.run({"x": -np.abs(x)})
        assert made["y"].shape == (0,) and made["s"].tolist() == [0]


def test_results_on_the_device_and_bound_runs() -> None:
    context = engine().context()
    x = vector(60, 3)
    made = context.run({"x": on_gpu(x)})
    check({"y": made["y"].numpy(), "s": made["s"]}, x)
    context.bind(inputs={"x": on_gpu(x)})
    context.enqueue()
    context.synchronize()
    check({"y": context.output("y").numpy(), "s": context.output("s")}, x)


def test_before_the_first_run_a_size_is_not_known() -> None:
    context = engine().context()
    context.bind({"x": (30,)})
    with pytest.raises(IngotError, match="its size depends on data"):
        context.output("y")


def test_steps_run_apart_at_the_sizes_of_their_data() -> None:
    made = engine()
    x = vector(50, 4)
    for feed in (x, -np.abs(x)):
        values = {made.plan.values[i].name: array for i, array in step_values(made.context(), {"x": feed})}
        chosen = 2 * feed[feed > 0]
        assert list(values) == ["a", "h", "b", "y", "s"]
        assert np.array_equal(values["b"], 3 * chosen) and np.array_equal(values["y"], 4 * chosen)
        rows = profile(made.context(), {"x": feed})
        assert [row.step for row in rows] == [0, 1, 2, 3, 4] and all(row.ran and row.micros >= 0 for row in rows)


def test_a_size_beyond_its_bound_is_an_error() -> None:
    context = engine(most=20).context()
    with pytest.raises(IngotError, match="the data makes size d 21; memory is planned for 20"):
        context.run({"x": np.ones(21, np.float32)})
    x = np.ones(20, np.float32)
    check(context.run({"x": x}), x)


def two_sizes() -> Engine:
    """h = the positive ones of 2x (host); c = 15h, in h's memory; e = the positive ones of c (host); y = 7c; z = 2e."""
    p = TinyPlan(tiny.target(), (Profile("n", 1, 100, MOST),))
    p.value("x", ["n"], "input")
    for name, size, offset in (("a", "n", 0), ("h", "d", 4096), ("b", "d", 8192), ("c", "d", 4096), ("e", "d2", 12288)):
        p.value(name, [size], offset=offset)
    p.value("y", ["d"], "output")
    p.value("z", ["d2"], "output")
    first = p.kernel("scale", ["x", "a", number("n"), number(2)], "n", ["a"])
    chosen = p.host(positive(), ["a"], ["h"], (["p"], ["r"]), [first])
    b = p.kernel("scale", ["h", "b", number("d"), number(3)], "d", ["b"], after=[chosen])
    c = p.kernel("scale", ["b", "c", number("d"), number(5)], "d", ["c"], after=[b])
    again = p.host(positive(), ["c"], ["e"], (["p"], ["r"]), [c])
    p.kernel("scale", ["c", "y", number("d"), number(7)], "d", ["y"], after=[again])
    p.kernel("scale", ["e", "z", number("d2"), number(2)], "d2", ["z"], after=[again])
    p.data = [DataSize("d", 10, MOST, p.names["h"], 0), DataSize("d2", 10, MOST, p.names["e"], 0)]
    return p.engine()


def test_a_value_of_the_host_is_sent_once_and_its_memory_may_then_be_anothers() -> None:
    context = two_sizes().context()
    for seed, n in enumerate((100, 400, 3)):
        x = vector(n, seed)
        made, h = context.run({"x": x}), 2 * x[x > 0]
        assert np.array_equal(made["y"], 105 * h) and np.array_equal(made["z"], 30 * h)
