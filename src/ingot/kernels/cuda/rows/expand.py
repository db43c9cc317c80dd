"""Composite ops (softmax, normalisations, norms) written as scalar ops and plain reductions.

The result is the Region's computation over two spaces: S, the space that is reduced, and, where a
reduction drops its axes, T, the space of its result. Intermediates are in the arithmetic type
(float32 for 16-bit floats), so every normalisation is two-pass and centred in FP32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ingot.errors import No
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp, Region, Scalar
from ingot.graph.scalar_code import compute_dtype
from ingot.kernels.cuda.rows.text import arithmetic_types

REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin")
"""What the generated kernels reduce with; everything else is expanded into these."""
_VIA_SCALAR = {
    # op: (scalar ops before, reduction, scalar ops after)
    "ReduceL1": ("Abs", "ReduceSum", ""),
    "ReduceL2": ("Square", "ReduceSum", "Sqrt"),
    "ReduceSumSquare": ("Square", "ReduceSum", ""),
    "ReduceLogSum": ("", "ReduceSum", "Log"),
}


@dataclass
class Primitives:
    """Primitive ops in order, over names with an arithmetic type."""

    region: Region
    space: tuple[Dim, ...] = ()
    reduced: tuple[int, ...] = ()
    groups: int = 0
    """Number of groups that axis 1 is split into (group normalisation); 0 for none."""
    keepdims: bool = True
    ops: list[BodyOp] = field(default_factory=list)
    dtypes: dict[str, str] = field(default_factory=dict)
    literals: dict[str, Scalar] = field(default_factory=dict)
    aliases: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Tensors read with axes of their own: alias to (input, axis of S for each of its axes)."""

    def scalar(self, op: str, *inputs: str, out: str, dtype: str) -> str:
        """Appends a scalar op and returns its result's name."""
        return self.add(BodyOp(op, inputs, (out,)), dtype)

    def add(self, op: BodyOp, dtype: str) -> str:
        """Appends a primitive op."""
        self.ops.append(op)
        self.dtypes[op.outputs[0]] = dtype
        return op.outputs[0]

    def literal(self, value: Scalar, dtype: str) -> str:
        """Name of a literal."""
        name = f"literal {value!r} {dtype}"
        self.literals[name], self.dtypes[name] = value, dtype
        return name

    def reduces(self, axes: tuple[int, ...], space: tuple[Dim, ...], groups: int, keepdims: bool) -> No | None:
        """Declares a reduction; all of a Region's must agree."""
        first = not self.space
        wanted = (space, tuple(sorted(axes)), groups, keepdims)
        if first:
            self.space, self.reduced, self.groups, self.keepdims = wanted
        elif (self.space, self.reduced, self.groups, self.keepdims) != wanted:
            return No("its reductions are over different axes or shapes")
        return None


def expand(region: Region) -> Primitives | No:
    """The Region as primitive ops, or why it has no such form."""
    out = Primitives(region, dtypes=arithmetic_types(region))
    for name, value in region.literals:
        if isinstance(value, tuple):
            if len(value) != 1:
                continue
            value = value[0]
        if not isinstance(value, str):
            out.literals[name] = value
    for op in region.ops:
        if op.domain not in ("", "ai.onnx"):
            return No(f"{op.domain}.{op.op} is not an op of the default domain")
        refusal = _expand_op(out, op)
        if refusal is not None:
            return refusal
    return out if out.space or out.reduced else No("it holds no reduction")


def _expand_op(out: Primitives, op: BodyOp) -> No | None:
    if op.op in _COMPOSITES:
        return _COMPOSITES[op.op](out, op)
    if (
        op.op in REDUCTIONS
        or op.op in _VIA_SCALAR
        or op.op in ("ReduceLogSumExp", "GlobalAveragePool", "GlobalMaxPool")
    ):
        return _reduction(out, op)
    out.add(op, compute_dtype(out.region.spec_of[op.outputs[0]].dtype))
    return None


