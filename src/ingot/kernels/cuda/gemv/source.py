"""CUDA C++ of one variant: types, constants, where operands lie, the epilogue, the template, the kernel."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import mul
from ingot.kernels.cuda.epilogue import EpilogueText
from ingot.kernels.cuda.gemv.tile import GemvTile
from ingot.kernels.cuda.mma.operands import MmaOperands
from ingot.kernels.cuda.mma.source import line_address
from ingot.kernels.cuda.rows.text import HELPERS, CudaText
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_gemv"


def generate(o: MmaOperands, tile: GemvTile) -> Source:
    """CUDA C++ of one variant."""
    epilogue = EpilogueText(o, tile.block_columns(o), o.rows, lane=1)
    finish, finish_value = epilogue.text(), epilogue.value()
    out = epilogue.out
    operands = _operands(o, out)
    operands_value = ", ".join(out.parameters)
    depth = out.number(o.depth)
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}) {ENTRY}({out.declared}) {{
  const Operands operands = {{{operands_value}}};
  const Epilogue epilogue = {finish_value};
  product(operands, epilogue, {depth});
}}
"""
    a, b = (dtypes.TABLE[side.spec.dtype].cuda for side in (o.a, o.b))
    types = f"typedef {a} a_t;\ntypedef {b} b_t;\ntypedef float sum_t;"
    parts = [HELPERS, types, _constants(o, tile), operands, finish, template("gemv/gemv.cuh"), kernel]
    tiles = -(-o.cols // tile.block_columns(o))
    return Source("\n".join(parts), mul(tiles, o.batch), out.arguments)


def _constants(o: MmaOperands, tile: GemvTile) -> str:
    width_a = min(o.a.width, 1 if o.b.across else o.b.width)
    values = {
        "Rows": o.rows, "Cols": o.cols, "WidthA": width_a, "WidthB": o.b.width, "Lanes": tile.lanes,
        "Columns": tile.columns, "Threads": tile.threads, "Held": tile.held,
    }  # fmt: skip
    return constants(values, {"Across": o.b.across, "Constant": o.b.spec.constant})


def _operands(o: MmaOperands, out: CudaText) -> str:
    """``struct Operands``: where rows, columns and elements of the depth lie; its fields are ``out``'s parameters."""
    out.lines, out.indent = [], 1
    for side, kind, name, index in ((o.a, "a_t", "a_row", "row"), (o.b, "b_t", "b_col", "col")):
        with out.block(f"INGOT_MEMBER const {kind}* {name}(int {index}, int z) const"):
            line_address(side, out, index)
    for side, name in ((o.a, "a"), (o.b, "b")):
        with out.block(f"INGOT_MEMBER long long {name}_depth(int at) const"):
            out.line(f"return {out.offset([('at', side.depth)])};")
    return out.struct("Operands")
