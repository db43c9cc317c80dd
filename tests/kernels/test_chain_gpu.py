"""``cuda.chain`` and ``cuda.pair`` on the device: every form of tile against the reference in high precision."""

from __future__ import annotations

import pytest
from support.chains import CASES, chain_inputs
from support.gpu import run_program
from support.regions import assert_close, reference

from ingot.graph.region import Region
from ingot.kernels.api import Target, Variant
from ingot.kernels.cuda.chain.pair import PairTactic
from ingot.kernels.cuda.chain.plan import ChainPlan, plan_chain
from ingot.kernels.cuda.chain.tactic import ChainTactic, candidates
from ingot.kernels.cuda.chain.tile import ChainTile

pytestmark = [pytest.mark.gpu]
CHAIN, PAIR = ChainTactic(), PairTactic()


def chosen(region: Region, target: Target, bindings: dict[str, int]) -> list[Variant]:
    """One tile of each form, the likeliest, and the likeliest pair."""
    plan = plan_chain(region)
    assert isinstance(plan, ChainPlan), plan
    forms: dict[tuple[int | bool, ...], ChainTile] = {}
    for number, tile in enumerate(candidates(plan)):
        key = (tile.units, tile.groups, tile.cluster, tile.kept(plan))
        if key not in forms or number % 3 == len(forms) % 3:
            forms[key] = tile
    likeliest = CHAIN.variants(region, target, bindings)[0]
    found = [likeliest, *(tile.variant(CHAIN.name) for tile in forms.values())]
    return [*dict.fromkeys(found), PAIR.variants(region, target, bindings)[0]]


@pytest.mark.parametrize("name", CASES)
def test_chain(name: str, sm90: Target) -> None:
    region = CASES[name]
    bindings = {"N": 3} if name == "symbolic batch" else {}
    assert CHAIN.accepts(region, sm90) and PAIR.accepts(region, sm90)
    inputs = chain_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    for variant in chosen(region, sm90, bindings):
        tactic = PAIR if variant.tactic == PAIR.name else CHAIN
        actual = run_program(region, tactic.compile(region, variant, sm90), inputs, bindings)
        for output, got, want in zip(region.outputs, actual, wanted, strict=True):
            try:
                assert_close(got, want, dtype=region.spec_of[output].dtype, depth=4)
            except AssertionError as error:
                raise AssertionError(f"{variant}, {output}: {error}") from None
