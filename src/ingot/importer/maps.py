"""Maps (the results of ZipMap, what DictVectorizer takes): a type that ``onnx_ir`` does not have."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from ingot.graph import dtypes

_KEY = "ingot.type"
"""Metadata of a value whose type is a map, or holds one: the type as a Plan writes it."""


def hide_maps(model: onnx.ModelProto) -> None:
    """Takes the types with maps off the values of ``model``, in place, and notes them beside."""
    for value in _values(model.graph):
        text = _text(value.type)
        if text is not None and "map(" in text:
            value.ClearField("type")
            value.metadata_props.append(onnx.StringStringEntryProto(key=_KEY, value=text))


def show_maps(model: onnx.ModelProto) -> None:
    """The inverse of :func:`hide_maps`, for libraries that know maps."""
    for value in _values(model.graph):
        for position, entry in enumerate(value.metadata_props):
            if entry.key == _KEY:
                value.type.CopyFrom(_type(entry.value))
                del value.metadata_props[position]
                break


def hidden_type(value: ir.Value) -> str | None:
    """The type that :func:`hide_maps` noted."""
    return value.metadata_props.get(_KEY)


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from (*graph.input, *graph.output, *graph.value_info)


def _text(declared: onnx.TypeProto) -> str | None:
    match declared.WhichOneof("value"):
        case "tensor_type":
            return dtypes.any_from_onnx(declared.tensor_type.elem_type)
        case "map_type":
            key = dtypes.any_from_onnx(declared.map_type.key_type)
            value = _text(declared.map_type.value_type)
            return f"map({key},{value})" if key is not None and value is not None else None
        case "sequence_type":
            inner = _text(declared.sequence_type.elem_type)
            return None if inner is None else f"sequence({inner})"
        case "optional_type":
            inner = _text(declared.optional_type.elem_type)
            return None if inner is None else f"optional({inner})"
    return None


def _type(text: str) -> onnx.TypeProto:
    found = onnx.TypeProto()
    outer = dtypes.nested(text)
    if outer is None:
        found.tensor_type.elem_type = dtypes.onnx_code(text)
    elif outer[0] == "sequence":
        found.sequence_type.elem_type.CopyFrom(_type(outer[1]))
    elif outer[0] == "optional":
        found.optional_type.elem_type.CopyFrom(_type(outer[1]))
    else:
        key, _, value = outer[1].partition(",")
        found.map_type.key_type = dtypes.onnx_code(key)
        found.map_type.value_type.CopyFrom(_type(value))
    return found
