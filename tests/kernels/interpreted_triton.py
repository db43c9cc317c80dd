"""Numerics of the Triton product kernels in Triton's interpreter; run by test_triton_numerics.py.

Triton decides at import whether it interprets, so this file needs TRITON_INTERPRET=1 in its process.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.interpreter import interpret
from support.regions import Op, assert_close, conv_region, gemm_region, random_inputs, reference, with_epilogue

from ingot.graph.dims import mul
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Target
from ingot.kernels.triton import product
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic
from ingot.kernels.triton.tile import Tile

TARGET = Target(80)
NHWC = (0, 2, 3, 1)
RELU = (Op("Relu", ("acc",), "out"),)
RESIDUAL = (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "out"))


def small(split: int = 1, m: int = 16, n: int = 16, k: int = 16) -> Tile:
    return Tile(m, n, k, 4, 2, split)


def check(tactic: ConvTactic | GemmTactic, region: Region, tile: Tile, bindings: dict[str, int] | None = None) -> None:
    answer = tactic.accepts(region, TARGET)
    assert answer, answer
    k, operands, _ = tactic.generate(region, tile.variant(tactic.name), TARGET)
    count = product.tiles(tile, operands)
    scratch = [(mul(count, tile.split * tile.m * tile.n * 4), False), (mul(count, 4), True)] if tile.split > 1 else []
    inputs = random_inputs(region, bindings)
    actual = interpret(region, k, (count, tile.split, 1), inputs, bindings, scratch)
    compare(region, actual, inputs, bindings)


def compare(
    region: Region, actual: list[np.ndarray], inputs: list[np.ndarray], bindings: dict[str, int] | None
) -> None:
    for name, got, want in zip(region.outputs, actual, reference(region, inputs, bindings), strict=True):
        assert_close(got, want, dtype=region.spec_of[name].dtype, depth=64)


@pytest.mark.parametrize("dtype", ["float16", "float32"])  # the interpreter multiplies the bits of bfloat16
def test_matmul_types(dtype: str) -> None:
    check(GemmTactic(), gemm_region((2, 19, 24), (24, 21), dtype=dtype, epilogue=RELU), small())


@pytest.mark.parametrize("split", [1, 2, 3])
def test_matmul_split(split: int) -> None:
    check(GemmTactic(), gemm_region((17, 96), (96, 40), epilogue=RELU), small(split))


@pytest.mark.parametrize(
    ("a", "b", "a_order", "b_order"),
    [
        ((3, 17, 24), (3, 24, 18), None, None),
        ((3, 17, 24), (3, 24, 18), (0, 2, 1), (0, 2, 1)),
        ((2, 1, 5, 24), (3, 24, 8), None, None),
        ((4, 7, 5), (5, 9), (1, 0, 2), None),
        ((1, 3, 5, 7), (2, 1, 7, 4), None, None),
        ((2, 3, 16), (16, 1), None, None),
    ],
)
def test_matmul_batches_and_strides(
    a: tuple[int, ...], b: tuple[int, ...], a_order: tuple[int, ...] | None, b_order: tuple[int, ...] | None
) -> None:
    check(GemmTactic(), gemm_region(a, b, a_order=a_order, b_order=b_order, constant_b=False), small())


@pytest.mark.parametrize(
    ("a", "b", "y"), [((24,), (24, 5), (5,)), ((3, 7, 24), (24,), (3, 7)), ((2, 24), (24, 1), (2, 1))]
)
def test_matmul_vectors(a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...]) -> None:
    inputs = {"a": spec("float16", a), "b": spec("float16", b)}
    anchor = BodyOp("MatMul", ("a", "b"), ("acc",))
    check(GemmTactic(), with_epilogue(Kind.GEMM, inputs, anchor, spec("float16", y), RELU), small())


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_op(trans_a: int, trans_b: int) -> None:
    inputs = {
        "a": spec("float16", (24, 18) if trans_a else (18, 24)),
        "b": spec("float16", (20, 24) if trans_b else (24, 20)),
        "c": spec("float16", (20,)),
    }
    attrs = (("alpha", 0.5), ("beta", 2.0), ("transA", trans_a), ("transB", trans_b))
    anchor = BodyOp("Gemm", ("a", "b", "c"), ("acc",), attrs)
    check(GemmTactic(), with_epilogue(Kind.GEMM, inputs, anchor, spec("float16", (18, 20)), RELU), small(2))


def test_symbolic_matmul() -> None:
    region = gemm_region(("N", "T", 24), (24, 20), epilogue=RELU)
    check(GemmTactic(), region, small(), {"N": 2, "T": 9})
    region = gemm_region(("N", 4, "T", 8), ("N", 4, 8, "T"), b_order=(0, 1, 3, 2), constant_b=False)
    check(GemmTactic(), region, small(), {"N": 2, "T": 19})


def test_epilogue_of_everything() -> None:
    extras = {
        "residual": spec("float16", (2, 12, 5, 6), NHWC),
        "channels_first": spec("float32", (2, 12, 5, 6)),
        "scale": spec("float16", (12, 1, 1)),
        "column": spec("float32", (6,)),
        "image": spec("float16", (2, 1, 1, 1)),
        "keep": spec("bool", (2, 12, 5, 6)),
        "one": spec("float32", (1,)),
    }
    ops = (
        Op("Mul", ("acc", "scale"), "va"),
        Op("Add", ("va", "residual"), "vb"),
        Op("Cast", ("vb",), "vc", (("to", 1),)),
        Op("Add", ("vc", "channels_first"), "vd"),
        Op("Mul", ("vd", "column"), "ve"),
        Op("Cast", ("image",), "image32", (("to", 1),)),
        Op("Sub", ("ve", "image32"), "vf"),
        Op("Where", ("keep", "vf", "low"), "vg"),
        Op("Clip", ("vg", "low", "high"), "vh"),
        Op("Sigmoid", ("vh",), "vi"),
        Op("Mul", ("vi", "one"), "wide"),
        Op("Cast", ("wide",), "half", (("to", 10),)),
        Op("Greater", ("wide", "threshold"), "mask", dtype="bool"),
    )
    region = conv_region(
        (2, 8, 5, 6), (12, 8, 1, 1), epilogue=ops, extras=extras,
        literals={"low": -2.0, "high": (6.0,), "threshold": 0.5}, outputs=("wide", "half", "mask", "vb"),
    )  # fmt: skip
    check(ConvTactic(), region, small())


CONVOLUTIONS = {
    "3x3": conv_region((2, 16, 9, 7), (24, 16, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "residual": conv_region(
        (2, 16, 6, 7),
        (20, 16, 3, 3),
        pads=(1, 1, 1, 1),
        epilogue=RESIDUAL,
        extras={"residual": spec("float16", (2, 20, 6, 7), NHWC)},
    ),
    "1x1": conv_region((2, 32, 5, 7), (24, 32, 1, 1), epilogue=RELU),
    "1x1 strided": conv_region((2, 32, 5, 7), (24, 32, 1, 1), strides=(2, 2)),
    "odd channels": conv_region((2, 19, 5, 7), (9, 19, 3, 3), pads=(1, 0, 0, 1), bias=False),
    "strided dilated": conv_region((1, 16, 13, 12), (8, 16, 3, 2), strides=(2, 3), dilations=(2, 1), pads=(2, 1, 1, 0)),
    "stem": conv_region((1, 3, 19, 17), (8, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3), x_order=(0, 1, 2, 3)),
    "stem channels-last": conv_region((2, 4, 9, 9), (8, 4, 3, 3), pads=(1, 1, 1, 1)),
    "grouped": conv_region((1, 48, 6, 5), (32, 24, 3, 3), pads=(1, 1, 1, 1), group=2),
    "grouped few": conv_region((1, 12, 6, 5), (16, 3, 3, 3), pads=(1, 1, 1, 1), group=4),
    "channels-first out": conv_region((2, 16, 5, 5), (8, 16, 3, 3), y_order=(0, 1, 2, 3)),
    "1-D": conv_region((2, 16, 21), (24, 16, 5), strides=(2,), pads=(2, 2)),
    "3-D": conv_region((1, 16, 4, 5, 6), (8, 16, 3, 3, 3), pads=(1, 1, 1, 1, 1, 1)),
    "float32": conv_region((1, 16, 5, 5), (8, 16, 3, 3), dtype="float32", pads=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str) -> None:
    check(ConvTactic(), CONVOLUTIONS[name], small())


@pytest.mark.parametrize("name", ["3x3", "residual", "1x1", "odd channels", "stem", "grouped"])
def test_split_convolution(name: str) -> None:
    check(ConvTactic(), CONVOLUTIONS[name], small(2))


def test_symbolic_convolution() -> None:
    region = conv_region(("N", 16, 6, 7), (20, 16, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
    check(ConvTactic(), region, small(2), {"N": 3})


def test_auto_pad() -> None:
    base = conv_region((1, 16, 7, 6), (8, 16, 3, 2), pads=(1, 0, 1, 1), strides=(1, 1))
    anchor = BodyOp("Conv", ("x", "w", "b"), ("acc",), (("auto_pad", "SAME_UPPER"), ("strides", (1, 1))))
    region = Region(base.kind, "same", base.inputs, base.outputs, (anchor,), base.values)
    check(ConvTactic(), region, small())


TRANSPOSED = {
    "2x2": {"w": (16, 8, 2, 2), "strides": (2, 2)},
    "4x4": {"w": (16, 8, 4, 4), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "3x3 odd": {"w": (16, 8, 3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 0)},
    "stride 1": {"w": (16, 8, 3, 3), "pads": (1, 1, 1, 1)},
    "dilated": {"w": (16, 8, 3, 2), "strides": (3, 2), "dilations": (2, 2), "pads": (1, 0, 0, 1)},
    "gaps": {"w": (16, 8, 1, 1), "strides": (2, 2), "output_padding": (1, 1)},
    "grouped": {"w": (16, 4, 4, 4), "strides": (2, 2), "pads": (1, 1, 1, 1), "group": 2},
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolution(name: str) -> None:
    region = conv_region((2, 16, 5, 6), transpose=True, epilogue=RELU, **TRANSPOSED[name])
    check(ConvTactic(), region, small())


DEPTHWISE = {
    "3x3": conv_region((2, 20, 6, 7), (20, 1, 3, 3), pads=(1, 1, 1, 1), group=20, epilogue=RELU),
    "5x5 strided": conv_region((1, 16, 11, 9), (16, 1, 5, 5), strides=(2, 2), pads=(2, 2, 2, 2), group=16),
    "multiplier": conv_region((1, 6, 5, 5), (12, 1, 3, 3), dilations=(2, 2), pads=(2, 2, 2, 2), group=6),
    "1-D": conv_region((1, 16, 20), (16, 1, 7), pads=(3, 3), group=16),
    "two pixels": conv_region((2, 4, 4), (4, 1, 4), group=4),
    "transposed": conv_region((1, 8, 5, 6), (8, 1, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), group=8, transpose=True),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str) -> None:
    region, tactic = DEPTHWISE[name], DepthwiseTactic()
    assert tactic.accepts(region, TARGET)
    variant = tactic.variants(region, TARGET, {})[0]
    k, _ = tactic.generate(region, variant, TARGET)
    inputs = random_inputs(region)
    compare(region, interpret(region, k, (tactic.blocks(region, variant), 1, 1), inputs), inputs, None)


def test_padded_strides() -> None:
    """A window on a wider channels-last tensor: the stride of a pixel is not the number of channels."""
    region = conv_region((1, 16, 5, 5), (8, 16, 3, 3), pads=(1, 1, 1, 1))
    wide_x = TensorSpec("float16", (1, 16, 5, 5), (5 * 5 * 40, 1, 5 * 40, 40), align=16)
    wide_y = TensorSpec("float16", (1, 8, 5, 5), (5 * 5 * 24, 1, 5 * 24, 24), align=16)
    check(ConvTactic(), region.with_specs({"x": wide_x, "acc": wide_y}), small())
