"""Engines on the device: hand-written Plans. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from onnx import parser
from support import tiny
from support.branches import N, branches, dynamic, middle, on_gpu, vector
from support.tiny import TinyPlan, number

from ingot.device import memory
from ingot.device.device import Device
from ingot.errors import IngotError
from ingot.runtime.context import Context
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


def test_parallel_branches() -> None:
    context = branches().context()
    for seed in range(5):
        x = vector() + seed
        assert np.array_equal(context.run({"x": x})["y"], 2 * x + 3 * x)


def test_saved_engine_gives_the_same_result(tmp_path) -> None:
    from ingot.runtime.engine import load

    engine = branches()
    engine.save(tmp_path / "e.ingot")
    x = vector()
    assert np.array_equal(load(tmp_path / "e.ingot").context().run({"x": x})["y"], engine.context().run({"x": x})["y"])


def test_result_is_not_overwritten_by_the_next_run() -> None:
    context = branches().context()
    first = context.run({"x": vector()})["y"]
    kept = first.copy()
    context.run({"x": vector() + 1})
    assert np.array_equal(first, kept)


def test_programmatic_chain() -> None:
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("y", [N], "output")
    last, name = -1, "x"
    for i in range(12):
        to = "y" if i == 11 else f"t{i}"
        if i < 11:
            p.value(to, [N], offset=4096 * (i % 3))
        after = [] if last < 0 else [last]
        last = p.kernel("scale_pdl", [name, to, number(N), number(2)], N, [to], after=after, programmatic=bool(after))
        name = to
    context = p.engine().context()
    x = vector()
    for _ in range(20):
        assert np.array_equal(context.run({"x": x})["y"], 4096 * x)


@pytest.mark.skipif(not tiny.FAKE, reason="only the stand-in driver counts edges")
def test_programmatic_edges_reach_the_driver() -> None:
    count = ctypes.CDLL("libcuda.so.1").fake_programmatic_edges
    before = count()
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N])
    p.value("y", [N], "output")
    first = p.kernel("scale_pdl", ["x", "a", number(N), number(2)], N, ["a"])
    p.kernel("scale_pdl", ["a", "y", number(N), number(2)], N, ["y"], after=[first], programmatic=True)
    x = vector()
    assert np.array_equal(p.engine().context().run({"x": x})["y"], 4 * x)
    assert count() == before + 1


def test_clusters_shared_memory_wide_and_null_arguments() -> None:
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("y", [N], "output")
    p.value("w", [1], "output")
    p.kernel("shared", ["x", "y", number(N)], N, ["y"], shared=100 * 1024, cluster=2)
    from ingot.plan.spec import Argument

    p.kernel("wide", ["w", number(5 << 40, 8), Argument("null")], 1, ["w"])
    x = vector()
    made = p.engine().context().run({"x": x})
    assert np.array_equal(made["y"], x)
    assert made["w"] == [5 << 20]


def test_host_step_in_the_middle() -> None:
    context = middle().context()
    for seed in range(3):
        x = vector() + seed
        assert np.allclose(context.run({"x": x})["y"], (2 * x) ** 2 + x)
    assert not context.bound.on_device


def test_host_only_inputs_outputs_and_weights() -> None:
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("s", [4], "input")
    p.value("y", [N], "output")
    p.value("t", [4], "output")
    p.value("m", [4], "host", size=16)
    p.constant("w", np.array([1, 2, 3, 4], np.float32))
    p.kernel("scale", ["x", "y", number(N), number(7)], N, ["y"])
    first = p.host(tiny.model("Add", ["p", "q"], ["r"]), ["s", "w"], ["m"], (["p", "q"], ["r"]))
    p.host(tiny.model("Relu", ["p"], ["r"]), ["m"], ["t"], (["p"], ["r"]), [first])
    context = p.engine().context()
    x, s = vector(), np.array([-9, 1, -9, 1], np.float32)
    made = context.run({"x": x, "s": s})
    assert np.array_equal(made["y"], 7 * x)
    assert made["t"].tolist() == [0, 3, 0, 5]
    made = context.run({"x": on_gpu(x), "s": on_gpu(s)})
    assert np.array_equal(made["y"].numpy(), 7 * x)
    assert made["t"].tolist() == [0, 3, 0, 5]


def test_host_step_writes_a_window_and_nothing_around_it() -> None:
    p = TinyPlan(tiny.target())
    p.value("x", [4, 2], "input")
    p.value("y", [4, 5], "output")
    p.value("flat", [20], "output", binding="y")
    p.value("part", [4, 2], "output", 4, strides=[5, 1], binding="y")
    p.values[p.names["part"]] = _with_bytes(p.values[p.names["part"]], 80 - 4)
    p.constant("ramp", np.arange(20, dtype=np.float32))
    first = p.kernel("scale", ["ramp", "flat", number(20), number(1)], 20, ["flat"])
    p.host(tiny.model("Neg", ["a"], ["b"]), ["x"], ["part"], (["a"], ["b"]), [first])
    context = p.engine().context()
    for seed in range(3):
        x = vector(8).reshape(4, 2) + seed
        want = np.arange(20, dtype=np.float32).reshape(4, 5)
        want[:, 1:3] = -x
        assert np.array_equal(context.run({"x": x})["y"], want)


def test_strings_and_sequences_beside_device_work() -> None:
    """They stay on the host, whatever the device does."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("s", [2], "input", dtype="string")
    p.value("q", [], "input", dtype="sequence(float32)")
    p.value("o", [], "input", dtype="optional(float32)")
    p.value("y", [N], "output")
    p.value("z", [2], "output", dtype="string")
    p.value("t", [], "output", dtype="sequence(float32)")
    p.value("has", [], "output", dtype="bool")
    first = p.kernel("scale", ["x", "y", number(N), number(7)], N, ["y"])
    graph = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (string[2] s, seq(float[n]) q, optional(float[m]) o, float[k] y)'
        " => (string[2] z, seq(float[n]) t, bool has) { z = StringConcat(s, s) t = SequenceInsert(q, y)"
        " has = OptionalHasElement(o) }"
    ).SerializeToString()
    names = ["s", "q", "o", "y"], ["z", "t", "has"]
    p.host(graph, names[0], names[1], names, [first], "reference")
    context = p.engine().context()
    x, s = vector(), np.array(["a", "b"])
    for feed, optional in ((x, None), (on_gpu(x), x), (x, x)):
        made = context.run({"x": feed, "s": s, "q": [x[:3]], "o": optional})
        assert made["z"].tolist() == ["aa", "bb"] and bool(made["has"]) is (optional is not None)
        assert [len(a) for a in made["t"]] == [3, N] and np.array_equal(made["t"][1], 7 * x)
    with pytest.raises(IngotError, match="input 'q'"):
        context.run({"x": x, "s": s, "q": x, "o": None})
    context.bind()
    context.enqueue()
    context.synchronize()
    assert context.input("s").tolist() == ["", ""] and context.output("z").tolist() == ["", ""]


