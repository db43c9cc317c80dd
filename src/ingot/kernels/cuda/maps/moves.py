"""The one table of index maps: ONNX ops that move elements, and how each is read at an index."""

from __future__ import annotations

from ingot.kernels.cuda.maps.fill import eye_like, filled, one_hot, range_of, shape_of, triangle
from ingot.kernels.cuda.maps.lookup import gather, gather_elements, gather_nd
from ingot.kernels.cuda.maps.pieces import concat, depth_to_space, pad, space_to_depth, tile
from ingot.kernels.cuda.maps.pull import Move
from ingot.kernels.cuda.maps.resize import resize
from ingot.kernels.cuda.maps.views import expand, reshape, slice_of, split_part, transpose

MOVES: dict[str, Move] = {
    "Reshape": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Flatten": reshape,
    "Transpose": transpose,
    "Slice": slice_of,
    "Split": split_part,
    "Expand": expand,
    "Concat": concat,
    "Pad": pad,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Trilu": triangle,
    "OneHot": one_hot,
    "Range": range_of,
    "ConstantOfShape": filled,
    "EyeLike": eye_like,
    "Shape": shape_of,
    "Size": shape_of,
    "Resize": resize,
}
"""By op; every op of kind MAP or VIEW in ``graph.op_table`` that is no scalar op is here."""
