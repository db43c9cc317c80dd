"""``cuda.stem``: numerics on the CPU, refusals, the order of the depth, machine code for every target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.host_cuda import needs_compiler, run_on_host
from support.regions import assert_close, reference, refused
from support.stems import CASES, POOL3, stem_inputs, stem_region

from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Kernel, Pdl, Target
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.stem.depth import arrange
from ingot.kernels.cuda.stem.plan import StemPlan, plan_stem
from ingot.kernels.cuda.stem.source import ENTRY, weight_places
from ingot.kernels.cuda.stem.tactic import StemTactic, candidates
from ingot.kernels.cuda.stem.tile import Form, StemTile

STEM = StemTactic()
SM90 = Target(90)


def resnet(batch: int) -> Region:
    return stem_region(
        (batch, 3, 224, 224), 64, 7, pool=POOL3, pooled=(56, 56), strides=(2, 2), pads=(3, 3, 3, 3)
    )  # fmt: skip


def planned(region: Region) -> StemPlan:
    plan = plan_stem(region)
    assert isinstance(plan, StemPlan), plan
    return plan


def some(region: Region) -> list[StemTile]:
    """The likeliest tile, and one of another form."""
    tiles = candidates(planned(region), SM90)
    likeliest = StemTile.of(STEM.variants(region, SM90, {"n": 2})[0])
    other = max(tiles, key=lambda t: (t.warps != likeliest.warps, t.rows != likeliest.rows, -t.rows, t.wide))
    return [likeliest, other]


def check(region: Region, bindings: dict[str, int] | None = None) -> None:
    inputs = stem_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    for tile in some(region):
        source = STEM.source(region, tile.variant(STEM.name), Target(80))  # the same but for the multiplication
        kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), tile.threads, 0, source.arguments)
        (got,) = run_on_host(source.text, kernel, region, inputs, bindings)
        assert_close(got, wanted[0], dtype=region.spec_of["acc"].dtype, depth=4)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    assert STEM.accepts(CASES[name], SM90)
    check(CASES[name])


@needs_compiler
def test_symbolic_batch() -> None:
    check(stem_region(("n", 3, 20, 24), 16, 3, pool=POOL3, pooled=(5, 6), strides=(2, 2), pads=(1,) * 4), {"n": 2})


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(STEM, region, target)

    plain = CASES["yolo"]
    assert "older" in reason(plain, Target(70))
    assert "bfloat16" in reason(CASES["bfloat16"], Target(75))
    assert "channels" in reason(stem_region((1, 5, 16, 16), 16, 3))
    assert "channels" in reason(stem_region((1, 3, 16, 16), 136, 3))
    assert "window" in reason(stem_region((1, 3, 32, 32), 16, 8))
    assert "innermost" in reason(stem_region((1, 3, 8, 8), 16, 3, result=spec("float16", (1, 16, 6, 6))))
    assert "pooling other" in reason(
        stem_region((1, 3, 16, 16), 16, 3, pool={"kernel_shape": (3, 3), "strides": (1, 1)}, pooled=(12, 12))
    )
    loose = replace(plain, values=tuple((n, replace(s, constant=False)) for n, s in plain.values))
    assert "constant" in reason(loose)


@pytest.mark.parametrize("rows, words, step", [(7, 11, 6), (7, 11, 3), (3, 5, 3), (5, 8, 3), (3, 6, 2), (1, 1, 1)])
def test_every_word_of_the_window_is_multiplied_once(rows: int, words: int, step: int) -> None:
    depth = arrange(rows, words, step, 1)
    owned = [cell for cell in depth.owners() if cell is not None and cell[0] < rows and cell[1] < words]
    assert sorted(owned) == [(row, word) for row in range(rows) for word in range(words)]
    assert len(depth.groups) % 2 == 0 and len(depth.groups) <= -(-rows * words // 4) + 2


def test_resnet_takes_ten_steps_with_few_conflicts() -> None:
    form = Form(planned(resnet(1)), StemTile(8, 7, 8))
    assert form.depth.steps == 10 and form.depth.passes <= 24 and form.pitch % 32 == form.depth.pitch
    assert sorted(at for at in weight_places(form) if at >= 0) == list(range(147))


@pytest.mark.parametrize(
    "name, cc",
    [("resnet", 90), ("resnet", 80), ("bfloat16", 90), ("bfloat16", 86), ("yolo", 90), ("yolo", 89), ("grey", 90),
     ("128 outputs", 90), ("128 outputs", 100), ("byte image", 90), ("resnet", 120), ("grey", 87), ("resnet", 75),
     ("128 outputs", 75), ("byte image", 75)],
)  # fmt: skip
def test_machine_code(name: str, cc: int) -> None:
    target, region = Target(cc), CASES[name]
    variant = STEM.variants(region, target, {})[0]
    source = STEM.source(region, variant, target)
    made = compile_cuda(source.text, ENTRY, target, specific=cc == 90)
    assert made.spills <= (0 if cc == 90 else 512) and made.registers <= 255
    program = STEM.compile(region, variant, target)
    assert program.kernels[0].pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)


def test_estimates_rank_sensibly() -> None:
    for batch in (1, 128):
        region = resnet(batch)
        variants = STEM.variants(region, SM90, {})
        times = [STEM.estimate(region, v, SM90, {}) for v in variants]
        assert times == sorted(times) and np.isfinite(times).all()
        assert (times[0] < 8e-6) == (batch == 1)
