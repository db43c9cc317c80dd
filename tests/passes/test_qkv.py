"""Sibling products become one, unless arithmetic of their own would be lost."""

from __future__ import annotations

import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.qkv import join_products


def _view(net: Net, y: str) -> str:
    return str(net.op("Transpose", y))


def _linear(net: Net, x: str, width: int, bias: bool = True) -> str:
    y = net.op("MatMul", x, net.normal(8, width))
    return str(net.op("Add", net.normal(width), y) if bias else y)


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_queries_keys_and_values(biases: tuple[bool, ...]) -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    net.output(*(_view(net, _linear(net, x, 4 + 2 * i, bias)) for i, bias in enumerate(biases)))
    model, notes = rewritten(net, join_products)
    expected = {"MatMul": 1, "Split": 1, "Transpose": 3} | ({"Add": 1} if any(biases) else {})
    assert kinds(model) == expected
    assert notes == ["3 products joined with others that read the same value"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemms(transposed: int) -> None:
    net = Net()
    x = net.input("x", ["N", 8])
    weights = [net.normal(4, 8) if transposed else net.normal(8, 4) for _ in range(2)]
    net.output(*(_view(net, net.op("Gemm", x, w, net.normal(4), transB=transposed)) for w in weights))
    assert kinds(rewritten(net, join_products)[0]) == {"MatMul": 1, "Add": 1, "Split": 1, "Transpose": 2}


def test_a_gate_keeps_its_activation_and_its_product() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    gate, up = _linear(net, x, 4), _linear(net, x, 4)
    net.output(net.op("Mul", net.op("Sigmoid", gate), up))
    model, notes = rewritten(net, join_products)
    assert kinds(model)["MatMul"] == 2 and "arithmetic behind it" in notes[0]


def test_arithmetic_that_is_alike_is_done_for_all() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    parts = [net.op("Gelu", _linear(net, x, width)) for width in (4, 8)]
    other = net.op("Relu", _linear(net, x, 4))
    net.output(
        *(net.op("MatMul", part, net.normal(width, 3)) for part, width in zip((*parts, other), (4, 8, 4), strict=True))
    )
    model, notes = rewritten(net, join_products)
    assert kinds(model) == {"MatMul": 5, "Add": 2, "Gelu": 1, "Relu": 1, "Split": 1}
    assert notes == ["2 products joined with others that read the same value"]


def test_parts_are_joined_in_their_turn() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    first, second = (net.op("Relu", _linear(net, x, 8)) for _ in range(2))
    net.output(*(_view(net, _linear(net, part, 4)) for part in (first, second, second)))
    assert kinds(rewritten(net, join_products)[0]) == {"MatMul": 3, "Add": 3, "Relu": 1, "Split": 2, "Transpose": 3}


def test_arithmetic_whose_result_others_want_stays() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    parts = [net.op("Relu", _linear(net, x, 4)) for _ in range(2)]
    net.output(net.op("MatMul", parts[0], net.normal(4, 3)), net.op("Concat", *parts, axis=2))
    model, notes = rewritten(net, join_products)
    assert kinds(model)["Relu"] == 2 and "arithmetic behind it" in notes[0]


def test_other_operands_stay_apart() -> None:
    net = Net()
    x, z = net.input("x", ["N", 5, 8]), net.input("z", ["N", 8, 5])
    scaled = net.op("Gemm", net.input("y", ["N", 8]), net.normal(8, 4), alpha=0.5)
    net.output(_view(net, _linear(net, x, 4)), _view(net, net.op("MatMul", x, z)), scaled)
    model, notes = rewritten(net, join_products)
    assert kinds(model)["MatMul"] == 2 and notes == []


def test_graph_outputs_stay_apart() -> None:
    net = Net()
    x = net.input("x", ["N", 5, 8])
    net.output(_linear(net, x, 4), _linear(net, x, 4))
    assert kinds(rewritten(net, join_products)[0])["MatMul"] == 2
