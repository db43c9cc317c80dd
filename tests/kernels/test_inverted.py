"""``cuda.inverted``: numerics on the CPU, clusters included, refusals, machine code, the three kernels beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.host_cuda import check_on_host, needs_compiler, run_on_host
from support.inverted import CASES, inverted_inputs, inverted_region
from support.regions import assert_close, reference, refused

from ingot.errors import No
from ingot.graph.dims import Bindings
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Input, Kernel, Output, Scratch, Target
from ingot.kernels.cuda.inverted.apart import InTurnTactic
from ingot.kernels.cuda.inverted.cost import tiles
from ingot.kernels.cuda.inverted.plan import InvertedPlan, parts_of, plan_inverted
from ingot.kernels.cuda.inverted.source import ENTRY
from ingot.kernels.cuda.inverted.tactic import InvertedTactic
from ingot.kernels.cuda.inverted.tile import InvertedTile
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates as offered

ONE, TURNS = InvertedTactic(), InTurnTactic()
SM80, SM90 = Target(80, sms=108, shared_per_block=166912), Target(90)
MOST_FIBRES = 1024
"""Threads of a cluster that are emulated side by side."""


def planned(region: Region) -> InvertedPlan:
    plan = plan_inverted(region)
    assert isinstance(plan, InvertedPlan), plan
    return plan


def spread(found: list[InvertedTile], count: int) -> list[InvertedTile]:
    return found[:: max(1, len(found) // count)][:count]


def check(region: Region, bindings: Bindings | None = None, count: int = 2) -> None:
    inputs = inverted_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    fitting = [t for t in tiles(planned(region), SM90) if t.cluster * t.threads <= MOST_FIBRES]
    for tile in spread(fitting, count):
        variant = tile.variant(ONE.name)
        source = ONE.source(region, variant)
        kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), tile.threads, 0, source.arguments, cluster=tile.cluster)
        check_on_host(variant, kernel, source, region, inputs, wanted[0], bindings, depth=8)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics(name: str) -> None:
    assert ONE.accepts(CASES[name], SM90)
    check(CASES[name])


@needs_compiler
@pytest.mark.parametrize(("cluster", "chunk"), [(1, 16), (2, 16), (3, 16), (4, 16)])
def test_hidden_channels_over_blocks_and_in_parts(cluster: int, chunk: int) -> None:
    region = inverted_region((1, 24, 6, 7), 56, 24, residual="x")  # 56: no multiple of 16, so that some are padding
    tile = InvertedTile(planned(region), 4, 4, cluster, chunk, 128)
    assert tile.chunks == -(-4 // cluster)
    inputs = inverted_inputs(region)
    source = ONE.source(region, tile.variant(ONE.name))
    kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), 128, 0, source.arguments, cluster=cluster)
    (got,) = run_on_host(source.text, kernel, region, inputs)
    assert_close(got, reference(region, inputs)[0], dtype="float16", depth=8)


@needs_compiler
def test_symbolic_batch() -> None:
    check(inverted_region(("n", 16, 7, 7), 32, 16, residual="x"), {"n": 3}, 1)


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(ONE, region, target)

    plain = inverted_region((1, 24, 9, 7), 48, 24, residual="x")
    assert "older than sm_80" in reason(plain, Target(75))
    assert "multiples of 8" in reason(inverted_region((1, 12, 8, 8), 48, 24))
    assert "float32" in reason(inverted_region((1, 16, 8, 8), 48, 24, dtype="float32"))
    assert "7 x 7" in reason(inverted_region((1, 16, 12, 12), 48, 24, taps=9))
    assert "empty" in reason(inverted_region((1, 16, 0, 5), 48, 24))
    assert "empty" in reason(inverted_region((1, 8, 2, 2), 48, 24, pads=(0, 0, 0, 0)))
    large = inverted_region((1, 160, 7, 7), 960, 160)
    assert ONE.accepts(large, SM90)
    assert "has no clusters" in reason(large, SM80) and "has no clusters" in refused(TURNS, large, SM80)
    planes = plain.with_specs({"x": spec("float16", (1, 24, 9, 7))})
    assert "not innermost" in reason(planes)
    strided = replace(plain, ops=(replace(plain.ops[0], attrs=(("strides", (2, 2)),)), *plain.ops[1:]))
    assert "stride 1" in reason(strided)
    low = tuple(replace(op, inputs=("d", "bd", "high")) if op.inputs[0] == "d" else op for op in plain.ops)
    assert "another tensor" in reason(replace(plain, ops=low))


@pytest.mark.parametrize("cc", [80, 90, 120])
def test_machine_code(cc: int) -> None:
    target = Target(cc, shared_per_block={80: 166912, 90: 232448, 120: 101376}[cc])
    region = inverted_region((1, 32, 28, 28), 192, 32, residual="x")
    variants = ONE.variants(region, target, {})
    for variant in (variants[0], max(variants, key=lambda v: v["cl"])):
        (kernel,) = ONE.compile(region, variant, target).kernels
        assert kernel.cluster == variant["cl"] and kernel.cubin[:4] == b"\x7fELF"
        assert kernel.shared <= target.shared_per_block and (cc >= 90 or kernel.cluster == 1)


def test_every_block_has_its_share_of_channels() -> None:
    for hidden in (96, 144, 576, 960):
        plan = planned(inverted_region((1, 160, 7, 7), hidden, 160))
        for tile in tiles(plan, SM90):
            assert (tile.cluster - 1) * tile.slice < hidden <= tile.cluster * tile.slice
            assert tile.shared <= SM90.shared_per_block


@pytest.mark.parametrize(("cc", "shared", "most"), [(80, 166912, 1), (90, 232448, 12), (120, 101376, 8)])
def test_clusters_are_no_larger_than_the_target_has(cc: int, shared: int, most: int) -> None:
    """Beyond eight blocks only where the device allows it."""
    plan = planned(inverted_region((1, 64, 14, 14), 384, 64))
    assert max(tile.cluster for tile in tiles(plan, Target(cc, shared_per_block=shared))) == most


def test_three_kernels_compute_the_same() -> None:
    region = CASES["5 x 5, SiLU"]
    inputs = inverted_inputs(region)
    parts = parts_of(region)
    assert not isinstance(parts, No)
    known = dict(zip(region.inputs, inputs, strict=True))
    for part in parts:
        (known[part.outputs[0]],) = reference(part, [known[n].astype(np.float16) for n in part.inputs])
    result = known[region.outputs[0]]
    assert_close(result, reference(region, inputs)[0], dtype="float16", depth=8)


def test_three_kernels_hand_over_in_workspaces() -> None:
    region = inverted_region((1, 32, 28, 28), 192, 64, stride=2)
    variant = next(v for v in TURNS.variants(region, SM90, {}) if "b0.rows" in str(v))
    program = TURNS.compile(region, variant, SM90)
    assert [w.bytes for w in program.workspaces[:2]] == [2 * 192 * 28 * 28, 2 * 192 * 14 * 14]
    middle = set(program.kernels[1].arguments)
    assert {Scratch(0), Scratch(1)} <= middle and not middle & {Input(0), Output(0)}
    assert Output(0) in program.kernels[-1].arguments or any(
        getattr(a, "tensor", None) == Output(0) for a in program.kernels[-1].arguments
    )


def test_both_are_measured() -> None:
    region = inverted_region((1, 64, 14, 14), 384, 64, residual="x")
    found = {one.variant.tactic for one in offered(region, SM90, {}, TACTICS).shortlist(3)}
    assert found == {ONE.name, TURNS.name}


def test_bounds_that_are_halves_are_applied_to_words() -> None:
    def text(region: Region) -> str:
        return ONE.source(region, ONE.variants(region, SM90, {})[0]).text

    assert "bounded<true, true>(word, 0x46004600u)" in text(CASES["residual"])  # two times 6
    assert "bounded<" not in text(CASES["bounds that are no halves"]).split("widened_pair")[1].split("}")[0]
    assert "packed<true>(widened(low), widened(high))" in text(CASES["bounds that are no halves"])
    assert "packed<true>(widened(low), widened(high))" in text(CASES["5 x 5, SiLU"])
