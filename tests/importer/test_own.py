"""Weights are freed when nobody reads them any more, and not with the last of the message they were read from."""

from __future__ import annotations

import weakref

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from ingot.importer import own
from ingot.importer.load import import_model
from ingot.passes.pipeline import canonicalise
from ingot.zoo import architectures


def test_tensors_keep_type_shape_and_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_LARGE", 0)
    types = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT64", "INT8", "UINT8", "BOOL", "FLOAT8E4M3FN", "INT4")
    tensors = [helper.make_tensor(name, getattr(TensorProto, name), (2, 2), [0, 1, 1, 0]) for name in types]
    tensors.append(helper.make_tensor("STRING", TensorProto.STRING, (2,), [b"a", b"b"]))
    constant = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.arange(3.0), "c"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, (3,))]
    proto = helper.make_model(helper.make_graph([constant], "g", [], outputs, tensors))
    model, same = ir.from_proto(proto), ir.from_proto(proto)
    own.own_weights(model)
    for name, value in model.graph.initializers.items():
        tensor, before = value.const_value, same.graph.initializers[name].const_value
        assert tensor is not None and before is not None
        assert isinstance(tensor, ir.Tensor) is (name not in ("INT4", "STRING"))
        assert (tensor.dtype, tensor.shape, tensor.name) == (before.dtype, before.shape, before.name)
        assert np.array_equal(tensor.numpy(), before.numpy())
    (node,) = model.graph
    assert isinstance(node.attributes["value"].value, ir.Tensor)


def test_small_weights_are_read_where_they_are() -> None:
    proto = helper.make_model(helper.make_graph([], "g", [], [], [numpy_helper.from_array(np.arange(3.0), "w")]))
    model = ir.from_proto(proto)
    before = model.graph.initializers["w"].const_value
    own.own_weights(model)
    assert model.graph.initializers["w"].const_value is before


def test_weights_that_passes_replace_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_LARGE", 0)
    imported = import_model(architectures.build("resnet_tiny"))
    tensors = [v.const_value for v in imported.model.graph.initializers.values()]
    filters = [t for t in tensors if t is not None and len(t.shape) == 4]
    left = [weakref.ref(tensor) for tensor in filters]
    del tensors, filters
    assert len(left) > 10 and all(ref() is not None for ref in left)
    canonicalise(imported.model, fp16=True, keep=False)
    assert not any(ref() is not None for ref in left)


def test_a_model_that_is_kept_keeps_its_weights() -> None:
    imported = import_model(architectures.build("resnet_tiny"))
    canonicalise(imported.model, fp16=True)
    assert all(value.const_value is not None for value in imported.model.graph.initializers.values())
