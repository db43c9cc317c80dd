"""CUDA C++ of one stem variant: constants, the order of the depth, the tensors' struct, the template's text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from ingot.graph import dtypes
from ingot.graph.dims import Dim, mul
from ingot.kernels.api import Argument, Target
from ingot.kernels.cuda.hopper.source import template as hopper_template
from ingot.kernels.cuda.rows.text import HELPERS
from ingot.kernels.cuda.stem.tensors import StemText, store_width
from ingot.kernels.cuda.stem.tile import Form

ENTRY = "ingot_stem"
_ELEMENT = {"float16": "f16", "bfloat16": "bf16"}
_BATCH = 12
"""Vector loads of the image that a thread has in flight."""


@dataclass(frozen=True)
class Source:
    """The text, and how to launch what it compiles to."""

    text: str
    grid: Dim
    arguments: tuple[Argument, ...]


def generate(form: Form, target: Target) -> Source:
    """CUDA C++ of one variant; with ``wgmma`` on sm_90, else with ``mma.sync``."""
    tensors = StemText(form)
    struct = tensors.text()
    warpgroups = target.cc == 90 and form.tile.warps % 4 == 0
    declared = ", ".join(f"{kind} {name}" for name, (kind, _) in tensors.out.parameters.items())
    kernel = f"""
extern "C" __global__ void __launch_bounds__({form.tile.threads}, {form.resident}) {ENTRY}({declared}) {{
  const Stem stem = {{{", ".join(tensors.out.parameters)}}};
  run_stem(stem);
}}
"""
    head = ["#define INGOT_WARPGROUPS 1", "typedef float sum_t;", hopper_template("ptx.cuh")] if warpgroups else []
    product = [_wgmma(form)] if warpgroups else []
    parts = [
        *head, HELPERS, _types(form), _constants(form), _depth(form), _TENSORS_HEAD, struct, template("stem.cuh"),
        _words(form), *product, template("multiply.cuh"), kernel,
    ]  # fmt: skip
    rows, columns = form.blocks
    return Source("\n".join(parts), mul(form.plan.batch, rows * columns), tensors.out.arguments)


_TENSORS_HEAD = """
#ifndef INGOT_MEMBER
#define INGOT_MEMBER __device__ __forceinline__
#endif
typedef vec_t<float, 2> ColumnPair;
"""


@lru_cache(maxsize=4)
def template(name: str) -> str:
    """Text of a file of this package."""
    return (resources.files("ingot.kernels.cuda.stem") / name).read_text()


def _types(form: Form) -> str:
    plan = form.plan
    image = dtypes.TABLE[plan.region.spec_of[plan.image].dtype].cuda
    element, result = dtypes.TABLE[plan.dtype].cuda, dtypes.TABLE[plan.result.dtype].cuda
    return f"typedef {image} image_t;\ntypedef {element} element_t;\ntypedef {result} result_t;"


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
        "Batch": max(_BATCH // (plan.channels * (1 if form.load > 1 else 2)), 1), "NeededRows": needed,
        "ImageRows": rows, "Pitch": form.pitch, "Start": form.start, "Step": form.step, "QuadStep": form.quad_step,
        "HalfStep": form.half_step, "WeightStride": w.strides[0], "WeightBytes": form.weight_bytes,
        "TableBytes": form.table_bytes, "ColumnTensors": len(plan.columns), "Store": store_width(form),
    }  # fmt: skip
    vector = plan.outputs % 8 == 0 and w.strides[0] == 1 and w.align % 16 == 0
    vector = vector and all(int(step) % 8 == 0 for step in w.strides[1:])
    flags = {"Half": plan.dtype == "float16", "WeightVector": vector}
    lines = [f"constexpr int k{name} = {value};" for name, value in values.items()]
    return "\n".join([*lines, *(f"constexpr bool k{name} = {str(value).lower()};" for name, value in flags.items())])


def weight_order(form: Form) -> list[int]:
    """Offset of the weight, without its output channel, for each element of the depth; -1: a zero."""
    plan = form.plan
    strides = [int(step) for step in plan.region.spec_of[plan.conv.inputs[1]].strides]
    order = []
    for cell in form.depth.owners():
        for half in (0, 1):
            row, at = (-1, -1) if cell is None else (cell[0], 2 * cell[1] + half - form.lead)
            tap, channel = divmod(at, form.pixel)
            inside = 0 <= row < plan.taps[0] and 0 <= tap < plan.taps[1] and channel < plan.channels
            order.append(channel * strides[1] + row * strides[2] + tap * strides[3] if inside else -1)
    return order


def _depth(form: Form) -> str:
    order = weight_order(form)
    row = form.plan.dilation * form.pitch
    cells = [r * row + word for group in form.depth.groups for r, word in group.cells]
    return "\n".join([
        f"__constant__ int kOrder[{len(order)}] = {{{', '.join(map(str, order))}}};",
        "#ifdef INGOT_HOST",
        f"static const int kCells[{len(cells)}] = {{{', '.join(map(str, cells))}}};",
        "#endif",
    ])  # fmt: skip


def _words(form: Form) -> str:
    """The words of both pixels of a lane, for every step: two groups each."""
    row = form.plan.dilation * form.pitch
    lines = []
    for number, group in enumerate(form.depth.groups):
        at = group.row * row + group.word
        for half in (0, 1):
            register = f"a[{number // 2}][{number % 2 * 2 + half}]"
            lines.append(f"  {register} = at.{group.form}[offset + {at + half * form.half_step}];")
    head = "INGOT_INLINE void load_words(Words& a, const Lanes& at, int offset) {"
    return "\n".join([head, *lines, "}", ""])


def _wgmma(form: Form) -> str:
    """The instruction for 64 rows in registers and all columns."""
    kind, count = _ELEMENT[form.plan.dtype], 4 * form.tiles_n
    registers = ", ".join(f"%{i}" for i in range(count))
    operands = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    a = ", ".join(f"%{count + i}" for i in range(4))
    return f"""
INGOT_INLINE void wgmma_words(float (&d)[{count}], const unsigned (&a)[4], unsigned long long b, bool accumulate) {{
  asm volatile(
      "{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + 5}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n{8 * form.tiles_n}k16.f32.{kind}.{kind} "
      "{{{registers}}}, {{{a}}}, %{count + 4}, p, 1, 1, 1;\\n}}"
      : {operands}
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));
}}
"""
