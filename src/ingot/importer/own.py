"""Weights in memory of their own.

Tensors of a parsed message live and die together: while one of them is read, none is freed. Rewrites replace most
weights (normalisations go into them, then they become float16), and the old ones need not wait for the last.
"""

from __future__ import annotations

import gc

import onnx_ir as ir

_LARGE = 64 << 20
"""Bytes of weights from which on it is worth a tenth of a second to copy them, and to look for old ones."""
_PACKED = frozenset({"STRING", "INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"})
"""Types whose arrays are not the bytes of the tensor; such tensors are small."""


def own_weights(model: ir.Model) -> None:
    """Every tensor of ``model`` that was read from a message becomes an array, if they are large together."""
    if not _large(model):
        return
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _owned(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.TensorProtoTensor):
                    node.attributes[name] = ir.AttrTensor(name, _owned(attribute.value))


def free_copies(model: ir.Model) -> None:
    """Frees earlier forms of ``model`` that nobody holds, if its weights are large.

    Nodes and values refer to each other, so that Python would come across them much later.
    """
    if _large(model):
        gc.collect()


def _large(model: ir.Model) -> bool:
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None) >= _LARGE


def _owned(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.TensorProtoTensor) or tensor.dtype.name in _PACKED:
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)
