"""Engines on the device: hand-written Plans. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from support import tiny
from support.tiny import TinyPlan, number

from ingot.device import memory
from ingot.device.device import Device
from ingot.device.memory import Buffer
from ingot.device.stream import Stream
from ingot.errors import IngotError
from ingot.plan.spec import Profile
from ingot.runtime.array import DeviceArray
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine
from ingot.runtime.profile import profile
from ingot.runtime.timing import measure

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]

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


def test_nothing_is_allocated_after_the_first_run() -> None:
    for engine in (branches(), middle()):
        context = engine.context()
        x = vector()
        context.run({"x": x})
        context.bind()
        before, free = memory.allocations(), Device.open().memory()[0]
        for _ in range(50):
            context.run({"x": x})
            context.enqueue()
        context.synchronize()
        assert memory.allocations() == before
        assert Device.open().memory()[0] == free


def test_memory_is_given_back() -> None:
    engine = branches()
    engine.context().run({"x": vector()})
    gc.collect()
    free = Device.open().memory()[0]
    for _ in range(3):
        context = engine.context()
        context.run({"x": vector()})
        del context
    gc.collect()
    assert Device.open().memory()[0] >= free - (2 << 20)


def test_device_arrays_in_are_read_where_they_lie() -> None:
    context = dynamic().context()
    x = vector(77)
    feed = on_gpu(x)
    made = context.run({"x": feed})["y"]
    assert isinstance(made, DeviceArray)
    assert np.array_equal(made.numpy(), 2 * x + 3 * x)
    job = context.prepare({"x": feed})
    assert job.program.bases["input", "x"] == feed.pointer
    assert not job.copies
    feed.set(x + 1)
    assert np.array_equal(context.run({"x": feed})["y"].numpy(), 2 * (x + 1) + 3 * (x + 1))


def test_outputs_written_into_the_callers_arrays() -> None:
    context = branches().context()
    x = vector()
    want = 2 * x + 3 * x
    mine = on_gpu(np.zeros(N, np.float32))
    made = context.run({"x": on_gpu(x)}, {"y": mine})
    assert made["y"] is mine
    assert np.array_equal(mine.numpy(), want)
    assert context.prepare({"x": x}, {"y": mine}).program.bases["output", "y"] == mine.pointer
    host = np.zeros(N, np.float32)
    assert context.run({"x": x}, {"y": host})["y"] is host
    assert np.array_equal(host, want)
    for wrong in (np.zeros(N, np.float64), np.zeros(N + 1, np.float32), on_gpu(np.zeros(N + 1, np.float32)), [0.0] * N):
        with pytest.raises(IngotError, match="output 'y'"):
            context.run({"x": x}, {"y": wrong})


class Slice:
    """A part of a device array that starts at an odd address."""

    def __init__(self, of: DeviceArray, start: int, size: int) -> None:
        self.of, self.start, self.size = of, start, size

    def __dlpack_device__(self):
        return self.of.__dlpack_device__()

    def __dlpack__(self, stream=None):
        from ingot.runtime import dlpack

        return dlpack.export(self.of.pointer + 4 * self.start, "float32", (self.size,), (2, 0), self.of)


def test_misaligned_device_arrays_are_copied() -> None:
    context = branches().context()
    x = vector(N + 1)
    big, out = on_gpu(x), on_gpu(np.zeros(N + 1, np.float32))
    context.run({"x": Slice(big, 1, N)}, {"y": Slice(out, 1, N)})
    assert np.array_equal(out.numpy()[1:], 2 * x[1:] + 3 * x[1:])
    assert out.numpy()[0] == 0
    with pytest.raises(IngotError, match="aligned"):
        context.bind(inputs={"x": Slice(big, 1, N)})


def test_enqueue_on_own_and_foreign_streams() -> None:
    context = dynamic().context()
    context.bind({"x": (50,)})
    x = vector(50)
    context.input("x").set(x)
    context.enqueue()
    context.synchronize()
    assert np.array_equal(context.output("y").numpy(), 2 * x + 3 * x)
    stream = Stream()
    context.input("x").set(x + 1)
    context.enqueue(stream)
    stream.synchronize()
    assert np.array_equal(context.output("y").numpy(), 2 * (x + 1) + 3 * (x + 1))
    context.enqueue(int(stream.handle))
    context.synchronize()


def test_enqueue_with_bound_arrays() -> None:
    context = branches().context()
    x = vector()
    feed, out = on_gpu(x), on_gpu(np.zeros(N, np.float32))
    context.bind(inputs={"x": feed}, outputs={"y": out})
    context.enqueue()
    context.synchronize()
    assert np.array_equal(out.numpy(), 2 * x + 3 * x)
    with pytest.raises(IngotError, match="yours"):
        context.output("y")
    with pytest.raises(IngotError, match="host arrays"):
        context.bind(outputs={"y": np.zeros(N, np.float32)})


def test_enqueue_takes_little_host_time() -> None:
    import time

    context = branches().context()
    context.bind()
    samples = []
    for _ in range(2000):
        start = time.perf_counter()
        context.enqueue()
        samples.append(time.perf_counter() - start)
        context.synchronize()
    assert np.median(samples) <= 15e-6


def test_errors_before_anything_runs() -> None:
    context = dynamic().context()
    x = vector(10)
    cases = {
        "no input called 'z'": {"x": x, "z": x},
        "no value for input 'x'": {},
        "dtype float64, the engine wants float32": {"x": x.astype(np.float64)},
        "dtype int32, the engine wants float32": {"x": on_gpu(np.zeros(10, np.int32))},
        "it has 2 dimensions": {"x": x[None]},
        "built for 1 to 4000": {"x": vector(4001)},
    }
    for message, feeds in cases.items():
        with pytest.raises(IngotError, match=message):
            context.run(feeds)
    assert np.array_equal(context.run({"x": x[::2]})["y"], 2 * x[::2] + 3 * x[::2])


def test_out_of_device_memory_is_one_clear_error() -> None:
    p = TinyPlan(tiny.target())
    p.value("y", [1], "output")
    p.kernel("wide", ["y", number(0, 8), number(0, 8)], 1, ["y"])
    engine = p.engine(arena=1 << 43)
    with pytest.raises(IngotError, match="out of device memory: the arena needs 8796093022208 bytes .* are free"):
        engine.context()
    assert branches().context().run({"x": vector()})["y"].shape == (N,)


def test_wrong_architecture() -> None:
    engine = branches()
    import msgspec

    from ingot.engine.file import EngineFile

    other = "sm_120" if tiny.target() != "sm_120" else "sm_90"
    plan = msgspec.structs.replace(engine.plan, target=other)
    foreign = Engine(EngineFile(plan, b"", engine.file.cubins))
    with pytest.raises(IngotError, match=f"built for {other}, but GPU 0 .* --target {tiny.target()}"):
        foreign.context()


def test_profile_names_every_step() -> None:
    for engine in (branches(), middle()):
        rows = profile(engine.context(), {"x": vector()})
        assert [row.step for row in rows] == list(range(len(engine.plan.steps)))
        assert all(0 <= row.micros < 1e6 for row in rows)
        assert sum(row.micros for row in rows) > 0


def test_measurement_has_every_share() -> None:
    made = measure(branches().context(), {"x": vector()}, warmup=0.01, seconds=0.05)
    assert made.h2d and made.compute and made.d2h
    assert len(made.enqueue) == len(made.latency) >= 10
    assert 0 < made.throughput <= 1 / min(made.latency)
    inside = measure(branches().context(), {"x": vector()}, transfers=False, warmup=0.01, seconds=0.05)
    assert inside.enqueue and inside.compute and not inside.h2d and not inside.d2h


@pytest.mark.skipif(tiny.FAKE, reason="needs the real driver")
def test_torch_in_and_out_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    context = dynamic().context()
    x = torch.randn(333, device="cuda")
    made = context.run({"x": x})["y"]
    assert context.prepare({"x": x}).program.bases["input", "x"] == x.data_ptr()
    shared = torch.from_dlpack(made)
    assert shared.data_ptr() == made.pointer
    assert torch.allclose(shared, 5 * x)
    mine = torch.empty(333, device="cuda")
    context.run({"x": x}, {"y": mine})
    assert torch.allclose(mine, 5 * x)
    context.bind(inputs={"x": x}, outputs={"y": mine})
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x.copy_(torch.ones(333))
        context.enqueue(stream)
        total = mine.sum()
    stream.synchronize()
    assert float(total) == 5 * 333
    torch.from_dlpack(context.run({"x": x})["y"]).add_(1)
    with pytest.raises(IngotError, match="not contiguous"):
        context.run({"x": torch.randn(666, device="cuda")[::2]})
    with pytest.raises(IngotError, match="float16"):
        context.run({"x": x.half()})


@pytest.mark.skipif(tiny.FAKE, reason="needs the real driver")
def test_torch_sees_results_of_many_runs_in_order() -> None:
    torch = pytest.importorskip("torch")
    context = branches().context()
    for i in range(50):
        x = torch.full((N,), float(i), device="cuda")
        assert torch.equal(torch.from_dlpack(context.run({"x": x})["y"]), torch.full((N,), 5.0 * i, device="cuda"))
