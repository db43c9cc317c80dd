"""Steps that run only where a host step says so. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import tiny
from support.tiny import TinyPlan, number
from typer.testing import CliRunner

from ingot.cli.main import app
from ingot.errors import IngotError
from ingot.plan.spec import When
from ingot.runtime.engine import Engine
from ingot.runtime.profile import profile
from ingot.runtime.values import step_values

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not tiny.HAVE_GPU, reason="no GPU")]
N = 300


def above(limit: float) -> bytes:
    """Whether the sum of p is above ``limit``."""
    nodes = [
        helper.make_node("Constant", [], ["limit"], value_float=limit),
        helper.make_node("ReduceSum", ["p"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "limit"], ["r"]),
    ]
    ends = [
        helper.make_tensor_value_info("p", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("r", TensorProto.BOOL, None),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def engine(space: str = "host") -> Engine:
    """a = 2x; c = sum(a) > 0 (host); where c: b = 3a, h = b² (host), d = 2h, else d stays 5a; y = d + x.

    All of them write d, so that it shows which ran. ``space``: where c lies.
    """
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("a", [N], offset=0)
    p.value("c", [], space, 0 if space == "host" else 16384, dtype="bool", size=1)
    p.value("b", [N], offset=4096)
    p.value("h", [N], offset=8192)
    p.value("d", [N], offset=12288)
    p.value("y", [N], "output")
    steps = [p.kernel("scale", ["x", "a", number(N), number(2)], N, ["a"])]
    steps.append(p.host(above(0.0), ["a"], ["c"], (["p"], ["r"]), [steps[0]]))
    steps.append(p.kernel("scale", ["a", "d", number(N), number(5)], N, ["d"], after=[steps[1]]))
    steps.append(p.kernel("scale", ["a", "b", number(N), number(3)], N, ["b"], after=[steps[2]]))
    square = tiny.model("Mul", ["p", "q"], ["r"])
    steps.append(p.host(square, ["b", "b"], ["h"], (["p", "q"], ["r"]), [steps[3]]))
    steps.append(p.kernel("scale", ["h", "d", number(N), number(2)], N, ["d"], after=[steps[4]]))
    p.kernel("add", ["d", "x", "y", number(N)], N, ["y"], after=[steps[5]])
    for index, wanted in ((2, False), (3, True), (4, True), (5, True)):
        p.steps[index] = msgspec.structs.replace(p.steps[index], when=[When(p.names["c"], wanted)])
    return p.engine()


def scaled(p: TinyPlan, source: str, to: str, factor: int, after: list[int], *when: tuple[str, bool]) -> int:
    """Adds ``to = factor * source``, under conditions."""
    step = p.kernel("scale", [source, to, number(N), number(factor)], N, [to], after=after)
    return under(p, step, *when)


def under(p: TinyPlan, step: int, *when: tuple[str, bool]) -> int:
    rows = [When(p.names[name], wanted) for name, wanted in when]
    p.steps[step] = msgspec.structs.replace(p.steps[step], when=rows)
    return step


def host_first(space: str) -> Engine:
    """c = sum(x) > 0 (host), at once; where c: y = 3x, else y = x² (host). Between them stands no device step."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("c", [], space, 0, dtype="bool", size=1)
    p.value("y", [N], "output")
    told = p.host(above(0.0), ["x"], ["c"], (["p"], ["r"]))
    square = p.host(tiny.model("Mul", ["p", "q"], ["r"]), ["x", "x"], ["y"], (["p", "q"], ["r"]), [told])
    under(p, square, ("c", False))
    scaled(p, "x", "y", 3, [square], ("c", True))
    return p.engine()


def nested(space: str) -> Engine:
    """c = sum(x) > 0 (host); where c: d = sum(3x) > 1500 (host), and where d: y = 2x, else 5x; where not c: y = 7x."""
    p = TinyPlan(tiny.target())
    p.value("x", [N], "input")
    p.value("c", [], "host", 0, dtype="bool", size=1)
    p.value("d", [], space, 0, dtype="bool", size=1)
    p.value("t", [N], offset=4096)
    p.value("y", [N], "output")
    outer = p.host(above(0.0), ["x"], ["c"], (["p"], ["r"]))
    triple = scaled(p, "x", "t", 3, [outer], ("c", True))
    inner = under(p, p.host(above(1500.0), ["t"], ["d"], (["p"], ["r"]), [triple]), ("c", True))
    first = scaled(p, "x", "y", 2, [inner], ("c", True), ("d", True))
    second = scaled(p, "x", "y", 5, [first], ("c", True), ("d", False))
    scaled(p, "x", "y", 7, [second], ("c", False))
    return p.engine()


