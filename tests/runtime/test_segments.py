"""Graphs that are updated for new shapes, or made where that does not do. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from support import tiny
from support.branches import branches, dynamic, on_gpu, vector
from support.tiny import TinyPlan, number

from ingot.device import graph as device_graph
from ingot.device.graph import Executable, Graph, GraphBuilder
from ingot.device.memory import Buffer
from ingot.device.tensor_map import encoded
from ingot.errors import IngotError
from ingot.plan.spec import Argument, Profile, TensorMapDecl
from ingot.runtime import device_context, segments
from ingot.runtime.device_context import DeviceContext
from ingot.runtime.engine import Engine
from ingot.runtime.map_table import MapTable
from ingot.runtime.program import Program

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]
counted = pytest.mark.skipif(not tiny.FAKE, reason="only the stand-in driver counts calls")


@pytest.fixture
def two_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts that keep the graphs of two shapes."""
    monkeypatch.setattr(device_context, "_PROGRAMS", 2)


def count(what: str) -> int:
    """Of the driver's calls so far; ``executables`` are those not destroyed."""
    function = getattr(ctypes.CDLL("libcuda.so.1"), f"fake_{what}")
    function.restype = ctypes.c_uint64
    return int(function())


def dump(graph: Graph) -> list[int]:
    """What the stand-in driver holds of every node."""
    words = (ctypes.c_uint64 * 4096)()
    handle = ctypes.c_void_p(int(graph._handle))  # the driver's own name of it
    return list(words[: ctypes.CDLL("libcuda.so.1").fake_dump(handle, words)])


def built(program: Program) -> Graph:
    """The graph of all steps made anew at the shapes of ``program``."""
    builder = program.segment_builder()
    for index in range(len(program.plan.steps)):
        builder.add(index)
    return builder.instantiate()


MAP = TensorMapDecl("float32", ["4*floor(n/4)", 1], ["16*floor(n/4)"], [4, 1], 0)


def moving() -> Engine:
    """a = x, copied; z = -a by clusters of 2; y = z + a; then kernels of which only grid or tensor map differ."""
    p = TinyPlan(tiny.target(), (Profile("n", 4, 400, 4000),))
    p.value("x", ["n"], "input")
    p.value("y", ["n"], "output")
    p.value("a", ["n"], offset=0, size=1 << 14)
    p.value("z", ["n"], offset="16*n", size=1 << 14)
    p.value("few", [4], offset=120000, size=16)
    n, four = number("n"), number(4)
    blocks = "2*ceil(n/256)"
    first = p.copy("x", "a")
    second = p.kernel("scale", ["a", "z", n, number(-1)], "n", ["z"], after=[first], blocks=blocks, cluster=2)
    third = p.kernel("add", ["a", "z", "y", n], "n", ["y"], after=[first, second])
    fourth = p.kernel("scale", ["a", "few", four, number(1)], 4, ["few"], after=[third], blocks="ceil(n/128)")
    p.kernel("mapped", ["few", "a", four, Argument("map", p.names["a"], map=MAP)], 4, ["few"], after=[fourth])
    return p.engine(arena=1 << 17)


def windows() -> Engine:
    """y = -x, but x in the left half of every second row, which a copy moves: nothing, one run of bytes, or several."""
    p = TinyPlan(tiny.target(), (Profile("n", 1, 10, 60),))
    rows = "floor(n/2)"
    p.value("x", ["n", 8], "input")
    p.value("y", ["n", 8], "output")
    p.value("source", [rows, 4], "input", strides=[16, 1], binding="x")
    p.value("part", [rows, 4], "output", strides=[16, 1], binding="y")
    for name in ("source", "part"):
        value = p.values[p.names[name]]
        memory = msgspec.structs.replace(value.memory, bytes=f"64*{rows}")
        p.values[p.names[name]] = msgspec.structs.replace(value, memory=memory)
    first = p.kernel("scale", ["x", "y", number("8*n"), number(-1)], "8*n", ["y"])
    p.copy("source", "part", [first])
    return p.engine()