def _reduction(out: Primitives, op: BodyOp) -> No | None:
    spec = out.region.spec_of[op.inputs[0]]
    axes = _axes_of(out.region, op)
    if axes is None:
        return No("the axes of the reduction are not known at build time")
    source, result = op.inputs[0], op.outputs[0]
    dtype = compute_dtype(spec.dtype)
    if dtype == "bool":
        return No("reductions of booleans have no kernel")
    if not axes:
        out.scalar("Identity", source, out=result, dtype=dtype)
        return No("it reduces no axis")
    refusal = out.reduces(axes, spec.shape, 0, bool(op.attr("keepdims", 1)))
    if refusal is not None:
        return refusal
    if op.op == "ReduceLogSumExp":
        _log_sum_exp(out, source, result, dtype)
        return None
    reduction = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}.get(op.op, op.op)
    before, reduction, after = _VIA_SCALAR.get(reduction, ("", reduction, ""))
    if before == "Square":
        source = out.scalar("Mul", source, source, out=f"{result}/square", dtype=dtype)
    elif before:
        source = out.scalar(before, source, out=f"{result}/{before}", dtype=dtype)
    total = f"{result}/total" if after else result
    attrs = tuple(a for a in op.attrs if a[0] == "select_last_index")
    out.add(BodyOp(reduction, (source,), (total,), attrs), "int64" if reduction.startswith("Arg") else dtype)
    if after:
        out.scalar(after, total, out=result, dtype=dtype)
    return None


def _axes_of(region: Region, op: BodyOp) -> tuple[int, ...] | None:
    rank = region.spec_of[op.inputs[0]].rank
    if op.op.startswith("Global"):
        return tuple(range(2, rank))
    if op.op.startswith("Arg"):
        return (int(op.attr("axis", 0)) % rank,)  # type: ignore[arg-type]
    axes: object = op.attr("axes")
    if len(op.inputs) > 1 and op.inputs[1]:
        axes = region.literal(op.inputs[1])
        if axes is None:
            return None
    if axes is None or axes == ():
        return () if op.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    values = axes if isinstance(axes, tuple) else (axes,)
    return tuple(sorted({int(a) % rank for a in values}))


def _log_sum_exp(out: Primitives, x: str, y: str, dtype: str) -> None:
    top = out.add(BodyOp("ReduceMax", (x,), (f"{y}/max",)), dtype)
    infinite = out.scalar("IsInf", top, out=f"{y}/infinite", dtype="bool")
    zero = out.literal(0.0, dtype)
    safe = out.scalar("Where", infinite, zero, top, out=f"{y}/safe", dtype=dtype)
    power = out.scalar("Exp", out.scalar("Sub", x, safe, out=f"{y}/diff", dtype=dtype), out=f"{y}/exp", dtype=dtype)
    total = out.add(BodyOp("ReduceSum", (power,), (f"{y}/sum",)), dtype)
    out.scalar("Add", out.scalar("Log", total, out=f"{y}/log", dtype=dtype), safe, out=y, dtype=dtype)


def _softmax(out: Primitives, op: BodyOp) -> No | None:
    x, y = op.inputs[0], op.outputs[0]
    spec = out.region.spec_of[x]
    dtype = compute_dtype(spec.dtype)
    refusal = out.reduces((int(op.attr("axis", -1)) % spec.rank,), spec.shape, 0, True)  # type: ignore[arg-type]
    if refusal is not None:
        return refusal
    top = out.add(BodyOp("ReduceMax", (x,), (f"{y}/max",)), dtype)
    diff = out.scalar("Sub", x, top, out=f"{y}/diff", dtype=dtype)
    power = out.scalar("Exp", diff, out=f"{y}/exp", dtype=dtype)
    total = out.add(BodyOp("ReduceSum", (power,), (f"{y}/sum",)), dtype)
    if op.op == "LogSoftmax":
        out.scalar("Sub", diff, out.scalar("Log", total, out=f"{y}/log", dtype=dtype), out=y, dtype=dtype)
    else:
        scale = out.scalar("Reciprocal", total, out=f"{y}/scale", dtype=dtype)
        out.scalar("Mul", power, scale, out=y, dtype=dtype)
    return None


def _normalise(out: Primitives, x: str, y: str, epsilon: float, dtype: str, *, centred: bool) -> tuple[str, str, str]:
    """Appends x / sqrt(mean(x^2) + epsilon), of the centred x if asked: (result, mean, reciprocal deviation)."""
    mean = ""
    if centred:
        mean = out.add(BodyOp("ReduceMean", (x,), (f"{y}/mean",)), dtype)
        x = out.scalar("Sub", x, mean, out=f"{y}/centred", dtype=dtype)
    square = out.scalar("Mul", x, x, out=f"{y}/square", dtype=dtype)
    variance = out.add(BodyOp("ReduceMean", (square,), (f"{y}/variance",)), dtype)
    shifted = out.scalar("Add", variance, out.literal(epsilon, dtype), out=f"{y}/shifted", dtype=dtype)
    deviation = out.scalar("Sqrt", shifted, out=f"{y}/deviation", dtype=dtype)
    inverse = out.scalar("Reciprocal", deviation, out=f"{y}/inverse", dtype=dtype)
    return out.scalar("Mul", x, inverse, out=f"{y}/normal", dtype=dtype), mean, inverse


