"""Sums of two pointwise convolutions on the device: every form of tile, and the pair of kernels."""

from __future__ import annotations

import pytest
from support.chains import SUMS, chain_inputs
from support.gpu import run_program
from support.quantized import assert_quantized, exact, quantized_inputs, quantized_sum
from support.regions import assert_close, reference

from ingot.graph.region import Region
from ingot.kernels.api import Target, Variant
from ingot.kernels.cuda.chain.pair import PairTactic
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.sums import sum_operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic, candidates
from ingot.kernels.cuda.hopper.tile import HopperTile

pytestmark = [pytest.mark.gpu]
HOPPER, PAIR = HopperTactic(), PairTactic()


def chosen(region: Region, target: Target, bindings: dict[str, int]) -> list[Variant]:
    """The likeliest tile, one of each form, and the likeliest pair."""
    o = sum_operands(region)
    assert isinstance(o, Operands), o
    forms: dict[tuple[int | bool, ...], HopperTile] = {}
    for number, tile in enumerate(candidates(o, bindings)):
        key = (tile.units, tile.groups, tile.ping, tile.cluster, tile.resident, tile.keep > 0, tile.slices, tile.dealt)
        if key not in forms or number % 5 == len(forms) % 5:
            forms[key] = tile
    some = list(forms.values())[:: max(1, len(forms) // 8)]
    found = [HOPPER.variants(region, target, bindings)[0], *(tile.variant(HOPPER.name) for tile in some)]
    pairs = PAIR.variants(region, target, bindings)[:1] if PAIR.accepts(region, target) else []
    return [*dict.fromkeys(found), *pairs]


@pytest.mark.parametrize("name", SUMS)
def test_sum(name: str, sm90: Target) -> None:
    region = SUMS[name]
    bindings = {"N": 3} if name == "symbolic batch" else {}
    inputs = chain_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    for variant in chosen(region, sm90, bindings):
        tactic = PAIR if variant.tactic == PAIR.name else HOPPER
        (actual,) = run_program(region, tactic.compile(region, variant, sm90), inputs, bindings)
        try:
            assert_close(actual, wanted[0], dtype=region.output_specs[0].dtype, depth=4)
        except AssertionError as error:
            raise AssertionError(f"{variant}: {error}") from None


INTEGERS: dict[str, Region] = {
    "resnet 56": quantized_sum((3, 64, 19, 21), 64, 256),
    "resnet 28": quantized_sum((2, 256, 29, 25), 128, 512, stride=2),
    "resnet 7": quantized_sum((1, 1024, 14, 14), 512, 2048, stride=2),
    "signed, without biases": quantized_sum((2, 48, 9, 11), 80, 96, x_type="int8", out="int8", biases=(False, False)),
    "one bias": quantized_sum((2, 64, 9, 11), 32, 64, biases=(False, True)),
    "many tiles": quantized_sum((9, 64, 56, 56), 64, 256),
    "symbolic batch": quantized_sum(("N", 64, 9, 9), 64, 128),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_sum_of_integers(name: str, sm90: Target) -> None:
    region = INTEGERS[name]
    bindings = {"N": 3} if name == "symbolic batch" else {}
    inputs = quantized_inputs(region, bindings)
    wanted = exact(region, inputs, bindings)
    for variant in chosen(region, sm90, bindings):
        (actual,) = run_program(region, HOPPER.compile(region, variant, sm90), inputs, bindings)
        try:
            assert_quantized(actual, wanted)
        except AssertionError as error:
            raise AssertionError(f"{variant}: {error}") from None
