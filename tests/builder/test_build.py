"""The whole path from a model to an engine, and what it says of wrong options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

import ingot
from ingot.builder import host_only
from ingot.builder.api import build_engine
from ingot.builder.check import check_model
from ingot.builder.targets import TARGETS, choose_target, present
from ingot.device.device import DeviceInfo
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.measure.tolerance import tolerance_of
from ingot.options import BuildOptions, Range, parse_shapes
from ingot.runtime.engine import Engine
from ingot.simulate.simulator import Simulator
from ingot.zoo import architectures


@pytest.fixture(scope="module")
def resnet() -> onnx.ModelProto:
    return architectures.build("resnet_tiny")


def options(**given: object) -> BuildOptions:
    return BuildOptions(**{"target": "sm_90", "opt_level": 1, **given})  # type: ignore[arg-type]


def ort_result(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[np.ndarray] = session.run(None, feeds)
    return results


def test_engine_for_the_gpu_computes_the_model(resnet: onnx.ModelProto) -> None:
    feeds = architectures.sample_inputs(resnet, 2)
    shapes = parse_shapes(["input=1x3x32x32:2x3x32x32:4x3x32x32"])
    engine = build_engine(resnet, options(shapes=shapes))
    assert engine.plan.target == "sm_90" and {step.kind for step in engine.plan.steps} == {"kernel"}
    made = Simulator(engine).run(feeds)
    np.testing.assert_allclose(made["logits"], ort_result(resnet, feeds)[0], rtol=1e-4, atol=1e-4)


def test_builds_are_byte_identical(resnet: onnx.ModelProto) -> None:
    first, second = (build_engine(resnet, options(fp16=True)).to_bytes() for _ in range(2))
    assert first == second


def test_progress_goes_through_the_stages(resnet: onnx.ModelProto) -> None:
    seen: list[str] = []
    build_engine(resnet, options(), progress=lambda stage, done, total: seen.append(stage))
    assert list(dict.fromkeys(seen)) == ["import", "passes", "lower", "tactics", "compile", "plan"]


def test_dumps(resnet: onnx.ModelProto, tmp_path: Path) -> None:
    build_engine(resnet, options(dump_after=("batch_norm", "lower"), dump_dir=tmp_path))
    (graph,) = tmp_path.glob("*-batch_norm.onnx")
    assert all(node.op_type != "BatchNormalization" for node in onnx.load(graph).graph.node)
    (text,) = tmp_path.glob("*-lower.txt")
    assert "Conv Relu" in text.read_text()
    with pytest.raises(IngotError, match="there is no pass called nonsense.*batch_norm"):
        build_engine(resnet, options(dump_after=("nonsense",), dump_dir=tmp_path))


def with_host_op() -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2, 8] x) => (float[2, 8] y)'
        " { n = NonZero(x) i = Cast <to = 1> (n) s = ReduceSum <keepdims = 0> (i) e = Exp(x)"
        " a = Add(e, s) y = Relu(a) }"
    )


def test_islands_have_reasons_and_strict_refuses_them() -> None:
    model = with_host_op()
    engine = build_engine(model, options())
    assert any("NonZero has no device kernel" in reason for reason in engine.plan.reasons)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}
    np.testing.assert_allclose(Simulator(engine).run(feeds)["y"], ort_result(model, feeds)[0], rtol=1e-5)
    with pytest.raises(IngotError, match="(?s)NonZero has no device kernel.*without --strict"):
        build_engine(model, options(strict=True))


def test_a_model_of_which_nothing_fits_the_gpu_runs_on_the_host() -> None:
    """A sequence, and nothing that a kernel could do."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[4] x, seq(float[4]) s) => (float[n, 4] y)'
        " { t = SequenceInsert(s, x) y = ConcatFromSequence <axis = 0, new_axis = 1> (t) }"
    )
    engine = build_engine(model, options())
    assert engine.plan.target == "cpu"
    assert any("whole model runs on the host" in r and "sequence(float32)" in r for r in engine.plan.reasons)
    x = np.float32([1, 2, 3, 4])
    assert np.array_equal(Engine(engine).context().run({"x": x, "s": [2 * x]})["y"], [2 * x, x])
    with pytest.raises(IngotError, match="nothing of this model runs on the GPU"):
        build_engine(model, options(strict=True))


def test_an_output_that_is_an_input() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for target in ("cpu", "sm_90"):
        with pytest.raises(IngotError, match="x: this output is also an input.*Identity"):
            build_engine(model, options(target=target))
    with pytest.raises(IngotError, match="x: this output is also an input.*Identity"):
        check_model(model, options())


def test_cpu_engine_takes_any_batch(resnet: onnx.ModelProto) -> None:
    engine = Engine(build_engine(resnet, BuildOptions(target="cpu", opt_level=0)))
    for batch in (1, 3):
        feeds = architectures.sample_inputs(resnet, batch)
        np.testing.assert_allclose(engine.context().run(feeds)["logits"], ort_result(resnet, feeds)[0], rtol=1e-4)


