"""Hopper products whose last waves are dealt out by steps: tiles of every form, on a device of few SMs or on all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from support.products import ADDED, GELU, NHWC, ONES, RELU, Case
from support.quantized import FLOAT8, quantized_conv, quantized_matmul
from support.regions import conv_region, gemm_region

from ingot.graph.dtypes import itemsize
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Program, Target
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.hopper.tile import HopperTile

TACTIC = HopperTactic()
FEW = (3, 7, 132)
"""Numbers of SMs: several waves and a part of one, and less than a wave."""
_BATCHED = TensorSpec("float16", ("N", 64, 14, 14), (14 * 14 * 64, 1, 14 * 64, 64))

CASES = {
    "body": Case(conv_region((2, 256, 14, 14), (256, 256, 3, 3), pads=ONES, epilogue=ADDED,
                             extras={"residual": spec("float16", (2, 256, 14, 14), NHWC)})),
    "last": Case(conv_region((1, 512, 7, 7), (512, 512, 3, 3), pads=ONES, epilogue=RELU)),
    "odd": Case(conv_region((3, 72, 29, 27), (136, 72, 3, 3), strides=(2, 1), pads=(0, 1, 1, 0), epilogue=RELU)),
    "pointwise": Case(conv_region((5, 520, 9, 11), (200, 520, 1, 1))),
    "bfloat16": Case(conv_region((2, 64, 19, 17), (96, 64, 3, 3), dtype="bfloat16", pads=ONES, epilogue=RELU)),
    "batch of 3": Case(conv_region(("N", 64, 14, 14), (64, 64, 3, 3), pads=ONES, epilogue=RELU)
                       .with_specs({"x": _BATCHED}), {"N": 3}),
    "product": Case(gemm_region((300, 768), (768, 776), epilogue=GELU)),
    "members": Case(gemm_region((3, 150, 640), (3, 640, 136), b_order=(0, 2, 1), constant_b=False)),
    "bytes": Case(quantized_conv((2, 256, 15, 13), (264, 256, 3, 3), pads=ONES, residual=True)),
    "unsigned": Case(quantized_conv((3, 144, 17, 14), (128, 144, 3, 3), pads=ONES, x_type="uint8", out="uint8")),
    "byte matrices": Case(quantized_matmul((270, 1040), (1040, 288), a_type="uint8")),
}  # fmt: skip
"""By name."""
FLOATS = Case(quantized_conv((2, 256, 14, 14), (128, 256, 3, 3), pads=ONES, residual=True, x_type=FLOAT8, out=FLOAT8))
"""FP8, whose results are compared by steps of quantization."""


def tiles(region: Region, case: Case, most: int = 6) -> list[HopperTile]:
    """Tiles of all forms with their steps dealt out, at most about so many."""
    o = operands(region)
    assert isinstance(o, Operands)
    forms: dict[tuple[int, ...], HopperTile] = {}
    for tile in candidates(o, case.bindings):
        stream = replace(tile, stream=1, stages=2)
        if tile.cluster == tile.split == 1 and not tile.keep and stream.fits(itemsize(o.a.dtype)):
            form = tile.units, tile.groups, tile.ping, tile.resident, min(tile.slide, 1), tile.dealt
            forms.setdefault(
                form, replace(stream, stages=3) if replace(stream, stages=3).fits(itemsize(o.a.dtype)) else stream
            )
    every = list(forms.values())
    turns = [tile for tile in every if tile.ping]
    return list(dict.fromkeys([*every[:: -(-len(every) // most)], *turns[:1]]))


def programs(case: Case, target: Target, most: int = 6) -> Iterable[tuple[object, Program]]:
    """Those tiles compiled, for few SMs and for all, by what they are."""
    for number, tile in enumerate(tiles(case.region, case, most)):
        sms = FEW[number % len(FEW)]
        yield (tile, sms), TACTIC.compile(case.region, tile.variant(TACTIC.name), replace(target, sms=sms))
