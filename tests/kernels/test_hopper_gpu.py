"""The Hopper product kernel on the device: every form of tile and operand against the reference in high precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from support.gpu import run_program
from support.regions import Op, assert_close, conv_region, gemm_region, random_inputs, reference

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.hopper.tile import HopperTile

pytestmark = [pytest.mark.gpu]
NHWC = (0, 2, 3, 1)
RELU = (Op("Relu", ("acc",), "out"),)
TACTIC = HopperTactic()


def chosen(region: Region, target: Target, bindings: dict[str, int], count: int = 6) -> Sequence[HopperTile]:
    """The likeliest tile, then those that differ most: every form (units, groups, turns, cluster) at least once."""
    likeliest = HopperTile.of(TACTIC.variants(region, target, bindings)[0])
    o = operands(region)
    assert isinstance(o, Operands)
    forms: dict[tuple[int, ...], HopperTile] = {}
    for number, tile in enumerate(candidates(o, bindings)):
        key = (tile.units, tile.groups, tile.ping, tile.cluster, tile.resident, tile.slide, tile.split, tile.keep > 0,
               tile.dealt)  # fmt: skip
        if key not in forms or number % 5 == len(forms) % 5:
            forms[key] = tile
    every = list(forms.values())
    slid, shared, kept, dealt = (
        [tile for tile in every if getattr(tile, what) > least]
        for what, least in (("slide", 0), ("split", 1), ("keep", 0), ("dealt", 0))
    )
    return list(
        dict.fromkeys(
            [
                likeliest,
                *slid[:2],
                *shared[:1],
                *shared[-1:],
                *kept[:2],
                *kept[-1:],
                *dealt[:1],
                *dealt[-1:],
                *every[:: max(1, len(forms) // count)],
            ]
        )
    )


def check(region: Region, target: Target, bindings: dict[str, int] | None = None, depth: int = 64) -> None:
    bindings = bindings or {}
    answer = TACTIC.accepts(region, target)
    assert answer, answer
    inputs = random_inputs(region, bindings)
    inputs[1] = (inputs[1].astype(np.float32) / depth**0.5).astype(inputs[1].dtype)
    wanted = reference(region, inputs, bindings)
    for tile in chosen(region, target, bindings):
        program = TACTIC.compile(region, tile.variant(TACTIC.name), target)
        actual = run_program(region, program, inputs, bindings)
        for name, got, want in zip(region.outputs, actual, wanted, strict=True):
            try:
                assert_close(got, want, dtype=region.spec_of[name].dtype, depth=4)
            except AssertionError as error:
                raise AssertionError(f"{tile}: {error}") from None


def residual(shape: tuple[int, ...], dtype: str = "float16") -> dict[str, object]:
    return {
        "epilogue": (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "out")),
        "extras": {"residual": spec(dtype, shape, NHWC)},
    }


CONVOLUTIONS = {
    "body": conv_region((2, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), **residual((2, 256, 14, 14))),
    "last": conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "64 channels": conv_region((3, 64, 28, 28), (64, 64, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "expand": conv_region((8, 64, 28, 28), (256, 64, 1, 1), **residual((8, 256, 28, 28))),
    "downsample": conv_region((2, 256, 28, 28), (512, 256, 1, 1), strides=(2, 2)),
    "stride": conv_region((2, 128, 29, 27), (128, 128, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), epilogue=RELU),
    "one sided": conv_region((2, 64, 15, 18), (72, 64, 3, 3), strides=(2, 1), pads=(0, 1, 1, 0), epilogue=RELU),
    "rectangle": conv_region((2, 64, 17, 13), (64, 64, 1, 7), pads=(0, 3, 0, 3), epilogue=RELU),
    "tall": conv_region((2, 64, 17, 13), (64, 64, 5, 1), pads=(2, 0, 2, 0), dilations=(1, 1)),
    "dilated": conv_region((1, 64, 33, 31), (48, 64, 3, 3), pads=(4, 2, 4, 2), dilations=(4, 2)),
    "8 channels": conv_region((2, 8, 37, 41), (64, 8, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3), epilogue=RELU),
    "16 channels": conv_region((2, 16, 21, 19), (32, 16, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "24 channels": conv_region((2, 24, 21, 19), (40, 24, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "40 channels": conv_region((2, 40, 21, 19), (24, 40, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU),
    "72 channels": conv_region((2, 72, 21, 19), (29, 72, 1, 1), epilogue=(Op("Gelu", ("acc",), "out"),)),
    "silu": conv_region(
        (2, 32, 20, 20), (64, 32, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1),
        epilogue=(Op("Sigmoid", ("acc",), "gate"), Op("Mul", ("acc", "gate"), "out")),
    ),
    "scale by channel": conv_region(
        (2, 64, 9, 9), (64, 64, 1, 1), epilogue=(Op("Mul", ("acc", "scale"), "out"),),
        extras={"scale": spec("float16", (2, 64, 1, 1), NHWC)},
    ),
    "bfloat16": conv_region(
        (1, 64, 14, 14), (64, 64, 3, 3), dtype="bfloat16", pads=(1, 1, 1, 1), **residual((1, 64, 14, 14), "bfloat16")
    ),
    "1-D": conv_region((2, 64, 77), (96, 64, 5), pads=(2, 2), epilogue=RELU),
    "many": conv_region((5, 64, 56, 56), (64, 64, 1, 1), epilogue=RELU),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, sm90: Target) -> None:
    region = CONVOLUTIONS[name]
    weight = region.spec_of["w"].shape
    check(region, sm90, depth=int(np.prod(weight[1:], dtype=int)))  # type: ignore[arg-type]


def test_symbolic_batch(sm90: Target) -> None:
    region = conv_region(("N", 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
    check(region, sm90, {"N": 3}, depth=576)


def test_symbolic_height(sm90: Target) -> None:
    region = conv_region((2, 32, 20, 24), (64, 32, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
    x = TensorSpec("float16", ("N", 32, "H", 24), ("H*768", 1, 768, 32))
    y = TensorSpec("float16", ("N", 64, "H", 24), ("H*1536", 1, 1536, 64))
    check(region.with_specs({"x": x, "acc": y, "out": y}), sm90, {"N": 2, "H": 11}, depth=288)


def test_window_on_a_wider_tensor(sm90: Target) -> None:
    region = conv_region((2, 64, 9, 9), (32, 64, 3, 3), pads=(1, 1, 1, 1))
    wide_x = TensorSpec("float16", (2, 64, 9, 9), (81 * 160, 1, 9 * 160, 160), align=16)
    wide_y = TensorSpec("float16", (2, 32, 9, 9), (81 * 96, 1, 9 * 96, 96), align=16)
    check(region.with_specs({"x": wide_x, "acc": wide_y}), sm90, depth=576)


def test_two_outputs_and_a_literal(sm90: Target) -> None:
    region = conv_region(
        (2, 64, 9, 9), (64, 64, 1, 1), epilogue=(Op("Mul", ("acc", "two"), "twice"), Op("Relu", ("twice",), "out")),
        literals={"two": 2.0}, outputs=("acc", "out"),
    )  # fmt: skip
    check(region, sm90)


PRODUCTS = {
    "projection": gemm_region((1, 128, 768), (768, 768), epilogue=(Op("Gelu", ("acc",), "out"),)),
    "wide": gemm_region((300, 768), (768, 3072), epilogue=RELU),
    "long": gemm_region((128, 3072), (3072, 768)),
    "weights transposed": gemm_region((77, 256), (256, 96), b_order=(1, 0)),
    "scores": gemm_region((1, 12, 128, 64), (1, 12, 64, 128), b_order=(0, 1, 3, 2), constant_b=False),
    "values": gemm_region((1, 12, 128, 128), (1, 12, 128, 64), constant_b=False),
    "narrow": gemm_region((3, 40, 56), (56, 40), epilogue=RELU),
    "one row": gemm_region((1, 2048), (2048, 1000)),
    "bfloat16": gemm_region((64, 128), (128, 64), dtype="bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(name: str, sm90: Target) -> None:
    region = PRODUCTS[name]
    check(region, sm90, depth=int(region.spec_of["a"].shape[-1]))
