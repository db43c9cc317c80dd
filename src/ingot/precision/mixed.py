"""Drafts of one model in several formats, of which each layer takes one: INT8 and FP8 in one Q/DQ model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from ingot.precision.draft import Draft
from ingot.precision.layers import Layer, layers_of
from ingot.precision.placement import Placement

FLOAT = "float"
"""The precision of a layer that stays as it is."""


class Part(NamedTuple):
    """What one format gives to a model."""

    draft: Draft
    placed: Placement


def written(parts: Sequence[Part]) -> ir.Model:
    """The Q/DQ model of ``parts``, whose placements have no input in common."""
    model = parts[0].draft.model
    for draft, placed in parts:
        model = draft.added(model, placed)
    return model


@dataclass(frozen=True)
class Mixed:
    """Drafts of one model by the name of their precision."""

    drafts: Mapping[str, Draft]

    @property
    def model(self) -> ir.Model:
        """What all drafts are of."""
        return next(iter(self.drafts.values())).model

    @property
    def layers(self) -> list[Layer]:
        """All layers of the model."""
        return layers_of(self.model.graph)[0]

    def parts(self, precisions: Mapping[str, str]) -> list[Part]:
        """What each format gives when the layers have ``precisions``: ``float`` or the name of a draft.

        Residual adds and moves that layers of two formats ask for go with the first one.
        """
        parts: list[Part] = []
        for name, draft in self.drafts.items():
            adds = {add for part in parts for add, _ in part.placed.adds}
            others = {layer for layer, precision in precisions.items() if precision != name}
            placed = draft.placed(others | adds)
            for edge in [edge for edge in placed.moves if any(edge in part.placed.edges for part in parts)]:
                del placed.edges[edge]
                placed.moves.remove(edge)
            parts.append(Part(draft, placed))
        return parts


@dataclass(frozen=True)
class Mixture:
    """A mix whose layers all have a precision, some of which may be given back."""

    mixed: Mixed
    precisions: Mapping[str, str]

    @property
    def model(self) -> ir.Model:
        """What it is of."""
        return self.mixed.model

    def parts(self, keep: Collection[str]) -> list[Part]:
        """What each format gives when the layers and residual adds ``keep`` stay as they are."""
        return self.mixed.parts({**self.precisions, **dict.fromkeys(keep, FLOAT)})

    def written(self, keep: Collection[str]) -> ir.Model:
        """The Q/DQ model."""
        return written(self.parts(keep))


def alone(draft: Draft) -> Mixture:
    """All layers in the one format of ``draft``."""
    return Mixture(Mixed({draft.form.name: draft}), {})


def with_others(draft: Draft, other: Draft, layers: Collection[str]) -> Mixture:
    """As :func:`alone`, but ``layers`` in the format of ``other``, whose parts come first."""
    mixed = Mixed({other.form.name: other, draft.form.name: draft})
    names = {layer.name: draft.form.name for layer in mixed.layers}
    return Mixture(mixed, names | dict.fromkeys(layers, other.form.name))
