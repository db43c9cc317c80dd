"""The timer's graphs and statistics, with a pretended device whose clock advances per launch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from ingot.kernels.api import Pdl
from ingot.tune import timer
from ingot.tune.setting import PRECISE, QUICK, Effort
from ingot.tune.timer import Launch, Timer

CLOCK = [0.0]
FILLED: list[int] = []


class PretendedGraph:
    def __init__(self, nodes: list[tuple[Any, ...]]) -> None:
        self.nodes = nodes

    def launch(self, stream: object) -> None:
        CLOCK[0] += sum(function for function, *_ in self.nodes)


class PretendedBuilder:
    made: ClassVar[list[PretendedBuilder]] = []

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, ...]] = []
        self.made.append(self)

    def add_kernel(
        self, function: float, grid: object, block: int, args: object, *, after: list[int], programmatic: list[int]
    ) -> int:
        self.nodes.append((function, args, list(after), list(programmatic)))
        return len(self.nodes) - 1

    def instantiate(self) -> PretendedGraph:
        return PretendedGraph(self.nodes)


class PretendedEvent:
    def record(self, stream: object) -> None:
        self.at = CLOCK[0]

    def synchronize(self) -> None:
        pass

    def since(self, start: PretendedEvent) -> float:
        return self.at - start.at


@pytest.fixture(autouse=True)
def _pretence(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(fill=lambda pointer, value, size: FILLED.append(size))
    monkeypatch.setattr(timer, "Stream", lambda: stream)
    monkeypatch.setattr(timer, "Event", PretendedEvent)
    monkeypatch.setattr(timer, "GraphBuilder", PretendedBuilder)
    monkeypatch.setattr(timer, "Buffer", lambda size, what: SimpleNamespace(pointer=1, bytes=size))
    PretendedBuilder.made.clear()
    FILLED.clear()


def make(evict: int = 0) -> Timer:
    return Timer(SimpleNamespace(info=SimpleNamespace(l2_bytes=1000)), evict)  # type: ignore[arg-type]


def launch(seconds: float, pdl: Pdl = Pdl.NONE) -> Launch:
    return Launch(seconds, (1, 1, 1), 32, pdl)  # type: ignore[arg-type]


def test_a_program_takes_the_sum_of_its_kernels() -> None:
    found = make().time([launch(2e-6), launch(3e-6)], lambda kernel, turn: (kernel, turn), PRECISE)  # type: ignore[arg-type, return-value]
    assert found.seconds == pytest.approx(5e-6)
    assert found.noise == pytest.approx(0, abs=1e-6)


def test_every_launch_depends_on_the_one_before_and_programmatically_where_it_waits() -> None:
    make().graph([launch(1.0, Pdl.TRIGGERS), launch(1.0)], lambda kernel, turn: (kernel, turn), 2)  # type: ignore[arg-type, return-value]
    (builder,) = PretendedBuilder.made
    assert [node[1:] for node in builder.nodes] == [
        ((0, 0), [], []),
        ((1, 0), [0], []),
        ((0, 1), [], [1]),
        ((1, 1), [2], []),
    ]


@pytest.mark.parametrize(("seconds", "count"), [(1e-7, 32), (20e-6, 20), (1.0, 6)])
def test_the_number_of_launches_follows_the_time(seconds: float, count: int) -> None:
    make().time([launch(seconds)], lambda kernel, turn: (kernel, turn), QUICK)  # type: ignore[arg-type, return-value]
    assert len(PretendedBuilder.made[-1].nodes) == count


def test_the_cache_is_evicted_before_each_replay_up_to_twice_its_size() -> None:
    effort = Effort(1e-3, (4, 4), 5)
    make(evict=300).time([launch(1e-6)], lambda kernel, turn: (kernel, turn), effort)  # type: ignore[arg-type, return-value]
    assert FILLED == [300] * 8  # two to choose the count, one to upload, five to measure
    FILLED.clear()
    make(evict=5000).time([launch(1e-6)], lambda kernel, turn: (kernel, turn), effort)  # type: ignore[arg-type, return-value]
    assert set(FILLED) == {2000}
    FILLED.clear()
    make(evict=-4).time([launch(1e-6)], lambda kernel, turn: (kernel, turn), effort)  # type: ignore[arg-type, return-value]
    assert not FILLED


def test_median_and_noise() -> None:
    found = timer._timing([1.0, 1.0, 1.0, 1.2, 9.0])
    assert found.seconds == 1.0 and found.noise > 0.04
    assert timer._timing([1.0, 2.0, 3.0]).noise == 0.5
