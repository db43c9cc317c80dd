"""What each layer of a model takes, by the Regions that it became."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ingot.graph.lowered import Lowered
from ingot.graph.region import WEIGHTED
from ingot.precision.layers import Layer, layers_of
from ingot.tune.choice import Choice


class Tuned(NamedTuple):
    """A lowered graph and what was chosen for its Regions."""

    lowered: Lowered
    choices: Sequence[Choice]


def layer_times(model: ir.Model, plans: Iterable[Tuned]) -> dict[str, float]:
    """Microseconds of each layer of ``model``, added up over ``plans``, which were made from it or a Q/DQ form of it.

    A Region is a layer's if it computes the layer's result under the name that it has in ``model``; several layers
    share one by the size of their weights. Products under other names (passes join some) are shared in the same way
    by the layers that were not found. What converts between precisions counts for none.
    """
    layers, _ = layers_of(model.graph)
    by_result = {str(layer.node.outputs[0].name): layer for layer in layers}
    times = {layer.name: 0.0 for layer in layers}
    for lowered, choices in plans:
        found: set[str] = set()
        nameless = 0.0
        for region, choice in zip(lowered.regions, choices, strict=True):
            names = dict.fromkeys(name for op in region.ops for name in op.outputs if name in by_result)
            owners = [by_result[name] for name in names]
            found.update(layer.name for layer in owners)
            _share(times, owners, choice.micros)
            nameless += choice.micros if not owners and region.kind in WEIGHTED else 0.0
        _share(times, [layer for layer in layers if layer.name not in found], nameless)
    return times


def _share(times: dict[str, float], layers: Sequence[Layer], micros: float) -> None:
    sizes = np.asarray([layer.array.size for layer in layers], np.float64)
    for layer, size in zip(layers, sizes, strict=True):
        times[layer.name] += micros * float(size / sizes.sum())
