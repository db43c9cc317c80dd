"""``cuda.mma`` on the device: the instructions of sm_75 and those of later GPUs against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.gpu import check_case, run_program, target_from
from support.products import ADDED, CASES, GELU, NHWC, ONES, RELU, Case, with_windows
from support.quantized import quantized_conv, quantized_matmul
from support.regions import conv_region, gemm_region

from ingot.graph.tensor import spec
from ingot.kernels.api import Program, Target
from ingot.kernels.cuda.mma.cost import product_shape
from ingot.kernels.cuda.mma.operands import MmaOperands
from ingot.kernels.cuda.mma.source import ENTRY
from ingot.kernels.cuda.mma.tactic import MmaTactic, candidates, read
from ingot.kernels.cuda.mma.tile import MmaTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import quick_math

pytestmark = [pytest.mark.gpu]
MMA = MmaTactic()
FORMS = (75, 80)
"""Architectures whose instructions and copies are tried; both run on every later GPU."""


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(75)


def made_for(case: Case, tile: MmaTile, form: int, target: Target) -> Program:
    """The kernel as ``form`` has it, compiled for the device."""
    variant = tile.variant(MMA.name)
    text = MMA.source(case.region, variant, replace(target, cc=form)).text
    cubin = compile_cuda(text, ENTRY, target, options=quick_math(case.region)).cubin
    return MMA.program(case.region, variant, target, cubin)


def chosen(case: Case, form: Target, count: int) -> Sequence[MmaTile]:
    """The likeliest tile, then others that differ, at least one with a shared depth where there are any."""
    o = read(case.region, form)
    assert isinstance(o, MmaOperands), o
    tiles = candidates(product_shape(o, case.bindings), form)
    likeliest = MmaTile.of(MMA.variants(case.region, form, case.bindings)[0])
    shared = [tile for tile in tiles if tile.split > 1]
    return list(dict.fromkeys([likeliest, *tiles[:: max(1, len(tiles) // count)][:count], *shared[-1:]]))


def check(case: Case, target: Target, count: int = 1) -> None:
    for form in (f for f in FORMS if f <= target.cc):
        tiles = chosen(case, replace(target, cc=form, shared_per_block=65536), count)
        check_case(case, ((f"sm_{form}, {tile}", made_for(case, tile, form, target)) for tile in tiles))


@pytest.mark.parametrize("name", CASES)
def test_small_products(name: str, target: Target) -> None:
    check(CASES[name], target)


def test_windows(target: Target) -> None:
    check(with_windows(), target)


def test_bfloat16(target: Target) -> None:
    if target.cc < 80:
        pytest.skip("no bfloat16")
    case = Case(conv_region((2, 40, 14, 14), (72, 40, 3, 3), dtype="bfloat16", pads=ONES, epilogue=RELU))
    inputs = case.inputs()
    for tile in (MmaTile(64, 64, 64, 2, 2, 3), MmaTile(128, 32, 128, 4, 1, 3, split=2)):
        case.check(inputs, run_program(case.region, made_for(case, tile, 80, target), inputs))


LARGE = {
    "body": Case(conv_region((2, 256, 14, 14), (256, 256, 3, 3), pads=ONES, epilogue=ADDED,
                             extras={"residual": spec("float16", (2, 256, 14, 14), NHWC)})),
    "last": Case(conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=ONES, epilogue=RELU)),
    "expand": Case(conv_region((3, 64, 28, 28), (256, 64, 1, 1), epilogue=RELU)),
    "downsample": Case(conv_region((2, 256, 28, 28), (512, 256, 1, 1), strides=(2, 2))),
    "projection": Case(gemm_region((1, 128, 768), (768, 3072), epilogue=GELU)),
    "long": Case(gemm_region((128, 3072), (3072, 768))),
    "classes": Case(gemm_region((1, 2048), (2048, 1000))),
    "bytes": Case(quantized_conv((2, 128, 14, 14), (128, 128, 3, 3), pads=ONES, residual=True)),
    "byte matrices": Case(quantized_matmul((300, 512), (512, 256), a_type="uint8")),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_layers_of_real_networks(name: str, target: Target) -> None:
    check(LARGE[name], target, 4)


TILES = [
    (256, 64, 4, 2), (128, 128, 2, 4), (128, 128, 2, 2), (128, 64, 2, 2), (64, 128, 2, 2), (64, 64, 2, 2),
    (128, 32, 4, 1), (32, 128, 1, 4), (64, 32, 2, 2), (32, 64, 2, 2), (32, 32, 2, 2), (64, 16, 4, 1), (16, 64, 1, 4),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m, n, warps_m, warps_n", TILES)
def test_every_tile(m: int, n: int, warps_m: int, warps_n: int, form: int, target: Target) -> None:
    case = Case(gemm_region((150, 200), (200, 136), epilogue=RELU))
    inputs = case.inputs()
    for depth, split in ((64, 1), (128, 2)):
        tile = MmaTile(m, n, depth, warps_m, warps_n, 2 if form < 80 else 3, split)
        case.check(inputs, run_program(case.region, made_for(case, tile, form, target), inputs))
