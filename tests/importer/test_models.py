"""Every real model of the zoo computes after import what it computed before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.onnx_text import Arrays, fixed, run
from support.real_models import real_model

from ingot.graph.dims import evaluate, symbols
from ingot.importer.load import import_model
from ingot.importer.versions import OPSET
from ingot.zoo.architectures import build, sample_inputs
from ingot.zoo.fetch import names
from ingot.zoo.inputs import sample_inputs as real_inputs

_DEAD_BRANCHES = ("silero_vad",)
"""ONNX Runtime refuses the file itself once its sizes are fixed: a branch that is never taken does not fit them."""


def _with_sizes(proto: onnx.ModelProto, feeds: Arrays) -> onnx.ModelProto:
    """With fixed sizes ONNX Runtime picks other kernels, so both sides must have them."""
    for value in proto.graph.input:
        if value.name in feeds:
            for dim, size in zip(value.type.tensor_type.shape.dim, feeds[value.name].shape, strict=True):
                dim.dim_value = size
    return proto


def _expect_same(wanted: list[np.ndarray], found: list[np.ndarray]) -> None:
    for want, got in zip(wanted, found, strict=True):
        assert (want.shape, want.dtype) == (got.shape, got.dtype)
        largest = float(np.abs(want.astype(np.float64)).max(initial=0.0))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(largest, 1.0))


def _expect_shapes(model: ir.Model, feeds: Arrays, found: list[np.ndarray]) -> None:
    """Where a shape is known, it is the one that came out."""
    sizes = {}
    for value in model.graph.inputs:
        for dim, size in zip(value.shape or (), feeds[str(value.name)].shape, strict=True):
            sizes[str(dim)] = size
    for value, array in zip(model.graph.outputs, found, strict=True):
        assert value.shape is None or len(value.shape) == array.ndim
        for dim, size in zip(value.shape or (), array.shape, strict=False):
            text = dim if isinstance(dim, int) else str(dim.value)
            if text != "None" and symbols(text) <= sizes.keys():
                assert evaluate(text, sizes) == size


@pytest.mark.models
@pytest.mark.parametrize("name", names())
def test_any_size(name: str) -> None:
    path, feeds = real_model(name), real_inputs(name)
    imported = import_model(path, any_size=True)
    assert imported.model.opset_imports[""] == OPSET
    # As written: what ONNX Runtime's optimiser makes of a model follows from how much of its shapes is known.
    wanted = run(path.read_bytes(), feeds, optimise=False)
    _expect_same(wanted, run(ir.to_proto(imported.model), feeds, optimise=False))
    _expect_shapes(imported.model, feeds, wanted)


@pytest.mark.models
@pytest.mark.parametrize("name", [name for name in names() if name not in _DEAD_BRANCHES])
def test_fixed_sizes(name: str) -> None:
    path, feeds = real_model(name), real_inputs(name)
    imported = import_model(path, tuple((key, fixed(*array.shape)) for key, array in feeds.items()))
    assert imported.ranges == ()
    wanted = run(_with_sizes(onnx.load(path), feeds), feeds)
    _expect_same(wanted, run(ir.to_proto(imported.model), feeds))
    _expect_shapes(imported.model, feeds, wanted)


@pytest.mark.parametrize("name", ["resnet_tiny", "mobilenet_tiny", "efficientnet_tiny", "bert_tiny", "vit_tiny"])
def test_architectures(name: str) -> None:
    proto = build(name)
    feeds = sample_inputs(proto, batch=3)
    imported = import_model(proto, any_size=True)
    wanted = run(proto, feeds)
    _expect_same(wanted, run(ir.to_proto(imported.model), feeds))
    _expect_shapes(imported.model, feeds, wanted)
    assert all(v.shape is not None for node in imported.model.graph for v in node.outputs)
