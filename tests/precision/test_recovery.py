"""Equalised channels and corrected biases: the same function in float, less error in 8 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support.eight_bit import conv, data_for, pictures, prepared, residual_net
from support.rewrites import Net, run_ort

from ingot.precision.calibrate import Statistics, calibrate, kept
from ingot.precision.draft import draft_of
from ingot.precision.equalise import equalise, pairs_of
from ingot.precision.formats import INT8
from ingot.precision.host import HostRuns
from ingot.precision.layers import layers_of
from ingot.precision.metrics import Evaluator, metric_of
from ingot.precision.observer import HostObserver
from ingot.precision.recipes import wanted_of
from ingot.precision.settings import Settings
from ingot.precision.weights import mean_shift

SETTINGS = Settings()


def _statistics(model: ir.Model, samples: np.ndarray) -> Statistics:
    wanted = wanted_of(model, SETTINGS)
    return calibrate(HostObserver(HostRuns(model, wanted.names), wanted), data_for(model, samples))


def _error(model: ir.Model, statistics: Statistics, samples: np.ndarray, original: ir.Model) -> float:
    evaluator = Evaluator(original, list(data_for(original, samples).batches()), metric_of("cosine"))
    return evaluator.error(draft_of(model, statistics, INT8, "auto").written(()))


def _outlier_channels(net: Net) -> np.ndarray:
    """Tokens whose normalised channels differ a thousandfold, as in large transformers."""
    scale = np.ones(32)
    scale[[3, 17]] = 200.0
    x = net.input("x", ["N", 8, 32])
    h = net.op("LayerNormalization", x, net.const(scale), net.const(np.zeros(32)))
    weights = [net.random.standard_normal((32, 32)) / scale[:, None] for _ in range(2)]
    q, v = (net.op("MatMul", h, net.const(w)) for w in weights)
    net.output(net.op("Mul", q, v))
    return net.random.standard_normal((40, 8, 32)).astype(np.float32)


def test_smoothquant_rescues_a_transformer_with_outliers() -> None:
    net = Net()
    samples = _outlier_channels(net)
    model = prepared(net)
    before = _statistics(model, samples)
    even, names = equalise(model, before.channels)
    assert len(names) == 1 and even.graph[0].op_type == "LayerNormalization"
    (a,), (b,) = (list(run_ort(ir.to_proto(m), {"x": samples}).values()) for m in (model, even))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    plain = _error(model, before, samples, model)
    assert _error(even, _statistics(even, samples), samples, model) < 0.1 * plain


@pytest.mark.parametrize("group", [1, 8])
def test_equalisation_across_convolutions_keeps_the_function(group: int) -> None:
    net = Net()
    x = conv(net, net.input("x", ["N", 3, 12, 12]), 3, 8)
    x = net.op("MaxPool", net.op("Relu", x), kernel_shape=[2, 2])
    x = net.op("LeakyRelu", conv(net, x, 8, 8, group=group), alpha=0.1)
    net.output(net.op("Relu", conv(net, x, 8, 6)))
    model, samples = prepared(net), pictures(8)
    assert len(pairs_of(model)) == 2
    first = layers_of(model.graph)[0][0]
    uneven = first.array * np.float32([50, *[1] * 7]).reshape(-1, 1, 1, 1)
    first.weight.const_value = ir.tensor(uneven, name=first.weight.name)
    statistics = _statistics(model, samples)
    even, names = equalise(model, statistics.channels)
    assert len(names) == 2
    (a,), (b,) = (list(run_ort(ir.to_proto(m), {"x": samples}).values()) for m in (model, even))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    spread = [np.ptp(np.log(_statistics(m, samples).channels[names[0]].largest)) for m in (model, even)]
    assert spread[1] < 0.7 * spread[0]


def test_inputs_of_depthwise_layers_are_scaled_by_factors() -> None:
    """Behind a ReLU6 nothing takes factors in; a depthwise layer's own weights do, channel by channel."""
    net = Net()
    weight = net.random.standard_normal((8, 3, 3, 3)) * np.geomspace(0.002, 1, 8).reshape(-1, 1, 1, 1)
    x = net.op("Conv", net.input("x", ["N", 3, 12, 12]), net.const(weight), pads=[1] * 4)
    x = net.op("Clip", x, net.const(0.0), net.const(6.0))
    depthwise = net.random.standard_normal((8, 1, 3, 3)) / np.geomspace(0.002, 1, 8).reshape(-1, 1, 1, 1)
    net.output(net.op("Conv", x, net.const(depthwise), pads=[1] * 4, group=8))
    model, samples = prepared(net), pictures(16)
    assert not pairs_of(model) and len(pairs_of(model, scaled=True)) == 1
    before = _statistics(model, samples)
    even, names = equalise(model, before.channels, scaled=True)
    assert len(names) == 1 and [node.op_type for node in even.graph] == ["Conv", "Clip", "Mul", "Conv"]
    (a,), (b,) = (list(run_ort(ir.to_proto(m), {"x": samples}).values()) for m in (model, even))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    plain = _error(model, before, samples, model)
    assert _error(even, _statistics(even, samples), samples, model) < 0.1 * plain


