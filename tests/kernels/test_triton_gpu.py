"""The Triton product kernels on the device: several variants of every family, odd shapes, split-K, strides."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.regions import Op, assert_close, conv_region, gemm_region, random_inputs, reference

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Tactic, Target, Variant
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu]
NHWC = (0, 2, 3, 1)
RELU = (Op("Relu", ("acc",), "out"),)


@pytest.fixture(scope="module")
def target() -> Target:
    found = device_target()
    if found is None:
        pytest.skip("no GPU")
    return found


def several(
    tactic: Tactic, region: Region, target: Target, bindings: dict[str, int], count: int = 5
) -> Sequence[Variant]:
    """The likeliest variant and a seeded choice among the others, at least one with split-K where there is any."""
    variants = list(tactic.variants(region, target, bindings))
    assert variants
    chosen = [variants[0], *random.Random(7).sample(variants[1:], min(count - 1, len(variants) - 1))]
    split = [v for v in variants if dict(v.params).get("split", 1) > 1]
    return dict.fromkeys([*chosen, *split[:2]]).keys()  # type: ignore[return-value]


def check(
    tactic: Tactic, region: Region, target: Target, bindings: dict[str, int] | None = None, depth: int = 64
) -> None:
    bindings = bindings or {}
    answer = tactic.accepts(region, target)
    assert answer, answer
    inputs = random_inputs(region, bindings)
    inputs[1] = (inputs[1].astype(np.float32) / depth**0.5).astype(inputs[1].dtype)
    wanted = reference(region, inputs, bindings)
    for variant in several(tactic, region, target, bindings):
        program = tactic.compile(region, variant, target)
        actual = run_program(region, program, inputs, bindings)
        for name, got, want in zip(region.outputs, actual, wanted, strict=True):
            try:
                assert_close(got, want, dtype=region.spec_of[name].dtype, depth=9)
            except AssertionError as error:
                raise AssertionError(f"{variant}: {error}") from None


def residual(shape: tuple[int, ...]) -> dict[str, object]:
    return {
        "epilogue": (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "out")),
        "extras": {"residual": spec("float16", shape, NHWC)},
    }


CONVOLUTIONS = {
    "body": conv_region((1, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), **residual((1, 256, 14, 14))),
    "last": conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "expand": conv_region((8, 64, 28, 28), (256, 64, 1, 1), **residual((8, 256, 28, 28))),
    "downsample": conv_region((2, 256, 28, 28), (512, 256, 1, 1), strides=(2, 2)),
    "stem": conv_region(
        (2, 3, 112, 112), (64, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3), x_order=(0, 1, 2, 3), epilogue=RELU
    ),
    "odd": conv_region((3, 37, 13, 11), (29, 37, 3, 3), pads=(1, 1, 1, 1), dilations=(1, 1), epilogue=RELU),
    "dilated": conv_region((1, 64, 33, 31), (48, 64, 3, 3), pads=(4, 4, 4, 4), dilations=(4, 4)),
    "grouped": conv_region((2, 128, 14, 14), (128, 32, 3, 3), pads=(1, 1, 1, 1), group=4, epilogue=RELU),
    "channels-first": conv_region(
        (2, 32, 15, 15), (24, 32, 3, 3), pads=(1, 1, 1, 1), x_order=(0, 1, 2, 3), y_order=(0, 1, 2, 3)
    ),
    "1-D": conv_region((2, 64, 77), (96, 64, 5), pads=(2, 2), epilogue=RELU),
    "3-D": conv_region((1, 32, 5, 9, 9), (32, 32, 3, 3, 3), pads=(1, 1, 1, 1, 1, 1)),
    "bfloat16": conv_region((1, 64, 14, 14), (64, 64, 3, 3), dtype="bfloat16", pads=(1, 1, 1, 1), epilogue=RELU),
    "float32": conv_region((1, 48, 14, 14), (40, 48, 3, 3), dtype="float32", pads=(1, 1, 1, 1), epilogue=RELU),
    "up 2x2": conv_region((1, 64, 20, 20), (64, 32, 2, 2), strides=(2, 2), transpose=True, epilogue=RELU),
    "up 4x4": conv_region((1, 64, 13, 15), (64, 32, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1), transpose=True),
    "up 3x3": conv_region(
        (1, 64, 13, 15), (64, 32, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1), transpose=True
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, target: Target) -> None:
    region = CONVOLUTIONS[name]
    weight = region.spec_of["w"].shape
    check(ConvTactic(), region, target, depth=int(np.prod(weight[1:], dtype=int)))  # type: ignore[arg-type]


def test_symbolic_batch(target: Target) -> None:
    region = conv_region(("N", 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
    check(ConvTactic(), region, target, {"N": 3}, depth=576)


def test_window_on_a_wider_tensor(target: Target) -> None:
    region = conv_region((1, 64, 9, 9), (32, 64, 3, 3), pads=(1, 1, 1, 1))
    wide_x = TensorSpec("float16", (1, 64, 9, 9), (81 * 160, 1, 9 * 160, 160), align=16)
    wide_y = TensorSpec("float16", (1, 32, 9, 9), (81 * 96, 1, 9 * 96, 96), align=16)
    check(ConvTactic(), region.with_specs({"x": wide_x, "acc": wide_y}), target, depth=576)


DEPTHWISE = {
    "3x3": conv_region(
        (2, 96, 28, 28), (96, 1, 3, 3), pads=(1, 1, 1, 1), group=96, epilogue=(Op("HardSwish", ("acc",), "out"),)
    ),
    "5x5": conv_region((1, 75, 15, 17), (75, 1, 5, 5), strides=(2, 2), pads=(2, 2, 2, 2), group=75),
    "transposed": conv_region(
        (1, 32, 11, 13), (32, 1, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group=32, transpose=True
    ),
    "1-D": conv_region((1, 64, 300), (64, 1, 9), pads=(4, 4), group=64, epilogue=RELU),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str, target: Target) -> None:
    check(DepthwiseTactic(), DEPTHWISE[name], target, depth=9)


PRODUCTS = {
    "projection": gemm_region((1, 128, 768), (768, 768), epilogue=(Op("Gelu", ("acc",), "out"),)),
    "wide": gemm_region((128, 768), (768, 3072), epilogue=RELU),
    "long": gemm_region((128, 3072), (3072, 768)),
    "weights transposed": gemm_region((77, 256), (256, 96), b_order=(1, 0)),
    "scores": gemm_region((1, 12, 128, 64), (1, 12, 64, 128), b_order=(0, 1, 3, 2), constant_b=False),
    "heads": gemm_region(
        (1, 12, 128, 128), (1, 12, 128, 64), b_order=(0, 2, 1, 3), y_order=(0, 2, 1, 3), constant_b=False
    ),
    "odd": gemm_region((3, 37, 53), (53, 41), epilogue=RELU),
    "one row": gemm_region((1, 2048), (2048, 1000)),
    "a transposed": gemm_region((96, 64), (64, 80), a_order=(1, 0), constant_b=False),
    "bfloat16": gemm_region((64, 128), (128, 64), dtype="bfloat16"),
    "float32": gemm_region((50, 128), (128, 70), dtype="float32", epilogue=RELU),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(name: str, target: Target) -> None:
    region = PRODUCTS[name]
    check(GemmTactic(), region, target, depth=int(region.spec_of["a"].shape[-1]))


@pytest.mark.parametrize("seed", range(12))
def test_random_convolution(seed: int, target: Target) -> None:
    rng = random.Random(seed)
    c, k = rng.choice([1, 3, 8, 16, 24, 40, 64]), rng.randint(1, 70)
    size = (rng.randint(1, 5), rng.randint(1, 5))
    x = (rng.randint(1, 3), c, rng.randint(9, 30), rng.randint(9, 30))
    region = conv_region(
        x, (k, c, *size), strides=(rng.randint(1, 3), rng.randint(1, 3)),
        pads=tuple(rng.randint(0, 2) for _ in range(4)),
        dilations=(rng.randint(1, 2), rng.randint(1, 2)), epilogue=RELU,
    )  # fmt: skip
    check(ConvTactic(), region, target, depth=c * size[0] * size[1])
