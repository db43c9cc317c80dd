"""The models that are written: standard ONNX, equal to the arithmetic they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from support.eight_bit import conv, pictures, prepared, residual_net
from support.rewrites import Net, run_ort

from ingot.precision.formats import FORMATS, FP8, INT8
from ingot.precision.placement import place
from ingot.precision.qdq import insert
from ingot.precision.ranges import Threshold
from ingot.precision.weights import quantize_weight


def _written(net: Net, form: str = "int8", threshold: float = 3.0) -> tuple[ir.Model, onnx.ModelProto]:
    model = prepared(net)
    placed = place(model)
    made = insert(
        model, placed, {group: Threshold(threshold, "", 1.0, FORMATS[form]) for group in placed.groups()}, FORMATS[form]
    )
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    return model, proto


def _constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(tensor for tensor in proto.graph.initializer if tensor.name == name))


def _matmul() -> Net:
    net = Net()
    net.output(net.op("MatMul", net.input("x", ["N", 8]), net.normal(8, 4)))
    return net


def test_a_product_is_what_the_integers_say() -> None:
    _, proto = _written(_matmul())
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    q, dq, weight = proto.graph.node[:3]
    assert [n.op_type for n in proto.graph.node] == ["DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMul"]
    stored, scale = (_constant(proto, name) for name in q.input[:2])
    assert stored.dtype == np.int8 and np.abs(stored).max(axis=0).tolist() == [127] * 4 and scale.shape == (4,)
    assert {a.name: a.i for a in q.attribute} == {"axis": 1}
    step = float(_constant(proto, dq.input[1]))
    assert step == pytest.approx(3 / 127) and weight.op_type == "DequantizeLinear"
    wanted = (np.clip(np.rint(x / np.float32(step)), -128, 127) @ stored.astype(np.float64)) * step * scale
    np.testing.assert_allclose(next(iter(run_ort(proto, {"x": x}).values())), wanted, rtol=1e-4, atol=1e-5)


def test_biases_are_int32_with_the_scale_of_the_products() -> None:
    _, proto = _written(residual_net(1))
    makers = {node.output[0]: node for node in proto.graph.node}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convs) == 3
    for node in convs:
        x, weight, bias = (makers[name] for name in node.input)
        assert {n.op_type for n in (x, weight, bias)} == {"DequantizeLinear"}
        assert _constant(proto, bias.input[0]).dtype == np.int32
        product = _constant(proto, x.input[1]) * _constant(proto, weight.input[1])
        np.testing.assert_allclose(_constant(proto, bias.input[1]), product, rtol=1e-6)


def test_a_bias_far_larger_than_its_weights_still_fits() -> None:
    net = Net()
    weight, bias = np.full((1, 1, 1, 1), 1e-9), np.asarray([50.0])
    net.output(net.op("Conv", net.input("x", ["N", 1, 4, 4]), net.const(weight), net.const(bias)))
    _, proto = _written(net)
    made = next(iter(run_ort(proto, {"x": np.ones((1, 1, 4, 4), np.float32)}).values()))
    np.testing.assert_allclose(made, 50.0, rtol=1e-5)


def test_values_and_weights_are_quantized_once() -> None:
    net = Net()
    x, weight = net.input("x", ["N", 8]), net.normal(8, 8)
    net.output(net.op("Add", net.op("MatMul", x, weight), net.op("Relu", net.op("MatMul", x, weight))))
    _, proto = _written(net)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") == 1 and kinds.count("DequantizeLinear") == 2


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_close_to_the_original(form: str) -> None:
    model, proto = _written(residual_net(2), form, threshold=6.0)
    feeds = {"x": pictures(4)}
    (wanted,), (made,) = (list(run_ort(p, feeds).values()) for p in (ir.to_proto(model), proto))
    error = np.linalg.norm(made - wanted) / np.linalg.norm(wanted)
    assert 1e-4 < error < (0.05 if form == "int8" else 0.12)
    stored = {t.data_type for t in proto.graph.initializer}
    wanted_type = onnx.TensorProto.INT8 if form == "int8" else onnx.TensorProto.FLOAT8E4M3FN
    assert wanted_type in stored and (onnx.TensorProto.INT32 in stored) == (form == "int8")


def test_weight_scales_by_op() -> None:
    net = Net()
    image = net.input("x", ["N", 6, 8, 8])
    a = conv(net, image, 6, 6, group=6)
    b = net.op("ConvTranspose", image, net.normal(6, 4, 3, 3))
    flat = net.op("Flatten", net.op("GlobalAveragePool", a))
    c = net.op("Gemm", flat, net.normal(5, 6), transB=1)
    d = net.op("Gemm", flat, net.normal(6, 7))
    net.output(b, c, d)
    layers = place(prepared(net)).layers
    assert [layer.op for layer in layers] == ["depthwise Conv", "ConvTranspose", "Gemm", "Gemm"]
    assert [quantize_weight(layer, INT8, 1.0).scale.shape for layer in layers] == [(6,), (4,), (5,), (7,)]
    assert [quantize_weight(layer, FP8, 1.0).scale.shape for layer in layers] == [()] * 4
    for layer in layers:
        weight = quantize_weight(layer, INT8, 1.0)
        assert np.abs(weight.real - layer.array).max() <= weight.scale.max() / 2 * 1.001
