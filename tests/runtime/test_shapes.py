"""From input shapes to symbolic dimensions."""

from __future__ import annotations

import pytest

from ingot.engine.bounds import corner
from ingot.errors import IngotError
from ingot.plan.spec import Binding, Plan, Profile
from ingot.runtime.shapes import or_best, shape_at, solve


def plan(*inputs: list[int | str], profiles: tuple[tuple[str, int, int, int], ...] = (("n", 1, 4, 8),)) -> Plan:
    rows = [Binding(f"x{i}", "float32", shape, i) for i, shape in enumerate(inputs)]
    return Plan("cpu", [Profile(*p) for p in profiles], rows, [], [], [], [], [], [], 0, 0, 0)


def test_symbols_come_from_shapes() -> None:
    p = plan(["n", 3, "h"], ["h"], profiles=(("n", 1, 1, 8), ("h", 1, 1, 9)))
    assert solve(p, {"x0": (2, 3, 7), "x1": (7,)}) == {"n": 2, "h": 7}


def test_expressions_are_checked_after_all_symbols_are_known() -> None:
    p = plan(["2*n + 1"], ["n"])
    assert solve(p, {"x0": (9,), "x1": (4,)}) == {"n": 4}
    with pytest.raises(IngotError, match=r"input 'x0': .*2\*n \+ 1 must be 9"):
        solve(p, {"x0": (8,), "x1": (4,)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x0": (9, 3)}, "dimension 'n' is 9; the engine was built for 1 to 8"),
        ({"x0": (0, 3)}, "dimension 'n' is 0"),
        ({"x0": (2, 4)}, r"input 'x0': shape \[2, 4\] does not fit \['n', 3\]"),
        ({"x0": (2,)}, "it has 1 dimensions"),
        ({"x0": ()}, "it has 0 dimensions"),
    ],
)
def test_wrong_shapes_name_the_input(shapes, message) -> None:
    with pytest.raises(IngotError, match=message) as caught:
        solve(plan(["n", 3]), shapes)
    assert "x0" in str(caught.value)
    assert caught.value.fix


def test_one_symbol_cannot_have_two_values() -> None:
    with pytest.raises(IngotError, match="dimension 'n' is 2 in another place"):
        solve(plan(["n"], ["n"]), {"x0": (2,), "x1": (3,)})


def test_symbol_that_no_input_gives() -> None:
    with pytest.raises(IngotError, match="no input's shape gives dimension 'm'"):
        solve(plan(["n"], profiles=(("n", 1, 1, 8), ("m", 1, 1, 8))), {"x0": (1,)})


def test_profile_points() -> None:
    p = plan(["n", "ceil(n/3)"])
    assert [corner(p, which) for which in ("min", "opt", "max")] == [{"n": 1}, {"n": 4}, {"n": 8}]
    assert shape_at(p.inputs[0], corner(p, "max")) == (8, 3)


def test_inputs_without_a_shape_have_the_best_one() -> None:
    p = plan(["n", 3], ["m"], profiles=(("n", 1, 4, 8), ("m", 1, 2, 8)))
    assert or_best(p, {"x1": (5,)}) == {"x0": (4, 3), "x1": (5,)}
