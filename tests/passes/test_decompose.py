"""Ops without a device kernel in terms of others: running sums, the first of a TopK, LRN, Einsum, group norms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, assert_same, kinds, rewritten, run_ort

from ingot.graph.op_table import kind_of
from ingot.graph.region import Kind
from ingot.passes.decompose import decompose
from ingot.passes.einsum import expand_einsums
from ingot.passes.group_norm import fuse_group_norms


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_running_sums(dtype: str, axis: int, attributes: dict[str, int]) -> None:
    net = Net()
    x = net.input("x", [2, 3, 5], dtype)
    net.output(net.op("CumSum", x, net.const(axis, "int64"), **attributes), dtype=dtype)
    model, notes = rewritten(net, decompose)
    assert notes == ["1 CumSum in terms of other ops"]
    assert all(kind_of(node.op_type, node.domain) is not Kind.HOST for node in model.graph)


@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}])
def test_what_a_running_sum_leaves_out_may_be_infinite(attributes: dict[str, int]) -> None:
    net = Net()
    net.output(net.op("CumSum", net.input("x", [4]), net.const(0, "int64"), **attributes))
    feeds = {"x": np.asarray([1, 2, np.inf, np.nan], np.float32)}
    wanted, (model, _) = run_ort(net.proto(), feeds), rewritten(net, decompose)
    assert "CumSum" not in kinds(model)
    assert_same(wanted, run_ort(ir.to_proto(model), feeds))


def test_a_running_sum_beside_a_symbolic_axis() -> None:
    net = Net()
    net.output(net.op("CumSum", net.input("x", ["N", 4]), net.const(1, "int64")))
    assert "CumSum" not in kinds(rewritten(net, decompose, N=3)[0])


def test_a_running_sum_of_a_scalar_stays() -> None:
    net = Net()
    net.output(net.op("CumSum", net.input("x", []), net.const(0, "int64")))
    model = net.model()
    assert decompose(model) == ["CumSum stays: n0: its axis or shape is not known"]


@pytest.mark.parametrize("case", ["symbolic", "long"])
def test_other_running_sums_stay(case: str) -> None:
    net = Net()
    x = net.input("x", ["N", 4] if case == "symbolic" else [2, 2000])
    net.output(net.op("CumSum", x, net.const(0 if case == "symbolic" else 1, "int64")))
    model, notes = rewritten(net, decompose, rtol=1e-4)
    assert kinds(model) == {"CumSum": 1} and notes[0].startswith("CumSum stays: n0: it runs over")


@pytest.mark.parametrize("largest", [0, 1])
def test_the_first_of_a_top_k(largest: int) -> None:
    net = Net()
    values, indices = net.op("TopK", net.input("x", ["N", 7]), net.const([1], "int64"), outputs=2, largest=largest)
    net.output(values).output(indices, dtype="int64")
    side = "Max" if largest else "Min"
    assert kinds(rewritten(net, decompose)[0]) == {f"Reduce{side}": 1, f"Arg{side}": 1}


def test_indices_alone_need_no_values() -> None:
    net = Net()
    _, indices = net.op("TopK", net.input("x", ["N", 7]), net.const([1], "int64"), outputs=2)
    net.output(indices, dtype="int64")
    assert kinds(rewritten(net, decompose)[0]) == {"ArgMax": 1}


def test_more_than_the_first_stays() -> None:
    net = Net()
    values, _ = net.op("TopK", net.input("x", ["N", 7]), net.const([2], "int64"), outputs=2)
    net.output(values)
    model, notes = rewritten(net, decompose)
    assert kinds(model) == {"TopK": 1} and notes == [
        "TopK stays: n0: more than the first is wanted: it keeps its own kernel"
    ]


@pytest.mark.parametrize("size", [3, 5])
def test_local_response_normalisation(size: int) -> None:
    net = Net()
    net.output(net.op("LRN", net.input("x", [2, 6, 3, 4]), size=size, alpha=0.2, beta=0.7, bias=1.5))
    assert "LRN" not in kinds(rewritten(net, decompose)[0])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bhij,bhjd->bhid", [(2, 3, 4, 5), (2, 3, 5, 6)]),
        ("bhij,bhjd->bihd", [(2, 3, 4, 5), (2, 3, 5, 6)]),
        ("bij,jk->bik", [(2, 3, 4), (4, 5)]),
        ("bij,kj->kbi", [(2, 3, 4), (5, 4)]),
        ("bi,bi->b", [(2, 3), (2, 3)]),
        ("bij,bj->bi", [(2, 3, 4), (2, 4)]),
        ("bj,bjk->bk", [(2, 3), (2, 3, 4)]),
        ("ijk->kj", [(2, 3, 4)]),
        ("ij->ji", [(2, 3)]),
        ("ijl,jk->ik", [(2, 3, 4), (3, 5)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    net = Net()
    inputs = [net.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    net.output(net.op("Einsum", *inputs, equation=equation))
    model, notes = rewritten(net, expand_einsums)
    assert "Einsum" not in kinds(model) and notes == ["1 Einsums became matrix products"]


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ii->i", [(3, 3)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("...ij->...ji", [(2, 3, 4)]),
        ("i,j->ij", [(2,), (3,)]),
        ("bij,bij->b", [(2, 3, 4), (2, 3, 4)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ],
)
def test_other_einsums_stay(equation: str, shapes: list[tuple[int, ...]]) -> None:
    net = Net()
    inputs = [net.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    net.output(net.op("Einsum", *inputs, equation=equation))
    model, notes = rewritten(net, expand_einsums)
    assert kinds(model) == {"Einsum": 1} and notes[0].startswith("not expanded: n0: ")


def _group_norm(net: Net, *, ones: bool = True, affine: bool = True, groups: int = 2) -> str:
    x = net.input("x", ["N", 6, 3, 4])
    grouped = net.op("Reshape", x, net.const([0, groups, -1], "int64"))
    scale = net.const(np.ones(groups)) if ones else net.normal(groups)
    y: Any = net.op("InstanceNormalization", grouped, scale, net.const(np.zeros(groups)), epsilon=1e-3)
    y = net.op("Reshape", y, net.op("Shape", x))
    if affine:
        y = net.op("Add", net.op("Mul", y, net.normal(6, 1, 1)), net.normal(1, 6, 1, 1))
    return str(y)


@pytest.mark.parametrize("affine", [False, True])
def test_group_normalisation(affine: bool) -> None:
    net = Net()
    net.output(_group_norm(net, affine=affine))
    model, notes = rewritten(net, fuse_group_norms)
    assert kinds(model) == {"GroupNormalization": 1} and notes == ["1 GroupNormalization recognised"]


def test_groups_with_a_scale_of_their_own_stay() -> None:
    net = Net()
    net.output(_group_norm(net, ones=False))
    assert kinds(rewritten(net, fuse_group_norms)[0])["InstanceNormalization"] == 1


def test_a_vector_normalised_in_groups_stays() -> None:
    net = Net()
    grouped = net.op("Reshape", net.input("x", (12,)), net.const([1, 2, 6], "int64"))
    y = net.op("InstanceNormalization", grouped, net.const(np.ones(2)), net.const(np.zeros(2)))
    net.output(net.op("Reshape", y, net.const([12], "int64")))
    assert kinds(rewritten(net, fuse_group_norms)[0])["InstanceNormalization"] == 1
