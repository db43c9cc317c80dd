"""``cuda.inverted`` on the device: variants and the three kernels beside it against the reference in high precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.gpu import check_case, target_from
from support.inverted import CASES, inverted_inputs, inverted_region
from support.products import Case

from ingot.kernels.api import Target
from ingot.kernels.cuda.inverted.apart import InTurnTactic
from ingot.kernels.cuda.inverted.tactic import InvertedTactic

pytestmark = [pytest.mark.gpu]
ONE, TURNS = InvertedTactic(), InTurnTactic()


@dataclass(frozen=True)
class Block(Case):
    """A whole block; its inputs keep every convolution's results at unit scale."""

    def inputs(self) -> list[np.ndarray]:
        """Random ones."""
        return inverted_inputs(self.region, self.bindings)


@pytest.fixture(scope="module")
def target() -> Target:
    return target_from(80)


def check(block: Block, target: Target, step: int) -> None:
    found = ONE.variants(block.region, target, block.bindings)[::step]
    three = TURNS.variants(block.region, target, block.bindings)[:1]
    check_case(block, ((v, ONE.compile(block.region, v, target)) for v in found))
    check_case(block, ((v, TURNS.compile(block.region, v, target)) for v in three))


@pytest.mark.parametrize("name", CASES)
def test_blocks(name: str, target: Target) -> None:
    check(Block(CASES[name]), target, 6)


@pytest.mark.parametrize(
    ("x", "hidden", "cols", "stride"),
    [
        ((1, 16, 112, 112), 96, 24, 2), ((1, 24, 56, 56), 144, 24, 1), ((8, 24, 56, 56), 144, 32, 2),
        ((3, 32, 28, 28), 192, 32, 1), ((1, 64, 14, 14), 384, 96, 1),
    ],
)  # fmt: skip
def test_sizes_of_mobilenet(x: tuple[int, int, int, int], hidden: int, cols: int, stride: int, target: Target) -> None:
    check(Block(inverted_region(x, hidden, cols, stride=stride)), target, 6)


@pytest.mark.parametrize(
    ("x", "hidden", "cols", "stride"),
    [((1, 96, 14, 14), 576, 96, 1), ((1, 96, 14, 14), 576, 160, 2), ((2, 160, 7, 7), 960, 320, 1)],
)
def test_weights_over_a_cluster(
    x: tuple[int, int, int, int], hidden: int, cols: int, stride: int, target: Target
) -> None:
    if target.cc < 90:
        pytest.skip("no clusters before sm_90")
    check(Block(inverted_region(x, hidden, cols, stride=stride)), target, 6)


def test_symbolic_batch(target: Target) -> None:
    check(Block(inverted_region(("n", 32, 14, 14), 192, 32, residual="x"), {"n": 5}), target, 6)
