"""``cuda.narrow``: sums of bytes and what follows on the CPU, refusals, machine code for every target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.host_cuda import needs_compiler, run_on_host
from support.narrow import CASES, PADS, with_silu
from support.quantized import assert_quantized, exact, quantized_conv, quantized_inputs
from support.regions import refused

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec
from ingot.kernels.api import Kernel, Pdl, Target, Variant
from ingot.kernels.cuda.narrow.tactic import ENTRY, NarrowTactic
from ingot.kernels.cuda.nvrtc import compile_cuda

TACTIC = NarrowTactic()
SM90 = Target(90)


def variant(warps: int, rows: int, wide: int) -> Variant:
    return Variant(TACTIC.name, (("warps", warps), ("rows", rows), ("wide", wide)))


def check(
    region: Region, variants: list[Variant], bindings: dict[str, int] | None = None, target: Target = SM90
) -> None:
    assert TACTIC.accepts(region, SM90)
    inputs = quantized_inputs(region, bindings)
    want = exact(region, inputs, bindings or {})
    for chosen in variants:
        source = TACTIC.source(region, chosen, target)
        kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), 32 * chosen["warps"], 0, source.arguments)
        (got,) = run_on_host(source.text, kernel, region, inputs, bindings)
        assert_quantized(got, want)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    check(CASES[name], [variant(4, 2, 2), variant(4, 4, 1)])


@needs_compiler
@pytest.mark.parametrize("name", ["signed", "stride 2", "residual", "halves with SiLU"])
def test_blocks_that_take_several_parts(name: str) -> None:
    check(CASES[name], [variant(4, 1, 1), variant(8, 1, 1)], target=replace(SM90, sms=1))


@needs_compiler
def test_symbolic_batch() -> None:
    check(quantized_conv(("n", 16, 5, 20), (16, 16, 3, 3), pads=PADS), [variant(4, 4, 1)], {"n": 3})


def test_pieces_of_eight_results_lie_in_banks_of_their_own() -> None:
    for unit in (1, 2, 4, 8):
        for first in range(64):
            units = [first + unit * i for i in range(8)]
            places = [u ^ (u >> 3 & unit - 1) for u in units]
            assert len({place % 8 for place in places}) == 8


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        return refused(TACTIC, region, target)

    plain = CASES["signed"]
    assert "mma.sync" in reason(plain, Target(75))
    assert "16, 32 or 64" in reason(quantized_conv((1, 48, 9, 9), (16, 48, 3, 3), pads=PADS))
    assert "one pixel" in reason(quantized_conv((1, 16, 9, 9), (16, 16, 1, 1)))
    assert "registers" in reason(quantized_conv((1, 64, 9, 9), (64, 64, 3, 3), pads=PADS))
    assert "dilation" in reason(quantized_conv((1, 16, 9, 9), (16, 16, 3, 3), dilations=(2, 2)))
    assert "stride above" in reason(quantized_conv((1, 16, 9, 9), (16, 16, 3, 3), strides=(3, 3)))
    shape = plain.shape("x")
    shifted = TensorSpec("int8", shape, (9 * 21 * 24, 1, 21 * 24, 24), align=8)
    assert "innermost" in reason(plain.with_specs({"x": shifted}))
    halves = plain.with_specs({name: replace(plain.spec_of[name], dtype="float16") for name in ("x", "w")})
    assert "bytes" in reason(replace(halves, ops=(replace(halves.ops[0], op="Conv"), *halves.ops[1:])))


def test_what_columns_are_read_with_is_no_other_kernels_result() -> None:
    """They are read before the kernel waits."""
    plain, added = CASES["signed"], CASES["residual"]
    computed = plain.with_specs({"scale": replace(plain.spec_of["scale"], constant=False)})
    assert "'scale'" in refused(TACTIC, computed, SM90)
    assert TACTIC.accepts(added, SM90) and not all(s.constant for s in added.input_specs[1:])


@pytest.mark.parametrize("cc", [80, 90, 120])
@pytest.mark.parametrize("name", ["signed", "32 channels", "residual"])
def test_machine_code(name: str, cc: int) -> None:
    region, target = CASES[name], Target(cc)
    first = TACTIC.variants(region, target, {})[0]
    made = compile_cuda(TACTIC.source(region, first, target).text, ENTRY, target)
    assert made.spills == 0
    assert TACTIC.compile(region, first, target).kernels[0].pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)


def test_estimates_follow_the_size() -> None:
    small, large = (with_silu(quantized_conv((n, 16, 80, 80), (16, 16, 3, 3), pads=PADS)) for n in (1, 64))
    times = [TACTIC.estimate(r, TACTIC.variants(r, SM90, {})[0], SM90, {}) for r in (small, large)]
    assert times[0] < 6e-6 < 10e-6 < times[1] < 1e-3 and np.isfinite(times).all()
