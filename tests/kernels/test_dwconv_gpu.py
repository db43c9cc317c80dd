"""``cuda.dwconv`` on the device: variants of small and real layers against the reference."""

from __future__ import annotations

import pytest
from support.depthwise import CASES, ONE, depthwise
from support.gpu import check_case, target_from
from support.products import SILU, Case

from ingot.kernels.api import Target
from ingot.kernels.cuda.depthwise.floats import FloatTactic

pytestmark = [pytest.mark.gpu]
DWCONV = FloatTactic()
LAYERS = {
    "112": Case(depthwise((2, 32, 112, 112), pads=ONE, epilogue=SILU)),
    "stride 2": Case(depthwise((2, 96, 56, 56), pads=ONE, strides=(2, 2), epilogue=SILU)),
    "5 x 5": Case(depthwise((3, 672, 14, 14), (5, 5), pads=(2, 2, 2, 2), epilogue=SILU)),
}


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(75)


def check(case: Case, target: Target, step: int) -> None:
    variants = DWCONV.variants(case.region, target, case.bindings)[::step]
    check_case(case, ((v, DWCONV.compile(case.region, v, target)) for v in variants))


@pytest.mark.parametrize("name", CASES)
def test_small_images(name: str, target: Target) -> None:
    check(CASES[name], target, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_real_networks(name: str, target: Target) -> None:
    check(LAYERS[name], target, 3)
