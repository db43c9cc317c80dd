"""CUDA C++ of one recurrent variant: constants, activations, the tensors, the template's text."""

from __future__ import annotations

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import divisible
from ingot.graph.recurrent import Activation
from ingot.graph.region import BodyOp
from ingot.graph.scalar_ops import expression
from ingot.kernels.cuda.recurrent.plan import OPERANDS, RESULTS, RecurrentPlan
from ingot.kernels.cuda.recurrent.tile import COUNTERS, Form, Group, Held
from ingot.kernels.cuda.rows.text import CudaText
from ingot.kernels.cuda.source import constants, template

ENTRY = "ingot_recurrent"
_AXES = {
    "x": ("time", "row", "column"),
    "r": ("direction", "row", "column"),
    "bias": ("direction", "column"),
    "lengths": ("row",),
    "h0": ("direction", "row", "column"),
    "c0": ("direction", "row", "column"),
    "peephole": ("direction", "column"),
    "y": ("time", "direction", "row", "column"),
    "yh": ("direction", "row", "column"),
    "yc": ("direction", "row", "column"),
}
"""Axes of every tensor where the batch does not come first."""
_FAST = {"Sigmoid": "logistic", "Tanh": "hyperbolic_tangent"}
_BATCH_FIRST = {3: (1, 0, 2), 4: (1, 2, 0, 3)}
"""By rank, where these axes are where it does."""
_TURNED = ("x", "h0", "c0", "y", "yh", "yc")


def generate(form: Form) -> tuple[str, CudaText]:
    """The text, and the kernel's parameters."""
    plan, tile = form.plan, form.tile
    out = CudaText(plan.region)
    fields = _fields(form, out)
    struct = "\n".join(["struct Layer {", *(f"  {kind} {name};" for kind, name, _ in fields), "};"])
    element = dtypes.TABLE[plan.dtype].cuda
    parts = [
        f"typedef {element} element_t;", f"#define INGOT_CELL {plan.form.gates}",
        f"#define INGOT_GROUP {int(form.group)}", _constants(form), struct, template("recurrent/gates.cuh"),
        _activations(plan), template("recurrent/cell.cuh"),
        *map(template, ("tensor_core.cuh", "recurrent/tensor.cuh") if tile.tensor else ("recurrent/lanes.cuh",)),
    ]  # fmt: skip
    out.line(f"const Layer layer = {{{', '.join(value for _, _, value in fields)}}};")
    out.line("run_layer(layer);")
    return "\n".join([*parts, out.kernel(ENTRY, tile.threads)]), out


def _fields(form: Form, out: CudaText) -> list[tuple[str, str, str]]:
    """C++ type, name and value of the members of ``Layer``."""
    plan = form.plan
    element = dtypes.TABLE[plan.dtype].cuda
    fields: list[tuple[str, str, str]] = []
    for role in (*OPERANDS, *RESULTS):
        name = dict(plan.operands + plan.results).get(role)
        kind = "const int*" if role == "lengths" else f"{'const ' if role in OPERANDS else ''}{element}*"
        value = "nullptr" if name is None else out.input(name) if role in OPERANDS else out.output(name)
        fields.append((kind, role, value))
        spec = plan.spec(role)
        axes = _AXES[role]
        places = _BATCH_FIRST[len(axes)] if plan.form.batch_first and role in _TURNED else range(len(axes))
        for axis, place in zip(axes, places, strict=True):
            stride = "0" if spec is None else out.number(spec.strides[place], 8)
            fields.append(("long long", f"{role}_{axis}", stride))
    word = "unsigned" if form.tile.tensor else "float"
    exchange = out.scratch(0, word) if form.workspaces else "nullptr"
    fields += [("int", name, out.number(dim)) for name, dim in _sizes(form)]
    counters = out.scratch(1, "unsigned") if form.group is Group.GRID else "nullptr"
    return [*fields, (f"{word}*", "exchange", exchange), ("unsigned*", "counters", counters)]


def _sizes(form: Form) -> tuple[tuple[str, int | str], ...]:
    return ("steps", form.plan.steps), ("rows", form.plan.batch), ("tiles", form.tiles)


