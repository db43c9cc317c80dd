"""A calibrated model with what was chosen for it, from which Q/DQ models are written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ingot.graph.edit import Array
from ingot.precision.calibrate import Statistics
from ingot.precision.formats import Format
from ingot.precision.placement import Placement, place
from ingot.precision.qdq import insert
from ingot.precision.ranges import Seen, Threshold, Weighting, choose
from ingot.precision.weights import weighting


@dataclass(frozen=True)
class Draft:
    """Everything that a Q/DQ model follows from, but which layers stay as they are."""

    model: ir.Model
    statistics: Statistics
    form: Format
    method: str
    thresholds: Mapping[str, Threshold]
    """By the name of a value, alone."""
    both_branches: bool = False
    corrected: bool = False
    """Whether biases make up for the mean error of rounded weights."""
    flips: Mapping[str, Array] | None = None
    """By layer, the weights that are rounded to their other neighbour; None where all go to the nearest."""

    def placed(self, keep: Collection[str]) -> Placement:
        """Where 8-bit numbers are read when the layers ``keep`` stay as they are."""
        alone = {name: threshold.value for name, threshold in self.thresholds.items()}
        return place(self.model, keep, alone, both_branches=self.both_branches)

    def shared(self, placed: Placement) -> dict[str, Threshold]:
        """A threshold for each group of ``placed``: what all its values agree on."""
        weights = weightings(placed)
        return {
            group: self._agreed(names, weights) if len(names) > 1 else self.thresholds[names[0]]
            for group, names in placed.groups().items()
        }

    def _agreed(self, names: Sequence[str], weights: Mapping[str, Weighting]) -> Threshold:
        return choose([Seen(self.statistics.histograms[n], weights[n]) for n in names], self.form, self.method)

    def written(self, keep: Collection[str]) -> ir.Model:
        """The Q/DQ model."""
        return self.added(self.model, self.placed(keep))

    def added(self, model: ir.Model, placed: Placement) -> ir.Model:
        """``model``, which is the draft's or a Q/DQ form of it, with 8-bit numbers where ``placed`` has them."""
        return insert(model, placed, self.shared(placed), self.form, self.means, self.flips)

    @property
    def means(self) -> dict[str, Array] | None:
        """Means of the input channels of layers by the name of their input, where biases are corrected."""
        if not self.corrected:
            return None
        return {name: channels.mean for name, channels in self.statistics.channels.items()}


def draft_of(
    model: ir.Model, statistics: Statistics, form: Format, method: str, *, both_branches: bool = False
) -> Draft:
    """A threshold for everything that can be quantized in ``model``, by ``method``."""
    weights = weightings(place(model, both_branches=both_branches))
    found = {name: choose([Seen(statistics.histograms[name], w)], form, method) for name, w in weights.items()}
    return Draft(model, statistics, form, method, found, both_branches)


def weightings(placed: Placement) -> dict[str, Weighting]:
    """What errors of each quantized value do: through all layers that read it, or as they are."""
    found: dict[str, Weighting] = {}
    for layer in placed.layers:
        name = str(layer.x.name)
        found[name] = found[name] + weighting(layer) if name in found else weighting(layer)
    return {name: found.get(name, Weighting()) for name in placed.values}
