"""A sentence encoder with symbolic batch and length, as exporters of PyTorch write it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from support.rewrites import Net, assert_same, feeds_of, kinds, run_ort

from ingot.importer.load import import_model
from ingot.passes.pipeline import canonicalise

HEADS, SIZE, INNER, LAYERS = 4, 8, 64, 2
WIDTH = HEADS * SIZE
LOWEST = float(np.finfo(np.float32).min)


class Encoder(Net):
    """Pieces in the exporter's words: sizes are computed from shapes at run time."""

    def size(self, x: str, axis: int) -> str:
        """One dimension of ``x`` as a number."""
        return str(self.op("Gather", self.op("Shape", x), self.const(axis, "int64"), axis=0))

    def vector(self, *parts: str | int) -> str:
        """Numbers and computed sizes as one vector."""
        rows = [
            self.op("Unsqueeze", part, self.const([0], "int64"))
            if isinstance(part, str)
            else self.const([part], "int64")
            for part in parts
        ]
        return str(self.op("Concat", *rows, axis=0))

    def linear(self, x: str, columns: int = WIDTH, features: int = WIDTH) -> str:
        """MatMul and Add."""
        return str(
            self.op("Add", self.normal(columns), self.op("MatMul", x, self.normal(features, columns, scale=0.2)))
        )

    def heads(self, x: str, perm: list[int]) -> str:
        """(batch, token, width) split and transposed."""
        shape = self.vector(self.size(x, 0), self.size(x, 1), HEADS, SIZE)
        return str(self.op("Transpose", self.op("Reshape", x, shape), perm=perm))

    def norm(self, x: str) -> str:
        """Layer normalisation in arithmetic."""
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        variance = self.op("ReduceMean", self.op("Pow", centred, self.const(2.0)), axes=[-1])
        y = self.op("Div", centred, self.op("Sqrt", self.op("Add", variance, self.const(1e-12))))
        return str(self.op("Add", self.op("Mul", y, self.normal(WIDTH)), self.normal(WIDTH)))

    def gelu(self, x: str) -> str:
        """Exact GELU in arithmetic."""
        gate = self.op("Add", self.op("Erf", self.op("Div", x, self.const(math.sqrt(2.0)))), self.const(1.0))
        return str(self.op("Mul", self.op("Mul", x, gate), self.const(0.5)))

    def attention(self, x: str, mask: str, scaled: str) -> str:
        """Self-attention; ``scaled`` says where the scale is: on the scores, or on both operands by its root."""
        q, k, v = (self.linear(x) for _ in range(3))
        q, v = self.heads(q, [0, 2, 1, 3]), self.heads(v, [0, 2, 1, 3])
        if scaled == "operands":
            last = self.op("Slice", self.op("Shape", q), self.const([-1], "int64"), self.const([2**63 - 1], "int64"))
            root = self.op("Sqrt", self.op("Div", self.const([1.0]), self.op("Sqrt", self.op("Cast", last, to=1))))
            kt = self.op("Transpose", self.heads(k, [0, 2, 1, 3]), perm=[0, 1, 3, 2])
            scores = self.op("MatMul", self.op("Mul", q, root), self.op("Mul", kt, root))
        else:
            scores = self.op("MatMul", q, self.heads(k, [0, 2, 3, 1]))
            scores = self.op("Div", scores, self.const(math.sqrt(SIZE)))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1)
        y = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", y, self.vector(self.size(y, 0), self.size(y, 1), WIDTH)))

    def mask(self, attended: str, expanded: bool) -> str:
        """The attention mask as an addend, perhaps repeated for every query."""
        rows = self.op("Unsqueeze", self.op("Unsqueeze", attended, self.const([1], "int64")), self.const([2], "int64"))
        if not expanded:
            return str(self.op("Mul", self.op("Sub", self.const(1.0), self.op("Cast", rows, to=1)), self.const(LOWEST)))
        batch, length = self.size(attended, 0), self.size(attended, 1)
        rows = self.op("Expand", rows, self.vector(batch, 1, length, length))
        hidden = self.op("Sub", self.const(1.0), self.op("Cast", rows, to=1))
        return str(self.op("Where", self.op("Cast", hidden, to=9), self.const(LOWEST), hidden))


def _encoder(scaled: str) -> Encoder:
    net = Encoder(17)
    ids = net.input("input_ids", ["batch", "seq"], "int64")
    attended = net.input("attention_mask", ["batch", "seq"], "int64")
    mask = net.mask(attended, scaled == "operands")
    end = net.op("Unsqueeze", net.size(ids, 1), net.const([0], "int64"))
    places = net.op(
        "Slice", net.const(np.arange(64)[None], "int64"), net.const([0], "int64"), end, net.const([1], "int64")
    )
    x = net.op("Add", net.op("Gather", net.normal(50, WIDTH), ids), net.op("Gather", net.normal(64, WIDTH), places))
    x = net.norm(x)
    for _ in range(LAYERS):
        x = net.norm(net.op("Add", net.attention(x, mask, scaled), x))
        x = net.norm(net.op("Add", net.linear(net.gelu(net.linear(x, INNER)), WIDTH, INNER), x))
    repeated = net.op("Expand", net.op("Unsqueeze", attended, net.const([-1], "int64")), net.op("Shape", x))
    weights, axes = net.op("Cast", repeated, to=1), net.const([1], "int64")
    total = net.op("ReduceSum", net.op("Mul", x, weights), axes, keepdims=0)
    mean = net.op("Div", total, net.op("Clip", net.op("ReduceSum", weights, axes, keepdims=0), net.const(1e-9)))
    size = net.op("Clip", net.op("ReduceL2", mean, axes=[1], keepdims=1), net.const(1e-12))
    net.output(x, net.op("Div", mean, net.op("Expand", size, net.op("Shape", mean))))
    return net


@pytest.mark.parametrize("scaled", ["scores", "operands"])
@pytest.mark.parametrize("fp16", [False, True])
def test_a_sentence_encoder(scaled: str, fp16: bool) -> None:
    proto = _encoder(scaled).proto()
    feeds = feeds_of(proto, batch=3, seq=6)
    feeds["attention_mask"][:] = 1
    feeds["attention_mask"][1, 4:] = 0
    model = canonicalise(import_model(proto, any_size=True).model, fp16=fp16).model
    found = kinds(model)
    expected = {"Attention": LAYERS, "MatMul": 4 * LAYERS, "LayerNormalization": 2 * LAYERS + 1, "Gelu": LAYERS}
    assert {op: found[op] for op in expected} == expected
    # Heads are columns: nothing is transposed or reshaped around the attention.
    assert found["Transpose"] == found["Reshape"] == found["Softmax"] == 0
    assert_same(run_ort(proto, feeds), run_ort(ir.to_proto(model), feeds), 5e-3 if fp16 else 1e-4)
