"""Many expressions as one function, against one evaluation each."""

from __future__ import annotations

import random

import pytest

from ingot.errors import IngotError
from ingot.graph.dim_code import compile_all
from ingot.graph.dims import evaluate

SYMBOLS = ("h", "w", "n")


def expression(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random()
    if depth > 4 or kind < 0.25:
        return rng.choice([*SYMBOLS, str(rng.randint(-3, 40))])
    a, b = expression(rng, depth + 1), expression(rng, depth + 1)
    if kind < 0.6:
        return f"({a}) {rng.choice('+-*')} ({b})"
    if kind < 0.7:
        return f"({a})/{rng.choice([2, 3, 8, -4])}"
    if kind < 0.8:
        return f"{rng.choice(['floor', 'ceil', 'ceiling'])}(({a})/({b}))"
    if kind < 0.86:
        return f"-({a})"
    if kind < 0.92:
        return f"({a}) // {rng.choice([2, 7])} + ({b}) % 5"
    return f"{rng.choice(['max', 'Max', 'min', 'Min', 'mod'])}({a}, {b})"


def outcome(text: str, bindings: dict[str, int]) -> int | str:
    try:
        return evaluate(text, bindings)
    except IngotError as error:
        return error.reason


@pytest.mark.parametrize("seed", range(8))
def test_random_expressions_have_the_same_values(seed: int) -> None:
    rng = random.Random(seed)
    texts = [expression(rng) for _ in range(300)]
    points = [{s: rng.choice([1, 2, 3, 7, 64, 640]) for s in SYMBOLS} for _ in range(4)]
    sound = [t for t in texts if all(isinstance(outcome(t, b), int) for b in points)]
    assert len(sound) > 100
    together = compile_all(sound, SYMBOLS)
    for bindings in points:
        assert together(bindings) == [evaluate(text, bindings) for text in sound]


@pytest.mark.parametrize("text", ["h/2", "w/(h - h)", "floor(1/(h - 3))", "max(h/2, 1/3)", "z + 1", "foo(h)", "h**9"])
def test_what_one_refuses_all_refuse_in_the_same_words(text: str) -> None:
    bindings = {"h": 3, "w": 4, "n": 1}
    with pytest.raises(IngotError) as alone:
        evaluate(text, bindings)
    with pytest.raises(IngotError) as together:
        compile_all(["h + 1", text], SYMBOLS)(bindings)
    assert together.value.reason == alone.value.reason


def test_hard_ones_stand_beside_easy_ones() -> None:
    texts = ["h + 1", "max(h/2, w/2)", "floor(max(h/2, 1/3)) * 2", "1000000007 * 1000000007 * h"]
    assert compile_all(texts, SYMBOLS)({"h": 8, "w": 6, "n": 1}) == [9, 4, 8, 8 * 1000000007**2]
    assert compile_all([], ())({}) == []


def test_names_do_not_reach_the_code() -> None:
    assert compile_all(["exact + t0 + s1 * compute"], ("exact", "t0", "s1", "compute"))(
        {"exact": 1, "t0": 20, "s1": 300, "compute": 2}
    ) == [621]