def expected(x: np.ndarray) -> np.ndarray:
    a = 2 * x
    return (2 * (3 * a) ** 2 if a.sum() > 0 else 5 * a) + x


def vectors() -> list[np.ndarray]:
    x = np.random.default_rng(0).integers(-3, 4, N).astype(np.float32)
    return [x + 1, x - 1, x - 1, x + 1]


@pytest.mark.parametrize("space", ["host", "arena"])
def test_each_run_takes_its_own_course(space: str) -> None:
    context = engine(space).context()
    for x in vectors():
        assert np.array_equal(np.asarray(context.run({"x": x})["y"]), expected(x))


def test_a_bound_context_looks_again_at_every_launch() -> None:
    context = engine().context()
    context.bind()
    for x in vectors():
        context.input("x").set(x)
        for _ in range(2):
            context.enqueue()
        context.synchronize()
        assert np.array_equal(context.output("y").numpy(), expected(x))


def test_a_condition_that_is_not_known_in_time_is_refused() -> None:
    made = engine()
    for change, why in (
        ({"after": []}, "before it is known"),
        ({"when": [When(0, True)]}, "no host step makes the condition"),
        ({"when": [When(4, True)]}, "a condition of no bool"),
    ):
        steps = list(made.plan.steps)
        steps[3] = msgspec.structs.replace(steps[3], **change)
        plan = msgspec.structs.replace(made.plan, steps=steps)
        file = made.file
        with pytest.raises(IngotError, match=why):
            type(file).from_bytes(type(file)(plan, file.weights, file.cubins, file.models).to_bytes())


@pytest.mark.parametrize("space", ["host", "arena"])
def test_a_host_step_waits_for_its_condition_of_the_host(space: str) -> None:
    context = host_first(space).context()
    for x in vectors():
        assert np.array_equal(np.asarray(context.run({"x": x})["y"]), 3 * x if x.sum() > 0 else x**2)


@pytest.mark.parametrize("space", ["host", "arena"])
def test_a_condition_that_a_condition_excludes(space: str) -> None:
    context = nested(space).context()
    x = vectors()[0]
    for feed, factor in ((x - 3, 7), (x, 5), (x + 1, 2), (x - 3, 7)):
        assert np.array_equal(np.asarray(context.run({"x": feed})["y"]), factor * feed)


def test_steps_run_apart_and_tell_which_did_not() -> None:
    made = engine()
    names = [value.name for value in made.plan.values]
    for x, ran in ((vectors()[0], [0, 1, 3, 4, 5, 6]), (vectors()[1], [0, 1, 2, 6])):
        rows = profile(made.context(), {"x": x})
        assert sorted(row.step for row in rows) == list(range(7))
        assert sorted(row.step for row in rows if row.ran) == ran
        assert all(row.micros == 0 for row in rows if not row.ran) and all(row.micros >= 0 for row in rows)
        values = {names[i]: array for i, array in step_values(made.context(), {"x": x})}
        assert ("b" in values, "h" in values) == (3 in ran, 4 in ran)
        assert np.array_equal(values["a"], 2 * x) and bool(values["c"]) == (x.sum() > 0)
        assert np.array_equal(values["y"], expected(x))


def test_inspect_shows_what_did_not_run(tmp_path: Path) -> None:
    engine().save(tmp_path / "e.ingot")
    for x, idle in ((vectors()[0], 1), (vectors()[1], 3)):
        np.savez(tmp_path / "x.npz", x=x)
        words = ["inspect", str(tmp_path / "e.ingot"), "--profile", "--layers", "--input", str(tmp_path / "x.npz")]
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.count("did not run") == idle, shown.stdout
        found = json.loads(CliRunner().invoke(app, [*words, "--json", "-"]).stdout)
        assert sum(not row["ran"] for row in found["profile"]) == idle
