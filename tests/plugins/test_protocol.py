"""What plugins promise and what is refused: schema, versions, discovery, types, tactics, the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.plugin_models import TACTIC, TARGET, model_of, plugin_region
from typer.testing import CliRunner

import ingot
from ingot.builder.api import build_engine, build_hollow
from ingot.builder.check import check_model
from ingot.cli.main import app
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.graph.dims import ceildiv, floordiv, mul
from ingot.options import BuildOptions, parse_shapes
from ingot.plugins import registry
from ingot.plugins.api import (
    Attribute,
    AttrType,
    CudaLaunch,
    In,
    Kernels,
    Layout,
    Number,
    Out,
    Plugin,
    TensorInfo,
    Work,
)
from ingot.plugins.examples.snake import SNAKE
from ingot.plugins.registry import Plugins, using
from ingot.simulate.simulator import Simulator

_SOURCE = """
extern "C" __global__ void halve(const float* x, float* y, long long n) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[2 * i] + SHIFT;
}
"""


def _halved(node) -> list[TensorInfo]:
    x = node.input(0)
    return [TensorInfo(x.dtype, (floordiv(mul(*x.shape), 2),))]


def _reference(attrs, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    flat = inputs[0].reshape(-1)
    return [flat[: len(flat) // 2 * 2 : 2] + np.float32(attrs["shift"])]


def _work(node, tactic) -> Work:
    count = node.output(0).shape[0]
    source = f"#define SHIFT {node.number('shift')!r}f\n{_SOURCE}"
    return Work((CudaLaunch(source, "halve", (In(0), Out(0), Number(count)), (ceildiv(count, 64), 1, 1), 64),))


HALVE = Plugin(
    domain="my",
    name="Halve",
    version="3",
    shapes=_halved,
    reference=_reference,
    implementations=(Kernels("cuda", _work),),
    attributes={"shift": Attribute(AttrType.FLOAT, 0.0), "words": Attribute(AttrType.STRING, "")},
    dtypes=frozenset({"float32"}),
)
X = np.arange(2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4) / 7


def halve(x: str, y: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Halve", [x], [y], name=f"halve_{y}", domain="my", **attributes)


def network(**attributes: object) -> onnx.ModelProto:
    """Relu, the plugin, Neg; with a symbolic batch."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        halve("a", "b", **attributes),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    return model_of(nodes, {"x": ["N", 3, 5, 4]}, ["y"])


SHAPES = "x=1x3x5x4:2x3x5x4:4x3x5x4"
WANTED = -(np.maximum(X, 0).reshape(-1)[::2] + np.float32(0.5))


def test_symbolic_shapes_go_through_the_shape_rule() -> None:
    with using([HALVE]):
        engine = build_engine(network(shift=0.5), BuildOptions("sm_90", opt_level=1, shapes=parse_shapes([SHAPES])))
    assert [step.kind for step in engine.plan.steps] == ["kernel"] * 3
    assert engine.plan.regions[1].kind == "plugin"
    assert engine.plan.regions[1].tactic.startswith("plugin.cuda[source=")
    assert engine.cubin(engine.plan.steps[1].cubin)
    assert ingot.Engine(engine).outputs[0].shape == ("30*N",)
    with using([HALVE]):
        np.testing.assert_array_equal(Simulator(engine).run({"x": X})["y"], WANTED)


def test_builds_can_be_repeated() -> None:
    options = BuildOptions("sm_90", opt_level=1, shapes=parse_shapes([SHAPES]))
    with using([HALVE]):
        first, second = (build_engine(network(shift=0.5), options).to_bytes() for _ in range(2))
        other = build_engine(network(shift=0.25), options).to_bytes()
    assert first == second != other


def test_an_engine_with_machine_code_needs_no_plugin_and_one_with_a_reference_does(tmp_path: Path) -> None:
    with using([HALVE]):
        build_engine(network(), BuildOptions("sm_90", opt_level=1, shapes=parse_shapes([SHAPES]))).write(
            tmp_path / "gpu"
        )
    ingot.load(tmp_path / "gpu")
    built = ingot.build(network(shift=0.5), target="cpu", plugins=[HALVE])
    built.save(tmp_path / "cpu")
    np.testing.assert_array_equal(built.context().run({"x": X})["y"], WANTED)
    with pytest.raises(
        IngotError, match=r"halve_b: this engine needs the plugin my\.Halve, version 3.*plugins="
    ) as raised:
        ingot.load(tmp_path / "cpu")
    assert "--plugin" in raised.value.fix
    with pytest.raises(IngotError, match=r"needs version 3 of the plugin my\.Halve, but 4 is there"):
        ingot.load(tmp_path / "cpu", plugins=[replace(HALVE, version="4")])
    context = ingot.load(tmp_path / "cpu", plugins=[HALVE]).context()
    np.testing.assert_array_equal(context.run({"x": X})["y"], WANTED)


