"""Weights rounded up or down so that a layer's results, not each weight, come out nearest.

The loss of a layer is that of Nagel et al., "Up or down? Adaptive rounding for post-training quantization" (2020): for
each result the quadratic form d^T G d, with d the errors of its weights and G the second moments of what they
are multiplied with. They relax the choice of each weight's neighbour and learn it by gradients; here it is made by
coordinate descent: a weight goes to its other neighbour where that lowers the form, in a few sweeps. The
form only falls, and what it falls to is checked on patches that G does not contain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ingot.graph.edit import Array
from ingot.precision.data import Batch
from ingot.precision.draft import Draft
from ingot.precision.formats import Format
from ingot.precision.host import HostRuns
from ingot.precision.layers import Layer
from ingot.precision.patches import as_matrices, as_weights, has_patches, patches
from ingot.precision.weights import quantize_weight, spread
from ingot.progress import Progress

SAMPLES = 64
"""Samples that moments are taken of."""
_SWEEPS = 4
_PATCHES = 4
"""Patches per number in a patch: G has full rank, and is learnt and not remembered."""
_LEAST, _MOST = 2048, 16384
"""Fewest and most patches of a layer."""
_CHECKED = 0.25
"""Share of the patches that are kept for the check."""
_BYTES = 1 << 30
"""Moments that are in memory at a time: further layers take another pass over the samples."""
_WIDEST = 8192
"""Longest patch: beyond it a layer alone would take a minute."""


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's patches, [groups, numbers, numbers]: to learn from, and to check with."""

    learnt: Array
    checked: Array


def adaptive_flips(draft: Draft, batches: Sequence[Batch], progress: Progress) -> dict[str, Array]:
    """For each layer of ``draft`` where it helps, which weights go to their other neighbour.

    Layers whose patches are not known, or too long, are left out. The work is bounded by the numbers above: it grows
    with the square of the patches' length and not with the data.
    """
    placed = draft.placed(())
    shared = draft.shared(placed)
    layers = [layer for layer in placed.layers if has_patches(layer) and _length(layer) <= _WIDEST]
    found: dict[str, Array] = {}
    for group in _groups(layers):
        moments = _moments(draft, group, batches)
        for layer in group:
            progress("round", len(found), len(layers))
            scale = shared[placed.group(str(layer.x.name))].scale
            found[layer.name] = flips_of(layer, draft.form, scale, moments[layer.name])
    progress("round", len(layers), len(layers))
    return {name: flips for name, flips in found.items() if flips.any()}


def flips_of(layer: Layer, form: Format, input_scale: float, moments: Moments) -> Array:
    """Which weights of ``layer`` go to the other neighbour, in their shape: only where both moments gain by it."""
    nearest = quantize_weight(layer, form, input_scale)
    scale = spread(nearest.scale, layer.array.ndim, layer.axis)
    scaled = (layer.array / scale).astype(np.float32)
    grid = nearest.stored.astype(np.float32)
    other = form.other(scaled, grid)
    errors, turns = (as_matrices(layer, part * scale).astype(np.float32) for part in (grid - scaled, other - grid))
    flips = np.stack(
        [_descended(e, t, learnt) for e, t, learnt in zip(errors, turns, moments.learnt, strict=True)]
    )  # fmt: skip
    before = _forms(errors, moments.checked)
    after = _forms(np.where(flips, errors + turns, errors), moments.checked)
    flips &= (after < before)[..., None]
    return np.ascontiguousarray(as_weights(layer, flips))


def _descended(errors: Array, turns: Array, moments: Array) -> Array:
    """Coordinate descent for all results of a group at once: ``errors`` and ``turns`` are [results, numbers].

    The gradient of the form is kept: turning the weight ``j`` by t adds 2 t g_j + t² G_jj to it.
    """
    gradients = errors @ moments
    flipped = np.zeros(errors.shape, np.bool_)
    turns = turns.copy()
    diagonal = np.ascontiguousarray(np.diagonal(moments))
    for _ in range(_SWEEPS):
        count = 0
        for j in np.flatnonzero(diagonal > 0):
            turn = turns[:, j]
            rows = np.flatnonzero(turn * (2 * gradients[:, j] + turn * diagonal[j]) < 0)
            if rows.size:
                gradients[rows] += turn[rows, None] * moments[j]
                flipped[rows, j] ^= True
                turns[rows, j] = -turn[rows]
                count += rows.size
        if count <= 1e-4 * flipped.size:
            break
    return flipped


def _forms(errors: Array, moments: Array) -> Array:
    """The quadratic forms, [groups, results]."""
    return np.asarray(np.einsum("gri,gri->gr", errors @ moments, errors))


# -- moments


def _length(layer: Layer) -> int:
    return int(as_matrices(layer, layer.array).shape[2])


def _groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Layers whose moments fit in memory together."""
    group: list[Layer] = []
    used = 0
    for layer in layers:
        size = 2 * 4 * layer.groups * _length(layer) ** 2
        if group and used + size > _BYTES:
            yield group
            group, used = [], 0
        group.append(layer)
        used += size
    if group:
        yield group


def _moments(draft: Draft, layers: Sequence[Layer], batches: Sequence[Batch]) -> Mapping[str, Moments]:
    """Of all ``layers``, in one pass over ``batches``."""
    random = np.random.default_rng(0)
    runs = HostRuns(draft.model, list(dict.fromkeys(str(layer.x.name) for layer in layers)))
    zeros = {layer.name: np.zeros((layer.groups, _length(layer), _length(layer)), np.float32) for layer in layers}
    found = {name: Moments(array, array.copy()) for name, array in zeros.items()}
    for batch in batches:
        made = runs.run(batch.feeds)
        for layer in layers:
            name = str(layer.x.name)
            x = batch.feeds.get(name, made.get(name))
            assert x is not None
            most = max(_LEAST, min(_MOST, _PATCHES * _length(layer))) // len(batches)
            drawn = patches(layer, x, max(2, most), random)
            drawn = drawn[:, random.permutation(drawn.shape[1])]
            cut = round(_CHECKED * drawn.shape[1])
            for into, part in ((found[layer.name].checked, drawn[:, :cut]), (found[layer.name].learnt, drawn[:, cut:])):
                into += part.transpose(0, 2, 1) @ part
    return found
