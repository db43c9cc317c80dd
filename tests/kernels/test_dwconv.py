"""``cuda.dwconv``: numerics on the CPU, refusals, machine code for every target."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.depthwise import CASES, ONE, depthwise
from support.host_cuda import needs_compiler, run_on_host
from support.products import SILU
from support.regions import conv_region, refused

from ingot.builder.targets import TARGETS
from ingot.graph.region import Region
from ingot.graph.tensor import spec
from ingot.kernels.api import Kernel, Pdl, Target
from ingot.kernels.cuda.depthwise import floats
from ingot.kernels.cuda.depthwise.floats import ENTRY, FloatTactic
from ingot.kernels.cuda.nvrtc import CompiledCuda, compile_cuda
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates as offered

DWCONV = FloatTactic()
SM90 = Target(90)
LAYERS = {
    "56": depthwise((32, 144, 56, 56), pads=ONE),
    "stride 2": depthwise((32, 96, 112, 112), pads=ONE, strides=(2, 2)),
    "5 x 5": depthwise((1, 672, 14, 14), (5, 5), pads=(2, 2, 2, 2)),
}


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    case = CASES[name]
    assert DWCONV.accepts(case.region, SM90)
    inputs = case.inputs()
    variants = DWCONV.variants(case.region, SM90, case.bindings)
    for variant in (variants[0], variants[-1]):
        source = DWCONV.source(case.region, variant)
        kernel = Kernel(ENTRY, b"", (source.grid, 1, 1), variant["block"], 0, source.arguments)
        case.check(inputs, run_on_host(source.text, kernel, case.region, inputs, case.bindings))


def test_refusals() -> None:
    def reason(region: Region) -> str:
        return refused(DWCONV, region, SM90)

    assert "not depthwise" in reason(conv_region((1, 16, 8, 8), (16, 8, 3, 3), group=2, pads=ONE))
    assert "multiples of 8" in reason(depthwise((1, 12, 8, 8), pads=ONE))
    assert "multiples of 8" in reason(depthwise((1, 16, 8, 8), pads=ONE, x_order=(0, 1, 2, 3)))
    assert "stride above 2" in reason(depthwise((1, 16, 9, 9), pads=ONE, strides=(3, 3)))
    assert "without dilation" in reason(depthwise((1, 16, 9, 9), pads=(2, 2, 2, 2), dilations=(2, 2)))
    assert "symbolic image" in reason(replace(CASES["plain"].region, values=tuple(
        (name, replace(s, shape=(s.shape[0], s.shape[1], "h", s.shape[3])) if name in ("x", "acc") else s)
        for name, s in CASES["plain"].region.values
    )))  # fmt: skip
    computed = depthwise((1, 16, 9, 9), pads=ONE)
    computed = computed.with_specs({"w": spec("float16", (16, 1, 3, 3), (1, 2, 3, 0))})
    assert "not constant" in reason(computed)
    assert "empty" in reason(depthwise((1, 16, 0, 9), pads=ONE))
    assert "empty" in reason(depthwise((0, 16, 9, 9), pads=ONE))
    assert "elements of the result" in reason(depthwise((1 << 18, 128, 8, 8), pads=ONE))
    assert DWCONV.accepts(depthwise(((1 << 18) - 1, 128, 8, 8), pads=ONE), SM90)


@pytest.mark.parametrize(("dtype", "divisions"), [("float32", "IEEE"), ("float16", "quick")])
def test_only_rounded_results_are_divided_quickly(dtype: str, divisions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    region = depthwise((1, 16, 6, 6), dtype=dtype, pads=ONE, epilogue=SILU)
    given = []

    def compile_cuda(source: str, entry: str, target: Target, *, options: tuple[str, ...]) -> CompiledCuda:
        given.extend(options)
        return CompiledCuda(b"", 0, 0, 0)

    monkeypatch.setattr(floats, "compile_cuda", compile_cuda)
    DWCONV.compile(region, DWCONV.variants(region, SM90, {})[0], SM90)
    assert ("--prec-div=false" in given) == (divisions == "quick") and tuple(given) == quick_math(region)


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_measured_beside_triton(name: str) -> None:
    found = offered(LAYERS[name], SM90, {}, TACTICS)
    assert {one.variant.tactic for one in found.shortlist(3)} == {"cuda.dwconv", "triton.depthwise"}
    times = [DWCONV.estimate(LAYERS[name], v, SM90, {}) for v in DWCONV.variants(LAYERS[name], SM90, {})]
    assert times == sorted(times) and 1e-6 < times[0] < 5e-5


@pytest.mark.parametrize("name", LAYERS)
def test_likely_variants_do_not_spill(name: str) -> None:
    for variant in DWCONV.variants(LAYERS[name], SM90, {})[:3]:
        assert compile_cuda(DWCONV.source(LAYERS[name], variant).text, ENTRY, SM90).spills == 0, variant


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_machine_code_for_every_target(target: Target) -> None:
    variant = DWCONV.variants(LAYERS["56"], target, {})[0]
    (kernel,) = DWCONV.compile(LAYERS["56"], variant, target).kernels
    assert kernel.pdl is (Pdl.TRIGGERS if target.cc >= 90 else Pdl.NONE) and kernel.block == variant["block"]
