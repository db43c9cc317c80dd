"""Explicitly quantized models: which kernels they become, and that they compute what ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.plans import plan_engine
from support.quantized_models import FLOAT8, QuantizedNet, encoder, mobile_block, residual_block

from ingot.errors import YES, Answer, No
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.reference import run_model
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

ZEROS = [np.int8(0), np.int8(-5), np.uint8(0), np.uint8(117)]


def lowered_of(
    model: onnx.ModelProto,
    ranges: tuple[SymbolRange, ...] = (),
    accepts: Callable[[Region], Answer] = lambda region: YES,
    *,
    fp16: bool = False,
) -> Lowered:
    found = lower(canonicalise(ir.from_proto(model), fp16=fp16).model, ranges, accepts)
    assert isinstance(found, Lowered), str(found)
    assert not found.reasons
    return found


def unoptimised(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's results for the model as it is written: its optimiser quantizes float biases."""
    names = [output.name for output in model.graph.output]
    return dict(zip(names, run_model(model, feeds, names), strict=True))


def accepted(region: Region) -> Answer:
    return first_acceptance(region, Target(90), TACTICS)


def check(model: onnx.ModelProto, lowered: Lowered, step: float, shares: float = 2e-3, **shape: int) -> None:
    """Results are ONNX Runtime's, but for few elements that are off by steps of quantization."""
    dims = [[shape.get(d.dim_param, d.dim_value) for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    feeds = {
        v.name: np.random.default_rng(1).standard_normal(d).astype(np.float32)
        for v, d in zip(model.graph.input, dims, strict=True)
    }
    made = Simulator(plan_engine(lowered)).run(feeds)
    for name, want in unoptimised(model, feeds).items():
        off = np.abs(made[name] - want)
        assert np.ptp(want) > 10 * step, "the output says nothing"
        assert off.max() <= 1.01 * step and np.mean(off > step / 50) <= shares, (name, off.max(), np.mean(off > 1e-5))


def products(lowered: Lowered) -> list[list[str]]:
    return [[op.op for op in r.ops] for r in lowered.regions if r.kind in (Kind.CONV, Kind.GEMM)]


@pytest.mark.parametrize("zero", ZEROS, ids=lambda z: f"{z.dtype}-{z}")
def test_residual_block(zero: Any) -> None:
    model = residual_block(zero)
    lowered = lowered_of(model, accepts=accepted)
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"] * 4
    kinds = [region.kind for region in lowered.regions]
    assert kinds == [Kind.MAP, *[Kind.CONV] * 4, Kind.REDUCE], "one kernel for each layer"
    between = {lowered.values[n].dtype for r in lowered.regions[:-1] for n in r.outputs}
    assert between == {str(zero.dtype)}, "a chain of quantized layers never leaves its type in memory"
    residual = lowered.regions[3]
    assert "DequantizeLinear" in [op.op for op in residual.ops] and residual.ops[-1].op == "QuantizeLinear"
    check(model, lowered, 0.001)


def test_symbolic_batch() -> None:
    model = residual_block(np.int8(3), "n")
    lowered = lowered_of(model, (SymbolRange("n", 1, 2, 4),), accepted)
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"] * 4
    check(model, lowered, 0.001, n=3)


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(117)], ids=str)
def test_mobile_block(zero: Any) -> None:
    model = mobile_block(zero)
    lowered = lowered_of(model, accepts=accepted)
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"] * 3
    assert len(lowered.regions) == 4 and products(lowered)[-1].count("QuantizeLinear") == 2
    check(model, lowered, 0.04)


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(100)], ids=str)
def test_products(zero: Any) -> None:
    model = encoder(zero=zero)
    lowered = lowered_of(model, accepts=accepted)
    found = [ops[0] for ops in products(lowered)]
    assert found == ["MatMulInteger"] * 3, "the attention between them is one kernel of floats"
    check(model, lowered, 0.05)


@pytest.mark.parametrize(("zero", "op"), [(np.int8(0), "MatMulInteger"), (np.int8(1), "MatMul")])
def test_product_of_activations(zero: Any, op: str) -> None:
    """Only constant weights make up for zero points."""
    net = QuantizedNet(zero)
    turned = net.node("Transpose", net.quantized("b", 0.03), perm=[0, 2, 1])
    model = net.model({"a": [2, 5, 32], "b": [2, 6, 32]}, net.node("MatMul", net.quantized("a", 0.03), turned))
    lowered = lowered_of(model, accepts=accepted)
    assert [ops[0] for ops in products(lowered)] == [op]
    check(model, lowered, 1e-3)


