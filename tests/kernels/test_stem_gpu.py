"""``cuda.stem`` on the device: every form of tile against the reference in high precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.gpu import run_program, target_from
from support.regions import assert_close, reference
from support.stems import CASES, POOL3, stem_inputs, stem_region

from ingot.graph.region import Region
from ingot.kernels.api import Program, Target
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.stem.plan import StemPlan, plan_stem
from ingot.kernels.cuda.stem.source import ENTRY
from ingot.kernels.cuda.stem.tactic import StemTactic, candidates
from ingot.kernels.cuda.stem.tile import StemTile

pytestmark = [pytest.mark.gpu]
STEM = StemTactic()
_TILES = 3
"""Most tiles of one Region that are run."""


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(80)


def portable(region: Region, tile: StemTile, program: Program, target: Target, *options: str) -> Program:
    """The same kernel with the multiplication that other architectures have."""
    source = STEM.source(region, tile.variant(STEM.name), Target(80))
    cubin = compile_cuda(source.text, ENTRY, target, options=options).cubin
    return replace(program, kernels=(replace(program.kernels[0], cubin=cubin),))


def check(region: Region, target: Target, bindings: dict[str, int] | None = None) -> None:
    inputs = stem_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    plan = plan_stem(region)
    assert isinstance(plan, StemPlan), plan
    tiles = candidates(plan, target)
    for tile in tiles[:: max(1, len(tiles) // _TILES)]:
        programs = [STEM.compile(region, tile.variant(STEM.name), target)]
        if target.cc == 90:
            programs.append(portable(region, tile, programs[0], target))
            if plan.dtype == "float16":
                programs.append(portable(region, tile, programs[0], target, "--define-macro=INGOT_SM75"))
        for program in programs:
            (got,) = run_program(region, program, inputs, bindings)
            try:
                assert_close(got, wanted[0], dtype=region.spec_of["acc"].dtype, depth=4)
            except AssertionError as error:
                raise AssertionError(f"{tile}: {error}") from None


@pytest.mark.parametrize("name", CASES)
def test_stem(name: str, target: Target) -> None:
    check(CASES[name], target)


def test_symbolic_batch(target: Target) -> None:
    check(
        stem_region(("n", 3, 40, 44), 64, 7, pool=POOL3, pooled=(10, 11), strides=(2, 2), pads=(3,) * 4),
        target,
        {"n": 3},
    )
