"""STEM Regions for kernel tests: a cast or normalised image, a convolution, an epilogue, a pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from support.regions import Op, build_region, conv_output, random_inputs

from ingot.graph.dims import Bindings
from ingot.graph.region import Attr, BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec

NHWC = channels_last(4)
RELU = (Op("Relu", ("acc",), "act"),)
SILU = (Op("Sigmoid", ("acc",), "gate"), Op("Mul", ("acc", "gate"), "act"))
RELU6 = (Op("Clip", ("acc", "low", "high"), "act"),)
POOL3 = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
POOL2 = {"kernel_shape": (2, 2), "strides": (2, 2)}
_FLOAT = {"float16": 10, "bfloat16": 16}


def stem_region(
    x: tuple[int | str, int, int, int],
    outputs: int,
    kernel: int | tuple[int, int],
    *,
    dtype: str = "float16",
    image: str = "float32",
    nhwc: bool = False,
    bias: bool = True,
    epilogue: Sequence[Op] = RELU,
    pool: Mapping[str, tuple[int, ...]] | None = None,
    pooled: tuple[int, int] = (0, 0),
    before: Sequence[Op] = (),
    after: Sequence[Op] = (),
    constants: Mapping[str, TensorSpec] | None = None,
    literals: Mapping[str, float] | None = None,
    result: TensorSpec | None = None,
    **attrs: tuple[int, ...],
) -> Region:
    """Ops read ``x`` (before the convolution: the last one's output is cast), ``acc`` or ``act``, and ``pool``.

    ``pooled`` is the pooling's output size. ``result`` replaces where the output lies.
    """
    kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
    values: dict[str, TensorSpec] = {
        "x": spec(image, x, NHWC if nhwc else None),
        "w": spec(dtype, (outputs, x[1], kh, kw), (2, 3, 1, 0), constant=True),
        **({"b": spec(dtype, (outputs,), constant=True)} if bias else {}),
        **(constants or {}),
    }
    inner: dict[str, TensorSpec] = {}
    ops: list[BodyOp] = []
    last = "x"

    def add(op: str, inputs: Sequence[str], out: str, like: TensorSpec, **extra: Attr) -> str:
        ops.append(BodyOp(op, tuple(inputs), (out,), tuple(sorted(extra.items()))))
        inner[out] = like
        return out

    for step in before:
        last = add(step.op, step.inputs, step.output, spec(step.dtype or image, x))
    if image != dtype:
        last = add("Cast", (last,), "half", spec(dtype, x), to=_FLOAT[dtype])
    y = conv_output(x, values["w"].shape, attrs)
    weights = ("w", "b") if bias else ("w",)
    last = add("Conv", (last, *weights), "acc", spec(dtype, y, NHWC), **attrs)
    for step in epilogue:
        last = add(step.op, step.inputs, step.output, spec(dtype, y, NHWC), **dict(step.attrs))
    if pool is not None:
        last = add("MaxPool", (last,), "pool", spec(dtype, (*y[:2], *pooled), NHWC), **pool)
    for step in after:
        last = add(
            step.op, step.inputs, step.output, replace(inner["pool"], dtype=step.dtype or dtype), **dict(step.attrs)
        )
    if result is not None:
        inner[last] = result
    return build_region(Kind.STEM, values, ops, inner, (last,), literals)


def stem_inputs(region: Region, bindings: Bindings | None = None) -> list[np.ndarray]:
    """Random inputs with weights of the size that trained ones have; sums are then of unit scale."""
    arrays = random_inputs(region, bindings)
    fan = float(np.prod(region.spec_of["w"].shape[1:], dtype=int))
    at = region.inputs.index("w")
    arrays[at] = (arrays[at].astype(np.float32) / fan**0.5).astype(arrays[at].dtype)
    return arrays


def channel(count: int, dtype: str = "float16") -> TensorSpec:
    """A constant for each channel."""
    return spec(dtype, (1, count, 1, 1), constant=True)


def _same(size: int) -> dict[str, tuple[int, ...]]:
    return {"pads": (size,) * 4}


CASES: dict[str, Region] = {
    "resnet": stem_region((2, 3, 44, 36), 64, 7, pool=POOL3, pooled=(11, 9), strides=(2, 2), **_same(3)),
    "odd": stem_region((2, 3, 37, 45), 64, 7, pool=POOL3, pooled=(10, 12), strides=(2, 2), **_same(3)),
    "two blocks wide": stem_region((1, 3, 21, 260), 32, 3, pool=POOL3, pooled=(6, 65), strides=(2, 2), **_same(1)),
    "tensorflow": stem_region(
        (1, 3, 40, 40), 64, 7, nhwc=True, pool={**POOL3, "pads": (0, 0, 1, 1)}, pooled=(10, 10), strides=(2, 2),
        pads=(2, 2, 3, 3),
    ),
    "channels last, any width": stem_region((2, 3, 19, 23), 16, 3, nhwc=True, strides=(2, 2), **_same(1)),
    "half image": stem_region(
        (2, 3, 24, 32), 64, 7, image="float16", pool=POOL2, pooled=(6, 8), strides=(2, 2), **_same(3)
    ),
    "byte image": stem_region((2, 3, 24, 30), 24, 3, image="uint8", strides=(2, 2), **_same(1)),
    "mobilenet": stem_region(
        (2, 3, 32, 40), 32, 3, epilogue=RELU6, literals={"low": 0.0, "high": 6.0}, strides=(2, 2), **_same(1)
    ),
    "yolo": stem_region((1, 3, 64, 64), 16, 3, epilogue=SILU, strides=(2, 2), **_same(1)),
    "stride 1": stem_region((1, 3, 21, 18), 48, 3, **_same(1)),
    "four channels": stem_region((1, 4, 16, 20), 64, 3, pool=POOL2, pooled=(8, 10), **_same(1)),
    "grey": stem_region((2, 1, 28, 28), 20, 5, pool=POOL2, pooled=(14, 14), **_same(2)),
    "two channels": stem_region((1, 2, 18, 25), 8, (3, 5), strides=(1, 2), pads=(1, 2, 0, 2)),
    "patches": stem_region((1, 3, 32, 32), 96, 4, epilogue=(), strides=(4, 4)),
    "128 outputs": stem_region((1, 3, 20, 20), 128, 3, strides=(2, 2), **_same(1)),
    "rows far apart": stem_region((1, 3, 30, 24), 32, 3, dilations=(2, 1), pads=(2, 1, 2, 1)),
    "without bias": stem_region((1, 3, 24, 24), 40, 3, bias=False, epilogue=(), strides=(2, 2), **_same(1)),
    "bfloat16": stem_region(
        (1, 3, 32, 32), 64, 7, dtype="bfloat16", pool=POOL3, pooled=(8, 8), strides=(2, 2), **_same(3)
    ),
    "normalised": stem_region(
        (2, 3, 24, 28), 32, 3, before=(Op("Sub", ("x", "mean"), "c"), Op("Mul", ("c", "s"), "n")),
        constants={"mean": channel(3, "float32")}, literals={"s": 0.5}, strides=(2, 2), **_same(1),
    ),
    "quantized image": stem_region(
        (2, 3, 24, 28), 32, 3,
        before=(Op("QuantizeLinear", ("x", "s"), "q", dtype="uint8"), Op("DequantizeLinear", ("q", "s"), "d")),
        literals={"s": 0.03125}, strides=(2, 2), **_same(1),
    ),
    "scale, and Relu after the pooling": stem_region(
        (2, 3, 24, 28), 32, 3, epilogue=(Op("Mul", ("acc", "scale"), "act"),), pool=POOL3, pooled=(6, 7),
        after=(Op("Add", ("pool", "offset"), "sum"), Op("Relu", ("sum",), "out")),
        constants={"scale": channel(32), "offset": channel(32)}, strides=(2, 2), **_same(1),
    ),
    "float32 result": stem_region(
        (1, 3, 24, 28), 16, 3, epilogue=(*RELU, Op("Cast", ("act",), "wide", (("to", 1),))), strides=(2, 2), **_same(1),
        result=spec("float32", (1, 16, 12, 14), NHWC),
    ),
    "part of a concat": stem_region(
        (2, 3, 24, 28), 16, 3, strides=(2, 2), **_same(1),
        result=TensorSpec("float16", (2, 16, 12, 14), (12 * 14 * 40, 1, 14 * 40, 40), align=16),
    ),
}  # fmt: skip
