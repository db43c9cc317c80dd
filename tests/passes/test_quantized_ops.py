"""Ops on quantized tensors (QLinear*, integer products, dynamic quantization) give what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from support.plans import plan_engine

from ingot.graph.lowered import Lowered
from ingot.graph.reference import run_model
from ingot.graph.region import Kind, Region
from ingot.importer.load import import_model
from ingot.kernels.api import Target
from ingot.kernels.table import TACTICS
from ingot.passes.lower import lower
from ingot.passes.pipeline import canonicalise
from ingot.simulate.simulator import Simulator
from ingot.tune.candidates import first_acceptance

RNG = np.random.default_rng(11)
MICROSOFT = "com.microsoft"


def model_of(
    op: str,
    feeds: Mapping[str, np.ndarray],
    operands: list[Any],
    out: str | list[str] = "int8",
    *,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """One node; operands are names of ``feeds``, arrays (constants), or None."""
    weights, names = [], []
    for i, operand in enumerate(operands):
        if operand is None or isinstance(operand, str):
            names.append(operand or "")
            continue
        names.append(f"c{i}")
        weights.append(numpy_helper.from_array(np.asarray(operand), f"c{i}"))
    kinds = [out] if isinstance(out, str) else out
    outputs = [
        helper.make_tensor_value_info(f"y{i}", helper.np_dtype_to_tensor_dtype(np.dtype(k)), None)
        for i, k in enumerate(kinds)
    ]
    node = helper.make_node(op, names, [o.name for o in outputs], name="node", domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    graph = helper.make_graph([node], "g", inputs, outputs, weights)
    imports = [helper.make_opsetid("", 21)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def check(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, anchor: str = "", off: float = 2e-3) -> None:
    """On the device, without islands; integers equal, but for a share ``off`` of steps of one."""

    def accepted(region: Region) -> Any:
        return first_acceptance(region, Target(90), TACTICS)

    imported = import_model(model)
    found = lower(canonicalise(imported.model, fp16=False).model, imported.ranges, accepted)
    assert isinstance(found, Lowered) and not found.reasons, str(
        found if not isinstance(found, Lowered) else found.reasons
    )
    made = Simulator(plan_engine(found)).run(feeds)
    names = [output.name for output in model.graph.output]
    for name, want in zip(names, run_model(model, feeds, names), strict=True):
        got = made[name]
        assert got.dtype == want.dtype and got.shape == want.shape
        assert want.size < 3 or np.unique(want).size > 2, "the output says nothing"
        if want.dtype.kind in "iu":
            apart = np.abs(got.astype(np.int64) - want.astype(np.int64))
            assert apart.max(initial=0) <= (1 if off else 0) and np.mean(apart > 0) <= off, (name, apart.max())
        else:
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    if anchor:
        heads = [region.ops[0].op for region in found.regions if region.kind in (Kind.CONV, Kind.GEMM)]
        assert heads == [anchor]


def whole(shape: tuple[int, ...], dtype: str = "int8") -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


def scales(count: int, center: float) -> np.ndarray:
    return RNG.uniform(0.5 * center, 1.5 * center, count).astype(np.float32)


@pytest.mark.parametrize(
    "x_type, x_zero, y_zero", [("int8", 0, 0), ("uint8", 0, 3), ("uint8", 131, 120), ("int8", -7, 1)]
)
@pytest.mark.parametrize("channels", [1, 20])
def test_qlinear_conv(x_type: str, x_zero: int, y_zero: int, channels: int) -> None:
    feeds = {"x": whole((2, 24, 7, 9), x_type)}
    kind = np.dtype(x_type).type
    w_scale = scales(channels, 0.002) if channels > 1 else np.float32(0.002)
    operands = ["x", np.float32(0.03), kind(x_zero), whole((20, 24, 3, 3)), w_scale,
                np.zeros(w_scale.shape, np.int8) if channels > 1 else np.int8(0), np.float32(0.2), kind(y_zero),
                RNG.integers(-9000, 9000, 20).astype(np.int32)]  # fmt: skip
    model = model_of("QLinearConv", feeds, operands, x_type, pads=[1, 0, 1, 2], strides=[2, 1])
    check(model, feeds, anchor="ConvInteger")


@pytest.mark.parametrize("columns", [1, 17])
def test_qlinear_matmul(columns: int) -> None:
    feeds = {"a": whole((3, 5, 48), "uint8")}
    b_scale = scales(columns, 0.004) if columns > 1 else np.float32(0.004)
    zero = np.full(b_scale.shape, 0, np.int8)
    operands = ["a", np.float32(0.02), np.uint8(99), whole((48, 17)), b_scale, zero, np.float32(0.1), np.uint8(128)]
    check(model_of("QLinearMatMul", feeds, operands, "uint8"), feeds, anchor="MatMulInteger")


@pytest.mark.parametrize("x_zero, w_type, w_zero", [(0, "int8", 0), (77, "int8", 0), (130, "uint8", 128)])
def test_integer_products_are_exact(x_zero: int, w_type: str, w_zero: int) -> None:
    feeds = {"x": whole((2, 5, 40), "uint8")}
    weight = np.clip(whole((40, 12), w_type).astype(int), w_zero - 128, w_zero + 127).astype(w_type)
    operands = ["x", weight, np.uint8(x_zero), np.dtype(w_type).type(w_zero)]
    check(model_of("MatMulInteger", feeds, operands, "int32"), feeds, anchor="MatMulInteger", off=0)
    feeds = {"x": whole((1, 16, 6, 7), "uint8")}
    weight = np.clip(whole((8, 16, 3, 3), w_type).astype(int), w_zero - 128, w_zero + 127).astype(w_type)
    operands[1] = weight
    check(model_of("ConvInteger", feeds, operands, "int32", pads=[1, 1, 0, 2]), feeds, anchor="ConvInteger", off=0)


@pytest.mark.parametrize("w_type", ["int8", "uint8"])
@pytest.mark.parametrize("zeros", ["x", "w", "several", "both"])
def test_integer_products_of_two_computed_operands(w_type: str, zeros: str) -> None:
    """Zero points of the first, of the second, one for each of its columns, of both; or of constant weights."""
    kind = np.dtype(w_type).type
    several = zeros in ("several", "both")
    for op, x, w, columns in (
        ("MatMulInteger", (2, 5, 40), (40, 12), 12),
        ("ConvInteger", (2, 3, 6, 7), (8, 3, 3, 2), 8),
    ):
        feeds = {"x": whole(x, "uint8"), "w": whole(w, w_type)}
        if zeros != "w" and zeros != "several":
            feeds["zx"] = np.asarray(77, np.uint8)
        if zeros != "x":
            feeds["zw"] = RNG.integers(1, 99, columns if several else ()).astype(kind)
        operands = ["x", "w", "zx" if "zx" in feeds else None, "zw" if "zw" in feeds else None]
        attributes = {"pads": [1, 1, 0, 2]} if op == "ConvInteger" and not several else {}
        check(model_of(op, feeds, operands, "int32", **attributes), feeds, off=0)
        if "zw" in feeds:
            operands[1] = feeds.pop("w")
            check(model_of(op, feeds, operands, "int32", **attributes), feeds, off=0)


def test_constant_weights_that_are_no_signed_bytes() -> None:
    feeds = {"x": whole((2, 5, 40), "uint8")}
    check(
        model_of("MatMulInteger", feeds, ["x", whole((40, 12), "uint8"), np.uint8(9), np.uint8(3)], "int32"),
        feeds,
        off=0,
    )


def test_dynamic_quantization() -> None:
    feeds = {"x": (RNG.standard_normal((3, 64)) * 3).astype(np.float32)}
    check(model_of("DynamicQuantizeLinear", feeds, ["x"], ["uint8", "float32", "uint8"]), feeds)
    operands = [
        "x",
        whole((64, 24)),
        scales(24, 0.01),
        np.zeros(24, np.int8),
        RNG.standard_normal(24).astype(np.float32),
    ]
    model = model_of("DynamicQuantizeMatMul", feeds, operands, "float32", domain=MICROSOFT)
    check(model, feeds, anchor="MatMulInteger")


def test_integer_product_to_float() -> None:
    feeds = {"a": whole((4, 32), "uint8")}
    operands = ["a", whole((32, 24)), np.float32(0.02), scales(24, 0.01), np.uint8(119), np.zeros(24, np.int8),
                RNG.standard_normal(24).astype(np.float32)]  # fmt: skip
    model = model_of("MatMulIntegerToFloat", feeds, operands, "float32", domain=MICROSOFT)
    check(model, feeds, anchor="MatMulInteger")


def test_qgemm() -> None:
    feeds = {"a": whole((5, 32), "uint8")}
    operands = ["a", np.float32(0.02), np.uint8(128), whole((24, 32)), np.float32(0.01), np.int8(0),
                RNG.integers(-900, 900, 24).astype(np.int32), np.float32(0.3), np.uint8(127)]  # fmt: skip
    check(model_of("QGemm", feeds, operands, "uint8", domain=MICROSOFT, transB=1), feeds, anchor="MatMulInteger")


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_qlinear_arithmetic(op: str) -> None:
    feeds = {"a": whole((2, 8, 5, 5), "uint8"), "b": whole((2, 8, 5, 5), "uint8")}
    # Scales without a common measure: else every other sum lies half way between two results.
    operands = ["a", np.float32(0.0213), np.uint8(120), "b", np.float32(0.0317), np.uint8(5)]
    operands += [np.float32(0.0587), np.uint8(9)]
    check(model_of(op, feeds, operands, "uint8", domain=MICROSOFT), feeds, off=0.02)


@pytest.mark.parametrize(
    "op, attributes",
    [
        ("QLinearGlobalAveragePool", {}),
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.1}),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ],
)
def test_qlinear_of_one_tensor(op: str, attributes: dict[str, Any]) -> None:
    feeds = {"x": whole((2, 16, 6, 6), "uint8")}
    y = (np.float32(1 / 256), np.uint8(0)) if op == "QLinearSigmoid" else (np.float32(0.0173), np.uint8(101))
    operands = ["x", np.float32(0.05 if op == "QLinearSigmoid" else 0.02), np.uint8(110), *y]
    check(model_of(op, feeds, operands, "uint8", domain=MICROSOFT, **attributes), feeds, off=0.02)


def test_qlinear_concat() -> None:
    feeds = {"a": whole((2, 16, 4, 4), "uint8"), "b": whole((2, 16, 4, 4), "uint8")}
    operands = [
        np.float32(0.04),
        np.uint8(110),
        "a",
        np.float32(0.04),
        np.uint8(110),
        "b",
        np.float32(0.03),
        np.uint8(4),
    ]
    check(model_of("QLinearConcat", feeds, operands, "uint8", domain=MICROSOFT, axis=1), feeds)


@pytest.mark.parametrize("axis", [1, 2])
def test_scales_along_an_axis(axis: int) -> None:
    feeds = {"x": (RNG.standard_normal((2, 6, 6, 3)) * 2).astype(np.float32)}
    zero = RNG.integers(-9, 9, 6).astype(np.int8)
    check(model_of("QuantizeLinear", feeds, ["x", scales(6, 0.03), zero], "int8", axis=axis), feeds)
    stored = {"x": whole((2, 6, 6, 3))}
    check(model_of("DequantizeLinear", stored, ["x", scales(6, 0.03), zero], "float32", axis=axis), stored)


def test_what_has_no_form_stays() -> None:
    feeds = {"x": whole((2, 8, 5, 5), "uint8"), "w": whole((8, 4, 3, 3))}
    model = model_of("ConvInteger", feeds, ["x", "w", np.uint8(3)], "int32", group=2)
    notes = canonicalise(ir.from_proto(model), fp16=False).notes
    assert any("ConvInteger stays" in note for note in notes)
