"""all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019): sentences to vectors, with its trained weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from ingot.zoo.nets.bert import Bert, encoder
from ingot.zoo.nets.builder import BATCH, ModelBuilder

TOKENS = 128
SIZES = Bert(layers=6, hidden=384, heads=12, inner=1536, seq=TOKENS)
Weights = dict[str, npt.NDArray[np.float32]]


def build(weights: Weights) -> onnx.ModelProto:
    """Input ``input_ids`` (N, 128) int64, 0 for padding; output ``embedding`` (N, 384), of length 1."""
    b = _Loaded(weights)
    ids = b.input("input_ids", [BATCH, TOKENS], TensorProto.INT64)
    mask = b.op("Cast", b.op("Not", b.op("Equal", ids, b.constant([0]))), to=TensorProto.INT64)
    x = encoder(b, ids, mask, SIZES)
    there = b.op("Cast", b.op("Unsqueeze", mask, b.constant([2])), to=TensorProto.FLOAT)
    axis = b.constant([1])
    total = b.op("ReduceSum", b.op("Mul", x, there), axis, keepdims=0)
    mean = b.op("Div", total, b.op("ReduceSum", there, axis, keepdims=0))
    b.output(b.op("Div", mean, b.op("ReduceL2", mean, axes=[1], keepdims=1)), "embedding", [BATCH, SIZES.hidden])
    b.expect_all_used()
    return b.model()


def read_safetensors(path: Path) -> Weights:
    """The float32 tensors of a file: eight bytes with the length of a JSON header, the header, the numbers."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    found: Weights = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            low, high = entry["data_offsets"]
            found[name] = np.frombuffer(content[start + low : start + high], "<f4").reshape(entry["shape"])
    return found


class _Loaded(ModelBuilder):
    """Gives trained weights where the architecture asks for random ones: it asks in a fixed order."""

    def __init__(self, weights: Weights) -> None:
        super().__init__("minilm", 0)
        self._next = _in_order(weights)

    def normal(self, shape: tuple[int, ...], std: float, mean: float = 0.0) -> str:
        """The next weights."""
        del std, mean
        return self._taken(shape)

    def uniform(self, shape: tuple[int, ...], low: float, high: float) -> str:
        """The next weights."""
        del low, high
        return self._taken(shape)

    def _taken(self, shape: tuple[int, ...]) -> str:
        array = next(self._next)
        assert array.shape == shape, (array.shape, shape)
        return self.weight(array)

    def expect_all_used(self) -> None:
        """An architecture that asks for less is another one."""
        assert next(self._next, None) is None


def _in_order(weights: Weights) -> Iterator[npt.NDArray[np.float32]]:
    """As ``bert.encoder`` asks for them; matrices as (in, out)."""

    def linear(name: str) -> Iterator[npt.NDArray[np.float32]]:
        yield weights[f"{name}.weight"].T
        yield weights[f"{name}.bias"]

    def norm(name: str) -> Iterator[npt.NDArray[np.float32]]:
        yield weights[f"{name}.LayerNorm.weight"]
        yield weights[f"{name}.LayerNorm.bias"]

    yield weights["embeddings.word_embeddings.weight"]
    yield weights["embeddings.position_embeddings.weight"]
    yield weights["embeddings.token_type_embeddings.weight"][0]
    yield from norm("embeddings")
    for index in range(SIZES.layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            yield from linear(f"{layer}.attention.self.{part}")
        yield from linear(f"{layer}.attention.output.dense")
        yield from norm(f"{layer}.attention.output")
        yield from linear(f"{layer}.intermediate.dense")
        yield from linear(f"{layer}.output.dense")
        yield from norm(f"{layer}.output")
