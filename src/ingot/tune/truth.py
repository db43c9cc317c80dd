"""What a Region should compute, handed from the process that knows it to the one that measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingot.graph.dims import Bindings
from ingot.graph.region import Region
from ingot.plugins.record import node_of, plugin_of, run_reference
from ingot.tune.gate import OutputGate, tolerance
from ingot.tune.samples import random_inputs
from ingot.tune.storage import Array, Stored


@dataclass(frozen=True)
class Expected:
    """Inputs as they lie in memory, and one gate per output."""

    inputs: tuple[Array, ...]
    gates: tuple[OutputGate, ...]


def plugin_truth(region: Region, bindings: Bindings) -> Expected:
    """A plugin's reference on its own samples, or on random numbers. Raises whatever the plugin raises."""
    op, plugin = region.ops[0], plugin_of(region)
    stored = [Stored.of(tensor, bindings) for tensor in region.input_specs]
    flat = random_inputs(region, bindings)
    node = node_of(plugin, op, region.spec_of)
    samples = plugin.samples(node, bindings, np.random.default_rng(0))
    logical = {name: s.window(f) for name, s, f in zip(region.inputs, stored, flat, strict=True)}
    if samples is not None:
        for name, array in zip(op.inputs, samples, strict=True):
            if name:
                logical[name][...] = array
    feeds = [np.array(logical[name], order="C") if name else None for name in op.inputs]
    made = run_reference(plugin, node.attrs, feeds)
    allowed = tolerance(region, tf32=False)
    gates = (
        OutputGate(Stored.of(region.spec_of[name], bindings), made[op.outputs.index(name)], allowed)
        for name in region.outputs
    )
    return Expected(tuple(flat), tuple(gates))
