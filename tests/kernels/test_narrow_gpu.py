"""``cuda.narrow`` on the device: sums exact, the rest to one step of quantization."""

from __future__ import annotations

import pytest
from support.gpu import device_target, run_program
from support.narrow import CASES, PADS, with_silu
from support.quantized import assert_quantized, exact, quantized_conv, quantized_inputs

from ingot.graph.region import Region
from ingot.kernels.cuda.narrow.tactic import NarrowTactic

pytestmark = [pytest.mark.gpu]
TACTIC = NarrowTactic()
LARGE: dict[str, Region] = {
    "yolo 160": with_silu(quantized_conv((2, 16, 160, 160), (16, 16, 3, 3), pads=PADS, residual=True, bias=True)),
    "yolo 320": with_silu(quantized_conv((1, 16, 320, 320), (32, 16, 3, 3), pads=PADS, strides=(2, 2), bias=True)),
    "yolo 80": with_silu(quantized_conv((2, 32, 80, 80), (32, 32, 3, 3), pads=PADS, bias=True)),
    "symbolic batch": quantized_conv(("n", 32, 9, 21), (32, 32, 3, 3), pads=PADS),
}


@pytest.mark.parametrize("name", [*CASES, *LARGE])
def test_on_the_device(name: str) -> None:
    target = device_target()
    if target is None:
        pytest.skip("no GPU")
    region = (CASES | LARGE)[name]
    if not TACTIC.accepts(region, target):
        pytest.skip("an older GPU")
    bindings = {"n": 3} if name == "symbolic batch" else {}
    inputs = quantized_inputs(region, bindings)
    want = exact(region, inputs, bindings)
    variants = TACTIC.variants(region, target, bindings)
    for variant in variants[:: max(1, len(variants) // 5)]:
        (got,) = run_program(region, TACTIC.compile(region, variant, target), inputs, bindings)
        assert_quantized(got, want)
