"""Sums of two pointwise convolutions on the device: every form of tile, and the pair of kernels."""

from __future__ import annotations

import pytest
from support.chains import SUMS, chain_inputs
from support.gpu import run_program
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
        key = (tile.units, tile.groups, tile.ping, tile.cluster, tile.resident, tile.keep > 0, tile.slices)
        if key not in forms or number % 5 == len(forms) % 5:
            forms[key] = tile
    some = list(forms.values())[:: max(1, len(forms) // 8)]
    found = [HOPPER.variants(region, target, bindings)[0], *(tile.variant(HOPPER.name) for tile in some)]
    return [*dict.fromkeys(found), PAIR.variants(region, target, bindings)[0]]


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
