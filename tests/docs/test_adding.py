"""The examples of docs/adding.md work, or stand in the code as they stand there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from support.gpu import device_target, run_program
from support.host_cuda import needs_compiler, run_on_host
from support.snippets import ROOT, block_with, python_blocks, run_block

from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import channels_last, spec
from ingot.kernels.api import Target
from ingot.passes import pipeline
from ingot.tune.candidates import candidates, first_acceptance

PAGE = "docs/adding.md"
SOURCES = ROOT / "src" / "ingot"


def negations(count: int) -> ir.Model:
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [4]) for i in (0, count)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 0), (3, 1), (4, 0)])
def test_the_pass(count: int, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, object] = {}
    run_block(block_with(PAGE, "def drop_double_negation"), names)
    added = pipeline.Pass("double_negation", names["drop_double_negation"])  # type: ignore[arg-type]
    monkeypatch.setattr(pipeline, "PASSES", (added,))
    canonical = pipeline.canonicalise(negations(count), fp16=False)
    assert [node.op_type for node in canonical.model.graph].count("Neg") == left
    dropped = [note for note in canonical.notes if note.startswith("double_negation: ")]
    assert bool(dropped) == (count > 1)
    x = np.arange(4, dtype=np.float32)
    (made,) = onnx.reference.ReferenceEvaluator(ir.to_proto(canonical.model)).run(None, {"v0": x})
    assert np.array_equal(made, x if count % 2 == 0 else -x)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("def _softsign", "graph/scalar_ops.py"),
        ('"Softsign": ', "graph/scalar_ops.py"),
        ('"Tile": (1,)', "graph/op_table.py"),
        ('"Tile": tile', "kernels/cuda/maps/moves.py"),
        ("def tile", "kernels/cuda/maps/pieces.py"),
    ],
)
def test_excerpts_stand_in_the_code(text: str, file: str) -> None:
    assert block_with(PAGE, text) in (SOURCES / file).read_text()


def relu(shape: tuple[int | str, ...]) -> Region:
    tensor = spec("float32", shape)
    op = BodyOp("Relu", ("x",), ("y",))
    return Region(Kind.MAP, "relu", ("x",), ("y",), (op,), (("x", tensor), ("y", tensor)))


@pytest.fixture(scope="module")
def tactic() -> dict[str, object]:
    names: dict[str, object] = {"__name__": "example"}
    run_block(block_with(PAGE, "class ReluTactic"), names)
    return names


@needs_compiler
@pytest.mark.parametrize("size", [1, 1000])
def test_the_tactic_on_the_host(tactic: dict[str, object], size: int) -> None:
    region, target, made = relu(("n", 3)), Target(90), tactic["RELU"]
    assert first_acceptance(region, target, (made,))  # type: ignore[arg-type]
    offered = candidates(region, target, {"n": size}, (made,)).ranked  # type: ignore[arg-type]
    assert len(offered) == 2 and all(c.seconds > 0 for c in offered)
    x = np.random.default_rng(0).standard_normal((size, 3)).astype(np.float32)
    for candidate in offered:
        program = candidate.tactic.compile(region, candidate.variant, target)
        (y,) = run_on_host(str(tactic["_SOURCE"]), program, region, [x], {"n": size})
        assert np.array_equal(y, np.maximum(x, 0))


@pytest.mark.gpu
def test_the_tactic_on_the_device(tactic: dict[str, object]) -> None:
    region, target, made = relu(("n", 3)), device_target(), tactic["RELU"]
    assert target is not None
    x = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    (candidate, _) = candidates(region, target, {"n": 1000}, (made,)).ranked  # type: ignore[arg-type]
    program = candidate.tactic.compile(region, candidate.variant, target)
    (y,) = run_program(region, program, [x], {"n": 1000})
    assert np.array_equal(y, np.maximum(x, 0))


def test_the_tactics_refusals(tactic: dict[str, object]) -> None:
    region, made = relu((2, 3)), tactic["RELU"]

    def reason(changed: Region) -> str:
        return str(first_acceptance(changed, Target(90), (made,)))  # type: ignore[arg-type]

    assert "not a Relu alone" in reason(replace(region, ops=(BodyOp("Neg", ("x",), ("y",)),)))
    assert "type float16" in reason(region.with_specs({"x": spec("float16", (2, 3))}))
    image = relu((2, 3, 4, 5))
    assert "not dense" in reason(image.with_specs({"x": spec("float32", (2, 3, 4, 5), channels_last(4))}))


def test_every_example_is_covered() -> None:
    assert len(python_blocks(PAGE)) == 7