def test_what_cannot_be_equalised() -> None:
    net = Net()
    x = net.op("Clip", conv(net, net.input("x", ["N", 3, 8, 8]), 3, 8), net.const(0.0), net.const(6.0))
    shared = net.op("Relu", conv(net, x, 8, 8))
    net.output(net.op("Add", conv(net, shared, 8, 8), shared))
    assert pairs_of(prepared(net)) == []  # clipped at six; read by an add too


@pytest.mark.parametrize("kind", ["Conv", "depthwise", "ConvTranspose", "MatMul", "Gemm"])
def test_the_mean_moves_as_predicted(kind: str) -> None:
    """The shift of a layer's mean by other weights, against the layer run with both."""
    net = Net()
    if kind in ("MatMul", "Gemm"):
        x = net.input("x", ["N", 6])
        y = net.op(kind, x, net.normal(6, 5), *([net.normal(5)] if kind == "Gemm" else []))
    else:
        x = net.input("x", ["N", 6, 9, 9])
        group = 6 if kind == "depthwise" else 2
        shape = {"Conv": (4, 3, 3, 3), "depthwise": (6, 1, 3, 3), "ConvTranspose": (6, 2, 1, 1)}[kind]
        y = net.op("ConvTranspose" if kind == "ConvTranspose" else "Conv", x, net.normal(*shape), group=group)
    net.output(y)
    model = prepared(net)
    layer = layers_of(model.graph)[0][0]
    random = np.random.default_rng(0)
    samples = random.normal(0.7, 1, (50, *(6 if d is None else d for d in [6, 9, 9][: layer.x.shape.rank() - 1])))
    samples = samples.astype(np.float32)
    difference = random.normal(size=layer.array.shape)
    before = next(iter(run_ort(ir.to_proto(model), {"x": samples}).values()))
    axes = tuple(i for i in range(samples.ndim) if i != 1)
    predicted = mean_shift(layer, difference, samples.mean(axis=axes, dtype=np.float64))
    layer.weight.const_value = ir.tensor((layer.array + difference).astype(np.float32), name=layer.weight.name)
    after = next(iter(run_ort(ir.to_proto(model), {"x": samples}).values()))
    measured = (after.astype(np.float64) - before).mean(axis=tuple(i for i in range(after.ndim) if i != 1))
    # A window sees a little less of the border than of the middle.
    np.testing.assert_allclose(predicted, measured, atol=0.35 if "onv" in kind or kind == "depthwise" else 1e-4)


def test_corrected_biases_bring_the_mean_back() -> None:
    """A classifier behind ReLUs: rounding errors of weights have a mean, which biases take out."""
    net = Net()
    x = net.input("x", ["N", 64])
    h = net.op("Relu", net.op("Gemm", x, net.normal(64, 64, scale=0.15), net.const(np.ones(64))))
    weight = net.random.standard_normal((64, 8)) * 0.05
    weight[0] = 4.0  # one large weight makes the steps of all others coarse
    net.output(net.op("Gemm", h, net.const(weight), net.normal(8)))
    model = prepared(net)
    samples = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
    statistics = _statistics(model, samples)
    plain = draft_of(model, statistics, INT8, "minmax")
    drafts = (plain, replace(plain, corrected=True))
    wanted = next(iter(HostRuns(model).run({"x": samples}).values()))
    means = [
        np.abs((next(iter(HostRuns(d.written(())).run({"x": samples}).values())) - wanted).mean(axis=0)).max()
        for d in drafts
    ]
    assert means[1] < 0.35 * means[0]


def test_batches_in_memory_are_data() -> None:
    model = prepared(residual_net(1))
    batches = list(data_for(model, pictures(10)).batches())
    data = kept(batches, "the sample")
    assert data.samples == 10 and len(list(data.batches())) == len(list(data.batches())) == 2