def test_float8() -> None:
    model = encoder(FLOAT8, np.zeros((), FLOAT8))
    lowered = lowered_of(model, accepts=accepted)
    eights = [r for r in lowered.regions if r.kind is Kind.GEMM and r.input_specs[0].dtype == "float8_e4m3fn"]
    assert len(eights) == 3 and all(r.ops[0].op == "MatMul" for r in eights)
    check(model, lowered, 0.05, shares=0.02)


def test_weights_quantized_in_the_model() -> None:
    net = QuantizedNet()
    y = net.conv(net.quantized("x", 0.03), (16, 32, 3, 3), stored=False)
    model = net.model({"x": [1, 32, 8, 8]}, y)
    lowered = lowered_of(model, accepts=accepted)
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"]
    check(model, lowered, 1e-4)


def test_refusal_brings_the_float_convolution_back() -> None:
    def no_integers(region: Region) -> Answer:
        return No("no") if region.ops[0].op == "ConvInteger" else YES

    model = residual_block()
    lowered = lowered_of(model, accepts=no_integers)
    assert [ops[0] for ops in products(lowered)] == ["Conv"] * 4
    assert not lowered.host_bodies
    assert all(any("as it was written" in n for n in r.notes) for r in lowered.regions if r.kind is Kind.CONV)
    check(model, lowered, 0.001)


def test_unsigned_weights_that_do_not_fit_stay_floats() -> None:
    net = QuantizedNet()
    stored = net.random.integers(0, 256, (16, 32, 1, 1)).astype(np.uint8)
    for zero, op in ((128, "ConvInteger"), (100, "Conv")):
        net.nodes.clear()
        pair = (net.const(np.float32(0.01)), net.const(np.uint8(zero)))
        weight = net.node("DequantizeLinear", net.const(stored), *pair)
        model = net.model({"x": [1, 32, 8, 8]}, net.node("Conv", net.quantized("x", 0.03), weight))
        lowered = lowered_of(model)
        assert [ops[0] for ops in products(lowered)] == [op]
        (region,) = (r for r in lowered.regions if r.kind is Kind.CONV)
        assert [("no bytes" in note) for note in region.notes] == ([True] if op == "Conv" else [])
        check(model, lowered, 1e-3)


def test_poolings_and_moves_stay_on_bytes() -> None:
    """Max pooling, slices, transposes, concats and nearest resizes move bytes; an average reads them."""
    net = QuantizedNet()
    x = net.quantized(net.node("Relu", net.conv(net.quantized("x", 0.03), (32, 16, 3, 3))), 0.02)
    pooled = net.quantized(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.02)
    sizes = net.const(np.asarray([1, 1, 2, 2], np.float32))
    empty = ""
    grown = net.node("Resize", pooled, empty, sizes, mode="nearest", coordinate_transformation_mode="asymmetric",
                     nearest_mode="floor")  # fmt: skip
    both = net.quantized(net.node("Concat", x, net.quantized(grown, 0.02), axis=1), 0.02)
    y = net.conv(both, (16, 64, 1, 1))
    averaged = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    model = net.model({"x": [2, 16, 12, 12]}, y, averaged)
    lowered = lowered_of(model, accepts=accepted)
    made = {n: lowered.values[n].dtype for r in lowered.regions for n in r.outputs}
    floats = [name for name, dtype in made.items() if dtype.startswith("float")]
    assert set(floats) <= {y, averaged}
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"] * 2
    check(model, lowered, 0.02)


def test_first_convolution_of_16_bit_floats() -> None:
    """An image's convolution stays with the kernels for images; what follows is of bytes, the last result a float."""
    net = QuantizedNet()
    first = net.node("Relu", net.conv(net.quantized("x", 0.03), (32, 3, 3, 3), strides=[2, 2]))
    y = net.conv(net.quantized(first, 0.02), (16, 32, 3, 3))
    model = net.model({"x": [1, 3, 32, 32]}, y)
    halves = lowered_of(model, accepts=accepted, fp16=True)
    assert [region.kind for region in halves.regions] == [Kind.STEM, Kind.CONV]
    assert [ops[0] for ops in products(halves)] == ["ConvInteger"]
    assert [ops[0] for ops in products(lowered_of(model, accepts=accepted))] == ["ConvInteger"] * 2
    check(model, halves, 0.05, shares=1.0)


