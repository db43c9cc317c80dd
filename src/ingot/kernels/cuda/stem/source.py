"""CUDA C++ of one stem variant: constants, the order of the depth, the tensors' struct, the template's text."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import Dim, mul
from ingot.graph.scalar_quantize import LIMITS
from ingot.kernels.api import Target
from ingot.kernels.cuda.hopper.wgmma import wgmma
from ingot.kernels.cuda.product import quick_math
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.source import Source, constants, template
from ingot.kernels.cuda.stem.tensors import StemText, store_width
from ingot.kernels.cuda.stem.tile import Form

ENTRY = "ingot_stem"
_ELEMENT = {"float16": "f16", "bfloat16": "bf16"}
_BATCH = 12
"""Vector loads of the image that a thread has in flight."""


def generate(form: Form, target: Target) -> Source:
    """CUDA C++ of one variant; with ``wgmma`` on sm_90, else with ``mma.sync``."""
    tensors = StemText(form)
    struct = tensors.text()
    warpgroups = target.cc == 90 and form.tile.warps % 4 == 0
    resident = form.resident if warpgroups else max(form.resident * 3 // 4, 1)  # mma.sync asks for more registers
    kernel = f"""
extern "C" __global__ void __launch_bounds__({form.tile.threads}, {resident}) {ENTRY}({tensors.out.declared}) {{
  const Stem stem = {{{", ".join(tensors.out.parameters)}}};
  run_stem(stem);
}}
"""
    head = ["#define INGOT_WARPGROUPS 1", "typedef float sum_t;", template("hopper/ptx.cuh")] if warpgroups else []
    product = [_wgmma(form)] if warpgroups else []
    parts = [
        *head, HELPERS, _types(form), _constants(form), _depth(form), template("tensor_core.cuh"),
        template("stem/words.cuh"), struct,
        template("stem/stem.cuh"), _words(form), *product, template("stem/multiply.cuh"), kernel,
    ]  # fmt: skip
    rows, columns = form.blocks
    return Source("\n".join(parts), mul(form.plan.batch, rows * columns), tensors.out.arguments)


def options(form: Form) -> tuple[str, ...]:
    """For the compiler: see :func:`quick_math`; a float32 is divided to two units in the last place."""
    return ("--prec-div=false",) if form.plan.result.dtype == "float32" else quick_math(form.plan.region)


def _types(form: Form) -> str:
    plan = form.plan
    image = dtypes.TABLE[plan.region.spec_of[plan.image].dtype].cuda
    element, result = dtypes.TABLE[plan.dtype].cuda, dtypes.TABLE[plan.result.dtype].cuda
    made = "int" if plan.result.dtype in LIMITS else "float"  # of integers the last bits are right
    return f"typedef {made} made_t;\ntypedef {image} image_t;\ntypedef {element} element_t;\ntypedef {result} result_t;"


def _constants(form: Form) -> str:
    plan, tile, pool = form.plan, form.tile, form.plan.pool
    y, w = plan.result, plan.region.spec_of[plan.conv.inputs[1]]
    needed, rows = form.image_rows
    values: dict[str, Dim] = {
        "Warps": tile.warps, "Rows": tile.rows, "Wide": tile.wide, "Steps": form.depth.steps, "Pool": form.window,
        "PoolTop": pool.top if pool else 0, "Channels": plan.channels, "Pixel": form.pixel, "Outputs": plan.outputs,
        "TilesN": form.tiles_n, "Height": plan.size[0], "Width": plan.size[1], "ConvHeight": plan.conv_size[0],
        "ConvWidth": plan.conv_size[1], "ResultHeight": plan.result_size[0], "ResultWidth": plan.result_size[1],
        "RowStride": y.strides[2], "ColStride": y.strides[3], "StrideH": plan.stride[0], "StrideW": plan.stride[1],
        "Dilation": plan.dilation, "Top": plan.top, "FirstX": form.first_x - form.shift,
        "FirstColumn": form.first_column, "Columns": form.columns, "WarpPixels": form.warp_pixels,
        "BlocksHigh": form.blocks[0], "BlocksWide": form.blocks[1], "Load": form.load, "RowPixels": form.row_pixels,
        "Batch": _batch(form), "LanesWide": form.lanes_wide, "NeededRows": needed,
        "Sources": plan.taps[0] * plan.taps[1] * plan.channels,
        "ImageRows": rows, "Pitch": form.pitch, "Start": form.start, "Step": form.step, "QuadStep": form.quad_step,
        "HalfStep": form.half_step, "WeightStride": w.strides[0], "WeightBytes": form.weight_bytes,
        "TableBytes": form.table_bytes, "ColumnTensors": len(plan.columns), "Store": store_width(form),
    }  # fmt: skip
    vector = plan.outputs % 8 == 0 and w.strides[0] == 1 and w.align % 16 == 0
    vector = vector and all(int(step) % 8 == 0 for step in w.strides[1:])
    flags = {
        "Half": plan.dtype == "float16", "WeightVector": vector, "PackedResult": plan.result.dtype == plan.dtype,
        "After": bool(plan.late or plan.after),
    }  # fmt: skip
    return constants(values, flags)


def _batch(form: Form) -> int:
    """Rows of the image that a thread has in flight."""
    least = form.plan.channels * form.row_loads * (1 if form.load > 1 else 2)
    return min(max(_BATCH // least, 1), form.warp_rows)


def weight_places(form: Form) -> list[int]:
    """For each element of the depth, the number of the window's element (row, tap, channel) that it is; -1: none."""
    plan = form.plan
    places = []
    for cell in form.depth.owners():
        for half in (0, 1):
            row, at = (-1, -1) if cell is None else (cell[0], 2 * cell[1] + half - form.lead)
            tap, channel = divmod(at, form.pixel)
            inside = 0 <= row < plan.taps[0] and 0 <= tap < plan.taps[1] and channel < plan.channels
            places.append((row * plan.taps[1] + tap) * plan.channels + channel if inside else -1)
    return places


