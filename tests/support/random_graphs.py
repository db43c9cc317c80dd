"""Seeded random ONNX graphs of convolutions, views, concats, reductions and pointwise ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "HardSwish", "Softplus", "Identity")
_BINARY = ("Add", "Mul", "Sub", "Max")


class RandomGraph:
    """Grows a graph op by op over tensors of rank 2 to 4; every shape is known as it grows."""

    def __init__(self, seed: int, steps: int = 14) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.used: set[str] = set()
        self.inputs = ["x"]
        self.shapes["x"] = (int(self.rng.integers(1, 3)), int(self.rng.choice([3, 8, 16])), 6, 8)
        if self.rng.random() < 0.3:
            self.inputs.append("u")
            self.shapes["u"] = self.shapes["x"]
        makers: list[Callable[[], None]] = [
            self.conv, self.conv, self.unary, self.binary, self.binary, self.scale, self.concat, self.pool,
            self.transpose, self.reshape, self.slice, self.split, self.reduce, self.softmax, self.matmul, self.norm,
        ]  # fmt: skip
        while len(self.nodes) < steps:
            makers[int(self.rng.integers(len(makers)))]()

    def model(self) -> onnx.ModelProto:
        """The graph with every unread value, and sometimes a read one, as an output."""
        made = [n for node in self.nodes for n in node.output]
        outputs = [n for n in made if n not in self.used]
        extra = [n for n in made if n in self.used]
        if extra and self.rng.random() < 0.5:
            outputs.append(str(self.rng.choice(extra)))
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in self.inputs]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs]
        graph = helper.make_graph(self.nodes, "random", infos, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        """Normal numbers for the inputs."""
        return {n: self.rng.standard_normal(self.shapes[n]).astype(np.float32) for n in self.inputs}

    # -- growing

    def pick(self, rank: int | None = None) -> str | None:
        names = [n for n, s in self.shapes.items() if rank is None or len(s) == rank]
        return str(names[int(self.rng.integers(len(names)))]) if names else None

    def weight(self, *shape: int) -> str:
        array = self.rng.standard_normal(shape).astype(np.float32) / np.sqrt(max(np.prod(shape[1:]), 1))
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def integers(self, values: list[int]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, op: str, inputs: list[str], *shapes: tuple[int, ...], **attrs: object) -> list[str]:
        start = sum(len(node.output) for node in self.nodes)
        outputs = [f"v{start + i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attrs))
        self.used.update(n for n in inputs if n in self.shapes)
        self.shapes.update(zip(outputs, shapes, strict=True))
        return outputs

    def conv(self) -> None:
        if (x := self.pick(4)) is None:
            return
        n, c, h, w = self.shapes[x]
        k, out = int(self.rng.choice([1, 3])), int(self.rng.choice([4, 8, 16]))
        stride = int(self.rng.choice([1, 1, 2]))
        pad = k // 2
        size = ((h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1)
        inputs = [x, self.weight(out, c, k, k)] + ([self.weight(out)] if self.rng.random() < 0.7 else [])
        self.add("Conv", inputs, (n, out, *size), pads=[pad] * 4, strides=[stride] * 2, kernel_shape=[k, k])

    def unary(self) -> None:
        x = self.pick()
        assert x is not None
        self.add(str(self.rng.choice(_UNARY)), [x], self.shapes[x])

    def binary(self) -> None:
        x = self.pick()
        assert x is not None
        same = [n for n, s in self.shapes.items() if s == self.shapes[x]]
        self.add(str(self.rng.choice(_BINARY)), [x, str(self.rng.choice(same))], self.shapes[x])

    def scale(self) -> None:
        x = self.pick()
        assert x is not None
        shape = self.shapes[x]
        kept = [size if self.rng.random() < 0.4 else 1 for size in shape]
        self.add(str(self.rng.choice(_BINARY)), [x, self.weight(*kept)], shape)

    def concat(self) -> None:
        if (x := self.pick()) is None:
            return
        shape = self.shapes[x]
        axis = int(self.rng.integers(len(shape)))
        fits = [
            n
            for n, s in self.shapes.items()
            if len(s) == len(shape) and all(a == b for i, (a, b) in enumerate(zip(s, shape, strict=True)) if i != axis)
        ]
        parts = [x, *(str(p) for p in self.rng.choice(fits, int(self.rng.integers(1, 4))))]
        total = sum(self.shapes[p][axis] for p in parts)
        if total <= 64:
            self.add("Concat", parts, (*shape[:axis], total, *shape[axis + 1 :]), axis=axis)

    def pool(self) -> None:
        if (x := self.pick(4)) is None or min(self.shapes[x][2:]) < 2:
            return
        n, c, h, w = self.shapes[x]
        op = str(self.rng.choice(["MaxPool", "AveragePool"]))
        self.add(op, [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])

    def transpose(self) -> None:
        x = self.pick()
        assert x is not None
        perm = [int(p) for p in self.rng.permutation(len(self.shapes[x]))]
        self.add("Transpose", [x], tuple(self.shapes[x][p] for p in perm), perm=perm)

    def reshape(self) -> None:
        x = self.pick()
        assert x is not None
        shape = self.shapes[x]
        if len(shape) > 2 and self.rng.random() < 0.6:
            at = int(self.rng.integers(len(shape) - 1))
            new = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
        else:
            at = int(self.rng.integers(len(shape)))
            factor = 2 if shape[at] % 2 == 0 else 1
            new = (*shape[:at], factor, shape[at] // factor, *shape[at + 1 :])
        if 2 <= len(new) <= 4:
            self.add("Reshape", [x, self.integers(list(new))], new)

    def slice(self) -> None:
        x = self.pick()
        assert x is not None
        shape = self.shapes[x]
        axis = int(self.rng.integers(len(shape)))
        if shape[axis] < 3:
            return
        start, stop = 1, int(self.rng.integers(2, shape[axis] + 1))
        step = int(self.rng.choice([1, 1, 2]))
        size = -(-(stop - start) // step)
        numbers = [self.integers([v]) for v in (start, stop, axis, step)]
        self.add("Slice", [x, *numbers], (*shape[:axis], size, *shape[axis + 1 :]))

    def split(self) -> None:
        x = self.pick()
        assert x is not None
        shape = self.shapes[x]
        axis = int(self.rng.integers(len(shape)))
        if shape[axis] < 2:
            return
        first = int(self.rng.integers(1, shape[axis]))
        sizes = [first, shape[axis] - first]
        made = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        self.add("Split", [x, self.integers(sizes)], *made, axis=axis)

    def reduce(self) -> None:
        if (x := self.pick()) is None:
            return
        shape = self.shapes[x]
        axis = int(self.rng.integers(len(shape)))
        op = str(self.rng.choice(["ReduceMean", "ReduceMax", "ReduceSum"]))
        self.add(op, [x, self.integers([axis])], (*shape[:axis], 1, *shape[axis + 1 :]), keepdims=1)

    def softmax(self) -> None:
        x = self.pick()
        assert x is not None
        self.add("Softmax", [x], self.shapes[x], axis=int(self.rng.integers(len(self.shapes[x]))))

    def norm(self) -> None:
        x = self.pick()
        assert x is not None
        shape = self.shapes[x]
        self.add("LayerNormalization", [x, self.weight(shape[-1])], shape, axis=-1)

    def matmul(self) -> None:
        x = self.pick()
        assert x is not None
        shape, width = self.shapes[x], int(self.rng.choice([4, 8]))
        self.add("MatMul", [x, self.weight(shape[-1], width)], (*shape[:-1], width))
