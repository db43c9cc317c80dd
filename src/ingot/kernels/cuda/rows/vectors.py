"""How wide the accesses of a reduction kernel may be."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import divisible
from ingot.kernels.cuda.rows.axes import vector_load
from ingot.kernels.cuda.rows.plan import RowPlan


def best_vector(plan: RowPlan) -> int:
    """Widest vector (elements) that the largest tensors can be accessed with."""
    loop = plan.lanes
    if loop is None:
        return 1
    others = [other for other in (*plan.kept, *plan.reduced) if other is not loop]
    names = [n for n in plan.placed if loop.strides[n] == 1 and (n in plan.full or not plan.columns_inner)]
    if not names:
        return 1
    smallest = min(dtypes.itemsize(plan.placed[n].spec.dtype) for n in names)
    width = 16 // smallest if smallest > 1 else 8
    while width > 1:
        fits = all(
            vector_load(n, plan.placed[n].spec, loop, others, width, dtypes.itemsize(plan.placed[n].spec.dtype))
            for n in names
        )
        if divisible(loop.size, width) and fits:
            return width
        width //= 2
    return 1
