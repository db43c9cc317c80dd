"""The whole way: budgets, what is given back, caches, reports, other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.eight_bit import conv, pictures, residual_net
from support.rewrites import Net, run_ort

import ingot
from ingot.errors import IngotError
from ingot.precision.report import Report

SAMPLES = pictures(24)


def _fragile_net() -> Net:
    """One layer of four multiplies tiny numbers beside huge ones: it alone cannot do with 8 bits."""
    net = Net()
    x = net.op("Relu", conv(net, net.input("x", ["N", 3, 12, 12]), 3, 8))
    x = net.op("Relu", conv(net, x, 8, 8))
    scale = np.ones((1, 8, 1, 1))
    scale[0, 0] = 3e4
    spread = net.op("Mul", x, net.const(scale))
    fragile = net.random.standard_normal((8, 8, 1, 1))
    fragile[:, 0] /= 1e6
    y = net.op("Conv", spread, net.const(fragile))
    y = net.op("Relu", conv(net, y, 8, 8))
    net.output(net.op("Flatten", net.op("GlobalAveragePool", conv(net, y, 8, 4))))
    return net


def test_a_standard_model_and_a_report() -> None:
    net = residual_net(2)
    made, sha256, report = ingot.quantize(net.proto(), SAMPLES)
    onnx.checker.check_model(made, full_check=True)
    assert [v.name for v in made.graph.output] == [v.name for v in net.proto().graph.output]
    assert len(sha256) == 64 and report.within_budget and report.given_back == 0 and report.samples == 24
    assert report.output_sqnr_db is not None and report.output_sqnr_db > 25
    layers = [line for line in report.layers if line.op in ("Conv", "Gemm")]
    assert len(layers) == 6 == sum(line.precision == "int8" for line in layers)
    assert all(line.sqnr_db and line.sqnr_db > 15 and line.threshold and line.why for line in layers)
    assert any("100 or more" in note for note in report.notes)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    feeds = {"x": SAMPLES}
    (wanted,), (got,) = (list(run_ort(p, feeds).values()) for p in (net.proto(), made))
    assert np.linalg.norm(got - wanted) < 0.06 * np.linalg.norm(wanted)


def test_only_the_fragile_layer_is_given_back() -> None:
    proto = _fragile_net().proto()
    _, _, everything = ingot.quantize(proto, SAMPLES, accuracy_budget=0.99)
    assert everything.given_back == 0 and everything.loss is not None and everything.loss > 0.01
    made, _, report = ingot.quantize(proto, SAMPLES, accuracy_budget=0.005)
    assert report.loss is not None and report.loss <= 0.005
    back = [line for line in report.layers if line.precision == "float"]
    assert {line.why.split(":")[0] for line in back} >= {"first layer", "last layer"}
    given = [line for line in back if "alone it makes" in line.why]
    assert len(given) == 1
    alone = {line.name: line.alone_db for line in report.layers if line.alone_db is not None}
    assert min(alone, key=lambda name: alone[name]) == given[0].name
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) == report.quantized


def test_an_impossible_budget_says_so() -> None:
    made, _, report = ingot.quantize(residual_net(1).proto(), SAMPLES, accuracy_budget=0.0, metric="cosine")
    assert report.quantized == 0 and report.given_back == 4
    assert not any(node.op_type == "QuantizeLinear" for node in made.graph.node)


def test_without_a_budget_first_and_last_stay() -> None:
    _, _, report = ingot.quantize(residual_net(1).proto(), SAMPLES, accuracy_budget=None)
    assert report.loss is None
    assert {line.why for line in report.layers if line.precision == "float"} == {"first layer", "last layer"}


def test_top1_with_and_without_labels(tmp_path: Path) -> None:
    net = residual_net(1)
    answers = next(iter(run_ort(net.proto(), {"x": SAMPLES}).values())).argmax(axis=1)
    wrong = (answers + (np.arange(24) < 6)) % 10
    np.savez(tmp_path / "data.npz", x=SAMPLES, labels=wrong)
    _, _, report = ingot.quantize(net.proto(), tmp_path / "data.npz", metric="top1", accuracy_budget="20%")
    assert report.score == 0.75 and report.loss is not None and abs(report.loss) < 0.2
    _, _, report = ingot.quantize(net.proto(), SAMPLES, metric="top1", accuracy_budget="20%")
    assert report.score == 1.0 and report.evaluated == 24


def test_a_metric_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_quality_metric.py").write_text(
        "def score(outputs, labels):\n    return float(sum(o.sum() for batch in outputs for o in batch.values()))\n"
        "def text(outputs, labels):\n    return 'good'\n"
    )
    monkeypatch.chdir(tmp_path)
    _, _, report = ingot.quantize(residual_net(1).proto(), SAMPLES[:16], metric="my_quality_metric:score")
    assert report.metric == "my_quality_metric:score" and report.score is not None
    with pytest.raises(IngotError, match="gave 'good', which is no number"):
        ingot.quantize(residual_net(1).proto(), SAMPLES[:16], metric="my_quality_metric:text")


def test_fp8() -> None:
    made, _, report = ingot.quantize(residual_net(1).proto(), SAMPLES, precision="fp8")
    assert report.precision == "fp8" and report.within_budget
    assert onnx.TensorProto.FLOAT8E4M3FN in {tensor.data_type for tensor in made.graph.initializer}


def test_models_for_the_cpu_store_no_signs() -> None:
    net = residual_net(2)
    made, _, report = ingot.quantize(net.proto(), SAMPLES, host=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    zeros = [constants[node.input[2]] for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert {str(zero.dtype) for zero in zeros} == {"uint8"} and {int(zero) for zero in zeros} == {0, 128}
    assert {line.stored for line in report.layers} == {"uint8", "uint8 around 128"}
    # ONNX Runtime adds bytes where both branches are bytes.
    adds = [node for node in made.graph.node if node.op_type == "Add"]
    makers = {name: node.op_type for node in made.graph.node for name in node.output}
    assert [makers[name] for name in adds[0].input] == ["DequantizeLinear"] * 2
    (wanted,), (got,) = (list(run_ort(p, {"x": SAMPLES}).values()) for p in (net.proto(), made))
    assert np.linalg.norm(got - wanted) < 0.06 * np.linalg.norm(wanted)


def test_the_cache_replaces_the_data(tmp_path: Path) -> None:
    net, cache = residual_net(1), tmp_path / "cache.json"
    first = ingot.quantize(net.proto(), SAMPLES, calibration_cache=cache, accuracy_budget=None)
    saved = json.loads(cache.read_text())
    assert saved["format"] == "ingot-calibration" and saved["samples"] == 24
    again = ingot.quantize(net.proto(), calibration_cache=cache, accuracy_budget=None)
    scales = [{line.name: line.scale for line in result.report.layers} for result in (first, again)]
    assert scales[0].keys() == scales[1].keys() and again.report.samples == 24
    for broken, message in (
        ({**saved, "model_sha256": "0" * 64}, "belongs to another model"),
        ({**saved, "version": 99}, "has version 99"),
        ({**saved, "format": "x"}, "this is no calibration cache"),
        ({**saved, "ranges": {"x": {}}}, "is damaged"),
    ):
        cache.write_text(json.dumps(broken))
        with pytest.raises(IngotError, match=message):
            ingot.quantize(net.proto(), SAMPLES, calibration_cache=cache)
    cache.write_text("{")
    with pytest.raises(IngotError, match="cannot read the calibration cache"):
        ingot.quantize(net.proto(), SAMPLES, calibration_cache=cache)
    with pytest.raises(IngotError, match="neither calibration data nor"):
        ingot.quantize(net.proto())


def test_float16_models_are_quantized_too() -> None:
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    weights = [(random.standard_normal(s) * 0.3).astype(np.float16) for s in ((8, 3, 3, 3), (4, 8, 3, 3))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "half", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 4, 8, 8])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    made, _, report = ingot.quantize(proto, SAMPLES.astype(np.float16))
    assert report.quantized == 2
    got = run_ort(made, {"x": SAMPLES.astype(np.float16)})["y"]
    wanted = run_ort(proto, {"x": SAMPLES.astype(np.float16)})["y"]
    assert got.dtype == np.float16
    assert np.linalg.norm(got.astype(float) - wanted) < 0.05 * np.linalg.norm(wanted.astype(float))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "no precision 'int4'"),
        ({"method": "kl"}, "no calibration method 'kl'"),
        ({"accuracy_budget": "half"}, "'half' is no accuracy budget"),
        ({"accuracy_budget": 3.0}, "3.0 is no accuracy budget"),
        ({"metric": "f1"}, "no metric 'f1'"),
        ({"keep": ["nothing"]}, "nothing: the model has no such node"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(IngotError, match=message):
        ingot.quantize(residual_net(1).proto(), SAMPLES, **options)  # type: ignore[arg-type]


def test_nothing_to_quantize_and_bad_numbers() -> None:
    net = Net()
    net.output(net.op("Relu", net.input("x", ["N", 4])))
    with pytest.raises(IngotError, match="nothing of this model can be quantized"):
        ingot.quantize(net.proto(), np.zeros((4, 4), np.float32))
    net = Net()
    net.output(net.op("MatMul", net.op("Log", net.input("x", ["N", 4])), net.normal(4, 4)))
    with pytest.raises(IngotError, match="nothing but NaN or infinite numbers"):
        ingot.quantize(net.proto(), np.full((4, 4), -1, np.float32), accuracy_budget=None)


def test_an_engine_for_the_cpu(tmp_path: Path) -> None:
    net = residual_net(1)
    engine = ingot.build(
        net.proto(), target="cpu", opt_level=1, int8=True, calibration=SAMPLES, shapes={"x": "4x3x12x12"}
    )
    made = engine.file.provenance
    assert made["quantized"] == "int8" and made["calibration_samples"] == 24 and made["given_back"] == 0
    got = next(iter(engine.context().run({"x": SAMPLES[:4]}).values()))
    wanted = next(iter(run_ort(net.proto(), {"x": SAMPLES[:4]}).values()))
    error = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
    assert 1e-4 < error < 0.06
    with pytest.raises(IngotError, match="2 ways to choose"):
        ingot.build(net.proto(), target="cpu", int8=True, fp8=True, calibration=SAMPLES)
    with pytest.raises(IngotError, match="calibration is for 8-bit"):
        ingot.build(net.proto(), target="cpu", calibration=SAMPLES)
