"""Ops in the forms of opsets 7 to 20, each as one node with data: what an upgrade must not change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx

Array = np.ndarray[Any, Any]
_RANDOM = np.random.default_rng(7)
_LAST = 20


@dataclass(frozen=True)
class OldOp:
    """A node with its attributes and inputs, and the opsets in which this form is valid."""

    op: str
    first: int
    last: int
    inputs: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, Array | None] = field(default_factory=dict)
    """Further inputs by position; None for one that is left out."""
    outputs: int = 1

    def __str__(self) -> str:
        attributes = ",".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.op}({attributes})"

    def opsets(self) -> list[int]:
        """The first and last of the opsets, and those in between in which the op changed."""
        inside = {v for v in _versions()[self.op] if self.first <= v <= self.last}
        return sorted(inside | {v - 1 for v in inside if v > self.first} | {self.first, self.last})


@cache
def _versions() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            found.setdefault(schema.name, set()).add(schema.since_version)
    return found


def _real(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _floats(*values: float) -> Array:
    return np.array(values, np.float32)


X = _real(2, 3, 4, 5)
ONE = np.abs(X) + np.float32(0.1)


def _op(
    op: str,
    opsets: tuple[int, int],
    *inputs: Array,
    const: Mapping[int, Array | None] | None = None,
    outputs: int = 1,
    **attributes: Any,
) -> OldOp:
    return OldOp(op, opsets[0], opsets[1], inputs, attributes, const or {}, outputs)


def _axis_ops() -> Iterator[OldOp]:
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        yield _op(op, (7, _LAST), X)
        yield from (_op(op, (7, _LAST), X, axis=axis) for axis in (0, 1, 3))
        yield _op(op, (11, _LAST), X, axis=-1)
    sums = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSum")
    for op in (*sums, "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare"):
        span = (7, 12 if op == "ReduceSum" else 17)
        yield _op(op, span, ONE)
        yield _op(op, span, ONE, axes=[1, 3], keepdims=0)
        yield _op(op, (11, span[1]), ONE, axes=[-1])
    for op in ("ArgMax", "ArgMin"):
        yield _op(op, (7, _LAST), X, axis=1)
        yield _op(op, (11, _LAST), X, axis=-1, keepdims=0)
    yield _op("Squeeze", (7, 12), _real(1, 3, 1, 5), axes=[0, 2])
    yield _op("Squeeze", (7, 12), _real(1, 3, 1, 5))
    yield _op("Unsqueeze", (7, 12), _real(3, 5), axes=[0, 2])
    yield _op("Unsqueeze", (11, 12), _real(3, 5), axes=[-1])
    yield _op("Flatten", (7, _LAST), X, axis=2)
    yield _op("Concat", (7, _LAST), X, X, axis=1)
    yield _op("Concat", (11, _LAST), X, X, axis=-1)
    yield _op("TopK", (7, 9), X, k=2, axis=1, outputs=2)
    yield _op("TopK", (10, _LAST), X, axis=1, const={1: _ints(2)}, outputs=2)
    yield _op("Split", (7, 12), X, axis=1, split=[1, 2], outputs=2)
    yield _op("Split", (7, 17), X, axis=2, outputs=2)
    yield _op("Slice", (7, 9), X, starts=[0, 1], ends=[2, 100], axes=[0, 2])
    yield _op("Slice", (7, 9), X, starts=[0, 1], ends=[2, -1])
    yield _op("Slice", (10, _LAST), X, const={1: _ints(1), 2: _ints(-1), 3: _ints(-1)})
    yield _op("CumSum", (11, _LAST), _real(3, 4), const={1: np.array(1)})
    yield _op("OneHot", (9, _LAST), _ints(0, 2, 1), axis=-1, const={1: _ints(3), 2: _floats(0, 1)})


def _resizing_ops() -> Iterator[OldOp]:
    none = _floats()
    for scales in (_floats(1, 1, 2, 3), _floats(1, 1, 1.5, 2.4), _floats(1, 1, 0.5, 0.6), _floats(1, 1, 0.4, 2.5)):
        for mode in ("nearest", "linear"):
            if scales.min() >= 1:
                yield _op("Upsample", (7, 8), X, mode=mode, scales=scales.tolist())
                yield _op("Upsample", (9, 9), X, mode=mode, const={1: scales})
            yield _op("Resize", (10, 10), X, mode=mode, const={1: scales})
            for positions in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"):
                attributes = {"mode": mode, "coordinate_transformation_mode": positions}
                yield _op("Resize", (11, _LAST), X, const={1: none, 2: scales}, **attributes)
    cubic = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    yield _op("Resize", (11, _LAST), X, const={1: none, 2: _floats(1, 1, 1.5, 2.4)}, **cubic)
    yield _op("Resize", (11, _LAST), X, mode="linear", const={1: none, 2: none, 3: _ints(2, 3, 7, 9)})
    yield _op("Resize", (13, _LAST), X, mode="linear", const={1: None, 2: None, 3: _ints(2, 3, 7, 9)})
    crop = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}
    box = _floats(0, 0, 0.2, 0.1, 1, 1, 0.8, 1.2)
    yield _op("Resize", (11, _LAST), X, const={1: box, 2: _floats(1, 1, 1.5, 2.4)}, **crop)
    pads = [0, 0, 1, 2, 0, 0, 3, 1]
    yield _op("Pad", (7, 10), X, pads=pads, value=1.5)
    yield _op("Pad", (7, 10), X, pads=pads, mode="reflect")
    yield _op("Pad", (11, _LAST), X, mode="edge", const={1: _ints(*pads)})


def _normalising_ops() -> Iterator[OldOp]:
    statistics = {1: _real(3), 2: _real(3), 3: _real(3), 4: np.abs(_real(3)) + np.float32(0.1)}
    yield _op("BatchNormalization", (7, _LAST), X, const=statistics, epsilon=1e-3)
    yield _op("BatchNormalization", (7, 8), X, const=statistics, spatial=1)
    yield _op("BatchNormalization", (7, 13), X, const=statistics, momentum=0.5)
    each = {1: _real(3, 4, 5), 2: _real(3, 4, 5), 3: _real(3, 4, 5), 4: np.abs(_real(3, 4, 5)) + np.float32(0.1)}
    yield _op("BatchNormalization", (7, 8), X, const=each, spatial=0)
    yield _op("InstanceNormalization", (7, _LAST), X, const={1: _real(3), 2: _real(3)})
    yield _op("LRN", (7, _LAST), X, size=3)
    yield _op("LpNormalization", (7, _LAST), X, axis=1)
    yield _op("LayerNormalization", (17, _LAST), X, axis=-1, const={1: _real(5), 2: _real(5)})
    for groups in (1, 3, 6):
        both = {1: _real(groups), 2: _real(groups)}
        yield _op("GroupNormalization", (18, _LAST), _real(2, 6, 4), num_groups=groups, const=both)
    yield _op("Dropout", (7, 11), X, ratio=0.3)
    yield _op("Dropout", (12, _LAST), X)
    yield _op("MeanVarianceNormalization", (9, _LAST), X, axes=[0, 2, 3])


def _pointwise_ops() -> Iterator[OldOp]:
    yield _op("Clip", (7, 10), X)
    yield _op("Clip", (7, 10), X, min=-0.5, max=0.5)
    yield _op("Clip", (7, 10), X, min=0.0)
    yield _op("Clip", (7, 10), X, max=0.0)
    yield _op("Clip", (11, _LAST), X, const={1: np.array(-0.5, np.float32)})
    for to in (1, 6, 7, 9, 10, 11):
        yield _op("Cast", (7, _LAST), X * 3, to=to)
    for op in ("Elu", "HardSigmoid", "Identity", "LeakyRelu", "Selu", "Softplus"):
        yield _op(op, (7, _LAST), X)
    for op in ("Add", "Div", "Mul", "Pow", "Sub"):
        yield _op(op, (7, _LAST), ONE, const={1: np.abs(_real(5))})
    for op in ("Max", "Mean", "Min", "Sum"):
        yield _op(op, (8, _LAST), X, const={1: _real(5)})
    yield _op("PRelu", (7, _LAST), X, const={1: _real(3, 1, 1)})
    yield _op("Where", (9, _LAST), X > 0, const={1: _real(5), 2: _real(5)})
    yield _op("Equal", (7, _LAST), np.arange(6, dtype=np.int32), const={1: np.array([3], np.int32)})
    yield _op("Less", (7, _LAST), X, const={1: _floats(0)})
    yield _op("Mod", (10, _LAST), X, fmod=1, const={1: _floats(0.7)})
    yield _op("HardSwish", (14, _LAST), X)
    scale, zero = np.array(0.1, np.float32), np.array(10, np.uint8)
    yield _op("QuantizeLinear", (10, _LAST), X, const={1: scale, 2: zero})
    yield _op("DequantizeLinear", (10, _LAST), np.arange(6, dtype=np.uint8), const={1: scale, 2: zero})
    per_channel = {1: _floats(0.1, 0.2, 0.3), 2: np.array([10, 0, 3], np.uint8)}
    yield _op("QuantizeLinear", (13, _LAST), X, axis=1, const=per_channel)


def _window_ops() -> Iterator[OldOp]:
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    for op in ("MaxPool", "AveragePool", "LpPool"):
        yield _op(op, (7, _LAST), X, **window)
        yield _op(op, (7, _LAST), X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    yield _op("AveragePool", (7, _LAST), X, count_include_pad=1, **window)
    ceil = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    yield _op("MaxPool", (10, _LAST), X, outputs=2, **ceil)
    yield _op("AveragePool", (10, _LAST), X, **ceil)
    yield _op("Conv", (7, _LAST), X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], const={1: _real(4, 3, 3, 3), 2: _real(4)})
    kernel = {1: _real(3, 4, 3, 3)}
    yield _op("ConvTranspose", (7, _LAST), X, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", const=kernel)
    yield _op("ConvTranspose", (7, _LAST), X, kernel_shape=[3, 3], strides=[2, 2], output_shape=[9, 11], const=kernel)
    grid = np.clip(_real(2, 3, 3, 2), -1, 1)
    for mode in ("bilinear", "bicubic"):
        yield _op("GridSample", (16, 19), X, mode=mode, align_corners=1, const={1: grid})
    yield _op("GridSample", (16, _LAST), X, mode="nearest", padding_mode="border", const={1: grid})
    boxes = {1: np.array([[0, 0, 5, 5], [1, 2, 6, 7]], np.float32), 2: _ints(0, 0)}
    for mode in ("avg", "max"):
        yield _op("RoiAlign", (10, _LAST), _real(1, 2, 8, 8), output_height=2, output_width=2, mode=mode, const=boxes)


def _moving_ops() -> Iterator[OldOp]:
    yield _op("Gather", (7, _LAST), X, axis=2, const={1: _ints(0, 2)})
    yield _op("GatherND", (11, _LAST), X, const={1: _ints(0, 1).reshape(1, 2)})
    somewhere = {1: np.zeros((2, 1, 4, 5), np.int64), 2: _real(2, 1, 4, 5)}
    yield _op("Scatter", (9, 10), X, axis=1, const=somewhere)
    yield _op("ScatterElements", (11, _LAST), X, axis=1, const=somewhere)
    yield _op("ScatterND", (11, _LAST), X, const={1: _ints(0, 1).reshape(1, 2), 2: _real(1, 4, 5)})
    yield _op("DepthToSpace", (7, _LAST), _real(1, 8, 2, 3), blocksize=2)
    yield _op("SpaceToDepth", (7, _LAST), _real(1, 2, 4, 6), blocksize=2)
    yield _op("Reshape", (7, _LAST), X, const={1: _ints(0, -1)})
    yield _op("Expand", (8, _LAST), _real(3, 1), const={1: _ints(2, 3, 4)})
    yield _op("Tile", (7, _LAST), _real(3, 1), const={1: _ints(2, 3)})
    yield _op("Transpose", (7, _LAST), X, perm=[0, 2, 3, 1])
    yield _op("Shape", (7, _LAST), X)
    yield _op("NonZero", (9, _LAST), (X > 0).astype(np.float32))
    yield _op("Unique", (11, _LAST), _floats(1, 1, 2))
    yield _op("ReverseSequence", (10, _LAST), _real(4, 2), const={1: _ints(2, 3)})


def _product_ops() -> Iterator[OldOp]:
    yield _op("MatMul", (7, _LAST), _real(2, 3, 4), const={1: _real(4, 5)})
    yield _op("Gemm", (7, _LAST), _real(3, 4), transB=1, alpha=0.5, const={1: _real(6, 4), 2: _real(6)})
    yield _op("Gemm", (11, _LAST), _real(3, 4), const={1: _real(4, 6)})
    yield _op("Einsum", (12, _LAST), _real(2, 3), equation="ij->ji")
    weights = {1: _real(1, 20, 3), 2: _real(1, 20, 5), 3: _real(1, 40)}
    yield _op("LSTM", (7, _LAST), _real(4, 2, 3), hidden_size=5, const=weights, outputs=3)
    weights = {1: _real(1, 15, 3), 2: _real(1, 15, 5), 3: _real(1, 30)}
    yield _op("GRU", (7, _LAST), _real(4, 2, 3), hidden_size=5, linear_before_reset=1, const=weights, outputs=2)
    yield _op("DFT", (17, 19), _real(1, 8, 1), axis=1)
    yield _op("DFT", (17, 19), _real(2, 8, 1))


def old_ops() -> Iterable[OldOp]:
    """Every case."""
    for group in (_axis_ops, _resizing_ops, _normalising_ops, _pointwise_ops, _window_ops, _moving_ops, _product_ops):
        yield from group()
