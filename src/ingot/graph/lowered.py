"""The Graph after fusion and layout: Regions in order, over named Values with a place in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec


@dataclass(frozen=True)
class Window:
    """A Value that is a part of another's memory (view, split, concat written in place)."""

    parent: str
    offset: Dim = 0
    """Elements from the parent's first element to this Value's first."""


@dataclass(frozen=True)
class SymbolRange:
    """Bounds of one symbolic dimension."""

    symbol: str
    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class DataSize:
    """A symbol whose value is known when a host Region has run: the size of ``value`` along ``axis``."""

    symbol: str
    value: str
    axis: int


Guard = tuple[tuple[str, bool], ...]
"""Conditions, by the names of values of one element that host Regions make, and what each must be; sorted."""


@dataclass(frozen=True)
class Lowered:
    """What the tuner and the plan work on.

    Region inputs and outputs are names of ``values``. A Region of kind VIEW does no work: its
    outputs (or, for a concat written in place, its inputs) are in ``windows``.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Mapping[str, TensorSpec]
    regions: tuple[Region, ...]
    """In topological order."""
    constants: Mapping[str, np.ndarray]
    """Weights by value name, in logical shape (``values[name]`` says how they lie in memory)."""
    windows: Mapping[str, Window] = field(default_factory=dict)
    ranges: tuple[SymbolRange, ...] = ()
    """Of the inputs' symbols, and of those in ``data``."""
    host_bodies: Mapping[str, bytes] = field(default_factory=dict)
    """For HOST Regions (by name): the serialised ONNX model, inputs and outputs in the Region's order."""
    host_backends: Mapping[str, str] = field(default_factory=dict)
    """For HOST Regions (by name): what runs them, where that is not ONNX Runtime (``plan.spec.Step.backend``)."""
    reasons: tuple[str, ...] = ()
    refusals: Mapping[str, tuple[No, ...]] = field(default_factory=dict)
    """For HOST Regions (by name): why each of their ops has no kernel; ``reasons`` has the same as text."""
    data: tuple[DataSize, ...] = ()
    """Sizes that depend on data and have a bound."""
    guards: Mapping[str, Guard] = field(default_factory=dict)
    """By name, Regions that run only under conditions. Without them their results are not needed, and are junk."""

    @property
    def constant_bytes(self) -> int:
        """Bytes of all weights, equal ones counted each."""
        return sum(array.nbytes for array in self.constants.values())

    def bindings(self, which: str = "opt") -> dict[str, int]:
        """Values of the symbolic dimensions at ``min``, ``opt`` or ``max``."""
        return {r.symbol: getattr(r, which) for r in self.ranges}
