"""The device layer by itself. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiny

from ingot.device.device import Device
from ingot.device.doorbell import Doorbell
from ingot.device.graph import GraphBuilder
from ingot.device.launch import KernelArgs, integer, launch, pointer
from ingot.device.memory import Buffer, PinnedBuffer
from ingot.device.module import Module
from ingot.device.stream import Event, Stream
from ingot.errors import IngotError

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]


@pytest.fixture
def module() -> Module:
    Device.open()
    return Module(tiny.cubin())


def test_facts() -> None:
    info = Device.open().info
    assert info.cc >= 75
    assert info.target == f"sm_{info.cc}"
    assert min(info.sms, info.l2_bytes, info.memory_bytes, info.shared_per_block) > 0
    assert Device.open() is Device.open()
    with pytest.raises(IngotError, match="no GPU number 99"):
        Device.open(99)


def test_memory_round_trip() -> None:
    Device.open()
    data = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    buffer = Buffer(5000)
    assert buffer.pointer % 256 == 0
    buffer.upload(data)
    buffer.upload(bytes(range(10)), offset=100)
    data[100:110] = range(10)
    assert np.array_equal(buffer.read(np.uint8, (5000,)), data)
    buffer.fill(7)
    assert (buffer.read(np.uint8, (5000,)) == 7).all()
    Buffer(0).close()


def test_pinned_memory_and_stream_copies() -> None:
    Device.open()
    stream, pinned, buffer = Stream(), PinnedBuffer(4096), Buffer(4096)
    view = pinned.array(np.float32, (4, 8), offset=64)
    view[...] = np.arange(32).reshape(4, 8)
    stream.copy(buffer.pointer, pinned.pointer, 4096)
    stream.fill(buffer.pointer + 64, 0, 4)
    back = PinnedBuffer(4096)
    stream.copy(back.pointer, buffer.pointer, 4096)
    stream.synchronize()
    assert back.array(np.float32, (32,), offset=64).tolist() == [0.0, *range(1, 32)]
    assert stream.idle()


def test_launch(module: Module) -> None:
    stream, x, y = Stream(), Buffer(400), Buffer(400)
    x.upload(np.arange(100, dtype=np.float32))
    y.fill(0)
    args = KernelArgs([pointer(x.pointer), pointer(y.pointer), integer(90), integer(-3)])
    for name in ("scale", "scale_pdl"):
        start, end = Event(), Event()
        start.record(stream)
        launch(module.function(name), (1, 1, 1), 128, args, stream, pdl=name == "scale_pdl")
        end.record(stream)
        stream.synchronize()
        assert 0 <= end.since(start) < 5
        assert y.read(np.float32, (100,)).tolist() == [-3.0 * i if i < 90 else 0.0 for i in range(100)]


def test_wrong_launches_and_code_are_errors(module: Module) -> None:
    with pytest.raises(IngotError, match="no kernel called 'absent'"):
        module.function("absent")
    with pytest.raises(IngotError, match="shared memory"):
        module.function("scale", 1 << 20)
    with pytest.raises(IngotError, match="loading a cubin"):
        Module(b"not machine code" * 16)
    args = KernelArgs([pointer(0), pointer(0), integer(0), integer(0)])
    with pytest.raises(IngotError, match="launching scale with grid"):
        launch(module.function("scale"), (0, 1, 1), 128, args, Stream())
    with pytest.raises(OverflowError):
        KernelArgs([integer(1 << 32)])


def test_graph_runs_its_nodes_in_order(module: Module) -> None:
    stream, x, y, z = Stream(), Buffer(4000), Buffer(4000), Buffer(4000)
    host = PinnedBuffer(4000)
    n = 1000
    builder = GraphBuilder()
    host.array(np.float32, (n,))[...] = np.arange(n)
    put = builder.add_copy(x.pointer, host.pointer, 4000)
    double = KernelArgs([pointer(x.pointer), pointer(y.pointer), integer(n), integer(2)])
    first = builder.add_kernel(module.function("scale_pdl"), (8, 1, 1), 128, double, after=[put])
    triple = KernelArgs([pointer(y.pointer), pointer(z.pointer), integer(n), integer(3)])
    second = builder.add_kernel(module.function("scale_pdl", 0, 2), (8, 1, 1), 128, triple, programmatic=[first])
    wipe = builder.add_fill(x.pointer, 0, 2000, after=[first])
    builder.add_copy(host.pointer, z.pointer, 4000, after=[second, wipe])
    graph = builder.instantiate()
    del builder
    graph.upload(stream)
    graph.launch(stream)
    stream.synchronize()
    assert np.array_equal(host.array(np.float32, (n,)), 6 * np.arange(n, dtype=np.float32))
    left = x.read(np.float32, (n,))
    assert not left[:500].any()
    assert np.array_equal(left[500:], np.arange(500, n))


def test_blocks_that_wait_for_each_other(module: Module) -> None:
    stream, x, y = Stream(), Buffer(4000), Buffer(4000)
    x.upload(np.arange(1000, dtype=np.float32))
    args = KernelArgs([pointer(x.pointer), pointer(y.pointer), integer(1000), integer(2)])
    function = module.function("scale", cooperative=True)
    assert function is not module.function("scale")
    builder = GraphBuilder()
    builder.add_kernel(function, (8, 1, 1), 128, args)
    graph = builder.instantiate()
    for submit in (lambda: launch(function, (8, 1, 1), 128, args, stream), lambda: graph.launch(stream)):
        y.fill(0)
        submit()
        stream.synchronize()
        assert np.array_equal(y.read(np.float32, (1000,)), 2 * np.arange(1000, dtype=np.float32))


def test_copy_of_rows() -> None:
    Device.open()
    stream, x, y = Stream(), Buffer(400), Buffer(400)
    x.upload(np.arange(100, dtype=np.float32))
    y.fill(0)
    builder = GraphBuilder()
    builder.add_copy(y.pointer + 4, x.pointer + 4, 8, rows=10, pitch=40)
    builder.instantiate().launch(stream)
    stream.synchronize()
    want = np.zeros((10, 10), np.float32)
    want[:, 1:3] = np.arange(100).reshape(10, 10)[:, 1:3]
    assert np.array_equal(y.read(np.float32, (10, 10)), want)


def test_streams_of_other_libraries() -> None:
    Device.open()

    class Protocol:
        def __cuda_stream__(self):
            return (0, 0x1)

    class Torch:
        cuda_stream = 0x2

    assert int(Stream.of(Protocol()).handle) == 1
    assert int(Stream.of(Torch()).handle) == 2
    assert int(Stream.of(1).handle) == 1
    with pytest.raises(TypeError, match="not a CUDA stream"):
        Stream.of("stream")


def test_a_doorbell_rings_after_the_work_before_it(module: Module) -> None:
    stream, bell = Stream(), Doorbell()
    for size in (1 << 10, 1 << 26):
        source, to = PinnedBuffer(size), PinnedBuffer(size)
        buffer = Buffer(size)
        for value in range(3):
            source.array(np.uint8, (size,))[:] = value
            stream.copy(buffer.pointer, source.pointer, size)
            stream.copy(to.pointer, buffer.pointer, size)
            bell.wait(stream)
            assert (to.array(np.uint8, (size,)) == value).all()


def test_a_doorbell_that_does_not_ring_asks_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    Device.open()
    bell, asked = Doorbell(), []
    monkeypatch.setattr(bell, "_write", lambda *arguments: (0,))
    stream = Stream()
    monkeypatch.setattr(stream, "synchronize", lambda: asked.append(stream))
    bell.wait(stream)
    assert asked == [stream]
