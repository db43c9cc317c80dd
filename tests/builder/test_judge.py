"""The tuner's judge between whole engines: what it sends, and what it does with trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plans import GraphBuilder, op
from support.stand_in import pass_on_stand_in

from ingot.builder.judge import EngineJudge
from ingot.builder.race import random_feeds
from ingot.errors import No
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Kind
from ingot.tune.choice import Choice
from ingot.tune.contest import in_order
from ingot.tune.hollow import hollow_choices
from ingot.tune.setting import Timing


def graph() -> Lowered:
    b = GraphBuilder()
    b.input("x", ("n", 4))
    b.value("m", ("n", 4))
    b.value("y", ("n", 4))
    b.constant("w", np.arange(4, dtype=np.float32))
    b.region(Kind.MAP, [op("Mul", ["x", "w"], ["m"])], ["m"])
    b.region(Kind.MAP, [op("Add", ["m", "w"], ["y"])], ["y"])
    b.ranges.append(SymbolRange("n", 1, 3, 8))
    return b.lowered(["y"])


class Ear:
    """In place of a Worker: notes what is sent."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.sent, self.weights, self.closed = answer, [], [], False

    def call(self, function: str, weights: str, parts: Any, ordinal: int, *, timeout: float) -> Any:
        self.sent.append((function, parts, ordinal))
        self.weights.append(weights)
        assert Path(weights).read_bytes()
        return self.answer

    def close(self) -> None:
        self.closed = True


def test_engines_are_sent_with_their_weights_in_one_file() -> None:
    lowered = graph()
    judge = EngineJudge(lowered, "sm_90", 1)
    ear = judge._worker = Ear([Timing(1.0, 0.0), Timing(2.0, 0.0)])  # type: ignore[assignment]
    choices = hollow_choices(lowered)
    for _ in range(2):
        assert judge.compare([choices, choices]) == ear.answer
    (function, parts, ordinal), _ = ear.sent
    assert function == "ingot.builder.race:race" and ordinal == 1
    assert [len(plan.steps) for plan, _ in parts] == [2, 2]
    assert len(set(ear.weights)) == 1
    judge.close()
    assert ear.closed and not Path(ear.weights[0]).exists()


def test_a_refusal_comes_through_and_large_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered = graph()
    judge = EngineJudge(lowered, "sm_90", 0)
    judge._worker = Ear(No("the helper process died"))  # type: ignore[assignment]
    assert judge.compare([hollow_choices(lowered)]) == No("the helper process died")
    judge.close()
    monkeypatch.setattr("ingot.builder.judge.MOST_WEIGHTS", 8)
    answer = EngineJudge(lowered, "sm_90", 0).compare([hollow_choices(lowered)])
    assert isinstance(answer, No) and "weights" in answer.reason


def test_feeds_have_the_optimum_shapes_and_are_always_the_same() -> None:
    from ingot.plan.build import build_plan

    lowered = graph()
    plan = build_plan(lowered, hollow_choices(lowered), "sm_90").plan
    feeds = random_feeds(plan)
    assert feeds["x"].shape == (3, 4) and feeds["x"].dtype == np.float32 and feeds["x"].std() > 0.1
    assert np.array_equal(feeds["x"], random_feeds(plan)["x"])


def test_choices_go_to_their_regions() -> None:
    lowered = graph()
    chosen = {r.signature: Choice(f"v{i}", None, 1.0, True) for i, r in enumerate(lowered.regions)}
    assert [choice.variant for choice in in_order(lowered, chosen)] == ["v0", "v1"]


def test_races_run_on_the_stand_in_driver(tmp_path: Path) -> None:
    pass_on_stand_in(tmp_path, "builder/test_race.py")
