"""Written-out activations, in every spelling that exporters use."""

from __future__ import annotations

import math

import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.gelu import fuse_activations


def _x(net: Net) -> str:
    return net.input("x", ["N", 3, 8])


def _gelu(net: Net, x: str, style: int) -> str:
    half, one = net.const(0.5), net.const(1.0)
    if style == 1:
        erf = net.op("Erf", net.op("Mul", x, net.const(math.sqrt(0.5))))
    else:
        erf = net.op("Erf", net.op("Div", x, net.const(math.sqrt(2.0))))
    gate = net.op("Add", one, erf) if style else net.op("Add", erf, one)
    if style == 0:
        return str(net.op("Mul", net.op("Mul", x, gate), half))
    if style == 1:
        return str(net.op("Mul", net.op("Mul", half, x), gate))
    return str(net.op("Mul", x, net.op("Mul", gate, half)))


@pytest.mark.parametrize("style", [0, 1, 2])
def test_exact_gelu(style: int) -> None:
    net = Net()
    net.output(_gelu(net, _x(net), style))
    model, notes = rewritten(net, fuse_activations)
    assert kinds(model) == {"Gelu": 1} and notes == ["1 Gelu recognised"]


@pytest.mark.parametrize("style", ["pow", "cube", "factored"])
def test_gelu_by_tanh(style: str) -> None:
    net = Net()
    x, b, k = _x(net), net.const(0.044715), net.const(math.sqrt(2 / math.pi))
    if style == "pow":
        inner = net.op("Mul", net.op("Add", x, net.op("Mul", net.op("Pow", x, net.const(3.0)), b)), k)
    elif style == "cube":
        cube = net.op("Mul", x, net.op("Mul", x, x))
        inner = net.op("Mul", k, net.op("Add", x, net.op("Mul", b, cube)))
    else:
        square = net.op("Mul", net.op("Mul", b, x), x)
        inner = net.op("Mul", net.op("Mul", x, k), net.op("Add", net.const(1.0), square))
    y = net.op("Mul", net.op("Add", net.op("Tanh", inner), net.const(1.0)), net.op("Mul", x, net.const(0.5)))
    net.output(y)
    model, _ = rewritten(net, fuse_activations)
    assert kinds(model) == {"Gelu": 1}
    assert next(iter(model.graph)).attributes.get_string("approximate", "") == "tanh"


@pytest.mark.parametrize("style", ["clip", "hard sigmoid", "relu6", "inner"])
def test_hard_swish(style: str) -> None:
    net = Net()
    x = _x(net)
    if style == "hard sigmoid":
        y = net.op("Mul", x, net.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    else:
        moved = net.op("Add", x, net.const(3.0))
        if style == "relu6":
            gate = net.op("Min", net.op("Relu", moved), net.const(6.0))
        else:
            gate = net.op("Clip", moved, net.const(0.0), net.const(6.0))
        if style == "inner":
            y = net.op("Mul", x, net.op("Div", gate, net.const(6.0)))
        else:
            y = net.op("Div", net.op("Mul", x, gate), net.const(6.0))
    net.output(y)
    assert kinds(rewritten(net, fuse_activations)[0]) == {"HardSwish": 1}


def test_hard_sigmoid_softplus_and_mish() -> None:
    net = Net()
    x = _x(net)
    gate = net.op(
        "Clip", net.op("Add", net.op("Mul", x, net.const(0.2)), net.const(0.5)), net.const(0.0), net.const(1.0)
    )
    softplus = net.op("Log", net.op("Add", net.op("Exp", x), net.const(1.0)))
    net.output(gate, net.op("Abs", softplus), net.op("Mul", x, net.op("Tanh", softplus)))
    assert kinds(rewritten(net, fuse_activations)[0]) == {"HardSigmoid": 1, "Softplus": 1, "Abs": 1, "Mish": 1}


@pytest.mark.parametrize("operand", ["other", "constants"])
def test_near_matches_stay(operand: str) -> None:
    net = Net()
    x = _x(net)
    if operand == "other":
        z = net.input("z", ["N", 3, 8])
        gate = net.op("Add", net.op("Erf", net.op("Mul", x, net.const(math.sqrt(0.5)))), net.const(1.0))
        net.output(net.op("Mul", net.op("Mul", z, gate), net.const(0.5)))
    else:
        gate = net.op("Add", net.op("Erf", net.op("Mul", x, net.const(0.7))), net.const(1.0))
        net.output(net.op("Mul", net.op("Mul", x, gate), net.const(0.5)))
    model, notes = rewritten(net, fuse_activations)
    assert "Gelu" not in kinds(model) and notes == []


def test_an_activation_behind_arithmetic_of_other_values() -> None:
    net = Net()
    y = net.op("Add", net.op("MatMul", _x(net), net.normal(8, 4)), net.normal(4))
    net.output(net.op("Add", _gelu(net, y, 0), net.normal(4)))
    assert kinds(rewritten(net, fuse_activations)[0]) == {"MatMul": 1, "Add": 2, "Gelu": 1}
