"""CUDA C++ of one variant: constants, the wgmma of its shape, the epilogue, the template's text, the kernel."""

from __future__ import annotations

from ingot.graph.dims import Dim, ceildiv, mul
from ingot.graph.dtypes import itemsize
from ingot.kernels.api import Argument, Scratch, Target, Workspace
from ingot.kernels.cuda.epilogue import WIDTH, EpilogueText
from ingot.kernels.cuda.hopper.operands import Operands
from ingot.kernels.cuda.hopper.tile import WGMMA_BYTES, HopperTile
from ingot.kernels.cuda.hopper.wgmma import wgmma
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_product"
SPIN_LIMIT = 0
"""Above 0: so many tries of a barrier until the kernel gives up with a trap (to find deadlocks)."""
_TEMPLATE = tuple(f"hopper/{name}.cuh" for name in ("stages", "producer", "consumer", "shares", "product"))
_STREAM = tuple(f"hopper/{name}.cuh" for name in ("stages", "producer", "consumer", "deal", "stream"))
SNAP = 1
"""So near to a tile's ends, in steps, none is cut."""
_SHARE = 3
"""Fewest steps of a block's share of a tile: with fewer, the grid is smaller."""
_WGMMA_TYPE = {"float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "e4m3", "int8": "s8", "uint8": "u8"}


def tile_counts(o: Operands, tile: HopperTile) -> tuple[Dim, Dim, Dim]:
    """Clusters along the rows, tiles along the columns, batch members."""
    return ceildiv(o.positions(tile)[0], tile.m * tile.cluster), ceildiv(o.cols, tile.n), o.batch


def generate(o: Operands, tile: HopperTile, target: Target) -> Source:
    """CUDA C++ of one variant."""
    rows, width = o.positions(tile)
    lane = WIDTH * max(tile.dealt, 1)
    epilogue = EpilogueText(o, tile.n, rows, width if tile.slide else None, lane, o.scales)
    struct = epilogue.text()
    value = epilogue.value()
    out = epilogue.out
    item = itemsize(o.a.dtype)
    held = tile.held_chunks(item, epilogue.fetched_registers(tile.passes(item)))
    tiles_m, tiles_n, batch = tile_counts(o, tile)
    beside = o.beside
    second = [0, 0] if beside is None else [o.own_steps(tile), beside.channels]
    numbers = [rows, o.channels, o.steps(tile), tiles_m, tiles_n, batch, o.output[0], width, 0, *second]
    problem = ", ".join(out.number(number) for number in numbers)
    maps = "ab" if beside is None else "abcd"
    parameters = [*(f"const __grid_constant__ tensor_map_t {name}" for name in maps), *out.declarations]
    arguments: tuple[Argument, ...] = out.arguments
    exchange = ""
    if tile.stream:
        parameters += ["sum_t* sums", "unsigned* flags"]
        arguments, exchange = (*out.arguments, Scratch(0), Scratch(1)), ", {sums, flags}"
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}, {tile.resident}) {ENTRY}({", ".join(parameters)}) {{
  const Epilogue epilogue = {value};
  const Problem problem = {{{problem}}};
  product({{a, b, {maps[-2]}, {maps[-1]}}}, problem, epilogue{exchange});
}}
"""
    debug = f"#define INGOT_SPIN_LIMIT {SPIN_LIMIT}" if SPIN_LIMIT else ""
    sums = f"typedef {'int' if o.whole else 'float'} sum_t;"
    parts = [debug, HELPERS, sums, template("hopper/ptx.cuh"), _constants(o, tile, held), _wgmma(o, tile), struct]
    if tile.stream:
        parts.append(f"constexpr int kSnap = {SNAP};")
    text = "\n".join([*parts, *map(template, _STREAM if tile.stream else _TEMPLATE), kernel])
    clusters, most = mul(tiles_m, tiles_n, batch), target.sms * tile.resident // tile.cluster
    if tile.stream:
        clusters = mul(clusters, shares(o, tile))
    if tile.keep:
        assert isinstance(tiles_n, int)
        most = max(most // tiles_n, 1) * tiles_n  # a block's tiles all have the columns of its first
    if tile.persistent and tile.split == 1:
        clusters = min(clusters, most) if isinstance(clusters, int) else f"min({clusters}, {most})"
    return Source(text, mul(clusters, tile.cluster * tile.split), (*o.maps(tile), *arguments))


def shares(o: Operands, tile: HopperTile) -> int:
    """Most blocks that a tile's depth is dealt out to."""
    steps = o.steps(tile)
    assert isinstance(steps, int)
    return max(steps // _SHARE, 1)


def workspaces(tile: HopperTile, grid: Dim) -> tuple[Workspace, ...]:
    """The sums that each block may leave of one tile, and its flag."""
    if not tile.stream:
        return ()
    return Workspace(mul(grid, tile.m * tile.n * 4)), Workspace(mul(grid, 4), zeroed=True)


def _constants(o: Operands, tile: HopperTile, held: int) -> str:
    item = itemsize(o.a.dtype)
    f = o.filter
    values = {
        "Item": item, "TileM": tile.m, "TileN": tile.n, "Units": tile.units, "Groups": tile.groups,
        "Slice": tile.slice, "Slices": tile.slices, "Stages": tile.stages, "Cluster": tile.cluster, "Split": tile.split,
        "Order": tile.order, "Chunk": tile.chunk(item), "Held": held, "Slide": tile.slide, "Keep": tile.keep,
        "TapStep": o.tap_step, "FreeRegisters": tile.free_registers,
        "ProducerRegisters": tile.registers[0], "ConsumerRegisters": tile.registers[1],
        "TapsH": f.taps[0], "TapsW": f.taps[1], "StrideH": f.stride[0], "StrideW": f.stride[1],
        "PadH": f.pad[0], "PadW": f.pad[1], "DilationH": f.dilation[0], "DilationW": f.dilation[1],
        "BesideStrideH": o.beside.filter.stride[0] if o.beside else 1,
        "BesideStrideW": o.beside.filter.stride[1] if o.beside else 1,
    }  # fmt: skip
    flags = {
        "Dealt": bool(tile.dealt),
        "Ping": bool(tile.ping), "ColumnsInner": o.columns_inner, "Gather": o.gather, "Filter": len(o.b_dims[0]) == 4,
        "Beside": o.beside is not None, "BesideGather": o.beside is not None and o.beside.gather,
        "Rescaled": o.scales is not None,
        "EarlyB": o.b.constant, "BatchA": o.batch_a, "BatchB": o.batch_b,
    }  # fmt: skip
    return constants(values, flags)


def _wgmma(o: Operands, tile: HopperTile) -> str:
    """The instruction for 64 rows and the tile's columns, both operands in shared memory."""
    depth = WGMMA_BYTES // itemsize(o.a.dtype)
    kinds = f"{'s32' if o.whole else 'f32'}.{_WGMMA_TYPE[o.a.dtype]}.{_WGMMA_TYPE[o.b.dtype]}"
    # Signs, for floats, and whether an operand is transposed, which 16-bit types alone can be.
    modes = "" if o.whole else ", 1, 1" + (f", 0, {int(o.columns_inner)}" if depth == 16 else "")
    return wgmma("wgmma", f"m64n{tile.n}k{depth}", kinds, modes, tile.n, sums="sum_t")