def test_cpu_engine_measures_its_libraries(resnet: onnx.ModelProto) -> None:
    engine = build_engine(resnet, BuildOptions(target="cpu"))
    assert engine.plan.steps[0].backend in ("onnxruntime", "openvino")
    assert engine.plan.regions[0].micros > 0


def test_bfloat16_is_one_more_library_in_the_race(resnet: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is made up: bfloat16 is only faster where the CPU has it."""
    pytest.importorskip("openvino")
    seen: list[int] = []

    def turns(functions: Sequence[object], feeds: object) -> list[float]:
        seen.append(len(functions))
        return [3.0, 2.0, 1.0][: len(functions)]

    monkeypatch.setattr(host_only, "take_turns", turns)
    engine = build_engine(resnet, BuildOptions(target="cpu", bf16=True))
    assert seen == [3] and engine.plan.steps[0].backend == "openvino:bf16"
    assert engine.provenance["bf16"] is True and tolerance_of(engine) == 0.05
    assert "openvino:bf16 1000.000 ms" in engine.plan.regions[0].notes[0]
    assert build_engine(resnet, BuildOptions(target="cpu")).plan.steps[0].backend == "openvino" and seen == [3, 2]
    feeds = architectures.sample_inputs(resnet, 2)
    wanted, made = ort_result(resnet, feeds)[0], Engine(engine).context().run(feeds)["logits"]
    assert np.linalg.norm(made - wanted) < 0.05 * np.linalg.norm(wanted)
    with pytest.raises(IngotError, match="bfloat16 is for engines for the CPU"):
        build_engine(resnet, BuildOptions(target="sm_90", bf16=True))


def test_python_api(resnet: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(resnet, path)
    feeds = architectures.sample_inputs(resnet, 2)
    wanted = ort_result(resnet, feeds)[0]
    engine = ingot.build(path, target="cpu", opt_level=0, shapes={"input": ((1, 2, 4), 3, 32, 32)})
    engine.save(tmp_path / "model.ingot")
    loaded = ingot.load(tmp_path / "model.ingot")
    np.testing.assert_allclose(loaded.context().run(feeds)["logits"], wanted, rtol=1e-4)
    for source in (path, tmp_path / "model.ingot"):
        session = ingot.InferenceSession(source, target="cpu", opt_level=0)
        np.testing.assert_allclose(session.run(["logits"], feeds)[0], wanted, rtol=1e-4)
    with pytest.raises(AttributeError, match="has no attribute"):
        ingot.nonsense  # noqa: B018
    assert set(dir(ingot)) == set(ingot.__all__)


def test_targets() -> None:
    assert choose_target("sm_120").name == "sm_120" and choose_target("cpu").target is None
    with pytest.raises(IngotError, match="there is no target 'sm_7'.*sm_75"):
        choose_target("sm_7")
    info = DeviceInfo("some GPU", 89, 142, 1 << 20, 1 << 30, 1, 10_000_000, 384, 101376, 13000)
    assert present(info).cc == 89 and present(info).bandwidth == pytest.approx(0.9 * 960e9)
    with pytest.raises(IngotError, match="for which Ingot has no kernels"):
        present(DeviceInfo("old GPU", 61, 20, 1, 1, 1, 1, 1, 1, 13000))
    assert [t.cc for t in TARGETS] == sorted(t.cc for t in TARGETS)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("x", "is not a shape"),
        ("x=1x-3", "positive numbers"),
        ("x=1x2:3x4", "neither one shape nor three"),
        ("x=1x2:2x2:3", "neither one shape nor three"),
        ("x=4x2:2x2:8x2", "does not grow"),
        ("=1x2", "is not a shape"),
    ],
)
def test_wrong_shapes(text: str, reason: str) -> None:
    with pytest.raises(IngotError, match=reason):
        parse_shapes([text])


def test_shapes() -> None:
    assert parse_shapes(["a=b=1x2", "s="]) == (("a=b", (Range(1, 1, 1), Range(2, 2, 2))), ("s", ()))
    with pytest.raises(IngotError, match="two shapes"):
        parse_shapes(["x=1", "x=2"])
    with pytest.raises(IngotError, match="optimisation level 9"):
        BuildOptions(opt_level=9)
    with pytest.raises(IngotError, match="is no dimension"):
        ingot.build(b"", shapes={"x": [0]})


def test_engine_round_trip(resnet: onnx.ModelProto, tmp_path: Path) -> None:
    engine = build_engine(resnet, options(fp16=True))
    engine.write(tmp_path / "a.ingot")
    again = EngineFile.read(tmp_path / "a.ingot")
    assert again.plan == engine.plan and again.provenance["target"] == "sm_90"
    assert str(tmp_path) not in (tmp_path / "a.ingot").read_bytes().decode("latin-1")
