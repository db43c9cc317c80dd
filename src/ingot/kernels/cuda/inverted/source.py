"""CUDA C++ of one inverted-residual variant: constants, places in shared memory, the scalar ops, the kernel."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import mul
from ingot.kernels.cuda.inverted.plan import InvertedPlan, Stage
from ingot.kernels.cuda.inverted.tile import InvertedTile
from ingot.kernels.cuda.rows.text import HELPERS, CudaText, literal, literal_type, scalar_op
from ingot.kernels.cuda.source import Source, constants, template

ENTRY = "ingot_inverted"
_TYPES = """
typedef float sum_t;
INGOT_INLINE sum_t bits_to_sum(unsigned bits) { return __uint_as_float(bits); }
"""


def generate(tile: InvertedTile) -> Source:
    """CUDA C++ of one variant."""
    plan, out = tile.plan, CudaText(tile.plan.region)
    inputs = [] if plan.widen else ["nullptr"]
    inputs += [out.input(stage.conv.inputs[1]) for stage in plan.stages]
    residual = out.input(plan.residual) if plan.residual else "nullptr"
    x, y = out.input(plan.stages[0].conv.inputs[0]), out.output(plan.region.outputs[0])
    steps = [
        plan.x.strides[0],
        plan.region.spec_of[plan.residual].strides[0] if plan.residual else 0,
        plan.y.strides[0],
    ]
    numbers = ", ".join(out.number(step, 8) for step in steps)
    fill = _biases(tile, out)
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}) {ENTRY}({out.declared}) {{
  const Tensors tensors = {{{x}, {", ".join(inputs)}, {residual}, {y}, {numbers}}};
  run_inverted(tensors, Biases{{{", ".join(out.input(s.bias) for s in _biased(plan))}}});
}}
"""
    functions = [
        _function(plan, "widened", plan.widen),
        _function(plan, "spread_out", plan.spread),
        _function(plan, "narrowed", plan.narrow),
    ]
    element = f"typedef {dtypes.TABLE[plan.x.dtype].cuda} element_t;"
    parts = [
        HELPERS, _TYPES, element, _constants(tile), template("tensor_core.cuh"), template("mma/instructions.cuh"),
        template("cluster.cuh"), *functions, fill, template("inverted/inverted.cuh"), kernel,
    ]  # fmt: skip
    return Source("\n".join(parts), mul(plan.batch, *tile.tiles, tile.cluster), out.arguments)


def _biased(plan: InvertedPlan) -> list[Stage]:
    return [stage for stage in plan.stages if stage.bias]


def _biases(tile: InvertedTile, out: CudaText) -> str:
    """``struct Biases``, and what puts them into shared memory as floats; zeros where there are none."""
    plan = tile.plan
    fields, lines = [], []
    places = (("BiasWiden", plan.widen, True), ("BiasSpread", plan.spread, True), ("BiasNarrow", plan.narrow, False))
    for name, stage, sliced in places:
        value = "0.0f"
        if stage is not None and stage.bias:
            out.input(stage.bias)
            fields.append(f"  const {dtypes.TABLE[plan.region.spec_of[stage.bias].dtype].cuda}* in{name};")
            at, most = ("first + i", "kHidden") if sliced else ("i", "kCols")
            value = f"{at} < {most} ? (float)b.in{name}[{at}] : 0.0f"
        count = tile.slice if sliced else tile.cols
        loop = f"for (int i = threadIdx.x; i < {count}; i += kThreads)"
        lines.append(f"  {loop} ((float*)(base + k{name}))[i] = {value};")
    head = "INGOT_INLINE void bring_biases(unsigned char* base, int first, const Biases& b) {"
    return "\n".join(["struct Biases {", *fields, "};", head, *lines, "}"])


def _constants(tile: InvertedTile) -> str:
    plan, g = tile.plan, tile.plan.geometry
    residual = plan.region.spec_of[plan.residual] if plan.residual else plan.y
    values = {
        "Threads": tile.threads, "Cluster": tile.cluster, "TileH": tile.height, "TileW": tile.width,
        "TilesH": tile.tiles[0], "TilesW": tile.tiles[1], "Channels": plan.channels, "Depth": tile.depth,
        "Hidden": plan.hidden, "Slice": tile.slice, "Chunk": tile.chunk, "Chunks": tile.chunks, "Cols": plan.cols,
        "ColsPadded": tile.cols, "WideE": tile.wide_expansion, "Wide": tile.wide, "Words": tile.words,
        "Share": tile.share, "TapsH": g.kernel[0], "TapsW": g.kernel[1], "StrideH": g.stride[0],
        "StrideW": g.stride[1], "PadH": g.pad[0], "PadW": g.pad[1], "Height": g.input[0], "Width": g.input[1],
        "OutHeight": plan.size[0], "OutWidth": plan.size[1], "SeenH": tile.seen[0], "SeenW": tile.seen[1],
        "BoxLeft": tile.box[0], "BoxW": tile.box[1], "WeightH": g.w.strides[2], "WeightW": g.w.strides[3],
        "RowStep": plan.x.strides[2], "ColumnStep": plan.x.strides[3], "RowStepTo": plan.y.strides[2],
        "ColumnStepTo": plan.y.strides[3], "RowStepResidual": residual.strides[2],
        "ColumnStepResidual": residual.strides[3],
        **{name: place for name, place in tile.places.items() if name},
    }  # fmt: skip
    padded = tile.slice * tile.cluster > plan.hidden
    flags = {"Half": plan.x.dtype == "float16", "Padded": padded, "Residual": bool(plan.residual)}
    flags["Widens"] = plan.widen is not None
    return constants(values, flags)


def _function(plan: InvertedPlan, name: str, stage: Stage | None) -> str:
    """``float name(float, float)``: what a stage makes of its convolution's result, and of the residual."""
    lines = [f"INGOT_INLINE float {name}(float x, float residual = 0.0f) {{"]
    if stage is None:
        return "\n".join([*lines, "  return x;", "}"])
    names = {stage.conv.outputs[0]: "x", plan.residual: "residual"}
    for number, op in enumerate(stage.after):
        arguments = [
            "" if not n
            else literal(plan.literals[n], literal_type(op, n, plan.kinds, plan.literals)) if n in plan.literals
            else names[n]
            for n in op.inputs
        ]  # fmt: skip
        code = scalar_op(op, arguments, plan.kinds, plan.literals)
        assert isinstance(code, str), code
        lines.append(f"  const float e{number} = {code};")
        names[op.outputs[0]] = f"e{number}"
    return "\n".join([*lines, f"  return {names[stage.result]};", "}"])
