"""Orders in memory that kernels ask for: of weights, and of feature maps whose pixels were made one dimension."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import Dim, mul
from ingot.graph.region import BodyOp, Kind
from ingot.graph.tensor import Order, TensorSpec, channels_last, row_major
from ingot.passes.flatten import FlatGraph
from ingot.passes.views import RESHAPES


def weight_order(kind: Kind, op: BodyOp, weight: TensorSpec) -> Order:
    """Convolution weights: output channel outermost, input channel innermost.

    Depthwise: channel innermost; of a stem: output channel innermost. Matrices of one-byte elements: the depth
    innermost, as tensor cores ask for it.
    """
    rank = weight.rank
    if kind is Kind.GEMM:
        turned = rank >= 2 and dtypes.itemsize(weight.dtype) == 1 and not op.attr("transB", 0)
        return (*range(rank - 2), rank - 1, rank - 2) if turned else row_major(rank)
    if kind is Kind.STEM:
        return (*range(2, rank), 1, 0)
    depthwise = op.op != "ConvTranspose" and weight.shape[1] == 1 and int(op.attr("group", 1)) > 1  # type: ignore[arg-type]
    return (1, *range(2, rank), 0) if depthwise or op.op == "ConvTranspose" else channels_last(rank)


def flattens_pixels(op: BodyOp, flat: FlatGraph) -> bool:
    """Whether it makes [N, C, pixels] of [N, C, H, W]: with channels innermost both lie in memory alike."""
    if op.op not in RESHAPES:
        return False
    old, new = flat.values[op.inputs[0]].shape, flat.values[op.outputs[0]].shape
    return len(old) == 4 and len(new) == 3 and old[:2] == new[:2]


def among_pixels(value: TensorSpec, whole: TensorSpec) -> tuple[Dim, ...]:
    """Strides of [N, C, H, W] whose pixels are some of those of ``whole``, [N, C, pixels]."""
    batch, channel, pixel = whole.strides
    return batch, channel, mul(value.shape[3], pixel), pixel
