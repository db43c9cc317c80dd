from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.tuning import Fake, Pretence, doubling, lowered

from ingot.errors import IngotError, No
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Kind
from ingot.kernels.api import Target
from ingot.options import BuildOptions
from ingot.tune import api
from ingot.tune.api import NoKernel, decide, time_layers
from ingot.tune.choice import Choice
from ingot.tune.compilers import compilers
from ingot.tune.database import Database, Entry, Key
from ingot.tune.worker import TRY_AGAIN

TARGET = Target(90)
SECONDS = (3e-6, 1e-6, 2e-6)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path / "cache"))


def run(
    graph: Lowered,
    level: int,
    tactics: Sequence[Fake],
    measurer: Pretence | None = None,
    timing_db: Path | None = None,
    steps: list[tuple[str, int, int]] | None = None,
) -> list[Choice]:
    seen = steps if steps is not None else []
    return decide(
        graph,
        TARGET,
        BuildOptions(opt_level=level, timing_db=timing_db),
        tactics,
        progress=lambda *step: seen.append(step),
        measurer=measurer,
        jobs=1,
    )


def test_levels_without_a_device() -> None:
    graph = lowered(doubling(4))
    assert run(graph, 0, [Fake()])[0].variant == "fake[x=0]"
    for level in (1, 2, 3, 5):
        (choice,) = run(graph, level, [Fake()])
        assert (choice.variant, choice.micros, choice.measured) == ("fake[x=1]", 1.0, False)
        assert "chosen by prediction among 3 variants" in choice.notes


def test_views_and_host_regions_have_no_program_and_order_is_kept() -> None:
    view = replace(doubling(4, name="view"), kind=Kind.VIEW)
    host = replace(doubling(4, name="host"), kind=Kind.HOST)
    choices = run(lowered(view, doubling(4), host, doubling(5)), 1, [Fake()])
    assert [c.program is None for c in choices] == [True, False, True, False]
    assert [c.variant for c in choices] == ["view", "fake[x=1]", "host", "fake[x=1]"]


def test_equal_regions_are_decided_once() -> None:
    measurer = Pretence({})
    choices = run(lowered(*(doubling(4, name=f"r{i}") for i in range(5))), 3, [Fake()], measurer)
    assert len(measurer.asked) == 3
    assert all(choice is choices[0] for choice in choices)


def test_measuring_beats_predicting_and_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    measurer = Pretence({"fake[x=0]": 5e-6, "fake[x=1]": 9e-6, "fake[x=2]": 7e-6})
    graph = lowered(doubling(4))
    steps: list[tuple[str, int, int]] = []
    (cold,) = run(graph, 3, [Fake()], measurer, path, steps)
    assert (cold.variant, cold.micros, cold.measured) == ("fake[x=0]", 5.0, True)
    assert ("compile", 3, 3) in steps and ("measure", 3, 3) in steps and ("tactics", 1, 1) in steps
    measurer.asked.clear()
    (warm,) = run(graph, 3, [Fake()], measurer, path)
    assert not measurer.asked
    assert warm == cold
    (offline,) = run(graph, 2, [Fake()], None, path)
    assert (offline.variant, offline.micros, offline.measured) == ("fake[x=0]", 5.0, True)
    assert any("on Pretence 9000" in note for note in offline.notes)


def test_a_level_measures_only_its_shortlist() -> None:
    many = Fake(seconds=tuple(1e-6 + i * 1e-9 for i in range(50)))
    for level, expected in ((3, 12), (4, 30), (5, 50)):
        measurer = Pretence({}, device=f"level {level}")
        run(lowered(doubling(level)), level, [many], measurer)
        assert len(measurer.asked) == expected


def test_refused_variants_are_never_chosen_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    measurer = Pretence({"fake[x=1]": No("3 of 4 elements are NaN"), "fake[x=0]": 2e-6, "fake[x=2]": 3e-6})
    (choice,) = run(lowered(doubling(4)), 3, [Fake()], measurer, path)
    assert choice.variant == "fake[x=0]"
    assert "refused: fake[x=1]: 3 of 4 elements are NaN" in choice.notes
    (entry,) = Database.load(path)
    assert entry.refused == {"fake[x=1]": "3 of 4 elements are NaN"}
    assert run(lowered(doubling(4)), 1, [Fake()], None, path)[0].variant == "fake[x=1]"  # level 1 knows no database
    path_only = Database([Entry(entry.key, "map", {}, entry.refused)])
    path_only.save(path)
    assert run(lowered(doubling(4)), 2, [Fake()], None, path)[0].variant == "fake[x=2]"


def test_passing_trouble_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    run(lowered(doubling(4)), 3, [Fake()], Pretence({"fake[x=1]": No("no answer within 30 s", fix=TRY_AGAIN)}), path)
    (entry,) = Database.load(path)
    assert not entry.refused and set(entry.micros) == {"fake[x=0]", "fake[x=2]"}


def test_when_the_shortlist_fails_the_rest_is_tried() -> None:
    many = Fake(seconds=tuple(1e-6 + i * 1e-9 for i in range(20)))
    measurer = Pretence({f"fake[x={i}]": No("NaN") for i in range(15)})
    (choice,) = run(lowered(doubling(4)), 3, [many], measurer)
    assert choice.measured and choice.variant == "fake[x=15]"


def test_when_everything_fails_the_region_and_reasons_are_named() -> None:
    measurer = Pretence({f"fake[x={i}]": No("NaN") for i in range(3)})
    with pytest.raises(NoKernel, match=r"layer7: no kernel can run this map: fake\[x=0\]: NaN"):
        run(lowered(doubling(4, name="layer7")), 3, [Fake()], measurer)


