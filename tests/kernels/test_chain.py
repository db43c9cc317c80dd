"""Chains without a GPU: refusals, machine code, what variants ask for, and the pair of kernels beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.chains import CASES, RESIDUAL, chain_region
from support.regions import Op, refused

from ingot.errors import No
from ingot.graph.dims import evaluate
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Input, Output, Scratch, Target, TensorMap, Variant
from ingot.kernels.cuda.chain import tactic
from ingot.kernels.cuda.chain.pair import PairTactic
from ingot.kernels.cuda.chain.plan import ChainPlan, halves, plan_chain
from ingot.kernels.cuda.chain.source import ENTRY, generate
from ingot.kernels.cuda.chain.tactic import ChainTactic, candidates
from ingot.kernels.cuda.chain.tile import ChainTile
from ingot.kernels.cuda.hopper.tile import SHARED_PER_BLOCK
from ingot.kernels.cuda.nvrtc import CompiledCuda, compile_cuda
from ingot.kernels.cuda.product import quick_math

SM90 = Target(90)
CHAIN, PAIR = ChainTactic(), PairTactic()
LARGE = chain_region((128, 64, 56, 56), 256, 64)


def planned(region: Region) -> ChainPlan:
    plan = plan_chain(region)
    assert isinstance(plan, ChainPlan), plan
    return plan


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(CHAIN, region, target)

    assert "not sm_90" in reason(LARGE, Target(100))
    assert "output channels" in reason(chain_region((1, 64, 8, 8), 128, 320))
    assert "input channels" in reason(chain_region((1, 640, 8, 8), 128, 64))
    assert "of weights" in reason(chain_region((1, 256, 14, 14), 1024, 256))
    assert "float32" in reason(chain_region((1, 64, 8, 8), 128, 64, dtype="float32"))
    assert "aligned" in reason(chain_region((1, 36, 8, 8), 128, 64))
    last = (Op("Add", ("z", "other"), "out"),)
    other = chain_region((1, 64, 8, 8), 128, 64, after=last)
    other = replace(other, inputs=(*other.inputs, "other"))
    other = replace(other, values=(*other.values, ("other", spec("float16", (1, 64, 8, 8), (0, 2, 3, 1)))))
    assert "more than one tensor" in reason(other)
    apart = TensorSpec("float16", (2, 128, 8, 8), (10400, 1, 8 * 160, 160), align=16)
    assert "rows of channels" in reason(chain_region((1, 64, 8, 8), 128, 36))
    assert "rows of channels" in reason(chain_region((2, 64, 8, 8), 128, 64, specs={"residual": apart}))
    assert "further results" in reason(replace(LARGE, outputs=("acc", "wide", "out")))


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_variants(name: str) -> None:
    region, plan = CASES[name], planned(CASES[name])
    variants = CHAIN.variants(region, SM90, {"N": 2})
    assert len(variants) == len(set(variants)) >= 4
    times = [CHAIN.estimate(region, v, SM90, {"N": 2}) for v in variants]
    assert times == sorted(times) and 1e-6 < times[0] < 1e-3
    for variant in variants:
        tile = ChainTile.of(variant)
        assert Variant.parse(str(variant)) == variant == tile.variant(CHAIN.name)
        assert tile.shared(plan) <= SHARED_PER_BLOCK and plan.narrow % (16 * tile.cluster) == 0


@pytest.mark.parametrize("name", ["resnet 56", "resnet 28", "256 channels", "mobilenet", "silu", "bfloat16"])
def test_machine_code_without_spills(name: str) -> None:
    plan = planned(CASES[name])
    forms = {(t.units * plan.narrow, t.groups): t for t in candidates(plan)}
    for tile in (forms[max(forms)], max(forms.values(), key=lambda t: t.groups)):
        text, options = generate(plan, tile, SM90).text, quick_math(CASES[name])
        made = compile_cuda(text, ENTRY, SM90, options=options, specific=True)
        assert made.spills == 0 and made.registers <= tile.entry_registers


@pytest.mark.parametrize("name", ["silu", "bfloat16"])
def test_arithmetic_is_as_quick_as_behind_other_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def compile_nothing(source: str, entry: str, target: Target, *, options: tuple[str, ...], specific: bool) -> object:
        given.extend(options)
        return CompiledCuda(b"", 0, 0, 0)

    monkeypatch.setattr(tactic, "compile_cuda", compile_nothing)
    CHAIN.compile(CASES[name], CHAIN.variants(CASES[name], SM90, {"N": 2})[0], SM90)
    assert tuple(given) == quick_math(CASES[name]) and ("--ftz=true" in given) == (name == "silu")


def test_weights_stay_where_they_fit() -> None:
    assert any(tile.kept(planned(LARGE)) for tile in candidates(planned(LARGE)))
    plan = planned(chain_region((128, 128, 28, 28), 512, 128))
    assert not any(tile.kept(plan) for tile in candidates(plan)), "256 KB of weights"


def test_the_grid_follows_the_batch() -> None:
    region = CASES["symbolic batch"]
    x = TensorSpec("float16", ("N", 64, 9, 9), (81 * 64, 1, 9 * 64, 64))
    kernel = CHAIN.compile(region.with_specs({"x": x}), CHAIN.variants(region, SM90, {"N": 1})[0], SM90).kernels[0]
    for batch in (1, 9, 900):
        assert 1 <= evaluate(kernel.grid[0], {"N": batch}) <= 132


@pytest.mark.parametrize("stored", [True, False])
def test_pair_of_kernels(stored: bool) -> None:
    region = chain_region((8, 64, 28, 28), 256, 64, middle=RESIDUAL, stored=stored)
    variant = PAIR.variants(region, SM90, {})[0]
    assert Variant.parse(str(variant)) == variant
    program = PAIR.compile(region, variant, SM90)
    first, second = program.kernels
    between = Output(0) if stored else Scratch(0)
    assert [int(w.bytes) for w in program.workspaces] == ([] if stored else [8 * 256 * 28 * 28 * 2])
    assert between in first.arguments and Output(int(stored)) in second.arguments
    places = [a.tensor for a in second.arguments if isinstance(a, TensorMap)]
    assert places == [between, Input(region.inputs.index("w"))]
    both = (PAIR.estimate(region, variant, SM90, {}), CHAIN.variants(region, SM90, {})[0])
    assert 5e-6 < both[0] < 5e-5
    assert not PAIR.accepts(region, Target(80))


def test_halves() -> None:
    parts = halves(CASES["resnet 56"])
    assert not isinstance(parts, No)
    assert parts.first.inputs == ("x", "v", "bv", "residual") and parts.first.outputs == ("wide",)
    assert parts.second.inputs == ("w", "bw", "wide") and parts.second.outputs == ("out",)
    one = replace(LARGE, ops=LARGE.ops[:3], outputs=("wide",))
    assert isinstance(halves(one), No)
