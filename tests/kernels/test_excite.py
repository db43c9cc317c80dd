"""``cuda.excite``: numerics on the CPU, clusters included, refusals, machine code for targets that have clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.excites import CASES, NHWC, RELU, excite_inputs, excite_region
from support.host_cuda import check_on_host, needs_compiler
from support.regions import Op, reference, refused

from ingot.errors import No
from ingot.graph.region import BodyOp, Region
from ingot.graph.tensor import TensorSpec, spec
from ingot.kernels.api import Input, Kernel, Output, Scratch, Target
from ingot.kernels.cuda.excite.apart import FourTactic, parts_of
from ingot.kernels.cuda.excite.forms import forms
from ingot.kernels.cuda.excite.plan import ExcitePlan, plan_excite
from ingot.kernels.cuda.excite.source import ENTRY
from ingot.kernels.cuda.excite.tactic import ExciteTactic
from ingot.kernels.table import TACTICS
from ingot.tune.candidates import candidates as offered
from ingot.tune.oracle import expected

EXCITE = ExciteTactic()
FOUR = FourTactic()
SM90 = Target(90)
MOST_FIBRES = 1024
"""Threads of a cluster that are emulated side by side."""


def check(region: Region, bindings: dict[str, int] | None = None) -> None:
    inputs = excite_inputs(region, bindings)
    wanted = reference(region, inputs, bindings)
    plan = plan_excite(region)
    assert isinstance(plan, ExcitePlan)
    fitting = [f for f in forms(plan, SM90) if f.cluster * f.threads <= MOST_FIBRES]
    for form in fitting[:: max(1, len(fitting) // 3)]:
        variant = form.variant(EXCITE.name)
        source = EXCITE.source(region, variant)
        kernel = Kernel(
            ENTRY, b"", (source.grid, 1, 1), variant["threads"], 0, source.arguments, cluster=variant["cluster"]
        )
        check_on_host(variant, kernel, source, region, inputs, wanted[0], bindings, depth=4)


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_numerics_on_the_host(name: str) -> None:
    assert EXCITE.accepts(CASES[name], SM90)
    check(CASES[name])


@needs_compiler
def test_symbolic_batch() -> None:
    check(excite_region(("n", 48, 7, 7), 12), {"n": 3})


def test_variants_have_clusters_of_several_sizes() -> None:
    variants = EXCITE.variants(excite_region((1, 96, 56, 56), 4), SM90, {})
    assert {v["cluster"] for v in variants} == {8, 16}  # 600 KB do not fit in the registers of two blocks
    small = EXCITE.variants(excite_region((1, 96, 2, 2), 4), SM90, {})
    assert len({v["cluster"] for v in small}) > 1 and 1 in {v["cluster"] for v in small}
    times = [EXCITE.estimate(excite_region((1, 96, 56, 56), 4), v, SM90, {}) for v in variants]
    assert times == sorted(times)


def test_the_mean_is_whole_where_something_follows_it() -> None:
    cast = excite_region((1, 64, 14, 14), 4)
    halved = Op("Mul", ("m", "half"), "mh")
    region = replace(
        cast,
        ops=(cast.ops[0], BodyOp(halved.op, halved.inputs, (halved.output,)),
             replace(cast.ops[1], inputs=("mh", *cast.ops[1].inputs[1:])), *cast.ops[2:]),
        values=(*cast.values, ("mh", cast.spec_of["m"])), literals=(*cast.literals, ("half", 0.5)),
    )  # fmt: skip
    assert {v["parts"] for v in EXCITE.variants(region, SM90, {})} == {1}
    assert {v["parts"] for v in EXCITE.variants(cast, SM90, {})} - {1}
    check(region)


def test_refusals() -> None:
    def reason(region: Region, target: Target = SM90) -> str:
        answer = EXCITE.accepts(region, target)
        assert not answer
        return answer.reason

    assert "clusters" in reason(CASES["efficientnet"], Target(89))
    assert "does not fit" in reason(excite_region((1, 512, 112, 112), 8))
    assert "16 bytes" in reason(excite_region((1, 12, 8, 8), 4))
    assert "symbolic" in reason(excite_region((1, 16, "h", 8), 4))  # type: ignore[arg-type]
    assert "innermost" in reason(excite_region((1, 16, 8, 8), 4, source=spec("float16", (1, 16, 8, 8))))
    gaps = TensorSpec("float16", (1, 16, 8, 8), (4096, 1, 256, 16))
    assert "gaps" in reason(excite_region((1, 16, 8, 8), 4, source=gaps))
    other = excite_region((1, 16, 8, 8), 4, act=(Op("Mul", ("h", "b1"), "ha"),))
    assert "another tensor" in reason(other)
    plain = CASES["efficientnet"]
    computed = plain.with_specs({"b2": replace(plain.spec_of["b2"], constant=False)})
    assert "not constant" in reason(computed), "biases are read before the kernel waits"
    assert "into float32" in reason(excite_region((1, 16, 8, 8), 4, result=spec("float32", (1, 16, 8, 8), NHWC)))


@pytest.mark.parametrize("cc", [90, 100, 120])
def test_machine_code(cc: int) -> None:
    target = Target(cc, shared_per_block=101376 if cc == 120 else 232448)
    region = excite_region((8, 96, 14, 14), 24, act=RELU)
    variants = EXCITE.variants(region, target, {})
    for variant in (variants[0], min(variants, key=lambda v: v["cluster"])):
        (kernel,) = EXCITE.compile(region, variant, target).kernels
        assert kernel.cluster == variant["cluster"] and kernel.cubin[:4] == b"\x7fELF"


def test_samples_and_reference_suit_the_gate() -> None:
    for name in ("efficientnet", "a mean by axes"):
        made = expected(CASES[name].canonical, {}, tf32=False)
        assert len(made.inputs) == len(CASES[name].inputs) and len(made.gates) == 1


def test_plan_names_the_parts() -> None:
    plan = plan_excite(CASES["mobilenet"])
    assert not hasattr(plan, "reason")
    assert (plan.channels, plan.hidden, plan.pixels, plan.vector) == (72, 24, 35, 8)
    assert [op.op for op in plan.hidden_ops] == ["Relu"] and [op.op for op in plan.gate_ops] == ["HardSigmoid"]


@pytest.mark.parametrize("name", ["efficientnet", "mobilenet", "a mean by axes", "no biases", "float32"])
def test_four_kernels_compute_the_same(name: str) -> None:
    region = CASES[name]
    inputs = excite_inputs(region)
    parts = parts_of(region)
    assert not isinstance(parts, No)
    known = dict(zip(region.inputs, inputs, strict=True))
    for part in parts:
        (made,) = reference(part, [known[n] for n in part.inputs])
        known[part.outputs[0]] = made.astype(np.float32)
    np.testing.assert_allclose(known["y"], reference(region, inputs)[0], rtol=1e-5, atol=1e-6)


def test_four_kernels_hand_over_in_workspaces() -> None:
    region = excite_region((1, 32, 112, 112), 8)
    variant = next(v for v in FOUR.variants(region, SM90, {}) if v["mean.splits"] > 1)
    program = FOUR.compile(region, variant, SM90)
    assert [k.entry for k in program.kernels] == ["ingot_rows", "ingot_finish", "ingot_gemv", "ingot_gemv", "ingot_map"]
    assert [w.bytes for w in program.workspaces[:3]] == [2 * 32, 2 * 8, 2 * 32] and len(program.workspaces) == 4
    read = [{a for a in kernel.arguments if isinstance(a, Scratch | Input)} for kernel in program.kernels]
    number = {name: Input(i) for i, name in enumerate(region.inputs)}
    assert read[0] == {number["x"], Scratch(3)} and read[1] == {Scratch(3), Scratch(0)}
    assert read[2] == {number["w1"], number["b1"], Scratch(0), Scratch(1)}
    assert read[3] == {number["w2"], number["b2"], Scratch(1), Scratch(2)}
    assert read[4] == {number["x"], Scratch(2)} and Output(0) in program.kernels[4].arguments


def test_both_are_measured() -> None:
    for batch in (1, 32):
        region = excite_region((batch, 672, 7, 7), 28)
        found = {one.variant.tactic for one in offered(region, SM90, {}, TACTICS).shortlist(3)}
        assert found == {EXCITE.name, FOUR.name}
    assert "clusters" in refused(FOUR, CASES["efficientnet"], Target(80))
