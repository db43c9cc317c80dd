"""In-place steps: the output takes over the memory of an input that nobody needs any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ingot.graph.region import Kind, Region
from ingot.graph.scalar_ops import is_scalar_op
from ingot.plan.places import Places


def pointwise(region: Region) -> bool:
    """Whether every element of the one output depends on the same element of each input of its shape.

    A kernel for such a Region visits each element once, reading before it writes.
    """
    return region.kind is Kind.MAP and len(region.outputs) == 1 and all(is_scalar_op(op.op) for op in region.ops)


def takes_over(region: Region, places: Places, free: Mapping[str, bool]) -> str | None:
    """The input whose memory the Region's output can take over, or None.

    ``free`` says of each root whether the Region is certainly the last to touch it. The input must
    have exactly the output's type, shape and strides, be no window, and be read only once.
    """
    if not pointwise(region):
        return None
    (output,) = region.outputs
    if places.of[output].root != output or places.space[output] != "arena":
        return None
    spec = region.spec_of[output]
    roots = [places.of[name].root for name in region.inputs]
    for name in region.inputs:
        whole = places.of[name].root == name and places.space[name] == "arena"
        alone = roots.count(name) == 1
        have = region.spec_of[name]
        same = (have.dtype, have.shape, have.strides) == (spec.dtype, spec.shape, spec.strides) and spec.elements != 0
        sized = places.root_bytes.get(name) == places.root_bytes[output]
        if whole and alone and same and sized and 0 not in spec.strides and free.get(name, False):
            return name
    return None


def merge(
    regions: Sequence[Region],
    steps_of: Mapping[int, tuple[int, ...]],
    places: Places,
    touched: Mapping[str, int],
    ancestors_of: Sequence[int],
) -> dict[str, str]:
    """Which root lies in whose memory: root to the root it takes over, followed to the end of the chain.

    ``steps_of`` gives the steps of each Region in the planned order; Regions of several kernels
    are left alone, because only one kernel is known to read before it writes.
    """
    holder: dict[str, str] = {}
    users = dict(touched)
    for index, steps in steps_of.items():
        if len(steps) != 1:
            continue
        region, (step,) = regions[index], steps
        free = {
            name: not users.get(holder.get(name, name), 0) & ~(ancestors_of[step] | 1 << step) for name in region.inputs
        }
        source = takes_over(region, places, free)
        if source is not None:
            (output,) = region.outputs
            holder[output] = holder.get(source, source)
            users[holder[output]] |= users[output]
    return holder
