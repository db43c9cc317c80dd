"""What a Region's outputs should be, for random inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ingot.graph.dims import Bindings
from ingot.graph.reference import run_region
from ingot.graph.region import Region
from ingot.tune.gate import OutputGate, outliers, tolerance
from ingot.tune.samples import flops, random_inputs
from ingot.tune.slicing import restricted, sliced_names
from ingot.tune.steps import steps_of
from ingot.tune.storage import Array, Stored
from ingot.tune.truth import Expected

_HOST_FLOPS = 1.5e9
"""Beyond this the reference is evaluated at some indices of the leading dimension only, if that is sound."""
_HOST_BYTES = 2 << 20
"""The same, for the bytes of the outputs."""
_RUNS = 32
"""Most runs of neighbouring indices that are evaluated: each costs a copy from the device."""


def expected(region: Region, bindings: Bindings, *, tf32: bool) -> Expected:
    """Random inputs and the gates of the Region's outputs.

    Inputs are normal numbers; where those leave the domain of an op (Sqrt, Log, Pow ...),
    positive ones are tried and kept if they give fewer NaN. A negative number cast to an unsigned
    type is whatever the hardware makes of it, so there only positive ones are used.
    """
    unsigned = any(op.op == "Cast" and region.spec_of[op.outputs[0]].dtype.startswith("uint") for op in region.ops)
    inputs, rows, references = _evaluated(region, bindings, positive=unsigned)
    undefined = _undefined(references)
    if undefined and not unsigned:
        others = _evaluated(region, bindings, positive=True)
        if _undefined(others[2]) < undefined:
            inputs, rows, references = others
    allowed, spare = tolerance(region, tf32=tf32), outliers(region)
    gates = (
        OutputGate(Stored.of(tensor, bindings), reference, allowed, spare, rows, steps_of(region, name))
        for name, tensor, reference in zip(region.outputs, region.output_specs, references, strict=True)
    )
    return Expected(tuple(inputs), tuple(gates))


def chosen_rows(region: Region, bindings: Bindings) -> list[int] | None:
    """Indices of the leading dimension to check: None for all of them."""
    outputs = [Stored.of(tensor, bindings) for tensor in region.output_specs]
    work = max(flops(region, bindings) / _HOST_FLOPS, sum(o.nbytes for o in outputs) / _HOST_BYTES)
    if work <= 1 or sliced_names(region, bindings) is None:
        return None
    size = outputs[0].shape[0]
    count = min(size, max(2, int(size / work)))
    length = -(-count // _RUNS)
    starts = np.linspace(0, size - length, -(-count // length)).round().astype(np.int64)
    return [int(i) for i in np.unique(starts[:, None] + np.arange(length))]


def _evaluated(
    region: Region, bindings: Bindings, *, positive: bool
) -> tuple[list[Array], list[int] | None, Sequence[Array]]:
    flat = random_inputs(region, bindings, positive=positive)
    stored = [Stored.of(tensor, bindings) for tensor in region.input_specs]
    logical = [s.window(f) for s, f in zip(stored, flat, strict=True)]
    rows, names = chosen_rows(region, bindings), frozenset[str]()
    body = region
    if rows is not None:
        names = sliced_names(region, bindings) or names
        body = restricted(region, bindings, names, len(rows))
    feeds = {
        name: np.asarray(array[rows] if name in names else array, order="C")
        for name, array in zip(region.inputs, logical, strict=True)
    }
    steps = {name: steps_of(region, name) for name in region.outputs}
    sources = [found.source for found in steps.values() if found is not None]
    body = replace(body, outputs=tuple(dict.fromkeys((*body.outputs, *sources))))
    made = run_region(body, feeds, bindings, high_precision=True)
    references = [made[n] if found is None else found.ideal(made[found.source]) for n, found in steps.items()]
    return flat, rows, references


def _undefined(references: Sequence[Array]) -> int:
    floats = (np.asarray(r, np.float64) for r in references if r.dtype.kind not in "biu")
    return sum(int(np.count_nonzero(~np.isfinite(r))) for r in floats)
