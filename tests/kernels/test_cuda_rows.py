"""``cuda.rowwise`` and ``cuda.reduce``: numerics on the CPU and the device, refusals, machine code for every target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.regions import assert_close, build_region, random_inputs, reference

from ingot.graph.dims import Bindings
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Pdl, Target
from ingot.kernels.cuda.reduce import REDUCE
from ingot.kernels.cuda.rows.tactic import RowTactic
from ingot.kernels.cuda.rowwise import ROWWISE

HALF, SINGLE, DOUBLE = "float16", "float32", "float64"


def f(dtype: str, *shape: int | str, order: tuple[int, ...] | None = None, constant: bool = False) -> TensorSpec:
    return spec(dtype, shape, order, constant=constant)


@dataclass(frozen=True)
class Case:
    name: str
    region: Region
    bindings: Bindings = field(default_factory=dict)
    depth: int = 4


def row_case(
    name: str,
    inputs: Mapping[str, TensorSpec],
    ops: Sequence[BodyOp],
    inner: Mapping[str, TensorSpec],
    outputs: Sequence[str],
    literals: Mapping[str, object] | None = None,
    bindings: Bindings | None = None,
    kind: Kind = Kind.ROWWISE,
) -> Case:
    region = build_region(kind, inputs, ops, inner, outputs, literals)  # type: ignore[arg-type]
    return Case(name, region, bindings or {})


def softmax(name: str, x: TensorSpec, axis: int = -1, op: str = "Softmax", bindings: Bindings | None = None) -> Case:
    return row_case(name, {"x": x}, [BodyOp(op, ("x",), ("y",), (("axis", axis),))], {"y": x}, ["y"], bindings=bindings)


def masked_softmax() -> Case:
    x, mask = f(HALF, 2, 3, 5, 40), f(HALF, 2, 1, 1, 40)
    ops = [
        BodyOp("Mul", ("x", "scale"), ("scaled",)),
        BodyOp("Add", ("scaled", "mask"), ("shifted",)),
        BodyOp("Softmax", ("shifted",), ("y",), (("axis", -1),)),
    ]
    inner = {"scaled": x, "shifted": x, "y": x}
    return row_case("scaled and masked softmax", {"x": x, "mask": mask}, ops, inner, ["y"], {"scale": 0.125})


def mean_of_bins() -> Case:
    """A softmax over channels that lie innermost, and the sum of what it gives times a weight for each, and a bias."""
    last = (0, 2, 3, 1)
    x, row = f(HALF, 2, 16, 3, 5, order=last), f(HALF, 2, 1, 3, 5, order=last)
    ops = [
        BodyOp("Softmax", ("x",), ("s",), (("axis", 1),)),
        BodyOp("Mul", ("s", "w"), ("p",)),
        BodyOp("ReduceSum", ("p", "axes"), ("t",), (("keepdims", 1),)),
        BodyOp("Add", ("t", "b"), ("y",)),
    ]
    inputs = {"x": x, "w": f(HALF, 1, 16, 1, 1, constant=True)}
    return row_case("mean of bins", inputs, ops, {"s": x, "p": x, "t": row, "y": row}, ["y"], {"axes": (1,), "b": 0.5})


def residual_layer_norm(columns: int | str, bindings: Bindings | None = None, dtype: str = HALF) -> Case:
    x, vector = f(dtype, 2, 7, columns), f(dtype, columns, constant=True)
    ops = [
        BodyOp("Add", ("a", "b"), ("sum",)),
        BodyOp("LayerNormalization", ("sum", "scale", "bias"), ("y",), (("axis", -1), ("epsilon", 1e-5))),
    ]
    inputs = {"a": x, "b": x, "scale": vector, "bias": vector}
    name = f"residual layer norm {columns} {dtype}"
    return row_case(name, inputs, ops, {"sum": x, "y": x}, ["sum", "y"], bindings=bindings)


def layer_norm_of_two_axes() -> Case:
    x, scale = f(SINGLE, 3, 4, 6, 10), f(SINGLE, 4, 6, 10, constant=True)
    op = BodyOp("LayerNormalization", ("x", "scale"), ("y", "mean"), (("axis", 1), ("epsilon", 1e-3)))
    inner = {"y": x, "mean": f(SINGLE, 3, 1, 1, 1)}
    return row_case("layer norm with its mean", {"x": x, "scale": scale}, [op], inner, ["y", "mean"])


def channel_layer_norm() -> Case:
    """Normalises axis 1 of a channels-first tensor: rows lie side by side."""
    x = f(SINGLE, 2, 12, 5, 8)
    ops = [
        BodyOp("ReduceMean", ("x", "axes"), ("mean",)),
        BodyOp("Sub", ("x", "mean"), ("d",)),
        BodyOp("Mul", ("d", "d"), ("q",)),
        BodyOp("ReduceMean", ("q", "axes"), ("var",)),
        BodyOp("Add", ("var", "eps"), ("shifted",)),
        BodyOp("Sqrt", ("shifted",), ("root",)),
        BodyOp("Div", ("d", "root"), ("n",)),
        BodyOp("Mul", ("n", "scale"), ("y",)),
    ]
    one = f(SINGLE, 2, 1, 5, 8)
    inner = {"mean": one, "d": x, "q": x, "var": one, "shifted": one, "root": one, "n": x, "y": x}
    inputs = {"x": x, "scale": f(SINGLE, 12, 1, 1, constant=True)}
    return row_case("channel layer norm", inputs, ops, inner, ["y"], {"axes": (1,), "eps": 1e-5})


def channel_norm(op: str, x: TensorSpec, **attrs: float | int) -> Case:
    c = f(x.dtype, x.shape[1], constant=True)
    ops = [
        BodyOp(op, ("x", "s", "b"), ("n",), tuple(attrs.items())),
        BodyOp("Sigmoid", ("n",), ("g",)),
        BodyOp("Mul", ("n", "g"), ("y",)),
    ]
    return row_case(f"{op} {x.strides}", {"x": x, "s": c, "b": c}, ops, {"n": x, "g": x, "y": x}, ["y"])


def lp_norm(p: int) -> Case:
    x = f(SINGLE, 5, 33)
    op = BodyOp("LpNormalization", ("x",), ("y",), (("axis", -1), ("p", p)))
    return row_case(f"Lp norm {p}", {"x": x}, [op], {"y": x}, ["y"])


ROWS = [
    softmax("short rows", f(HALF, 6, 5)),
    softmax("odd rows", f(HALF, 3, 197)),
    softmax("vector rows", f(SINGLE, 2, 3, 128)),
    softmax("long rows", f(HALF, 2, 3000)),
    softmax("double", f(DOUBLE, 3, 50)),
    softmax("bfloat16", f("bfloat16", 3, 64)),
    softmax("one column", f(SINGLE, 4, 1)),
    softmax("channels of channels-first", f(HALF, 2, 9, 4, 8), 1),
    softmax("channels of channels-last", f(HALF, 2, 16, 3, 5, order=(0, 2, 3, 1)), 1),
    softmax("middle axis", f(SINGLE, 3, 7, 5), 1, "LogSoftmax"),
    softmax("log softmax", f(SINGLE, 4, 70), -1, "LogSoftmax"),
    softmax("symbolic rows", f(HALF, "n", 24), bindings={"n": 5}),
    softmax("symbolic columns", f(SINGLE, 4, "n"), bindings={"n": 37}),
    masked_softmax(),
    mean_of_bins(),
    residual_layer_norm(768),
    residual_layer_norm(50),
    residual_layer_norm(2100, dtype=SINGLE),
    residual_layer_norm("c", {"c": 90}),
    layer_norm_of_two_axes(),
    channel_layer_norm(),
    channel_norm("InstanceNormalization", f(SINGLE, 2, 3, 5, 7), epsilon=1e-4),
    channel_norm("InstanceNormalization", f(HALF, 2, 8, 5, 7, order=(0, 2, 3, 1))),
    channel_norm("GroupNormalization", f(SINGLE, 2, 6, 4, 4), num_groups=3),
    channel_norm("GroupNormalization", f(HALF, 2, 8, 3, 3, order=(0, 2, 3, 1)), num_groups=2),
    lp_norm(1),
    lp_norm(2),
]


def reduce_case(
    op: str,
    x: TensorSpec,
    axes: tuple[int, ...] | None,
    keepdims: int = 1,
    *,
    epilogue: bool = False,
    prologue: bool = False,
    bindings: Bindings | None = None,
    **attrs: int,
) -> Case:
    rank = x.rank
    literals: dict[str, object] = {}
    names: tuple[str, ...] = ("p" if prologue else "x",)
    attributes = tuple({"keepdims": keepdims, **attrs}.items())
    if op.startswith("Arg"):
        assert axes is not None
        attributes = (*attributes, ("axis", axes[0]))
    elif op.startswith("Global"):
        axes, attributes = tuple(range(2, rank)), ()
    elif axes is not None:
        literals["axes"] = axes
        names = (*names, "axes")
    over = {a % rank for a in axes} if axes is not None else set(range(rank))
    shape = tuple(1 if a in over else d for a, d in enumerate(x.shape) if keepdims or a not in over)
    dtype = "int64" if op.startswith("Arg") else x.dtype
    result = spec(dtype, shape)
    inputs, inner = {"x": x}, {"r": result}
    ops = [BodyOp(op, names, ("r",), attributes)]
    if prologue:
        inputs["z"], inner["p"] = x, x
        ops.insert(0, BodyOp("Mul", ("x", "z"), ("p",)))
    outputs = ["r"]
    if epilogue:
        inputs["extra"], inner["s"], inner["y"] = result, result, result
        ops += [BodyOp("Add", ("r", "extra"), ("s",)), BodyOp("Relu", ("s",), ("y",))]
        outputs = ["y"]
    name = f"{op} {x.dtype}{x.shape} {axes} {keepdims} {attrs}{' epilogue' * epilogue}{' prologue' * prologue}"
    case = row_case(name, inputs, ops, inner, outputs, literals, bindings, Kind.REDUCE)
    return replace(case, depth=math.prod(d for d in x.shape if isinstance(d, int)))


LAST = (0, 2, 3, 1)
REDUCTIONS = [
    reduce_case("ReduceSum", f(SINGLE, 3, 40), (1,)),
    reduce_case("ReduceMean", f(HALF, 3, 5, 64), (-1,), 0, epilogue=True),
    reduce_case("ReduceMean", f(HALF, 2, 32, 7, 7, order=LAST), (2, 3), 1, epilogue=True),
    reduce_case("GlobalAveragePool", f(HALF, 2, 24, 7, 7, order=LAST), None),
    reduce_case("GlobalAveragePool", f(SINGLE, 2, 5, 7, 3), None),
    reduce_case("GlobalMaxPool", f(HALF, 2, 6, 5, 4), None),
    reduce_case("ReduceMax", f(SINGLE, 4, 6, 5), (0,), 0),
    reduce_case("ReduceMin", f(SINGLE, 4, 6, 5), (0, 2), 0),
    reduce_case("ReduceProd", f(DOUBLE, 3, 4), (1,)),
    reduce_case("ReduceL1", f(SINGLE, 3, 20), (1,), prologue=True),
    reduce_case("ReduceL2", f(SINGLE, 3, 20), (0,)),
    reduce_case("ReduceSumSquare", f(SINGLE, 3, 4, 20), (0, 2)),
    reduce_case("ReduceLogSumExp", f(SINGLE, 3, 20), (1,), 0, epilogue=True),
    reduce_case("ReduceSum", f("int32", 5, 9), (1,)),
    reduce_case("ReduceMean", f("int32", 5, 9), (0,), 0),
    reduce_case("ReduceMax", f("uint8", 5, 33), (1,)),
    reduce_case("ReduceSum", f("int64", 5, 9), None, 0),
    reduce_case("ArgMax", f(SINGLE, 4, 50), (1,), 0),
    reduce_case("ArgMin", f("int32", 4, 50), (1,), 1, select_last_index=1),
    reduce_case("ArgMax", f("int32", 6, 50), (0,), 1, select_last_index=1),
    reduce_case("ArgMax", f(HALF, 2, 20, 3, 4), (1,), 0),
    reduce_case("ReduceSum", f(SINGLE, 1, 30000), (1,)),
    reduce_case("ReduceMean", f(SINGLE, "n", 16, 6, 6), (2, 3), bindings={"n": 3}),
    reduce_case("ReduceSum", f(HALF, 4, "w"), (1,), bindings={"w": 45}),
    reduce_case("ReduceSum", f(SINGLE, 20000, 8), (0,), 0, epilogue=True, prologue=True),
    reduce_case("ReduceSum", f(SINGLE, 3, 2, 4, 5), (0, 2, 3), 0, epilogue=True),
]
CASES = [*ROWS, *REDUCTIONS]


def tactic_of(region: Region) -> RowTactic:
    return ROWWISE if region.kind is Kind.ROWWISE else REDUCE


def check(case: Case, actual: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> None:
    for name, have, want in zip(
        case.region.outputs, actual, reference(case.region, inputs, case.bindings), strict=True
    ):
        assert_close(have, want, dtype=case.region.spec_of[name].dtype, depth=case.depth)


def inputs_of(case: Case) -> list[np.ndarray]:
    """Random inputs; those of long sums are multiples of 1/8, so that every order of summation is exact."""
    arrays = random_inputs(case.region, case.bindings)
    return [np.round(a * 8) / 8 if case.depth > 1000 and a.dtype.kind == "f" else a for a in arrays]


def spread(items: Sequence[object], count: int) -> list[object]:
    """The first of ``items`` and others evenly spaced."""
    step = max(len(items) // count, 1)
    return list(items[::step])[:count]


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_host(case: Case) -> None:
    tactic, target = tactic_of(case.region), Target(80)
    assert tactic.accepts(case.region, target), str(tactic.accepts(case.region, target))
    inputs = inputs_of(case)
    variants = tactic.variants(case.region, target, case.bindings)
    assert variants
    for variant in spread(variants, 3):
        source = tactic.source(case.region, variant, target)
        program = tactic.compile(case.region, variant, target)
        check(case, run_on_host(source, program, case.region, inputs, case.bindings), inputs)


@needs_compiler
@pytest.mark.parametrize("case", [REDUCTIONS[-5], REDUCTIONS[-2]], ids=lambda c: c.name)
def test_split_rows_on_host(case: Case) -> None:
    target = Target(90)
    split = [v for v in REDUCE.variants(case.region, target, case.bindings) if v["splits"] > 1]
    assert split
    inputs = inputs_of(case)
    for variant in spread(split, 2):
        program = REDUCE.compile(case.region, variant, target)
        assert len(program.kernels) == 2 and program.workspaces and program.deterministic
        source = REDUCE.source(case.region, variant, target)
        check(case, run_on_host(source, program, case.region, inputs), inputs)


@pytest.mark.parametrize("cc", [75, 80, 86, 87, 89, 90, 100, 110, 120])
def test_compiles_for_every_target(cc: int) -> None:
    target = Target(cc)
    for case in (residual_layer_norm(768), channel_layer_norm(), REDUCTIONS[-2]):
        tactic = tactic_of(case.region)
        program = tactic.compile(case.region, tactic.variants(case.region, target, case.bindings)[0], target)
        assert all(k.pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE) for k in program.kernels)
        assert all(k.cubin[:4] == b"\x7fELF" for k in program.kernels)


def test_refusals_say_why() -> None:
    x = f(SINGLE, 4, 6)
    two = row_case(
        "two axes",
        {"x": x},
        [BodyOp("Softmax", ("x",), ("a",), (("axis", 0),)), BodyOp("Softmax", ("a",), ("y",), (("axis", 1),))],
        {"a": x, "y": x},
        ["y"],
    )
    assert "different axes" in str(ROWWISE.accepts(two.region, Target(90)))
    op = BodyOp("Resize", ("x",), ("a",))
    other = row_case("resize", {"x": x}, [op, BodyOp("Softmax", ("a",), ("y",))], {"a": x, "y": x}, ["y"])
    assert "Resize" in str(ROWWISE.accepts(other.region, Target(90)))
    assert not REDUCE.accepts(softmax("s", x).region, Target(90))


def test_estimates_grow_with_work() -> None:
    small, large = residual_layer_norm(768).region, softmax("big", f(HALF, 100000, 768)).region
    target = Target(90)
    times = [ROWWISE.estimate(r, ROWWISE.variants(r, target, {})[0], target, {}) for r in (small, large)]
    assert 1e-6 < times[0] < 1e-5 < times[1]


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    tactic, inputs = tactic_of(case.region), inputs_of(case)
    for variant in spread(tactic.variants(case.region, target, case.bindings), 8):
        program = tactic.compile(case.region, variant, target)
        check(case, run_program(case.region, program, inputs, case.bindings), inputs)
