"""Region bodies in the engine file: what the simulator and ``ingot compare`` run instead of a kernel.

A Region of fixed shapes is stored as a small ONNX model. One with symbolic dimensions is stored as
the Region itself, in JSON, because its parameters (slice bounds, target shapes) become numbers
only when shapes are bound; :func:`ingot.graph.reference.region_model` then makes the model. The first byte
tells them apart: JSON starts with ``{``, an ONNX model never does. A plugin's op is stored as its record.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ingot.graph.dims import is_static
from ingot.graph.region import BodyOp, Kind, Region
from ingot.graph.tensor import TensorSpec
from ingot.plugins.record import record_of


def body_bytes(region: Region) -> bytes:
    """The stored form of a Region (in its canonical names, so that equal bodies are stored once)."""
    region = region.canonical
    if region.kind is Kind.PLUGIN:
        return record_of(region)
    if not fixed(region):
        return json.dumps(asdict(region), sort_keys=True, separators=(",", ":")).encode()
    from ingot.graph.reference import region_model

    return bytes(region_model(region, {}).SerializeToString(deterministic=True))


def fixed(region: Region) -> bool:
    """Whether nothing in the Region depends on a symbolic dimension."""
    shapes = all(is_static(spec.shape) for _, spec in region.values)
    parameters = [value for _, value in region.literals] + [value for op in region.ops for _, value in op.attrs]
    return shapes and not any(isinstance(p, tuple) and any(isinstance(item, str) for item in p) for p in parameters)


def is_region(body: bytes) -> bool:
    """Whether a stored body is a Region rather than an ONNX model."""
    return body[:1] == b"{"


def read_region(body: bytes) -> Region:
    """The inverse of :func:`body_bytes` for a Region in JSON."""
    data = json.loads(body)
    return Region(
        kind=Kind(data["kind"]),
        name=data["name"],
        inputs=tuple(data["inputs"]),
        outputs=tuple(data["outputs"]),
        ops=tuple(
            BodyOp(op["op"], tuple(op["inputs"]), tuple(op["outputs"]), _pairs(op["attrs"]), op["domain"])
            for op in data["ops"]
        ),
        values=tuple((name, _spec(spec)) for name, spec in data["values"]),
        literals=_pairs(data["literals"]),
        opset=data["opset"],
    )


def _spec(data: dict[str, Any]) -> TensorSpec:
    return TensorSpec(data["dtype"], tuple(data["shape"]), tuple(data["strides"]), data["align"], data["constant"])


def _pairs(rows: list[list[Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in rows)