def test_the_engine_keeps_no_code(tmp_path: Path) -> None:
    ingot.build(network(shift=0.5, words="hello"), target="cpu", plugins=[HALVE]).save(tmp_path / "cpu")
    engine = EngineFile.read(tmp_path / "cpu")
    (step,) = [step for step in engine.plan.steps if step.backend == "plugin"]
    kept = engine.model(step.model)
    assert kept.startswith(b"plugin\0") and b'"shift":0.5' in kept and b"hello" in kept and b"def " not in kept


@pytest.mark.parametrize(
    "attributes, message",
    [
        (dict(shift="much"), "attribute 'shift' of my.Halve is no float"),
        (dict(turns=3), "my.Halve has no attribute 'turns'"),
        (dict(words=[1, 2]), "attribute 'words' of my.Halve is no string"),
        (dict(shift=helper.make_tensor("t", 1, [1], [1.0])), "is a tensor, which plugins cannot take"),
    ],
)
def test_schema(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(IngotError, match=message):
        ingot.build(network(**attributes), target="cpu", plugins=[HALVE])


def test_number_of_inputs() -> None:
    node = helper.make_node("Halve", ["x", "x"], ["y"], domain="my")
    with pytest.raises(IngotError, match="has 2 inputs, not 1 to 1"):
        ingot.build(model_of([node], {"x": [4]}, ["y"]), target="cpu", plugins=[HALVE])


def test_inside_control_flow_it_is_refused() -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        node = helper.make_node("Halve", ["x"], [f"{name}_out"], domain="my")
        return helper.make_graph([node], name, [], [out])

    condition = helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0)
    cast = helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL)
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    model = model_of([condition, cast, choice], {"x": [4]}, ["y"])
    model.opset_import.append(helper.make_opsetid("my", 1))
    with pytest.raises(IngotError, match="stands inside control flow"):
        ingot.build(model, target="cpu", plugins=[HALVE])


def test_types_that_the_kernels_do_not_take_run_in_the_reference() -> None:
    model = model_of([halve("x", "y")], {"x": [6]}, ["y"], dtype=TensorProto.DOUBLE)
    with using([HALVE]):
        engine = build_hollow(model, BuildOptions("sm_90"))
        (step,) = engine.plan.steps
        assert (step.kind, step.backend) == ("host", "plugin")
        assert "do not take float64" in engine.plan.reasons[0]
        made = Simulator(engine).run({"x": np.arange(6.0)})["y"]
        np.testing.assert_array_equal(made, [0.0, 2.0, 4.0])
        with pytest.raises(IngotError, match="no device kernel"):
            build_hollow(model, BuildOptions("sm_90", strict=True))


def test_weights_and_views_as_operands() -> None:
    """Of a constant, of a transposed value, of one given twice."""
    pair = Plugin("my", "Pair", "1", lambda n: [n.input(0)], lambda a, i: [i[0] + 2 * i[1]], (Kernels("cuda", _work),),
                  inputs=(2, 2))  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Pair", ["t", "w"], ["a"], domain="my"),
        helper.make_node("Pair", ["a", "a"], ["y"], domain="my"),
    ]
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    model = model_of(nodes, {"x": [2, 3]}, ["y"], {"w": weight})
    x = np.ones((2, 3), np.float32)
    with using([pair]):
        engine = build_hollow(model, BuildOptions("sm_90"))
        np.testing.assert_array_equal(Simulator(engine).run({"x": x})["y"], 3 * (1 + 2 * weight))
        on_cpu = ingot.build(model, target="cpu")
        np.testing.assert_array_equal(on_cpu.context().run({"x": x})["y"], 3 * (1 + 2 * weight))


@pytest.mark.parametrize("layout", Layout)
def test_layouts(layout: Layout) -> None:
    """Between convolutions and at the model's output; kernels see the strides that they asked for."""
    same = Plugin(
        "my", "Same", "1", lambda n: [n.input(0)], lambda a, i: [-i[0]], (Kernels("cuda", _work),), layout=layout
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Same", ["a"], ["b"], domain="my"),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Same", ["c"], ["y"], domain="my"),
    ]
    weight = np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1)
    x = np.random.default_rng(0).standard_normal((2, 16, 5, 5)).astype(np.float32)
    with using([same]):
        engine = build_hollow(model_of(nodes, {"x": x.shape}, ["y"], {"w": weight}), BuildOptions("sm_90"))
        np.testing.assert_allclose(Simulator(engine).run({"x": x})["y"], x, rtol=1e-6)
    plan = engine.plan
    strides = {tuple(plan.values[i].strides) for r in plan.regions if r.kind == "plugin" for i in (*r.reads, *r.writes)}
    rows, last = (400, 25, 5, 1), (400, 1, 80, 16)
    assert strides == {Layout.ROW_MAJOR: {rows}, Layout.CHANNELS_LAST: {last}, Layout.ANY: {rows, last}}[layout]


