"""How far back a Region's inputs lie."""

from __future__ import annotations

from support.regions import build_region
from support.tuning import Fake, Pretence, doubling, lowered

from ingot.graph.lowered import Lowered, Window
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Target
from ingot.options import BuildOptions
from ingot.tune.api import decide
from ingot.tune.reuse import distances, sets_for


def adding(a: str, b: str, out: str, size: int) -> Region:
    tensor = spec("float32", (size,))
    ops = [BodyOp("Add", (a, b), (out,))]
    return build_region(Kind.MAP, {a: tensor, b: tensor}, ops, {out: tensor}, (out,), {})


def doubled(source: str, out: str, size: int) -> Region:
    tensor = spec("float32", (size,))
    ops = [BodyOp("Mul", (source, "two"), (out,))]
    return build_region(Kind.MAP, {source: tensor}, ops, {out: tensor}, (out,), {"two": 2.0})


def test_the_other_side_of_an_addition_is_as_old_as_what_ran_since() -> None:
    regions = [doubled("x", "a", 100), doubled("a", "b", 100), doubled("b", "c", 100), adding("c", "a", "y", 100)]
    graph = Lowered(("x",), ("y",), {}, tuple(regions), {})
    found = distances(graph, {})
    assert found[regions[3].signature] == (0, 2 * 800)  # two Regions of 400 bytes in and 400 out since
    # Three equal Regions: x is as old as the graph, a and b are new.
    assert found[regions[0].signature] == (0,)


def test_windows_count_as_their_parents() -> None:
    graph = Lowered(
        ("x",),
        ("y",),
        {},
        (doubled("x", "whole", 50), doubled("x", "q", 50), adding("part", "q", "y", 50)),
        {},
        {"part": Window("whole", 0)},
    )
    assert distances(graph, {})[graph.regions[2].signature] == (400, 0)


def test_the_host_makes_values_of_unknown_shape() -> None:
    ops = (BodyOp("NonZero", ("x",), ("h",)), BodyOp("Shape", ("h",), ("t",)))
    host = Region(Kind.HOST, "host", ("x", "h"), ("h", "t"), ops, ())
    regions = (doubled("x", "a", 100), host, doubled("a", "b", 100), adding("t", "a", "y", 100))
    graph = Lowered(("x",), ("y",), {}, regions, {})
    assert distances(graph, {}) == {regions[0].likeness: (0,), regions[3].likeness: (800, 800)}


def test_buffers_for_a_distance() -> None:
    assert sets_for(0, 100) == 2 and sets_for(420, 100) == 4 and sets_for(10**9, 100) == 8 and sets_for(5, 0) == 2


def test_the_measurer_is_told(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    measurer = Pretence({})
    first, second = doubling(4), doubling(5)
    graph = lowered(first, second)
    decide(
        graph, Target(90), BuildOptions(), [Fake()], progress=lambda *step: None, measurer=measurer, jobs=1,
    )  # fmt: skip
    assert measurer.ages in distances(graph, {}).values()
