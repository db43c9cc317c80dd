"""Index spaces of a reduction: where each tensor's elements lie along the kept and the reduced axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingot.errors import IngotError
from ingot.graph.dims import Dim, divisible, evaluate, mul, symbols
from ingot.graph.tensor import TensorSpec

_TYPICAL = 64
"""Stands for every symbolic dimension when strides are put in order."""


@dataclass(frozen=True)
class Loop:
    """One loop of an iteration space, outermost first in a sequence: trip count and step of each tensor."""

    size: Dim
    strides: Mapping[str, Dim]


@dataclass(frozen=True)
class Placement:
    """A tensor in the iteration space: its strides along every axis (0 where it is broadcast)."""

    spec: TensorSpec
    strides: tuple[Dim, ...]


def typical(dim: Dim) -> int:
    """A number that stands for ``dim`` in comparisons made before the symbols are known."""
    try:
        return evaluate(dim, dict.fromkeys(symbols(dim), _TYPICAL))
    except IngotError:
        return 1 << 40


def aligned_strides(spec: TensorSpec, axes: Sequence[int], space: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """Strides of ``spec`` along ``space``, whose axis ``axes[i]`` the tensor's axis i is; None on a mismatch."""
    strides: list[Dim] = [0] * len(space)
    for size, stride, axis in zip(spec.shape, spec.strides, axes, strict=True):
        if size == 1:
            continue
        if axis < 0 or size != space[axis]:
            return None
        strides[axis] = stride
    return tuple(strides)


def collapse(axes: Sequence[int], space: Sequence[Dim], placed: Mapping[str, Placement], lead: str) -> tuple[Loop, ...]:
    """Loops over ``axes`` in the memory order of tensor ``lead``, adjacent axes merged where every tensor allows it."""
    alive = [axis for axis in axes if space[axis] != 1]
    # Axes that the lead tensor does not have go outermost, so that its unit stride stays innermost.
    alive.sort(key=lambda axis: (placed[lead].strides[axis] != 0, -typical(placed[lead].strides[axis]), axis))
    loops: list[Loop] = []
    for axis in alive:
        inner = Loop(space[axis], {name: place.strides[axis] for name, place in placed.items()})
        if loops and all(loops[-1].strides[name] == mul(inner.strides[name], inner.size) for name in placed):
            loops[-1] = Loop(mul(loops[-1].size, inner.size), inner.strides)
        else:
            loops.append(inner)
    return tuple(loops)


def vector_load(name: str, spec: TensorSpec, inner: Loop, others: Sequence[Loop], width: int, itemsize: int) -> bool:
    """Whether ``width`` consecutive steps of ``inner`` are one aligned access of at most 16 bytes' alignment."""
    unit = min(16, width * itemsize)
    if inner.strides[name] != 1 or spec.align % unit:
        return False
    steps = [loop.strides[name] for loop in others]
    return all(divisible(mul(step, itemsize), unit) for step in steps)
