"""Sums of two quantized pointwise convolutions: when they become one Region, and that only a rounding is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from support.plans import plan_engine
from support.quantized_models import INT8_ZERO, QuantizedNet

from ingot.errors import YES, Answer, No
from ingot.graph.lowered import Lowered
from ingot.graph.reference import run_model
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

from .test_quantized import lowered_of


def blocks(
    *,
    rounded: bool = True,
    stride: int = 2,
    taps: int = 1,
    output: bool = False,
    zero: Any = INT8_ZERO,
    small: float = 1.0,
) -> onnx.ModelProto:
    """A residual block whose other branch is a convolution, ``rounded``: quantized by itself."""
    net = QuantizedNet(zero)
    x = net.quantized("x", 0.03)
    a = net.quantized(net.node("Relu", net.conv(x, (32, 64, 3, 3), strides=[stride] * 2)), 0.02)
    c = branch = net.conv(x, (96, 64, taps, taps), strides=[stride] * 2)
    if small != 1.0:
        c = branch = net.node(
            "Conv", x, net.weight(small * net.random.standard_normal((96, 64, 1, 1)), 0), strides=[stride] * 2
        )
    if rounded:
        c = net.quantized(c, 0.0217)
    y = net.quantized(net.node("Relu", net.node("Add", net.conv(a, (96, 32, 1, 1)), c)), 0.03)
    results = [net.node("GlobalAveragePool", y), *([net.node("Identity", branch)] if output else [])]
    return net.model({"x": [2, 64, 9, 10]}, *results)


def accepted(region: Region) -> Answer:
    return first_acceptance(region, Target(90), TACTICS)


def kinds(lowered: Lowered) -> list[Kind]:
    return [region.kind for region in lowered.regions]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("fp16", [False, True])
def test_only_the_rounding_of_the_branch_goes(stride: int, fp16: bool) -> None:
    lowered = lowered_of(blocks(stride=stride), accepts=accepted, fp16=fp16)
    assert kinds(lowered).count(Kind.SUM) == 1 and kinds(lowered).count(Kind.CONV) == 1
    (region,) = [region for region in lowered.regions if region.kind is Kind.SUM]
    ops = [op.op for op in region.ops]
    assert ops.count("ConvInteger") == 2 and "DequantizeLinear" not in ops and ops[-1] == "QuantizeLinear"
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 64, 9, 10)).astype(np.float32)}
    made = Simulator(plan_engine(lowered)).run(feeds)
    model = blocks(stride=stride, rounded=False)
    for name, want in zip(made, run_model(model, feeds, [model.graph.output[0].name]), strict=True):
        np.testing.assert_allclose(made[name], want, atol=5e-3 if fp16 else 1e-4)


@pytest.mark.parametrize(
    "model",
    [
        blocks(taps=3),
        blocks(output=True),
        blocks(zero=np.int8(3)),
        blocks(zero=np.uint8(0)),
        blocks(small=1e-9),
    ],
    ids=["a window", "read elsewhere", "zero points", "no numbers below zero", "sums beyond int32"],
)
def test_what_stays_apart(model: onnx.ModelProto) -> None:
    assert Kind.SUM not in kinds(lowered_of(model, accepts=accepted))


def test_without_a_kernel_the_model_is_as_it_was() -> None:
    def none(region: Region) -> Answer:
        return No("no sums") if region.kind is Kind.SUM else YES

    lowered = lowered_of(blocks(), accepts=none)
    assert kinds(lowered).count(Kind.CONV) == 3
    assert any(op.op == "DequantizeLinear" for region in lowered.regions for op in region.ops)
    old = first_acceptance(lowered_sum(), Target(80), TACTICS)
    assert not old


def lowered_sum() -> Region:
    (region,) = [r for r in lowered_of(blocks(), accepts=accepted).regions if r.kind is Kind.SUM]
    return region