def test_output_whose_shape_depends_on_data() -> None:
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N], offset=0)
    p.value("at", [1, "found"], "output", dtype="int64")
    first = p.kernel("scale", ["x", "a", number(N), number(1)], N, ["a"])
    p.host(tiny.model("NonZero", ["p"], ["r"], ["int64"]), ["a"], ["at"], (["p"], ["r"]), [first])
    context = p.engine().context()
    x = np.zeros(N, np.float32)
    x[[3, 500]] = 1
    assert context.run({"x": x})["at"].tolist() == [[3, 500]]
    x[7] = 1
    assert context.run({"x": x})["at"].tolist() == [[3, 7, 500]]


def test_copy_step_writes_no_gaps() -> None:
    """A concat in place: two strided windows of the output, one by a copy step."""
    p = TinyPlan(tiny.target())
    p.value("x", [4, 3, 2], "input")
    p.value("y", [4, 3, 5], "output")
    p.value("window", [4, 3, 2], "input", strides=[6, 2, 1], binding="x")
    whole = p.value("all", [60], "arena")
    p.value("source", [4, 3, 2], "arena", 8, strides=[15, 5, 1], size=4096 - 8)
    p.value("part", [4, 3, 2], "output", 8, strides=[15, 5, 1], binding="y")
    assert whole == p.names["all"]
    p.constant("ramp", np.arange(60, dtype=np.float32))
    p.values[p.names["part"]] = _with_bytes(p.values[p.names["part"]], 240 - 8)
    first = p.kernel("scale", ["ramp", "all", number(60), number(1)], 60, ["all"])
    p.value("flat", [60], "output", binding="y")
    second = p.kernel("scale", ["all", "flat", number(60), number(-1)], 60, ["flat"], after=[first])
    p.copy("source", "part", [second])
    made = p.engine().context().run({"x": np.zeros((4, 3, 2), np.float32)})["y"]
    want = -np.arange(60, dtype=np.float32).reshape(4, 3, 5)
    want[:, :, 2:4] *= -1
    assert np.array_equal(made, want)


