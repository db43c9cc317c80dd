"""Resize: nearest, linear and cubic, along any axes, with ONNX Runtime's single-precision coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingot.graph import dtypes
from ingot.graph.dims import Dim
from ingot.graph.region import BodyOp
from ingot.graph.scalar_code import compute_dtype
from ingot.kernels.cuda.maps.algebra import exact
from ingot.kernels.cuda.maps.emit import Refused, Val
from ingot.kernels.cuda.maps.index import Coord, Index, Name, coord, scaled
from ingot.kernels.cuda.maps.pull import Puller
from ingot.kernels.cuda.maps.views import divided
from ingot.kernels.cuda.rows.text import c_type

_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)
_NEAREST = {
    "round_prefer_floor": "ingot_round_down({})",
    "round_prefer_ceil": "roundf({})",
    "floor": "floorf({})",
    "ceil": "ceilf({})",
}
_MOST_AXES = {"nearest": 8, "linear": 3, "cubic": 2}


@dataclass(frozen=True)
class _Axis:
    """One axis that changes: its place, sizes before and after, and the given scale (None: their ratio)."""

    position: int
    size: Dim
    out: Dim
    scale: float | None


@dataclass(frozen=True)
class _Tap:
    """An input position along an axis, and code of its weight."""

    place: Coord
    weight: str


def resize(p: Puller, op: BodyOp, name: str, index: Index) -> Val:
    """Resize of any rank; only the axes that change are interpolated."""
    mode = str(op.attr("mode", "nearest"))
    axes = _axes(p, op, name)
    _check(p, op, mode, axes)
    found = list(index)
    if mode == "nearest":
        for axis in axes:
            found[axis.position] = _nearest(p, op, axis, index[axis.position])
        return p.pull(op.inputs[0], tuple(found))
    taps = [(_linear if mode == "linear" else _cubic)(p, op, axis, index[axis.position]) for axis in axes]
    return _blended(p, op.inputs[0], name, found, axes, taps)


def _axes(p: Puller, op: BodyOp, name: str) -> list[_Axis]:
    have, out = p.shape(op.inputs[0]), p.shape(name)
    scales = p.parameter(op, 1 if len(op.inputs) == 2 else 2)
    given = op.ints("axes", tuple(range(len(have))))
    factors: dict[int, float | None] = {}
    for position, axis in enumerate(given):
        factor = float(scales[position]) if scales else None
        factors[axis % len(have)] = factor
    return [
        _Axis(i, size, to, factors.get(i))
        for i, (size, to) in enumerate(zip(have, out, strict=True))
        if not (size == to and factors.get(i) in (None, 1.0))
    ]


def _check(p: Puller, op: BodyOp, mode: str, axes: Sequence[_Axis]) -> None:
    if mode not in _MOST_AXES:
        raise Refused(f"Resize in mode {mode!r}")
    if len(axes) > _MOST_AXES[mode]:
        raise Refused(f"{mode} Resize along {len(axes)} axes")
    transformation = str(op.attr("coordinate_transformation_mode", "half_pixel"))
    if transformation not in _MODES:
        raise Refused(f"Resize with coordinate transformation {transformation!r}")
    if op.attr("antialias", 0):
        raise Refused("Resize with antialias")
    if str(op.attr("keep_aspect_ratio_policy", "stretch")) != "stretch":
        raise Refused("Resize that keeps the aspect ratio")
    if mode != "nearest" and not dtypes.is_float(p.spec(op.inputs[0]).dtype):
        raise Refused(f"{mode} Resize of {p.spec(op.inputs[0]).dtype}")


# -- coordinates


def _scale(p: Puller, axis: _Axis) -> str:
    """Code of the scale, a float."""
    if axis.scale is not None:
        return f"{axis.scale!r}f"
    return p.em.let(f"(float){p.em.text.number(axis.out)} / (float){p.em.text.number(axis.size)}", "float", "s")


def _original(p: Puller, op: BodyOp, axis: _Axis, c: Coord) -> str:
    """Code of the position in the input, a float."""
    em, mode = p.em, str(op.attr("coordinate_transformation_mode", "half_pixel"))
    x, scale = em.let(f"(float){em.scalar(c)}", "float", "f"), _scale(p, axis)
    size, out = f"(float){em.text.number(axis.size)}", f"(float){em.text.number(axis.out)}"
    centred = f"({x} + 0.5f) / {scale}"
    match mode:
        case "asymmetric":
            code = f"{x} / {scale}"
        case "align_corners":
            code = "0.0f" if axis.out == 1 else f"{x} * ({size} - 1.0f) / ({out} - 1.0f)"
            code = code if isinstance(axis.out, int) else f"{out} == 1.0f ? 0.0f : {code}"
        case "tf_half_pixel_for_nn":
            code = centred
        case "pytorch_half_pixel":
            code = f"{out} > 1.0f ? {centred} - 0.5f : 0.0f"
        case "half_pixel_symmetric":
            code = f"{size} / 2.0f * (1.0f - {out} / ({scale} * {size})) + {centred} - 0.5f"
        case _:
            code = f"{centred} - 0.5f"
    return em.let(code, "float", "f")


def _nearest(p: Puller, op: BodyOp, axis: _Axis, c: Coord) -> Coord:
    exactly = _exact_nearest(p, op, axis, c)
    if exactly is not None:
        return exactly
    rounding = str(op.attr("nearest_mode", "round_prefer_floor"))
    if rounding not in _NEAREST:
        raise Refused(f"Resize with nearest mode {rounding!r}")
    code = _NEAREST[rounding].format(_original(p, op, axis, c))
    return coord(Name(p.em.let(f"ingot_clamp((index_t){code}, {p.em.text.number(axis.size)})"), axis.size))


def _exact_nearest(p: Puller, op: BodyOp, axis: _Axis, c: Coord) -> Coord | None:
    """The coordinate by whole-number arithmetic, where the scale is a whole number or its inverse a power of two."""
    mode = str(op.attr("coordinate_transformation_mode", "half_pixel"))
    rounding = str(op.attr("nearest_mode", "round_prefer_floor"))
    factor = exact(axis.out, axis.size)
    if isinstance(factor, int) and factor > 0 and axis.scale in (None, float(factor)):
        # (x + 0.5) / k - 0.5 lies less than a half from x / k rounded down.
        centred = mode in ("half_pixel", "half_pixel_symmetric") or (
            mode == "pytorch_half_pixel" and isinstance(axis.out, int) and axis.out > 1
        )
        if (centred and rounding.startswith("round")) or (mode == "asymmetric" and rounding == "floor"):
            return divided(p, c, factor)[0]
    factor = exact(axis.size, axis.out)
    halving = isinstance(factor, int) and factor > 0 and factor & (factor - 1) == 0
    if halving and mode == "asymmetric" and axis.scale in (None, 1.0 / int(factor or 1)):
        return scaled(c, factor or 1)
    return None


# -- interpolation


def _linear(p: Puller, op: BodyOp, axis: _Axis, c: Coord) -> list[_Tap]:
    em, size = p.em, p.em.text.number(axis.size)
    x = em.let(f"fminf(fmaxf({_original(p, op, axis, c)}, 0.0f), (float){size} - 1.0f)", "float", "f")
    low = em.let(f"(index_t){x}")
    high = em.let(f"ingot_clamp({low} + 1, {size})")
    return [
        _Tap(coord(Name(low, axis.size)), em.let(f"(float)({low} + 1) - {x}", "float", "w")),
        _Tap(coord(Name(high, axis.size)), em.let(f"{x} - (float){low}", "float", "w")),
    ]


def _cubic(p: Puller, op: BodyOp, axis: _Axis, c: Coord) -> list[_Tap]:
    em, size = p.em, p.em.text.number(axis.size)
    x = _original(p, op, axis, c)
    base = em.let(f"floorf({x})", "float", "f")
    frac = em.let(f"{x} - {base}", "float", "f")
    first = em.let(f"(index_t){base}")
    a = f"{float(op.attr('cubic_coeff_a', -0.75))!r}f"  # type: ignore[arg-type]
    weights = [
        em.let(f"ingot_cubic({frac} {shift}, {a})", "float", "w") for shift in ("+ 1.0f", "", "- 1.0f", "- 2.0f")
    ]
    places = [em.let(f"{first} + {k}") for k in (-1, 0, 1, 2)]
    if op.attr("exclude_outside", 0):
        kept = [
            em.let(f"{place} >= 0 && {place} < {size} ? {weight} : 0.0f", "float", "w")
            for place, weight in zip(places, weights, strict=True)
        ]
        total = em.let(" + ".join(kept), "float", "w")
        weights = [em.let(f"{weight} / {total}", "float", "w") for weight in kept]
    clamped = [coord(Name(em.let(f"ingot_clamp({place}, {size})"), axis.size)) for place in places]
    return [_Tap(place, weight) for place, weight in zip(clamped, weights, strict=True)]


def _blended(
    p: Puller, source: str, name: str, found: list[Coord], axes: Sequence[_Axis], taps: Sequence[Sequence[_Tap]]
) -> Val:
    """The weighted sum over the taps of every axis."""
    if not axes:
        return p.pull(source, tuple(found))
    terms = []
    for tap in taps[0]:
        place = [*found]
        place[axes[0].position] = tap.place
        terms.append((tap.weight, _blended(p, source, name, place, axes[1:], taps[1:])))
    return _weighted(p, name, terms)


def _weighted(p: Puller, name: str, terms: Sequence[tuple[str, Val]]) -> Val:
    em, dtype = p.em, p.spec(name).dtype
    kind = c_type(compute_dtype(dtype))
    code = " + ".join(f"{weight} * {value.computed('j')}" for weight, value in terms)
    if not any(value.lanes for _, value in terms):
        return Val(em.let(code, kind, "v"), dtype)
    result = em.fresh("v")
    em.line(f"{kind} {result}[{em.vector}];")
    em.each_lane(lambda j: f"{result}[{j}] = {code};")
    return Val(f"{result}[{{}}]", dtype, lanes=True)
