"""What each ONNX op is to the compiler: the kind of Region it starts, and which inputs are parameters.

An op that is neither here nor in the scalar-op table has no device kernel and goes to the host.
"""

from __future__ import annotations

from ingot.graph.region import ANCHORS, Kind
from ingot.graph.scalar_ops import is_scalar_op

_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool",
)  # fmt: skip
_INDEX_MAPS = (
    "Concat", "Pad", "Gather", "GatherElements", "GatherND", "Tile", "Resize", "DepthToSpace", "SpaceToDepth", "Trilu",
    "OneHot", "Range", "ConstantOfShape", "Shape", "Size", "EyeLike",
)  # fmt: skip
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Expand")
_ROWS = (
    "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "LpNormalization",
)  # fmt: skip

RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""Ops whose results differ from run to run."""
ANCHOR_KIND: dict[str, Kind] = {
    "Conv": Kind.CONV,
    "ConvTranspose": Kind.CONV,
    "ConvInteger": Kind.CONV,
    "MatMulInteger": Kind.GEMM,
    "MatMul": Kind.GEMM,
    "Gemm": Kind.GEMM,
    "Attention": Kind.ATTENTION,
    "MaxPool": Kind.POOL,
    "AveragePool": Kind.POOL,
    "LpPool": Kind.POOL,
    "ScatterElements": Kind.SCATTER,
    "ScatterND": Kind.SCATTER,
    "TopK": Kind.SORT,
    **dict.fromkeys(ANCHORS[Kind.RECURRENT], Kind.RECURRENT),
    **dict.fromkeys(_ROWS, Kind.ROWWISE),
    **dict.fromkeys(_REDUCTIONS, Kind.REDUCE),
    **dict.fromkeys(_INDEX_MAPS, Kind.MAP),
    **dict.fromkeys(_VIEWS, Kind.VIEW),
}
"""Kind of the Region that an op anchors."""

PARAMETERS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Pad": (1, 2, 3),
    "Tile": (1,),
    "Resize": (1, 2, 3),
    "OneHot": (1, 2),
    "TopK": (1,),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Trilu": (1,),
    "Shape": (0,),
    "Size": (0,),
    **dict.fromkeys(_REDUCTIONS[:10], (1,)),
}
"""Inputs that say *what* an op does; they are folded into the Region as literals.

``Shape`` and ``Size`` read only the dimensions of their input, so they have no device input at all:
a Region may not hold them (they become literals where they are used).
"""

WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMul": (0, 1),
    "Gemm": (0, 1, 2),
    "LayerNormalization": (0, 1, 2),
    "RMSNormalization": (0, 1),
    "InstanceNormalization": (0, 1, 2),
    "GroupNormalization": (0, 1, 2),
    **dict.fromkeys(ANCHORS[Kind.RECURRENT], tuple(range(8))),
}
"""Operands that stay tensors even when they hold a single constant element."""


WINDOW, WINDOW_DOMAIN = "Window", "ingot"
"""A view of a channels-last image ``[N, C, H, W]`` as ``[N, R, H, V]``: element (r, v) of a row is the row's element
``v * step * C + r`` (attribute ``step``). Its elements overlap; only a layout can express it."""


def kind_of(op_type: str, domain: str) -> Kind:
    """The kind of Region an op belongs to: MAP for scalar ops, HOST for what has no kernel."""
    if domain not in ("", "ai.onnx"):
        return Kind.HOST
    if op_type in ANCHOR_KIND:
        return ANCHOR_KIND[op_type]
    return Kind.MAP if is_scalar_op(op_type) else Kind.HOST
