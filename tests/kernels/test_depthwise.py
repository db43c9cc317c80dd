"""``cuda.depthwise``: sums of bytes and the epilogue of bytes on the CPU, refusals, machine code for every target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.host_cuda import needs_compiler, run_on_host
from support.quantized import assert_quantized, exact, quantized_conv, quantized_inputs
from support.regions import refused

from ingot.graph.region import BodyOp, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Kernel, Pdl, Target
from ingot.kernels.cuda.depthwise.tactic import ENTRY, DepthwiseTactic
from ingot.kernels.cuda.nvrtc import compile_cuda

TACTIC = DepthwiseTactic()
SM90 = Target(90)


def depthwise(x: tuple[int | str, int, int, int], taps: tuple[int, int] = (3, 3), **options: object) -> Region:
    """With weights as a build lays them out: channels innermost."""
    channels = x[1]
    region = quantized_conv(x, (channels, 1, *taps), group=channels, **options)  # type: ignore[arg-type]
    return region.with_specs({"w": spec("int8", (channels, 1, *taps), (1, 2, 3, 0), constant=True)})


PADS = (1, 1, 1, 1)
CASES = {
    "signed": depthwise((2, 24, 7, 6), pads=PADS),
    "unsigned": depthwise((1, 16, 9, 5), pads=PADS, x_type="uint8", out="uint8"),
    "stride 2": depthwise((2, 8, 9, 10), pads=PADS, strides=(2, 2), x_type="uint8", out="uint8", zero=9),
    "stride 2 before, not after": depthwise((1, 16, 8, 8), pads=(0, 0, 1, 1), strides=(2, 2)),
    "strides 2 and 1": depthwise((1, 8, 9, 7), pads=PADS, strides=(2, 1)),
    "residual": depthwise((1, 16, 6, 6), pads=PADS, residual=True),
    "two taps": depthwise((1, 8, 6, 7), (2, 2), pads=(1, 0, 0, 1), offset=None),
    "one row of taps": depthwise((1, 8, 5, 9), (1, 3), pads=(0, 1, 0, 1), bias=True),
    "offset of pixels": depthwise((2, 8, 5, 6), pads=PADS, x_type="uint8", offset=(5, 6)),
    "into halves": depthwise((1, 32, 6, 6), pads=PADS, out="float16"),
}


def check(region: Region, bindings: dict[str, int] | None = None) -> None:
    assert TACTIC.accepts(region, SM90)
    inputs = quantized_inputs(region, bindings)
    want = exact(region, inputs, bindings or {})
    variants = TACTIC.variants(region, SM90, bindings or {"n": 2})
    for variant in {v["rows"]: v for v in variants if v["rows"] != 2}.values():
        source = TACTIC.source(region, variant)
        kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), variant["block"], 0, source.arguments)
        (got,) = run_on_host(source.text, kernel, region, inputs, bindings)
        assert_quantized(got, want)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    check(CASES[name])


@needs_compiler
def test_symbolic_batch() -> None:
    check(depthwise(("n", 8, 5, 4), pads=PADS), {"n": 3})


def with_clip(high: float) -> Region:
    """A Clip from 0 in place of the Relu, before results of uint8 in steps of a half."""
    region = depthwise((1, 16, 6, 5), pads=PADS, x_type="uint8", out="uint8")
    ops = tuple(
        BodyOp("Clip", (op.inputs[0], "low", "high"), op.outputs) if op.op == "Relu" else op for op in region.ops
    )
    return replace(region, ops=ops, literals=(*region.literals, ("low", 0.0), ("high", high)))


@needs_compiler
@pytest.mark.parametrize(("high", "kept"), [(20.1, "ingot_min<float>("), (127.5, ""), (500.0, "")])
def test_bounds_that_bytes_have_anyway_are_left_out(high: float, kept: str) -> None:
    region = with_clip(high)
    text = TACTIC.source(region, TACTIC.variants(region, SM90, {})[0]).text
    body = text[text.index("void finish(") :]
    assert "ingot_saturated" in body and "ingot_max<" not in body and ("ingot_min<" in body) == bool(kept)
    check(region)


def test_refusals() -> None:
    def reason(region: Region) -> str:
        return refused(TACTIC, region, SM90)

    plain = CASES["signed"]
    assert "multiples of 8" in reason(depthwise((1, 20, 6, 6), pads=PADS))
    assert "3 x 3" in reason(depthwise((1, 16, 9, 9), (5, 5), pads=(2, 2, 2, 2)))
    assert "stride" in reason(depthwise((1, 16, 9, 9), strides=(3, 3)))
    assert "dilation" in reason(depthwise((1, 16, 9, 9), dilations=(2, 2)))
    assert "not depthwise" in reason(quantized_conv((1, 16, 6, 6), (16, 16, 3, 3), pads=PADS))
    assert "innermost" in reason(quantized_conv((1, 16, 6, 6), (16, 1, 3, 3), pads=PADS, group=16))
    shifted = TensorSpec("int8", (2, 24, 7, 6), (7 * 6 * 28, 1, 6 * 28, 28), align=4)
    assert "multiples of 8" in reason(plain.with_specs({"x": shifted}))


@pytest.mark.parametrize("cc", [75, 90])
@pytest.mark.parametrize("name", ["unsigned", "stride 2", "residual"])
def test_machine_code(name: str, cc: int) -> None:
    region, target = CASES[name], Target(cc)
    for variant in TACTIC.variants(region, target, {})[:1]:
        made = compile_cuda(TACTIC.source(region, variant).text, ENTRY, target)
        assert made.spills == 0
        assert TACTIC.compile(region, variant, target).kernels[0].pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)


def test_estimates_follow_the_traffic() -> None:
    small, large = (depthwise((n, 96, 56, 56), pads=PADS, x_type="uint8", out="uint8") for n in (1, 64))
    times = [TACTIC.estimate(r, TACTIC.variants(r, SM90, {})[0], SM90, {}) for r in (small, large)]
    assert times[0] < 5e-6 and 10 * times[0] < 30 * times[1] and np.isfinite(times).all() and times[1] > 10e-6
