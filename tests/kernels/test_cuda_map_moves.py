"""``cuda.map``, index maps: every op against ONNX Runtime, on the CPU and the device; refusals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler
from support.maps import MAP, Case, check_on_host, one_op

from ingot.graph.dims import Dim, Shape
from ingot.graph.op_table import ANCHOR_KIND
from ingot.graph.region import Attr, Kind, Literal, Scalar
from ingot.graph.tensor import TensorSpec, channels_last, spec
from ingot.kernels.cuda.maps.moves import MOVES

NHWC = channels_last(4)
Inputs = Mapping[str, TensorSpec]


def half(*shape: int | str) -> TensorSpec:
    return spec("float16", shape)


def single(*shape: int | str) -> TensorSpec:
    return spec("float32", shape)


def nhwc(*shape: int | str, dtype: str = "float16") -> TensorSpec:
    return spec(dtype, shape, NHWC)


def symbolic_slice(x: TensorSpec, start: Dim, end: Dim, step: int, shape: Shape, **bindings: int) -> Case:
    literals: dict[str, Literal] = {"s": (start,), "e": (end,), "a": (0,), "t": (step,)}
    return one_op("Slice", {"x": x}, literals=literals, shape=shape, bindings=bindings)


def stretched(op: str, x: TensorSpec, shape: Shape, bindings: dict[str, int], **attrs: Attr) -> Case:
    return one_op(op, {"x": x}, shape=shape, bindings=bindings, **attrs)


def counted(start: Scalar, end: Scalar | str, step: Scalar, dtype: str, shape: Shape | None = None, **b: int) -> Case:
    literals: dict[str, Literal] = {"s": start, "e": end, "d": step}
    return one_op("Range", {"x": single(1)}, literals=literals, operands="sed", dtype=dtype, shape=shape, bindings=b)


RESHAPES = [
    one_op("Reshape", {"x": half(4, 6, 8)}, literals={"s": (24, 8)}),
    one_op("Reshape", {"x": half(4, 6, 8)}, literals={"s": (2, 2, 48)}),
    one_op("Reshape", {"x": spec("float16", (4, 6, 8), (1, 0, 2))}, literals={"s": (3, 64)}),
    one_op("Reshape", {"x": nhwc(2, 8, 3, 5)}, literals={"s": (2, 120)}),
    one_op("Reshape", {"x": half("n", 4, 8)}, literals={"s": ("n", 32)}, shape=("n", 32), bindings={"n": 3}),
    one_op("Reshape", {"x": half("n", 4, 8)}, literals={"s": ("4*n", 8)}, shape=("4*n", 8), bindings={"n": 3}),
    one_op("Squeeze", {"x": single(1, 3, 1, 5)}, literals={"a": (0, 2)}),
    one_op("Unsqueeze", {"x": single(3, 5)}, literals={"a": (0, -1)}),
    one_op("Flatten", {"x": nhwc(2, 3, 4, 5, dtype="uint8")}, axis=2),
    one_op("Reshape", {"x": half(1, 1)}, literals={"s": ()}, shape=()),
]
TRANSPOSES = [
    one_op("Transpose", {"x": half(2, 16, 24)}, perm=(0, 2, 1)),
    one_op("Transpose", {"x": half(2, 5, 3, 16)}, perm=(0, 2, 1, 3)),
    one_op("Transpose", {"x": single(3, 4, 5)}),
    one_op("Transpose", {"x": nhwc("n", 8, 4, 4)}, perm=(0, 2, 3, 1), shape=("n", 4, 4, 8), bindings={"n": 2}),
    one_op("Transpose", {"x": spec("int64", (3, 1, 7))}, perm=(2, 0, 1)),
]
SLICES = [
    one_op("Slice", {"x": half(6, 40)}, literals={"s": (1, 8), "e": (5, 32), "a": (0, 1)}),
    one_op("Slice", {"x": half(6, 40)}, literals={"s": (3,), "e": (-3,), "a": (1,), "t": (2,)}),
    one_op("Slice", {"x": half(6, 41)}, literals={"s": (-1,), "e": (-1000,), "a": (-1,), "t": (-3,)}),
    one_op("Slice", {"x": single(7, 5)}, literals={"s": (100, -100), "e": (-100, 100), "a": (0, 1), "t": (-1, 1)}),
    one_op("Slice", {"x": single(4, 4)}, literals={"s": (2,), "e": (2,), "a": (0,)}),
    symbolic_slice(half("n", 16), -3, "n", 1, (3, 16), n=8),
    symbolic_slice(half("n", 16), "n - 2", "n", 1, (2, 16), n=8),
    symbolic_slice(half("n", 4), "0 - m", "n", 1, ("m", 4), n=8, m=3),
    symbolic_slice(half("n", 4), -1, -(1 << 62), -1, ("n", 4), n=5),
    symbolic_slice(half("n", 4), "n - 1", -(1 << 62), -2, ("ceil(n/2)", 4), n=6),
    symbolic_slice(half("n", 4), -9, 2, 1, ("min(n, 2)", 4), n=6),
    one_op("Split", {"x": half(4, 24)}, literals={"p": (8, 16)}, outputs=("u", "v"), axis=1),
    one_op("Split", {"x": half(7, 8)}, outputs=("u", "v", "w"), num_outputs=3),
    one_op("Split", {"x": nhwc(2, 6, 3, 3)}, outputs=("u", "v"), num_outputs=2, axis=-3),
]  # fmt: skip
EXPANDS = [
    one_op("Expand", {"x": half(3, 1, 8)}, literals={"s": (2, 3, 4, 8)}),
    one_op("Expand", {"x": half(3, 4)}, literals={"s": (1, 1)}),
    one_op("Expand", {"x": single(1, 5)}, literals={"s": ("n", 5)}, shape=("n", 5), bindings={"n": 4}),
    one_op("Tile", {"x": half(3, 8)}, literals={"r": (2, 3)}),
    one_op("Tile", {"x": single(1, 5)}, literals={"r": (4, 1)}),
    one_op("Tile", {"x": single("n", 5)}, literals={"r": (2, 1)}, shape=("2*n", 5), bindings={"n": 3}),
]
CONCATS = [
    one_op("Concat", {"a": half(2, 8), "b": half(3, 8)}, axis=0),
    one_op("Concat", {"a": half(4, 8), "b": half(4, 24), "c": half(4, 16)}, axis=-1),
    one_op("Concat", {"a": half(4, 3), "b": half(4, 5)}, axis=1),
    one_op("Concat", {"a": nhwc(2, 8, 3, 3), "b": nhwc(2, 16, 3, 3)}, axis=1, order=NHWC),
    one_op("Concat", {"a": single("n", 4), "b": single("m", 4)}, axis=0, shape=("n + m", 4), bindings={"n": 2, "m": 3}),
    one_op("Concat", {"a": single(2, 0), "b": single(2, 3)}, axis=1),
    one_op("Concat", {"a": spec("int64", (1,)), "b": spec("int64", (2,))}, axis=0, operands=("a", "b", "a")),
]
PADS = [
    one_op("Pad", {"x": nhwc(1, 8, 5, 5)}, literals={"p": (0, 0, 1, 2, 0, 0, 3, 0)}, order=NHWC),
    one_op("Pad", {"x": half(3, 5)}, literals={"p": (1, 2, 0, 3), "v": 1.5}),
    one_op("Pad", {"x": half(3, 8)}, literals={"p": (0, 8, 0, 8), "v": (-1.0,)}),
    one_op("Pad", {"x": single(4, 6)}, literals={"p": (-1, 2, 1, -2)}),
    one_op("Pad", {"x": single(4, 6)}, literals={"p": (2, 1), "v": 3.0, "a": (-1,)}),
    one_op("Pad", {"x": single(4, 6)}, literals={"p": (2, 1), "a": (0,)}, operands=("x", "p", "", "a"), mode="reflect"),
    one_op("Pad", {"x": half(5, 6)}, literals={"p": (4, 2, 3, 5)}, mode="reflect"),
    one_op("Pad", {"x": half(2, 3)}, literals={"p": (3, 1, 2, 2)}, mode="edge"),
    one_op("Pad", {"x": half(4, 3)}, literals={"p": (3, 1, 2, 2)}, mode="wrap"),
    one_op("Pad", {"x": single("n", 4)}, literals={"p": (1, 0, 2, 0)}, shape=("n + 3", 4), bindings={"n": 3}),
    one_op("Pad", {"x": spec("int32", (3,))}, literals={"p": (2, 2), "v": 7}),
    one_op("Pad", {"x": spec("uint8", (3, 3))}, literals={"p": (0, 1, 0, 1), "v": 255}),
]


def lookup(op: str, data: TensorSpec, indices: np.ndarray, dtype: str = "int64", **attrs: int) -> Case:
    inputs = {"x": data, "i": spec(dtype, indices.shape)}
    return one_op(op, inputs, feeds={"i": indices}, **attrs)


LOOKUPS = [
    lookup("Gather", half(10, 16), np.array([[3, -1], [0, 9]])),
    lookup("Gather", half(10, 16), np.array([5, -16, 15]), axis=1),
    lookup("Gather", single(4, 7, 3), np.array(2), axis=-2),
    lookup("Gather", single(4, 7, 3), np.zeros((0,)), axis=1),
    lookup("Gather", half(6, 8), np.array([1, -2], np.int32), "int32"),
    one_op("Gather", {"x": half(6, 8)}, literals={"i": 3}, shape=(8,), axis=0),
    one_op("Gather", {"x": half(6, 8)}, literals={"i": (-1,)}, shape=(6, 1), axis=1),
    lookup("GatherElements", single(3, 4), np.array([[0, -1, 2, 1], [1, 1, 0, -3]]), axis=0),
    lookup("GatherElements", half(3, 8), np.array([[0, 7], [-8, 1], [4, 4]]), axis=1),
    lookup("GatherND", single(3, 4, 5), np.array([[0, 1], [-1, -1]])),
    lookup("GatherND", half(3, 4, 8), np.array([[[1], [3]], [[0], [-1]], [[2], [2]]]), batch_dims=1),
    lookup("GatherND", single(2, 3), np.array([[0, 0], [1, 2], [-1, -3]])),
]
BLOCKS = [
    one_op("DepthToSpace", {"x": half(2, 16, 3, 5)}, blocksize=2),
    one_op("DepthToSpace", {"x": nhwc(1, 32, 3, 4)}, blocksize=2, mode="DCR", order=NHWC),
    one_op("DepthToSpace", {"x": single(1, 18, 2, 3)}, blocksize=3, mode="CRD"),
    stretched("DepthToSpace", half("n", 16, 3, "w"), ("n", 4, 6, "2*w"), {"n": 2, "w": 5}, blocksize=2),
    one_op("SpaceToDepth", {"x": half(2, 3, 4, 6)}, blocksize=2),
    one_op("SpaceToDepth", {"x": nhwc(1, 8, 6, 3)}, blocksize=3, order=NHWC),
    one_op("SpaceToDepth", {"x": half(2, 3, 4, 6)}, blocksize=2, mode="CRD"),
]  # fmt: skip
FILLS = [
    one_op("Trilu", {"x": half(2, 5, 8)}),
    one_op("Trilu", {"x": half(5, 8)}, literals={"k": -1}, upper=0),
    one_op("Trilu", {"x": spec("bool", (4, 4))}, literals={"k": 2}, upper=1),
    one_op("OneHot", {"i": spec("int64", (2, 3))}, literals={"d": 11, "v": (0.0, 2.5)}, dtype="float32"),
    one_op("OneHot", {"i": spec("int64", (4,))}, literals={"d": (10,), "v": (1, -1)}, dtype="int64", axis=0),
    one_op("EyeLike", {"x": single(3, 5)}, k=1),
    one_op("EyeLike", {"x": single(4, 3)}, dtype="int64", extra={"dtype": 7}, k=-1),
    one_op("ConstantOfShape", {"x": single(1)}, literals={"s": (3, 5)}, operands=("s",), dtype="int64", value=7),
    one_op("ConstantOfShape", {"x": single(1)}, literals={"s": ("n", 8)}, operands=("s",), dtype="float16", value=0.5,
           shape=("n", 8), bindings={"n": 3}),
    counted(2, 20, 3, "int64"),
    counted(1.0, 0.0, -0.25, "float32"),
    counted(0, "n", 1, "int64", ("n",), n=9),
    one_op("Shape", {"x": half("n", 3, "2*n")}, dtype="int64", shape=(3,), bindings={"n": 4}),
    one_op("Shape", {"x": half(2, 3, 4)}, dtype="int64", start=1, end=-1),
    one_op("Size", {"x": half("n", 3)}, dtype="int64", shape=(), bindings={"n": 4}),
]  # fmt: skip


@pytest.mark.parametrize("op", sorted(k for k, v in ANCHOR_KIND.items() if v in (Kind.MAP, Kind.VIEW)))
def test_every_index_map_has_code(op: str) -> None:
    assert op in MOVES


MOVED = [*RESHAPES, *TRANSPOSES, *SLICES, *EXPANDS, *CONCATS, *PADS, *LOOKUPS, *BLOCKS, *FILLS]


@needs_compiler
@pytest.mark.parametrize("case", MOVED, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    check_on_host(case)


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", MOVED, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = case.inputs()
    for variant in MAP.variants(case.region, target, case.bindings):
        program = MAP.compile(case.region, variant, target)
        case.check(run_program(case.region, program, inputs, case.bindings), inputs)
