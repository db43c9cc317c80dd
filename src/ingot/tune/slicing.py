"""A large Region restricted to some indices of its leading dimension.

The reference of a batch-128 convolution takes seconds on the host. Where every op treats the
indices of the leading dimension alike and apart, the result at some of them is the result of
the same Region on those alone, exactly; this module knows for which Regions that is so.
"""

from __future__ import annotations

from dataclasses import replace

from ingot.graph.dims import Bindings, evaluate, evaluate_shape
from ingot.graph.region import BodyOp, Region
from ingot.graph.scalar_ops import is_scalar_op
from ingot.tune.storage import concrete

_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"})
_ALONG_BATCH = _POOLS | {"Conv", "ConvTranspose", "ConvInteger"}
_ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "LpNormalization", "TopK"})


class _Unsliceable(Exception):
    """Some op mixes the indices of the leading dimension."""


def sliced_names(region: Region, bindings: Bindings) -> frozenset[str] | None:
    """The values whose leading dimension can be restricted together, outputs included; None if it cannot be."""
    if not region.outputs or not region.output_specs[0].shape:
        return None
    size = evaluate(region.output_specs[0].shape[0], bindings)
    shapes = {name: evaluate_shape(tensor.shape, bindings) for name, tensor in region.values}
    state: dict[str, bool] = {}
    try:
        for op in region.ops:
            _propagate(op, region, shapes, size, state)
    except _Unsliceable:
        return None
    names = frozenset(name for name, sliced in state.items() if sliced)
    return names if size > 1 and all(name in names for name in region.outputs) else None


def restricted(region: Region, bindings: Bindings, names: frozenset[str], count: int) -> Region:
    """The Region at known shapes with ``count`` indices of the leading dimension of ``names``."""
    values = tuple((n, concrete(t, bindings, count if n in names else None)) for n, t in region.values)
    return replace(region, values=values)


def _propagate(
    op: BodyOp, region: Region, shapes: dict[str, tuple[int, ...]], size: int, state: dict[str, bool]
) -> None:
    out = shapes[op.outputs[0]]
    for position, name in enumerate(op.inputs):
        if not name or name in region.literal_of:
            continue
        wanted = _wanted(op, position, shapes[name], out, size)
        if wanted and shapes[name][:1] != (size,):
            raise _Unsliceable
        if state.setdefault(name, wanted) is not wanted:
            raise _Unsliceable
    result = any(state.get(name, False) for name in op.inputs)
    for name in op.outputs:
        if name:
            state[name] = result and shapes[name][:1] == (size,)
            if result and not state[name]:
                raise _Unsliceable


def _wanted(op: BodyOp, position: int, shape: tuple[int, ...], out: tuple[int, ...], size: int) -> bool:
    """Whether input ``position`` must be restricted when the op's result is. Raises _Unsliceable."""
    same_rank = len(shape) == len(out) and shape[:1] == (size,)
    if op.domain == "" and is_scalar_op(op.op):
        return same_rank
    if op.op in _ALONG_BATCH:
        return position == 0
    if op.op in _ALONG_AXIS and len(shape) > 1:
        axis = op.attr("axis", -1)
        if isinstance(axis, int) and axis % len(out) != 0:
            return position == 0
    if op.op in ("MatMul", "MatMulInteger") and len(out) >= 2:
        return same_rank and (position == 0 or len(shape) > 2)
    if op.op == "Gemm" and not op.attr("transA", 0):
        return position == 0 or (position == 2 and same_rank)
    if op.op == "Concat":
        axis = op.attr("axis")
        if isinstance(axis, int) and axis % len(out) != 0:
            return True
    if op.op == "Transpose" and op.ints("perm", (1,))[:1] == (0,):
        return True
    raise _Unsliceable
