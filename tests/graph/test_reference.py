"""The host reference of Regions: types of literals, widened halves, symbolic parameters, what ONNX Runtime lacks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.regions import build_region, conv_region, random_inputs

from ingot.errors import IngotError
from ingot.graph.reference import region_model, run_region
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import spec


def unary(op: str, dtype: str, **attrs: int) -> Region:
    value = spec(dtype, (3, 4))
    return build_region(Kind.MAP, {"x": value}, [BodyOp(op, ("x",), ("y",), tuple(attrs.items()))], {"y": value}, ["y"])


def run(region: Region, *arrays: np.ndarray, precise: bool = False, **bindings: int) -> np.ndarray:
    feeds = dict(zip(region.inputs, arrays, strict=True))
    return run_region(region, feeds, bindings, high_precision=precise)[region.outputs[0]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_once(dtype: str) -> None:
    region = conv_region((1, 8, 5, 5), (8, 8, 3, 3), dtype=dtype)
    arrays = random_inputs(region)
    precise = run(region, *arrays, precise=True)
    rounded = run(region, *arrays)
    assert precise.dtype == np.float32 and rounded.dtype == arrays[0].dtype
    np.testing.assert_array_equal(precise.astype(arrays[0].dtype), rounded)


def test_model_in_storage_types_gives_the_same() -> None:
    region = conv_region((1, 8, 5, 5), (8, 8, 3, 3))
    arrays = random_inputs(region)
    model = region_model(region, {})
    onnx.checker.check_model(model, full_check=True)
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, dict(zip(region.inputs, arrays, strict=True)))
    np.testing.assert_array_equal(made, run(region, *arrays))


def test_one_literal_as_parameter_and_as_operand() -> None:
    x = spec("float32", (2, 6))
    ops = [BodyOp("ReduceSum", ("x", "one"), ("s",)), BodyOp("Mul", ("s", "one"), ("y",))]
    inner = {"s": spec("float32", (2, 1)), "y": spec("float32", (2, 1))}
    region = build_region(Kind.REDUCE, {"x": x}, ops, inner, ["y"], {"one": (1,)})
    array = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_allclose(run(region, array), array.sum(1, keepdims=True))


def test_symbolic_parameters_take_their_values() -> None:
    x, y = spec("float32", ("n", 6)), spec("float32", ("n", 2, 3))
    region = build_region(
        Kind.MAP, {"x": x}, [BodyOp("Reshape", ("x", "shape"), ("y",))], {"y": y}, ["y"], {"shape": ("n", 2, 3)}
    )
    assert run(region, np.ones((5, 6), np.float32), n=5).shape == (5, 2, 3)


def test_mask_of_one_row_for_all_queries() -> None:
    q, mask = spec("float32", (2, 2, 5, 8)), spec("float32", (2, 1, 1, 5))
    op = BodyOp("Attention", ("q", "k", "v", "m"), ("y",))
    region = build_region(Kind.ATTENTION, {"q": q, "k": q, "v": q, "m": mask}, [op], {"y": q}, ["y"])
    arrays = random_inputs(region)
    scores = arrays[0] @ arrays[1].swapaxes(2, 3) / np.sqrt(8) + arrays[3]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ arrays[2]
    np.testing.assert_allclose(run(region, *arrays), wanted, rtol=1e-5, atol=1e-5)


def test_what_onnx_runtime_lacks_runs_in_the_evaluator() -> None:
    array = np.arange(12, dtype=np.uint16).reshape(3, 4)
    np.testing.assert_array_equal(run(unary("Neg", "int16"), array.astype(np.int16)), -array.astype(np.int16))


def test_nothing_can_run_it() -> None:
    with pytest.raises(IngotError, match="no host reference"):
        run(unary("NoSuchOp", "float32"), np.ones((3, 4), np.float32))


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_literal_keeps_the_rank_of_the_result(shape: tuple[int, ...]) -> None:
    """[] == [16000] has rank 1, although the literal is kept as a number."""
    x, y = spec("int64", ()), spec("bool", shape)
    region = build_region(Kind.MAP, {"x": x}, [BodyOp("Equal", ("x", "c"), ("y",))], {"y": y}, ["y"], {"c": 16000})
    made = run(region, np.asarray(16000, np.int64))
    assert made.shape == shape and made.all()
