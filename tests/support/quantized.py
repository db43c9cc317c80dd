"""Regions of products of quantized tensors, their inputs, and what they compute in exact arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from support.regions import conv_output

from ingot.graph.dims import Bindings, Shape
from ingot.graph.reference import run_region
from ingot.graph.region import BodyOp, Kind, Literal, Region
from ingot.graph.tensor import Order, TensorSpec, channels_last, spec
from ingot.tune.storage import Stored

FLOAT8 = "float8_e4m3fn"
_FLOAT = 1


def quantized_conv(
    x: Shape,
    w: tuple[int, ...],
    *,
    x_type: str = "int8",
    out: str = "int8",
    residual: bool = False,
    offset: tuple[int, ...] | None = (),
    bias: bool = False,
    zero: int = 0,
    strides: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    x_order: Order | None = None,
) -> Region:
    """A convolution of one-byte elements with an epilogue: offset, scales, residual, Relu, quantization to ``out``.

    ``offset``: trailing shape of the int32 offset ((): one for each channel), None for none; floats as ``out`` are not
    quantized. ``bias``: whether a float32 bias is added after scaling. ``zero`` is the zero point of the result.
    """
    pairs = {"strides": strides, "pads": pads, "dilations": dilations}
    attrs = {name: value for name, value in pairs.items() if value is not None}
    y = conv_output(x, w, {**attrs, "group": (group,)})
    last = channels_last(len(x))
    whole = x_type != FLOAT8
    inputs = {
        "x": spec(x_type, x, x_order or last),
        "w": spec("int8" if whole else FLOAT8, w, last, constant=True),
    }
    attributes = tuple(sorted({**attrs, "group": group}.items()))
    anchor = BodyOp("ConvInteger" if whole else "Conv", ("x", "w"), ("sums",), attributes)
    channels = (w[0], *(1,) * (len(x) - 2))
    return _finished(Kind.CONV, anchor, inputs, y, last, channels, (w[0], *(offset or channels[1:])), out,
                     residual=residual, with_offset=whole and offset is not None, bias=bias, zero=zero)  # fmt: skip


def quantized_matmul(
    a: Shape,
    b: tuple[int, ...],
    *,
    a_type: str = "int8",
    out: str = "int8",
    residual: bool = False,
    offset: bool = True,
    zero: int = 0,
    constant_b: bool = True,
    b_order: Order | None = None,
) -> Region:
    """The same for a matrix product; B lies with its depth contiguous unless an order is given."""
    whole = a_type != FLOAT8
    rank = len(b)
    order = b_order or (*range(rank - 2), rank - 1, rank - 2)
    b_type = ("int8" if a_type == "uint8" else a_type) if whole else FLOAT8
    inputs = {"x": spec(a_type, a), "w": spec(b_type, b, order, constant=constant_b)}
    anchor = BodyOp("MatMulInteger" if whole else "MatMul", ("x", "w"), ("sums",))
    y = (*a[:-1], b[-1])
    return _finished(Kind.GEMM, anchor, inputs, y, tuple(range(len(y))), (b[-1],), (b[-1],), out,
                     residual=residual, with_offset=whole and offset, zero=zero)  # fmt: skip


def quantized_sum(
    x: Shape,
    other: int,
    cols: int,
    *,
    stride: int = 1,
    x_type: str = "uint8",
    out: str = "uint8",
    biases: tuple[bool, bool] = (True, True),
) -> Region:
    """The sum of two pointwise convolutions of bytes, each with scales of its own, then Relu and a quantization.

    ``x`` is read with ``stride``, one of ``other`` channels and the result's size with none.
    """
    batch, height, width = x[0], int(x[2]), int(x[3])
    last = channels_last(4)
    result = spec("float32", (batch, cols, (height - 1) // stride + 1, (width - 1) // stride + 1), last)
    inputs: dict[str, TensorSpec] = {}
    values: dict[str, TensorSpec] = {}
    ops: list[BodyOp] = []
    for mark, shape, step, bias in (
        ("1", x, stride, biases[0]), ("", (batch, other, *result.shape[2:]), 1, biases[1])
    ):  # fmt: skip
        inputs[f"x{mark}"] = spec(x_type, shape, last)
        inputs[f"w{mark}"] = spec("int8", (cols, shape[1], 1, 1), last, constant=True)
        inputs[f"scale{mark}"] = spec("float32", (cols, 1, 1), constant=True)
        values |= {f"sums{mark}": replace(result, dtype="int32"), f"real{mark}": result, f"scaled{mark}": result}
        ops.append(BodyOp("ConvInteger", (f"x{mark}", f"w{mark}"), (f"sums{mark}",), (("strides", (step, step)),)))
        ops.append(BodyOp("Cast", (f"sums{mark}",), (f"real{mark}",), (("to", _FLOAT),)))
        ops.append(BodyOp("Mul", (f"real{mark}", f"scale{mark}"), (f"scaled{mark}",)))
        if bias:
            inputs[f"bias{mark}"] = spec("float32", (cols, 1, 1), constant=True)
            values[f"whole{mark}"] = result
            ops.append(BodyOp("Add", (f"scaled{mark}", f"bias{mark}"), (f"whole{mark}",)))
    ends = [f"{'whole' if bias else 'scaled'}{mark}" for mark, bias in zip(("1", ""), biases, strict=True)]
    ops += [BodyOp("Add", (ends[1], ends[0]), ("sum",)), BodyOp("Relu", ("sum",), ("real_y",))]
    values |= {"sum": result, "real_y": result, "y": replace(result, dtype=out)}
    literals: dict[str, Literal] = {"y_scale": 0.5, "y_zero": 0}
    ops.append(BodyOp("QuantizeLinear", ("real_y", "y_scale", "y_zero"), ("y",)))
    named = tuple((inputs | values).items())
    return Region(Kind.SUM, "test", tuple(inputs), ("y",), tuple(ops), named, tuple(literals.items()))


def _finished(
    kind: Kind,
    anchor: BodyOp,
    inputs: dict[str, TensorSpec],
    y: Shape,
    order: Order,
    channels: tuple[int, ...],
    offset: tuple[int, ...],
    out: str,
    *,
    residual: bool,
    with_offset: bool,
    zero: int,
    bias: bool = False,
) -> Region:
    whole = anchor.op.endswith("Integer")
    result = spec("float32", y, order)
    values = {"sums": replace(result, dtype="int32" if whole else "float32")}
    ops, literals, current = [anchor], dict[str, Literal](), "sums"

    def then(op: str, *others: str, dtype: str = "float32", **attrs: int) -> None:
        nonlocal current
        name = f"{op.lower()}{len(ops)}"
        ops.append(BodyOp(op, (current, *others), (name,), tuple(attrs.items())))
        values[name] = replace(result, dtype=dtype)
        current = name

    if with_offset:
        inputs["offset"] = spec("int32", offset, constant=True)
        then("Add", "offset", dtype="int32")
    if whole:
        then("Cast", to=_FLOAT)
    inputs["scale"] = spec("float32", channels, constant=True)
    then("Mul", "scale")
    if bias:
        inputs["bias"] = spec("float32", channels, constant=True)
        then("Add", "bias")
    stored = inputs["x"].dtype if not whole else "int8"
    if residual:
        inputs["residual"] = spec(stored, y, order)
        literals |= {"r_scale": 0.25} | ({"r_zero": 3} if whole else {})
        names = ("residual", "r_scale", "r_zero") if whole else ("residual", "r_scale")
        ops.append(BodyOp("DequantizeLinear", names, ("real",)))
        values["real"] = result
        then("Add", "real")
    then("Relu")
    if not out.startswith("float") or out == FLOAT8:
        literals |= {"y_scale": 0.5} | ({"y_zero": zero} if out != FLOAT8 else {})
        names = ("y_scale", "y_zero") if out != FLOAT8 else ("y_scale",)
        then("QuantizeLinear", *names, dtype=out)
    values[current] = replace(values[current], dtype=out)
    return Region(
        kind, "test", tuple(inputs), (current,), tuple(ops), tuple((inputs | values).items()), tuple(literals.items())
    )


def quantized_inputs(region: Region, bindings: Bindings | None = None, seed: int = 0) -> list[np.ndarray]:
    """Bytes of the whole range, and scales that bring the sums to a few dozens."""
    rng = np.random.default_rng(seed)
    arrays = []
    w = region.spec_of["w"]
    taps = w.shape[1:] if region.kind in (Kind.CONV, Kind.SUM) else w.shape[-2:-1]
    depth = float(np.prod([int(d) for d in taps]))
    for name, value in zip(region.inputs, region.input_specs, strict=True):
        stored = Stored.of(value, bindings or {})
        if value.dtype in ("int8", "uint8"):
            low, high = (-128, 128) if value.dtype == "int8" else (0, 256)
            array = rng.integers(low, high, stored.shape).astype(value.dtype)
        elif value.dtype == FLOAT8:
            array = rng.standard_normal(stored.shape).astype(stored.numpy)
        elif value.dtype == "int32":
            array = rng.integers(-9999, 9999, stored.shape).astype(np.int32)
        else:
            typical = 5500.0 if region.spec_of["x"].dtype != FLOAT8 else 1.0
            array = (rng.uniform(0.5, 1.5, stored.shape) * 30 / (typical * depth**0.5)).astype(value.dtype)
        assert name
        arrays.append(array)
    return arrays


def exact(region: Region, inputs: list[np.ndarray], bindings: Bindings | None = None) -> np.ndarray:
    """The Region's only output by the project's reference: integers exactly, floats in float32."""
    feeds = dict(zip(region.inputs, inputs, strict=True))
    return run_region(region, feeds, bindings or {})[region.outputs[0]]


def assert_quantized(got: np.ndarray, want: np.ndarray, *, rough: bool = False) -> None:
    """Equal but for steps of one where a quotient lay within a rounding error of a half; FP8 to one rounding.

    ``rough``: floats are sums of FP8 products, which tensor cores add up with some 14 bits.
    """
    assert got.shape == want.shape and got.dtype == want.dtype
    if want.dtype.kind in "iu":
        off = np.abs(got.astype(np.int32) - want.astype(np.int32))
        assert off.max(initial=0) <= 1 and np.count_nonzero(off) <= 1 + off.size // 2000, (off.max(), off.sum())
        return
    a, b = got.astype(np.float32), want.astype(np.float32)
    few = 0.13 if str(want.dtype) == FLOAT8 else 1e-2 if rough else {"float16": 2e-3}.get(str(want.dtype), 1e-5)
    np.testing.assert_allclose(a, b, rtol=few, atol=few * float(np.abs(b).max(initial=0.0)) / 8)