def _affine(out: Primitives, normal: str, scale: str, bias: str, y: str, dtype: str) -> None:
    scaled = f"{y}/scaled" if bias else y
    if scale:
        normal = out.scalar("Mul", normal, scale, out=scaled, dtype=dtype)
    if bias:
        normal = out.scalar("Add", normal, bias, out=y, dtype=dtype)
    if normal != y:
        out.scalar("Identity", normal, out=y, dtype=dtype)


def _trailing_norm(out: Primitives, op: BodyOp) -> No | None:
    """LayerNormalization and RMSNormalization."""
    x, y = op.inputs[0], op.outputs[0]
    spec = out.region.spec_of[x]
    axis = int(op.attr("axis", -1)) % spec.rank  # type: ignore[arg-type]
    dtype = compute_dtype(spec.dtype)
    refusal = out.reduces(tuple(range(axis, spec.rank)), spec.shape, 0, True)
    if refusal is not None:
        return refusal
    epsilon = float(op.attr("epsilon", 1e-5))  # type: ignore[arg-type]
    normal, mean, inverse = _normalise(out, x, y, epsilon, dtype, centred=op.op == "LayerNormalization")
    for made, name in ((mean, op.outputs[1:2]), (inverse, op.outputs[2:3])):
        if name and name[0]:
            out.scalar("Identity", made, out=name[0], dtype=dtype)
    bias = op.inputs[2] if len(op.inputs) > 2 else ""
    _affine(out, normal, op.inputs[1] if len(op.inputs) > 1 else "", bias, y, dtype)
    return None


def _channel_norm(out: Primitives, op: BodyOp) -> No | None:
    """InstanceNormalization and GroupNormalization: scale and bias belong to axis 1."""
    x, y = op.inputs[0], op.outputs[0]
    spec = out.region.spec_of[x]
    dtype = compute_dtype(spec.dtype)
    groups = int(op.attr("num_groups", 0)) if op.op == "GroupNormalization" else 0  # type: ignore[arg-type]
    channels = spec.shape[1]
    if groups and (not isinstance(channels, int) or channels % groups):
        return No("group normalisation needs a fixed number of channels, divisible by its groups")
    axes = tuple(range(2, spec.rank + (1 if groups else 0)))
    if not axes:
        return No("instance normalisation without spatial axes")
    refusal = out.reduces(axes, spec.shape, groups, True)
    if refusal is not None:
        return refusal
    if len(op.inputs) < 3:
        return No("a channel normalisation without scale or bias")
    per_channel = []
    for name in op.inputs[1:3]:
        if name not in out.region.inputs:
            return No("scale and bias of a channel normalisation must be inputs of the region")
        alias = f"{name}/channels"
        out.aliases[alias], out.dtypes[alias] = (name, (1,)), out.dtypes[name]
        per_channel.append(alias)
    epsilon = float(op.attr("epsilon", 1e-5))  # type: ignore[arg-type]
    normal, _, _ = _normalise(out, x, y, epsilon, dtype, centred=True)
    _affine(out, normal, per_channel[0], per_channel[1], y, dtype)
    return None


def _lp_norm(out: Primitives, op: BodyOp) -> No | None:
    x, y = op.inputs[0], op.outputs[0]
    spec = out.region.spec_of[x]
    dtype = compute_dtype(spec.dtype)
    refusal = out.reduces((int(op.attr("axis", -1)) % spec.rank,), spec.shape, 0, True)  # type: ignore[arg-type]
    if refusal is not None:
        return refusal
    euclidean = int(op.attr("p", 2)) == 2  # type: ignore[arg-type]
    size = (
        out.scalar("Mul", x, x, out=f"{y}/size", dtype=dtype)
        if euclidean
        else out.scalar("Abs", x, out=f"{y}/size", dtype=dtype)
    )
    norm = out.add(BodyOp("ReduceSum", (size,), (f"{y}/norm",)), dtype)
    if euclidean:
        norm = out.scalar("Sqrt", norm, out=f"{y}/root", dtype=dtype)
    none = out.scalar("Equal", norm, out.literal(0.0, dtype), out=f"{y}/none", dtype="bool")
    safe = out.scalar("Where", none, out.literal(1.0, dtype), norm, out=f"{y}/safe", dtype=dtype)
    out.scalar("Div", x, safe, out=y, dtype=dtype)
    return None


_COMPOSITES: dict[str, Callable[[Primitives, BodyOp], No | None]] = {
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "LayerNormalization": _trailing_norm,
    "RMSNormalization": _trailing_norm,
    "InstanceNormalization": _channel_norm,
    "GroupNormalization": _channel_norm,
    "LpNormalization": _lp_norm,
}
