"""A plugin's op as an engine keeps it: name, version and attributes, no code. And its reference, run from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ingot.errors import IngotError
from ingot.graph import dtypes
from ingot.graph.region import BodyOp, Region
from ingot.graph.tensor import TensorSpec
from ingot.plugins.api import Array, Attrs, Node, Plugin, TensorInfo
from ingot.plugins.registry import Plugins, active

_MARK = b"plugin\0"
"""No ONNX model and no Region in JSON begins like this."""
_HALVES = frozenset({"float16", "bfloat16"})


class Record(msgspec.Struct, frozen=True):
    """One use of a plugin's op."""

    domain: str
    name: str
    version: str
    attrs: dict[str, bool | int | float | str | list[int | float | str]]
    operands: list[int]
    """For each input of the op the position among what the step reads; -1 where it is absent."""
    results: list[int]
    """For each Value that the step writes the position among the op's outputs."""
    dtypes: list[str]
    """Of the Values that the step writes."""

    @property
    def attributes(self) -> Attrs:
        """The attributes as the plugin takes them."""
        return {k: tuple(v) if isinstance(v, list) else v for k, v in self.attrs.items()}  # type: ignore[misc]

    def arrange(self, given: Sequence[Any]) -> list[Any]:
        """What the step reads, in the order of the op's inputs."""
        return [None if i < 0 else given[i] for i in self.operands]


def record(plugin: Plugin, op: BodyOp, reads: Sequence[str], writes: Sequence[str], types: Sequence[str]) -> bytes:
    """The stored form of ``op``. ``types``: element types of ``writes``."""
    made = Record(
        domain=plugin.domain,
        name=plugin.name,
        version=plugin.version,
        attrs={k: list(v) if isinstance(v, tuple) else v for k, v in op.attrs},
        operands=[reads.index(name) if name else -1 for name in op.inputs],
        results=[op.outputs.index(name) for name in writes],
        dtypes=list(types),
    )
    return _MARK + msgspec.json.encode(made)


def plugin_of(region: Region) -> Plugin:
    """The plugin of a Region's one op. It is active, since the Region was made with it."""
    op = region.ops[0]
    plugin = active().find(op.domain, op.op)
    assert plugin is not None, f"the plugin {op.op} is no longer active"
    return plugin


def record_of(region: Region) -> bytes:
    """The stored form of a Region's one op."""
    types = [spec.dtype for spec in region.output_specs]
    return record(plugin_of(region), region.ops[0], region.inputs, region.outputs, types)


def is_record(content: bytes) -> bool:
    """Whether stored bytes are a plugin's op."""
    return content[: len(_MARK)] == _MARK


def read_record(content: bytes) -> Record:
    """The inverse of :func:`record`. Raises IngotError for anything else."""
    try:
        found = msgspec.json.decode(content[len(_MARK) :], type=Record)
    except msgspec.MsgspecError as error:
        raise IngotError(f"a plugin's record in the engine is damaged: {error}", fix="build the engine again") from None
    if len(found.results) != len(found.dtypes) or any(name not in dtypes.TABLE for name in found.dtypes):
        raise IngotError("a plugin's record in the engine is damaged", fix="build the engine again")
    return found


def reference(content: bytes, plugins: Plugins, where: str) -> Callable[[Sequence[Array]], list[Array]]:
    """The plugin's NumPy reference as a function of what the step reads. Raises IngotError where it is missing."""
    found = read_record(content)
    plugin = plugins.require(found.domain, found.name, found.version, where)

    def call(arrays: Sequence[Array]) -> list[Array]:
        made = run_reference(plugin, found.attributes, found.arrange(arrays))
        _check_count(plugin, found, made)
        return [stored(made[i], dtype) for i, dtype in zip(found.results, found.dtypes, strict=True)]

    return call


def _check_count(plugin: Plugin, found: Record, made: Sequence[Array]) -> None:
    if max(found.results, default=-1) >= len(made):
        raise IngotError(f"its reference gives {len(made)} results", node=f"plugin {plugin.op}")


def run_reference(plugin: Plugin, attrs: Attrs, arrays: Sequence[Array | None]) -> list[Array]:
    """All results of the reference, as it gives them; 16-bit floats are computed in float32."""
    wide = [a.astype(np.float32) if a is not None and a.dtype.name in _HALVES else a for a in arrays]
    return [np.asarray(a) for a in plugin.reference(attrs, wide)]


def stored(array: Array, dtype: str) -> Array:
    """``array`` in the declared type."""
    with np.errstate(over="ignore"):
        return array.astype(dtypes.numpy_dtype(dtype), copy=False)


def node_of(plugin: Plugin, op: BodyOp, spec_of: Mapping[str, TensorSpec]) -> Node:
    """``op`` as the plugin's functions see it when kernels are made."""

    def info(name: str) -> TensorInfo | None:
        spec = spec_of.get(name)
        return None if spec is None else TensorInfo(spec.dtype, spec.shape, spec.strides, spec.align)

    attrs = plugin.filled(dict(op.attrs), op.op)
    return Node(tuple(map(info, op.inputs)), tuple(map(info, op.outputs)), attrs)
