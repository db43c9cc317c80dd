"""CUDA C++ of one variant: constants, the instruction, where operands lie, the epilogue, the template, the kernel."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import Dim, ceildiv, mul
from ingot.kernels.api import Target
from ingot.kernels.cuda.epilogue import EpilogueText
from ingot.kernels.cuda.mma.operands import INSTRUCTION, MmaOperands, Side
from ingot.kernels.cuda.mma.tile import MmaTile
from ingot.kernels.cuda.product import flat_offset
from ingot.kernels.cuda.rows.text import HELPERS, CudaText
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_mma"


def tile_counts(o: MmaOperands, tile: MmaTile) -> tuple[Dim, Dim]:
    """Tiles along the rows and along the columns."""
    return ceildiv(o.rows, tile.m), ceildiv(o.cols, tile.n)


def steps(o: MmaOperands, tile: MmaTile) -> Dim:
    """Steps of the depth."""
    return ceildiv(o.depth, tile.depth // o.item)


def generate(o: MmaOperands, tile: MmaTile, target: Target) -> Source:
    """CUDA C++ of one variant, with the instructions and copies that the target has."""
    epilogue = EpilogueText(o, tile.n, o.rows)
    finish, finish_value = epilogue.text(), epilogue.value()
    out = epilogue.out
    operands = _operands(o, out)
    operands_value = ", ".join(out.parameters)
    tiles_m, tiles_n = tile_counts(o, tile)
    numbers = [o.rows, steps(o, tile), tiles_m, tiles_n, o.batch, o.channels, o.depth, *o.input]
    problem = ", ".join(out.number(number) for number in numbers)
    shares = f"{out.scratch(0, 'sum_t')}, {out.scratch(1, 'unsigned')}" if tile.split > 1 else "nullptr, nullptr"
    bounds = f"__launch_bounds__({tile.threads}, {tile.resident(target)})"
    kernel = f"""
extern "C" __global__ void {bounds} {ENTRY}({out.declared}) {{
  const Operands operands = {{{operands_value}}};
  const Epilogue epilogue = {finish_value};
  const Problem problem = {{{problem}}};
  product(problem, operands, epilogue, {shares});
}}
"""
    parts = [
        HELPERS, _types(o), template("tensor_core.cuh"), template("mma/instructions.cuh"), _multiply(o, target),
        _constants(o, tile, target), operands, finish, template("mma/loads.cuh"), template("mma/product.cuh"), kernel,
    ]  # fmt: skip
    return Source("\n".join(parts), mul(tiles_m, tiles_n, o.batch), out.arguments)


def _types(o: MmaOperands) -> str:
    a, b = (dtypes.TABLE[side.spec.dtype].cuda for side in (o.a, o.b))
    number, value = ("int", "(int)bits") if o.whole else ("float", "__uint_as_float(bits)")
    return (
        f"typedef {a} a_t;\ntypedef {b} b_t;\ntypedef {number} sum_t;\n"
        f"INGOT_INLINE sum_t bits_to_sum(unsigned bits) {{ return {value}; }}"
    )


def _constants(o: MmaOperands, tile: MmaTile, target: Target) -> str:
    f = o.filter
    values = {
        "Item": o.item, "TileM": tile.m, "TileN": tile.n, "RowBytes": tile.depth, "WarpsM": tile.warps_m,
        "WarpsN": tile.warps_n, "Stages": tile.stages, "Split": tile.split, "Chunk": tile.chunk, "Cols": o.cols,
        "WidthA": o.a.width, "WidthB": o.b.width, "TapsH": f.taps[0], "TapsW": f.taps[1],
        "DilationH": f.dilation[0], "DilationW": f.dilation[1],
    }  # fmt: skip
    flags = {"Gather": o.gather, "Across": o.b.across, "Async": target.cc >= 80}
    return constants(values, flags)


def _multiply(o: MmaOperands, target: Target) -> str:
    """The product of two fragments: one instruction, or the two to four that sm_75 takes for it."""
    a, b = (INSTRUCTION[side.spec.dtype] for side in (o.a, o.b))
    if target.cc >= 80:
        lines = [f'INGOT_MMA_BYTES("{a}.{b}");' if o.whole else f"multiply_halves<{str(a == 'f16').lower()}>(d, a, b);"]
    elif o.whole:
        lines = [f'INGOT_MMA_BYTES_8("{a}.{b}", {i % 2 * 2}, a[{i}], b[{i // 2}]);' for i in range(4)]
    else:
        lines = [f"multiply_eight_deep(d, a[{i}], a[{i + 1}], b[{i // 2}]);" for i in (0, 2)]
    return "\n".join([
        "INGOT_INLINE void multiply(sum_t (&d)[4], const unsigned (&a)[4], const unsigned* b) {",
        "#ifdef INGOT_HOST", "  ingot_host_mma<a_t, b_t>(d, a, b);",
        "#else", *(f"  {line}" for line in lines), "#endif", "}",
    ])  # fmt: skip


def _operands(o: MmaOperands, out: CudaText) -> str:
    """``struct Operands``: where rows, columns and elements of the depth lie; its fields are ``out``'s parameters."""
    out.lines, out.indent = [], 1
    with out.block("INGOT_MEMBER const a_t* a_base() const"):
        out.line(f"return {out.input(o.a.name)};")
    with out.block("INGOT_MEMBER const b_t* b_base() const"):
        out.line(f"return {out.input(o.b.name)};")
    with out.block("INGOT_MEMBER const a_t* a_row(int row, int z, int& h, int& w) const"):
        _pixel(o, out) if o.gather else line_address(o.a, out, "row")
    with out.block("INGOT_MEMBER const b_t* b_col(int col, int z) const"):
        line_address(o.b, out, "col")
    for side, name in ((o.a, "a"), (o.b, "b")):
        with out.block(f"INGOT_MEMBER long long {name}_depth(int tap_h, int tap_w, int channel) const"):
            taps = list(zip(("tap_h", "tap_w"), side.taps, strict=True)) if o.taps > 1 else []
            out.line(f"return {out.offset([*taps, ('channel', side.depth)])};")
    return out.struct("Operands")


def line_address(side: Side, out: CudaText, index: str) -> None:
    """The address of a row or column at the beginning of the depth."""
    parts = [flat_offset(out, index, side.lines), flat_offset(out, "z", side.members)]
    out.line(f"return {' + '.join([out.input(side.name), *(f'({part})' for part in parts if part)])};")


def _pixel(o: MmaOperands, out: CudaText) -> None:
    """The address of a row's first tap, which may lie before the image, and its pixel."""
    f = o.filter
    height, width = (out.number(size) for size in o.output)
    out.line(f"const int line = row / {width};")
    out.line(f"const int image = line / {height};")
    out.line(f"h = (line - image * {height}) * {f.stride[0]} - {f.pad[0]};")
    out.line(f"w = (row - line * {width}) * {f.stride[1]} - {f.pad[1]};")
    strides = [stride for _, stride in o.a.lines]
    names = ["image", "h", "w"] if len(strides) == 3 else ["image", "w"]
    coordinates = list(zip(names, strides, strict=True))
    out.line(f"return {out.input(o.a.name)} + ({out.offset(coordinates)});")
