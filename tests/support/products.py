"""Products of odd sizes, strides and epilogues for kernels that take them all, and what they give in high precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from support.quantized import assert_quantized, exact, quantized_conv, quantized_inputs, quantized_matmul
from support.regions import Op, assert_close, conv_region, gemm_region, random_inputs, reference

from ingot.graph.dims import Bindings
from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec

NHWC = (0, 2, 3, 1)
RELU = (Op("Relu", ("acc",), "out"),)
SILU = (Op("Sigmoid", ("acc",), "gate"), Op("Mul", ("acc", "gate"), "out"))
GELU = (Op("Gelu", ("acc",), "out"),)
ADDED = (Op("Add", ("acc", "residual"), "sum"), Op("Relu", ("sum",), "out"))
ONES = (1, 1, 1, 1)


@dataclass(frozen=True)
class Case:
    """A Region and the shape at which it runs."""

    region: Region
    bindings: Bindings = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether integers are multiplied."""
        return self.region.anchor.op.endswith("Integer")

    def inputs(self) -> list[np.ndarray]:
        """Random inputs; sums of products are of unit scale."""
        if self.whole:
            return quantized_inputs(self.region, self.bindings)
        arrays = random_inputs(self.region, self.bindings)
        conv = self.region.kind.value == "conv"
        at = self.region.inputs.index("w" if conv else "b")
        depth = np.prod(arrays[at].shape[1:]) if conv else arrays[at].shape[-2]
        arrays[at] = (arrays[at].astype(np.float32) / float(depth) ** 0.5).astype(arrays[at].dtype)
        return arrays

    def check(self, inputs: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> None:
        """Asserts that ``got`` are the Region's outputs for ``inputs``."""
        if self.whole:
            assert_quantized(got[0], exact(self.region, list(inputs), self.bindings))
            return
        wanted = reference(self.region, inputs, self.bindings)
        for name, one, want in zip(self.region.outputs, got, wanted, strict=True):
            dtype = self.region.spec_of[name].dtype
            # Tensor cores cut off what does not fit beside the largest of the products that they add at once.
            assert_close(one, want, dtype=dtype, depth=64 if dtype == "float32" else 4)


def _residual(shape: tuple[int, ...], dtype: str = "float16") -> dict[str, TensorSpec]:
    return {"residual": spec(dtype, shape, NHWC if len(shape) == 4 else None)}


CASES = {
    "3x3": Case(conv_region((2, 16, 9, 7), (24, 16, 3, 3), pads=ONES, epilogue=ADDED,
                            extras=_residual((2, 24, 9, 7)))),
    "two outputs": Case(conv_region((1, 32, 8, 9), (40, 32, 1, 1), epilogue=(Op("Mul", ("acc", "two"), "twice"),
                                    Op("Relu", ("twice",), "out")), literals={"two": 2.0}, outputs=("acc", "out"))),
    "5 channels": Case(conv_region((2, 5, 13, 11), (29, 5, 3, 3), strides=(2, 1), pads=(0, 1, 1, 0), epilogue=SILU)),
    "12 channels": Case(conv_region((2, 12, 11, 10), (20, 12, 3, 3), pads=(2, 4, 2, 4), dilations=(2, 4))),
    "6 channels": Case(conv_region((2, 6, 11, 10), (18, 6, 5, 5), strides=(3, 2), pads=(2, 2, 1, 1), epilogue=RELU)),
    "image": Case(conv_region((1, 3, 29, 31), (16, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3), epilogue=RELU)),
    "strided 1x1": Case(conv_region((2, 24, 11, 9), (48, 24, 1, 1), strides=(2, 2))),
    "planes": Case(conv_region((2, 8, 9, 10), (24, 8, 3, 3), pads=ONES, x_order=(0, 1, 2, 3))),
    "1-D": Case(conv_region((2, 32, 77), (40, 32, 5), pads=(2, 2), epilogue=RELU)),
    "same upper": Case(conv_region((1, 16, 12, 12), (16, 16, 4, 4), pads=(1, 1, 2, 2), epilogue=RELU)),
    "scale by channel": Case(conv_region((2, 16, 9, 9), (24, 16, 1, 1), epilogue=(Op("Mul", ("acc", "s"), "out"),),
                                         extras={"s": spec("float16", (2, 24, 1, 1), NHWC)})),
    "symbolic batch": Case(conv_region(("N", 16, 7, 9), (24, 16, 3, 3), pads=ONES, epilogue=RELU), {"N": 3}),
    "float32 result": Case(conv_region((1, 16, 9, 8), (24, 16, 3, 3), pads=ONES,
                                       epilogue=(Op("Cast", ("acc",), "out", (("to", 1),)),))),
    "columns contiguous": Case(gemm_region((37, 48), (48, 40), epilogue=GELU)),
    "41 columns": Case(gemm_region((37, 45), (45, 41))),
    "44 columns": Case(gemm_region((5, 7, 70), (70, 44), epilogue=RELU)),
    "depth contiguous": Case(gemm_region((77, 104), (104, 56), b_order=(1, 0))),
    "rows contiguous": Case(gemm_region((40, 56), (56, 24), a_order=(1, 0))),
    "one row": Case(gemm_region((1, 264), (264, 100))),
    "scores": Case(gemm_region((2, 3, 33, 24), (2, 3, 24, 40), b_order=(0, 1, 3, 2), constant_b=False)),
    "values": Case(gemm_region((2, 3, 33, 40), (2, 3, 40, 24), constant_b=False)),
    "one for all": Case(gemm_region((4, 21, 32), (1, 32, 48), epilogue=RELU)),
    "symbolic": Case(gemm_region(("N", "S", 64), (64, 72), epilogue=RELU), {"N": 2, "S": 19}),
    "symbolic depth": Case(gemm_region((2, 20, "S"), (2, "S", 32), constant_b=False), {"S": 43}),
    "bytes": Case(quantized_conv((2, 32, 9, 8), (24, 32, 3, 3), pads=ONES, residual=True)),
    "bytes, 20 channels": Case(quantized_conv((2, 20, 9, 8), (29, 20, 3, 3), pads=ONES, strides=(2, 1), x_type="uint8",
                                              out="uint8")),
    "byte matrices": Case(quantized_matmul((3, 21, 80), (80, 48), a_type="uint8")),
    "bytes to float16": Case(quantized_matmul((50, 96), (96, 72), out="float16", residual=False)),
}  # fmt: skip
"""By name."""


def with_windows() -> Case:
    """A convolution between two windows on wider tensors."""
    region = conv_region((2, 32, 9, 9), (24, 32, 3, 3), pads=ONES)
    x = TensorSpec("float16", (2, 32, 9, 9), (81 * 80, 1, 9 * 80, 80), align=16)
    y = TensorSpec("float16", (2, 24, 9, 9), (81 * 56, 1, 9 * 56, 56), align=16)
    return Case(region.with_specs({"x": x, "acc": y}))
