"""Several optimization profiles: what a build makes of them, what the file keeps, what each plan computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ingot
from ingot.builder.api import build_engine, build_hollow
from ingot.builder.profiles import hull
from ingot.engine.describe import describe
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.measure.inputs import plan_for
from ingot.measure.reference import Reference
from ingot.options import BuildOptions, Range, parse_profiles, parse_shapes
from ingot.runtime.choose import fitting, ranges_of
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator

PROFILES = (
    "one:x=1x3x8x8",
    "small:x=1x3x4x4:2x3x8x8:4x3x16x16",
    "large:x=1x3x16x16:8x3x32x32:16x3x64x64",
)


def network() -> onnx.ModelProto:
    """Two convolutions with different weights, a residual between them and a mean: dynamic batch, height, width."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((3, 3, 3, 3)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "k"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1]),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def options(*texts: str, **others: Any) -> BuildOptions:
    return BuildOptions(target="sm_90", profiles=parse_profiles(texts or PROFILES), opt_level=0, **others)


@pytest.fixture(scope="module")
def engine() -> EngineFile:
    return EngineFile.from_bytes(build_hollow(network(), options()).to_bytes())


def feeds(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def test_each_profile_has_a_plan_for_its_range(engine: EngineFile) -> None:
    assert [plan.name for plan in engine.plans] == ["one", "small", "large"]
    one, small, large = engine.plans
    assert not one.profiles and one.inputs[0].shape == [1, 3, 8, 8]
    assert [(p.min, p.opt, p.max) for p in small.profiles] == [(1, 2, 4), (4, 8, 16), (4, 8, 16)]
    assert one.arena_bytes < small.arena_bytes < large.arena_bytes


def test_equal_weights_and_bodies_are_stored_once(engine: EngineFile) -> None:
    alone = build_hollow(network(), options(PROFILES[2]))
    assert len(engine.weights) == len(alone.weights)
    assert engine.plans[1].models == engine.plans[2].models
    assert len(engine.models) < sum(len(build_hollow(network(), options(text)).models) for text in PROFILES)


@pytest.mark.parametrize(
    ("shape", "name"),
    [((1, 3, 8, 8), "one"), ((4, 3, 8, 8), "small"), ((1, 3, 16, 16), "small"), ((5, 3, 16, 16), "large")],
)
def test_the_smallest_that_holds_the_shape_runs_it_and_is_right(
    engine: EngineFile, shape: tuple[int, ...], name: str
) -> None:
    plan = fitting(engine.plans, {"x": shape})
    assert plan.name == name
    given = feeds(*shape)
    made = Simulator(engine.alone(plan)).run(given)["y"]
    assert np.allclose(made, Reference(network()).run(given)["y"], rtol=1e-4, atol=1e-5)


def test_a_shape_outside_all_is_told_what_there_is(engine: EngineFile) -> None:
    with pytest.raises(IngotError, match="no profile takes x") as caught:
        fitting(engine.plans, {"x": (4, 3, 64, 65)})
    for text in ("one: x=1x3x8x8", "small: x=1x3x4x4:2x3x8x8:4x3x16x16", "large: "):
        assert text in (caught.value.fix or "")
    with pytest.raises(IngotError, match="no profile takes x"):
        fitting(engine.plans, {"x": (2, 3, 8)})
    with pytest.raises(IngotError, match="has no profile 'huge'") as caught:
        Engine(engine).context(profile="huge")
    assert "one, small, large" in (caught.value.fix or "")


def test_ranges_are_written_as_they_are_given(engine: EngineFile) -> None:
    assert [f"{plan.name}:{ranges_of(plan)}" for plan in engine.plans] == list(PROFILES)


def test_an_engine_shows_all_profiles(engine: EngineFile) -> None:
    found = Engine(engine)
    assert found.inputs[0].shape == ("n", 3, "h", "k") and list(found.profiles) == ["one", "small", "large"]
    assert found.profiles["small"]["n"] == (1, 2, 4)
    shown = describe(engine, plan=engine.plans[1])
    assert shown.name == "small" and [v.name for v in shown.variants] == ["one", "small", "large"]
    assert shown.inputs[0].at == [2, 3, 8, 8] and shown.variants[1].kernels > 0
    assert plan_for(engine.plans, parse_shapes(["x=16x3x64x64"])).name == "large"
    assert plan_for(engine.plans).name == "one"


def test_profiles_that_do_not_fit_together_are_refused(engine: EngineFile) -> None:
    one, small, _ = engine.plans
    cases = {
        "two profiles are called": (one, msgspec.structs.replace(small, name="one")),
        "different targets": (one, msgspec.structs.replace(small, target="sm_80")),
        "other tables": (one, msgspec.structs.replace(small, models=[*small.models, small.models[0]])),
        "other inputs": (one, msgspec.structs.replace(small, outputs=[])),
    }
    for reason, (first, second) in cases.items():
        bad = EngineFile(first, engine.weights, engine.cubins, engine.models, {}, (second,))
        with pytest.raises(IngotError, match=reason if reason != "other inputs" else "invalid engine"):
            bad.to_bytes()


def test_a_build_with_kernels_and_the_commands(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ingot.cli.main import app

    model, path = tmp_path / "m.onnx", tmp_path / "m.ingot"
    onnx.save(network(), model)
    words = ["build", str(model), "-o", str(path), "--target", "sm_90", "--opt-level", "0", "--report", "-"]
    for text in PROFILES[1:]:
        words += ["--profile", text]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "profile small: " in done.output and "profile large\n" in done.output
    file = EngineFile.read(path)
    taken = file.provenance["shapes"]
    assert isinstance(taken, dict) and taken["large:x"] == "1:8:16,3:3:3,16:32:64,16:32:64"
    assert all(step.cubin < len(file.plan.cubins) for plan in file.plans for step in plan.steps)
    shown = CliRunner().invoke(app, ["inspect", str(path), "--shapes", "x=8x3x32x32"])
    assert "profile large, shown here: x nx3xhxk; n: 1 to 16, best 8" in " ".join(shown.output.split())
    right = CliRunner().invoke(app, ["simulate", str(path), "--model", str(model), "--shapes", "x=3x3x16x20"])
    assert right.exit_code == 0, right.output


def test_on_the_cpu_the_ranges_are_one() -> None:
    built = ingot.build(
        network(), target="cpu", opt_level=0, profiles=[{"x": [1, 3, 8, 8]}, {"x": "2x3x8x8:4x3x8x8:8x3x8x32"}]
    )
    (plan,) = built.file.plans
    assert any("the ranges of 0, 1 are one" in reason for reason in plan.reasons)
    context = built.context()
    for shape in ((1, 3, 8, 8), (8, 3, 8, 32)):
        assert np.allclose(context.run(feeds(*shape))["y"], Reference(network()).run(feeds(*shape))["y"], atol=1e-5)
    with pytest.raises(IngotError, match="the engine was built for 1 to 8"):
        context.run(feeds(9, 3, 8, 8))


def test_options_and_texts() -> None:
    found = parse_profiles(["a:x=1x2", "b:input:0=3", "a:y=1:2:3"])
    assert [(name, [n for n, _ in shapes]) for name, shapes in found] == [("a", ["x", "y"]), ("b", ["input:0"])]
    single = BuildOptions(shapes=parse_shapes(["y=5", "x=9x9"]), profiles=found).of_profile(found[1][1])
    assert not single.profiles and dict(single.shapes)["input:0"] == (Range(3, 3, 3),) and "y" in dict(single.shapes)
    assert hull(parse_profiles(["a:x=2", "b:x=1:4:8"])) == (("x", (Range(1, 2, 8),)),)
    for bad in (["x=1x2"], ["a"], [":x=1"], ["a:x=1", "a:x=2"], ["a:x=y"]):
        with pytest.raises(IngotError):
            parse_profiles(bad)
    with pytest.raises(IngotError, match="names of their own"):
        BuildOptions(profiles=(("a", ()), ("a", ())))
    with pytest.raises(IngotError, match="different ranks"):
        hull(parse_profiles(["a:x=2", "b:x=1x4"]))
    with pytest.raises(IngotError, match="profile 'b': dimension 1"):
        build_engine(network(), options("a:x=1x3x8x8", "b:x=1x4x8x8"))
