"""``cuda.gemv``: numerics on the CPU, refusals, variants, machine code for every target."""

from __future__ import annotations

import pytest
from support.few_rows import CASES
from support.host_cuda import needs_compiler, run_on_host
from support.products import ONES
from support.quantized import quantized_matmul
from support.regions import conv_region, gemm_region, refused

from ingot.builder.targets import TARGETS, gpu_target
from ingot.graph.region import Region
from ingot.kernels.api import Kernel, Pdl, Program, Target, Variant
from ingot.kernels.cuda.gemv.source import ENTRY
from ingot.kernels.cuda.gemv.tactic import GemvTactic
from ingot.kernels.cuda.gemv.tile import GemvTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates as offered

GEMV = GemvTactic()
SM90 = gpu_target("sm_90")
CLASSES = gemm_region((1, 2048), (2048, 1000), b_order=(1, 0))


def check(name: str, tile: GemvTile) -> None:
    case = CASES[name]
    inputs = case.inputs()
    source = GEMV.source(case.region, tile.variant(GEMV.name))
    kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), tile.threads, 0, source.arguments)
    case.check(inputs, run_on_host(source.text, Program((kernel,)), case.region, inputs, case.bindings))


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    case = CASES[name]
    assert GEMV.accepts(case.region, SM90)
    check(name, GemvTile.of(GEMV.variants(case.region, SM90, case.bindings)[0]))


@needs_compiler
@pytest.mark.parametrize(
    ("name", "tile"),
    [
        ("three rows", GemvTile(lanes=128, columns=2, threads=128, held=1)),
        ("three rows", GemvTile(lanes=4, columns=4, threads=64, held=2)),
        ("odd depth", GemvTile(lanes=8, columns=1, threads=64, held=4)),
        ("values", GemvTile(lanes=64, columns=1, threads=64, held=1)),
        ("columns contiguous", GemvTile(lanes=8, columns=1, threads=256, held=8)),
    ],
)
def test_other_tiles_on_the_host(name: str, tile: GemvTile) -> None:
    check(name, tile)


def test_refusals() -> None:
    def reason(region: Region) -> str:
        return refused(GEMV, region, SM90)

    assert "9 rows" in reason(gemm_region((9, 64), (64, 64)))
    assert "N rows" in reason(gemm_region(("N", 64), (64, 64)))
    assert "window" in reason(conv_region((1, 16, 3, 3), (16, 16, 3, 3), pads=ONES))
    assert "grouped" in reason(conv_region((1, 16, 1, 1), (16, 8, 1, 1), group=2))
    assert "int8" in reason(quantized_matmul((1, 64), (64, 64)))
    assert "symbolic number of columns" in reason(gemm_region((1, 64), (64, "N"), constant_b=False))


@pytest.mark.parametrize("name", ["classifier", "values", "squeeze", "deep", "depth of one"])
def test_variants(name: str) -> None:
    case = CASES[name]
    variants = GEMV.variants(case.region, SM90, case.bindings)
    assert 0 < len(variants) == len(set(variants))
    times = [GEMV.estimate(case.region, v, SM90, case.bindings) for v in variants]
    assert times == sorted(times) and 0 < times[0] < 2e-5
    assert all(Variant.parse(str(v)) == v == GemvTile.of(v).variant(GEMV.name) for v in variants)


def test_it_is_measured_beside_other_products() -> None:
    found = {one.variant.tactic for one in offered(CLASSES, SM90, {}, TACTICS).shortlist(3)}
    assert {"cuda.gemv", "triton.gemm"} <= found
    squeeze = CASES["squeeze"].region
    assert "cuda.gemv" in {one.variant.tactic for one in offered(squeeze, SM90, {}, TACTICS).shortlist(3)}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_machine_code_for_every_target(target: Target) -> None:
    variant = GEMV.variants(CLASSES, target, {})[0]
    (kernel,) = GEMV.compile(CLASSES, variant, target).kernels
    assert kernel.pdl is (Pdl.TRIGGERS if target.cc >= 90 else Pdl.NONE) and kernel.block == variant["th"]


def test_nothing_spills() -> None:
    for region in (CLASSES, gemm_region((8, 1024), (1024, 1000)), CASES["eight rows, bfloat16"].region):
        for variant in GEMV.variants(region, SM90, {})[::3]:
            assert compile_cuda(GEMV.source(region, variant).text, ENTRY, SM90).spills == 0, variant
