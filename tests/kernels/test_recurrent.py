"""``cuda.recurrent``: numerics on the CPU and the device against float64, refusals, machine code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.recurrent import Case, expected, inputs_of

from ingot.builder.targets import TARGETS
from ingot.graph.dims import evaluate
from ingot.graph.reference import run_region
from ingot.kernels.api import Kernel, Pdl, Program, Target
from ingot.kernels.cuda.nvrtc import compile_cuda
from ingot.kernels.cuda.recurrent.plan import RecurrentPlan, plan_recurrent
from ingot.kernels.cuda.recurrent.source import ENTRY, generate
from ingot.kernels.cuda.recurrent.tactic import TACTICS, candidates
from ingot.kernels.cuda.recurrent.tile import Form, Group, Held, RecurrentTile

RECURRENT = TACTICS[0]
_TOLERANCE = {"float32": 2e-6, "float16": 3e-3, "bfloat16": 2e-2}
_BOTH = ("direction", "bidirectional")
_BACK = ("direction", "reverse")
_AFTER = ("linear_before_reset", 1)
_FIRST = ("layout", 1)
_ODD = (
    ("activations", ("HardSigmoid", "ScaledTanh", "Softsign", "Sigmoid", "Affine", "Tanh")),
    ("activation_alpha", (0.3, 0.9, 0.8)),
    ("activation_beta", (0.4, 1.1, 0.1)),
    _BOTH,
)
LANES = [
    (Case("LSTM", 3, 5, 20, ("b", "h0", "c0", "p", "lengths"), attrs=(_BOTH,)), RecurrentTile(False, 1, 20, 8, 4, 2)),
    (Case("LSTM", 4, 3, 13, ("h0",), ("yh", "yc"), attrs=(("clip", 0.4), _BACK)), RecurrentTile(False, 2, 8, 1, 4, 1)),
    (Case("LSTM", 3, 2, 9, attrs=(("input_forget", 1), _FIRST)), RecurrentTile(False, 1, 12, 2, 8, 1)),
    (Case("LSTM", 2, 3, 9, attrs=_ODD), RecurrentTile(False, 1, 16, 4, 4, 4)),
    (Case("GRU", 3, 5, 20, ("b", "h0"), attrs=(_AFTER,)), RecurrentTile(False, 4, 8, 4, 4, 2)),
    (Case("GRU", 3, 5, 20, ("b", "h0", "lengths"), attrs=(_FIRST, _BOTH)), RecurrentTile(False, 1, 20, 8, 4, 8)),
    (Case("GRU", 3, 5, 20, dtype="float16", swapped=True), RecurrentTile(False, 2, 16, 4, 8, 2)),
    (Case("RNN", 4, 2, 7, (), ("y",), attrs=(("activations", ("Relu",)),)), RecurrentTile(False, 1, 8, 2, 4, 1)),
    (Case("RNN", 1, 1, 5, ("b",), ("yh",), dtype="bfloat16"), RecurrentTile(False, 1, 8, 1, 4, 1)),
]
TENSOR = [
    (Case("LSTM", 3, 18, 40, ("b", "h0", "c0", "p"), dtype="float16"), RecurrentTile(True, 2, 24, 32, 2)),
    (Case("LSTM", 3, 5, 20, ("h0", "lengths"), dtype="float16", attrs=(_BOTH,)), RecurrentTile(True, 1, 32, 16, 1)),
    (Case("GRU", 3, 3, 41, dtype="bfloat16", attrs=(_AFTER, _BACK)), RecurrentTile(True, 2, 24, 16, 3)),
    (Case("GRU", 3, 5, 20, ("b", "h0"), dtype="float16", attrs=(_FIRST,)), RecurrentTile(True, 4, 8, 16, 2)),
    (Case("RNN", 2, 17, 9, (), dtype="float16", swapped=True), RecurrentTile(True, 1, 16, 16, 1)),
]
CASES = [*LANES, *TENSOR]
_NAMES = [f"{case}-{'tensor' if tile.tensor else 'lanes'}" for case, tile in CASES]


def plan_of(case: Case) -> RecurrentPlan:
    plan = plan_recurrent(case.region())
    assert isinstance(plan, RecurrentPlan), plan
    return plan


def on_host(form: Form, arrays: list[np.ndarray], bindings: Mapping[str, int] | None = None) -> list[np.ndarray]:
    text, out = generate(form)
    cluster = form.tile.blocks if form.group is Group.CLUSTER else 1
    sizes = (form.grid, form.tile.threads, form.shared)
    kernel = Kernel(ENTRY, b"", *sizes, out.arguments, Pdl.NONE, cluster, form.group is Group.GRID)
    return run_on_host(text, Program((kernel,), form.workspaces), form.plan.region, arrays, bindings)


def check(case: Case, made: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    assert len(made) == len(wanted) == len(case.region().outputs)
    for result, truth in zip(made, wanted, strict=True):
        assert result.shape == truth.shape
        allowed = _TOLERANCE[case.dtype] * max(float(np.abs(truth).max()), 1.0)
        np.testing.assert_allclose(result.astype(np.float64), truth, rtol=0, atol=allowed)


@pytest.mark.parametrize("case", [case for case, _ in CASES], ids=str)
def test_the_body_is_onnx(case: Case) -> None:
    """What the simulator and the numeric gate take for the truth is what ONNX's equations say."""
    region = case.region()
    arrays = inputs_of(case, region)
    made = run_region(region, dict(zip(region.inputs, arrays, strict=True)), {}, high_precision=True)
    for name, truth in zip(region.outputs, expected(case, region, arrays), strict=True):
        np.testing.assert_allclose(made[name], truth, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(("case", "tile"), CASES, ids=_NAMES)
def test_on_the_host(case: Case, tile: RecurrentTile) -> None:
    form = Form(plan_of(case), tile, Target(90))
    arrays = inputs_of(case, form.plan.region)
    check(case, on_host(form, arrays), expected(case, form.plan.region, arrays))


@needs_compiler
def test_weights_stay_in_memory_where_shared_memory_is_small() -> None:
    target = replace(Target(90), shared_per_block=2500)
    for case, tile in ((LANES[4][0], RecurrentTile(False, 4, 8, 1, 4, 1)), (replace(LANES[4][0], hidden=21), None)):
        tile = tile or RecurrentTile(False, 2, 16, 1, 4, 1)
        form = Form(plan_of(case), tile, target)
        assert form.held is Held.MEMORY
        arrays = inputs_of(case, form.plan.region)
        check(case, on_host(form, arrays), expected(case, form.plan.region, arrays))


@needs_compiler
def test_weights_of_tensor_cores_in_shared_memory() -> None:
    case = Case("LSTM", 2, 3, 200, dtype="float16")
    form = Form(plan_of(case), RecurrentTile(True, 2, 104, 16, 1), Target(90))
    assert form.held is Held.SHARED
    arrays = inputs_of(case, form.plan.region)
    check(case, on_host(form, arrays), expected(case, form.plan.region, arrays))


@needs_compiler
@pytest.mark.parametrize("tensor", [False, True], ids=["lanes", "tensor"])
def test_groups_that_meet_at_counters_take_several_tiles(tensor: bool) -> None:
    case = Case("GRU", 3, "n", 20, ("b", "h0"), dtype="float16", attrs=(_BOTH,))
    tile = RecurrentTile(True, 4, 8, 16, 2) if tensor else RecurrentTile(False, 3, 8, 4, 4, 1)
    form = Form(plan_of(case), tile, replace(Target(80), sms=20))
    assert form.group is Group.GRID
    bindings = {"n": 51 if tensor else 13}
    assert evaluate(form.grid[1], bindings) < evaluate(form.tiles, bindings)
    arrays = inputs_of(case, form.plan.region, bindings)
    check(case, on_host(form, arrays, bindings), expected(case, form.plan.region, arrays))


@needs_compiler
def test_sizes_are_bound_late() -> None:
    case = Case("GRU", "t", "n", 12, ("b", "h0"), attrs=(_AFTER, _BOTH))
    form = Form(plan_of(case), RecurrentTile(False, 1, 16, 4, 4, 2), Target(90))
    for bindings in ({"t": 3, "n": 1}, {"t": 5, "n": 9}):
        arrays = inputs_of(case, form.plan.region, bindings)
        check(case, on_host(form, arrays, bindings), expected(case, form.plan.region, arrays))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_compiles_for_every_target(target: Target) -> None:
    sizes = {"t": 50, "n": 32}
    for case in (
        Case("GRU", "t", "n", 96, dtype="float16", attrs=(_AFTER,)),
        Case("LSTM", "t", 1, 128, ("b", "h0", "c0")),
    ):
        region = case.region()
        assert RECURRENT.accepts(region, target)
        for variant in RECURRENT.variants(region, target, sizes)[:2]:
            assert 0 < RECURRENT.estimate(region, variant, target, sizes) < 1
            program = RECURRENT.compile(region, variant, target)
            assert program.kernels[0].cubin[:4] == b"\x7fELF"


def test_no_variant_spills_much_or_asks_for_more_than_a_block_has() -> None:
    case, target = Case("GRU", "t", "n", 400, dtype="float16", attrs=(_AFTER,)), Target(90)
    plan = plan_of(case)
    tiles = [RecurrentTile.of(v) for v in RECURRENT.variants(plan.region, target, {"t": 100, "n": 32})]
    assert any(tile.tensor for tile in tiles)
    assert any(not tile.tensor for tile in tiles)
    for tile in [t for t in tiles if t.tensor][:2]:
        form = Form(plan, tile, target)
        compiled = compile_cuda(generate(form)[0], ENTRY, target)
        assert compiled.registers * tile.threads <= 65536
        assert compiled.spills < 128


def test_blocks_of_a_layer() -> None:
    plan = plan_of(Case("GRU", 100, 32, 400, dtype="float16"))
    for target in TARGETS:
        for tile in candidates(plan, target):
            form = Form(plan, tile, target)
            assert tile.blocks * tile.units >= 400
            assert tile.threads <= 1024
            assert form.shared <= target.shared_per_block
            assert form.group is not Group.CLUSTER or target.cc >= 90
            assert form.group is not Group.GRID or 1 <= tile.blocks * form.groups <= target.sms
            if tile.tensor:
                assert tile.blocks * tile.units >= 16 * form.depth_steps


def test_refusals() -> None:
    target = Target(90)
    assert "float64" in str(RECURRENT.accepts(Case("RNN", 2, 2, 4, dtype="float64").region(), target))
    unknown = Case("RNN", 2, 2, 4, attrs=(("activations", ("Gelu",)),)).region()
    assert "Gelu" in str(RECURRENT.accepts(unknown, target))
    whole = Case("RNN", 2, 2, 4).region()
    whole = replace(whole, ops=(replace(whole.ops[0], domain=""),))
    assert "product of its inputs" in str(RECURRENT.accepts(whole, target))


def check_on_the_device(case: Case, *, variants: int, repeats: int) -> None:
    target = device_target()
    if target is None:
        pytest.skip("no GPU")
    region = case.region()
    arrays = inputs_of(case, region)
    wanted = expected(case, region, arrays)
    for variant in RECURRENT.variants(region, target, {})[:variants]:
        program = RECURRENT.compile(region, variant, target)
        check(case, run_program(region, program, arrays, repeats=repeats), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [case for case, _ in CASES], ids=str)
def test_on_the_device(case: Case) -> None:
    check_on_the_device(case, variants=3, repeats=2)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        Case("GRU", 37, 33, 400, ("b", "h0"), dtype="float16", attrs=(_AFTER,)),
        Case("GRU", 21, 5, 400, ("b", "h0"), attrs=(_AFTER, _BOTH)),
        Case("GRU", 9, 18, 130, ("b", "h0", "lengths"), dtype="bfloat16"),
        Case("LSTM", 19, 17, 512, ("b", "h0", "c0", "p"), dtype="float16", attrs=(_BOTH,)),
        Case("LSTM", 7, 3, 1000, ("b", "lengths")),
        Case("RNN", 11, 40, 257, dtype="float16", attrs=(_FIRST, _BACK)),
    ],
    ids=str,
)
def test_large_layers_on_the_device(case: Case) -> None:
    check_on_the_device(case, variants=6, repeats=3)
