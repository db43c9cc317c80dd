"""Host islands: merged where that saves a crossing, and what is cheaper on the host than the way to the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.lowering import check_lowered, lowered_of

from ingot.builder.api import build_hollow
from ingot.errors import YES, Answer, IngotError, No
from ingot.graph.lowered import Lowered, SymbolRange
from ingot.graph.region import Kind, Region
from ingot.options import BuildOptions

Shape = Sequence[int | str]


def refuse(*names: str) -> Callable[[Region], Answer]:
    """No kernel for Regions with these ops."""
    return lambda region: No("none today") if {op.op for op in region.ops} & set(names) else YES


def model(nodes: Sequence[onnx.NodeProto], x: Shape, outputs: Sequence[str], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", 1, list(x))],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def op(name: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    made = outputs.split()
    return helper.make_node(name, inputs.split(), made, name=f"{name}_{made[0]}", **attributes)


def islands(lowered: Lowered) -> list[list[str]]:
    return [[o.op for o in region.ops] for region in lowered.regions if region.kind is Kind.HOST]


def checked(
    built: onnx.ModelProto, accepts: Callable[[Region], Answer], x: Shape, ranges: tuple[SymbolRange, ...] = ()
) -> Lowered:
    lowered = lowered_of(built, ranges, accepts)
    check_lowered(built, lowered, {"x": np.random.default_rng(0).standard_normal(x).astype(np.float32)})
    return lowered


ENDS = [op("Tanh", "x", "start"), op("Erf", "start", "a")]


def test_a_cheap_op_between_two_islands_stays_with_them() -> None:
    nodes = [op("Tanh", "x", "t"), op("Erf", "t", "a"), op("Exp", "a", "b"), op("Erf", "b", "c"), op("Tanh", "c", "y")]
    lowered = checked(model(nodes, [4, 8], ["y"]), refuse("Erf"), (4, 8))
    assert islands(lowered) == [["Erf", "Exp", "Erf"]]
    assert any(r.startswith("Exp_b: cheaper on the host, between two islands") for r in lowered.reasons)


def test_views_between_islands_move_nothing() -> None:
    nodes = [
        op("Erf", "x", "a"),
        op("Reshape", "a s", "b"),
        op("Transpose", "b", "c", perm=[1, 0]),
        op("Erf", "c", "y"),
    ]
    built = model(nodes, [4, 8], ["y"], s=np.array([2, 16]))
    lowered = checked(built, refuse("Erf"), (4, 8))
    assert islands(lowered) == [["Erf", "Reshape", "Transpose", "Erf"]]


def test_dear_work_goes_to_the_device() -> None:
    """A product of 2 G operations is not for the host, nor is what stands with it."""
    weight = np.random.default_rng(1).standard_normal((1024, 1024)).astype(np.float32) / 32
    nodes = [op("Erf", "x", "a"), op("MatMul", "a w", "b"), op("Relu", "b", "c"), op("Erf", "c", "y")]
    lowered = lowered_of(model(nodes, [1024, 1024], ["y"], w=weight), accepts=refuse("Erf"))
    assert islands(lowered) == [["Erf"], ["Erf"]]


def test_large_values_go_to_the_device() -> None:
    """A chain of simple ops over 64 MiB: six times through the host's memory, or once over the link and back."""
    nodes = [op("Erf", "x", "a")]
    nodes += [
        op(name, f"v{i}" if i else "a", f"v{i + 1}")
        for i, name in enumerate(("Exp", "Neg", "Relu", "Abs", "Sqrt", "Cos"))
    ]
    nodes += [op("Erf", "v6", "y")]
    assert islands(lowered_of(model(nodes, [16 << 20], ["y"]), accepts=refuse("Erf"))) == [["Erf"], ["Erf"]]
    small = lowered_of(model(nodes, [16], ["y"]), accepts=refuse("Erf"))
    assert len(islands(small)) == 1


def test_the_optimum_size_decides() -> None:
    nodes = [op("Erf", "x", "a"), op("MatMul", "a w", "b"), op("Erf", "b", "y")]
    built = model(nodes, ["N", 64], ["y"], w=np.eye(64, dtype=np.float32))
    few, many = (SymbolRange("N", 1, n, 65536) for n in (1, 65536))
    assert len(islands(checked(built, refuse("Erf"), (3, 64), (few,)))) == 1
    assert len(islands(checked(built, refuse("Erf"), (3, 64), (many,)))) == 2


