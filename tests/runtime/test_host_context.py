"""Engines for the CPU: host steps alone."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
from support import tiny
from support.tiny import TinyPlan

from ingot.errors import IngotError
from ingot.plan.spec import Profile
from ingot.runtime.engine import Engine, load
from ingot.runtime.host_context import HostContext
from ingot.runtime.profile import profile
from ingot.runtime.session import InferenceSession
from ingot.runtime.timing import measure


def relu_then_add(backend: str = "onnxruntime") -> Engine:
    """y = relu(x) + w + relu(x), in two host steps."""
    p = TinyPlan("cpu", [Profile("n", 1, 4, 16)])
    p.value("x", ["n", 3], "input")
    p.value("h", ["n", 3], "host", size="12*n")
    p.constant("w", np.array([10, 20, 30], np.float32))
    p.value("s", ["n", 3], "host", size="12*n")
    p.value("y", ["n", 3], "output")
    first = p.host(tiny.model("Relu", ["a"], ["b"], ranks=[2]), ["x"], ["h"], (["a"], ["b"]), backend=backend)
    second = p.host(
        tiny.model("Add", ["a", "b"], ["c"], ranks=[2, 1]), ["h", "w"], ["s"], (["a", "b"], ["c"]), [first], backend
    )
    p.host(
        tiny.model("Add", ["a", "b"], ["c"], ranks=[2, 2]), ["s", "h"], ["y"], (["a", "b"], ["c"]), [second], backend
    )
    return p.engine()


def want(x: np.ndarray) -> np.ndarray:
    return 2 * np.maximum(x, 0) + np.array([10, 20, 30], np.float32)


def example(n: int = 4) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_run(backend: str) -> None:
    pytest.importorskip(backend)
    context = relu_then_add(backend).context()
    assert isinstance(context, HostContext)
    results = [(x, context.run({"x": x})["y"]) for x in map(example, (4, 1, 16, 4))]
    for x, made in results:
        assert np.allclose(made, want(x), rtol=1e-6)


def test_feeds_of_many_kinds() -> None:
    context = relu_then_add().context()
    x = example()
    wide = np.zeros((4, 6), np.float32)
    wide[:, ::2] = x
    for feed in (x, wide[:, ::2], np.asfortranarray(x), x.tolist()):
        assert np.allclose(context.run({"x": feed})["y"], want(x))
    target = np.zeros((4, 3), np.float32)
    assert context.run({"x": x}, {"y": target})["y"] is target
    assert np.allclose(target, want(x))


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "no value for input 'x' Fix: the engine's inputs are \\['x'\\]"),
        ({"x": example(), "z": 1}, "no input called 'z' Fix: its inputs are \\['x'\\]"),
        ({"x": example().astype(np.float64)}, "input 'x': it has dtype float64, the engine wants float32"),
        ({"x": example(17)}, "dimension 'n' is 17; the engine was built for 1 to 16"),
        ({"x": example()[0]}, "input 'x': .*it has 1 dimensions"),
        ({"x": example()[:, :2]}, "input 'x': shape \\[4, 2\\] does not fit"),
        ({"x": "text"}, "input 'x': cannot read it as float32"),
    ],
)
def test_wrong_feeds(feeds, message) -> None:
    context = relu_then_add().context()
    with pytest.raises(IngotError, match=message):
        context.run(feeds)
    assert np.allclose(context.run({"x": example()})["y"], want(example()))


@pytest.mark.parametrize("wrong", [np.zeros((4, 3)), np.zeros((3, 3), np.float32), [[0.0] * 3] * 4])
def test_wrong_targets(wrong) -> None:
    with pytest.raises(IngotError, match="output 'y'"):
        relu_then_add().context().run({"x": example()}, {"y": wrong})


def test_bind_and_enqueue() -> None:
    context = relu_then_add().context()
    with pytest.raises(IngotError, match="nothing is bound"):
        context.enqueue()
    context.bind({"x": (2, 3)})
    context.input("x")[...] = example(2)
    context.enqueue()
    context.synchronize()
    assert np.allclose(context.output("y"), want(example(2)))
    context.bind(inputs={"x": example(5)})
    context.enqueue()
    assert np.allclose(context.output("y"), want(example(5)))


def test_unknown_backend_and_failing_model() -> None:
    with pytest.raises(IngotError, match="unknown host backend 'magic'"):
        relu_then_add("magic").context()
    p = TinyPlan("cpu")
    p.value("x", [1, 3], "input")
    p.value("y", [1, 3], "output")
    p.host(b"not a model", ["x"], ["y"], (["a"], ["b"]))
    with pytest.raises(IngotError, match="host0: onnxruntime refuses the model"):
        p.engine().context()
    p = TinyPlan("cpu")
    p.value("x", [2, 3], "input")
    p.value("y", [2, 2], "output")
    p.host(tiny.model("MatMul", ["a", "c"], ["b"]), ["x", "x"], ["y"], (["a", "c"], ["b"]))
    with pytest.raises(IngotError, match="the host model failed"):
        p.engine().context().run({"x": np.zeros((2, 3), np.float32)})


def test_missing_backend_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(IngotError, match="onnxruntime, which is not installed Fix: pip install onnxruntime"):
        relu_then_add().context()


def test_overhead_is_small() -> None:
    """Beside ONNX Runtime's own time, a run costs microseconds: within 5 % for every model of a few 100 µs."""
    context = relu_then_add().context()
    x = example()
    inner = sum(min(context.step_times({"x": x})[i] for _ in range(300)) for i in range(3))
    samples = []
    for _ in range(1000):
        start = time.perf_counter()
        context.run({"x": x})
        samples.append(time.perf_counter() - start)
    assert min(samples) - inner < 25e-6


