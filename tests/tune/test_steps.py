"""Quantized outputs in the numeric gate: either neighbour of a half, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from support.quantized import quantized_conv
from support.regions import build_region

from ingot.errors import No
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import spec
from ingot.tune.gate import Fetch, OutputGate
from ingot.tune.oracle import expected
from ingot.tune.steps import Steps, steps_of

SHAPE = (4, 64)


def sum_of_bytes(*, again: bool) -> Region:
    """Two tensors of bytes with scales 3 : 2, added and quantized in steps of 4; ``again``: dequantized in the end."""
    values = {"a": spec("uint8", SHAPE), "b": spec("uint8", SHAPE)}
    inner = {name: spec("float32", SHAPE) for name in ("x", "y", "sum")} | {"q": spec("int8", SHAPE)}
    ops = [
        BodyOp("DequantizeLinear", ("a", "s3"), ("x",)), BodyOp("DequantizeLinear", ("b", "s2"), ("y",)),
        BodyOp("Add", ("x", "y"), ("sum",)), BodyOp("QuantizeLinear", ("sum", "s4", "z"), ("q",)),
    ]  # fmt: skip
    if again:
        inner["real"] = spec("float32", SHAPE)
        ops.append(BodyOp("DequantizeLinear", ("q", "s4", "z"), ("real",)))
    literals = {"s3": 0.03, "s2": 0.02, "s4": 0.04, "z": -100}
    return build_region(Kind.MAP, values, ops, inner, ("real" if again else "q",), literals)


def fetch_from(values: np.ndarray) -> Fetch:
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    return lambda offset, size: raw[offset : offset + size].copy()


@pytest.mark.parametrize("again", [False, True])
def test_either_neighbour_of_a_half_is_right(again: bool) -> None:
    region = sum_of_bytes(again=again)
    truth = expected(region, {}, tf32=False)
    a, b = (array.reshape(SHAPE).astype(np.float64) for array in truth.inputs)
    exact = (3 * a + 2 * b) / 4 - 100
    halves = exact % 1 == 0.5
    assert np.mean(halves & (np.abs(exact) < 120)) > 0.1

    def made(whole: np.ndarray) -> Fetch:
        whole = np.clip(whole, -128, 127)
        return fetch_from(((whole + 100) * 0.04).astype(np.float32) if again else whole.astype(np.int8))

    (gate,) = truth.gates
    for right in (np.ceil(exact - 0.5), np.floor(exact + 0.5), np.rint(exact)):
        assert gate.check(made(right), 0xFF)
    for wrong in (np.floor(exact), np.rint(exact) + (np.arange(64) == 5), np.rint(exact + 0.25)):
        answer = gate.check(made(wrong), 0xFF)
        assert isinstance(answer, No) and "nearest step" in answer.reason


def test_dequantized_results_are_whole_steps() -> None:
    (gate,) = expected(sum_of_bytes(again=True), {}, tf32=False).gates
    real = (gate.reference + 100) * 0.04  # not rounded at all
    assert not gate.check(fetch_from(real.astype(np.float32)), 0xFF)


def test_variants_may_differ_by_a_step() -> None:
    steps = Steps("sum", 0.5, 3, (-128, 127), real=False)
    one, other = np.array([1, 2, 3], np.int8), np.array([1, 3, 2], np.int8)
    assert not steps.apart(one, other).any() and steps.apart(one, other + np.int8(1)).sum() == 1


def test_what_is_quantized_is_found() -> None:
    region = quantized_conv((1, 32, 6, 6), (32, 32, 1, 1), out="uint8")
    found = steps_of(region, region.outputs[0])
    assert found is not None and (found.scale, found.limits, found.real) == (0.5, (0, 255), False)
    (gate,) = expected(region, {}, tf32=False).gates
    assert isinstance(gate, OutputGate) and gate.reference.dtype == np.float64
    assert gate.check(fetch_from(np.rint(gate.reference).astype(np.uint8).transpose(0, 2, 3, 1)), 0xFF)
    floats = quantized_conv((1, 32, 6, 6), (32, 32, 1, 1), out="float16")
    assert steps_of(floats, floats.outputs[0]) is None
