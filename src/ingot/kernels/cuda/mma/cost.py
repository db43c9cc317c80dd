"""Predicted time of an mma.sync product kernel: the common model, at what its tiles reach."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.graph.dims import Bindings, evaluate
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Target
from ingot.kernels.cost import ProductShape, product_seconds
from ingot.kernels.cuda.mma.operands import MmaOperands
from ingot.kernels.cuda.mma.tile import MmaTile

_HELD = 128
"""Registers of operands on their way to shared memory that double the time: they cost blocks per SM, and issue."""


@dataclass(frozen=True)
class _Form:
    """A tile as the common model reads it."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    split: int


def product_shape(o: MmaOperands, bindings: Bindings) -> ProductShape:
    """Sizes of the product for the cost model."""
    read = o.normal.product.inputs[:2]
    region = o.region
    names = [name for name in (*region.inputs, *region.outputs) if name not in read]
    extra = sum(evaluate(region.spec_of[n].elements, bindings) * itemsize(region.spec_of[n].dtype) for n in names)
    depth = evaluate(o.depth, bindings)
    return ProductShape(
        rows=evaluate(o.rows, bindings),
        cols=o.cols,
        depth=depth,
        batch=evaluate(o.batch, bindings),
        itemsize=o.item,
        a_bytes=evaluate(o.a.spec.elements, bindings) * o.item,
        extra_bytes=extra,
        chunk=max(depth, 1),
        gather=o.a.width == 1 or o.b.width == 1,
        splittable=isinstance(o.depth, int),
    )


def seconds(o: MmaOperands, tile: MmaTile, target: Target, bindings: Bindings) -> float:
    """Predicted seconds; infinity when the tile cannot run."""
    form = _Form(tile.m, tile.n, tile.depth // o.item, tile.warps, tile.stages, tile.split)
    through_registers = target.cc < 80
    held = (tile.m + tile.n) * tile.depth / (4 * tile.threads) if through_registers else 0.0
    return product_seconds(product_shape(o, bindings), form, target) * (1.0 + held / _HELD)
