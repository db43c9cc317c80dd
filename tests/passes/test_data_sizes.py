"""Sizes that depend on data and have a bound: what runs on the device behind the op that decides them."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.builder.api import build_engine, build_hollow
from ingot.engine.file import EngineFile
from ingot.errors import IngotError
from ingot.measure.reference import Reference
from ingot.options import BuildOptions, parse_shapes
from ingot.plan.spec import DataSize, Plan
from ingot.simulate.simulator import Simulator

SHAPES = parse_shapes(["x=2x64:8x64:16x64"])
OPTIONS = BuildOptions(target="sm_90", shapes=SHAPES, opt_level=0)
OPTIONS_FIXED = BuildOptions(target="sm_90", opt_level=0)
CHOICES = {
    "NonZero": [("NonZero", ["m"], ["nz"], {}), ("Squeeze", ["nz", "zero"], ["i"], {})],
    "Compress": [("Compress", ["r", "m"], ["g"], {"axis": 0})],
    "Unique": [("Cast", ["m"], ["mi"], {"to": TensorProto.INT64}), ("Unique", ["mi"], ["i"], {})],
    "TopK": [
        ("Cast", ["m"], ["mi"], {"to": TensorProto.INT64}),
        ("ReduceSum", ["mi"], ["k"], {"keepdims": 1}),
        ("TopK", ["s", "k"], ["top", "i"], {}),
    ],
}


def network(choice: str, *tail: tuple[str, list[str], list[str]]) -> onnx.ModelProto:
    """Rows of x that ``choice`` picks by their sums, through a product unless ``tail`` is something else."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((64, 32)).astype(np.float32),
        "one": np.array([1], np.int64), "zero": np.array([0], np.int64), "half": np.array(0, np.float32),
        "wq": rng.integers(-127, 128, (64, 32)).astype(np.int8), "step": np.array(0.03, np.float32),
        "none": np.array(0, np.int8),
    }  # fmt: skip
    rows = [("Relu", ["x"], ["r"], {}), ("ReduceSum", ["x", "one"], ["s"], {"keepdims": 0})]
    rows += [("Greater", ["s", "half"], ["m"], {}), *CHOICES[choice]]
    if choice != "Compress":
        rows.append(("Gather", ["r", "i"], ["g"], {"axis": 0}))
    tail = tail or (("MatMul", ["g", "w"], ["h"]), ("Sigmoid", ["h"], ["y"]))
    nodes = [helper.make_node(op, ins, outs, name=f"{op}_{i}", **a) for i, (op, ins, outs, a) in enumerate(rows)]
    nodes += [helper.make_node(op, ins, outs, name=f"{op}_t{i}") for i, (op, ins, outs) in enumerate(tail)]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def feeds(n: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((n, 64)).astype(np.float32)}


def kinds(plan: Plan) -> dict[str, str]:
    return {step.name: step.kind for step in plan.steps}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_follows_runs_on_the_device_at_the_real_size(choice: str) -> None:
    model = network(choice)
    engine = EngineFile.from_bytes(build_hollow(model, OPTIONS).to_bytes())
    (size,) = engine.plan.data
    assert size.max == 16 and sum(kind == "host" for kind in kinds(engine.plan).values()) == 1
    assert any("MatMul" in region.ops and region.kind != "host" for region in engine.plan.regions)
    sizes = set()
    for n, seed in ((2, 0), (9, 1), (16, 2)):
        given = feeds(n, seed)
        made, wanted = Simulator(engine).run(given, seed=seed)["y"], Reference(model).run(given)["y"]
        assert made.shape == wanted.shape and np.allclose(made, wanted, rtol=1e-4, atol=1e-5)
        sizes.add(made.shape[0])
    if choice not in ("Unique", "TopK"):  # the latter two are never empty, or not by these
        nothing = {"x": -np.ones((5, 64), np.float32)}
        assert Simulator(engine).run(nothing)["y"].shape == (0, 32)
    assert len(sizes) > 1


def test_a_quantized_product_is_heavy_too() -> None:
    tail = (
        ("QuantizeLinear", ["g", "step", "none"], ["q"]),
        ("DequantizeLinear", ["q", "step", "none"], ["d"]),
        ("DequantizeLinear", ["wq", "step", "none"], ["wd"]),
        ("MatMul", ["d", "wd"], ["y"]),
    )
    model = network("NonZero", *tail)
    engine = EngineFile.from_bytes(build_hollow(model, OPTIONS).to_bytes())
    assert len(engine.plan.data) == 1 and sum(kind == "host" for kind in kinds(engine.plan).values()) == 1
    assert any("MatMulInteger" in region.ops and region.kind != "host" for region in engine.plan.regions)
    made, wanted = Simulator(engine).run(feeds(9, 1))["y"], Reference(model).run(feeds(9, 1))["y"]
    assert made.shape == wanted.shape and np.allclose(made, wanted, rtol=1e-4, atol=1e-4)