def test_session_has_onnxruntimes_signature(tmp_path) -> None:
    engine = relu_then_add()
    engine.save(tmp_path / "m.ingot")
    x = example()
    for source in (tmp_path / "m.ingot", str(tmp_path / "m.ingot"), engine.file.to_bytes(), engine):
        session = InferenceSession(source, providers=["CPUExecutionProvider"])
        assert np.allclose(session.run(None, {"x": x})[0], want(x))
        assert len(session.run(["y"], {"x": x})) == 1
    assert [(a.name, a.shape, a.type) for a in session.get_inputs()] == [("x", ["n", 3], "tensor(float)")]
    assert [a.name for a in session.get_outputs()] == ["y"]
    assert session.get_providers() == ["IngotCPUExecutionProvider"]
    with pytest.raises(IngotError, match="no output called 'q' Fix: its outputs are \\['y'\\]"):
        session.run(["q"], {"x": x})


def test_session_builds_what_is_no_engine(tmp_path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.model("Relu", ["x"], ["y"]))
    seen = []

    def build(source):
        seen.append(source)
        return relu_then_add()

    InferenceSession(str(path), build=build)
    InferenceSession(path.read_bytes(), build=build)
    assert seen == [str(path), path.read_bytes()]
    with pytest.raises(IngotError, match="not an Ingot engine"):
        InferenceSession(path)
    with pytest.raises(IngotError, match="cannot read the model"):
        InferenceSession(tmp_path / "absent.onnx", build=build)


def test_engine_describes_itself(tmp_path) -> None:
    engine = relu_then_add()
    engine.save(tmp_path / "e.ingot")
    again = load(tmp_path / "e.ingot")
    assert again.target == "cpu"
    assert [(io.name, io.dtype, io.shape) for io in again.inputs] == [("x", "float32", ("n", 3))]
    assert again.profile == {"n": (1, 4, 16)}
    assert again.plan == engine.plan


def test_measure_and_profile() -> None:
    context = relu_then_add().context()
    made = measure(context, {"x": example()}, warmup=0, seconds=0, iterations=25)
    assert len(made.latency) == 25
    assert not (made.enqueue or made.h2d or made.compute or made.d2h)
    assert sum(made.latency) == pytest.approx(made.wall)
    rows = profile(context, {"x": example()})
    assert [row.step for row in rows] == [0, 1, 2]
    assert all(row.micros > 0 for row in rows)


def test_gpu_engine_without_gpu_says_what_to_do() -> None:
    if tiny.HAVE_GPU:
        pytest.skip("there is a GPU")
    p = TinyPlan("sm_90")
    p.value("x", [4], "input")
    p.value("y", [4], "output")
    p.host(tiny.model("Relu", ["a"], ["b"]), ["x"], ["y"], (["a"], ["b"]))
    p.target = "cpu"
    engine = p.engine()
    import msgspec

    from ingot.engine.file import EngineFile

    gpu = Engine(EngineFile(msgspec.structs.replace(engine.plan, target="sm_90"), b"", b"", engine.file.models))
    with pytest.raises(IngotError, match="--target cpu|cuda-bindings"):
        gpu.context()


def test_runtime_imports_neither_onnx_nor_compilers() -> None:
    code = """
import pkgutil, importlib, sys
for package in ("device", "runtime"):
    for module in pkgutil.iter_modules([f"{sys.argv[1]}/{package}"]):
        importlib.import_module(f"ingot.{package}.{module.name}")
heavy = {"onnx", "onnx_ir", "onnxscript", "onnxruntime", "triton", "torch", "openvino", "cuda", "rich", "typer"}
print(sorted(heavy & set(sys.modules)))
"""
    import ingot.errors

    root = str(ingot.errors.__file__).rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True, env=_paths())
    assert done.stdout.strip() == "[]"


def test_cpu_engine_never_touches_cuda() -> None:
    code = """
import sys
from support.tiny import TinyPlan, model
import ingot.device.driver as driver
def refuse(): raise AssertionError("CUDA was touched")
driver.cuda = refuse
import ingot.device.memory, ingot.device.stream
ingot.device.memory.cuda = ingot.device.stream.cuda = refuse
import numpy as np
p = TinyPlan("cpu")
p.value("x", [2], "input"); p.value("y", [2], "output")
p.host(model("Relu", ["a"], ["b"]), ["x"], ["y"], (["a"], ["b"]))
print(p.engine().context().run({"x": np.float32([-1, 1])})["y"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_paths())
    assert done.stdout.strip() == "[0.0, 1.0]", done.stderr


def _paths() -> dict[str, str]:
    import os
    from pathlib import Path

    tests = Path(__file__).parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests)])}