def halves(n: int) -> tuple[np.ndarray, np.ndarray]:
    """An input of :func:`windows`, and its result."""
    x = vector(8 * n).reshape(n, 8)
    y = -x
    y[: 2 * (n // 2) : 2, :4] *= -1
    return x, y


@counted
@pytest.mark.parametrize("order", [[400, 4, 5, 399, 4000, 4], [7, 4000, 8]])
def test_updating_gives_what_building_gives(order: list[int], two_kept: None) -> None:
    context = moving().context()
    assert isinstance(context, DeviceContext)
    for n in order:
        context.bind({"x": (n,)})
        program = context.bound
        assert isinstance(program, Program)
        (graph,) = program.parts
        assert isinstance(graph, Graph)
        assert dump(graph) == dump(built(program))


def test_tensor_maps_are_those_of_the_shape_and_the_address() -> None:
    engine = moving()
    if engine.open_device(0).info.cc < 90:
        pytest.skip("tensor maps exist from sm_90 on")
    table, memory = MapTable(engine.numbers), [Buffer(1 << 14) for _ in range(2)]
    addresses = np.zeros(len(engine.numbers.row_of), np.int64)
    row = engine.numbers.row_of[next(i for i, value in enumerate(engine.plan.values) if value.name == "a")]
    for n, buffer in ((4, 0), (400, 0), (401, 0), (401, 1), (4000, 0), (4000, 0)):
        addresses[row] = memory[buffer].pointer
        table.fill(engine.numbers.at({"n": n}), addresses)
        assert table.bytes.tobytes() == encoded(MAP, memory[buffer].pointer, {"n": n})


@counted
def test_a_new_shape_makes_no_graph() -> None:
    context = dynamic().context()
    for n in range(1, 40):
        context.bind({"x": (n,)})
    before, made, alive = count("updated"), count("instantiated"), count("executables")
    for n in range(40, 80):
        context.bind({"x": (n,)})
    assert count("instantiated") == made and count("executables") == alive
    assert count("updated") == before + 3 * 40


@counted
def test_the_next_executable_is_made_while_the_device_works() -> None:
    context = dynamic().context()
    for n in range(1, 5):
        before = count("instantiated")
        context.bind({"x": (n,)})
        assert count("instantiated") - before == (1 if n == 1 else 0)
        context.enqueue()
        context.synchronize()
        assert count("instantiated") - before == (2 if n == 1 else 1)
    before = count("instantiated")
    context.run({"x": vector(77)})
    assert count("instantiated") == before + 1
    context.run({"x": vector(77)})
    assert count("instantiated") == before + 1


@counted
def test_one_shape_needs_one_executable() -> None:
    context = branches().context()
    before = count("instantiated")
    for _ in range(3):
        context.run({"x": vector()})
    assert count("instantiated") == before + 1


def test_no_room_for_the_next_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    context = dynamic().context()
    x = vector(9)
    for n in (5, 9):  # both built before the device is full
        context.run({"x": vector(n)})

    def full(self: GraphBuilder) -> Executable:
        raise IngotError("no room")

    monkeypatch.setattr(GraphBuilder, "executable", full)
    for _ in range(2):
        assert np.array_equal(context.run({"x": x + 1})["y"], 2 * (x + 1) + 3 * (x + 1))
    with pytest.raises(IngotError, match="no room"):
        for n in range(10, 14):
            context.run({"x": vector(n)})


@counted
def test_only_nodes_that_differ_are_set(two_kept: None) -> None:
    """At another address of the input, the kernel that reads it alone by none of its other numbers."""
    context = dynamic().context()
    assert np.array_equal(context.run({"x": vector(100)})["y"], 2 * vector(100) + 3 * vector(100))
    before = count("updated")
    more = vector(100) + 1
    assert np.array_equal(context.run({"x": on_gpu(more)})["y"].numpy(), 2 * more + 3 * more)
    assert count("updated") - before == 2


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 1, 3, 60, 2, 9], [2, 1, 3, 8]])
def test_other_nodes_are_another_graph(order: list[int], two_kept: None) -> None:
    context = windows().context()
    for n in order:
        x, y = halves(n)
        assert np.array_equal(context.run({"x": x})["y"], y)


def test_switching_between_more_shapes_than_are_kept(two_kept: None) -> None:
    context = dynamic().context()
    for n in (5, 600, 17, 5, 4000, 600, 600, 1, 17, 5):
        x = vector(n)
        assert np.array_equal(context.run({"x": x})["y"], 2 * x + 3 * x)


@pytest.mark.parametrize("raises", [False, True], ids=["refused", "interrupted"])
def test_an_executable_that_was_updated_in_part_is_not_used(
    raises: bool, two_kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the three nodes of a graph two are set, then the driver refuses, or the user interrupts."""
    setter, failed = device_graph._set_parameters(), list[bool]()

    def fails_at_the_third() -> Callable[..., int]:
        calls = itertools.count(1)

        def set_one(*words: object) -> int:
            if next(calls) < 3:
                return int(setter(*words))
            failed.append(True)
            if raises:
                raise KeyboardInterrupt
            return 1

        return set_one

    context = dynamic().context()
    for n in (5, 600, 17):
        context.bind({"x": (n,)})
    monkeypatch.setattr(device_graph, "_set_parameters", fails_at_the_third)
    for n in (40, 41, 42):
        with pytest.raises(KeyboardInterrupt) if raises else contextlib.nullcontext():
            context.bind({"x": (n,)})
    assert len(failed) == 3
    monkeypatch.undo()
    for n in (5, 600, 40, 17, 42, 5, 41):
        x = vector(n)
        assert np.array_equal(context.run({"x": x})["y"], 2 * x + 3 * x)


def test_a_graph_that_is_bound_stays_as_it_is(two_kept: None) -> None:
    """Others are run until nothing but the binding holds it."""
    context = dynamic().context()
    context.bind({"x": (40,)})
    context.bind({"x": (50,)})
    for n in range(10, 20):
        context.run({"x": vector(n)})
    context.input("x").set(vector(50))
    context.enqueue()
    context.synchronize()
    assert np.array_equal(context.output("y").numpy(), 2 * vector(50) + 3 * vector(50))


@counted
def test_graphs_that_are_not_kept_go_though_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_context, "_PROGRAMS", 1)
    monkeypatch.setattr(segments, "_TOPOLOGIES", 1)
    context = windows().context()
    for n in (1, 2):
        context.bind({"x": (n, 8)})
    before = count("executables")
    for n in (1, 2) * 5:
        context.bind({"x": (n, 8)})
        context.enqueue()
    assert count("executables") == before
    context.synchronize()


@counted
def test_executables_go_with_the_context(two_kept: None) -> None:
    gc.collect()
    before = count("executables")
    context = dynamic().context()
    for n in range(1, 30):
        context.bind({"x": (n,)})
    del context
    gc.collect()
    assert count("executables") == before