def test_kernels_are_built_for_such_sizes() -> None:
    engine = build_engine(network("NonZero"), OPTIONS)
    assert [d.symbol in str(engine.plan.outputs[0].shape) for d in engine.plan.data] == [True]
    assert all(step.cubin >= 0 for step in engine.plan.steps if step.kind == "kernel")


def test_without_heavy_work_the_rest_stays_on_the_host() -> None:
    engine = build_hollow(network("NonZero", ("Sigmoid", ["g"], ["y"])), OPTIONS)
    assert not engine.plan.data and engine.plan.steps[-1].kind == "host"


def test_what_makes_something_out_of_nothing_stays_on_the_host() -> None:
    """A product over the chosen rows has a result even where none is chosen."""
    tail = (("Transpose", ["g"], ["t"]), ("MatMul", ["t", "g"], ["y"]))
    engine = build_hollow(network("Compress", *tail), OPTIONS)
    assert not engine.plan.data
    given = {"x": -np.ones((3, 64), np.float32)}
    assert np.array_equal(Simulator(engine).run(given)["y"], np.zeros((64, 64), np.float32))


def test_a_file_with_wrong_sizes_is_refused() -> None:
    engine = build_hollow(network("NonZero"), OPTIONS)
    plan, (size,) = engine.plan, engine.plan.data

    def refused(reason: str, **changes: object) -> None:
        bad = msgspec.structs.replace(plan, **changes)
        with pytest.raises(IngotError, match=reason):
            EngineFile(bad, engine.weights, engine.cubins, engine.models).to_bytes()

    def sizes(**changes: object) -> list[DataSize]:
        return [msgspec.structs.replace(size, **changes)]

    refused("not the size of its value", data=sizes(axis=0))
    refused("does not exist", data=sizes(value=999))
    refused("sizes up to", data=sizes(max=0))
    refused("two symbols", data=[size, size])
    maker = next(i for i, step in enumerate(plan.steps) if step.kind == "host")
    early = [msgspec.structs.replace(s, after=[a for a in s.after if a != maker]) for s in plan.steps]
    refused("before it is known", steps=early)
    product = next(i for i, v in enumerate(plan.values) if v.shape[:1] == [size.symbol])
    refused("no host step makes", data=sizes(value=product, axis=0))


def test_the_head_behind_non_maximum_suppression() -> None:
    """A two-stage detector in small: features of the kept boxes through a product."""
    rng = np.random.default_rng(0)
    stored = {
        "most": np.array([20], np.int64), "iou": np.array([0.5], np.float32), "score": np.array([0.3], np.float32),
        "two": np.array(2, np.int64), "zero": np.array([0], np.int64),
        "w": rng.standard_normal((64, 32)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "score"], ["chosen"]),
        helper.make_node("Gather", ["chosen", "two"], ["i"], axis=1),
        helper.make_node("Squeeze", ["features", "zero"], ["f"]),
        helper.make_node("Gather", ["f", "i"], ["g"], axis=0),
        helper.make_node("MatMul", ["g", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"], axis=-1),
    ]
    shapes = {"boxes": [1, 50, 4], "scores": [1, 3, 50], "features": [1, 50, 64]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", ends, [out], [numpy_helper.from_array(a, n) for n, a in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    engine = build_hollow(model, OPTIONS_FIXED)
    assert [size.max for size in engine.plan.data] == [60]
    for seed, loud in ((0, 1.0), (1, 0.4), (2, 0.2)):
        rng = np.random.default_rng(seed)
        corner = rng.random((1, 50, 2))
        given = {
            "boxes": np.concatenate([corner, corner + 0.2], 2).astype(np.float32),
            "scores": (loud * rng.random((1, 3, 50))).astype(np.float32),
            "features": rng.standard_normal((1, 50, 64)).astype(np.float32),
        }
        made, wanted = Simulator(engine).run(given, seed=seed)["y"], Reference(model).run(given)["y"]
        assert made.shape == wanted.shape and np.allclose(made, wanted, rtol=1e-4, atol=1e-5)
        assert (made.shape[0] == 0) == (loud == 0.2)
