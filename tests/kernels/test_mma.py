"""``cuda.mma``: numerics on the CPU with emulated tensor cores, refusals, variants, machine code for every target."""

from __future__ import annotations

import pytest
from support.host_cuda import needs_compiler, run_on_host
from support.products import ADDED, CASES, GELU, ONES, Case, with_windows
from support.quantized import quantized_conv
from support.regions import conv_region, gemm_region, refused

from ingot.builder.targets import TARGETS, gpu_target
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Pdl, Target, Variant
from ingot.kernels.cost import shared_limit
from ingot.kernels.cuda.mma.cost import product_shape
from ingot.kernels.cuda.mma.operands import MmaOperands
from ingot.kernels.cuda.mma.source import ENTRY
from ingot.kernels.cuda.mma.tactic import MmaTactic, candidates, read
from ingot.kernels.cuda.mma.tile import MmaTile
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates as offered

MMA = MmaTactic()
SM75 = gpu_target("sm_75")
BODY = conv_region(
    (1, 256, 14, 14), (256, 256, 3, 3), pads=ONES, epilogue=ADDED,
    extras={"residual": spec("float16", (1, 256, 14, 14), (0, 2, 3, 1))},
)  # fmt: skip
WIDE = gemm_region((128, 768), (768, 3072), epilogue=GELU)
BYTES = quantized_conv((1, 64, 28, 28), (64, 64, 3, 3), pads=ONES, residual=True)


def check(case: Case, cc: int, tile: MmaTile) -> None:
    target, variant = Target(cc), tile.variant(MMA.name)
    inputs = case.inputs()
    program = MMA.program(case.region, variant, target, b"")
    text = MMA.source(case.region, variant, target).text
    case.check(inputs, run_on_host(text, program, case.region, inputs, case.bindings))


HOST = {
    "3x3": (75, MmaTile(64, 32, 64, 2, 2)),
    "5 channels": (75, MmaTile(64, 16, 32, 4, 1)),
    "12 channels": (80, MmaTile(32, 64, 64, 2, 2, 3)),
    "columns contiguous": (75, MmaTile(32, 32, 32, 2, 2, split=2)),
    "44 columns": (80, MmaTile(64, 64, 64, 2, 2, 3)),
    "depth contiguous": (80, MmaTile(16, 64, 64, 1, 4, 4, split=2)),
    "values": (75, MmaTile(64, 32, 128, 2, 2)),
    "symbolic depth": (80, MmaTile(32, 32, 64, 2, 2, 3)),
    "bytes": (75, MmaTile(32, 32, 64, 2, 2)),
    "bytes, 20 channels": (80, MmaTile(32, 64, 64, 1, 2, 3, split=3)),
}


@needs_compiler
@pytest.mark.parametrize("name", HOST)
def test_numerics_on_the_host(name: str) -> None:
    check(CASES[name], *HOST[name])


@needs_compiler
@pytest.mark.nightly
@pytest.mark.parametrize("cc, stages", [(75, 2), (80, 3)])
@pytest.mark.parametrize("name", CASES)
def test_all_numerics_on_the_host(name: str, cc: int, stages: int) -> None:
    check(CASES[name], cc, MmaTile(64, 64, 64, 2, 2, stages))
    check(CASES[name], cc, MmaTile(128, 32, 128, 4, 1, stages))


@needs_compiler
def test_windows_on_the_host() -> None:
    check(with_windows(), 80, MmaTile(128, 32, 64, 4, 1, 3))


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM75) -> str:
        return refused(MMA, region, target)

    plain = dict(x=(1, 64, 14, 14), w=(64, 64, 3, 3))
    assert "better kernels" in reason(conv_region(**plain), Target(80))  # type: ignore[arg-type]
    assert "older than sm_75" in reason(conv_region(**plain), Target(70))  # type: ignore[arg-type]
    assert "float32" in reason(conv_region(**plain, dtype="float32"))  # type: ignore[arg-type]
    assert "bfloat16" in reason(conv_region(**plain, dtype="bfloat16"))  # type: ignore[arg-type]
    assert "grouped" in reason(conv_region((1, 64, 14, 14), (64, 16, 3, 3), group=4))
    assert "transposed" in reason(conv_region((1, 64, 14, 14), (64, 64, 2, 2), strides=(2, 2), transpose=True))
    assert "innermost" in reason(conv_region(**plain, y_order=(0, 1, 2, 3)))  # type: ignore[arg-type]
    assert "symbolic number of columns" in reason(gemm_region((64, 64), (64, "N"), constant_b=False))
    assert all(MMA.accepts(case.region, SM75) for case in CASES.values())


@pytest.mark.parametrize("region", [BODY, WIDE, BYTES], ids=["body", "wide", "bytes"])
def test_variants(region: Region) -> None:
    variants = MMA.variants(region, SM75, {})
    assert 8 <= len(variants) == len(set(variants))
    times = [MMA.estimate(region, v, SM75, {}) for v in variants]
    assert times == sorted(times) and 0 < times[0] < 2e-3
    for variant in variants:
        tile = MmaTile.of(variant)
        assert Variant.parse(str(variant)) == variant and tile.stages == 2 and tile.shared <= shared_limit(SM75)


def test_depth_is_shared_only_where_tiles_are_few() -> None:
    assert MmaTile.of(MMA.variants(BODY, SM75, {})[0]).split > 1
    many = conv_region((64, 256, 28, 28), (256, 256, 1, 1))
    assert all(MmaTile.of(v).split == 1 for v in MMA.variants(many, SM75, {}))


def test_tensor_cores_come_first_on_sm_75_alone() -> None:
    for region, later in ((BODY, "triton.conv"), (WIDE, "triton.gemm")):
        assert offered(region, SM75, {}, TACTICS).ranked[0].variant.tactic == MMA.name
        found = offered(region, gpu_target("sm_80"), {}, TACTICS)
        assert {one.variant.tactic for one in found.offered} == {later}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_machine_code_for_every_target(target: Target) -> None:
    stages = 2 if target.cc < 80 else 3
    tile = MmaTile(64, 64, 64, 2, 2, stages)
    program = MMA.compile(WIDE, tile.variant(MMA.name), target)
    assert program.kernels[0].pdl is (Pdl.TRIGGERS if target.cc >= 90 else Pdl.NONE)
    assert program.kernels[0].grid == (2 * 48, 1, 1)
    source = MMA.source(BYTES, tile.variant(MMA.name), target)
    assert compile_cuda(source.text, ENTRY, target).spills == 0


@pytest.mark.parametrize("m, n, depth", [(128, 128, 64), (128, 64, 128), (64, 64, 128), (64, 32, 128), (16, 64, 128)])
def test_main_tiles_of_sm_75_do_not_spill(m: int, n: int, depth: int) -> None:
    tiles = candidates(product_shape(operands_of(BODY), {}), SM75)
    tile = next(t for t in tiles if (t.m, t.n, t.depth) == (m, n, depth))
    made = compile_cuda(MMA.source(BODY, tile.variant(MMA.name), SM75).text, ENTRY, SM75, options=quick_math(BODY))
    assert made.spills <= 32 and made.registers * tile.threads <= 65536


def test_every_tile_fits() -> None:
    for target in (SM75, gpu_target("sm_86")):
        tiles = candidates(product_shape(operands_of(WIDE), {}), target)
        assert tiles and all(tile.shared <= shared_limit(target) for tile in tiles)
        assert {tile.stages for tile in tiles} == ({2} if target.cc < 80 else {3, 4})


def operands_of(region: Region) -> MmaOperands:
    found = read(region, Target(80))
    assert isinstance(found, MmaOperands)
    return found
