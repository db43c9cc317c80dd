"""The quick check of a Plan's numbers, against the one that says what is wrong."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from support.plan_graphs import residual_branches, symbolic
from support.plans import plan_engine

from ingot.engine.bounds import check_at
from ingot.engine.numbers import PlanNumbers
from ingot.errors import IngotError
from ingot.graph.dims import Bindings, evaluate
from ingot.plan.spec import Plan

NASTY = (-1, 0, 1, 2, 3, 16, 255, 1 << 20, 1 << 31, 1 << 44, 1 << 62, 10**40, "n", "n*t", "n - 2", "n/2", "n/0", "9**n")
PLACES = ("values", "steps", "inputs", "arena_bytes", "weights_bytes")
POINTS = ({"n": 1, "t": 2}, {"n": 2, "t": 3}, {"n": 3, "t": 4}, {"n": 4, "t": 5})
MAP = {"dtype": "float32", "dims": [8, 8, "n"], "strides": [32, 256], "box": [8, 8, 1], "swizzle": 0}


def tree_of(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(plan))
    return found


def with_map() -> dict[str, Any]:
    """The dynamic plan, whose first kernel gets a tensor map and numbers."""
    tree = tree_of(plan_engine(symbolic()).plan)
    step = tree["steps"][0]
    step["arguments"] = [
        {"kind": "map", "index": step["writes"][0], "map": {**MAP, "dims": [4, "n"], "strides": [16], "box": [4, 1]}},
        {"kind": "dim", "dim": "n*t", "bytes": 4},
        {"kind": "dim", "dim": "n - 100", "bytes": 8},
    ]
    return tree


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of sizes, places, grids and numbers."""
    rows = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    kept = ("shape", "strides", "memory", "grid", "arguments", "map", "dims")
    found = []
    for key, child in rows:
        if isinstance(key, int) or key in (*kept, *PLACES):
            found += leaves(child, (*path, key))
        elif key in ("offset", "bytes", "dim", "cluster") and "map" not in path:
            found.append((*path, key))
    if isinstance(node, int | str) and not isinstance(node, bool):
        found.append(path)
    return found


def refused(check: Any, plan: Plan, bindings: Bindings) -> bool:
    try:
        check(plan, bindings)
    except IngotError:
        return True
    return False


def quick(plan: Plan, bindings: Bindings) -> None:
    PlanNumbers(plan).at(bindings)


def quick_again(plan: Plan, bindings: Bindings) -> None:
    """After other shapes: what does not depend on them is not checked once more if it was sound."""
    numbers = PlanNumbers(plan)
    for other in POINTS:
        refused(lambda _, at: numbers.at(at), plan, other)
    numbers.at(bindings)


@pytest.mark.parametrize("seed", range(4))
def test_it_refuses_what_the_slow_check_refuses(seed: int) -> None:
    rng = random.Random(seed)
    originals = [with_map(), tree_of(plan_engine(residual_branches()).plan)]
    refusals = 0
    for _ in range(120):
        tree = json.loads(json.dumps(rng.choice(originals)))
        for _ in range(rng.choice([1, 1, 2])):
            *path, last = rng.choice(leaves({key: tree[key] for key in PLACES}))
            node = tree
            for key in path:
                node = node[key]
            # Without symbols an expression says that a shape depends on data: that is judged by form.
            whole = last in ("cluster", "arena_bytes", "weights_bytes") or "box" in path or not tree["profiles"]
            node[last] = rng.choice([n for n in NASTY if isinstance(n, int)] if whole else NASTY)
            if last == "bytes" and "arguments" in path:
                node[last] = rng.choice([4, 8])
        try:
            plan = msgspec.convert(tree, Plan)
        except (msgspec.ValidationError, OverflowError):
            continue
        if any(not 1 <= step.cluster <= 16 for step in plan.steps):
            continue  # refused for its form, before any number is looked at
        for bindings in POINTS:
            slow = refused(check_at, plan, bindings)
            assert refused(quick, plan, bindings) or not slow, (tree, bindings)
            assert refused(quick_again, plan, bindings) or not slow, (tree, bindings)
            refusals += slow
    assert refusals > 100


@pytest.mark.parametrize("bindings", POINTS)
def test_sound_plans_are_taken_and_evaluated(bindings: Bindings) -> None:
    plan = msgspec.convert(with_map(), Plan)
    numbers = PlanNumbers(plan)
    found = numbers.at(bindings)
    for index, row in numbers.row_of.items():
        value = plan.values[index]
        rank = len(value.shape)
        assert found[numbers.shapes[row, :rank]].tolist() == [evaluate(dim, bindings) for dim in value.shape]
        assert found[numbers.strides[row, :rank]].tolist() == [evaluate(dim, bindings) for dim in value.strides]
        assert found[numbers.offsets[row]] == evaluate(value.memory.offset, bindings)
    kernels = [step for step in plan.steps if step.kind == "kernel"]
    assert found[numbers.grids].tolist() == [[evaluate(dim, bindings) for dim in step.grid] for step in kernels]
    assert found[numbers.numbers].tolist()[:2] == [bindings["n"] * bindings["t"], bindings["n"] - 100]
    assert found[numbers.maps].tolist() == [4, bindings["n"], 16]


def test_a_reason_is_that_of_the_slow_check() -> None:
    tree = with_map()
    tree["steps"][0]["arguments"][1]["dim"] = "1000000000*n*t"
    with pytest.raises(IngotError, match="does not fit in 4 bytes"):
        quick(msgspec.convert(tree, Plan), POINTS[2])


def test_a_fixed_part_of_an_input_is_checked_at_every_shape() -> None:
    tree = tree_of(plan_engine(symbolic()).plan)
    whole = tree["values"][tree["inputs"][0]["value"]]
    memory = {**whole["memory"], "offset": 0, "bytes": 512}
    tree["values"].append({**whole, "name": "part", "shape": [128], "strides": [1], "memory": memory})
    plan = msgspec.convert(tree, Plan)
    numbers = PlanNumbers(plan)
    numbers.at(POINTS[-1])
    with pytest.raises(IngotError):
        numbers.at(POINTS[0])