def test_half_precision_stays_on_the_device() -> None:
    nodes = [
        op("Erf", "x", "a"), op("Cast", "a", "h", to=10), op("Exp", "h", "e"), op("Cast", "e", "f", to=1),
        op("Erf", "f", "y"),
    ]  # fmt: skip
    assert islands(lowered_of(model(nodes, [8], ["y"]), accepts=refuse("Erf"))) == [["Erf"], ["Erf"]]


def test_what_leads_nowhere_else_is_left_alone() -> None:
    """Ops before the first island and behind the last one have no crossing to save."""
    nodes = [op("Exp", "x", "a"), op("Erf", "a", "b"), op("Neg", "b", "c"), op("Exp", "b", "d"), op("Add", "c d", "y")]
    assert islands(checked(model(nodes, [4], ["y"]), refuse("Erf"), (4,))) == [["Erf"]]


def test_islands_that_read_one_value_are_one() -> None:
    nodes = [op("Exp", "x", "a"), op("Erf", "a", "b"), op("Erf", "a", "c"), op("Neg", "b", "d"), op("Mul", "d c", "y")]
    assert islands(checked(model(nodes, [4, 4], ["y"]), refuse("Erf"), (4, 4))) == [["Erf", "Erf"]]


def test_islands_are_not_merged_into_a_cycle() -> None:
    """Both read ``a``, but what the device makes of the first goes into the second, and is too much for the host."""
    weight = np.eye(1024, dtype=np.float32)
    nodes = [
        op("Exp", "x", "a"), op("Erf", "a", "b"), op("MatMul", "b w", "c"), op("MatMul", "c w", "d"),
        op("Add", "d a", "e"), op("Erf", "e", "f"), op("Add", "f a", "y"),
    ]  # fmt: skip
    lowered = lowered_of(model(nodes, [1024, 1024], ["y"], w=weight), accepts=refuse("Erf"))
    assert islands(lowered) == [["Erf"], ["Erf"]]


@pytest.mark.parametrize("seed", range(6))
def test_random_refusals_keep_results(seed: int) -> None:
    """Diamonds of cheap ops, with islands wherever chance has it."""
    random = np.random.default_rng(seed)
    values, nodes = ["x"], []
    for i in range(24):
        picked = [values[-1 - int(min(random.geometric(0.5), len(values)) - 1)] for _ in range(2)]
        name = str(random.choice(["Tanh", "Erf", "Add", "Mul", "Sigmoid"]))
        nodes.append(op(name, " ".join(picked[: 2 if name in ("Add", "Mul") else 1]), f"v{i}"))
        values.append(f"v{i}")
    read = {name for node in nodes for name in node.input}
    outputs = [name for name in values[1:] if name not in read]
    checked(model(nodes, [3, 5], outputs), refuse("Erf" if seed % 2 else "Sigmoid"), (3, 5))


# -- strict


def test_strict_lists_every_reason_and_fix() -> None:
    nodes = [op("NonZero", "x", "n"), op("Cast", "n", "f", to=1), op("ReduceSum", "f", "r", keepdims=0),
             op("Mul", "x r", "a"), op("TopKey", "a", "b", domain="my"), op("Neg", "b", "y")]  # fmt: skip
    built = model(nodes, [2, 8], ["y"])
    built.opset_import.append(helper.make_opsetid("my", 1))
    built.graph.value_info.append(helper.make_tensor_value_info("b", 1, [2, 8]))
    with pytest.raises(IngotError) as raised:
        build_hollow(built, BuildOptions("sm_90", strict=True))
    said = str(raised.value)
    assert "NonZero_n: NonZero has no device kernel" in said
    assert "TopKey_b: my.TopKey has no device kernel (fix: give a plugin for my.TopKey)" in said
    assert "end the model before the op whose result depends on data" in said
    assert raised.value.fix.startswith("build without --strict")


def test_strict_says_all_of_a_model_that_is_for_the_host_alone() -> None:
    nodes = [op("Sort", "x", "y", domain="my"), op("Sort", "x", "z", domain="my")]
    built = model(nodes, [4], ["y", "z"])
    built.opset_import.append(helper.make_opsetid("my", 1))
    with pytest.raises(
        IngotError, match=r"(?s)nothing of this model runs on the GPU.*my.Sort has no device kernel \(2 of them\)"
    ):
        build_hollow(built, BuildOptions("sm_90", strict=True))


def test_strict_builds_what_is_all_on_the_device() -> None:
    build_hollow(model([op("Erf", "x", "y")], [4], ["y"]), BuildOptions("sm_90", strict=True))
