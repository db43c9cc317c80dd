"""Batch normalisation and channel arithmetic: into the weights where they may, as Mul and Add elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.batch_norm import fold_batch_norm


def _norm(net: Net, x: str, channels: int, **attributes: float) -> str:
    scale, bias, mean = (net.normal(channels) for _ in range(3))
    variance = net.const(net.random.uniform(0.5, 2.0, channels))
    return str(net.op("BatchNormalization", x, scale, bias, mean, variance, **attributes))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_a_convolution_takes_it(bias: bool, group: int) -> None:
    net = Net()
    x = net.input("x", ["N", 4, 6, 6])
    weights = [net.normal(8, 4 // group, 3, 3), *([net.normal(8)] if bias else [])]
    net.output(net.op("Relu", _norm(net, net.op("Conv", x, *weights, group=group), 8, epsilon=1e-3)))
    model, notes = rewritten(net, fold_batch_norm)
    assert kinds(model) == {"Conv": 1, "Relu": 1}
    assert notes == ["batch normalisations: 1 folded into weights, 0 as arithmetic"]


@pytest.mark.parametrize("group", [1, 2])
def test_a_transposed_convolution_takes_it(group: int) -> None:
    net = Net()
    x = net.input("x", ["N", 4, 5, 5])
    y = net.op("ConvTranspose", x, net.normal(4, 3, 2, 2), net.normal(3 * group), group=group, strides=[2, 2])
    net.output(_norm(net, y, 3 * group))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"ConvTranspose": 1}


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_takes_it(transposed: int) -> None:
    net = Net()
    x = net.input("x", ["N", 5])
    weight = net.normal(3, 5) if transposed else net.normal(5, 3)
    y = net.op("Gemm", x, weight, net.normal(1, 3), alpha=0.5, beta=2.0, transB=transposed)
    net.output(_norm(net, y, 3))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"Gemm": 1}


def test_a_shared_result_keeps_its_convolution() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", ["N", 2, 4, 4]), net.normal(3, 2, 1, 1))
    net.output(net.op("Sub", _norm(net, y, 3), y))
    model, notes = rewritten(net, fold_batch_norm)
    assert kinds(model) == {"Conv": 1, "Mul": 1, "Add": 1, "Sub": 1}
    assert notes == ["batch normalisations: 0 folded into weights, 1 as arithmetic"]


def test_a_graph_output_before_it_stays() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", ["N", 2, 4, 4]), net.normal(3, 2, 1, 1))
    net.output(y, _norm(net, y, 3))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"Conv": 1, "Mul": 1, "Add": 1}


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_alone_it_is_arithmetic(rank: int) -> None:
    net = Net()
    net.output(_norm(net, net.input("x", ["N", 3, 4, 5, 2][:rank]), 3))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"Mul": 1, "Add": 1}


def test_computed_statistics_are_arithmetic_too() -> None:
    net = Net()
    x, scale, bias, mean = (net.input(n, s) for n, s in (("x", ["N", 3, 4]), ("s", [3]), ("b", [3]), ("m", [3])))
    variance = net.op("Abs", net.input("v", [3]))
    net.output(net.op("BatchNormalization", x, scale, bias, mean, variance))
    assert "BatchNormalization" not in kinds(rewritten(net, fold_batch_norm)[0])


def test_training_mode_is_refused() -> None:
    net = Net()
    x = net.input("x", ["N", 3, 4])
    parameters = [net.normal(3), net.normal(3), net.normal(3), net.const(np.ones(3))]
    y = net.op("BatchNormalization", x, *parameters, outputs=3, training_mode=1)
    net.output(y[0])
    model = net.model()
    assert fold_batch_norm(model) == ["n0: BatchNormalization in training mode"]
    assert kinds(model) == {"BatchNormalization": 1}


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), (1,), ()])
def test_channel_arithmetic_after_a_convolution(shape: tuple[int, ...]) -> None:
    net = Net()
    y = net.op("Conv", net.input("x", ["N", 2, 4, 4]), net.normal(3, 2, 3, 3), net.normal(3))
    y = net.op("Mul", net.normal(*shape), y)
    y = net.op("Sub", net.op("Div", y, net.const(np.full(shape, 1.5))), net.normal(*shape))
    net.output(net.op("Sub", net.normal(*shape), net.op("Add", y, net.normal(*shape))))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"Conv": 1}


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (4,), (2, 3, 1, 1), (1, 1, 3, 1, 1)])
def test_other_arithmetic_stays(shape: tuple[int, ...]) -> None:
    net = Net()
    y = net.op("Conv", net.input("x", ["N", 2, 4, 4]), net.normal(3, 2, 1, 1))
    if shape == (1, 1, 3, 1, 1):
        net.inputs.clear()
        net.input("x", [1, 2, 4, 4])
    net.output(net.op("Mul", y, net.normal(*shape)))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"Conv": 1, "Mul": 1}


def test_a_matrix_product_takes_a_scale_but_no_shift() -> None:
    net = Net()
    y = net.op("MatMul", net.input("x", ["N", 7, 5]), net.normal(5, 3))
    net.output(net.op("Add", net.op("Mul", y, net.const(0.25)), net.normal(3)))
    assert kinds(rewritten(net, fold_batch_norm)[0]) == {"MatMul": 1, "Add": 1}


def test_weights_that_would_overflow_stay() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", ["N", 2, 4, 4]), net.const(np.full((3, 2, 1, 1), 1e30)))
    net.output(net.op("Mul", y, net.const(1e20)))
    model = net.model()
    fold_batch_norm(model)
    assert kinds(model) == {"Conv": 1, "Mul": 1}