def test_a_plugin_may_carry_the_name_of_a_scalar_op() -> None:
    relu = Plugin("my", "Relu", "1", lambda n: [n.input(0)], lambda a, i: [-i[0]], (Kernels("cuda", _work),))
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"], domain="my")]
    with using([relu]):
        engine = build_hollow(model_of(nodes, {"x": [3]}, ["y"]), BuildOptions("sm_90"))
        made = Simulator(engine).run({"x": np.array([1, -2, 3], np.float32)})["y"]
    assert [r.kind for r in engine.plan.regions] == ["map", "plugin"]
    np.testing.assert_array_equal(made, [-1, -2, -3])


def test_source_that_does_not_compile_names_the_plugin() -> None:
    def broken(node, tactic) -> Work:
        return Work((CudaLaunch("nonsense", "f", (), (1, 1, 1), 32),))

    plugin = replace(HALVE, implementations=(Kernels("cuda", broken),))
    with (
        using([plugin]),
        pytest.raises(IngotError, match=r"plugin my\.Halve: its CUDA source does not compile") as raised,
    ):
        build_engine(network(), BuildOptions("sm_90", opt_level=0, shapes=parse_shapes([SHAPES])))
    assert raised.value.fix == "mend the plugin Halve"


def test_what_makes_no_sense_is_refused() -> None:
    with (
        pytest.raises(IngotError, match="a block of 2048 threads"),
        using(
            [
                replace(
                    HALVE,
                    implementations=(Kernels("c", lambda n, t: Work((CudaLaunch("", "f", (), (1, 1, 1), 2048),))),),
                )
            ]
        ),
    ):
        region, bindings = plugin_region(network(), [SHAPES])
        TACTIC.variants(region, TARGET, bindings)
    with pytest.raises(IngotError, match="implementations are called"):
        replace(HALVE, implementations=(Kernels("c", _work), Kernels("c", _work)))
    with pytest.raises(IngotError, match="two plugins are given"), using([HALVE, HALVE]):
        pass


def test_check_says_where_it_runs() -> None:
    options = BuildOptions("sm_90", shapes=parse_shapes([SHAPES]))
    with using([HALVE]):
        report = check_model(network(), options)
    assert report.on_device and report.kinds["plugin"] == 1
    assert {row.op: row.kind for row in report.ops}["Halve"] == "plugin"
    without = check_model(network(), options).whole
    assert without is not None and "give a plugin for my.Halve" in without.fix


# -- discovery


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        EntryPoint("good", f"{SNAKE_MODULE}:SNAKE", registry.GROUP),
        EntryPoint("absent", "no_such_module_at_all:X", registry.GROUP),
        EntryPoint("wrong", "os:sep", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    plugins = registry.discovered.__wrapped__()
    assert plugins.find("ingot.examples", "Snake") is SNAKE
    assert len(plugins.failures) == 2
    with pytest.raises(IngotError, match="no_such_module_at_all"):
        plugins.require("other", "Op", "1", "node")


SNAKE_MODULE = "ingot.plugins.examples.snake"


def test_those_handed_over_come_first() -> None:
    other = replace(SNAKE, version="9")
    with using([SNAKE]), using([other]) as plugins:
        assert plugins.find("ingot.examples", "Snake") is other
    assert Plugins().find("", "Relu") is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("nothing", "names no plugin"),
        ("no_such_module_at_all:X", "cannot be imported"),
        (f"{SNAKE_MODULE}:NOTHING", "has no 'NOTHING'"),
        (f"{SNAKE_MODULE}:_CUDA", "is neither a Plugin nor a list"),
    ],
)
def test_names_of_plugins(text: str, message: str) -> None:
    with pytest.raises(IngotError, match=message):
        registry.load_plugins(text)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build, run, simulate and check with a plugin from a file and from a module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_ops.py").write_text("from ingot.plugins.examples.snake import SNAKE\nALL = [SNAKE]\n")
    node = helper.make_node("Snake", ["x"], ["y"], domain="ingot.examples")
    onnx.save(model_of([node], {"x": [4, 4]}, ["y"]), tmp_path / "m.onnx")
    plugin = ["--plugin", f"{tmp_path / 'my_ops.py'}:ALL"]

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    run("build", tmp_path / "m.onnx", "-o", tmp_path / "cpu.ingot", "--target", "cpu", *plugin)
    run("run", tmp_path / "cpu.ingot", *plugin)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "cpu.ingot")])
    assert result.exit_code == 1 and "needs the plugin ingot.examples.Snake" in result.output
    flags = ["--target", "sm_90", "--opt-level", 1, "--plugin", f"{SNAKE_MODULE}:SNAKE"]
    run("build", tmp_path / "m.onnx", "-o", tmp_path / "gpu.ingot", *flags)
    said = run("simulate", tmp_path / "gpu.ingot", "--model", tmp_path / "m.onnx", *plugin)
    assert "within the tolerance" in said
    assert "device (plugin)" in run("check", tmp_path / "m.onnx", *plugin)
    said = run("compare", tmp_path / "cpu.ingot", tmp_path / "m.onnx", *plugin)
    assert "y" in said
