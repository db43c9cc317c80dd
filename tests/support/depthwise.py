"""Depthwise convolutions of floats with weights as a build lays them out: channels innermost."""

from __future__ import annotations

from support.products import ADDED, NHWC, RELU, SILU, Case
from support.regions import Op, conv_region

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec


def depthwise(
    x: tuple[int | str, int, int, int], taps: tuple[int, int] = (3, 3), *, dtype: str = "float16", **options: object
) -> Region:
    """``group`` = channels; other options as of ``conv_region``."""
    channels = x[1]
    region = conv_region(x, (channels, 1, *taps), dtype=dtype, group=channels, **options)  # type: ignore[arg-type]
    return region.with_specs({"w": spec(dtype, (channels, 1, *taps), (1, 2, 3, 0), constant=True)})


ONE = (1, 1, 1, 1)
_WIDER = TensorSpec("float16", (2, 16, 7, 7), (49 * 48, 1, 7 * 48, 48), align=32)
CASES = {
    "plain": Case(depthwise((2, 24, 7, 6), pads=ONE)),
    "stride 2": Case(depthwise((2, 8, 9, 10), pads=ONE, strides=(2, 2), epilogue=RELU)),
    "stride 2 before, not after": Case(depthwise((1, 16, 8, 8), pads=(0, 0, 1, 1), strides=(2, 2), epilogue=RELU)),
    "strides 2 and 1": Case(depthwise((1, 8, 9, 7), pads=ONE, strides=(2, 1))),
    "5 x 5": Case(depthwise((1, 40, 9, 8), (5, 5), pads=(2, 2, 2, 2), epilogue=SILU)),
    "5 x 5, stride 2": Case(depthwise((2, 8, 12, 11), (5, 5), pads=(1, 2, 2, 2), strides=(2, 2), epilogue=SILU)),
    "7 x 7": Case(depthwise((1, 16, 8, 9), (7, 7), pads=(3, 3, 3, 3))),
    "no padding": Case(depthwise((1, 8, 6, 7), (2, 3), bias=False)),
    "residual": Case(depthwise((1, 16, 6, 6), pads=ONE, epilogue=ADDED,
                               extras={"residual": spec("float16", (1, 16, 6, 6), NHWC)})),
    "float32": Case(depthwise((1, 12, 6, 5), dtype="float32", pads=ONE, epilogue=RELU)),
    "bfloat16": Case(depthwise((1, 16, 6, 5), dtype="bfloat16", pads=ONE, epilogue=RELU)),
    "into float32": Case(depthwise((1, 16, 5, 5), pads=ONE, epilogue=(Op("Cast", ("acc",), "out", (("to", 1),)),))),
    "part of another": Case(depthwise((2, 16, 7, 7), pads=ONE).with_specs({"x": _WIDER})),
    "symbolic batch": Case(depthwise(("n", 8, 5, 4), pads=ONE), {"n": 3}),
}  # fmt: skip
"""By name."""
