"""Kernels for quantized tensors on the device: sums exact, the rest to one step of quantization."""

from __future__ import annotations

import random

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.quantized import FLOAT8, assert_quantized, exact, quantized_conv, quantized_inputs, quantized_matmul

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Tactic, Target, Variant
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("deadlocks_trap")]
PADS = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def target() -> Target:
    found = device_target()
    if found is None:
        pytest.skip("no GPU")
    return found


def chosen(tactic: Tactic, region: Region, target: Target, bindings: dict[str, int]) -> list[Variant]:
    """The likeliest variants, and of the Hopper kernel one of every form; of others some with split-K."""
    variants = list(tactic.variants(region, target, bindings))
    if not isinstance(tactic, HopperTactic):
        split = [v for v in variants if dict(v.params).get("split", 1) > 1]
        return list(dict.fromkeys([variants[0], *random.Random(7).sample(variants, min(3, len(variants))), *split[:1]]))
    o = operands(region)
    assert isinstance(o, Operands)
    forms = {
        (t.units, t.groups, t.ping, t.cluster, t.slide > 0, t.split > 1, t.resident, t.keep > 0, t.dealt): t.variant(
            tactic.name
        )
        for t in candidates(o, bindings)
    }
    picked = list(forms.values())
    return list(dict.fromkeys([variants[0], *picked[:: max(1, len(picked) // 9)]]))


def check(tactic: Tactic, region: Region, target: Target, bindings: dict[str, int] | None = None) -> None:
    bindings = bindings or {}
    answer = tactic.accepts(region, target)
    if not answer and ("sm_90" in str(answer) or "FP8" in str(answer)):
        pytest.skip(str(answer))
    assert answer, answer
    inputs = quantized_inputs(region, bindings)
    want = exact(region, inputs, bindings)
    for variant in chosen(tactic, region, target, bindings):
        (got,) = run_program(region, tactic.compile(region, variant, target), inputs, bindings)
        try:
            assert_quantized(got, want, rough=region.spec_of["x"].dtype == FLOAT8)
        except AssertionError as error:
            raise AssertionError(f"{variant}: {error}") from None


CONVOLUTIONS = {
    "body": quantized_conv((2, 256, 14, 14), (256, 256, 3, 3), pads=PADS, residual=True),
    "unsigned": quantized_conv((2, 64, 28, 28), (64, 64, 3, 3), pads=PADS, x_type="uint8", out="uint8"),
    "zero points": quantized_conv((2, 64, 15, 13), (72, 64, 3, 3), pads=PADS, offset=(15, 13), zero=9),
    "stride": quantized_conv((2, 128, 29, 27), (128, 128, 3, 3), strides=(2, 2), pads=PADS, out="float16"),
    "expand": quantized_conv((8, 64, 28, 28), (256, 64, 1, 1), residual=True),
    "downsample": quantized_conv((2, 256, 28, 28), (512, 256, 1, 1), strides=(2, 2), out="float32"),
    "16 channels": quantized_conv((2, 16, 21, 19), (32, 16, 3, 3), pads=PADS),
    "48 channels": quantized_conv((2, 48, 21, 19), (29, 48, 3, 3), pads=PADS, offset=None),
    "dilated": quantized_conv((1, 64, 33, 31), (48, 64, 3, 3), pads=(4, 2, 4, 2), dilations=(4, 2)),
    "1-D": quantized_conv((2, 64, 77), (96, 64, 5), pads=(2, 2)),
    "FP8": quantized_conv((2, 128, 14, 14), (128, 128, 3, 3), pads=PADS, residual=True, x_type=FLOAT8, out=FLOAT8),
    "FP8 to float16": quantized_conv((2, 64, 14, 14), (64, 64, 1, 1), x_type=FLOAT8, out="float16"),
}
PRODUCTS = {
    "projection": quantized_matmul((1, 128, 768), (768, 768), out="float16"),
    "wide": quantized_matmul((300, 768), (768, 3072), residual=True),
    "unsigned": quantized_matmul((77, 256), (256, 96), a_type="uint8", out="uint8", zero=4),
    "scores": quantized_matmul((12, 128, 64), (12, 64, 128), constant_b=False, offset=False),
    "FP8": quantized_matmul((300, 256), (256, 320), a_type=FLOAT8, out=FLOAT8),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_hopper_convolution(name: str, target: Target) -> None:
    check(HopperTactic(), CONVOLUTIONS[name], target)


@pytest.mark.parametrize("name", PRODUCTS)
def test_hopper_product(name: str, target: Target) -> None:
    check(HopperTactic(), PRODUCTS[name], target)


def test_hopper_sums_are_exact(target: Target) -> None:
    region = quantized_matmul((70, 4096), (4096, 64), out="float32")
    inputs = quantized_inputs(region)
    inputs[0], inputs[1] = np.full_like(inputs[0], 127), np.full_like(inputs[1], 127)
    inputs[0][:, ::2] = 126
    inputs[region.inputs.index("scale")][:] = 1.0
    tactic = HopperTactic()
    if not tactic.accepts(region, target):
        pytest.skip("not sm_90")
    for variant in chosen(tactic, region, target, {}):
        (got,) = run_program(region, tactic.compile(region, variant, target), inputs)
        np.testing.assert_array_equal(got, exact(region, inputs))


def test_hopper_symbolic_batch(target: Target) -> None:
    region = quantized_conv(("N", 64, 14, 14), (64, 64, 3, 3), pads=PADS, residual=True)
    check(HopperTactic(), region, target, {"N": 3})


def test_hopper_gaps_between_pixels(target: Target) -> None:
    """32 channels in rows of 48: what lies between pixels is not read."""
    region = quantized_conv((2, 32, 9, 9), (40, 32, 3, 3), pads=PADS)
    x = TensorSpec("int8", (2, 32, 9, 9), (81 * 48, 1, 9 * 48, 48))
    check(HopperTactic(), region.with_specs({"x": x}), target)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_triton_convolution(name: str, target: Target) -> None:
    check(ConvTactic(), CONVOLUTIONS[name], target)


@pytest.mark.parametrize("name", PRODUCTS)
def test_triton_product(name: str, target: Target) -> None:
    check(GemmTactic(), PRODUCTS[name], target)


@pytest.mark.parametrize("x_type", ["int8", "uint8", FLOAT8])
def test_depthwise(x_type: str, target: Target) -> None:
    out = FLOAT8 if x_type == FLOAT8 else "int8"
    region = quantized_conv((2, 96, 15, 14), (96, 1, 3, 3), x_type=x_type, out=out, pads=PADS, group=96)
    check(DepthwiseTactic(), region, target)
