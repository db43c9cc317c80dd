"""Stream-K on the device: results, the same bits every time, flags taken down, launches close behind each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.gpu import check_case, run_program
from support.products import Case
from support.quantized import assert_quantized, exact, quantized_inputs
from support.regions import conv_region
from support.streams import CASES, FLOATS, TACTIC, programs, tiles

from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper.operands import Operands, operands
from ingot.kernels.cuda.hopper.stream import streams

pytestmark = [pytest.mark.gpu]


@pytest.mark.parametrize("name", CASES)
def test_results(name: str, sm90: Target) -> None:
    check_case(CASES[name], programs(CASES[name], sm90))


def test_eight_bit_floats(sm90: Target) -> None:
    inputs = quantized_inputs(FLOATS.region)
    want = exact(FLOATS.region, inputs)
    for name, program in programs(FLOATS, sm90):
        (got,) = run_program(FLOATS.region, program, inputs)
        try:
            assert_quantized(got, want, rough=True)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def test_likeliest_variants(sm90: Target) -> None:
    """On all SMs."""
    case = Case(conv_region((8, 256, 14, 14), (256, 256, 3, 3), pads=(1, 1, 1, 1)))
    o = operands(case.region)
    assert isinstance(o, Operands)
    likeliest = streams(o, sm90, {})[:4]
    assert likeliest
    check_case(case, [(t, TACTIC.compile(case.region, t.variant(TACTIC.name), sm90)) for t in likeliest])


def test_launches_follow_each_other(sm90: Target) -> None:
    """Ten programmatic launches of one kernel over the same sums and flags: each waits until the last has ended."""
    case = CASES["body"]
    inputs = case.inputs()
    for tile in tiles(case.region, case, 3):
        program = TACTIC.compile(case.region, tile.variant(TACTIC.name), sm90)
        (once,) = run_program(case.region, program, inputs)
        (often,) = run_program(case.region, replace(program, kernels=program.kernels * 10), inputs)
        assert often.tobytes() == once.tobytes()