def _constants(form: Form) -> str:
    plan, tile, layer = form.plan, form.tile, form.plan.form
    values = {
        "Gates": layer.gates, "Hidden": layer.hidden, "Directions": layer.directions, "Units": tile.units,
        "Blocks": tile.blocks, "Batch": tile.batch, "Split": tile.split, "Rows": tile.rows, "Threads": tile.threads,
        "Reverse": sum(1 << i for i, back in enumerate(layer.reverse) if back), "Held": int(form.held),
        "WeightBytes": form.weight_bytes, "PartBytes": form.part_bytes, "StatePitch": form.state_pitch,
        "WeightPitch": form.weight_pitch, "Low": min(tile.batch // tile.rows, 2),
        "Counters": COUNTERS // 4, "Wide": _wideness(form),
    }  # fmt: skip
    weights = plan.spec("r")
    flags = {
        "Bias": plan.spec("bias") is not None, "Peephole": plan.spec("peephole") is not None,
        "Lengths": plan.spec("lengths") is not None, "FirstState": plan.spec("h0") is not None,
        "FirstCell": plan.spec("c0") is not None, "Sequence": plan.spec("y") is not None,
        "LastState": plan.spec("yh") is not None, "LastCell": plan.spec("yc") is not None,
        "ResetAfter": layer.op == "GRU" and layer.reset_after, "TwoHalves": plan.two_halves, "Coupled": layer.coupled,
        "Clip": layer.clip > 0, "Resident": form.held is not Held.MEMORY, "Half": plan.dtype == "float16",
        "Vector": _vector(form), "WideInput": _wide(form, "x"), "WideOutput": _wide(form, "y"),
        "WeightsEarly": weights is not None and weights.constant,
    }  # fmt: skip
    return f"{constants(values, flags)}\nconstexpr float kBound = {layer.clip!r}f;"


def _wideness(form: Form) -> int:
    """Elements of the state side by side that a thread has."""
    return 2 if form.tile.tensor else 1


def _wide(form: Form, role: str) -> bool:
    """Whether what a thread has side by side is one access."""
    spec, wide = form.plan.spec(role), _wideness(form)
    if spec is None or wide == 1 or form.plan.form.hidden % wide or spec.strides[-1] != 1:
        return False
    whole = all(divisible(step, wide) for step in spec.strides[:-1])
    return whole and spec.align % (wide * dtypes.itemsize(spec.dtype)) == 0


def _vector(form: Form) -> bool:
    """Whether four elements of a row of R, from a multiple of four on, are one access."""
    weights = form.plan.spec("r")
    if weights is None or weights.align % 16 or form.plan.form.hidden % 4:
        return False
    return weights.strides[2] == 1 and all(divisible(step, 4) for step in weights.strides[:2])


def _activations(plan: RecurrentPlan) -> str:
    """``gate_f``, ``gate_g`` and ``gate_h`` of a direction and a number."""
    text = []
    for place, letter in enumerate("fgh"[: len(plan.form.activations[0])]):
        codes = [_code(functions[place]) for functions in plan.form.activations]
        body = codes[0] if len(set(codes)) == 1 else f"direction ? {codes[1]} : {codes[0]}"
        text.append(f"INGOT_INLINE float gate_{letter}(int direction, float x) {{ return {body}; }}")
    return "\n".join(text)


def _code(function: Activation) -> str:
    alpha, beta = f"{function.alpha!r}f", f"{function.beta!r}f"
    if function.name == "Affine":
        return f"({alpha} * x + {beta})"
    if function.name == "ScaledTanh":
        return f"({alpha} * {_FAST['Tanh']}({beta} * x))"
    if function.name in _FAST:
        return f"{_FAST[function.name]}(x)"
    return _scalar(function.name, function)


def _scalar(op: str, function: Activation) -> str:
    attrs = (("alpha", function.alpha), ("beta", function.beta))
    code = expression(BodyOp(op, ("x",), ("y",), attrs), ["x"], "cuda")
    assert not isinstance(code, No), code
    return code
