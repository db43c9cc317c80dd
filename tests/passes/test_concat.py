"""Concatenations opened for the kernels that make their parts, and left alone where that gains nothing."""

from __future__ import annotations

import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.concat import open_concats


def _convs(net: Net, *channels: int) -> list[str]:
    x = net.input("x", ["N", 3, 4, 4])
    return [str(net.op("Conv", x, net.normal(c, 3, 1, 1))) for c in channels]


def test_arithmetic_is_done_on_the_parts() -> None:
    net = Net()
    y = net.op("Concat", *_convs(net, 4, 5), axis=1)
    y = net.op("Sigmoid", net.op("Mul", net.op("Add", y, net.normal(9, 1, 1)), net.const(2.0)))
    net.output(net.op("Sub", net.normal(1, 1, 1, 4), y))
    model, notes = rewritten(net, open_concats)
    assert kinds(model) == {"Conv": 2, "Add": 2, "Mul": 2, "Sigmoid": 2, "Sub": 2, "Concat": 1}
    assert notes == ["arithmetic on 4 concats done on their parts"]


@pytest.mark.parametrize("case", ["input", "shared part", "shared whole", "computed"])
def test_other_arithmetic_stays(case: str) -> None:
    net = Net()
    first, second = _convs(net, 3, 3)
    parts = [first, "x" if case == "input" else second]
    y = net.op("Concat", *parts, axis=1)
    z = net.op("Mul", y, net.input("z", ["N", 6, 1, 1]) if case == "computed" else net.const(2.0))
    net.output(z, *([first] if case == "shared part" else [net.op("Neg", y)] if case == "shared whole" else []))
    model, notes = rewritten(net, open_concats)
    assert kinds(model)["Mul"] == 1 and notes == []


def test_a_split_gives_back_the_parts() -> None:
    net = Net()
    y = net.op("Concat", *_convs(net, 2, 3, 4), axis=1)
    first, second = net.op("Split", y, net.const([5, 4], "int64"), axis=1, outputs=2)
    net.output(net.op("Neg", first), net.op("Abs", second))
    assert kinds(rewritten(net, open_concats)[0]) == {"Conv": 3, "Concat": 1, "Neg": 2, "Abs": 1}


def test_a_detector_head_is_taken_apart() -> None:
    """Boxes and classes of two scales: put together by channel, then by place, then split by channel."""
    net = Net()
    scales = [_convs(net, 4, 3)]
    net.input("z", ["N", 3, 2, 2])
    scales.append([str(net.op("Conv", "z", net.normal(c, 3, 1, 1))) for c in (4, 3)])
    flat = [net.op("Reshape", net.op("Concat", *s, axis=1), net.const([0, 7, -1], "int64")) for s in scales]
    whole = net.op("Concat", *flat, axis=2)
    boxes, classes = net.op("Split", whole, net.const([4, 3], "int64"), axis=1, outputs=2)
    net.output(net.op("Neg", boxes), net.op("Sigmoid", classes))
    found = kinds(rewritten(net, open_concats)[0])
    assert found["Split"] == 0 and found["Concat"] == 2 and found["Sigmoid"] == found["Neg"] == 2


@pytest.mark.parametrize("case", ["sizes", "shared", "axis"])
def test_other_splits_stay(case: str) -> None:
    net = Net()
    y = net.op("Concat", *_convs(net, 2, 4), axis=1)
    sizes, axis = ([1, 5], 1) if case == "sizes" else ([1, 3], 2) if case == "axis" else ([2, 4], 1)
    first, second = net.op("Split", y, net.const(sizes, "int64"), axis=axis, outputs=2)
    net.output(net.op("Neg", first), net.op("Abs", second), *([net.op("Exp", y)] if case == "shared" else []))
    assert kinds(rewritten(net, open_concats)[0])["Split"] == 1


def test_a_repeated_token_takes_its_position_now() -> None:
    net = Net()
    x = net.input("x", ["N", 8, 3])
    shape = net.op("Concat", net.op("Shape", x, start=0, end=1), net.const([1, 5], "int64"), axis=0)
    token = net.op("Expand", net.normal(1, 1, 5), shape)
    y = net.op("Concat", token, net.op("MatMul", x, net.normal(3, 5)), axis=1)
    net.output(net.op("Add", net.normal(1, 9, 5), y))
    found = kinds(rewritten(net, open_concats)[0])
    assert found["Add"] == 1 and found["Expand"] == 1
