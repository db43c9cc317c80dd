"""Attention as exporters write it, and what must stay as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, kinds, rewritten

from ingot.passes.attention import fuse_attention

HEADS, SIZE, SEQ = 2, 4, 6
WIDTH = HEADS * SIZE


def _linear(net: Net, x: str, width: int = WIDTH) -> str:
    return str(net.op("Add", net.op("MatMul", x, net.normal(WIDTH, width, scale=0.3)), net.normal(width)))


def _split(net: Net, x: str, perm: list[int], heads: int = HEADS) -> str:
    return str(net.op("Transpose", net.op("Reshape", x, net.const([0, SEQ, heads, SIZE], "int64")), perm=perm))


def _qkv(net: Net, x: str, *, key_perm: bool = True) -> tuple[str, str, str]:
    q, k, v = (_linear(net, x) for _ in range(3))
    kt = (
        _split(net, k, [0, 2, 3, 1])
        if key_perm
        else net.op("Transpose", _split(net, k, [0, 2, 1, 3]), perm=[0, 1, 3, 2])
    )
    return _split(net, q, [0, 2, 1, 3]), str(kt), _split(net, v, [0, 2, 1, 3])


def _merge(net: Net, y: str, shape: list[int]) -> str:
    return str(net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.const(shape, "int64")))


def _attend(net: Net, q: str, kt: str, v: str, masks: list[str], scale: str = "div") -> str:
    root = math.sqrt(SIZE)
    if scale == "both":  # torch's scaled_dot_product_attention
        q, kt = (str(net.op("Mul", t, net.const(root**-0.5))) for t in (q, kt))
    if scale == "query":
        q = str(net.op("Mul", q, net.const([1 / root])))
    scores = net.op("MatMul", q, kt)
    if scale == "div":
        scores = net.op("Div", scores, net.const(root))
    if scale == "mul":
        scores = net.op("Mul", net.const(1 / root), scores)
    for mask in masks:
        scores = net.op("Add", scores, mask)
    return str(net.op("MatMul", net.op("Softmax", scores, axis=-1), v))


def _node(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "Attention")


def _input(net: Net) -> str:
    return net.input("x", ["N", SEQ, WIDTH])


@pytest.mark.parametrize("scale", ["div", "mul", "both", "query", ""])
@pytest.mark.parametrize("key_perm", [True, False])
def test_split_heads_merge_into_columns(scale: str, key_perm: bool) -> None:
    net = Net()
    y = _attend(net, *_qkv(net, _input(net), key_perm=key_perm), [], scale)
    net.output(net.op("Neg", _merge(net, y, [0, SEQ, WIDTH])))
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model) == {"MatMul": 3, "Add": 3, "Attention": 1, "Neg": 1}
    assert notes == ["1 attention blocks became one op each"]
    node = _node(model)
    assert node.attributes.get_int("q_num_heads", 0) == HEADS and len(node.inputs) == 3
    assert node.attributes.get_float("scale", 0.0) == pytest.approx(1.0 if not scale else SIZE**-0.5)


def test_a_merge_into_two_axes() -> None:
    net = Net()
    y = _attend(net, *_qkv(net, _input(net)), [])
    net.output(_merge(net, y, [-1, WIDTH]))
    assert kinds(rewritten(net, fuse_attention)[0]) == {"MatMul": 3, "Add": 3, "Attention": 1, "Reshape": 1}


@pytest.mark.parametrize("shape", [("N", 1, 1, SEQ), ("N", 1, SEQ, SEQ), (SEQ, SEQ), (1, HEADS, SEQ, SEQ)])
def test_masks(shape: tuple[Any, ...]) -> None:
    net = Net()
    x = _input(net)
    mask = net.input("mask", shape)
    net.output(_merge(net, _attend(net, *_qkv(net, x), [mask]), [0, SEQ, WIDTH]))
    model, _ = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 1 and _node(model).inputs[3] is not None


def test_a_bias_and_a_mask_are_added_up() -> None:
    net = Net()
    x, mask = _input(net), net.input("mask", ["N", 1, 1, SEQ])
    net.output(_merge(net, _attend(net, *_qkv(net, x), [net.normal(1, HEADS, SEQ, SEQ), mask]), [0, SEQ, WIDTH]))
    assert kinds(rewritten(net, fuse_attention)[0]) == {"MatMul": 3, "Add": 4, "Attention": 1}


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("low", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_a_choice_masks_too(inverted: bool, low: float) -> None:
    net = Net()
    x = _input(net)
    keep = np.tril(np.ones((1, 1, SEQ, SEQ), bool), 1)
    q, kt, v = _qkv(net, x)
    scores, constant = net.op("MatMul", q, kt), net.const(low)
    pair = (constant, scores) if inverted else (scores, constant)
    weights = net.op("Softmax", net.op("Where", net.const(~keep if inverted else keep, "bool"), *pair), axis=-1)
    net.output(_merge(net, net.op("MatMul", weights, v), [0, SEQ, WIDTH]))
    assert kinds(rewritten(net, fuse_attention)[0])["Attention"] == 1


def test_a_mild_choice_is_no_mask() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    keep = net.const(np.tril(np.ones((SEQ, SEQ), bool)), "bool")
    weights = net.op("Softmax", net.op("Where", keep, net.op("MatMul", q, kt), net.const(-1.0)), axis=-1)
    net.output(net.op("MatMul", weights, v))
    assert kinds(rewritten(net, fuse_attention)[0])["Attention"] == 0


def test_rows_of_nan_are_guarded() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    keep = net.const(np.tril(np.ones((SEQ, SEQ), bool)), "bool")
    weights = net.op("Softmax", net.op("Where", keep, net.op("MatMul", q, kt), net.const(-np.inf)), axis=-1)
    safe = net.op("Where", net.op("IsNaN", weights), net.const(0.0), weights)
    net.output(_merge(net, net.op("MatMul", safe, v), [0, SEQ, WIDTH]))
    model, _ = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 1 and kinds(model)["IsNaN"] == 0


def test_a_constant_triangle_is_causal() -> None:
    net = Net()
    mask = np.triu(np.full((1, 1, SEQ, SEQ), np.finfo(np.float32).min), 1)
    net.output(_merge(net, _attend(net, *_qkv(net, _input(net)), [net.const(mask)]), [0, SEQ, WIDTH]))
    model, _ = rewritten(net, fuse_attention)
    node = _node(model)
    assert node.attributes.get_int("is_causal", 0) == 1 and len(node.inputs) == 3


def test_heads_that_are_not_merged_keep_four_axes() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    net.output(_attend(net, net.op("Relu", q), kt, v, []))
    model, _ = rewritten(net, fuse_attention)
    assert "q_num_heads" not in _node(model).attributes and kinds(model)["Transpose"] == 3


def test_keys_that_nothing_visible_has_transposed() -> None:
    net = Net()
    q, kt, v = (net.input(name, ["N", HEADS, SIZE, SIZE]) for name in ("q", "kt", "v"))
    net.output(_attend(net, q, net.op("Relu", kt), v, []))
    model, _ = rewritten(net, fuse_attention)
    assert kinds(model) == {"Relu": 1, "Transpose": 1, "Attention": 1}


def test_batched_matrices_are_one_head() -> None:
    net = Net()
    q, k, v = (net.input(name, ["N", SEQ, SIZE]) for name in "qkv")
    mask = net.input("mask", ["N", SEQ, SEQ])
    net.output(_attend(net, q, net.op("Transpose", k, perm=[0, 2, 1]), v, [mask]))
    model, _ = rewritten(net, fuse_attention)
    assert kinds(model) == {"Unsqueeze": 1, "Attention": 1}
    assert _node(model).attributes.get_int("q_num_heads", 0) == 1


def test_stacked_projections_are_read_by_columns() -> None:
    net = Net()
    stacked = net.op("Reshape", _linear(net, _input(net), 3 * WIDTH), net.const([0, SEQ, 3, HEADS, SIZE], "int64"))
    stacked = net.op("Transpose", stacked, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.op("Gather", stacked, net.const(i, "int64"), axis=0) for i in range(3))
    y = _attend(net, q, net.op("Transpose", k, perm=[0, 1, 3, 2]), v, [])
    net.output(_merge(net, y, [0, SEQ, WIDTH]))
    assert kinds(rewritten(net, fuse_attention)[0]) == {"MatMul": 1, "Add": 1, "Slice": 3, "Attention": 1}


def test_repeated_heads_are_not_repeated() -> None:
    net = Net()
    q = net.input("q", ["N", 4, SEQ, SIZE])

    def repeated(name: str) -> str:
        few = net.op("Unsqueeze", net.input(name, ["N", 2, SEQ, SIZE]), net.const([2], "int64"))
        many = net.op("Expand", few, net.const([1, 2, 2, SEQ, SIZE], "int64"))
        return str(net.op("Reshape", many, net.const([-1, 4, SEQ, SIZE], "int64")))

    net.output(_attend(net, q, net.op("Transpose", repeated("k"), perm=[0, 1, 3, 2]), repeated("v"), []))
    model, _ = rewritten(net, fuse_attention)
    assert kinds(model) == {"Attention": 1}
    assert [len(v.shape) for v in _node(model).inputs if v is not None and v.shape is not None] == [4, 4, 4]


def test_scores_that_others_read_stay() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    scores = net.op("MatMul", q, kt)
    net.output(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), scores)
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 0
    assert len(notes) == 1 and "its scores are read by others too" in notes[0]


def test_weights_that_are_an_output_stay() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    weights = net.op("Softmax", net.op("MatMul", q, kt), axis=-1)
    net.output(net.op("MatMul", weights, v), weights)
    assert kinds(rewritten(net, fuse_attention)[0])["Attention"] == 0


def test_wide_heads_stay_with_the_reason() -> None:
    net = Net()
    q, v = (net.input(name, ["N", 1, SEQ, 264]) for name in "qv")
    net.output(_attend(net, q, net.input("kt", ["N", 1, 264, SEQ]), v, []))
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 0 and "heads of 264 features; the kernel takes 256" in notes[0]


@pytest.mark.parametrize("axis", [1, 2])
def test_a_softmax_over_another_axis_stays(axis: int) -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    net.output(net.op("MatMul", net.op("Softmax", net.op("MatMul", q, kt), axis=axis), v))
    assert kinds(rewritten(net, fuse_attention)[0])["Attention"] == 0


def test_products_of_another_type_than_the_scores_stay() -> None:
    net = Net()
    q, k, v = (net.op("Cast", net.input(name, ["N", SEQ, SIZE]), to=10) for name in "qkv")
    scores = net.op("Cast", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), to=1)
    net.output(net.op("MatMul", net.op("Softmax", scores, axis=-1), net.op("Cast", v, to=1)))
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 0 and "have different types" in notes[0]


def test_a_softmax_in_float32_between_products_in_float16() -> None:
    net = Net()
    q, k, v = (net.op("Cast", net.input(name, ["N", SEQ, SIZE]), to=10) for name in "qkv")
    scores = net.op("Cast", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), to=1)
    weights = net.op("Cast", net.op("Softmax", scores, axis=-1), to=10)
    net.output(net.op("Cast", net.op("MatMul", weights, v), to=1))
    model, _ = rewritten(net, fuse_attention, rtol=3e-3)
    assert kinds(model) == {"Cast": 4, "Attention": 1}


def test_a_mask_inside_the_scale_stays() -> None:
    net = Net()
    q, kt, v = _qkv(net, _input(net))
    masked = net.op("Add", net.op("MatMul", q, kt), net.normal(SEQ, SEQ))
    net.output(net.op("MatMul", net.op("Softmax", net.op("Mul", masked, net.const(0.5)), axis=-1), v))
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 0 and "its mask is scaled with the scores" in notes[0]


def test_a_classifier_is_no_attention() -> None:
    net = Net()
    x = net.input("x", ["N", 4, 8])
    net.output(net.op("MatMul", net.op("Softmax", net.op("MatMul", x, net.normal(8, 8)), axis=-1), net.normal(8, 3)))
    model, notes = rewritten(net, fuse_attention)
    assert kinds(model)["Attention"] == 0 and "a product with constant weights" in notes[0]
