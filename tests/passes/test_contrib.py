"""Ops of ONNX Runtime's optimiser: their standard forms give what ONNX Runtime computes for them."""

from __future__ import annotations

import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.contrib import standardise

MS = "com.microsoft"


def _x(net: Net, *shape: int) -> str:
    return net.input("x", ["N", *(shape or (3, 8))])


@pytest.mark.parametrize("op", ["Gelu", "QuickGelu", "FastGelu", "BiasGelu", "FastGelu with bias"])
def test_gelu(op: str) -> None:
    net = Net()
    bias = [net.normal(8)] if op in ("BiasGelu", "FastGelu with bias") else []
    net.output(net.op(op.split()[0], _x(net), *bias, domain=MS))
    found = kinds(rewritten(net, standardise, rtol=1e-4)[0])
    assert all("." not in name for name in found)


@pytest.mark.parametrize("simple", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(simple: bool, bias: bool) -> None:
    net = Net()
    inputs = [_x(net), net.input("skip", ["N", 3, 8]), net.normal(8)]
    if not simple:
        inputs.append(net.normal(8))
    if bias:
        inputs.append(net.normal(8))
    op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
    y, _, _, total = net.op(op, *inputs, domain=MS, outputs=4, epsilon=1e-3)
    net.output(y, total)
    found = kinds(rewritten(net, standardise)[0])
    assert found["RMSNormalization" if simple else "LayerNormalization"] == 1 and op not in found


def test_simplified_layer_normalization_of_the_default_domain() -> None:
    net = Net()
    net.output(net.op("SimplifiedLayerNormalization", _x(net), net.normal(8), axis=-1, epsilon=1e-3))
    model = net.model()
    assert standardise(model) == ["1 SimplifiedLayerNormalization as standard ops"]
    assert kinds(model) == {"RMSNormalization": 1}


@pytest.mark.parametrize("attributes", [{}, {"transA": 1}, {"transB": 1, "alpha": 0.25}])
def test_fused_matmul(attributes: dict[str, float]) -> None:
    net = Net()
    x = _x(net, 5, 8)
    w = net.normal(3, 8) if attributes.get("transB") else net.normal(5 if attributes.get("transA") else 8, 3)
    net.output(net.op("FusedMatMul", x, w, domain=MS, **attributes))
    found = kinds(rewritten(net, standardise)[0])
    assert found["MatMul"] == 1 and f"{MS}.FusedMatMul" not in found


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Clip", "HardSigmoid"])
def test_fused_conv(activation: str) -> None:
    net = Net()
    params = {"LeakyRelu": [0.2], "Clip": [-0.5, 0.5], "HardSigmoid": [0.3, 0.4]}.get(activation)
    extra = {} if params is None else {"activation_params": params}
    y = net.op(
        "FusedConv",
        _x(net, 3, 6, 6),
        net.normal(4, 3, 3, 3),
        net.normal(4),
        domain=MS,
        activation=activation,
        pads=[1, 1, 1, 1],
        **extra,
    )
    net.output(y)
    assert kinds(rewritten(net, standardise)[0]) == {"Conv": 1, activation: 1}


def test_unknown_activations_stay() -> None:
    net = Net()
    net.output(net.op("FusedConv", _x(net, 3, 6, 6), net.normal(4, 3, 3, 3), domain=MS, activation="Softsign"))
    model = net.model()
    assert standardise(model) == ["FusedConv stays: n0: activation Softsign is not known"]
    assert kinds(model) == {f"{MS}.FusedConv": 1}
