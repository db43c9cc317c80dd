"""``triton.attention``: numerics in Triton's interpreter and on the device, refusals, machine code for every target."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.interpreter import interpret
from support.regions import build_region, random_inputs

from ingot.graph.dims import Bindings, Dim
from ingot.graph.region import Attr, BodyOp, Kind, Region
from ingot.graph.tensor import Order, spec
from ingot.kernels.api import Pdl, Target
from ingot.kernels.triton.attention import TACTICS, plan_attention

ATTENTION = TACTICS[0]
HEADS_INSIDE: Order = (0, 2, 1, 3)
"""Memory order of (batch, position, head, feature), as projections make it."""


@dataclass(frozen=True)
class Case:
    name: str
    region: Region
    bindings: Bindings = field(default_factory=dict)


def attention(
    name: str,
    q: tuple[Dim, int, Dim, int],
    kv: tuple[int, Dim, int],
    *,
    values: int = 0,
    dtype: str = "float16",
    mask: tuple[Dim, ...] = (),
    mask_dtype: str = "",
    order: Order | None = None,
    bindings: Bindings | None = None,
    **attrs: Attr,
) -> Case:
    k_shape = (q[0], *kv)
    v_shape = (*k_shape[:3], values or kv[2])
    inputs = {"q": spec(dtype, q, order), "k": spec(dtype, k_shape, order), "v": spec(dtype, v_shape, order)}
    if mask:
        inputs["mask"] = spec(mask_dtype or dtype, mask)
    op = BodyOp("Attention", tuple(inputs), ("y",), tuple(attrs.items()))
    y = spec(dtype, (*q[:3], v_shape[3]), order)
    return Case(name, build_region(Kind.ATTENTION, inputs, [op], {"y": y}, ["y"]), bindings or {})


STEP = 0.02


def quantized(case: Case, dtype: str, zero: int = 0) -> Case:
    """The same with its result in bytes."""
    old = case.region
    result = replace(old.spec_of["y"], dtype=dtype)
    op = BodyOp("QuantizeLinear", ("y", "step", "zero"), ("bytes",))
    values, literals = (*old.values, ("bytes", result)), (("step", STEP), ("zero", zero))
    region = replace(old, outputs=("bytes",), ops=(*old.ops, op), values=values, literals=literals)
    return Case(f"{case.name}, {dtype}", region, case.bindings)


def expected(case: Case, inputs: list[np.ndarray]) -> np.ndarray:
    """The operator's definition, in float64."""
    op = case.region.ops[0]
    q, k, v = (a.astype(np.float64) for a in inputs[:3])
    if q.ndim == 3:
        heads, kv_heads = int(op.attr("q_num_heads")), int(op.attr("kv_num_heads"))  # type: ignore[arg-type]
        q = q.reshape(*q.shape[:2], heads, -1).swapaxes(1, 2)
        k, v = (a.reshape(*a.shape[:2], kv_heads, -1).swapaxes(1, 2) for a in (k, v))
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], 1) for a in (k, v))
    scale = float(op.attr("scale", 1 / math.sqrt(q.shape[-1])))  # type: ignore[arg-type]
    scores = q @ k.swapaxes(-1, -2) * scale
    if len(inputs) > 3:
        mask = inputs[3]
        scores = scores + (np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask.astype(np.float64))
    if op.attr("is_causal", 0):
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.swapaxes(1, 2).reshape(*inputs[0].shape[:2], -1) if inputs[0].ndim == 3 else y


def inputs_of(case: Case) -> list[np.ndarray]:
    """Random inputs; a truth-valued mask lets every query see at least the first key."""
    arrays = random_inputs(case.region, case.bindings)
    if len(arrays) > 3 and arrays[3].dtype == bool:
        arrays[3][..., 0] = True
    return arrays


def check(case: Case, actual: np.ndarray, inputs: list[np.ndarray]) -> None:
    want = expected(case, inputs)
    assert actual.shape == want.shape
    if case.region.literals:
        limits = np.iinfo(actual.dtype)
        steps = np.clip(want / STEP + int(case.region.literal_of["zero"]), limits.min, limits.max)  # type: ignore[arg-type]
        assert np.abs(actual - steps).max() <= 0.75 and np.mean(np.abs(actual - np.rint(steps))) < 0.1
        return
    tolerance = {np.dtype(np.float16): 3e-3, np.dtype(ml_dtypes.bfloat16): 2e-2, np.dtype(np.float32): 2e-5}[
        actual.dtype
    ]
    np.testing.assert_allclose(actual.astype(np.float64), want, rtol=tolerance, atol=tolerance)


def flat_heads() -> Case:
    inputs = {n: spec("float16", (2, 19, 3 * 16)) for n in "qkv"}
    op = BodyOp("Attention", ("q", "k", "v"), ("y",), (("kv_num_heads", 3), ("q_num_heads", 3)))
    return Case("rank 3", build_region(Kind.ATTENTION, inputs, [op], {"y": inputs["q"]}, ["y"]))


