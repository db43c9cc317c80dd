"""Numerics of the Triton kernels for bytes in Triton's interpreter; run by test_triton_numerics.py.

The interpreter has no FP8; that runs on a device (test_quantized_gpu.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from support.interpreter import interpret
from support.quantized import assert_quantized, exact, quantized_conv, quantized_inputs, quantized_matmul

from ingot.graph.dims import mul
from ingot.graph.region import Region
from ingot.kernels.api import Target, Variant
from ingot.kernels.triton import product
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic
from ingot.kernels.triton.tile import Tile

TARGET = Target(80)


def check(
    tactic: ConvTactic | GemmTactic, region: Region, split: int = 1, bindings: dict[str, int] | None = None
) -> None:
    tile = Tile(16, 16, 32, 4, 2, split)
    answer = tactic.accepts(region, TARGET)
    assert answer, answer
    k, operands, _ = tactic.generate(region, tile.variant(tactic.name), TARGET)
    count = product.tiles(tile, operands)
    scratch = [(mul(count, split * tile.m * tile.n * 4), False), (mul(count, 4), True)] if split > 1 else []
    inputs = quantized_inputs(region, bindings)
    (got,) = interpret(region, k, (count, split, 1), inputs, bindings, scratch)
    assert_quantized(got, exact(region, inputs, bindings))


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("x_type", ["int8", "uint8"])
def test_convolution(x_type: str, split: int) -> None:
    region = quantized_conv((2, 40, 5, 6), (19, 40, 3, 3), x_type=x_type, pads=(1, 1, 1, 1), residual=True, zero=5)
    check(ConvTactic(), region, split)


def test_image_and_pixels_offset() -> None:
    check(ConvTactic(), quantized_conv((1, 3, 9, 9), (16, 3, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    check(ConvTactic(), quantized_conv((2, 32, 5, 6), (16, 32, 3, 3), pads=(1, 1, 1, 1), offset=(5, 6), out="uint8"))


@pytest.mark.parametrize("out", ["int8", "float16", "float32"])
def test_product(out: str) -> None:
    check(GemmTactic(), quantized_matmul((3, 7, 72), (72, 21), out=out, residual=True), 2)


def test_product_of_activations() -> None:
    region = quantized_matmul((2, 17, 40), (2, 40, 18), constant_b=False, b_order=(0, 1, 2), offset=False)
    check(GemmTactic(), region)


@pytest.mark.parametrize("x_type", ["int8", "uint8"])
def test_depthwise(x_type: str) -> None:
    region = quantized_conv((2, 20, 7, 6), (20, 1, 3, 3), x_type=x_type, pads=(1, 1, 1, 1), strides=(2, 1), group=20)
    tactic = DepthwiseTactic()
    assert tactic.accepts(region, TARGET)
    variant = Variant(tactic.name, (("bm", 8), ("bc", 16), ("warps", 1)))
    k, _ = tactic.generate(region, variant, TARGET)
    inputs = quantized_inputs(region)
    (got,) = interpret(region, k, (tactic.blocks(region, variant), 1, 1), inputs)
    assert_quantized(got, exact(region, inputs))


def test_sums_are_exact_where_floats_are_not() -> None:
    region = quantized_matmul((4, 4096), (4096, 16), out="float32")
    inputs = quantized_inputs(region)
    inputs[0], inputs[1] = np.full_like(inputs[0], 127), np.full_like(inputs[1], 127)
    inputs[0][:, ::2] = 126
    inputs[region.inputs.index("scale")][:] = 1.0
    tile = Tile(16, 16, 32, 4, 2, 1)
    k, operands, _ = GemmTactic().generate(region, tile.variant("triton.gemm"), TARGET)
    (got,) = interpret(region, k, (product.tiles(tile, operands), 1, 1), inputs)
    np.testing.assert_array_equal(got, exact(region, inputs))
