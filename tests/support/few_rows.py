"""Products of one to eight rows, of odd sizes too, for kernels that are made for them."""

from __future__ import annotations

import numpy as np
from support.products import GELU, NHWC, RELU, SILU, Case
from support.regions import Op, conv_region, gemm_region, random_inputs

from ingot.graph.region import Region
from ingot.graph.tensor import TensorSpec, spec

_CAST = (Op("Cast", ("acc",), "out", (("to", 1),)),)
_BIASED = (Op("Add", ("acc", "c"), "biased"), Op("Add", ("biased", "r"), "out"))


def _extras(rows: int, cols: int, dtype: str = "float16") -> dict[str, TensorSpec]:
    return {"c": spec(dtype, (cols,), constant=True), "r": spec(dtype, (rows, cols))}


def _classifier(rows: int, depth: int, cols: int, dtype: str = "float16") -> Case:
    """Weights as fully connected layers have them: the depth contiguous."""
    return Case(gemm_region((rows, depth), (depth, cols), dtype=dtype, b_order=(1, 0), epilogue=_BIASED,
                            extras=_extras(rows, cols, dtype)))  # fmt: skip


CASES = {
    "classifier": _classifier(1, 264, 101),
    "three rows": _classifier(3, 200, 64),
    "eight rows, bfloat16": _classifier(8, 136, 33, "bfloat16"),
    "float32": _classifier(5, 92, 40, "float32"),
    "odd depth": _classifier(2, 77, 19),
    "depth of six": _classifier(7, 6, 50),
    "depth of one": _classifier(1, 1, 9),
    "one column": _classifier(4, 300, 1),
    "columns contiguous": Case(gemm_region((1, 264), (264, 104), epilogue=GELU)),
    "columns contiguous, float32": Case(gemm_region((6, 45), (45, 36), dtype="float32", epilogue=RELU)),
    "odd columns": Case(gemm_region((2, 70), (70, 41), epilogue=RELU)),
    "squeeze": Case(conv_region((1, 240, 1, 1), (10, 240, 1, 1), epilogue=SILU)),
    "excite": Case(conv_region((2, 10, 1, 1), (240, 10, 1, 1), epilogue=(Op("Sigmoid", ("acc",), "out"),))),
    "pixels": Case(conv_region((1, 24, 2, 3), (20, 24, 1, 1), epilogue=_CAST)),
    "planes": Case(conv_region((2, 24, 1, 3), (20, 24, 1, 1), x_order=(0, 1, 2, 3))),
    "rows contiguous": Case(gemm_region((4, 56), (56, 24), a_order=(1, 0), epilogue=_CAST)),
    "attention": Case(gemm_region((2, 3, 1, 64), (2, 3, 64, 40), b_order=(0, 1, 3, 2), constant_b=False)),
    "values": Case(gemm_region((2, 3, 1, 40), (2, 3, 40, 64), constant_b=False)),
    "one for all": Case(gemm_region((4, 2, 32), (1, 32, 48), epilogue=RELU)),
    "symbolic": Case(gemm_region(("N", 2, "S"), ("N", "S", 32), constant_b=False), {"N": 3, "S": 43}),
    "two results": Case(gemm_region((1, 32), (32, 40), epilogue=(Op("Mul", ("acc", "two"), "twice"),
                                    Op("Relu", ("twice",), "out")), literals={"two": 2.0}, outputs=("acc", "out"))),
    "scaled": Case(conv_region((3, 16, 1, 1), (24, 16, 1, 1), epilogue=(Op("Mul", ("acc", "s"), "out"),),
                               extras={"s": spec("float16", (3, 24, 1, 1), NHWC)})),
    "deep": _classifier(1, 5000, 12),
}  # fmt: skip
"""By name."""


def exact(region: Region, inputs: list[np.ndarray]) -> np.ndarray:
    """A ``_classifier``'s result in float64."""
    a, b, c, r = (x.astype(np.float64) for x in inputs)
    assert region.inputs == ("a", "b", "c", "r")
    return a @ b + c + r


def row_case(rows: int, depth: int, cols: int, dtype: str) -> tuple[Region, list[np.ndarray]]:
    """A classifier and its inputs."""
    case = _classifier(rows, depth, cols, dtype)
    inputs = random_inputs(case.region, seed=rows + depth)
    inputs[1] = (inputs[1].astype(np.float32) / depth**0.5).astype(inputs[1].dtype)
    return case.region, inputs
