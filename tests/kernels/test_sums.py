"""Sums of two pointwise convolutions as one Hopper product: refusals, operands, machine code, the pair beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.chains import SUMS, sum_region
from support.quantized import quantized_sum
from support.regions import refused

from ingot.errors import No
from ingot.graph.region import Region
from ingot.kernels.api import Input, Scratch, Target, TensorMap
from ingot.kernels.cuda.chain.pair import PairTactic
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.source import ENTRY, generate
from ingot.kernels.cuda.hopper.sums import sum_operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.nvrtc import compile_cuda

SM90 = Target(90)
HOPPER, PAIR = HopperTactic(), PairTactic()
LARGE = sum_region((128, 256, 56, 56), 128, 512, stride=2)


def read(region: Region) -> Operands:
    o = sum_operands(region)
    assert isinstance(o, Operands), o
    return o


def test_both_depths_are_one() -> None:
    o = read(LARGE)
    tile = candidates(o, {})[0]
    assert (o.channels, o.beside and o.beside.channels) == (128, 256)
    assert not o.gather and o.beside is not None and o.beside.gather, "the one with a stride is gathered"
    assert o.steps(tile) == (128 + 256) // tile.k
    maps = o.maps(tile)
    assert [m.tensor for m in maps] == [Input(LARGE.inputs.index(n)) for n in ("x2", "w", "x", "v")]
    assert not any(tile.split > 1 for tile in candidates(read(SUMS["resnet 7"]), {}))
    assert any(tile.keep for tile in candidates(read(SUMS["many tiles"]), {}))


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(HOPPER, region, target)

    assert "not sm_90" in reason(LARGE, Target(100))
    assert "float32" in reason(sum_region((1, 64, 8, 8), 64, 64, dtype="float32"))
    assert "aligned" in reason(sum_region((1, 36, 8, 8), 64, 64))
    assert "not only added" in reason(replace(LARGE, outputs=("first", "out")))
    assert "instead of two" in reason(replace(LARGE, ops=LARGE.ops[1:], inputs=(*LARGE.inputs, "first")))
    subtracted = tuple(replace(op, op="Sub") if op.op == "Add" else op for op in LARGE.ops)
    assert "not only added" in reason(replace(LARGE, ops=subtracted))


@pytest.mark.parametrize("name", SUMS)
def test_every_variant_passes_what_its_kernel_takes(name: str) -> None:
    region = SUMS[name]
    for variant in HOPPER.variants(region, SM90, {"N": 2}):
        source = HOPPER.source(region, variant, SM90)
        taken = source.text.partition(f"{ENTRY}(")[2].partition(") {")[0]
        assert len(taken.split(",")) == len(source.arguments)
        assert sum(isinstance(a, TensorMap) for a in source.arguments) == 4


@pytest.mark.parametrize("name", SUMS)
def test_machine_code(name: str) -> None:
    region = SUMS[name]
    assert HOPPER.accepts(region, SM90) and PAIR.accepts(region, SM90)
    variant = HOPPER.variants(region, SM90, {"N": 2})[0]
    made = compile_cuda(HOPPER.source(region, variant, SM90).text, ENTRY, SM90, specific=True)
    assert made.spills == 0


def test_main_tiles_do_not_spill() -> None:
    o = read(LARGE)
    for tile in [t for t in candidates(o, {}) if t.ping and t.n == 128][:3]:
        assert compile_cuda(generate(o, tile, SM90).text, ENTRY, SM90, specific=True).spills == 0


def test_pair_of_kernels() -> None:
    program = PAIR.compile(LARGE, PAIR.variants(LARGE, SM90, {})[0], SM90)
    first, second = program.kernels
    assert [int(w.bytes) for w in program.workspaces] == [128 * 512 * 28 * 28 * 2]
    assert Scratch(0) in first.arguments and Scratch(0) in second.arguments, "the residual of the second"
    assert next(a.tensor for a in second.arguments if isinstance(a, TensorMap)) == Input(LARGE.inputs.index("x2"))
    assert not isinstance(sum_operands(LARGE), No)


def test_integers_have_one_product_and_scales_of_both() -> None:
    region = quantized_sum((8, 256, 56, 56), 128, 512, stride=2)
    o = read(region)
    assert o.scales == ("scale", "scale1") and o.beside is not None and o.beside.gather
    assert [op.op for op in o.normal.epilogue] == ["Cast", "Mul", "Add", "Add", "Relu", "QuantizeLinear"]
    assert "scale1" in o.normal.epilogue[1].inputs, "those of the first convolution hold for the sum"
    assert all(tile.dealt and tile.cluster == tile.split == 1 for tile in candidates(o, {}))
    variants = HOPPER.variants(region, SM90, {})
    for variant in [variants[0], next(v for v in variants if dict(v.params)["bn"] == 64)]:
        text = HOPPER.source(region, variant, SM90).text
        assert "quotients" in text and compile_cuda(text, ENTRY, SM90, specific=True).spills == 0
    alone = quantized_sum((2, 64, 9, 9), 32, 64, biases=(False, False))
    assert HOPPER.accepts(alone, SM90)


def test_refusals_of_integers() -> None:
    region = quantized_sum((2, 64, 9, 9), 32, 64)
    assert not PAIR.accepts(region, SM90)
    assert "multiple of 32" in refused(HOPPER, quantized_sum((2, 64, 9, 9), 32, 80), SM90)
    mixed = region.with_specs({"x": replace(region.spec_of["x"], dtype="int8")})
    assert "differ" in refused(HOPPER, mixed, SM90)
    one = region.with_specs({"scale": replace(region.spec_of["scale"], shape=(1,), strides=(1,))})
    assert "scaled" in refused(HOPPER, one, SM90)