def _depth(form: Form) -> str:
    """Where the window's elements are in the depth, and where they are in the weights."""
    plan = form.plan
    places = weight_places(form)
    number = {at: k for k, at in enumerate(places) if at >= 0}
    zeros = [k for k, at in enumerate(places) if at < 0]
    pitch = plan.dilation * form.pitch
    cells = [r * pitch + word for group in form.depth.groups for r, word in group.cells]
    strides = [int(step) for step in plan.region.spec_of[plan.conv.inputs[1]].strides]
    taps, channels = plan.taps[1], plan.channels
    dense = strides[3] == channels * strides[1] and strides[2] == taps * strides[3]
    code = f"q * {strides[1]}"
    if not dense:
        row, tap = f"q / {taps * channels} * {strides[2]}", f"q / {channels} % {taps} * {strides[3]}"
        code = f"{row} + {tap} + q % {channels} * {strides[1]}"

    def table(name: str, values: list[int]) -> str:
        return f"__constant__ short {name}[{max(len(values), 1)}] = {{{', '.join(map(str, values or [0]))}}};"

    return "\n".join([
        f"constexpr int kZeros = {len(zeros)};",
        table("kPlace", [number[at] for at in range(len(number))]),
        table("kZero", zeros),
        f"INGOT_INLINE unsigned weight_source(unsigned q) {{ return {code}; }}",
        "#ifdef INGOT_HOST",
        f"static const int kCells[{len(cells)}] = {{{', '.join(map(str, cells))}}};",
        "#endif",
    ])  # fmt: skip


def _words(form: Form) -> str:
    """The words of both pixels of a lane for a step: two groups each."""
    row = form.plan.dilation * form.pitch
    lines = ["INGOT_INLINE void load_words(unsigned (&a)[4], const Lanes& at, int offset, int step) {"]
    for step in range(form.depth.steps):
        lines.append(f"  if (step == {step}) {{")
        for part, group in enumerate(form.depth.groups[2 * step : 2 * step + 2]):
            first = group.row * row + group.word
            for half in (0, 1):
                word = f"at.{group.form}[offset + {first + half * form.half_step}]"
                lines.append(f"    a[{2 * part + half}] = {word};")
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _wgmma(form: Form) -> str:
    """The instruction for 64 rows in registers and all columns."""
    kind, columns = _ELEMENT[form.plan.dtype], 8 * form.tiles_n
    return wgmma("wgmma_words", f"m64n{columns}k16", f"f32.{kind}.{kind}", ", 1, 1, 1", columns, registers=True)
