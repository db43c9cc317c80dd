"""Written-out normalisations in the spellings of several exporters, and what only looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.fold import fold
from ingot.passes.normalize import fuse_normalisations


def _input(net: Net) -> str:
    return net.input("x", ["N", 5, 8])


def _mean(net: Net, x: str, style: str) -> str:
    if style == "sum":
        return str(net.op("Div", net.op("ReduceSum", x, net.const([-1], "int64")), net.const(8.0)))
    return str(net.op("ReduceMean", x, net.const([2 if style == "positive" else -1], "int64")))


def _square(net: Net, x: str, style: str) -> str:
    return str(net.op("Mul", x, x) if style == "mul" else net.op("Pow", x, net.const(2.0)))


def _standard(net: Net, x: str, style: str = "") -> str:
    """(x - mean) / sqrt(var + eps)."""
    centred = net.op("Sub", x, _mean(net, x, style))
    variance = _mean(net, _square(net, centred, style), style)
    root = net.op("Sqrt", net.op("Add", net.const(1e-3), variance))
    if style == "reciprocal":
        return str(net.op("Mul", net.op("Reciprocal", root), centred))
    return str(net.op("Div", centred, root))


@pytest.mark.parametrize("style", ["", "mul", "sum", "positive", "reciprocal"])
def test_layer_normalisation(style: str) -> None:
    net = Net()
    y = net.op("Mul", net.normal(8), _standard(net, _input(net), style))
    net.output(net.op("Add", y, net.normal(8)))
    model, notes = rewritten(net, fuse_normalisations)
    assert kinds(model) == {"LayerNormalization": 1}
    assert notes == ["1 LayerNormalization recognised"]
    node = next(iter(model.graph))
    assert node.attributes.get_float("epsilon", 0.0) == pytest.approx(1e-3)


@pytest.mark.parametrize("after", ["", "Mul", "Add"])
def test_with_scale_or_shift_only(after: str) -> None:
    net = Net()
    y = _standard(net, _input(net))
    net.output(net.op(after, y, net.normal(8)) if after else y)
    assert kinds(rewritten(net, fuse_normalisations)[0]) == {"LayerNormalization": 1}


def test_two_trailing_axes() -> None:
    net = Net()
    x, axes = _input(net), net.const([1, 2], "int64")
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes)
    y = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-5))))
    net.output(net.op("Mul", y, net.normal(5, 8)))
    assert kinds(rewritten(net, fuse_normalisations)[0]) == {"LayerNormalization": 1}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_scaled_reciprocal_of_tensorflow(rank: int) -> None:
    net = Net()
    x = _input(net)
    mean = _mean(net, x, "")
    centred = net.op("Sub", x, mean)
    variance = _mean(net, net.op("Mul", centred, centred), "")
    inverse = net.op("Reciprocal", net.op("Sqrt", net.op("Add", variance, net.const(1e-3))))
    shape = (*[1] * (rank - 1), 8)
    factor = net.op("Mul", inverse, net.normal(*shape))
    shift = net.op("Sub", net.normal(8), net.op("Mul", mean, factor))
    net.output(net.op("Add", net.op("Mul", x, factor), shift))
    assert kinds(rewritten(net, fuse_normalisations)[0]) == {"LayerNormalization": 1}


def test_the_difference_of_moments_of_flax() -> None:
    net = Net()
    x = _input(net)
    mean = _mean(net, x, "sum")
    variance = net.op("Sub", _mean(net, net.op("Mul", x, x), "sum"), net.op("Mul", mean, mean))
    root = net.op("Sqrt", net.op("Add", net.op("Max", net.const(0.0), variance), net.const(1e-3)))
    y = net.op("Mul", net.op("Sub", x, mean), net.op("Mul", net.op("Reciprocal", root), net.normal(1, 8)))
    net.output(net.op("Add", y, net.normal(1, 8)))
    assert kinds(rewritten(net, fuse_normalisations, rtol=1e-4)[0]) == {"LayerNormalization": 1}


@pytest.mark.parametrize("style", ["div", "reciprocal", "one over", "power"])
@pytest.mark.parametrize("scaled", [False, True])
def test_root_mean_square(style: str, scaled: bool) -> None:
    net = Net()
    x = _input(net)
    moment = net.op("Add", _mean(net, net.op("Pow", x, net.const(2.0)), ""), net.const(1e-6))
    if style == "power":
        y = net.op("Mul", x, net.op("Pow", moment, net.const(-0.5)))
    elif style == "div":
        y = net.op("Div", x, net.op("Sqrt", moment))
    elif style == "reciprocal":
        y = net.op("Mul", x, net.op("Reciprocal", net.op("Sqrt", moment)))
    else:
        y = net.op("Mul", x, net.op("Div", net.const(1.0), net.op("Sqrt", moment)))
    net.output(net.op("Mul", net.normal(8), y) if scaled else y)
    model, notes = rewritten(net, fuse_normalisations)
    assert kinds(model) == {"RMSNormalization": 1}
    assert notes == ["1 RMSNormalization recognised"] and model.opset_imports[""] == 23


def test_other_axes_stay() -> None:
    net = Net()
    x, axes = _input(net), net.const([1], "int64")
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes)
    net.output(net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))))
    assert "LayerNormalization" not in kinds(rewritten(net, fuse_normalisations)[0])


def test_moments_of_another_value_stay() -> None:
    net = Net()
    x, z = _input(net), net.input("z", ["N", 5, 8])
    root = net.op("Sqrt", net.op("Add", _mean(net, net.op("Mul", z, z), ""), net.const(1e-5)))
    net.output(net.op("Div", x, root))
    model, notes = rewritten(net, fuse_normalisations)
    assert "RMSNormalization" not in kinds(model)
    assert len(notes) == 1 and "does not divide what the mean is of" in notes[0]


def test_a_scale_along_another_axis_stays_outside() -> None:
    net = Net()
    y = _standard(net, _input(net))
    net.output(net.op("Mul", y, net.normal(5, 1)))
    assert kinds(rewritten(net, fuse_normalisations)[0]) == {"LayerNormalization": 1, "Mul": 1}


def test_a_sum_over_another_number_is_no_mean() -> None:
    net = Net()
    x = _input(net)
    mean = net.op("Div", net.op("ReduceSum", net.op("Mul", x, x), net.const([-1], "int64")), net.const(7.0))
    net.output(net.op("Div", x, net.op("Sqrt", mean)))
    assert "RMSNormalization" not in kinds(rewritten(net, fuse_normalisations)[0])


def test_repeated_subtractions_count_as_one() -> None:
    net = Net()
    x = _input(net)
    mean = _mean(net, x, "")
    first, second = net.op("Sub", x, mean), net.op("Sub", x, mean)
    variance = _mean(net, net.op("Pow", first, net.const(2.0)), "")
    net.output(net.op("Div", second, net.op("Sqrt", net.op("Add", variance, net.const(np.float32(1e-5))))))
    assert kinds(rewritten(net, lambda m: [*fold(m), *fuse_normalisations(m)])[0]) == {"LayerNormalization": 1}
