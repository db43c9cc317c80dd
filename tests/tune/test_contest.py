"""Contests between whole engines, with a fake timer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.tuning import Fake, Pretence, dequantizing, doubling, lowered

from ingot.errors import No
from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind
from ingot.kernels.api import Target
from ingot.options import BuildOptions
from ingot.tune.api import decide
from ingot.tune.choice import Choice
from ingot.tune.compilers import compilers
from ingot.tune.contest import LIMITS, hold, winner
from ingot.tune.database import Database, publish
from ingot.tune.setting import Timing

TARGET = Target(90)
CLOSE = {"fake[x=0]": 10.0e-6, "fake[x=1]": 10.2e-6, "fake[x=2]": 20e-6}
"""Alone: 0 and 1 within two percent."""


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "cache"))


@dataclass
class FakeTimer:
    """Engines take what their variants take in the graph; counts its answers."""

    whole: dict[str, float]
    noise: float = 0.0
    refusal: str = ""
    asked: list[list[list[str]]] = field(default_factory=list)
    closed: bool = False

    def compare(self, engines: Sequence[Sequence[Choice]]) -> list[Timing] | No:
        self.asked.append([[choice.variant for choice in engine] for engine in engines])
        if self.refusal:
            return No(self.refusal)
        return [Timing(sum(self.whole.get(c.variant, 1e-6) for c in engine), self.noise) for engine in engines]

    def close(self) -> None:
        self.closed = True


def build(
    graph: Lowered, timer: FakeTimer | None, path: Path, level: int = 3, measurer: Pretence | None = None
) -> list[Choice]:
    options = BuildOptions(opt_level=level, timing_db=path)
    if measurer is None and timer is not None:
        measurer = Pretence(CLOSE)
    return decide(graph, TARGET, options, [Fake()], progress=lambda *step: None, measurer=measurer, judge=timer, jobs=1)


def pair() -> Lowered:
    return lowered(doubling(4, name="a"), doubling(5, name="b"))


def test_the_graph_decides_between_close_variants_and_is_remembered(tmp_path: Path) -> None:
    path, timer = tmp_path / "t.json", FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9e-6})
    first = build(pair(), timer, path)
    assert [choice.variant for choice in first] == ["fake[x=1]", "fake[x=1]"]
    # The second contest has the winner of the first in place.
    assert timer.asked[0] == [["fake[x=0]", "fake[x=0]"], ["fake[x=1]", "fake[x=0]"]] or timer.asked[0] == [
        ["fake[x=0]", "fake[x=0]"],
        ["fake[x=0]", "fake[x=1]"],
    ]
    assert timer.asked[1][1] == ["fake[x=1]", "fake[x=1]"]
    assert first[0].micros == 10.2 and any("decided in the whole engine" in note for note in first[0].notes)
    content = path.read_bytes()
    again = FakeTimer({"fake[x=0]": 1e-6, "fake[x=1]": 9e-6})  # would decide otherwise, but is not asked
    assert build(pair(), again, path) == first
    assert not again.asked and path.read_bytes() == content
    without = build(pair(), None, path, level=2)
    assert [choice.variant for choice in without] == ["fake[x=1]", "fake[x=1]"]


def test_regions_that_differ_by_scales_are_measured_and_decided_as_one(tmp_path: Path) -> None:
    graph = lowered(*(dequantizing(scale) for scale in (0.5, 0.25, 0.125)), doubling(5))
    timer = FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9e-6})
    measurer = Pretence({"fake[x=0]": 10e-6, "fake[x=1]": 10.2e-6, "fake[x=2]": 12e-6})
    choices = build(graph, timer, tmp_path / "t.json", measurer=measurer)
    assert len(measurer.asked) == 6
    assert [choice.variant for choice in choices] == ["fake[x=1]"] * 4
    assert timer.asked[0][1] == ["fake[x=1]"] * 3 + ["fake[x=0]"]
    codes = [choice.program.kernels[0].cubin for choice in choices if choice.program]
    assert len(set(codes)) == 4  # code of their own for each
    assert build(graph, None, tmp_path / "t.json", measurer=measurer) == choices and len(measurer.asked) == 6


def test_what_is_slower_or_within_noise_in_the_graph_stays_out(tmp_path: Path) -> None:
    slower = FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 11e-6})
    assert {choice.variant for choice in build(pair(), slower, tmp_path / "a.json")} == {"fake[x=0]"}
    noisy = FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9.9e-6}, noise=0.02)
    assert {choice.variant for choice in build(pair(), noisy, tmp_path / "b.json")} == {"fake[x=0]"}
    (verdict,) = Database.load(tmp_path / "b.json").verdicts
    assert all(next(iter(micros)) == "fake[x=0]" for micros in verdict.decided.values())


def test_far_variants_light_regions_single_regions_and_host_steps_have_no_contest(tmp_path: Path) -> None:
    timer = FakeTimer({})
    far = Pretence({"fake[x=0]": 10e-6, "fake[x=1]": 11e-6, "fake[x=2]": 12e-6})
    build(pair(), timer, tmp_path / "far.json", measurer=far)
    build(lowered(doubling(4)), timer, tmp_path / "one.json")
    host = replace(doubling(4, name="host"), kind=Kind.HOST)
    build(lowered(doubling(4), doubling(5), host), timer, tmp_path / "host.json")
    assert not timer.asked

    class Uneven(Pretence):
        def measure(self, region, *args):  # type: ignore[no-untyped-def]
            scale = 1000.0 if region.output_specs[0].shape == (5,) else 1.0
            self.times = {"fake[x=0]": 10e-6 * scale, "fake[x=1]": 10.2e-6 * scale, "fake[x=2]": 1.0}
            return super().measure(region, *args)

    build(pair(), timer, tmp_path / "uneven.json", measurer=Uneven({}))
    assert len(timer.asked) == 1


def test_levels_admit_more_rivals(tmp_path: Path) -> None:
    near = Pretence({"fake[x=0]": 10e-6, "fake[x=1]": 10.2e-6, "fake[x=2]": 10.4e-6})
    for level, rivals in ((3, 1), (4, 2)):
        timer = FakeTimer({})
        build(pair(), timer, tmp_path / f"{level}.json", level, near)
        assert len(timer.asked[0]) == 1 + rivals


def test_an_engine_that_cannot_be_timed_ends_the_contests_and_changes_nothing(tmp_path: Path) -> None:
    timer = FakeTimer({}, refusal="out of memory")
    first = build(pair(), timer, tmp_path / "t.json")
    assert {choice.variant for choice in first} == {"fake[x=0]"} and len(timer.asked) == 1
    better = FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9e-6})
    assert build(pair(), better, tmp_path / "t.json") == first and not better.asked


def test_no_contest_starts_after_the_limit() -> None:
    graph = pair()
    choices = {r.signature: Choice("fake[x=0]", None, 10.0, True) for r in graph.regions}
    held = [type_contest(r.signature) for r in graph.regions]
    timer, now = FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9e-6}), iter([0.0, 19.0, 21.0])
    decided = hold(
        graph,
        choices,
        held,
        timer,
        lambda contest: {text: {contest.signature: Choice(text, None, 10.0, True)} for text in contest.texts},
        LIMITS[3],
        progress=lambda *step: None,
        clock=lambda: next(now),
    )
    assert list(decided) == [graph.regions[0].signature]


def type_contest(signature: str):  # type: ignore[no-untyped-def]
    from ingot.tune.contest import Contest

    return Contest(signature, ("fake[x=0]", "fake[x=1]"))


def test_the_winner_needs_more_than_noise() -> None:
    assert winner([Timing(1.0, 0.0), Timing(0.9995, 0.0)]) == 0
    assert winner([Timing(1.0, 0.0), Timing(0.99, 0.0)]) == 1
    assert winner([Timing(1.0, 0.0), Timing(0.99, 0.02)]) == 0
    assert winner([Timing(1.0, 0.0), Timing(0.98, 0.0), Timing(0.97, 0.001)]) == 2


def test_decisions_are_published_and_found_by_other_compilers(tmp_path: Path) -> None:
    path, shipped = tmp_path / "user.json", tmp_path / "shipped.json.gz"
    build(pair(), FakeTimer({"fake[x=0]": 10e-6, "fake[x=1]": 9e-6}), path)
    publish(path, shipped, compilers())
    (verdict,) = Database.load(shipped).verdicts
    assert "kernels-" not in verdict.key.compilers
    key = Database.load(path).verdicts[0].key
    assert Database.load(shipped).verdict(key, exact=False) == verdict
    assert Database.load(shipped).verdict(key, exact=True) is None
