"""INVERTED Regions for kernel tests: 1 x 1 convolution, depthwise convolution, 1 x 1 convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from support.regions import build_region, random_inputs

from ingot.graph.dims import Bindings
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec

NHWC = channels_last(4)
CLIP = "Clip"


def inverted_region(
    x: tuple[int | str, int, int, int],
    hidden: int,
    cols: int,
    *,
    taps: int = 3,
    stride: int = 1,
    pads: tuple[int, int, int, int] | None = None,
    residual: str = "",
    act: str = CLIP,
    bounds: tuple[float, float] = (0.0, 6.0),
    widens: bool = True,
    biases: tuple[bool, bool, bool] = (True, True, True),
    dtype: str = "float16",
    specs: Mapping[str, TensorSpec] | None = None,
) -> Region:
    """``residual``: the tensor that is added to the result, ``x`` or another name. ``act``: behind all but the last.

    Without ``widens`` there is no first convolution, and ``hidden`` is the number of channels.
    """
    batch, channels, height, width = x
    pads = pads or (taps // 2,) * 4
    size = ((height + pads[0] + pads[2] - taps) // stride + 1, (width + pads[1] + pads[3] - taps) // stride + 1)
    wide, middle = spec(dtype, (batch, hidden, height, width), NHWC), spec(dtype, (batch, hidden, *size), NHWC)
    result = spec(dtype, (batch, cols, *size), NHWC)
    values = {"x": spec(dtype, x, NHWC), **_constants((channels, hidden, cols), taps, widens, biases, dtype)}
    if residual and residual != "x":
        values[residual] = result
    ops: list[BodyOp] = []
    inner: dict[str, TensorSpec] = {}

    def add(op: str, inputs: Sequence[str], out: str, like: TensorSpec, attrs: tuple = ()) -> str:
        ops.append(
            BodyOp(op, tuple(n for n in inputs if n in values or n in inner or n in ("low", "high")), (out,), attrs)
        )
        inner[out] = like
        return out

    def activated(source: str, like: TensorSpec) -> str:
        if act == CLIP:
            return add("Clip", (source, "low", "high"), f"{source}a", like)
        if act == "SiLU":
            return add("Mul", (source, add("Sigmoid", (source,), f"{source}s", like)), f"{source}a", like)
        return add(act, (source,), f"{source}a", like) if act else source

    last = activated(add("Conv", ("x", "we", "be"), "e", wide), wide) if widens else "x"
    attrs = (("group", hidden), ("pads", pads), ("strides", (stride, stride)))
    last = activated(add("Conv", (last, "wd", "bd"), "d", middle, attrs), middle)
    last = add("Conv", (last, "wp", "bp"), "p", result)
    if residual:
        last = add("Add", (residual, last), "y", result)
    literals = dict(zip(("low", "high"), bounds, strict=True)) if act == CLIP else {}
    region = build_region(Kind.INVERTED, values, ops, inner, (last,), literals)
    return region.with_specs(dict(specs or {}))


def _constants(
    sizes: tuple[int, int, int], taps: int, widens: bool, biases: tuple[bool, bool, bool], dtype: str
) -> dict[str, TensorSpec]:
    """Weights and biases of a block with so many channels, hidden ones and columns."""
    channels, hidden, cols = sizes
    widening = {"we": spec(dtype, (hidden, channels, 1, 1), NHWC, constant=True)} if widens else {}
    found = {
        **widening,
        "wd": spec(dtype, (hidden, 1, taps, taps), (1, 2, 3, 0), constant=True),
        "wp": spec(dtype, (cols, hidden, 1, 1), NHWC, constant=True),
    }
    lengths = {"be": hidden, "bd": hidden, "bp": cols}
    for (name, size), on in zip(lengths.items(), biases, strict=True):
        if on and (widens or name != "be"):
            found[name] = spec(dtype, (size,), constant=True)
    return found


def inverted_inputs(region: Region, bindings: Bindings | None = None) -> list[np.ndarray]:
    """Random inputs, weights scaled so that sums are of unit size."""
    arrays = random_inputs(region, bindings)
    for name in (n for n in ("we", "wd", "wp") if n in region.inputs):
        at = region.inputs.index(name)
        depth = float(np.prod(region.spec_of[name].shape[1:]))
        arrays[at] = (arrays[at].astype(np.float32) / depth**0.5).astype(arrays[at].dtype)
    return arrays


_PART = TensorSpec("float16", (2, 24, 9, 7), (63 * 64, 1, 7 * 64, 64), align=16)
CASES: dict[str, Region] = {
    "residual": inverted_region((2, 24, 9, 7), 48, 24, residual="x"),
    "another residual": inverted_region((1, 16, 6, 10), 32, 40, residual="r", act="Relu"),
    "stride 2": inverted_region((2, 16, 13, 11), 96, 24, stride=2),
    "5 x 5, SiLU": inverted_region((1, 40, 8, 9), 80, 40, taps=5, act="SiLU", residual="x"),
    "5 x 5, stride 2": inverted_region((1, 24, 11, 12), 72, 40, taps=5, stride=2, act="Relu"),
    "no biases, no activations": inverted_region((1, 32, 7, 7), 64, 16, act="", biases=(False, False, False)),
    "padded at one side": inverted_region((1, 16, 12, 12), 64, 24, stride=2, pads=(0, 0, 1, 1)),
    "without padding": inverted_region((1, 16, 10, 9), 32, 24, pads=(0, 0, 0, 0)),
    "channels in eights": inverted_region((1, 8, 7, 9), 40, 8),
    "many channels": inverted_region((1, 160, 7, 7), 320, 160, residual="x"),
    "bounds that are no halves": inverted_region((1, 16, 7, 6), 48, 24, bounds=(-0.3, 0.7)),
    "no expansion": inverted_region((1, 32, 9, 14), 32, 16, widens=False),
    "no expansion, padded": inverted_region((2, 40, 6, 7), 40, 40, widens=False, residual="x", act="SiLU", stride=1),
    "bfloat16": inverted_region((1, 24, 8, 8), 48, 24, residual="x", dtype="bfloat16"),
    "parts of others": inverted_region((2, 24, 9, 7), 32, 24, residual="r", specs={"x": _PART, "r": _PART, "y": _PART}),
}  # fmt: skip
