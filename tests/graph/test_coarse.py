"""Where SiLU and GELU may take their quick forms, and how far off those are."""

from __future__ import annotations

from dataclasses import replace
from math import erf

import numpy as np
import pytest
from support.narrow import PADS, with_silu
from support.quantized import quantized_conv

from ingot.graph.coarse import ERROR, ROOM, coarse, smooth
from ingot.graph.region import BodyOp, Region
from ingot.kernels.cuda.product import quick_math
from ingot.tune.gate import TOLERANCE, tolerance


def silu_layer(step: float, *, residual: bool = False, out: str = "int8") -> Region:
    region = with_silu(quantized_conv((1, 16, 9, 9), (16, 16, 3, 3), pads=PADS, residual=residual, out=out))
    return replace(region, literals=tuple((n, step if n == "y_scale" else v) for n, v in region.literals))


def test_long_steps_are_coarse_and_short_ones_are_not() -> None:
    wide, fine = silu_layer(0.05), silu_layer(0.01)
    assert smooth(wide) and coarse(wide) and coarse(wide.canonical)
    assert smooth(fine) and not coarse(fine)
    assert "-DINGOT_COARSE" in quick_math(wide) and "-DINGOT_COARSE" not in quick_math(fine)
    assert tolerance(wide, tf32=False) == TOLERANCE["float16"]
    assert tolerance(fine, tf32=False) == TOLERANCE["float32"]


def test_kernels_of_one_kind_have_times_of_their_own() -> None:
    assert silu_layer(0.05).likeness == silu_layer(0.5).likeness != silu_layer(0.01).likeness


def test_a_residual_may_be_added_before_rounding() -> None:
    assert coarse(silu_layer(0.05, residual=True))


def test_without_rounding_nothing_is_coarse() -> None:
    assert not coarse(silu_layer(0.05, out="float16"))
    relu = quantized_conv((1, 16, 9, 9), (16, 16, 3, 3), pads=PADS)
    assert not smooth(relu) and not coarse(relu)


def test_what_is_multiplied_on_the_way_is_not_coarse() -> None:
    region = silu_layer(0.05)
    last = region.producer[region.outputs[0]]
    ops = (*region.ops[:-1], BodyOp("Mul", (last.inputs[0], "scale"), ("more",)),
           replace(last, inputs=("more", *last.inputs[1:])))  # fmt: skip
    values = (*region.values, ("more", region.spec_of[last.inputs[0]]))
    assert region.ops[-1] is last and not coarse(replace(region, ops=ops, values=values))


@pytest.mark.parametrize(("step", "room"), [(0.05, True), (0.01, False)])
def test_steps_on_the_way_have_to_be_long_too(step: float, room: bool) -> None:
    region = silu_layer(0.05)
    last = region.producer[region.outputs[0]]
    between = (
        BodyOp("QuantizeLinear", (last.inputs[0], "step"), ("bytes",)),
        BodyOp("DequantizeLinear", ("bytes", "step"), ("rounded",)),
    )
    ops = (*region.ops[:-1], *between, replace(last, inputs=("rounded", *last.inputs[1:])))
    values = (*region.values, ("bytes", region.spec_of[last.outputs[0]]), ("rounded", region.spec_of[last.inputs[0]]))
    made = replace(region, ops=ops, values=values, literals=(*region.literals, ("step", step)))
    assert region.ops[-1] is last and coarse(made) == room


@pytest.mark.parametrize("sign", [1, -1])
def test_the_error_is_what_is_allowed(sign: int) -> None:
    """With the instruction's own error, 2^-11 of the tangent, at its worst either way."""
    x = np.linspace(-9, 9, 40001)
    off = 1 + sign * 2.0**-11
    silu = x * (0.5 + 0.5 * np.clip(off * np.tanh(0.5 * x), -1, 1))
    gelu = 0.5 * x * (1 + np.clip(off * np.tanh(x * (0.797884561 + 0.0356774081 * x * x)), -1, 1))
    exact = 0.5 * x * (1 + np.array([erf(v / np.sqrt(2)) for v in x]))
    assert np.abs(silu - x / (1 + np.exp(-x))).max() <= ERROR
    assert np.abs(gelu - exact).max() <= ERROR
    assert ERROR <= ROOM * 0.022
