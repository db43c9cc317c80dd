"""``cuda.pair``: a CHAIN or SUM Region as two kernels of the Hopper family, one after the other.

Offered beside the one kernel for both, so that measurement decides between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ingot.errors import Answer, No
from ingot.graph.dims import Bindings, mul
from ingot.graph.dtypes import itemsize
from ingot.graph.region import Kind, Region
from ingot.kernels.api import Argument, Input, Output, Program, Scratch, Target, TensorMap, Variant, Workspace
from ingot.kernels.cuda.chain.plan import Halves, halves, plan_chain
from ingot.kernels.cuda.hopper.sums import sum_operands
from ingot.kernels.cuda.hopper.tactic import HopperTactic

_EACH = 6
"""Likeliest variants of each half that are combined."""
_LIMIT = 20
_HOPPER = HopperTactic()


@dataclass(frozen=True)
class PairTactic:
    """Both convolutions by ``cuda.hopper``; the tensor between them goes through memory."""

    name: str = "cuda.pair"
    kinds: frozenset[Kind] = frozenset({Kind.CHAIN, Kind.SUM})

    def accepts(self, region: Region, target: Target) -> Answer:
        """What one kernel takes, too: other convolutions are better tuned apart."""
        whole = sum_operands(region) if region.kind is Kind.SUM else plan_chain(region)
        parts = halves(region)
        if isinstance(whole, No):
            return whole
        if isinstance(parts, No):
            return parts
        return _HOPPER.accepts(parts.first, target) and _HOPPER.accepts(parts.second, target)

    def variants(self, region: Region, target: Target, bindings: Bindings) -> Sequence[Variant]:
        """Combinations of the halves' likeliest variants, by predicted time."""
        parts = _read(region)
        ranked = []
        for half in (parts.first, parts.second):
            likeliest = _HOPPER.variants(half, target, bindings)[:_EACH]
            ranked.append([(_HOPPER.estimate(half, v, target, bindings), v) for v in likeliest])
        both = [(a[0] + b[0], _joined(self.name, a[1], b[1])) for a, b in itertools.product(*ranked)]
        return [variant for _, variant in sorted(both)[:_LIMIT]]

    def compile(self, region: Region, variant: Variant, target: Target) -> Program:
        """Two kernels; the tensor between them is a workspace where nobody else reads it."""
        parts = _read(region)
        kernels, spaces = [], []
        inner = parts.middle not in region.outputs
        if inner:
            tensor = parts.first.spec_of[parts.middle]
            spaces.append(Workspace(mul(tensor.elements, itemsize(tensor.dtype))))
        for half, chosen in zip((parts.first, parts.second), _apart(variant), strict=True):
            program = _HOPPER.compile(half, chosen, target)
            assert not program.workspaces, "cuda.hopper needs none"
            kernels += [
                replace(kernel, arguments=tuple(_moved(a, half, region) for a in kernel.arguments))
                for kernel in program.kernels
            ]
        return Program(tuple(kernels), tuple(spaces))

    def estimate(self, region: Region, variant: Variant, target: Target, bindings: Bindings) -> float:
        """Sum of both."""
        parts, (first, second) = _read(region), _apart(variant)
        return _HOPPER.estimate(parts.first, first, target, bindings) + _HOPPER.estimate(
            parts.second, second, target, bindings
        )


@lru_cache(maxsize=256)
def _read(region: Region) -> Halves:
    parts = halves(region)
    assert isinstance(parts, Halves), parts
    return parts


def _joined(name: str, first: Variant, second: Variant) -> Variant:
    params = [(f"{mark}.{key}", value) for mark, v in (("a", first), ("b", second)) for key, value in v.params]
    return Variant(name, tuple(params))


def _apart(variant: Variant) -> tuple[Variant, Variant]:
    first, second = (
        Variant(_HOPPER.name, tuple((key[2:], value) for key, value in variant.params if key.startswith(f"{mark}.")))
        for mark in "ab"
    )
    return first, second


def _moved(argument: Argument, half: Region, whole: Region) -> Argument:
    """An argument of one half's kernel as one of the whole Region's."""
    match argument:
        case Input() | Output():
            return _place(argument, half, whole)
        case TensorMap(tensor=tensor):
            assert not isinstance(tensor, Scratch)
            return replace(argument, tensor=_place(tensor, half, whole))
    return argument


def _place(tensor: Input | Output, half: Region, whole: Region) -> Input | Output | Scratch:
    name = (half.inputs if isinstance(tensor, Input) else half.outputs)[tensor.index]
    if name in whole.outputs:
        return Output(whole.outputs.index(name))
    return Input(whole.inputs.index(name)) if name in whole.inputs else Scratch(0)
