"""Attention, rotary positions and few-bit products of ONNX Runtime's domain: standard forms give its results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.rewrites import Net, kinds, rewritten

from ingot.passes.contrib import standardise

MS = "com.microsoft"


def standard(net: Net, rtol: float = 1e-4) -> dict[str, int]:
    found = kinds(rewritten(net, standardise, rtol=rtol)[0])
    assert all("." not in name for name in found), found
    return dict(found)


def tables(net: Net, rows: int, half: int) -> tuple[str, str]:
    angles = np.outer(np.arange(rows), 1 / 7.0 ** np.arange(half))
    return net.const(np.cos(angles)), net.const(np.sin(angles))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("case", ["flat", "heads", "offset"])
def test_rotary_embedding(case: str, interleaved: int) -> None:
    net = Net()
    x = net.input("x", [2, 3, 5, 8] if case == "heads" else [2, 5, 24])
    places = net.const([3] if case == "offset" else [[0, 1, 2, 3, 4], [4, 2, 0, 1, 7]], "int64")
    net.output(net.op("RotaryEmbedding", x, places, *tables(net, 12, 4), domain=MS, interleaved=interleaved))
    assert standard(net)["RotaryEmbedding"] == 1


@pytest.mark.parametrize("case", ["plain", "bias", "padding", "scores", "both", "causal"])
def test_multi_head_attention(case: str) -> None:
    net = Net()
    q, k, v = net.input("q", [2, 4, 6]), net.input("k", [2, 5, 6]), net.input("v", [2, 5, 6])
    if case == "causal":
        k, v = net.input("k2", [2, 4, 6]), net.input("v2", [2, 4, 6])
    bias = net.normal(18) if case == "bias" else ""
    padding = net.const([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "int32") if case in ("padding", "both") else ""
    scores = net.normal(2, 3, 4, 5) if case in ("scores", "both") else ""
    attributes: dict[str, Any] = {"num_heads": 3}
    if case == "causal":
        attributes |= {"unidirectional": 1, "scale": 0.3}
    net.output(net.op("MultiHeadAttention", q, k, v, bias, padding, scores, domain=MS, **attributes))
    assert standard(net)["Attention"] == 1


@pytest.mark.parametrize(("before", "rotary"), [(0, 0), (0, 1), (6, 0), (6, 1)])
def test_group_query_attention(before: int, rotary: int) -> None:
    net = Net()
    heads, few, width, length = 4, 2, 16, 3 if not before else 1
    inputs = [net.input(n, [1, length, c * width]) for n, c in (("q", heads), ("k", few), ("v", few))]
    inputs += [net.input(n, [1, few, before, width]) for n in ("pk", "pv")]
    inputs += [net.const([before + length - 1], "int32"), net.const(before + length, "int32")]
    inputs += [*tables(net, 16, width // 2)] if rotary else []
    made = net.op(
        "GroupQueryAttention", *inputs, domain=MS, outputs=3, num_heads=heads, kv_num_heads=few, do_rotary=rotary
    )
    net.output(*made)
    for name, shape in zip(made, ([1, length, heads * width], *[[1, few, before + length, width]] * 2), strict=True):
        (value,) = (v for v in net.outputs if v.name == name)
        value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    assert standard(net)["Attention"] == 1


def test_several_sequences_keep_their_cache() -> None:
    net = Net()
    inputs = [net.input(n, [2, 1, 16]) for n in "qkv"] + [net.input(n, [2, 2, 4, 8]) for n in ("pk", "pv")]
    inputs += [net.const([4, 3], "int32"), net.const(5, "int32")]
    net.output(*net.op("GroupQueryAttention", *inputs, domain=MS, outputs=3, num_heads=2, kv_num_heads=2))
    model = net.model()
    assert "GroupQueryAttention stays" in standardise(model)[0]


@pytest.mark.parametrize(("bits", "zeros"), [(4, ""), (4, "packed"), (4, "float"), (8, ""), (8, "packed")])
def test_weights_of_few_bits(bits: int, zeros: str) -> None:
    net = Net()
    rows, columns, block = 50, 6, 16
    blocks = -(-rows // block)
    packed = net.random.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8)
    net.weights.append(numpy_helper.from_array(packed, "packed"))
    inputs = [net.input("x", [3, rows]), "packed", net.const(net.random.random(columns * blocks) / 9)]
    if zeros == "packed":
        width = -(-blocks * bits // 8)
        points = net.random.integers(0, 256, columns * width).astype(np.uint8)
        net.weights.append(numpy_helper.from_array(points, "zeros"))
        inputs.append("zeros")
    elif zeros:
        inputs.append(net.const(net.random.random(columns * blocks) * 9))
    net.output(net.op("MatMulNBits", *inputs, domain=MS, K=rows, N=columns, bits=bits, block_size=block))
    assert standard(net)["MatMul"] == 1
