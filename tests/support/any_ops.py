"""The ops that random graphs are grown from."""

from __future__ import annotations

import math

import numpy as np
from support.any_control import if_, look_up, loop, scan
from support.any_graphs import TYPES, AnyGraph, Choose, Maker, Shape, Value
from support.any_recurrent import recurrent
from support.any_sizes import data_sized

_SMOOTH = ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "HardSwish", "Elu", "Exp", "Sin", "Cos", "Gelu", "Mish")
_PIECEWISE = ("Relu", "Neg", "Abs", "Identity", "LeakyRelu")
_JUMPING = ("Floor", "Ceil", "Round", "Sign")


def _unary(g: AnyGraph) -> None:
    if (v := g.value()) is None:
        return
    kind = g.choose(3)
    if kind == 0:
        op = g.pick(_PIECEWISE)
        g.like(op, [v], v, v.shape)
    elif kind == 1:
        op = g.pick(_SMOOTH)
        if op != "Exp" or v.bound <= 4:
            g.add(op, [v], ("float32", v.shape, False, math.exp(4) if op == "Exp" else v.bound + 1))
    elif (exact := g.value(exact=True)) is not None:
        g.like(g.pick(_JUMPING), [exact], exact, exact.shape)


def _binary(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64")) is None:
        return
    others = [o for o in g.values if o.dtype == v.dtype and _broadcasts(o.shape, v.shape)]
    other = g.pick(others)
    shape = np.broadcast_shapes(v.shape, other.shape)
    op = g.pick(("Add", "Sub", "Mul", "Max", "Min"))
    bound = v.bound * other.bound if op == "Mul" else v.bound + other.bound
    if bound <= 256:
        pair = [v, other] if g.choose(2) else [other, v]
        exact = v.exact and other.exact and op in ("Max", "Min")
        g.add(op, pair, (v.dtype, shape, exact or v.dtype == "int64", bound))


def _broadcasts(a: Shape, b: Shape) -> bool:
    return all(x == y or 1 in (x, y) for x, y in zip(reversed(a), reversed(b), strict=False))


def _scaled(g: AnyGraph) -> None:
    if (v := g.value()) is not None:
        kept = [size if g.choose(2) else 1 for size in v.shape]
        g.add(g.pick(("Add", "Mul", "Sub")), [v, g.weight(*kept)], ("float32", v.shape, False, v.bound + 1))


def _divided(g: AnyGraph) -> None:
    if (v := g.value()) is not None:
        by = g.constant(np.float32(g.pick((2, 3, -0.75))))
        g.add("Div", [v, by], ("float32", v.shape, False, 2 * v.bound))


def _compared(g: AnyGraph) -> None:
    a = g.value("float32", "int64", exact=True)
    if a is None:
        return
    fit = [o for o in g.values if o.dtype == a.dtype and o.exact and _broadcasts(o.shape, a.shape)]
    b = g.pick(fit)
    op = g.pick(("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"))
    g.add(op, [a, b], ("bool", tuple(np.broadcast_shapes(a.shape, b.shape)), True, 1.0))


def _where(g: AnyGraph) -> None:
    mask = g.value("bool")
    if mask is None:
        return
    fit = [o for o in g.values if o.dtype == "float32" and _broadcasts(o.shape, mask.shape)]
    if not fit:
        return
    a, b = g.pick(fit), g.constant(np.float32(g.pick((0.5, -1.0))))
    shape = tuple(np.broadcast_shapes(a.shape, mask.shape))
    g.add("Where", [mask, a, b] if g.choose(2) else [mask, b, a], ("float32", shape, a.exact, a.bound + 1))


def _logical(g: AnyGraph) -> None:
    if (mask := g.value("bool")) is not None:
        if g.choose(2):
            g.like("Not", [mask], mask, mask.shape)
        else:
            same = [o for o in g.values if o.dtype == "bool" and o.shape == mask.shape]
            g.like(g.pick(("And", "Or", "Xor")), [mask, g.pick(same)], mask, mask.shape)


def _cast(g: AnyGraph) -> None:
    v = g.value("float32", "int64", "int32", "bool", exact=True)
    if v is not None:
        to = g.pick(("float32", "int64", "int32"))
        g.add("Cast", [v], (to, v.shape, True, v.bound), to=TYPES[to])


def _clip(g: AnyGraph) -> None:
    if (v := g.value()) is not None:
        g.like("Clip", [v, g.constant(np.float32(-1.5)), g.constant(np.float32(2))], v, v.shape)


def _conv(g: AnyGraph) -> None:
    if (v := g.value(rank=4)) is None:
        return
    n, c, h, w = v.shape
    k, out, stride, dilation = g.pick((1, 3)), g.pick((1, 4, 8)), g.pick((1, 1, 2)), g.pick((1, 1, 2))
    group = c if g.choose(4) == 0 else 1
    out = c if group > 1 else out
    pad = g.choose(2) * (k // 2) * dilation
    sizes = [(s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s in (h, w)]
    if min(sizes) < 1 or v.bound * c * k * k > 4096:
        return
    operands = [v, g.weight(out, c // group, k, k), *([g.weight(out)] if g.choose(2) else [])]
    made = ("float32", (n, out, *sizes), False, v.bound * c // group * k * k / 2 + 1)
    g.add("Conv", operands, made, pads=[pad] * 4, strides=[stride] * 2, dilations=[dilation] * 2, group=group)


def _matmul(g: AnyGraph) -> None:
    if (v := g.value(least=2)) is not None and v.bound * v.shape[-1] <= 1024:
        columns = g.pick((1, 4, 8))
        made = ("float32", (*v.shape[:-1], columns), False, v.bound * v.shape[-1] / 2 + 1)
        g.add("MatMul", [v, g.weight(v.shape[-1], columns)], made)


def _gemm(g: AnyGraph) -> None:
    if (v := g.value(rank=2)) is not None and v.bound * max(v.shape) <= 1024:
        turned, columns = g.choose(2), g.pick((2, 8))
        rows, depth = reversed(v.shape) if turned else v.shape
        operands = [v, g.weight(depth, columns), g.weight(columns)]
        g.add("Gemm", operands, ("float32", (rows, columns), False, v.bound * depth + 1), transA=turned, alpha=0.5)


def _pool(g: AnyGraph) -> None:
    if (v := g.value(rank=4)) is None or min(v.shape[2:]) < 2:
        return
    if g.choose(3) == 0:
        op = g.pick(("GlobalAveragePool", "GlobalMaxPool"))
        g.add(op, [v], ("float32", (*v.shape[:2], 1, 1), False, v.bound))
        return
    op, k, stride, pad = g.pick(("MaxPool", "AveragePool")), 2, g.pick((1, 2)), g.choose(2)
    sizes = tuple((s + 2 * pad - k) // stride + 1 for s in v.shape[2:])
    made = ("float32", (*v.shape[:2], *sizes), v.exact and op == "MaxPool", v.bound)
    g.add(op, [v], made, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)


def _reduce(g: AnyGraph) -> None:
    if (v := g.value(least=1)) is None:
        return
    op = g.pick(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"))
    axes = sorted({g.choose(len(v.shape)) for _ in range(1 + g.choose(2))})
    keep = g.choose(2)
    shape = tuple(1 if i in axes else s for i, s in enumerate(v.shape) if keep or i not in axes)
    count = math.prod(v.shape[i] for i in axes)
    bound = {"ReduceSum": v.bound * count, "ReduceSumSquare": v.bound**2 * count, "ReduceL2": v.bound * count}.get(
        op, v.bound
    )
    if bound <= 4096:
        exact = v.exact and op in ("ReduceMax", "ReduceMin")
        g.add(op, [v, g.ints(*axes)], ("float32", shape, exact, bound), keepdims=keep)


def _arg(g: AnyGraph) -> None:
    if (v := g.value(exact=True, least=1)) is not None:
        axis, keep = g.axis(v), g.choose(2)
        at = axis % len(v.shape)
        shape = tuple(1 if i == at else s for i, s in enumerate(v.shape) if keep or i != at)
        g.add(g.pick(("ArgMax", "ArgMin")), [v], ("int64", shape, True, 8.0), axis=axis, keepdims=keep)


def _softmax(g: AnyGraph) -> None:
    if (v := g.value(least=1)) is not None and v.bound <= 64:
        op = g.pick(("Softmax", "LogSoftmax"))
        g.add(op, [v], ("float32", v.shape, False, 1.0 if op == "Softmax" else 130.0), axis=g.axis(v))


def _normalised(g: AnyGraph) -> None:
    if (v := g.value(least=2)) is None:
        return
    if len(v.shape) == 4 and g.choose(2):
        if math.prod(v.shape[2:]) < 4:
            return
        operands = [v, g.weight(v.shape[1]), g.weight(v.shape[1])]
        g.add("InstanceNormalization", operands, ("float32", v.shape, False, 10.0), epsilon=0.1)
    else:
        g.add("LayerNormalization", [v, g.weight(v.shape[-1])], ("float32", v.shape, False, 10.0), axis=-1, epsilon=0.1)


def _transpose(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", "bool", least=2)) is not None:
        left, perm = list(range(len(v.shape))), []
        while left:
            perm.append(left.pop(g.choose(len(left))))
        g.like("Transpose", [v], v, tuple(v.shape[p] for p in perm), perm=perm)


def _reshape(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64")) is None:
        return
    total, shape = math.prod(v.shape), []
    while total > 1 and len(shape) < 3:
        factor = g.pick([f for f in (1, 2, 3, 4, 8) if total % f == 0])
        shape.append(factor)
        total //= factor
    shape.append(total)
    asked = list(shape)
    if g.choose(2):
        asked[g.choose(len(asked))] = -1
    g.like("Reshape", [v, g.ints(*asked)], v, tuple(shape))


def _squeezed(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", "bool")) is None:
        return
    ones = [i for i, s in enumerate(v.shape) if s == 1]
    if ones and g.choose(2):
        at = g.pick(ones)
        g.like("Squeeze", [v, g.ints(at)], v, (*v.shape[:at], *v.shape[at + 1 :]))
    elif len(v.shape) < 5:
        at = g.choose(len(v.shape) + 1)
        g.like("Unsqueeze", [v, g.ints(at)], v, (*v.shape[:at], 1, *v.shape[at:]))


def _slice(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", least=1)) is None:
        return
    axis = g.axis(v)
    size = v.shape[axis]
    start, step = g.choose(size), g.pick((1, 2, -1))
    end = -(1 << 40) if step < 0 else size - g.choose(size - start)
    length = len(range(size)[slice(start, None if step < 0 else end, step)])
    at = axis % len(v.shape)
    if length:
        numbers = [g.ints(n) for n in (start, end, axis, step)]
        g.like("Slice", [v, *numbers], v, (*v.shape[:at], length, *v.shape[at + 1 :]))


def _split(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", least=1)) is None:
        return
    axis = g.choose(len(v.shape))
    if v.shape[axis] >= 2:
        first = 1 + g.choose(v.shape[axis] - 1)
        shapes = [(*v.shape[:axis], s, *v.shape[axis + 1 :]) for s in (first, v.shape[axis] - first)]
        made = [(v.dtype, shape, v.exact, v.bound) for shape in shapes]
        g.add("Split", [v, g.ints(first, v.shape[axis] - first)], *made, axis=axis)


def _concat(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", least=1)) is None:
        return
    axis = g.choose(len(v.shape))

    def fits(o: Value) -> bool:
        rest = o.shape[:axis] + o.shape[axis + 1 :]
        return o.dtype == v.dtype and len(o.shape) == len(v.shape) and rest == v.shape[:axis] + v.shape[axis + 1 :]

    parts = [v, *(g.pick([o for o in g.values if fits(o)]) for _ in range(1 + g.choose(2)))]
    shape = (*v.shape[:axis], sum(p.shape[axis] for p in parts), *v.shape[axis + 1 :])
    g.add("Concat", parts, (v.dtype, shape, all(p.exact for p in parts), max(p.bound for p in parts)), axis=axis)


def _pad(g: AnyGraph) -> None:
    if (v := g.value(least=1)) is None:
        return
    mode = g.pick(("constant", "reflect", "edge"))
    most = [min(s - 1, 2) if mode == "reflect" else 2 for s in v.shape]
    pads = [g.choose(m + 1) for m in most * 2]
    shape = tuple(s + pads[i] + pads[i + len(most)] for i, s in enumerate(v.shape))
    fill = [g.constant(np.float32(0.25))] if mode == "constant" and g.choose(2) else []
    g.like("Pad", [v, g.ints(*pads), *fill], v, shape, mode=mode)


def _gather(g: AnyGraph) -> None:
    if (v := g.value("float32", "int64", least=1)) is None:
        return
    axis, shape = g.choose(len(v.shape)), g.pick(((), (1,), (2,), (1, 1), (2, 1)))
    size = v.shape[axis]
    indices = [g.choose(2 * size) - size for _ in range(math.prod(shape))]
    picked = g.constant(np.array(indices, np.int64).reshape(shape))
    g.like("Gather", [v, picked], v, (*v.shape[:axis], *shape, *v.shape[axis + 1 :]), axis=axis)


def _tile(g: AnyGraph) -> None:
    if (v := g.value(least=1)) is not None:
        times = [1 + g.choose(2) for _ in v.shape]
        g.like("Tile", [v, g.ints(*times)], v, tuple(s * t for s, t in zip(v.shape, times, strict=True)))


def _expand(g: AnyGraph) -> None:
    if (v := g.value("float32", "bool")) is not None:
        shape = tuple(g.pick((2, 3)) if s == 1 and g.choose(2) else s for s in v.shape)
        g.like(
            "Expand",
            [v, g.ints(*((2, *shape) if len(shape) < 4 else shape))],
            v,
            (2, *shape) if len(shape) < 4 else shape,
        )


def _resize(g: AnyGraph) -> None:
    if (v := g.value(rank=4)) is not None:
        mode = g.pick(("nearest", "linear"))
        sizes = (*v.shape[:2], *(2 * s for s in v.shape[2:]))
        rule = g.pick(("asymmetric", "half_pixel"))
        rounding = "floor" if mode == "nearest" else None
        made = ("float32", sizes, v.exact and mode == "nearest", v.bound)
        g.add(
            "Resize",
            [v, "", "", g.ints(*sizes)],
            made,
            mode=mode,
            coordinate_transformation_mode=rule,
            nearest_mode=rounding,
        )


def _blocks(g: AnyGraph) -> None:
    if (v := g.value(rank=4)) is None:
        return
    n, c, h, w = v.shape
    if c % 4 == 0 and g.choose(2):
        g.like("DepthToSpace", [v], v, (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=g.pick(("DCR", "CRD")))
    elif h % 2 == 0 and w % 2 == 0:
        g.like("SpaceToDepth", [v], v, (n, 4 * c, h // 2, w // 2), blocksize=2)


def _triangle(g: AnyGraph) -> None:
    if (v := g.value(least=2)) is not None:
        g.like("Trilu", [v, g.constant(np.int64(g.choose(3) - 1))], v, v.shape, upper=g.choose(2))


def _running_sum(g: AnyGraph) -> None:
    if (v := g.value(least=1)) is not None and v.bound * max(v.shape) <= 1024:
        axis = g.constant(np.int64(g.axis(v)))
        made = ("float32", v.shape, False, v.bound * max(v.shape))
        g.add("CumSum", [v, axis], made, exclusive=g.choose(2), reverse=g.choose(2))


MAKERS: tuple[Maker, ...] = (
    _unary, _unary, _unary, _binary, _binary, _scaled, _divided, _compared, _where, _logical, _cast, _clip, _conv,
    _conv, _matmul, _gemm, _pool, _reduce, _reduce, _arg, _softmax, _normalised, _transpose, _reshape, _squeezed,
    _slice, _split, _concat, _concat, _pad, _gather, _tile, _expand, _resize, _blocks, _triangle, _running_sum,
    recurrent, recurrent, if_, if_, loop, loop, scan, data_sized, data_sized, look_up,
)  # fmt: skip


def grown(choose: Choose, steps: int = 8, prefix: str = "") -> AnyGraph:
    """The graph of a stream of choices."""
    return AnyGraph(choose, MAKERS, steps, prefix)


def seeded(seed: int, steps: int = 8, prefix: str = "") -> AnyGraph:
    """The graph of a seed."""
    random = np.random.default_rng(seed)
    return grown(lambda n: int(random.integers(n)), steps, prefix)