def test_no_tactic_is_an_error_with_the_tactics_reasons() -> None:
    with pytest.raises(NoKernel, match="rank 7"):
        run(lowered(doubling(4)), 1, [Fake(refusal="rank 7")])


def test_a_variant_that_does_not_compile_yields_to_the_next() -> None:
    for level in (1, 3):
        measurer = Pretence({}) if level == 3 else None
        (choice,) = run(lowered(doubling(4)), level, [Fake(actions=("ok", "raise", "ok"))], measurer)
        assert choice.variant == ("fake[x=2]" if level == 1 else "fake[x=0]")
        assert "refused: fake[x=1]: IngotError: does not fit" in choice.notes
    with pytest.raises(NoKernel, match="does not fit"):
        run(lowered(doubling(5)), 1, [Fake(actions=("raise",) * 3)])


def test_a_region_that_cannot_be_measured_is_predicted_and_says_so() -> None:
    (choice,) = run(lowered(doubling(4)), 3, [Fake()], Pretence({}, broken="out of device memory"))
    assert (choice.variant, choice.measured) == ("fake[x=1]", False)
    assert "not measured: out of device memory" in choice.notes


def test_ties_are_broken_by_text() -> None:
    assert run(lowered(doubling(4)), 1, [Fake("b", (1e-6,)), Fake("a", (1e-6,))])[0].variant == "a[x=0]"
    assert run(lowered(doubling(4)), 3, [Fake("b", (1e-6,)), Fake("a", (2e-6,))], Pretence({}))[0].variant == "a[x=0]"


def test_database_variants_that_no_longer_exist_are_ignored(tmp_path: Path) -> None:
    key = Key.of(doubling(4), TARGET, {}, "Old", "triton-1.0")
    Database([Entry(key, "map", {"gone[x=0]": 0.001, "fake[x=2]": 4.0})]).save(tmp_path / "t.json")
    (choice,) = run(lowered(doubling(4)), 2, [Fake()], None, tmp_path / "t.json")
    assert (choice.variant, choice.micros) == ("fake[x=2]", 4.0)


def test_times_of_another_device_only_lengthen_the_shortlist(tmp_path: Path) -> None:
    many = Fake(seconds=tuple(1e-6 + i * 1e-9 for i in range(40)))
    key = Key.of(doubling(4), TARGET, {}, "Other", compilers())
    Database([Entry(key, "map", {"fake[x=33]": 0.5})]).save(tmp_path / "t.json")
    measurer = Pretence({"fake[x=33]": 8e-6, "fake[x=4]": 7e-6})
    (choice,) = run(lowered(doubling(4)), 3, [many], measurer, tmp_path / "t.json")
    assert "fake[x=33]" in measurer.asked
    assert (choice.variant, choice.micros) == ("fake[x=4]", 7.0)


def test_dynamic_regions_are_kept_by_their_optimum_shape(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for optimum, best in ((8, 0), (64, 2)):
        graph = lowered(doubling("batch"), ranges=(SymbolRange("batch", 1, optimum, 128),))
        run(graph, 3, [Fake()], Pretence({f"fake[x={best}]": 1e-7}), path)
    assert [e.key.bindings for e in Database.load(path)] == ["batch=64", "batch=8"]
    graph = lowered(doubling("batch"), ranges=(SymbolRange("batch", 1, 8, 128),))
    assert run(graph, 2, [Fake()], None, path)[0].variant == "fake[x=0]"


def test_what_was_measured_survives_an_interruption(tmp_path: Path) -> None:
    class Interrupted(Pretence):
        def measure(self, *args):  # type: ignore[no-untyped-def]
            if self.asked:
                raise KeyboardInterrupt
            return super().measure(*args)

    with pytest.raises(KeyboardInterrupt):
        run(lowered(doubling(4), doubling(5)), 3, [Fake()], Interrupted({}), tmp_path / "t.json")
    assert len(Database.load(tmp_path / "t.json")) == 1


def test_a_damaged_database_is_an_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(IngotError, match="damaged"):
        run(lowered(doubling(4)), 3, [Fake()], Pretence({}), tmp_path / "t.json")


def test_layers_are_timed_without_building_and_those_that_are_shipped_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph, path = lowered(doubling(4), doubling(4, name="same"), doubling(5)), tmp_path / "t.json"
    options = BuildOptions(opt_level=3, timing_db=path)
    times = {f"fake[x={x}]": micros for x, micros in enumerate((3e-6, 2e-6, 4e-6))}
    here = Pretence(times)
    assert time_layers(graph, TARGET, options, [Fake()], measurer=here, jobs=1) == [2.0, 2.0]
    assert sorted(here.asked) == sorted([*times] * 2)
    kept = Database.load(path)
    assert [entry.best for entry in kept] == ["fake[x=1]"] * 2
    again = Pretence(times)
    assert time_layers(graph, TARGET, options, [Fake()], measurer=again, jobs=1) == [2.0, 2.0] and not again.asked
    key = Key.of(doubling(5), TARGET, {}, here.device, "older")
    monkeypatch.setattr(api, "recorded", lambda target: Database([Entry(key, "map", {"fake[x=2]": 1.0})]))
    rest, other = Pretence(times), Pretence(times, device="another")
    options = replace(options, timing_db=tmp_path / "new.json")
    assert time_layers(graph, TARGET, options, [Fake()], measurer=rest, missing=True, jobs=1) == [2.0]
    assert sorted(rest.asked) == sorted(times)
    assert time_layers(graph, TARGET, options, [Fake()], measurer=other, missing=True, jobs=1) == [2.0, 2.0]