def _with_bytes(value, size):
    import msgspec

    return msgspec.structs.replace(value, memory=msgspec.structs.replace(value.memory, bytes=size))


def test_persistent_memory_starts_at_zero_in_every_context() -> None:
    p = TinyPlan(tiny.target())
    p.value("y", [1], "output")
    p.value("counter", [1], "persistent", size=4)
    p.kernel("bump", ["counter", "y"], 1, ["counter", "y"])
    engine = p.engine()
    first, second = engine.context(), engine.context()
    assert [float(first.run({})["y"][0]) for _ in range(3)] == [1, 2, 3]
    assert float(second.run({})["y"][0]) == 1


def test_contexts_share_weights() -> None:
    p = TinyPlan(tiny.target())
    w = vector(1 << 16)
    p.constant("w", w)
    p.value("y", [1 << 16], "output")
    p.kernel("scale", ["w", "y", number(1 << 16), number(3)], 1 << 16, ["y"])
    engine = p.engine()
    contexts = [engine.context() for _ in range(3)]
    assert all(np.array_equal(c.run({})["y"], 3 * w) for c in contexts)
    assert len({c.bound.bases["weights", ""] for c in contexts}) == 1
    assert len({c.bound.bases["arena", ""] for c in contexts}) == 3


def test_shapes_switch_and_the_oldest_graph_goes() -> None:
    context = dynamic().context()
    assert isinstance(context, DeviceContext)
    for n in [*range(1, 40), 4000, 1, 39, 128, 129]:
        x = vector(n)
        assert np.array_equal(context.run({"x": x})["y"], 2 * x + 3 * x), n
    assert len(context._programs) == 16


def test_same_shape_finds_its_graph_again() -> None:
    context = dynamic().context()
    assert context.prepare({"x": vector(5)}).program is not context.prepare({"x": vector(6)}).program
    assert context.prepare({"x": vector(5)}).program is context.prepare({"x": vector(5)}).program


def _free_stays(context: Context, x: np.ndarray) -> bool:
    """Whether a round of runs leaves the device's free memory alone; other processes change it too, now and then."""
    free = Device.open().memory()[0]
    for _ in range(50):
        context.run({"x": x})
        context.enqueue()
    context.synchronize()
    return Device.open().memory()[0] == free


def test_nothing_is_allocated_after_the_first_run() -> None:
    for engine in (branches(), middle()):
        context = engine.context()
        x = vector()
        context.run({"x": x})
        context.bind()
        before = memory.allocations()
        assert any(_free_stays(context, x) for _ in range(50)), "the device's free memory shrank in every round"
        assert memory.allocations() == before


def _memory_comes_back(engine: Engine) -> bool:
    """Whether Contexts that came and went leave as much free memory; other processes change it too, now and then."""
    gc.collect()
    free = Device.open().memory()[0]
    for _ in range(3):
        context = engine.context()
        context.run({"x": vector()})
        del context
    gc.collect()
    return Device.open().memory()[0] >= free - (2 << 20)


def test_memory_is_given_back() -> None:
    engine = branches()
    engine.context().run({"x": vector()})
    assert any(_memory_comes_back(engine) for _ in range(20))
