"""``cuda.excite`` on the device: variants and the four kernels beside it against the reference in high precision."""

from __future__ import annotations

import pytest
from support.excites import CASES, excite_inputs, excite_region
from support.gpu import run_program, target_from
from support.regions import assert_close, reference

from ingot.graph.region import Region
from ingot.kernels.api import Target
from ingot.kernels.cuda.excite.apart import FourTactic
from ingot.kernels.cuda.excite.tactic import ExciteTactic

pytestmark = [pytest.mark.gpu]
EXCITE, FOUR = ExciteTactic(), FourTactic()


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(90)


def check(region: Region, target: Target, bindings: dict[str, int] | None = None) -> None:
    inputs = excite_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    four = FOUR.variants(region, target, bindings or {})
    for tactic, variant in [
        *((EXCITE, v) for v in EXCITE.variants(region, target, bindings or {})[::3]),
        (FOUR, four[0]),
    ]:
        (got,) = run_program(region, tactic.compile(region, variant, target), inputs, bindings)
        try:
            assert_close(got, wanted[0], dtype=region.output_specs[0].dtype, depth=4)
        except AssertionError as error:
            raise AssertionError(f"{variant}: {error}") from None


@pytest.mark.parametrize("name", CASES)
def test_blocks(name: str, target: Target) -> None:
    check(CASES[name], target)


@pytest.mark.parametrize(
    ("shape", "hidden"), [((1, 32, 112, 112), 8), ((8, 144, 56, 56), 6), ((3, 672, 14, 14), 28), ((32, 1152, 7, 7), 48)]
)
def test_sizes_of_efficientnet(shape: tuple[int, int, int, int], hidden: int, target: Target) -> None:
    check(excite_region(shape, hidden), target)


def test_symbolic_batch(target: Target) -> None:
    check(excite_region(("n", 240, 14, 14), 10), target, {"n": 5})