CASES = [
    attention("exact tiles", (1, 2, 64, 64), (2, 64, 64)),
    attention("odd lengths, heads inside", (2, 3, 37, 24), (3, 53, 24), order=HEADS_INSIDE),
    attention("other value width", (1, 2, 20, 16), (2, 40, 16), values=40),
    attention("causal", (1, 2, 50, 32), (2, 50, 32), is_causal=1),
    attention("causal, more keys", (1, 1, 20, 16), (1, 45, 16), is_causal=1),
    attention("additive mask of keys", (2, 2, 33, 32), (2, 48, 32), mask=(2, 1, 1, 48)),
    attention("additive full mask", (2, 2, 33, 32), (2, 41, 32), mask=(2, 2, 33, 41), mask_dtype="float32"),
    attention("bool mask", (1, 2, 33, 32), (2, 41, 32), mask=(33, 41), mask_dtype="bool"),
    attention("grouped queries, own scale", (1, 6, 17, 32), (2, 29, 32), scale=0.3),
    attention("bfloat16", (1, 2, 18, 64), (2, 64, 64), dtype="bfloat16"),
    attention("float32", (1, 2, 18, 32), (2, 40, 32), dtype="float32"),
    attention("symbolic", ("b", 2, "s", 32), (2, "s", 32), bindings={"b": 2, "s": 35}),
    flat_heads(),
    quantized(flat_heads(), "int8"),
    quantized(attention("heads inside", (2, 3, 37, 24), (3, 53, 24), order=HEADS_INSIDE), "uint8", 117),
]


# Triton's interpreter multiplies the bit patterns of bfloat16 blocks: that type is compiled here and run on devices.
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "bfloat16"], ids=lambda c: c.name)
def test_numerics_in_the_interpreter(case: Case) -> None:
    target = Target(80)
    assert ATTENTION.accepts(case.region, target), str(ATTENTION.accepts(case.region, target))
    inputs = inputs_of(case)
    variants = {(v["m"], v["n"]): v for v in ATTENTION.variants(case.region, target, case.bindings)}
    for variant in list(variants.values())[:2]:
        builder, grid = ATTENTION.builder(case.region, variant, target), ATTENTION.grid(case.region, variant)
        (actual,) = interpret(case.region, builder, grid, inputs, case.bindings)
        check(case, actual, inputs)


@pytest.mark.parametrize("cc", [75, 80, 86, 89, 90, 100, 120])
def test_compiles_for_every_target(cc: int) -> None:
    target = Target(cc)
    for case in (
        attention("bert", (1, 12, 128, 64), (12, 128, 64), mask=(1, 1, 1, 128)),
        CASES[11],
        CASES[9],
        CASES[-2],
    ):
        variant = ATTENTION.variants(case.region, target, case.bindings)[0]
        kernel = ATTENTION.compile(case.region, variant, target).kernels[0]
        assert kernel.cubin[:4] == b"\x7fELF"
        assert kernel.pdl is (Pdl.TRIGGERS if cc >= 90 else Pdl.NONE)


def test_refusals_say_why() -> None:
    target = Target(90)
    window = attention("window", (1, 1, 8, 16), (1, 8, 16), left_window_size=0)
    assert "windows" in str(ATTENTION.accepts(window.region, target))
    assert "softcap" in str(ATTENTION.accepts(attention("cap", (1, 1, 8, 16), (1, 8, 16), softcap=5.0).region, target))
    wide = attention("wide", (1, 1, 8, 512), (1, 8, 512)).region
    assert "512 features" in str(ATTENTION.accepts(wide, target))
    double = attention("double", (1, 1, 8, 16), (1, 8, 16), dtype="float64").region
    assert "float64" in str(ATTENTION.accepts(double, target))
    scaled = quantized(CASES[0], "int8").region
    assert "more than a quantization" in str(ATTENTION.accepts(replace(scaled, outputs=("y", "bytes")), target))
    eighth = quantized(CASES[0], "float8_e4m3fn").region
    assert ATTENTION.accepts(eighth, target) and "no FP8" in str(ATTENTION.accepts(eighth, Target(80)))
    bad = attention("mask", (1, 1, 8, 16), (1, 8, 16), mask=(1, 1, 8, 7)).region
    assert "broadcast" in str(ATTENTION.accepts(bad, target))
    assert "sm_75" in str(ATTENTION.accepts(CASES[0].region, Target(70)))


def test_rank_three_is_a_view_of_heads() -> None:
    plan = plan_attention(flat_heads().region)
    assert plan and plan.q.strides == (19 * 48, 16, 48, 1)  # type: ignore[union-attr]


def test_variants_fit_small_shared_memory() -> None:
    region = attention("wide", (1, 8, 512, 128), (8, 512, 128)).region
    for variant in ATTENTION.variants(region, Target(86), {}):
        assert (variant["m"] * 128 + variant["stages"] * variant["n"] * 256) * 2 <= 101376


@pytest.mark.gpu
@pytest.mark.skipif(device_target() is None, reason="no device")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_numerics_on_device(case: Case) -> None:
    target = device_target()
    assert target is not None
    inputs = inputs_of(case)
    for variant in ATTENTION.variants(case.region, target, case.bindings):
        program = ATTENTION.compile(case.region, variant, target)
        (actual,) = run_program(case.region, program, inputs, case.bindings)
        check(case, actual, inputs)