def test_of_two_results_that_are_added_the_quantized_one_is_stored() -> None:
    """A block whose shortcut is a convolution too: the branch that is quantized is written, the other adds it."""
    net = QuantizedNet()
    x = net.quantized("x", 0.03)
    main = net.quantized(net.conv(x, (32, 16, 3, 3)), 0.02)
    y = net.node("Relu", net.node("Add", main, net.conv(x, (32, 16, 1, 1))))
    model = net.model({"x": [2, 16, 9, 9]}, net.conv(net.quantized(y, 0.03), (16, 32, 1, 1)))
    lowered = lowered_of(model, accepts=accepted)
    assert len(products(lowered)) == 3
    made = [lowered.values[n].dtype for r in lowered.regions for n in r.outputs]
    assert made == ["int8"] * 3 + ["float32"]
    check(model, lowered, 0.01)


def test_first_convolution_with_its_pooling_is_one_kernel() -> None:
    net = QuantizedNet()
    weight = net.const((net.random.standard_normal((32, 3, 3, 3)) / 5).astype(np.float32))
    first = net.node("Relu", net.node("Conv", "x", weight, strides=[2, 2], pads=[1] * 4))
    pooled = net.node("MaxPool", net.quantized(first, 0.02), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    model = net.model({"x": [1, 3, 32, 32]}, net.conv(pooled, (16, 32, 3, 3)))
    lowered = lowered_of(model, accepts=accepted, fp16=True)
    assert [(r.kind, r.ops[-1].op) for r in lowered.regions] == [(Kind.STEM, "QuantizeLinear"), (Kind.CONV, "Cast")]
    check(model, lowered, 0.05, shares=1.0)


@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(117)], ids=str)
def test_padding_of_bytes(zero: Any) -> None:
    """The border of zeros is one of zero points."""
    net = QuantizedNet(zero)
    pads = net.const(np.asarray([0, 0, 1, 2, 0, 0, 0, 1]))
    padded = net.node("Pad", net.quantized("x", 0.03), pads)
    model = net.model({"x": [2, 16, 7, 7]}, net.conv(net.quantized(padded, 0.03), (16, 16, 3, 3)))
    lowered = lowered_of(model, accepts=accepted)
    assert [ops[0] for ops in products(lowered)] == ["ConvInteger"]
    assert {lowered.values[n].dtype for r in lowered.regions[:-1] for n in r.outputs} == {str(zero.dtype)}
    check(model, lowered, 0.01)


@pytest.mark.parametrize("kind", [np.dtype(np.int8), FLOAT8], ids=str)
def test_siblings_are_one_product(kind: Any) -> None:
    """Queries, keys and values: one product of stored weights with the scales of all; attention stores bytes."""
    net = QuantizedNet(np.zeros((), kind))
    x = net.quantized("x", 0.03)
    heads = net.const(np.asarray([0, 0, 4, 16]))
    split = []
    for axis in (1, None, 1):
        weight = net.weight(net.random.standard_normal((64, 64)) / 8, axis, dtype=kind)
        split.append(net.node("Reshape", net.node("MatMul", x, weight), heads))
    q, v = (net.node("Transpose", split[i], perm=[0, 2, 1, 3]) for i in (0, 2))
    scores = net.node("MatMul", q, net.node("Transpose", split[1], perm=[0, 2, 3, 1]))
    mixed = net.node("MatMul", net.node("Softmax", scores), v)
    flat = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), net.const(np.asarray([0, 0, 64])))
    weight = net.weight(net.random.standard_normal((64, 32)) / 8, 1, dtype=kind)
    model = net.model({"x": [2, 12, 64]}, net.node("MatMul", net.quantized(flat, 0.02), weight))
    lowered = lowered_of(model, accepts=accepted)
    kinds = [region.kind for region in lowered.regions if region.kind is not Kind.VIEW]
    assert kinds == [Kind.MAP, Kind.GEMM, Kind.ATTENTION, Kind.GEMM]
    check(model, lowered, 0.05, shares=0.1)
