"""The first step: bytes to a protobuf message, and the fingerprint of what was read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]

from ingot.errors import IngotError
from ingot.importer.external import external_files

_MAX_BYTES = (1 << 31) - 1
"""Most bytes of one protobuf message."""


@dataclass(frozen=True)
class Source:
    """A parsed model, and where its external data is."""

    proto: onnx.ModelProto
    """Owned by the importer: it may be changed."""
    path: Path | None
    """The file, which external data lies beside; None for a model that was not read from a file."""
    name: str
    """How messages call the model."""
    sha256: str


def read(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """Reads ``source``. Raises IngotError for what is missing, empty, too large, truncated or not ONNX."""
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        _expect_graph(proto, "the model")
        return Source(proto, None, "the model", _fingerprint(_serialised(source), proto, None))
    if isinstance(source, bytes):
        name, path, content = "the model", None, source
    else:
        path = Path(source)
        name, content = path.name, _content(path)
    proto = _parsed(content, name)
    return Source(proto, path, name, _fingerprint(content, proto, path))


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            fix = "save it with external data (onnx.save(..., save_as_external_data=True))"
            raise IngotError(f"{path} has {size} bytes; an ONNX file holds at most {_MAX_BYTES}", fix=fix)
        return path.read_bytes()
    except FileNotFoundError:
        raise IngotError(f"there is no file {path}", fix="check the path of the model") from None
    except IsADirectoryError:
        raise IngotError(f"{path} is a folder", fix="give the ONNX file inside it") from None
    except (OSError, ValueError) as error:
        raise IngotError(f"cannot read {path}: {error}", fix="check the path and its permissions") from None


def _parsed(content: bytes, name: str) -> onnx.ModelProto:
    if not content:
        raise IngotError(f"{name} is empty", fix="export or download it again")
    if len(content) > _MAX_BYTES:
        raise IngotError(f"{name} has {len(content)} bytes; an ONNX file holds at most {_MAX_BYTES}")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, ValueError, RuntimeError):
        fix = "check that it is an ONNX model and was copied completely"
        raise IngotError(f"{name} is not an ONNX file, is truncated, or is nested too deep", fix=fix) from None
    _expect_graph(proto, name)
    return proto


def _expect_graph(proto: onnx.ModelProto, name: str) -> None:
    if not proto.HasField("graph") or not proto.ir_version:
        raise IngotError(f"{name} is not an ONNX model: it has no graph", fix="export the model to ONNX")
    if not proto.graph.output:
        raise IngotError(f"the graph of {name} has no output", fix="name at least one output of the model")


def _serialised(proto: onnx.ModelProto) -> bytes:
    try:
        return bytes(proto.SerializeToString(deterministic=True))
    except (EncodeError, ValueError, RuntimeError):
        fix = "save it with external data and give the path"
        raise IngotError("the model does not fit an ONNX file (2 GB, or 100 nested messages)", fix=fix) from None


def _fingerprint(content: bytes, proto: onnx.ModelProto, path: Path | None) -> str:
    """SHA-256 of the file; of its digest and those of the external files where there are any."""
    digest = hashlib.sha256(content)
    files = external_files(proto, path)
    if not files:
        return digest.hexdigest()
    whole = hashlib.sha256(digest.digest())
    for location, data in files:
        with data.open("rb") as file:
            whole.update(location.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
