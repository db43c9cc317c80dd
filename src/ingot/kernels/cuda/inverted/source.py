"""CUDA C++ of one inverted-residual variant: constants, places in shared memory, the scalar ops, the kernel."""

from __future__ import annotations

from ingot.graph import dtypes
from ingot.graph.dims import mul
from ingot.kernels.cuda.inverted.plan import InvertedPlan, Stage
from ingot.kernels.cuda.inverted.tile import InvertedTile
from ingot.kernels.cuda.rows.text import HELPERS, CudaText, scalar_steps
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
    stages = (plan.widen, plan.spread, plan.narrow)
    biases = [out.input(stage.bias) if stage is not None and stage.bias else "nullptr" for stage in stages]
    tensors = ", ".join([x, *inputs, *biases, residual, y, numbers])
    kernel = f"""
extern "C" __global__ void __launch_bounds__({tile.threads}) {ENTRY}({out.declared}) {{
  const Tensors tensors = {{{tensors}}};
  run_inverted(tensors);
}}
"""
    functions = [
        _function(plan, "widened", plan.widen),
        _function(plan, "spread_out", plan.spread),
        _function(plan, "narrowed", plan.narrow),
        _pair(plan, "widened", "widened_pair", plan.widen),
        _pair(plan, "spread_out", "spread_pair", plan.spread),
    ]
    element = f"typedef {dtypes.TABLE[plan.x.dtype].cuda} element_t;"
    templates = ("inverted/words.cuh", "tensor_core.cuh", "mma/instructions.cuh", "cluster.cuh", "inverted/quads.cuh")
    parts = [
        HELPERS, _TYPES, element, _constants(tile), *map(template, templates), *functions,
        template("inverted/inverted.cuh"), kernel,
    ]  # fmt: skip
    return Source("\n".join(parts), mul(plan.batch, *tile.tiles, tile.cluster), out.arguments)


def _constants(tile: InvertedTile) -> str:
    plan, g = tile.plan, tile.plan.geometry
    residual = plan.region.spec_of[plan.residual] if plan.residual else plan.y
    values = {
        "Threads": tile.threads, "Cluster": tile.cluster, "TileH": tile.height, "TileW": tile.width,
        "TilesH": tile.tiles[0], "TilesW": tile.tiles[1], "Channels": plan.channels, "Depth": tile.depth,
        "Hidden": plan.hidden, "Slice": tile.slice, "Chunk": tile.chunk, "Chunks": tile.chunks, "Cols": plan.cols,
        "ColsPadded": tile.cols, "WideE": tile.wide_expansion, "Tall": tile.tall,
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
    flags |= {
        f"Has{name}": stage is not None and bool(stage.bias)
        for name, stage in (("BiasWiden", plan.widen), ("BiasSpread", plan.spread), ("BiasNarrow", plan.narrow))
    }
    return constants(values, flags)


def _function(plan: InvertedPlan, name: str, stage: Stage | None) -> str:
    """``float name(float, float)``: what a stage makes of its convolution's result, and of the residual."""
    head = f"INGOT_INLINE float {name}(float x, float residual = 0.0f) {{"
    if stage is None:
        return "\n".join([head, "  return x;", "}"])
    names = {stage.conv.outputs[0]: "x", plan.residual: "residual"}
    steps = scalar_steps(stage.after, names, plan.kinds, plan.literals)
    return "\n".join([head, *steps, f"  return {names[stage.result]};", "}"])


def _pair(plan: InvertedPlan, function: str, name: str, stage: Stage | None) -> str:
    """``unsigned name(float, float)``: two numbers through ``function``, as 16-bit floats in a word.

    Bounds that are 16-bit floats are applied to the word: rounding keeps their order.
    """
    half = plan.x.dtype == "float16"
    head = f"INGOT_INLINE unsigned {name}(float low, float high) {{"
    bounds = _bounds(plan, stage) if stage is not None else []
    if bounds is None:
        return "\n".join([head, f"  return packed<{str(half).lower()}>({function}(low), {function}(high));", "}"])
    lines = [head, f"  unsigned word = packed<{str(half).lower()}>(low, high);"]
    for upper, number in bounds:
        bits = dtypes.numpy_dtype(plan.x.dtype).type(number).tobytes()
        value = int.from_bytes(bits * 2, "little")
        lines.append(f"  word = bounded<{str(half).lower()}, {str(upper).lower()}>(word, {value:#010x}u);")
    return "\n".join([*lines, "  return word;", "}"])


def _bounds(plan: InvertedPlan, stage: Stage) -> list[tuple[bool, float]] | None:
    """(whether it is the upper one, number) of each bound that the stage's scalar ops set; None where they do more."""
    found: list[tuple[bool, float]] = []
    for op in stage.after:
        limits = {"Relu": (0.0,), "Clip": tuple(plan.literals.get(n) if n else None for n in op.inputs[1:])}.get(op.op)
        if limits is None or (op.op == "Clip" and any(n and n not in plan.literals for n in op.inputs[1:])):
            return None
        for upper, limit in zip((False, True), limits, strict=False):
            if limit is None:
                continue
            if float(dtypes.numpy_dtype(plan.x.dtype).type(limit)) != limit:
                return None
            found.append((upper, float(limit)))
    return found
