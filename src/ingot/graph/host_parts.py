"""A host step in several parts: models run one after the other, each by the library that can run it."""

from __future__ import annotations

import msgspec

from ingot.errors import IngotError

_MAGIC = b"INGOTPARTS1"
BACKENDS = frozenset({"onnxruntime", "reference"})
"""What may run a part: ONNX Runtime, or ONNX's reference evaluator."""


class HostPart(msgspec.Struct, frozen=True):
    """One serialised ONNX model. ``inputs`` are names of the step's inputs or of outputs of earlier parts."""

    backend: str
    inputs: list[str]
    outputs: list[str]
    model: bytes


class HostParts(msgspec.Struct, frozen=True):
    """All parts of one host step, in the order in which they run."""

    inputs: list[str]
    outputs: list[str]
    parts: list[HostPart]


def encode(parts: HostParts) -> bytes:
    """What an engine file keeps in place of the step's model."""
    return _MAGIC + msgspec.msgpack.encode(parts)


def is_parts(content: bytes) -> bool:
    """Whether ``content`` was made by :func:`encode`: no ONNX model begins like that."""
    return content.startswith(_MAGIC)


def decode(content: bytes) -> HostParts:
    """The inverse of :func:`encode`. Raises IngotError for anything else: engine files may come from anywhere."""
    try:
        found = msgspec.msgpack.decode(content[len(_MAGIC) :], type=HostParts)
    except (msgspec.DecodeError, RecursionError) as error:
        raise IngotError(
            f"invalid engine: damaged parts of a host step: {error}", fix="build the engine again"
        ) from None
    there = set(found.inputs)
    for part in found.parts:
        if part.backend not in BACKENDS or not there.issuperset(part.inputs):
            raise IngotError("invalid engine: a part of a host step does not fit", fix="build the engine again")
        there.update(part.outputs)
    if not is_parts(content) or not there.issuperset(found.outputs):
        raise IngotError("invalid engine: parts of a host step lack an output", fix="build the engine again")
    return found
