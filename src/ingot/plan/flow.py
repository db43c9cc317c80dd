"""Who depends on whom: data flow between the Regions that do work, seen through views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ingot.graph.lowered import Lowered
from ingot.graph.region import Kind


@dataclass(frozen=True)
class Flow:
    """Producers of Values and dependencies of Regions (both as indices into ``lowered.regions``)."""

    lowered: Lowered

    @cached_property
    def working(self) -> tuple[int, ...]:
        """Regions that are steps: all but views."""
        return tuple(i for i, region in enumerate(self.lowered.regions) if region.kind is not Kind.VIEW)

    @cached_property
    def sources(self) -> Mapping[str, frozenset[int]]:
        """The working Regions that write a Value's elements.

        What a view gives out was written by whoever wrote what it takes in; that holds for a
        concat written in place, too, whose inputs are parts of its output.
        """
        found: dict[str, frozenset[int]] = {}
        for index, region in enumerate(self.lowered.regions):
            if region.kind is Kind.VIEW:
                made = frozenset().union(*(found.get(name, frozenset()) for name in region.inputs))
            else:
                made = frozenset((index,))
            found.update(dict.fromkeys(region.outputs, made))
        return found

    @cached_property
    def depends(self) -> Mapping[int, frozenset[int]]:
        """Regions whose results each working Region reads, or that decide whether it runs."""
        none: frozenset[int] = frozenset()
        return {
            index: none.union(*(self.sources.get(name, none) for name in self._needs(index))) for index in self.working
        }

    def _needs(self, index: int) -> Iterator[str]:
        region = self.lowered.regions[index]
        yield from region.inputs
        yield from (name for name, _ in self.lowered.guards.get(region.name, ()))
