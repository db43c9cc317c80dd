"""Arrays of callers on the device, streams, errors, measuring. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiny
from support.branches import N, branches, dynamic, middle, on_gpu, vector
from support.tiny import TinyPlan, number

from ingot.device.stream import Stream
from ingot.errors import IngotError
from ingot.runtime.array import DeviceArray
from ingot.runtime.engine import Engine
from ingot.runtime.profile import profile
from ingot.runtime.timing import measure

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


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
