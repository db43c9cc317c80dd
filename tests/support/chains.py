"""CHAIN Regions for kernel tests: a 1 x 1 convolution that widens, an epilogue, a second 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from support.regions import Op, build_region, random_inputs

from ingot.graph.dims import Bindings
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec

NHWC = channels_last(4)
RELU = (Op("Relu", ("z",), "out"),)
RESIDUAL = (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "wide"))


def chain_region(
    x: tuple[int | str, int, int, int],
    wide: int,
    narrow: int,
    *,
    dtype: str = "float16",
    middle: Sequence[Op] = RESIDUAL,
    after: Sequence[Op] = RELU,
    stored: bool = True,
    literals: Mapping[str, float] | None = None,
    specs: Mapping[str, TensorSpec] | None = None,
) -> Region:
    """Ops of ``middle`` read ``acc`` and ``residual``, those of ``after`` read ``z``.

    ``stored``: the middle is a result too. ``specs`` replaces where tensors lie.
    """
    batch, channels, height, width = x
    broad, small = (batch, wide, height, width), (batch, narrow, height, width)
    values = {
        "x": spec(dtype, x, NHWC),
        "v": spec(dtype, (wide, channels, 1, 1), NHWC, constant=True),
        "bv": spec(dtype, (wide,), constant=True),
        "w": spec(dtype, (narrow, wide, 1, 1), NHWC, constant=True),
        "bw": spec(dtype, (narrow,), constant=True),
    }
    if any("residual" in op.inputs for op in middle):
        values["residual"] = spec(dtype, broad, NHWC)
    ops = [BodyOp("Conv", ("x", "v", "bv"), ("acc",))]
    inner = {"acc": spec(dtype, broad, NHWC)}
    last = "acc"
    for op in middle:
        ops.append(BodyOp(op.op, op.inputs, (op.output,), op.attrs))
        inner[op.output] = spec(dtype, broad, NHWC)
        last = op.output
    ops.append(BodyOp("Conv", (last, "w", "bw"), ("z",)))
    inner["z"] = spec(dtype, small, NHWC)
    final = "z"
    for op in after:
        ops.append(BodyOp(op.op, op.inputs, (op.output,), op.attrs))
        inner[op.output] = spec(dtype, small, NHWC)
        final = op.output
    outputs = (last, final) if stored else (final,)
    region = build_region(Kind.CHAIN, values, ops, inner, outputs, literals)
    return region.with_specs(dict(specs or {}))


def chain_inputs(region: Region, bindings: Bindings | None = None) -> list[np.ndarray]:
    """Random inputs, weights scaled so that sums are of unit size."""
    arrays = random_inputs(region, bindings)
    for name in ("v", "v2", "w"):
        if name not in region.inputs:
            continue
        at = region.inputs.index(name)
        depth = float(region.spec_of[name].shape[1])
        arrays[at] = (arrays[at].astype(np.float32) / depth**0.5).astype(arrays[at].dtype)
    return arrays


_SILU = (Op("Sigmoid", ("acc",), "gate"), Op("Mul", ("acc", "gate"), "wide"))
_CLIP = (Op("Clip", ("z", "low", "high"), "out"),)
_PART = TensorSpec("float16", (2, 128, 9, 7), (63 * 192, 1, 7 * 192, 192), align=16)


def branched_chain(
    x: tuple[int, int, int, int], other: int, wide: int, narrow: int, *, stored: bool = True, dtype: str = "float16"
) -> Region:
    """A chain whose first part is the sum of two convolutions."""
    region = chain_region(x, wide, narrow, stored=stored, dtype=dtype)
    more = {
        "x2": spec(dtype, (x[0], other, *x[2:]), NHWC),
        "v2": spec(dtype, (wide, other, 1, 1), NHWC, constant=True),
        "bv2": spec(dtype, (wide,), constant=True),
    }
    beside = BodyOp("Conv", ("x2", "v2", "bv2"), ("residual",))
    inputs = (*(name for name in region.inputs if name != "residual"), *more)
    return replace(region, inputs=inputs, ops=(beside, *region.ops), values=(*region.values, *more.items()))


CASES: dict[str, Region] = {
    "resnet 56": chain_region((3, 64, 19, 21), 256, 64),
    "resnet 56 to 28": chain_region((2, 64, 28, 28), 256, 128),
    "resnet 28": chain_region((2, 128, 13, 15), 512, 128),
    "resnet 28 to 14": chain_region((1, 128, 14, 14), 512, 256),
    "256 channels": chain_region((2, 256, 14, 14), 512, 256),
    "many tiles": chain_region((9, 64, 56, 56), 256, 64),
    "many tiles, weights streamed": chain_region((7, 128, 56, 56), 512, 128),
    "mobilenet": chain_region(
        (2, 144, 11, 13), 24, 144, middle=(Op("Add", ("acc", "residual"), "wide"),), after=_CLIP,
        literals={"low": 0.0, "high": 6.0},
    ),
    "project, not stored": chain_region(
        (1, 96, 12, 12), 24, 144, middle=(), after=_CLIP, stored=False, literals={"low": 0.0, "high": 6.0}
    ),
    "residual, not stored": chain_region((1, 40, 12, 12), 72, 48, stored=False),
    "no residual": chain_region((2, 72, 9, 7), 200, 40, middle=(Op("Relu", ("acc",), "wide"),)),
    "silu": chain_region((1, 32, 10, 10), 64, 24, middle=_SILU, after=()),
    "bfloat16": chain_region((1, 64, 14, 14), 128, 64, dtype="bfloat16"),
    "parts of concats": chain_region((2, 64, 9, 7), 128, 64, specs={"wide": _PART, "residual": _PART}),
    "two branches": branched_chain((3, 64, 19, 21), 64, 256, 64),
    "two branches, odd": branched_chain((2, 40, 9, 7), 72, 136, 48, stored=False),
    "two branches, many tiles": branched_chain((9, 64, 56, 56), 64, 256, 64),
    "symbolic batch": chain_region(("N", 64, 9, 9), 128, 32),
}  # fmt: skip


def sum_region(
    x: tuple[int | str, int, int, int],
    other: int,
    cols: int,
    *,
    stride: int = 1,
    dtype: str = "float16",
    biases: tuple[bool, bool] = (True, True),
    after: Sequence[Op] = (Op("Relu", ("sum",), "out"),),
    specs: Mapping[str, TensorSpec] | None = None,
) -> Region:
    """``x`` is read with ``stride``, one of ``other`` channels and the result's size with none; both are added."""
    batch, channels, height, width = x
    size = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    result = spec(dtype, (batch, cols, *size), NHWC)
    values = {
        "x": spec(dtype, x, NHWC),
        "v": spec(dtype, (cols, channels, 1, 1), NHWC, constant=True),
        **({"bv": spec(dtype, (cols,), constant=True)} if biases[0] else {}),
        "x2": spec(dtype, (batch, other, *size), NHWC),
        "w": spec(dtype, (cols, other, 1, 1), NHWC, constant=True),
        **({"bw": spec(dtype, (cols,), constant=True)} if biases[1] else {}),
    }
    ops = [
        BodyOp("Conv", ("x", "v", "bv")[: 2 + biases[0]], ("first",), (("strides", (stride, stride)),)),
        BodyOp("Conv", ("x2", "w", "bw")[: 2 + biases[1]], ("second",)),
        BodyOp("Add", ("second", "first"), ("sum",)),
        *(BodyOp(op.op, op.inputs, (op.output,), op.attrs) for op in after),
    ]
    made = {name: result for op in ops for name in op.outputs}
    region = build_region(Kind.SUM, values, ops, made, ops[-1].outputs)
    return region.with_specs(dict(specs or {}))


SUMS: dict[str, Region] = {
    "resnet 56": sum_region((3, 64, 19, 21), 64, 256),
    "resnet 28": sum_region((2, 256, 29, 25), 128, 512, stride=2),
    "resnet 7": sum_region((1, 1024, 14, 14), 512, 2048, stride=2),
    "narrow": sum_region((2, 40, 9, 11), 72, 24, biases=(False, True)),
    "without biases": sum_region((2, 64, 9, 11), 32, 48, biases=(False, False), after=()),
    "many tiles": sum_region((9, 64, 56, 56), 64, 256),
    "bfloat16": sum_region((2, 64, 15, 14), 128, 96, stride=2, dtype="bfloat16"),
    "symbolic batch": sum_region(("N", 64, 9, 9), 64, 128),
}
"""Sums of two pointwise convolutions."""
