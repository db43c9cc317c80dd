"""Ahead-of-time compilation of the Triton product kernels for every target, without a GPU."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.quantized import FLOAT8, quantized_conv, quantized_matmul
from support.regions import Op, conv_region, gemm_region

from ingot.builder.targets import gpu_target
from ingot.errors import IngotError
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Null, Pdl, Target, Variant
from ingot.kernels.triton.aot import compile_source, ptx_and_kernel
from ingot.kernels.triton.builder import FUNCTION, KernelBuilder
from ingot.kernels.triton.conv import ConvTactic
from ingot.kernels.triton.depthwise import DepthwiseTactic
from ingot.kernels.triton.gemm import GemmTactic
from ingot.kernels.triton.tile import Tile

pytest.importorskip("triton")

RELU = (Op("Relu", ("acc",), "out"),)
BODY = conv_region((1, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1), epilogue=RELU)
SPLIT = Tile(64, 32, 64, 4, 4, split=4, early=1)


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@dataclass(frozen=True)
class Text:
    """PTX of a kernel, with counts of what matters."""

    ptx: str

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.ptx))


def ptx(k: KernelBuilder, tile: Tile, target: Target) -> Text:
    aligned = frozenset(k.aligned)
    return Text(ptx_and_kernel(k.source(), FUNCTION, k.types, {}, tile.warps, tile.stages, target, aligned).asm["ptx"])


@pytest.mark.parametrize("keep", [True, False])
def test_a_condition_that_is_a_literal_is_a_boolean(keep: bool) -> None:
    ops = (Op("Where", ("keep", "acc", "low"), "out"),)
    region = gemm_region((16, 32), (32, 24), epilogue=ops, literals={"keep": keep, "low": -2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GemmTactic().compile(region, Tile(16, 32, 32, 2, 2).variant("triton.gemm"), Target(90)).kernels


@pytest.mark.parametrize("cc", [75, 80, 86, 89, 90, 100, 120])
def test_convolution_for_every_target(cc: int) -> None:
    target = Target(cc)
    program = ConvTactic().compile(BODY, SPLIT.variant("triton.conv"), target)
    kernel = program.kernels[0]
    assert kernel.cubin[:4] == b"\x7fELF"
    assert kernel.grid == (4 * 8, 4, 1)
    assert [w.zeroed for w in program.workspaces] == [False, True]
    assert kernel.pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)
    assert kernel.arguments[-1] == Null()
    assert kernel.block == 128
    assert 0 < kernel.shared <= target.shared_per_block


@pytest.mark.parametrize(("cc", "instruction"), [(80, r"mma\.sync"), (90, r"wgmma\.mma_async"), (100, r"tcgen05\.mma")])
def test_tensor_cores_and_wide_copies(cc: int, instruction: str) -> None:
    target = Target(cc)
    k, _, _ = ConvTactic().generate(BODY, SPLIT.variant("triton.conv"), target)
    text = ptx(k, SPLIT, target)
    assert text.count(instruction) > 0
    assert text.count(r"cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x10") > 0
    assert text.count(r"cp\.async\.ca\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x4\b") == 0
    assert text.count("griddepcontrol.wait") == text.count("griddepcontrol.launch_dependents") == (1 if cc >= 90 else 0)
    assert text.count(r"prefetch\.global\.L2") == (4 if cc >= 90 else 0)


def test_weights_are_prefetched_before_the_wait_and_nothing_else_is_read() -> None:
    k, _, _ = ConvTactic().generate(BODY, SPLIT.variant("triton.conv"), Target(90))
    before, wait, _ = ptx(k, SPLIT, Target(90)).ptx.partition("griddepcontrol.wait")
    assert wait
    assert "prefetch.global.L2" in before
    assert "cp.async" not in before
    activations = k.source().partition("gdc_wait()")[0]
    assert not re.search(r"tl\.load\(a_", activations)


def test_grid_of_symbolic_shapes() -> None:
    region = conv_region(("N", 64, 56, 56), (64, 64, 1, 1), epilogue=RELU)
    program = ConvTactic().compile(region, Tile(64, 64, 64, 4, 2).variant("triton.conv"), Target(90))
    from ingot.graph.dims import evaluate

    assert evaluate(program.kernels[0].grid[0], {"N": 3}) == 3 * 56 * 56 // 64


@pytest.mark.parametrize("zero", [0, 3])
def test_no_byte_is_stored_out_of_a_float(zero: int) -> None:
    """ptxas takes a store of the low byte of such a register for a conversion: all bytes were 255 on an H200."""
    tile = Tile(16, 16, 32, 2, 2, split=2)
    region = quantized_conv((1, 48, 7, 7), (29, 48, 3, 3), pads=(1, 1, 1, 1), offset=None, zero=zero)
    k, _, _ = ConvTactic().generate(region, tile.variant("triton.conv"), Target(90))
    text = ptx(k, tile, Target(90)).ptx
    floats = set(re.findall(r"\.f32\s+(%\w+),", text))
    bytes_of = re.findall(r"st\.\w+(?:\.\w+)*\.[bsu]8\s+\[[^\]]*\],\s*\{?\s*([^;}]*)", text)
    stored = {name.strip() for names in bytes_of for name in names.split(",")}
    assert floats and stored and not floats & stored


def test_bytes_split_their_depth_too() -> None:
    region = quantized_conv((1, 512, 7, 7), (512, 512, 3, 3), pads=(1, 1, 1, 1))
    splits = [dict(variant.params)["split"] for variant in ConvTactic().variants(region, Target(90, sms=132), {})]
    assert max(splits) > 1


def test_second_compilation_is_the_same_bits() -> None:
    target = Target(90)
    k, _, tile = GemmTactic().generate(gemm_region((64, 64), (64, 64)), Tile(64, 64, 64, 4, 2).variant("g"), target)

    def build() -> bytes:
        cubin: bytes = ptx_and_kernel(
            k.source(), FUNCTION, k.types, {}, tile.warps, tile.stages, target, frozenset()
        ).asm["cubin"]
        return cubin

    first = build()
    assert first == build()
    assert b".py" not in first


def test_damaged_cache_entries_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE", str(tmp_path))
    source = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef f(x):\n    tl.store(x, 1.0)\n"

    def build() -> bytes:
        return compile_source(source, "f", {"x": "*fp32"}, num_warps=1, num_stages=1, target=Target(80)).cubin

    good = build()
    (entry,) = (tmp_path / "cubin").rglob("*.triton")
    entry.write_bytes(entry.read_bytes()[:-7])
    assert build() == good


def test_refusal_is_an_error_with_a_reason() -> None:
    source = (
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef f(x):\n    tl.store(x, undefined_name)\n"
    )
    with pytest.raises(IngotError, match="undefined_name"):
        compile_source(source, "f", {"x": "*fp32"}, num_warps=1, num_stages=1, target=Target(80))


def _refused(region: Region, tactic: ConvTactic | GemmTactic | DepthwiseTactic) -> str:
    answer = tactic.accepts(region, Target(90))
    assert not answer
    return str(answer)


def test_refusals_say_why() -> None:
    depthwise = conv_region((1, 8, 5, 5), (8, 1, 3, 3), group=8)
    assert "of its own" in _refused(depthwise, ConvTactic())
    assert "not depthwise" in _refused(BODY, DepthwiseTactic())
    assert "float64" in _refused(gemm_region((4, 4), (4, 4), dtype="float64"), GemmTactic())
    extras = {"late": spec("float16", (2, 1, 4, 4))}
    region = gemm_region((4, 4), (4, 4), epilogue=(Op("Add", ("acc", "late"), "out"),), extras=extras)
    assert "broadcast" in _refused(region, GemmTactic())
    assert "sm_75" in str(GemmTactic().accepts(gemm_region((4, 4), (4, 4)), Target(70)))
    assert "integers" in str(GemmTactic().accepts(quantized_matmul((64, 64), (64, 64)), Target(75)))
    assert "FP8" in str(GemmTactic().accepts(quantized_matmul((64, 64), (64, 64), a_type=FLOAT8), Target(75)))


RESNET = [
    (1, 3136, 64, 64), (1, 3136, 256, 64), (9, 784, 128, 128), (9, 196, 256, 256), (1, 49, 2048, 512),
    (9, 49, 512, 512),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, 8, 128])
@pytest.mark.parametrize(("taps", "pixels", "k", "c"), RESNET)
def test_shortlists_are_sane(batch: int, taps: int, pixels: int, k: int, c: int) -> None:
    side, size, target = round(pixels**0.5), round(taps**0.5), Target(90)
    region = conv_region((batch, c, side, side), (k, c, size, size), pads=(size // 2,) * 4, epilogue=RELU)
    variants = ConvTactic().variants(region, target, {})
    assert 24 <= len(variants) <= 64
    assert len(set(variants)) == len(variants)
    times = [ConvTactic().estimate(region, v, target, {}) for v in variants]
    assert times[0] == min(times)
    assert max(times[:6]) < 3 * times[0]
    flops, moved = 2 * batch * pixels * k * c * taps, 2 * batch * pixels * (k + c)
    assert times[0] > max(flops / target.flops, moved / target.bandwidth)
    assert times[0] < 12e-6 + 2.5 * max(flops / target.flops, moved / target.bandwidth)
    if batch == 1 and pixels < 200 and c * taps > 512:
        assert variants[0]["split"] > 1


TURING = {
    "depthwise": (DepthwiseTactic(), conv_region((1, 32, 14, 14), (32, 1, 3, 3), group=32, pads=(1, 1, 1, 1))),
    "grouped": (ConvTactic(), conv_region((1, 64, 14, 14), (64, 16, 3, 3), group=4, pads=(1, 1, 1, 1))),
    "transposed": (ConvTactic(), conv_region((1, 64, 14, 14), (64, 32, 2, 2), strides=(2, 2), transpose=True)),
    "float32": (ConvTactic(), conv_region((1, 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1), dtype="float32")),
    "float32 product": (GemmTactic(), gemm_region((64, 256), (256, 128), dtype="float32")),
    "bfloat16 product": (GemmTactic(), gemm_region((64, 256), (256, 128), dtype="bfloat16")),
}


@pytest.mark.parametrize("name", TURING)
def test_without_tensor_cores_on_sm_75(name: str) -> None:
    """What has no kernel by mma.sync runs through Triton's multiply-adds, in small steps and without deep pipelines."""
    tactic, region = TURING[name]
    target = gpu_target("sm_75")
    assert tactic.accepts(region, target)
    variants = tactic.variants(region, target, {})
    if name != "depthwise":
        tiles = [Tile.of(v) for v in variants]
        assert all(t.m * t.n * t.k <= 512 * 32 * t.warps and t.stages == 2 for t in tiles)
        assert tactic.estimate(region, variants[0], target, {}) > tactic.estimate(region, variants[0], Target(80), {})
    kernel = tactic.compile(region, variants[0], target).kernels[0]
    assert kernel.cubin[:4] == b"\x7fELF" and kernel.shared <= 63 * 1024 and kernel.pdl is Pdl.NONE


@pytest.mark.parametrize("cc", [75, 80, 86, 90, 120])
def test_shortlists_fit_the_shared_memory_of_the_family(cc: int) -> None:
    variants = ConvTactic().variants(BODY, Target(cc), {})
    largest = {75: 63, 80: 163, 86: 99, 90: 227, 120: 99}[cc] * 1024
    assert variants
    assert all(Tile.of(v).shared(2) <= largest for v in variants)


def test_transposed_phases_of_unequal_depth_are_not_split() -> None:
    region = conv_region((1, 512, 4, 4), (512, 64, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), transpose=True)
    variants = ConvTactic().variants(region, Target(90), {})
    assert variants
    assert {v["split"] for v in variants} == {1}


def test_variant_text_round_trip() -> None:
    variant = SPLIT.variant("triton.conv")
    assert Tile.of(Variant.parse(str(variant))) == SPLIT
