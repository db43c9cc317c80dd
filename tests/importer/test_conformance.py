"""The node tests of ONNX, through the importer: same results, and no inferred shape that does not come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from support.onnx_text import Arrays, run

from ingot.errors import IngotError
from ingot.graph.dims import evaluate, symbols
from ingot.importer.infer import infer_shapes
from ingot.importer.load import import_model
from ingot.measure.conformance.cases import Case, node_cases

_ASSUMED = ("test_and_bcast4v4d", "test_or_bcast4v4d", "test_xor_bcast4v4d")
"""Dimensions of two inputs that are combined count as equal; the importer then makes them one symbol."""


def _feeds(case: Case) -> Arrays:
    return case.data[0][0]


def _wanted(case: Case) -> list[Any] | None:
    """What ONNX Runtime computes; None where it refuses the case."""
    try:
        return run(case.model, _feeds(case))
    except Exception:
        return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if not isinstance(a, np.ndarray):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "OU":
        return bool((a == b).all())
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    return np.allclose(a.astype(wide), b.astype(wide), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.nightly
def test_results_stay() -> None:
    checked = 0
    for case in node_cases():
        wanted = _wanted(case)
        if wanted is not None:
            imported = import_model(case.model, any_size=True)
            assert _same(wanted, run(ir.to_proto(imported.model), _feeds(case))), case.name
            checked += 1
    assert checked > 1400


@pytest.mark.nightly
@pytest.mark.parametrize("constants", [False, True])
def test_inferred_shapes_hold(constants: bool) -> None:
    checked = 0
    for case in node_cases():
        wanted = _wanted(case)
        if wanted is None or case.name in _ASSUMED:
            continue
        proto, sizes = _symbolic(case, constants)
        model = ir.from_proto(proto)
        try:
            infer_shapes(model)
        except IngotError:
            continue
        for value, array in zip(model.graph.outputs, wanted, strict=True):
            if isinstance(array, np.ndarray) and value.shape is not None:
                assert len(value.shape) == array.ndim, case.name
                for dim, size in zip(value.shape, array.shape, strict=True):
                    text = dim if isinstance(dim, int) else str(dim.value)
                    if symbols(text) <= sizes.keys():
                        assert evaluate(text, sizes) == size, (case.name, value.shape, array.shape)
                        checked += 1
    assert checked > 2500


def _symbolic(case: Case, constants: bool) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model with a symbol for every dimension of its inputs; with ``constants``, small inputs become weights."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    sizes: dict[str, int] = {}
    for value in list(proto.graph.input):
        array = _feeds(case)[value.name]
        if not isinstance(array, np.ndarray) or value.type.WhichOneof("value") != "tensor_type":
            continue
        if (
            constants
            and len(proto.graph.input) > 1
            and (array.size == 1 or (array.dtype.kind == "i" and array.ndim < 2))
        ):
            proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
            proto.graph.input.remove(value)
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"
            sizes[dim.dim_param] = array.shape[axis]
    return proto, sizes
