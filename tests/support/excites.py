"""EXCITE Regions for kernel tests: the mean, two 1 x 1 convolutions, a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from support.regions import Op, build_region

from ingot.graph.dims import Bindings, evaluate_shape
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, channels_last, spec

NHWC = channels_last(4)
SILU = (Op("Sigmoid", ("h",), "hs"), Op("Mul", ("h", "hs"), "ha"))
RELU = (Op("Relu", ("h",), "ha"),)
SIGMOID = (Op("Sigmoid", ("o",), "g"),)
HARD = (Op("HardSigmoid", ("o",), "g", (("alpha", 1.0 / 6.0), ("beta", 0.5))),)


def excite_region(
    x: tuple[int | str, int, int, int],
    hidden: int,
    *,
    dtype: str = "float16",
    act: Sequence[Op] = SILU,
    gate: Sequence[Op] = SIGMOID,
    biases: tuple[bool, bool] = (True, True),
    mean: str = "GlobalAveragePool",
    source: TensorSpec | None = None,
    result: TensorSpec | None = None,
    swapped: bool = False,
    literals: Mapping[str, float] | None = None,
) -> Region:
    """``act`` reads ``h`` and makes ``ha``; ``gate`` reads ``o`` and makes ``g``."""
    n, channels = x[0], x[1]
    values = {
        "x": source or spec(dtype, x, NHWC),
        "w1": spec(dtype, (hidden, channels, 1, 1), NHWC, constant=True),
        **({"b1": spec(dtype, (hidden,), constant=True)} if biases[0] else {}),
        "w2": spec(dtype, (channels, hidden, 1, 1), NHWC, constant=True),
        **({"b2": spec(dtype, (channels,), constant=True)} if biases[1] else {}),
    }
    small, large = spec(dtype, (n, hidden, 1, 1), NHWC), spec(dtype, (n, channels, 1, 1), NHWC)
    axes = {"axes": (2, 3)} if mean == "ReduceMean" else {}
    ops = [BodyOp(mean, ("x", *axes), ("m",), (("keepdims", 1),) if axes else ())]
    inner = {"m": large}

    def add(op: str, inputs: Sequence[str], out: str, like: TensorSpec, attrs: tuple = ()) -> None:
        ops.append(BodyOp(op, tuple(inputs), (out,), attrs))
        inner[out] = like

    add("Conv", ("m", "w1", *(["b1"] if biases[0] else [])), "h", small)
    for step in act:
        add(step.op, step.inputs, step.output, small, step.attrs)
    add("Conv", (act[-1].output if act else "h", "w2", *(["b2"] if biases[1] else [])), "o", large)
    for step in gate:
        add(step.op, step.inputs, step.output, large, step.attrs)
    last = ("x", "g") if swapped else ("g", "x")
    add("Mul", last, "y", result or spec(dtype, x, NHWC))
    return build_region(Kind.EXCITE, values, ops, inner, ("y",), {**axes, **(literals or {})})


def excite_inputs(region: Region, bindings: Bindings | None = None, seed: int = 0) -> list[np.ndarray]:
    """Channels of means far from zero, so that the products matter."""
    random = np.random.default_rng(seed)
    arrays = []
    for name, tensor in zip(region.inputs, region.input_specs, strict=True):
        shape = evaluate_shape(tensor.shape, bindings or {})
        array = random.standard_normal(shape)
        if name == "x":
            array += 2 * random.standard_normal((*shape[:2], 1, 1))
        elif name.startswith("w"):
            array /= shape[1] ** 0.5
        arrays.append(array.astype(np.dtype(tensor.dtype) if tensor.dtype != "bfloat16" else _bfloat16()))
    return arrays


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


CASES: dict[str, Region] = {
    "efficientnet": excite_region((2, 96, 9, 7), 4),
    "mobilenet": excite_region((1, 72, 7, 5), 24, act=RELU, gate=HARD),
    "few channels": excite_region((3, 8, 6, 6), 2),
    "more channels than threads": excite_region((1, 2304, 3, 3), 10),
    "bfloat16": excite_region((1, 64, 8, 8), 16, dtype="bfloat16"),
    "float32": excite_region((2, 20, 5, 9), 5, dtype="float32", swapped=True),
    "no biases": excite_region((1, 40, 7, 7), 10, biases=(False, False)),
    "a mean by axes": excite_region((2, 32, 7, 7), 8, mean="ReduceMean"),
    "part of another": excite_region(
        (2, 32, 4, 4), 8,
        source=TensorSpec("float16", (2, 32, 4, 4), (16 * 64, 1, 4 * 64, 64), align=64),
        result=TensorSpec("float16", (2, 32, 4, 4), (16 * 48, 1, 4 * 48, 48), align=32),
    ),
}  # fmt: skip
