"""A sliding-window pooling taken apart: window geometry, prologue, epilogue, where tensors lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ingot.errors import No
from ingot.graph import dtypes
from ingot.graph.dims import Dim, add, floordiv, maximum, mul
from ingot.graph.region import BodyOp, Kind, Region, Scalar
from ingot.graph.scalar_ops import is_scalar_op
from ingot.kernels.cuda.rows.axes import Loop, Placement, aligned_strides, typical
from ingot.kernels.cuda.rows.text import arithmetic_types, refusal


@dataclass(frozen=True)
class Window:
    """One spatial axis of the window."""

    kernel: int
    stride: int
    dilation: int
    head: Dim
    """Padding before the first element."""
    tail: Dim
    size: Dim
    """Length of the input along this axis."""


@dataclass(frozen=True)
class PoolPlan:
    """What a pooling kernel must compute."""

    region: Region
    anchor: BodyOp
    prologue: tuple[BodyOp, ...]
    """Scalar ops over the input's shape."""
    epilogue: tuple[BodyOp, ...]
    """Scalar ops over the output's shape."""
    windows: tuple[Window, ...]
    source: dict[str, Placement]
    """Tensors read by the prologue or the anchor, in the input's space."""
    result: dict[str, Placement]
    """Tensors read or written by the epilogue, in the output's space."""
    loops: tuple[tuple[int, Loop], ...]
    """Output axes from outermost to innermost in memory, with their loops."""
    dtypes: dict[str, str]
    """Arithmetic type by value."""
    literals: dict[str, Scalar]

    @property
    def elements(self) -> Dim:
        """Number of results."""
        return mul(*(loop.size for _, loop in self.loops))

    @property
    def window_size(self) -> int:
        """Elements of a window."""
        size = 1
        for window in self.windows:
            size *= window.kernel
        return size


@lru_cache(maxsize=256)
def plan_pool(region: Region) -> PoolPlan | No:
    """The Region as a pooling with prologue and epilogue, or why it is not one."""
    anchors = [op for op in region.ops if op.op in ("MaxPool", "AveragePool", "LpPool")]
    if region.kind is not Kind.POOL or len(anchors) != 1:
        return No("not exactly one pooling op")
    anchor = anchors[0]
    if len(anchor.outputs) > 1 and anchor.outputs[1]:
        return No("the Indices output of MaxPool has no kernel")
    x, y = region.spec_of[anchor.inputs[0]], region.spec_of[anchor.outputs[0]]
    if x.rank < 3:
        return No("pooling without spatial axes")
    if anchor.op != "MaxPool" and not dtypes.is_float(x.dtype):
        return No(f"{anchor.op} of {x.dtype} has no kernel")
    if x.dtype == "bool":
        return No("pooling of booleans has no kernel")
    parts = _parts(region, anchor)
    if isinstance(parts, No):
        return parts
    prologue, epilogue = parts
    windows = windows_of(anchor, x.shape[2:], y.shape[2:])
    source = _placements(region, _external(region, prologue, anchor.inputs[:1]), x.shape)
    outside = [n for n in _external(region, epilogue, ()) if n != anchor.outputs[0]]
    result = _placements(region, [*outside, *region.outputs], y.shape)
    if isinstance(source, No) or isinstance(result, No):
        return source if isinstance(source, No) else result  # type: ignore[return-value]
    lead = result[region.outputs[0]].strides
    axes = sorted(range(y.rank), key=lambda axis: (y.shape[axis] != 1, -typical(lead[axis]), axis))
    loops = tuple((a, Loop(y.shape[a], {n: p.strides[a] for n, p in result.items()})) for a in axes)
    single = {n: v[0] if isinstance(v, tuple) and len(v) == 1 else v for n, v in region.literals}
    literals = {n: v for n, v in single.items() if not isinstance(v, str | tuple)}
    kinds = arithmetic_types(region)
    unwritten = refusal([*prologue, *epilogue], kinds, literals)
    if unwritten is not None:
        return unwritten
    return PoolPlan(region, anchor, prologue, epilogue, windows, source, result, loops, kinds, literals)


def _parts(region: Region, anchor: BodyOp) -> tuple[tuple[BodyOp, ...], tuple[BodyOp, ...]] | No:
    """Scalar ops that the pooling depends on, and the others."""
    needed = {anchor.inputs[0]}
    prologue = []
    for op in reversed(region.ops):
        if op is anchor:
            continue
        if not is_scalar_op(op.op) or op.domain not in ("", "ai.onnx") or len(op.outputs) != 1:
            return No(f"{op.op} is not a scalar op")
        if op.outputs[0] in needed:
            prologue.append(op)
            needed.update(op.inputs)
    if any(op.outputs[0] in region.outputs for op in prologue):
        return No("a value before the pooling is an output too")
    epilogue = [op for op in region.ops if op is not anchor and op not in prologue]
    if any(name in {o.outputs[0] for o in prologue} for op in epilogue for name in op.inputs):
        return No("a value before the pooling is read after it")
    return tuple(reversed(prologue)), tuple(epilogue)


def _external(region: Region, ops: tuple[BodyOp, ...], also: tuple[str, ...]) -> list[str]:
    names = dict.fromkeys(n for n in (*also, *(i for op in ops for i in op.inputs)) if n in region.inputs)
    return list(names)


def _placements(region: Region, names: list[str], space: tuple[Dim, ...]) -> dict[str, Placement] | No:
    placed: dict[str, Placement] = {}
    for name in names:
        spec = region.spec_of[name]
        if spec.rank > len(space):
            return No(f"value {name!r} has more axes than the pooling")
        strides = aligned_strides(spec, range(len(space) - spec.rank, len(space)), space)
        if strides is None:
            return No(f"value {name!r} of shape {spec.shape} does not broadcast to {space}")
        if name in region.outputs and any(s == 0 and d != 1 for s, d in zip(strides, space, strict=True)):
            return No(f"output {name!r} is smaller than the pooling's")
        placed[name] = Placement(spec, strides)
    return placed


def windows_of(op: BodyOp, sizes: tuple[Dim, ...], results: tuple[Dim, ...]) -> tuple[Window, ...]:
    """The window of a pooling along each spatial axis, of ``sizes`` before and ``results`` behind it."""
    rank = len(sizes)
    kernel, strides = op.ints("kernel_shape", (1,) * rank), op.ints("strides", (1,) * rank)
    dilations, pads = op.ints("dilations", (1,) * rank), op.ints("pads", (0,) * (2 * rank))
    auto = op.attr("auto_pad", "NOTSET")
    windows = []
    for i in range(rank):
        head: Dim = 0 if auto == "VALID" else pads[i]
        tail: Dim = 0 if auto == "VALID" else pads[rank + i]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            reach = (kernel[i] - 1) * dilations[i] + 1
            total = maximum(add(mul(strides[i], results[i]), reach - strides[i], mul(-1, sizes[i])), 0)
            half = floordiv(total, 2)
            rest = add(total, mul(-1, half))
            head, tail = (half, rest) if auto == "SAME_UPPER" else (rest, half)
        windows.append(Window(kernel[i], strides[i], dilations[i], head, tail, sizes[i]))
    return tuple(windows)
