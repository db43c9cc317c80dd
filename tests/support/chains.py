"""CHAIN Regions for kernel tests: a 1 x 1 convolution that widens, an epilogue, a second 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    for name in ("v", "w"):
        at = region.inputs.index(name)
        depth = float(region.spec_of[name].shape[1])
        arrays[at] = (arrays[at].astype(np.float32) / depth**0.5).astype(arrays[at].dtype)
    return arrays


_SILU = (Op("Sigmoid", ("acc",), "gate"), Op("Mul", ("acc", "gate"), "wide"))
_CLIP = (Op("Clip", ("z", "low", "high"), "out"),)
_PART = TensorSpec("float16", (2, 128, 9, 7), (63 * 192, 1, 7 * 192, 192), align=16)

CASES: dict[str, Region] = {
    "resnet 56": chain_region((3, 64, 19, 21), 256, 64),
    "resnet 56 to 28": chain_region((2, 64, 28, 28), 256, 128),
    "resnet 28": chain_region((2, 128, 13, 15), 512, 128),
    "resnet 28 to 14": chain_region((1, 128, 14, 14), 512, 256),
    "resnet 14": chain_region((2, 256, 14, 14), 1024, 256),
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
    "symbolic batch": chain_region(("N", 64, 9, 9), 128, 32),
}  # fmt: skip
